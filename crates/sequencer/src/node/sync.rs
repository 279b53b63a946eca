//! The sync actor: catching up on final blocks, and helping others to.
//!
//! A request names a height; the answer is a run of final blocks of one epoch from there on and what makes the last of
//! them final. The core checks all of it, so a peer can withhold but not deceive.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use actix::{Actor, ActorFutureExt as _, Addr, AsyncContext, Context, Handler, WrapFuture as _};
use bytes::Bytes;
use cascade_consensus::{Finality, Status};
use cascade_network::{Misbehaviour, Network, RequestError};
use cascade_primitives::{
    Decode, DecodeError, DecodeErrorKind, Encode, Height, NodeId, Reader, SealedBlock, block::MAX_BLOCK_BYTES,
};
use cascade_storage::{ChainDb, StorageError};

use super::{
    consensus::ConsensusActor,
    hub::Hub,
    messages::{Behind, FinalRange, PeerGone, PeerStatus},
};
use crate::rpc::backend::SyncProgress;

/// Blocks in one answer.
const RANGE_BLOCKS: usize = 512;
/// Bytes of blocks in one answer, unless a single block has more.
const RANGE_BYTES: usize = 8 << 20;
/// How often a node that is behind looks whom to ask next.
const RETRY: Duration = Duration::from_millis(250);

/// Asks for final blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeRequest {
    /// The first height wanted.
    pub from: Height,
}

impl Encode for RangeRequest {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(1);
        self.from.encode(out);
    }
}

impl Decode for RangeRequest {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(r.field("sync request"))? {
            1 => Ok(Self { from: Height::decode(r)? }),
            tag => Err(r.error(DecodeErrorKind::UnknownTag(u64::from(tag)))),
        }
    }
}

/// The answer: nothing if the peer has no block at that height.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeResponse(Option<(Vec<Arc<SealedBlock>>, Finality)>);

impl Decode for RangeResponse {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if !bool::decode(r.field("sync response"))? {
            return Ok(Self(None));
        }
        let count = r.length(RANGE_BLOCKS * 2)?;
        let mut blocks = Vec::with_capacity(count.min(r.left() / 512));
        for _ in 0..count {
            let bytes = r.field("final block").byte_string(MAX_BLOCK_BYTES)?;
            blocks.push(Arc::new(SealedBlock::from_shared(&bytes)?));
        }
        let stored = cascade_storage::Finality::decode(r)?;
        Ok(Self(Some((blocks, Finality { certificate: Arc::new(stored.certificate), fillers: stored.fillers }))))
    }
}

/// Answers a request from the database.
///
/// # Errors
/// If the database fails.
pub fn answer(db: &ChainDb, request: RangeRequest) -> Result<Bytes, StorageError> {
    let mut out = Vec::new();
    match db.block_range(request.from, RANGE_BYTES, RANGE_BLOCKS)? {
        None => false.encode(&mut out),
        Some(range) => {
            true.encode(&mut out);
            u32::try_from(range.blocks.len()).expect("a range is bounded").encode(&mut out);
            for block in &range.blocks {
                cascade_primitives::codec::encode_byte_string(&block.bytes, &mut out);
            }
            range.finality.encode(&mut out);
        }
    }
    Ok(Bytes::from(out))
}

/// The sync actor.
pub struct SyncActor {
    network: Network,
    hub: Arc<Hub>,
    consensus: Option<Addr<ConsensusActor>>,
    peers: BTreeMap<NodeId, Height>,
    /// Whether consensus says that it needs blocks, and up to which height.
    target: Option<Height>,
    asked: Option<NodeId>,
    /// What was delivered last, so that the same range is not asked for while consensus is taking it in.
    delivered: Height,
    idle_rounds: u32,
}

/// To sync: where consensus is.
#[derive(actix::Message)]
#[rtype(result = "()")]
pub struct SetConsensus(pub Addr<ConsensusActor>);

