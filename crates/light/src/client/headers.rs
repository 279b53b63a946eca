//! The chain: questions about it, and what is made of the answers.
//!
//! Nothing that a peer says is believed before it is proved, and a peer whose answer fails its proof is dropped:
//!
//! | answer | what proves it |
//! |---|---|
//! | handovers | the old committee's certificate, the next root, the new committee's certificate |
//! | head above the tip, of its epoch | certificate, history |
//! | head at the tip | its hash, and the history if that is due |
//! | head below the tip | certificate, if the committee is known; it shows that the peer is behind and no more |
//! | head or header of a later epoch | the handover to it, which the same peer is asked for at once |
//! | headers above the tip | links and a certificate |
//!
//! While blocks are followed one by one, nothing is jumped over as long as some peer has the headers: a head or an epoch's
//! end above the tip is kept ([`Ahead`]) until either the headers up to it came, or all peers that answer say that they have none,
//! or the time to give up has passed. Then it is taken, and what it leaves out is counted. That happens where one certificate
//! makes more blocks final than one answer carries.

use std::collections::BTreeSet;

use cascade_da::Shape;
use cascade_primitives::{DaCommitment, Header, Height, NodeId, TimestampMs};

use super::{Client, Phase, Purpose, RETRY_MS};
use crate::{
    api::{Report, Request, Start, Stop},
    chain::{Chain, ChainError, Finality, Handover, prove_ancestor},
    wire::{ChainAnswer, ChainRequest, Head},
};

/// A client that follows and learns nothing new for so long looks whether there is a head above, in ms.
const STUCK_MS: u64 = 5_000;
/// One in so many questions goes to any peer, slow ones too, so that one that is back is found.
const TRY_SLOW: usize = 4;

/// Something proved above the tip.
#[derive(Debug)]
pub(super) struct Ahead {
    what: What,
    since: TimestampMs,
    /// Who says that it has no headers up to there.
    denied: BTreeSet<NodeId>,
}

#[derive(Debug)]
enum What {
    Head(Box<Head>),
    Handover(Box<Handover>),
}

impl Client {
    pub(super) fn ask_about_chain(&mut self, now: TimestampMs) {
        let Some((at, request)) = self.question else { return };
        if at > now || self.peers.is_empty() {
            return;
        }
        self.question = None;
        let peer = match self.claimant.filter(|(peer, _)| self.peers.contains_key(peer)) {
            Some((claimant, _)) => claimant,
            None => self.any_peer(),
        };
        self.ask(now, peer, Purpose::Chain(request), Request::Chain(request), false);
    }

