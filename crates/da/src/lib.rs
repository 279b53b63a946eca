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
//! - [`repair`]: the square from any sufficient set of shares.  [`fraud`]: the proof that a square is not the body's.
//! - [`sampling`]: which shares to ask for, and how sure the answers make one.
//! - [`wire`]: requests and answers.  [`serve`]: what a node keeps and answers, within limits.
//! - [`dispersal`]: a block on its way to the committee in coded chunks.
//! - `batch` (feature `batch`): what is published for those who rebuild the chain.
//!
//! # In a node
//!
//! A leader encodes the body of its block ([`Square::new`] over the body's canonical bytes) and puts
//! [`Square::header_field`] into `header.da`. A sequencer does the same with what it received and votes *prepare* only if
//! the two are equal (decision 16 of the architecture). The square is over the whole body and not its transactions alone,
//! because only the whole leads to the header's body root, and because the certificates in it are what proves the chain to
//! whoever rebuilds it from shares. Blocks of chains with `ChainParams::data_squares` have one each, with transactions or
//! without; the genesis block and fillers have the empty value (`Header::has_square`).
//!
//! # Safety
//!
//! A header that a quorum certified commits to one square. Whoever gets all samples it drew at random from it knows that
//! enough of the square is there with the probability that [`sampling`] gives; what is enough to repair is either the
//! body, or convicts whoever made the square by a [`BadEncoding`] proof that needs no trust: that a line is no codeword,
//! or that the data is not what the header's body root is the hash of. No proof can be made against an honest square.
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

pub use commitment::{Axis, Commitment, CommitmentError, Committed, Line, RootProof};
pub use fraud::{BadEncoding, BadLine, FraudError};
pub use proof::{LineData, Sample, ShareProof};
pub use repair::{Missing, RepairError, Repairer};
pub use sampling::SampleId;
pub use shape::{Shape, ShapeError};
pub use square::{Extended, Square};
