//! Watching nodes: the moments at which blocks become final, and status.

use std::time::{Duration, Instant};

use jsonrpsee::{
    core::client::{Subscription, SubscriptionClientT as _},
    rpc_params,
    ws_client::WsClientBuilder,
};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::rpc::types::FinalBlock;

/// How long to wait before a node that is away is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// Blocks that wait to be looked at. A watcher that is this far behind loses time, not blocks.
const PENDING: usize = 65_536;

/// A block that a node saw become final.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Which node, by its number in the list of URLs.
    pub node: usize,
    /// The block.
    pub block: FinalBlock,
    /// When the news arrived here.
    pub at: Instant,
}

/// Watches nodes until it is dropped.
#[derive(Debug)]
pub struct Watch {
    seen: mpsc::Receiver<Seen>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Watch {
    /// Watches the nodes at these WebSocket URLs; one that is away is tried again and again.
    #[must_use]
    pub fn start(urls: &[String]) -> Self {
        let (sender, seen) = mpsc::channel(PENDING);
        let watch = |(node, url): (usize, &String)| tokio::spawn(watch_node(node, url.clone(), sender.clone()));
        Self { seen, tasks: urls.iter().enumerate().map(watch).collect() }
    }

    /// The next final block that some node reports.
    pub async fn next(&mut self) -> Seen {
        match self.seen.recv().await {
            Some(seen) => seen,
            // The tasks end with this value alone; without one there is nothing to wait for.
            None => std::future::pending().await,
        }
    }

    /// The next report that has arrived already.
    pub fn try_next(&mut self) -> Option<Seen> {
        self.seen.try_recv().ok()
    }
}

async fn watch_node(node: usize, url: String, sender: mpsc::Sender<Seen>) {
    loop {
        if let Some((_client, mut blocks)) = subscribe(&url).await {
            while let Some(Ok(block)) = blocks.next().await {
                if sender.send(Seen { node, block, at: Instant::now() }).await.is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn subscribe(url: &str) -> Option<(jsonrpsee::ws_client::WsClient, Subscription<FinalBlock>)> {
    let client = WsClientBuilder::default()
        .connection_timeout(Duration::from_secs(5))
        .max_buffer_capacity_per_subscription(PENDING)
        .build(url)
        .await
        .ok()?;
    let blocks = client.subscribe("eth_subscribe", rpc_params!["l2_finalBlocks"], "eth_unsubscribe").await.ok()?;
    Some((client, blocks))
}
