//! Sampling of one height.
//!
//! Each sample is asked for by itself, from a peer drawn at random among those that were not asked for it in this
//! round. A round ends when all peers had their turn; a new one begins after [`ROUND_MS`], until the sample is answered.
//! A sample that is unanswered after a full round and after `give_up_ms` since the height was seen counts as withheld:
//! with one honest peer that keeps the square and can be reached, that does not happen to an available one.

use std::collections::BTreeSet;

use cascade_da::{SampleId, Shape, ShapeError, sampling};
use cascade_primitives::{DaCommitment, Height, NodeId, TimestampMs};
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{RngCore as _, SeedableRng as _},
};

/// Shortest time between two rounds of asking all peers for one sample, in ms.
pub const ROUND_MS: u64 = 1_000;

/// What decides which shares of a height are asked for, in a client with this seed: a stream of its own for each height, so
/// that it does not depend on which peers were drawn before.
#[must_use]
pub fn sampling_seed(client: [u8; 32], height: Height) -> [u8; 32] {
    let mut rng = ChaCha20Rng::from_seed(client);
    // Peers are drawn from stream 0.
    rng.set_stream(height.0.wrapping_add(1));
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    seed
}

/// What is known about the data of one height.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Availability {
    /// The header commits to no square: there is nothing to sample.
    NoSquare,
    /// The header was not new when it was seen, so that nodes need not have its square any more.
    NotLive,
    /// Samples are still asked for.
    Sampling,
    /// All samples were answered.
    Available {
        /// The probability that the square can be repaired, 0 to 1: see `cascade_da::sampling`.
        confidence: f64,
    },
    /// A sample was answered by nobody.
    Withheld {
        /// Samples that nobody answered.
        missing: usize,
    },
    /// The square is badly encoded, which is proved.
    BadEncoding,
}

#[derive(Clone, Debug)]
struct Want {
    id: SampleId,
    tried: BTreeSet<NodeId>,
    /// All peers at hand were asked at least once.
    full_round: bool,
    /// When the next round may begin.
    round_from: TimestampMs,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Asked,
    Answered,
}

/// The samples of one height.
#[derive(Clone, Debug)]
pub(crate) struct Sampler {
    shape: Shape,
    wants: Vec<Want>,
    give_up: TimestampMs,
    availability: Availability,
}

impl Sampler {
    /// A sampler for a header's square.
    ///
    /// # Errors
    /// [`ShapeError`] if the header's parameters are those of no square.
    pub(crate) fn new(
        now: TimestampMs,
        commitment: &DaCommitment,
        samples: usize,
        seed: [u8; 32],
        give_up_ms: u64,
    ) -> Result<Self, ShapeError> {
        let shape = Shape::of_commitment(commitment)?;
        let want = |id| Want { id, tried: BTreeSet::new(), full_round: false, round_from: now, state: State::Open };
        Ok(Self {
            shape,
            wants: sampling::draw(&shape, samples, seed).into_iter().map(want).collect(),
            give_up: now.plus(give_up_ms),
            availability: Availability::Sampling,
        })
    }

    pub(crate) const fn availability(&self) -> Availability {
        self.availability
    }

    pub(crate) fn id(&self, index: usize) -> SampleId {
        self.wants[index].id
    }

    /// The next sample to ask for and whom to ask. `pick` chooses among several peers.
    pub(crate) fn next(
        &mut self,
        now: TimestampMs,
        peers: &[NodeId],
        mut pick: impl FnMut(usize) -> usize,
    ) -> Option<(usize, NodeId)> {
        if self.availability != Availability::Sampling {
            return None;
        }
        for (index, want) in self.wants.iter_mut().enumerate().filter(|(_, want)| want.state == State::Open) {
            let fresh: Vec<NodeId> = peers.iter().filter(|peer| !want.tried.contains(peer)).copied().collect();
            want.full_round |= fresh.is_empty() && !peers.is_empty();
            let candidates = if !fresh.is_empty() {
                fresh
            } else if now >= want.round_from && !peers.is_empty() {
                want.tried.clear();
                peers.to_vec()
            } else {
                continue;
            };
            if want.tried.is_empty() {
                want.round_from = now.plus(ROUND_MS);
            }
            let peer = candidates[pick(candidates.len())];
            want.tried.insert(peer);
            want.state = State::Asked;
            return Some((index, peer));
        }
        None
    }

    /// A sample was answered, with a proof that was checked.
    pub(crate) fn answered(&mut self, index: usize) {
        self.wants[index].state = State::Answered;
        if self.availability == Availability::Sampling && self.wants.iter().all(|want| want.state == State::Answered) {
            self.availability =
                Availability::Available { confidence: sampling::confidence(&self.shape, self.wants.len()) };
        }
    }

    /// A sample was not answered.
    pub(crate) fn unanswered(&mut self, index: usize) {
        if self.wants[index].state == State::Asked {
            self.wants[index].state = State::Open;
        }
    }

    pub(crate) const fn condemn(&mut self) {
        self.availability = Availability::BadEncoding;
    }

    /// Gives up on samples for which the time is over and for which all peers were asked, or all that there were have
    /// gone. Answers whether it did now.
    pub(crate) fn give_up(&mut self, now: TimestampMs, peers: usize) -> bool {
        if self.availability != Availability::Sampling || now < self.give_up {
            return false;
        }
        let over =
            |want: &&Want| want.state == State::Open && (want.full_round || (peers == 0 && !want.tried.is_empty()));
        let missing = self.wants.iter().filter(over).count();
        if missing == 0 {
            return false;
        }
        self.availability = Availability::Withheld { missing };
        true
    }

    /// When something can happen by itself.
    pub(crate) fn next_time(&self) -> Option<TimestampMs> {
        if self.availability != Availability::Sampling {
            return None;
        }
        let open = self.wants.iter().filter(|want| want.state == State::Open);
        open.map(|want| want.round_from.min(self.give_up)).min()
    }

    /// Samples answered, and the confidence that they give by themselves.
    pub(crate) fn progress(&self) -> (usize, usize) {
        let answered = self.wants.iter().filter(|want| want.state == State::Answered).count();
        (answered, self.wants.len())
    }
}
