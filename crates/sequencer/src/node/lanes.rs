//! What peers say to an actor, kept apart by peer, so that one who floods holds up himself and nobody else.
//!
//! ```text
//!  network inbox --> pump --+--> lane of peer A: queue --> actor   one message at a time
//!   (all peers)    (decodes)+--> lane of peer B: queue --> actor   one message at a time
//! ```
//!
//! A lane has at most one message in the actor's mailbox, so a peer's next message waits behind one of every other peer at
//! most, however much they send. The pump never waits: what finds its peer's lane full is dropped, which consensus takes
//! like any loss on the way, by resending on a stall. Order is kept within a lane; between peers there is none. What waits in
//! the lane of a peer that is gone, because it was banned for what it said before or by itself, is dropped with the lane.
//!
//! Lanes times peers are more than a machine has, so all together hold [`ALL_BYTES`]. A message on top of that empties lanes in
//! the order in which the network disconnects peers that hold too much (`crates/network/src/budget.rs`): those of peers outside
//! of the committee first, the fullest of them first, members' last. One lane is never emptied for another that would hold more
//! with the message, but for a member's an outsider's always is; a member's is never for an outsider's. If there is none to
//! empty, the message is dropped, unless it is of a member and the first in its lane.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use cascade_primitives::NodeId;
use parking_lot::Mutex;
use tokio::{sync::Notify, task::AbortHandle};

/// Messages that wait in one lane. A resend on a stall is about half of it.
const LANE_MESSAGES: usize = 1024;
/// Bytes of one lane, with the message that is handled; a single message may be larger.
const LANE_BYTES: usize = 32 << 20;
/// Bytes of all lanes.
const ALL_BYTES: usize = 128 << 20;
/// Lanes from which on those that are empty are closed.
const MANY_LANES: usize = 256;

/// Bytes that are held until this is dropped.
struct Held {
    bytes: usize,
    by: [Arc<AtomicUsize>; 2],
}

impl Held {
    fn new(bytes: usize, lane: &Arc<AtomicUsize>, all: &Arc<AtomicUsize>) -> Self {
        let by = [Arc::clone(lane), Arc::clone(all)];
        for held in &by {
            held.fetch_add(bytes, Ordering::AcqRel);
        }
        Self { bytes, by }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for held in &self.by {
            held.fetch_sub(self.bytes, Ordering::AcqRel);
        }
    }
}

struct Queue<M> {
    waiting: Mutex<VecDeque<(M, Held)>>,
    news: Notify,
}

struct Lane<M> {
    queue: Arc<Queue<M>>,
    /// Of messages that are not handled yet.
    bytes: Arc<AtomicUsize>,
    is_member: bool,
    task: AbortHandle,
}

/// One lane for every peer that says something.
pub(super) struct Lanes<M, D> {
    lanes: HashMap<NodeId, Lane<M>>,
    bytes: Arc<AtomicUsize>,
    deliver: D,
}

impl<M, D, F> Lanes<M, D>
where
    M: Send + 'static,
    D: Fn(NodeId, M) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = bool> + Send + 'static,
{
    /// Lanes that end in `deliver`, which answers once a message is handled, and false if there is nobody to handle it.
    pub(super) fn new(deliver: D) -> Self {
        Self { lanes: HashMap::new(), bytes: Arc::default(), deliver }
    }

    /// Puts a message of so many bytes into its peer's lane; answers whether there was room.
    pub(super) fn offer(&mut self, peer: NodeId, is_member: bool, message: M, bytes: usize) -> bool {
        if self.lanes.len() >= MANY_LANES && !self.lanes.contains_key(&peer) {
            self.lanes.retain(|_, lane| lane.bytes.load(Ordering::Acquire) > 0);
        }
        // An empty message takes room too.
        let bytes = bytes.max(1);
        let fits = self.make_room(&peer, is_member, bytes);
        let lane = self.lanes.entry(peer).or_insert_with(|| open(peer, self.deliver.clone()));
        lane.is_member = is_member;
        let held = lane.bytes.load(Ordering::Acquire);
        if !fits && (held > 0 || !is_member) {
            return false;
        }
        let mut waiting = lane.queue.waiting.lock();
        if held > 0 && held + bytes > LANE_BYTES || waiting.len() >= LANE_MESSAGES {
            return false;
        }
        waiting.push_back((message, Held::new(bytes, &lane.bytes, &self.bytes)));
        lane.queue.news.notify_one();
        true
    }

    /// Empties lanes until there is room for so many bytes of a peer; answers whether there is.
    fn make_room(&self, peer: &NodeId, is_member: bool, bytes: usize) -> bool {
        let held = |lane: &Lane<M>| lane.bytes.load(Ordering::Acquire);
        let own = bytes + self.lanes.get(peer).map_or(0, held);
        let may_empty = |lane: &Lane<M>| match (lane.is_member, is_member) {
            (true, false) => false,
            (false, true) => true,
            _ => held(lane) >= own,
        };
        while self.bytes.load(Ordering::Acquire) + bytes > ALL_BYTES {
            let others = self.lanes.iter().filter(|(other, _)| *other != peer).map(|(_, lane)| lane);
            let lanes = others.filter(|lane| may_empty(lane) && !lane.queue.waiting.lock().is_empty());
            let Some(first) = lanes.max_by_key(|lane| (!lane.is_member, held(lane))) else { return false };
            first.queue.waiting.lock().clear();
        }
        true
    }

    /// Drops what a peer said and nobody has handled yet.
    pub(super) fn close(&mut self, peer: &NodeId) {
        if let Some(lane) = self.lanes.remove(peer) {
            lane.task.abort();
        }
    }
}

