//! What can go wrong on disk, with cause and remedy.

use std::{io, path::PathBuf};

use cascade_primitives::{B256, BlsPublicKey, ChainId, Network};
use thiserror::Error;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, StorageError>;

/// Why a directory belongs to something else.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Foreign {
    /// It has files, and none of them is ours.
    #[error("it is not empty and is no data directory (found {0:?})")]
    NotOurs(String),
    /// Another network's rules.
    #[error("it belongs to the network {found:?}, this node is configured for {expected:?}")]
    Network {
        /// In the directory.
        found: Network,
        /// In the configuration.
        expected: Network,
    },
    /// Another chain.
    #[error("it belongs to chain {found}, this node is configured for chain {expected}")]
    Chain {
        /// In the directory.
        found: ChainId,
        /// In the configuration.
        expected: ChainId,
    },
    /// The same chain id from another genesis file.
    #[error("it belongs to genesis {found}, this node's genesis file has the hash {expected}")]
    Genesis {
        /// In the directory.
        found: B256,
        /// In the configuration.
        expected: B256,
    },
}

/// An error of the disk or of what is on it.
#[derive(Debug, Error)]
pub enum StorageError {
    /// Another process has it open.
    #[error("{} is in use by another process; stop that process or choose another directory", path.display())]
    Locked {
        /// The lock file, sign-state file or database.
        path: PathBuf,
    },
    /// It is not this chain's.
    #[error("{}: {cause}; choose another data directory, or the genesis file that belongs to this one", path.display())]
    Foreign {
        /// The data directory.
        path: PathBuf,
        /// What differs.
        cause: Foreign,
    },
    /// It was written by another version of this program.
    #[error(
        "{}: has data version {found}, this program reads version {supported}; {}",
        path.display(),
        if found > supported { "install the newer version of cascade that wrote it" } else { "sync into an empty directory" }
    )]
    Version {
        /// The version file.
        path: PathBuf,
        /// The version that it names.
        found: u32,
        /// The version of this program.
        supported: u32,
    },
    /// The file does not exist.
    #[error("{} is missing; {remedy}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What to do.
        remedy: &'static str,
    },
    /// The file exists although it was to be created.
    #[error("{} exists already; it is never overwritten, remove it only if its key has never signed anything", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The sign-state is another key's.
    #[error(
        "{} is the sign-state of key {found}, not of {expected}; put each key's file next to its key", path.display()
    )]
    WrongKey {
        /// The file.
        path: PathBuf,
        /// The key that the file names.
        found: BlsPublicKey,
        /// The key that was asked for.
        expected: BlsPublicKey,
    },
    /// The sign-state is not what was written, so nobody can tell from it what its key has signed.
    #[error(
        "{} is damaged at byte {offset}: {what}; keep the data directory, whose vote log may be the only other record of \
         what the key has signed, and put the newest copy of the sign-state back; without a copy, retire the key: if it \
         signed again it could contradict an earlier vote, which is slashed",
        path.display()
    )]
    SignStateDamaged {
        /// The file.
        path: PathBuf,
        /// Where in the file; 0 where the place is not known.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// The user may not.
    #[error("no permission to {action} {}; give it to the user that runs this node, or choose another directory ({source})", path.display())]
    Permission {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// No space left.
    #[error("the disk (or quota) that holds {} is full; free some space and start again", path.display())]
    DiskFull {
        /// The file or directory.
        path: PathBuf,
    },
    /// What is on disk is not what was written.
    #[error("{} is damaged at byte {offset}: {what}; restore it from a copy, or remove the data directory (but never keys and sign-state) and sync again", path.display())]
    Corrupt {
        /// The file, or the database.
        path: PathBuf,
        /// Where in the file; 0 where the place is not known.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// A caller's record exceeds its bound.
    #[error("a record of {size} bytes for {} exceeds the limit of {limit}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes of the record.
        size: usize,
        /// Largest size allowed.
        limit: usize,
    },
    /// An earlier error left it in a state that only a restart clears up.
    #[error("{} failed before and takes nothing more; restart the node", path.display())]
    Failed {
        /// The file or directory.
        path: PathBuf,
    },
    /// A caller broke the order of writes. Nothing was written.
    #[error("{}: {what}", path.display())]
    Order {
        /// The database.
        path: PathBuf,
        /// The rule that was broken.
        what: String,
    },
    /// Anything else that the system reports.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl StorageError {
    /// Sorts a system error by what the user can do about it.
    pub(crate) fn io(path: impl Into<PathBuf>, action: &'static str, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::Permission { path, action, source }
            }
            _ => Self::Io { path, action, source },
        }
    }

    pub(crate) fn corrupt(path: impl Into<PathBuf>, offset: u64, what: impl Into<String>) -> Self {
        Self::Corrupt { path: path.into(), offset, what: what.into() }
    }
}
