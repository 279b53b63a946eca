//! The driver: sends at fixed intended times and watches the observer.

use std::{
    io::Read as _,
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_primitives::B256;
use bytes::Bytes;
use cascade_primitives::ChainParams;
use jsonrpsee::{
    core::client::{Subscription, SubscriptionClientT as _},
    rpc_params,
    ws_client::WsClientBuilder,
};
use serde::Deserialize;
use tokio::{sync::mpsc, task::JoinSet};

use super::{DriverEvent, Job, LoadKind, http::Connection, payload::Payloads, tally::Tally};
use crate::{
    cli::{Client, Failure, output},
    rpc::types::{BatchOutcome, FinalBlock},
    sealing::Seal,
};

/// Payloads go out in batches this often; what is due in between waits for the next one, and its latency counts that.
const TICK: Duration = Duration::from_millis(5);
/// Connections to each node, so that one slow answer holds nothing up. Answers to envelopes wait for a batch of proofs.
const CONNECTIONS: usize = 4;
const CONNECTIONS_SEALED: usize = 16;
/// Payloads in a batch.
const BATCH: usize = 500;
/// How long to wait, after the last payload was sent, for those that are not final.
const DRAIN: Duration = Duration::from_secs(10);
/// Between preparing and the first payload.
const LEAD: Duration = Duration::from_millis(500);
/// How long a fresh chain may take to make its first key.
const KEY_WAIT: Duration = Duration::from_secs(60);
/// Blocks that may wait to be read. More than a chain makes in any run.
const BLOCKS: usize = 1 << 20;

/// Reads the job from stdin, runs it, and writes events to stdout.
pub(crate) fn run() -> Result<(), Failure> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|error| Failure::io("stdin", &error))?;
    let job: Job = serde_json::from_str(&text).map_err(|error| Failure::usage(format!("the job on stdin: {error}")))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::io("cannot start the runtime", &error))?;
    let seal = match job.kind {
        LoadKind::Encrypted => Some(runtime.block_on(wait_for_key(&job))?),
        LoadKind::Transfer | LoadKind::Opaque => None,
    };
    let payloads = Payloads::prepare(&job, seal.as_ref().map(|(seal, params)| (seal, params)));
    runtime.block_on(drive(job, payloads))
}

