//! Announcements (`SEQANNOUNCE`): what a node says about itself to everybody.
//!
//! An announcement is signed by the node's Ed25519 identity over a tagged hash of its canonical encoding, names its
//! chain, and expires. `issued_at` is its sequence number: of two by one node the later one holds, so an old one that
//! is replayed never replaces a newer one. Score, stake and L1 height are the node's own words: whoever relies on them
//! checks them elsewhere.

use std::{cmp::Ordering, fmt};

use cascade_primitives::{
    Address, B256, BlsPublicKey, Decode, DecodeError, DecodeErrorKind, Encode, NodeId, Reader, TimestampMs,
    codec::encode_list, domain, hash,
};
use thiserror::Error;

use crate::{
    addr::Endpoint,
    config::NetworkId,
    identity::{Identity, NodeSignature},
};

/// Most addresses in an announcement.
pub const MAX_ENDPOINTS: usize = 4;
/// Longest life of an announcement in milliseconds: one day.
pub const MAX_LIFETIME_MS: u64 = 24 * 60 * 60 * 1000;
/// How far ahead of our clock an announcement may be issued, in milliseconds.
pub const MAX_SKEW_MS: u64 = 30_000;

/// What a node tells of itself besides its identity and addresses. None of it is checked here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The key that it votes with; zero if it does not vote.
    pub bls_key: BlsPublicKey,
    /// The L2 address that its fees go to; zero if there is none.
    pub address: Address,
    /// The number of the newest L1 block that it knows.
    pub l1_height: u64,
    /// Its HAT score, 0-100.
    pub hat: u8,
    /// Its stake in whole CAS.
    pub stake: u64,
}

impl Claims {
    /// The claims of a node that only follows the chain.
    pub const FOLLOWER: Self =
        Self { bls_key: BlsPublicKey::ZERO, address: Address::ZERO, l1_height: 0, hat: 0, stake: 0 };
}

/// The signed part of an announcement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnouncementBody {
    /// The chain that the node belongs to.
    pub network: NetworkId,
    /// The node, which signs.
    pub node: NodeId,
    /// Where it can be dialled, best first; at most [`MAX_ENDPOINTS`].
    pub endpoints: Vec<Endpoint>,
    /// When it was issued; also its sequence number.
    pub issued_at: TimestampMs,
    /// From when on it does not hold; at most [`MAX_LIFETIME_MS`] after `issued_at`.
    pub expires_at: TimestampMs,
    /// What the node claims to be.
    pub claims: Claims,
}

/// An announcement with its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// What is signed.
    pub body: AnnouncementBody,
    /// By `body.node` over the tagged hash of `body`.
    pub signature: NodeSignature,
}

/// Why an announcement was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AnnouncementError {
    /// It is of another chain.
    #[error("of another chain")]
    WrongNetwork,
    /// It expires before or at its issue, or lives longer than allowed.
    #[error("a life of {0} ms, allowed are 1 to {MAX_LIFETIME_MS}")]
    Lifetime(i128),
    /// It was issued further in the future than clocks differ.
    #[error("issued {0} ms ahead of this node's clock")]
    FromTheFuture(u64),
    /// It has expired.
    #[error("expired {0} ms ago")]
    Expired(u64),
    /// Its signature does not verify.
    #[error("the signature does not verify")]
    Signature,
}

impl AnnouncementBody {
    fn digest(&self) -> B256 {
        hash::of(domain::ANNOUNCE, self)
    }

    /// Signs with the node's identity, whose id replaces `node`.
    #[must_use]
    pub fn sign(mut self, identity: &Identity) -> Announcement {
        self.node = identity.node_id();
        self.endpoints.truncate(MAX_ENDPOINTS);
        let signature = identity.sign(self.digest());
        Announcement { body: self, signature }
    }
}

