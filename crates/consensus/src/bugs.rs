//! Planted bugs: proof that the simulator can see.
//!
//! A checker that never fails proves nothing. [`crate::Core`] takes a type parameter that is asked at its decision
//! points whether it should decide wrongly there. A node runs [`NoBugs`], whose answer is a constant, so its build
//! contains no trace of the wrong decisions; only the simulator's tests define another type.

use std::fmt::Debug;

/// A decision that a core can be made to get wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bug {
    /// A quorum is one seat less than it must be.
    QuorumTooLow,
    /// Commits in a view that it skipped.
    CommitAfterSkip,
    /// Votes leave the machine without having been written.
    VoteNotPersisted,
    /// A Skip forgets that it covers the rest of its term.
    SkipForgotten,
    /// A block's skip certificates are not checked.
    GapUnchecked,
    /// A block's parent certificate is not checked.
    ParentUnchecked,
    /// Prepares every proposal of a view, not the first alone.
    PrepareTwice,
    /// Results in a header are not compared with the own ones.
    ResultsUnchecked,
    /// The content of a block is not put before the application.
    ContentUnchecked,
    /// Nothing is resent on a stall.
    NoResend,
    /// Certificates are not written with the votes that rest on them.
    CertificatesNotPersisted,
    /// No block is made while the results that a fixed lag would demand are not final, in place of an empty one.
    LagStops,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::QuorumTooLow,
        Self::CommitAfterSkip,
        Self::VoteNotPersisted,
        Self::SkipForgotten,
        Self::GapUnchecked,
        Self::ParentUnchecked,
        Self::PrepareTwice,
        Self::ResultsUnchecked,
        Self::ContentUnchecked,
        Self::NoResend,
        Self::CertificatesNotPersisted,
        Self::LagStops,
    ];
}

/// Which decisions go wrong.
pub trait Bugs: Clone + Debug + Send + 'static {
    /// Whether this one does.
    fn planted(&self, bug: Bug) -> bool;
}

/// None. What every node runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoBugs;

impl Bugs for NoBugs {
    #[inline(always)]
    fn planted(&self, _: Bug) -> bool {
        false
    }
}
