//! Key shares at rest.
//!
//! Shares lie on the disk under ChaCha20-Poly1305 with a key derived from the node's voting key and the epoch, so that a
//! copied database gives nothing away without the key file. Erasing an epoch's shares means to delete the record; who
//! has an old copy of it *and* the voting key can still read it, which docs on key handling must say.
//!
//! ```text
//! record = version (1 byte) || nonce (12 bytes) || sealed encoding of the shares
//! ```

use cascade_primitives::{Decode as _, Encode, Epoch, domain, hash};
use rand::CryptoRng;
use ring::aead;
use thiserror::Error;
use zeroize::{Zeroize as _, Zeroizing};

use super::keys::SecretShares;
use crate::BlsSecretKey;

const VERSION: u8 = 1;

/// Why a record gives no shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// Too short, or of another version.
    #[error("the record of key shares is cut off or of another version")]
    Format,
    /// Not sealed by this key for this epoch, or damaged.
    #[error("the record of key shares is damaged, or was made with another voting key or for another epoch")]
    Sealed,
}

fn key(owner: &BlsSecretKey, epoch: Epoch) -> aead::LessSafeKey {
    let secret = owner.to_bytes();
    let mut key = hash::tagged(domain::SHARE_STORE, &[secret.as_slice(), &epoch.to_bytes()]);
    let unbound = aead::UnboundKey::new(&aead::CHACHA20_POLY1305, key.as_slice()).expect("the key has 32 bytes");
    key.0.zeroize();
    aead::LessSafeKey::new(unbound)
}

/// Seals shares for the disk.
#[must_use]
pub fn seal_shares(owner: &BlsSecretKey, shares: &SecretShares, rng: &mut dyn CryptoRng) -> Vec<u8> {
    let mut nonce = [0u8; aead::NONCE_LEN];
    rng.fill_bytes(&mut nonce);
    let mut text = Zeroizing::new(shares.to_bytes());
    let tag = key(owner, shares.epoch())
        .seal_in_place_separate_tag(aead::Nonce::assume_unique_for_key(nonce), aead::Aad::from([VERSION]), &mut text)
        .expect("shares are far below the AEAD's limit");
    [&[VERSION], nonce.as_slice(), &text, tag.as_ref()].concat()
}

/// Opens shares from the disk.
///
/// # Errors
/// [`StoreError`] if they were not sealed with this key for this epoch.
pub fn open_shares(owner: &BlsSecretKey, epoch: Epoch, record: &[u8]) -> Result<SecretShares, StoreError> {
    let (&[version], rest) = record.split_first_chunk().ok_or(StoreError::Format)?;
    let (nonce, sealed) = rest.split_first_chunk().ok_or(StoreError::Format)?;
    if version != VERSION {
        return Err(StoreError::Format);
    }
    let mut text = Zeroizing::new(sealed.to_vec());
    let nonce = aead::Nonce::assume_unique_for_key(*nonce);
    let text = key(owner, epoch)
        .open_in_place(nonce, aead::Aad::from([VERSION]), &mut text)
        .map_err(|_| StoreError::Sealed)?;
    let shares = SecretShares::from_slice(text).map_err(|_| StoreError::Sealed)?;
    if shares.epoch() == epoch { Ok(shares) } else { Err(StoreError::Sealed) }
}
