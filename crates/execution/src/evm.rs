//! The EVM: Prague rules over a [`StateView`], with the chain's own charge.
//!
//! The minimum charge of decision 14 (see [`crate::fees`]) is put where EIP-7623 already has one: a floor on the gas that
//! a transaction is charged for, applied after refunds and before the sender is reimbursed and the producer rewarded.
//! Everything that follows from the charge (reimbursement, burn, tip, receipt) is then revm's own arithmetic.
//!
//! Prague's system contracts are absent, because what feeds them is: the beacon root contract (EIP-4788) and the
//! withdrawal and consolidation queues (EIP-7002, EIP-7251) belong to a beacon chain; deposits (EIP-6110) come through
//! the bridge. The history contract (EIP-2935) is absent too: `BLOCKHASH` answers for the same 256 blocks that Ethereum's
//! does, and every header commits to all headers below it (`history_root`), so a contract write per block buys nothing.
//! Blobs do not exist: `BLOBHASH` gives zero, `BLOBBASEFEE` one.

use std::collections::BTreeMap;

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256, TxKind, U256};
use bytes::Bytes;
use cascade_primitives::{Encode, Height, RecoveredTransaction};
use revm::{
    Database, MainBuilder, MainContext, MainnetEvm,
    bytecode::Bytecode,
    context::{BlockEnv as RevmBlock, CfgEnv, Context, ContextSetters, Journal, TxEnv, result::EVMError},
    context_interface::{
        ContextTr, JournalTr,
        block::BlobExcessGasAndPrice,
        journaled_state::account::JournaledAccountTr,
        result::{ExecutionResult, HaltReason, InvalidTransaction},
    },
    database_interface::DBErrorMarker,
    handler::{
        EthFrame, EvmTr, EvmTrError, FrameResult, FrameTr, Handler, MainnetHandler,
        pre_execution::validate_account_nonce_and_code_with_components,
    },
    interpreter::{InitialAndFloorGas, interpreter::EthInterpreter, interpreter_action::FrameInit},
    primitives::{AddressMap, HashMap, KECCAK_EMPTY, hardfork::SpecId},
    state::{AccountInfo, EvmState},
};

use crate::{
    execute::BlockEnv,
    fees::minimum_charge,
    keys::{Account, account_key, encode_slot, slot_key},
    receipt::{Halt, NoOpReason, NotRun},
    state::StateView,
    store::{StoreError, ValueChange},
};

/// The rules that contracts run by.
pub(crate) const SPEC: SpecId = SpecId::PRAGUE;

impl DBErrorMarker for StoreError {}

pub(crate) type EvmError = EVMError<StoreError, InvalidTransaction>;

pub(crate) type EvmContext<'a, 'b> =
    Context<RevmBlock, TxEnv, CfgEnv, &'a mut Overlay<'b>, Journal<&'a mut Overlay<'b>>>;

pub(crate) type ChainEvm<'a, 'b> = MainnetEvm<EvmContext<'a, 'b>>;

/// An EVM for the transactions of one block.
pub(crate) fn evm<'a, 'b>(overlay: &'a mut Overlay<'b>, env: &BlockEnv<'_>) -> ChainEvm<'a, 'b> {
    let cfg = CfgEnv::new_with_spec(SPEC).with_chain_id(env.chain_id.0);
    let block = RevmBlock {
        number: U256::from(env.height.0),
        beneficiary: env.producer,
        timestamp: U256::from(env.timestamp.0 / 1000),
        gas_limit: env.gas_limit,
        basefee: env.base_fee,
        difficulty: U256::ZERO,
        prevrandao: Some(env.prev_randao),
        blob_excess_gas_and_price: Some(BlobExcessGasAndPrice::new_with_spec(0, SPEC)),
        slot_num: 0,
    };
    Context::mainnet().with_cfg(cfg).with_block(block).with_db(overlay).build_mainnet()
}

