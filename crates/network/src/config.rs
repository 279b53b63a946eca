//! What a node's network is told at start, with the relations that must hold.

use std::{net::SocketAddr, time::Duration};

use cascade_primitives::{B256, ChainId, Decode, DecodeError, Encode, Reader};
use thiserror::Error;

use crate::{announce::Claims, channel::Channel, hello::MAX_AGENT};

/// Versions of the protocol between nodes that this software speaks, best first. Each is offered as the ALPN protocol
/// `cascade/<number>`; TLS picks the best that both sides have.
pub const SUPPORTED_VERSIONS: &[ProtocolVersion] = &[ProtocolVersion(2)];

/// A version of the protocol between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProtocolVersion(pub u16);

impl ProtocolVersion {
    /// The ALPN protocol name (RFC 7301).
    #[must_use]
    pub fn alpn(self) -> Vec<u8> {
        format!("cascade/{}", self.0).into_bytes()
    }

    /// The version that an ALPN protocol name stands for.
    #[must_use]
    pub fn from_alpn(name: &[u8]) -> Option<Self> {
        let version = Self(std::str::from_utf8(name).ok()?.strip_prefix("cascade/")?.parse().ok()?);
        (version.alpn() == name).then_some(version)
    }
}

/// Which chain a node belongs to. Nodes of different chains refuse each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkId {
    /// The EIP-155 chain id.
    pub chain_id: ChainId,
    /// The hash of the genesis file.
    pub genesis_hash: B256,
}

impl std::fmt::Display for NetworkId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "chain {} with genesis {}", self.chain_id, self.genesis_hash)
    }
}

impl Encode for NetworkId {
    fn encode(&self, out: &mut Vec<u8>) {
        self.chain_id.encode(out);
        self.genesis_hash.encode(out);
    }
}

impl Decode for NetworkId {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            chain_id: ChainId::decode(r.field("chain id"))?,
            genesis_hash: B256::decode(r.field("genesis hash"))?,
        })
    }
}

/// Limits of one channel. Nodes should agree on `max_message`; the rest is each node's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelLimits {
    /// Largest message in bytes; whoever sends a larger one is banned. For sync the largest request.
    pub max_message: usize,
    /// Messages in the outgoing queue to one peer. For sync the requests in flight to one peer.
    pub queue_messages: usize,
    /// Bytes in the outgoing queue to one peer. Not used for sync.
    pub queue_bytes: usize,
    /// Inbound messages per second and peer; also the burst.
    pub messages_per_s: u64,
    /// Inbound bytes per second and peer; also the burst.
    pub bytes_per_s: u64,
    /// Messages in the queue to the layer above, for all peers together.
    pub inbox_messages: usize,
    /// Bytes of these messages. Not used for sync.
    pub inbox_bytes: usize,
}

/// Limits of all channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    channels: [ChannelLimits; 5],
}

const MIB: usize = 1 << 20;

impl Limits {
    /// The limits of a channel.
    #[must_use]
    pub const fn of(&self, channel: Channel) -> &ChannelLimits {
        &self.channels[channel.index()]
    }

    /// The limits of a channel, to change them.
    pub const fn of_mut(&mut self, channel: Channel) -> &mut ChannelLimits {
        &mut self.channels[channel.index()]
    }
}

impl Default for Limits {
    fn default() -> Self {
        let consensus = ChannelLimits {
            max_message: 16 * MIB,
            queue_messages: 4096,
            queue_bytes: 64 * MIB,
            messages_per_s: 20_000,
            bytes_per_s: 64 * MIB as u64,
            inbox_messages: 4096,
            inbox_bytes: 64 * MIB,
        };
        let mempool = ChannelLimits {
            // The largest transaction that any chain allows, and what is wrapped around it.
            max_message: MIB + 64 * 1024,
            queue_messages: 65_536,
            queue_bytes: 32 * MIB,
            messages_per_s: 200_000,
            bytes_per_s: 128 * MIB as u64,
            inbox_messages: 65_536,
            inbox_bytes: 64 * MIB,
        };
        let data = ChannelLimits {
            max_message: 16 * MIB,
            queue_messages: 4096,
            queue_bytes: 64 * MIB,
            messages_per_s: 20_000,
            bytes_per_s: 64 * MIB as u64,
            inbox_messages: 1024,
            inbox_bytes: 32 * MIB,
        };
        let sync = ChannelLimits {
            max_message: 64 * 1024,
            queue_messages: 16,
            queue_bytes: MIB,
            messages_per_s: 500,
            bytes_per_s: 4 * MIB as u64,
            inbox_messages: 256,
            inbox_bytes: 16 * MIB,
        };
        let discovery = ChannelLimits {
            max_message: 64 * 1024,
            queue_messages: 64,
            queue_bytes: MIB,
            messages_per_s: 50,
            bytes_per_s: MIB as u64,
            inbox_messages: 256,
            inbox_bytes: 4 * MIB,
        };
        Self { channels: [consensus, mempool, data, sync, discovery] }
    }
}

