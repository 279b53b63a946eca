//! What execution needs of a store, and what it hands to one.
//!
//! Execution reads through [`StateStore`] and never writes: a block's effect leaves it as [`StateChanges`], which the
//! store puts into the same atomic batch as the rest of the block. A *version* of the state is the height of the
//! block that made it; genesis is version 0 and every block makes exactly one version, an empty block too.
//!
//! Four maps hold all versions at once:
//!
//! ```text
//!  nodes   node key            -> page bytes       a key starts with the version that made the page (8 bytes, big
//!                                                  endian), so all pages of a version are one contiguous range
//!  values  (state key, version) -> value or absent  "absent" is a record of its own: the element was deleted
//!  codes   code hash            -> code             by content; never deleted
//!  index   version              -> VersionIndex     what the version wrote and what it made obsolete
//! ```
//!
//! The maps' rules, which [`crate::MemoryStore`] implements and any other store must follow:
//!
//! - **apply** `c`: refused unless `c.version()` is the newest version + 1 (or the store is empty). Then, atomically:
//!   insert `c.nodes()`, `c.values()` at `c.version()`, `c.codes()`, and `c.index()` at `c.version()`.
//! - **revert to** `v`: for every version `w > v`: delete every node whose key starts with `w`, delete the value
//!   records `(key, w)` for the keys in `index[w].touched`, delete `index[w]`. Afterwards the newest version is `v` and
//!   every version that is left reads exactly as before. Codes stay: they are found by their content alone.
//! - **prune below** `v`: for every version `w` from the oldest kept up to and including `v`, in rising order: delete
//!   the nodes in `index[w].stale` (they are not part of the tree from `w` on), and for each key in
//!   `index[w].touched` delete its value records at versions below `w`, and the one at `w` too if it is "absent";
//!   then delete `index[w]` for `w < v` only. Afterwards the oldest readable version is `v`; versions from `v` on read
//!   exactly as before. (`index[v]` is kept because later pruning starts at `v`; doing its work twice is harmless.)

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    ops::RangeInclusive,
    sync::Arc,
};

use alloy_primitives::B256;
use bytes::Bytes;
use cascade_primitives::{Decode, DecodeError, Encode, Height, Reader, codec::encode_list};
use thiserror::Error;

use crate::tree::{Page, TreeUpdate};

/// Longest node key in bytes: version, number of nibbles, 64 nibbles.
pub const MAX_NODE_KEY_BYTES: usize = 8 + 1 + 32;

/// Longest value in the state tree in bytes (an account: nonce, balance, code hash).
pub const MAX_VALUE_BYTES: usize = 72;

/// Most elements that one version can touch or make stale; bounds a decoder, no block comes near it.
const MAX_INDEX_ENTRIES: usize = 1 << 26;

/// The key of an account or slot in the state tree: see [`crate::keys`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateKey(pub B256);

impl fmt::Debug for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateKey({})", self.0)
    }
}

impl Encode for StateKey {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
}

impl Decode for StateKey {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(B256::decode(r)?))
    }
}

/// The key of a page of the state tree: version (8 bytes, big endian), number of nibbles (1 byte), nibbles (two in a
/// byte, high one first). A store may rely on the first 8 bytes and on nothing else.
#[derive(Clone, Copy)]
pub struct TreeNodeKey {
    length: u8,
    bytes: [u8; MAX_NODE_KEY_BYTES],
}

impl TreeNodeKey {
    /// The page at the first `nibbles` nibbles of `key`, at most 64.
    pub(crate) fn new(version: u64, key: &StateKey, nibbles: usize) -> Self {
        let mut bytes = [0; MAX_NODE_KEY_BYTES];
        bytes[..8].copy_from_slice(&version.to_be_bytes());
        bytes[8] = u8::try_from(nibbles).expect("a path has at most 64 nibbles");
        let path = nibbles.div_ceil(2);
        bytes[9..9 + path].copy_from_slice(&key.0[..path]);
        if nibbles % 2 == 1 {
            bytes[8 + path] &= 0xf0;
        }
        Self { length: 9 + bytes[8].div_ceil(2), bytes }
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// The version that made the page.
    #[must_use]
    pub fn version(&self) -> Height {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.bytes[..8]);
        Height(u64::from_be_bytes(bytes))
    }

    /// The bytes that all keys of a version start with.
    #[must_use]
    pub const fn prefix(version: Height) -> [u8; 8] {
        version.0.to_be_bytes()
    }
}

impl PartialEq for TreeNodeKey {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for TreeNodeKey {}

impl PartialOrd for TreeNodeKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TreeNodeKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl Hash for TreeNodeKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Debug for TreeNodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TreeNodeKey({}:{})", self.version(), alloy_primitives::hex::encode(&self.as_bytes()[9..]))
    }
}

impl Encode for TreeNodeKey {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.length);
        out.extend_from_slice(self.as_bytes());
    }
}

impl Decode for TreeNodeKey {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let length = u8::decode(r.field("node key"))?;
        let taken = r.take(usize::from(length))?;
        let nibbles = taken.get(8).copied().unwrap_or(u8::MAX);
        if nibbles > 64 || length != 9 + nibbles.div_ceil(2) {
            return Err(r.error(cascade_primitives::DecodeErrorKind::NotCanonical(
                "a node key is a version, a count of at most 64 nibbles and the nibbles",
            )));
        }
        let mut bytes = [0; MAX_NODE_KEY_BYTES];
        bytes[..taken.len()].copy_from_slice(taken);
        Ok(Self { length, bytes })
    }
}

