//! The methods that the proxy answers itself, or completes.

use std::{sync::Arc, time::Duration};

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256, Bytes, U64, U256};
use cascade_primitives::ChainParams;
use jsonrpsee::types::{ErrorObjectOwned, Params};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, value::RawValue};
use tokio::sync::{mpsc, oneshot};

use super::{
    book::{Book, Failure, Found},
    checks::{self, Sender},
    keeper::Submission,
};
use crate::{
    cli::Client,
    rpc::{
        convert,
        error::{Answer, server},
        params::{Args, Number},
        types::{EnvelopeState, EnvelopeStatus, ProxyInfo},
    },
};

/// Longest time that `eth_sendRawTransactionSync` waits, in ms.
const MAX_WAIT_MS: u64 = 20_000;
/// How often a receipt is asked for.
const POLL: Duration = Duration::from_millis(50);
/// Code of a transaction that was taken but not executed in time (EIP-7966).
const TIMEOUT: i32 = 4;

/// What methods work with.
pub struct Methods {
    /// The node.
    pub client: Client,
    /// The chain's constants.
    pub params: ChainParams,
    /// What is pending.
    pub book: Arc<Mutex<Book>>,
    /// The keeper.
    pub keeper: mpsc::Sender<Submission>,
}

type Json = Answer<Box<RawValue>>;

fn json(value: &impl Serialize) -> Json {
    serde_json::value::to_raw_value(value).map_err(|error| server(error.to_string()))
}

fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

impl Methods {
    /// Answers a request: itself, or with what the node answers.
    ///
    /// # Errors
    /// The node's, or the proxy's in the same form.
    pub async fn call(&self, method: &str, raw: Option<&RawValue>) -> Json {
        let params = Params::new(raw.map(RawValue::get));
        match method {
            "eth_sendRawTransaction" => json(&self.send(Bytes(Args::new(&params, 1)?.bytes(0)?)).await?),
            "eth_sendRawTransactionSync" => self.send_sync(&params).await,
            "l2_proxy" => json(&self.info().await?),
            _ => {
                let answer = self.client.forward(method, raw).await?;
                match method {
                    "eth_getTransactionCount" => self.count(&params, answer),
                    "eth_getTransactionByHash" if is_null(&answer) => self.transaction(&params, answer).await,
                    "eth_getTransactionReceipt" if is_null(&answer) => self.receipt(&params, answer).await,
                    "l2_envelopeStatus" if is_null(&answer) => self.status(&params, answer).await,
                    "l2_finality" if is_null(&answer) => self.finality(&params, answer).await,
                    _ => Ok(answer),
                }
            }
        }
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, method: &str, params: Value) -> Answer<T> {
        let params = serde_json::value::to_raw_value(&params).map_err(|error| server(error.to_string()))?;
        let answer = self.client.forward(method, Some(&params)).await?;
        serde_json::from_str(answer.get()).map_err(|error| server(format!("the node's answer to {method}: {error}")))
    }

    async fn sender(&self, address: Address) -> Answer<Sender> {
        let (next, balance) = tokio::try_join!(
            self.ask::<U64>("eth_getTransactionCount", serde_json::json!([address, "latest"])),
            self.ask::<U256>("eth_getBalance", serde_json::json!([address, "latest"])),
        )?;
        Ok(Sender { next: next.to(), balance })
    }

