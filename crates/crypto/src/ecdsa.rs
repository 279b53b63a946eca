//! Signers of Ethereum transactions, and payers of envelopes and deposits, recovered with libsecp256k1.

use cascade_primitives::{
    Address, B256, Bytes, ChainParams, Decode as _, DecodeError, Deposit, EcdsaSignature, Item, RecoveredDeposit,
    RecoveredEnvelope, RecoveredItem, RecoveredTransaction, SigningContext, Transaction, TransactionError,
    envelope::DepositError,
};
use rayon::prelude::*;
pub use secp256k1::SecretKey;
use secp256k1::{
    Message, SECP256K1,
    ecdsa::{RecoverableSignature, RecoveryId},
};
use thiserror::Error;

/// Recovers the signer of a transaction.
///
/// # Errors
/// [`TransactionError::Signature`] if the signature is none, or has a high S (EIP-2).
pub fn recover(transaction: Transaction) -> Result<RecoveredTransaction, TransactionError> {
    let sender = recover_sender(&transaction)?;
    Ok(RecoveredTransaction::new(transaction, sender))
}

/// Signatures that one core takes at a time, about a millisecond: to wake another one for fewer costs more than it gives.
const CHUNK: usize = 32;

/// Recovers the signers of many transactions, on all cores if there are enough of them. The answers stand in the order of
/// the input.
#[must_use]
pub fn recover_all(transactions: Vec<Transaction>) -> Vec<Result<RecoveredTransaction, TransactionError>> {
    if transactions.len() < 2 * CHUNK {
        return transactions.into_iter().map(recover).collect();
    }
    transactions.into_par_iter().with_min_len(CHUNK).map(recover).collect()
}

fn recover_sender(transaction: &Transaction) -> Result<Address, TransactionError> {
    let signature = transaction.envelope().signature();
    if signature.normalize_s().is_some() {
        return Err(TransactionError::Signature);
    }
    let mut compact = [0u8; 64];
    compact[..32].copy_from_slice(&signature.r().to_be_bytes::<32>());
    compact[32..].copy_from_slice(&signature.s().to_be_bytes::<32>());
    let id = if signature.v() { RecoveryId::One } else { RecoveryId::Zero };
    let message = Message::from_digest(transaction.envelope().signature_hash().0);
    let key = RecoverableSignature::from_compact(&compact, id)
        .and_then(|signature| SECP256K1.recover_ecdsa(message, &signature))
        .map_err(|_| TransactionError::Signature)?;
    Ok(Address::from_raw_public_key(&key.serialize_uncompressed()[1..]))
}

/// The account of a secp256k1 key.
#[must_use]
pub fn public_address(key: &SecretKey) -> Address {
    Address::from_raw_public_key(&key.public_key(SECP256K1).serialize_uncompressed()[1..])
}

/// Signs 32 bytes with a secp256k1 key; the signature is the canonical one of the two (EIP-2).
#[must_use]
pub fn sign_digest(key: &SecretKey, digest: &B256) -> EcdsaSignature {
    let (id, compact) = SECP256K1.sign_ecdsa_recoverable(Message::from_digest(digest.0), key).serialize_compact();
    let mut bytes = [0; 65];
    bytes[..64].copy_from_slice(&compact);
    bytes[64] = u8::try_from(i32::from(id)).expect("a recovery id is 0 to 3");
    EcdsaSignature(bytes)
}

/// The account whose key signed 32 bytes; none if the signature is none, or has a high S (EIP-2).
#[must_use]
pub fn recover_digest(signature: &EcdsaSignature, digest: &B256) -> Option<Address> {
    let (compact, parity) = signature.0.split_first_chunk::<64>().expect("65 bytes hold 64");
    let id = match parity {
        [0] => RecoveryId::Zero,
        [1] => RecoveryId::One,
        _ => return None,
    };
    let signature = RecoverableSignature::from_compact(compact, id).ok()?;
    let mut canonical = signature.to_standard();
    canonical.normalize_s();
    if canonical != signature.to_standard() {
        return None;
    }
    let key = SECP256K1.recover_ecdsa(Message::from_digest(digest.0), &signature).ok()?;
    Some(Address::from_raw_public_key(&key.serialize_uncompressed()[1..]))
}

