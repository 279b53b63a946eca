//! What can wait in a pool, and what each kind shows by itself.

use alloy_consensus::Transaction as _;
use cascade_crypto::envelope::Sealed;
use cascade_primitives::{
    Address, B256, Bytes, Envelope, RecoveredDeposit, RecoveredEnvelope, RecoveredTransaction, Transaction, U256,
    envelope::envelope_gas,
};

use crate::{
    error::AdmissionError,
    gas::{MAX_INITCODE_BYTES, floor_gas, intrinsic_gas},
};

/// What a pool holds: something signed, with a nonce and a fee.
pub trait Pooled: std::fmt::Debug {
    /// Its name.
    fn hash(&self) -> B256;
    /// Whose nonce it takes and who pays.
    fn sender(&self) -> Address;
    /// The nonce.
    fn nonce(&self) -> u64;
    /// Gas that it reserves.
    fn gas_limit(&self) -> u64;
    /// Fee cap in wei per gas.
    fn max_fee_per_gas(&self) -> u128;
    /// Priority fee cap in wei per gas.
    fn max_priority_fee_per_gas(&self) -> u128;
    /// The most that it can take from its sender, in wei.
    fn max_cost(&self) -> U256;
    /// The bytes that it was read from.
    fn raw(&self) -> &Bytes;
    /// Checks what it shows by itself beyond gas limit, nonce and fee, which the pool checks.
    ///
    /// # Errors
    /// [`AdmissionError`].
    fn check(&self) -> Result<(), AdmissionError>;
}

/// Checks what an Ethereum transaction shows by itself: creation code and intrinsic gas.
pub(super) fn check_transaction(tx: &Transaction) -> Result<(), AdmissionError> {
    let gas = tx.gas_limit();
    let size = tx.envelope().input().len();
    if tx.envelope().is_create() && size > MAX_INITCODE_BYTES {
        return Err(AdmissionError::InitcodeSize { size, limit: MAX_INITCODE_BYTES });
    }
    let needed = intrinsic_gas(tx);
    if gas < needed {
        return Err(AdmissionError::IntrinsicGas { gas, needed });
    }
    let needed = floor_gas(tx);
    if gas < needed {
        return Err(AdmissionError::FloorDataGas { gas, needed });
    }
    Ok(())
}

impl Pooled for RecoveredTransaction {
    fn hash(&self) -> B256 {
        Transaction::hash(self)
    }

    fn sender(&self) -> Address {
        Self::sender(self)
    }

    fn nonce(&self) -> u64 {
        Transaction::nonce(self)
    }

    fn gas_limit(&self) -> u64 {
        Transaction::gas_limit(self)
    }

    fn max_fee_per_gas(&self) -> u128 {
        Transaction::max_fee_per_gas(self)
    }

    fn max_priority_fee_per_gas(&self) -> u128 {
        Transaction::max_priority_fee_per_gas(self)
    }

    fn max_cost(&self) -> U256 {
        Transaction::max_cost(self)
    }

    fn raw(&self) -> &Bytes {
        Transaction::raw(self)
    }

    fn check(&self) -> Result<(), AdmissionError> {
        check_transaction(self)
    }
}

/// An envelope whose payer is known and whose ciphertext was checked.
#[derive(Clone, Debug)]
pub struct CheckedEnvelope {
    /// The envelope.
    pub envelope: RecoveredEnvelope,
    /// Its ciphertext.
    pub sealed: Sealed,
}

impl Pooled for RecoveredEnvelope {
    fn hash(&self) -> B256 {
        Self::hash(self)
    }

    fn sender(&self) -> Address {
        self.payer()
    }

    fn nonce(&self) -> u64 {
        self.nonce
    }

    fn gas_limit(&self) -> u64 {
        self.gas_limit
    }

    fn max_fee_per_gas(&self) -> u128 {
        self.max_fee_per_gas.into()
    }

    fn max_priority_fee_per_gas(&self) -> u128 {
        self.max_priority_fee_per_gas.into()
    }

    fn max_cost(&self) -> U256 {
        Envelope::max_cost(self)
    }

    fn raw(&self) -> &Bytes {
        Self::raw(self)
    }

    fn check(&self) -> Result<(), AdmissionError> {
        let (gas, needed) = (self.gas_limit, envelope_gas(self.bucket));
        if gas < needed { Err(AdmissionError::IntrinsicGas { gas, needed }) } else { Ok(()) }
    }
}

impl Pooled for CheckedEnvelope {
    fn hash(&self) -> B256 {
        self.envelope.hash()
    }

    fn sender(&self) -> Address {
        self.envelope.payer()
    }

    fn nonce(&self) -> u64 {
        self.envelope.nonce
    }

    fn gas_limit(&self) -> u64 {
        self.envelope.gas_limit
    }

    fn max_fee_per_gas(&self) -> u128 {
        self.envelope.max_fee_per_gas.into()
    }

    fn max_priority_fee_per_gas(&self) -> u128 {
        self.envelope.max_priority_fee_per_gas.into()
    }

    fn max_cost(&self) -> U256 {
        self.envelope.max_cost()
    }

    fn raw(&self) -> &Bytes {
        self.envelope.raw()
    }

    fn check(&self) -> Result<(), AdmissionError> {
        self.envelope.check()
    }
}

impl Pooled for RecoveredDeposit {
    fn hash(&self) -> B256 {
        self.transaction().hash()
    }

    fn sender(&self) -> Address {
        self.transaction().sender()
    }

    fn nonce(&self) -> u64 {
        self.transaction().nonce()
    }

    fn gas_limit(&self) -> u64 {
        self.transaction().gas_limit()
    }

    fn max_fee_per_gas(&self) -> u128 {
        self.transaction().max_fee_per_gas()
    }

    fn max_priority_fee_per_gas(&self) -> u128 {
        self.transaction().max_priority_fee_per_gas()
    }

    fn max_cost(&self) -> U256 {
        self.transaction().max_cost()
    }

    fn raw(&self) -> &Bytes {
        Self::raw(self)
    }

    fn check(&self) -> Result<(), AdmissionError> {
        check_transaction(self.transaction())
    }
}
