//! Cascade's blocks, transactions, receipts and logs in the shape that Ethereum clients read.
//!
//! | Ethereum's field | here |
//! |---|---|
//! | `hash`, `parentHash` | [`cascade_primitives::Header::hash`] (SHA-256, so a client cannot recompute it from the fields) |
//! | `stateRoot`, `receiptsRoot`, `gasUsed` | the block's own result; zero in a `pending` block that waits for execution |
//! | `transactionsRoot` | the body's root |
//! | `timestamp` | seconds, rounded down; `l2.timestampMs` is exact |
//! | `sha3Uncles`, `nonce`, `difficulty`, `extraData` | those of an empty proof-of-stake block |
//! | `size` | bytes in canonical encoding |

use alloy_consensus::{
    ReceiptEnvelope, Signed, TxEnvelope, TxLegacy, TxType, constants::EMPTY_OMMER_ROOT_HASH, transaction::Recovered,
};
use alloy_eips::eip2718::Decodable2718 as _;
use alloy_primitives::{B256, Bloom, Signature, U256, keccak256};
use alloy_rpc_types_eth::{Block, BlockTransactions, Header, Log, Transaction, TransactionReceipt};
use cascade_execution::{FEE_LEDGER, Receipt};
use cascade_mempool::OpaquePool;
use cascade_primitives::{ChainParams, Encode, RecoveredTransaction, TransactionRule};
use cascade_storage::OpenedItem;
use serde::Serialize;

use super::{
    backend::{BackendError, BlockData},
    error::Answer,
};

/// What Cascade adds to a block. Never changes once the block is executed, since clients compare blocks.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BlockExtra {
    epoch: U256,
    view: U256,
    timestamp_ms: U256,
    /// Base fee follows this, not `gasUsed`.
    ordered_gas: U256,
}

/// A block as `eth_` methods answer it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RpcBlock {
    #[serde(flatten)]
    block: Block<Transaction>,
    l2: BlockExtra,
}

/// A header as `newHeads` sends it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RpcHeader {
    #[serde(flatten)]
    header: Header,
    l2: BlockExtra,
}

/// What Cascade adds to a receipt.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReceiptExtra {
    /// What became of it, in words: why it failed, or did nothing at all.
    outcome: String,
    /// What the EVM used; `gasUsed` is what was charged.
    evm_gas_used: U256,
    /// On an encrypted chain, what the payer was charged for: where that is more than the transaction's own gas limit,
    /// since the envelope's is higher, `gasUsed` stops at the limit, as wallets expect of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    charged_gas: Option<U256>,
}

/// A receipt as `eth_` methods answer it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RpcReceipt {
    #[serde(flatten)]
    receipt: TransactionReceipt,
    l2: ReceiptExtra,
}

fn extra(data: &BlockData) -> BlockExtra {
    let header = &data.block.header;
    BlockExtra {
        epoch: U256::from(header.epoch.0),
        view: U256::from(header.view.0),
        timestamp_ms: U256::from(header.timestamp.0),
        ordered_gas: U256::from(header.ordered_gas),
    }
}

fn eth_header(data: &BlockData, params: &ChainParams) -> Header {
    let header = &data.block.header;
    let (state_root, receipts_root, gas_used, logs_bloom) = match &data.result {
        Some(result) => (result.entry.state_root, result.entry.receipts_root, result.entry.gas_used, result.bloom),
        None => (B256::ZERO, B256::ZERO, 0, Bloom::ZERO),
    };
    let inner = alloy_consensus::Header {
        parent_hash: header.parent.into(),
        ommers_hash: EMPTY_OMMER_ROOT_HASH,
        beneficiary: data.producer,
        state_root,
        transactions_root: header.body_root,
        receipts_root,
        logs_bloom,
        number: header.height.0,
        gas_limit: params.block_gas_limit,
        gas_used,
        timestamp: header.timestamp.0 / 1000,
        mix_hash: data.prev_randao,
        base_fee_per_gas: Some(header.base_fee),
        ..alloy_consensus::Header::default()
    };
    Header { hash: data.block.hash().into(), inner, total_difficulty: None, size: Some(U256::from(size(data))) }
}

/// Length of a block's canonical encoding, without encoding its transactions.
fn size(data: &BlockData) -> usize {
    let body = &data.block.body;
    let items = |items: &[bytes::Bytes]| 4 + items.iter().map(|item| 4 + item.len()).sum::<usize>();
    let sections = [
        items(&body.l1_items),
        4 + body.system.iter().map(|item| item.to_bytes().len()).sum::<usize>(),
        body.certificates.to_bytes().len(),
        4 + body.reveals.iter().map(|reveal| reveal.to_bytes().len()).sum::<usize>(),
        items(&body.transactions),
    ];
    data.block.header.to_bytes().len() + sections.iter().map(|section| 5 + section).sum::<usize>()
}

