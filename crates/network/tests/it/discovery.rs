//! Nodes find each other through announcements.

use std::{collections::BTreeSet, time::Duration};

use cascade_network::{
    Claims, CloseCode, DisconnectReason, Event, Misbehaviour,
    announce::{Announcement, AnnouncementBody},
    discovery::DiscoveryMessage,
};
use cascade_primitives::{Encode, NodeId, TimestampMs, codec::encode_byte_string};

use crate::{
    helpers::{NETWORK, Node, id, identity},
    raw::Raw,
};

async fn connected_to_all(node: &mut Node, others: impl IntoIterator<Item = NodeId>) {
    let mut missing: BTreeSet<NodeId> = others.into_iter().collect();
    let pick = |event| {
        if let Event::Connected(info) = event {
            missing.remove(&info.node);
        }
        missing.is_empty().then_some(())
    };
    node.event("connections to all", pick).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_with_one_address_finds_all() {
    let mut nodes = vec![Node::start(1).await];
    let first = nodes[0].addr();
    for seed in 2..=5 {
        nodes.push(Node::with(seed, |c| c.bootstrap = vec![first]).await);
    }
    for node in &mut nodes {
        let me = node.id();
        connected_to_all(node, (1..=5).map(id).filter(|other| *other != me)).await;
    }
    let via = nodes[3].addr();
    let mut newcomer = Node::with(6, |c| {
        c.bootstrap = vec![via];
        c.announce = None;
    })
    .await;
    connected_to_all(&mut newcomer, (1..=5).map(id)).await;
    let known: BTreeSet<NodeId> = newcomer.network.announcements().iter().map(|a| a.body.node).collect();
    assert_eq!(known, (1..=5).map(id).collect());
}

#[tokio::test]
async fn what_a_node_claims_reaches_nodes_that_it_is_not_connected_to() {
    // The middle one has the only connections: the outer ones dial nobody that they hear of.
    let mut middle = Node::start(1).await;
    let addr = middle.addr();
    let lone = |c: &mut cascade_network::NetworkConfig| {
        c.target_peers = 0;
        c.bootstrap = vec![addr];
    };
    let mut left = Node::with(2, lone).await;
    let right = Node::with(3, lone).await;
    connected_to_all(&mut middle, [id(2), id(3)]).await;
    right.network.announce(Claims { hat: 88, stake: 1234, l1_height: 5, ..Claims::FOLLOWER });
    let pick = |event| match event {
        Event::Found(found) if found.body.node == id(3) && found.body.claims.stake == 1234 => Some(found),
        _ => None,
    };
    let found = left.event("announcement", pick).await;
    assert_eq!(found.verify(), Ok(()));
    assert_eq!(found.body.endpoints[0].addr(), right.addr());
    assert!(!left.network.is_connected(id(3)));
    // A reserved node is dialled although there are peers enough.
    left.network.set_reserved([id(3)]);
    assert!(left.connected(id(3)).await.reserved);
}

fn message(announcement: Announcement) -> Vec<u8> {
    let mut framed = vec![4];
    encode_byte_string(&DiscoveryMessage::Announcements(vec![announcement]).to_bytes(), &mut framed);
    framed
}

fn forged(tamper: bool) -> Announcement {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let issued_at = TimestampMs(u64::try_from(now.as_millis()).unwrap());
    let body = AnnouncementBody {
        network: NETWORK,
        node: id(8),
        endpoints: vec![],
        issued_at,
        expires_at: issued_at.plus(Duration::from_secs(60).as_millis().try_into().unwrap()),
        claims: Claims::FOLLOWER,
    };
    let mut announcement = body.sign(&identity(8));
    announcement.body.claims.hat += u8::from(tamper);
    announcement
}

#[tokio::test]
async fn a_forged_announcement_bans_whoever_brings_it_and_a_true_one_by_a_stranger_does_not() {
    let mut a = Node::start(1).await;
    let honest = Raw::peer(a.addr(), 5).await;
    let _stream = honest.stream(&message(forged(false))).await;
    let pick = |e| if let Event::Found(found) = e { Some(found.body.node) } else { None };
    assert_eq!(a.event("announcement", pick).await, id(8));
    let liar = Raw::peer(a.addr(), 6).await;
    let mut lie = forged(true);
    // Later than the one that is known, or nobody would look at it.
    lie.body.issued_at = lie.body.issued_at.plus(2000);
    let _stream = liar.stream(&message(lie)).await;
    assert_eq!(a.disconnected(id(6)).await, DisconnectReason::Banned(Misbehaviour::InvalidSignature));
    assert!(a.network.is_connected(id(5)));
    assert_eq!(liar.close_code().await, CloseCode::Banned.code());
}
