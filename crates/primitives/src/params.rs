//! `ChainParams`: every constant that all nodes of a chain must agree on, with a column for each network.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    block::MAX_TRANSACTION_BYTES,
    codec::Encode,
    envelope::{MAX_ENVELOPES_PER_BLOCK, POINT_BYTES},
    ids::ChainId,
};

/// Decryption shares in one message: envelopes of a block times seats of a sequencer.
pub const MAX_SHARES: u64 = 1 << 17;

/// Which column of the table of constants a chain starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The public chain.
    Mainnet,
    /// The public test chain.
    Testnet,
    /// A chain on one machine or in one test. Only here are public development keys allowed.
    Regtest,
}

impl Encode for Network {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::Mainnet => 0,
            Self::Testnet => 1,
            Self::Regtest => 2,
        });
    }
}

/// What a chain's blocks order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransactionRule {
    /// Ethereum transactions in the clear (legacy, EIP-2930, EIP-1559), executed on the EVM.
    Plain,
    /// Envelopes around encrypted Ethereum transactions, and deposits that pay for them ([`crate::envelope`]). Opened and
    /// executed once their order is final.
    Encrypted,
    /// Opaque byte strings: neither signed nor executed. For comparison with published consensus benchmarks.
    Opaque,
}

impl Encode for TransactionRule {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::Plain => 0,
            Self::Opaque => 1,
            Self::Encrypted => 2,
        });
    }
}

