//! What a node keeps on disk, and what of it survives a crash.
//!
//! ```text
//! DIR/                     DataDir    locked, and bound to one chain and one version of this layout
//!   LOCK
//!   VERSION
//!   log/000..N.log         VoteLog    votes and what they rest on; synced before anything is sent
//!   db/                    ChainDb    final blocks, results, state; may lag behind the log, never ahead of finality
//!
//! sign-state, next to key  SignState  the last word of the key; survives the loss of everything above
//! ```
//!
//! Three rules hold it together:
//!
//! 1. A vote is in the log *and* in the sign-state, both synced, before it is on the wire (decision 4 of the
//!    architecture).
//! 2. The database takes only what is final or follows from it. It may lose its unsynced end in a crash, because the
//!    log still holds what it lost: whoever starts a new log segment flushes the database first.
//! 3. Damage is an error that names the file, never a gap that is passed over. The one exception is the unfinished end
//!    of the log, which nobody was promised.
//!
//! Nothing here is asynchronous; callers give it a thread.

pub mod datadir;
#[cfg(feature = "db")]
pub mod db;
pub mod error;
mod fs;
pub mod log;
pub mod sign_state;

pub use datadir::{ChainIdentity, DataDir};
#[cfg(feature = "db")]
pub use db::{
    BlockRange, ChainDb, ChainDbOptions, DbUsage, EpochStart, ExecutedRecord, FinalBlock, Finality, FoundLog, Heads,
    KeyKind, LogFilter, LogPage, OpenedBlock, OpenedItem, StoredBlock, TransactionPlace,
};
pub use error::StorageError;
pub use log::{LogOptions, Recovery, Torn, VoteLog};
pub use sign_state::SignState;
