//! How many opaque payloads a node takes from its users while more come than the chain orders.
//!
//! ```text
//!  part of all that is taken
//!   1 |------------\                      standing: work that waited all the time in the last one to two block times
//!     |             \                     low, high: what the chain orders in 1 and in 4 block times
//!   0 |______________\________
//!     0            low  high   standing       and nothing is taken while 10 block times of work wait
//! ```
//!
//! Work is bytes, and [`PAYLOAD_WORK`] more for each payload, so that small ones count too. It waits from the moment it is
//! let in until its block is final. What the chain orders is measured at its final blocks. A queue that grows without bound
//! makes everybody wait for ever, and its blocks grow until none is voted on in time; so a node refuses what nobody would
//! order soon. A short hiccup, after which the queue is as short as before, is no reason to refuse anybody: what counts is
//! the least that waited lately. Between `low` and `high` a part is taken, which settles where what is taken equals what
//! is ordered. Payloads have no sender and no order, so refused is whichever comes when the part is used up. What members
//! of the committee gossip is not refused here: their users were served already, and every node counts it as waiting, so
//! all doors close together.
//!
//! While little waits, the measured rate says what was offered and not what the chain can do; then it falls slowly, and
//! a rise from nothing finds room for [`LEAST_LOW`] or two blocks, whichever is less.

use std::time::{Duration, Instant};

use cascade_primitives::ChainParams;

/// What a payload costs beside its bytes, in bytes that cost as much.
const PAYLOAD_WORK: usize = 256;
/// Standing work below which nobody is refused, whatever the chain ordered lately, if two blocks do not hold less; twice
/// that is the least `high`, four times the least `hard`.
const LEAST_LOW: f64 = (4 << 20) as f64;
/// `low`, `high` and `hard` in block times of what the chain orders.
const LOW_BLOCKS: f64 = 1.0;
const HIGH_BLOCKS: f64 = 4.0;
const HARD_BLOCKS: f64 = 10.0;
/// Half of the time that the least of is what stands, in block times.
const STANDING_BLOCKS: f64 = 1.0;
/// Blocks become final in lumps: so many block times are measured together at least.
const MEASURED_BLOCKS: f64 = 2.0;
/// Block times in which a measured rate replaces the one before: while work waits, and while none does.
const FORGET_BUSY: f64 = 10.0;
const FORGET_IDLE: f64 = 100.0;
/// A chain that makes blocks as fast as votes come has no block time; this one is taken for it.
const LEAST_BLOCK_TIME: Duration = Duration::from_millis(50);

/// The work of so many payloads with so many bytes in all.
#[must_use]
pub const fn work(payloads: usize, bytes: usize) -> usize {
    bytes.saturating_add(payloads.saturating_mul(PAYLOAD_WORK))
}

/// The measured load of a node, and who is let in under it.
#[derive(Debug)]
pub struct Door {
    block_seconds: f64,
    least_low: f64,
    /// Work in the pool.
    pooled: usize,
    /// Work that was let in and is not in the pool yet.
    entering: usize,
    /// The least of both since `span`, and in the span before.
    least: [f64; 2],
    span: Option<Instant>,
    /// Work ordered since `since`.
    ordered: usize,
    since: Option<Instant>,
    /// Work ordered per second, smoothed.
    rate: f64,
    /// The part of a payload that may be taken beyond what was.
    credit: f64,
}

impl Door {
    /// The door of a node without load.
    #[must_use]
    pub fn new(params: &ChainParams) -> Self {
        let block = work(params.max_block_bytes as usize / PAYLOAD_WORK, params.max_block_bytes as usize);
        Self {
            block_seconds: Duration::from_millis(params.block_time_ms).max(LEAST_BLOCK_TIME).as_secs_f64(),
            least_low: LEAST_LOW.min(2.0 * block as f64),
            pooled: 0,
            entering: 0,
            least: [0.0; 2],
            span: None,
            ordered: 0,
            since: None,
            rate: 0.0,
            credit: 0.0,
        }
    }

    /// So much work is in the pool, ordered but not final included.
    pub fn pooled(&mut self, now: Instant, work: usize) {
        self.pooled = work;
        let span = *self.span.get_or_insert(now);
        if now.saturating_duration_since(span).as_secs_f64() >= STANDING_BLOCKS * self.block_seconds {
            self.span = Some(now);
            self.least = [f64::INFINITY, self.least[0]];
        }
        self.least[0] = self.least[0].min(self.waiting());
        self.measure(now);
    }

    /// A block with so much work became final.
    pub const fn ordered(&mut self, work: usize) {
        self.ordered += work;
    }

