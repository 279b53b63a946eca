//! Logs by range and filter (`eth_getLogs`).

use std::ops::RangeInclusive;

use alloy_primitives::{Bloom, BloomInput, Log};
use cascade_primitives::{Address, B256, BlockHash, Height};

use super::ChainDb;
use crate::error::Result;

/// Which logs are wanted. An empty list of addresses, or of topics at a place, stands for any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// Contracts, any of them.
    pub addresses: Vec<Address>,
    /// For each of the four places, topics, any of them.
    pub topics: [Vec<B256>; 4],
}

impl LogFilter {
    /// Whether a block or receipt with this bloom filter may have a log that is wanted.
    #[must_use]
    pub fn may_match(&self, bloom: &Bloom) -> bool {
        let has = |bytes: &[u8]| bloom.contains_input(BloomInput::Raw(bytes));
        (self.addresses.is_empty() || self.addresses.iter().any(|address| has(address.as_slice())))
            && self.topics.iter().all(|topics| topics.is_empty() || topics.iter().any(|topic| has(topic.as_slice())))
    }

    /// Whether a log is wanted.
    #[must_use]
    pub fn matches(&self, log: &Log) -> bool {
        (self.addresses.is_empty() || self.addresses.contains(&log.address))
            && self.topics.iter().enumerate().all(|(place, wanted)| {
                wanted.is_empty() || log.topics().get(place).is_some_and(|topic| wanted.contains(topic))
            })
    }
}

/// A log and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundLog {
    /// Its block.
    pub height: Height,
    /// Its block's hash.
    pub block_hash: BlockHash,
    /// Its transaction.
    pub transaction_hash: B256,
    /// Place of the transaction in the block.
    pub transaction_index: u32,
    /// Place of the log in the block.
    pub log_index: u32,
    /// The log.
    pub log: Log,
}

/// Logs of the first blocks of a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogPage {
    /// What was found, in order.
    pub logs: Vec<FoundLog>,
    /// Where to go on, if the limit was reached before the end of the range.
    pub next: Option<Height>,
}

impl ChainDb {
    /// The logs of executed blocks in a range that a filter wants. Stops after the block with which there are `limit`
    /// of them or more. Blocks whose bloom filter excludes a match cost one small read.
    ///
    /// # Errors
    /// What the system reports.
    pub fn logs(&self, range: RangeInclusive<Height>, filter: &LogFilter, limit: usize) -> Result<LogPage> {
        let mut page = LogPage::default();
        let Some(executed) = self.heads().executed else { return Ok(page) };
        let last = (*range.end()).min(executed);
        for height in (range.start().0..=last.0).map(Height) {
            if page.logs.len() >= limit {
                page.next = Some(height);
                break;
            }
            let Some(record) = self.executed(height)? else { continue };
            if !record.bloom.is_zero() && filter.may_match(&record.bloom) {
                self.collect_logs(height, filter, &mut page.logs)?;
            }
        }
        Ok(page)
    }

    fn collect_logs(&self, height: Height, filter: &LogFilter, found: &mut Vec<FoundLog>) -> Result<()> {
        let (Some(block_hash), Some(receipts)) = (self.hash_at(height)?, self.receipts(height)?) else { return Ok(()) };
        for (transaction_index, receipt) in (0..).zip(receipts) {
            for (log_index, log) in (receipt.first_log_index..).zip(receipt.logs) {
                if filter.matches(&log) {
                    let transaction_hash = receipt.transaction_hash;
                    found.push(FoundLog { height, block_hash, transaction_hash, transaction_index, log_index, log });
                }
            }
        }
        Ok(())
    }
}
