//! Bodies: what a header commits to, section by section, each with its number, its length and its limit.

use alloy_primitives::B256;
use bytes::Bytes;

use super::{
    Header, MAX_BLOCK_BYTES, MAX_FILLER_HEADERS, MAX_RESULTS_PER_HEADER, MAX_SKIPS_PER_BLOCK, MAX_SYSTEM_ITEMS,
    MAX_TRANSACTION_BYTES, MAX_TRANSACTIONS_PER_BLOCK,
};
use crate::{
    certificate::Certificate,
    codec::{Decode, DecodeError, DecodeErrorKind, Encode, Reader, encode_byte_string, encode_list},
    domain,
    envelope::Reveal,
    hash,
    system::SystemItem,
};

/// The certificates that justify a block's place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificates {
    /// Prepare certificate of the parent; none if the parent is the block that the epoch stands on.
    pub parent: Option<Certificate>,
    /// Skip certificates that cover every view between the parent's and this one, in order of view.
    pub skips: Vec<Certificate>,
    /// The newest commit certificate that the leader had; none while nothing but the genesis block is final.
    pub commit: Option<Certificate>,
    /// In the first block of an epoch, the headers of the fillers from the last block of the old epoch up to the one
    /// that `commit` certifies; empty if it certifies the last block itself.
    pub fillers: Vec<Header>,
}

impl Encode for Certificates {
    fn encode(&self, out: &mut Vec<u8>) {
        self.parent.encode(out);
        encode_list(&self.skips, out);
        self.commit.encode(out);
        encode_list(&self.fillers, out);
    }
}

impl Decode for Certificates {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            parent: Option::decode(r.field("parent certificate"))?,
            skips: r.field("skip certificates").list(MAX_SKIPS_PER_BLOCK)?,
            commit: Option::decode(r.field("commit certificate"))?,
            fillers: r.field("filler headers").list(MAX_FILLER_HEADERS)?,
        })
    }
}

/// The body of a block, section by section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// Messages and forced transactions from L1. Empty until a bridge exists.
    pub l1_items: Vec<Bytes>,
    /// Readiness, dealings, evidence, parameters.
    pub system: Vec<SystemItem>,
    /// The certificates that justify the block's place.
    pub certificates: Certificates,
    /// What opened the envelopes of the blocks whose results the header carries, in order of height: one for each block
    /// with items. So anybody can replay the chain without asking the sequencers. Empty on a chain without threshold
    /// keys.
    pub reveals: Vec<Reveal>,
    /// What users sent, in the order that the leader proposes: EIP-2718 encoded transactions, or opaque payloads.
    pub transactions: Vec<Bytes>,
}

/// The sections of a body, by the number that precedes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum BodySections {
    /// [`Body::l1_items`].
    L1Items = 1,
    /// [`Body::system`].
    System = 2,
    /// [`Body::certificates`].
    Certificates = 3,
    /// [`Body::reveals`].
    Reveals = 4,
    /// [`Body::transactions`].
    Transactions = 5,
}

impl BodySections {
    /// All sections in the order in which a body has them.
    pub const ALL: [Self; 5] = [Self::L1Items, Self::System, Self::Certificates, Self::Reveals, Self::Transactions];

    const fn limit(self) -> usize {
        match self {
            Self::Transactions => MAX_BLOCK_BYTES,
            // In certificates, it is the headers of fillers that take the room: see MAX_FILLER_HEADERS.
            Self::L1Items | Self::Certificates | Self::Reveals => 8 << 20,
            Self::System => 2 << 20,
        }
    }
}

impl Body {
    fn encode_section(&self, section: BodySections, out: &mut Vec<u8>) {
        match section {
            BodySections::L1Items => encode_byte_strings(&self.l1_items, out),
            BodySections::System => encode_list(&self.system, out),
            BodySections::Certificates => self.certificates.encode(out),
            BodySections::Reveals => encode_list(&self.reveals, out),
            BodySections::Transactions => encode_byte_strings(&self.transactions, out),
        }
    }

    /// The hash that the header carries: [`body_root`] of its encoding. What users sent is megabytes, and is hashed where
    /// it is.
    #[must_use]
    pub fn root(&self) -> B256 {
        hash::tagged_with(domain::BODY, |out| {
            for section in BodySections::ALL {
                self.hash_section(section, out);
            }
        })
    }

