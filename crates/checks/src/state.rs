//! Proofs and records of the state tree.
//!
//! A fixed small state stands behind the proofs: whatever the fuzzer makes of a proof, it proves the truth or nothing.

use std::{collections::BTreeMap, sync::LazyLock};

use alloy_primitives::{Address, B256, U256};
use cascade_execution::{
    Account, CacheSizes, MemoryStore, Receipt, State, StateKey, StateProof, StateView, TreeNodeKey, VersionIndex,
    account_key, genesis_changes,
    keys::{decode_slot, encode_slot},
    proof::MAX_PROOF_BYTES,
    slot_key,
    store::StateStoreMut as _,
    verify_batch,
};
use cascade_primitives::{ChainParams, Encode as _, Genesis, GenesisAccount, Height, Network, TimestampMs};

use crate::canonical::{canonical, survives};

/// Accounts of the fixed state; as many more addresses are asked for and are not there.
const ACCOUNTS: u8 = 16;
/// Slots of its contract, numbered from 1.
const SLOTS: u8 = 8;

struct Fixed {
    view: StateView,
    root: B256,
}

/// Built once; the state that every proof is checked against.
static FIXED: LazyLock<Fixed> = LazyLock::new(|| {
    let mut alloc: BTreeMap<_, _> = (0..ACCOUNTS)
        .map(|i| (address(i), GenesisAccount { balance: U256::from(i) + U256::from(1), ..Default::default() }))
        .collect();
    let storage =
        (1..=SLOTS).map(|i| (B256::from(U256::from(i)), B256::from(U256::from(1000 + u64::from(i))))).collect();
    alloc.insert(contract(), GenesisAccount { code: vec![0].into(), storage, nonce: 1, ..GenesisAccount::default() });
    let params = ChainParams::of(Network::Regtest);
    let genesis = Genesis { params, timestamp: TimestampMs(0), committees: Vec::new(), alloc };
    let store = std::sync::Arc::new(MemoryStore::new());
    store.apply(&genesis_changes(&genesis).expect("a sound genesis")).expect("an empty store");
    let state = State::open(store, CacheSizes::default()).expect("a store in memory");
    let view = state.at(Height(0)).expect("genesis is there");
    let root = view.root().expect("a store in memory");
    Fixed { view, root }
});

fn address(i: u8) -> Address {
    Address::repeat_byte(0x40 + i)
}

fn contract() -> Address {
    Address::repeat_byte(0xcc)
}

/// Proofs of all that is asked for, as inputs of [`check`].
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let view = &FIXED.view;
    let accounts = (0..2 * ACCOUNTS).map(|i| (i, view.prove_account(&address(i))));
    let slots = (0..2 * SLOTS).map(|i| (0x80 | i, view.prove_slot(&contract(), &U256::from(i))));
    accounts
        .chain(slots)
        .map(|(which, proof)| [&[0, which][..], &proof.expect("a store in memory").to_bytes()].concat())
        .collect()
}

/// Target `state`.
///
/// # Panics
/// If a rule is broken.
pub fn check(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else { return };
    match choice % 8 {
        0 | 1 => {
            let Some((&which, bytes)) = bytes.split_first() else { return };
            if let Some(proof) = canonical::<StateProof>(bytes) {
                assert!(bytes.len() <= MAX_PROOF_BYTES);
                check_proof(which, &proof);
            }
        }
        2 => {
            if let Some(account) = canonical::<Account>(bytes) {
                assert!(!account.is_empty());
            }
        }
        3 => {
            if let Ok(value) = decode_slot(bytes) {
                assert_eq!(encode_slot(&value), bytes);
            }
        }
        4 => {
            if let Some(key) = canonical::<TreeNodeKey>(bytes) {
                assert!(key.as_bytes().starts_with(&TreeNodeKey::prefix(key.version())));
            }
        }
        5 => drop(canonical::<VersionIndex>(bytes)),
        6 => {
            if let Some(receipt) = canonical::<Receipt>(bytes) {
                assert!(receipt.logs.len() <= bytes.len());
                survives(&receipt);
            }
        }
        _ => drop(canonical::<StateKey>(bytes)),
    }
}

fn check_proof(which: u8, proof: &StateProof) {
    let Fixed { view, root } = &*FIXED;
    let key = if which & 0x80 == 0 {
        let address = address(which % (2 * ACCOUNTS));
        if let Ok(account) = proof.verify_account(root, &address) {
            assert_eq!(account, view.account(&address).expect("a store in memory"), "a proof of {address} lies");
        }
        account_key(&address)
    } else {
        let slot = U256::from(which & (2 * SLOTS - 1));
        if let Ok(value) = proof.verify_slot(root, &contract(), &slot) {
            assert_eq!(value, view.storage(&contract(), &slot).expect("a store in memory"), "a proof of {slot} lies");
        }
        slot_key(&contract(), &slot)
    };
    let alone = proof.verify(root, &key);
    let honest = view.prove(&key).expect("a store in memory");
    let proofs = [honest, proof.clone(), proof.clone()];
    match (alone, verify_batch(root, &[key; 3], &proofs)) {
        (Ok(value), Ok(values)) => assert!(values[1] == value && values[2] == value),
        (Err(error), Err((1, in_batch))) => assert_eq!(error, in_batch),
        // A batch does not look at siblings above a node that another proof has shown; what it answers is still true.
        (Err(_), Ok(values)) => assert!(values[1] == values[0] && values[2] == values[0]),
        (alone, batch) => panic!("alone {alone:?}, among others {batch:?}"),
    }
}
