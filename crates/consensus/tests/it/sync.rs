//! Catch-up against peers that are honest, slow, short of blocks, or lie.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cascade_consensus::{
    ChainContext, FinalChain, Finality, Status, Sync, SyncEffect, SyncInput, SyncRequest, SyncResponse,
    sync::{MAX_HEADERS, REACH, answer},
};
use cascade_primitives::{
    BlockHash, Body, Bytes, Epoch, Fork, Header, Height, NodeId, SealedBlock, TimestampMs, View,
    block::MAX_RESULTS_PER_HEADER,
};
use proptest::prelude::*;

use crate::chain::{Chain, Scheme};

const TIMEOUT: u64 = 100;

/// Final blocks up to a height, of which only every `batch`-th was made final by a certificate of its own.
struct Store<'a> {
    chain: &'a Chain,
    height: u64,
    batch: u64,
}

impl Store<'_> {
    /// The height whose certificate made this one final.
    fn closing(&self, height: Height) -> Height {
        let epoch = self.chain.contexts[height.0 as usize].epoch;
        let mut close = height.0;
        while !close.is_multiple_of(self.batch)
            && close < self.height
            && self.chain.contexts[close as usize + 1].epoch == epoch
        {
            close += 1;
        }
        Height(close)
    }
}

impl FinalChain for Store<'_> {
    fn height(&self) -> Height {
        Height(self.height)
    }

    fn header(&self, height: Height) -> Option<Header> {
        (height.0 <= self.height).then(|| self.chain.blocks[height.0 as usize].header.clone())
    }

    fn body(&self, height: Height) -> Option<Body> {
        (height.0 <= self.height).then(|| self.chain.blocks[height.0 as usize].body.clone())
    }

    fn finality(&self, height: Height) -> Option<Finality> {
        (0 < height.0 && height.0 <= self.height).then(|| self.chain.finality(self.closing(height)))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Honest,
    Silent,
    Empty,
    BadHeader,
    BadCertificate,
    BadBody,
    Confused,
    /// Has no headers beyond the first response.
    Half,
}

impl Peer {
    fn answer(self, store: &Store<'_>, request: &SyncRequest) -> Option<SyncResponse> {
        let mut truth = answer(store, request);
        match (self, &mut truth) {
            (Self::Silent, _) => return None,
            (Self::Half, SyncResponse::Headers(headers, _)) if headers[0].height.0 > MAX_HEADERS as u64 => return None,
            (Self::Empty, _) => truth = SyncResponse::Nothing,
            (Self::BadHeader, SyncResponse::Headers(headers, _)) => headers[0].timestamp = TimestampMs(1),
            (Self::BadCertificate, SyncResponse::Headers(_, finality)) => {
                let mut certificate = finality.certificate.as_ref().clone();
                certificate.signature.0[0] ^= 1;
                finality.certificate = Arc::new(certificate);
            }
            (Self::BadBody, SyncResponse::Bodies(bodies)) => bodies[0].transactions.push(Bytes::from_static(b"y")),
            (Self::Confused, SyncResponse::Headers(..)) => truth = SyncResponse::Bodies(vec![Body::default()]),
            _ => {}
        }
        Some(truth)
    }
}

fn id(i: usize) -> NodeId {
    NodeId([i as u8 + 100; 32])
}

fn status(height: u64) -> Status {
    Status { fork: Fork(0), epoch: Epoch(0), view: View(1), height: Height(height), hash: BlockHash::ZERO }
}

#[derive(Debug, Default)]
struct Ran {
    delivered: Vec<Arc<SealedBlock>>,
    reported: BTreeSet<NodeId>,
    served_bodies: BTreeMap<NodeId, u64>,
    took: u64,
}

