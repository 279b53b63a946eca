//! What the network tells the layer above.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cascade_primitives::NodeId;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::{
    announce::Announcement,
    config::ProtocolVersion,
    error::{DisconnectReason, HandshakeError},
    metrics::Metrics,
};

/// Events that wait for a reader; from here on peers are no longer admitted and failures no longer reported.
const BACKLOG: usize = 1024;

/// A one-way message of a peer.
#[derive(Debug)]
pub struct Message {
    /// Who sent it; authenticated.
    pub peer: NodeId,
    /// What was sent: 1 byte up to the channel's limit.
    pub payload: Bytes,
    /// What it takes of its inbox, until the message is dropped or taken apart.
    pub(crate) _room: OwnedSemaphorePermit,
}

/// A request of a peer on the sync channel.
#[derive(Debug)]
pub struct Request {
    /// Who asks; authenticated.
    pub peer: NodeId,
    /// What is asked.
    pub payload: Bytes,
    /// Where the answer goes.
    pub reply: Responder,
}

/// What a request is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Response(Bytes),
    Busy,
    Refused,
}

/// Answers one request. Dropping it refuses the request.
#[derive(Debug)]
pub struct Responder {
    pub(crate) reply: oneshot::Sender<Reply>,
}

impl Responder {
    /// Answers. A response above the limit is refused instead, and an error is logged. If the peer no longer waits,
    /// nothing happens.
    pub fn respond(self, response: Bytes) {
        let _ = self.reply.send(Reply::Response(response));
    }

    /// Says that this request is not answered.
    pub fn refuse(self) {
        let _ = self.reply.send(Reply::Refused);
    }

    /// Says that there is too much to do; the peer may ask again later.
    pub fn busy(self) {
        let _ = self.reply.send(Reply::Busy);
    }

    /// Whether the peer still waits for the answer.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        !self.reply.is_closed()
    }
}

/// Who dialled a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The peer.
    Inbound,
    /// This node.
    Outbound,
}

impl Direction {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// A connected peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// Who it is.
    pub node: NodeId,
    /// The address of the connection.
    pub address: SocketAddr,
    /// The address that it says it can be dialled at.
    pub listen: Option<SocketAddr>,
    /// Software and version, in its own words; printable ASCII.
    pub agent: String,
    /// The negotiated protocol version.
    pub version: ProtocolVersion,
    /// Who dialled.
    pub direction: Direction,
    /// Whether it has a reserved place.
    pub reserved: bool,
    /// How long it has been connected.
    pub connected_for: Duration,
    /// The current estimate of the round trip.
    pub round_trip: Duration,
}

/// A change that the layer above may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A peer is connected. Always followed by one `Disconnected`.
    Connected(PeerInfo),
    /// A connected peer is gone.
    Disconnected {
        /// Who.
        peer: NodeId,
        /// Why.
        reason: DisconnectReason,
    },
    /// A dial that somebody asked for failed; it will be tried again. Dropped when events are not read.
    DialFailed {
        /// The address.
        address: SocketAddr,
        /// Who was meant.
        expected: Option<NodeId>,
        /// Why.
        error: HandshakeError,
    },
    /// An inbound connection was turned away after TLS. Dropped when events are not read.
    Refused {
        /// Its address.
        address: SocketAddr,
        /// Who it was, if TLS got that far.
        peer: Option<NodeId>,
        /// Why.
        error: HandshakeError,
    },
    /// A new or renewed announcement was found. Dropped when events are not read.
    Found(Box<Announcement>),
}

/// Sends events in the order in which they happened, without waiting. Bounded by refusing what causes them.
#[derive(Debug)]
pub(crate) struct EventSink {
    queue: mpsc::UnboundedSender<Event>,
    waiting: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

impl EventSink {
    /// The sink, and the task that moves events to `out`.
    pub(crate) fn new(metrics: Arc<Metrics>, out: mpsc::Sender<Event>) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, mut events) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let forward = {
            let waiting = Arc::clone(&waiting);
            async move {
                while let Some(event) = events.recv().await {
                    // Nobody needs to read events; then they are only counted off.
                    let _ = out.send(event).await;
                    waiting.fetch_sub(1, Ordering::Relaxed);
                }
            }
        };
        (Self { queue, waiting, metrics }, forward)
    }

    /// Whether there is room for the events of one more peer.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) < BACKLOG
    }

    /// Sends what must not be lost.
    pub(crate) fn send(&self, event: Event) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // The receiver lives until the sink is gone.
        let _ = self.queue.send(event);
    }

    /// Sends if there is room.
    pub(crate) fn report(&self, event: Event) {
        if self.has_room() {
            self.send(event);
        } else {
            self.metrics.events_dropped.inc();
        }
    }
}
