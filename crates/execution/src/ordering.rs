//! Which transactions a block may carry: the reserve rule of decision 14 of the architecture.
//!
//! Ordering runs ahead of execution: when block h is built, the newest executed state that the chain itself proves is
//! that of some height r below it, normally h-D, the newest whose result stands in a header up to h. Blocks r+1 to h-1
//! are ordered but their results are not on the chain, so their transactions are *in flight*.
//!
//! ```text
//!   state at r (proved)      in flight: r+1 .. h-1        block h
//!   nonce n, balance b       k transactions, cost c       must start at nonce n+k and may cost b-c at the most
//! ```
//!
//! A transaction's cost is the most that it can take: gas limit times fee cap, and the value. The rule is sound because
//! of what cannot happen: the chain takes no set-code and no blob transactions, so nothing but an account's own
//! transactions ever lowers the balance of an account without code or raises its nonce. By induction over the blocks,
//! each transaction that passes finds, when it runs, the nonce that it expects and at least its cost; so it is charged,
//! and nobody can fill blocks with transactions that turn out to be unpayable.
//!
//! [`OrderingCheck`] takes transactions one by one (for a block's builder), [`check_block_transactions`] a whole block
//! (for its validator), [`check_transaction`] what one transaction shows by itself (for admission). All three are one code.
//!
//! What an encrypted chain orders has rules of its own, built from the same parts: [`ItemCheck`].

mod items;

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
};

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, U256};
use cascade_primitives::{
    ChainParams, Epoch, Height, RecoveredItem, RecoveredTransaction, block::MAX_TRANSACTIONS_PER_BLOCK,
    envelope::MAX_ENVELOPES_PER_BLOCK,
};
use revm::{context_interface::cfg::GasParams, primitives::eip3860::MAX_INITCODE_SIZE};
use thiserror::Error;

use crate::{evm::SPEC, state::StateView, store::StoreError};

pub use items::{ItemCheck, PayerState, check_block_items, check_item, payer_state};

/// Sum of the gas limits of a block's transactions: `Header::ordered_gas`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct OrderedGas(pub u64);

/// What one sender has in a block or in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderLoad {
    /// Transactions.
    pub count: u64,
    /// The most that they can take, in wei.
    pub cost: U256,
}

/// What each sender has in one block: on its account, and as a payer of envelopes in the fee ledger. The two have nothing
/// to do with each other, even where the address is the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockLoad {
    senders: HashMap<Address, SenderLoad>,
    payers: HashMap<Address, SenderLoad>,
}

impl SenderLoad {
    fn add(&mut self, cost: U256) {
        self.count += 1;
        self.cost = self.cost.saturating_add(cost);
    }

    const fn and(self, other: Self) -> Self {
        Self { count: self.count + other.count, cost: self.cost.saturating_add(other.cost) }
    }
}

impl BlockLoad {
    /// The load of a block's transactions.
    #[must_use]
    pub fn of(transactions: &[RecoveredTransaction]) -> Self {
        let mut load = Self::default();
        for tx in transactions {
            load.add(tx);
        }
        load
    }

    /// The load of the items of an encrypted chain's block.
    #[must_use]
    pub fn of_items(items: &[RecoveredItem]) -> Self {
        let mut load = Self::default();
        for item in items {
            load.add_item(item);
        }
        load
    }

    fn add(&mut self, tx: &RecoveredTransaction) {
        self.senders.entry(tx.sender()).or_default().add(tx.max_cost());
    }

    fn add_item(&mut self, item: &RecoveredItem) {
        match item {
            RecoveredItem::Envelope(envelope) => {
                self.payers.entry(envelope.payer()).or_default().add(envelope.max_cost());
            }
            RecoveredItem::Deposit(deposit) => self.add(deposit.transaction()),
        }
    }

    /// What a sender of transactions or deposits has in the block.
    #[must_use]
    pub fn sender(&self, sender: &Address) -> SenderLoad {
        self.senders.get(sender).copied().unwrap_or_default()
    }

