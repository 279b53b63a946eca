//! The handle to a running network.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Weak, atomic::AtomicU64},
    time::{Duration, Instant},
};

use bytes::Bytes;
use cascade_primitives::NodeId;
use parking_lot::{Mutex, RwLock};
use quinn::{AsyncUdpSocket, EndpointConfig, ServerConfig, TokioRuntime};
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    addr::Endpoint,
    admission::Admission,
    announce::{Announcement, Claims},
    budget::Budget,
    channel::Channel,
    config::NetworkConfig,
    dials::{DialBook, Why},
    discovery::{Discovery, DiscoveryConfig, Input},
    error::{CloseCode, Misbehaviour, NetworkError, RequestError, SendError},
    event::{Event, EventSink, Message, PeerInfo, Request},
    identity::Identity,
    metrics::Metrics,
    peer::Registry,
    queue::Pushed,
    request, service,
    shared::{Inbox, Shared, Sinks, wall_clock},
    tls::Credentials,
    transport,
};

/// Events that wait in the receiver.
const EVENTS: usize = 256;
/// How long a shutdown waits for tasks, and then for peers to hear of it.
const SHUTDOWN: Duration = Duration::from_secs(3);

/// Where the network delivers to, one receiver per kind, so that a flood of one does not delay another. They end
/// after [`Network::shutdown`]. One that is dropped counts as not interested: its messages are discarded.
#[derive(Debug)]
pub struct Receivers {
    /// Consensus messages. A full receiver holds the senders back.
    pub consensus: mpsc::Receiver<Message>,
    /// Mempool messages. A full receiver loses messages, which are counted.
    pub mempool: mpsc::Receiver<Message>,
    /// Data messages. A full receiver holds the senders back.
    pub data: mpsc::Receiver<Message>,
    /// Sync requests. A full receiver makes peers hear "busy".
    pub requests: mpsc::Receiver<Request>,
    /// Peers that come and go, and failures. Unread, it stops new peers from being admitted after a while.
    pub events: mpsc::Receiver<Event>,
}

/// A handle to a running network; cheap to clone. When the last one is dropped, the network stops.
#[derive(Clone, Debug)]
pub struct Network {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    local: SocketAddr,
    endpoint: Mutex<Option<quinn::Endpoint>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    events: Mutex<Option<JoinHandle<()>>>,
    socket: Weak<dyn AsyncUdpSocket>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.stop.send_replace(true);
        if let Some(endpoint) = self.endpoint.lock().take() {
            endpoint.close(CloseCode::Shutdown.var_int(), &[]);
        }
        self.shared.registry.write().close();
    }
}

impl Network {
    /// Opens the socket and starts accepting and dialling. Needs a tokio runtime with time and I/O.
    ///
    /// # Errors
    /// If the configuration breaks a rule, the address is taken, or metrics of this name are registered already.
    pub async fn start(
        config: NetworkConfig,
        identity: Identity,
        metrics: &prometheus::Registry,
    ) -> Result<(Self, Receivers), NetworkError> {
        config.validate()?;
        let runtime = Arc::new(TokioRuntime);
        let quic = Arc::new(transport::transport_config(&config)?);
        let credentials = Credentials::new(&identity)?;
        let mut server = ServerConfig::with_crypto(Arc::new(credentials.server(&config.versions)?));
        server.transport_config(Arc::clone(&quic)).migration(false).max_incoming(4 * config.max_half_open);
        let bind = |source| NetworkError::Bind { addr: config.listen, source };
        let socket = transport::open_socket(&config, runtime.as_ref()).map_err(bind)?;
        let local = socket.local_addr().map_err(bind)?;
        let weak_socket = Arc::downgrade(&socket);
        let endpoint =
            quinn::Endpoint::new_with_abstract_socket(EndpointConfig::default(), Some(server), socket, runtime)
                .map_err(bind)?;
        let metrics = Arc::new(Metrics::new(metrics)?);
        let (sinks, discovery_inbox, receivers, events_out) = channels(&config);
        let (sink, forward) = EventSink::new(Arc::clone(&metrics), events_out);
        let shared = Arc::new(shared(config, &identity, credentials, local, metrics, sink)?);
        let sinks = Arc::new(sinks);
        let tasks = vec![
            tokio::spawn(service::accept_loop(Arc::clone(&shared), Arc::clone(&sinks), endpoint.clone())),
            tokio::spawn(service::dial_loop(Arc::clone(&shared), sinks, endpoint.clone(), quic)),
            tokio::spawn(service::discovery_loop(Arc::clone(&shared), discovery_inbox)),
            tokio::spawn(service::budget_loop(Arc::clone(&shared))),
        ];
        let inner = Inner {
            shared,
            local,
            endpoint: Mutex::new(Some(endpoint)),
            tasks: Mutex::new(tasks),
            events: Mutex::new(Some(tokio::spawn(forward))),
            socket: weak_socket,
        };
        let network = Self { inner: Arc::new(inner) };
        if let Some(claims) = network.shared().config.announce {
            network.announce(claims);
        }
        Ok((network, receivers))
    }

