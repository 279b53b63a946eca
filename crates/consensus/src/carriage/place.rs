//! What a member holds of one proposal on its way to it, and the work of putting it together.

use std::fmt;

use bytes::Bytes;
use cascade_da::dispersal::{Assembler, DispersalError};
use cascade_primitives::{
    B256, BlockHash, BlsSignature, Decode as _, Epoch, MemberIndex, TimestampMs, View, VoteTarget,
};

use super::{Manifest, Message};

/// How far a proposal has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Chunks are missing.
    Gathering,
    /// It is being put together.
    Rebuilding,
    /// It is there, or it never will be: chunks are passed on and not kept.
    Over,
}

/// What is there of one proposal.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) manifest: Manifest,
    pub(super) signature: BlsSignature,
    pub(super) leader: MemberIndex,
    pub(super) assembler: Assembler,
    pub(super) phase: Phase,
    /// When the first chunk came.
    pub(super) since: TimestampMs,
    /// When the last new one came.
    pub(super) newest: TimestampMs,
    /// Whether the leader was asked for the whole.
    pub(super) asked: bool,
    /// Own chunks that were passed on.
    pub(super) forwarded: Vec<u16>,
}

impl Place {
    /// Bytes that it holds or may come to hold.
    pub(super) fn bytes(&self) -> usize {
        if self.phase == Phase::Over { 0 } else { self.manifest.size as usize }
    }

    /// Whether the block may yet come out of chunks, and nobody was asked for it.
    pub(super) fn promises(&self, block: &BlockHash) -> bool {
        self.phase != Phase::Over && !self.asked && self.manifest.block == *block
    }

    /// When the leader is asked for the whole: half a timeout after the first chunk; while chunks come in, a quarter
    /// after the last; a whole timeout after the first at the latest. None if nothing is to be asked.
    pub(super) fn deadline(&self, timeout: u64) -> Option<TimestampMs> {
        let due = self.since.plus(timeout / 2).max(self.newest.plus(timeout / 4)).min(self.since.plus(timeout));
        (self.phase == Phase::Gathering && !self.asked).then_some(due)
    }

    /// Nothing more is wanted of it.
    pub(super) fn close(&mut self) {
        self.phase = Phase::Over;
        self.assembler.clear();
    }
}

/// How a leader lied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// The chunks are not the code of anything.
    BadCode,
    /// They are the code of something that is no proposal.
    NoProposal,
    /// They are the code of another proposal than the manifest says.
    Other,
}

impl Lie {
    /// In words, for reports.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::BadCode => "a root over chunks that are no code",
            Self::NoProposal => "chunks of something that is no proposal",
            Self::Other => "chunks of another proposal than it signed",
        }
    }
}

impl fmt::Display for Lie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

/// Enough chunks to put a proposal together, which for a large one takes tens of milliseconds: the shell does it where that
/// holds up nobody.
#[derive(Clone, Debug)]
pub struct Rebuild {
    pub(super) epoch: Epoch,
    pub(super) view: View,
    pub(super) block: BlockHash,
    pub(super) digest: B256,
    pub(super) assembler: Assembler,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    pub(super) view: View,
    pub(super) digest: B256,
    /// The proposal, or how its leader lied.
    pub outcome: Result<Message, Lie>,
}

impl Rebuild {
    /// The digest of the manifest: what is rebuilt under it is the same whichever chunks are at hand.
    #[must_use]
    pub const fn digest(&self) -> B256 {
        self.digest
    }

    /// Does the work.
    ///
    /// # Panics
    /// Never: a rebuild has as many chunks as it needs.
    #[must_use]
    pub fn run(&self) -> Rebuilt {
        let outcome = match self.assembler.rebuild() {
            Ok(bytes) => self.read(bytes),
            Err(DispersalError::BadCode(_)) => Err(Lie::BadCode),
            Err(error) => unreachable!("enough chunks were checked one by one: {error}"),
        };
        Rebuilt { view: self.view, digest: self.digest, outcome }
    }

    fn read(&self, bytes: Vec<u8>) -> Result<Message, Lie> {
        let message = Message::from_shared(&Bytes::from(bytes)).map_err(|_| Lie::NoProposal)?;
        let Message::Proposal(block, vote) = &message else { return Err(Lie::NoProposal) };
        let hash = block.hash();
        if hash != self.block || vote.target != VoteTarget::prepare(self.epoch, self.view, hash) {
            return Err(Lie::Other);
        }
        Ok(message)
    }
}
