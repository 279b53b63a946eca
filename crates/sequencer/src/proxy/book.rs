//! What the proxy has taken and is not done with: pure bookkeeping, no I/O.
//!
//! ```text
//!                 predecessors on their way          a payer nonce, an envelope
//!  [held] ------------------------------> [sealed] --------------------------> executed: forgotten
//!    |                                     |    ^                              failed: kept as a Failure
//!    |  replaced by a better offer         +----+ sealed again: epoch over, replaced (same payer nonce)
//!    +--> [held]
//! ```
//!
//! An item is named by its sender and the sender's nonce, as in Ethereum's pools. Each envelope that was made for it is an
//! [`Attempt`], and all of them have one payer nonce, so that at most one of them can ever be charged.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256, Bytes, U256};
use cascade_primitives::{Epoch, Height, RecoveredTransaction};

/// Most items in all.
pub const MAX_ITEMS: usize = 256;
/// Most items of one sender.
pub const MAX_OF_SENDER: usize = 64;
/// Most envelopes for one item that are remembered; older ones are of past epochs, or outbid.
pub const MAX_ATTEMPTS: usize = 8;
/// Failures that are remembered.
pub const MAX_FAILURES: usize = 256;

/// A sender and its nonce.
pub type Place = (Address, u64);

/// What was sent for an item: an envelope, or a deposit.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// What is inside.
    pub transaction: Arc<RecoveredTransaction>,
    /// Its name at the node: an envelope's hash, or that of the transfer in a deposit.
    pub name: B256,
    /// Its encoding, to send it again.
    pub raw: Bytes,
    /// The epoch whose key it is sealed to.
    pub epoch: Epoch,
    /// The last height at which it may stand.
    pub valid_until: Height,
    /// Fee cap of the envelope, wei per gas.
    pub max_fee: u64,
    /// Priority fee cap of the envelope, wei per gas.
    pub tip: u64,
    /// The most that it can take from the payer, in wei.
    pub cost: U256,
}

/// What keeps an item that is on its way from getting on, as far as it is known. Found anew after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hitch {
    /// Its envelope offers less than the base fee.
    Low {
        /// Since which block.
        since: Height,
        /// In words.
        reason: String,
    },
    /// Nothing that was made for it can be ordered any more, and the node refuses what would take its place.
    Stuck(String),
}

impl Hitch {
    /// In words.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Low { reason, .. } | Self::Stuck(reason) => reason,
        }
    }
}

/// A transaction that is not done.
#[derive(Clone, Debug)]
pub struct Item {
    /// The newest transaction that the user wants at this place.
    pub wanted: Arc<RecoveredTransaction>,
    /// The payer's nonce, once it is sealed; none for deposits.
    pub slot: Option<u64>,
    /// What was sent for it, oldest first; nothing while it is held.
    pub attempts: Vec<Attempt>,
    /// When it came, in ms since 1970.
    pub since: u64,
    /// What keeps it.
    pub hitch: Option<Hitch>,
}

/// A transaction that was charged in its envelope and did not run.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The transaction.
    pub transaction: Arc<RecoveredTransaction>,
    /// Its envelope.
    pub envelope: B256,
    /// Why.
    pub reason: String,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Book {
    /// Whose fee account pays.
    pub payer: Address,
    /// Items by place.
    pub items: BTreeMap<Place, Item>,
    /// The newest failures, oldest first.
    pub failures: VecDeque<Failure>,
}

/// What the next step of a sender is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Seal the item of this nonce.
    Seal(u64),
    /// Send the deposit of this nonce.
    Deposit(u64),
}

/// What is known of a transaction by its hash.
#[derive(Clone, Debug)]
pub struct Found {
    /// The transaction.
    pub transaction: Arc<RecoveredTransaction>,
    /// The newest envelope around it; none while it is held.
    pub name: Option<B256>,
    /// What keeps it, in words.
    pub reason: Option<String>,
}

