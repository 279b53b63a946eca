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
//! over the directory is enough for others. Files are written whole, synced and then renamed. In place of DIR, an
//! S3-compatible [`bucket`] holds the same files as objects.

pub mod bucket;
pub(crate) mod publish;
pub mod rebuild;
mod seals;
mod web;

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use bucket::{Bucket, BucketError};
use bytes::Bytes;
use cascade_da::batch::MAX_PIECE_BYTES;
use cascade_primitives::Height;
use thiserror::Error;
use web::Web;

use crate::config::BUCKET_SCHEME;

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
    /// A directory that an HTTP server shows: its URL.
    Web(Box<WebDirectory>),
    /// A bucket.
    Bucket(Bucket),
}

/// A directory behind an HTTP server.
#[derive(Clone, Debug)]
pub struct WebDirectory {
    url: String,
    web: Web,
}

impl Source {
    /// A directory, a URL that begins with http:// or https://, or one of a bucket: s3://.
    ///
    /// # Errors
    /// [`BucketError`] if it is a bucket that cannot be used.
    pub fn parse(text: &str) -> Result<Self, BucketError> {
        if text.starts_with(BUCKET_SCHEME) {
            return Bucket::open(text).map(Self::Bucket);
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            let url = text.trim_end_matches('/').to_owned();
            return Ok(Self::Web(Box::new(WebDirectory { url, web: Web::new() })));
        }
        Ok(Self::Directory(PathBuf::from(text)))
    }

    /// A file; none if it is not there.
    ///
    /// # Errors
    /// [`ReadError`], also if it is longer than `limit`.
    pub async fn get(&self, name: &str, limit: usize) -> Result<Option<Bytes>, ReadError> {
        let found = match self {
            Self::Directory(dir) => read_file(&dir.join(name), limit),
            Self::Web(directory) => directory.web.get(&format!("{}/{name}", directory.url), limit).await,
            Self::Bucket(bucket) => bucket.get(name, limit).await,
        };
        found.map_err(|what| ReadError { name: name.to_owned(), what })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_directories_or_urls() {
        assert!(matches!(Source::parse("some/dir"), Ok(Source::Directory(_))));
        for (text, url) in
            [("http://example.org/a/b/", "http://example.org/a/b"), ("https://[::1]:9", "https://[::1]:9")]
        {
            let Ok(Source::Web(directory)) = Source::parse(text) else { panic!("{text}: a URL") };
            assert_eq!(directory.url, url);
        }
        assert!(matches!(Source::parse("s3://a"), Err(BucketError::Url { .. })));
    }

    #[test]
    fn names_sort_as_heights_do() {
        assert!(manifest_name(Height(9)) < manifest_name(Height(10)));
        assert!(piece_name(Height(9), 9) < piece_name(Height(9), 10));
    }
}
