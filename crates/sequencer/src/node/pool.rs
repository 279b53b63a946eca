//! The node's pool, of whichever kind the chain's rule asks for, and the branch that the next block extends.
//!
//! For each block above the newest result it knows what is in flight: what is marked there as ordered is not selected
//! again, and what an abandoned block held can be. Everything it decides comes from `cascade_mempool` (a node's own
//! affair) and `cascade_execution::ordering` (what all nodes agree on). Signatures and proofs of blocks are checked elsewhere
//! ([`super::judge`]): nobody waits for them at the pool's lock.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use cascade_consensus::{BuildRequest, BuiltBlock};
use cascade_execution::{BlockLoad, InFlight, OrderingCheck, PushError, State, StateView, next_base_fee};
use cascade_mempool::{
    AccountState, Admission, AdmissionError, OpaqueLimits, OpaquePool, Pool, PoolLimits, Pooled, SelectLimits, Source,
    gossip::GOSSIP_BYTES,
};
use cascade_primitives::{
    Address, B256, BlockHash, ChainParams, Epoch, Height, RecoveredEnvelope, RecoveredItem, RecoveredTransaction,
    SealedBlock, TimestampMs, TransactionRule,
};
use parking_lot::Mutex;

use super::{
    admission::Submitted,
    door,
    items::CheckedItem,
    judge::Checking,
    messages::{Admitted, Candidate, Offers},
    pace::Pace,
    recovered::RecoveredBlocks,
    sealed::{SealedPool, SealedSources, sender_account},
    submitter::SharedDoor,
    throttle::Throttle,
};
use crate::rpc::backend::{PoolCounts, SubmitError};

enum Waiting {
    Plain(Box<Pool>),
    Sealed(Box<SealedPool>),
    Opaque(Box<OpaquePool>),
}

/// A block on the branch that is built on, by what names the pool knows what it holds, and what it takes of whom. None until
/// somebody has checked it: that is not done here, since it takes long.
struct Marked {
    block: Arc<SealedBlock>,
    names: Vec<B256>,
    load: Option<Arc<BlockLoad>>,
}

/// The pool and what is known of the branch that the next block extends. The RPC reads it, the actor changes it.
pub struct PoolState {
    params: ChainParams,
    state: State,
    recovered: RecoveredBlocks,
    pool: Waiting,
    /// Blocks above the executed height whose transactions are marked as ordered in the pool.
    marked: BTreeMap<(Height, BlockHash), Marked>,
    executed: Height,
    /// The block there; none while the node starts.
    executed_hash: Option<BlockHash>,
    executed_view: Option<StateView>,
    throttle: Throttle,
    pace: Pace,
    door: SharedDoor,
    favour: Option<Address>,
}

/// The pool, shared between the content actor and the RPC.
pub type SharedPool = Arc<Mutex<PoolState>>;

impl PoolState {
    /// An empty pool above the executed height.
    #[must_use]
    pub fn new(
        params: ChainParams,
        state: State,
        recovered: RecoveredBlocks,
        sealed: SealedSources,
        executed: Height,
        door: SharedDoor,
    ) -> Self {
        let pool = match params.transactions {
            TransactionRule::Plain => Waiting::Plain(Box::new(Pool::new(PoolLimits::of(&params)))),
            TransactionRule::Encrypted => Waiting::Sealed(Box::new(SealedPool::new(&params, sealed))),
            TransactionRule::Opaque => {
                Waiting::Opaque(Box::new(OpaquePool::new(OpaqueLimits::new(params.max_tx_bytes as usize))))
            }
        };
        let executed_view = state.at(executed).ok();
        Self {
            throttle: Throttle::new(params.transactions),
            pace: Pace::new(&params),
            params,
            state,
            recovered,
            pool,
            marked: BTreeMap::new(),
            executed,
            executed_hash: None,
            executed_view,
            door,
            favour: None,
        }
    }

