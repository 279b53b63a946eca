//! What a node is told: defaults, overridden by a TOML file, by the environment, by flags.
//!
//! ```text
//!   defaults  <  DIR/cascade.toml  <  CASCADE_SECTION_KEY  <  --flag, --set section.key=VALUE
//! ```
//!
//! Every key stands once, in the table [`KEYS`], with its kind, default, unit, and whether all nodes of a chain must
//! agree on it. A value is checked against its kind in the layer that it comes from, so that an error names the key and
//! where its value came from; [`NodeConfig::check`] then checks relations. What all nodes must agree on is not here but
//! in the genesis file; here only `genesis` leads to it.
//!
//! `data` is a node's home:
//!
//! ```text
//! DIR/cascade.toml          configuration                    DIR/keys/node.key        who it is on the network
//! DIR/genesis.json          the chain                        DIR/keys/bls.key         the key of its votes
//! DIR/chain/                what can be synced again         DIR/keys/bls.sign-state  the last word of that key
//! DIR/node.json             addresses while it runs
//! ```

mod bucket;
pub mod docs;
mod error;
mod genesis;
pub mod keys;
mod layers;
mod table;
#[cfg(test)]
mod tests;

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    path::PathBuf,
};

use cascade_primitives::Address;
use serde::{Deserialize, Serialize};

pub use bucket::{BUCKET_SCHEME, parse_bucket, shown_bucket};
pub use error::ConfigError;
pub use genesis::{GenesisFileError, check_genesis, load_genesis, read_genesis};
pub use keys::{KeyError, NodeKeys};
pub use layers::{Layers, Origin, Resolved};
pub use table::{KEYS, Key, Kind};

use crate::rpc::config::RpcConfig;

/// Bytes of the largest transaction on every network.
const LARGEST_TRANSACTION: u32 = 128 << 10;

/// KiB of the largest body, which encoding its square anew costs.
const LARGEST_SHARES_KIB: u64 = 32 << 10;

/// Whether a node votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It votes whenever its key is in the committee.
    Sequencer,
    /// It follows the chain, checks and serves it, and never signs.
    Full,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where the keys of a node are. Each file must be readable by its owner alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyPaths {
    /// Ed25519 seed, 32 bytes of hex. Each node has its own.
    pub node: PathBuf,
    /// BLS secret key, 32 bytes of hex. Each node has its own; needed by sequencers.
    pub bls: PathBuf,
    /// Sign-state of the BLS key. Never shared, never restored from an old copy.
    pub sign_state: PathBuf,
}

/// How blocks that a sequencer proposes go out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proposals {
    /// In coded chunks where the committee and the block are large enough for that to be faster, else whole.
    #[default]
    Auto,
    /// Always whole.
    Whole,
    /// In coded chunks whenever that is possible.
    Chunks,
}

impl Proposals {
    /// The same for what carries them.
    #[must_use]
    pub const fn way(self) -> cascade_consensus::Way {
        match self {
            Self::Auto => cascade_consensus::Way::Auto,
            Self::Whole => cascade_consensus::Way::Whole,
            Self::Chunks => cascade_consensus::Way::Chunks,
        }
    }
}

/// The network between nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSection {
    /// UDP address to listen on; port 0 picks a free one.
    pub listen: SocketAddr,
    /// UDP address that others reach this node at, where it is not `listen`.
    #[serde(default)]
    pub external: Option<SocketAddr>,
    /// HOST:PORT of nodes to dial; one that works is enough.
    pub bootstrap: Vec<String>,
    /// Connected peers at most.
    pub max_peers: usize,
    /// Peers that are dialled for.
    pub target_peers: usize,
    /// Whether announced addresses of private networks are dialled. The testnet sets it.
    pub allow_private: bool,
    /// How blocks that it proposes go out.
    #[serde(default)]
    pub proposals: Proposals,
}

/// The Prometheus endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsSection {
    /// TCP address of `GET /metrics`; port 0 picks a free one. Absent: no endpoint.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
}

/// What this node puts into its blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolSection {
    /// The sender, or payer, whose transactions its blocks hold around one of somebody else. For tests, and refused outside
    /// regtest.
    #[serde(default)]
    pub favour: Option<Address>,
}

/// This node's shares of what opens blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharesSection {
    /// Tells nobody. For tests, and refused outside regtest.
    pub withhold: bool,
}

/// What a node keeps from those who ask it for shares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Withhold {
    /// Nothing.
    #[default]
    None,
    /// The corner of (k+1) x (k+1) shares without which no square can be repaired. For tests on regtest.
    Corner,
    /// All shares. For tests on regtest.
    All,
}

/// Squares of blocks, and how they are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SquaresSection {
    /// Memory for squares that were encoded lately, in MiB.
    pub memory_mib: usize,
    /// What one peer or host may have of squares and of what light clients ask about the chain, in KiB a second.
    pub kib_per_second: u64,
    /// What it may have at once, in KiB.
    pub burst_kib: u64,
    /// What is kept from those who ask. Anything but nothing is for tests, and refused outside regtest.
    pub withhold: Withhold,
    /// Commits to squares that are no code, and takes such squares of others. For tests, and refused outside regtest.
    #[serde(default)]
    pub misencode: bool,
}

impl Default for SquaresSection {
    fn default() -> Self {
        Self { memory_mib: 256, kib_per_second: 4096, burst_kib: 65_536, withhold: Withhold::None, misencode: false }
    }
}

/// Batches that the node publishes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchesSection {
    /// The directory that they are written to. Absent: none are.
    #[serde(default)]
    pub dir: Option<PathBuf>,
    /// The bucket that they are written to, s3://BUCKET/PREFIX, in place of a directory. The environment holds the
    /// keys.
    #[serde(default)]
    pub url: Option<String>,
}

