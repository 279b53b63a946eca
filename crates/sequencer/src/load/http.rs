//! JSON-RPC over HTTP connections that stay open, with as little work as possible for each request.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// One connection to a node.
pub(super) struct Connection {
    authority: String,
    sender: http1::SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Connects to the node of a URL.
    pub(super) async fn open(url: &str) -> Result<Self, String> {
        let authority = url.strip_prefix("http://").ok_or("the URL must start with http://")?;
        let authority = authority.trim_end_matches('/').to_owned();
        let stream = TcpStream::connect(&authority).await.map_err(|error| format!("{url}: {error}"))?;
        stream.set_nodelay(true).map_err(|error| format!("{url}: {error}"))?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| format!("{url}: {error}"))?;
        tokio::spawn(connection);
        Ok(Self { authority, sender })
    }

    /// Posts a request or batch, and answers the body.
    pub(super) async fn post(&mut self, body: Bytes) -> Result<Bytes, String> {
        let failed = |error: hyper::Error| format!("{}: {error}", self.authority);
        self.sender.ready().await.map_err(failed)?;
        let request = Request::post("/")
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        let response =
            self.sender.send_request(request).await.map_err(|error| format!("{}: {error}", self.authority))?;
        let status = response.status();
        let body =
            response.into_body().collect().await.map_err(|error| format!("{}: {error}", self.authority))?.to_bytes();
        if status.is_success() {
            Ok(body)
        } else {
            let words: String = String::from_utf8_lossy(&body).chars().take(200).collect();
            Err(format!("{}: HTTP {status}: {words}", self.authority))
        }
    }
}
