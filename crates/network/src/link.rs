//! The tasks of one QUIC connection between two connected peers.
//!
//! ```text
//!              +-- writer consensus <--- queue        (one long stream each)
//!              +-- writer data      <--- queue
//!   supervise--+-- writer mempool   <--- queue
//!              +-- writer discovery <--- queue
//!              +-- streams: one reader per channel ---> inbox of the channel
//!              +-- requests: one task per request  ---> inbox of requests
//! ```
//!
//! The first task that ends with a reason ends them all. A link that was replaced ends after a while.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use quinn::{ConnectionError, ReadError, RecvStream, WriteError};
use tokio::task::JoinSet;

use crate::{
    budget::Charge,
    channel::Channel,
    error::{CloseCode, DisconnectReason, Misbehaviour, classify},
    frame::{FrameError, FrameReader, encode_batch},
    peer::{DRAIN, Link, Peer},
    request,
    shared::{Shared, Sinks},
};

/// A writer takes about this many bytes from its queue at once.
const BATCH_BYTES: usize = 256 * 1024;
/// A reader takes at most this many pieces from QUIC at once.
const READ_CHUNKS: usize = 64;
/// Shorter waits for the rate limit are saved up; timers are not finer.
pub(crate) const LEAST_WAIT: Duration = Duration::from_millis(2);

/// Why a link ends.
#[derive(Debug)]
pub(crate) enum End {
    /// The connection is gone.
    Connection(ConnectionError),
    /// The peer broke a rule.
    Misbehaved(Misbehaviour),
    /// Another link took over some time ago.
    Drained,
    /// A task panicked.
    Internal,
}

impl From<ConnectionError> for End {
    fn from(error: ConnectionError) -> Self {
        Self::Connection(error)
    }
}

/// Runs a link until it ends, and tells the registry.
pub(crate) async fn run(shared: Arc<Shared>, sinks: Arc<Sinks>, peer: Arc<Peer>, link: Arc<Link>) {
    let mut tasks = JoinSet::new();
    if !link.is_retired() {
        for channel in Channel::STREAMED {
            tasks.spawn(write(Arc::clone(&shared), Arc::clone(&peer), Arc::clone(&link), channel));
        }
    }
    tasks.spawn(read_streams(Arc::clone(&shared), Arc::clone(&sinks), Arc::clone(&peer), Arc::clone(&link)));
    tasks.spawn(request::serve(Arc::clone(&shared), sinks, Arc::clone(&peer), Arc::clone(&link)));
    let end = supervise(&mut tasks, &link).await;
    tracing::debug!(peer = %peer.node, ?end, "connection ends");
    let (reason, code) = match end {
        End::Connection(error) => match classify(&error) {
            Ok(reason) => (reason, CloseCode::Dropped),
            Err(misbehaviour) => {
                shared.punish(peer.node, misbehaviour);
                (DisconnectReason::Banned(misbehaviour), CloseCode::Banned)
            }
        },
        End::Misbehaved(misbehaviour) => {
            shared.punish(peer.node, misbehaviour);
            (DisconnectReason::Banned(misbehaviour), CloseCode::Banned)
        }
        End::Drained => (DisconnectReason::Replaced, CloseCode::Duplicate),
        End::Internal => (DisconnectReason::Lost("a task of the connection failed".to_owned()), CloseCode::Internal),
    };
    link.close(code);
    shared.link_ended(&peer, &link, reason);
    tasks.shutdown().await;
}

