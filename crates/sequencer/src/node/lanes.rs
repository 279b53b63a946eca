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

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use cascade_primitives::NodeId;
use tokio::{sync::mpsc, task::AbortHandle};

/// Messages that wait in one lane. A resend on a stall is about half of it.
const LANE_MESSAGES: usize = 1024;
/// Bytes that wait in one lane; a single message may be larger.
const LANE_BYTES: usize = 32 << 20;
/// Lanes from which on those that are empty are closed.
const MANY_LANES: usize = 256;

struct Lane<M> {
    queue: mpsc::Sender<(M, usize)>,
    /// Of messages that are not handled yet.
    bytes: Arc<AtomicUsize>,
    task: AbortHandle,
}

/// One lane for every peer that says something.
pub(super) struct Lanes<M, D> {
    lanes: HashMap<NodeId, Lane<M>>,
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
        Self { lanes: HashMap::new(), deliver }
    }

    /// Puts a message of so many bytes into its peer's lane; answers whether there was room.
    pub(super) fn offer(&mut self, peer: NodeId, message: M, bytes: usize) -> bool {
        if self.lanes.len() >= MANY_LANES && !self.lanes.contains_key(&peer) {
            self.lanes.retain(|_, lane| lane.bytes.load(Ordering::Acquire) > 0);
        }
        let lane = self.lanes.entry(peer).or_insert_with(|| open(peer, self.deliver.clone()));
        // An empty message takes room too.
        let bytes = bytes.max(1);
        let waiting = lane.bytes.fetch_add(bytes, Ordering::AcqRel);
        let fits = waiting == 0 || waiting + bytes <= LANE_BYTES;
        if fits && lane.queue.try_send((message, bytes)).is_ok() {
            return true;
        }
        lane.bytes.fetch_sub(bytes, Ordering::AcqRel);
        false
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
    let (queue, mut waiting) = mpsc::channel::<(M, usize)>(LANE_MESSAGES);
    let bytes = Arc::new(AtomicUsize::new(0));
    let held = Arc::clone(&bytes);
    let task = tokio::spawn(async move {
        while let Some((message, size)) = waiting.recv().await {
            let handled = deliver(peer, message).await;
            held.fetch_sub(size, Ordering::AcqRel);
            if !handled {
                return;
            }
        }
    });
    Lane { queue, bytes, task: task.abort_handle() }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Mutex;

    use super::*;

    type Handled = Arc<Mutex<Vec<(NodeId, u64)>>>;

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
        let taken = (0..50_000).filter(|&i| lanes.offer(flooder, i, 100)).count();
        settle().await;
        assert!(taken <= LANE_MESSAGES + 1, "{taken}");
        assert!(lanes.offer(member, 7, 100));
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
        assert!(lanes.offer(peer, 0, 2 * LANE_BYTES));
        assert!(!lanes.offer(peer, 1, 1));
        settle().await;
        turns.add_permits(1);
        settle().await;
        assert!(lanes.offer(peer, 2, LANE_BYTES - 1) && lanes.offer(peer, 3, 1) && !lanes.offer(peer, 4, 1));
    }

    #[tokio::test]
    async fn what_a_peer_that_is_gone_said_is_dropped_and_it_may_come_back() {
        let (handled, turns, deliver) = actor();
        let mut lanes = Lanes::new(deliver);
        let (gone, other) = (NodeId([1; 32]), NodeId([2; 32]));
        assert!((0..100).all(|i| lanes.offer(gone, i, 10)) && lanes.offer(other, 7, 10));
        settle().await;
        lanes.close(&gone);
        settle().await;
        assert!(lanes.offer(gone, 1000, 10));
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
            assert!(lanes.offer(NodeId(id), 1, 10));
            settle().await;
            assert!(lanes.lanes.len() <= MANY_LANES);
        }
    }
}
