//! Shares of a block, what they combine to, and whose shares were wrong.
//!
//! ```text
//!   bases     U_1 .. U_n      first components of the block's envelopes that are to be opened, in their order
//!   shares    D_js = x_s U_j  of seat s, all seats of a sequencer in one message
//!   combined  K_j = x U_j     from any q seats; opens envelope j; one value for everybody
//! ```
//!
//! [`combine`] takes the shares of q seats unchecked, combines, and checks the *combined* values: each must lie in the
//! subgroup, and with local random 128-bit coefficients c_j, drawn after the values are fixed,
//!
//! ```text
//!   e(sum_j c_j K_j, G2) = e(sum_j c_j U_j, x G2)
//! ```
//!
//! Two pairings whatever the size. If it fails, some share was wrong: each sequencer's message is then checked by
//! itself, the same way against the keys of its seats, the wrong ones are named, and the rest goes on without them. So
//! a liar costs the others one check of each message and is out for the block.
//!
//! The subgroup check is not implied by the pairing: a share with a torsion component passes every pairing equation,
//! and would give different nodes different keys, depending on whose shares they combined. A share that carries torsion
//! which cancels out in K does no harm. Points are uncompressed on the wire: decompression costs a fifth of a share's making.

use std::{collections::BTreeSet, ops::Range};

use cascade_primitives::{
    B256, BlockHash, Bytes, Decode, DecodeError, Encode, Epoch, Fork, Height, MemberIndex, Reader,
    codec::{DecodeErrorKind, encode_byte_string},
    domain, hash,
};
use rand::CryptoRng;
use rayon::prelude::*;
use thiserror::Error;

use super::{
    interpolation::Weights,
    keys::{KeySet, SecretShares},
    seats::MAX_SEATS,
};
use crate::{
    bugs::{NoBugs, SealedBug, SealedBugs},
    curve::{G1, G1_WIDE_BYTES, G1Affine, G2Affine, Scalar, pairings_cancel, same_exponent},
};

/// Bases whose work one thread does at a time: two eights, so that blocks of some dozens spread over threads.
const CHUNK: usize = 16;

/// Decryption shares in one message: envelopes of a block times seats of a sequencer.
pub const MAX_SHARES: usize = 1 << 17;

/// The shares of one member for one block, as they travel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockShares {
    /// The history.
    pub fork: Fork,
    /// The epoch whose key it is.
    pub epoch: Epoch,
    /// The block's height.
    pub height: Height,
    /// The block.
    pub block: BlockHash,
    /// Whose shares.
    pub member: MemberIndex,
    /// One uncompressed point for each of the member's seats.
    pub beacon: Bytes,
    /// For each envelope that is to be opened, one uncompressed point for each of the member's seats.
    pub decryption: Bytes,
}

impl BlockShares {
    /// The message of a member for a block: its shares of the beacon's base and of the envelopes' bases.
    #[must_use]
    pub fn create(
        (fork, height, block): (Fork, Height, BlockHash),
        secret: &SecretShares,
        beacon: &G1Affine,
        bases: &[G1Affine],
    ) -> Self {
        Self {
            fork,
            epoch: secret.epoch(),
            height,
            block,
            member: secret.member(),
            beacon: to_wire(&create(secret.beacon(), &[*beacon])),
            decryption: to_wire(&create(secret.decryption(), bases)),
        }
    }

    /// A digest of the whole message, to sign or to deduplicate it.
    #[must_use]
    pub fn digest(&self) -> B256 {
        hash::of(domain::BLOCK_SHARES, self)
    }
}

impl Encode for BlockShares {
    fn encode(&self, out: &mut Vec<u8>) {
        self.fork.encode(out);
        self.epoch.encode(out);
        self.height.encode(out);
        self.block.encode(out);
        self.member.encode(out);
        encode_byte_string(&self.beacon, out);
        encode_byte_string(&self.decryption, out);
    }
}

impl Decode for BlockShares {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.field("block shares");
        let (fork, epoch, height) = (Fork::decode(r)?, Epoch::decode(r)?, Height::decode(r)?);
        let (block, member) = (BlockHash::decode(r)?, MemberIndex::decode(r)?);
        let mut points = |what, limit: usize| {
            let bytes = r.field(what).byte_string(limit * G1_WIDE_BYTES)?;
            if bytes.len().is_multiple_of(G1_WIDE_BYTES) {
                Ok(bytes)
            } else {
                Err(r.error(DecodeErrorKind::NotCanonical("a share has 96 bytes")))
            }
        };
        let (beacon, decryption) = (points("beacon shares", MAX_SEATS)?, points("decryption shares", MAX_SHARES)?);
        Ok(Self { fork, epoch, height, block, member, beacon, decryption })
    }
}

