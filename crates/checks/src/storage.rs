//! What a node finds on its disk after it was away: vote log, sign-state, data directory.
//!
//! The fuzzer writes a log, damages it in one place and opens it again. What is checked is the log's promise: whatever
//! was synced before the last batch is there, in order, or the log refuses to open.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use cascade_primitives::{B256, BlsPublicKey, ChainId, Network};
use cascade_storage::{ChainIdentity, DataDir, LogOptions, SignState, StorageError, VoteLog};
use tempfile::TempDir;

use crate::source::Source;

const KEY: BlsPublicKey = BlsPublicKey([7; 48]);

thread_local! {
    static DIRECTORY: TempDir = {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        tempfile::Builder::new().prefix("cascade-checks").tempdir_in(parent).expect("a temporary directory")
    };
}

/// Runs `f` with a directory that is emptied afterwards; in memory where there is such a file system.
///
/// # Panics
/// If the directory cannot be made or emptied.
pub fn with_directory<T>(f: impl FnOnce(&Path) -> T) -> T {
    DIRECTORY.with(|directory| {
        let path = directory.path().join("one");
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a temporary directory");
        f(&path)
    })
}

/// Target `storage`.
///
/// # Panics
/// If a rule is broken.
pub fn check(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else { return };
    with_directory(|dir| match choice % 6 {
        0 | 1 => check_log(dir, &mut Source::new(bytes)),
        2 => check_any_segments(dir, &mut Source::new(bytes)),
        3 => check_sign_state(dir, &mut Source::new(bytes)),
        4 => check_any_sign_state(dir, bytes),
        _ => check_data_directory(dir, bytes),
    });
}

/// What happened to one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    Nothing,
    /// One byte was changed.
    Byte,
    /// More bytes were changed, perhaps of several batches, or some were added at the end.
    Content,
    /// Bytes are missing at the end.
    Cut,
}

