//! Connected peers: their queues and limits, which connection of a pair is kept, and who gets a place.
//!
//! A *peer* is a session with one run of a node: queues, limits, semaphores. A *link* is one QUIC connection of it.
//! Two nodes that dial each other at once make two links; the better one (see [`Rank`]) carries on with the same
//! queues, and the other drains: it sends no more and is read for [`DRAIN`] longer, so that nothing that was sent on it
//! before both sides knew is lost.
//!
//! **Places.** Reserved nodes (the committee) always get one; the youngest other peer makes room. What the reserved
//! nodes do not need, but at least a quarter of all, is open to others, and of the open places a quarter is kept for
//! peers that this node chose to dial, so that diallers alone cannot surround it.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use cascade_primitives::NodeId;
use parking_lot::Mutex;
use quinn::{Connection, VarInt};
use tokio::sync::{Semaphore, watch};

use crate::{
    addr::canonical,
    bans::BanList,
    budget::{Account, Budget, Holder, too_heavy},
    channel::Channel,
    config::{NetworkConfig, ProtocolVersion},
    error::{CloseCode, DisconnectReason, HandshakeError, Misbehaviour},
    event::{Direction, Event, EventSink, PeerInfo},
    hello::Hello,
    queue::OutQueue,
    rate::Limiter,
    transport,
};

/// How long a link that was replaced is still read.
pub(crate) const DRAIN: Duration = Duration::from_secs(1);

/// Which of two links of a pair is kept: the greater. Both sides compute the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    /// The smaller node id dialled.
    by_smaller: bool,
    /// The dialler's running number.
    dial: u64,
}

impl Rank {
    pub(crate) fn new(dialler: NodeId, listener: NodeId, dial: u64) -> Self {
        Self { by_smaller: dialler < listener, dial }
    }
}

/// One QUIC connection of a peer.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) connection: Connection,
    pub(crate) direction: Direction,
    rank: Rank,
    retired: watch::Sender<bool>,
}

impl Link {
    fn new(connection: Connection, direction: Direction, rank: Rank) -> Self {
        Self { connection, direction, rank, retired: watch::Sender::new(false) }
    }

    /// Waits until the link is replaced.
    pub(crate) async fn until_retired(&self) {
        // The sender lives in `self`, so this ends only when the value is set.
        let _ = self.retired.subscribe().wait_for(|retired| *retired).await;
    }

    pub(crate) fn is_retired(&self) -> bool {
        *self.retired.borrow()
    }

    pub(crate) fn close(&self, code: CloseCode) {
        self.connection.close(code.var_int(), &[]);
    }

    fn set_windows(&self, bytes: u64) {
        self.connection.set_send_window(bytes);
        self.connection.set_receive_window(VarInt::from_u64(bytes).unwrap_or(VarInt::MAX));
    }
}

#[derive(Debug)]
struct Links {
    current: Arc<Link>,
    draining: Option<Arc<Link>>,
}

/// A session with one run of a node.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) node: NodeId,
    instance: u64,
    agent: String,
    listen: Option<SocketAddr>,
    version: ProtocolVersion,
    pub(crate) since: Instant,
    queues: [OutQueue; 5],
    limiters: [Mutex<Limiter>; 5],
    /// What the peer makes this node hold.
    pub(crate) account: Arc<Account>,
    reserved: AtomicBool,
    /// Requests of the peer that may be served at once.
    pub(crate) serving: Arc<Semaphore>,
    /// Requests to the peer that may be in flight.
    pub(crate) asking: Semaphore,
    links: Mutex<Links>,
}

