//! What all tasks of a network share, and the steps that several of them take.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use cascade_primitives::{NodeId, TimestampMs};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, Semaphore, mpsc, watch};

use crate::{
    addr::Endpoint,
    admission::Admission,
    announce::Announcement,
    budget::{Account, Budget},
    channel::{Channel, Overflow},
    config::{ChannelLimits, NetworkConfig},
    dials::{DialBook, Why},
    discovery::{Discovery, Effect, Input},
    error::{CloseCode, DisconnectReason, HandshakeError, Misbehaviour, SendError},
    event::{Event, Message, Request},
    hello::Hello,
    metrics::Metrics,
    peer::{Candidate, Link, Peer, Registered, Registry},
    queue::Pushed,
    tls::Credentials,
};

/// The way into a channel's queue to the layer above, bounded in messages and in bytes for all peers together.
#[derive(Debug)]
pub(crate) struct Inbox {
    queue: mpsc::Sender<Message>,
    room: Arc<Semaphore>,
    bytes: usize,
}

impl Inbox {
    pub(crate) fn new(limits: &ChannelLimits) -> (Self, mpsc::Receiver<Message>) {
        let (queue, receiver) = mpsc::channel(limits.inbox_messages);
        let bytes = limits.inbox_bytes.min(Semaphore::MAX_PERMITS);
        (Self { queue, room: Arc::new(Semaphore::new(bytes)), bytes }, receiver)
    }

    fn places(&self, payload: &Bytes) -> u32 {
        u32::try_from(payload.len().min(self.bytes)).unwrap_or(u32::MAX)
    }

    /// Waits for room. False if nobody will ever read it.
    pub(crate) async fn wait(&self, peer: NodeId, payload: Bytes) -> bool {
        let room = Arc::clone(&self.room).acquire_many_owned(self.places(&payload)).await;
        let room = room.expect("it is never closed");
        self.queue.send(Message { peer, payload, _room: room }).await.is_ok()
    }

    /// False if there is no room.
    pub(crate) fn offer(&self, peer: NodeId, payload: Bytes) -> bool {
        let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(self.places(&payload)) else { return false };
        self.queue.try_send(Message { peer, payload, _room: room }).is_ok()
    }
}

/// Where received messages go. Held by the tasks only, so that the receivers end when the tasks do.
#[derive(Debug)]
pub(crate) struct Sinks {
    pub(crate) consensus: Inbox,
    pub(crate) mempool: Inbox,
    pub(crate) data: Inbox,
    pub(crate) discovery: Inbox,
    pub(crate) requests: mpsc::Sender<Request>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: NetworkConfig,
    pub(crate) node: NodeId,
    pub(crate) credentials: Credentials,
    /// A random number of this run of the process.
    pub(crate) instance: u64,
    pub(crate) dial_counter: AtomicU64,
    pub(crate) reachable: Option<Endpoint>,
    pub(crate) registry: RwLock<Registry>,
    pub(crate) dials: Mutex<DialBook>,
    pub(crate) dials_changed: Notify,
    pub(crate) admission: Admission,
    pub(crate) discovery: Mutex<Discovery>,
    pub(crate) peers_changed: Notify,
    pub(crate) budget: Arc<Budget>,
    /// Requests that are answered at once, for all peers without a reserved place together.
    pub(crate) serving: Semaphore,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stop: watch::Sender<bool>,
}

impl Shared {
    /// The hello of this node; `dial` is 0 for a listener.
    pub(crate) fn hello(&self, dial: u64) -> Hello {
        Hello {
            network: self.config.network_id,
            instance: self.instance,
            dial,
            listen: self.reachable,
            agent: self.config.agent.clone(),
        }
    }

    pub(crate) fn next_dial(&self) -> u64 {
        self.dial_counter.fetch_add(1, Ordering::Relaxed)
    }

    /// Waits until the network stops.
    pub(crate) async fn stopped(&self) {
        // The sender lives in `self`, so this ends only when the value is set.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    pub(crate) fn register(&self, candidate: Candidate) -> Result<(Arc<Peer>, Arc<Link>), HandshakeError> {
        let direction = candidate.direction;
        let Registered { peer, link, is_new, displaced } = self.registry.write().register(&self.config, candidate)?;
        if let Some(displaced) = displaced {
            self.gone(&displaced, self.config.backoff.most);
        }
        if is_new {
            self.metrics.connections.with_label_values(&[direction.name()]).inc();
            self.count_peers();
            self.peers_changed.notify_one();
        } else {
            self.metrics.replaced.inc();
        }
        Ok((peer, link))
    }

    fn count_peers(&self) {
        self.metrics.peers.set(gauge(self.registry.read().len()));
    }

    pub(crate) fn count_half_open(&self) {
        self.metrics.half_open.set(gauge(self.admission.half_open()));
    }

    pub(crate) fn link_ended(&self, peer: &Arc<Peer>, link: &Arc<Link>, reason: DisconnectReason) {
        let at_least = match &reason {
            // Such a peer has no use for us soon.
            DisconnectReason::Closed(CloseCode::Banned | CloseCode::TooManyPeers | CloseCode::Evicted) => {
                self.config.backoff.most
            }
            _ => Duration::ZERO,
        };
        let gone = self.registry.write().link_ended(peer, link, reason);
        if gone {
            self.gone(peer, at_least);
        }
    }

    /// Ends the connection of a peer.
    pub(crate) fn disconnect(&self, node: NodeId) {
        let removed = self.registry.write().remove(node, DisconnectReason::Requested, CloseCode::Dropped);
        if let Some(peer) = removed {
            self.gone(&peer, self.config.backoff.most);
        }
    }

