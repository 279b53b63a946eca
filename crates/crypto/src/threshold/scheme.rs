//! The seam between the encrypted mempool and the scheme that opens it.

use std::{fmt::Debug, ops::Range};

use cascade_primitives::{Bytes, Decode, Encode, MemberIndex};
use rand::CryptoRng;

use super::{
    ciphertext::{self, Ciphertext, CiphertextError, EncryptionKey, Label, OpenError, TooLarge},
    keys::{KeySet, SecretShares},
    shares::{self, Combination, MemberShares, ShareError},
};
use crate::curve::G1Affine;

/// Threshold encryption of a block's payloads.
///
/// Everything goes by the block: one contribution of each sequencer for all payloads, one combination, one check. So a
/// batched scheme, whose contribution has a constant size, fits behind it as well as one share for each payload. All
/// randomness is an input; it must be secure, local and drawn anew for each call.
pub trait EncryptionScheme: Debug + Send + Sync {
    /// What payloads are sealed to.
    type Key: Copy + Debug + Send + Sync;
    /// The public keys of an epoch.
    type Keys: Debug + Send + Sync;
    /// The secret shares of one sequencer.
    type Secret: Debug + Send + Sync;
    /// A sealed payload.
    type Ciphertext: Encode + Decode + Clone + Debug + Send + Sync;
    /// What is kept of a ciphertext that was checked, for shares to be made of.
    type Base: Clone + Debug + Send + Sync;
    /// One sequencer's contribution to a block, decoded.
    type Share: Clone + Debug + Send + Sync;
    /// What opens one ciphertext.
    type Value: Clone + PartialEq + Debug + Send + Sync;

    /// Seals a payload under a label.
    ///
    /// # Errors
    /// [`TooLarge`].
    fn seal(
        &self,
        key: &Self::Key,
        label: &Label,
        payload: &[u8],
        rng: &mut dyn CryptoRng,
    ) -> Result<Self::Ciphertext, TooLarge>;

    /// Checks ciphertexts with their labels, in a batch; answers stand in the order of the input.
    fn check(
        &self,
        key: &Self::Key,
        items: &[(&Self::Ciphertext, Label)],
        rng: &mut dyn CryptoRng,
    ) -> Vec<Result<Self::Base, CiphertextError>>;

    /// Makes this sequencer's contribution to a block, as it goes on the wire.
    fn share(&self, secret: &Self::Secret, bases: &[Self::Base]) -> Bytes;

    /// Reads the contribution of a member with these seats.
    ///
    /// # Errors
    /// [`ShareError`] if the bytes cannot be one.
    fn read_share(
        &self,
        member: MemberIndex,
        seats: Range<u32>,
        bases: &[Self::Base],
        bytes: &[u8],
    ) -> Result<Self::Share, ShareError>;

    /// Combines contributions, at most one of each member, and checks the result; names the members that lied.
    fn combine(
        &self,
        keys: &Self::Keys,
        bases: &[Self::Base],
        shares: &[Self::Share],
        rng: &mut dyn CryptoRng,
    ) -> Combination<Self::Value>;

    /// Whether these values open these bases; for those who have no shares.
    fn check_values(
        &self,
        keys: &Self::Keys,
        bases: &[Self::Base],
        values: &[Self::Value],
        rng: &mut dyn CryptoRng,
    ) -> bool;

    /// Opens a checked ciphertext with its checked value.
    ///
    /// # Errors
    /// [`OpenError`]: the sender sealed nonsense; the same at every node.
    fn open(&self, ciphertext: &Self::Ciphertext, label: &Label, value: &Self::Value) -> Result<Bytes, OpenError>;
}

/// The scheme of [`super`]: hashed ElGamal with TDH2 proofs, one share for each payload and seat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tdh2;

impl EncryptionScheme for Tdh2 {
    type Key = EncryptionKey;
    type Keys = KeySet;
    type Secret = SecretShares;
    type Ciphertext = Ciphertext;
    type Base = G1Affine;
    type Share = MemberShares;
    type Value = G1Affine;

    fn seal(
        &self,
        key: &EncryptionKey,
        label: &Label,
        payload: &[u8],
        rng: &mut dyn CryptoRng,
    ) -> Result<Ciphertext, TooLarge> {
        ciphertext::seal(key, label, payload, rng)
    }

    fn check(
        &self,
        key: &EncryptionKey,
        items: &[(&Ciphertext, Label)],
        rng: &mut dyn CryptoRng,
    ) -> Vec<Result<G1Affine, CiphertextError>> {
        ciphertext::check(key, items, rng)
    }

    fn share(&self, secret: &SecretShares, bases: &[G1Affine]) -> Bytes {
        shares::to_wire(&shares::create(secret.decryption(), bases))
    }

    fn read_share(
        &self,
        member: MemberIndex,
        seats: Range<u32>,
        bases: &[G1Affine],
        bytes: &[u8],
    ) -> Result<MemberShares, ShareError> {
        MemberShares::from_wire(member, seats, bases.len(), bytes)
    }

    fn combine(
        &self,
        keys: &KeySet,
        bases: &[G1Affine],
        shares: &[MemberShares],
        rng: &mut dyn CryptoRng,
    ) -> Combination {
        shares::combine(keys, bases, shares, rng)
    }

    fn check_values(&self, keys: &KeySet, bases: &[G1Affine], values: &[G1Affine], rng: &mut dyn CryptoRng) -> bool {
        shares::check_combined(keys, bases, values, rng)
    }

    fn open(&self, ciphertext: &Ciphertext, label: &Label, value: &G1Affine) -> Result<Bytes, OpenError> {
        ciphertext::open(ciphertext, label, value)
    }
}
