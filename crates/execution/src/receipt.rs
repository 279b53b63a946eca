//! Receipts: what became of each transaction of a block.
//!
//! A receipt holds everything that the RPC shows of an execution and that the transaction itself does not say. Its
//! canonical encoding is what the receipts root commits to: leaf = tagged hash of the encoding, then the Merkle tree of
//! [`cascade_primitives::merkle`] in the order of the transactions. The logs' bloom filter is computed, not kept.

use std::fmt;

use alloy_primitives::{Address, B256, Bloom, Log, LogData};
use cascade_primitives::{
    Decode, DecodeError, DecodeErrorKind, Encode, Reader,
    codec::{encode_byte_string, encode_list},
    domain, hash, merkle,
};

/// Logs that one receipt may hold; bounds a decoder, gas bounds a transaction far below it.
const MAX_LOGS: usize = 1 << 20;

/// Bytes of data in one log; bounds a decoder, gas bounds a transaction below it.
const MAX_LOG_BYTES: usize = 64 << 20;

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
        }

        impl $name {
            const fn code(self) -> u8 {
                match self {
                    $(Self::$variant => $code,)*
                }
            }

            const fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $text,)*
                })
            }
        }

        impl Encode for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                out.push(self.code());
            }
        }

        impl Decode for $name {
            fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                let code = u8::decode(r.field(stringify!($name)))?;
                Self::from_code(code).ok_or_else(|| r.error(DecodeErrorKind::UnknownTag(u64::from(code))))
            }
        }
    };
}

codes! {
    /// Why the EVM stopped a transaction and took all of its gas.
    Halt {
        /// The gas limit did not suffice.
        OutOfGas = 0 "out of gas",
        /// An opcode that does not exist, or INVALID.
        InvalidOpcode = 1 "invalid opcode",
        /// A jump to something that is no JUMPDEST.
        InvalidJump = 2 "invalid jump destination",
        /// Too few items on the stack.
        StackUnderflow = 3 "stack underflow",
        /// Too many items on the stack.
        StackOverflow = 4 "stack limit reached 1024",
        /// RETURNDATACOPY beyond the end.
        OutOfOffset = 5 "return data out of bounds",
        /// A contract stands at the new contract's address.
        CreateCollision = 6 "contract address collision",
        /// A precompile refused its input.
        Precompile = 7 "precompile failed",
        /// The creator's nonce is at its end.
        NonceOverflow = 8 "nonce uint64 overflow",
        /// The code is longer than EIP-170 allows.
        CodeSize = 9 "max code size exceeded",
        /// The code starts with 0xEF (EIP-3541).
        CodePrefix = 10 "invalid code: must not begin with 0xef",
        /// The init code is longer than EIP-3860 allows.
        InitCodeSize = 11 "max initcode size exceeded",
        /// A write inside a static call.
        WriteProtection = 12 "write protection",
        /// The sender's balance did not suffice for the value.
        OutOfFunds = 13 "insufficient balance for transfer",
        /// More than 1024 calls inside each other.
        CallDepth = 14 "max call depth exceeded",
    }
}

codes! {
    /// Why a transaction in a block did nothing at all: no gas, no fee, no nonce.
    ///
    /// The rules for a block's transactions ([`crate::ordering`]) exclude every one of these. They are defined all the
    /// same, so that execution is total whatever is in a block (decision 13 of the architecture).
    NoOpReason {
        /// A transaction of the sender with this nonce ran already.
        NonceTooLow = 0 "nonce too low",
        /// An earlier transaction of the sender is missing.
        NonceTooHigh = 1 "nonce too high",
        /// The balance does not cover gas limit times fee cap and the value.
        InsufficientFunds = 2 "insufficient funds for gas * price + value",
        /// The fee cap is below the block's base fee.
        FeeCapTooLow = 3 "max fee per gas less than block base fee",
        /// The tip is above the fee cap.
        TipAboveFeeCap = 4 "max priority fee per gas higher than max fee per gas",
        /// The gas limit does not cover what every such transaction costs before it starts.
        IntrinsicGas = 5 "intrinsic gas too low",
        /// The gas limit does not cover the floor for its data (EIP-7623).
        FloorGas = 6 "insufficient gas for floor data gas cost",
        /// The gas limits of the block's transactions add up to more than the block's.
        BlockGasLimit = 7 "exceeds block gas limit",
        /// The sender is a contract (EIP-3607).
        SenderIsContract = 8 "sender not an eoa",
        /// The nonce is at its end (EIP-2681).
        NonceMax = 9 "nonce has max value",
        /// The init code is longer than EIP-3860 allows.
        InitCodeSize = 10 "max initcode size exceeded",
        /// Signed for another chain.
        ChainId = 11 "invalid chain id for signer",
        /// A type or form that this chain does not take.
        Unsupported = 12 "transaction type not supported",
    }
}

