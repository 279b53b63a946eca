//! Blocks that peers send: what is checked before anything of them is kept, and how much is kept unjudged.
//!
//! A block whose parent is not known cannot be judged; it waits as an *orphan*, and nothing that it says of its place has
//! been proved. So before it is kept:
//!
//! - its body is its header's ([`SealedBlock::has_its_body`]): its hash stands for all of it;
//! - it has the form that its own bytes show, which bounds its size, and its certificates are of the kind, epoch and
//!   views that they must be of, whatever the parent is;
//! - its height can be reached: every block of an epoch has a later view than its parent, so above the final head no
//!   chain rises by more blocks than views ([`Core::in_reach`]);
//! - its leader proposed it in its own turn; or this node asked for it by hash, because a quorum certified it or because
//!   it is the parent of an orphan, whose height and view it fits.
//!
//! Each orphan is on the account of the leader that brought it in, those that were fetched as its ancestors too. All of
//! them hold [`ORPHAN_BYTES`] at most; where that is exceeded, the leader with most gives way, so whoever floods is left
//! with the part that everybody else leaves him.

use super::*;
use cascade_primitives::block::FormError;

/// Bytes of all orphans.
const ORPHAN_BYTES: usize = 128 << 20;
/// Bytes that an orphan counts for at least, so that there are no more than 256 of them.
const LEAST_ORPHAN: usize = 512 << 10;

/// On whose account an orphan is held, and what it takes there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) origin: MemberIndex,
    pub(super) bytes: usize,
}

impl<B: Bugs> Core<B> {
    pub(super) fn on_proposal(&mut self, from: NodeId, block: Arc<SealedBlock>, vote: Vote) {
        let (epoch, view, hash) = (block.header.epoch, block.header.view, block.hash());
        if epoch == self.epoch.epoch.next() && self.is_whole(from, &block) {
            self.hand_over_by(Some(from), &block);
        }
        if epoch != self.epoch.epoch {
            self.on_other_epoch(from, epoch);
            return;
        }
        let expected = VoteTarget::prepare(epoch, view, hash);
        if vote.target != expected || self.epoch.committee.member(vote.signer).map(|m| m.node) != Some(from) {
            self.misbehaved(from, "a proposal without its leader's vote");
            return;
        }
        if view == View(0) || view < self.oldest_view() {
            return;
        }
        if self.epoch.leaders.of_view(view) != vote.signer {
            self.misbehaved(from, "a proposal out of turn");
            return;
        }
        if !self.tree.contains_key(&hash) && !self.takes_up(from, &block, vote) {
            return;
        }
        if !self.in_window(view) || epoch != self.epoch.epoch {
            return;
        }
        if block.header.height.0 > self.head.height.0 + SYNC_DISTANCE {
            self.emit(Effect::Behind(from));
        }
        let state = self.views.entry(view).or_default();
        let first = *state.proposal.get_or_insert(hash);
        self.silent.remove(&vote.signer);
        if first == hash || self.bugs.planted(Bug::PrepareTwice) {
            self.insert_block(&block, vote.signer);
            self.judge(hash);
            self.shed_orphans();
        }
        self.count_vote(vote);
        self.maybe_prepare(first);
        if self.bugs.planted(Bug::PrepareTwice) {
            self.maybe_prepare(hash);
        }
    }

    /// Checks what can be checked of a leader's new block alone, and learns from its certificates, which may lead to its
    /// view from far away.
    fn takes_up(&mut self, from: NodeId, block: &SealedBlock, vote: Vote) -> bool {
        if !self.is_whole(from, block) {
            return false;
        }
        if let Err(reason) = self.check_alone(block) {
            self.refuse(from, vote, &reason);
            return false;
        }
        if !self.in_reach(&block.header) {
            // Beside the final chain, or above all that could be built on it. No proof of a lie: this node's head may
            // have become final by a descendant that it does not have.
            self.count_vote(vote);
            return false;
        }
        if let Err(reason) = self.learn_from(block) {
            self.refuse(from, vote, &reason);
            return false;
        }
        true
    }

    /// A proposal that no parent could make valid. Nothing of it is kept; its view ends like that of every invalid one.
    fn refuse(&mut self, from: NodeId, vote: Vote, reason: &InvalidBlock) {
        let VoteTarget { view, block: hash, .. } = vote.target;
        tracing::warn!(%hash, %view, %reason, "invalid block");
        self.misbehaved(from, "an invalid proposal");
        if !self.in_window(view) {
            return;
        }
        let state = self.views.entry(view).or_default();
        if *state.proposal.get_or_insert(hash) == hash {
            state.refused = true;
        }
        self.count_vote(vote);
        self.skip_refused();
    }

