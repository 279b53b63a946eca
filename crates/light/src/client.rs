//! The client: one way in, a list of effects out.
//!
//! ```text
//!   Starting --checkpoint's header, committee--> CatchingUp --handovers, head--> Following --> Stopped
//!                                                    ^                              |    withheld, badly encoded,
//!                                                    +------- a new epoch ----------+    or the start refused
//! ```
//!
//! The shell that drives it owns connections and clock. It passes every answer with the number of the request and the
//! bytes it took, and wakes the client when it asked for it. Chain requests go to one peer at a time, drawn at random, and
//! to another after a failure. Sample requests go out one by one with `alone` set: the shell sends each over a
//! connection that cannot be linked to the others, if the network can do that, so that no peer learns what one client
//! samples. A peer whose answer does not check is dropped for good and its answer asked for elsewhere.
//!
//! A height that was sampled in full is available with a confidence; one with a sample that nobody answers is withheld,
//! one with a proof of bad encoding is bad. The latter two stop the client: what is built on them must not be relied on.
//! A proof of bad encoding that holds is passed on to all peers first.

use std::collections::{BTreeMap, BTreeSet};

use cascade_crypto::VoteScheme;
use cascade_da::{
    BadEncoding, Committed,
    wire::{Answer as DataAnswer, Request as DataRequest},
};
use cascade_primitives::{BlockHash, DaCommitment, Header, Height, NodeId, ResultEntry, TimestampMs};
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{RngCore, SeedableRng},
};

use crate::{
    api::{Answer, Config, Effect, Input, Report, Request, RequestId, Start, Stats, Stop},
    chain::{Chain, ChainError, Checkpoint, Finality},
    sampler::{Availability, Sampler, sampling_seed},
    wire::{ChainAnswer, ChainRequest},
};

/// Peers that are remembered as liars; the lowest ids are forgotten beyond that.
const MAX_LIARS: usize = 4096;
/// Shortest time between two requests for what the last peer asked did not have, in ms.
const RETRY_MS: u64 = 200;

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
}

#[derive(Clone, Debug)]
struct Asked {
    peer: NodeId,
    purpose: Purpose,
    deadline: TimestampMs,
}

#[derive(Debug)]
struct Followed {
    hash: BlockHash,
    data: Committed,
    /// None if nothing is sampled, for the reason beside it.
    sampler: Option<Sampler>,
    unsampled: Availability,
}

impl Followed {
    fn availability(&self) -> Availability {
        self.sampler.as_ref().map_or(self.unsampled, Sampler::availability)
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
    peers: BTreeSet<NodeId>,
    liars: BTreeSet<NodeId>,
    asked: BTreeMap<RequestId, Asked>,
    next_request: u64,
    /// The next question about the chain and when to ask it.
    question: Option<(TimestampMs, ChainRequest)>,
    heights: BTreeMap<Height, Followed>,
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
        Self {
            rng: ChaCha20Rng::from_seed(config.seed),
            question: Some((TimestampMs(0), ChainRequest::Start { height: checkpoint.height })),
            config,
            checkpoint,
            verifier,
            phase: Phase::Starting,
            chain,
            peers: BTreeSet::new(),
            liars: BTreeSet::new(),
            asked: BTreeMap::new(),
            next_request: 0,
            heights: BTreeMap::new(),
            results: BTreeMap::new(),
            stats: Stats::default(),
            effects: Vec::new(),
        }
    }

