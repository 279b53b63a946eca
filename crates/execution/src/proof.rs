//! Proofs that an element is, or is not, in the state with a given root.
//!
//! Nothing here touches a store: a light client needs this module, a root that a certificate covers, and the bytes.
//!
//! The tree is a binary sparse Merkle tree over 256-bit keys (Jellyfish Merkle tree, Gao et al. 2021, hashed as
//! the `jmt` crate does), in which a subtree with one leaf is that leaf and an empty one is a constant:
//!
//! ```text
//!  inner = SHA-256("JMT::IntrnalNode" | left | right)          empty = "SPARSE_MERKLE_PLACEHOLDER_HASH__"
//!  leaf  = SHA-256("JMT::LeafNode" | key | SHA-256(value))     bit 0 of the key (the highest) chooses at the root
//! ```
//!
//! A proof is what stands at the end of the key's path, and the siblings from there up to the root. The end is
//! - the key's own leaf: the element is there, with that value;
//! - another leaf, whose key shares all the path's bits: were the element there, the two would have been split further
//!   down, so it is absent;
//! - nothing: absent.
//!
//! For one root and key only one of these folds up to the root (collision resistance of SHA-256; leaves and inner
//! nodes have different prefixes; key and position are bound by the path's bits). A path has at most 256 siblings of 32
//! bytes, so a proof is below 8.5 KB whatever an attacker puts into the tree, and normally 0.6 to 1 KB.

use std::collections::HashMap;

use alloy_primitives::{Address, B256, U256};
use bytes::Bytes;
use cascade_primitives::{Decode, DecodeError, DecodeErrorKind, Encode, Reader, codec::encode_byte_string};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{
    keys::{Account, account_key, decode_slot, slot_key},
    store::{MAX_VALUE_BYTES, StateKey},
};

/// Longest encoding of a [`StateProof`] in bytes: below the 10 KB that requirement R37 allows.
pub const MAX_PROOF_BYTES: usize = 1 + 4 + MAX_VALUE_BYTES + 2 + 32 + 256 * 32;

/// Proofs that one batch may hold; bounds a decoder.
pub const MAX_BATCH_PROOFS: usize = 4096;

/// Hash of an empty subtree.
pub const EMPTY_ROOT: B256 = B256::new(*b"SPARSE_MERKLE_PLACEHOLDER_HASH__");

pub(crate) fn hash_inner(left: &B256, right: &B256) -> B256 {
    let mut hasher = Sha256::new();
    hasher.update(b"JMT::IntrnalNode");
    hasher.update(left);
    hasher.update(right);
    B256::from(<[u8; 32]>::from(hasher.finalize()))
}

pub(crate) fn hash_leaf(key: &StateKey, value_hash: &B256) -> B256 {
    let mut hasher = Sha256::new();
    hasher.update(b"JMT::LeafNode");
    hasher.update(key.0);
    hasher.update(value_hash);
    B256::from(<[u8; 32]>::from(hasher.finalize()))
}

pub(crate) fn hash_value(value: &[u8]) -> B256 {
    B256::from(<[u8; 32]>::from(Sha256::digest(value)))
}

/// The bit of `key` that chooses the child at `depth`; depth 0 is the root.
pub(crate) fn bit(key: &StateKey, depth: usize) -> bool {
    key.0[depth / 8] >> (7 - depth % 8) & 1 == 1
}

fn common_prefix_bits(a: &StateKey, b: &StateKey) -> usize {
    let mut bits = 0;
    for (x, y) in a.0.iter().zip(b.0.iter()) {
        let same = (x ^ y).leading_zeros() as usize;
        bits += same;
        if same < 8 {
            break;
        }
    }
    bits
}

/// What stands at the end of a key's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEnd {
    /// The key's own leaf, with this value.
    Value(Bytes),
    /// Another leaf.
    OtherLeaf {
        /// Its key.
        key: StateKey,
        /// SHA-256 of its value.
        value_hash: B256,
    },
    /// Nothing.
    Empty,
}

/// A proof that an element is, or is not, in the state with a given root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateProof {
    /// What stands at the end of the path.
    pub end: PathEnd,
    /// Hashes of the siblings from the end up to the root; at most 256.
    pub siblings: Vec<B256>,
}

/// Why a proof proves nothing about a key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProofError {
    /// It folds up to another root.
    #[error("the proof leads to root {found}, expected {expected}")]
    Root {
        /// The root that the proof leads to.
        found: B256,
        /// The root given.
        expected: B256,
    },
    /// The other leaf does not stand on the key's path, or is the key's own.
    #[error("the leaf at the end of the path says nothing about this key")]
    OtherLeaf,
    /// More siblings than a key has bits.
    #[error("{0} siblings, at most 256 are possible")]
    TooDeep(usize),
    /// The value is no canonical account or slot.
    #[error("the value is not canonical: {0}")]
    Value(#[from] DecodeError),
    /// A batch has another number of proofs than keys.
    #[error("{proofs} proofs for {keys} keys")]
    Count {
        /// Proofs given.
        proofs: usize,
        /// Keys given.
        keys: usize,
    },
}

/// Hashes of inner nodes that already lead to the root, by depth and path.
#[derive(Default)]
struct Known(HashMap<(usize, B256), B256>);

impl Known {
    fn path(key: &StateKey, depth: usize) -> (usize, B256) {
        let mut path = key.0;
        for (i, byte) in path.iter_mut().enumerate() {
            let kept = depth.saturating_sub(8 * i).min(8);
            *byte &= !(0xff_u16 >> kept) as u8;
        }
        (depth, path)
    }
}

