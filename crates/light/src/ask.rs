//! The one kind of request that a node's door for light clients takes, whatever the transport, and its answers.
//!
//! | transport | request | answer |
//! |---|---|---|
//! | HTTP | `POST /light`, the bytes of an [`Ask`] | 200 and the bytes of a [`Reply`] |
//! | QUIC | a stream of the sync channel: [`QUIC_TAG`], then the bytes of an [`Ask`] | the bytes of a [`Reply`] |

use cascade_da::{
    BadEncoding,
    wire::{Answer as DataAnswer, Request as DataRequest},
};
use cascade_primitives::{Decode, DecodeError, DecodeErrorKind, Encode, Height, Reader};

use crate::wire::{ChainAnswer, ChainRequest};

/// First byte of a request on the sync channel that is for this door. Requests for runs of final blocks begin with
/// others.
pub const QUIC_TAG: u8 = 16;
/// Longest encoding of an [`Ask`], in bytes: a bad-encoding proof.
pub const MAX_ASK_BYTES: usize = 1 << 20;
/// Longest encoding of a [`Reply`], in bytes.
pub const MAX_REPLY_BYTES: usize = (1 << 20) + 16;

/// What is asked of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// About the chain.
    Chain(ChainRequest),
    /// About data.
    Data(DataRequest),
    /// Passes on a proof that a block's square is badly encoded. A node that has the header checks it, and from then on
    /// answers requests for that square with the proof.
    Fraud {
        /// The block.
        height: Height,
        /// The proof.
        proof: Box<BadEncoding>,
    },
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The asker has used up its budget.
    Busy {
        /// Milliseconds after which the budget suffices again.
        retry_ms: u32,
    },
    /// About the chain.
    Chain(ChainAnswer),
    /// About data.
    Data(DataAnswer),
    /// A proof of bad encoding was taken, or is of no use here.
    Noted,
}

impl Encode for Ask {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Chain(request) => {
                out.push(1);
                request.encode(out);
            }
            Self::Data(request) => {
                out.push(2);
                request.encode(out);
            }
            Self::Fraud { height, proof } => {
                out.push(3);
                height.encode(out);
                proof.encode(out);
            }
        }
    }
}

impl Decode for Ask {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(r.field("request of a light client"))? {
            1 => Ok(Self::Chain(ChainRequest::decode(r)?)),
            2 => Ok(Self::Data(DataRequest::decode(r)?)),
            3 => Ok(Self::Fraud { height: Height::decode(r)?, proof: Box::new(BadEncoding::decode(r)?) }),
            tag => Err(r.error(DecodeErrorKind::UnknownTag(u64::from(tag)))),
        }
    }
}

impl Encode for Reply {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Busy { retry_ms } => {
                out.push(0);
                retry_ms.encode(out);
            }
            Self::Chain(answer) => {
                out.push(1);
                answer.encode(out);
            }
            Self::Data(answer) => {
                out.push(2);
                answer.encode(out);
            }
            Self::Noted => out.push(3),
        }
    }
}

impl Decode for Reply {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(r.field("answer to a light client"))? {
            0 => Ok(Self::Busy { retry_ms: u32::decode(r)? }),
            1 => Ok(Self::Chain(ChainAnswer::decode(r)?)),
            2 => Ok(Self::Data(DataAnswer::decode(r)?)),
            3 => Ok(Self::Noted),
            tag => Err(r.error(DecodeErrorKind::UnknownTag(u64::from(tag)))),
        }
    }
}
