//! The state tree: one update per block, and proofs at any version that the store still has.
//!
//! The tree is `jmt`'s Jellyfish Merkle tree: nodes with 16 children, keyed by (version, path), so that every version
//! shares with the one before it whatever did not change. The root is a function of the content alone, not of the
//! order or grouping of the updates that led to it, which a property test checks against a naive reference.
//!
//! Two ways lead to the same root: a version without deletions goes through `jmt`'s batch insertion, which hashes each
//! inner node once per version; one with deletions goes key by key, because the batch insertion knows none.

use std::sync::Arc;

use alloy_primitives::B256;
use cascade_primitives::Height;
use jmt::{
    KeyHash, OwnedValue, Sha256Jmt,
    storage::{LeafNode, Node, NodeKey, TreeReader, TreeUpdateBatch},
};

use crate::{
    cache::NodeCache,
    proof::{EMPTY_ROOT, PathEnd, StateProof, hash_inner},
    store::{StateKey, StateStore, StoreError, TreeNodeKey, ValueChange},
};

/// The tree over a store, read through a cache of nodes.
pub(crate) struct Tree<'a> {
    store: &'a dyn StateStore,
    nodes: &'a NodeCache,
}

/// What one version adds to the tree.
pub(crate) struct TreeUpdate {
    pub(crate) root: B256,
    /// In order of key.
    pub(crate) nodes: Vec<(TreeNodeKey, Arc<Node>)>,
    /// In order of key.
    pub(crate) stale: Vec<TreeNodeKey>,
}

impl<'a> Tree<'a> {
    pub(crate) const fn new(store: &'a dyn StateStore, nodes: &'a NodeCache) -> Self {
        Self { store, nodes }
    }

    /// Applies the changes (in order of key, each key once) on top of version `version - 1`.
    pub(crate) fn update(&self, version: Height, changes: &[ValueChange]) -> Result<TreeUpdate, StoreError> {
        debug_assert!(changes.windows(2).all(|pair| pair[0].0 < pair[1].0));
        if changes.is_empty() && version > Height::ZERO {
            return self.carry_over(version);
        }
        let jmt = Sha256Jmt::new(self);
        let (root, batch) = if !changes.is_empty() && changes.iter().all(|(_, value)| value.is_some()) {
            let set = changes.iter().filter_map(|(key, value)| Some((KeyHash(key.0.0), value.clone()?))).collect();
            let (roots, batch) =
                jmt.batch_put_value_sets(vec![set], None, version.0).map_err(|error| store_error("update", error))?;
            (*roots.first().expect("one value set gives one root"), batch)
        } else {
            let set = changes.iter().map(|(key, value)| (KeyHash(key.0.0), value.clone()));
            jmt.put_value_set(set, version.0).map_err(|error| store_error("update", error))?
        };
        Ok(self.collect(version, B256::from(root.0), batch))
    }

    /// An empty version: the same root node under a new key.
    fn carry_over(&self, version: Height) -> Result<TreeUpdate, StoreError> {
        let old = root_key(version.minus(1));
        let node = self.node(&old)?.ok_or_else(|| missing_root(version.minus(1)))?;
        Ok(TreeUpdate { root: node_hash(&node), nodes: vec![(root_key(version), node)], stale: vec![old] })
    }

    fn collect(&self, version: Height, root: B256, batch: TreeUpdateBatch) -> TreeUpdate {
        let nodes = batch.node_batch.nodes().iter();
        let mut nodes: Vec<_> = nodes.map(|(key, node)| (tree_node_key(key), Arc::new(node.clone()))).collect();
        nodes.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut stale: Vec<_> = batch.stale_node_index_batch.iter().map(|s| tree_node_key(&s.node_key)).collect();
        if version > Height::ZERO {
            // `jmt` does not count the root of an empty tree as stale.
            stale.push(root_key(version.minus(1)));
        }
        stale.sort_unstable();
        stale.dedup();
        TreeUpdate { root, nodes, stale }
    }

    /// The root of a version.
    pub(crate) fn root(&self, version: Height) -> Result<B256, StoreError> {
        let root = self.node(&root_key(version))?;
        root.map(|node| node_hash(&node)).ok_or_else(|| missing_root(version))
    }

    /// Proves that `key` is, or is not, in the tree at `version`.
    pub(crate) fn prove(&self, version: Height, key: &StateKey) -> Result<StateProof, StoreError> {
        let mut siblings = Vec::new();
        let mut path: Vec<u8> = Vec::with_capacity(16);
        let mut node_version = version;
        let end = loop {
            let node_key = TreeNodeKey::new(node_version.0, path.iter().copied());
            match self.node(&node_key)?.as_deref() {
                Some(Node::Internal(node)) => {
                    if path.len() == 64 {
                        return Err(StoreError::new("prove", "an inner node below the last nibble"));
                    }
                    let mut children: [Option<ChildRef>; 16] = [None; 16];
                    for (nibble, child) in node.children_unsorted() {
                        children[nibble.as_usize()] = Some((child.hash.into(), child.version, child.is_leaf()));
                    }
                    let byte = key.0[path.len() / 2];
                    let wanted = usize::from(if path.len().is_multiple_of(2) { byte >> 4 } else { byte & 15 });
                    match descend(&children, wanted, &mut siblings) {
                        Some((nibble, version)) => {
                            path.push(nibble);
                            node_version = Height(version);
                        }
                        None => break PathEnd::Empty,
                    }
                }
                Some(Node::Leaf(leaf)) => break self.leaf_end(version, key, leaf)?,
                Some(Node::Null) if path.is_empty() => break PathEnd::Empty,
                None if path.is_empty() => return Err(missing_root(version)),
                Some(Node::Null) | None => {
                    return Err(StoreError::new("prove", format!("node {node_key:?} is missing")));
                }
            }
        };
        siblings.reverse();
        Ok(StateProof { end, siblings })
    }

