//! Sampling of one height.
//!
//! Each sample is asked for by itself, from a peer drawn at random among those that were not asked for it in this
//! round, those that answer first. A round ends when all peers had their turn; a new one begins after [`ROUND_MS`], until the
//! sample is answered.
//!
//! A sample counts as withheld when `give_up_ms` have passed since the height was seen and there is *evidence* against every
//! peer; or [`PATIENCE_MS`] later, when there is some against one and all others were asked in vain:
//!
//! | what a peer did | worth |
//! |---|---|
//! | answered that it does not have the share | evidence, while the peer goes on answering anything ([`FRESH_MS`]) |
//! | left it unanswered [`SILENCES`] times, and answered something else after each | the same |
//! | was busy, or answered nothing at all | none: it may be others who keep it busy, or the connection |
//!
//! So with one honest peer that keeps the square and can be reached an available height is never called withheld; a withheld one
//! is found whatever others do, as long as one honest peer answers; and a client that has lost its connection, or whose peers are
//! too busy for everything, concludes nothing.

use std::collections::{BTreeMap, BTreeSet};

use cascade_da::{SampleId, Shape, ShapeError, sampling};
use cascade_primitives::{DaCommitment, Height, NodeId, TimestampMs};
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{RngCore as _, SeedableRng as _},
};

/// Shortest time between the first two rounds of asking all peers for one sample, in ms. It doubles with each round, three
/// times.
pub const ROUND_MS: u64 = 1_000;
/// What a peer said of a sample counts for so long after the last answer of any kind from it, in ms.
pub const FRESH_MS: u64 = 10_000;
/// Peers that leave everything unanswered, or are busy, keep a height open for so long beyond the time to give up, in ms.
pub const PATIENCE_MS: u64 = 60_000;
/// Times that a peer has to leave a sample unanswered, and to answer something else afterwards.
pub const SILENCES: u32 = 3;

/// What is known of a peer that can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    /// When it last answered anything; when it came, before it did.
    pub(crate) heard: TimestampMs,
    /// It has left a request unanswered since: others are preferred.
    pub(crate) slow: bool,
}

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
    /// The header was so old when it was seen that nodes need not have its square any more.
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
    /// What peers said of it.
    said: BTreeMap<NodeId, Said>,
    /// Rounds that began, and when the next one may.
    rounds: u32,
    round_from: TimestampMs,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Asked,
    Answered,
}

/// What one peer said of one sample.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    /// That it does not have it.
    denied: bool,
    /// Times that it left it unanswered and answered something else before it was asked for it again.
    silences: u32,
    /// When it last left it unanswered.
    failed: Option<TimestampMs>,
}

impl Said {
    fn is_evidence(&self, peer: &Peer, now: TimestampMs) -> bool {
        let answers_others = self.failed.is_some_and(|failed| peer.heard > failed);
        let silent = self.silences + u32::from(answers_others) >= SILENCES;
        peer.heard.plus(FRESH_MS) >= now && (self.denied || silent)
    }
}

