//! Blocks: header, body, and the results of execution that later headers carry.
//!
//! ```text
//!  header h  --parent-->  header h-1
//!    | body_root    = Merkle root over the hashes of the body's sections
//!    | history_root = Merkle mountain range over the hashes of headers 0 .. h-1
//!    | results      = state roots of heights that are final already, normally of h-D alone
//!    | da           = commitment to the erasure-coded body
//! ```
//!
//! The format is whole from the start (decision 15 of the architecture). What no feature fills yet has a defined
//! empty value, and [`Block::check_form`] refuses anything else, so that a field's meaning can only
//! change together with [`PROTOCOL_VERSION`], or with a constant of the chain, which its genesis hash covers.

use std::sync::OnceLock;

use alloy_primitives::B256;
use bytes::Bytes;
use thiserror::Error;

use crate::{
    certificate::Certificate,
    codec::{Decode, DecodeError, DecodeErrorKind, Encode, Reader, encode_byte_string, encode_list},
    domain,
    envelope::Reveal,
    hash,
    ids::{BlockHash, ChainId, Epoch, Fork, Height, TimestampMs, View},
    merkle,
    params::ChainParams,
    params::TransactionRule,
    system::{MAX_DEALINGS_PER_BLOCK, SystemItem},
};

/// The version that headers carry. A change of any rule that all nodes must agree on raises it.
pub const PROTOCOL_VERSION: u16 = 2;

/// Results that one header may carry. A chain that regained finality after a long stall reports the backlog over
/// several (empty) blocks, so that a header stays small.
pub const MAX_RESULTS_PER_HEADER: usize = 64;

/// Skip certificates that one block may carry: one for each term between it and its parent, up to so many.
pub const MAX_SKIPS_PER_BLOCK: usize = 1024;

/// Filler headers that the first block of an epoch may carry below its commit certificate: two hours of an epoch's end
/// without finality at two blocks a second, 6 MiB.
pub const MAX_FILLER_HEADERS: usize = 16_384;

/// System items that one block may carry.
pub const MAX_SYSTEM_ITEMS: usize = 256;

/// Transactions that one block may carry, whatever their size.
pub const MAX_TRANSACTIONS_PER_BLOCK: usize = 1 << 17;

/// Largest transaction that any chain can allow, in bytes; `ChainParams::max_tx_bytes` is the chain's own limit.
pub const MAX_TRANSACTION_BYTES: usize = 1 << 20;

/// Largest block that any chain can allow, in bytes; `ChainParams::max_block_bytes` is the chain's own limit for
/// the transactions, this one bounds a decoder.
pub const MAX_BLOCK_BYTES: usize = 32 << 20;

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
    /// Root over {size, data hash, row roots, column roots}.
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
    /// [`PROTOCOL_VERSION`] of the rules that it follows.
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
    /// Merkle root over the body's sections.
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

/// The certificates that justify a block's place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificates {
    /// Prepare certificate of the parent; none if the parent is the block that the epoch stands on.
    pub parent: Option<Certificate>,
    /// Skip certificates that cover every view between the parent's and this one, in order of view.
    pub skips: Vec<Certificate>,
    /// The newest commit certificate that the leader had; none while nothing but the genesis block is final.
    pub commit: Option<Certificate>,
    /// In the first block of an epoch, the headers of the fillers from the last block of the old epoch up to the one
    /// that `commit` certifies; empty if it certifies the last block itself.
    pub fillers: Vec<Header>,
}

impl Encode for Certificates {
    fn encode(&self, out: &mut Vec<u8>) {
        self.parent.encode(out);
        encode_list(&self.skips, out);
        self.commit.encode(out);
        encode_list(&self.fillers, out);
    }
}

impl Decode for Certificates {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            parent: Option::decode(r.field("parent certificate"))?,
            skips: r.field("skip certificates").list(MAX_SKIPS_PER_BLOCK)?,
            commit: Option::decode(r.field("commit certificate"))?,
            fillers: r.field("filler headers").list(MAX_FILLER_HEADERS)?,
        })
    }
}

/// The body of a block, section by section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// Messages and forced transactions from L1. Empty until a bridge exists.
    pub l1_items: Vec<Bytes>,
    /// Readiness, dealings, evidence, parameters.
    pub system: Vec<SystemItem>,
    /// The certificates that justify the block's place.
    pub certificates: Certificates,
    /// What opened the envelopes of the blocks whose results the header carries, in order of height: one for each block
    /// with items. So anybody can replay the chain without asking the sequencers. Empty on a chain without threshold
    /// keys.
    pub reveals: Vec<Reveal>,
    /// What users sent, in the order that the leader proposes: EIP-2718 encoded transactions, or opaque payloads.
    pub transactions: Vec<Bytes>,
}

