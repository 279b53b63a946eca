//! The socket and the QUIC parameters.
//!
//! **Windows.** QUIC's connection-wide windows are shared by all streams. If they were smaller than what the other
//! streams can take, a peer that floods the mempool, or a slow reader of it, would use them up, and a vote would wait
//! although its own stream is empty and its priority the highest. So the connection's windows are the sum of what all
//! channels together can hold: every channel has its own [`STREAM_WINDOW`], and no one can take another's.
//!
//! ```text
//!   receive window = 4 channel streams * STREAM_WINDOW                                             (any peer)
//!                  = (4 channel streams + our requests in flight + requests served) * STREAM_WINDOW  (reserved places)
//!   send window    = the same
//! ```
//!
//! A connection begins with the smaller windows, because what a peer was once allowed to send cannot be taken back, and
//! there may be many peers whom nobody vouches for: they share the windows between channels and requests.
//! The windows bound memory per peer as well. One stream moves at most STREAM_WINDOW per round trip: 20 MB/s at 100 ms.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use quinn::{AsyncUdpSocket, IdleTimeout, Runtime, TransportConfig, VarInt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    channel::Channel,
    config::{ConfigError, NetworkConfig},
};

/// Flow control window of one stream in bytes.
pub(crate) const STREAM_WINDOW: u32 = 2 << 20;

/// The windows of a connection in bytes, in either direction.
pub(crate) fn window(config: &NetworkConfig, reserved: bool) -> u64 {
    let requests = config.max_requests_per_peer + config.limits.of(Channel::Sync).queue_messages.min(1024);
    let streams = Channel::STREAMED.len() + if reserved { requests } else { 0 };
    streams as u64 * u64::from(STREAM_WINDOW)
}

/// QUIC parameters for both directions of dialling.
pub(crate) fn transport_config(config: &NetworkConfig) -> Result<TransportConfig, ConfigError> {
    let bad = |key: &str| ConfigError { key: key.to_owned(), rule: "is too large for QUIC".to_owned() };
    let served = u32::try_from(config.max_requests_per_peer).map_err(|_| bad("max_requests_per_peer"))?;
    let channels = u32::try_from(Channel::STREAMED.len()).expect("a handful of channels");
    let window = window(config, false);
    let idle = IdleTimeout::try_from(config.idle_timeout).map_err(|_| bad("idle_timeout"))?;
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_uni_streams(VarInt::from_u32(channels))
        // As many as are served at once, so that a further one waits at the asker. The hello is over before the first.
        .max_concurrent_bidi_streams(VarInt::from_u32(served))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u64(window).map_err(|_| bad("max_requests_per_peer"))?)
        .send_window(window)
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(config.keep_alive))
        .max_idle_timeout(Some(idle))
        .initial_rtt(Duration::from_millis(100));
    Ok(transport)
}

/// Opens the UDP socket with large buffers, as far as the system allows.
pub(crate) fn open_socket(config: &NetworkConfig, runtime: &dyn Runtime) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    let socket = Socket::new(Domain::for_address(config.listen), Type::DGRAM, Some(Protocol::UDP))?;
    if config.listen.is_ipv6() {
        // Not every system has dual-stack sockets; IPv6 alone works then.
        if let Err(error) = socket.set_only_v6(false) {
            tracing::debug!(%error, "the socket takes IPv6 only");
        }
    }
    for (what, result, size) in [
        ("receive", socket.set_recv_buffer_size(config.socket_buffer), socket.recv_buffer_size()),
        ("send", socket.set_send_buffer_size(config.socket_buffer), socket.send_buffer_size()),
    ] {
        let size = size.unwrap_or_default();
        if result.is_err() || size < config.socket_buffer / 4 {
            tracing::debug!(what, size, wanted = config.socket_buffer, "the system limits the socket's buffer");
        }
    }
    socket.set_nonblocking(true)?;
    socket.bind(&config.listen.into())?;
    runtime.wrap_udp_socket(socket.into())
}

/// Where other nodes reach this one, as far as it knows: the configured address, or the one it listens on unless that
/// stands for all addresses.
pub(crate) fn reachable_at(config: &NetworkConfig, local: SocketAddr) -> Option<SocketAddr> {
    config.external.or_else(|| (!local.ip().is_unspecified()).then_some(local))
}
