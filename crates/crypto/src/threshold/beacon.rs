//! The random beacon: one value for each block that nobody knows before q seats want it.
//!
//! A threshold BLS signature over the block, unique for the key, so that the quorum that makes it cannot choose it:
//! keys in G2, signatures in G1 (draft-irtf-cfrg-bls-signature-05, minimal-signature-size, basic scheme), 48 bytes.
//! The point that is signed is a base like any envelope's U, and its shares are made, combined and checked by
//! [`super::shares`], under the beacon's own key.

use cascade_primitives::{B256, BlockHash, Encode as _, Epoch, Height, SigningContext, domain, hash};

use crate::curve::{G1, G1_BYTES, G1Affine, G2Affine, same_exponent};

/// The ciphersuite.
pub const BEACON_SUITE: &[u8] = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_";

/// The 32 bytes that a block's beacon signs: chain, genesis, fork, epoch, height and block.
#[must_use]
pub fn message(context: &SigningContext, epoch: Epoch, height: Height, block: BlockHash) -> B256 {
    let mut bytes = Vec::with_capacity(96);
    context.chain_id.encode(&mut bytes);
    context.genesis_hash.encode(&mut bytes);
    context.fork.encode(&mut bytes);
    epoch.encode(&mut bytes);
    height.encode(&mut bytes);
    block.encode(&mut bytes);
    hash::tagged(domain::BEACON_MESSAGE, &[&bytes])
}

/// The point that seats make beacon shares of.
#[must_use]
pub fn base(message: &B256) -> G1Affine {
    G1::hash(message.as_slice(), BEACON_SUITE).to_affine()
}

/// The beacon's value, from the combined signature: what shuffles the block and stands in PREVRANDAO.
#[must_use]
pub fn value(signature: &G1Affine) -> B256 {
    hash::tagged(domain::BEACON_VALUE, &[&signature.to_compressed()])
}

/// The signature in these bytes if it is the beacon's over this message; for those who have no shares.
#[must_use]
pub fn verify(key: &G2Affine, message: &B256, signature: &[u8; G1_BYTES]) -> Option<G1Affine> {
    G1Affine::from_compressed(signature).filter(|signature| same_exponent(signature, &base(message), key))
}
