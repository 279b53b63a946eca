//! The whole square from any sufficient set of shares.
//!
//! Shares come in with their proofs; whole lines may, too. A row or column of which k shares are known decodes; its root
//! says whether it is the line that the header commits to, and what it adds lets other lines decode, until all of them
//! stand or none of the rest has k shares.
//!
//! ```text
//!  . . . #      . = missing      k = 2: each incomplete row and column has one known share and needs two.
//!  . . . #      # = known        Nothing decodes; but with any one of the dots everything does, line by line.
//!  . . . #
//!  # # # #
//! ```
//!
//! A line whose root does not fit what its known shares decode to, or that contradicts a share proved by the crossing
//! line, is a lie of whoever made the square, and so is a whole square of something else than the body: the answer is a
//! [`BadEncoding`] proof, made of the shares at hand.
//!
//! What it accepts costs at most two hashes per share and one decoding per line, whatever the order of arrival.

use bytes::Bytes;
use cascade_primitives::{B256, block::body_root};
use thiserror::Error;

use crate::{
    code,
    commitment::{Axis, Commitment, CommitmentError, Committed, Line},
    fraud::{BadEncoding, BadLine, Witness, coordinates},
    proof::{LineData, ShareProof},
    square::Square,
    tree,
};

/// How a known share is proved.
#[derive(Clone, Debug)]
enum Proved {
    /// By a path that came with it.
    Path(Axis, Box<[B256]>),
    /// It is part of a line that was verified as a whole.
    Line(Axis),
}

/// What is missing from a square that cannot be repaired yet.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{shares} shares are missing, {} rows and {} columns are incomplete", rows.len(), columns.len())]
pub struct Missing {
    /// Shares that are neither known nor follow from others.
    pub shares: usize,
    /// Rows that miss some.
    pub rows: Vec<u16>,
    /// Columns that miss some.
    pub columns: Vec<u16>,
}

/// Why there is no square.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RepairError {
    /// Not enough shares. More may come.
    #[error("the square cannot be repaired yet: {0}")]
    Missing(Missing),
    /// The header commits to a badly encoded square, and here is the proof.
    #[error("the square is badly encoded: {0}")]
    BadEncoding(Box<BadEncoding>),
}

/// A square under repair.
#[derive(Debug)]
pub struct Repairer {
    commitment: Commitment,
    shares: Vec<u8>,
    leaves: Vec<B256>,
    known: Vec<Option<Proved>>,
    rows: Vec<bool>,
    columns: Vec<bool>,
    /// A share that contradicts one of the known ones under the other axis.
    conflict: Option<(u16, u16, ShareProof)>,
}

impl Repairer {
    /// A repairer that knows no share.
    #[must_use]
    pub fn new(commitment: Commitment) -> Self {
        let shape = *commitment.shape();
        Self {
            shares: vec![0; shape.extended_size()],
            leaves: vec![B256::ZERO; shape.shares()],
            known: vec![None; shape.shares()],
            rows: vec![false; shape.side()],
            columns: vec![false; shape.side()],
            conflict: None,
            commitment,
        }
    }

    /// A repairer for a header, once somebody has handed over what its root stands for.
    ///
    /// # Errors
    /// [`CommitmentError`] if these are not the hashes that the header commits to.
    pub fn open(header: &Committed, roots: Vec<B256>) -> Result<Self, CommitmentError> {
        Ok(Self::new(Commitment::open(header, roots)?))
    }

    fn at(&self, row: u16, column: u16) -> usize {
        usize::from(row) * self.commitment.shape().side() + usize::from(column)
    }

    fn share(&self, at: usize) -> &[u8] {
        let size = self.commitment.shape().share_size();
        &self.shares[at * size..(at + 1) * size]
    }

    fn places(&self, line: Line) -> impl Iterator<Item = usize> + use<> {
        let (side, index) = (self.commitment.shape().side(), usize::from(line.index));
        let (first, step) = match line.axis {
            Axis::Row => (index * side, 1),
            Axis::Column => (index, side),
        };
        (0..side).map(move |i| first + i * step)
    }

