//! What a node keeps of its squares, and what it answers to whom.
//!
//! ```text
//!   request --too old, not final?--> Outside           (the node knows the window: blocks, clock)
//!      |
//!      +--> SquareServer: budget --square at hand--> answer with proofs
//!                            |
//!                            +--not at hand--> Encode: the node encodes the stored body, inserts it, asks again
//! ```
//!
//! Squares are not stored: one takes four times its body, and 128 KiB are encoded in 0.7 ms, 2 MiB in some 15. What is
//! stored anyway is the body. Those encoded lately are kept in memory, the ones used longest ago going first; light
//! clients sample new blocks, which their voters have just encoded.
//!
//! Each asker has a budget of bytes that fills up again at a fixed rate (a token bucket). An answer costs its size; having
//! a square encoded anew costs the size of its data besides. Askers whose budget is full are forgotten, so that the list
//! holds those who asked lately and no more than [`Limits::max_askers`]; when it is full, strangers are told to come back.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use cascade_primitives::{DaCommitment, Height, NodeId, TimestampMs};

use crate::{
    fraud::BadEncoding,
    shape::Shape,
    square::Square,
    wire::{Answer, MAX_ANSWER_BYTES, Request},
};

/// How much is kept and served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory that squares may hold. The newest one inserted is kept whatever its size.
    pub max_bytes: usize,
    /// Squares that are kept at most.
    pub max_squares: usize,
    /// Bytes a second that one asker may have.
    pub bytes_per_second: u64,
    /// Bytes that one asker may have at once. At least the largest answer, or that one is never given.
    pub burst_bytes: u64,
    /// Askers whose budget is remembered.
    pub max_askers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_bytes: 256 << 20,
            max_squares: 1024,
            bytes_per_second: 4 << 20,
            burst_bytes: 64 << 20,
            max_askers: 1024,
        }
    }
}

/// Proofs of bad encoding that are kept.
const MAX_FRAUDS: usize = 16;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Asker {
    /// A node, over an authenticated connection.
    Node(NodeId),
    /// A machine, over HTTP.
    Host(IpAddr),
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer.
    Answer(Answer),
    /// The square is not at hand: encode the block's body, [`SquareServer::insert`] it, and ask again.
    Encode,
}

#[derive(Debug)]
struct Kept {
    square: Arc<Square>,
    bytes: usize,
    used: u64,
}

#[derive(Clone, Copy, Debug)]
struct Budget {
    bytes: u64,
    at: TimestampMs,
}

/// Squares of final blocks, served within limits.
#[derive(Debug)]
pub struct SquareServer {
    limits: Limits,
    squares: BTreeMap<Height, Kept>,
    frauds: BTreeMap<Height, BadEncoding>,
    bytes: usize,
    uses: u64,
    askers: BTreeMap<Asker, Budget>,
}

