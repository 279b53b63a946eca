//! Values made from a fuzzer's bytes.

use alloy_primitives::{Address, B256, U256};
use bytes::Bytes;
use cascade_primitives::{
    BlockHash, BlsSignature, Body, Certificate, Certificates, ChainId, DaCommitment, Epoch, Fork, Header, HeaderKind,
    Height, L1Origin, MemberIndex, NodeId, Ready, ResultEntry, Reveal, SignerSet, SystemItem, ThresholdKeys,
    TimestampMs, View, Vote, VoteKind, VoteTarget, block::Block,
};

/// Draws values from bytes. When they run out it draws zeros, so every input makes a value.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    /// Draws from these bytes.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// What is left.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// `N` bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    /// 32 bytes of which only the first vary: cheap for the fuzzer, and different where it matters.
    pub fn word(&mut self) -> [u8; 32] {
        let mut word = [0; 32];
        word[0] = self.byte();
        word[31] = self.byte();
        word
    }

    /// A number that is often small and sometimes at the end of the range.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            0xff => u64::MAX - u64::from(self.byte()),
            0xfe => u64::from_le_bytes(self.array()),
            small => u64::from(small),
        }
    }

    /// A number below `end`; 0 if `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        let drawn = usize::from(u16::from_le_bytes(self.array()));
        drawn.checked_rem(end).unwrap_or(0)
    }

    /// A coin.
    pub fn coin(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// At most `most` bytes.
    pub fn bytes(&mut self, most: usize) -> Bytes {
        let length = self.below(most + 1).min(self.0.len());
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        Bytes::copy_from_slice(taken)
    }

    /// A list of at most `most` values, which ends early when the bytes do.
    pub fn list<T>(&mut self, most: usize, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = usize::from(self.byte()) % (most + 1);
        let mut list = Vec::new();
        while list.len() < count && !self.0.is_empty() {
            list.push(one(self));
        }
        list
    }

    pub(crate) fn maybe<T>(&mut self, one: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.coin() { Some(one(self)) } else { None }
    }

    pub(crate) fn b256(&mut self) -> B256 {
        self.word().into()
    }

    pub(crate) fn u256(&mut self) -> U256 {
        if self.coin() { U256::from(self.number()) } else { U256::from_le_bytes(self.array::<32>()) }
    }

    pub(crate) fn address(&mut self) -> Address {
        Address::from_word(self.b256())
    }

    pub(crate) fn block_hash(&mut self) -> BlockHash {
        BlockHash(self.word())
    }

    pub(crate) fn node(&mut self) -> NodeId {
        NodeId(self.word())
    }

    pub(crate) fn signature(&mut self) -> BlsSignature {
        BlsSignature([self.byte(); 96])
    }

    pub(crate) fn target(&mut self) -> VoteTarget {
        let (epoch, view) = (Epoch(self.number()), View(self.number()));
        let kind = [VoteKind::Prepare, VoteKind::Commit, VoteKind::Skip][self.below(3)];
        let mut block = self.block_hash();
        if kind == VoteKind::Skip {
            block = BlockHash::ZERO;
        } else if block == BlockHash::ZERO {
            block.0[1] = 1;
        }
        VoteTarget { epoch, view, kind, block }
    }

    pub(crate) fn vote(&mut self) -> Vote {
        let signer = MemberIndex(self.number() as u16);
        Vote { target: self.target(), signer, signature: self.signature() }
    }

    pub(crate) fn certificate(&mut self) -> Certificate {
        let target = self.target();
        let size = self.below(130);
        let mut signers = SignerSet::new(size);
        for byte in self.list(40, Self::byte) {
            signers.insert(MemberIndex(u16::from(byte)));
        }
        Certificate { target, signers, signature: self.signature() }
    }

    pub(crate) fn ready(&mut self) -> Ready {
        let keys = ThresholdKeys(self.maybe(Self::b256));
        Ready { epoch: Epoch(self.number()), node: self.node(), keys, signature: self.signature() }
    }

    pub(crate) fn header(&mut self) -> Header {
        Header {
            version: self.number() as u16,
            kind: if self.coin() { HeaderKind::Filler } else { HeaderKind::Block },
            chain_id: ChainId(self.number()),
            genesis_hash: self.b256(),
            fork: Fork(self.number() as u32),
            epoch: Epoch(self.number()),
            view: View(self.number()),
            height: Height(self.number()),
            parent: self.block_hash(),
            timestamp: TimestampMs(self.number()),
            l1_origin: L1Origin { number: self.number(), hash: self.b256(), timestamp: TimestampMs(self.number()) },
            committee_root: self.b256(),
            next_committee_root: self.b256(),
            history_root: self.b256(),
            da: DaCommitment {
                data_size: self.number() as u32,
                share_size: self.number() as u32,
                width: self.number() as u16,
                root: self.b256(),
            },
            body_root: self.b256(),
            base_fee: self.number(),
            ordered_gas: self.number(),
            results: self.list(4, |s| ResultEntry {
                height: Height(s.number()),
                state_root: s.b256(),
                receipts_root: s.b256(),
                gas_used: s.number(),
                beacon: s.b256(),
                reveals_root: s.b256(),
            }),
        }
    }

    pub(crate) fn body(&mut self) -> Body {
        Body {
            l1_items: self.list(3, |s| s.bytes(40)),
            system: self.list(3, |s| match s.number() % 3 {
                0 => SystemItem::RecipientKey(s.bytes(40)),
                1 => SystemItem::Dealing(s.bytes(40)),
                _ => SystemItem::Ready(s.ready()),
            }),
            certificates: Certificates {
                parent: self.maybe(Self::certificate),
                skips: self.list(3, Self::certificate),
                commit: self.maybe(Self::certificate),
                fillers: self.list(2, Self::header),
            },
            reveals: self.list(3, |s| Reveal {
                height: Height(s.number()),
                beacon: [s.number() as u8; 48],
                values: s.list(3, |s| [s.number() as u8; 48]),
            }),
            transactions: self.list(20, |s| s.bytes(300)),
        }
    }

    pub(crate) fn block(&mut self) -> Block {
        let body = self.body();
        let mut header = self.header();
        if self.coin() {
            header.body_root = body.root();
        }
        Block { header, body }
    }
}
