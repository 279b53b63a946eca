//! A [`StateStore`] in memory, for tests, the simulator and tools.

use std::{collections::BTreeMap, ops::RangeInclusive};

use alloy_primitives::B256;
use bytes::Bytes;
use cascade_primitives::Height;
use parking_lot::RwLock;

use crate::store::{
    StateChanges, StateKey, StateStore, StateStoreMut, StoreError, TreeNodeKey, VersionIndex, VersionedValue,
};

#[derive(Clone, Debug, Default)]
struct Maps {
    nodes: BTreeMap<TreeNodeKey, Vec<u8>>,
    values: BTreeMap<(StateKey, Height), Option<Vec<u8>>>,
    codes: BTreeMap<B256, Bytes>,
    index: BTreeMap<Height, VersionIndex>,
    versions: Option<(Height, Height)>,
}

/// All versions of the state, in memory. Follows the rules in the doc of [`crate::store`] to the letter.
#[derive(Debug, Default)]
pub struct MemoryStore {
    maps: RwLock<Maps>,
}

impl Clone for MemoryStore {
    /// An independent copy, as if the store had been closed, copied and opened again.
    fn clone(&self) -> Self {
        Self { maps: RwLock::new(self.maps.read().clone()) }
    }
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Numbers of nodes, value records, codes and index records, for tests and metrics.
    #[must_use]
    pub fn counts(&self) -> [usize; 4] {
        let maps = self.maps.read();
        [maps.nodes.len(), maps.values.len(), maps.codes.len(), maps.index.len()]
    }
}

impl StateStore for MemoryStore {
    fn versions(&self) -> Result<Option<RangeInclusive<Height>>, StoreError> {
        Ok(self.maps.read().versions.map(|(oldest, newest)| oldest..=newest))
    }

    fn node(&self, key: &TreeNodeKey) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.maps.read().nodes.get(key).cloned())
    }

    fn value(&self, key: &StateKey, at: Height) -> Result<Option<VersionedValue>, StoreError> {
        let maps = self.maps.read();
        let newest = maps.values.range((*key, Height::ZERO)..=(*key, at)).next_back();
        Ok(newest.map(|((_, since), value)| VersionedValue { since: *since, value: value.clone() }))
    }

    fn code(&self, hash: &B256) -> Result<Option<Bytes>, StoreError> {
        Ok(self.maps.read().codes.get(hash).cloned())
    }
}

impl StateStoreMut for MemoryStore {
    fn apply(&self, changes: &StateChanges) -> Result<(), StoreError> {
        let mut maps = self.maps.write();
        let version = changes.version();
        let oldest = match maps.versions {
            Some((oldest, newest)) if version == newest.next() => oldest,
            Some((_, newest)) => {
                let reason = format!("version {version} does not follow {newest}");
                return Err(StoreError::new("apply", reason));
            }
            None => version,
        };
        maps.nodes.extend(changes.nodes().iter().cloned());
        maps.values.extend(changes.values().iter().map(|(key, value)| ((*key, version), value.clone())));
        maps.codes.extend(changes.codes().iter().cloned());
        maps.index.insert(version, changes.index());
        maps.versions = Some((oldest, version));
        Ok(())
    }

    fn revert_to(&self, version: Height) -> Result<(), StoreError> {
        let mut maps = self.maps.write();
        let (oldest, newest) = readable(&maps, version, "revert")?;
        for above in version.0 + 1..=newest.0 {
            let above = Height(above);
            let index = maps.index.remove(&above).ok_or_else(|| missing_index("revert", above))?;
            for key in index.touched {
                maps.values.remove(&(key, above));
            }
        }
        maps.nodes.retain(|key, _| key.version() <= version);
        maps.versions = Some((oldest, version));
        Ok(())
    }

    fn prune_below(&self, version: Height) -> Result<(), StoreError> {
        let mut maps = self.maps.write();
        let (oldest, newest) = readable(&maps, version, "prune")?;
        for at in oldest.0..=version.0 {
            let at = Height(at);
            let index = maps.index.get(&at).cloned().ok_or_else(|| missing_index("prune", at))?;
            for key in &index.stale {
                maps.nodes.remove(key);
            }
            for key in &index.touched {
                let older: Vec<_> = maps.values.range((*key, Height::ZERO)..(*key, at)).map(|(key, _)| *key).collect();
                for record in older {
                    maps.values.remove(&record);
                }
                if maps.values.get(&(*key, at)) == Some(&None) {
                    maps.values.remove(&(*key, at));
                }
            }
            if at < version {
                maps.index.remove(&at);
            }
        }
        maps.versions = Some((version, newest));
        Ok(())
    }
}

fn readable(maps: &Maps, version: Height, operation: &'static str) -> Result<(Height, Height), StoreError> {
    match maps.versions {
        Some((oldest, newest)) if oldest <= version && version <= newest => Ok((oldest, newest)),
        Some((oldest, newest)) => {
            Err(StoreError::new(operation, format!("version {version} is outside {oldest} to {newest}")))
        }
        None => Err(StoreError::new(operation, format!("version {version} of an empty store"))),
    }
}

fn missing_index(operation: &'static str, version: Height) -> StoreError {
    StoreError::new(operation, format!("no index of version {version}"))
}
