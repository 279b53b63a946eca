//! Blocks above the final head: judging them, and fetching what is missing.

use super::*;
use crate::context::{certificates, readiness, uncovered};
use cascade_primitives::Block;

impl<B: Bugs> Core<B> {
    /// Judges a block as far as that is possible now.
    pub(super) fn judge(&mut self, hash: BlockHash) {
        let Some(entry) = self.tree.get(&hash) else { return };
        let block = Arc::clone(&entry.block);
        if matches!(entry.standing, Standing::Orphan(_)) {
            let Some(parent) = self.tree.get(&block.header.parent) else {
                if self.fetches_parent(&block) {
                    self.request_block(block.header.parent, block.header.view);
                }
                return;
            };
            match &parent.standing {
                Standing::Orphan(_) => {
                    let parent = block.header.parent;
                    self.judge(parent);
                    return;
                }
                Standing::Invalid => {
                    self.set_invalid(hash, &InvalidBlock::Field("parent"));
                    return;
                }
                Standing::Waiting(context) | Standing::Asked(context) | Standing::Valid(context) => {
                    let context = Arc::clone(context);
                    match self.check_against(&context, &block) {
                        Ok(child) => self.set(hash, Standing::Waiting(Arc::new(child))),
                        Err(reason) => {
                            self.set_invalid(hash, &reason);
                            return;
                        }
                    }
                }
            }
        }
        self.judge_unknowns(hash);
        let children: Vec<_> = self
            .tree
            .iter()
            .filter(|(_, e)| e.block.header.parent == hash && matches!(e.standing, Standing::Orphan(_)))
            .map(|(hash, _)| *hash)
            .collect();
        for child in children {
            self.judge(child);
            self.maybe_prepare(child);
        }
        self.finalize_due = true;
    }

    /// Whether an unknown parent is worth asking for: not if it would have to stand beside the final chain, nor if ranges
    /// of final blocks lead there faster, as they do unless nothing becomes final.
    fn fetches_parent(&self, block: &SealedBlock) -> bool {
        let (height, head) = (block.header.height.0, self.head.height.0);
        let no_ranges = self.finalized_at.plus(2 * self.config.rules.params().leader_timeout_ms) <= self.now;
        head + 1 < height && (height <= head + SYNC_DISTANCE || no_ranges)
    }

    /// Everything that the block and its ancestors alone decide.
    fn check_against(&mut self, parent: &ChainContext, block: &SealedBlock) -> Result<ChainContext, InvalidBlock> {
        let rules = Arc::clone(&self.config.rules);
        let child = parent.child_with(&rules, block, &self.bugs)?;
        for (certificate, committee) in certificates(parent, block) {
            self.verify_cached(certificate, committee)?;
        }
        let handed_over;
        let base = if child.epoch == parent.epoch {
            parent
        } else {
            handed_over = parent.hand_over(&rules);
            &handed_over
        };
        for (i, (ready, key)) in readiness(base, block).enumerate() {
            let digest = Ready::digest(
                &rules.signing,
                ready.epoch,
                &ready.node,
                &base.next_committee.members_root(),
                &ready.keys,
            );
            if !key.is_some_and(|key| self.config.scheme.verify(&key, &digest, &ready.signature)) {
                return Err(InvalidBlock::SystemItem(i));
            }
        }
        Ok(child)
    }

    /// What depends on this node's clock or its own execution: waits until it is known.
    fn judge_unknowns(&mut self, hash: BlockHash) {
        let Some(entry) = self.tree.get(&hash) else { return };
        let Standing::Waiting(context) = &entry.standing else { return };
        let (block, context) = (Arc::clone(&entry.block), Arc::clone(context));
        let vouched = self.is_vouched(&hash, block.header.view);
        for result in &block.header.results {
            match self.results.get(&result.height) {
                Some(own) if own == result || self.bugs.planted(Bug::ResultsUnchecked) => {}
                Some(own) => {
                    let reason = InvalidBlock::WrongResult(result.height);
                    if vouched {
                        let text = diverged(result, own);
                        self.emit(Effect::Fatal(text));
                    }
                    self.set_invalid(hash, &reason);
                    return;
                }
                None if vouched => {}
                None if self.bugs.planted(Bug::UnknownInvalid) => {
                    self.set_invalid(hash, &InvalidBlock::WrongResult(result.height));
                    return;
                }
                None => {
                    self.waiting.insert(hash);
                    return;
                }
            }
        }
        if vouched {
            self.set(hash, Standing::Valid(context));
            return;
        }
        if self.covering(&block).is_none() {
            self.waiting.insert(hash);
            return;
        }
        if block.header.timestamp > self.now.plus(self.config.rules.params().future_drift_ms) {
            self.waiting.insert(hash);
            return;
        }
        self.ask(hash, &block, &context);
    }

