//! What the protocol itself writes into blocks.

use alloy_primitives::B256;
use bytes::Bytes;

use crate::{
    certificate::SigningContext,
    codec::{Decode, DecodeError, DecodeErrorKind, Encode, Reader, encode_byte_string},
    committee::ThresholdKeys,
    domain, hash,
    ids::{BlsSignature, Epoch, NodeId},
};

/// A sequencer of the next committee states that it is there and holds its keys (decision 7 of the architecture).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ready {
    /// The epoch that it is ready for.
    pub epoch: Epoch,
    /// Who is ready.
    pub node: NodeId,
    /// The keys of that epoch, as it read them from the final log; none on a chain without.
    pub keys: ThresholdKeys,
    /// Its BLS signature over [`Ready::digest`].
    pub signature: BlsSignature,
}

impl Ready {
    /// The 32 bytes that are signed: chain, epoch, node, the members root of the committee that it is ready for, and keys.
    #[must_use]
    pub fn digest(
        context: &SigningContext,
        epoch: Epoch,
        node: &NodeId,
        members_root: &B256,
        keys: &ThresholdKeys,
    ) -> B256 {
        let mut bytes = Vec::with_capacity(160);
        context.chain_id.encode(&mut bytes);
        context.genesis_hash.encode(&mut bytes);
        context.fork.encode(&mut bytes);
        epoch.encode(&mut bytes);
        node.encode(&mut bytes);
        members_root.encode(&mut bytes);
        keys.encode(&mut bytes);
        hash::tagged(domain::READY, &[&bytes])
    }
}

impl Encode for Ready {
    fn encode(&self, out: &mut Vec<u8>) {
        self.epoch.encode(out);
        self.node.encode(out);
        self.keys.encode(out);
        self.signature.encode(out);
    }
}

impl Decode for Ready {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.field("readiness");
        Ok(Self {
            epoch: Epoch::decode(r)?,
            node: NodeId::decode(r)?,
            keys: ThresholdKeys::decode(r)?,
            signature: BlsSignature::decode(r.field("readiness"))?,
        })
    }
}

/// One item of a block's system section.
///
/// What belongs to key generation is bytes here; `cascade_crypto::dkg` knows what they mean. An item that means nothing
/// changes nothing, at every node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SystemItem {
    /// A sequencer is ready for the next epoch.
    Ready(Ready),
    /// The encryption key of a sequencer of the next committee, at most [`MAX_RECIPIENT_KEY_BYTES`].
    RecipientKey(Bytes),
    /// A dealing for the next epoch's keys, at most [`MAX_DEALING_BYTES`].
    Dealing(Bytes),
}

/// Largest announcement of an encryption key, in bytes.
pub const MAX_RECIPIENT_KEY_BYTES: usize = 512;

/// Largest dealing, in bytes: one for 256 seats has half a megabyte.
pub const MAX_DEALING_BYTES: usize = 640 << 10;

/// Dealings that one block may carry: each costs every node a check of up to a second.
pub const MAX_DEALINGS_PER_BLOCK: usize = 1;

impl Encode for SystemItem {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Ready(ready) => {
                out.push(1);
                ready.encode(out);
            }
            Self::RecipientKey(key) => {
                out.push(2);
                encode_byte_string(key, out);
            }
            Self::Dealing(dealing) => {
                out.push(3);
                encode_byte_string(dealing, out);
            }
        }
    }
}

impl Decode for SystemItem {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(r.field("system item"))? {
            1 => Ok(Self::Ready(Ready::decode(r)?)),
            2 => Ok(Self::RecipientKey(r.field("recipient key").byte_string(MAX_RECIPIENT_KEY_BYTES)?)),
            3 => Ok(Self::Dealing(r.field("dealing").byte_string(MAX_DEALING_BYTES)?)),
            tag => Err(r.error(DecodeErrorKind::UnknownTag(u64::from(tag)))),
        }
    }
}
