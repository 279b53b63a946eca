//! The other side: answering from final blocks.

use cascade_primitives::{BlockHash, Body, Header, Height};

use super::wire::{MAX_BODIES, MAX_HEADERS, RESPONSE_BYTES, SyncRequest, SyncResponse};
use crate::core::Finality;

/// Final blocks by height, from genesis on.
pub trait FinalChain {
    /// The newest final block's height.
    fn height(&self) -> Height;
    /// The header of a final block.
    fn header(&self, height: Height) -> Option<Header>;
    /// The body of a final block.
    fn body(&self, height: Height) -> Option<Body>;
    /// What made a block final.
    fn finality(&self, height: Height) -> Option<Finality>;
}

/// Answers a peer's request from final blocks.
///
/// A run of headers ends where a certificate closes it: at the largest such height within what was asked for, or, if
/// more blocks than that became final by one certificate, at the first one above. Where that is more than a response
/// holds, it stays open: [`MAX_HEADERS`] headers and the certificate that made the last of them final.
#[must_use]
pub fn answer(chain: &impl FinalChain, request: &SyncRequest) -> SyncResponse {
    match *request {
        SyncRequest::Headers { from, count } => headers(chain, from, count),
        SyncRequest::Bodies { from, count } => bodies(chain, from, count),
    }
}

fn headers(chain: &impl FinalChain, from: Height, count: u32) -> SyncResponse {
    let wanted = (count as usize).clamp(1, MAX_HEADERS);
    let mut headers: Vec<Header> = Vec::new();
    let mut closed: Option<(usize, Finality)> = None;
    let mut height = from;
    while from > Height(0) && height <= chain.height() && headers.len() < MAX_HEADERS {
        let Some(header) = chain.header(height) else { break };
        if headers.first().is_some_and(|first| first.epoch != header.epoch)
            || (closed.is_some() && headers.len() >= wanted)
        {
            break;
        }
        let hash = header.hash();
        headers.push(header);
        if let Some(finality) = chain.finality(height)
            && finality.closes(&hash)
        {
            closed = Some((headers.len(), finality));
        }
        height = height.next();
    }
    match closed {
        Some((count, finality)) => {
            headers.truncate(count);
            SyncResponse::Headers(headers, finality)
        }
        None if headers.len() == MAX_HEADERS => match chain.finality(headers[MAX_HEADERS - 1].height) {
            Some(finality) => SyncResponse::Headers(headers, finality),
            None => SyncResponse::Nothing,
        },
        None => SyncResponse::Nothing,
    }
}

fn bodies(chain: &impl FinalChain, from: Height, count: u32) -> SyncResponse {
    let mut bodies: Vec<Body> = Vec::new();
    let mut bytes = 0;
    for height in (from.0..).map(Height).take((count as usize).min(MAX_BODIES)) {
        if bytes >= RESPONSE_BYTES || height > chain.height() {
            break;
        }
        let Some(body) = chain.body(height) else { break };
        bytes += body.transaction_bytes();
        bodies.push(body);
    }
    if bodies.is_empty() { SyncResponse::Nothing } else { SyncResponse::Bodies(bodies) }
}

impl Finality {
    /// Whether it proves by itself that the block with this hash is final: it certifies the block, or a filler whose
    /// headers it has down to the block.
    #[must_use]
    pub fn closes(&self, hash: &BlockHash) -> bool {
        match self.fillers.first() {
            Some(filler) => filler.parent == *hash,
            None => self.certificate.target.block == *hash,
        }
    }
}
