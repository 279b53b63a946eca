//! What pools tell each other: transactions or payloads as their senders encoded them.
//!
//! ```text
//!  +-------------+ +---------------+-------+ +---------------+----
//!  | count u32   | | length u32    | item  | | length u32    | ...
//!  +-------------+ +---------------+-------+ +---------------+----
//! ```

use bytes::Bytes;
use cascade_primitives::{Decode as _, DecodeError, Encode as _, Reader, SystemItem, codec::encode_byte_string};

/// Bytes of items after which a message takes no further one. Well under the channel's limit.
pub const GOSSIP_BYTES: usize = 512 << 10;

/// A gossip message: a list of transactions or payloads.
///
/// # Panics
/// Above `u32::MAX` items; [`GOSSIP_BYTES`] keeps a batch far below.
#[must_use]
pub fn encode_gossip(batch: &[Bytes]) -> Bytes {
    let mut out = Vec::with_capacity(4 + batch.iter().map(|b| b.len() + 4).sum::<usize>());
    u32::try_from(batch.len()).expect("a batch is bounded in bytes").encode(&mut out);
    for item in batch {
        encode_byte_string(item, &mut out);
    }
    Bytes::from(out)
}

/// Reads a gossip message. Each item has a buffer of its own, or one kept item would keep all of its message.
///
/// # Errors
/// If it is not one, or holds more or larger items than allowed.
pub fn decode_gossip(message: &Bytes, item_bytes: usize) -> Result<Vec<Bytes>, DecodeError> {
    let mut r = Reader::new(message);
    let count = r.field("gossip").length(GOSSIP_BYTES / 4)?;
    let mut items = Vec::with_capacity(count.min(r.left() / 4));
    for _ in 0..count {
        items.push(r.byte_string(item_bytes)?);
    }
    r.finish()?;
    Ok(items)
}

/// Tag of a system item among gossiped items; users' items begin with 1 or 2 (`cascade_primitives::envelope::Item`).
const SYSTEM: u8 = 3;

/// A system item as it is gossiped on an encrypted chain.
#[must_use]
pub fn encode_system_item(item: &SystemItem) -> Bytes {
    let mut out = vec![SYSTEM];
    item.encode(&mut out);
    Bytes::from(out)
}

/// The system item in a gossiped item; none if it is a user's.
///
/// # Errors
/// If it is neither.
pub fn decode_system_item(item: &Bytes) -> Result<Option<SystemItem>, DecodeError> {
    if item.first() != Some(&SYSTEM) {
        return Ok(None);
    }
    SystemItem::from_shared(&item.slice(1..)).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_item_does_not_keep_the_message_it_came_in() {
        let message = encode_gossip(&[Bytes::from_static(b"small"), vec![0; 1 << 19].into()]);
        let items = decode_gossip(&message, 1 << 19).unwrap();
        assert_eq!(items[0], &b"small"[..]);
        assert!(items.iter().all(Bytes::is_unique), "nothing else shares their buffers");
    }
}
