//! The pool against the chain's own ordering rules, which it knows nothing of; key generation and reveals against liars.

mod early;
mod formats;
mod keys;
mod replay;
mod reveals;

use std::{collections::BTreeMap, sync::Arc};

use alloy_consensus::{SignableTransaction, TxEip2930, TxEnvelope, TxLegacy};
use alloy_eips::{
    eip2718::Encodable2718,
    eip2930::{AccessList, AccessListItem},
};
use alloy_primitives::{Signature, TxKind};
use cascade_execution::{
    InFlight, MemoryStore, State, StateStoreMut, StateView, genesis_changes,
    ordering::{BlockLoad, check_block_transactions, intrinsic_gas as chain_intrinsic_gas},
    state::CacheSizes,
};
use cascade_mempool::{AccountState, Pool, PoolLimits, SelectLimits, Source, floor_gas, intrinsic_gas};
use cascade_primitives::{
    Address, B256, ChainParams, Genesis, GenesisAccount, Height, Network, RecoveredTransaction, TimestampMs,
    Transaction, U256,
};
use proptest::prelude::*;

const BASE_FEE: u64 = 50;

fn sender(n: u8) -> Address {
    Address::repeat_byte(n + 1)
}

fn recovered(sender: Address, envelope: &TxEnvelope) -> RecoveredTransaction {
    let params = ChainParams::of(Network::Regtest);
    let raw = envelope.encoded_2718().into();
    let tx = Transaction::decode(raw, params.chain_id, params.max_tx_bytes as usize).unwrap();
    RecoveredTransaction::new(tx, sender)
}

fn signature(n: u8) -> Signature {
    Signature::new(U256::from(n) + U256::from(1), U256::from(1), false)
}

fn transfer(n: u8, nonce: u64, price: u128, gas_limit: u64, value: u64) -> RecoveredTransaction {
    let unsigned = TxLegacy {
        chain_id: Some(20252),
        nonce,
        gas_price: price,
        gas_limit,
        to: TxKind::Call(Address::ZERO),
        value: U256::from(value),
        input: Default::default(),
    };
    recovered(sender(n), &unsigned.into_signed(signature(n)).into())
}

/// The state after genesis: senders with a nonce and a balance, the last one with code.
fn state(accounts: &[(u64, u64)]) -> StateView {
    let mut alloc: BTreeMap<_, _> = (0..)
        .zip(accounts)
        .map(|(n, &(nonce, balance))| {
            (sender(n), GenesisAccount { nonce, balance: U256::from(balance), ..GenesisAccount::default() })
        })
        .collect();
    if let Some(mut last) = alloc.last_entry() {
        last.get_mut().code = vec![0].into();
    }
    let params = ChainParams::of(Network::Regtest);
    let genesis = Genesis { params, timestamp: TimestampMs(1), committees: Vec::new(), alloc };
    let store = MemoryStore::new();
    store.apply(&genesis_changes(&genesis).unwrap()).unwrap();
    State::open(Arc::new(store), CacheSizes::default()).unwrap().latest().unwrap()
}

fn account(view: &StateView, in_flight: &InFlight, address: &Address) -> AccountState {
    let account = view.account(address).unwrap().unwrap_or_default();
    let load = in_flight.sender(address);
    AccountState {
        nonce: account.nonce,
        balance: account.balance,
        in_flight: load.count,
        in_flight_cost: load.cost,
        is_contract: account.has_code(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is in the pool and in flight, a selection is a valid block, on the branch that the pool was filled on
    /// and on any other.
    #[test]
    fn what_is_selected_passes_the_ordering_rules_of_the_chain(
        accounts in prop::collection::vec((0_u64..4, 0_u64..40_000_000), 5),
        flying in prop::collection::vec((0_u8..5, 0_u64..8), 0..12),
        others in prop::collection::vec((0_u8..5, 0_u64..8), 0..12),
        offered in prop::collection::vec((0_u8..5, 0_u64..14, 1_u128..300, 21_000_u64..40_000, 0_u64..1000), 0..80),
        sender_tx_limit in 1_u32..6,
        block_gas_limit in 40_000_u64..600_000,
    ) {
        let params = ChainParams { sender_tx_limit, block_gas_limit, ..ChainParams::of(Network::Regtest) };
        let view = state(&accounts);
        let branch = |flying: &[(u8, u64)]| {
            let txs: Vec<_> = flying.iter().map(|&(n, nonce)| transfer(n, nonce, 100, 21_000, 0)).collect();
            InFlight::empty(Height(0)).with_block(Arc::new(BlockLoad::of(&txs)))
        };
        let (branch, other) = (branch(&flying), branch(&others));
        let mut pool = Pool::new(PoolLimits::of(&params));
        for &(n, nonce, price, gas, value) in &offered {
            let tx = transfer(n, nonce, price, gas, value);
            let _ = pool.admit(TimestampMs(1), tx, Source::Peer, &|a: &Address| account(&view, &branch, a));
        }
        let limits = SelectLimits { bytes: 4000, gas: block_gas_limit, count: 1000 };
        for in_flight in [&branch, &other] {
            let block = pool.select(limits, BASE_FEE, &|a: &Address| account(&view, in_flight, a));
            let block: Vec<_> = block.iter().map(|tx| (**tx).clone()).collect();
            let checked = check_block_transactions(&params, BASE_FEE, &view, in_flight, &block);
            prop_assert!(checked.is_ok(), "{}", checked.unwrap_err());
        }
    }

    /// The pool's own gas table is the chain's.
    #[test]
    fn intrinsic_gas_is_that_of_the_chain(
        input in prop::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], 0..400),
        create: bool,
        access in prop::collection::vec(0_usize..4, 0..4),
    ) {
        let access_list = AccessList(access.iter().map(|&slots| AccessListItem {
            address: Address::ZERO,
            storage_keys: vec![B256::ZERO; slots],
        }).collect());
        let to = if create { TxKind::Create } else { TxKind::Call(Address::ZERO) };
        let unsigned = TxEip2930 {
            chain_id: 20252, nonce: 0, gas_price: 1, gas_limit: 1, to, value: U256::ZERO, access_list, input: input.into(),
        };
        let tx = recovered(sender(0), &unsigned.into_signed(signature(0)).into());
        prop_assert_eq!((intrinsic_gas(&tx), floor_gas(&tx)), chain_intrinsic_gas(&tx));
    }
}
