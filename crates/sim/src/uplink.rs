//! What nodes can send in a second, for runs that look at it.
//!
//! ```text
//!  node's queue:  [ block to 1 ][ block to 2 ][ block to 3 ] ...   one after the other, at the uplink's rate
//!                       ^ a message of at most 16 KiB goes in between, and what follows it waits that much longer
//! ```
//!
//! Without a rate a message leaves at once, whatever its size, and nothing here is used. Votes and certificates are not
//! held up by blocks on their way, as if they had streams of a higher priority. What a node receives is not limited, and
//! what a transport adds to a message is not counted.

use std::collections::BTreeMap;

use cascade_consensus::Message;
use cascade_primitives::{BlockHash, Encode, SealedBlock};

use crate::node::Payload;

/// Longest message that does not wait for others.
const SMALL: usize = 16 << 10;

/// When a message has left its sender.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Departure {
    /// In ms.
    pub(crate) at: u64,
    /// Whether it takes its turn: then smaller ones overtake it.
    pub(crate) bulk: bool,
}

/// The uplinks of all nodes.
#[derive(Debug)]
pub(crate) struct Uplinks {
    bits_per_second: u64,
    /// When each node's queue is empty, in microseconds.
    free_at: Vec<u64>,
    /// Bytes that each node has sent.
    sent: Vec<u64>,
    /// Encoded bytes of blocks.
    sizes: BTreeMap<BlockHash, usize>,
}

impl Uplinks {
    pub(crate) fn new(nodes: usize, bits_per_second: u64) -> Self {
        Self { bits_per_second, free_at: vec![0; nodes], sent: vec![0; nodes], sizes: BTreeMap::new() }
    }

    /// Bytes that each node has sent so far.
    pub(crate) fn sent(&self) -> &[u64] {
        &self.sent
    }

    /// A node sends this.
    pub(crate) fn send(&mut self, now: u64, node: usize, payload: &Payload) -> Departure {
        let bytes = self.bytes(payload);
        self.sent[node] += bytes as u64;
        let (now, takes) = (now * 1000, bytes as u64 * 8_000_000 / self.bits_per_second);
        let free_at = &mut self.free_at[node];
        *free_at = now.max(*free_at) + takes;
        let bulk = bytes > SMALL;
        let at = if bulk { *free_at } else { now + takes };
        Departure { at: (at + 500) / 1000, bulk }
    }

    fn block(&mut self, block: &SealedBlock) -> usize {
        *self.sizes.entry(block.hash()).or_insert_with(|| block.to_bytes().len())
    }

    fn bytes(&mut self, payload: &Payload) -> usize {
        match payload {
            Payload::Consensus(Message::Proposal(block, vote)) => 1 + vote.to_bytes().len() + self.block(block),
            Payload::Consensus(Message::Block(block)) => 1 + self.block(block),
            Payload::Consensus(message) => message.to_bytes().len(),
            Payload::Carried(message) => message.message_bytes(),
            Payload::Transaction(transaction) => transaction.len(),
            Payload::Item(item) => item.to_bytes().len(),
            Payload::Reveal(message) => message.to_bytes().len(),
            Payload::Request { request, .. } => request.to_bytes().len(),
            Payload::Response { response, .. } => response.to_bytes().len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_wait_for_each_other_and_small_messages_do_not_wait() {
        // A byte in a microsecond.
        let mut uplinks = Uplinks::new(2, 8_000_000);
        let of = |bytes: usize| Payload::Transaction(vec![0; bytes].into());
        let mut send = |now, node, bytes| {
            let departure = uplinks.send(now, node, &of(bytes));
            (departure.at, departure.bulk)
        };
        assert_eq!(send(0, 0, 100_000), (100, true));
        assert_eq!(send(10, 0, 100_000), (200, true));
        assert_eq!(send(20, 0, 2_000), (22, false));
        assert_eq!(send(20, 0, 98_000), (300, true), "what follows a small message waits that much longer");
        assert_eq!(send(20, 1, 100_000), (120, true), "each node has its own");
        assert_eq!(send(1000, 0, SMALL), (1016, false));
        assert_eq!(uplinks.sent(), [300_000 + SMALL as u64, 100_000]);
    }
}
