//! Byzantine nodes.
//!
//! A Byzantine node runs an ordinary core with its own key and is fed like every other node. What the core says passes
//! through the adversary, which withholds, changes and adds. It holds nobody's key but its own; everything else it
//! knows it has heard.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use cascade_consensus::{ChainContext, Message, Rules, SyncResponse};
use cascade_crypto::{VoteScheme, VoteSigner};
use cascade_primitives::{
    Block, BlockHash, Certificate, Epoch, HeaderKind, Height, MemberIndex, ResultEntry, SealedBlock, SignerSet,
    TimestampMs, View, Vote, VoteKind, VoteTarget,
};

use crate::{
    app,
    faults::{Fault, FaultCounts},
    plan::Character,
    rng::Rng,
};

/// Contexts and certificates that it remembers.
const MEMORY: usize = 12;

/// What a Byzantine node sends: to whom, and what.
pub(crate) type Outgoing = Vec<(usize, Message)>;

#[derive(Debug)]
pub(crate) struct Adversary {
    me: usize,
    nodes: usize,
    character: Character,
    signer: Arc<dyn VoteSigner>,
    scheme: Arc<dyn VoteScheme>,
    rules: Arc<Rules>,
    rng: Rng,
    contexts: VecDeque<Arc<ChainContext>>,
    prepares: VecDeque<Arc<Certificate>>,
    results: BTreeMap<Height, ResultEntry>,
    /// The other block of a view in which it proposed two.
    twins: BTreeMap<(Epoch, View), (Arc<SealedBlock>, Vote)>,
    /// What it voted for because it heard of it.
    answered: VecDeque<VoteTarget>,
    /// The newest proposal that it heard of.
    template: Option<Arc<SealedBlock>>,
    /// Blocks that break a rule, since the last time somebody asked.
    pub(crate) invalid: Vec<BlockHash>,
    pub(crate) counts: FaultCounts,
}

impl Adversary {
    pub(crate) fn new(
        me: usize,
        nodes: usize,
        character: Character,
        signer: Arc<dyn VoteSigner>,
        scheme: Arc<dyn VoteScheme>,
        rules: Arc<Rules>,
        rng: Rng,
    ) -> Self {
        Self {
            me,
            nodes,
            character,
            signer,
            scheme,
            rules,
            rng,
            contexts: VecDeque::new(),
            prepares: VecDeque::new(),
            results: BTreeMap::new(),
            twins: BTreeMap::new(),
            answered: VecDeque::new(),
            template: None,
            invalid: Vec::new(),
            counts: FaultCounts::default(),
        }
    }

    fn does(&mut self, fault: Fault, permille: u64) -> bool {
        let does = self.character.has(fault) && self.rng.permille(permille);
        if does {
            self.counts.add(fault);
        }
        does
    }

    /// What it answers in place of the truth; none for silence.
    pub(crate) fn answer(&mut self, truth: SyncResponse) -> Option<SyncResponse> {
        if self.character.has(Fault::Silence) {
            return None;
        }
        if !self.does(Fault::LyingSync, 700) {
            return Some(truth);
        }
        let kind = self.rng.below(5);
        match truth {
            _ if kind == 0 => None,
            _ if kind == 1 => Some(SyncResponse::Nothing),
            SyncResponse::Headers(mut headers, mut finality) => {
                let at = self.rng.below(headers.len() as u64) as usize;
                match kind {
                    2 => headers[at].timestamp = headers[at].timestamp.next(),
                    3 => {
                        headers.pop();
                    }
                    _ => {
                        let mut certificate = finality.certificate.as_ref().clone();
                        certificate.signature.0[3] ^= 1;
                        finality.certificate = Arc::new(certificate);
                    }
                }
                Some(SyncResponse::Headers(headers, finality))
            }
            SyncResponse::Bodies(mut bodies) => {
                let at = self.rng.below(bodies.len() as u64) as usize;
                if kind == 2 {
                    bodies.clear();
                } else {
                    bodies[at].transactions.push(app::marked(1));
                }
                Some(SyncResponse::Bodies(bodies))
            }
            SyncResponse::Nothing => None,
        }
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let me = self.me;
        (0..self.nodes).filter(move |&i| i != me)
    }

    /// A chain that its core knows to be valid.
    pub(crate) fn learn_context(&mut self, context: &Arc<ChainContext>) {
        if self.contexts.iter().all(|c| c.hash != context.hash) {
            self.contexts.push_back(Arc::clone(context));
            if self.contexts.len() > MEMORY {
                self.contexts.pop_front();
            }
        }
    }

