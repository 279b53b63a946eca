//! Reading, reverting and pruning versions.

use cascade_execution::{CacheSizes, State, StateError, StateStore, StateStoreMut, VersionIndex};
use cascade_primitives::{Decode, Encode, Height};
use proptest::prelude::*;

use crate::{
    chain::{Chain, PRODUCER, ether, user},
    fees::{Action, actions, transactions},
};

fn grow(chain: &mut Chain, blocks: &[Vec<Action>]) {
    for actions in blocks {
        let mut nonces = std::array::from_fn(|i| chain.account(user(i as u64)).nonce);
        let txs = transactions(actions, &mut nonces);
        chain.run(&txs);
    }
}

/// Everything that a version answers: root, accounts, and a proof of each.
fn answers(chain: &Chain, height: Height) -> Vec<String> {
    let view = chain.state.at(height).unwrap();
    let root = view.root().unwrap();
    let mut answers = vec![root.to_string()];
    for address in (0..9).map(user).chain([PRODUCER]).chain((0..6).map(|nonce| user(0).create(nonce))) {
        let account = view.account(&address).unwrap();
        assert_eq!(view.prove_account(&address).unwrap().verify_account(&root, &address), Ok(account));
        answers.push(format!("{account:?}"));
    }
    answers
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pruning_keeps_every_version_from_the_limit_on_and_nothing_else(
        blocks in prop::collection::vec(prop::collection::vec(actions(), 1), 2..8), limit: prop::sample::Index,
        twice: prop::sample::Index,
    ) {
        let mut chain = Chain::with_users(5);
        for block in &blocks {
            grow(&mut chain, block);
        }
        let before: Vec<_> = (0..=chain.height.0).map(|h| answers(&chain, Height(h))).collect();
        let limit = limit.index(blocks.len() + 1) as u64;
        let first = twice.index(limit as usize + 1) as u64;
        chain.store.prune_below(Height(first)).unwrap();
        chain.store.prune_below(Height(limit)).unwrap();
        let chain = chain.reopened(CacheSizes::default());
        for height in limit..=chain.height.0 {
            prop_assert_eq!(&answers(&chain, Height(height)), &before[height as usize]);
        }
        if limit > 0 {
            let pruned = matches!(chain.state.at(Height(limit - 1)), Err(StateError::Pruned { .. }));
            prop_assert!(pruned);
        }
        // Pruned to its last version, the store holds one tree and one value for each leaf, and no more.
        chain.store.prune_below(chain.height).unwrap();
        let [nodes, values, ..] = chain.store.counts();
        let (reachable, leaves) = reachable(&chain);
        prop_assert_eq!((nodes, values), (reachable, leaves));
    }

    #[test]
    fn reverting_restores_a_version_and_leaves_no_trace(
        blocks in prop::collection::vec(prop::collection::vec(actions(), 1), 2..8), to: prop::sample::Index,
    ) {
        let mut chain = Chain::with_users(5);
        let to = to.index(blocks.len());
        let mut counts = None;
        for (i, block) in blocks.iter().enumerate() {
            if i == to {
                counts = Some((chain.store.counts(), answers(&chain, chain.height)));
            }
            grow(&mut chain, block);
        }
        chain.store.revert_to(Height(to as u64)).unwrap();
        chain.state.reverted().unwrap();
        let (counts, expected) = counts.unwrap();
        prop_assert_eq!(answers(&chain, Height(to as u64)), expected);
        let [nodes, values, _, index] = chain.store.counts();
        prop_assert_eq!([nodes, values, index], [counts[0], counts[1], counts[3]]);
        let gone = matches!(chain.state.at(Height(to as u64 + 1)), Err(StateError::NotYet { .. }));
        prop_assert!(gone);
    }

    #[test]
    fn the_index_of_a_version_round_trips(blocks in prop::collection::vec(actions(), 1..3)) {
        let mut chain = Chain::with_users(5);
        for actions in blocks {
            let mut nonces = std::array::from_fn(|i| chain.account(user(i as u64)).nonce);
            let index = chain.run(&transactions(&actions, &mut nonces)).changes.index();
            prop_assert_eq!(VersionIndex::from_slice(&index.to_bytes()).unwrap(), index);
        }
    }
}

