//! The loops of a network: accepting, dialling, discovery; and the handshake of both sides.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use cascade_primitives::{Encode, NodeId};
use quinn::{ClientConfig, Connection, Endpoint, Incoming, TransportConfig, crypto::rustls::QuicClientConfig};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant as Deadline, MissedTickBehavior, sleep_until, timeout_at},
};

use crate::{
    addr::canonical,
    admission::{HalfOpen, HostSlot, Verdict},
    dials::{Order, Peers},
    discovery::Input,
    error::{CloseCode, HandshakeError},
    event::{Direction, Event, Message},
    hello, link,
    peer::{Candidate, Link, Peer, Rank},
    shared::{Shared, Sinks},
    tls,
};

/// How often the book of dials is looked at, should nothing else be a reason to.
const RECHECK: Duration = Duration::from_secs(5);
/// How often discovery looks at the clock.
const TICK: Duration = Duration::from_secs(1);

type Registered = (Arc<Peer>, Arc<Link>);

/// Takes inbound connections until the network stops.
pub(crate) async fn accept_loop(shared: Arc<Shared>, sinks: Arc<Sinks>, endpoint: Endpoint) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            incoming = endpoint.accept() => {
                let Some(incoming) = incoming else {
                    if !*shared.stop.borrow() {
                        tracing::error!("the UDP socket failed; the network stops");
                        shared.stop.send_replace(true);
                        shared.registry.write().close();
                    }
                    break;
                };
                if let Some((incoming, half_open, slot)) = admit(&shared, incoming) {
                    tasks.spawn(inbound(Arc::clone(&shared), Arc::clone(&sinks), incoming, half_open, slot));
                }
            }
            Some(_) = tasks.join_next() => {}
            () = shared.stopped() => break,
        }
        shared.count_half_open();
    }
    drop(endpoint);
    while tasks.join_next().await.is_some() {}
}

/// Judges a connection attempt; one that is turned down is answered here.
fn admit(shared: &Shared, incoming: Incoming) -> Option<(Incoming, HalfOpen, HostSlot)> {
    let refused = &shared.metrics.incoming_refused;
    let (remote, proven) = (incoming.remote_address(), incoming.remote_address_validated());
    match shared.admission.judge(Instant::now(), remote, proven) {
        Verdict::Accept(half_open, slot) => return Some((incoming, half_open, slot)),
        Verdict::Retry => {
            refused.with_label_values(&["retry"]).inc();
            // Fails only for an address that is proven, and this one is not.
            if let Err(error) = incoming.retry() {
                error.into_incoming().refuse();
            }
        }
        Verdict::Refuse(reason) => {
            refused.with_label_values(&[reason]).inc();
            incoming.refuse();
        }
    }
    None
}

async fn inbound(shared: Arc<Shared>, sinks: Arc<Sinks>, incoming: Incoming, half_open: HalfOpen, mut slot: HostSlot) {
    let address = canonical(incoming.remote_address());
    let mut node = None;
    let result = listen_handshake(&shared, incoming, &mut slot, &mut node).await;
    drop(half_open);
    shared.count_half_open();
    match result {
        Ok((peer, link)) => link::run(shared, sinks, peer, link).await,
        Err(error) => {
            shared.metrics.handshake_failures.with_label_values(&[error.label()]).inc();
            tracing::debug!(%address, %error, "inbound handshake failed");
            if error != HandshakeError::Duplicate {
                shared.registry.read().report(Event::Refused { address, peer: node, error });
            }
        }
    }
    drop(slot);
}

/// The listener's side of TLS and hello.
async fn listen_handshake(
    shared: &Shared,
    incoming: Incoming,
    slot: &mut HostSlot,
    node: &mut Option<NodeId>,
) -> Result<Registered, HandshakeError> {
    let limit = shared.config.handshake_timeout;
    let deadline = Deadline::now() + limit;
    let ours = shared.config.network_id;
    let connecting = incoming.accept().map_err(|e| HandshakeError::from_connection(e, ours))?;
    let connection = timeout_at(deadline, connecting)
        .await
        .map_err(|_| HandshakeError::Timeout(limit))?
        .map_err(|e| HandshakeError::from_connection(e, ours))?;
    let exchange = async {
        let (peer, version) = identify(shared, &connection)?;
        *node = Some(peer);
        if !slot.prove() {
            return Err(HandshakeError::TooManyPeers);
        }
        let (mut send, mut recv) =
            connection.accept_bi().await.map_err(|e| HandshakeError::from_connection(e, ours))?;
        let hello = hello::read(&mut recv, ours).await?;
        let rank = Rank::new(peer, shared.node, hello.dial);
        let direction = Direction::Inbound;
        let candidate = Candidate { node: peer, version, hello, connection: connection.clone(), direction, rank };
        let registered = shared.register(candidate)?;
        // If this fails the connection is gone, which its tasks notice first thing.
        let _ = hello::write(&mut send, &shared.hello(0)).await;
        Ok(registered)
    };
    let result = timeout_at(deadline, exchange).await.unwrap_or(Err(HandshakeError::Timeout(limit)));
    if let Err(error) = &result {
        turn_away(shared, &connection, error);
    }
    result
}

