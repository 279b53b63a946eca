//! Subscriptions over a WebSocket: `eth_subscribe`.
//!
//! | kind | every message |
//! |---|---|
//! | `newHeads` | the header of a block that was executed, one for every height, in order |
//! | `logs` (filter) | a log of such a block |
//! | `newPendingTransactions` | the hash of a transaction that entered the pool; some are missing if the client is slow |
//! | `l2_finalBlocks` | height and hash of a block whose order became final, in order |
//! | `l2_envelopeStatus` (hash) | `l2_envelopeStatus` of an envelope: at once if it is known, then on each change |
//!
//! A subscription to an envelope ends after a last state. A state that is over before it could be told is left out.
//!
//! A client that reads slowly holds nothing but its own subscription up: heads, logs and final blocks are read from the
//! chain where it went on meanwhile, up to [`MAX_BEHIND`] blocks. One that falls further behind is cut off from the
//! subscription with an error.

use std::sync::Arc;

use alloy_primitives::B256;
use alloy_rpc_types_eth::Filter;
use cascade_execution::Receipt;
use cascade_primitives::Height;
use jsonrpsee::{
    Extensions, PendingSubscriptionSink, SubscriptionMessage, SubscriptionSink,
    core::{SubscriptionError, traits::IdProvider},
    types::{ErrorObjectOwned, Params, SubscriptionId},
};
use serde::Serialize;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{
    Methods, Rpc,
    backend::{BlockData, ChainEvent},
    convert,
    error::{self, Answer},
    filters::random_id,
    logs,
    params::Args,
    registered, sealed,
    types::FinalBlock,
};

/// Blocks that a subscription may be behind the chain.
const MAX_BEHIND: u64 = 4_096;

/// Subscription ids as Ethereum clients expect them: hex.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HexIds;

impl IdProvider for HexIds {
    fn next_id(&self) -> SubscriptionId<'static> {
        SubscriptionId::Str(format!("{:#x}", random_id()).into())
    }
}

enum Kind {
    Heads,
    Logs(Box<Filter>),
    Pending,
    Final,
    Envelope(B256),
}

pub(super) fn register(methods: &mut Methods) {
    let subscribe = |params: Params<'static>, pending: PendingSubscriptionSink, rpc: Arc<Rpc>, _: Extensions| async move {
        let kind = match kind(&rpc, &params) {
            Ok(kind) => kind,
            Err(reason) => {
                pending.reject(reason).await;
                return Ok(());
            }
        };
        // What happens from here on is sent, and nothing is between this and the client's next request.
        let (events, heads) = (rpc.backend.events(), rpc.heads());
        let Ok(sink) = pending.accept().await else { return Ok(()) };
        let mut feed = Feed { rpc, sink, events };
        match kind {
            Kind::Heads => feed.executed(heads.executed, None).await,
            Kind::Logs(filter) => feed.executed(heads.executed, Some(&filter)).await,
            Kind::Pending => feed.pending().await,
            Kind::Final => feed.finals(heads.ordered).await,
            Kind::Envelope(hash) => feed.envelope(hash).await,
        }
    };
    let module = &mut methods.module;
    registered(
        module.register_subscription("eth_subscribe", "eth_subscription", "eth_unsubscribe", subscribe).map(drop),
    );
}

fn kind(rpc: &Rpc, params: &Params<'_>) -> Answer<Kind> {
    let args = Args::new(params, 2)?;
    let name: String = args.get(0)?;
    match name.as_str() {
        "newHeads" => Ok(Kind::Heads),
        "logs" => {
            rpc.plain()?;
            let filter: Filter = args.optional(1)?.unwrap_or_default();
            logs::check(&filter)?;
            Ok(Kind::Logs(Box::new(filter)))
        }
        "newPendingTransactions" => match args.optional::<bool>(1)? {
            Some(true) => Err(error::params("invalid argument 1: full transactions are not supported, only hashes")),
            Some(false) | None => Ok(Kind::Pending),
        },
        "l2_finalBlocks" => Ok(Kind::Final),
        "l2_envelopeStatus" => {
            rpc.sealed()?;
            Ok(Kind::Envelope(args.get(1)?))
        }
        other => {
            let name: String = other.chars().take(64).collect();
            Err(error::method(&format!("eth_subscribe(\"{name}\")"), ""))
        }
    }
}

/// Why a subscription ends by the server's will.
fn end(reason: impl std::fmt::Display) -> SubscriptionError {
    SubscriptionError::from(reason.to_string())
}

struct Feed {
    rpc: Arc<Rpc>,
    sink: SubscriptionSink,
    events: Receiver<ChainEvent>,
}

