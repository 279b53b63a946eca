//! Who may talk to the server, by what a browser says about itself.
//!
//! - `Host`: a web page that rebinds its own name to this machine's address still sends its name. A numeric address
//!   cannot be rebound and passes.
//! - `Origin` of WebSockets: CORS does not cover them, so a page of any origin could talk to a local node through its
//!   visitor's browser. Programs send no `Origin` and pass. Plain HTTP needs no such check: a page cannot send JSON
//!   elsewhere without the preflight that CORS answers.

use std::{
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use jsonrpsee::{
    core::BoxError,
    server::{HttpBody, HttpRequest, HttpResponse},
};
use tower::{Layer, Service};

use super::RpcConfig;

/// Marks the requests of a WebSocket, which alone can carry subscriptions.
#[derive(Clone, Copy, Debug)]
pub(super) struct WebSocket;

/// The lists of hosts and origins.
#[derive(Clone, Debug)]
pub(super) struct Gate(Arc<Lists>);

#[derive(Debug)]
struct Lists {
    hosts: Vec<String>,
    origins: Vec<String>,
}

impl Gate {
    pub(super) fn new(config: &RpcConfig) -> Self {
        let (hosts, origins) = (config.allowed_hosts.clone(), config.cors_origins.clone());
        Self(Arc::new(Lists { hosts, origins }))
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
pub(super) struct Gated<S> {
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
            let mut refused = HttpResponse::new(HttpBody::from(reason));
            *refused.status_mut() = 403_u16.try_into().expect("403 is a status code");
            return Box::pin(async move { Ok(refused) });
        }
        if is_websocket(&request) {
            request.extensions_mut().insert(WebSocket);
        }
        let answer = self.inner.call(request);
        Box::pin(async move { answer.await.map_err(Into::into) })
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
        for host in ["localhost", "LOCALHOST:8545", "node.example:1", "127.0.0.1:8545", "10.1.2.3", "[::1]:8545", "[::1]"] {
            assert!(gate.allows_host(host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "evil.example:8545", "127.0.0.1.evil.example", "", ":", "?"] {
            assert!(!gate.allows_host(host), "{host}");
        }
    }

    #[test]
    fn a_star_allows_all() {
        assert!(gate(&["*"]).allows_host("evil.example"));
        assert!(!gate(&[]).allows_host("localhost"));
        assert!(gate(&[]).allows_host("127.0.0.1"));
    }
}