/// Runs one transaction and hands its effect to the overlay.
pub(crate) fn transact(evm: &mut ChainEvm<'_, '_>, tx: TxEnv) -> Result<ExecutionResult, EvmError> {
    evm.ctx.set_tx(tx);
    let result: Result<_, EvmError> = ChainHandler(MainnetHandler::default()).run(evm);
    let state = evm.ctx.journal_mut().finalize();
    let result = result?;
    evm.ctx.db_mut().commit(state)?;
    Ok(result)
}

/// Ethereum's handler with the minimum charge of this chain.
struct ChainHandler<EVM, ERROR>(MainnetHandler<EVM, ERROR, EthFrame<EthInterpreter>>);

impl<EVM, ERROR> Handler for ChainHandler<EVM, ERROR>
where
    EVM: EvmTr<Context: ContextTr<Journal: JournalTr<State = EvmState>>, Frame = EthFrame<EthInterpreter>>,
    ERROR: EvmTrError<EVM>,
    EthFrame<EthInterpreter>: FrameTr<FrameResult = FrameResult, FrameInit = FrameInit>,
{
    type Evm = EVM;
    type Error = ERROR;
    type HaltReason = HaltReason;

    fn validate_initial_tx_gas(&self, evm: &mut EVM) -> Result<InitialAndFloorGas, ERROR> {
        use revm::context_interface::Transaction as _;
        let mut gas = self.0.validate_initial_tx_gas(evm)?;
        let least = minimum_charge(evm.ctx_ref().tx().gas_limit());
        gas.set_floor_gas(gas.floor_gas().max(least));
        Ok(gas)
    }
}

/// Runs the transaction inside an envelope and hands its effect to the overlay, all but the fee. Whoever signed it pays
/// nothing; its price must be that of [`sealed_tx_env`].
pub(crate) fn transact_sealed<'a, 'b: 'a>(evm: &mut ChainEvm<'a, 'b>, tx: TxEnv) -> Result<ExecutionResult, EvmError> {
    evm.ctx.set_tx(tx);
    let result: Result<_, EvmError> = SealedHandler::default().run(evm);
    let state = evm.ctx.journal_mut().finalize();
    let result = result?;
    evm.ctx.db_mut().commit(state)?;
    Ok(result)
}

/// Ethereum's handler for a sender whose gas somebody else pays: nothing is taken for gas before the run and nothing
/// given back or passed on after it. Nonce, code and funds for the value are checked as ever.
#[derive(Default)]
struct SealedHandler<'a, 'b>(std::marker::PhantomData<(&'a (), &'b ())>);

impl<'a, 'b: 'a> Handler for SealedHandler<'a, 'b> {
    type Evm = ChainEvm<'a, 'b>;
    type Error = EvmError;
    type HaltReason = HaltReason;

    fn validate_against_state_and_deduct_caller(
        &self,
        evm: &mut Self::Evm,
        _gas: &mut InitialAndFloorGas,
    ) -> Result<(), EvmError> {
        let (_, tx, cfg, journal, _, _) = evm.ctx.all_mut();
        let mut caller = journal.load_account_with_code_mut(tx.caller)?.data;
        validate_account_nonce_and_code_with_components(&caller.account().info, tx, cfg)?;
        let balance = *caller.balance();
        if balance < tx.value {
            let (fee, balance) = (Box::new(tx.value), Box::new(balance));
            return Err(InvalidTransaction::LackOfFundForMaxFee { fee, balance }.into());
        }
        if tx.kind.is_call() {
            caller.bump_nonce();
        }
        Ok(())
    }

    fn reimburse_caller(&self, _evm: &mut Self::Evm, _result: &mut FrameResult) -> Result<(), EvmError> {
        Ok(())
    }

    fn reward_beneficiary(&self, _evm: &mut Self::Evm, _result: &mut FrameResult) -> Result<(), EvmError> {
        Ok(())
    }
}

/// The transaction inside an envelope as revm takes it: its own fee fields bound nothing, `GASPRICE` gives the price that
/// the envelope pays, which is at least the base fee.
pub(crate) fn sealed_tx_env(tx: &RecoveredTransaction, price: u64, base_fee: u64) -> TxEnv {
    let mut env = tx_env(tx);
    env.gas_price = u128::from(price);
    env.gas_priority_fee = env.gas_priority_fee.map(|_| u128::from(price.saturating_sub(base_fee)));
    env
}

