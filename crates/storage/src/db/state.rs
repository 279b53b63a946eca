//! All kept versions of the state, by the rules of [`cascade_execution::store`].

use std::ops::RangeInclusive;

use bytes::Bytes;
use cascade_execution::{
    BlockHashes, StateChanges, StateKey, StateStore, StateStoreMut, StoreError, TreeNodeKey, VersionIndex,
    VersionedValue,
};
use cascade_primitives::{B256, Decode, Encode, Height};
use rocksdb::{DBRawIterator, IteratorMode, ReadOptions, WriteBatch};

use super::{
    ChainDb, db_error,
    schema::{self, Family},
};
use crate::error::{Result, StorageError};

/// Value records: one byte, then the value if there is one.
const ABSENT: u8 = 0;
const PRESENT: u8 = 1;

impl ChainDb {
    pub(super) fn put_state(&self, batch: &mut WriteBatch, changes: &StateChanges) {
        let version = changes.version();
        let nodes = self.family(Family::Nodes);
        for (key, node) in changes.nodes() {
            batch.put_cf(nodes, key.as_bytes(), node);
        }
        let values = self.family(Family::Values);
        let mut record = Vec::new();
        for (key, value) in changes.values() {
            record.clear();
            record.push(if value.is_some() { PRESENT } else { ABSENT });
            record.extend_from_slice(value.as_deref().unwrap_or_default());
            batch.put_cf(values, schema::value_key(key, version), &record);
        }
        for (hash, code) in changes.codes() {
            batch.put_cf(self.family(Family::Codes), hash, code);
        }
        batch.put_cf(self.family(Family::Versions), schema::number(version.0), changes.index().to_bytes());
    }

    fn version_index(&self, version: Height) -> Result<VersionIndex> {
        match self.get(Family::Versions, schema::number(version.0))? {
            Some(bytes) => VersionIndex::from_slice(&bytes).map_err(|error| self.damaged("state index", &error)),
            None => Err(self.damaged("state index", &format!("that of version {version} is missing"))),
        }
    }

    /// Deletes the versions above `height`, up to `newest`.
    pub(super) fn take_back_state(&self, batch: &mut WriteBatch, height: Height, newest: Height) -> Result<()> {
        for above in (height.0 + 1..=newest.0).map(Height) {
            for key in self.version_index(above)?.touched {
                batch.delete_cf(self.family(Family::Values), schema::value_key(&key, above));
            }
        }
        // Keys of nodes begin with their version.
        self.delete_above(batch, Family::Nodes, height);
        self.delete_above(batch, Family::Versions, height);
        Ok(())
    }

    /// Deletes what only versions of the state below `version` need, one version a batch, at most `most` of them.
    /// Returns how many it did; a node calls it again until that is 0.
    ///
    /// # Errors
    /// [`StorageError::Order`] if `version` is above the newest one; and what the system reports.
    pub fn prune_state(&self, version: Height, most: usize) -> Result<usize> {
        let _writer = self.lock_writer();
        let mut done = 0;
        loop {
            let mut heads = self.heads();
            let Some((oldest, newest)) = heads.state else { return Ok(done) };
            if version > newest {
                return self.order(format!("prune below state {version}, the newest is {newest}"));
            }
            if oldest >= version || done == most {
                return Ok(done);
            }
            let next = oldest.next();
            let mut batch = WriteBatch::default();
            self.prune_one(&mut batch, oldest)?;
            self.prune_one(&mut batch, next)?;
            let versions = self.family(Family::Versions);
            batch.delete_cf(versions, schema::number(oldest.0));
            // It cannot be reverted any more, and its part of the pruning is done: the next round need not repeat it.
            batch.put_cf(versions, schema::number(next.0), VersionIndex::default().to_bytes());
            heads.state = Some((next, newest));
            self.write(batch, false, heads)?;
            done += 1;
        }
    }

    fn prune_one(&self, batch: &mut WriteBatch, at: Height) -> Result<()> {
        let index = self.version_index(at)?;
        for key in &index.stale {
            batch.delete_cf(self.family(Family::Nodes), key.as_bytes());
        }
        let mut records = self.value_records();
        for key in &index.touched {
            records.seek(schema::value_key(key, at));
            while let Some((record, value)) = records.item().filter(|(record, _)| record.starts_with(key.0.as_slice()))
            {
                let version = schema::version_of_value(record).ok_or_else(|| self.damaged("value", &"bad key"))?;
                if version < at || value == [ABSENT] {
                    batch.delete_cf(self.family(Family::Values), record);
                }
                records.next();
            }
            records.status().map_err(|error| db_error(&self.path, "read", &error))?;
        }
        Ok(())
    }

