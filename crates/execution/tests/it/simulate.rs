//! Calls and estimates: they change nothing, and an estimate is the least that suffices.

use alloy_primitives::{Address, U256};
use cascade_execution::{CallError, CallRequest, EstimateError, Halt, Outcome, call, estimate_gas};

use crate::{
    asm::{asm, calldata, deploy, token},
    chain::{Chain, Tx, ether, user},
};

const CAP: u64 = 10_000_000;

fn contract(chain: &mut Chain, constructor: &str, runtime: &str) -> Address {
    let nonce = chain.account(user(0)).nonce;
    let receipt = chain.run_one(Tx::new(user(0), nonce, None).gas(1_000_000).data(deploy(constructor, &asm(runtime))));
    receipt.contract_address.unwrap()
}

fn request(to: Address) -> CallRequest {
    CallRequest { from: user(0), to: Some(to), ..CallRequest::default() }
}

/// Checks that a transaction with the estimate as its limit succeeds and one with less does not.
fn assert_least(chain: &Chain, request: &CallRequest) -> u64 {
    let estimate = estimate_gas(&chain.view(), &chain.env(), request, CAP).unwrap();
    let nonce = chain.account(user(0)).nonce;
    let tx = |gas| Tx::new(user(0), nonce, request.to).value(request.value).data(request.data.to_vec()).gas(gas);
    assert_eq!(chain.execute(&[tx(estimate)]).receipts[0].outcome, Outcome::Success);
    assert_ne!(chain.execute(&[tx(estimate - 1)]).receipts[0].outcome, Outcome::Success);
    estimate
}

#[test]
fn estimates_are_the_least_gas_that_suffices() {
    let mut chain = Chain::with_users(2);
    assert_eq!(assert_least(&chain, &CallRequest { value: ether(1), ..request(user(1)) }), 21_000);
    assert_least(&chain, &CallRequest { to: None, data: token().into(), ..request(user(1)) });
    assert_least(&chain, &CallRequest { data: vec![1; 500].into(), ..request(user(1)) });

    let refunding = contract(&mut chain, "PUSH1 0x05 PUSH0 SSTORE", "PUSH0 PUSH0 SSTORE STOP");
    let estimate = assert_least(&chain, &request(refunding));
    assert_eq!(estimate, 21_000 + 2 + 2 + 5_000, "what is refunded is needed first");

    // Reverts unless 100,000 gas are left after 1/64 was kept back: the 63/64 rule of EIP-150.
    let inner = contract(&mut chain, "", "PUSH3 0x0186a0 GAS LT @fail JUMPI STOP :fail PUSH0 PUSH0 REVERT");
    let call_it =
        format!("PUSH0 PUSH0 PUSH0 PUSH0 PUSH0 PUSH20 {inner:#x} GAS CALL @ok JUMPI PUSH0 PUSH0 REVERT :ok STOP");
    let outer = contract(&mut chain, "", &call_it);
    assert!(assert_least(&chain, &request(outer)) > 121_000);
}

#[test]
fn with_the_estimate_as_limit_the_minimum_charge_costs_nothing_extra() {
    let chain = Chain::with_users(2);
    let request = CallRequest { to: None, data: token().into(), ..request(user(1)) };
    let estimate = assert_least(&chain, &request);
    let block = chain.execute(&[Tx::new(user(0), 0, None).data(token()).gas(estimate)]);
    assert_eq!(block.receipts[0].gas_used, block.receipts[0].evm_gas_used);
}

#[test]
fn what_reverts_gives_its_data_and_no_estimate() {
    let mut chain = Chain::with_users(1);
    let reverting = contract(&mut chain, "", "PUSH1 0x2a PUSH0 MSTORE PUSH1 0x20 PUSH0 REVERT");
    let outcome = call(&chain.view(), &chain.env(), &request(reverting), CAP).unwrap();
    assert_eq!((outcome.outcome, U256::from_be_slice(&outcome.output)), (Outcome::Reverted, U256::from(42)));
    match estimate_gas(&chain.view(), &chain.env(), &request(reverting), CAP) {
        Err(EstimateError::Reverted(data)) => assert_eq!(U256::from_be_slice(&data), U256::from(42)),
        other => panic!("{other:?}"),
    }
    let invalid = contract(&mut chain, "", "INVALID");
    assert!(matches!(
        estimate_gas(&chain.view(), &chain.env(), &request(invalid), CAP),
        Err(EstimateError::Halted(Halt::InvalidOpcode))
    ));
}

