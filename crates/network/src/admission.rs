//! Who may begin a handshake: bounds on half-open handshakes and per host, before any cryptography.
//!
//! A source address can be forged until the host behind it has answered (QUIC Retry, RFC 9000, 8.1.2). So an
//! unproven address is never refused for what it did before (that would let anyone lock out anyone); from
//! `retry_from` handshakes at once, above the host's rate, or where the host has its fill of connections, it is made to
//! prove itself. Only proven addresses are refused for exceeding a host's bounds, and only what is proven counts for a host:
//! an address that was not asked for a proof has given one when the handshake is over ([`HostSlot::prove`]).

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Instant,
};

use parking_lot::Mutex;

use crate::{addr::HostKey, config::NetworkConfig, rate::Bucket};

/// Hosts whose rate is remembered.
const MAX_HOSTS: usize = 8192;
/// The burst is this many seconds' worth of handshakes.
const BURST_SECONDS: u64 = 10;

/// What to do with a connection attempt.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Go on; the guards count it for as long as they live.
    Accept(HalfOpen, HostSlot),
    /// Make the address prove itself.
    Retry,
    /// Turn it away, for this reason.
    Refuse(&'static str),
}

#[derive(Debug, Default)]
struct Counts {
    half_open: usize,
    hosts: HashMap<HostKey, usize>,
    unproven: HashMap<HostKey, Bucket>,
    proven: HashMap<HostKey, Bucket>,
}

/// The bounds and what is counted against them.
#[derive(Debug)]
pub(crate) struct Admission {
    counts: Arc<Mutex<Counts>>,
    max_half_open: usize,
    retry_from: usize,
    max_per_host: usize,
    rate: u64,
}

/// Counts one handshake that is under way.
#[derive(Debug)]
pub(crate) struct HalfOpen(Weak<Mutex<Counts>>);

/// Counts one inbound connection of a host, once its address is proven.
#[derive(Debug)]
pub(crate) struct HostSlot {
    counts: Weak<Mutex<Counts>>,
    host: HostKey,
    max: usize,
    counted: bool,
}

impl HostSlot {
    /// The host has answered. Answers whether it may have this connection.
    pub(crate) fn prove(&mut self) -> bool {
        let Some(counts) = self.counts.upgrade() else { return true };
        let mut counts = counts.lock();
        if !self.counted && counts.of_host(self.host) < self.max {
            *counts.hosts.entry(self.host).or_default() += 1;
            self.counted = true;
        }
        self.counted
    }
}

impl Counts {
    fn of_host(&self, host: HostKey) -> usize {
        self.hosts.get(&host).copied().unwrap_or(0)
    }
}

impl Admission {
    pub(crate) fn new(config: &NetworkConfig) -> Self {
        Self {
            counts: Arc::default(),
            max_half_open: config.max_half_open,
            retry_from: config.retry_from,
            max_per_host: config.max_per_host,
            rate: config.handshakes_per_s,
        }
    }

    /// Handshakes under way.
    pub(crate) fn half_open(&self) -> usize {
        self.counts.lock().half_open
    }

    /// Judges an attempt from `remote`, whose address is `proven` or not.
    pub(crate) fn judge(&self, now: Instant, remote: SocketAddr, proven: bool) -> Verdict {
        let host = HostKey::of(remote.ip());
        let mut counts = self.counts.lock();
        if counts.half_open >= self.max_half_open {
            return Verdict::Refuse("half_open");
        }
        let full = counts.of_host(host) >= self.max_per_host;
        if proven && full {
            return Verdict::Refuse("per_host");
        }
        let buckets = if proven { &mut counts.proven } else { &mut counts.unproven };
        let in_rate = take_one(buckets, now, host, self.rate);
        if !proven && (full || !in_rate || counts.half_open >= self.retry_from) {
            return Verdict::Retry;
        }
        if !in_rate {
            return Verdict::Refuse("rate");
        }
        counts.half_open += 1;
        drop(counts);
        let weak = Arc::downgrade(&self.counts);
        let mut slot = HostSlot { counts: weak.clone(), host, max: self.max_per_host, counted: false };
        if proven {
            slot.prove();
        }
        Verdict::Accept(HalfOpen(weak), slot)
    }
}

fn take_one(buckets: &mut HashMap<HostKey, Bucket>, now: Instant, host: HostKey, rate: u64) -> bool {
    if !buckets.contains_key(&host) && buckets.len() >= MAX_HOSTS {
        buckets.retain(|_, bucket| !bucket.is_full(now));
        if buckets.len() >= MAX_HOSTS {
            return false;
        }
    }
    buckets.entry(host).or_insert_with(|| Bucket::new(rate, rate.saturating_mul(BURST_SECONDS), now)).try_one(now)
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        if let Some(counts) = self.0.upgrade() {
            counts.lock().half_open -= 1;
        }
    }
}

