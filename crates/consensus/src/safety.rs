//! The guard in front of the signing key.
//!
//! Every vote passes [`SignState::allow`], which knows the newest votes of the key and refuses whatever could
//! contradict one of them: two Prepares or two Commits in one view, or a Commit and a Skip that covers it (decision 2
//! of the architecture). What it allows, it records; the record is on disk before the vote is on the wire (decision
//! 4), in the vote log and once more beside the key, where it survives the loss of everything else.
//!
//! The record is small on purpose. It holds the newest Prepare and Commit and the lowest Skip of the last terms, and
//! refuses everything older, so a key whose log is lost can go on at once without knowing what it once said: it
//! merely stays silent in views that it may have voted in.

use std::collections::BTreeMap;

use cascade_primitives::{
    BlockHash, ChainId, Decode, DecodeError, DecodeErrorKind, Encode, Epoch, Fork, Reader, SigningContext, Term, View,
    VoteKind, VoteTarget,
};
use thiserror::Error;

/// Terms whose lowest Skip is remembered. Commits for older terms are refused.
const REMEMBERED_TERMS: usize = 32;

/// Why a vote must not be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The key has voted in a later epoch or fork.
    #[error("the key has voted in a later epoch or fork")]
    Past,
    /// The key has cast this kind of vote in this view or a later one for another block.
    #[error("the key has voted in view {0} already")]
    Voted(View),
    /// A Skip of the key covers the view.
    #[error("the key has skipped view {0}, which covers this view")]
    Skipped(View),
    /// The key has committed in a view that the Skip could cover.
    #[error("the key has committed in view {0}, which the skip could cover")]
    Committed(View),
}

/// What a key has signed, as far as it limits what it may sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignState {
    chain_id: ChainId,
    fork: Fork,
    epoch: Epoch,
    prepare: Option<(View, BlockHash)>,
    commit: Option<(View, BlockHash)>,
    /// The lowest view skipped, by term.
    skips: BTreeMap<Term, View>,
    /// Commits in terms below this one are refused: their skips are forgotten.
    floor: Term,
}

impl SignState {
    /// The state of a key that has signed nothing on this chain.
    #[must_use]
    pub const fn new(context: &SigningContext) -> Self {
        Self {
            chain_id: context.chain_id,
            fork: context.fork,
            epoch: Epoch(0),
            prepare: None,
            commit: None,
            skips: BTreeMap::new(),
            floor: Term(0),
        }
    }

    /// Whether the state belongs to this chain.
    #[must_use]
    pub fn is_of(&self, chain: ChainId) -> bool {
        self.chain_id == chain
    }

    /// The epoch of its newest vote.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The newest Prepare in the epoch.
    #[must_use]
    pub const fn prepared(&self) -> Option<(View, BlockHash)> {
        self.prepare
    }

    /// The lowest view of a term that the key has skipped in the epoch.
    #[must_use]
    pub fn skipped(&self, epoch: Epoch, term: Term) -> Option<View> {
        if epoch == self.epoch { self.skips.get(&term).copied() } else { None }
    }

    /// Whether a vote contradicts nothing, without recording it.
    ///
    /// # Errors
    /// [`Refusal`] if it could contradict an earlier vote.
    pub fn check(&self, fork: Fork, target: &VoteTarget, views_per_term: u64) -> Result<(), Refusal> {
        if (fork, target.epoch) < (self.fork, self.epoch) {
            return Err(Refusal::Past);
        }
        if (fork, target.epoch) > (self.fork, self.epoch) {
            return Ok(());
        }
        let view = target.view;
        let term = view.term(views_per_term);
        let newest = match target.kind {
            VoteKind::Prepare => self.prepare,
            VoteKind::Commit => self.commit,
            VoteKind::Skip => None,
        };
        if let Some((voted, block)) = newest
            && (view < voted || (view == voted && block != target.block))
        {
            return Err(Refusal::Voted(voted));
        }
        match target.kind {
            VoteKind::Commit if term < self.floor => Err(Refusal::Voted(self.floor.first_view(views_per_term))),
            VoteKind::Commit => match self.skips.get(&term) {
                Some(&skipped) if skipped <= view => Err(Refusal::Skipped(skipped)),
                _ => Ok(()),
            },
            VoteKind::Skip => match self.commit {
                Some((committed, _)) if view <= committed => Err(Refusal::Committed(committed)),
                _ => Ok(()),
            },
            VoteKind::Prepare => Ok(()),
        }
    }

