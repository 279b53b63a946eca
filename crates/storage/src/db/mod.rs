//! The chain database: final blocks, what executing them gave, and all kept versions of the state.
//!
//! ```text
//!  family      key                          value
//!  headers     height                       hash, header             block = header and body, each stored once
//!  bodies      height                       body (in blob files)
//!  heights     block hash                   height
//!  finality    height                       commit certificate, filler headers
//!  txs         transaction hash             height, index
//!  results     height                       result entry, logs bloom, burned, tips
//!  receipts    height                       count, end offsets, receipts (in blob files)
//!  nodes       node key (version first)     node of the state tree
//!  values      state key, !version          value or deletion         newest version first
//!  codes       code hash                    code
//!  versions    version                      what it wrote and made stale
//!  committees  epoch                        committee, seed, where the content of the epoch before ended
//!  opened      height                       what opened a block's envelopes, and what was inside (in blob files)
//!  keys        kind, epoch                  keys of an epoch; secret ones sealed by their owner
//!  meta        name                         heads
//! ```
//!
//! Heights, versions and epochs are 8 bytes, big endian, so that ranges are in order.
//!
//! # What survives what
//!
//! Every write is one atomic batch over all families. A process that is killed loses nothing. A machine that loses power
//! may lose the newest batches, but never a batch without all that came after it. By default nothing is synced at once,
//! since all of it can be had again: a final block stands in the vote log until the log's next checkpoint, and results
//! follow from blocks. So: **call [`ChainDb::sync`] before [`VoteLog::checkpoint`](crate::VoteLog::checkpoint)**, and feed
//! what the log has to [`ChainDb::append_final`] on start, which passes over what it has already.
//!
//! After a write that failed (a full disk, for one) RocksDB takes nothing more: the node stops, and goes on from what was
//! written when it is started again.
//!
//! # Order
//!
//! Final blocks are appended in order of height and never replaced; executed blocks follow them in order. A caller that
//! breaks this gets [`StorageError::Order`] and nothing is written. A block other than the one that is final at a height is
//! refused the same way: that would be a break of consensus, which a database must not paper over.

mod logs;
mod read;
mod schema;
mod state;
mod write;

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, RwLock},
};

use cascade_primitives::{BlockHash, Height};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, LogLevel, Options,
    SliceTransform, WriteBatch, WriteOptions,
};

use crate::error::{Result, StorageError};
use schema::Family;

pub use logs::{FoundLog, LogFilter, LogPage};
pub use read::{BlockRange, ExecutedRecord, StoredBlock, TransactionPlace};
pub use write::{EpochStart, FinalBlock, Finality, KeyKind, OpenedBlock, OpenedItem};

/// How a database uses memory and when it waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainDbOptions {
    /// Bytes of the block cache, indexes and filters included.
    pub cache_bytes: usize,
    /// Bytes of one family's write buffer.
    pub write_buffer_bytes: usize,
    /// Bytes of all write buffers together.
    pub write_buffers_bytes: usize,
    /// Threads for flushes and compactions.
    pub background_jobs: i32,
    /// Whether [`ChainDb::append_final`] waits for the disk.
    pub sync_final: bool,
    /// Whether [`ChainDb::commit_executed`] waits for the disk.
    pub sync_executed: bool,
}

impl Default for ChainDbOptions {
    /// Modest, for many nodes on one machine.
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            write_buffer_bytes: 16 << 20,
            write_buffers_bytes: 64 << 20,
            background_jobs: 2,
            sync_final: false,
            sync_executed: false,
        }
    }
}

/// How far the database is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heads {
    /// The newest final block.
    pub last_final: Option<(Height, BlockHash)>,
    /// The newest executed block.
    pub executed: Option<Height>,
    /// The oldest and the newest version of the state that can be read.
    pub state: Option<(Height, Height)>,
}

/// What a database takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DbUsage {
    /// Bytes of its tables and blob files. What is in write-ahead logs alone is not counted.
    pub file_bytes: u64,
    /// Bytes of its write buffers and block cache.
    pub memory_bytes: u64,
}

/// The open database. Shared between threads; reads never wait for writes.
pub struct ChainDb {
    db: DB,
    path: PathBuf,
    options: ChainDbOptions,
    heads: RwLock<Heads>,
    writer: Mutex<()>,
}

impl std::fmt::Debug for ChainDb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChainDb").field("path", &self.path).field("heads", &self.heads()).finish_non_exhaustive()
    }
}

impl ChainDb {
    /// Opens the database of a directory, or makes a new one where there is none.
    ///
    /// # Errors
    /// [`StorageError::Locked`], [`StorageError::Corrupt`], and what the system reports.
    pub fn open(path: impl Into<PathBuf>, options: ChainDbOptions) -> Result<Self> {
        let path = path.into();
        crate::fs::create_dir(&path)?;
        let cache = Cache::new_lru_cache(options.cache_bytes);
        let families = Family::ALL
            .iter()
            .map(|family| ColumnFamilyDescriptor::new(family.name(), family_options(*family, &options, &cache)));
        let db = DB::open_cf_descriptors(&database_options(&options), &path, families)
            .map_err(|error| db_error(&path, "open", &error))?;
        let opened = Self { db, path, options, heads: RwLock::new(Heads::default()), writer: Mutex::new(()) };
        let heads = opened.load_heads()?;
        *opened.heads.write().expect("no holder of this lock panics") = heads;
        Ok(opened)
    }

