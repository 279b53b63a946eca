//! The gas that a transaction needs before anything runs (Prague rules).

use alloy_consensus::Transaction as _;
use cascade_primitives::Transaction;

/// Longest creation code in bytes (EIP-3860).
pub const MAX_INITCODE_BYTES: usize = 49_152;

const TX: u64 = 21_000;
const CREATE: u64 = 32_000;
const TOKEN: u64 = 4;
const TOKENS_PER_NONZERO_BYTE: u64 = 4;
const FLOOR_PER_TOKEN: u64 = 10;
const INITCODE_WORD: u64 = 2;
const ACCESS_LIST_ADDRESS: u64 = 2_400;
const ACCESS_LIST_SLOT: u64 = 1_900;

/// Calldata in tokens (EIP-7623): 1 for a zero byte, 4 for another.
fn tokens(tx: &Transaction) -> u64 {
    let input = tx.envelope().input();
    let zeros = input.iter().filter(|byte| **byte == 0).count() as u64;
    zeros + (input.len() as u64 - zeros) * TOKENS_PER_NONZERO_BYTE
}

/// Gas that is used up before the first instruction (Yellow Paper, EIP-2028, EIP-2930, EIP-3860).
///
/// Cannot overflow: a transaction has at most 1 MiB.
#[must_use]
pub fn intrinsic_gas(tx: &Transaction) -> u64 {
    let envelope = tx.envelope();
    let create =
        if envelope.is_create() { CREATE + INITCODE_WORD * (envelope.input().len() as u64).div_ceil(32) } else { 0 };
    let access = envelope.access_list().map_or(0, |list| {
        list.iter().map(|item| ACCESS_LIST_ADDRESS + ACCESS_LIST_SLOT * item.storage_keys.len() as u64).sum()
    });
    TX + create + access + TOKEN * tokens(tx)
}

/// The least gas that is charged for calldata (EIP-7623).
#[must_use]
pub fn floor_gas(tx: &Transaction) -> u64 {
    TX + FLOOR_PER_TOKEN * tokens(tx)
}
