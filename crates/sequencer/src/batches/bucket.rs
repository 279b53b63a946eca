//! An S3-compatible bucket, by the `object_store` crate.
//!
//! `s3://BUCKET/PREFIX` names it. Where it is and who may use it stands in the environment, under the names that other
//! programs read, so that no key is in a file or a command line of ours:
//!
//! | variable | |
//! |---|---|
//! | `AWS_ENDPOINT_URL` | http(s)://HOST:PORT of a store that is not Amazon's; the bucket is the path's first part |
//! | `AWS_REGION` | default `us-east-1` |
//! | `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` | both, or neither: then requests are not signed, which a public bucket lets read |
//! | `AWS_SESSION_TOKEN` | with temporary keys |
//!
//! Nothing here prints them: neither `Debug` nor an error, even if a store repeats them in an answer (Amazon's names the
//! id of a key that it refuses).

use std::{fmt, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use object_store::{
    Error, ObjectStoreExt as _, PutPayload, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
    path::Path,
};
use thiserror::Error as ThisError;

use super::web::{Ring, Web};
use crate::{
    cli::with_sources,
    config::{parse_bucket, shown_bucket},
};

/// A request that fails in a way that may pass is repeated this often and this long.
const RETRIES: usize = 3;
const RETRY_WITHIN: Duration = Duration::from_secs(20);
/// An object that is not there after this long is given up.
const OBJECT_WITHIN: Duration = Duration::from_secs(120);

/// Most characters of what a store answers that get into an error.
const MAX_WORDS: usize = 600;

/// Why a bucket cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
pub enum BucketError {
    /// Not a URL of one.
    #[error("{url} {what}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A variable of the environment.
    #[error("{name} {what}")]
    Environment {
        /// Which one.
        name: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Whatever else the store's client refuses.
    #[error("{0}")]
    Store(String),
}

/// Variables whose values are secrets.
const KEYS: [&str; 3] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];

/// An error's words, cut, with none of the keys.
fn without(keys: &Arc<[String]>, words: &str) -> String {
    let clean = keys.iter().fold(words.to_owned(), |words, key| words.replace(key.as_str(), "[key]"));
    match clean.char_indices().nth(MAX_WORDS) {
        Some((end, _)) => format!("{} ...", &clean[..end]),
        None => clean,
    }
}

/// A prefix in a bucket.
#[derive(Clone)]
pub struct Bucket {
    url: String,
    prefix: Path,
    store: Arc<AmazonS3>,
    /// What no error may contain.
    keys: Arc<[String]>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({})", self.url)
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.url.trim_end_matches('/'))
    }
}

