//! Every planted bug is caught, and by which share of the seeds.

use cascade_consensus::{Bug, Bugs};
use cascade_sim::{Faults, SimConfig, run_range};

/// A core with one bug.
#[derive(Clone, Copy, Debug)]
struct Planted(Bug);

impl Bugs for Planted {
    fn planted(&self, bug: Bug) -> bool {
        self.0 == bug
    }
}

/// How many of so many seeds fail with the bug.
fn caught(bug: Bug, seeds: u64) -> u64 {
    std::panic::set_hook(Box::new(|_| {}));
    let summary = run_range(&SimConfig::new(4, Faults::ALL), 0..seeds, &Planted(bug), |_| {});
    for failed in summary.failed.iter().take(3) {
        println!("{bug:?}, seed {}: {:?} {:?}", failed.seed, failed.violations, failed.stalls);
    }
    println!("{bug:?}: caught in {} of {seeds} seeds ({} violations, {} stalls)", summary.failed.len(), summary.violations, summary.stalls);
    summary.failed.len() as u64
}

#[test]
fn all_planted_bugs_are_caught() {
    for bug in Bug::ALL {
        caught(bug, 100);
    }
}
