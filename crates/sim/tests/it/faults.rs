//! Faults of network, node and disk, one at a time.

use cascade_consensus::NoBugs;
use cascade_sim::{Fault, Scenario};

#[test]
fn a_node_that_nobody_hears_is_passed_over_and_one_that_hears_nobody_catches_up() {
    for node in 0..4 {
        let others = || (0..4).filter(move |&other| other != node);
        let mute: Vec<_> = others().map(|other| (node, other)).collect();
        let deaf: Vec<_> = others().map(|other| (other, node)).collect();
        for cuts in [mute, deaf] {
            let outcome = Scenario::new(4).one_way(4000..16_000, &cuts).faults_end(16_000).run();
            outcome.assert_clean();
            assert!(outcome.report.faults.of(Fault::OneWay) > 0);
            // Its own terms are skipped: the first time after the leader timeout of 1 s, then after an eighth of it.
            let pause = outcome.longest_pause(4000..16_000);
            assert!(pause < 4000, "node {node}: {pause} ms");
        }
    }
}

#[test]
fn a_ring_of_one_way_cuts_harms_nothing() {
    let ring = [(0, 1), (1, 2), (2, 3), (3, 0)];
    let outcome = Scenario::new(4).one_way(4000..16_000, &ring).faults_end(16_000).run();
    outcome.assert_clean();
}

#[test]
fn slow_links_slow_the_chain_down_and_no_more() {
    let slow: Vec<_> = (0..4).flat_map(|a| (0..4).map(move |b| (a, b, 200 + 50 * (a + b) as u64))).collect();
    let outcome = Scenario::new(4).slow_links(4000..20_000, &slow).faults_end(20_000).run();
    outcome.assert_clean();
    assert!(outcome.report.faults.of(Fault::SlowLink) > 100);
    let during = outcome.chain.iter().filter(|(at, _)| (6000..20_000).contains(at)).count();
    assert!((5..26).contains(&during), "{during} blocks in 14 s");
}

#[test]
fn a_paused_node_misses_nothing_that_it_cannot_make_up_for() {
    for node in 0..4 {
        let outcome = Scenario::new(4).paused(node, 4000..12_000).faults_end(12_000).run();
        outcome.assert_clean();
        assert_eq!(outcome.report.faults.of(Fault::Pause), 1);
        assert!(outcome.report.recovery_ms.is_some_and(|ms| ms < 5000), "{:?}", outcome.report.recovery_ms);
    }
}

#[test]
fn turned_bits_are_noticed_and_repaired_from_peers() {
    let (mut flips, mut refused) = (0, 0);
    for at in (3000..9000).step_by(40) {
        let mut words = |text: String| refused += u64::from(text.contains("does not start"));
        let scenario = Scenario::new(4).params(|p| p.epoch_length = 8).flipped(at as usize % 4, at..at + 500);
        let outcome = scenario.faults_end(at + 500).run_with(NoBugs, Some(&mut words));
        outcome.assert_clean();
        flips += outcome.report.faults.of(Fault::BitFlip);
    }
    println!("{flips} bits turned, {refused} nodes refused to start and fetched everything from peers");
    assert!(flips > 100 && refused > 20 && refused < flips, "{flips} flips, {refused} refused");
}

#[test]
fn a_member_that_never_starts_is_spared() {
    let outcome = Scenario::new(4)
        .params(|p| p.epoch_length = 10)
        .committee(1, &[(0, 100), (1, 100), (2, 100), (3, 100), (4, 100)])
        .absent(4)
        .faults_end(40_000)
        .run();
    outcome.assert_clean();
    assert_eq!(outcome.report.faults.of(Fault::Absent), 1);
    assert!(outcome.chain.last().is_some_and(|(_, b)| b.header.epoch.0 >= 2), "epochs go on with four of five");
}