    /// Numbers of nodes, value records, codes and versions. Visits all of them; for tests and tools.
    ///
    /// # Errors
    /// What the system reports.
    pub fn state_counts(&self) -> Result<[usize; 4]> {
        let mut counts = [0; 4];
        for (count, family) in counts.iter_mut().zip([Family::Nodes, Family::Values, Family::Codes, Family::Versions]) {
            let mut options = ReadOptions::default();
            options.set_total_order_seek(true);
            for entry in self.db.iterator_cf_opt(self.family(family), options, IteratorMode::Start) {
                entry.map_err(|error| db_error(&self.path, "read", &error))?;
                *count += 1;
            }
        }
        Ok(counts)
    }

    fn value_records(&self) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        options.set_prefix_same_as_start(true);
        self.db.raw_iterator_cf_opt(self.family(Family::Values), options)
    }

    fn read_value(&self, key: &StateKey, at: Height) -> Result<Option<VersionedValue>> {
        let mut records = self.value_records();
        records.seek(schema::value_key(key, at));
        let Some((record, value)) = records.item().filter(|(record, _)| record.starts_with(key.0.as_slice())) else {
            records.status().map_err(|error| db_error(&self.path, "read", &error))?;
            return Ok(None);
        };
        let since = schema::version_of_value(record).ok_or_else(|| self.damaged("value", &"bad key"))?;
        let value = match value.split_first() {
            Some((&PRESENT, value)) => Some(value.to_vec()),
            Some((&ABSENT, [])) => None,
            _ => return Err(self.damaged("value", &"bad record")),
        };
        Ok(Some(VersionedValue { since, value }))
    }
}

fn failed(operation: &'static str) -> impl Fn(StorageError) -> StoreError {
    move |error| StoreError::new(operation, error)
}

impl StateStore for ChainDb {
    fn versions(&self) -> std::result::Result<Option<RangeInclusive<Height>>, StoreError> {
        Ok(self.heads().state.map(|(oldest, newest)| oldest..=newest))
    }

    fn node(&self, key: &TreeNodeKey) -> std::result::Result<Option<Vec<u8>>, StoreError> {
        self.get(Family::Nodes, key.as_bytes()).map_err(failed("read a node"))
    }

    fn value(&self, key: &StateKey, at: Height) -> std::result::Result<Option<VersionedValue>, StoreError> {
        self.read_value(key, at).map_err(failed("read a value"))
    }

    fn code(&self, hash: &B256) -> std::result::Result<Option<Bytes>, StoreError> {
        Ok(self.get(Family::Codes, hash).map_err(failed("read code"))?.map(Bytes::from))
    }
}

impl BlockHashes for ChainDb {
    fn block_hash(&self, height: Height) -> std::result::Result<Option<B256>, StoreError> {
        self.hash_at(height).map(|hash| hash.map(Into::into)).map_err(failed("read a block hash"))
    }
}

/// State without blocks, for tests and tools. A node uses [`ChainDb::commit_executed`], [`ChainDb::revert_executed`] and
/// [`ChainDb::prune_state`].
impl StateStoreMut for ChainDb {
    fn apply(&self, changes: &StateChanges) -> std::result::Result<(), StoreError> {
        let _writer = self.lock_writer();
        let mut heads = self.heads();
        let version = changes.version();
        let oldest = match heads.state {
            Some((oldest, newest)) if newest.next() == version => oldest,
            Some((_, newest)) => {
                return Err(StoreError::new("apply", format!("version {version} does not follow {newest}")));
            }
            None => version,
        };
        let mut batch = WriteBatch::default();
        self.put_state(&mut batch, changes);
        heads.state = Some((oldest, version));
        self.write(batch, false, heads).map_err(failed("apply"))
    }

    fn revert_to(&self, version: Height) -> std::result::Result<(), StoreError> {
        let _writer = self.lock_writer();
        let mut heads = self.heads();
        let (oldest, newest) = readable(heads.state, version, "revert")?;
        let mut batch = WriteBatch::default();
        self.take_back_state(&mut batch, version, newest).map_err(failed("revert"))?;
        heads.state = Some((oldest, version));
        self.write(batch, false, heads).map_err(failed("revert"))
    }

    fn prune_below(&self, version: Height) -> std::result::Result<(), StoreError> {
        readable(self.heads().state, version, "prune")?;
        self.prune_state(version, usize::MAX).map(|_| ()).map_err(failed("prune"))
    }
}

fn readable(
    state: Option<(Height, Height)>,
    version: Height,
    operation: &'static str,
) -> std::result::Result<(Height, Height), StoreError> {
    match state {
        Some((oldest, newest)) if oldest <= version && version <= newest => Ok((oldest, newest)),
        Some((oldest, newest)) => {
            Err(StoreError::new(operation, format!("version {version} is outside {oldest} to {newest}")))
        }
        None => Err(StoreError::new(operation, format!("version {version} of an empty store"))),
    }
}
