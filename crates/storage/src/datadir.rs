//! The data directory: locked by one process, bound to one chain and one version of the layout.
//!
//! ```text
//! VERSION:  cascade data directory
//!           version = 1
//!           network = regtest
//!           chain_id = 20252
//!           genesis_hash = 0x...
//! ```
//!
//! The file is text, so that a person who finds a directory can tell whose it is. A directory is taken if it is empty
//! or if its `VERSION` says what the caller expects. Anything else is refused and left as it was.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use cascade_primitives::{B256, ChainId, Network};

use crate::{
    error::{Foreign, Result, StorageError},
    fs,
};

/// The version of everything under the data directory. A change that this program cannot read raises it.
pub const DATA_VERSION: u32 = 6;

const LOCK: &str = "LOCK";
const VERSION: &str = "VERSION";
const TITLE: &str = "cascade data directory";
/// More than any version file has.
const VERSION_LIMIT: u64 = 4096;

/// What a directory is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainIdentity {
    /// The network.
    pub network: Network,
    /// The chain.
    pub chain_id: ChainId,
    /// Hash of the chain's genesis.
    pub genesis_hash: B256,
}

/// A data directory that this process has to itself until the value is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Opens a directory, or makes a new one where there is none or an empty one.
    ///
    /// # Errors
    /// [`StorageError::Locked`], [`StorageError::Foreign`], [`StorageError::Version`], [`StorageError::Corrupt`] for a
    /// version file that cannot be read as one, and what the system reports.
    pub fn open(path: impl Into<PathBuf>, identity: &ChainIdentity) -> Result<Self> {
        let path = path.into();
        fs::create_dir(&path)?;
        let version = path.join(VERSION);
        if !exists(&version)? {
            refuse_strangers(&path)?;
        }
        let lock_path = path.join(LOCK);
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|error| StorageError::io(&lock_path, "open", error))?;
        fs::lock(&lock, &lock_path)?;
        if exists(&version)? {
            check(&path, &read(&version)?, identity)?;
        } else {
            fs::write_atomically(&version, render(identity).as_bytes())?;
        }
        Ok(Self { path, _lock: lock })
    }

    /// Reads what a directory is bound to without opening it; none if it is no data directory.
    ///
    /// # Errors
    /// [`StorageError::Version`], [`StorageError::Corrupt`] and what the system reports.
    pub fn peek(path: &Path) -> Result<Option<ChainIdentity>> {
        let version = path.join(VERSION);
        if exists(&version)? { read(&version).map(Some) } else { Ok(None) }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the vote log belongs.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Where the chain database belongs.
    #[must_use]
    pub fn db_path(&self) -> PathBuf {
        self.path.join("db")
    }
}

fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(|error| StorageError::io(path, "read", error))
}

/// Refuses a directory that has anything in it but what an interrupted first start leaves.
fn refuse_strangers(path: &Path) -> Result<()> {
    let refuse = |error| StorageError::io(path, "list", error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(refuse)? {
        let name = entry.map_err(refuse)?.file_name();
        if name != LOCK && name != "VERSION.tmp" && name != "lost+found" {
            found.push(name.to_string_lossy().into_owned());
        }
    }
    found.sort();
    match found.into_iter().next() {
        None => Ok(()),
        Some(name) => Err(StorageError::Foreign { path: path.to_owned(), cause: Foreign::NotOurs(name) }),
    }
}

fn network_name(network: Network) -> &'static str {
    match network {
        Network::Mainnet => "mainnet",
        Network::Testnet => "testnet",
        Network::Regtest => "regtest",
    }
}

fn render(identity: &ChainIdentity) -> String {
    format!(
        "{TITLE}\nversion = {DATA_VERSION}\nnetwork = {}\nchain_id = {}\ngenesis_hash = {}\n",
        network_name(identity.network),
        identity.chain_id,
        identity.genesis_hash
    )
}

fn read(path: &Path) -> Result<ChainIdentity> {
    let damaged = |what: &str| StorageError::corrupt(path, 0, what);
    let length = std::fs::metadata(path).map_err(|error| StorageError::io(path, "read", error))?.len();
    if length > VERSION_LIMIT {
        return Err(damaged("it is no version file of cascade (too long)"));
    }
    let bytes = std::fs::read(path).map_err(|error| StorageError::io(path, "read", error))?;
    let text = String::from_utf8(bytes).map_err(|_| damaged("it is no text"))?;
    let mut lines = text.lines();
    if lines.next() != Some(TITLE) {
        return Err(damaged("it is no version file of cascade (wrong first line)"));
    }
    let mut field = |name: &str| {
        let line = lines.next().and_then(|line| line.split_once(" = "));
        line.filter(|(key, _)| *key == name)
            .map(|(_, value)| value.to_owned())
            .ok_or_else(|| damaged(&format!("the line `{name} = ...` is missing")))
    };
    let found = field("version")?.parse().map_err(|_| damaged("version is no number"))?;
    // Only the version's own line has a place that later versions must keep.
    if found != DATA_VERSION {
        return Err(StorageError::Version { path: path.to_owned(), found, supported: DATA_VERSION });
    }
    let network = match field("network")?.as_str() {
        "mainnet" => Network::Mainnet,
        "testnet" => Network::Testnet,
        "regtest" => Network::Regtest,
        _ => return Err(damaged("network is unknown")),
    };
    let chain_id = ChainId(field("chain_id")?.parse().map_err(|_| damaged("chain_id is no number"))?);
    let genesis_hash = field("genesis_hash")?.parse().map_err(|_| damaged("genesis_hash is no hash"))?;
    Ok(ChainIdentity { network, chain_id, genesis_hash })
}