/// A value record: the version that wrote it and what it wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionedValue {
    /// The version that wrote the record.
    pub since: Height,
    /// The value, or `None` where the element was deleted.
    pub value: Option<Vec<u8>>,
}

/// A store that failed: disk, corruption, a version that is not there. Execution stops on it; it is never an outcome
/// of a block.
#[derive(Debug, Error)]
#[error("state store: {operation}: {reason}")]
pub struct StoreError {
    /// What was being done.
    pub operation: &'static str,
    /// Why it failed.
    pub reason: String,
}

impl StoreError {
    /// A failure of `operation`.
    #[must_use]
    pub fn new(operation: &'static str, reason: impl fmt::Display) -> Self {
        Self { operation, reason: reason.to_string() }
    }
}

/// Reads of versioned state. Implementations are shared between threads and return what the last finished write left.
pub trait StateStore: Send + Sync {
    /// The oldest and the newest version that can be read; `None` while the store is empty.
    ///
    /// # Errors
    /// If the store fails.
    fn versions(&self) -> Result<Option<RangeInclusive<Height>>, StoreError>;

    /// The bytes of a node of the tree.
    ///
    /// # Errors
    /// If the store fails.
    fn node(&self, key: &TreeNodeKey) -> Result<Option<Vec<u8>>, StoreError>;

    /// The newest value record of `key` whose version is at most `at`; `None` if there is no record.
    ///
    /// # Errors
    /// If the store fails.
    fn value(&self, key: &StateKey, at: Height) -> Result<Option<VersionedValue>, StoreError>;

    /// The code with a hash (Keccak-256).
    ///
    /// # Errors
    /// If the store fails.
    fn code(&self, hash: &B256) -> Result<Option<Bytes>, StoreError>;
}

/// Writes of versioned state, as the module's doc defines them.
///
/// A node writes [`StateChanges`] in the same batch as the block they belong to; this trait is for what needs nothing
/// but state: tests, the simulator, tools.
pub trait StateStoreMut: StateStore {
    /// Adds the next version.
    ///
    /// # Errors
    /// If it is not the next one, or the store fails.
    fn apply(&self, changes: &StateChanges) -> Result<(), StoreError>;

    /// Removes every version above `version`.
    ///
    /// # Errors
    /// If `version` cannot be read, or the store fails.
    fn revert_to(&self, version: Height) -> Result<(), StoreError>;

    /// Removes what only versions below `version` need.
    ///
    /// # Errors
    /// If `version` cannot be read, or the store fails.
    fn prune_below(&self, version: Height) -> Result<(), StoreError>;
}

/// What a version wrote and what it made obsolete: enough to revert it and to prune below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionIndex {
    /// Elements that have a value record at this version, in order.
    pub touched: Vec<StateKey>,
    /// Nodes of older versions that are not part of the tree from this version on, in order.
    pub stale: Vec<TreeNodeKey>,
}

impl Encode for VersionIndex {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_list(&self.touched, out);
        encode_list(&self.stale, out);
    }
}

impl Decode for VersionIndex {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            touched: r.field("touched elements").list(MAX_INDEX_ENTRIES)?,
            stale: r.field("stale nodes").list(MAX_INDEX_ENTRIES)?,
        })
    }
}

/// An element and its new value; `None` deletes it.
pub type ValueChange = (StateKey, Option<Vec<u8>>);

/// Everything that a block does to the state. The store writes it without looking inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChanges {
    pub(crate) version: Height,
    pub(crate) root: B256,
    pub(crate) nodes: Vec<(TreeNodeKey, Vec<u8>)>,
    pub(crate) values: Vec<ValueChange>,
    pub(crate) codes: Vec<(B256, Bytes)>,
    pub(crate) stale: Vec<TreeNodeKey>,
    /// The nodes of `nodes`, in the same order, for the cache.
    pub(crate) decoded: Vec<Arc<Page>>,
}

impl StateChanges {
    /// The version that they make: the block's height.
    #[must_use]
    pub const fn version(&self) -> Height {
        self.version
    }

    pub(crate) fn new(
        version: Height,
        update: TreeUpdate,
        values: Vec<ValueChange>,
        codes: Vec<(B256, Bytes)>,
    ) -> Self {
        let TreeUpdate { root, nodes, stale } = update;
        let (keys, decoded): (Vec<_>, Vec<_>) = nodes.into_iter().unzip();
        let nodes = keys.into_iter().zip(decoded.iter().map(|page| page.to_bytes())).collect();
        Self { version, root, nodes, values, codes, stale, decoded }
    }

    /// Root of the state tree after them.
    #[must_use]
    pub const fn root(&self) -> B256 {
        self.root
    }

    /// New nodes of the tree, in order of key.
    #[must_use]
    pub fn nodes(&self) -> &[(TreeNodeKey, Vec<u8>)] {
        &self.nodes
    }

    /// New value records (all at [`Self::version`]), in order of key; `None` is a deletion.
    #[must_use]
    pub fn values(&self) -> &[ValueChange] {
        &self.values
    }

    /// New contract code by hash, in order of hash. Some of it may be in the store already.
    #[must_use]
    pub fn codes(&self) -> &[(B256, Bytes)] {
        &self.codes
    }

    /// The record that reverting and pruning need.
    #[must_use]
    pub fn index(&self) -> VersionIndex {
        VersionIndex { touched: self.values.iter().map(|(key, _)| *key).collect(), stale: self.stale.clone() }
    }
}
