//! What every request passes: batches, metrics, a bound on what is in progress, and the answer to methods that do not
//! exist.
//!
//! The raw transactions of a batch are taken out of it and given to the node as one call; everything else of it runs in
//! its order afterwards. JSON-RPC leaves the order within a batch open, and answers carry their request's id.

use std::{collections::HashSet, future::Future, sync::Arc, time::Instant};

use alloy_primitives::B256;
use bytes::Bytes;
use jsonrpsee::{
    BatchResponseBuilder, MethodResponse, ResponsePayload,
    server::middleware::rpc::{Batch, BatchEntry, BatchEntryErr, Notification, Request, RpcServiceT},
    types::{ErrorObjectOwned, Id, Params},
};
use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    backend::Backend,
    error::{self, Answer},
    gate::WebSocket,
    submit,
};

const SEND: &str = "eth_sendRawTransaction";

/// What the RPC server counts.
#[derive(Clone, Debug)]
pub struct RpcMetrics {
    requests: IntCounterVec,
    seconds: Histogram,
    batch: Histogram,
    pub(super) connections: IntGauge,
}

impl RpcMetrics {
    /// Metrics that belong to no registry.
    ///
    /// # Panics
    /// Never: names and labels are constants that follow the rules.
    #[must_use]
    pub fn new() -> Self {
        let rule = "constant names follow the rules";
        let requests = Opts::new("cascade_rpc_requests_total", "RPC requests by method and outcome (ok, error)");
        let seconds =
            HistogramOpts::new("cascade_rpc_request_seconds", "Time from a request (not in a batch) to its answer")
                .buckets(vec![0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0]);
        let batch = HistogramOpts::new("cascade_rpc_batch_requests", "Requests in a batch")
            .buckets(vec![1.0, 10.0, 50.0, 100.0, 500.0, 1_000.0, 5_000.0]);
        Self {
            requests: IntCounterVec::new(requests, &["method", "outcome"]).expect(rule),
            seconds: Histogram::with_opts(seconds).expect(rule),
            batch: Histogram::with_opts(batch).expect(rule),
            connections: IntGauge::new("cascade_rpc_connections", "Open HTTP connections").expect(rule),
        }
    }

    /// Adds them to a registry.
    ///
    /// # Errors
    /// If the registry has metrics of these names.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.requests.clone()))?;
        registry.register(Box::new(self.seconds.clone()))?;
        registry.register(Box::new(self.batch.clone()))?;
        registry.register(Box::new(self.connections.clone()))
    }

    fn count(&self, method: &str, success: bool, requests: u64) {
        let outcome = if success { "ok" } else { "error" };
        self.requests.with_label_values(&[method, outcome]).inc_by(requests);
    }
}

impl Default for RpcMetrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Bounds the memory of all requests in progress together: a WebSocket may send any number before it reads an answer.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    kib: Arc<Semaphore>,
    limit: usize,
}

impl Budget {
    /// 256 MiB, or room for four of the largest requests.
    pub(super) fn new(max_request_bytes: u32) -> Self {
        let limit = (256 << 10).max(4 * (max_request_bytes as usize / 1024 + 1));
        Self { kib: Arc::new(Semaphore::new(limit)), limit }
    }

    /// Takes room for a request with parameters of this many bytes; small ones count as 1 KiB.
    fn take(&self, bytes: usize) -> Answer<OwnedSemaphorePermit> {
        let kib = u32::try_from(1 + bytes / 1024).unwrap_or(u32::MAX);
        let refused = |_| error::limit("KiB of requests in progress", format!("{kib} more"), self.limit);
        Arc::clone(&self.kib).try_acquire_many_owned(kib).map_err(refused)
    }
}

fn parameter_bytes(request: &Request<'_>) -> usize {
    request.params.as_ref().map_or(0, |params| params.get().len())
}

/// What a middleware stands in front of.
pub(crate) trait InnerService:
    RpcServiceT<MethodResponse = MethodResponse, BatchResponse = MethodResponse, NotificationResponse = MethodResponse>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> InnerService for S where
    S: RpcServiceT<
            MethodResponse = MethodResponse,
            BatchResponse = MethodResponse,
            NotificationResponse = MethodResponse,
        > + Clone
        + Send
        + Sync
        + 'static
{
}

/// A call or notification of a batch, or what is none.
type Entry<'a> = Result<BatchEntry<'a>, BatchEntryErr<'a>>;

/// What the middleware of all connections shares.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) methods: Arc<HashSet<&'static str>>,
    pub(super) metrics: RpcMetrics,
    pub(super) budget: Budget,
    /// Most requests in a batch.
    pub(super) max_batch: usize,
    /// Most bytes of an answer.
    pub(super) max_response: usize,
    /// Whether raw transactions mean anything on this chain.
    pub(super) plain: bool,
}