/// The sections of a body, by the number that precedes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum BodySections {
    /// [`Body::l1_items`].
    L1Items = 1,
    /// [`Body::system`].
    System = 2,
    /// [`Body::certificates`].
    Certificates = 3,
    /// [`Body::reveals`].
    Reveals = 4,
    /// [`Body::transactions`].
    Transactions = 5,
}

impl BodySections {
    /// All sections in the order in which a body has them.
    pub const ALL: [Self; 5] = [Self::L1Items, Self::System, Self::Certificates, Self::Reveals, Self::Transactions];

    const fn limit(self) -> usize {
        match self {
            Self::Transactions => MAX_BLOCK_BYTES,
            // In certificates, it is the headers of fillers that take the room: see MAX_FILLER_HEADERS.
            Self::L1Items | Self::Certificates | Self::Reveals => 8 << 20,
            Self::System => 2 << 20,
        }
    }
}

impl Body {
    fn encode_section(&self, section: BodySections, out: &mut Vec<u8>) {
        match section {
            BodySections::L1Items => encode_byte_strings(&self.l1_items, out),
            BodySections::System => encode_list(&self.system, out),
            BodySections::Certificates => self.certificates.encode(out),
            BodySections::Reveals => encode_list(&self.reveals, out),
            BodySections::Transactions => encode_byte_strings(&self.transactions, out),
        }
    }

    /// The root that the header carries.
    #[must_use]
    pub fn root(&self) -> B256 {
        let leaves = BodySections::ALL.map(|section| self.section_hash(section));
        hash::tagged(domain::BODY, &[merkle::root(&leaves).as_slice()])
    }

    /// The hash over a section's number and its encoding. What users sent is megabytes, and is hashed where it is.
    fn section_hash(&self, section: BodySections) -> B256 {
        let items = match section {
            BodySections::L1Items => &self.l1_items,
            BodySections::Transactions => &self.transactions,
            BodySections::System | BodySections::Certificates | BodySections::Reveals => {
                let mut buffer = Vec::new();
                self.encode_section(section, &mut buffer);
                return hash::tagged(domain::BODY_SECTION, &[&[section as u8], &buffer]);
            }
        };
        let length = |n: usize| u32::try_from(n).expect("sections stay under their limits").to_le_bytes();
        hash::tagged_with(domain::BODY_SECTION, |out| {
            out(&[section as u8]);
            out(&length(items.len()));
            for item in items {
                out(&length(item.len()));
                out(item);
            }
        })
    }

    /// Bytes of the transactions, without their length prefixes.
    #[must_use]
    pub fn transaction_bytes(&self) -> usize {
        self.transactions.iter().map(Bytes::len).sum()
    }

    /// Bytes of its encoding, without copying what users sent.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let strings = |items: &[Bytes]| 4 + items.iter().map(|i| 4 + i.len()).sum::<usize>();
        let section = |section| match section {
            BodySections::L1Items => strings(&self.l1_items),
            BodySections::Transactions => strings(&self.transactions),
            BodySections::System | BodySections::Certificates | BodySections::Reveals => {
                let mut buffer = Vec::new();
                self.encode_section(section, &mut buffer);
                buffer.len()
            }
        };
        BodySections::ALL.into_iter().map(|s| 5 + section(s)).sum()
    }

    /// Whether it carries nothing that execution would see.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.l1_items.is_empty() && self.transactions.is_empty()
    }
}

fn encode_byte_strings(items: &[Bytes], out: &mut Vec<u8>) {
    out.reserve(4 + items.iter().map(|i| i.len() + 4).sum::<usize>());
    u32::try_from(items.len()).expect("bounded by MAX_TRANSACTIONS_PER_BLOCK").encode(out);
    for item in items {
        encode_byte_string(item, out);
    }
}

fn decode_byte_strings(r: &mut Reader<'_>, count: usize, bytes: usize) -> Result<Vec<Bytes>, DecodeError> {
    let count = r.length(count)?;
    let mut items = Vec::with_capacity(count.min(r.left() / 4));
    for _ in 0..count {
        items.push(r.byte_string(bytes)?);
    }
    Ok(items)
}