impl Drop for HostSlot {
    fn drop(&mut self) {
        let Some(counts) = self.counts.upgrade().filter(|_| self.counted) else { return };
        let mut counts = counts.lock();
        if let Some(n) = counts.hosts.get_mut(&self.host) {
            *n -= 1;
            if *n == 0 {
                counts.hosts.remove(&self.host);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cascade_primitives::{B256, ChainId};

    use super::*;
    use crate::config::NetworkId;

    fn admission(max_half_open: usize, retry_from: usize, max_per_host: usize, rate: u64) -> Admission {
        let network_id = NetworkId { chain_id: ChainId(1), genesis_hash: B256::ZERO };
        let mut config = NetworkConfig::new("127.0.0.1:0".parse().unwrap(), network_id);
        config.max_half_open = max_half_open;
        config.retry_from = retry_from;
        config.max_per_host = max_per_host;
        config.handshakes_per_s = rate;
        Admission::new(&config)
    }

    fn host(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 1))
    }

    #[test]
    fn under_load_addresses_prove_themselves_and_then_attempts_are_refused() {
        let admission = admission(4, 2, 10, 100);
        let now = Instant::now();
        let mut open = Vec::new();
        for n in 0..2 {
            let Verdict::Accept(half, slot) = admission.judge(now, host(n), false) else { panic!() };
            open.push((half, slot));
        }
        assert!(matches!(admission.judge(now, host(9), false), Verdict::Retry));
        for n in 2..4 {
            let Verdict::Accept(half, slot) = admission.judge(now, host(n), true) else { panic!() };
            open.push((half, slot));
        }
        assert!(matches!(admission.judge(now, host(9), true), Verdict::Refuse("half_open")));
        open.clear();
        assert_eq!(admission.half_open(), 0);
        assert!(matches!(admission.judge(now, host(9), false), Verdict::Accept(..)));
    }

    #[test]
    fn a_host_is_bounded_for_as_long_as_its_connections_live() {
        let admission = admission(100, 100, 2, 100);
        let now = Instant::now();
        let Verdict::Accept(_, first) = admission.judge(now, host(1), true) else { panic!() };
        let Verdict::Accept(_, _second) = admission.judge(now, host(1), true) else { panic!() };
        assert!(matches!(admission.judge(now, host(1), true), Verdict::Refuse("per_host")));
        assert!(matches!(admission.judge(now, host(2), true), Verdict::Accept(..)));
        drop(first);
        assert!(matches!(admission.judge(now, host(1), true), Verdict::Accept(..)));
    }

    #[test]
    fn forged_addresses_do_not_lock_out_the_real_host() {
        let admission = admission(100, 100, 100, 1);
        let now = Instant::now();
        for _ in 0..1000 {
            admission.judge(now, host(1), false);
        }
        assert!(matches!(admission.judge(now, host(1), false), Verdict::Retry));
        assert!(matches!(admission.judge(now, host(1), true), Verdict::Accept(..)));
        for _ in 0..1000 {
            admission.judge(now, host(1), true);
        }
        assert!(matches!(admission.judge(now, host(1), true), Verdict::Refuse("rate")));
        assert!(matches!(admission.judge(now + Duration::from_secs(1), host(1), true), Verdict::Accept(..)));
    }

    #[test]
    fn forged_addresses_that_never_answer_take_none_of_the_real_hosts_places() {
        let admission = admission(100, 50, 4, 1000);
        let now = Instant::now();
        let forged: Vec<_> = (0..100).map(|_| admission.judge(now, host(1), false)).collect();
        assert_eq!(forged.iter().filter(|verdict| matches!(verdict, Verdict::Accept(..))).count(), 50);
        let mut real: Vec<_> = (0..4)
            .map(|_| match admission.judge(now, host(1), true) {
                Verdict::Accept(_, slot) => slot,
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(matches!(admission.judge(now, host(1), true), Verdict::Refuse("per_host")));
        drop(forged);
        // Not asked for a proof before its host has its fill: it has given one when its handshake is over.
        drop(real.pop());
        let Verdict::Accept(_, mut first) = admission.judge(now, host(1), false) else { panic!() };
        let Verdict::Accept(_, mut second) = admission.judge(now, host(1), false) else { panic!() };
        assert!(first.prove() && first.prove() && !second.prove(), "one place was left");
        assert!(matches!(admission.judge(now, host(1), false), Verdict::Retry));
    }
}
