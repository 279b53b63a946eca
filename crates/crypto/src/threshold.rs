//! Threshold encryption and the random beacon (decisions 9 to 12 and 17 of the architecture).
//!
//! With S seats, f = (S-1)/3 and q = S-f, each seat holds one share of two keys that nobody holds ([`crate::dkg`]):
//! q shares open a payload or make a block's beacon, q-1 say nothing about either.
//!
//! ```text
//!   wallet      seal(key, label, payload) ------------------> ciphertext            [ciphertext]
//!   admission   check(key, ciphertexts with labels) --------> bases U_1 .. U_n      (one multi-scalar multiplication)
//!   ordered, committed: and not before
//!   sequencer   share(secret, bases) -----------------------> one message           [shares]
//!   sequencer   combine(keys, bases, messages) -------------> values K_1 .. K_n     (two pairings), liars named
//!   anybody     check_values(keys, bases, values)                                   (two pairings)
//!   anybody     open(ciphertext, label, K) -----------------> payload
//!   anybody     order(beacon, items) -----------------------> the order of execution [shuffle]
//! ```
//!
//! threshold_crypto supplies the polynomials that secrets are shared with, and is what all of this is tested against:
//! the same secret, the same U and the same seats give the same shares, encodings and combined values. What runs for
//! each envelope runs on blst, since threshold_crypto needs 3.8 ms for each check of a ciphertext or share, binds no
//! label, and keeps share keys in G1, where they cannot check shares of a U that comes without a G2 component. The
//! multiplications with secret shares are blst's constant-time ones.
//!
//! The scheme stands behind [`EncryptionScheme`].

pub mod beacon;
pub mod ciphertext;
mod interpolation;
pub mod keys;
mod scheme;
pub mod seats;
pub mod shares;
pub mod shuffle;
pub mod store;

pub use ciphertext::{Bucket, Ciphertext, CiphertextError, EncryptionKey, Label, OpenError, TooLarge};
pub use keys::{EpochKeys, KeySet, SecretShares};
pub use scheme::{EncryptionScheme, Tdh2};
pub use seats::{MAX_SEATS, SeatError, SeatMap};
pub use shares::{BlockShares, Combination, MAX_SHARES, MemberShares, ShareError};
pub use shuffle::{Slot, order};

#[cfg(test)]
mod tests;
