//! The rule of the codec: one value, one encoding.

use std::fmt::Debug;

use bytes::Bytes;
use cascade_primitives::{Decode, Encode};

/// Decodes bytes; if they are a value, they must be its only encoding.
///
/// # Panics
/// If the decoder is not canonical.
pub fn canonical<T: Decode + Encode + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    let shared = Bytes::copy_from_slice(bytes);
    let value = match (T::from_slice(bytes), T::from_shared(&shared)) {
        (Ok(value), Ok(from_shared)) => {
            assert_eq!(value, from_shared, "copied and shared bytes decode alike");
            value
        }
        (Err(copied), Err(from_shared)) => {
            assert_eq!(copied, from_shared, "copied and shared bytes are refused alike");
            assert!(copied.offset <= bytes.len(), "{copied}: the place is in the input");
            return None;
        }
        (copied, from_shared) => panic!("copied {copied:?}, shared {from_shared:?}"),
    };
    assert_eq!(value.to_bytes(), bytes, "{value:?} has another encoding");
    if let Some(end) = bytes.len().checked_sub(1) {
        assert!(T::from_slice(&bytes[..end]).is_err(), "a prefix of {value:?} decodes");
        assert!(T::from_slice(&bytes[..end / 2]).is_err(), "a prefix of {value:?} decodes");
    }
    Some(value)
}

/// Encodes a value of our own and expects it back.
///
/// # Panics
/// If it does not come back.
pub fn survives<T: Decode + Encode + PartialEq + Debug>(value: &T) {
    let back = canonical::<T>(&value.to_bytes());
    assert_eq!(back.as_ref(), Some(value), "an own value is refused");
}
