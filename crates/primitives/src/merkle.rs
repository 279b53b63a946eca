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
    climb(leaf, index, count, path).is_some_and(|found| found == *root)
}

/// The root that `leaf` at `index` of `count` leaves leads to; none if there is no such place or path.
#[must_use]
pub fn climb(leaf: &B256, index: usize, count: usize, path: &[B256]) -> Option<B256> {
    if index >= count {
        return None;
    }
    if count == 1 {
        return path.is_empty().then_some(*leaf);
    }
    let (sibling, below) = path.split_last()?;
    let at = split(count);
    Some(if index < at {
        node(&climb(leaf, index, at, below)?, sibling)
    } else {
        node(sibling, &climb(leaf, index - at, count - at, below)?)
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
    /// The range with so many leaves and these peaks, largest first; none unless there is one for each bit of the count.
    #[must_use]
    pub fn of_peaks(count: u64, peaks: Vec<B256>) -> Option<Self> {
        (peaks.len() == count.count_ones() as usize).then_some(Self { count, peaks })
    }

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

/// The leaf at a place of a mountain range, proved by the siblings in its mountain and the peaks.
///
/// About `64 * log2(n)` bytes: 1.2 KB over 172,800 leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountainProof {
    /// The peaks.
    pub range: MountainRange,
    /// The siblings from the leaf up to its peak; at most 63.
    pub path: Vec<B256>,
}

impl MountainRange {
    /// The mountain that the leaf at `index` is part of: its place among the peaks, its first leaf and its height.
    fn mountain(&self, index: u64) -> Option<(usize, u64, u32)> {
        let mut first = 0;
        let bits = (0..u64::BITS).rev().filter(|bit| self.count >> bit & 1 == 1);
        for (place, height) in bits.enumerate() {
            if index - first < 1 << height {
                return Some((place, first, height));
            }
            first += 1 << height;
        }
        None
    }

    /// The proof of the leaf at `index`; none if there is no such leaf.
    ///
    /// `subtree(first, height)` answers the root over the `2^height` leaves from `first` on, stored or computed by
    /// [`subtree_root`]. It is asked once for each level of the mountain.
    pub fn prove(&self, index: u64, mut subtree: impl FnMut(u64, u32) -> B256) -> Option<MountainProof> {
        let (_, first, height) = self.mountain(index)?;
        let inside = index - first;
        let path = (0..height).map(|level| subtree(first + ((inside >> level ^ 1) << level), level)).collect();
        Some(MountainProof { range: self.clone(), path })
    }
}

impl MountainProof {
    /// Whether `leaf` stands at `index` under the range's `root`.
    #[must_use]
    pub fn verify(&self, root: &B256, leaf: &B256, index: u64) -> bool {
        let Some((place, first, height)) = self.range.mountain(index) else { return false };
        if self.path.len() != height as usize {
            return false;
        }
        let inside = index - first;
        let peak = self.path.iter().enumerate().fold(*leaf, |hash, (level, sibling)| {
            if inside >> level & 1 == 0 { node(&hash, sibling) } else { node(sibling, &hash) }
        });
        self.range.peaks.get(place) == Some(&peak) && self.range.root() == *root
    }
}

/// The root over the `2^height` leaves from `first` on.
pub fn subtree_root(first: u64, height: u32, leaf: &mut impl FnMut(u64) -> B256) -> B256 {
    match height {
        0 => leaf(first),
        _ => {
            let left = subtree_root(first, height - 1, leaf);
            node(&left, &subtree_root(first + (1 << (height - 1)), height - 1, leaf))
        }
    }
}

impl Encode for MountainProof {
    fn encode(&self, out: &mut Vec<u8>) {
        self.range.encode(out);
        encode_list(&self.path, out);
    }
}

impl Decode for MountainProof {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { range: MountainRange::decode(r)?, path: r.field("path in a mountain").list(63)? })
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

        #[test]
        fn a_mountain_proof_holds_for_its_leaf_place_and_root_alone(n in 1usize..130, a in 0usize..130, b in 0usize..130) {
            let leaves = leaves(n);
            let (a, b) = (a % n, b % n);
            let mut range = MountainRange::default();
            let mut older = MountainRange::default();
            for (i, leaf) in leaves.iter().enumerate() {
                range.push(*leaf);
                if i + 1 < n {
                    older.push(*leaf);
                }
            }
            let root = range.root();
            let proof = range
                .prove(a as u64, |first, height| subtree_root(first, height, &mut |i| leaves[i as usize]))
                .unwrap();
            prop_assert_eq!(&MountainProof::from_slice(&proof.to_bytes()).unwrap(), &proof);
            prop_assert!(proof.verify(&root, &leaves[a], a as u64));
            prop_assert!(!proof.verify(&older.root(), &leaves[a], a as u64));
            prop_assert_eq!(proof.verify(&root, &leaves[a], b as u64), a == b);
            prop_assert_eq!(proof.verify(&root, &leaves[b], a as u64), a == b);
            for index in [n as u64, u64::MAX] {
                prop_assert!(range.prove(index, |_, _| B256::ZERO).is_none());
                prop_assert!(!proof.verify(&root, &leaves[a], index));
            }
        }
    }
}
