//! The last word of a signing key: a small file kept next to the key that survives the loss of everything else.
//!
//! What a key has signed last decides what it may sign next. The vote log says so too, but a data directory gets
//! deleted, restored from an old copy, or moved to a new disk. This file stays with the key. Its payload is
//! opaque here; consensus defines it.
//!
//! ```text
//! 0      magic, version, key, checksum                                      written once
//! 4096   slot 0: checksum(16) sequence(8) length(4) payload(<= 4096)        the older of the two slots is
//! 12288  slot 1: the same                                                   overwritten by the next store
//! ```
//!
//! [`SignState::store`] overwrites the slot that does *not* hold the newest payload and syncs it before it returns, so a
//! crash at any point leaves the last payload whose store returned, or the one that was being written. The file never
//! changes its size, so the sync writes one page and no metadata.
//!
//! One slot that is neither valid nor blank is what a crash in the middle of a store leaves; its store never returned
//! and nothing was sent on its strength. A disk that loses the newest slot *later* looks the same. So
//! [`SignState::damaged_slot`] reports it, and a node that has no vote log either should then refuse to sign.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use cascade_primitives::{BlsPublicKey, domain, hash};

use crate::{
    error::{Result, StorageError},
    fs,
};

/// Largest payload in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 4096;

const MAGIC: &[u8; 8] = b"CASCSIGN";
const FORMAT: u16 = 1;
const CHECKSUM_BYTES: usize = 16;
const HEADER_BYTES: usize = 8 + 2 + BlsPublicKey::LEN + CHECKSUM_BYTES;
const SLOT_START: usize = 4096;
const SLOT_BYTES: usize = 8192;
const SLOT_HEADER_BYTES: usize = CHECKSUM_BYTES + 8 + 4;
const FILE_BYTES: usize = SLOT_START + 2 * SLOT_BYTES;

const REMEDY: &str = "without it the key could contradict what it signed before. Put the file back from a copy that \
                      is up to date, or register a new key; for a key that has never signed, create it with `cascade keys`";

/// The open sign-state file of one key. The file is locked until the value is dropped.
#[derive(Debug)]
pub struct SignState {
    path: PathBuf,
    file: File,
    key: BlsPublicKey,
    sequence: u64,
    payload: Option<Vec<u8>>,
    damaged: bool,
    failed: bool,
}

impl SignState {
    /// Creates the file of a key that has never signed anything. Never overwrites one.
    ///
    /// # Errors
    /// [`StorageError::Exists`], and what the system reports.
    pub fn create(path: impl Into<PathBuf>, key: BlsPublicKey) -> Result<Self> {
        let path = path.into();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir(parent)?;
        if path.try_exists().map_err(|error| StorageError::io(&path, "read", error))? {
            return Err(StorageError::Exists { path });
        }
        let mut image = vec![0; FILE_BYTES];
        image[..HEADER_BYTES].copy_from_slice(&header(&key));
        fs::write_atomically(&path, &image)?;
        Self::open(path, key)
    }