/// How long failed dials wait: doubled from `first` to `most`, each with up to half taken off at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first failure.
    pub first: Duration,
    /// The longest wait.
    pub most: Duration,
}

/// How a node's network is set up. Nothing here has to agree between nodes but `network_id` and the message limits.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// UDP address to listen on; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The address that others reach this node at, if it is not `listen`. Without it, a node that listens on all
    /// addresses announces none.
    pub external: Option<SocketAddr>,
    /// Addresses dialled for as long as the node runs; one that works is enough.
    pub bootstrap: Vec<SocketAddr>,
    /// Which chain this is.
    pub network_id: NetworkId,
    /// Software and version, told to peers. At most 128 printable ASCII characters.
    pub agent: String,
    /// Protocol versions to offer, best first. A part of [`SUPPORTED_VERSIONS`].
    pub versions: Vec<ProtocolVersion>,
    /// Connected peers at most, reserved places included.
    pub max_peers: usize,
    /// Peers that are dialled for; beyond them only reserved and explicitly dialled nodes are.
    pub target_peers: usize,
    /// Inbound connections from one host (an IPv4 address or an IPv6 /64), half-open ones included.
    pub max_per_host: usize,
    /// Inbound handshakes at once; more are refused.
    pub max_half_open: usize,
    /// Inbound handshakes at once from which on every address has to prove itself first (QUIC Retry).
    pub retry_from: usize,
    /// Inbound handshakes per second and host, with ten times as many as burst.
    pub handshakes_per_s: u64,
    /// For TLS and hello together.
    pub handshake_timeout: Duration,
    /// Silence after which a peer counts as lost.
    pub idle_timeout: Duration,
    /// Interval of keep-alive packets.
    pub keep_alive: Duration,
    /// For a request, from the call to the whole response.
    pub request_timeout: Duration,
    /// Requests of one peer that are served at once.
    pub max_requests_per_peer: usize,
    /// Requests that are answered at once, for all peers without a reserved place together.
    pub max_requests: usize,
    /// Bytes that all peers together may make this node hold: unfinished messages and those on their way into an inbox,
    /// outgoing queues, and responses being written. Who holds the most is disconnected when there are more.
    pub buffer_bytes: usize,
    /// Largest response to a sync request in bytes.
    pub max_response: usize,
    /// Wait between dials of one target.
    pub backoff: Backoff,
    /// Length of a first ban; doubled for each further one.
    pub ban_time: Duration,
    /// What is announced of this node from the start; nothing with `None`.
    pub announce: Option<Claims>,
    /// Whether announced addresses of private networks and loopback are dialled. For test networks.
    pub allow_private: bool,
    /// Receive and send buffer of the UDP socket in bytes, as far as the system allows.
    pub socket_buffer: usize,
    /// Limits per channel.
    pub limits: Limits,
}

/// A configuration that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("network configuration: {key} {rule}")]
pub struct ConfigError {
    /// The field that is wrong.
    pub key: String,
    /// What must hold.
    pub rule: String,
}

impl NetworkConfig {
    /// The defaults for a chain and an address.
    #[must_use]
    pub fn new(listen: SocketAddr, network_id: NetworkId) -> Self {
        Self {
            listen,
            external: None,
            bootstrap: Vec::new(),
            network_id,
            agent: concat!("cascade/", env!("CARGO_PKG_VERSION")).to_owned(),
            versions: SUPPORTED_VERSIONS.to_vec(),
            max_peers: 128,
            target_peers: 48,
            max_per_host: 64,
            max_half_open: 256,
            retry_from: 64,
            handshakes_per_s: 20,
            handshake_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(15),
            keep_alive: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            max_requests_per_peer: 8,
            max_requests: 16,
            buffer_bytes: 256 * MIB,
            max_response: 16 * MIB,
            backoff: Backoff { first: Duration::from_millis(200), most: Duration::from_secs(30) },
            ban_time: Duration::from_secs(60),
            announce: Some(Claims::FOLLOWER),
            allow_private: false,
            socket_buffer: 8 * MIB,
            limits: Limits::default(),
        }
    }