impl SyncActor {
    /// An actor that asks nobody yet.
    #[must_use]
    pub const fn new(network: Network, hub: Arc<Hub>) -> Self {
        Self {
            network,
            hub,
            consensus: None,
            peers: BTreeMap::new(),
            target: None,
            asked: None,
            delivered: Height(0),
            idle_rounds: 0,
        }
    }

    fn head(&self) -> Height {
        self.hub.consensus().map_or(Height(0), |view| view.health.height)
    }

    fn proceed(&mut self, ctx: &mut Context<Self>) {
        let head = self.head();
        let Some(target) = self.target else { return };
        if head >= target {
            self.target = None;
            self.hub.set_sync(None);
            return;
        }
        if self.asked.is_some() {
            return;
        }
        // Consensus may still be taking in the last range; if it refuses it, the same range is asked for elsewhere.
        if self.delivered > head && self.idle_rounds < 8 {
            self.idle_rounds += 1;
            return;
        }
        self.idle_rounds = 0;
        let able: Vec<NodeId> = self.peers.iter().filter(|(_, at)| **at > head).map(|(peer, _)| *peer).collect();
        let Some(&peer) = able.get(head.0 as usize % able.len().max(1)) else { return };
        self.asked = Some(peer);
        let request = Bytes::from(RangeRequest { from: head.next() }.to_bytes());
        let network = self.network.clone();
        let asking = async move { network.request(peer, request).await };
        ctx.spawn(asking.into_actor(self).map(move |answer, actor, ctx| actor.on_answer(peer, answer, ctx)));
    }

    fn on_answer(&mut self, peer: NodeId, answer: Result<Bytes, RequestError>, ctx: &mut Context<Self>) {
        self.asked = None;
        match answer.map(|bytes| RangeResponse::from_shared(&bytes)) {
            Ok(Ok(RangeResponse(Some((blocks, finality))))) => {
                if let (Some(last), Some(consensus)) = (blocks.last(), &self.consensus) {
                    self.delivered = last.header.height;
                    consensus.do_send(FinalRange { from: peer, blocks, finality });
                }
            }
            Ok(Ok(RangeResponse(None))) => {
                self.peers.remove(&peer);
            }
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "a sync response that does not decode");
                self.network.report(peer, Misbehaviour::BadResponse);
                self.peers.remove(&peer);
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "a sync request failed");
                self.peers.remove(&peer);
            }
        }
        self.proceed(ctx);
    }

    fn needs(&mut self, height: Height, ctx: &mut Context<Self>) {
        let head = self.head();
        if height > head {
            let target = self.target.map_or(height, |t| t.max(height));
            if self.target.is_none() {
                tracing::info!(from = %head, to = %target, "catching up");
            }
            self.target = Some(target);
            let from = self.hub.sync().map_or(head, |progress| progress.from);
            self.hub.set_sync(Some(SyncProgress { from, target }));
            self.proceed(ctx);
        }
    }

    fn learn(&mut self, peer: NodeId, status: Status) {
        self.peers.insert(peer, status.height);
    }
}

impl Actor for SyncActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(RETRY, |actor, ctx| actor.proceed(ctx));
    }
}

impl Handler<SetConsensus> for SyncActor {
    type Result = ();

    fn handle(&mut self, message: SetConsensus, _: &mut Self::Context) {
        self.consensus = Some(message.0);
    }
}

impl Handler<PeerStatus> for SyncActor {
    type Result = ();

    fn handle(&mut self, PeerStatus(peer, status): PeerStatus, _: &mut Self::Context) {
        self.learn(peer, status);
    }
}

impl Handler<Behind> for SyncActor {
    type Result = ();

    fn handle(&mut self, Behind(peer): Behind, ctx: &mut Self::Context) {
        if let Some(&height) = self.peers.get(&peer) {
            self.needs(height, ctx);
        }
    }
}

impl Handler<PeerGone> for SyncActor {
    type Result = ();

    fn handle(&mut self, PeerGone(peer): PeerGone, ctx: &mut Self::Context) {
        self.peers.remove(&peer);
        if self.asked == Some(peer) {
            self.asked = None;
            self.proceed(ctx);
        }
    }
}
