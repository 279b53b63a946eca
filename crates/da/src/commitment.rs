//! What a header commits to: the roots of all rows and columns, the data's size and its hash.
//!
//! ```text
//!  header.da.root = H(data size, share size, width, header.body_root, R)
//!                                                                     |
//!                          R = Merkle root (RFC 6962) over  row root 0 .. 2k-1, column root 0 .. 2k-1
//! ```
//!
//! The roots form a tree of their own, so that one of them is proved by `log2(4k)` hashes (256 bytes at k = 64) in place of
//! all 4k roots (8 KiB). Who samples needs the header and nothing else.
//!
//! The body root is the hash over the data. It is in the root, and taken from the header by whoever checks something: a
//! square proves nothing to a header with another body root. What a lying quorum can still do is to certify the roots of
//! the square of something else; then whoever repairs it has the proof ([`crate::BadEncoding::Body`]).

use cascade_primitives::{
    B256, DaCommitment, Decode, DecodeError, DecodeErrorKind, Encode, Header, Reader, codec::encode_list, domain, hash,
};
use thiserror::Error;

use crate::{
    shape::{MAX_WIDTH, Shape, ShapeError},
    tree,
};

/// Most hashes in the path of a root: `log2` of `4 * MAX_WIDTH` roots.
pub const MAX_ROOT_PATH: usize = (4 * MAX_WIDTH).ilog2() as usize;

/// One of the two directions of a square.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Axis {
    /// A row.
    Row,
    /// A column.
    Column,
}

impl Axis {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Row => Self::Column,
            Self::Column => Self::Row,
        }
    }
}

impl std::fmt::Display for Axis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Row => "row",
            Self::Column => "column",
        })
    }
}

impl Encode for Axis {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::Row => 0,
            Self::Column => 1,
        });
    }
}

impl Decode for Axis {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(r.field("axis"))? {
            0 => Ok(Self::Row),
            1 => Ok(Self::Column),
            tag => Err(r.error(DecodeErrorKind::UnknownTag(u64::from(tag)))),
        }
    }
}

/// A row or a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Line {
    /// Which of the two.
    pub axis: Axis,
    /// Its place, 0 to 2k - 1.
    pub index: u16,
}

impl Line {
    /// A row.
    #[must_use]
    pub const fn row(index: u16) -> Self {
        Self { axis: Axis::Row, index }
    }

    /// A column.
    #[must_use]
    pub const fn column(index: u16) -> Self {
        Self { axis: Axis::Column, index }
    }

    /// Its place among all roots: rows first.
    const fn place(self, shape: &Shape) -> usize {
        match self.axis {
            Axis::Row => self.index as usize,
            Axis::Column => shape.side() + self.index as usize,
        }
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.axis, self.index)
    }
}

impl Encode for Line {
    fn encode(&self, out: &mut Vec<u8>) {
        self.axis.encode(out);
        self.index.encode(out);
    }
}

impl Decode for Line {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { axis: Axis::decode(r)?, index: u16::decode(r)? })
    }
}

/// Why something does not belong to the square that a header commits to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CommitmentError {
    /// The header's own parameters contradict each other.
    #[error("the header's parameters: {0}")]
    Shape(#[from] ShapeError),
    /// No such row, column or share.
    #[error("{what} {index} is outside of a square with {side} on a side")]
    Outside {
        /// What was named.
        what: Axis,
        /// Its index.
        index: u16,
        /// Rows and columns of the square.
        side: usize,
    },
    /// A share has another size than the header states.
    #[error("{found} bytes where {expected} belong")]
    Size {
        /// Bytes found.
        found: usize,
        /// Bytes that belong there.
        expected: usize,
    },
    /// A list has another length than the header's parameters make it.
    #[error("{found} {what} where {expected} belong")]
    Count {
        /// What was counted.
        what: &'static str,
        /// How many were found.
        found: usize,
        /// How many belong there.
        expected: usize,
    },
    /// The hashes do not lead to the header's root.
    #[error("the hashes lead to root {found}, the header says {expected}")]
    Root {
        /// Where they lead.
        found: B256,
        /// The header's root.
        expected: B256,
    },
}

/// What a header says of its block's data: all that shares are checked against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Shape and root of the square.
    pub da: DaCommitment,
    /// The hash over the data.
    pub body_root: B256,
}

impl From<&Header> for Committed {
    fn from(header: &Header) -> Self {
        Self { da: header.da, body_root: header.body_root }
    }
}

fn commitment_root(shape: &Shape, body_root: &B256, roots: &B256) -> B256 {
    let mut bytes = Vec::with_capacity(80);
    let stated = shape.commitment(B256::ZERO);
    stated.data_size.encode(&mut bytes);
    stated.share_size.encode(&mut bytes);
    stated.width.encode(&mut bytes);
    body_root.encode(&mut bytes);
    roots.encode(&mut bytes);
    hash::tagged(domain::DA_COMMITMENT, &[&bytes])
}

