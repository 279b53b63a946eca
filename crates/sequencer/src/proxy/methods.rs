//! The methods that the proxy answers itself, or completes.

use std::{sync::Arc, time::Duration};

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256, Bytes, U64};
use cascade_primitives::ChainParams;
use jsonrpsee::types::{ErrorObjectOwned, Params};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, value::RawValue};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    book::{Book, Failure, Found},
    checks, forward,
    keeper::Submission,
    news::Seen,
    source::Accounts,
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
    /// Where senders are asked for.
    pub accounts: Accounts,
    /// The chain's constants.
    pub params: ChainParams,
    /// What is pending.
    pub book: Arc<Mutex<Book>>,
    /// The keeper.
    pub keeper: mpsc::Sender<Submission>,
    /// When something happens on the chain.
    pub news: watch::Receiver<Seen>,
}

/// What the proxy knows of a transaction.
struct Known {
    hash: B256,
    found: Option<Found>,
    failure: Option<Failure>,
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
            "eth_getTransactionCount" => self.count(&params, raw).await,
            "eth_getTransactionByHash" | "eth_getTransactionReceipt" | "l2_envelopeStatus" | "l2_finality" => {
                // Looked up before the node is asked, too: what is executed and forgotten meanwhile is in one of the two.
                let before = self.found(&params);
                let answer = self.client.forward(method, raw).await?;
                if !is_null(&answer) {
                    return Ok(answer);
                }
                let known = self.found(&params).or(before);
                match method {
                    "eth_getTransactionByHash" => self.transaction(known, answer).await,
                    "eth_getTransactionReceipt" => self.receipt(known, answer).await,
                    "l2_envelopeStatus" => self.status(known, answer).await,
                    _ => self.finality(known, answer).await,
                }
            }
            _ => {
                forward::passes(method)?;
                self.client.forward(method, raw).await
            }
        }
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, method: &str, params: Value) -> Answer<T> {
        let params = serde_json::value::to_raw_value(&params).map_err(|error| server(error.to_string()))?;
        let answer = self.client.forward(method, Some(&params)).await?;
        serde_json::from_str(answer.get()).map_err(|error| server(format!("the node's answer to {method}: {error}")))
    }

    async fn send(&self, raw: Bytes) -> Answer<B256> {
        let transaction = checks::decode(&raw, &self.params)?;
        let hash = transaction.hash();
        let sender = self.accounts.sender(transaction.sender()).await?;
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
    async fn count(&self, params: &Params<'_>, raw: Option<&RawValue>) -> Json {
        let sender = {
            let args = Args::new(params, 2)?;
            let tag = args.optional::<Value>(1)?;
            let is_pending = tag.as_ref().and_then(Value::as_str) == Some("pending");
            is_pending.then(|| args.get::<Address>(0)).transpose()?
        };
        let Some(sender) = sender else { return self.client.forward("eth_getTransactionCount", raw).await };
        // Read before the node is asked: what is executed and forgotten meanwhile is counted here or there.
        let waiting = self.book.lock().nonces(sender);
        let next: U64 = self.ask("eth_getTransactionCount", serde_json::json!([sender, "pending"])).await?;
        let pending = (next.to::<u64>()..).find(|nonce| !waiting.contains(nonce)).unwrap_or(u64::MAX);
        json(&U64::from(pending))
    }

    /// What is pending, or has failed, by the hash that is asked for.
    fn found(&self, params: &Params<'_>) -> Option<Known> {
        let hash: B256 = Args::new(params, 2).ok()?.get(0).ok()?;
        let book = self.book.lock();
        let (found, failure) = (book.find(&hash), book.failure(&hash).cloned());
        (found.is_some() || failure.is_some()).then_some(Known { hash, found, failure })
    }

    async fn transaction(&self, known: Option<Known>, null: Box<RawValue>) -> Json {
        let Some(Known { found, failure, .. }) = known else { return Ok(null) };
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
    async fn receipt(&self, known: Option<Known>, null: Box<RawValue>) -> Json {
        let Some(Known { hash, found: None, failure: Some(failure) }) = known else { return Ok(null) };
        let mut receipt: Value = self.ask("eth_getTransactionReceipt", serde_json::json!([failure.envelope])).await?;
        if receipt.is_null() {
            return Ok(null);
        }
        // What is no object would not take a field.
        if !receipt.is_object() {
            return Err(server("the node's answer to eth_getTransactionReceipt is no receipt"));
        }
        let transaction = failure.transaction.envelope();
        receipt["transactionHash"] = serde_json::json!(hash);
        receipt["from"] = serde_json::json!(failure.transaction.sender());
        receipt["to"] = serde_json::json!(transaction.to());
        receipt["type"] = serde_json::json!(U64::from(transaction.tx_type() as u8));
        json(&receipt)
    }

    async fn status(&self, known: Option<Known>, null: Box<RawValue>) -> Json {
        let Some(Known { hash, found, failure }) = known else { return Ok(null) };
        let name = match (&found, &failure) {
            (Some(Found { name: Some(name), .. }), _) => *name,
            (Some(_), _) => {
                // Nothing was made for it yet.
                let reason = Some("held by the proxy until the transactions before it are on their way".to_owned());
                return json(&pending_status(hash, reason));
            }
            (None, Some(failure)) => failure.envelope,
            (None, None) => return Ok(null),
        };
        let status: Option<EnvelopeStatus> = self.ask("l2_envelopeStatus", serde_json::json!([name])).await?;
        // What expires while it is pending here is sealed again.
        let status = status.filter(|status| found.is_none() || status.status != EnvelopeState::Expired);
        let mut status = status.unwrap_or_else(|| pending_status(hash, None));
        status.hash = hash;
        let own = match found {
            Some(found) => found.reason,
            None => failure.map(|failure| failure.reason),
        };
        status.reason = status.reason.or(own);
        json(&status)
    }

    /// What an envelope, or the transaction in it, has come to. None if neither the node nor the proxy knows it.
    ///
    /// # Errors
    /// The node's.
    pub async fn envelope_status(&self, hash: B256) -> Answer<Option<EnvelopeStatus>> {
        let asked = serde_json::value::to_raw_value(&[hash]).map_err(|error| server(error.to_string()))?;
        let answer = self.call("l2_envelopeStatus", Some(&asked)).await?;
        serde_json::from_str(answer.get()).map_err(|error| server(format!("the node's answer: {error}")))
    }

    async fn finality(&self, known: Option<Known>, null: Box<RawValue>) -> Json {
        let Some(Known { found: Some(Found { name: Some(name), .. }), .. }) = known else { return Ok(null) };
        let asked = serde_json::value::to_raw_value(&[name]).map_err(|error| server(error.to_string()))?;
        self.client.forward("l2_finality", Some(&asked)).await
    }
}

fn pending_status(hash: B256, reason: Option<String>) -> EnvelopeStatus {
    EnvelopeStatus { hash, status: EnvelopeState::Pending, height: None, index: None, transaction: None, reason }
}
