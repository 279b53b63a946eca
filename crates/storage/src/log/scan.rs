//! Reading a log back, and telling an unfinished end from damage.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::segment::{HEADER_BYTES, Header, RECORD_HEADER_BYTES, RECORD_MAGIC, RecordHeader, SegmentNumber};
use crate::{
    error::{Result, StorageError},
    fs,
};

/// The end of the log that was cut off because the last run was interrupted while writing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The segment's file.
    pub path: PathBuf,
    /// Where it was cut.
    pub offset: u64,
    /// Bytes that were cut off.
    pub bytes: u64,
    /// What was wrong there.
    pub what: String,
}

/// Finds the segments that hold the log and deletes what an interrupted checkpoint left.
pub(super) fn clean(dir: &Path) -> Result<BTreeMap<SegmentNumber, (PathBuf, Header)>> {
    let failed = |error| StorageError::io(dir, "list", error);
    let mut segments = BTreeMap::new();
    let mut void = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if let Some(number) = SegmentNumber::of_name(name) {
            let header = read_header(&path, number)?;
            segments.insert(number, (path, header));
        } else if name.ends_with(".tmp") {
            void.push(path);
        }
    }
    let base = segments.iter().rev().find(|(_, (_, header))| header.is_base()).map(|(&number, _)| number);
    match base {
        Some(base) => {
            let live = segments.split_off(&base);
            void.extend(std::mem::replace(&mut segments, live).into_values().map(|(path, _)| path));
        }
        None if segments.is_empty() => {}
        None => return Err(StorageError::corrupt(dir, 0, "the segment that the log begins with is missing")),
    }
    for path in &void {
        std::fs::remove_file(path).map_err(|error| StorageError::io(path, "delete", error))?;
    }
    if !void.is_empty() {
        fs::sync_dir(dir)?;
    }
    let numbers: Vec<_> = segments.keys().copied().collect();
    for pair in numbers.windows(2) {
        if pair[0].next() != pair[1] {
            let missing = pair[0].next().path(dir);
            return Err(StorageError::corrupt(missing, 0, "the segment is missing, and later ones exist"));
        }
    }
    check_lengths(&segments)?;
    Ok(segments)
}

/// A segment was synced whole before the next one named its length: one that ends earlier, be it at the border of two
/// records, lost what was promised, and a longer one holds what no log wrote.
fn check_lengths(segments: &BTreeMap<SegmentNumber, (PathBuf, Header)>) -> Result<()> {
    for ((path, _), (_, next)) in segments.values().zip(segments.values().skip(1)) {
        let length = std::fs::metadata(path).map_err(|error| StorageError::io(path, "read", error))?.len();
        if next.previous != Some(length) {
            let end = next.previous.unwrap_or(0).min(length);
            return Err(StorageError::corrupt(path, end, "the segment has another length than the one after it says"));
        }
    }
    Ok(())
}

/// Segments get their final name only after their header is synced, so a bad header is damage.
fn read_header(path: &Path, number: SegmentNumber) -> Result<Header> {
    let mut bytes = [0; HEADER_BYTES];
    let mut file = File::open(path).map_err(|error| StorageError::io(path, "open", error))?;
    match file.read_exact(&mut bytes) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            return Err(StorageError::corrupt(path, 0, "the header of the segment is incomplete"));
        }
        other => other.map_err(|error| StorageError::io(path, "read", error))?,
    }
    Header::decode(&bytes)
        .filter(|header| header.number == number)
        .ok_or_else(|| StorageError::corrupt(path, 0, "the header of the segment is wrong"))
}

/// A segment that is being read.
pub(super) struct Segment {
    path: PathBuf,
    header: Header,
    reader: BufReader<File>,
    length: u64,
    torn: Option<Torn>,
}

impl Segment {
    pub(super) fn open(path: &Path, header: Header) -> Result<Self> {
        let failed = |error| StorageError::io(path, "open", error);
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut reader = BufReader::with_capacity(1 << 16, file);
        reader.seek(SeekFrom::Start(HEADER_BYTES as u64)).map_err(failed)?;
        Ok(Self { path: path.to_owned(), header, reader, length, torn: None })
    }

