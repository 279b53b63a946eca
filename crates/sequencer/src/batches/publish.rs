//! A node writes batches.
//!
//! A batch ends at the first height at or above the interval (`ChainParams::anchor_interval`) that can be sealed: a final
//! header carries its results *and* has a commit certificate of its own, or fillers that have one. What fails, such as a
//! full disk, is logged and tried again some seconds later; the node goes on. All of it runs on a thread that may block:
//! a bucket is waited for there.

use std::{fmt, io::ErrorKind, path::PathBuf, sync::Arc};

use cascade_da::batch::{BatchWriter, MAX_BLOCKS, Manifest, Position, Seal};
use cascade_primitives::{Decode as _, Encode as _, Genesis, Header, Height, TransactionRule};
use cascade_storage::{ChainDb, StorageError};
use thiserror::Error;

use super::{
    GENESIS, MAX_FILE_BYTES, NEWEST,
    bucket::{Bucket, BucketError},
    manifest_name, piece_name,
};
use crate::{
    config::BatchesSection,
    home::write_atomically,
    node::{LightDoor, Stop},
};

/// Blocks above a batch's end that are searched for the header that seals it.
const SEAL_SEARCH: u64 = 256;

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

/// Writes the batches of a chain into a directory or a bucket.
pub struct Publisher {
    place: Place,
    genesis: Genesis,
    db: Arc<ChainDb>,
    door: Arc<LightDoor>,
    stop: Stop,
    /// What the next batch stands on; none until it was looked what is there.
    before: Option<Position>,
}

impl Publisher {
    /// A publisher that has not looked at its place yet.
    pub(crate) const fn new(
        place: Place,
        genesis: Genesis,
        db: Arc<ChainDb>,
        door: Arc<LightDoor>,
        stop: Stop,
    ) -> Self {
        Self { place, genesis, db, door, stop, before: None }
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
                let text = serde_json::to_string_pretty(&self.genesis).expect("a genesis has a JSON form");
                self.write(GENESIS, (text + "\n").into_bytes())?;
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

    /// Publishes what has become due. Answers how many batches.
    ///
    /// # Errors
    /// [`PublishError`]; the next call tries again.
    pub(crate) fn step(&mut self, safe: Height) -> Result<usize, PublishError> {
        let interval = self.genesis.params.anchor_interval.clamp(1, MAX_BLOCKS);
        if self.before.is_none() {
            self.before = self.resume()?;
        }
        let mut published = 0;
        while let Some(before) = self.before.filter(|before| before.height.plus(interval) <= safe) {
            let Some((last, header)) = self.find_seal(before.height.plus(interval), safe)? else { break };
            let Some(after) = self.position(last)? else { break };
            self.publish(before, last, header)?;
            self.before = Some(after);
            published += 1;
        }
        Ok(published)
    }

    /// The first height from `from` on that can be sealed, with the header that seals it.
    fn find_seal(&self, from: Height, safe: Height) -> Result<Option<(Height, Header)>, StorageError> {
        for height in (from.0 + 1..=from.0 + SEAL_SEARCH).map(Height) {
            let Some((hash, header)) = self.db.header(height)? else { return Ok(None) };
            let sealed = header.results.iter().rev().map(|r| r.height).find(|h| *h >= from && *h <= safe);
            if let Some(last) = sealed
                && self.door.finality(height, &hash)?.is_some()
            {
                return Ok(Some((last, header)));
            }
        }
        Ok(None)
    }

    fn publish(&self, before: Position, last: Height, header: Header) -> Result<(), PublishError> {
        let signing = self.genesis.signing_context();
        let piece_bytes = self.genesis.params.batch_piece_bytes as usize;
        let mut writer = BatchWriter::new(signing, before, piece_bytes.clamp(1, cascade_da::batch::MAX_PIECE_BYTES));
        let order = |what: String| StorageError::Order { path: self.db.path().to_owned(), what };
        for height in (before.height.0 + 1..=last.0).map(Height) {
            let block = self.db.block(height)?.ok_or_else(|| order(format!("final block {height} is missing")))?;
            writer.push(&block)?;
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
        let first = manifest.first();
        let count = pieces.len();
        for (index, piece) in pieces.into_iter().enumerate() {
            self.write(&piece_name(first, index), piece)?;
        }
        self.write(&manifest_name(first), manifest.to_bytes())?;
        self.write(NEWEST, format!("{first}\n").into_bytes())?;
        tracing::debug!(%first, %last, pieces = count, "batch published");
        Ok(())
    }
}
