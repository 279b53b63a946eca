//! Which items a block of an encrypted chain may carry.
//!
//! The same rule as for transactions in the clear, kept although nobody sees what the envelopes do:
//!
//! ```text
//!  item       who pays                   nonce and money of             what can lower them
//!  envelope   the payer                  its entry in the fee ledger    its own envelopes
//!  deposit    the transfer's sender      its account                    its own deposits, and what its envelopes hide
//! ```
//!
//! **Envelopes are always payable.** Nothing but a payer's own envelopes lowers its balance in the ledger or uses its
//! nonces ([`crate::ledger`]), and the shuffle keeps those in the order of their nonces. So by induction over the blocks
//! each envelope that passes finds, when it runs, the nonce that it expects and gas limit times fee cap; it is charged
//! whatever it hides. What a payer withdraws it takes from that same sum ([`crate::withdrawal`]).
//!
//! **Deposits may turn out not to be**, since a hidden transaction of the same sender may run before them, use their
//! nonce or spend their money. Then they do nothing and cost nothing. It is affordable because each sender has at most
//! one deposit on its way: only transactions of its own make a deposit fail, the next deposit must fit a state in which
//! they have run, so each deposit that fails had its own hidden transaction, in an envelope that was charged for at
//! least as much gas as the deposit had reserved (21000). Whoever fills blocks with such deposits pays half of what honest
//! use of the room costs, at the least.
//!
//! A block has no two envelopes whose ciphertexts start with the same component: who copies another's ciphertext, even
//! if a proof allowed it, cannot have both opened together (decision 11 of the architecture). Who checks a block has
//! recovered its items (`cascade_crypto::ecdsa::recover_items`), which settles chain and fork, and checks the
//! ciphertexts' proofs beside this.

use std::collections::{HashMap, HashSet, hash_map::Entry};

use alloy_primitives::{Address, U256};
use bytes::Bytes;
use cascade_primitives::{
    ChainParams, Epoch, Height, RecoveredDeposit, RecoveredEnvelope, RecoveredItem,
    block::MAX_TRANSACTIONS_PER_BLOCK,
    envelope::{MAX_ENVELOPES_PER_BLOCK, POINT_BYTES},
};

use super::{
    BlockLoad, InFlight, OrderedGas, OrderingError, PushError, Refusal, check_transaction, reserve, sender_state,
};
use crate::{fees::least_envelope_gas, ledger::fee_account, state::StateView, store::StoreError};

/// What a payer may still order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayerState {
    /// The nonce that its next envelope must have.
    pub next_nonce: u64,
    /// Wei in the fee ledger that are not reserved.
    pub available: U256,
}

/// What a payer may order on top of a branch, in a state that the branch proves.
///
/// # Errors
/// If the store fails.
pub fn payer_state(view: &StateView, in_flight: &InFlight, payer: &Address) -> Result<PayerState, StoreError> {
    let account = fee_account(view, payer)?;
    let load = in_flight.payer(payer);
    Ok(PayerState {
        next_nonce: account.nonce.saturating_add(load.count),
        available: account.balance.saturating_sub(load.cost),
    })
}

/// Checks what an item shows by itself.
///
/// # Errors
/// The rule that it breaks; no block of the chain can carry it then.
pub fn check_item(params: &ChainParams, item: &RecoveredItem) -> Result<(), Refusal> {
    match item {
        RecoveredItem::Envelope(envelope) => check_envelope(params, envelope),
        RecoveredItem::Deposit(deposit) => check_transaction(params, deposit.transaction()),
    }
}

fn check_envelope(params: &ChainParams, envelope: &RecoveredEnvelope) -> Result<(), Refusal> {
    let gas_limit = envelope.gas_limit;
    if envelope.chain_id != params.chain_id {
        return Err(Refusal::ChainId { have: Some(envelope.chain_id.0), want: params.chain_id.0 });
    }
    if envelope.epoch == Epoch(0) {
        return Err(Refusal::NoKey(envelope.epoch));
    }
    if envelope.nonce == u64::MAX {
        return Err(Refusal::NonceMax);
    }
    let (tip, max) = (envelope.max_priority_fee_per_gas, envelope.max_fee_per_gas);
    if tip > max {
        return Err(Refusal::TipAboveFeeCap { tip, max });
    }
    if gas_limit > params.block_gas_limit {
        return Err(Refusal::TransactionGas { gas_limit, limit: params.block_gas_limit });
    }
    let needed = least_envelope_gas(envelope.bucket);
    if gas_limit < needed {
        return Err(Refusal::IntrinsicGas { gas_limit, needed });
    }
    Ok(())
}

/// Takes the items of a block one by one.
#[derive(Debug)]
pub struct ItemCheck<'a> {
    params: &'a ChainParams,
    base_fee: u64,
    height: Height,
    epoch: Epoch,
    view: &'a StateView,
    in_flight: &'a InFlight,
    payers: HashMap<Address, PayerState>,
    /// First components of the ciphertexts.
    components: HashSet<Bytes>,
    load: BlockLoad,
    ordered_gas: u64,
    count: usize,
}

