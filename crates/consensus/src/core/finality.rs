//! Commit certificates, final blocks, and the handover from one epoch to the next.

use super::*;
use crate::context::filler_path;

impl<B: Bugs> Core<B> {
    pub(super) fn on_committed(&mut self, certificate: &Arc<Certificate>) {
        let hash = certificate.target.block;
        self.vouch(hash);
        if !self.tree.contains_key(&hash) {
            self.request_block(hash, certificate.target.view);
        }
        self.finalize_due = true;
    }

    /// Makes final what the newest commit certificate with a known chain allows.
    pub(super) fn try_finalize(&mut self) {
        if let Some(end) = self.epoch_end.take() {
            match self.tree.get(&end.base).and_then(|e| e.standing.context()).cloned() {
                Some(context) if context.can_hand_over() => {
                    self.finalize_epoch(&context, end.certificate, end.fillers);
                    return;
                }
                // Headers were kept back; the filler is certified all the same.
                Some(_) => self.learn(end.certificate),
                None => self.epoch_end = Some(end),
            }
        }
        let committed: Vec<_> = self.views.values().rev().filter_map(|s| s.committed.clone()).collect();
        for certificate in committed {
            let known = self.tree.get(&certificate.target.block).and_then(|e| e.standing.context()).cloned();
            if let Some(context) = known
                && (context.height > self.head.height || context.kind == HeaderKind::Filler)
                && context.epoch == self.epoch.epoch
            {
                self.finalize(&context, certificate);
                return;
            }
        }
    }

    /// Makes a block and its ancestors final.
    fn finalize(&mut self, context: &Arc<ChainContext>, certificate: Arc<Certificate>) {
        let mut path = Vec::new();
        let mut hash = context.hash;
        while hash != self.head.hash {
            let entry = self.tree.get(&hash).expect("a judged block's ancestors down to the head are in the tree");
            assert!(entry.block.header.height > self.head.height, "a commit certificate contradicts the final chain");
            path.push(entry.clone());
            hash = entry.block.header.parent;
        }
        path.reverse();
        let (blocks, fillers): (Vec<_>, Vec<_>) =
            path.into_iter().partition(|e| e.block.header.kind == HeaderKind::Block);
        let fillers: Vec<Header> = fillers.into_iter().map(|e| e.block.header.clone()).collect();
        let finality = Finality { certificate, fillers };
        for entry in blocks {
            let context = entry.standing.context().expect("an ancestor of a judged block is judged").clone();
            self.accept_final(entry.block, context, finality.clone());
        }
        self.head_finality = Some(finality);
        self.settle();
    }

    fn accept_final(&mut self, block: Arc<SealedBlock>, context: Arc<ChainContext>, finality: Finality) {
        let leader = self.epoch.leaders.of_view(context.view);
        let producer = self.epoch.committee.members()[leader.index()].address;
        self.finalized_at = self.now;
        self.skipped_terms = 0;
        for claimed in &block.header.results {
            match self.results.get(&claimed.height) {
                Some(own) if own != claimed => {
                    self.emit(Effect::Fatal(blocks::diverged(claimed, own)));
                }
                Some(_) => {}
                None => {
                    self.claimed.insert(claimed.height, *claimed);
                }
            }
        }
        // Whatever this node could not judge by itself: a final block is valid, and what stands on it can be judged.
        self.set(context.hash, Standing::Valid(Arc::clone(&context)));
        self.waiting.remove(&context.hash);
        self.recent.insert(context.height, Arc::clone(&block));
        self.head = Arc::clone(&context);
        let is_opened = ChainContext::is_opened(&self.config.rules, &block);
        self.emit(Effect::Finalized(Box::new(Finalized { block, context, producer, is_opened, finality })));
    }

    /// Drops what the new head made obsolete, and starts the next epoch if this one ended.
    fn settle(&mut self) {
        let head = Arc::clone(&self.head);
        let keep_from = head.last_result.0.min(head.height.0.saturating_sub(RECENT_BLOCKS));
        self.recent = self.recent.split_off(&Height(keep_from));
        self.results.retain(|height, _| *height > head.last_result);
        if head.can_hand_over() {
            self.start_epoch();
            return;
        }
        // What does not descend from the head is abandoned.
        let mut by_height: Vec<_> = self.tree.values().map(|e| (e.block.header.height, e.block.hash())).collect();
        by_height.sort_unstable();
        let mut kept = BTreeSet::from([head.hash]);
        for (height, hash) in by_height {
            let entry = &self.tree[&hash];
            let orphan = matches!(entry.standing, Standing::Orphan(_));
            if height > head.height && (orphan || kept.contains(&entry.block.header.parent)) {
                kept.insert(hash);
            }
        }
        self.tree.retain(|hash, _| kept.contains(hash));
        let oldest = self.oldest_view();
        self.views = self.views.split_off(&oldest);
        self.my_votes.retain(|(view, kind), _| *view >= oldest || *kind == VoteKind::Commit);
        while self.my_votes.len() > 64 && self.my_votes.first_key_value().is_some_and(|((v, _), _)| *v < oldest) {
            self.my_votes.pop_first();
        }
        // Statements get lost, and a chain that goes well has no stall on which they would be repeated.
        if self.announced_at.plus(self.config.rules.params().leader_timeout_ms) <= self.now {
            self.announce_ready();
        }
    }

