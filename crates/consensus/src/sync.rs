//! Catching up: final blocks from peers, certificates first, then blocks, from several peers at once.
//!
//! ```text
//!   this node                                    peers
//!     | Headers{from, count} ------------------->  A     headers, closed by the certificate that makes the last final
//!     | <----------------------------------------  A
//!     |   checked: hash chain from the own head, certificate of the epoch's committee
//!     | Bodies{from, count} --> A, B, C ...              in parallel, each checked against its header
//!     | <----------------------------------------
//!     +-> Deliver: a run of final blocks for the core, which checks it again and follows it
//! ```
//!
//! A run of headers lies within one epoch, since only the committee at the own head is known; the core's new head then
//! gives the next one. After the headers nothing rests on trust: a certificate vouches for the last hash and the hashes
//! for everything below. A peer that sends what does not fit is reported and left alone; one that is slow, or has not
//! what it seemed to have, is passed over for a while.
//!
//! Memory is bounded: one run of headers at a time, of a length that adapts to the size of the blocks, so that a run
//! stays near [`RUN_BYTES`]; and no further run while the shell says that there is no room, because execution has yet to
//! work off what consensus took.
//!
//! Where finality was lost for long, one certificate makes more blocks final than a response holds headers. Then the
//! peer answers with as many headers as fit and a commit certificate of a later view: such a run is *open*. Its headers
//! are held, and its peer is asked for those above, until a certificate closes it. [`MAX_OPEN_HEADERS`] bounds it, and so
//! does that each height has one result at most, in a header above it: 32 MiB at 353 bytes for a header and 152 for a
//! result.
//!
//! What a peer says of its height is only a claim. The goal is never more than [`REACH`] blocks above what a certificate
//! proves, so a lie costs a few questions, and who answers them with nothing is asked ever less.
//!
//! No I/O here: the shell carries out [`SyncEffect`]s, answers [`SyncInput`]s, and arms one timer for
//! [`Sync::wake_at`]. [`answer`] is the other side.

mod serve;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cascade_crypto::{VoteScheme, verify_certificate};
use cascade_primitives::{
    Block, BlockHash, Body, Committee, Epoch, Header, HeaderKind, Height, NodeId, SealedBlock, TimestampMs, VoteKind,
    VoteTarget,
};

use crate::{
    context::{ChainContext, Rules, filler_path},
    core::Finality,
    messages::Status,
};

pub use serve::{FinalChain, answer};
pub use wire::{MAX_BODIES, MAX_HEADERS, RESPONSE_BYTES, SyncRequest, SyncResponse};

/// Bytes of bodies that a run of headers should lead to.
pub const RUN_BYTES: usize = 64 << 20;
/// Headers of an open run that are held: nine hours of prepared blocks without finality at two blocks a second.
pub const MAX_OPEN_HEADERS: usize = 64 * MAX_HEADERS;
/// Blocks above what is proved to be final that peers' claims make this node look for.
pub const REACH: u64 = 1024;
/// Headers that are asked for at first, and at most.
const RUN_HEADERS: u32 = 256;
/// Headers that are asked for where blocks are large.
const FEWEST_HEADERS: u32 = 16;
/// Blocks that a node which is this close gets one by one without this module.
const NEAR: u64 = 16;
/// Bodies that are asked for at a time.
const BODIES_AT_A_TIME: u32 = 16;
/// Requests that one peer works on at a time.
const REQUESTS_PER_PEER: u32 = 2;
/// Failures in a row after which a peer's claim to be ahead is forgotten.
const GIVE_UP: u32 = 3;
/// Times the request timeout that a peer which lied is left alone.
const DISTRUST: u64 = 64;

/// Names a request, so that a late answer is not taken for another one.
pub type RequestId = u64;