impl Encode for Body {
    fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.transaction_bytes() + 4 * self.transactions.len() + 1024);
        for section in BodySections::ALL {
            out.push(section as u8);
            let at = out.len();
            0_u32.encode(out);
            self.encode_section(section, out);
            let length = u32::try_from(out.len() - at - 4).expect("sections stay under their limits");
            out[at..at + 4].copy_from_slice(&length.to_le_bytes());
        }
    }
}

impl Decode for Body {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut body = Self::default();
        for section in BodySections::ALL {
            let id = u8::decode(r.field("body section"))?;
            if id != section as u8 {
                return Err(r.error(DecodeErrorKind::UnknownTag(u64::from(id))));
            }
            let length = r.length(section.limit())?;
            let before = r.left();
            match section {
                BodySections::L1Items => body.l1_items = decode_byte_strings(r.field("L1 items"), 1024, 64 << 10)?,
                BodySections::System => body.system = r.field("system items").list(MAX_SYSTEM_ITEMS)?,
                BodySections::Certificates => body.certificates = Certificates::decode(r)?,
                BodySections::Reveals => {
                    body.reveals = r.field("reveals").list(MAX_RESULTS_PER_HEADER)?;
                }
                BodySections::Transactions => {
                    body.transactions = decode_byte_strings(
                        r.field("transactions"),
                        MAX_TRANSACTIONS_PER_BLOCK,
                        MAX_TRANSACTION_BYTES,
                    )?;
                }
            }
            if before - r.left() != length {
                return Err(r.error(DecodeErrorKind::NotCanonical("a section's length is not that of its content")));
            }
        }
        Ok(body)
    }
}

/// A header and its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The header.
    pub header: Header,
    /// The body that [`Header::body_root`] commits to.
    pub body: Body,
}

/// A field that must have its empty value, a limit or a relation that a block breaks by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FormError {
    /// Another protocol version.
    #[error("protocol version {found}, this node follows {PROTOCOL_VERSION}")]
    Version {
        /// The version found.
        found: u16,
    },
    /// The header does not commit to this body.
    #[error("the body's root is not the header's")]
    BodyRoot,
    /// The reveals are not those that the results commit to.
    #[error("the reveals are not those that the header's results commit to")]
    Reveals,
    /// The header commits to no square.
    #[error("a block of this chain must commit to the square of its body")]
    NoSquare,
    /// A field that no feature fills yet is not empty.
    #[error("{0} must be empty at this protocol version")]
    NotEmpty(&'static str),
    /// A limit of the chain is exceeded.
    #[error("{what}: {found} exceeds the limit of {limit}")]
    Limit {
        /// What is limited.
        what: &'static str,
        /// The value found.
        found: usize,
        /// The chain's limit.
        limit: usize,
    },
}

impl Block {
    /// Checks what the block alone shows: version, empty values, limits, body root.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check_form(&self, params: &ChainParams) -> Result<(), FormError> {
        self.check_fields(params)?;
        if self.body.root() == self.header.body_root { Ok(()) } else { Err(FormError::BodyRoot) }
    }

    /// All of the form but the body root.
    fn check_fields(&self, params: &ChainParams) -> Result<(), FormError> {
        let (header, body) = (&self.header, &self.body);
        if header.version != PROTOCOL_VERSION {
            return Err(FormError::Version { found: header.version });
        }
        let encrypted = params.transactions == TransactionRule::Encrypted;
        // What the results of opaque payloads are is not the chain's affair.
        let plain = params.transactions == TransactionRule::Plain;
        let sealed = |item: &SystemItem| !matches!(item, SystemItem::Ready(_));
        let has_square = header.has_square(params);
        if has_square && header.da == DaCommitment::default() {
            return Err(FormError::NoSquare);
        }
        let empty = [
            ("L1 origin", header.l1_origin == L1Origin::default()),
            ("DA commitment", has_square || header.da == DaCommitment::default()),
            ("beacon", !plain || header.results.iter().all(|r| r.beacon.is_zero())),
            ("reveals root", encrypted || header.results.iter().all(|r| r.reveals_root.is_zero())),
            ("L1 items", body.l1_items.is_empty()),
            ("reveals", encrypted || body.reveals.is_empty()),
            ("key generation", encrypted || !body.system.iter().any(sealed)),
        ];
        if let Some((what, _)) = empty.iter().find(|(_, is_empty)| !is_empty) {
            return Err(FormError::NotEmpty(what));
        }
        if header.kind == HeaderKind::Filler && !(body.is_empty() && body.system.is_empty()) {
            return Err(FormError::NotEmpty("a filler's transactions and system items"));
        }
        let carried = &body.certificates;
        let opened = header.results.iter().filter(|r| !r.reveals_root.is_zero());
        if !opened.map(|r| (r.height, r.reveals_root)).eq(body.reveals.iter().map(|r| (r.height, r.root()))) {
            return Err(FormError::Reveals);
        }
        let dealings = body.system.iter().filter(|item| matches!(item, SystemItem::Dealing(_))).count();
        let limits = [
            ("dealings", dealings, MAX_DEALINGS_PER_BLOCK),
            ("results", header.results.len(), MAX_RESULTS_PER_HEADER),
            ("skip certificates", carried.skips.len(), MAX_SKIPS_PER_BLOCK),
            ("filler headers", carried.fillers.len(), MAX_FILLER_HEADERS),
            ("system items", body.system.len(), MAX_SYSTEM_ITEMS),
            ("transactions", body.transactions.len(), MAX_TRANSACTIONS_PER_BLOCK),
            ("transaction bytes", body.transaction_bytes(), params.max_block_bytes as usize),
            (
                "bytes of one transaction",
                body.transactions.iter().map(Bytes::len).max().unwrap_or(0),
                params.max_tx_bytes as usize,
            ),
        ];
        if let Some(&(what, found, limit)) = limits.iter().find(|(_, found, limit)| found > limit) {
            return Err(FormError::Limit { what, found, limit });
        }
        Ok(())
    }
}