/// Whether a transaction offers 10% more than another, in fee cap and tip cap, as pools demand of a replacement.
#[must_use]
pub fn outbids(new: &RecoveredTransaction, old: &RecoveredTransaction) -> bool {
    let tenth_more = |new: u128, old: u128| new.saturating_mul(10) >= old.saturating_mul(11);
    tenth_more(new.max_fee_per_gas(), old.max_fee_per_gas())
        && tenth_more(new.max_priority_fee_per_gas(), old.max_priority_fee_per_gas())
}

/// The least offer (fee cap, tip cap) that replaces an envelope.
#[must_use]
pub const fn raised(max_fee: u64, tip: u64) -> (u64, u64) {
    (max_fee.saturating_add(max_fee.div_ceil(10)), tip.saturating_add(tip.div_ceil(10)))
}

impl Item {
    /// One that came just now and is held.
    #[must_use]
    pub const fn new(wanted: Arc<RecoveredTransaction>, since: u64) -> Self {
        Self { wanted, slot: None, attempts: Vec::new(), since, hitch: None }
    }

    /// Whether nothing of it is under way, although something was sent.
    #[must_use]
    pub const fn is_stuck(&self) -> bool {
        matches!(self.hitch, Some(Hitch::Stuck(_)))
    }

    /// Whether nothing was sent for it yet.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        self.attempts.is_empty()
    }

    /// The newest attempt.
    #[must_use]
    pub fn current(&self) -> Option<&Attempt> {
        self.attempts.last()
    }

    /// Adds an attempt, forgetting the oldest if there are too many.
    pub fn push(&mut self, attempt: Attempt) {
        if self.attempts.len() == MAX_ATTEMPTS {
            self.attempts.remove(0);
        }
        self.attempts.push(attempt);
    }
}

impl Book {
    /// Whether a transaction is a deposit: a transfer without data to the payer.
    #[must_use]
    pub fn is_deposit(&self, transaction: &RecoveredTransaction) -> bool {
        let inner = transaction.envelope();
        inner.to() == Some(self.payer) && inner.input().is_empty()
    }

    /// The items of a sender, by nonce.
    pub fn of_sender(&self, sender: Address) -> impl Iterator<Item = (u64, &Item)> {
        self.items.range((sender, 0)..=(sender, u64::MAX)).map(|((_, nonce), item)| (*nonce, item))
    }

    /// What the items of a sender beside that of a nonce send, in wei.
    #[must_use]
    pub fn value_beside(&self, sender: Address, nonce: u64) -> U256 {
        let others = self.of_sender(sender).filter(|(other, _)| *other != nonce);
        others.fold(U256::ZERO, |sum, (_, item)| sum.saturating_add(item.wanted.value()))
    }

    /// The most that envelopes which are under way, beside that of a place, can take from the payer.
    #[must_use]
    pub fn cost_beside(&self, place: Place) -> U256 {
        let others = self.items.iter().filter(|(other, item)| **other != place && item.slot.is_some());
        let costs = others.filter_map(|(_, item)| item.current()).map(|attempt| attempt.cost);
        costs.fold(U256::ZERO, U256::saturating_add)
    }

    /// Nonces of a sender that are here.
    #[must_use]
    pub fn nonces(&self, sender: Address) -> BTreeSet<u64> {
        self.of_sender(sender).map(|(nonce, _)| nonce).collect()
    }

    /// The next thing to send of a sender of whom `next` transactions are executed. A sealed transaction goes out behind
    /// sealed ones, since the chain runs one payer's envelopes in the order of its nonces. A deposit is in the clear and
    /// has another place in a block, so it goes alone: nothing before it may be under way, and nothing behind it goes.
    #[must_use]
    pub fn release(&self, sender: Address, next: u64) -> Option<Release> {
        for nonce in next.. {
            let item = self.items.get(&(sender, nonce))?;
            match (item.is_held(), self.is_deposit(&item.wanted)) {
                (true, true) => return (nonce == next).then_some(Release::Deposit(nonce)),
                (true, false) => return Some(Release::Seal(nonce)),
                (false, true) => return None,
                (false, false) => {}
            }
        }
        None
    }

