//! Certificates' signatures: BLS12-381 min-pk aggregates, on blst.
//!
//! The same check as `cascade_crypto::BlsScheme` and `verify_certificate`, which a light client cannot use where they
//! stand: that crate brings libsecp256k1, rayon and the operating system's randomness, and this one has to build for
//! wasm32 with nothing but blst.

use std::fmt::Debug;

use blst::{
    BLST_ERROR,
    min_pk::{AggregatePublicKey, PublicKey, Signature},
};
use cascade_primitives::{B256, BlsPublicKey, BlsSignature, Certificate, Committee, SigningContext};
use thiserror::Error;

/// Ciphersuite of votes (draft-irtf-cfrg-bls-signature-05, section 4.2.3).
const SUITE: &[u8] = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_";

/// Verifies aggregates of one message. A trait, so that tests with many headers need not sign them.
pub trait Verifier: Debug + Send + Sync {
    /// Whether `signature` aggregates one signature of every key over `digest`. False for no keys.
    fn verify_aggregate(&self, keys: &[BlsPublicKey], digest: &B256, signature: &BlsSignature) -> bool;
}

/// The real one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bls;

impl Verifier for Bls {
    fn verify_aggregate(&self, keys: &[BlsPublicKey], digest: &B256, signature: &BlsSignature) -> bool {
        let keys: Result<Vec<PublicKey>, _> = keys.iter().map(|key| PublicKey::key_validate(key.as_bytes())).collect();
        let (Ok(keys), Ok(signature)) = (keys, Signature::from_bytes(signature.as_bytes())) else { return false };
        let keys: Vec<&PublicKey> = keys.iter().collect();
        let Ok(sum) = AggregatePublicKey::aggregate(&keys, false) else { return false };
        signature.verify(true, digest.as_slice(), SUITE, &[], &sum.to_public_key(), false) == BLST_ERROR::BLST_SUCCESS
    }
}

/// Why a certificate proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// Of another epoch than the committee.
    #[error("it is of another epoch than the committee")]
    Epoch,
    /// It says something else, or says it about something else.
    #[error("it does not say what it has to")]
    Target,
    /// The signers' seats are no quorum, or the set belongs to a committee of another size.
    #[error("its signers hold {found} seats, a quorum is {needed}")]
    Quorum {
        /// Seats of the signers.
        found: u32,
        /// Seats of a quorum.
        needed: u32,
    },
    /// The aggregate signature is wrong.
    #[error("its signature is wrong")]
    Signature,
}

pub(crate) fn verify_certificate(
    verifier: &dyn Verifier,
    context: &SigningContext,
    committee: &Committee,
    certificate: &Certificate,
) -> Result<(), CertificateError> {
    if certificate.target.epoch != committee.epoch() {
        return Err(CertificateError::Epoch);
    }
    let (found, needed) = (committee.seats_of(&certificate.signers), committee.quorum());
    if found < needed {
        return Err(CertificateError::Quorum { found: found.0, needed: needed.0 });
    }
    let keys: Vec<_> = certificate.signers.iter().map(|m| committee.members()[m.index()].bls_key).collect();
    if verifier.verify_aggregate(&keys, &certificate.target.digest(context), &certificate.signature) {
        Ok(())
    } else {
        Err(CertificateError::Signature)
    }
}