    pub(crate) fn punish(&self, node: NodeId, misbehaviour: Misbehaviour) {
        self.metrics.misbehaviours.with_label_values(&[misbehaviour.label()]).inc();
        let verdict = self.registry.write().punish(node, misbehaviour);
        let Some((until, removed)) = verdict else { return };
        self.metrics.bans.with_label_values(&[misbehaviour.label()]).inc();
        let length = until.saturating_duration_since(Instant::now());
        tracing::warn!(peer = %node, %misbehaviour, ?length, "peer banned");
        if let Some(peer) = removed {
            self.gone(&peer, length);
        }
    }

    fn gone(&self, peer: &Peer, at_least: Duration) {
        self.metrics.disconnects.inc();
        self.count_peers();
        self.peers_changed.notify_one();
        self.dials.lock().lost(Instant::now(), peer.node, peer.since.elapsed(), at_least, &mut rand::rng());
        self.dials_changed.notify_one();
    }

    /// Disconnects peers that hold too much, while all together hold more than the budget. `leaving` are accounts of those
    /// that were disconnected before, whose tasks may not have ended yet.
    pub(crate) fn relieve(&self, leaving: &mut Vec<Arc<Account>>) {
        leaving.retain(|account| account.held() > 0);
        let freed: usize = leaving.iter().map(|account| account.held()).sum();
        let gone = self.registry.write().relieve(self.budget.used().saturating_sub(freed), self.budget.limit());
        for peer in gone {
            tracing::warn!(peer = %peer.node, held = peer.account.held(), used = self.budget.used(),
                "peers make this node hold too much; the one that holds the most is disconnected");
            self.metrics.heavy_peers.inc();
            peer.clear_queues();
            leaving.push(Arc::clone(&peer.account));
            self.gone(&peer, self.config.backoff.most);
        }
    }

    /// Queues a message that goes to so many peers for one of them; `length` was checked.
    pub(crate) fn push(&self, peer: &Peer, channel: Channel, payload: Bytes, peers: usize) -> Pushed {
        let pushed = peer.queue(channel).push(payload, peers);
        let dropped = match pushed {
            Pushed::Queued => 0,
            Pushed::DroppedOldest(n) => n as u64,
            Pushed::DroppedNewest => 1,
        };
        if dropped > 0 {
            self.metrics.of(channel).dropped_queue.inc_by(dropped);
        }
        pushed
    }

    /// Checks that the layer above may send this.
    pub(crate) fn check_message(&self, channel: Channel, payload: &Bytes) -> Result<(), SendError> {
        if channel == Channel::Discovery || channel.overflow() == Overflow::Refuse {
            return Err(SendError::NotForMessages(channel));
        }
        let (length, limit) = (payload.len(), self.config.limits.of(channel).max_message);
        if length == 0 || length > limit { Err(SendError::Size { channel, length, limit }) } else { Ok(()) }
    }

    /// Gives discovery an input and does what it wants.
    pub(crate) fn discover(&self, input: Input) {
        let mut discovery = self.discovery.lock();
        let effects = discovery.step(wall_clock(), input);
        let found: Vec<(Box<Announcement>, Vec<Endpoint>)> = effects
            .iter()
            .filter_map(|e| if let Effect::Found(a) = e { Some((a.clone(), discovery.dialable(a))) } else { None })
            .collect();
        self.metrics.announcements.set(gauge(discovery.len()));
        drop(discovery);
        for (announcement, endpoints) in found {
            self.add_candidate(announcement.body.node, &endpoints);
            self.registry.read().report(Event::Found(announcement));
        }
        for effect in effects {
            match effect {
                Effect::Send { to, payload } => {
                    let (registry, peers) = (self.registry.read(), to.len());
                    for peer in to.into_iter().filter_map(|node| registry.get(node)) {
                        self.push(peer, Channel::Discovery, payload.clone(), peers);
                    }
                }
                Effect::Misbehaved(node, misbehaviour) => self.punish(node, misbehaviour),
                Effect::Found(_) => {}
            }
        }
    }

    /// Tells discovery who is connected.
    pub(crate) fn discover_peers(&self) {
        let peers: BTreeSet<NodeId> = self.registry.read().iter().map(|peer| peer.node).collect();
        self.discover(Input::Peers(peers));
    }

    fn add_candidate(&self, node: NodeId, endpoints: &[Endpoint]) {
        let why = if self.registry.read().is_reserved(node) { Why::Reserved } else { Why::Candidate };
        let addresses = endpoints.iter().map(|e| e.addr()).collect();
        self.dials.lock().add_node(Instant::now(), node, addresses, why);
        self.dials_changed.notify_one();
    }

    /// Reserves places for these nodes and for no others.
    pub(crate) fn set_reserved(&self, mut nodes: BTreeSet<NodeId>) {
        nodes.remove(&self.node);
        self.registry.write().set_reserved(&self.config, nodes.clone());
        self.dials.lock().keep_reserved(|node| nodes.contains(&node));
        let known: Vec<(NodeId, Vec<Endpoint>)> = {
            let mut discovery = self.discovery.lock();
            let now = wall_clock();
            let effects = discovery.step(now, Input::Committee(nodes.clone()));
            debug_assert!(effects.is_empty(), "a change of committee sends nothing");
            let known = nodes.iter().filter_map(|node| Some((*node, discovery.get(now, *node)?)));
            known.map(|(node, announcement)| (node, discovery.dialable(announcement))).collect()
        };
        for (node, endpoints) in known {
            self.add_candidate(node, &endpoints);
        }
    }
}

/// Milliseconds since the Unix epoch by the system's clock.
pub(crate) fn wall_clock() -> TimestampMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    TimestampMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn gauge(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
