//! `eth_call` and `eth_estimateGas`: running what nobody signed, on a state that stays as it is.
//!
//! Rules are those of a transaction, with these exceptions that Ethereum clients make: no signature, no nonce, contracts
//! may be senders, and where no price is given none is paid (`GASPRICE` and `BASEFEE` are zero then). The chain's minimum
//! charge (see [`crate::fees`]) is left out, since it says nothing about what a call needs. An estimate is the least gas
//! limit with which the call succeeds; with it the minimum charge is at most what the call uses anyway or little more.
//!
//! Gas bounds the work: a call gets at most the cap given, and an estimate runs at most about 40 times that.

use alloy_eips::eip2930::AccessList;
use alloy_primitives::{Address, Log, TxKind, U256};
use bytes::Bytes;
use revm::{
    context::{ContextSetters, TxEnv, result::EVMError},
    context_interface::{
        ContextTr, JournalTr,
        journaled_state::account::JournaledAccountTr,
        result::{ExecutionResult, HaltReason, InvalidTransaction},
    },
    handler::{Handler, pre_execution::calculate_caller_fee},
    interpreter::InitialAndFloorGas,
};
use thiserror::Error;

use crate::{
    evm::{ChainEvm, EvmError, Overlay, evm, fault, halt},
    execute::BlockEnv,
    receipt::{Halt, Outcome},
    state::StateView,
    store::StoreError,
};

/// Gas of a transfer to an account without code.
const TRANSFER_GAS: u64 = 21_000;

/// What a client wants to try.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallRequest {
    /// Who calls.
    pub from: Address,
    /// Whom; none creates a contract.
    pub to: Option<Address>,
    /// Wei to send.
    pub value: U256,
    /// Input, or init code.
    pub data: Bytes,
    /// Gas limit; none takes what the cap allows.
    pub gas: Option<u64>,
    /// Fee cap in wei per gas (the gas price of a legacy transaction). None or zero means that nothing is paid.
    pub max_fee_per_gas: Option<u128>,
    /// Tip in wei per gas; none for a legacy transaction.
    pub max_priority_fee_per_gas: Option<u128>,
    /// EIP-2930.
    pub access_list: AccessList,
}

impl CallRequest {
    fn price(&self) -> u128 {
        self.max_fee_per_gas.unwrap_or(0)
    }

    fn tx_env(&self, gas_limit: u64) -> TxEnv {
        TxEnv {
            tx_type: if self.max_priority_fee_per_gas.is_some() {
                2
            } else if self.access_list.0.is_empty() {
                0
            } else {
                1
            },
            caller: self.from,
            gas_limit,
            gas_price: self.price(),
            kind: self.to.map_or(TxKind::Create, TxKind::Call),
            value: self.value,
            data: self.data.clone().into(),
            nonce: 0,
            chain_id: None,
            access_list: self.access_list.clone(),
            gas_priority_fee: self.max_priority_fee_per_gas.map(|tip| if self.price() == 0 { 0 } else { tip }),
            blob_hashes: Vec::new(),
            max_fee_per_blob_gas: 0,
            authorization_list: Vec::new(),
        }
    }
}

/// What a call gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallOutcome {
    /// How it ended: [`Outcome::Success`], [`Outcome::Reverted`] or [`Outcome::Halted`].
    pub outcome: Outcome,
    /// What it returned, or the data of its revert.
    pub output: Bytes,
    /// Gas that the EVM used, after refunds.
    pub gas_used: u64,
    /// The contract that it would have created.
    pub contract_address: Option<Address>,
    /// What it would have logged.
    pub logs: Vec<Log>,
}

