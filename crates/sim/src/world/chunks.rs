//! Proposals that leaders send in coded chunks: a thin shell around each node's carrier (`cascade_consensus::carriage`), and
//! what Byzantine nodes make of it.
//!
//! Work takes no time here. In figures, where dozens of nodes rebuild the same large blocks, each is rebuilt once: what is
//! under a manifest is the same whichever chunks are at hand (crates/consensus tests that).

use cascade_consensus::{
    CarriageConfig, CarriageEffect, Carried, Carrier, Standing, Way,
    carriage::{ALL_BYTES, MANIFESTS, Piece, Rebuilt, VIEWS_AHEAD, VIEWS_BEHIND},
};
use cascade_primitives::B256;

use super::*;
use crate::{adversary::Outgoing, chunks::Liar, report::ChunkCounts};

/// Proposals that a node may have on their way at a time.
const MOST_PLACES: usize = (VIEWS_BEHIND + 1 + VIEWS_AHEAD) as usize * MANIFESTS;
/// Proposals that a leader may keep: its own of the current view and of those that are carried behind it.
const MOST_KEPT: usize = VIEWS_BEHIND as usize + 1;

/// What runs with chunks have beside the carriers.
#[derive(Debug)]
pub(super) struct Chunked {
    /// Of Byzantine nodes, where they lie about chunks.
    liars: BTreeMap<usize, Liar>,
    /// By manifest, what somebody rebuilt.
    rebuilt: BTreeMap<B256, Rebuilt>,
    counts: ChunkCounts,
}

impl Chunked {
    pub(super) fn new(seed: u64, liars: &[usize], keys: &Keys, rules: &Arc<Rules>) -> Self {
        let liar = |&node: &usize| (node, Liar::new(seed, node, Arc::clone(&keys.signers[node]), Arc::clone(rules)));
        Self { liars: liars.iter().map(liar).collect(), rebuilt: BTreeMap::new(), counts: ChunkCounts::default() }
    }

    /// What came of it all.
    pub(super) fn counts(&self) -> ChunkCounts {
        let mut counts = self.counts.clone();
        for (kind, times) in self.liars.values().flat_map(|liar| &liar.lies) {
            *counts.lies.entry(kind).or_default() += times;
        }
        counts
    }
}

