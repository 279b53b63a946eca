//! Why a transaction was not taken. The texts are those that users of geth know.

use cascade_primitives::{Address, U256};
use thiserror::Error;

/// Why a transaction was not taken into the pool.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AdmissionError {
    /// The pool has it.
    #[error("already known")]
    AlreadyKnown,
    /// Its nonce is used, or taken by a transaction that is ordered.
    #[error("nonce too low: next nonce {next}, tx nonce {nonce}")]
    NonceTooLow {
        /// The nonce that the sender's next transaction must have.
        next: u64,
        /// The transaction's.
        nonce: u64,
    },
    /// Too many nonces before it are missing or waiting.
    #[error("nonce too high: next nonce {next}, tx nonce {nonce}, allowed below {limit}")]
    NonceTooHigh {
        /// The nonce that the sender's next transaction must have.
        next: u64,
        /// The transaction's.
        nonce: u64,
        /// The first nonce that is too high.
        limit: u64,
    },
    /// The largest nonce, after which an account could do nothing (EIP-2681).
    #[error("nonce has max value")]
    NonceMax,
    /// It alone costs more than the sender has left.
    #[error(
        "insufficient funds for gas * price + value: balance {balance}, tx cost {cost}, overshot {}",
        cost.saturating_sub(*balance)
    )]
    InsufficientFunds {
        /// What the sender has left beside what is ordered, in wei.
        balance: U256,
        /// The most that the transaction can cost, in wei.
        cost: U256,
    },
    /// With the sender's other transactions that wait it costs more than the sender has left.
    #[error(
        "insufficient funds for gas * price + value: balance {balance}, queued cost {queued}, tx cost {cost}, overshot {}",
        queued.saturating_add(*cost).saturating_sub(*balance)
    )]
    InsufficientFundsForAll {
        /// What the sender has left beside what is ordered, in wei.
        balance: U256,
        /// The most that its other waiting transactions can cost, in wei.
        queued: U256,
        /// The most that the transaction can cost, in wei.
        cost: U256,
    },
    /// The sender has code (EIP-3607).
    #[error("sender not an eoa: address {0}")]
    SenderNotEoa(Address),
    /// Its gas limit does not pay for its bytes (EIP-2028, EIP-2930, EIP-3860).
    #[error("intrinsic gas too low: gas {gas}, minimum needed {needed}")]
    IntrinsicGas {
        /// Its gas limit.
        gas: u64,
        /// The least.
        needed: u64,
    },
    /// Its gas limit is under the floor for calldata (EIP-7623).
    #[error("insufficient gas for floor data gas cost: gas {gas}, minimum needed {needed}")]
    FloorDataGas {
        /// Its gas limit.
        gas: u64,
        /// The least.
        needed: u64,
    },
    /// No block could hold it.
    #[error("exceeds block gas limit")]
    GasLimit {
        /// Its gas limit.
        gas: u64,
        /// The block's.
        limit: u64,
    },
    /// Its contract creation code is too long (EIP-3860).
    #[error("max initcode size exceeded: code size {size}, limit {limit}")]
    InitcodeSize {
        /// Bytes.
        size: usize,
        /// Most bytes.
        limit: usize,
    },
    /// Its fee cap is under the chain's least base fee.
    #[error("transaction underpriced: gas fee cap {fee}, minimum needed {floor}")]
    Underpriced {
        /// Its fee cap in wei per gas.
        fee: u128,
        /// The chain's `base_fee_floor`.
        floor: u128,
    },
    /// Another transaction has its nonce, and it does not pay 10% more in fee cap and tip cap.
    #[error("replacement transaction underpriced")]
    ReplacementUnderpriced,
    /// The sender has too many transactions in the pool.
    #[error("account limit exceeded: pooled {pooled} txs, limit {limit}")]
    AccountLimit {
        /// How many it has.
        pooled: usize,
        /// How many it may have.
        limit: usize,
    },
    /// The pool is full of transactions that pay at least as much.
    #[error("txpool is full")]
    Full,
}