impl Announcement {
    /// Checks everything but the signature, which costs a thousand times more.
    ///
    /// # Errors
    /// The first rule that is broken. A wrong chain or lifetime is the issuer's fault; the other two may be a matter
    /// of clocks.
    pub fn check(&self, network: NetworkId, now: TimestampMs) -> Result<(), AnnouncementError> {
        let body = &self.body;
        if body.network != network {
            return Err(AnnouncementError::WrongNetwork);
        }
        let life = i128::from(body.expires_at.0) - i128::from(body.issued_at.0);
        if life < 1 || life > i128::from(MAX_LIFETIME_MS) {
            return Err(AnnouncementError::Lifetime(life));
        }
        let ahead = body.issued_at.0.saturating_sub(now.0);
        if ahead > MAX_SKEW_MS {
            return Err(AnnouncementError::FromTheFuture(ahead));
        }
        if self.is_expired(now) {
            return Err(AnnouncementError::Expired(now.0 - body.expires_at.0));
        }
        Ok(())
    }

    /// Whether it no longer holds.
    #[must_use]
    pub fn is_expired(&self, now: TimestampMs) -> bool {
        self.body.expires_at <= now
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// [`AnnouncementError::Signature`].
    pub fn verify(&self) -> Result<(), AnnouncementError> {
        let valid = self.signature.verify(self.body.node, self.body.digest());
        if valid { Ok(()) } else { Err(AnnouncementError::Signature) }
    }

    /// Which of two announcements of one node holds: the later one, and for equal times the one with the greater
    /// hash, so that all nodes end with the same.
    #[must_use]
    pub fn order(&self, other: &Self) -> Ordering {
        self.body
            .issued_at
            .cmp(&other.body.issued_at)
            .then_with(|| if self.body == other.body { Ordering::Equal } else { self.digest_order(other) })
    }

    fn digest_order(&self, other: &Self) -> Ordering {
        self.body.digest().cmp(&other.body.digest())
    }
}

impl fmt::Display for Announcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at", self.body.node)?;
        self.body.endpoints.iter().try_for_each(|e| write!(f, " {}", e.addr()))
    }
}

impl Encode for Claims {
    fn encode(&self, out: &mut Vec<u8>) {
        self.bls_key.encode(out);
        self.address.encode(out);
        self.l1_height.encode(out);
        self.hat.encode(out);
        self.stake.encode(out);
    }
}

impl Decode for Claims {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let bls_key = BlsPublicKey::decode(r.field("BLS key"))?;
        let address = Address::decode(r.field("address"))?;
        let l1_height = u64::decode(r.field("L1 height"))?;
        let hat = u8::decode(r.field("HAT score"))?;
        if hat > 100 {
            return Err(r.error(DecodeErrorKind::NotCanonical("a HAT score is at most 100")));
        }
        let stake = u64::decode(r.field("stake"))?;
        Ok(Self { bls_key, address, l1_height, hat, stake })
    }
}

impl Encode for AnnouncementBody {
    fn encode(&self, out: &mut Vec<u8>) {
        self.network.encode(out);
        self.node.encode(out);
        encode_list(&self.endpoints, out);
        self.issued_at.encode(out);
        self.expires_at.encode(out);
        self.claims.encode(out);
    }
}

impl Decode for AnnouncementBody {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            network: NetworkId::decode(r)?,
            node: NodeId::decode(r.field("node"))?,
            endpoints: r.field("endpoints").list(MAX_ENDPOINTS)?,
            issued_at: TimestampMs::decode(r.field("issue time"))?,
            expires_at: TimestampMs::decode(r.field("expiry"))?,
            claims: Claims::decode(r)?,
        })
    }
}

impl Encode for Announcement {
    fn encode(&self, out: &mut Vec<u8>) {
        self.body.encode(out);
        self.signature.encode(out);
    }
}

impl Decode for Announcement {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let body = AnnouncementBody::decode(r)?;
        Ok(Self { body, signature: NodeSignature::decode(r.field("signature"))? })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use cascade_primitives::ChainId;
    use proptest::prelude::*;

    use super::*;

    pub(crate) const NETWORK: NetworkId = NetworkId { chain_id: ChainId(7), genesis_hash: B256::ZERO };