    /// Opens the file of a key.
    ///
    /// # Errors
    /// [`StorageError::Missing`] if there is none, which is never to be answered by creating one without being asked;
    /// [`StorageError::WrongKey`], [`StorageError::SignStateDamaged`] if no slot can be trusted,
    /// [`StorageError::Locked`], and what the system reports.
    pub fn open(path: impl Into<PathBuf>, key: BlsPublicKey) -> Result<Self> {
        let path = path.into();
        let file = match OpenOptions::new().read(true).write(true).mode(0o600).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(StorageError::Missing { path, remedy: REMEDY });
            }
            Err(error) => return Err(StorageError::io(path, "open", error)),
        };
        fs::lock(&file, &path)?;
        let length = file.metadata().map_err(|error| StorageError::io(&path, "read", error))?.len();
        if length != FILE_BYTES as u64 {
            return Err(refusal(path, 0, format!("it has {length} bytes instead of {FILE_BYTES}")));
        }
        let mut image = vec![0; FILE_BYTES];
        file.read_exact_at(&mut image, 0).map_err(|error| StorageError::io(&path, "read", error))?;
        check_header(&path, &image, &key)?;
        let slots = [0, 1].map(|slot| read_slot(&key, slot, &image[slot_range(slot)]));
        let damaged = slots.iter().any(|slot| matches!(slot, Slot::Damaged));
        let newest = slots
            .into_iter()
            .filter_map(|slot| match slot {
                Slot::Valid { sequence, payload } => Some((sequence, payload)),
                Slot::Blank | Slot::Damaged => None,
            })
            .max_by_key(|(sequence, _)| *sequence);
        let (sequence, payload) = match newest {
            Some((sequence, payload)) => (sequence, Some(payload)),
            None if damaged && !first_store_was_torn(&image) => {
                return Err(refusal(path, SLOT_START, "neither slot is valid"));
            }
            None => (0, None),
        };
        Ok(Self { path, file, key, sequence, payload, damaged, failed: false })
    }

    /// The last payload that was stored; none if the key has never signed.
    #[must_use]
    pub fn load(&self) -> Option<&[u8]> {
        self.payload.as_deref()
    }

    /// Replaces the payload. It is on disk when this returns.
    ///
    /// # Errors
    /// [`StorageError::TooLarge`], and what the system reports: then the old or the new payload is on disk, and
    /// after anything but a full disk nothing more is taken ([`StorageError::Failed`]).
    pub fn store(&mut self, payload: &[u8]) -> Result<()> {
        if payload.len() > MAX_PAYLOAD_BYTES {
            let (size, limit) = (payload.len(), MAX_PAYLOAD_BYTES);
            return Err(StorageError::TooLarge { path: self.path.clone(), size, limit });
        }
        if self.failed {
            return Err(StorageError::Failed { path: self.path.clone() });
        }
        let sequence = self.sequence.checked_add(1).expect("a key signs fewer than 2^64 times");
        let slot = usize::from(sequence.is_multiple_of(2));
        let image = render_slot(&self.key, slot, sequence, payload);
        let written = self
            .file
            .write_all_at(&image, slot_range(slot).start as u64)
            .and_then(|()| self.file.sync_data())
            .map_err(|error| StorageError::io(&self.path, "write", error));
        if let Err(error) = written {
            // After a failed sync nobody knows what the disk has; a later one may report success for lost pages.
            self.failed = !matches!(error, StorageError::DiskFull { .. });
            return Err(error);
        }
        self.sequence = sequence;
        self.payload = Some(payload.to_vec());
        Ok(())
    }

    /// Whether one slot was neither valid nor blank when the file was opened.
    #[must_use]
    pub const fn damaged_slot(&self) -> bool {
        self.damaged
    }

    /// The key.
    #[must_use]
    pub const fn key(&self) -> &BlsPublicKey {
        &self.key
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

enum Slot {
    Blank,
    Valid { sequence: u64, payload: Vec<u8> },
    Damaged,
}

const fn slot_range(slot: usize) -> std::ops::Range<usize> {
    let start = SLOT_START + slot * SLOT_BYTES;
    start..start + SLOT_BYTES
}

fn header(key: &BlsPublicKey) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[..8].copy_from_slice(MAGIC);
    out[8..10].copy_from_slice(&FORMAT.to_le_bytes());
    out[10..10 + BlsPublicKey::LEN].copy_from_slice(key.as_bytes());
    let checksum = hash::tagged(domain::SIGN_STATE, &[&out[..HEADER_BYTES - CHECKSUM_BYTES]]);
    out[HEADER_BYTES - CHECKSUM_BYTES..].copy_from_slice(&checksum[..CHECKSUM_BYTES]);
    out
}

fn refusal(path: impl Into<PathBuf>, offset: usize, what: impl Into<String>) -> StorageError {
    StorageError::SignStateDamaged { path: path.into(), offset: offset as u64, what: what.into() }
}