    /// Allows and records a vote. Afterwards nothing that contradicts it is allowed.
    ///
    /// # Errors
    /// [`Refusal`] if it could contradict an earlier vote; then nothing is recorded.
    pub fn allow(&mut self, fork: Fork, target: &VoteTarget, views_per_term: u64) -> Result<(), Refusal> {
        self.check(fork, target, views_per_term)?;
        if (fork, target.epoch) > (self.fork, self.epoch) {
            self.fork = fork;
            self.epoch = target.epoch;
            self.prepare = None;
            self.commit = None;
            self.skips.clear();
            self.floor = Term(0);
        }
        match target.kind {
            VoteKind::Prepare => self.prepare = Some((target.view, target.block)),
            VoteKind::Commit => self.commit = Some((target.view, target.block)),
            VoteKind::Skip => {
                let lowest = self.skips.entry(target.view.term(views_per_term)).or_insert(target.view);
                *lowest = (*lowest).min(target.view);
                self.forget_old_skips();
            }
        }
        Ok(())
    }

    /// Keeps the newest terms, and refuses commits in those that it forgets.
    fn forget_old_skips(&mut self) {
        while self.skips.len() > REMEMBERED_TERMS {
            let (term, _) = self.skips.pop_first().expect("it is not empty");
            self.floor = self.floor.max(term.next());
        }
    }

    /// Takes up what another record of the same key knows: the stricter of the two in every respect.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        if (self.fork, self.epoch) != (other.fork, other.epoch) {
            return if (self.fork, self.epoch) > (other.fork, other.epoch) { self } else { other };
        }
        let mut skips = self.skips;
        for (term, view) in other.skips {
            let lowest = skips.entry(term).or_insert(view);
            *lowest = (*lowest).min(view);
        }
        let mut merged = Self {
            prepare: newest(self.prepare, other.prepare),
            commit: newest(self.commit, other.commit),
            floor: self.floor.max(other.floor),
            skips,
            ..other
        };
        merged.forget_old_skips();
        merged
    }
}

/// The newer of two votes. If the key has voted for two blocks in one view, which two copies of it can, that is a vote for
/// neither: none has this hash, so nothing may be signed in that view again.
fn newest(a: Option<(View, BlockHash)>, b: Option<(View, BlockHash)>) -> Option<(View, BlockHash)> {
    match (a, b) {
        (Some((view, block)), Some((other, another))) if view == other && block != another => {
            Some((view, BlockHash::ZERO))
        }
        _ => a.max(b),
    }
}

impl Encode for SignState {
    fn encode(&self, out: &mut Vec<u8>) {
        self.chain_id.encode(out);
        self.fork.encode(out);
        self.epoch.encode(out);
        for newest in [&self.prepare, &self.commit] {
            newest.is_some().encode(out);
            if let Some((view, block)) = newest {
                view.encode(out);
                block.encode(out);
            }
        }
        u32::try_from(self.skips.len()).expect("a few terms").encode(out);
        for (term, view) in &self.skips {
            term.encode(out);
            view.encode(out);
        }
        self.floor.encode(out);
    }
}

impl Decode for SignState {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.field("sign state");
        let newest = |r: &mut Reader<'_>| -> Result<Option<(View, BlockHash)>, DecodeError> {
            Ok(if bool::decode(r)? { Some((View::decode(r)?, BlockHash::decode(r)?)) } else { None })
        };
        let (chain_id, fork, epoch) = (ChainId::decode(r)?, Fork::decode(r)?, Epoch::decode(r)?);
        let (prepare, commit) = (newest(r)?, newest(r)?);
        let mut skips = BTreeMap::new();
        for _ in 0..r.length(REMEMBERED_TERMS)? {
            let (term, view) = (Term::decode(r)?, View::decode(r)?);
            if skips.last_key_value().is_some_and(|(last, _)| *last >= term) {
                return Err(r.error(DecodeErrorKind::NotCanonical("terms stand in rising order")));
            }
            skips.insert(term, view);
        }
        Ok(Self { chain_id, fork, epoch, prepare, commit, skips, floor: Term::decode(r)? })
    }
}

#[cfg(test)]
mod tests {
    use cascade_primitives::B256;
    use proptest::prelude::*;

    use super::*;

    const PER_TERM: u64 = 5;

    fn context() -> SigningContext {
        SigningContext { chain_id: ChainId(1), genesis_hash: B256::ZERO, fork: Fork(0) }
    }