/// All that a header's commitment stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commitment {
    shape: Shape,
    body_root: B256,
    /// Roots of the rows, then of the columns.
    roots: Vec<B256>,
}

impl Commitment {
    /// # Panics
    /// Unless there are 2k roots of each axis.
    pub(crate) fn new(shape: Shape, body_root: B256, roots: Vec<B256>) -> Self {
        assert_eq!(roots.len(), 2 * shape.side(), "2k rows and 2k columns");
        Self { shape, body_root, roots }
    }

    /// The commitment that belongs to a header.
    ///
    /// # Errors
    /// [`CommitmentError`] if these are not the hashes that the header commits to.
    pub fn open(header: &Committed, roots: Vec<B256>) -> Result<Self, CommitmentError> {
        let shape = Shape::of_commitment(&header.da)?;
        let expected = 2 * shape.side();
        if roots.len() != expected {
            return Err(CommitmentError::Count { what: "roots", found: roots.len(), expected });
        }
        let commitment = Self { shape, body_root: header.body_root, roots };
        let found = commitment.root();
        if found != header.da.root {
            return Err(CommitmentError::Root { found, expected: header.da.root });
        }
        Ok(commitment)
    }

    /// The square's dimensions.
    #[must_use]
    pub const fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The hash over the data.
    #[must_use]
    pub const fn body_root(&self) -> B256 {
        self.body_root
    }

    /// The root of a row or column; none outside of the square.
    #[must_use]
    pub fn line_root(&self, line: Line) -> Option<B256> {
        (usize::from(line.index) < self.shape.side()).then(|| self.roots[line.place(&self.shape)])
    }

    /// All roots: rows, then columns.
    #[must_use]
    pub fn roots(&self) -> &[B256] {
        &self.roots
    }

    fn leaves(&self) -> Vec<B256> {
        self.roots.iter().map(|root| tree::leaf(root.as_slice())).collect()
    }

    /// The root that the header carries.
    #[must_use]
    pub fn root(&self) -> B256 {
        commitment_root(&self.shape, &self.body_root, &tree::root(&self.leaves()))
    }

    /// The header's field.
    #[must_use]
    pub fn header_field(&self) -> DaCommitment {
        self.shape.commitment(self.root())
    }

    /// What a header says of this square.
    #[must_use]
    pub fn committed(&self) -> Committed {
        Committed { da: self.header_field(), body_root: self.body_root }
    }

    /// The proof of one root.
    ///
    /// # Panics
    /// Outside of the square.
    #[must_use]
    pub fn prove(&self, line: Line) -> RootProof {
        let root = self.line_root(line).expect("the line is one of the square's");
        RootProof { root, path: tree::path(&self.leaves(), line.place(&self.shape)) }
    }
}

/// The root of one row or column, with what leads from it to the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootProof {
    /// The row's or column's root.
    pub root: B256,
    /// The siblings in the tree over all roots, from the bottom up; at most [`MAX_ROOT_PATH`].
    pub path: Vec<B256>,
}

impl RootProof {
    /// The root of the line, if the header commits to it.
    ///
    /// # Errors
    /// [`CommitmentError`] if it does not.
    pub fn verify(&self, header: &Committed, line: Line) -> Result<B256, CommitmentError> {
        let shape = Shape::of_commitment(&header.da)?;
        check_line(&shape, line)?;
        let expected = (2 * shape.side()).ilog2() as usize;
        if self.path.len() != expected {
            return Err(CommitmentError::Count { what: "hashes of the root's path", found: self.path.len(), expected });
        }
        let top = tree::climb(&tree::leaf(self.root.as_slice()), line.place(&shape), &self.path)
            .expect("the place is one of 4k, the path has log2(4k) hashes");
        let found = commitment_root(&shape, &header.body_root, &top);
        if found != header.da.root {
            return Err(CommitmentError::Root { found, expected: header.da.root });
        }
        Ok(self.root)
    }
}

pub(crate) fn check_line(shape: &Shape, line: Line) -> Result<(), CommitmentError> {
    if usize::from(line.index) >= shape.side() {
        return Err(CommitmentError::Outside { what: line.axis, index: line.index, side: shape.side() });
    }
    Ok(())
}

impl Encode for RootProof {
    fn encode(&self, out: &mut Vec<u8>) {
        self.root.encode(out);
        encode_list(&self.path, out);
    }
}

impl Decode for RootProof {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            root: B256::decode(r.field("root of a line"))?,
            path: r.field("path of a line's root").list(MAX_ROOT_PATH)?,
        })
    }
}
