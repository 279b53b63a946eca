//! The book of nodes and addresses to dial: when, how often, with which wait. Sans-IO.
//!
//! ```text
//!   Waiting(until) --due--> Dialling --connected--> Parked --peer lost--> Waiting(short)
//!        ^                     |
//!        +---- failed: wait doubles, up to half of it taken off at random
//! ```
//!
//! Persistent targets (bootstrap addresses, explicit dials, reserved nodes) are tried for ever. Candidates from
//! discovery are dialled while there are fewer peers than wanted, and forgotten after [`MAX_ATTEMPTS`] failures.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use cascade_primitives::NodeId;
use rand::Rng;

use crate::config::Backoff;

/// Failures after which a candidate is forgotten.
const MAX_ATTEMPTS: u32 = 8;
/// Candidates at most.
const MAX_CANDIDATES: usize = 1024;
/// Persistent targets at most.
const MAX_PERSISTENT: usize = 1024;
/// Dials under way at most.
const MAX_DIALLING: usize = 32;
/// How long a candidate waits while there are peers enough.
const RECHECK: Duration = Duration::from_secs(5);
/// A connection that lived this long was a success, and the wait starts from the shortest again.
const STABLE: Duration = Duration::from_secs(10);

/// What a target is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TargetKey {
    /// An address, whoever is there.
    Address(SocketAddr),
    /// A node, wherever it is.
    Node(NodeId),
}

/// A dial to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) key: TargetKey,
    pub(crate) addr: SocketAddr,
    pub(crate) expected: Option<NodeId>,
    /// Whether somebody asked for this very target, and so hears of its failure.
    pub(crate) persistent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting(Instant),
    Dialling,
    Parked,
}

#[derive(Debug)]
struct Target {
    endpoints: Vec<SocketAddr>,
    next_endpoint: usize,
    /// Who is there: demanded for a node, learned for an address.
    node: Option<NodeId>,
    /// Somebody asked for it: tried for ever.
    explicit: bool,
    /// It has a reserved place: tried for ever while it has.
    reserved: bool,
    attempts: u32,
    state: State,
}

impl Target {
    const fn is_persistent(&self) -> bool {
        self.explicit || self.reserved
    }
}

/// Why a node is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Explicit,
    Reserved,
    Candidate,
}

/// What the book needs to know of the peers.
pub(crate) struct Peers<'a> {
    pub(crate) is_connected: &'a dyn Fn(NodeId) -> bool,
    pub(crate) wants_more: bool,
}

#[derive(Debug)]
pub(crate) struct DialBook {
    targets: BTreeMap<TargetKey, Target>,
    backoff: Backoff,
}

impl DialBook {
    pub(crate) const fn new(backoff: Backoff) -> Self {
        Self { targets: BTreeMap::new(), backoff }
    }

    /// Adds a persistent address.
    pub(crate) fn add_address(&mut self, now: Instant, addr: SocketAddr) {
        self.add(now, TargetKey::Address(addr), vec![addr], None, Why::Explicit);
    }

    /// Adds a node, or newer addresses of it.
    pub(crate) fn add_node(&mut self, now: Instant, node: NodeId, endpoints: Vec<SocketAddr>, why: Why) {
        self.add(now, TargetKey::Node(node), endpoints, Some(node), why);
    }

    fn add(&mut self, now: Instant, key: TargetKey, endpoints: Vec<SocketAddr>, node: Option<NodeId>, why: Why) {
        if endpoints.is_empty() {
            return;
        }
        if let Some(target) = self.targets.get_mut(&key) {
            if target.endpoints != endpoints {
                target.endpoints = endpoints;
                target.next_endpoint = 0;
                target.attempts = 0;
                if matches!(target.state, State::Waiting(_)) {
                    target.state = State::Waiting(now);
                }
            }
            let newly_wanted = why == Why::Explicit && !target.explicit || why == Why::Reserved && !target.reserved;
            if newly_wanted && matches!(target.state, State::Waiting(_)) {
                target.state = State::Waiting(now);
            }
            target.explicit |= why == Why::Explicit;
            target.reserved |= why == Why::Reserved;
            return;
        }
        let persistent = why != Why::Candidate;
        let same_kind = self.targets.values().filter(|t| t.is_persistent() == persistent).count();
        if same_kind >= if persistent { MAX_PERSISTENT } else { MAX_CANDIDATES } {
            return;
        }
        let target = Target {
            endpoints,
            next_endpoint: 0,
            node,
            explicit: why == Why::Explicit,
            reserved: why == Why::Reserved,
            attempts: 0,
            state: State::Waiting(now),
        };
        self.targets.insert(key, target);
    }

