//! The carriage actor: a thin shell around [`cascade_consensus::Carrier`], between consensus and the network.
//!
//! ```text
//!  consensus --Carry: proposals, blocks it wants, views--> carriage --chunks, blocks--> network
//!      ^                                                    |   ^
//!      +------------- FromPeer: whole proposals ------------+   +-- FromMember: chunks, requests -- lanes of peers
//! ```
//!
//! It has a thread of its own, so that hashing and passing on chunks holds up no vote. Putting a large proposal together takes
//! tens of milliseconds more: that is done on a thread for blocking work, while chunks of others are passed on.

use std::{sync::Arc, time::Duration};

use actix::{Actor, AsyncContext, Context, Handler, SpawnHandle};
use bytes::Bytes;
use cascade_consensus::{CarriageEffect, CarriageInput, Carried, Carrier, Message};
use cascade_network::{Channel, Misbehaviour, Network, SendError};
use cascade_primitives::{Encode, NodeId};
use tokio::runtime::Handle;

use super::{
    clock::Clock,
    consensus::ConsensusActor,
    mail::Addr,
    messages::{Carry, FromMember, FromPeer},
    metrics::Metrics,
};

/// The carriage actor.
pub struct CarriageActor {
    carrier: Carrier,
    network: Network,
    metrics: Arc<Metrics>,
    clock: Clock,
    /// Where blocking work is done.
    workers: Handle,
    links: Option<Links>,
    wake: Option<SpawnHandle>,
}

/// To carriage: where consensus is, and the actor itself. Sent once, before anything else.
#[derive(actix::Message, Clone)]
#[rtype(result = "()")]
pub struct Links {
    /// Consensus.
    pub consensus: Addr<ConsensusActor>,
    /// This actor.
    pub own: Addr<CarriageActor>,
}

impl CarriageActor {
    /// An actor around a carrier. Call it on the runtime whose threads do blocking work.
    #[must_use]
    pub const fn new(carrier: Carrier, network: Network, metrics: Arc<Metrics>, clock: Clock, workers: Handle) -> Self {
        Self { carrier, network, metrics, clock, workers, links: None, wake: None }
    }

    fn step(&mut self, input: CarriageInput, ctx: &mut Context<Self>) {
        let proposes = matches!(input, CarriageInput::Propose(_));
        let effects = self.carrier.step(self.clock.now(), input);
        if proposes && effects.iter().any(|effect| matches!(effect, CarriageEffect::Outside(..))) {
            self.metrics.dispersed.inc();
        }
        for effect in effects {
            self.execute(effect);
        }
        self.arm(ctx);
    }

    /// One timer, for the next moment at which a proposal is overdue.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        if let Some(handle) = self.wake.take() {
            ctx.cancel_future(handle);
        }
        if let Some(at) = self.carrier.wake_at() {
            let wait = Duration::from_millis(at.0.saturating_sub(self.clock.now().0).max(1));
            self.wake = Some(ctx.run_later(wait, |actor, ctx| {
                actor.wake = None;
                actor.step(CarriageInput::Tick, ctx);
            }));
        }
    }

    fn execute(&mut self, effect: CarriageEffect) {
        match effect {
            CarriageEffect::Send(peer, message) => self.send_carried(&[peer], &message),
            CarriageEffect::Forward(peers, message) => self.send_carried(&peers, &message),
            CarriageEffect::Broadcast(message) => {
                // The network drops the oldest message of a peer that is too slow; a stall makes the core resend.
                let sent = self.network.broadcast(Channel::Consensus, &Bytes::from(message.to_bytes()));
                if let Err(error) = sent {
                    tracing::error!(%error, "a proposal that nobody was sent");
                }
            }
            CarriageEffect::Outside(message, committee) => {
                let peers = self.network.peers().into_iter().map(|peer| peer.node);
                let outside: Vec<NodeId> = peers.filter(|peer| committee.index_of(peer).is_none()).collect();
                if !outside.is_empty() {
                    self.send(&outside, Channel::Consensus, &Bytes::from(message.to_bytes()));
                }
            }
            CarriageEffect::Whole(peer, message) => {
                self.metrics.whole_served.inc();
                self.send(&[peer], Channel::Consensus, &Bytes::from(message.to_bytes()));
            }
            CarriageEffect::GetBlock(peer, hash) => {
                self.send(&[peer], Channel::Consensus, &Bytes::from(Message::GetBlock(hash).to_bytes()));
            }
            CarriageEffect::Rebuild(job) => {
                let (links, metrics) = (self.links.clone(), Arc::clone(&self.metrics));
                self.workers.spawn_blocking(move || {
                    let timer = metrics.rebuild_seconds.start_timer();
                    let rebuilt = job.run();
                    timer.observe_duration();
                    match rebuilt.outcome {
                        Ok(_) => metrics.rebuilt.inc(),
                        Err(_) => metrics.chunk_lies.inc(),
                    }
                    if let Some(links) = links {
                        links.own.do_send(Carry(CarriageInput::Rebuilt(rebuilt)));
                    }
                });
            }
            CarriageEffect::Deliver(from, message) => {
                if let Some(links) = &self.links {
                    links.consensus.do_send(FromPeer { from, message });
                }
            }
            CarriageEffect::Misbehaved(peer, what) => {
                self.metrics.misbehaviour.inc();
                tracing::debug!(%peer, what, "misbehaviour");
                self.network.report(peer, Misbehaviour::InvalidContent);
            }
        }
    }

    fn send_carried(&self, peers: &[NodeId], message: &Carried) {
        match message {
            Carried::Piece(_) => self.metrics.chunks_sent.inc_by(peers.len() as u64),
            Carried::Ask { view, .. } => {
                tracing::info!(%view, "too few chunks of a proposal; its leader is asked for all of it");
                self.metrics.whole_asked.inc();
            }
        }
        self.send(peers, Channel::Data, &Bytes::from(message.to_bytes()));
    }

    fn send(&self, peers: &[NodeId], channel: Channel, payload: &Bytes) {
        for peer in peers {
            match self.network.send(*peer, channel, payload.clone()) {
                Ok(()) | Err(SendError::NotConnected | SendError::Full(_)) => {}
                Err(error) => tracing::error!(%peer, %error, "a message of carriage that was not sent"),
            }
        }
    }
}

impl Actor for CarriageActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1024);
    }
}

impl Handler<Links> for CarriageActor {
    type Result = ();

    fn handle(&mut self, links: Links, _: &mut Self::Context) {
        self.links = Some(links);
    }
}

impl Handler<Carry> for CarriageActor {
    type Result = ();

    fn handle(&mut self, Carry(input): Carry, ctx: &mut Self::Context) {
        self.step(input, ctx);
    }
}

impl Handler<FromMember> for CarriageActor {
    type Result = ();

    fn handle(&mut self, FromMember { from, message }: FromMember, ctx: &mut Self::Context) {
        self.step(CarriageInput::Message { from, message }, ctx);
    }
}
