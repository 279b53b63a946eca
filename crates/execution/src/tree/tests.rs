//! The tree against a naive reference that knows nothing of nodes or versions.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use jmt::{
    KeyHash, OwnedValue, Sha256Jmt,
    storage::{LeafNode, Node, NodeKey, TreeReader},
};
use proptest::prelude::*;

use super::*;
use crate::{
    MemoryStore,
    proof::{EMPTY_ROOT, bit, hash_inner, hash_leaf, hash_value},
    store::{StateChanges, StateStoreMut},
};

/// The root by definition: a subtree with one leaf is the leaf, an empty one a constant.
fn reference(leaves: &[(StateKey, Vec<u8>)], depth: usize) -> B256 {
    match leaves {
        [] => EMPTY_ROOT,
        [(key, value)] => hash_leaf(key, &hash_value(value)),
        _ => {
            let split = leaves.partition_point(|(key, _)| !bit(key, depth));
            hash_inner(&reference(&leaves[..split], depth + 1), &reference(&leaves[split..], depth + 1))
        }
    }
}

/// Keys that share long prefixes with each other, so that paths are deep, nodes split, and leaves move.
fn keys() -> impl Strategy<Value = StateKey> {
    (0u8..4, 0usize..33, 0u8..=255, 0u8..3).prop_map(|(first, prefix, byte, last)| {
        let mut key = [first << 6; 32];
        if let Some(at) = key.get_mut(prefix) {
            *at = byte;
        }
        key[31] ^= last;
        StateKey(key.into())
    })
}

fn versions() -> impl Strategy<Value = Vec<BTreeMap<StateKey, Option<Vec<u8>>>>> {
    let value = prop_oneof![3 => prop::collection::vec(any::<u8>(), 1..40).prop_map(Some), 2 => Just(None)];
    let version = prop::collection::btree_map(keys(), value, 0..12);
    let only_puts =
        prop::collection::btree_map(keys(), prop::collection::vec(any::<u8>(), 1..40).prop_map(Some), 0..30);
    prop::collection::vec(prop_oneof![version, only_puts], 1..10)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_root_is_that_of_the_content_and_every_key_is_proved(versions in versions(), asked in prop::collection::vec(keys(), 10)) {
        let store = Arc::new(MemoryStore::new());
        let nodes = NodeCache::new(8);
        let mut content = BTreeMap::new();
        let mut history = Vec::new();
        for (version, changes) in versions.into_iter().enumerate() {
            let version = Height(version as u64);
            for (key, value) in &changes {
                match value {
                    Some(value) => content.insert(*key, value.clone()),
                    None => content.remove(key),
                };
            }
            let changes: Vec<_> = changes.into_iter().collect();
            let update = Tree::new(&*store, &nodes).update(version, &changes).unwrap();
            let leaves: Vec<_> = content.clone().into_iter().collect();
            prop_assert_eq!(update.root, reference(&leaves, 0));
            store.apply(&StateChanges::new(version, update, changes, Vec::new())).unwrap();
            history.push(content.clone());
        }
        let tree = Tree::new(&*store, &nodes);
        for (version, content) in history.iter().enumerate() {
            let version = Height(version as u64);
            let root = tree.root(version).unwrap();
            for key in asked.iter().chain(content.keys()) {
                let proof = tree.prove(version, key).unwrap();
                prop_assert_eq!(proof.verify(&root, key), Ok(content.get(key).map(|value| &value[..])));
            }
        }
    }

    #[test]
    fn roots_and_proofs_are_those_of_jmt(versions in versions(), asked in prop::collection::vec(keys(), 10)) {
        let store = Arc::new(MemoryStore::new());
        let nodes = NodeCache::new(1000);
        let mut other = Jmt::default();
        for (version, changes) in versions.iter().enumerate() {
            let changes: Vec<_> = changes.clone().into_iter().collect();
            let update = Tree::new(&*store, &nodes).update(Height(version as u64), &changes).unwrap();
            prop_assert_eq!(update.root, other.update(version as u64, &changes));
            store.apply(&StateChanges::new(Height(version as u64), update, changes, Vec::new())).unwrap();
        }
        let tree = Tree::new(&*store, &nodes);
        let last = versions.len() as u64 - 1;
        let root = jmt::RootHash(tree.root(Height(last)).unwrap().0);
        for key in asked {
            let (value, theirs) = Sha256Jmt::new(&other).get_with_proof(KeyHash(key.0.0), last).unwrap();
            prop_assert!(theirs.verify(root, KeyHash(key.0.0), value.clone()).is_ok());
            let ours = tree.prove(Height(last), &key).unwrap();
            prop_assert_eq!(ours.verify(&B256::from(root.0), &key), Ok(value.as_deref()));
            // Their encoding: the leaf, then the siblings from the bottom up as preimages of the hashes that ours has.
            let bytes = borsh::to_vec(&theirs).unwrap();
            let leaf = if bytes[0] == 1 { 65 } else { 1 };
            let count = u32::from_le_bytes(bytes[leaf..leaf + 4].try_into().unwrap());
            prop_assert_eq!(count as usize, ours.siblings.len());
        }
    }

    #[test]
    fn the_inner_hashes_that_updates_keep_are_those_of_the_page(versions in versions()) {
        let (store, nodes) = (Arc::new(MemoryStore::new()), NodeCache::new(1000));
        for (version, changes) in versions.iter().enumerate() {
            let changes: Vec<_> = changes.clone().into_iter().collect();
            let update = Tree::new(&*store, &nodes).update(Height(version as u64), &changes).unwrap();
            for (_, page) in &update.nodes {
                let read = Page::from_bytes(&page.to_bytes()).unwrap();
                prop_assert_eq!(&read, &**page);
                prop_assert_eq!(read.hash(), page.hash());
            }
            let changes = StateChanges::new(Height(version as u64), update, changes, Vec::new());
            nodes.apply(&changes);
            store.apply(&changes).unwrap();
        }
    }
}

