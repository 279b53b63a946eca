//! Keys and reveals: what goes into a node's party, and what it wants done.

use std::collections::BTreeMap;

use cascade_consensus::{BuildRequest, BuiltBlock, Verdict};
use cascade_crypto::{BlsSecretKey, bugs::SealedBug};
use cascade_mempool::reveal::RevealMessage;
use cascade_primitives::{BlockHash, Bytes, Encode as _, SystemItem, VoteKind};

use super::*;
use crate::{
    report::Revealed,
    sealed::{
        Dice, Kit, Out, Party, items::Items, keys::Attempts, liar::Liar, observer::Observer, party::Identity,
        users::Users,
    },
};

/// How often a node looks whether a block waits for its reveal, in ms.
const LOOK: u64 = 200;
/// Looks after which items of key generation are given out again.
const LOOKS_TO_REPEAT: u64 = 5;

/// What an encrypted run has beside the nodes.
#[derive(Debug)]
pub(super) struct Beside<B: Bugs> {
    items: Items<B>,
    observer: Observer,
    users: Users,
    attempts: Attempts,
    dice: Dice,
    /// Of every sequencer, the key under which its secrets lie on the disk.
    owners: Vec<Arc<BlsSecretKey>>,
    /// How often Byzantine nodes lied, by kind.
    lies: BTreeMap<&'static str, u64>,
    /// Blocks that were proposed; with a planted bug alone.
    proposed: BTreeMap<BlockHash, Arc<SealedBlock>>,
    /// The epoch that the chain was in when the faults had stopped and every node had recovered.
    recovered_in: Option<Epoch>,
}

impl<B: Bugs> Beside<B> {
    pub(super) fn new(seed: u64, bugs: &B, rules: &Arc<Rules>, keys: &Keys, plan: &Plan, ids: &[NodeId]) -> Self {
        let honest = (0..plan.instances()).map(|i| plan.is_honest(i)).collect();
        let owner = |i: usize| {
            let material = [i as u8 + 1; 32];
            Arc::new(BlsSecretKey::derive(&material).expect("32 bytes are enough"))
        };
        Self {
            items: Items::new(bugs.clone(), rules.signing, rules.params(), Dice::new(Rng::new(seed, 23))),
            observer: Observer::new(Arc::clone(rules), Arc::clone(&keys.scheme), honest, ids.to_vec()),
            users: Users::new(seed),
            attempts: Attempts::new(),
            dice: Dice::new(Rng::new(seed, 24)),
            owners: (0..plan.nodes).map(owner).collect(),
            lies: BTreeMap::new(),
            proposed: BTreeMap::new(),
            recovered_in: None,
        }
    }

    /// A client sealed something.
    pub(super) fn user_sealed(&mut self, raw: &Bytes, text: Bytes) {
        self.observer.sealed(raw, text);
    }
}

