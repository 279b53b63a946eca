//! HTTP and HTTPS for batches: one client, and what the `object_store` crate needs to send its requests through it.
//!
//! That crate would bring an HTTP client and a TLS library of its own. It gets ours: hyper and rustls with ring, which the
//! clients of JSON-RPC use, and ring's SHA-256 for its signatures.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::{Request, Response, StatusCode, body::Incoming};
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

    /// The file at a URL, of at most `limit` bytes; none if it is not there.
    pub(super) async fn get(&self, url: &str, limit: usize) -> Result<Option<Bytes>, String> {
        let request = Request::get(url).body(HttpRequestBody::empty()).map_err(|error| error.to_string())?;
        let response = self.send(request).await.map_err(|error| crate::cli::with_sources(&error))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            status => return Err(format!("HTTP {status}")),
        }
        let body = tokio::time::timeout(ANSWER_WITHIN, Limited::new(response.into_body(), limit).collect()).await;
        let body = body.map_err(|late| late.to_string())?.map_err(|error| error.to_string())?;
        Ok(Some(body.to_bytes()))
    }
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
