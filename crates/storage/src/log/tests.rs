use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use proptest::prelude::*;

use super::{segment::RECORD_HEADER_BYTES, *};

const SMALL: LogOptions = LogOptions { segment_bytes: 4096 };
const LARGE: LogOptions = LogOptions { segment_bytes: 1 << 30 };

fn record(n: usize, length: usize) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(n % 251).unwrap(); length];
    bytes.extend_from_slice(&n.to_le_bytes());
    bytes
}

fn open(dir: &Path, options: LogOptions) -> (VoteLog, Vec<Bytes>, Recovery) {
    VoteLog::open_collect(dir, options).unwrap()
}

fn only_file(dir: &Path) -> PathBuf {
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.pop().unwrap()
}

/// Writes the batches and returns the file's content and the offset at which each batch ends.
fn write_batches(dir: &Path, batches: &[Vec<Vec<u8>>]) -> (PathBuf, Vec<u8>, Vec<usize>) {
    let (mut log, _, _) = open(dir, LARGE);
    let mut ends = vec![HEADER_BYTES];
    for batch in batches {
        for record in batch {
            log.append(record).unwrap();
        }
        assert_eq!(log.sync().unwrap(), batch.len());
        ends.push(usize::try_from(log.bytes()).unwrap());
    }
    let path = only_file(dir);
    let content = std::fs::read(&path).unwrap();
    (path, content, ends)
}

fn three_batches() -> Vec<Vec<Vec<u8>>> {
    vec![
        vec![record(1, 10), record(2, 0)],
        vec![record(3, 30), record(4, 7), record(5, 1)],
        vec![record(6, 5), record(7, 20)],
    ]
}

#[test]
fn records_come_back_in_order_over_many_segments() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for round in 0..4 {
        let (mut log, records, recovery) = open(dir.path(), SMALL);
        assert_eq!(records, expected);
        assert_eq!(recovery.records as usize, expected.len());
        assert_eq!(recovery.torn, None);
        for n in 0..50 {
            let bytes = record(round * 100 + n, n * 7);
            log.append(&bytes).unwrap();
            expected.push(Bytes::from(bytes));
            if n % 3 == 0 {
                log.sync().unwrap();
            }
        }
        log.sync().unwrap();
        assert_eq!(log.sync().unwrap(), 0);
    }
    assert!(open(dir.path(), SMALL).0.segments() > 5);
}

#[test]
fn a_batch_that_grows_too_long_is_written_early_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _, _) = open(dir.path(), LARGE);
    let records: Vec<Vec<u8>> = (0..5_u8).map(|n| vec![n; MAX_BATCH_BYTES / 4 + usize::from(n)]).collect();
    for record in &records {
        log.append_with(|out| out.extend_from_slice(record)).unwrap();
    }
    assert_eq!(log.unsynced(), records.len() - 3, "three fit a batch beside their headers, four do not");
    log.sync().unwrap();
    drop(log);
    assert_eq!(open(dir.path(), LARGE).1, records);
}

#[test]
fn what_was_not_synced_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _, _) = open(dir.path(), LARGE);
    log.append(b"kept").unwrap();
    log.sync().unwrap();
    log.append(b"lost").unwrap();
    assert_eq!(log.unsynced(), 1);
    drop(log);
    assert_eq!(open(dir.path(), LARGE).1, vec![Bytes::from_static(b"kept")]);
}

#[test]
fn a_log_cut_at_any_byte_keeps_every_whole_record_and_goes_on() {
    let source = tempfile::tempdir().unwrap();
    let batches = three_batches();
    let (path, content, _) = write_batches(source.path(), &batches);
    let all: Vec<_> = batches.into_iter().flatten().collect();
    let mut boundaries = vec![HEADER_BYTES];
    for record in &all {
        boundaries.push(boundaries.last().unwrap() + RECORD_HEADER_BYTES + record.len());
    }
    for cut in HEADER_BYTES..=content.len() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(path.file_name().unwrap()), &content[..cut]).unwrap();
        let whole = boundaries.iter().filter(|&&end| end <= cut).count() - 1;
        let (mut log, records, recovery) = open(dir.path(), LARGE);
        assert_eq!(records, all[..whole], "cut at {cut}");
        let torn = recovery.torn.map(|torn| (torn.offset as usize, torn.bytes as usize));
        let expected = (boundaries[whole] != cut).then(|| (boundaries[whole], cut - boundaries[whole]));
        assert_eq!(torn, expected, "cut at {cut}");
        log.append(b"next").unwrap();
        log.sync().unwrap();
        drop(log);
        let (_, records, recovery) = open(dir.path(), LARGE);
        assert_eq!(records.len(), whole + 1);
        assert_eq!(records[whole], &b"next"[..]);
        assert_eq!(recovery.torn, None);
    }
}

