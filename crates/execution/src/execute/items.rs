//! Running the items of an encrypted chain's block, once they are opened and shuffled.
//!
//! ```text
//!  envelope --> can the payer pay? --no--> no-op, nothing charged     (the ordering rules exclude it)
//!                    |yes
//!               opened, and may its transaction start? --no--> charged the least, receipt says why
//!                    |yes
//!               it runs; its sender pays the value that it sends and no gas
//!                    |
//!               the payer's nonce + 1, its balance - charge x price; base fee burned, tip to the producer
//!                    |
//!               was it a withdrawal of the payer's own? its amount goes from its balance to an account
//!
//!  deposit ---> runs as a plain transfer --success--> the value goes on from the payer's account into the ledger
//! ```
//!
//! Price = min(fee cap, base fee + tip) of the envelope; charge = [`minimum_envelope_charge`] or what the transaction used
//! after refunds, whichever is more, and never more than the envelope's gas limit. The fee is taken after the run, of money
//! that was seen to be there before it: nothing that runs can touch the ledger ([`crate::ledger`]), so it makes no
//! difference.
//!
//! As total as the plain transition: whatever the list, each item has one outcome. Epoch, validity and copied
//! ciphertexts are matters of ordering ([`crate::ordering::ItemCheck`]); execution does not look at them.

use cascade_primitives::{RecoveredDeposit, RecoveredEnvelope, RecoveredTransaction};
use revm::context_interface::ContextTr as _;
use thiserror::Error;

use super::{BlockEnv, BlockRun, ExecutedBlock, Totals};
use crate::{
    evm::{ChainEvm, fault, not_run, sealed_tx_env, transact_sealed},
    fees::{least_envelope_gas, minimum_envelope_charge},
    ledger,
    receipt::{ENVELOPE_RECEIPT_TYPE, NoOpReason, NotRun, Outcome, Receipt},
    state::StateView,
    store::StoreError,
    withdrawal::Withdrawal,
};

/// Why an envelope gives no transaction. Deterministic: everybody who has the block's reveal finds the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum OpenFailure {
    /// The ciphertext does not open, though its proof holds.
    #[error("{}", NotRun::Undecryptable)]
    Undecryptable,
    /// The payload is not the one that the envelope commits to.
    #[error("{}", NotRun::Commitment)]
    Commitment,
    /// The payload is no signed transaction of this chain.
    #[error("{}", NotRun::NotATransaction)]
    NotATransaction,
    /// The transaction may use more gas than the envelope pays for. Execution finds this by itself too.
    #[error("{}", NotRun::GasLimit)]
    GasLimit,
}

impl From<OpenFailure> for NotRun {
    fn from(failure: OpenFailure) -> Self {
        match failure {
            OpenFailure::Undecryptable => Self::Undecryptable,
            OpenFailure::Commitment => Self::Commitment,
            OpenFailure::NotATransaction => Self::NotATransaction,
            OpenFailure::GasLimit => Self::GasLimit,
        }
    }
}

/// An item that is ready to run.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly every item is an envelope")]
pub enum OpenedItem {
    /// An envelope and what it hid.
    Envelope {
        /// What the payer signed.
        envelope: Box<RecoveredEnvelope>,
        /// The transaction inside, or why there is none.
        opened: Result<RecoveredTransaction, OpenFailure>,
    },
    /// Money for a payer.
    Deposit(Box<RecoveredDeposit>),
}

/// Executes the items of a block, in the order given, on the state after its parent. The caller shuffles.
///
/// # Errors
/// If the store fails, or `parent` is not the state right below the block. Nothing has happened then.
pub fn execute_items(
    parent: &StateView,
    env: &BlockEnv<'_>,
    items: &[OpenedItem],
) -> Result<ExecutedBlock, StoreError> {
    BlockRun::of_items(parent, env, items)?.seal()
}

impl<'a> BlockRun<'a> {
    /// Runs the items of an encrypted chain's block in the order given.
    ///
    /// # Errors
    /// If the store fails, or `parent` is not the state right below the block.
    pub fn of_items(parent: &'a StateView, env: &BlockEnv<'a>, items: &[OpenedItem]) -> Result<Self, StoreError> {
        Self::run(parent, env, items, |evm, totals, env, item| match item {
            OpenedItem::Envelope { envelope, opened } => totals.envelope(evm, env, envelope, opened),
            OpenedItem::Deposit(deposit) => totals.deposit(evm, env, deposit),
        })
    }
}