    fn shared(&self) -> &Shared {
        &self.inner.shared
    }

    /// Who this node is.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.shared().node
    }

    /// The address that the socket is bound to.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local
    }

    /// Queues a message for all peers, who share its buffer, and returns how many queues took it.
    ///
    /// # Errors
    /// If the channel does not carry messages, or the message is empty or too large for it.
    pub fn broadcast(&self, channel: Channel, payload: &Bytes) -> Result<usize, SendError> {
        self.broadcast_except(channel, payload, None)
    }

    /// Like [`Network::broadcast`], but not to one peer, for example the one that a message came from.
    ///
    /// # Errors
    /// If the channel does not carry messages, or the message is empty or too large for it.
    pub fn broadcast_except(
        &self,
        channel: Channel,
        payload: &Bytes,
        except: Option<NodeId>,
    ) -> Result<usize, SendError> {
        let shared = self.shared();
        shared.check_message(channel, payload)?;
        let registry = shared.registry.read();
        let count = registry.len();
        let peers = registry.iter().filter(|peer| Some(peer.node) != except);
        Ok(peers.filter(|peer| shared.push(peer, channel, payload.clone(), count) != Pushed::DroppedNewest).count())
    }

    /// Queues a message for one peer.
    ///
    /// # Errors
    /// If the peer is not connected, the message is not fit for the channel, or the channel's queue is full and its
    /// rule drops the newest.
    pub fn send(&self, peer: NodeId, channel: Channel, payload: Bytes) -> Result<(), SendError> {
        let shared = self.shared();
        shared.check_message(channel, &payload)?;
        let registry = shared.registry.read();
        let peer = registry.get(peer).ok_or(SendError::NotConnected)?;
        match shared.push(peer, channel, payload, 1) {
            Pushed::Queued | Pushed::DroppedOldest(_) => Ok(()),
            Pushed::DroppedNewest => Err(SendError::Full(channel)),
        }
    }

    /// Asks a peer on the sync channel and waits for the response, at most for the configured time.
    ///
    /// # Errors
    /// [`RequestError`] says which limit was met, or what the peer said.
    pub async fn request(&self, peer: NodeId, payload: Bytes) -> Result<Bytes, RequestError> {
        let peer = self.shared().registry.read().get(peer).cloned().ok_or(RequestError::NotConnected)?;
        request::ask(self.shared(), &peer, payload).await
    }

    /// Reports what a peer did wrong; enough of it gets the peer banned and disconnected.
    pub fn report(&self, peer: NodeId, misbehaviour: Misbehaviour) {
        self.shared().punish(peer, misbehaviour);
    }

    /// Lifts a ban and forgets what the node did.
    pub fn forgive(&self, node: NodeId) {
        self.shared().registry.write().forgive(node);
    }

    /// How much longer a node is banned.
    #[must_use]
    pub fn banned_for(&self, node: NodeId) -> Option<Duration> {
        let now = Instant::now();
        let until = self.shared().registry.read().banned_until(now, node)?;
        Some(until.saturating_duration_since(now))
    }

    /// Ends the connection to a peer. It may come back.
    pub fn disconnect(&self, peer: NodeId) {
        self.shared().disconnect(peer);
    }

    /// The connected peers, in the order of their ids.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.shared().registry.read().infos()
    }

    /// How many peers are connected.
    #[must_use]
    pub fn peer_count(&self) -> usize {
        self.shared().registry.read().len()
    }

    /// Whether there is a connection to a node.
    #[must_use]
    pub fn is_connected(&self, node: NodeId) -> bool {
        self.shared().registry.read().get(node).is_some()
    }

    /// Keeps dialling an address for as long as the network runs; with a node, only that node counts.
    pub fn dial(&self, address: SocketAddr, node: Option<NodeId>) {
        let address = Endpoint::new(address).addr();
        let mut dials = self.shared().dials.lock();
        match node {
            Some(node) if node == self.shared().node => {}
            Some(node) => dials.add_node(Instant::now(), node, vec![address], Why::Explicit),
            None => dials.add_address(Instant::now(), address),
        }
        drop(dials);
        self.shared().dials_changed.notify_one();
    }

    /// Reserves places for these nodes (the committee) and no others: they are always admitted, dialled as soon as
    /// their addresses are known, and their announcements are kept.
    pub fn set_reserved(&self, nodes: impl IntoIterator<Item = NodeId>) {
        self.shared().set_reserved(nodes.into_iter().collect::<BTreeSet<_>>());
    }

    /// Announces this node with these claims from now on, at its external or its listening address.
    pub fn announce(&self, claims: Claims) {
        let endpoints = self.shared().reachable.into_iter().collect();
        self.shared().discover(Input::Announce { endpoints, claims });
    }

    /// The announcements that this node knows and that hold, its own included, in the order of their nodes.
    #[must_use]
    pub fn announcements(&self) -> Vec<Announcement> {
        self.shared().discovery.lock().announcements(wall_clock()).cloned().collect()
    }

    /// Stops: says goodbye to the peers, ends all tasks, closes the receivers and releases the port. Further calls do
    /// nothing.
    pub async fn shutdown(&self) {
        let shared = self.shared();
        shared.stop.send_replace(true);
        let Some(endpoint) = self.inner.endpoint.lock().take() else { return };
        endpoint.close(CloseCode::Shutdown.var_int(), &[]);
        let tasks = std::mem::take(&mut *self.inner.tasks.lock());
        for task in tasks {
            finish(task).await;
        }
        shared.registry.write().close();
        let events = self.inner.events.lock().take();
        if let Some(events) = events {
            finish(events).await;
        }
        // Gives the last packets time to leave and the peers' answers time to come.
        let _ = timeout(SHUTDOWN, endpoint.wait_idle()).await;
        drop(endpoint);
        // The endpoint's driver drops the socket when it next runs; nothing tells when.
        let released = async {
            while self.inner.socket.strong_count() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        if timeout(SHUTDOWN, released).await.is_err() {
            tracing::warn!(address = %self.inner.local, "the socket is still in use after shutdown");
        }
    }
}

