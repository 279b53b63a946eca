//! The execution core: ordered transactions in, state and receipts out.

mod cache;
pub mod keys;
pub mod memory;
pub mod proof;
pub mod store;
mod tree;

pub use keys::Account;
pub use memory::MemoryStore;
pub use proof::{ProofError, StateProof, verify_batch};
pub use store::{
    StateChanges, StateKey, StateStore, StateStoreMut, StoreError, TreeNodeKey, VersionIndex, VersionedValue,
};
