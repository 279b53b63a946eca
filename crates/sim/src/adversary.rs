//! Byzantine nodes.
//!
//! A Byzantine node runs an ordinary core with its own key and is fed like every other node. What the core says passes
//! through the adversary, which withholds, changes and adds. It holds nobody's key but its own; everything else it
//! knows it has heard.

mod blocks;

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
/// Messages that it may say again.
const PAST: usize = 256;

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
    /// What it heard or said, to be said again.
    past: VecDeque<Message>,
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
            past: VecDeque::new(),
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
    pub(crate) fn outgoing(&mut self, targets: &[usize], message: Message, out: &mut Outgoing) {
        if self.character.has(Fault::Silence) {
            self.counts.add(Fault::Silence);
            return;
        }
        match &message {
            Message::Proposal(block, vote) if self.is_own(vote) => {
                let (block, vote) = (Arc::clone(block), *vote);
                if self.proposes_otherwise(&block, vote, out) {
                    return;
                }
            }
            Message::Block(_) if self.does(Fault::Withholding, 900) => return,
            Message::Block(block) if self.does(Fault::OtherBody, 500) => {
                let other = Message::Block(self.with_other_body(block));
                out.extend(targets.iter().map(|&target| (target, other.clone())));
                return;
            }
            _ => {}
        }
        for &target in targets {
            if !self.does(Fault::Selective, 350) {
                out.push((target, message.clone()));
            }
        }
        self.repeat(&message, out);
        if let Message::Vote(vote, _) = message
            && self.does(Fault::DoubleVotes, 500)
        {
            self.contradict(&vote, out);
        }
        if self.does(Fault::Forgery, 30) {
            self.forge(out);
        }
    }

    /// What it does with a block of its own, if not what its core wants.
    fn proposes_otherwise(&mut self, block: &Arc<SealedBlock>, vote: Vote, out: &mut Outgoing) -> bool {
        const TRICKS: [(Fault, u64); 5] = [
            (Fault::SilentLeader, 800),
            (Fault::Equivocation, 600),
            (Fault::InvalidBlocks, 800),
            (Fault::Withholding, 600),
            (Fault::OtherBody, 800),
        ];
        let known: Vec<_> = TRICKS.into_iter().filter(|(trick, _)| self.character.has(*trick)).collect();
        if known.is_empty() {
            return false;
        }
        let (trick, chance) = *self.rng.pick(&known);
        if !self.does(trick, chance) {
            return false;
        }
        match trick {
            Fault::Equivocation => self.equivocate(Arc::clone(block), vote, out),
            Fault::InvalidBlocks => self.propose_invalid(block, vote, out),
            Fault::Withholding => self.withhold(block, vote, out),
            Fault::OtherBody => self.swap_bodies(block, vote, out),
            _ => {}
        }
        true
    }

    /// Some get the block, everybody the vote for it.
    fn withhold(&mut self, block: &Arc<SealedBlock>, vote: Vote, out: &mut Outgoing) {
        let share = self.rng.below(1000);
        for node in self.others() {
            let whole = self.rng.permille(share);
            out.push((
                node,
                if whole { Message::Proposal(Arc::clone(block), vote) } else { Message::Vote(vote, None) },
            ));
        }
    }

    /// All get the same header and the vote for it, but some with another body; now and then as if they had asked for it.
    fn swap_bodies(&mut self, block: &Arc<SealedBlock>, vote: Vote, out: &mut Outgoing) {
        let share = self.rng.below(700);
        for node in self.others() {
            if self.rng.permille(share) {
                out.push((node, Message::Proposal(Arc::clone(block), vote)));
                continue;
            }
            let other = self.with_other_body(block);
            let unasked = self.rng.permille(200);
            out.push((node, if unasked { Message::Block(other) } else { Message::Proposal(other, vote) }));
        }
    }

    /// Remembers what it says or hears, and says something old now and then.
    fn repeat(&mut self, message: &Message, out: &mut Outgoing) {
        if !self.character.has(Fault::Stale) {
            return;
        }
        // Of others it can only pass on what proves itself; what they voted counts from them alone.
        if !matches!(message, Message::GetBlock(_) | Message::Block(_)) && self.rng.permille(200) {
            if self.past.len() == PAST {
                let forgotten = self.rng.below(PAST as u64) as usize;
                self.past.remove(forgotten);
            }
            self.past.push_back(message.clone());
        }
        if !self.past.is_empty() && self.does(Fault::Stale, 50) {
            let old = self.past[self.rng.below(self.past.len() as u64) as usize].clone();
            let one = self.rng.permille(500).then(|| self.rng.below(self.nodes as u64) as usize);
            let nodes = self.others().filter(|node| one.is_none_or(|one| one == *node));
            out.extend(nodes.map(|node| (node, old.clone())));
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
            other.header.da = app::commitment(&other.body);
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
        if matches!(message, Message::Certificate(_) | Message::EpochEnd(..)) && !self.character.has(Fault::Silence) {
            self.repeat(message, out);
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
}
