//! Runs of many seeds: all clean, or in search of one in which a planted bug shows.

use std::{fmt::Debug, ops::Range};

use cascade_consensus::{Bugs, NoBugs};
use cascade_sim::{SeedReport, SimArgs, SimConfig, Summary, run_range};

/// No recovery may take so long, in ms. The bound that a stall is measured by adds up what hardly ever comes together; the
/// slowest of 10,000 seeds took 17.4 s.
const SLOWEST_RECOVERY: u64 = 30_000;

/// Whether tests run all that they can.
pub fn slow() -> bool {
    std::env::var_os("CASCADE_SLOW").is_some()
}

/// Runs seeds, all of which must hold.
pub fn clean(config: &SimConfig, seeds: Range<u64>) -> Summary {
    let &SimConfig { nodes, faults, encrypted, chunks, .. } = config;
    let args = SimArgs { nodes, seeds: seeds.clone(), faults, encrypted, chunks };
    let summary = run_range(config, seeds, &NoBugs, |_| {});
    println!(
        "{nodes} nodes, {:?}: {} seeds, {} blocks final, slowest recovery {} ms, {:?} {:?}",
        config.scheme, summary.seeds, summary.commits, summary.slowest_recovery_ms, summary.revealed, summary.chunks
    );
    let replays: Vec<_> = summary.failed.iter().map(|r| (args.replay(r.seed), &r.violations, &r.stalls)).collect();
    assert!(summary.is_clean(), "{replays:#?}");
    assert!(summary.slowest_recovery_ms < SLOWEST_RECOVERY, "{} ms", summary.slowest_recovery_ms);
    summary
}

/// Whether a seed shows the bug. That a core gives up with a panic shows something else.
fn shows(report: &SeedReport) -> bool {
    !report.stalls.is_empty() || report.violations.iter().any(|violation| !violation.starts_with("panic: "))
}

/// Runs the first `seeds` seeds, some at a time, until one shows the bug; with CASCADE_SLOW=1 all of them, to count.
pub fn is_caught<B: Bugs + Sync>(
    config: &SimConfig,
    (seeds, at_a_time): (u64, u64),
    planted: &B,
    (name, words): (&dyn Debug, &str),
) -> bool {
    let (mut violations, mut stalls, mut first) = (0, 0, None);
    for start in (0..seeds).step_by(at_a_time as usize) {
        let summary = run_range(config, start..start + at_a_time, planted, |_| {});
        violations += summary.violations;
        stalls += summary.stalls;
        first = first.or_else(|| summary.failed.into_iter().find(shows));
        if first.is_some() && !slow() {
            break;
        }
    }
    if let Some(first) = &first {
        println!("{name:?}, seed {}: {:?} {:?}", first.seed, first.violations, first.stalls);
    }
    if slow() {
        println!("| `{name:?}` | {} | {violations} | {stalls} |", words.trim_start_matches("planted bug: "));
    }
    first.is_some()
}
