//! What goes into the client and what comes out of it.

use cascade_da::{
    BadEncoding, ShapeError,
    wire::{Answer as DataAnswer, Request as DataRequest},
};
use cascade_primitives::{B256, BlockHash, Height, NodeId, SigningContext, TimestampMs};
use thiserror::Error;

use crate::{
    chain::{Chain, Checkpoint},
    sampler::Availability,
    wire::{ChainAnswer, ChainRequest},
};

/// What a client starts from.
#[derive(Clone, Debug)]
pub enum Start {
    /// The genesis block. Whoever held a majority of stake long ago can rewrite a chain that is followed from here; the
    /// client says so when the genesis block is older than the unstaking delay, and goes on.
    Genesis(Checkpoint),
    /// A recent final block. Refused when it is older than the unstaking delay.
    Checkpoint(Checkpoint),
    /// What an earlier run saved, with the checkpoint that run started from. Refused when it is older than the unstaking
    /// delay.
    Saved(Box<Chain>, Checkpoint),
}

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// What signatures of the chain are bound to.
    pub signing: SigningContext,
    /// What is trusted.
    pub start: Start,
    /// How long stake stays bound after its owner left, in ms: nothing older than that is trusted.
    pub unstaking_delay_ms: u64,
    /// Samples of each block.
    pub samples: usize,
    /// How long a request may take, in ms.
    pub timeout_ms: u64,
    /// How long after a header was seen an unanswered sample counts as withheld, in ms.
    pub give_up_ms: u64,
    /// A client that heard nothing of the chain for so long catches up before it follows again, and a newest header that is
    /// older by its clock is told, in ms.
    pub live_ms: u64,
    /// How long nodes keep squares, by headers' times, in ms (`ChainParams::share_retention_ms`). What is about to be older
    /// is not sampled, whatever phase the client is in.
    pub retention_ms: u64,
    /// Whether blocks have squares (`ChainParams::data_squares`). A header above genesis without one then stops the client.
    pub data_squares: bool,
    /// How often each peer is asked for which heights it holds proofs of bad encoding, in ms.
    pub fraud_poll_ms: u64,
    /// How often a peer is asked for news, in ms.
    pub poll_ms: u64,
    /// Sample requests under way at once.
    pub max_requests: usize,
    /// Heights whose outcome is kept.
    pub max_heights: usize,
    /// Secret randomness from the operating system. Who knows it knows what will be sampled.
    pub seed: [u8; 32],
}

impl Config {
    /// The usual values.
    #[must_use]
    pub const fn new(signing: SigningContext, start: Start, unstaking_delay_ms: u64, seed: [u8; 32]) -> Self {
        Self {
            signing,
            start,
            unstaking_delay_ms,
            samples: 16,
            timeout_ms: 2_000,
            give_up_ms: 10_000,
            live_ms: 60_000,
            retention_ms: 604_800_000,
            data_squares: true,
            fraud_poll_ms: 3_000,
            poll_ms: 500,
            max_requests: 64,
            max_heights: 1024,
            seed,
        }
    }
}

/// The number of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What is asked of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// About the chain.
    Chain(ChainRequest),
    /// About data.
    Data(DataRequest),
    /// For which heights from one on the peer holds proofs that their squares are wrong.
    Frauds {
        /// The lowest height of interest.
        from: Height,
    },
}

/// What a peer answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// About the chain.
    Chain(ChainAnswer),
    /// About data.
    Data(DataAnswer),
    /// Heights for which the peer holds proofs.
    Frauds(Vec<Height>),
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// A peer can be asked.
    PeerUp(NodeId),
    /// A peer is gone.
    PeerDown(NodeId),
    /// A request was answered.
    Answered {
        /// Which one.
        id: RequestId,
        /// The answer.
        answer: Answer,
        /// Bytes received for it.
        bytes: u64,
    },
    /// A request failed: no connection, no answer, or bytes that do not decode.
    Failed {
        /// Which one.
        id: RequestId,
        /// How.
        why: Failure,
        /// Bytes received for it all the same.
        bytes: u64,
    },
    /// A peer passed on a proof of bad encoding.
    Fraud {
        /// Who.
        from: NodeId,
        /// The block.
        height: Height,
        /// The proof.
        proof: Box<BadEncoding>,
        /// Bytes received for it.
        bytes: u64,
    },
}

