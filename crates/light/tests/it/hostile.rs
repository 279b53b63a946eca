//! Answers about the chain that are not what they seem: each is proved before it is believed, or its sender dropped.

use cascade_light::{
    Ask, ChainAnswer, ChainRequest, Finality, Handover, Reply, Report, Start,
    ask::{MAX_CHAIN_REPLY_BYTES, MAX_REPLY_BYTES},
};
use cascade_primitives::{Decode, Encode, Epoch, Header, HeaderKind, Height, NodeId, block::MAX_FILLER_HEADERS};

use super::world::{Kind, TestChain, World, grow, noise, signing};

fn chain(blocks: u64, epoch_length: u64) -> TestChain {
    let mut chain = TestChain::new(4, epoch_length, 500, true);
    for _ in 0..blocks {
        chain.grow(None);
    }
    chain
}

fn world(blocks: u64, epoch_length: u64, peers: &[Kind]) -> World {
    let chain = chain(blocks, epoch_length);
    let start = Start::Checkpoint(chain.checkpoint(5));
    World::new(chain, start, peers)
}

fn caught_up(world: &World) -> Vec<u64> {
    let of = |report: &Report| match report {
        Report::CaughtUp { height, .. } => Some(height.0),
        _ => None,
    };
    world.reports.iter().filter_map(of).collect()
}

/// Peers of a kind, and an honest one.
fn beside_an_honest_one(kind: Kind) -> Vec<Kind> {
    let mut peers = vec![kind; 5];
    peers.push(Kind::Honest);
    peers
}

#[test]
fn a_head_that_is_behind_is_never_what_a_client_has_caught_up_with() {
    for salt in 0..4 {
        let mut world = world(25 + salt, 10, &beside_an_honest_one(Kind::Behind(Height(8))));
        world.run(10_000);
        assert_eq!(caught_up(&world), [25 + salt]);
        assert!(world.dropped.is_empty(), "to be behind is no lie: {:?}", world.dropped);
    }
    // Nor is one that is behind in the epoch of the tip.
    let mut world = world(28, 10, &beside_an_honest_one(Kind::Behind(Height(22))));
    world.run(20_000);
    assert!(matches!(caught_up(&world)[..], [22, ..] | [28]), "{:?}", caught_up(&world));
    assert_eq!(world.client.chain().unwrap().tip().height, Height(28));
}

#[test]
fn a_head_that_nobody_certified_drops_its_sender_even_if_it_shows_nothing_new() {
    let mut world = world(28, 100, &beside_an_honest_one(Kind::LowHead(Height(3))));
    world.run(20_000);
    assert_eq!(caught_up(&world), [28]);
    assert!(!world.dropped.is_empty());
    assert!(world.dropped.values().all(|why| why.contains("certificate")), "{:?}", world.dropped);
    assert!(!world.dropped.contains_key(&NodeId([6; 32])));
}

#[test]
fn who_names_a_later_epoch_has_to_show_the_way_there() {
    let mut world = world(28, 100, &beside_an_honest_one(Kind::Hasty));
    world.run(10_000);
    grow(&mut world, 40);
    assert_eq!(world.dropped.len(), 5, "{:?}", world.dropped);
    assert!(!world.dropped.contains_key(&NodeId([6; 32])));
    let shown = |why: &String| why.contains("shows no way there");
    assert!(world.dropped.values().any(shown), "{:?}", world.dropped);
    assert_eq!(world.client.stats().unsampled, 0);
}

fn world_of(peers: &[Kind]) -> World {
    let mut world = world(25, 30, peers);
    world.run(1_000);
    world
}

#[test]
fn an_epochs_end_is_not_jumped_to_while_somebody_has_the_headers() {
    // The epoch ends at block 29, which some use to say that it ended before.
    let mut world = world_of(&[Kind::Skipper, Kind::Skipper, Kind::Skipper, Kind::Honest]);
    assert_eq!(caught_up(&world), [25]);
    for _ in 0..8 {
        let seed = world.chain.hashes.len() as u64;
        world.chain.grow(Some(&noise(600, seed)));
    }
    world.now += 4_000;
    world.run(10_000);
    assert_eq!(world.client.chain().unwrap().tip().height, Height(33));
    let stats = world.client.stats();
    assert_eq!((stats.heights, stats.unsampled), (9, 0), "{:?}", world.reports);
    assert!(!world.dropped.is_empty() && !world.dropped.contains_key(&NodeId([4; 32])), "{:?}", world.dropped);
    assert!(world.dropped.values().all(|why| why.contains("epoch of a block below")), "{:?}", world.dropped);

    // Most know no header above block 25, but the head: that leads beyond the end, and is not jumped to either.
    let mut peers = vec![Kind::Stale(Height(25)); 19];
    peers.push(Kind::Honest);
    for blocks in [3, 8] {
        let mut world = world_of(&peers);
        for _ in 0..blocks {
            let seed = world.chain.hashes.len() as u64;
            world.chain.grow(Some(&noise(600, seed)));
        }
        world.run(30_000);
        assert_eq!(world.client.chain().unwrap().tip().height, Height(25 + blocks));
        let stats = world.client.stats();
        assert_eq!((stats.heights, stats.unsampled), (1 + blocks, 0), "{:?}", world.reports);
    }
}

