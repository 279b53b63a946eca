//! Votes and the certificates they add up to.
//!
//! A vote is a BLS signature of one sequencer over a [`VoteTarget`]; a certificate is the aggregate of the same
//! votes of a quorum of seats, with a bitmap of who signed. Who signed can be read from it, so a double sign is
//! evidence (decision 5 of the architecture).

use crate::{
    codec::{Decode, DecodeError, DecodeErrorKind, Encode, Reader},
    domain, hash,
    ids::{BlockHash, BlsSignature, ChainId, Epoch, Fork, MemberIndex, View},
};
use alloy_primitives::B256;

/// Sequencers that one committee may have.
pub const MAX_MEMBERS: usize = 1024;

/// What a vote says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VoteKind {
    /// The block is valid, I have it whole, and its parent and the views between are certified.
    Prepare,
    /// A quorum has prepared the block.
    Commit,
    /// Let the rest of this view's term pass.
    Skip,
}

impl Encode for VoteKind {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::Prepare => 1,
            Self::Commit => 2,
            Self::Skip => 3,
        });
    }
}

impl Decode for VoteKind {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(r.field("vote kind"))? {
            1 => Ok(Self::Prepare),
            2 => Ok(Self::Commit),
            3 => Ok(Self::Skip),
            tag => Err(r.error(DecodeErrorKind::UnknownTag(u64::from(tag)))),
        }
    }
}

/// What every signature is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SigningContext {
    /// The chain.
    pub chain_id: ChainId,
    /// Hash of its genesis.
    pub genesis_hash: B256,
    /// Its history.
    pub fork: Fork,
}

/// What a vote or a certificate is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VoteTarget {
    /// The epoch whose committee votes.
    pub epoch: Epoch,
    /// The view.
    pub view: View,
    /// What is said.
    pub kind: VoteKind,
    /// The block; zero for [`VoteKind::Skip`], which is about the view alone.
    pub block: BlockHash,
}

impl VoteTarget {
    /// A prepare vote for a block.
    #[must_use]
    pub const fn prepare(epoch: Epoch, view: View, block: BlockHash) -> Self {
        Self { epoch, view, kind: VoteKind::Prepare, block }
    }

    /// A commit vote for a block.
    #[must_use]
    pub const fn commit(epoch: Epoch, view: View, block: BlockHash) -> Self {
        Self { epoch, view, kind: VoteKind::Commit, block }
    }

    /// A skip vote for a view.
    #[must_use]
    pub const fn skip(epoch: Epoch, view: View) -> Self {
        Self { epoch, view, kind: VoteKind::Skip, block: BlockHash::ZERO }
    }

    /// The 32 bytes that are signed.
    #[must_use]
    pub fn digest(&self, context: &SigningContext) -> B256 {
        let mut bytes = Vec::with_capacity(96);
        context.chain_id.encode(&mut bytes);
        context.genesis_hash.encode(&mut bytes);
        context.fork.encode(&mut bytes);
        self.encode(&mut bytes);
        hash::tagged(domain::VOTE, &[&bytes])
    }
}

impl Encode for VoteTarget {
    fn encode(&self, out: &mut Vec<u8>) {
        self.epoch.encode(out);
        self.view.encode(out);
        self.kind.encode(out);
        self.block.encode(out);
    }
}

impl Decode for VoteTarget {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let target = Self {
            epoch: Epoch::decode(r.field("vote target"))?,
            view: View::decode(r)?,
            kind: VoteKind::decode(r)?,
            block: BlockHash::decode(r.field("vote target"))?,
        };
        if (target.kind == VoteKind::Skip) != (target.block == BlockHash::ZERO) {
            return Err(r.error(DecodeErrorKind::NotCanonical("a skip names no block, every other vote names one")));
        }
        Ok(target)
    }
}

/// One sequencer's signed vote. It counts all the sequencer's seats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vote {
    /// What it says.
    pub target: VoteTarget,
    /// Who says it.
    pub signer: MemberIndex,
    /// The signature over [`VoteTarget::digest`].
    pub signature: BlsSignature,
}

impl Encode for Vote {
    fn encode(&self, out: &mut Vec<u8>) {
        self.target.encode(out);
        self.signer.encode(out);
        self.signature.encode(out);
    }
}

impl Decode for Vote {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            target: VoteTarget::decode(r)?,
            signer: MemberIndex::decode(r.field("vote"))?,
            signature: BlsSignature::decode(r)?,
        })
    }
}

/// A set of committee members as a bitmap of exactly the committee's size.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SignerSet {
    members: u16,
    bits: Vec<u8>,
}

