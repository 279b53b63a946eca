//! The reveal actor: final blocks in, opened blocks out, in order of height.
//!
//! A thin shell around [`Reveals`]. It stands between storage and execution on a chain with threshold keys: a block is
//! handed to it when it is final and stored, and not before; its shares go out, those of the others come in, and what they
//! come to opens the envelopes. Then the beacon orders the items, and execution gets them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{Actor, AsyncContext, Context, Handler};
use bytes::Bytes;
use cascade_consensus::{Finalized, Rules};
use cascade_crypto::{
    curve::G1Affine,
    envelope::{self, Sealed, Unopened},
    threshold::{Slot, order},
};
use cascade_execution::{OpenFailure, OpenedItem};
use cascade_mempool::reveal::{Effect, FinalBlock, Opening, RevealMessage, Reveals};
use cascade_network::{Channel, Misbehaviour, Network};
use cascade_primitives::{B256, ChainParams, Encode as _, Height, NodeId, RecoveredItem, Reveal};
use cascade_storage::ChainDb;
use rayon::prelude::*;

use super::{
    clock::Clock,
    execution::ExecutionActor,
    hub::Hub,
    items::{ItemBlocks, ItemContent},
    keyring::Keyring,
    mail::Addr,
    messages::{EraseBefore, Final, FromData, NewKeys, Opened},
    metrics::Metrics,
    pool::SharedPool,
    stop::{Cause, Stop},
};

/// How often it is looked whether a block waits for its reveal.
const LOOK: Duration = Duration::from_millis(100);

/// A peer is answered about a height again after so long,
const ANSWER_AGAIN: Duration = Duration::from_millis(400);
/// about so many heights in that time,
const ANSWERS: usize = 8;
/// and all peers together about so many.
const ALL_ANSWERS: usize = 128;

/// A block's items in the order in which they run.
#[derive(Debug)]
pub struct OpenedContent {
    /// What opened it.
    pub reveal: Arc<Reveal>,
    /// The beacon's value: `PREVRANDAO`.
    pub beacon: B256,
    /// Items, each opened if it was sealed.
    pub items: Vec<OpenedItem>,
}

/// What the actor is made with.
pub struct RevealConfig {
    /// The chain.
    pub rules: Arc<Rules>,
    /// The database, to answer those who ask for old reveals.
    pub db: Arc<ChainDb>,
    /// Items of recent blocks.
    pub blocks: ItemBlocks,
    /// The pool, which has most items checked already.
    pub pool: SharedPool,
    /// The network.
    pub network: Network,
    /// Where opened blocks go.
    pub execution: Addr<ExecutionActor>,
    /// Keys that are known.
    pub keyring: Keyring,
    /// Time.
    pub clock: Clock,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Who follows the chain.
    pub hub: Arc<Hub>,
    /// Stops the node.
    pub stop: Stop,
    /// Whether nobody gets this node's shares. For tests.
    pub withhold: bool,
}

/// A block that the core has.
struct Pending {
    finalized: Arc<Finalized>,
    /// Its items; none if it is not to be opened.
    content: Option<Arc<ItemContent>>,
    since: Instant,
}

/// The reveal actor.
pub struct RevealActor {
    config: RevealConfig,
    core: Reveals,
    /// Final blocks whose epoch's keys this node does not know yet, and all above them.
    waiting: VecDeque<Arc<Finalized>>,
    /// Blocks that the core has.
    pending: BTreeMap<Height, Pending>,
    /// When which peer was last answered about which height, or asked for too much.
    answered: BTreeMap<(NodeId, Height), Instant>,
    failed: bool,
}

impl RevealActor {
    /// An actor that waits for the block above `executed`.
    #[must_use]
    pub fn new(config: RevealConfig, executed: Height) -> Self {
        let params = config.rules.params();
        let retry_ms = (params.leader_timeout_ms / 2).max(1);
        let mut core = Reveals::new(config.rules.signing, config.network.node_id(), retry_ms, executed.next());
        for holder in config.keyring.all() {
            core.on_keys(holder, &mut rand::rng());
        }
        Self {
            config,
            core,
            waiting: VecDeque::new(),
            pending: BTreeMap::new(),
            answered: BTreeMap::new(),
            failed: false,
        }
    }

