//! The proof that a header commits to a square in which some row or column is no codeword.
//!
//! It holds k shares of the line, each proved under its row's or its column's root, and all roots. They decode to the
//! one codeword that contains them. In an honest square that is the line itself, whichever root proves each share; so
//! if the codeword's root is not the line's root, then either the line is no codeword, or its row and its column
//! disagree on a share. Nothing honest can ever be accused, and no other share is needed to convince.
//!
//! Size: k shares with paths of `log2(2k)` hashes, and 4k roots: at most 150 KB for a body of 8 MiB, whose square has
//! 32 MiB.

use cascade_primitives::{B256, DaCommitment, Decode, DecodeError, Encode, Reader, codec::encode_list};
use thiserror::Error;

use crate::{
    code,
    commitment::{Axis, Commitment, CommitmentError, Line},
    proof::{ShareProof, line_root},
    shape::MAX_WIDTH,
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
pub struct BadEncoding {
    /// The accused row or column.
    pub line: Line,
    /// The hash over the data, as the commitment has it.
    pub data_hash: B256,
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
}

/// Row and column of a place in a line.
pub(crate) const fn coordinates(line: Line, place: u16) -> (u16, u16) {
    match line.axis {
        Axis::Row => (line.index, place),
        Axis::Column => (place, line.index),
    }
}

impl BadEncoding {
    /// Checks the proof against a header.
    ///
    /// # Errors
    /// [`FraudError`] unless it proves that the header commits to a badly encoded square.
    pub fn verify(&self, header: &DaCommitment) -> Result<(), FraudError> {
        let commitment = Commitment::open(header, self.data_hash, self.roots.clone())?;
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
        self.line.encode(out);
        self.data_hash.encode(out);
        encode_list(&self.roots, out);
        encode_list(&self.shares, out);
    }
}

impl Decode for BadEncoding {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            line: Line::decode(r.field("bad-encoding proof"))?,
            data_hash: B256::decode(r)?,
            roots: r.field("roots of a square").list(4 * MAX_WIDTH)?,
            shares: r.field("witnesses").list(MAX_WIDTH)?,
        })
    }
}
