//! The proof that a header commits to a square that is not its body's.
//!
//! Either some row or column is no codeword ([`BadLine`]), or all of them are, and what they encode is something else than
//! the body ([`BadEncoding::Body`]). There is no third way to lie: lines that are all codewords have one data.
//!
//! # A bad line
//!
//! The proof holds k shares of the line, each proved under its row's or its column's root, and all roots. They decode to the
//! one codeword that contains them. In an honest square that is the line itself, whichever root proves each share; so
//! if the codeword's root is not the line's root, then either the line is no codeword, or its row and its column
//! disagree on a share. Nothing honest can ever be accused, and no other share is needed to convince.
//!
//! Size: k shares with paths of `log2(2k)` hashes, and 4k roots: at most 150 KB for a body of 8 MiB, whose square has
//! 32 MiB.
//!
//! # Another body
//!
//! The proof is the data, with its padding. Whoever encodes it finds the header's root, and that its hash is not the header's
//! body root, or that it is not padded with zeros. Size: that of the body. No shorter proof can be had from a hash over
//! all of it, and none is needed: before such a proof can be missed, the data of the square was there for everybody.

use std::fmt;

use bytes::Bytes;
use cascade_primitives::{
    B256, Decode, DecodeError, DecodeErrorKind, Encode, Reader,
    block::body_root,
    codec::{encode_byte_string, encode_list},
};
use thiserror::Error;

use crate::{
    code,
    commitment::{Axis, Commitment, CommitmentError, Committed, Line},
    proof::{ShareProof, line_root},
    shape::{MAX_DATA_BYTES, MAX_WIDTH, Shape},
    square::Extended,
};

/// A share of the accused line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Its place in the line, 0 to 2k - 1.
    pub place: u16,
    /// The share, proved under the root of its row or its column.
    pub proof: ShareProof,
}

/// A proof of bad encoding. See the module's doc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadEncoding {
    /// A row or column is no codeword.
    Line(BadLine),
    /// The data of the square, `k * k` shares row by row: it is not the body.
    Body(Bytes),
}

impl fmt::Display for BadEncoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(proof) => write!(f, "{} is no codeword", proof.line),
            Self::Body(_) => f.write_str("the square is that of something else than the body"),
        }
    }
}

/// The proof that a row or column is no codeword.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// The accused row or column.
    pub line: Line,
    /// All roots: rows, then columns.
    pub roots: Vec<B256>,
    /// k shares of the line, in order of place.
    pub shares: Vec<Witness>,
}

/// Why a proof of bad encoding proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FraudError {
    /// It is not about this header, or a share is not proved.
    #[error(transparent)]
    Commitment(#[from] CommitmentError),
    /// The shares are not in order, or one is there twice.
    #[error("the places of the shares do not rise: {0} is not above the one before it")]
    Order(u16),
    /// A share's proof leads to another root than the commitment has for its line.
    #[error("the share at place {place} leads to root {found}, its line has {expected}")]
    Share {
        /// Its place in the accused line.
        place: u16,
        /// Where its path leads.
        found: B256,
        /// The root of the line that the path is of.
        expected: B256,
    },
    /// The shares decode to the line that the header commits to.
    #[error("{0} is encoded as the header says")]
    Honest(Line),
    /// The data is the body.
    #[error("the square is that of the body")]
    HonestBody,
}

/// Row and column of a place in a line.
pub(crate) const fn coordinates(line: Line, place: u16) -> (u16, u16) {
    match line.axis {
        Axis::Row => (line.index, place),
        Axis::Column => (place, line.index),
    }
}

impl BadEncoding {
    /// Bytes of its encoding.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        match self {
            Self::Line(proof) => 1 + proof.to_bytes().len(),
            Self::Body(data) => 1 + 4 + data.len(),
        }
    }

    /// Checks the proof against a header. [`Self::Body`] takes as long as encoding the body does.
    ///
    /// # Errors
    /// [`FraudError`] unless it proves that the header commits to a badly encoded square.
    pub fn verify(&self, header: &Committed) -> Result<(), FraudError> {
        match self {
            Self::Line(proof) => proof.verify(header),
            Self::Body(data) => verify_other_body(data, header),
        }
    }
}

