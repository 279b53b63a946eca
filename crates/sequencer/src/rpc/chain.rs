//! Reading the chain and its state: blocks, transactions, receipts, accounts.

use std::sync::Arc;

use alloy_primitives::{Address, B256, Bytes as HexBytes, U64, U256, keccak256};
use alloy_rpc_types_eth::{SyncInfo, SyncStatus, Transaction};
use cascade_execution::Receipt;
use cascade_primitives::TransactionRule;

use super::{
    CLIENT_VERSION, Methods, Rpc,
    backend::{BlockData, Location},
    convert::{self, RpcBlock, RpcReceipt},
    error::{self, Answer},
    params::{Args, BlockRef, Number, Slot},
};

pub(super) fn register(methods: &mut Methods) {
    node(methods);
    state(methods);
    blocks(methods);
    transactions(methods);
}

fn node(methods: &mut Methods) {
    methods.cheap("web3_clientVersion", 0, |_, _| Ok(CLIENT_VERSION.to_owned()));
    methods.cheap("web3_sha3", 1, |_, args| Ok(keccak256(args.bytes(0)?)));
    methods.cheap("net_version", 0, |rpc, _| Ok(rpc.backend.params().chain_id.to_string()));
    methods.cheap("net_listening", 0, |_, _| Ok(true));
    methods.cheap("net_peerCount", 0, |rpc, _| Ok(U64::from(rpc.backend.status().peers.len())));
    methods.cheap("eth_chainId", 0, |rpc, _| Ok(U64::from(rpc.backend.params().chain_id.0)));
    methods.cheap("eth_accounts", 0, |_, _| Ok(Vec::<Address>::new()));
    methods.cheap("eth_blockNumber", 0, |rpc, _| Ok(U64::from(rpc.heads().executed.0)));
    methods.cheap("eth_syncing", 0, syncing);
    methods.cheap("eth_getProof", 3, |_, _| -> Answer<()> {
        Err(error::method("eth_getProof", ": the state is not a Merkle Patricia tree; use l2_getProof"))
    });
}

fn syncing(rpc: &Rpc, _: &Args<'_>) -> Answer<SyncStatus> {
    let Some(progress) = rpc.backend.status().sync else { return Ok(SyncStatus::None) };
    Ok(SyncStatus::Info(Box::new(SyncInfo {
        starting_block: U256::from(progress.from.0),
        current_block: U256::from(rpc.heads().executed.0),
        highest_block: U256::from(progress.target.0),
        ..SyncInfo::default()
    })))
}

fn state(methods: &mut Methods) {
    methods.cheap("eth_getBalance", 2, |rpc, args| {
        let (address, view) = (args.get::<Address>(0)?, view(rpc, args, 1)?);
        Ok(view.account(&address).map_err(error::internal)?.unwrap_or_default().balance)
    });
    methods.cheap("eth_getCode", 2, |rpc, args| {
        let (address, view) = (args.get::<Address>(0)?, view(rpc, args, 1)?);
        Ok(HexBytes(view.code(&address).map_err(error::internal)?))
    });
    methods.cheap("eth_getStorageAt", 3, |rpc, args| {
        let (address, Slot(slot)) = (args.get::<Address>(0)?, args.get::<Slot>(1)?);
        let value = view(rpc, args, 2)?.storage(&address, &slot).map_err(error::internal)?;
        Ok(B256::from(value))
    });
    methods.cheap("eth_getTransactionCount", 2, transaction_count);
}

/// The state at the block that parameter `index` names, or at the newest executed one.
fn view(rpc: &Rpc, args: &Args<'_>, index: usize) -> Answer<cascade_execution::StateView> {
    let height = rpc.state_height(args.optional(index)?)?;
    Ok(rpc.backend.state(height)?)
}

fn transaction_count(rpc: &Rpc, args: &Args<'_>) -> Answer<U64> {
    let address = args.get::<Address>(0)?;
    let block = args.optional::<BlockRef>(1)?;
    if block.is_some_and(|block| block.0.is_pending()) {
        return Ok(U64::from(rpc.backend.pending_nonce(&address)?));
    }
    let view = rpc.backend.state(rpc.state_height(block)?)?;
    Ok(U64::from(view.account(&address).map_err(error::internal)?.unwrap_or_default().nonce))
}

fn blocks(methods: &mut Methods) {
    methods.heavy("eth_getBlockByNumber", 2, block);
    methods.heavy("eth_getBlockByHash", 2, |rpc, args| {
        args.get::<B256>(0)?;
        block(rpc, args)
    });
    for name in ["eth_getBlockTransactionCountByNumber", "eth_getBlockTransactionCountByHash"] {
        methods.cheap(name, 1, |rpc, args| {
            Ok(find(rpc, args)?.map(|data| U64::from(convert::transaction_count(&data, rule(rpc)))))
        });
    }
    for name in ["eth_getUncleCountByBlockNumber", "eth_getUncleCountByBlockHash"] {
        methods.cheap(name, 1, |rpc, args| Ok(find(rpc, args)?.map(|_| U64::ZERO)));
    }
    for name in ["eth_getUncleByBlockNumberAndIndex", "eth_getUncleByBlockHashAndIndex"] {
        methods.cheap(name, 2, |_, args| {
            args.get::<BlockRef>(0)?;
            args.get::<Number>(1).map(|_| None::<RpcBlock>)
        });
    }
    methods.heavy("eth_getBlockReceipts", 1, |rpc, args| -> Answer<Option<Vec<RpcReceipt>>> {
        rpc.plain()?;
        let Some(data) = find(rpc, args)? else { return Ok(None) };
        let Some(receipts) = rpc.backend.receipts(data.block.header.height)? else { return Ok(None) };
        Ok(Some(receipts.iter().enumerate().map(|(index, r)| convert::receipt(&data, r, index)).collect()))
    });
}

