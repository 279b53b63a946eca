//! What Byzantine nodes do about chunks.
//!
//! A Byzantine node has an ordinary carrier. A liar has a few habits, drawn once, and bends by them what the carrier sends;
//! and as a leader it signs what no carrier would. It signs with its own key alone.

use std::{collections::BTreeMap, sync::Arc};

use cascade_consensus::{
    Carried, Message, Rules, Standing,
    carriage::{Manifest, Piece},
};
use cascade_crypto::VoteSigner;
use cascade_da::dispersal::{Chunk, commit_unchecked, disperse};
use cascade_primitives::{B256, BlockHash, Encode as _, View};

use crate::rng::Rng;

habits! {
    enum Habit
    /// Sends no chunks at all.
    Mute = "no-chunks",
    /// Sends its chunks to some alone.
    Few = "few-chunks",
    /// Changes what it sends: bytes, path, signature, or what the manifest says.
    Wrong = "wrong-chunks",
    /// Sends a chunk as one of another's seat.
    Others = "others-chunks",
    /// Sends what it sent before, of views long over too.
    Stale = "stale-chunks",
    /// Asks for proposals that it has.
    Asks = "needless-asks",
    /// Signs a manifest in the leader's name, with its own key.
    Forges = "forged-manifest",
    /// As a leader, signs a root over chunks that are no code.
    BadCode = "bad-code",
    /// As a leader, signs a root over the code of something else than a proposal.
    NoProposal = "no-proposal",
    /// As a leader, names another block than it sends.
    Misnames = "other-block",
    /// As a leader, signs several manifests for a view, and gives them to whom it likes.
    Twice = "two-manifests",
    /// As a leader, signs a manifest for a view that it is not in.
    Ahead = "other-view",
}

/// Chunks that it remembers.
const MEMORY: usize = 32;

#[derive(Debug)]
pub(crate) struct Liar {
    habits: Vec<Habit>,
    rng: Rng,
    signer: Arc<dyn VoteSigner>,
    rules: Arc<Rules>,
    past: Vec<Carried>,
    pub(crate) lies: BTreeMap<&'static str, u64>,
}

impl Liar {
    pub(crate) fn new(seed: u64, node: usize, signer: Arc<dyn VoteSigner>, rules: Arc<Rules>) -> Self {
        let mut rng = Rng::new(seed, 5000 + node as u64);
        let habits = Habit::ALL.iter().copied().filter(|_| rng.permille(300)).collect();
        Self { habits, rng, signer, rules, past: Vec::new(), lies: BTreeMap::new() }
    }

    fn does(&mut self, habit: Habit, permille: u64) -> bool {
        let does = self.habits.contains(&habit) && self.rng.permille(permille);
        if does {
            *self.lies.entry(habit.name()).or_default() += 1;
        }
        does
    }

    /// Whether a Byzantine leader sends this proposal in chunks.
    pub(crate) fn disperses(&mut self) -> bool {
        self.rng.permille(700)
    }

    /// What goes to one node in place of what its carrier would send there.
    pub(crate) fn bend(&mut self, message: &Carried) -> Vec<Carried> {
        let mut out = Vec::new();
        if self.does(Habit::Mute, 1000) || self.does(Habit::Few, 500) {
            return out;
        }
        out.push(message.clone());
        if let Carried::Piece(piece) = message {
            if self.does(Habit::Wrong, 300) {
                out.insert(self.rng.below(2) as usize, self.spoil(piece));
            }
            if self.does(Habit::Others, 200) {
                let mut other = piece.as_ref().clone();
                other.chunk.index = self.rng.below(u64::from(other.chunk.chunks) + 1) as u16;
                out.push(Carried::Piece(Box::new(other)));
            }
            if self.does(Habit::Forges, 200) {
                let chunk = disperse(&[self.rng.below(256) as u8; 99], usize::from(piece.chunk.chunks));
                let chunk = chunk.expect("a few bytes").swap_remove(usize::from(piece.chunk.index));
                let mut forged = Piece { chunk, ..piece.as_ref().clone() };
                forged.signature = forged.manifest().sign(&self.rules.signing, self.signer.as_ref());
                out.insert(0, Carried::Piece(Box::new(forged)));
            }
            if self.does(Habit::Asks, 200) {
                let manifest = piece.manifest().digest(&self.rules.signing);
                out.push(Carried::Ask { epoch: piece.epoch, view: piece.view, manifest });
            }
            if self.habits.contains(&Habit::Stale) {
                if self.past.len() == MEMORY {
                    let forgotten = self.rng.below(MEMORY as u64) as usize;
                    self.past.swap_remove(forgotten);
                }
                self.past.push(message.clone());
                if self.does(Habit::Stale, 200) {
                    out.push(self.rng.pick(&self.past).clone());
                }
            }
        }
        out
    }

