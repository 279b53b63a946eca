//! Tasks that bring what the network received to the actors. They decode, so that no actor sees bytes, and wait for room
//! in mailboxes, so that a slow actor holds its senders back; but for consensus, where each peer has a lane of its own.

use std::{
    collections::BTreeSet,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use cascade_consensus::{Carried, Rules, sync::SyncRequest};
use cascade_da::serve::Asker;
use cascade_light::ask::QUIC_TAG;
use cascade_mempool::reveal::RevealMessage;
use cascade_network::{Event, Message, Misbehaviour, Network, Receivers, Request};
use cascade_primitives::{Decode, NodeId};
use cascade_storage::ChainDb;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::batches::publish::Publisher;

use super::{
    admission::Admitter,
    carriage::CarriageActor,
    consensus::ConsensusActor,
    gossip,
    hub::Hub,
    keys::KeysActor,
    lanes::Lanes,
    light::LightDoor,
    mail::Addr,
    messages::{FromData, FromMember, FromPeer, PeerConnected, PeerGone},
    notices::Notices,
    reveal::RevealActor,
    submitter::Submitter,
    sync::{self, SyncActor},
};

/// How often it is looked whether there is something to say that no event tells, and the pause after batches could not be
/// published.
const LOOK: Duration = Duration::from_secs(5);

/// Starts all of them. They end with the network.
#[expect(clippy::too_many_arguments, reason = "it is where everything meets")]
pub(super) fn start(
    receivers: Receivers,
    network: &Network,
    rules: &Arc<Rules>,
    consensus: &Addr<ConsensusActor>,
    carriage: &Addr<CarriageActor>,
    admitter: &Admitter,
    submitter: &Submitter,
    sync: &Addr<SyncActor>,
    db: &Arc<ChainDb>,
    light: &Arc<LightDoor>,
    hub: &Arc<Hub>,
    notices: Notices,
    sealed: Option<(Addr<KeysActor>, Addr<RevealActor>)>,
) {
    let Receivers { consensus: votes, mempool, data, requests, events } = receivers;
    let (keys, reveal) = sealed.unzip();
    let to_consensus = consensus.clone();
    let lanes = Lanes::new(move |from, message| {
        let consensus = to_consensus.clone();
        async move { consensus.send(FromPeer { from, message }).await.is_ok() }
    });
    let lanes = Arc::new(Mutex::new(lanes));
    tokio::spawn(pump_consensus(votes, network.clone(), Arc::clone(hub), Arc::clone(&lanes)));
    gossip::start(mempool, network, rules, hub, admitter, submitter, keys);
    tokio::spawn(pump_requests(requests, network.clone(), Arc::clone(db), Arc::clone(light)));
    let reveals = reveal.map(|reveal| {
        let deliver = move |from, message| {
            let reveal = reveal.clone();
            async move { reveal.send(FromData { from, message }).await.is_ok() }
        };
        Arc::new(Mutex::new(Lanes::new(deliver)))
    });
    let carriage = carriage.clone();
    let carried = Lanes::new(move |from, message| {
        let carriage = carriage.clone();
        async move { carriage.send(FromMember { from, message }).await.is_ok() }
    });
    let carried = Arc::new(Mutex::new(carried));
    let (rest, from_data) = mpsc::channel(1);
    tokio::spawn(pump_carried(data, rest, network.clone(), Arc::clone(hub), Arc::clone(&carried)));
    tokio::spawn(pump_data(from_data, network.clone(), Arc::clone(hub), reveals.clone(), Arc::clone(&lanes)));
    let forget = move |peer: &NodeId| {
        lanes.lock().close(peer);
        carried.lock().close(peer);
        if let Some(reveals) = &reveals {
            reveals.lock().close(peer);
        }
    };
    tokio::spawn(pump_events(events, consensus.clone(), sync.clone(), Arc::clone(hub), notices, forget));
}

/// Chunks of proposals, and requests for the whole, which members of the committee alone may send. All else goes on to
/// `rest`.
async fn pump_carried<D, F>(
    mut data: mpsc::Receiver<Message>,
    rest: mpsc::Sender<Message>,
    network: Network,
    hub: Arc<Hub>,
    lanes: Arc<Mutex<Lanes<Carried, D>>>,
) where
    D: Fn(NodeId, Carried) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = bool> + Send + 'static,
{
    while let Some(message) = data.recv().await {
        if !Carried::is_in(&message.payload) {
            if rest.send(message).await.is_err() {
                return;
            }
            continue;
        }
        let Message { peer, payload, .. } = message;
        match Carried::from_shared(&payload) {
            // Who is no member any more, or not yet, need not know it.
            Ok(_) if !hub.is_member(&peer) => {}
            Ok(carried) => {
                if !lanes.lock().offer(peer, true, carried, payload.len()) {
                    tracing::debug!(%peer, "a peer sends more chunks than can be taken; one is dropped");
                }
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "a message of carriage that does not decode");
                network.report(peer, Misbehaviour::Undecodable);
            }
        }
    }
}

