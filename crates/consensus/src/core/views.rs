//! Views: entering, leaving, proposing, resending.

use super::*;
use cascade_primitives::{
    Block, Certificates, L1Origin,
    block::{MAX_SKIPS_PER_BLOCK, MAX_SYSTEM_ITEMS, PROTOCOL_VERSION},
};

/// Certificates in one resend: so many of the newest, and as many of the older ones, in turn.
const MAX_RESENT: usize = 256;

/// How often the timeout is halved at the most for a leader whose terms end in skips.
const MOST_HALVED: u32 = 3;
/// In one of so many of its terms, and the first of each of the election's cycles, it has the whole timeout, so that one that
/// needs more can show that it does.
const WHOLE_TIMEOUT_EVERY: usize = 16;
/// After so many terms that it kept it has the whole timeout again, though it needed less.
const KEPT_TERMS: u32 = 8;

/// What a leader did since its terms began to end in skips.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CutShort {
    /// Terms that ended in a skip.
    skipped: u32,
    /// Terms since the last of them, all of whose blocks came.
    kept: u32,
}

impl CutShort {
    pub(super) fn on_skipped(&mut self) {
        *self = Self { skipped: self.skipped.saturating_add(1), kept: 0 };
    }

    /// What such a leader has left of a timeout.
    fn patience(self, timeout: u64) -> u64 {
        (timeout >> self.skipped.min(MOST_HALVED)).max(1)
    }
}

/// Filler headers up to which the first block of an epoch carries content.
const FILLERS_BESIDE_CONTENT: usize = 1024;

/// What a proposal for the current view would stand on.
pub(super) struct Place<'a> {
    parent: BlockHash,
    /// None if the parent is the block that the epoch stands on.
    certificate: Option<&'a Arc<Certificate>>,
    /// They cover the views between.
    skips: Vec<&'a Arc<Certificate>>,
}

impl<B: Bugs> Core<B> {
    /// Goes to a later view and forwards the certificate that allows it.
    pub(super) fn enter(&mut self, view: View, certificate: Arc<Certificate>) {
        if view <= self.view {
            return;
        }
        let last = self.term(self.view);
        let skipped = self.sign.skipped(self.epoch.epoch, last).is_some();
        if self.term(view) > last && (skipped || certificate.target.kind == VoteKind::Skip) {
            // Also if it was prepared after all: who has skipped in it commits to none of its blocks.
            self.skipped_terms += 1;
        }
        self.view = view;
        self.entered = self.now;
        self.helped.clear();
        self.entry = Some(Arc::clone(&certificate));
        self.building = None;
        self.resends = 0;
        self.resend_at = self.now.plus(self.resend_interval());
        self.emit(Effect::EnteredView(self.epoch.epoch, view));
        self.emit(Effect::Broadcast(Message::Certificate(certificate)));
        if let Some(hash) = self.views.get(&view).and_then(|v| v.proposal) {
            self.judge(hash);
            self.maybe_prepare(hash);
            self.skip_refused();
        }
    }

    fn resend_interval(&self) -> u64 {
        // Slower with every round without progress, up to eight times.
        (self.config.rules.params().leader_timeout_ms / 2).max(1) << self.resends.min(3)
    }

    pub(super) fn leads(&mut self, view: View) -> bool {
        self.epoch.me == Some(self.epoch.leaders.of_view(view)) && self.config.signer.is_some()
    }

    /// Whether there is a reason to make blocks as fast as the interval allows.
    fn busy(&self) -> bool {
        let tip = self.tip();
        self.work || tip.is_none_or(|t| t.needs_flush() || t.in_tail()) || !self.readies_to_include().is_empty()
    }

    /// The newest block on which the current view would build, as far as this node knows.
    fn tip(&self) -> Option<&Arc<ChainContext>> {
        self.tree.get(&self.place()?.parent)?.standing.context()
    }

