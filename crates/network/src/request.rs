//! Requests and responses of the sync channel: one bidirectional stream each.
//!
//! ```text
//!   asker --> request bytes, end of stream
//!         <-- status u8 (0 response, 1 busy, 2 refused), response bytes, end of stream
//! ```

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use quinn::{Connection, ReadError, ReadToEndError, RecvStream, SendStream, WriteError};
use tokio::{
    sync::{mpsc::error::TrySendError, oneshot},
    task::JoinSet,
    time::timeout,
};

use crate::{
    budget::Charge,
    channel::Channel,
    config::NetworkConfig,
    error::{DisconnectReason, Misbehaviour, RequestError, classify},
    event::{Reply, Request, Responder},
    link::{End, LEAST_WAIT},
    peer::{Link, Peer},
    shared::{Shared, Sinks},
};

const RESPONSE: u8 = 0;
const BUSY: u8 = 1;
const REFUSED: u8 = 2;

/// Asks a peer and waits for its response.
pub(crate) async fn ask(shared: &Shared, peer: &Peer, payload: Bytes) -> Result<Bytes, RequestError> {
    let limits = shared.config.limits.of(Channel::Sync);
    if payload.is_empty() || payload.len() > limits.max_message {
        return Err(RequestError::Size { length: payload.len(), limit: limits.max_message });
    }
    let Ok(_permit) = peer.asking.try_acquire() else {
        return Err(RequestError::Overloaded(limits.queue_messages));
    };
    let start = Instant::now();
    let metrics = shared.metrics.of(Channel::Sync);
    metrics.sent_messages.inc();
    metrics.sent_bytes.inc_by(payload.len() as u64);
    let link = peer.link();
    let limit = shared.config.request_timeout;
    let result = match timeout(limit, exchange(&shared.config, &link.connection, payload)).await {
        Ok(result) => result,
        Err(_) => Err(RequestError::Timeout(limit)),
    };
    match &result {
        Ok(response) => {
            shared.metrics.request_seconds.observe(start.elapsed().as_secs_f64());
            metrics.received_messages.inc();
            metrics.received_bytes.inc_by(response.len() as u64);
        }
        Err(RequestError::ResponseTooLarge { .. } | RequestError::Malformed) => {
            shared.punish(peer.node, Misbehaviour::BadResponse);
        }
        Err(_) => {}
    }
    shared.metrics.requests.with_label_values(&[label(&result)]).inc();
    result
}

async fn exchange(config: &NetworkConfig, connection: &Connection, payload: Bytes) -> Result<Bytes, RequestError> {
    let lost = |error| RequestError::Lost(classify(&error).unwrap_or_else(DisconnectReason::Banned));
    let (mut send, mut recv) = connection.open_bi().await.map_err(lost)?;
    // Fails only if the stream is gone, and then the write says so.
    let _ = send.set_priority(Channel::Sync.priority());
    match send.write_chunk(payload).await {
        Ok(()) => {}
        Err(WriteError::ConnectionLost(error)) => return Err(lost(error)),
        // The peer answers before it has read all, to say that it is busy.
        Err(_) => {}
    }
    let _ = send.finish();
    let limit = config.max_response;
    let mut response = match recv.read_to_end(limit + 1).await {
        Ok(bytes) => Bytes::from(bytes),
        Err(ReadToEndError::TooLong) => return Err(RequestError::ResponseTooLarge { limit }),
        Err(ReadToEndError::Read(ReadError::ConnectionLost(error))) => return Err(lost(error)),
        Err(ReadToEndError::Read(_)) => return Err(RequestError::Refused),
    };
    if response.is_empty() {
        return Err(RequestError::Malformed);
    }
    match response.split_to(1)[0] {
        RESPONSE => Ok(response),
        BUSY => Err(RequestError::Busy),
        REFUSED => Err(RequestError::Refused),
        _ => Err(RequestError::Malformed),
    }
}

const fn label(result: &Result<Bytes, RequestError>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(RequestError::NotConnected) => "not_connected",
        Err(RequestError::Size { .. }) => "size",
        Err(RequestError::Overloaded(_)) => "overloaded",
        Err(RequestError::Busy) => "busy",
        Err(RequestError::Refused) => "refused",
        Err(RequestError::Timeout(_)) => "timeout",
        Err(RequestError::ResponseTooLarge { .. }) => "too_large",
        Err(RequestError::Malformed) => "malformed",
        Err(RequestError::Lost(_)) => "lost",
    }
}

