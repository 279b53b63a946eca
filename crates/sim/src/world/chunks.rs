//! Blocks that leaders send in coded chunks (`cascade_da::dispersal`), in front of the cores: a core gives out a proposal
//! and gets one, and does not know how it travelled.
//!
//! ```text
//!  leader: proposal --chunk i--> member i --its chunk--> all others but the leader
//!  member: f + 1 chunks --decode--> proposal --> core
//!          not so many within half a leader timeout --> asks the leader for all of it
//! ```
//!
//! A core that hears of a certificate for a block that it does not have asks for it. While its chunks come in, that request
//! waits for the same time: it would cost the leader a whole block.
//!
//! Every member has one seat, and nobody lies here: what a chunk's sender says of its leader is believed, where a node
//! would check the leader's signature. All sets of chunks under a root that is the code of a block give that block
//! (crates/da tests that), so a root is decoded once in a run, by the first that can.

use cascade_da::dispersal::{Assembler, Chunk, disperse};
use cascade_primitives::{B256, BlockHash, Decode as _, Encode as _};

use super::*;

/// What is on its way in chunks.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    /// What leaders have sent.
    sent: BTreeMap<B256, Message>,
    /// What somebody has rebuilt.
    rebuilt: BTreeMap<B256, Message>,
    /// Of each node and root: what is there until the block is.
    places: BTreeMap<(usize, B256), Option<Assembler>>,
}

impl<B: Bugs> World<'_, B> {
    /// Sends a proposal in chunks.
    pub(super) fn disperse(&mut self, leader: usize, message: &Message) {
        let chunks =
            disperse(&message.to_bytes(), self.nodes.len()).expect("at most 128 nodes, a block of a legal size");
        self.chunked.sent.insert(chunks[0].root, message.clone());
        for (to, chunk) in chunks.into_iter().enumerate().filter(|(to, _)| *to != leader) {
            self.transmit(leader, to, Payload::Chunk { leader, chunk: Arc::new(chunk) });
        }
    }

    pub(super) fn take_chunk(&mut self, from: usize, to: usize, leader: usize, chunk: &Arc<Chunk>) {
        let count = self.nodes.len();
        if from == leader && !self.plan.carriage.mute.contains(&to) {
            // Each begins with the one after it: what arrives at one time is spread over all.
            for other in (1..count).map(|step| (to + step) % count).filter(|&other| other != leader) {
                self.transmit(to, other, Payload::Chunk { leader, chunk: Arc::clone(chunk) });
            }
        }
        let (root, life) = (chunk.root, self.nodes[to].life);
        let place = self.chunked.places.entry((to, root)).or_insert_with(|| {
            let after = self.rules.params().leader_timeout_ms / 2;
            self.queue.push(self.now + after, Event::WantWhole { node: to, life, leader, root });
            Some(Assembler::new(root, chunk.size as usize, count).expect("the chunk is of a legal block"))
        });
        let Some(assembler) = place else { return };
        if assembler.insert(chunk).expect("nobody lies here") {
            let rebuild = |assembler: &Assembler| {
                let bytes = assembler.rebuild().expect("the leader coded a block");
                Message::from_slice(&bytes).expect("the leader sent a message")
            };
            let message = self.chunked.rebuilt.entry(root).or_insert_with(|| rebuild(assembler)).clone();
            *place = None;
            self.deliver(leader, to, Payload::Consensus(message));
        }
    }

    /// Whether a node waits for chunks of a block.
    pub(super) fn is_on_its_way(&self, node: usize, wanted: &BlockHash) -> bool {
        let mut waiting = self.chunked.places.range((node, B256::ZERO)..(node + 1, B256::ZERO));
        waiting.any(|((_, root), place)| {
            let sent = self.chunked.sent.get(root);
            place.is_some() && matches!(sent, Some(Message::Proposal(block, _)) if block.hash() == *wanted)
        })
    }

    /// A node that still waits for chunks asks for all of it.
    pub(super) fn want_whole(&mut self, node: usize, leader: usize, root: B256) {
        if self.chunked.places.get(&(node, root)).is_some_and(Option::is_some) {
            self.transmit(node, leader, Payload::WantWhole(root));
        }
    }

    pub(super) fn send_whole(&mut self, leader: usize, to: usize, root: &B256) {
        if let Some(message) = self.chunked.sent.get(root).cloned() {
            self.transmit(leader, to, Payload::Consensus(message));
        }
    }
}
