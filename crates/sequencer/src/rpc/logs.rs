//! `eth_getLogs`: finding logs by address, topics, and block.
//!
//! A range is scanned block by block: the bloom filter says which blocks are worth reading. Range and number of results
//! are limited, so the work of one request is bounded.

use std::ops::RangeInclusive;

use alloy_rpc_types_eth::{BlockNumberOrTag, Filter, FilterBlockOption, Log};
use cascade_execution::Receipt;
use cascade_primitives::Height;

use super::{
    Methods, Rpc,
    backend::BlockData,
    convert,
    error::{self, Answer},
};

/// Most addresses, and most alternatives for one topic, that a filter may name (geth allows as many).
const MAX_ALTERNATIVES: usize = 1_000;

pub(super) fn register(methods: &mut Methods) {
    methods.heavy("eth_getLogs", 1, |rpc, args| {
        rpc.plain()?;
        let filter: Filter = args.get(0)?;
        check(&filter)?;
        matching(rpc, &filter)
    });
}

/// Refuses filters that are too large.
pub(super) fn check(filter: &Filter) -> Answer<()> {
    let sizes = [("addresses in a filter", filter.address.len())]
        .into_iter()
        .chain(filter.topics.iter().map(|topic| ("alternatives for a topic", topic.len())));
    for (what, size) in sizes {
        if size > MAX_ALTERNATIVES {
            return Err(error::limit(what, size, MAX_ALTERNATIVES));
        }
    }
    Ok(())
}

/// All logs that a filter asks for.
pub(super) fn matching(rpc: &Rpc, filter: &Filter) -> Answer<Vec<Log>> {
    match filter.block_option {
        FilterBlockOption::AtBlockHash(hash) => {
            let height = rpc.backend.height_of(&hash.into())?.filter(|height| *height <= rpc.heads().executed);
            let height = height.ok_or_else(|| error::server("unknown block"))?;
            in_range(rpc, filter, height..=height)
        }
        FilterBlockOption::Range { from_block, to_block } => match range(rpc, from_block, to_block)? {
            Some(range) => in_range(rpc, filter, range),
            None => Ok(Vec::new()),
        },
    }
}

/// The executed blocks between two bounds; none if all of them lie above the head.
fn range(
    rpc: &Rpc,
    from: Option<BlockNumberOrTag>,
    to: Option<BlockNumberOrTag>,
) -> Answer<Option<RangeInclusive<Height>>> {
    let head = rpc.heads().executed;
    let height = |bound: Option<BlockNumberOrTag>| match bound.unwrap_or(BlockNumberOrTag::Latest) {
        BlockNumberOrTag::Number(height) => Height(height),
        tag => rpc.height_of(tag).unwrap_or(head).min(head),
    };
    let (from, to) = (height(from), height(to));
    if from > to {
        return Err(error::params("invalid block range params"));
    }
    if from > head {
        return Ok(None);
    }
    Ok(Some(from..=to.min(head)))
}

/// The logs of executed blocks that match, in their order.
pub(super) fn in_range(rpc: &Rpc, filter: &Filter, range: RangeInclusive<Height>) -> Answer<Vec<Log>> {
    let (from, to) = (range.start().0, range.end().0);
    let count = (to - from).saturating_add(1);
    if count > rpc.config.max_log_blocks {
        return Err(error::limit("block range", count, rpc.config.max_log_blocks));
    }
    let most = rpc.config.max_logs;
    let mut found = Vec::new();
    for height in (from..=to).map(Height) {
        if !rpc.backend.bloom(height)?.is_some_and(|bloom| filter.matches_bloom(bloom)) {
            continue;
        }
        let Some(receipts) = rpc.backend.receipts(height)? else { continue };
        found.extend(of_block(filter, &*rpc.data(height)?, &receipts).take(most as usize + 1 - found.len()));
        if found.len() > most as usize {
            return Err(error::too_many_logs(most));
        }
    }
    Ok(found)
}

/// The logs of one block that match.
pub(super) fn of_block<'a>(
    filter: &'a Filter,
    data: &'a BlockData,
    receipts: &'a [Receipt],
) -> impl Iterator<Item = Log> + use<'a> {
    let wanted =
        |log: &alloy_primitives::Log| filter.matches_address(log.address) && filter.matches_topics(log.topics());
    receipts
        .iter()
        .enumerate()
        .flat_map(|(index, receipt)| convert::logs(data, receipt, index))
        .filter(move |log| wanted(&log.inner))
}