async fn supervise(tasks: &mut JoinSet<Result<(), End>>, link: &Link) -> End {
    let drained = async {
        link.until_retired().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::pin!(drained);
    loop {
        tokio::select! {
            Some(result) = tasks.join_next() => match result {
                // A writer ends when the link is replaced.
                Ok(Ok(())) => {}
                Ok(Err(end)) => return end,
                Err(error) => {
                    tracing::error!(%error, "a task of a connection failed");
                    return End::Internal;
                }
            },
            error = link.connection.closed() => return End::Connection(error),
            () = &mut drained => return End::Drained,
        }
    }
}

/// Writes what is queued on one channel until the link is replaced.
async fn write(shared: Arc<Shared>, peer: Arc<Peer>, link: Arc<Link>, channel: Channel) -> Result<(), End> {
    let queue = peer.queue(channel);
    let metrics = shared.metrics.of(channel);
    let mut stream = link.connection.open_uni().await?;
    // Fails only if the stream is gone, and then the write says so.
    let _ = stream.set_priority(channel.priority());
    stream.write_all(&[channel.id()]).await.map_err(write_end)?;
    let (mut messages, mut chunks, mut scratch) = (Vec::new(), Vec::new(), BytesMut::new());
    loop {
        queue.ready().await;
        if link.is_retired() {
            // The wake-up may have been meant for the writer of the link that took over.
            queue.wake();
            let _ = stream.finish();
            return Ok(());
        }
        queue.take(BATCH_BYTES, &mut messages);
        let (count, bytes) = (messages.len() as u64, messages.iter().map(Bytes::len).sum::<usize>() as u64);
        encode_batch(&mut messages, &mut scratch, &mut chunks);
        stream.write_all_chunks(&mut chunks).await.map_err(write_end)?;
        metrics.sent_messages.inc_by(count);
        metrics.sent_bytes.inc_by(bytes);
    }
}

fn write_end(error: WriteError) -> End {
    match error {
        WriteError::ConnectionLost(error) => End::Connection(error),
        // Nobody who keeps to the protocol stops a channel.
        _ => End::Misbehaved(Misbehaviour::ProtocolViolation),
    }
}

/// Takes the peer's streams, one per channel.
async fn read_streams(shared: Arc<Shared>, sinks: Arc<Sinks>, peer: Arc<Peer>, link: Arc<Link>) -> Result<(), End> {
    let taken: Arc<[AtomicBool; 5]> = Arc::default();
    let mut readers = JoinSet::new();
    loop {
        tokio::select! {
            stream = link.connection.accept_uni() => {
                let reader = Reader {
                    shared: Arc::clone(&shared),
                    sinks: Arc::clone(&sinks),
                    peer: Arc::clone(&peer),
                    taken: Arc::clone(&taken),
                };
                readers.spawn(reader.run(stream?));
            }
            Some(result) = readers.join_next() => result.map_err(|_| End::Internal)??,
        }
    }
}

struct Reader {
    shared: Arc<Shared>,
    sinks: Arc<Sinks>,
    peer: Arc<Peer>,
    taken: Arc<[AtomicBool; 5]>,
}

impl Reader {
    async fn run(self, mut stream: RecvStream) -> Result<(), End> {
        let mut id = [0];
        match stream.read(&mut id).await {
            Ok(Some(_)) => {}
            Err(ReadError::ConnectionLost(error)) => return Err(End::Connection(error)),
            // A stream that says nothing only costs work.
            Ok(None) | Err(_) => return Err(End::Misbehaved(Misbehaviour::WrongChannel)),
        }
        let channel = Channel::from_id(id[0])
            .filter(|channel| Channel::STREAMED.contains(channel))
            .ok_or(End::Misbehaved(Misbehaviour::WrongChannel))?;
        if self.taken[channel.index()].swap(true, Ordering::Relaxed) {
            return Err(End::Misbehaved(Misbehaviour::TooManyStreams));
        }
        self.messages(channel, stream).await
    }

    async fn messages(&self, channel: Channel, mut stream: RecvStream) -> Result<(), End> {
        let mut frames = FrameReader::new(self.shared.config.limits.of(channel).max_message);
        let mut chunks = vec![Bytes::new(); READ_CHUNKS];
        let mut batch = Vec::new();
        // The pieces that QUIC handed over are counted as messages, finished or not.
        let mut charge = Charge::new(&self.peer.account, 0);
        loop {
            if !self.peer.is_reserved() {
                self.peer.account.budget().room().await;
            }
            let count = match stream.read_chunks(&mut chunks).await {
                Ok(Some(count)) => count,
                Ok(None) => return Ok(()),
                Err(error) => return read_end(error),
            };
            let mut broken = None;
            for chunk in &mut chunks[..count] {
                while !chunk.is_empty() && broken.is_none() {
                    match frames.next(chunk) {
                        Ok(message) => batch.extend(message),
                        Err(error) => broken = Some(error),
                    }
                }
                *chunk = Bytes::new();
            }
            let unfinished = frames.held();
            charge.set(unfinished + batch.iter().map(Bytes::len).sum::<usize>());
            if !batch.is_empty() {
                self.limit(channel, &batch).await;
                self.deliver(channel, &mut batch).await;
                charge.set(unfinished);
            }
            if let Some(error) = broken {
                return Err(frame_end(error));
            }
            // QUIC has no part in tokio's fairness: a stream that never runs dry would keep this thread.
            tokio::task::consume_budget().await;
        }
    }

    /// Counts what came in and holds the stream back while the peer is above its rate; flow control then holds the
    /// peer back.
    async fn limit(&self, channel: Channel, batch: &[Bytes]) {
        let metrics = self.shared.metrics.of(channel);
        let (count, bytes) = (batch.len() as u64, batch.iter().map(Bytes::len).sum());
        metrics.received_messages.inc_by(count);
        metrics.received_bytes.inc_by(bytes as u64);
        let wait = self.peer.charge(channel, count, bytes);
        if wait >= LEAST_WAIT {
            metrics.throttled.inc();
            tokio::time::sleep(wait).await;
        }
    }

    async fn deliver(&self, channel: Channel, batch: &mut Vec<Bytes>) {
        let peer = self.peer.node;
        let (inbox, waits) = match channel {
            Channel::Consensus => (&self.sinks.consensus, true),
            Channel::Data => (&self.sinks.data, true),
            Channel::Mempool => (&self.sinks.mempool, false),
            Channel::Discovery => (&self.sinks.discovery, false),
            Channel::Sync => unreachable!("sync has no channel stream"),
        };
        let mut dropped = 0;
        for payload in batch.drain(..) {
            // Waiting stops this stream of this peer and nothing else.
            let taken = if waits { inbox.wait(peer, payload).await } else { inbox.offer(peer, payload) };
            dropped += u64::from(!taken);
        }
        if dropped > 0 {
            self.shared.metrics.of(channel).dropped_inbox.inc_by(dropped);
        }
    }
}

const fn frame_end(error: FrameError) -> End {
    End::Misbehaved(match error {
        FrameError::TooLong { .. } => Misbehaviour::Oversized,
        FrameError::Empty => Misbehaviour::EmptyFrame,
    })
}

fn read_end(error: ReadError) -> Result<(), End> {
    match error {
        ReadError::ConnectionLost(error) => Err(End::Connection(error)),
        // The peer gave up its stream, and with it the channel for as long as this link lives.
        _ => Ok(()),
    }
}
