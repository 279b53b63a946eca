//! One request to a node's door for light clients, over a connection of its own.
//!
//! Every request opens a connection and closes it: what one client asks cannot be put together from its connections. It
//! can from its address, unless the client sits behind something that hides it (docs/light-client.md).

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use cascade_light::{Ask, Reply};
use cascade_primitives::{Decode as _, Encode as _};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// What requests and answers are sent as.
const CONTENT_TYPE: &str = "application/octet-stream";

/// Why a request has no answer.
#[derive(Debug, Error)]
pub enum AskError {
    /// No connection, or it broke.
    #[error("{0}")]
    Transport(String),
    /// The node is too busy, or keeps no door.
    #[error("HTTP {0}")]
    Refused(StatusCode),
    /// What answers is no node: something between here and there, such as the page on which a network wants its users to
    /// sign in.
    #[error("what answers is no node: it sends {0}")]
    Foreign(String),
    /// What came is no answer.
    #[error("bytes that are no answer: {0}")]
    Hostile(String),
}

/// A stream that counts what it reads.
struct Counted {
    inner: TcpStream,
    read: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.read.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        result
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// HOST:PORT of a URL.
#[must_use]
pub fn authority(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("http://")?.trim_end_matches('/');
    (!rest.is_empty() && !rest.contains('/') && rest.contains(':')).then_some(rest)
}

/// Asks a node; answers what it says and how many bytes came.
///
/// # Errors
/// [`AskError`].
pub async fn ask(authority: &str, ask: &Ask) -> Result<(Reply, u64), AskError> {
    let read = Arc::default();
    let reply = ask_counted(authority, ask, &read).await?;
    Ok((reply, read.load(Ordering::Relaxed)))
}

/// Asks a node, and adds the bytes that came to `read` as they come, whatever becomes of the request.
///
/// # Errors
/// [`AskError`].
pub async fn ask_counted(authority: &str, ask: &Ask, read: &Arc<AtomicU64>) -> Result<Reply, AskError> {
    let transport = |error: &dyn std::error::Error| AskError::Transport(crate::cli::with_sources(error));
    let stream = TcpStream::connect(authority).await.map_err(|error| transport(&error))?;
    stream.set_nodelay(true).map_err(|error| transport(&error))?;
    let counted = Counted { inner: stream, read: Arc::clone(read) };
    let (mut sender, connection) = http1::handshake(TokioIo::new(counted)).await.map_err(|error| transport(&error))?;
    let driver = tokio::spawn(connection);
    let request = Request::post("/light")
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, CONTENT_TYPE)
        .header(header::CONNECTION, "close")
        .body(Full::new(Bytes::from(ask.to_bytes())))
        .map_err(|error| transport(&error))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| transport(&error))?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(AskError::Refused(status));
        }
        let kind = response.headers().get(header::CONTENT_TYPE);
        if let Some(other) = kind.filter(|kind| kind.as_bytes() != CONTENT_TYPE.as_bytes()) {
            let other = String::from_utf8_lossy(other.as_bytes()).chars().take(60).collect();
            return Err(AskError::Foreign(other));
        }
        let body = Limited::new(response.into_body(), ask.max_reply()).collect().await;
        let body = body.map_err(|error| {
            let too_long = error.downcast_ref::<http_body_util::LengthLimitError>().is_some();
            if too_long {
                AskError::Hostile(format!("more than {} bytes", ask.max_reply()))
            } else {
                AskError::Transport(error.to_string())
            }
        })?;
        Reply::from_slice(&body.to_bytes()).map_err(|error| AskError::Hostile(error.to_string()))
    };
    let answer = answer.await;
    driver.abort();
    answer
}

#[cfg(test)]
mod tests {
    use cascade_light::{ChainRequest, ask::MAX_REPLY_BYTES};
    use cascade_primitives::Epoch;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// What becomes of a request about handovers that is answered with these bytes of HTTP, and the bytes that came.
    async fn answered(http: Vec<u8>) -> (Result<Reply, AskError>, u64) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let authority = listener.local_addr().expect("it listens").to_string();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = [0; 4096];
            let _begun = stream.read(&mut request).await.expect("a request");
            // The client may hang up before it has read all.
            let _ = stream.write_all(&http).await;
        });
        let (read, ask) = (Arc::default(), Ask::Chain(ChainRequest::Handovers { from: Epoch(0) }));
        let reply = ask_counted(&authority, &ask, &read).await;
        server.await.expect("the server does not fail");
        (reply, read.load(Ordering::Relaxed))
    }

    fn http(kind: &str, body: &[u8]) -> Vec<u8> {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n", body.len());
        [head.as_bytes(), body].concat()
    }

    #[tokio::test]
    async fn a_page_on_which_to_sign_in_is_no_lie_of_a_node_and_its_bytes_are_counted() {
        let (reply, read) = answered(http("text/html; charset=utf-8", b"<html>sign in</html>")).await;
        assert!(matches!(reply, Err(AskError::Foreign(_))), "{reply:?}");
        assert!(read > 80, "{read}");
        let (reply, _) = answered(http(CONTENT_TYPE, b"<html>sign in</html>")).await;
        assert!(matches!(reply, Err(AskError::Hostile(_))), "{reply:?}");
        let (reply, _) = answered(http(CONTENT_TYPE, &Reply::Noted.to_bytes())).await;
        assert!(matches!(reply, Ok(Reply::Noted)), "{reply:?}");
    }

    #[tokio::test]
    async fn an_answer_about_the_chain_may_be_longer_than_one_about_data() {
        // Whatever it holds: what is read here is how much may come.
        let (reply, read) = answered(http(CONTENT_TYPE, &vec![9; MAX_REPLY_BYTES + 1])).await;
        assert!(matches!(&reply, Err(AskError::Hostile(what)) if !what.starts_with("more than")), "{reply:?}");
        assert!(read > MAX_REPLY_BYTES as u64);
    }

    #[test]
    fn urls_name_a_host_and_a_port() {
        assert_eq!(authority("http://127.0.0.1:8545"), Some("127.0.0.1:8545"));
        assert_eq!(authority("http://[::1]:9/"), Some("[::1]:9"));
        for wrong in ["https://a:1", "http://a", "http://", "http://a:1/x", "ws://a:1"] {
            assert_eq!(authority(wrong), None, "{wrong}");
        }
    }
}
