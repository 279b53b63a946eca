//! The vote log: what a sequencer must not forget, in the order in which it decided it.
//!
//! ```text
//! log/000000000007.log   base segment: begins with everything a checkpoint kept
//! log/000000000008.log   continues it
//! log/000000000009.log   the last one; records are appended here
//!
//! segment = header(56): magic(8) number(8) base(8) length-of-the-one-before(8) salt(16) checksum(8)
//!           record*
//! record  = magic(4) length(4) batch(8) checksums of these and of all(8, 8) payload(length)
//! ```
//!
//! # Writing
//!
//! [`VoteLog::append`] buffers, [`VoteLog::sync`] writes everything that is buffered with one write and one fdatasync (a
//! *batch*), so that the votes, certificates and blocks of one step share the cost. A record's payload is opaque.
//!
//! # What a crash can leave
//!
//! A crash may keep any part of the last batch, and nobody was promised any of it: it is cut off and reported
//! ([`Torn`]). Everything before it was synced, so anything wrong there is damage, and the log refuses to open rather
//! than pass over it. To tell the two apart, each record names the offset at which its batch begins. A batch is only
//! written after the one before it was synced. So if anything *valid* of a later batch follows a bad record, that
//! record was whole once. Checksums cover a random salt of the segment and the record's place, so that neither old disk
//! contents nor bytes inside a payload pass for a record.
//!
//! A new segment begins when the one before it is synced whole, and names its length: so one that lost its end is known
//! even if it lost whole records. Damage to the very last batch of the log after it was synced, and the loss of whole
//! batches at its end, look like a crash. The sign-state of the key stands against that.
//!
//! # Checkpoints
//!
//! [`VoteLog::checkpoint`] writes a base segment under a temporary name, syncs it, renames it, syncs the directory and
//! only then deletes the older segments. On opening, everything before the newest base segment is deleted. So at any
//! point the log holds the old records or the new ones.
//!
//! # A full disk
//!
//! What a failed write left is cut off, the records stay buffered, and [`VoteLog::sync`] can be called again when there
//! is space. After any other error of a sync nobody knows what the disk has: the log takes nothing more.

mod scan;
mod segment;

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use cascade_primitives::block::MAX_BLOCK_BYTES;

use crate::{
    error::{Result, StorageError},
    fs,
};
use segment::{HEADER_BYTES, Header, LogFile, RECORD_HEADER_BYTES, SegmentNumber};

pub use scan::Torn;

/// Largest record: the largest block, and certificates with it.
pub const MAX_RECORD_BYTES: usize = MAX_BLOCK_BYTES + (2 << 20);

/// A batch is written early when it gets longer than this.
const MAX_BATCH_BYTES: usize = 32 << 20;

/// Memory of a batch's buffer that is kept for the next one: fresh memory costs more than what is written into it.
const KEPT_BUFFER_BYTES: usize = 16 << 20;

/// How a log lays out its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// A segment that has this many bytes is followed by a new one.
    pub segment_bytes: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20 }
    }
}

/// What opening a log found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Records that were read.
    pub records: u64,
    /// Bytes of the segments that hold them.
    pub bytes: u64,
    /// The end that was cut off, if the last run was interrupted while writing.
    pub torn: Option<Torn>,
}

/// An append-only log with group commit.
#[derive(Debug)]
pub struct VoteLog {
    dir: PathBuf,
    options: LogOptions,
    /// The segments that hold the log, with their lengths; the last one is `current`.
    segments: BTreeMap<SegmentNumber, u64>,
    header: Header,
    path: PathBuf,
    current: Box<dyn LogFile>,
    /// Encoded records that are not synced yet, and how many.
    buffer: Vec<u8>,
    buffered: usize,
    failed: bool,
}

