//! Peers that break the protocol are cut off and banned, and nobody else notices.

use std::time::Duration;

use bytes::Bytes;
use cascade_network::{
    Channel, CloseCode, DisconnectReason, Event, HandshakeError, Misbehaviour, NetworkConfig, RequestError,
};
use cascade_primitives::Encode;
use quinn::ConnectionError;

use crate::{
    helpers::{Node, id, next, number, numbered, pair_with},
    raw::{self, Raw, code_of},
};

const BANNED: u64 = 4;

/// Sends these streams to a node that has another peer, and checks that only the sender is thrown out.
async fn is_banned_for(streams: &[&[u8]], misbehaviour: Misbehaviour) {
    let mut a = Node::start(1).await;
    let mut good = Node::start(2).await;
    good.dial(&a);
    good.connected(id(1)).await;
    a.connected(id(2)).await;
    let raw = Raw::peer(a.addr(), 5).await;
    a.connected(id(5)).await;
    let mut open = Vec::new();
    for bytes in streams {
        open.push(raw.stream(bytes).await);
    }
    assert_eq!(a.disconnected(id(5)).await, DisconnectReason::Banned(misbehaviour));
    assert_eq!(raw.close_code().await, BANNED);
    assert!(a.network.banned_for(id(5)).is_some());
    let again = Raw::greet(a.addr(), 5, &raw::hello().to_bytes()).await.err().expect("a ban lasts");
    assert_eq!(code_of(&again), BANNED);
    good.network.broadcast(Channel::Consensus, &numbered(1, 100)).unwrap();
    assert_eq!(number(&next(&mut a.rx.consensus).await.payload), 1);
    assert!(a.network.is_connected(id(2)));
}

#[tokio::test]
async fn an_oversized_frame_bans() {
    let length = (16_u32 << 20) + 1;
    is_banned_for(&[&[&[0][..], &length.to_le_bytes()].concat()], Misbehaviour::Oversized).await;
}

#[tokio::test]
async fn an_empty_frame_bans() {
    is_banned_for(&[&[1, 0, 0, 0, 0]], Misbehaviour::EmptyFrame).await;
}

#[tokio::test]
async fn an_unknown_channel_bans() {
    is_banned_for(&[&[99]], Misbehaviour::WrongChannel).await;
}

#[tokio::test]
async fn a_stream_on_the_sync_channel_bans() {
    is_banned_for(&[&[Channel::Sync.id()]], Misbehaviour::WrongChannel).await;
}

#[tokio::test]
async fn a_second_stream_of_a_channel_bans() {
    is_banned_for(&[&[2], &[2]], Misbehaviour::TooManyStreams).await;
}

#[tokio::test]
async fn an_undecodable_discovery_message_bans() {
    is_banned_for(&[&[4, 1, 0, 0, 0, 77]], Misbehaviour::Undecodable).await;
}

#[tokio::test]
async fn an_oversized_request_bans() {
    let mut a = Node::start(1).await;
    let raw = Raw::peer(a.addr(), 5).await;
    a.connected(id(5)).await;
    let (mut send, _recv) = raw.connection.open_bi().await.unwrap();
    let _ = send.write_all(&vec![1; 65537]).await;
    assert_eq!(a.disconnected(id(5)).await, DisconnectReason::Banned(Misbehaviour::Oversized));
}

#[tokio::test]
async fn quic_gives_no_more_streams_than_channels() {
    let mut a = Node::start(1).await;
    let raw = Raw::peer(a.addr(), 5).await;
    a.connected(id(5)).await;
    let mut open = Vec::new();
    for id in [0, 1, 2, 4] {
        // For discovery, 1 is a valid message.
        open.push(raw.stream(&[id, 1, 0, 0, 0, 1]).await);
    }
    assert_eq!(&next(&mut a.rx.data).await.payload[..], [1]);
    let fifth = tokio::time::timeout(Duration::from_millis(100), raw.connection.open_uni()).await;
    assert!(fifth.is_err(), "the fifth stream waits");
}

#[tokio::test]
async fn a_ban_ends() {
    let short = |c: &mut NetworkConfig| c.ban_time = Duration::from_millis(300);
    let (mut a, mut b) = pair_with(|_| {}, short).await;
    b.network.report(id(1), Misbehaviour::InvalidSignature);
    assert_eq!(b.disconnected(id(1)).await, DisconnectReason::Banned(Misbehaviour::InvalidSignature));
    assert_eq!(a.disconnected(id(2)).await, DisconnectReason::Closed(CloseCode::Banned));
    assert!(b.network.banned_for(id(1)).is_some());
    a.connected(id(2)).await;
    b.connected(id(1)).await;
    assert_eq!(b.network.banned_for(id(1)), None);
}