/// The tree of the `jmt` crate, in memory.
#[derive(Default)]
struct Jmt {
    nodes: HashMap<NodeKey, Node>,
    values: BTreeMap<(KeyHash, u64), Option<OwnedValue>>,
}

impl Jmt {
    fn update(&mut self, version: u64, changes: &[ValueChange]) -> B256 {
        let set: Vec<_> = changes.iter().map(|(key, value)| (KeyHash(key.0.0), value.clone())).collect();
        let (root, batch) = Sha256Jmt::new(&*self).put_value_set(set, version).unwrap();
        self.nodes.extend(batch.node_batch.nodes().iter().map(|(key, node)| (key.clone(), node.clone())));
        let values = batch.node_batch.values().iter();
        self.values.extend(values.map(|((version, key), value)| ((*key, *version), value.clone())));
        root.0.into()
    }
}

impl TreeReader for Jmt {
    fn get_node_option(&self, node_key: &NodeKey) -> anyhow::Result<Option<Node>> {
        Ok(self.nodes.get(node_key).cloned())
    }

    fn get_value_option(&self, max_version: u64, key_hash: KeyHash) -> anyhow::Result<Option<OwnedValue>> {
        let newest = self.values.range((key_hash, 0)..=(key_hash, max_version)).next_back();
        Ok(newest.and_then(|(_, value)| value.clone()))
    }

    fn get_rightmost_leaf(&self) -> anyhow::Result<Option<(NodeKey, LeafNode)>> {
        anyhow::bail!("only restoring a tree from a snapshot asks for the rightmost leaf")
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_store_pruned_to_its_last_version_holds_one_tree_and_its_values(versions in versions(), first: prop::sample::Index) {
        let store = Arc::new(MemoryStore::new());
        let nodes = NodeCache::new(1000);
        let mut content = BTreeMap::new();
        for (version, changes) in versions.iter().enumerate() {
            content.extend(changes.clone());
            let changes: Vec<_> = changes.clone().into_iter().collect();
            let update = Tree::new(&*store, &nodes).update(Height(version as u64), &changes).unwrap();
            store.apply(&StateChanges::new(Height(version as u64), update, changes, Vec::new())).unwrap();
        }
        let last = Height(versions.len() as u64 - 1);
        store.prune_below(Height(first.index(versions.len()) as u64)).unwrap();
        store.prune_below(last).unwrap();
        let content: Vec<_> = content.into_iter().filter(|(_, value)| value.is_some()).collect();
        let fresh = Tree::new(&MemoryStore::new(), &NodeCache::new(1)).update(Height(0), &content).unwrap();
        prop_assert_eq!(Tree::new(&*store, &NodeCache::new(1)).root(last).unwrap(), fresh.root);
        let [nodes, values, _, index] = store.counts();
        prop_assert_eq!((nodes, values, index), (fresh.nodes.len(), content.len(), 1));
    }
}

#[test]
fn a_missing_node_is_an_error_and_no_panic() {
    let (full, nodes) = (Arc::new(MemoryStore::new()), NodeCache::new(1));
    let changes: Vec<_> = (0..100u64)
        .map(|i| (StateKey(alloy_primitives::keccak256(i.to_be_bytes())), Some(vec![1])))
        .collect::<BTreeMap<_, _>>()
        .into_iter()
        .collect();
    let update = Tree::new(&*full, &nodes).update(Height(0), &changes).unwrap();
    let changes_of = |nodes: Vec<_>| {
        let update = TreeUpdate { root: update.root, nodes, stale: Vec::new() };
        StateChanges::new(Height(0), update, changes.clone(), Vec::new())
    };
    let broken = Arc::new(MemoryStore::new());
    broken.apply(&changes_of(update.nodes[..1].to_vec())).unwrap();
    let (empty_cache, key) = (NodeCache::new(1), changes[0].0);
    let tree = Tree::new(&*broken, &empty_cache);
    assert!(tree.prove(Height(0), &key).is_err());
    assert!(tree.update(Height(1), &[(key, Some(vec![2]))]).is_err());
    assert!(tree.update(Height(1), &[(key, None)]).is_err());
    assert!(tree.root(Height(7)).is_err());
}

#[test]
fn damaged_pages_are_refused() {
    let leaf = |last: u8| (StateKey(B256::with_last_byte(last)), Some(vec![1]));
    let update = Tree::new(&MemoryStore::new(), &NodeCache::new(1)).update(Height(0), &[leaf(1), leaf(2)]).unwrap();
    let bytes = update.nodes.last().unwrap().1.to_bytes();
    assert!(Page::from_bytes(&bytes).is_ok());
    for cut in 0..bytes.len() {
        assert!(Page::from_bytes(&bytes[..cut]).is_err());
    }
    assert!(Page::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
    let mut strange = bytes;
    strange[2] = 0x80;
    assert!(Page::from_bytes(&strange).is_err(), "a leaf where there is no child");
}
