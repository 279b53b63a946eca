//! Connecting, exchanging, losing and finding each other again.

use std::time::Duration;

use bytes::Bytes;
use cascade_network::{
    Channel, CloseCode, Direction, DisconnectReason, Event, HandshakeError, NetworkId, ProtocolVersion, RequestError,
    SendError,
};
use cascade_primitives::{ChainId, Encode};
use tokio::time::timeout;

use crate::{
    helpers::{LIMIT, NETWORK, Node, id, next, number, numbered, pair, pair_with},
    raw::{self, Raw, code_of},
};

#[tokio::test]
async fn two_nodes_exchange_on_every_channel() {
    let (mut a, mut b) = pair().await;
    let info = b.network.peers().remove(0);
    assert_eq!((info.node, info.direction, info.version), (a.id(), Direction::Inbound, ProtocolVersion(2)));
    assert_eq!(info.listen, Some(a.addr()));
    assert!(info.agent.starts_with("cascade/"));
    for channel in [Channel::Consensus, Channel::Mempool, Channel::Data] {
        // Smaller and larger than what is copied, and than a packet.
        for length in [4, 1000, 100_000, 900_000] {
            assert_eq!(a.network.broadcast(channel, &numbered(1, length)), Ok(1));
            b.network.send(a.id(), channel, numbered(2, length)).unwrap();
            let (to_a, to_b) = match channel {
                Channel::Consensus => (&mut a.rx.consensus, &mut b.rx.consensus),
                Channel::Mempool => (&mut a.rx.mempool, &mut b.rx.mempool),
                _ => (&mut a.rx.data, &mut b.rx.data),
            };
            let message = next(to_b).await;
            assert_eq!((message.peer, message.payload), (id(1), numbered(1, length)));
            let message = next(to_a).await;
            assert_eq!((message.peer, message.payload), (id(2), numbered(2, length)));
        }
    }
    let (asking, peer) = (a.network.clone(), b.id());
    let response = tokio::spawn(async move { asking.request(peer, Bytes::from_static(b"block 7?")).await });
    let request = timeout(LIMIT, b.rx.requests.recv()).await.unwrap().unwrap();
    assert_eq!((request.peer, &request.payload[..]), (a.id(), &b"block 7?"[..]));
    request.reply.respond(numbered(7, 3_000_000));
    assert_eq!(response.await.unwrap(), Ok(numbered(7, 3_000_000)));
    assert_eq!(a.metric("sent_messages_total", &["consensus"]), 4);
    assert_eq!(b.metric("received_bytes_total", &["data"]), 1_001_004);
}

#[tokio::test]
async fn messages_of_a_channel_keep_their_order() {
    let (a, mut b) = pair().await;
    for n in 0..3000 {
        let length = if n % 100 == 0 { 20_000 } else { 40 };
        a.network.broadcast(Channel::Consensus, &numbered(n, length)).unwrap();
    }
    for n in 0..3000 {
        assert_eq!(number(&next(&mut b.rx.consensus).await.payload), n);
    }
}

#[tokio::test]
async fn what_does_not_fit_is_refused_to_the_caller() {
    let (a, b) = pair().await;
    let limit = 16 << 20;
    let too_long = Bytes::from(vec![0; limit + 1]);
    let size = |length| SendError::Size { channel: Channel::Data, length, limit };
    assert_eq!(a.network.broadcast(Channel::Data, &too_long), Err(size(limit + 1)));
    assert_eq!(a.network.send(b.id(), Channel::Data, Bytes::new()), Err(size(0)));
    let small = Bytes::from_static(b"x");
    assert_eq!(a.network.send(id(9), Channel::Data, small.clone()), Err(SendError::NotConnected));
    for channel in [Channel::Sync, Channel::Discovery] {
        assert_eq!(a.network.broadcast(channel, &small), Err(SendError::NotForMessages(channel)));
    }
    let request = a.network.request(b.id(), too_long).await;
    assert_eq!(request, Err(RequestError::Size { length: limit + 1, limit: 65536 }));
    assert_eq!(a.network.request(id(9), small).await, Err(RequestError::NotConnected));
}

#[tokio::test]
async fn a_wrong_identity_is_refused_inside_the_handshake() {
    let mut a = Node::start(1).await;
    let b = Node::start(2).await;
    a.network.dial(b.addr(), Some(id(3)));
    let pick = |e| if let Event::DialFailed { error, expected, .. } = e { Some((expected, error)) } else { None };
    let (expected, error) = a.event("failure", pick).await;
    assert_eq!(expected, Some(id(3)));
    assert_eq!(error, HandshakeError::WrongIdentity { expected: id(3), found: id(2) });
    assert_eq!(a.network.peer_count() + b.network.peer_count(), 0);
    a.network.dial(b.addr(), Some(id(2)));
    a.connected(id(2)).await;
}

