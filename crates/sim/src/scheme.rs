//! Keys of a run: an unforgeable mock, or real BLS.
//!
//! The mock authenticates with a MAC: SHA-256 over a master secret, the key's name and the digest. An aggregate is the
//! XOR of MACs. The master secret is private to this module, so code of an adversary that holds one
//! [`VoteSigner`] cannot sign for anybody else, which is what unforgeable means here. Like a BLS aggregate, a mock
//! aggregate can be taken apart by who knows some of its parts; that makes no new signature.

use std::sync::Arc;

use cascade_consensus::Rules;
use cascade_crypto::{BlsScheme, BlsSecretKey, VoteScheme, VoteSigner};
use cascade_primitives::{B256, BlsPublicKey, BlsSignature};
use sha2::{Digest, Sha256};

use crate::rng::Rng;

/// Which signatures a run uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// MACs.
    #[default]
    Mock,
    /// BLS12-381.
    Bls,
}

/// The keys of a run.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    pub(crate) scheme: Arc<dyn VoteScheme>,
    pub(crate) signers: Vec<Arc<dyn VoteSigner>>,
}

impl Keys {
    pub(crate) fn new(scheme: Scheme, count: usize, rng: &mut Rng) -> Self {
        match scheme {
            Scheme::Mock => {
                let mut master = [0; 32];
                master.chunks_mut(8).for_each(|c| c.copy_from_slice(&rng.bits().to_le_bytes()));
                let signers =
                    (0..count).map(|i| Arc::new(MockSigner { master, key: mock_key(i) }) as Arc<dyn VoteSigner>);
                Self { signers: signers.collect(), scheme: Arc::new(MockScheme { master }) }
            }
            Scheme::Bls => {
                let mut material = [0_u8; 32];
                let signers = (0..count).map(|_| {
                    material.chunks_mut(8).for_each(|c| c.copy_from_slice(&rng.bits().to_le_bytes()));
                    Arc::new(BlsSecretKey::derive(&material).expect("32 bytes are enough")) as Arc<dyn VoteSigner>
                });
                Self { signers: signers.collect(), scheme: Arc::new(BlsScheme::default()) }
            }
        }
    }
}

fn mock_key(index: usize) -> BlsPublicKey {
    let mut key = [0xc5; 48];
    key[..8].copy_from_slice(&(index as u64).to_le_bytes());
    BlsPublicKey(key)
}

fn mac(master: &[u8; 32], key: &BlsPublicKey, digest: &B256) -> [u8; 32] {
    Sha256::new().chain_update(master).chain_update(&key.0[..8]).chain_update(digest).finalize().into()
}

fn padded(mac: [u8; 32]) -> BlsSignature {
    let mut bytes = [0; 96];
    bytes[..32].copy_from_slice(&mac);
    BlsSignature(bytes)
}

struct MockSigner {
    master: [u8; 32],
    key: BlsPublicKey,
}

impl std::fmt::Debug for MockSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MockSigner({})", self.key)
    }
}

impl VoteSigner for MockSigner {
    fn public_key(&self) -> BlsPublicKey {
        self.key
    }

    fn sign(&self, digest: &B256) -> BlsSignature {
        padded(mac(&self.master, &self.key, digest))
    }
}

struct MockScheme {
    master: [u8; 32],
}

impl std::fmt::Debug for MockScheme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MockScheme")
    }
}

impl VoteScheme for MockScheme {
    fn verify(&self, key: &BlsPublicKey, digest: &B256, signature: &BlsSignature) -> bool {
        padded(mac(&self.master, key, digest)) == *signature
    }

    fn aggregate(&self, signatures: &[BlsSignature]) -> Option<BlsSignature> {
        let mut sum = BlsSignature([0; 96]);
        for signature in signatures {
            sum.0.iter_mut().zip(&signature.0).for_each(|(a, b)| *a ^= b);
        }
        Some(sum)
    }

    fn verify_aggregate(&self, keys: &[BlsPublicKey], digest: &B256, signature: &BlsSignature) -> bool {
        let mut sum = [0; 32];
        for key in keys {
            sum.iter_mut().zip(mac(&self.master, key, digest)).for_each(|(a, b)| *a ^= b);
        }
        !keys.is_empty() && padded(sum) == *signature
    }
}

/// Checks a certificate by the definition alone: distinct members, the seats of a quorum counted here, the aggregate.
pub(crate) fn proves(
    scheme: &dyn VoteScheme,
    rules: &Rules,
    committee: &cascade_primitives::Committee,
    certificate: &cascade_primitives::Certificate,
) -> Result<(), String> {
    let members = committee.members();
    if certificate.signers.committee_size() != members.len() || certificate.target.epoch != committee.epoch() {
        return Err(format!("{:?} is not of this committee", certificate.target));
    }
    let signers: std::collections::BTreeSet<_> = certificate.signers.iter().collect();
    let total: u32 = members.iter().map(|m| m.seats.0).sum();
    let seats: u32 = signers.iter().map(|m| members[m.index()].seats.0).sum();
    if seats < total - (total - 1) / 3 {
        return Err(format!("{:?} has {seats} of {total} seats", certificate.target));
    }
    let keys: Vec<_> = signers.iter().map(|m| members[m.index()].bls_key).collect();
    let digest = certificate.target.digest(&rules.signing);
    if scheme.verify_aggregate(&keys, &digest, &certificate.signature) {
        Ok(())
    } else {
        Err(format!("{:?} has a wrong signature", certificate.target))
    }
}