#[tokio::test]
async fn light_misbehaviour_adds_up_and_can_be_forgiven() {
    let (a, mut b) = pair_with(|_| {}, |_| {}).await;
    for _ in 0..3 {
        b.network.report(id(1), Misbehaviour::InvalidContent);
    }
    assert!(b.network.is_connected(id(1)));
    b.network.report(id(1), Misbehaviour::InvalidContent);
    b.network.report(id(1), Misbehaviour::InvalidContent);
    assert_eq!(b.disconnected(id(1)).await, DisconnectReason::Banned(Misbehaviour::InvalidContent));
    assert_eq!(b.metric("bans_total", &["invalid_content"]), 1);
    b.network.forgive(id(1));
    b.connected(id(1)).await;
    drop(a);
}

#[tokio::test]
async fn nobody_dials_whom_it_banned() {
    let (mut a, b) = pair_with(|_| {}, |_| {}).await;
    a.network.report(id(2), Misbehaviour::Undecodable);
    a.disconnected(id(2)).await;
    a.network.dial(b.addr(), Some(id(2)));
    let pick = |e| if let Event::DialFailed { error, .. } = e { Some(error) } else { None };
    assert_eq!(a.event("failure", pick).await, HandshakeError::Banned);
}

#[tokio::test]
async fn bad_hellos_and_strangers_without_a_certificate_are_turned_away() {
    let mut a = Node::start(1).await;
    let mut long = raw::hello();
    long.agent = "x".repeat(129);
    let mut ugly = raw::hello();
    ugly.agent = "\u{7}".to_owned();
    for hello in [b"no hello".to_vec(), long.to_bytes(), ugly.to_bytes(), vec![0; 513], Vec::new()] {
        let error = Raw::greet(a.addr(), 5, &hello).await.err().expect("not a hello");
        assert_eq!(code_of(&error), CloseCode::BadHello.code());
        let pick = |e| if let Event::Refused { error, .. } = e { Some(error) } else { None };
        let error = a.event("refusal", pick).await;
        assert!(matches!(error, HandshakeError::Hello(_)), "{error}");
    }
    let stranger = match Raw::connect(a.addr(), None, b"cascade/2").await {
        Ok(raw) => raw.closed().await,
        Err(error) => error,
    };
    assert!(matches!(stranger, ConnectionError::ConnectionClosed(_)), "{stranger}");
    let other = Raw::connect(a.addr(), Some(5), b"h3").await.err().expect("another protocol");
    assert!(matches!(other, ConnectionError::ConnectionClosed(_)), "{other}");
    assert_eq!(a.network.peer_count(), 0);
}

#[tokio::test]
async fn a_handshake_that_stalls_ends() {
    let mut a = Node::with(1, |c| c.handshake_timeout = Duration::from_millis(200)).await;
    let raw = Raw::connect(a.addr(), Some(5), b"cascade/2").await.unwrap();
    let pick = |e| if let Event::Refused { error, .. } = e { Some(error) } else { None };
    let error = a.event("refusal", pick).await;
    assert_eq!(error, HandshakeError::Timeout(Duration::from_millis(200)));
    raw.closed().await;
    assert_eq!(a.metric("half_open_count", &[]), 0);
}

#[tokio::test]
async fn an_oversized_or_malformed_response_is_an_error_and_then_a_ban() {
    let mut a = Node::with(1, |c| c.max_response = 1000).await;
    let raw = Raw::peer(a.addr(), 5).await;
    a.connected(id(5)).await;
    let answers = [vec![0; 1002], vec![9; 5], Vec::new()];
    let expected =
        [RequestError::ResponseTooLarge { limit: 1000 }, RequestError::Malformed, RequestError::NotConnected];
    for (answer, expected) in answers.into_iter().zip(expected) {
        let serve = async {
            let Ok((mut send, mut recv)) = raw.connection.accept_bi().await else { return };
            recv.read_to_end(100).await.unwrap();
            let _ = send.write_all(&answer).await;
            let _ = send.finish();
            let _ = send.stopped().await;
        };
        let (response, ()) = tokio::join!(a.network.request(id(5), Bytes::from_static(b"?")), serve);
        assert_eq!(response, Err(expected));
    }
    assert_eq!(a.disconnected(id(5)).await, DisconnectReason::Banned(Misbehaviour::BadResponse));
}
