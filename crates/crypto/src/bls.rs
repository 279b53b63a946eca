//! BLS12-381 signatures, min-pk, with the proof-of-possession ciphersuite.
//!
//! Public keys are 48-byte points of G1, signatures 96-byte points of G2. Aggregates over one message are safe from
//! rogue keys because every key that enters a committee proves possession of its secret
//! (draft-irtf-cfrg-bls-signature-05, section 3.3). Every point is checked to lie in its subgroup before it is used.

use std::{collections::HashMap, fmt, sync::Arc};

use blst::{
    BLST_ERROR,
    min_pk::{AggregatePublicKey, AggregateSignature, PublicKey, SecretKey, Signature},
};
use cascade_primitives::{B256, BlsPublicKey, BlsSignature};
use parking_lot::RwLock;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::scheme::{VoteScheme, VoteSigner};

/// Ciphersuite of signatures.
const SIGNATURE_SUITE: &[u8] = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_";
/// Ciphersuite of proofs of possession.
const POSSESSION_SUITE: &[u8] = b"BLS_POP_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_";
/// Keys that are kept decompressed. A committee has at most 1024 members; two epochs and some slack fit.
const CACHED_KEYS: usize = 4096;

/// Why bytes are no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Zero, or not below the order of the group.
    #[error("32 bytes are not a BLS secret key: zero, or not below the group's order")]
    Secret,
    /// Not a point of the subgroup, or the point at infinity.
    #[error("48 bytes are not a BLS public key: not a point of G1's subgroup, or infinity")]
    Public,
    /// Less than 32 bytes of key material.
    #[error("a BLS key needs at least 32 bytes of key material, got {0}")]
    Material(usize),
    /// The operating system gave no randomness.
    #[error("the operating system's random generator failed")]
    Randomness,
}

/// A secret key. Erased when dropped; never printed.
#[derive(Clone)]
pub struct BlsSecretKey {
    secret: SecretKey,
    public: BlsPublicKey,
}

impl fmt::Debug for BlsSecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlsSecretKey({})", self.public)
    }
}

impl BlsSecretKey {
    /// A new key from the operating system's randomness.
    ///
    /// # Errors
    /// [`KeyError::Randomness`] if there is none.
    #[cfg(feature = "full")]
    pub fn generate() -> Result<Self, KeyError> {
        let mut material = Zeroizing::new([0u8; 32]);
        getrandom::fill(material.as_mut_slice()).map_err(|_| KeyError::Randomness)?;
        Self::derive(material.as_slice())
    }

    /// The key that belongs to at least 32 bytes of secret material (KeyGen, section 2.3 of the draft).
    ///
    /// # Errors
    /// [`KeyError::Material`] for fewer bytes.
    pub fn derive(material: &[u8]) -> Result<Self, KeyError> {
        let secret = SecretKey::key_gen(material, &[]).map_err(|_| KeyError::Material(material.len()))?;
        Ok(Self::from_secret(secret))
    }

    /// The key with this big-endian scalar.
    ///
    /// # Errors
    /// [`KeyError::Secret`] if it is no key.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        SecretKey::from_bytes(bytes).map(Self::from_secret).map_err(|_| KeyError::Secret)
    }

    fn from_secret(secret: SecretKey) -> Self {
        let public = BlsPublicKey(secret.sk_to_pk().compress());
        Self { secret, public }
    }

    /// The scalar, big endian.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.secret.to_bytes())
    }

    /// The proof that goes into a registry with the public key.
    #[must_use]
    pub fn prove_possession(&self) -> BlsSignature {
        BlsSignature(self.secret.sign(self.public.as_bytes(), POSSESSION_SUITE, &[]).compress())
    }
}

impl VoteSigner for BlsSecretKey {
    fn public_key(&self) -> BlsPublicKey {
        self.public
    }

    fn sign(&self, digest: &B256) -> BlsSignature {
        BlsSignature(self.secret.sign(digest.as_slice(), SIGNATURE_SUITE, &[]).compress())
    }
}

/// Whether `proof` shows possession of the secret key of `key`.
#[must_use]
pub fn verify_possession(key: &BlsPublicKey, proof: &BlsSignature) -> bool {
    let (Ok(public), Ok(proof)) = (PublicKey::key_validate(key.as_bytes()), Signature::from_bytes(proof.as_bytes()))
    else {
        return false;
    };
    proof.verify(true, key.as_bytes(), POSSESSION_SUITE, &[], &public, false) == BLST_ERROR::BLST_SUCCESS
}

/// Verification on blst, with decompressed public keys kept.
#[derive(Clone, Default)]
pub struct BlsScheme {
    keys: Arc<RwLock<HashMap<BlsPublicKey, PublicKey>>>,
}

impl fmt::Debug for BlsScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlsScheme")
    }
}

impl BlsScheme {
    fn key(&self, key: &BlsPublicKey) -> Option<PublicKey> {
        if let Some(known) = self.keys.read().get(key) {
            return Some(*known);
        }
        let public = PublicKey::key_validate(key.as_bytes()).ok()?;
        let mut keys = self.keys.write();
        if keys.len() >= CACHED_KEYS {
            keys.clear();
        }
        keys.insert(*key, public);
        Some(public)
    }
}

