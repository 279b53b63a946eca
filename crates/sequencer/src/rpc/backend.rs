//! What the RPC needs of a node.
//!
//! ```text
//!             final order ---------------------+   (ordered: tag `pending`)
//!             executed -----------------+      |   (executed: tag `latest`)
//!             result in a final header  |      |   (safe: tags `safe` and `finalized`)
//!                            |          |      |
//!  0 ... blocks ......... [safe] .. [executed] [ordered]   only final blocks are ever shown
//! ```
//!
//! Reads are synchronous, may touch the disk and must not wait for anything else: the RPC calls cheap ones on its own
//! threads and those that may take long on blocking threads. Every answer is a snapshot; two calls may see different
//! heads. All heights at or below [`Heads::ordered`] have a block, all at or below [`Heads::executed`] have a result,
//! a bloom filter and receipts.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use alloy_primitives::{Address, B256, Bloom};
use bytes::Bytes;
use cascade_execution::{Receipt, StateError, StateView, StoreError};
use cascade_mempool::{AdmissionError, OpaqueError, keybook::KeyProgress};
use cascade_primitives::{
    BlockHash, Certificate, ChainParams, Committee, Epoch, Header, Height, NodeId, PublicKeys, RecoveredTransaction,
    ResultEntry, SealedBlock, TransactionError, View,
};
use cascade_storage::OpenedItem;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::broadcast;

pub use crate::node::CheckError;

/// A node that failed to answer. Never an answer such as "there is no such block".
#[derive(Debug, Error)]
pub enum BackendError {
    /// There is no state at the height asked for.
    #[error(transparent)]
    State(#[from] StateError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Anything else, with its text; the RPC logs it and shows it as an internal error.
    #[error("{0}")]
    Internal(String),
}

/// Why a transaction or payload was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SubmitError {
    /// The bytes are no transaction of this chain, or not signed as it demands.
    #[error(transparent)]
    Transaction(#[from] TransactionError),
    /// The pool refused it.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    /// The pool of a chain of opaque payloads refused it.
    #[error(transparent)]
    Opaque(#[from] OpaqueError),
    /// An item of an encrypted chain that is none.
    #[error(transparent)]
    Item(#[from] CheckError),
    /// An envelope for an epoch whose key is not made.
    #[error(
        "the envelope is sealed to the key of epoch {epoch}, which this node does not have; l2_epochKey tells the key in use"
    )]
    NoKey {
        /// Its epoch.
        epoch: u64,
    },
    /// An envelope for an epoch that is over.
    #[error(
        "the envelope is sealed to the key of epoch {epoch}, and epoch {now} has begun; l2_epochKey tells the key in use"
    )]
    PastEpoch {
        /// Its epoch.
        epoch: u64,
        /// The epoch that votes now.
        now: u64,
    },
    /// An envelope that no block can carry any more.
    #[error("the envelope is valid until block {valid_until}, the next is {next}")]
    Expired {
        /// Its last height.
        valid_until: u64,
        /// The next height.
        next: u64,
    },
    /// An envelope that is valid for too long.
    #[error("the envelope is valid until block {valid_until}, allowed is {limit} at the most")]
    ValidTooLong {
        /// Its last height.
        valid_until: u64,
        /// The highest allowed.
        limit: u64,
    },
    /// An envelope of a payer with a false proof, which was not looked at.
    #[error(
        "a proof that this payer signed does not hold, so its envelopes are not looked at for some seconds; send again"
    )]
    Suspect,
    /// The node takes nothing at the moment; the text says why.
    #[error("{0}")]
    Unavailable(String),
}

/// Heights that the tags of `eth_` methods stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Heads {
    /// `pending`: the newest block whose order is final.
    pub ordered: Height,
    /// `latest`: the newest block that is executed; at most `ordered`.
    pub executed: Height,
    /// `safe`: the newest block whose results a final header carries; at most `executed`.
    pub safe: Height,
    /// `finalized`: the newest block that L1 made final; the same as `safe` without an L1.
    pub finalized: Height,
}

/// What executing a block gave, without its receipts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockResult {
    /// What a later header carries.
    pub entry: ResultEntry,
    /// Bloom filter over the logs.
    pub bloom: Bloom,
}