    /// Hands over every record; returns how many. In the last segment an unfinished end is cut off.
    pub(super) fn replay(&mut self, last: bool, visit: &mut impl FnMut(Bytes)) -> Result<u64> {
        let mut offset = HEADER_BYTES as u64;
        let mut records = 0;
        while offset < self.length {
            match self.read_record(offset)? {
                Ok(payload) => {
                    offset += (RECORD_HEADER_BYTES + payload.len()) as u64;
                    records += 1;
                    visit(payload);
                }
                Err(what) if last && !self.a_later_batch_follows(offset)? => {
                    self.cut(offset, what)?;
                    break;
                }
                Err(what) => return Err(StorageError::corrupt(&self.path, offset, what)),
            }
        }
        Ok(records)
    }

    pub(super) const fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn torn(&self) -> Option<Torn> {
        self.torn.clone()
    }

    pub(super) fn into_file(self) -> Result<File> {
        Ok(self.reader.into_inner())
    }

    /// The record at `offset`, where the reader stands; or what is wrong with it.
    fn read_record(&mut self, offset: u64) -> Result<std::result::Result<Bytes, &'static str>> {
        let left = self.length - offset;
        if left < RECORD_HEADER_BYTES as u64 {
            return Ok(Err("the record is incomplete"));
        }
        let mut head = [0; RECORD_HEADER_BYTES];
        self.read(&mut head)?;
        let record = match RecordHeader::decode(&head) {
            Ok(record) => record,
            Err(what) => return Ok(Err(what)),
        };
        if !record.head_matches(&self.header, offset) {
            return Ok(Err("the checksum of the record's header is wrong"));
        }
        if record.length as u64 > left - RECORD_HEADER_BYTES as u64 {
            return Ok(Err("the record is incomplete"));
        }
        let mut payload = vec![0; record.length];
        self.read(&mut payload)?;
        Ok(if record.matches(&self.header, offset, &payload) {
            Ok(payload.into())
        } else {
            Err("the checksum of the record is wrong")
        })
    }

    fn read(&mut self, into: &mut [u8]) -> Result<()> {
        self.reader.read_exact(into).map_err(|error| StorageError::io(&self.path, "read", error))
    }

    /// Whether a valid record of a batch that began after `bad` follows, which proves that `bad` was synced.
    fn a_later_batch_follows(&mut self, bad: u64) -> Result<bool> {
        let failed = |error| StorageError::io(&self.path, "read", error);
        self.reader.seek(SeekFrom::Start(bad)).map_err(failed)?;
        let mut rest = Vec::new();
        self.reader.by_ref().take(self.length - bad).read_to_end(&mut rest).map_err(failed)?;
        for at in 1..rest.len().saturating_sub(RECORD_HEADER_BYTES - 1) {
            if rest[at..at + 4] != RECORD_MAGIC {
                continue;
            }
            let head = rest[at..at + RECORD_HEADER_BYTES].try_into().expect("the length of a record header");
            let Ok(record) = RecordHeader::decode(head) else { continue };
            let payload = at + RECORD_HEADER_BYTES..at + RECORD_HEADER_BYTES + record.length;
            let offset = bad + at as u64;
            // The fixed part has its own checksum, so that a payload full of magic numbers costs no long hashes.
            if record.batch > bad
                && payload.end <= rest.len()
                && record.head_matches(&self.header, offset)
                && record.matches(&self.header, offset, &rest[payload])
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn cut(&mut self, offset: u64, what: &str) -> Result<()> {
        let file = self.reader.get_ref();
        file.set_len(offset)
            .and_then(|()| file.sync_all())
            .map_err(|error| StorageError::io(&self.path, "cut the end off", error))?;
        let bytes = self.length - offset;
        self.torn = Some(Torn { path: self.path.clone(), offset, bytes, what: what.to_owned() });
        self.length = offset;
        Ok(())
    }
}
