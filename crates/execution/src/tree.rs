//! The state tree: one update per block, and proofs at any version that the store still has.
//!
//! A binary sparse Merkle tree (its hashing is in [`crate::proof`]), kept in pages of four levels ([`page`]). A page is
//! written once, under its version and path, and never changed; a version shares with the one before it whatever did
//! not change:
//!
//! ```text
//!  version 7:   root ----+---------+              version 8:   root'----+---------+
//!                        |         |                                    |         |
//!               page 0@7 .     page f@3                    page 0@8 .        page f@3   (the same record)
//!               /   |    \                                   /   |    \
//!             leaf leaf  page 02@5                         leaf leaf' page 02@5
//! ```
//!
//! The root is a function of the content alone, not of the order or grouping of the updates that led to it: a page exists
//! exactly where two elements or more share its path, and at the root. Property tests check that against a naive
//! reference and against the `jmt` crate.
//!
//! An update goes through the tree once, with the block's changes in order of key: each page that one of them touches is
//! read once, written once, and of its binary nodes only those above a change are hashed.

mod page;

use std::sync::Arc;

use alloy_primitives::B256;
use cascade_primitives::Height;

pub(crate) use page::Page;

use crate::{
    cache::NodeCache,
    proof::{PathEnd, StateProof, hash_leaf, hash_value},
    store::{StateKey, StateStore, StoreError, TreeNodeKey, ValueChange},
};
use page::{Child, ChildKind, PageBuilder};

/// Places for children in a page.
const PLACES: u8 = 16;
/// Nibbles of a key: no page is that deep, since keys differ.
const MAX_DEPTH: usize = 64;

/// The tree over a store, read through a cache of pages.
pub(crate) struct Tree<'a> {
    store: &'a dyn StateStore,
    nodes: &'a NodeCache,
}

/// What one version adds to the tree.
pub(crate) struct TreeUpdate {
    pub(crate) root: B256,
    /// In order of key.
    pub(crate) nodes: Vec<(TreeNodeKey, Arc<Page>)>,
    /// In order of key.
    pub(crate) stale: Vec<TreeNodeKey>,
}

/// An element and the hash of its new leaf; none deletes it.
struct Change {
    key: StateKey,
    leaf: Option<B256>,
}

impl<'a> Tree<'a> {
    pub(crate) const fn new(store: &'a dyn StateStore, nodes: &'a NodeCache) -> Self {
        Self { store, nodes }
    }

    /// Applies the changes (in order of key, each key once) on top of version `version - 1`.
    pub(crate) fn update(&self, version: Height, changes: &[ValueChange]) -> Result<TreeUpdate, StoreError> {
        debug_assert!(changes.windows(2).all(|pair| pair[0].0 < pair[1].0));
        let leaf = |key: &StateKey, value: &[u8]| hash_leaf(key, &hash_value(value));
        let changes: Vec<Change> = changes
            .iter()
            .map(|(key, value)| Change { key: *key, leaf: value.as_deref().map(|value| leaf(key, value)) })
            .collect();
        let (old, stale) = if version == Height::ZERO {
            (Arc::new(Page::EMPTY), Vec::new())
        } else {
            let below = version.minus(1);
            (self.root_page(below)?, vec![root_key(below)])
        };
        let mut pass = Pass { tree: self, version, nodes: Vec::new(), stale };
        let root = pass.rebuild(0, &old, &changes)?.map_or(old, Arc::new);
        let Pass { mut nodes, mut stale, .. } = pass;
        let hash = root.hash();
        nodes.push((root_key(version), root));
        nodes.sort_unstable_by_key(|(key, _)| *key);
        stale.sort_unstable();
        Ok(TreeUpdate { root: hash, nodes, stale })
    }

    /// The root of a version.
    pub(crate) fn root(&self, version: Height) -> Result<B256, StoreError> {
        Ok(self.root_page(version)?.hash())
    }

    /// Proves that `key` is, or is not, in the tree at `version`.
    pub(crate) fn prove(&self, version: Height, key: &StateKey) -> Result<StateProof, StoreError> {
        let mut siblings = Vec::new();
        let mut page = self.root_page(version)?;
        let mut depth = 0;
        let end = loop {
            let child = descend(&page, nibble(key, depth), &mut siblings);
            depth += 1;
            match child.map(|child| child.kind) {
                None => break PathEnd::Empty,
                Some(ChildKind::Leaf(found)) => break self.leaf_end(version, key, found)?,
                Some(ChildKind::Page(version)) => page = self.page_at(version, key, depth)?,
            }
        };
        siblings.reverse();
        Ok(StateProof { end, siblings })
    }

    fn leaf_end(&self, version: Height, key: &StateKey, found: StateKey) -> Result<PathEnd, StoreError> {
        let value = self.store.value(&found, version)?.and_then(|record| record.value);
        let value = value.ok_or_else(|| StoreError::new("prove", format!("no value for the leaf {found:?}")))?;
        Ok(if found == *key {
            PathEnd::Value(value.into())
        } else {
            PathEnd::OtherLeaf { key: found, value_hash: hash_value(&value) }
        })
    }

    fn root_page(&self, version: Height) -> Result<Arc<Page>, StoreError> {
        self.page(&root_key(version))?.ok_or_else(|| {
            let reason = format!("version {version} has no root; it was pruned or does not exist yet");
            StoreError::new("read tree", reason)
        })
    }

    /// The page at the first `depth` nibbles of `key`.
    fn page_at(&self, version: u64, key: &StateKey, depth: usize) -> Result<Arc<Page>, StoreError> {
        if depth >= MAX_DEPTH {
            return Err(StoreError::new("read tree", "a page below the last nibble"));
        }
        let key = TreeNodeKey::new(version, key, depth);
        self.page(&key)?.ok_or_else(|| StoreError::new("read tree", format!("page {key:?} is missing")))
    }

