//! A node's home: making one, as `cascade init` and the testnet do. What is in it stands in [`config`](crate::config).

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use alloy_primitives::Address;
use cascade_crypto::{BlsSecretKey, VoteSigner as _};
use cascade_network::Identity;
use cascade_primitives::{Genesis, SequencerSpec};
use cascade_storage::SignState;

use crate::{
    cli::Failure,
    config::{
        KeyPaths, Role,
        keys::{read_bls, read_secret, write_secret},
    },
    exit::ExitCode,
};

/// Milliseconds since the Unix epoch.
#[must_use]
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_millis() as u64)
}

/// Writes a file so that a reader, or a crash, sees all of it or none.
///
/// # Errors
/// What the system reports.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    sync_parent(path)
}

/// Brings a file's name to the disk: a rename is not there after a power failure before its directory is.
///
/// # Errors
/// What the system reports.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    std::fs::File::open(parent)?.sync_all()
}

/// The paths of a home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    path: PathBuf,
}

/// The keys of a node that a home is made for.
#[derive(Clone, Debug)]
pub struct NewKeys {
    /// Who the node is on the network.
    pub identity: Identity,
    /// The key of its votes; a full node has none.
    pub bls: Option<BlsSecretKey>,
}

impl NewKeys {
    /// Fresh keys.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn generate(role: Role) -> Result<Self, Failure> {
        let identity = Identity::generate().map_err(|error| Failure::new(format!("no randomness: {error}")))?;
        let bls = match role {
            Role::Sequencer => Some(BlsSecretKey::generate().map_err(Failure::new)?),
            Role::Full => None,
        };
        Ok(Self { identity, bls })
    }

    /// The node's entry in a genesis.
    ///
    /// # Errors
    /// If it has no voting key.
    pub fn spec(&self, address: Address, stake: u64, hat: u8) -> Result<SequencerSpec, Failure> {
        let bls = self.bls.as_ref().ok_or_else(|| Failure::usage("a full node has no voting key"))?;
        Ok(SequencerSpec {
            node: self.identity.node_id(),
            bls_key: bls.public_key(),
            bls_proof: bls.prove_possession(),
            address,
            stake,
            hat,
        })
    }
}

/// Keys of which some may have been there already, as `cascade keys generate` leaves them.
#[derive(Clone, Debug)]
pub struct HomeKeys {
    /// The keys.
    pub keys: NewKeys,
    /// Whether the network key was there.
    pub node_found: bool,
    /// Whether the voting key was there, with its sign-state.
    pub bls_found: bool,
    /// Whether the voting key has signed already.
    pub has_signed: bool,
}

impl HomeKeys {
    /// Reads the keys that are there and makes those that are missing. Nothing is written.
    ///
    /// # Errors
    /// If a key that is there cannot be used, or a voting key and its sign-state are not both there.
    pub fn find_or_generate(paths: &KeyPaths, role: Role) -> Result<Self, Failure> {
        let mut keys = NewKeys::generate(role)?;
        let node_found = paths.node.exists();
        if node_found {
            keys.identity = Identity::from_seed(&*read_secret(&paths.node)?);
        }
        let bls_found = role == Role::Sequencer && paths.bls.exists();
        let mut has_signed = false;
        if bls_found {
            let bls = read_bls(&paths.bls)?;
            has_signed = SignState::open(&paths.sign_state, bls.public_key())?.load().is_some();
            keys.bls = Some(bls);
        } else if role == Role::Sequencer && paths.sign_state.exists() {
            let message = format!(
                "{} is there without its key {}; put the key back, or move the sign-state away",
                paths.sign_state.display(),
                paths.bls.display()
            );
            return Err(Failure { code: ExitCode::SignState, message });
        }
        Ok(Self { keys, node_found, bls_found, has_signed })
    }

    /// Writes the keys that were not there, a voting key with the sign-state of a key that has never signed.
    ///
    /// # Errors
    /// If a file has come to exist or cannot be written.
    pub fn write(&self, paths: &KeyPaths) -> Result<(), Failure> {
        if !self.node_found {
            write_secret(&paths.node, &self.keys.identity.seed())?;
        }
        if let Some(bls) = self.keys.bls.as_ref().filter(|_| !self.bls_found) {
            write_voting_key(paths, bls)?;
        }
        Ok(())
    }
}

/// Writes a voting key with the sign-state of a key that has never signed.
///
/// # Errors
/// If a file exists or cannot be written.
pub fn write_voting_key(paths: &KeyPaths, bls: &BlsSecretKey) -> Result<(), Failure> {
    write_secret(&paths.bls, &bls.to_bytes())?;
    SignState::create(&paths.sign_state, bls.public_key())?;
    Ok(())
}

impl Home {
    /// The home at a path.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The genesis file.
    #[must_use]
    pub fn genesis(&self) -> PathBuf {
        self.path.join("genesis.json")
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.path.join("cascade.toml")
    }

    /// The network key.
    #[must_use]
    pub fn node_key(&self) -> PathBuf {
        self.path.join("keys/node.key")
    }

    /// The voting key.
    #[must_use]
    pub fn bls_key(&self) -> PathBuf {
        self.path.join("keys/bls.key")
    }

    /// The sign-state of the voting key.
    #[must_use]
    pub fn sign_state(&self) -> PathBuf {
        self.path.join("keys/bls.sign-state")
    }

    /// Where its keys are unless the configuration says otherwise.
    #[must_use]
    pub fn key_paths(&self) -> KeyPaths {
        KeyPaths { node: self.node_key(), bls: self.bls_key(), sign_state: self.sign_state() }
    }

    /// Refuses a home that has a configuration or a genesis file already, but for `given`. Keys may be there.
    ///
    /// # Errors
    /// The file that would be overwritten.
    pub fn refuse_existing(&self, given: Option<&Path>) -> Result<(), Failure> {
        let files = [self.config(), self.genesis()];
        match files.iter().find(|file| file.exists() && Some(file.as_path()) != given) {
            Some(file) => Err(Failure::new(format!(
                "{} exists and is never overwritten; choose another --data, or move it away",
                file.display()
            ))),
            None => Ok(()),
        }
    }

    /// Makes fresh keys and writes them, with the sign-state of a key that has never signed.
    ///
    /// # Errors
    /// If a file exists or cannot be written.
    pub fn create_keys(&self, role: Role) -> Result<NewKeys, Failure> {
        let keys = NewKeys::generate(role)?;
        HomeKeys { keys: keys.clone(), node_found: false, bls_found: false, has_signed: false }
            .write(&self.key_paths())?;
        Ok(keys)
    }

    /// Writes the genesis file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_genesis(&self, genesis: &Genesis) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(genesis).expect("a genesis has a JSON form");
        self.write(&self.genesis(), &(text + "\n"))
    }

    /// Writes the configuration file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_config(&self, settings: &toml::Table) -> Result<(), Failure> {
        let text = toml::to_string(settings).expect("settings have a TOML form");
        self.write(&self.config(), &format!("# Every key stands in docs/configuration.md.\n{text}"))
    }

    fn write(&self, path: &Path, text: &str) -> Result<(), Failure> {
        std::fs::create_dir_all(&self.path).map_err(|error| Failure::io(self.path.display(), &error))?;
        write_atomically(path, text.as_bytes()).map_err(|error| Failure::io(path.display(), &error))
    }
}
