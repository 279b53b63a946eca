//! How a context lies on a disk.

use std::{collections::BTreeMap, sync::Arc};

use cascade_primitives::{
    B256, BlockHash, Committee, Decode, DecodeError, DecodeErrorKind, Encode, Epoch, HeaderKind, Height, MemberIndex,
    Reader, ThresholdKeys, TimestampMs, View, certificate::MAX_MEMBERS, codec::encode_list, merkle::MountainRange,
};

use super::{Beacons, ChainContext};
use crate::lineage::Lineage;

impl Encode for Beacons {
    fn encode(&self, out: &mut Vec<u8>) {
        self.older.encode(out);
        self.newer.encode(out);
        self.own.encode(out);
    }
}

impl Decode for Beacons {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.field("beacons");
        Ok(Self { older: B256::decode(r)?, newer: B256::decode(r)?, own: B256::decode(r)? })
    }
}

impl Encode for ChainContext {
    fn encode(&self, out: &mut Vec<u8>) {
        self.hash.encode(out);
        self.height.encode(out);
        self.epoch.encode(out);
        self.view.encode(out);
        self.timestamp.encode(out);
        self.kind.encode(out);
        self.base_fee.encode(out);
        self.ordered_gas.encode(out);
        self.last_result.encode(out);
        self.last_content.encode(out);
        self.content_end.encode(out);
        self.extensions.encode(out);
        self.ended.encode(out);
        self.committee.encode(out);
        self.next_committee.encode(out);
        encode_list(&self.ready.iter().map(|(member, keys)| Named(*member, *keys)).collect::<Vec<_>>(), out);
        self.beacons.encode(out);
        self.history.encode(out);
        self.uncommitted.encode(out);
    }
}

impl Decode for ChainContext {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.field("chain context");
        let context = Self {
            hash: BlockHash::decode(r)?,
            height: Height::decode(r)?,
            epoch: Epoch::decode(r)?,
            view: View::decode(r)?,
            timestamp: TimestampMs::decode(r)?,
            kind: HeaderKind::decode(r)?,
            base_fee: u64::decode(r)?,
            ordered_gas: u64::decode(r)?,
            last_result: Height::decode(r)?,
            last_content: Height::decode(r)?,
            content_end: Height::decode(r)?,
            extensions: u64::decode(r)?,
            ended: bool::decode(r)?,
            committee: Arc::new(Committee::decode(r)?),
            next_committee: Arc::new(Committee::decode(r)?),
            ready: decode_ready(r)?,
            beacons: Beacons::decode(r)?,
            history: MountainRange::decode(r)?,
            uncommitted: Lineage::decode(r)?,
        };
        let members = context.next_committee.members().len();
        if context.ready.last_key_value().is_some_and(|(last, _)| last.index() >= members) {
            return Err(r.error(DecodeErrorKind::NotCanonical("ready members are of the next committee")));
        }
        Ok(context)
    }
}

/// A ready member and the keys that it named.
struct Named(MemberIndex, ThresholdKeys);

impl Encode for Named {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
        self.1.encode(out);
    }
}

impl Decode for Named {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(MemberIndex::decode(r.field("ready member"))?, ThresholdKeys::decode(r)?))
    }
}

fn decode_ready(r: &mut Reader<'_>) -> Result<BTreeMap<MemberIndex, ThresholdKeys>, DecodeError> {
    let ready: Vec<Named> = r.field("ready members").list(MAX_MEMBERS)?;
    if !ready.is_sorted_by(|a, b| a.0 < b.0) {
        return Err(r.error(DecodeErrorKind::NotCanonical("ready members stand in rising order")));
    }
    Ok(ready.into_iter().map(|named| (named.0, named.1)).collect())
}