impl Peer {
    fn new(config: &NetworkConfig, budget: &Arc<Budget>, candidate: &Candidate, link: Arc<Link>) -> Self {
        let limits = &config.limits;
        let account = Account::new(budget);
        let queue = |channel: Channel| {
            let of = limits.of(channel);
            OutQueue::new(channel.overflow(), of.queue_messages, of.queue_bytes, Arc::clone(&account))
        };
        let now = Instant::now();
        let limiter = |channel: Channel| {
            let of = limits.of(channel);
            Mutex::new(Limiter::new(of.messages_per_s, of.bytes_per_s, now))
        };
        Self {
            node: candidate.node,
            instance: candidate.hello.instance,
            agent: candidate.hello.agent.clone(),
            listen: candidate.hello.listen.map(|e| e.addr()),
            version: candidate.version,
            since: now,
            queues: Channel::ALL.map(queue),
            account,
            reserved: AtomicBool::new(false),
            limiters: Channel::ALL.map(limiter),
            serving: Arc::new(Semaphore::new(config.max_requests_per_peer)),
            asking: Semaphore::new(limits.of(Channel::Sync).queue_messages.min(Semaphore::MAX_PERMITS)),
            links: Mutex::new(Links { current: link, draining: None }),
        }
    }

    /// Whether it has a reserved place.
    pub(crate) fn is_reserved(&self) -> bool {
        self.reserved.load(Ordering::Relaxed)
    }

    /// Gives it a reserved place or takes it away, and the windows that go with it.
    fn set_reserved(&self, config: &NetworkConfig, reserved: bool) {
        if self.reserved.swap(reserved, Ordering::Relaxed) != reserved {
            self.link().set_windows(transport::window(config, reserved));
        }
    }

    /// Drops what is queued for it.
    pub(crate) fn clear_queues(&self) {
        self.queues.iter().for_each(OutQueue::clear);
    }

    pub(crate) const fn queue(&self, channel: Channel) -> &OutQueue {
        &self.queues[channel.index()]
    }

    /// Counts what came in and returns how long its sender has to wait.
    pub(crate) fn charge(&self, channel: Channel, messages: u64, bytes: usize) -> Duration {
        self.limiters[channel.index()].lock().charge(Instant::now(), messages, bytes)
    }

    pub(crate) fn link(&self) -> Arc<Link> {
        Arc::clone(&self.links.lock().current)
    }

    fn info(&self, reserved: bool) -> PeerInfo {
        let link = self.link();
        PeerInfo {
            node: self.node,
            address: canonical(link.connection.remote_address()),
            listen: self.listen,
            agent: self.agent.clone(),
            version: self.version,
            direction: link.direction,
            reserved,
            connected_for: self.since.elapsed(),
            round_trip: link.connection.rtt(),
        }
    }

    fn close(&self, code: CloseCode) {
        let links = self.links.lock();
        links.current.close(code);
        if let Some(draining) = &links.draining {
            draining.close(code);
        }
    }

    /// Makes `link` the current one; the other one drains, and one that drained before is closed.
    fn replace(&self, link: Arc<Link>) {
        let mut links = self.links.lock();
        let old = std::mem::replace(&mut links.current, link);
        retire(&mut links, old);
        drop(links);
        for channel in Channel::STREAMED {
            // The old link's writer has to notice, and the new one's has to look at what is queued.
            self.queue(channel).wake();
        }
    }

    fn drain(&self, link: Arc<Link>) {
        retire(&mut self.links.lock(), link);
    }
}

fn retire(links: &mut Links, link: Arc<Link>) {
    link.retired.send_replace(true);
    if let Some(older) = links.draining.replace(link) {
        older.close(CloseCode::Duplicate);
    }
}

/// A connection that has passed TLS and hello.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) node: NodeId,
    pub(crate) version: ProtocolVersion,
    pub(crate) hello: Hello,
    pub(crate) connection: Connection,
    pub(crate) direction: Direction,
    pub(crate) rank: Rank,
}

/// What a connection that was let in belongs to.
#[derive(Debug)]
pub(crate) struct Registered {
    pub(crate) peer: Arc<Peer>,
    pub(crate) link: Arc<Link>,
    /// Whether the peer was not connected before.
    pub(crate) is_new: bool,
    /// A peer that had to go for it: an earlier run of the same node, or one without a reserved place.
    pub(crate) displaced: Option<Arc<Peer>>,
}