    /// The chain as far as it is known; what a shell saves.
    #[must_use]
    pub const fn chain(&self) -> Option<&Chain> {
        self.chain.as_ref()
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
        self.heights.get(&height).map(|followed| followed.hash)
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
        match input {
            Input::Tick => {}
            Input::PeerUp(peer) => {
                if self.liars.contains(&peer) {
                    self.effects.push(Effect::Drop { peer, why: "it lied before".to_owned() });
                } else {
                    self.peers.insert(peer);
                }
            }
            Input::PeerDown(peer) => self.forget(now, peer),
            Input::Answered { id, answer, bytes } => {
                self.stats.bytes_received += bytes;
                if let Some(asked) = self.asked.remove(&id) {
                    self.on_answer(now, asked, answer);
                }
            }
            Input::Failed { id, hostile } => {
                if let Some(asked) = self.asked.remove(&id) {
                    self.on_failure(now, &asked);
                    if hostile {
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
            self.on_failure(now, &asked);
        }
        if self.phase == Phase::Starting && self.chain.is_some() {
            self.started(now);
        }
        self.give_up(now);
        if self.phase == Phase::Stopped {
            return;
        }
        self.ask_about_chain(now);
        self.ask_for_samples(now);
        if let Some(at) = self.next_time(now) {
            self.effects.push(Effect::WakeAt(at));
        }
    }

    fn next_time(&self, now: TimestampMs) -> Option<TimestampMs> {
        let deadlines = self.asked.values().map(|asked| asked.deadline);
        let samplers = self.heights.values().filter_map(|f| f.sampler.as_ref()?.next_time());
        let question = (!self.peers.is_empty()).then(|| self.question.map(|(at, _)| at)).flatten();
        deadlines.chain(samplers).chain(question).filter(|at| *at > now).min()
    }

    fn stop(&mut self, why: Stop) {
        self.phase = Phase::Stopped;
        self.asked.clear();
        self.effects.push(Effect::Stop(why));
    }

    fn report(&mut self, report: Report) {
        self.effects.push(Effect::Report(report));
    }

    // --- peers ----------------------------------------------------------------------------------------------------

    fn pick(&mut self, among: usize) -> usize {
        pick(&mut self.rng, among)
    }

    fn ask(&mut self, now: TimestampMs, peer: NodeId, purpose: Purpose, request: Request, alone: bool) {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.asked.insert(id, Asked { peer, purpose, deadline: now.plus(self.config.timeout_ms) });
        self.effects.push(Effect::Ask { id, peer, request, alone });
    }

    fn forget(&mut self, now: TimestampMs, peer: NodeId) {
        self.peers.remove(&peer);
        let open: Vec<RequestId> = self.asked.iter().filter(|(_, a)| a.peer == peer).map(|(id, _)| *id).collect();
        for id in open {
            let asked = self.asked.remove(&id).expect("it was just listed");
            self.on_failure(now, &asked);
        }
    }

    /// A peer lied: it is dropped for good, and what it was asked for is asked for elsewhere.
    fn convict(&mut self, now: TimestampMs, peer: NodeId, why: String) {
        self.forget(now, peer);
        if self.liars.insert(peer) {
            self.stats.liars += 1;
        }
        if self.liars.len() > MAX_LIARS {
            self.liars.pop_first();
        }
        self.effects.push(Effect::Drop { peer, why });
    }

    fn on_failure(&mut self, now: TimestampMs, asked: &Asked) {
        match asked.purpose {
            Purpose::Chain(request) => self.question = Some((now.plus(RETRY_MS), request)),
            Purpose::Sample(height, index) => {
                if let Some(sampler) = self.heights.get_mut(&height).and_then(|f| f.sampler.as_mut()) {
                    sampler.unanswered(index);
                }
            }
        }
    }

    fn on_answer(&mut self, now: TimestampMs, asked: Asked, answer: Answer) {
        match (asked.purpose.clone(), answer) {
            (Purpose::Chain(request), Answer::Chain(answer)) => self.on_chain(now, asked.peer, request, answer),
            (Purpose::Sample(height, index), Answer::Data(answer)) => {
                self.on_sample(now, &asked, height, index, answer);
            }
            _ => {
                self.on_failure(now, &asked);
                self.convict(now, asked.peer, "it answered something else than it was asked".to_owned());
            }
        }
    }

    // --- the chain ------------------------------------------------------------------------------------------------

    fn ask_about_chain(&mut self, now: TimestampMs) {
        let Some((at, request)) = self.question else { return };
        if at > now || self.peers.is_empty() {
            return;
        }
        self.question = None;
        let place = self.pick(self.peers.len());
        let peer = *self.peers.iter().nth(place).expect("the place is one of the set's");
        self.ask(now, peer, Purpose::Chain(request), Request::Chain(request), false);
    }

    /// Whether those who could sign a continuation of the tip may have left with their stake: a client that slept for so
    /// long needs a new checkpoint, and stops. Who starts from genesis has chosen to go on anyway.
    fn slept_too_long(&mut self, now: TimestampMs) -> bool {
        let (Phase::Following, Some(chain)) = (self.phase, &self.chain) else { return false };
        let delay_ms = self.config.unstaking_delay_ms;
        let (height, age_ms) = (chain.tip().height, now.0.saturating_sub(chain.tip().timestamp.0));
        let old = chain.is_older_than(now, delay_ms) && !matches!(self.config.start, Start::Genesis(_));
        if old {
            self.stop(Stop::TooOld { height, age_ms, delay_ms });
        }
        old
    }

    /// The start is proved: is it fresh enough?
    fn started(&mut self, now: TimestampMs) {
        let chain = self.chain.as_ref().expect("there is a chain");
        let (height, age_ms) = (chain.tip().height, now.0.saturating_sub(chain.tip().timestamp.0));
        let delay_ms = self.config.unstaking_delay_ms;
        if chain.is_older_than(now, delay_ms) {
            if !matches!(self.config.start, Start::Genesis(_)) {
                self.chain = None;
                return self.stop(Stop::TooOld { height, age_ms, delay_ms });
            }
            self.report(Report::OldGenesis);
        }
        self.phase = Phase::CatchingUp;
        self.ask_next(now, 0);
    }

    /// The next question about the chain, after a pause.
    fn ask_next(&mut self, now: TimestampMs, pause_ms: u64) {
        let chain = self.chain.as_ref().expect("the chain has started");
        let request = match self.phase {
            Phase::Following => ChainRequest::Headers { from: chain.tip().height.next() },
            _ => ChainRequest::Handovers { from: chain.committee().epoch() },
        };
        self.question = Some((now.plus(pause_ms), request));
    }

    fn on_chain(&mut self, now: TimestampMs, peer: NodeId, request: ChainRequest, answer: ChainAnswer) {
        if self.slept_too_long(now) {
            return;
        }
        let outcome = match (request, answer) {
            (ChainRequest::Start { .. }, ChainAnswer::Start(start)) => {
                Chain::start(self.config.signing, &self.checkpoint, start.0, start.1).map(|chain| {
                    self.remember_results(chain.tip());
                    self.chain = Some(chain);
                })
            }
            (ChainRequest::Handovers { .. }, ChainAnswer::Handovers(handovers)) if !handovers.is_empty() => {
                let chain = self.chain.as_mut().expect("handovers are asked for once the chain has started");
                let verifier = self.verifier.as_ref();
                // While blocks are followed one by one, epochs are too.
                let most = if self.phase == Phase::Following { 1 } else { handovers.len() };
                let outcome = handovers.iter().take(most).try_for_each(|handover| chain.hand_over(verifier, handover));
                self.ask_next(now, 0);
                outcome
            }
            (ChainRequest::Handovers { .. }, ChainAnswer::Nothing) => {
                self.question = Some((now, ChainRequest::Head { ancestor: self.checkpoint.height }));
                Ok(())
            }
            (ChainRequest::Head { .. }, ChainAnswer::Head(head)) => self.on_head(now, *head),
            (ChainRequest::Headers { .. }, ChainAnswer::Headers(headers, finality)) if !headers.is_empty() => {
                self.on_headers(now, &headers, &finality)
            }
            (ChainRequest::Headers { .. }, ChainAnswer::Nothing) => {
                self.ask_next(now, self.config.poll_ms);
                Ok(())
            }
            (request, ChainAnswer::Nothing) => {
                self.question = Some((now.plus(RETRY_MS), request));
                Ok(())
            }
            (request, _) => {
                self.question = Some((now.plus(RETRY_MS), request));
                return self.convict(now, peer, "it answered something else than it was asked".to_owned());
            }
        };
        if let Err(error) = outcome {
            if self.question.is_none() {
                self.question = Some((now, request));
            }
            self.convict(now, peer, error.to_string());
        }
    }

    fn on_head(&mut self, now: TimestampMs, head: crate::wire::Head) -> Result<(), ChainError> {
        let chain = self.chain.as_mut().expect("the head is asked for once the chain has started");
        let mut new = None;
        if head.header.height > chain.tip().height {
            if head.header.epoch > chain.committee().epoch() {
                // An epoch ended while we were asking. Whether that is so the handovers will show.
                self.ask_next(now, RETRY_MS);
                return Ok(());
            }
            let ancestor = (self.checkpoint.height, self.checkpoint.hash);
            let header = head.header.clone();
            chain.jump(self.verifier.as_ref(), head.header, &head.finality, ancestor, &head.ancestry)?;
            new = Some(header);
        }
        self.phase = Phase::Following;
        let (height, hash) = (chain.tip().height, chain.hash());
        self.report(Report::CaughtUp { height, hash });
        if let Some(header) = new {
            self.follow(now, &header);
        }
        self.ask_next(now, 0);
        Ok(())
    }

    fn on_headers(&mut self, now: TimestampMs, headers: &[Header], finality: &Finality) -> Result<(), ChainError> {
        let chain = self.chain.as_mut().expect("headers are asked for once the chain has started");
        if headers[0].epoch == chain.committee().epoch().next() {
            self.question = Some((now, ChainRequest::Handovers { from: chain.committee().epoch() }));
            return Ok(());
        }
        chain.extend(self.verifier.as_ref(), headers, finality)?;
        for header in headers {
            self.follow(now, header);
        }
        if headers.last().is_some_and(|last| !self.is_live(now, last)) {
            // This client was away for long: it catches up in steps of epochs before it follows again.
            self.phase = Phase::CatchingUp;
        }
        self.ask_next(now, 0);
        Ok(())
    }

    fn is_live(&self, now: TimestampMs, header: &Header) -> bool {
        header.timestamp.plus(self.config.live_ms) >= now
    }

    fn remember_results(&mut self, header: &Header) {
        for entry in &header.results {
            self.results.insert(entry.height, *entry);
        }
        while self.results.len() > self.config.max_heights {
            self.results.pop_first();
        }
    }

    // --- the data -------------------------------------------------------------------------------------------------

    fn follow(&mut self, now: TimestampMs, header: &Header) {
        self.remember_results(header);
        let (height, hash, da) = (header.height, header.hash(), header.da);
        let data = Committed::from(header);
        let live = self.is_live(now, header);
        let unsampled = if da == DaCommitment::default() { Availability::NoSquare } else { Availability::NotLive };
        let mut followed = Followed { hash, data, sampler: None, unsampled };
        self.report(Report::Header { height, hash });
        if unsampled == Availability::NotLive && live {
            let seed = sampling_seed(self.config.seed, height);
            match Sampler::new(now, &da, self.config.samples, seed, self.config.give_up_ms) {
                Ok(sampler) => followed.sampler = Some(sampler),
                Err(error) => {
                    self.stats.heights += 1;
                    self.stats.failed += 1;
                    return self.stop(Stop::Impossible { height, error });
                }
            }
        } else {
            self.report(Report::Data { height, availability: unsampled });
        }
        self.heights.insert(height, followed);
        while self.heights.len() > self.config.max_heights {
            self.heights.pop_first();
        }
    }

    fn ask_for_samples(&mut self, now: TimestampMs) {
        let peers: Vec<NodeId> = self.peers.iter().copied().collect();
        let mut room = self.config.max_requests.saturating_sub(self.asked.len());
        let heights: Vec<Height> = self.heights.keys().copied().collect();
        for height in heights {
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
            sampler.unanswered(index);
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
            _ => sampler.unanswered(index),
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
        let root = followed.data.da.root;
        if let Some(sampler) = &mut followed.sampler {
            sampler.condemn();
        }
        self.stats.heights += 1;
        self.stats.failed += 1;
        for peer in self.peers.iter().filter(|peer| **peer != from) {
            self.effects.push(Effect::PassOn { peer: *peer, height, proof: proof.clone() });
        }
        self.report(Report::Data { height, availability: Availability::BadEncoding });
        self.stop(Stop::BadEncoding { height, root });
    }

    fn give_up(&mut self, now: TimestampMs) {
        let peers = self.peers.len();
        let withheld: Vec<(Height, Availability, usize)> = self
            .heights
            .iter_mut()
            .filter_map(|(height, followed)| {
                let sampler = followed.sampler.as_mut()?;
                sampler.give_up(now, peers).then(|| (*height, sampler.availability(), sampler.progress().1))
            })
            .collect();
        for &(height, availability, _) in &withheld {
            self.stats.heights += 1;
            self.stats.failed += 1;
            self.report(Report::Data { height, availability });
        }
        if let Some(&(height, Availability::Withheld { missing }, samples)) = withheld.first() {
            self.stop(Stop::Withheld { height, missing, samples, peers });
        }
    }
}

/// A uniform number below `among`, which is at least 1.
fn pick(rng: &mut ChaCha20Rng, among: usize) -> usize {
    // The bias of one part in 2^32 is no help to anybody here.
    (rng.next_u64() % among as u64) as usize
}
