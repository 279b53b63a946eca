//! Who leads a term.
//!
//! # The draw
//!
//! `leader(seed, term)` is a pure function of the epoch's seed, its committee and the term, never of what a node
//! happens to have seen, so all honest nodes agree on the leader of any view and on the order of its successors (P2,
//! P3, R2b). A term's leader is drawn in proportion to HAT x sqrt(stake).
//!
//! A draw leaves out the leaders of the `f` terms before it (as far as at least one candidate remains), so a leader
//! that is silent is followed by others: with at most `f` silent sequencers one term in at most `f+1` has a live
//! leader. To keep the draw of any term cheap, terms are drawn in cycles of 256; a cycle starts with nobody left
//! out.
//!
//! # The seed
//!
//! ```text
//!  epoch e-2                      epoch e-1                epoch e
//!  | content ..... B . C | .. L |    | .................. |   | leaders drawn with
//!                  |   |      |                                 H(genesis hash, e, beacon of B)
//!                  |   |      +- carries the results up to C: the beacon is agreed before e-1 begins
//!                  |   +- last content height
//!                  +- last block with content at or below it
//! ```
//!
//! The beacon of B is a threshold signature over B under the epoch's key. It is unique, so whoever makes it cannot choose
//! it, and fewer than q seats do not know it before B is final. It is in the results of B, which every node computes and
//! compares, and which the epoch's last block L carries by definition of L (decision 7 of the architecture). So the seed
//! follows from the chain alone: a node that starts again has it in its [`crate::ChainContext`], one that catches up learns
//! it from the same headers.
//!
//! What can bias it: leaving blocks out, or leaving them empty. A leader that does not propose B, or a quorum that skips it,
//! makes another block come to that height, with a beacon that nobody knows either. Withheld shares do not help: q others
//! open. But whoever leads the epoch's last term may stop filling its blocks: with links that are fast beside the block time
//! it knows the beacon of a block before it makes the next one, so it fills block after block, and leaves the rest empty as
//! soon as it likes the draw. That is one draw for each view of a term, and the one that it found before them; it sees them
//! one by one, and cannot go back to an earlier one. With one view in a term, 7,200 terms in an epoch and ten sequencers of
//! equal weight, it may expect to lead 726 terms of that epoch in place of 720 (the test below counts). More views in a term are
//! more draws, and each of fewer terms: with 10 it were 79 of 720 in place of 72.
//!
//! To open the block at C even if it is empty would leave it none, and was tried: an epoch in which fewer than q seats hold
//! shares, and in which nothing was sealed, could then not end any more, while so its successor has new keys.
//!
//! Epochs 0 and 1 have no epoch two before them, epoch 0 of an encrypted chain has no key, and an epoch in which nothing was
//! opened has no beacon: there it is zero, and the seed follows from the genesis hash. So it is in all epochs of a plain
//! chain. Leaders of a plain chain are known in advance; a hash of the chain in place of the beacon would hide them a
//! little longer and let the leader of the last block try many blocks and choose among the draws, which is worse.
//!
//! The beacon signs the fork: the seeds of one history say nothing of another's.
//!
//! # The length of a term
//!
//! One view, where the architecture proposes ten (decision 2, R2a). Who leads may leave transactions out, which it cannot read
//! but whose limits go stale meanwhile. One of four that left out everything for ten blocks gained more than 5% of what reading
//! would give it; with terms of three views two of seven still did, whose terms adjoin at times. With one view neither they nor
//! ten of 31 do, in the market that docs/attacker.md measures. A transaction that one leader censors waits for the next view,
//! unless accomplices lead it; the draw leaves out the same one, with four sequencers and more, but where a cycle begins.
//! Protocols of this family mostly change leaders so (Tendermint; Simplex, Chan and Pass 2023). A change costs no message of its
//! own, since everybody has the votes and the pool; but the next leader has to ask for a last block that is kept from it.
//!
//! What long terms are good for is that a leader that stalls costs one timeout for more blocks. With one of four doing so
//! (`silent-leader` in the simulator: it votes, and proposes one block in five), 92% of the blocks of an undisturbed chain
//! were made with terms of ten views, 66% with three, 50% with one. So leaders whose terms end in skips have less of the timeout
//! (`in_time_until` in core/views.rs), which makes it 77% with one view, and 69% with two of seven. They have all of it
//!
//! - if they, and those that are silent, have more than f seats together: for all that is known, the network or the load is slow;
//! - in one of sixteen of their terms, and the first of each cycle;
//! - again, once a term of theirs was kept though it took longer than they had left, or eight were, one after the other.
//!
//! That helps against no leader that stays just below the timeout: it costs as much in each of its views, however many they are.

