//! Blocks: header, body, and the results of execution that later headers carry.
//!
//! ```text
//!  header h  --parent-->  header h-1
//!    | body_root    = hash over the body's encoding
//!    | history_root = Merkle mountain range over the hashes of headers 0 .. h-1
//!    | results      = state roots of heights that are final already, normally of h-D alone
//!    | da           = commitment to the erasure-coded body, and to the body root
//! ```
//!
//! The format is whole from the start (decision 15 of the architecture). What no feature fills yet has a defined
//! empty value, and [`Block::check_form`] refuses anything else, so that a field's meaning can only
//! change together with [`PROTOCOL_VERSION`], or with a constant of the chain, which its genesis hash covers.

mod body;
mod header;

use std::sync::OnceLock;

use bytes::Bytes;
use thiserror::Error;

pub use self::{
    body::{Body, BodySections, Certificates, body_root},
    header::{DaCommitment, Header, HeaderKind, L1Origin, ResultEntry},
};
use crate::{
    codec::{Decode, DecodeError, Encode, Reader},
    ids::BlockHash,
    params::{ChainParams, TransactionRule},
    system::{MAX_DEALINGS_PER_BLOCK, SystemItem},
};

/// The version that headers carry. A change of any rule that all nodes must agree on raises it.
pub const PROTOCOL_VERSION: u16 = 3;

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
    use alloy_primitives::B256;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        SignerSet,
        certificate::{Certificate, VoteTarget},
        envelope::Reveal,
        ids::{BlsSignature, ChainId, Epoch, Fork, Height, TimestampMs, View},
        params::Network,
        system::Ready,
    };

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
        fn a_body_is_hashed_as_it_is_encoded(block in blocks()) {
            let encoded = block.body.to_bytes();
            prop_assert_eq!(block.body.encoded_len(), encoded.len());
            prop_assert_eq!(block.body.root(), body_root(&encoded));
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