fn open<M, D, F>(peer: NodeId, deliver: D) -> Lane<M>
where
    M: Send + 'static,
    D: Fn(NodeId, M) -> F + Send + Sync + 'static,
    F: Future<Output = bool> + Send + 'static,
{
    let queue = Arc::new(Queue { waiting: Mutex::default(), news: Notify::new() });
    let from = Arc::clone(&queue);
    let task = tokio::spawn(async move {
        loop {
            let next = from.waiting.lock().pop_front();
            let Some((message, held)) = next else {
                from.news.notified().await;
                continue;
            };
            let handled = deliver(peer, message).await;
            drop(held);
            if !handled {
                return;
            }
        }
    });
    Lane { queue, bytes: Arc::default(), is_member: false, task: task.abort_handle() }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Mutex as AsyncMutex;

    use super::*;

    type Handled = Arc<AsyncMutex<Vec<(NodeId, u64)>>>;

    /// An actor that handles one message at a time, each only when the test gives it a turn.
    fn actor() -> (Handled, Arc<tokio::sync::Semaphore>, impl Fn(NodeId, u64) -> Turn + Clone + Send + Sync + 'static) {
        let handled = Handled::default();
        let turns = Arc::new(tokio::sync::Semaphore::new(0));
        let (into, by) = (Arc::clone(&handled), Arc::clone(&turns));
        let deliver = move |peer, message| -> Turn {
            let (into, by) = (Arc::clone(&into), Arc::clone(&by));
            Box::pin(async move {
                by.acquire().await.expect("it is never closed").forget();
                into.lock().await.push((peer, message));
                true
            })
        };
        (handled, turns, deliver)
    }

    type Turn = std::pin::Pin<Box<dyn Future<Output = bool> + Send>>;

    async fn settle() {
        for _ in 0..64 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn one_peers_flood_holds_up_another_by_one_message_and_fills_its_own_lane_alone() {
        let (handled, turns, deliver) = actor();
        let mut lanes = Lanes::new(deliver);
        let (flooder, member) = (NodeId([1; 32]), NodeId([2; 32]));
        let taken = (0..50_000).filter(|&i| lanes.offer(flooder, true, i, 100)).count();
        settle().await;
        assert!(taken <= LANE_MESSAGES + 1, "{taken}");
        assert!(lanes.offer(member, true, 7, 100));
        settle().await;
        turns.add_permits(2);
        settle().await;
        assert!(handled.lock().await.contains(&(member, 7)), "{:?}", handled.lock().await);
        turns.add_permits(50_000);
        settle().await;
        while handled.lock().await.len() < taken + 1 {
            tokio::task::yield_now().await;
        }
        let own: Vec<u64> = handled.lock().await.iter().filter(|(p, _)| *p == flooder).map(|(_, m)| *m).collect();
        assert!(own.is_sorted(), "order is kept");
    }

    #[tokio::test]
    async fn a_lane_is_bounded_by_bytes_but_takes_one_message_of_any_size() {
        let (_, turns, deliver) = actor();
        let mut lanes = Lanes::new(deliver);
        let peer = NodeId([1; 32]);
        assert!(lanes.offer(peer, true, 0, 2 * LANE_BYTES));
        assert!(!lanes.offer(peer, true, 1, 1));
        settle().await;
        turns.add_permits(1);
        settle().await;
        assert!(
            lanes.offer(peer, true, 2, LANE_BYTES - 1)
                && lanes.offer(peer, true, 3, 1)
                && !lanes.offer(peer, true, 4, 1)
        );
    }

    #[tokio::test]
    async fn what_a_peer_that_is_gone_said_is_dropped_and_it_may_come_back() {
        let (handled, turns, deliver) = actor();
        let mut lanes = Lanes::new(deliver);
        let (gone, other) = (NodeId([1; 32]), NodeId([2; 32]));
        assert!((0..100).all(|i| lanes.offer(gone, true, i, 10)) && lanes.offer(other, true, 7, 10));
        settle().await;
        lanes.close(&gone);
        settle().await;
        assert!(lanes.offer(gone, true, 1000, 10));
        turns.add_permits(1000);
        settle().await;
        let mut left = handled.lock().await.clone();
        left.sort_unstable();
        assert_eq!(left, [(gone, 1000), (other, 7)]);
    }

    #[tokio::test]
    async fn lanes_of_peers_that_say_nothing_more_are_closed() {
        let (_, turns, deliver) = actor();
        turns.add_permits(10_000);
        let mut lanes = Lanes::new(deliver);
        for i in 0..2000_u16 {
            let mut id = [0; 32];
            id[..2].copy_from_slice(&i.to_le_bytes());
            assert!(lanes.offer(NodeId(id), true, 1, 10));
            settle().await;
            assert!(lanes.lanes.len() <= MANY_LANES);
        }
    }

    #[tokio::test]
    async fn all_lanes_together_are_bounded_and_the_fullest_pays() {
        let (handled, turns, deliver) = actor();
        let mut lanes = Lanes::new(deliver);
        let member = NodeId([200; 32]);
        assert!((0..3).all(|i| lanes.offer(member, true, i, 1000)));
        // One with the actor and one that waits, of each of many peers.
        let size = LANE_BYTES / 2;
        for peer in 0..20 {
            let _ = lanes.offer(NodeId([peer; 32]), false, 0, size);
            settle().await;
            let _ = lanes.offer(NodeId([peer; 32]), false, 1, size);
            assert!(lanes.bytes.load(Ordering::Acquire) <= ALL_BYTES);
        }
        assert!(!lanes.offer(NodeId([99; 32]), false, 0, size), "all room is with the actor");
        assert!(lanes.offer(NodeId([201; 32]), true, 0, size), "members are heard all the same");
        turns.add_permits(1000);
        settle().await;
        let of_member = handled.lock().await.iter().filter(|(peer, _)| *peer == member).count();
        assert_eq!(of_member, 3, "what a small lane holds is kept");
        assert_eq!(lanes.bytes.load(Ordering::Acquire), 0);
        assert!(lanes.offer(NodeId([99; 32]), false, 0, size));
    }

    #[tokio::test]
    async fn outsiders_empty_no_members_lane_and_members_empty_outsiders_first() {
        let (handled, turns, deliver) = actor();
        let mut lanes = Lanes::new(deliver);
        let id = |kind: u8, i: usize| NodeId([&[kind, i as u8][..], &[0; 30]].concat().try_into().unwrap());
        // A member has resent much, and many outsiders hold all the rest, each less than that.
        let (member, large, small) = (id(1, 0), LANE_BYTES / 4, 1 << 20);
        for i in 0..4 {
            assert!(lanes.offer(member, true, i, large));
            settle().await;
        }
        let mut outsiders = 0;
        while lanes.bytes.load(Ordering::Acquire) + small <= ALL_BYTES {
            assert!(lanes.offer(id(2, outsiders / 2), false, 0, small));
            settle().await;
            outsiders += 1;
        }
        let of_member = |lanes: &Lanes<_, _>| lanes.lanes[&member].bytes.load(Ordering::Acquire);
        assert_eq!(of_member(&lanes), 4 * large);
        for i in 0..20 {
            let _ = lanes.offer(id(3, i), false, 0, small);
            settle().await;
            assert_eq!(of_member(&lanes), 4 * large, "outsider {i}");
        }
        // Another member's: outsiders' go, although each holds less, and the first member's stay.
        assert!(lanes.offer(id(1, 1), true, 9, large));
        assert!(lanes.bytes.load(Ordering::Acquire) <= ALL_BYTES && of_member(&lanes) == 4 * large);
        turns.add_permits(10_000);
        settle().await;
        while lanes.bytes.load(Ordering::Acquire) > 0 {
            tokio::task::yield_now().await;
        }
        let of_members: Vec<_> = handled.lock().await.iter().filter(|(peer, _)| peer.0[0] == 1).cloned().collect();
        assert_eq!(of_members.len(), 5, "{of_members:?}");
    }
}