/// The middleware of one connection.
#[derive(Clone)]
pub(super) struct Middleware<S> {
    pub(super) inner: S,
    pub(super) shared: Arc<Shared>,
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
        async move {
            let started = Instant::now();
            let _room = match this.shared.budget.take(parameter_bytes(&request)) {
                Ok(room) => room,
                Err(reason) => return MethodResponse::error(request.id().into_owned(), reason),
            };
            let response = this.one(request).await;
            this.shared.metrics.seconds.observe(started.elapsed().as_secs_f64());
            response
        }
    }

    fn batch<'a>(&self, batch: Batch<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        let this = self.clone();
        async move {
            let most = this.shared.max_batch;
            this.shared.metrics.batch.observe(batch.len() as f64);
            if batch.len() > most {
                return MethodResponse::error(Id::Null, error::limit("requests in a batch", batch.len(), most));
            }
            let entries: Vec<_> = batch.into_iter().collect();
            let bytes = entries.iter().map(|entry| match entry {
                Ok(BatchEntry::Call(request)) => parameter_bytes(request),
                Ok(BatchEntry::Notification(_)) | Err(_) => 0,
            });
            let _room = match this.shared.budget.take(bytes.sum()) {
                Ok(room) => room,
                Err(reason) => return MethodResponse::error(Id::Null, reason),
            };
            let sent = this.send_together(&entries).await;
            this.rest(entries, sent).await
        }
    }

    fn notification<'a>(&self, notification: Notification<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        self.inner.notification(notification)
    }
}

impl<S> Middleware<S>
where
    S: InnerService,
{
    async fn one(&self, request: Request<'_>) -> MethodResponse {
        let Some(&method) = self.shared.methods.get(request.method_name()) else {
            self.shared.metrics.count("unknown", false, 1);
            let reason = error::method(request.method_name(), "");
            return MethodResponse::error(request.id().into_owned(), reason);
        };
        if matches!(method, "eth_subscribe" | "eth_unsubscribe") && request.extensions().get::<WebSocket>().is_none() {
            self.shared.metrics.count(method, false, 1);
            let reason = error::method(method, ": notifications not supported over HTTP, use a WebSocket");
            return MethodResponse::error(request.id().into_owned(), reason);
        }
        let response = self.inner.call(request).await;
        self.shared.metrics.count(method, response.is_success(), 1);
        response
    }

    /// Gives all raw transactions of a batch to the node; the answers stand at the places of their requests.
    async fn send_together(&self, entries: &[Entry<'_>]) -> Vec<Option<Answer<B256>>> {
        let mut answers: Vec<Option<Answer<B256>>> = (0..entries.len()).map(|_| None).collect();
        if !self.shared.plain {
            return answers;
        }
        let (mut places, mut raw): (Vec<usize>, Vec<Bytes>) = Default::default();
        for (place, entry) in entries.iter().enumerate() {
            let Ok(BatchEntry::Call(request)) = entry else { continue };
            if request.method_name() != SEND {
                continue;
            }
            let params = Params::new(request.params.as_ref().map(|params| params.get()));
            match submit::raw_transaction(&params) {
                Ok(transaction) => {
                    places.push(place);
                    raw.push(transaction);
                }
                Err(reason) => answers[place] = Some(Err(reason)),
            }
        }
        if raw.is_empty() {
            return answers;
        }
        for (place, result) in places.into_iter().zip(self.shared.backend.submit(raw).await) {
            answers[place] = Some(result.map_err(ErrorObjectOwned::from));
        }
        answers
    }

    /// Runs what was not sent, and puts the answers of a batch together.
    async fn rest(&self, entries: Vec<Entry<'_>>, sent: Vec<Option<Answer<B256>>>) -> MethodResponse {
        let most = self.shared.max_response;
        let mut answers = BatchResponseBuilder::new_with_limit(most);
        let (mut notified, mut good, mut bad) = (false, 0, 0);
        for (entry, sent) in entries.into_iter().zip(sent) {
            let answer = match entry {
                Ok(BatchEntry::Call(request)) => match sent {
                    Some(Ok(hash)) => {
                        good += 1;
                        MethodResponse::response(request.id().into_owned(), ResponsePayload::success(hash), most)
                    }
                    Some(Err(reason)) => {
                        bad += 1;
                        MethodResponse::error(request.id().into_owned(), reason)
                    }
                    None => self.one(request).await,
                },
                Ok(BatchEntry::Notification(notification)) => {
                    notified = true;
                    self.inner.notification(notification).await;
                    continue;
                }
                Err(invalid) => {
                    let (reason, id) = invalid.into_parts();
                    MethodResponse::error(id, reason)
                }
            };
            if let Err(too_large) = answers.append(answer) {
                return too_large;
            }
        }
        self.shared.metrics.count(SEND, true, good);
        self.shared.metrics.count(SEND, false, bad);
        if answers.is_empty() && notified {
            MethodResponse::notification()
        } else {
            MethodResponse::from_batch(answers.finish())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_refuses_what_is_too_much_and_gets_back_what_is_done() {
        let budget = Budget::new(1 << 20);
        let taken: Vec<_> = (0..255).map(|_| budget.take((1 << 20) - 1024).unwrap()).collect();
        let small: Vec<_> = (0..1024).map(|_| budget.take(100).unwrap()).collect();
        let error = budget.take(0).unwrap_err();
        assert_eq!(error.message(), "limit exceeded: KiB of requests in progress: 1 more, limit 262144");
        drop(small);
        assert!(budget.take((1 << 20) - 1024).is_ok());
        drop(taken);
        // The largest request that a configuration allows always fits.
        assert!(Budget::new(u32::MAX).take(u32::MAX as usize).is_ok());
    }
}
