//! The endpoint: HTTP and WebSocket on one port, like a node's.

use std::{future::Future, net::TcpListener, sync::Arc, time::Duration};

use alloy_primitives::B256;
use futures::StreamExt as _;
use jsonrpsee::{
    BatchResponseBuilder, Extensions, MethodResponse, PendingSubscriptionSink, ResponsePayload, RpcModule,
    SubscriptionMessage, SubscriptionSink,
    core::{
        SubscriptionError,
        client::{Error, Subscription, SubscriptionClientT as _},
    },
    server::{
        BatchRequestConfig, PingConfig, Server, ServerConfig, ServerHandle,
        middleware::rpc::{Batch, BatchEntry, Notification, Request, RpcServiceBuilder, RpcServiceT},
    },
    types::{ErrorObjectOwned, Id, Params},
    ws_client::{WsClient, WsClientBuilder},
};
use serde_json::value::RawValue;
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

use super::methods::Methods;
use crate::{
    cli::{AsIs, Failure, with_sources},
    rpc::{
        InnerService, RpcConfig,
        error::{limit, method},
        gate::{Gate, WebSocket},
        params::Args,
        subscribe::HexIds,
    },
};

/// Requests of a batch that are under way at once.
const AT_ONCE: usize = 16;
/// How long to wait before a node that is away is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// Messages of a subscription that may wait for a slow wallet before the subscription is begun anew.
const BUFFER: usize = 4_096;

/// Serves on `listener`.
///
/// # Errors
/// If the listener cannot be used.
pub fn start(config: &RpcConfig, listener: TcpListener, methods: Arc<Methods>) -> Result<ServerHandle, Failure> {
    let failed = |error: std::io::Error| Failure::io(config.listen, &error);
    listener.set_nonblocking(true).map_err(failed)?;
    let settings = ServerConfig::builder()
        .max_request_body_size(config.max_request_bytes)
        .max_response_body_size(config.max_response_bytes)
        .max_connections(config.max_connections)
        .max_subscriptions_per_connection(config.max_subscriptions)
        .set_batch_request_config(BatchRequestConfig::Unlimited)
        .set_id_provider(HexIds)
        .enable_ws_ping(PingConfig::new())
        .build();
    let origins: Vec<_> = config.cors_origins.iter().filter_map(|origin| origin.parse().ok()).collect();
    let origins = match config.cors_origins.iter().any(|origin| origin == "*") {
        true => AllowOrigin::any(),
        false => AllowOrigin::list(origins),
    };
    let cors = CorsLayer::new().allow_origin(origins).allow_methods(Any).allow_headers(Any);
    let (max_batch, max_response) = (config.max_batch as usize, config.max_response_bytes as usize);
    let module = subscriptions(Arc::clone(&methods));
    let layer = RpcServiceBuilder::new().layer_fn(move |inner| Middleware {
        inner,
        methods: Arc::clone(&methods),
        max_batch,
        max_response,
    });
    let server = Server::builder()
        .set_config(settings)
        .set_rpc_middleware(layer)
        .set_http_middleware(tower::ServiceBuilder::new().layer(Gate::new(config)).layer(cors))
        .build_from_tcp(listener)
        .map_err(failed)?;
    Ok(server.start(module))
}

/// What every request passes: nothing but subscriptions is a registered method.
#[derive(Clone)]
struct Middleware<S> {
    inner: S,
    methods: Arc<Methods>,
    max_batch: usize,
    max_response: usize,
}

impl<S> Middleware<S>
where
    S: InnerService,
{
    async fn one(&self, request: Request<'_>) -> MethodResponse {
        let name = request.method_name();
        if matches!(name, "eth_subscribe" | "eth_unsubscribe") {
            if request.extensions().get::<WebSocket>().is_none() {
                let reason = method(name, ": notifications not supported over HTTP, use a WebSocket");
                return MethodResponse::error(request.id().into_owned(), reason);
            }
            return self.inner.call(request).await;
        }
        let answer = self.methods.call(name, request.params.as_deref()).await;
        let id = request.id().into_owned();
        match answer {
            Ok(result) => MethodResponse::response(id, ResponsePayload::success(result), self.max_response),
            Err(reason) => MethodResponse::error(id, reason),
        }
    }
}

impl<S> RpcServiceT for Middleware<S>
where
    S: InnerService,
{
    type MethodResponse = MethodResponse;
    type NotificationResponse = MethodResponse;
    type BatchResponse = MethodResponse;

    fn call<'a>(&self, request: Request<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        let this = self.clone();
        async move { this.one(request).await }
    }

    fn batch<'a>(&self, batch: Batch<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        let this = self.clone();
        async move {
            if batch.len() > this.max_batch {
                let reason = limit("requests in a batch", batch.len(), this.max_batch);
                return MethodResponse::error(Id::Null, reason);
            }
            let entries: Vec<_> = batch.into_iter().collect();
            let mut requests = Vec::with_capacity(entries.len());
            for entry in entries {
                let this = this.clone();
                requests.push(async move {
                    match entry {
                        Ok(BatchEntry::Call(request)) => Some(this.one(request).await),
                        Ok(BatchEntry::Notification(_)) => None,
                        Err(invalid) => {
                            let (reason, id) = invalid.into_parts();
                            Some(MethodResponse::error(id, reason))
                        }
                    }
                });
            }
            let answered: Vec<_> = futures::stream::iter(requests).buffered(AT_ONCE).collect().await;
            let mut answers = BatchResponseBuilder::new_with_limit(this.max_response);
            for answer in answered.into_iter().flatten() {
                if let Err(too_large) = answers.append(answer) {
                    return too_large;
                }
            }
            if answers.is_empty() {
                MethodResponse::notification()
            } else {
                MethodResponse::from_batch(answers.finish())
            }
        }
    }

    fn notification<'a>(&self, notification: Notification<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        self.inner.notification(notification)
    }
}