    /// Takes reserved places back from all nodes but those; they stay as candidates.
    pub(crate) fn keep_reserved(&mut self, keep: impl Fn(NodeId) -> bool) {
        for target in self.targets.values_mut() {
            target.reserved &= target.node.is_some_and(&keep);
        }
    }

    /// The dials that are due, marked as under way.
    pub(crate) fn due(&mut self, now: Instant, peers: &Peers<'_>) -> Vec<Order> {
        let mut dialling = self.targets.values().filter(|t| t.state == State::Dialling).count();
        let mut orders = Vec::new();
        for (key, target) in &mut self.targets {
            match target.state {
                State::Waiting(until) if until <= now => {}
                State::Parked if !target.node.is_some_and(|node| (peers.is_connected)(node)) => {
                    // The peer was lost between being reached and being parked.
                    target.state = State::Waiting(now + self.backoff.first);
                    continue;
                }
                _ => continue,
            }
            if target.node.is_some_and(|node| (peers.is_connected)(node)) {
                target.state = State::Parked;
            } else if !target.is_persistent() && !peers.wants_more {
                target.state = State::Waiting(now + RECHECK);
            } else if dialling < MAX_DIALLING {
                dialling += 1;
                target.state = State::Dialling;
                let addr = target.endpoints[target.next_endpoint % target.endpoints.len()];
                target.next_endpoint = target.next_endpoint.wrapping_add(1);
                let expected = if let TargetKey::Node(node) = key { Some(*node) } else { None };
                orders.push(Order { key: *key, addr, expected, persistent: target.is_persistent() });
            } else {
                // The end of a dial wakes the loop, and then this one is still due.
                break;
            }
        }
        orders
    }

    /// When to ask again for dials that are due; a change of the book or of the peers may come earlier.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let dialling = self.targets.values().filter(|t| t.state == State::Dialling).count();
        if dialling >= MAX_DIALLING {
            return None;
        }
        let due = |t: &Target| if let State::Waiting(until) = t.state { Some(until) } else { None };
        self.targets.values().filter_map(due).min()
    }

    /// A dial led to a node, or to one that is connected already.
    pub(crate) fn reached(&mut self, key: TargetKey, node: NodeId) {
        if let Some(target) = self.targets.get_mut(&key) {
            target.node = Some(node);
            target.state = State::Parked;
        }
    }

    /// A dial failed; try again after the wait that its attempts have come to, or after `at_least`.
    pub(crate) fn failed(&mut self, now: Instant, key: TargetKey, at_least: Duration, rng: &mut impl Rng) {
        let Some(target) = self.targets.get_mut(&key) else { return };
        target.attempts = target.attempts.saturating_add(1);
        if !target.is_persistent() && target.attempts >= MAX_ATTEMPTS {
            self.targets.remove(&key);
            return;
        }
        let wait = wait(self.backoff, target.attempts, rng).max(at_least);
        target.state = State::Waiting(now + wait);
    }

    /// A target that there is no point in dialling again.
    pub(crate) fn remove(&mut self, key: TargetKey) {
        self.targets.remove(&key);
    }

    /// A connected peer is gone after this long; its targets become due again.
    pub(crate) fn lost(&mut self, now: Instant, node: NodeId, lived: Duration, at_least: Duration, rng: &mut impl Rng) {
        for target in self.targets.values_mut().filter(|t| t.node == Some(node) && t.state != State::Dialling) {
            target.attempts = if lived >= STABLE { 1 } else { target.attempts.saturating_add(1) };
            target.state = State::Waiting(now + wait(self.backoff, target.attempts, rng).max(at_least));
        }
    }
}