    /// What a payer of envelopes has in the block.
    #[must_use]
    pub fn payer(&self, payer: &Address) -> SenderLoad {
        self.payers.get(payer).copied().unwrap_or_default()
    }

    /// Who has transactions or deposits in the block, in no defined order.
    pub fn senders(&self) -> impl Iterator<Item = &Address> {
        self.senders.keys()
    }

    /// Who has envelopes in the block, in no defined order.
    pub fn payers(&self) -> impl Iterator<Item = &Address> {
        self.payers.keys()
    }

    /// Whether users have nothing in the block.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.senders.is_empty() && self.payers.is_empty()
    }
}

/// What is ordered on one branch of the chain above the newest result that it carries.
///
/// One value for each branch; blocks are shared between branches, so a new one costs as many pointers as there are
/// blocks in flight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InFlight {
    results_up_to: Height,
    tip: Height,
    /// Blocks above `results_up_to` that have transactions, lowest first.
    blocks: VecDeque<(Height, Arc<BlockLoad>)>,
}

impl InFlight {
    /// Nothing in flight: the branch ends with a block whose result it carries. So it is at genesis.
    #[must_use]
    pub const fn empty(tip: Height) -> Self {
        Self { results_up_to: tip, tip, blocks: VecDeque::new() }
    }

    /// The newest height whose result the branch carries.
    #[must_use]
    pub const fn results_up_to(&self) -> Height {
        self.results_up_to
    }

    /// The height of the branch's last block.
    #[must_use]
    pub const fn tip(&self) -> Height {
        self.tip
    }

    /// What is in flight below a block that carries results up to a height (its own and its ancestors').
    ///
    /// This is what the block's own transactions are checked against.
    #[must_use]
    pub fn with_results(&self, results_up_to: Height) -> Self {
        let results_up_to = results_up_to.max(self.results_up_to);
        let blocks = self.blocks.iter().filter(|(height, _)| *height > results_up_to).cloned().collect();
        Self { results_up_to, tip: self.tip, blocks }
    }

    /// The branch with one more block on top.
    #[must_use]
    pub fn with_block(&self, load: Arc<BlockLoad>) -> Self {
        let mut next = self.clone();
        next.tip = self.tip.next();
        if !load.is_empty() {
            next.blocks.push_back((next.tip, load));
        }
        next
    }

    /// What a sender of transactions or deposits has in flight.
    #[must_use]
    pub fn sender(&self, sender: &Address) -> SenderLoad {
        self.blocks.iter().fold(SenderLoad::default(), |sum, (_, load)| sum.and(load.sender(sender)))
    }

    /// What a payer of envelopes has in flight.
    #[must_use]
    pub fn payer(&self, payer: &Address) -> SenderLoad {
        self.blocks.iter().fold(SenderLoad::default(), |sum, (_, load)| sum.and(load.payer(payer)))
    }
}

impl InFlight {
    /// Whether a state is the one that the branch proves.
    fn check_basis(&self, view: &StateView) -> Result<(), OrderingError> {
        let (view, proved) = (view.version(), self.results_up_to);
        if view == proved { Ok(()) } else { Err(OrderingError::Basis { view, proved }) }
    }
}

