//! The committee of an epoch.
//!
//! With S seats, `f = (S-1)/3` seats may be Byzantine and `q = S-f` seats are a quorum, in integer division
//! (decision 1 of the architecture). Any two quorums share at least `f+1` seats, so at least one honest one. A
//! sequencer signs once and its vote counts all its seats.
//!
//! # What the root binds
//!
//! ```text
//!   members root = H(epoch, attempt, members)        known when the committee is scheduled
//!   root         = H(members root, threshold keys)   what headers carry, of the epoch's committee and the next one's
//! ```
//!
//! The attempt is 0 of the committee that the schedule names. A next committee that is made anew, because too few of the one
//! before were ready, has the next number, *also if its members are the same*: so everything that is bound to a members root
//! (encryption keys, statements of readiness, stored shares) is of one attempt, and nothing of an earlier one counts again.
//!
//! On a chain with threshold keys, those of epoch e+1 are made in epoch e, so the next committee has two roots in turn:
//!
//! ```text
//!  epoch e   | announcing, dealing ......... | Ready Ready .. R | ................. L |  F  epoch e+1
//!            |   next root: no keys                             |   next root: the keys | committee root: the same
//!            +--------------------------------------------------+----------------------+----
//!                                          R: q seats of the next committee have named one commitment
//! ```
//!
//! A statement of readiness names the commitment to the keys that its sequencer read from the final log. When members with
//! q seats have named the same one in the chain, it is the next committee's from the block above on. At least q-f of these
//! seats are honest, and honest sequencers compute the keys from the log, where they are determined: so the commitment is
//! that of the keys, under the assumption that votes rest on. No block is judged by whether a statement is true, only by what
//! blocks say, so no validator has to redo key generation, and none has to wait for it. An epoch ends only once q seats
//! agree (decision 7 of the architecture), so the header of its last block, and with it every handover, names the keys.

use alloy_primitives::{Address, B256};
use thiserror::Error;

use crate::{
    certificate::{MAX_MEMBERS, SignerSet},
    codec::{Decode, DecodeError, DecodeErrorKind, Encode, Reader, encode_list},
    domain,
    envelope::POINT_BYTES,
    hash,
    ids::{BlsPublicKey, Epoch, MemberIndex, NodeId, Seats},
};

/// A point of G2, compressed.
pub const WIDE_POINT_BYTES: usize = 96;

/// The commitment to the public keys of an epoch's threshold schemes ([`PublicKeys`]).
///
/// None on a chain without such keys, in epoch 0, and of the next committee while the chain has not agreed on its keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThresholdKeys(pub Option<B256>);

impl Encode for ThresholdKeys {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
}

impl Decode for ThresholdKeys {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(Option::decode(r.field("threshold keys"))?))
    }
}

/// The keys of an epoch without those of its seats: what wallets seal to, and what opened values and beacons are checked
/// against. The commitment to them is part of the committee's root, so that who knows a final header knows the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKeys {
    /// The epoch.
    pub epoch: Epoch,
    /// What payloads are sealed to: a point of G1, compressed.
    pub encryption: [u8; POINT_BYTES],
    /// What combined values are checked against: the same key in G2, compressed.
    pub decryption: [u8; WIDE_POINT_BYTES],
    /// The key of the random beacon: a point of G2, compressed.
    pub beacon: [u8; WIDE_POINT_BYTES],
    /// The hash over all of `EpochKeys`.
    pub key_sets: B256,
}

impl PublicKeys {
    /// What the committee's root commits to.
    #[must_use]
    pub fn commitment(&self) -> ThresholdKeys {
        let epoch = self.epoch.to_bytes();
        let parts = [epoch.as_slice(), &self.encryption, &self.decryption, &self.beacon, self.key_sets.as_slice()];
        ThresholdKeys(Some(hash::tagged(domain::EPOCH_KEYS, &parts)))
    }
}