/// Who is there, and whether there is any point in going on.
fn identify(shared: &Shared, connection: &Connection) -> Result<(NodeId, crate::ProtocolVersion), HandshakeError> {
    let (node, version) = tls::peer_of(connection)
        .ok_or_else(|| HandshakeError::Transport("the connection has no identity or version".to_owned()))?;
    if node == shared.node {
        return Err(HandshakeError::Ourselves);
    }
    if shared.registry.read().banned_until(Instant::now(), node).is_some() {
        return Err(HandshakeError::Banned);
    }
    Ok((node, version))
}

/// Closes a connection in a way that tells the other side why.
fn turn_away(shared: &Shared, connection: &Connection, error: &HandshakeError) {
    let (code, reason) = match error {
        HandshakeError::WrongNetwork { .. } => (CloseCode::WrongNetwork, shared.config.network_id.to_bytes()),
        HandshakeError::Ourselves => (CloseCode::Ourselves, Vec::new()),
        HandshakeError::Duplicate => (CloseCode::Duplicate, Vec::new()),
        HandshakeError::Banned => (CloseCode::Banned, Vec::new()),
        HandshakeError::TooManyPeers => (CloseCode::TooManyPeers, Vec::new()),
        HandshakeError::Timeout(_) => (CloseCode::Dropped, Vec::new()),
        _ => (CloseCode::BadHello, Vec::new()),
    };
    connection.close(code.var_int(), &reason);
}

/// Dials what is due until the network stops.
pub(crate) async fn dial_loop(
    shared: Arc<Shared>,
    sinks: Arc<Sinks>,
    endpoint: Endpoint,
    transport: Arc<TransportConfig>,
) {
    let mut tasks = JoinSet::new();
    loop {
        let (orders, next) = {
            let registry = shared.registry.read();
            let is_connected = |node| registry.get(node).is_some();
            let wants_more = registry.len() < shared.config.target_peers;
            let mut dials = shared.dials.lock();
            let orders = dials.due(Instant::now(), &Peers { is_connected: &is_connected, wants_more });
            (orders, dials.next_due())
        };
        for order in orders {
            let (shared, sinks) = (Arc::clone(&shared), Arc::clone(&sinks));
            tasks.spawn(outbound(shared, sinks, endpoint.clone(), Arc::clone(&transport), order));
        }
        let recheck = Instant::now() + RECHECK;
        tokio::select! {
            () = sleep_until(next.map_or(recheck, |next| next.min(recheck)).into()) => {}
            () = shared.dials_changed.notified() => {}
            Some(_) = tasks.join_next() => {}
            () = shared.stopped() => break,
        }
    }
    drop(endpoint);
    while tasks.join_next().await.is_some() {}
}

async fn outbound(
    shared: Arc<Shared>,
    sinks: Arc<Sinks>,
    endpoint: Endpoint,
    transport: Arc<TransportConfig>,
    order: Order,
) {
    let mut node = None;
    let result = dial_handshake(&shared, &endpoint, transport, order, &mut node).await;
    // Connections keep the endpoint alive as long as they need it.
    drop(endpoint);
    match result {
        Ok((peer, link)) => {
            shared.dials.lock().reached(order.key, peer.node);
            shared.dials_changed.notify_one();
            link::run(shared, sinks, peer, link).await;
        }
        Err(error) => dial_failed(&shared, order, node, error),
    }
}