    async fn send(&self, raw: Bytes) -> Answer<B256> {
        let transaction = checks::decode(&raw, &self.params)?;
        let hash = transaction.hash();
        let sender = self.sender(transaction.sender()).await?;
        let is_past = transaction.nonce() < sender.next && self.book.lock().find(&hash).is_none();
        // What has run already gets the same answer again, and no second envelope.
        if is_past && !self.ask::<Value>("eth_getTransactionByHash", serde_json::json!([hash])).await?.is_null() {
            return Ok(hash);
        }
        let (reply, answer) = oneshot::channel();
        let stopped = || server("the proxy stops");
        self.keeper.send(Submission { transaction, sender, reply }).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    async fn send_sync(&self, params: &Params<'_>) -> Json {
        let (raw, wait) = {
            let args = Args::new(params, 2)?;
            let wait = args.optional::<Number>(1)?.map_or(MAX_WAIT_MS, |Number(ms)| ms).min(MAX_WAIT_MS);
            (Bytes(args.bytes(0)?), wait)
        };
        let hash = self.send(raw).await?;
        let asked = serde_json::value::to_raw_value(&[hash]).map_err(|error| server(error.to_string()))?;
        let executed = async {
            loop {
                let receipt = Box::pin(self.call("eth_getTransactionReceipt", Some(&asked))).await?;
                if !is_null(&receipt) {
                    return Ok(receipt);
                }
                tokio::time::sleep(POLL).await;
            }
        };
        match tokio::time::timeout(Duration::from_millis(wait), executed).await {
            Ok(receipt) => receipt,
            Err(_) => {
                let text = format!("The transaction was added to the mempool but wasn't processed in {wait}ms.");
                Err(ErrorObjectOwned::owned(TIMEOUT, text, Some(hash)))
            }
        }
    }

    async fn info(&self) -> Answer<ProxyInfo> {
        let payer = self.book.lock().payer;
        let account: crate::rpc::types::Payer = self.ask("l2_payer", serde_json::json!([payer])).await?;
        let pending = self.book.lock().items.len() as u64;
        Ok(ProxyInfo { payer, balance: account.balance, pending })
    }

    /// With `pending`, what waits here counts, too.
    fn count(&self, params: &Params<'_>, answer: Box<RawValue>) -> Json {
        let args = Args::new(params, 2)?;
        let tag = args.optional::<Value>(1)?;
        if tag.as_ref().and_then(Value::as_str) != Some("pending") {
            return Ok(answer);
        }
        let next: U64 = serde_json::from_str(answer.get()).map_err(|error| server(error.to_string()))?;
        let pending = self.book.lock().pending_nonce(args.get(0)?, next.to());
        json(&U64::from(pending))
    }

    fn found(&self, params: &Params<'_>, most: usize) -> Answer<(B256, Option<Found>, Option<Failure>)> {
        let hash: B256 = Args::new(params, most)?.get(0)?;
        let book = self.book.lock();
        Ok((hash, book.find(&hash), book.failure(&hash).cloned()))
    }

    async fn transaction(&self, params: &Params<'_>, null: Box<RawValue>) -> Json {
        let (_, found, failure) = self.found(params, 1)?;
        match (found, failure) {
            (Some(found), _) => json(&convert::pending(&found.transaction)),
            (None, Some(failure)) => {
                let mut value = serde_json::to_value(convert::pending(&failure.transaction))
                    .map_err(|error| server(error.to_string()))?;
                let receipt: Value =
                    self.ask("eth_getTransactionReceipt", serde_json::json!([failure.envelope])).await?;
                for field in ["blockHash", "blockNumber", "transactionIndex"] {
                    value[field] = receipt[field].clone();
                }
                json(&value)
            }
            (None, None) => Ok(null),
        }
    }

    /// The receipt of a transaction that was charged in its envelope and did not run: the envelope's, with the
    /// transaction's names. A wallet that waits for it sees a failure, and that the nonce is free.
    async fn receipt(&self, params: &Params<'_>, null: Box<RawValue>) -> Json {
        let (hash, found, failure) = self.found(params, 1)?;
        let (None, Some(failure)) = (found, failure) else { return Ok(null) };
        let mut receipt: Value = self.ask("eth_getTransactionReceipt", serde_json::json!([failure.envelope])).await?;
        if receipt.is_null() {
            return Ok(null);
        }
        let transaction = failure.transaction.envelope();
        receipt["transactionHash"] = serde_json::json!(hash);
        receipt["from"] = serde_json::json!(failure.transaction.sender());
        receipt["to"] = serde_json::json!(transaction.to());
        receipt["type"] = serde_json::json!(U64::from(transaction.tx_type() as u8));
        json(&receipt)
    }

    async fn status(&self, params: &Params<'_>, null: Box<RawValue>) -> Json {
        let (hash, found, failure) = self.found(params, 1)?;
        let name = match (&found, &failure) {
            (Some(Found { name: Some(name), .. }), _) => *name,
            (Some(_), _) => {
                let reason = Some("held by the proxy until the transactions before it are on their way".to_owned());
                return json(&pending_status(hash, reason));
            }
            (None, Some(failure)) => failure.envelope,
            (None, None) => return Ok(null),
        };
        let status: Option<EnvelopeStatus> = self.ask("l2_envelopeStatus", serde_json::json!([name])).await?;
        let mut status = status.unwrap_or_else(|| pending_status(hash, None));
        status.hash = hash;
        status.reason = status.reason.or_else(|| failure.filter(|_| found.is_none()).map(|failure| failure.reason));
        json(&status)
    }

    async fn finality(&self, params: &Params<'_>, null: Box<RawValue>) -> Json {
        let Ok((_, Some(Found { name: Some(name), .. }), _)) = self.found(params, 1) else { return Ok(null) };
        let asked = serde_json::value::to_raw_value(&[name]).map_err(|error| server(error.to_string()))?;
        self.client.forward("l2_finality", Some(&asked)).await
    }
}

fn pending_status(hash: B256, reason: Option<String>) -> EnvelopeStatus {
    EnvelopeStatus { hash, status: EnvelopeState::Pending, height: None, index: None, transaction: None, reason }
}
