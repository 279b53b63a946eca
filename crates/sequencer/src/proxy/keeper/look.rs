//! What the keeper does at each look at the chain.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use alloy_primitives::{Address, B256, Bytes};
use cascade_primitives::Height;

use super::{
    super::{
        book::{Attempt, Failure, Hitch, Item, Place, raised},
        sending::{Unsent, send},
    },
    DONE, HELD_FOR_MS, Keeper, TRIES,
};
use crate::{
    cli::ClientError,
    home::unix_ms,
    rpc::types::{EnvelopeState, EnvelopeStatus},
};

/// Blocks for which an envelope may offer less than the base fee while better ones wait behind it.
const PATIENCE: u64 = 3;

impl Keeper {
    /// Whether an attempt of an item has its place in the chain.
    pub(super) async fn is_ordered(&self, item: &Item) -> Result<bool, ClientError> {
        for attempt in &item.attempts {
            let status = self.client.envelope_status(attempt.name).await?;
            if status.is_some_and(|status| status.status.is_ordered()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sends what the node's pool does not have (it was restarted, or dropped it).
    pub(super) async fn send_lost(&self) {
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
    pub(super) async fn look(&mut self) {
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
        let (epoch, height, base_fee) = (view.keys.epoch, view.keys.height, view.keys.base_fee);
        let executed = view.payer.nonce;
        let mut sealed: Vec<(u64, Place)> = {
            let book = self.book.lock();
            book.items.iter().filter_map(|(place, item)| Some((item.slot?, *place))).collect()
        };
        sealed.sort_unstable();
        // Nothing behind an envelope that is not there can be ordered either.
        let mut stuck: Option<String> = None;
        for (slot, place) in sealed {
            let Some(item) = self.book.lock().items.get(&place).cloned() else { continue };
            let Some(current) = item.current() else { continue };
            if slot < executed {
                self.resolve(place, &item).await?;
            } else if current.epoch < epoch || current.valid_until <= height {
                if self.is_ordered(&item).await? {
                    continue;
                }
                if let Some(reason) = &stuck {
                    self.hitch(place, Some(Hitch::Stuck(reason.clone())));
                } else if let Some(reason) = self.seal_again(place, slot, &item).await {
                    stuck =
                        Some(format!("waits behind a transaction of the same payer that cannot be sealed: {reason}"));
                }
            } else {
                self.watch_offer(place, slot, &item, (height, base_fee)).await?;
            }
        }
        self.send_lost().await;
        self.look_after_senders().await
    }

    /// Keeps what is known of an item that does not get on, and says it once.
    fn hitch(&self, place: Place, hitch: Option<Hitch>) {
        let mut book = self.book.lock();
        let Some(item) = book.items.get_mut(&place) else { return };
        if let Some(Hitch::Stuck(reason)) = &hitch
            && item.hitch != hitch
        {
            tracing::warn!(transaction = %item.wanted.hash(), sender = %place.0, nonce = place.1, reason, "it is stuck");
        }
        item.hitch = hitch;
    }

    /// One payer's envelopes are ordered by its nonces, whoever sends them: one that offers less than the base fee keeps those
    /// behind it waiting, other accounts' among them. So after some blocks it offers as much as the best of these. The payer
    /// pays the difference.
    async fn watch_offer(
        &mut self,
        place: Place,
        slot: u64,
        item: &Item,
        (height, base_fee): (Height, u64),
    ) -> Result<(), ClientError> {
        let Some(current) = item.current() else { return Ok(()) };
        // The fee may have risen since it was ordered.
        if current.max_fee >= base_fee || self.is_ordered(item).await? {
            self.hitch(place, None);
            return Ok(());
        }
        let mut since = match &item.hitch {
            Some(Hitch::Low { since, .. }) => *since,
            _ => height,
        };
        let mut reason =
            format!("it offers at most {} wei for a gas, less than the base fee of {base_fee}", current.max_fee);
        let best = self.book.lock().held_up_behind(slot, base_fee);
        if let Some(best) = best.filter(|_| height.0 >= since.0.saturating_add(PATIENCE)) {
            let least = raised(current.max_fee, current.tip);
            tracing::info!(transaction = %item.wanted.hash(), cap = best, "others wait behind it: the payer offers more");
            match self.offer(place, slot, item, (least.0.max(best), least.1)).await {
                Ok(()) => return Ok(()),
                Err(Some(refused)) => reason = format!("{reason}, and no better envelope is taken: {refused}"),
                Err(None) => {}
            }
            // It is tried again, though not with every block.
            since = height;
        }
        self.hitch(place, Some(Hitch::Low { since, reason }));
        Ok(())
    }

    /// Seals an item again with at least this offer. The error has a reason where the next look will hardly find it mended.
    async fn offer(&mut self, place: Place, slot: u64, item: &Item, least: (u64, u64)) -> Result<(), Option<String>> {
        let mut least = least;
        for _ in 0..TRIES {
            match self.seal_and_send(place, &item.wanted, slot, least).await {
                Ok(()) => return Ok(()),
                // The old envelope is still in the node's pool.
                Err(Unsent::Underpriced) => least = raised(least.0, least.1),
                Err(Unsent::Refused(reason)) => return Err(Some(reason.message().to_owned())),
                // Ordered meanwhile, or the epoch ends, or the node is away: the next look sees.
                Err(Unsent::NonceTooLow | Unsent::NonceTooHigh | Unsent::Stale | Unsent::Unanswered(_)) => {
                    return Err(None);
                }
            }
        }
        Err(None)
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

    /// Seals an item for the epoch that votes now: under its payer nonce, or a lower one that was given up. Answers why it cannot
    /// be.
    async fn seal_again(&mut self, place: Place, slot: u64, item: &Item) -> Option<String> {
        let current = item.current()?;
        let next = self.view.as_ref().map_or(slot, |view| view.payer.next_nonce);
        let slot = slot.min(self.book.lock().free_slot(place, next));
        if !item.is_stuck() {
            tracing::info!(transaction = %item.wanted.hash(), epoch = current.epoch.0, "not ordered in its time: sealed again");
        }
        let reason = self.offer(place, slot, item, (current.max_fee, current.tip)).await.err()??;
        self.hitch(place, Some(Hitch::Stuck(reason.clone())));
        Some(reason)
    }

    /// Releases what is held, and sees what became of deposits.
    async fn look_after_senders(&mut self) -> Result<(), ClientError> {
        let waiting: BTreeSet<Address> = {
            let book = self.book.lock();
            book.items.iter().filter(|(_, item)| item.slot.is_none()).map(|((sender, _), _)| *sender).collect()
        };
        for sender in waiting {
            // What is proved is some blocks old, and no nonce ever falls.
            let known = self.executed.get(&sender).copied().unwrap_or_default();
            let next = self.accounts.executed_nonce(sender).await?.max(known);
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
                    self.look_after_deposit(place, deposit).await?;
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

    /// Sends a deposit that the node does not have again. Its sender may have spent the money meanwhile.
    async fn look_after_deposit(&self, place: Place, deposit: &Attempt) -> Result<(), ClientError> {
        if self.client.envelope_status(deposit.name).await?.is_some() {
            self.hitch(place, None);
            return Ok(());
        }
        let reason = match send(&self.client, &deposit.raw).await {
            Ok(()) => {
                self.hitch(place, None);
                return Ok(());
            }
            // Executed meanwhile, or the node is away.
            Err(Unsent::NonceTooLow | Unsent::Unanswered(_)) => return Ok(()),
            Err(Unsent::Refused(reason)) => reason.message().to_owned(),
            Err(Unsent::NonceTooHigh) => "a transaction of its account is missing before it".to_owned(),
            Err(Unsent::Underpriced | Unsent::Stale) => "another transaction with its nonce is on its way".to_owned(),
        };
        self.hitch(place, Some(Hitch::Stuck(format!("the node refuses the deposit: {reason}"))));
        Ok(())
    }
}

/// Remembers what has run.
fn remember(done: &mut VecDeque<B256>, hash: B256) {
    if done.len() == DONE {
        done.pop_front();
    }
    done.push_back(hash);
}