codes! {
    /// Why nothing ran although an envelope was charged for: what it sealed is no transaction that can start.
    ///
    /// Nobody knows what is inside when an envelope gets its place, so no rule can exclude these.
    NotRun {
        /// The ciphertext does not open, though its proof holds.
        Undecryptable = 0 "the envelope cannot be decrypted",
        /// The payload is not the one that the envelope commits to.
        Commitment = 1 "the payload does not match the envelope's commitment",
        /// The payload is no signed transaction of this chain.
        NotATransaction = 2 "the payload is no transaction of this chain",
        /// The transaction may use more gas than the envelope pays for.
        GasLimit = 3 "the transaction's gas limit is above the envelope's",
        /// A transaction of the sender with this nonce ran already.
        NonceTooLow = 4 "nonce too low",
        /// An earlier transaction of the sender is missing.
        NonceTooHigh = 5 "nonce too high",
        /// The sender's balance does not cover the value.
        InsufficientFunds = 6 "insufficient funds for transfer",
        /// The gas limit does not cover what every such transaction costs before it starts.
        IntrinsicGas = 7 "intrinsic gas too low",
        /// The gas limit does not cover the floor for its data (EIP-7623).
        FloorGas = 8 "insufficient gas for floor data gas cost",
        /// The sender is a contract (EIP-3607).
        SenderIsContract = 9 "sender not an eoa",
        /// The nonce is at its end (EIP-2681).
        NonceMax = 10 "nonce has max value",
        /// The init code is longer than EIP-3860 allows.
        InitCodeSize = 11 "max initcode size exceeded",
        /// A withdrawal from the fee ledger that somebody else than the envelope's payer signed.
        NotThePayer = 12 "only the envelope's payer can withdraw from the fee ledger",
        /// A withdrawal of another form.
        Withdrawal = 13 "a withdrawal is withdraw(address,uint256) without value, to another account than the ledger",
        /// A withdrawal of more than the envelope reserves beyond its gas.
        Reserve = 14 "the envelope does not reserve the amount and its gas",
    }
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It ran to its end.
    Success,
    /// It was undone by REVERT, except for its fee and nonce.
    Reverted,
    /// It was undone by a fault, except for its fee and nonce, and all its gas was taken.
    Halted(Halt),
    /// It did nothing.
    NoOp(NoOpReason),
    /// What an envelope sealed did nothing; the payer was charged the least that the envelope costs, and its nonce in the
    /// fee ledger is used.
    Charged(NotRun),
}

impl Outcome {
    /// Whether the RPC shows status 1.
    #[must_use]
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Success)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Success => f.write_str("success"),
            Self::Reverted => f.write_str("execution reverted"),
            Self::Halted(reason) => reason.fmt(f),
            Self::NoOp(reason) => write!(f, "not executed: {reason}"),
            Self::Charged(reason) => write!(f, "charged, nothing ran: {reason}"),
        }
    }
}

impl Encode for Outcome {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Success => out.push(0),
            Self::Reverted => out.push(1),
            Self::Halted(reason) => {
                out.push(2);
                reason.encode(out);
            }
            Self::NoOp(reason) => {
                out.push(3);
                reason.encode(out);
            }
            Self::Charged(reason) => {
                out.push(4);
                reason.encode(out);
            }
        }
    }
}

impl Decode for Outcome {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match u8::decode(r.field("outcome"))? {
            0 => Self::Success,
            1 => Self::Reverted,
            2 => Self::Halted(Halt::decode(r)?),
            3 => Self::NoOp(NoOpReason::decode(r)?),
            4 => Self::Charged(NotRun::decode(r)?),
            tag => return Err(r.error(DecodeErrorKind::UnknownTag(u64::from(tag)))),
        })
    }
}

