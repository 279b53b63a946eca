//! Runs seeds, on all cores.

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

use cascade_consensus::{Bugs, NoBugs};
use cascade_primitives::B256;

use crate::{
    config::SimConfig,
    economy::Economy,
    faults::{FaultCounts, Faults},
    report::{ChunkCounts, Revealed, SeedReport, Summary},
    world::World,
};

/// What the `sim` command is asked for.
#[derive(Clone, Debug)]
pub struct SimArgs {
    /// Sequencers, 4 to 64.
    pub nodes: usize,
    /// The seeds; the end is excluded.
    pub seeds: Range<u64>,
    /// What may fail.
    pub faults: Faults,
    /// Whether the chain is encrypted.
    pub encrypted: bool,
    /// Whether proposals go in chunks.
    pub chunks: bool,
}

impl SimArgs {
    /// The command that replays one of its seeds.
    #[must_use]
    pub fn replay(&self, seed: u64) -> String {
        let encrypted = if self.encrypted { " --encrypted" } else { "" };
        let chunks = if self.chunks { " --chunks" } else { "" };
        let (nodes, end, faults) = (self.nodes, seed + 1, self.faults);
        format!("cascade sim --nodes {nodes} --seeds {seed}..{end} --faults {faults}{encrypted}{chunks}")
    }
}

/// Runs a range of seeds on all cores. `progress` hears of every seed as it ends, in any order.
pub fn run(args: &SimArgs, progress: impl FnMut(&SeedReport)) -> Summary {
    let config = SimConfig { chunks: args.chunks, ..SimConfig::of(args.encrypted, args.nodes, args.faults) };
    run_range(&config, args.seeds.clone(), &NoBugs, progress)
}

/// Runs one seed.
#[must_use]
pub fn run_seed(config: &SimConfig, seed: u64) -> SeedReport {
    run_seed_with(config, seed, NoBugs, None)
}

/// Runs one seed and says in words all that happens.
#[must_use]
pub fn run_seed_verbose(config: &SimConfig, seed: u64, words: &mut dyn FnMut(String)) -> SeedReport {
    run_seed_with(config, seed, NoBugs, Some(words))
}

/// Runs one seed with planted bugs.
#[must_use]
pub fn run_seed_with<B: Bugs>(
    config: &SimConfig,
    seed: u64,
    bugs: B,
    words: Option<&mut dyn FnMut(String)>,
) -> SeedReport {
    caught(seed, || World::new(config, seed, bugs, words).run(seed))
}

/// What a run reports; a panic is a violation.
fn caught(seed: u64, run: impl FnOnce() -> SeedReport) -> SeedReport {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        SeedReport {
            seed,
            violations: vec![format!("panic: {}", text.unwrap_or_default())],
            stalls: Vec::new(),
            commits: 0,
            virtual_ms: 0,
            recovery_ms: None,
            faults: FaultCounts::default(),
            revealed: Revealed::default(),
            chunks: ChunkCounts::default(),
            trace: B256::ZERO,
        }
    })
}

/// Runs one seed with an application in place of the simulator's users and execution; see [`SimConfig::trading`].
#[must_use]
pub fn run_seed_with_economy(config: &SimConfig, seed: u64, economy: &mut dyn Economy) -> SeedReport {
    caught(seed, || {
        let mut world = World::new(config, seed, NoBugs, None);
        world.employ(economy);
        world.run(seed)
    })
}

/// Runs a range of seeds on all cores, with planted bugs if there are any. The summary does not depend on the number
/// of cores.
pub fn run_range<B: Bugs + Sync>(
    config: &SimConfig,
    seeds: Range<u64>,
    bugs: &B,
    mut progress: impl FnMut(&SeedReport),
) -> Summary {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(seeds.start);
    let (sender, receiver) = mpsc::channel();
    let mut reports = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (sender, next, end) = (sender.clone(), &next, seeds.end);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || sender.send(run_seed_with(config, seed, bugs.clone(), None)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for report in receiver {
            progress(&report);
            reports.push(report);
        }
    });
    reports.sort_by_key(|r| r.seed);
    Summary::of(reports)
}
