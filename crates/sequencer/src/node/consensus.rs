//! The consensus actor: a thin shell around [`cascade_consensus::Core`].
//!
//! Mailbox message in, [`Core::step`], effects out in order. Before anything that follows an [`Effect::Persist`] leaves
//! the process, its records are synced in the vote log and beside the key; where that fails, the node stops.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use actix::{Actor, AsyncContext, Context, Handler, SpawnHandle};
use bytes::Bytes;
use cascade_consensus::{CarriageInput, Core, Effect, Finality, Finalized, Input, Message, Record};
use cascade_network::{Channel, Misbehaviour, Network, SendError};
use cascade_primitives::{Encode, Epoch, Height, TimestampMs, View};
use cascade_storage::{SignState, VoteLog};

use super::{
    carriage::CarriageActor,
    clock::Clock,
    content::ContentActor,
    hub::{ConsensusView, Hub, LEADERS_AHEAD},
    mail::Addr,
    messages::{
        Behind, Build, Built, Carry, Executed, Final, FinalRange, FromPeer, Halt, Head, MakeDurable, Ordered,
        PeerConnected, PeerStatus, Stored, Validate, Validated, Work,
    },
    metrics::Metrics,
    stop::{Cause, Stop},
    storage::StorageActor,
    sync::{Backlog, Room, SyncActor},
};

/// Size of the vote log from which on it is rewritten with what still matters.
const LOG_CHECKPOINT_BYTES: u64 = 64 << 20;
/// Bytes by which the log must have grown since the last attempt.
const LOG_CHECKPOINT_STEP: u64 = 16 << 20;

/// Bytes of final blocks after which storage is asked to make them durable.
const VOLATILE_BYTES: usize = 16 << 20;
/// Bytes that a block takes beside its transactions, about.
const BLOCK_OVERHEAD: usize = 4 << 10;

/// How old what the hub was told may be, in ms.
const PUBLISH_INTERVAL_MS: u64 = 250;

/// What the actor is made with.
pub struct ConsensusConfig {
    /// The core, restored.
    pub core: Core,
    /// The vote log.
    pub log: VoteLog,
    /// The record beside the key; none on a node that does not vote.
    pub sign_state: Option<SignState>,
    /// The network.
    pub network: Network,
    /// Carries proposals.
    pub carriage: Addr<CarriageActor>,
    /// Content of blocks.
    pub content: Addr<ContentActor>,
    /// Final blocks.
    pub storage: Addr<StorageActor>,
    /// Catching up.
    pub sync: Addr<SyncActor>,
    /// Shared views and events.
    pub hub: Arc<Hub>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Time.
    pub clock: Clock,
    /// Stops the node.
    pub stop: Stop,
}

/// The consensus actor.
pub struct ConsensusActor {
    config: ConsensusConfig,
    wake: Option<SpawnHandle>,
    /// Final blocks that storage has not made durable yet: a checkpoint of the log keeps them.
    volatile: VecDeque<(Height, Record)>,
    /// Bytes that became volatile since storage was last asked to make them durable.
    volatile_bytes: usize,
    /// Final blocks that are not executed yet.
    backlog: Backlog,
    next_checkpoint: u64,
    last_final: Option<TimestampMs>,
    /// What the hub was last told, and when.
    published: Option<((Epoch, View, Height), TimestampMs)>,
    halted: bool,
}

impl ConsensusActor {
    /// An actor around a core.
    #[must_use]
    pub const fn new(config: ConsensusConfig) -> Self {
        Self {
            config,
            wake: None,
            volatile: VecDeque::new(),
            volatile_bytes: 0,
            backlog: Backlog::new(),
            next_checkpoint: LOG_CHECKPOINT_BYTES,
            last_final: None,
            published: None,
            halted: false,
        }
    }

    pub(super) fn step(&mut self, input: Input, ctx: &mut Context<Self>) {
        if self.halted {
            return;
        }
        let effects = self.config.core.step(self.config.clock.now(), input);
        for effect in effects {
            if let Err(cause) = self.execute(effect) {
                self.halted = true;
                self.config.stop.fail(cause);
                return;
            }
        }
        self.publish();
        self.arm(ctx);
    }

