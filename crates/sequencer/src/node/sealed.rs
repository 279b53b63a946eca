//! The pool of an encrypted chain: envelopes, deposits, and what belongs to key generation.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use cascade_consensus::{BuildRequest, BuiltBlock};
use cascade_execution::{
    BlockLoad, InFlight, ItemCheck, PushError, State, StateView, fee_account, next_base_fee, sender_state,
};
use cascade_mempool::{
    AccountState, Admission, CheckedEnvelope, Pool, PoolLimits, SelectLimits, Source, gossip::GOSSIP_BYTES,
};
use cascade_primitives::{
    Address, B256, ChainParams, Epoch, Height, RecoveredDeposit, RecoveredEnvelope, RecoveredItem, Reveal, SealedBlock,
    SigningContext, SystemItem, TimestampMs, envelope::MAX_ENVELOPES_PER_BLOCK, keccak256,
};
use cascade_storage::ChainDb;

use super::{
    expiry::Ends,
    items::{CheckedItem, ItemBlocks, ItemContent},
    keyring::Keyring,
    pool::around_one,
};
use crate::rpc::backend::{PoolCounts, SubmitError};

/// Why nothing can be said of a block's items.
pub enum Unjudged {
    /// They break a rule that the block alone decides.
    Invalid(String),
    /// This node lacks what it needs: the epoch's key, or the state.
    Unknown,
}

/// What a pool of an encrypted chain reads.
#[derive(Clone)]
pub struct SealedSources {
    /// What signatures are bound to.
    pub context: SigningContext,
    /// Keys of epochs.
    pub keyring: Keyring,
    /// Items of recent blocks.
    pub blocks: ItemBlocks,
    /// What opened executed blocks.
    pub db: Arc<ChainDb>,
}

impl SealedSources {
    /// A block's items; `known` are those that were checked before.
    ///
    /// # Errors
    /// [`Unjudged`].
    pub fn content_of(
        &self,
        block: &SealedBlock,
        params: &ChainParams,
        known: impl Fn(&Bytes) -> Option<CheckedItem>,
    ) -> Result<Arc<ItemContent>, Unjudged> {
        let Some(holder) = self.keyring.of_block(&block.header) else { return Err(Unjudged::Unknown) };
        let key = holder.keys.decryption.encryption_key();
        let content = self.blocks.get_or_check(block, &self.context, params, &key, known);
        content.map_err(|error| Unjudged::Invalid(error.to_string()))
    }
}

/// The pool.
pub struct SealedPool {
    params: ChainParams,
    sources: SealedSources,
    envelopes: Pool<CheckedEnvelope>,
    deposits: Pool<RecoveredDeposit>,
    /// Names of pooled items by the hash of their bytes: what a block carries is found without recovering its payer.
    names: HashMap<B256, B256>,
    ends: Ends,
    offers: Vec<SystemItem>,
    /// The newest final block.
    head: (Epoch, Height),
}

impl SealedPool {
    /// An empty pool.
    #[must_use]
    pub fn new(params: &ChainParams, sources: SealedSources) -> Self {
        let limits = PoolLimits::of(params);
        Self {
            params: params.clone(),
            sources,
            envelopes: Pool::new(limits.clone()),
            deposits: Pool::new(PoolLimits { count: 4096, bytes: 4 << 20, sender_pool_txs: 4, ..limits }),
            names: HashMap::new(),
            ends: Ends::default(),
            offers: Vec::new(),
            head: (Epoch(0), Height::ZERO),
        }
    }

    /// What key generation would have in a block, in place of what it had before.
    pub fn set_offers(&mut self, offers: Vec<SystemItem>) {
        self.offers = offers;
    }

    /// A block is final: what no later block can carry is of no use.
    pub fn on_final(&mut self, epoch: Epoch, height: Height) {
        let ended = self.head.0 < epoch;
        self.head = (epoch, height);
        let due = self.ends.take_due(height);
        // Only where there is any, since it visits all.
        if ended || due.iter().any(|name| self.envelopes.contains(name)) {
            self.envelopes
                .drop_where(&|p: &CheckedEnvelope| p.envelope.epoch < epoch || p.envelope.valid_until <= height);
        }
    }

