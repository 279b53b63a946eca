//! One file of the log: its header, its records, and how it comes into being.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use cascade_primitives::{domain, hash};

use super::MAX_RECORD_BYTES;
use crate::error::{Result, StorageError};

pub(super) const HEADER_BYTES: usize = 56;
pub(super) const RECORD_HEADER_BYTES: usize = 32;
pub(super) const RECORD_MAGIC: [u8; 4] = [0xca, 0x5c, 0x4e, 0xc0];
const SEGMENT_MAGIC: &[u8; 8] = b"CASCLOG\x03";
const CHECKSUM_BYTES: usize = 8;
const SALT_BYTES: usize = 16;

/// The number of a segment, rising from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SegmentNumber(pub(super) u64);

impl SegmentNumber {
    pub(super) const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    pub(super) fn path(self, dir: &Path) -> PathBuf {
        dir.join(format!("{:012}.log", self.0))
    }

    /// The number that a file name stands for, if it is the name of a segment.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        let digits = name.strip_suffix(".log").filter(|digits| digits.len() == 12)?;
        if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok().map(Self) } else { None }
    }
}

/// What a segment is and what its checksums are bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) number: SegmentNumber,
    /// Length of the segment before it in bytes; none in a base segment, where the log starts and older segments are void.
    pub(super) previous: Option<u64>,
    pub(super) salt: [u8; SALT_BYTES],
}

impl Header {
    pub(super) fn new(number: SegmentNumber, previous: Option<u64>) -> Result<Self> {
        let mut salt = [0; SALT_BYTES];
        getrandom::fill(&mut salt).map_err(|error| StorageError::Io {
            path: "the system's random source".into(),
            action: "read",
            source: io::Error::other(error.to_string()),
        })?;
        Ok(Self { number, previous, salt })
    }

    pub(super) const fn is_base(&self) -> bool {
        self.previous.is_none()
    }

    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..8].copy_from_slice(SEGMENT_MAGIC);
        out[8..16].copy_from_slice(&self.number.0.to_le_bytes());
        out[16..24].copy_from_slice(&u64::from(self.is_base()).to_le_bytes());
        out[24..32].copy_from_slice(&self.previous.unwrap_or(0).to_le_bytes());
        out[32..48].copy_from_slice(&self.salt);
        let checksum = hash::tagged(domain::LOG_RECORD, &[&out[..48]]);
        out[48..].copy_from_slice(&checksum[..CHECKSUM_BYTES]);
        out
    }

    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let number = u64::from_le_bytes(bytes[8..16].try_into().expect("8 bytes"));
        let base = u64::from_le_bytes(bytes[16..24].try_into().expect("8 bytes")) == 1;
        let previous = u64::from_le_bytes(bytes[24..32].try_into().expect("8 bytes"));
        let salt = bytes[32..48].try_into().expect("16 bytes");
        let header = Self { number: SegmentNumber(number), previous: (!base).then_some(previous), salt };
        (header.encode() == *bytes).then_some(header)
    }

    /// Of a record's fixed part if there is no payload, else of both. A payload goes in as its CRC-32: blocks are megabytes,
    /// and SHA-256 over all of a block cost a node 3% of its time under load. Against accidents a CRC is enough; that
    /// nobody makes up a record stands on the salt in the hash around it.
    fn checksum(&self, offset: u64, head: &[u8], payload: Option<&[u8]>) -> [u8; CHECKSUM_BYTES] {
        let (number, offset) = (self.number.0.to_le_bytes(), offset.to_le_bytes());
        let (kind, crc) = ([u8::from(payload.is_some())], payload.map_or(0, crc32fast::hash).to_le_bytes());
        let hash = hash::tagged(domain::LOG_RECORD, &[&self.salt, &number, &offset, &kind, head, &crc]);
        hash[..CHECKSUM_BYTES].try_into().expect("8 of 32 bytes")
    }
}

/// The fixed part of a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordHeader {
    pub(super) length: usize,
    /// Offset of the first record of its batch.
    pub(super) batch: u64,
    head: [u8; 16],
    head_checksum: [u8; CHECKSUM_BYTES],
    checksum: [u8; CHECKSUM_BYTES],
}