#[test]
fn a_history_that_was_not_shown_yet_stays_due_in_the_next_run() {
    // What was saved after a handover, before a head was seen.
    let chain = chain(25, 10);
    let ChainAnswer::Start(start) = chain.answer(&ChainRequest::Start { height: Height(5) }) else {
        panic!("it is there")
    };
    let bls = cascade_light::BlsScheme::default();
    let mut saved = cascade_light::Chain::start(signing(), &chain.checkpoint(5), start.0, start.1).unwrap();
    saved.hand_over(&bls, &chain.handovers[0]).unwrap();
    saved.hand_over(&bls, &chain.handovers[1]).unwrap();
    let right = chain.checkpoint(5);
    // With another block as the checkpoint the chain is not a continuation of what is trusted, whoever signed it.
    let wrong = cascade_light::Checkpoint { hash: cascade_primitives::BlockHash([9; 32]), ..right };
    for (checkpoint, accepted) in [(right, true), (wrong, false)] {
        let mut again = chain_of(&chain);
        again.grow(None);
        let start = Start::Saved(Box::new(saved.clone()), checkpoint);
        // The head is the very block that was saved, so that nothing but the history is left to prove.
        let mut world = World::new(again, start, &[Kind::Behind(Height(19)); 2]);
        world.run(5_000);
        assert_eq!(caught_up(&world), if accepted { vec![19] } else { Vec::new() });
        assert_eq!(world.dropped.len(), if accepted { 0 } else { 2 });
    }
}

/// The same chain again.
fn chain_of(chain: &TestChain) -> TestChain {
    self::chain(chain.tip().height.0, 10)
}

/// An epoch's end with so many fillers above it.
fn late_end(chain: &TestChain, fillers: usize) -> Handover {
    let right = &chain.handovers[0];
    let mut below = right.last.clone();
    let mut headers: Vec<Header> = Vec::with_capacity(fillers);
    for _ in 0..fillers {
        let filler = Header {
            kind: HeaderKind::Filler,
            parent: below.hash(),
            height: below.height.next(),
            view: below.view.next(),
            results: Vec::new(),
            ..below
        };
        below = filler.clone();
        headers.push(filler);
    }
    let certificate = chain.voters[0].commit(&below);
    Handover { end: Finality { certificate, fillers: headers }, ..right.clone() }
}

#[test]
fn an_epoch_that_ended_after_thousands_of_fillers_can_be_crossed() {
    let chain = chain(25, 10);
    let ask = Ask::Chain(ChainRequest::Handovers { from: Epoch(0) });
    let handover = late_end(&chain, 3_000);
    let reply = Reply::Chain(ChainAnswer::Handovers(vec![handover.clone()]));
    let bytes = reply.to_bytes();
    assert!(bytes.len() > MAX_REPLY_BYTES, "{} bytes fitted before", bytes.len());
    assert!(bytes.len() <= ask.max_reply(), "{} bytes", bytes.len());
    assert_eq!(Reply::from_slice(&bytes), Ok(reply));
    let ChainAnswer::Start(start) = chain.answer(&ChainRequest::Start { height: Height(5) }) else {
        panic!("it is there")
    };
    let mut light = cascade_light::Chain::start(signing(), &chain.checkpoint(5), start.0, start.1).unwrap();
    assert_eq!(light.hand_over(&cascade_light::BlsScheme::default(), &handover), Ok(()));
    // The most that a block may carry; fillers carry no results.
    let most = late_end(&chain, 16).end.fillers.iter().map(|filler| filler.to_bytes().len()).max().unwrap();
    assert!(most * MAX_FILLER_HEADERS + MAX_REPLY_BYTES <= MAX_CHAIN_REPLY_BYTES, "{most} bytes a filler");
}