/// What the catch-up is told.
#[derive(Clone, Debug)]
pub enum SyncInput {
    /// The newest final block of this node.
    Head(Arc<ChainContext>),
    /// Where a connected peer stands ([`crate::Effect::PeerStatus`]).
    Status(NodeId, Status),
    /// A connected peer seems to be far ahead ([`crate::Effect::Behind`]).
    Behind(NodeId),
    /// A peer answered.
    Response {
        /// The peer.
        peer: NodeId,
        /// The request.
        id: RequestId,
        /// The answer.
        response: SyncResponse,
    },
    /// A request came to nothing.
    Failed {
        /// The peer.
        peer: NodeId,
        /// The request.
        id: RequestId,
    },
    /// Whether the node can take further final blocks; at first it can.
    Room(bool),
    /// A peer is gone.
    Disconnected(NodeId),
    /// The time has come that [`Sync::wake_at`] named.
    Tick,
}

/// What the catch-up wants done.
#[derive(Clone, Debug)]
pub enum SyncEffect {
    /// Ask a peer.
    Request {
        /// The peer.
        peer: NodeId,
        /// Names the request.
        id: RequestId,
        /// The request.
        request: SyncRequest,
    },
    /// Final blocks for the core ([`crate::Input::FinalRange`]).
    Deliver {
        /// The peer that sent the headers.
        from: NodeId,
        /// The blocks in order of height.
        blocks: Vec<Arc<SealedBlock>>,
        /// What makes the last of them final.
        finality: Finality,
    },
    /// A peer sent what no honest one sends.
    Misbehaved(NodeId, &'static str),
}

#[derive(Clone, Debug, Default)]
struct Peer {
    /// The height that it is believed to have.
    height: Height,
    failures: u32,
    in_flight: u32,
    not_before: TimestampMs,
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    peer: NodeId,
    request: SyncRequest,
    deadline: TimestampMs,
}

/// A run of headers whose end is proved to be final, and the bodies that came for it.
#[derive(Clone, Debug)]
struct Run {
    from: NodeId,
    headers: Vec<Header>,
    finality: Finality,
    bodies: BTreeMap<Height, Body>,
}

impl Run {
    fn first(&self) -> Height {
        self.headers[0].height
    }

    fn last(&self) -> Height {
        self.headers[self.headers.len() - 1].height
    }

    fn bytes(&self) -> usize {
        self.bodies.values().map(Body::transaction_bytes).sum()
    }
}

/// Headers that chain from the head, and whose end no certificate proves yet.
#[derive(Clone, Debug)]
struct OpenRun {
    from: NodeId,
    /// Never empty.
    headers: Vec<Header>,
}

/// The catch-up core.
#[derive(Debug)]
pub struct Sync {
    rules: Arc<Rules>,
    scheme: Arc<dyn VoteScheme>,
    /// Ms after which a request counts as failed.
    timeout: u64,
    now: TimestampMs,
    effects: Vec<SyncEffect>,
    head: Arc<ChainContext>,
    head_since: TimestampMs,
    peers: BTreeMap<NodeId, Peer>,
    goal: Option<Height>,
    /// The highest block that a certificate was seen to prove final.
    certified: Height,
    open: Option<OpenRun>,
    run: Option<Run>,
    /// The end of the run that was delivered, until the head gets there, or until this time.
    delivered: Option<(Height, TimestampMs)>,
    room: bool,
    flights: BTreeMap<RequestId, Flight>,
    next_id: RequestId,
    run_headers: u32,
}

impl Sync {
    /// A catch-up that starts at `head` and waits `timeout` ms for an answer.
    #[must_use]
    pub fn new(
        rules: Arc<Rules>,
        scheme: Arc<dyn VoteScheme>,
        head: Arc<ChainContext>,
        timeout: u64,
        now: TimestampMs,
    ) -> Self {
        Self {
            rules,
            scheme,
            timeout: timeout.max(1),
            now,
            effects: Vec::new(),
            certified: head.height,
            head,
            head_since: now,
            peers: BTreeMap::new(),
            goal: None,
            open: None,
            run: None,
            delivered: None,
            room: true,
            flights: BTreeMap::new(),
            next_id: 0,
            run_headers: RUN_HEADERS,
        }
    }

