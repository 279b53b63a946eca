//! The state that a chain starts from.

use std::sync::Arc;

use alloy_primitives::{Address, B256, U256, keccak256};
use cascade_primitives::{Encode, Genesis, Height, TransactionRule};
use revm::{bytecode::Bytecode, primitives::KECCAK_EMPTY};
use thiserror::Error;

use crate::{
    cache::NodeCache,
    keys::{Account, account_key, encode_slot, slot_key},
    ledger::{FEE_LEDGER, FeeAccount, LEDGER_NONCE, fee_slot},
    memory::MemoryStore,
    store::{StateChanges, StoreError},
    tree::Tree,
};

/// Why accounts of a genesis file cannot be a state.
#[derive(Debug, Error)]
pub enum GenesisStateError {
    /// More money than 128 bits count. Fee arithmetic rests on this limit, which no supply comes near.
    #[error("alloc: the balances add up to 2^128 wei or more")]
    Supply,
    /// Storage of an account without code, which no transaction can bring about.
    #[error("alloc.{0}: has storage but no code")]
    StorageWithoutCode(Address),
    /// A nonce that leaves none for a transaction.
    #[error("alloc.{0}: the nonce is at its end")]
    Nonce(Address),
    /// Code that the EVM does not accept as such.
    #[error("alloc.{0}: code: {1}")]
    Code(Address, String),
    /// A balance in the fee ledger on a chain that has none.
    #[error("alloc.{0}: has fees, which only a chain with transactions = \"encrypted\" has a ledger for")]
    Fees(Address),
    /// An account at the address of the fee ledger.
    #[error("alloc.{FEE_LEDGER}: the address is reserved for the fee ledger")]
    Reserved,
    /// Computing the tree failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Version 0 of the state: the accounts of the genesis file. Its root goes into the genesis block.
///
/// # Errors
/// [`GenesisStateError`], which names the account.
pub fn genesis_changes(genesis: &Genesis) -> Result<StateChanges, GenesisStateError> {
    let mut values = Vec::new();
    let mut codes = Vec::new();
    let (mut supply, mut fees) = (U256::ZERO, U256::ZERO);
    let encrypted = genesis.params.transactions == TransactionRule::Encrypted;
    if encrypted && genesis.alloc.contains_key(&FEE_LEDGER) {
        return Err(GenesisStateError::Reserved);
    }
    for (address, account) in &genesis.alloc {
        if !encrypted && !account.fees.is_zero() {
            return Err(GenesisStateError::Fees(*address));
        }
        supply = supply.saturating_add(account.balance).saturating_add(account.fees);
        if supply > U256::from(u128::MAX) {
            return Err(GenesisStateError::Supply);
        }
        if account.nonce == u64::MAX {
            return Err(GenesisStateError::Nonce(*address));
        }
        if account.code.is_empty() && account.storage.values().any(|value| !value.is_zero()) {
            return Err(GenesisStateError::StorageWithoutCode(*address));
        }
        let mut code_hash = KECCAK_EMPTY;
        if !account.code.is_empty() {
            let checked = Bytecode::new_raw_checked(account.code.clone());
            let code = checked.map_err(|error| GenesisStateError::Code(*address, error.to_string()))?;
            if code.is_eip7702() {
                return Err(GenesisStateError::Code(*address, "a delegation (EIP-7702) is not supported".to_owned()));
            }
            code_hash = keccak256(&account.code);
            codes.push((code_hash, account.code.0.clone()));
        }
        let state = Account { nonce: account.nonce, balance: account.balance, code_hash };
        if !state.is_empty() {
            values.push((account_key(address), Some(state.to_bytes())));
        }
        for (slot, value) in account.storage.iter().filter(|(_, value)| !value.is_zero()) {
            let value = U256::from_be_bytes(value.0);
            values.push((slot_key(address, &U256::from_be_bytes(slot.0)), Some(encode_slot(&value).to_vec())));
        }
        if !account.fees.is_zero() {
            fees += account.fees;
            let entry = FeeAccount { balance: account.fees, nonce: 0 };
            let value = entry.to_slot().expect("the supply is below 2^128");
            values.push((slot_key(&FEE_LEDGER, &fee_slot(address)), Some(encode_slot(&value).to_vec())));
        }
    }
    if encrypted {
        let ledger = Account { nonce: LEDGER_NONCE, balance: fees, code_hash: KECCAK_EMPTY };
        values.push((account_key(&FEE_LEDGER), Some(ledger.to_bytes())));
    }
    values.sort_unstable_by_key(|(key, _)| *key);
    codes.sort_unstable_by_key(|(hash, _): &(B256, _)| *hash);
    codes.dedup();
    let store = Arc::new(MemoryStore::new());
    let update = Tree::new(&*store, &NodeCache::new(1)).update(Height::ZERO, &values)?;
    Ok(StateChanges::new(Height::ZERO, update, values, codes))
}