#[test]
fn a_flipped_bit_is_damage_unless_it_is_in_the_last_batch() {
    let source = tempfile::tempdir().unwrap();
    let (path, content, ends) = write_batches(source.path(), &three_batches());
    for at in 0..content.len() {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join(path.file_name().unwrap());
        let mut bytes = content.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&copy, &bytes).unwrap();
        match VoteLog::open_collect(dir.path(), LARGE) {
            Err(StorageError::Corrupt { path, offset, .. }) => {
                assert!(at < ends[2], "byte {at} of the last batch was called damage");
                assert_eq!(path, copy);
                assert!(offset as usize <= at, "damage at {at} was placed at {offset}");
                assert_eq!(std::fs::read(&copy).unwrap(), bytes, "a damaged log must be left as it is");
            }
            Ok((_, records, recovery)) => {
                assert!(at >= ends[2], "damage at byte {at} was passed over");
                assert!((5..7).contains(&records.len()));
                assert!(recovery.torn.is_some());
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn pages_of_the_last_batch_that_never_reached_the_disk_are_an_unfinished_end() {
    // A crash may keep the later pages of a write and lose the earlier ones.
    let source = tempfile::tempdir().unwrap();
    let batches = vec![vec![record(1, 10)], (2..10).map(|n| record(n, 3000)).collect()];
    let (path, mut content, ends) = write_batches(source.path(), &batches);
    let lost = 4096..8192;
    assert!(ends[1] < lost.start && lost.end < content.len());
    content[lost].fill(0);
    std::fs::write(&path, &content).unwrap();
    let (_, records, recovery) = open(source.path(), LARGE);
    assert_eq!(records, [record(1, 10), record(2, 3000)]);
    assert!(recovery.torn.is_some());
}

#[test]
fn a_payload_that_contains_a_record_is_not_taken_for_one() {
    // The payload is the whole file of another log, records included.
    let other = tempfile::tempdir().unwrap();
    let (_, content, _) = write_batches(other.path(), &three_batches());
    let dir = tempfile::tempdir().unwrap();
    let (path, mut bytes, _) = write_batches(dir.path(), &[vec![record(1, 1)], vec![content]]);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(path, bytes).unwrap();
    assert_eq!(open(dir.path(), LARGE).1, [record(1, 1)]);
}

#[test]
fn damage_at_the_end_of_an_earlier_segment_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _, _) = open(dir.path(), SMALL);
    for n in 0..100 {
        log.append(&record(n, 100)).unwrap();
        log.sync().unwrap();
    }
    assert!(log.segments() > 2);
    drop(log);
    let first = SegmentNumber(1).path(dir.path());
    let content = std::fs::read(&first).unwrap();
    // At the border of two records too, where nothing in what is left is wrong, and with a zero more than was written.
    let one = RECORD_HEADER_BYTES + record(0, 100).len();
    assert_eq!((content.len() - HEADER_BYTES) % one, 0);
    for length in [content.len() - 1, content.len() - one, HEADER_BYTES, content.len() + 1] {
        let mut damaged = content.clone();
        damaged.resize(length, 0);
        std::fs::write(&first, &damaged).unwrap();
        let refused = VoteLog::open_collect(dir.path(), SMALL);
        assert!(matches!(refused, Err(StorageError::Corrupt { path, .. }) if path == first), "{length}");
        assert_eq!(std::fs::read(&first).unwrap(), damaged, "a damaged log must be left as it is");
    }
    std::fs::write(&first, &content).unwrap();
    let second = SegmentNumber(2).path(dir.path());
    std::fs::remove_file(&second).unwrap();
    assert!(
        matches!(VoteLog::open_collect(dir.path(), SMALL), Err(StorageError::Corrupt { path, .. }) if path == second)
    );
    std::fs::remove_file(&first).unwrap();
    assert!(matches!(VoteLog::open_collect(dir.path(), SMALL), Err(StorageError::Corrupt { .. })));
}

#[test]
fn a_checkpoint_replaces_everything() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _, _) = open(dir.path(), SMALL);
    for n in 0..100 {
        log.append(&record(n, 100)).unwrap();
        log.sync().unwrap();
    }
    log.append(b"never synced").unwrap();
    log.checkpoint([b"a".as_slice(), b"b"]).unwrap();
    assert_eq!((log.segments(), log.unsynced()), (1, 0));
    log.append(b"c").unwrap();
    log.sync().unwrap();
    drop(log);
    let (_, records, recovery) = open(dir.path(), SMALL);
    assert_eq!(records, [&b"a"[..], b"b", b"c"]);
    assert_eq!(recovery.torn, None);
    only_file(dir.path());
}

