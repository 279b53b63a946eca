//! The one task that assigns payer nonces, seals, sends, and looks after what it sent.
//!
//! Everything is written to disk before it is sent, so that a proxy that was killed at any point goes on with the same
//! envelopes under the same nonces. A look at the chain (after each block while something is pending) asks for the epoch
//! and the payer's account, and for single envelopes only where those two say that something has happened:
//!
//! | what is seen | what is done |
//! |---|---|
//! | the payer's executed nonce is above the item's | its envelope ran or failed: ask which, forget the item |
//! | the epoch or `valid_until` is over and no attempt is ordered | seal again, same payer nonce |
//! | the node's pool does not have the nonce | send the same envelope again |
//! | an envelope has offered less than the base fee for some blocks, and better ones wait behind it | offer as much as the best |
//! | a held transaction's predecessors are on their way | seal it |
//!
//! What cannot be sealed again, or is a deposit that the node refuses, keeps the reason ([`Hitch`](super::book::Hitch)), and
//! can be given up for a transaction of either kind.

mod look;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_primitives::{Address, B256, Bytes};
use cascade_crypto::envelope::GasClasses;
use cascade_primitives::{ChainParams, Epoch, Height, RecoveredTransaction};
use jsonrpsee::types::ErrorObjectOwned;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    book::{Attempt, Book, Item, Place, Release, raised},
    checks::{self, Sender},
    news::Seen,
    sending::{Unsent, refused, send},
    source::{Accounts, Source},
    store::Store,
};
use crate::{
    cli::{Client, ClientError},
    home::unix_ms,
    rpc::{
        error::{Answer, server},
        types::{EpochKeys, Payer},
    },
    sealing::{Seal, SealingError, deposit, gas_limit},
    wallet::Wallet,
};

/// How often the chain is looked at while something is pending and no block comes.
const STILL: Duration = Duration::from_secs(5);
/// How old the epoch and the payer's account may be when something is sealed.
const FRESH: Duration = Duration::from_secs(2);
/// Blocks for which an envelope is valid, unless the chain allows fewer.
const VALID_FOR: u64 = 200;
/// A held transaction whose predecessors do not come is dropped after this, as in a node's pool.
const HELD_FOR_MS: u64 = 3 * 3_600_000;
/// Attempts to get one envelope admitted: keys, nonces and offers may be out of date.
const TRIES: usize = 4;
/// Transactions that are remembered once they have run. Whoever sends one again may have asked for the account before.
const DONE: usize = 1024;
/// How often the light client and the node are asked again when one of them is a block or two behind the other.
const MOMENTS: usize = 8;
/// And how long after the time before.
const MOMENT: Duration = Duration::from_millis(250);

/// A transaction that was checked, for the keeper.
pub struct Submission {
    /// The transaction.
    pub transaction: Arc<RecoveredTransaction>,
    /// What the chain says of its sender.
    pub sender: Sender,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Answer<B256>>,
}

/// The task's state.
pub struct Keeper {
    source: Source,
    client: Client,
    accounts: Accounts,
    wallet: Wallet,
    params: ChainParams,
    classes: GasClasses,
    book: Arc<Mutex<Book>>,
    store: Store,
    /// Epoch, keys and the payer's account, and when they were asked for.
    view: Option<View>,
    /// Executed nonces of senders.
    executed: HashMap<Address, u64>,
    /// Hashes of what has run, the newest last.
    done: VecDeque<B256>,
    /// Whether the last look failed, so that it is said once.
    away: bool,
}

/// How many blocks were executed, once that is not `before` or nothing happened for a while. None when the proxy stops.
async fn block(news: &mut watch::Receiver<Seen>, before: u64) -> Option<u64> {
    match tokio::time::timeout(STILL, news.wait_for(|seen| seen.executed != before)).await {
        Ok(seen) => seen.ok().map(|seen| seen.executed),
        Err(_) => Some(before),
    }
}

struct View {
    at: Instant,
    keys: EpochKeys,
    payer: Payer,
}

impl Keeper {
    /// A keeper of what is in the book.
    pub fn new(
        source: Source,
        wallet: Wallet,
        params: ChainParams,
        classes: GasClasses,
        book: Arc<Mutex<Book>>,
        store: Store,
    ) -> Self {
        Self {
            client: source.node.clone(),
            accounts: source.accounts(),
            source,
            wallet,
            params,
            classes,
            book,
            store,
            view: None,
            executed: HashMap::new(),
            done: VecDeque::new(),
            away: false,
        }
    }