    /// The head is the last block of its epoch: the next committee takes over. The old one makes nothing more.
    fn start_epoch(&mut self) {
        let head = Arc::clone(&self.head);
        let heard: Vec<_> = std::mem::take(&mut self.heard)
            .into_iter()
            .filter_map(|(member, at)| Some((self.epoch.committee.member(member)?.node, at)))
            .collect();
        self.epoch = EpochState::after(&self.config, &head, &self.bugs);
        // Who was heard of a moment ago is not away because the epoch changed.
        let next = &self.epoch.committee;
        self.heard = heard.into_iter().filter_map(|(node, at)| Some((next.index_of(&node)?, at))).collect();
        self.tree.retain(|hash, _| *hash == head.hash);
        self.views.clear();
        self.my_votes.clear();
        self.waiting.clear();
        self.silent.clear();
        self.cut_short.clear();
        self.readies.clear();
        self.requested.clear();
        self.epoch_end = None;
        self.building = None;
        self.busy_since = None;
        self.entry = None;
        self.view = View(1);
        self.entered = self.now;
        self.helped.clear();
        self.resends = 0;
        self.resend_at = self.now.plus(self.config.rules.params().leader_timeout_ms / 2);
        let epoch = self.epoch.epoch;
        self.emit(Effect::EnteredView(epoch, View(1)));
        self.unlogged_end.clone_from(&self.head_finality);
        if let Some(finality) = self.head_finality.clone() {
            self.emit(Effect::Broadcast(Message::EpochEnd(finality.certificate, finality.fillers)));
        }
        self.take_up_log();
    }

    pub(super) fn send_epoch_end(&mut self, to: NodeId) {
        let pause = self.config.rules.params().leader_timeout_ms / 4;
        if self.told_end.get(&to).is_some_and(|at| at.plus(pause) > self.now) {
            return;
        }
        if self.head.can_hand_over()
            && let Some(finality) = self.head_finality.clone()
        {
            // The headers of fillers can be many; not for every old vote that comes in.
            let now = self.now;
            self.told_end.retain(|_, at| at.plus(pause) > now);
            self.told_end.insert(to, now);
            self.emit(Effect::Send(to, Message::EpochEnd(finality.certificate, finality.fillers)));
        }
    }

    /// Something of another epoch arrived.
    pub(super) fn on_other_epoch(&mut self, from: NodeId, epoch: Epoch) {
        if epoch < self.epoch.epoch {
            self.send_epoch_end(from);
        } else {
            self.emit(Effect::Behind(from));
        }
    }

    /// The end of the current epoch, proved by a commit certificate of its last block or of a filler above it.
    pub(super) fn on_epoch_end(&mut self, from: NodeId, certificate: Arc<Certificate>, fillers: Vec<Header>) {
        if certificate.target.epoch != self.epoch.epoch || certificate.target.kind != VoteKind::Commit {
            return;
        }
        let base = fillers.first().map_or(certificate.target.block, |f| f.parent);
        let reached = filler_path(&base, self.epoch.epoch, &fillers);
        if reached != Some(certificate.target.block) {
            self.misbehaved(from, "filler headers that do not chain");
            return;
        }
        if !self.certifies(Some(from), &certificate) {
            return;
        }
        if self.tree.get(&base).is_none_or(|e| e.standing.context().is_none()) {
            self.emit(Effect::Behind(from));
        }
        self.take_epoch_end(certificate, fillers);
    }

    /// Takes up a proof that the epoch ended, from a peer or from the log. It ends once the last block is judged.
    pub(super) fn take_epoch_end(&mut self, certificate: Arc<Certificate>, fillers: Vec<Header>) {
        let Some(lowest) = fillers.first() else {
            self.learn(certificate);
            return;
        };
        // Whoever sends fewer headers than there are makes the certificate useless to this node; one that reaches
        // further down is never given up for it.
        if self.epoch_end.as_ref().is_none_or(|end| lowest.height < end.fillers[0].height) {
            let base = lowest.parent;
            if !self.tree.contains_key(&base) {
                self.request_block(base, certificate.target.view);
            }
            self.epoch_end = Some(EpochEnd { base, certificate, fillers });
            self.finalize_due = true;
        }
    }

