//! The state transition: a block's ordered transactions, in; state, receipts and roots, out.
//!
//! ```text
//!  parent state --+
//!  environment ---+--> BlockRun::new --> EVM, one by one --> receipts, changed accounts and slots
//!  transactions --+                                             |
//!                                       BlockRun::seal  <-------+   sort keys, update tree once, receipts root
//!                                             |
//!                                       ExecutedBlock { result, receipts, bloom, changes }
//! ```
//!
//! Total and deterministic (decision 13 of the architecture): any list of transactions has exactly one outcome. One that
//! cannot run (wrong nonce, no money, ...) is a no-op with a receipt that says why, it takes no gas, no fee and no nonce.
//! Only a store that fails is an error, and then nothing has happened.
//!
//! The items of an encrypted chain run likewise: [`execute_items`].

mod items;

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256, Bloom, Log, U256};
use cascade_primitives::{ChainId, ChainParams, Height, RecoveredTransaction, ResultEntry, TimestampMs};
use revm::context_interface::result::ExecutionResult;

use crate::{
    evm::{BlockHashes, ChainEvm, Overlay, evm, fault, halt, no_op, transact, tx_env},
    ledger::Fee,
    receipt::{NoOpReason, Outcome, Receipt, receipts_root},
    state::StateView,
    store::{StateChanges, StoreError},
};

pub use items::{OpenFailure, OpenedItem, execute_items};

/// What a block tells its transactions.
#[derive(Clone, Copy)]
pub struct BlockEnv<'a> {
    /// The chain.
    pub chain_id: ChainId,
    /// The block's height.
    pub height: Height,
    /// When the leader proposed it; the EVM sees whole seconds, rounded down.
    pub timestamp: TimestampMs,
    /// Base fee in wei per gas.
    pub base_fee: u64,
    /// Gas limit of the block; `ChainParams::block_gas_limit`.
    pub gas_limit: u64,
    /// Who gets the tips.
    pub producer: Address,
    /// What `PREVRANDAO` gives.
    pub prev_randao: B256,
    /// Hashes of the 256 blocks below.
    pub block_hashes: &'a dyn BlockHashes,
}

impl std::fmt::Debug for BlockEnv<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockEnv")
            .field("chain_id", &self.chain_id)
            .field("height", &self.height)
            .field("timestamp", &self.timestamp)
            .field("base_fee", &self.base_fee)
            .field("gas_limit", &self.gas_limit)
            .field("producer", &self.producer)
            .finish_non_exhaustive()
    }
}

impl<'a> BlockEnv<'a> {
    /// The environment of a block of a chain.
    #[must_use]
    pub const fn new(
        params: &ChainParams,
        height: Height,
        timestamp: TimestampMs,
        base_fee: u64,
        producer: Address,
        prev_randao: B256,
        block_hashes: &'a dyn BlockHashes,
    ) -> Self {
        let (chain_id, gas_limit) = (params.chain_id, params.block_gas_limit);
        Self { chain_id, height, timestamp, base_fee, gas_limit, producer, prev_randao, block_hashes }
    }
}

/// What executing a block gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutedBlock {
    /// What a later header carries. Beacon and reveals root are zero: they do not come from execution.
    pub result: ResultEntry,
    /// One receipt for each transaction, in order.
    pub receipts: Vec<Receipt>,
    /// Bloom filter over all logs.
    pub bloom: Bloom,
    /// Wei burned as base fee.
    pub burned: U256,
    /// Wei paid to the producer as tips.
    pub tips: U256,
    /// What the store has to write.
    pub changes: StateChanges,
}

/// Executes a block on the state after its parent.
///
/// # Errors
/// If the store fails, or `parent` is not the state right below the block. Nothing has happened then.
pub fn execute_block(
    parent: &StateView,
    env: &BlockEnv<'_>,
    transactions: &[RecoveredTransaction],
) -> Result<ExecutedBlock, StoreError> {
    BlockRun::new(parent, env, transactions)?.seal()
}

/// A block whose transactions have run and whose state root is not computed yet.
pub struct BlockRun<'a> {
    parent: &'a StateView,
    height: Height,
    overlay: Overlay<'a>,
    receipts: Vec<Receipt>,
    totals: Totals,
}

impl std::fmt::Debug for BlockRun<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockRun")
            .field("height", &self.height)
            .field("receipts", &self.receipts)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Default)]
struct Totals {
    ordered_gas: u64,
    gas_used: u64,
    logs: u32,
    burned: U256,
    tips: U256,
}

impl<'a> BlockRun<'a> {
    /// Runs the transactions in the order given.
    ///
    /// # Errors
    /// If the store fails, or `parent` is not the state right below the block.
    pub fn new(
        parent: &'a StateView,
        env: &BlockEnv<'a>,
        transactions: &[RecoveredTransaction],
    ) -> Result<Self, StoreError> {
        Self::run(parent, env, transactions, |evm, totals, env, tx| totals.transaction(evm, env, tx))
    }

