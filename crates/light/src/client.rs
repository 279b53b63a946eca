//! The client: one way in, a list of effects out.
//!
//! ```text
//!   Starting --checkpoint's header, committee--> CatchingUp --handovers, head--> Following --> Stopped
//!                                                    ^                              |    withheld, badly encoded,
//!                                                    +--- nothing heard for long ---+    the start refused, all lied
//! ```
//!
//! The shell that drives it owns connections and clock. It passes every answer with the number of the request and the
//! bytes it took, and wakes the client when it asked for it. Chain requests go to one peer at a time, drawn at random, and
//! to another after a failure. Sample requests go out one by one with `alone` set: the shell sends each over a
//! connection that cannot be linked to the others, if the network can do that, so that no peer learns what one client
//! samples. A peer whose answer does not check is dropped for good and its answer asked for elsewhere.
//!
//! Once it follows, every header is sampled whatever its time says, as long as nodes keep squares that old: a quorum whose
//! clocks lag, or a clock of the user's that is fast, does not switch sampling off. What is not sampled all the same is told
//! and counted ([`Report::Unsampled`]).
//!
//! A height that was sampled in full is available with a confidence; one with a sample that nobody has is withheld
//! ([`crate::sampler`] says when), one with a proof of bad encoding is bad, one that commits to no square on a chain with
//! squares cannot be sampled. All three stop the client: what is built on them must not be relied on, and
//! [`Client::saveable`] and [`Client::condemned`] keep the next run from it. Peers are asked now and then for which of the
//! heights seen they hold proofs, so a proof counts that was made after the height was sampled. One that holds is passed on to
//! all peers first.

mod headers;
mod peers;

use std::collections::{BTreeMap, BTreeSet};

use cascade_crypto::VoteScheme;
use cascade_da::{
    BadEncoding, Committed, ShapeError,
    wire::{Answer as DataAnswer, Request as DataRequest},
};
use cascade_primitives::{BlockHash, Header, Height, NodeId, ResultEntry, TimestampMs};
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{RngCore, SeedableRng},
};

use crate::{
    api::{Condemned, Config, Effect, Failure, Input, Report, Request, RequestId, Start, Stats, Stop, Unsampled},
    ask::MAX_FRAUDS,
    chain::{Chain, Checkpoint},
    sampler::{Availability, Peer, Sampler, sampling_seed},
    wire::ChainRequest,
};
use headers::Ahead;

/// Peers that are remembered as liars; the lowest ids are forgotten beyond that.
const MAX_LIARS: usize = 4096;
/// Shortest time between two requests for what the last peer asked did not have, in ms.
const RETRY_MS: u64 = 200;
/// The longest that a client with peers lets pass without a step, in ms.
const IDLE_MS: u64 = 2_000;
/// Time that passed between two steps, or went backwards, by more than this was spent asleep, or the clock was set: in ms.
const SLEPT_MS: u64 = 5_000;
/// Shortest time between two looks at whether a height is withheld, in ms.
const JUDGE_MS: u64 = 100;
/// Heights that samples are asked of at once, the lowest first: so many open ones mean that nodes cannot keep up.
const MAX_OPEN: usize = 32;
/// Proofs that a peer may name and not have before it is dropped: it keeps few and may have had to forget one.
const MAX_EMPTY_CLAIMS: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    CatchingUp,
    Following,
    Stopped,
}

#[derive(Clone, Debug)]
enum Purpose {
    Chain(ChainRequest),
    Sample(Height, usize),
    /// For which heights the peer holds proofs.
    Frauds,
    /// The proof that it says it holds.
    Proof(Height),
}

#[derive(Clone, Debug)]
struct Asked {
    peer: NodeId,
    purpose: Purpose,
    deadline: TimestampMs,
}

#[derive(Debug)]
struct Followed {
    /// The chain with this header as its tip.
    chain: Chain,
    data: Committed,
    /// None if nothing is sampled, for the reason beside it.
    sampler: Option<Sampler>,
    unsampled: Availability,
}