/// Catches up from genesis to `height` with these peers, in virtual time.
fn run(chain: &Chain, peers: &[Peer], height: u64, batch: u64) -> Ran {
    let store = Store { chain, height, batch };
    let mut sync =
        Sync::new(Arc::clone(&chain.rules), Arc::new(Scheme), Arc::clone(&chain.contexts[0]), TIMEOUT, TimestampMs(0));
    let mut ran = Ran::default();
    let mut now = 0;
    let mut inputs: Vec<(u64, SyncInput)> = Vec::new();
    for i in 0..peers.len() {
        inputs.push((0, SyncInput::Status(id(i), status(height))));
        inputs.push((0, SyncInput::Behind(id(i))));
    }
    while now < 1_000_000 && (ran.delivered.len() as u64) < height {
        inputs.sort_by_key(|(at, _)| *at);
        let wake = sync.wake_at().map(|at| at.0);
        let input = match inputs.first() {
            Some((at, _)) if wake.is_none_or(|w| *at <= w) => {
                now = now.max(*at);
                inputs.remove(0).1
            }
            _ => {
                now = now.max(wake.expect("it still has something to do"));
                SyncInput::Tick
            }
        };
        for effect in sync.step(TimestampMs(now), input) {
            match effect {
                SyncEffect::Request { peer, id: request_id, request } => {
                    let which = (0..peers.len()).find(|i| id(*i) == peer).unwrap();
                    if let SyncRequest::Bodies { count, .. } = request {
                        *ran.served_bodies.entry(peer).or_default() += u64::from(count);
                    }
                    if let Some(response) = peers[which].answer(&store, &request) {
                        inputs.push((now + 10, SyncInput::Response { peer, id: request_id, response }));
                    }
                }
                SyncEffect::Deliver { blocks, finality, .. } => {
                    assert!(finality.closes(&blocks.last().unwrap().hash()));
                    let epoch = blocks[0].header.epoch;
                    assert!(blocks.iter().all(|b| b.header.epoch == epoch), "a run lies within one epoch");
                    ran.delivered.extend(blocks);
                    let head: &Arc<ChainContext> = &chain.contexts[ran.delivered.len()];
                    inputs.push((now, SyncInput::Head(Arc::clone(head))));
                }
                SyncEffect::Misbehaved(peer, _) => drop(ran.reported.insert(peer)),
            }
        }
    }
    ran.took = now;
    ran
}

fn chain(height: u64) -> Chain {
    let mut chain = Chain::new();
    chain.grow(height);
    chain
}

fn assert_caught_up(ran: &Ran, chain: &Chain, height: u64) {
    let delivered: Vec<_> = ran.delivered.iter().map(|b| b.hash()).collect();
    let wanted: Vec<_> = chain.blocks[1..=height as usize].iter().map(|b| b.hash()).collect();
    assert_eq!(delivered, wanted);
}

#[test]
fn bodies_come_from_several_peers_at_once() {
    let mut chain = Chain::new();
    while chain.tip().height.0 < 300 {
        // Nobody becomes ready, so one epoch grows long.
        let view = chain.next_view();
        chain.push(crate::chain::Next { view, commit: true, transaction: true, ready: 0 });
        if chain.tip().epoch > Epoch(0) {
            break;
        }
    }
    let height = chain.contexts.iter().rev().find(|c| c.epoch == Epoch(0)).unwrap().height.0;
    let ran = run(&chain, &[Peer::Honest; 3], height, 1);
    assert_caught_up(&ran, &chain, height);
    assert_eq!(ran.served_bodies.len(), 3, "{:?}", ran.served_bodies);
    assert!(ran.took < 50, "one round trip for headers, one for bodies: {} ms", ran.took);
    assert!(ran.reported.is_empty());
}

#[test]
fn runs_end_where_a_certificate_closes_them() {
    let chain = chain(60);
    for batch in [1, 2, 7, 50] {
        let store = Store { chain: &chain, height: 60, batch };
        for from in 1..=60 {
            for count in [1, 5, 256] {
                let response = answer(&store, &SyncRequest::Headers { from: Height(from), count });
                let SyncResponse::Headers(headers, finality) = response else { panic!("it has them") };
                assert!(finality.closes(&headers.last().unwrap().hash()));
                assert_eq!(headers[0].height, Height(from));
                assert!(headers.len() <= MAX_HEADERS);
                assert!(headers.iter().all(|h| h.epoch == headers[0].epoch));
            }
        }
        assert_caught_up(&run(&chain, &[Peer::Honest, Peer::Honest], 60, batch), &chain, 60);
    }
}

#[test]
fn what_a_peer_does_not_have_is_no_lie() {
    let chain = chain(30);
    let ran = run(&chain, &[Peer::Empty, Peer::Empty, Peer::Honest], 30, 1);
    assert_caught_up(&ran, &chain, 30);
    assert!(ran.reported.is_empty());
}