    /// Works until nobody can submit any more.
    pub async fn run(mut self, mut submissions: mpsc::Receiver<Submission>, mut news: watch::Receiver<Seen>) {
        let mut executed = 0;
        loop {
            tokio::select! {
                submission = submissions.recv() => match submission {
                    Some(Submission { transaction, sender, reply }) => {
                        // Who asked may be gone; the transaction is taken all the same.
                        let _ = reply.send(self.submit(&transaction, sender).await);
                    }
                    None => return,
                },
                now = block(&mut news, executed) => {
                    let Some(now) = now else { return };
                    executed = now;
                    if !self.book.lock().items.is_empty() {
                        self.look().await;
                    }
                },
            }
        }
    }

    async fn refresh(&mut self) -> Result<(), ClientError> {
        // The epoch first: what is not ordered when the payer is read later is not ordered before the epoch's end either.
        let keys = self.client.epoch_keys().await?;
        let payer = self.client.payer(self.wallet.address()).await?;
        self.view = Some(View { at: Instant::now(), keys, payer });
        Ok(())
    }

    async fn view(&mut self) -> Answer<&View> {
        if self.view.as_ref().is_none_or(|view| view.at.elapsed() > FRESH) {
            self.refresh().await.map_err(refused)?;
        }
        Ok(self.view.as_ref().expect("it was refreshed"))
    }

    fn save(&self) -> Answer<()> {
        let book = self.book.lock().clone();
        self.store.save(&book).map_err(|error| server(format!("the proxy cannot write its state: {error}")))
    }

    /// Takes a transaction: answers its hash once it is on its way or held behind others of its sender.
    async fn submit(&mut self, transaction: &Arc<RecoveredTransaction>, sender: Sender) -> Answer<B256> {
        let (hash, place) = (transaction.hash(), (transaction.sender(), transaction.nonce()));
        if self.book.lock().find(&hash).is_some() || self.done.contains(&hash) {
            return Ok(hash);
        }
        // The account was asked for before this task's last look.
        let known = self.executed.get(&place.0).copied().unwrap_or_default();
        let sender = Sender { next: sender.next.max(known), ..sender };
        checks::admit(&self.book.lock(), transaction, sender)?;
        self.executed.insert(place.0, sender.next);
        let is_deposit = self.book.lock().is_deposit(transaction);
        if !is_deposit {
            self.affords(place, transaction).await?;
        }
        self.book.lock().forgive(&hash);
        let before = self.book.lock().items.get(&place).cloned();
        let sent = match &before {
            Some(item) if !item.is_held() && self.replaces(item, is_deposit) => {
                self.replace(place, transaction, item.clone(), is_deposit).await
            }
            Some(item) if !item.is_held() => match self.is_ordered(item).await {
                Ok(true) => Err((place, ordered(place))),
                Ok(false) => self.hold(place, transaction).await,
                Err(error) => Err((place, refused(error))),
            },
            _ => self.hold(place, transaction).await,
        };
        if let Err((failed, reason)) = sent {
            if failed == place {
                let mut book = self.book.lock();
                match before {
                    Some(item) => book.items.insert(place, item),
                    None => book.items.remove(&place),
                };
                drop(book);
                self.save()?;
                return Err(reason);
            }
            tracing::warn!(sender = %failed.0, nonce = failed.1, reason = reason.message(), "not sent");
        }
        Ok(hash)
    }

    /// Whether a transaction takes the place of one that is on its way under the same payer nonce. Of a deposit that the node
    /// refuses, or an envelope that cannot be made again, nothing is under way: what has another form than it begins anew.
    fn replaces(&self, old: &Item, is_deposit: bool) -> bool {
        !old.is_stuck() || self.book.lock().is_deposit(&old.wanted) == is_deposit
    }

    /// Keeps a transaction, and sends what may go of its sender's.
    async fn hold(
        &mut self,
        place: Place,
        transaction: &Arc<RecoveredTransaction>,
    ) -> Result<(), (Place, ErrorObjectOwned)> {
        self.book.lock().items.insert(place, Item::new(Arc::clone(transaction), unix_ms()));
        // What is not on disk is not taken; the caller puts back what was there.
        self.save().map_err(|reason| (place, reason))?;
        self.release(place.0).await
    }

    /// Refuses what the payer could not pay beside what is under way.
    async fn affords(&mut self, place: Place, transaction: &RecoveredTransaction) -> Answer<()> {
        let (bytes, limit) = (transaction.raw().len(), transaction.gas_limit());
        let gas = gas_limit(&self.classes, bytes, limit, &self.params).map_err(|error| server(error.to_string()))?;
        let cost = alloy_primitives::U256::from(gas)
            .saturating_mul(alloy_primitives::U256::from(transaction.max_fee_per_gas()));
        let under_way = self.book.lock().cost_beside(place);
        for fresh in [false, true] {
            if fresh {
                // Money may have come since.
                self.refresh().await.map_err(refused)?;
            }
            let available = self.view().await?.payer.balance.saturating_sub(under_way);
            if cost <= available {
                return Ok(());
            }
            if fresh {
                return Err(checks::unfunded(self.wallet.address(), available, cost));
            }
        }
        Ok(())
    }