    /// Takes an input and answers what is to be done, in order.
    pub fn step(&mut self, now: TimestampMs, input: SyncInput) -> Vec<SyncEffect> {
        self.now = self.now.max(now);
        match input {
            SyncInput::Head(head) => self.on_head(head),
            SyncInput::Status(peer, status) => self.peers.entry(peer).or_default().height = status.height,
            SyncInput::Behind(peer) => self.on_behind(peer),
            SyncInput::Room(room) => self.room = room,
            SyncInput::Response { peer, id, response } => self.on_response(peer, id, response),
            SyncInput::Failed { peer, id } => {
                if self.flights.get(&id).is_some_and(|f| f.peer == peer) {
                    self.fail(id);
                }
            }
            SyncInput::Disconnected(peer) => {
                self.peers.remove(&peer);
                self.flights.retain(|_, f| f.peer != peer);
                self.open.take_if(|open| open.from == peer);
            }
            SyncInput::Tick => {}
        }
        self.advance();
        std::mem::take(&mut self.effects)
    }

    fn on_behind(&mut self, id: NodeId) {
        let (now, next, reach) = (self.now, self.head.height.next(), self.reach());
        let peer = self.peers.entry(id).or_default();
        peer.height = peer.height.max(next);
        // One that failed or lied is believed again after its pause.
        if peer.not_before <= now {
            self.goal = self.goal.max(Some(peer.height.min(reach)));
        }
    }

    /// The highest goal that claims alone can set.
    fn reach(&self) -> Height {
        self.certified.max(self.head.height).plus(REACH)
    }

    /// Where to go after a goal is reached: on, if peers that did not fail claim to be far ahead still.
    fn further_goal(&self) -> Option<Height> {
        let sound = self.peers.values().filter(|p| p.failures == 0 && p.not_before <= self.now);
        let claimed = sound.map(|p| p.height).max()?;
        (claimed > self.head.height.plus(NEAR)).then(|| claimed.min(self.reach()))
    }

    /// When the catch-up next wants a [`SyncInput::Tick`], if nothing happens before; none while there is nothing to do.
    #[must_use]
    pub fn wake_at(&self) -> Option<TimestampMs> {
        let deadline = self.flights.values().map(|f| f.deadline).min();
        let retry = self.goal.and_then(|_| self.peers.values().map(|p| p.not_before).filter(|at| *at > self.now).min());
        let patience = self.peers.values().any(|p| p.height > self.head.height).then(|| self.patience_ends());
        let delivered = self.delivered.map(|(_, until)| until);
        let later = [retry, patience, delivered].into_iter().flatten().filter(|at| *at > self.now);
        let at = deadline.into_iter().chain(later).min();
        at.map(|at| at.max(self.now.next()))
    }

    /// Where it wants to get to; none while this node keeps up.
    #[must_use]
    pub const fn goal(&self) -> Option<Height> {
        self.goal
    }

    /// A head that does not move while a peer says that it is ahead is reason enough to ask, however small the
    /// distance: what the core fetches block by block may have been dropped by those that had it.
    fn patience_ends(&self) -> TimestampMs {
        self.head_since.plus(4 * self.timeout)
    }

    fn on_head(&mut self, head: Arc<ChainContext>) {
        if head.hash == self.head.hash {
            return;
        }
        self.head_since = self.now;
        self.head = head;
        self.open = None;
        self.delivered.take_if(|(last, _)| *last <= self.head.height);
        let (height, epoch) = (self.head.height, self.epoch());
        if let Some(run) = &mut self.run {
            if run.last() <= height || epoch != run.headers[0].epoch {
                self.run = None;
            } else if run.first() <= height {
                run.headers.drain(..(height.0 + 1 - run.first().0) as usize);
                run.bodies.retain(|h, _| *h > height);
            }
        }
        if self.goal.is_some_and(|goal| goal <= height) {
            self.goal = self.further_goal();
        }
    }

