//! What all peers together make a node hold has one budget, and when it is used up the largest holders go.

use bytes::Bytes;
use cascade_network::{Channel, DisconnectReason, Event, NetworkConfig};
use cascade_primitives::NodeId;
use tokio::time::timeout;

use crate::{
    helpers::{LIMIT, Node, id, next, number, numbered},
    raw::Raw,
};

const MIB: usize = 1 << 20;
const BUDGET: usize = 8 * MIB;
/// Hostile peers; each holds at least 1.5 MiB, so they would hold three times the budget.
const HOSTILE: u8 = 16;

fn victim(config: &mut NetworkConfig) {
    config.buffer_bytes = BUDGET;
    config.max_response = 2 * MIB;
    (config.max_peers, config.target_peers) = (40, 40);
    for channel in [Channel::Consensus, Channel::Data, Channel::Mempool] {
        let limits = config.limits.of_mut(channel);
        (limits.max_message, limits.queue_bytes, limits.inbox_bytes) = (2 * MIB, 2 * MIB, 4 * MIB);
    }
}

/// A node with the small budget and an honest peer, number 2, who has no reserved place.
async fn besieged() -> (Node, Node) {
    let mut victim = Node::with(1, victim).await;
    let mut friend = Node::start(2).await;
    friend.dial(&victim);
    friend.connected(id(1)).await;
    victim.connected(id(2)).await;
    (victim, friend)
}

/// All of a large message on two channels but the last byte of each.
async fn stall(victim: &Node, seed: u8) -> (Raw, Vec<quinn::SendStream>) {
    let raw = Raw::peer(victim.addr(), seed).await;
    let length = 3 * MIB / 4;
    let mut open = Vec::new();
    for channel in [0, 2] {
        let bytes = [&[channel][..], &u32::try_from(length).unwrap().to_le_bytes(), &vec![1; length - 1]].concat();
        open.push(timeout(LIMIT, raw.stream(&bytes)).await.expect("a reader that waits goes on after an eviction"));
    }
    (raw, open)
}

/// Waits until `count` peers were evicted, and answers who.
async fn evicted(victim: &mut Node, count: usize) -> Vec<NodeId> {
    let mut gone = Vec::new();
    while gone.len() < count {
        let pick = |event| match event {
            Event::Disconnected { peer, reason: DisconnectReason::Evicted } => Some(peer),
            _ => None,
        };
        gone.push(victim.event("eviction", pick).await);
    }
    gone
}

/// Messages in both directions, and a request.
async fn still_friends(victim: &mut Node, friend: &mut Node) {
    friend.network.send(id(1), Channel::Consensus, numbered(7, 1000)).unwrap();
    let message = loop {
        let message = next(&mut victim.rx.consensus).await;
        if message.peer == id(2) {
            break message;
        }
    };
    assert_eq!(number(&message.payload), 7);
    victim.network.send(id(2), Channel::Data, numbered(8, 1000)).unwrap();
    assert_eq!(number(&next(&mut friend.rx.data).await.payload), 8);
}

/// The gauge follows at most a second behind.
async fn fits_the_budget(victim: &Node) {
    let fits = async {
        while victim.metric("buffered_bytes", &[]) as usize > BUDGET {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, fits).await.expect("what is held goes under the budget");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_never_finish_their_messages_go_and_others_notice_nothing() {
    let (mut victim, mut friend) = besieged().await;
    let mut hostile = Vec::new();
    for seed in 10..10 + HOSTILE {
        hostile.push(stall(&victim, seed).await);
    }
    let room = BUDGET / (3 * MIB / 2);
    let gone = evicted(&mut victim, usize::from(HOSTILE) - room).await;
    assert!(!gone.contains(&id(2)), "an honest peer holds less than any of them");
    fits_the_budget(&victim).await;
    still_friends(&mut victim, &mut friend).await;
    // Nobody is banned for it.
    assert!(gone.iter().all(|node| victim.network.banned_for(*node).is_none()));
    drop(hostile);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reserved_peer_goes_last() {
    let (mut victim, mut friend) = besieged().await;
    victim.network.set_reserved([id(2), id(3), id(4)]);
    // Together they hold much, but less than the budget.
    let members = [stall(&victim, 3).await, stall(&victim, 4).await];
    let mut hostile = Vec::new();
    for seed in 10..10 + HOSTILE {
        hostile.push(stall(&victim, seed).await);
    }
    let room = BUDGET / (3 * MIB / 2) - members.len();
    let gone = evicted(&mut victim, usize::from(HOSTILE) - room).await;
    assert!(!gone.contains(&id(2)) && !gone.contains(&id(3)) && !gone.contains(&id(4)), "{gone:?}");
    fits_the_budget(&victim).await;
    still_friends(&mut victim, &mut friend).await;
    assert!(victim.network.is_connected(id(3)) && victim.network.is_connected(id(4)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_do_not_read_go_but_a_broadcast_is_counted_once() {
    let (mut victim, mut friend) = besieged().await;
    let mut sleepers = Vec::new();
    for seed in 10..10 + HOSTILE {
        sleepers.push(Raw::slow_peer(victim.addr(), seed, 1024).await);
        victim.connected(id(seed)).await;
    }
    // QUIC holds one of them, and the queue of the peer the other. By themselves 16 * 2 MiB would not fit.
    for _ in 0..4 {
        victim.network.broadcast(Channel::Consensus, &numbered(1, MIB)).unwrap();
        assert_eq!(number(&next(&mut friend.rx.consensus).await.payload), 1);
    }
    assert_eq!((victim.network.peer_count(), victim.metric("heavy_peers_total", &[])), (usize::from(HOSTILE) + 1, 0));
    // Messages for one peer alone are memory of their own.
    for seed in 10..10 + HOSTILE {
        for channel in [Channel::Consensus, Channel::Data] {
            for _ in 0..6 {
                // Who is gone already cannot be sent to.
                let _ = victim.network.send(id(seed), channel, Bytes::from(vec![seed; MIB]));
            }
        }
    }
    let gone = evicted(&mut victim, 8).await;
    assert!(!gone.contains(&id(2)));
    fits_the_budget(&victim).await;
    still_friends(&mut victim, &mut friend).await;
    drop(sleepers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_ask_for_much_and_do_not_read_it_go() {
    let (mut victim, mut friend) = besieged().await;
    let (mut asking, mut peers) = (Vec::new(), Vec::new());
    for seed in 10..10 + HOSTILE {
        let raw = Raw::slow_peer(victim.addr(), seed, 1024).await;
        for _ in 0..4 {
            // A peer that is gone asks nothing more.
            let Ok((mut send, recv)) = raw.connection.open_bi().await else { break };
            let _ = send.write_all(b"all of it").await;
            let _ = send.finish();
            let answer = async {
                tokio::select! {
                    Some(request) = victim.rx.requests.recv() => {
                        request.reply.respond(Bytes::from(vec![seed; 2 * MIB - 1]));
                    }
                    _ = raw.connection.closed() => {}
                }
            };
            timeout(LIMIT, answer).await.expect("it is asked, or the peer is gone");
            asking.push(recv);
        }
        peers.push(raw);
    }
    // What QUIC took into its window is not counted, so a part of them may stay.
    let gone = evicted(&mut victim, 4).await;
    assert!(!gone.contains(&id(2)));
    fits_the_budget(&victim).await;
    still_friends(&mut victim, &mut friend).await;
}
