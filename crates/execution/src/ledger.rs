//! The fee ledger of an encrypted chain: what each payer of envelopes has, and its nonce.
//!
//! ```text
//!  account at FEE_LEDGER    nonce 1, no code, balance = sum of all payers' balances
//!  slot at the payer        0 (8 bytes) || nonce (8 bytes) || balance in wei (16 bytes), big endian
//! ```
//!
//! It lives in ordinary storage slots of one reserved address, so that a light client proves an entry as it proves any
//! slot ([`fee_slot`], [`FeeAccount::from_slot`]). Nothing that runs in the EVM can write there: storage is written by
//! the code that stands at its address alone, and no code can come to stand at this one. Genesis puts none there, its
//! nonce is not zero, so that creating a contract there is a collision (EIP-684), there are no set-code transactions,
//! and nobody has its key. Balances leave the ledger by a payer's own envelopes alone, one at a time: by its fee, and by
//! what the payer itself withdraws in it ([`crate::withdrawal`]), together at most what the envelope reserved. A payer's
//! balance and nonce therefore depend on its own envelopes and on deposits for it, whatever hidden transactions do.
//!
//! Wei that somebody sends to the address otherwise belong to nobody and stay there; the account's balance is then more
//! than the sum by as much.
//!
//! Balances fit 16 bytes because genesis refuses a supply of 2^128 wei or more, and nothing makes wei.

use alloy_primitives::{Address, U256, address};
use revm::Database as _;

use crate::{evm::Overlay, state::StateView, store::StoreError};

/// The address that the ledger's slots and money stand at. Reserved on encrypted chains, an address like any other on
/// plain ones.
pub const FEE_LEDGER: Address = address!("0x000000000000000000000000000000000000fee5");

/// Nonce of the ledger's account: an account that is not empty keeps its storage and takes no contract.
pub(crate) const LEDGER_NONCE: u64 = 1;

/// What a payer has in the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FeeAccount {
    /// Balance in wei, less than 2^128.
    pub balance: U256,
    /// The nonce that its next envelope must have: envelopes paid so far.
    pub nonce: u64,
}

impl FeeAccount {
    /// The entry that a slot holds; `None` if the value is none.
    #[must_use]
    pub fn from_slot(value: &U256) -> Option<Self> {
        let [low, high, nonce, 0] = *value.as_limbs() else { return None };
        Some(Self { balance: U256::from_limbs([low, high, 0, 0]), nonce })
    }

    /// The slot that holds the entry; `None` if the balance is 2^128 or more.
    #[must_use]
    pub fn to_slot(&self) -> Option<U256> {
        let [low, high, 0, 0] = *self.balance.as_limbs() else { return None };
        Some(U256::from_limbs([low, high, self.nonce, 0]))
    }
}

/// The storage slot of [`FEE_LEDGER`] that holds a payer's entry.
#[must_use]
pub fn fee_slot(payer: &Address) -> U256 {
    U256::from_be_bytes(payer.into_word().0)
}

/// What a payer has in the ledger; nothing if it was never there.
///
/// # Errors
/// If the store fails or holds something else.
pub fn fee_account(view: &StateView, payer: &Address) -> Result<FeeAccount, StoreError> {
    entry(payer, &view.storage(&FEE_LEDGER, &fee_slot(payer))?)
}

fn entry(payer: &Address, value: &U256) -> Result<FeeAccount, StoreError> {
    FeeAccount::from_slot(value)
        .ok_or_else(|| StoreError::new("read fee ledger", format!("{payer}: {value} is no entry")))
}

/// What an envelope costs, in wei.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fee {
    pub(crate) burned: U256,
    pub(crate) tip: U256,
}

/// A payer's entry after what the block has done so far.
pub(crate) fn current(overlay: &mut Overlay<'_>, payer: &Address) -> Result<FeeAccount, StoreError> {
    let value = overlay.storage(FEE_LEDGER, fee_slot(payer))?;
    entry(payer, &value)
}