/// Why a transaction may not stand in a block.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Another nonce is due.
    #[error("nonce {found}, due is {due}")]
    Nonce {
        /// The transaction's.
        found: u64,
        /// The sender's next.
        due: u64,
    },
    /// The nonce is at its end (EIP-2681).
    #[error("nonce has max value")]
    NonceMax,
    /// The executed balance does not cover this transaction and those in flight.
    #[error("insufficient funds for gas * price + value: needs {cost} wei, {available} are not reserved")]
    Reserve {
        /// The most that it can take.
        cost: U256,
        /// Balance less what is reserved.
        available: U256,
    },
    /// The fee cap is below the block's base fee.
    #[error("max fee per gas less than block base fee: {max_fee}, base fee {base_fee}")]
    FeeCap {
        /// The transaction's, in wei per gas.
        max_fee: u128,
        /// The block's, in wei per gas.
        base_fee: u64,
    },
    /// The gas limit does not cover what every such transaction costs before it starts.
    #[error("intrinsic gas too low: have {gas_limit}, want {needed}")]
    IntrinsicGas {
        /// The transaction's.
        gas_limit: u64,
        /// What it needs.
        needed: u64,
    },
    /// The gas limit does not cover the floor for its data (EIP-7623).
    #[error("insufficient gas for floor data gas cost: have {gas_limit}, want {needed}")]
    FloorGas {
        /// The transaction's.
        gas_limit: u64,
        /// What it needs.
        needed: u64,
    },
    /// The init code is longer than EIP-3860 allows.
    #[error("max initcode size exceeded: code size {size}, limit {MAX_INITCODE_SIZE}")]
    InitCodeSize {
        /// Its length.
        size: usize,
    },
    /// The transaction alone exceeds the block's gas limit.
    #[error("exceeds block gas limit: {gas_limit}, limit {limit}")]
    TransactionGas {
        /// The transaction's.
        gas_limit: u64,
        /// The block's.
        limit: u64,
    },
    /// The block has no gas left for it.
    #[error("gas limit {gas_limit}, the block has {left} left")]
    BlockGas {
        /// The transaction's.
        gas_limit: u64,
        /// What is left of the block's.
        left: u64,
    },
    /// The sender has as many transactions in the block as it may.
    #[error("the sender has {limit} transactions in the block already")]
    SenderLimit {
        /// `ChainParams::sender_tx_limit`.
        limit: u32,
    },
    /// The sender is a contract (EIP-3607).
    #[error("sender not an eoa")]
    SenderIsContract,
    /// Signed for another chain.
    #[error("invalid chain id for signer: have {have:?} want {want}")]
    ChainId {
        /// The chain that it was signed for.
        have: Option<u64>,
        /// This chain.
        want: u64,
    },
    /// The block has as many transactions as a block may have.
    #[error("the block has {MAX_TRANSACTIONS_PER_BLOCK} transactions already")]
    Count,
    /// The tip exceeds the whole fee (EIP-1559).
    #[error("max priority fee per gas higher than max fee per gas: maxPriorityFeePerGas: {tip}, maxFeePerGas: {max}")]
    TipAboveFeeCap {
        /// Priority fee in wei per gas.
        tip: u64,
        /// Fee cap in wei per gas.
        max: u64,
    },
    /// The epoch has no key, so nothing can be sealed to it, and no beacon, so that nothing can be shuffled.
    #[error("epoch {0} has no key and takes nothing from users")]
    NoKey(Epoch),
    /// Sealed to the key of another epoch.
    #[error("the envelope is sealed to the key of epoch {found}, the block is in epoch {epoch}")]
    Epoch {
        /// The envelope's.
        found: Epoch,
        /// The block's.
        epoch: Epoch,
    },
    /// Its time is over.
    #[error("the envelope was valid until height {valid_until}, the block is at {height}")]
    Expired {
        /// The envelope's last height.
        valid_until: Height,
        /// The block's height.
        height: Height,
    },
    /// It would be valid for longer than the chain allows.
    #[error("the envelope is valid until height {valid_until}, at {height} the limit is {limit}")]
    ValidTooLong {
        /// The envelope's last height.
        valid_until: Height,
        /// The block's height.
        height: Height,
        /// The last height that an envelope in the block may name.
        limit: Height,
    },
    /// Its ciphertext starts as that of another envelope in the block does, so it may be a copy.
    #[error("an envelope in the block has the same first component already")]
    SameComponent,
    /// The block has as many envelopes as a block may have.
    #[error("the block has {MAX_ENVELOPES_PER_BLOCK} envelopes already")]
    EnvelopeCount,
    /// A deposit of the sender has no result yet.
    #[error("a deposit of the sender is on its way already")]
    DepositInFlight,
}

