//! Channels: what is sent to peers, at which priority, and what happens when a queue is full.
//!
//! | channel | id | carried by | priority | full outgoing queue | full incoming queue |
//! |---|---|---|---|---|---|
//! | consensus | 0 | one long stream per direction | highest | drop the oldest | wait: backpressure on that peer's stream |
//! | mempool | 1 | one long stream per direction | 4th | drop the newest | drop, counted |
//! | data | 2 | one long stream per direction | 2nd | drop the oldest | wait: backpressure on that peer's stream |
//! | sync | 3 | one stream per request | 3rd | refuse: an error to the caller | refuse: "busy" to the peer |
//! | discovery | 4 | one long stream per direction | lowest | drop the oldest | drop, counted |
//!
//! Incoming queues are bounded in messages and bytes for all peers together, outgoing ones for each peer, and all of these
//! and what is on its way into the incoming ones by one budget (the `budget` module).
//!
//! Old votes and old data lose their worth, so the oldest goes; a pooled transaction that is already on its way is
//! worth more than one more.

use std::fmt;

/// A kind of traffic between two nodes. See the module's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Channel {
    /// Proposals, votes, certificates, shares.
    Consensus = 0,
    /// Transactions and envelopes.
    Mempool = 1,
    /// Block bodies, batches, coded pieces.
    Data = 2,
    /// Requests for what a node missed, and their responses.
    Sync = 3,
    /// Announcements. Used by the network itself.
    Discovery = 4,
}

/// What happens to a message that meets a full outgoing queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// The oldest queued messages make room.
    DropOldest,
    /// The message is dropped.
    DropNewest,
    /// The caller gets an error.
    Refuse,
}

impl Channel {
    /// All channels, in the order of their ids.
    pub const ALL: [Self; 5] = [Self::Consensus, Self::Mempool, Self::Data, Self::Sync, Self::Discovery];
    /// The channels that carry one-way messages on a long stream.
    pub const STREAMED: [Self; 4] = [Self::Consensus, Self::Mempool, Self::Data, Self::Discovery];

    /// The id on the wire.
    #[must_use]
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// The channel of a wire id.
    #[must_use]
    pub const fn from_id(id: u8) -> Option<Self> {
        Some(match id {
            0 => Self::Consensus,
            1 => Self::Mempool,
            2 => Self::Data,
            3 => Self::Sync,
            4 => Self::Discovery,
            _ => return None,
        })
    }

    /// The name in logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Consensus => "consensus",
            Self::Mempool => "mempool",
            Self::Data => "data",
            Self::Sync => "sync",
            Self::Discovery => "discovery",
        }
    }

    /// The place in an array with one entry per channel.
    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    /// The QUIC stream priority; what is ready on a higher one goes into packets first.
    #[must_use]
    pub const fn priority(self) -> i32 {
        match self {
            Self::Consensus => 40,
            Self::Data => 30,
            Self::Sync => 20,
            Self::Mempool => 10,
            Self::Discovery => 0,
        }
    }

    /// What happens to a message that meets a full outgoing queue.
    #[must_use]
    pub const fn overflow(self) -> Overflow {
        match self {
            Self::Consensus | Self::Data | Self::Discovery => Overflow::DropOldest,
            Self::Mempool => Overflow::DropNewest,
            Self::Sync => Overflow::Refuse,
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_indices_and_round_trip() {
        for (i, channel) in Channel::ALL.into_iter().enumerate() {
            assert_eq!(channel.index(), i);
            assert_eq!(Channel::from_id(channel.id()), Some(channel));
        }
        assert_eq!(Channel::from_id(5), None);
    }

    #[test]
    fn nothing_goes_before_consensus() {
        for channel in Channel::ALL.into_iter().skip(1) {
            assert!(channel.priority() < Channel::Consensus.priority());
        }
    }
}