impl Encode for Block {
    fn encode(&self, out: &mut Vec<u8>) {
        self.header.encode(out);
        self.body.encode(out);
    }
}

impl Decode for Block {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { header: Header::decode(r)?, body: Body::decode(r)? })
    }
}

/// A block with its hash, computed once.
///
/// The hash is the header's. That the body is the one that the header commits to is another question, and costs a hash
/// over megabytes: whoever takes a block from outside asks [`Self::has_its_body`] before the hash stands for the block.
#[derive(Clone, Debug)]
pub struct SealedBlock {
    hash: BlockHash,
    block: Block,
    has_its_body: OnceLock<bool>,
}

impl PartialEq for SealedBlock {
    fn eq(&self, other: &Self) -> bool {
        self.block == other.block
    }
}

impl Eq for SealedBlock {}

impl SealedBlock {
    /// Computes the hash.
    #[must_use]
    pub fn new(block: Block) -> Self {
        Self { hash: block.header.hash(), block, has_its_body: OnceLock::new() }
    }

    /// Whether the header commits to this body. The body is hashed the first time that somebody asks.
    #[must_use]
    pub fn has_its_body(&self) -> bool {
        *self.has_its_body.get_or_init(|| self.block.body.root() == self.block.header.body_root)
    }

    /// As [`Block::check_form`], without hashing the body a second time.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check_form(&self, params: &ChainParams) -> Result<(), FormError> {
        self.block.check_fields(params)?;
        if self.has_its_body() { Ok(()) } else { Err(FormError::BodyRoot) }
    }

    /// The block's hash.
    #[must_use]
    pub const fn hash(&self) -> BlockHash {
        self.hash
    }

    /// The block alone.
    #[must_use]
    pub fn into_block(self) -> Block {
        self.block
    }
}

impl std::ops::Deref for SealedBlock {
    type Target = Block;

    fn deref(&self) -> &Block {
        &self.block
    }
}

impl Encode for SealedBlock {
    fn encode(&self, out: &mut Vec<u8>) {
        self.block.encode(out);
    }
}

