//! What well-known programs must do: transfers, a token, reverts, gas, storage, creation, destruction, environment.

use alloy_eips::eip2930::{AccessList, AccessListItem};
use alloy_primitives::{Address, B256, BloomInput, U256, b256, keccak256};
use cascade_execution::{CallRequest, Halt, Outcome, call};
use cascade_primitives::Height;

use crate::{
    asm::{asm, calldata, deploy, token},
    chain::{Chain, PRODUCER, Tx, block_hash, ether, user},
};

const BALANCE_OF: [u8; 4] = [0x70, 0xa0, 0x82, 0x31];
const TRANSFER: [u8; 4] = [0xa9, 0x05, 0x9c, 0xbb];

fn word(address: Address) -> U256 {
    U256::from_be_slice(address.as_slice())
}

fn contract(chain: &mut Chain, from: u64, runtime: &str) -> Address {
    let nonce = chain.account(user(from)).nonce;
    let receipt = chain.run_one(Tx::new(user(from), nonce, None).data(deploy("", &asm(runtime))));
    assert_eq!(receipt.outcome, Outcome::Success);
    assert_eq!(receipt.contract_address, Some(user(from).create(nonce)));
    receipt.contract_address.unwrap()
}

#[test]
fn a_transfer_moves_the_value_and_pays_burn_and_tip() {
    let mut chain = Chain::with_users(1);
    let base_fee = U256::from(chain.base_fee);
    let block = chain.run(&[Tx::new(user(0), 0, user(7)).value(ether(1)).gas(21_000)]);
    let receipt = &block.receipts[0];
    assert_eq!((receipt.outcome, receipt.gas_used, receipt.evm_gas_used), (Outcome::Success, 21_000, 21_000));
    assert_eq!(receipt.effective_gas_price, 3_000_000_000);
    assert_eq!(block.burned, base_fee * U256::from(21_000));
    assert_eq!(block.tips, U256::from(2_000_000_000_u64) * U256::from(21_000));
    assert_eq!(chain.balance(user(7)), ether(1));
    assert_eq!(chain.balance(PRODUCER), block.tips);
    assert_eq!(chain.balance(user(0)), ether(999) - block.burned - block.tips);
    assert_eq!(chain.account(user(0)).nonce, 1);
    assert_eq!(chain.view().root().unwrap(), block.result.state_root);
}

#[test]
fn legacy_and_access_list_transactions_pay_their_whole_price() {
    let mut chain = Chain::with_users(2);
    for (kind, from) in [(0, user(0)), (1, user(1))] {
        let receipt = chain.run_one(Tx { kind, max_fee: 5_000_000_000, ..Tx::new(from, 0, user(7)).gas(21_000) });
        assert_eq!((receipt.outcome, receipt.transaction_type), (Outcome::Success, kind));
        assert_eq!(receipt.effective_gas_price, 5_000_000_000);
    }
}

#[test]
fn an_erc_20_token_is_deployed_moved_and_logged() {
    let mut chain = Chain::with_users(2);
    let created = chain.run_one(Tx::new(user(0), 0, None).data(token()));
    assert_eq!(created.outcome, Outcome::Success);
    let token = created.contract_address.unwrap();
    let transfer = |to: u64, amount: u64| calldata(TRANSFER, &[word(user(to)), U256::from(amount)]);
    let block = chain.run(&[
        Tx::new(user(0), 1, token).data(transfer(1, 1000)),
        Tx::new(user(1), 0, token).data(transfer(2, 1001)),
        Tx::new(user(1), 1, token).data(transfer(2, 300)),
    ]);
    let outcomes: Vec<_> = block.receipts.iter().map(|r| (r.outcome, r.logs.len(), r.first_log_index)).collect();
    assert_eq!(outcomes, [(Outcome::Success, 1, 0), (Outcome::Reverted, 0, 1), (Outcome::Success, 1, 1)]);
    let log = &block.receipts[2].logs[0];
    assert_eq!(log.address, token);
    assert_eq!(log.data.topics()[0], b256!("ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"));
    assert_eq!(log.data.topics()[2], user(2).into_word());
    assert_eq!(U256::from_be_slice(&log.data.data), U256::from(300));
    assert!(block.bloom.contains_input(BloomInput::Raw(token.as_slice())));
    assert!(!block.bloom.contains_input(BloomInput::Raw(user(9).as_slice())));
    for (holder, expected) in [(0, 999_000), (1, 700), (2, 300), (3, 0)] {
        let data = calldata(BALANCE_OF, &[word(user(holder))]).into();
        let request = CallRequest { to: Some(token), data, ..CallRequest::default() };
        let answer = call(&chain.view(), &chain.env(), &request, 1_000_000).unwrap();
        assert_eq!(U256::from_be_slice(&answer.output), U256::from(expected), "balance of {holder}");
    }
    assert_eq!(block.receipts[2].cumulative_gas_used, block.receipts.iter().map(|r| r.gas_used).sum::<u64>());
    assert_eq!(block.result.gas_used, block.receipts[2].cumulative_gas_used);
}

