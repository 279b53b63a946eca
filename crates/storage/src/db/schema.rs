//! Names of families, keys and the small values.

use cascade_execution::StateKey;
use cascade_primitives::{B256, BlockHash, Decode, DecodeError, Encode, Epoch, Height, Reader};

use super::Heads;

/// Length of a state key, which all of its value records begin with.
pub(super) const STATE_KEY_BYTES: usize = 32;

/// Where the heads stand.
pub(super) const HEADS: &[u8] = b"heads";
/// Key of what consensus keeps with the newest final block.
pub(super) const CONTEXT: &[u8] = b"context";

macro_rules! families {
    ($($name:ident = $text:literal,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Family {
            $($name,)*
        }

        impl Family {
            pub(super) const ALL: &[Self] = &[$(Self::$name,)*];

            pub(super) const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

families! {
    Headers = "headers",
    Bodies = "bodies",
    Heights = "heights",
    Finality = "finality",
    Transactions = "txs",
    Results = "results",
    Receipts = "receipts",
    Nodes = "nodes",
    Values = "values",
    Codes = "codes",
    Versions = "versions",
    Committees = "committees",
    Opened = "opened",
    Keys = "keys",
    Meta = "meta",
}

/// A key that sorts by number.
pub(super) const fn number(n: u64) -> [u8; 8] {
    n.to_be_bytes()
}

/// The key of a record of an epoch's keys.
pub(super) fn key_record(kind: u8, epoch: Epoch) -> [u8; 9] {
    let mut out = [kind; 9];
    out[1..].copy_from_slice(&number(epoch.0));
    out
}

/// The number of a key that [`number`] made.
pub(super) fn of_number(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.try_into().ok()?))
}

/// The key of a value record: newer versions of a state key come first.
pub(super) fn value_key(key: &StateKey, version: Height) -> [u8; STATE_KEY_BYTES + 8] {
    let mut out = [0; STATE_KEY_BYTES + 8];
    out[..STATE_KEY_BYTES].copy_from_slice(key.0.as_slice());
    out[STATE_KEY_BYTES..].copy_from_slice(&number(u64::MAX - version.0));
    out
}

/// The version of a value record's key.
pub(super) fn version_of_value(key: &[u8]) -> Option<Height> {
    of_number(key.get(STATE_KEY_BYTES..)?).map(|n| Height(u64::MAX - n))
}

pub(super) fn encode_heads(heads: &Heads) -> Vec<u8> {
    let mut out = Vec::new();
    heads.last_final.is_some().encode(&mut out);
    if let Some((height, hash)) = heads.last_final {
        height.encode(&mut out);
        hash.encode(&mut out);
    }
    heads.executed.encode(&mut out);
    heads.state.is_some().encode(&mut out);
    if let Some((oldest, newest)) = heads.state {
        oldest.encode(&mut out);
        newest.encode(&mut out);
    }
    out
}

pub(super) fn decode_heads(bytes: &[u8]) -> Result<Heads, DecodeError> {
    let mut r = Reader::new(bytes);
    let last_final =
        if bool::decode(&mut r)? { Some((Height::decode(&mut r)?, BlockHash::decode(&mut r)?)) } else { None };
    let executed = Option::decode(&mut r)?;
    let state = if bool::decode(&mut r)? { Some((Height::decode(&mut r)?, Height::decode(&mut r)?)) } else { None };
    r.finish()?;
    Ok(Heads { last_final, executed, state })
}

/// Where a transaction stands: height and index.
pub(super) fn encode_place(height: Height, index: u32) -> [u8; 12] {
    let mut out = [0; 12];
    out[..8].copy_from_slice(&number(height.0));
    out[8..].copy_from_slice(&index.to_be_bytes());
    out
}

pub(super) fn decode_place(bytes: &[u8]) -> Option<(Height, u32)> {
    let height = of_number(bytes.get(..8)?)?;
    Some((Height(height), u32::from_be_bytes(bytes.get(8..)?.try_into().ok()?)))
}

/// A record of the headers family: hash, then header.
pub(super) fn split_header(bytes: &[u8]) -> Option<(BlockHash, &[u8])> {
    let (hash, header) = bytes.split_at_checked(BlockHash::LEN)?;
    Some((B256::from_slice(hash).into(), header))
}