    fn targets() -> impl Strategy<Value = VoteTarget> {
        (0u64..3, 1u64..30, 0u8..3, 1u8..4).prop_map(|(epoch, view, kind, block)| match kind {
            0 => VoteTarget::prepare(Epoch(epoch), View(view), BlockHash([block; 32])),
            1 => VoteTarget::commit(Epoch(epoch), View(view), BlockHash([block; 32])),
            _ => VoteTarget::skip(Epoch(epoch), View(view)),
        })
    }

    /// The definition of a double sign, written apart from the guard.
    fn contradict(a: &VoteTarget, b: &VoteTarget) -> bool {
        let covers = |skip: &VoteTarget, commit: &VoteTarget| {
            skip.kind == VoteKind::Skip
                && commit.kind == VoteKind::Commit
                && skip.view.term(PER_TERM) == commit.view.term(PER_TERM)
                && skip.view <= commit.view
        };
        a.epoch == b.epoch
            && ((a.kind == b.kind && a.kind != VoteKind::Skip && a.view == b.view && a.block != b.block)
                || covers(a, b)
                || covers(b, a))
    }

    #[test]
    fn a_merged_record_of_many_terms_reads_back_and_refuses_commits_in_all_of_them() {
        let run = |terms: std::ops::Range<u64>| {
            let mut state = SignState::new(&context());
            for term in terms.map(Term) {
                state.allow(Fork(0), &VoteTarget::skip(Epoch(0), term.first_view(PER_TERM)), PER_TERM).unwrap();
            }
            state
        };
        let terms = REMEMBERED_TERMS as u64;
        let merged = run(0..terms).merge(run(terms..2 * terms));
        let mut state = SignState::from_slice(&merged.to_bytes()).expect("it is within its own limit");
        for term in (0..2 * terms).map(Term) {
            let commit = VoteTarget::commit(Epoch(0), term.last_view(PER_TERM), BlockHash([1; 32]));
            assert!(state.allow(Fork(0), &commit, PER_TERM).is_err(), "term {term:?}");
        }
    }

    #[test]
    fn where_two_records_have_votes_for_two_blocks_neither_is_signed_again() {
        for make in [VoteTarget::prepare, VoteTarget::commit] {
            let target = |block: u8| make(Epoch(2), View(9), BlockHash([block; 32]));
            let run = |block: u8| {
                let mut state = SignState::new(&context());
                state.allow(Fork(0), &target(block), PER_TERM).unwrap();
                state
            };
            let merged = run(1).merge(run(3));
            assert_eq!(merged, run(3).merge(run(1)));
            for block in 1..4 {
                assert_eq!(merged.check(Fork(0), &target(block), PER_TERM), Err(Refusal::Voted(View(9))));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn no_sequence_of_allowed_votes_contradicts_itself_even_across_restarts(
            votes in prop::collection::vec((targets(), any::<bool>()), 1..60),
        ) {
            let mut state = SignState::new(&context());
            let mut signed: Vec<VoteTarget> = Vec::new();
            for (target, restart) in votes {
                if restart {
                    state = SignState::from_slice(&state.to_bytes()).unwrap();
                }
                if state.allow(Fork(0), &target, PER_TERM).is_ok() {
                    for earlier in &signed {
                        prop_assert!(!contradict(earlier, &target), "{earlier:?} and {target:?}");
                    }
                    signed.push(target);
                }
            }
        }

        #[test]
        fn what_was_signed_may_be_signed_again_while_it_is_the_newest(target in targets()) {
            let mut state = SignState::new(&context());
            prop_assert!(state.allow(Fork(0), &target, PER_TERM).is_ok());
            prop_assert!(state.allow(Fork(0), &target, PER_TERM).is_ok());
        }

        #[test]
        fn a_merged_record_refuses_what_either_refuses(
            a in prop::collection::vec(targets(), 0..20), b in prop::collection::vec(targets(), 0..20), probe in targets(),
        ) {
            let run = |votes: Vec<VoteTarget>| {
                let mut state = SignState::new(&context());
                for v in votes {
                    let _ = state.allow(Fork(0), &v, PER_TERM);
                }
                state
            };
            let (a, b) = (run(a), run(b));
            let merged = a.clone().merge(b.clone());
            let newest = a.epoch.max(b.epoch);
            for side in [&a, &b].into_iter().filter(|s| s.epoch == newest) {
                if side.check(Fork(0), &probe, PER_TERM).is_err() {
                    prop_assert!(merged.check(Fork(0), &probe, PER_TERM).is_err());
                }
            }
        }
    }
}
