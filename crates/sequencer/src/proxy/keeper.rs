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
//! | a held transaction's predecessors are on their way | seal it |

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
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
    book::{Attempt, Book, Failure, Item, Place, Release, raised},
    checks::{self, Sender},
    news::Seen,
    sending::{Unsent, refused, send},
    store::Store,
};
use crate::{
    cli::{Client, ClientError},
    home::unix_ms,
    rpc::{
        error::{Answer, server},
        types::{EnvelopeState, EnvelopeStatus, EpochKeys, Payer},
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

/// Where the keeper asks.
pub struct Source {
    /// The node that takes envelopes.
    pub node: Client,
    /// A light client, which the node's keys are compared with.
    pub light: Option<Client>,
}

impl Source {
    /// The node's keys without those that the light client, if there is one, has not proved. It may be a block behind: then
    /// there is no key for a moment, as at the start of a chain.
    async fn epoch_keys(&self) -> Result<EpochKeys, ClientError> {
        let mut keys = self.node.epoch_keys().await?;
        if let Some(light) = &self.light {
            let proved = light.epoch_keys().await?;
            let same_chain =
                (proved.chain_id, proved.genesis_hash, proved.fork) == (keys.chain_id, keys.genesis_hash, keys.fork);
            keys.keys.retain(|key| {
                let right = proved.keys.iter().find(|right| right.epoch == key.epoch);
                if right.is_some_and(|right| right != key) {
                    tracing::warn!(epoch = %key.epoch, "the node gives another key than the light client proved; nothing is sealed to it");
                }
                same_chain && right == Some(key)
            });
        }
        Ok(keys)
    }
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
        let keys = self.source.epoch_keys().await?;
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
            Some(item) if !item.is_held() => self.replace(place, transaction, item.clone(), is_deposit).await,
            _ => {
                let item = Item { wanted: Arc::clone(transaction), slot: None, attempts: Vec::new(), since: unix_ms() };
                self.book.lock().items.insert(place, item);
                self.save()?;
                self.release(place.0).await
            }
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
            let slot = self.book.lock().last_slot().map_or(node, |last| node.max(last + 1));
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
        let nonce = place.1;
        let ordered = move || {
            let reason = cascade_mempool::AdmissionError::NonceTooLow { next: nonce + 1, nonce };
            (place, crate::rpc::backend::SubmitError::from(reason).into())
        };
        if is_deposit {
            return self.send_deposit(place, wanted).await.map_err(|reason| (place, reason));
        }
        let (Some(slot), Some(current)) = (old.slot, old.current()) else { return Ok(()) };
        // Once the old one is ordered, the node would keep a second envelope of this nonce out anyway, but some nodes may
        // not know yet.
        if self.is_ordered(&old).await.map_err(|error| (place, refused(error)))? {
            return Err(ordered());
        }
        let mut least = raised(current.max_fee, current.tip);
        for _ in 0..TRIES {
            match self.seal_and_send(place, wanted, slot, least).await {
                Ok(()) => {
                    if let Some(item) = self.book.lock().items.get_mut(&place) {
                        item.wanted = Arc::clone(wanted);
                    }
                    return self.save().map_err(|reason| (place, reason));
                }
                Err(Unsent::NonceTooLow) => return Err(ordered()),
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

    /// Makes an envelope, writes it down, sends it. What was not admitted is forgotten again; what may have been stays.
    async fn seal_and_send(
        &mut self,
        place: Place,
        wanted: &Arc<RecoveredTransaction>,
        slot: u64,
        least: (u64, u64),
    ) -> Result<(), Unsent> {
        let view = self.view().await.map_err(Unsent::Refused)?;
        let seal = Seal::of(&view.keys, VALID_FOR);
        let seal = match seal {
            Ok(seal) => seal.with_classes(&self.classes),
            Err(error @ SealingError::NoKey(_)) => {
                self.view = None;
                return Err(Unsent::Refused(server(format!("{error}; send it again in a moment"))));
            }
            Err(error) => return Err(Unsent::Refused(server(error.to_string()))),
        };
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
            Ok(()) => {
                if let Some(item) = self.book.lock().items.get_mut(&place) {
                    item.wanted = Arc::clone(wanted);
                }
                self.save()
            }
            Err(Unsent::NonceTooLow) => Err(server("nonce too low: the account has sent something with this nonce")),
            Err(Unsent::NonceTooHigh) => Err(server("nonce too high: a transaction of this account is missing")),
            Err(Unsent::Underpriced | Unsent::Stale) => Err(server("replacement transaction underpriced")),
            Err(Unsent::Refused(reason)) => Err(reason),
            Err(Unsent::Unanswered(error)) => Err(refused(error)),
        }
    }

    async fn write_and_send(&mut self, place: Place, slot: Option<u64>, attempt: Attempt) -> Result<(), Unsent> {
        let (name, raw) = (attempt.name, attempt.raw.clone());
        let old_slot = {
            let mut book = self.book.lock();
            let Some(item) = book.items.get_mut(&place) else { return Ok(()) };
            let old = item.slot;
            item.slot = slot;
            item.push(attempt);
            old
        };
        self.save().map_err(Unsent::Refused)?;
        match send(&self.client, &raw).await {
            Ok(()) => Ok(()),
            Err(Unsent::Unanswered(error)) => {
                tracing::warn!(%error, %name, "the node did not say whether it took an envelope; it is sent again");
                Ok(())
            }
            Err(unsent) => {
                if let Some(item) = self.book.lock().items.get_mut(&place) {
                    item.attempts.retain(|attempt| attempt.name != name);
                    item.slot = old_slot;
                }
                self.save().map_err(Unsent::Refused)?;
                Err(unsent)
            }
        }
    }

    /// Whether an attempt of an item has its place in the chain.
    async fn is_ordered(&self, item: &Item) -> Result<bool, ClientError> {
        for attempt in &item.attempts {
            let status = self.client.envelope_status(attempt.name).await?;
            if status.is_some_and(|status| status.status.is_ordered()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sends what the node's pool does not have (it was restarted, or dropped it).
    async fn send_lost(&self) {
        let Some(view) = &self.view else { return };
        let lost: Vec<Bytes> = {
            let book = self.book.lock();
            let slots = book.items.values().filter_map(|item| Some((item.slot?, item.current()?)));
            let mut lost: Vec<_> = slots
                .filter(|(slot, _)| *slot >= view.payer.next_nonce)
                .map(|(slot, a)| (slot, a.raw.clone()))
                .collect();
            lost.sort_by_key(|(slot, _)| *slot);
            lost.into_iter().map(|(_, raw)| raw).collect()
        };
        for raw in lost {
            if let Err(Unsent::Refused(reason)) = send(&self.client, &raw).await {
                tracing::warn!(reason = reason.message(), "the node does not take an envelope again");
            }
        }
    }

    /// Looks at the chain, and does what the table above says.
    async fn look(&mut self) {
        match self.try_look().await {
            Ok(()) => self.away = false,
            Err(error) => {
                if !self.away {
                    tracing::warn!(%error, "the chain cannot be looked at; trying again");
                }
                self.away = true;
            }
        }
    }

    async fn try_look(&mut self) -> Result<(), ClientError> {
        self.refresh().await?;
        let view = self.view.as_ref().expect("it was refreshed");
        let (epoch, height, executed) = (view.keys.epoch, view.keys.height, view.payer.nonce);
        let mut sealed: Vec<(u64, Place)> = {
            let book = self.book.lock();
            book.items.iter().filter_map(|(place, item)| Some((item.slot?, *place))).collect()
        };
        sealed.sort_unstable();
        for (slot, place) in sealed {
            let Some(item) = self.book.lock().items.get(&place).cloned() else { continue };
            let Some(current) = item.current() else { continue };
            if slot < executed {
                self.resolve(place, &item).await?;
            } else if (current.epoch < epoch || current.valid_until <= height) && !self.is_ordered(&item).await? {
                self.seal_again(place, slot, &item).await;
            }
        }
        self.send_lost().await;
        self.look_after_senders().await
    }

    /// The payer's nonce of an item is used: finds out by which of its envelopes, and forgets it.
    async fn resolve(&mut self, place: Place, item: &Item) -> Result<(), ClientError> {
        for attempt in item.attempts.iter().rev() {
            let Some(status) = self.client.envelope_status(attempt.name).await? else { continue };
            match status.status {
                EnvelopeState::Executed | EnvelopeState::Failed => {
                    self.forget(place, attempt, &status);
                    return Ok(());
                }
                // Executed already, or its nonce would not be used: the answers are of different moments.
                EnvelopeState::Ordered | EnvelopeState::Revealed => return Ok(()),
                EnvelopeState::Pending | EnvelopeState::Expired => {}
            }
        }
        tracing::warn!(
            sender = %place.0, nonce = place.1, payer_nonce = item.slot,
            "the payer's nonce was used by an envelope that is not this proxy's; sealing under another one"
        );
        if let Some(item) = self.book.lock().items.get_mut(&place) {
            item.slot = None;
            item.attempts.clear();
        }
        Ok(())
    }

    fn forget(&mut self, place: Place, attempt: &Attempt, status: &EnvelopeStatus) {
        let mut book = self.book.lock();
        let removed = book.items.remove(&place);
        let hash = attempt.transaction.hash();
        if status.status == EnvelopeState::Failed {
            let reason = status.reason.clone().unwrap_or_default();
            tracing::warn!(transaction = %hash, envelope = %attempt.name, reason, "charged, and nothing ran");
            let transaction = Arc::clone(&attempt.transaction);
            book.fail(Failure { transaction, envelope: attempt.name, reason });
        } else {
            tracing::info!(transaction = %hash, envelope = %attempt.name, height = status.height.map(|h| h.0), "executed");
            let next = self.executed.entry(place.0).or_default();
            *next = place.1.saturating_add(1).max(*next);
            remember(&mut self.done, hash);
        }
        if let Some(wanted) = removed.map(|item| item.wanted.hash()).filter(|wanted| *wanted != hash) {
            tracing::info!(transaction = %wanted, "came too late to replace {hash}");
        }
        drop(book);
        self.save_or_say();
    }

    fn save_or_say(&self) {
        if let Err(error) = self.save() {
            tracing::error!(reason = error.message(), "what is pending is not on disk");
        }
    }

    /// Seals an item for the epoch that votes now.
    async fn seal_again(&mut self, place: Place, slot: u64, item: &Item) {
        let Some(current) = item.current() else { return };
        tracing::info!(transaction = %item.wanted.hash(), epoch = current.epoch.0, "not ordered in its time: sealed again");
        let mut least = (current.max_fee, current.tip);
        for _ in 0..TRIES {
            match self.seal_and_send(place, &item.wanted, slot, least).await {
                Ok(()) => return,
                // The old envelope is still in the node's pool, where it can do nothing any more.
                Err(Unsent::Underpriced) => least = raised(least.0, least.1),
                // Ordered meanwhile, or the key is made in a moment: the next look sees.
                Err(_) => return,
            }
        }
    }

    /// Releases what is held, and sees what became of deposits.
    async fn look_after_senders(&mut self) -> Result<(), ClientError> {
        let waiting: BTreeSet<Address> = {
            let book = self.book.lock();
            book.items.iter().filter(|(_, item)| item.slot.is_none()).map(|((sender, _), _)| *sender).collect()
        };
        for sender in waiting {
            let next = self.client.executed_nonce(sender).await?;
            self.executed.insert(sender, next);
            self.look_after(sender, next).await?;
            if let Err((place, reason)) = self.release(sender).await {
                tracing::warn!(sender = %place.0, nonce = place.1, reason = reason.message(), "dropped");
                self.book.lock().items.remove(&place);
                self.save_or_say();
            }
        }
        Ok(())
    }

    async fn look_after(&mut self, sender: Address, next: u64) -> Result<(), ClientError> {
        let items: Vec<(u64, Item)> =
            self.book.lock().of_sender(sender).map(|(nonce, item)| (nonce, item.clone())).collect();
        for (nonce, item) in items.into_iter().filter(|(_, item)| item.slot.is_none()) {
            let place = (sender, nonce);
            let old = item.since.saturating_add(HELD_FOR_MS) < unix_ms();
            let gone = match item.current() {
                None => nonce < next || old,
                Some(_) if nonce < next => true,
                Some(deposit) => {
                    if self.client.envelope_status(deposit.name).await?.is_none() {
                        let _ = send(&self.client, &deposit.raw).await;
                    }
                    false
                }
            };
            if gone {
                let text = if item.is_held() { "dropped: nonce used, or too old" } else { "the deposit is executed" };
                tracing::info!(transaction = %item.wanted.hash(), "{text}");
                if !item.is_held() {
                    remember(&mut self.done, item.wanted.hash());
                }
                self.book.lock().items.remove(&place);
                self.save_or_say();
            }
        }
        Ok(())
    }
}

fn remember(done: &mut VecDeque<B256>, hash: B256) {
    if done.len() == DONE {
        done.pop_front();
    }
    done.push_back(hash);
}