    /// The payer nonce for a place: the lowest that nothing here has, from `next` on (the node's next one, so that what others
    /// sent with the payer's key keeps its nonce), and above those of the sender's transactions before it.
    #[must_use]
    pub fn free_slot(&self, (sender, nonce): Place, next: u64) -> u64 {
        let used: BTreeSet<u64> = self.items.values().filter_map(|item| item.slot).collect();
        let before = self.of_sender(sender).filter(|(other, _)| *other < nonce).filter_map(|(_, item)| item.slot).max();
        let least = before.map_or(next, |before| next.max(before.saturating_add(1)));
        (least..).find(|slot| !used.contains(slot)).unwrap_or(u64::MAX)
    }

    /// The best fee cap among envelopes behind a payer nonce, if it pays a base fee: what is held up by an envelope of this nonce
    /// that does not.
    #[must_use]
    pub fn held_up_behind(&self, slot: u64, base_fee: u64) -> Option<u64> {
        let behind = self.items.values().filter(|item| item.slot.is_some_and(|other| other > slot));
        behind.filter_map(Item::current).map(|attempt| attempt.max_fee).max().filter(|best| *best >= base_fee)
    }

    /// A transaction that is here, by its hash: wanted, or in an envelope that may still be ordered.
    #[must_use]
    pub fn find(&self, hash: &B256) -> Option<Found> {
        for item in self.items.values() {
            let reason = item.hitch.as_ref().map(|hitch| hitch.reason().to_owned());
            if let Some(attempt) = item.attempts.iter().rev().find(|attempt| attempt.transaction.hash() == *hash) {
                return Some(Found { transaction: Arc::clone(&attempt.transaction), name: Some(attempt.name), reason });
            }
            if item.wanted.hash() == *hash {
                return Some(Found { transaction: Arc::clone(&item.wanted), name: None, reason });
            }
        }
        None
    }

    /// A failure by the hash of the transaction.
    #[must_use]
    pub fn failure(&self, hash: &B256) -> Option<&Failure> {
        self.failures.iter().rev().find(|failure| failure.transaction.hash() == *hash)
    }

    /// Remembers a failure.
    pub fn fail(&mut self, failure: Failure) {
        if self.failures.len() == MAX_FAILURES {
            self.failures.pop_front();
        }
        self.failures.push_back(failure);
    }

    /// Forgets a failure: its transaction is tried again.
    pub fn forgive(&mut self, hash: &B256) {
        self.failures.retain(|failure| failure.transaction.hash() != *hash);
    }
}

#[cfg(test)]
mod tests {
    use cascade_primitives::{ChainId, Transaction};

    use super::*;
    use crate::wallet::{Fees, Transfer, Wallet};

    fn transfer(nonce: u64, to: Address, fees: Fees) -> Arc<RecoveredTransaction> {
        let transfer =
            Transfer { chain: ChainId(1), nonce, to, value: U256::from(5), data: Bytes::new(), gas: 21_000, fees };
        let raw = Wallet::public("book", 0).sign(&transfer).1;
        let decoded = Transaction::decode(raw.into(), ChainId(1), 1000).unwrap();
        Arc::new(cascade_crypto::ecdsa::recover(decoded).unwrap())
    }

    const FEES: Fees = Fees { max: 100, tip: 10 };
    const PAYER: Address = Address::repeat_byte(9);

    fn sender() -> Address {
        Wallet::public("book", 0).address()
    }

    fn attempt(transaction: &Arc<RecoveredTransaction>) -> Attempt {
        Attempt {
            transaction: Arc::clone(transaction),
            name: B256::repeat_byte(1),
            raw: Bytes::new(),
            epoch: Epoch(1),
            valid_until: Height(9),
            max_fee: 100,
            tip: 10,
            cost: U256::from(7),
        }
    }

    fn put(book: &mut Book, nonce: u64, to: Address, sent: bool) {
        let wanted = transfer(nonce, to, FEES);
        let attempts = if sent { vec![attempt(&wanted)] } else { Vec::new() };
        let slot = (sent && to != PAYER).then_some(nonce);
        book.items.insert((sender(), nonce), Item { slot, attempts, ..Item::new(wanted, 0) });
    }

