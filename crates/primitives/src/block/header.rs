//! Headers: what a certificate makes final, and all that a light client follows.

use alloy_primitives::B256;

use super::MAX_RESULTS_PER_HEADER;
use crate::{
    codec::{Decode, DecodeError, DecodeErrorKind, Encode, Reader, encode_list},
    domain, hash,
    ids::{BlockHash, ChainId, Epoch, Fork, Height, TimestampMs, View},
    params::ChainParams,
};

/// Whether a header is part of the chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HeaderKind {
    /// A block of the chain.
    #[default]
    Block,
    /// A filler above the last block of an epoch: it exists to carry votes and never becomes part of the chain
    /// (decision 7 of the architecture).
    Filler,
}

impl Encode for HeaderKind {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::Block => 0,
            Self::Filler => 1,
        });
    }
}

impl Decode for HeaderKind {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(r.field("header kind"))? {
            0 => Ok(Self::Block),
            1 => Ok(Self::Filler),
            tag => Err(r.error(DecodeErrorKind::UnknownTag(u64::from(tag)))),
        }
    }
}

/// The L1 block that a block's L1 inputs come from. All zero on a chain without an L1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct L1Origin {
    /// L1 block number.
    pub number: u64,
    /// L1 block hash.
    pub hash: B256,
    /// L1 block time.
    pub timestamp: TimestampMs,
}

impl Encode for L1Origin {
    fn encode(&self, out: &mut Vec<u8>) {
        self.number.encode(out);
        self.hash.encode(out);
        self.timestamp.encode(out);
    }
}

impl Decode for L1Origin {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.field("L1 origin");
        Ok(Self { number: u64::decode(r)?, hash: B256::decode(r)?, timestamp: TimestampMs::decode(r)? })
    }
}

/// Parameters and root of the extended data square of a body, over its canonical encoding. All zero where
/// [`Header::has_square`] says that there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DaCommitment {
    /// Data bytes before extension.
    pub data_size: u32,
    /// Bytes in a share.
    pub share_size: u32,
    /// Shares in a row of the square before extension.
    pub width: u16,
    /// Root over {size, body root, row roots, column roots}.
    pub root: B256,
}

impl Encode for DaCommitment {
    fn encode(&self, out: &mut Vec<u8>) {
        self.data_size.encode(out);
        self.share_size.encode(out);
        self.width.encode(out);
        self.root.encode(out);
    }
}

impl Decode for DaCommitment {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.field("DA commitment");
        Ok(Self {
            data_size: u32::decode(r)?,
            share_size: u32::decode(r)?,
            width: u16::decode(r)?,
            root: B256::decode(r)?,
        })
    }
}

/// What executing one block gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ResultEntry {
    /// The block that was executed.
    pub height: Height,
    /// Root of the state tree after it.
    pub state_root: B256,
    /// Merkle root over its receipts.
    pub receipts_root: B256,
    /// Gas charged to its transactions.
    pub gas_used: u64,
    /// The block's random beacon; zero where there is none: on a chain without threshold keys, in its epoch 0, and of a
    /// block without items, unless it is at its epoch's last content height.
    pub beacon: B256,
    /// Root over the beacon and the combined decryption values; zero where there is no beacon from threshold keys.
    pub reveals_root: B256,
}

impl Encode for ResultEntry {
    fn encode(&self, out: &mut Vec<u8>) {
        self.height.encode(out);
        self.state_root.encode(out);
        self.receipts_root.encode(out);
        self.gas_used.encode(out);
        self.beacon.encode(out);
        self.reveals_root.encode(out);
    }
}

impl Decode for ResultEntry {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.field("result entry");
        Ok(Self {
            height: Height::decode(r)?,
            state_root: B256::decode(r)?,
            receipts_root: B256::decode(r)?,
            gas_used: u64::decode(r)?,
            beacon: B256::decode(r)?,
            reveals_root: B256::decode(r)?,
        })
    }
}

