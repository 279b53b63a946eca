//! What an operator must hear of without asking: bootstrap nodes that do not answer or are of another chain, a node
//! without peers, a voting key that is in no committee. Sans-IO; [`Notices`] says each thing at once and then more and
//! more rarely, however often it happens.
//!
//! ```text
//!   dial failed --> said --1 min--> said --2 min--> said ... every 16 min        a success starts it anew
//! ```

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use cascade_network::{CloseCode, Event, HandshakeError};
use cascade_primitives::{BlsPublicKey, Epoch, NodeId, ScheduledCommittee};

use crate::config::Role;

/// How long a node may be without peers before that is worth a line.
const ALONE: Duration = Duration::from_secs(30);
/// The first wait between two lines on the same thing; it doubles.
const FIRST: Duration = Duration::from_secs(60);
/// The longest.
const LONGEST: Duration = Duration::from_secs(16 * 60);
/// Things that are kept apart. What is beyond is not said.
const MOST: usize = 1024;

/// What a line is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Topic {
    Silent(SocketAddr),
    OtherChain(SocketAddr),
    OtherVersion(SocketAddr),
    Turned(SocketAddr),
    Stranger,
    Alone,
}

/// A line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    /// Whether something is to be done.
    pub(super) warn: bool,
    /// What is the matter, and what to do.
    pub(super) text: String,
}

impl Notice {
    fn warn(text: String) -> Self {
        Self { warn: true, text }
    }

    fn info(text: String) -> Self {
        Self { warn: false, text }
    }

    /// Writes it to the log.
    pub(super) fn log(&self) {
        if self.warn {
            tracing::warn!("{}", self.text);
        } else {
            tracing::info!("{}", self.text);
        }
    }
}

/// What was said of the network, and when.
#[derive(Debug)]
pub(super) struct Notices {
    /// Whether any address to dial was given.
    has_bootstrap: bool,
    /// When it was said last, and the wait until it may be said again.
    said: BTreeMap<Topic, (Instant, Duration)>,
    peers: usize,
    alone_since: Instant,
}

impl Notices {
    pub(super) fn new(now: Instant, has_bootstrap: bool) -> Self {
        Self { has_bootstrap, said: BTreeMap::new(), peers: 0, alone_since: now }
    }

    /// Takes note of an event and answers what is to be said of it.
    pub(super) fn observe(&mut self, now: Instant, event: &Event) -> Option<Notice> {
        match event {
            Event::Connected(peer) => {
                self.peers += 1;
                self.said.remove(&Topic::Alone);
                self.said.retain(|topic, _| !topic.is_at(peer.address));
                None
            }
            Event::Disconnected { .. } => {
                self.peers = self.peers.saturating_sub(1);
                if self.peers == 0 {
                    self.alone_since = now;
                }
                None
            }
            // One that was dialled for whoever is there: it was given by name.
            Event::DialFailed { address, expected: None, error } => {
                let (topic, notice) = self.dial_failed(*address, error)?;
                self.may_say(now, topic).then_some(notice)
            }
            Event::Refused { address, error: error @ HandshakeError::WrongNetwork { .. }, .. } => {
                let text = format!("{address} dialled this node and was turned away: {error}");
                self.may_say(now, Topic::Stranger).then(|| Notice::info(text))
            }
            Event::DialFailed { .. } | Event::Refused { .. } | Event::Found(_) => None,
        }
    }

    fn dial_failed(&self, address: SocketAddr, error: &HandshakeError) -> Option<(Topic, Notice)> {
        let node = format!("network.bootstrap: the node at {address}");
        Some(match error {
            HandshakeError::Ourselves | HandshakeError::Refused(CloseCode::Ourselves) | HandshakeError::Duplicate => {
                return None;
            }
            HandshakeError::WrongNetwork { ours, theirs } => {
                let text = format!(
                    "{node} is of another chain: it has {theirs}, this node {ours}; use the genesis file of the chain that \
                     this node is to join, or the address of a node of its own chain"
                );
                (Topic::OtherChain(address), Notice::warn(text))
            }
            HandshakeError::Version => {
                let text =
                    format!("{node} has no network version in common with this one; run the same version of cascade");
                (Topic::OtherVersion(address), Notice::warn(text))
            }
            HandshakeError::Refused(_) | HandshakeError::TooManyPeers | HandshakeError::Banned => {
                let text = format!("{node} did not take the connection ({error}); it is dialled again; see its log");
                (Topic::Turned(address), Notice { warn: self.peers == 0, text })
            }
            _ => {
                let text = format!(
                    "{node} does not answer ({error}); see that it runs and listens there, and that UDP port {} passes the \
                     firewalls on the way; it is dialled again",
                    address.port()
                );
                (Topic::Silent(address), Notice { warn: self.peers == 0, text })
            }
        })
    }