    /// The keys of an epoch are made anew: what is sealed to others opens nothing.
    pub fn forget_epoch(&mut self, epoch: Epoch) {
        self.envelopes.drop_where(&|pooled: &CheckedEnvelope| pooled.envelope.epoch == epoch);
        self.sources.blocks.forget_epoch(epoch);
    }

    /// Drops what is too old. Answers the pool's size and whether a block could carry any of it.
    pub fn tick(&mut self, now: TimestampMs) -> (usize, bool) {
        self.envelopes.on_tick(now);
        self.deposits.on_tick(now);
        let (envelopes, deposits) = (&self.envelopes, &self.deposits);
        self.names.retain(|_, name| envelopes.contains(name) || deposits.contains(name));
        (self.len(), self.has_work())
    }

    fn len(&self) -> usize {
        self.envelopes.len() + self.deposits.len()
    }

    fn has_work(&self) -> bool {
        let (epoch, height) = (self.head.0, self.head.1.next());
        // Envelopes for the next epoch wait for it; none of them is a reason to make blocks.
        let fit = || self.envelopes.iter().any(|pooled| fits(pooled, epoch, height));
        !self.offers.is_empty() || self.deposits.status().pending > 0 || self.envelopes.status().pending > 0 && fit()
    }

    /// Items that entered here and were not given out yet.
    pub fn take_fresh(&mut self) -> Vec<Bytes> {
        let envelopes = self.envelopes.take_new_for_gossip(GOSSIP_BYTES);
        let mut fresh: Vec<Bytes> = envelopes.iter().map(|e| e.envelope.raw().clone()).collect();
        if fresh.is_empty() {
            fresh = self.deposits.take_new_for_gossip(GOSSIP_BYTES).iter().map(|d| d.raw().clone()).collect();
        }
        fresh
    }

    /// Whether an item waits or is in flight, by its name.
    #[must_use]
    pub fn contains(&self, name: &B256) -> bool {
        self.envelopes.contains(name) || self.deposits.contains(name)
    }

    /// A pooled item by its bytes.
    #[must_use]
    pub fn known(&self, raw: &Bytes) -> Option<CheckedItem> {
        let name = self.names.get(&keccak256(raw))?;
        if let Some(pooled) = self.envelopes.get(name) {
            let item = RecoveredItem::Envelope(Box::new(pooled.envelope.clone()));
            return Some(CheckedItem { item, sealed: Some(pooled.sealed.clone()) });
        }
        let pooled = self.deposits.get(name)?;
        Some(CheckedItem { item: RecoveredItem::Deposit(Box::new(pooled.as_ref().clone())), sealed: None })
    }

    /// Until when blocks could carry an envelope that came here lately.
    #[must_use]
    pub fn end_of(&self, name: &B256) -> Option<(Epoch, Height)> {
        self.ends.get(name)
    }

    /// How many of which kind.
    #[must_use]
    pub fn counts(&self) -> PoolCounts {
        let (envelopes, deposits) = (self.envelopes.status(), self.deposits.status());
        PoolCounts {
            pending: (envelopes.pending + deposits.pending) as u64,
            queued: (envelopes.queued + deposits.queued) as u64,
            in_flight: (envelopes.in_flight + deposits.in_flight) as u64,
        }
    }

    /// A payer's next nonce in the fee ledger: behind what is executed, in flight, and waits without a gap.
    #[must_use]
    pub fn payer_nonce(&self, payer: &Address, view: &StateView, in_flight: &InFlight) -> u64 {
        self.envelopes.pending_nonce(payer, &payer_account(view, in_flight, payer))
    }

    /// What it reads.
    #[must_use]
    pub const fn sources(&self) -> &SealedSources {
        &self.sources
    }

    /// Names of a block's items, as far as they are known here.
    #[must_use]
    pub fn names_of(&self, block: &SealedBlock) -> Vec<B256> {
        match self.sources.blocks.get(block) {
            Some(content) => content.items.iter().map(RecoveredItem::hash).collect(),
            None => block.body.transactions.iter().filter_map(|raw| self.names.get(&keccak256(raw)).copied()).collect(),
        }
    }

