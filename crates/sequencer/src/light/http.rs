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

/// Why a request has no answer.
#[derive(Debug, Error)]
pub enum AskError {
    /// No connection, or it broke.
    #[error("{0}")]
    Transport(String),
    /// The node is too busy, or keeps no door.
    #[error("HTTP {0}")]
    Refused(StatusCode),
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
    let transport = |error: &dyn std::error::Error| AskError::Transport(crate::cli::with_sources(error));
    let stream = TcpStream::connect(authority).await.map_err(|error| transport(&error))?;
    stream.set_nodelay(true).map_err(|error| transport(&error))?;
    let read = Arc::new(AtomicU64::new(0));
    let counted = Counted { inner: stream, read: Arc::clone(&read) };
    let (mut sender, connection) = http1::handshake(TokioIo::new(counted)).await.map_err(|error| transport(&error))?;
    let driver = tokio::spawn(connection);
    let request = Request::post("/light")
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONNECTION, "close")
        .body(Full::new(Bytes::from(ask.to_bytes())))
        .map_err(|error| transport(&error))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| transport(&error))?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(AskError::Refused(status));
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
    Ok((answer?, read.load(Ordering::Relaxed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_host_and_a_port() {
        assert_eq!(authority("http://127.0.0.1:8545"), Some("127.0.0.1:8545"));
        assert_eq!(authority("http://[::1]:9/"), Some("[::1]:9"));
        for wrong in ["https://a:1", "http://a", "http://", "http://a:1/x", "ws://a:1"] {
            assert_eq!(authority(wrong), None, "{wrong}");
        }
    }
}
