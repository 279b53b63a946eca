//! The Merkle tree over a line of a square: RFC 6962, section 2.1, with its own prefixes.
//!
//! ```text
//!  leaf = SHA-256(0x00 | share)      node = SHA-256(0x01 | left | right)
//! ```
//!
//! Elsewhere Cascade puts a tag with its length in front of what it hashes (`primitives/hash.rs`); no tag is 0 or 1 bytes
//! long, so no hash of the one kind can be taken for one of the other. The prefixes of the RFC are kept here because its
//! published vectors then apply, and because a node of 65 bytes is two blocks of SHA-256.
//!
//! A share's leaf hash does not depend on the axis: it is computed once and used by its row and its column.

use cascade_primitives::B256;
use sha2::{Digest, Sha256};

/// The hash of a leaf.
#[must_use]
pub fn leaf(data: &[u8]) -> B256 {
    let mut hasher = Sha256::new();
    hasher.update([0x00]);
    hasher.update(data);
    B256::from(<[u8; 32]>::from(hasher.finalize()))
}

/// The hash of an inner node.
#[must_use]
pub fn node(left: &B256, right: &B256) -> B256 {
    let mut bytes = [0u8; 65];
    bytes[0] = 0x01;
    bytes[1..33].copy_from_slice(left.as_slice());
    bytes[33..].copy_from_slice(right.as_slice());
    B256::from(<[u8; 32]>::from(Sha256::digest(bytes)))
}

/// The root over leaf hashes.
///
/// # Panics
/// Unless their number is a power of two, as it is on every line of a square.
#[must_use]
pub fn root(leaves: &[B256]) -> B256 {
    fold(leaves.to_vec(), |_| ())
}

/// The siblings of the leaf at `index`, from the bottom up.
///
/// # Panics
/// Unless the number of leaves is a power of two greater than `index`.
#[must_use]
pub fn path(leaves: &[B256], index: usize) -> Vec<B256> {
    assert!(index < leaves.len(), "there is a leaf at the index");
    let mut at = index;
    let mut path = Vec::with_capacity(leaves.len().ilog2() as usize);
    fold(leaves.to_vec(), |level| {
        path.push(level[at ^ 1]);
        at /= 2;
    });
    path
}

fn fold(mut level: Vec<B256>, mut visit: impl FnMut(&[B256])) -> B256 {
    assert!(level.len().is_power_of_two(), "a line has a power of two of leaves");
    while level.len() > 1 {
        visit(&level);
        for i in 0..level.len() / 2 {
            level[i] = node(&level[2 * i], &level[2 * i + 1]);
        }
        level.truncate(level.len() / 2);
    }
    level[0]
}

/// The root that a leaf hash at `index` of `2^path.len()` leaves leads to; none if there is no such place.
#[must_use]
pub fn climb(leaf: &B256, index: usize, path: &[B256]) -> Option<B256> {
    if path.len() >= usize::BITS as usize || index >> path.len() != 0 {
        return None;
    }
    Some(path.iter().enumerate().fold(*leaf, |hash, (level, sibling)| {
        if index >> level & 1 == 0 { node(&hash, sibling) } else { node(sibling, &hash) }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The inputs and roots of the Certificate Transparency log server's published tests
    /// (google/certificate-transparency, cpp/merkletree/merkle_tree_test.cc, `kSHA256Roots` and `kSHA256Paths`), sizes 1, 2,
    /// 4 and 8; the others have a shape that no line of a square has.
    #[test]
    fn roots_and_paths_equal_the_published_vectors_of_rfc_6962() {
        let inputs: Vec<Vec<u8>> =
            ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
                .iter()
                .map(|hex| hex::decode(hex).unwrap())
                .collect();
        let leaves: Vec<B256> = inputs.iter().map(|input| leaf(input)).collect();
        for (size, expected) in [
            (1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
            (2, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
            (4, "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"),
            (8, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
        ] {
            assert_eq!(hex::encode(root(&leaves[..size])), expected, "{size} leaves");
        }
        for (index, expected) in [
            (
                0,
                [
                    "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                    "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
                ],
            ),
            (
                5,
                [
                    "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
                ],
            ),
        ] {
            let found: Vec<String> = path(&leaves, index).iter().map(hex::encode).collect();
            assert_eq!(found, expected, "leaf {index}");
        }
    }

    #[test]
    fn a_path_leads_to_the_root_from_its_own_place_alone() {
        for size in [1, 2, 8, 128] {
            let leaves: Vec<B256> = (0..size).map(|i: usize| leaf(&i.to_le_bytes())).collect();
            let root = root(&leaves);
            for index in 0..size {
                let path = path(&leaves, index);
                for other in 0..size + 1 {
                    assert_eq!(climb(&leaves[index], other, &path) == Some(root), other == index);
                }
            }
        }
    }
}
