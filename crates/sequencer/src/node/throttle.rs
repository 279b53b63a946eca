//! How many transactions a node takes from its users while more come than the chain executes.
//!
//! ```text
//!  share of senders served
//!   1 |------------\                      waiting: transactions in the pool that are not executed yet
//!     |             \                     low, high: what the chain executes in 1.2 and 3.6 s
//!   0 |______________\________
//!     0            low  high   waiting
//! ```
//!
//! A queue that grows without bound makes everybody wait for ever; so a node refuses the part that nobody could execute
//! soon. Refused is by sender, not by transaction, and the same senders stay refused while the pressure lasts: a sender
//! that lost one nonce of a series could use none of the rest. Which senders that hits is a node's own secret, drawn at
//! its start. What members of the committee gossip is not refused here: their users were served already.

use std::{collections::hash_map::RandomState, hash::BuildHasher, time::Instant};

use cascade_primitives::{Address, TransactionRule};

/// Waiting transactions below which nobody is refused, whatever the chain executed lately.
const LEAST_LOW: f64 = 4_000.0;
/// The same for sealed ones, which take several times as long.
const LEAST_LOW_SEALED: f64 = 1_000.0;
/// Waiting transactions at which everybody is refused, at least, as a multiple of these.
const LEAST_HIGH: f64 = 3.0;
/// The same, as time that the chain takes for them, in seconds.
const LOW_SECONDS: f64 = 1.2;
const HIGH_SECONDS: f64 = 3.6;
/// How fast what is measured follows what is: the part of a second's news that counts after a second.
const PER_SECOND: f64 = 0.6;

/// The measured load of a node.
#[derive(Debug)]
pub struct Throttle {
    /// Which senders are refused first.
    order: RandomState,
    least_low: f64,
    waiting: f64,
    executed: u64,
    /// Executed per second, smoothed; falls only while something waits.
    rate: f64,
    last: Option<Instant>,
    /// The part of all senders that is served.
    share: f64,
}

impl Throttle {
    /// A node without load.
    #[must_use]
    pub fn new(rule: TransactionRule) -> Self {
        let least_low = if rule == TransactionRule::Encrypted { LEAST_LOW_SEALED } else { LEAST_LOW };
        Self { order: RandomState::new(), least_low, waiting: 0.0, executed: 0, rate: 0.0, last: None, share: 1.0 }
    }

    fn high(&self) -> f64 {
        (LEAST_HIGH * self.least_low).max(HIGH_SECONDS * self.rate)
    }

    /// Executable transactions came into the pool.
    pub fn taken(&mut self, count: usize) {
        self.waiting += count as f64;
    }

    /// A block with this many transactions was executed.
    pub fn executed(&mut self, count: usize) {
        self.executed += count as u64;
        self.waiting = (self.waiting - count as f64).max(0.0);
    }

    /// A moment passed; this many transactions wait, by count.
    pub fn tick(&mut self, now: Instant, waiting: usize) {
        let Some(last) = self.last.replace(now) else { return };
        let seconds = now.saturating_duration_since(last).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let weight = 1.0 - (1.0 - PER_SECOND).powf(seconds);
        let rate = self.executed as f64 / seconds;
        self.executed = 0;
        // Without a queue the rate says what was offered, not what the chain can do.
        if rate > self.rate || waiting as f64 > self.least_low / 4.0 {
            self.rate += weight * (rate - self.rate);
        }
        self.waiting = waiting as f64;
        let (low, high) = (self.least_low.max(LOW_SECONDS * self.rate), self.high());
        let share = ((high - self.waiting) / (high - low)).clamp(0.0, 1.0);
        self.share += weight * (share - self.share);
        if self.waiting < low && self.share > 0.98 {
            self.share = 1.0;
        }
    }

    /// Whether a new transaction of this sender is one too many.
    #[must_use]
    pub fn refuses(&self, sender: &Address) -> bool {
        if self.share >= 1.0 {
            return false;
        }
        if self.waiting >= 2.0 * self.high() {
            return true;
        }
        (self.order.hash_one(sender) >> 11) as f64 / (1_u64 << 53) as f64 >= self.share
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Ten thousand senders offer `offered` transactions a second to a chain that executes `capacity`. Answers how many
    /// wait at most in the last half of the run, and how many were executed in it per second.
    fn run(offered: f64, capacity: f64, seconds: u64) -> (f64, f64) {
        let mut throttle = Throttle::new(TransactionRule::Plain);
        let start = Instant::now();
        let sender = |n: u64| Address::from_word(cascade_primitives::keccak256(n.to_be_bytes()));
        let senders: Vec<Address> = (0..10_000).map(sender).collect();
        let (mut waiting, mut worst, mut done) = (0.0_f64, 0.0_f64, 0.0);
        for tick in 1..=seconds * 4 {
            let served = senders.iter().filter(|sender| !throttle.refuses(sender)).count() as f64 / 10_000.0;
            let taken = offered * served / 4.0;
            throttle.taken(taken as usize);
            waiting += taken;
            let executed = waiting.min(capacity / 4.0);
            throttle.executed(executed as usize);
            waiting -= executed;
            throttle.tick(start + Duration::from_millis(250 * tick), waiting as usize);
            if tick > seconds * 2 {
                worst = worst.max(waiting);
                done += executed;
            }
        }
        (worst, done / (seconds as f64 / 2.0))
    }

    #[test]
    fn nobody_is_refused_while_the_chain_keeps_up() {
        let mut throttle = Throttle::new(TransactionRule::Plain);
        let start = Instant::now();
        for tick in 0..40 {
            throttle.taken(700);
            throttle.executed(700);
            throttle.tick(start + Duration::from_millis(250 * tick), 900);
            assert!((0..100).all(|n| !throttle.refuses(&Address::with_last_byte(n))));
        }
    }

    #[test]
    fn offered_twice_what_it_takes_the_chain_stays_busy_and_the_queue_short() {
        for capacity in [500.0, 3_000.0, 20_000.0] {
            let (worst, executed) = run(2.0 * capacity, capacity, 60);
            assert!(executed > 0.95 * capacity, "{executed} of {capacity}");
            assert!(worst < (3.6 * capacity).max(12_000.0), "{worst} wait at {capacity}");
        }
    }

    #[test]
    fn what_nobody_could_execute_soon_is_refused_whoever_sends_it() {
        let mut throttle = Throttle::new(TransactionRule::Plain);
        let start = Instant::now();
        for tick in 0..20 {
            throttle.tick(start + Duration::from_millis(250 * tick), 50_000);
        }
        assert!((0..100).all(|n| throttle.refuses(&Address::with_last_byte(n))));
        for tick in 20..60 {
            throttle.tick(start + Duration::from_millis(250 * tick), 0);
        }
        assert!((0..100).all(|n| !throttle.refuses(&Address::with_last_byte(n))), "and served when the queue is gone");
    }
}