/// first * 2^(attempts - 1) up to the most, less up to half of it.
fn wait(backoff: Backoff, attempts: u32, rng: &mut impl Rng) -> Duration {
    let doubled = 1u32.checked_shl(attempts.saturating_sub(1).min(31)).unwrap_or(u32::MAX);
    let full = backoff.first.saturating_mul(doubled).min(backoff.most);
    let nanos = u64::try_from(full.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(nanos - rng.random_range(0..=nanos / 2))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha12Rng;

    use super::*;

    const BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(5) };
    const NODE: NodeId = NodeId([1; 32]);

    fn addr(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn nobody(wants_more: bool) -> Peers<'static> {
        Peers { is_connected: &|_| false, wants_more }
    }

    #[test]
    fn waits_double_with_jitter_up_to_the_most() {
        let mut rng = ChaCha12Rng::seed_from_u64(1);
        for attempts in 1..100 {
            let full = BACKOFF.first.saturating_mul(1 << (attempts - 1).min(20)).min(BACKOFF.most);
            let wait = wait(BACKOFF, attempts, &mut rng);
            assert!(wait <= full && wait >= full / 2, "{attempts}: {wait:?}");
        }
    }

    #[test]
    fn a_dial_is_made_once_and_again_after_its_failure() {
        let mut rng = ChaCha12Rng::seed_from_u64(1);
        let now = Instant::now();
        let mut book = DialBook::new(BACKOFF);
        book.add_address(now, addr(1));
        let orders = book.due(now, &nobody(false));
        assert_eq!(orders.len(), 1);
        assert_eq!(book.due(now, &nobody(false)), []);
        assert_eq!(book.next_due(), None);
        book.failed(now, orders[0].key, Duration::ZERO, &mut rng);
        assert_eq!(book.due(now, &nobody(false)), []);
        let due = book.next_due().unwrap();
        assert!(due >= now + BACKOFF.first / 2 && due <= now + BACKOFF.first);
        assert_eq!(book.due(due, &nobody(false)).len(), 1);
    }

    #[test]
    fn a_lost_peer_is_dialled_again_at_the_address_that_led_to_it() {
        let mut rng = ChaCha12Rng::seed_from_u64(1);
        let now = Instant::now();
        let mut book = DialBook::new(BACKOFF);
        book.add_address(now, addr(1));
        let order = book.due(now, &nobody(false))[0];
        book.reached(order.key, NODE);
        assert_eq!(book.next_due(), None);
        book.lost(now, NODE, Duration::from_secs(60), Duration::ZERO, &mut rng);
        assert!(book.next_due().unwrap() <= now + BACKOFF.first);
        for _ in 0..10 {
            let at = book.next_due().unwrap();
            book.due(at, &nobody(false));
            book.reached(order.key, NODE);
            book.lost(at, NODE, Duration::ZERO, Duration::ZERO, &mut rng);
        }
        assert!(book.next_due().unwrap() > now + BACKOFF.most / 2, "flapping must back off");
    }

    #[test]
    fn a_peer_that_was_lost_before_its_target_was_parked_is_not_forgotten() {
        let now = Instant::now();
        let mut book = DialBook::new(BACKOFF);
        book.add_address(now, addr(1));
        let order = book.due(now, &nobody(false))[0];
        book.lost(now, NODE, Duration::ZERO, Duration::ZERO, &mut rand::rng());
        book.reached(order.key, NODE);
        assert_eq!(book.due(now, &nobody(false)), []);
        assert_eq!(book.due(now + BACKOFF.first, &nobody(false)).len(), 1);
    }

    #[test]
    fn candidates_wait_for_need_rotate_addresses_and_are_forgotten() {
        let mut rng = ChaCha12Rng::seed_from_u64(1);
        let mut now = Instant::now();
        let mut book = DialBook::new(BACKOFF);
        book.add_node(now, NODE, vec![addr(1), addr(2)], Why::Candidate);
        assert_eq!(book.due(now, &nobody(false)), []);
        let mut dialled = Vec::new();
        while let Some(due) = book.next_due() {
            now = now.max(due);
            for order in book.due(now, &nobody(true)) {
                assert_eq!(order.expected, Some(NODE));
                dialled.push(order.addr.port());
                book.failed(now, order.key, Duration::ZERO, &mut rng);
            }
        }
        assert_eq!(dialled, [1, 2, 1, 2, 1, 2, 1, 2]);
    }

    #[test]
    fn a_connected_node_is_not_dialled_and_reserved_nodes_need_no_room() {
        let now = Instant::now();
        let mut book = DialBook::new(BACKOFF);
        book.add_node(now, NODE, vec![addr(1)], Why::Reserved);
        assert_eq!(book.due(now, &Peers { is_connected: &|n| n == NODE, wants_more: true }), []);
        assert_eq!(book.next_due(), None);
        book.add_node(now, NodeId([2; 32]), vec![addr(2)], Why::Explicit);
        assert_eq!(book.due(now, &nobody(false)).len(), 1);
    }

    #[test]
    fn the_book_and_the_dials_under_way_are_bounded() {
        let now = Instant::now();
        let mut book = DialBook::new(BACKOFF);
        for n in 0..2 * MAX_CANDIDATES as u64 {
            let mut node = [0; 32];
            node[..8].copy_from_slice(&n.to_le_bytes());
            book.add_node(now, NodeId(node), vec![addr(1)], Why::Candidate);
        }
        assert_eq!(book.targets.len(), MAX_CANDIDATES);
        assert_eq!(book.due(now, &nobody(true)).len(), MAX_DIALLING);
        assert_eq!(book.due(now, &nobody(true)), []);
        assert_eq!(book.next_due(), None);
    }
}