fn check_header(path: &Path, image: &[u8], key: &BlsPublicKey) -> Result<()> {
    if &image[..8] != MAGIC {
        return Err(refusal(path, 0, "it is no sign-state file"));
    }
    let mut bytes = [0; BlsPublicKey::LEN];
    bytes.copy_from_slice(&image[10..10 + BlsPublicKey::LEN]);
    let found = BlsPublicKey(bytes);
    let expected = header(&found);
    let format = u16::from_le_bytes([image[8], image[9]]);
    // The checksum covers the version: a header that is right but for its version is damaged, not of another version.
    if format > FORMAT && image[10..HEADER_BYTES] != expected[10..] {
        return Err(StorageError::Version { path: path.to_owned(), found: format.into(), supported: FORMAT.into() });
    }
    if image[..HEADER_BYTES] != expected {
        return Err(refusal(path, 10, "the checksum of the header is wrong"));
    }
    if found == *key { Ok(()) } else { Err(StorageError::WrongKey { path: path.to_owned(), found, expected: *key }) }
}

fn render_slot(key: &BlsPublicKey, slot: usize, sequence: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; CHECKSUM_BYTES];
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&u32::try_from(payload.len()).expect("bounded by MAX_PAYLOAD_BYTES").to_le_bytes());
    out.extend_from_slice(payload);
    let checksum = slot_checksum(key, slot, &out[CHECKSUM_BYTES..]);
    out[..CHECKSUM_BYTES].copy_from_slice(&checksum);
    out
}

fn slot_checksum(key: &BlsPublicKey, slot: usize, content: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let slot = [u8::try_from(slot).expect("0 or 1")];
    let hash = hash::tagged(domain::SIGN_STATE, &[key.as_bytes(), &slot, content]);
    let mut checksum = [0; CHECKSUM_BYTES];
    checksum.copy_from_slice(&hash[..CHECKSUM_BYTES]);
    checksum
}

fn read_slot(key: &BlsPublicKey, slot: usize, bytes: &[u8]) -> Slot {
    if bytes.iter().all(|byte| *byte == 0) {
        return Slot::Blank;
    }
    let number = |at: usize, n: usize| bytes[at..at + n].iter().rev().fold(0_u64, |sum, b| (sum << 8) | u64::from(*b));
    let sequence = number(CHECKSUM_BYTES, 8);
    let length = usize::try_from(number(CHECKSUM_BYTES + 8, 4)).unwrap_or(usize::MAX);
    if length > MAX_PAYLOAD_BYTES || sequence == 0 {
        return Slot::Damaged;
    }
    let end = SLOT_HEADER_BYTES + length;
    if slot_checksum(key, slot, &bytes[CHECKSUM_BYTES..end]) != bytes[..CHECKSUM_BYTES] {
        return Slot::Damaged;
    }
    Slot::Valid { sequence, payload: bytes[SLOT_HEADER_BYTES..end].to_vec() }
}