impl Decode for SealedBlock {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self::new(Block::decode(r)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{SignerSet, certificate::VoteTarget, ids::BlsSignature, params::Network, system::Ready};

    fn certificate(kind: u8, view: u64, hash: [u8; 32]) -> Certificate {
        let hash = BlockHash(if hash == [0; 32] { [1; 32] } else { hash });
        let target = match kind % 3 {
            0 => VoteTarget::prepare(Epoch(1), View(view), hash),
            1 => VoteTarget::commit(Epoch(1), View(view), hash),
            _ => VoteTarget::skip(Epoch(1), View(view)),
        };
        Certificate { target, signers: SignerSet::new(7), signature: BlsSignature([kind; 96]) }
    }

    prop_compose! {
        fn blocks()(
            height: u64, view: u64, hash: [u8; 32], kinds in prop::collection::vec(0u8..3, 0..4),
            txs in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..20),
            readies in 0usize..3, results in 0usize..3, filler: bool, with_commit: bool,
        ) -> Block {
            let body = Body {
                l1_items: Vec::new(),
                system: (0..readies).map(|i| SystemItem::Ready(Ready {
                    epoch: Epoch(i as u64), node: crate::ids::NodeId(hash), signature: BlsSignature([3; 96]),
                    keys: crate::ThresholdKeys((i > 0).then(|| hash.into())),
                })).collect(),
                certificates: Certificates {
                    parent: kinds.first().map(|&k| certificate(k, view, hash)),
                    skips: kinds.iter().map(|&k| certificate(k, view / 2, hash)).collect(),
                    commit: with_commit.then(|| certificate(1, view / 3, hash)),
                    fillers: Vec::new(),
                },
                reveals: Vec::new(),
                transactions: txs.into_iter().map(Bytes::from).collect(),
            };
            let header = Header {
                version: PROTOCOL_VERSION,
                kind: if filler { HeaderKind::Filler } else { HeaderKind::Block },
                chain_id: ChainId(5), genesis_hash: hash.into(), fork: Fork(0), epoch: Epoch(1), view: View(view),
                height: Height(height), parent: BlockHash(hash), timestamp: TimestampMs(height),
                l1_origin: L1Origin::default(), committee_root: B256::ZERO, next_committee_root: hash.into(),
                history_root: hash.into(), da: DaCommitment::default(), body_root: body.root(), base_fee: 7,
                ordered_gas: 9,
                results: (0..results).map(|i| ResultEntry { height: Height(i as u64), ..Default::default() }).collect(),
            };
            Block { header, body }
        }
    }

    proptest! {
        #[test]
        fn a_section_is_hashed_as_it_is_encoded(block in blocks()) {
            prop_assert_eq!(block.body.encoded_len(), block.body.to_bytes().len());
            for section in BodySections::ALL {
                let mut encoded = vec![section as u8];
                block.body.encode_section(section, &mut encoded);
                prop_assert_eq!(block.body.section_hash(section), hash::tagged(domain::BODY_SECTION, &[&encoded]));
            }
        }

        #[test]
        fn blocks_round_trip_copied_and_shared(block in blocks()) {
            let bytes = Bytes::from(block.to_bytes());
            prop_assert_eq!(&Block::from_slice(&bytes).unwrap(), &block);
            prop_assert_eq!(&Block::from_shared(&bytes).unwrap(), &block);
        }

        #[test]
        fn a_flipped_bit_is_refused_or_changes_the_block(block in blocks(), at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = block.to_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(other) = Block::from_slice(&bytes) {
                prop_assert_ne!(&other, &block);
                prop_assert_eq!(other.to_bytes(), bytes, "an encoding that decodes is the canonical one");
                let same = other.header.hash() == block.header.hash() && other.body.root() == block.header.body_root;
                prop_assert!(!same, "the hash commits to every bit");
            }
        }

        #[test]
        fn a_truncated_block_is_refused(block in blocks(), at: prop::sample::Index) {
            let bytes = block.to_bytes();
            prop_assert!(Block::from_slice(&bytes[..at.index(bytes.len())]).is_err());
        }
    }

    #[test]
    fn fields_without_a_feature_must_be_empty() {
        let params = ChainParams::of(Network::Regtest);
        let reveal = Reveal { height: Height(1), beacon: [7; 48], values: Vec::new() };
        let body = Body { reveals: vec![reveal], ..Body::default() };
        let genesis = crate::Genesis {
            params: params.clone(),
            timestamp: TimestampMs(1),
            committees: Vec::new(),
            alloc: Default::default(),
        };
        let mut block = genesis.block(B256::ZERO, B256::ZERO, B256::ZERO);
        assert_eq!(block.check_form(&params), Ok(()));
        block.header.da.width = 1;
        assert_eq!(block.check_form(&params), Err(FormError::NotEmpty("DA commitment")), "genesis has no square");
        block.header.height = Height(1);
        assert_eq!(block.check_form(&params), Ok(()));
        block.header.da.width = 0;
        assert_eq!(block.check_form(&params), Err(FormError::NoSquare));
        let opaque = ChainParams { data_squares: false, ..params.clone() };
        assert_eq!(block.check_form(&opaque), Ok(()));
        block.header.da.width = 1;
        assert_eq!(block.check_form(&opaque), Err(FormError::NotEmpty("DA commitment")));
        block.header.kind = HeaderKind::Filler;
        assert_eq!(block.check_form(&params), Err(FormError::NotEmpty("DA commitment")), "nor has a filler");
        block.header.kind = HeaderKind::Block;
        block.header.body_root = body.root();
        block.body = body;
        assert_eq!(block.check_form(&params), Err(FormError::NotEmpty("reveals")));
    }
}
