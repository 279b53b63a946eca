//! What an envelope offers that takes money out of the fee ledger (`cascade_execution::Withdrawal`): the amount is reserved
//! by its gas limit and a fee cap of that height, which is no higher price.

use alloy_primitives::U256;
use thiserror::Error;

/// Gas of the transaction inside: 68 bytes of data to an account without code, by the dearer of both rules (EIP-7623).
const GAS: u64 = 24_000;

/// What the envelope of a withdrawal offers, so that it reserves enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Gas limit, of the transaction inside too.
    pub gas: u64,
    /// Fee cap, in wei per gas.
    pub max_fee: u64,
}

/// The payer has less in the fee ledger than the withdrawal needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("insufficient funds: {balance} wei in the fee ledger, {needed} needed with the gas")]
pub struct OfferError {
    /// What there is, in wei.
    pub balance: U256,
    /// What there would have to be, in wei.
    pub needed: U256,
}

impl Offer {
    /// Reserves an amount in wei, or the whole `balance`, beside gas at `price` wei.
    ///
    /// # Errors
    /// If the balance is too small for that.
    pub fn of(value: Option<U256>, balance: U256, price: u128) -> Result<Self, OfferError> {
        let short = |needed: U256| OfferError { balance, needed };
        let gas_at = |gas: u64| U256::from(gas).saturating_mul(U256::from(price));
        let wanted = value.map_or(balance, |value| value.saturating_add(gas_at(GAS)));
        // Fee caps have 64 bits: what they cannot say, more gas does, with room for the price. Half of it is paid for.
        let gas = u64::try_from(wanted.div_ceil(U256::from(u64::MAX / 2))).map_err(|_| short(wanted))?.max(GAS);
        let cap = match value {
            Some(value) => value.div_ceil(U256::from(gas)).saturating_add(U256::from(price)),
            None => balance / U256::from(gas),
        };
        let reserved = cap.saturating_mul(U256::from(gas));
        if reserved > balance {
            return Err(short(reserved));
        }
        if cap < U256::from(price) {
            return Err(short(gas_at(gas)));
        }
        let max_fee = u64::try_from(cap).map_err(|_| short(reserved))?;
        Ok(Self { gas, max_fee })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_amounts_take_little_gas_and_large_ones_as_much_as_the_fee_cap_cannot_say() {
        let coin = U256::from(10).pow(U256::from(18));
        let price = 2_000_000_001;
        let one = Offer::of(Some(coin), coin * U256::from(2), price).unwrap();
        assert_eq!(one.gas, GAS);
        let all = Offer::of(None, coin, price).unwrap();
        assert_eq!((all.gas, all.max_fee), (GAS, 41_666_666_666_666));
        let million = Offer::of(None, coin * U256::from(1_000_000), price).unwrap();
        assert!((108_000..109_000).contains(&million.gas), "{million:?}");
        let short = Offer::of(Some(coin), coin, price).unwrap_err();
        assert!(short.balance == coin && short.needed > coin, "{short}");
        assert!(Offer::of(None, U256::from(GAS), price).is_err());
        assert!(Offer::of(Some(U256::MAX), coin, price).is_err());
    }

    proptest! {
        /// What is offered can be paid, pays the price, and reserves the amount beside all of its gas.
        #[test]
        fn an_offer_reserves_what_it_must_and_no_more_than_there_is(
            balance: u128, part in prop::option::of(0u64..110), price in 1u64..1_000_000_000_000,
        ) {
            let balance = U256::from(balance);
            let value = part.map(|part| balance / U256::from(100) * U256::from(part));
            if let Ok(Offer { gas, max_fee }) = Offer::of(value, balance, price.into()) {
                let reserved = U256::from(gas) * U256::from(max_fee);
                prop_assert!(reserved <= balance && max_fee >= price && gas >= GAS);
                match value {
                    Some(value) => prop_assert!(value + U256::from(gas) * U256::from(price) <= reserved),
                    None => prop_assert!(balance - reserved < U256::from(gas)),
                }
            }
        }
    }
}