use cascade_primitives::{B256, Committee, Encode, Epoch, MemberIndex, Term, View, domain, hash};

/// Terms in a cycle.
const CYCLE: u64 = 256;

/// The leaders of an epoch.
#[derive(Clone, Debug)]
pub struct Leaders {
    seed: B256,
    weights: Vec<u64>,
    /// How many leaders back a draw leaves out.
    apart: usize,
    views_per_term: u64,
    /// The last cycle that was drawn.
    cache: (u64, Vec<MemberIndex>),
}

/// The seed of an epoch. `beacon` is that of the last content block of the epoch two before; zero where there is none.
#[must_use]
pub fn epoch_seed(genesis_hash: &B256, epoch: Epoch, beacon: &B256) -> B256 {
    hash::tagged(domain::EPOCH_SEED, &[genesis_hash.as_slice(), &epoch.to_bytes(), beacon.as_slice()])
}

impl Leaders {
    /// The leaders that `seed` draws from `committee`.
    #[must_use]
    pub fn new(seed: B256, committee: &Committee, views_per_term: u64) -> Self {
        let weights: Vec<u64> = committee.members().iter().map(|m| m.lead_weight).collect();
        let apart = (weights.len() - 1) / 3;
        Self { seed, weights, apart, views_per_term, cache: (u64::MAX, Vec::new()) }
    }

    /// The leader of a term.
    pub fn of_term(&mut self, term: Term) -> MemberIndex {
        let (cycle, place) = (term.0 / CYCLE, (term.0 % CYCLE) as usize);
        if self.cache.0 != cycle {
            self.cache = (cycle, Vec::new());
        }
        while self.cache.1.len() <= place {
            let drawn = self.draw(Term(cycle * CYCLE + self.cache.1.len() as u64));
            self.cache.1.push(drawn);
        }
        self.cache.1[place]
    }

    /// How many terms of its cycle the leader of a term has had before.
    pub fn turn(&mut self, term: Term) -> usize {
        let leader = self.of_term(term);
        let before = &self.cache.1[..(term.0 % CYCLE) as usize];
        before.iter().filter(|other| **other == leader).count()
    }

    /// The leader of a view.
    pub fn of_view(&mut self, view: View) -> MemberIndex {
        self.of_term(view.term(self.views_per_term))
    }

    fn draw(&self, term: Term) -> MemberIndex {
        let drawn = &self.cache.1;
        let recent = &drawn[drawn.len().saturating_sub(self.apart)..];
        let candidate = |i: usize| !recent.contains(&MemberIndex(i as u16));
        let total: u128 =
            self.weights.iter().enumerate().filter(|(i, _)| candidate(*i)).map(|(_, &w)| u128::from(w)).sum();
        let mut point = self.uniform(term, total);
        for (i, &weight) in self.weights.iter().enumerate().filter(|(i, _)| candidate(*i)) {
            if point < u128::from(weight) {
                return MemberIndex(i as u16);
            }
            point -= u128::from(weight);
        }
        unreachable!("a point below the total falls on a candidate, and f < n leaves one")
    }

    /// A number below `bound`, every one equally likely: rejection sampling over hashes.
    fn uniform(&self, term: Term, bound: u128) -> u128 {
        let zone = u128::MAX - u128::MAX % bound;
        for attempt in 0_u64.. {
            let parts = [self.seed.as_slice(), &term.to_bytes(), &attempt.to_bytes()];
            let digest = hash::tagged(domain::LEADER, &parts);
            let number = u128::from_be_bytes(digest[..16].try_into().expect("16 of 32 bytes"));
            if number < zone {
                return number % bound;
            }
        }
        unreachable!("each attempt succeeds with probability over one half")
    }
}

#[cfg(test)]
mod tests {
    use cascade_primitives::{Address, BlsPublicKey, ChainParams, Member, Network, NodeId, Seats, ThresholdKeys};
    use proptest::prelude::*;

    use super::*;