/// Shares and reveals; nothing on a chain without threshold keys. A message of shares carries the certificate that made its
/// block final: a node that has yet to hear of it hears of it so.
async fn pump_data<D, E, F, G>(
    mut data: mpsc::Receiver<Message>,
    network: Network,
    hub: Arc<Hub>,
    lanes: Option<Arc<Mutex<Lanes<RevealMessage, D>>>>,
    consensus: Arc<Mutex<Lanes<cascade_consensus::Message, E>>>,
) where
    D: Fn(NodeId, RevealMessage) -> F + Clone + Send + Sync + 'static,
    E: Fn(NodeId, cascade_consensus::Message) -> G + Clone + Send + Sync + 'static,
    F: Future<Output = bool> + Send + 'static,
    G: Future<Output = bool> + Send + 'static,
{
    while let Some(Message { peer, payload, .. }) = data.recv().await {
        let Some(lanes) = &lanes else {
            network.report(peer, Misbehaviour::Spam);
            continue;
        };
        match RevealMessage::from_shared(&payload) {
            Ok(message) => {
                if let RevealMessage::Shares(shares, certificate) = &message
                    && shares.height > hub.heads().ordered
                {
                    let news = cascade_consensus::Message::Certificate(Arc::clone(certificate));
                    let _ = consensus.lock().offer(peer, hub.is_member(&peer), news, payload.len());
                }
                if !lanes.lock().offer(peer, hub.is_member(&peer), message, payload.len()) {
                    tracing::debug!(%peer, "a peer reveals more than can be taken; a message is dropped");
                }
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "a message of shares that does not decode");
                network.report(peer, Misbehaviour::Undecodable);
            }
        }
    }
}

async fn pump_consensus<D, F>(
    mut votes: mpsc::Receiver<Message>,
    network: Network,
    hub: Arc<Hub>,
    lanes: Arc<Mutex<Lanes<cascade_consensus::Message, D>>>,
) where
    D: Fn(NodeId, cascade_consensus::Message) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = bool> + Send + 'static,
{
    while let Some(Message { peer, payload, .. }) = votes.recv().await {
        match cascade_consensus::Message::from_shared(&payload) {
            Ok(message) => {
                if !lanes.lock().offer(peer, hub.is_member(&peer), message, payload.len()) {
                    tracing::debug!(%peer, "a peer says more to consensus than it can take; a message is dropped");
                }
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "a consensus message that does not decode");
                network.report(peer, Misbehaviour::Undecodable);
            }
        }
    }
}

async fn pump_requests(
    mut requests: mpsc::Receiver<Request>,
    network: Network,
    db: Arc<ChainDb>,
    light: Arc<LightDoor>,
) {
    while let Some(Request { peer, payload, reply }) = requests.recv().await {
        if payload.first() == Some(&QUIC_TAG) {
            let (light, network) = (Arc::clone(&light), network.clone());
            tokio::task::spawn_blocking(move || match light.answer(Asker::Node(peer), &payload.slice(1..)) {
                Some(answer) => reply.respond(answer),
                None => {
                    network.report(peer, Misbehaviour::Undecodable);
                    reply.refuse();
                }
            });
            continue;
        }
        let Ok(request) = SyncRequest::from_slice(&payload) else {
            network.report(peer, Misbehaviour::Undecodable);
            reply.refuse();
            continue;
        };
        let db = Arc::clone(&db);
        // Answers are read beside each other: how many at once, the network limits for each peer.
        tokio::task::spawn_blocking(move || reply.respond(sync::answer(&db, &request)));
    }
}

async fn pump_events(
    mut events: mpsc::Receiver<Event>,
    consensus: Addr<ConsensusActor>,
    sync: Addr<SyncActor>,
    hub: Arc<Hub>,
    mut notices: Notices,
    forget: impl Fn(&NodeId),
) {
    let mut connected: BTreeSet<NodeId> = BTreeSet::new();
    let mut look = tokio::time::interval(LOOK);
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            _ = look.tick() => {
                let health = hub.consensus().map(|view| view.health);
                let suffices = health.is_some_and(|health| health.votes && health.seats_heard >= health.quorum);
                notices.tick(Instant::now(), suffices).inspect(|notice| notice.log());
                continue;
            }
        };
        let Some(event) = event else { return };
        notices.observe(Instant::now(), &event).inspect(|notice| notice.log());
        match event {
            Event::Connected(peer) => {
                tracing::info!(peer = %peer.node, address = %peer.address, agent = %peer.agent, "connected");
                connected.insert(peer.node);
                sync.do_send(PeerConnected(peer.node));
                consensus.do_send(PeerConnected(peer.node));
            }
            Event::Disconnected { peer, reason } => {
                tracing::info!(%peer, %reason, "disconnected");
                connected.remove(&peer);
                forget(&peer);
                sync.do_send(PeerGone(peer));
            }
            Event::DialFailed { address, error, .. } => tracing::debug!(%address, %error, "dial failed"),
            Event::Refused { address, error, .. } => tracing::debug!(%address, %error, "refused"),
            Event::Found(announcement) => tracing::debug!(?announcement, "announcement"),
        }
    }
}

/// Publishes batches as they become due. Ends with the hub.
pub(super) async fn publish(mut publisher: Publisher, hub: Arc<Hub>) {
    let mut events = hub.subscribe();
    loop {
        let safe = hub.heads().safe;
        let stepped = tokio::task::spawn_blocking(move || {
            let result = publisher.step(safe);
            (publisher, result)
        });
        let Ok((back, result)) = stepped.await else { return };
        publisher = back;
        if let Err(error) = result {
            tracing::error!(%error, "no batch could be published; it is tried again");
            tokio::time::sleep(LOOK).await;
        }
        // A lagging receiver has seen that something happened, which is all that matters.
        if let Err(tokio::sync::broadcast::error::RecvError::Closed) = events.recv().await {
            return;
        }
    }
}
