//! Votes on their way to a certificate.
//!
//! Votes are collected unverified up to a quorum; then the aggregate is verified once, and only if it is wrong is
//! the culprit found by bisection (decision 5 of the architecture).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cascade_crypto::{VoteScheme, find_invalid};
use cascade_primitives::{
    BlsSignature, Certificate, Committee, MemberIndex, Seats, SignerSet, SigningContext, VoteTarget,
};

/// Votes for one target.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    votes: BTreeMap<MemberIndex, BlsSignature>,
    refused: BTreeSet<MemberIndex>,
}

impl Tally {
    /// Adds a vote. Answers false if the member's vote is in already, or was found wrong.
    pub(crate) fn add(&mut self, member: MemberIndex, signature: BlsSignature) -> bool {
        if self.refused.contains(&member) || self.votes.contains_key(&member) {
            return false;
        }
        self.votes.insert(member, signature);
        true
    }

    /// Seats of those whose votes are in, whether or not their signatures are right.
    pub(crate) fn seats(&self, committee: &Committee) -> Seats {
        Seats(self.votes.keys().filter_map(|&m| committee.member(m)).map(|m| m.seats.0).sum())
    }

    /// Who voted.
    pub(crate) fn signers(&self) -> impl Iterator<Item = MemberIndex> + '_ {
        self.votes.keys().copied()
    }

    /// The certificate, if the votes hold the `needed` seats; and the members whose signatures turned out wrong.
    pub(crate) fn certificate(
        &mut self,
        scheme: &dyn VoteScheme,
        context: &SigningContext,
        committee: &Committee,
        target: VoteTarget,
        needed: Seats,
    ) -> (Option<Arc<Certificate>>, Vec<MemberIndex>) {
        let mut culprits = Vec::new();
        while self.seats(committee) >= needed {
            let members: Vec<_> = self.votes.keys().copied().collect();
            let keys: Vec<_> = members.iter().map(|m| committee.members()[m.index()].bls_key).collect();
            let signatures: Vec<_> = self.votes.values().copied().collect();
            let digest = target.digest(context);
            if let Some(signature) = scheme.aggregate(&signatures)
                && scheme.verify_aggregate(&keys, &digest, &signature)
            {
                let mut signers = SignerSet::new(committee.members().len());
                for &member in &members {
                    assert!(signers.insert(member), "a tally holds members of the committee, each once");
                }
                return (Some(Arc::new(Certificate { target, signers, signature })), culprits);
            }
            let wrong = find_invalid(scheme, &digest, &keys, &signatures);
            assert!(!wrong.is_empty(), "a wrong aggregate has a wrong part");
            for i in wrong {
                self.votes.remove(&members[i]);
                self.refused.insert(members[i]);
                culprits.push(members[i]);
            }
        }
        (None, culprits)
    }
}

#[cfg(test)]
mod tests {
    use cascade_primitives::{
        Address, B256, BlockHash, BlsPublicKey, ChainId, Epoch, Fork, Member, NodeId, ThresholdKeys, View,
    };
    use proptest::prelude::*;

    use super::*;

    /// A signature is right if it starts with its key's first byte; an aggregate, if its parts were right.
    #[derive(Debug)]
    struct Scheme;

    impl VoteScheme for Scheme {
        fn verify(&self, key: &BlsPublicKey, _: &B256, signature: &BlsSignature) -> bool {
            signature.0[0] == key.0[0]
        }

        fn aggregate(&self, signatures: &[BlsSignature]) -> Option<BlsSignature> {
            let mut sum = [0; 96];
            signatures.iter().for_each(|s| sum[s.0[0] as usize % 96] += 1);
            Some(BlsSignature(sum))
        }

        fn verify_aggregate(&self, keys: &[BlsPublicKey], _: &B256, signature: &BlsSignature) -> bool {
            let mut sum = [0; 96];
            keys.iter().for_each(|k| sum[k.0[0] as usize % 96] += 1);
            signature.0 == sum
        }
    }

    fn committee(seats: &[u32]) -> Committee {
        let member = |(i, &seats): (usize, &u32)| Member {
            node: NodeId([i as u8; 32]),
            bls_key: BlsPublicKey([i as u8; 48]),
            address: Address::ZERO,
            seats: Seats(seats),
            lead_weight: 1,
        };
        Committee::new(Epoch(0), seats.iter().enumerate().map(member).collect(), ThresholdKeys::default()).unwrap()
    }

    proptest! {
        #[test]
        fn a_certificate_comes_with_the_first_quorum_of_right_votes_and_no_sooner(
            seats in prop::collection::vec(1u32..5, 4..12),
            votes in prop::collection::vec((0usize..12, any::<bool>()), 0..40),
        ) {
            let committee = committee(&seats);
            let context = SigningContext { chain_id: ChainId(1), genesis_hash: B256::ZERO, fork: Fork(0) };
            let target = VoteTarget::prepare(Epoch(0), View(1), BlockHash([1; 32]));
            let mut tally = Tally::default();
            let mut first: BTreeMap<usize, bool> = BTreeMap::new();
            let mut accused: BTreeSet<MemberIndex> = BTreeSet::new();
            let mut certified = false;
            for (member, right) in votes.into_iter().filter(|(m, _)| *m < seats.len()) {
                let signature = BlsSignature([if right { member as u8 } else { 200 + member as u8 % 50 }; 96]);
                tally.add(MemberIndex(member as u16), signature);
                first.entry(member).or_insert(right);
                let (certificate, culprits) =
                    tally.certificate(&Scheme, &context, &committee, target, committee.quorum());
                accused.extend(culprits);
                let honest: u32 = first.iter().filter(|(_, right)| **right).map(|(m, _)| seats[*m]).sum();
                if let Some(certificate) = &certificate {
                    prop_assert!(committee.seats_of(&certificate.signers) >= committee.quorum());
                    prop_assert!(certificate.signers.iter().all(|m| first[&m.index()]), "only right votes are in it");
                }
                certified |= certificate.is_some();
                prop_assert_eq!(certified, honest >= committee.quorum().0);
                prop_assert!(tally.signers().count() + tally.refused.len() <= seats.len(), "one place for each member");
            }
            prop_assert!(accused.iter().all(|m| !first[&m.index()]), "nobody with a right vote is accused");
        }
    }
}