/// The root of a committee with these members and keys.
#[must_use]
pub fn committee_root(members_root: &B256, keys: &ThresholdKeys) -> B256 {
    hash::tagged(domain::COMMITTEE, &[members_root.as_slice(), &keys.to_bytes()])
}

/// One sequencer of a committee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its identity on the network.
    pub node: NodeId,
    /// The key of its votes.
    pub bls_key: BlsPublicKey,
    /// The L2 address that its fees go to.
    pub address: Address,
    /// Votes that it counts for; at least 1.
    pub seats: Seats,
    /// Its weight in the draw of leaders: HAT score times the integer square root of its stake.
    pub lead_weight: u64,
}

impl Encode for Member {
    fn encode(&self, out: &mut Vec<u8>) {
        self.node.encode(out);
        self.bls_key.encode(out);
        self.address.encode(out);
        self.seats.encode(out);
        self.lead_weight.encode(out);
    }
}

impl Decode for Member {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.field("committee member");
        Ok(Self {
            node: NodeId::decode(r)?,
            bls_key: BlsPublicKey::decode(r)?,
            address: Address::decode(r)?,
            seats: Seats::decode(r)?,
            lead_weight: u64::decode(r)?,
        })
    }
}

/// Why a list of members is no committee.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommitteeError {
    /// No members, or more than [`MAX_MEMBERS`].
    #[error("a committee has 1 to {MAX_MEMBERS} members, not {0}")]
    Size(usize),
    /// The same node twice.
    #[error("node {0} is listed twice")]
    DuplicateNode(NodeId),
    /// The same voting key twice.
    #[error("BLS key {0} is listed twice")]
    DuplicateKey(BlsPublicKey),
    /// A member without a seat or without weight.
    #[error("node {0} has no seat or no weight")]
    Weightless(NodeId),
    /// More seats than can be counted.
    #[error("the members have more than {} seats", u32::MAX)]
    TooManySeats,
}

/// The sequencers that vote in an epoch, in a fixed order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committee {
    epoch: Epoch,
    /// How often the epoch's committee was made anew before this one.
    attempt: u32,
    members: Vec<Member>,
    threshold_keys: ThresholdKeys,
    total: Seats,
    members_root: B256,
    root: B256,
}

impl Committee {
    /// A committee of these members, in this order; the epoch's first.
    ///
    /// # Errors
    /// [`CommitteeError`] if the list is empty or too long, a member is doubled or weightless, or there are too many seats.
    pub fn new(epoch: Epoch, members: Vec<Member>, threshold_keys: ThresholdKeys) -> Result<Self, CommitteeError> {
        if members.is_empty() || members.len() > MAX_MEMBERS {
            return Err(CommitteeError::Size(members.len()));
        }
        let mut nodes = std::collections::BTreeSet::new();
        let mut keys = std::collections::BTreeSet::new();
        for member in &members {
            if !nodes.insert(member.node) {
                return Err(CommitteeError::DuplicateNode(member.node));
            }
            if !keys.insert(member.bls_key) {
                return Err(CommitteeError::DuplicateKey(member.bls_key));
            }
            if member.seats == Seats::ZERO || member.lead_weight == 0 {
                return Err(CommitteeError::Weightless(member.node));
            }
        }
        let total = members.iter().try_fold(0_u32, |sum, m| sum.checked_add(m.seats.0));
        let total = Seats(total.ok_or(CommitteeError::TooManySeats)?);
        let unbound =
            Self { epoch, attempt: 0, members, threshold_keys, total, members_root: B256::ZERO, root: B256::ZERO };
        Ok(unbound.with_attempt(0))
    }

    /// The same, as the epoch's committee that was made anew so often.
    #[must_use]
    pub fn with_attempt(self, attempt: u32) -> Self {
        let mut bytes = self.epoch.to_bytes();
        attempt.encode(&mut bytes);
        encode_list(&self.members, &mut bytes);
        let members_root = hash::tagged(domain::COMMITTEE_MEMBERS, &[&bytes]);
        let root = committee_root(&members_root, &self.threshold_keys);
        Self { attempt, members_root, root, ..self }
    }

