//! What goes into a core and what comes out of it.

use super::*;
use cascade_primitives::{SystemItem, block::MAX_SYSTEM_ITEMS, system::MAX_DEALINGS_PER_BLOCK};

/// What a core is made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The chain.
    pub rules: Arc<Rules>,
    /// Verifies votes.
    pub scheme: Arc<dyn VoteScheme>,
    /// Signs this node's votes; none on a node that only follows.
    pub signer: Option<Arc<dyn VoteSigner>>,
    /// This node.
    pub node: NodeId,
}

/// What a core starts or restarts from.
#[derive(Clone, Debug)]
pub struct Start {
    /// The newest final block that is stored.
    pub head: Arc<SealedBlock>,
    /// The chain up to it.
    pub context: ChainContext,
    /// The certificate that made it final; none for genesis.
    pub finality: Option<Finality>,
    /// Final blocks below the head, at least those above `context.last_result`.
    pub recent: Vec<Arc<SealedBlock>>,
    /// Results above `context.last_result` that were computed before.
    pub results: Vec<ResultEntry>,
    /// The vote log.
    pub records: Vec<Record>,
    /// The record beside the key; none for a key that never signed.
    pub sign_state: Option<SignState>,
}

/// What made a block final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finality {
    /// A commit certificate of the block, of a descendant, or of a filler above it.
    pub certificate: Arc<Certificate>,
    /// For the last block of an epoch: the headers from it up to the filler that the certificate is for.
    pub fillers: Vec<Header>,
}

/// A block that became final.
#[derive(Clone, Debug)]
pub struct Finalized {
    /// The block.
    pub block: Arc<SealedBlock>,
    /// The chain up to it.
    pub context: Arc<ChainContext>,
    /// Where its producer's fees go.
    pub producer: Address,
    /// Whether it is opened with its epoch's keys before it is executed (see [`ChainContext::is_opened`]).
    pub is_opened: bool,
    /// What made it final.
    pub finality: Finality,
}

/// The application's answer to [`Effect::Validate`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The content follows the application's rules.
    Valid,
    /// It breaks one that the block and its ancestors alone decide.
    Invalid(String),
}

/// Asks the application for the content of a block.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// The view that it is for.
    pub view: View,
    /// The chain up to its parent.
    pub parent: Arc<ChainContext>,
    /// Its epoch: the parent's, or the next one.
    pub epoch: Epoch,
    /// Its height.
    pub height: Height,
    /// Its time.
    pub timestamp: TimestampMs,
    /// Whether it may carry transactions.
    pub may_carry_content: bool,
    /// The newest height whose result its chain carries: the state that content is checked against.
    pub state_height: Height,
    /// Blocks above `state_height` up to the parent, in order.
    pub ancestors: Vec<Arc<SealedBlock>>,
    /// What the body will hold beside the content: certificates and system items. [`BuiltBlock::body`] puts both
    /// together. Empty where a block is judged, which has its body.
    pub frame: Body,
}

impl BuildRequest {
    /// Of the key generation's items that wait, in their order, those that this block may carry.
    #[must_use]
    pub fn key_items<'a>(&self, waiting: impl IntoIterator<Item = &'a SystemItem>) -> Vec<SystemItem> {
        // The first block of an epoch stands on a committee that has yet to be scheduled a successor's keys.
        if self.epoch != self.parent.epoch {
            return Vec::new();
        }
        let carried = |item: &SystemItem| self.ancestors.iter().any(|block| block.body.system.contains(item));
        let mut room = MAX_DEALINGS_PER_BLOCK;
        let mut fits = |item: &SystemItem| match item {
            SystemItem::Dealing(_) => room.checked_sub(1).map(|left| room = left).is_some(),
            SystemItem::Ready(_) | SystemItem::RecipientKey(_) => true,
        };
        let waiting = waiting.into_iter();
        waiting.filter(|item| self.parent.accepts_key_item(item) && !carried(item) && fits(item)).cloned().collect()
    }
}

/// The content of a block, from the application.
#[derive(Clone, Debug, Default)]
pub struct BuiltBlock {
    /// Transactions in the order in which they shall run.
    pub transactions: Vec<Bytes>,
    /// What belongs to key generation.
    pub system: Vec<SystemItem>,
    /// What opened the blocks whose results the header carries, up to [`BuildRequest::state_height`].
    pub reveals: Vec<Reveal>,
    /// Base fee in wei per gas.
    pub base_fee: u64,
    /// Sum of their gas limits.
    pub ordered_gas: u64,
    /// The commitment to the square of [`BuiltBlock::body`], where [`Header::has_square`] asks for one.
    pub da: DaCommitment,
}

