//! Bytes to values and back: a block of 500 transfers, its hash, its transactions, and their signers.

use std::hint::black_box;

use bytes::Bytes;
use cascade_benches::{params, signed_transfer};
use cascade_crypto::ecdsa;
use cascade_primitives::{B256, Block, Body, Decode, Encode, Genesis, SealedBlock, TimestampMs, Transaction};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const TRANSFERS: u64 = 500;

fn codec(c: &mut Criterion) {
    let raw: Vec<Bytes> = (0..TRANSFERS).map(|n| signed_transfer(n, 0).0).collect();
    let genesis =
        Genesis { params: params(), timestamp: TimestampMs(0), committees: Vec::new(), alloc: Default::default() };
    let header = genesis.block(B256::ZERO, B256::ZERO, B256::ZERO).header;
    let block = Block { header, body: Body { transactions: raw.clone(), ..Body::default() } };
    let encoded = block.to_bytes();
    let mut group = c.benchmark_group("codec");
    group.throughput(Throughput::Bytes(encoded.len() as u64));
    group.bench_function("encode a block of 500 transfers", |b| b.iter(|| black_box(&block).to_bytes()));
    group.bench_function("decode it", |b| b.iter(|| Block::from_slice(black_box(&encoded)).expect("a block")));
    group.bench_function("seal it, which hashes the header", |b| {
        b.iter_batched(|| block.clone(), |block| SealedBlock::new(block).hash(), BatchSize::SmallInput);
    });
    group.throughput(Throughput::Elements(TRANSFERS));
    let decode = |raw: &Bytes| Transaction::decode(raw.clone(), params().chain_id, 1 << 17).expect("a transaction");
    group.bench_function("decode its transactions", |b| b.iter(|| raw.iter().map(decode).collect::<Vec<_>>()));
    let transactions: Vec<Transaction> = raw.iter().map(decode).collect();
    group.bench_function("recover their signers, all cores", |b| {
        b.iter_batched(|| transactions.clone(), ecdsa::recover_all, BatchSize::SmallInput);
    });
    let one = transactions[0].clone();
    group.throughput(Throughput::Elements(1));
    group.bench_function("recover one signer", |b| {
        b.iter_batched(|| one.clone(), ecdsa::recover, BatchSize::SmallInput);
    });
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