    pub(crate) fn announcement(seed: u8, issued_at: u64) -> Announcement {
        let identity = Identity::from_seed(&[seed; 32]);
        let port = 1000 + u16::from(seed);
        AnnouncementBody {
            network: NETWORK,
            node: NodeId::ZERO,
            endpoints: vec![Endpoint::new(([127, 0, 0, 1], port).into())],
            issued_at: TimestampMs(issued_at),
            expires_at: TimestampMs(issued_at + 3_600_000),
            claims: Claims { hat: 70, stake: 100, ..Claims::FOLLOWER },
        }
        .sign(&identity)
    }

    #[test]
    fn every_field_is_under_the_signature() {
        let good = announcement(1, 1000);
        assert_eq!(good.verify(), Ok(()));
        let bytes = good.to_bytes();
        for i in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 1;
            if let Ok(bad) = Announcement::from_slice(&bad) {
                assert_eq!(bad.verify(), Err(AnnouncementError::Signature), "byte {i}");
            }
        }
    }

    #[test]
    fn chain_lifetime_and_clock_are_checked() {
        let now = TimestampMs(1_000_000);
        let good = announcement(1, now.0);
        assert_eq!(good.check(NETWORK, now), Ok(()));
        let other = NetworkId { chain_id: ChainId(8), ..NETWORK };
        assert_eq!(good.check(other, now), Err(AnnouncementError::WrongNetwork));
        assert_eq!(good.check(NETWORK, TimestampMs(now.0 + 3_600_000)), Err(AnnouncementError::Expired(0)));
        assert_eq!(good.check(NETWORK, TimestampMs(now.0 - MAX_SKEW_MS)), Ok(()));
        let early = TimestampMs(now.0 - MAX_SKEW_MS - 1);
        assert_eq!(good.check(NETWORK, early), Err(AnnouncementError::FromTheFuture(MAX_SKEW_MS + 1)));
        for (expires_at, ok) in [
            (now.0, false),
            (now.0 - 1, false),
            (now.0 + MAX_LIFETIME_MS, true),
            (now.0 + MAX_LIFETIME_MS + 1, false),
            (u64::MAX, false),
        ] {
            let mut changed = good.clone();
            changed.body.expires_at = TimestampMs(expires_at);
            let lifetime = matches!(changed.check(NETWORK, now), Err(AnnouncementError::Lifetime(_)));
            assert_eq!(lifetime, !ok, "{expires_at}");
        }
    }

    #[test]
    fn a_fifth_endpoint_and_a_score_above_100_are_refused() {
        let mut body = announcement(1, 1).body;
        body.endpoints = vec![body.endpoints[0]; MAX_ENDPOINTS + 1];
        let error = AnnouncementBody::from_slice(&body.to_bytes()).unwrap_err();
        assert_eq!(error.what, "endpoints");
        assert_eq!(error.kind, DecodeErrorKind::TooLong { length: MAX_ENDPOINTS + 1, limit: MAX_ENDPOINTS });
        body.endpoints.clear();
        body.claims.hat = 101;
        assert_eq!(AnnouncementBody::from_slice(&body.to_bytes()).unwrap_err().what, "HAT score");
    }

    #[test]
    fn the_encoding_is_frozen() {
        let bytes = announcement(1, 0x0102_0304).to_bytes();
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let zeros = |n: usize| "00".repeat(n);
        let expected = [
            "0700000000000000",
            &zeros(32),
            "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c",
            "01000000047f000001e903",
            "0403020100000000",
            "84f1380100000000",
            &zeros(48 + 20 + 8),
            "46",
            "6400000000000000",
        ]
        .concat();
        assert_eq!(&hex[..expected.len()], expected);
        assert_eq!(bytes.len(), expected.len() / 2 + 64);
    }

    proptest! {
        #[test]
        fn what_decodes_encodes_to_the_same_bytes(
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let mut bytes = announcement(1, 1000).to_bytes();
            for (index, value) in flips {
                let i = index.index(bytes.len());
                bytes[i] = value;
            }
            if let Ok(decoded) = Announcement::from_slice(&bytes) {
                prop_assert_eq!(decoded.to_bytes(), bytes);
            }
        }
    }
}
