//! The `cascade` command.
//!
//! stdout carries results: with `--json` exactly one line of JSON and nothing else. Everything else goes to stderr. Exit
//! codes are those of [`ExitCode`]. Live views become lines without a terminal and honour
//! `NO_COLOR`.

mod bench;
mod client;
mod completions;
mod config;
mod deposit;
mod failure;
mod flags;
mod init;
mod keys;
mod light;
mod node;
pub mod output;
mod proxy;
mod rebuild;
mod send;
mod sender;
mod sim;
mod status;
#[cfg(test)]
mod tests;
pub mod units;
mod withdraw;

use std::ffi::OsString;

use clap::{Parser, Subcommand};

pub(crate) use client::{AsIs, block_on, block_on_threads, with_sources};
pub use client::{Client, ClientError};
pub use failure::Failure;
pub use flags::NodeFlags;
pub(crate) use light::{line as light_line, random_seed};

use crate::{exit::ExitCode, testnet, version};

/// The `cascade` command line.
#[derive(Debug, Parser)]
#[command(
    name = "cascade",
    version = version::text(),
    about = "A cluster of BFT sequencers for a layer-2 chain",
    after_help = "Examples:\n  cascade testnet\n  cascade init --data node && cascade node --data node\n  \
                  cascade status --rpc http://127.0.0.1:8545 --watch\n\nExit codes: docs/exit-codes.md",
    max_term_width = 120
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Testnet(testnet::TestnetArgs),
    Init(init::InitArgs),
    Node(node::NodeArgs),
    Keys(keys::KeysArgs),
    Status(status::StatusArgs),
    Send(send::SendArgs),
    Deposit(deposit::DepositArgs),
    Withdraw(withdraw::WithdrawArgs),
    Proxy(proxy::ProxyArgs),
    Config(config::ConfigArgs),
    Light(light::LightArgs),
    Rebuild(rebuild::RebuildArgs),
    Sim(sim::SimArgs),
    Bench(bench::BenchArgs),
    Completions(completions::CompletionsArgs),
}

/// Runs the command line of this process and answers the code to end with.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout and are no failure. A closed stdout or stderr cannot be told to anybody.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::Usage } else { ExitCode::Done };
        }
    };
    let result = match cli.command {
        Command::Testnet(args) => testnet::run(args),
        Command::Init(args) => init::run(args),
        Command::Node(args) => node::run(args),
        Command::Keys(args) => keys::run(args),
        Command::Status(args) => status::run(args),
        Command::Send(args) => send::run(args),
        Command::Deposit(args) => deposit::run(args),
        Command::Withdraw(args) => withdraw::run(args),
        Command::Proxy(args) => proxy::run(args),
        Command::Config(args) => config::run(args),
        Command::Light(args) => light::run(args),
        Command::Rebuild(args) => rebuild::run(args),
        Command::Sim(args) => sim::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Completions(args) => completions::run(args),
    };
    match result {
        Ok(()) => ExitCode::Done,
        Err(failure) => {
            if !failure.message.is_empty() {
                output::note(&format!("cascade: error: {}", failure.message));
            }
            failure.code
        }
    }
}