/// The transaction as revm takes it.
pub(crate) fn tx_env(tx: &RecoveredTransaction) -> TxEnv {
    let envelope = tx.envelope();
    TxEnv {
        tx_type: envelope.tx_type() as u8,
        caller: tx.sender(),
        gas_limit: tx.gas_limit(),
        gas_price: tx.max_fee_per_gas(),
        kind: envelope.to().map_or(TxKind::Create, TxKind::Call),
        value: tx.value(),
        data: envelope.input().clone(),
        nonce: tx.nonce(),
        chain_id: envelope.chain_id(),
        access_list: envelope.access_list().cloned().unwrap_or_default(),
        gas_priority_fee: envelope.max_priority_fee_per_gas(),
        blob_hashes: Vec::new(),
        max_fee_per_blob_gas: 0,
        authorization_list: Vec::new(),
    }
}

/// What the chain says of a halt. Reasons that revm tells apart and users do not are one.
pub(crate) fn halt(reason: &HaltReason) -> Halt {
    match reason {
        HaltReason::OutOfGas(_) => Halt::OutOfGas,
        HaltReason::OpcodeNotFound | HaltReason::InvalidFEOpcode | HaltReason::NotActivated => Halt::InvalidOpcode,
        HaltReason::InvalidJump => Halt::InvalidJump,
        HaltReason::StackUnderflow => Halt::StackUnderflow,
        HaltReason::StackOverflow => Halt::StackOverflow,
        HaltReason::OutOfOffset => Halt::OutOfOffset,
        HaltReason::CreateCollision => Halt::CreateCollision,
        HaltReason::PrecompileError | HaltReason::PrecompileErrorWithContext(_) => Halt::Precompile,
        HaltReason::NonceOverflow => Halt::NonceOverflow,
        HaltReason::CreateContractSizeLimit => Halt::CodeSize,
        HaltReason::CreateContractStartingWithEF => Halt::CodePrefix,
        HaltReason::CreateInitCodeSizeLimit => Halt::InitCodeSize,
        HaltReason::StateChangeDuringStaticCall | HaltReason::CallNotAllowedInsideStatic => Halt::WriteProtection,
        HaltReason::OverflowPayment | HaltReason::OutOfFunds => Halt::OutOfFunds,
        HaltReason::CallTooDeep => Halt::CallDepth,
    }
}

/// What the chain says of a transaction that the EVM refuses to start.
pub(crate) fn no_op(reason: &InvalidTransaction) -> NoOpReason {
    match reason {
        InvalidTransaction::NonceTooLow { .. } => NoOpReason::NonceTooLow,
        InvalidTransaction::NonceTooHigh { .. } => NoOpReason::NonceTooHigh,
        InvalidTransaction::LackOfFundForMaxFee { .. } | InvalidTransaction::OverflowPaymentInTransaction => {
            NoOpReason::InsufficientFunds
        }
        InvalidTransaction::GasPriceLessThanBasefee => NoOpReason::FeeCapTooLow,
        InvalidTransaction::PriorityFeeGreaterThanMaxFee => NoOpReason::TipAboveFeeCap,
        InvalidTransaction::CallGasCostMoreThanGasLimit { .. } => NoOpReason::IntrinsicGas,
        InvalidTransaction::GasFloorMoreThanGasLimit { .. } => NoOpReason::FloorGas,
        InvalidTransaction::CallerGasLimitMoreThanBlock | InvalidTransaction::TxGasLimitGreaterThanCap { .. } => {
            NoOpReason::BlockGasLimit
        }
        InvalidTransaction::RejectCallerWithCode => NoOpReason::SenderIsContract,
        InvalidTransaction::NonceOverflowInTransaction => NoOpReason::NonceMax,
        InvalidTransaction::CreateInitCodeSizeLimit => NoOpReason::InitCodeSize,
        InvalidTransaction::InvalidChainId | InvalidTransaction::MissingChainId => NoOpReason::ChainId,
        _ => NoOpReason::Unsupported,
    }
}