/// With no valid slot, the file is still good if its very first store was interrupted: that goes to slot 0 and leaves
/// slot 1 blank. A store that returned and was lost afterwards looks the same if it was the first one only.
fn first_store_was_torn(image: &[u8]) -> bool {
    image[slot_range(1)].iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: BlsPublicKey = BlsPublicKey([5; 48]);

    fn flip(path: &Path, offset: usize) {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[offset] ^= 0x40;
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn a_fresh_file_is_empty_and_keeps_what_is_stored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys/sign-state");
        let mut state = SignState::create(&path, KEY).unwrap();
        assert_eq!(state.load(), None);
        for n in 0..5_u8 {
            state.store(&vec![n; 100 * usize::from(n)]).unwrap();
            drop(state);
            state = SignState::open(&path, KEY).unwrap();
            assert_eq!(state.load(), Some(&vec![n; 100 * usize::from(n)][..]));
            assert!(!state.damaged_slot());
        }
        state.store(&[1; MAX_PAYLOAD_BYTES]).unwrap();
        let error = state.store(&[1; MAX_PAYLOAD_BYTES + 1]).unwrap_err();
        assert!(matches!(error, StorageError::TooLarge { size: 4097, limit: 4096, .. }), "{error}");
        assert_eq!(state.load(), Some(&[1; MAX_PAYLOAD_BYTES][..]));
    }

    #[test]
    fn missing_existing_foreign_and_locked_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sign-state");
        assert!(matches!(SignState::open(&path, KEY), Err(StorageError::Missing { .. })));
        let state = SignState::create(&path, KEY).unwrap();
        assert!(matches!(SignState::open(&path, KEY), Err(StorageError::Locked { .. })));
        drop(state);
        assert!(matches!(SignState::create(&path, KEY), Err(StorageError::Exists { .. })));
        let other = BlsPublicKey([6; 48]);
        match SignState::open(&path, other) {
            Err(StorageError::WrongKey { found, expected, .. }) => assert_eq!((found, expected), (KEY, other)),
            unexpected => panic!("{unexpected:?}"),
        }
        std::fs::write(&path, b"short").unwrap();
        assert!(matches!(SignState::open(&path, KEY), Err(StorageError::SignStateDamaged { .. })));
    }

    #[test]
    fn a_store_torn_at_any_byte_leaves_the_payload_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sign-state");
        let mut state = SignState::create(&path, KEY).unwrap();
        for n in 1..=3_u8 {
            drop(state);
            let before = std::fs::read(&path).unwrap();
            state = SignState::open(&path, KEY).unwrap();
            let old = state.load().map(<[u8]>::to_vec);
            state.store(&[n; 40]).unwrap();
            drop(state);
            let after = std::fs::read(&path).unwrap();
            let start = (0..before.len()).find(|&i| before[i] != after[i]).unwrap();
            let end = (0..before.len()).rfind(|&i| before[i] != after[i]).unwrap() + 1;
            for cut in start..=end {
                let mut torn = before.clone();
                torn[start..cut].copy_from_slice(&after[start..cut]);
                std::fs::write(&path, &torn).unwrap();
                let state = SignState::open(&path, KEY).unwrap();
                if cut == end {
                    assert_eq!(state.load(), Some(&[n; 40][..]));
                } else {
                    assert_eq!(state.load(), old.as_deref(), "cut at {cut}");
                    assert_eq!(state.damaged_slot(), cut != start, "cut at {cut}");
                }
            }
            std::fs::write(&path, &after).unwrap();
            state = SignState::open(&path, KEY).unwrap();
        }
    }

    #[test]
    fn damage_to_both_slots_or_to_the_header_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sign-state");
        let mut state = SignState::create(&path, KEY).unwrap();
        state.store(b"one").unwrap();
        state.store(b"two").unwrap();
        drop(state);
        flip(&path, slot_range(1).start + SLOT_HEADER_BYTES);
        let state = SignState::open(&path, KEY).unwrap();
        assert_eq!(state.load(), Some(&b"one"[..]));
        assert!(state.damaged_slot());
        drop(state);
        flip(&path, slot_range(0).start);
        assert!(matches!(SignState::open(&path, KEY), Err(StorageError::SignStateDamaged { .. })));
        for offset in 0..HEADER_BYTES {
            flip(&path, offset);
            let refused = SignState::open(&path, KEY);
            assert!(matches!(refused, Err(StorageError::SignStateDamaged { .. })), "header byte {offset}: {refused:?}");
            flip(&path, offset);
        }
    }

    #[test]
    fn the_format_is_frozen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sign-state");
        let mut state = SignState::create(&path, KEY).unwrap();
        state.store(b"one").unwrap();
        state.store(b"two").unwrap();
        drop(state);
        let digest = hash::tagged(domain::SIGN_STATE, &[&std::fs::read(&path).unwrap()]);
        assert_eq!(digest.to_string(), "0xc61b52d53f2d834472a00ea8cca1342cd67788b7bcb388bbdd85d112c6481e60");
    }
}
