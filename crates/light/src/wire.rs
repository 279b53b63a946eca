//! What a light client asks a node about the chain, and the answers. Data is asked for by `cascade_da::wire`.
//!
//! | request | answer | bytes |
//! |---|---|---|
//! | `Start` | header and committee of the checkpoint | 0.5 KB and 120 per member |
//! | `Handovers`, up to 32 | those of consecutive epochs, as many as fit | 1.6 KB each, and 120 per member where members changed |
//! | `Head` | the newest final header, and that its history contains a block | 1.9 KB |
//! | `Headers`, up to 256 | a run of one epoch, the last one final | 0.4 KB each |

use cascade_primitives::{
    Committee, Decode, DecodeError, DecodeErrorKind, Encode, Epoch, Header, Height, Reader, codec::encode_list,
    merkle::MountainProof,
};

use crate::chain::{Finality, Handover};

/// Handovers that one answer may carry.
pub const MAX_HANDOVERS: usize = 32;
/// Headers that one answer may carry.
pub const MAX_HEADERS: usize = 256;
/// Longest encoding of an answer, in bytes: a committee of 1024 members twice over, with room for headers.
pub const MAX_ANSWER_BYTES: usize = 1 << 20;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainRequest {
    /// A header and the committee of its epoch.
    Start {
        /// The header's height.
        height: Height,
    },
    /// How epochs ended, from one on.
    Handovers {
        /// The first epoch that ended.
        from: Epoch,
    },
    /// The newest final header.
    Head {
        /// The block that its history is to contain.
        ancestor: Height,
    },
    /// Final headers from a height on.
    Headers {
        /// The first.
        from: Height,
    },
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChainAnswer {
    /// There is nothing of it (yet).
    Nothing,
    /// Answers `Start`.
    Start(Box<(Header, Committee)>),
    /// Answers `Handovers`; at least one.
    Handovers(Vec<Handover>),
    /// Answers `Head`.
    Head(Box<Head>),
    /// Answers `Headers`; at least one, all of one epoch.
    Headers(Vec<Header>, Box<Finality>),
}

/// A final header with what proves it to somebody who knows its committee.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The header.
    pub header: Header,
    /// What makes it final.
    pub finality: Finality,
    /// That its history contains the block asked about.
    pub ancestry: MountainProof,
}

impl Encode for ChainRequest {
    fn encode(&self, out: &mut Vec<u8>) {
        let (tag, number) = match self {
            Self::Start { height } => (1, height.0),
            Self::Handovers { from } => (2, from.0),
            Self::Head { ancestor } => (3, ancestor.0),
            Self::Headers { from } => (4, from.0),
        };
        out.push(tag);
        number.encode(out);
    }
}

impl Decode for ChainRequest {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let tag = u8::decode(r.field("light request"))?;
        let number = u64::decode(r)?;
        match tag {
            1 => Ok(Self::Start { height: Height(number) }),
            2 => Ok(Self::Handovers { from: Epoch(number) }),
            3 => Ok(Self::Head { ancestor: Height(number) }),
            4 => Ok(Self::Headers { from: Height(number) }),
            tag => Err(r.error(DecodeErrorKind::UnknownTag(u64::from(tag)))),
        }
    }
}

impl Encode for ChainAnswer {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Nothing => out.push(0),
            Self::Start(start) => {
                out.push(1);
                start.0.encode(out);
                start.1.encode(out);
            }
            Self::Handovers(handovers) => {
                out.push(2);
                encode_list(handovers, out);
            }
            Self::Head(head) => {
                out.push(3);
                head.header.encode(out);
                head.finality.encode(out);
                head.ancestry.encode(out);
            }
            Self::Headers(headers, finality) => {
                out.push(4);
                encode_list(headers, out);
                finality.encode(out);
            }
        }
    }
}

impl Decode for ChainAnswer {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(r.field("light answer"))? {
            0 => Ok(Self::Nothing),
            1 => Ok(Self::Start(Box::new((Header::decode(r)?, Committee::decode(r)?)))),
            2 => Ok(Self::Handovers(r.field("handovers").list(MAX_HANDOVERS)?)),
            3 => Ok(Self::Head(Box::new(Head {
                header: Header::decode(r)?,
                finality: Finality::decode(r)?,
                ancestry: MountainProof::decode(r)?,
            }))),
            4 => Ok(Self::Headers(r.field("headers").list(MAX_HEADERS)?, Box::new(Finality::decode(r)?))),
            tag => Err(r.error(DecodeErrorKind::UnknownTag(u64::from(tag)))),
        }
    }
}