#[tokio::test]
async fn another_chain_is_refused_with_the_reason_on_both_sides() {
    let other = NetworkId { chain_id: ChainId(1), ..NETWORK };
    let mut a = Node::with(1, |c| c.network_id = other).await;
    let mut b = Node::start(2).await;
    a.dial(&b);
    let error = a.event("failure", |e| if let Event::DialFailed { error, .. } = e { Some(error) } else { None }).await;
    assert_eq!(error, HandshakeError::WrongNetwork { ours: other, theirs: NETWORK });
    let pick = |e| if let Event::Refused { peer, error, .. } = e { Some((peer, error)) } else { None };
    let (peer, error) = b.event("refusal", pick).await;
    assert_eq!(peer, Some(id(1)));
    assert_eq!(error, HandshakeError::WrongNetwork { ours: NETWORK, theirs: other });
    assert_eq!(a.network.peer_count() + b.network.peer_count(), 0);
}

#[tokio::test]
async fn versions_are_negotiated_and_without_a_common_one_there_is_no_connection() {
    let mut a = Node::with(1, |c| c.versions = vec![ProtocolVersion(4), ProtocolVersion(3)]).await;
    let mut b = Node::with(2, |c| c.versions = vec![ProtocolVersion(3), ProtocolVersion(2)]).await;
    let c = Node::start(3).await;
    a.dial(&b);
    assert_eq!(a.connected(id(2)).await.version, ProtocolVersion(3));
    assert_eq!(b.connected(id(1)).await.version, ProtocolVersion(3));
    a.dial(&c);
    let error = a.event("failure", |e| if let Event::DialFailed { error, .. } = e { Some(error) } else { None }).await;
    assert_eq!(error, HandshakeError::Version);
}

#[tokio::test]
async fn a_node_does_not_connect_to_itself() {
    let mut a = Node::start(1).await;
    a.dial(&a);
    let pick = |e| if let Event::Refused { error, .. } = e { Some(error) } else { None };
    let error = a.event("refusal", pick).await;
    assert!(matches!(error, HandshakeError::Ourselves | HandshakeError::Refused(CloseCode::Ourselves)), "{error}");
    assert_eq!(a.network.peer_count(), 0);
}

#[tokio::test]
async fn a_peer_that_restarts_on_its_port_is_found_again() {
    let (mut a, mut b) = pair().await;
    let port = b.addr().port();
    for n in 0..3 {
        b.network.shutdown().await;
        assert_eq!(a.disconnected(id(2)).await, DisconnectReason::Closed(CloseCode::Shutdown));
        b = Node::with(2, |c| c.listen.set_port(port)).await;
        a.connected(id(2)).await;
        b.connected(id(1)).await;
        a.network.broadcast(Channel::Consensus, &numbered(n, 10)).unwrap();
        assert_eq!(number(&next(&mut b.rx.consensus).await.payload), n);
    }
}

#[tokio::test]
async fn a_peer_that_comes_back_before_it_was_missed_replaces_its_past() {
    let mut a = Node::start(1).await;
    let first = Raw::peer(a.addr(), 5).await;
    a.connected(id(5)).await;
    let mut restarted = raw::hello();
    restarted.instance = 2;
    let (_second, _) = Raw::greet(a.addr(), 5, &restarted.to_bytes()).await.unwrap();
    assert_eq!(a.disconnected(id(5)).await, DisconnectReason::Restarted);
    a.connected(id(5)).await;
    assert_eq!(first.close_code().await, CloseCode::Superseded.code());
    assert_eq!(a.network.peer_count(), 1);
}

#[tokio::test]
async fn of_two_connections_by_one_dialler_the_later_dial_is_kept() {
    let mut a = Node::start(1).await;
    let dial = |dial| {
        let mut hello = raw::hello();
        hello.dial = dial;
        let addr = a.addr();
        async move { Raw::greet(addr, 5, &hello.to_bytes()).await }
    };
    let (second, _) = dial(2).await.unwrap();
    let refused = dial(1).await.err().expect("an earlier dial loses");
    assert_eq!(code_of(&refused), CloseCode::Duplicate.code());
    let (third, _) = dial(3).await.unwrap();
    // What is on its way on the connection that loses still arrives.
    let closed = timeout(Duration::from_millis(50), second.connection.closed()).await;
    assert!(closed.is_err(), "it drains first");
    let _late = second.stream(&[0, 3, 0, 0, 0, 7, 7, 7]).await;
    assert_eq!(&next(&mut a.rx.consensus).await.payload[..], [7, 7, 7]);
    assert_eq!(second.close_code().await, CloseCode::Duplicate.code());
    let _stream = third.stream(&[0, 1, 0, 0, 0, 8]).await;
    assert_eq!(&next(&mut a.rx.consensus).await.payload[..], [8]);
    a.connected(id(5)).await;
    assert_eq!(a.network.peer_count(), 1);
    assert_eq!(a.metric("peers_count", &[]), 1);
}