/// Nodes and leaves of the newest version, counted by inserting its content into an empty tree: the shape of the tree
/// depends on its content alone.
fn reachable(chain: &Chain) -> (usize, usize) {
    let mut alloc = std::collections::BTreeMap::new();
    let view = chain.view();
    let creators = (0..5u64).flat_map(|i| (0..200).map(move |nonce| user(i).create(nonce)));
    let mut leaves = 0;
    for address in (0..9).map(user).chain([PRODUCER]).chain(creators) {
        if let Some(account) = view.account(&address).unwrap() {
            let code = view.code(&address).unwrap();
            // The token keeps its creator's million in the slot of the creator's address.
            let storage = (0..5)
                .map(|i| alloy_primitives::U256::from_be_slice(user(i).as_slice()))
                .map(|slot| (slot.into(), view.storage(&address, &slot).unwrap().into()))
                .filter(|(_, value): &(_, alloy_primitives::B256)| !value.is_zero())
                .collect::<std::collections::BTreeMap<alloy_primitives::B256, _>>();
            leaves += 1 + storage.len();
            let (balance, nonce) = (account.balance, account.nonce);
            alloc.insert(
                address,
                cascade_primitives::GenesisAccount { balance, nonce, code: code.into(), storage, ..Default::default() },
            );
        }
    }
    let fresh = Chain::with_alloc(alloc);
    assert_eq!(fresh.view().root().unwrap(), view.root().unwrap(), "the root depends on the content alone");
    (fresh.store.counts()[0], leaves)
}

#[test]
fn empty_blocks_make_versions_that_cost_one_node() {
    let mut chain = Chain::with_users(50);
    let root = chain.view().root().unwrap();
    let [nodes, values, codes, _] = chain.store.counts();
    for _ in 0..5 {
        assert_eq!(chain.run(&[]).result.state_root, root);
    }
    assert_eq!(chain.store.counts(), [nodes + 5, values, codes, 6]);
    chain.store.prune_below(Height(5)).unwrap();
    assert_eq!(chain.store.counts()[0], nodes);
    assert_eq!(chain.balance(user(3)), ether(1000));
}

#[test]
fn versions_out_of_order_and_out_of_range_are_refused() {
    let mut chain = Chain::with_users(1);
    let block = chain.run(&[]);
    assert!(chain.store.apply(&block.changes).is_err(), "again");
    assert!(chain.store.revert_to(Height(2)).is_err());
    assert!(chain.store.prune_below(Height(2)).is_err());
    chain.store.prune_below(Height(1)).unwrap();
    assert!(chain.store.revert_to(Height(0)).is_err());
    assert_eq!(chain.store.versions().unwrap(), Some(Height(1)..=Height(1)));
    let empty = State::open(std::sync::Arc::new(cascade_execution::MemoryStore::new()), CacheSizes::default()).unwrap();
    assert!(matches!(empty.latest(), Err(StateError::Empty)));
}

#[test]
fn reads_below_the_newest_version_are_right_with_and_without_caches() {
    let mut chain = Chain::with_users(3);
    let mut balances = vec![chain.balance(user(0))];
    for nonce in 0..40 {
        let old = chain.state.at(chain.height).unwrap();
        chain.run(&[crate::chain::Tx::new(user(0), nonce, user(1)).value(ether(1))]);
        balances.push(chain.balance(user(0)));
        assert_eq!(old.account(&user(0)).unwrap().unwrap().balance, balances[nonce as usize], "a view never changes");
    }
    for chain in [&chain, &chain.reopened(CacheSizes { values: 1, nodes: 1, codes: 1 })] {
        for (height, balance) in balances.iter().enumerate() {
            let view = chain.state.at(Height(height as u64)).unwrap();
            assert_eq!(view.account(&user(0)).unwrap().unwrap().balance, *balance);
            assert_eq!(view.account(&user(77)).unwrap(), None);
        }
    }
}
