//! Queues, rates, requests and places are bounded, and each bound does what it says.

use std::time::{Duration, Instant};

use bytes::Bytes;
use cascade_network::{
    Channel, CloseCode, DisconnectReason, Event, HandshakeError, NetworkConfig, RequestError, SendError,
};
use cascade_primitives::Encode;
use tokio::time::timeout;

use crate::{
    helpers::{LIMIT, Node, id, next, number, numbered, pair_with},
    raw::{self, Raw, code_of, read_message},
};

const LENGTH: usize = 16 * 1024;

/// Fills the queue of a channel behind a message that the peer does not read, and returns the numbers that arrive.
async fn overflow(channel: Channel) -> (Node, Vec<u32>, Vec<Result<(), SendError>>) {
    let mut a = Node::with(1, |c| c.limits.of_mut(channel).queue_messages = 4).await;
    let raw = Raw::slow_peer(a.addr(), 5, 1024).await;
    a.connected(id(5)).await;
    a.network.send(id(5), channel, numbered(0, LENGTH)).unwrap();
    let mut stream = loop {
        let (id, stream) = raw.accept().await;
        if id == channel.id() {
            break stream;
        }
    };
    // Once its first bytes are here the writer has taken message 0, and it cannot get rid of it.
    let mut prefix = [0; 4];
    timeout(LIMIT, stream.read_exact(&mut prefix)).await.unwrap().unwrap();
    let results = (1..=10).map(|n| a.network.send(id(5), channel, numbered(n, LENGTH))).collect();
    let mut rest = vec![0; LENGTH];
    stream.read_exact(&mut rest).await.unwrap();
    let mut arrived = vec![number(&rest)];
    for _ in 0..4 {
        arrived.push(number(&read_message(&mut stream).await));
    }
    a.network.send(id(5), channel, numbered(11, LENGTH)).unwrap();
    arrived.push(number(&read_message(&mut stream).await));
    (a, arrived, results)
}

#[tokio::test]
async fn full_consensus_and_data_queues_drop_the_oldest() {
    for channel in [Channel::Consensus, Channel::Data] {
        let (a, arrived, results) = overflow(channel).await;
        assert_eq!(arrived, [0, 7, 8, 9, 10, 11]);
        assert!(results.iter().all(Result::is_ok));
        assert_eq!(a.metric("dropped_messages_total", &[channel.name(), "queue"]), 6);
    }
}

#[tokio::test]
async fn a_full_mempool_queue_drops_the_newest_and_says_so() {
    let (a, arrived, results) = overflow(Channel::Mempool).await;
    assert_eq!(arrived, [0, 1, 2, 3, 4, 11]);
    assert_eq!(results[3], Ok(()));
    assert_eq!(results[4], Err(SendError::Full(Channel::Mempool)));
    assert_eq!(a.metric("dropped_messages_total", &["mempool", "queue"]), 6);
}

#[tokio::test]
async fn requests_beyond_the_limit_are_refused_and_unanswered_ones_time_out() {
    let limits = |c: &mut NetworkConfig| {
        c.limits.of_mut(Channel::Sync).queue_messages = 2;
        c.request_timeout = Duration::from_millis(300);
    };
    let (a, mut b) = pair_with(limits, |_| {}).await;
    let ask = || a.network.request(id(2), Bytes::from_static(b"?"));
    let (first, second, third) = tokio::join!(ask(), ask(), ask());
    let late = RequestError::Timeout(Duration::from_millis(300));
    assert_eq!([first, second, third], [Err(late.clone()), Err(late), Err(RequestError::Overloaded(2))]);
    let request = b.rx.requests.recv().await.unwrap();
    request.reply.respond(Bytes::from_static(b"too late"));
    b.rx.requests.recv().await.unwrap().reply.refuse();
    let (response, ()) = tokio::join!(ask(), async { b.rx.requests.recv().await.unwrap().reply.refuse() });
    assert_eq!(response, Err(RequestError::Refused));
    let (response, ()) = tokio::join!(ask(), async { drop(b.rx.requests.recv().await.unwrap()) });
    assert_eq!(response, Err(RequestError::Refused));
    assert_eq!(a.metric("requests_total", &["timeout"]), 2);
}

