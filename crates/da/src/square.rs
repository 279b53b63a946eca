//! The extended square: a block's body as k x k shares, extended to 2k x 2k.
//!
//! ```text
//!             0 .. k-1    k .. 2k-1
//!   0 ..     +----------+-----------+     data: the bytes, row by row, zeros behind them
//!     k-1    |   data   |   rows    |     rows: each row's second half is the Reed-Solomon code of its first half
//!            +----------+-----------+
//!   k ..     | columns  |  columns  |     columns: the same, column by column, for all 2k columns
//!     2k-1   |          |  of rows  |
//!            +----------+-----------+
//! ```
//!
//! The code is linear, so the last quarter is the same whether rows or columns are extended last, and every row and
//! every column is a codeword: any k of its 2k shares give the others. A square of which at most `(k+1)^2 - 1` shares are
//! missing can always be repaired; `(k+1)^2` missing ones can be placed so that nothing can (Al-Bassam, Sonnino, Buterin
//! 2018, theorem 1).

use bytes::Bytes;
use cascade_primitives::{B256, DaCommitment, block::body_root};

use crate::{
    code,
    commitment::{Axis, Commitment, Committed, Line},
    proof::{LineData, Sample, ShareProof},
    shape::{Shape, ShapeError},
    tree,
};

/// Shares without hashes: what remains to be committed to.
#[derive(Clone, Debug)]
pub struct Extended {
    shape: Shape,
    shares: Vec<u8>,
}

impl Extended {
    /// Lays out data and extends it.
    ///
    /// # Errors
    /// [`ShapeError::TooLarge`].
    pub fn new(data: &[u8]) -> Result<Self, ShapeError> {
        Self::reusing(data, Vec::new())
    }

    /// The same in the memory of a square that is not needed any more ([`Square::into_buffer`]). Fresh memory for 32 MiB of
    /// shares costs a quarter as much as coding them.
    ///
    /// # Errors
    /// [`ShapeError::TooLarge`].
    pub fn reusing(data: &[u8], buffer: Vec<u8>) -> Result<Self, ShapeError> {
        let shape = Shape::of_size(data.len())?;
        let (k, share) = (shape.width(), shape.share_size());
        let row = shape.side() * share;
        // A new vector of zeros is not written to until it is used; one of other bytes has to be.
        let mut shares =
            if buffer.capacity() < shape.extended_size() { vec![0; shape.extended_size()] } else { buffer };
        shares.resize(shape.extended_size(), 0);
        let mut rest = data;
        for line in shares.chunks_exact_mut(row).take(k) {
            let (source, after) = rest.split_at(rest.len().min(k * share));
            line[..source.len()].copy_from_slice(source);
            line[source.len()..k * share].fill(0);
            rest = after;
        }
        Ok(Self::extend(shape, shares))
    }

    /// Extends data that fills its part of the square, whatever stands in place of the padding.
    ///
    /// # Panics
    /// Unless it is `k * k` shares.
    pub(crate) fn of_padded(shape: Shape, data: &[u8]) -> Self {
        let (k, share) = (shape.width(), shape.share_size());
        assert_eq!(data.len(), k * k * share, "the data fills its quarter");
        let mut shares = vec![0; shape.extended_size()];
        for (line, source) in shares.chunks_exact_mut(shape.side() * share).zip(data.chunks_exact(k * share)) {
            line[..k * share].copy_from_slice(source);
        }
        Self::extend(shape, shares)
    }

    fn extend(shape: Shape, mut shares: Vec<u8>) -> Self {
        let (k, share) = (shape.width(), shape.share_size());
        let row = shape.side() * share;
        let mut scratch = Vec::new();
        let (upper, lower) = shares.split_at_mut(k * row);
        for line in upper.chunks_exact_mut(row) {
            let (data, parity) = line.split_at_mut(k * share);
            let data: Vec<&[u8]> = data.chunks_exact(share).collect();
            let mut parity: Vec<&mut [u8]> = parity.chunks_exact_mut(share).collect();
            code::extend(k, &data, &mut parity, &mut scratch);
        }
        for column in 0..shape.side() {
            let range = column * share..(column + 1) * share;
            let data: Vec<&[u8]> = upper.chunks_exact(row).map(|line| &line[range.clone()]).collect();
            let mut parity: Vec<&mut [u8]> = lower.chunks_exact_mut(row).map(|line| &mut line[range.clone()]).collect();
            code::extend(k, &data, &mut parity, &mut scratch);
        }
        Self { shape, shares }
    }

    /// Its memory, for [`Extended::reusing`].
    #[must_use]
    pub fn into_buffer(self) -> Vec<u8> {
        self.shares
    }

    /// Hashes every share once and every line.
    #[must_use]
    pub fn commit(self, data: &[u8]) -> Square {
        self.commit_as(body_root(data))
    }

    /// The same for data with this hash.
    #[must_use]
    pub fn commit_as(self, body_root: B256) -> Square {
        Square::commit_unchecked(self.shape, self.shares, body_root)
    }
}

