//! The keys of an epoch: what all know, and what one sequencer holds.
//!
//! The secret x is the value at zero of a polynomial of degree q-1 that nobody holds; seat s has x_s, its value at s+1.
//! Public are the polynomial's coefficients times the generator of **G2**, and x times the generator of G1:
//!
//! - wallets seal to `x G1`, so ciphertexts and shares are points of G1, where everything is two to three times cheaper
//!   and half as large;
//! - a share `D = x_s U` is then checked by `e(D, G2) = e(U, x_s G2)`, and a combined value K by
//!   `e(K, G2) = e(U, x G2)`, which add up over a whole block to two pairings. With share keys in G1, as
//!   threshold_crypto has them, the same check needs a second component of each ciphertext in G2.
//!
//! The beacon has its own such key, dealt separately: its shares are `x_s hash(block)`, points of G1 of the same form
//! as decryption shares, so one key for both would let a ciphertext's U be chosen as some block's hash.

use std::fmt;

use cascade_primitives::{
    Decode, DecodeError, Encode, Epoch, MemberIndex, PublicKeys, Reader, ThresholdKeys,
    codec::{DecodeErrorKind, encode_list},
    domain, hash,
};
use zeroize::Zeroize as _;

use super::{
    ciphertext::EncryptionKey,
    seats::{MAX_SEATS, SeatMap},
};
use crate::curve::{G1Affine, G2, G2Affine, Scalar, same_exponent};

/// The public side of one key.
#[derive(Clone, PartialEq, Eq)]
pub struct KeySet {
    public: G1Affine,
    coefficients: Vec<G2Affine>,
    shares: Vec<G2Affine>,
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySet({:?}, {} of {})", self.public, self.coefficients.len(), self.shares.len())
    }
}

impl KeySet {
    /// The key set with this key in G1 and these coefficients in G2 for so many seats.
    ///
    /// None if there are no coefficients, more than seats, or a key is infinity. Whether both groups' keys belong
    /// together is for the caller to know.
    #[must_use]
    pub(crate) fn new(public: G1Affine, coefficients: Vec<G2Affine>, seats: u32) -> Option<Self> {
        let sizes = 1..=(seats as usize).min(MAX_SEATS);
        if !sizes.contains(&coefficients.len()) || public.is_infinity() || coefficients[0].is_infinity() {
            return None;
        }
        let shares: Vec<G2> = (1..=u64::from(seats)).map(|at| evaluate(&coefficients, at)).collect();
        let shares = G2::batch_to_affine(&shares);
        Some(Self { public, coefficients, shares })
    }

    /// The key that payloads are sealed to.
    #[must_use]
    pub const fn encryption_key(&self) -> EncryptionKey {
        EncryptionKey(self.public)
    }

    /// The key in G2 that combined values are checked against.
    #[must_use]
    pub fn public_key(&self) -> &G2Affine {
        &self.coefficients[0]
    }

    /// The key of a seat's share; none if there is no such seat.
    #[must_use]
    pub fn share_key(&self, seat: u32) -> Option<&G2Affine> {
        self.shares.get(seat as usize)
    }

    /// Shares that open, q.
    #[must_use]
    pub const fn quorum(&self) -> usize {
        self.coefficients.len()
    }

    /// All seats, S.
    #[must_use]
    pub const fn seats(&self) -> usize {
        self.shares.len()
    }
}

/// The committed polynomial at a small point.
pub(crate) fn evaluate(coefficients: &[G2Affine], at: u64) -> G2 {
    coefficients.iter().rev().fold(G2::infinity(), |sum, c| sum.times_small(at).plus(c))
}

impl Encode for KeySet {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.shares.len() as u32).encode(out);
        self.public.encode(out);
        encode_list(&self.coefficients, out);
    }
}

impl Decode for KeySet {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let seats = r.field("seats of a threshold key").length(MAX_SEATS)? as u32;
        let public = G1Affine::decode(r.field("threshold key"))?;
        let coefficients: Vec<G2Affine> = r.list(seats as usize)?;
        let set = Self::new(public, coefficients, seats)
            .ok_or_else(|| r.error(DecodeErrorKind::NotCanonical("no key, or more shares needed than there are")))?;
        if !same_exponent(&public, &G1Affine::generator(), set.public_key()) {
            return Err(r.error(DecodeErrorKind::NotCanonical("the keys of the two groups differ")));
        }
        Ok(set)
    }
}

