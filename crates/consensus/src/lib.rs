//! The consensus core of Cascade: which block comes next, and when it is final.
//!
//! Simplex (Chan and Pass, ePrint 2023/463): the two voting phases of PBFT, pipelined, with a view change of one
//! message. [`Core::step`] takes an input and answers effects; it does no I/O, reads no clock and draws no
//! randomness, so the same core runs under an actor in a node, in the simulator and in property tests.
//!
//! ```text
//!  view v:   leader --Proposal--> all   all --Prepare--> all   all --Commit--> all
//!            |                            |                      |
//!            |  q Prepares: prepare certificate: enter v+1,      |  q Commits: the block and all
//!            |  whose leader proposes at once on top             |  its ancestors are final
//!            +- no certificate in time, or an invalid proposal: Skip; q Skips: the term is over
//! ```
//!
//! Safety in one paragraph: a sequencer prepares once per view, so a view has at most one prepared block. A block at
//! view v stands on a prepared parent in view p and shows skip certificates for all views between. A sequencer never
//! commits in v after it skipped a view of v's term at or below v, nor the other way round, so a view with a commit
//! quorum has no skip certificate that covers it; hence every later prepared block has the committed one among its
//! ancestors, and two commits never conflict.
//!
//! Where it departs from the paper: leaders hold terms of consecutive views and a skip covers the rest of its term
//! (decision 2 of the architecture); votes are multi-signatures with a bitmap, so double signs are attributable; votes
//! are taken from their signer's own connection only and verified lazily.
//!
//! - [`seats`], [`election`]: who votes with which weight, who leads;
//! - [`context`]: what a block and its ancestors alone prove;
//! - [`safety`]: the guard in front of the signing key;
//! - [`core`]: the protocol;
//! - [`messages`]: what goes over the wire and into the vote log.
//! - [`carriage`]: how proposals travel, whole or in coded chunks.
//! - [`sync`]: catching up.

pub mod bugs;
pub mod carriage;
pub mod context;
pub mod core;
pub mod election;
mod lineage;
pub mod messages;
pub mod safety;
pub mod seats;
pub mod sync;
mod tally;

pub use bugs::{Bug, Bugs, NoBugs};
pub use carriage::{CarriageConfig, CarriageEffect, CarriageInput, Carried, Carrier, Standing, Way};
pub use context::{ChainContext, InvalidBlock, Rules};
pub use core::{
    BuildRequest, BuiltBlock, Config, Core, Effect, Finality, Finalized, Footprint, Health, Input, Start, Verdict,
};
pub use messages::{Evidence, Message, Record, SkipReason, Status};
pub use safety::{Refusal, SignState};
pub use sync::{FinalChain, Sync, SyncEffect, SyncInput, SyncRequest, SyncResponse};
