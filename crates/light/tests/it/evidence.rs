//! What counts as withheld, and what is only a bad connection.

use cascade_light::{Availability, Config, Failure, Input, Report, RequestId, Start, Stop, Unsampled};
use cascade_primitives::{Height, NodeId};

use super::world::{Kind, TestChain, World, grow, signing};

fn world(peers: &[Kind]) -> World {
    let mut chain = TestChain::new(4, 300, 500, false);
    for _ in 0..20 {
        chain.grow(None);
    }
    let start = Start::Checkpoint(chain.checkpoint(5));
    let mut world = World::new(chain, start, peers);
    world.run(1000);
    world
}

fn all_become(world: &mut World, kind: Kind) {
    world.peers.values_mut().for_each(|peer| *peer = kind);
}

fn is_available(world: &World, height: u64) -> bool {
    matches!(world.client.availability(Height(height)), Some(Availability::Available { .. }))
}

#[test]
fn losing_the_connection_is_not_withheld_data() {
    let mut world = world(&[Kind::NoShares, Kind::Honest, Kind::Honest, Kind::Honest]);
    for peer in 2..=4 {
        world.peers.insert(NodeId([peer; 32]), Kind::CutData(Height(21)));
    }
    // Its header came, one peer has said that it has no shares, and then the line is dead.
    grow(&mut world, 1);
    world.run(1_000);
    assert_eq!(world.client.availability(Height(21)), Some(Availability::Sampling));
    all_become(&mut world, Kind::Cut);
    world.run(300_000);
    assert_eq!(world.stopped, None, "nobody said anything of block 21");
    let told = world.reports.iter().filter(|report| matches!(report, Report::Unreachable { .. })).count();
    assert_eq!(told, 1, "{:?}", world.reports);

    // The peer without shares is back first.
    world.peers.insert(NodeId([1; 32]), Kind::NoShares);
    world.run(20_000);
    assert_eq!(world.stopped, None);
    all_become(&mut world, Kind::Honest);
    world.run(5_000);
    assert_eq!(world.stopped, None);
    assert!(is_available(&world, 21));
    assert!(world.reports.contains(&Report::Reached));
    grow(&mut world, 3);
    world.run(2_000);
    assert!((22..=24).all(|height| is_available(&world, height)));
    assert_eq!(world.client.stats().unsampled, 0);
}

#[test]
fn after_sleep_the_time_to_give_up_starts_again() {
    let mut world = world(&[Kind::NoShares; 4]);
    grow(&mut world, 1);
    world.run(8_000);
    assert_eq!(world.client.availability(Height(21)), Some(Availability::Sampling));
    all_become(&mut world, Kind::Honest);
    world.now += 3_600_000;
    world.put(0, Input::Tick);
    world.run(3_000);
    assert_eq!(world.stopped, None);
    assert!(is_available(&world, 21));
}

#[test]
fn a_clock_that_is_set_back_does_not_stop_the_client_from_asking() {
    let mut world = world(&[Kind::Honest; 4]);
    grow(&mut world, 5);
    world.turn_back(9_000);
    grow(&mut world, 10);
    world.run(2_000);
    assert!((21..=35).all(|height| is_available(&world, height)), "{:?}", world.reports.last());
}

