//! Transactions into envelopes, on the user's side: what the proxy, `cascade send` and the load driver share.

use alloy_primitives::Bytes;
use cascade_crypto::{
    ecdsa::SecretKey,
    envelope::{self, SealError, Terms},
    threshold::EncryptionKey,
};
use cascade_primitives::{
    ChainParams, Epoch, RecoveredEnvelope, SigningContext, Transaction, TransactionError, envelope::POINT_BYTES,
};
use thiserror::Error;

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
    /// The chain has no key yet.
    #[error("the chain's first key is still being made ({0}); a fresh chain takes envelopes after some seconds")]
    NoKey(String),
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
}

impl Seal {
    /// The key of the epoch that votes now, from a node's answer to `l2_epochKey`. Envelopes are valid for `blocks` blocks,
    /// or as long as the chain allows.
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
        Ok(Self { context, epoch: found.epoch, key, valid_until })
    }

    /// Seals a signed transaction. The envelope offers what the transaction offers, and the payer pays it.
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
        let limit = params.max_tx_bytes as usize;
        let transaction = Transaction::decode(raw.0.clone(), params.chain_id, limit)?;
        let gas_limit = Terms::gas_for(raw.len(), transaction.gas_limit()).ok_or(SealError(raw.len()))?;
        let narrow = |wei: u128| u64::try_from(wei).unwrap_or(u64::MAX);
        let terms = Terms {
            epoch: self.epoch,
            nonce,
            gas_limit,
            max_fee_per_gas: narrow(transaction.max_fee_per_gas()),
            max_priority_fee_per_gas: narrow(transaction.max_priority_fee_per_gas()),
            valid_until: self.valid_until,
        };
        Ok(envelope::seal(&self.key, &self.context, &terms, raw, payer, &mut rand::rng())?)
    }
}
