//! Merkle trees and the mountain range over headers.
//!
//! Trees have the shape of RFC 6962, section 2.1 (the left subtree holds the largest power of two below the number of
//! leaves), with Cascade's domain tags in place of the prefix bytes. The mountain range keeps one peak for each set
//! bit of the number of leaves, so appending costs O(log n) and no stored tree.

use alloy_primitives::B256;

use crate::{
    codec::{Decode, DecodeError, DecodeErrorKind, Encode, Reader, encode_list},
    domain, hash,
};

fn node(left: &B256, right: &B256) -> B256 {
    hash::tagged(domain::MERKLE_NODE, &[left.as_slice(), right.as_slice()])
}

/// The hash of a leaf.
#[must_use]
pub fn leaf(data: &[u8]) -> B256 {
    hash::tagged(domain::MERKLE_LEAF, &[data])
}

/// The root over leaf hashes; zero for no leaves.
#[must_use]
pub fn root(leaves: &[B256]) -> B256 {
    match leaves {
        [] => B256::ZERO,
        [only] => *only,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node(&root(left), &root(right))
        }
    }
}

/// The siblings from the leaf at `index` up to the root. Empty if there is no such leaf or only one.
#[must_use]
pub fn proof(leaves: &[B256], index: usize) -> Vec<B256> {
    if index >= leaves.len() || leaves.len() == 1 {
        return Vec::new();
    }
    let at = split(leaves.len());
    let (left, right) = leaves.split_at(at);
    let (mut path, sibling) =
        if index < at { (proof(left, index), root(right)) } else { (proof(right, index - at), root(left)) };
    path.push(sibling);
    path
}

/// Whether `leaf` stands at `index` of `count` leaves under `root`.
#[must_use]
pub fn verify(root: &B256, leaf: &B256, index: usize, count: usize, path: &[B256]) -> bool {
    fold(leaf, index, count, path).is_some_and(|found| found == *root)
}

fn fold(leaf: &B256, index: usize, count: usize, path: &[B256]) -> Option<B256> {
    if index >= count {
        return None;
    }
    if count == 1 {
        return path.is_empty().then_some(*leaf);
    }
    let (sibling, below) = path.split_last()?;
    let at = split(count);
    Some(if index < at {
        node(&fold(leaf, index, at, below)?, sibling)
    } else {
        node(sibling, &fold(leaf, index - at, count - at, below)?)
    })
}

fn split(count: usize) -> usize {
    count.next_power_of_two() / 2
}

/// A Merkle mountain range: the peaks over a growing list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountainRange {
    count: u64,
    peaks: Vec<B256>,
}

impl MountainRange {
    /// Appends a leaf hash.
    pub fn push(&mut self, leaf: B256) {
        let mut carry = leaf;
        for _ in 0..self.count.trailing_ones() {
            let left = self.peaks.pop().expect("one peak for each set bit of the count");
            carry = node(&left, &carry);
        }
        self.peaks.push(carry);
        self.count += 1;
    }

    /// Leaves so far.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.count
    }

    /// Whether there is no leaf.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The root: a hash over the number of leaves and the peaks, largest first; zero for no leaves.
    #[must_use]
    pub fn root(&self) -> B256 {
        if self.count == 0 {
            return B256::ZERO;
        }
        let mut bytes = self.count.to_bytes();
        for peak in &self.peaks {
            peak.encode(&mut bytes);
        }
        hash::tagged(domain::MMR_PEAKS, &[&bytes])
    }
}

impl Encode for MountainRange {
    fn encode(&self, out: &mut Vec<u8>) {
        self.count.encode(out);
        encode_list(&self.peaks, out);
    }
}

impl Decode for MountainRange {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = u64::decode(r.field("mountain range"))?;
        let peaks = r.list(64)?;
        if peaks.len() != count.count_ones() as usize {
            return Err(
                r.error(DecodeErrorKind::NotCanonical("a mountain range has one peak for each bit of its count"))
            );
        }
        Ok(Self { count, peaks })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaves(n: usize) -> Vec<B256> {
        (0..n).map(|i| leaf(&i.to_le_bytes())).collect()
    }

    proptest! {
        #[test]
        fn p8_a_proof_verifies_if_and_only_if_the_leaf_is_there(n in 1usize..70, a in 0usize..70, b in 0usize..70) {
            let leaves = leaves(n);
            let (a, b) = (a % n, b % n);
            let root = root(&leaves);
            let path = proof(&leaves, a);
            prop_assert!(verify(&root, &leaves[a], a, n, &path));
            prop_assert_eq!(verify(&root, &leaves[b], a, n, &path), a == b);
            prop_assert!(!verify(&root, &leaf(b"absent"), a, n, &path));
            prop_assert!(!verify(&root, &leaves[a], n, n, &path));
            if !path.is_empty() {
                prop_assert!(!verify(&root, &leaves[a], a, n, &path[1..]));
            }
        }

        #[test]
        fn peaks_are_roots_of_the_power_of_two_prefixes(n in 0usize..130) {
            let leaves = leaves(n);
            let mut range = MountainRange::default();
            for leaf in &leaves {
                range.push(*leaf);
            }
            let mut rest = &leaves[..];
            let mut expected = Vec::new();
            for bit in (0..usize::BITS).rev().filter(|bit| n >> bit & 1 == 1) {
                let (mountain, after) = rest.split_at(1 << bit);
                expected.push(root(mountain));
                rest = after;
            }
            prop_assert_eq!(&range.peaks, &expected);
            prop_assert_eq!(MountainRange::from_slice(&range.to_bytes()).unwrap(), range);
        }
    }
}
