//! `cascade bench`.

use clap::{Args, Subcommand};

use super::Failure;
use crate::load;

/// Measures a whole cluster.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  cascade bench load --nodes 4 --rate 1000 --secs 60 --kind transfer --json")]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    Load(load::LoadArgs),
    /// Sends and measures what a job on stdin says; `bench load` runs it as a process of its own.
    #[command(hide = true)]
    Drive,
}

/// Runs the command.
pub fn run(args: BenchArgs) -> Result<(), Failure> {
    match args.command {
        BenchCommand::Load(args) => load::run(args),
        BenchCommand::Drive => load::driver::run(),
    }
}