fn check(path: &Path, found: &ChainIdentity, expected: &ChainIdentity) -> Result<()> {
    let cause = if found.network != expected.network {
        Foreign::Network { found: found.network, expected: expected.network }
    } else if found.chain_id != expected.chain_id {
        Foreign::Chain { found: found.chain_id, expected: expected.chain_id }
    } else if found.genesis_hash != expected.genesis_hash {
        Foreign::Genesis { found: found.genesis_hash, expected: expected.genesis_hash }
    } else {
        return Ok(());
    };
    Err(StorageError::Foreign { path: path.to_owned(), cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> ChainIdentity {
        ChainIdentity { network: Network::Regtest, chain_id: ChainId(20252), genesis_hash: B256::repeat_byte(7) }
    }

    #[test]
    fn the_version_file_is_frozen() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path(), &identity()).unwrap());
        let text = std::fs::read_to_string(dir.path().join(VERSION)).unwrap();
        assert_eq!(
            text,
            "cascade data directory\nversion = 6\nnetwork = regtest\nchain_id = 20252\ngenesis_hash = \
             0x0707070707070707070707070707070707070707070707070707070707070707\n"
        );
        assert_eq!(DataDir::peek(dir.path()).unwrap(), Some(identity()));
    }

    #[test]
    fn a_directory_is_open_once_and_free_again_after_that() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let first = DataDir::open(&path, &identity()).unwrap();
        match DataDir::open(&path, &identity()) {
            Err(StorageError::Locked { path: lock }) => assert_eq!(lock, path.join(LOCK)),
            other => panic!("{other:?}"),
        }
        drop(first);
        DataDir::open(&path, &identity()).unwrap();
    }

    #[test]
    fn another_chain_is_refused_with_what_differs() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path(), &identity()).unwrap());
        let mut other = identity();
        other.genesis_hash = B256::ZERO;
        let error = DataDir::open(dir.path(), &other).unwrap_err();
        assert!(matches!(error, StorageError::Foreign { cause: Foreign::Genesis { .. }, .. }), "{error}");
        other.chain_id = ChainId(1);
        let error = DataDir::open(dir.path(), &other).unwrap_err();
        assert!(matches!(error, StorageError::Foreign { cause: Foreign::Chain { .. }, .. }), "{error}");
        other.network = Network::Mainnet;
        let error = DataDir::open(dir.path(), &other).unwrap_err();
        assert!(matches!(error, StorageError::Foreign { cause: Foreign::Network { .. }, .. }), "{error}");
        // It is still what it was.
        DataDir::open(dir.path(), &identity()).unwrap();
    }

    #[test]
    fn a_newer_version_is_refused_even_if_its_other_lines_changed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(VERSION), format!("{TITLE}\nversion = 9\nwhatever\n")).unwrap();
        let error = DataDir::open(dir.path(), &identity()).unwrap_err();
        assert!(matches!(error, StorageError::Version { found: 9, supported: DATA_VERSION, .. }), "{error}");
        assert!(error.to_string().contains("install the newer version"), "{error}");
    }

    #[test]
    fn a_stranger_s_directory_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        let error = DataDir::open(dir.path(), &identity()).unwrap_err();
        assert!(matches!(error, StorageError::Foreign { cause: Foreign::NotOurs(_), .. }), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_first_start_that_was_interrupted_is_resumed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(LOCK), "").unwrap();
        std::fs::write(dir.path().join("VERSION.tmp"), "casc").unwrap();
        DataDir::open(dir.path(), &identity()).unwrap();
    }

    #[test]
    fn damage_to_the_version_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "x", "cascade data directory\nversion = 6\nnetwork = regtest\n"] {
            std::fs::write(dir.path().join(VERSION), text).unwrap();
            let error = DataDir::open(dir.path(), &identity()).unwrap_err();
            assert!(matches!(error, StorageError::Corrupt { .. }), "{error}");
        }
    }

    #[test]
    fn a_file_in_the_way_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = DataDir::open(file.join("sub"), &identity()).unwrap_err();
        assert!(error.to_string().contains("file"), "{error}");
    }
}