/// A block header.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// [`super::PROTOCOL_VERSION`] of the rules that it follows.
    pub version: u16,
    /// Part of the chain, or a filler above an epoch's last block.
    pub kind: HeaderKind,
    /// The chain.
    pub chain_id: ChainId,
    /// Hash of the chain's genesis.
    pub genesis_hash: B256,
    /// The history that it belongs to.
    pub fork: Fork,
    /// The epoch whose committee votes on it.
    pub epoch: Epoch,
    /// The view that it was proposed in.
    pub view: View,
    /// Its number.
    pub height: Height,
    /// Hash of the header below.
    pub parent: BlockHash,
    /// When the leader proposed it; strictly greater than the parent's.
    pub timestamp: TimestampMs,
    /// L1 block that its L1 inputs come from.
    pub l1_origin: L1Origin,
    /// Root of the committee that votes on it.
    pub committee_root: B256,
    /// Root of the committee scheduled for the next epoch; with its keys from the block on above which the chain agreed on them
    /// (see [`crate::committee`]).
    pub next_committee_root: B256,
    /// Merkle mountain range over all headers below.
    pub history_root: B256,
    /// Commitment to the erasure-coded body.
    pub da: DaCommitment,
    /// Hash over the body's encoding ([`super::body_root`]).
    pub body_root: B256,
    /// Base fee per gas in wei (EIP-1559, on ordered gas).
    pub base_fee: u64,
    /// Sum of the gas limits of the block's transactions.
    pub ordered_gas: u64,
    /// Results that this header makes due, in order of height.
    pub results: Vec<ResultEntry>,
}

impl Header {
    /// The block's hash.
    #[must_use]
    pub fn hash(&self) -> BlockHash {
        hash::of(domain::HEADER, self).into()
    }

    /// Whether [`Header::da`] commits to a square; else it has its empty value. Every block does on a chain with
    /// `ChainParams::data_squares`, but for the genesis block, whose body is empty, and for fillers, which are not part of
    /// the chain. Blocks without transactions do too: who rebuilds the chain needs the certificates in their bodies.
    #[must_use]
    pub fn has_square(&self, params: &ChainParams) -> bool {
        params.data_squares && self.kind == HeaderKind::Block && self.height > Height(0)
    }
}

impl Encode for Header {
    fn encode(&self, out: &mut Vec<u8>) {
        self.version.encode(out);
        self.kind.encode(out);
        self.chain_id.encode(out);
        self.genesis_hash.encode(out);
        self.fork.encode(out);
        self.epoch.encode(out);
        self.view.encode(out);
        self.height.encode(out);
        self.parent.encode(out);
        self.timestamp.encode(out);
        self.l1_origin.encode(out);
        self.committee_root.encode(out);
        self.next_committee_root.encode(out);
        self.history_root.encode(out);
        self.da.encode(out);
        self.body_root.encode(out);
        self.base_fee.encode(out);
        self.ordered_gas.encode(out);
        encode_list(&self.results, out);
    }
}

impl Decode for Header {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.field("header");
        Ok(Self {
            version: u16::decode(r)?,
            kind: HeaderKind::decode(r)?,
            chain_id: ChainId::decode(r.field("header"))?,
            genesis_hash: B256::decode(r)?,
            fork: Fork::decode(r)?,
            epoch: Epoch::decode(r)?,
            view: View::decode(r)?,
            height: Height::decode(r)?,
            parent: BlockHash::decode(r)?,
            timestamp: TimestampMs::decode(r)?,
            l1_origin: L1Origin::decode(r)?,
            committee_root: B256::decode(r.field("header"))?,
            next_committee_root: B256::decode(r)?,
            history_root: B256::decode(r)?,
            da: DaCommitment::decode(r)?,
            body_root: B256::decode(r.field("header"))?,
            base_fee: u64::decode(r)?,
            ordered_gas: u64::decode(r)?,
            results: r.field("header results").list(MAX_RESULTS_PER_HEADER)?,
        })
    }
}
