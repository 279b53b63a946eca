//! Following the chain and sampling its blocks.

use std::sync::Arc;

use cascade_da::{BadEncoding, RepairError, Repairer, Square};
use cascade_light::{Availability, Input, Report, Start, Stop};
use cascade_primitives::{Height, NodeId, block::body_root};

use super::world::{Kind, TestChain, World, grow, noise};

/// A chain of 20 blocks and a client that follows it for as many blocks as are asked for.
fn world(peers: &[Kind]) -> World {
    let mut chain = TestChain::new(4, 30, 500, true);
    for _ in 0..20 {
        chain.grow(None);
    }
    let start = Start::Checkpoint(chain.checkpoint(5));
    World::new(chain, start, peers)
}

fn availability(world: &World, height: u64) -> Option<Availability> {
    world.client.availability(Height(height))
}

fn available(world: &World, heights: impl Iterator<Item = u64>) {
    for height in heights {
        match availability(world, height) {
            Some(Availability::Available { confidence }) => assert!(confidence >= 0.99),
            other => panic!("height {height}: {other:?}"),
        }
    }
}

#[test]
fn every_height_seen_becomes_available_over_epochs() {
    let mut world = world(&[Kind::Honest; 4]);
    world.run(1000);
    assert!(matches!(world.reports[0], Report::CaughtUp { height: Height(20), .. }));
    grow(&mut world, 50);
    world.run(2000);
    available(&world, 21..=70);
    let stats = world.client.stats();
    // The head that it caught up with is a square of four shares.
    assert_eq!((stats.heights, stats.failed, stats.unsampled, stats.samples), (51, 0, 0, 4 + 50 * 16));
    assert_eq!((world.client.followed(), world.client.sampling()), (51, 0));
    assert!(stats.min_confidence.unwrap() >= 0.99);
    assert_eq!(world.client.chain().unwrap().hash(), world.chain.tip().hash());
    assert!(world.asked.values().all(|&asked| asked > 100), "samples are spread: {:?}", world.asked);
    assert_eq!(world.client.results(Height(60)).unwrap().height, Height(60));
    assert!(world.dropped.is_empty());
}

#[test]
fn one_honest_peer_is_enough() {
    let mut world = world(&[Kind::NoShares, Kind::Silent, Kind::NoShares, Kind::Honest]);
    world.run(5000);
    grow(&mut world, 4);
    world.run(9000);
    available(&world, 21..=24);
    assert!(world.dropped.is_empty(), "to have nothing is no lie");
}

#[test]
fn liars_are_dropped_by_name_and_the_rest_goes_on() {
    let mut world = world(&[Kind::Liar, Kind::Forger, Kind::Honest, Kind::Honest]);
    world.run(3000);
    grow(&mut world, 40);
    world.run(3000);
    available(&world, 21..=60);
    assert_eq!(world.dropped.keys().copied().collect::<Vec<_>>(), [NodeId([1; 32]), NodeId([2; 32])]);
    assert!(world.dropped[&NodeId([1; 32])].contains("sample of block"), "{:?}", world.dropped);
    assert_eq!(world.client.stats().liars, 2);
    let asked = world.asked.clone();
    grow(&mut world, 3);
    world.put(0, Input::PeerUp(NodeId([1; 32])));
    world.run(1000);
    assert_eq!(world.asked[&NodeId([1; 32])], asked[&NodeId([1; 32])], "a liar is not asked again");
}