/// Copies a directory's files, which is what a crash at this moment would leave.
fn snapshot(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_crash_at_any_step_of_a_checkpoint_leaves_the_old_log_or_the_new_one() {
    let before = tempfile::tempdir().unwrap();
    let (mut log, _, _) = open(before.path(), SMALL);
    for n in 0..100 {
        log.append(&record(n, 100)).unwrap();
        log.sync().unwrap();
    }
    let after = tempfile::tempdir().unwrap();
    snapshot(before.path(), after.path());
    drop(log);
    let (mut log, old, _) = open(after.path(), SMALL);
    log.checkpoint([b"new"]).unwrap();
    drop(log);
    let base = only_file(after.path());
    let content = std::fs::read(&base).unwrap();

    // While the new segment is being written under its temporary name.
    for cut in 0..=content.len() {
        let dir = tempfile::tempdir().unwrap();
        snapshot(before.path(), dir.path());
        std::fs::write(dir.path().join(base.with_extension("tmp").file_name().unwrap()), &content[..cut]).unwrap();
        let (log, records, _) = open(dir.path(), SMALL);
        assert_eq!(records, old);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), log.segments());
    }
    // After it has its name, with any of the older segments still there, in whatever state.
    let olds: Vec<_> = std::fs::read_dir(before.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    for kept in 0..1_usize << olds.len() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(&base, dir.path().join(base.file_name().unwrap())).unwrap();
        for (i, path) in olds.iter().enumerate().filter(|(i, _)| kept >> i & 1 == 1) {
            let _ = i;
            std::fs::copy(path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
        let (_, records, _) = open(dir.path(), SMALL);
        assert_eq!(records, [&b"new"[..]]);
        only_file(dir.path());
    }
}

#[test]
fn a_record_over_the_limit_is_refused_and_one_at_the_limit_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _, _) = open(dir.path(), LARGE);
    let error = log.append(&vec![0; MAX_RECORD_BYTES + 1]).unwrap_err();
    assert!(matches!(error, StorageError::TooLarge { limit: MAX_RECORD_BYTES, .. }), "{error}");
    assert!(matches!(log.checkpoint([vec![0; MAX_RECORD_BYTES + 1]]), Err(StorageError::TooLarge { .. })));
    log.append(b"small").unwrap();
    log.append(&vec![1; MAX_RECORD_BYTES]).unwrap();
    log.sync().unwrap();
    drop(log);
    let (_, records, _) = open(dir.path(), LARGE);
    assert_eq!(records.iter().map(Bytes::len).collect::<Vec<_>>(), [5, MAX_RECORD_BYTES]);
}

/// A real file on a disk of limited size, which may also fail to sync.
#[derive(Debug)]
struct SmallDisk {
    file: File,
    capacity: Arc<AtomicU64>,
    broken: Arc<AtomicBool>,
}

impl LogFile for SmallDisk {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let space = self.capacity.load(Ordering::Relaxed).saturating_sub(offset);
        let fits = usize::try_from(space).unwrap().min(bytes.len());
        LogFile::write_all_at(&self.file, &bytes[..fits], offset)?;
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.broken.load(Ordering::Relaxed) { Err(io::Error::other("I/O error")) } else { self.file.sync_data() }
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }
}

fn on_small_disk(log: &mut VoteLog, capacity: u64) -> (Arc<AtomicU64>, Arc<AtomicBool>) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&log.path).unwrap();
    let (capacity, broken) = (Arc::new(AtomicU64::new(capacity)), Arc::new(AtomicBool::new(false)));
    log.current = Box::new(SmallDisk { file, capacity: Arc::clone(&capacity), broken: Arc::clone(&broken) });
    (capacity, broken)
}