/// [`Receipt::transaction_type`] of an envelope of which nothing ran: the last type that EIP-2718 has.
pub const ENVELOPE_RECEIPT_TYPE: u8 = 0x7f;

/// What became of one transaction of a block.
///
/// A block has one receipt for each transaction; on an encrypted chain one for each item, in the order of execution, which
/// is not the proposer's: the receipt at place i is that of the item that the shuffle puts at place i
/// (`cascade_crypto::threshold::shuffle`). What ran is named by its own hash, the one that its wallet shows, and the
/// rest of the receipt speaks of it; gas and price are those that the payer paid. Of an envelope of which nothing ran
/// ([`Outcome::NoOp`], [`Outcome::Charged`]) the receipt has the envelope's hash, [`ENVELOPE_RECEIPT_TYPE`], the payer
/// as `from` and no `to`; so what is inside stays out of the receipts unless it ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The transaction, or the envelope of which nothing ran.
    pub transaction_hash: B256,
    /// Its EIP-2718 type: 0, 1 or 2; or [`ENVELOPE_RECEIPT_TYPE`].
    pub transaction_type: u8,
    /// Who signed it.
    pub from: Address,
    /// Whom it called; none if it created a contract.
    pub to: Option<Address>,
    /// What became of it.
    pub outcome: Outcome,
    /// Gas that it was charged for, which the RPC shows as gas used.
    pub gas_used: u64,
    /// Gas that the EVM used, after refunds; at most `gas_used`.
    pub evm_gas_used: u64,
    /// `gas_used` of this and all earlier transactions of the block.
    pub cumulative_gas_used: u64,
    /// Wei paid per gas.
    pub effective_gas_price: u128,
    /// The contract that it created.
    pub contract_address: Option<Address>,
    /// Number of the first of `logs` within the block.
    pub first_log_index: u32,
    /// What it logged.
    pub logs: Vec<Log>,
}

impl Receipt {
    /// The bloom filter over its logs.
    #[must_use]
    pub fn bloom(&self) -> Bloom {
        self.logs.iter().collect()
    }
}

/// The Merkle root over a block's receipts; zero for none.
#[must_use]
pub fn receipts_root(receipts: &[Receipt]) -> B256 {
    merkle::root(&receipt_leaves(receipts))
}

/// The leaves of the receipts root, from which `merkle::proof` makes the proof of one receipt.
#[must_use]
pub fn receipt_leaves(receipts: &[Receipt]) -> Vec<B256> {
    receipts.iter().map(|receipt| hash::of(domain::RECEIPT, receipt)).collect()
}

struct WireLog(Log);

impl Encode for WireLog {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_log(&self.0, out);
    }
}

fn encode_log(log: &Log, out: &mut Vec<u8>) {
    log.address.encode(out);
    encode_list(log.data.topics(), out);
    encode_byte_string(&log.data.data, out);
}

impl Decode for WireLog {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let address = Address::decode(r.field("log"))?;
        let topics = r.list(4)?;
        let data = r.byte_string(MAX_LOG_BYTES)?;
        Ok(Self(Log { address, data: LogData::new_unchecked(topics, data.into()) }))
    }
}

impl Encode for Receipt {
    fn encode(&self, out: &mut Vec<u8>) {
        self.transaction_hash.encode(out);
        self.transaction_type.encode(out);
        self.from.encode(out);
        self.to.encode(out);
        self.outcome.encode(out);
        self.gas_used.encode(out);
        self.evm_gas_used.encode(out);
        self.cumulative_gas_used.encode(out);
        self.effective_gas_price.encode(out);
        self.contract_address.encode(out);
        self.first_log_index.encode(out);
        u32::try_from(self.logs.len()).expect("gas bounds the number of logs").encode(out);
        for log in &self.logs {
            encode_log(log, out);
        }
    }
}

