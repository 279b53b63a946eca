//! P8: a proof verifies if and only if the element is there, or is not there, as it says.

use std::collections::BTreeMap;

use alloy_primitives::{B256, U256};
use cascade_execution::{
    ProofError, StateKey, StateProof, account_key,
    proof::{EMPTY_ROOT, MAX_PROOF_BYTES, PathEnd},
    slot_key, verify_batch,
};
use cascade_primitives::{Decode, Encode, GenesisAccount, Height};
use proptest::prelude::*;

use crate::{
    asm::{asm, deploy},
    chain::{Chain, Tx, ether, user},
};

/// A chain with `n` users and a contract whose slots `1..=slots` are set, all of them in one block.
fn chain(n: u64, slots: u64) -> (Chain, alloy_primitives::Address) {
    let mut alloc: BTreeMap<_, _> =
        (0..n).map(|i| (user(i), GenesisAccount { balance: ether(1000), ..Default::default() })).collect();
    let contract = user(1_000_000);
    let storage = (1..=slots).map(|i| (B256::from(U256::from(i)), B256::from(U256::from(i * i)))).collect();
    alloc.insert(contract, GenesisAccount { code: vec![0].into(), storage, nonce: 1, ..GenesisAccount::default() });
    (Chain::with_alloc(alloc), contract)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn p8_proofs_of_what_is_there_and_of_what_is_not(
        n in 1u64..60, slots in 0u64..40, a in 0u64..120, b in 0u64..120, slot in 0u64..80,
    ) {
        let (chain, contract) = chain(n, slots);
        let view = chain.view();
        let root = view.root().unwrap();
        let proof = view.prove_account(&user(a)).unwrap();
        let proved = proof.verify_account(&root, &user(a)).unwrap();
        prop_assert_eq!(proved, view.account(&user(a)).unwrap());
        prop_assert_eq!(proved.is_some(), a < n);
        let proved = view.prove_slot(&contract, &U256::from(slot)).unwrap().verify_slot(&root, &contract, &U256::from(slot));
        let expected = if (1..=slots).contains(&slot) { slot * slot } else { 0 };
        prop_assert_eq!(proved, Ok(U256::from(expected)));
        // The proof of one account never says anything wrong of another.
        if let Ok(proved) = proof.verify_account(&root, &user(b)) {
            prop_assert_eq!(proved, view.account(&user(b)).unwrap());
        }
        prop_assert!(proof.verify_account(&B256::repeat_byte(7), &user(a)).is_err());
        let bytes = proof.to_bytes();
        prop_assert!(bytes.len() <= MAX_PROOF_BYTES);
        prop_assert_eq!(StateProof::from_slice(&bytes).unwrap(), proof);
    }

    #[test]
    fn p8_a_changed_proof_proves_nothing(
        n in 1u64..60, a in 0u64..90, at: prop::sample::Index, bit in 0u8..8, swap: prop::sample::Index,
    ) {
        let (chain, _) = chain(n, 3);
        let view = chain.view();
        let root = view.root().unwrap();
        let proof = view.prove_account(&user(a)).unwrap();
        let truth = view.account(&user(a)).unwrap();
        let mut bytes = proof.to_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(changed) = StateProof::from_slice(&bytes) {
            prop_assert_ne!(&changed, &proof);
            prop_assert!(changed.verify_account(&root, &user(a)).is_err());
        }
        // Claims of the opposite on the same path.
        let absent = StateProof { end: PathEnd::Empty, ..proof.clone() };
        let made_up = StateProof { end: PathEnd::Value(vec![1; 72].into()), ..proof.clone() };
        prop_assert!(truth.is_none() || absent.verify_account(&root, &user(a)).is_err());
        prop_assert!(made_up.verify_account(&root, &user(a)).is_err());
        if !proof.siblings.is_empty() {
            let mut shorter = proof.clone();
            shorter.siblings.remove(swap.index(shorter.siblings.len()));
            prop_assert!(shorter.verify_account(&root, &user(a)).is_err());
        }
    }

    #[test]
    fn p8_batches_agree_with_single_proofs(n in 1u64..60, keys in prop::collection::vec(0u64..90, 1..30), bad: prop::sample::Index) {
        let (chain, _) = chain(n, 3);
        let view = chain.view();
        let root = view.root().unwrap();
        let state_keys: Vec<StateKey> = keys.iter().map(|a| account_key(&user(*a))).collect();
        let mut proofs: Vec<StateProof> = state_keys.iter().map(|key| view.prove(key).unwrap()).collect();
        {
            let proved = verify_batch(&root, &state_keys, &proofs).unwrap();
            for ((key, proof), value) in state_keys.iter().zip(&proofs).zip(proved) {
                prop_assert_eq!(proof.verify(&root, key), Ok(value));
            }
        }
        let bad = bad.index(proofs.len());
        proofs[bad].end = PathEnd::Value(vec![9; 72].into());
        prop_assert_eq!(verify_batch(&root, &state_keys, &proofs).unwrap_err().0, bad);
    }
}

