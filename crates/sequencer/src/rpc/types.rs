//! The JSON of `l2_` methods, for the server and for Rust clients of it.
//!
//! Keys are camelCase, numbers are JSON numbers, hashes and keys are hex strings, byte strings are `0x` hex. Times are
//! milliseconds since the Unix epoch.

use std::net::SocketAddr;

use alloy_primitives::{Address, B256, Bytes, U256};
use cascade_primitives::{
    BlockHash, BlsPublicKey, BlsSignature, ChainId, Epoch, Fork, Height, MemberIndex, NodeId, PublicKeys, Seats,
    TimestampMs, TransactionRule, View,
};
use serde::{Deserialize, Serialize};

pub use super::backend::{Counters, Heads, PoolCounts, SyncProgress};

/// How a node is, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HealthStatus {
    /// Blocks become final and the node is in step with its peers.
    Healthy,
    /// The node catches up.
    Syncing,
    /// The node hears less than a quorum of seats: it is on the small side of a partition, or too many are down.
    NoQuorum,
    /// A quorum is heard, yet no block became final for longer than the chain's timeouts explain.
    Stalled,
}

/// `l2_health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// How the node is.
    pub status: HealthStatus,
    /// The node.
    pub node: NodeId,
    /// The newest final block.
    pub height: Height,
    /// The epoch that it votes in or follows.
    pub epoch: Epoch,
    /// The view.
    pub view: View,
    /// The view's leader.
    pub leader: NodeId,
    /// Whether the node votes in this epoch.
    pub votes: bool,
    /// Seats of members heard of lately, its own included.
    pub seats_heard: Seats,
    /// Seats of a quorum.
    pub quorum: Seats,
    /// All seats.
    pub seats: Seats,
    /// When the node last saw a block become final.
    pub finalized_at: TimestampMs,
    /// How long ago that was, in ms.
    pub since_final_ms: u64,
    /// Connected peers.
    pub peers: u32,
    /// How far it has come if it catches up.
    pub sync: Option<SyncProgress>,
}

/// A connected peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// Who it is.
    pub node: NodeId,
    /// The address that this node sees.
    pub address: SocketAddr,
    /// Whether it dialled this node.
    pub inbound: bool,
}

/// `l2_status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Program and version, as `web3_clientVersion`.
    pub client: String,
    /// The chain.
    pub chain_id: ChainId,
    /// Hash of its genesis.
    pub genesis_hash: B256,
    /// What its blocks order.
    pub transactions: TransactionRule,
    /// When this answer was made: rates are differences of `counters` over differences of this.
    pub time: TimestampMs,
    /// How long the RPC server has been up, in ms.
    pub uptime_ms: u64,
    /// Health.
    pub health: Health,
    /// The heights that tags stand for.
    pub heads: Heads,
    /// Hash of the newest final block.
    pub head: BlockHash,
    /// When the leader proposed that block.
    pub head_time: TimestampMs,
    /// Base fee of the block above it, in wei per gas.
    pub next_base_fee: u64,
    /// Connected peers.
    pub peers: Vec<Peer>,
    /// The pool.
    pub pool: PoolCounts,
    /// Totals since the node started.
    pub counters: Counters,
}

/// How far a transaction or block has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FinalityStatus {
    /// It waits in this node's pool, or in a block that is not final.
    Pending,
    /// Its order is final: a commit certificate stands behind it.
    Final,
    /// This node has executed it.
    Executed,
    /// A final header carries its results.
    ResultFinal,
}

/// `l2_finality`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finality {
    /// How far it has come.
    pub status: FinalityStatus,
    /// The transaction, if one was asked for.
    pub transaction: Option<B256>,
    /// Its place in the block.
    pub index: Option<u32>,
    /// The block's height.
    pub height: Option<Height>,
    /// The block.
    pub block: Option<BlockHash>,
    /// When the leader proposed the block.
    pub timestamp: Option<TimestampMs>,
    /// Height of the final header that carries the block's results.
    pub result_in: Option<Height>,
    /// What makes the block final. None for genesis.
    pub certificate: Option<CertificateInfo>,
}

/// Who signed a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Signer {
    /// Its place in the committee.
    pub index: MemberIndex,
    /// Who it is.
    pub node: NodeId,
    /// Its seats.
    pub seats: Seats,
}

/// A commit certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateInfo {
    /// The committee's epoch.
    pub epoch: Epoch,
    /// The view of the votes.
    pub view: View,
    /// The block (or filler above an epoch's last block) that it certifies.
    pub block: BlockHash,
    /// Root of the committee; certified headers carry it.
    pub committee_root: B256,
    /// Who signed.
    pub signers: Vec<Signer>,
    /// Seats of those who signed.
    pub signed_seats: Seats,
    /// Seats that are needed.
    pub quorum: Seats,
    /// All seats.
    pub seats: Seats,
    /// The aggregate signature.
    pub signature: BlsSignature,
    /// The certificate in canonical encoding.
    pub bytes: Bytes,
}

