//! The execution core: ordered transactions in, state and receipts out. No clock, no disk, no network.
//!
//! ```text
//!                        ordering: what a block may carry (reserve rule)        simulate: eth_call, estimates
//!                                          |                                          |
//!  block's transactions --> execute --> evm (revm, Prague) --> overlay of changed accounts and slots
//!                              |                                          |
//!                              v                                          v
//!                        receipts, bloom, roots  <------------  tree: one update per block
//!                              |                                          |
//!                              v                                          v
//!                        ExecutedBlock { result, receipts, changes } --> a store (store::StateStore)
//!                                                                         |
//!  light client <-- proof::StateProof <-- state::StateView <-- caches <---+
//! ```
//!
//! - [`store`] is what a store must offer and the rules by which it applies, reverts and prunes versions.
//! - [`state`] is the state at a height; [`proof`] proves it to those who have only the root.
//! - [`execute`] is the state transition, total and deterministic; [`receipt`] is what it says of each transaction.
//!   Encrypted chains have [`execute_items`] and the fee [`ledger`], from which envelopes are paid, and from which
//!   payers take back what they do not need ([`withdrawal`]).
//! - [`fees`] is EIP-1559 on ordered gas with a minimum charge; [`ordering`] the rule that makes every ordered
//!   transaction payable.
//! - [`genesis`] is version 0.
//!
//! A node runs, for each final block: `execute_block(&state.at(parent)?, &env, &transactions)`, writes
//! [`ExecutedBlock::changes`] with the block in one batch, then calls [`State::committed`].
//!
//! The base fee is burned and the tip goes to the block's producer.

mod cache;
mod evm;
pub mod execute;
pub mod fees;
pub mod genesis;
pub mod keys;
pub mod ledger;
pub mod memory;
pub mod ordering;
pub mod proof;
pub mod receipt;
pub mod simulate;
pub mod state;
pub mod store;
mod tree;
pub mod withdrawal;

pub use evm::BlockHashes;
pub use execute::{BlockEnv, BlockRun, ExecutedBlock, OpenFailure, OpenedItem, execute_block, execute_items};
pub use fees::{minimum_charge, minimum_envelope_charge, next_base_fee};
pub use genesis::{GenesisStateError, genesis_changes};
pub use keys::{Account, account_key, slot_key};
pub use ledger::{FEE_LEDGER, FeeAccount, fee_account, fee_slot};
pub use memory::MemoryStore;
pub use ordering::{
    BlockLoad, InFlight, ItemCheck, OrderedGas, OrderingCheck, OrderingError, PayerState, PushError, Refusal,
    SenderLoad, SenderState, check_block_items, check_block_transactions, check_item, check_transaction, payer_state,
    sender_state,
};
pub use proof::{ProofError, StateProof, verify_batch};
pub use receipt::{ENVELOPE_RECEIPT_TYPE, Halt, NoOpReason, NotRun, Outcome, Receipt, receipts_root};
pub use simulate::{CallError, CallOutcome, CallRequest, EstimateError, call, estimate_gas};
pub use state::{CacheSizes, State, StateError, StateView};
pub use store::{
    StateChanges, StateKey, StateStore, StateStoreMut, StoreError, TreeNodeKey, ValueChange, VersionIndex,
    VersionedValue,
};
pub use withdrawal::Withdrawal;
