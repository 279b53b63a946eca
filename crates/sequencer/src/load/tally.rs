//! What became of each payload, as the observer saw it.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use alloy_primitives::B256;

use super::{DriverResult, Job, LoadKind};
use crate::testnet::stats::{Percentiles, round};

/// Times of payloads. Moments are microseconds since the start of sending; 0 is "not yet".
pub(super) struct Tally {
    pub(super) start: Instant,
    rate: u64,
    warmup: u64,
    secs: u64,
    /// Whether the payloads are opened between finality and execution.
    sealed: bool,
    /// Payload i is the next one of sender i modulo this; none if payloads do not depend on others.
    senders: Option<u64>,
    inner: Mutex<Inner>,
}

struct Inner {
    /// First 8 bytes of the name, to the number. Names are hashes: two of millions do not share 64 bits.
    numbers: HashMap<u64, u32>,
    sent: Vec<u64>,
    finals: Vec<u64>,
    executed: Vec<u64>,
    refused: Vec<bool>,
    /// Payloads that are final or refused.
    finished: u64,
    refusal: Option<String>,
}

fn short(name: &B256) -> u64 {
    u64::from_le_bytes(name[..8].try_into().expect("a hash has 32 bytes"))
}

impl Tally {
    pub(super) fn new(start: Instant, job: &Job) -> Self {
        let Job { rate, warmup, secs, kind, .. } = *job;
        let total = (rate * (warmup + secs)) as usize;
        let inner = Inner {
            numbers: HashMap::with_capacity(total),
            sent: vec![0; total],
            finals: vec![0; total],
            executed: vec![0; total],
            refused: vec![false; total],
            finished: 0,
            refusal: None,
        };
        let senders = (kind != LoadKind::Opaque).then_some(job.senders);
        Self { start, rate, warmup, secs, sealed: kind == LoadKind::Encrypted, senders, inner: Mutex::new(inner) }
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
    pub(super) fn refused(&self, payloads: impl IntoIterator<Item = u64>, words: &str) {
        let mut inner = self.inner();
        for i in payloads {
            if !std::mem::replace(&mut inner.refused[i as usize], true) && inner.finals[i as usize] == 0 {
                inner.finished += 1;
            }
        }
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
                inner.finished += u64::from(!inner.refused[i as usize]);
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
        self.inner().finished >= self.total()
    }

    /// What was measured.
    pub(super) fn result(&self) -> DriverResult {
        let inner = self.inner();
        let (from, to) = (self.warmup * 1_000_000, (self.warmup + self.secs) * 1_000_000);
        let in_window = |moments: &[u64]| moments.iter().filter(|at| **at > from && **at <= to).count() as f64;
        let rate = |moments: &[u64]| round(in_window(moments) / self.secs as f64, 1);
        let first = (self.rate * self.warmup) as usize;
        let ended = self.start.elapsed();
        let (mut latencies, mut refused, mut stuck, mut unfinished) = (Vec::new(), 0, 0, 0);
        let mut gap = vec![false; self.senders.unwrap_or(0) as usize];
        for (i, at) in inner.finals.iter().enumerate() {
            let gap = self.senders.map(|senders| &mut gap[i % senders as usize]);
            let behind = gap.is_some_and(|gap| std::mem::replace(gap, *gap || inner.refused[i] && *at == 0));
            let counts = u64::from(i >= first);
            match *at {
                0 if inner.refused[i] => refused += counts,
                0 if behind => stuck += counts,
                0 => {
                    unfinished += counts;
                    // It took at least this long.
                    latencies.extend((i >= first).then(|| ended.saturating_sub(self.due(i as u64))));
                }
                at => {
                    latencies.extend((i >= first).then(|| Duration::from_micros(at).saturating_sub(self.due(i as u64))))
                }
            }
        }
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
            refused,
            stuck,
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

    fn job(rate: u64, kind: LoadKind, senders: u64) -> Job {
        let (submit, observe_http, observe_ws) = (Vec::new(), String::new(), String::new());
        Job { submit, observe_http, observe_ws, rate, secs: 2, warmup: 1, kind, size: 0, senders, chain_id: 1 }
    }

    fn tally(start: Instant, job: &Job) -> Tally {
        let tally = Tally::new(start, job);
        tally.sent(&(0..tally.total()).map(|i| (i, name(i))).collect::<Vec<_>>());
        tally
    }

    #[test]
    fn only_the_window_counts_and_latency_runs_from_the_intended_time() {
        // 10 a second, 1 s of warm-up, 2 s of measuring: payloads 10 to 29 are due in the window.
        let start = Instant::now();
        let tally = tally(start, &job(10, LoadKind::Opaque, 1));
        assert_eq!(tally.total(), 30);
        assert_eq!(tally.due(15), Duration::from_millis(1500));
        let after = |ms| start + Duration::from_millis(ms);
        for i in (0..29).filter(|&i| i != 5) {
            tally.finals(after(100 * i + 250), &[name(i)]);
            // Seen twice counts once, and the first time.
            tally.finals(after(100 * i + 900), &[name(i), name(1_000 + i)]);
        }
        assert!(!tally.is_finished());
        tally.refused([5, 29, 29], "full");
        assert!(tally.is_finished());
        let result = tally.result();
        // Final within (1 s, 3 s]: those due from 0.8 s to 2.7 s.
        assert_eq!(result.committed_tps, 10.0);
        assert_eq!((result.p50_ms, result.p99_ms), (Some(250.0), Some(250.0)));
        assert_eq!(
            (result.unfinished, result.refused, result.executed_tps),
            (0, 1, 0.0),
            "number 5 was before the window"
        );
    }

    #[test]
    fn what_was_taken_and_is_not_final_is_not_refused_and_counts_as_slow() {
        // As if the run had ended an hour ago.
        let Some(start) = Instant::now().checked_sub(Duration::from_secs(3600)) else { return };
        let tally = tally(start, &job(10, LoadKind::Opaque, 1));
        (0..15).for_each(|i| tally.finals(start + Duration::from_millis(100 * i + 250), &[name(i)]));
        tally.refused(15..20, "full");
        let result = tally.result();
        assert_eq!((result.refused, result.stuck, result.unfinished), (5, 0, 10));
        assert!(result.p50_ms.is_some_and(|ms| ms > 3_590_000.0), "{result:?}");
    }

    #[test]
    fn what_waits_for_a_refused_nonce_is_counted_apart() {
        let start = Instant::now();
        let tally = tally(start, &job(10, LoadKind::Transfer, 3));
        // The second transfer of sender 0 was refused before the window; nothing else of it runs.
        tally.refused([3], "full");
        let done: Vec<_> = (0..30).filter(|i| i % 3 != 0 || *i == 0).map(name).collect();
        tally.finals(start + Duration::from_millis(50), &done);
        let result = tally.result();
        assert_eq!((result.refused, result.stuck, result.unfinished), (0, 6, 0));
    }
}
