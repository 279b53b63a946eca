//! The fixed ranges that CI runs, and the larger ones with CASCADE_SLOW=1.

use cascade_sim::{Fault, Faults, Scheme, SimArgs, SimConfig, run, run_seed};

use crate::hunt::{clean, slow};

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
fn thirty_one_nodes_hold_under_all_faults() {
    clean(&SimConfig::new(31, Faults::ALL), 0..if slow() { 50 } else { 1 });
}

#[test]
fn real_signatures_hold_as_the_mock_does() {
    let config =
        SimConfig { scheme: Scheme::Bls, fault_ms: 20_000, least_ms: 30_000, ..SimConfig::new(4, Faults::ALL) };
    clean(&config, 0..if slow() { 50 } else { 4 });
}

/// Seeds that no earlier commit ran: those that follow the number in the first digits of the commit's id.
fn seeds_of(commit: &str) -> Option<u64> {
    let digits = commit.trim().get(..12)?;
    u64::from_str_radix(digits, 16).ok()
}

#[test]
fn seeds_derived_from_the_commit_hold() {
    // ./dev test sets it. Without it, there is no commit to derive from, and the fixed ranges must do.
    let Some(first) = std::env::var("CASCADE_COMMIT").ok().and_then(|commit| seeds_of(&commit)) else {
        println!("skipped: CASCADE_COMMIT does not name a commit");
        return;
    };
    let times = if slow() { 10 } else { 1 };
    println!("seeds from {first} on");
    clean(&SimConfig::new(4, Faults::ALL), first..first + 100 * times);
    clean(&SimConfig::new(7, Faults::ALL), first..first + 20 * times);
}

#[test]
fn commits_give_seeds() {
    assert_eq!(seeds_of("00000000000f8ab1d55e3c0000000000000000ff\n"), Some(15));
    assert_eq!(seeds_of("not a commit id"), None);
    assert_eq!(seeds_of(""), None);
}

#[test]
fn every_seed_is_as_long_as_it_is_said_to_be() {
    let config = SimConfig::new(4, Faults::ALL);
    for seed in 0..20 {
        let report = run_seed(&config, seed);
        assert!(report.virtual_ms >= 60_000 && report.commits >= 60, "{} ms, {}", report.virtual_ms, report.commits);
    }
}

#[test]
fn each_fault_happens_when_it_alone_is_asked_for() {
    // Without any other fault, but for what it needs to happen at all.
    let needs = |fault| match fault {
        Fault::UnsyncedLoss | Fault::TornWrite | Fault::LyingSync => Faults::NONE.with(Fault::Crash),
        Fault::Absent => Faults::NONE.with(Fault::Epochs),
        Fault::Twins => Faults::NONE.with(Fault::Partition),
        _ => Faults::NONE,
    };
    let happens = |&fault: &Fault| {
        let config = SimConfig::new(4, needs(fault).with(fault));
        (0..200).step_by(10).any(|seed| clean(&config, seed..seed + 10).faults.of(fault) > 0)
    };
    let never: Vec<_> = Fault::ALL.iter().copied().filter(|fault| !happens(fault)).collect();
    assert!(never.is_empty(), "{never:?}");
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
    let args = SimArgs { nodes: 4, seeds: 0..6, faults: Faults::ALL, encrypted: false, chunks: false };
    assert_eq!(run(&args, |_| {}).trace, run(&args, |_| {}).trace);
}
