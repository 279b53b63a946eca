//! One budget of bytes for what peers make this node hold, whoever they are and however many.
//!
//! ```text
//!  peer A: unfinished and undelivered messages, outgoing queues, responses being written --+
//!  peer B: the same                                                                        +--> used <= limit
//!  peer C: the same                                                                        |
//!                                                                                        --+
//! ```
//!
//! Limits per peer times the number of peers are more than a machine has. So each peer has an account of what it makes the
//! node hold, and the sum is bounded. **When the sum goes over the limit, the peer with the largest account is
//! disconnected, those with a reserved place last, until it fits again**; readers of peers without a reserved place wait
//! until then. Who wants to do harm with many connections has to hold more than honest peers on each of them, and so goes
//! first; an honest peer that cannot follow goes too, and comes back to catch up. Nobody is banned for it.
//!
//! A message in the queues of n peers is one buffer, and is charged to each of them by an n-th. What one slow peer of them
//! holds in the end may be more than it is charged, by at most one full queue of each channel for all peers together, since
//! all queues hold the newest part of the same sequence. The inboxes and QUIC's windows (the `transport` module)
//! have bounds of their own.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Notify;

/// The budget.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    used: AtomicUsize,
    exceeded: Notify,
    freed: Notify,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0), exceeded: Notify::new(), freed: Notify::new() })
    }

    /// Bytes in all accounts.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    pub(crate) const fn limit(&self) -> usize {
        self.limit
    }

    /// Waits until the limit was exceeded.
    pub(crate) async fn exceeded(&self) {
        self.exceeded.notified().await;
    }

    /// Waits while the limit is exceeded.
    pub(crate) async fn room(&self) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.used() <= self.limit {
                return;
            }
            freed.await;
        }
    }
}

/// What one peer makes this node hold.
#[derive(Debug)]
pub(crate) struct Account {
    budget: Arc<Budget>,
    held: AtomicUsize,
}

impl Account {
    pub(crate) fn new(budget: &Arc<Budget>) -> Arc<Self> {
        Arc::new(Self { budget: Arc::clone(budget), held: AtomicUsize::new(0) })
    }

    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    pub(crate) fn charge(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.held.fetch_add(bytes, Ordering::AcqRel);
        let before = self.budget.used.fetch_add(bytes, Ordering::AcqRel);
        if before + bytes > self.budget.limit {
            self.budget.exceeded.notify_one();
        }
    }

    /// Gives back what was charged.
    pub(crate) fn release(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.held.fetch_sub(bytes, Ordering::AcqRel);
        let before = self.budget.used.fetch_sub(bytes, Ordering::AcqRel);
        if before > self.budget.limit && before - bytes <= self.budget.limit {
            self.budget.freed.notify_waiters();
        }
    }
}

/// Bytes on an account that are released when this is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    account: Arc<Account>,
    bytes: usize,
}

impl Charge {
    pub(crate) fn new(account: &Arc<Account>, bytes: usize) -> Self {
        account.charge(bytes);
        Self { account: Arc::clone(account), bytes }
    }

    /// Charges so many bytes instead of those before.
    pub(crate) fn set(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.account.charge(bytes - self.bytes);
        } else {
            self.account.release(self.bytes - bytes);
        }
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.release(self.bytes);
    }
}

/// A connected peer as the rule sees it.
#[derive(Clone, Debug)]
pub(crate) struct Holder<T> {
    pub(crate) peer: T,
    pub(crate) reserved: bool,
    pub(crate) held: usize,
}

/// Who has to go so that `used` bytes, without those that go already, fit into `limit`: the largest accounts, reserved
/// peers last. An account of less than `least` bytes is not worth a peer.
pub(crate) fn too_heavy<T>(mut holders: Vec<Holder<T>>, used: usize, limit: usize, least: usize) -> Vec<T> {
    let mut over = used.saturating_sub(limit);
    holders.sort_by_key(|holder| (holder.reserved, std::cmp::Reverse(holder.held)));
    let mut gone = Vec::new();
    for holder in holders.into_iter().filter(|holder| holder.held >= least) {
        if over == 0 {
            break;
        }
        over = over.saturating_sub(holder.held);
        gone.push(holder.peer);
    }
    gone
}

#[cfg(test)]
mod tests {
    use std::{
        pin::{Pin, pin},
        task::{Context, Waker},
    };

    use proptest::prelude::*;

    use super::*;

    fn is_over<F: Future<Output = ()>>(future: Pin<&mut F>) -> bool {
        future.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn accounts_add_up_and_give_back() {
        let budget = Budget::new(100);
        let (a, b) = (Account::new(&budget), Account::new(&budget));
        let mut charge = Charge::new(&a, 60);
        b.charge(30);
        assert_eq!((a.held(), b.held(), budget.used()), (60, 30, 90));
        charge.set(20);
        assert_eq!(budget.used(), 50);
        charge.set(70);
        assert_eq!((a.held(), budget.used()), (70, 100));
        drop(charge);
        b.release(30);
        assert_eq!((a.held(), b.held(), budget.used()), (0, 0, 0));
    }

    #[test]
    fn who_waits_for_room_goes_on_when_there_is_some() {
        let budget = Budget::new(100);
        let account = Account::new(&budget);
        assert!(is_over(pin!(budget.room())) && !is_over(pin!(budget.exceeded())));
        account.charge(101);
        assert!(is_over(pin!(budget.exceeded())));
        let mut room = pin!(budget.room());
        assert!(!is_over(room.as_mut()));
        account.release(1);
        assert!(is_over(room));
    }

    #[test]
    fn the_heaviest_goes_and_reserved_peers_last() {
        let holder = |peer, reserved, held| Holder { peer, reserved, held };
        let holders =
            vec![holder('a', true, 90), holder('b', false, 20), holder('c', false, 40), holder('d', false, 1)];
        assert_eq!(too_heavy(holders.clone(), 100, 100, 10), []);
        assert_eq!(too_heavy(holders.clone(), 110, 100, 10), ['c']);
        assert_eq!(too_heavy(holders.clone(), 151, 100, 10), ['c', 'b']);
        assert_eq!(too_heavy(holders, 251, 100, 10), ['c', 'b', 'a']);
    }

    proptest! {
        #[test]
        fn what_is_left_fits_and_no_more_go_than_must(
            accounts in prop::collection::vec((any::<bool>(), 0_usize..1000), 0..130),
            limit in 0_usize..50_000,
        ) {
            let used: usize = accounts.iter().map(|(_, held)| held).sum();
            let holders = accounts.iter().enumerate().map(|(peer, &(reserved, held))| Holder { peer, reserved, held });
            let gone = too_heavy(holders.collect(), used, limit, 1);
            let freed: usize = gone.iter().map(|&peer| accounts[peer].1).sum();
            prop_assert!(used - freed <= limit);
            if let Some((last, before)) = gone.split_last() {
                let freed: usize = before.iter().map(|&peer| accounts[peer].1).sum();
                prop_assert!(used - freed > limit);
                let stays = (0..accounts.len()).filter(|peer| !gone.contains(peer));
                for peer in stays {
                    prop_assert!(accounts[peer].0 || accounts[peer].1 <= accounts[*last].1 || accounts[*last].0);
                    prop_assert!(accounts[peer].0 || !accounts[*last].0 || accounts[peer].1 == 0);
                }
            }
        }
    }
}