/// What the chain says of a transaction in an envelope that the EVM refuses to start.
pub(crate) fn not_run(reason: &InvalidTransaction) -> NotRun {
    match no_op(reason) {
        NoOpReason::NonceTooLow => NotRun::NonceTooLow,
        NoOpReason::NonceTooHigh => NotRun::NonceTooHigh,
        NoOpReason::InsufficientFunds => NotRun::InsufficientFunds,
        NoOpReason::IntrinsicGas => NotRun::IntrinsicGas,
        NoOpReason::FloorGas => NotRun::FloorGas,
        NoOpReason::BlockGasLimit => NotRun::GasLimit,
        NoOpReason::SenderIsContract => NotRun::SenderIsContract,
        NoOpReason::NonceMax => NotRun::NonceMax,
        NoOpReason::InitCodeSize => NotRun::InitCodeSize,
        // Its price is the envelope's, which is checked: the two fee reasons cannot be.
        NoOpReason::ChainId | NoOpReason::Unsupported | NoOpReason::FeeCapTooLow | NoOpReason::TipAboveFeeCap => {
            NotRun::NotATransaction
        }
    }
}

/// An account that the block has read or written, and its state before the block.
struct Entry {
    before: Option<Account>,
    now: Option<Account>,
    /// Value before the block and now.
    slots: HashMap<U256, (U256, U256)>,
}

/// What the block has changed so far, over the state before it.
pub(crate) struct Overlay<'a> {
    view: &'a StateView,
    hashes: &'a dyn BlockHashes,
    seen_hashes: BTreeMap<u64, B256>,
    entries: AddressMap<Entry>,
    codes: BTreeMap<B256, Bytecode>,
}

/// Hashes of earlier blocks, for the `BLOCKHASH` opcode.
pub trait BlockHashes: Send + Sync {
    /// The hash of the block at `height`, which is one of the 256 below the block that runs.
    ///
    /// # Errors
    /// If the store fails. A block that the chain has and the store does not is a failure too: `None` becomes one.
    fn block_hash(&self, height: Height) -> Result<Option<B256>, StoreError>;
}

impl<F: Fn(Height) -> Result<Option<B256>, StoreError> + Send + Sync> BlockHashes for F {
    fn block_hash(&self, height: Height) -> Result<Option<B256>, StoreError> {
        self(height)
    }
}

impl<'a> Overlay<'a> {
    pub(crate) fn new(view: &'a StateView, hashes: &'a dyn BlockHashes) -> Self {
        let (entries, codes, seen_hashes) = Default::default();
        Self { view, hashes, seen_hashes, entries, codes }
    }

    fn entry(&mut self, address: Address) -> Result<&mut Entry, StoreError> {
        use revm::primitives::hash_map::Entry as Slot;
        match self.entries.entry(address) {
            Slot::Occupied(entry) => Ok(entry.into_mut()),
            Slot::Vacant(vacant) => {
                let before = self.view.account(&address)?;
                Ok(vacant.insert(Entry { before, now: before, slots: HashMap::default() }))
            }
        }
    }

    /// Takes over what one transaction changed.
    fn commit(&mut self, state: EvmState) -> Result<(), StoreError> {
        for (address, account) in state {
            if !account.is_touched() {
                continue;
            }
            let entry = self.entry(address)?;
            if account.is_selfdestructed() {
                // Since EIP-6780 only an account that the same transaction created is destroyed. It had no storage before
                // the transaction, and what it wrote since goes with it.
                entry.now = None;
                continue;
            }
            let AccountInfo { nonce, balance, code_hash, code, .. } = account.info;
            let now = Account { nonce, balance, code_hash };
            entry.now = (!now.is_empty()).then_some(now);
            for (slot, value) in account.storage {
                if value.present_value != value.original_value {
                    // revm reads a slot before it writes it, except in an account that the transaction created, whose
                    // slots are zero: so the first value seen is the one before the block.
                    entry.slots.entry(slot).or_insert((value.original_value, U256::ZERO)).1 = value.present_value;
                }
            }
            if code_hash != KECCAK_EMPTY
                && let Some(code) = code.filter(|_| account.status.contains(revm::state::AccountStatus::Created))
            {
                self.codes.insert(code_hash, code);
            }
        }
        Ok(())
    }

