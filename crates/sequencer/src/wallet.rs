//! Signing of transfers, for `cascade send`, the testnet's probes and the load driver.

use std::fmt;

use alloy_consensus::{SignableTransaction as _, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, keccak256};
use cascade_primitives::ChainId;
use secp256k1::{Message, SECP256K1, SecretKey};

/// Gas of a transfer without data.
pub const TRANSFER_GAS: u64 = 21_000;

/// What a transaction offers for its gas, in wei per gas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fees {
    /// Most, base fee included.
    pub max: u128,
    /// To the producer.
    pub tip: u128,
}

/// A transfer before it is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The chain.
    pub chain: ChainId,
    /// The sender's nonce.
    pub nonce: u64,
    /// The receiver.
    pub to: Address,
    /// In wei.
    pub value: U256,
    /// Call data.
    pub data: Bytes,
    /// Gas limit.
    pub gas: u64,
    /// What it offers.
    pub fees: Fees,
}

/// An account with its secp256k1 key.
#[derive(Clone)]
pub struct Wallet {
    secret: SecretKey,
    address: Address,
}

impl fmt::Debug for Wallet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wallet({})", self.address)
    }
}

impl Wallet {
    /// The account of a key; none if the bytes are no key.
    #[must_use]
    pub fn new(secret: [u8; 32]) -> Option<Self> {
        let secret = SecretKey::from_byte_array(secret).ok()?;
        let public = secret.public_key(SECP256K1).serialize_uncompressed();
        Some(Self { secret, address: Address::from_raw_public_key(&public[1..]) })
    }

    /// The account of a public name. Everybody can know its key: only for regtest.
    #[must_use]
    pub fn public(name: &str, index: u64) -> Self {
        let seed = keccak256(format!("cascade public {name} account {index}"));
        Self::new(seed.0).expect("a hash is no valid key with probability 2^-128")
    }

    /// Its address.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.address
    }

    /// Its key.
    #[must_use]
    pub fn secret(&self) -> B256 {
        B256::from(self.secret.secret_bytes())
    }

    /// Its key, to sign envelopes with.
    #[must_use]
    pub const fn signing_key(&self) -> &SecretKey {
        &self.secret
    }

    /// Signs a transfer (EIP-1559): its hash and its encoding.
    #[must_use]
    pub fn sign(&self, transfer: &Transfer) -> (B256, Vec<u8>) {
        let transaction = TxEip1559 {
            chain_id: transfer.chain.0,
            nonce: transfer.nonce,
            gas_limit: transfer.gas,
            max_fee_per_gas: transfer.fees.max,
            max_priority_fee_per_gas: transfer.fees.tip,
            to: TxKind::Call(transfer.to),
            value: transfer.value,
            access_list: Default::default(),
            input: transfer.data.clone(),
        };
        let message = Message::from_digest(transaction.signature_hash().0);
        let (id, rs) = SECP256K1.sign_ecdsa_recoverable(message, &self.secret).serialize_compact();
        let odd = i32::from(id) & 1 == 1;
        let signed = transaction.into_signed(Signature::from_bytes_and_parity(&rs, odd));
        let hash = *signed.hash();
        (hash, TxEnvelope::from(signed).encoded_2718())
    }
}

#[cfg(test)]
mod tests {
    use cascade_primitives::Transaction;

    use super::*;

    #[test]
    fn what_a_wallet_signs_the_chain_recovers() {
        let wallet = Wallet::public("test", 1);
        let transfer = Transfer {
            chain: ChainId(20252),
            nonce: 7,
            to: Address::repeat_byte(9),
            value: U256::from(5),
            data: Bytes::new(),
            gas: TRANSFER_GAS,
            fees: Fees { max: 10, tip: 1 },
        };
        let (hash, raw) = wallet.sign(&transfer);
        let decoded = Transaction::decode(raw.into(), ChainId(20252), 1000).unwrap();
        assert_eq!(decoded.hash(), hash);
        let recovered = cascade_crypto::ecdsa::recover(decoded).unwrap();
        assert_eq!(recovered.sender(), wallet.address());
        assert_eq!(recovered.nonce(), 7);
    }
}
