//! Filters that a client polls: `eth_newFilter` and the like.
//!
//! A filter belongs to no connection. Its id is random, so that a client cannot take away what another waits for. One
//! that is not polled for its lifetime is dropped; there is a limit for all clients together.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_primitives::B256;
use alloy_rpc_types_eth::{Filter, FilterBlockOption, Log};
use cascade_primitives::Height;
use jsonrpsee::{core::traits::IdProvider, server::RandomIntegerIdProvider, types::SubscriptionId};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::broadcast::{Receiver, error::TryRecvError};

use super::{
    Methods, Rpc,
    backend::ChainEvent,
    error::{self, Answer},
    logs,
    params::Args,
};

/// Most hashes that one poll answers; the rest comes with the next.
const MAX_HASHES: usize = 10_000;

/// What a filter waits for.
enum Kind {
    /// Logs of blocks from `next` on, as far as the filter's own range goes.
    Logs { filter: Box<Filter>, next: Height },
    /// Hashes of executed blocks from `next` on.
    Blocks { next: Height },
    /// Hashes of transactions that enter the pool, and those that the last poll left over.
    Pending { events: Box<Receiver<ChainEvent>>, left: VecDeque<B256> },
}

struct Entry {
    kind: Arc<Mutex<Kind>>,
    polled: Instant,
}

/// All filters. Ordered by id only so that iteration has an order.
pub(super) struct Filters {
    entries: Mutex<BTreeMap<u128, Entry>>,
    most: u32,
    lifetime: Duration,
}

/// What a poll answers.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
enum Changes {
    Logs(Vec<Log>),
    Hashes(Vec<B256>),
}

impl Filters {
    pub(super) const fn new(most: u32, lifetime_ms: u64) -> Self {
        Self { entries: Mutex::new(BTreeMap::new()), most, lifetime: Duration::from_millis(lifetime_ms) }
    }

    fn add(&self, kind: Kind) -> Answer<String> {
        let now = Instant::now();
        let mut entries = self.entries.lock();
        entries.retain(|_, entry| now.duration_since(entry.polled) < self.lifetime);
        if entries.len() >= self.most as usize {
            return Err(error::limit("filters of this node", entries.len() + 1, self.most));
        }
        let id = random_id();
        entries.insert(id, Entry { kind: Arc::new(Mutex::new(kind)), polled: now });
        Ok(format!("{id:#x}"))
    }

    fn poll(&self, id: u128) -> Option<Arc<Mutex<Kind>>> {
        let now = Instant::now();
        let mut entries = self.entries.lock();
        entries.retain(|_, entry| now.duration_since(entry.polled) < self.lifetime);
        let entry = entries.get_mut(&id)?;
        entry.polled = now;
        Some(Arc::clone(&entry.kind))
    }

    fn remove(&self, id: u128) -> bool {
        self.entries.lock().remove(&id).is_some()
    }
}

/// 106 random bits, from the source that subscription ids come from.
pub(super) fn random_id() -> u128 {
    let part = || match RandomIntegerIdProvider.next_id() {
        SubscriptionId::Num(number) => u128::from(number),
        SubscriptionId::Str(_) => unreachable!("the provider makes integers"),
    };
    part() << 53 | part()
}

pub(super) fn register(methods: &mut Methods) {
    methods.cheap("eth_newFilter", 1, new_log_filter);
    methods
        .cheap("eth_newBlockFilter", 0, |rpc, _| rpc.filters.add(Kind::Blocks { next: rpc.heads().executed.next() }));
    methods.cheap("eth_newPendingTransactionFilter", 1, |rpc, args| {
        if args.optional::<bool>(0)?.unwrap_or(false) {
            return Err(error::params("invalid argument 0: full transactions are not supported, only hashes"));
        }
        rpc.filters.add(Kind::Pending { events: Box::new(rpc.backend.events()), left: VecDeque::new() })
    });
    methods.heavy("eth_getFilterChanges", 1, |rpc, args| {
        let kind = id(args)?.and_then(|id| rpc.filters.poll(id)).ok_or_else(not_found)?;
        let mut kind = kind.lock();
        changes(rpc, &mut kind)
    });
    methods.heavy("eth_getFilterLogs", 1, |rpc, args| {
        let kind = id(args)?.and_then(|id| rpc.filters.poll(id)).ok_or_else(not_found)?;
        let filter = match &*kind.lock() {
            Kind::Logs { filter, .. } => filter.clone(),
            Kind::Blocks { .. } | Kind::Pending { .. } => return Err(not_found()),
        };
        logs::matching(rpc, &filter)
    });
    methods.cheap("eth_uninstallFilter", 1, |rpc, args| Ok(id(args)?.is_some_and(|id| rpc.filters.remove(id))));
}

fn not_found() -> jsonrpsee::types::ErrorObjectOwned {
    error::server("filter not found")
}

/// A filter id; none for what cannot be one.
fn id(args: &Args<'_>) -> Answer<Option<u128>> {
    Ok(match args.get::<Value>(0)? {
        Value::String(text) => text.strip_prefix("0x").and_then(|digits| u128::from_str_radix(digits, 16).ok()),
        Value::Number(number) => number.as_u64().map(u128::from),
        _ => return Err(error::params("invalid argument 0: a filter id is a string of hex")),
    })
}

fn new_log_filter(rpc: &Rpc, args: &Args<'_>) -> Answer<String> {
    rpc.plain()?;
    let filter: Filter = args.optional(0)?.unwrap_or_default();
    logs::check(&filter)?;
    if matches!(filter.block_option, FilterBlockOption::AtBlockHash(_)) {
        return Err(error::params("invalid argument 0: a filter for what is new has no blockHash; use eth_getLogs"));
    }
    let from = filter.get_from_block().map_or(Height(0), Height);
    rpc.filters.add(Kind::Logs { filter: Box::new(filter), next: rpc.heads().executed.next().max(from) })
}

fn changes(rpc: &Rpc, kind: &mut Kind) -> Answer<Changes> {
    let head = rpc.heads().executed;
    match kind {
        Kind::Logs { filter, next } => {
            let last = filter.get_to_block().map_or(head, |to| head.min(Height(to)));
            // What is more than one answer may cover comes with the next poll.
            let last = last.min(next.plus(rpc.config.max_log_blocks - 1));
            if *next > last {
                return Ok(Changes::Logs(Vec::new()));
            }
            let found = logs::in_range(rpc, filter, *next..=last)?;
            *next = last.next();
            Ok(Changes::Logs(found))
        }
        Kind::Blocks { next } => {
            let last = head.min(next.plus(MAX_HASHES as u64 - 1));
            let mut hashes = Vec::new();
            while *next <= last {
                hashes.extend(rpc.backend.block_hash(*next)?.map(B256::from));
                *next = next.next();
            }
            Ok(Changes::Hashes(hashes))
        }
        Kind::Pending { events, left } => {
            while left.len() < MAX_HASHES {
                match events.try_recv() {
                    Ok(ChainEvent::Pending(hashes)) => left.extend(hashes.iter()),
                    // Pending transactions are a hint: what was missed is gone.
                    Ok(_) | Err(TryRecvError::Lagged(_)) => {}
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                }
            }
            let count = left.len().min(MAX_HASHES);
            Ok(Changes::Hashes(left.drain(..count).collect()))
        }
    }
}