impl BuiltBlock {
    /// The body of the block that this content makes with a request's frame. Where no content is allowed, only what opened
    /// earlier blocks goes in.
    #[must_use]
    pub fn body(&self, frame: &Body, may_carry_content: bool) -> Body {
        let mut body = Body { reveals: self.reveals.clone(), ..frame.clone() };
        if may_carry_content {
            let room = MAX_SYSTEM_ITEMS.saturating_sub(body.system.len());
            body.system.extend(self.system.iter().take(room).cloned());
            body.transactions.clone_from(&self.transactions);
        }
        body
    }
}

/// What a core is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// A peer's message. The connection proves who the peer is.
    Message {
        /// The peer.
        from: NodeId,
        /// What it said.
        message: Message,
    },
    /// A peer is there (again).
    Connected(NodeId),
    /// The time has come that [`Core::wake_at`] named.
    Tick,
    /// Whether the pool holds anything that a block could carry.
    Work(bool),
    /// A final block was executed.
    Executed(ResultEntry),
    /// On a chain with threshold keys: this node has all it needs to serve in an epoch. Without it, it does not say that
    /// it is ready.
    KeysReady {
        /// The epoch.
        epoch: Epoch,
        /// The members root of the committee that the keys are made for.
        members_root: B256,
        /// The commitment to them.
        keys: ThresholdKeys,
    },
    /// Answers [`Effect::Build`].
    Built {
        /// The view it was asked for.
        view: View,
        /// The parent it was asked for.
        parent: BlockHash,
        /// The content.
        content: BuiltBlock,
    },
    /// Answers [`Effect::Validate`].
    Validated {
        /// The block.
        hash: BlockHash,
        /// The answer. Until the application knows, it says nothing.
        verdict: Verdict,
        /// For a valid block of a chain with squares, the commitment to the square of its body, made anew from the body.
        da: DaCommitment,
    },
    /// A run of final blocks above the head, from a peer that was asked for it.
    FinalRange {
        /// The peer.
        from: NodeId,
        /// The blocks in order of height, all of one epoch.
        blocks: Vec<Arc<SealedBlock>>,
        /// What makes the last of them final.
        finality: Finality,
    },
}

/// What a core wants done.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Write and sync, before anything that follows leaves the machine.
    Persist {
        /// For the vote log.
        records: Vec<Record>,
        /// For the record beside the key.
        sign_state: Box<SignState>,
    },
    /// Tell every peer.
    Broadcast(Message),
    /// Tell one peer.
    Send(NodeId, Message),
    /// Ask the application for content.
    Build(Box<BuildRequest>),
    /// Ask the application whether content is valid; the request names the block's parent.
    Validate(Arc<SealedBlock>, Box<BuildRequest>),
    /// A block is final.
    Finalized(Box<Finalized>),
    /// A sequencer contradicted itself.
    Evidence(Evidence),
    /// A peer sent what no honest one sends.
    Misbehaved(NodeId, &'static str),
    /// Where a peer stands, for catching up.
    PeerStatus(NodeId, Status),
    /// Peers are ahead: fetch final blocks.
    Behind(NodeId),
    /// A view began, for metrics.
    EnteredView(Epoch, View),
    /// This node skipped a view, for logs and metrics.
    Skipped(View, SkipReason),
    /// A quorum contradicts what this node computed. It must stop.
    Fatal(String),
}

/// What a core holds in memory, as counts: for metrics, and to see that a peer cannot make it grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Blocks above and at the final head.
    pub blocks: usize,
    /// Bytes of those whose parent is not known, about.
    pub orphan_bytes: usize,
    /// Views of the epoch about which anything is known.
    pub views: usize,
    /// Votes in tallies.
    pub votes: usize,
    /// Blocks that were asked for and did not come yet.
    pub requested: usize,
}

/// How the node fares, for `l2_health` and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The epoch.
    pub epoch: Epoch,
    /// The view.
    pub view: View,
    /// The leader of the view.
    pub leader: NodeId,
    /// The newest final block.
    pub height: Height,
    /// When this node last saw a block become final.
    pub finalized_at: TimestampMs,
    /// Whether this node votes in this epoch.
    pub votes: bool,
    /// Seats of members heard of within the last leader timeouts, this node's included.
    pub seats_heard: u32,
    /// Seats of a quorum.
    pub quorum: u32,
    /// All seats.
    pub seats: u32,
}
