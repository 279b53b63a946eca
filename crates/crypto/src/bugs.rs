//! Planted bugs of key generation and reveals: proof that the simulator can see them.
//!
//! As with the bugs of consensus, a few decision points ask a type parameter whether to decide wrongly. A node's is
//! [`NoBugs`], whose answer is a constant, so its build contains no trace of the wrong decisions; only the simulator's
//! tests define another type.

use std::fmt::Debug;

/// Declares an enum of decisions that can be made to go wrong, with `ALL` and `words`.
#[macro_export]
macro_rules! planted_bugs {
    ($(#[$doc:meta])* pub enum $name:ident { $($variant:ident = $what:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $(#[doc = $what] $variant,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// What goes wrong, in words that no other string in a binary begins with.
            #[must_use]
            pub const fn words(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!("planted bug: ", $what),)*
                }
            }
        }
    };
}

planted_bugs! {
    /// A decision about keys, ciphertexts or shares that can be made to go wrong.
    pub enum SealedBug {
        ShareOnCommitVote = "Shares of a block leave with the commit vote for it, before there is a commit certificate.",
        LabelUnchecked = "The proof that binds a ciphertext to its label is not checked.",
        ThresholdTooLow = "Keys are dealt so that one seat less than a quorum opens.",
        CulpritUnchecked = "Who sent wrong shares is guessed, not checked.",
        ShareAfterValidUntil = "Blocks may carry envelopes past their last height, and shares of them are made.",
        TorsionUnchecked = "Shares and combined values are not checked to lie in the subgroup.",
        DealingUnchecked = "A dealing counts whether or not every recipient can open its shares.",
        SeatTwice = "Shares that arrive again count their seats again.",
        NothingAgain = "What is missing to open a block is neither given out again nor asked for.",
    }
}

/// Which of these decisions go wrong.
pub trait SealedBugs: Clone + Debug + Send + 'static {
    /// Whether this one does.
    #[inline(always)]
    fn sealed(&self, _: SealedBug) -> bool {
        false
    }
}

/// None. What every node runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoBugs;

impl SealedBugs for NoBugs {}