    /// The same members with these keys.
    #[must_use]
    pub fn with_keys(&self, threshold_keys: ThresholdKeys) -> Self {
        let root = committee_root(&self.members_root, &threshold_keys);
        Self { threshold_keys, root, ..self.clone() }
    }

    /// The epoch it votes in.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How often the epoch's committee was made anew before this one; 0 of the one that the schedule names.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Its members in order.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member at a place.
    #[must_use]
    pub fn member(&self, index: MemberIndex) -> Option<&Member> {
        self.members.get(index.index())
    }

    /// The place of a node.
    #[must_use]
    pub fn index_of(&self, node: &NodeId) -> Option<MemberIndex> {
        self.members.iter().position(|m| m.node == *node).map(|i| MemberIndex(i as u16))
    }

    /// All seats, S.
    #[must_use]
    pub const fn total_seats(&self) -> Seats {
        self.total
    }

    /// Seats that may be Byzantine, f.
    #[must_use]
    pub const fn faulty_seats(&self) -> Seats {
        Seats(self.total.0.saturating_sub(1) / 3)
    }

    /// Seats of a quorum, q = S - f.
    #[must_use]
    pub const fn quorum(&self) -> Seats {
        Seats(self.total.0 - self.faulty_seats().0)
    }

    /// The seats of a set of members; zero if the set belongs to a committee of another size.
    #[must_use]
    pub fn seats_of(&self, signers: &SignerSet) -> Seats {
        if signers.committee_size() != self.members.len() {
            return Seats::ZERO;
        }
        Seats(signers.iter().map(|m| self.members[m.index()].seats.0).sum())
    }

    /// The commitment to the public keys of the epoch's threshold schemes.
    #[must_use]
    pub const fn threshold_keys(&self) -> &ThresholdKeys {
        &self.threshold_keys
    }

    /// The hash over epoch, attempt and members: what the committee is called before it has keys, and what they are made for.
    #[must_use]
    pub const fn members_root(&self) -> B256 {
        self.members_root
    }

    /// Whether this is the root of a committee with these members: with its keys, or as it was before it had them.
    #[must_use]
    pub fn is_named_by(&self, root: &B256) -> bool {
        *root == self.root || *root == committee_root(&self.members_root, &ThresholdKeys::default())
    }

    /// The root that headers carry: a hash over epoch, attempt, members and threshold keys.
    #[must_use]
    pub const fn root(&self) -> B256 {
        self.root
    }
}

impl Encode for Committee {
    fn encode(&self, out: &mut Vec<u8>) {
        self.epoch.encode(out);
        self.attempt.encode(out);
        encode_list(&self.members, out);
        self.threshold_keys.encode(out);
    }
}

