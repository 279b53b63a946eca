//! Rate limits as the generic cell rate algorithm (ITU-T I.371), the token bucket without a timer.

use std::time::{Duration, Instant};

/// A token bucket: `rate` units per second, at most `burst` saved up.
///
/// A charge always succeeds and says how long to wait before the next one; so a unit larger than the bucket passes
/// and is paid for afterwards.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: u64,
    tolerance: Duration,
    /// When the bucket will be full again.
    full_at: Instant,
}

impl Bucket {
    pub(crate) fn new(rate: u64, burst: u64, now: Instant) -> Self {
        let rate = rate.max(1);
        Self { rate, tolerance: span(burst, rate), full_at: now }
    }

    /// Takes `units` out and returns how long the bucket is overdrawn.
    pub(crate) fn charge(&mut self, now: Instant, units: u64) -> Duration {
        self.full_at = self.full_at.max(now) + span(units, self.rate);
        self.full_at.saturating_duration_since(now).saturating_sub(self.tolerance)
    }

    /// Takes one unit out if that does not overdraw the bucket.
    pub(crate) fn try_one(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.max(now) + span(1, self.rate);
        let fits = full_at.saturating_duration_since(now) <= self.tolerance;
        if fits {
            self.full_at = full_at;
        }
        fits
    }

    /// Whether nothing is taken out, so that a new bucket would say the same.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }
}

/// The time in which `units` flow at `rate` per second, at most an hour.
fn span(units: u64, rate: u64) -> Duration {
    const HOUR_NANOS: u128 = 3_600_000_000_000;
    let nanos = (u128::from(units) * 1_000_000_000 / u128::from(rate)).min(HOUR_NANOS);
    Duration::from_nanos(u64::try_from(nanos).expect("an hour of nanoseconds fits"))
}

/// The inbound limit of one peer on one channel.
#[derive(Debug)]
pub(crate) struct Limiter {
    messages: Bucket,
    bytes: Bucket,
}

impl Limiter {
    pub(crate) fn new(messages_per_s: u64, bytes_per_s: u64, now: Instant) -> Self {
        Self {
            messages: Bucket::new(messages_per_s, messages_per_s, now),
            bytes: Bucket::new(bytes_per_s, bytes_per_s, now),
        }
    }

    /// Counts messages and bytes and returns how long their sender has to wait.
    pub(crate) fn charge(&mut self, now: Instant, messages: u64, bytes: usize) -> Duration {
        self.messages.charge(now, messages).max(self.bytes.charge(now, bytes as u64))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_passes_then_the_rate_holds() {
        let now = Instant::now();
        let mut bucket = Bucket::new(100, 10, now);
        for _ in 0..10 {
            assert_eq!(bucket.charge(now, 1), Duration::ZERO);
        }
        assert_eq!(bucket.charge(now, 1), Duration::from_millis(10));
        assert_eq!(bucket.charge(now + Duration::from_millis(20), 1), Duration::ZERO);
    }

    #[test]
    fn a_refusal_takes_nothing() {
        let now = Instant::now();
        let mut bucket = Bucket::new(1, 2, now);
        assert!(bucket.try_one(now) && bucket.try_one(now));
        for _ in 0..1000 {
            assert!(!bucket.try_one(now));
        }
        assert!(bucket.try_one(now + Duration::from_secs(1)));
        assert!(!bucket.is_full(now));
        assert!(bucket.is_full(now + Duration::from_secs(3)));
    }

    #[test]
    fn a_huge_charge_does_not_overflow() {
        let now = Instant::now();
        let mut bucket = Bucket::new(0, 0, now);
        assert_eq!(bucket.charge(now, u64::MAX), Duration::from_secs(3600));
    }

    proptest! {
        /// Whoever waits as told never gets more than burst + rate * time through.
        #[test]
        fn the_rate_is_never_exceeded(rate in 1u64..10_000, burst in 1u64..1000, sizes in prop::collection::vec(1u64..500, 1..200)) {
            let start = Instant::now();
            let mut now = start;
            let mut bucket = Bucket::new(rate, burst, start);
            let mut passed = 0u128;
            for size in sizes {
                now += bucket.charge(now, size);
                passed += u128::from(size);
                let elapsed = (now - start).as_nanos();
                // Rounding down loses less than one nanosecond of each charge.
                prop_assert!(passed <= u128::from(burst) + u128::from(rate) * (elapsed + 200) / 1_000_000_000 + 1);
            }
        }
    }
}