fn rule(rpc: &Rpc) -> TransactionRule {
    rpc.backend.params().transactions
}

/// The block that the first parameter names.
fn find(rpc: &Rpc, args: &Args<'_>) -> Answer<Option<Arc<BlockData>>> {
    let height = rpc.resolve(args.get::<BlockRef>(0)?)?;
    height.map(|height| rpc.data(height)).transpose()
}

fn block(rpc: &Rpc, args: &Args<'_>) -> Answer<Option<RpcBlock>> {
    let full = args.optional::<bool>(1)?.unwrap_or(false);
    let Some(data) = find(rpc, args)? else { return Ok(None) };
    let params = rpc.backend.params();
    if !full {
        return Ok(Some(convert::block_with_hashes(&data, params)));
    }
    rpc.plain()?;
    let receipts = rpc.backend.receipts(data.block.header.height)?;
    convert::block_with_transactions(&data, params, receipts.as_ref().map(|all| all.as_slice())).map(Some)
}

fn transactions(methods: &mut Methods) {
    methods.cheap("eth_getTransactionByHash", 1, |rpc, args| {
        rpc.plain()?;
        let hash = args.get::<B256>(0)?;
        match executed(rpc, &hash)? {
            Some(found) => found.transaction(rpc).map(Some),
            None => Ok(waiting(rpc, &hash)?),
        }
    });
    for name in ["eth_getTransactionByBlockNumberAndIndex", "eth_getTransactionByBlockHashAndIndex"] {
        methods.cheap(name, 2, |rpc, args| {
            rpc.plain()?;
            let Number(index) = args.get(1)?;
            let Some(data) = find(rpc, args)? else { return Ok(None) };
            let receipts = rpc.backend.receipts(data.block.header.height)?;
            match usize::try_from(index) {
                Ok(index) if index < convert::transaction_count(&data, rule(rpc)) => {
                    Found { data, receipts, index }.transaction(rpc).map(Some)
                }
                _ => Ok(None),
            }
        });
    }
    methods.cheap("eth_getTransactionReceipt", 1, |rpc, args| {
        rpc.plain()?;
        receipt(rpc, &args.get::<B256>(0)?)
    });
    methods.cheap("eth_getRawTransactionByHash", 1, |rpc, args| {
        rpc.plain()?;
        let hash = args.get::<B256>(0)?;
        if let Some(Location { height, index }) = rpc.backend.location(&hash)? {
            let data = rpc.data(height)?;
            return Ok(convert::raw_transaction(&data, rule(rpc), index as usize).cloned().map(HexBytes));
        }
        Ok(rpc.backend.pool_transaction(&hash).map(|transaction| HexBytes(transaction.raw().clone())))
    });
}

/// A transaction in a block.
struct Found {
    data: Arc<BlockData>,
    receipts: Option<Arc<Vec<Receipt>>>,
    index: usize,
}

impl Found {
    fn transaction(&self, rpc: &Rpc) -> Answer<Transaction> {
        let receipts = self.receipts.as_ref().map(|all| all.as_slice());
        convert::included(&self.data, rpc.backend.params(), receipts, self.index)
    }
}

/// A transaction in an executed block.
fn executed(rpc: &Rpc, hash: &B256) -> Answer<Option<Found>> {
    let Some(Location { height, index }) = rpc.backend.location(hash)? else { return Ok(None) };
    if height > rpc.heads().executed {
        return Ok(None);
    }
    let (data, receipts) = (rpc.data(height)?, rpc.backend.receipts(height)?);
    Ok(Some(Found { data, receipts, index: index as usize }))
}

/// A transaction that waits: in the pool, or in the final order for its execution.
fn waiting(rpc: &Rpc, hash: &B256) -> Answer<Option<Transaction>> {
    if let Some(transaction) = rpc.backend.pool_transaction(hash) {
        return Ok(Some(convert::pending(&transaction)));
    }
    let Some(Location { height, index }) = rpc.backend.location(hash)? else { return Ok(None) };
    let data = rpc.data(height)?;
    let transaction = convert::included(&data, rpc.backend.params(), None, index as usize)?;
    let (block_hash, block_number, transaction_index, block_timestamp) = Default::default();
    Ok(Some(Transaction { block_hash, block_number, transaction_index, block_timestamp, ..transaction }))
}

/// The receipt of an executed transaction.
pub(super) fn receipt(rpc: &Rpc, hash: &B256) -> Answer<Option<RpcReceipt>> {
    let found = executed(rpc, hash)?;
    Ok(found.and_then(|found| {
        let receipt = found.receipts.as_ref()?.get(found.index)?;
        Some(convert::receipt(&found.data, receipt, found.index))
    }))
}