fn line_roots(shape: &Shape, leaves: &[B256]) -> Vec<B256> {
    let side = shape.side();
    let rows = leaves.chunks_exact(side).map(tree::root);
    let columns = (0..side).map(|c| tree::root(&leaves.iter().skip(c).step_by(side).copied().collect::<Vec<_>>()));
    rows.chain(columns).collect()
}

/// An extended square with its commitment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Square {
    commitment: Commitment,
    shares: Bytes,
    leaves: Vec<B256>,
}

impl Square {
    /// Encodes data and commits to it.
    ///
    /// # Errors
    /// [`ShapeError::TooLarge`].
    pub fn new(data: &[u8]) -> Result<Self, ShapeError> {
        Ok(Extended::new(data)?.commit(data))
    }

    /// Commits to shares as they are, whether or not they are encoded rightly: what a lying leader does.
    ///
    /// # Panics
    /// Unless the shares fill the extended square.
    #[must_use]
    pub fn commit_unchecked(shape: Shape, shares: Vec<u8>, body_root: B256) -> Self {
        assert_eq!(shares.len(), shape.extended_size(), "the shares fill the square");
        let leaves: Vec<B256> = shares.chunks_exact(shape.share_size()).map(tree::leaf).collect();
        let roots = line_roots(&shape, &leaves);
        Self { commitment: Commitment::new(shape, body_root, roots), shares: Bytes::from(shares), leaves }
    }

    pub(crate) fn from_parts(commitment: Commitment, shares: Bytes, leaves: Vec<B256>) -> Self {
        Self { commitment, shares, leaves }
    }

    /// The commitment in full.
    #[must_use]
    pub const fn commitment(&self) -> &Commitment {
        &self.commitment
    }

    /// The header's field.
    #[must_use]
    pub fn header_field(&self) -> DaCommitment {
        self.commitment.header_field()
    }

    /// What a header says of it.
    #[must_use]
    pub fn committed(&self) -> Committed {
        self.commitment.committed()
    }

    /// The square's dimensions.
    #[must_use]
    pub const fn shape(&self) -> &Shape {
        self.commitment.shape()
    }

    /// All shares, row by row.
    #[must_use]
    pub const fn shares(&self) -> &Bytes {
        &self.shares
    }

    /// The memory of its shares, for [`Extended::reusing`]; none if something else still refers to a share.
    #[must_use]
    pub fn into_buffer(self) -> Option<Vec<u8>> {
        self.shares.is_unique().then(|| Vec::from(self.shares))
    }

    /// Bytes of memory that it holds.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.shares.len() + 32 * (self.leaves.len() + self.commitment.roots().len())
    }

    /// One share; none outside of the square.
    #[must_use]
    pub fn share(&self, row: u16, column: u16) -> Option<Bytes> {
        let (side, size) = (self.shape().side(), self.shape().share_size());
        let (row, column) = (usize::from(row), usize::from(column));
        (row < side && column < side).then(|| {
            let at = (row * side + column) * size;
            self.shares.slice(at..at + size)
        })
    }

    /// The data, without padding.
    #[must_use]
    pub fn data(&self) -> Vec<u8> {
        let mut data = self.padded_data();
        data.truncate(self.shape().data_size());
        data
    }

    /// The data and what stands behind it: `k * k` shares.
    pub(crate) fn padded_data(&self) -> Vec<u8> {
        let shape = self.shape();
        let (row, data) = (shape.side() * shape.share_size(), shape.width() * shape.share_size());
        let mut out = Vec::with_capacity(shape.width() * data);
        for line in self.shares.chunks_exact(row).take(shape.width()) {
            out.extend_from_slice(&line[..data]);
        }
        out
    }

    fn line_leaves(&self, line: Line) -> Vec<B256> {
        let (side, index) = (self.shape().side(), usize::from(line.index));
        match line.axis {
            Axis::Row => self.leaves[index * side..(index + 1) * side].to_vec(),
            Axis::Column => self.leaves.iter().skip(index).step_by(side).copied().collect(),
        }
    }

    /// A share with its path in its row or column; none outside of the square.
    #[must_use]
    pub fn share_proof(&self, row: u16, column: u16, axis: Axis) -> Option<ShareProof> {
        let share = self.share(row, column)?;
        let (line, place) = match axis {
            Axis::Row => (Line::row(row), column),
            Axis::Column => (Line::column(column), row),
        };
        Some(ShareProof { share, axis, path: tree::path(&self.line_leaves(line), usize::from(place)) })
    }

    /// A sample: a share with all that leads from it to the header; none outside of the square.
    #[must_use]
    pub fn sample(&self, row: u16, column: u16, axis: Axis) -> Option<Sample> {
        let proof = self.share_proof(row, column, axis)?;
        let line = proof.line(row, column);
        Some(Sample { row, column, proof, root: self.commitment.prove(line) })
    }

    /// A row or column: its first half, which gives the rest, and what leads to the header; none outside of the square.
    #[must_use]
    pub fn line(&self, line: Line) -> Option<LineData> {
        self.commitment.line_root(line)?;
        let half = (0..self.shape().width() as u16).map(|i| match line.axis {
            Axis::Row => self.share(line.index, i),
            Axis::Column => self.share(i, line.index),
        });
        Some(LineData { line, half: half.collect::<Option<_>>()?, root: self.commitment.prove(line) })
    }
}