    pub(crate) fn learn_result(&mut self, result: ResultEntry) {
        self.results.insert(result.height, result);
        if self.results.len() > 64 {
            self.results.pop_first();
        }
    }

    fn learn_certificate(&mut self, certificate: &Certificate) {
        if certificate.target.kind == VoteKind::Prepare && self.prepares.iter().all(|c| c.target != certificate.target)
        {
            self.prepares.push_back(Arc::new(certificate.clone()));
            if self.prepares.len() > 4 * MEMORY {
                self.prepares.pop_front();
            }
        }
    }

    fn sign(&self, target: VoteTarget, signer: MemberIndex) -> Vote {
        Vote { target, signer, signature: self.signer.sign(&target.digest(&self.rules.signing)) }
    }

    /// What it sends in place of a message of its core to these nodes.
    pub(crate) fn outgoing(&mut self, to: Option<usize>, message: Message, out: &mut Outgoing) {
        if self.character.has(Fault::Silence) {
            self.counts.add(Fault::Silence);
            return;
        }
        let own = matches!(&message, Message::Proposal(_, vote) if self.is_own(vote));
        if let (true, Message::Proposal(block, vote)) = (own, &message) {
            if self.does(Fault::SilentLeader, 800) {
                return;
            }
            let (block, vote) = (Arc::clone(block), *vote);
            if self.does(Fault::Equivocation, 600) {
                self.equivocate(block, vote, out);
                return;
            }
            if self.does(Fault::InvalidBlocks, 800) {
                self.propose_invalid(&block, vote, out);
                return;
            }
        }
        let targets: Vec<usize> = match to {
            Some(one) => vec![one],
            None => self.others().collect(),
        };
        for target in targets {
            if !self.does(Fault::Selective, 350) {
                out.push((target, message.clone()));
            }
        }
        if let Message::Vote(vote, _) = message
            && self.does(Fault::DoubleVotes, 500)
        {
            self.contradict(&vote, out);
        }
        if self.does(Fault::Forgery, 30) {
            self.forge(out);
        }
    }

    /// Blocks with a rule broken: the same to everybody, or to everybody another one.
    fn propose_invalid(&mut self, block: &SealedBlock, vote: Vote, out: &mut Outgoing) {
        let VoteTarget { epoch, view, .. } = vote.target;
        let (same, others) = (self.rng.permille(500), self.others());
        let mut last = None;
        for node in others {
            if !same || last.is_none() {
                last = self.broken(block).or(last);
            }
            let Some(broken) = &last else { continue };
            self.invalid.push(broken.hash());
            let vote = self.sign(VoteTarget::prepare(epoch, view, broken.hash()), vote.signer);
            out.push((node, Message::Proposal(Arc::new(broken.clone()), vote)));
        }
    }

    fn is_own(&self, vote: &Vote) -> bool {
        let digest = vote.target.digest(&self.rules.signing);
        self.scheme.verify(&self.signer.public_key(), &digest, &vote.signature)
    }

    /// Two blocks for one view: some nodes get the one, some the other, some both.
    fn equivocate(&mut self, block: Arc<SealedBlock>, vote: Vote, out: &mut Outgoing) {
        let mut other = Block { header: block.header.clone(), body: block.body.clone() };
        other.header.timestamp = other.header.timestamp.next();
        if block.header.kind == HeaderKind::Block && !other.body.transactions.is_empty() && self.rng.permille(500) {
            other.body.transactions.pop();
            other.header.body_root = other.body.root();
        }
        let other = Arc::new(SealedBlock::new(other));
        let target = VoteTarget::prepare(vote.target.epoch, vote.target.view, other.hash());
        let other_vote = self.sign(target, vote.signer);
        let place = (target.epoch, target.view);
        self.twins.insert(place, (Arc::clone(&other), other_vote));
        if self.twins.len() > MEMORY {
            self.twins.pop_first();
        }
        let both = self.rng.below(3) * 150;
        for node in self.others() {
            let first = self.rng.permille(500);
            let both = self.rng.permille(both);
            if first || both {
                out.push((node, Message::Proposal(Arc::clone(&block), vote)));
            }
            if !first || both {
                out.push((node, Message::Proposal(Arc::clone(&other), other_vote)));
            }
        }
    }

