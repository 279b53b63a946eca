//! Taking money out of the fee ledger: whose, how much, and that what was ordered beside it can still be paid.

use std::sync::Arc;

use alloy_primitives::{Address, U256, keccak256};
use cascade_execution::{
    BlockLoad, FEE_LEDGER, FeeAccount, InFlight, NotRun, OpenedItem, OrderingError, Outcome, Refusal, Withdrawal,
    check_block_items,
};
use cascade_primitives::{Envelope, Epoch, Height};

use crate::{
    chain::{Chain, PRODUCER, Tx, ether, user},
    items::{GWEI, chain, envelope, ordered, recovered, withdrawn},
};

/// An envelope that reserves so many gwei of fees for each of its 100,000 gas.
fn reserving(payer: Address, nonce: u64, gwei: u64) -> Envelope {
    Envelope { gas_limit: 100_000, max_fee_per_gas: gwei * GWEI, ..envelope(payer, nonce) }
}

fn call(from: Address, nonce: u64, withdrawal: Withdrawal) -> Tx {
    Tx::new(from, nonce, FEE_LEDGER).gas(30_000).data(withdrawal.call_data())
}

fn inside(terms: Envelope, payer: Address, tx: &Tx) -> OpenedItem {
    OpenedItem::Envelope { envelope: recovered(terms, payer), opened: Ok(tx.sign()) }
}

#[test]
fn a_payer_takes_an_amount_out_and_pays_the_fee_of_its_envelope() {
    let mut chain = chain(2);
    let (payer, to) = (user(0), user(9));
    let withdrawal = Withdrawal { to, amount: Some(ether(3)) };
    // Three ether for the amount, and the gas at base fee and tip.
    let terms = Envelope { max_fee_per_gas: 30_003 * GWEI, ..reserving(payer, 0, 0) };
    let block = chain.run_items(&[inside(terms, payer, &call(payer, 0, withdrawal))]);
    let receipt = &block.receipts[0];
    assert_eq!((receipt.outcome, receipt.from, receipt.to), (Outcome::Success, payer, Some(FEE_LEDGER)));
    assert_eq!((receipt.gas_used, receipt.effective_gas_price), (50_000, u128::from(3 * GWEI)), "no higher price");
    let fee = U256::from(50_000) * U256::from(3 * GWEI);
    assert_eq!(chain.fees(payer), FeeAccount { balance: ether(7) - fee, nonce: 1 });
    assert_eq!((chain.balance(to), chain.balance(payer)), (ether(3), ether(1000)));
    assert_eq!((chain.balance(FEE_LEDGER), chain.account(payer).nonce), (ether(17) - fee, 1));
    assert_eq!(chain.balance(PRODUCER), block.tips);
    // Anybody who looks at logs sees it.
    let [log] = receipt.logs.as_slice() else { panic!("one log: {receipt:?}") };
    assert_eq!(log.address, FEE_LEDGER);
    let topics = [keccak256("Withdrawal(address,address,uint256)"), payer.into_word(), to.into_word()];
    assert_eq!((log.data.topics(), withdrawn(receipt)), (topics.as_slice(), Some(ether(3))));
    assert!(!block.bloom.is_zero());
}

#[test]
fn all_is_what_the_envelope_reserves_but_for_its_fee() {
    let mut chain = chain(1);
    let payer = user(0);
    let all = Withdrawal { to: user(9), amount: None };
    // Ten ether: the whole balance.
    let receipt = chain.run_item(inside(reserving(payer, 0, 100_000), payer, &call(payer, 0, all)));
    let fee = U256::from(receipt.gas_used) * U256::from(receipt.effective_gas_price);
    assert_eq!(chain.fees(payer), FeeAccount { balance: U256::ZERO, nonce: 1 });
    assert_eq!((chain.balance(user(9)), withdrawn(&receipt)), (ether(10) - fee, Some(ether(10) - fee)));
    // An empty ledger stays, and takes deposits.
    assert_eq!((chain.balance(FEE_LEDGER), chain.account(FEE_LEDGER).nonce), (U256::ZERO, 1));
}

