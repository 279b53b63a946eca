//! Transactions that wait for a block: Ethereum's, envelopes, and deposits.
//!
//! ```text
//!  sender A:  nonce  7  8  9 | 10 11 12 .. 15     next nonce = 10: executed 7, in flight 7 8 9
//!                    ordered |  the run    gap    the run can be selected; 15 waits for 13 and 14
//! ```
//!
//! # Admission
//!
//! Rules and texts are geth's, with two differences that follow from ordering ahead of execution. A nonce is compared
//! with the *next* nonce, which counts what is in flight. And the reserve rule: what is in flight, what the sender has in
//! the run, and the new transaction, each at the most it can cost, together do not exceed the balance at the last
//! result. Nothing in between can spend it, so a transaction that is selected can pay.
//!
//! # Full pool
//!
//! A newcomer displaces the transaction of the least worth if its own worth is greater. Only the last transaction of a
//! sender is ever displaced, so that no sender is left with a gap; its worth is the least tip among it and its
//! predecessors, since it runs no sooner than they do; behind a gap it is worth less than any that is not.
//!
//! # Selection
//!
//! Highest effective tip first (the earlier arrival among equals), in order of nonce within a sender, at most
//! `sender_txs` a sender, each sender within its reserve. Nonces and reserves come from the branch that the block extends,
//! not from what the pool remembers.

mod evict;
mod pooled;
mod select;
mod sender;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use cascade_primitives::{Address, B256, ChainParams, RecoveredTransaction, TimestampMs, Transaction, U256};

use crate::{
    account::{AccountReader, AccountState},
    error::AdmissionError,
};
use evict::Tails;
use pooled::check_transaction;
use sender::{Entry, SenderQueue};

pub use pooled::{CheckedEnvelope, Pooled};
pub use select::SelectLimits;

/// Bounds of a [`Pool`], and the chain's rules that it checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// Gas of a block (`ChainParams::block_gas_limit`).
    pub block_gas: u64,
    /// Least base fee in wei per gas (`ChainParams::base_fee_floor`).
    pub base_fee_floor: u64,
    /// Transactions of one sender in one block (`ChainParams::sender_tx_limit`).
    pub sender_block_txs: u32,
    /// Transactions of one sender in the pool, those in flight too; also the first nonce distance that is refused.
    pub sender_pool_txs: usize,
    /// Most transactions.
    pub count: usize,
    /// Most bytes of all transactions.
    pub bytes: usize,
    /// How long a transaction waits before it is dropped, in ms.
    pub lifetime_ms: u64,
    /// After this time without being ordered, what entered the network here is given out again, in ms.
    pub rebroadcast_ms: u64,
}

impl PoolLimits {
    /// The usual bounds for a chain: four blocks of transactions a sender, 3 hours.
    #[must_use]
    pub const fn of(params: &ChainParams) -> Self {
        Self {
            block_gas: params.block_gas_limit,
            base_fee_floor: params.base_fee_floor,
            sender_block_txs: params.sender_tx_limit,
            sender_pool_txs: params.sender_tx_limit as usize * 4,
            count: 50_000,
            bytes: 64 << 20,
            lifetime_ms: 3 * 3_600_000,
            rebroadcast_ms: 10_000,
        }
    }
}

/// Where a transaction came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// It entered the network here, by RPC or from a node that does not spread transactions itself: others need to be
    /// told.
    Local,
    /// A peer sent it, and sends it to the others.
    Peer,
}

/// How a transaction was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It has its nonce to itself.
    New {
        /// Whether nothing below it is missing, so that it can be selected.
        executable: bool,
    },
    /// It took the place of another one.
    Replaced {
        /// The hash of the other one.
        old: B256,
    },
}

/// How many transactions of which kind a pool has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStatus {
    /// Those that can be selected, as far as nonces go.
    pub pending: usize,
    /// Those behind a gap.
    pub queued: usize,
    /// Those that are in flight.
    pub in_flight: usize,
}

/// Transactions that wait for a block: Ethereum's in the clear, or whatever else is [`Pooled`].
#[derive(Debug)]
pub struct Pool<T = RecoveredTransaction> {
    limits: PoolLimits,
    senders: BTreeMap<Address, SenderQueue<T>>,
    by_hash: HashMap<B256, (Address, u64)>,
    by_age: BTreeSet<(TimestampMs, u64, B256)>,
    bytes: usize,
    sequence: u64,
    base_fee: u64,
    tails: Tails,
    fresh: VecDeque<B256>,
    rebroadcast: VecDeque<(TimestampMs, B256)>,
}