/// `eth_subscribe`: a subscription at the node for each one here, begun anew when the node was away. Those to envelopes are
/// the proxy's own: it knows which envelope holds a transaction, and that another takes its place when it expires.
fn subscriptions(methods: Arc<Methods>) -> RpcModule<Arc<Methods>> {
    let subscribe = |params: Params<'static>,
                     pending: PendingSubscriptionSink,
                     methods: Arc<Arc<Methods>>,
                     _: Extensions| async move {
        if let Some(hash) = envelope(&params) {
            let Ok(sink) = pending.accept().await else { return Ok(()) };
            return follow(&methods, hash, &sink).await;
        }
        let params = params.as_str().and_then(|text| RawValue::from_string(text.to_owned()).ok());
        let url = websocket_url(methods.client.url());
        let first = match subscribe_at(&url, params.as_deref()).await {
            Ok(first) => first,
            Err(reason) => {
                pending.reject(reason).await;
                return Ok(());
            }
        };
        let Ok(sink) = pending.accept().await else { return Ok(()) };
        pump(&url, params.as_deref(), first, &sink).await
    };
    let mut module = RpcModule::new(methods);
    module
        .register_subscription("eth_subscribe", "eth_subscription", "eth_unsubscribe", subscribe)
        .expect("its names are constants, each of them once");
    module
}

/// The transaction or envelope that a subscription is to, if it is to one.
fn envelope(params: &Params<'_>) -> Option<B256> {
    let args = Args::new(params, 2).ok()?;
    let kind: String = args.get(0).ok()?;
    (kind == "l2_envelopeStatus").then(|| args.get(1).ok()).flatten()
}

/// Sends what becomes of an envelope, until its last state.
async fn follow(methods: &Methods, hash: B256, sink: &SubscriptionSink) -> Result<(), SubscriptionError> {
    let (mut news, mut last) = (methods.news.clone(), None);
    loop {
        // Before the node is asked: what happens meanwhile counts.
        news.mark_unchanged();
        // A node that is away is asked again.
        let now = methods.envelope_status(hash).await.ok().flatten();
        if let Some(now) = now.filter(|now| last != Some(now.status)) {
            last = Some(now.status);
            if !send(sink, &now).await? || now.status.is_last() {
                return Ok(());
            }
        }
        tokio::select! {
            () = sink.closed() => return Ok(()),
            changed = news.changed() => if changed.is_err() {
                return Ok(());
            },
        }
    }
}

/// Whether the client is still there.
async fn send(sink: &SubscriptionSink, value: &impl serde::Serialize) -> Result<bool, SubscriptionError> {
    let message = SubscriptionMessage::new(sink.method_name(), sink.subscription_id(), value)
        .map_err(|error| SubscriptionError::from(error.to_string()))?;
    Ok(sink.send(message).await.is_ok())
}

/// A node's WebSocket is on the port of its HTTP.
pub fn websocket_url(http: &str) -> String {
    http.strip_prefix("http").map_or_else(|| http.to_owned(), |rest| format!("ws{rest}"))
}

type Upstream = (WsClient, Subscription<Box<RawValue>>);

async fn subscribe_at(url: &str, params: Option<&RawValue>) -> Result<Upstream, ErrorObjectOwned> {
    let failed = |error: Error| match error {
        Error::Call(object) => object,
        other => {
            let text = format!("{url} did not answer eth_subscribe: {}", with_sources(&other));
            ErrorObjectOwned::owned(-32603, text, None::<()>)
        }
    };
    let client = WsClientBuilder::default()
        .connection_timeout(Duration::from_secs(5))
        .max_buffer_capacity_per_subscription(BUFFER)
        .build(url)
        .await
        .map_err(failed)?;
    let subscription = client.subscribe("eth_subscribe", AsIs(params), "eth_unsubscribe").await.map_err(failed)?;
    Ok((client, subscription))
}

async fn pump(
    url: &str,
    params: Option<&RawValue>,
    first: Upstream,
    sink: &SubscriptionSink,
) -> Result<(), SubscriptionError> {
    let mut upstream = Some(first);
    loop {
        let Some((_client, subscription)) = &mut upstream else {
            tokio::select! {
                () = sink.closed() => return Ok(()),
                () = tokio::time::sleep(RETRY) => upstream = subscribe_at(url, params).await.ok(),
            }
            continue;
        };
        tokio::select! {
            () = sink.closed() => return Ok(()),
            message = subscription.next() => match message {
                Some(Ok(value)) => if !send(sink, &value).await? {
                    return Ok(());
                },
                Some(Err(_)) | None => upstream = None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_websocket_is_where_its_http_is() {
        assert_eq!(websocket_url("http://127.0.0.1:8545"), "ws://127.0.0.1:8545");
        assert_eq!(websocket_url("https://node.example/x"), "wss://node.example/x");
    }
}
