//! The proxy's directory: the payer's key, and what is pending.
//!
//! ```text
//! DIR/payer.key    the payer's private key, mode 600, made on the first start
//! DIR/proxy.json   what is pending and what failed, mode 600: signed transactions stand in it in the clear
//! DIR/proxy.lock   held while a proxy runs: two with one payer would take each other's nonces
//! ```

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use alloy_primitives::{Address, B256, Bytes, U256};
use cascade_primitives::{ChainParams, Epoch, Height, RecoveredTransaction, Transaction};
use serde::{Deserialize, Serialize};

use super::book::{Attempt, Book, Failure as Failed, Item};
use crate::{
    cli::Failure,
    config::keys::{KeyError, read_secret, write_secret},
    exit::ExitCode,
    home::sync_parent,
    wallet::Wallet,
};

/// The form of the file.
const VERSION: u32 = 1;
/// A file that is longer was not written by a proxy: items, attempts and sizes are bounded.
const FILE_LIMIT: u64 = 2 << 30;

/// The directory, taken by this process.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    genesis_hash: B256,
    _lock: File,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    version: u32,
    genesis_hash: B256,
    payer: Address,
    items: Vec<SavedItem>,
    failures: Vec<SavedFailure>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedItem {
    wanted: Bytes,
    slot: Option<u64>,
    since: u64,
    attempts: Vec<SavedAttempt>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedAttempt {
    transaction: Bytes,
    name: B256,
    raw: Bytes,
    epoch: Epoch,
    valid_until: Height,
    max_fee: u64,
    tip: u64,
    cost: U256,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedFailure {
    transaction: Bytes,
    envelope: B256,
    reason: String,
}

/// Makes a directory for this user alone, unless it is there.
fn make_dir(dir: &Path) -> Result<(), Failure> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| Failure::io(dir.display(), &error))
}

/// The payer of a key file, which is made if it is not there. The flag says that it was.
///
/// # Errors
/// If the file cannot be used or made.
pub fn payer(file: &Path) -> Result<(Wallet, bool), Failure> {
    let (secret, made) = match read_secret(file) {
        Ok(secret) => (secret, false),
        Err(KeyError::Missing { .. }) => {
            if let Some(parent) = file.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                make_dir(parent)?;
            }
            let mut secret = zeroize::Zeroizing::new([0; 32]);
            getrandom::fill(&mut *secret).map_err(|error| Failure::new(format!("no randomness: {error}")))?;
            write_secret(file, &secret)?;
            (secret, true)
        }
        Err(error) => return Err(error.into()),
    };
    let wallet = Wallet::new(*secret).ok_or_else(|| {
        Failure::new(format!("{} holds no key: zero, or not below the group's order", file.display()))
    })?;
    Ok((wallet, made))
}

impl Store {
    /// Takes the directory of a chain's proxy; makes it if it is not there.
    ///
    /// # Errors
    /// If another proxy runs in it, or it cannot be made.
    pub fn open(dir: &Path, genesis_hash: B256) -> Result<Self, Failure> {
        make_dir(dir)?;
        let path = dir.join("proxy.lock");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let lock = lock.map_err(|error| Failure::io(path.display(), &error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: dir.join("proxy.json"), genesis_hash, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Failure {
                code: ExitCode::Locked,
                message: format!(
                    "another `cascade proxy` runs in {}; stop it, or choose another --data",
                    dir.display()
                ),
            }),
            Err(TryLockError::Error(error)) => Err(Failure::io(path.display(), &error)),
        }
    }

    /// What was pending when the last proxy ended; an empty book if there was none.
    ///
    /// # Errors
    /// If the file is of another chain or payer, or damaged.
    pub fn load(&self, payer: Address, params: &ChainParams) -> Result<Book, Failure> {
        let here = self.path.display();
        let damaged = |what: String| Failure { code: ExitCode::Corrupt, message: format!("{here} is damaged: {what}") };
        let text = match std::fs::metadata(&self.path) {
            Ok(metadata) if metadata.len() > FILE_LIMIT => return Err(damaged("it is too long".to_owned())),
            Ok(_) => std::fs::read(&self.path).map_err(|error| Failure::io(&here, &error))?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Book { payer, ..Book::default() }),
            Err(error) => return Err(Failure::io(&here, &error)),
        };
        let saved: Saved = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if saved.version != VERSION {
            let message = format!("{here} has version {}, this program reads {VERSION}", saved.version);
            return Err(Failure { code: ExitCode::Version, message });
        }
        if saved.genesis_hash != self.genesis_hash || saved.payer != payer {
            let message = format!(
                "{here} is of payer {} on the chain with genesis {}; choose another --data for payer {payer} on the chain \
                 with genesis {}",
                saved.payer, saved.genesis_hash, self.genesis_hash
            );
            return Err(Failure { code: ExitCode::Foreign, message });
        }
        book(saved, params).map_err(damaged)
    }

    /// Writes what is pending, whole or not at all.
    ///
    /// # Errors
    /// What the system reports.
    pub fn save(&self, book: &Book) -> std::io::Result<()> {
        let text = serde_json::to_vec(&saved(book, self.genesis_hash)).expect("strings and numbers have a JSON form");
        let temporary = self.path.with_extension("json.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &self.path)?;
        sync_parent(&self.path)
    }
}