    /// Sends everything of a sender that may go. The error names the place that it is about.
    async fn release(&mut self, sender: Address) -> Result<(), (Place, ErrorObjectOwned)> {
        loop {
            let next = self.executed.get(&sender).copied().unwrap_or_default();
            let Some(release) = self.book.lock().release(sender, next) else { return Ok(()) };
            match release {
                Release::Seal(nonce) => {
                    let place = (sender, nonce);
                    self.seal_new(place).await.map_err(|reason| (place, reason))?;
                }
                Release::Deposit(nonce) => {
                    let place = (sender, nonce);
                    let Some(wanted) = self.book.lock().items.get(&place).map(|item| Arc::clone(&item.wanted)) else {
                        return Ok(());
                    };
                    return self.send_deposit(place, &wanted).await.map_err(|reason| (place, reason));
                }
            }
        }
    }

    /// Seals a held transaction under the next payer nonce.
    async fn seal_new(&mut self, place: Place) -> Answer<()> {
        let Some(wanted) = self.book.lock().items.get(&place).map(|item| Arc::clone(&item.wanted)) else {
            return Ok(());
        };
        for _ in 0..TRIES {
            let node = self.view().await?.payer.next_nonce;
            let slot = self.book.lock().free_slot(place, node);
            match self.seal_and_send(place, &wanted, slot, (0, 0)).await {
                Ok(()) => return Ok(()),
                // The nonce is somebody else's, or of an envelope that this proxy has forgotten.
                Err(Unsent::NonceTooLow | Unsent::Underpriced) => self.refresh().await.map_err(refused)?,
                Err(Unsent::NonceTooHigh) => {
                    self.refresh().await.map_err(refused)?;
                    self.send_lost().await;
                }
                Err(Unsent::Stale) => self.refresh().await.map_err(refused)?,
                Err(Unsent::Refused(reason)) => return Err(reason),
                Err(Unsent::Unanswered(error)) => return Err(refused(error)),
            }
        }
        Err(server("the node takes no envelope of this payer: its nonces do not fit; is the key used elsewhere, too?"))
    }

    /// Puts a better offer in the place of an envelope, or deposit, that is under way.
    async fn replace(
        &mut self,
        place: Place,
        wanted: &Arc<RecoveredTransaction>,
        old: Item,
        is_deposit: bool,
    ) -> Result<(), (Place, ErrorObjectOwned)> {
        if is_deposit {
            return self.send_deposit(place, wanted).await.map_err(|reason| (place, reason));
        }
        let (Some(slot), Some(current)) = (old.slot, old.current()) else { return Ok(()) };
        // Once the old one is ordered, the node would keep a second envelope of this nonce out anyway, but some nodes may
        // not know yet.
        if self.is_ordered(&old).await.map_err(|error| (place, refused(error)))? {
            return Err((place, ordered(place)));
        }
        let mut least = raised(current.max_fee, current.tip);
        for _ in 0..TRIES {
            match self.seal_and_send(place, wanted, slot, least).await {
                Ok(()) => return Ok(()),
                Err(Unsent::NonceTooLow) => return Err((place, ordered(place))),
                Err(Unsent::Underpriced) => least = raised(least.0, least.1),
                Err(Unsent::Stale | Unsent::NonceTooHigh) => {
                    self.refresh().await.map_err(|error| (place, refused(error)))?;
                    self.send_lost().await;
                }
                Err(Unsent::Refused(reason)) => return Err((place, reason)),
                Err(Unsent::Unanswered(error)) => return Err((place, refused(error))),
            }
        }
        Err((place, server("replacement transaction underpriced")))
    }

    /// What to seal with: the key of the node's epoch, proved by the light client if there is one. Where one of the two is a
    /// block behind, as at an epoch's start, they are asked again.
    async fn seal(&mut self) -> Answer<Seal> {
        let mut moments = MOMENTS;
        loop {
            let keys = self.view().await?.keys.clone();
            // Before anything is made of a key: one that is false may be no key at all.
            match self.source.prove(&keys).await {
                Ok(()) => {
                    return match Seal::of(&keys, VALID_FOR) {
                        Ok(seal) => Ok(seal.with_classes(&self.classes)),
                        Err(error @ SealingError::NoKey(_)) => {
                            self.view = None;
                            Err(server(format!("{error}; send it again in a moment")))
                        }
                        Err(error) => Err(server(error.to_string())),
                    };
                }
                Err((_, true)) if moments > 0 => {
                    moments -= 1;
                    tokio::time::sleep(MOMENT).await;
                    self.refresh().await.map_err(refused)?;
                }
                Err((error, waited)) => {
                    if waited {
                        self.source.waited_in_vain();
                    }
                    return Err(server(error.to_string()));
                }
            }
        }
    }