    /// Looks at the clock, now and then. `suffices` says that this node has the seats of a quorum, and so needs nobody.
    pub(super) fn tick(&mut self, now: Instant, suffices: bool) -> Option<Notice> {
        let alone = now.saturating_duration_since(self.alone_since);
        if self.peers > 0 || suffices || alone < ALONE || !self.may_say(now, Topic::Alone) {
            return None;
        }
        let remedy = if self.has_bootstrap {
            "none of the nodes in network.bootstrap could be reached"
        } else {
            "network.bootstrap is empty: give the address of a node that runs (--bootstrap HOST:PORT), unless others are to \
             dial this one"
        };
        let seconds = alone.as_secs();
        Some(Notice::warn(format!("no peers for {seconds} s, so this node neither gets nor sends blocks; {remedy}")))
    }

    fn may_say(&mut self, now: Instant, topic: Topic) -> bool {
        if let Some((at, wait)) = self.said.get_mut(&topic) {
            if now.saturating_duration_since(*at) < *wait {
                return false;
            }
            (*at, *wait) = (now, (*wait * 2).min(LONGEST));
            return true;
        }
        if self.said.len() >= MOST {
            return false;
        }
        self.said.insert(topic, (now, FIRST));
        true
    }
}

impl Topic {
    fn is_at(self, place: SocketAddr) -> bool {
        match self {
            Self::Silent(at) | Self::OtherChain(at) | Self::OtherVersion(at) | Self::Turned(at) => at == place,
            Self::Stranger | Self::Alone => false,
        }
    }
}

/// What an operator should know of this node's seat at its start: nothing if it votes as its role says.
pub(super) fn of_seat(
    committees: &[ScheduledCommittee],
    epoch: Epoch,
    role: Role,
    node: NodeId,
    key: Option<BlsPublicKey>,
) -> Option<Notice> {
    let current = committees.iter().rposition(|committee| committee.from_epoch <= epoch).unwrap_or(0);
    if role == Role::Full {
        let seated = committees.get(current)?.sequencers.iter().any(|member| member.node == node);
        return seated.then(|| {
            Notice::warn(
                "this node is in the committee, but its role is full: it does not vote, and its seats count as down; set \
                 role = \"sequencer\" (--role sequencer)"
                    .to_owned(),
            )
        });
    }
    let is_seat = |committee: &ScheduledCommittee| {
        committee.sequencers.iter().any(|member| member.node == node && Some(member.bls_key) == key)
    };
    if committees.get(current).is_some_and(is_seat) {
        return None;
    }
    if let Some(later) = committees.iter().skip(current + 1).find(|committee| is_seat(committee)) {
        return Some(Notice::info(format!("this node votes from epoch {} on; it is epoch {epoch}", later.from_epoch)));
    }
    if committees.iter().take(current).any(is_seat) {
        return Some(Notice::info(format!(
            "this node is no longer in the committee in epoch {epoch}: it does not vote"
        )));
    }
    let mut members = committees.iter().flat_map(|committee| &committee.sequencers);
    if let Some(member) = members.clone().find(|member| Some(member.bls_key) == key) {
        return Some(Notice::warn(format!(
            "the genesis file has this node's voting key under node {}, but keys.node makes it node {node}: it does not \
             vote; put the network key back that belongs to the entry",
            member.node
        )));
    }
    if members.any(|member| member.node == node) {
        return Some(Notice::warn(
            "the genesis file has this node with another voting key than keys.bls: it does not vote; put the voting key \
             back that belongs to the entry, with its newest sign-state"
                .to_owned(),
        ));
    }
    Some(Notice::warn(
        "the role is sequencer, but this node is in no committee of the genesis file: it follows the chain and does not vote; \
         take --role full, or the keys that the genesis file names (cascade keys show)"
            .to_owned(),
    ))
}

/// What an operator should know of the address that others are told of this node, if the committee has `others`.
pub(super) fn of_address(role: Role, others: bool, listen: SocketAddr, external: Option<SocketAddr>) -> Option<Notice> {
    (role == Role::Sequencer && others && listen.ip().is_unspecified() && external.is_none()).then(|| {
        Notice::warn(format!(
            "network.listen is {listen}, which is no address to dial, and network.external is not set: other sequencers are \
             not told where this one is, and reach it only if it dials them; give --external IP:PORT"
        ))
    })
}

#[cfg(test)]
mod tests {
    use cascade_network::NetworkId;
    use cascade_primitives::{Address, B256, BlsSignature, ChainId, SequencerSpec};

    use super::*;

    fn place() -> SocketAddr {
        "10.0.0.1:30330".parse().unwrap()
    }

    fn failed(error: HandshakeError) -> Event {
        Event::DialFailed { address: place(), expected: None, error }
    }

    fn timeout() -> Event {
        failed(HandshakeError::Timeout(Duration::from_secs(5)))
    }