impl Followed {
    fn availability(&self) -> Availability {
        self.sampler.as_ref().map_or(self.unsampled, Sampler::availability)
    }

    /// Whether what is above may be relied on as far as this height goes.
    fn is_settled(&self) -> bool {
        !matches!(
            self.availability(),
            Availability::Sampling | Availability::Withheld { .. } | Availability::BadEncoding
        )
    }
}

/// A light client. See the module's doc.
#[derive(Debug)]
pub struct Client {
    config: Config,
    checkpoint: Checkpoint,
    verifier: Box<dyn VoteScheme>,
    rng: ChaCha20Rng,
    phase: Phase,
    chain: Option<Chain>,
    peers: BTreeMap<NodeId, Peer>,
    liars: BTreeSet<NodeId>,
    /// When the last step was.
    stepped: Option<TimestampMs>,
    /// When any peer last answered anything, and when the user was told that none does.
    heard: TimestampMs,
    told_unreachable: bool,
    /// When it was last looked whether heights are withheld.
    judged: TimestampMs,
    asked: BTreeMap<RequestId, Asked>,
    next_request: u64,
    /// The next question about the chain and when to ask it.
    question: Option<(TimestampMs, ChainRequest)>,
    /// Questions about the chain in a row that had no answer.
    unanswered: u32,
    /// When a peer last answered about the chain, and when anything new was last learned.
    chain_heard: TimestampMs,
    news: TimestampMs,
    /// Who named a block of a later epoch, and at which height: it has to show the way there.
    claimant: Option<(NodeId, Height)>,
    /// Something above the tip that is proved while the headers up to it are asked for.
    ahead: Option<Ahead>,
    /// Whether the history of a header has yet to show the checkpoint, because headers were jumped over.
    ancestry_due: bool,
    told_behind: bool,
    /// The lowest height that was followed, and the highest that was followed or counted as not sampled.
    followed: Option<(Height, Height)>,
    heights: BTreeMap<Height, Followed>,
    /// The chain as it was below the lowest of `heights`.
    floor: Option<Chain>,
    condemned: Option<Condemned>,
    /// When each peer is next asked for proofs, what it said it has one of, and how often it had not.
    frauds_at: BTreeMap<NodeId, TimestampMs>,
    claims: BTreeSet<(NodeId, Height)>,
    empty_claims: BTreeMap<NodeId, u32>,
    results: BTreeMap<Height, ResultEntry>,
    stats: Stats,
    effects: Vec<Effect>,
}

impl Client {
    /// A client that has not done anything yet.
    #[must_use]
    pub fn new(config: Config, verifier: Box<dyn VoteScheme>) -> Self {
        let (checkpoint, chain) = match &config.start {
            Start::Genesis(checkpoint) | Start::Checkpoint(checkpoint) => (*checkpoint, None),
            Start::Saved(chain, checkpoint) => (*checkpoint, Some(chain.as_ref().clone())),
        };
        // What was saved may have been reached by handovers alone.
        let ancestry_due = chain.as_ref().is_some_and(|chain| chain.hash() != checkpoint.hash);
        Self {
            rng: ChaCha20Rng::from_seed(config.seed),
            question: Some((TimestampMs(0), ChainRequest::Start { height: checkpoint.height })),
            config,
            checkpoint,
            verifier,
            phase: Phase::Starting,
            floor: chain.clone(),
            chain,
            peers: BTreeMap::new(),
            liars: BTreeSet::new(),
            stepped: None,
            heard: TimestampMs(0),
            told_unreachable: false,
            judged: TimestampMs(0),
            asked: BTreeMap::new(),
            next_request: 0,
            unanswered: 0,
            chain_heard: TimestampMs(0),
            news: TimestampMs(0),
            claimant: None,
            ahead: None,
            ancestry_due,
            told_behind: false,
            followed: None,
            heights: BTreeMap::new(),
            condemned: None,
            frauds_at: BTreeMap::new(),
            claims: BTreeSet::new(),
            empty_claims: BTreeMap::new(),
            results: BTreeMap::new(),
            stats: Stats::default(),
            effects: Vec::new(),
        }
    }