    /// The block that holds them is on the branch that is built on.
    pub fn on_ordered(&mut self, names: &[B256]) {
        self.envelopes.on_ordered(names);
        self.deposits.on_ordered(names);
    }

    /// That block is abandoned.
    pub fn on_unordered(&mut self, names: &[B256]) {
        self.envelopes.on_unordered(names);
        self.deposits.on_unordered(names);
    }

    /// What an envelope would be refused for whatever its ciphertext holds.
    pub fn precheck(
        &self,
        envelope: &RecoveredEnvelope,
        executed: Height,
        account: &AccountState,
    ) -> Result<(), SubmitError> {
        self.check_validity(envelope, executed)?;
        Ok(self.envelopes.precheck(envelope, account)?)
    }

    fn check_validity(&self, envelope: &RecoveredEnvelope, executed: Height) -> Result<(), SubmitError> {
        let next = executed.max(self.head.1).next();
        if envelope.epoch < self.head.0 {
            return Err(SubmitError::PastEpoch { epoch: envelope.epoch.0, now: self.head.0.0 });
        }
        if envelope.valid_until < next {
            return Err(SubmitError::Expired { valid_until: envelope.valid_until.0, next: next.0 });
        }
        let limit = next.plus(self.params.max_validity);
        if envelope.valid_until > limit {
            return Err(SubmitError::ValidTooLong { valid_until: envelope.valid_until.0, limit: limit.0 });
        }
        Ok(())
    }

    /// Takes an item. The flag says whether a block could carry it.
    pub fn admit(
        &mut self,
        now: TimestampMs,
        checked: CheckedItem,
        source: Source,
        view: &StateView,
        in_flight: &InFlight,
    ) -> Result<(B256, bool), SubmitError> {
        let (name, raw) = (checked.item.hash(), keccak256(checked.item.raw()));
        let current = match &checked.item {
            RecoveredItem::Envelope(envelope) => envelope.epoch == self.head.0,
            RecoveredItem::Deposit(_) => true,
        };
        let admission = match (checked.item, checked.sealed) {
            (RecoveredItem::Envelope(envelope), Some(sealed)) => {
                self.check_validity(&envelope, view.version())?;
                let accounts = |payer: &Address| payer_account(view, in_flight, payer);
                let end = (envelope.epoch, envelope.valid_until);
                let checked = CheckedEnvelope { envelope: *envelope, sealed };
                let admission = self.envelopes.admit(now, checked, source, &accounts)?;
                self.ends.insert(name, end);
                admission
            }
            (RecoveredItem::Deposit(deposit), _) => {
                let accounts = |sender: &Address| sender_account(view, in_flight, sender);
                self.deposits.admit(now, *deposit, source, &accounts)?
            }
            (RecoveredItem::Envelope(_), None) => unreachable!("an envelope is checked before it is admitted"),
        };
        self.names.insert(raw, name);
        let work = current && matches!(admission, Admission::New { executable: true } | Admission::Replaced { .. });
        Ok((name, work))
    }

    /// A block was executed.
    pub fn on_executed(&mut self, load: &BlockLoad, view: &StateView, in_flight: &InFlight, base_fee: u64) {
        let payers: Vec<_> = load.payers().map(|p| (*p, payer_account(view, in_flight, p))).collect();
        self.envelopes.on_executed(payers);
        let senders: Vec<_> = load.senders().map(|s| (*s, sender_account(view, in_flight, s))).collect();
        self.deposits.on_executed(senders);
        self.envelopes.on_base_fee(base_fee);
        self.deposits.on_base_fee(base_fee);
    }

    /// What opened the blocks whose results a block makes due; none if one is not at hand.
    fn reveals(&self, request: &BuildRequest) -> Option<Vec<Reveal>> {
        let mut reveals = Vec::new();
        for height in request.parent.last_result.0 + 1..=request.state_height.0 {
            match self.sources.db.reveal(Height(height)) {
                Ok(reveal) => reveals.extend(reveal),
                Err(error) => {
                    tracing::error!(%error, "what opened a block is unreadable");
                    return None;
                }
            }
        }
        Some(reveals)
    }