/// All connected peers, reserved places and bans.
#[derive(Debug)]
pub(crate) struct Registry {
    peers: HashMap<NodeId, Arc<Peer>>,
    reserved: BTreeSet<NodeId>,
    bans: BanList,
    budget: Arc<Budget>,
    max_peers: usize,
    events: Option<EventSink>,
}

impl Registry {
    pub(crate) fn new(config: &NetworkConfig, budget: Arc<Budget>, events: EventSink) -> Self {
        Self {
            peers: HashMap::new(),
            reserved: BTreeSet::new(),
            bans: BanList::new(4096, config.ban_time),
            budget,
            max_peers: config.max_peers,
            events: Some(events),
        }
    }

    pub(crate) fn get(&self, node: NodeId) -> Option<&Arc<Peer>> {
        self.peers.get(&node)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.peers.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.peers.len()
    }

    pub(crate) fn infos(&self) -> Vec<PeerInfo> {
        let mut infos: Vec<_> = self.peers.values().map(|p| p.info(self.reserved.contains(&p.node))).collect();
        infos.sort_by_key(|info| info.node);
        infos
    }

    pub(crate) fn is_reserved(&self, node: NodeId) -> bool {
        self.reserved.contains(&node)
    }

    pub(crate) fn set_reserved(&mut self, config: &NetworkConfig, reserved: BTreeSet<NodeId>) {
        self.reserved = reserved;
        for peer in self.peers.values() {
            peer.set_reserved(config, self.reserved.contains(&peer.node));
        }
    }

    /// Removes the peers that hold the most until the rest of `used` bytes fits into `limit`.
    pub(crate) fn relieve(&mut self, used: usize, limit: usize) -> Vec<Arc<Peer>> {
        let holders = self.peers.values().map(|peer| Holder {
            peer: peer.node,
            reserved: self.reserved.contains(&peer.node),
            held: peer.account.held(),
        });
        // When the limit is exceeded, some peer holds more than an even part of it, or its tasks are ending already.
        let gone = too_heavy(holders.collect(), used, limit, limit / (2 * self.max_peers));
        gone.into_iter().filter_map(|node| self.remove(node, DisconnectReason::Evicted, CloseCode::Evicted)).collect()
    }

    pub(crate) fn banned_until(&self, now: Instant, node: NodeId) -> Option<Instant> {
        self.bans.banned_until(now, node)
    }

    pub(crate) fn forgive(&mut self, node: NodeId) {
        self.bans.forgive(node);
    }

    /// Reports what may be lost.
    pub(crate) fn report(&self, event: Event) {
        if let Some(events) = &self.events {
            events.report(event);
        }
    }

    fn send(&self, event: Event) {
        if let Some(events) = &self.events {
            events.send(event);
        }
    }

    /// Ends the reporting, so that the reader of the events comes to an end.
    pub(crate) fn close(&mut self) {
        self.events = None;
    }

    /// Gives a connection its peer: a new one, or the one that it belongs to.
    ///
    /// # Errors
    /// If the node is banned, there is no place, or a better connection of an inbound one's pair exists.
    pub(crate) fn register(
        &mut self,
        config: &NetworkConfig,
        candidate: Candidate,
    ) -> Result<Registered, HandshakeError> {
        let node = candidate.node;
        if self.banned_until(Instant::now(), node).is_some() {
            return Err(HandshakeError::Banned);
        }
        let link = Arc::new(Link::new(candidate.connection.clone(), candidate.direction, candidate.rank));
        let same_run = |peer: &&Arc<Peer>| peer.instance == candidate.hello.instance;
        if let Some(peer) = self.peers.get(&node).filter(same_run).cloned() {
            link.set_windows(transport::window(config, peer.is_reserved()));
            if link.rank > peer.link().rank {
                peer.replace(Arc::clone(&link));
            } else if link.direction == Direction::Inbound {
                // The dialler sends nothing before our hello, so nothing is lost.
                return Err(HandshakeError::Duplicate);
            } else {
                peer.drain(Arc::clone(&link));
            }
            return Ok(Registered { peer, link, is_new: false, displaced: None });
        }
        let earlier = self.remove(node, DisconnectReason::Restarted, CloseCode::Superseded);
        let evicted = self.make_room(node, candidate.direction)?;
        let peer = Arc::new(Peer::new(config, &self.budget, &candidate, Arc::clone(&link)));
        peer.set_reserved(config, self.reserved.contains(&node));
        self.peers.insert(node, Arc::clone(&peer));
        self.send(Event::Connected(peer.info(self.is_reserved(node))));
        Ok(Registered { peer, link, is_new: true, displaced: earlier.or(evicted) })
    }

