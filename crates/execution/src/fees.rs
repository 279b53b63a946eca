//! EIP-1559 on ordered gas (decision 14 of the architecture).
//!
//! A block is built before anything in it runs, so what it reserves is all that the fee can follow: the base fee of
//! block h+1 follows the *ordered gas* of block h, the sum of the gas limits of its transactions. So that reserving
//! costs something, a transaction is charged for
//!
//! ```text
//!  max( gas used - refund,  calldata floor (EIP-7623),  half its gas limit, rounded up )
//! ```
//!
//! which is nothing extra for a wallet's usual margin. Refunds (EIP-3529, at most a fifth of the gas used) lower the
//! first term alone, so a refund never takes the charge below half the limit. The charge times the base fee is burned,
//! the charge times the tip goes to the producer, and the rest of what was reserved goes back to the sender.
//!
//! An envelope of an encrypted chain is charged for
//!
//! ```text
//!  max( what the transaction inside is charged for but for its half,  half the envelope's limit, rounded up,  envelope_gas )
//! ```
//!
//! and its payer pays it from the fee ledger ([`crate::ledger`]). The transaction inside pays no gas.

use cascade_primitives::{
    ChainParams,
    envelope::{MAX_BUCKET, envelope_gas},
};

/// The base fee moves by at most one part in this many from one block to the next.
pub const BASE_FEE_CHANGE_DENOMINATOR: u64 = 8;

/// Gas that a transaction with this gas limit is charged for at the least.
#[must_use]
pub const fn minimum_charge(gas_limit: u64) -> u64 {
    gas_limit.div_ceil(2)
}

/// Gas that an envelope must reserve at the least: [`envelope_gas`], and more than any for a bucket that does not exist.
#[must_use]
pub(crate) const fn least_envelope_gas(bucket: u8) -> u64 {
    if bucket > MAX_BUCKET { u64::MAX } else { envelope_gas(bucket) }
}

/// Gas that an envelope is charged for at the least, whatever is inside.
///
/// At most `gas_limit`, if that is at least [`envelope_gas`].
#[must_use]
pub const fn minimum_envelope_charge(gas_limit: u64, bucket: u8) -> u64 {
    let (half, least) = (minimum_charge(gas_limit), least_envelope_gas(bucket));
    if half > least { half } else { least }
}

/// Base fee of the block above a parent, in wei per gas. Never below the chain's floor.
#[must_use]
pub fn next_base_fee(parent_base_fee: u64, parent_ordered_gas: u64, params: &ChainParams) -> u64 {
    let target = (params.block_gas_limit / 2).max(1);
    let change = |distance: u64| {
        let scaled = u128::from(parent_base_fee) * u128::from(distance)
            / u128::from(target)
            / u128::from(BASE_FEE_CHANGE_DENOMINATOR);
        u64::try_from(scaled).unwrap_or(u64::MAX)
    };
    let next = if parent_ordered_gas > target {
        parent_base_fee.saturating_add(change(parent_ordered_gas - target).max(1))
    } else {
        parent_base_fee.saturating_sub(change(target - parent_ordered_gas))
    };
    next.max(params.base_fee_floor)
}

#[cfg(test)]
mod tests {
    use cascade_primitives::Network;
    use proptest::prelude::*;

    use super::*;

    fn params() -> ChainParams {
        ChainParams { block_gas_limit: 30_000_000, base_fee_floor: 7, ..ChainParams::of(Network::Mainnet) }
    }

    #[test]
    fn a_full_block_raises_the_fee_by_an_eighth_and_an_empty_one_lowers_it_by_an_eighth() {
        assert_eq!(next_base_fee(1_000_000_000, 30_000_000, &params()), 1_125_000_000);
        assert_eq!(next_base_fee(1_000_000_000, 15_000_000, &params()), 1_000_000_000);
        assert_eq!(next_base_fee(1_000_000_000, 0, &params()), 875_000_000);
        assert_eq!(next_base_fee(1_000_000_000, 20_000_000, &params()), 1_041_666_666);
    }

    #[test]
    fn a_small_fee_still_rises_and_stops_at_the_floor() {
        assert_eq!(next_base_fee(7, 15_000_001, &params()), 8);
        assert_eq!(next_base_fee(7, 0, &params()), 7);
        assert_eq!(next_base_fee(u64::MAX, 30_000_000, &params()), u64::MAX);
    }

    proptest! {
        #[test]
        fn the_fee_moves_by_at_most_an_eighth_and_one_wei(fee in 7u64.., ordered in 0u64..=30_000_000) {
            let next = next_base_fee(fee, ordered, &params());
            prop_assert!(next >= 7);
            prop_assert!(next.abs_diff(fee) <= fee / 8 + 1);
            prop_assert_eq!(next > fee, ordered > 15_000_000 && fee < u64::MAX);
        }

        #[test]
        fn the_least_charge_is_half_the_limit_rounded_up(limit: u64) {
            let charge = minimum_charge(limit);
            prop_assert_eq!(u128::from(charge) * 2, u128::from(limit) + u128::from(limit % 2));
        }
    }
}