    /// The skip certificates that a block rests on and does not carry; none if this node does not have all of them.
    pub(super) fn covering(&self, block: &SealedBlock) -> Option<Vec<Record>> {
        let Some((mut open, end)) = uncovered(&self.config.rules, block) else { return Some(Vec::new()) };
        let mut found = Vec::new();
        while open < end {
            let term = self.term(open);
            let (first, last) = (term.first_view(self.per_term()), term.last_view(self.per_term()));
            let skip = self.views.range(first..=open).find_map(|(_, state)| state.skipped.as_ref())?;
            found.push(Record::Certificate(Arc::clone(skip)));
            open = last.next();
        }
        Some(found)
    }

    /// Asks the application about the content, once the parent's content is known to be valid.
    fn ask(&mut self, hash: BlockHash, block: &Arc<SealedBlock>, context: &Arc<ChainContext>) {
        let parent = match self.tree.get(&block.header.parent).map(|e| &e.standing) {
            Some(Standing::Valid(parent)) => Arc::clone(parent),
            Some(Standing::Invalid) => {
                self.set_invalid(hash, &InvalidBlock::Field("parent"));
                return;
            }
            _ => {
                self.waiting.insert(hash);
                return;
            }
        };
        if block.header.kind == HeaderKind::Filler {
            // A filler has no content; its base fee is its parent's.
            let same = block.header.base_fee == parent.base_fee;
            if same {
                self.set(hash, Standing::Valid(Arc::clone(context)));
                self.maybe_prepare(hash);
            } else {
                self.set_invalid(hash, &InvalidBlock::Field("base fee"));
            }
            return;
        }
        // Content is judged on the state at the newest result that the chain carries. A final header may say it before
        // this node has computed it; asked then, the application could not answer.
        if self.executed < context.last_result {
            self.waiting.insert(hash);
            return;
        }
        let Some(ancestors) = self.ancestors(&parent, context.last_result) else {
            self.waiting.insert(hash);
            return;
        };
        let request = BuildRequest {
            view: block.header.view,
            epoch: block.header.epoch,
            height: block.header.height,
            timestamp: block.header.timestamp,
            may_carry_content: true,
            state_height: context.last_result,
            ancestors,
            parent,
            frame: Body::default(),
        };
        if self.bugs.planted(Bug::ContentUnchecked) {
            self.set(hash, Standing::Valid(Arc::clone(context)));
            self.maybe_prepare(hash);
            return;
        }
        self.set(hash, Standing::Asked(Arc::clone(context)));
        self.emit(Effect::Validate(Arc::clone(block), Box::new(request)));
    }

    pub(super) fn on_validated(&mut self, hash: BlockHash, verdict: Verdict, da: DaCommitment) {
        let Some(Entry { standing: Standing::Asked(context), block }) = self.tree.get(&hash) else { return };
        let (context, block) = (Arc::clone(context), Arc::clone(block));
        let header = &block.header;
        let encoded = !header.has_square(self.config.rules.params()) || header.da == da;
        let verdict = match verdict {
            Verdict::Valid if !encoded && !self.bugs.planted(Bug::CommitmentUnchecked) => {
                Verdict::Invalid(format!("it commits to {:?}, its body makes {da:?}", header.da))
            }
            verdict => verdict,
        };
        match verdict {
            Verdict::Valid => {
                self.set(hash, Standing::Valid(context));
                self.maybe_prepare(hash);
            }
            Verdict::Invalid(reason) if self.is_vouched(&hash, block.header.view) => {
                self.emit(Effect::Fatal(format!("a quorum prepared block {hash}, whose content is invalid: {reason}")));
            }
            Verdict::Invalid(reason) => self.set_invalid(hash, &InvalidBlock::Content(reason)),
        }
    }

    pub(super) fn on_executed(&mut self, result: ResultEntry) {
        if let Some(claimed) = self.claimed.remove(&result.height)
            && claimed != result
        {
            self.emit(Effect::Fatal(diverged(&claimed, &result)));
            return;
        }
        self.executed = self.executed.max(result.height);
        if result.height > self.head.last_result {
            self.results.insert(result.height, result);
        }
    }

    /// Looks again at blocks that waited for a result, the clock or their parent.
    pub(super) fn recheck_waiting(&mut self) {
        loop {
            let before = self.waiting.len();
            let ready: Vec<BlockHash> = self.waiting.iter().filter(|hash| self.is_ripe(hash)).copied().collect();
            for hash in ready {
                self.waiting.remove(&hash);
                self.judge_unknowns(hash);
            }
            // One that became valid may be what another waits for.
            if self.waiting.len() >= before {
                return;
            }
        }
    }