impl SignerSet {
    /// The empty set for a committee of `members`.
    ///
    /// # Panics
    /// Above [`MAX_MEMBERS`], which no committee has.
    #[must_use]
    pub fn new(members: usize) -> Self {
        assert!(members <= MAX_MEMBERS, "a committee has at most {MAX_MEMBERS} members");
        Self { members: members as u16, bits: vec![0; members.div_ceil(8)] }
    }

    /// Adds a member. Answers false if it was in already or is no member.
    pub fn insert(&mut self, member: MemberIndex) -> bool {
        if member.0 >= self.members || self.contains(member) {
            return false;
        }
        self.bits[member.index() / 8] |= 1 << (member.0 % 8);
        true
    }

    /// Whether the member is in.
    #[must_use]
    pub fn contains(&self, member: MemberIndex) -> bool {
        member.0 < self.members && self.bits[member.index() / 8] & (1 << (member.0 % 8)) != 0
    }

    /// The members in order.
    pub fn iter(&self) -> impl Iterator<Item = MemberIndex> + '_ {
        (0..self.members).map(MemberIndex).filter(|&m| self.contains(m))
    }

    /// How many are in.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bits.iter().map(|b| b.count_ones() as usize).sum()
    }

    /// Whether none is in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bits.iter().all(|&b| b == 0)
    }

    /// The size of the committee it belongs to.
    #[must_use]
    pub const fn committee_size(&self) -> usize {
        self.members as usize
    }
}

impl Encode for SignerSet {
    fn encode(&self, out: &mut Vec<u8>) {
        self.members.encode(out);
        out.extend_from_slice(&self.bits);
    }
}

impl Decode for SignerSet {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let members = u16::decode(r.field("signer set"))?;
        if members as usize > MAX_MEMBERS {
            return Err(r.error(DecodeErrorKind::TooLong { length: members as usize, limit: MAX_MEMBERS }));
        }
        let bits = r.take((members as usize).div_ceil(8))?.to_vec();
        let spare = bits.len() * 8 - members as usize;
        if bits.last().is_some_and(|last| spare > 0 && last >> (8 - spare) != 0) {
            return Err(r.error(DecodeErrorKind::NotCanonical("bits beyond the committee are set")));
        }
        Ok(Self { members, bits })
    }
}

/// The aggregate of the same vote of a quorum.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Certificate {
    /// What the quorum says.
    pub target: VoteTarget,
    /// Who says it.
    pub signers: SignerSet,
    /// The aggregate of their signatures.
    pub signature: BlsSignature,
}

impl Encode for Certificate {
    fn encode(&self, out: &mut Vec<u8>) {
        self.target.encode(out);
        self.signers.encode(out);
        self.signature.encode(out);
    }
}

impl Decode for Certificate {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            target: VoteTarget::decode(r)?,
            signers: SignerSet::decode(r)?,
            signature: BlsSignature::decode(r.field("certificate"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn signer_sets_hold_what_was_inserted(size in 0usize..200, picks in prop::collection::btree_set(0u16..220, 0..40)) {
            let mut set = SignerSet::new(size);
            for &pick in &picks {
                prop_assert_eq!(set.insert(MemberIndex(pick)), (pick as usize) < size);
                prop_assert!(!set.insert(MemberIndex(pick)), "a member counts once");
            }
            let expected: Vec<_> = picks.iter().copied().filter(|&p| (p as usize) < size).map(MemberIndex).collect();
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), expected.clone());
            prop_assert_eq!(set.len(), expected.len());
            prop_assert_eq!(SignerSet::from_slice(&set.to_bytes()).unwrap(), set);
        }

        #[test]
        fn digests_differ_when_anything_differs(view in 0u64..1000, other in 0u64..1000, epoch in 0u64..5) {
            let context = SigningContext { chain_id: ChainId(1), genesis_hash: B256::ZERO, fork: Fork(0) };
            let a = VoteTarget::skip(Epoch(epoch), View(view));
            let b = VoteTarget::skip(Epoch(epoch), View(other));
            prop_assert_eq!(a.digest(&context) == b.digest(&context), a == b);
            let forked = SigningContext { fork: Fork(1), ..context };
            prop_assert_ne!(a.digest(&context), a.digest(&forked));
        }
    }

    #[test]
    fn spare_bits_are_refused() {
        let mut bytes = SignerSet::new(9).to_bytes();
        *bytes.last_mut().unwrap() = 0b10;
        assert!(SignerSet::from_slice(&bytes).is_err());
    }
}