    /// How far it is.
    #[must_use]
    pub fn heads(&self) -> Heads {
        *self.heads.read().expect("no holder of this lock panics")
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it takes now, as RocksDB counts.
    #[must_use]
    pub fn usage(&self) -> DbUsage {
        let property = |family: &Family, name: &str| {
            self.db.property_int_value_cf(self.family(*family), name).ok().flatten().unwrap_or(0)
        };
        let sum = |name: &str| Family::ALL.iter().map(|family| property(family, name)).sum::<u64>();
        // One cache serves all families.
        let cache = property(&Family::Meta, "rocksdb.block-cache-usage");
        DbUsage {
            file_bytes: sum("rocksdb.total-sst-files-size") + sum("rocksdb.total-blob-file-size"),
            memory_bytes: sum("rocksdb.cur-size-all-mem-tables") + cache,
        }
    }

    /// Makes everything that was written durable.
    ///
    /// # Errors
    /// What the system reports.
    pub fn sync(&self) -> Result<()> {
        self.db.flush_wal(true).map_err(|error| db_error(&self.path, "sync", &error))
    }

    /// Makes everything that was written durable in its final form, so that the next opening has nothing to replay.
    ///
    /// # Errors
    /// What the system reports.
    pub fn flush(&self) -> Result<()> {
        for family in Family::ALL {
            self.db.flush_cf(self.family(*family)).map_err(|error| db_error(&self.path, "flush", &error))?;
        }
        self.sync()
    }

    fn family(&self, family: Family) -> &ColumnFamily {
        self.db.cf_handle(family.name()).expect("every family is created on opening")
    }

    fn get(&self, family: Family, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        self.db.get_cf(self.family(family), key).map_err(|error| db_error(&self.path, "read", &error))
    }

    fn lock_writer(&self) -> MutexGuard<'_, ()> {
        // A writer that panicked wrote its whole batch or nothing of it.
        self.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self, batch: WriteBatch, sync: bool, heads: Heads) -> Result<()> {
        let mut batch = batch;
        batch.put_cf(self.family(Family::Meta), schema::HEADS, schema::encode_heads(&heads));
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.db.write_opt(batch, &options).map_err(|error| db_error(&self.path, "write to", &error))?;
        *self.heads.write().expect("no holder of this lock panics") = heads;
        Ok(())
    }

    fn load_heads(&self) -> Result<Heads> {
        match self.get(Family::Meta, schema::HEADS)? {
            None => Ok(Heads::default()),
            Some(bytes) => schema::decode_heads(&bytes).map_err(|error| self.damaged("heads", &error)),
        }
    }

    fn damaged(&self, what: &str, error: &dyn std::fmt::Display) -> StorageError {
        StorageError::corrupt(&self.path, 0, format!("{what}: {error}"))
    }

    fn order<T>(&self, what: String) -> Result<T> {
        Err(StorageError::Order { path: self.path.clone(), what })
    }
}

fn database_options(options: &ChainDbOptions) -> Options {
    let mut out = Options::default();
    out.create_if_missing(true);
    out.create_missing_column_families(true);
    out.set_max_background_jobs(options.background_jobs);
    out.set_db_write_buffer_size(options.write_buffers_bytes);
    out.set_max_total_wal_size(4 * options.write_buffers_bytes as u64);
    out.set_max_open_files(512);
    out.set_keep_log_file_num(2);
    out.set_max_log_file_size(4 << 20);
    out.set_log_level(LogLevel::Warn);
    out.set_stats_dump_period_sec(0);
    out.set_stats_persist_period_sec(0);
    out.set_bytes_per_sync(1 << 20);
    // There is one writer at a time, and most of what it writes is in order: alone, it need not search for each place.
    out.set_allow_concurrent_memtable_write(false);
    out
}

fn family_options(family: Family, options: &ChainDbOptions, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_bloom_filter(10.0, false);
    let mut out = Options::default();
    out.set_write_buffer_size(options.write_buffer_bytes);
    out.set_compression_type(DBCompressionType::Lz4);
    out.set_level_compaction_dynamic_level_bytes(true);
    if family == Family::Values {
        // Reads seek inside one state key; most keys that are looked up do not exist.
        out.set_prefix_extractor(SliceTransform::create_fixed_prefix(schema::STATE_KEY_BYTES));
        out.set_memtable_prefix_bloom_ratio(0.05);
        table.set_whole_key_filtering(false);
    }
    if matches!(family, Family::Bodies | Family::Receipts | Family::Opened) {
        out.set_enable_blob_files(true);
        out.set_min_blob_size(4 << 10);
        out.set_blob_file_size(64 << 20);
        out.set_blob_compression_type(DBCompressionType::Lz4);
        out.set_enable_blob_gc(true);
    }
    out.set_block_based_table_factory(&table);
    out
}

/// RocksDB says in words what went wrong.
fn db_error(path: &Path, action: &'static str, error: &rocksdb::Error) -> StorageError {
    let text = error.as_ref();
    let is = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let path = path.to_owned();
    if is(&["No space left on device", "Disk quota exceeded", "NoSpace"]) {
        StorageError::DiskFull { path }
    } else if is(&["lock hold by current process", "While lock file"]) {
        StorageError::Locked { path }
    } else if is(&["Permission denied", "Read-only file system"]) {
        let source = std::io::Error::new(std::io::ErrorKind::PermissionDenied, text.to_owned());
        StorageError::Permission { path, action, source }
    } else if is(&["Writer has previous error"]) {
        StorageError::Failed { path }
    } else if error.kind() == rocksdb::ErrorKind::Corruption {
        StorageError::corrupt(path, 0, text)
    } else {
        StorageError::Io { path, action, source: std::io::Error::other(text.to_owned()) }
    }
}