impl<B: Bugs> World<'_, B> {
    pub(super) fn new_carrier(&self, config: Config, standing: Standing) -> Option<Carrier<B>> {
        let Config { rules, scheme, signer, node } = config;
        let config = CarriageConfig { rules, scheme, signer, node, way: Way::Chunks };
        self.plan.carriage.coded.then(|| Carrier::with_bugs(config, standing, self.bugs.clone()))
    }

    pub(super) fn carrier_enters(&mut self, i: usize) {
        if self.plan.carriage.coded
            && let Some(running) = &mut self.nodes[i].running
        {
            let standing = running.core.standing();
            self.carry(i, CarriageInput::Entered(standing));
        }
    }

    /// Gives a node's carrier an input and does what it wants. Nothing without chunks.
    pub(super) fn carry(&mut self, i: usize, input: CarriageInput) {
        let (now, clock) = (self.local(i), self.nodes[i].clock);
        let Some(running) = &mut self.nodes[i].running else { return };
        let Some(carrier) = &mut running.carrier else { return };
        if let CarriageInput::Message { message: Carried::Piece(piece), .. } = &input {
            let mark = [piece.chunk.root.as_slice(), &piece.chunk.index.to_le_bytes()].concat();
            let words = || format!("chunk {} of {} in v{}", piece.chunk.index, piece.chunk.root, piece.view);
            self.trace.carried(self.now, i, &mark, words);
        }
        let effects = carrier.step(now, input);
        let (places, bytes, kept) = carrier.footprint();
        if self.checker.is_honest(i) && (places > MOST_PLACES || bytes > ALL_BYTES || kept > MOST_KEPT) {
            self.checker.overgrown(i, &format!("{places} proposals with {bytes} bytes, and {kept} of its own"));
        }
        if let Some(local) = carrier.wake_at() {
            let at = to_virtual(local, clock).max(self.now + 1);
            if running.carrier_wake_at != at {
                running.carrier_wake_at = at;
                self.queue.push(at, Event::CarrierWake { node: i, at });
            }
        }
        for effect in effects {
            self.apply_carriage(i, effect);
        }
    }

    fn apply_carriage(&mut self, i: usize, effect: CarriageEffect) {
        match effect {
            CarriageEffect::Send(peer, message) => {
                let honest = self.checker.is_honest(i);
                self.chunked.counts.asked += u64::from(honest && matches!(message, Carried::Ask { .. }));
                self.send_carried(i, &[peer], message);
            }
            CarriageEffect::Forward(..) if self.plan.carriage.mute.contains(&i) => {}
            CarriageEffect::Forward(peers, message) => self.send_carried(i, &peers, message),
            CarriageEffect::Broadcast(message) => {
                for to in (0..self.nodes.len()).filter(|&to| to != i) {
                    self.transmit(i, to, Payload::Consensus(message.clone()));
                }
            }
            CarriageEffect::Outside(message, committee) => {
                for to in (0..self.nodes.len()).filter(|&to| to != i) {
                    if committee.index_of(&self.ids[to]).is_none() {
                        self.transmit(i, to, Payload::Consensus(message.clone()));
                    }
                }
            }
            CarriageEffect::Whole(peer, message) => self.transmit_to(i, &peer, &Payload::Consensus(message)),
            CarriageEffect::GetBlock(peer, hash) => {
                self.transmit_to(i, &peer, &Payload::Consensus(Message::GetBlock(hash)));
            }
            CarriageEffect::Rebuild(job) => {
                let rebuilt = match &self.probe {
                    Some(_) => self.chunked.rebuilt.entry(job.digest()).or_insert_with(|| job.run()).clone(),
                    None => job.run(),
                };
                if self.checker.is_honest(i) {
                    self.chunked.counts.rebuilt += u64::from(rebuilt.outcome.is_ok());
                    self.chunked.counts.found += u64::from(rebuilt.outcome.is_err());
                }
                self.carry(i, CarriageInput::Rebuilt(rebuilt));
            }
            CarriageEffect::Deliver(peer, message) => {
                let leader = self.places(i, &peer).next();
                if let Some(leader) = leader {
                    self.deliver(leader, i, Payload::Consensus(message));
                }
            }
            CarriageEffect::Misbehaved(peer, what) => {
                self.trace.carried(self.now, i, what.as_bytes(), || format!("misbehaved: {what}"));
                self.checker.report(i, &Effect::Misbehaved(peer, what));
            }
        }
    }

    fn transmit_to(&mut self, i: usize, peer: &NodeId, payload: &Payload) {
        let targets: Vec<usize> = self.places(i, peer).collect();
        for to in targets {
            self.transmit(i, to, payload.clone());
        }
    }

    fn send_carried(&mut self, i: usize, peers: &[NodeId], message: Carried) {
        let key = self.plan.key(i);
        let message = Arc::new(message);
        for peer in peers {
            let Some(liar) = self.chunked.liars.get_mut(&key) else {
                self.transmit_to(i, peer, &Payload::Carried(Arc::clone(&message)));
                continue;
            };
            for message in liar.bend(&message) {
                self.transmit_to(i, peer, &Payload::Carried(Arc::new(message)));
            }
        }
    }

    /// Of what a Byzantine node says, sends proposals in chunks, or something else in their place; answers the rest.
    pub(super) fn lie_in_chunks(&mut self, i: usize, targets: &[usize], out: Outgoing) -> Outgoing {
        let key = self.plan.key(i);
        let Some(running) = self.nodes[i].running.as_mut().filter(|_| self.chunked.liars.contains_key(&key)) else {
            return out;
        };
        let standing = running.core.standing();
        let (proposals, mut rest): (Outgoing, Outgoing) =
            out.into_iter().partition(|(_, message)| matches!(message, Message::Proposal(..)));
        let mut different: Vec<(Message, Vec<usize>)> = Vec::new();
        for (to, message) in proposals {
            match different.iter_mut().find(|(known, _)| *known == message) {
                Some((_, to_whom)) => to_whom.push(to),
                None => different.push((message, vec![to])),
            }
        }
        let alone = different.len() == 1;
        for (message, to) in different {
            let liar = self.chunked.liars.get_mut(&key).expect("it was looked up above");
            if !liar.disperses() {
                rest.extend(to.into_iter().map(|to| (to, message.clone())));
                continue;
            }
            let mut sets = liar.cheat(&message, &standing);
            if sets.is_empty() && alone && to == targets {
                self.carry(i, CarriageInput::Propose(message));
                continue;
            }
            if sets.is_empty() {
                sets = vec![liar.tell(&message, &standing)];
            }
            for pieces in sets {
                self.give(i, &to, &standing, pieces);
            }
        }
        rest
    }

    /// Gives pieces to the members that they are for, if they are among these.
    fn give(&mut self, i: usize, to: &[usize], standing: &Standing, pieces: Vec<Piece>) {
        let key = self.plan.key(i);
        for piece in pieces {
            let owner = standing.owner(piece.chunk.index).expect("a chunk for each seat");
            let id = standing.committee.members()[owner.index()].node;
            let liar = self.chunked.liars.get_mut(&key).expect("only liars come here");
            let given = liar.gives();
            let to: Vec<usize> = to.iter().copied().filter(|&node| self.ids[node] == id && given).collect();
            for node in to {
                self.transmit(i, node, Payload::Carried(Arc::new(Carried::Piece(Box::new(piece.clone())))));
            }
        }
    }
}
