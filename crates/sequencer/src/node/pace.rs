//! How many envelopes this node puts into a block when it leads.
//!
//! ```text
//!  proposed --> final --> shares, combined, opened, executed
//!  |<----------- in flight: at most IN_FLIGHT blocks' worth ----------->|
//! ```
//!
//! Order costs less than opening and executing what is ordered. A leader that fills its blocks under load would let users
//! wait between a place that is final and its reveal, where nothing can replace, cancel or outbid what they sent. So what
//! cannot be opened soon stays in the pool. What an envelope takes is measured at blocks that this node opened, one after
//! the other; a short pause of the machine makes the next blocks smaller, never empty for long.
//!
//! Full and smaller blocks take turns under load. A bound of nine tenths of a block time for each block evens them out, and
//! was tried: what a block costs whatever it holds then took a third of the throughput. What shortens reveals without that
//! is to let the proofs of what is not ordered yet wait for the processor ([`super::proofs`]).
//!
//! It is a node's own affair: a block with more envelopes is as valid.

use std::time::{Duration, Instant};

use cascade_primitives::{ChainParams, Height};

/// Block times of opening and executing that may be in flight, proposals included.
const IN_FLIGHT: f64 = 2.0;
/// Envelopes that a block may have whatever was measured.
const LEAST: usize = 32;
/// What is taken for a block time's worth before anything was measured.
const START: f64 = 128.0;
/// The part of the news in what is known of an envelope's cost.
const NEWS: f64 = 0.2;
/// A chain that makes blocks as fast as votes come has no block time; this one is taken for it.
const LEAST_BLOCK_TIME: Duration = Duration::from_millis(50);

/// What a node measured.
#[derive(Debug)]
pub struct Pace {
    block_seconds: f64,
    ordered: Height,
    /// When the block that is opened next could be begun with.
    since: Option<Instant>,
    /// Seconds for an envelope, smoothed.
    cost: Option<f64>,
}

impl Pace {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(params: &ChainParams) -> Self {
        let block_seconds = Duration::from_millis(params.block_time_ms).max(LEAST_BLOCK_TIME).as_secs_f64();
        Self { block_seconds, ordered: Height::ZERO, since: None, cost: None }
    }

    /// A block is final.
    pub fn ordered(&mut self, now: Instant, height: Height) {
        self.ordered = height;
        self.since.get_or_insert(now);
    }

    /// A block with this many items is executed.
    pub fn executed(&mut self, now: Instant, height: Height, items: usize) {
        let waiting = height < self.ordered;
        let Some(since) = std::mem::replace(&mut self.since, waiting.then_some(now)) else { return };
        if items == 0 {
            return;
        }
        let cost = now.saturating_duration_since(since).as_secs_f64() / items.max(LEAST) as f64;
        self.cost = Some(self.cost.map_or(cost, |known| known + NEWS * (cost - known)));
    }

    /// Most envelopes for the next block, with so many items in blocks above the executed one.
    #[must_use]
    pub fn most(&self, in_flight: usize) -> usize {
        let worth = self.cost.map_or(START, |cost| self.block_seconds / cost.max(1e-6));
        ((IN_FLIGHT * worth) as usize).max(LEAST).saturating_sub(in_flight)
    }
}

#[cfg(test)]
mod tests {
    use cascade_primitives::Network;

    use super::*;

    /// A leader with all the envelopes that it wants, on a chain that takes `fixed` and `each` to open a block. A block is
    /// proposed every block time and final one later. Answers the mean items of a block and the longest wait for its
    /// reveal, in the last 50 blocks.
    fn run(fixed: Duration, each: Duration, pause_at: Option<u64>) -> (usize, Duration) {
        let params = ChainParams { block_time_ms: 100, ..ChainParams::of(Network::Regtest) };
        let (mut pace, start) = (Pace::new(&params), Instant::now());
        let block = Duration::from_millis(100);
        // Items and moment of finality of what is not executed, and when the one before is.
        let mut waiting: std::collections::VecDeque<(Height, usize, Instant)> = Default::default();
        let (mut free, mut opened_blocks) = (start, Vec::new());
        let mut proposed: Option<usize> = None;
        for height in 1..400_u64 {
            let now = start + block * height as u32;
            while let Some(&(opened, items, at)) = waiting.front() {
                let pause = if Some(opened.0) == pause_at { Duration::from_secs(10) } else { Duration::ZERO };
                let done = free.max(at) + fixed + each * items as u32 + pause;
                if done > now {
                    break;
                }
                waiting.pop_front();
                free = done;
                pace.executed(done, opened, items);
                opened_blocks.push((items, done - at));
            }
            if let Some(items) = proposed.take() {
                pace.ordered(now, Height(height));
                waiting.push_back((Height(height), items, now));
            }
            let in_flight = waiting.iter().map(|(_, items, _)| items).sum();
            proposed = Some(pace.most(in_flight));
        }
        let last = &opened_blocks[opened_blocks.len() - 50..];
        let mean = last.iter().map(|(items, _)| *items).sum::<usize>() / last.len();
        (mean, last.iter().map(|(_, wait)| *wait).max().expect("blocks"))
    }

    #[test]
    fn a_block_holds_what_is_opened_in_about_a_block_time() {
        let (items, wait) = run(Duration::from_millis(20), Duration::from_millis(1), None);
        // 100 ms less 20 would be 80 envelopes.
        assert!((40..=80).contains(&items), "{items}");
        assert!(wait <= Duration::from_millis(260), "{wait:?}");
    }

    #[test]
    fn a_pause_is_forgotten() {
        let (before, _) = run(Duration::from_millis(20), Duration::from_millis(1), None);
        let (after, wait) = run(Duration::from_millis(20), Duration::from_millis(1), Some(50));
        assert!(after + 2 >= before && wait <= Duration::from_millis(260), "{after} of {before}, {wait:?}");
    }

    #[test]
    fn nothing_is_added_to_what_cannot_be_opened_soon() {
        let params = ChainParams::of(Network::Regtest);
        let (mut pace, now) = (Pace::new(&params), Instant::now());
        let first = pace.most(0);
        assert!(first > LEAST && pace.most(10 * first) == 0, "{first}");
        pace.ordered(now, Height(1));
        pace.executed(now + Duration::from_secs(1), Height(1), 100);
        assert_eq!((pace.most(0), pace.most(LEAST)), (LEAST, 0), "a pause");
    }
}
