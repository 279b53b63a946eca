//! What makes a block a child of the chain up to its parent, and the context above it.

use std::sync::Arc;

use cascade_primitives::{
    Body, Certificate, Epoch, Header, HeaderKind, Height, MemberIndex, ResultEntry, SealedBlock, SystemItem,
    ThresholdKeys, TransactionRule, View, VoteKind, VoteTarget, block::MAX_SKIPS_PER_BLOCK,
};

use super::{ChainContext, InvalidBlock, Rules, filler_path};
use crate::{
    bugs::{Bug, Bugs, NoBugs},
    lineage::{Ancestor, Lineage},
};

impl ChainContext {
    /// Checks a block against the chain that this context stands for.
    ///
    /// # Errors
    /// The first rule that the block breaks. Certificates' signatures are left to [`super::certificates`].
    pub fn child(&self, rules: &Rules, block: &SealedBlock) -> Result<Self, InvalidBlock> {
        self.child_with(rules, block, &NoBugs)
    }

    pub(crate) fn child_with<B: Bugs>(
        &self,
        rules: &Rules,
        block: &SealedBlock,
        bugs: &B,
    ) -> Result<Self, InvalidBlock> {
        let header = &block.header;
        block.check_form(rules.params())?;
        let handed_over;
        let base = if header.epoch == self.epoch.next() && self.can_hand_over() {
            handed_over = self.hand_over(rules);
            &handed_over
        } else if header.epoch == self.epoch {
            self
        } else {
            return Err(InvalidBlock::Field("epoch"));
        };
        base.check_header(rules, header)?;
        base.check_place(rules, header, &block.body, bugs)?;
        let uncommitted = base.check_commit(&block.body)?;
        let carried = uncommitted.oldest().height;
        let (due, _) = base.due(rules, carried, header.kind);
        base.check_results(header, due)?;
        let ready = base.check_content(rules, header, &block.body, carried)?;
        let ready = base.misread(ready, bugs);
        Ok(base.extend(rules, block, due, ready, uncommitted))
    }

    fn check_header(&self, rules: &Rules, header: &Header) -> Result<(), InvalidBlock> {
        let kind = if self.ended { HeaderKind::Filler } else { HeaderKind::Block };
        let fields = [
            ("chain id", header.chain_id == rules.signing.chain_id),
            ("genesis hash", header.genesis_hash == rules.signing.genesis_hash),
            ("fork", header.fork == rules.signing.fork),
            ("kind", header.kind == kind),
            ("height", header.height == self.height.next()),
            ("parent", header.parent == self.hash),
            ("view", header.view > self.view),
            ("timestamp", header.timestamp > self.timestamp),
            ("committee root", header.committee_root == self.committee.root()),
            ("next committee root", header.next_committee_root == self.next_committee.root()),
            ("history root", header.history_root == self.history.root()),
        ];
        match fields.iter().find(|(_, holds)| !holds) {
            Some((name, _)) => Err(InvalidBlock::Field(name)),
            None if !self.has_room(kind) => Err(InvalidBlock::Fillers),
            None => Ok(()),
        }
    }

    /// The parent's certificate and the cover of the views between.
    fn check_place<B: Bugs>(&self, rules: &Rules, header: &Header, body: &Body, bugs: &B) -> Result<(), InvalidBlock> {
        // View 0 is the block that the epoch stands on: the old committee's certificate vouches for it.
        let wanted = (self.view > View(0)).then(|| VoteTarget::prepare(self.epoch, self.view, self.hash));
        if body.certificates.parent.as_ref().map(|c| c.target) != wanted && !bugs.planted(Bug::ParentUnchecked) {
            return Err(InvalidBlock::ParentCertificate);
        }
        if bugs.planted(Bug::GapUnchecked) {
            return Ok(());
        }
        let gap = || InvalidBlock::Gap { from: self.view.next(), to: header.view };
        let mut open = self.view.next();
        for skip in &body.certificates.skips {
            let VoteTarget { epoch, view, kind, .. } = skip.target;
            let last = view.term(rules.params().views_per_term).last_view(rules.params().views_per_term);
            if kind != VoteKind::Skip || epoch != self.epoch || open >= header.view || view > open || last < open {
                return Err(gap());
            }
            open = last.next();
        }
        // Where more terms were skipped than a block holds certificates for, it carries those of the first ones; the
        // rest is for the voters to know, see [`uncovered`].
        let full = body.certificates.skips.len() == MAX_SKIPS_PER_BLOCK;
        if open < header.view && !full { Err(gap()) } else { Ok(()) }
    }

    /// The blocks from the newest commit certificate on, if the one that the block carries is of an ancestor.
    fn check_commit(&self, body: &Body) -> Result<Lineage, InvalidBlock> {
        let first_of_epoch = self.view == View(0) && self.epoch > Epoch(0);
        let Some(commit) = &body.certificates.commit else {
            // The first block of an epoch proves that the old one ended.
            let plain = !first_of_epoch && body.certificates.fillers.is_empty();
            return if plain { Ok(self.uncommitted.clone()) } else { Err(InvalidBlock::CommitCertificate) };
        };
        if commit.target.kind != VoteKind::Commit {
            return Err(InvalidBlock::CommitCertificate);
        }
        if first_of_epoch {
            return self.check_handover(body, commit);
        }
        // One that the chain carries already is left out.
        let newer = self.uncommitted.from(&commit.target.block).filter(|l| l.oldest() != self.uncommitted.oldest());
        let lineage = newer.ok_or(InvalidBlock::CommitCertificate)?;
        let named = lineage.oldest();
        let same = named.view == commit.target.view && named.epoch == commit.target.epoch;
        if !same || !body.certificates.fillers.is_empty() {
            return Err(InvalidBlock::CommitCertificate);
        }
        Ok(lineage)
    }