#[test]
fn liars_are_reported_and_passed_over() {
    let chain = chain(40);
    for liar in [Peer::BadHeader, Peer::BadCertificate, Peer::BadBody, Peer::Confused] {
        let ran = run(&chain, &[liar, Peer::Honest, liar], 40, 3);
        assert_caught_up(&ran, &chain, 40);
        assert!(!ran.reported.contains(&id(1)), "{liar:?}");
        assert!(!ran.reported.is_empty(), "{liar:?}");
        assert!(ran.took < 4 * TIMEOUT, "{liar:?}: {} ms", ran.took);
    }
}

#[test]
fn an_answer_that_was_not_asked_for_is_ignored() {
    let chain = chain(20);
    let genesis = Arc::clone(&chain.contexts[0]);
    let mut sync = Sync::new(Arc::clone(&chain.rules), Arc::new(Scheme), genesis, TIMEOUT, TimestampMs(0));
    let response = SyncResponse::Bodies(vec![Body::default()]);
    assert!(
        sync.step(TimestampMs(1), SyncInput::Response { peer: id(0), id: 1, response: response.clone() }).is_empty()
    );
    let effects = sync.step(TimestampMs(2), SyncInput::Behind(id(0)));
    let [SyncEffect::Request { id: asked, .. }] = effects[..] else { panic!("{effects:?}") };
    // Not from the peer that was asked.
    assert!(sync.step(TimestampMs(3), SyncInput::Response { peer: id(1), id: asked, response }).is_empty());
}

#[test]
fn a_peer_that_lags_for_long_is_asked_even_if_it_is_ahead_by_one_block() {
    let chain = chain(20);
    let genesis = Arc::clone(&chain.contexts[0]);
    let mut sync = Sync::new(Arc::clone(&chain.rules), Arc::new(Scheme), genesis, TIMEOUT, TimestampMs(0));
    assert!(sync.step(TimestampMs(1), SyncInput::Status(id(0), status(1))).is_empty());
    let at = sync.wake_at().expect("it will look again");
    let effects = sync.step(at, SyncInput::Tick);
    assert!(matches!(effects[..], [SyncEffect::Request { .. }]), "{effects:?}");
}

/// One epoch of so many blocks.
fn long_chain(height: u64) -> Chain {
    let mut chain = Chain::with(|genesis| genesis.params.epoch_length = 10_000);
    chain.grow(height);
    chain
}

#[test]
fn more_blocks_than_a_response_holds_may_have_become_final_by_one_certificate() {
    let chain = long_chain(2700);
    for peers in [
        vec![Peer::Honest],
        vec![Peer::Half, Peer::Honest, Peer::Half],
        vec![Peer::BadHeader, Peer::BadCertificate, Peer::Honest],
    ] {
        let ran = run(&chain, &peers, 2700, 2700);
        assert_caught_up(&ran, &chain, 2700);
        for (i, peer) in peers.iter().enumerate() {
            assert!(!matches!(peer, Peer::Honest | Peer::Half) || !ran.reported.contains(&id(i)), "{peers:?}");
        }
    }
}

#[test]
fn headers_that_stay_open_are_held_up_to_a_limit_and_only_with_a_right_certificate() {
    let chain = long_chain(MAX_HEADERS as u64 + 10);
    let genesis = Arc::clone(&chain.contexts[0]);
    let headers: Vec<Header> = chain.blocks[1..=MAX_HEADERS].iter().map(|b| b.header.clone()).collect();
    let later = chain.finality(Height(MAX_HEADERS as u64 + 5));
    let mut forged = later.certificate.as_ref().clone();
    forged.signature.0[0] ^= 1;
    let forged = Finality { certificate: Arc::new(forged), fillers: Vec::new() };
    let earlier = chain.finality(Height(7));
    let cases = [
        (headers.clone(), later.clone(), true),
        (headers[..MAX_HEADERS - 1].to_vec(), later, false),
        (headers.clone(), forged, false),
        (headers, earlier, false),
    ];
    for (headers, finality, right) in cases {
        let mut sync =
            Sync::new(Arc::clone(&chain.rules), Arc::new(Scheme), Arc::clone(&genesis), TIMEOUT, TimestampMs(0));
        sync.step(TimestampMs(0), SyncInput::Status(id(0), status(MAX_HEADERS as u64 + 10)));
        let effects = sync.step(TimestampMs(1), SyncInput::Behind(id(0)));
        let [SyncEffect::Request { id: asked, .. }] = effects[..] else { panic!("{effects:?}") };
        let response = SyncResponse::Headers(headers, finality);
        let effects = sync.step(TimestampMs(2), SyncInput::Response { peer: id(0), id: asked, response });
        match effects[..] {
            [SyncEffect::Request { request: SyncRequest::Headers { from, .. }, .. }] if right => {
                assert_eq!(from, Height(MAX_HEADERS as u64 + 1));
            }
            [SyncEffect::Misbehaved(..)] if !right => {}
            _ => panic!("{right}: {effects:?}"),
        }
    }
}

