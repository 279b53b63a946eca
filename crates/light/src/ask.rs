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
use cascade_primitives::{
    Block, Bytes, Decode, DecodeError, DecodeErrorKind, Encode, Height, Reader,
    block::{MAX_BLOCK_BYTES, MAX_FILLER_HEADERS, MAX_TRANSACTIONS_PER_BLOCK},
    codec::{encode_byte_string, encode_list},
};

use crate::wire::{ChainAnswer, ChainRequest};

/// First byte of a request on the sync channel that is for this door. Requests for runs of final blocks begin with
/// others.
pub const QUIC_TAG: u8 = 16;
/// Longest encoding of an [`Ask`], in bytes: a bad-encoding proof.
pub const MAX_ASK_BYTES: usize = 1 << 20;
/// Longest encoding of a [`Reply`] about data, in bytes.
pub const MAX_REPLY_BYTES: usize = (1 << 20) + 16;
/// Room for one filler's header in an answer about the chain, in bytes; one has some 400.
const FILLER_BYTES: usize = 512;
/// Longest encoding of a [`Reply`] about the chain, in bytes: an epoch that ended late needs all its fillers to be proved.
pub const MAX_CHAIN_REPLY_BYTES: usize = MAX_REPLY_BYTES + MAX_FILLER_HEADERS * FILLER_BYTES;
/// Heights in one [`Reply::Frauds`]: as many proofs as a node keeps.
pub const MAX_FRAUDS: usize = 16;
/// Longest encoding of a block or of its receipts, in bytes.
pub const MAX_CONTENT_BYTES: usize = MAX_BLOCK_BYTES + (1 << 20);

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
    /// A final block.
    Block {
        /// Its height.
        height: Height,
    },
    /// The receipts of an executed block.
    Receipts {
        /// Its height.
        height: Height,
    },
    /// For which heights the node holds proofs that their squares are wrong. A proof itself is the answer to any request
    /// for shares or roots of that height.
    Frauds {
        /// The lowest height of interest.
        from: Height,
    },
}

impl Ask {
    /// Longest encoding of an answer to it, in bytes.
    #[must_use]
    pub const fn max_reply(&self) -> usize {
        match self {
            Self::Block { .. } | Self::Receipts { .. } => MAX_CONTENT_BYTES,
            Self::Chain(_) => MAX_CHAIN_REPLY_BYTES,
            Self::Data(_) | Self::Fraud { .. } => MAX_REPLY_BYTES,
            // A tag, a length, the heights; or a refusal.
            Self::Frauds { .. } => 64 + 8 * MAX_FRAUDS,
        }
    }
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
    /// A final block; none if there is none (yet). The asker compares it with the header that it knows.
    Block(Option<Box<Block>>),
    /// The receipts of an executed block, each in its canonical encoding; none if there are none (yet). The asker compares
    /// their root with the one that a final header carries.
    Receipts(Option<Vec<Bytes>>),
    /// Heights for which the node holds proofs of wrong squares, rising; at most [`MAX_FRAUDS`].
    Frauds(Vec<Height>),
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
            Self::Block { height } => {
                out.push(4);
                height.encode(out);
            }
            Self::Receipts { height } => {
                out.push(5);
                height.encode(out);
            }
            Self::Frauds { from } => {
                out.push(6);
                from.encode(out);
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
            4 => Ok(Self::Block { height: Height::decode(r)? }),
            5 => Ok(Self::Receipts { height: Height::decode(r)? }),
            6 => Ok(Self::Frauds { from: Height::decode(r)? }),
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
            Self::Block(block) => {
                out.push(4);
                block.as_deref().cloned().encode(out);
            }
            Self::Receipts(receipts) => {
                out.push(5);
                out.push(u8::from(receipts.is_some()));
                if let Some(receipts) = receipts {
                    u32::try_from(receipts.len()).expect("a block has fewer than 2^32 receipts").encode(out);
                    receipts.iter().for_each(|receipt| encode_byte_string(receipt, out));
                }
            }
            Self::Frauds(heights) => {
                out.push(6);
                encode_list(heights, out);
            }
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
            4 => Ok(Self::Block(Option::<Block>::decode(r)?.map(Box::new))),
            5 if !bool::decode(r)? => Ok(Self::Receipts(None)),
            5 => {
                let count = r.field("receipts").length(MAX_TRANSACTIONS_PER_BLOCK)?;
                let receipts = (0..count).map(|_| r.byte_string(MAX_CONTENT_BYTES)).collect::<Result<_, _>>()?;
                Ok(Self::Receipts(Some(receipts)))
            }
            6 => {
                let heights: Vec<Height> = r.field("heights with proofs").list(MAX_FRAUDS)?;
                match heights.is_sorted_by(|below, above| below < above) {
                    true => Ok(Self::Frauds(heights)),
                    false => Err(r.error(DecodeErrorKind::NotCanonical("the heights do not rise"))),
                }
            }
            tag => Err(r.error(DecodeErrorKind::UnknownTag(u64::from(tag)))),
        }
    }
}
