//! Prometheus metrics over HTTP: `GET /metrics`, and nothing else.
//!
//! Bounded, since the address may be public: a few connections at once, one request's head of limited size and time, no
//! body is read, and a connection that stays longer than `CONNECTION_LIFE` is closed.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Registry, TextEncoder};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

/// Connections at once; others wait in the system's queue.
const CONNECTIONS: usize = 16;
/// Time for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Scrapers keep connections open between scrapes; none lives longer than this.
const CONNECTION_LIFE: Duration = Duration::from_secs(300);
/// Bytes of a connection's buffer, and so of a request's head.
const BUFFER: usize = 8 << 10;

/// Serves a registry's metrics until the task is dropped.
pub async fn serve(listener: TcpListener, registry: Registry) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let registry = registry.clone();
                tokio::spawn(async move {
                    let _ = timeout(CONNECTION_LIFE, serve_connection(stream, registry)).await;
                    drop(place);
                });
            }
            // Out of file descriptors, most likely: let the other connections end first.
            Err(error) => {
                tracing::warn!(%error, "metrics: cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, registry: Registry) {
    let service = service_fn(move |request| {
        let answer = answer(&request, &registry);
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "metrics: connection ended");
    }
}

fn answer(request: &Request<Incoming>, registry: &Registry) -> Response<Full<Bytes>> {
    let (status, kind, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => match TextEncoder::new().encode_to_string(&registry.gather()) {
            Ok(text) => (StatusCode::OK, prometheus::TEXT_FORMAT, text),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string()),
        },
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "text/plain", "metrics are at /metrics\n".to_owned()),
    };
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, kind)
        .body(Full::new(Bytes::from(text)))
        .expect("status and content type are constants")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn exchange(address: std::net::SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn only_get_metrics_is_answered_with_metrics() {
        let registry = Registry::new();
        let counter = prometheus::IntCounter::new("cascade_test_total", "A counter").unwrap();
        counter.inc_by(7);
        registry.register(Box::new(counter)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, registry));
        let head = "HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let good = exchange(address, &format!("GET /metrics {head}")).await;
        assert!(good.starts_with("HTTP/1.1 200") && good.contains("cascade_test_total 7"), "{good}");
        assert!(exchange(address, &format!("GET /other {head}")).await.starts_with("HTTP/1.1 404"));
        assert!(exchange(address, &format!("DELETE /metrics {head}")).await.starts_with("HTTP/1.1 405"));
        let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(2 * BUFFER));
        assert!(exchange(address, &long).await.starts_with("HTTP/1.1 431"));
        server.abort();
    }
}
