//! Shares, rows and columns with what leads from them to a header.

use bytes::Bytes;
use cascade_primitives::{
    B256, Decode, DecodeError, Encode, Reader,
    codec::{encode_byte_string, encode_list},
};

use crate::{
    code,
    commitment::{Axis, CommitmentError, Committed, Line, RootProof, check_line},
    shape::{MAX_SHARE_BYTES, MAX_WIDTH, Shape},
    tree,
};

/// Most hashes in a share's path: `log2` of the shares in a line.
pub const MAX_SHARE_PATH: usize = (2 * MAX_WIDTH).ilog2() as usize;

/// A share with its path in its row or its column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareProof {
    /// The share.
    pub share: Bytes,
    /// Which tree the path is of.
    pub axis: Axis,
    /// The siblings from the bottom up; at most [`MAX_SHARE_PATH`].
    pub path: Vec<B256>,
}

impl ShareProof {
    /// The line that the path is of, for a share at this place.
    #[must_use]
    pub const fn line(&self, row: u16, column: u16) -> Line {
        match self.axis {
            Axis::Row => Line::row(row),
            Axis::Column => Line::column(column),
        }
    }

    /// The root of the line that the path leads to.
    ///
    /// # Errors
    /// [`CommitmentError`] if size, place or length of the path are not those of the square.
    pub fn leads_to(&self, shape: &Shape, row: u16, column: u16) -> Result<B256, CommitmentError> {
        check_line(shape, Line::row(row))?;
        check_line(shape, Line::column(column))?;
        if self.share.len() != shape.share_size() {
            return Err(CommitmentError::Size { found: self.share.len(), expected: shape.share_size() });
        }
        let expected = shape.side().ilog2() as usize;
        if self.path.len() != expected {
            return Err(CommitmentError::Count {
                what: "hashes of the share's path",
                found: self.path.len(),
                expected,
            });
        }
        let place = match self.axis {
            Axis::Row => column,
            Axis::Column => row,
        };
        Ok(tree::climb(&tree::leaf(&self.share), usize::from(place), &self.path)
            .expect("the place is one of 2k, the path has log2(2k) hashes"))
    }
}

impl Encode for ShareProof {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_byte_string(&self.share, out);
        self.axis.encode(out);
        encode_list(&self.path, out);
    }
}

impl Decode for ShareProof {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            share: r.field("share").byte_string(MAX_SHARE_BYTES)?,
            axis: Axis::decode(r)?,
            path: r.field("path of a share").list(MAX_SHARE_PATH)?,
        })
    }
}

/// One share of a square, which anybody who has the header can check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its row.
    pub row: u16,
    /// Its column.
    pub column: u16,
    /// The share and its path.
    pub proof: ShareProof,
    /// The root of its row or column.
    pub root: RootProof,
}

impl Sample {
    /// Checks the sample against a header.
    ///
    /// # Errors
    /// [`CommitmentError`] if the header does not commit to this share at this place.
    pub fn verify(&self, header: &Committed) -> Result<(), CommitmentError> {
        let shape = Shape::of_commitment(&header.da)?;
        let found = self.proof.leads_to(&shape, self.row, self.column)?;
        let expected = self.root.verify(header, self.proof.line(self.row, self.column))?;
        if found != expected {
            return Err(CommitmentError::Root { found, expected });
        }
        Ok(())
    }
}

impl Encode for Sample {
    fn encode(&self, out: &mut Vec<u8>) {
        self.row.encode(out);
        self.column.encode(out);
        self.proof.encode(out);
        self.root.encode(out);
    }
}

impl Decode for Sample {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            row: u16::decode(r.field("sample"))?,
            column: u16::decode(r)?,
            proof: ShareProof::decode(r)?,
            root: RootProof::decode(r)?,
        })
    }
}

/// A row or column. Half of it travels: the receiver computes the other half, and the root tells whether it is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineData {
    /// Which one.
    pub line: Line,
    /// Its first k shares.
    pub half: Vec<Bytes>,
    /// Its root.
    pub root: RootProof,
}

impl LineData {
    /// All 2k shares, one after the other, if the header commits to this line.
    ///
    /// # Errors
    /// [`CommitmentError`] if it does not. A line that the header commits to and that is no codeword is refused too:
    /// half of it does not stand for the rest.
    pub fn verify(&self, header: &Committed) -> Result<Vec<u8>, CommitmentError> {
        let shape = Shape::of_commitment(&header.da)?;
        let expected = self.root.verify(header, self.line)?;
        if self.half.len() != shape.width() {
            return Err(CommitmentError::Count { what: "shares", found: self.half.len(), expected: shape.width() });
        }
        if let Some(wrong) = self.half.iter().find(|share| share.len() != shape.share_size()) {
            return Err(CommitmentError::Size { found: wrong.len(), expected: shape.share_size() });
        }
        let size = shape.share_size();
        let mut line = vec![0; shape.side() * size];
        let (data, parity) = line.split_at_mut(shape.width() * size);
        for (target, share) in data.chunks_exact_mut(size).zip(&self.half) {
            target.copy_from_slice(share);
        }
        let data: Vec<&[u8]> = data.chunks_exact(size).collect();
        let mut parity: Vec<&mut [u8]> = parity.chunks_exact_mut(size).collect();
        code::extend(shape.width(), &data, &mut parity, &mut Vec::new());
        let found = line_root(&line, size);
        if found != expected {
            return Err(CommitmentError::Root { found, expected });
        }
        Ok(line)
    }
}

/// The Merkle root over a line's shares.
pub(crate) fn line_root(line: &[u8], share_size: usize) -> B256 {
    let leaves: Vec<B256> = line.chunks_exact(share_size).map(tree::leaf).collect();
    tree::root(&leaves)
}

impl Encode for LineData {
    fn encode(&self, out: &mut Vec<u8>) {
        self.line.encode(out);
        u32::try_from(self.half.len()).expect("at most MAX_WIDTH").encode(out);
        for share in &self.half {
            encode_byte_string(share, out);
        }
        self.root.encode(out);
    }
}

impl Decode for LineData {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let line = Line::decode(r.field("line of a square"))?;
        let count = r.length(MAX_WIDTH)?;
        let mut half = Vec::with_capacity(count);
        for _ in 0..count {
            half.push(r.field("share of a line").byte_string(MAX_SHARE_BYTES)?);
        }
        Ok(Self { line, half, root: RootProof::decode(r)? })
    }
}
