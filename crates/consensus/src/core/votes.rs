//! Votes and certificates: counting, verifying, contradictions.

use super::*;
use crate::safety::Refusal;
use cascade_primitives::Seats;

/// Contradictions of one member in one view that may turn out to be wrong signatures.
const UNPROVED: u32 = 4;

impl<B: Bugs> Core<B> {
    /// The views of the current epoch for which votes and proposals are kept.
    pub(super) fn in_window(&self, view: View) -> bool {
        let last = self.term(self.view).plus(TERMS_AHEAD).max(self.term(self.view.plus(VIEWS_AHEAD)));
        view > View(0) && view >= self.oldest_view() && view <= last.last_view(self.per_term())
    }

    /// Views at or below the newest final block of this epoch are settled.
    pub(super) fn oldest_view(&self) -> View {
        if self.head.epoch == self.epoch.epoch { self.head.view } else { View(0) }
    }

    pub(super) fn on_vote(&mut self, from: NodeId, vote: Vote) {
        let target = vote.target;
        if target.epoch != self.epoch.epoch {
            self.on_other_epoch(from, target.epoch);
            return;
        }
        let Some(member) = self.epoch.committee.member(vote.signer) else {
            self.misbehaved(from, "a vote of no member");
            return;
        };
        // Votes count from their signer's own connection alone: so a wrong signature has a culprit, and nobody can
        // take an honest member's place in a tally with a forged one. Certificates travel on any way.
        if member.node != from {
            self.misbehaved(from, "a vote of somebody else");
            return;
        }
        // Late votes count for nothing, but whoever sends them is there.
        self.silent.remove(&vote.signer);
        if !self.in_window(target.view) {
            if target.view > self.view {
                self.emit(Effect::Behind(from));
            }
            return;
        }
        self.count_vote(vote);
        if target.view < self.view && self.views.get(&target.view).is_some_and(|v| v.prepared.is_some()) {
            // The sender is behind; what this node entered its view on helps it.
            self.send_entry_once(from);
        }
    }

    /// Counts a vote and follows what it completes. Own votes come here too.
    pub(super) fn count_vote(&mut self, vote: Vote) {
        let target = vote.target;
        if target.epoch != self.epoch.epoch || !self.in_window(target.view) {
            return;
        }
        let state = self.views.entry(target.view).or_default();
        let mut twice = Seats(0);
        match state.first.get(&(vote.signer, target.kind)) {
            Some(first) if first.target == target && self.bugs.planted(Bug::SeatTwice) => {
                twice = self.epoch.committee.members()[vote.signer.index()].seats;
            }
            Some(first) if first.target == target => return,
            Some(first) => {
                let first = *first;
                self.accuse(first, vote);
                return;
            }
            None => {
                state.first.insert((vote.signer, target.kind), vote);
            }
        }
        if let Some(first) = self.contradicted(&vote) {
            self.accuse(first, vote);
        }
        let state = self.views.entry(target.view).or_default();
        let (tally, done) = match target.kind {
            VoteKind::Prepare => (state.prepares.entry(target.block).or_default(), state.prepared.is_some()),
            VoteKind::Commit => (state.commits.entry(target.block).or_default(), state.committed.is_some()),
            VoteKind::Skip => (&mut state.skips, state.skipped.is_some()),
        };
        if (!tally.add(vote.signer, vote.signature) && twice == Seats(0)) || done {
            return;
        }
        let (scheme, context) = (Arc::clone(&self.config.scheme), self.config.rules.signing);
        let committee = Arc::clone(&self.epoch.committee);
        let needed = committee.quorum().0 - u32::from(self.bugs.planted(Bug::QuorumTooLow)) - twice.0;
        let (certificate, culprits) = tally.certificate(scheme.as_ref(), &context, &committee, target, Seats(needed));
        for culprit in culprits {
            self.misbehaved(committee.members()[culprit.index()].node, "a vote with a wrong signature");
        }
        if let Some(certificate) = certificate {
            self.remember(&certificate);
            self.learn(certificate);
        }
    }