    fn measure(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let seconds = now.saturating_duration_since(since).as_secs_f64();
        if seconds < MEASURED_BLOCKS * self.block_seconds {
            return;
        }
        let rate = self.ordered as f64 / seconds;
        self.since = Some(now);
        self.ordered = 0;
        let busy = rate > self.rate || self.standing() > self.low();
        let forget = self.block_seconds * if busy { FORGET_BUSY } else { FORGET_IDLE };
        self.rate += (1.0 - (-seconds / forget).exp()) * (rate - self.rate);
    }

    /// Lets a payload of so much work in, or refuses it. What is let in counts as waiting until [`Door::entered`].
    pub fn lets_in(&mut self, work: usize) -> bool {
        let share = self.share();
        if share <= 0.0 {
            return false;
        }
        if share < 1.0 {
            self.credit = (self.credit + share).min(1.0 + share);
            if self.credit < 1.0 {
                return false;
            }
            self.credit -= 1.0;
        }
        self.entering += work;
        true
    }

    /// What was let in is in the pool, or went elsewhere.
    pub const fn entered(&mut self, work: usize) {
        self.entering = self.entering.saturating_sub(work);
    }

    fn waiting(&self) -> f64 {
        self.pooled as f64 + self.entering as f64
    }

    /// What was waiting all the time lately.
    fn standing(&self) -> f64 {
        self.least[0].min(self.least[1])
    }

    /// What the chain orders in so many block times.
    fn blocks(&self, blocks: f64) -> f64 {
        blocks * self.block_seconds * self.rate
    }

    fn low(&self) -> f64 {
        self.least_low.max(self.blocks(LOW_BLOCKS))
    }

