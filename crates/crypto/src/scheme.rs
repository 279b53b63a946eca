//! How consensus signs and verifies votes.
//!
//! Keys and signatures are the fixed-size byte types of the wire, so that one core runs with real BLS in a node and
//! with an unforgeable mock in most runs of the simulator.

use std::fmt::Debug;

use cascade_primitives::{B256, BlsPublicKey, BlsSignature, Certificate, Committee, SigningContext};
use thiserror::Error;

/// Verification of votes and certificates.
pub trait VoteScheme: Send + Sync + Debug {
    /// Whether `signature` is `key`'s over `digest`.
    fn verify(&self, key: &BlsPublicKey, digest: &B256, signature: &BlsSignature) -> bool;

    /// The aggregate of the signatures; none if one of them is not even a point. Signatures need not be verified
    /// before: a wrong one makes the aggregate wrong.
    fn aggregate(&self, signatures: &[BlsSignature]) -> Option<BlsSignature>;

    /// Whether `signature` aggregates one signature of every key over `digest`. False for no keys.
    fn verify_aggregate(&self, keys: &[BlsPublicKey], digest: &B256, signature: &BlsSignature) -> bool;
}

/// A secret key that signs votes.
pub trait VoteSigner: Send + Sync + Debug {
    /// Its public key.
    fn public_key(&self) -> BlsPublicKey;

    /// Signs a digest.
    fn sign(&self, digest: &B256) -> BlsSignature;
}

/// Indices of the signatures that are wrong, found by bisection over aggregates.
///
/// With k wrong ones of n it costs O(k log n) aggregate checks in place of n checks. Pairs whose errors cancel out in
/// an aggregate are not told apart from right ones, and need not be: the aggregate that they are part of is valid.
#[must_use]
pub fn find_invalid(
    scheme: &dyn VoteScheme,
    digest: &B256,
    keys: &[BlsPublicKey],
    signatures: &[BlsSignature],
) -> Vec<usize> {
    fn search(
        scheme: &dyn VoteScheme,
        digest: &B256,
        keys: &[BlsPublicKey],
        signatures: &[BlsSignature],
        offset: usize,
        found: &mut Vec<usize>,
    ) {
        let valid = match signatures {
            [] => true,
            [only] => scheme.verify(&keys[0], digest, only),
            _ => scheme.aggregate(signatures).is_some_and(|sum| scheme.verify_aggregate(keys, digest, &sum)),
        };
        if valid {
            return;
        }
        if signatures.len() == 1 {
            found.push(offset);
            return;
        }
        let middle = signatures.len() / 2;
        search(scheme, digest, &keys[..middle], &signatures[..middle], offset, found);
        search(scheme, digest, &keys[middle..], &signatures[middle..], offset + middle, found);
    }
    assert_eq!(keys.len(), signatures.len(), "one key for each signature");
    let mut found = Vec::new();
    search(scheme, digest, keys, signatures, 0, &mut found);
    found
}

/// Why a certificate proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// Of another epoch than the committee.
    #[error("the certificate is of another epoch than the committee")]
    Epoch,
    /// The signers' seats are no quorum, or the set belongs to a committee of another size.
    #[error("the signers hold {found} seats, a quorum is {needed}")]
    Quorum {
        /// Seats of the signers.
        found: u32,
        /// Seats of a quorum.
        needed: u32,
    },
    /// The aggregate signature is wrong.
    #[error("the aggregate signature is wrong")]
    Signature,
}

/// Checks a certificate against the committee of its epoch.
///
/// # Errors
/// [`CertificateError`] if it does not prove that a quorum said what it says.
pub fn verify_certificate(
    scheme: &dyn VoteScheme,
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
    if scheme.verify_aggregate(&keys, &certificate.target.digest(context), &certificate.signature) {
        Ok(())
    } else {
        Err(CertificateError::Signature)
    }
}
