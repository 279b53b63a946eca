//! The execution core: ordered transactions in, state and receipts out.

mod cache;
mod evm;
pub mod execute;
pub mod fees;
pub mod genesis;
pub mod keys;
pub mod memory;
pub mod ordering;
pub mod proof;
pub mod receipt;
pub mod simulate;
pub mod state;
pub mod store;
mod tree;

pub use evm::BlockHashes;
pub use execute::{BlockEnv, BlockRun, ExecutedBlock, execute_block};
pub use fees::{minimum_charge, next_base_fee};
pub use genesis::{GenesisStateError, genesis_changes};
pub use keys::{Account, account_key, slot_key};
pub use memory::MemoryStore;
pub use ordering::{
    BlockLoad, InFlight, OrderedGas, OrderingCheck, OrderingError, PushError, Refusal, SenderLoad, SenderState,
    check_block_transactions, check_transaction, sender_state,
};
pub use proof::{ProofError, StateProof, verify_batch};
pub use receipt::{Halt, NoOpReason, Outcome, Receipt, receipts_root};
pub use simulate::{CallError, CallOutcome, CallRequest, EstimateError, call, estimate_gas};
pub use state::{CacheSizes, State, StateError, StateView};
pub use store::{
    StateChanges, StateKey, StateStore, StateStoreMut, StoreError, TreeNodeKey, VersionIndex, VersionedValue,
};