    fn page(&self, key: &TreeNodeKey) -> Result<Option<Arc<Page>>, StoreError> {
        if let Some(page) = self.nodes.get(key) {
            return Ok(Some(page));
        }
        let Some(bytes) = self.store.node(key)? else { return Ok(None) };
        let page = Page::from_bytes(&bytes).map_err(|error| StoreError::new("decode page", error))?;
        let page = Arc::new(page);
        self.nodes.insert(*key, Arc::clone(&page));
        Ok(Some(page))
    }
}

/// An update under way.
struct Pass<'a> {
    tree: &'a Tree<'a>,
    version: Height,
    nodes: Vec<(TreeNodeKey, Arc<Page>)>,
    stale: Vec<TreeNodeKey>,
}

impl Pass<'_> {
    /// The page at `depth` with the changes, all of which lie below it; `None` if they change nothing.
    fn rebuild(&mut self, depth: usize, old: &Page, changes: &[Change]) -> Result<Option<Page>, StoreError> {
        let mut builder = PageBuilder::new(old);
        for (place, changes) in by_place(depth, changes) {
            let child = old.child(place).copied();
            builder.put(place, if changes.is_empty() { child } else { self.child(depth + 1, child, changes)? });
        }
        Ok(builder.finish())
    }

    /// What stands at `depth`, where `old` stood, after at least one change.
    fn child(&mut self, depth: usize, old: Option<Child>, changes: &[Change]) -> Result<Option<Child>, StoreError> {
        let new = || changes.iter().filter_map(|change| Some((change.key, change.leaf?)));
        match old.map(|old| (old, old.kind)) {
            None => Ok(self.build(depth, &new().collect::<Vec<_>>())),
            Some((old, ChildKind::Leaf(key))) => {
                if let [Change { key: only, leaf }] = changes
                    && *only == key
                {
                    return Ok(leaf.map(|leaf| Child::leaf(key, leaf)));
                }
                let mut leaves: Vec<_> = new().collect();
                if changes.binary_search_by_key(&key, |change| change.key).is_err() {
                    leaves.insert(leaves.partition_point(|(other, _)| *other < key), (key, old.hash));
                }
                Ok(self.build(depth, &leaves))
            }
            Some((old, ChildKind::Page(version))) => {
                let at = &changes[0].key;
                let page = self.tree.page_at(version, at, depth)?;
                let Some(next) = self.rebuild(depth, &page, changes)? else { return Ok(Some(old)) };
                self.stale.push(TreeNodeKey::new(version, at, depth));
                Ok(if next.is_empty() { None } else { Some(self.put(depth, at, next)) })
            }
        }
    }

    /// A subtree of these leaves, in order of key.
    fn build(&mut self, depth: usize, leaves: &[(StateKey, B256)]) -> Option<Child> {
        match leaves {
            [] => None,
            [(key, hash)] => Some(Child::leaf(*key, *hash)),
            [(first, _), ..] => {
                let nothing = Page::EMPTY;
                let mut builder = PageBuilder::new(&nothing);
                let mut rest = leaves;
                for place in 0..PLACES {
                    let own;
                    (own, rest) = rest.split_at(rest.iter().take_while(|(key, _)| nibble(key, depth) == place).count());
                    builder.put(place, self.build(depth + 1, own));
                }
                let page = builder.finish().expect("it has two leaves more than an empty page");
                Some(self.put(depth, first, page))
            }
        }
    }

    /// Takes a page below the root into the new version, unless a single leaf is left of it.
    fn put(&mut self, depth: usize, at: &StateKey, page: Page) -> Child {
        if let Some(leaf) = page.lone_leaf() {
            return leaf;
        }
        let child = Child { hash: page.hash(), kind: ChildKind::Page(self.version.0) };
        self.nodes.push((TreeNodeKey::new(self.version.0, at, depth), Arc::new(page)));
        child
    }
}

/// The changes below each place of a page at `depth`.
fn by_place(depth: usize, changes: &[Change]) -> impl Iterator<Item = (u8, &[Change])> {
    let mut rest = changes;
    (0..PLACES).map(move |place| {
        let own;
        (own, rest) = rest.split_at(rest.iter().take_while(|change| nibble(&change.key, depth) == place).count());
        (place, own)
    })
}

/// Walks the four binary levels of a page towards a place, from the top, and appends the sibling of each level. Ends
/// early, at the only leaf of a half, as the tree's hashing does.
fn descend(page: &Page, place: u8, siblings: &mut Vec<B256>) -> Option<Child> {
    if page.is_empty() {
        return None;
    }
    if let Some(leaf) = page.lone_leaf() {
        return Some(leaf);
    }
    let (mut start, mut width) = (0, PLACES);
    while width > 1 {
        width /= 2;
        let upper = place >= start + width;
        let (mine, other) = if upper { (start + width, start) } else { (start, start + width) };
        siblings.push(page.subtree(other, width));
        start = mine;
        if page.has_none(start, width) {
            return None;
        }
        if let Some((_, child @ Child { kind: ChildKind::Leaf(_), .. })) = page.only_child(start, width) {
            return Some(*child);
        }
    }
    page.child(start).copied()
}

const fn nibble(key: &StateKey, depth: usize) -> u8 {
    let byte = key.0.0[depth / 2];
    if depth.is_multiple_of(2) { byte >> 4 } else { byte & 15 }
}

fn root_key(version: Height) -> TreeNodeKey {
    TreeNodeKey::new(version.0, &StateKey(B256::ZERO), 0)
}

#[cfg(test)]
mod tests;
