//! `cargo run -p cascade-sim --example sim -- --nodes 4 --seeds 0..100 --faults all`

use std::{ops::Range, time::Instant};

use cascade_consensus::NoBugs;
use cascade_sim::{Faults, Scheme, SimArgs, SimConfig, run_range, run_seed_verbose};
use clap::Parser;

#[derive(Parser)]
struct Args {
    /// Sequencers.
    #[arg(long, default_value_t = 4)]
    nodes: usize,
    /// Seeds, end excluded.
    #[arg(long, value_parser = range)]
    seeds: Range<u64>,
    /// Names of faults with commas between, `all` or `none`.
    #[arg(long, default_value = "all")]
    faults: Faults,
    /// Real BLS signatures.
    #[arg(long)]
    bls: bool,
    /// An encrypted chain.
    #[arg(long)]
    encrypted: bool,
    /// Proposals go in chunks.
    #[arg(long)]
    chunks: bool,
    /// Says in words what happens.
    #[arg(long)]
    verbose: bool,
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("a range is A..B")?;
    Ok(from.parse().map_err(|e| format!("{e}"))?..to.parse().map_err(|e| format!("{e}"))?)
}

fn main() {
    let args = Args::parse();
    let scheme = if args.bls { Scheme::Bls } else { Scheme::Mock };
    let config = SimConfig::of(args.encrypted, args.nodes, args.faults);
    let config = SimConfig { scheme, chunks: args.chunks, ..config };
    if args.verbose {
        for seed in args.seeds {
            let report = run_seed_verbose(&config, seed, &mut |line| println!("{line}"));
            println!("{report:?}");
        }
        return;
    }
    let started = Instant::now();
    let (seeds, Args { nodes, faults, encrypted, chunks, .. }) = (args.seeds.clone(), args);
    let replay = SimArgs { nodes, seeds: seeds.clone(), faults, encrypted, chunks };
    let summary = run_range(&config, seeds, &NoBugs, |report| {
        if !report.is_clean() {
            eprintln!("{}\n  {:?} {:?}", replay.replay(report.seed), report.violations, report.stalls);
        }
    });
    println!("{}", serde_json::to_string(&summary).expect("a summary is plain data"));
    let seconds = started.elapsed().as_secs_f64();
    eprintln!(
        "{:.1} seeds/s, slowest recovery {} ms, fewest commits {}",
        summary.seeds as f64 / seconds,
        summary.slowest_recovery_ms,
        summary.fewest_commits
    );
    std::process::exit(i32::from(!summary.is_clean()));
}