#[test]
fn a_revert_undoes_everything_but_fee_and_nonce() {
    let mut chain = Chain::with_users(1);
    let reverting = contract(&mut chain, 0, "PUSH1 0x07 PUSH0 SSTORE PUSH0 PUSH0 PUSH0 LOG1 PUSH0 PUSH0 REVERT");
    let before = chain.balance(user(0));
    let receipt = chain.run_one(Tx::new(user(0), 1, reverting).value(ether(1)));
    assert_eq!(receipt.outcome, Outcome::Reverted);
    assert!(receipt.logs.is_empty());
    assert_eq!(chain.slot(reverting, 0), U256::ZERO);
    assert_eq!(chain.account(user(0)).nonce, 2);
    let fee = U256::from(receipt.gas_used) * U256::from(receipt.effective_gas_price);
    assert_eq!(chain.balance(user(0)), before - fee);
}

#[test]
fn halts_take_all_gas_and_say_why() {
    let mut chain = Chain::with_users(1);
    let cases = [
        (":loop @loop JUMP", Halt::OutOfGas),
        ("INVALID", Halt::InvalidOpcode),
        ("PUSH0 JUMP", Halt::InvalidJump),
        ("POP", Halt::StackUnderflow),
        (":loop PUSH0 @loop JUMP", Halt::StackOverflow),
    ];
    for (i, (program, expected)) in cases.into_iter().enumerate() {
        let nonce = 2 * i as u64;
        let halting = contract(&mut chain, 0, program);
        let receipt = chain.run_one(Tx::new(user(0), nonce + 1, halting).gas(100_000));
        assert_eq!((receipt.outcome, receipt.gas_used), (Outcome::Halted(expected), 100_000), "{program}");
        assert_eq!(receipt.evm_gas_used, 100_000);
    }
}

#[test]
fn a_contract_that_destroys_itself_lives_on_unless_the_same_transaction_made_it() {
    let mut chain = Chain::with_users(1);
    let to_caller = "CALLER SELFDESTRUCT";
    let old = contract(&mut chain, 0, to_caller);
    chain.run_one(Tx::new(user(0), 1, old).value(ether(5)));
    assert_eq!(chain.balance(old), U256::ZERO, "the money leaves");
    assert!(chain.account(old).has_code(), "the contract stays (EIP-6780)");

    let address = user(0).create(2);
    let init = asm("PUSH1 0x09 PUSH0 SSTORE CALLER SELFDESTRUCT");
    let receipt = chain.run_one(Tx::new(user(0), 2, None).value(ether(3)).data(init));
    assert_eq!(receipt.outcome, Outcome::Success);
    assert!(chain.account(address).is_empty());
    assert_eq!(chain.slot(address, 0), U256::ZERO);
    let root = chain.view().root().unwrap();
    let proof = chain.view().prove_account(&address).unwrap();
    assert_eq!(proof.verify_account(&root, &address), Ok(None));
}

#[test]
fn a_destroyed_address_can_be_created_anew_in_the_same_block_without_its_old_storage() {
    let mut chain = Chain::with_users(2);
    // Creates, with CREATE2 and no salt, a contract from the init code in the call data.
    let factory = contract(
        &mut chain,
        0,
        "CALLDATASIZE PUSH0 PUSH0 CALLDATACOPY PUSH0 CALLDATASIZE PUSH0 PUSH0 CREATE2 PUSH0 MSTORE PUSH1 0x20 PUSH0 RETURN",
    );
    // Adds one to slot 0 and destroys itself if user 1 started it, else deploys nothing and stays.
    let init = asm(&format!(
        "PUSH0 SLOAD PUSH1 0x01 ADD PUSH0 SSTORE PUSH20 {:#x} SELFBALANCE ISZERO @stay JUMPI SELFDESTRUCT :stay STOP",
        user(9)
    ));
    let child = factory.create2(B256::ZERO, keccak256(&init));
    // Money that waits at the address makes the first creation destroy itself.
    let block = chain.run(&[
        Tx::new(user(1), 0, child).value(ether(1)),
        Tx::new(user(1), 1, factory).data(init.clone()),
        Tx::new(user(1), 2, factory).data(init.clone()),
    ]);
    assert!(block.receipts.iter().all(|receipt| receipt.outcome == Outcome::Success));
    assert_eq!(chain.balance(user(9)), ether(1));
    assert_eq!(chain.account(child).nonce, 1, "the second creation stands");
    assert_eq!(chain.slot(child, 0), U256::from(1), "and did not see the first one's storage");
}

