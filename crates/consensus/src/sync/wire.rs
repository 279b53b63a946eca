//! Requests and responses, and their encoding.

use std::sync::Arc;

use cascade_primitives::{
    Body, Certificate, Decode, DecodeError, DecodeErrorKind, Encode, Header, Height, Reader, block::MAX_FILLER_HEADERS,
    codec::encode_list,
};

use crate::core::Finality;

/// Headers that one response may carry.
pub const MAX_HEADERS: usize = 1024;
/// Bodies that one response may carry.
pub const MAX_BODIES: usize = 64;
/// Bytes of bodies after which a response takes no further one.
pub const RESPONSE_BYTES: usize = 4 << 20;
/// Asks a peer for final blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncRequest {
    /// Headers from a height on, closed by what makes the last one final.
    Headers {
        /// The first.
        from: Height,
        /// How many, about.
        count: u32,
    },
    /// Bodies from a height on.
    Bodies {
        /// The first.
        from: Height,
        /// How many at most.
        count: u32,
    },
}

/// Answers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncResponse {
    /// The peer has nothing of it.
    Nothing,
    /// Headers of consecutive heights, all of one epoch, and what makes the last one final. It need not close them if
    /// they are [`MAX_HEADERS`].
    Headers(Vec<Header>, Finality),
    /// Bodies of consecutive heights, at least one, as many as fit.
    Bodies(Vec<Body>),
}

impl Encode for Finality {
    fn encode(&self, out: &mut Vec<u8>) {
        self.certificate.encode(out);
        encode_list(&self.fillers, out);
    }
}

impl Decode for Finality {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            certificate: Arc::new(Certificate::decode(r)?),
            fillers: r.field("filler headers").list(MAX_FILLER_HEADERS)?,
        })
    }
}

impl Encode for SyncRequest {
    fn encode(&self, out: &mut Vec<u8>) {
        let (tag, from, count) = match self {
            Self::Headers { from, count } => (1, from, count),
            Self::Bodies { from, count } => (2, from, count),
        };
        out.push(tag);
        from.encode(out);
        count.encode(out);
    }
}

impl Decode for SyncRequest {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let tag = u8::decode(r.field("sync request"))?;
        let (from, count) = (Height::decode(r)?, u32::decode(r)?);
        match tag {
            1 => Ok(Self::Headers { from, count }),
            2 => Ok(Self::Bodies { from, count }),
            tag => Err(r.error(DecodeErrorKind::UnknownTag(u64::from(tag)))),
        }
    }
}

impl Encode for SyncResponse {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Nothing => out.push(0),
            Self::Headers(headers, finality) => {
                out.push(1);
                encode_list(headers, out);
                finality.encode(out);
            }
            Self::Bodies(bodies) => {
                out.push(2);
                encode_list(bodies, out);
            }
        }
    }
}

impl Decode for SyncResponse {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(r.field("sync response"))? {
            0 => Ok(Self::Nothing),
            1 => Ok(Self::Headers(r.field("sync headers").list(MAX_HEADERS)?, Finality::decode(r)?)),
            2 => Ok(Self::Bodies(r.field("sync bodies").list(MAX_BODIES)?)),
            tag => Err(r.error(DecodeErrorKind::UnknownTag(u64::from(tag)))),
        }
    }
}