    /// Runs things one after another, each of which gives one receipt.
    fn run<T>(
        parent: &'a StateView,
        env: &BlockEnv<'a>,
        things: &[T],
        one: impl Fn(&mut ChainEvm<'_, '_>, &mut Totals, &BlockEnv<'_>, &T) -> Result<Receipt, StoreError>,
    ) -> Result<Self, StoreError> {
        if parent.version().next() != env.height {
            let reason = format!("block {} needs the state of its parent, not of {}", env.height, parent.version());
            return Err(StoreError::new("execute", reason));
        }
        let mut overlay = Overlay::new(parent, env.block_hashes);
        let mut receipts = Vec::with_capacity(things.len());
        let mut totals = Totals::default();
        {
            let mut evm = evm(&mut overlay, env);
            for thing in things {
                receipts.push(one(&mut evm, &mut totals, env, thing)?);
            }
        }
        Ok(Self { parent, height: env.height, overlay, receipts, totals })
    }

    /// Computes state root and receipts root.
    ///
    /// # Errors
    /// If the store fails.
    pub fn seal(self) -> Result<ExecutedBlock, StoreError> {
        let Self { parent, height, overlay, receipts, totals } = self;
        let (values, codes) = overlay.into_changes();
        let update = parent.update(&values)?;
        let changes = StateChanges::new(height, update, values, codes);
        let result = ResultEntry {
            height,
            state_root: changes.root(),
            receipts_root: receipts_root(&receipts),
            gas_used: totals.gas_used,
            ..ResultEntry::default()
        };
        let bloom = receipts.iter().flat_map(|receipt| &receipt.logs).collect();
        Ok(ExecutedBlock { result, receipts, bloom, burned: totals.burned, tips: totals.tips, changes })
    }
}

impl Totals {
    /// Runs a transaction that its sender pays for.
    fn transaction(
        &mut self,
        evm: &mut ChainEvm<'_, '_>,
        env: &BlockEnv<'_>,
        tx: &RecoveredTransaction,
    ) -> Result<Receipt, StoreError> {
        if !self.order(tx.gas_limit(), env.gas_limit) {
            return Ok(self.no_op(tx, NoOpReason::BlockGasLimit));
        }
        Ok(match transact(evm, tx_env(tx)) {
            Ok(result) => {
                let price = tx.envelope().effective_gas_price(Some(env.base_fee));
                let charged = result.gas().tx_gas_used();
                self.pay(charged, price, env.base_fee);
                self.ran(tx, charged, price, result)
            }
            Err(error) => self.no_op(tx, no_op(&fault(error)?)),
        })
    }

    /// Whether the block has room for so much gas, which is taken then.
    fn order(&mut self, gas: u64, limit: u64) -> bool {
        let ordered = self.ordered_gas.saturating_add(gas);
        let fits = ordered <= limit;
        if fits {
            self.ordered_gas = ordered;
        }
        fits
    }

    /// Counts gas that is paid for.
    fn pay(&mut self, charged: u64, price: u128, base_fee: u64) -> Fee {
        let burned = U256::from(charged) * U256::from(base_fee);
        let tip = U256::from(charged) * U256::from(price.saturating_sub(u128::from(base_fee)));
        self.gas_used += charged;
        self.burned += burned;
        self.tips += tip;
        Fee { burned, tip }
    }

    fn no_op(&self, tx: &RecoveredTransaction, reason: NoOpReason) -> Receipt {
        self.receipt(tx, Outcome::NoOp(reason))
    }

    fn receipt(&self, tx: &RecoveredTransaction, outcome: Outcome) -> Receipt {
        let to = tx.envelope().to();
        self.blank(tx.hash(), tx.envelope().tx_type() as u8, tx.sender(), to, outcome)
    }

    /// A receipt at this place in the block, of something that took no gas and left no logs.
    fn blank(&self, hash: B256, kind: u8, from: Address, to: Option<Address>, outcome: Outcome) -> Receipt {
        Receipt {
            transaction_hash: hash,
            transaction_type: kind,
            from,
            to,
            outcome,
            gas_used: 0,
            evm_gas_used: 0,
            cumulative_gas_used: self.gas_used,
            effective_gas_price: 0,
            contract_address: None,
            first_log_index: self.logs,
            logs: Vec::new(),
        }
    }

    /// The receipt of a transaction whose gas is counted.
    fn ran(&mut self, tx: &RecoveredTransaction, charged: u64, price: u128, result: ExecutionResult) -> Receipt {
        let gas = *result.gas();
        let (outcome, logs, contract_address) = match result {
            ExecutionResult::Success { logs, output, .. } => (Outcome::Success, logs, output.address().copied()),
            ExecutionResult::Revert { .. } => (Outcome::Reverted, Vec::new(), None),
            ExecutionResult::Halt { reason, .. } => (Outcome::Halted(halt(&reason)), Vec::<Log>::new(), None),
        };
        let receipt = Receipt {
            gas_used: charged,
            evm_gas_used: gas.spent_sub_refunded(),
            effective_gas_price: price,
            contract_address,
            logs,
            ..self.receipt(tx, outcome)
        };
        self.logs += u32::try_from(receipt.logs.len()).expect("gas bounds the number of logs");
        receipt
    }
}
