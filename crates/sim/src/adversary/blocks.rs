//! Blocks that break a rule.

use cascade_primitives::{BlsSignature, NodeId, Ready, SystemItem, ThresholdKeys};

use super::*;

impl Adversary {
    /// The block with one rule broken.
    pub(super) fn broken(&mut self, block: &SealedBlock) -> Option<SealedBlock> {
        if self.rng.permille(400)
            && let Some(fork) = self.fork_block(block)
        {
            return Some(fork);
        }
        let mut b = Block { header: block.header.clone(), body: block.body.clone() };
        let certificates = &mut b.body.certificates;
        match self.rng.below(30) {
            0 => b.header.timestamp = TimestampMs(b.header.timestamp.0 / 2),
            1 => b.header.height = b.header.height.next(),
            2 => b.header.history_root.0[0] ^= 1,
            3 => b.header.committee_root.0[0] ^= 1,
            4 => b.header.parent.0[0] ^= 1,
            5 => b.header.genesis_hash.0[0] ^= 1,
            6 => b.header.fork = b.header.fork.next(),
            7 => b.header.version += 1,
            8 => b.header.da.root.0[0] ^= 1,
            9 => b.header.base_fee += 1,
            10 => b.header.body_root.0[0] ^= 1,
            11 | 22 | 23 => b.body.transactions.push(app::marked(self.rng.bits())),
            12 => {
                b.header.kind = match b.header.kind {
                    HeaderKind::Block => HeaderKind::Filler,
                    HeaderKind::Filler => HeaderKind::Block,
                };
            }
            13 | 24 | 25 | 26 => b.header.results.last_mut()?.state_root.0[0] ^= 1,
            14 => {
                let next = b.header.results.last().map_or(Height(1), |r| r.height.next());
                b.header.results.push(ResultEntry { height: next, ..ResultEntry::default() });
            }
            15..19 | 27 | 28 => {
                // The certificate of another block in place of the parent's.
                let old = self
                    .prepares
                    .iter()
                    .rev()
                    .find(|c| Some(c.target) != certificates.parent.as_ref().map(|p| p.target))?;
                certificates.parent.as_mut()?.clone_from(old);
            }
            20 => {
                certificates.parent.take()?;
            }
            21 => {
                // A skip that was superfluous, or none any more.
                let skip = certificates.skips.first().cloned()?;
                certificates.skips.push(skip);
            }
            19 => certificates.parent.as_mut()?.signature.0[0] ^= 1,
            _ => {
                certificates.skips.pop()?;
            }
        }
        if b.header.body_root == block.header.body_root {
            b.header.body_root = b.body.root();
        }
        if b.header.da == block.header.da && b.body != block.body {
            b.header.da = app::commitment(&b.body);
        }
        Some(SealedBlock::new(b))
    }

    /// The same header, and so the same hash, above a body that it does not commit to.
    pub(super) fn with_other_body(&mut self, block: &SealedBlock) -> Arc<SealedBlock> {
        let mut b = Block { header: block.header.clone(), body: block.body.clone() };
        let number = self.rng.bits();
        match self.rng.below(4) {
            0 => b.body.transactions.push(app::transaction(number)),
            1 => b.body.transactions.push(app::marked(number)),
            2 if b.body.certificates.parent.is_some() => b.body.certificates.parent = None,
            _ if !b.body.transactions.is_empty() => b.body.transactions.clear(),
            _ => b.body.system.push(SystemItem::Ready(Ready {
                epoch: b.header.epoch,
                node: NodeId([7; 32]),
                keys: ThresholdKeys::default(),
                signature: BlsSignature::ZERO,
            })),
        }
        Arc::new(SealedBlock::new(b))
    }

    /// It leads the view that it just entered. Before the votes for the last block can have made it final, it proposes
    /// one beside it.
    pub(crate) fn leads(&mut self, epoch: Epoch, view: View, place: MemberIndex, out: &mut Outgoing) {
        let Some(template) = self.template.clone().filter(|b| b.header.epoch == epoch && b.header.view < view) else {
            return;
        };
        if self.character.has(Fault::Silence) || !self.does(Fault::InvalidBlocks, 500) {
            return;
        }
        let mut block = Block { header: template.header.clone(), body: Default::default() };
        block.header.parent = template.hash();
        block.header.view = view;
        let Some(fork) = self.fork_block(&SealedBlock::new(block)) else { return };
        self.invalid.push(fork.hash());
        let vote = self.sign(VoteTarget::prepare(epoch, view, fork.hash()), place);
        let fork = Arc::new(fork);
        out.extend(self.others().map(|i| (i, Message::Proposal(Arc::clone(&fork), vote))));
    }

    /// A block like this one, but on an older block whose prepare certificate it knows: nothing covers the views
    /// between.
    pub(super) fn fork_block(&mut self, block: &SealedBlock) -> Option<SealedBlock> {
        let epoch = block.header.epoch;
        let mut candidates: Vec<_> = self
            .contexts
            .iter()
            .filter(|c| {
                c.epoch == epoch && c.hash != block.header.parent && !c.ended && c.view.next() < block.header.view
            })
            .filter_map(|c| {
                let certificate = self.prepares.iter().find(|p| p.target.block == c.hash && p.target.epoch == epoch)?;
                Some((Arc::clone(c), Arc::clone(certificate)))
            })
            .collect();
        if candidates.is_empty() {
            return None;
        }
        // Others have forgotten what is far below their head, so the newest make the best forks.
        candidates.sort_by_key(|(c, _)| c.view);
        let back = self.rng.below(3).min(self.rng.below(3)) as usize;
        let newest = (candidates.len() - 1).saturating_sub(back);
        let (parent, certificate) = candidates.swap_remove(newest);
        let (due, _) = parent.due(&self.rules, parent.carried_commit(), HeaderKind::Block);
        let results: Option<Vec<_>> =
            (parent.last_result.0 + 1..=due.0).map(|h| self.results.get(&Height(h)).copied()).collect();
        let mut b = Block { header: block.header.clone(), body: block.body.clone() };
        b.header.kind = HeaderKind::Block;
        b.header.height = parent.height.next();
        b.header.parent = parent.hash;
        b.header.timestamp = b.header.timestamp.max(parent.timestamp.next());
        b.header.committee_root = parent.committee.root();
        b.header.next_committee_root = parent.next_committee.root();
        b.header.history_root = parent.history_root();
        b.header.base_fee = parent.base_fee;
        b.header.ordered_gas = 0;
        b.header.results = results?;
        b.body = Default::default();
        b.body.certificates.parent = Some(certificate.as_ref().clone());
        b.header.body_root = b.body.root();
        b.header.da = app::commitment(&b.body);
        Some(SealedBlock::new(b))
    }
}