    fn verified(&mut self, line: Line) -> &mut bool {
        match line.axis {
            Axis::Row => &mut self.rows[usize::from(line.index)],
            Axis::Column => &mut self.columns[usize::from(line.index)],
        }
    }

    /// Takes a share. Answers whether it is new.
    ///
    /// # Errors
    /// [`CommitmentError`] if the commitment does not contain it at this place. Whoever sent it lied.
    pub fn insert(&mut self, row: u16, column: u16, proof: &ShareProof) -> Result<bool, CommitmentError> {
        let found = proof.leads_to(self.commitment.shape(), row, column)?;
        let expected = self.commitment.line_root(proof.line(row, column)).expect("leads_to refuses places outside");
        if found != expected {
            return Err(CommitmentError::Root { found, expected });
        }
        let at = self.at(row, column);
        if self.known[at].is_some() {
            if self.share(at) != proof.share {
                self.conflict = Some((row, column, proof.clone()));
            }
            return Ok(false);
        }
        self.put(at, &proof.share, tree::leaf(&proof.share), Proved::Path(proof.axis, proof.path.as_slice().into()));
        Ok(true)
    }

    /// Takes a whole row or column.
    ///
    /// # Errors
    /// [`CommitmentError`] if the commitment does not contain it. Whoever sent it lied.
    pub fn insert_line(&mut self, data: &LineData) -> Result<(), CommitmentError> {
        let bytes = data.verify(&self.commitment.committed())?;
        let leaves: Vec<B256> = bytes.chunks_exact(self.commitment.shape().share_size()).map(tree::leaf).collect();
        self.accept(data.line, &bytes, &leaves);
        Ok(())
    }

    fn put(&mut self, at: usize, share: &[u8], leaf: B256, proved: Proved) {
        let size = share.len();
        self.shares[at * size..(at + 1) * size].copy_from_slice(share);
        self.leaves[at] = leaf;
        self.known[at] = Some(proved);
    }

    /// Takes a line that has the root that the commitment states.
    fn accept(&mut self, line: Line, bytes: &[u8], leaves: &[B256]) {
        let size = self.commitment.shape().share_size();
        for (place, at) in self.places(line).enumerate() {
            let share = &bytes[place * size..(place + 1) * size];
            if self.known[at].is_none() {
                self.put(at, share, leaves[place], Proved::Line(line.axis));
            } else if self.share(at) != share {
                let (row, column) = coordinates(line, place as u16);
                let proof = ShareProof {
                    share: Bytes::copy_from_slice(share),
                    axis: line.axis,
                    path: tree::path(leaves, place),
                };
                self.conflict = Some((row, column, proof));
            }
        }
        *self.verified(line) = true;
    }

    /// Repairs as far as the known shares go. The shares stay, so that it can be called again when more have come.
    ///
    /// # Errors
    /// [`RepairError`]: too little is known, or what is known convicts whoever made the square.
    pub fn repair(&mut self) -> Result<Square, RepairError> {
        let side = self.commitment.shape().side() as u16;
        let lines = || (0..side).map(Line::row).chain((0..side).map(Line::column));
        loop {
            let mut progress = false;
            for line in lines() {
                progress |= self.try_line(line).map_err(|proof| RepairError::BadEncoding(Box::new(proof)))?;
            }
            if let Some(proof) = self.convict() {
                return Err(RepairError::BadEncoding(Box::new(proof)));
            }
            if !progress {
                break;
            }
        }
        if let Some(missing) = self.missing() {
            return Err(RepairError::Missing(missing));
        }
        self.finish()
    }

    /// Decodes a line if that is possible and not done. Answers whether it was.
    fn try_line(&mut self, line: Line) -> Result<bool, BadEncoding> {
        let shape = *self.commitment.shape();
        let (k, size) = (shape.width(), shape.share_size());
        let places: Vec<usize> = self.places(line).collect();
        let used: Vec<usize> = (0..shape.side()).filter(|&p| self.known[places[p]].is_some()).take(k).collect();
        if *self.verified(line) || used.len() < k {
            return Ok(false);
        }
        let mut bytes = vec![0; shape.side() * size];
        let mut given = vec![false; shape.side()];
        for &place in &used {
            bytes[place * size..(place + 1) * size].copy_from_slice(self.share(places[place]));
            given[place] = true;
        }
        code::reconstruct(k, &mut bytes, &given);
        let mut leaves = Vec::with_capacity(shape.side());
        for (place, share) in bytes.chunks_exact(size).enumerate() {
            let at = places[place];
            let same = self.known[at].is_some() && self.share(at) == share;
            leaves.push(if same { self.leaves[at] } else { tree::leaf(share) });
        }
        if Some(tree::root(&leaves)) != self.commitment.line_root(line) {
            return Err(self.accuse(line, &used, None));
        }
        // A known share that differs from the decoded one is proved by the crossing line: `accept` keeps it as a conflict.
        self.accept(line, &bytes, &leaves);
        Ok(true)
    }

