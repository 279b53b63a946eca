//! What consensus says on the wire and writes into the vote log.

use std::sync::Arc;

use cascade_primitives::{
    BlockHash, Certificate, Decode, DecodeError, DecodeErrorKind, Encode, Epoch, Fork, Header, Height, NodeId, Reader,
    Ready, SealedBlock, View, Vote, block::MAX_FILLER_HEADERS, codec::encode_list,
};

/// Why a sequencer skips. Travels unsigned, for logs and metrics; nothing rests on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// The view went on too long.
    Timeout,
    /// The proposal is invalid, or the leader proposed twice.
    Invalid,
    /// The leader was silent in its last term and still is.
    Silent,
    /// The term cannot finalize any more: this node or f+1 seats skipped in it.
    Joined,
}

impl Encode for SkipReason {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::Timeout => 0,
            Self::Invalid => 1,
            Self::Silent => 2,
            Self::Joined => 3,
        });
    }
}

impl Decode for SkipReason {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(r.field("skip reason"))? {
            0 => Ok(Self::Timeout),
            1 => Ok(Self::Invalid),
            2 => Ok(Self::Silent),
            3 => Ok(Self::Joined),
            tag => Err(r.error(DecodeErrorKind::UnknownTag(u64::from(tag)))),
        }
    }
}

/// Where a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The history it follows.
    pub fork: Fork,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its view.
    pub view: View,
    /// Its newest final block.
    pub height: Height,
    /// That block's hash.
    pub hash: BlockHash,
}

impl Encode for Status {
    fn encode(&self, out: &mut Vec<u8>) {
        self.fork.encode(out);
        self.epoch.encode(out);
        self.view.encode(out);
        self.height.encode(out);
        self.hash.encode(out);
    }
}

impl Decode for Status {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.field("status");
        Ok(Self {
            fork: Fork::decode(r)?,
            epoch: Epoch::decode(r)?,
            view: View::decode(r)?,
            height: Height::decode(r)?,
            hash: BlockHash::decode(r)?,
        })
    }
}

/// A consensus message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A leader's block with its own Prepare.
    Proposal(Arc<SealedBlock>, Vote),
    /// The sender's vote; with a Skip, why.
    Vote(Vote, Option<SkipReason>),
    /// A certificate, from anybody.
    Certificate(Arc<Certificate>),
    /// A commit certificate of an epoch's last block or of a filler above it.
    EpochEnd(Arc<Certificate>, Vec<Header>),
    /// A sequencer of the next committee is ready.
    Ready(Ready),
    /// Asks for a block.
    GetBlock(BlockHash),
    /// Answers it.
    Block(Arc<SealedBlock>),
    /// Where the sender stands.
    Status(Status),
}

impl Encode for Message {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Proposal(block, vote) => {
                out.push(1);
                vote.encode(out);
                block.encode(out);
            }
            Self::Vote(vote, reason) => {
                out.push(2);
                vote.encode(out);
                reason.encode(out);
            }
            Self::Certificate(certificate) => {
                out.push(3);
                certificate.encode(out);
            }
            Self::EpochEnd(certificate, fillers) => {
                out.push(4);
                certificate.encode(out);
                encode_list(fillers, out);
            }
            Self::Ready(ready) => {
                out.push(5);
                ready.encode(out);
            }
            Self::GetBlock(hash) => {
                out.push(6);
                hash.encode(out);
            }
            Self::Block(block) => {
                out.push(7);
                block.encode(out);
            }
            Self::Status(status) => {
                out.push(8);
                status.encode(out);
            }
        }
    }
}

impl Decode for Message {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match u8::decode(r.field("consensus message"))? {
            1 => {
                let vote = Vote::decode(r)?;
                Self::Proposal(Arc::new(SealedBlock::decode(r)?), vote)
            }
            2 => Self::Vote(Vote::decode(r)?, Option::decode(r)?),
            3 => Self::Certificate(Arc::new(Certificate::decode(r)?)),
            4 => Self::EpochEnd(Arc::new(Certificate::decode(r)?), r.field("filler headers").list(MAX_FILLER_HEADERS)?),
            5 => Self::Ready(Ready::decode(r)?),
            6 => Self::GetBlock(BlockHash::decode(r)?),
            7 => Self::Block(Arc::new(SealedBlock::decode(r)?)),
            8 => Self::Status(Status::decode(r)?),
            tag => return Err(r.error(DecodeErrorKind::UnknownTag(u64::from(tag)))),
        })
    }
}

/// A record of the vote log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A block that this node prepared: it has it whole, and keeps it.
    Block(Arc<SealedBlock>),
    /// A vote of this node.
    Vote(Vote),
    /// A certificate that a vote rests on.
    Certificate(Arc<Certificate>),
    /// What ended an epoch, as in [`Message::EpochEnd`]: every vote of the next epoch rests on it.
    EpochEnd(Arc<Certificate>, Vec<Header>),
}

impl Record {
    /// The epoch that it belongs to.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        match self {
            Self::Block(block) => block.header.epoch,
            Self::Vote(vote) => vote.target.epoch,
            Self::Certificate(certificate) | Self::EpochEnd(certificate, _) => certificate.target.epoch,
        }
    }
}

impl Encode for Record {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Block(block) => {
                out.push(1);
                block.encode(out);
            }
            Self::Vote(vote) => {
                out.push(2);
                vote.encode(out);
            }
            Self::Certificate(certificate) => {
                out.push(3);
                certificate.encode(out);
            }
            Self::EpochEnd(certificate, fillers) => {
                out.push(4);
                certificate.encode(out);
                encode_list(fillers, out);
            }
        }
    }
}

impl Decode for Record {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match u8::decode(r.field("log record"))? {
            1 => Self::Block(Arc::new(SealedBlock::decode(r)?)),
            2 => Self::Vote(Vote::decode(r)?),
            3 => Self::Certificate(Arc::new(Certificate::decode(r)?)),
            4 => Self::EpochEnd(Arc::new(Certificate::decode(r)?), r.field("filler headers").list(MAX_FILLER_HEADERS)?),
            tag => return Err(r.error(DecodeErrorKind::UnknownTag(u64::from(tag)))),
        })
    }
}

/// Two votes of one sequencer that contradict each other, both with valid signatures: what L1 slashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The sequencer.
    pub node: NodeId,
    /// One vote.
    pub first: Vote,
    /// The vote that contradicts it.
    pub second: Vote,
}