fn raw(transaction: &RecoveredTransaction) -> Bytes {
    Bytes(transaction.raw().clone())
}

fn saved(book: &Book, genesis_hash: B256) -> Saved {
    let attempt = |attempt: &Attempt| SavedAttempt {
        transaction: raw(&attempt.transaction),
        name: attempt.name,
        raw: attempt.raw.clone(),
        epoch: attempt.epoch,
        valid_until: attempt.valid_until,
        max_fee: attempt.max_fee,
        tip: attempt.tip,
        cost: attempt.cost,
    };
    let item = |item: &Item| SavedItem {
        wanted: raw(&item.wanted),
        slot: item.slot,
        since: item.since,
        attempts: item.attempts.iter().map(attempt).collect(),
    };
    let failure = |failure: &Failed| SavedFailure {
        transaction: raw(&failure.transaction),
        envelope: failure.envelope,
        reason: failure.reason.clone(),
    };
    Saved {
        version: VERSION,
        genesis_hash,
        payer: book.payer,
        items: book.items.values().map(item).collect(),
        failures: book.failures.iter().map(failure).collect(),
    }
}

fn book(saved: Saved, params: &ChainParams) -> Result<Book, String> {
    let decode = |raw: Bytes| {
        let decoded = Transaction::decode(raw.0, params.chain_id, params.max_tx_bytes as usize);
        let recovered = decoded.and_then(cascade_crypto::ecdsa::recover);
        recovered.map(Arc::new).map_err(|error| format!("a transaction: {error}"))
    };
    let attempt = |saved: SavedAttempt| {
        Ok(Attempt {
            transaction: decode(saved.transaction)?,
            name: saved.name,
            raw: saved.raw,
            epoch: saved.epoch,
            valid_until: saved.valid_until,
            max_fee: saved.max_fee,
            tip: saved.tip,
            cost: saved.cost,
        })
    };
    let mut book = Book { payer: saved.payer, ..Book::default() };
    for item in saved.items {
        let wanted = decode(item.wanted)?;
        let attempts = item.attempts.into_iter().map(attempt).collect::<Result<_, String>>()?;
        let place = (wanted.sender(), wanted.nonce());
        book.items.insert(place, Item { slot: item.slot, attempts, ..Item::new(wanted, item.since) });
    }
    for failure in saved.failures {
        let transaction = decode(failure.transaction)?;
        book.fail(Failed { transaction, envelope: failure.envelope, reason: failure.reason });
    }
    Ok(book)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use cascade_primitives::Network;

    use super::*;
    use crate::wallet::{Fees, Transfer};

    fn wanted(params: &ChainParams) -> Arc<RecoveredTransaction> {
        let transfer = Transfer {
            chain: params.chain_id,
            nonce: 3,
            to: Address::ZERO,
            value: U256::from(5),
            data: Bytes::new(),
            gas: 21_000,
            fees: Fees { max: 10, tip: 1 },
        };
        let raw = Wallet::public("store", 0).sign(&transfer).1;
        let decoded = Transaction::decode(raw.into(), params.chain_id, 1000).unwrap();
        Arc::new(cascade_crypto::ecdsa::recover(decoded).unwrap())
    }

    #[test]
    fn what_is_saved_is_loaded_by_the_same_payer_on_the_same_chain_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (payer, params) = (Address::repeat_byte(1), ChainParams::of(Network::Regtest));
        let store = Store::open(dir.path(), B256::repeat_byte(7)).unwrap();
        let mut book = store.load(payer, &params).unwrap();
        let transaction = wanted(&params);
        let attempt = Attempt {
            transaction: Arc::clone(&transaction),
            name: B256::repeat_byte(2),
            raw: Bytes::from_static(&[1, 2]),
            epoch: Epoch(4),
            valid_until: Height(9),
            max_fee: 10,
            tip: 1,
            cost: U256::from(210_000),
        };
        let item = Item { slot: Some(8), attempts: vec![attempt], ..Item::new(Arc::clone(&transaction), 5) };
        book.items.insert((transaction.sender(), 3), item);
        book.fail(Failed { transaction, envelope: B256::repeat_byte(3), reason: "nonce too low".to_owned() });
        store.save(&book).unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("proxy.json")).unwrap().permissions().mode() & 0o777, 0o600);

        assert_eq!(Store::open(dir.path(), B256::repeat_byte(7)).unwrap_err().code, ExitCode::Locked);
        let loaded = store.load(payer, &params).unwrap();
        assert_eq!(format!("{loaded:?}"), format!("{book:?}"));
        assert_eq!(store.load(Address::ZERO, &params).unwrap_err().code, ExitCode::Foreign);
        drop(store);
        let other = Store::open(dir.path(), B256::repeat_byte(8)).unwrap();
        assert_eq!(other.load(payer, &params).unwrap_err().code, ExitCode::Foreign);
        std::fs::write(dir.path().join("proxy.json"), "{").unwrap();
        assert_eq!(other.load(payer, &params).unwrap_err().code, ExitCode::Corrupt);
    }

    #[test]
    fn a_payers_key_is_made_once_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new/payer.key");
        let (first, made) = payer(&file).unwrap();
        assert!(made);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let (second, made) = payer(&file).unwrap();
        assert!(!made && first.address() == second.address());
    }
}