    /// Hands final blocks to the core as far as the keys are known.
    fn feed(&mut self) -> Result<(), Cause> {
        while let Some(finalized) = self.waiting.front().cloned() {
            let block = &finalized.block;
            let (height, epoch) = (block.header.height, block.header.epoch);
            let mut content = None;
            if finalized.is_opened {
                let Some(holder) = self.config.keyring.of_block(&block.header) else {
                    tracing::debug!(%height, %epoch, "a final block waits for its epoch's keys");
                    return Ok(());
                };
                let key = holder.keys.decryption.encryption_key();
                let rules = &self.config.rules;
                let pool = &self.config.pool;
                let found = self
                    .config
                    .blocks
                    .get_or_check(block, &rules.signing, rules.params(), &key, |raw| pool.lock().known_item(raw))
                    .map_err(|e| Cause::Diverged(format!("final block {height} has an item that is none: {e}")))?;
                content = Some(found);
            }
            self.waiting.pop_front();
            let bases =
                content.as_ref().map(|content| content.sealed.iter().flatten().map(|sealed| *sealed.base()).collect());
            let block = FinalBlock {
                height,
                epoch,
                committee_root: block.header.committee_root,
                hash: block.hash(),
                certificate: Arc::clone(&finalized.finality.certificate),
                bases,
                reveals: block.body.reveals.clone(),
            };
            self.pending.insert(height, Pending { finalized, content, since: Instant::now() });
            let effects = self.core.on_final(self.config.clock.now(), block, &mut rand::rng());
            self.execute(effects)?;
        }
        Ok(())
    }

    fn execute(&mut self, effects: Vec<Effect>) -> Result<(), Cause> {
        for effect in effects {
            match effect {
                Effect::Broadcast(RevealMessage::Shares(..)) | Effect::Send(_, RevealMessage::Shares(..))
                    if self.config.withhold => {}
                Effect::Broadcast(message) => {
                    let _ = self.config.network.broadcast(Channel::Data, &Bytes::from(message.to_bytes()));
                }
                Effect::Send(to, message) => {
                    let _ = self.config.network.send(to, Channel::Data, Bytes::from(message.to_bytes()));
                }
                Effect::Revealed(height, opening) => self.revealed(height, opening),
                Effect::Misbehaved(node, what) => {
                    self.config.metrics.wrong_shares.inc();
                    tracing::warn!(%node, what, "a peer's shares or values are wrong");
                    self.config.network.report(node, Misbehaviour::InvalidContent);
                }
                Effect::Contradiction(height) => {
                    return Err(Cause::Diverged(format!(
                        "a final block opens block {height} with values that are wrong"
                    )));
                }
            }
        }
        Ok(())
    }

    fn revealed(&mut self, height: Height, opening: Option<Opening>) {
        let Some(Pending { finalized, content, since }) = self.pending.remove(&height) else { return };
        let opened = match (opening, content) {
            (Some(opening), Some(content)) => {
                self.config.metrics.reveal_seconds.observe(since.elapsed().as_secs_f64());
                Some(Arc::new(open_content(self.config.rules.params(), &opening, &content)))
            }
            _ => None,
        };
        // Whoever reads blocks after this one needs no keys of epochs before its own.
        let epoch = finalized.block.header.epoch;
        self.core.forget_before(epoch);
        self.config.keyring.forget_before(epoch);
        self.config.blocks.set_opened(height);
        self.config.blocks.drop_up_to(height.minus(8));
        if opened.is_some() {
            self.config.hub.opened(height);
        }
        self.config.execution.do_send(Opened(finalized, opened));
    }

    /// Whether a peer is answered about a height: once in a while about each, and about so many in all. An answer is a
    /// hundred thousand times as large as a question.
    fn may_answer(&mut self, from: NodeId, height: Height) -> bool {
        let now = Instant::now();
        self.answered.retain(|_, at| now.duration_since(*at) < ANSWER_AGAIN);
        let of_peer = self.answered.range((from, Height(0))..=(from, Height(u64::MAX))).count();
        if of_peer >= ANSWERS || self.answered.len() >= ALL_ANSWERS || self.answered.contains_key(&(from, height)) {
            return false;
        }
        self.answered.insert((from, height), now);
        true
    }

