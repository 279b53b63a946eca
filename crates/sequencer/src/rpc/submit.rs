//! Taking transactions and opaque payloads.

use std::{sync::Arc, time::Duration};

use alloy_primitives::B256;
use bytes::Bytes;
use jsonrpsee::{
    Extensions,
    types::{ErrorObjectOwned, Params},
};
use tokio::sync::broadcast::error::RecvError;

use super::{
    Methods, Rpc,
    backend::ChainEvent,
    chain,
    convert::RpcReceipt,
    error::{self, Answer},
    params::{Args, Data, Number},
    registered,
    types::{BatchOutcome, Refused},
};

/// Code of a transaction that was taken but not executed in time (EIP-7966).
const TIMEOUT: i32 = 4;

pub(super) fn register(methods: &mut Methods) {
    let module = &mut methods.module;
    registered(module.register_async_method("eth_sendRawTransaction", send).map(drop));
    registered(module.register_async_method("eth_sendRawTransactionSync", send_sync).map(drop));
    registered(module.register_async_method("l2_sendEnvelope", send_item).map(drop));
    registered(module.register_async_method("l2_sendDeposit", send_item).map(drop));
    registered(module.register_async_method("l2_sendOpaque", send_opaque).map(drop));
    registered(module.register_async_method("l2_sendOpaqueBatch", send_opaque_batch).map(drop));
}

async fn send(params: Params<'static>, rpc: Arc<Rpc>, _: Extensions) -> Answer<B256> {
    rpc.clear()?;
    let raw = raw_transaction(&params)?;
    submit_one(&rpc, raw).await
}

/// The only parameter of `eth_sendRawTransaction`.
pub(super) fn raw_transaction(params: &Params<'_>) -> Answer<Bytes> {
    Args::new(params, 1)?.bytes(0)
}

async fn submit_one(rpc: &Rpc, raw: Bytes) -> Answer<B256> {
    let mut results = rpc.backend.submit(vec![raw]).await;
    let result = results.pop().ok_or_else(|| error::internal("the node did not answer a submission"))?;
    result.map_err(ErrorObjectOwned::from)
}

async fn send_sync(params: Params<'static>, rpc: Arc<Rpc>, _: Extensions) -> Answer<RpcReceipt> {
    rpc.clear()?;
    let (raw, wait) = {
        let args = Args::new(&params, 2)?;
        let wait = args.optional::<Number>(1)?.map_or(rpc.config.max_send_wait_ms, |Number(ms)| ms);
        (args.bytes(0)?, wait.min(rpc.config.max_send_wait_ms))
    };
    let mut events = rpc.backend.events();
    let hash = submit_one(&rpc, raw).await?;
    let executed = async {
        loop {
            match events.recv().await {
                Ok(ChainEvent::Executed { receipts, .. }) if !receipts.iter().any(|r| r.transaction_hash == hash) => {}
                Ok(ChainEvent::Executed { .. }) | Err(RecvError::Lagged(_)) => {
                    if let Some(receipt) = chain::receipt(&rpc, &hash)? {
                        return Ok(receipt);
                    }
                }
                Ok(ChainEvent::Final { .. } | ChainEvent::Opened { .. } | ChainEvent::Pending(_)) => {}
                Err(RecvError::Closed) => return Err(error::server("the node stops")),
            }
        }
    };
    match tokio::time::timeout(Duration::from_millis(wait), executed).await {
        Ok(receipt) => receipt,
        Err(_) => {
            let message = format!("The transaction was added to the mempool but wasn't processed in {wait}ms.");
            Err(ErrorObjectOwned::owned(TIMEOUT, message, Some(hash)))
        }
    }
}

/// Envelopes and deposits alike: an item says itself what it is.
async fn send_item(params: Params<'static>, rpc: Arc<Rpc>, _: Extensions) -> Answer<B256> {
    rpc.sealed()?;
    let raw = raw_transaction(&params)?;
    submit_one(&rpc, raw).await
}

async fn send_opaque(params: Params<'static>, rpc: Arc<Rpc>, _: Extensions) -> Answer<B256> {
    rpc.opaque()?;
    let payload = Args::new(&params, 1)?.bytes(0)?;
    submit_one(&rpc, payload).await
}

async fn send_opaque_batch(params: Params<'static>, rpc: Arc<Rpc>, _: Extensions) -> Answer<BatchOutcome> {
    rpc.opaque()?;
    let payloads: Vec<Data> = Args::new(&params, 1)?.get(0)?;
    let most = rpc.config.max_opaque_batch as usize;
    if payloads.len() > most {
        return Err(error::limit("payloads in one batch", payloads.len(), most));
    }
    let results = rpc.backend.submit(payloads.into_iter().map(|Data(payload)| payload).collect()).await;
    let mut outcome = BatchOutcome { accepted: 0, refused: Vec::new() };
    for (index, result) in (0..).zip(results) {
        match result {
            Ok(_) => outcome.accepted += 1,
            Err(reason) => outcome.refused.push(Refused { index, error: error::refusal(&reason) }),
        }
    }
    Ok(outcome)
}