/// Whether the client is still there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Client {
    Here,
    Gone,
}

impl Feed {
    /// The next event; `Ok(None)` once the client or the node is gone.
    async fn next(&mut self) -> Option<Result<ChainEvent, u64>> {
        tokio::select! {
            event = self.events.recv() => match event {
                Ok(event) => Some(Ok(event)),
                Err(RecvError::Lagged(count)) => Some(Err(count)),
                Err(RecvError::Closed) => None,
            },
            () = self.sink.closed() => None,
        }
    }

    async fn send(&self, value: &impl Serialize) -> Result<Client, SubscriptionError> {
        let (method, id) = (self.sink.method_name(), self.sink.subscription_id());
        let message = SubscriptionMessage::new(method, id, value)?;
        Ok(if self.sink.send(message).await.is_ok() { Client::Here } else { Client::Gone })
    }

    /// Headers of executed blocks above `last`, or with a filter their logs.
    async fn executed(&mut self, mut last: Height, filter: Option<&Filter>) -> Result<(), SubscriptionError> {
        while let Some(event) = self.next().await {
            let head = match event {
                Ok(ChainEvent::Executed { block, receipts }) => {
                    let height = block.block.header.height;
                    if height == last.next() {
                        if self.send_block(&block, &receipts, filter).await? == Client::Gone {
                            return Ok(());
                        }
                        last = height;
                    }
                    height
                }
                Ok(ChainEvent::Final { .. } | ChainEvent::Opened { .. } | ChainEvent::Pending(_)) => continue,
                Err(_) => self.rpc.heads().executed,
            };
            check_distance(last, head)?;
            while last < head {
                last = last.next();
                let block = self.rpc.data(last).map_err(failed)?;
                let receipts = self.rpc.backend.receipts(last)?.unwrap_or_default();
                if self.send_block(&block, &receipts, filter).await? == Client::Gone {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn send_block(
        &self,
        block: &BlockData,
        receipts: &[Receipt],
        filter: Option<&Filter>,
    ) -> Result<Client, SubscriptionError> {
        let Some(filter) = filter else {
            return self.send(&convert::header(block, self.rpc.backend.params())).await;
        };
        if !block.result.is_some_and(|result| filter.matches_bloom(result.bloom)) {
            return Ok(Client::Here);
        }
        for log in logs::of_block(filter, block, receipts) {
            if self.send(&log).await? == Client::Gone {
                return Ok(Client::Gone);
            }
        }
        Ok(Client::Here)
    }

    async fn pending(&mut self) -> Result<(), SubscriptionError> {
        while let Some(event) = self.next().await {
            let Ok(ChainEvent::Pending(hashes)) = event else { continue };
            for hash in hashes.iter() {
                if self.send(hash).await? == Client::Gone {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn finals(&mut self, mut last: Height) -> Result<(), SubscriptionError> {
        while let Some(event) = self.next().await {
            let head = match event {
                Ok(ChainEvent::Final { height, .. }) => height,
                Ok(ChainEvent::Executed { .. } | ChainEvent::Opened { .. } | ChainEvent::Pending(_)) => continue,
                Err(_) => self.rpc.heads().ordered,
            };
            check_distance(last, head)?;
            while last < head {
                last = last.next();
                let hash = self.rpc.backend.block_hash(last)?.ok_or_else(|| end("a final block is not there"))?;
                if self.send(&FinalBlock { height: last, hash }).await? == Client::Gone {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

impl Feed {
    /// What an envelope has come to, as long as that changes.
    async fn envelope(&mut self, hash: B256) -> Result<(), SubscriptionError> {
        let mut last = None;
        loop {
            let now = sealed::status(&self.rpc, hash).map_err(failed)?.filter(|now| last != Some(now.status));
            if let Some(now) = now {
                if self.send(&now).await? == Client::Gone || now.status.is_last() {
                    return Ok(());
                }
                last = Some(now.status);
            }
            loop {
                match self.next().await {
                    None => return Ok(()),
                    // What others submit changes nothing.
                    Some(Ok(ChainEvent::Pending(hashes))) if !hashes.contains(&hash) => {}
                    Some(_) => break,
                }
            }
        }
    }
}

fn check_distance(last: Height, head: Height) -> Result<(), SubscriptionError> {
    let behind = head.0.saturating_sub(last.0);
    if behind > MAX_BEHIND {
        return Err(end(format!("limit exceeded: the subscription is {behind} blocks behind, limit {MAX_BEHIND}")));
    }
    Ok(())
}

fn failed(reason: ErrorObjectOwned) -> SubscriptionError {
    end(reason.message())
}
