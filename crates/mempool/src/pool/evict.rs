//! Making room in a full pool.

use std::collections::{BTreeMap, BTreeSet};

use cascade_primitives::Address;

use super::{
    Pool, Pooled,
    sender::{SenderQueue, Worth, tip_above},
};
use crate::error::AdmissionError;

/// The last transaction of every sender by worth, latest arrival first among equals. Only kept while the pool is full:
/// made when room is needed, kept up to date from then on, and thrown away when the base fee changes every worth.
#[derive(Debug, Default)]
pub(super) struct Tails {
    index: Option<Index>,
}

#[derive(Debug, Default)]
struct Index {
    by_worth: BTreeSet<(Worth, std::cmp::Reverse<u64>, Address)>,
    of_sender: BTreeMap<Address, (Worth, std::cmp::Reverse<u64>)>,
}

impl Index {
    fn set<T: Pooled>(&mut self, sender: &Address, queue: &SenderQueue<T>, base_fee: u128) {
        if let Some((worth, sequence)) = self.of_sender.remove(sender) {
            self.by_worth.remove(&(worth, sequence, *sender));
        }
        if let Some((worth, entry)) = queue.last_worth(base_fee) {
            let sequence = std::cmp::Reverse(entry.sequence);
            self.by_worth.insert((worth, sequence, *sender));
            self.of_sender.insert(*sender, (worth, sequence));
        }
    }
}

impl Tails {
    pub(super) fn invalidate(&mut self) {
        self.index = None;
    }

    pub(super) fn update<T: Pooled>(&mut self, sender: &Address, queue: &SenderQueue<T>, base_fee: u128) {
        if let Some(index) = &mut self.index {
            index.set(sender, queue, base_fee);
        }
    }

    fn least<T: Pooled>(
        &mut self,
        senders: &BTreeMap<Address, SenderQueue<T>>,
        base_fee: u128,
    ) -> Vec<(Worth, Address)> {
        let index = self.index.get_or_insert_with(|| {
            let mut index = Index::default();
            for (sender, queue) in senders {
                index.set(sender, queue, base_fee);
            }
            index
        });
        // The newcomer's own sender may come first; then the second counts.
        index.by_worth.iter().take(2).map(|(worth, _, sender)| (*worth, *sender)).collect()
    }
}

impl<T: Pooled> Pool<T> {
    /// Evicts what is worth less than a newcomer until that has room. Evicts nothing if it cannot get it.
    pub(super) fn make_room(&mut self, new: &T) -> Result<(), AdmissionError> {
        let (sender, nonce) = (new.sender(), new.nonce());
        let base_fee = u128::from(self.base_fee);
        let queue = &self.senders[&sender];
        let replaced = queue.txs.get(&nonce).map(|entry| entry.tx.raw().len());
        let fits = |pool: &Self| {
            pool.len() + usize::from(replaced.is_none()) <= pool.limits.count
                && pool.bytes + new.raw().len() - replaced.unwrap_or(0) <= pool.limits.bytes
        };
        if fits(self) {
            return Ok(());
        }
        let worth = newcomers_worth(queue, new, base_fee);
        let mut evicted = Vec::new();
        while !fits(self) {
            let victim = self
                .tails
                .least(&self.senders, base_fee)
                .into_iter()
                .find(|(_, victim)| *victim != sender)
                .filter(|(least, _)| *least < worth)
                .and_then(|(_, victim)| Some((victim, *self.senders.get(&victim)?.txs.last_key_value()?.0)));
            let Some((victim, last)) = victim else {
                for entry in evicted {
                    self.insert(entry);
                }
                return Err(AdmissionError::Full);
            };
            evicted.extend(self.remove(victim, last));
        }
        for entry in evicted {
            self.forget_if_empty(&entry.tx.sender());
        }
        Ok(())
    }
}

/// The worth that a newcomer will have among its sender's transactions.
fn newcomers_worth<T: Pooled>(queue: &SenderQueue<T>, new: &T, base_fee: u128) -> Worth {
    let own = tip_above(new, base_fee).unwrap_or(0);
    let (nonce, next) = (new.nonce(), queue.account.next_nonce());
    if nonce == next {
        return Worth { connected: true, tip: own };
    }
    match queue.txs.range(next..nonce).next_back() {
        Some((&below, _)) if below + 1 == nonce => {
            let Worth { connected, tip } = queue.worth_of(below, base_fee);
            Worth { connected, tip: tip.min(own) }
        }
        _ => Worth { connected: false, tip: own },
    }
}
