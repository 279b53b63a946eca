//! Bounded caches in front of the store. They change how long an answer takes, never the answer.

use std::{hash::Hash, sync::Arc};

use alloy_primitives::B256;
use cascade_primitives::Height;
use parking_lot::Mutex;
use revm::{bytecode::Bytecode, primitives::HashMap};

use crate::{
    store::{StateChanges, StateKey, TreeNodeKey, VersionedValue},
    tree::Page,
};

/// A map of bounded size in two generations: what is used moves to the young one; when that is full it becomes the old
/// one and what was in the old one is forgotten. A key is in one of them at most.
struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    capacity: usize,
}

impl<K: Eq + Hash + Clone, V> Generations<K, V> {
    fn new(capacity: usize) -> Self {
        Self { young: HashMap::default(), old: HashMap::default(), capacity: (capacity / 2).max(1) }
    }

    fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        if let Some(value) = self.old.remove(key) {
            self.insert(key.clone(), value);
        }
        self.young.get_mut(key)
    }

    fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.capacity {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, value);
    }

    fn remove(&mut self, key: &K) {
        if self.young.remove(key).is_none() {
            self.old.remove(key);
        }
    }

    fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }
}

/// Decoded pages of the tree. A key names one content for ever, unless the store reverts: then [`Self::clear`].
pub(crate) struct NodeCache(Mutex<Generations<TreeNodeKey, Arc<Page>>>);

impl NodeCache {
    pub(crate) fn new(capacity: usize) -> Self {
        Self(Mutex::new(Generations::new(capacity)))
    }

    pub(crate) fn get(&self, key: &TreeNodeKey) -> Option<Arc<Page>> {
        self.0.lock().get_mut(key).cloned()
    }

    pub(crate) fn insert(&self, key: TreeNodeKey, node: Arc<Page>) {
        self.0.lock().insert(key, node);
    }

    /// Adds what a version wrote and forgets what it made obsolete, which nothing but old versions reads.
    pub(crate) fn apply(&self, changes: &StateChanges) {
        let mut cache = self.0.lock();
        for key in &changes.stale {
            cache.remove(key);
        }
        for ((key, _), node) in changes.nodes.iter().zip(&changes.decoded) {
            cache.insert(*key, Arc::clone(node));
        }
    }

    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }
}

/// Versions of an element that are kept beside the newest one. The block validator reads the state a few blocks
/// below the newest, for the same accounts that change in every block.
const RECENT_VERSIONS: u64 = 16;

/// Recent value records of elements: enough to answer a read at the newest version and a few below it.
pub(crate) struct ValueCache(Mutex<Values>);

struct Values {
    /// The newest version; answers above it are not known.
    newest: Option<Height>,
    /// Records of an element in falling order of version. The last one is the newest record at or below the oldest
    /// version that the entry can answer for.
    records: Generations<StateKey, Vec<VersionedValue>>,
}

impl ValueCache {
    pub(crate) fn new(capacity: usize) -> Self {
        Self(Mutex::new(Values { newest: None, records: Generations::new(capacity) }))
    }

    /// The record that is in force at `at`, or `None` if the cache cannot tell. The inner value is `None` for an
    /// element that is absent.
    pub(crate) fn get(&self, key: &StateKey, at: Height) -> Option<Option<Vec<u8>>> {
        let mut values = self.0.lock();
        if values.newest? < at {
            return None;
        }
        let records = values.records.get_mut(key)?;
        records.iter().find(|record| record.since <= at).map(|record| record.value.clone())
    }

    /// Remembers what the store answered for `key` at `at`, if `at` is still the newest version.
    pub(crate) fn loaded(&self, key: StateKey, at: Height, record: Option<VersionedValue>) {
        let mut values = self.0.lock();
        if values.newest == Some(at) {
            // No record means absent ever since the oldest version that can be read.
            let record = record.unwrap_or(VersionedValue { since: Height::ZERO, value: None });
            values.records.insert(key, vec![record]);
        }
    }

    /// Adds the next version. Anything but the next one empties the cache first.
    pub(crate) fn apply(&self, changes: &StateChanges) {
        let mut values = self.0.lock();
        let version = changes.version();
        if values.newest.is_some_and(|newest| newest.next() != version) {
            values.records.clear();
        }
        values.newest = Some(version);
        let oldest = version.minus(RECENT_VERSIONS);
        for (key, value) in changes.values() {
            let record = VersionedValue { since: version, value: value.clone() };
            if let Some(records) = values.records.get_mut(key) {
                records.insert(0, record);
                let needed = records.iter().position(|record| record.since <= oldest);
                records.truncate(needed.map_or(records.len(), |last| last + 1));
            } else {
                values.records.insert(*key, vec![record]);
            }
        }
    }

    pub(crate) fn reset(&self, newest: Option<Height>) {
        let mut values = self.0.lock();
        values.records.clear();
        values.newest = newest;
    }
}

/// Analysed code by hash.
pub(crate) struct CodeCache(Mutex<Generations<B256, Bytecode>>);

impl CodeCache {
    pub(crate) fn new(capacity: usize) -> Self {
        Self(Mutex::new(Generations::new(capacity)))
    }

    pub(crate) fn get(&self, hash: &B256) -> Option<Bytecode> {
        self.0.lock().get_mut(hash).cloned()
    }

    pub(crate) fn insert(&self, hash: B256, code: Bytecode) {
        self.0.lock().insert(hash, code);
    }
}
