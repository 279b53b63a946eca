//! Discovery: a gossiped, bounded table of announcements. A core without sockets, clock or entropy.
//!
//! ```text
//!   own announcement ---> sign, renew before it expires --+
//!                                                         v
//!   peers --- Announcements ---> check --- new? ---> table ---> a random few peers (not where it came from)
//!   peers --- Pull ------------> a random part of the table     |
//!   newcomer: Pull to each new peer, later to a random one      +--> Found: endpoints to dial
//! ```
//!
//! Rules against hostile peers:
//! - Everything cheap (chain, lifetime, clock, is it new at all) is checked before the signature. A forged signature
//!   is misbehaviour of the peer that sent it, since nobody forwards what does not verify.
//! - A node's announcement replaces an older one at the earliest after [`MIN_INTERVAL_MS`] by its own issue time,
//!   which may not run ahead of the clock; so a node can make the others gossip only so much.
//! - The table is bounded. Expired entries go first. Then the peer that brought the most entries loses its oldest one,
//!   so a peer that floods the table with made-up nodes displaces its own. Entries of the committee and the own one
//!   always stay.
//! - A peer may pull once in [`PULL_INTERVAL_MS`] / 2; more is counted as spam.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cascade_primitives::{
    Decode, DecodeError, DecodeErrorKind, Encode, NodeId, Reader, TimestampMs, codec::encode_list,
};
use rand::{SeedableRng, seq::IteratorRandom, seq::SliceRandom};
use rand_chacha::ChaCha12Rng;

use crate::{
    addr::Endpoint,
    announce::{Announcement, AnnouncementBody, AnnouncementError, Claims, MAX_LIFETIME_MS, MAX_SKEW_MS},
    config::NetworkId,
    error::Misbehaviour,
    identity::Identity,
};

/// Most announcements in one message.
pub const MAX_PER_MESSAGE: usize = 64;
/// Most messages in answer to a pull.
const MESSAGES_PER_PULL: usize = 4;
/// Least time between two announcements of one node, by their issue times, in milliseconds.
pub const MIN_INTERVAL_MS: u64 = 1000;
/// Time between two pulls from a random peer, in milliseconds.
pub const PULL_INTERVAL_MS: u64 = 30_000;

/// A message on the discovery channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiscoveryMessage {
    /// Announcements, at least one and at most [`MAX_PER_MESSAGE`].
    Announcements(Vec<Announcement>),
    /// Asks for known announcements.
    Pull,
}

impl Encode for DiscoveryMessage {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Announcements(list) => {
                out.push(0);
                encode_list(list, out);
            }
            Self::Pull => out.push(1),
        }
    }
}

impl Decode for DiscoveryMessage {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(r.field("discovery message"))? {
            0 => {
                let list: Vec<Announcement> = r.field("announcements").list(MAX_PER_MESSAGE)?;
                if list.is_empty() {
                    return Err(r.error(DecodeErrorKind::NotCanonical("at least one announcement")));
                }
                Ok(Self::Announcements(list))
            }
            1 => Ok(Self::Pull),
            tag => Err(r.error(DecodeErrorKind::UnknownTag(u64::from(tag)))),
        }
    }
}

/// Limits of discovery.
#[derive(Clone, Copy, Debug)]
pub struct DiscoveryConfig {
    /// The chain whose nodes are looked for.
    pub network: NetworkId,
    /// Entries in the table at most.
    pub max_entries: usize,
    /// Peers that a new announcement is forwarded to.
    pub fanout: usize,
    /// Life of own announcements in milliseconds; they are renewed after a third of it.
    pub lifetime_ms: u64,
    /// Whether addresses of private networks are dialled.
    pub allow_private: bool,
}

impl DiscoveryConfig {
    /// The defaults for a chain.
    #[must_use]
    pub const fn new(network: NetworkId) -> Self {
        Self { network, max_entries: 1024, fanout: 8, lifetime_ms: 60 * 60 * 1000, allow_private: false }
    }
}