impl<B: Bugs> World<'_, B> {
    /// Lets a node's party do something, and then does what it wants.
    pub(super) fn with_party(&mut self, i: usize, act: impl FnOnce(&mut Party<B>, &mut Kit<'_, B>)) {
        let now = self.local(i);
        let (Some(beside), node) = (&mut self.beside, &mut self.nodes[i]) else { return };
        let Some(party) = node.running.as_mut().and_then(|running| running.party.as_mut()) else { return };
        if party.is_dead() {
            return;
        }
        let (blocks, executed, vault) = node.disk.parts();
        let Beside { items, attempts, dice, .. } = beside;
        act(party, &mut Kit { now, blocks, executed, vault, items, attempts, dice });
        let (outs, died) = (party.take(), party.is_dead());
        for out in outs {
            self.carry_out(i, out);
        }
        if died {
            let life = self.nodes[i].life;
            self.queue.push(self.now, Event::Die { node: i, life });
            let away = *self.rng.pick(&[20, 500, 3000]);
            self.queue.push(self.now + away, Event::Boot(i));
        }
        self.refresh_work(i);
    }

    pub(super) fn boot_party(&mut self, i: usize) {
        let now = self.local(i);
        let Some(beside) = &mut self.beside else { return };
        let key = self.plan.key(i);
        let who = Identity {
            node: self.ids[i],
            signer: Arc::clone(&self.keys.signers[key]),
            owner: Arc::clone(&beside.owners[key]),
            scheme: Arc::clone(&self.keys.scheme),
            rules: Arc::clone(&self.rules),
        };
        let character = self.plan.byzantine.get(&key);
        let node = &mut self.nodes[i];
        let liar = character.map(|c| Liar::new(self.seed, i, node.life, c.has(Fault::Silence), self.config.trading));
        let (blocks, executed, vault) = node.disk.parts();
        let above = blocks.iter().map(|s| s.block.header.height).filter(|height| *height > executed);
        beside.observer.booted(i, above, self.now);
        let Beside { items, attempts, dice, .. } = beside;
        let mut kit = Kit { now, blocks, executed, vault, items, attempts, dice };
        let party = Party::new(self.bugs.clone(), who, liar, &mut kit);
        let life = node.life;
        node.running.as_mut().expect("it was started just now").party = Some(party);
        self.with_party(i, |_, _| {});
        let first = self.now + 1 + self.rng.below(LOOK);
        self.queue.push(first, Event::Look { node: i, life });
    }

    fn carry_out(&mut self, i: usize, out: Out) {
        match out {
            Out::Spread(item) => {
                self.trace.sealed(self.now, i, &item.to_bytes(), || format!("gives out {}", kind(&item)));
                for to in (0..self.nodes.len()).filter(|&to| to != i) {
                    self.transmit(i, to, Payload::Item(item.clone()));
                }
            }
            Out::Offer(raw) => {
                for to in (0..self.nodes.len()).filter(|&to| to != i) {
                    self.transmit(i, to, Payload::Transaction(raw.clone()));
                }
            }
            Out::Holds(shares) => {
                let committee = self.checker.committee(shares.epoch).map(Arc::as_ref);
                self.beside.as_mut().expect("a party runs").observer.holds(&shares, committee);
            }
            Out::Lied(kind) => *self.beside.as_mut().expect("a party runs").lies.entry(kind).or_default() += 1,
            Out::Tell(to, message) => self.tell(i, to, message),
            Out::Opened(block, opened) => {
                let height = block.header.height;
                let root = opened.as_ref().map(|opened| opened.reveal.root()).unwrap_or_default();
                self.trace.sealed(self.now, i, root.as_slice(), || format!("opens h{height}"));
                let committee = self.checker.committee(block.header.epoch).map(Arc::as_ref);
                let is_due = self.checker.is_opened(height);
                let beside = self.beside.as_mut().expect("a party runs");
                beside.observer.opened(i, &block, opened.as_ref(), (is_due, committee));
                self.checker.opened(i, height, opened.as_ref());
                let Some(running) = &mut self.nodes[i].running else { return };
                running.app.enqueue(&block, opened);
                self.start_execution(i);
            }
            Out::KeysReady(epoch, members_root, keys) => {
                let life = self.nodes[i].life;
                let input = Box::new(Input::KeysReady { epoch, members_root, keys });
                self.queue.push(self.now, Event::Input { node: i, life, input });
            }
            Out::Accused(peer, what) => {
                self.trace.sealed(self.now, i, &peer.0, || format!("accuses {peer} of {what}"));
                self.beside.as_mut().expect("a party runs").observer.accused(i, &peer, what);
            }
            Out::Fatal(why) => self.beside.as_mut().expect("a party runs").observer.fatal(i, &why),
        }
    }

    fn tell(&mut self, i: usize, to: Option<NodeId>, message: RevealMessage) {
        if let RevealMessage::Shares(shares, certificate) = &message {
            let committee = self.checker.committee(shares.epoch).map(Arc::as_ref);
            let stored = self.nodes[i].disk.stored(shares.height);
            let beside = self.beside.as_mut().expect("a party runs");
            beside.observer.shared(i, shares, certificate, committee, stored);
        }
        self.trace.sealed(self.now, i, &message.to_bytes(), || words(&message));
        let targets: Vec<usize> = match to {
            Some(peer) => self.places(i, &peer).collect(),
            None => (0..self.nodes.len()).filter(|&other| other != i).collect(),
        };
        for to in targets {
            self.transmit(i, to, Payload::Reveal(message.clone()));
        }
    }

    pub(super) fn party_on_final(&mut self, i: usize, stored: &Stored) {
        let Some(beside) = &mut self.beside else { return };
        let certificate = &stored.finality.as_ref().expect("it was just made final").certificate;
        beside.observer.finalized(i, stored.block.header.height, certificate, self.now);
        self.with_party(i, |party, kit| party.on_final(stored, kit));
        let party = self.nodes[i].running.as_ref().and_then(|running| running.party.as_ref());
        if let (Some(party), Some(beside)) = (party.filter(|party| !party.is_dead()), &mut self.beside) {
            beside.observer.keys(i, party, stored);
        }
    }

    /// With the planted bug: a node that votes to commit a block gives out its shares at once.
    pub(super) fn share_early(&mut self, i: usize, message: &Message) {
        if !self.bugs.sealed(SealedBug::ShareOnCommitVote) {
            return;
        }
        let Message::Vote(vote, _) = message else { return };
        let proposed = self.beside.as_ref().and_then(|beside| beside.proposed.get(&vote.target.block));
        let certificate = self.nodes[i].disk.head().finality.as_ref().map(|finality| Arc::clone(&finality.certificate));
        if let (Some(block), Some(certificate), VoteKind::Commit) = (proposed.cloned(), certificate, vote.target.kind) {
            self.with_party(i, |party, kit| party.on_commit_vote(&block, certificate, kit));
        }
    }

    pub(super) fn take_item(&mut self, from: usize, to: usize, item: SystemItem) {
        let peer = self.ids[from];
        self.with_party(to, |party, kit| party.on_item(peer, item, kit));
    }

    pub(super) fn take_reveal(&mut self, from: usize, to: usize, message: RevealMessage) {
        let peer = self.ids[from];
        let head = self.nodes[to].disk.head().block.header.height;
        if let RevealMessage::Shares(shares, certificate) = &message
            && shares.height > head
        {
            // The node has yet to hear of it.
            let message = Message::Certificate(Arc::clone(certificate));
            self.step(to, Some(from), Input::Message { from: peer, message });
        }
        self.with_party(to, |party, kit| party.on_reveal(peer, message, kit));
    }

    pub(super) fn look(&mut self, i: usize) {
        let again = (self.now / LOOK).is_multiple_of(LOOKS_TO_REPEAT);
        self.with_party(i, |party, kit| {
            party.look(kit);
            if again {
                party.repeat();
            }
        });
        let life = self.nodes[i].life;
        self.queue.push(self.now + LOOK, Event::Look { node: i, life });
    }

    pub(super) fn light(&mut self, i: usize, steps: u32) {
        let running = self.nodes[i].running.as_mut();
        if let Some(party) = running.and_then(|running| running.party.as_mut()) {
            party.light(steps);
        }
    }

    /// What a client sends next, through this node; nothing while there is no key to seal to.
    pub(super) fn new_transaction(&mut self, through: usize) -> Option<Bytes> {
        let Some(beside) = &mut self.beside else { return Some(app::transaction(self.submitted)) };
        let party = self.nodes[through].running.as_ref()?.party.as_ref()?;
        let (epoch, height) = party.head();
        let key = party.agreed(epoch)?.keys.decryption.encryption_key();
        let (raw, text) = beside.users.seal(&self.rules.signing, &key, epoch, height);
        beside.observer.sealed(&raw, text);
        Some(raw)
    }

    pub(super) fn admit(&mut self, i: usize, raw: &Bytes) -> bool {
        let mut new = false;
        self.with_party(i, |party, kit| new = party.admit(raw, kit));
        new
    }

    pub(super) fn build(&mut self, i: usize, request: &BuildRequest) -> Option<BuiltBlock> {
        if self.stage.is_some() {
            return self.build_by_choice(i, request);
        }
        if self.beside.is_none() {
            return Some(self.nodes[i].running.as_ref()?.app.build(request, None));
        }
        let mut built = None;
        self.with_party(i, |party, kit| built = Some(party.build(request, kit, None)));
        built
    }

    pub(super) fn judge(&mut self, i: usize, block: &Arc<SealedBlock>, request: &BuildRequest) -> Option<Verdict> {
        match self.judge_content(i, block, request) {
            Some(Verdict::Valid) if self.stage.is_some() => Some(self.judge_by_law(block, request)),
            verdict => verdict,
        }
    }

    fn judge_content(&mut self, i: usize, block: &Arc<SealedBlock>, request: &BuildRequest) -> Option<Verdict> {
        let Some(beside) = &mut self.beside else { return Some(App::validate(block, request)) };
        if self.bugs.sealed(SealedBug::ShareOnCommitVote) {
            beside.proposed.insert(block.hash(), Arc::clone(block));
        }
        let mut verdict = None;
        self.with_party(i, |party, kit| verdict = party.judge(block, request, kit));
        verdict
    }

    /// Moves what the observer saw to what the checker did.
    pub(super) fn take_violations(&mut self) {
        let Some(beside) = &mut self.beside else { return };
        for violation in beside.observer.violations.drain(..) {
            self.checker.violation(violation);
        }
    }

    pub(super) fn what_was_revealed(&self) -> Revealed {
        let Some(Beside { observer, lies, .. }) = &self.beside else { return Revealed::default() };
        Revealed {
            blocks: observer.blocks,
            envelopes: observer.envelopes,
            keys: observer.keys_made(),
            too_few: observer.too_few,
            lies: lies.clone(),
        }
    }

    /// Honest nodes that wait too long for a block's reveal, though the faults are over.
    pub(super) fn unrevealed(&mut self, recovered_at: u64) -> Vec<String> {
        let Some(beside) = &self.beside else { return Vec::new() };
        let bound = reveal_bound_ms(self.rules.params());
        let late = |&i: &usize| {
            let (height, since) = beside.observer.waits(i)?;
            (self.now > since.max(recovered_at) + bound)
                .then(|| format!("node {i} has not opened block {height}, final there since {since} ms"))
        };
        (0..self.nodes.len()).filter(|&i| self.checker.is_honest(i)).filter_map(|i| late(&i)).collect()
    }

    /// Whether every honest node has begun an epoch since the faults stopped; on a chain without keys nobody asks.
    pub(super) fn has_changed_keys(&mut self) -> bool {
        let Some(beside) = &mut self.beside else { return true };
        let honest = (0..self.nodes.len()).filter(|&i| self.checker.is_honest(i));
        let epochs = honest.filter_map(|i| Some(self.nodes[i].running.as_ref()?.core.head().epoch));
        let lowest = epochs.min().unwrap_or_default();
        let before = *beside.recovered_in.get_or_insert(lowest);
        lowest > before
    }
}

fn kind(item: &SystemItem) -> &'static str {
    match item {
        SystemItem::Ready(_) => "readiness",
        SystemItem::RecipientKey(_) => "its encryption key",
        SystemItem::Dealing(_) => "a dealing",
    }
}

fn words(message: &RevealMessage) -> String {
    match message {
        RevealMessage::Shares(shares, _) => format!("shares of h{} by {}", shares.height, shares.member),
        RevealMessage::Reveal(reveal) => format!("what opens h{}", reveal.height),
        RevealMessage::Request(height) => format!("asks for h{height}"),
    }
}