    /// Skips the current view if what its leader proposed was refused.
    pub(super) fn skip_refused(&mut self) {
        if self.views.get(&self.view).is_some_and(|state| state.refused) {
            self.skip(SkipReason::Invalid);
        }
    }

    /// Whether a block from a peer is what its hash says: the hash is the header's alone. A header with another body says
    /// nothing of the block of that hash, which a quorum may want; so nothing of it is kept, and only the peer is blamed.
    fn is_whole(&mut self, from: NodeId, block: &SealedBlock) -> bool {
        if block.has_its_body() || self.bugs.planted(Bug::BodyRootUnchecked) {
            return true;
        }
        self.misbehaved(from, "a block with another body than its header's");
        false
    }

    /// What no parent can mend: the form, and certificates that can never be those of the place.
    fn check_alone(&self, block: &SealedBlock) -> Result<(), InvalidBlock> {
        match block.check_form(self.config.rules.params()) {
            Err(FormError::BodyRoot) if self.bugs.planted(Bug::BodyRootUnchecked) => {}
            form => form?,
        }
        let (header, carried) = (&block.header, &block.body.certificates);
        let parent = |c: &Certificate| {
            let VoteTarget { epoch, view, kind, block } = c.target;
            kind == VoteKind::Prepare && epoch == header.epoch && view < header.view && block == header.parent
        };
        if !carried.parent.as_ref().is_none_or(parent) && !self.bugs.planted(Bug::ParentUnchecked) {
            return Err(InvalidBlock::ParentCertificate);
        }
        let skip = |c: &Certificate| {
            c.target.kind == VoteKind::Skip && c.target.epoch == header.epoch && c.target.view < header.view
        };
        let cover = carried.skips.is_sorted_by(|a, b| a.target.view < b.target.view) && carried.skips.iter().all(skip);
        if !cover && !self.bugs.planted(Bug::GapUnchecked) {
            let from = carried.parent.as_ref().map_or(View(0), |c| c.target.view).next();
            return Err(InvalidBlock::Gap { from, to: header.view });
        }
        let commit = |c: &Certificate| {
            let older = c.target.epoch < header.epoch || c.target.view < header.view;
            c.target.kind == VoteKind::Commit && c.target.epoch <= header.epoch && older
        };
        if carried.commit.as_ref().is_none_or(commit) { Ok(()) } else { Err(InvalidBlock::CommitCertificate) }
    }

    /// Whether a chain from the final head can have a block of the current epoch at this height and view.
    fn in_reach(&self, header: &Header) -> bool {
        let above = header.height.0.checked_sub(self.head.height.0);
        let views = header.view.0.checked_sub(self.oldest_view().0);
        above.zip(views).is_some_and(|(above, views)| above > 0 && above <= views)
    }

    /// A block that the peer was asked for.
    pub(super) fn on_block(&mut self, from: NodeId, block: Arc<SealedBlock>) {
        let hash = block.hash();
        if self.requested.get(&hash).is_none_or(|asked| !asked.peers.contains(&from)) || !self.is_whole(from, &block) {
            return;
        }
        self.requested.remove(&hash);
        if self.tree.contains_key(&hash) {
            return;
        }
        if block.header.epoch == self.epoch.epoch.next() {
            self.hand_over_by(None, &block);
        }
        if block.header.epoch != self.epoch.epoch || block.header.height <= self.head.height {
            return;
        }
        let Some(origin) = self.wanted_by(&block) else { return };
        // Whoever sent it only answers: what is wrong in it is its leader's doing, and shows when it is judged.
        let _ = self.learn_from(&block);
        self.insert_block(&block, origin);
        self.judge(hash);
        self.maybe_prepare(hash);
        self.shed_orphans();
    }