impl VoteScheme for BlsScheme {
    fn verify(&self, key: &BlsPublicKey, digest: &B256, signature: &BlsSignature) -> bool {
        let (Some(key), Ok(signature)) = (self.key(key), Signature::from_bytes(signature.as_bytes())) else {
            return false;
        };
        signature.verify(true, digest.as_slice(), SIGNATURE_SUITE, &[], &key, false) == BLST_ERROR::BLST_SUCCESS
    }

    fn aggregate(&self, signatures: &[BlsSignature]) -> Option<BlsSignature> {
        let points: Vec<Signature> =
            signatures.iter().map(|s| Signature::from_bytes(s.as_bytes())).collect::<Result<_, _>>().ok()?;
        let points: Vec<&Signature> = points.iter().collect();
        // The subgroup is checked once, on the aggregate, by whoever verifies it.
        let sum = AggregateSignature::aggregate(&points, false).ok()?;
        Some(BlsSignature(sum.to_signature().compress()))
    }

    fn verify_aggregate(&self, keys: &[BlsPublicKey], digest: &B256, signature: &BlsSignature) -> bool {
        let Some(keys) = keys.iter().map(|k| self.key(k)).collect::<Option<Vec<_>>>() else { return false };
        let keys: Vec<&PublicKey> = keys.iter().collect();
        let (Ok(sum), Ok(signature)) =
            (AggregatePublicKey::aggregate(&keys, false), Signature::from_bytes(signature.as_bytes()))
        else {
            return false;
        };
        signature.verify(true, digest.as_slice(), SIGNATURE_SUITE, &[], &sum.to_public_key(), false)
            == BLST_ERROR::BLST_SUCCESS
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scheme::find_invalid;

    fn keys(n: usize) -> Vec<BlsSecretKey> {
        (0..n).map(|i| BlsSecretKey::derive(&[i as u8 + 1; 32]).unwrap()).collect()
    }

    #[test]
    fn a_signature_holds_for_its_key_and_message_alone() {
        let keys = keys(2);
        let scheme = BlsScheme::default();
        let (a, b) = (B256::repeat_byte(1), B256::repeat_byte(2));
        let signature = keys[0].sign(&a);
        assert!(scheme.verify(&keys[0].public_key(), &a, &signature));
        assert!(!scheme.verify(&keys[0].public_key(), &b, &signature));
        assert!(!scheme.verify(&keys[1].public_key(), &a, &signature));
        assert!(!scheme.verify(&BlsPublicKey([0xff; 48]), &a, &signature));
        assert!(!scheme.verify(&keys[0].public_key(), &a, &BlsSignature([0xff; 96])));
    }

    #[test]
    fn possession_is_not_proved_by_an_ordinary_signature() {
        let keys = keys(2);
        let public = keys[0].public_key();
        assert!(verify_possession(&public, &keys[0].prove_possession()));
        assert!(!verify_possession(&public, &keys[1].prove_possession()));
        let other_suite = keys[0].secret.sign(public.as_bytes(), SIGNATURE_SUITE, &[]).compress();
        assert!(!verify_possession(&public, &BlsSignature(other_suite)));
    }

    #[test]
    fn the_point_at_infinity_is_no_key() {
        let mut infinity = [0u8; 48];
        infinity[0] = 0xc0;
        assert!(!BlsScheme::default().verify_aggregate(&[BlsPublicKey(infinity)], &B256::ZERO, &{
            let mut signature = [0u8; 96];
            signature[0] = 0xc0;
            BlsSignature(signature)
        }));
        assert!(!BlsScheme::default().verify_aggregate(&[], &B256::ZERO, &BlsSignature([0; 96])));
    }

    #[test]
    fn published_vectors_hold() {
        // Ethereum consensus-spec-tests, bls/sign and bls/verify: key 0x263d..., message of 32 zero bytes.
        let mut scalar = [0u8; 32];
        hex::decode_to_slice("263dbd792f5b1be47ed85f8938c0f29586af0d3ac7b977f21c278fe1462040e3", &mut scalar).unwrap();
        let key = BlsSecretKey::from_bytes(&scalar).unwrap();
        assert_eq!(
            key.public_key().to_string(),
            "0xa491d1b0ecd9bb917989f0e74f0dea0422eac4a873e5e2644f368dffb9a6e20fd6e10c1b77654d067c0618f6e5a7f79a"
        );
        assert_eq!(
            key.sign(&B256::ZERO).to_string(),
            "0xb6ed936746e01f8ecf281f020953fbf1f01debd5657c4a383940b020b26507f6076334f91e2366c96e9ab279fb5158090352ea1c5b0c9274504f4f0e7053af24802e51e4568d164fe986834f41e55c8e850ce1f98458c0cfc9ab380b55285a55"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn bisection_finds_exactly_the_wrong_signatures(wrong in prop::collection::btree_set(0usize..9, 0..5)) {
            let keys = keys(9);
            let digest = B256::repeat_byte(9);
            let public: Vec<_> = keys.iter().map(|k| k.public_key()).collect();
            let signatures: Vec<_> = keys.iter().enumerate()
                .map(|(i, k)| k.sign(if wrong.contains(&i) { &B256::ZERO } else { &digest })).collect();
            let scheme = BlsScheme::default();
            let found = find_invalid(&scheme, &digest, &public, &signatures);
            prop_assert_eq!(found, wrong.iter().copied().collect::<Vec<_>>());
            let sum = scheme.aggregate(&signatures).unwrap();
            prop_assert_eq!(scheme.verify_aggregate(&public, &digest, &sum), wrong.is_empty());
        }
    }
}
