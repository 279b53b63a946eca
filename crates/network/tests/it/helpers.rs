//! Starts nodes and waits for what they report. Nothing sleeps: everything waits for an event, with a limit.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use cascade_network::{
    Backoff, DisconnectReason, Event, Identity, Message, Network, NetworkConfig, NetworkId, PeerInfo, Receivers,
};
use cascade_primitives::{B256, ChainId, NodeId};
use prometheus::Registry;
use tokio::{sync::mpsc::Receiver, time::timeout};

pub const LIMIT: Duration = Duration::from_secs(20);
pub const NETWORK: NetworkId = NetworkId { chain_id: ChainId(31337), genesis_hash: B256::repeat_byte(7) };

pub struct Node {
    pub network: Network,
    pub rx: Receivers,
    pub metrics: Registry,
    pub seed: u8,
}

pub fn identity(seed: u8) -> Identity {
    Identity::from_seed(&[seed; 32])
}

pub fn id(seed: u8) -> NodeId {
    identity(seed).node_id()
}

pub fn config() -> NetworkConfig {
    let mut config = NetworkConfig::new("127.0.0.1:0".parse().unwrap(), NETWORK);
    config.backoff = Backoff { first: Duration::from_millis(20), most: Duration::from_millis(200) };
    config.allow_private = true;
    config.socket_buffer = 1 << 20;
    config
}

impl Node {
    pub async fn start(seed: u8) -> Self {
        Self::with(seed, |_| {}).await
    }

    pub async fn with(seed: u8, change: impl FnOnce(&mut NetworkConfig)) -> Self {
        let mut config = config();
        change(&mut config);
        let metrics = Registry::new();
        let (network, rx) = Network::start(config, identity(seed), &metrics).await.unwrap();
        Self { network, rx, metrics, seed }
    }

    pub fn id(&self) -> NodeId {
        id(self.seed)
    }

    pub fn addr(&self) -> SocketAddr {
        self.network.local_addr()
    }

    pub fn dial(&self, other: &Self) {
        self.network.dial(other.addr(), None);
    }

    /// The next event that `pick` takes; others are skipped.
    pub async fn event<T>(&mut self, what: &str, mut pick: impl FnMut(Event) -> Option<T>) -> T {
        let wait = async {
            loop {
                let event = self.rx.events.recv().await.expect("the network runs");
                if let Some(found) = pick(event) {
                    return found;
                }
            }
        };
        let Ok(found) = timeout(LIMIT, wait).await else { panic!("node {}: no {what}", self.seed) };
        found
    }

    pub async fn connected(&mut self, other: NodeId) -> PeerInfo {
        let pick = |e| if let Event::Connected(info) = e { Some(info).filter(|i| i.node == other) } else { None };
        self.event("connection", pick).await
    }

    pub async fn disconnected(&mut self, other: NodeId) -> DisconnectReason {
        let pick = |e| match e {
            Event::Disconnected { peer, reason } if peer == other => Some(reason),
            _ => None,
        };
        self.event("disconnection", pick).await
    }

    /// The sum of a metric over the label values that contain all of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        let families = self.metrics.gather();
        let Some(family) = families.iter().find(|f| f.name() == format!("cascade_network_{name}")) else { return 0 };
        let has = |m: &&prometheus::proto::Metric, label: &&str| m.get_label().iter().any(|l| l.value() == *label);
        let matching = family.get_metric().iter().filter(|m| labels.iter().all(|l| has(m, l)));
        matching.map(|m| (m.get_counter().get_value() + m.get_gauge().get_value()) as u64).sum()
    }
}

pub async fn pair() -> (Node, Node) {
    pair_with(|_| {}, |_| {}).await
}

/// Node 1 dials node 2.
pub async fn pair_with(
    first: impl FnOnce(&mut NetworkConfig),
    second: impl FnOnce(&mut NetworkConfig),
) -> (Node, Node) {
    let mut a = Node::with(1, first).await;
    let mut b = Node::with(2, second).await;
    a.dial(&b);
    a.connected(b.id()).await;
    b.connected(a.id()).await;
    (a, b)
}

pub async fn next(rx: &mut Receiver<Message>) -> Message {
    timeout(LIMIT, rx.recv()).await.expect("no message").expect("the network runs")
}

/// A message of `length` bytes that begins with a number.
pub fn numbered(n: u32, length: usize) -> Bytes {
    let mut bytes = vec![0xaa; length];
    bytes[..4].copy_from_slice(&n.to_le_bytes());
    Bytes::from(bytes)
}

pub fn number(message: &[u8]) -> u32 {
    u32::from_le_bytes(message[..4].try_into().unwrap())
}