    /// The same, whose blocks hold what somebody has waiting around one transaction of somebody else. For tests.
    #[must_use]
    pub fn favouring(self, favour: Option<Address>) -> Self {
        Self { favour, ..self }
    }

    /// Drops what is too old. Answers the pool's size and whether a block could carry any of it.
    pub(super) fn tick(&mut self, now: TimestampMs) -> (usize, bool) {
        match &mut self.pool {
            Waiting::Plain(pool) => {
                pool.on_tick(now);
                let status = pool.status();
                self.throttle.tick(Instant::now(), status.pending + status.in_flight);
                (pool.len(), status.pending > 0)
            }
            Waiting::Sealed(pool) => {
                self.throttle.tick(Instant::now(), pool.waiting());
                pool.tick(now)
            }
            Waiting::Opaque(pool) => {
                pool.expire(now);
                self.door.lock().pooled(Instant::now(), door::work(pool.len(), pool.bytes()));
                (pool.len(), !pool.select(usize::MAX, 1).is_empty())
            }
        }
    }

    pub(super) fn take_fresh(&mut self) -> Vec<Bytes> {
        match &mut self.pool {
            Waiting::Plain(pool) => pool.take_new_for_gossip(GOSSIP_BYTES).iter().map(|tx| tx.raw().clone()).collect(),
            Waiting::Sealed(pool) => pool.take_fresh(),
            Waiting::Opaque(pool) => pool.take_new_for_gossip(GOSSIP_BYTES),
        }
    }

    /// A transaction that waits or is in flight.
    #[must_use]
    pub fn get(&self, hash: &B256) -> Option<Arc<RecoveredTransaction>> {
        match &self.pool {
            Waiting::Plain(pool) => pool.get(hash),
            Waiting::Sealed(_) | Waiting::Opaque(_) => None,
        }
    }

    /// Whether a transaction or payload waits or is in flight.
    #[must_use]
    pub fn contains(&self, hash: &B256) -> bool {
        match &self.pool {
            Waiting::Plain(pool) => pool.contains(hash),
            Waiting::Sealed(pool) => pool.contains(hash),
            Waiting::Opaque(pool) => pool.knows(hash),
        }
    }

    /// The nonce behind everything of a sender that is executed, in flight or selectable.
    #[must_use]
    pub fn pending_nonce(&self, address: &Address) -> u64 {
        let Some(view) = &self.executed_view else { return 0 };
        let Waiting::Plain(pool) = &self.pool else {
            // What waits here is sealed, so nobody knows whose it is.
            return view.account(address).ok().flatten().unwrap_or_default().nonce;
        };
        let account = sender_account(view, &self.in_flight_above_executed(), address);
        pool.pending_nonce(address, &account)
    }

    /// How many of which kind.
    #[must_use]
    pub fn counts(&self) -> PoolCounts {
        match &self.pool {
            Waiting::Plain(pool) => {
                let status = pool.status();
                PoolCounts {
                    pending: status.pending as u64,
                    queued: status.queued as u64,
                    in_flight: status.in_flight as u64,
                }
            }
            Waiting::Sealed(pool) => pool.counts(),
            Waiting::Opaque(pool) => PoolCounts { pending: pool.len() as u64, queued: 0, in_flight: 0 },
        }
    }

    /// A payer's next nonce in the fee ledger; none on a chain without one.
    #[must_use]
    pub fn payer_nonce(&self, payer: &Address) -> Option<u64> {
        let (Waiting::Sealed(pool), Some(view)) = (&self.pool, &self.executed_view) else { return None };
        Some(pool.payer_nonce(payer, view, &self.in_flight_above_executed()))
    }

    /// Until when blocks could carry an envelope that came here lately.
    #[must_use]
    pub fn envelope_end(&self, name: &B256) -> Option<(Epoch, Height)> {
        match &self.pool {
            Waiting::Sealed(pool) => pool.end_of(name),
            Waiting::Plain(_) | Waiting::Opaque(_) => None,
        }
    }