impl Decode for Committee {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let epoch = Epoch::decode(r.field("committee"))?;
        let attempt = u32::decode(r)?;
        let members = r.list(MAX_MEMBERS)?;
        let keys = ThresholdKeys::decode(r)?;
        Self::new(epoch, members, keys)
            .map(|committee| committee.with_attempt(attempt))
            .map_err(|_| r.error(DecodeErrorKind::NotCanonical("the members do not form a committee")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committee(seats: &[u32]) -> Committee {
        let members = seats
            .iter()
            .enumerate()
            .map(|(i, &seats)| Member {
                node: NodeId([i as u8 + 1; 32]),
                bls_key: BlsPublicKey([i as u8 + 1; 48]),
                address: Address::ZERO,
                seats: Seats(seats),
                lead_weight: 1,
            })
            .collect();
        Committee::new(Epoch(0), members, ThresholdKeys::default()).unwrap()
    }

    #[test]
    fn two_quorums_share_an_honest_seat_at_every_size() {
        for n in 1..=200_u32 {
            let c = committee(&[n]);
            let (s, f, q) = (c.total_seats().0, c.faulty_seats().0, c.quorum().0);
            assert!(3 * f < s, "f is below a third at {n}");
            assert!(2 * q > s + f, "two quorums overlap in more than f seats at {n}");
            assert!(q <= s - f, "the honest seats alone are a quorum at {n}");
        }
    }

    #[test]
    fn a_vote_counts_all_seats_of_its_signer() {
        let c = committee(&[3, 2, 1]);
        let mut signers = SignerSet::new(3);
        signers.insert(MemberIndex(0));
        signers.insert(MemberIndex(2));
        assert_eq!(c.seats_of(&signers), Seats(4));
        assert_eq!(c.seats_of(&SignerSet::new(4)), Seats::ZERO, "a set of another committee counts nothing");
    }

    #[test]
    fn doubled_members_are_refused() {
        let member = committee(&[1]).members()[0];
        let result = Committee::new(Epoch(0), vec![member, member], ThresholdKeys::default());
        assert_eq!(result, Err(CommitteeError::DuplicateNode(member.node)));
    }

    #[test]
    fn seats_that_cannot_be_counted_are_refused() {
        let mut members = committee(&[1, 1]).members().to_vec();
        members[0].seats = Seats(u32::MAX - 1);
        let most = Committee::new(Epoch(0), members.clone(), ThresholdKeys::default()).unwrap();
        let mut all = SignerSet::new(2);
        all.insert(MemberIndex(0));
        all.insert(MemberIndex(1));
        assert_eq!(most.seats_of(&all), Seats(u32::MAX));
        members[1].seats = Seats(2);
        let result = Committee::new(Epoch(0), members, ThresholdKeys::default());
        assert_eq!(result, Err(CommitteeError::TooManySeats));
    }

    #[test]
    fn the_encoding_round_trips() {
        let c = committee(&[3, 2, 1]);
        assert_eq!(Committee::from_slice(&c.to_bytes()).unwrap(), c);
        let keyed = c.with_keys(ThresholdKeys(Some(B256::repeat_byte(7))));
        assert_eq!(Committee::from_slice(&keyed.to_bytes()).unwrap(), keyed);
        let again = keyed.with_attempt(3);
        assert_eq!(Committee::from_slice(&again.to_bytes()).unwrap(), again);
    }

    #[test]
    fn a_committee_that_is_made_anew_with_the_same_members_has_another_root() {
        let first = committee(&[3, 2, 1]);
        let again = first.clone().with_attempt(1);
        assert_eq!((first.attempt(), again.attempt(), again.members()), (0, 1, first.members()));
        assert_ne!(first.members_root(), again.members_root());
        assert!(!again.is_named_by(&first.root()) && !first.is_named_by(&again.root()));
        let keyed = again.with_keys(ThresholdKeys(Some(B256::repeat_byte(7))));
        assert_eq!((keyed.attempt(), keyed.members_root()), (1, again.members_root()));
    }

    #[test]
    fn the_root_binds_the_keys_and_the_members_root_does_not() {
        let bare = committee(&[3, 2, 1]);
        let keyed = |byte| bare.with_keys(ThresholdKeys(Some(B256::repeat_byte(byte))));
        let (one, other) = (keyed(1), keyed(2));
        let roots: std::collections::BTreeSet<B256> = [bare.root(), one.root(), other.root()].into();
        assert_eq!(roots.len(), 3);
        assert!([&one, &other].iter().all(|c| c.members_root() == bare.members_root()));
        let of_members = Committee::new(Epoch(0), bare.members().to_vec(), *one.threshold_keys()).unwrap();
        assert_eq!(of_members, one);
        assert_eq!(committee_root(&bare.members_root(), one.threshold_keys()), one.root());
        assert!(one.is_named_by(&one.root()) && one.is_named_by(&bare.root()));
        assert!(!one.is_named_by(&other.root()) && !bare.is_named_by(&one.root()));
        let later = Committee::new(Epoch(1), bare.members().to_vec(), *one.threshold_keys()).unwrap();
        assert_ne!(later.members_root(), one.members_root());
    }
}