macro_rules! chain_params {
    ($($(#[$doc:meta])* $name:ident: $t:ty = $main:expr, $test:expr, $reg:expr;)*) => {
        /// Constants of a chain. All nodes must agree on every one of them; they are part of the genesis hash.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct ChainParams {
            $($(#[$doc])* pub $name: $t,)*
        }

        impl ChainParams {
            /// The constants of a network.
            #[must_use]
            pub const fn of(network: Network) -> Self {
                match network {
                    Network::Mainnet => Self { $($name: $main,)* },
                    Network::Testnet => Self { $($name: $test,)* },
                    Network::Regtest => Self { $($name: $reg,)* },
                }
            }
        }

        impl Encode for ChainParams {
            fn encode(&self, out: &mut Vec<u8>) {
                $(self.$name.encode(out);)*
            }
        }
    };
}

chain_params! {
    /// The network whose rules about keys and money apply.
    network: Network = Network::Mainnet, Network::Testnet, Network::Regtest;
    /// The chain's id (EIP-155).
    chain_id: ChainId = ChainId(20250), ChainId(20251), ChainId(20252);
    /// What blocks order.
    transactions: TransactionRule = TransactionRule::Plain, TransactionRule::Plain, TransactionRule::Plain;
    /// Least HAT score of a sequencer, 0-100.
    min_hat: u8 = 70, 50, 50;
    /// Least stake of a sequencer, in CAS.
    min_stake: u64 = 100, 10, 10;
    /// Sequencers without which an epoch cannot start.
    min_sequencers: u32 = 3, 3, 1;
    /// Seats that are dealt when weights differ.
    seats: u32 = 32, 32, 16;
    /// Views in a leader's term. A leader may leave a transaction out for as long and bet on its limits, which go stale
    /// meanwhile: what that gains is measured in docs/attacker.md.
    views_per_term: u64 = 1, 1, 1;
    /// How long a view may go without its certificate before it is skipped, in ms.
    leader_timeout_ms: u64 = 3_000, 3_000, 1_000;
    /// Shortest interval between two blocks, in ms. 0 means as fast as the votes come.
    block_time_ms: u64 = 500, 500, 100;
    /// With no transactions a block is made after this many block times.
    empty_block_interval: u64 = 20, 20, 20;
    /// D: the results of a block stand at the earliest this many blocks above it.
    results_lag: u64 = 3, 3, 3;
    /// Blocks of an epoch that may carry transactions.
    epoch_length: u64 = 7_200, 7_200, 200;
    /// Blocks by which an epoch grows while the next committee is not ready.
    epoch_extension: u64 = 720, 720, 50;
    /// Extensions after which candidates that are not ready are dropped.
    epoch_extensions_max: u64 = 10, 10, 10;
    /// Blocks for which the keys of a past epoch are kept.
    old_keys_kept: u64 = 720, 720, 50;
    /// Blocks for which an envelope may be valid at the most.
    max_validity: u64 = 1_200, 1_200, 600;
    /// Content blocks at the end of an epoch that key generation has to itself: from there on it starts without the
    /// members of the next committee that have not announced their encryption keys. In epoch 0 it does so after as many.
    key_window: u64 = 600, 600, 20;
    /// Transaction bytes in a block.
    max_block_bytes: u32 = 2 << 20, 2 << 20, 8 << 20;
    /// Bytes of a transaction.
    max_tx_bytes: u32 = 128 << 10, 128 << 10, 128 << 10;
    /// Sum of the gas limits of a block's transactions.
    block_gas_limit: u64 = 30_000_000, 30_000_000, 300_000_000;
    /// Least base fee, in wei per gas.
    base_fee_floor: u64 = 10_000_000, 10_000_000, 1;
    /// Transactions that one sender may have in a block.
    sender_tx_limit: u32 = 100, 100, 100;
    /// The same for senders with a HAT score above 70.
    trusted_sender_tx_limit: u32 = 500, 500, 500;
    /// Blocks between two anchors on L1.
    anchor_interval: u64 = 100, 50, 5;
    /// Bytes of a piece of a published batch.
    batch_piece_bytes: u32 = 128 << 10, 128 << 10, 1 << 20;
    /// How long shares of a block are served, in ms.
    share_retention_ms: u64 = 604_800_000, 604_800_000, 3_600_000;
    /// Whether headers commit to the extended square of their block's body.
    data_squares: bool = true, true, true;
    /// How long stake stays bound after its owner left, in ms. Twice the challenge period, so that what is found at its end
    /// still costs somebody something. Nothing that is signed longer ago is trusted.
    unstaking_delay_ms: u64 = 1_209_600_000, 172_800_000, 86_400_000;
    /// How far a block's time may be from that of its L1 origin, in ms.
    l1_drift_ms: u64 = 900_000, 1_800_000, 3_600_000;
    /// How far a block's time may be ahead of a validator's clock, in ms.
    future_drift_ms: u64 = 30_000, 60_000, 300_000;
    /// L1 blocks after which L1 counts as final.
    l1_confirmations: u64 = 6, 3, 1;
}

/// A relation between constants that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{key} = {value} {rule}")]
pub struct ParamsError {
    /// The constant's name, as in the genesis file.
    pub key: &'static str,
    /// Its value.
    pub value: u64,
    /// The relation that it breaks.
    pub rule: &'static str,
}

impl ChainParams {
    /// Checks the relations between the constants.
    ///
    /// # Errors
    /// The first constant that breaks one.
    pub fn check(&self) -> Result<(), ParamsError> {
        let at_least_one = [
            ("seats", u64::from(self.seats)),
            ("min_sequencers", u64::from(self.min_sequencers)),
            ("views_per_term", self.views_per_term),
            ("empty_block_interval", self.empty_block_interval),
            ("results_lag", self.results_lag),
            ("epoch_extension", self.epoch_extension),
            ("block_gas_limit", self.block_gas_limit),
            ("base_fee_floor", self.base_fee_floor),
            ("sender_tx_limit", u64::from(self.sender_tx_limit)),
            ("max_validity", self.max_validity),
            ("chain_id", self.chain_id.0),
            ("unstaking_delay_ms", self.unstaking_delay_ms),
        ];
        if let Some(&(key, value)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return Err(ParamsError { key, value, rule: "must be at least 1" });
        }
        let relations = [
            (
                "leader_timeout_ms",
                self.leader_timeout_ms,
                self.leader_timeout_ms > self.block_time_ms,
                "must be greater than block_time_ms, or every view is skipped",
            ),
            (
                "epoch_length",
                self.epoch_length,
                self.epoch_length > self.results_lag,
                "must be greater than results_lag, or an epoch ends before its first results",
            ),
            (
                "key_window",
                self.key_window,
                self.key_window < self.epoch_length || self.transactions != TransactionRule::Encrypted,
                "must be less than epoch_length, or an epoch ends before its successor's keys are made",
            ),
            (
                "max_tx_bytes",
                u64::from(self.max_tx_bytes),
                self.max_tx_bytes <= self.max_block_bytes && self.max_tx_bytes as usize <= MAX_TRANSACTION_BYTES,
                "must be at most max_block_bytes and 1 MiB",
            ),
            (
                "max_block_bytes",
                u64::from(self.max_block_bytes),
                self.max_block_bytes as usize <= 12 << 20,
                "must be at most 12 MiB, so that a whole block with its header and certificates fits a message of 16 MiB",
            ),
            ("min_hat", u64::from(self.min_hat), self.min_hat <= 100, "must be at most 100"),
            (
                "trusted_sender_tx_limit",
                u64::from(self.trusted_sender_tx_limit),
                self.trusted_sender_tx_limit >= self.sender_tx_limit,
                "must be at least sender_tx_limit",
            ),
            ("results_lag", self.results_lag, self.results_lag <= 32, "must be at most 32"),
            ("seats", u64::from(self.seats), self.seats <= 1024, "must be at most 1024"),
            (
                "anchor_interval",
                self.anchor_interval,
                (1..=5_000).contains(&self.anchor_interval),
                "must be 1 to 5000: a batch ends where it can be sealed, and has at most 10,000 blocks",
            ),
            (
                "batch_piece_bytes",
                u64::from(self.batch_piece_bytes),
                (512..=4 << 20).contains(&self.batch_piece_bytes),
                "must be 512 bytes to 4 MiB",
            ),
        ];
        // An encrypted chain's messages and blocks must hold what a full block needs.
        let encrypted = self.transactions == TransactionRule::Encrypted;
        let envelopes = (self.block_gas_limit / 21_000).min(MAX_ENVELOPES_PER_BLOCK as u64);
        let most_seats = u64::from(self.seats.saturating_sub(1) / 3).max(1);
        let sealed = [
            ("seats", u64::from(self.seats), self.seats <= 256, "must be at most 256 on an encrypted chain"),
            (
                "block_gas_limit",
                self.block_gas_limit,
                envelopes * most_seats <= MAX_SHARES,
                "allows more envelopes than one member's message of shares holds",
            ),
            (
                "results_lag",
                self.results_lag,
                (self.results_lag + 2) * envelopes * POINT_BYTES as u64 <= 8 << 20,
                "makes more reveals due than a block holds",
            ),
        ];
        let relations = relations.into_iter().chain(sealed.into_iter().filter(|_| encrypted));
        match relations.into_iter().find(|(_, _, holds, _)| !holds) {
            Some((key, value, _, rule)) => Err(ParamsError { key, value, rule }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_network_keeps_its_own_rules() {
        for network in [Network::Mainnet, Network::Testnet, Network::Regtest] {
            assert_eq!(ChainParams::of(network).check(), Ok(()));
        }
    }

    #[test]
    fn a_broken_relation_names_its_key() {
        let params = ChainParams { leader_timeout_ms: 100, ..ChainParams::of(Network::Regtest) };
        assert_eq!(params.check().unwrap_err().key, "leader_timeout_ms");
        let blocks = |max_block_bytes| ChainParams { max_block_bytes, ..ChainParams::of(Network::Regtest) };
        assert_eq!(blocks(12 << 20).check(), Ok(()));
        assert_eq!(blocks((12 << 20) + 1).check().unwrap_err().key, "max_block_bytes");
        let interval = |anchor_interval| ChainParams { anchor_interval, ..ChainParams::of(Network::Regtest) }.check();
        assert_eq!((interval(1), interval(5_000)), (Ok(()), Ok(())));
        assert!([0, 5_001].iter().all(|n| interval(*n).is_err_and(|error| error.key == "anchor_interval")));
        let pieces = |batch_piece_bytes| ChainParams { batch_piece_bytes, ..ChainParams::of(Network::Regtest) }.check();
        assert_eq!((pieces(512), pieces(4 << 20)), (Ok(()), Ok(())));
        assert!([511, (4 << 20) + 1].iter().all(|n| pieces(*n).is_err_and(|error| error.key == "batch_piece_bytes")));
    }
}
