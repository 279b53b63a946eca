//! Misbehaviour points and bans by node.
//!
//! Points fall by one per second. At [`BAN_AT`] points the node is banned for the configured time, doubled for each
//! earlier ban that is still remembered, up to 64 times. A node is forgotten when its ban and as much time again have
//! passed. The table is bounded; when it is full the entry that expires first goes.
//!
//! Identities cost nothing, so a ban only makes misbehaviour cost a handshake; the limits per host and on handshakes
//! (see `admission`) bound how many of those a host gets, and a committee member cannot change its identity.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use cascade_primitives::NodeId;

/// Points at which a node is banned.
pub(crate) const BAN_AT: u32 = 100;
const MAX_DOUBLINGS: u32 = 6;

#[derive(Debug)]
struct Record {
    points: u32,
    counted_at: Instant,
    bans: u32,
    banned_until: Option<Instant>,
    forget_at: Instant,
}

/// Who is banned until when.
#[derive(Debug)]
pub(crate) struct BanList {
    records: HashMap<NodeId, Record>,
    capacity: usize,
    ban_time: Duration,
}

impl BanList {
    pub(crate) fn new(capacity: usize, ban_time: Duration) -> Self {
        Self { records: HashMap::new(), capacity: capacity.max(1), ban_time }
    }

    /// Adds points and returns the end of the ban if they amount to one. What comes in while a node is banned, from before it
    /// was, adds none.
    pub(crate) fn punish(&mut self, now: Instant, node: NodeId, points: u32) -> Option<Instant> {
        if self.banned_until(now, node).is_some() {
            return None;
        }
        if !self.records.contains_key(&node) {
            self.make_room(now);
        }
        let ban_time = self.ban_time;
        let record = self.records.entry(node).or_insert_with(|| Record {
            points: 0,
            counted_at: now,
            bans: 0,
            banned_until: None,
            forget_at: now,
        });
        let decayed = u32::try_from(now.saturating_duration_since(record.counted_at).as_secs()).unwrap_or(u32::MAX);
        record.points = record.points.saturating_sub(decayed).saturating_add(points);
        record.counted_at = now;
        record.forget_at = record.forget_at.max(now + Duration::from_secs(u64::from(record.points.min(BAN_AT))));
        if record.points < BAN_AT {
            return None;
        }
        let length = ban_time.saturating_mul(1 << record.bans.min(MAX_DOUBLINGS));
        record.points = 0;
        record.bans = record.bans.saturating_add(1);
        record.banned_until = Some(now + length);
        record.forget_at = now + length.saturating_mul(2);
        Some(now + length)
    }

    /// The end of the ban that holds now.
    pub(crate) fn banned_until(&self, now: Instant, node: NodeId) -> Option<Instant> {
        self.records.get(&node)?.banned_until.filter(|until| *until > now)
    }

    /// Lifts a ban and forgets the node's past.
    pub(crate) fn forgive(&mut self, node: NodeId) {
        self.records.remove(&node);
    }

    fn make_room(&mut self, now: Instant) {
        if self.records.len() < self.capacity {
            return;
        }
        self.records.retain(|_, r| r.forget_at > now);
        if self.records.len() >= self.capacity {
            let first = self.records.iter().min_by_key(|(node, r)| (r.forget_at, **node)).map(|(node, _)| *node);
            if let Some(node) = first {
                self.records.remove(&node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId([1; 32]);
    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn points_add_up_and_fall_with_time() {
        let now = Instant::now();
        let mut bans = BanList::new(8, MINUTE);
        assert_eq!(bans.punish(now, NODE, 60), None);
        assert_eq!(bans.punish(now + Duration::from_secs(30), NODE, 60), None);
        assert!(bans.punish(now + Duration::from_secs(31), NODE, 60).is_some());
    }

    #[test]
    fn a_ban_expires_and_the_next_one_is_longer() {
        let now = Instant::now();
        let mut bans = BanList::new(8, MINUTE);
        assert_eq!(bans.punish(now, NODE, BAN_AT), Some(now + MINUTE));
        assert_eq!(bans.punish(now, NODE, BAN_AT), None, "it is banned once");
        assert_eq!(bans.banned_until(now + MINUTE - Duration::from_secs(1), NODE), Some(now + MINUTE));
        assert_eq!(bans.banned_until(now + MINUTE, NODE), None);
        let again = now + MINUTE;
        assert_eq!(bans.punish(again, NODE, BAN_AT), Some(again + 2 * MINUTE));
        bans.forgive(NODE);
        assert_eq!(bans.banned_until(again, NODE), None);
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_longest_bans() {
        let now = Instant::now();
        let mut bans = BanList::new(4, MINUTE);
        bans.punish(now, NODE, BAN_AT);
        for i in 2..200 {
            bans.punish(now, NodeId([i; 32]), 1);
            assert!(bans.records.len() <= 4);
        }
        assert!(bans.banned_until(now, NODE).is_some());
    }
}