    /// The part of all payloads that is let in.
    fn share(&self) -> f64 {
        if self.waiting() >= self.blocks(HARD_BLOCKS).max(4.0 * self.least_low) {
            return 0.0;
        }
        let (low, high) = (self.low(), self.blocks(HIGH_BLOCKS).max(2.0 * self.least_low));
        ((high - self.standing()) / (high - low)).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use cascade_primitives::Network;
    use proptest::prelude::*;

    use super::*;

    const TICK: Duration = Duration::from_millis(5);

    /// A chain in simulated time behind a few doors that all see the same pool, a little late.
    struct Chain {
        doors: Vec<Door>,
        block_time: Duration,
        /// Work a second.
        capacity: f64,
        size: usize,
        now: Instant,
        pool: usize,
        /// What the doors will see, oldest first.
        seen: std::collections::VecDeque<usize>,
        next_block: Instant,
        refused: usize,
        offered: usize,
        /// Work ordered, and the longest that anything waited, both since they were last set to 0.
        ordered: usize,
        worst: usize,
        owed: f64,
    }

    impl Chain {
        fn new(params: &ChainParams, capacity: f64, size: usize) -> Self {
            let now = Instant::now();
            Self {
                doors: (0..3).map(|_| Door::new(params)).collect(),
                block_time: Duration::from_millis(params.block_time_ms),
                capacity,
                size,
                now,
                pool: 0,
                seen: std::iter::repeat_n(0, 4).collect(),
                next_block: now,
                refused: 0,
                offered: 0,
                ordered: 0,
                worst: 0,
                owed: 0.0,
            }
        }

        fn run(&mut self, rate: f64, seconds: f64) {
            let end = self.now + Duration::from_secs_f64(seconds);
            let one = work(1, self.size);
            while self.now < end {
                self.now += TICK;
                self.owed += rate * TICK.as_secs_f64() / one as f64;
                while self.owed >= 1.0 {
                    self.owed -= 1.0;
                    let at = self.offered % self.doors.len();
                    self.offered += 1;
                    if self.doors[at].lets_in(one) {
                        self.doors[at].entered(one);
                        self.pool += one;
                    } else {
                        self.refused += 1;
                    }
                }
                self.worst = self.worst.max(self.pool);
                if self.now >= self.next_block {
                    let block = self.pool.min((self.capacity * self.block_time.as_secs_f64()) as usize);
                    self.pool -= block;
                    self.ordered += block;
                    self.next_block = self.now + self.block_time;
                    for door in &mut self.doors {
                        door.ordered(block);
                    }
                }
                self.seen.push_back(self.pool);
                let seen = self.seen.pop_front().expect("it has four");
                for door in &mut self.doors {
                    door.pooled(self.now, seen);
                }
            }
        }

        fn forget(&mut self) {
            (self.refused, self.offered, self.ordered, self.worst) = (0, 0, 0, self.pool);
        }

        /// The longest that anything waited, in block times.
        fn worst_blocks(&self) -> f64 {
            self.worst as f64 / self.capacity / self.block_time.as_secs_f64()
        }
    }

    fn regtest() -> ChainParams {
        ChainParams::of(Network::Regtest)
    }

    #[test]
    fn nobody_is_refused_while_the_chain_keeps_up() {
        for (network, capacity) in [(Network::Regtest, 30e6), (Network::Mainnet, 4e6)] {
            let mut chain = Chain::new(&ChainParams::of(network), capacity, 512);
            chain.run(0.95 * capacity, 30.0);
            assert_eq!(chain.refused, 0, "{network:?}");
        }
    }

    #[test]
    fn a_node_that_was_idle_takes_a_burst() {
        let mut chain = Chain::new(&regtest(), 30e6, 512);
        chain.run(0.0, 60.0);
        chain.run(28e6, 5.0);
        assert_eq!(chain.refused, 0);
    }

    #[test]
    fn a_chain_that_became_slower_is_believed_soon() {
        let mut chain = Chain::new(&regtest(), 40e6, 512);
        chain.run(80e6, 20.0);
        chain.capacity = 10e6;
        chain.run(80e6, 8.0);
        chain.forget();
        chain.run(80e6, 20.0);
        assert!(chain.worst_blocks() < HARD_BLOCKS + 2.0, "{}", chain.worst_blocks());
        assert!(chain.ordered as f64 > 0.97 * 10e6 * 20.0);
    }

    #[test]
    fn after_a_stall_what_waits_is_what_was_let_in_before() {
        let mut chain = Chain::new(&regtest(), 30e6, 512);
        chain.run(28e6, 20.0);
        chain.capacity = 0.0;
        chain.run(28e6, 30.0);
        // A stall is no reason to let in more than ten block times of what was.
        assert!(chain.worst as f64 <= 1.1 * HARD_BLOCKS * 0.1 * 30e6, "{}", chain.worst);
        chain.capacity = 30e6;
        chain.run(28e6, 10.0);
        chain.forget();
        chain.run(28e6, 10.0);
        assert_eq!(chain.refused, 0, "and served when the queue is gone");
    }

    #[test]
    fn payloads_on_their_way_count_as_waiting() {
        let mut door = Door::new(&regtest());
        let one = work(1, 1 << 20);
        let let_in = (0..1000).filter(|_| door.lets_in(one)).count();
        assert!(let_in >= 4 && let_in * one <= 4 * (4 << 20) + one, "{let_in}");
        for _ in 0..let_in {
            door.entered(one);
        }
        assert!(door.lets_in(one));
    }

    #[test]
    fn a_node_that_caught_up_does_not_believe_its_haste() {
        // Thousands of blocks became final at once.
        let mut chain = Chain::new(&regtest(), 20e6, 512);
        for i in 0..100 {
            chain.doors[0].ordered(8 << 20);
            chain.doors[0].pooled(chain.now + Duration::from_millis(10 * i), 0);
        }
        chain.run(40e6, 8.0);
        chain.forget();
        chain.run(40e6, 20.0);
        assert!(chain.worst_blocks() < HARD_BLOCKS + 2.0, "{}", chain.worst_blocks());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Whatever is offered, of which size, to a chain of any speed: what is let in waits for about ten block times at
        /// most, or for what the chain's least room holds; and the chain does not run dry.
        #[test]
        fn offered_more_than_it_takes_the_chain_stays_busy_and_the_queue_short(
            capacity in 2e6_f64..100e6,
            factor in 1.2_f64..8.0,
            size in 16_usize..20_000,
            block_ticks in 10_u64..200,
        ) {
            let params = ChainParams { block_time_ms: 5 * block_ticks, ..regtest() };
            let mut chain = Chain::new(&params, capacity, size);
            let blocks = |n: f64| n * chain.block_time.as_secs_f64();
            let (settle, measured) = (blocks(100.0), blocks(200.0));
            chain.run(factor * capacity, settle);
            chain.forget();
            chain.run(factor * capacity, measured);
            // Three doors each see the pool 20 ms late and let whole payloads in.
            let late = factor * capacity * 0.025 + 3.0 * work(1, size) as f64;
            let block = capacity * chain.block_time.as_secs_f64();
            let most = (HARD_BLOCKS * 1.1 * block).max(4.0 * LEAST_LOW) + late;
            prop_assert!((chain.worst as f64) < most, "{} of {most}", chain.worst);
            prop_assert!(chain.ordered as f64 > 0.95 * capacity * measured, "{} of {}", chain.ordered, capacity * measured);
            prop_assert!(chain.refused > 0);
        }
    }
}