#[test]
fn a_full_disk_loses_nothing_and_the_log_goes_on_when_there_is_space() {
    for capacity in HEADER_BYTES as u64..400 {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _, _) = open(dir.path(), LARGE);
        let (space, _) = on_small_disk(&mut log, capacity);
        let mut expected = Vec::new();
        let mut full = false;
        for n in 0..4 {
            log.append(&record(n, 100)).unwrap();
            expected.push(record(n, 100));
            match log.sync() {
                Ok(_) => {}
                Err(StorageError::DiskFull { path }) => {
                    full = true;
                    assert_eq!(path, log.path);
                    // What is on disk is whole even now.
                    let copy = tempfile::tempdir().unwrap();
                    snapshot(dir.path(), copy.path());
                    let (_, records, recovery) = open(copy.path(), LARGE);
                    assert_eq!(records, expected[..expected.len() - log.unsynced()]);
                    assert_eq!(recovery.torn, None);
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert!(full);
        space.store(u64::MAX, Ordering::Relaxed);
        log.sync().unwrap();
        drop(log);
        assert_eq!(open(dir.path(), LARGE).1, expected);
    }
}

#[test]
fn after_a_failed_sync_the_log_takes_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _, _) = open(dir.path(), LARGE);
    let (_, broken) = on_small_disk(&mut log, u64::MAX);
    log.append(b"one").unwrap();
    log.sync().unwrap();
    log.append(b"two").unwrap();
    broken.store(true, Ordering::Relaxed);
    assert!(matches!(log.sync(), Err(StorageError::Io { .. })));
    broken.store(false, Ordering::Relaxed);
    assert!(matches!(log.sync(), Err(StorageError::Failed { .. })));
    assert!(matches!(log.append(b"three"), Err(StorageError::Failed { .. })));
    assert!(matches!(log.checkpoint([b"x"]), Err(StorageError::Failed { .. })));
    drop(log);
    assert_eq!(open(dir.path(), LARGE).1, [&b"one"[..]]);
}

#[test]
fn the_format_is_frozen() {
    let header = Header { number: SegmentNumber(3), previous: None, salt: [9; 16] };
    let mut bytes = header.encode().to_vec();
    segment::encode_record(&header, 56, 56, b"vote", &mut bytes);
    segment::encode_record(&header, 56, 92, b"", &mut bytes);
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    let segment = "434153434c4f4703030000000000000001000000000000000000000000000000\
                   09090909090909090909090909090909d2b19aacad2107ef";
    let vote = "ca5c4ec0040000003800000000000000f7e36b929bf40bb851a34525c55c2d3d766f7465";
    let empty = "ca5c4ec0000000003800000000000000f704ad6c63f66b79aa2195ce1fa570a7";
    assert_eq!(hex, format!("{segment}{vote}{empty}"));
    let next = Header { number: SegmentNumber(4), previous: Some(0x0123_4567_89ab), salt: [9; 16] };
    assert_eq!(next.encode()[16..32], [0, 0, 0, 0, 0, 0, 0, 0, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01, 0, 0]);
    for header in [header, next] {
        assert_eq!(Header::decode(&header.encode()), Some(header));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append(usize),
    Sync,
    Checkpoint(usize),
    Crash,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0_usize..3000).prop_map(Step::Append),
        4 => Just(Step::Sync),
        1 => (0_usize..4).prop_map(Step::Checkpoint),
        1 => Just(Step::Crash),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever the order of calls and crashes, the log holds what was synced, and nothing else.
    #[test]
    fn the_log_holds_exactly_what_was_synced(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _, _) = open(dir.path(), SMALL);
        let (mut synced, mut waiting) = (Vec::new(), Vec::new());
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Append(length) => {
                    log.append(&record(n, length)).unwrap();
                    waiting.push(record(n, length));
                }
                Step::Sync => {
                    log.sync().unwrap();
                    synced.append(&mut waiting);
                }
                Step::Checkpoint(keep) => {
                    waiting.clear();
                    synced.drain(..synced.len().saturating_sub(keep));
                    log.checkpoint(&synced).unwrap();
                }
                Step::Crash | Step::Reopen => {
                    if matches!(step, Step::Reopen) {
                        log.sync().unwrap();
                        synced.append(&mut waiting);
                    }
                    waiting.clear();
                    drop(log);
                    let (opened, records, recovery) = open(dir.path(), SMALL);
                    prop_assert_eq!(&records, &synced);
                    prop_assert_eq!(recovery.torn, None);
                    log = opened;
                }
            }
        }
    }
}