    /// What a proposal for the current view would stand on; none while certificates for it are missing.
    fn place(&self) -> Option<Place<'_>> {
        let mut skips = Vec::new();
        let mut view = self.view.minus(1);
        // Term by term downwards: the highest prepared view is the parent; what is above it in its term, and every
        // term above, one skip must cover.
        while view > View(0) && view >= self.oldest_view() {
            let first = self.term(view).first_view(self.per_term());
            let prepared = self.views.range(first..=view).rev().find_map(|(&v, s)| Some((v, s.prepared.as_ref()?)));
            if prepared.is_none_or(|(v, _)| v < view) {
                let from = prepared.map_or(first, |(v, _)| v.next());
                let cover = self.views.range(first..=from).find_map(|(_, s)| s.skipped.as_ref())?;
                skips.push(cover);
            }
            if let Some((_, certificate)) = prepared {
                skips.reverse();
                return Some(Place { parent: certificate.target.block, certificate: Some(certificate), skips });
            }
            view = first.minus(1);
        }
        skips.reverse();
        (view == View(0)).then_some(Place { parent: self.epoch.root, certificate: None, skips })
    }

    /// When the current view is skipped, if this node votes and has not skipped it already.
    pub(super) fn skip_deadline(&mut self) -> Option<TimestampMs> {
        self.epoch.me?;
        self.config.signer.as_ref()?;
        if self.my_votes.contains_key(&(self.view, VoteKind::Skip)) {
            return None;
        }
        let target = VoteTarget::skip(self.epoch.epoch, self.view);
        self.sign.check(self.config.rules.signing.fork, &target, self.per_term()).ok()?;
        let leader = self.epoch.leaders.of_view(self.view);
        let at = self.block_due().plus(self.timeout(leader));
        Some(self.cut_short_at(leader).map_or(at, |cut_short| cut_short.min(at)))
    }

    /// From when on the current view's leader is waited for.
    fn block_due(&self) -> TimestampMs {
        let idle = self.entered.plus(self.block_interval(false));
        self.busy_since.map_or(idle, |since| self.entered.max(since).min(idle))
    }

    /// The least time between a block and the next, in ms.
    fn block_interval(&self, busy: bool) -> u64 {
        let params = self.config.rules.params();
        params.block_time_ms.saturating_mul(if busy { 1 } else { params.empty_block_interval })
    }

    /// For how many ms a view of this leader may go on once its block is due, whatever became of its terms.
    fn timeout(&self, leader: MemberIndex) -> u64 {
        let timeout = self.config.rules.params().leader_timeout_ms;
        if self.silent.contains(&leader) {
            return (timeout / 8).max(1);
        }
        // Skipping all leaders in turn means that the timeout is below what the network needs.
        let rounds = self.skipped_terms / (self.epoch.committee.members().len() as u64 + 1);
        timeout << rounds.min(3)
    }

    /// When the current view is skipped because its leader's terms keep ending so, if they do. With f seats that skip at
    /// once, the least patient of the others decides.
    fn cut_short_at(&mut self, leader: MemberIndex) -> Option<TimestampMs> {
        let at = self.in_time_until(leader).filter(|_| Some(leader) != self.epoch.me)?;
        // All sequencers give the whole timeout in the same terms, or the others' skips would take it away.
        let turn = self.epoch.leaders.turn(self.term(self.view));
        (!turn.is_multiple_of(WHOLE_TIMEOUT_EVERY)).then_some(at)
    }

    /// Until when such a leader's block is in time; none if nothing speaks against the leader.
    fn in_time_until(&self, leader: MemberIndex) -> Option<TimestampMs> {
        let patience = self.cut_short.get(&leader)?.patience(self.config.rules.params().leader_timeout_ms);
        // Where the parent is missing here, the leader may lack it too.
        self.tip()?;
        // That a leader waits for the block time, by whatever clock, is not its own slowness.
        Some(self.block_due().max(self.entered.plus(self.block_interval(true))).plus(patience))
    }

    /// The last view of a leader's term is prepared. That less than the timeout was enough does not give the leader the rest
    /// back: one that stalls most of its terms would have it with every other. That it was in time by the whole alone does.
    pub(super) fn on_kept_term(&mut self, leader: MemberIndex, view: View) {
        let needs_more = view == self.view && self.in_time_until(leader).is_some_and(|at| at < self.now);
        let Some(cut_short) = self.cut_short.get_mut(&leader) else { return };
        cut_short.kept += 1;
        if needs_more || cut_short.kept == KEPT_TERMS {
            self.cut_short.remove(&leader);
        }
    }

    pub(super) fn tick_views(&mut self) {
        if self.busy() {
            self.busy_since.get_or_insert(self.now);
        } else {
            self.busy_since = None;
        }
        if self.term_is_lost() {
            self.skip(SkipReason::Joined);
        } else if self.skip_deadline().is_some_and(|at| at <= self.now) {
            let leader = self.epoch.leaders.of_view(self.view);
            let reason = if self.silent.contains(&leader) { SkipReason::Silent } else { SkipReason::Timeout };
            self.skip(reason);
        }
    }

    /// Whether the current term cannot finalize any more as far as this node knows: it skipped in it, or f+1 seats
    /// did. Then it must end, or it would run on without finality.
    fn term_is_lost(&self) -> bool {
        let term = self.term(self.view);
        if self.sign.skipped(self.epoch.epoch, term).is_some_and(|skipped| skipped <= self.view)
            && !self.bugs.planted(Bug::SkipForgotten)
        {
            return true;
        }
        let (first, last) = (term.first_view(self.per_term()), term.last_view(self.per_term()));
        let skippers: BTreeSet<MemberIndex> =
            self.views.range(first..=last).flat_map(|(_, state)| state.skips.signers()).collect();
        self.one_is_honest(skippers) && !self.bugs.planted(Bug::SkipsNotJoined)
    }

    /// Whether these members have more than f seats.
    pub(super) fn one_is_honest(&self, members: impl IntoIterator<Item = MemberIndex>) -> bool {
        let committee = &self.epoch.committee;
        let seats: u32 = members.into_iter().map(|member| committee.members()[member.index()].seats.0).sum();
        seats > committee.faulty_seats().0
    }

    pub(super) fn skip(&mut self, reason: SkipReason) {
        let view = self.view;
        if self.my_votes.contains_key(&(view, VoteKind::Skip)) {
            return;
        }
        let target = VoteTarget::skip(self.epoch.epoch, view);
        if let Some(vote) = self.cast(target, &mut Vec::new()) {
            self.emit(Effect::Skipped(view, reason));
            self.emit(Effect::Broadcast(Message::Vote(vote, Some(reason))));
            self.count_vote(vote);
        }
    }

    /// When this node should propose in the current view; none if it is not its turn or it cannot.
    pub(super) fn propose_at(&mut self) -> Option<TimestampMs> {
        let view = self.view;
        if !self.leads(view) || self.building.is_some() || self.my_votes.contains_key(&(view, VoteKind::Prepare)) {
            return None;
        }
        if self.sign.epoch() == self.epoch.epoch && self.sign.prepared().is_some_and(|(v, _)| v >= view) {
            return None;
        }
        let parent = Arc::clone(self.tip()?);
        // A parent whose time is ahead of this node's clock must not hold it up: its leader's clock may be wrong, or lie.
        let at = parent.timestamp.min(self.entered).plus(self.block_interval(self.busy()));
        self.next_block(&parent).is_some().then_some(at)
    }

    pub(super) fn try_propose(&mut self) {
        if self.propose_at().is_none_or(|at| at > self.now) {
            return;
        }
        let Some(parent) = self.tip().map(Arc::clone) else { return };
        let Some(mut next) = self.next_block(&parent) else { return };
        let Some(ancestors) = self.ancestors(&parent, next.due) else { return };
        let Some(frame) = self.frame(&next) else { return };
        next.frame.clone_from(&frame);
        let request = BuildRequest {
            view: next.view,
            epoch: next.base.epoch,
            height: parent.height.next(),
            timestamp: next.timestamp,
            may_carry_content: next.may_carry_content,
            state_height: next.due,
            ancestors,
            parent,
            frame,
        };
        self.building = Some(next);
        self.emit(Effect::Build(Box::new(request)));
    }

    /// The block that this node can make on `parent` now, but for its content; none while results that would be due are
    /// not computed, or the parent is not known to be valid.
    fn next_block(&self, parent: &Arc<ChainContext>) -> Option<Building> {
        if !matches!(self.tree.get(&parent.hash)?.standing, Standing::Valid(_)) {
            return None;
        }
        let rules = &self.config.rules;
        let (base, carried, kind, commit, fillers);
        if parent.epoch < self.epoch.epoch {
            let finality = self.head_finality.as_ref().expect("an epoch begins with a final block");
            base = Arc::new(parent.hand_over(rules));
            (carried, kind) = (parent.height, HeaderKind::Block);
            (commit, fillers) = (Some(Arc::clone(&finality.certificate)), finality.fillers.clone());
        } else {
            base = Arc::clone(parent);
            kind = if parent.ended { HeaderKind::Filler } else { HeaderKind::Block };
            let newest = self.newest_commit(parent);
            carried = newest.as_ref().map_or(parent.carried_commit(), |(height, _)| *height);
            (commit, fillers) = (newest.map(|(_, certificate)| certificate), Vec::new());
        }
        if self.bugs.planted(Bug::NoFillers) && kind == HeaderKind::Filler {
            return None;
        }
        if self.bugs.planted(Bug::LagStops) && parent.height.0 - carried.0 >= rules.params().results_lag {
            return None;
        }
        if !base.has_room(kind) {
            return None;
        }
        let (due, _) = base.due(rules, carried, kind);
        if (base.last_result.0 + 1..=due.0).any(|h| !self.results.contains_key(&Height(h))) {
            return None;
        }
        Some(Building {
            view: self.view,
            timestamp: self.now.max(parent.timestamp.next()),
            due,
            // It may leave its content out: a message holds 12 MiB of transactions, or many headers of fillers.
            may_carry_content: fillers.len() <= FILLERS_BESIDE_CONTENT && base.may_carry_content(rules, carried, kind),
            parent: Arc::clone(parent),
            base,
            kind,
            commit,
            fillers,
            frame: Body::default(),
        })
    }

    /// The newest commit certificate of an ancestor of a child of `parent` that `parent`'s chain does not carry yet.
    fn newest_commit(&self, parent: &ChainContext) -> Option<(Height, Arc<Certificate>)> {
        self.views.values().rev().filter_map(|s| s.committed.as_ref()).find_map(|certificate| {
            let height = parent.find(&certificate.target.block)?;
            (height > parent.carried_commit()).then(|| (height, Arc::clone(certificate)))
        })
    }

    /// Blocks above `state_height` up to `parent`, without fillers; none if one of them is not at hand.
    pub(super) fn ancestors(&self, parent: &ChainContext, state_height: Height) -> Option<Vec<Arc<SealedBlock>>> {
        let mut found = Vec::new();
        let (mut hash, mut height) = (parent.hash, parent.height);
        while height > state_height {
            let block = match self.tree.get(&hash) {
                Some(entry) => &entry.block,
                None => self.recent.get(&height).filter(|b| b.hash() == hash)?,
            };
            if block.header.kind == HeaderKind::Block {
                found.push(Arc::clone(block));
            }
            hash = block.header.parent;
            height = height.minus(1);
        }
        found.reverse();
        Some(found)
    }

    fn readies_to_include(&self) -> Vec<Ready> {
        let Some(tip) = self.tip() else { return Vec::new() };
        if tip.epoch != self.epoch.epoch || tip.in_tail() {
            return Vec::new();
        }
        let (root, rules) = (tip.next_committee.members_root(), &self.config.rules);
        let of_committee = self.readies.values().filter(|(of, _)| *of == root).map(|(_, ready)| *ready);
        of_committee.filter(|ready| tip.accepts_ready(rules, ready).is_some()).take(MAX_SYSTEM_ITEMS).collect()
    }

    pub(super) fn on_built(&mut self, view: View, parent: BlockHash, content: BuiltBlock) {
        let Some(building) = self.building.take_if(|b| b.view == view && b.parent.hash == parent) else { return };
        // The block that it would stand on may meanwhile be another.
        if self.view != view || self.place().is_none_or(|place| place.parent != parent) {
            return;
        }
        let context = Arc::clone(&building.parent);
        let Some(block) = self.assemble(building, content) else { return };
        let hash = block.hash();
        let rules = Arc::clone(&self.config.rules);
        let child = match context.child_with(&rules, &block, &self.bugs) {
            Ok(child) => Arc::new(child),
            Err(error) => {
                self.emit(Effect::Fatal(format!("this node built an invalid block in view {view}: {error}")));
                return;
            }
        };
        let target = VoteTarget::prepare(self.epoch.epoch, view, hash);
        let mut records = vec![Record::Block(Arc::clone(&block))];
        records.extend(self.covering(&block).unwrap_or_default());
        let Some(vote) = self.cast(target, &mut records) else { return };
        self.tree.insert(hash, Entry { block: Arc::clone(&block), standing: Standing::Valid(child) });
        self.views.entry(view).or_default().proposal = Some(hash);
        self.emit(Effect::Broadcast(Message::Proposal(block, vote)));
        self.count_vote(vote);
    }

    /// What the body of a block holds beside its content.
    fn frame(&self, building: &Building) -> Option<Body> {
        let place = self.place()?;
        let system = if building.may_carry_content && building.parent.epoch == building.base.epoch {
            self.readies_to_include().into_iter().map(SystemItem::Ready).collect()
        } else {
            Vec::new()
        };
        let certificates = Certificates {
            parent: place.certificate.map(|c| c.as_ref().clone()),
            skips: place.skips.into_iter().take(MAX_SKIPS_PER_BLOCK).map(|c| c.as_ref().clone()).collect(),
            commit: building.commit.as_ref().map(|c| c.as_ref().clone()),
            fillers: building.fillers.clone(),
        };
        Some(Body { system, certificates, ..Body::default() })
    }

    /// The block; none if a result that it must carry has meanwhile been settled by a final block.
    fn assemble(&self, building: Building, mut content: BuiltBlock) -> Option<Arc<SealedBlock>> {
        let rules = &self.config.rules;
        let Building { view, parent, base, kind, timestamp, due, may_carry_content, frame, .. } = building;
        if kind == HeaderKind::Filler {
            content.reveals.clear();
        }
        let results = (base.last_result.0 + 1..=due.0).map(|h| self.results.get(&Height(h)).copied());
        let results = results.collect::<Option<Vec<_>>>()?;
        let body = content.body(&frame, may_carry_content);
        let mut header = Header {
            version: PROTOCOL_VERSION,
            kind,
            chain_id: rules.signing.chain_id,
            genesis_hash: rules.signing.genesis_hash,
            fork: rules.signing.fork,
            epoch: base.epoch,
            view,
            height: parent.height.next(),
            parent: parent.hash,
            timestamp,
            l1_origin: L1Origin::default(),
            committee_root: base.committee.root(),
            next_committee_root: base.next_committee.root(),
            history_root: base.history_root(),
            da: Default::default(),
            body_root: body.root(),
            base_fee: if kind == HeaderKind::Filler { parent.base_fee } else { content.base_fee },
            ordered_gas: if may_carry_content { content.ordered_gas } else { 0 },
            results,
        };
        if header.has_square(rules.params()) {
            header.da = content.da;
        }
        Some(Arc::new(SealedBlock::new(Block { header, body })))
    }

    /// On a stall: votes of the current view, the last Commit, the newest commit certificate, and every prepare and
    /// skip certificate since that one's view (decision 2 of the architecture).
    pub(super) fn tick_resend(&mut self) {
        if self.resend_at > self.now {
            return;
        }
        if self.bugs.planted(Bug::NoResend) {
            self.resend_at = self.now.plus(self.resend_interval());
            return;
        }
        self.resends += 1;
        self.resend_at = self.now.plus(self.resend_interval());
        let mut messages = vec![Message::Status(self.status())];
        if let Some(finality) = &self.head_finality {
            messages.push(if self.head.epoch < self.epoch.epoch {
                Message::EpochEnd(Arc::clone(&finality.certificate), finality.fillers.clone())
            } else {
                Message::Certificate(Arc::clone(&finality.certificate))
            });
        }
        // A commit certificate whose block is missing here may be all that others miss.
        let newest = self.views.values().rev().find_map(|s| s.committed.as_ref());
        let every = || self.views.values().rev().flat_map(|s| [&s.prepared, &s.skipped]).flatten();
        let older = every().count().saturating_sub(MAX_RESENT);
        let turn = MAX_RESENT + self.resent.checked_rem(older).unwrap_or(0);
        self.resent = self.resent.wrapping_add(MAX_RESENT);
        let certificates =
            newest.into_iter().chain(every().take(MAX_RESENT)).chain(every().skip(turn).take(MAX_RESENT));
        messages.extend(certificates.map(|c| Message::Certificate(Arc::clone(c))));
        let current = self.my_votes.range((self.view, VoteKind::Prepare)..=(self.view, VoteKind::Skip));
        let last_commit = self.my_votes.values().rev().find(|v| v.target.kind == VoteKind::Commit);
        let votes: Vec<Vote> = current.map(|(_, v)| *v).chain(last_commit.copied()).collect();
        for vote in votes {
            messages.push(match self.own_proposal(&vote) {
                Some(block) => Message::Proposal(block, vote),
                None => Message::Vote(vote, None),
            });
        }
        for message in messages {
            self.emit(Effect::Broadcast(message));
        }
        self.announce_ready();
        self.request_missing();
    }

    fn own_proposal(&mut self, vote: &Vote) -> Option<Arc<SealedBlock>> {
        let leads = vote.target.kind == VoteKind::Prepare && self.leads(vote.target.view);
        leads.then(|| self.tree.get(&vote.target.block).map(|e| Arc::clone(&e.block))).flatten()
    }

    /// Tells the others that this node is ready for the next epoch, while the chain does not say so.
    pub(super) fn announce_ready(&mut self) {
        self.announced_at = self.now;
        let Some(signer) = self.config.signer.clone() else { return };
        if self.head.epoch != self.epoch.epoch || self.head.in_tail() {
            return;
        }
        let next = &self.head.next_committee;
        let Some(me) = next.index_of(&self.config.node) else { return };
        if self.head.ready.contains_key(&me) || next.members()[me.index()].bls_key != signer.public_key() {
            return;
        }
        let epoch = self.head.epoch.next();
        let (node, root) = (self.config.node, next.members_root());
        let keys = match self.keys_ready {
            _ if self.config.rules.params().transactions != TransactionRule::Encrypted => ThresholdKeys::default(),
            Some((of, made_for, keys)) if (of, made_for) == (epoch, root) => keys,
            _ => return,
        };
        let digest = Ready::digest(&self.config.rules.signing, epoch, &node, &root, &keys);
        let ready = Ready { epoch, node, keys, signature: signer.sign(&digest) };
        self.readies.insert(me, (root, ready));
        self.emit(Effect::Broadcast(Message::Ready(ready)));
    }

    pub(super) fn on_ready(&mut self, from: NodeId, ready: Ready) {
        let Some(member) = self.head.accepts_ready(&self.config.rules, &ready) else { return };
        let root = self.head.next_committee.members_root();
        // Once it is settled who takes over, nobody is asked any more; and if some were dropped, the statement of one
        // who does not know it yet names another committee.
        if self.head.in_tail() || self.readies.get(&member) == Some(&(root, ready)) {
            return;
        }
        let next = &self.head.next_committee;
        let key = next.members()[member.index()].bls_key;
        let digest = Ready::digest(&self.config.rules.signing, ready.epoch, &ready.node, &root, &ready.keys);
        let right = |core: &mut Self| core.config.scheme.verify(&key, &digest, &ready.signature);
        // On an encrypted chain the epoch goes on with a committee that was made anew, and the two nodes may not yet know
        // the same one.
        let encrypted = self.config.rules.params().transactions == TransactionRule::Encrypted;
        let blame = (!encrypted).then_some("a wrong statement of readiness");
        if self.is_right(from, blame, right) {
            self.readies.insert(member, (root, ready));
        }
    }

    pub(super) fn send_entry(&mut self, to: NodeId) {
        if let Some(entry) = self.entry.clone() {
            self.emit(Effect::Send(to, Message::Certificate(entry)));
        }
    }

    /// Helps a peer that votes in a past view, once in each view: answering every vote would let a peer that answers
    /// in turn keep both busy for ever.
    pub(super) fn send_entry_once(&mut self, to: NodeId) {
        let late = self.entered.plus(self.config.rules.params().leader_timeout_ms) <= self.now;
        if late && self.helped.insert(to) {
            self.send_entry(to);
        }
    }
}