/// What an opened envelope runs, if the envelope covers it.
fn startable<'a>(
    envelope: &RecoveredEnvelope,
    tx: &'a RecoveredTransaction,
    price: u64,
) -> Result<(&'a RecoveredTransaction, Option<Withdrawal>), NotRun> {
    if tx.gas_limit() > envelope.gas_limit {
        return Err(NotRun::GasLimit);
    }
    Ok((tx, Withdrawal::of(envelope, tx, price)?))
}

impl Totals {
    fn deposit(
        &mut self,
        evm: &mut ChainEvm<'_, '_>,
        env: &BlockEnv<'_>,
        deposit: &RecoveredDeposit,
    ) -> Result<Receipt, StoreError> {
        let receipt = self.transaction(evm, env, deposit.transaction())?;
        if receipt.outcome.is_success() {
            ledger::deposit(evm.ctx.db_mut(), &deposit.payer(), deposit.transaction().value())?;
        }
        Ok(receipt)
    }

    fn envelope(
        &mut self,
        evm: &mut ChainEvm<'_, '_>,
        env: &BlockEnv<'_>,
        envelope: &RecoveredEnvelope,
        opened: &Result<RecoveredTransaction, OpenFailure>,
    ) -> Result<Receipt, StoreError> {
        if let Some(reason) = self.unpayable(evm, env, envelope)? {
            return Ok(self.sealed(envelope, Outcome::NoOp(reason)));
        }
        let base_fee = env.base_fee;
        let price = envelope.max_fee_per_gas.min(base_fee.saturating_add(envelope.max_priority_fee_per_gas));
        let least = minimum_envelope_charge(envelope.gas_limit, envelope.bucket);
        let ran =
            match opened.as_ref().map_err(|failure| (*failure).into()).and_then(|tx| startable(envelope, tx, price)) {
                Err(reason) => Err(reason),
                Ok((tx, withdrawal)) => match transact_sealed(evm, sealed_tx_env(tx, price, base_fee)) {
                    Ok(result) => Ok((tx, withdrawal.filter(|_| result.is_success()), result)),
                    Err(error) => Err(not_run(&fault(error)?)),
                },
            };
        let charged = ran.as_ref().map_or(least, |(_, _, result)| result.gas().tx_gas_used().max(least));
        let fee = self.pay(charged, u128::from(price), base_fee);
        let payer = envelope.payer();
        ledger::charge(evm.ctx.db_mut(), &payer, fee, env.producer)?;
        Ok(match ran {
            Ok((tx, withdrawal, result)) => {
                let mut receipt = self.ran(tx, charged, u128::from(price), result);
                if let Some(withdrawal) = withdrawal {
                    let amount = withdrawal.amount(envelope, fee.burned + fee.tip);
                    ledger::withdraw(evm.ctx.db_mut(), &payer, withdrawal.to, amount)?;
                    receipt.logs.push(withdrawal.log(payer, amount));
                    self.logs += 1;
                }
                receipt
            }
            Err(reason) => Receipt {
                gas_used: charged,
                effective_gas_price: u128::from(price),
                ..self.sealed(envelope, Outcome::Charged(reason))
            },
        })
    }

    /// Why an envelope cannot be charged for; takes the block's gas for it.
    fn unpayable(
        &mut self,
        evm: &mut ChainEvm<'_, '_>,
        env: &BlockEnv<'_>,
        envelope: &RecoveredEnvelope,
    ) -> Result<Option<NoOpReason>, StoreError> {
        if !self.order(envelope.gas_limit, env.gas_limit) {
            return Ok(Some(NoOpReason::BlockGasLimit));
        }
        let account = ledger::current(evm.ctx.db_mut(), &envelope.payer())?;
        let rules = [
            (envelope.chain_id != env.chain_id, NoOpReason::ChainId),
            (envelope.nonce == u64::MAX, NoOpReason::NonceMax),
            (envelope.max_priority_fee_per_gas > envelope.max_fee_per_gas, NoOpReason::TipAboveFeeCap),
            (envelope.max_fee_per_gas < env.base_fee, NoOpReason::FeeCapTooLow),
            (envelope.gas_limit < least_envelope_gas(envelope.bucket), NoOpReason::IntrinsicGas),
            (envelope.nonce < account.nonce, NoOpReason::NonceTooLow),
            (envelope.nonce > account.nonce, NoOpReason::NonceTooHigh),
            (envelope.max_cost() > account.balance, NoOpReason::InsufficientFunds),
        ];
        Ok(rules.into_iter().find_map(|(broken, reason)| broken.then_some(reason)))
    }

    /// The receipt of an envelope of which nothing ran.
    fn sealed(&self, envelope: &RecoveredEnvelope, outcome: Outcome) -> Receipt {
        self.blank(envelope.hash(), ENVELOPE_RECEIPT_TYPE, envelope.payer(), None, outcome)
    }
}