    /// A peer to ask about the chain: one that answers, mostly, and that did not say already that it has nothing.
    fn any_peer(&mut self) -> NodeId {
        let denied = self.ahead.as_ref().map(|ahead| &ahead.denied);
        let mut peers: Vec<_> = self.peers.values().copied().collect();
        if peers.iter().any(|peer| denied.is_none_or(|denied| !denied.contains(&peer.id))) {
            peers.retain(|peer| denied.is_none_or(|denied| !denied.contains(&peer.id)));
        }
        if peers.iter().any(|peer| !peer.slow) && self.pick(TRY_SLOW) > 0 {
            peers.retain(|peer| !peer.slow);
        }
        peers[self.pick(peers.len())].id
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
    pub(super) fn started(&mut self, now: TimestampMs) {
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
    pub(super) fn ask_next(&mut self, now: TimestampMs, pause_ms: u64) {
        let Some(chain) = &self.chain else { return };
        let request = match self.phase {
            Phase::Following => ChainRequest::Headers { from: chain.tip().height.next() },
            _ => ChainRequest::Handovers { from: chain.committee().epoch() },
        };
        self.question = Some((now.plus(pause_ms), request));
    }

    pub(super) fn on_chain(&mut self, now: TimestampMs, peer: NodeId, request: ChainRequest, answer: ChainAnswer) {
        if self.slept_too_long(now) {
            return;
        }
        self.unanswered = 0;
        let away = now > self.chain_heard.plus(self.config.live_ms);
        self.chain_heard = now;
        if away && self.phase == Phase::Following {
            // It heard nothing for long: it catches up in steps of epochs before it follows again.
            self.phase = Phase::CatchingUp;
            (self.ahead, self.claimant) = (None, None);
            return self.ask_next(now, 0);
        }
        let outcome = match (request, answer) {
            (ChainRequest::Start { .. }, ChainAnswer::Start(start)) => {
                Chain::start(self.config.signing, &self.checkpoint, start.0, start.1).map(|chain| {
                    self.remember_results(chain.tip());
                    self.floor = Some(chain.clone());
                    self.chain = Some(chain);
                })
            }
            (ChainRequest::Handovers { .. }, ChainAnswer::Handovers(handovers)) if !handovers.is_empty() => {
                self.on_handovers(now, peer, handovers)
            }
            (ChainRequest::Head { .. }, ChainAnswer::Head(head)) => self.on_head(now, peer, head),
            (ChainRequest::Headers { .. }, ChainAnswer::Headers(headers, finality)) if !headers.is_empty() => {
                self.on_headers(now, peer, &headers, &finality)
            }
            (request, ChainAnswer::Nothing) => return self.on_nothing(now, peer, request),
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
        self.tell_behind(now);
    }

    /// A peer has nothing of what it was asked for.
    fn on_nothing(&mut self, now: TimestampMs, peer: NodeId, request: ChainRequest) {
        match request {
            ChainRequest::Handovers { .. } if self.claimant.is_some_and(|(claimant, _)| claimant == peer) => {
                self.claimant = None;
                self.ask_next(now, 0);
                self.convict(now, peer, "it named a block of a later epoch and shows no way there".to_owned());
            }
            ChainRequest::Handovers { .. } if self.phase == Phase::CatchingUp => self.ask_for_head(now),
            ChainRequest::Headers { .. } if self.ahead.is_some() => {
                let ahead = self.ahead.as_mut().expect("it was just looked at");
                ahead.denied.insert(peer);
                let over = now >= ahead.since.plus(self.config.give_up_ms);
                let asked = |peer: &crate::sampler::Peer| peer.slow || ahead.denied.contains(&peer.id);
                if over || self.peers.values().all(asked) {
                    self.take_ahead(now);
                } else {
                    self.ask_next(now, 0);
                }
            }
            ChainRequest::Headers { .. } if now >= self.news.plus(STUCK_MS) => {
                self.news = now;
                self.ask_for_head(now);
            }
            ChainRequest::Headers { .. } | ChainRequest::Handovers { .. } => self.ask_next(now, self.config.poll_ms),
            // A head whose history is yet to hold the checkpoint, or the checkpoint itself.
            ChainRequest::Head { .. } if self.phase == Phase::Following => self.ask_next(now, self.config.poll_ms),
            request => self.question = Some((now.plus(RETRY_MS), request)),
        }
        self.tell_behind(now);
    }

    fn ask_for_head(&mut self, now: TimestampMs) {
        self.question = Some((now, ChainRequest::Head { ancestor: self.checkpoint.height }));
    }

    fn on_handovers(&mut self, now: TimestampMs, peer: NodeId, handovers: Vec<Handover>) -> Result<(), ChainError> {
        let mut claimed = self.claimant.take().filter(|(claimant, _)| *claimant == peer).map(|(_, height)| height);
        self.ask_next(now, 0);
        // While blocks are followed one by one, epochs are too.
        let most = if self.phase == Phase::Following { 1 } else { handovers.len() };
        for handover in handovers.into_iter().take(most) {
            let chain = self.chain.as_ref().expect("handovers are asked for once the chain has started");
            let mut next = chain.clone();
            next.hand_over(self.verifier.as_ref(), &handover)?;
            let jumps = next.tip().height > chain.tip().height;
            if self.lacks_square(&handover.last) || self.lacks_square(&handover.first) {
                return Ok(());
            }
            let last = &handover.last;
            if claimed.take().is_some_and(|height| height <= last.height) {
                // It put a block of the later epoch where this one still went on.
                return Err(ChainError::Header { height: last.height, what: "epoch of a block below" });
            }
            if jumps && self.phase == Phase::Following {
                let what = What::Handover(Box::new(handover));
                self.ahead.get_or_insert(Ahead { what, since: now, denied: BTreeSet::new() });
                return Ok(());
            }
            self.adopt(next, jumps);
            self.ask_next(now, 0);
        }
        Ok(())
    }

    fn on_head(&mut self, now: TimestampMs, peer: NodeId, head: Box<Head>) -> Result<(), ChainError> {
        self.ask_next(now, RETRY_MS);
        let chain = self.chain.as_ref().expect("the head is asked for once the chain has started");
        let (tip, hash) = (chain.tip(), chain.hash());
        let ancestor = (self.checkpoint.height, self.checkpoint.hash);
        if head.header.height > tip.height && head.header.epoch > chain.committee().epoch() {
            self.hold_to_it(now, peer, head.header.height);
            return Ok(());
        }
        if head.header.height > tip.height {
            let mut next = chain.clone();
            let header = head.header.clone();
            next.jump(self.verifier.as_ref(), header.clone(), &head.finality, ancestor, &head.ancestry)?;
            self.ask_next(now, 0);
            if self.phase == Phase::Following {
                let what = What::Head(head);
                self.ahead.get_or_insert(Ahead { what, since: now, denied: BTreeSet::new() });
                return Ok(());
            }
            self.adopt(next, false);
            self.caught_up(now, Some(&header));
        } else if head.header.hash() == hash {
            if self.ancestry_due {
                prove_ancestor(tip, ancestor, &head.ancestry)?;
            }
            self.caught_up(now, None);
        } else {
            // A peer that is behind shows nothing new.
            chain.check_old(self.verifier.as_ref(), &head.header, &head.finality)?;
            if self.phase == Phase::Following {
                self.ask_next(now, self.config.poll_ms);
            }
        }
        Ok(())
    }

    fn caught_up(&mut self, now: TimestampMs, new: Option<&Header>) {
        self.ancestry_due = false;
        self.news = now;
        let before = std::mem::replace(&mut self.phase, Phase::Following);
        let chain = self.chain.as_ref().expect("it was just extended");
        let (height, hash) = (chain.tip().height, chain.hash());
        if before != Phase::Following {
            self.report(Report::CaughtUp { height, hash });
        }
        if let Some(header) = new {
            self.follow(now, header);
        }
        self.ask_next(now, if new.is_some() { 0 } else { self.config.poll_ms });
    }

    fn on_headers(
        &mut self,
        now: TimestampMs,
        peer: NodeId,
        headers: &[Header],
        finality: &Finality,
    ) -> Result<(), ChainError> {
        let chain = self.chain.as_ref().expect("headers are asked for once the chain has started");
        let first = &headers[0];
        if first.epoch == chain.committee().epoch().next() && first.height == chain.tip().height.next() {
            self.hold_to_it(now, peer, first.height);
            return Ok(());
        }
        let mut next = chain.clone();
        next.extend(self.verifier.as_ref(), headers, finality)?;
        self.adopt(next, false);
        self.news = now;
        // What was ahead may be the tip now, or below it.
        self.ahead.take_if(|ahead| match &ahead.what {
            What::Head(head) => head.header.height <= headers[headers.len() - 1].height,
            What::Handover(handover) => handover.last.height <= headers[headers.len() - 1].height,
        });
        if let Some(ahead) = &mut self.ahead {
            (ahead.since, ahead.denied) = (now, BTreeSet::new());
        }
        for header in headers {
            if self.phase == Phase::Stopped {
                return Ok(());
            }
            self.follow(now, header);
        }
        self.ask_next(now, 0);
        Ok(())
    }

    /// A peer named a block of a later epoch at this height: it has to show the way there.
    fn hold_to_it(&mut self, now: TimestampMs, peer: NodeId, height: Height) {
        let chain = self.chain.as_ref().expect("the chain has started");
        self.claimant = Some((peer, height));
        self.question = Some((now, ChainRequest::Handovers { from: chain.committee().epoch() }));
    }

    /// Nobody has the headers up to what is proved above the tip: it is taken without them.
    fn take_ahead(&mut self, now: TimestampMs) {
        let (Some(ahead), Some(chain)) = (self.ahead.take(), &self.chain) else { return };
        let mut next = chain.clone();
        match ahead.what {
            What::Head(head) => {
                let ancestor = (self.checkpoint.height, self.checkpoint.hash);
                let header = head.header.clone();
                let taken = next.jump(self.verifier.as_ref(), head.header, &head.finality, ancestor, &head.ancestry);
                if taken.is_ok() {
                    self.adopt(next, false);
                    return self.caught_up(now, Some(&header));
                }
            }
            What::Handover(handover) => {
                if next.hand_over(self.verifier.as_ref(), &handover).is_ok() {
                    self.adopt(next, true);
                    // The history has to show that nothing else was left behind.
                    self.phase = Phase::CatchingUp;
                }
            }
        }
        self.ask_next(now, 0);
    }

    /// Goes on from a chain that was proved. `unlinked`: by a jump that no history vouches for yet.
    fn adopt(&mut self, next: Chain, unlinked: bool) {
        self.ancestry_due |= unlinked;
        if self.heights.is_empty() {
            self.floor = self.chain.take();
        }
        self.chain = Some(next);
    }

    /// Stops if a final header commits to no square although the chain has squares.
    fn lacks_square(&mut self, header: &Header) -> bool {
        let lacks = self.config.data_squares && header.height > Height(0) && header.da == DaCommitment::default();
        match Shape::of_commitment(&header.da) {
            Err(error) if lacks => {
                if self.followed.is_none_or(|(_, last)| header.height > last) {
                    self.count_skipped(header.height);
                }
                self.impossible(header, error);
                true
            }
            _ => false,
        }
    }

    fn tell_behind(&mut self, now: TimestampMs) {
        let (Phase::Following, Some(chain)) = (self.phase, &self.chain) else { return };
        let age_ms = now.0.saturating_sub(chain.tip().timestamp.0);
        let behind = age_ms > self.config.live_ms;
        if behind && !self.told_behind {
            self.report(Report::Behind { age_ms });
        }
        self.told_behind = behind;
    }

    pub(super) fn remember_results(&mut self, header: &Header) {
        for entry in &header.results {
            self.results.insert(entry.height, *entry);
        }
        while self.results.len() > self.config.max_heights {
            self.results.pop_first();
        }
    }
}
