//! Executing a block of 500 transactions: EVM, state tree, receipts, roots, without storing it.

use std::hint::black_box;

use alloy_primitives::{TxKind, U256};
use cascade_benches::{Chain, asm, recovered, unsigned, user};
use cascade_execution::MemoryStore;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const ACCOUNTS: u64 = 100_000;
const TRANSACTIONS: usize = 500;
const TRANSFER: [u8; 4] = [0xa9, 0x05, 0x9c, 0xbb];

fn block_execution(c: &mut Criterion) {
    let mut group = c.benchmark_group("block_execution");
    group.throughput(Throughput::Elements(TRANSACTIONS as u64));
    let mut chain = Chain::new(MemoryStore::new(), ACCOUNTS);
    let block = chain.transfers(TRANSACTIONS);
    let parent = chain.view();
    group.bench_function("500 transfers", |b| b.iter(|| chain.run(&parent, black_box(&block)).seal()));
    group.bench_function("500 transfers, EVM alone", |b| {
        b.iter_batched(|| (), |()| chain.run(&parent, black_box(&block)), BatchSize::SmallInput);
    });

    let mut chain = Chain::new(MemoryStore::new(), ACCOUNTS);
    let token = chain.execute(&[recovered(0, unsigned(0, TxKind::Create, 1_000_000, asm::token()))]).receipts[0]
        .contract_address
        .expect("the contract is created");
    let call = |nonce: u64, to: u64| {
        let data = asm::calldata(TRANSFER, &[U256::from_be_slice(user(to).as_slice()), U256::from(1)]);
        recovered(0, unsigned(nonce, TxKind::Call(token), 100_000, data))
    };
    let block: Vec<_> = (0..TRANSACTIONS as u64).map(|n| call(n + 1, n)).collect();
    let parent = chain.view();
    group.bench_function("500 ERC-20 transfers", |b| b.iter(|| chain.run(&parent, black_box(&block)).seal()));
    group.finish();
}

criterion_group!(benches, block_execution);
criterion_main!(benches);
