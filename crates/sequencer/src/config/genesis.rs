//! Reading a genesis file with all its checks.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use cascade_crypto::bls::verify_possession;
use cascade_primitives::{BlsPublicKey, Genesis, GenesisError, Network, NodeId};
use thiserror::Error;

use crate::{exit::ExitCode, testnet::accounts};

/// More than a genesis with a million accounts needs.
const FILE_LIMIT: u64 = 256 << 20;

/// Why a genesis file was refused.
#[derive(Debug, Error)]
pub enum GenesisFileError {
    /// It cannot be read.
    #[error("cannot read the genesis file {}: {source}; --genesis names another, and `cascade init` makes a home with one", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// It is no genesis.
    #[error("{} is no genesis file: {what}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        what: String,
    },
    /// It breaks a rule.
    #[error("{}: {source}", path.display())]
    Rule {
        /// The file.
        path: PathBuf,
        /// The rule.
        source: GenesisError,
    },
    /// A voting key without its proof.
    #[error("{}: sequencer {node}: bls_proof does not prove possession of {key}", path.display())]
    Possession {
        /// The file.
        path: PathBuf,
        /// The sequencer.
        node: NodeId,
        /// Its voting key.
        key: BlsPublicKey,
    },
    /// A secret that everybody knows, on a chain where that matters.
    #[error("{}: {what} belongs to the public development mnemonic, which is only allowed on regtest", path.display())]
    PublicKeys {
        /// The file.
        path: PathBuf,
        /// Which entry.
        what: String,
    },
}

impl GenesisFileError {
    /// The code that the process ends with.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Read { source, .. } if ExitCode::of_io(source) == ExitCode::Permission => ExitCode::Permission,
            _ => ExitCode::Foreign,
        }
    }
}

/// Reads a genesis file without its checks.
///
/// # Errors
/// [`GenesisFileError::Read`], [`GenesisFileError::Syntax`].
pub fn read_genesis(path: &Path) -> Result<Genesis, GenesisFileError> {
    let read = |source| GenesisFileError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(read)?;
    if file.metadata().map_err(read)?.len() > FILE_LIMIT {
        return Err(GenesisFileError::Syntax { path: path.to_owned(), what: "it is longer than 256 MiB".to_owned() });
    }
    let mut text = String::new();
    file.take(FILE_LIMIT).read_to_string(&mut text).map_err(read)?;
    serde_json::from_str(&text)
        .map_err(|error| GenesisFileError::Syntax { path: path.to_owned(), what: error.to_string() })
}

/// Reads a genesis file and checks all of it: relations, committees, proofs of possession, and that the accounts of
/// the public development mnemonic hold nothing outside regtest.
///
/// # Errors
/// [`GenesisFileError`].
pub fn load_genesis(path: &Path) -> Result<Genesis, GenesisFileError> {
    let genesis = read_genesis(path)?;
    check_genesis(&genesis, path)?;
    Ok(genesis)
}

/// Checks all of a genesis, as [`load_genesis`] does; errors name the file.
///
/// # Errors
/// [`GenesisFileError`], but neither `Read` nor `Syntax`.
pub fn check_genesis(genesis: &Genesis, path: &Path) -> Result<(), GenesisFileError> {
    let rule = |source| GenesisFileError::Rule { path: path.to_owned(), source };
    genesis.check().map_err(rule)?;
    for sequencer in genesis.committees.iter().flat_map(|committee| &committee.sequencers) {
        if !verify_possession(&sequencer.bls_key, &sequencer.bls_proof) {
            let (node, key) = (sequencer.node, sequencer.bls_key);
            return Err(GenesisFileError::Possession { path: path.to_owned(), node, key });
        }
    }
    if genesis.params.network != Network::Regtest {
        let paid = genesis.committees.iter().flat_map(|committee| &committee.sequencers).map(|s| s.address);
        if let Some(address) = genesis.alloc.keys().copied().chain(paid).find(accounts::is_public) {
            let what = format!("account {address}");
            return Err(GenesisFileError::PublicKeys { path: path.to_owned(), what });
        }
    }
    Ok(())
}