impl StateProof {
    /// Checks the proof of `key` against a root: the value if it proves inclusion, `None` if it proves absence.
    ///
    /// # Errors
    /// [`ProofError`] if it proves neither.
    pub fn verify(&self, root: &B256, key: &StateKey) -> Result<Option<&[u8]>, ProofError> {
        self.verify_with(root, key, None)
    }

    /// Checks the proof of an account: `None` if it is not there.
    ///
    /// # Errors
    /// [`ProofError`] if the proof proves nothing about it.
    pub fn verify_account(&self, root: &B256, address: &Address) -> Result<Option<Account>, ProofError> {
        Ok(self.verify(root, &account_key(address))?.map(Account::from_slice).transpose()?)
    }

    /// Checks the proof of a storage slot: zero if it is not there.
    ///
    /// # Errors
    /// [`ProofError`] if the proof proves nothing about it.
    pub fn verify_slot(&self, root: &B256, address: &Address, slot: &U256) -> Result<U256, ProofError> {
        Ok(self.verify(root, &slot_key(address, slot))?.map(decode_slot).transpose()?.unwrap_or_default())
    }

    fn verify_with(
        &self,
        root: &B256,
        key: &StateKey,
        mut known: Option<&mut Known>,
    ) -> Result<Option<&[u8]>, ProofError> {
        let depth = self.siblings.len();
        if depth > 256 {
            return Err(ProofError::TooDeep(depth));
        }
        let (mut hash, value) = match &self.end {
            PathEnd::Value(value) => (hash_leaf(key, &hash_value(value)), Some(&value[..])),
            PathEnd::OtherLeaf { key: other, value_hash } => {
                if other == key || common_prefix_bits(other, key) < depth {
                    return Err(ProofError::OtherLeaf);
                }
                (hash_leaf(other, value_hash), None)
            }
            PathEnd::Empty => (EMPTY_ROOT, None),
        };
        let mut passed = Vec::new();
        for (i, sibling) in self.siblings.iter().enumerate() {
            let depth = depth - 1 - i;
            hash = if bit(key, depth) { hash_inner(sibling, &hash) } else { hash_inner(&hash, sibling) };
            if let Some(known) = known.as_deref_mut() {
                let path = Known::path(key, depth);
                if known.0.get(&path) == Some(&hash) {
                    hash = *root;
                    break;
                }
                passed.push((path, hash));
            }
        }
        if hash != *root {
            return Err(ProofError::Root { found: hash, expected: *root });
        }
        if let Some(known) = known {
            known.0.extend(passed);
        }
        Ok(value)
    }
}

/// Checks many proofs against one root. Inner nodes that proofs share are hashed once.
///
/// # Errors
/// The place and error of the first proof that proves nothing about its key; place 0 and [`ProofError::Count`] if the
/// lists differ in length.
pub fn verify_batch<'a>(
    root: &B256,
    keys: &[StateKey],
    proofs: &'a [StateProof],
) -> Result<Vec<Option<&'a [u8]>>, (usize, ProofError)> {
    if keys.len() != proofs.len() {
        return Err((0, ProofError::Count { proofs: proofs.len(), keys: keys.len() }));
    }
    let mut known = Known::default();
    let each = keys.iter().zip(proofs).enumerate();
    each.map(|(i, (key, proof))| proof.verify_with(root, key, Some(&mut known)).map_err(|error| (i, error))).collect()
}

impl Encode for StateProof {
    fn encode(&self, out: &mut Vec<u8>) {
        match &self.end {
            PathEnd::Value(value) => {
                out.push(0);
                encode_byte_string(value, out);
            }
            PathEnd::OtherLeaf { key, value_hash } => {
                out.push(1);
                key.encode(out);
                value_hash.encode(out);
            }
            PathEnd::Empty => out.push(2),
        }
        u16::try_from(self.siblings.len()).expect("at most 256 siblings").encode(out);
        let mut bitmap = vec![0u8; self.siblings.len().div_ceil(8)];
        for (i, _) in self.siblings.iter().enumerate().filter(|(_, hash)| **hash != EMPTY_ROOT) {
            bitmap[i / 8] |= 1 << (i % 8);
        }
        out.extend_from_slice(&bitmap);
        for hash in self.siblings.iter().filter(|hash| **hash != EMPTY_ROOT) {
            hash.encode(out);
        }
    }
}

impl Decode for StateProof {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let end = match u8::decode(r.field("state proof"))? {
            0 => PathEnd::Value(r.byte_string(MAX_VALUE_BYTES)?),
            1 => PathEnd::OtherLeaf { key: StateKey::decode(r)?, value_hash: B256::decode(r)? },
            2 => PathEnd::Empty,
            tag => return Err(r.error(DecodeErrorKind::UnknownTag(u64::from(tag)))),
        };
        let count = usize::from(u16::decode(r)?);
        if count > 256 {
            return Err(r.error(DecodeErrorKind::TooLong { length: count, limit: 256 }));
        }
        let bitmap = r.take(count.div_ceil(8))?;
        if count % 8 != 0 && bitmap[count / 8] >> (count % 8) != 0 {
            return Err(r.error(DecodeErrorKind::NotCanonical("bits beyond the last sibling are zero")));
        }
        let mut siblings = Vec::with_capacity(count);
        for i in 0..count {
            if bitmap[i / 8] >> (i % 8) & 1 == 0 {
                siblings.push(EMPTY_ROOT);
                continue;
            }
            let hash = B256::decode(r)?;
            if hash == EMPTY_ROOT {
                return Err(r.error(DecodeErrorKind::NotCanonical("an empty sibling is a zero bit")));
            }
            siblings.push(hash);
        }
        Ok(Self { end, siblings })
    }
}
