//! The fixed ranges that CI runs, and the larger ones with CASCADE_SLOW=1.

use cascade_consensus::NoBugs;
use cascade_sim::{Fault, Faults, Scheme, SimArgs, SimConfig, Summary, run, run_range, run_seed};

fn clean(config: &SimConfig, seeds: std::ops::Range<u64>) -> Summary {
    let args = SimArgs { nodes: config.nodes, seeds: seeds.clone(), faults: config.faults };
    let summary = run_range(config, seeds, &NoBugs, |_| {});
    println!(
        "{} nodes, {:?}: {} seeds, {} commits, slowest recovery {} ms",
        config.nodes, config.scheme, summary.seeds, summary.commits, summary.slowest_recovery_ms
    );
    let replays: Vec<_> = summary.failed.iter().map(|r| (args.replay(r.seed), &r.violations, &r.stalls)).collect();
    assert!(summary.is_clean(), "{replays:#?}");
    summary
}

fn slow() -> bool {
    std::env::var_os("CASCADE_SLOW").is_some()
}

#[test]
fn four_nodes_hold_under_all_faults() {
    clean(&SimConfig::new(4, Faults::ALL), 0..if slow() { 10_000 } else { 400 });
}

#[test]
fn seven_nodes_hold_under_all_faults() {
    clean(&SimConfig::new(7, Faults::ALL), 0..if slow() { 2000 } else { 80 });
}

#[test]
fn sixteen_nodes_hold_under_all_faults() {
    clean(&SimConfig::new(16, Faults::ALL), 0..if slow() { 200 } else { 12 });
}

#[test]
fn real_signatures_hold_as_the_mock_does() {
    let config =
        SimConfig { scheme: Scheme::Bls, fault_ms: 20_000, least_ms: 30_000, ..SimConfig::new(4, Faults::ALL) };
    clean(&config, 0..if slow() { 50 } else { 4 });
}

#[test]
fn a_chain_without_faults_makes_more_than_a_block_a_second() {
    let summary = clean(&SimConfig::new(4, Faults::NONE), 0..20);
    assert!(summary.fewest_commits >= 60, "{} commits in 60 s", summary.fewest_commits);
}

#[test]
fn every_kind_of_fault_happens() {
    let summary = clean(&SimConfig::new(4, Faults::ALL), 0..60);
    let missing: Vec<_> = Fault::ALL.iter().filter(|f| summary.faults.of(**f) == 0).collect();
    assert!(missing.is_empty(), "never happened: {missing:?}");
}

#[test]
fn one_seed_is_one_trace_however_it_is_run() {
    let config = SimConfig::new(4, Faults::ALL);
    let alone: Vec<_> = (0..6).map(|seed| run_seed(&config, seed).trace).collect();
    let again: Vec<_> = (0..6).rev().map(|seed| run_seed(&config, seed).trace).collect();
    assert!(alone.iter().eq(again.iter().rev()));
    assert_ne!(alone[0], alone[1]);
    let args = SimArgs { nodes: 4, seeds: 0..6, faults: Faults::ALL };
    assert_eq!(run(&args, |_| {}).trace, run(&args, |_| {}).trace);
}
