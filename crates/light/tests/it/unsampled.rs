//! Nobody switches sampling off in silence: neither a quorum nor the user's clock.

use cascade_light::{Availability, Config, Input, Report, Start, Stop, Unsampled};
use cascade_primitives::Height;

use super::world::{Kind, TestChain, World, grow, noise, signing};

fn chain(blocks: u64) -> TestChain {
    let mut chain = TestChain::new(4, 600, 500, false);
    for _ in 0..blocks {
        chain.grow(None);
    }
    chain
}

/// A world in which this machine's clock is ahead of the chain's by so much.
fn world(ahead_ms: u64, retention_ms: u64, peers: &[Kind]) -> World {
    let chain = chain(20);
    let mut config = Config::new(signing(), Start::Checkpoint(chain.checkpoint(5)), 86_400_000 * 7, [9; 32]);
    config.retention_ms = retention_ms;
    let now = chain.tip().timestamp.0 + ahead_ms;
    let mut world = World::with(chain, config, peers, now);
    world.run(1000);
    world
}

fn unsampled(world: &World) -> Vec<(u64, u64, Unsampled)> {
    let of = |report: &Report| match report {
        Report::Unsampled { from, to, why } => Some((from.0, to.0, *why)),
        _ => None,
    };
    world.reports.iter().filter_map(of).collect()
}

const WEEK: u64 = 86_400_000 * 7;

#[test]
fn a_header_without_a_square_stops_the_client_however_it_learns_of_it() {
    // In a run of headers.
    let mut followed = world(0, WEEK, &[Kind::Honest; 2]);
    followed.chain.grow_with(None);
    grow(&mut followed, 3);
    assert!(matches!(followed.stopped, Some(Stop::Impossible { height: Height(21), .. })), "{:?}", followed.stopped);
    assert_eq!(followed.client.stats().failed, 1);
    let condemned = followed.client.condemned().unwrap();
    assert_eq!((condemned.height, condemned.hash), (Height(21), followed.chain.headers[&Height(21)].hash()));
    assert!(followed.client.saveable().unwrap().tip().height < Height(21));

    // As the head that it catches up with.
    let mut head = chain(20);
    head.grow_with(None);
    let start = Start::Checkpoint(head.checkpoint(5));
    let mut head = World::new(head, start, &[Kind::Honest; 2]);
    head.run(1000);
    assert!(matches!(head.stopped, Some(Stop::Impossible { height: Height(21), .. })), "{:?}", head.stopped);

    // As the last block of an epoch.
    let mut ended = TestChain::new(4, 10, 500, false);
    for height in 1..25 {
        if height == 19 { ended.grow_with(None) } else { ended.grow(None) }
    }
    let start = Start::Checkpoint(ended.checkpoint(5));
    let mut ended = World::new(ended, start, &[Kind::Honest; 2]);
    ended.run(1000);
    assert!(matches!(ended.stopped, Some(Stop::Impossible { height: Height(19), .. })), "{:?}", ended.stopped);
}

#[test]
fn a_chain_without_squares_is_followed_and_what_is_not_sampled_is_counted() {
    let mut chain = TestChain::new(4, 300, 500, false);
    for _ in 0..20 {
        chain.grow_with(None);
    }
    let mut config = Config::new(signing(), Start::Checkpoint(chain.checkpoint(5)), WEEK, [9; 32]);
    config.data_squares = false;
    let now = chain.tip().timestamp.0;
    let mut world = World::with(chain, config, &[Kind::Honest; 2], now);
    world.run(1000);
    for _ in 0..5 {
        world.chain.grow_with(None);
        world.run(500);
    }
    world.run(1000);
    assert_eq!(world.stopped, None);
    assert_eq!(world.client.availability(Height(25)), Some(Availability::NoSquare));
    assert_eq!((world.client.stats().unsampled, world.client.followed()), (6, 6));
}

#[test]
fn headers_are_sampled_whatever_their_time_says_and_the_difference_is_told_once() {
    for ahead_ms in [61_000, 3_600_000] {
        let mut world = world(ahead_ms, WEEK, &[Kind::Honest; 4]);
        grow(&mut world, 30);
        world.run(2_000);
        for height in 20..=50 {
            let found = world.client.availability(Height(height));
            assert!(matches!(found, Some(Availability::Available { .. })), "block {height}: {found:?}");
        }
        let stats = world.client.stats();
        assert_eq!((stats.heights, stats.unsampled), (31, 0));
        let told: Vec<u64> = world
            .reports
            .iter()
            .filter_map(|report| if let Report::Behind { age_ms } = report { Some(*age_ms) } else { None })
            .collect();
        assert!(matches!(told[..], [age] if age >= ahead_ms && age < ahead_ms + 5_000), "{told:?}");
    }
}

#[test]
fn a_quorum_whose_clocks_lag_hides_nothing() {
    let mut world = world(90_000, WEEK, &[Kind::Corner(Height(23)); 4]);
    grow(&mut world, 40);
    assert!(matches!(world.stopped, Some(Stop::Withheld { height: Height(23), .. })), "{:?}", world.stopped);
}

#[test]
fn what_nodes_need_not_have_any_more_is_not_sampled_but_told_and_counted() {
    let mut world = world(90_000, 100_000, &[Kind::Honest; 4]);
    grow(&mut world, 10);
    world.run(2_000);
    assert_eq!(world.client.availability(Height(25)), Some(Availability::NotLive));
    let stats = world.client.stats();
    assert_eq!((stats.heights, stats.unsampled), (0, 11));
    assert_eq!(unsampled(&world), (20..=30).map(|height| (height, height, Unsampled::Old)).collect::<Vec<_>>());
    assert!(world.reports.iter().any(|report| matches!(report, Report::Behind { .. })));
}

#[test]
fn what_was_missed_in_sleep_is_jumped_over_told_and_counted() {
    let mut world = world(0, WEEK, &[Kind::Honest; 2]);
    for _ in 0..300 {
        world.chain.grow(Some(&noise(600, 1)));
    }
    world.now += 300 * 500;
    world.put(0, Input::Tick);
    world.run(2000);
    assert_eq!(world.client.chain().unwrap().tip().height, Height(320));
    assert_eq!(unsampled(&world), [(21, 319, Unsampled::JumpedOver)]);
    assert_eq!(world.client.availability(Height(100)), None);
    assert!(matches!(world.client.availability(Height(320)), Some(Availability::Available { .. })));
    let stats = world.client.stats();
    assert_eq!((stats.heights, stats.unsampled, world.client.followed()), (2, 299, 301));
}

#[test]
fn a_run_longer_than_an_answer_under_one_certificate_is_jumped_over_told_and_counted() {
    let mut world = world(0, WEEK, &[Kind::Honest, Kind::Honest, Kind::Silent]);
    grow(&mut world, 3);
    // Answers of this world carry 100 headers.
    world.chain.uncertified = 24..230;
    for _ in 24..=230 {
        world.chain.grow(Some(&noise(600, 1)));
    }
    world.now += 4_000;
    world.run(30_000);
    assert_eq!(world.stopped, None);
    assert_eq!(world.client.chain().unwrap().tip().height, Height(230));
    assert_eq!(unsampled(&world), [(24, 229, Unsampled::JumpedOver)]);
    grow(&mut world, 5);
    world.run(1_000);
    let stats = world.client.stats();
    assert_eq!((stats.heights, stats.unsampled, world.client.followed()), (10, 206, 216));
}
