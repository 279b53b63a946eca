//! The network of Cascade: QUIC between nodes, and how they find each other.
//!
//! ```text
//!              broadcast, send, request, report, dial                     Receivers
//!                          |                                                 ^
//!   +----------------------v-------------------------------------------------+---------------+
//!   | Network   queues per peer and channel          inboxes per channel     | events        |
//!   |             |                                         ^                                |
//!   |           link: writer per channel        link: reader per channel, rate limit         |
//!   |             |                                         ^                                |
//!   |   accept loop, dial loop --- handshake: TLS, hello ---+      discovery (sans-IO core)  |
//!   +-------------|------------------------------------------------------------------------- +
//!               QUIC (quinn), one UDP socket
//! ```
//!
//! # Protocol
//!
//! 1. **TLS 1.3** inside QUIC (RFC 9001), both sides with a self-signed certificate that holds their Ed25519 key. The
//!    key is the [`NodeId`](cascade_primitives::NodeId). The ALPN protocol carries the version: `cascade/2`.
//! 2. **Hello** ([`hello`]): chain, software, address. Nodes of another chain are refused with a typed reason.
//! 3. **Channels** ([`channel`]): one unidirectional stream per channel and direction with length-prefixed messages
//!    (the `frame` module has the picture), and for sync one bidirectional stream per request.
//! 4. **Discovery** ([`discovery`], [`announce`]): signed announcements, gossiped.
//! 5. **Close codes** ([`CloseCode`]) say why a connection ends.
//!
//! # What is promised
//!
//! - `Message::peer` is who sent a message. Nothing else about a message is checked here.
//! - On one channel from one peer messages come in order, unless two connections of the pair were merged in between.
//! - Messages may be lost: when a queue overflows (by the channel's rule), when a connection ends, when the mempool's
//!   inbox is full. Whoever needs one resends it.
//! - A peer can delay other peers' messages on a channel only by its share of the inbox, and cannot delay another
//!   channel: streams have windows of their own, see the `transport` module.
//!
//! # Against hostile peers
//!
//! Every length is checked before memory is reserved; queues, tables, streams, handshakes and connections are bounded,
//! in total and per host; what all peers together make the node hold has one budget (the `budget` module says who goes
//! when it is used up); inbound rates are bounded per peer and channel by holding the stream back; a breach of the
//! protocol bans the node for a while; addresses prove themselves under load.

pub mod addr;
mod admission;
pub mod announce;
mod bans;
mod budget;
pub mod channel;
pub mod config;
mod dials;
pub mod discovery;
pub mod error;
mod event;
mod frame;
pub mod hello;
pub mod identity;
mod link;
mod metrics;
mod network;
mod peer;
mod queue;
mod rate;
mod request;
mod service;
mod shared;
mod tls;
mod transport;

pub use addr::Endpoint;
pub use announce::{Announcement, Claims};
pub use channel::{Channel, Overflow};
pub use config::{
    Backoff, ChannelLimits, ConfigError, Limits, NetworkConfig, NetworkId, ProtocolVersion, SUPPORTED_VERSIONS,
};
pub use error::{CloseCode, DisconnectReason, HandshakeError, Misbehaviour, NetworkError, RequestError, SendError};
pub use event::{Direction, Event, Message, PeerInfo, Request, Responder};
pub use identity::{Identity, NodeSignature};
pub use network::{Network, Receivers};
pub use tls::node_of_certificate;
