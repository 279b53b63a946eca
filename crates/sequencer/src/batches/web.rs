//! HTTP and HTTPS for batches: one client, and what the `object_store` crate needs to send its requests through it.
//!
//! That crate would bring an HTTP client and a TLS library of its own. It gets ours: hyper and rustls with ring, which the
//! clients of JSON-RPC use, and ring's SHA-256 for its signatures.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Body as _, Incoming},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use object_store::{
    ClientOptions, Error,
    client::{
        CryptoProvider, DigestAlgorithm, DigestContext, HmacContext, HttpClient, HttpConnector as Connector, HttpError,
        HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody, HttpService, Signer,
        SigningAlgorithm,
    },
};
use ring::{digest, hmac};
use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt as _;

/// A request without an answer is given up after this long.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Bytes of an answer for which it gets a second more.
const BYTES_PER_SECOND: u64 = 32 << 10;
/// A request that fails in a way that may pass is repeated after these waits.
const RETRY_AFTER: [Duration; 3] = [Duration::from_millis(250), Duration::from_secs(1), Duration::from_secs(4)];
/// Longest body of a refusal: `object_store` puts it into its error, whatever its length.
const MAX_REFUSAL: usize = 16 << 10;

/// A client that speaks both, with the certificates that this machine trusts. Its clones share connections.
#[derive(Clone, Debug)]
pub(super) struct Web(Client<HttpsConnector<HttpConnector>, HttpRequestBody>);

impl Web {
    pub(super) fn new() -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has what these versions of TLS need")
            .with_platform_verifier()
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().build();
        Self(Client::builder(TokioExecutor::new()).build(connector))
    }

    async fn send(&self, request: HttpRequest) -> Result<Response<Incoming>, HttpError> {
        match tokio::time::timeout(ANSWER_WITHIN, self.0.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_connect() => Err(HttpError::new(HttpErrorKind::Connect, error)),
            Ok(Err(error)) => Err(HttpError::new(HttpErrorKind::Request, error)),
            Err(late) => Err(HttpError::new(HttpErrorKind::Timeout, late)),
        }
    }

    /// The file at a URL, of at most `limit` bytes; none if it is not there. What may pass is tried again.
    pub(super) async fn get(&self, url: &str, limit: usize) -> Result<Option<Bytes>, String> {
        let mut waits = RETRY_AFTER.into_iter();
        loop {
            match self.get_once(url, limit).await {
                Ok(found) => return Ok(found),
                Err(Failed { what, may_pass }) => match waits.next().filter(|_| may_pass) {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => return Err(what),
                },
            }
        }
    }

    async fn get_once(&self, url: &str, limit: usize) -> Result<Option<Bytes>, Failed> {
        let lasting = |what| Failed { what, may_pass: false };
        let passing = |what| Failed { what, may_pass: true };
        let request = Request::get(url).body(HttpRequestBody::empty()).map_err(|error| lasting(error.to_string()))?;
        let response = self.send(request).await.map_err(|error| passing(crate::cli::with_sources(&error)))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            status => {
                let may_pass = status.is_server_error()
                    || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(&status);
                return Err(Failed { what: format!("HTTP {status}"), may_pass });
            }
        }
        let body = response.into_body();
        let length = body.size_hint().exact().unwrap_or(limit as u64);
        if length > limit as u64 {
            return Err(lasting(format!("{length} bytes, the limit is {limit}")));
        }
        let body = tokio::time::timeout(within(length), Limited::new(body, limit).collect()).await;
        let body = body.map_err(|_| passing(format!("{length} bytes did not come within {:?}", within(length))))?;
        let body = body.map_err(|error| {
            let may_pass = !error.is::<LengthLimitError>();
            Failed { what: crate::cli::with_sources(&*error), may_pass }
        })?;
        Ok(Some(body.to_bytes()))
    }
}

/// Why a file was not got.
struct Failed {
    what: String,
    may_pass: bool,
}

/// How long an answer of so many bytes may take.
const fn within(bytes: u64) -> Duration {
    Duration::from_secs(ANSWER_WITHIN.as_secs() + bytes / BYTES_PER_SECOND)
}

type Answer<'a> = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'a>>;

impl HttpService for Web {
    fn call<'a, 'b>(&'a self, request: HttpRequest) -> Answer<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let (parts, body) = self.send(request).await?.into_parts();
            let body = if parts.status.is_success() {
                HttpResponseBody::new(body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error)))
            } else {
                let body = Limited::new(body, MAX_REFUSAL);
                HttpResponseBody::new(body.map_err(|error| HttpError::new_boxed(HttpErrorKind::Interrupted, error)))
            };
            Ok(Response::from_parts(parts, body))
        })
    }
}

impl Connector for Web {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

/// The hashes of request signatures.
#[derive(Debug)]
pub(super) struct Ring;

struct Hash {
    context: digest::Context,
    out: Option<digest::Digest>,
}

struct Keyed {
    context: hmac::Context,
    out: Option<hmac::Tag>,
}

impl DigestContext for Hash {
    fn update(&mut self, data: &[u8]) {
        self.context.update(data);
    }

    fn finish(&mut self) -> object_store::Result<&[u8]> {
        let out: &digest::Digest = self.out.insert(self.context.clone().finish());
        Ok(out.as_ref())
    }
}

impl HmacContext for Keyed {
    fn update(&mut self, data: &[u8]) {
        self.context.update(data);
    }

    fn finish(&mut self) -> object_store::Result<&[u8]> {
        let out: &hmac::Tag = self.out.insert(self.context.clone().sign());
        Ok(out.as_ref())
    }
}

fn unsupported(what: &str) -> Error {
    Error::NotSupported { source: format!("{what} is not used for buckets").into() }
}

impl CryptoProvider for Ring {
    fn digest(&self, algorithm: DigestAlgorithm) -> object_store::Result<Box<dyn DigestContext>> {
        match algorithm {
            DigestAlgorithm::Sha256 => Ok(Box::new(Hash { context: digest::Context::new(&digest::SHA256), out: None })),
            other => Err(unsupported(&format!("{other:?}"))),
        }
    }

    fn hmac(&self, algorithm: DigestAlgorithm, secret: &[u8]) -> object_store::Result<Box<dyn HmacContext>> {
        match algorithm {
            DigestAlgorithm::Sha256 => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
                Ok(Box::new(Keyed { context: hmac::Context::with_key(&key), out: None }))
            }
            other => Err(unsupported(&format!("{other:?}"))),
        }
    }

    fn sign(&self, algorithm: SigningAlgorithm, _: &[u8]) -> object_store::Result<Box<dyn Signer>> {
        Err(unsupported(&format!("{algorithm:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_answer_may_take_longer() {
        assert_eq!(within(0), ANSWER_WITHIN);
        assert_eq!(within(4 << 20), ANSWER_WITHIN + Duration::from_secs(128), "a piece of 4 MiB over 0.25 Mbit/s");
    }

    #[test]
    fn hashes_are_those_of_the_published_vectors() {
        // FIPS 180-4, "abc"; RFC 4231, test case 2.
        let mut hash = Ring.digest(DigestAlgorithm::Sha256).unwrap();
        hash.update(b"a");
        hash.update(b"bc");
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex::encode(hash.finish().unwrap()), expected);
        let mut keyed = Ring.hmac(DigestAlgorithm::Sha256, b"Jefe").unwrap();
        keyed.update(b"what do ya want ");
        keyed.update(b"for nothing?");
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hex::encode(keyed.finish().unwrap()), expected);
        assert!(Ring.sign(SigningAlgorithm::RS256, b"").is_err());
    }
}
