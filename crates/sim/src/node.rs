//! One simulated node: a core, its disk, its application and, if it is Byzantine, what bends its words.

use std::{collections::VecDeque, sync::Arc};

use cascade_consensus::{Bugs, Carried, Carrier, Core, Message, Sync, SyncRequest, SyncResponse};
use cascade_mempool::reveal::RevealMessage;
use cascade_primitives::{Bytes, NodeId, SystemItem};

use crate::{adversary::Adversary, app::App, config::Timing, disk::Disk, sealed::Party};

/// What travels between nodes.
#[derive(Clone, Debug)]
pub(crate) enum Payload {
    Consensus(Message),
    Transaction(Bytes),
    /// An item of key generation.
    Item(SystemItem),
    /// Shares, requests for them and what they come to.
    Reveal(RevealMessage),
    /// Chunks of proposals, and requests for the whole.
    Carried(Arc<Carried>),
    /// The life of the asker names the stream: no answer outlives it.
    Request {
        life: u32,
        id: u64,
        request: SyncRequest,
    },
    Response {
        life: u32,
        id: u64,
        response: Arc<SyncResponse>,
    },
}

/// Messages that wait for the syncs of what they rest on.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) ready_at: u64,
    pub(crate) messages: Vec<(Option<NodeId>, Message)>,
}

/// What a crash ends.
#[derive(Debug)]
pub(crate) struct Running<B: Bugs> {
    pub(crate) core: Core<B>,
    pub(crate) sync: Sync,
    pub(crate) app: App,
    /// Where leaders send chunks.
    pub(crate) carrier: Option<Carrier<B>>,
    /// On an encrypted chain.
    pub(crate) party: Option<Party<B>>,
    pub(crate) outbox: VecDeque<Batch>,
    /// When the syncs that are under way are done.
    pub(crate) disk_free_at: u64,
    /// When the core wants to be woken.
    pub(crate) wake_at: u64,
    pub(crate) sync_wake_at: u64,
    pub(crate) carrier_wake_at: u64,
    pub(crate) has_work: bool,
}

#[derive(Debug)]
pub(crate) struct Node<B: Bugs> {
    pub(crate) disk: Disk,
    pub(crate) running: Option<Running<B>>,
    /// Rises with every crash, so that what was under way then is not taken up by the next life.
    pub(crate) life: u32,
    pub(crate) clock: i64,
    pub(crate) adversary: Option<Adversary>,
    /// Ms that a sync takes.
    pub(crate) sync_delay: u64,
    /// Ms that executing a block takes.
    pub(crate) execution_delay: u64,
    /// Until when it stands still.
    pub(crate) paused_until: u64,
    /// Whether it dies in the middle of its next write.
    pub(crate) dies_writing: bool,
}

impl<B: Bugs> Node<B> {
    /// A node that does not run yet.
    pub(crate) fn new(disk: Disk, clock: i64, adversary: Option<Adversary>, timing: Timing) -> Self {
        Self {
            disk,
            running: None,
            life: 0,
            clock,
            adversary,
            sync_delay: timing.sync,
            execution_delay: timing.execution,
            paused_until: 0,
            dies_writing: false,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.running.is_some()
    }
}

/// The done transactions of a chain.
pub(crate) fn done_transactions(disk: &Disk) -> std::collections::BTreeSet<u64> {
    let numbers = disk.blocks().iter().flat_map(|s| &s.block.body.transactions);
    numbers.filter_map(|t| t.get(1..9)).map(|b| u64::from_le_bytes(b.try_into().expect("eight bytes"))).collect()
}

/// Final blocks that are stored but whose results are not.
pub(crate) fn unexecuted(disk: &Disk) -> Vec<Arc<cascade_primitives::SealedBlock>> {
    let from = disk.last_result().height.next();
    (from.0..=disk.head().block.header.height.0)
        .filter_map(|h| disk.stored(cascade_primitives::Height(h)))
        .map(|s| Arc::clone(&s.block))
        .collect()
}
