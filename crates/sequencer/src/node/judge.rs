//! Whether what others put into a block is valid, and what it takes of whom.
//!
//! Signatures and proofs are checked without the pool's lock: a block that this node has not seen the items of takes a fifth of
//! a second, a hostile leader's no more ([`super::items`]), and whoever admits or asks for a nonce needs the lock meanwhile.

use std::sync::Arc;

use cascade_consensus::{BuildRequest, Verdict};
use cascade_execution::{
    BlockLoad, OrderedGas, OrderingError, check_block_items, check_block_transactions, next_base_fee,
};
use cascade_primitives::{Bytes, ChainParams, Header, SealedBlock};

use super::{
    items::ItemContent,
    pool::{SharedPool, in_flight},
    recovered::{BlockContent, RecoveredBlocks},
    sealed::{SealedSources, Unjudged},
};

/// What a block's content is checked with.
pub(super) enum Checking {
    Opaque,
    Plain(RecoveredBlocks),
    Sealed(SealedSources),
}

/// What a block holds, checked.
enum Content {
    /// What cannot be wrong: nothing, or opaque payloads.
    Any,
    Plain(Arc<BlockContent>),
    Sealed(Arc<ItemContent>),
}

fn content_of(
    shared: &SharedPool,
    block: &SealedBlock,
    params: &ChainParams,
    with: &Checking,
) -> Result<Content, Unjudged> {
    match with {
        Checking::Opaque => Ok(Content::Any),
        _ if block.body.transactions.is_empty() => Ok(Content::Any),
        Checking::Plain(recovered) => recovered
            .get_or_recover(block, params, |hash| shared.lock().get(hash))
            .map(Content::Plain)
            .map_err(|error| Unjudged::Invalid(error.to_string())),
        Checking::Sealed(sources) => {
            sources.content_of(block, params, |raw| shared.lock().known_item(raw)).map(Content::Sealed)
        }
    }
}

/// What each of these blocks takes, as far as the first of which it cannot be told; then none.
pub(super) fn loads(shared: &SharedPool, blocks: &[Arc<SealedBlock>]) -> Option<Vec<Arc<BlockLoad>>> {
    let (params, with) = shared.lock().checking();
    let load = |block: &Arc<SealedBlock>| match content_of(shared, block, &params, &with).ok()? {
        Content::Any => Some(Arc::default()),
        Content::Plain(content) => Some(Arc::clone(&content.load)),
        Content::Sealed(content) => Some(Arc::clone(&content.load)),
    };
    blocks.iter().map(load).collect()
}

/// Whether a block's content is valid; nothing while it cannot be told.
pub(super) fn judge(shared: &SharedPool, block: &SealedBlock, request: &BuildRequest) -> Option<Verdict> {
    let header = &block.header;
    let (params, with) = shared.lock().checking();
    let base_fee = next_base_fee(request.parent.base_fee, request.parent.ordered_gas, &params);
    if header.base_fee != base_fee {
        return Some(Verdict::Invalid(format!("base fee {}, due is {base_fee}", header.base_fee)));
    }
    let content = match content_of(shared, block, &params, &with) {
        Ok(Content::Any) => {
            // Nothing to look up: it can be told whatever state is at hand.
            let wrong = header.ordered_gas != 0 || block.body.transactions.iter().any(Bytes::is_empty);
            return Some(if wrong { Verdict::Invalid("empty payload or gas".to_owned()) } else { Verdict::Valid });
        }
        Ok(content) => content,
        Err(Unjudged::Invalid(reason)) => return Some(Verdict::Invalid(reason)),
        Err(Unjudged::Unknown) => return None,
    };
    let view = shared.lock().state_at(request.state_height)?;
    let in_flight = in_flight(request, &loads(shared, &request.ancestors)?);
    let fee = header.base_fee;
    match content {
        Content::Any => unreachable!("judged above"),
        Content::Plain(content) => {
            told(header, check_block_transactions(&params, fee, &view, &in_flight, &content.transactions))
        }
        Content::Sealed(content) => {
            let (height, epoch, items) = (header.height, header.epoch, &content.items);
            told(header, check_block_items(&params, fee, height, epoch, &view, &in_flight, items))
        }
    }
}

fn told<T>(header: &Header, checked: Result<(OrderedGas, T), OrderingError>) -> Option<Verdict> {
    match checked {
        Ok((gas, _)) if gas.0 == header.ordered_gas => Some(Verdict::Valid),
        Ok((gas, _)) => Some(Verdict::Invalid(format!("ordered gas {}, it is {}", header.ordered_gas, gas.0))),
        Err(error @ OrderingError::Invalid { .. }) => Some(Verdict::Invalid(error.to_string())),
        Err(error) => {
            tracing::error!(%error, "state unreadable while validating");
            None
        }
    }
}