    fn is_ripe(&self, hash: &BlockHash) -> bool {
        let Some(entry) = self.tree.get(hash) else { return true };
        let header = &entry.block.header;
        let executed = entry.standing.context().is_none_or(|context| context.last_result <= self.executed);
        let parent = self.tree.get(&header.parent).map(|e| &e.standing);
        matches!(parent, Some(Standing::Valid(_) | Standing::Invalid))
            && (executed || header.kind == HeaderKind::Filler)
            && self.covering(&entry.block).is_some()
            && header.results.iter().all(|r| self.results.contains_key(&r.height))
            && header.timestamp <= self.now.plus(self.config.rules.params().future_drift_ms)
    }

    /// When the clock lets a waiting block be judged.
    pub(super) fn next_ripe(&self) -> Option<TimestampMs> {
        let drift = self.config.rules.params().future_drift_ms;
        let times = self.waiting.iter().filter_map(|hash| self.tree.get(hash)).map(|e| e.block.header.timestamp);
        times.map(|t| t.minus(drift)).filter(|t| *t > self.now).min()
    }

    /// Whether this node knows that a quorum prepared or committed the block of this hash and view.
    pub(super) fn is_vouched(&self, hash: &BlockHash, view: View) -> bool {
        self.views.get(&view).is_some_and(|state| {
            [&state.prepared, &state.committed].into_iter().flatten().any(|c| c.target.block == *hash)
        })
    }

    /// A quorum vouches for a block: it is valid whatever this node could find out by itself.
    pub(super) fn vouch(&mut self, hash: BlockHash) {
        match self.tree.get(&hash).map(|e| e.standing.clone()) {
            Some(Standing::Orphan(_)) => self.judge(hash),
            Some(Standing::Waiting(_)) => {
                self.waiting.remove(&hash);
                self.judge_unknowns(hash);
            }
            Some(Standing::Asked(context)) => self.set(hash, Standing::Valid(context)),
            Some(Standing::Invalid) => {
                self.emit(Effect::Fatal(format!("a quorum prepared block {hash}, which this node found invalid")));
            }
            Some(Standing::Valid(_)) | None => {}
        }
    }

    pub(super) fn set(&mut self, hash: BlockHash, standing: Standing) {
        if let Some(entry) = self.tree.get_mut(&hash) {
            entry.standing = standing;
        }
    }

    pub(super) fn set_invalid(&mut self, hash: BlockHash, reason: &InvalidBlock) {
        let Some(entry) = self.tree.get(&hash) else { return };
        let view = entry.block.header.view;
        if self.is_vouched(&hash, view) {
            self.emit(Effect::Fatal(format!("a quorum prepared block {hash}, which is invalid: {reason}")));
        }
        tracing::warn!(%hash, %view, %reason, "invalid block");
        if let Some(entry) = self.tree.get_mut(&hash) {
            // Its body is of no use any more, and could be large.
            let header = entry.block.header.clone();
            let block = Arc::new(SealedBlock::new(Block { header, body: Body::default() }));
            *entry = Entry { block, standing: Standing::Invalid };
        }
        let leader = self.epoch.leaders.of_view(view);
        let node = self.epoch.committee.members()[leader.index()].node;
        if self.views.get(&view).and_then(|v| v.proposal) == Some(hash) {
            self.misbehaved(node, "an invalid proposal");
            if view == self.view {
                self.skip(SkipReason::Invalid);
            }
        }
    }

    /// Votes Prepare for a valid proposal of the current view.
    pub(super) fn maybe_prepare(&mut self, hash: BlockHash) {
        let Some(entry) = self.tree.get(&hash) else { return };
        let view = entry.block.header.view;
        if view != self.view || entry.block.header.epoch != self.epoch.epoch {
            return;
        }
        if matches!(entry.standing, Standing::Invalid) {
            self.skip(SkipReason::Invalid);
            return;
        }
        let proposed = self.views.get(&view).is_some_and(|v| v.proposal == Some(hash));
        let free = proposed && !self.my_votes.contains_key(&(view, VoteKind::Prepare));
        if !matches!(entry.standing, Standing::Valid(_)) || !(free || self.bugs.planted(Bug::PrepareTwice)) {
            return;
        }
        let mut records = vec![Record::Block(Arc::clone(&entry.block))];
        records.extend(self.covering(&entry.block).unwrap_or_default());
        let target = VoteTarget::prepare(self.epoch.epoch, view, hash);
        if let Some(vote) = self.cast(target, &mut records) {
            self.emit(Effect::Broadcast(Message::Vote(vote, None)));
            self.count_vote(vote);
        }
    }

