//! What a transfer cannot do without, measured alone in the process that drove the load, right after it: the sum of these
//! is what a node's CPU time for a transfer is compared with.
//!
//! - `recover`: decoding the transaction and recovering its signer, once;
//! - `evm`: running it in a block of [`BLOCK`], on a state in memory;
//! - `tree`: the new pages of the state tree and their hashes, in a state as large as the run left it;
//! - `hash`: the transaction's own hash, its part of the block's body root, and of the receipts root.
//!
//! What is left of a node's time is RPC, gossip, votes and certificates, storage, and the operating system.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use alloy_primitives::{Address, B256, Bytes as HexBytes, U256, keccak256};
use bytes::Bytes;
use cascade_crypto::ecdsa;
use cascade_execution::{
    BlockEnv, BlockRun, CacheSizes, MemoryStore, State, StateStoreMut, StoreError, genesis_changes, receipts_root,
};
use cascade_primitives::{
    Body, ChainParams, Genesis, GenesisAccount, Height, RecoveredTransaction, TimestampMs, Transaction,
};
use serde::Serialize;

use crate::{
    cli::Failure,
    testnet::{accounts, stats::round},
    wallet::{Fees, TRANSFER_GAS, Transfer},
};

/// Transfers in a block.
const BLOCK: u64 = 200;
/// Blocks that are measured, after one that is not.
const BLOCKS: u64 = 25;

/// CPU time of the parts of a transfer, in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Floor {
    pub(super) recover: f64,
    pub(super) evm: f64,
    pub(super) tree: f64,
    pub(super) hash: f64,
}

impl Floor {
    pub(super) fn sum(&self) -> f64 {
        self.recover + self.evm + self.tree + self.hash
    }
}

/// Time that this thread was on a core, which other processes do not change.
fn cpu() -> Result<Duration, Failure> {
    // The scheduler counts when it runs.
    std::thread::yield_now();
    let path = "/proc/thread-self/schedstat";
    let text = std::fs::read_to_string(path).map_err(|error| Failure::io(path, &error))?;
    let nanos = text.split_whitespace().next().and_then(|word| word.parse().ok());
    nanos.map(Duration::from_nanos).ok_or_else(|| Failure::new(format!("{path} holds no time")))
}

/// Measures them for a chain with so many senders, in a state of so many further accounts.
///
/// # Errors
/// If the system does not tell CPU time.
pub(super) fn measure(params: &ChainParams, senders: u64, others: u64) -> Result<Floor, Failure> {
    let broken = |error: StoreError| Failure::new(format!("measuring the parts of a transfer: {error}"));
    let wallets: Vec<_> = accounts::load_accounts(senders).collect();
    let account = GenesisAccount { balance: U256::from(10_u64).pow(U256::from(24)), ..GenesisAccount::default() };
    let funded = wallets.iter().map(|wallet| wallet.address()).chain((0..others).map(|n| recipient(n, b"old")));
    let alloc: BTreeMap<Address, GenesisAccount> = funded.map(|address| (address, account.clone())).collect();
    let genesis = Genesis { params: params.clone(), timestamp: TimestampMs(0), committees: Vec::new(), alloc };
    let store = Arc::new(MemoryStore::new());
    let changes = genesis_changes(&genesis).map_err(|error| Failure::new(error.to_string()))?;
    store.apply(&changes).map_err(broken)?;
    let state = State::open(Arc::clone(&store) as Arc<_>, CacheSizes::default()).map_err(broken)?;
    let mut floor = Floor::default();
    for block in 0..=BLOCKS {
        let raw: Vec<Bytes> = (block * BLOCK..(block + 1) * BLOCK)
            .map(|i| {
                let transfer = Transfer {
                    chain: params.chain_id,
                    nonce: i / senders,
                    to: recipient(i, b"new"),
                    value: U256::from(1),
                    data: HexBytes::new(),
                    gas: TRANSFER_GAS,
                    fees: Fees { max: 1_000_000_000_000, tip: 1 },
                };
                wallets[(i % senders) as usize].sign(&transfer).1.into()
            })
            .collect();
        let mut at = cpu()?;
        let mut lap = |part: &mut f64| -> Result<(), Failure> {
            let now = cpu()?;
            // The first block finds everything cold.
            if block > 0 {
                *part += now.saturating_sub(at).as_secs_f64() * 1e6 / (BLOCK * BLOCKS) as f64;
            }
            at = now;
            Ok(())
        };
        let transactions = recover(&raw, params)?;
        lap(&mut floor.recover)?;
        let parent = state.latest().map_err(|error| Failure::new(error.to_string()))?;
        let hashes = |_: Height| -> Result<Option<B256>, StoreError> { Ok(Some(B256::ZERO)) };
        let (height, fee) = (parent.version().next(), params.base_fee_floor);
        let env = BlockEnv::new(params, height, TimestampMs(height.0), fee, Address::ZERO, B256::ZERO, &hashes);
        lap(&mut 0.0)?;
        let run = BlockRun::new(&parent, &env, &transactions).map_err(broken)?;
        lap(&mut floor.evm)?;
        let executed = run.seal().map_err(broken)?;
        lap(&mut floor.tree)?;
        let body = Body { transactions: raw, ..Body::default() };
        std::hint::black_box(body.transactions.iter().map(keccak256).collect::<Vec<_>>());
        std::hint::black_box(body.root());
        lap(&mut floor.hash)?;
        std::hint::black_box(receipts_root(&executed.receipts));
        // Sealing hashed the receipts too; they count as hashing.
        let mut receipts = 0.0;
        lap(&mut receipts)?;
        floor.hash += receipts;
        floor.tree -= receipts;
        store.apply(&executed.changes).map_err(broken)?;
        state.committed(&executed.changes);
    }
    Ok(floor)
}

