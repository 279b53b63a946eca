//! The pool of a chain that orders bytes: first in, first out.
//!
//! ```text
//!  slots:   [gone] [ordered] [ordered] [waiting] [waiting] [gone] [waiting]
//!           ^ first                     ^ select starts at the first and passes over what does not wait
//! ```
//!
//! Every operation is O(1) a payload (amortized: slots that are gone are swept when they prevail), payloads are never
//! copied, and everything is bounded: payloads by count and bytes, the hashes of what was ordered lately by count. What
//! was ordered lately is refused, so that a payload that comes back by gossip after its block is not ordered twice. That
//! memory is finite; a chain that must never order the same bytes twice needs a rule of its own.
//!
//! One table says of a payload where it waits or that it was ordered: at 40,000 payloads a second nearly every look-up
//! misses the processor's caches, so there is one of them for a step, in entries of 24 bytes. They are found by half of
//! the payload's hash. To keep somebody else's payload out, one needs a second preimage of those 128 bits; two of
//! one's own that collide harm nobody else.

use std::collections::{HashMap, VecDeque, hash_map::Entry};

use bytes::Bytes;
use cascade_primitives::{B256, TimestampMs, domain, hash};
use thiserror::Error;

use crate::pool::Source;

/// Bounds of an [`OpaquePool`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpaqueLimits {
    /// Largest payload in bytes (`ChainParams::max_tx_bytes`).
    pub payload_bytes: usize,
    /// Most payloads.
    pub count: usize,
    /// Most bytes of all payloads.
    pub bytes: usize,
    /// Hashes of ordered payloads that are remembered.
    pub remembered: usize,
    /// How long a payload waits before it is dropped, in ms.
    pub lifetime_ms: u64,
}

impl OpaqueLimits {
    /// The usual bounds for a chain's largest payload.
    #[must_use]
    pub const fn new(payload_bytes: usize) -> Self {
        Self { payload_bytes, count: 400_000, bytes: 256 << 20, remembered: 1 << 20, lifetime_ms: 600_000 }
    }
}

/// Why a payload was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OpaqueError {
    /// The pool has it, or it was ordered lately.
    #[error("already known")]
    AlreadyKnown,
    /// It has no bytes.
    #[error("empty payload")]
    Empty,
    /// It is longer than the chain allows.
    #[error("oversized data: transaction size {size}, limit {limit}")]
    Oversized {
        /// Its bytes.
        size: usize,
        /// Most bytes.
        limit: usize,
    },
    /// There is no room.
    #[error("txpool is full")]
    Full,
}

/// Half of a payload's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key(u64, u64);

impl From<&B256> for Key {
    fn from(hash: &B256) -> Self {
        let part = |at: usize| u64::from_le_bytes(hash[at..at + 8].try_into().expect("8 of 32 bytes"));
        Self(part(0), part(8))
    }
}

/// In place of a slot's number: the payload does not wait, it was ordered lately.
const ORDERED: u64 = u64::MAX;

#[derive(Debug)]
struct Slot {
    key: Key,
    added: TimestampMs,
    /// Empty once it is gone.
    payload: Bytes,
    /// Known blocks, not final yet, that contain it.
    ordered: u32,
}

/// Byte strings that wait for a block, in the order of arrival.
#[derive(Debug)]
pub struct OpaquePool {
    limits: OpaqueLimits,
    slots: VecDeque<Slot>,
    /// The number of `slots[0]`; numbers rise by one.
    first: u64,
    /// The numbers of slots, and [`ORDERED`].
    places: HashMap<Key, u64>,
    /// Payloads that have a slot.
    waiting: usize,
    bytes: usize,
    /// What was ordered lately, in the order in which it is forgotten.
    ordered: VecDeque<Key>,
    fresh: VecDeque<Key>,
}

impl OpaquePool {
    /// An empty pool.
    #[must_use]
    pub fn new(limits: OpaqueLimits) -> Self {
        Self {
            limits,
            slots: VecDeque::new(),
            first: 0,
            places: HashMap::new(),
            waiting: 0,
            bytes: 0,
            ordered: VecDeque::new(),
            fresh: VecDeque::new(),
        }
    }

    /// The key of a payload: its tagged hash.
    #[must_use]
    pub fn key(payload: &[u8]) -> B256 {
        hash::tagged(domain::OPAQUE, &[payload])
    }

