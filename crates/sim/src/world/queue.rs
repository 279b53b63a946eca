//! What will happen, in the order of time and, at one time, in the order in which it was decided.

use std::{cmp::Reverse, collections::BinaryHeap};

use crate::node::Payload;
use cascade_consensus::Input;

/// Something that happens. What belongs to one life of a node is dropped when that life is over.
#[derive(Debug)]
pub(super) enum Event {
    Deliver {
        from: usize,
        to: usize,
        payload: Payload,
    },
    Wake {
        node: usize,
        at: u64,
    },
    SyncWake {
        node: usize,
        at: u64,
    },
    /// Syncs are done: what waited for them leaves.
    Flush {
        node: usize,
        life: u32,
    },
    Input {
        node: usize,
        life: u32,
        input: Box<Input>,
    },
    Executed {
        node: usize,
        life: u32,
    },
    OfferAgain {
        node: usize,
        life: u32,
    },
    /// A node looks whether a block waits for its reveal, and gives out its items of key generation again.
    Look {
        node: usize,
        life: u32,
    },
    CarrierWake {
        node: usize,
        at: u64,
    },
    /// The node dies in the middle of a write.
    Die {
        node: usize,
        life: u32,
    },
    /// A node that died on its own starts again.
    Boot(usize),
    Submit,
    Act(usize),
}

impl Event {
    /// The node that must be running for it to happen.
    pub(super) fn node(&self) -> Option<usize> {
        match *self {
            Self::Deliver { to: node, .. }
            | Self::Wake { node, .. }
            | Self::SyncWake { node, .. }
            | Self::Flush { node, .. }
            | Self::Input { node, .. }
            | Self::Executed { node, .. }
            | Self::OfferAgain { node, .. }
            | Self::Look { node, .. }
            | Self::CarrierWake { node, .. } => Some(node),
            Self::Die { .. } | Self::Boot(_) | Self::Submit | Self::Act(_) => None,
        }
    }
}

#[derive(Debug)]
struct Queued {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Reverse<Queued>>,
    order: u64,
}

impl Queue {
    pub(super) fn push(&mut self, at: u64, event: Event) {
        self.order += 1;
        self.heap.push(Reverse(Queued { at, order: self.order, event }));
    }

    pub(super) fn pop(&mut self) -> Option<(u64, Event)> {
        self.heap.pop().map(|Reverse(next)| (next.at, next.event))
    }
}
