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
    config::{Role, keys::write_secret},
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
    std::fs::rename(&temporary, path)
}

/// The paths of a home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    path: PathBuf,
}

/// Keys that were just made.
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

    /// Refuses a home that is there already.
    ///
    /// # Errors
    /// The file that would be overwritten.
    pub fn refuse_existing(&self) -> Result<(), Failure> {
        let files = [self.config(), self.genesis(), self.node_key(), self.bls_key(), self.sign_state()];
        match files.iter().find(|file| file.exists()) {
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
        self.write_keys(&keys)?;
        Ok(keys)
    }

    /// Writes keys, with the sign-state of a key that has never signed.
    ///
    /// # Errors
    /// If a file exists or cannot be written.
    pub fn write_keys(&self, keys: &NewKeys) -> Result<(), Failure> {
        write_secret(&self.node_key(), &keys.identity.seed())?;
        if let Some(bls) = &keys.bls {
            write_secret(&self.bls_key(), &bls.to_bytes())?;
            SignState::create(self.sign_state(), bls.public_key())?;
        }
        Ok(())
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
