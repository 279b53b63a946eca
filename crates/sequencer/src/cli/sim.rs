//! `cascade sim`.

use std::{ops::Range, time::Instant};

use cascade_sim::{Faults, MAX_NODES, Scheme, SeedReport, SimConfig, run_range, run_seed_verbose};
use clap::Args;

use super::{Failure, output};

/// A summary of seeds is written to stderr this often.
const PROGRESS_EVERY: u64 = 100;

/// Runs the seeded simulator: a whole cluster in virtual time, with faults, every rule checked at every step.
///
/// A seed lasts at least 60 virtual seconds and 60 final blocks, with a block time of 500 ms and links of 50 ms.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cascade sim --nodes 4 --seeds 0..1000 --faults all\n  \
                        cascade sim --nodes 7 --seeds 42..43 --faults partition,crash --verbose\n  \
                        cascade sim --nodes 4 --seeds 0..100 --encrypted\n\n\
                        Exits with 1 if a rule was broken or a node did not recover; the command that replays such a \
                        seed is printed.")]
pub struct SimArgs {
    /// How many sequencers, 4 to 128.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(4..=MAX_NODES as u64))]
    nodes: u64,
    /// The seeds A to B, B excluded.
    #[arg(long, value_name = "A..B", value_parser = parse_range)]
    seeds: Range<u64>,
    /// Names of faults with commas between, `all` or `none`.
    #[arg(long, value_name = "LIST", default_value = "all")]
    faults: Faults,
    /// An encrypted chain: keys are made, envelopes ordered and opened, with real cryptography but for votes. A seed
    /// lasts at least 45 virtual seconds and 40 final blocks.
    #[arg(long)]
    encrypted: bool,
    /// Leaders send every proposal in coded chunks, and Byzantine nodes lie about them too.
    #[arg(long)]
    chunks: bool,
    /// Real BLS signatures instead of the unforgeable mock; slower.
    #[arg(long)]
    bls: bool,
    /// Say in words all that happens, on stderr.
    #[arg(long)]
    verbose: bool,
    /// One line of JSON.
    #[arg(long)]
    json: bool,
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let number = |text: &str| text.trim().parse::<u64>().map_err(|error| format!("`{text}`: {error}"));
    let (from, to) = text.split_once("..").ok_or("expected A..B, such as 0..1000 (B excluded)")?;
    let range = number(from)?..number(to)?;
    if range.is_empty() { Err(format!("{text} holds no seeds (B is excluded)")) } else { Ok(range) }
}

/// Runs the command.
pub fn run(args: SimArgs) -> Result<(), Failure> {
    let scheme = if args.bls { Scheme::Bls } else { Scheme::Mock };
    let config =
        SimConfig { scheme, chunks: args.chunks, ..SimConfig::of(args.encrypted, args.nodes as usize, args.faults) };
    if args.verbose {
        for seed in args.seeds.clone() {
            let _ = run_seed_verbose(&config, seed, &mut |words| output::note(&words));
        }
    }
    let (mut done, all, start) = (0, args.seeds.end - args.seeds.start, Instant::now());
    let summary = run_range(&config, args.seeds.clone(), &cascade_consensus::NoBugs, |report| {
        done += 1;
        if !report.is_clean() {
            output::note(&failed(&args, report));
        }
        if done % PROGRESS_EVERY == 0 && done < all {
            output::note(&format!("{done} of {all} seeds"));
        }
    });
    let (seconds, cores) = (start.elapsed().as_secs_f64(), std::thread::available_parallelism().map_or(1, usize::from));
    output::note(&format!(
        "{seconds:.1} s on {cores} cores: {:.1} seeds per second and core; fewest final blocks of a seed: {}",
        all as f64 / seconds / cores as f64,
        summary.fewest_commits
    ));
    if args.json {
        output::json(&summary)?;
    } else {
        output::line(&format!(
            "{} seeds, {} violations, {} stalls, {} blocks final in {} virtual s, slowest recovery {} ms\ntrace {}",
            summary.seeds,
            summary.violations,
            summary.stalls,
            summary.commits,
            summary.virtual_seconds,
            summary.slowest_recovery_ms,
            summary.trace
        ))?;
        if args.encrypted {
            let revealed = &summary.revealed;
            output::line(&format!(
                "{} keys made, {} blocks and {} envelopes opened, {} sets of q-1 seats that open nothing",
                revealed.keys, revealed.blocks, revealed.envelopes, revealed.too_few
            ))?;
        }
        if args.chunks {
            let chunks = &summary.chunks;
            output::line(&format!(
                "{} proposals rebuilt, {} asked for whole, {} lies of leaders found in chunks",
                chunks.rebuilt, chunks.asked, chunks.found
            ))?;
        }
    }
    match summary.failed.len() {
        0 => Ok(()),
        seeds => Err(Failure::new(format!("{seeds} of {all} seeds failed"))),
    }
}

fn failed(args: &SimArgs, report: &SeedReport) -> String {
    let mut text = format!(
        "seed {} FAILED; replay: cascade sim --nodes {} --seeds {}..{} --faults {}{}{}{} --verbose",
        report.seed,
        args.nodes,
        report.seed,
        report.seed + 1,
        args.faults,
        if args.encrypted { " --encrypted" } else { "" },
        if args.chunks { " --chunks" } else { "" },
        if args.bls { " --bls" } else { "" }
    );
    for (kind, words) in [("violation", &report.violations), ("stall", &report.stalls)] {
        for words in words {
            text.push_str(&format!("\n    {kind}: {words}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_exclude_their_end() {
        assert_eq!(parse_range("0..1000"), Ok(0..1000));
        for bad in ["5", "5..5", "6..5", "a..b", "-1..5"] {
            assert!(parse_range(bad).is_err(), "{bad}");
        }
    }
}