/// A final block.
#[derive(Clone, Debug)]
pub struct BlockData {
    /// Header and body.
    pub block: Arc<SealedBlock>,
    /// What executing it gave; none while it waits for its execution.
    pub result: Option<BlockResult>,
    /// Who gets its tips: shown as `miner`, and `COINBASE` in calls.
    pub producer: Address,
    /// What `PREVRANDAO` gives in it: shown as `mixHash`.
    pub prev_randao: B256,
    /// On an encrypted chain what was in an executed block, in the order in which it ran; one for each receipt.
    pub opened: Option<Arc<Vec<OpenedItem>>>,
}

/// The keys that transactions can be sealed to.
#[derive(Clone, Debug)]
pub struct EpochKeysView {
    /// The epoch that votes now.
    pub epoch: Epoch,
    /// Keys of this and the next epoch, as far as they are made, with the members roots of their committees.
    pub keys: Vec<(PublicKeys, B256)>,
    /// How far the keys of which epoch are.
    pub progress: Option<(Epoch, KeyProgress)>,
}

/// Where a transaction or payload stands in the final order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// Its block.
    pub height: Height,
    /// Its place in the block, from 0.
    pub index: u32,
}

/// What shows that a block is final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinalityProof {
    /// A commit certificate of the block or of one above it.
    pub certificate: Arc<Certificate>,
    /// Headers from the one above the block up to the one that the certificate is for, fillers included, each with the
    /// one before it as parent. Empty if the certificate is for the block itself.
    pub headers: Vec<Header>,
    /// The committee that the certificate's bitmap refers to.
    pub committee: Arc<Committee>,
}

/// A connected peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// Who it is.
    pub node: NodeId,
    /// The address that this node sees.
    pub address: SocketAddr,
    /// Whether it dialled this node.
    pub inbound: bool,
}

/// How far a node that catches up has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncProgress {
    /// Height at which it began to catch up.
    pub from: Height,
    /// The highest final block that a peer has shown a certificate of.
    pub target: Height,
}

/// What waits in the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolCounts {
    /// Transactions (or payloads) that can be selected.
    pub pending: u64,
    /// Transactions behind a gap in their sender's nonces.
    pub queued: u64,
    /// Transactions in blocks that are not executed (payloads: not final) yet.
    pub in_flight: u64,
}

/// Totals since the node started, from which rates are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// Transactions or payloads in final blocks.
    pub ordered_transactions: u64,
    /// Bytes of these.
    pub ordered_bytes: u64,
    /// Transactions executed, no-ops included.
    pub executed_transactions: u64,
    /// Gas charged.
    pub executed_gas: u64,
    /// Transactions or payloads that entered the pool through this node's RPC.
    pub submitted_transactions: u64,
}

/// A node's state, for `l2_health`, `l2_status`, `eth_syncing` and `net_peerCount`.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// Who this node is.
    pub node: NodeId,
    /// What consensus knows.
    pub health: cascade_consensus::Health,
    /// None if the node is in step with its peers.
    pub sync: Option<SyncProgress>,
    /// The peers that it is connected with.
    pub peers: Vec<PeerInfo>,
    /// Its pool.
    pub pool: PoolCounts,
    /// Its totals.
    pub counters: Counters,
}

/// What happens on the chain. Sent in order; `Final` of a height comes before its `Opened`, and that before its `Executed`.
#[derive(Clone, Debug)]
pub enum ChainEvent {
    /// A block is final in its order.
    Final {
        /// Its height.
        height: Height,
        /// Its hash.
        hash: BlockHash,
    },
    /// The envelopes of a final block are opened; blocks without any are not told of.
    Opened {
        /// Its height.
        height: Height,
    },
    /// A block has been executed and everything about it can be read.
    Executed {
        /// The block; its `result` is there.
        block: Arc<BlockData>,
        /// Its receipts.
        receipts: Arc<Vec<Receipt>>,
    },
    /// Transactions or payloads that have entered the pool.
    Pending(Arc<Vec<B256>>),
}