    fn spoil(&mut self, piece: &Piece) -> Carried {
        let mut bent = piece.clone();
        match self.rng.below(6) {
            0 => {
                let mut bytes = bent.chunk.bytes.to_vec();
                bytes[0] ^= 1;
                bent.chunk.bytes = bytes.into();
            }
            1 => drop(bent.chunk.path.pop()),
            2 => bent.signature.0[1] ^= 1,
            3 => bent.chunk.root.0[1] ^= 1,
            4 => bent.block.0[1] ^= 1,
            _ => bent.view = View(bent.view.0 ^ 1),
        }
        Carried::Piece(Box::new(bent))
    }

    /// Sets of chunks that it signs as a leader of something that is not this proposal, or not only. None for the truth.
    pub(crate) fn cheat(&mut self, proposal: &Message, standing: &Standing) -> Vec<Vec<Piece>> {
        let Message::Proposal(block, _) = proposal else { return Vec::new() };
        let (bytes, seats) = (proposal.to_bytes(), standing.committee.total_seats().0 as usize);
        let truth = || disperse(&bytes, seats).expect("a proposal and a committee of legal sizes");
        let (hash, view) = (block.hash(), standing.view);
        let mut other = hash;
        other.0[5] ^= 1;
        let mut sets = Vec::new();
        if self.does(Habit::BadCode, 500) {
            let mut shards: Vec<Vec<u8>> = truth().iter().map(|chunk| chunk.bytes.to_vec()).collect();
            let at = self.rng.below(seats as u64) as usize;
            shards[at][0] ^= 1;
            let chunks = commit_unchecked(shards, bytes.len()).expect("as the truth was cut");
            sets.push(self.sign(standing, view, hash, chunks));
        }
        if self.does(Habit::NoProposal, 500) {
            let mut garbage = bytes.clone();
            garbage[0] = self.rng.below(9) as u8;
            garbage.truncate(1 + self.rng.below(garbage.len() as u64) as usize);
            let chunks = disperse(&garbage, seats).expect("no longer than the truth");
            sets.push(self.sign(standing, view, hash, chunks));
        }
        if self.does(Habit::Misnames, 500) {
            sets.push(self.sign(standing, view, other, truth()));
        }
        if self.does(Habit::Ahead, 500) {
            let view = View(view.0 + self.rng.below(6));
            sets.push(self.sign(standing, view, hash, truth()));
        }
        if self.does(Habit::Twice, 500) {
            sets.push(self.sign(standing, view, hash, truth()));
            for mark in 0..=self.rng.below(4) as u8 {
                let noise = vec![mark; 1 + self.rng.below(500) as usize];
                let chunks = disperse(&noise, seats).expect("a few bytes");
                sets.push(self.sign(standing, view, hash, chunks));
            }
        }
        sets
    }

    /// The chunks of this proposal as they should be.
    pub(crate) fn tell(&self, proposal: &Message, standing: &Standing) -> Vec<Piece> {
        let Message::Proposal(block, vote) = proposal else { return Vec::new() };
        let seats = standing.committee.total_seats().0 as usize;
        let chunks = disperse(&proposal.to_bytes(), seats).expect("a proposal and a committee of legal sizes");
        self.sign(standing, vote.target.view, block.hash(), chunks)
    }

    fn sign(&self, standing: &Standing, view: View, block: BlockHash, chunks: Vec<Chunk>) -> Vec<Piece> {
        let (epoch, first) = (standing.epoch, &chunks[0]);
        let (root, size, count): (B256, u32, u16) = (first.root, first.size, first.chunks);
        let manifest = Manifest { epoch, view, block, root, size, chunks: count };
        let signature = manifest.sign(&self.rules.signing, self.signer.as_ref());
        chunks.into_iter().map(|chunk| Piece { epoch, view, block, signature, chunk }).collect()
    }

    /// Whether it gives a set of chunks to a node.
    pub(crate) fn gives(&mut self) -> bool {
        self.rng.permille(800)
    }
}