    /// Takes a payload; returns its key.
    ///
    /// # Errors
    /// [`OpaqueError`].
    pub fn admit(&mut self, now: TimestampMs, payload: Bytes, source: Source) -> Result<B256, OpaqueError> {
        let (size, limit) = (payload.len(), self.limits.payload_bytes);
        if size == 0 {
            return Err(OpaqueError::Empty);
        }
        if size > limit {
            return Err(OpaqueError::Oversized { size, limit });
        }
        if self.waiting >= self.limits.count || self.bytes + size > self.limits.bytes {
            return Err(OpaqueError::Full);
        }
        let hash = Self::key(&payload);
        let key = Key::from(&hash);
        match self.places.entry(key) {
            Entry::Occupied(_) => return Err(OpaqueError::AlreadyKnown),
            Entry::Vacant(entry) => entry.insert(self.first + self.slots.len() as u64),
        };
        self.waiting += 1;
        self.bytes += size;
        if source == Source::Local {
            self.fresh.push_back(key);
            if self.fresh.len() > self.limits.count {
                self.fresh.pop_front();
            }
        }
        self.slots.push_back(Slot { key, added: now, payload, ordered: 0 });
        Ok(hash)
    }

    /// Payloads for a block, oldest first, that together have at most `bytes` bytes and are at most `count`. They stay
    /// in the pool.
    #[must_use]
    pub fn select(&self, bytes: usize, count: usize) -> Vec<Bytes> {
        let mut selected = Vec::new();
        let mut left = bytes;
        for slot in self.slots.iter().filter(|slot| slot.ordered == 0 && !slot.payload.is_empty()) {
            if selected.len() == count || slot.payload.len() > left {
                break;
            }
            left -= slot.payload.len();
            selected.push(slot.payload.clone());
        }
        selected
    }

