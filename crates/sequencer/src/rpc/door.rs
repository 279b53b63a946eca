//! `POST /light` beside JSON-RPC: the door for light clients.
//!
//! Its bodies are canonical bytes (`cascade_light::ask`), not JSON: shares would double in size. Each answer is made on a
//! blocking thread, [`AT_ONCE`] at a time; who finds no place within [`WAIT`] is told to come back.

use std::{
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use cascade_light::ask::MAX_ASK_BYTES;
use http_body_util::{BodyExt as _, Limited};
use jsonrpsee::{
    core::BoxError,
    server::{HttpBody, HttpRequest, HttpResponse},
};
use tokio::sync::Semaphore;
use tower::{Layer, Service};

use super::Backend;

/// Where it is.
const PATH: &str = "/light";
/// Answers that are made at once.
const AT_ONCE: usize = 8;
/// How long a request waits for its turn.
const WAIT: Duration = Duration::from_secs(2);

/// The address that a connection comes from, in the extensions of its requests.
#[derive(Clone, Copy, Debug)]
struct Remote(IpAddr);

/// A connection's service that says where the connection comes from.
#[derive(Clone, Debug)]
pub(super) struct Addressed<S> {
    pub(super) inner: S,
    pub(super) remote: IpAddr,
}

impl<S, B> Service<HttpRequest<B>> for Addressed<S>
where
    S: Service<HttpRequest<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: HttpRequest<B>) -> S::Future {
        request.extensions_mut().insert(Remote(self.remote));
        self.inner.call(request)
    }
}

/// Puts the door beside a service.
#[derive(Clone)]
pub(super) struct Door {
    backend: Arc<dyn Backend>,
    turns: Arc<Semaphore>,
}

impl Door {
    pub(super) fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend, turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl<S> Layer<S> for Door {
    type Service = Beside<S>;

    fn layer(&self, inner: S) -> Beside<S> {
        Beside { inner, door: self.clone() }
    }
}

/// A service with the door beside it.
#[derive(Clone)]
pub(super) struct Beside<S> {
    inner: S,
    door: Door,
}

impl<S, B> Service<HttpRequest<B>> for Beside<S>
where
    S: Service<HttpRequest<B>, Response = HttpResponse>,
    S::Error: Into<BoxError> + 'static,
    S::Future: Send + 'static,
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = HttpResponse;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: HttpRequest<B>) -> Self::Future {
        if request.uri().path() != PATH {
            let answer = self.inner.call(request);
            return Box::pin(async move { answer.await.map_err(Into::into) });
        }
        let door = self.door.clone();
        Box::pin(async move { Ok(door.answer(request).await) })
    }
}

impl Door {
    async fn answer<B>(self, request: HttpRequest<B>) -> HttpResponse
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if request.method() != hyper::Method::POST {
            return response(405, "text/plain", "POST the bytes of a request\n");
        }
        let Some(Remote(host)) = request.extensions().get::<Remote>().copied() else {
            return response(500, "text/plain", "where this comes from is not known\n");
        };
        let body = match Limited::new(request.into_body(), MAX_ASK_BYTES).collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => return response(413, "text/plain", format!("limit exceeded: bytes, limit {MAX_ASK_BYTES}\n")),
        };
        let Ok(Ok(turn)) = tokio::time::timeout(WAIT, self.turns.acquire_owned()).await else {
            return response(503, "text/plain", "too many light clients at once\n");
        };
        let backend = self.backend;
        let answer = tokio::task::spawn_blocking(move || {
            let answer = backend.light(host, &body);
            drop(turn);
            answer
        });
        match answer.await {
            Ok(Some(bytes)) => response(200, "application/octet-stream", HttpBody::from(bytes.to_vec())),
            Ok(None) => response(400, "text/plain", "not a request of a light client\n"),
            Err(_) => response(500, "text/plain", "the answer failed\n"),
        }
    }
}

fn response(status: u16, kind: &'static str, body: impl Into<HttpBody>) -> HttpResponse {
    let mut answer = HttpResponse::new(body.into());
    *answer.status_mut() = status.try_into().expect("a constant between 100 and 999");
    answer.headers_mut().insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    answer
}