/// Takes an envelope's fee and nonce from its payer, burns one part and pays the other to the producer.
pub(crate) fn charge(
    overlay: &mut Overlay<'_>,
    payer: &Address,
    fee: Fee,
    producer: Address,
) -> Result<(), StoreError> {
    let account = current(overlay, payer)?;
    let broken = || StoreError::new("charge", format!("{payer} has {account:?}, the fee is {fee:?}"));
    let cost = fee.burned + fee.tip;
    let balance = account.balance.checked_sub(cost).ok_or_else(broken)?;
    let nonce = account.nonce.checked_add(1).ok_or_else(broken)?;
    write(overlay, payer, FeeAccount { balance, nonce })?;
    overlay.update_account(FEE_LEDGER, |ledger| {
        // Holds at least what its entries add up to.
        ledger.balance = ledger.balance.checked_sub(cost).ok_or_else(broken)?;
        Ok(())
    })?;
    if !fee.tip.is_zero() {
        overlay.update_account(producer, |account| {
            account.balance = account.balance.saturating_add(fee.tip);
            Ok(())
        })?;
    }
    Ok(())
}

/// Moves wei that a transfer just brought to the payer's account into its balance in the ledger.
pub(crate) fn deposit(overlay: &mut Overlay<'_>, payer: &Address, value: U256) -> Result<(), StoreError> {
    overlay.update_account(*payer, |account| {
        let rest = account.balance.checked_sub(value);
        account.balance =
            rest.ok_or_else(|| StoreError::new("deposit", format!("{payer} does not have the {value} it got")))?;
        Ok(())
    })?;
    overlay.update_account(FEE_LEDGER, |ledger| {
        ledger.balance = ledger.balance.saturating_add(value);
        ledger.nonce = ledger.nonce.max(LEDGER_NONCE);
        Ok(())
    })?;
    let account = current(overlay, payer)?;
    write(overlay, payer, FeeAccount { balance: account.balance.saturating_add(value), ..account })
}

/// Moves wei from a payer's balance in the ledger to an account.
pub(crate) fn withdraw(
    overlay: &mut Overlay<'_>,
    payer: &Address,
    to: Address,
    amount: U256,
) -> Result<(), StoreError> {
    let account = current(overlay, payer)?;
    let broken = || StoreError::new("withdraw", format!("{payer} has {account:?} and takes {amount}"));
    let balance = account.balance.checked_sub(amount).ok_or_else(broken)?;
    write(overlay, payer, FeeAccount { balance, ..account })?;
    overlay.update_account(FEE_LEDGER, |ledger| {
        ledger.balance = ledger.balance.checked_sub(amount).ok_or_else(broken)?;
        Ok(())
    })?;
    overlay.update_account(to, |account| {
        account.balance = account.balance.saturating_add(amount);
        Ok(())
    })
}

fn write(overlay: &mut Overlay<'_>, payer: &Address, account: FeeAccount) -> Result<(), StoreError> {
    let value = account
        .to_slot()
        .ok_or_else(|| StoreError::new("write fee ledger", format!("{payer}: {account:?} is beyond 2^128 wei")))?;
    overlay.set_storage(FEE_LEDGER, fee_slot(payer), value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_slots_are_frozen() {
        let account = FeeAccount { balance: U256::from(0x0123_4567_89ab_cdef_u64) << 64, nonce: 0xaabb };
        let value = account.to_slot().unwrap();
        assert_eq!(format!("{value:#066x}"), "0x0000000000000000000000000000aabb0123456789abcdef0000000000000000");
        let payer = Address::repeat_byte(0x11);
        let slot = format!("{:#066x}", fee_slot(&payer));
        assert_eq!(slot, "0x0000000000000000000000001111111111111111111111111111111111111111");
    }

    proptest! {
        #[test]
        fn entries_round_trip_and_what_is_too_large_is_refused(balance: u128, nonce: u64, top in 1u64..) {
            let account = FeeAccount { balance: U256::from(balance), nonce };
            let value = account.to_slot().unwrap();
            prop_assert_eq!(FeeAccount::from_slot(&value), Some(account));
            prop_assert_eq!(FeeAccount::from_slot(&(value | U256::from(top) << 192)), None);
            let large = FeeAccount { balance: account.balance | U256::from(top) << 128, nonce };
            prop_assert_eq!(large.to_slot(), None);
        }
    }
}
