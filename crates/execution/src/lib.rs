//! The execution core: ordered transactions in, state and receipts out.

pub mod keys;
pub mod memory;
pub mod store;

pub use keys::Account;
pub use memory::MemoryStore;
pub use store::{
    StateChanges, StateKey, StateStore, StateStoreMut, StoreError, TreeNodeKey, VersionIndex, VersionedValue,
};