impl<'a> ItemCheck<'a> {
    /// A block with this base fee, height and epoch on top of a branch. `view` is the state at
    /// `in_flight.results_up_to()`.
    ///
    /// # Errors
    /// [`OrderingError::Basis`] if it is not.
    pub fn new(
        params: &'a ChainParams,
        base_fee: u64,
        height: Height,
        epoch: Epoch,
        view: &'a StateView,
        in_flight: &'a InFlight,
    ) -> Result<Self, OrderingError> {
        in_flight.check_basis(view)?;
        let (payers, components, load) = Default::default();
        let (ordered_gas, count) = (0, 0);
        Ok(Self { params, base_fee, height, epoch, view, in_flight, payers, components, load, ordered_gas, count })
    }

    /// Adds an item if it may stand at this place. A refused one changes nothing.
    ///
    /// # Errors
    /// The rule that it breaks, or a failing store.
    pub fn push(&mut self, item: &RecoveredItem) -> Result<(), PushError> {
        check_item(self.params, item)?;
        if self.epoch == Epoch(0) {
            return Err(Refusal::NoKey(self.epoch).into());
        }
        if self.count >= MAX_TRANSACTIONS_PER_BLOCK {
            return Err(Refusal::Count.into());
        }
        let (gas_limit, max_fee) = match item {
            RecoveredItem::Envelope(envelope) => (envelope.gas_limit, u128::from(envelope.max_fee_per_gas)),
            RecoveredItem::Deposit(deposit) => {
                (deposit.transaction().gas_limit(), deposit.transaction().max_fee_per_gas())
            }
        };
        if max_fee < u128::from(self.base_fee) {
            return Err(Refusal::FeeCap { max_fee, base_fee: self.base_fee }.into());
        }
        let left = self.params.block_gas_limit - self.ordered_gas;
        if gas_limit > left {
            return Err(Refusal::BlockGas { gas_limit, left }.into());
        }
        match item {
            RecoveredItem::Envelope(envelope) => self.envelope(envelope)?,
            RecoveredItem::Deposit(deposit) => self.deposit(deposit)?,
        }
        self.load.add_item(item);
        self.ordered_gas += gas_limit;
        self.count += 1;
        Ok(())
    }

    /// The last step that can refuse an envelope; reserves for it.
    fn envelope(&mut self, envelope: &RecoveredEnvelope) -> Result<(), PushError> {
        if envelope.epoch != self.epoch {
            return Err(Refusal::Epoch { found: envelope.epoch, epoch: self.epoch }.into());
        }
        let (height, valid_until) = (self.height, envelope.valid_until);
        if valid_until < height {
            return Err(Refusal::Expired { valid_until, height }.into());
        }
        let limit = Height(height.0.saturating_add(self.params.max_validity));
        if valid_until > limit {
            return Err(Refusal::ValidTooLong { valid_until, height, limit }.into());
        }
        if self.components.len() >= MAX_ENVELOPES_PER_BLOCK {
            return Err(Refusal::EnvelopeCount.into());
        }
        let component = envelope.ciphertext.slice(..POINT_BYTES.min(envelope.ciphertext.len()));
        if self.components.contains(&component) {
            return Err(Refusal::SameComponent.into());
        }
        let payer = envelope.payer();
        let limit = self.params.sender_tx_limit;
        if self.load.payer(&payer).count >= u64::from(limit) {
            return Err(Refusal::SenderLimit { limit }.into());
        }
        let state = match self.payers.entry(payer) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(payer_state(self.view, self.in_flight, &payer)?),
        };
        reserve((&mut state.next_nonce, &mut state.available), envelope.nonce, envelope.max_cost())?;
        self.components.insert(component);
        Ok(())
    }

    /// The last step that can refuse a deposit.
    fn deposit(&self, deposit: &RecoveredDeposit) -> Result<(), PushError> {
        let tx = deposit.transaction();
        let sender = tx.sender();
        if self.in_flight.sender(&sender).count > 0 || self.load.sender(&sender).count > 0 {
            return Err(Refusal::DepositInFlight.into());
        }
        let mut state = sender_state(self.view, self.in_flight, &sender)?;
        if state.is_contract {
            return Err(Refusal::SenderIsContract.into());
        }
        Ok(reserve((&mut state.next_nonce, &mut state.available), tx.nonce(), tx.max_cost())?)
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

/// Checks the items of a whole block.
///
/// # Errors
/// The first item that breaks a rule, or what kept the check from being made.
pub fn check_block_items(
    params: &ChainParams,
    base_fee: u64,
    height: Height,
    epoch: Epoch,
    view: &StateView,
    in_flight: &InFlight,
    items: &[RecoveredItem],
) -> Result<(OrderedGas, BlockLoad), OrderingError> {
    let mut check = ItemCheck::new(params, base_fee, height, epoch, view, in_flight)?;
    for (index, item) in items.iter().enumerate() {
        check.push(item).map_err(|error| match error {
            PushError::Refused(refusal) => OrderingError::Invalid { index, sender: sender(item), refusal },
            PushError::Store(error) => error.into(),
        })?;
    }
    Ok(check.finish())
}

/// Whose nonce and money an item takes.
const fn sender(item: &RecoveredItem) -> Address {
    match item {
        RecoveredItem::Envelope(envelope) => envelope.payer(),
        RecoveredItem::Deposit(deposit) => deposit.transaction().sender(),
    }
}