    /// The newest executed state and what is in flight above it; none while the node starts.
    #[must_use]
    pub fn newest(&self) -> Option<(StateView, InFlight)> {
        Some((self.executed_view.clone()?, self.in_flight_above_executed()))
    }

    /// What an envelope would be refused for whatever its ciphertext holds. `account` is its payer's in the fee ledger.
    ///
    /// # Errors
    /// Why it would be refused.
    pub fn precheck(&self, envelope: &RecoveredEnvelope, account: &AccountState) -> Result<(), SubmitError> {
        match &self.pool {
            Waiting::Sealed(pool) => pool.precheck(envelope, self.executed, account),
            Waiting::Plain(_) | Waiting::Opaque(_) => Ok(()),
        }
    }

    /// A pooled item by its bytes.
    #[must_use]
    pub fn known_item(&self, raw: &Bytes) -> Option<CheckedItem> {
        match &self.pool {
            Waiting::Sealed(pool) => pool.known(raw),
            Waiting::Plain(_) | Waiting::Opaque(_) => None,
        }
    }

    /// What is known of a block without a check of it.
    fn known_load(&self, block: &SealedBlock) -> Option<Arc<BlockLoad>> {
        if block.body.transactions.is_empty() {
            return Some(Arc::default());
        }
        match &self.pool {
            Waiting::Plain(_) => Some(Arc::clone(&self.recovered.get(block)?.load)),
            Waiting::Sealed(pool) => Some(Arc::clone(&pool.sources().blocks.get(block)?.load)),
            Waiting::Opaque(_) => Some(Arc::default()),
        }
    }

    /// Marks the transactions of the branch that is built on, so that they are not selected again.
    fn mark_branch(&mut self, request: &BuildRequest, loads: Option<&[Arc<BlockLoad>]>) {
        for (place, block) in request.ancestors.iter().enumerate() {
            let key = (block.header.height, block.hash());
            if block.header.height > self.executed && !self.marked.contains_key(&key) {
                let load = loads.map(|loads| Arc::clone(&loads[place]));
                self.mark(key, Arc::clone(block), load);
            }
        }
    }

    fn mark(&mut self, key: (Height, BlockHash), block: Arc<SealedBlock>, load: Option<Arc<BlockLoad>>) {
        let names = self.hashes_of(&block);
        match &mut self.pool {
            Waiting::Plain(pool) => pool.on_ordered(&names),
            Waiting::Sealed(pool) => pool.on_ordered(&names),
            Waiting::Opaque(pool) => pool.on_ordered(&names),
        }
        let load = load.or_else(|| self.known_load(&block));
        self.marked.insert(key, Marked { block, names, load });
    }

    fn unmark(&mut self, Marked { names, .. }: &Marked) {
        match &mut self.pool {
            Waiting::Plain(pool) => pool.on_unordered(names),
            Waiting::Sealed(pool) => pool.on_unordered(names),
            Waiting::Opaque(pool) => pool.on_unordered(names),
        }
    }

    fn hashes_of(&self, block: &SealedBlock) -> Vec<B256> {
        if let Some(content) = self.recovered.get(block) {
            return content.transactions.iter().map(|tx| tx.hash()).collect();
        }
        match &self.pool {
            Waiting::Plain(_) => block.body.transactions.iter().map(cascade_primitives::keccak256).collect(),
            Waiting::Sealed(pool) => pool.names_of(block),
            Waiting::Opaque(_) => block.body.transactions.iter().map(|p| OpaquePool::key(p)).collect(),
        }
    }

