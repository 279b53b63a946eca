//! Choosing what a block contains.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
};

use cascade_primitives::{Address, U256};

use super::{Pool, Pooled, sender::tip_above};
use crate::account::AccountReader;

/// Gas that every transaction needs; with less room than that a block is full.
const LEAST_GAS: u64 = 21_000;

/// Senders that may be passed over because their next transaction does not fit, before a block counts as full.
const MISFITS: usize = 256;

/// Bounds of a selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelectLimits {
    /// Bytes of all transactions (`ChainParams::max_block_bytes`).
    pub bytes: usize,
    /// Sum of the gas limits (`ChainParams::block_gas_limit`).
    pub gas: u64,
    /// Number of transactions.
    pub count: usize,
}

/// A sender in the course of a selection.
struct Candidate {
    next: u64,
    available: U256,
    taken: u32,
}

/// The next transaction of a sender: the greatest goes first.
type Head = (u128, Reverse<u64>, Address, u64);

impl<T: Pooled> Pool<T> {
    /// Transactions for a block with a base fee, on the branch that `view` reads. They stay in the pool.
    ///
    /// The block is valid as far as nonces, reserves, the limit of a sender and these limits go.
    #[must_use]
    pub fn select(&self, limits: SelectLimits, base_fee: u64, view: &(impl AccountReader + ?Sized)) -> Vec<Arc<T>> {
        self.select_where(limits, base_fee, view, &|_: &T| true)
    }

    /// As [`Pool::select`], of those that a block may carry. What it may not carry takes no room, and holds up what its
    /// sender has behind it.
    #[must_use]
    pub fn select_where(
        &self,
        limits: SelectLimits,
        base_fee: u64,
        view: &(impl AccountReader + ?Sized),
        allowed: &impl Fn(&T) -> bool,
    ) -> Vec<Arc<T>> {
        let base_fee = u128::from(base_fee);
        let mut heads = self.heads(base_fee);
        let mut candidates: BTreeMap<Address, Candidate> = BTreeMap::new();
        let mut selected = Vec::new();
        let (mut bytes, mut gas, mut misfits) = (limits.bytes, limits.gas, 0);
        while selected.len() < limits.count && gas >= LEAST_GAS && misfits < MISFITS {
            let Some((_, _, sender, nonce)) = heads.pop() else { break };
            let candidate = candidates.entry(sender).or_insert_with(|| {
                let account = view.account(&sender);
                let available = if account.is_contract { U256::ZERO } else { account.available() };
                Candidate { next: account.next_nonce(), available, taken: 0 }
            });
            if nonce != candidate.next {
                // The pool's idea of the sender was not that of this branch. This happens at most once a sender.
                heads.extend(self.head(&sender, candidate.next, base_fee));
                continue;
            }
            let Some(entry) = self.senders.get(&sender).and_then(|queue| queue.txs.get(&nonce)) else { continue };
            if !allowed(&entry.tx) {
                continue;
            }
            let (cost, size, tx_gas) = (entry.tx.max_cost(), entry.tx.raw().len(), entry.tx.gas_limit());
            if cost > candidate.available {
                continue;
            }
            if size > bytes || tx_gas > gas {
                misfits += 1;
                continue;
            }
            (bytes, gas) = (bytes - size, gas - tx_gas);
            candidate.available -= cost;
            candidate.next += 1;
            candidate.taken += 1;
            let (next, more) = (candidate.next, candidate.taken < self.limits.sender_block_txs);
            selected.push(Arc::clone(&entry.tx));
            if more {
                heads.extend(self.head(&sender, next, base_fee));
            }
        }
        selected
    }

    /// The first transaction of every sender that is in no known block.
    fn heads(&self, base_fee: u128) -> BinaryHeap<Head> {
        let heads: Vec<Head> = self
            .senders
            .iter()
            .filter_map(|(sender, queue)| {
                let next = queue.account.next_nonce();
                let (nonce, entry) = queue.txs.range(next..).find(|(_, entry)| entry.ordered == 0)?;
                Some((tip_above(&*entry.tx, base_fee)?, Reverse(entry.sequence), *sender, *nonce))
            })
            .collect();
        heads.into()
    }

    fn head(&self, sender: &Address, nonce: u64, base_fee: u128) -> Option<Head> {
        let entry = self.senders.get(sender)?.txs.get(&nonce)?;
        Some((tip_above(&*entry.tx, base_fee)?, Reverse(entry.sequence), *sender, nonce))
    }
}