/// The chain of headers with other results, `results` for each height.
fn with_results(headers: &[Header], results: impl Fn(u64) -> Vec<u64>) -> Vec<Header> {
    let mut below = headers[0].parent;
    let mut changed = headers.to_vec();
    for header in &mut changed {
        header.parent = below;
        header.results = results(header.height.0).into_iter().map(|h| crate::chain::result(Height(h))).collect();
        below = header.hash();
    }
    changed
}

#[test]
fn unproved_headers_carry_no_more_results_than_there_are_heights() {
    let chain = long_chain(MAX_HEADERS as u64 + 10);
    let headers: Vec<Header> = chain.blocks[1..=MAX_HEADERS].iter().map(|b| b.header.clone()).collect();
    let later = chain.finality(Height(MAX_HEADERS as u64 + 5));
    let most = MAX_RESULTS_PER_HEADER as u64;
    let cases: [(Vec<Header>, bool); 5] = [
        (with_results(&headers, |_| Vec::new()), true),
        (
            with_results(
                &headers,
                |h| if h % 64 == 0 { (h.max(65) - 64..h).filter(|r| *r > 0).collect() } else { vec![] },
            ),
            true,
        ),
        (with_results(&headers, |_| (1..=most).collect()), false),
        (with_results(&headers, |h| ((h - 1) * most + 1..=h * most).collect()), false),
        (with_results(&headers, |h| vec![h]), false),
    ];
    for (i, (headers, right)) in cases.into_iter().enumerate() {
        let genesis = Arc::clone(&chain.contexts[0]);
        let mut sync = Sync::new(Arc::clone(&chain.rules), Arc::new(Scheme), genesis, TIMEOUT, TimestampMs(0));
        sync.step(TimestampMs(0), SyncInput::Status(id(0), status(MAX_HEADERS as u64 + 10)));
        let effects = sync.step(TimestampMs(1), SyncInput::Behind(id(0)));
        let [SyncEffect::Request { id: asked, .. }] = effects[..] else { panic!("{effects:?}") };
        let response = SyncResponse::Headers(headers, later.clone());
        let effects = sync.step(TimestampMs(2), SyncInput::Response { peer: id(0), id: asked, response });
        assert_eq!(matches!(effects[..], [SyncEffect::Misbehaved(..)]), !right, "case {i}: {effects:?}");
    }
}

#[test]
fn no_further_run_is_fetched_while_there_is_no_room() {
    let chain = long_chain(900);
    let store = Store { chain: &chain, height: 900, batch: 1 };
    let genesis = Arc::clone(&chain.contexts[0]);
    let mut sync = Sync::new(Arc::clone(&chain.rules), Arc::new(Scheme), genesis, TIMEOUT, TimestampMs(0));
    let mut inputs = vec![SyncInput::Status(id(0), status(900)), SyncInput::Behind(id(0))];
    let (mut now, mut head, mut held_back, mut most) = (0, 0, 0, 0);
    let mut executed = 0;
    while head < 900 {
        now += 1;
        let input = if inputs.is_empty() { SyncInput::Tick } else { inputs.remove(0) };
        let room = head - executed < 100;
        let asked_before = held_back;
        for effect in sync.step(TimestampMs(now), input) {
            match effect {
                SyncEffect::Request { peer, id, request } => {
                    if matches!(request, SyncRequest::Headers { .. }) {
                        assert!(room, "a run is asked for with {} blocks to execute", head - executed);
                    }
                    inputs.push(SyncInput::Response { peer, id, response: answer(&store, &request) });
                }
                SyncEffect::Deliver { blocks, .. } => {
                    head += blocks.len() as u64;
                    inputs.push(SyncInput::Room(head - executed < 100));
                    inputs.push(SyncInput::Head(Arc::clone(&chain.contexts[head as usize])));
                    most = most.max(head - executed);
                }
                SyncEffect::Misbehaved(..) => panic!("{effect:?}"),
            }
        }
        held_back = asked_before + u64::from(!room);
        // Execution takes its time: a block every five steps.
        if now % 5 == 0 && executed < head {
            executed += 1;
            inputs.push(SyncInput::Room(head - executed < 100));
        }
        assert!(now < 100_000, "at {head}, executed {executed}, goal {:?}", sync.goal());
    }
    assert!(held_back > 100 && most < 100 + 256 + 1, "held back for {held_back} steps, {most} blocks at most");
}