    /// A block of the branch that this node would extend contains them: they are not selected again.
    pub fn on_ordered<'a>(&mut self, keys: impl IntoIterator<Item = &'a B256>) {
        for key in keys.into_iter().map(Key::from) {
            match self.places.get(&key) {
                None => self.remember(key),
                Some(&ORDERED) => {}
                Some(&number) => self.slot(number).ordered += 1,
            }
        }
    }

    /// The branch of a block that was reported to [`OpaquePool::on_ordered`] is abandoned.
    pub fn on_unordered<'a>(&mut self, keys: impl IntoIterator<Item = &'a B256>) {
        for key in keys.into_iter().map(Key::from) {
            match self.places.get(&key) {
                None => {}
                // It may come again. Its place in the order of forgetting stays: once it is ordered, it is forgotten early.
                Some(&ORDERED) => drop(self.places.remove(&key)),
                Some(&number) => {
                    let slot = self.slot(number);
                    slot.ordered = slot.ordered.saturating_sub(1);
                }
            }
        }
    }

    /// A final block contains them: they are gone.
    pub fn on_final<'a>(&mut self, keys: impl IntoIterator<Item = &'a B256>) {
        for key in keys.into_iter().map(Key::from) {
            match self.places.get(&key) {
                Some(&ORDERED) => continue,
                Some(&number) => self.free(number),
                None => {}
            }
            self.remember(key);
        }
        self.trim();
    }

    /// Drops what has waited too long; returns how many.
    pub fn expire(&mut self, now: TimestampMs) -> usize {
        let mut expired = 0;
        while let Some(slot) = self.slots.front() {
            if !slot.payload.is_empty() {
                if slot.added.plus(self.limits.lifetime_ms) > now {
                    break;
                }
                let (key, number) = (slot.key, self.first);
                self.places.remove(&key);
                self.free(number);
                expired += 1;
            }
            self.trim();
        }
        expired
    }

    /// Payloads that entered the network here and were not given out yet: at most `bytes` bytes, but at least one if
    /// there is any. What is gone meanwhile is passed over.
    pub fn take_new_for_gossip(&mut self, bytes: usize) -> Vec<Bytes> {
        let mut taken = Vec::new();
        let mut left = bytes;
        while let Some(key) = self.fresh.front().copied() {
            if let Some(&number) = self.places.get(&key).filter(|place| **place != ORDERED) {
                let payload = self.slot(number).payload.clone();
                if payload.len() > left && !taken.is_empty() {
                    break;
                }
                left = left.saturating_sub(payload.len());
                taken.push(payload);
            }
            self.fresh.pop_front();
        }
        taken
    }

    /// Whether the pool has it or it was ordered lately.
    #[must_use]
    pub fn knows(&self, key: &B256) -> bool {
        self.places.contains_key(&Key::from(key))
    }

    /// Payloads in the pool, ordered ones too.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.waiting
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Bytes of the payloads in the pool.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    fn slot(&mut self, number: u64) -> &mut Slot {
        let index = usize::try_from(number - self.first).expect("numbers of slots are in range");
        &mut self.slots[index]
    }

    fn free(&mut self, number: u64) {
        let payload = std::mem::take(&mut self.slot(number).payload);
        self.bytes -= payload.len();
        self.waiting -= 1;
    }

    fn trim(&mut self) {
        while self.slots.front().is_some_and(|slot| slot.payload.is_empty()) {
            self.slots.pop_front();
            self.first += 1;
        }
        if self.slots.len() > 4 * self.waiting + 4096 {
            self.sweep();
        }
    }

    /// Removes slots that are gone from between those that wait. It visits as many slots as were freed since the last
    /// time, and a third of that again.
    fn sweep(&mut self) {
        self.slots.retain(|slot| !slot.payload.is_empty());
        for (number, slot) in (self.first..).zip(&self.slots) {
            self.places.insert(slot.key, number);
        }
    }

    /// Notes that a payload was ordered, whether it had a slot or not.
    fn remember(&mut self, key: Key) {
        self.places.insert(key, ORDERED);
        self.ordered.push_back(key);
        while self.ordered.len() > self.limits.remembered {
            if let Some(oldest) = self.ordered.pop_front()
                && let Entry::Occupied(entry) = self.places.entry(oldest)
                && *entry.get() == ORDERED
            {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: TimestampMs = TimestampMs(1_000_000);

    fn pool() -> OpaquePool {
        OpaquePool::new(OpaqueLimits { payload_bytes: 100, count: 8, bytes: 300, remembered: 4, lifetime_ms: 1000 })
    }

    fn payload(n: u8) -> Bytes {
        Bytes::from(vec![n; 10])
    }

    fn admit(pool: &mut OpaquePool, n: u8) -> B256 {
        pool.admit(NOW, payload(n), Source::Local).unwrap()
    }

    #[test]
    fn first_in_first_out_without_copies() {
        let mut pool = pool();
        let bytes = payload(1);
        pool.admit(NOW, bytes.clone(), Source::Local).unwrap();
        admit(&mut pool, 2);
        admit(&mut pool, 3);
        assert_eq!(pool.select(25, 10), [payload(1), payload(2)]);
        assert_eq!(pool.select(1000, 1), [payload(1)]);
        assert_eq!(pool.select(1000, 1)[0].as_ptr(), bytes.as_ptr());
        assert_eq!(pool.len(), 3);
    }

    #[test]
    fn bounds_and_duplicates_are_refused() {
        let mut pool = pool();
        assert_eq!(pool.admit(NOW, Bytes::new(), Source::Peer), Err(OpaqueError::Empty));
        let long = Bytes::from(vec![0; 101]);
        assert_eq!(pool.admit(NOW, long, Source::Peer), Err(OpaqueError::Oversized { size: 101, limit: 100 }));
        admit(&mut pool, 1);
        assert_eq!(pool.admit(NOW, payload(1), Source::Peer), Err(OpaqueError::AlreadyKnown));
        for n in 2..=8 {
            admit(&mut pool, n);
        }
        assert_eq!(pool.admit(NOW, payload(9), Source::Peer), Err(OpaqueError::Full));
        let mut pool = self::pool();
        for n in 0..3 {
            pool.admit(NOW, Bytes::from(vec![n; 100]), Source::Peer).unwrap();
        }
        assert_eq!(pool.admit(NOW, payload(9), Source::Peer), Err(OpaqueError::Full));
    }

    #[test]
    fn what_is_ordered_is_not_selected_until_its_branch_is_abandoned() {
        let mut pool = pool();
        let keys = [admit(&mut pool, 1), admit(&mut pool, 2)];
        admit(&mut pool, 3);
        pool.on_ordered(&keys);
        pool.on_ordered(&keys[..1]);
        assert_eq!(pool.select(1000, 10), [payload(3)]);
        pool.on_unordered(&keys);
        assert_eq!(pool.select(1000, 10), [payload(2), payload(3)]);
        pool.on_unordered(&keys[..1]);
        assert_eq!(pool.select(1000, 10), [payload(1), payload(2), payload(3)]);
        pool.on_final(&keys);
        assert_eq!(pool.select(1000, 10), [payload(3)]);
        assert_eq!((pool.len(), pool.bytes()), (1, 10));
        assert_eq!(pool.admit(NOW, payload(1), Source::Peer), Err(OpaqueError::AlreadyKnown));
    }

    #[test]
    fn a_payload_seen_first_in_a_block_is_known_afterwards() {
        let mut pool = pool();
        let key = OpaquePool::key(&payload(1));
        pool.on_ordered(&[key]);
        assert_eq!(pool.admit(NOW, payload(1), Source::Peer), Err(OpaqueError::AlreadyKnown));
        pool.on_unordered(&[key]);
        assert_eq!(pool.admit(NOW, payload(1), Source::Peer), Ok(key));
    }

    #[test]
    fn what_waits_too_long_is_dropped() {
        let mut pool = pool();
        admit(&mut pool, 1);
        pool.admit(NOW.plus(500), payload(2), Source::Peer).unwrap();
        assert_eq!(pool.expire(NOW.plus(999)), 0);
        assert_eq!(pool.expire(NOW.plus(1000)), 1);
        assert_eq!(pool.select(1000, 10), [payload(2)]);
        assert_eq!(pool.expire(NOW.plus(5000)), 1);
        assert!(pool.is_empty() && pool.bytes() == 0);
    }

    #[test]
    fn gossip_gives_out_what_entered_here_once_and_in_batches() {
        let mut pool = pool();
        for n in 1..=3 {
            admit(&mut pool, n);
        }
        pool.admit(NOW, payload(4), Source::Peer).unwrap();
        assert_eq!(pool.take_new_for_gossip(25), [payload(1), payload(2)]);
        assert_eq!(pool.take_new_for_gossip(1), [payload(3)]);
        assert!(pool.take_new_for_gossip(1000).is_empty());
    }

    #[test]
    fn a_payload_that_stays_does_not_keep_the_room_of_those_that_went() {
        let mut pool = OpaquePool::new(OpaqueLimits { count: 10, ..OpaqueLimits::new(100) });
        let stays = pool.admit(NOW, Bytes::from_static(b"stays"), Source::Peer).unwrap();
        pool.on_ordered(&[stays]);
        for n in 0..20_000_u32 {
            let key = pool.admit(NOW, Bytes::copy_from_slice(&n.to_le_bytes()), Source::Peer).unwrap();
            pool.on_final(&[key]);
        }
        assert!(pool.slots.len() < 5000, "{}", pool.slots.len());
        pool.on_unordered(&[stays]);
        assert_eq!(pool.select(100, 10), [&b"stays"[..]]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_doubled_or_out_of_order(steps in prop::collection::vec((0_u8..6, 0_u8..20), 0..200)) {
            let mut pool = pool();
            let mut model: Vec<(u8, u32)> = Vec::new();
            for (step, n) in steps {
                let key = OpaquePool::key(&payload(n));
                let at = model.iter().position(|(m, _)| *m == n);
                match step {
                    0..=2 => {
                        let admitted = pool.admit(NOW, payload(n), Source::Peer).is_ok();
                        prop_assert!(!admitted || at.is_none());
                        if admitted {
                            model.push((n, 0));
                        }
                    }
                    3 => { if let Some(at) = at { pool.on_ordered(&[key]); model[at].1 += 1; } }
                    4 => { if let Some(at) = at { pool.on_unordered(&[key]); model[at].1 = model[at].1.saturating_sub(1); } }
                    _ => { pool.on_final(&[key]); if let Some(at) = at { model.remove(at); } }
                }
                let waiting: Vec<_> = model.iter().filter(|(_, o)| *o == 0).map(|(m, _)| payload(*m)).collect();
                prop_assert_eq!(pool.select(usize::MAX, usize::MAX), waiting);
                prop_assert_eq!(pool.len(), model.len());
                prop_assert_eq!(pool.bytes(), model.len() * 10);
                let remembered = pool.places.values().filter(|place| **place == ORDERED).count();
                prop_assert!(pool.len() <= 8 && remembered <= 4 && pool.places.len() == pool.len() + remembered);
            }
        }
    }
}