#[test]
fn what_is_no_withdrawal_of_the_payers_own_takes_nothing() {
    let (payer, other) = (user(0), user(1));
    let one = Withdrawal { to: user(9), amount: Some(ether(1)) };
    let ok = call(payer, 0, one);
    let data = one.call_data();
    let mut padded = data.clone();
    padded[5] = 1;
    let cases = [
        (call(other, 0, one), NotRun::NotThePayer),
        (ok.clone().value(U256::from(1)), NotRun::Withdrawal),
        (ok.clone().data(data[..67].to_vec()), NotRun::Withdrawal),
        (ok.clone().data([data.as_slice(), &[0]].concat()), NotRun::Withdrawal),
        (ok.clone().data(padded), NotRun::Withdrawal),
        (call(payer, 0, Withdrawal { to: FEE_LEDGER, ..one }), NotRun::Withdrawal),
        (call(payer, 1, one), NotRun::NonceTooHigh),
        (ok.clone().gas(21_000), NotRun::IntrinsicGas),
    ];
    for (tx, reason) in cases {
        let mut chain = chain(2);
        let receipt = chain.run_item(inside(reserving(payer, 0, 20_000), payer, &tx));
        assert_eq!(receipt.outcome, Outcome::Charged(reason));
        let fee = U256::from(50_000) * U256::from(3 * GWEI);
        assert_eq!(chain.fees(payer), FeeAccount { balance: ether(10) - fee, nonce: 1 }, "{reason}");
        assert_eq!((chain.fees(other).balance, chain.balance(user(9))), (ether(10), U256::ZERO), "{reason}");
    }
    // Other calls to the address are calls to an account without code.
    for tx in [ok.clone().data(data[..3].to_vec()), Tx { to: Some(user(9)), ..ok.clone() }, Tx { kind: 1, ..ok }] {
        let mut chain = chain(2);
        let receipt = chain.run_item(inside(reserving(payer, 0, 20_000), payer, &tx));
        assert_eq!((receipt.outcome, withdrawn(&receipt).is_some()), (Outcome::Success, tx.kind == 1), "{tx:?}");
    }
}

#[test]
fn more_than_the_envelope_reserves_beyond_its_gas_is_not_paid() {
    let payer = user(0);
    // Reserved: one ether. The gas may cost 100,000 times 3 gwei.
    let most = ether(1) - U256::from(100_000) * U256::from(3 * GWEI);
    for (amount, outcome) in [(most, Outcome::Success), (most + U256::from(1), Outcome::Charged(NotRun::Reserve))] {
        let mut chain = chain(1);
        let withdrawal = Withdrawal { to: user(9), amount: Some(amount) };
        let receipt = chain.run_item(inside(reserving(payer, 0, 10_000), payer, &call(payer, 0, withdrawal)));
        assert_eq!(receipt.outcome, outcome);
        let taken = if outcome.is_success() { amount } else { U256::ZERO };
        assert_eq!(chain.balance(user(9)), taken);
    }
}

/// The case that the reserve rule is for: a payer's whole balance is ordered away, and before anybody could see that,
/// it orders more.
#[test]
fn what_is_ordered_behind_a_withdrawal_can_still_be_paid() {
    let mut chain = chain(2);
    let payer = user(0);
    let all = inside(reserving(payer, 0, 60_000), payer, &call(payer, 0, Withdrawal { to: user(9), amount: None }));
    let genesis = InFlight::empty(Height(0));
    let check = |chain: &Chain, below: &InFlight, items: &[OpenedItem]| {
        let items: Vec<_> = items.iter().map(ordered).collect();
        let height = below.tip().next();
        let view = chain.state.at(below.results_up_to()).unwrap();
        check_block_items(&chain.params, chain.base_fee, height, Epoch(1), &view, below, &items)
    };
    let (_, load) = check(&chain, &genesis, std::slice::from_ref(&all)).unwrap();
    let branch = genesis.with_block(Arc::new(load));
    // Six of ten ether are on their way out: five more are refused, three are not, and they are there when they are due.
    let next = |gwei| inside(reserving(payer, 1, gwei), payer, &Tx::new(user(1), 0, user(9)).gas(50_000));
    let refused = check(&chain, &branch, &[next(50_000)]);
    assert!(
        matches!(refused, Err(OrderingError::Invalid { refusal: Refusal::Reserve { available, .. }, .. }) if available == ether(4))
    );
    assert!(check(&chain, &branch, &[next(40_000)]).is_ok());
    assert_eq!(BlockLoad::of_items(&[ordered(&all)]).payer(&payer).cost, ether(6));
    chain.run_items(&[all]);
    let left = chain.fees(payer).balance;
    assert_eq!(left, ether(4));
    assert_eq!(chain.run_item(next(40_000)).outcome, Outcome::Success);
}
