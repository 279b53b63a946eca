//! A node writes batches.
//!
//! A batch ends at the first height at or above the interval (`ChainParams::anchor_interval`) that can be sealed
//! ([`super::seals`]), and before that where it would be longer than a reader takes, or than a node should hold in memory:
//! nothing is written of a batch before all of it is compressed. Each manifest is checked as its readers do. What fails,
//! such as a full disk, is logged and tried again some seconds later; so is a batch that has been due for long. The node
//! goes on. All of it runs on a thread that may block: a bucket is waited for there.

use std::{
    fmt,
    io::ErrorKind,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use cascade_da::batch::{BatchWriter, MAX_BLOCKS, MAX_PIECES, MAX_RAW_BYTES, Manifest, Position, Seal};
use cascade_primitives::{Decode as _, Encode as _, Genesis, Header, Height, TransactionRule};
use cascade_storage::{ChainDb, StorageError};
use prometheus::IntGauge;
use thiserror::Error;

use super::{
    GENESIS, MAX_FILE_BYTES, NEWEST,
    bucket::{Bucket, BucketError},
    manifest_name, piece_name,
    seals::{Found, Seals},
};
use crate::{
    config::BatchesSection,
    home::write_atomically,
    node::{LightDoor, Stop},
};

/// Most bytes of a batch before compression. A node holds what they become.
const RAW_BYTES: u64 = 512 << 20;
const _: () = assert!(RAW_BYTES <= MAX_RAW_BYTES, "what is published can be read");
/// Blocks after which a batch that is due is missed,
const OVERDUE_BLOCKS: u64 = 256;
/// and how often that is said.
const OVERDUE_EVERY: Duration = Duration::from_secs(300);

/// Why nothing is published.
#[derive(Debug, Error)]
pub enum PublishError {
    /// The database.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The directory or the bucket.
    #[error("{file}: {what}")]
    File {
        /// The file.
        file: String,
        /// What the system or the store says.
        what: String,
    },
    /// What is there is not what this chain's batches are.
    #[error("{file}: {what}; choose another place for batches")]
    Foreign {
        /// The file.
        file: String,
        /// What is wrong.
        what: String,
    },
    /// No header closes a batch that a reader would take.
    #[error("no header seals a batch from block {first} on that ends before block {end}, as it has to")]
    TooLong {
        /// The batch's first block.
        first: Height,
        /// The first block that it has no room for.
        end: Height,
    },
    /// A file is longer than a reader takes.
    #[error("{file} would have {bytes} bytes, readers take {MAX_FILE_BYTES}")]
    TooLarge {
        /// The file.
        file: String,
        /// Its length.
        bytes: usize,
    },
    /// A batch cannot be made of what is stored.
    #[error(transparent)]
    Batch(#[from] cascade_da::batch::BatchError),
}

/// Where a node publishes.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Directory(PathBuf),
    Bucket(Bucket),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(dir) => dir.display().fmt(f),
            Self::Bucket(bucket) => bucket.fmt(f),
        }
    }
}

impl Place {
    /// The place that the configuration names, if any.
    pub(crate) fn of(section: &BatchesSection) -> Result<Option<Self>, BucketError> {
        match (&section.url, &section.dir) {
            (Some(url), _) => Ok(Some(Self::Bucket(Bucket::open(url)?))),
            (None, dir) => Ok(dir.clone().map(Self::Directory)),
        }
    }

    fn write(&self, name: &str, bytes: Vec<u8>, stop: &Stop) -> Result<(), String> {
        match self {
            Self::Directory(dir) => {
                let path = dir.join(name);
                let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
                made.and_then(|()| write_atomically(&path, &bytes)).map_err(|error| error.to_string())
            }
            Self::Bucket(bucket) => wait_for(bucket.put(name, bytes.into()), stop),
        }
    }

    fn read(&self, name: &str, stop: &Stop) -> Result<Option<Vec<u8>>, String> {
        match self {
            Self::Directory(dir) => match std::fs::read(dir.join(name)) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error.to_string()),
            },
            Self::Bucket(bucket) => {
                let found = wait_for(bucket.get(name, MAX_FILE_BYTES), stop)?;
                Ok(found.map(Vec::from))
            }
        }
    }
}

/// Waits for a store, but not beyond the node's end. Called on a thread that may block.
fn wait_for<T>(work: impl Future<Output = Result<T, String>>, stop: &Stop) -> Result<T, String> {
    tokio::runtime::Handle::current().block_on(async {
        tokio::select! {
            result = work => result,
            () = stop.wait() => Err("the node stops".to_owned()),
        }
    })
}