impl Pool {
    /// Checks what needs neither the signer nor its account, so that a useless transaction costs no signature recovery.
    ///
    /// # Errors
    /// [`AdmissionError`]: known, gas, fee, creation code, nonce at its maximum.
    pub fn check(&self, tx: &Transaction) -> Result<(), AdmissionError> {
        self.check_terms(tx.hash(), tx.gas_limit(), tx.nonce(), tx.max_fee_per_gas())?;
        check_transaction(tx)
    }
}

impl<T: Pooled> Pool<T> {
    /// An empty pool.
    #[must_use]
    pub fn new(limits: PoolLimits) -> Self {
        let base_fee = limits.base_fee_floor;
        Self {
            limits,
            senders: BTreeMap::new(),
            by_hash: HashMap::new(),
            by_age: BTreeSet::new(),
            bytes: 0,
            sequence: 0,
            base_fee,
            tails: Tails::default(),
            fresh: VecDeque::new(),
            rebroadcast: VecDeque::new(),
        }
    }

    fn check_terms(&self, hash: B256, gas: u64, nonce: u64, fee: u128) -> Result<(), AdmissionError> {
        if self.by_hash.contains_key(&hash) {
            return Err(AdmissionError::AlreadyKnown);
        }
        if gas > self.limits.block_gas {
            return Err(AdmissionError::GasLimit { gas, limit: self.limits.block_gas });
        }
        if nonce == u64::MAX {
            return Err(AdmissionError::NonceMax);
        }
        let floor = u128::from(self.limits.base_fee_floor);
        if fee < floor {
            return Err(AdmissionError::Underpriced { fee, floor });
        }
        Ok(())
    }

    /// Takes a transaction.
    ///
    /// # Errors
    /// [`AdmissionError`]; the pool is then what it was, up to what is known of the sender's account.
    pub fn admit(
        &mut self,
        now: TimestampMs,
        tx: T,
        source: Source,
        accounts: &(impl AccountReader + ?Sized),
    ) -> Result<Admission, AdmissionError> {
        self.check_terms(tx.hash(), tx.gas_limit(), tx.nonce(), tx.max_fee_per_gas())?;
        tx.check()?;
        let (sender, nonce) = (tx.sender(), tx.nonce());
        let account = accounts.account(&sender);
        self.set_account(sender, account);
        let result = self.check_account(&tx, &account).and_then(|()| self.make_room(&tx));
        if let Err(error) = result {
            self.forget_if_empty(&sender);
            return Err(error);
        }
        let replaced = self.remove(sender, nonce);
        let hash = tx.hash();
        let entry = Entry { tx: Arc::new(tx), sequence: self.sequence, added: now, ordered: 0 };
        self.sequence += 1;
        self.insert(entry);
        if source == Source::Local {
            self.queue_for_gossip(hash);
            self.rebroadcast.push_back((now, hash));
        }
        Ok(match replaced {
            Some(old) => Admission::Replaced { old: old.tx.hash() },
            None => Admission::New { executable: self.senders[&sender].worth_of(nonce, 0).connected },
        })
    }

    /// What [`Pool::admit`] would refuse whoever else is in the pool, so that it needs no costly check. Such a transaction may
    /// have another form than what the pool holds.
    ///
    /// # Errors
    /// [`AdmissionError`], but not for want of room.
    pub fn precheck(&self, tx: &impl Pooled, account: &AccountState) -> Result<(), AdmissionError> {
        self.check_terms(tx.hash(), tx.gas_limit(), tx.nonce(), tx.max_fee_per_gas())?;
        tx.check()?;
        self.check_account(tx, account)
    }

    fn check_account(&self, tx: &impl Pooled, account: &AccountState) -> Result<(), AdmissionError> {
        if account.is_contract {
            return Err(AdmissionError::SenderNotEoa(tx.sender()));
        }
        let (nonce, next) = (tx.nonce(), account.next_nonce());
        if nonce < next {
            return Err(AdmissionError::NonceTooLow { next, nonce });
        }
        let queue = self.senders.get(&tx.sender());
        let limit = next.saturating_add(self.limits.sender_pool_txs as u64);
        if nonce >= limit {
            return Err(AdmissionError::NonceTooHigh { next, nonce, limit });
        }
        let queued = queue.map_or(U256::ZERO, |queue| queue.run_cost(nonce));
        let (balance, cost) = (account.available(), tx.max_cost());
        if cost > balance {
            return Err(AdmissionError::InsufficientFunds { balance, cost });
        }
        if queued.saturating_add(cost) > balance {
            return Err(AdmissionError::InsufficientFundsForAll { balance, queued, cost });
        }
        let pooled = queue.map_or(0, |queue| queue.txs.len());
        match queue.and_then(|queue| queue.txs.get(&nonce)) {
            Some(old) if !outbids(tx, &*old.tx) => Err(AdmissionError::ReplacementUnderpriced),
            None if pooled >= self.limits.sender_pool_txs => {
                Err(AdmissionError::AccountLimit { pooled, limit: self.limits.sender_pool_txs })
            }
            _ => Ok(()),
        }
    }