impl Decode for Receipt {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.field("receipt");
        Ok(Self {
            transaction_hash: B256::decode(r)?,
            transaction_type: u8::decode(r)?,
            from: Address::decode(r)?,
            to: Option::decode(r)?,
            outcome: Outcome::decode(r)?,
            gas_used: u64::decode(r.field("receipt"))?,
            evm_gas_used: u64::decode(r)?,
            cumulative_gas_used: u64::decode(r)?,
            effective_gas_price: u128::decode(r)?,
            contract_address: Option::decode(r)?,
            first_log_index: u32::decode(r)?,
            logs: r.list::<WireLog>(MAX_LOGS)?.into_iter().map(|log| log.0).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        pub(crate) fn receipts()(
            hash: [u8; 32], kind in 0u8..3, from: [u8; 20], to: Option<[u8; 20]>, outcome in 0u8..5, halt in 0u8..15,
            no_op in 0u8..13, not_run in 0u8..12, gas: [u64; 3], price: u128, created: Option<[u8; 20]>, first: u32,
            logs in prop::collection::vec((any::<[u8; 20]>(), prop::collection::vec(any::<[u8; 32]>(), 0..5),
                prop::collection::vec(any::<u8>(), 0..50)), 0..4),
        ) -> Receipt {
            Receipt {
                transaction_hash: hash.into(), transaction_type: kind, from: from.into(), to: to.map(Into::into),
                outcome: match outcome {
                    0 => Outcome::Success,
                    1 => Outcome::Reverted,
                    2 => Outcome::Halted(Halt::from_code(halt).unwrap()),
                    3 => Outcome::NoOp(NoOpReason::from_code(no_op).unwrap()),
                    _ => Outcome::Charged(NotRun::from_code(not_run).unwrap()),
                },
                gas_used: gas[0], evm_gas_used: gas[1], cumulative_gas_used: gas[2], effective_gas_price: price,
                contract_address: created.map(Into::into), first_log_index: first,
                logs: logs.into_iter().map(|(address, topics, data)| Log {
                    address: address.into(),
                    data: LogData::new_unchecked(topics.into_iter().map(Into::into).collect(), data.into()),
                }).collect(),
            }
        }
    }

    #[test]
    fn the_codes_of_outcomes_are_frozen() {
        let text = |bytes: [u8; 2]| Outcome::from_slice(&bytes).map(|outcome| outcome.to_string());
        let not_run = [
            "the envelope cannot be decrypted",
            "the payload does not match the envelope's commitment",
            "the payload is no transaction of this chain",
            "the transaction's gas limit is above the envelope's",
            "nonce too low",
            "nonce too high",
            "insufficient funds for transfer",
            "intrinsic gas too low",
            "insufficient gas for floor data gas cost",
            "sender not an eoa",
            "nonce has max value",
            "max initcode size exceeded",
            "only the envelope's payer can withdraw from the fee ledger",
            "a withdrawal is withdraw(address,uint256) without value, to another account than the ledger",
            "the envelope does not reserve the amount and its gas",
        ];
        for (code, reason) in (0..).zip(not_run) {
            assert_eq!(text([4, code]).unwrap(), format!("charged, nothing ran: {reason}"));
        }
        assert!(text([4, 15]).is_err() && Outcome::from_slice(&[5]).is_err());
        assert_eq!(text([3, 2]).unwrap(), "not executed: insufficient funds for gas * price + value");
        assert_eq!(text([2, 0]).unwrap(), "out of gas");
        assert!(text([3, 13]).is_err() && text([2, 15]).is_err());
    }

    proptest! {
        #[test]
        fn receipts_round_trip(receipt in receipts()) {
            prop_assert_eq!(Receipt::from_slice(&receipt.to_bytes()).unwrap(), receipt);
        }

        #[test]
        fn every_bit_of_a_receipt_is_in_the_root(receipt in receipts(), at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = receipt.to_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(other) = Receipt::from_slice(&bytes) {
                prop_assert_ne!(receipts_root(&[other]), receipts_root(&[receipt]));
            }
        }

        #[test]
        fn the_bloom_holds_every_address_and_topic(receipt in receipts()) {
            let bloom = receipt.bloom();
            for log in &receipt.logs {
                prop_assert!(bloom.contains_input(alloy_primitives::BloomInput::Raw(log.address.as_slice())));
                for topic in log.data.topics() {
                    prop_assert!(bloom.contains_input(alloy_primitives::BloomInput::Raw(topic.as_slice())));
                }
            }
        }
    }
}
