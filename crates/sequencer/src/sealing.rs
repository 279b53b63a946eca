//! Transactions into envelopes, on the user's side: what the proxy, `cascade send` and the load driver share.

mod offer;

use alloy_primitives::Bytes;
use cascade_crypto::{
    ecdsa::{self, SecretKey},
    envelope::{self, GasClasses, SealError, Terms},
    threshold::EncryptionKey,
};
use cascade_primitives::{
    ChainParams, Deposit, EcdsaSignature, Encode as _, Epoch, Item, RecoveredEnvelope, SigningContext, Transaction,
    TransactionError,
    envelope::{DepositError, POINT_BYTES},
};
use thiserror::Error;

pub use self::offer::{Offer, OfferError};
use crate::rpc::types::EpochKeys;

/// Why a transaction cannot be sealed.
#[derive(Debug, Error)]
pub enum SealingError {
    /// It is none of this chain's.
    #[error(transparent)]
    Transaction(#[from] TransactionError),
    /// It is too large.
    #[error(transparent)]
    Size(#[from] SealError),
    /// The chain has no key yet, or the first epoch that has one has not begun.
    #[error(
        "the chain's first key is still being made, or about to be used ({0}); a fresh chain takes envelopes after some seconds"
    )]
    NoKey(String),
    /// A deposit has another form.
    #[error("{0}; a wallet that sets another gas limit must be told 21000")]
    Deposit(#[from] DepositError),
    /// The node's key is none.
    #[error("the node answered with a key that is none")]
    Key,
}

/// What a transaction is sealed with.
#[derive(Clone, Debug)]
pub struct Seal {
    /// What signatures are bound to.
    pub context: SigningContext,
    /// The epoch of the key.
    pub epoch: Epoch,
    /// The key.
    pub key: EncryptionKey,
    /// The last height at which envelopes may stand.
    pub valid_until: cascade_primitives::Height,
    /// What gas limits are rounded up to.
    pub classes: GasClasses,
}

/// The gas limit of an envelope around a transaction of so many bytes with this gas limit.
///
/// # Errors
/// If the transaction is too large for an envelope.
pub fn gas_limit(classes: &GasClasses, bytes: usize, gas_limit: u64, params: &ChainParams) -> Result<u64, SealError> {
    let least = Terms::gas_for(bytes, gas_limit).ok_or(SealError(bytes))?;
    Ok(classes.round(least, params.block_gas_limit))
}

impl Seal {
    /// The key of the epoch that votes now, from a node's answer to `l2_epochKey`. Envelopes are valid for `blocks` blocks,
    /// or as long as the chain allows, and their gas limits are those of the usual classes.
    ///
    /// # Errors
    /// [`SealingError::NoKey`] if there is none yet.
    pub fn of(keys: &EpochKeys, blocks: u64) -> Result<Self, SealingError> {
        let found = keys.keys.iter().find(|key| key.epoch == keys.epoch);
        let found = found.ok_or_else(|| {
            SealingError::NoKey(serde_json::to_string(&keys.progress).expect("progress has a JSON form"))
        })?;
        let bytes: &[u8; POINT_BYTES] = found.key.as_ref().try_into().map_err(|_| SealingError::Key)?;
        let key = EncryptionKey::from_bytes(bytes).ok_or(SealingError::Key)?;
        let context = SigningContext { chain_id: keys.chain_id, genesis_hash: keys.genesis_hash, fork: keys.fork };
        let valid_until = keys.height.plus(blocks.min(keys.max_validity));
        Ok(Self { context, epoch: found.epoch, key, valid_until, classes: GasClasses::default() })
    }

    /// The same with other classes of gas limits.
    #[must_use]
    pub fn with_classes(self, classes: &GasClasses) -> Self {
        Self { classes: classes.clone(), ..self }
    }

    /// Seals a signed transaction. The envelope offers what the transaction offers, but for the gas limit, which is
    /// rounded up to a class ([`GasClasses`]), and the payer pays it.
    ///
    /// # Errors
    /// [`SealingError`].
    pub fn transaction(
        &self,
        raw: &Bytes,
        payer: &SecretKey,
        nonce: u64,
        params: &ChainParams,
    ) -> Result<RecoveredEnvelope, SealingError> {
        self.offering(raw, payer, nonce, params, (0, 0))
    }

    /// The same with an offer (fee cap, tip cap) of at least `least` wei per gas: an envelope that takes the place of
    /// another one must offer more than that, whatever is inside.
    ///
    /// # Errors
    /// [`SealingError`].
    pub fn offering(
        &self,
        raw: &Bytes,
        payer: &SecretKey,
        nonce: u64,
        params: &ChainParams,
        least: (u64, u64),
    ) -> Result<RecoveredEnvelope, SealingError> {
        let limit = params.max_tx_bytes as usize;
        let transaction = Transaction::decode(raw.0.clone(), params.chain_id, limit)?;
        let gas_limit = gas_limit(&self.classes, raw.len(), transaction.gas_limit(), params)?;
        let narrow = |wei: u128| u64::try_from(wei).unwrap_or(u64::MAX);
        let max_fee_per_gas = narrow(transaction.max_fee_per_gas()).max(least.0);
        let terms = Terms {
            epoch: self.epoch,
            nonce,
            gas_limit,
            max_fee_per_gas,
            max_priority_fee_per_gas: narrow(transaction.max_priority_fee_per_gas()).max(least.1).min(max_fee_per_gas),
            valid_until: self.valid_until,
        };
        Ok(envelope::seal(&self.key, &self.context, &terms, raw, payer, &mut rand::rng())?)
    }
}

/// Wraps a transfer to a payer into a deposit, with the payer's consent: its hash and its encoding as an item.
///
/// # Errors
/// [`SealingError::Deposit`] if the transfer is more than a transfer.
pub fn deposit(
    raw: &Bytes,
    payer: &SecretKey,
    context: &SigningContext,
) -> Result<(alloy_primitives::B256, Vec<u8>), SealingError> {
    let mut deposit = Deposit { transaction: raw.0.clone(), consent: EcdsaSignature([0; 65]) };
    let transaction = deposit.decode_transaction(context.chain_id)?;
    deposit.consent = ecdsa::sign_digest(payer, &Deposit::digest(context, &transaction.hash()));
    Ok((transaction.hash(), Item::Deposit(deposit).to_bytes()))
}
