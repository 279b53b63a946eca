//! Requests for parts of a square, and the answers.
//!
//! A square is named by the height of its block: only final blocks are served. Whoever asks has the header and checks
//! the answer against it; an answer that does not check convicts its sender, not the square.
//!
//! | request | answer | bytes, at most |
//! |---|---|---|
//! | `Roots` | all roots | 8.3 KB |
//! | `Samples`, up to 64 | as many samples | 64 x 8.9 KB (1.1 KB each for a body of 2 MiB) |
//! | `Line` | half a row or column | 513 KB (131 KB for 8 MiB) |
//!
//! Instead of what was asked for, an answer may be `Outside` (the height is not kept, and this is what is), `Busy` (the
//! asker's budget is used up, and when there is enough again) or a proof that the square is badly encoded.

use cascade_primitives::{B256, Decode, DecodeError, DecodeErrorKind, Encode, Height, Reader, codec::encode_list};
use thiserror::Error;

use crate::{
    commitment::{Axis, Commitment, CommitmentError, Committed, Line},
    fraud::BadEncoding,
    proof::{LineData, Sample},
    sampling::SampleId,
    shape::MAX_WIDTH,
};

/// Samples that one request may name.
pub const MAX_SAMPLES: usize = 64;

/// Longest encoding of a request, in bytes.
pub const MAX_REQUEST_BYTES: usize = 1 + 8 + 4 + 5 * MAX_SAMPLES;

/// Longest encoding of an answer, in bytes.
pub const MAX_ANSWER_BYTES: usize = 1 << 20;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// What the header's root stands for.
    Roots {
        /// The block.
        height: Height,
    },
    /// Samples.
    Samples {
        /// The block.
        height: Height,
        /// Which shares; at most [`MAX_SAMPLES`].
        ids: Vec<SampleId>,
    },
    /// A row or column.
    Line {
        /// The block.
        height: Height,
        /// Which one.
        line: Line,
    },
}

impl Request {
    /// The block that it is about.
    #[must_use]
    pub const fn height(&self) -> Height {
        match self {
            Self::Roots { height } | Self::Samples { height, .. } | Self::Line { height, .. } => *height,
        }
    }
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The height is not kept here.
    Outside {
        /// The lowest height that is; above `newest` if there is none.
        oldest: Height,
        /// The highest height that is.
        newest: Height,
    },
    /// The asker has used up its budget.
    Busy {
        /// Milliseconds after which the budget suffices again.
        retry_ms: u32,
    },
    /// No such share or line in this block's square.
    NotInSquare,
    /// Roots.
    Roots {
        /// Roots of the rows, then of the columns.
        roots: Vec<B256>,
    },
    /// Samples, in the order in which they were asked for.
    Samples(Vec<Sample>),
    /// A row or column.
    Line(Box<LineData>),
    /// The square is badly encoded.
    BadEncoding(Box<BadEncoding>),
}

/// Why an answer is a lie.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AnswerError {
    /// Not what was asked for.
    #[error("the answer is not one to the request: {0}")]
    Other(&'static str),
    /// A proof does not lead to the header.
    #[error("a proof does not hold: {0}")]
    Proof(#[from] CommitmentError),
    /// The proof of bad encoding proves nothing.
    #[error("the bad-encoding proof does not hold: {0}")]
    Fraud(#[from] crate::fraud::FraudError),
}

impl Answer {
    /// Checks that the answer is one to this request and holds against the header.
    ///
    /// `Outside`, `Busy` and `NotInSquare` prove nothing and are accepted; what they are worth is for the caller to say.
    ///
    /// # Errors
    /// [`AnswerError`]: whoever sent it lied.
    pub fn check(&self, request: &Request, header: &Committed) -> Result<(), AnswerError> {
        match (self, request) {
            (Self::Outside { .. } | Self::Busy { .. } | Self::NotInSquare, _) => Ok(()),
            (Self::BadEncoding(proof), _) => Ok(proof.verify(header)?),
            (Self::Roots { roots }, Request::Roots { .. }) => Ok(Commitment::open(header, roots.clone()).map(|_| ())?),
            (Self::Samples(samples), Request::Samples { ids, .. }) => {
                let found = samples.iter().map(|s| SampleId { row: s.row, column: s.column, axis: s.proof.axis });
                if !found.eq(ids.iter().copied()) {
                    return Err(AnswerError::Other("other samples than those asked for"));
                }
                Ok(samples.iter().try_for_each(|sample| sample.verify(header))?)
            }
            (Self::Line(data), Request::Line { line, .. }) => {
                if data.line != *line {
                    return Err(AnswerError::Other("another line than the one asked for"));
                }
                Ok(data.verify(header).map(|_| ())?)
            }
            _ => Err(AnswerError::Other("another kind")),
        }
    }
}

impl Encode for SampleId {
    fn encode(&self, out: &mut Vec<u8>) {
        self.row.encode(out);
        self.column.encode(out);
        self.axis.encode(out);
    }
}

impl Decode for SampleId {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { row: u16::decode(r.field("sample id"))?, column: u16::decode(r)?, axis: Axis::decode(r)? })
    }
}

impl Encode for Request {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Roots { height } => {
                out.push(1);
                height.encode(out);
            }
            Self::Samples { height, ids } => {
                out.push(2);
                height.encode(out);
                encode_list(ids, out);
            }
            Self::Line { height, line } => {
                out.push(3);
                height.encode(out);
                line.encode(out);
            }
        }
    }
}

impl Decode for Request {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(r.field("request for a square"))? {
            1 => Ok(Self::Roots { height: Height::decode(r)? }),
            2 => Ok(Self::Samples { height: Height::decode(r)?, ids: r.field("samples asked for").list(MAX_SAMPLES)? }),
            3 => Ok(Self::Line { height: Height::decode(r)?, line: Line::decode(r)? }),
            tag => Err(r.error(DecodeErrorKind::UnknownTag(u64::from(tag)))),
        }
    }
}

impl Encode for Answer {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Outside { oldest, newest } => {
                out.push(0);
                oldest.encode(out);
                newest.encode(out);
            }
            Self::Busy { retry_ms } => {
                out.push(1);
                retry_ms.encode(out);
            }
            Self::NotInSquare => out.push(2),
            Self::Roots { roots } => {
                out.push(3);
                encode_list(roots, out);
            }
            Self::Samples(samples) => {
                out.push(4);
                encode_list(samples, out);
            }
            Self::Line(line) => {
                out.push(5);
                line.encode(out);
            }
            Self::BadEncoding(proof) => {
                out.push(6);
                proof.encode(out);
            }
        }
    }
}

impl Decode for Answer {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(r.field("answer about a square"))? {
            0 => Ok(Self::Outside { oldest: Height::decode(r)?, newest: Height::decode(r)? }),
            1 => Ok(Self::Busy { retry_ms: u32::decode(r)? }),
            2 => Ok(Self::NotInSquare),
            3 => Ok(Self::Roots { roots: r.field("roots").list(4 * MAX_WIDTH)? }),
            4 => Ok(Self::Samples(r.field("samples").list(MAX_SAMPLES)?)),
            5 => Ok(Self::Line(Box::new(LineData::decode(r)?))),
            6 => Ok(Self::BadEncoding(Box::new(BadEncoding::decode(r)?))),
            tag => Err(r.error(DecodeErrorKind::UnknownTag(u64::from(tag)))),
        }
    }
}
