//! `cascade rebuild`.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, block_on, output};
use crate::{
    batches::{
        Source,
        rebuild::{RebuildError, Rebuilt, genesis_of, rebuild},
    },
    config::load_genesis,
    exit::ExitCode,
    home::unix_ms,
    testnet::TemporaryDir,
};

/// Batches between two lines of progress.
const PROGRESS_EVERY: u64 = 20;

/// Rebuilds the chain's state from published batches alone, and compares it with what final headers say.
///
/// Every block has to follow the rules, every batch has to be sealed by a certificate of the committee that its blocks lead
/// to. What is missing or damaged is named. An archive may leave out its newest batches, so the last block's time is shown.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cascade rebuild --from batches --genesis genesis.json --json\n  \
                        cascade rebuild --from http://archive.example/cascade --genesis genesis.json --data rebuilt\n\n\
                        Exit codes: 18 a batch is missing or damaged, or there is none.")]
pub struct RebuildArgs {
    /// A directory of batches, the URL (http://, https://) of one, or a bucket (s3://BUCKET/PREFIX; docs/configuration.md,
    /// `batches.url`, says what the environment holds).
    #[arg(long, value_name = "DIR|URL")]
    from: String,
    /// The chain's genesis file, which is all that is trusted [default: the one that lies with the batches, and then who
    /// made them is trusted for which chain it is].
    #[arg(long, value_name = "FILE")]
    genesis: Option<PathBuf>,
    /// Keep the rebuilt database here: after an interruption, or when there are more batches, the next run goes on with it
    /// [default: a temporary one].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// One line of JSON: {genesis_hash, height, timestamp_ms, state_root, root_matches}.
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
    let temporary = match &args.data {
        Some(dir) => {
            std::fs::create_dir_all(dir).map_err(|error| Failure::io(dir.display(), &error))?;
            None
        }
        None => Some(TemporaryDir::named("rebuild")?),
    };
    let dir = args.data.clone().or_else(|| temporary.as_ref().map(|t| t.0.clone())).expect("one of both is there");
    block_on(async {
        let genesis = match &args.genesis {
            Some(path) => load_genesis(path)?,
            None => {
                let genesis = genesis_of(&source).await?;
                output::note(&format!(
                    "cascade: warning: the genesis file comes from {} too, which so decides which chain this is; compare its \
                     hash {}, or give your own with --genesis",
                    args.from,
                    genesis.hash()
                ));
                genesis
            }
        };
        let mut batches = 0;
        let rebuilt = rebuild(&source, genesis, &dir, |height| {
            batches += 1;
            if batches % PROGRESS_EVERY == 0 {
                output::note(&format!("rebuilt up to block {height}"));
            }
        })
        .await?;
        if args.json { output::json(&rebuilt) } else { output::line(&shown(&rebuilt, unix_ms())) }
    })
}

fn shown(rebuilt: &Rebuilt, now_ms: u64) -> String {
    let Rebuilt { genesis_hash, height, timestamp_ms, state_root, .. } = rebuilt;
    let age = now_ms.saturating_sub(*timestamp_ms) / 1000;
    format!(
        "genesis {genesis_hash}\nheight {height}, made {} ago ({timestamp_ms} ms since 1970)\nstate root {state_root}, as the \
         final header says",
        match age {
            0..120 => format!("{age} s"),
            120..7_200 => format!("{} min", age / 60),
            7_200..172_800 => format!("{} h", age / 3_600),
            _ => format!("{} days", age / 86_400),
        }
    )
}

#[cfg(test)]
mod tests {
    use cascade_primitives::B256;

    use super::*;

    #[test]
    fn a_temporary_directory_says_what_it_is_for() {
        let temporary = TemporaryDir::named("rebuild").unwrap();
        let name = temporary.0.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("cascade-rebuild-"), "{name}");
    }

    #[test]
    fn the_chain_and_the_age_of_its_last_block_are_shown() {
        let rebuilt = Rebuilt {
            genesis_hash: B256::repeat_byte(0xaa),
            height: 7,
            timestamp_ms: 1_000,
            state_root: B256::repeat_byte(0xbb),
            root_matches: true,
        };
        for (seconds, age) in [(5, "5 s"), (300, "5 min"), (7_300, "2 h"), (500_000, "5 days")] {
            let text = shown(&rebuilt, 1_000 + seconds * 1_000);
            assert!(text.contains(&format!("height 7, made {age} ago (1000 ms")), "{text}");
            assert!(text.contains(&format!("genesis {}", rebuilt.genesis_hash)), "{text}");
        }
    }
}
