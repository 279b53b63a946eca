//! P1: the same transactions on the same state give the same root, whatever a node has cached, pruned or restarted.

use cascade_execution::{CacheSizes, StateStoreMut};
use cascade_primitives::Height;
use proptest::prelude::*;

use crate::{
    chain::{Chain, user},
    fees::{actions, transactions},
};

const TINY: CacheSizes = CacheSizes { values: 2, nodes: 2, codes: 2 };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn p1_same_transactions_on_the_same_state_give_the_same_block(
        blocks in prop::collection::vec(actions(), 1..6), restart_at in 0usize..6, prune_at in 0usize..6,
    ) {
        let mut plain = Chain::with_users(5);
        let mut other = plain.reopened(TINY);
        for (i, actions) in blocks.iter().enumerate() {
            let mut nonces = std::array::from_fn(|user_number| plain.account(user(user_number as u64)).nonce);
            let txs = transactions(actions, &mut nonces);
            if i == restart_at {
                other = other.reopened(TINY);
            }
            if i == prune_at {
                other.store.prune_below(other.height).unwrap();
            }
            // Execution is a function: twice on one node, and once on the other, the answer is the same bit for bit.
            let block = plain.execute(&txs);
            prop_assert_eq!(&plain.execute(&txs), &block);
            prop_assert_eq!(&plain.run(&txs), &block);
            prop_assert_eq!(&other.run(&txs), &block);
        }
        prop_assert_eq!(plain.view().root().unwrap(), other.view().root().unwrap());
    }

    #[test]
    fn p1_planted_difference_a_changed_transaction_changes_the_block(actions in actions(), which: prop::sample::Index) {
        let chain = Chain::with_users(5);
        let txs = transactions(&actions, &mut [0; 5]);
        let mut changed = txs.clone();
        let index = which.index(txs.len());
        changed[index].gas += 1;
        prop_assert_ne!(chain.execute(&txs).result.receipts_root, chain.execute(&changed).result.receipts_root);
    }

    #[test]
    fn p1_a_reverted_history_is_executed_to_the_same_roots(
        blocks in prop::collection::vec(actions(), 2..6), keep: prop::sample::Index,
    ) {
        let mut chain = Chain::with_users(5);
        let mut history = Vec::new();
        for actions in &blocks {
            let mut nonces = std::array::from_fn(|i| chain.account(user(i as u64)).nonce);
            let txs = transactions(actions, &mut nonces);
            let base_fee = chain.base_fee;
            history.push((base_fee, txs.clone(), chain.run(&txs)));
        }
        let keep = keep.index(blocks.len());
        chain.store.revert_to(Height(keep as u64)).unwrap();
        chain.state.reverted().unwrap();
        chain.height = Height(keep as u64);
        for (base_fee, txs, block) in &history[keep..] {
            chain.base_fee = *base_fee;
            prop_assert_eq!(&chain.run(txs), block);
        }
    }
}
