//! One sender's transactions.

use std::{collections::BTreeMap, sync::Arc};

use cascade_primitives::{TimestampMs, U256};

use super::Pooled;
use crate::account::AccountState;

/// A transaction in the pool.
#[derive(Clone, Debug)]
pub(super) struct Entry<T> {
    pub(super) tx: Arc<T>,
    /// Order of arrival.
    pub(super) sequence: u64,
    pub(super) added: TimestampMs,
    /// Known blocks, not executed yet, that contain it.
    pub(super) ordered: u32,
}

/// What a transaction pays per gas above a base fee; none if it does not even pay that.
pub(super) fn tip_above(tx: &impl Pooled, base_fee: u128) -> Option<u128> {
    Some(tx.max_fee_per_gas().checked_sub(base_fee)?.min(tx.max_priority_fee_per_gas()))
}

/// A sender's transactions by nonce, and its account as it was last seen.
#[derive(Clone, Debug)]
pub(super) struct SenderQueue<T> {
    pub(super) txs: BTreeMap<u64, Entry<T>>,
    pub(super) account: AccountState,
}

impl<T> Default for SenderQueue<T> {
    fn default() -> Self {
        Self { txs: BTreeMap::new(), account: AccountState::default() }
    }
}

impl<T: Pooled> SenderQueue<T> {
    /// The transactions that can be ordered one after the other, as far as nonces go.
    pub(super) fn run(&self) -> impl Iterator<Item = &Entry<T>> {
        let next = self.account.next_nonce();
        (next..)
            .zip(self.txs.range(next..))
            .take_while(|(expected, (nonce, _))| expected == *nonce)
            .map(|(_, (_, e))| e)
    }

    /// The most that the run can cost, without the transaction at `except`, in wei.
    pub(super) fn run_cost(&self, except: u64) -> U256 {
        self.run()
            .filter(|entry| entry.tx.nonce() != except)
            .fold(U256::ZERO, |sum, entry| sum.saturating_add(entry.tx.max_cost()))
    }

    /// What evicting the last transaction gives up: whether it follows its predecessors without a gap, and the least tip
    /// among it and these, since it runs no sooner than they do.
    pub(super) fn last_worth(&self, base_fee: u128) -> Option<(Worth, &Entry<T>)> {
        let (&last, entry) = self.txs.last_key_value()?;
        Some((self.worth_of(last, base_fee), entry))
    }

    /// The worth of the transaction at `nonce` together with those below it.
    pub(super) fn worth_of(&self, nonce: u64, base_fee: u128) -> Worth {
        let next = self.account.next_nonce();
        let below = self.txs.range(next.min(nonce)..=nonce);
        let mut count = 0_u64;
        let mut tip = u128::MAX;
        for (_, entry) in below.filter(|(n, _)| **n >= next || **n == nonce) {
            count += 1;
            tip = tip.min(tip_above(&*entry.tx, base_fee).unwrap_or(0));
        }
        Worth { connected: nonce < next || count > nonce - next, tip }
    }
}

/// What the pool would give up with a transaction; the least is evicted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Worth {
    pub(super) connected: bool,
    pub(super) tip: u128,
}