    /// A block of the branch that this node would extend contains them: they are not selected until it is abandoned.
    pub fn on_ordered<'a>(&mut self, hashes: impl IntoIterator<Item = &'a B256>) {
        self.mark(hashes, |ordered| ordered.saturating_add(1));
    }

    /// The branch of a block that was reported to [`Pool::on_ordered`] is abandoned.
    pub fn on_unordered<'a>(&mut self, hashes: impl IntoIterator<Item = &'a B256>) {
        self.mark(hashes, |ordered| ordered.saturating_sub(1));
    }

    fn mark<'a>(&mut self, hashes: impl IntoIterator<Item = &'a B256>, change: impl Fn(u32) -> u32) {
        for hash in hashes {
            let Some((sender, nonce)) = self.by_hash.get(hash) else { continue };
            if let Some(entry) = self.senders.get_mut(sender).and_then(|queue| queue.txs.get_mut(nonce)) {
                entry.ordered = change(entry.ordered);
            }
        }
    }

    /// A block was executed: the accounts of its senders (or of all whom it changed), as they are now. Drops what is
    /// executed and what its sender could no longer pay even as its next transaction. Returns how many transactions went.
    pub fn on_executed(&mut self, accounts: impl IntoIterator<Item = (Address, AccountState)>) -> usize {
        let before = self.len();
        for (sender, account) in accounts {
            if !self.senders.contains_key(&sender) {
                continue;
            }
            self.set_account(sender, account);
            let (next, available) = (account.next_nonce(), account.available());
            let gone: Vec<u64> = self.senders[&sender]
                .txs
                .iter()
                .filter(|(nonce, entry)| **nonce < account.nonce || **nonce >= next && entry.tx.max_cost() > available)
                .map(|(nonce, _)| *nonce)
                .collect();
            for nonce in gone {
                self.remove(sender, nonce);
            }
            self.forget_if_empty(&sender);
        }
        before - self.len()
    }

    /// The base fee that the next block will have, in wei per gas. It decides what is evicted from a full pool.
    pub fn on_base_fee(&mut self, base_fee: u64) {
        if self.base_fee != base_fee {
            self.base_fee = base_fee;
            self.tails.invalidate();
        }
    }

    /// Drops what has waited too long, and gives out again what entered here and is still not ordered. Returns how many
    /// transactions were dropped.
    pub fn on_tick(&mut self, now: TimestampMs) -> usize {
        let mut dropped = 0;
        while let Some(&(added, _, hash)) = self.by_age.first() {
            if added.plus(self.limits.lifetime_ms) > now {
                break;
            }
            let (sender, nonce) = self.by_hash[&hash];
            self.remove(sender, nonce);
            self.forget_if_empty(&sender);
            dropped += 1;
        }
        while let Some(&(since, hash)) = self.rebroadcast.front() {
            if since.plus(self.limits.rebroadcast_ms) > now {
                break;
            }
            self.rebroadcast.pop_front();
            if let Some(entry) = self.entry(&hash) {
                if entry.ordered == 0 {
                    self.queue_for_gossip(hash);
                }
                self.rebroadcast.push_back((now, hash));
            }
        }
        dropped
    }

    /// Drops what can never be in a block again. Returns how many transactions went.
    pub fn drop_where(&mut self, gone: &impl Fn(&T) -> bool) -> usize {
        let gone: Vec<(Address, u64)> = self.iter().filter(|tx| gone(tx)).map(|tx| (tx.sender(), tx.nonce())).collect();
        for (sender, nonce) in &gone {
            self.remove(*sender, *nonce);
            self.forget_if_empty(sender);
        }
        gone.len()
    }

    /// Transactions that entered the network here and were not given out yet: at most `bytes` bytes, but at least one
    /// if there is any. What is gone meanwhile is passed over.
    pub fn take_new_for_gossip(&mut self, bytes: usize) -> Vec<Arc<T>> {
        let mut taken = Vec::new();
        let mut left = bytes;
        while let Some(hash) = self.fresh.front().copied() {
            if let Some(tx) = self.get(&hash) {
                if tx.raw().len() > left && !taken.is_empty() {
                    break;
                }
                left = left.saturating_sub(tx.raw().len());
                taken.push(tx);
            }
            self.fresh.pop_front();
        }
        taken
    }

    /// The transaction with a hash.
    #[must_use]
    pub fn get(&self, hash: &B256) -> Option<Arc<T>> {
        self.entry(hash).map(|entry| Arc::clone(&entry.tx))
    }

    /// Whether it has a transaction.
    #[must_use]
    pub fn contains(&self, hash: &B256) -> bool {
        self.by_hash.contains_key(hash)
    }

    /// The nonce behind everything that is in flight or can be selected: `eth_getTransactionCount(.., "pending")`.
    #[must_use]
    pub fn pending_nonce(&self, sender: &Address, account: &AccountState) -> u64 {
        let mut next = account.next_nonce();
        if let Some(queue) = self.senders.get(sender) {
            next +=
                (next..).zip(queue.txs.range(next..)).take_while(|(expected, (nonce, _))| expected == *nonce).count()
                    as u64;
        }
        next
    }

    /// A sender's transactions, in order of nonce.
    pub fn of_sender(&self, sender: &Address) -> impl Iterator<Item = &Arc<T>> {
        self.senders.get(sender).into_iter().flat_map(|queue| queue.txs.values().map(|entry| &entry.tx))
    }

    /// All transactions, by sender and nonce.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.senders.values().flat_map(|queue| queue.txs.values().map(|entry| &entry.tx))
    }

    /// How many of which kind. Visits every transaction.
    #[must_use]
    pub fn status(&self) -> PoolStatus {
        let mut status = PoolStatus::default();
        for queue in self.senders.values() {
            let in_flight = queue.txs.range(..queue.account.next_nonce()).count();
            let pending = queue.run().count();
            status.in_flight += in_flight;
            status.pending += pending;
            status.queued += queue.txs.len() - in_flight - pending;
        }
        status
    }

    /// Transactions in the pool, those in flight too.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }

    /// Bytes of the transactions in the pool.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    fn entry(&self, hash: &B256) -> Option<&Entry<T>> {
        let (sender, nonce) = self.by_hash.get(hash)?;
        self.senders.get(sender)?.txs.get(nonce)
    }

    fn queue_for_gossip(&mut self, hash: B256) {
        self.fresh.push_back(hash);
        if self.fresh.len() > self.limits.count {
            self.fresh.pop_front();
        }
    }

    fn set_account(&mut self, sender: Address, account: AccountState) {
        let queue = self.senders.entry(sender).or_default();
        if queue.account != account {
            queue.account = account;
            self.tails.update(&sender, queue, u128::from(self.base_fee));
        }
    }

    fn insert(&mut self, entry: Entry<T>) {
        let (sender, nonce, hash) = (entry.tx.sender(), entry.tx.nonce(), entry.tx.hash());
        self.bytes += entry.tx.raw().len();
        self.by_age.insert((entry.added, entry.sequence, hash));
        self.by_hash.insert(hash, (sender, nonce));
        let queue = self.senders.entry(sender).or_default();
        queue.txs.insert(nonce, entry);
        self.tails.update(&sender, queue, u128::from(self.base_fee));
    }

    fn remove(&mut self, sender: Address, nonce: u64) -> Option<Entry<T>> {
        let queue = self.senders.get_mut(&sender)?;
        let entry = queue.txs.remove(&nonce)?;
        self.bytes -= entry.tx.raw().len();
        self.by_age.remove(&(entry.added, entry.sequence, entry.tx.hash()));
        self.by_hash.remove(&entry.tx.hash());
        self.tails.update(&sender, queue, u128::from(self.base_fee));
        Some(entry)
    }

    fn forget_if_empty(&mut self, sender: &Address) {
        if self.senders.get(sender).is_some_and(|queue| queue.txs.is_empty()) {
            self.senders.remove(sender);
        }
    }
}

/// Whether a transaction pays at least 10% more than the one whose nonce it wants, in fee cap and in tip cap.
fn outbids(new: &impl Pooled, old: &impl Pooled) -> bool {
    let enough =
        |new: u128, old: u128| new > old && U256::from(new) * U256::from(100) >= U256::from(old) * U256::from(110);
    enough(new.max_fee_per_gas(), old.max_fee_per_gas())
        && enough(new.max_priority_fee_per_gas(), old.max_priority_fee_per_gas())
}

#[cfg(test)]
mod tests;