    /// The chain as far as it is known.
    #[must_use]
    pub const fn chain(&self) -> Option<&Chain> {
        self.chain.as_ref()
    }

    /// What a shell saves: the chain up to below the lowest height that is still sampled or that failed. None if nothing so
    /// low is kept: what was saved before is then void too.
    #[must_use]
    pub fn saveable(&self) -> Option<&Chain> {
        let open = self.heights.iter().find(|(_, followed)| !followed.is_settled()).map(|(height, _)| *height);
        let condemned = self.condemned.as_ref().map(|condemned| condemned.height);
        let Some(below) = open.into_iter().chain(condemned).min() else { return self.chain.as_ref() };
        let followed = self.heights.range(..below).next_back().map(|(_, followed)| &followed.chain);
        let sound = [followed, self.floor.as_ref()].into_iter().flatten().filter(|chain| chain.tip().height < below);
        sound.max_by_key(|chain| chain.tip().height)
    }

    /// Why nothing from some height on can be relied on, once the client has stopped for that. A shell keeps it beside what
    /// it saves.
    #[must_use]
    pub const fn condemned(&self) -> Option<&Condemned> {
        self.condemned.as_ref()
    }

    /// Heights from the first one followed to the last: each was sampled, is being sampled, or is counted as unsampled.
    #[must_use]
    pub fn followed(&self) -> u64 {
        self.followed.map_or(0, |(first, last)| last.0 + 1 - first.0)
    }

    /// Heights that are being sampled.
    #[must_use]
    pub fn sampling(&self) -> usize {
        self.heights.values().filter(|followed| followed.availability() == Availability::Sampling).count()
    }