/// Why a call could not be tried.
#[derive(Debug, Error)]
pub enum CallError {
    /// The request breaks a rule of transactions; the text says which.
    #[error("{0}")]
    Invalid(String),
    /// The sender cannot pay for it.
    #[error("insufficient funds for gas * price + value: address {from} have {balance} want {needed}")]
    InsufficientFunds {
        /// The sender.
        from: Address,
        /// What it has, in wei.
        balance: U256,
        /// What it needs, in wei.
        needed: U256,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why there is no estimate.
#[derive(Debug, Error)]
pub enum EstimateError {
    /// The call could not be tried.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The call reverts with any gas limit.
    #[error("execution reverted")]
    Reverted(Bytes),
    /// The call fails with any gas limit.
    #[error("{0}")]
    Halted(Halt),
    /// The call needs more gas than it may have.
    #[error("gas required exceeds allowance ({allowance})")]
    Allowance {
        /// The most it may have.
        allowance: u64,
    },
}

/// Tries a call on the state `view` in the block `env`, with at most `gas_cap` gas.
///
/// # Errors
/// [`CallError`]. A call that reverts or halts is not an error here.
pub fn call(
    view: &StateView,
    env: &BlockEnv<'_>,
    request: &CallRequest,
    gas_cap: u64,
) -> Result<CallOutcome, CallError> {
    let limit = gas_cap.min(env.gas_limit);
    let gas = request.gas.unwrap_or(limit).min(limit);
    Simulator::new(view, env, request).run(gas)?.map_err(|reason| refused(view, request, gas, &reason))
}

/// The least gas limit, of at most `gas_cap`, with which a call succeeds.
///
/// # Errors
/// [`EstimateError`]
pub fn estimate_gas(
    view: &StateView,
    env: &BlockEnv<'_>,
    request: &CallRequest,
    gas_cap: u64,
) -> Result<u64, EstimateError> {
    let allowance = allowance(view, env, request, gas_cap)?;
    let simulator = Simulator::new(view, env, request);
    if request.data.is_empty()
        && allowance >= TRANSFER_GAS
        && let Some(to) = &request.to
        && request.access_list.0.is_empty()
        && !view.account(to).map_err(CallError::from)?.unwrap_or_default().has_code()
        && matches!(simulator.run(TRANSFER_GAS).map_err(CallError::from)?, Ok(done) if done.outcome.is_success())
    {
        return Ok(TRANSFER_GAS);
    }
    let most = match simulator.run(allowance).map_err(CallError::from)? {
        Ok(done) => match done.outcome {
            Outcome::Success => done,
            Outcome::Halted(Halt::OutOfGas) => return Err(EstimateError::Allowance { allowance }),
            Outcome::Halted(reason) => return Err(EstimateError::Halted(reason)),
            Outcome::Reverted | Outcome::NoOp(_) | Outcome::Charged(_) => {
                return Err(EstimateError::Reverted(done.output));
            }
        },
        Err(
            InvalidTransaction::CallGasCostMoreThanGasLimit { .. }
            | InvalidTransaction::GasFloorMoreThanGasLimit { .. },
        ) => {
            return Err(EstimateError::Allowance { allowance });
        }
        Err(reason) => return Err(refused(view, request, allowance, &reason).into()),
    };
    let succeeds = |gas| Ok::<_, CallError>(matches!(simulator.run(gas)?, Ok(done) if done.outcome.is_success()));
    // The gas used is a lower bound; with refunds and the 1/64 that each call keeps back, what is needed is rarely far.
    let (mut too_little, mut enough) = (most.gas_used.saturating_sub(1), allowance);
    let likely = most.gas_used.saturating_add(most.gas_used / 4).saturating_add(2_300);
    if likely < enough {
        if succeeds(likely)? {
            enough = likely;
        } else {
            too_little = likely;
        }
    }
    while too_little + 1 < enough {
        let middle = too_little + (enough - too_little) / 2;
        if succeeds(middle)? {
            enough = middle;
        } else {
            too_little = middle;
        }
    }
    Ok(enough)
}

/// The most gas that a call may have: its own limit, the cap, the block's, and what the sender can pay.
fn allowance(view: &StateView, env: &BlockEnv<'_>, request: &CallRequest, gas_cap: u64) -> Result<u64, CallError> {
    let limit = gas_cap.min(env.gas_limit);
    let gas = request.gas.filter(|gas| *gas >= TRANSFER_GAS).unwrap_or(limit).min(limit);
    if request.price() == 0 {
        return Ok(gas);
    }
    let balance = view.account(&request.from)?.unwrap_or_default().balance;
    let Some(for_gas) = balance.checked_sub(request.value) else {
        return Err(CallError::InsufficientFunds { from: request.from, balance, needed: request.value });
    };
    let payable = for_gas / U256::from(request.price());
    Ok(gas.min(u64::try_from(payable).unwrap_or(u64::MAX)))
}

fn refused(view: &StateView, request: &CallRequest, gas: u64, reason: &InvalidTransaction) -> CallError {
    match reason {
        InvalidTransaction::LackOfFundForMaxFee { fee, balance } => {
            CallError::InsufficientFunds { from: request.from, balance: **balance, needed: **fee }
        }
        InvalidTransaction::OverflowPaymentInTransaction => CallError::InsufficientFunds {
            from: request.from,
            balance: view.account(&request.from).ok().flatten().unwrap_or_default().balance,
            needed: U256::from(gas).saturating_mul(U256::from(request.price())).saturating_add(request.value),
        },
        other => CallError::Invalid(other.to_string()),
    }
}

struct Simulator<'a> {
    view: &'a StateView,
    env: BlockEnv<'a>,
    request: &'a CallRequest,
}

impl<'a> Simulator<'a> {
    fn new(view: &'a StateView, env: &BlockEnv<'a>, request: &'a CallRequest) -> Self {
        let base_fee = if request.price() == 0 { 0 } else { env.base_fee };
        Self { view, env: BlockEnv { base_fee, ..*env }, request }
    }

