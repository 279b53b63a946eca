//! The sync actor: a thin shell around [`cascade_consensus::sync`].
//!
//! What it fetches, consensus checks once more; what it serves comes from the database.

use std::{sync::Arc, time::Duration};

use actix::{Actor, ActorFutureExt as _, AsyncContext, Context, Handler, SpawnHandle, WrapFuture as _};
use bytes::Bytes;
use cascade_consensus::{
    ChainContext, Finality,
    sync::{self, FinalChain, RequestId, Sync, SyncEffect, SyncInput, SyncRequest, SyncResponse},
};
use cascade_network::{Misbehaviour, Network, RequestError};
use cascade_primitives::{Body, Decode, Encode, Header, Height, NodeId};
use cascade_storage::ChainDb;

use super::{
    clock::Clock,
    consensus::ConsensusActor,
    hub::Hub,
    mail::Addr,
    messages::{Behind, FinalRange, Head, PeerGone, PeerStatus},
};
use crate::rpc::backend::SyncProgress;

/// Final blocks as the database has them. What cannot be read counts as not there: the peer asks elsewhere.
pub struct StoredChain<'a>(pub &'a ChainDb);

impl FinalChain for StoredChain<'_> {
    fn height(&self) -> Height {
        self.0.heads().last_final.map_or(Height(0), |(height, _)| height)
    }

    fn header(&self, height: Height) -> Option<Header> {
        self.0.header(height).ok().flatten().map(|(_, header)| header)
    }

    fn body(&self, height: Height) -> Option<Body> {
        self.0.block(height).ok().flatten().map(|block| block.into_block().body)
    }

    fn finality(&self, height: Height) -> Option<Finality> {
        let stored = self.0.finality(height).ok().flatten()?;
        Some(Finality { certificate: Arc::new(stored.certificate), fillers: stored.fillers })
    }
}

/// Answers a peer's request.
#[must_use]
pub fn answer(db: &ChainDb, request: &SyncRequest) -> Bytes {
    Bytes::from(sync::answer(&StoredChain(db), request).to_bytes())
}

/// The sync actor.
pub struct SyncActor {
    core: Sync,
    network: Network,
    hub: Arc<Hub>,
    clock: Clock,
    head: Height,
    consensus: Option<Addr<ConsensusActor>>,
    wake: Option<SpawnHandle>,
}

/// To sync: where consensus is.
#[derive(actix::Message)]
#[rtype(result = "()")]
pub struct SetConsensus(pub Addr<ConsensusActor>);

impl SyncActor {
    /// An actor around a core.
    #[must_use]
    pub const fn new(core: Sync, head: Height, network: Network, hub: Arc<Hub>, clock: Clock) -> Self {
        Self { core, network, hub, clock, head, consensus: None, wake: None }
    }

    fn step(&mut self, input: SyncInput, ctx: &mut Context<Self>) {
        let effects = self.core.step(self.clock.now(), input);
        for effect in effects {
            self.execute(effect, ctx);
        }
        self.report();
        self.arm(ctx);
    }

    fn execute(&mut self, effect: SyncEffect, ctx: &mut Context<Self>) {
        match effect {
            SyncEffect::Request { peer, id, request } => {
                let (network, payload) = (self.network.clone(), Bytes::from(request.to_bytes()));
                let asking = async move { network.request(peer, payload).await };
                ctx.spawn(asking.into_actor(self).map(move |answer, actor, ctx| actor.answered(peer, id, answer, ctx)));
            }
            SyncEffect::Deliver { from, blocks, finality } => {
                if let Some(consensus) = &self.consensus {
                    consensus.do_send(FinalRange { from, blocks, finality });
                }
            }
            SyncEffect::Misbehaved(peer, what) => {
                tracing::debug!(%peer, what, "a peer that was asked for final blocks misbehaved");
                self.network.report(peer, Misbehaviour::BadResponse);
            }
        }
    }

    fn answered(&mut self, peer: NodeId, id: RequestId, answer: Result<Bytes, RequestError>, ctx: &mut Context<Self>) {
        let input = match answer.map(|bytes| SyncResponse::from_shared(&bytes)) {
            Ok(Ok(response)) => SyncInput::Response { peer, id, response },
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "a sync response that does not decode");
                self.network.report(peer, Misbehaviour::BadResponse);
                SyncInput::Failed { peer, id }
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "a sync request failed");
                SyncInput::Failed { peer, id }
            }
        };
        self.step(input, ctx);
    }

    /// Tells the RPC how far catching up has come.
    fn report(&self) {
        let before = self.hub.sync();
        let progress = self.core.goal().map(|target| {
            let from = before.map_or(self.head, |progress| progress.from);
            SyncProgress { from, target }
        });
        match (before, progress) {
            (None, Some(now)) => tracing::info!(from = %now.from, to = %now.target, "catching up"),
            (Some(was), None) => tracing::info!(from = %was.from, to = %self.head, "caught up"),
            _ => {}
        }
        self.hub.set_sync(progress);
    }

    fn arm(&mut self, ctx: &mut Context<Self>) {
        if let Some(handle) = self.wake.take() {
            ctx.cancel_future(handle);
        }
        let Some(at) = self.core.wake_at() else { return };
        let wait = Duration::from_millis(at.0.saturating_sub(self.clock.now().0));
        self.wake = Some(ctx.run_later(wait, |actor, ctx| {
            actor.wake = None;
            actor.step(SyncInput::Tick, ctx);
        }));
    }

    fn follow(&mut self, head: Arc<ChainContext>, ctx: &mut Context<Self>) {
        self.head = head.height;
        self.step(SyncInput::Head(head), ctx);
    }
}

impl Actor for SyncActor {
    type Context = Context<Self>;
}

impl Handler<SetConsensus> for SyncActor {
    type Result = ();

    fn handle(&mut self, message: SetConsensus, _: &mut Self::Context) {
        self.consensus = Some(message.0);
    }
}

impl Handler<Head> for SyncActor {
    type Result = ();

    fn handle(&mut self, Head(head): Head, ctx: &mut Self::Context) {
        self.follow(head, ctx);
    }
}

impl Handler<PeerStatus> for SyncActor {
    type Result = ();

    fn handle(&mut self, PeerStatus(peer, status): PeerStatus, ctx: &mut Self::Context) {
        self.step(SyncInput::Status(peer, status), ctx);
    }
}

impl Handler<Behind> for SyncActor {
    type Result = ();

    fn handle(&mut self, Behind(peer): Behind, ctx: &mut Self::Context) {
        self.step(SyncInput::Behind(peer), ctx);
    }
}

impl Handler<PeerGone> for SyncActor {
    type Result = ();

    fn handle(&mut self, PeerGone(peer): PeerGone, ctx: &mut Self::Context) {
        self.step(SyncInput::Disconnected(peer), ctx);
    }
}
