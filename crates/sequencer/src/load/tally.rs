//! What became of each payload, as the observer saw it.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use alloy_primitives::B256;

use super::DriverResult;
use crate::testnet::stats::{Percentiles, round};

/// Times of payloads. Moments are microseconds since the start of sending; 0 is "not yet".
pub(super) struct Tally {
    pub(super) start: Instant,
    rate: u64,
    warmup: u64,
    secs: u64,
    /// Whether the payloads are opened between finality and execution.
    sealed: bool,
    inner: Mutex<Inner>,
}

struct Inner {
    /// First 8 bytes of the name, to the number. Names are hashes: two of millions do not share 64 bits.
    numbers: HashMap<u64, u32>,
    sent: Vec<u64>,
    finals: Vec<u64>,
    executed: Vec<u64>,
    finished: u64,
    refused: u64,
    refusal: Option<String>,
}

fn short(name: &B256) -> u64 {
    u64::from_le_bytes(name[..8].try_into().expect("a hash has 32 bytes"))
}

impl Tally {
    pub(super) fn new(start: Instant, rate: u64, warmup: u64, secs: u64, sealed: bool) -> Self {
        let total = (rate * (warmup + secs)) as usize;
        let inner = Inner {
            numbers: HashMap::with_capacity(total),
            sent: vec![0; total],
            finals: vec![0; total],
            executed: vec![0; total],
            finished: 0,
            refused: 0,
            refusal: None,
        };
        Self { start, rate, warmup, secs, sealed, inner: Mutex::new(inner) }
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("nobody panics while counting")
    }

    /// All payloads of the run.
    pub(super) const fn total(&self) -> u64 {
        self.rate * (self.warmup + self.secs)
    }

    /// When payload `i` is due, since the start.
    pub(super) fn due(&self, i: u64) -> Duration {
        Duration::from_nanos((u128::from(i) * 1_000_000_000 / u128::from(self.rate)) as u64)
    }

    fn micros(&self, at: Instant) -> u64 {
        (at.saturating_duration_since(self.start).as_micros() as u64).max(1)
    }

    /// Payloads are on their way.
    pub(super) fn sent(&self, payloads: &[(u64, B256)]) {
        let now = self.micros(Instant::now());
        let mut inner = self.inner();
        for (i, name) in payloads {
            inner.numbers.insert(short(name), *i as u32);
            inner.sent[*i as usize] = now;
        }
    }

    /// A node refused payloads.
    pub(super) fn refused(&self, count: u64, words: &str) {
        let mut inner = self.inner();
        inner.refused += count;
        inner.refusal.get_or_insert_with(|| words.to_owned());
    }

    /// The observer saw a block with these payloads become final.
    pub(super) fn finals(&self, at: Instant, names: &[B256]) {
        let at = self.micros(at);
        let mut inner = self.inner();
        for name in names {
            if let Some(&i) = inner.numbers.get(&short(name))
                && inner.finals[i as usize] == 0
            {
                inner.finals[i as usize] = at;
                inner.finished += 1;
            }
        }
    }

    /// The observer executed these payloads with success.
    pub(super) fn executed(&self, at: Instant, names: &[B256]) {
        let at = self.micros(at);
        let mut inner = self.inner();
        for name in names {
            if let Some(&i) = inner.numbers.get(&short(name))
                && inner.executed[i as usize] == 0
            {
                inner.executed[i as usize] = at;
            }
        }
    }

    /// Whether nothing is outstanding that could still become final.
    pub(super) fn is_finished(&self) -> bool {
        let inner = self.inner();
        inner.finished + inner.refused >= self.total()
    }

    /// What was measured.
    pub(super) fn result(&self) -> DriverResult {
        let inner = self.inner();
        let (from, to) = (self.warmup * 1_000_000, (self.warmup + self.secs) * 1_000_000);
        let in_window = |moments: &[u64]| moments.iter().filter(|at| **at > from && **at <= to).count() as f64;
        let rate = |moments: &[u64]| round(in_window(moments) / self.secs as f64, 1);
        let first = (self.rate * self.warmup) as usize;
        let due = inner.finals.iter().enumerate().skip(first);
        let unfinished = due.clone().filter(|(_, at)| **at == 0).count() as u64;
        let latencies = due
            .filter(|(_, at)| **at != 0)
            .map(|(i, at)| Duration::from_micros(*at).saturating_sub(self.due(i as u64)));
        let Percentiles { p50, p99 } = Percentiles::of(latencies);
        let reveals = inner.finals.iter().zip(&inner.executed).skip(first).filter(|(f, e)| **f != 0 && **e != 0);
        let reveals = reveals.map(|(f, e)| Duration::from_micros(e.saturating_sub(*f)));
        let reveals = Percentiles::of(reveals);
        DriverResult {
            reveal_p50_ms: if self.sealed { reveals.p50 } else { None },
            reveal_p99_ms: if self.sealed { reveals.p99 } else { None },
            offered_tps: rate(&inner.sent),
            committed_tps: rate(&inner.finals),
            executed_tps: rate(&inner.executed),
            p50_ms: p50,
            p99_ms: p99,
            unfinished,
            refused: inner.refused,
            refusal: inner.refusal.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(i: u64) -> B256 {
        alloy_primitives::keccak256(i.to_le_bytes())
    }

    #[test]
    fn only_the_window_counts_and_latency_runs_from_the_intended_time() {
        // 10 a second, 1 s of warm-up, 2 s of measuring: payloads 10 to 29 are due in the window.
        let start = Instant::now();
        let tally = Tally::new(start, 10, 1, 2, false);
        assert_eq!(tally.total(), 30);
        assert_eq!(tally.due(15), Duration::from_millis(1500));
        tally.sent(&(0..30).map(|i| (i, name(i))).collect::<Vec<_>>());
        let after = |ms| start + Duration::from_millis(ms);
        for i in 0..29 {
            tally.finals(after(100 * i + 250), &[name(i)]);
            // Seen twice counts once, and the first time.
            tally.finals(after(100 * i + 900), &[name(i), name(1_000 + i)]);
        }
        tally.refused(1, "full");
        assert!(tally.is_finished());
        let result = tally.result();
        // Final within (1 s, 3 s]: those due from 0.8 s to 2.7 s.
        assert_eq!(result.committed_tps, 10.0);
        assert_eq!((result.p50_ms, result.p99_ms), (Some(250.0), Some(250.0)));
        assert_eq!((result.unfinished, result.refused, result.executed_tps), (1, 1, 0.0));
    }
}
