//! Recent blocks with what was recovered from their transactions.

use std::sync::Arc;

use cascade_crypto::ecdsa;
use cascade_execution::BlockLoad;
use cascade_primitives::{
    B256, Bytes, ChainParams, Height, RecoveredTransaction, SealedBlock, Transaction, TransactionError, keccak256,
};
use parking_lot::Mutex;
use thiserror::Error;

use super::recent::Recent;

/// Signers of the transactions of recent blocks, so that execution does not recover what validation did.
#[derive(Clone, Debug, Default)]
pub struct RecoveredBlocks(Arc<Mutex<Recent<BlockContent>>>);

/// The least gas that a transaction may ask for: what every one uses (EIP-2028 and before).
const LEAST_GAS: u64 = 21_000;

/// Why transactions are no block's content.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ContentError {
    /// One of them.
    #[error(transparent)]
    Transaction(#[from] TransactionError),
    /// All of them, before anybody's signature is looked at.
    #[error("its transactions ask for more gas than a block has, which is {limit}, or one for less than any uses")]
    Gas {
        /// `ChainParams::block_gas_limit`.
        limit: u64,
    },
}

/// A block's transactions with their signers, and what they take of each.
#[derive(Debug)]
pub struct BlockContent {
    /// The transactions in order.
    pub transactions: Vec<RecoveredTransaction>,
    /// What each sender has in the block.
    pub load: Arc<BlockLoad>,
}

impl RecoveredBlocks {
    /// A block's content if it is known.
    #[must_use]
    pub fn get(&self, block: &SealedBlock) -> Option<Arc<BlockContent>> {
        self.0.lock().get(block)
    }

    /// Drops blocks up to a height.
    pub fn drop_up_to(&self, height: Height) {
        self.0.lock().drop_up_to(height);
    }

    /// A block's content; decodes and recovers what is not known yet.
    ///
    /// # Errors
    /// The first transaction that is none, or all for their gas.
    pub fn get_or_recover(
        &self,
        block: &SealedBlock,
        params: &ChainParams,
        known: impl Fn(&B256) -> Option<Arc<RecoveredTransaction>>,
    ) -> Result<Arc<BlockContent>, ContentError> {
        if let Some(content) = self.get(block) {
            return Ok(content);
        }
        let transactions = recover(&block.body.transactions, params, known)?;
        let load = Arc::new(BlockLoad::of(&transactions));
        let content = Arc::new(BlockContent { transactions, load });
        self.0.lock().insert(block, Arc::clone(&content));
        Ok(content)
    }
}

/// Decodes a block's transactions and recovers their signers. A signature takes 30 us, so gas, which bounds how many a block
/// may have, is added up before.
fn recover(
    raw: &[Bytes],
    params: &ChainParams,
    known: impl Fn(&B256) -> Option<Arc<RecoveredTransaction>>,
) -> Result<Vec<RecoveredTransaction>, ContentError> {
    let mut places: Vec<Option<RecoveredTransaction>> = Vec::with_capacity(raw.len());
    let (mut indices, mut decoded) = (Vec::new(), Vec::new());
    let limit = params.block_gas_limit;
    let mut left = limit;
    for (i, raw) in raw.iter().enumerate() {
        let pooled = known(&keccak256(raw)).map(|tx| RecoveredTransaction::clone(&tx));
        let gas = match &pooled {
            Some(pooled) => pooled.gas_limit(),
            None => {
                let transaction = Transaction::decode(raw.clone(), params.chain_id, params.max_tx_bytes as usize)?;
                let gas = transaction.gas_limit();
                indices.push(i);
                decoded.push(transaction);
                gas
            }
        };
        left = left.checked_sub(gas).filter(|_| gas >= LEAST_GAS).ok_or(ContentError::Gas { limit })?;
        places.push(pooled);
    }
    for (i, recovered) in indices.into_iter().zip(ecdsa::recover_all(decoded)) {
        places[i] = Some(recovered?);
    }
    Ok(places.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use cascade_primitives::Network;

    use super::*;

    /// A transfer with this gas limit whose signature is none.
    fn forged(gas: u64) -> Bytes {
        use alloy_consensus::{SignableTransaction as _, TxLegacy};
        let transaction = TxLegacy { chain_id: Some(20252), gas_limit: gas, ..TxLegacy::default() };
        let signature =
            alloy_primitives::Signature::new(alloy_primitives::U256::MAX, alloy_primitives::U256::ONE, false);
        let mut out = Vec::new();
        transaction.into_signed(signature).rlp_encode(&mut out);
        out.into()
    }

    #[test]
    fn gas_that_no_block_has_is_refused_before_signatures_are_looked_at() {
        let params = ChainParams { block_gas_limit: 100_000, ..ChainParams::of(Network::Regtest) };
        let refused = |gas: &[u64]| {
            let raw: Vec<_> = gas.iter().map(|gas| forged(*gas)).collect();
            recover(&raw, &params, |_| None).expect_err("signatures are forged")
        };
        let gas = ContentError::Gas { limit: 100_000 };
        assert_eq!(refused(&[50_000, 50_001]), gas);
        assert_eq!(refused(&[21_000, 20_999]), gas);
        assert_eq!(refused(&[u64::MAX, u64::MAX]), gas);
        assert_eq!(refused(&[50_000, 50_000]), TransactionError::Signature.into());
    }
}
