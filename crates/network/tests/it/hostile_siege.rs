//! A node under all attacks at once, in a process of its own: its memory stays within what its limits add up to, and
//! honest peers notice nothing.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cascade_network::{Channel, Network, NetworkConfig};
use cascade_primitives::Encode as _;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    helpers::{LIMIT, Node, config, id, identity, next, number, numbered},
    raw::{self, Raw},
};

const MIB: usize = 1 << 20;
/// Peers that flood, stall in the middle of messages, do not read, or open what they can.
const FLOODERS: usize = 4;
const STALLERS: usize = 4;
const SLEEPERS: usize = 4;
const OPENERS: usize = 4;
/// Connections that say nothing after TLS.
const SILENT: usize = 30;
/// Messages that an honest peer has echoed at once; again and again until the siege is over.
const ECHOES: u32 = 50;
/// Bytes that attackers get through, and offenders that are thrown out, before the siege is over.
const THROWN: usize = 240 * MIB;
const OFFENDERS: u64 = 8;
/// What the victim may grow by: far less than it would keep if it kept what is thrown at it.
const GROWTH: usize = 120 * MIB;
/// Marks the process that is besieged.
const VICTIM: &str = "CASCADE_VICTIM";

/// Small limits, so that what they add up to is small against what is thrown at them.
fn victim_config() -> NetworkConfig {
    let mut config = config();
    config.max_requests_per_peer = 2;
    config.max_half_open = 64;
    config.retry_from = 32;
    // All attackers are one host; the honest ones are others.
    config.max_per_host = FLOODERS + STALLERS + SLEEPERS + OPENERS + SILENT + 4;
    config.handshakes_per_s = 1000;
    for (channel, message, inbox) in [
        (Channel::Consensus, MIB, 16),
        (Channel::Mempool, MIB / 4, 64),
        (Channel::Data, MIB, 16),
        (Channel::Sync, 65_536, 8),
    ] {
        let limits = config.limits.of_mut(channel);
        (limits.max_message, limits.inbox_messages) = (message, inbox);
        (limits.queue_messages, limits.queue_bytes) = (64, 2 * MIB);
        limits.bytes_per_s = 32 * MIB as u64;
    }
    config.limits.of_mut(Channel::Sync).queue_messages = 2;
    config
}

/// What the victim's limits allow its peers to make it hold, all taken as full at once.
fn allowed(config: &NetworkConfig, peers: usize) -> usize {
    let streamed = |of: fn(&cascade_network::ChannelLimits) -> usize| -> usize {
        Channel::STREAMED.iter().map(|channel| of(config.limits.of(*channel))).sum()
    };
    // The windows of QUIC in both directions (the `transport` module), messages that are not whole, outgoing queues.
    let streams =
        Channel::STREAMED.len() + config.max_requests_per_peer + config.limits.of(Channel::Sync).queue_messages;
    let per_peer = 2 * streams * 2 * MIB + streamed(|l| l.max_message) + streamed(|l| l.queue_bytes);
    let inboxes = streamed(|l| l.inbox_messages.min(64) * l.max_message);
    peers * per_peer + inboxes
}

/// Echoes consensus messages of honest peers to everybody, until its stdin ends. Not a test of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it is the process that the siege below starts"]
async fn victim() {
    if std::env::var_os(VICTIM).is_none() {
        return;
    }
    let (network, mut rx) = Network::start(victim_config(), identity(1), &prometheus::Registry::new()).await.unwrap();
    println!("\nvictim at {}", network.local_addr());
    let (ended, mut end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // It ends with the test that started it, however that ends.
        let _ = std::io::stdin().read(&mut [0]);
        let _ = ended.send(());
    });
    loop {
        tokio::select! {
            message = rx.consensus.recv() => {
                let message = message.unwrap();
                if [id(2), id(3)].contains(&message.peer) {
                    // To all, so that the queues to those who do not read fill up; larger than what it answers.
                    let mut payload = message.payload.to_vec();
                    payload.resize(200_000, 0);
                    network.broadcast(Channel::Consensus, &Bytes::from(payload)).unwrap();
                }
            }
            _ = rx.mempool.recv() => {}
            // Data is never read: its inbox stays full.
            Some(_) = rx.events.recv() => {}
            Some(request) = rx.requests.recv() => request.reply.respond(request.payload),
            _ = &mut end => return,
        }
    }
}

struct Victim {
    child: Child,
    address: SocketAddr,
}