    /// The epoch and committee of the blocks above the head.
    fn committee(&self) -> &Arc<Committee> {
        if self.head.can_hand_over() { &self.head.next_committee } else { &self.head.committee }
    }

    fn epoch(&self) -> Epoch {
        self.committee().epoch()
    }

    fn advance(&mut self) {
        let late: Vec<_> = self.flights.iter().filter(|(_, f)| f.deadline <= self.now).map(|(id, _)| *id).collect();
        for id in late {
            self.fail(id);
        }
        if self.goal.is_none() && self.patience_ends() <= self.now {
            let claimed = self.peers.values().map(|p| p.height).max().filter(|height| *height > self.head.height);
            self.goal = claimed.map(|height| height.min(self.reach()));
            self.head_since = self.now;
        }
        self.delivered.take_if(|(_, until)| *until <= self.now);
        if self.goal.is_none() || !self.room || self.delivered.is_some() {
            return;
        }
        if self.run.is_none() {
            self.ask_headers();
        } else {
            self.ask_bodies();
        }
    }

    fn ask_headers(&mut self) {
        let asked = self.flights.values().any(|f| matches!(f.request, SyncRequest::Headers { .. }));
        if asked {
            return;
        }
        if let Some(open) = &self.open {
            let (peer, from) = (open.from, open.headers[open.headers.len() - 1].height.next());
            let usable = |p: &Peer| p.not_before <= self.now && p.in_flight < REQUESTS_PER_PEER;
            if self.peers.get(&peer).is_some_and(usable) {
                self.ask(peer, SyncRequest::Headers { from, count: self.run_headers });
                return;
            }
            self.open = None;
        }
        let from = self.head.height.next();
        match self.best_peer(from) {
            Some(peer) => self.ask(peer, SyncRequest::Headers { from, count: self.run_headers }),
            // Whoever claimed to be ahead is not, or does not answer time after time.
            None if self.peers.values().all(|p| p.height < from || p.failures >= GIVE_UP) => self.goal = None,
            None => {}
        }
    }

    /// Asks for the bodies that are neither there nor asked for, from as many peers as have them.
    fn ask_bodies(&mut self) {
        let Some(run) = &self.run else { return };
        let mut open: BTreeSet<u64> =
            (run.first().0..=run.last().0).filter(|h| !run.bodies.contains_key(&Height(*h))).collect();
        for flight in self.flights.values() {
            if let SyncRequest::Bodies { from, count } = flight.request {
                (from.0..from.0 + u64::from(count)).for_each(|h| {
                    open.remove(&h);
                });
            }
        }
        while let Some(&first) = open.first() {
            let count = (0..u64::from(BODIES_AT_A_TIME)).take_while(|i| open.contains(&(first + i))).count() as u32;
            let last = Height(first + u64::from(count) - 1);
            let Some(peer) = self.best_peer(last).or_else(|| self.best_peer(Height(first))) else { return };
            (first..=last.0).for_each(|h| {
                open.remove(&h);
            });
            self.ask(peer, SyncRequest::Bodies { from: Height(first), count });
        }
    }

    /// The peer that has this height, is free, failed least and has least to do.
    fn best_peer(&self, height: Height) -> Option<NodeId> {
        let fit = |p: &Peer| p.height >= height && p.not_before <= self.now && p.in_flight < REQUESTS_PER_PEER;
        let fit = self.peers.iter().filter(|(_, p)| fit(p));
        // Ties go round with the requests, so that not everybody asks the same peer.
        let turn = self.next_id as usize;
        let count = self.peers.len().max(1);
        fit.enumerate().min_by_key(|(i, (_, p))| (p.failures, p.in_flight, (i + turn) % count)).map(|(_, (id, _))| *id)
    }