    #[test]
    fn a_transaction_is_held_until_those_before_it_are_on_their_way() {
        let mut book = Book { payer: PAYER, ..Book::default() };
        put(&mut book, 2, Address::ZERO, false);
        assert_eq!(book.release(sender(), 0), None, "nonces 0 and 1 are missing");
        put(&mut book, 0, Address::ZERO, false);
        assert_eq!(book.release(sender(), 0), Some(Release::Seal(0)));
        put(&mut book, 0, Address::ZERO, true);
        put(&mut book, 1, Address::ZERO, true);
        assert_eq!(book.release(sender(), 0), Some(Release::Seal(2)));
        assert_eq!((book.nonces(sender()).len(), book.nonces(Address::ZERO).len()), (3, 0));
        assert_eq!(book.cost_beside((sender(), 1)), U256::from(7));
        assert_eq!(book.value_beside(sender(), 1), U256::from(10));
    }

    #[test]
    fn a_deposit_goes_alone() {
        let mut book = Book { payer: PAYER, ..Book::default() };
        put(&mut book, 0, Address::ZERO, true);
        put(&mut book, 1, PAYER, false);
        put(&mut book, 2, Address::ZERO, false);
        assert_eq!(book.release(sender(), 0), None, "a sealed one is under way before it");
        assert_eq!(book.release(sender(), 1), Some(Release::Deposit(1)));
        put(&mut book, 1, PAYER, true);
        assert_eq!(book.release(sender(), 1), None, "it is not executed");
        assert_eq!(book.release(sender(), 2), Some(Release::Seal(2)));
    }

    #[test]
    fn a_payer_nonce_that_was_freed_is_used_again_and_none_of_somebody_else() {
        let mut book = Book { payer: PAYER, ..Book::default() };
        for nonce in [3, 4, 6] {
            put(&mut book, nonce, Address::ZERO, true);
        }
        let other = (Address::ZERO, 0);
        assert_eq!([0, 3, 5, 6, 9].map(|next| book.free_slot(other, next)), [0, 5, 5, 7, 9]);
        // A sender's transactions stay in their order.
        let own = [2, 4, 5, 7].map(|nonce| book.free_slot((sender(), nonce), 0));
        assert_eq!(own, [0, 5, 5, 7]);
    }

    #[test]
    fn a_low_offer_holds_up_what_pays_the_base_fee_behind_it() {
        let mut book = Book { payer: PAYER, ..Book::default() };
        for (nonce, fee) in [(0, 500), (1, 50), (2, 300), (3, 400)] {
            put(&mut book, nonce, Address::ZERO, true);
            book.items.get_mut(&(sender(), nonce)).unwrap().attempts[0].max_fee = fee;
        }
        assert_eq!(book.held_up_behind(1, 100), Some(400), "what is before it is not behind it");
        assert_eq!((book.held_up_behind(1, 401), book.held_up_behind(3, 100)), (None, None));
    }

    #[test]
    fn a_replacement_offers_a_tenth_more_of_both() {
        let old = transfer(0, Address::ZERO, FEES);
        let of = |max, tip| transfer(0, Address::ZERO, Fees { max, tip });
        assert!(outbids(&of(110, 11), &old));
        for (max, tip) in [(109, 11), (110, 10), (100, 10)] {
            assert!(!outbids(&of(max, tip), &old), "{max} {tip}");
        }
        assert_eq!(raised(100, 1), (110, 2));
        assert_eq!(raised(101, 0), (112, 0));
    }

    #[test]
    fn every_transaction_that_may_still_run_is_found_by_its_hash() {
        let mut book = Book { payer: PAYER, ..Book::default() };
        put(&mut book, 0, Address::ZERO, true);
        let better = transfer(0, Address::ZERO, Fees { max: 200, tip: 20 });
        let old = book.items[&(sender(), 0)].wanted.hash();
        let item = book.items.get_mut(&(sender(), 0)).unwrap();
        item.wanted = Arc::clone(&better);
        item.push(Attempt { name: B256::repeat_byte(2), ..attempt(&better) });
        assert_eq!(book.find(&old).unwrap().name, Some(B256::repeat_byte(1)));
        assert_eq!(book.find(&better.hash()).unwrap().name, Some(B256::repeat_byte(2)));
        assert!(book.find(&B256::ZERO).is_none());
    }
}