/// The samples of one height.
#[derive(Clone, Debug)]
pub(crate) struct Sampler {
    shape: Shape,
    wants: Vec<Want>,
    /// Until then there is nothing to ask for, unless something happens.
    idle_until: TimestampMs,
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
        let want = |id| Want {
            id,
            tried: BTreeSet::new(),
            said: BTreeMap::new(),
            rounds: 0,
            round_from: now,
            state: State::Open,
        };
        Ok(Self {
            shape,
            wants: sampling::draw(&shape, samples, seed).into_iter().map(want).collect(),
            idle_until: TimestampMs(0),
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
        peers: &[Peer],
        mut pick: impl FnMut(usize) -> usize,
    ) -> Option<(usize, NodeId)> {
        if self.availability != Availability::Sampling || now < self.idle_until || peers.is_empty() {
            return None;
        }
        let mut idle_until = TimestampMs(u64::MAX);
        for (index, want) in self.wants.iter_mut().enumerate().filter(|(_, want)| want.state == State::Open) {
            let mut candidates: Vec<&Peer> = peers.iter().filter(|peer| !want.tried.contains(&peer.id)).collect();
            if candidates.is_empty() {
                if now < want.round_from {
                    idle_until = idle_until.min(want.round_from);
                    continue;
                }
                want.tried.clear();
                candidates = peers.iter().collect();
            }
            if candidates.iter().any(|peer| !peer.slow) {
                candidates.retain(|peer| !peer.slow);
            }
            if want.tried.is_empty() {
                want.round_from = now.plus(ROUND_MS << want.rounds.min(3));
                want.rounds += 1;
            }
            let peer = candidates[pick(candidates.len())].id;
            want.tried.insert(peer);
            want.state = State::Asked;
            return Some((index, peer));
        }
        self.idle_until = idle_until;
        None
    }

    /// There may be something to ask for: a peer came.
    pub(crate) const fn wake(&mut self) {
        self.idle_until = TimestampMs(0);
    }

    /// A sample was answered, with a proof that was checked.
    pub(crate) fn answered(&mut self, index: usize) {
        self.wants[index].state = State::Answered;
        if self.availability == Availability::Sampling && self.wants.iter().all(|want| want.state == State::Answered) {
            self.availability =
                Availability::Available { confidence: sampling::confidence(&self.shape, self.wants.len()) };
        }
    }

    /// A peer answered that it does not have a sample.
    pub(crate) fn denied(&mut self, index: usize, peer: NodeId) {
        self.reopen(index);
        self.wants[index].said.entry(peer).or_default().denied = true;
    }

    /// A peer left a sample unanswered. `heard` is when it last answered anything.
    pub(crate) fn unanswered(&mut self, now: TimestampMs, index: usize, peer: NodeId, heard: TimestampMs) {
        self.reopen(index);
        let said = self.wants[index].said.entry(peer).or_default();
        said.silences += u32::from(said.failed.is_some_and(|failed| heard > failed));
        said.failed = Some(now);
    }

    /// A peer was asked for a sample and was too busy.
    pub(crate) fn refused(&mut self, index: usize, peer: NodeId) {
        self.reopen(index);
        self.wants[index].said.entry(peer).or_default();
    }

    /// A sample was asked for in vain, which says nothing of anybody.
    pub(crate) fn reopen(&mut self, index: usize) {
        self.wake();
        if self.wants[index].state == State::Asked {
            self.wants[index].state = State::Open;
        }
    }

    /// The time for giving up begins again, and what peers did so far is forgotten: the machine slept, or was cut off.
    pub(crate) fn begin_again(&mut self, now: TimestampMs, give_up_ms: u64) {
        self.wake();
        self.give_up = now.plus(give_up_ms);
        for want in &mut self.wants {
            want.said.clear();
            want.tried.clear();
            (want.rounds, want.round_from) = (0, now);
        }
    }

    pub(crate) const fn condemn(&mut self) {
        self.availability = Availability::BadEncoding;
    }

    /// Gives up if the time is over and there is evidence about a sample: see the module's doc. Answers whether it did now.
    pub(crate) fn give_up(&mut self, now: TimestampMs, peers: &[Peer]) -> bool {
        if self.availability != Availability::Sampling || now < self.give_up {
            return false;
        }
        let is_late = now >= self.give_up.plus(PATIENCE_MS);
        let withheld = |want: &&Want| {
            let evidence = |peer: &&Peer| want.said.get(&peer.id).is_some_and(|said| said.is_evidence(peer, now));
            let against = peers.iter().filter(evidence).count();
            want.state != State::Answered
                && against > 0
                && peers.iter().all(|peer| evidence(&peer) || (is_late && want.said.contains_key(&peer.id)))
        };
        let missing = self.wants.iter().filter(withheld).count();
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
        Some(self.idle_until.min(self.give_up))
    }

    /// Samples answered, and the confidence that they give by themselves.
    pub(crate) fn progress(&self) -> (usize, usize) {
        let answered = self.wants.iter().filter(|want| want.state == State::Answered).count();
        (answered, self.wants.len())
    }
}