#[test]
fn peers_that_are_silent_about_one_height_and_answer_all_else_withhold_it() {
    let mut world = world(&[Kind::Mute(Height(22)); 4]);
    grow(&mut world, 1);
    assert!(is_available(&world, 21));
    grow(&mut world, 120);
    match world.stopped {
        Some(Stop::Withheld { height: Height(22), peers: 4, .. }) => {}
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn a_peer_that_is_behind_for_a_moment_is_no_evidence_and_one_that_says_so_for_ever_is() {
    let mut world = world(&[Kind::Behind(Height(21)), Kind::CutData(Height(22)), Kind::CutData(Height(22))]);
    grow(&mut world, 2);
    assert!(is_available(&world, 21));
    world.run(2_000);
    all_become(&mut world, Kind::Honest);
    world.run(20_000);
    assert_eq!(world.stopped, None);
    assert!(is_available(&world, 22));
    // Two of them say it of block 30 as long as the chain goes on.
    world.peers.insert(NodeId([1; 32]), Kind::Behind(Height(29)));
    world.peers.insert(NodeId([2; 32]), Kind::Behind(Height(29)));
    world.peers.insert(NodeId([3; 32]), Kind::Corner(Height(30)));
    grow(&mut world, 120);
    assert!(matches!(world.stopped, Some(Stop::Withheld { height: Height(30), .. })), "{:?}", world.stopped);
}

#[test]
fn peers_too_busy_for_shares_are_no_evidence_by_themselves() {
    let mut world = world(&[Kind::Busy(Height(22)); 4]);
    grow(&mut world, 100);
    world.run(60_000);
    assert_eq!(world.stopped, None);
    assert_eq!(world.client.availability(Height(22)), Some(Availability::Sampling));
    all_become(&mut world, Kind::Honest);
    world.run(60_000);
    assert_eq!(world.stopped, None);
    assert_eq!(world.client.stats().heights, world.client.followed());
}

#[test]
fn one_peer_that_says_what_it_does_not_have_is_enough_whatever_the_others_do() {
    let mut world = world(&[Kind::Corner(Height(22)), Kind::Cut, Kind::Silent, Kind::Busy(Height(22))]);
    // It takes a while to find one that answers.
    world.run(20_000);
    grow(&mut world, 200);
    assert!(matches!(world.stopped, Some(Stop::Withheld { height: Height(22), .. })), "{:?}", world.stopped);
}

#[test]
fn with_three_silent_peers_of_four_nothing_is_left_out() {
    let mut world = world(&[Kind::Silent, Kind::Silent, Kind::Honest, Kind::Silent]);
    grow(&mut world, 200);
    world.run(5_000);
    assert_eq!(world.stopped, None);
    let stats = world.client.stats();
    assert_eq!((stats.unsampled, stats.failed), (0, 0));
    assert!(world.client.followed() >= 150, "{}", world.client.followed());
    assert_eq!(world.client.chain().unwrap().hash(), world.chain.tip().hash());
    assert_eq!(stats.heights, world.client.followed(), "{stats:?}");
}

#[test]
fn heights_that_have_to_be_forgotten_are_told_and_counted() {
    let mut chain = TestChain::new(4, 300, 500, false);
    for _ in 0..20 {
        chain.grow(None);
    }
    let mut config = Config::new(signing(), Start::Checkpoint(chain.checkpoint(5)), 86_400_000, [9; 32]);
    config.max_heights = 8;
    let now = chain.tip().timestamp.0;
    let mut world = World::with(chain, config, &[Kind::CutData(Height(20)); 3], now);
    world.run(1000);
    grow(&mut world, 12);
    world.run(1_000);
    let evicted: Vec<u64> = world
        .reports
        .iter()
        .filter_map(|report| match report {
            Report::Unsampled { from, to, why: Unsampled::Evicted } if from == to => Some(from.0),
            _ => None,
        })
        .collect();
    assert_eq!(evicted, [20, 21, 22, 23, 24]);
    assert_eq!((world.client.stats().unsampled, world.client.stats().heights), (5, 0));
    assert_eq!((world.client.followed(), world.client.sampling()), (13, 8));
    assert_eq!(world.client.saveable().unwrap().tip().height, Height(24));
}

#[test]
fn a_client_whose_peers_all_lied_says_so_and_ends() {
    let mut world = world(&[Kind::Forger, Kind::Forger, Kind::Liar]);
    grow(&mut world, 20);
    assert_eq!(world.stopped, Some(Stop::NoPeers { liars: 3 }));
    assert_eq!(world.client.condemned(), None, "that says nothing of the chain");
}

#[test]
fn bytes_of_requests_that_fail_are_counted() {
    let mut world = world(&[Kind::Honest; 2]);
    let before = world.client.stats().bytes_received;
    world.put(0, Input::Failed { id: RequestId(1 << 40), why: Failure::Silent, bytes: 1_000_000 });
    world.run(1);
    assert!(world.client.stats().bytes_received >= before + 1_000_000);
}