    /// Envelopes that no executed block has carried.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let status = self.envelopes.status();
        status.pending + status.in_flight
    }

    /// The content of a block, with at most so many envelopes; those of a favoured payer around one of somebody else, if
    /// there is one.
    pub fn build(
        &self,
        request: &BuildRequest,
        state: &State,
        in_flight: Option<InFlight>,
        most: usize,
        favour: Option<Address>,
    ) -> Option<BuiltBlock> {
        let params = &self.params;
        let base_fee = next_base_fee(request.parent.base_fee, request.parent.ordered_gas, params);
        let reveals = self.reveals(request)?;
        let mut built = BuiltBlock { base_fee, reveals, ..BuiltBlock::default() };
        if !request.may_carry_content {
            return Some(built);
        }
        built.system = request.key_items(self.offers.iter());
        let parent = &request.parent;
        let committee = if request.epoch == parent.epoch { &parent.committee } else { &parent.next_committee };
        if self.sources.keyring.of_committee(committee).is_none() {
            return Some(built);
        }
        let (view, in_flight) = (state.at(request.state_height).ok()?, in_flight?);
        let limits = SelectLimits {
            bytes: params.max_block_bytes as usize,
            gas: params.block_gas_limit,
            count: most.min(MAX_ENVELOPES_PER_BLOCK),
        };
        let mut check = ItemCheck::new(params, base_fee, request.height, request.epoch, &view, &in_flight).ok()?;
        let deposits = self.deposits.select(
            SelectLimits { count: if favour.is_some() { 0 } else { 256 }, bytes: limits.bytes / 8, ..limits },
            base_fee,
            &|a: &Address| sender_account(&view, &in_flight, a),
        );
        let limits = SelectLimits { bytes: limits.bytes - limits.bytes / 8, ..limits };
        let accounts = |payer: &Address| payer_account(&view, &in_flight, payer);
        let allowed = |pooled: &CheckedEnvelope| fits(pooled, request.epoch, request.height);
        let mut envelopes = self.envelopes.select_where(limits, base_fee, &accounts, &allowed);
        if let Some(favour) = favour {
            envelopes = around_one(envelopes, &favour);
        }
        let deposits = deposits.iter().map(|d| RecoveredItem::Deposit(Box::new(d.as_ref().clone())));
        let envelopes = envelopes.iter().map(|e| RecoveredItem::Envelope(Box::new(e.envelope.clone())));
        for item in deposits.chain(envelopes) {
            match check.push(&item) {
                Ok(()) => built.transactions.push(item.raw().clone()),
                Err(PushError::Refused(refusal)) => tracing::debug!(name = %item.hash(), %refusal, "left out"),
                Err(PushError::Store(error)) => {
                    tracing::error!(%error, "state unreadable while building");
                    return None;
                }
            }
        }
        built.ordered_gas = check.ordered_gas().0;
        Some(built)
    }
}

/// Whether a block of an epoch at a height may carry an envelope, as far as these go.
fn fits(pooled: &CheckedEnvelope, epoch: Epoch, height: Height) -> bool {
    pooled.envelope.epoch == epoch && pooled.envelope.valid_until >= height
}

/// A payer in the fee ledger, as the pool sees it.
pub(super) fn payer_account(view: &StateView, in_flight: &InFlight, payer: &Address) -> AccountState {
    let load = in_flight.payer(payer);
    match fee_account(view, payer) {
        Ok(account) => AccountState {
            nonce: account.nonce,
            balance: account.balance,
            in_flight: load.count,
            in_flight_cost: load.cost,
            is_contract: false,
        },
        Err(error) => {
            tracing::error!(%error, "state unreadable");
            AccountState::default()
        }
    }
}

/// An account that may send deposits, as the pool sees it.
pub(super) fn sender_account(view: &StateView, in_flight: &InFlight, address: &Address) -> AccountState {
    let load = in_flight.sender(address);
    match sender_state(view, in_flight, address) {
        Ok(state) => AccountState {
            nonce: state.next_nonce.saturating_sub(load.count),
            balance: state.available.saturating_add(load.cost),
            in_flight: load.count,
            in_flight_cost: load.cost,
            is_contract: state.is_contract,
        },
        Err(error) => {
            tracing::error!(%error, "state unreadable");
            AccountState::default()
        }
    }
}
