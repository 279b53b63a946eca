//! What can go wrong in a run, by name.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};
use thiserror::Error;

macro_rules! faults {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Fault {
            $($(#[$doc])* $variant,)*
        }

        impl Fault {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name on the command line and in reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

faults! {
    /// Messages take much longer than usual for a while.
    Delay = "delay",
    /// Each message takes its own time.
    Jitter = "jitter",
    /// Messages are lost.
    Loss = "loss",
    /// For a while one kind of vote and its certificates are lost, for all nodes or for one.
    KindLoss = "kind-loss",
    /// Messages arrive twice.
    Duplication = "duplication",
    /// A later message overtakes an earlier one.
    Reordering = "reordering",
    /// The nodes fall into groups that cannot reach each other.
    Partition = "partition",
    /// A link works in one direction alone.
    OneWay = "one-way",
    /// Some links are much slower than the others.
    SlowLink = "slow-link",
    /// A node stands still for a while, clock and connections alive.
    Pause = "pause",
    /// Nodes die at any moment and start again from their disks, alone or all at once.
    Crash = "crash",
    /// A crash takes what was not synced, or a part of it.
    UnsyncedLoss = "unsynced-loss",
    /// A crash in the middle of a write leaves a part of it.
    TornWrite = "torn-write",
    /// A bit of a stored file turns while the node is down.
    BitFlip = "bit-flip",
    /// A node starts again with nothing but its keys and its sign-state.
    Wipe = "wipe",
    /// Clocks are wrong.
    Clock = "clock",
    /// Execution falls behind.
    SlowExecution = "slow-execution",
    /// Disks are slow to sync.
    SlowDisk = "slow-disk",
    /// Times without any transaction.
    Idle = "idle",
    /// A Byzantine node says nothing.
    Silence = "silence",
    /// A Byzantine leader proposes nothing.
    SilentLeader = "silent-leader",
    /// A Byzantine leader proposes two blocks.
    Equivocation = "equivocation",
    /// A Byzantine node votes for everything, and against it.
    DoubleVotes = "double-votes",
    /// A Byzantine leader proposes blocks that break a rule.
    InvalidBlocks = "invalid-blocks",
    /// A Byzantine node sends forged votes and certificates.
    Forgery = "forgery",
    /// A Byzantine node says again what was true long ago.
    Stale = "stale",
    /// A Byzantine leader votes for a block that it gives to a few alone, and answers nobody who asks for it.
    Withholding = "withholding",
    /// A Byzantine node sends blocks with a right header and another body: what it proposes, and what it was asked for.
    OtherBody = "other-body",
    /// A Byzantine node talks to some and not to others.
    Selective = "selective",
    /// A Byzantine node answers catch-up requests wrongly.
    LyingSync = "lying-sync",
    /// A Byzantine sequencer's key is on two nodes, both of which follow the protocol (Twins).
    Twins = "twins",
    /// A view gets both a prepare and a skip certificate: prepares reach one node alone, skips everybody.
    SplitView = "split-view",
    /// Committees change by the schedule of the genesis file: members join, leave and change weight.
    Epochs = "epochs",
    /// Members of a next committee never start.
    Absent = "absent",
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no fault has.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no fault is called {name:?}; known are all, none, {}", known())]
pub struct UnknownFault {
    /// The name.
    pub name: String,
}

fn known() -> String {
    Fault::ALL.iter().map(|f| f.name()).collect::<Vec<_>>().join(", ")
}

/// A set of faults.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Faults(u64);

impl Faults {
    /// None.
    pub const NONE: Self = Self(0);
    /// Every kind.
    pub const ALL: Self = Self((1 << Fault::ALL.len()) - 1);

    /// This set and one more.
    #[must_use]
    pub const fn with(self, fault: Fault) -> Self {
        Self(self.0 | 1 << fault as u32)
    }

    /// Whether the fault is in.
    #[must_use]
    pub const fn has(self, fault: Fault) -> bool {
        self.0 & 1 << fault as u32 != 0
    }

    /// Those that are in.
    pub fn iter(self) -> impl Iterator<Item = Fault> {
        Fault::ALL.iter().copied().filter(move |f| self.has(*f))
    }
}

impl FromIterator<Fault> for Faults {
    fn from_iter<I: IntoIterator<Item = Fault>>(faults: I) -> Self {
        faults.into_iter().fold(Self::NONE, Self::with)
    }
}

impl FromStr for Faults {
    type Err = UnknownFault;

    /// `all`, `none`, or names with commas between.
    fn from_str(list: &str) -> Result<Self, UnknownFault> {
        let one = |name: &str| {
            let found = Fault::ALL.iter().copied().find(|f| f.name() == name);
            found.ok_or_else(|| UnknownFault { name: name.to_owned() })
        };
        match list.trim() {
            "all" => Ok(Self::ALL),
            "none" => Ok(Self::NONE),
            names => names.split(',').map(|name| one(name.trim())).collect(),
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ALL => f.write_str("all"),
            Self::NONE => f.write_str("none"),
            _ => f.write_str(&self.iter().map(Fault::name).collect::<Vec<_>>().join(",")),
        }
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How often each fault happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultCounts([u64; Fault::ALL.len()]);

impl Default for FaultCounts {
    fn default() -> Self {
        Self([0; Fault::ALL.len()])
    }
}

impl FaultCounts {
    /// One more of a kind.
    pub(crate) fn add(&mut self, fault: Fault) {
        self.0[fault as usize] += 1;
    }

    /// How often a kind happened.
    #[must_use]
    pub fn of(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a += b);
    }
}

impl Serialize for FaultCounts {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(Fault::ALL.iter().filter(|f| self.of(**f) > 0).map(|f| (f.name(), self.of(*f))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_faults_read_back() {
        for list in ["all", "none", "delay,loss", "crash"] {
            assert_eq!(list.parse::<Faults>().unwrap().to_string(), list);
        }
        assert!("delay,los".parse::<Faults>().unwrap_err().to_string().contains("\"los\""));
    }
}