/// The header alone.
pub(super) fn header(data: &BlockData, params: &ChainParams) -> RpcHeader {
    RpcHeader { header: eth_header(data, params), l2: extra(data) }
}

/// How many transactions a block shows: on an encrypted chain those of an executed block, in the order in which they ran.
pub(super) fn transaction_count(data: &BlockData, rule: TransactionRule) -> usize {
    match rule {
        TransactionRule::Encrypted => data.opened.as_ref().map_or(0, |opened| opened.len()),
        TransactionRule::Plain | TransactionRule::Opaque => data.block.body.transactions.len(),
    }
}

/// Hashes of a block's transactions, or keys of its payloads.
pub(super) fn transaction_hashes(data: &BlockData, rule: TransactionRule) -> Vec<B256> {
    let body = data.block.body.transactions.iter();
    match rule {
        TransactionRule::Plain => body.map(keccak256).collect(),
        TransactionRule::Opaque => body.map(|raw| OpaquePool::key(raw)).collect(),
        TransactionRule::Encrypted => {
            let opened = data.opened.iter().flat_map(|opened| opened.iter());
            opened.map(|item| item.transaction_hash().unwrap_or(item.name)).collect()
        }
    }
}

/// The encoding of a block's transaction; none for an envelope in which nothing ran.
pub(super) fn raw_transaction(data: &BlockData, rule: TransactionRule, index: usize) -> Option<&bytes::Bytes> {
    match rule {
        TransactionRule::Encrypted => {
            data.opened.as_ref()?.get(index).map(|item| &item.transaction).filter(|raw| !raw.is_empty())
        }
        TransactionRule::Plain | TransactionRule::Opaque => data.block.body.transactions.get(index),
    }
}

/// What stands in a block for an envelope in which nothing ran: its payer paid the fee ledger's charge, so explorers that
/// add up fees find it. Its hash is the envelope's.
fn charged(item: &OpenedItem, receipt: Option<&Receipt>, params: &ChainParams) -> TxEnvelope {
    let transaction = TxLegacy {
        chain_id: Some(params.chain_id.0),
        gas_price: receipt.map_or(0, |receipt| receipt.effective_gas_price),
        gas_limit: receipt.map_or(0, |receipt| receipt.gas_used),
        to: FEE_LEDGER.into(),
        ..TxLegacy::default()
    };
    let nobody = Signature::new(U256::ZERO, U256::ZERO, false);
    Signed::new_unchecked(transaction, nobody, item.name).into()
}

/// A block with the hashes of its transactions.
pub(super) fn block_with_hashes(data: &BlockData, params: &ChainParams) -> RpcBlock {
    let transactions = BlockTransactions::Hashes(transaction_hashes(data, params.transactions));
    RpcBlock { block: Block::new(eth_header(data, params), transactions), l2: extra(data) }
}

/// A block with its transactions.
pub(super) fn block_with_transactions(
    data: &BlockData,
    params: &ChainParams,
    receipts: Option<&[Receipt]>,
) -> Answer<RpcBlock> {
    let count = transaction_count(data, params.transactions);
    let all: Answer<Vec<_>> = (0..count).map(|index| included(data, params, receipts, index)).collect();
    let transactions = BlockTransactions::Full(all?);
    Ok(RpcBlock { block: Block::new(eth_header(data, params), transactions), l2: extra(data) })
}

fn decode(data: &BlockData, params: &ChainParams, index: usize) -> Answer<cascade_primitives::Transaction> {
    let raw = raw_transaction(data, params.transactions, index).cloned().unwrap_or_default();
    let decoded = cascade_primitives::Transaction::decode(raw, params.chain_id, params.max_tx_bytes as usize);
    decoded.map_err(|reason| {
        let height = data.block.header.height;
        BackendError::Internal(format!("transaction {index} of final block {height}: {reason}")).into()
    })
}