/// How a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There was no connection or no answer.
    Silent,
    /// The peer, or something before it, said that it cannot answer now.
    Busy,
    /// The peer broke the protocol.
    Hostile,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Send a request.
    Ask {
        /// Its number.
        id: RequestId,
        /// To whom.
        peer: NodeId,
        /// The request.
        request: Request,
        /// Over a connection that is not linked to others, if possible.
        alone: bool,
    },
    /// Disconnect a peer that lied.
    Drop {
        /// Who.
        peer: NodeId,
        /// What it did.
        why: String,
    },
    /// Send a proof of bad encoding to a peer.
    PassOn {
        /// To whom.
        peer: NodeId,
        /// The block.
        height: Height,
        /// The proof.
        proof: Box<BadEncoding>,
    },
    /// Tell the user.
    Report(Report),
    /// Step again with [`Input::Tick`] at this time, if nothing else happens before.
    WakeAt(TimestampMs),
    /// The client has stopped and does nothing more.
    Stop(Stop),
}

/// News for the user.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// The chain is known up to here.
    CaughtUp {
        /// The newest final height.
        height: Height,
        /// Its hash.
        hash: BlockHash,
    },
    /// A new final header, which is sampled from now on.
    Header {
        /// Its height.
        height: Height,
        /// Its hash.
        hash: BlockHash,
    },
    /// What is known about a height's data has changed.
    Data {
        /// The height.
        height: Height,
        /// What is known.
        availability: Availability,
    },
    /// The genesis block is older than the unstaking delay; a recent checkpoint would be safer.
    OldGenesis,
    /// Heights above the first one that was followed whose data this client will not know.
    Unsampled {
        /// The lowest.
        from: Height,
        /// The highest.
        to: Height,
        /// Why.
        why: Unsampled,
    },
    /// The newest final header is much older than this machine's clock: that is fast, or the chain stands still or has slow
    /// ones. Told once, until it is over.
    Behind {
        /// Its age in ms.
        age_ms: u64,
    },
    /// No peer has answered anything for a while. Told once, until one does.
    Unreachable {
        /// For how long, in ms.
        for_ms: u64,
        /// Peers that are asked.
        peers: usize,
    },
    /// A peer answers again.
    Reached,
}

/// Why a height is not sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsampled {
    /// The chain has no squares.
    NoSquare,
    /// Its header was too old by this machine's clock for nodes to have its square.
    Old,
    /// It was jumped over, after a time without peers or where its header could not be proved by itself.
    JumpedOver,
    /// More heights were open than are kept; its samples had no answer so far.
    Evicted,
}

/// Why nothing from a height on can be relied on. What a shell keeps so that the next run knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condemned {
    /// The height.
    pub height: Height,
    /// The hash of its final header.
    pub hash: BlockHash,
    /// What is wrong with its data.
    pub why: Stop,
}

/// Why a client stopped.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Stop {
    /// The start, or what was known before a long sleep, is too old to be trusted.
    #[error(
        "what is known of the chain up to height {height} is {age_ms} ms old and the unstaking delay is {delay_ms} ms: those who signed \
         it may have left with their stake. Get a newer checkpoint from somebody you trust"
    )]
    TooOld {
        /// Its height.
        height: Height,
        /// Its age in ms.
        age_ms: u64,
        /// The delay in ms.
        delay_ms: u64,
    },
    /// Data is withheld.
    #[error(
        "the data of block {height} is withheld: {missing} of {samples} samples were answered by none of {peers} peers. \
         Nothing from this height on can be relied on, whatever its certificates say"
    )]
    Withheld {
        /// The height.
        height: Height,
        /// Samples that nobody answered.
        missing: usize,
        /// Samples that were asked for.
        samples: usize,
        /// Peers at hand.
        peers: usize,
    },
    /// Every peer lied and was dropped.
    #[error("no node is left to ask: all {liars} that were named answered with something that does not check")]
    NoPeers {
        /// How many did.
        liars: u64,
    },
    /// A header's data parameters are those of no square.
    #[error("block {height} commits to a square that cannot be: {error}. Nothing from this height on can be relied on")]
    Impossible {
        /// The height.
        height: Height,
        /// What is wrong with the parameters.
        error: ShapeError,
    },
    /// A square is badly encoded.
    #[error(
        "block {height} commits to a badly encoded square (root {root}), which a proof shows: a quorum of its committee \
         signed data that cannot be checked. Nothing from this height on can be relied on"
    )]
    BadEncoding {
        /// The height.
        height: Height,
        /// The root of the commitment.
        root: B256,
    },
}

/// Counts for the user.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Heights that were sampled to an end.
    pub heights: u64,
    /// Of these, withheld or badly encoded.
    pub failed: u64,
    /// The least confidence of an available height; none before the first.
    pub min_confidence: Option<f64>,
    /// Heights above the first one followed that were not sampled to an end and will not be.
    pub unsampled: u64,
    /// Samples answered and verified.
    pub samples: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Peers dropped for lying.
    pub liars: u64,
}