    /// Hands out a section's number, length and content.
    fn hash_section(&self, section: BodySections, out: &mut dyn FnMut(&[u8])) {
        let number = |n: usize| u32::try_from(n).expect("sections stay under their limits").to_le_bytes();
        out(&[section as u8]);
        let items = match section {
            BodySections::L1Items => &self.l1_items,
            BodySections::Transactions => &self.transactions,
            BodySections::System | BodySections::Certificates | BodySections::Reveals => {
                let mut content = Vec::new();
                self.encode_section(section, &mut content);
                out(&number(content.len()));
                return out(&content);
            }
        };
        out(&number(strings_len(items)));
        out(&number(items.len()));
        for item in items {
            out(&number(item.len()));
            out(item);
        }
    }

    /// Bytes of the transactions, without their length prefixes.
    #[must_use]
    pub fn transaction_bytes(&self) -> usize {
        self.transactions.iter().map(Bytes::len).sum()
    }

    /// Bytes of its encoding, without copying what users sent.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let section = |section| match section {
            BodySections::L1Items => strings_len(&self.l1_items),
            BodySections::Transactions => strings_len(&self.transactions),
            BodySections::System | BodySections::Certificates | BodySections::Reveals => {
                let mut buffer = Vec::new();
                self.encode_section(section, &mut buffer);
                buffer.len()
            }
        };
        BodySections::ALL.into_iter().map(|s| 5 + section(s)).sum()
    }

    /// Whether it carries nothing that execution would see.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.l1_items.is_empty() && self.transactions.is_empty()
    }
}

/// The root of a body with this encoding, which the square of a block carries: its header's [`Header::body_root`].
///
/// One hash over all of it, so that a square and a body can only be each other's: see `cascade_da`.
#[must_use]
pub fn body_root(encoding: &[u8]) -> B256 {
    hash::tagged(domain::BODY, &[encoding])
}

/// Bytes of the encoding of byte strings.
fn strings_len(items: &[Bytes]) -> usize {
    4 + items.iter().map(|i| 4 + i.len()).sum::<usize>()
}

fn encode_byte_strings(items: &[Bytes], out: &mut Vec<u8>) {
    out.reserve(strings_len(items));
    u32::try_from(items.len()).expect("bounded by MAX_TRANSACTIONS_PER_BLOCK").encode(out);
    for item in items {
        encode_byte_string(item, out);
    }
}

fn decode_byte_strings(r: &mut Reader<'_>, count: usize, bytes: usize) -> Result<Vec<Bytes>, DecodeError> {
    let count = r.length(count)?;
    let mut items = Vec::with_capacity(count.min(r.left() / 4));
    for _ in 0..count {
        items.push(r.byte_string(bytes)?);
    }
    Ok(items)
}

impl Encode for Body {
    fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.transaction_bytes() + 4 * self.transactions.len() + 1024);
        for section in BodySections::ALL {
            out.push(section as u8);
            let at = out.len();
            0_u32.encode(out);
            self.encode_section(section, out);
            let length = u32::try_from(out.len() - at - 4).expect("sections stay under their limits");
            out[at..at + 4].copy_from_slice(&length.to_le_bytes());
        }
    }
}

impl Decode for Body {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut body = Self::default();
        for section in BodySections::ALL {
            let id = u8::decode(r.field("body section"))?;
            if id != section as u8 {
                return Err(r.error(DecodeErrorKind::UnknownTag(u64::from(id))));
            }
            let length = r.length(section.limit())?;
            let before = r.left();
            match section {
                BodySections::L1Items => body.l1_items = decode_byte_strings(r.field("L1 items"), 1024, 64 << 10)?,
                BodySections::System => body.system = r.field("system items").list(MAX_SYSTEM_ITEMS)?,
                BodySections::Certificates => body.certificates = Certificates::decode(r)?,
                BodySections::Reveals => {
                    body.reveals = r.field("reveals").list(MAX_RESULTS_PER_HEADER)?;
                }
                BodySections::Transactions => {
                    body.transactions = decode_byte_strings(
                        r.field("transactions"),
                        MAX_TRANSACTIONS_PER_BLOCK,
                        MAX_TRANSACTION_BYTES,
                    )?;
                }
            }
            if before - r.left() != length {
                return Err(r.error(DecodeErrorKind::NotCanonical("a section's length is not that of its content")));
            }
        }
        Ok(body)
    }
}