#[test]
fn a_withheld_corner_is_named_and_never_called_available() {
    let mut world = world(&[Kind::Corner(Height(24)); 4]);
    world.run(1000);
    grow(&mut world, 4);
    world.run(500);
    available(&world, 21..=23);
    grow(&mut world, 40);
    match world.stopped.clone() {
        Some(stop @ Stop::Withheld { height: Height(24), samples: 16, peers: 4, .. }) => {
            assert!(stop.to_string().contains("block 24 is withheld"), "{stop}");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(availability(&world, 24), Some(Availability::Withheld { .. })));
    assert!(world.client.chain().unwrap().tip().height > Height(24), "certificates went on");
    assert_eq!(world.client.stats().failed as usize, withheld(&world).len());
    assert!(withheld(&world).contains(&Height(24)));
    let called_available = world.reports.iter().filter(|report| {
        matches!(report, Report::Data { height, availability: Availability::Available { .. } } if *height >= Height(24))
    });
    assert_eq!(called_available.count(), 0);
}

fn withheld(world: &World) -> Vec<Height> {
    let withheld = |report: &Report| match report {
        Report::Data { height, availability: Availability::Withheld { .. } } => Some(*height),
        _ => None,
    };
    world.reports.iter().filter_map(withheld).collect()
}

/// A quorum certifies a block and serves the square of something else: all samples come, and whoever repairs it has a proof.
#[test]
fn the_square_of_another_body_is_convicted_by_its_data() {
    let mut world = world(&[Kind::Honest; 4]);
    world.run(1000);
    let (body, other) = (noise(8 * 1024, 1), Square::new(&noise(8 * 1024, 2)).unwrap());
    let lying = Square::commit_unchecked(*other.shape(), other.shares().to_vec(), body_root(&body));
    let mut repairer = Repairer::new(lying.commitment().clone());
    for (row, column) in (0..4).flat_map(|row| (0..4).map(move |column| (row, column))) {
        repairer.insert(row, column, &lying.share_proof(row, column, cascade_da::Axis::Row).unwrap()).unwrap();
    }
    let Err(RepairError::BadEncoding(proof)) = repairer.repair() else { panic!("it is not the body") };
    assert!(matches!(*proof, BadEncoding::Body(_)), "{proof}");
    world.chain.grow_with(Some(Arc::new(lying)));
    world.run(1000);
    available(&world, 21..=21);
    world.put(0, Input::Fraud { from: NodeId([2; 32]), height: Height(21), proof, bytes: 9 });
    world.run(100);
    assert!(matches!(world.stopped, Some(Stop::BadEncoding { height: Height(21), .. })));
}

/// A square whose first row is no codeword, and the proof of it.
fn spoiled() -> (Arc<Square>, Box<BadEncoding>) {
    let honest = Square::new(&noise(8 * 1024, 1)).unwrap();
    let mut shares = honest.shares().to_vec();
    shares[5 * 512] ^= 1;
    let square = Square::commit_unchecked(*honest.shape(), shares, honest.commitment().body_root());
    let mut repairer = Repairer::new(square.commitment().clone());
    for column in 0..8 {
        let axis = cascade_da::Axis::Column;
        repairer.insert(0, column, &square.share_proof(0, column, axis).unwrap()).unwrap();
    }
    let Err(RepairError::BadEncoding(proof)) = repairer.repair() else { panic!("row 0 is no codeword") };
    (Arc::new(square), proof)
}

/// A world that has sampled a badly encoded block 21 and three more.
fn sampled_wrong(peers: &[Kind]) -> (World, Box<BadEncoding>) {
    let mut world = world(peers);
    world.run(1000);
    let (square, proof) = spoiled();
    world.chain.grow_with(Some(square));
    world.run(500);
    grow(&mut world, 3);
    available(&world, 21..=24);
    (world, proof)
}

#[test]
fn a_proof_that_is_made_after_the_block_was_sampled_reaches_the_client() {
    let (mut world, proof) = sampled_wrong(&[Kind::Honest; 4]);
    let holder = NodeId([3; 32]);
    world.proofs.insert((holder, Height(21)), proof);
    let heights = world.client.stats().heights;
    grow(&mut world, 10);
    assert!(matches!(world.stopped, Some(Stop::BadEncoding { height: Height(21), .. })), "{:?}", world.stopped);
    assert_eq!(world.passed_on, [1, 2, 4].map(|n| NodeId([n; 32])).into());
    let stats = world.client.stats();
    assert_eq!(stats.failed, 1);
    assert!(stats.heights >= heights && stats.heights + world.client.sampling() as u64 == world.client.followed());
    assert!(world.dropped.is_empty(), "{:?}", world.dropped);

    // What is saved ends below, and the next run is told.
    assert_eq!(world.client.saveable().unwrap().tip().height, Height(20));
    let condemned = world.client.condemned().unwrap();
    assert_eq!((condemned.height, condemned.hash), (Height(21), world.chain.headers[&Height(21)].hash()));
}

#[test]
fn a_proof_that_is_none_drops_whoever_sends_it_and_so_do_proofs_that_are_not_there() {
    let (mut world, proof) = sampled_wrong(&[Kind::Honest, Kind::Crier, Kind::Honest, Kind::Honest]);
    world.proofs.insert((NodeId([3; 32]), Height(22)), proof);
    grow(&mut world, 20);
    assert_eq!(world.stopped, None);
    assert_eq!(world.dropped.keys().copied().collect::<Vec<_>>(), [NodeId([2; 32]), NodeId([3; 32])]);
    assert!(world.dropped[&NodeId([2; 32])].contains("does not have"), "{:?}", world.dropped);
    assert!(world.dropped[&NodeId([3; 32])].contains("bad-encoding proof of block 22"), "{:?}", world.dropped);
}

#[test]
fn what_is_saved_ends_below_the_lowest_height_that_is_open_or_failed() {
    let mut world = world(&[Kind::Corner(Height(24)); 4]);
    world.run(1000);
    grow(&mut world, 3);
    assert_eq!(world.client.saveable().unwrap().tip().height, Height(23), "all are settled");
    grow(&mut world, 6);
    assert_eq!(world.client.chain().unwrap().tip().height, Height(29));
    assert_eq!(availability(&world, 24), Some(Availability::Sampling));
    let saved = world.client.saveable().unwrap().clone();
    assert_eq!((saved.tip().height, saved.hash()), (Height(23), world.chain.headers[&Height(23)].hash()));
    assert_eq!(world.client.condemned(), None);
    grow(&mut world, 40);
    let stop = world.stopped.clone().unwrap();
    assert_eq!(world.client.saveable(), Some(&saved));
    let condemned = world.client.condemned().unwrap();
    assert_eq!((condemned.height, &condemned.why), (Height(24), &stop));
    assert_eq!(condemned.hash, world.chain.headers[&Height(24)].hash());
    // Saved state is a chain like any other, and the next run goes on from there.
    let bytes = cascade_primitives::Encode::to_bytes(&saved);
    assert_eq!(cascade_light::Chain::restore(super::world::signing(), &bytes).as_ref(), Ok(&saved));
}

#[test]
fn a_proof_of_bad_encoding_stops_the_client_and_is_passed_on() {
    let mut world = world(&[Kind::Honest; 4]);
    world.run(1000);
    let (square, proof) = spoiled();
    world.chain.grow_with(Some(square));
    world.run(1000);
    available(&world, 21..=21);

    let (liar, honest_peer) = (NodeId([1; 32]), NodeId([2; 32]));
    let mut wrong = proof.clone();
    let BadEncoding::Line(line) = &mut *wrong else { panic!("{wrong}") };
    line.line.index = 1;
    world.put(0, Input::Fraud { from: liar, height: Height(21), proof: wrong, bytes: 9 });
    world.put(0, Input::Fraud { from: honest_peer, height: Height(3), proof: proof.clone(), bytes: 9 });
    world.run(100);
    assert_eq!(world.dropped.keys().copied().collect::<Vec<_>>(), [liar]);
    assert_eq!(world.stopped, None);

    world.put(0, Input::Fraud { from: honest_peer, height: Height(21), proof, bytes: 9 });
    world.run(100);
    assert!(matches!(world.stopped, Some(Stop::BadEncoding { height: Height(21), .. })));
    assert_eq!(world.passed_on, [NodeId([3; 32]), NodeId([4; 32])].into());
    assert_eq!(availability(&world, 21), Some(Availability::BadEncoding));
}

/// Each of twenty peers flips a bit of its answers until it is caught; whatever the bit, nothing panics, nothing wrong is
/// believed, and the two honest ones are never blamed.
#[test]
fn answers_with_a_bit_flipped_are_never_believed() {
    for salt in 0..8 {
        let mut peers = vec![Kind::Scrambler; 20];
        peers.extend([Kind::Honest; 2]);
        let mut world = world(&peers);
        world.salt = salt * 1_000_003;
        world.run(6000);
        grow(&mut world, 12);
        world.run(9000);
        assert_eq!(world.stopped, None, "salt {salt}");
        available(&world, 21..=32);
        assert_eq!(world.client.chain().unwrap().hash(), world.chain.tip().hash());
        for honest in [21, 22] {
            assert!(!world.dropped.contains_key(&NodeId([honest; 32])), "salt {salt}: {:?}", world.dropped);
        }
        assert!(world.dropped.len() >= 18, "salt {salt}: {:?}", world.dropped);
    }
}

#[test]
fn peers_that_are_behind_only_delay() {
    let mut world = world(&[Kind::Stale(Height(22)), Kind::Stale(Height(40)), Kind::Honest]);
    world.run(1000);
    grow(&mut world, 40);
    world.run(8000);
    available(&world, 21..=60);
    assert!(world.dropped.is_empty());
}

#[test]
fn without_peers_nothing_is_concluded() {
    let mut world = world(&[Kind::Silent; 2]);
    world.run(60_000);
    assert_eq!(world.stopped, None);
    assert!(matches!(world.reports[..], [Report::Unreachable { peers: 2, .. }]), "{:?}", world.reports);
}

#[test]
fn a_client_goes_on_from_what_it_saved() {
    let mut world = world(&[Kind::Honest; 2]);
    world.run(1000);
    grow(&mut world, 15);
    let saved = cascade_primitives::Encode::to_bytes(world.client.chain().unwrap());
    let restored = cascade_light::Chain::restore(super::world::signing(), &saved).unwrap();
    assert_eq!(&restored, world.client.chain().unwrap());
    let checkpoint = world.chain.checkpoint(5);
    let mut again = World::new(world.chain, Start::Saved(Box::new(restored), checkpoint), &[Kind::Honest; 2]);
    again.run(1000);
    assert!(matches!(again.reports[0], Report::CaughtUp { height: Height(35), .. }), "{:?}", again.reports);
    grow(&mut again, 3);
    again.run(1000);
    available(&again, 36..=38);
}
