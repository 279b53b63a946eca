//! Users' transactions, their signers, and the pools' gossip.

use alloy_consensus::{SignableTransaction as _, TxEip1559, TxEip2930, TxEnvelope, TxLegacy};
use alloy_eips::{
    eip2718::Encodable2718 as _,
    eip2930::{AccessList, AccessListItem},
};
use alloy_primitives::{Signature, TxKind, U256};
use bytes::Bytes;
use cascade_crypto::ecdsa::recover;
use cascade_mempool::gossip::{decode_gossip, encode_gossip};
use cascade_primitives::{ChainId, Transaction, TransactionError};

use crate::source::Source;

const CHAIN: ChainId = ChainId(20252);
const LIMIT: usize = 128 << 10;

/// Target `transaction`.
///
/// # Panics
/// If a rule is broken.
pub fn check(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else { return };
    match choice % 4 {
        0 | 1 => check_raw(bytes),
        2 => check_gossip(bytes),
        _ => check_own(&mut Source::new(bytes)),
    }
}

fn check_raw(bytes: &[u8]) {
    let raw = Bytes::copy_from_slice(bytes);
    let transaction = match Transaction::decode(raw.clone(), CHAIN, LIMIT) {
        Ok(transaction) => transaction,
        // Another chain's transaction is one; with that chain's id it must be read to the end.
        Err(TransactionError::ChainId { have, .. }) => match Transaction::decode(raw.clone(), ChainId(have), LIMIT) {
            Ok(transaction) => transaction,
            Err(TransactionError::TipAboveFee { .. }) => return,
            Err(error) => panic!("refused for its chain alone, and then: {error}"),
        },
        Err(error) => return assert!(error.to_string().len() < 1000, "{error}"),
    };
    check_decoded(&transaction, &raw);
    if let Some(shorter) = bytes.len().checked_sub(1) {
        let chain = ChainId(transaction.envelope().signature_chain());
        assert!(Transaction::decode(raw.slice(..shorter), chain, LIMIT).is_err(), "a prefix is a transaction");
        assert!(matches!(Transaction::decode(raw, chain, shorter), Err(TransactionError::Oversized { .. })));
    }
}

trait SignatureChain {
    fn signature_chain(&self) -> u64;
}

impl SignatureChain for TxEnvelope {
    fn signature_chain(&self) -> u64 {
        alloy_consensus::Transaction::chain_id(self).expect("a decoded transaction names its chain")
    }
}

fn check_decoded(transaction: &Transaction, raw: &Bytes) {
    assert_eq!(transaction.raw(), raw);
    assert_eq!(transaction.envelope().encoded_2718(), raw[..]);
    assert_eq!(transaction.hash(), alloy_primitives::keccak256(raw));
    assert!(transaction.max_priority_fee_per_gas() <= transaction.max_fee_per_gas());
    assert!(transaction.max_cost() >= transaction.value());
    let Ok(recovered) = recover(transaction.clone()) else { return };
    let signature = transaction.envelope().signature();
    assert!(signature.s() <= U256::from_be_bytes(secp256k1::constants::CURVE_ORDER) / U256::from(2), "EIP-2");
    let again = recover(transaction.clone()).map(|again| again.sender());
    assert_eq!(again, Ok(recovered.sender()), "a transaction has one signer");
}

fn check_gossip(bytes: &[u8]) {
    let message = Bytes::copy_from_slice(bytes);
    let Ok(items) = decode_gossip(&message, LIMIT) else { return };
    assert!(items.iter().all(|item| item.len() <= LIMIT));
    assert_eq!(encode_gossip(&items), message);
    if let Some(most) = items.iter().map(Bytes::len).max().filter(|most| *most > 0) {
        assert!(decode_gossip(&message, most).is_ok() && decode_gossip(&message, most - 1).is_err());
    }
    assert!(decode_gossip(&message.slice(..message.len() - 1), LIMIT).is_err());
}

fn check_own(source: &mut Source<'_>) {
    let signature = Signature::new(source.u256(), source.u256(), source.coin());
    let (nonce, gas_limit) = (source.number(), source.number());
    let to = if source.coin() { TxKind::Call(source.address()) } else { TxKind::Create };
    let (value, price) = (source.u256(), u128::from(source.number()));
    let access_list =
        AccessList(source.list(3, |s| AccessListItem { address: s.address(), storage_keys: s.list(3, Source::b256) }));
    let chain_id = CHAIN.0;
    let kind = source.below(3);
    let input = source.bytes(400).into();
    let envelope: TxEnvelope = match kind {
        0 => TxLegacy { chain_id: Some(chain_id), nonce, gas_price: price, gas_limit, to, value, input }
            .into_signed(signature)
            .into(),
        1 => TxEip2930 { chain_id, nonce, gas_price: price, gas_limit, to, value, access_list, input }
            .into_signed(signature)
            .into(),
        _ => TxEip1559 {
            chain_id,
            nonce,
            gas_limit,
            max_fee_per_gas: price,
            max_priority_fee_per_gas: price / 2,
            to,
            value,
            access_list,
            input,
        }
        .into_signed(signature)
        .into(),
    };
    let raw = Bytes::from(envelope.encoded_2718());
    let transaction = Transaction::decode(raw.clone(), CHAIN, LIMIT).expect("an own transaction is read");
    assert_eq!(transaction.hash(), *envelope.tx_hash());
    check_decoded(&transaction, &raw);
    check_gossip(&encode_gossip(&[raw.clone(), Bytes::new(), raw]));
}
