//! Where accounts and slots stand in the state tree, and how they are encoded there.
//!
//! One flat tree holds everything: an account's key is a tagged SHA-256 of its address, a slot's of its address and
//! slot number, so neither can be taken for the other and no attacker chooses a position cheaply. What has its empty
//! value is not in the tree: a slot of zero, and an account without nonce, balance and code (EIP-161).

use alloy_primitives::{Address, B256, U256};
use cascade_primitives::{Decode, DecodeError, DecodeErrorKind, Encode, Reader, domain, hash};
use revm::primitives::KECCAK_EMPTY;

use crate::store::StateKey;

/// Where an account stands in the tree.
#[must_use]
pub fn account_key(address: &Address) -> StateKey {
    StateKey(hash::tagged(domain::STATE_ACCOUNT, &[address.as_slice()]))
}

/// Where a storage slot stands in the tree.
#[must_use]
pub fn slot_key(address: &Address, slot: &U256) -> StateKey {
    StateKey(hash::tagged(domain::STATE_SLOT, &[address.as_slice(), &slot.to_be_bytes::<32>()]))
}

/// An account as the state tree holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// Transactions sent, or contracts created.
    pub nonce: u64,
    /// Balance in wei.
    pub balance: U256,
    /// Keccak-256 of the code; that of the empty string for an account without code.
    pub code_hash: B256,
}

impl Default for Account {
    fn default() -> Self {
        Self { nonce: 0, balance: U256::ZERO, code_hash: KECCAK_EMPTY }
    }
}

impl Account {
    /// Whether it has neither nonce, balance nor code, which means that it is not in the tree.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it has code.
    #[must_use]
    pub fn has_code(&self) -> bool {
        self.code_hash != KECCAK_EMPTY
    }
}

impl Encode for Account {
    fn encode(&self, out: &mut Vec<u8>) {
        self.nonce.encode(out);
        self.balance.encode(out);
        self.code_hash.encode(out);
    }
}

impl Decode for Account {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.field("account");
        let account = Self { nonce: u64::decode(r)?, balance: U256::decode(r)?, code_hash: B256::decode(r)? };
        if account.is_empty() {
            return Err(r.error(DecodeErrorKind::NotCanonical("an empty account is absent")));
        }
        Ok(account)
    }
}

/// The value of a slot in the tree: 32 bytes, big endian. Zero is absent.
#[must_use]
pub fn encode_slot(value: &U256) -> [u8; 32] {
    value.to_be_bytes()
}

/// Reads the value of a slot.
///
/// # Errors
/// If it is not 32 bytes, or zero.
pub fn decode_slot(bytes: &[u8]) -> Result<U256, DecodeError> {
    let mut r = Reader::new(bytes);
    let value = U256::from_be_bytes(r.field("storage slot").array::<32>()?);
    r.finish()?;
    if value.is_zero() {
        return Err(r.error(DecodeErrorKind::NotCanonical("a slot of zero is absent")));
    }
    Ok(value)
}
