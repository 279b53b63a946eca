//! Taking money out of the fee ledger.
//!
//! A payer withdraws by a transaction *of its own* inside an envelope *of its own*: without value, to [`FEE_LEDGER`], with the
//! data of `withdraw(address to, uint256 amount)`. Once it ran, the amount goes from the payer's balance in the ledger to
//! the account of `to` (no code runs there), beside the envelope's fee. The largest number stands for all that the
//! envelope leaves.
//!
//! ```text
//!   the envelope reserves   gas limit x fee cap                       = R     (the ordering rules have seen to it)
//!   its fee is at most      gas limit x price                         = F     price = min(fee cap, base fee + tip)
//!   a given amount          at most R - F, else nothing runs, and the least is charged
//!   all                     R - the fee that is really charged
//! ```
//!
//! # Why it is safe
//!
//! Ordering runs ahead of execution (decision 14 of the architecture): an envelope gets its place if the payer's proved
//! balance covers it beside all that the payer has ordered since. So nothing may take more of the ledger than it reserved when
//! it got its place. A withdrawal does not: what an envelope takes, fee and amount together, is at most R, the very sum
//! that the ordering rules ([`crate::ordering::ItemCheck`]) count for it. It needs no rule of its own there, no queue and
//! no waiting time; to withdraw x is to reserve x by a fee cap of that height, which is no higher price, as the price
//! follows base fee and tip. The induction of the ordering rules stands word for word: only a payer's own envelopes
//! lower its balance, each by at most what was counted for it.
//!
//! Nobody else can withdraw: the transaction's signer must be the envelope's payer. A wallet that sends such a call
//! through a proxy takes nothing from the proxy's payer, a contract that calls the ledger calls an account without code,
//! and what was revealed cannot be used again, since its nonces are used, the signer's as well as the payer's.
//!
//! What it shows: nothing before it is opened but a fee cap of unusual height; then payer, receiver and amount.

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256, Log, U256, b256, hex};
use cascade_primitives::{RecoveredEnvelope, RecoveredTransaction};

use crate::{ledger::FEE_LEDGER, receipt::NotRun};

/// `withdraw(address,uint256)`.
const SELECTOR: [u8; 4] = hex!("f3fef3a3");
/// `Withdrawal(address,address,uint256)`: payer and receiver are indexed.
const EVENT: B256 = b256!("0x2717ead6b9200dd235aad468c9809ea400fe33ac69b5bfaa6d3e90fc922b6398");
/// Bytes of a call: selector, receiver, amount.
const CALL_BYTES: usize = 4 + 32 + 32;

/// What a payer takes out of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Withdrawal {
    /// Whose account gets it.
    pub to: Address,
    /// How much, in wei; none for all that the envelope reserves and its fee leaves.
    pub amount: Option<U256>,
}

impl Withdrawal {
    /// The data of the transaction inside.
    #[must_use]
    pub fn call_data(&self) -> Vec<u8> {
        let amount = self.amount.unwrap_or(U256::MAX).to_be_bytes::<32>();
        [SELECTOR.as_slice(), self.to.into_word().as_slice(), &amount].concat()
    }

    fn parse(data: &[u8]) -> Option<Self> {
        if data.len() != CALL_BYTES {
            return None;
        }
        let (to, amount) = data[4..].split_at(32);
        let padding_is_zero = to[..12].iter().all(|byte| *byte == 0);
        let amount = Some(U256::from_be_slice(amount)).filter(|amount| *amount != U256::MAX);
        padding_is_zero.then(|| Self { to: Address::from_slice(&to[12..]), amount })
    }

    /// The withdrawal that an opened envelope asks for, at the price that it pays; none if its transaction is another.
    pub(crate) fn of(
        envelope: &RecoveredEnvelope,
        tx: &RecoveredTransaction,
        price: u64,
    ) -> Result<Option<Self>, NotRun> {
        let data = tx.envelope().input();
        if tx.envelope().to() != Some(FEE_LEDGER) || !data.starts_with(&SELECTOR) {
            return Ok(None);
        }
        if tx.sender() != envelope.payer() {
            return Err(NotRun::NotThePayer);
        }
        let found = Self::parse(data).filter(|found| found.to != FEE_LEDGER && tx.value().is_zero());
        let found = found.ok_or(NotRun::Withdrawal)?;
        let most = envelope.max_cost() - U256::from(envelope.gas_limit) * U256::from(price);
        match found.amount {
            Some(amount) if amount > most => Err(NotRun::Reserve),
            _ => Ok(Some(found)),
        }
    }

    /// What is left to take once the envelope's fee is taken.
    pub(crate) fn amount(&self, envelope: &RecoveredEnvelope, fee: U256) -> U256 {
        self.amount.unwrap_or_else(|| envelope.max_cost() - fee)
    }

    /// What the receipt says of it.
    pub(crate) fn log(&self, payer: Address, amount: U256) -> Log {
        let topics = vec![EVENT, payer.into_word(), self.to.into_word()];
        Log::new_unchecked(FEE_LEDGER, topics, amount.to_be_bytes::<32>().into())
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::keccak256;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_calls_form_is_that_of_the_abi() {
        assert_eq!(keccak256("withdraw(address,uint256)")[..4], SELECTOR);
        assert_eq!(keccak256("Withdrawal(address,address,uint256)"), EVENT);
        let call = Withdrawal { to: Address::repeat_byte(0x22), amount: Some(U256::from(0x0102)) }.call_data();
        let expected = "f3fef3a3000000000000000000000000222222222222222222222222222222222222222200000000000000000000000000000000\
                        00000000000000000000000000000102";
        assert_eq!(hex::encode(call), expected);
    }

    proptest! {
        #[test]
        fn calls_round_trip_and_other_data_is_none(to: [u8; 20], amount: Option<u128>, extra in 1usize..40, at in 4usize..16) {
            let withdrawal = Withdrawal { to: to.into(), amount: amount.map(U256::from) };
            let data = withdrawal.call_data();
            prop_assert_eq!(Withdrawal::parse(&data), Some(withdrawal));
            prop_assert_eq!(Withdrawal::parse(&[data.as_slice(), &vec![0; extra]].concat()), None);
            prop_assert_eq!(Withdrawal::parse(&data[..data.len() - extra]), None);
            let mut padded = data;
            padded[at] = 1;
            prop_assert_eq!(Withdrawal::parse(&padded), None);
        }
    }
}