/// `l2_certificate`: all that a client needs to check that a block is final, given the committee that it trusts.
///
/// Hash `header`; hash each of `headers`, which must name the one before as parent; the last hash must be the one that
/// `certificate` certifies; check its signature under (`chainId`, `genesisHash`, `fork`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertifiedBlock {
    /// The chain.
    pub chain_id: ChainId,
    /// Hash of its genesis.
    pub genesis_hash: B256,
    /// Its history.
    pub fork: Fork,
    /// The block's height.
    pub height: Height,
    /// Its hash.
    pub hash: BlockHash,
    /// Its header in canonical encoding.
    pub header: Bytes,
    /// Headers above it up to the certified one, in canonical encoding.
    pub headers: Vec<Bytes>,
    /// The certificate.
    pub certificate: CertificateInfo,
}

/// A proven storage slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlotProof {
    /// The slot.
    pub slot: U256,
    /// What stands there; zero for nothing.
    pub value: U256,
    /// The proof in canonical encoding.
    pub proof: Bytes,
}

/// `l2_getProof`: an account and slots, with proofs against a state root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccountProof {
    /// The height of the state.
    pub height: Height,
    /// The block of that height.
    pub block: BlockHash,
    /// Root that the proofs lead to.
    pub state_root: B256,
    /// Height of the header whose results contain that root; its certificate proves the root. None while no final
    /// header carries it.
    pub result_in: Option<Height>,
    /// The account's address.
    pub address: Address,
    /// Whether the account exists.
    pub exists: bool,
    /// Its nonce.
    pub nonce: u64,
    /// Its balance in wei.
    pub balance: U256,
    /// Hash of its code.
    pub code_hash: B256,
    /// The proof of the account or its absence, in canonical encoding.
    pub proof: Bytes,
    /// The slots asked for, in order.
    pub storage: Vec<SlotProof>,
}

/// A member of a committee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sequencer {
    /// Who it is.
    pub node: NodeId,
    /// Where its fees go.
    pub address: Address,
    /// The key that its votes are signed with.
    pub bls_key: BlsPublicKey,
    /// Its seats.
    pub seats: Seats,
    /// Its weight in the election of leaders.
    pub lead_weight: u64,
}

/// `l2_sequencers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sequencers {
    /// The epoch.
    pub epoch: Epoch,
    /// Root of the committee.
    pub root: B256,
    /// All seats.
    pub seats: Seats,
    /// Seats of a quorum.
    pub quorum: Seats,
    /// Seats that may be faulty.
    pub faulty: Seats,
    /// The members, in the order of the certificates' bitmaps.
    pub members: Vec<Sequencer>,
}

/// A view and its leader: `l2_leader`, and an element of `l2_nextLeaders`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Leader {
    /// The view.
    pub view: View,
    /// Its leader.
    pub node: NodeId,
}

/// Results that a header carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockResultInfo {
    /// The executed block.
    pub height: Height,
    /// Root of the state after it.
    pub state_root: B256,
    /// Root over its receipts.
    pub receipts_root: B256,
    /// Gas charged in it.
    pub gas_used: u64,
}

/// `l2_block`: a final block in the chain's own terms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockInfo {
    /// Rules that it follows.
    pub version: u16,
    /// Its history.
    pub fork: Fork,
    /// The epoch whose committee votes on it.
    pub epoch: Epoch,
    /// The view that it was proposed in.
    pub view: View,
    /// Its number.
    pub height: Height,
    /// Its hash.
    pub hash: BlockHash,
    /// The block below.
    pub parent: BlockHash,
    /// When the leader proposed it.
    pub timestamp: TimestampMs,
    /// Where its tips go.
    pub producer: Address,
    /// Root of the committee that votes on it.
    pub committee_root: B256,
    /// Root of the next committee.
    pub next_committee_root: B256,
    /// Root over all headers below.
    pub history_root: B256,
    /// Root over the body.
    pub body_root: B256,
    /// Base fee in wei per gas.
    pub base_fee: u64,
    /// Sum of the gas limits of its transactions.
    pub ordered_gas: u64,
    /// Results of lower blocks that the header carries.
    pub results: Vec<BlockResultInfo>,
    /// Its own result, once this node has executed it.
    pub executed: Option<BlockResultInfo>,
    /// Bytes of its transactions.
    pub transaction_bytes: u64,
    /// How many transactions or payloads it has.
    pub transaction_count: u32,
    /// Their hashes (payloads: keys), if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transactions: Option<Vec<B256>>,
}

/// A payload of a batch that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// Its place in the batch.
    pub index: u32,
    /// Why.
    pub error: String,
}

/// `l2_sendOpaqueBatch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchOutcome {
    /// How many were taken.
    pub accepted: u32,
    /// Those that were not.
    pub refused: Vec<Refused>,
}

/// A notification of the subscription `l2_finalBlocks`: a block's order is final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FinalBlock {
    /// Its height.
    pub height: Height,
    /// Its hash.
    pub hash: BlockHash,
}