    fn run(&self, gas: u64) -> Result<Result<CallOutcome, InvalidTransaction>, StoreError> {
        let mut overlay = Overlay::new(self.view, self.env.block_hashes);
        let mut evm = evm(&mut overlay, &self.env);
        evm.ctx.cfg.tx_chain_id_check = false;
        evm.ctx.cfg.disable_nonce_check = true;
        evm.ctx.set_tx(self.request.tx_env(gas));
        let result: Result<ExecutionResult, EvmError> = CallHandler::default().run(&mut evm);
        let result = match result {
            Ok(result) => result,
            Err(error) => return fault(error).map(Err),
        };
        let gas_used = result.gas().tx_gas_used();
        let contract_address = result.created_address();
        let (outcome, output, logs) = match result {
            ExecutionResult::Success { output, logs, .. } => (Outcome::Success, output.into_data().0, logs),
            ExecutionResult::Revert { output, .. } => (Outcome::Reverted, output.0, Vec::new()),
            ExecutionResult::Halt { reason, .. } => (Outcome::Halted(halt(&reason)), Bytes::new(), Vec::new()),
        };
        Ok(Ok(CallOutcome { outcome, output, gas_used, contract_address, logs }))
    }
}

/// Ethereum's handler for a sender that has not signed: its nonce is not looked at, and it may be a contract.
#[derive(Default)]
struct CallHandler<'a, 'b>(std::marker::PhantomData<(&'a (), &'b ())>);

impl<'a, 'b: 'a> Handler for CallHandler<'a, 'b> {
    type Evm = ChainEvm<'a, 'b>;
    type Error = EVMError<StoreError, InvalidTransaction>;
    type HaltReason = HaltReason;

    fn validate_against_state_and_deduct_caller(
        &self,
        evm: &mut Self::Evm,
        _gas: &mut InitialAndFloorGas,
    ) -> Result<(), Self::Error> {
        let (block, tx, cfg, journal, _, _) = evm.ctx.all_mut();
        let mut caller = journal.load_account_with_code_mut(tx.caller)?.data;
        let balance = calculate_caller_fee(*caller.balance(), tx, block, cfg)?;
        caller.set_balance(balance);
        if tx.kind.is_call() {
            caller.bump_nonce();
        }
        Ok(())
    }
}
