//! What actors say to each other.
//!
//! Mailboxes are bounded. What comes from outside (peers, RPC) waits for room in the mailbox, so a slow actor holds
//! its senders back; what actors say to each other is bounded by what caused it and goes in at once.

use std::sync::Arc;

use actix::Message;
use bytes::Bytes;
use cascade_consensus::{BuildRequest, BuiltBlock, ChainContext, Finality, Finalized, Status, Verdict};
use cascade_mempool::Source;
use cascade_primitives::{
    B256, BlockHash, DaCommitment, Height, NodeId, RecoveredTransaction, ResultEntry, SealedBlock, Transaction, View,
};

/// To consensus: a peer's message, decoded. Waits for room.
#[derive(Message)]
#[rtype(result = "()")]
pub struct FromPeer {
    /// The peer.
    pub from: NodeId,
    /// What it said.
    pub message: cascade_consensus::Message,
}

/// To consensus and sync: a peer is connected.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub struct PeerConnected(pub NodeId);

/// To sync: a peer is gone.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub struct PeerGone(pub NodeId);

/// To consensus: whether the pool holds anything that a block could carry.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub struct Work(pub bool);

/// To consensus: a final block was executed and stored.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub struct Executed(pub ResultEntry);

/// To consensus: content for a block.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Built {
    /// The view it was asked for.
    pub view: View,
    /// The parent it was asked for.
    pub parent: BlockHash,
    /// The content.
    pub content: BuiltBlock,
}

/// To consensus: whether a block's content is valid.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Validated {
    /// The block.
    pub hash: BlockHash,
    /// The answer.
    pub verdict: Verdict,
    /// What the block's body makes a header commit to.
    pub da: DaCommitment,
}

/// To consensus: final blocks from a peer.
#[derive(Message)]
#[rtype(result = "()")]
pub struct FinalRange {
    /// The peer.
    pub from: NodeId,
    /// The blocks.
    pub blocks: Vec<Arc<SealedBlock>>,
    /// What makes the last of them final.
    pub finality: Finality,
}

/// To consensus: final blocks up to this height are stored durably.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub struct Stored(pub Height);

/// To consensus: the node stops; the log is synced and nothing is sent any more.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub struct Halt;

/// To content: build a block.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Build(pub Box<BuildRequest>);

/// To content: judge a block.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Validate(pub Arc<SealedBlock>, pub Box<BuildRequest>);

/// To storage, and from there to execution: a block is final.
#[derive(Message, Clone)]
#[rtype(result = "()")]
pub struct Final(pub Arc<Finalized>);

/// To storage: make everything up to now durable, and say so to consensus.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub struct MakeDurable;

/// To content: a block is final; its transactions leave the pool when it is executed.
#[derive(Message, Clone)]
#[rtype(result = "()")]
pub struct Ordered(pub Arc<SealedBlock>);

/// To content: a block was executed; state up to this height can be read.
#[derive(Message, Clone)]
#[rtype(result = "()")]
pub struct StateAdvanced(pub Height, pub Arc<SealedBlock>);

/// A transaction or payload on its way into the pool.
pub enum Candidate {
    /// An Ethereum transaction, decoded, its signer not yet recovered.
    Plain(Box<Transaction>),
    /// Opaque bytes.
    Opaque(Bytes),
}

/// A candidate that passed what can be checked without its sender's account.
pub enum Admitted {
    /// An Ethereum transaction with its signer.
    Plain(Box<RecoveredTransaction>),
    /// Opaque bytes.
    Opaque(Bytes),
}

/// To content: take these into the pool. Answers one result for each, in order.
#[derive(Message)]
#[rtype(result = "Vec<Result<B256, crate::rpc::backend::SubmitError>>")]
pub struct Admit {
    /// The transactions.
    pub candidates: Vec<Admitted>,
    /// Where they come from.
    pub source: Source,
}

/// To sync: the newest final block's chain.
#[derive(Message, Clone)]
#[rtype(result = "()")]
pub struct Head(pub Arc<ChainContext>);

/// To sync: where a peer stands.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub struct PeerStatus(pub NodeId, pub Status);

/// To sync: this node is behind that peer.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub struct Behind(pub NodeId);