fn verify_other_body(data: &[u8], header: &Committed) -> Result<(), FraudError> {
    let shape = Shape::of_commitment(&header.da).map_err(CommitmentError::from)?;
    let expected = shape.width() * shape.width() * shape.share_size();
    if data.len() != expected {
        return Err(CommitmentError::Size { found: data.len(), expected }.into());
    }
    let (body, padding) = data.split_at(shape.data_size());
    if body_root(body) == header.body_root && padding.iter().all(|&byte| byte == 0) {
        return Err(FraudError::HonestBody);
    }
    let found = Extended::of_padded(shape, data).commit_as(header.body_root).header_field().root;
    if found != header.da.root {
        return Err(CommitmentError::Root { found, expected: header.da.root }.into());
    }
    Ok(())
}

impl BadLine {
    fn verify(&self, header: &Committed) -> Result<(), FraudError> {
        let commitment = Commitment::open(header, self.roots.clone())?;
        let shape = *commitment.shape();
        let Some(expected) = commitment.line_root(self.line) else {
            let (what, index) = (self.line.axis, self.line.index);
            return Err(CommitmentError::Outside { what, index, side: shape.side() }.into());
        };
        if self.shares.len() != shape.width() {
            let (found, expected) = (self.shares.len(), shape.width());
            return Err(CommitmentError::Count { what: "shares", found, expected }.into());
        }
        let size = shape.share_size();
        let mut line = vec![0; shape.side() * size];
        let mut known = vec![false; shape.side()];
        let mut next = 0;
        for Witness { place, proof } in &self.shares {
            let (row, column) = coordinates(self.line, *place);
            let found = proof.leads_to(&shape, row, column)?;
            let root = commitment.line_root(proof.line(row, column)).expect("leads_to refuses places outside");
            if found != root {
                return Err(FraudError::Share { place: *place, found, expected: root });
            }
            if *place < next {
                return Err(FraudError::Order(*place));
            }
            next = *place + 1;
            let at = usize::from(*place);
            line[at * size..(at + 1) * size].copy_from_slice(&proof.share);
            known[at] = true;
        }
        let decoded = code::reconstruct(shape.width(), &mut line, &known);
        assert!(decoded, "k shares at rising places are k different shares");
        if line_root(&line, size) == expected { Err(FraudError::Honest(self.line)) } else { Ok(()) }
    }
}

impl Encode for Witness {
    fn encode(&self, out: &mut Vec<u8>) {
        self.place.encode(out);
        self.proof.encode(out);
    }
}

impl Decode for Witness {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { place: u16::decode(r.field("witness"))?, proof: ShareProof::decode(r)? })
    }
}

impl Encode for BadEncoding {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Line(proof) => {
                out.push(1);
                proof.encode(out);
            }
            Self::Body(data) => {
                out.push(2);
                encode_byte_string(data, out);
            }
        }
    }
}

impl Decode for BadEncoding {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(r.field("bad-encoding proof"))? {
            1 => Ok(Self::Line(BadLine::decode(r)?)),
            2 => Ok(Self::Body(r.field("data of a square").byte_string(MAX_DATA_BYTES)?)),
            tag => Err(r.error(DecodeErrorKind::UnknownTag(u64::from(tag)))),
        }
    }
}

impl Encode for BadLine {
    fn encode(&self, out: &mut Vec<u8>) {
        self.line.encode(out);
        encode_list(&self.roots, out);
        encode_list(&self.shares, out);
    }
}

impl Decode for BadLine {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            line: Line::decode(r.field("bad line"))?,
            roots: r.field("roots of a square").list(4 * MAX_WIDTH)?,
            shares: r.field("witnesses").list(MAX_WIDTH)?,
        })
    }
}
