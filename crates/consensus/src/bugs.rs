//! Planted bugs: proof that the simulator can see.
//!
//! A checker that never fails proves nothing. [`crate::Core`] takes a type parameter that is asked at its decision
//! points whether it should decide wrongly there. A node runs [`NoBugs`], whose answer is a constant, so its build
//! contains no trace of the wrong decisions; only the simulator's tests define another type.

use cascade_crypto::bugs::SealedBugs;

pub use cascade_crypto::bugs::NoBugs;

cascade_crypto::planted_bugs! {
    /// A decision that a core can be made to get wrong.
    pub enum Bug {
        QuorumTooLow = "A quorum is one seat less than it must be.",
        SeatTwice = "A vote that arrives again counts its seats again.",
        CommitAfterSkip = "Commits in a view that it skipped.",
        SkipForgotten = "A Skip forgets that it covers the rest of its term.",
        SkipsNotJoined = "Skips of f+1 seats do not end the term.",
        OldSkipIgnored = "A skip certificate of an earlier view of the term does not end it.",
        PrepareTwice = "Prepares every proposal of a view, not the first alone.",
        VoteNotPersisted = "Votes leave the machine without having been written.",
        CertificatesNotPersisted = "Certificates are not written with the votes that rest on them.",
        EpochEndNotPersisted = "What ended an epoch is not written with the first vote of the next one.",
        SignStateForgotten = "A restart does not read the record beside the key.",
        CertificateUnchecked = "A certificate's quorum and signature are not checked.",
        GapUnchecked = "A block's skip certificates are not checked.",
        ParentUnchecked = "A block's parent certificate is not checked.",
        ResultsUnchecked = "Results in a header are not compared with the own ones.",
        ContentUnchecked = "The content of a block is not put before the application.",
        CommitmentUnchecked = "The data commitment of a header is not compared with that of its body.",
        BodyRootUnchecked = "A block from a peer stands for its header's hash whatever its body is.",
        UnknownInvalid = "A result that this node has not computed yet makes a block invalid.",
        NoResend = "Nothing is resent on a stall.",
        LagStops = "No block is made while the results that a fixed lag would demand are not final, in place of an empty one.",
        NoFillers = "Nothing is made above an epoch's last block, final or not.",
        HandoverUncertified = "The next epoch begins on a prepare certificate of the last block.",
        SeedTooNew = "Leaders are drawn with the beacon of the epoch before, which its last leaders know.",
        KeysOfTheFirst = "The next committee's keys are those that its first ready member names.",
        ChunkUnchecked = "A chunk is taken and passed on whether or not it is one of its root.",
        ManifestUnchecked = "A manifest stands for its leader's whoever signed it.",
        ChunksPinned = "Chunks stay when their view is over.",
        ReadinessUnasked = "An epoch ends whether or not a quorum of the next committee is ready.",
    }
}

/// Which decisions go wrong.
pub trait Bugs: SealedBugs {
    /// Whether this one does.
    fn planted(&self, bug: Bug) -> bool;
}

impl Bugs for NoBugs {
    #[inline(always)]
    fn planted(&self, _: Bug) -> bool {
        false
    }
}
