//! The canonical binary codec.
//!
//! One value has exactly one encoding, and every encoding decodes to at most one value:
//!
//! | type | encoding |
//! |---|---|
//! | `u8` .. `u64`, `u128` | fixed width, little endian |
//! | `bool` | one byte, 0 or 1; anything else is refused |
//! | `[u8; N]`, hashes, keys | the bytes |
//! | byte strings, lists | length as `u32`, then the bytes or items |
//! | `Option<T>` | `bool`, then the value if there is one |
//! | structs | their fields in order |
//!
//! Decoding is safe on hostile input: every length is checked against the bytes that are left and
//! against the limit of the field *before* anything is allocated, and what is left over at the end
//! is an error. An error says what was being read, where, and which limit was broken.

use alloy_primitives::{Address, B256, U256};
use bytes::Bytes;
use thiserror::Error;

/// Why bytes were refused, what was being read, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{what} at byte {offset}: {kind}")]
pub struct DecodeError {
    /// What was being read.
    pub what: &'static str,
    /// Offset in bytes from the start of the input.
    pub offset: usize,
    /// The rule that was broken.
    pub kind: DecodeErrorKind,
}

/// The rule that hostile or damaged bytes broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeErrorKind {
    /// The input ends before the value does.
    #[error("needs {needed} more bytes, {left} are left")]
    UnexpectedEnd {
        /// Bytes that the value still needs.
        needed: usize,
        /// Bytes that are left.
        left: usize,
    },
    /// A length or count exceeds the limit of its field.
    #[error("length {length} exceeds the limit of {limit}")]
    TooLong {
        /// The length found.
        length: usize,
        /// The largest length allowed.
        limit: usize,
    },
    /// A tag byte that this version does not know.
    #[error("unknown tag {0}")]
    UnknownTag(u64),
    /// The value has a second encoding that is not the canonical one, or breaks a rule of its type.
    #[error("not canonical: {0}")]
    NotCanonical(&'static str),
    /// Bytes are left after the value.
    #[error("{0} bytes are left over")]
    TrailingBytes(usize),
}

/// Writes the canonical encoding.
pub trait Encode {
    /// Appends the encoding to `out`.
    fn encode(&self, out: &mut Vec<u8>);

    /// The encoding in a new buffer.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}

/// Reads the canonical encoding.
pub trait Decode: Sized {
    /// Reads one value and leaves the reader behind it.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are not a canonical encoding.
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError>;

    /// Reads a value that must fill the whole input.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are not a canonical encoding or some are left over.
    fn from_slice(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let value = Self::decode(&mut r)?;
        r.finish()?;
        Ok(value)
    }

    /// Like [`Decode::from_slice`], but byte strings inside share the buffer instead of being copied.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are not a canonical encoding or some are left over.
    fn from_shared(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::shared(bytes);
        let value = Self::decode(&mut r)?;
        r.finish()?;
        Ok(value)
    }
}

/// A position in a byte string that is being decoded.
#[derive(Debug)]
pub struct Reader<'a> {
    input: &'a [u8],
    position: usize,
    owner: Option<&'a Bytes>,
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads from a slice; byte strings are copied out of it.
    #[must_use]
    pub const fn new(input: &'a [u8]) -> Self {
        Self { input, position: 0, owner: None, what: "input" }
    }

    /// Reads from a shared buffer; byte strings become slices of it.
    #[must_use]
    pub fn shared(input: &'a Bytes) -> Self {
        Self { input, position: 0, owner: Some(input), what: "input" }
    }

    /// Names what is read next, for errors.
    pub fn field(&mut self, what: &'static str) -> &mut Self {
        self.what = what;
        self
    }

    /// Bytes that are left.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.input.len() - self.position
    }

    /// An error at this position.
    #[must_use]
    pub const fn error(&self, kind: DecodeErrorKind) -> DecodeError {
        DecodeError { what: self.what, offset: self.position, kind }
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// [`DecodeErrorKind::UnexpectedEnd`] if fewer are left.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        if n > self.left() {
            return Err(self.error(DecodeErrorKind::UnexpectedEnd { needed: n, left: self.left() }));
        }
        let bytes = &self.input[self.position..self.position + n];
        self.position += n;
        Ok(bytes)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// [`DecodeErrorKind::UnexpectedEnd`] if fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0u8; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// A length prefix, checked against `limit`.
    ///
    /// # Errors
    /// [`DecodeErrorKind::TooLong`] above the limit.
    pub fn length(&mut self, limit: usize) -> Result<usize, DecodeError> {
        let start = self.position;
        let length = u32::decode(self)? as usize;
        if length > limit {
            self.position = start;
            return Err(self.error(DecodeErrorKind::TooLong { length, limit }));
        }
        Ok(length)
    }

    /// A byte string of at most `limit` bytes.
    ///
    /// # Errors
    /// If it is longer than `limit` or than what is left.
    pub fn byte_string(&mut self, limit: usize) -> Result<Bytes, DecodeError> {
        let length = self.length(limit)?;
        let start = self.position;
        let bytes = self.take(length)?;
        Ok(match self.owner {
            Some(owner) => owner.slice(start..start + length),
            None => Bytes::copy_from_slice(bytes),
        })
    }

    /// A list of at most `limit` items.
    ///
    /// Memory is reserved for no more items than the bytes that are left could hold.
    ///
    /// # Errors
    /// If the count exceeds `limit` or an item is refused.
    pub fn list<T: Decode>(&mut self, limit: usize) -> Result<Vec<T>, DecodeError> {
        let count = self.length(limit)?;
        let mut items = Vec::with_capacity(count.min(self.left()).min(1024));
        for _ in 0..count {
            items.push(T::decode(self)?);
        }
        Ok(items)
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`DecodeErrorKind::TrailingBytes`] if anything is left.
    pub const fn finish(&self) -> Result<(), DecodeError> {
        match self.left() {
            0 => Ok(()),
            n => Err(self.error(DecodeErrorKind::TrailingBytes(n))),
        }
    }
}

