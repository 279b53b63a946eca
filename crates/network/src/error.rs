//! Typed reasons: why starting, dialling, sending or asking failed, and why a peer is gone.

use std::{io, net::SocketAddr, time::Duration};

use cascade_primitives::{Decode, DecodeError, NodeId};
use quinn::{ApplicationClose, ConnectionError, TransportErrorCode};
use thiserror::Error;

use crate::{
    bans::BAN_AT,
    channel::Channel,
    config::{ConfigError, NetworkId},
};

/// Why the network did not start.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// The configuration breaks a rule.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The socket could not be opened, for example because the port is in use.
    #[error("cannot listen on UDP {addr}: {source}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The TLS setup was refused.
    #[error("TLS setup: {0}")]
    Tls(String),
    /// A metric of the same name is registered already.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The operating system gave no randomness.
    #[error("no randomness from the system: {0}")]
    Random(#[from] getrandom::Error),
}

/// Why a message was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SendError {
    /// There is no connection to the peer.
    #[error("no connection to this peer")]
    NotConnected,
    /// The message exceeds the channel's limit or is empty.
    #[error("a message of {length} bytes on {channel}, which takes 1 to {limit}")]
    Size {
        /// The channel.
        channel: Channel,
        /// Length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The queue is full and its rule drops the newest.
    #[error("the {0} queue to this peer is full")]
    Full(Channel),
    /// The channel does not carry messages of the layer above: sync has requests, discovery is the network's own.
    #[error("{0} does not carry messages of this layer")]
    NotForMessages(Channel),
}

/// Why a request has no response.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// There is no connection to the peer.
    #[error("no connection to this peer")]
    NotConnected,
    /// The request is empty or exceeds the limit.
    #[error("a request of {length} bytes, allowed are 1 to {limit}")]
    Size {
        /// Length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Too many requests to this peer are in flight; this is sync's overflow rule.
    #[error("{0} requests to this peer are in flight, which is the limit")]
    Overloaded(usize),
    /// The peer serves as many requests as it wants to.
    #[error("the peer is busy")]
    Busy,
    /// The peer does not answer this request.
    #[error("the peer refused the request")]
    Refused,
    /// No whole response came in time.
    #[error("no response within {0:?}")]
    Timeout(Duration),
    /// The response exceeds the limit. Counts as misbehaviour.
    #[error("the response exceeds the limit of {limit} bytes")]
    ResponseTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The response breaks the protocol. Counts as misbehaviour.
    #[error("malformed response")]
    Malformed,
    /// The connection ended before the response.
    #[error("connection lost: {0}")]
    Lost(DisconnectReason),
}

/// Why a dial or an inbound handshake did not lead to a connected peer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HandshakeError {
    /// Nobody answered in time.
    #[error("no handshake within {0:?}")]
    Timeout(Duration),
    /// The address cannot be dialled.
    #[error("cannot dial: {0}")]
    Address(String),
    /// The node that answered is not the one that was meant.
    #[error("expected node {expected}, found {found}")]
    WrongIdentity {
        /// Who should have been there.
        expected: NodeId,
        /// Who was.
        found: NodeId,
    },
    /// The two sides have no protocol version in common.
    #[error("no protocol version in common")]
    Version,
    /// The other node is of a different chain.
    #[error("the peer is of another chain: it has {theirs}, we have {ours}")]
    WrongNetwork {
        /// Our chain.
        ours: NetworkId,
        /// Theirs.
        theirs: NetworkId,
    },
    /// The address is our own.
    #[error("this address is our own")]
    Ourselves,
    /// The pair is connected already.
    #[error("already connected")]
    Duplicate,
    /// The other node is banned here.
    #[error("the peer is banned here")]
    Banned,
    /// All places are taken here.
    #[error("all places for peers are taken")]
    TooManyPeers,
    /// The hello message was malformed.
    #[error("malformed hello: {0}")]
    Hello(DecodeError),
    /// The other side said no.
    #[error("refused by the peer: {0}")]
    Refused(CloseCode),
    /// TLS or QUIC failed otherwise.
    #[error("{0}")]
    Transport(String),
}

