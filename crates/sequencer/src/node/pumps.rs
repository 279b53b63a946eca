//! Tasks that bring what the network received to the actors. They decode, so that no actor sees bytes, and wait for room
//! in mailboxes, so that a slow actor holds its senders back; but for consensus, where each peer has a lane of its own.

use std::{
    collections::{BTreeSet, HashMap},
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use cascade_consensus::{Rules, sync::SyncRequest};
use cascade_da::serve::Asker;
use cascade_light::ask::QUIC_TAG;
use cascade_mempool::{
    AdmissionError, Source,
    gossip::{decode_gossip, decode_system_item},
    reveal::RevealMessage,
};
use cascade_network::{Event, Message, Misbehaviour, Network, Receivers, Request};
use cascade_primitives::{
    Bytes, ChainParams, Decode, NodeId, SystemItem, Transaction, TransactionRule, system::MAX_DEALING_BYTES,
};
use cascade_storage::ChainDb;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::{batches::publish::Publisher, rpc::backend::SubmitError};

use super::{
    admission::Admitter,
    consensus::ConsensusActor,
    hub::Hub,
    keys::KeysActor,
    lanes::Lanes,
    light::LightDoor,
    mail::Addr,
    messages::{Candidate, FromData, FromPeer, KeyItem, PeerConnected, PeerGone},
    notices::Notices,
    reveal::RevealActor,
    sync::{self, SyncActor},
};

/// How often it is looked whether there is something to say that no event tells.
const LOOK: Duration = Duration::from_secs(5);

/// Gossiped transactions from which on no further message is added to a batch.
const GOSSIP_BATCH: usize = 1024;

/// Items of key generation that may wait to be checked.
const KEY_ITEMS: usize = 64;

/// Starts all of them. They end with the network.
#[expect(clippy::too_many_arguments, reason = "it is where everything meets")]
pub(super) fn start(
    receivers: Receivers,
    network: &Network,
    rules: &Arc<Rules>,
    consensus: &Addr<ConsensusActor>,
    admitter: &Admitter,
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
    tokio::spawn(pump_consensus(votes, network.clone(), Arc::clone(&lanes)));
    tokio::spawn(pump_mempool(mempool, network.clone(), Arc::clone(rules), Arc::clone(hub), admitter.clone(), keys));
    tokio::spawn(pump_requests(requests, network.clone(), Arc::clone(db), Arc::clone(light)));
    let reveals = reveal.map(|reveal| {
        let deliver = move |from, message| {
            let reveal = reveal.clone();
            async move { reveal.send(FromData { from, message }).await.is_ok() }
        };
        Arc::new(Mutex::new(Lanes::new(deliver)))
    });
    tokio::spawn(pump_data(data, network.clone(), Arc::clone(hub), reveals.clone(), Arc::clone(&lanes)));
    let forget = move |peer: &NodeId| {
        lanes.lock().close(peer);
        if let Some(reveals) = &reveals {
            reveals.lock().close(peer);
        }
    };
    tokio::spawn(pump_events(events, consensus.clone(), sync.clone(), Arc::clone(hub), notices, forget));
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
                    let _ = consensus.lock().offer(peer, news, payload.len());
                }
                if !lanes.lock().offer(peer, message, payload.len()) {
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
    lanes: Arc<Mutex<Lanes<cascade_consensus::Message, D>>>,
) where
    D: Fn(NodeId, cascade_consensus::Message) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = bool> + Send + 'static,
{
    while let Some(Message { peer, payload, .. }) = votes.recv().await {
        match cascade_consensus::Message::from_shared(&payload) {
            Ok(message) => {
                if !lanes.lock().offer(peer, message, payload.len()) {
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

async fn pump_mempool(
    mut gossip: mpsc::Receiver<Message>,
    network: Network,
    rules: Arc<Rules>,
    hub: Arc<Hub>,
    admitter: Admitter,
    keys: Option<Addr<KeysActor>>,
) {
    let keys = keys.map(forward_key_items);
    let mut doubts = Doubts::default();
    while let Some(first) = gossip.recv().await {
        let mut batches: [Vec<Candidate>; 2] = Default::default();
        let mut senders: [Vec<NodeId>; 2] = Default::default();
        let mut next = Some(first);
        while let Some(Message { peer, payload, .. }) = next {
            // Sequencers are connected with each other, so what one gossips the others get from it. What a node outside
            // the committee sends may have reached nobody else.
            let member = hub.consensus().is_some_and(|view| view.committee.index_of(&peer).is_some());
            let (batch, senders) = (&mut batches[usize::from(member)], &mut senders[usize::from(member)]);
            // Nodes give their own items out again until the log has them: one that finds no room comes again.
            let forward = |item| {
                if let Some(keys) = &keys {
                    let _ = keys.try_send(KeyItem { from: peer, item });
                }
            };
            take_gossip(&payload, rules.params(), |misbehaviour| network.report(peer, misbehaviour), forward, batch);
            senders.resize(batch.len(), peer);
            next = if batch.len() < GOSSIP_BATCH { gossip.try_recv().ok() } else { None };
        }
        for ((batch, senders), source) in batches.into_iter().zip(senders).zip([Source::Local, Source::Peer]) {
            if batch.is_empty() {
                continue;
            }
            let raw: Vec<Option<Bytes>> = batch.iter().map(Candidate::item).collect();
            let Some(results) = admitter.admit(batch, source).await else { return };
            for ((sender, raw), result) in senders.into_iter().zip(raw).zip(results) {
                // Wrong signatures and proofs: an honest node has checked them before it gave the item on.
                let wrong = match (result, raw) {
                    (Err(SubmitError::Item(_)), _) => true,
                    (Err(SubmitError::Admission(AdmissionError::AlreadyKnown)), _) => false,
                    (Err(SubmitError::Admission(_)), Some(raw)) if doubts.may_check(Instant::now(), sender) => {
                        let Some(sealed) = admitter.is_sealed(raw).await else { return };
                        !sealed
                    }
                    _ => false,
                };
                if wrong {
                    tracing::debug!(peer = %sender, "gossip that no honest node gives on");
                    network.report(sender, Misbehaviour::InvalidContent);
                }
            }
        }
    }
}

/// A refused envelope of a peer has its proof checked once in this time.
const DOUBT: Duration = Duration::from_secs(1);
/// Peers of whom that is remembered.
const MOST_DOUBTS: usize = 1024;

/// When a refused envelope of which peer had its proof checked last. Whose payer cannot pay is refused before its proof is
/// looked at, and that may be no fault of the peer: nodes are not all at the same height. A proof that does not hold is.
#[derive(Debug, Default)]
struct Doubts(HashMap<NodeId, Instant>);

impl Doubts {
    fn may_check(&mut self, now: Instant, peer: NodeId) -> bool {
        if self.0.len() >= MOST_DOUBTS {
            self.0.retain(|_, at| now.duration_since(*at) < DOUBT);
        }
        let lately = self.0.get(&peer).is_some_and(|at| now.duration_since(*at) < DOUBT);
        if lately || self.0.len() >= MOST_DOUBTS && !self.0.contains_key(&peer) {
            return false;
        }
        self.0.insert(peer, now);
        true
    }
}

/// Items of key generation, a bounded number at a time: checking one may take long.
fn forward_key_items(keys: Addr<KeysActor>) -> mpsc::Sender<KeyItem> {
    let (sender, mut receiver) = mpsc::channel(KEY_ITEMS);
    tokio::spawn(async move {
        while let Some(item) = receiver.recv().await {
            if keys.send(item).await.is_err() {
                return;
            }
        }
    });
    sender
}

fn take_gossip(
    payload: &Bytes,
    params: &ChainParams,
    report: impl Fn(Misbehaviour),
    forward: impl Fn(SystemItem),
    batch: &mut Vec<Candidate>,
) {
    let limit = params.max_tx_bytes as usize;
    let encrypted = params.transactions == TransactionRule::Encrypted;
    let largest = if encrypted { limit.max(MAX_DEALING_BYTES + 16) } else { limit };
    let Ok(items) = decode_gossip(payload, largest) else {
        report(Misbehaviour::Undecodable);
        return;
    };
    for item in items {
        match params.transactions {
            TransactionRule::Opaque => batch.push(Candidate::Opaque(item)),
            TransactionRule::Plain => match Transaction::decode(item, params.chain_id, limit) {
                Ok(transaction) => batch.push(Candidate::Plain(Box::new(transaction))),
                // An honest node gossips nothing that it could not decode itself.
                Err(_) => report(Misbehaviour::InvalidContent),
            },
            TransactionRule::Encrypted => match decode_system_item(&item) {
                Ok(Some(item)) => forward(item),
                Ok(None) if item.len() <= limit => batch.push(Candidate::Item(item)),
                _ => report(Misbehaviour::InvalidContent),
            },
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
        }
        // A lagging receiver has seen that something happened, which is all that matters.
        if let Err(tokio::sync::broadcast::error::RecvError::Closed) = events.recv().await {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_refused_envelope_of_a_peer_is_looked_at_in_a_second_and_so_many_peers_are_remembered() {
        let (mut doubts, start) = (Doubts::default(), Instant::now());
        let peer = |i: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&i.to_be_bytes());
            NodeId(id)
        };
        let checked = |doubts: &mut Doubts, ms| doubts.may_check(start + Duration::from_millis(ms), peer(0));
        let times: Vec<u64> = (0..3000).step_by(100).filter(|ms| checked(&mut doubts, *ms)).collect();
        assert_eq!(times, [0, 1000, 2000]);
        let now = start + Duration::from_secs(9);
        let many = (0..2 * MOST_DOUBTS).filter(|i| doubts.may_check(now, peer(*i))).count();
        assert_eq!((many, doubts.0.len()), (MOST_DOUBTS, MOST_DOUBTS));
        assert!(doubts.may_check(now + DOUBT, peer(2 * MOST_DOUBTS)), "there is room again");
    }
}