    /// Changes an account outside of any transaction.
    pub(crate) fn update_account(
        &mut self,
        address: Address,
        change: impl FnOnce(&mut Account) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let entry = self.entry(address)?;
        let mut account = entry.now.unwrap_or_default();
        change(&mut account)?;
        entry.now = (!account.is_empty()).then_some(account);
        Ok(())
    }

    /// Writes a slot outside of any transaction.
    pub(crate) fn set_storage(&mut self, address: Address, slot: U256, value: U256) -> Result<(), StoreError> {
        let before = self.storage(address, slot)?;
        self.entry(address)?.slots.entry(slot).or_insert((before, before)).1 = value;
        Ok(())
    }

    /// What the block changes in the tree, in order of key, and the code that it adds.
    pub(crate) fn into_changes(self) -> (Vec<ValueChange>, Vec<(B256, Bytes)>) {
        let mut changes = Vec::with_capacity(self.entries.len());
        for (address, entry) in &self.entries {
            if entry.now != entry.before {
                changes.push((account_key(address), entry.now.map(|account| account.to_bytes())));
            }
            for (slot, (before, now)) in &entry.slots {
                if now != before {
                    changes.push((slot_key(address, slot), (!now.is_zero()).then(|| encode_slot(now).to_vec())));
                }
            }
        }
        changes.sort_unstable_by_key(|(key, _): &ValueChange| *key);
        let codes = self.codes.into_iter().map(|(hash, code)| (hash, code.original_bytes().0)).collect();
        (changes, codes)
    }
}

impl Database for Overlay<'_> {
    type Error = StoreError;

    fn basic(&mut self, address: Address) -> Result<Option<AccountInfo>, StoreError> {
        let account = self.entry(address)?.now;
        Ok(account.map(|Account { nonce, balance, code_hash }| AccountInfo {
            balance,
            nonce,
            code_hash,
            account_id: None,
            code: (code_hash == KECCAK_EMPTY).then(Bytecode::default),
        }))
    }

    fn code_by_hash(&mut self, hash: B256) -> Result<Bytecode, StoreError> {
        match self.codes.get(&hash) {
            Some(code) => Ok(code.clone()),
            None => self.view.bytecode(&hash),
        }
    }

    fn storage(&mut self, address: Address, slot: U256) -> Result<U256, StoreError> {
        let view = self.view;
        let entry = self.entry(address)?;
        if let Some((_, now)) = entry.slots.get(&slot) {
            return Ok(*now);
        }
        // What did not exist before the block has no storage from before it.
        let value = if entry.before.is_some() { view.storage(&address, &slot)? } else { U256::ZERO };
        entry.slots.insert(slot, (value, value));
        Ok(value)
    }

    fn block_hash(&mut self, number: u64) -> Result<B256, StoreError> {
        if let Some(hash) = self.seen_hashes.get(&number) {
            return Ok(*hash);
        }
        let hash = self.hashes.block_hash(Height(number))?;
        let hash = hash.ok_or_else(|| StoreError::new("block hash", format!("block {number} is missing")))?;
        self.seen_hashes.insert(number, hash);
        Ok(hash)
    }
}

/// Errors that are not the transaction's fault.
pub(crate) fn fault(error: EvmError) -> Result<InvalidTransaction, StoreError> {
    match error {
        EVMError::Transaction(reason) => Ok(reason),
        EVMError::Database(error) => Err(error),
        // Unreachable: the header's fields are set above and no Prague precompile fails fatally.
        other => Err(StoreError::new("evm", other)),
    }
}
