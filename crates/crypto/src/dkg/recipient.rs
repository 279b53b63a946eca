//! The encryption key of a recipient for one epoch.
//!
//! Made for the epoch, announced in the log before the committee is fixed, and erased with the epoch's shares: who takes
//! a node later finds nothing with which the old dealings open. The proof of possession (Schnorr, bound to chain,
//! epoch, committee and node) keeps a key from being derived from another's. An announcement names the members root of the
//! committee that it is for: if the next committee is made anew, nobody can put an old announcement into the log again,
//! for which its node holds no secret any more.

use std::fmt;

use cascade_primitives::{
    B256, BlsSignature, Decode, DecodeError, Encode, Epoch, NodeId, Reader, SigningContext, domain, hash,
};
use rand::CryptoRng;
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    curve::{G1, G1_BYTES, G1Affine, Scalar},
    scheme::{VoteScheme, VoteSigner},
};

/// The secret half. Erased when dropped, never printed.
pub struct RecipientSecret {
    epoch: Epoch,
    secret: Scalar,
}

impl Drop for RecipientSecret {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl fmt::Debug for RecipientSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecipientSecret(epoch {})", self.epoch)
    }
}

/// A recipient's public encryption key as a log item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecipientKey {
    /// The epoch that it is for.
    pub epoch: Epoch,
    /// The members root of the committee that it is for.
    pub committee: B256,
    /// Whose it is.
    pub node: NodeId,
    /// The key, a compressed point of G1.
    pub key: [u8; G1_BYTES],
    /// Commitment of the proof of possession.
    commitment: [u8; G1_BYTES],
    /// Response of the proof of possession.
    response: [u8; 32],
    /// The node's BLS signature over all of it.
    pub signature: BlsSignature,
}

impl RecipientSecret {
    /// A new key for an epoch.
    #[must_use]
    pub fn generate(epoch: Epoch, rng: &mut dyn CryptoRng) -> Self {
        Self { epoch, secret: Scalar::random(rng) }
    }

    /// The epoch that it is for.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The public key.
    #[must_use]
    pub fn public_key(&self) -> G1Affine {
        G1::generator().times(&self.secret).to_affine()
    }

    /// What both sides of an instance know: this key times an instance's ephemeral key.
    pub(crate) fn agree(&self, ephemeral: &G1Affine) -> G1Affine {
        G1::from(*ephemeral).times(&self.secret).to_affine()
    }

    /// The log item that announces the key, as that of a member of the committee with this members root.
    #[must_use]
    pub fn announce(
        &self,
        context: &SigningContext,
        (committee, node): (B256, NodeId),
        signer: &dyn VoteSigner,
        rng: &mut dyn CryptoRng,
    ) -> RecipientKey {
        let k = Zeroizing::new(Scalar::random(rng));
        let mut item = RecipientKey {
            epoch: self.epoch,
            committee,
            node,
            key: self.public_key().to_compressed(),
            commitment: G1::generator().times(&k).to_affine().to_compressed(),
            response: [0; 32],
            signature: BlsSignature([0; 96]),
        };
        item.response = (*k + item.challenge(context) * self.secret).to_bytes();
        item.signature = signer.sign(&item.digest(context));
        item
    }
}

impl RecipientKey {
    fn bound(&self, context: &SigningContext) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256);
        context.chain_id.encode(&mut bytes);
        context.genesis_hash.encode(&mut bytes);
        context.fork.encode(&mut bytes);
        self.epoch.encode(&mut bytes);
        self.committee.encode(&mut bytes);
        self.node.encode(&mut bytes);
        bytes.extend_from_slice(&self.key);
        bytes.extend_from_slice(&self.commitment);
        bytes
    }

    fn challenge(&self, context: &SigningContext) -> Scalar {
        let mut wide = [0u8; 64];
        wide[32..].copy_from_slice(hash::tagged(domain::RECIPIENT_PROOF, &[&self.bound(context)]).as_slice());
        Scalar::from_wide(&wide)
    }

    /// The 32 bytes that are signed.
    #[must_use]
    pub fn digest(&self, context: &SigningContext) -> B256 {
        hash::tagged(domain::RECIPIENT_KEY, &[&self.bound(context), &self.response])
    }

    /// The key if node and proof hold: `signer` is the node's BLS key.
    #[must_use]
    pub fn verify(
        &self,
        context: &SigningContext,
        scheme: &dyn VoteScheme,
        signer: &cascade_primitives::BlsPublicKey,
    ) -> Option<G1Affine> {
        let key = G1Affine::from_compressed(&self.key)?;
        let commitment = G1Affine::from_compressed(&self.commitment)?;
        let response = Scalar::from_bytes(&self.response)?;
        let sum = G1::sum_of_products(&[G1Affine::generator(), key], &[response, -self.challenge(context)]);
        (sum == G1::from(commitment) && scheme.verify(signer, &self.digest(context), &self.signature)).then_some(key)
    }
}

impl Encode for RecipientKey {
    fn encode(&self, out: &mut Vec<u8>) {
        self.epoch.encode(out);
        self.committee.encode(out);
        self.node.encode(out);
        out.extend_from_slice(&self.key);
        out.extend_from_slice(&self.commitment);
        out.extend_from_slice(&self.response);
        self.signature.encode(out);
    }
}

impl Decode for RecipientKey {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.field("recipient key");
        Ok(Self {
            epoch: Epoch::decode(r)?,
            committee: B256::decode(r)?,
            node: NodeId::decode(r)?,
            key: r.array()?,
            commitment: r.array()?,
            response: r.array()?,
            signature: BlsSignature::decode(r)?,
        })
    }
}

impl Encode for RecipientSecret {
    fn encode(&self, out: &mut Vec<u8>) {
        self.epoch.encode(out);
        self.secret.encode(out);
    }
}

impl Decode for RecipientSecret {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { epoch: Epoch::decode(r.field("recipient secret"))?, secret: Scalar::decode(r)? })
    }
}