/// A fresh chain makes its first key.
async fn wait_for_key(job: &Job) -> Result<(Seal, ChainParams), Failure> {
    let client = Client::new(&job.observe_http)?;
    let params = client.params().await?;
    let end = tokio::time::Instant::now() + KEY_WAIT;
    output::note("driver: waits for the chain's first key");
    loop {
        match Seal::of(&client.epoch_keys().await?, params.max_validity) {
            Ok(seal) => {
                output::note(&format!("driver: seals {} transfers", job.rate * (job.warmup + job.secs)));
                return Ok((seal, params));
            }
            Err(error) if tokio::time::Instant::now() >= end => return Err(Failure::new(error)),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// A batch on its way to a connection.
struct Batch {
    payloads: Vec<(u64, B256)>,
    body: Bytes,
}

async fn drive(job: Job, payloads: Payloads) -> Result<(), Failure> {
    let start = Instant::now() + LEAD;
    let tally = Arc::new(Tally::new(start, &job));
    let mut tasks = JoinSet::new();
    let mut queues = Vec::new();
    for url in &job.submit {
        // Unbounded on purpose: the load is open loop, and everything that is sent stands in memory before.
        let (sender, receiver) = mpsc::unbounded_channel();
        let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
        for _ in 0..if job.kind == LoadKind::Encrypted { CONNECTIONS_SEALED } else { CONNECTIONS } {
            let connection = Connection::open(url).await.map_err(Failure::new)?;
            tasks.spawn(submit(connection, Arc::clone(&receiver), Arc::clone(&tally), job.kind));
        }
        queues.push(sender);
    }
    let observer = Observer::connect(&job, Arc::clone(&tally)).await?;
    let observer = tokio::spawn(observer.run());
    output::json(&DriverEvent::Ready)?;
    send_all(&job, &payloads, &tally, &queues).await?;
    drop(queues);
    let end = tokio::time::Instant::now() + DRAIN;
    while !tally.is_finished() && tokio::time::Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    observer.abort();
    tasks.abort_all();
    output::json(&DriverEvent::Result(tally.result()))
}

/// Hands out what is due, tick by tick, and says when the window begins and ends.
async fn send_all(
    job: &Job,
    payloads: &Payloads,
    tally: &Tally,
    queues: &[mpsc::UnboundedSender<Batch>],
) -> Result<(), Failure> {
    let window = Duration::from_secs(job.warmup)..Duration::from_secs(job.warmup + job.secs);
    let (mut next, mut in_window) = (0, false);
    let mut tick = tokio::time::interval_at(tally.start.into(), TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tick.tick().await;
        let now = tally.start.elapsed();
        if !in_window && now >= window.start {
            in_window = true;
            output::json(&DriverEvent::WindowStart)?;
        }
        let mut due = vec![Vec::new(); queues.len()];
        while next < tally.total() && tally.due(next) <= now {
            due[payloads.node_of(next, job.senders, queues.len())].push(next);
            next += 1;
        }
        for (queue, due) in queues.iter().zip(due) {
            for part in due.chunks(BATCH) {
                // A connection that is gone has said why.
                let _ = queue.send(batch(job.kind, payloads, part));
            }
        }
        if now >= window.end {
            return output::json(&DriverEvent::WindowEnd);
        }
    }
}

/// One HTTP body: a JSON-RPC batch of transactions, or one request with many payloads.
fn batch(kind: LoadKind, payloads: &Payloads, numbers: &[u64]) -> Batch {
    let (mut body, mut scratch) = (Vec::new(), Vec::new());
    let mut names = Vec::with_capacity(numbers.len());
    match kind {
        LoadKind::Opaque => {
            body.extend_from_slice(br#"{"jsonrpc":"2.0","id":1,"method":"l2_sendOpaqueBatch","params":[["#);
            for (at, i) in numbers.iter().enumerate() {
                if at > 0 {
                    body.push(b',');
                }
                names.push((*i, payloads.append(*i, &mut scratch, &mut body)));
            }
            body.extend_from_slice(b"]]}");
        }
        LoadKind::Transfer | LoadKind::Encrypted => {
            let method = if kind == LoadKind::Encrypted { "l2_sendEnvelope" } else { "eth_sendRawTransaction" };
            body.push(b'[');
            for (at, i) in numbers.iter().enumerate() {
                if at > 0 {
                    body.push(b',');
                }
                body.extend_from_slice(
                    format!(r#"{{"jsonrpc":"2.0","id":{at},"method":"{method}","params":["#).as_bytes(),
                );
                names.push((*i, payloads.append(*i, &mut scratch, &mut body)));
                body.extend_from_slice(b"]}");
            }
            body.push(b']');
        }
    }
    Batch { payloads: names, body: body.into() }
}

/// Sends batches over one connection, one at a time.
async fn submit(
    mut connection: Connection,
    queue: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Batch>>>,
    tally: Arc<Tally>,
    kind: LoadKind,
) {
    loop {
        let Some(batch) = queue.lock().await.recv().await else { return };
        tally.sent(&batch.payloads);
        let refused = match connection.post(batch.body).await {
            Ok(answer) => refusals(kind, &answer, batch.payloads.len()),
            Err(words) => {
                tally.refused(batch.payloads.iter().map(|(i, _)| *i), &words);
                output::note(&format!("driver: {words}"));
                return;
            }
        };
        if let Some((places, words)) = refused {
            tally.refused(places.into_iter().filter_map(|place| batch.payloads.get(place)).map(|(i, _)| *i), &words);
        }
    }
}

#[derive(Deserialize)]
struct Answer<T> {
    result: Option<T>,
    error: Option<AnswerError>,
}

#[derive(Deserialize)]
struct AnswerError {
    message: String,
}

/// Which of so many payloads an answer refuses, by their places, and the words of the first. An answer that is none refuses
/// all.
fn refusals(kind: LoadKind, answer: &[u8], count: usize) -> Option<(Vec<usize>, String)> {
    let all = |words: String| Some(((0..count).collect(), words));
    let broken = |error: serde_json::Error| all(format!("an answer that is none: {error}"));
    match kind {
        LoadKind::Opaque => match serde_json::from_slice::<Answer<BatchOutcome>>(answer) {
            Ok(Answer { error: Some(error), .. }) => all(error.message),
            Ok(Answer { result: Some(outcome), .. }) => {
                let words = outcome.refused.first()?.error.clone();
                Some((outcome.refused.iter().map(|refused| refused.index as usize).collect(), words))
            }
            Ok(_) => all("neither a result nor an error".to_owned()),
            Err(error) => broken(error),
        },
        LoadKind::Transfer | LoadKind::Encrypted => match serde_json::from_slice::<Vec<Answer<B256>>>(answer) {
            Ok(answers) => {
                let refused = answers.into_iter().enumerate().filter_map(|(i, a)| a.error.map(|e| (i, e.message)));
                let (places, words): (Vec<_>, Vec<_>) = refused.unzip();
                Some((places, words.into_iter().next()?))
            }
            Err(error) => broken(error),
        },
    }
}

/// Reads from the one node that nothing is submitted to.
struct Observer {
    tally: Arc<Tally>,
    kind: LoadKind,
    client: Client,
    finals: Subscription<FinalBlock>,
    heads: Subscription<Head>,
    _socket: jsonrpsee::ws_client::WsClient,
}

#[derive(Deserialize)]
struct Head {
    number: alloy_primitives::U64,
}

impl Observer {
    async fn connect(job: &Job, tally: Arc<Tally>) -> Result<Self, Failure> {
        let failed = |error: jsonrpsee::core::client::Error| Failure::new(format!("{}: {error}", job.observe_ws));
        let socket = WsClientBuilder::default()
            .max_buffer_capacity_per_subscription(BLOCKS)
            .build(&job.observe_ws)
            .await
            .map_err(failed)?;
        let finals = socket.subscribe("eth_subscribe", rpc_params!["l2_finalBlocks"], "eth_unsubscribe");
        let finals = finals.await.map_err(failed)?;
        let heads = socket.subscribe("eth_subscribe", rpc_params!["newHeads"], "eth_unsubscribe");
        let heads = heads.await.map_err(failed)?;
        let client = Client::new(&job.observe_http)?;
        Ok(Self { tally, kind: job.kind, client, finals, heads, _socket: socket })
    }

    /// Notes the moments of news as they come; what is in the blocks is read behind that, so that reading delays no
    /// moment.
    async fn run(self) {
        let (final_news, finals) = mpsc::unbounded_channel();
        let (head_news, heads) = mpsc::unbounded_channel();
        let Self { tally, kind, client, finals: mut final_feed, heads: mut head_feed, _socket } = self;
        match kind {
            LoadKind::Encrypted => {
                tokio::spawn(read_opened(finals, heads, client, tally));
            }
            LoadKind::Transfer => {
                tokio::spawn(read_finals(finals, client.clone(), Arc::clone(&tally)));
                tokio::spawn(read_executed(heads, client, tally));
            }
            LoadKind::Opaque => {
                tokio::spawn(read_finals(finals, client, tally));
            }
        }
        loop {
            tokio::select! {
                Some(Ok(block)) = final_feed.next() => {
                    let _ = final_news.send((Instant::now(), block.height.0));
                }
                Some(Ok(head)) = head_feed.next() => {
                    let _ = head_news.send((Instant::now(), head.number.to::<u64>()));
                }
                else => {
                    output::note("driver: the observer's subscriptions ended");
                    return;
                }
            }
        }
    }
}

async fn read_finals(mut news: mpsc::UnboundedReceiver<(Instant, u64)>, client: Client, tally: Arc<Tally>) {
    while let Some((at, height)) = news.recv().await {
        match client.block(height).await {
            Ok(Some(block)) => tally.finals(at, &block.transactions.unwrap_or_default()),
            Ok(None) => output::note(&format!("driver: the observer has no final block {height}")),
            Err(error) => output::note(&format!("driver: {error}")),
        }
    }
}

async fn read_executed(mut news: mpsc::UnboundedReceiver<(Instant, u64)>, client: Client, tally: Arc<Tally>) {
    while let Some((at, height)) = news.recv().await {
        match client.successes(height).await {
            Ok(hashes) => tally.executed(at, &hashes),
            Err(error) => output::note(&format!("driver: {error}")),
        }
    }
}

/// What is inside envelopes is known once they are opened: the moment of their finality is remembered until then.
async fn read_opened(
    mut finals: mpsc::UnboundedReceiver<(Instant, u64)>,
    mut heads: mpsc::UnboundedReceiver<(Instant, u64)>,
    client: Client,
    tally: Arc<Tally>,
) {
    let mut final_at = std::collections::BTreeMap::new();
    while let Some((at, height)) = heads.recv().await {
        while let Ok((at, height)) = finals.try_recv() {
            final_at.insert(height, at);
        }
        match client.successes(height).await {
            Ok(hashes) => {
                if let Some(final_at) = final_at.remove(&height) {
                    tally.finals(final_at, &hashes);
                }
                tally.executed(at, &hashes);
            }
            Err(error) => output::note(&format!("driver: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted() {
        let answer = br#"[{"jsonrpc":"2.0","id":0,"result":"0x0000000000000000000000000000000000000000000000000000000000000001"},
            {"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"nonce too low"}}]"#;
        assert_eq!(refusals(LoadKind::Transfer, answer, 2), Some((vec![1], "nonce too low".to_owned())));
        let answer = br#"{"jsonrpc":"2.0","id":1,"result":{"accepted":1,"refused":[{"index":1,"error":"pool full"}]}}"#;
        assert_eq!(refusals(LoadKind::Opaque, answer, 2), Some((vec![1], "pool full".to_owned())));
        let answer = br#"{"jsonrpc":"2.0","id":1,"result":{"accepted":2,"refused":[]}}"#;
        assert_eq!(refusals(LoadKind::Opaque, answer, 2), None);
        let answer = br#"{"jsonrpc":"2.0","id":1,"error":{"code":-32005,"message":"too many"}}"#;
        assert_eq!(refusals(LoadKind::Opaque, answer, 2), Some((vec![0, 1], "too many".to_owned())));
    }
}
