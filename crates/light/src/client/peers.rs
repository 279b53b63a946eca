//! Who is asked: peers that come, answer, fail, lie and go.

use cascade_da::wire::Answer as DataAnswer;
use cascade_primitives::{NodeId, TimestampMs};

use super::{Asked, Client, MAX_LIARS, Phase, Purpose, RETRY_MS, SLEPT_MS, pick};
use crate::{
    api::{Answer, Effect, Failure, Report, Request, RequestId, Stop},
    sampler::{Peer, Sampler},
};

impl Client {
    /// What was asked before the machine slept, or before its clock was set, says nothing of anybody.
    pub(super) fn look_at_the_clock(&mut self, now: TimestampMs) {
        let before = self.stepped.replace(now);
        let Some(before) = before else {
            (self.heard, self.chain_heard, self.news) = (now, now, now);
            return;
        };
        if now.0.abs_diff(before.0) <= SLEPT_MS {
            return;
        }
        for asked in std::mem::take(&mut self.asked).into_values() {
            self.withdraw(now, &asked);
        }
        // Times of a clock that was turned back would be waited for in vain.
        self.question = self.question.map(|(at, request)| (at.min(now.plus(RETRY_MS)), request));
        self.frauds_at.clear();
        (self.chain_heard, self.news) = (self.chain_heard.min(now), self.news.min(now));
        self.heard = now;
        self.begin_again(now);
    }

    /// The time for giving up samples begins anew, and no peer is taken to be gone.
    fn begin_again(&mut self, now: TimestampMs) {
        let give_up_ms = self.config.give_up_ms;
        for peer in self.peers.values_mut() {
            (peer.heard, peer.slow) = (now, false);
        }
        for followed in self.heights.values_mut() {
            if let Some(sampler) = &mut followed.sampler {
                sampler.begin_again(now, give_up_ms);
            }
        }
    }

    pub(super) fn peer_up(&mut self, now: TimestampMs, peer: NodeId) {
        if self.liars.contains(&peer) {
            self.effects.push(Effect::Drop { peer, why: "it lied before".to_owned() });
        } else {
            self.peers.entry(peer).or_insert(Peer { id: peer, heard: now, slow: false });
            self.heights.values_mut().filter_map(|followed| followed.sampler.as_mut()).for_each(Sampler::wake);
        }
    }

    pub(super) fn pick(&mut self, among: usize) -> usize {
        pick(&mut self.rng, among)
    }

    pub(super) fn ask(&mut self, now: TimestampMs, peer: NodeId, purpose: Purpose, request: Request, alone: bool) {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        // An answer about the chain may be long and the line slow: each that comes too late leaves more time to the next.
        let doubled = if matches!(purpose, Purpose::Chain(_)) { self.unanswered.min(2) } else { 0 };
        let deadline = now.plus(self.config.timeout_ms << doubled);
        self.asked.insert(id, Asked { peer, purpose, deadline });
        self.effects.push(Effect::Ask { id, peer, request, alone });
    }

    pub(super) fn forget(&mut self, now: TimestampMs, peer: NodeId) {
        self.peers.remove(&peer);
        self.claimant.take_if(|(claimant, _)| *claimant == peer);
        self.frauds_at.remove(&peer);
        self.empty_claims.remove(&peer);
        self.claims.retain(|(claimant, _)| *claimant != peer);
        let open: Vec<RequestId> = self.asked.iter().filter(|(_, a)| a.peer == peer).map(|(id, _)| *id).collect();
        for id in open {
            let asked = self.asked.remove(&id).expect("it was just listed");
            self.on_failure(now, &asked, Failure::Silent);
        }
    }

    /// A peer lied: it is dropped for good, and what it was asked for is asked for elsewhere.
    pub(super) fn convict(&mut self, now: TimestampMs, peer: NodeId, why: String) {
        self.forget(now, peer);
        if self.liars.insert(peer) {
            self.stats.liars += 1;
        }
        if self.liars.len() > MAX_LIARS {
            self.liars.pop_first();
        }
        self.effects.push(Effect::Drop { peer, why });
        if self.peers.is_empty() && self.phase != Phase::Stopped {
            self.stop(Stop::NoPeers { liars: self.stats.liars });
        }
    }

    /// A peer answered something.
    fn on_heard(&mut self, now: TimestampMs, peer: NodeId) {
        if self.told_unreachable {
            self.told_unreachable = false;
            // What was asked in the meantime says nothing of anybody.
            self.begin_again(now);
            self.report(Report::Reached);
        }
        self.heard = now;
        if let Some(peer) = self.peers.get_mut(&peer) {
            (peer.heard, peer.slow) = (now, false);
        }
    }

    pub(super) fn tell_unreachable(&mut self, now: TimestampMs) {
        let for_ms = now.0.saturating_sub(self.heard.0);
        if !self.told_unreachable && !self.peers.is_empty() && for_ms >= self.config.give_up_ms {
            self.told_unreachable = true;
            self.report(Report::Unreachable { for_ms, peers: self.peers.len() });
        }
    }

    pub(super) fn on_failure(&mut self, now: TimestampMs, asked: &Asked, why: Failure) {
        if let Some(peer) = self.peers.get_mut(&asked.peer) {
            peer.slow = true;
        }
        if let Purpose::Sample(height, index) = asked.purpose {
            if why == Failure::Silent {
                return self.on_unanswered_sample(now, asked.peer, height, index);
            }
            let followed = self.heights.get_mut(&height);
            if let Some(sampler) = followed.and_then(|followed| followed.sampler.as_mut()) {
                sampler.refused(index, asked.peer);
            }
            return;
        }
        if matches!(asked.purpose, Purpose::Chain(_)) {
            self.unanswered = self.unanswered.saturating_add(1);
        }
        self.withdraw(now, asked);
    }

    /// A request is void, which is held against nobody.
    fn withdraw(&mut self, now: TimestampMs, asked: &Asked) {
        match asked.purpose {
            Purpose::Chain(request) => {
                self.question = Some((now.plus(RETRY_MS), request));
                if self.claimant.take_if(|(claimant, _)| *claimant == asked.peer).is_some() {
                    self.ask_next(now, RETRY_MS);
                }
            }
            Purpose::Sample(height, index) => {
                if let Some(sampler) = self.heights.get_mut(&height).and_then(|f| f.sampler.as_mut()) {
                    sampler.reopen(index);
                }
            }
            Purpose::Frauds => {}
            Purpose::Proof(height) => {
                self.claims.remove(&(asked.peer, height));
            }
        }
    }

    pub(super) fn on_answer(&mut self, now: TimestampMs, asked: Asked, answer: Answer) {
        if !matches!(answer, Answer::Data(DataAnswer::Busy { .. })) {
            self.on_heard(now, asked.peer);
        }
        match (asked.purpose.clone(), answer) {
            (Purpose::Chain(request), Answer::Chain(answer)) => self.on_chain(now, asked.peer, request, answer),
            (Purpose::Sample(height, index), Answer::Data(answer)) => {
                self.on_sample(now, &asked, height, index, answer);
            }
            (Purpose::Frauds, Answer::Frauds(heights)) => self.on_frauds(now, asked.peer, &heights),
            (Purpose::Proof(height), Answer::Data(answer)) => self.on_proof(now, asked.peer, height, answer),
            _ => {
                self.withdraw(now, &asked);
                self.convict(now, asked.peer, "it answered something else than it was asked".to_owned());
            }
        }
    }
}
