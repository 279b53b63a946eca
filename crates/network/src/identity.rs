//! A node's network identity: an Ed25519 key (RFC 8032).
//!
//! The public key is the [`NodeId`]. The same key signs the node's TLS handshakes (its self-signed certificate holds
//! it) and its announcements; the two never collide, because announcements are signed over a hash with a domain tag
//! and TLS 1.3 signs over a context string of its own (RFC 8446, 4.4.3).

use std::fmt;

use cascade_primitives::{B256, Decode, DecodeError, Encode, NodeId, Reader};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use zeroize::Zeroizing;

/// An Ed25519 key pair that a node is known by. Its secret is wiped from memory when the last clone goes.
#[derive(Clone)]
pub struct Identity {
    key: SigningKey,
}

/// An Ed25519 signature of a node over a tagged hash. The bytes alone say nothing about validity.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NodeSignature(pub [u8; 64]);

impl Identity {
    /// A new identity from the operating system's randomness.
    ///
    /// # Errors
    /// If the operating system has no randomness to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut_slice())?;
        Ok(Self::from_seed(&seed))
    }

    /// The identity of a stored 32-byte seed (the RFC 8032 private key).
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self { key: SigningKey::from_bytes(seed) }
    }

    /// The 32-byte seed, to be stored as a secret.
    #[must_use]
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.key.to_bytes())
    }

    /// Who this is on the network.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        NodeId(self.key.verifying_key().to_bytes())
    }

    /// Signs a domain-separated hash.
    #[must_use]
    pub fn sign(&self, digest: B256) -> NodeSignature {
        NodeSignature(self.key.sign(digest.as_slice()).to_bytes())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.node_id()).finish()
    }
}

impl NodeSignature {
    /// Whether `node` signed `digest`. Strict: keys and nonces of small order are refused, so that one signature
    /// cannot hold for two messages or two keys.
    #[must_use]
    pub fn verify(&self, node: NodeId, digest: B256) -> bool {
        VerifyingKey::from_bytes(node.as_bytes())
            .is_ok_and(|key| key.verify_strict(digest.as_slice(), &Signature::from_bytes(&self.0)).is_ok())
    }
}

impl fmt::Debug for NodeSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeSignature({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

impl Encode for NodeSignature {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
}

impl Decode for NodeSignature {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(r.array()?))
    }
}

/// Whether the bytes are a key that only the holder of a secret can sign for: on the curve, not of small order.
pub(crate) fn is_sound(node: NodeId) -> bool {
    VerifyingKey::from_bytes(node.as_bytes()).is_ok_and(|key| !key.is_weak())
}

#[cfg(test)]
mod tests {
    use cascade_primitives::{domain, hash};

    use super::*;

    #[test]
    fn the_seed_restores_the_identity_and_signatures_are_bound_to_key_and_digest() {
        let identity = Identity::generate().unwrap();
        let restored = Identity::from_seed(&identity.seed());
        assert_eq!(identity.node_id(), restored.node_id());
        let digest = hash::tagged(domain::ANNOUNCE, &[b"a"]);
        let signature = restored.sign(digest);
        assert!(signature.verify(identity.node_id(), digest));
        assert!(!signature.verify(identity.node_id(), hash::tagged(domain::ANNOUNCE, &[b"b"])));
        assert!(!signature.verify(Identity::from_seed(&[1; 32]).node_id(), digest));
    }

    #[test]
    fn a_key_of_small_order_is_not_sound() {
        let mut identity_point = [0; 32];
        identity_point[0] = 1;
        assert!(!is_sound(NodeId(identity_point)));
        assert!(is_sound(Identity::from_seed(&[1; 32]).node_id()));
    }
}