    /// A block on a branch whose blocks take this, if that is known.
    pub(super) fn build(&mut self, request: &BuildRequest, loads: Option<&[Arc<BlockLoad>]>) -> Option<BuiltBlock> {
        self.mark_branch(request, loads);
        let in_flight = loads.map(|loads| in_flight(request, loads));
        if let Waiting::Sealed(pool) = &self.pool {
            let unopened = self.marked.values().map(|marked| marked.block.body.transactions.len()).sum();
            return pool.build(request, &self.state, in_flight, self.pace.most(unopened), self.favour);
        }
        let params = &self.params;
        let base_fee = next_base_fee(request.parent.base_fee, request.parent.ordered_gas, params);
        if !request.may_carry_content {
            return Some(BuiltBlock { base_fee, ..BuiltBlock::default() });
        }
        let limits = SelectLimits {
            bytes: params.max_block_bytes as usize,
            gas: params.block_gas_limit,
            count: cascade_primitives::block::MAX_TRANSACTIONS_PER_BLOCK,
        };
        let pool = match &self.pool {
            Waiting::Opaque(pool) => {
                let transactions = pool.select(limits.bytes, limits.count);
                return Some(BuiltBlock { transactions, base_fee, ..BuiltBlock::default() });
            }
            Waiting::Plain(pool) => pool,
            Waiting::Sealed(_) => unreachable!("built above"),
        };
        let view = self.state.at(request.state_height).ok()?;
        let in_flight = in_flight?;
        let mut selected =
            pool.select(limits, base_fee, &|address: &Address| sender_account(&view, &in_flight, address));
        if let Some(favour) = self.favour {
            selected = around_one(selected, &favour);
        }
        let mut check = OrderingCheck::new(params, base_fee, &view, &in_flight).ok()?;
        let mut transactions = Vec::with_capacity(selected.len());
        for tx in selected {
            match check.push(&tx) {
                Ok(()) => transactions.push(tx.raw().clone()),
                Err(PushError::Refused(refusal)) => tracing::debug!(hash = %tx.hash(), %refusal, "left out"),
                Err(PushError::Store(error)) => {
                    tracing::error!(%error, "state unreadable while building");
                    return None;
                }
            }
        }
        Some(BuiltBlock { transactions, base_fee, ordered_gas: check.ordered_gas().0, ..BuiltBlock::default() })
    }

    /// What a block's content is checked with, without the pool's lock.
    pub(super) fn checking(&self) -> (ChainParams, Checking) {
        let with = match &self.pool {
            Waiting::Opaque(_) => Checking::Opaque,
            Waiting::Plain(_) => Checking::Plain(self.recovered.clone()),
            Waiting::Sealed(pool) => Checking::Sealed(pool.sources().clone()),
        };
        (self.params.clone(), with)
    }

    /// The state at a height, if it is at hand.
    pub(super) fn state_at(&self, height: Height) -> Option<StateView> {
        self.state.at(height).ok()
    }

    /// What can be said of candidates without their senders: those that are left, or why not.
    #[must_use]
    pub fn check(&self, candidates: Vec<Candidate>) -> Vec<Result<Candidate, SubmitError>> {
        let check = |candidate: Candidate| match (&candidate, &self.pool) {
            (Candidate::Plain(transaction), Waiting::Plain(pool)) => {
                pool.check(transaction)?;
                Ok(candidate)
            }
            (Candidate::Opaque(_), Waiting::Opaque(_)) => Ok(candidate),
            (Candidate::Item(raw), Waiting::Sealed(pool)) => match pool.known(raw) {
                Some(_) => Err(AdmissionError::AlreadyKnown.into()),
                None => Ok(candidate),
            },
            (_, Waiting::Opaque(_)) => Err(wrong_kind("opaque payloads: use l2_sendOpaque")),
            (_, Waiting::Plain(_)) => Err(wrong_kind("Ethereum transactions: use eth_sendRawTransaction")),
            (_, Waiting::Sealed(_)) => Err(wrong_kind(SEALED_ONLY)),
        };
        candidates.into_iter().map(check).collect()
    }