    /// Checks values and relations.
    ///
    /// # Errors
    /// The first field that is wrong, and the rule that it breaks.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let check = |ok: bool, key: &str, rule: &str| {
            if ok { Ok(()) } else { Err(ConfigError { key: key.to_owned(), rule: rule.to_owned() }) }
        };
        let printable = self.agent.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        check(self.agent.len() <= MAX_AGENT && printable, "agent", "must be at most 128 printable ASCII characters")?;
        check(!self.versions.is_empty(), "versions", "must not be empty")?;
        check(self.max_peers >= 1, "max_peers", "must be at least 1")?;
        check(self.target_peers <= self.max_peers, "target_peers", "must not exceed max_peers")?;
        check(self.max_per_host >= 1, "max_per_host", "must be at least 1")?;
        check(self.max_half_open >= 1, "max_half_open", "must be at least 1")?;
        check(self.retry_from <= self.max_half_open, "retry_from", "must not exceed max_half_open")?;
        check(self.handshakes_per_s >= 1, "handshakes_per_s", "must be at least 1")?;
        check(!self.handshake_timeout.is_zero(), "handshake_timeout", "must be above zero")?;
        check(!self.request_timeout.is_zero(), "request_timeout", "must be above zero")?;
        check(!self.keep_alive.is_zero(), "keep_alive", "must be above zero")?;
        check(self.keep_alive * 2 < self.idle_timeout, "keep_alive", "must be less than half of idle_timeout")?;
        check(self.idle_timeout <= Duration::from_secs(600), "idle_timeout", "must be at most 600 s")?;
        check((1..=1024).contains(&self.max_requests_per_peer), "max_requests_per_peer", "must be within 1..=1024")?;
        check(self.max_requests >= 1, "max_requests", "must be at least 1")?;
        let largest = Channel::ALL.map(|channel| self.limits.of(channel).max_message).into_iter().max().unwrap_or(0);
        let largest = largest.max(self.max_response);
        check(self.buffer_bytes >= 4 * largest, "buffer_bytes", "must be at least four of the largest messages")?;
        check(self.max_response >= 1 && self.max_response <= 256 * MIB, "max_response", "must be within 1..=256 MiB")?;
        check(!self.backoff.first.is_zero(), "backoff.first", "must be above zero")?;
        check(self.backoff.first <= self.backoff.most, "backoff.most", "must be at least backoff.first")?;
        check(!self.ban_time.is_zero(), "ban_time", "must be above zero")?;
        for channel in Channel::ALL {
            self.validate_channel(channel)?;
        }
        Ok(())
    }

    fn validate_channel(&self, channel: Channel) -> Result<(), ConfigError> {
        let limits = self.limits.of(channel);
        let check = |ok: bool, key: &str, rule: &str| {
            if ok { Ok(()) } else { Err(ConfigError { key: format!("limits.{channel}.{key}"), rule: rule.to_owned() }) }
        };
        check((1..=64 * MIB).contains(&limits.max_message), "max_message", "must be within 1..=64 MiB")?;
        check(limits.queue_messages >= 1, "queue_messages", "must be at least 1")?;
        check(limits.queue_bytes >= limits.max_message, "queue_bytes", "must be at least max_message")?;
        check(limits.messages_per_s >= 1, "messages_per_s", "must be at least 1")?;
        check(limits.bytes_per_s >= 1, "bytes_per_s", "must be at least 1")?;
        check(limits.inbox_messages >= 1, "inbox_messages", "must be at least 1")?;
        check(limits.inbox_bytes >= limits.max_message, "inbox_bytes", "must be at least max_message")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NetworkConfig {
        let network_id = NetworkId { chain_id: ChainId(7), genesis_hash: B256::ZERO };
        NetworkConfig::new("127.0.0.1:0".parse().unwrap(), network_id)
    }

    #[test]
    fn the_defaults_are_valid_and_a_broken_relation_is_named() {
        assert_eq!(config().validate(), Ok(()));
        let mut bad = config();
        bad.keep_alive = bad.idle_timeout;
        assert_eq!(bad.validate().unwrap_err().key, "keep_alive");
        let mut bad = config();
        bad.limits.of_mut(Channel::Data).queue_bytes = 1;
        assert_eq!(bad.validate().unwrap_err().key, "limits.data.queue_bytes");
        let mut bad = config();
        bad.agent = "line\nbreak".to_owned();
        assert_eq!(bad.validate().unwrap_err().key, "agent");
    }

    #[test]
    fn versions_and_alpn_names_correspond() {
        assert_eq!(ProtocolVersion(1).alpn(), b"cascade/1");
        assert_eq!(ProtocolVersion::from_alpn(b"cascade/12"), Some(ProtocolVersion(12)));
        for other in [&b"h3"[..], b"cascade/", b"cascade/01", b"cascade/+1", b"cascade/70000"] {
            assert_eq!(ProtocolVersion::from_alpn(other), None);
        }
    }
}