    /// One timer, for the next moment at which the core wants to be asked.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        if let Some(handle) = self.wake.take() {
            ctx.cancel_future(handle);
        }
        let at = self.config.core.wake_at();
        let wait = Duration::from_millis(at.0.saturating_sub(self.config.clock.now().0));
        self.wake = Some(ctx.run_later(wait, |actor, ctx| {
            actor.wake = None;
            actor.step(Input::Tick, ctx);
        }));
    }

    fn execute(&mut self, effect: Effect) -> Result<(), Cause> {
        match effect {
            Effect::Persist { records, sign_state } => self.persist(&records, &sign_state.to_bytes())?,
            Effect::Broadcast(message @ Message::Proposal(..)) => self.carry(CarriageInput::Propose(message)),
            Effect::Send(peer, Message::GetBlock(block)) => self.carry(CarriageInput::Want { peer, block }),
            Effect::Broadcast(message) => {
                // The network drops the oldest message of a peer that is too slow; a stall makes the core resend.
                let sent = self.config.network.broadcast(Channel::Consensus, &Bytes::from(message.to_bytes()));
                if let Err(error) = sent {
                    tracing::error!(%error, "a consensus message that nobody was sent");
                }
            }
            Effect::Send(peer, message) => {
                let sent = self.config.network.send(peer, Channel::Consensus, Bytes::from(message.to_bytes()));
                match sent {
                    Ok(()) | Err(SendError::NotConnected | SendError::Full(_)) => {}
                    Err(error) => tracing::error!(%peer, %error, "a consensus message that was not sent"),
                }
            }
            Effect::Build(request) => self.config.content.do_send(Build(request)),
            Effect::Validate(block, request) => self.config.content.do_send(Validate(block, request)),
            Effect::Finalized(finalized) => self.finalized(*finalized),
            Effect::Evidence(evidence) => {
                self.config.metrics.evidence.inc();
                tracing::warn!(node = %evidence.node, first = ?evidence.first.target, second = ?evidence.second.target,
                    "a sequencer signed two votes that contradict each other");
            }
            Effect::Misbehaved(peer, what) => {
                self.config.metrics.misbehaviour.inc();
                tracing::debug!(%peer, what, "misbehaviour");
                self.config.network.report(peer, Misbehaviour::InvalidContent);
            }
            Effect::PeerStatus(peer, status) => self.config.sync.do_send(PeerStatus(peer, status)),
            Effect::Behind(peer) => self.config.sync.do_send(Behind(peer)),
            Effect::EnteredView(epoch, view) => {
                let standing = self.config.core.standing();
                self.carry(CarriageInput::Entered(standing));
                self.config.metrics.epoch.set(i64::try_from(epoch.0).unwrap_or(i64::MAX));
                self.config.metrics.view.set(i64::try_from(view.0).unwrap_or(i64::MAX));
            }
            Effect::Skipped(view, reason) => {
                self.config.metrics.skips.inc();
                tracing::info!(%view, ?reason, "skipped");
            }
            Effect::Fatal(reason) => return Err(Cause::Diverged(reason)),
        }
        Ok(())
    }

    fn carry(&self, input: CarriageInput) {
        self.config.carriage.do_send(Carry(input));
    }

    fn persist(&mut self, records: &[Record], sign_state: &[u8]) -> Result<(), Cause> {
        let timer = self.config.metrics.persist_seconds.start_timer();
        if let Some(beside_key) = &mut self.config.sign_state {
            beside_key.store(sign_state)?;
        }
        for record in records {
            self.config.log.append_with(|out| record.encode(out))?;
        }
        self.config.log.sync()?;
        timer.observe_duration();
        self.maybe_checkpoint();
        Ok(())
    }

    fn maybe_checkpoint(&mut self) {
        let bytes = self.config.log.bytes();
        self.config.metrics.log_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        if bytes >= self.next_checkpoint {
            self.next_checkpoint = bytes + LOG_CHECKPOINT_STEP;
            self.config.storage.do_send(MakeDurable);
        }
    }

    fn finalized(&mut self, finalized: Finalized) {
        let now = self.config.clock.now();
        let header = &finalized.block.header;
        let metrics = &self.config.metrics;
        metrics.final_height.set(i64::try_from(header.height.0).unwrap_or(i64::MAX));
        metrics.ordered_transactions.inc_by(finalized.block.body.transactions.len() as u64);
        metrics.finality_seconds.observe(now.0.saturating_sub(header.timestamp.0) as f64 / 1000.0);
        if let Some(last) = self.last_final.replace(now) {
            metrics.final_interval.observe(now.0.saturating_sub(last.0) as f64 / 1000.0);
        }
        tracing::debug!(height = %header.height, hash = %finalized.block.hash(),
            transactions = finalized.block.body.transactions.len(), "final");
        self.keep_until_durable(&finalized);
        let bytes = BLOCK_OVERHEAD + finalized.block.body.transaction_bytes();
        self.pace(|backlog| backlog.ordered(header.height, bytes));
        self.config.hub.safe(finalized.context.last_result);
        self.config.sync.do_send(Head(Arc::clone(&finalized.context)));
        self.config.content.do_send(Ordered(Arc::clone(&finalized.block)));
        self.config.storage.do_send(Final(Arc::new(finalized)));
    }

    /// Keeps a final block for the log's next checkpoint until storage made it durable, and asks for that before what is
    /// kept grows large: a node that catches up finalizes much and votes little.
    fn keep_until_durable(&mut self, finalized: &Finalized) {
        let block = &finalized.block;
        self.volatile.push_back((block.header.height, Record::Block(Arc::clone(block))));
        if finalized.context.can_hand_over() {
            // With this and the blocks the log closes the epoch again; its votes could not, once others are newer.
            let Finality { certificate, fillers } = finalized.finality.clone();
            self.volatile.push_back((block.header.height, Record::EpochEnd(certificate, fillers)));
        }
        self.volatile_bytes += BLOCK_OVERHEAD + block.body.transaction_bytes();
        if self.volatile_bytes >= VOLATILE_BYTES {
            self.volatile_bytes = 0;
            self.config.storage.do_send(MakeDurable);
        }
    }

    /// Tells catching up when there is room for further blocks, and when not.
    fn pace(&mut self, change: impl FnOnce(&mut Backlog)) {
        let before = self.backlog.has_room();
        change(&mut self.backlog);
        let room = self.backlog.has_room();
        if room != before {
            self.config.sync.do_send(Room(room));
        }
    }

    /// Puts what others may see into the hub: when it changed, and now and then, since health fades with time.
    fn publish(&mut self) {
        let core = &mut self.config.core;
        let now = self.config.clock.now();
        let (epoch, view) = core.position();
        let place = (epoch, view, core.head().height);
        if self.published.is_some_and(|(last, at)| last == place && at.plus(PUBLISH_INTERVAL_MS) > now) {
            return;
        }
        if self.published.is_none_or(|((last, ..), _)| last != epoch) {
            // Members of the committees always get a connection.
            let members = core.committee().members().iter().chain(core.head().next_committee.members());
            self.config.network.set_reserved(members.map(|m| m.node));
        }
        self.published = Some((place, now));
        let health = core.health();
        self.config.metrics.seats_heard.set(i64::from(health.seats_heard));
        let view = ConsensusView {
            health,
            committee: Arc::clone(core.committee()),
            next_committee: Arc::clone(&core.head().next_committee),
            leaders: core.leaders(LEADERS_AHEAD),
        };
        self.config.hub.set_consensus(view);
    }

    /// Final blocks up to `height` are durable: the log may forget them.
    fn stored(&mut self, height: Height) -> Result<(), Cause> {
        while self.volatile.front().is_some_and(|(h, _)| *h <= height) {
            self.volatile.pop_front();
        }
        if self.config.log.bytes() < LOG_CHECKPOINT_BYTES {
            return Ok(());
        }
        let kept = self.volatile.iter().map(|(_, record)| record.clone());
        let records: Vec<Vec<u8>> = kept.chain(self.config.core.live_records()).map(|r| r.to_bytes()).collect();
        self.config.log.checkpoint(&records)?;
        self.next_checkpoint = LOG_CHECKPOINT_BYTES.max(self.config.log.bytes() + LOG_CHECKPOINT_STEP);
        tracing::debug!(%height, records = records.len(), "vote log rewritten");
        Ok(())
    }
}

