//! The shell of the light client: connections, clock, disk and terminal around `cascade_light::Client`.
//!
//! ```text
//!   node's /light <--one connection a request-- task --Input--> Client --Effect--> Shell
//!                                                                 ^                 | view, JSON, state file
//!                                                                 +---- timer ------+ verified RPC
//! ```

pub mod http;
mod keys;
mod peers;
pub mod rpc;
mod shell;
mod store;

use std::{fmt::Write as _, path::Path};

use cascade_consensus::{ChainContext, context::Rules};
use cascade_execution::genesis_changes;
use cascade_light::{Checkpoint, Config, Start};
use cascade_primitives::{B256, BlockHash, Genesis, Height, NodeId, TransactionRule, domain, hash};
use serde::{Deserialize, Serialize};

pub use shell::{Follower, Snapshot};
pub use store::Store;

use crate::{cli::Failure, exit::ExitCode};

/// A node that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What it is called here: its identity if that is known, else a hash of its address.
    pub id: NodeId,
    /// HOST:PORT of its JSON-RPC.
    pub authority: String,
}

impl Peer {
    /// The node of a JSON-RPC URL.
    ///
    /// # Errors
    /// If it is no URL of a node.
    pub fn of_url(url: &str) -> Result<Self, Failure> {
        let authority = http::authority(url)
            .ok_or_else(|| Failure::usage(format!("{url} is no URL of a node; give it as http://HOST:PORT")))?;
        // A label on this machine alone: nothing is signed or looked up by it.
        let id = NodeId(hash::tagged(domain::LABEL, &[authority.as_bytes()]).0);
        Ok(Self { id, authority: authority.to_owned() })
    }
}

/// What a directory of `cascade testnet` says of its nodes.
#[derive(Debug, Deserialize)]
struct TestnetFile {
    genesis: std::path::PathBuf,
    rpc: Vec<TestnetRpc>,
}

#[derive(Debug, Deserialize)]
struct TestnetRpc {
    http: String,
}

/// The genesis file and the nodes of a testnet.
///
/// # Errors
/// If no testnet runs there.
pub fn of_testnet(dir: &Path) -> Result<(std::path::PathBuf, Vec<Peer>), Failure> {
    let path = dir.join(crate::testnet::cluster::INFO_FILE);
    let text = std::fs::read_to_string(&path).map_err(|error| Failure {
        code: ExitCode::Unreachable,
        message: format!("{}: {error}; does `cascade testnet --data {}` run?", path.display(), dir.display()),
    })?;
    let file: TestnetFile =
        serde_json::from_str(&text).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    let peers = file.rpc.iter().map(|rpc| Peer::of_url(&rpc.http)).collect::<Result<_, _>>()?;
    Ok((file.genesis, peers))
}

/// The genesis block as a checkpoint.
///
/// # Errors
/// If the genesis file has no state or committees that can be.
pub fn genesis_checkpoint(genesis: &Genesis) -> Result<Checkpoint, Failure> {
    let foreign = |what: String| Failure { code: ExitCode::Foreign, message: format!("genesis: {what}") };
    let root = match genesis.params.transactions {
        TransactionRule::Opaque => B256::ZERO,
        _ => genesis_changes(genesis).map_err(|error| foreign(error.to_string()))?.root(),
    };
    let rules = Rules::new(genesis.clone());
    let (_, block) = ChainContext::genesis(&rules, root).map_err(|error| foreign(error.to_string()))?;
    Ok(Checkpoint { height: Height(0), hash: block.hash(), committee_root: block.header.committee_root })
}

/// How a client of this chain behaves.
#[must_use]
pub fn config_of(genesis: &Genesis, start: Start, seed: [u8; 32]) -> Config {
    let params = &genesis.params;
    let mut config = Config::new(genesis.signing_context(), start, params.unstaking_delay_ms, seed);
    config.data_squares = params.data_squares;
    config.retention_ms = params.share_retention_ms;
    config
}

/// A checkpoint as people pass it on: HEIGHT:HASH:COMMITTEE-ROOT.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_checkpoint(text: &str) -> Result<Checkpoint, String> {
    let mut parts = text.split(':');
    let (Some(height), Some(hash), Some(root), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err("expected HEIGHT:HASH:COMMITTEE-ROOT".to_owned());
    };
    let height = height.parse().map_err(|error| format!("`{height}`: {error}"))?;
    let word = |text: &str| text.parse::<B256>().map_err(|error| format!("`{text}`: {error}"));
    Ok(Checkpoint { height: Height(height), hash: BlockHash(word(hash)?.0), committee_root: word(root)? })
}

/// A checkpoint in the form that [`parse_checkpoint`] reads.
#[must_use]
pub fn checkpoint_text(checkpoint: &Checkpoint) -> String {
    let mut text = String::new();
    let _ = write!(text, "{}:{}:{}", checkpoint.height, B256::from(checkpoint.hash.0), checkpoint.committee_root);
    text
}

/// What `cascade light --json` reports.
#[derive(Clone, Debug, Serialize)]
pub struct LightReport {
    /// Heights that were sampled to an end.
    pub heights: u64,
    /// Of these, withheld or badly encoded.
    pub failed: u64,
    /// The least confidence of an available height; null before the first.
    pub min_confidence: Option<f64>,
    /// Samples answered and verified.
    pub samples: u64,
    /// Bytes received for following and sampling, HTTP and failed requests included.
    pub bytes_received: u64,
    /// The newest final height.
    pub head: u64,
    /// Heights from the first one followed to the last.
    pub followed: u64,
    /// Of these, not sampled: too old by this machine's clock, jumped over, or forgotten before their samples had answers.
    pub unsampled: u64,
    /// Of these, still being sampled.
    pub sampling: u64,
}