    fn guard(&mut self, result: Result<(), Cause>) {
        if let Err(cause) = result
            && !self.failed
        {
            self.failed = true;
            self.config.stop.fail(cause);
        }
    }
}

/// Opens a block's envelopes and puts its items in the beacon's order.
pub(super) fn open_content(params: &ChainParams, opening: &Opening, content: &ItemContent) -> OpenedContent {
    let mut values = opening.values.iter();
    let with_values: Vec<(&RecoveredItem, Option<(&Sealed, &G1Affine)>)> = content
        .items
        .iter()
        .zip(&content.sealed)
        .map(|(item, sealed)| (item, sealed.as_ref().zip(sealed.as_ref().and_then(|_| values.next()))))
        .collect();
    let opened: Vec<OpenedItem> = with_values
        .into_par_iter()
        .with_min_len(8)
        .map(|(item, sealed)| match (item, sealed) {
            (RecoveredItem::Envelope(envelope), Some((sealed, value))) => OpenedItem::Envelope {
                envelope: envelope.clone(),
                opened: envelope::open(envelope, sealed, value, params).map_err(failure),
            },
            (RecoveredItem::Deposit(deposit), _) => OpenedItem::Deposit(deposit.clone()),
            (RecoveredItem::Envelope(_), None) => unreachable!("the core gives one value for each ciphertext"),
        })
        .collect();
    let slots: Vec<Slot> = content.items.iter().map(slot).collect();
    let mut places: Vec<Option<OpenedItem>> = opened.into_iter().map(Some).collect();
    let items = order(&opening.beacon, 0, &slots).into_iter().filter_map(|place| places[place].take()).collect();
    OpenedContent { reveal: Arc::clone(&opening.reveal), beacon: opening.beacon, items }
}

fn slot(item: &RecoveredItem) -> Slot {
    match item {
        RecoveredItem::Envelope(envelope) => Slot { payer: envelope.payer(), nonce: envelope.nonce },
        RecoveredItem::Deposit(deposit) => {
            Slot { payer: deposit.transaction().sender(), nonce: deposit.transaction().nonce() }
        }
    }
}

const fn failure(unopened: Unopened) -> OpenFailure {
    match unopened {
        Unopened::Undecryptable => OpenFailure::Undecryptable,
        Unopened::Commitment => OpenFailure::Commitment,
        Unopened::Transaction => OpenFailure::NotATransaction,
        Unopened::GasLimit => OpenFailure::GasLimit,
    }
}

impl Actor for RevealActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1024);
        ctx.run_interval(LOOK, |actor, _| {
            let effects = actor.core.tick(actor.config.clock.now());
            let result = actor.execute(effects);
            actor.guard(result);
        });
    }
}

impl Handler<Final> for RevealActor {
    type Result = ();

    fn handle(&mut self, Final(finalized): Final, _: &mut Self::Context) {
        self.waiting.push_back(finalized);
        let result = self.feed();
        self.guard(result);
    }
}

impl Handler<NewKeys> for RevealActor {
    type Result = ();

    fn handle(&mut self, NewKeys(holder): NewKeys, _: &mut Self::Context) {
        let effects = self.core.on_keys(holder, &mut rand::rng());
        let result = self.execute(effects).and_then(|()| self.feed());
        self.guard(result);
    }
}

impl Handler<EraseBefore> for RevealActor {
    type Result = ();

    fn handle(&mut self, EraseBefore(epoch): EraseBefore, _: &mut Self::Context) {
        self.core.erase_secrets_before(epoch);
    }
}

impl Handler<FromData> for RevealActor {
    type Result = ();

    fn handle(&mut self, FromData { from, message }: FromData, _: &mut Self::Context) {
        if let RevealMessage::Request(height) = message {
            if !self.may_answer(from, height) {
                return;
            }
            if height < self.core.next() && self.core.revealed(height).is_none() {
                // Long ago: from the database.
                if let Ok(Some(reveal)) = self.config.db.reveal(height) {
                    let reply = RevealMessage::Reveal(Arc::new(reveal));
                    let _ = self.config.network.send(from, Channel::Data, Bytes::from(reply.to_bytes()));
                }
                return;
            }
        }
        let effects = self.core.on_message(from, message, &mut rand::rng());
        let result = self.execute(effects);
        self.guard(result);
    }
}