    /// Votes that contradict one that it just cast.
    fn contradict(&mut self, vote: &Vote, out: &mut Outgoing) {
        let VoteTarget { epoch, view, kind, block } = vote.target;
        let mut targets = Vec::new();
        match kind {
            VoteKind::Prepare => {
                if let Some((other, _)) = self.twins.get(&(epoch, view)) {
                    targets.push(VoteTarget::prepare(epoch, view, other.hash()));
                }
                targets.push(VoteTarget::skip(epoch, view));
                targets.push(VoteTarget::commit(epoch, view, block));
            }
            VoteKind::Commit => targets.push(VoteTarget::skip(epoch, View(view.0 - self.rng.below(2).min(view.0 - 1)))),
            VoteKind::Skip => {
                let known: Vec<_> =
                    self.prepares.iter().filter(|c| c.target.epoch == epoch).map(|c| c.target).collect();
                targets.extend(known.iter().rev().take(3).map(|t| VoteTarget::commit(epoch, t.view, t.block)));
            }
        }
        for target in targets {
            let vote = self.sign(target, vote.signer);
            let recipients: Vec<usize> = self.others().collect();
            for node in recipients {
                if self.rng.permille(600) {
                    out.push((node, Message::Vote(vote, None)));
                }
            }
        }
    }

    /// Votes and certificates that prove nothing.
    fn forge(&mut self, out: &mut Outgoing) {
        let Some(real) = self.prepares.back().cloned() else { return };
        let mut target = real.target;
        match self.rng.below(4) {
            0 => target.view = target.view.next(),
            1 => target.kind = VoteKind::Commit,
            2 => target = VoteTarget::skip(target.epoch, target.view.next()),
            _ => target.epoch = target.epoch.next(),
        }
        let mut forged = Certificate { target, ..real.as_ref().clone() };
        if self.rng.permille(300) {
            // Its own signature alone, for everybody.
            forged.signature = self.signer.sign(&target.digest(&self.rules.signing));
            let mut all = SignerSet::new(forged.signers.committee_size());
            (0..all.committee_size() as u16).for_each(|i| {
                all.insert(MemberIndex(i));
            });
            forged.signers = all;
        }
        let node = self.rng.below(self.nodes as u64) as usize;
        if node == self.me {
            return;
        }
        if self.rng.permille(500) {
            out.push((node, Message::Certificate(Arc::new(forged))));
        } else {
            let signer = MemberIndex(self.rng.below(self.nodes as u64) as u16);
            out.push((node, Message::Vote(Vote { target, signer, signature: forged.signature }, None)));
        }
    }

    /// What it says besides, when it hears this. `place` is its index in the committee of `epoch`.
    pub(crate) fn incoming(&mut self, place: Option<MemberIndex>, epoch: Epoch, message: &Message, out: &mut Outgoing) {
        if let Message::Proposal(block, _) = message {
            self.template = Some(Arc::clone(block));
        }
        match message {
            Message::Certificate(certificate) => self.learn_certificate(certificate),
            Message::Proposal(block, _) | Message::Block(block) => {
                if let Some(parent) = &block.body.certificates.parent {
                    self.learn_certificate(&parent.clone());
                }
                block.header.results.iter().for_each(|r| self.learn_result(*r));
            }
            _ => {}
        }
        let Some(place) = place else { return };
        if self.character.has(Fault::Silence) {
            return;
        }
        let target = match message {
            // Prepares whatever is proposed, commits whatever is prepared.
            Message::Proposal(block, vote) if vote.target.epoch == epoch => {
                VoteTarget::prepare(epoch, vote.target.view, block.hash())
            }
            Message::Certificate(c) if c.target.kind == VoteKind::Prepare && c.target.epoch == epoch => {
                VoteTarget::commit(epoch, c.target.view, c.target.block)
            }
            _ => return,
        };
        if !self.answered.contains(&target) && self.does(Fault::DoubleVotes, 300) {
            self.answered.push_back(target);
            if self.answered.len() > 64 {
                self.answered.pop_front();
            }
            let vote = self.sign(target, place);
            out.extend(self.others().map(|i| (i, Message::Vote(vote, None))));
        }
    }

    /// The block with one rule broken.
    fn broken(&mut self, block: &SealedBlock) -> Option<SealedBlock> {
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
            8 => b.header.da.width = 1,
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
        Some(SealedBlock::new(b))
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
    fn fork_block(&mut self, block: &SealedBlock) -> Option<SealedBlock> {
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
        Some(SealedBlock::new(b))
    }
}