impl RecordHeader {
    /// Reads the fixed part; says what is wrong if it cannot be one.
    pub(super) fn decode(bytes: &[u8; RECORD_HEADER_BYTES]) -> std::result::Result<Self, &'static str> {
        if bytes[..4] != RECORD_MAGIC {
            return Err("no record begins here");
        }
        let length = u32::from_le_bytes(bytes[4..8].try_into().expect("4 bytes")) as usize;
        if length > MAX_RECORD_BYTES {
            return Err("the length of a record exceeds the limit");
        }
        Ok(Self {
            length,
            batch: u64::from_le_bytes(bytes[8..16].try_into().expect("8 bytes")),
            head: bytes[..16].try_into().expect("16 bytes"),
            head_checksum: bytes[16..24].try_into().expect("8 bytes"),
            checksum: bytes[24..].try_into().expect("8 bytes"),
        })
    }

    /// Whether length and batch are what was written at this offset. Cheap, whatever the length.
    pub(super) fn head_matches(&self, segment: &Header, offset: u64) -> bool {
        segment.checksum(offset, &self.head, None) == self.head_checksum
    }

    pub(super) fn matches(&self, segment: &Header, offset: u64, payload: &[u8]) -> bool {
        segment.checksum(offset, &self.head, Some(payload)) == self.checksum
    }
}

pub(super) fn check_size(path: &Path, record: &[u8]) -> Result<()> {
    if record.len() > MAX_RECORD_BYTES {
        let (size, limit) = (record.len(), MAX_RECORD_BYTES);
        return Err(StorageError::TooLarge { path: path.to_owned(), size, limit });
    }
    Ok(())
}

/// Appends the encoding of a record that will stand at `offset` in a batch that begins at `batch`.
pub(super) fn encode_record(segment: &Header, batch: u64, offset: u64, payload: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.reserve(RECORD_HEADER_BYTES + payload.len());
    out.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
    out.extend_from_slice(payload);
    seal_record(segment, batch, offset, &mut out[start..]);
}

/// Fills in the fixed part of a record whose payload is in its place: the record will stand at `offset`, in a batch that
/// begins at `batch`.
pub(super) fn seal_record(segment: &Header, batch: u64, offset: u64, record: &mut [u8]) {
    let (fixed, payload) = record.split_at_mut(RECORD_HEADER_BYTES);
    let mut head = [0; 16];
    head[..4].copy_from_slice(&RECORD_MAGIC);
    head[4..8].copy_from_slice(&u32::try_from(payload.len()).expect("bounded by MAX_RECORD_BYTES").to_le_bytes());
    head[8..].copy_from_slice(&batch.to_le_bytes());
    fixed[..16].copy_from_slice(&head);
    fixed[16..24].copy_from_slice(&segment.checksum(offset, &head, None));
    fixed[24..].copy_from_slice(&segment.checksum(offset, &head, Some(payload)));
}

/// Puts a new segment in place with its first records. All of it is durable once the caller has synced the directory. After
/// an error there is none, after a crash the whole segment or none.
pub(super) fn create<R: AsRef<[u8]>>(
    dir: &Path,
    header: &Header,
    records: impl Iterator<Item = R>,
) -> Result<(File, PathBuf, u64)> {
    let path = header.number.path(dir);
    let temporary = path.with_extension("tmp");
    let result = write_new(&temporary, header, records).and_then(|(file, length)| {
        std::fs::rename(&temporary, &path).map_err(|error| StorageError::io(&path, "create", error))?;
        Ok((file, path, length))
    });
    if result.is_err() {
        // What this cannot delete, the next opening does.
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

fn write_new<R: AsRef<[u8]>>(path: &Path, header: &Header, records: impl Iterator<Item = R>) -> Result<(File, u64)> {
    let failed = |error| StorageError::io(path, "write", error);
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path).map_err(failed)?;
    let mut out = BufWriter::new(file);
    out.write_all(&header.encode()).map_err(failed)?;
    let mut offset = HEADER_BYTES as u64;
    let mut buffer = Vec::new();
    for record in records {
        let record = record.as_ref();
        check_size(path, record)?;
        buffer.clear();
        encode_record(header, HEADER_BYTES as u64, offset, record, &mut buffer);
        out.write_all(&buffer).map_err(failed)?;
        offset += buffer.len() as u64;
    }
    let file = out.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    Ok((file, offset))
}

/// What the log needs of the file that it appends to. Tests put disks behind it that run full or fail.
pub(super) trait LogFile: Send + fmt::Debug {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    fn sync_data(&self) -> io::Result<()>;
    fn set_len(&self, length: u64) -> io::Result<()>;
}

impl LogFile for File {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Self::sync_data(self)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        Self::set_len(self, length)
    }
}
