//! What the rest of the process may see of the actors without asking them: heads, health, counters, events.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use cascade_consensus::Health;
use cascade_primitives::{B256, Committee, Height, NodeId, View};
use parking_lot::RwLock;
use tokio::sync::broadcast;

use crate::rpc::backend::{ChainEvent, Counters, Heads, SyncProgress};

/// Events that a slow subscriber may be behind.
const EVENTS: usize = 4096;
/// Leaders that are known ahead.
pub const LEADERS_AHEAD: u64 = 64;

/// What consensus last said of itself.
#[derive(Clone, Debug)]
pub struct ConsensusView {
    /// Epoch, view, leader, seats heard of.
    pub health: Health,
    /// The committee that votes now.
    pub committee: Arc<Committee>,
    /// The committee of the next epoch.
    pub next_committee: Arc<Committee>,
    /// The leaders of this and the next terms, each with its first view.
    pub leaders: Vec<(View, NodeId)>,
}

/// Shared views of the actors' state.
#[derive(Debug)]
pub struct Hub {
    ordered: AtomicU64,
    executed: AtomicU64,
    safe: AtomicU64,
    counters: [AtomicU64; 5],
    consensus: RwLock<Option<ConsensusView>>,
    sync: RwLock<Option<SyncProgress>>,
    events: broadcast::Sender<ChainEvent>,
}

impl Hub {
    /// A hub for a node that starts at these heads.
    #[must_use]
    pub fn new(ordered: Height, executed: Height, safe: Height) -> Self {
        Self {
            ordered: ordered.0.into(),
            executed: executed.0.into(),
            safe: safe.0.into(),
            counters: Default::default(),
            consensus: RwLock::new(None),
            sync: RwLock::new(None),
            events: broadcast::channel(EVENTS).0,
        }
    }

    /// The heads that tags stand for.
    #[must_use]
    pub fn heads(&self) -> Heads {
        // Read from the lowest up: heads only rise, so a lower one never exceeds a higher one.
        let safe = Height(self.safe.load(Ordering::Acquire));
        let executed = Height(self.executed.load(Ordering::Acquire));
        let safe = safe.min(executed);
        Heads { ordered: Height(self.ordered.load(Ordering::Acquire)), executed, safe, finalized: safe }
    }

    /// A block is final and stored.
    pub fn ordered(&self, height: Height, transactions: u64, bytes: u64, event: ChainEvent) {
        self.ordered.store(height.0, Ordering::Release);
        self.counters[0].fetch_add(transactions, Ordering::Relaxed);
        self.counters[1].fetch_add(bytes, Ordering::Relaxed);
        self.send(event);
    }

    /// The envelopes of a final block are opened.
    pub fn opened(&self, height: Height) {
        self.send(ChainEvent::Opened { height });
    }

    /// Results up to this height stand in a final header.
    pub fn safe(&self, height: Height) {
        self.safe.fetch_max(height.0, Ordering::Release);
    }

    /// A block is executed and stored.
    pub fn executed(&self, height: Height, transactions: u64, gas: u64, event: ChainEvent) {
        self.executed.store(height.0, Ordering::Release);
        self.counters[2].fetch_add(transactions, Ordering::Relaxed);
        self.counters[3].fetch_add(gas, Ordering::Relaxed);
        self.send(event);
    }

    /// Transactions entered the pool through this node's RPC.
    pub fn submitted(&self, hashes: Vec<B256>) {
        self.counters[4].fetch_add(hashes.len() as u64, Ordering::Relaxed);
        self.send(ChainEvent::Pending(Arc::new(hashes)));
    }

    /// Totals since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let [ordered, bytes, executed, gas, submitted] =
            [0, 1, 2, 3, 4].map(|i| self.counters[i].load(Ordering::Relaxed));
        Counters {
            ordered_transactions: ordered,
            ordered_bytes: bytes,
            executed_transactions: executed,
            executed_gas: gas,
            submitted_transactions: submitted,
        }
    }

    /// What consensus last said of itself; none before its first step.
    #[must_use]
    pub fn consensus(&self) -> Option<ConsensusView> {
        self.consensus.read().clone()
    }

    /// Whether a node votes in this epoch, as far as is known.
    pub fn is_member(&self, node: &NodeId) -> bool {
        self.consensus.read().as_ref().is_some_and(|view| view.committee.index_of(node).is_some())
    }

    /// Whether a node has a part in making the next epoch's keys, as far as is known: it votes in this epoch or the next.
    pub fn makes_keys(&self, node: &NodeId) -> bool {
        let is_of = |committee: &Committee| committee.index_of(node).is_some();
        self.consensus.read().as_ref().is_some_and(|view| is_of(&view.committee) || is_of(&view.next_committee))
    }

    /// Consensus says how it fares.
    pub fn set_consensus(&self, view: ConsensusView) {
        *self.consensus.write() = Some(view);
    }

    /// How far catching up has come.
    #[must_use]
    pub fn sync(&self) -> Option<SyncProgress> {
        *self.sync.read()
    }

    /// Catching up goes on, or is done.
    pub fn set_sync(&self, progress: Option<SyncProgress>) {
        *self.sync.write() = progress;
    }

    /// Events from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<ChainEvent> {
        self.events.subscribe()
    }

    fn send(&self, event: ChainEvent) {
        // Nobody needs to listen.
        let _ = self.events.send(event);
    }
}