    /// Counts.
    #[must_use]
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Peers that can be asked.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.peers.len()
    }

    /// What is known about a height that was followed.
    #[must_use]
    pub fn availability(&self, height: Height) -> Option<Availability> {
        self.heights.get(&height).map(Followed::availability)
    }

    /// Samples answered and wanted of a height that is sampled.
    #[must_use]
    pub fn progress(&self, height: Height) -> Option<(usize, usize)> {
        Some(self.heights.get(&height)?.sampler.as_ref()?.progress())
    }

    /// The hash of a height that was followed.
    #[must_use]
    pub fn hash(&self, height: Height) -> Option<BlockHash> {
        self.heights.get(&height).map(|followed| followed.chain.hash())
    }

    /// The results of a height, if a final header that was followed carried them: the roots that state and receipts
    /// are proved against.
    #[must_use]
    pub fn results(&self, height: Height) -> Option<&ResultEntry> {
        self.results.get(&height)
    }

    /// The newest results.
    #[must_use]
    pub fn newest_results(&self) -> Option<&ResultEntry> {
        self.results.last_key_value().map(|(_, entry)| entry)
    }

    /// Takes one input.
    pub fn step(&mut self, now: TimestampMs, input: Input) -> Vec<Effect> {
        if self.phase == Phase::Stopped {
            return Vec::new();
        }
        self.look_at_the_clock(now);
        match input {
            Input::Tick => {}
            Input::PeerUp(peer) => self.peer_up(now, peer),
            Input::PeerDown(peer) => self.forget(now, peer),
            Input::Answered { id, answer, bytes } => {
                self.stats.bytes_received += bytes;
                if let Some(asked) = self.asked.remove(&id) {
                    self.on_answer(now, asked, answer);
                }
            }
            Input::Failed { id, why, bytes } => {
                self.stats.bytes_received += bytes;
                if let Some(asked) = self.asked.remove(&id) {
                    self.on_failure(now, &asked, why);
                    if why == Failure::Hostile {
                        self.convict(now, asked.peer, "it sent bytes that are no answer".to_owned());
                    }
                }
            }
            Input::Fraud { from, height, proof, bytes } => {
                self.stats.bytes_received += bytes;
                self.on_fraud(now, from, height, proof);
            }
        }
        self.drive(now);
        std::mem::take(&mut self.effects)
    }

    fn drive(&mut self, now: TimestampMs) {
        if self.phase == Phase::Stopped {
            return;
        }
        let late: Vec<RequestId> = self.asked.iter().filter(|(_, a)| a.deadline <= now).map(|(id, _)| *id).collect();
        for id in late {
            let asked = self.asked.remove(&id).expect("it was just listed");
            self.on_failure(now, &asked, Failure::Silent);
        }
        if self.phase == Phase::Starting && self.chain.is_some() {
            self.started(now);
        }
        self.give_up(now);
        if self.phase == Phase::Stopped {
            return;
        }
        self.tell_unreachable(now);
        self.ask_about_chain(now);
        self.ask_for_proofs(now);
        self.ask_for_samples(now);
        if let Some(at) = self.next_time(now) {
            self.effects.push(Effect::WakeAt(at));
        }
    }

    fn next_time(&self, now: TimestampMs) -> Option<TimestampMs> {
        if self.peers.is_empty() {
            return None;
        }
        let deadlines = self.asked.values().map(|asked| asked.deadline);
        let samplers = self.heights.values().filter_map(|f| f.sampler.as_ref()?.next_time());
        let question = self.question.map(|(at, _)| at);
        let frauds = self.frauds_at.values().copied();
        let idle = now.plus(IDLE_MS);
        deadlines.chain(samplers).chain(question).chain(frauds).filter(|at| *at > now).chain([idle]).min()
    }

    fn stop(&mut self, why: Stop) {
        self.phase = Phase::Stopped;
        self.asked.clear();
        self.effects.push(Effect::Stop(why));
    }

    /// Stops because of a final header, on which nothing may be built.
    fn stop_at(&mut self, height: Height, hash: BlockHash, why: Stop) {
        self.condemned = Some(Condemned { height, hash, why: why.clone() });
        self.stop(why);
    }

    fn report(&mut self, report: Report) {
        self.effects.push(Effect::Report(report));
    }

    // --- the data -------------------------------------------------------------------------------------------------

    /// Takes up a final header that is new: the chain has accepted it, and no epoch has ended since.
    fn follow(&mut self, now: TimestampMs, header: &Header) {
        self.remember_results(header);
        let (height, hash, da) = (header.height, header.hash(), header.da);
        let chain = self.chain.as_ref().expect("the header is one of the chain's").at(header);
        self.count_skipped(height);
        let unsampled = if self.config.data_squares { Availability::NotLive } else { Availability::NoSquare };
        let mut followed = Followed { chain, data: Committed::from(header), sampler: None, unsampled };
        self.report(Report::Header { height, hash });
        if self.config.data_squares && self.is_kept(now, header) {
            let seed = sampling_seed(self.config.seed, height);
            match Sampler::new(now, &da, self.config.samples, seed, self.config.give_up_ms) {
                Ok(sampler) => followed.sampler = Some(sampler),
                Err(error) => return self.impossible(header, error),
            }
        } else {
            let why = if self.config.data_squares { Unsampled::Old } else { Unsampled::NoSquare };
            self.unsampled(height, height, why);
            self.report(Report::Data { height, availability: unsampled });
        }
        self.heights.insert(height, followed);
        while self.heights.len() > self.config.max_heights {
            self.evict();
        }
    }

    /// Forgets the lowest height.
    fn evict(&mut self) {
        let Some((height, evicted)) = self.heights.pop_first() else { return };
        if evicted.availability() == Availability::Sampling {
            self.unsampled(height, height, Unsampled::Evicted);
        }
        self.floor = Some(evicted.chain);
        let lowest = self.heights.first_key_value().map_or(height, |(height, _)| *height);
        self.claims.retain(|(_, claimed)| *claimed >= lowest);
    }

    /// Heights between the last one that was followed and a new one were jumped over.
    fn count_skipped(&mut self, height: Height) {
        let (first, last) = self.followed.unwrap_or((height, height.minus(1)));
        self.followed = Some((first, height));
        if height > last.next() {
            self.unsampled(last.next(), height.minus(1), Unsampled::JumpedOver);
        }
    }

    fn unsampled(&mut self, from: Height, to: Height, why: Unsampled) {
        self.stats.unsampled += to.0 + 1 - from.0;
        self.report(Report::Unsampled { from, to, why });
    }

    /// Whether nodes still have the square of a header, with time to spare for asking.
    fn is_kept(&self, now: TimestampMs, header: &Header) -> bool {
        let retention_ms = self.config.retention_ms;
        let spare_ms = self.config.live_ms.min(retention_ms / 2);
        header.timestamp.plus(retention_ms - spare_ms) >= now
    }

    /// A final header commits to a square that cannot be, or to none.
    fn impossible(&mut self, header: &Header, error: ShapeError) {
        let (height, hash) = (header.height, header.hash());
        self.stats.heights += 1;
        self.stats.failed += 1;
        self.stop_at(height, hash, Stop::Impossible { height, error });
    }

    fn ask_for_samples(&mut self, now: TimestampMs) {
        let peers: Vec<Peer> = self.peers.values().copied().collect();
        let mut room = self.config.max_requests.saturating_sub(self.asked.len());
        let is_open = |followed: &Followed| followed.availability() == Availability::Sampling;
        let open = self.heights.iter().filter(|(_, followed)| is_open(followed)).map(|(height, _)| *height);
        for height in open.take(MAX_OPEN).collect::<Vec<Height>>() {
            while room > 0 {
                let followed = self.heights.get_mut(&height).expect("it was just listed");
                let Some(sampler) = &mut followed.sampler else { break };
                let rng = &mut self.rng;
                let Some((index, peer)) = sampler.next(now, &peers, |among| pick(rng, among)) else { break };
                let request = DataRequest::Samples { height, ids: vec![sampler.id(index)] };
                self.ask(now, peer, Purpose::Sample(height, index), Request::Data(request), true);
                room -= 1;
            }
        }
    }

    fn on_sample(&mut self, now: TimestampMs, asked: &Asked, height: Height, index: usize, answer: DataAnswer) {
        let Some(followed) = self.heights.get_mut(&height) else { return };
        let Some(sampler) = &mut followed.sampler else { return };
        let request = DataRequest::Samples { height, ids: vec![sampler.id(index)] };
        if let Err(error) = answer.check(&request, &followed.data) {
            sampler.reopen(index);
            return self.convict(now, asked.peer, format!("sample of block {height}: {error}"));
        }
        match answer {
            DataAnswer::Samples(_) => {
                self.stats.samples += 1;
                sampler.answered(index);
                let availability = sampler.availability();
                if let Availability::Available { confidence } = availability {
                    self.stats.heights += 1;
                    let least = self.stats.min_confidence.map_or(confidence, |least| least.min(confidence));
                    self.stats.min_confidence = Some(least);
                    self.report(Report::Data { height, availability });
                }
            }
            DataAnswer::BadEncoding(proof) => self.condemn(asked.peer, height, proof),
            // Who is behind does not know yet; who says so for ever is silent about it.
            DataAnswer::Outside { newest, .. } if newest > Height(0) && newest < height => {
                self.on_unanswered_sample(now, asked.peer, height, index);
            }
            DataAnswer::Busy { .. } => sampler.refused(index, asked.peer),
            _ => sampler.denied(index, asked.peer),
        }
    }

    fn on_unanswered_sample(&mut self, now: TimestampMs, peer: NodeId, height: Height, index: usize) {
        let heard = self.peers.get(&peer).map(|peer| peer.heard);
        let Some(sampler) = self.heights.get_mut(&height).and_then(|followed| followed.sampler.as_mut()) else {
            return;
        };
        match heard {
            Some(heard) => sampler.unanswered(now, index, peer, heard),
            None => sampler.reopen(index),
        }
    }

    /// Asks each peer now and then for which of the heights that were followed it holds proofs.
    fn ask_for_proofs(&mut self, now: TimestampMs) {
        let Some(from) = self.heights.first_key_value().map(|(height, _)| *height) else { return };
        let at = |peer: &NodeId| self.frauds_at.get(peer).copied().unwrap_or(TimestampMs(0));
        let due: Vec<NodeId> = self.peers.keys().copied().filter(|peer| at(peer) <= now).collect();
        for peer in due {
            self.frauds_at.insert(peer, now.plus(self.config.fraud_poll_ms));
            self.ask(now, peer, Purpose::Frauds, Request::Frauds { from }, false);
        }
    }

    /// A peer named heights for which it holds proofs: it is asked for those that are new.
    fn on_frauds(&mut self, now: TimestampMs, peer: NodeId, heights: &[Height]) {
        for &height in heights.iter().take(MAX_FRAUDS) {
            if self.heights.contains_key(&height) && self.claims.insert((peer, height)) {
                let request = Request::Data(DataRequest::Roots { height });
                self.ask(now, peer, Purpose::Proof(height), request, true);
            }
        }
    }

    /// What a peer answered that said it holds a proof.
    fn on_proof(&mut self, now: TimestampMs, peer: NodeId, height: Height, answer: DataAnswer) {
        match answer {
            DataAnswer::BadEncoding(proof) => self.on_fraud(now, peer, height, proof),
            DataAnswer::Busy { .. } => {
                self.claims.remove(&(peer, height));
            }
            _ => {
                let empty = self.empty_claims.entry(peer).or_default();
                *empty += 1;
                if *empty >= MAX_EMPTY_CLAIMS {
                    self.convict(now, peer, "it names proofs of bad encoding that it does not have".to_owned());
                }
            }
        }
    }

    fn on_fraud(&mut self, now: TimestampMs, from: NodeId, height: Height, proof: Box<BadEncoding>) {
        // A height that was not followed says nothing about who sent the proof.
        let Some(followed) = self.heights.get(&height) else { return };
        match proof.verify(&followed.data) {
            Ok(()) => self.condemn(from, height, proof),
            Err(error) => self.convict(now, from, format!("bad-encoding proof of block {height}: {error}")),
        }
    }

    /// A proof of bad encoding holds.
    fn condemn(&mut self, from: NodeId, height: Height, proof: Box<BadEncoding>) {
        let followed = self.heights.get_mut(&height).expect("the height is followed");
        let (root, hash) = (followed.data.da.root, followed.chain.hash());
        match &mut followed.sampler {
            Some(sampler) => {
                // One that was sampled to an end before is counted.
                self.stats.heights += u64::from(sampler.availability() == Availability::Sampling);
                sampler.condemn();
            }
            None => followed.unsampled = Availability::BadEncoding,
        }
        self.stats.failed += 1;
        for peer in self.peers.keys().filter(|peer| **peer != from) {
            self.effects.push(Effect::PassOn { peer: *peer, height, proof: proof.clone() });
        }
        self.report(Report::Data { height, availability: Availability::BadEncoding });
        self.stop_at(height, hash, Stop::BadEncoding { height, root });
    }

    fn give_up(&mut self, now: TimestampMs) {
        if now < self.judged.plus(JUDGE_MS) && now >= self.judged {
            return;
        }
        self.judged = now;
        let peers: Vec<Peer> = self.peers.values().copied().collect();
        let withheld: Vec<(Height, Availability, usize)> = self
            .heights
            .iter_mut()
            .filter_map(|(height, followed)| {
                let sampler = followed.sampler.as_mut()?;
                sampler.give_up(now, &peers).then(|| (*height, sampler.availability(), sampler.progress().1))
            })
            .collect();
        for &(height, availability, _) in &withheld {
            self.stats.heights += 1;
            self.stats.failed += 1;
            self.report(Report::Data { height, availability });
        }
        if let Some(&(height, Availability::Withheld { missing }, samples)) = withheld.first() {
            let (peers, hash) = (peers.len(), self.heights[&height].chain.hash());
            self.stop_at(height, hash, Stop::Withheld { height, missing, samples, peers });
        }
    }
}

/// A uniform number below `among`, which is at least 1.
fn pick(rng: &mut ChaCha20Rng, among: usize) -> usize {
    // The bias of one part in 2^32 is no help to anybody here.
    (rng.next_u64() % among as u64) as usize
}
