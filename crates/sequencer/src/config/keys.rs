//! The keys of a node, read from files that only their owner may read.

use std::{
    fs::OpenOptions,
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use cascade_crypto::BlsSecretKey;
use cascade_network::Identity;
use thiserror::Error;
use zeroize::Zeroizing;

use super::{NodeConfig, Role};
use crate::exit::ExitCode;

/// More than 32 bytes of hex with a prefix and a line end take.
const FILE_LIMIT: u64 = 256;

/// The secrets of a node.
#[derive(Clone, Debug)]
pub struct NodeKeys {
    /// Who it is on the network.
    pub identity: Identity,
    /// The key of its votes; a sequencer has one.
    pub bls: Option<BlsSecretKey>,
}

/// Why a key file was refused.
#[derive(Debug, Error)]
pub enum KeyError {
    /// There is none.
    #[error("the key file {} is missing; create it with `cascade keys generate`, or put it back from a copy", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Others may read it.
    #[error("the key file {} may be read by others (mode {mode:03o}); run: chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It holds no key.
    #[error("the key file {} is damaged: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong. Never what it holds.
        what: String,
    },
    /// It exists and is never overwritten.
    #[error("the key file {} exists and is never overwritten; move it away first", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The system failed.
    #[error("cannot {action} the key file {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl KeyError {
    /// The code that the process ends with.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Missing { .. } => ExitCode::KeyMissing,
            Self::Exposed { .. } => ExitCode::Permission,
            Self::Malformed { .. } => ExitCode::Corrupt,
            Self::Exists { .. } => ExitCode::Failed,
            Self::Io { source, .. } => ExitCode::of_io(source),
        }
    }
}

impl NodeKeys {
    /// Reads the keys that a node of this configuration needs: a full node has no voting key.
    ///
    /// # Errors
    /// [`KeyError`] for the first file that is missing, exposed or damaged.
    pub fn load(config: &NodeConfig) -> Result<Self, KeyError> {
        let identity = Identity::from_seed(&*read_secret(&config.keys.node)?);
        let bls = match config.role {
            Role::Sequencer => Some(read_bls(&config.keys.bls)?),
            Role::Full => None,
        };
        Ok(Self { identity, bls })
    }
}

/// Reads a BLS key file.
///
/// # Errors
/// [`KeyError`].
pub fn read_bls(path: &Path) -> Result<BlsSecretKey, KeyError> {
    BlsSecretKey::from_bytes(&*read_secret(path)?)
        .map_err(|error| KeyError::Malformed { path: path.to_owned(), what: error.to_string() })
}

/// Reads 32 bytes of hex from a file that only its owner may read.
///
/// # Errors
/// [`KeyError`].
pub fn read_secret(path: &Path) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let io = |action| move |source: io::Error| KeyError::Io { path: path.to_owned(), action, source };
    let file = std::fs::File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => KeyError::Missing { path: path.to_owned() },
        _ => io("open")(source),
    })?;
    let metadata = file.metadata().map_err(io("read"))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { path: path.to_owned(), mode });
    }
    let malformed = |what: &str| KeyError::Malformed { path: path.to_owned(), what: what.to_owned() };
    let mut text = Zeroizing::new(String::with_capacity(FILE_LIMIT as usize));
    file.take(FILE_LIMIT).read_to_string(&mut text).map_err(|_| malformed("it is no text"))?;
    parse_secret(&text).ok_or_else(|| malformed("expected 32 bytes of hex (64 digits)"))
}

/// 32 bytes from hex, with or without `0x`; none if it is something else.
#[must_use]
pub fn parse_secret(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let text = text.trim();
    let mut bytes = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.strip_prefix("0x").unwrap_or(text), bytes.as_mut_slice()).ok()?;
    Some(bytes)
}

/// Writes 32 bytes of hex to a new file that only its owner may read, synced. Its directory is made if it is missing.
///
/// # Errors
/// [`KeyError::Exists`], [`KeyError::Io`].
pub fn write_secret(path: &Path, secret: &[u8; 32]) -> Result<(), KeyError> {
    let io = |action| move |source: io::Error| KeyError::Io { path: path.to_owned(), action, source };
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(io("make the directory of"))?;
    }
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|source| {
            match source.kind() {
                io::ErrorKind::AlreadyExists => KeyError::Exists { path: path.to_owned() },
                _ => io("create")(source),
            }
        })?;
    let text = Zeroizing::new(format!("{}\n", *Zeroizing::new(hex::encode(secret))));
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io("write"))
}