impl Bucket {
    /// The bucket at a URL, with what the environment says of it. Nothing is sent yet.
    ///
    /// # Errors
    /// [`BucketError`].
    pub fn open(url: &str) -> Result<Self, BucketError> {
        Self::with(url, |name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn with(url: &str, variable: impl Fn(&'static str) -> Option<String>) -> Result<Self, BucketError> {
        let (bucket, prefix) = parse_bucket(url).map_err(|what| BucketError::Url { url: shown_bucket(url), what })?;
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(variable("AWS_REGION").unwrap_or_else(|| "us-east-1".to_owned()))
            .with_http_connector(Web::new())
            .with_crypto_provider(Arc::new(Ring))
            .with_retry(RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_WITHIN, ..RetryConfig::default() });
        if let Some(endpoint) = variable("AWS_ENDPOINT_URL") {
            let of_http = endpoint.starts_with("http://") || endpoint.starts_with("https://");
            if !of_http || endpoint.contains('@') {
                return Err(BucketError::Environment { name: "AWS_ENDPOINT_URL", what: "must be http(s)://HOST:PORT" });
            }
            // Who names an endpoint without TLS means it: a store on the same machine, mostly.
            builder = builder.with_allow_http(true).with_endpoint(endpoint.trim_end_matches('/'));
        }
        let missing = |name| BucketError::Environment { name, what: "is missing: keys come in pairs" };
        builder = match (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
            (Some(id), Some(secret)) => builder.with_access_key_id(id).with_secret_access_key(secret),
            (None, None) => builder.with_skip_signature(true),
            (None, _) => return Err(missing("AWS_ACCESS_KEY_ID")),
            (_, None) => return Err(missing("AWS_SECRET_ACCESS_KEY")),
        };
        if let Some(token) = variable("AWS_SESSION_TOKEN") {
            builder = builder.with_token(token);
        }
        let keys = KEYS.into_iter().filter_map(&variable).collect();
        let store = builder.build().map_err(|error| BucketError::Store(without(&keys, &with_sources(&error))))?;
        Ok(Self { url: url.to_owned(), prefix: Path::from(prefix), store: Arc::new(store), keys })
    }

    fn words(&self, error: &Error) -> String {
        without(&self.keys, &with_sources(error))
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// An object of at most `limit` bytes; none if it is not there.
    ///
    /// # Errors
    /// What the store says, or that it is longer.
    pub async fn get(&self, name: &str, limit: usize) -> Result<Option<Bytes>, String> {
        let read = async {
            let found = match self.store.get(&self.path(name)).await {
                Ok(found) => found,
                Err(Error::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(self.words(&error)),
            };
            let (mut stream, mut bytes) = (found.into_stream(), BytesMut::new());
            while let Some(part) = stream.try_next().await.map_err(|error| self.words(&error))? {
                if bytes.len() + part.len() > limit {
                    return Err(format!("more than {limit} bytes"));
                }
                bytes.extend_from_slice(&part);
            }
            Ok(Some(bytes.freeze()))
        };
        tokio::time::timeout(OBJECT_WITHIN, read).await.unwrap_or_else(|late| Err(late.to_string()))
    }

    /// Writes an object, in place of one that is there.
    ///
    /// # Errors
    /// What the store says.
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<(), String> {
        let path = self.path(name);
        let put = self.store.put(&path, PutPayload::from(bytes));
        match tokio::time::timeout(OBJECT_WITHIN, put).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.words(&error)),
            Err(late) => Err(late.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_the_environment_in_pairs_and_are_never_shown() {
        let bucket = |set: &'static [(&'static str, &'static str)]| {
            Bucket::with("s3://archive/chain", move |name| {
                set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert!(bucket(&[]).is_ok(), "a public bucket can be read");
        let keys = &[("AWS_ACCESS_KEY_ID", "id-3141"), ("AWS_SECRET_ACCESS_KEY", "secret-2718")];
        let shown = bucket(keys).map(|bucket| format!("{bucket:?} {bucket}")).unwrap();
        assert!(!shown.contains("3141") && !shown.contains("2718"), "{shown}");
        let missing = |found: Result<Bucket, BucketError>| match found {
            Err(BucketError::Environment { name, .. }) => name,
            other => panic!("{other:?}"),
        };
        assert_eq!(missing(bucket(&keys[..1])), "AWS_SECRET_ACCESS_KEY");
        assert_eq!(missing(bucket(&keys[1..])), "AWS_ACCESS_KEY_ID");
        for endpoint in ["127.0.0.1:9000", "http://id:secret@127.0.0.1:9000"] {
            let found = Bucket::with("s3://archive", move |name| (name == "AWS_ENDPOINT_URL").then(|| endpoint.into()));
            assert_eq!(missing(found), "AWS_ENDPOINT_URL");
        }
    }

    #[test]
    fn errors_are_short_and_without_keys() {
        let keys = Arc::from(["id-3141".to_owned(), "secret-2718".to_owned()]);
        assert_eq!(without(&keys, "id-3141 with secret-2718 is refused"), "[key] with [key] is refused");
        let long = format!("secret-2718{}", "x".repeat(2 * MAX_WORDS));
        assert_eq!(without(&keys, &long).chars().count(), MAX_WORDS + 4);
    }

    #[test]
    fn objects_lie_below_the_prefix() {
        let bucket = Bucket::with("s3://archive/chain", |_| None).unwrap();
        assert_eq!(bucket.path("batch-1/manifest").to_string(), "chain/batch-1/manifest");
        assert_eq!(Bucket::with("s3://archive", |_| None).unwrap().path("newest").to_string(), "newest");
    }
}