    fn leaf_end(&self, version: Height, key: &StateKey, leaf: &LeafNode) -> Result<PathEnd, StoreError> {
        let found = StateKey(B256::from(leaf.key_hash().0));
        if found != *key {
            return Ok(PathEnd::OtherLeaf { key: found, value_hash: value_hash(leaf) });
        }
        let value = self.store.value(key, version)?.and_then(|record| record.value);
        let value = value.ok_or_else(|| StoreError::new("prove", format!("no value for the leaf {key:?}")))?;
        Ok(PathEnd::Value(value.into()))
    }

    fn node(&self, key: &TreeNodeKey) -> Result<Option<Arc<Node>>, StoreError> {
        if let Some(node) = self.nodes.get(key) {
            return Ok(Some(node));
        }
        let Some(bytes) = self.store.node(key)? else { return Ok(None) };
        let node = Arc::new(decode_node(&bytes)?);
        self.nodes.insert(key.clone(), Arc::clone(&node));
        Ok(Some(node))
    }
}

/// Hash, version and whether it is a leaf.
type ChildRef = (B256, u64, bool);

/// Walks the four binary levels inside an inner node towards the child at `wanted`, from the top, and appends the
/// sibling of each level. Ends early, at the only leaf of a half, as the tree's hashing does.
fn descend(children: &[Option<ChildRef>; 16], wanted: usize, siblings: &mut Vec<B256>) -> Option<(u8, u64)> {
    let (mut start, mut width) = (0, 16);
    while width > 1 {
        width /= 2;
        let upper = wanted >= start + width;
        let (mine, other) = if upper { (start + width, start) } else { (start, start + width) };
        siblings.push(subtree_hash(children, other, width));
        start = mine;
        let mut present = (start..start + width).filter_map(|i| children[i].map(|child| (i, child)));
        match (present.next(), present.next()) {
            (None, _) => return None,
            (Some((i, (_, version, true))), None) => return Some((nibble(i), version)),
            _ => {}
        }
    }
    children[start].map(|(_, version, _)| (nibble(start), version))
}

fn nibble(i: usize) -> u8 {
    u8::try_from(i).expect("one of sixteen children")
}

fn subtree_hash(children: &[Option<ChildRef>; 16], start: usize, width: usize) -> B256 {
    let mut present = children[start..start + width].iter().flatten();
    match (present.next(), present.next()) {
        (None, _) => EMPTY_ROOT,
        (Some((hash, _, is_leaf)), None) if *is_leaf || width == 1 => *hash,
        _ => {
            hash_inner(&subtree_hash(children, start, width / 2), &subtree_hash(children, start + width / 2, width / 2))
        }
    }
}

fn root_key(version: Height) -> TreeNodeKey {
    TreeNodeKey::new(version.0, std::iter::empty())
}

fn tree_node_key(key: &NodeKey) -> TreeNodeKey {
    let path = key.nibble_path();
    TreeNodeKey::new(key.version(), (0..path.num_nibbles()).map(|i| u8::from(path.get_nibble(i))))
}

fn node_hash(node: &Node) -> B256 {
    match node {
        Node::Null => EMPTY_ROOT,
        Node::Internal(node) => node.hash::<sha2::Sha256>().into(),
        Node::Leaf(node) => node.hash::<sha2::Sha256>().into(),
    }
}

/// The hash of a leaf's value, which `jmt` keeps to itself but writes into the leaf's encoding: key, then value hash.
fn value_hash(leaf: &LeafNode) -> B256 {
    let bytes = borsh::to_vec(leaf).expect("writing to memory does not fail");
    B256::from_slice(&bytes[32..64])
}

pub(crate) fn encode_node(node: &Node) -> Vec<u8> {
    borsh::to_vec(node).expect("writing to memory does not fail")
}

fn decode_node(bytes: &[u8]) -> Result<Node, StoreError> {
    borsh::from_slice(bytes).map_err(|error| StoreError::new("decode node", error))
}

fn missing_root(version: Height) -> StoreError {
    StoreError::new("read tree", format!("version {version} has no root; it was pruned or does not exist yet"))
}

fn store_error(operation: &'static str, error: anyhow::Error) -> StoreError {
    match error.downcast::<StoreError>() {
        Ok(error) => error,
        Err(error) => StoreError::new(operation, format!("{error:#}")),
    }
}

impl TreeReader for Tree<'_> {
    fn get_node_option(&self, node_key: &NodeKey) -> anyhow::Result<Option<Node>> {
        Ok(self.node(&tree_node_key(node_key))?.map(|node| (*node).clone()))
    }

    fn get_value_option(&self, max_version: u64, key_hash: KeyHash) -> anyhow::Result<Option<OwnedValue>> {
        let key = StateKey(B256::from(key_hash.0));
        Ok(self.store.value(&key, Height(max_version))?.and_then(|record| record.value))
    }

    fn get_rightmost_leaf(&self) -> anyhow::Result<Option<(NodeKey, LeafNode)>> {
        anyhow::bail!("only restoring a tree from a snapshot asks for the rightmost leaf")
    }
}

#[cfg(test)]
mod tests;
