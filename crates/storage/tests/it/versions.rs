//! The state in the database against the state in memory.

use std::sync::Arc;

use cascade_execution::{State, StateStore, StateStoreMut, account_key, slot_key, state::CacheSizes};
use cascade_primitives::{Address, Height, U256};
use cascade_storage::{ChainDb, ChainDbOptions, StorageError};
use proptest::prelude::*;

use crate::chain::{Action, CONTRACT, SENDERS, TestChain, sender, six_blocks};

#[derive(Clone, Debug)]
enum Step {
    Block(Vec<Action>),
    Revert(prop::sample::Index),
    Prune(prop::sample::Index),
    Reopen,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        (0..SENDERS, 0_u8..6).prop_map(|(from, to)| Action::Transfer(from, to)),
        (0..SENDERS, 0_u8..6, 0_u8..3).prop_map(|(from, slot, value)| Action::Write(from, slot, value)),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => prop::collection::vec(action(), 0..6).prop_map(Step::Block),
        1 => any::<prop::sample::Index>().prop_map(Step::Revert),
        1 => any::<prop::sample::Index>().prop_map(Step::Prune),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..25)
}

/// Every account and slot that any action can touch, at every version that is kept.
fn check_same(db: &Arc<ChainDb>, chain: &TestChain) {
    assert_eq!(db.state_counts().unwrap(), chain.store.counts());
    let versions = chain.store.versions().unwrap();
    assert_eq!(StateStore::versions(&**db).unwrap(), versions);
    let ours = State::open(Arc::clone(db) as _, CacheSizes::default()).unwrap();
    let theirs = State::open(Arc::clone(&chain.store) as _, CacheSizes::default()).unwrap();
    let (oldest, newest) = versions.unwrap().into_inner();
    let keys: Vec<_> = (0..SENDERS)
        .map(sender)
        .chain((0..6).map(Address::with_last_byte))
        .map(|address| account_key(&address))
        .chain((0..6).map(|slot| slot_key(&CONTRACT, &U256::from(slot))))
        .collect();
    for height in (oldest.0..=newest.0).map(Height) {
        let (ours, theirs) = (ours.at(height).unwrap(), theirs.at(height).unwrap());
        assert_eq!(ours.root().unwrap(), theirs.root().unwrap());
        for key in &keys {
            assert_eq!(ours.prove(key).unwrap(), theirs.prove(key).unwrap());
            assert_eq!(db.value(key, height).unwrap(), chain.store.value(key, height).unwrap());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Blocks, reverts, prunings and restarts in any order leave the same state as the store in memory.
    #[test]
    fn the_database_keeps_versions_as_the_memory_store_does(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let mut chain = TestChain::new();
        let mut db = Arc::new(ChainDb::open(dir.path(), ChainDbOptions::default()).unwrap());
        db.init_genesis(&chain.genesis, &chain.genesis_changes).unwrap();
        for step in steps {
            let (oldest, newest) = db.heads().state.unwrap();
            let pick = |index: prop::sample::Index| Height(oldest.0 + index.index((newest.0 - oldest.0 + 1) as usize) as u64);
            match step {
                Step::Block(actions) => {
                    chain.push(0, true, &actions);
                    db.append_final(&chain.blocks[chain.blocks.len() - 1..]).unwrap();
                    db.commit_executed(chain.executed.last().unwrap()).unwrap();
                }
                Step::Revert(index) => {
                    let height = pick(index);
                    db.revert_to(height).unwrap();
                    chain.truncate(height.0);
                }
                Step::Prune(index) => {
                    let height = pick(index);
                    db.prune_state(height, usize::MAX).unwrap();
                    chain.store.prune_below(height).unwrap();
                }
                Step::Reopen => {
                    drop(db);
                    db = Arc::new(ChainDb::open(dir.path(), ChainDbOptions::default()).unwrap());
                }
            }
            check_same(&db, &chain);
        }
    }
}

#[test]
fn pruning_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let chain = six_blocks();
    let db = Arc::new(ChainDb::open(dir.path(), ChainDbOptions::default()).unwrap());
    chain.write_from(&db, 0);
    assert_eq!(db.prune_state(Height(4), 2).unwrap(), 2);
    assert_eq!(db.heads().state, Some((Height(2), Height(6))));
    chain.store.prune_below(Height(2)).unwrap();
    check_same(&db, &chain);
    assert_eq!(db.prune_state(Height(4), 100).unwrap(), 2);
    assert_eq!(db.prune_state(Height(4), 100).unwrap(), 0);
    chain.store.prune_below(Height(4)).unwrap();
    check_same(&db, &chain);
    assert!(matches!(db.prune_state(Height(7), 1), Err(StorageError::Order { .. })));
    assert!(matches!(db.revert_executed(Height(3)), Err(StorageError::Order { .. })));
}
