//! Cryptography of Cascade.
//!
//! - [`bls`]: votes and certificates, BLS12-381 min-pk with proof of possession
//!   (draft-irtf-cfrg-bls-signature-05, sections 3.3 and 4.2.3), on blst.
//! - [`scheme`]: the trait through which consensus signs and verifies, so that the simulator can run an unforgeable
//!   mock, and lazy verification: one aggregate check, bisection only where it fails.
//! - [`threshold`]: the encryption of the mempool, shares and their combination, the random beacon, the shuffle.
//! - [`dkg`]: the keys of an epoch, made by the committee before through the agreed log, without a trusted dealer.
//! - [`curve`]: the arithmetic under both, and all `unsafe` code of the crate.
//! - [`envelope`]: transactions sealed into envelopes, checked, and opened again.
//! - [`bugs`]: decisions that the simulator's tests make go wrong.
//! - [`ecdsa`]: recovery of the signer of an Ethereum transaction, on libsecp256k1.
//!
//! Without the feature `full` only [`bls`] and [`scheme`] are there: what a light client needs.
//!
//! No function here panics on bytes from outside.

pub mod bls;
#[cfg(feature = "full")]
pub mod bugs;
#[cfg(feature = "full")]
pub mod curve;
#[cfg(feature = "full")]
pub mod dkg;
#[cfg(feature = "full")]
pub mod ecdsa;
#[cfg(feature = "full")]
pub mod envelope;
pub mod scheme;
#[cfg(feature = "full")]
pub mod threshold;

pub use bls::{BlsScheme, BlsSecretKey};
pub use scheme::{VoteScheme, VoteSigner, find_invalid, verify_certificate};
