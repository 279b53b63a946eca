//! Bounded outgoing queues: one per peer and channel.
//!
//! Bounded in messages and in bytes. Messages are shared [`Bytes`], so a broadcast to n peers queues n references to
//! one buffer, and each of the n peers is charged an n-th of it. One writer task takes from it; who pushes never waits.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{budget::Account, channel::Overflow};

/// What became of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It is queued and nothing was dropped.
    Queued,
    /// It is queued; this many older messages were dropped.
    DroppedOldest(usize),
    /// It was dropped.
    DroppedNewest,
}

#[derive(Debug, Default)]
struct State {
    /// With what each is charged.
    messages: VecDeque<(Bytes, usize)>,
    bytes: usize,
}

/// A bounded queue with an overflow rule.
#[derive(Debug)]
pub(crate) struct OutQueue {
    state: Mutex<State>,
    ready: Notify,
    rule: Overflow,
    max_messages: usize,
    max_bytes: usize,
    account: Arc<Account>,
}

impl OutQueue {
    pub(crate) fn new(rule: Overflow, max_messages: usize, max_bytes: usize, account: Arc<Account>) -> Self {
        Self { state: Mutex::default(), ready: Notify::new(), rule, max_messages, max_bytes, account }
    }

    /// Queues a message that goes to so many peers. One that alone exceeds the byte bound is dropped under every rule.
    pub(crate) fn push(&self, message: Bytes, peers: usize) -> Pushed {
        if message.len() > self.max_bytes {
            return Pushed::DroppedNewest;
        }
        let mut state = self.state.lock();
        let mut dropped = 0;
        while state.messages.len() >= self.max_messages || state.bytes + message.len() > self.max_bytes {
            if self.rule != Overflow::DropOldest {
                return Pushed::DroppedNewest;
            }
            let Some((oldest, charged)) = state.messages.pop_front() else { return Pushed::DroppedNewest };
            state.bytes -= oldest.len();
            self.account.release(charged);
            dropped += 1;
        }
        state.bytes += message.len();
        let charged = message.len().div_ceil(peers.max(1));
        self.account.charge(charged);
        state.messages.push_back((message, charged));
        drop(state);
        self.ready.notify_one();
        if dropped == 0 { Pushed::Queued } else { Pushed::DroppedOldest(dropped) }
    }

    /// Waits until there is something to take, or until [`OutQueue::wake`].
    pub(crate) async fn ready(&self) {
        if self.state.lock().messages.is_empty() {
            self.ready.notified().await;
        }
    }

    /// Wakes the writer so that it looks around.
    pub(crate) fn wake(&self) {
        self.ready.notify_one();
    }

    /// Moves what is queued to `out`, in order, until it holds `max_bytes` or a little more.
    pub(crate) fn take(&self, max_bytes: usize, out: &mut Vec<Bytes>) {
        let mut state = self.state.lock();
        let mut taken = 0;
        while taken < max_bytes {
            let Some((message, charged)) = state.messages.pop_front() else { break };
            state.bytes -= message.len();
            self.account.release(charged);
            taken += message.len();
            out.push(message);
        }
    }

    /// Drops what is queued.
    pub(crate) fn clear(&self) {
        let mut state = self.state.lock();
        for (_, charged) in std::mem::take(&mut state.messages) {
            self.account.release(charged);
        }
        state.bytes = 0;
    }
}

impl Drop for OutQueue {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;

    fn queue(rule: Overflow, max_messages: usize, max_bytes: usize) -> OutQueue {
        OutQueue::new(rule, max_messages, max_bytes, Account::new(&Budget::new(usize::MAX)))
    }

    fn message(n: u8) -> Bytes {
        Bytes::from(vec![n; 10])
    }

    fn drain(queue: &OutQueue) -> Vec<u8> {
        let mut out = Vec::new();
        queue.take(usize::MAX, &mut out);
        out.iter().map(|m| m[0]).collect()
    }

    #[test]
    fn drop_oldest_keeps_the_newest_in_order() {
        let queue = queue(Overflow::DropOldest, 3, 1000);
        for n in 0..3 {
            assert_eq!(queue.push(message(n), 1), Pushed::Queued);
        }
        assert_eq!(queue.push(message(3), 1), Pushed::DroppedOldest(1));
        assert_eq!(drain(&queue), [1, 2, 3]);
    }

    #[test]
    fn drop_newest_keeps_the_oldest_in_order() {
        let queue = queue(Overflow::DropNewest, 3, 1000);
        for n in 0..3 {
            assert_eq!(queue.push(message(n), 1), Pushed::Queued);
        }
        assert_eq!(queue.push(message(3), 1), Pushed::DroppedNewest);
        assert_eq!(drain(&queue), [0, 1, 2]);
    }

    #[test]
    fn bytes_are_bounded_too() {
        let queue = queue(Overflow::DropOldest, 100, 25);
        queue.push(message(0), 1);
        queue.push(message(1), 1);
        assert_eq!(queue.push(Bytes::from(vec![2; 25]), 1), Pushed::DroppedOldest(2));
        assert_eq!(queue.push(Bytes::from(vec![3; 26]), 1), Pushed::DroppedNewest);
        assert_eq!(drain(&queue), [2]);
        assert_eq!(queue.push(Bytes::from(vec![4; 25]), 1), Pushed::Queued);
    }

    #[test]
    fn a_batch_ends_at_its_size_and_shares_the_buffers() {
        let queue = queue(Overflow::DropOldest, 100, 1000);
        let shared = message(7);
        for _ in 0..5 {
            queue.push(shared.clone(), 1);
        }
        let mut out = Vec::new();
        queue.take(25, &mut out);
        assert_eq!(out.len(), 3);
        assert!(out.iter().all(|m| m.as_ptr() == shared.as_ptr()));
    }

    #[test]
    fn an_account_is_charged_for_what_is_queued_whatever_becomes_of_it() {
        let budget = Budget::new(usize::MAX);
        let queue = OutQueue::new(Overflow::DropOldest, 3, 1000, Account::new(&budget));
        for n in 0..5 {
            queue.push(message(n), 4);
            assert!(queue.push(Bytes::from(vec![n; 1001]), 4) == Pushed::DroppedNewest);
        }
        assert_eq!(budget.used(), 9, "three messages, a fourth of each");
        queue.take(1, &mut Vec::new());
        assert_eq!(budget.used(), 6);
        queue.clear();
        assert_eq!(budget.used(), 0);
        queue.push(message(1), 1);
        drop(queue);
        assert_eq!(budget.used(), 0);
    }
}
