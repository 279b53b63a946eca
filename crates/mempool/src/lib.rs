//! What waits for a block.
//!
//! ```text
//!            admit                    select                  on_ordered          on_executed
//!  rpc ----> [checks] --> pool -----> proposal ... block ---> in flight ----> gone, or dropped
//!  peers --/    |          | take_new_for_gossip                 | on_unordered (branch abandoned)
//!               v          v                                     v
//!             error      peers                                 pool again
//! ```
//!
//! - [`Pool`] holds Ethereum transactions whose signer is known. Ordering runs ahead of execution (decision 14 of the
//!   architecture), so everything is checked against an [`AccountState`]: the state at the last result, and what is
//!   ordered but not executed yet.
//! - [`OpaquePool`] holds byte strings for chains that order bytes.
//!
//! Nothing here does I/O or reads a clock: time is an argument. What a leader selects depends on the pool's content and
//! the order of arrival alone. Whether a *block* is valid is not decided here but by the chain's ordering rules; the
//! pool is a node's own affair, and two nodes' pools may differ.

mod account;
mod error;
mod gas;
pub mod gossip;
pub mod keybook;
mod opaque;
mod pool;
pub mod reveal;

pub use account::{AccountReader, AccountState};
pub use error::AdmissionError;
pub use gas::{MAX_INITCODE_BYTES, floor_gas, intrinsic_gas};
pub use opaque::{OpaqueError, OpaqueLimits, OpaquePool};
pub use pool::{Admission, CheckedEnvelope, Pool, PoolLimits, PoolStatus, Pooled, SelectLimits, Source};