#[test]
fn transient_storage_lasts_for_one_transaction() {
    let mut chain = Chain::with_users(1);
    // With data: TSTORE 5, then SSTORE(1, TLOAD). Without: SSTORE(2, TLOAD + 1).
    let program = "CALLDATASIZE @write JUMPI PUSH0 TLOAD PUSH1 0x01 ADD PUSH1 0x02 SSTORE STOP
                   :write PUSH1 0x05 PUSH0 TSTORE PUSH0 TLOAD PUSH1 0x01 SSTORE STOP";
    let contract = contract(&mut chain, 0, program);
    chain.run(&[Tx::new(user(0), 1, contract).data(vec![1]), Tx::new(user(0), 2, contract)]);
    assert_eq!(chain.slot(contract, 1), U256::from(5));
    assert_eq!(chain.slot(contract, 2), U256::from(1));
}

#[test]
fn an_access_list_makes_its_slots_warm() {
    let mut chain = Chain::with_users(1);
    let contract = contract(&mut chain, 0, "PUSH0 SLOAD POP STOP");
    let access_list = AccessList(vec![AccessListItem { address: contract, storage_keys: vec![B256::ZERO] }]);
    let cold = chain.run_one(Tx::new(user(0), 1, contract).gas(40_000));
    let warm = chain.run_one(Tx { access_list, ..Tx::new(user(0), 2, contract).gas(40_000) });
    // EIP-2929: a cold SLOAD costs 2100, a warm one 100; EIP-2930: an address costs 2400, a slot 1900.
    assert_eq!(cold.evm_gas_used, 21_000 + 2 + 2_100 + 2);
    assert_eq!(warm.evm_gas_used, 21_000 + 2_400 + 1_900 + 2 + 100 + 2);
}

#[test]
fn a_cleared_slot_leaves_the_tree_and_gives_a_refund() {
    let mut chain = Chain::with_users(1);
    let contract = contract(&mut chain, 0, "PUSH0 CALLDATALOAD PUSH0 SSTORE STOP");
    let set =
        |nonce, value: u64| Tx::new(user(0), nonce, contract).gas(44_000).data(U256::from(value).to_be_bytes_vec());
    let written = chain.run_one(set(1, 5));
    assert_eq!(chain.slot(contract, 0), U256::from(5));
    let cleared = chain.run_one(set(2, 0));
    assert_eq!(chain.slot(contract, 0), U256::ZERO);
    assert!(cleared.evm_gas_used < written.evm_gas_used - 15_000);
    let root = chain.view().root().unwrap();
    let proof = chain.view().prove_slot(&contract, &U256::ZERO).unwrap();
    assert_eq!(proof.verify_slot(&root, &contract, &U256::ZERO), Ok(U256::ZERO));
    assert_eq!(proof.verify(&root, &cascade_execution::slot_key(&contract, &U256::ZERO)), Ok(None));
}

#[test]
fn contracts_see_the_environment_of_their_block() {
    let mut chain = Chain::with_users(1);
    let opcodes =
        ["TIMESTAMP", "NUMBER", "BASEFEE", "COINBASE", "PREVRANDAO", "CHAINID", "GASLIMIT", "BLOBBASEFEE", "ADDRESS"];
    let mut program: String =
        opcodes.iter().enumerate().map(|(i, opcode)| format!("{opcode} PUSH1 0x{i:02x} SSTORE ")).collect();
    program += "PUSH1 0x01 BLOCKHASH PUSH1 0x20 SSTORE NUMBER BLOCKHASH PUSH1 0x21 SSTORE";
    let contract = contract(&mut chain, 0, &program);
    let env = format!("{:?}", chain.env());
    let (base_fee, height) = (chain.base_fee, chain.height.next());
    assert_eq!(chain.run_one(Tx::new(user(0), 1, contract).gas(400_000)).outcome, Outcome::Success, "{env}");
    let expected = [
        U256::from((1_700_000_000_999 + height.0 * 100) / 1000),
        U256::from(height.0),
        U256::from(base_fee),
        word(PRODUCER),
        U256::from_be_bytes(keccak256(b"randao").0),
        U256::from(chain.params.chain_id.0),
        U256::from(chain.params.block_gas_limit),
        U256::from(1),
        word(contract),
    ];
    for (i, expected) in expected.into_iter().enumerate() {
        assert_eq!(chain.slot(contract, i as u64), expected, "{}", opcodes[i]);
    }
    assert_eq!(chain.slot(contract, 0x20), U256::from_be_bytes(block_hash(Height(1)).unwrap().unwrap().0));
    assert_eq!(chain.slot(contract, 0x21), U256::ZERO, "a block does not know its own hash");
}

#[test]
fn a_missing_block_hash_is_a_failure_of_the_store_and_not_an_outcome() {
    let mut chain = Chain::with_users(1);
    let contract = contract(&mut chain, 0, "PUSH0 BLOCKHASH PUSH0 SSTORE");
    chain.hashes = |_| Ok(None);
    let tx = Tx::new(user(0), 1, contract).sign();
    assert!(cascade_execution::execute_block(&chain.view(), &chain.env(), &[tx]).is_err());
}