impl VoteLog {
    /// Opens the log of a directory, or makes a new one where there is none. Hands every record to `replay`, in order.
    ///
    /// The directory must be locked by the caller ([`DataDir`](crate::DataDir)).
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] with file and offset if anything but the end is damaged (`replay` has then seen the
    /// records before it), and what the system reports.
    pub fn open(
        dir: impl Into<PathBuf>,
        options: LogOptions,
        mut replay: impl FnMut(Bytes),
    ) -> Result<(Self, Recovery)> {
        let dir = dir.into();
        fs::create_dir(&dir)?;
        let files = scan::clean(&dir)?;
        let Some(&last) = files.keys().next_back() else {
            let log = Self::begin(dir, options)?;
            return Ok((log, Recovery::default()));
        };
        let mut recovery = Recovery::default();
        let mut segments = BTreeMap::new();
        let mut current = None;
        for (&number, (path, header)) in &files {
            let mut segment = scan::Segment::open(path, *header)?;
            recovery.records += segment.replay(number == last, &mut replay)?;
            recovery.bytes += segment.length();
            segments.insert(number, segment.length());
            if number == last {
                (recovery.torn, current) = (segment.torn(), Some((segment.into_file()?, path.clone(), *header)));
            }
        }
        let (file, path, header) = current.expect("the last segment is among them");
        let current: Box<dyn LogFile> = Box::new(file);
        let log =
            Self { dir, options, segments, header, path, current, buffer: Vec::new(), buffered: 0, failed: false };
        Ok((log, recovery))
    }

    /// Like [`VoteLog::open`], with the records in memory.
    ///
    /// # Errors
    /// As [`VoteLog::open`].
    pub fn open_collect(dir: impl Into<PathBuf>, options: LogOptions) -> Result<(Self, Vec<Bytes>, Recovery)> {
        let mut records = Vec::new();
        let (log, recovery) = Self::open(dir, options, |record| records.push(record))?;
        Ok((log, records, recovery))
    }

    fn begin(dir: PathBuf, options: LogOptions) -> Result<Self> {
        let header = Header::new(SegmentNumber(1), None)?;
        let (file, path, length) = segment::create(&dir, &header, std::iter::empty::<&[u8]>())?;
        fs::sync_dir(&dir)?;
        Ok(Self {
            dir,
            options,
            segments: BTreeMap::from([(header.number, length)]),
            header,
            path,
            current: Box::new(file),
            buffer: Vec::new(),
            buffered: 0,
            failed: false,
        })
    }

    /// Adds a record to the batch. It is durable when a following [`VoteLog::sync`] returns.
    ///
    /// # Errors
    /// [`StorageError::TooLarge`] above [`MAX_RECORD_BYTES`]; what the system reports where this starts a new segment
    /// or a batch is long enough to be written. The record is then not part of the batch.
    pub fn append(&mut self, record: &[u8]) -> Result<()> {
        self.append_with(|out| out.extend_from_slice(record))
    }

    /// Like [`VoteLog::append`], with a record that `encode` appends to what it is given and does not read. Spares a
    /// large record the way through a buffer of its own.
    ///
    /// # Errors
    /// As [`VoteLog::append`].
    pub fn append_with(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        self.check_usable()?;
        if self.buffer.is_empty() {
            self.roll_if_full()?;
        }
        let mut at = self.buffer.len();
        self.buffer.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
        encode(&mut self.buffer);
        if let Err(error) = segment::check_size(&self.path, self.buffer.get(at + RECORD_HEADER_BYTES..).unwrap_or(&[]))
        {
            self.buffer.truncate(at);
            return Err(error);
        }
        if self.buffer.len() > MAX_BATCH_BYTES && at > 0 {
            let record = self.buffer.split_off(at);
            self.sync()?;
            self.roll_if_full()?;
            self.buffer.extend_from_slice(&record);
            at = 0;
        }
        let start = self.length();
        segment::seal_record(&self.header, start, start + at as u64, &mut self.buffer[at..]);
        self.buffered += 1;
        Ok(())
    }

    /// Begins a new segment if the current one is full. Nothing may be buffered.
    fn roll_if_full(&mut self) -> Result<()> {
        if self.length() >= self.options.segment_bytes.max(HEADER_BYTES as u64 + 1) { self.roll() } else { Ok(()) }
    }

    /// Makes everything that was appended durable: one write, one fdatasync. Returns how many records that were.
    ///
    /// # Errors
    /// [`StorageError::DiskFull`]: the batch is kept, call again when there is space. Anything else that the system
    /// reports: the log takes nothing more ([`StorageError::Failed`]) and has to be opened again.
    pub fn sync(&mut self) -> Result<usize> {
        self.check_usable()?;
        if self.buffer.is_empty() {
            return Ok(0);
        }
        let start = self.length();
        let written = self.current.write_all_at(&self.buffer, start).and_then(|()| self.current.sync_data());
        if let Err(error) = written {
            let error = StorageError::io(&self.path, "append to", error);
            let full = matches!(error, StorageError::DiskFull { .. });
            // Nothing valid may stay behind the end, or a later, shorter batch would leave it there.
            let cut = self.current.set_len(start).and_then(|()| self.current.sync_data());
            self.failed = !full || cut.is_err();
            return Err(error);
        }
        self.segments.insert(self.header.number, start + self.buffer.len() as u64);
        let records = std::mem::take(&mut self.buffered);
        self.buffer.clear();
        self.buffer.shrink_to(KEPT_BUFFER_BYTES);
        Ok(records)
    }

    /// Replaces everything in the log, unsynced records too, by `records`; durable when it returns.
    ///
    /// # Errors
    /// [`StorageError::TooLarge`], [`StorageError::DiskFull`]: the log is then what it was, unsynced records too. If old
    /// segments cannot be deleted: the log is the new one, and the next opening deletes them. After anything else that the
    /// system reports it may take nothing more ([`StorageError::Failed`]).
    pub fn checkpoint<R: AsRef<[u8]>>(&mut self, records: impl IntoIterator<Item = R>) -> Result<()> {
        self.check_usable()?;
        let header = Header::new(self.header.number.next(), None)?;
        let old: Vec<_> = self.segments.keys().copied().collect();
        self.switch(header, records)?;
        self.buffer.clear();
        self.buffered = 0;
        for number in old {
            self.segments.remove(&number);
            let path = number.path(&self.dir);
            std::fs::remove_file(&path).map_err(|error| StorageError::io(&path, "delete", error))?;
        }
        fs::sync_dir(&self.dir)
    }

    /// Bytes in the log, without what is not synced yet. Grows until the next checkpoint.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments.values().sum()
    }

    /// Files that hold the log.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Records that wait for [`VoteLog::sync`].
    #[must_use]
    pub const fn unsynced(&self) -> usize {
        self.buffered
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn length(&self) -> u64 {
        self.segments.get(&self.header.number).copied().expect("the current segment has a length")
    }

    fn check_usable(&self) -> Result<()> {
        if self.failed { Err(StorageError::Failed { path: self.dir.clone() }) } else { Ok(()) }
    }

    fn roll(&mut self) -> Result<()> {
        let header = Header::new(self.header.number.next(), Some(self.length()))?;
        self.switch(header, std::iter::empty::<&[u8]>())
    }

    fn switch<R: AsRef<[u8]>>(&mut self, header: Header, records: impl IntoIterator<Item = R>) -> Result<()> {
        let (file, path, length): (File, _, _) = segment::create(&self.dir, &header, records.into_iter())?;
        if let Err(error) = fs::sync_dir(&self.dir) {
            // A crash decides whether the new segment exists. If it is a base, what the old one would take from here on
            // could vanish.
            self.failed = true;
            return Err(error);
        }
        self.segments.insert(header.number, length);
        (self.header, self.path, self.current) = (header, path, Box::new(file));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