impl HandshakeError {
    /// A short name for metrics.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "timeout",
            Self::Address(_) => "address",
            Self::WrongIdentity { .. } => "wrong_identity",
            Self::Version => "version",
            Self::WrongNetwork { .. } => "wrong_network",
            Self::Ourselves => "ourselves",
            Self::Duplicate => "duplicate",
            Self::Banned => "banned",
            Self::TooManyPeers => "too_many_peers",
            Self::Hello(_) => "hello",
            Self::Refused(_) => "refused",
            Self::Transport(_) => "transport",
        }
    }

    /// What a failed connection means during the handshake.
    pub(crate) fn from_connection(error: ConnectionError, ours: NetworkId) -> Self {
        /// TLS alert no_application_protocol (RFC 7301).
        const NO_APPLICATION_PROTOCOL: u8 = 120;
        let no_version = |code| code == TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL);
        match error {
            ConnectionError::TransportError(e) if no_version(e.code) => Self::Version,
            ConnectionError::ConnectionClosed(e) if no_version(e.error_code) => Self::Version,
            ConnectionError::ApplicationClosed(close) => match CloseCode::from_close(&close) {
                CloseCode::WrongNetwork => match NetworkId::from_slice(&close.reason) {
                    Ok(theirs) => Self::WrongNetwork { ours, theirs },
                    Err(_) => Self::Refused(CloseCode::WrongNetwork),
                },
                CloseCode::Duplicate => Self::Duplicate,
                code => Self::Refused(code),
            },
            other => Self::Transport(other.to_string()),
        }
    }
}

macro_rules! close_codes {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal, $text:literal;)*) => {
        /// The application error code of a QUIC CONNECTION_CLOSE between two nodes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum CloseCode {
            $($(#[doc = $doc])* $name,)*
            /// A code that this version does not know.
            Unknown(u64),
        }

        impl CloseCode {
            /// The code on the wire.
            #[must_use]
            pub const fn code(self) -> u64 {
                match self {
                    $(Self::$name => $code,)*
                    Self::Unknown(code) => code,
                }
            }

            /// The meaning of a wire code.
            #[must_use]
            pub const fn from_code(code: u64) -> Self {
                match code {
                    $($code => Self::$name,)*
                    other => Self::Unknown(other),
                }
            }
        }

        impl std::fmt::Display for CloseCode {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    $(Self::$name => f.write_str($text),)*
                    Self::Unknown(code) => write!(f, "close code {code}"),
                }
            }
        }
    };
}

close_codes! {
    /// The node stops.
    Shutdown = 0, "the node stops";
    /// The nodes are of different chains; the reason bytes are the sender's encoded [`NetworkId`].
    WrongNetwork = 1, "different chain";
    /// All places are taken.
    TooManyPeers = 2, "all places are taken";
    /// The other connection of this pair is kept.
    Duplicate = 3, "the pair has another connection";
    /// The receiver of this code is banned.
    Banned = 4, "banned";
    /// A node dialled itself.
    Ourselves = 5, "a node dialled itself";
    /// The hello message was malformed.
    BadHello = 6, "malformed hello";
    /// A reserved peer needed the place, or the peer held the most when all held too much.
    Evicted = 7, "a committee member needed the place, or the peer made the node hold too much";
    /// The receiver of this code started anew on another connection.
    Superseded = 8, "the peer came back on a new connection";
    /// The layer above asked for it.
    Dropped = 9, "disconnected on request";
    /// A task of the connection failed on the sender's side.
    Internal = 10, "internal error";
}

impl CloseCode {
    pub(crate) const fn from_close(close: &ApplicationClose) -> Self {
        Self::from_code(close.error_code.into_inner())
    }

    pub(crate) fn var_int(self) -> quinn::VarInt {
        quinn::VarInt::from_u64(self.code()).unwrap_or(quinn::VarInt::MAX)
    }
}

/// What a peer did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum Misbehaviour {
    /// A frame above its channel's limit. Banned at once.
    #[error("oversized frame")]
    Oversized,
    /// An empty frame. Banned at once.
    #[error("empty frame")]
    EmptyFrame,
    /// A stream with an unknown channel id, or with one that has no streams. Banned at once.
    #[error("wrong channel id")]
    WrongChannel,
    /// A second stream of a channel, or more streams than allowed. Banned at once.
    #[error("too many streams")]
    TooManyStreams,
    /// A breach of QUIC itself (RFC 9000, 20.1). Banned at once.
    #[error("QUIC protocol violation")]
    ProtocolViolation,
    /// A message that does not decode. Banned at once.
    #[error("undecodable message")]
    Undecodable,
    /// A signature that does not verify. Banned at once.
    #[error("invalid signature")]
    InvalidSignature,
    /// A message that decodes and breaks a rule that its sender could have checked. Four of them are a ban.
    #[error("invalid content")]
    InvalidContent,
    /// A response that is malformed or too large. Two of them are a ban.
    #[error("bad response")]
    BadResponse,
    /// More of something than asked for or useful. Ten of them are a ban.
    #[error("spam")]
    Spam,
    /// No answer to a request. Twenty of them are a ban.
    #[error("unresponsive")]
    Unresponsive,
}