/// A key that envelopes can be sealed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EpochKey {
    /// The epoch whose blocks take envelopes that are sealed to it.
    pub epoch: Epoch,
    /// The key: a compressed point of G1.
    pub key: Bytes,
    /// The same key in G2, compressed, against which opened values are checked.
    pub decryption_key: Bytes,
    /// The key of the random beacon: a compressed point of G2.
    pub beacon_key: Bytes,
    /// The hash over all keys of the epoch, those of the seats' shares among them.
    pub key_sets: B256,
    /// The hash over epoch and members of the committee. With the commitment to these keys it makes the committee root that
    /// headers carry.
    pub members_root: B256,
}

impl EpochKey {
    /// Public keys with the members root of the committee that they were made for.
    #[must_use]
    pub fn new(keys: &PublicKeys, members_root: B256) -> Self {
        Self {
            epoch: keys.epoch,
            key: keys.encryption.to_vec().into(),
            decryption_key: keys.decryption.to_vec().into(),
            beacon_key: keys.beacon.to_vec().into(),
            key_sets: keys.key_sets,
            members_root,
        }
    }

    /// What a committee's root commits to; none if a key has another length than keys have.
    #[must_use]
    pub fn public(&self) -> Option<PublicKeys> {
        Some(PublicKeys {
            epoch: self.epoch,
            encryption: self.key.as_ref().try_into().ok()?,
            decryption: self.decryption_key.as_ref().try_into().ok()?,
            beacon: self.beacon_key.as_ref().try_into().ok()?,
            key_sets: self.key_sets,
        })
    }
}

/// How far the keys of an epoch are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "step")]
pub enum KeyState {
    /// Sequencers announce their encryption keys.
    Announcing {
        /// The epoch whose keys are made.
        epoch: Epoch,
        /// Seats whose keys are announced.
        announced: u32,
        /// Seats of a quorum.
        needed: u32,
    },
    /// Sequencers deal.
    Dealing {
        /// The epoch whose keys are made.
        epoch: Epoch,
        /// Seats that have dealt.
        dealt: u32,
        /// Seats that are needed.
        needed: u32,
    },
    /// The keys are there.
    Complete {
        /// The epoch whose keys they are.
        epoch: Epoch,
    },
}

/// `l2_epochKey`: what a wallet needs to seal a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EpochKeys {
    /// The chain.
    pub chain_id: ChainId,
    /// Hash of its genesis.
    pub genesis_hash: B256,
    /// Its history.
    pub fork: Fork,
    /// The epoch that votes now.
    pub epoch: Epoch,
    /// The newest final block.
    pub height: Height,
    /// Blocks for which an envelope may be valid at the most.
    pub max_validity: u64,
    /// Base fee of the next block in wei per gas.
    pub base_fee: u64,
    /// Keys of this epoch and the next, as far as they are made.
    pub keys: Vec<EpochKey>,
    /// How far the next epoch's key is.
    pub progress: Option<KeyState>,
    /// Whether a light client says so, which has checked all of it against headers that it follows. No node's answer has it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proved: bool,
}

/// `l2_payer`: an account of the fee ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Payer {
    /// Whose it is.
    pub address: Address,
    /// Balance in wei, executed.
    pub balance: U256,
    /// Nonce, executed.
    pub nonce: u64,
    /// The nonce that its next envelope must have.
    pub next_nonce: u64,
}

/// How far an envelope has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EnvelopeState {
    /// It waits in the pool.
    Pending,
    /// Its place is final; nobody can read it yet.
    Ordered,
    /// It is opened and not executed yet.
    Revealed,
    /// The transaction inside ran.
    Executed,
    /// It was charged, and nothing ran.
    Failed,
    /// It was known here and not ordered while it could be. Nothing was charged.
    Expired,
}

impl EnvelopeState {
    /// Whether no other state comes after it.
    #[must_use]
    pub const fn is_last(self) -> bool {
        matches!(self, Self::Executed | Self::Failed | Self::Expired)
    }

    /// Whether it has a place in the final order.
    #[must_use]
    pub const fn is_ordered(self) -> bool {
        matches!(self, Self::Ordered | Self::Revealed | Self::Executed | Self::Failed)
    }
}

/// `l2_envelopeStatus`, and a notification of the subscription of that name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnvelopeStatus {
    /// The hash that was asked for.
    pub hash: B256,
    /// How far it has come.
    pub status: EnvelopeState,
    /// Its block.
    pub height: Option<Height>,
    /// Its place among the block's transactions, once executed.
    pub index: Option<u32>,
    /// The transaction inside that ran.
    pub transaction: Option<B256>,
    /// Why nothing ran, or will.
    pub reason: Option<String>,
}

/// `l2_proxy`, which `cascade proxy` answers and no node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyInfo {
    /// Who pays for what it seals.
    pub payer: Address,
    /// The payer's balance in the fee ledger, in wei.
    pub balance: U256,
    /// Transactions that are not executed yet.
    pub pending: u64,
}