    /// The proof that two lines disagree on a share, once enough shares of one of them are known.
    fn convict(&self) -> Option<BadEncoding> {
        let (row, column, proof) = self.conflict.as_ref()?;
        // The known share stands under the other axis, so the line of the conflicting proof's other axis has to decode
        // with the conflicting share in it.
        [(Line::row(*row), *column), (Line::column(*column), *row)].into_iter().find_map(|(line, place)| {
            let k = self.commitment.shape().width();
            let others =
                self.places(line).enumerate().filter(|(p, at)| *p != usize::from(place) && self.known[*at].is_some());
            let mut used: Vec<usize> = others.map(|(p, _)| p).take(k - 1).collect();
            if used.len() < k - 1 {
                return None;
            }
            used.push(usize::from(place));
            used.sort_unstable();
            let header = self.commitment.committed();
            let with = self.accuse(line, &used, Some((place, proof)));
            let without = self.accuse(line, &used, None);
            [with, without].into_iter().find(|proof| proof.verify(&header).is_ok())
        })
    }

    fn accuse(&self, line: Line, used: &[usize], other: Option<(u16, &ShareProof)>) -> BadEncoding {
        let shares = used.iter().map(|&place| {
            let place = place as u16;
            let (row, column) = coordinates(line, place);
            let proof = match other {
                Some((odd, proof)) if odd == place => proof.clone(),
                _ => self.prove(row, column),
            };
            Witness { place, proof }
        });
        BadEncoding::Line(BadLine { line, shares: shares.collect(), roots: self.commitment.roots().to_vec() })
    }

    /// The proof of a known share.
    fn prove(&self, row: u16, column: u16) -> ShareProof {
        let at = self.at(row, column);
        let share = Bytes::copy_from_slice(self.share(at));
        match self.known[at].as_ref().expect("only known shares are proved") {
            Proved::Path(axis, path) => ShareProof { share, axis: *axis, path: path.to_vec() },
            Proved::Line(axis) => {
                let (line, place) = match axis {
                    Axis::Row => (Line::row(row), column),
                    Axis::Column => (Line::column(column), row),
                };
                let leaves: Vec<B256> = self.places(line).map(|at| self.leaves[at]).collect();
                ShareProof { share, axis: *axis, path: tree::path(&leaves, usize::from(place)) }
            }
        }
    }

    /// What is not known; none if nothing is missing.
    #[must_use]
    pub fn missing(&self) -> Option<Missing> {
        let side = self.commitment.shape().side() as u16;
        let shares = self.known.iter().filter(|k| k.is_none()).count();
        let incomplete = |line: &Line| self.places(*line).any(|at| self.known[at].is_none());
        let indices = |lines: Vec<Line>| lines.iter().filter(|l| incomplete(l)).map(|l| l.index).collect();
        (shares > 0).then(|| Missing {
            shares,
            rows: indices((0..side).map(Line::row).collect()),
            columns: indices((0..side).map(Line::column).collect()),
        })
    }

    fn finish(&self) -> Result<Square, RepairError> {
        let square = Square::from_parts(self.commitment.clone(), Bytes::from(self.shares.clone()), self.leaves.clone());
        let data = square.padded_data();
        let (body, padding) = data.split_at(square.shape().data_size());
        if body_root(body) != self.commitment.body_root() || padding.iter().any(|&byte| byte != 0) {
            return Err(RepairError::BadEncoding(Box::new(BadEncoding::Body(data.into()))));
        }
        Ok(square)
    }
}