    /// Finds a place, and returns the peer that had to leave it.
    fn make_room(&mut self, node: NodeId, direction: Direction) -> Result<Option<Arc<Peer>>, HandshakeError> {
        if self.events.as_ref().is_none_or(|events| !events.has_room()) {
            return Err(HandshakeError::TooManyPeers);
        }
        let others: Vec<&Arc<Peer>> = self.peers.values().filter(|p| !self.reserved.contains(&p.node)).collect();
        if self.reserved.contains(&node) {
            if self.peers.len() >= self.max_peers {
                let youngest = others.iter().max_by_key(|p| (p.since, p.node)).ok_or(HandshakeError::TooManyPeers)?;
                let youngest = youngest.node;
                return Ok(self.remove(youngest, DisconnectReason::Evicted, CloseCode::Evicted));
            }
            return Ok(None);
        }
        let inbound = others.iter().filter(|p| p.link().direction == Direction::Inbound).count();
        let open = self.max_peers.saturating_sub(self.reserved.len()).max(self.max_peers.div_ceil(4));
        let full = self.peers.len() >= self.max_peers
            || others.len() >= open
            || direction == Direction::Inbound && inbound >= open - open / 4;
        if full { Err(HandshakeError::TooManyPeers) } else { Ok(None) }
    }

    /// Removes a peer, closes its connections and tells why.
    pub(crate) fn remove(&mut self, node: NodeId, reason: DisconnectReason, code: CloseCode) -> Option<Arc<Peer>> {
        let peer = self.peers.remove(&node)?;
        peer.close(code);
        self.send(Event::Disconnected { peer: node, reason });
        Some(peer)
    }

    /// A link has ended. If it was the current one of a connected peer, the peer is gone and is returned.
    pub(crate) fn link_ended(&mut self, peer: &Arc<Peer>, link: &Arc<Link>, reason: DisconnectReason) -> bool {
        let is_current = Arc::ptr_eq(&peer.link(), link);
        if !is_current {
            let mut links = peer.links.lock();
            if links.draining.as_ref().is_some_and(|draining| Arc::ptr_eq(draining, link)) {
                links.draining = None;
            }
            return false;
        }
        let is_connected = self.peers.get(&peer.node).is_some_and(|known| Arc::ptr_eq(known, peer));
        if is_connected {
            self.remove(peer.node, reason, CloseCode::Dropped);
        }
        is_connected
    }

    /// Counts a misbehaviour; at a ban the peer is removed and the end of the ban returned.
    pub(crate) fn punish(&mut self, node: NodeId, misbehaviour: Misbehaviour) -> Option<(Instant, Option<Arc<Peer>>)> {
        let until = self.bans.punish(Instant::now(), node, misbehaviour.points())?;
        Some((until, self.remove(node, DisconnectReason::Banned(misbehaviour), CloseCode::Banned)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_rank_two_links_alike() {
        let (a, b) = (NodeId([1; 32]), NodeId([2; 32]));
        assert!(Rank::new(a, b, 1) > Rank::new(b, a, 99));
        assert!(Rank::new(b, a, 2) > Rank::new(b, a, 1));
    }
}
