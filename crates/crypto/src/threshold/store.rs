//! Key shares, and the encryption keys that they are dealt to, at rest.
//!
//! They lie on the disk under ChaCha20-Poly1305 with a key derived from the node's voting key and the epoch, so that a
//! copied database gives nothing away without the key file. Erasing an epoch's secrets means to delete the record; who
//! has an old copy of it *and* the voting key can still read it, which docs on key handling must say.
//!
//! ```text
//! record = version (1 byte) || nonce (12 bytes) || ChaCha20-Poly1305(encoding), which also covers version and kind
//! ```

use cascade_primitives::{Decode, Encode as _, Epoch, domain, hash};
use rand::CryptoRng;
use ring::aead;
use thiserror::Error;
use zeroize::{Zeroize as _, Zeroizing};

use super::keys::SecretShares;
use crate::{BlsSecretKey, dkg::RecipientSecret};

const VERSION: u8 = 1;

/// Why a record gives no secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// Too short, or of another version.
    #[error("the record of an epoch's secrets is cut off or of another version")]
    Format,
    /// Not sealed by this key for this epoch, or damaged.
    #[error("the record of an epoch's secrets is damaged, or was made with another voting key or for another epoch")]
    Sealed,
}

fn key(owner: &BlsSecretKey, epoch: Epoch) -> aead::LessSafeKey {
    let secret = owner.to_bytes();
    let mut key = hash::tagged(domain::SHARE_STORE, &[secret.as_slice(), &epoch.to_bytes()]);
    let unbound = aead::UnboundKey::new(&aead::CHACHA20_POLY1305, key.as_slice()).expect("the key has 32 bytes");
    key.0.zeroize();
    aead::LessSafeKey::new(unbound)
}

/// What a record holds; authenticated with it.
#[derive(Clone, Copy)]
enum Kind {
    Shares = 1,
    Recipient = 2,
}

fn seal(owner: &BlsSecretKey, epoch: Epoch, kind: Kind, text: Vec<u8>, rng: &mut dyn CryptoRng) -> Vec<u8> {
    let mut nonce = [0u8; aead::NONCE_LEN];
    rng.fill_bytes(&mut nonce);
    let mut text = Zeroizing::new(text);
    let aad = aead::Aad::from([VERSION, kind as u8]);
    let tag = key(owner, epoch)
        .seal_in_place_separate_tag(aead::Nonce::assume_unique_for_key(nonce), aad, &mut text)
        .expect("secrets are far below the AEAD's limit");
    [&[VERSION], nonce.as_slice(), &text, tag.as_ref()].concat()
}

fn open<T: Decode>(owner: &BlsSecretKey, epoch: Epoch, kind: Kind, record: &[u8]) -> Result<T, StoreError> {
    let (&[version], rest) = record.split_first_chunk().ok_or(StoreError::Format)?;
    let (nonce, sealed) = rest.split_first_chunk().ok_or(StoreError::Format)?;
    if version != VERSION {
        return Err(StoreError::Format);
    }
    let mut text = Zeroizing::new(sealed.to_vec());
    let nonce = aead::Nonce::assume_unique_for_key(*nonce);
    let text = key(owner, epoch)
        .open_in_place(nonce, aead::Aad::from([VERSION, kind as u8]), &mut text)
        .map_err(|_| StoreError::Sealed)?;
    T::from_slice(text).map_err(|_| StoreError::Sealed)
}

/// Seals shares for the disk.
#[must_use]
pub fn seal_shares(owner: &BlsSecretKey, shares: &SecretShares, rng: &mut dyn CryptoRng) -> Vec<u8> {
    seal(owner, shares.epoch(), Kind::Shares, shares.to_bytes(), rng)
}

/// Opens shares from the disk.
///
/// # Errors
/// [`StoreError`] if they were not sealed with this key for this epoch.
pub fn open_shares(owner: &BlsSecretKey, epoch: Epoch, record: &[u8]) -> Result<SecretShares, StoreError> {
    let shares: SecretShares = open(owner, epoch, Kind::Shares, record)?;
    if shares.epoch() == epoch { Ok(shares) } else { Err(StoreError::Sealed) }
}

/// Seals an epoch's encryption key for the disk: before it is announced, or a restart loses what is dealt to it.
#[must_use]
pub fn seal_recipient(owner: &BlsSecretKey, secret: &RecipientSecret, rng: &mut dyn CryptoRng) -> Vec<u8> {
    seal(owner, secret.epoch(), Kind::Recipient, secret.to_bytes(), rng)
}

/// Opens an epoch's encryption key from the disk.
///
/// # Errors
/// [`StoreError`] if it was not sealed with this key for this epoch.
pub fn open_recipient(owner: &BlsSecretKey, epoch: Epoch, record: &[u8]) -> Result<RecipientSecret, StoreError> {
    let secret: RecipientSecret = open(owner, epoch, Kind::Recipient, record)?;
    if secret.epoch() == epoch { Ok(secret) } else { Err(StoreError::Sealed) }
}
