//! What actors say to each other.
//!
//! Mailboxes are bounded. What comes from outside (peers, RPC) waits for room in the mailbox, so a slow actor holds
//! its senders back; what actors say to each other is bounded by what caused it and goes in at once.

use std::sync::Arc;

use actix::Message;
use bytes::Bytes;
use cascade_consensus::{
    BuildRequest, BuiltBlock, CarriageInput, Carried, ChainContext, Finality, Finalized, Status, Verdict,
};
use cascade_mempool::{
    Source,
    reveal::{Holder, RevealMessage},
};
use cascade_primitives::{
    B256, BlockHash, DaCommitment, Epoch, Height, NodeId, RecoveredTransaction, ResultEntry, SealedBlock, SystemItem,
    ThresholdKeys, Transaction, View,
};

use super::{items::CheckedItem, reveal::OpenedContent};

/// To consensus: a peer's message, decoded. Waits for room.
#[derive(Message)]
#[rtype(result = "()")]
pub struct FromPeer {
    /// The peer.
    pub from: NodeId,
    /// What it said.
    pub message: cascade_consensus::Message,
}

/// To carriage: what consensus wants carried, or says.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Carry(pub CarriageInput);

/// To carriage: a peer's message, decoded. Waits for room.
#[derive(Message)]
#[rtype(result = "()")]
pub struct FromMember {
    /// The peer.
    pub from: NodeId,
    /// What it said.
    pub message: Carried,
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
    /// An item of an encrypted chain, encoded.
    Item(Bytes),
    /// Opaque bytes.
    Opaque(Bytes),
}

impl Candidate {
    /// The bytes of an item of an encrypted chain.
    #[must_use]
    pub fn item(&self) -> Option<Bytes> {
        match self {
            Self::Item(bytes) => Some(bytes.clone()),
            Self::Plain(_) | Self::Opaque(_) => None,
        }
    }

    /// Bytes as submitted.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Plain(transaction) => transaction.raw().len(),
            Self::Item(bytes) | Self::Opaque(bytes) => bytes.len(),
        }
    }
}

/// A candidate that passed what can be checked without its sender's account.
pub enum Admitted {
    /// An Ethereum transaction with its signer.
    Plain(Box<RecoveredTransaction>),
    /// An item of an encrypted chain, its signatures and its ciphertext checked.
    Item(Box<CheckedItem>),
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

/// To content: what key generation would have in a block, in place of what it had before.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Offers {
    /// The items.
    pub items: Vec<SystemItem>,
    /// The epoch whose keys are made anew, if they are.
    pub forget: Option<Epoch>,
}

/// To keys: an item of key generation that a peer gossiped.
#[derive(Message)]
#[rtype(result = "()")]
pub struct KeyItem {
    /// The peer.
    pub from: NodeId,
    /// The item.
    pub item: SystemItem,
}

/// To consensus: this node has the keys for an epoch.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub struct KeysReady {
    /// The epoch.
    pub epoch: Epoch,
    /// The members root of the committee that the keys are made for.
    pub members_root: B256,
    /// The commitment to them.
    pub keys: ThresholdKeys,
}

/// To reveal: this node's shares of epochs before this one are erased.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub struct EraseBefore(pub Epoch);

/// To reveal: the keys of an epoch are complete.
#[derive(Message)]
#[rtype(result = "()")]
pub struct NewKeys(pub Holder);

/// To reveal: a peer's message, decoded. Waits for room.
#[derive(Message)]
#[rtype(result = "()")]
pub struct FromData {
    /// The peer.
    pub from: NodeId,
    /// What it said.
    pub message: RevealMessage,
}

/// To execution: a final block whose items are opened; none if it has no items.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Opened(pub Arc<Finalized>, pub Option<Arc<OpenedContent>>);
