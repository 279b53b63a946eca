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