impl Actor for ConsensusActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1024);
        self.step(Input::Tick, ctx);
    }
}

impl Handler<FromPeer> for ConsensusActor {
    type Result = ();

    fn handle(&mut self, FromPeer { from, message }: FromPeer, ctx: &mut Self::Context) {
        if let Message::Proposal(block, _) = &message {
            self.carry(CarriageInput::Arrived { from, block: block.hash() });
        }
        self.step(Input::Message { from, message }, ctx);
    }
}

impl Handler<PeerConnected> for ConsensusActor {
    type Result = ();

    fn handle(&mut self, PeerConnected(peer): PeerConnected, ctx: &mut Self::Context) {
        self.step(Input::Connected(peer), ctx);
    }
}

impl Handler<Work> for ConsensusActor {
    type Result = ();

    fn handle(&mut self, Work(work): Work, ctx: &mut Self::Context) {
        self.step(Input::Work(work), ctx);
    }
}

impl Handler<Executed> for ConsensusActor {
    type Result = ();

    fn handle(&mut self, Executed(result): Executed, ctx: &mut Self::Context) {
        self.pace(|backlog| backlog.executed(result.height));
        self.step(Input::Executed(result), ctx);
    }
}

impl Handler<Built> for ConsensusActor {
    type Result = ();

    fn handle(&mut self, Built { view, parent, content }: Built, ctx: &mut Self::Context) {
        self.step(Input::Built { view, parent, content }, ctx);
    }
}

impl Handler<Validated> for ConsensusActor {
    type Result = ();

    fn handle(&mut self, Validated { hash, verdict, da }: Validated, ctx: &mut Self::Context) {
        self.step(Input::Validated { hash, verdict, da }, ctx);
    }
}

impl Handler<FinalRange> for ConsensusActor {
    type Result = ();

    fn handle(&mut self, FinalRange { from, blocks, finality }: FinalRange, ctx: &mut Self::Context) {
        self.step(Input::FinalRange { from, blocks, finality }, ctx);
    }
}

impl Handler<Stored> for ConsensusActor {
    type Result = ();

    fn handle(&mut self, Stored(height): Stored, _: &mut Self::Context) {
        if let Err(cause) = self.stored(height) {
            self.halted = true;
            self.config.stop.fail(cause);
        }
    }
}

impl Handler<Halt> for ConsensusActor {
    type Result = ();

    fn handle(&mut self, _: Halt, _: &mut Self::Context) {
        self.halted = true;
    }
}
