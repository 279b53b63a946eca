//! What is checked before a transaction is sealed. Sequencers cannot see what is inside, so what is wrong with it shows
//! when it is executed and its envelope is charged; here it is refused in geth's words, for nothing.

use std::sync::Arc;

use alloy_primitives::{Address, Bytes, U256};
use cascade_crypto::ecdsa;
use cascade_mempool::{AdmissionError, Pool, PoolLimits};
use cascade_primitives::{ChainParams, RecoveredTransaction, Transaction};
use jsonrpsee::types::ErrorObjectOwned;

use super::book::{Book, MAX_ITEMS, MAX_OF_SENDER, outbids};
use crate::{
    cli::units,
    rpc::{
        backend::SubmitError,
        error::{Answer, server},
    },
};

/// What the chain says of a sender: executed.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    /// Its nonce.
    pub next: u64,
    /// Its balance in wei.
    pub balance: U256,
}

/// Decodes a transaction and checks what needs no state: form, chain, size, signature, gas, least fee.
///
/// # Errors
/// As a node refuses a transaction.
pub fn decode(raw: &Bytes, params: &ChainParams) -> Answer<Arc<RecoveredTransaction>> {
    let refused = |reason: SubmitError| ErrorObjectOwned::from(reason);
    let decoded = Transaction::decode(raw.0.clone(), params.chain_id, params.max_tx_bytes as usize);
    let decoded = decoded.map_err(|error| refused(error.into()))?;
    Pool::<RecoveredTransaction>::new(PoolLimits::of(params)).check(&decoded).map_err(|error| refused(error.into()))?;
    let recovered = ecdsa::recover(decoded).map_err(|error| refused(error.into()))?;
    Ok(Arc::new(recovered))
}

/// Checks a transaction that is not here against its sender and what is here already. Gas is the payer's affair.
///
/// # Errors
/// As a node refuses a transaction.
pub fn admit(book: &Book, transaction: &RecoveredTransaction, sender: Sender) -> Answer<()> {
    let (address, nonce, next) = (transaction.sender(), transaction.nonce(), sender.next);
    let refused = |reason: AdmissionError| Err(SubmitError::from(reason).into());
    if nonce < next {
        return refused(AdmissionError::NonceTooLow { next, nonce });
    }
    let limit = next.saturating_add(MAX_OF_SENDER as u64);
    if nonce >= limit {
        return refused(AdmissionError::NonceTooHigh { next, nonce, limit });
    }
    let before = book.value_beside(address, nonce);
    if before.saturating_add(transaction.value()) > sender.balance {
        // The cost as wallets compute it, so that they recognize it. What is missing is the value: gas is on the payer.
        let (balance, cost) = (sender.balance, transaction.max_cost());
        return refused(match before.is_zero() {
            true => AdmissionError::InsufficientFunds { balance, cost },
            false => AdmissionError::InsufficientFundsForAll { balance, queued: before, cost },
        });
    }
    let here = book.items.get(&(address, nonce));
    match here {
        Some(old) if !outbids(transaction, &old.wanted) => refused(AdmissionError::ReplacementUnderpriced),
        // A deposit has another place in a block than what is sealed. One of which nothing is under way can be given up.
        Some(old)
            if !old.is_held() && !old.is_stuck() && book.is_deposit(&old.wanted) != book.is_deposit(transaction) =>
        {
            Err(server(
                "a deposit on its way to the payer can be replaced by a deposit alone, and nothing else by a deposit; wait \
             until it is executed",
            ))
        }
        None if book.items.len() >= MAX_ITEMS => {
            Err(server(format!("txpool is full: the proxy has {MAX_ITEMS} transactions that are not executed; wait")))
        }
        _ => Ok(()),
    }
}

/// What a user is told whose payer cannot pay.
#[must_use]
pub fn unfunded(payer: Address, available: U256, cost: U256) -> ErrorObjectOwned {
    server(format!(
        "insufficient funds for gas: the payer of this proxy has {} CAS left and this transaction may cost {} CAS; {}",
        units::format_cas(available),
        units::format_cas(cost),
        remedy(payer)
    ))
}

/// The step that a new user has to take.
#[must_use]
pub fn remedy(payer: Address) -> String {
    format!("send some CAS to {payer} in your wallet; it pays the fees of your sealed transactions")
}