/// Log lines, which go to stderr.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSection {
    /// A level, or directives such as `info,cascade_network=debug`.
    pub level: String,
    /// Their form.
    pub format: LogFormat,
}

/// What a node is told. Paths are absolute or relative to the working directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// The node's home.
    pub data: PathBuf,
    /// The genesis file. All nodes of a chain must agree on its content.
    pub genesis: PathBuf,
    /// Whether it votes.
    pub role: Role,
    /// Where its keys are.
    pub keys: KeyPaths,
    /// The network between nodes.
    pub network: NetworkSection,
    /// The JSON-RPC server.
    pub rpc: RpcConfig,
    /// What it puts into its blocks.
    pub pool: PoolSection,
    /// Its shares of what opens blocks.
    pub shares: SharesSection,
    /// Squares of blocks, and how they are served.
    pub squares: SquaresSection,
    /// Batches that it publishes.
    pub batches: BatchesSection,
    /// The Prometheus endpoint.
    pub metrics: MetricsSection,
    /// Log lines.
    pub log: LogSection,
    /// How long to run; set by flags alone.
    #[serde(skip)]
    pub run: RunOptions,
}

/// What only flags of `cascade node` say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// Stop, with exit code 0, once this height is final and executed.
    pub until_height: Option<u64>,
    /// Stop when stdin is closed, which happens when the parent ends, however it ends.
    pub exit_with_parent: bool,
}

impl NodeConfig {
    /// Where the data directory of the chain is: what can be synced again.
    #[must_use]
    pub fn chain_dir(&self) -> PathBuf {
        self.data.join("chain")
    }

    /// Where a running node writes its process id and the addresses that it bound.
    #[must_use]
    pub fn node_file(&self) -> PathBuf {
        self.data.join("node.json")
    }

    /// Whether something is set that a node would do to harm others, which only tests on regtest may.
    #[must_use]
    pub fn is_harmful(&self) -> bool {
        let squares = &self.squares;
        squares.withhold != Withhold::None || squares.misencode || self.pool.favour.is_some() || self.shares.withhold
    }

    /// The addresses of `network.bootstrap`, with names resolved.
    ///
    /// # Errors
    /// If no entry of a list that is not empty could be resolved. Single names that fail are reported on stderr only.
    pub fn bootstrap_addresses(&self) -> Result<Vec<SocketAddr>, ConfigError> {
        let mut addresses = Vec::new();
        for entry in &self.network.bootstrap {
            match entry.to_socket_addrs() {
                Ok(found) => addresses.extend(found),
                Err(error) => tracing::warn!(%entry, %error, "network.bootstrap: cannot resolve"),
            }
        }
        if addresses.is_empty() && !self.network.bootstrap.is_empty() {
            return Err(ConfigError::Relation {
                key: "network.bootstrap",
                value: self.network.bootstrap.join(", "),
                origin: None,
                rule: "must have an entry that can be resolved; give HOST:PORT of a node that runs".to_owned(),
            });
        }
        Ok(addresses)
    }

    /// Checks the relations between keys.
    ///
    /// # Errors
    /// The first one that does not hold, with the key to change.
    pub fn check(&self) -> Result<(), ConfigError> {
        let broken = |key: &'static str, value: String, rule: &str| {
            Err(ConfigError::Relation { key, value, origin: None, rule: rule.to_owned() })
        };
        if self.network.max_peers == 0 {
            return broken("network.max_peers", "0".to_owned(), "must be at least 1");
        }
        // Every network's limit of a transaction; the node checks against its genesis once it has read it.
        self.rpc.check(LARGEST_TRANSACTION).map_err(|error| ConfigError::Relation {
            key: Key::find(&format!("rpc.{}", error.key)).map_or("rpc", |key| key.name),
            value: error.value,
            origin: None,
            rule: error.rule.to_owned(),
        })?;
        let network = &self.network;
        if network.target_peers > network.max_peers {
            let rule = format!("must be at most network.max_peers, which is {}", network.max_peers);
            return broken("network.target_peers", network.target_peers.to_string(), &rule);
        }
        if let Some(external) = network.external.filter(|e| e.port() == 0 || e.ip().is_unspecified()) {
            return broken(
                "network.external",
                external.to_string(),
                "must be an address and port that others can dial",
            );
        }
        if self.squares.burst_kib < LARGEST_SHARES_KIB {
            let rule =
                format!("must be at least {LARGEST_SHARES_KIB}, so that the largest block's square can be asked for");
            return broken("squares.burst_kib", self.squares.burst_kib.to_string(), &rule);
        }
        if let Some(metrics) = self.metrics.listen.filter(|m| m.port() != 0 && *m == self.rpc.listen) {
            return broken("metrics.listen", metrics.to_string(), "must differ from rpc.listen");
        }
        if let Some(url) = &self.batches.url {
            if let Err(rule) = parse_bucket(url) {
                return broken("batches.url", shown_bucket(url), rule);
            }
            if self.batches.dir.is_some() {
                return broken("batches.url", url.clone(), "excludes batches.dir: batches go to one place");
            }
        }
        let chain = self.chain_dir();
        for (key, path) in
            [("keys.node", &self.keys.node), ("keys.bls", &self.keys.bls), ("keys.sign_state", &self.keys.sign_state)]
        {
            if path.starts_with(&chain) {
                let rule = "must not be inside the chain data, which may be deleted at any time";
                return broken(key, path.display().to_string(), rule);
            }
        }
        Ok(())
    }
}