    /// An earlier Commit or Skip of the same member that this vote contradicts.
    fn contradicted(&self, vote: &Vote) -> Option<Vote> {
        let target = vote.target;
        let term = self.term(target.view);
        let (first, last) = (term.first_view(self.per_term()), term.last_view(self.per_term()));
        let (range, kind) = match target.kind {
            VoteKind::Prepare => return None,
            VoteKind::Commit => (first..=target.view, VoteKind::Skip),
            VoteKind::Skip => (target.view..=last, VoteKind::Commit),
        };
        self.views.range(range).find_map(|(_, state)| state.first.get(&(vote.signer, kind))).copied()
    }

    /// Two votes of one member contradict each other. Both signatures are checked before anybody is accused; who was
    /// accused in a view, or sent wrong signatures in it time and again, makes no further work there.
    fn accuse(&mut self, first: Vote, second: Vote) {
        let state = self.views.entry(second.target.view).or_default();
        let unproved = state.unproved.get(&second.signer).is_some_and(|times| *times >= UNPROVED);
        if unproved || state.accused.contains(&second.signer) {
            return;
        }
        let member = self.epoch.committee.members()[second.signer.index()];
        let valid = |vote: &Vote| {
            let digest = vote.target.digest(&self.config.rules.signing);
            self.config.scheme.verify(&member.bls_key, &digest, &vote.signature)
        };
        if valid(&first) && valid(&second) {
            self.views.entry(second.target.view).or_default().accused.insert(second.signer);
            self.emit(Effect::Evidence(Evidence { node: member.node, first, second }));
            self.misbehaved(member.node, "votes that contradict each other");
            if second.target.kind == VoteKind::Prepare
                && second.target.view == self.view
                && self.epoch.leaders.of_view(self.view) == second.signer
            {
                self.skip(SkipReason::Invalid);
            }
        } else {
            let state = self.views.entry(second.target.view).or_default();
            *state.unproved.entry(second.signer).or_default() += 1;
            self.misbehaved(member.node, "a vote with a wrong signature");
        }
    }

    pub(super) fn on_certificate(&mut self, from: NodeId, certificate: Arc<Certificate>) {
        let target = certificate.target;
        if target.epoch != self.epoch.epoch {
            self.on_other_epoch(from, target.epoch);
            return;
        }
        if self.knows(&target) || target.view < self.oldest_view() {
            return;
        }
        if self.certifies(Some(from), &certificate) {
            self.learn(certificate);
        }
    }

    /// Whether a certificate of the current epoch is right. `from` is blamed if not.
    pub(super) fn certifies(&mut self, from: Option<NodeId>, certificate: &Certificate) -> bool {
        let committee = Arc::clone(&self.epoch.committee);
        let right = |core: &mut Self| core.verify_cached(certificate, &committee).is_ok();
        match from {
            Some(from) => self.proves(from, "a wrong certificate", right),
            None => right(self),
        }
    }

    pub(super) fn knows(&self, target: &VoteTarget) -> bool {
        self.views.get(&target.view).is_some_and(|state| match target.kind {
            VoteKind::Prepare => state.prepared.is_some(),
            VoteKind::Commit => state.committed.is_some(),
            VoteKind::Skip => state.skipped.is_some(),
        })
    }

    /// Follows a certificate of the current epoch whose signature is right.
    ///
    /// A certificate may be of a view far ahead: unlike votes, certificates are proof, so no window limits them, and
    /// only quorums can make them.
    pub(super) fn learn(&mut self, certificate: Arc<Certificate>) {
        let target = certificate.target;
        if target.epoch != self.epoch.epoch || target.view < self.oldest_view() {
            return;
        }
        let state = self.views.entry(target.view).or_default();
        let slot = match target.kind {
            VoteKind::Prepare => &mut state.prepared,
            VoteKind::Commit => &mut state.committed,
            VoteKind::Skip => &mut state.skipped,
        };
        if let Some(known) = slot {
            assert_eq!(known.target, target, "two quorums contradict each other in view {}", target.view);
            return;
        }
        *slot = Some(Arc::clone(&certificate));
        match target.kind {
            VoteKind::Prepare => self.on_prepared(&certificate),
            VoteKind::Commit => self.on_committed(&certificate),
            VoteKind::Skip => self.on_skipped(&certificate),
        }
    }