/// What happens to discovery.
#[derive(Clone, Debug)]
pub enum Input {
    /// Who is connected now.
    Peers(BTreeSet<NodeId>),
    /// A peer sent a message.
    Message {
        /// Who sent it.
        from: NodeId,
        /// The encoded [`DiscoveryMessage`].
        payload: Bytes,
    },
    /// What to announce of this node, from now on.
    Announce {
        /// Where it can be dialled.
        endpoints: Vec<Endpoint>,
        /// What it claims to be.
        claims: Claims,
    },
    /// Whose entries are kept whatever happens.
    Committee(BTreeSet<NodeId>),
    /// Time has passed.
    Tick,
}

/// What discovery wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send an encoded [`DiscoveryMessage`] on the discovery channel.
    Send {
        /// To whom: all get the same buffer.
        to: Vec<NodeId>,
        /// The message.
        payload: Bytes,
    },
    /// A new or changed node that could be dialled.
    Found(Box<Announcement>),
    /// A peer broke a rule.
    Misbehaved(NodeId, Misbehaviour),
}

#[derive(Debug)]
struct Entry {
    announcement: Announcement,
    /// The peer that brought it first; this node for its own.
    source: NodeId,
}

/// When a peer was pulled from, and when it pulled.
#[derive(Debug)]
struct Pulls {
    ours: TimestampMs,
    theirs: Option<TimestampMs>,
}

/// The discovery core. See the module's documentation.
#[derive(Debug)]
pub struct Discovery {
    config: DiscoveryConfig,
    identity: Identity,
    own: Option<(Vec<Endpoint>, Claims)>,
    /// The own announcement is renewed at this time.
    renew_at: TimestampMs,
    /// The least issue time of the next own announcement.
    not_before: TimestampMs,
    table: BTreeMap<NodeId, Entry>,
    peers: BTreeMap<NodeId, Pulls>,
    committee: BTreeSet<NodeId>,
    next_pull: TimestampMs,
    rng: ChaCha12Rng,
}

impl Discovery {
    /// A core that knows nobody. `seed` decides which peers it gossips with.
    #[must_use]
    pub fn new(config: DiscoveryConfig, identity: Identity, seed: [u8; 32]) -> Self {
        let lifetime_ms = config.lifetime_ms.clamp(3 * MIN_INTERVAL_MS, MAX_LIFETIME_MS);
        Self {
            config: DiscoveryConfig { lifetime_ms, max_entries: config.max_entries.max(1), ..config },
            identity,
            own: None,
            renew_at: TimestampMs::MAX,
            not_before: TimestampMs::ZERO,
            table: BTreeMap::new(),
            peers: BTreeMap::new(),
            committee: BTreeSet::new(),
            next_pull: TimestampMs::ZERO,
            rng: ChaCha12Rng::from_seed(seed),
        }
    }

    /// The announcements that hold, in the order of their nodes.
    pub fn announcements(&self, now: TimestampMs) -> impl Iterator<Item = &Announcement> {
        self.table.values().map(|e| &e.announcement).filter(move |a| !a.is_expired(now))
    }

    /// The announcement of a node, if it holds.
    #[must_use]
    pub fn get(&self, now: TimestampMs, node: NodeId) -> Option<&Announcement> {
        self.table.get(&node).map(|e| &e.announcement).filter(|a| !a.is_expired(now))
    }