#[test]
fn endless_calls_stop_at_the_cap() {
    let mut chain = Chain::with_users(1);
    let endless = contract(&mut chain, "", ":loop @loop JUMP");
    let outcome = call(&chain.view(), &chain.env(), &CallRequest { gas: Some(u64::MAX), ..request(endless) }, 50_000);
    let outcome = outcome.unwrap();
    assert_eq!((outcome.outcome, outcome.gas_used), (Outcome::Halted(Halt::OutOfGas), 50_000));
    assert!(matches!(
        estimate_gas(&chain.view(), &chain.env(), &request(endless), 50_000),
        Err(EstimateError::Allowance { allowance: 50_000 })
    ));
}

#[test]
fn calls_need_no_money_unless_they_name_a_price() {
    let mut chain = Chain::with_users(1);
    let prices = contract(&mut chain, "", "BASEFEE PUSH0 MSTORE PUSH1 0x20 PUSH0 RETURN");
    let poor = CallRequest { from: user(50), ..request(prices) };
    let base_fee = U256::from(chain.base_fee);
    let free = call(&chain.view(), &chain.env(), &poor, CAP).unwrap();
    assert_eq!(U256::from_be_slice(&free.output), U256::ZERO);
    let priced = CallRequest { max_fee_per_gas: Some(10_000_000_000), ..poor.clone() };
    assert!(matches!(call(&chain.view(), &chain.env(), &priced, CAP), Err(CallError::InsufficientFunds { .. })));
    let rich = CallRequest { from: user(0), max_priority_fee_per_gas: Some(1), ..priced.clone() };
    let paid = call(&chain.view(), &chain.env(), &rich, CAP).unwrap();
    assert_eq!(U256::from_be_slice(&paid.output), base_fee);
    let low = CallRequest { max_fee_per_gas: Some(1), max_priority_fee_per_gas: None, ..rich };
    assert!(matches!(call(&chain.view(), &chain.env(), &low, CAP), Err(CallError::Invalid(_))));
    let sends = CallRequest { value: ether(1), ..poor.clone() };
    assert!(matches!(call(&chain.view(), &chain.env(), &sends, CAP), Err(CallError::InsufficientFunds { .. })));
    assert!(matches!(
        estimate_gas(&chain.view(), &chain.env(), &priced, CAP),
        Err(EstimateError::Allowance { allowance: 0 })
    ));
}

#[test]
fn a_contract_may_call_whatever_its_nonce_and_nothing_changes() {
    let mut chain = Chain::with_users(1);
    let receipt = chain.run_one(Tx::new(user(0), 0, None).data(token()));
    let token = receipt.contract_address.unwrap();
    let caller = contract(&mut chain, "", "STOP");
    let root = chain.view().root().unwrap();
    let transfer = |from| CallRequest {
        from,
        data: calldata([0xa9, 0x05, 0x9c, 0xbb], &[U256::from(7), U256::from(5)]).into(),
        ..request(token)
    };
    let outcome = call(&chain.view(), &chain.env(), &transfer(user(0)), CAP).unwrap();
    assert_eq!((outcome.outcome, outcome.logs.len()), (Outcome::Success, 1));
    let outcome = call(&chain.view(), &chain.env(), &transfer(caller), CAP).unwrap();
    assert_eq!(outcome.outcome, Outcome::Reverted, "it has no tokens");
    let created = CallRequest { to: None, data: deploy("", &[0]).into(), ..request(token) };
    let outcome = call(&chain.view(), &chain.env(), &created, CAP).unwrap();
    assert_eq!(outcome.contract_address, Some(user(0).create(chain.account(user(0)).nonce)));
    assert_eq!(chain.view().root().unwrap(), root);
}