/// Why a block's transactions are not valid, or not known to be.
#[derive(Debug, Error)]
pub enum OrderingError {
    /// The block is invalid: its ancestors and the state that they prove show it.
    #[error("transaction {index} of {sender}: {refusal}")]
    Invalid {
        /// Place in the block.
        index: usize,
        /// Who signed it; the payer of an envelope.
        sender: Address,
        /// The rule that it breaks.
        refusal: Refusal,
    },
    /// The check was set up with a state other than the one that the branch proves.
    #[error("the state of {view} was given, the branch proves that of {proved}")]
    Basis {
        /// The state given.
        view: Height,
        /// What the branch proves.
        proved: Height,
    },
    /// The store failed; nothing is known of the block.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a transaction was not taken by [`OrderingCheck::push`].
#[derive(Debug, Error)]
pub enum PushError {
    /// It may not stand here.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Gas that a transaction costs before it starts, and the least that its data makes it cost (EIP-7623).
#[must_use]
pub fn intrinsic_gas(tx: &RecoveredTransaction) -> (u64, u64) {
    let envelope = tx.envelope();
    let (accounts, slots) = envelope
        .access_list()
        .map_or((0, 0), |list| (list.0.len() as u64, list.0.iter().map(|item| item.storage_keys.len() as u64).sum()));
    let params = GasParams::new_spec(SPEC);
    let gas = params.initial_tx_gas(envelope.input(), envelope.is_create(), accounts, slots, 0, None);
    (gas.initial_total_gas(), gas.floor_gas())
}

/// Checks what a transaction shows by itself.
///
/// # Errors
/// The rule that it breaks; no block of the chain can carry it then.
pub fn check_transaction(params: &ChainParams, tx: &RecoveredTransaction) -> Result<(), Refusal> {
    let (envelope, gas_limit) = (tx.envelope(), tx.gas_limit());
    if envelope.chain_id() != Some(params.chain_id.0) {
        return Err(Refusal::ChainId { have: envelope.chain_id(), want: params.chain_id.0 });
    }
    if tx.nonce() == u64::MAX {
        return Err(Refusal::NonceMax);
    }
    if gas_limit > params.block_gas_limit {
        return Err(Refusal::TransactionGas { gas_limit, limit: params.block_gas_limit });
    }
    if envelope.is_create() && envelope.input().len() > MAX_INITCODE_SIZE {
        return Err(Refusal::InitCodeSize { size: envelope.input().len() });
    }
    let (needed, floor) = intrinsic_gas(tx);
    if gas_limit < needed {
        return Err(Refusal::IntrinsicGas { gas_limit, needed });
    }
    if gas_limit < floor {
        return Err(Refusal::FloorGas { gas_limit, needed: floor });
    }
    Ok(())
}

/// What a sender may still order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderState {
    /// The nonce that its next transaction must have.
    pub next_nonce: u64,
    /// Wei that are not reserved.
    pub available: U256,
    /// Whether it is a contract, which can order nothing (EIP-3607).
    pub is_contract: bool,
}

/// What a sender may order on top of a branch, in a state that the branch proves.
///
/// # Errors
/// If the store fails.
pub fn sender_state(view: &StateView, in_flight: &InFlight, sender: &Address) -> Result<SenderState, StoreError> {
    let account = view.account(sender)?.unwrap_or_default();
    let load = in_flight.sender(sender);
    Ok(SenderState {
        next_nonce: account.nonce.saturating_add(load.count),
        available: account.balance.saturating_sub(load.cost),
        is_contract: account.has_code(),
    })
}

/// Takes the transactions of a block one by one.
#[derive(Debug)]
pub struct OrderingCheck<'a> {
    params: &'a ChainParams,
    base_fee: u64,
    view: &'a StateView,
    in_flight: &'a InFlight,
    senders: HashMap<Address, SenderState>,
    load: BlockLoad,
    ordered_gas: u64,
    count: usize,
}

