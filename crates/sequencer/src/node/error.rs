//! Why a node did not start, or stopped.

use std::{io, net::SocketAddr, path::PathBuf};

use cascade_network::NetworkError;
use cascade_primitives::TimestampMs;
use cascade_storage::StorageError;
use thiserror::Error;

use super::stop::Cause;
use crate::{
    batches::bucket::BucketError,
    config::{ConfigError, GenesisFileError, Key, KeyError},
    exit::ExitCode,
};

/// Why a node did not start, or stopped.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A setting for tests alone.
    #[error(
        "pool.favour, shares.withhold, squares.withhold and squares.misencode are for tests on regtest; this chain is not one"
    )]
    ForTests,
    /// Where batches are to be published.
    #[error("batches.url: {0}")]
    Batches(#[from] BucketError),
    /// The genesis file.
    #[error(transparent)]
    Genesis(#[from] GenesisFileError),
    /// The genesis state.
    #[error("genesis: {0}")]
    GenesisState(String),
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The state.
    #[error(transparent)]
    State(#[from] cascade_execution::StoreError),
    /// The network.
    #[error("network: {0}")]
    Network(NetworkError),
    /// An address that cannot be listened on.
    #[error("{key} = {address} ({}): {source}; {}", protocol(.key), listen_remedy(.key, .source))]
    Listen {
        /// The configuration key.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The RPC server.
    #[error("rpc: {0}")]
    Rpc(io::Error),
    /// A metric's name is taken: a bug.
    #[error("metrics: {0}")]
    Metrics(prometheus::Error),
    /// Stored bytes are not what this version writes.
    #[error(
        "{path}: {what}; restore it from a copy, or remove the chain data (never keys and sign-state) and sync again"
    )]
    Damaged {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The sign-state belongs to another chain.
    #[error("{path}: the key has signed on another chain; every chain needs its own voting key")]
    SignStateForeign {
        /// The file.
        path: PathBuf,
    },
    /// Half of the sign-state is damaged, and there is no vote log that could tell what it said.
    #[error(
        "{path}: half of the sign-state is damaged and the vote log is gone, so nobody knows what the key has signed; put the newest copy of either back, or retire the key"
    )]
    SignStateDoubtful {
        /// The file.
        path: PathBuf,
    },
    /// The clock is behind the chain.
    #[error(
        "the clock says {now} ms, but the newest block was made at {newest} ms, more than {drift_ms} ms later; set the clock (NTP) and start again"
    )]
    Clock {
        /// This machine's time.
        now: TimestampMs,
        /// The newest block's time.
        newest: TimestampMs,
        /// What the chain allows.
        drift_ms: u64,
    },
    /// A file that could not be written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It ran, and could not go on.
    #[error(transparent)]
    Stopped(Cause),
}

impl NodeError {
    /// The code that the process ends with.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::ForTests | Self::Batches(_) => ExitCode::Usage,
            Self::Genesis(error) => error.exit_code(),
            Self::Key(error) => error.exit_code(),
            Self::Storage(error) | Self::Stopped(Cause::Storage(error)) => error.into(),
            Self::Listen { source, .. } | Self::Rpc(source) => listen_code(source),
            Self::File { source, .. } => ExitCode::of_io(source),
            Self::Damaged { .. } => ExitCode::Corrupt,
            Self::SignStateForeign { .. } | Self::SignStateDoubtful { .. } => ExitCode::SignState,
            Self::Clock { .. } => ExitCode::Clock,
            Self::GenesisState(_) => ExitCode::Foreign,
            Self::Stopped(Cause::Diverged(_)) => ExitCode::Diverged,
            Self::State(_) | Self::Network(_) | Self::Metrics(_) | Self::Stopped(_) => ExitCode::Failed,
        }
    }
}

impl From<NetworkError> for NodeError {
    fn from(error: NetworkError) -> Self {
        match error {
            NetworkError::Bind { addr, source } => Self::Listen { key: "network.listen", address: addr, source },
            other => Self::Network(other),
        }
    }
}

fn protocol(key: &str) -> &'static str {
    if key == "network.listen" { "UDP" } else { "TCP" }
}

fn listen_remedy(key: &str, source: &io::Error) -> String {
    let flag = Key::find(key).and_then(|key| key.flag).unwrap_or(key);
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            format!(
                "another process listens there, perhaps a second node: stop it, or choose another address with {flag}"
            )
        }
        io::ErrorKind::PermissionDenied => {
            format!("this user may not listen there, as on ports below 1024: choose another port with {flag}")
        }
        io::ErrorKind::AddrNotAvailable => format!(
            "this machine has no such address: give one of its own, or 0.0.0.0 for all of them, with {flag}{}",
            if key == "network.listen" { " (what others dial instead, behind NAT, is --external)" } else { "" }
        ),
        _ => format!("choose another address with {flag}"),
    }
}

fn listen_code(source: &io::Error) -> ExitCode {
    match source.kind() {
        io::ErrorKind::AddrInUse => ExitCode::PortInUse,
        io::ErrorKind::PermissionDenied => ExitCode::Permission,
        _ => ExitCode::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_diverged_is_told_from_one_that_failed() {
        let ended = |cause| NodeError::Stopped(cause).exit_code();
        assert_eq!(ended(Cause::Diverged("a quorum says otherwise".into())), ExitCode::Diverged);
        assert_eq!(ended(Cause::Panic("an index".into())), ExitCode::Failed);
        assert!(ExitCode::Diverged.is_lasting() && !ExitCode::Failed.is_lasting());
    }
}