/// Changes one file in one place.
fn damage(path: &Path, source: &mut Source<'_>) -> Damage {
    let before = fs::read(path).expect("the file is there");
    let mut after = before.clone();
    let at = source.below(after.len().max(1));
    match source.below(5) {
        0 => return Damage::Nothing,
        1 => {
            let mask = source.byte();
            if let Some(byte) = after.get_mut(at) {
                *byte ^= mask;
            }
        }
        2 => after.truncate(at),
        3 => after.extend_from_slice(&source.bytes(200)),
        _ => {
            let with = source.bytes(64);
            let end = after.len().min(at + with.len());
            after[at..end].copy_from_slice(&with[..end - at]);
        }
    }
    if after == before {
        return Damage::Nothing;
    }
    fs::write(path, &after).expect("the file can be written");
    match after.iter().zip(&before).filter(|(a, b)| a != b).count() {
        _ if after.len() < before.len() => Damage::Cut,
        1 if after.len() == before.len() => Damage::Byte,
        _ => Damage::Content,
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(dir).expect("the directory is there").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

fn check_log(dir: &Path, source: &mut Source<'_>) {
    let options = LogOptions { segment_bytes: 100 + 10 * source.number().min(1000) };
    let (mut log, found, _) = VoteLog::open_collect(dir, options).expect("an empty directory");
    assert!(found.is_empty());
    let mut written: Vec<Bytes> = Vec::new();
    let mut before_last = 0;
    for _ in 0..1 + source.below(12) {
        if source.byte() == 0xaa {
            let kept = written.split_off(written.len() / 2);
            log.checkpoint(&kept).expect("a checkpoint");
            // All of a checkpoint is one batch.
            (written, before_last) = (kept, 0);
            continue;
        }
        let before = written.len();
        for record in source.list(4, |s| s.bytes(120)) {
            log.append(&record).expect("an append");
            written.push(record);
        }
        log.sync().expect("a sync");
        if written.len() > before {
            before_last = before;
        }
    }
    drop(log);
    let files = segments(dir);
    let last = files.len() - 1;
    let place = source.below(files.len());
    let damaged = damage(&files[place], source);
    let (records, torn) = match VoteLog::open_collect(dir, options) {
        Ok((_, records, recovery)) => (records, recovery.torn),
        Err(error) => {
            assert_ne!(damaged, Damage::Nothing, "an undamaged log is refused: {error}");
            return assert!(matches!(error, StorageError::Corrupt { .. }), "{error}");
        }
    };
    assert!(place == last || damaged == Damage::Nothing, "{damaged:?} of segment {place} of {last} is passed over");
    assert!(written.starts_with(&records), "{damaged:?} of segment {place} of {last}: the log has a gap or lies");
    match damaged {
        Damage::Nothing => assert!(records == written && torn.is_none()),
        // A batch that was synced is known by the next one; nothing tells of batches that were cut off the end.
        Damage::Byte => assert!(records.len() >= before_last, "{place} of {last}: synced records are passed over"),
        Damage::Content | Damage::Cut => {}
    }
    let (mut log, again, _) = VoteLog::open_collect(dir, options).expect("a log that was opened before");
    assert_eq!(again, records, "opening changes nothing");
    log.append(b"next").and_then(|()| log.sync()).expect("it goes on");
    drop(log);
    let (_, again, recovery) = VoteLog::open_collect(dir, options).expect("a log that was written to");
    assert_eq!((again.len(), recovery.torn), (records.len() + 1, None));
}

/// Files that never were a log.
fn check_any_segments(dir: &Path, source: &mut Source<'_>) {
    for number in 1..=1 + source.below(3) {
        let length = source.below(2000);
        fs::write(dir.join(format!("{number:012}.log")), source.bytes(length)).expect("a file");
    }
    if let Ok((_, records, _)) = VoteLog::open_collect(dir, LogOptions::default()) {
        drop(records);
        assert!(VoteLog::open_collect(dir, LogOptions::default()).is_ok(), "opening changes nothing");
    }
}

fn check_sign_state(dir: &Path, source: &mut Source<'_>) {
    let path = dir.join("sign-state");
    let mut state = SignState::create(&path, KEY).expect("an empty directory");
    let mut stored: Vec<Option<Vec<u8>>> = vec![None];
    for payload in source.list(5, |s| s.bytes(300)) {
        state.store(&payload).expect("a store");
        stored.push(Some(payload.to_vec()));
    }
    drop(state);
    let damaged = damage(&path, source);
    let opened = SignState::open(&path, KEY);
    let newest = stored.last().expect("at least the empty one");
    match opened {
        Ok(state) if damaged == Damage::Nothing => {
            assert_eq!((state.load(), state.damaged_slot()), (newest.as_deref(), false));
        }
        Ok(state) => {
            let found = state.load().map(<[u8]>::to_vec);
            let before = stored.len().checked_sub(2).map(|place| &stored[place]);
            assert!(found == *newest || (before == Some(&found) && state.damaged_slot()), "{found:?} after {stored:?}");
        }
        Err(error) => assert_ne!(damaged, Damage::Nothing, "{error}"),
    }
}

fn check_any_sign_state(dir: &Path, bytes: &[u8]) {
    let path = dir.join("sign-state");
    drop(SignState::create(&path, KEY).expect("an empty directory"));
    let mut image = fs::read(&path).expect("the file is there");
    let (at, bytes) = match bytes {
        [low, high, rest @ ..] => (usize::from(u16::from_le_bytes([*low, *high])) % image.len(), rest),
        _ => return,
    };
    let end = image.len().min(at + bytes.len());
    image[at..end].copy_from_slice(&bytes[..end - at]);
    fs::write(&path, &image).expect("the file can be written");
    if let Ok(state) = SignState::open(&path, KEY) {
        assert!(state.load().is_none_or(|payload| payload.len() <= bytes.len()), "a payload out of nothing");
    }
}

fn check_data_directory(dir: &Path, bytes: &[u8]) {
    let identity =
        ChainIdentity { network: Network::Regtest, chain_id: ChainId(20252), genesis_hash: B256::repeat_byte(3) };
    fs::write(dir.join("VERSION"), bytes).expect("a file");
    let peeked = DataDir::peek(dir);
    let opened = DataDir::open(dir, &identity);
    match (peeked, opened) {
        (Ok(found), Ok(_)) => assert_eq!(found, Some(identity)),
        (Ok(found), Err(error)) => {
            assert_ne!(found, Some(identity), "{error}");
            assert!(matches!(error, StorageError::Foreign { .. }), "{error}");
        }
        (Err(peeked), Err(opened)) => assert_eq!(peeked.to_string(), opened.to_string()),
        (Err(error), Ok(_)) => panic!("it is taken although it cannot be read: {error}"),
    }
    assert_eq!(fs::read(dir.join("VERSION")).expect("the file is there"), bytes, "it is left as it was");
}