    /// Takes candidates into the pool. The flag says whether a block could carry one of them.
    pub(super) fn admit(
        &mut self,
        now: TimestampMs,
        candidates: Vec<Admitted>,
        source: Source,
    ) -> (Vec<Submitted>, bool) {
        match &mut self.pool {
            Waiting::Opaque(pool) => {
                let results: Vec<_> = candidates
                    .into_iter()
                    .map(|candidate| match candidate {
                        Admitted::Opaque(payload) => Ok(pool.admit(now, payload, source)?),
                        _ => Err(wrong_kind("opaque payloads: use l2_sendOpaque")),
                    })
                    .collect();
                let any = results.iter().any(Result::is_ok);
                self.door.lock().pooled(Instant::now(), door::work(pool.len(), pool.bytes()));
                (results, any)
            }
            Waiting::Plain(_) => self.admit_plain(now, candidates, source),
            Waiting::Sealed(_) => self.admit_sealed(now, candidates, source),
        }
    }

    fn admit_sealed(&mut self, now: TimestampMs, candidates: Vec<Admitted>, source: Source) -> (Vec<Submitted>, bool) {
        let Some(view) = self.executed_view.clone() else {
            let starting = || Err(SubmitError::Unavailable("the node is starting".to_owned()));
            return (candidates.iter().map(|_| starting()).collect(), false);
        };
        let in_flight = self.in_flight_above_executed();
        let Waiting::Sealed(pool) = &mut self.pool else { unreachable!("the pool's kind never changes") };
        let mut executable = 0;
        let mut admit = |candidate| {
            let Admitted::Item(checked) = candidate else { return Err(wrong_kind(SEALED_ONLY)) };
            if let RecoveredItem::Envelope(envelope) = &checked.item
                && source == Source::Local
                && self.throttle.refuses(&envelope.payer())
            {
                return Err(AdmissionError::Full.into());
            }
            let (name, carried) = pool.admit(now, *checked, source, &view, &in_flight)?;
            executable += usize::from(carried);
            Ok(name)
        };
        let results = candidates.into_iter().map(&mut admit).collect();
        self.throttle.taken(executable);
        (results, executable > 0)
    }

