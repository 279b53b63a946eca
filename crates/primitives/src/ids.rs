//! Newtypes for everything that could be swapped by mistake.

use std::fmt;

use alloy_primitives::B256;
use serde::{Deserialize, Serialize};

use crate::codec::{Decode, DecodeError, Encode, Reader};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The zero value, which is where counting starts.
            pub const ZERO: Self = Self(0);
            /// The largest value that the type can hold.
            pub const MAX: Self = Self(<$inner>::MAX);

            /// The bare number.
            pub const fn get(self) -> $inner {
                self.0
            }

            /// The value after this one. Saturates at the largest, which no honest chain reaches.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }

            /// This value and `n` more, saturating.
            #[must_use]
            pub const fn plus(self, n: $inner) -> Self {
                Self(self.0.saturating_add(n))
            }

            /// This value less `n`, never below zero.
            #[must_use]
            pub const fn minus(self, n: $inner) -> Self {
                Self(self.0.saturating_sub(n))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }

        impl Encode for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                self.0.encode(out);
            }
        }

        impl Decode for $name {
            fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok(Self(<$inner>::decode(r)?))
            }
        }
    };
}

number!(
    /// Identifies an L2 chain (EIP-155).
    ChainId, u64
);
number!(
    /// Which L1-proven history this is; starts at 0 and rises with every proven revert (decision 8).
    Fork, u32
);
number!(
    /// A period with one committee. Epoch 0 starts at genesis.
    Epoch, u64
);
number!(
    /// A round of voting inside an epoch. View 0 is the block that the epoch stands on; voting starts at 1.
    View, u64
);
number!(
    /// A run of consecutive views with one leader. Term 0 covers views `1..=views_per_term`.
    Term, u64
);
number!(
    /// The number of a block; genesis is 0.
    Height, u64
);
number!(
    /// Milliseconds since the Unix epoch.
    TimestampMs, u64
);
number!(
    /// A count of seats: votes and key shares (decision 1).
    Seats, u32
);
number!(
    /// The place of a sequencer in its epoch's committee, from 0.
    MemberIndex, u16
);

impl View {
    /// The term that this view belongs to. View 0 belongs to no term and answers the first.
    #[must_use]
    pub const fn term(self, views_per_term: u64) -> Term {
        Term(self.0.saturating_sub(1) / views_per_term)
    }
}

impl Term {
    /// The first view of this term.
    #[must_use]
    pub const fn first_view(self, views_per_term: u64) -> View {
        View(self.0.saturating_mul(views_per_term).saturating_add(1))
    }

    /// The last view of this term.
    #[must_use]
    pub const fn last_view(self, views_per_term: u64) -> View {
        View(self.0.saturating_add(1).saturating_mul(views_per_term))
    }
}

impl MemberIndex {
    /// The place as an index into the committee's members.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;
            /// All bytes zero, which stands for "none" where a field allows it.
            pub const ZERO: Self = Self([0; $len]);

            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::ZERO
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "0x{}", hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), hex::encode(&self.0[..6]))
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(s: &str) -> Result<Self, String> {
                let digits = s.strip_prefix("0x").unwrap_or(s);
                let mut bytes = [0u8; $len];
                hex::decode_to_slice(digits, &mut bytes).map_err(|e| {
                    format!("expected {} bytes of hex ({} digits), got {} characters: {e}", $len, 2 * $len, digits.len())
                })?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let s = String::deserialize(d)?;
                s.parse().map_err(serde::de::Error::custom)
            }
        }

        impl Encode for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.0);
            }
        }

        impl Decode for $name {
            fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok(Self(r.array()?))
            }
        }
    };
}

bytes_id!(
    /// Who a node is on the network: its Ed25519 public key (RFC 8032), to which its TLS certificate is pinned.
    NodeId, 32
);
bytes_id!(
    /// The hash of a header, which is the hash of its block.
    BlockHash, 32
);
bytes_id!(
    /// A compressed BLS12-381 public key in G1 (min-pk). The bytes alone say nothing about validity.
    BlsPublicKey, 48
);
bytes_id!(
    /// A compressed BLS12-381 signature in G2, one or an aggregate. The bytes alone say nothing about validity.
    BlsSignature, 96
);

impl From<B256> for BlockHash {
    fn from(value: B256) -> Self {
        Self(value.0)
    }
}

impl From<BlockHash> for B256 {
    fn from(value: BlockHash) -> Self {
        Self(value.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_cover_views_without_gap_or_overlap() {
        for per_term in [1, 5, 10] {
            let mut expected = View(1);
            for term in (0..20).map(Term) {
                assert_eq!(term.first_view(per_term), expected);
                for view in term.first_view(per_term).0..=term.last_view(per_term).0 {
                    assert_eq!(View(view).term(per_term), term);
                }
                expected = term.last_view(per_term).next();
            }
        }
    }

    #[test]
    fn hex_round_trips_and_wrong_lengths_are_named() {
        let id = NodeId([7; 32]);
        assert_eq!(id.to_string().parse::<NodeId>(), Ok(id));
        let error = "0x1234".parse::<NodeId>().unwrap_err();
        assert!(error.contains("32 bytes"), "{error}");
    }
}
