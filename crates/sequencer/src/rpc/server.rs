//! The server itself: listening, connections, stopping.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use cascade_primitives::TransactionRule;
use jsonrpsee::{
    Methods,
    server::{
        BatchRequestConfig, PingConfig, Server, ServerConfig, ServerHandle, StopHandle,
        middleware::rpc::RpcServiceBuilder, serve_with_graceful_shutdown, stop_channel,
    },
};
use thiserror::Error;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinHandle, JoinSet},
};
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

use super::{
    Backend, Rpc, RpcConfig, RpcConfigError, RpcMetrics,
    door::{Addressed, Door},
    gate::{Activity, Gate, IDLE_FOR, Watched},
    methods,
    middleware::{Budget, Middleware, Shared},
    subscribe::HexIds,
};

/// How long open requests may take when the server stops.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// Messages that may wait for a WebSocket's client before its subscriptions wait.
const SOCKET_BUFFER: u32 = 1_024;

/// How long refused connections are waited for.
const REFUSE_WITHIN: Duration = Duration::from_secs(1);

/// Why the server did not start.
#[derive(Debug, Error)]
pub enum RpcServerError {
    /// A setting makes no sense.
    #[error("rpc.{0}")]
    Config(#[from] RpcConfigError),
    /// The listener cannot be used.
    #[error("rpc.listen = {address}: {reason}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        reason: std::io::Error,
    },
}

/// A running server. Dropping it stops it without waiting for open requests.
#[derive(Debug)]
pub struct RpcServer {
    address: SocketAddr,
    stop: ServerHandle,
    task: JoinHandle<()>,
}

impl RpcServer {
    /// Serves on `listener`, which is non-blocking already. Must be called on a multi-threaded tokio runtime.
    ///
    /// # Errors
    /// If a setting makes no sense or the listener cannot be used.
    pub fn start(
        config: &RpcConfig,
        listener: std::net::TcpListener,
        backend: Arc<dyn Backend>,
        metrics: RpcMetrics,
    ) -> Result<Self, RpcServerError> {
        config.check(backend.params().max_tx_bytes)?;
        let failed = |reason| RpcServerError::Listen { address: config.listen, reason };
        let listener = TcpListener::from_std(listener).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop_handle, stop) = stop_channel();
        let task = tokio::spawn(serve(listener, config.clone(), backend, metrics, stop_handle));
        Ok(Self { address, stop, task })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more requests, lets open ones end for up to 3 s, and closes all connections.
    pub async fn stop(mut self) {
        let _ = self.stop.stop();
        if let Err(reason) = (&mut self.task).await {
            tracing::error!(%reason, "the RPC server ended badly");
        }
    }
}

impl Drop for RpcServer {
    fn drop(&mut self) {
        let _ = self.stop.stop();
        self.task.abort();
    }
}

fn server_config(config: &RpcConfig) -> ServerConfig {
    ServerConfig::builder()
        .max_request_body_size(config.max_request_bytes)
        .max_response_body_size(config.max_response_bytes)
        .max_connections(config.max_connections)
        .max_subscriptions_per_connection(config.max_subscriptions)
        // The middleware checks, and says, this limit.
        .set_batch_request_config(BatchRequestConfig::Unlimited)
        .set_message_buffer_capacity(SOCKET_BUFFER)
        .set_id_provider(HexIds)
        .enable_ws_ping(PingConfig::new())
        .build()
}

fn cors(config: &RpcConfig) -> CorsLayer {
    let origins = if config.cors_origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(config.cors_origins.iter().filter_map(|origin| origin.parse().ok()))
    };
    CorsLayer::new().allow_origin(origins).allow_methods(Any).allow_headers(Any).max_age(Duration::from_secs(3_600))
}

async fn serve(
    listener: TcpListener,
    config: RpcConfig,
    backend: Arc<dyn Backend>,
    metrics: RpcMetrics,
    stop: StopHandle,
) {
    let (most, server_config) = (config.max_connections, server_config(&config));
    let http = tower::ServiceBuilder::new()
        .layer(Gate::new(&config))
        .layer(cors(&config))
        .layer(Door::new(Arc::clone(&backend)));
    let (max_batch, max_response) = (config.max_batch as usize, config.max_response_bytes as usize);
    let budget = Budget::new(config.max_request_bytes);
    let plain = backend.params().transactions == TransactionRule::Plain;
    let methods: Methods = methods(Rpc::new(Arc::clone(&backend), config)).into();
    let names = Arc::new(methods.method_names().collect());
    let connections = metrics.connections.clone();
    let shared = Arc::new(Shared { backend, methods: names, metrics, budget, max_batch, max_response, plain });
    let layer = RpcServiceBuilder::new().layer_fn(move |inner| Middleware { inner, shared: Arc::clone(&shared) });
    let builder = Server::builder()
        .set_config(server_config)
        .set_rpc_middleware(layer)
        .set_http_middleware(http)
        .to_service_builder();

    let permits = Arc::new(Semaphore::new(most as usize));
    let mut open = JoinSet::new();
    let stopped = stop.clone().shutdown();
    tokio::pin!(stopped);
    loop {
        let socket = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = open.join_next(), if !open.is_empty() => continue,
            () = &mut stopped => break,
        };
        let (socket, remote) = match socket {
            Ok((socket, remote)) => (socket, remote.ip()),
            Err(reason) => {
                // Out of file descriptors, most likely: they do not come back by asking at once.
                tracing::warn!(%reason, "an RPC connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            open.spawn(refuse(socket, most));
            continue;
        };
        let _ = socket.set_nodelay(true);
        let activity = Activity::new();
        let inner = Addressed { inner: builder.clone().build(methods.clone(), stop.clone()), remote };
        let service = Watched { inner, activity: activity.clone() };
        let (stopped, counted) = (stop.clone().shutdown(), Counted::new(connections.clone(), permit));
        open.spawn(async move {
            let end = async move {
                tokio::select! {
                    () = stopped => {}
                    () = activity.idle(IDLE_FOR) => {}
                }
            };
            if let Err(reason) = serve_with_graceful_shutdown(socket, service, end).await {
                tracing::debug!(reason, "an RPC connection ended with an error");
            }
            drop(counted);
        });
    }
    drop(listener);
    let deadline = Instant::now() + STOP_WITHIN;
    while let Ok(Some(_)) = tokio::time::timeout_at(deadline.into(), open.join_next()).await {}
    open.shutdown().await;
}

/// A counted connection's permit.
struct Counted {
    gauge: prometheus::IntGauge,
    _permit: OwnedSemaphorePermit,
}

impl Counted {
    fn new(gauge: prometheus::IntGauge, permit: OwnedSemaphorePermit) -> Self {
        gauge.inc();
        Self { gauge, _permit: permit }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

/// Tells a client that there are too many.
async fn refuse(mut socket: TcpStream, most: u32) {
    let body = format!("limit exceeded: connections, limit {most}\n");
    let head = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\nconnection: close\r\nretry-after: 1";
    let answer = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let write = async {
        socket.write_all(answer.as_bytes()).await?;
        socket.shutdown().await
    };
    let _ = tokio::time::timeout(REFUSE_WITHIN, write).await;
}
