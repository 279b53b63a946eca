//! Prints where the time of a block of plain transfers goes: EVM, tree and roots, store.
//!
//! `cargo run -p cascade-execution --example transfers -- [ACCOUNTS] [TRANSFERS] [BLOCKS]`

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, Signature, TxKind, U256, keccak256};
use cascade_execution::{
    BlockEnv, BlockRun, CacheSizes, InFlight, MemoryStore, State, StateStoreMut, StoreError, check_block_transactions,
    genesis_changes,
};
use cascade_primitives::{
    ChainParams, Genesis, GenesisAccount, Height, Network, RecoveredTransaction, TimestampMs, Transaction,
};

fn user(n: u64) -> Address {
    Address::from_word(keccak256(n.to_be_bytes()))
}

fn transfer(params: &ChainParams, from: u64, nonce: u64, to: u64) -> RecoveredTransaction {
    let transaction = TxEip1559 {
        chain_id: params.chain_id.0,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: 10_000_000_000,
        max_priority_fee_per_gas: 1,
        to: TxKind::Call(user(to)),
        value: U256::from(1),
        ..TxEip1559::default()
    };
    let signature = Signature::new(U256::from(from + 1), U256::from(1), false);
    let raw = TxEnvelope::from(transaction.into_signed(signature)).encoded_2718();
    let transaction = Transaction::decode(raw.into(), params.chain_id, 1 << 20).expect("a well-formed transfer");
    RecoveredTransaction::new(transaction, user(from))
}

fn per(total: Duration, count: u64) -> String {
    format!("{:8.2} us", total.as_secs_f64() * 1e6 / count as f64)
}

fn main() {
    let arguments: Vec<u64> = std::env::args().skip(1).map(|a| a.parse().expect("numbers")).collect();
    let argument = |i: usize, default| arguments.get(i).copied().unwrap_or(default);
    let (accounts, transfers, blocks) = (argument(0, 100_000), argument(1, 1000), argument(2, 20));
    let params = ChainParams { sender_tx_limit: u32::MAX, ..ChainParams::of(Network::Regtest) };
    let balance = U256::from(1_000_000_000_000_000_000_000_u128);
    let account = GenesisAccount { balance, ..GenesisAccount::default() };
    let alloc: BTreeMap<_, _> = (0..accounts).map(|i| (user(i), account.clone())).collect();
    let genesis = Genesis { params: params.clone(), timestamp: TimestampMs(0), committees: Vec::new(), alloc };
    let started = Instant::now();
    let changes = genesis_changes(&genesis).expect("a well-formed genesis");
    println!("genesis tree of {accounts} accounts: {:?}", started.elapsed());
    let store = Arc::new(MemoryStore::new());
    store.apply(&changes).expect("the first version");
    let state = State::open(store.clone(), CacheSizes::default()).expect("a store in memory");
    let hashes = |_: Height| -> Result<Option<B256>, StoreError> { Ok(Some(B256::ZERO)) };
    let mut nonces = vec![0; usize::try_from(accounts).expect("few enough")];
    let [mut check, mut evm, mut seal, mut apply, mut committed] = [Duration::ZERO; 5];
    let mut pick = 1u64;
    let mut random = move || {
        pick = pick.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (pick >> 33) % accounts
    };
    for height in 1..=blocks {
        let txs: Vec<_> = (0..transfers)
            .map(|_| {
                let (from, to) = (random(), random());
                let nonce = &mut nonces[usize::try_from(from).expect("an index")];
                *nonce += 1;
                transfer(&params, from, *nonce - 1, to)
            })
            .collect();
        let parent = state.at(Height(height - 1)).expect("executed");
        let time = TimestampMs(height * 1000);
        let env = BlockEnv::new(&params, Height(height), time, 1, user(accounts), B256::ZERO, &hashes);
        let in_flight = InFlight::empty(parent.version());
        let mut at = Instant::now();
        let mut lap = |total: &mut Duration| {
            *total += at.elapsed();
            at = Instant::now();
        };
        check_block_transactions(&params, 1, &parent, &in_flight, &txs).expect("valid transfers");
        lap(&mut check);
        let run = BlockRun::new(&parent, &env, &txs).expect("a store in memory");
        lap(&mut evm);
        let block = run.seal().expect("a store in memory");
        lap(&mut seal);
        store.apply(&block.changes).expect("the next version");
        lap(&mut apply);
        state.committed(&block.changes);
        lap(&mut committed);
        assert!(block.receipts.iter().all(|receipt| receipt.outcome.is_success()), "every transfer succeeds");
        if height == blocks {
            let (nodes, values) = (block.changes.nodes().len(), block.changes.values().len());
            println!("last block: {values} elements changed, {nodes} nodes written");
        }
    }
    let count = transfers * blocks;
    println!("per transfer, mean of {blocks} blocks of {transfers}:");
    let rows =
        [("ordering check", check), ("EVM", evm), ("tree + roots", seal), ("store", apply), ("caches", committed)];
    for (what, total) in rows {
        println!("  {what:15}{}", per(total, count));
    }
}