/// A node, as the RPC sees it.
pub trait Backend: Send + Sync + 'static {
    /// The chain's constants.
    fn params(&self) -> &ChainParams;

    /// Hash of the chain's genesis.
    fn genesis_hash(&self) -> B256;

    /// The heights that tags stand for. Called for nearly every request: must not touch the disk.
    fn heads(&self) -> Heads;

    /// The final block at a height; `None` above [`Heads::ordered`].
    ///
    /// # Errors
    /// If the store fails.
    fn block(&self, height: Height) -> Result<Option<Arc<BlockData>>, BackendError>;

    /// The height of the final block with this hash.
    ///
    /// # Errors
    /// If the store fails.
    fn height_of(&self, hash: &BlockHash) -> Result<Option<Height>, BackendError>;

    /// The hash of the final block at a height, for `BLOCKHASH` and logs.
    ///
    /// # Errors
    /// If the store fails.
    fn block_hash(&self, height: Height) -> Result<Option<BlockHash>, BackendError> {
        Ok(self.block(height)?.map(|data| data.block.hash()))
    }

    /// The bloom filter over the logs of an executed block. Called for every block of an `eth_getLogs` range, so it
    /// should read no more than that.
    ///
    /// # Errors
    /// If the store fails.
    fn bloom(&self, height: Height) -> Result<Option<Bloom>, BackendError> {
        Ok(self.block(height)?.and_then(|data| data.result).map(|result| result.bloom))
    }

    /// One receipt for each transaction of an executed block, in their order.
    ///
    /// # Errors
    /// If the store fails.
    fn receipts(&self, height: Height) -> Result<Option<Arc<Vec<Receipt>>>, BackendError>;

    /// Where a transaction (by its hash) or a payload (by its key) stands in the final order.
    ///
    /// # Errors
    /// If the store fails.
    fn location(&self, hash: &B256) -> Result<Option<Location>, BackendError>;

    /// A transaction that waits in the pool, or in a block that is not executed yet.
    fn pool_transaction(&self, hash: &B256) -> Option<Arc<RecoveredTransaction>>;

    /// Whether a transaction or payload waits in the pool.
    fn pool_contains(&self, hash: &B256) -> bool {
        self.pool_transaction(hash).is_some()
    }

    /// The nonce that the sender's next transaction must have: behind what is executed, ordered, and waits without a gap.
    ///
    /// # Errors
    /// If the store fails.
    fn pending_nonce(&self, sender: &Address) -> Result<u64, BackendError>;

    /// The state after an executed block.
    ///
    /// # Errors
    /// If there is none (not executed, or pruned), or the store fails.
    fn state(&self, height: Height) -> Result<StateView, BackendError>;

    /// What shows that the block at `height` is final; `None` above [`Heads::ordered`] and for genesis.
    ///
    /// # Errors
    /// If the store fails.
    fn finality(&self, height: Height) -> Result<Option<FinalityProof>, BackendError>;

    /// The committee of an epoch; `None` for one that is not known yet or no longer.
    ///
    /// # Errors
    /// If the store fails.
    fn committee(&self, epoch: Epoch) -> Result<Option<Arc<Committee>>, BackendError>;

    /// Leaders of the current view and the `count` - 1 views after it, in order, as far as the epoch goes.
    fn leaders(&self, count: u64) -> Vec<(View, NodeId)>;

    /// The node's state.
    fn status(&self) -> NodeStatus;

    /// Answers a light client: the bytes of a `cascade_light::Ask` by those of a `Reply`, or nothing if they are not one.
    /// May encode a square.
    fn light(&self, host: IpAddr, ask: &Bytes) -> Option<Bytes> {
        let _ = (host, ask);
        None
    }

    /// The keys that transactions can be sealed to; on a chain without threshold keys there are none.
    fn epoch_keys(&self) -> EpochKeysView;

    /// The nonce that a payer's next envelope must have; none on a chain without envelopes.
    fn payer_nonce(&self, payer: &Address) -> Option<u64>;

    /// The final block that holds an item and is not executed yet, and whether it is opened.
    fn ordered_item(&self, name: &B256) -> Option<(Height, bool)>;

    /// Until when blocks could carry an envelope that came here lately: its epoch, and its last height. It need not be in the
    /// pool any more. None for what is unknown, or was forgotten because too many others came.
    fn envelope_end(&self, name: &B256) -> Option<(Epoch, Height)>;

    /// What happens from now on. A receiver that lags loses the oldest events and is told how many.
    fn events(&self) -> broadcast::Receiver<ChainEvent>;

    /// Takes transactions (or payloads, on a chain of opaque ones) into the pool: their hashes (keys), or why not, in
    /// the order given. Batches of clients come as one call, so that signers are recovered together.
    fn submit(&self, raw: Vec<Bytes>) -> BoxFuture<'static, Vec<Result<B256, SubmitError>>>;
}