/// How long a batch may become.
#[derive(Clone, Copy, Debug)]
struct Limits {
    blocks: u64,
    raw_bytes: u64,
}

/// Writes the batches of a chain into a directory or a bucket.
pub struct Publisher {
    place: Place,
    genesis: Genesis,
    db: Arc<ChainDb>,
    door: Arc<LightDoor>,
    stop: Stop,
    limits: Limits,
    /// The last block of the newest batch.
    height: IntGauge,
    seals: Seals,
    /// What the next batch stands on; none until it was looked what is there.
    before: Option<Position>,
    /// When it was said last that a batch is overdue.
    missed: Option<Instant>,
}

/// What became of a batch.
enum Made {
    Published,
    /// It has no room for this block.
    Full(Height),
}

impl Publisher {
    /// A publisher that has not looked at its place yet. `height` tells how far it is.
    pub(crate) fn new(
        place: Place,
        genesis: Genesis,
        (db, door): (Arc<ChainDb>, Arc<LightDoor>),
        stop: Stop,
        height: IntGauge,
    ) -> Self {
        // Half of the pieces: what does not compress grows a little.
        let pieces = MAX_PIECES as u64 / 2 * u64::from(genesis.params.batch_piece_bytes);
        let limits = Limits { blocks: MAX_BLOCKS, raw_bytes: RAW_BYTES.min(pieces) };
        let seals = Seals::new(Arc::clone(&db), Arc::clone(&door));
        Self { place, genesis, db, door, stop, limits, height, seals, before: None, missed: None }
    }

    fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.place)
    }

    fn write(&self, name: &str, bytes: Vec<u8>) -> Result<(), PublishError> {
        self.place.write(name, bytes, &self.stop).map_err(|what| PublishError::File { file: self.file(name), what })
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, PublishError> {
        self.place.read(name, &self.stop).map_err(|what| PublishError::File { file: self.file(name), what })
    }

    /// The position after a final, executed height; none while it is not executed.
    fn position(&self, height: Height) -> Result<Option<Position>, StorageError> {
        let (Some(hash), Some(result)) = (self.db.hash_at(height)?, self.db.result(height)?) else { return Ok(None) };
        Ok(Some(Position { height, hash, state_root: result.state_root }))
    }

    /// Looks where an earlier run ended.
    fn resume(&self) -> Result<Option<Position>, PublishError> {
        let foreign = |name: &str, what: &str| PublishError::Foreign { file: self.file(name), what: what.to_owned() };
        match self.read(GENESIS)? {
            None => {
                let text = serde_json::to_string_pretty(&self.genesis).expect("a genesis has a JSON form") + "\n";
                self.check_length(GENESIS, text.len())?;
                self.write(GENESIS, text.into_bytes())?;
            }
            Some(bytes) => {
                let same = serde_json::from_slice::<Genesis>(&bytes).is_ok_and(|found| found == self.genesis);
                if !same {
                    return Err(foreign(GENESIS, "batches of another chain"));
                }
            }
        }
        let Some(bytes) = self.read(NEWEST)? else { return Ok(self.position(Height(0))?) };
        let first = String::from_utf8(bytes).ok().and_then(|text| text.trim().parse().ok()).map(Height);
        let first = first.ok_or_else(|| foreign(NEWEST, "it holds no height"))?;
        let name = manifest_name(first);
        let bytes = self.read(&name)?.ok_or_else(|| foreign(&name, "the newest batch is not there"))?;
        let manifest = Manifest::from_slice(&bytes).map_err(|error| foreign(&name, &error.to_string()))?;
        match self.position(manifest.last)? {
            Some(position) if position.hash == manifest.last_hash => Ok(Some(position)),
            Some(_) => Err(foreign(&name, "its last block is not the chain's")),
            // This node has not come so far yet.
            None => Ok(None),
        }
    }

    fn check_length(&self, name: &str, bytes: usize) -> Result<(), PublishError> {
        if bytes <= MAX_FILE_BYTES { Ok(()) } else { Err(PublishError::TooLarge { file: self.file(name), bytes }) }
    }

    /// Publishes what has become due. Answers how many batches.
    ///
    /// # Errors
    /// [`PublishError`]; the next call tries again.
    pub(crate) fn step(&mut self, safe: Height) -> Result<usize, PublishError> {
        let interval = self.genesis.params.anchor_interval.clamp(1, self.limits.blocks);
        if self.before.is_none() {
            self.before = self.resume()?;
            self.tell();
        }
        let mut published = 0;
        while let Some(before) = self.before.filter(|before| before.height.plus(interval) <= safe) {
            let (due, most) = (before.height.plus(interval), before.height.plus(self.limits.blocks));
            let (mut last, mut header) = match self.seals.first(due, most, safe)? {
                Found::Seal(last, header) => (last, header),
                Found::TooLong => self.shorter(before, most.next())?,
                Found::NotYet => {
                    self.miss(before, due, safe);
                    break;
                }
            };
            if let Made::Full(end) = self.publish(before, last, *header)? {
                (last, header) = self.shorter(before, end)?;
                self.publish(before, last, *header)?;
            }
            self.before = self.position(last)?;
            self.tell();
            published += 1;
        }
        Ok(published)
    }

    /// The longest batch that ends below `end`.
    fn shorter(&self, before: Position, end: Height) -> Result<(Height, Box<Header>), PublishError> {
        let found = self.seals.last(before.height, end)?;
        found.ok_or(PublishError::TooLong { first: before.height.next(), end })
    }

    fn tell(&self) {
        let height = self.before.map_or(0, |before| before.height.0);
        self.height.set(i64::try_from(height).unwrap_or(i64::MAX));
    }

    /// Says once in a while that a batch is due for long. Answers whether it did.
    fn miss(&mut self, before: Position, due: Height, safe: Height) -> bool {
        let often = self.missed.is_some_and(|said| said.elapsed() < OVERDUE_EVERY);
        if often || safe < due.plus(OVERDUE_BLOCKS) {
            return false;
        }
        self.missed = Some(Instant::now());
        tracing::warn!(
            first = %before.height.next(), %due, executed = %safe,
            "a batch is overdue: no final header so far carries results from the due block on and has a certificate of its own"
        );
        true
    }

    fn publish(&self, before: Position, last: Height, header: Header) -> Result<Made, PublishError> {
        let signing = self.genesis.signing_context();
        let piece_bytes = self.genesis.params.batch_piece_bytes as usize;
        let mut writer = BatchWriter::new(signing, before, piece_bytes);
        let order = |what: String| StorageError::Order { path: self.db.path().to_owned(), what };
        for height in (before.height.0 + 1..=last.0).map(Height) {
            let block = self.db.block(height)?.ok_or_else(|| order(format!("final block {height} is missing")))?;
            writer.push(&block)?;
            if writer.raw_bytes() > self.limits.raw_bytes {
                return Ok(Made::Full(height));
            }
        }
        let mut reveals = Vec::new();
        if self.genesis.params.transactions == TransactionRule::Encrypted {
            for height in (last.0 + 1..=header.height.0).map(Height) {
                let block = self.db.block(height)?.ok_or_else(|| order(format!("final block {height} is missing")))?;
                let opened = block.into_block().body.reveals.into_iter();
                reveals.extend(opened.filter(|reveal| reveal.height > before.height && reveal.height <= last));
            }
        }
        let finality = self.door.finality(header.height, &header.hash())?;
        let finality = finality.ok_or_else(|| order(format!("the certificate of block {} is gone", header.height)))?;
        let ancestry = self.door.ancestry(last, header.height)?;
        let ancestry = ancestry.ok_or_else(|| order(format!("block {last} is not below {}", header.height)))?;
        let seal = Seal { header, certificate: finality.certificate, fillers: finality.fillers, ancestry, reveals };
        let (manifest, pieces) = writer.finish(seal);
        let (first, bytes) = (manifest.first(), manifest.to_bytes());
        // What does not hold for a reader is not written.
        manifest.check(|_, _| true)?;
        self.check_length(&manifest_name(first), bytes.len())?;
        let read =
            Manifest::from_slice(&bytes).map_err(|error| order(format!("the manifest of batch {first}: {error}")))?;
        assert_eq!(read, manifest, "a manifest has one encoding");
        let count = pieces.len();
        for (index, piece) in pieces.into_iter().enumerate() {
            self.write(&piece_name(first, index), piece)?;
        }
        self.write(&manifest_name(first), bytes)?;
        self.write(NEWEST, format!("{first}\n").into_bytes())?;
        tracing::debug!(%first, %last, pieces = count, "batch published");
        Ok(Made::Published)
    }
}

#[cfg(test)]
#[path = "publish_tests.rs"]
mod tests;