    fn admit_plain(&mut self, now: TimestampMs, candidates: Vec<Admitted>, source: Source) -> (Vec<Submitted>, bool) {
        let Some(view) = self.executed_view.clone() else {
            let starting = || Err(SubmitError::Unavailable("the node is starting".to_owned()));
            return (candidates.iter().map(|_| starting()).collect(), false);
        };
        let in_flight = self.in_flight_above_executed();
        let Waiting::Plain(pool) = &mut self.pool else { unreachable!("the pool's kind never changes") };
        let (mut executable, mut work) = (0, false);
        let mut known: HashMap<Address, AccountState> = HashMap::new();
        let mut results = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            let Admitted::Plain(tx) = candidate else {
                results.push(Err(wrong_kind("Ethereum transactions: use eth_sendRawTransaction")));
                continue;
            };
            let (hash, sender) = (tx.hash(), tx.sender());
            if source == Source::Local && self.throttle.refuses(&sender) {
                results.push(Err(AdmissionError::Full.into()));
                continue;
            }
            let account = *known.entry(sender).or_insert_with(|| sender_account(&view, &in_flight, &sender));
            let admission = pool.admit(now, *tx, source, &|_: &Address| account);
            executable += usize::from(matches!(admission, Ok(Admission::New { executable: true })));
            work |= matches!(admission, Ok(Admission::New { executable: true } | Admission::Replaced { .. }));
            results.push(admission.map(|_| hash).map_err(SubmitError::from));
        }
        self.throttle.taken(executable);
        (results, work)
    }

    /// A block is final: its transactions are ordered, those of other blocks at its height no longer are.
    pub(super) fn on_ordered(&mut self, block: Arc<SealedBlock>) {
        let key = (block.header.height, block.hash());
        if let Waiting::Sealed(pool) = &mut self.pool {
            pool.on_final(block.header.epoch, key.0);
            self.pace.ordered(Instant::now(), key.0);
        }
        let abandoned: Vec<_> =
            self.marked.keys().filter(|(height, hash)| *height == key.0 && *hash != key.1).copied().collect();
        for other in abandoned {
            if let Some(other) = self.marked.remove(&other) {
                self.unmark(&other);
            }
        }
        if let Waiting::Opaque(pool) = &mut self.pool {
            let names = match self.marked.get(&key) {
                Some(marked) => &marked.names,
                None => &block.body.transactions.iter().map(|payload| OpaquePool::key(payload)).collect(),
            };
            pool.on_final(names);
            let mut door = self.door.lock();
            door.ordered(door::work(names.len(), block.body.transaction_bytes()));
            door.pooled(Instant::now(), door::work(pool.len(), pool.bytes()));
        } else if key.0 > self.executed && !self.marked.contains_key(&key) {
            self.mark(key, block, None);
        }
    }

    /// A block that takes this was executed.
    pub(super) fn on_executed(&mut self, height: Height, block: &SealedBlock, load: Option<&BlockLoad>) {
        self.executed = height;
        self.executed_hash = Some(block.hash());
        self.executed_view = self.state.at(height).ok();
        self.marked = self.marked.split_off(&(height.next(), BlockHash::ZERO));
        let base_fee = next_base_fee(block.header.base_fee, block.header.ordered_gas, &self.params);
        let Some(load) = load else { return };
        let items = block.body.transactions.len();
        self.throttle.executed(items);
        self.pace.executed(Instant::now(), height, items);
        let in_flight = self.in_flight_above_executed();
        let Some(view) = &self.executed_view else { return };
        match &mut self.pool {
            Waiting::Plain(pool) => {
                let senders: Vec<_> = load.senders().map(|s| (*s, sender_account(view, &in_flight, s))).collect();
                pool.on_executed(senders);
                pool.on_base_fee(base_fee);
            }
            Waiting::Sealed(pool) => pool.on_executed(load, view, &in_flight, base_fee),
            Waiting::Opaque(_) => {}
        }
    }

    /// Takes over what key generation put forward, and forgets the envelopes of an epoch that is over.
    pub(super) fn on_offers(&mut self, Offers { items, forget }: Offers) {
        if let Waiting::Sealed(pool) = &mut self.pool {
            pool.set_offers(items);
            if let Some(epoch) = forget {
                pool.forget_epoch(epoch);
            }
        }
    }

    /// What a marked branch has above the executed state.
    fn in_flight_above_executed(&self) -> InFlight {
        let mut in_flight = InFlight::empty(self.executed);
        let (mut tip, mut next) = (self.executed_hash, self.executed.next());
        for ((height, hash), marked) in &self.marked {
            if *height == next
                && tip.is_none_or(|tip| marked.block.header.parent == tip)
                && let Some(load) = marked.load.clone().or_else(|| self.known_load(&marked.block))
            {
                in_flight = in_flight.with_block(load);
                (tip, next) = (Some(*hash), next.next());
            }
        }
        in_flight
    }
}

/// Of what a block could hold: the first of a favoured sender, the first of anybody else, all others of the favoured one.
pub(super) fn around_one<T: Pooled>(selected: Vec<Arc<T>>, favour: &Address) -> Vec<Arc<T>> {
    let (mut own, others): (Vec<_>, Vec<_>) = selected.into_iter().partition(|tx| tx.sender() == *favour);
    let behind_first = own.len().min(1);
    own.splice(behind_first..behind_first, others.into_iter().take(1));
    own
}

/// What is in flight on a branch whose blocks take this.
pub(super) fn in_flight(request: &BuildRequest, loads: &[Arc<BlockLoad>]) -> InFlight {
    let bottom = InFlight::empty(request.state_height);
    loads.iter().fold(bottom, |in_flight, load| in_flight.with_block(Arc::clone(load)))
}

/// What an encrypted chain says to a transaction in the clear.
pub const SEALED_ONLY: &str = "encrypted envelopes, so nobody can read a transaction before its place is final: send it \
    through `cascade proxy`, which encrypts it and which wallets use like a node, or with `cascade send`; programs use \
    l2_sendEnvelope";

fn wrong_kind(wanted: &str) -> SubmitError {
    SubmitError::Unavailable(format!("this chain orders {wanted}"))
}