#[tokio::test]
async fn nodes_that_dial_each_other_keep_one_connection_and_lose_no_message() {
    for _ in 0..5 {
        let mut a = Node::start(1).await;
        let mut b = Node::start(2).await;
        a.dial(&b);
        b.dial(&a);
        a.connected(id(2)).await;
        a.network.send(id(2), Channel::Consensus, numbered(1, 50)).unwrap();
        b.connected(id(1)).await;
        b.network.send(id(1), Channel::Consensus, numbered(2, 50)).unwrap();
        assert_eq!(number(&next(&mut a.rx.consensus).await.payload), 2);
        assert_eq!(number(&next(&mut b.rx.consensus).await.payload), 1);
        let sides = [&a, &b].map(|n| n.network.peers().into_iter().map(|p| p.node).collect::<Vec<_>>());
        assert_eq!(sides, [vec![id(2)], vec![id(1)]]);
        tokio::join!(a.network.shutdown(), b.network.shutdown());
        let gone = |e: &Event| matches!(e, Event::Disconnected { .. });
        for node in [&mut a, &mut b] {
            let mut ends = 0;
            while let Some(event) = node.rx.events.recv().await {
                ends += usize::from(gone(&event));
            }
            assert_eq!(ends, 1, "one session, whatever became of its connections");
        }
    }
}

#[tokio::test]
async fn shutdown_ends_everything_and_releases_the_port() {
    let (mut a, mut b) = pair().await;
    let asking = b.network.clone();
    let response = tokio::spawn(async move { asking.request(id(1), Bytes::from_static(b"?")).await });
    let request = timeout(LIMIT, a.rx.requests.recv()).await.unwrap().unwrap();
    let addr = a.addr();
    timeout(Duration::from_secs(5), a.network.shutdown()).await.expect("shutdown hangs");
    std::net::UdpSocket::bind(addr).expect("the port is free");
    assert_eq!(b.disconnected(id(1)).await, DisconnectReason::Closed(CloseCode::Shutdown));
    let lost = DisconnectReason::Closed(CloseCode::Shutdown);
    assert_eq!(response.await.unwrap(), Err(RequestError::Lost(lost)));
    assert!(!request.reply.is_wanted());
    assert_eq!(a.disconnected(id(2)).await, DisconnectReason::Shutdown);
    assert!(a.rx.events.recv().await.is_none());
    assert!(a.rx.consensus.recv().await.is_none());
    assert!(a.rx.mempool.recv().await.is_none());
    assert!(a.rx.data.recv().await.is_none());
    assert!(a.rx.requests.recv().await.is_none());
    assert_eq!(a.network.broadcast(Channel::Data, &Bytes::from_static(b"x")), Ok(0));
    a.network.shutdown().await;
}

#[tokio::test]
async fn dropping_the_last_handle_stops_the_network() {
    let (a, mut b) = pair().await;
    drop(a.network);
    assert_eq!(b.disconnected(id(1)).await, DisconnectReason::Closed(CloseCode::Shutdown));
}

#[tokio::test]
async fn a_port_in_use_and_a_bad_configuration_are_errors_of_start() {
    let a = Node::start(1).await;
    let start = |change: fn(&mut cascade_network::NetworkConfig), addr| async move {
        let mut config = crate::helpers::config();
        config.listen = addr;
        change(&mut config);
        let metrics = prometheus::Registry::new();
        cascade_network::Network::start(config, crate::helpers::identity(2), &metrics).await.unwrap_err().to_string()
    };
    let error = start(|_| {}, a.addr()).await;
    assert!(error.contains(&a.addr().to_string()) && error.contains("in use"), "{error}");
    let error = start(|c| c.max_peers = 0, a.addr()).await;
    assert!(error.contains("max_peers"), "{error}");
}

#[tokio::test]
async fn a_socket_for_both_families_reaches_ipv4() {
    let both = |c: &mut cascade_network::NetworkConfig| c.listen = "[::]:0".parse().unwrap();
    if std::net::UdpSocket::bind("[::]:0").is_err() {
        eprintln!("this system has no IPv6");
        return;
    }
    let mut a = Node::with(1, both).await;
    let mut b = Node::start(2).await;
    let mut c = Node::start(3).await;
    a.dial(&b);
    assert!(a.connected(id(2)).await.address.is_ipv4());
    b.connected(id(1)).await;
    c.network.dial(([127, 0, 0, 1], a.addr().port()).into(), Some(id(1)));
    c.connected(id(1)).await;
    assert!(a.connected(id(3)).await.address.is_ipv4());
}

#[tokio::test]
async fn a_silent_peer_is_dropped_after_the_idle_timeout_and_a_quiet_one_is_not() {
    let quick = |c: &mut cascade_network::NetworkConfig| {
        c.keep_alive = Duration::from_millis(100);
        c.idle_timeout = Duration::from_millis(600);
    };
    let (mut a, b) = pair_with(quick, quick).await;
    let raw = Raw::peer(a.addr(), 5).await;
    a.connected(id(5)).await;
    // Its packets stop, as if a cable was pulled.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    raw.rebind(silent);
    assert_eq!(a.disconnected(id(5)).await, DisconnectReason::TimedOut);
    assert!(a.network.is_connected(b.id()) && b.network.is_connected(a.id()));
}