    /// Makes an envelope, writes it down, sends it. What was not admitted is forgotten again; what may have been stays.
    async fn seal_and_send(
        &mut self,
        place: Place,
        wanted: &Arc<RecoveredTransaction>,
        slot: u64,
        least: (u64, u64),
    ) -> Result<(), Unsent> {
        let seal = self.seal().await.map_err(Unsent::Refused)?;
        let raw = Bytes(wanted.raw().clone());
        let envelope = seal
            .offering(&raw, self.wallet.signing_key(), slot, &self.params, least)
            .map_err(|error| Unsent::Refused(server(error.to_string())))?;
        let attempt = Attempt {
            transaction: Arc::clone(wanted),
            name: envelope.hash(),
            raw: Bytes(envelope.raw().clone()),
            epoch: envelope.epoch,
            valid_until: envelope.valid_until,
            max_fee: envelope.max_fee_per_gas,
            tip: envelope.max_priority_fee_per_gas,
            cost: envelope.max_cost(),
        };
        self.write_and_send(place, Some(slot), attempt).await
    }

    async fn send_deposit(&mut self, place: Place, wanted: &Arc<RecoveredTransaction>) -> Answer<()> {
        let context = {
            let keys = &self.view().await?.keys;
            cascade_primitives::SigningContext {
                chain_id: keys.chain_id,
                genesis_hash: keys.genesis_hash,
                fork: keys.fork,
            }
        };
        let raw = Bytes(wanted.raw().clone());
        let (name, item) = deposit(&raw, self.wallet.signing_key(), &context)
            .map_err(|error| server(format!("this transfer to the payer is no deposit: {error}")))?;
        let attempt = Attempt {
            transaction: Arc::clone(wanted),
            name,
            raw: item.into(),
            epoch: Epoch(u64::MAX),
            valid_until: Height(u64::MAX),
            max_fee: 0,
            tip: 0,
            cost: alloy_primitives::U256::ZERO,
        };
        match self.write_and_send(place, None, attempt).await {
            Ok(()) => Ok(()),
            Err(Unsent::NonceTooLow) => Err(server("nonce too low: the account has sent something with this nonce")),
            Err(Unsent::NonceTooHigh) => Err(server("nonce too high: a transaction of this account is missing")),
            Err(Unsent::Underpriced | Unsent::Stale) => Err(server("replacement transaction underpriced")),
            Err(Unsent::Refused(reason)) => Err(reason),
            Err(Unsent::Unanswered(error)) => Err(refused(error)),
        }
    }

    /// Writes an attempt down, with what the user wants from now on, and sends it. What was not admitted, and what could not be
    /// written down, leaves the item as it was.
    async fn write_and_send(&mut self, place: Place, slot: Option<u64>, attempt: Attempt) -> Result<(), Unsent> {
        let (name, raw) = (attempt.name, attempt.raw.clone());
        let before = {
            let mut book = self.book.lock();
            let Some(item) = book.items.get_mut(&place) else { return Ok(()) };
            let before = (Arc::clone(&item.wanted), item.slot);
            (item.wanted, item.slot) = (Arc::clone(&attempt.transaction), slot);
            item.push(attempt);
            before
        };
        let undo = |book: &Mutex<Book>| {
            if let Some(item) = book.lock().items.get_mut(&place) {
                item.attempts.retain(|attempt| attempt.name != name);
                (item.wanted, item.slot) = before;
            }
        };
        if let Err(reason) = self.save() {
            undo(&self.book);
            return Err(Unsent::Refused(reason));
        }
        match send(&self.client, &raw).await {
            Ok(()) => {}
            Err(Unsent::Unanswered(error)) => {
                tracing::warn!(%error, %name, "the node did not say whether it took an envelope; it is sent again");
            }
            Err(unsent) => {
                undo(&self.book);
                self.save().map_err(Unsent::Refused)?;
                return Err(unsent);
            }
        }
        if let Some(item) = self.book.lock().items.get_mut(&place) {
            item.hitch = None;
        }
        Ok(())
    }
}

/// What is said of a replacement that comes too late.
fn ordered((_, nonce): Place) -> ErrorObjectOwned {
    let reason = cascade_mempool::AdmissionError::NonceTooLow { next: nonce.saturating_add(1), nonce };
    crate::rpc::backend::SubmitError::from(reason).into()
}