/// Makes the shares of these seats for these bases, which must be checked points of the subgroup: for each base one
/// share of each seat, in the order of both. Uses the threads of rayon's current pool.
#[must_use]
pub fn create(secrets: &[Scalar], bases: &[G1Affine]) -> Vec<G1Affine> {
    let chunk = |bases: &[G1Affine]| {
        let pairs: Vec<_> = bases.iter().flat_map(|base| secrets.iter().map(|secret| (*base, secret))).collect();
        G1::batch_to_affine(&G1::each_times(&pairs))
    };
    bases.par_chunks(CHUNK).flat_map_iter(chunk).collect()
}

/// The uncompressed encodings of points, one after the other.
#[must_use]
pub fn to_wire(points: &[G1Affine]) -> Bytes {
    points.iter().flat_map(G1Affine::to_uncompressed).collect::<Vec<u8>>().into()
}

/// Why a message of shares cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ShareError {
    /// Not one share for each base and seat.
    #[error("{found} shares, expected {expected}")]
    Count {
        /// Shares found.
        found: usize,
        /// Bases times seats.
        expected: usize,
    },
    /// Bytes that are no point of the curve.
    #[error("share {0} is no point of the curve")]
    Point(usize),
}

/// The shares of one member for some bases, decoded.
#[derive(Clone, Debug)]
pub struct MemberShares {
    member: MemberIndex,
    seats: Range<u32>,
    values: Vec<G1Affine>,
}

impl MemberShares {
    /// Reads a member's shares for `bases` bases from the wire.
    ///
    /// # Errors
    /// [`ShareError`] if there are too few or too many, or one is no point.
    pub fn from_wire(member: MemberIndex, seats: Range<u32>, bases: usize, bytes: &[u8]) -> Result<Self, ShareError> {
        let (found, expected) = (bytes.len() / G1_WIDE_BYTES, bases * seats.len());
        if found != expected || !bytes.len().is_multiple_of(G1_WIDE_BYTES) {
            return Err(ShareError::Count { found, expected });
        }
        let (points, _) = bytes.as_chunks::<G1_WIDE_BYTES>();
        let point = |(index, bytes)| G1Affine::on_curve_uncompressed(bytes).ok_or(ShareError::Point(index));
        let values = points.iter().enumerate().map(point).collect::<Result<_, _>>()?;
        Ok(Self { member, seats, values })
    }

    /// A member's own shares.
    ///
    /// # Panics
    /// If there is not one for each base and seat.
    #[must_use]
    pub fn own(member: MemberIndex, seats: Range<u32>, values: Vec<G1Affine>) -> Self {
        assert!(values.len().is_multiple_of(seats.len()), "one share for each base and seat");
        Self { member, seats, values }
    }

    /// Whose they are.
    #[must_use]
    pub const fn member(&self) -> MemberIndex {
        self.member
    }

    #[cfg(test)]
    pub(super) fn values(&self) -> &[G1Affine] {
        &self.values
    }

    fn share(&self, base: usize, seat: u32) -> G1Affine {
        self.values[base * self.seats.len() + (seat - self.seats.start) as usize]
    }
}

/// What the shares of a block came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Combination<V = G1Affine> {
    /// The checked combined values, one for each base; none while too few right shares are there.
    pub values: Option<Vec<V>>,
    /// Members whose shares were wrong: proven by the keys, with nothing but the message.
    pub culprits: Vec<MemberIndex>,
}

/// Combines the shares of a block and checks the result.
///
/// The shares of the first q seats are used, in the order given; an entry for seats that another one had is passed over.
/// The coefficients of the check come from `rng`, which must be secure and local.
///
/// # Panics
/// If an entry has not one share for each base and seat, or a seat that the keys do not have.
#[must_use]
pub fn combine(keys: &KeySet, bases: &[G1Affine], shares: &[MemberShares], rng: &mut dyn CryptoRng) -> Combination {
    combine_with(&NoBugs, keys, bases, shares, rng)
}

/// [`combine`], with planted bugs if there are any.
///
/// # Panics
/// As [`combine`].
#[must_use]
pub fn combine_with<B: SealedBugs>(
    bugs: &B,
    keys: &KeySet,
    bases: &[G1Affine],
    shares: &[MemberShares],
    rng: &mut dyn CryptoRng,
) -> Combination {
    for member in shares {
        assert_eq!(member.values.len(), bases.len() * member.seats.len(), "one share for each base and seat");
        assert!(member.seats.end as usize <= keys.seats(), "the keys have these seats");
    }
    // A seat counts once, whoever hands in its share how often.
    let (mut seen, again) = (BTreeSet::new(), bugs.sealed(SealedBug::SeatTwice));
    let mut trusted: Vec<&MemberShares> =
        shares.iter().filter(|member| member.seats.clone().all(|seat| seen.insert(seat) || again)).collect();
    if let Some(values) = try_combine(keys, bases, &trusted) {
        if check_combined_with(bugs, keys, bases, &values, rng) {
            return Combination { values: Some(values), culprits: Vec::new() };
        }
    } else {
        return Combination { values: None, culprits: Vec::new() };
    }
    if bugs.sealed(SealedBug::CulpritUnchecked) {
        return Combination {
            values: None,
            culprits: trusted.last().map(|member| member.member).into_iter().collect(),
        };
    }
    let mut culprits = Vec::new();
    trusted.retain(|member| {
        let right = check_member_with(bugs, keys, bases, member, rng);
        if !right {
            culprits.push(member.member);
        }
        right
    });
    // Every share that is left satisfies its own equation, so what they combine to does.
    let values = try_combine(keys, bases, &trusted);
    Combination { values, culprits }
}