impl Victim {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["hostile_siege::victim", "--exact", "--ignored", "--nocapture"])
            .env(VICTIM, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let address =
            lines.find_map(|line| line.strip_prefix("victim at ")?.parse().ok()).expect("it says where it is");
        // Its last words have somewhere to go.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }

    /// A figure of /proc/PID/status in bytes.
    fn memory(&self, name: &str) -> usize {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_matches([':', ' ', '\t', 'k', 'B']).parse::<usize>().unwrap() * 1024
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What all attackers share.
#[derive(Clone)]
struct Siege {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    /// Bytes that the victim let through.
    written: Arc<AtomicU64>,
    /// Identities of those who are thrown out and come back.
    fresh: Arc<AtomicU8>,
    banned: Arc<AtomicU64>,
}

impl Siege {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Valid frames as fast as they are taken, on one channel.
    async fn flood(self, seed: u8) {
        let raw = Raw::peer(self.address, seed).await;
        let channel = [0, 1, 2][usize::from(seed) % 3];
        let length = if channel == 1 { MIB / 4 } else { MIB };
        let frame = [&u32::try_from(length).unwrap().to_le_bytes()[..], &vec![0xab; length]].concat();
        let mut stream = raw.stream(&[channel]).await;
        let mut sent = 0;
        while self.goes_on() {
            match timeout(Duration::from_millis(200), stream.write(&frame[sent..])).await {
                Ok(Ok(written)) => {
                    sent = (sent + written) % frame.len();
                    self.written.fetch_add(written as u64, Ordering::Relaxed);
                }
                Ok(Err(_)) => return,
                // The victim holds it back; that is what is to be seen.
                Err(_) => {}
            }
        }
    }

    /// On each channel all of a largest message but its last byte.
    async fn stall(self, seed: u8) {
        let raw = Raw::peer(self.address, seed).await;
        let mut open = Vec::new();
        for (channel, length) in [(0, MIB), (1, MIB / 4), (2, MIB), (4, 65_536)] {
            let bytes = [&[channel][..], &u32::try_from(length).unwrap().to_le_bytes(), &vec![1; length - 1]].concat();
            open.push(timeout(LIMIT, raw.stream(&bytes)).await.expect("a window is as large as a message"));
            self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        raw.connection.closed().await;
    }

    /// Reads nothing of what it is sent.
    async fn sleep(self, seed: u8) {
        let raw = Raw::slow_peer(self.address, seed, 1024).await;
        raw.connection.closed().await;
    }

    /// Opens as many streams as it may, requests that never end among them.
    async fn open(self, seed: u8) {
        let raw = Raw::peer(self.address, seed).await;
        let mut open = Vec::new();
        while self.goes_on() {
            if let Ok(Ok((mut send, recv))) = timeout(Duration::from_millis(50), raw.connection.open_bi()).await {
                let _ = send.write_all(&[1; 1000]).await;
                open.push((Some(recv), send));
            }
            if let Ok(Ok(send)) = timeout(Duration::from_millis(50), raw.connection.open_uni()).await {
                open.push((None, send));
            }
            if raw.connection.close_reason().is_some() {
                return;
            }
        }
    }

    /// Breaks the protocol, is thrown out, and comes back as somebody else.
    async fn offend(self) {
        let offences: [&[u8]; 4] = [&[0, 1, 0, 16, 0], &[1, 0, 0, 0, 0], &[99], &[4, 3, 0, 0, 0, 9, 9, 9]];
        let mut round = 0;
        while self.goes_on() {
            let seed = self.fresh.fetch_add(1, Ordering::Relaxed).max(100);
            let Ok((raw, _)) = Raw::greet(self.address, seed, &raw::hello().to_bytes()).await else { continue };
            let _stream = raw.stream(offences[round % offences.len()]).await;
            raw.closed().await;
            self.banned.fetch_add(1, Ordering::Relaxed);
            round += 1;
        }
    }

    /// Finishes TLS and says nothing, again and again.
    async fn be_silent(self, seed: u8) {
        while self.goes_on() {
            if let Ok(raw) = Raw::connect(self.address, Some(seed), b"cascade/2").await {
                raw.closed().await;
            }
        }
    }

    /// Packets that look like the beginning of a connection, and others that look like nothing: some 6000 per second, so
    /// that they cost the node's attention and not just fill the socket's buffer.
    async fn spray(self) {
        let mut pace = tokio::time::interval(Duration::from_millis(10));
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut packet = vec![0; 1200];
        let mut n = 0_u64;
        while self.goes_on() {
            n += 1;
            for (i, byte) in packet.iter_mut().enumerate() {
                *byte = (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (i % 57)) as u8;
            }
            if !n.is_multiple_of(4) {
                // A long header of QUIC version 1 with connection ids of 8 bytes.
                packet[..6].copy_from_slice(&[0xc0 | (n % 4) as u8, 0, 0, 0, 1, 8]);
            }
            let _ = socket.send_to(&packet, self.address).await;
            if n.is_multiple_of(64) {
                pace.tick().await;
            }
        }
    }
}

fn begin(siege: &Siege) -> JoinSet<()> {
    let mut attackers = JoinSet::new();
    let mut seed = 10;
    let mut next_seed = || {
        seed += 1;
        seed
    };
    (0..FLOODERS).for_each(|_| drop(attackers.spawn(siege.clone().flood(next_seed()))));
    (0..STALLERS).for_each(|_| drop(attackers.spawn(siege.clone().stall(next_seed()))));
    (0..SLEEPERS).for_each(|_| drop(attackers.spawn(siege.clone().sleep(next_seed()))));
    (0..OPENERS).for_each(|_| drop(attackers.spawn(siege.clone().open(next_seed()))));
    (0..SILENT).for_each(|_| drop(attackers.spawn(siege.clone().be_silent(next_seed()))));
    attackers.spawn(siege.clone().offend());
    attackers.spawn(siege.clone().spray());
    attackers
}

async fn honest(seed: u8, victim: SocketAddr) -> Node {
    let mut node = Node::with(seed, |c| c.listen = SocketAddr::from(([127, 0, 0, seed], 0))).await;
    node.network.dial(victim, Some(id(1)));
    node.connected(id(1)).await;
    node
}

/// Sends numbers and waits for each to come back.
async fn echo(node: &mut Node, numbers: std::ops::Range<u32>) {
    for n in numbers {
        node.network.send(id(1), Channel::Consensus, numbered(n, 500)).unwrap();
        loop {
            let message = next(&mut node.rx.consensus).await;
            assert_eq!(message.peer, id(1));
            if number(&message.payload) == n {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_under_siege_serves_honest_peers_in_bounded_memory() {
    let victim = Victim::start();
    let mut friend = honest(2, victim.address).await;
    echo(&mut friend, 0..10).await;
    let before = victim.memory("VmRSS");
    let siege = Siege {
        address: victim.address,
        stop: Arc::default(),
        written: Arc::default(),
        fresh: Arc::new(AtomicU8::new(100)),
        banned: Arc::default(),
    };
    let mut attackers = begin(&siege);
    let mut begin_at = 1000;
    let besieged = async {
        while (siege.written.load(Ordering::Relaxed) as usize) < THROWN
            || siege.banned.load(Ordering::Relaxed) < OFFENDERS
        {
            echo(&mut friend, begin_at..begin_at + ECHOES).await;
            begin_at += ECHOES;
        }
    };
    let in_time = timeout(3 * LIMIT, besieged).await;
    let (written, banned) = (siege.written.load(Ordering::Relaxed) as usize, siege.banned.load(Ordering::Relaxed));
    assert!(in_time.is_ok(), "after {} echoes only {written} bytes got through, {banned} thrown out", begin_at - 1000);
    // Somebody honest who comes in the middle of it gets in as well.
    let mut newcomer = honest(3, victim.address).await;
    echo(&mut newcomer, 1_000_000..1_000_020).await;
    let answer = friend.network.request(id(1), Bytes::from_static(b"still there?")).await;
    assert_eq!(answer, Ok(Bytes::from_static(b"still there?")));
    let (peak, banned) = (victim.memory("VmHWM"), siege.banned.load(Ordering::Relaxed));
    let written = siege.written.load(Ordering::Relaxed) as usize;
    siege.stop.store(true, Ordering::Relaxed);
    attackers.abort_all();
    while attackers.join_next().await.is_some() {}
    let peers = FLOODERS + STALLERS + SLEEPERS + OPENERS + 2;
    let allowed = allowed(&victim_config(), peers);
    println!(
        "siege: {} MiB before, peak {} MiB, {} MiB taken from attackers, {banned} offenders thrown out, {} echoes; limits \
         add up to {} MiB",
        before / MIB,
        peak / MIB,
        written / MIB,
        begin_at - 1000,
        allowed / MIB
    );
    assert!(GROWTH < allowed && GROWTH < THROWN, "the bound is one that could be broken");
    assert!(peak < before + GROWTH, "{peak} bytes, {before} before");
    assert!(friend.network.is_connected(id(1)) && newcomer.network.is_connected(id(1)));
}
