//! A transaction that cannot run changes nothing and says why.

use alloy_primitives::U256;
use cascade_execution::{NoOpReason, Outcome};
use cascade_primitives::GenesisAccount;

use crate::chain::{Chain, Tx, ether, user};

#[test]
fn each_reason_leaves_the_state_as_it_is() {
    let mut alloc: std::collections::BTreeMap<_, _> =
        (0..2).map(|i| (user(i), GenesisAccount { balance: ether(1000), ..Default::default() })).collect();
    alloc.insert(user(2), GenesisAccount { balance: ether(1000), code: vec![0].into(), ..Default::default() });
    let mut chain = Chain::with_alloc(alloc);
    chain.run(&[Tx::new(user(0), 0, user(9))]);
    let root = chain.view().root().unwrap();
    let ok = Tx::new(user(0), 1, user(9));
    let limit = chain.params.block_gas_limit;
    let cases = [
        (Tx { nonce: 0, ..ok.clone() }, NoOpReason::NonceTooLow),
        (Tx { nonce: 2, ..ok.clone() }, NoOpReason::NonceTooHigh),
        (ok.clone().value(ether(1000)), NoOpReason::InsufficientFunds),
        (ok.clone().value(U256::MAX), NoOpReason::InsufficientFunds),
        (Tx { max_fee: u128::MAX, ..ok.clone() }, NoOpReason::InsufficientFunds),
        (Tx { max_fee: 999_999_999, tip: 0, ..ok.clone() }, NoOpReason::FeeCapTooLow),
        (Tx { kind: 0, max_fee: 0, ..ok.clone() }, NoOpReason::FeeCapTooLow),
        (ok.clone().gas(20_999), NoOpReason::IntrinsicGas),
        (ok.clone().gas(60_999).data(vec![1; 1000]), NoOpReason::FloorGas),
        (ok.clone().gas(limit + 1), NoOpReason::BlockGasLimit),
        (Tx { from: user(2), nonce: 0, ..ok.clone() }, NoOpReason::SenderIsContract),
        (Tx { from: user(1), nonce: u64::MAX, ..ok.clone() }, NoOpReason::NonceMax),
        (Tx { to: None, ..ok.clone().gas(10_000_000).data(vec![0; 49_153]) }, NoOpReason::InitCodeSize),
        (Tx { chain_id: 1, ..ok.clone() }, NoOpReason::ChainId),
    ];
    for (tx, expected) in cases {
        let block = chain.execute(&[tx]);
        let receipt = &block.receipts[0];
        assert_eq!(receipt.outcome, Outcome::NoOp(expected));
        assert_eq!((receipt.gas_used, receipt.effective_gas_price, block.result.gas_used), (0, 0, 0));
        assert_eq!(block.result.state_root, root, "{expected}");
        assert!(block.changes.values().is_empty());
        assert!(!receipt.outcome.is_success());
    }
    assert_eq!(chain.run_one(ok).outcome, Outcome::Success, "the transaction that the cases vary is good");
}

#[test]
fn transactions_beyond_the_gas_of_the_block_do_nothing_and_leave_room_for_smaller_ones() {
    let chain = Chain::with_users(3);
    let limit = chain.params.block_gas_limit;
    let block = chain.execute(&[
        Tx::new(user(0), 0, user(9)).gas(limit - 30_000),
        Tx::new(user(1), 0, user(9)).gas(30_001),
        Tx::new(user(2), 0, user(9)).gas(30_000),
    ]);
    let outcomes: Vec<_> = block.receipts.iter().map(|receipt| receipt.outcome).collect();
    assert_eq!(outcomes, [Outcome::Success, Outcome::NoOp(NoOpReason::BlockGasLimit), Outcome::Success]);
}

#[test]
fn what_follows_a_no_op_of_the_same_sender_still_has_its_outcome() {
    let mut chain = Chain::with_users(1);
    let block = chain.run(&[
        Tx::new(user(0), 0, user(9)).value(ether(2000)),
        Tx::new(user(0), 1, user(9)),
        Tx::new(user(0), 0, user(9)).value(ether(1)),
    ]);
    let outcomes: Vec<_> = block.receipts.iter().map(|receipt| receipt.outcome).collect();
    let expected =
        [Outcome::NoOp(NoOpReason::InsufficientFunds), Outcome::NoOp(NoOpReason::NonceTooHigh), Outcome::Success];
    assert_eq!(outcomes, expected);
    assert_eq!(chain.balance(user(9)), ether(1));
}

#[test]
fn a_block_on_the_wrong_parent_state_is_refused() {
    let mut chain = Chain::with_users(1);
    let genesis = chain.view();
    chain.run(&[]);
    assert!(cascade_execution::execute_block(&genesis, &chain.env(), &[]).is_err());
}
