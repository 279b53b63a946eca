//! Domain-separated SHA-256.

use alloy_primitives::B256;
use sha2::{Digest, Sha256};

use crate::{codec::Encode, domain::Domain};

/// SHA-256 over the tag's length, the tag and the parts.
///
/// The parts are not separated: callers pass fixed-width parts, or one canonical encoding.
#[must_use]
pub fn tagged(domain: Domain, parts: &[&[u8]]) -> B256 {
    tagged_with(domain, |out| parts.iter().for_each(|part| out(part)))
}

/// Like [`tagged`], with the parts handed over one by one, so that a long encoding needs no buffer.
#[must_use]
pub fn tagged_with(domain: Domain, feed: impl FnOnce(&mut dyn FnMut(&[u8]))) -> B256 {
    let mut hasher = Sha256::new();
    let tag = domain.as_bytes();
    hasher.update([u8::try_from(tag.len()).expect("tags are short constants")]);
    hasher.update(tag);
    feed(&mut |part| hasher.update(part));
    B256::from(<[u8; 32]>::from(hasher.finalize()))
}

/// The tagged hash of a value's canonical encoding.
#[must_use]
pub fn of<T: Encode + ?Sized>(domain: Domain, value: &T) -> B256 {
    tagged(domain, &[&value.to_bytes()])
}