    fn committee(weights: &[u64]) -> Committee {
        let members = weights
            .iter()
            .enumerate()
            .map(|(i, &lead_weight)| Member {
                node: NodeId([i as u8; 32]),
                bls_key: BlsPublicKey([i as u8; 48]),
                address: Address::ZERO,
                seats: Seats(1),
                lead_weight,
            })
            .collect();
        Committee::new(Epoch(0), members, ThresholdKeys::default()).unwrap()
    }

    proptest! {
        #[test]
        fn p2_the_same_seed_set_and_term_have_the_same_leader(
            seed: [u8; 32], weights in prop::collection::vec(1u64..1000, 1..30), terms in prop::collection::vec(0u64..5000, 1..20),
        ) {
            let committee = committee(&weights);
            let mut in_order = Leaders::new(seed.into(), &committee, 10);
            let mut sorted = terms.clone();
            sorted.sort_unstable();
            let expected: std::collections::BTreeMap<_, _> =
                sorted.into_iter().map(|t| (t, in_order.of_term(Term(t)))).collect();
            for t in terms {
                // A fresh instance that is asked for this term alone agrees: nothing depends on what was asked before.
                prop_assert_eq!(Leaders::new(seed.into(), &committee, 10).of_term(Term(t)), expected[&t]);
            }
        }

        #[test]
        fn p3_f_silent_leaders_in_a_row_are_followed_by_another(
            seed: [u8; 32], weights in prop::collection::vec(1u64..1000, 4..30), start in 0u64..200,
        ) {
            let committee = committee(&weights);
            let f = (weights.len() - 1) / 3;
            let mut leaders = Leaders::new(seed.into(), &committee, 10);
            let run: Vec<_> = (start..=start + f as u64).map(|t| leaders.of_term(Term(t))).collect();
            if start / CYCLE == (start + f as u64) / CYCLE {
                let distinct: std::collections::BTreeSet<_> = run.iter().collect();
                prop_assert_eq!(distinct.len(), f + 1);
            }
        }
    }

    #[test]
    fn weight_decides_how_often_one_leads() {
        let committee = committee(&[1, 1, 1, 5, 5, 5, 5]);
        let mut leaders = Leaders::new(B256::repeat_byte(3), &committee, 10);
        let mut counts = [0_u32; 7];
        for term in 0..8000 {
            counts[leaders.of_term(Term(term)).index()] += 1;
        }
        assert!(counts[3..].iter().all(|&heavy| counts[..3].iter().all(|&light| heavy > 2 * light)), "{counts:?}");
    }

    /// The figure of the module's documentation: the mean of what one leads, and what one leads who may take the first of
    /// several draws that it likes, or the last.
    #[test]
    fn the_leader_of_an_epochs_last_term_can_choose_a_draw_in_which_it_leads_a_little_more() {
        let ChainParams { views_per_term, epoch_length, .. } = ChainParams::of(Network::Mainnet);
        let committee = committee(&[1; 10]);
        let led = |i: u64| {
            let seed = hash::tagged(domain::EPOCH_SEED, &[&i.to_bytes()]);
            let mut leaders = Leaders::new(seed, &committee, views_per_term);
            let terms = (0..epoch_length / views_per_term).map(Term);
            terms.filter(|term| leaders.of_term(*term) == MemberIndex(0)).count() as f64
        };
        let samples: Vec<f64> = (0..400).map(led).collect();
        let mean_of =
            |value: &dyn Fn(f64) -> f64| samples.iter().map(|x| value(*x)).sum::<f64>() / samples.len() as f64;
        let mean = mean_of(&|x| x);
        // Optimal stopping without recall: take a draw if it is worth more than what is to be expected of the rest.
        let chosen = (0..views_per_term).fold(mean, |rest, _| mean_of(&|x| x.max(rest)));
        assert!((718.0..722.0).contains(&mean) && (chosen - mean).round() == 6.0, "{mean} {chosen}");
    }

    #[test]
    fn all_views_of_a_term_have_one_leader() {
        let mut leaders = Leaders::new(B256::repeat_byte(3), &committee(&[1; 7]), 10);
        for view in 1..=1000 {
            let first = Term((view - 1) / 10).first_view(10);
            assert_eq!(leaders.of_view(View(view)), leaders.of_view(first));
        }
    }
}