/// The combined values of the first q seats, unchecked; none if there are fewer.
fn try_combine(keys: &KeySet, bases: &[G1Affine], shares: &[&MemberShares]) -> Option<Vec<G1Affine>> {
    let picks: Vec<(usize, u32)> = shares
        .iter()
        .enumerate()
        .flat_map(|(index, member)| member.seats.clone().map(move |seat| (index, seat)))
        .take(keys.quorum())
        .collect();
    if picks.len() < keys.quorum() {
        return None;
    }
    let seats: Vec<u32> = picks.iter().map(|(_, seat)| *seat).collect();
    let weights = Weights::of(&seats);
    let of_chunk = |chunk: usize| {
        let bases = chunk * CHUNK..bases.len().min((chunk + 1) * CHUNK);
        let points = |base: usize| picks.iter().map(|&(index, seat)| shares[index].share(base, seat)).collect();
        weights.combine_each(&bases.map(points).collect::<Vec<Vec<_>>>())
    };
    Some((0..bases.len().div_ceil(CHUNK)).into_par_iter().flat_map_iter(of_chunk).collect())
}

/// The combined values of the first q seats without a check, as an attacker would make them.
#[cfg(test)]
pub(super) fn combine_unchecked(keys: &KeySet, bases: &[G1Affine], shares: &[MemberShares]) -> Option<Vec<G1Affine>> {
    try_combine(keys, bases, &shares.iter().collect::<Vec<_>>())
}

/// Whether these are the combined values of these bases: by one who has no shares, too. The bases must be checked points
/// of the subgroup.
#[must_use]
pub fn check_combined(keys: &KeySet, bases: &[G1Affine], values: &[G1Affine], rng: &mut dyn CryptoRng) -> bool {
    check_combined_with(&NoBugs, keys, bases, values, rng)
}

/// [`check_combined`], with planted bugs if there are any.
#[must_use]
pub fn check_combined_with<B: SealedBugs>(
    bugs: &B,
    keys: &KeySet,
    bases: &[G1Affine],
    values: &[G1Affine],
    rng: &mut dyn CryptoRng,
) -> bool {
    if bases.len() != values.len() {
        return false;
    }
    if bases.is_empty() {
        return true;
    }
    let torsion = bugs.sealed(SealedBug::TorsionUnchecked);
    let within = |values: &[G1Affine]| torsion || G1Affine::which_in_subgroup(values).into_iter().all(|within| within);
    if values.iter().any(G1Affine::is_infinity) || !values.par_chunks(CHUNK).all(within) {
        return false;
    }
    let coefficients: Vec<Scalar> = bases.iter().map(|_| Scalar::random_half(rng)).collect();
    let sum = |points| G1::sum_of_many((points, &coefficients), (&[], &[])).to_affine();
    let (value, base) = (sum(values), sum(bases));
    same_exponent(&value, &base, keys.public_key())
}

/// Whether all shares of a member are right.
#[must_use]
pub fn check_member(keys: &KeySet, bases: &[G1Affine], shares: &MemberShares, rng: &mut dyn CryptoRng) -> bool {
    check_member_with(&NoBugs, keys, bases, shares, rng)
}

fn check_member_with<B: SealedBugs>(
    bugs: &B,
    keys: &KeySet,
    bases: &[G1Affine],
    shares: &MemberShares,
    rng: &mut dyn CryptoRng,
) -> bool {
    let width = shares.seats.len();
    let torsion = bugs.sealed(SealedBug::TorsionUnchecked);
    let within = |values: &[G1Affine]| torsion || G1Affine::which_in_subgroup(values).into_iter().all(|within| within);
    if shares.values.len() != bases.len() * width || !within(&shares.values) {
        return false;
    }
    let coefficients: Vec<Scalar> = shares.values.iter().map(|_| Scalar::random_half(rng)).collect();
    let sum = G1::sum_of_many((&shares.values, &coefficients), (&[], &[]));
    let mut pairs = vec![((-sum).to_affine(), G2Affine::generator())];
    for (place, seat) in shares.seats.clone().enumerate() {
        let Some(key) = keys.share_key(seat) else { return false };
        let own: Vec<Scalar> = coefficients.iter().skip(place).step_by(width).copied().collect();
        pairs.push((G1::sum_of_many((bases, &own), (&[], &[])).to_affine(), *key));
    }
    pairings_cancel(&pairs)
}
