//! Attacks below the protocol: packets that were sent before, and certificates of others.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cascade_network::{Channel, Event};
use cascade_primitives::Encode as _;
use tokio::time::timeout;

use crate::{
    helpers::{LIMIT, Node, id, next, number, numbered},
    raw::{self, Raw},
};

/// Sits between a client and a node, passes datagrams on, and keeps those of the client.
struct Tap {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    to_node: UdpSocket,
    stop: Arc<AtomicBool>,
}

impl Tap {
    fn before(node: SocketAddr) -> Self {
        let (outside, to_node) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        to_node.connect(node).unwrap();
        for socket in [&outside, &to_node] {
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        }
        let address = outside.local_addr().unwrap();
        let (heard, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let client = Arc::new(Mutex::new(None));
        {
            let (heard, stop, client) = (heard.clone(), stop.clone(), client.clone());
            let (outside, to_node) = (outside.try_clone().unwrap(), to_node.try_clone().unwrap());
            std::thread::spawn(move || {
                let mut buffer = [0; 65_536];
                while !stop.load(Ordering::Relaxed) {
                    let Ok((length, from)) = outside.recv_from(&mut buffer) else { continue };
                    *client.lock().unwrap() = Some(from);
                    heard.lock().unwrap().push(buffer[..length].to_vec());
                    let _ = to_node.send(&buffer[..length]);
                }
            });
        }
        {
            let (stop, to_node) = (stop.clone(), to_node.try_clone().unwrap());
            std::thread::spawn(move || {
                let mut buffer = [0; 65_536];
                while !stop.load(Ordering::Relaxed) {
                    let Ok(length) = to_node.recv(&mut buffer) else { continue };
                    if let Some(client) = *client.lock().unwrap() {
                        let _ = outside.send_to(&buffer[..length], client);
                    }
                }
            });
        }
        Self { address, heard, to_node, stop }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn packets_that_are_sent_again_make_no_connection_and_no_message() {
    let mut a = Node::start(1).await;
    let mut good = Node::start(2).await;
    good.dial(&a);
    a.connected(id(2)).await;
    good.connected(id(1)).await;
    let tap = Tap::before(a.addr());
    let raw = Raw::peer(tap.address, 5).await;
    a.connected(id(5)).await;
    let _stream = raw.stream(&[&[0, 4, 0, 0, 0][..], &7_u32.to_le_bytes()].concat()).await;
    assert_eq!(number(&next(&mut a.rx.consensus).await.payload), 7);
    let while_alive = tap.heard.lock().unwrap().clone();
    // Once while the connection lives, from its own address and from another; once after its end.
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    for packet in &while_alive {
        tap.to_node.send(packet).unwrap();
        stranger.send_to(packet, a.addr()).unwrap();
    }
    raw.connection.close(0_u32.into(), &[]);
    a.disconnected(id(5)).await;
    let all = tap.heard.lock().unwrap().clone();
    assert!(all.len() >= 4, "a handshake and a message take some packets");
    for packet in all.iter().chain(&all) {
        tap.to_node.send(packet).unwrap();
        stranger.send_to(packet, a.addr()).unwrap();
    }
    // What comes after all that on another connection is the next thing that the node sees.
    good.network.broadcast(Channel::Consensus, &numbered(8, 100)).unwrap();
    let message = next(&mut a.rx.consensus).await;
    assert_eq!((message.peer, number(&message.payload)), (id(2), 8));
    assert!(!a.network.is_connected(id(5)), "a replayed handshake is no handshake");
    assert_eq!(a.metric("connections_total", &["inbound"]), 2);
    assert!(a.network.is_connected(id(2)));
    assert_eq!(a.metric("bans_total", &[]), 0, "nobody is blamed for what others send again");
    // Attempts that the replays began end by themselves.
    let ended = async {
        while a.metric("half_open_count", &[]) > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, ended).await.expect("replayed handshakes go away");
}

#[tokio::test]
async fn a_certificate_without_its_key_is_refused_and_its_owner_stays() {
    let mut a = Node::start(1).await;
    let mut good = Node::start(2).await;
    good.dial(&a);
    a.connected(id(2)).await;
    good.connected(id(1)).await;
    for _ in 0..20 {
        match Raw::impersonate(a.addr(), 2, 6).await {
            Err(_) => {}
            // In TLS 1.3 the client is done before the server has looked at its certificate.
            Ok(thief) => {
                let said = thief.say(&raw::hello().to_bytes()).await;
                assert!(said.is_err(), "the node talks with a thief");
            }
        }
    }
    good.network.broadcast(Channel::Consensus, &numbered(1, 100)).unwrap();
    let message = next(&mut a.rx.consensus).await;
    assert_eq!((message.peer, number(&message.payload)), (id(2), 1));
    assert_eq!(a.network.banned_for(id(2)), None, "the owner is not blamed");
    assert_eq!(a.network.peer_count(), 1);
    assert_eq!(a.metric("connections_total", &[]), 1);
    while let Ok(event) = a.rx.events.try_recv() {
        assert!(!matches!(event, Event::Connected(_) | Event::Disconnected { .. }), "{event:?}");
    }
}
