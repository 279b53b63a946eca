//! What a node keeps of its squares, and what it answers to whom.
//!
//! Squares are kept while they are young enough *and* fit a number of bytes; the oldest goes first. Outside of that
//! window the answer says which heights are inside. Each peer has a budget of bytes that fills up again at a fixed rate
//! (a token bucket); what an answer costs is its size. Peers whose budget is full are forgotten, so that the list of
//! peers holds those who asked lately and no more than [`Limits::max_peers`]; when it is full, strangers are told to
//! come back.

use std::collections::{BTreeMap, VecDeque};

use cascade_primitives::{Height, NodeId, TimestampMs};

use crate::{
    fraud::BadEncoding,
    shape::Shape,
    square::Square,
    wire::{Answer, Request},
};

/// How much is kept and served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a square is kept, in ms (`ChainParams::share_retention_ms`).
    pub retention_ms: u64,
    /// Bytes of memory that squares may hold. The newest one is kept whatever its size.
    pub max_bytes: usize,
    /// Bytes a second that one peer may have.
    pub peer_bytes_per_second: u64,
    /// Bytes that one peer may have at once. At least the largest answer, or that one is never given.
    pub peer_burst_bytes: u64,
    /// Peers whose budget is remembered.
    pub max_peers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            retention_ms: 3_600_000,
            max_bytes: 512 << 20,
            peer_bytes_per_second: 1 << 20,
            peer_burst_bytes: 4 << 20,
            max_peers: 1024,
        }
    }
}

#[derive(Debug)]
struct Kept {
    height: Height,
    since: TimestampMs,
    bytes: usize,
    square: Square,
    fraud: Option<BadEncoding>,
}

#[derive(Clone, Copy, Debug)]
struct Budget {
    bytes: u64,
    at: TimestampMs,
}

/// The squares of a window of heights, served within limits.
#[derive(Debug)]
pub struct SquareServer {
    limits: Limits,
    squares: VecDeque<Kept>,
    bytes: usize,
    peers: BTreeMap<NodeId, Budget>,
}

impl SquareServer {
    /// A server that keeps nothing yet.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self { limits, squares: VecDeque::new(), bytes: 0, peers: BTreeMap::new() }
    }

    /// Keeps the square of the next final block. A height at or below the newest is ignored; a gap empties the window,
    /// so that what is inside is always a run of heights.
    pub fn insert(&mut self, now: TimestampMs, height: Height, square: Square) {
        if let Some(newest) = self.squares.back().map(|kept| kept.height) {
            if height <= newest {
                return;
            }
            if height != newest.next() {
                self.squares.clear();
                self.bytes = 0;
            }
        }
        let bytes = square.memory();
        self.bytes += bytes;
        self.squares.push_back(Kept { height, since: now, bytes, square, fraud: None });
        self.prune(now);
    }

    /// From now on answers requests for a height with the proof that its square is badly encoded.
    pub fn condemn(&mut self, height: Height, proof: BadEncoding) {
        if let Some(at) = self.place(height) {
            self.squares[at].fraud = Some(proof);
        }
    }

    /// Drops what is too old or too much.
    pub fn prune(&mut self, now: TimestampMs) {
        while let Some(oldest) = self.squares.front() {
            let old = oldest.since.plus(self.limits.retention_ms) < now;
            let much = self.bytes > self.limits.max_bytes && self.squares.len() > 1;
            if !old && !much {
                return;
            }
            self.bytes -= oldest.bytes;
            self.squares.pop_front();
        }
    }

    /// Lowest and highest height that are kept; none if nothing is.
    #[must_use]
    pub fn window(&self) -> Option<(Height, Height)> {
        Some((self.squares.front()?.height, self.squares.back()?.height))
    }

    /// Bytes of memory that the squares hold.
    #[must_use]
    pub const fn memory(&self) -> usize {
        self.bytes
    }

    /// Peers whose budget is remembered.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.peers.len()
    }

    fn place(&self, height: Height) -> Option<usize> {
        let (oldest, newest) = self.window()?;
        (oldest <= height && height <= newest).then(|| (height.0 - oldest.0) as usize)
    }

    /// Answers a request.
    pub fn answer(&mut self, now: TimestampMs, peer: NodeId, request: &Request) -> Answer {
        self.prune(now);
        let Some(at) = self.place(request.height()) else {
            let (oldest, newest) = self.window().unwrap_or((Height(1), Height(0)));
            return Answer::Outside { oldest, newest };
        };
        let kept = &self.squares[at];
        let cost = cost(kept.square.shape(), request, kept.fraud.is_some());
        if let Err(retry_ms) = self.spend(now, peer, cost) {
            return Answer::Busy { retry_ms };
        }
        let kept = &self.squares[at];
        if let Some(fraud) = &kept.fraud {
            return Answer::BadEncoding(Box::new(fraud.clone()));
        }
        match request {
            Request::Roots { .. } => {
                let commitment = kept.square.commitment();
                Answer::Roots { data_hash: commitment.data_hash(), roots: commitment.roots().to_vec() }
            }
            Request::Samples { ids, .. } => {
                let samples = ids.iter().map(|id| kept.square.sample(id.row, id.column, id.axis));
                samples.collect::<Option<_>>().map_or(Answer::NotInSquare, Answer::Samples)
            }
            Request::Line { line, .. } => {
                kept.square.line(*line).map_or(Answer::NotInSquare, |data| Answer::Line(Box::new(data)))
            }
        }
    }

    /// Takes the cost from a peer's budget, or answers after how many milliseconds there is enough.
    fn spend(&mut self, now: TimestampMs, peer: NodeId, cost: u64) -> Result<(), u32> {
        let limits = self.limits;
        let filled = |budget: &Budget| {
            let gained = (now.0.saturating_sub(budget.at.0)).saturating_mul(limits.peer_bytes_per_second) / 1000;
            budget.bytes.saturating_add(gained).min(limits.peer_burst_bytes)
        };
        let full = Budget { bytes: limits.peer_burst_bytes, at: now };
        if !self.peers.contains_key(&peer) && self.peers.len() >= limits.max_peers {
            self.peers.retain(|_, budget| filled(budget) < limits.peer_burst_bytes);
            if self.peers.len() >= limits.max_peers {
                return Err(1000);
            }
        }
        let budget = self.peers.entry(peer).or_insert(full);
        let bytes = filled(budget);
        if bytes < cost {
            let wait = (cost - bytes).saturating_mul(1000).div_ceil(limits.peer_bytes_per_second.max(1));
            return Err(u32::try_from(wait).unwrap_or(u32::MAX));
        }
        *budget = Budget { bytes: bytes - cost, at: now };
        Ok(())
    }
}

/// Bytes of an answer, about.
fn cost(shape: &Shape, request: &Request, fraud: bool) -> u64 {
    let hashes = 32 * (shape.side().ilog2() as usize + 2 * shape.side().ilog2() as usize + 4);
    let line = shape.width() * shape.share_size();
    let bytes = match request {
        _ if fraud => line + shape.width() * hashes + 64 * shape.side(),
        Request::Roots { .. } => 64 * shape.side() + 32,
        Request::Samples { ids, .. } => ids.len() * (shape.share_size() + hashes),
        Request::Line { .. } => line + hashes,
    };
    64 + bytes as u64
}