    fn ask(&mut self, peer: NodeId, request: SyncRequest) {
        self.next_id += 1;
        let id = self.next_id;
        self.flights.insert(id, Flight { peer, request, deadline: self.now.plus(self.timeout) });
        self.peers.entry(peer).or_default().in_flight += 1;
        self.effects.push(SyncEffect::Request { peer, id, request });
    }

    fn land(&mut self, id: RequestId) -> Option<Flight> {
        let flight = self.flights.remove(&id)?;
        if let Some(peer) = self.peers.get_mut(&flight.peer) {
            peer.in_flight = peer.in_flight.saturating_sub(1);
        }
        Some(flight)
    }

    fn fail(&mut self, id: RequestId) {
        let Some(flight) = self.land(id) else { return };
        self.drop_open(&flight);
        let (now, timeout) = (self.now, self.timeout);
        if let Some(peer) = self.peers.get_mut(&flight.peer) {
            peer.not_before = now.plus(timeout << peer.failures.min(4));
            peer.failures = peer.failures.saturating_add(1);
            if peer.failures >= GIVE_UP {
                // It may say again where it stands.
                peer.height = Height(0);
            }
        }
    }

    /// The peer of an open run does not go on with it. What it sent is worth nothing without the rest.
    fn drop_open(&mut self, flight: &Flight) {
        if matches!(flight.request, SyncRequest::Headers { .. }) {
            self.open.take_if(|open| open.from == flight.peer);
        }
    }

    fn distrust(&mut self, id: NodeId, what: &'static str) {
        let until = self.now.plus(self.timeout * DISTRUST);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.not_before = until;
            peer.failures = peer.failures.saturating_add(1);
        }
        self.effects.push(SyncEffect::Misbehaved(id, what));
    }

    fn on_response(&mut self, from: NodeId, id: RequestId, response: SyncResponse) {
        if self.flights.get(&id).is_none_or(|f| f.peer != from) {
            return;
        }
        let Some(flight) = self.land(id) else { return };
        match (flight.request, response) {
            (_, SyncResponse::Nothing) => {
                self.drop_open(&flight);
                self.on_nothing(from, flight.request);
            }
            (SyncRequest::Headers { from: first, .. }, SyncResponse::Headers(headers, finality)) => {
                self.on_headers(from, first, headers, finality);
            }
            (SyncRequest::Bodies { from: first, count }, SyncResponse::Bodies(bodies)) => {
                self.on_bodies(from, first, count, bodies);
            }
            _ => self.distrust(from, "an answer to another request"),
        }
    }