/// Waits for a task, or ends it if it takes too long.
async fn finish(mut task: JoinHandle<()>) {
    if timeout(SHUTDOWN, &mut task).await.is_err() {
        task.abort();
    }
}

fn channels(config: &NetworkConfig) -> (Sinks, mpsc::Receiver<Message>, Receivers, mpsc::Sender<Event>) {
    let inbox = |channel: Channel| Inbox::new(config.limits.of(channel));
    let (consensus_in, consensus) = inbox(Channel::Consensus);
    let (mempool_in, mempool) = inbox(Channel::Mempool);
    let (data_in, data) = inbox(Channel::Data);
    let (discovery_in, discovery) = inbox(Channel::Discovery);
    let (requests_in, requests) = mpsc::channel(config.limits.of(Channel::Sync).inbox_messages);
    let (events_in, events) = mpsc::channel(EVENTS);
    let sinks = Sinks {
        consensus: consensus_in,
        mempool: mempool_in,
        data: data_in,
        discovery: discovery_in,
        requests: requests_in,
    };
    (sinks, discovery, Receivers { consensus, mempool, data, requests, events }, events_in)
}

fn shared(
    config: NetworkConfig,
    identity: &Identity,
    credentials: Credentials,
    local: SocketAddr,
    metrics: Arc<Metrics>,
    events: EventSink,
) -> Result<Shared, NetworkError> {
    let mut random = [0; 40];
    getrandom::fill(&mut random)?;
    let (instance, seed) = random.split_first_chunk::<8>().expect("40 bytes begin with 8");
    let seed = <[u8; 32]>::try_from(seed).expect("32 of 40 bytes are left");
    let discovery = DiscoveryConfig { allow_private: config.allow_private, ..DiscoveryConfig::new(config.network_id) };
    let now = Instant::now();
    let mut dials = DialBook::new(config.backoff);
    for address in &config.bootstrap {
        dials.add_address(now, Endpoint::new(*address).addr());
    }
    let budget = Budget::new(config.buffer_bytes);
    Ok(Shared {
        node: identity.node_id(),
        credentials,
        instance: u64::from_le_bytes(*instance),
        dial_counter: AtomicU64::new(1),
        reachable: transport::reachable_at(&config, local).map(Endpoint::new),
        registry: RwLock::new(Registry::new(&config, Arc::clone(&budget), events)),
        budget,
        serving: Semaphore::new(config.max_requests.min(Semaphore::MAX_PERMITS)),
        dials: Mutex::new(dials),
        dials_changed: Notify::new(),
        admission: Admission::new(&config),
        discovery: Mutex::new(Discovery::new(discovery, identity.clone(), seed)),
        peers_changed: Notify::new(),
        metrics,
        stop: watch::Sender::new(false),
        config,
    })
}