    /// Entries in the table, expired ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether the table is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Takes one input in and returns what is to be done, in order.
    pub fn step(&mut self, now: TimestampMs, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Peers(peers) => self.on_peers(now, &peers, &mut effects),
            Input::Message { from, payload } => self.on_message(now, from, &payload, &mut effects),
            Input::Announce { endpoints, claims } => {
                let own = Some((endpoints, claims));
                if self.own != own {
                    self.own = own;
                    self.renew_at = TimestampMs::ZERO;
                }
                self.renew(now, &mut effects);
            }
            Input::Committee(committee) => self.committee = committee,
            Input::Tick => self.on_tick(now, &mut effects),
        }
        effects
    }

    fn on_peers(&mut self, now: TimestampMs, peers: &BTreeSet<NodeId>, effects: &mut Vec<Effect>) {
        self.peers.retain(|peer, _| peers.contains(peer));
        let new: Vec<NodeId> = peers.iter().copied().filter(|p| !self.peers.contains_key(p)).collect();
        if new.is_empty() {
            return;
        }
        self.peers.extend(new.iter().map(|peer| (*peer, Pulls { ours: now, theirs: None })));
        let own = self.get(now, self.identity.node_id()).cloned();
        if let Some(own) = own {
            effects.extend(send(new.clone(), vec![own]));
        }
        effects.push(Effect::Send { to: new, payload: encode(&DiscoveryMessage::Pull) });
    }

    fn on_message(&mut self, now: TimestampMs, from: NodeId, payload: &Bytes, effects: &mut Vec<Effect>) {
        match DiscoveryMessage::from_slice(payload) {
            Ok(DiscoveryMessage::Pull) => self.on_pull(now, from, effects),
            Ok(DiscoveryMessage::Announcements(list)) => {
                let mut fresh = Vec::new();
                for announcement in list {
                    match self.offer(now, from, announcement) {
                        Ok(Some(new)) => fresh.push(new),
                        Ok(None) => {}
                        Err(misbehaviour) => {
                            effects.push(Effect::Misbehaved(from, misbehaviour));
                            break;
                        }
                    }
                }
                let me = self.identity.node_id();
                effects.extend(fresh.iter().filter(|a| a.body.node != me).map(|a| Effect::Found(Box::new(a.clone()))));
                self.gossip(Some(from), fresh, effects);
                self.renew(now, effects);
            }
            Err(_) => effects.push(Effect::Misbehaved(from, Misbehaviour::Undecodable)),
        }
    }

    /// Takes an announcement into the table and returns it if it is new, dialable or not.
    fn offer(
        &mut self,
        now: TimestampMs,
        from: NodeId,
        announcement: Announcement,
    ) -> Result<Option<Announcement>, Misbehaviour> {
        match announcement.check(self.config.network, now) {
            Ok(()) => {}
            Err(AnnouncementError::Expired(_) | AnnouncementError::FromTheFuture(_)) => return Ok(None),
            Err(_) => return Err(Misbehaviour::InvalidContent),
        }
        let body = &announcement.body;
        if let Some(known) = self.table.get(&body.node) {
            let earliest = known.announcement.body.issued_at.plus(MIN_INTERVAL_MS);
            if body.issued_at < earliest {
                return Ok(None);
            }
        }
        if announcement.verify().is_err() {
            return Err(Misbehaviour::InvalidSignature);
        }
        if body.node == self.identity.node_id() {
            // Issued by this node before a restart or with a faster clock: outbid it, or the others keep it.
            self.not_before = self.not_before.max(body.issued_at.plus(MIN_INTERVAL_MS));
            self.renew_at = TimestampMs::ZERO;
            return Ok(None);
        }
        Ok(self.insert(now, from, announcement.clone()).then_some(announcement))
    }

    fn insert(&mut self, now: TimestampMs, source: NodeId, announcement: Announcement) -> bool {
        let node = announcement.body.node;
        if let Some(known) = self.table.get_mut(&node) {
            known.announcement = announcement;
            return true;
        }
        if self.table.len() >= self.config.max_entries {
            self.table.retain(|_, e| !e.announcement.is_expired(now));
        }
        if self.table.len() >= self.config.max_entries && !self.evict() {
            return false;
        }
        self.table.insert(node, Entry { announcement, source });
        true
    }

    /// Removes the oldest entry of the source with the most entries, committee and own entry aside.
    fn evict(&mut self) -> bool {
        let me = self.identity.node_id();
        let mut by_source: BTreeMap<NodeId, (usize, TimestampMs, NodeId)> = BTreeMap::new();
        for (node, entry) in &self.table {
            if *node == me || self.committee.contains(node) {
                continue;
            }
            let issued_at = entry.announcement.body.issued_at;
            let (count, oldest, who) = by_source.entry(entry.source).or_insert((0, issued_at, *node));
            *count += 1;
            if issued_at < *oldest {
                (*oldest, *who) = (issued_at, *node);
            }
        }
        let Some((_, _, node)) = by_source.into_values().max_by_key(|(count, ..)| *count) else { return false };
        self.table.remove(&node);
        true
    }

    fn on_pull(&mut self, now: TimestampMs, from: NodeId, effects: &mut Vec<Effect>) {
        let Some(pulls) = self.peers.get_mut(&from) else { return };
        if pulls.theirs.is_some_and(|last| now < last.plus(PULL_INTERVAL_MS / 2)) {
            effects.push(Effect::Misbehaved(from, Misbehaviour::Spam));
            return;
        }
        pulls.theirs = Some(now);
        let known = self.table.iter().filter(|(node, e)| **node != from && !e.announcement.is_expired(now));
        let (committee, others): (Vec<_>, Vec<_>) = known.partition(|(node, _)| self.committee.contains(node));
        let room = MAX_PER_MESSAGE * MESSAGES_PER_PULL;
        let mut chosen: Vec<Announcement> = Vec::new();
        for (part, left) in [(committee, room), (others, room)] {
            let left = left.saturating_sub(chosen.len());
            let some = part.into_iter().map(|(_, e)| e.announcement.clone()).choose_multiple(&mut self.rng, left);
            chosen.extend(some);
        }
        chosen.shuffle(&mut self.rng);
        effects.extend(chosen.chunks(MAX_PER_MESSAGE).filter_map(|part| send(vec![from], part.to_vec())));
    }

    fn on_tick(&mut self, now: TimestampMs, effects: &mut Vec<Effect>) {
        self.table.retain(|_, e| !e.announcement.is_expired(now));
        self.renew(now, effects);
        if now < self.next_pull {
            return;
        }
        self.next_pull = now.plus(PULL_INTERVAL_MS);
        // Each peer was asked once when it connected; this repairs what gossip lost since.
        let rested = self.peers.iter_mut().filter(|(_, pulls)| now >= pulls.ours.plus(PULL_INTERVAL_MS));
        if let Some((peer, pulls)) = rested.choose(&mut self.rng) {
            pulls.ours = now;
            effects.push(Effect::Send { to: vec![*peer], payload: encode(&DiscoveryMessage::Pull) });
        }
    }

    /// Issues the own announcement when it is due.
    fn renew(&mut self, now: TimestampMs, effects: &mut Vec<Effect>) {
        let Some((endpoints, claims)) = &self.own else { return };
        // Others refuse an issue time that is further ahead of their clocks; then it waits for a later tick.
        let issued_at = now.max(self.not_before);
        if now < self.renew_at || issued_at.0 - now.0 > MAX_SKEW_MS / 2 {
            return;
        }
        let announcement = AnnouncementBody {
            network: self.config.network,
            node: self.identity.node_id(),
            endpoints: endpoints.clone(),
            issued_at,
            expires_at: issued_at.plus(self.config.lifetime_ms),
            claims: *claims,
        }
        .sign(&self.identity);
        self.renew_at = now.plus(self.config.lifetime_ms / 3);
        self.not_before = issued_at.plus(MIN_INTERVAL_MS);
        self.insert(now, self.identity.node_id(), announcement.clone());
        self.gossip(None, vec![announcement], effects);
    }

    fn gossip(&mut self, except: Option<NodeId>, fresh: Vec<Announcement>, effects: &mut Vec<Effect>) {
        let others = self.peers.keys().copied().filter(|peer| Some(*peer) != except);
        let mut to = others.choose_multiple(&mut self.rng, self.config.fanout);
        to.sort_unstable();
        effects.extend(send(to, fresh));
    }

    /// The addresses of an announcement that may be dialled.
    #[must_use]
    pub fn dialable(&self, announcement: &Announcement) -> Vec<Endpoint> {
        let private = self.config.allow_private;
        announcement.body.endpoints.iter().copied().filter(|e| e.is_dialable(private)).collect()
    }
}

fn encode(message: &DiscoveryMessage) -> Bytes {
    Bytes::from(message.to_bytes())
}

fn send(to: Vec<NodeId>, list: Vec<Announcement>) -> Option<Effect> {
    let useful = !to.is_empty() && !list.is_empty();
    useful.then(|| Effect::Send { to, payload: encode(&DiscoveryMessage::Announcements(list)) })
}

#[cfg(test)]
mod tests;
