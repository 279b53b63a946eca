//! An HTTP server of a test: between a client and a node, or in place of a store.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
};

use cascade_light::{Ask, Reply};
use cascade_primitives::{Decode as _, Encode as _};
use cascade_sequencer::light::http;
use tokio::runtime::Runtime;

/// What becomes of a request.
pub enum Say {
    /// A status line's code and reason, and a body.
    Answer(&'static str, Vec<u8>),
    /// The connection is closed without an answer.
    Close,
    /// It is kept open without one.
    Hold,
}

/// Serves on a port of its own, one request after the other; answers the URL. What answers gets a request's head and body.
pub fn serve(mut answer: impl FnMut(&str, Vec<u8>) -> Say + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let Some((head, body)) = read(&mut stream) else { continue };
            match answer(&head, body) {
                Say::Answer(status, body) => {
                    // The tag and the date are what a store has to say.
                    let head = format!(
                        "HTTP/1.1 {status}\r\netag: \"1\"\r\nlast-modified: Sat, 21 Nov 2026 12:00:00 GMT\r\n\
                         content-length: {}\r\nconnection: close\r\n\r\n",
                        body.len()
                    );
                    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
                }
                Say::Close => {}
                Say::Hold => held.push(stream),
            }
        }
    });
    format!("http://{address}")
}

/// The head and the body of an HTTP message.
pub fn read(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let fields = head.lines().filter_map(|line| line.split_once(':'));
            let length = fields.clone().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
            let length: usize = length.map_or(Some(0), |(_, length)| length.trim().parse().ok())?;
            if bytes.len() >= end + 4 + length {
                return Some((head, bytes[end + 4..end + 4 + length].to_vec()));
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
        }
    }
}

/// What a node answers.
pub fn ask(runtime: &Runtime, target: &str, ask: &Ask) -> Option<Reply> {
    runtime.block_on(http::ask(target, ask)).ok().map(|(reply, _)| reply)
}

/// A node's `/light` with something between: what answers gets a runtime, the node's HOST:PORT and the request.
pub fn middleman(
    target: String,
    mut answer: impl FnMut(&Runtime, &str, &Ask) -> Option<Reply> + Send + 'static,
) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    serve(move |_, body| {
        let reply = Ask::from_slice(&body).ok().and_then(|asked| answer(&runtime, &target, &asked));
        reply.map_or(Say::Close, |reply| Say::Answer("200 OK", reply.to_bytes()))
    })
}