    /// Asks for a block: first the leader of `view`, who proposed it or one on it; then, while it does not come, others in turn,
    /// never all of them at once, since every one that has the block sends it whole. Whoever leads has no time to lose if the
    /// leader before keeps its block from it: it asks one after the other quickly.
    pub(super) fn request_block(&mut self, hash: BlockHash, view: View) {
        let leads = self.leads(self.view);
        let (times, overdue) =
            self.requested.get(&hash).map_or((0, true), |asked| (asked.times, self.again_at(asked, leads) <= self.now));
        if !overdue {
            return;
        }
        let proposer = self.epoch.leaders.of_view(view);
        let at_a_time = if leads { 1 } else { ASKED_AT_A_TIME };
        let targets = if times == 0 { vec![proposer] } else { self.to_ask(&hash, proposer, times, at_a_time) };
        let members = self.epoch.committee.members();
        let targets = targets.into_iter().map(|member| members[member.index()].node);
        let targets: Vec<NodeId> = targets.filter(|peer| *peer != self.config.node).collect();
        let now = self.now;
        let asked = self.requested.entry(hash).or_default();
        (asked.at, asked.times) = (now, times.saturating_add(1));
        asked.peers.extend(&targets);
        for peer in targets {
            self.emit(Effect::Send(peer, Message::GetBlock(hash)));
        }
    }

    /// Members that may have a block, for the so many-th time: those who signed its prepare certificate, if that is here. Where
    /// they are counted from is not for whoever made the block to choose.
    fn to_ask(&self, hash: &BlockHash, proposer: MemberIndex, times: u32, at_a_time: usize) -> Vec<MemberIndex> {
        let prepared = self.views.values().rev().filter_map(|s| s.prepared.as_ref()).find(|c| c.target.block == *hash);
        let members = (0..self.epoch.committee.members().len()).map(|i| MemberIndex(i as u16));
        let known: Vec<MemberIndex> = prepared.map_or_else(|| members.collect(), |c| c.signers.iter().collect());
        let others = known.iter().filter(|member| Some(**member) != self.epoch.me && **member != proposer);
        let others: Vec<MemberIndex> = others.copied().collect();
        let first = usize::from(self.config.node.0[0]) + times as usize * at_a_time;
        (0..at_a_time.min(others.len())).map(|i| others[(first + i) % others.len()]).collect()
    }

    /// The shortest time after which others ask for a block again.
    pub(super) fn request_pause(&self) -> u64 {
        (self.config.rules.params().leader_timeout_ms / 4).max(1)
    }

    /// When a block is asked for again.
    fn again_at(&self, asked: &Asked, leads: bool) -> TimestampMs {
        let pause = self.request_pause();
        asked.at.plus(if leads { (pause / 4).max(1) } else { pause })
    }

    /// When the next block that was asked for is overdue.
    pub(super) fn next_request(&mut self) -> Option<TimestampMs> {
        let leads = self.leads(self.view);
        // Not those that have no turn now; what is new must not wait for them.
        self.requested.values().map(|asked| self.again_at(asked, leads)).filter(|at| *at > self.now).min()
    }

    pub(super) fn tick_requests(&mut self) {
        let leads = self.leads(self.view);
        if self.requested.values().any(|asked| self.again_at(asked, leads) <= self.now) {
            self.request_missing();
        }
    }

    /// Asks for the blocks that certificates name and this node does not have, and for the parents of those it has.
    pub(super) fn request_missing(&mut self) {
        let certified = self.views.values().rev().flat_map(|s| [&s.committed, &s.prepared]).flatten();
        let certified = certified.map(|c| (c.target.block, c.target.view)).take(8);
        let fetched = |e: &&Entry| matches!(e.standing, Standing::Orphan(_)) && self.fetches_parent(&e.block);
        let parents = self.tree.values().filter(fetched).map(|e| (e.block.header.parent, e.block.header.view));
        let last = self.epoch_end.iter().map(|end| (end.base, end.certificate.target.view));
        let wanted = last.chain(certified).chain(parents);
        let missing: BTreeMap<BlockHash, View> = wanted.filter(|(hash, _)| !self.tree.contains_key(hash)).collect();
        self.requested.retain(|hash, _| missing.contains_key(hash));
        for (hash, view) in missing.into_iter().take(8) {
            self.request_block(hash, view);
        }
    }
}

pub(super) fn diverged(claimed: &ResultEntry, own: &ResultEntry) -> String {
    format!(
        "a quorum says that height {} has state root {} and receipts root {}, this node computed {} and {}",
        own.height, claimed.state_root, claimed.receipts_root, own.state_root, own.receipts_root
    )
}