fn dial_failed(shared: &Shared, order: Order, node: Option<NodeId>, error: HandshakeError) {
    tracing::debug!(address = %order.addr, %error, "dial failed");
    let now = Instant::now();
    let at_least = match &error {
        HandshakeError::Banned => ban_left(shared, now, node),
        // The other side will not change its mind soon.
        HandshakeError::WrongNetwork { .. } | HandshakeError::Version | HandshakeError::Refused(_) => {
            shared.config.backoff.most
        }
        _ => Duration::ZERO,
    };
    {
        let mut dials = shared.dials.lock();
        match (&error, node) {
            (HandshakeError::Ourselves | HandshakeError::Refused(CloseCode::Ourselves), _) => dials.remove(order.key),
            (HandshakeError::Duplicate, Some(node)) => dials.reached(order.key, node),
            _ => dials.failed(now, order.key, at_least, &mut rand::rng()),
        }
    }
    shared.dials_changed.notify_one();
    if matches!(error, HandshakeError::Duplicate | HandshakeError::Ourselves) {
        return;
    }
    shared.metrics.handshake_failures.with_label_values(&[error.label()]).inc();
    if order.persistent {
        let (address, expected) = (order.addr, order.expected);
        shared.registry.read().report(Event::DialFailed { address, expected, error });
    }
}

fn ban_left(shared: &Shared, now: Instant, node: Option<NodeId>) -> Duration {
    let until = node.and_then(|node| shared.registry.read().banned_until(now, node));
    until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
}

/// The dialler's side of TLS and hello.
async fn dial_handshake(
    shared: &Shared,
    endpoint: &Endpoint,
    transport: Arc<TransportConfig>,
    order: Order,
    node: &mut Option<NodeId>,
) -> Result<Registered, HandshakeError> {
    *node = order.expected;
    let banned = |node| shared.registry.read().banned_until(Instant::now(), node).is_some();
    if order.expected.is_some_and(banned) {
        return Err(HandshakeError::Banned);
    }
    let limit = shared.config.handshake_timeout;
    let deadline = Deadline::now() + limit;
    let ours = shared.config.network_id;
    let found = Arc::new(OnceLock::new());
    let tls: QuicClientConfig = shared
        .credentials
        .client(&shared.config.versions, order.expected, Arc::clone(&found))
        .map_err(|e| HandshakeError::Transport(e.to_string()))?;
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(transport);
    let connecting = endpoint
        .connect_with(config, reach(endpoint, order.addr), tls::SERVER_NAME)
        .map_err(|e| HandshakeError::Address(e.to_string()))?;
    let connection = match timeout_at(deadline, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            return Err(match (order.expected, found.get()) {
                (Some(expected), Some(found)) if expected != *found => {
                    HandshakeError::WrongIdentity { expected, found: *found }
                }
                _ => HandshakeError::from_connection(error, ours),
            });
        }
        Err(_) => return Err(HandshakeError::Timeout(limit)),
    };
    let exchange = async {
        let (peer, version) = identify(shared, &connection)?;
        *node = Some(peer);
        let dial = shared.next_dial();
        let lost = |e| HandshakeError::from_connection(e, ours);
        let (mut send, mut recv) = connection.open_bi().await.map_err(lost)?;
        // If this fails the connection is gone, and the read below knows why.
        let _ = hello::write(&mut send, &shared.hello(dial)).await;
        let hello = hello::read(&mut recv, ours).await?;
        let rank = Rank::new(shared.node, peer, dial);
        let direction = Direction::Outbound;
        shared.register(Candidate { node: peer, version, hello, connection: connection.clone(), direction, rank })
    };
    let result = timeout_at(deadline, exchange).await.unwrap_or(Err(HandshakeError::Timeout(limit)));
    if let Err(error) = &result {
        turn_away(shared, &connection, error);
    }
    result
}

/// The address as the socket wants it: a dual-stack socket sends to IPv4 through mapped addresses.
fn reach(endpoint: &Endpoint, addr: SocketAddr) -> SocketAddr {
    match (addr, endpoint.local_addr()) {
        (SocketAddr::V4(v4), Ok(SocketAddr::V6(_))) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        _ => addr,
    }
}

/// Keeps what peers make this node hold within the budget, until the network stops.
pub(crate) async fn budget_loop(shared: Arc<Shared>) {
    let mut leaving = Vec::new();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.budget.exceeded() => shared.relieve(&mut leaving),
            _ = tick.tick() => {
                shared.metrics.buffered_bytes.set(i64::try_from(shared.budget.used()).unwrap_or(i64::MAX));
                shared.relieve(&mut leaving);
            }
            () = shared.stopped() => break,
        }
    }
}

/// Feeds discovery until the network stops.
pub(crate) async fn discovery_loop(shared: Arc<Shared>, mut inbox: mpsc::Receiver<Message>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(Message { peer, payload, .. }) = inbox.recv() => shared.discover(Input::Message { from: peer, payload }),
            () = shared.peers_changed.notified() => shared.discover_peers(),
            _ = tick.tick() => {
                shared.discover_peers();
                shared.discover(Input::Tick);
            }
            () = shared.stopped() => break,
        }
    }
}