    /// The first block of the next epoch proves that this one ended. `from` is who answers for it, if anybody does.
    pub(super) fn hand_over_by(&mut self, from: Option<NodeId>, block: &SealedBlock) {
        let Some(context) = self.tree.get(&block.header.parent).and_then(|e| e.standing.context()).cloned() else {
            return;
        };
        let carried = &block.body.certificates;
        let Some(commit) = carried.commit.clone() else { return };
        if !context.can_hand_over() || context.epoch != self.epoch.epoch {
            return;
        }
        let view = carried.fillers.last().map_or(context.view, |f| f.view);
        let Some(reached) = filler_path(&context.hash, context.epoch, &carried.fillers) else { return };
        if commit.target == VoteTarget::commit(context.epoch, view, reached) && self.certifies(from, &commit) {
            self.finalize_epoch(&context, Arc::new(commit), carried.fillers.clone());
        }
    }

    pub(super) fn finalize_epoch(
        &mut self,
        context: &Arc<ChainContext>,
        certificate: Arc<Certificate>,
        fillers: Vec<Header>,
    ) {
        let mut path = Vec::new();
        let mut hash = context.hash;
        while hash != self.head.hash {
            let entry = self.tree.get(&hash).expect("a judged block's ancestors down to the head are in the tree");
            path.push(entry.clone());
            hash = entry.block.header.parent;
        }
        let finality = Finality { certificate, fillers };
        for entry in path.into_iter().rev() {
            let context = entry.standing.context().expect("an ancestor of a judged block is judged").clone();
            self.accept_final(entry.block, context, finality.clone());
        }
        self.head_finality = Some(finality);
        self.settle();
    }

    /// Final blocks from a peer. All of it is checked: the chain of hashes, the certificate that closes it, and what
    /// each block proves. The first two are the peer's word; after them a quorum vouches for every byte, so a block
    /// that breaks a rule shows that this node follows other rules than the quorum, and it stops.
    pub(super) fn on_final_range(&mut self, from: NodeId, blocks: Vec<Arc<SealedBlock>>, finality: Finality) {
        let above: Vec<_> = blocks.into_iter().filter(|b| b.header.height > self.head.height).collect();
        let Some(last) = above.last() else { return };
        let (epoch, view) = match finality.fillers.last() {
            Some(filler) => (filler.epoch, filler.view),
            None => (last.header.epoch, last.header.view),
        };
        let reached = filler_path(&last.hash(), epoch, &finality.fillers);
        let target = finality.certificate.target;
        let closed = reached.is_some_and(|hash| target == VoteTarget::commit(epoch, view, hash));
        let committee = Arc::clone(&self.epoch.committee);
        if !closed || epoch != self.epoch.epoch || self.verify_cached(&finality.certificate, &committee).is_err() {
            self.misbehaved(from, "final blocks without a right certificate");
            return;
        }
        let mut below = self.head.hash;
        for block in &above {
            let header = &block.header;
            if header.parent != below || header.epoch != epoch || header.kind != HeaderKind::Block {
                self.misbehaved(from, "final blocks that do not chain");
                return;
            }
            below = block.hash();
        }
        let rules = Arc::clone(&self.config.rules);
        let mut contexts = Vec::with_capacity(above.len());
        let mut parent = Arc::clone(&self.head);
        for block in &above {
            match parent.child_with(&rules, block, &self.bugs) {
                Ok(child) => parent = Arc::new(child),
                Err(_) if block.header.body_root != block.body.root() => {
                    self.misbehaved(from, "a final block with another body");
                    return;
                }
                Err(reason) => {
                    let (height, hash) = (block.header.height, block.hash());
                    self.emit(Effect::Fatal(format!(
                        "a quorum made block {height} {hash} final, which is invalid here: {reason}; this node's genesis \
                         file or version differs from the others'"
                    )));
                    return;
                }
            }
            contexts.push(Arc::clone(&parent));
        }
        for (block, context) in above.iter().zip(&contexts) {
            self.tree.insert(
                block.hash(),
                Entry { block: Arc::clone(block), standing: Standing::Valid(Arc::clone(context)) },
            );
            self.accept_final(Arc::clone(block), Arc::clone(context), finality.clone());
        }
        self.head_finality = Some(finality.clone());
        self.settle();
        self.catch_up_view(finality.certificate);
        self.learn_finality();
    }

    /// After catching up within an epoch: votes and proposals from the head's view on matter.
    fn catch_up_view(&mut self, certificate: Arc<Certificate>) {
        if self.head.epoch == self.epoch.epoch && self.view <= self.head.view {
            self.enter(self.head.view.next(), Arc::clone(&certificate));
            self.entry = None;
        }
        let waiting: Vec<_> = self.tree.keys().copied().collect();
        for hash in waiting {
            self.judge(hash);
        }
    }
}