/// Appends a byte string with its length.
///
/// # Panics
/// Above `u32::MAX` bytes, which every limit in this crate keeps out of reach.
pub fn encode_byte_string(bytes: &[u8], out: &mut Vec<u8>) {
    u32::try_from(bytes.len()).expect("limits keep byte strings under 4 GiB").encode(out);
    out.extend_from_slice(bytes);
}

/// Appends a list with its count.
///
/// # Panics
/// Above `u32::MAX` items, which every limit in this crate keeps out of reach.
pub fn encode_list<T: Encode>(items: &[T], out: &mut Vec<u8>) {
    u32::try_from(items.len()).expect("limits keep lists under 2^32 items").encode(out);
    for item in items {
        item.encode(out);
    }
}

macro_rules! int {
    ($($t:ty),*) => {$(
        impl Encode for $t {
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }

        impl Decode for $t {
            fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok(Self::from_le_bytes(r.array()?))
            }
        }
    )*};
}

int!(u8, u16, u32, u64, u128);

impl Encode for bool {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
}

impl Decode for bool {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(r)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(r.error(DecodeErrorKind::NotCanonical("a bool is 0 or 1"))),
        }
    }
}

impl<T: Encode> Encode for Option<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.is_some().encode(out);
        if let Some(value) = self {
            value.encode(out);
        }
    }
}

impl<T: Decode> Decode for Option<T> {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(if bool::decode(r)? { Some(T::decode(r)?) } else { None })
    }
}

impl Encode for B256 {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_slice());
    }
}

impl Decode for B256 {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(r.array()?))
    }
}

impl Encode for Address {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_slice());
    }
}

impl Decode for Address {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self::from(r.array::<20>()?))
    }
}

impl Encode for U256 {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes::<32>());
    }
}

impl Decode for U256 {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self::from_le_bytes(r.array::<32>()?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_length_beyond_its_limit_is_refused_before_anything_is_read() {
        let mut bytes = Vec::new();
        u32::MAX.encode(&mut bytes);
        let error = Reader::new(&bytes).field("payload").byte_string(1 << 20).unwrap_err();
        assert_eq!(error.what, "payload");
        assert_eq!(error.offset, 0);
        assert_eq!(error.kind, DecodeErrorKind::TooLong { length: u32::MAX as usize, limit: 1 << 20 });
    }

    #[test]
    fn a_list_reserves_no_more_than_the_input_could_hold() {
        let mut bytes = Vec::new();
        1_000_000_u32.encode(&mut bytes);
        bytes.extend_from_slice(&[0; 16]);
        let error = Reader::new(&bytes).list::<u64>(2_000_000).unwrap_err();
        assert!(matches!(error.kind, DecodeErrorKind::UnexpectedEnd { needed: 8, left: 0 }));
    }

    #[test]
    fn shared_byte_strings_are_slices_of_the_input() {
        let mut bytes = Vec::new();
        encode_byte_string(b"hello", &mut bytes);
        let bytes = Bytes::from(bytes);
        let read = Reader::shared(&bytes).byte_string(5).unwrap();
        assert_eq!(read.as_ptr(), bytes[4..].as_ptr());
    }

    proptest! {
        #[test]
        fn numbers_round_trip(a: u8, b: u16, c: u32, d: u64, e: u128, f: bool, g: Option<u64>) {
            let mut out = Vec::new();
            a.encode(&mut out); b.encode(&mut out); c.encode(&mut out);
            d.encode(&mut out); e.encode(&mut out); f.encode(&mut out); g.encode(&mut out);
            let mut r = Reader::new(&out);
            prop_assert_eq!(u8::decode(&mut r).unwrap(), a);
            prop_assert_eq!(u16::decode(&mut r).unwrap(), b);
            prop_assert_eq!(u32::decode(&mut r).unwrap(), c);
            prop_assert_eq!(u64::decode(&mut r).unwrap(), d);
            prop_assert_eq!(u128::decode(&mut r).unwrap(), e);
            prop_assert_eq!(bool::decode(&mut r).unwrap(), f);
            prop_assert_eq!(Option::<u64>::decode(&mut r).unwrap(), g);
            prop_assert!(r.finish().is_ok());
        }

        #[test]
        fn what_decodes_encodes_to_the_same_bytes(bytes: Vec<u8>) {
            if let Ok(value) = Option::<u32>::from_slice(&bytes) {
                prop_assert_eq!(value.to_bytes(), bytes);
            }
        }
    }
}
