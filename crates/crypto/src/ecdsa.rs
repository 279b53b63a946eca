//! Signers of Ethereum transactions, recovered with libsecp256k1.

use cascade_primitives::{Address, RecoveredTransaction, Transaction, TransactionError};
use rayon::prelude::*;
use secp256k1::{
    Message, SECP256K1,
    ecdsa::{RecoverableSignature, RecoveryId},
};

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

#[cfg(test)]
mod tests {
    use cascade_primitives::{Bytes, ChainId};

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