#[test]
fn old_roots_can_be_proved() {
    let mut chain = Chain::with_users(20);
    let mut roots = vec![chain.view().root().unwrap()];
    for nonce in 0..10 {
        chain.run(&[Tx::new(user(0), nonce, user(30 + nonce)).value(ether(1))]);
        roots.push(chain.view().root().unwrap());
    }
    for (height, root) in roots.iter().enumerate() {
        let view = chain.state.at(Height(height as u64)).unwrap();
        let sender = view.prove_account(&user(0)).unwrap().verify_account(root, &user(0)).unwrap().unwrap();
        assert_eq!(sender.nonce, height as u64);
        for i in 0..10 {
            let proof = view.prove_account(&user(30 + i)).unwrap();
            let proved = proof.verify_account(root, &user(30 + i)).unwrap();
            assert_eq!(proved.is_some(), (i as usize) < height);
        }
    }
}

#[test]
fn the_empty_state_proves_every_absence() {
    let chain = Chain::with_alloc(BTreeMap::new());
    let view = chain.view();
    assert_eq!(view.root().unwrap(), EMPTY_ROOT);
    let proof = view.prove_account(&user(1)).unwrap();
    assert_eq!(proof.verify_account(&EMPTY_ROOT, &user(1)), Ok(None));
}

#[test]
fn the_largest_proof_that_decodes_is_below_ten_kilobytes() {
    let proof = StateProof {
        end: PathEnd::OtherLeaf { key: StateKey(B256::ZERO), value_hash: B256::ZERO },
        siblings: vec![B256::repeat_byte(1); 256],
    };
    assert!(proof.to_bytes().len() < 10_000 && MAX_PROOF_BYTES < 10_000);
    let deeper = StateProof { siblings: vec![B256::repeat_byte(1); 257], ..proof };
    assert!(StateProof::from_slice(&deeper.to_bytes()).is_err());
    assert_eq!(deeper.verify(&B256::ZERO, &StateKey(B256::ZERO)), Err(ProofError::TooDeep(257)));
}

#[test]
fn account_and_slot_keys_never_meet() {
    let address = user(1);
    assert_ne!(account_key(&address), slot_key(&address, &U256::ZERO));
}

#[test]
fn proofs_follow_a_contract_that_writes_and_clears_many_slots() {
    let mut chain = Chain::with_users(1);
    // For i in 1..=call data word 0: SSTORE(i, call data word 1).
    let program = asm("PUSH0 CALLDATALOAD
        :next DUP1 ISZERO @done JUMPI PUSH1 0x20 CALLDATALOAD DUP2 SSTORE PUSH1 0x01 SWAP1 SUB @next JUMP :done STOP");
    let contract = chain.run_one(Tx::new(user(0), 0, None).data(deploy("", &program))).contract_address.unwrap();
    let fill = |nonce, count: u64, value: u64| {
        let data = [U256::from(count), U256::from(value)].map(|word| word.to_be_bytes::<32>()).concat();
        Tx::new(user(0), nonce, contract).gas(5_000_000).data(data)
    };
    for (nonce, (count, value)) in [(100, 3), (60, 0), (30, 9)].into_iter().enumerate() {
        assert!(chain.run_one(fill(nonce as u64 + 1, count, value)).outcome.is_success());
    }
    let (view, root) = (chain.view(), chain.view().root().unwrap());
    for slot in 1..=110u64 {
        let expected = match slot {
            1..=30 => 9,
            61..=100 => 3,
            _ => 0,
        };
        let slot = U256::from(slot);
        let proof = view.prove_slot(&contract, &slot).unwrap();
        assert_eq!(proof.verify_slot(&root, &contract, &slot), Ok(U256::from(expected)));
    }
}