    /// The commit certificate of the epoch's last block, or of a filler whose headers lead up to it.
    fn check_handover(&self, body: &Body, commit: &Certificate) -> Result<Lineage, InvalidBlock> {
        let last = *self.uncommitted.tip();
        let reached =
            filler_path(&last.hash, last.epoch, &body.certificates.fillers).ok_or(InvalidBlock::CommitCertificate)?;
        let view = body.certificates.fillers.last().map_or(last.view, |f| f.view);
        if commit.target != VoteTarget::commit(last.epoch, view, reached) {
            return Err(InvalidBlock::CommitCertificate);
        }
        Ok(Lineage::new(last))
    }

    fn check_results(&self, header: &Header, due: Height) -> Result<(), InvalidBlock> {
        let heights = header.results.iter().map(|r| r.height);
        let wanted = (self.last_result.0 + 1..=due.0).map(Height);
        if heights.eq(wanted) {
            Ok(())
        } else {
            let found = header.results.last().map_or(self.last_result, |r| r.height);
            Err(InvalidBlock::Results { found, due })
        }
    }

    /// Transactions and system items; answers who became ready.
    fn check_content(
        &self,
        rules: &Rules,
        header: &Header,
        body: &Body,
        carried: Height,
    ) -> Result<Vec<(MemberIndex, ThresholdKeys)>, InvalidBlock> {
        let content = self.may_carry_content(rules, carried, header.kind);
        let empty = body.is_empty() && body.system.is_empty() && header.ordered_gas == 0;
        if !content && !empty {
            return Err(InvalidBlock::NotEmpty);
        }
        let mut found = Vec::new();
        for (i, item) in body.system.iter().enumerate() {
            // Whether what belongs to key generation counts is judged where the keys are made, by the final log alone.
            let SystemItem::Ready(ready) = item else {
                if !self.accepts_key_item(item) || body.system[..i].contains(item) {
                    return Err(InvalidBlock::SystemItem(i));
                }
                continue;
            };
            match self.accepts_ready(rules, ready) {
                Some(member) if found.iter().all(|(other, _)| *other != member) => found.push((member, ready.keys)),
                _ => return Err(InvalidBlock::SystemItem(i)),
            }
        }
        Ok(found)
    }

    /// What planted bugs make of who became ready.
    fn misread<B: Bugs>(
        &self,
        mut ready: Vec<(MemberIndex, ThresholdKeys)>,
        bugs: &B,
    ) -> Vec<(MemberIndex, ThresholdKeys)> {
        if bugs.planted(Bug::ReadinessUnasked) {
            let all = (0..self.next_committee.members().len() as u16).map(MemberIndex);
            return all.map(|member| (member, ThresholdKeys::default())).collect();
        }
        let first = self.ready.values().next().or_else(|| ready.first().map(|(_, keys)| keys)).copied();
        if let Some(first) = first.filter(|_| bugs.planted(Bug::KeysOfTheFirst)) {
            ready.iter_mut().for_each(|(_, keys)| *keys = first);
        }
        ready
    }

    fn extend(
        &self,
        rules: &Rules,
        block: &SealedBlock,
        due: Height,
        newly_ready: Vec<(MemberIndex, ThresholdKeys)>,
        uncommitted: Lineage,
    ) -> Self {
        let header = &block.header;
        let mut next = self.clone();
        next.hash = block.hash();
        next.height = header.height;
        next.view = header.view;
        next.timestamp = header.timestamp;
        next.kind = header.kind;
        next.base_fee = header.base_fee;
        next.ordered_gas = header.ordered_gas;
        next.last_result = due;
        next.uncommitted = uncommitted.push(Ancestor {
            epoch: header.epoch,
            view: header.view,
            height: header.height,
            hash: block.hash(),
            kind: header.kind,
        });
        next.ready.extend(newly_ready);
        // From the next header on, the next committee's root binds its keys.
        if let Some(keys) = next.agreed_keys().filter(|keys| keys != next.next_committee.threshold_keys()) {
            next.next_committee = Arc::new(next.next_committee.with_keys(keys));
        }
        if !block.body.is_empty() {
            next.last_content = header.height;
        }
        if header.kind == HeaderKind::Block {
            next.history.push(block.hash().into());
        }
        // Epoch 0 of an encrypted chain has no key and takes no envelopes: it is over as soon as its successor has one.
        let encrypted = rules.params().transactions == TransactionRule::Encrypted;
        if encrypted && next.epoch == Epoch(0) && next.next_is_ready() {
            next.content_end = next.content_end.min(header.height);
        }
        if header.height == next.content_end {
            next.settle_next_committee(rules);
        }
        next.ended = self.ended || next.last_result >= next.content_end;
        // Where the epoch's content ends is settled by the block there, below any header that carries its results.
        let made = |result: &&ResultEntry| result.height <= next.content_end && !result.beacon.is_zero();
        if let Some(last) = header.results.iter().rfind(made) {
            next.beacons.own = last.beacon;
        }
        next
    }
}