    /// The leader for whose sake a block is wanted: its own if a quorum certified it, else that of an orphan whose parent
    /// it is. Orphans that cannot stand on it are invalid, and those that stand out of reach on it are given up, unless a
    /// quorum certified them.
    fn wanted_by(&mut self, block: &SealedBlock) -> Option<MemberIndex> {
        let (header, hash) = (&block.header, block.hash());
        if self.is_vouched(&hash, header.view) || self.epoch_end.as_ref().is_some_and(|end| end.base == hash) {
            return Some(self.epoch.leaders.of_view(header.view));
        }
        let (sound, near) = (self.check_alone(block).is_ok(), self.in_reach(header));
        let mut origin = None;
        for (child, above, held) in self.orphans_on(&hash) {
            let fits = above.height == header.height.next() && above.view > header.view;
            if !(sound && fits) {
                self.set_invalid(child, &InvalidBlock::Field("parent"));
            } else if near || self.is_vouched(&child, above.view) {
                origin.get_or_insert(held.origin);
            } else if !self.prepared_here(&child, above.view) {
                self.tree.remove(&child);
            }
        }
        origin
    }

    fn orphans_on(&self, parent: &BlockHash) -> Vec<(BlockHash, Header, Held)> {
        let orphans = self.tree.iter().filter_map(|(hash, entry)| match entry.standing {
            Standing::Orphan(held) if entry.block.header.parent == *parent => {
                Some((*hash, entry.block.header.clone(), held))
            }
            _ => None,
        });
        orphans.collect()
    }

    /// Answers with a block, if it is at hand and the peer has not had more than it can need.
    pub(super) fn on_get_block(&mut self, from: NodeId, hash: BlockHash) {
        let found = match self.tree.get(&hash) {
            Some(Entry { standing: Standing::Invalid, .. }) => None,
            Some(entry) => Some(Arc::clone(&entry.block)),
            None => self.recent.values().find(|b| b.hash() == hash).map(Arc::clone),
        };
        let Some(block) = found else { return };
        let window = (self.request_pause() / 2).max(1);
        if self.served.allows(from, hash, block.body.encoded_len(), self.now, window) {
            self.emit(Effect::Send(from, Message::Block(block)));
        }
    }

    /// Puts a block into the tree, unjudged, on the account of a leader.
    pub(super) fn insert_block(&mut self, block: &Arc<SealedBlock>, origin: MemberIndex) {
        self.tree.entry(block.hash()).or_insert_with(|| {
            let held = Held { origin, bytes: block.body.encoded_len().max(LEAST_ORPHAN) };
            Entry { block: Arc::clone(block), standing: Standing::Orphan(held) }
        });
    }

    /// Drops orphans while they hold too much: of the leader on whose account most are held, the one of the latest view,
    /// which is furthest from what can be judged. Not those that this node prepared: it says that it has them.
    pub(super) fn shed_orphans(&mut self) {
        let mut held: BTreeMap<MemberIndex, (usize, BTreeSet<(View, BlockHash)>)> = BTreeMap::new();
        let mut total = 0;
        for (hash, entry) in &self.tree {
            if let Standing::Orphan(orphan) = entry.standing
                && !self.prepared_here(hash, entry.block.header.view)
            {
                let (bytes, blocks) = held.entry(orphan.origin).or_default();
                *bytes += orphan.bytes;
                blocks.insert((entry.block.header.view, *hash));
                total += orphan.bytes;
            }
        }
        while total > ORPHAN_BYTES {
            let (bytes, blocks) = held.values_mut().max_by_key(|(bytes, _)| *bytes).expect("something is held");
            let (_, hash) = blocks.pop_last().expect("who holds bytes holds a block");
            if let Some(Entry { standing: Standing::Orphan(orphan), .. }) = self.tree.remove(&hash) {
                *bytes -= orphan.bytes;
                total -= orphan.bytes;
            }
        }
    }

    /// Whether this node voted to prepare a block.
    pub(super) fn prepared_here(&self, hash: &BlockHash, view: View) -> bool {
        self.my_votes.get(&(view, VoteKind::Prepare)).is_some_and(|vote| vote.target.block == *hash)
    }

    /// Takes up the certificates inside a block, so that a node that fell behind enters the views they allow. At the first
    /// one that is wrong it ends: a block with a wrong certificate is invalid.
    fn learn_from(&mut self, block: &SealedBlock) -> Result<(), InvalidBlock> {
        let carried = &block.body.certificates;
        for certificate in carried.parent.iter().chain(&carried.skips).chain(&carried.commit) {
            let target = &certificate.target;
            if target.epoch == self.epoch.epoch && target.view >= self.oldest_view() && !self.knows(target) {
                let committee = Arc::clone(&self.epoch.committee);
                self.verify_cached(certificate, &committee)?;
                self.learn(Arc::new(certificate.clone()));
            }
        }
        Ok(())
    }
}
