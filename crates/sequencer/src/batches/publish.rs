//! A node writes batches.
//!
//! A batch ends at the first height at or above the interval (`ChainParams::anchor_interval`) that can be sealed: a final
//! header carries its results *and* has a commit certificate of its own, or fillers that have one. What fails, such as a
//! full disk, is logged and tried again with the next block; the node goes on.

use std::{path::PathBuf, sync::Arc};

use cascade_da::batch::{BatchWriter, MAX_BLOCKS, Manifest, Position, Seal};
use cascade_primitives::{Decode as _, Encode as _, Genesis, Header, Height, TransactionRule};
use cascade_storage::{ChainDb, StorageError};
use thiserror::Error;

use super::{GENESIS, NEWEST, manifest_name, piece_name};
use crate::{home::write_atomically, node::LightDoor};

/// Blocks above a batch's end that are searched for the header that seals it.
const SEAL_SEARCH: u64 = 256;

/// Why nothing is published.
#[derive(Debug, Error)]
pub enum PublishError {
    /// The database.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The directory.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// What is there is not what this chain's batches are.
    #[error("{path}: {what}; choose another batches.dir")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A batch cannot be made of what is stored.
    #[error(transparent)]
    Batch(#[from] cascade_da::batch::BatchError),
}

/// Writes the batches of a chain into a directory.
pub struct Publisher {
    dir: PathBuf,
    genesis: Genesis,
    db: Arc<ChainDb>,
    door: Arc<LightDoor>,
    /// What the next batch stands on; none until the directory was looked at.
    before: Option<Position>,
}

impl Publisher {
    /// A publisher that has not looked at its directory yet.
    pub(crate) const fn new(dir: PathBuf, genesis: Genesis, db: Arc<ChainDb>, door: Arc<LightDoor>) -> Self {
        Self { dir, genesis, db, door, before: None }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), PublishError> {
        let path = self.dir.join(name);
        let failed = |source| PublishError::File { path: path.clone(), source };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        write_atomically(&path, bytes).map_err(failed)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, PublishError> {
        let path = self.dir.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(PublishError::File { path, source }),
        }
    }

    /// The position after a final, executed height; none while it is not executed.
    fn position(&self, height: Height) -> Result<Option<Position>, StorageError> {
        let (Some(hash), Some(result)) = (self.db.hash_at(height)?, self.db.result(height)?) else { return Ok(None) };
        Ok(Some(Position { height, hash, state_root: result.state_root }))
    }

    /// Looks where an earlier run ended.
    fn resume(&self) -> Result<Option<Position>, PublishError> {
        let foreign =
            |name: &str, what: &str| PublishError::Foreign { path: self.dir.join(name), what: what.to_owned() };
        match self.read(GENESIS)? {
            None => {
                let text = serde_json::to_string_pretty(&self.genesis).expect("a genesis has a JSON form");
                self.write(GENESIS, (text + "\n").as_bytes())?;
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
        for (index, piece) in pieces.iter().enumerate() {
            self.write(&piece_name(first, index), piece)?;
        }
        self.write(&manifest_name(first), &manifest.to_bytes())?;
        self.write(NEWEST, format!("{first}\n").as_bytes())?;
        tracing::debug!(%first, %last, pieces = pieces.len(), "batch published");
        Ok(())
    }
}