    #[test]
    fn a_silent_bootstrap_node_is_named_at_once_and_then_more_and_more_rarely() {
        let start = Instant::now();
        let mut notices = Notices::new(start, true);
        let said: Vec<u64> =
            (0..3600).filter(|s| notices.observe(start + Duration::from_secs(*s), &timeout()).is_some()).collect();
        assert_eq!(said, [0, 60, 180, 420, 900, 1860, 2820]);
        let mut notices = Notices::new(start, true);
        let notice = notices.observe(start, &timeout()).unwrap();
        assert!(notice.warn && notice.text.contains("10.0.0.1:30330") && notice.text.contains("30330 passes"));
    }

    #[test]
    fn a_bootstrap_node_of_another_chain_is_told_apart() {
        let start = Instant::now();
        let mut notices = Notices::new(start, true);
        let id = |byte| NetworkId { chain_id: ChainId(1), genesis_hash: B256::repeat_byte(byte) };
        assert!(notices.observe(start, &timeout()).is_some());
        let event = failed(HandshakeError::WrongNetwork { ours: id(1), theirs: id(2) });
        let notice = notices.observe(start, &event).unwrap();
        assert!(notice.warn && notice.text.contains("another chain") && notice.text.contains("0x0202"), "{notice:?}");
        assert_eq!(notices.observe(start, &event), None);
        assert_eq!(notices.observe(start, &failed(HandshakeError::Refused(CloseCode::Ourselves))), None);
    }

    #[test]
    fn a_node_without_peers_says_so_unless_it_needs_none() {
        let start = Instant::now();
        let mut notices = Notices::new(start, false);
        assert_eq!(notices.tick(start + ALONE / 2, false), None);
        assert_eq!(notices.tick(start + ALONE, true), None);
        let notice = notices.tick(start + ALONE, false).unwrap();
        assert!(notice.warn && notice.text.contains("--bootstrap"), "{notice:?}");
        assert_eq!(notices.tick(start + ALONE + FIRST / 2, false), None);
        assert!(notices.tick(start + ALONE + FIRST, false).is_some());
    }

    #[test]
    fn a_sequencer_that_others_cannot_be_told_of_hears_so() {
        let (any, one) = ("0.0.0.0:30330".parse().unwrap(), place());
        let notice = of_address(Role::Sequencer, true, any, None).unwrap();
        assert!(notice.warn && notice.text.contains("--external"), "{notice:?}");
        assert_eq!(of_address(Role::Sequencer, false, any, None), None);
        assert_eq!(of_address(Role::Sequencer, true, any, Some(one)), None);
        assert_eq!(of_address(Role::Sequencer, true, one, None), None);
        assert_eq!(of_address(Role::Full, true, any, None), None);
    }

    #[test]
    fn a_sequencer_without_a_seat_hears_why() {
        let (node, key) = (NodeId([1; 32]), BlsPublicKey([2; 48]));
        let member = |node, bls_key| SequencerSpec {
            node,
            bls_key,
            bls_proof: BlsSignature([0; 96]),
            address: Address::ZERO,
            stake: 10,
            hat: 100,
        };
        let committee = |from: u64, sequencers| ScheduledCommittee { from_epoch: Epoch(from), sequencers };
        let stranger = member(NodeId([9; 32]), BlsPublicKey([9; 48]));
        let say = |committees: &[ScheduledCommittee], epoch, role, key| {
            of_seat(committees, Epoch(epoch), role, node, key).map(|notice| (notice.warn, notice.text))
        };
        let (voter, full) = (Role::Sequencer, Role::Full);
        let seated = [committee(0, vec![stranger.clone(), member(node, key)])];
        assert_eq!(say(&seated, 0, voter, Some(key)), None);
        assert!(say(&seated, 0, full, None).is_some_and(|(warn, text)| warn && text.contains("--role sequencer")));

        let never = [committee(0, vec![stranger.clone()])];
        assert!(say(&never, 0, voter, Some(key)).is_some_and(|(warn, text)| warn && text.contains("--role full")));
        assert_eq!(say(&never, 0, full, None), None);

        let later = [never[0].clone(), committee(3, vec![member(node, key)])];
        assert!(say(&later, 0, voter, Some(key)).is_some_and(|(warn, text)| !warn && text.contains("epoch 3")));
        assert_eq!(say(&later, 3, voter, Some(key)), None);

        let other_node = [committee(0, vec![member(NodeId([7; 32]), key)])];
        assert!(say(&other_node, 0, voter, Some(key)).is_some_and(|(warn, text)| warn && text.contains("keys.node")));
        let other_key = [committee(0, vec![member(node, BlsPublicKey([7; 48]))])];
        assert!(say(&other_key, 0, voter, Some(key)).is_some_and(|(warn, text)| warn && text.contains("keys.bls")));
    }
}