    /// It has less than was believed.
    fn on_nothing(&mut self, from: NodeId, request: SyncRequest) {
        let (SyncRequest::Headers { from: first, .. } | SyncRequest::Bodies { from: first, .. }) = request;
        let (now, pause) = (self.now, self.timeout / 2);
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.height = peer.height.min(first.minus(1));
            peer.not_before = now.plus(pause << peer.failures.min(6));
            peer.failures = peer.failures.saturating_add(1);
        }
    }

    fn on_headers(&mut self, from: NodeId, first: Height, headers: Vec<Header>, finality: Finality) {
        let open = self.open.take();
        let (below, height) = match open.as_ref().and_then(|open| open.headers.last()) {
            Some(last) => (last.hash(), last.height),
            None => (self.head.hash, self.head.height),
        };
        if first != height.next() || self.run.is_some() || open.as_ref().is_some_and(|open| open.from != from) {
            // The head moved while the answer was under way.
            return;
        }
        let result = open.iter().flat_map(|open| &open.headers).rev().find_map(|header| header.results.last());
        let result = result.map_or(self.head.last_result, |result| result.height);
        let closed = match self.check_headers((below, height, result), &headers, &finality) {
            Ok(closed) => closed,
            Err(what) => {
                self.distrust(from, what);
                return;
            }
        };
        let mut held = open.map_or_else(Vec::new, |open| open.headers);
        held.extend(headers);
        let last = held[held.len() - 1].height;
        if !closed && held.len() >= MAX_OPEN_HEADERS {
            self.distrust(from, "more headers than may be held, and none is proved");
            return;
        }
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.failures = 0;
            peer.height = peer.height.max(last);
        }
        if closed {
            self.certified = self.certified.max(last);
            self.run = Some(Run { from, headers: held, finality, bodies: BTreeMap::new() });
        } else {
            self.open = Some(OpenRun { from, headers: held });
        }
    }

    /// Checks headers that shall stand on a block of this hash and height, whose chain carries results up to the last
    /// height. Answers whether the certificate closes them; if not, it is right all the same, and of a later view.
    fn check_headers(
        &self,
        (mut below, mut height, mut result): (BlockHash, Height, Height),
        headers: &[Header],
        finality: &Finality,
    ) -> Result<bool, &'static str> {
        let epoch = self.epoch();
        for header in headers {
            let fits = header.parent == below && header.height == height.next() && header.epoch == epoch;
            if !fits || header.kind != HeaderKind::Block {
                return Err("headers that do not follow from the final head");
            }
            (below, height) = (header.hash(), header.height);
            // Nothing proves the headers of an open run; so they may not be larger than honest ones together could be.
            for entry in &header.results {
                if entry.height != result.next() || entry.height >= height {
                    return Err("headers with results out of turn");
                }
                result = entry.height;
            }
        }
        let Some(last) = headers.last() else { return Err("no headers") };
        let target = finality.certificate.target;
        let view = finality.fillers.last().map_or(last.view, |f| f.view);
        let reached = filler_path(&below, epoch, &finality.fillers);
        let closed = reached.is_some_and(|hash| target == VoteTarget::commit(epoch, view, hash));
        let later = target.kind == VoteKind::Commit && target.epoch == epoch && target.view > last.view;
        if !closed && (!later || headers.len() < MAX_HEADERS) {
            return Err("headers that their certificate does not close");
        }
        verify_certificate(self.scheme.as_ref(), &self.rules.signing, self.committee(), &finality.certificate)
            .map_err(|_| "a wrong certificate under headers")?;
        Ok(closed)
    }

    fn on_bodies(&mut self, from: NodeId, first: Height, count: u32, bodies: Vec<Body>) {
        if bodies.is_empty() || bodies.len() > count as usize {
            self.distrust(from, "no bodies, or more than asked for");
            return;
        }
        let Some(run) = &mut self.run else { return };
        let mut lied = false;
        for (height, body) in (first.0..).map(Height).zip(bodies) {
            let Some(header) = height.0.checked_sub(run.first().0).and_then(|i| run.headers.get(i as usize)) else {
                continue;
            };
            if body.root() == header.body_root {
                run.bodies.insert(height, body);
            } else {
                lied = true;
                break;
            }
        }
        if lied {
            self.distrust(from, "a body that is not the header's");
            return;
        }
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.failures = 0;
        }
        let Some(run) = &self.run else { return };
        if run.bodies.len() == run.headers.len() {
            self.deliver();
        } else if self.run_headers > FEWEST_HEADERS && run.bytes() > 2 * RUN_BYTES {
            // Blocks became larger from one run to the next.
            self.run_headers = FEWEST_HEADERS;
            self.run = None;
        }
    }

    fn deliver(&mut self) {
        let Some(run) = self.run.take() else { return };
        let average = run.bytes() / run.headers.len() + 1;
        self.run_headers = u32::try_from(RUN_BYTES / average).unwrap_or(u32::MAX).clamp(FEWEST_HEADERS, RUN_HEADERS);
        self.delivered = Some((run.last(), self.now.plus(4 * self.timeout)));
        let blocks = run.headers.into_iter().zip(run.bodies.into_values());
        let blocks = blocks.map(|(header, body)| Arc::new(SealedBlock::new(Block { header, body }))).collect();
        self.effects.push(SyncEffect::Deliver { from: run.from, blocks, finality: run.finality });
    }
}