/// Transaction `index` of a block. Signers come from the receipts, or are recovered where there are none yet.
pub(super) fn included(
    data: &BlockData,
    params: &ChainParams,
    receipts: Option<&[Receipt]>,
    index: usize,
) -> Answer<Transaction> {
    let receipt = receipts.and_then(|receipts| receipts.get(index));
    let header = &data.block.header;
    if let Some(item) = data.opened.as_ref().and_then(|opened| opened.get(index))
        && item.transaction.is_empty()
    {
        return Ok(Transaction {
            inner: Recovered::new_unchecked(charged(item, receipt, params), item.payer),
            block_hash: Some(data.block.hash().into()),
            block_number: Some(header.height.0),
            transaction_index: Some(index as u64),
            effective_gas_price: receipt.map(|receipt| receipt.effective_gas_price),
            block_timestamp: Some(header.timestamp.0 / 1000),
        });
    }
    let transaction = decode(data, params, index)?;
    let (sender, price) = match receipt {
        Some(receipt) => (receipt.from, Some(receipt.effective_gas_price)),
        None => {
            let recovered = cascade_crypto::ecdsa::recover(transaction.clone())
                .map_err(|reason| BackendError::Internal(format!("signer in a final block: {reason}")))?;
            (recovered.sender(), None)
        }
    };
    // A no-op pays nothing; the price that it offered says more than zero.
    let price = price.filter(|price| *price > 0).unwrap_or_else(|| effective_price(&transaction, header.base_fee));
    Ok(Transaction {
        inner: Recovered::new_unchecked(transaction.envelope().clone(), sender),
        block_hash: Some(data.block.hash().into()),
        block_number: Some(header.height.0),
        transaction_index: Some(index as u64),
        effective_gas_price: Some(price),
        block_timestamp: Some(header.timestamp.0 / 1000),
    })
}

fn effective_price(transaction: &cascade_primitives::Transaction, base_fee: u64) -> u128 {
    alloy_consensus::Transaction::effective_gas_price(transaction.envelope(), Some(base_fee))
}

/// A transaction that is not executed yet.
pub(crate) fn pending(transaction: &RecoveredTransaction) -> Transaction<TxEnvelope> {
    Transaction {
        inner: Recovered::new_unchecked(transaction.envelope().clone(), transaction.sender()),
        block_hash: None,
        block_number: None,
        transaction_index: None,
        effective_gas_price: None,
        block_timestamp: None,
    }
}

/// The logs of transaction `index` of a block.
pub(super) fn logs<'a>(data: &BlockData, receipt: &'a Receipt, index: usize) -> impl Iterator<Item = Log> + use<'a> {
    let (hash, header) = (data.block.hash(), &data.block.header);
    let (number, timestamp) = (header.height.0, header.timestamp.0 / 1000);
    let first = u64::from(receipt.first_log_index);
    receipt.logs.iter().zip(first..).map(move |(log, log_index)| Log {
        inner: log.clone(),
        block_hash: Some(hash.into()),
        block_number: Some(number),
        block_timestamp: Some(timestamp),
        transaction_hash: Some(receipt.transaction_hash),
        transaction_index: Some(index as u64),
        log_index: Some(log_index),
        removed: false,
    })
}

/// The gas limit of a transaction that was in an envelope.
fn own_limit(data: &BlockData, index: usize) -> Option<u64> {
    let raw = &data.opened.as_ref()?.get(index)?.transaction;
    let transaction = TxEnvelope::decode_2718(&mut raw.as_ref()).ok()?;
    Some(alloy_consensus::Transaction::gas_limit(&transaction))
}

/// The receipt of transaction `index` of a block.
pub(super) fn receipt(data: &BlockData, receipt: &Receipt, index: usize) -> RpcReceipt {
    let inner = alloy_consensus::Receipt {
        status: receipt.outcome.is_success().into(),
        cumulative_gas_used: receipt.cumulative_gas_used,
        logs: logs(data, receipt, index).collect(),
    };
    let kind = TxType::try_from(receipt.transaction_type).unwrap_or(TxType::Legacy);
    let with_bloom = alloy_consensus::ReceiptWithBloom { receipt: inner, logs_bloom: receipt.bloom() };
    RpcReceipt {
        receipt: TransactionReceipt {
            inner: ReceiptEnvelope::from_typed(kind, with_bloom),
            transaction_hash: receipt.transaction_hash,
            transaction_index: Some(index as u64),
            block_hash: Some(data.block.hash().into()),
            block_number: Some(data.block.header.height.0),
            gas_used: own_limit(data, index).map_or(receipt.gas_used, |limit| receipt.gas_used.min(limit)),
            effective_gas_price: receipt.effective_gas_price,
            blob_gas_used: None,
            blob_gas_price: None,
            from: receipt.from,
            to: receipt.to,
            contract_address: receipt.contract_address,
        },
        l2: ReceiptExtra {
            outcome: receipt.outcome.to_string(),
            evm_gas_used: U256::from(receipt.evm_gas_used),
            charged_gas: data.opened.as_ref().map(|_| U256::from(receipt.gas_used)),
        },
    }
}
