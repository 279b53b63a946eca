//! Who may talk to the server, by what a browser says about itself.
//!
//! - `Host`: a web page that rebinds its own name to this machine's address still sends its name. A numeric address
//!   cannot be rebound and passes.
//! - `Origin` of WebSockets: CORS does not cover them, so a page of any origin could talk to a local node through its
//!   visitor's browser. Programs send no `Origin` and pass. Plain HTTP needs no such check: a page cannot send JSON
//!   elsewhere without the preflight that CORS answers.
//!
//! And how long: a request must be read and answered within [`REQUEST_WITHIN`], and a connection without requests is
//! closed after [`IDLE_FOR`], so that silent clients do not use the limit of connections up.

use std::{
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use jsonrpsee::{
    core::BoxError,
    server::{HttpBody, HttpRequest, HttpResponse},
};
use parking_lot::Mutex;
use tokio::time::Instant;
use tower::{Layer, Service};

use super::RpcConfig;

/// Longest time from the head of an HTTP request to its answer. Far above what the other limits allow to last.
const REQUEST_WITHIN: Duration = Duration::from_secs(60);

/// How long a connection may be kept open without a request.
pub(super) const IDLE_FOR: Duration = Duration::from_secs(120);

/// Marks the requests of a WebSocket, which alone can carry subscriptions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WebSocket;

/// The lists of hosts and origins, and the time that a request may take.
#[derive(Clone, Debug)]
pub(crate) struct Gate(Arc<Lists>);

#[derive(Debug)]
struct Lists {
    hosts: Vec<String>,
    origins: Vec<String>,
    within: Duration,
}

impl Gate {
    pub(crate) fn new(config: &RpcConfig) -> Self {
        let (hosts, origins) = (config.allowed_hosts.clone(), config.cors_origins.clone());
        Self(Arc::new(Lists { hosts, origins, within: REQUEST_WITHIN }))
    }

    /// Why a request may not pass.
    fn refusal<B>(&self, request: &HttpRequest<B>) -> Option<&'static str> {
        let text = |name| request.headers().get(name).map(|value| value.to_str().unwrap_or("?"));
        let host = text("host").or_else(|| request.uri().authority().map(|authority| authority.as_str()));
        if host.is_some_and(|host| !self.allows_host(host)) {
            return Some("the Host of this request is not in the node's list rpc.allowed_hosts\n");
        }
        if is_websocket(request) && text("origin").is_some_and(|origin| !self.allows_origin(origin)) {
            return Some("the Origin of this WebSocket is not in the node's list rpc.cors_origins\n");
        }
        None
    }

    fn allows_host(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') && port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        let numeric = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        numeric.parse::<IpAddr>().is_ok()
            || self.0.hosts.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(name))
    }

    fn allows_origin(&self, origin: &str) -> bool {
        self.0.origins.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
    }
}

fn is_websocket<B>(request: &HttpRequest<B>) -> bool {
    request.headers().get("upgrade").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { inner, gate: self.clone() }
    }
}

/// A service behind the gate.
#[derive(Clone, Debug)]
pub(crate) struct Gated<S> {
    inner: S,
    gate: Gate,
}

impl<S, B> Service<HttpRequest<B>> for Gated<S>
where
    S: Service<HttpRequest<B>, Response = HttpResponse>,
    S::Error: Into<BoxError> + 'static,
    S::Future: Send + 'static,
{
    type Response = HttpResponse;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, mut request: HttpRequest<B>) -> Self::Future {
        if let Some(reason) = self.gate.refusal(&request) {
            return Box::pin(async move { Ok(text(403, reason)) });
        }
        if is_websocket(&request) {
            request.extensions_mut().insert(WebSocket);
        }
        let (answer, within) = (self.inner.call(request), self.gate.0.within);
        Box::pin(async move {
            match tokio::time::timeout(within, answer).await {
                Ok(answer) => answer.map_err(Into::into),
                Err(_) => Ok(text(408, format!("limit exceeded: time for one request, limit {within:?}\n"))),
            }
        })
    }
}

fn text(status: u16, text: impl Into<HttpBody>) -> HttpResponse {
    let mut answer = HttpResponse::new(text.into());
    *answer.status_mut() = status.try_into().expect("a constant between 100 and 999");
    answer
}

/// When a connection had its last request, and how many it has now.
#[derive(Clone, Debug)]
pub(super) struct Activity(Arc<Mutex<(Instant, u32)>>);

impl Activity {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new((Instant::now(), 0))))
    }

    /// Ends once the connection has been without a request for so long.
    pub(super) async fn idle(self, limit: Duration) {
        loop {
            let (last, open) = *self.0.lock();
            let since = if open > 0 { Instant::now() } else { last };
            if since.elapsed() >= limit {
                return;
            }
            tokio::time::sleep_until(since + limit).await;
        }
    }

    fn begin(&self) -> Open {
        self.0.lock().1 += 1;
        Open(self.clone())
    }
}

/// A request that is being answered.
struct Open(Activity);

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        *state = (Instant::now(), state.1 - 1);
    }
}

/// A connection's service that notes its activity.
#[derive(Clone, Debug)]
pub(super) struct Watched<S> {
    pub(super) inner: S,
    pub(super) activity: Activity,
}

impl<S, R> Service<R> for Watched<S>
where
    S: Service<R>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let open = self.activity.begin();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            drop(open);
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(hosts: &[&str]) -> Gate {
        let allowed_hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        Gate::new(&RpcConfig { allowed_hosts, ..RpcConfig::default() })
    }

    #[test]
    fn names_must_be_listed_and_numbers_pass() {
        let gate = gate(&["localhost", "node.example"]);
        for host in
            ["localhost", "LOCALHOST:8545", "node.example:1", "127.0.0.1:8545", "10.1.2.3", "[::1]:8545", "[::1]"]
        {
            assert!(gate.allows_host(host), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "evil.example:8545", "127.0.0.1.evil.example", "", ":", "?"]
        {
            assert!(!gate.allows_host(host), "{host}");
        }
    }

    #[tokio::test]
    async fn a_request_that_takes_too_long_is_given_up_with_the_limit() {
        let within = Duration::from_millis(5);
        let gate = Gate(Arc::new(Lists { hosts: Vec::new(), origins: Vec::new(), within }));
        let never = tower::service_fn(|_: HttpRequest<()>| std::future::pending::<Result<HttpResponse, BoxError>>());
        let answer = gate.layer(never).call(HttpRequest::new(())).await.unwrap();
        assert_eq!(answer.status().as_u16(), 408);
    }

    #[tokio::test]
    async fn a_connection_is_idle_only_between_requests() {
        let (activity, limit) = (Activity::new(), Duration::from_millis(5));
        let (answer, answered) = tokio::sync::oneshot::channel::<()>();
        let answered = Mutex::new(Some(answered));
        let inner = tower::service_fn(move |()| answered.lock().take().expect("one request"));
        let request = tokio::spawn(Watched { inner, activity: activity.clone() }.call(()));
        let idle = tokio::spawn(activity.idle(limit));
        assert!(tokio::time::timeout(limit * 10, request).await.is_err(), "it waits for its answer");
        assert!(!idle.is_finished());
        answer.send(()).unwrap();
        idle.await.unwrap();
    }

    #[test]
    fn a_star_allows_all() {
        assert!(gate(&["*"]).allows_host("evil.example"));
        assert!(!gate(&[]).allows_host("localhost"));
        assert!(gate(&[]).allows_host("127.0.0.1"));
    }
}
