//! How well batches compress: levels of zstd, and whether a trained dictionary helps.
//!
//! `cargo run -p cascade-da --example batch_sizes`

use std::time::Instant;

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, Signature, TxKind, U256};
use cascade_primitives::{
    BlockHash, BlsSignature, Body, Bytes, Certificate, Certificates, Encode, Epoch, MemberIndex, SignerSet, View,
    VoteTarget,
};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| (self.next() >> 32) as u8)
    }

    /// One of `among` accounts, the first ones more often.
    fn account(&mut self, among: u64) -> Address {
        let pick = (self.next() % among).min(self.next() % among);
        let mut seed = Self((pick + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Address::from(seed.bytes::<20>())
    }
}

/// A transfer in coins (7 of 10) or in one of 20 tokens, signed by random numbers.
fn transaction(random: &mut Random) -> Bytes {
    let to = random.account(20_000);
    let amount = U256::from(random.next() % 1_000_000) * U256::from(10_u64.pow(12));
    let token = random.next() % 10 >= 7;
    let mut input = Vec::new();
    if token {
        input.extend_from_slice(&[0xa9, 0x05, 0x9c, 0xbb]);
        input.extend_from_slice(&[0; 12]);
        input.extend_from_slice(to.as_slice());
        input.extend_from_slice(&amount.to_be_bytes::<32>());
    }
    let tx = TxEip1559 {
        chain_id: 20250,
        nonce: random.next() % 500,
        gas_limit: if token { 65_000 } else { 21_000 },
        max_fee_per_gas: 20_000_000 + u128::from(random.next() % 4) * 1_000_000,
        max_priority_fee_per_gas: 1_000_000,
        to: TxKind::Call(if token { random.account(20) } else { to }),
        value: if token { U256::ZERO } else { amount },
        input: input.into(),
        ..TxEip1559::default()
    };
    let signature = Signature::new(
        U256::from_be_bytes(random.bytes::<32>()),
        U256::from_be_bytes(random.bytes::<32>()),
        random.next() & 1 == 0,
    );
    TxEnvelope::from(tx.into_signed(signature)).encoded_2718().into()
}

fn body(random: &mut Random, transactions: usize) -> Vec<u8> {
    let mut certificate = |target: VoteTarget| {
        let mut signers = SignerSet::new(4);
        (0..3).for_each(|i| assert!(signers.insert(MemberIndex(i))));
        Certificate { target, signers, signature: BlsSignature(random.bytes()) }
    };
    let certificates = Certificates {
        parent: Some(certificate(VoteTarget::prepare(Epoch(3), View(17), BlockHash([5; 32])))),
        commit: Some(certificate(VoteTarget::commit(Epoch(3), View(16), BlockHash([6; 32])))),
        ..Certificates::default()
    };
    let transactions = (0..transactions).map(|_| transaction(random)).collect();
    Body { certificates, transactions, ..Body::default() }.to_bytes()
}

fn main() {
    const BLOCKS: usize = 100;
    for per_block in [5, 100, 500] {
        let mut random = Random(7);
        let bodies: Vec<Vec<u8>> = (0..BLOCKS).map(|_| body(&mut random, per_block)).collect();
        let training: Vec<Vec<u8>> = (0..400).map(|_| body(&mut Random(random.next()), per_block.min(100))).collect();
        let dictionary = zstd::dict::from_samples(&training, 110 << 10).expect("there are samples enough");
        let raw = bodies.concat();
        println!("{BLOCKS} blocks of {per_block} transactions, {} bytes", raw.len());
        let show = |name: &str, work: &dyn Fn() -> usize| {
            let start = Instant::now();
            let size = work();
            let ms = start.elapsed().as_secs_f64() * 1e3;
            println!("  {name:<40} {size:>9} bytes {:>6.1}% {ms:>8.1} ms", 100.0 * size as f64 / raw.len() as f64);
        };
        for level in [1, 3, 9, 19] {
            show(&format!("one stream, level {level}"), &|| zstd::bulk::compress(&raw, level).map_or(0, |c| c.len()));
            show(&format!("one stream, level {level}, dictionary"), &|| {
                let mut compressor = zstd::bulk::Compressor::with_dictionary(level, &dictionary).expect("it is one");
                compressor.compress(&raw).map_or(0, |c| c.len())
            });
        }
        show("block by block, level 3", &|| {
            bodies.iter().map(|body| zstd::bulk::compress(body, 3).map_or(0, |c| c.len())).sum()
        });
        show("block by block, level 3, dictionary", &|| {
            let mut compressor = zstd::bulk::Compressor::with_dictionary(3, &dictionary).expect("it is one");
            bodies.iter().map(|body| compressor.compress(body).map_or(0, |c| c.len())).sum()
        });
    }
}
