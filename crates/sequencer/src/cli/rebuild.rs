//! `cascade rebuild`.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, block_on, output};
use crate::{
    batches::{
        Source,
        rebuild::{RebuildError, genesis_of, rebuild},
    },
    config::read_genesis,
    exit::ExitCode,
    testnet::TemporaryDir,
};

/// Batches between two lines of progress.
const PROGRESS_EVERY: u64 = 20;

/// Rebuilds the chain's state from published batches alone, and compares it with what final headers say.
///
/// Every block has to follow the rules, every batch has to be sealed by a certificate of the committee that its blocks lead
/// to. What is missing or damaged is named.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cascade rebuild --from batches --json\n  \
                        cascade rebuild --from http://archive.example/cascade --genesis genesis.json\n\n\
                        Exit codes: 18 a batch is missing or damaged.")]
pub struct RebuildArgs {
    /// A directory of batches, the URL (http://, https://) of one, or a bucket (s3://BUCKET/PREFIX; docs/configuration.md,
    /// `batches.url`, says what the environment holds).
    #[arg(long, value_name = "DIR|URL")]
    from: String,
    /// The chain's genesis file, which is all that is trusted [default: the one that lies with the batches].
    #[arg(long, value_name = "FILE")]
    genesis: Option<PathBuf>,
    /// One line of JSON: {height, state_root, root_matches}.
    #[arg(long)]
    json: bool,
}

impl From<RebuildError> for Failure {
    fn from(error: RebuildError) -> Self {
        let code = match &error {
            RebuildError::Node(error) => error.exit_code(),
            RebuildError::Read(_) => ExitCode::Failed,
            _ => ExitCode::Corrupt,
        };
        Self { code, message: error.to_string() }
    }
}

/// Runs the command.
pub fn run(args: RebuildArgs) -> Result<(), Failure> {
    let source = Source::parse(&args.from).map_err(|error| Failure::usage(format!("--from: {error}")))?;
    let temporary = TemporaryDir::new()?;
    block_on(async {
        let genesis = match &args.genesis {
            Some(path) => read_genesis(path)?,
            None => genesis_of(&source).await?,
        };
        let mut batches = 0;
        let rebuilt = rebuild(&source, genesis, &temporary.0, |height| {
            batches += 1;
            if batches % PROGRESS_EVERY == 0 {
                output::note(&format!("rebuilt up to block {height}"));
            }
        })
        .await?;
        if args.json {
            output::json(&rebuilt)
        } else {
            output::line(&format!(
                "height {}, state root {}, {}",
                rebuilt.height,
                rebuilt.state_root,
                if rebuilt.root_matches { "as the final header says" } else { "no batch to compare it with" }
            ))
        }
    })
}