/// The public keys of an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochKeys {
    /// The epoch whose committee holds them.
    pub epoch: Epoch,
    /// What payloads are sealed to.
    pub decryption: KeySet,
    /// What the random beacon is made with.
    pub beacon: KeySet,
}

impl EpochKeys {
    /// The keys that one needs who holds no shares.
    #[must_use]
    pub fn public(&self) -> PublicKeys {
        PublicKeys {
            epoch: self.epoch,
            encryption: self.decryption.public.to_compressed(),
            decryption: self.decryption.public_key().to_compressed(),
            beacon: self.beacon.public_key().to_compressed(),
            key_sets: hash::of(domain::KEY_SETS, self),
        }
    }

    /// What the committee's root commits to.
    #[must_use]
    pub fn commitment(&self) -> ThresholdKeys {
        self.public().commitment()
    }
}

impl Encode for EpochKeys {
    fn encode(&self, out: &mut Vec<u8>) {
        self.epoch.encode(out);
        self.decryption.encode(out);
        self.beacon.encode(out);
    }
}

impl Decode for EpochKeys {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let keys = Self {
            epoch: Epoch::decode(r.field("epoch keys"))?,
            decryption: KeySet::decode(r)?,
            beacon: KeySet::decode(r)?,
        };
        let same = keys.decryption.seats() == keys.beacon.seats() && keys.decryption.quorum() == keys.beacon.quorum();
        if same { Ok(keys) } else { Err(r.error(DecodeErrorKind::NotCanonical("the two keys' seats differ"))) }
    }
}

/// The key shares of one member: one of each key for each of its seats. Erased when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretShares {
    epoch: Epoch,
    member: MemberIndex,
    decryption: Vec<Scalar>,
    beacon: Vec<Scalar>,
}

impl fmt::Debug for SecretShares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretShares(epoch {}, member {}, {} seats)", self.epoch, self.member, self.decryption.len())
    }
}

impl Drop for SecretShares {
    fn drop(&mut self) {
        self.decryption.zeroize();
        self.beacon.zeroize();
    }
}

impl SecretShares {
    /// The shares of a member, in the order of its seats.
    ///
    /// # Panics
    /// If the numbers of decryption and beacon shares differ.
    #[must_use]
    pub(crate) fn new(epoch: Epoch, member: MemberIndex, decryption: Vec<Scalar>, beacon: Vec<Scalar>) -> Self {
        assert_eq!(decryption.len(), beacon.len(), "a seat has a share of both keys");
        Self { epoch, member, decryption, beacon }
    }

    /// The epoch they belong to.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whose they are.
    #[must_use]
    pub const fn member(&self) -> MemberIndex {
        self.member
    }

    /// Number of seats.
    #[must_use]
    pub fn seats(&self) -> usize {
        self.decryption.len()
    }

    pub(crate) fn decryption(&self) -> &[Scalar] {
        &self.decryption
    }

    pub(crate) fn beacon(&self) -> &[Scalar] {
        &self.beacon
    }

    /// Whether these are the member's shares of these keys: for the start, before any of them is used.
    #[must_use]
    pub fn belong_to(&self, keys: &EpochKeys, seats: &SeatMap) -> bool {
        let mine = seats.seats(self.member);
        let right = |set: &KeySet, shares: &[Scalar]| {
            mine.clone()
                .zip(shares)
                .all(|(seat, share)| set.share_key(seat) == Some(&G2::generator().times(share).to_affine()))
        };
        self.epoch == keys.epoch
            && mine.len() == self.seats()
            && right(&keys.decryption, &self.decryption)
            && right(&keys.beacon, &self.beacon)
    }
}

impl Encode for SecretShares {
    fn encode(&self, out: &mut Vec<u8>) {
        self.epoch.encode(out);
        self.member.encode(out);
        encode_list(&self.decryption, out);
        encode_list(&self.beacon, out);
    }
}

impl Decode for SecretShares {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (epoch, member) = (Epoch::decode(r.field("key shares"))?, MemberIndex::decode(r)?);
        let shares = Self { epoch, member, decryption: r.list(MAX_SEATS)?, beacon: r.list(MAX_SEATS)? };
        if shares.decryption.len() != shares.beacon.len() {
            return Err(r.error(DecodeErrorKind::NotCanonical("a seat has a share of both keys")));
        }
        Ok(shares)
    }
}