impl<'a> OrderingCheck<'a> {
    /// A block with this base fee on top of a branch. `view` is the state at `in_flight.results_up_to()`.
    ///
    /// # Errors
    /// [`OrderingError::Basis`] if it is not.
    pub fn new(
        params: &'a ChainParams,
        base_fee: u64,
        view: &'a StateView,
        in_flight: &'a InFlight,
    ) -> Result<Self, OrderingError> {
        in_flight.check_basis(view)?;
        let (senders, load) = Default::default();
        Ok(Self { params, base_fee, view, in_flight, senders, load, ordered_gas: 0, count: 0 })
    }

    /// Adds a transaction if it may stand at this place. A refused one changes nothing.
    ///
    /// # Errors
    /// The rule that it breaks, or a failing store.
    pub fn push(&mut self, tx: &RecoveredTransaction) -> Result<(), PushError> {
        check_transaction(self.params, tx)?;
        if self.count >= MAX_TRANSACTIONS_PER_BLOCK {
            return Err(Refusal::Count.into());
        }
        let max_fee = tx.max_fee_per_gas();
        if max_fee < u128::from(self.base_fee) {
            return Err(Refusal::FeeCap { max_fee, base_fee: self.base_fee }.into());
        }
        let (gas_limit, left) = (tx.gas_limit(), self.params.block_gas_limit - self.ordered_gas);
        if gas_limit > left {
            return Err(Refusal::BlockGas { gas_limit, left }.into());
        }
        let limit = self.params.sender_tx_limit;
        if self.load.sender(&tx.sender()).count >= u64::from(limit) {
            return Err(Refusal::SenderLimit { limit }.into());
        }
        let state = match self.senders.entry(tx.sender()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(sender_state(self.view, self.in_flight, &tx.sender())?),
        };
        if state.is_contract {
            return Err(Refusal::SenderIsContract.into());
        }
        reserve((&mut state.next_nonce, &mut state.available), tx.nonce(), tx.max_cost())?;
        self.load.add(tx);
        self.ordered_gas += gas_limit;
        self.count += 1;
        Ok(())
    }

    /// Gas limits so far.
    #[must_use]
    pub const fn ordered_gas(&self) -> OrderedGas {
        OrderedGas(self.ordered_gas)
    }

    /// Ends the block: its ordered gas, and its load for [`InFlight::with_block`].
    #[must_use]
    pub fn finish(self) -> (OrderedGas, BlockLoad) {
        (OrderedGas(self.ordered_gas), self.load)
    }
}

/// Takes a nonce and the most that comes with it from what somebody may still order. Refused, it takes nothing.
fn reserve((next_nonce, available): (&mut u64, &mut U256), nonce: u64, cost: U256) -> Result<(), Refusal> {
    if nonce != *next_nonce {
        return Err(Refusal::Nonce { found: nonce, due: *next_nonce });
    }
    let left = available.checked_sub(cost).ok_or(Refusal::Reserve { cost, available: *available })?;
    *available = left;
    *next_nonce += 1;
    Ok(())
}

/// Checks the transactions of a whole block.
///
/// # Errors
/// The first transaction that breaks a rule, or what kept the check from being made.
pub fn check_block_transactions(
    params: &ChainParams,
    base_fee: u64,
    view: &StateView,
    in_flight: &InFlight,
    transactions: &[RecoveredTransaction],
) -> Result<(OrderedGas, BlockLoad), OrderingError> {
    let mut check = OrderingCheck::new(params, base_fee, view, in_flight)?;
    for (index, tx) in transactions.iter().enumerate() {
        check.push(tx).map_err(|error| match error {
            PushError::Refused(refusal) => OrderingError::Invalid { index, sender: tx.sender(), refusal },
            PushError::Store(error) => error.into(),
        })?;
    }
    Ok(check.finish())
}
