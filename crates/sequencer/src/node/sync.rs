//! The sync actor: a thin shell around [`cascade_consensus::sync`].
//!
//! What it fetches, consensus checks once more; what it serves comes from the database. It fetches no further run while
//! more final blocks wait for their execution than a [`Backlog`] has room for: they are in memory until then. What peers
//! say of themselves is kept while they are connected, and not longer.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

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
    messages::{Behind, FinalRange, Head, PeerConnected, PeerGone, PeerStatus},
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

/// Bytes of final blocks that may wait for their execution before no further ones are fetched.
const BACKLOG_BYTES: usize = 64 << 20;
/// Blocks that may.
const BACKLOG_BLOCKS: usize = 1024;

/// Final blocks that are not executed yet, as heights and sizes.
#[derive(Debug, Default)]
pub struct Backlog {
    blocks: VecDeque<(Height, usize)>,
    bytes: usize,
}

impl Backlog {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self { blocks: VecDeque::new(), bytes: 0 }
    }

    /// A block of so many bytes is final.
    pub fn ordered(&mut self, height: Height, bytes: usize) {
        self.blocks.push_back((height, bytes));
        self.bytes += bytes;
    }

    /// Blocks up to a height are executed.
    pub fn executed(&mut self, height: Height) {
        while let Some((_, bytes)) = self.blocks.pop_front_if(|(first, _)| *first <= height) {
            self.bytes -= bytes;
        }
    }

    /// Whether further blocks may be fetched.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.bytes < BACKLOG_BYTES && self.blocks.len() < BACKLOG_BLOCKS
    }
}

/// To sync: whether the backlog has room.
#[derive(actix::Message, Clone, Copy)]
#[rtype(result = "()")]
pub struct Room(pub bool);

/// The sync actor.
pub struct SyncActor {
    core: Sync,
    network: Network,
    hub: Arc<Hub>,
    clock: Clock,
    head: Height,
    connected: BTreeSet<NodeId>,
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
        Self { core, network, hub, clock, head, connected: BTreeSet::new(), consensus: None, wake: None }
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
        // One that came before its connection's news says it again: consensus greets every peer, and who is ahead answers.
        if self.connected.contains(&peer) {
            self.step(SyncInput::Status(peer, status), ctx);
        }
    }
}

impl Handler<Behind> for SyncActor {
    type Result = ();

    fn handle(&mut self, Behind(peer): Behind, ctx: &mut Self::Context) {
        if self.connected.contains(&peer) {
            self.step(SyncInput::Behind(peer), ctx);
        }
    }
}

impl Handler<Room> for SyncActor {
    type Result = ();

    fn handle(&mut self, Room(room): Room, ctx: &mut Self::Context) {
        self.step(SyncInput::Room(room), ctx);
    }
}

impl Handler<PeerConnected> for SyncActor {
    type Result = ();

    fn handle(&mut self, PeerConnected(peer): PeerConnected, _: &mut Self::Context) {
        self.connected.insert(peer);
    }
}

impl Handler<PeerGone> for SyncActor {
    type Result = ();

    fn handle(&mut self, PeerGone(peer): PeerGone, ctx: &mut Self::Context) {
        self.connected.remove(&peer);
        self.step(SyncInput::Disconnected(peer), ctx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_has_room_until_its_bytes_or_blocks_are_too_many_and_again_once_they_are_executed() {
        let mut backlog = Backlog::new();
        for height in 1..=8 {
            assert!(backlog.has_room(), "{height}");
            backlog.ordered(Height(height), BACKLOG_BYTES / 8);
        }
        assert!(!backlog.has_room());
        backlog.executed(Height(0));
        assert!(!backlog.has_room());
        backlog.executed(Height(1));
        assert!(backlog.has_room());
        backlog.executed(Height(8));
        assert_eq!((backlog.bytes, backlog.blocks.len()), (0, 0));
        (9..9 + BACKLOG_BLOCKS as u64).for_each(|height| backlog.ordered(Height(height), 1));
        assert!(!backlog.has_room());
    }
}