#[tokio::test]
async fn a_peer_is_served_a_bounded_number_of_requests_at_once() {
    let (a, mut b) = pair_with(|_| {}, |c| c.max_requests_per_peer = 2).await;
    let ask = || {
        let network = a.network.clone();
        tokio::spawn(async move { network.request(id(2), Bytes::from_static(b"?")).await })
    };
    let asked = [ask(), ask(), ask()];
    let first = b.rx.requests.recv().await.unwrap();
    let second = b.rx.requests.recv().await.unwrap();
    let third = timeout(Duration::from_millis(100), b.rx.requests.recv()).await;
    assert!(third.is_err(), "the third waits for a stream");
    first.reply.respond(Bytes::from_static(b"1"));
    let third = timeout(LIMIT, b.rx.requests.recv()).await.unwrap().unwrap();
    for request in [second, third] {
        request.reply.respond(Bytes::from_static(b"1"));
    }
    for task in asked {
        assert_eq!(timeout(LIMIT, task).await.unwrap().unwrap(), Ok(Bytes::from_static(b"1")));
    }
}

#[tokio::test]
async fn requests_that_are_given_up_still_count_until_they_are_answered() {
    let mut a = Node::with(1, |c| c.max_requests_per_peer = 2).await;
    let raw = Raw::peer(a.addr(), 5).await;
    a.connected(id(5)).await;
    let ask = || async {
        let (mut send, recv) = raw.connection.open_bi().await.unwrap();
        send.write_all(b"?").await.unwrap();
        send.finish().unwrap();
        recv
    };
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut recv = timeout(LIMIT, ask()).await.unwrap();
        held.push(timeout(LIMIT, a.rx.requests.recv()).await.unwrap().unwrap());
        recv.stop(0u32.into()).unwrap();
    }
    let third = async {
        ask().await;
        a.rx.requests.recv().await
    };
    assert!(timeout(Duration::from_millis(100), third).await.is_err(), "the work is not done");
    drop(held);
    ask().await;
    timeout(LIMIT, a.rx.requests.recv()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_full_inbox_of_requests_answers_busy() {
    let (a, b) = pair_with(|_| {}, |c| c.limits.of_mut(Channel::Sync).inbox_messages = 1).await;
    let network = a.network.clone();
    let first = tokio::spawn(async move { network.request(id(2), Bytes::from_static(b"1")).await });
    let full = async {
        while b.rx.requests.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, full).await.unwrap();
    assert_eq!(a.network.request(id(2), Bytes::from_static(b"2")).await, Err(RequestError::Busy));
    first.abort();
}

#[tokio::test]
async fn a_peer_above_its_rate_is_slowed_down() {
    let (a, mut b) = pair_with(|_| {}, |c| c.limits.of_mut(Channel::Mempool).messages_per_s = 200).await;
    let start = Instant::now();
    for n in 0..300 {
        a.network.broadcast(Channel::Mempool, &numbered(n, 20)).unwrap();
    }
    for n in 0..300 {
        assert_eq!(number(&next(&mut b.rx.mempool).await.payload), n);
    }
    // 200 at once, then 200 per second; waits below 2 ms are saved up.
    assert!(start.elapsed() >= Duration::from_millis(490), "{:?}", start.elapsed());
    assert!(b.metric("throttled_waits_total", &["mempool"]) > 0);
    assert!(b.network.is_connected(id(1)));
}

#[tokio::test]
async fn a_flood_that_nobody_reads_delays_no_other_channel_and_no_other_peer() {
    let small = |c: &mut NetworkConfig| {
        for channel in [Channel::Consensus, Channel::Data, Channel::Mempool] {
            c.limits.of_mut(channel).inbox_messages = 4;
        }
        c.limits.of_mut(Channel::Mempool).bytes_per_s = 1 << 20;
    };
    let (a, mut b) = pair_with(|_| {}, small).await;
    // Data is stuck behind a full inbox, the mempool behind its rate: both streams are full to the brim.
    for n in 0..60 {
        a.network.broadcast(Channel::Data, &numbered(n, 1 << 20)).unwrap();
    }
    for n in 0..30 {
        a.network.broadcast(Channel::Mempool, &numbered(n, 1 << 20)).unwrap();
    }
    assert_eq!(number(&next(&mut b.rx.mempool).await.payload), 0);
    for n in 0..100 {
        a.network.broadcast(Channel::Consensus, &numbered(n, 100_000)).unwrap();
        assert_eq!(number(&next(&mut b.rx.consensus).await.payload), n);
    }
    assert_eq!(b.rx.data.len(), 4);
    let (response, ()) = tokio::join!(a.network.request(id(2), Bytes::from_static(b"?")), async {
        b.rx.requests.recv().await.unwrap().reply.respond(numbered(1, 5_000_000));
    });
    assert_eq!(response, Ok(numbered(1, 5_000_000)));
    for n in 0..60 {
        assert_eq!(number(&next(&mut b.rx.data).await.payload), n);
    }
}

#[tokio::test]
async fn a_full_mempool_inbox_drops_and_counts() {
    let (a, b) = pair_with(|_| {}, |c| c.limits.of_mut(Channel::Mempool).inbox_messages = 10).await;
    for n in 0..100 {
        a.network.broadcast(Channel::Mempool, &numbered(n, 20)).unwrap();
    }
    a.network.broadcast(Channel::Mempool, &numbered(100, 20)).unwrap();
    let dropped = async {
        while b.metric("dropped_messages_total", &["mempool", "inbox"]) < 91 {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, dropped).await.unwrap();
    assert_eq!(b.rx.mempool.len(), 10);
    assert!(b.network.is_connected(id(1)));
}

#[tokio::test]
async fn reserved_nodes_get_a_place_from_the_youngest_other_peer() {
    let mut a = Node::with(1, |c| {
        c.max_peers = 2;
        c.target_peers = 2;
        c.announce = None;
    })
    .await;
    a.network.set_reserved([id(9)]);
    let first = Raw::peer(a.addr(), 5).await;
    a.connected(id(5)).await;
    let full = Raw::greet(a.addr(), 6, &raw::hello().to_bytes()).await.err().expect("one place is reserved");
    assert_eq!(code_of(&full), CloseCode::TooManyPeers.code());
    a.network.set_reserved([]);
    let second = Raw::peer(a.addr(), 7).await;
    a.connected(id(7)).await;
    a.network.set_reserved([id(9)]);
    let _reserved = Raw::peer(a.addr(), 9).await;
    assert_eq!(a.disconnected(id(7)).await, DisconnectReason::Evicted);
    assert!(a.connected(id(9)).await.reserved);
    assert_eq!(second.close_code().await, CloseCode::Evicted.code());
    assert!(first.connection.close_reason().is_none());
    assert_eq!(a.network.peer_count(), 2);
}

#[tokio::test]
async fn a_host_has_a_bounded_number_of_connections() {
    let mut a = Node::with(1, |c| c.max_per_host = 2).await;
    let first = Raw::peer(a.addr(), 5).await;
    let _second = Raw::peer(a.addr(), 6).await;
    a.connected(id(6)).await;
    assert!(Raw::connect(a.addr(), Some(7), b"cascade/2").await.is_err());
    assert_eq!(a.metric("incoming_refused_total", &["per_host"]), 1);
    first.connection.close(0u32.into(), &[]);
    a.disconnected(id(5)).await;
    let connected = async { while Raw::connect(a.addr(), Some(7), b"cascade/2").await.is_err() {} };
    timeout(LIMIT, connected).await.unwrap();
}

#[tokio::test]
async fn under_load_an_address_has_to_prove_itself() {
    let (_a, b) = pair_with(|_| {}, |c| c.retry_from = 0).await;
    assert_eq!(b.metric("incoming_refused_total", &["retry"]), 1);
    assert_eq!(b.metric("connections_total", &["inbound"]), 1);
}

#[tokio::test]
async fn a_node_without_places_says_so() {
    let mut b = Node::with(2, |c| {
        c.max_peers = 1;
        c.target_peers = 1;
    })
    .await;
    let _place = Raw::peer(b.addr(), 5).await;
    b.connected(id(5)).await;
    let mut a = Node::start(1).await;
    a.dial(&b);
    let pick = |e| if let Event::DialFailed { error, .. } = e { Some(error) } else { None };
    assert_eq!(a.event("failure", pick).await, HandshakeError::Refused(CloseCode::TooManyPeers));
}
