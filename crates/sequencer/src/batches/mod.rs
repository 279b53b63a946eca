//! Published batches: where they lie, how a node writes them, and how anybody rebuilds the chain's state from them alone.
//!
//! ```text
//!   DIR/genesis.json                          the chain
//!   DIR/newest                                first height of the newest batch: written last, so all before it is there
//!   DIR/batch-00000000000000000001/manifest   cascade_da::batch::Manifest
//!   DIR/batch-00000000000000000001/piece-00000 ...
//! ```
//!
//! The next batch begins one above the last height of the one before it, so nothing has to be listed: a plain HTTP server
//! over the directory is enough for others. Files are written whole, synced and then renamed.

pub(crate) mod publish;
pub mod rebuild;

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use cascade_da::batch::MAX_PIECE_BYTES;
use cascade_primitives::Height;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;

/// The chain.
pub const GENESIS: &str = "genesis.json";
/// The first height of the newest batch, in decimal.
pub const NEWEST: &str = "newest";

/// Longest file but for pieces: a manifest with all its pieces and fillers, or a genesis file of an ordinary size.
const MAX_FILE_BYTES: usize = 64 << 20;

/// The name of a batch's manifest.
#[must_use]
pub fn manifest_name(first: Height) -> String {
    format!("batch-{:020}/manifest", first.0)
}

/// The name of a piece.
#[must_use]
pub fn piece_name(first: Height, piece: usize) -> String {
    format!("batch-{:020}/piece-{piece:05}", first.0)
}

/// A file that cannot be read.
#[derive(Debug, Error)]
#[error("{name}: {what}")]
pub struct ReadError {
    /// Which one.
    pub name: String,
    /// Why.
    pub what: String,
}

/// Where batches are read from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A directory.
    Directory(PathBuf),
    /// A directory that an HTTP server shows, by HOST:PORT and path.
    Http(String, String),
}

impl Source {
    /// A directory, or a URL beginning with http://.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.strip_prefix("http://") {
            Some(rest) => {
                let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
                let authority = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
                Self::Http(authority, path.trim_end_matches('/').to_owned())
            }
            None => Self::Directory(PathBuf::from(text)),
        }
    }

    /// A file; none if it is not there.
    ///
    /// # Errors
    /// [`ReadError`], also if it is longer than `limit`.
    pub async fn get(&self, name: &str, limit: usize) -> Result<Option<Bytes>, ReadError> {
        let failed = |what: String| ReadError { name: name.to_owned(), what };
        match self {
            Self::Directory(dir) => read_file(&dir.join(name), limit).map_err(failed),
            Self::Http(authority, path) => {
                let path = if path.is_empty() { format!("/{name}") } else { format!("/{path}/{name}") };
                fetch(authority, &path, limit).await.map_err(failed)
            }
        }
    }

    /// A piece; none if it is not there.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn piece(&self, first: Height, piece: usize) -> Result<Option<Bytes>, ReadError> {
        self.get(&piece_name(first, piece), MAX_PIECE_BYTES).await
    }
}

fn read_file(path: &Path, limit: usize) -> Result<Option<Bytes>, String> {
    let length = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if length > limit as u64 {
        return Err(format!("{length} bytes, the limit is {limit}"));
    }
    std::fs::read(path).map(|bytes| Some(bytes.into())).map_err(|error| error.to_string())
}

async fn fetch(authority: &str, path: &str, limit: usize) -> Result<Option<Bytes>, String> {
    let failed = |error: &dyn std::error::Error| crate::cli::with_sources(error);
    let stream = TcpStream::connect(authority).await.map_err(|error| failed(&error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    tokio::spawn(connection);
    let request = Request::get(path)
        .header(header::HOST, authority)
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Ok(None),
        status => return Err(format!("HTTP {status}")),
    }
    let body = Limited::new(response.into_body(), limit).collect().await.map_err(|error| error.to_string())?;
    Ok(Some(body.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_directories_or_urls() {
        assert!(matches!(Source::parse("some/dir"), Source::Directory(_)));
        let Source::Http(authority, path) = Source::parse("http://example.org/a/b/") else { panic!("a URL") };
        assert_eq!((authority.as_str(), path.as_str()), ("example.org:80", "a/b"));
        let Source::Http(authority, path) = Source::parse("http://127.0.0.1:9") else { panic!("a URL") };
        assert_eq!((authority.as_str(), path.as_str()), ("127.0.0.1:9", ""));
    }

    #[test]
    fn names_sort_as_heights_do() {
        assert!(manifest_name(Height(9)) < manifest_name(Height(10)));
        assert!(piece_name(Height(9), 9) < piece_name(Height(9), 10));
    }
}