#[test]
fn a_delivered_run_is_not_fetched_again_while_it_is_taken_up() {
    let chain = long_chain(50);
    let store = Store { chain: &chain, height: 50, batch: 1 };
    let genesis = Arc::clone(&chain.contexts[0]);
    let mut sync = Sync::new(Arc::clone(&chain.rules), Arc::new(Scheme), genesis, TIMEOUT, TimestampMs(0));
    let mut inputs = vec![SyncInput::Status(id(0), status(50)), SyncInput::Behind(id(0))];
    let mut delivered = false;
    while !delivered {
        for effect in sync.step(TimestampMs(1), inputs.remove(0)) {
            match effect {
                SyncEffect::Request { peer, id, request } => {
                    assert!(!delivered, "asked again: {request:?}");
                    inputs.push(SyncInput::Response { peer, id, response: answer(&store, &request) });
                }
                SyncEffect::Deliver { .. } => delivered = true,
                SyncEffect::Misbehaved(..) => panic!("{effect:?}"),
            }
        }
    }
    // If consensus does not take it, it is fetched once more in the end.
    let mut again = Vec::new();
    while again.is_empty() {
        let at = sync.wake_at().expect("it looks again");
        assert!(at < TimestampMs(10 * TIMEOUT), "{at}");
        again = sync.step(at, SyncInput::Tick);
    }
    assert!(matches!(again[..], [SyncEffect::Request { .. }]), "{again:?}");
}

#[test]
fn a_lie_about_a_height_costs_a_few_questions_and_no_chase() {
    let chain = long_chain(20);
    let head = Arc::clone(&chain.contexts[20]);
    let mut sync = Sync::new(Arc::clone(&chain.rules), Arc::new(Scheme), head, TIMEOUT, TimestampMs(0));
    let (mut asked, mut chasing) = (0, 0);
    for now in (0..600 * TIMEOUT).step_by(10) {
        let mut effects = sync.step(TimestampMs(now), SyncInput::Status(id(0), status(20)));
        effects.extend(sync.step(TimestampMs(now), SyncInput::Status(id(1), status(1 << 40))));
        effects.extend(sync.step(TimestampMs(now), SyncInput::Behind(id(1))));
        assert!(sync.goal().is_none_or(|goal| goal <= Height(20 + REACH)), "{:?}", sync.goal());
        for effect in effects {
            let SyncEffect::Request { peer, id: request, .. } = effect else { panic!("{effect:?}") };
            asked += 1;
            let response = SyncResponse::Nothing;
            sync.step(TimestampMs(now), SyncInput::Response { peer, id: request, response });
        }
        chasing += u64::from(sync.goal().is_some());
    }
    assert!((1..40).contains(&asked), "{asked} questions in 60 s");
    assert!(chasing < 60 * TIMEOUT / 10 / 10, "{chasing} of {} times it had a goal", 60 * TIMEOUT);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn one_honest_peer_among_any_others_is_enough(
        others in prop::collection::vec(prop::sample::select(vec![
            Peer::Honest, Peer::Silent, Peer::Empty, Peer::BadHeader, Peer::BadCertificate, Peer::BadBody, Peer::Confused,
        ]), 0..6),
        at: prop::sample::Index, height in 1u64..60, batch in 1u64..9,
    ) {
        let mut peers = others;
        let place = at.index(peers.len() + 1);
        peers.insert(place, Peer::Honest);
        let chain = chain(60);
        let ran = run(&chain, &peers, height, batch);
        assert_caught_up(&ran, &chain, height);
        for (i, peer) in peers.iter().enumerate() {
            if matches!(peer, Peer::Honest | Peer::Silent | Peer::Empty) {
                prop_assert!(!ran.reported.contains(&id(i)), "{:?} is no liar", peer);
            }
        }
    }
}
