//! What users sign: ordinary Ethereum transactions, so that wallets work unchanged.
//!
//! Legacy with replay protection (EIP-155), EIP-2930 and EIP-1559. Blob (EIP-4844) and set-code (EIP-7702)
//! transactions are refused: the chain has no blobs, and the reserve rule for fees in flight (decision 14 of the
//! architecture) rests on the fact that nothing but its own transactions takes money from a signer's account.

use alloy_consensus::{Transaction as _, TxEnvelope, TxType};
use alloy_eips::eip2718::{Decodable2718, Encodable2718};
use alloy_primitives::{Address, B256, U256};
use bytes::Bytes;
use thiserror::Error;

use crate::ids::ChainId;

/// A decoded transaction with the bytes and the hash that belong to it.
#[derive(Clone, Debug)]
pub struct Transaction {
    raw: Bytes,
    envelope: TxEnvelope,
    hash: B256,
}

/// Why bytes are no transaction of this chain. The texts are those that users of geth know.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TransactionError {
    /// Longer than the chain allows.
    #[error("oversized data: transaction size {size}, limit {limit}")]
    Oversized {
        /// Bytes found.
        size: usize,
        /// `ChainParams::max_tx_bytes`.
        limit: usize,
    },
    /// Not the encoding of any transaction (EIP-2718, RLP).
    #[error("rlp: {0}")]
    Encoding(String),
    /// A type that this chain does not take.
    #[error("transaction type not supported")]
    Type(u8),
    /// Legacy without replay protection.
    #[error("only replay-protected (EIP-155) transactions allowed over RPC")]
    Unprotected,
    /// Signed for another chain.
    #[error("invalid chain id for signer: have {have} want {want}")]
    ChainId {
        /// The chain it was signed for.
        have: u64,
        /// This chain.
        want: u64,
    },
    /// The signature is not one, or is malleable (EIP-2).
    #[error("invalid sender")]
    Signature,
    /// The tip exceeds the whole fee (EIP-1559).
    #[error("max priority fee per gas higher than max fee per gas: maxPriorityFeePerGas: {tip}, maxFeePerGas: {max}")]
    TipAboveFee {
        /// Priority fee in wei per gas.
        tip: u128,
        /// Fee cap in wei per gas.
        max: u128,
    },
}

impl Transaction {
    /// Decodes and checks what needs neither state nor cryptography: size, canonical encoding, type, chain.
    ///
    /// # Errors
    /// [`TransactionError`], never [`TransactionError::Signature`].
    pub fn decode(raw: Bytes, chain: ChainId, limit: usize) -> Result<Self, TransactionError> {
        if raw.len() > limit {
            return Err(TransactionError::Oversized { size: raw.len(), limit });
        }
        if let Some(&first) = raw.first()
            && first < 0x80
            && !matches!(first, 1 | 2)
        {
            return Err(TransactionError::Type(first));
        }
        let envelope =
            TxEnvelope::decode_2718_exact(&raw).map_err(|error| TransactionError::Encoding(error.to_string()))?;
        match envelope.tx_type() {
            TxType::Legacy | TxType::Eip2930 | TxType::Eip1559 => {}
            other => return Err(TransactionError::Type(other as u8)),
        }
        if envelope.encoded_2718() != raw {
            return Err(TransactionError::Encoding("the encoding is not canonical".to_owned()));
        }
        match envelope.chain_id() {
            None => return Err(TransactionError::Unprotected),
            Some(have) if have != chain.0 => return Err(TransactionError::ChainId { have, want: chain.0 }),
            Some(_) => {}
        }
        let (tip, max) = (envelope.max_priority_fee_per_gas().unwrap_or(0), envelope.max_fee_per_gas());
        if tip > max {
            return Err(TransactionError::TipAboveFee { tip, max });
        }
        let hash = *envelope.tx_hash();
        Ok(Self { raw, envelope, hash })
    }

    /// The EIP-2718 encoding.
    #[must_use]
    pub const fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The decoded transaction.
    #[must_use]
    pub const fn envelope(&self) -> &TxEnvelope {
        &self.envelope
    }

    /// Its hash, which wallets show.
    #[must_use]
    pub const fn hash(&self) -> B256 {
        self.hash
    }

    /// The signer's nonce.
    #[must_use]
    pub fn nonce(&self) -> u64 {
        self.envelope.nonce()
    }

    /// Gas limit.
    #[must_use]
    pub fn gas_limit(&self) -> u64 {
        self.envelope.gas_limit()
    }

    /// Fee cap in wei per gas; the gas price of a legacy transaction.
    #[must_use]
    pub fn max_fee_per_gas(&self) -> u128 {
        self.envelope.max_fee_per_gas()
    }

    /// Priority fee cap in wei per gas; the gas price of a legacy transaction.
    #[must_use]
    pub fn max_priority_fee_per_gas(&self) -> u128 {
        self.envelope.max_priority_fee_per_gas().unwrap_or_else(|| self.envelope.max_fee_per_gas())
    }

    /// Wei that go to the receiver.
    #[must_use]
    pub fn value(&self) -> U256 {
        self.envelope.value()
    }

    /// The most that it can take from its signer: gas limit times fee cap, and the value. Saturates, which no
    /// balance reaches.
    #[must_use]
    pub fn max_cost(&self) -> U256 {
        U256::from(self.gas_limit()).saturating_mul(U256::from(self.max_fee_per_gas())).saturating_add(self.value())
    }
}

/// A transaction whose signer is known.
#[derive(Clone, Debug)]
pub struct RecoveredTransaction {
    transaction: Transaction,
    sender: Address,
}

impl RecoveredTransaction {
    /// Puts a transaction and its recovered signer together. `cascade_crypto::ecdsa` is where signers are recovered.
    #[must_use]
    pub const fn new(transaction: Transaction, sender: Address) -> Self {
        Self { transaction, sender }
    }

    /// Who signed it.
    #[must_use]
    pub const fn sender(&self) -> Address {
        self.sender
    }
}

impl std::ops::Deref for RecoveredTransaction {
    type Target = Transaction;

    fn deref(&self) -> &Transaction {
        &self.transaction
    }
}