/// Takes a peer's requests for as long as the link lives.
pub(crate) async fn serve(shared: Arc<Shared>, sinks: Arc<Sinks>, peer: Arc<Peer>, link: Arc<Link>) -> Result<(), End> {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            streams = link.connection.accept_bi() => {
                let (send, recv) = streams?;
                // Counted before it is read, so that opening and abandoning streams is limited as well.
                let wait = peer.charge(Channel::Sync, 1, 0);
                if wait >= LEAST_WAIT {
                    shared.metrics.of(Channel::Sync).throttled.inc();
                    tokio::time::sleep(wait).await;
                }
                tasks.spawn(serve_one(Arc::clone(&shared), Arc::clone(&sinks), Arc::clone(&peer), send, recv));
            }
            Some(result) = tasks.join_next() => result.map_err(|_| End::Internal)??,
        }
    }
}

async fn serve_one(
    shared: Arc<Shared>,
    sinks: Arc<Sinks>,
    peer: Arc<Peer>,
    mut send: SendStream,
    mut recv: RecvStream,
) -> Result<(), End> {
    let reply = match Arc::clone(&peer.serving).try_acquire_owned() {
        Ok(permit) => {
            let reply = answer(&shared, &sinks, &peer, &mut recv).await?;
            drop(permit);
            reply
        }
        Err(_) => Some(Reply::Busy),
    };
    let Some(reply) = reply else { return Ok(()) };
    shared.metrics.served.with_label_values(&[served_label(&reply)]).inc();
    let _ = send.set_priority(Channel::Sync.priority());
    let write = async {
        match reply {
            Reply::Response(response) => {
                // Whoever asks for much and reads nothing pays for what is held for it.
                let _charge = Charge::new(&peer.account, response.len());
                let metrics = shared.metrics.of(Channel::Sync);
                metrics.sent_messages.inc();
                metrics.sent_bytes.inc_by(response.len() as u64);
                send.write_all_chunks(&mut [Bytes::from_static(&[RESPONSE]), response]).await
            }
            Reply::Busy => send.write_all(&[BUSY]).await,
            Reply::Refused => send.write_all(&[REFUSED]).await,
        }
    };
    // If the asker is slow or gone, dropping the stream abandons it.
    if let Ok(Ok(())) = timeout(shared.config.request_timeout, write).await {
        let _ = send.finish();
    }
    Ok(())
}

/// Reads a request and has it answered; nothing if the asker does not come to its end.
async fn answer(shared: &Shared, sinks: &Sinks, peer: &Peer, recv: &mut RecvStream) -> Result<Option<Reply>, End> {
    let config = &shared.config;
    let limit = config.limits.of(Channel::Sync).max_message;
    let payload = match timeout(config.request_timeout, recv.read_to_end(limit)).await {
        Ok(Ok(bytes)) => Bytes::from(bytes),
        Ok(Err(ReadToEndError::TooLong)) => return Err(End::Misbehaved(Misbehaviour::Oversized)),
        Ok(Err(ReadToEndError::Read(_))) | Err(_) => return Ok(None),
    };
    if payload.is_empty() {
        return Err(End::Misbehaved(Misbehaviour::EmptyFrame));
    }
    let metrics = shared.metrics.of(Channel::Sync);
    metrics.received_messages.inc();
    metrics.received_bytes.inc_by(payload.len() as u64);
    let wait = peer.charge(Channel::Sync, 0, payload.len());
    if !wait.is_zero() {
        metrics.throttled.inc();
        if wait > config.request_timeout {
            return Ok(Some(Reply::Busy));
        }
        tokio::time::sleep(wait).await;
    }
    // All others wait for their turn, in order, so that answers of the largest size cannot add up.
    let _turn = if peer.is_reserved() {
        None
    } else {
        match timeout(config.request_timeout, shared.serving.acquire()).await {
            Ok(turn) => turn.ok(),
            Err(_) => return Ok(Some(Reply::Busy)),
        }
    };
    let (reply, response) = oneshot::channel();
    let request = Request { peer: peer.node, payload, reply: Responder { reply } };
    match sinks.requests.try_send(request) {
        Ok(()) => {}
        Err(TrySendError::Full(_)) => {
            metrics.dropped_inbox.inc();
            return Ok(Some(Reply::Busy));
        }
        Err(TrySendError::Closed(_)) => return Ok(Some(Reply::Refused)),
    }
    Ok(Some(match timeout(config.request_timeout, response).await {
        Ok(Ok(Reply::Response(response))) if response.len() > config.max_response => {
            tracing::error!(length = response.len(), limit = config.max_response, "a response exceeds the limit");
            Reply::Refused
        }
        Ok(Ok(reply)) => reply,
        Ok(Err(_)) => Reply::Refused,
        Err(_) => Reply::Busy,
    }))
}

const fn served_label(reply: &Reply) -> &'static str {
    match reply {
        Reply::Response(_) => "ok",
        Reply::Busy => "busy",
        Reply::Refused => "refused",
    }
}
