//! Data that light clients can check.
//!
//! ```text
//!  body --Extended--> 2k x 2k shares --commit--> Square --> header: {size, share size, width, root}
//!                                                  | sample, line (with proofs)
//!                      light client <--------------+-----> repairer: any sufficient set of shares
//!                      confidence per height                 | the body, or a bad-encoding proof
//! ```
//!
//! - [`shape`]: how large a square is; one rule.  [`square`]: data to shares to commitment.
//! - [`commitment`]: what the header's root stands for.  [`proof`]: shares, rows and columns that lead to it.
//! - [`repair`]: the square from any sufficient set of shares.  [`fraud`]: the proof that a line is no codeword.
//! - [`sampling`]: which shares to ask for, and how sure the answers make one.
//! - [`wire`]: requests and answers.  [`serve`]: what a node keeps and answers, within limits.
//! - [`dispersal`]: a block on its way to the committee in coded chunks.
//! - `batch` (feature `batch`): what is published for those who rebuild the chain.
//!
//! Everything here is pure: no I/O, no clock, randomness from the caller. All bytes from outside are bounded before
//! anything is allocated for them.

#[cfg(feature = "batch")]
pub mod batch;
pub mod commitment;
pub mod dispersal;
pub mod fraud;
pub mod proof;
pub mod repair;
pub mod sampling;
pub mod serve;
pub mod shape;
pub mod square;
pub mod tree;
pub mod wire;

mod code;

pub use commitment::{Axis, Commitment, CommitmentError, Line, RootProof};
pub use fraud::{BadEncoding, FraudError};
pub use proof::{LineData, Sample, ShareProof};
pub use repair::{Missing, RepairError, Repairer};
pub use sampling::SampleId;
pub use shape::{Shape, ShapeError};
pub use square::{Extended, Square};