/// Why bytes are no item of an encrypted chain.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ItemError {
    /// Longer than the chain allows.
    #[error("oversized data: item size {size}, limit {limit}")]
    Oversized {
        /// Bytes found.
        size: usize,
        /// `ChainParams::max_tx_bytes`.
        limit: usize,
    },
    /// Not the encoding of one.
    #[error("encoding: {0}")]
    Encoding(#[from] DecodeError),
    /// An envelope for another chain or history.
    #[error("the envelope is for chain {chain}, fork {fork}; this is chain {want}, fork {want_fork}")]
    Chain {
        /// Its chain.
        chain: u64,
        /// Its history.
        fork: u32,
        /// This chain.
        want: u64,
        /// Its history.
        want_fork: u32,
    },
    /// The tip exceeds the whole fee (EIP-1559).
    #[error("max priority fee per gas higher than max fee per gas: maxPriorityFeePerGas: {tip}, maxFeePerGas: {max}")]
    TipAboveFee {
        /// Priority fee in wei per gas.
        tip: u64,
        /// Fee cap in wei per gas.
        max: u64,
    },
    /// The payer's signature is none, or is malleable.
    #[error("the payer's signature is invalid")]
    Signature,
    /// A deposit that is none.
    #[error("deposit: {0}")]
    Deposit(#[from] DepositError),
}

/// Decodes an item and recovers who signed it. The ciphertext is not looked at.
///
/// # Errors
/// [`ItemError`].
pub fn recover_item(raw: Bytes, context: &SigningContext, params: &ChainParams) -> Result<RecoveredItem, ItemError> {
    let limit = params.max_tx_bytes as usize;
    if raw.len() > limit {
        return Err(ItemError::Oversized { size: raw.len(), limit });
    }
    match Item::from_shared(&raw)? {
        Item::Envelope(envelope) => {
            if envelope.chain_id != context.chain_id || envelope.fork != context.fork {
                return Err(ItemError::Chain {
                    chain: envelope.chain_id.0,
                    fork: envelope.fork.0,
                    want: context.chain_id.0,
                    want_fork: context.fork.0,
                });
            }
            let (tip, max) = (envelope.max_priority_fee_per_gas, envelope.max_fee_per_gas);
            if tip > max {
                return Err(ItemError::TipAboveFee { tip, max });
            }
            let digest = envelope.digest(context);
            let payer = recover_digest(&envelope.signature, &digest).ok_or(ItemError::Signature)?;
            Ok(RecoveredItem::Envelope(Box::new(RecoveredEnvelope::new(envelope, raw, digest, payer))))
        }
        Item::Deposit(deposit) => {
            let transaction = deposit.decode_transaction(context.chain_id)?;
            let digest = Deposit::digest(context, &transaction.hash());
            let transaction = recover(transaction).map_err(DepositError::from)?;
            let consent = recover_digest(&deposit.consent, &digest).ok_or(ItemError::Signature)?;
            Ok(RecoveredItem::Deposit(Box::new(RecoveredDeposit::new(transaction, raw, consent)?)))
        }
    }
}

/// As [`recover_item`] for many, on all cores if there are enough of them. The answers stand in the order of the input.
#[must_use]
pub fn recover_items(
    items: Vec<Bytes>,
    context: &SigningContext,
    params: &ChainParams,
) -> Vec<Result<RecoveredItem, ItemError>> {
    if items.len() < 2 * CHUNK {
        return items.into_iter().map(|raw| recover_item(raw, context, params)).collect();
    }
    items.into_par_iter().with_min_len(CHUNK).map(|raw| recover_item(raw, context, params)).collect()
}

#[cfg(test)]
mod tests {
    use cascade_primitives::ChainId;

    use super::*;

    /// The example transaction of EIP-155: nonce 9, 20 gwei, 21000 gas, 1 ether, signed with the key 0x4646...46.
    const EIP_155: &str = "f86c098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a76400008025a028ef61340bd939bc2195fe537567866003e1a15d3c71ff63e1590620aa636276a067cbe9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83";

    fn decode(bytes: Vec<u8>) -> Result<Transaction, TransactionError> {
        Transaction::decode(Bytes::from(bytes), ChainId(1), 1000)
    }

    #[test]
    fn the_signer_of_the_example_of_eip_155_is_recovered() {
        let recovered = recover(decode(hex::decode(EIP_155).unwrap()).unwrap()).unwrap();
        assert_eq!(recovered.sender().to_string(), "0x9d8A62f656a8d1615C1294fd71e9CFb3E4855A4F");
        assert_eq!(recovered.nonce(), 9);
    }

    #[test]
    fn a_high_s_is_refused() {
        let transaction = decode(hex::decode(EIP_155).unwrap()).unwrap();
        let signature = transaction.envelope().signature();
        let order = secp256k1::constants::CURVE_ORDER;
        let high = cascade_primitives::U256::from_be_bytes(order) - signature.s();
        // The same signature with S mirrored and the other parity: valid mathematically, refused by EIP-2.
        let mut bytes = hex::decode(EIP_155).unwrap();
        let length = bytes.len();
        bytes[length - 32..].copy_from_slice(&high.to_be_bytes::<32>());
        let v = bytes.iter().position(|&b| b == 0x25).unwrap();
        bytes[v] = 0x26;
        assert_eq!(recover(decode(bytes).unwrap()).unwrap_err(), TransactionError::Signature);
    }

    #[test]
    fn another_chain_and_oversize_are_named() {
        let bytes = Bytes::from(hex::decode(EIP_155).unwrap());
        assert_eq!(
            Transaction::decode(bytes.clone(), ChainId(5), 1000).unwrap_err(),
            TransactionError::ChainId { have: 1, want: 5 }
        );
        assert_eq!(
            Transaction::decode(bytes, ChainId(1), 10).unwrap_err(),
            TransactionError::Oversized { size: 110, limit: 10 }
        );
    }
}