fn recover(raw: &[Bytes], params: &ChainParams) -> Result<Vec<RecoveredTransaction>, Failure> {
    let decode = |raw: &Bytes| {
        let transaction = Transaction::decode(raw.clone(), params.chain_id, params.max_tx_bytes as usize);
        transaction.and_then(ecdsa::recover).map_err(|error| Failure::new(error.to_string()))
    };
    raw.iter().map(decode).collect()
}

fn recipient(n: u64, kind: &[u8]) -> Address {
    Address::from_word(keccak256([kind, &n.to_le_bytes()].concat()))
}

/// What a node spends on a transfer, against what it must.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct CpuRatio {
    /// CPU time of a node for each executed transfer, in microseconds.
    pub(super) us_per_transfer: f64,
    /// The parts that no node can do without.
    pub(super) floor_us: Floor,
    /// One by the sum of the other.
    pub(super) ratio: f64,
}

impl CpuRatio {
    /// Of nodes that used `cores` together while each executed `rate` transfers a second.
    pub(super) fn new(cores: f64, nodes: u64, rate: f64, floor: Floor) -> Self {
        let us = cores * 1e6 / (rate * nodes as f64);
        let Floor { recover, evm, tree, hash } = floor;
        let [recover, evm, tree, hash] = [recover, evm, tree, hash].map(|us| round(us, 2));
        Self {
            us_per_transfer: round(us, 1),
            floor_us: Floor { recover, evm, tree, hash },
            ratio: round(us / floor.sum(), 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use cascade_primitives::Network;

    use super::*;

    #[test]
    fn every_part_of_a_transfer_takes_time() {
        let floor = measure(&ChainParams::of(Network::Regtest), 50, 100).unwrap();
        assert!([floor.recover, floor.evm, floor.tree, floor.hash].into_iter().all(|us| us > 0.0), "{floor:?}");
    }

    #[test]
    fn the_ratio_is_the_time_of_one_node_by_the_sum_of_the_parts() {
        let floor = Floor { recover: 30.0, evm: 5.0, tree: 10.0, hash: 5.0 };
        let ratio = CpuRatio::new(1.6, 4, 4_000.0, floor);
        assert_eq!((ratio.us_per_transfer, ratio.ratio), (100.0, 2.0));
    }
}