impl SquareServer {
    /// A server that keeps nothing yet.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self { limits, squares: BTreeMap::new(), frauds: BTreeMap::new(), bytes: 0, uses: 0, askers: BTreeMap::new() }
    }

    /// Keeps the square of a final block. Answers those that had to go for it.
    pub fn insert(&mut self, height: Height, square: Arc<Square>) -> Vec<Arc<Square>> {
        let (bytes, used) = (square.memory(), self.next_use());
        self.bytes += bytes;
        let mut gone: Vec<Arc<Square>> = Vec::new();
        if let Some(before) = self.squares.insert(height, Kept { square, bytes, used }) {
            self.bytes -= before.bytes;
            gone.push(before.square);
        }
        while self.squares.len() > 1
            && (self.bytes > self.limits.max_bytes || self.squares.len() > self.limits.max_squares)
        {
            let oldest = self.squares.iter().min_by_key(|(_, kept)| kept.used).map(|(height, _)| *height);
            let kept = self.squares.remove(&oldest.expect("there are two")).expect("it was just found");
            self.bytes -= kept.bytes;
            gone.push(kept.square);
        }
        gone
    }

    fn next_use(&mut self) -> u64 {
        self.uses += 1;
        self.uses
    }

    /// From now on answers requests for a height with the proof that its square is badly encoded. The caller has verified
    /// it against the final header.
    pub fn condemn(&mut self, height: Height, proof: BadEncoding) {
        self.frauds.insert(height, proof);
        while self.frauds.len() > MAX_FRAUDS {
            self.frauds.pop_first();
        }
    }

    /// The proof that a height's square is badly encoded, if there is one.
    #[must_use]
    pub fn condemned(&self, height: Height) -> Option<&BadEncoding> {
        self.frauds.get(&height)
    }

    /// Heights from one on for which there are proofs, rising.
    pub fn condemned_from(&self, from: Height) -> impl Iterator<Item = Height> + '_ {
        self.frauds.range(from..).map(|(height, _)| *height)
    }

    /// Whether the square of a height is at hand.
    #[must_use]
    pub fn has(&self, height: Height) -> bool {
        self.squares.contains_key(&height)
    }

    /// Bytes of memory that the squares hold.
    #[must_use]
    pub const fn memory(&self) -> usize {
        self.bytes
    }

    /// Squares at hand.
    #[must_use]
    pub fn squares(&self) -> usize {
        self.squares.len()
    }

    /// Askers whose budget is remembered.
    #[must_use]
    pub fn askers(&self) -> usize {
        self.askers.len()
    }

    /// Answers a request for a height inside the window, whose final header commits to `header`.
    pub fn answer(&mut self, now: TimestampMs, asker: Asker, request: &Request, header: &DaCommitment) -> Outcome {
        let height = request.height();
        let Ok(shape) = Shape::of_commitment(header) else { return Outcome::Answer(Answer::NotInSquare) };
        // A proof that is larger than an answer may be has to be asked for.
        let fraud = self.frauds.get(&height).filter(|fraud| fraud.encoded_len() <= MAX_ANSWER_BYTES).cloned();
        let cost = match &fraud {
            Some(fraud) => fraud.encoded_len() as u64,
            None if self.squares.contains_key(&height) => cost(&shape, request),
            None => shape.data_size() as u64,
        };
        if let Err(retry_ms) = self.spend(now, asker, cost) {
            return Outcome::Answer(Answer::Busy { retry_ms });
        }
        if let Some(fraud) = fraud {
            return Outcome::Answer(Answer::BadEncoding(Box::new(fraud)));
        }
        let used = self.next_use();
        let Some(kept) = self.squares.get_mut(&height) else { return Outcome::Encode };
        kept.used = used;
        Outcome::Answer(read(&kept.square, request))
    }

    /// Takes the cost of something from an asker's budget.
    ///
    /// # Errors
    /// The milliseconds after which there is enough.
    pub fn spend(&mut self, now: TimestampMs, asker: Asker, cost: u64) -> Result<(), u32> {
        let limits = self.limits;
        let filled = |budget: &Budget| {
            let gained = (now.0.saturating_sub(budget.at.0)).saturating_mul(limits.bytes_per_second) / 1000;
            budget.bytes.saturating_add(gained).min(limits.burst_bytes)
        };
        let full = Budget { bytes: limits.burst_bytes, at: now };
        if !self.askers.contains_key(&asker) && self.askers.len() >= limits.max_askers {
            self.askers.retain(|_, budget| filled(budget) < limits.burst_bytes);
            if self.askers.len() >= limits.max_askers {
                return Err(1000);
            }
        }
        let budget = self.askers.entry(asker).or_insert(full);
        let bytes = filled(budget);
        if bytes < cost {
            let wait = (cost - bytes).saturating_mul(1000).div_ceil(limits.bytes_per_second.max(1));
            return Err(u32::try_from(wait).unwrap_or(u32::MAX));
        }
        *budget = Budget { bytes: bytes - cost, at: now };
        Ok(())
    }
}

fn read(square: &Square, request: &Request) -> Answer {
    match request {
        Request::Roots { .. } => {
            let commitment = square.commitment();
            Answer::Roots { roots: commitment.roots().to_vec() }
        }
        Request::Samples { ids, .. } => {
            let samples = ids.iter().map(|id| square.sample(id.row, id.column, id.axis));
            samples.collect::<Option<_>>().map_or(Answer::NotInSquare, Answer::Samples)
        }
        Request::Line { line, .. } => {
            square.line(*line).map_or(Answer::NotInSquare, |data| Answer::Line(Box::new(data)))
        }
    }
}

/// Bytes of an answer, about.
fn cost(shape: &Shape, request: &Request) -> u64 {
    // A path in the line, its root, the path of that, and lengths.
    let hashes = 32 * (2 * shape.side().ilog2() as usize + 3);
    let line = shape.width() * shape.share_size();
    let bytes = match request {
        Request::Roots { .. } => 64 * shape.side() + 32,
        Request::Samples { ids, .. } => ids.len() * (shape.share_size() + hashes),
        Request::Line { .. } => line + hashes,
    };
    64 + bytes as u64
}