    fn on_prepared(&mut self, certificate: &Arc<Certificate>) {
        let VoteTarget { view, block, .. } = certificate.target;
        let leader = self.epoch.leaders.of_view(view);
        self.silent.remove(&leader);
        if view == self.term(view).last_view(self.per_term()) {
            // Nobody prepares it unless the leader made all blocks of the term.
            self.on_kept_term(leader, view);
        }
        self.vouch(block);
        if !self.tree.contains_key(&block) {
            self.request_block(block, view);
        }
        if self.bugs.planted(Bug::HandoverUncertified)
            && let Some(last) = self.tree.get(&block).and_then(|e| e.standing.context()).cloned()
            && last.can_hand_over()
        {
            self.finalize_epoch(&last, Arc::clone(certificate), Vec::new());
            return;
        }
        self.commit(certificate);
        if view >= self.view {
            self.enter(view.next(), Arc::clone(certificate));
        }
    }

    /// Votes Commit, if nothing that this node said speaks against it.
    fn commit(&mut self, certificate: &Arc<Certificate>) {
        let VoteTarget { epoch, view, block, .. } = certificate.target;
        let target = VoteTarget::commit(epoch, view, block);
        if self.my_votes.contains_key(&(view, VoteKind::Commit)) {
            return;
        }
        let mut records = vec![Record::Certificate(Arc::clone(certificate))];
        if let Some(vote) = self.cast(target, &mut records) {
            self.emit(Effect::Broadcast(Message::Vote(vote, None)));
            self.count_vote(vote);
        }
    }

    /// Signs a vote that the guard allows and persists it with what it rests on.
    pub(super) fn cast(&mut self, target: VoteTarget, records: &mut Vec<Record>) -> Option<Vote> {
        self.epoch.me?;
        let (fork, per_term) = (self.config.rules.signing.fork, self.per_term());
        self.config.signer.as_ref()?;
        if let Err(refusal) = self.sign.allow(fork, &target, per_term)
            && !self.overruled(&target, refusal)
        {
            tracing::debug!(?target, %refusal, "vote withheld");
            return None;
        }
        let vote = self.sign(target)?;
        self.my_votes.insert((target.view, target.kind), vote);
        records.extend(self.entry.iter().map(|c| Record::Certificate(Arc::clone(c))));
        if let Some(Finality { certificate, fillers }) = self.unlogged_end.take()
            && !self.bugs.planted(Bug::EpochEndNotPersisted)
        {
            records.push(Record::EpochEnd(certificate, fillers));
        }
        if self.bugs.planted(Bug::CertificatesNotPersisted) {
            records.retain(|r| !matches!(r, Record::Certificate(_)));
        }
        records.push(Record::Vote(vote));
        if !self.bugs.planted(Bug::VoteNotPersisted) {
            self.emit(Effect::Persist { records: std::mem::take(records), sign_state: Box::new(self.sign.clone()) });
        }
        Some(vote)
    }

    /// Whether a planted bug casts a vote that the guard refuses.
    fn overruled(&self, target: &VoteTarget, refusal: Refusal) -> bool {
        match refusal {
            Refusal::Skipped(view) if view == target.view => self.bugs.planted(Bug::CommitAfterSkip),
            Refusal::Skipped(_) => self.bugs.planted(Bug::SkipForgotten),
            Refusal::Voted(view) if view == target.view => self.bugs.planted(Bug::PrepareTwice),
            _ => false,
        }
    }

    fn on_skipped(&mut self, certificate: &Arc<Certificate>) {
        let term = self.term(certificate.target.view);
        let old = certificate.target.view < self.view && self.bugs.planted(Bug::OldSkipIgnored);
        if term < self.term(self.view) || old {
            return;
        }
        let (first, last) = (term.first_view(self.per_term()), term.last_view(self.per_term()));
        let leader = self.epoch.leaders.of_term(term);
        let productive = self.views.range(first..=last).any(|(_, state)| state.prepared.is_some());
        // One that was not there before does not stall: its absence costs little, and says nothing of the time it needs.
        if productive || Some(leader) == self.epoch.me || self.silent.insert(leader) {
            self.cut_short.entry(leader).or_default().on_skipped();
        }
        let suspects: BTreeSet<MemberIndex> = self.cut_short.keys().chain(&self.silent).copied().collect();
        if self.one_is_honest(suspects) {
            // For all that is known, the network or the load is what is slow.
            self.cut_short.clear();
        }
        self.enter(last.next(), Arc::clone(certificate));
    }
}