impl Misbehaviour {
    /// Points of 100 that ban.
    pub(crate) const fn points(self) -> u32 {
        match self {
            Self::Oversized
            | Self::EmptyFrame
            | Self::WrongChannel
            | Self::TooManyStreams
            | Self::ProtocolViolation
            | Self::Undecodable
            | Self::InvalidSignature => BAN_AT,
            Self::BadResponse => BAN_AT / 2,
            Self::InvalidContent => BAN_AT / 4,
            Self::Spam => BAN_AT / 10,
            Self::Unresponsive => BAN_AT / 20,
        }
    }

    /// A short name for metrics.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Oversized => "oversized",
            Self::EmptyFrame => "empty_frame",
            Self::WrongChannel => "wrong_channel",
            Self::TooManyStreams => "too_many_streams",
            Self::ProtocolViolation => "protocol_violation",
            Self::Undecodable => "undecodable",
            Self::InvalidSignature => "invalid_signature",
            Self::InvalidContent => "invalid_content",
            Self::BadResponse => "bad_response",
            Self::Spam => "spam",
            Self::Unresponsive => "unresponsive",
        }
    }
}

/// Why a connected peer is gone.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DisconnectReason {
    /// We stop.
    #[error("this node stops")]
    Shutdown,
    /// The peer closed the connection and said why.
    #[error("closed by the peer: {0}")]
    Closed(CloseCode),
    /// The peer was silent for the idle timeout.
    #[error("the peer fell silent")]
    TimedOut,
    /// The peer was banned for this.
    #[error("banned: {0}")]
    Banned(Misbehaviour),
    /// A reserved peer needed the place, or the peer held the most when all held too much.
    #[error("a committee member needed the place, or the peer made this node hold too much")]
    Evicted,
    /// The peer restarted and is connected anew.
    #[error("the peer started anew")]
    Restarted,
    /// The layer above asked for it.
    #[error("disconnected on request")]
    Requested,
    /// Another connection of the pair took over.
    #[error("another connection took over")]
    Replaced,
    /// QUIC ended the connection.
    #[error("connection lost: {0}")]
    Lost(String),
}

/// What a connection error means for a connected peer: a breach by the peer, or a plain end.
pub(crate) fn classify(error: &ConnectionError) -> Result<DisconnectReason, Misbehaviour> {
    const BREACHES: [TransportErrorCode; 6] = [
        TransportErrorCode::FLOW_CONTROL_ERROR,
        TransportErrorCode::STREAM_STATE_ERROR,
        TransportErrorCode::FINAL_SIZE_ERROR,
        TransportErrorCode::FRAME_ENCODING_ERROR,
        TransportErrorCode::PROTOCOL_VIOLATION,
        TransportErrorCode::CRYPTO_BUFFER_EXCEEDED,
    ];
    Ok(match error {
        ConnectionError::ApplicationClosed(close) => DisconnectReason::Closed(CloseCode::from_close(close)),
        ConnectionError::TimedOut => DisconnectReason::TimedOut,
        // Whoever closes a single connection removes the peer first; what is left is the end of the node.
        ConnectionError::LocallyClosed => DisconnectReason::Shutdown,
        ConnectionError::TransportError(e) if e.code == TransportErrorCode::STREAM_LIMIT_ERROR => {
            return Err(Misbehaviour::TooManyStreams);
        }
        ConnectionError::TransportError(e) if BREACHES.contains(&e.code) => {
            return Err(Misbehaviour::ProtocolViolation);
        }
        other => DisconnectReason::Lost(other.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_codes_round_trip() {
        for code in 0..=10 {
            let known = CloseCode::from_code(code);
            assert!(!matches!(known, CloseCode::Unknown(_)), "{code}");
            assert_eq!(known.code(), code);
        }
        assert_eq!(CloseCode::from_code(99), CloseCode::Unknown(99));
    }
}
