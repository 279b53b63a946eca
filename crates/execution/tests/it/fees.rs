//! Who pays what: the minimum charge, refunds, and that no wei comes from nowhere.

use std::collections::BTreeSet;

use alloy_primitives::{Address, U256};
use cascade_execution::{Outcome, minimum_charge};
use proptest::prelude::*;

use crate::{
    asm::{asm, deploy, token},
    chain::{Chain, PRODUCER, Tx, ether, user},
};

#[test]
fn half_the_gas_limit_is_charged_at_least() {
    let mut chain = Chain::with_users(1);
    for (nonce, (limit, charged)) in
        [(21_000, 21_000), (42_000, 21_000), (42_001, 21_001), (100_001, 50_001)].into_iter().enumerate()
    {
        let before = chain.balance(user(0));
        let receipt = chain.run_one(Tx::new(user(0), nonce as u64, user(7)).gas(limit));
        assert_eq!((receipt.gas_used, receipt.evm_gas_used), (charged, 21_000), "limit {limit}");
        let paid = U256::from(charged) * U256::from(receipt.effective_gas_price);
        assert_eq!(chain.balance(user(0)), before - paid);
    }
}

#[test]
fn a_refund_never_takes_the_charge_below_half_the_limit() {
    let mut chain = Chain::with_users(1);
    let code = asm("PUSH0 CALLDATALOAD PUSH0 SSTORE STOP");
    let contract = chain.run_one(Tx::new(user(0), 0, None).data(deploy("PUSH1 0x05 PUSH0 SSTORE", &code)));
    let contract = contract.contract_address.unwrap();
    let clear = Tx::new(user(0), 1, contract).data(vec![0; 32]);
    // Clearing costs 21000 + 32 zero bytes + 2 + 3 + 2 + 5000 = 26135 and refunds 4800 of it.
    let exact = chain.execute(&[clear.clone().gas(26_135)]).receipts.remove(0);
    assert_eq!((exact.outcome, exact.gas_used), (Outcome::Success, 26_135 - 4_800));
    let wide = chain.execute(&[clear.gas(50_000)]).receipts.remove(0);
    assert_eq!((wide.outcome, wide.gas_used, wide.evm_gas_used), (Outcome::Success, 25_000, 26_135 - 4_800));
}

#[test]
fn the_floor_for_call_data_still_holds() {
    let mut chain = Chain::with_users(1);
    // EIP-7623: 21000 + 10 per token, a non-zero byte is 4 tokens. Standard cost: 21000 + 16 per byte.
    let receipt = chain.run_one(Tx::new(user(0), 0, user(7)).gas(65_000).data(vec![1; 1000]));
    assert_eq!(receipt.gas_used, 61_000);
}

/// What a random user does.
#[derive(Clone, Debug)]
pub enum Action {
    Send { from: u64, to: u64, milliether: u64, gas: u64, tip: u64 },
    Deploy { from: u64, gas: u64 },
    Burn { from: u64, gas: u64 },
    Revert { from: u64, milliether: u64 },
    Poor { from: u64 },
    Destroy { from: u64, milliether: u64 },
}

pub fn actions() -> impl Strategy<Value = Vec<Action>> {
    let user = 0u64..5;
    prop::collection::vec(
        prop_oneof![
            (user.clone(), 0u64..8, 0u64..2000, 20_000u64..200_000, 0u64..9)
                .prop_map(|(from, to, milliether, gas, tip)| Action::Send { from, to, milliether, gas, tip }),
            (user.clone(), 50_000u64..300_000).prop_map(|(from, gas)| Action::Deploy { from, gas }),
            (user.clone(), 53_000u64..90_000).prop_map(|(from, gas)| Action::Burn { from, gas }),
            (user.clone(), 0u64..2000).prop_map(|(from, milliether)| Action::Revert { from, milliether }),
            user.clone().prop_map(|from| Action::Poor { from }),
            (user, 0u64..2000).prop_map(|(from, milliether)| Action::Destroy { from, milliether }),
        ],
        1..25,
    )
}

pub fn transactions(actions: &[Action], nonces: &mut [u64; 5]) -> Vec<Tx> {
    let mut next = |from: u64| {
        nonces[from as usize] += 1;
        (user(from), nonces[from as usize] - 1)
    };
    let milli = |n: u64| U256::from(n) * ether(1) / U256::from(1000);
    actions
        .iter()
        .map(|action| match *action {
            Action::Send { from, to, milliether, gas, tip } => {
                let (from, nonce) = next(from);
                let tip = u128::from(tip) * 1_000_000_000;
                Tx { tip, ..Tx::new(from, nonce, user(to)).value(milli(milliether)).gas(gas) }
            }
            Action::Deploy { from, gas } => {
                let (from, nonce) = next(from);
                Tx::new(from, nonce, None).gas(gas).data(token())
            }
            Action::Burn { from, gas } => {
                let (from, nonce) = next(from);
                Tx::new(from, nonce, None).gas(gas).data(asm(":loop @loop JUMP"))
            }
            Action::Revert { from, milliether } => {
                let (from, nonce) = next(from);
                Tx::new(from, nonce, None).value(milli(milliether)).data(asm("PUSH0 PUSH0 REVERT"))
            }
            Action::Poor { from } => {
                let (from, nonce) = next(from);
                Tx::new(from, nonce, user(7)).value(ether(1_000_000))
            }
            Action::Destroy { from, milliether } => {
                let (from, nonce) = next(from);
                Tx::new(from, nonce, None).value(milli(milliether)).data(asm("CALLER SELFDESTRUCT"))
            }
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_wei_is_made_or_lost_but_by_burning(first in actions(), second in actions()) {
        let mut chain = Chain::with_users(5);
        let mut everybody: BTreeSet<Address> = (0..8).map(user).chain([PRODUCER]).collect();
        let mut nonces = [0; 5];
        for actions in [first, second] {
            let txs = transactions(&actions, &mut nonces);
            everybody.extend(txs.iter().filter(|tx| tx.to.is_none()).map(|tx| tx.from.create(tx.nonce)));
            let before: Vec<U256> = everybody.iter().map(|a| chain.balance(*a)).collect();
            let producer = chain.balance(PRODUCER);
            let block = chain.run(&txs);
            let after: U256 = everybody.iter().map(|a| chain.balance(*a)).sum();
            prop_assert_eq!(before.iter().sum::<U256>(), after + block.burned);
            prop_assert_eq!(chain.balance(PRODUCER), producer + block.tips);
            let charged: u64 = block.receipts.iter().map(|r| r.gas_used).sum();
            prop_assert_eq!(charged, block.result.gas_used);
            for (receipt, tx) in block.receipts.iter().zip(&txs) {
                if !matches!(receipt.outcome, Outcome::NoOp(_)) {
                    prop_assert!(receipt.gas_used >= minimum_charge(tx.gas) && receipt.gas_used <= tx.gas);
                    prop_assert!(receipt.gas_used >= receipt.evm_gas_used);
                }
                // A no-op leaves the nonce, so the sender's later ones must follow it.
                if matches!(receipt.outcome, Outcome::NoOp(_)) {
                    prop_assert_eq!(receipt.gas_used, 0);
                }
            }
            for (i, nonce) in nonces.iter_mut().enumerate() {
                *nonce = chain.account(user(i as u64)).nonce;
            }
        }
    }
}
