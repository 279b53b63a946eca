//! What stands in for mempool and execution.
//!
//! A transaction is nine bytes: a mark and a number. A block with a marked one is invalid. A result is a hash over the
//! result below and the block, so two chains that differ anywhere have different roots ever after. Where no envelopes are
//! opened, a mock beacon is in it: a hash of the block.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cascade_consensus::{BuildRequest, BuiltBlock, Verdict};
use cascade_primitives::{B256, Body, Bytes, DaCommitment, Encode, Height, ResultEntry, SealedBlock};
use sha2::{Digest, Sha256};

use crate::{
    economy::{Chooser, Shown},
    sealed::Opened,
};

/// Transactions that one block takes.
const MOST_PER_BLOCK: usize = 20;
/// Transactions that are offered to the others again at a time.
const MOST_AGAIN: usize = 20;
const MARK: u8 = 0xba;
/// What a transaction begins with that fills a block and does nothing.
const FILLING: u8 = 0xf1;
/// What an application's transaction begins with, before its number.
const OFFER: u8 = 0xec;
/// Bytes of the longest one.
const FILLING_PIECE: usize = 64 << 10;

/// A transaction with this number.
pub(crate) fn transaction(number: u64) -> Bytes {
    let mut bytes = vec![0; 9];
    bytes[1..].copy_from_slice(&number.to_le_bytes());
    bytes.into()
}

/// A transaction that makes its block invalid.
pub(crate) fn marked(number: u64) -> Bytes {
    let mut bytes = transaction(number).to_vec();
    bytes[0] = MARK;
    bytes.into()
}

/// An application's transaction, with a number.
pub(crate) fn offer(number: u64, payload: &[u8]) -> Bytes {
    [&[OFFER], number.to_le_bytes().as_slice(), payload].concat().into()
}

/// What the application put into a transaction.
pub(crate) fn offered(transaction: &Bytes) -> Bytes {
    transaction.slice(9..)
}

pub(crate) fn is_invalid(transaction: &Bytes) -> bool {
    match transaction.first() {
        Some(&FILLING | &OFFER) => transaction.len() < 9,
        Some(&MARK) | None => true,
        Some(_) => transaction.len() != 9,
    }
}

/// Transactions that fill a block with so many bytes.
fn filling(bytes: usize) -> impl Iterator<Item = Bytes> {
    let pieces = (0..bytes).step_by(FILLING_PIECE).enumerate();
    pieces.map(move |(i, at)| {
        let mut piece = vec![i as u8; FILLING_PIECE.min(bytes - at).max(9)];
        piece[0] = FILLING;
        piece[1..9].copy_from_slice(&(u64::MAX - i as u64).to_le_bytes());
        piece.into()
    })
}

/// What stands for the commitment to a body's square: a hash.
pub(crate) fn commitment(body: &Body) -> DaCommitment {
    let bytes = body.to_bytes();
    let root: [u8; 32] = Sha256::digest(&bytes).into();
    DaCommitment { data_size: bytes.len() as u32, share_size: 512, width: 1, root: root.into() }
}

/// The state before the first block.
pub(crate) fn genesis_root() -> B256 {
    B256::repeat_byte(0x11)
}

/// What stands for the beacon of a block where execution is mocked.
fn mock_beacon(block: &SealedBlock) -> B256 {
    let digest: [u8; 32] = Sha256::new().chain_update(b"beacon").chain_update(block.hash().0).finalize().into();
    digest.into()
}

/// What executing a block gives, whose envelopes were opened to this; `mocked` on a chain without envelopes. `root` is that
/// of an application's state.
pub(crate) fn execute(
    parent: &ResultEntry,
    block: &SealedBlock,
    opened: Option<&Opened>,
    mocked: bool,
    root: Option<B256>,
) -> ResultEntry {
    let beacon = if mocked { mock_beacon(block) } else { B256::ZERO };
    let mut state = Sha256::new().chain_update(parent.state_root).chain_update(block.hash().0);
    for payload in opened.iter().flat_map(|opened| &opened.payloads) {
        state.update([u8::from(payload.is_some())]);
        state.update(payload.as_deref().unwrap_or_default());
    }
    state.update(root.as_ref().map(B256::as_slice).unwrap_or_default());
    let state: [u8; 32] = state.finalize().into();
    ResultEntry {
        beacon: opened.map_or(beacon, |opened| opened.beacon),
        reveals_root: opened.map(|opened| opened.reveal.root()).unwrap_or_default(),
        height: block.header.height,
        state_root: state.into(),
        gas_used: block.body.transactions.len() as u64,
        ..ResultEntry::default()
    }
}

/// A final block, and what was in its envelopes if it has any.
pub(crate) type Final = (Arc<SealedBlock>, Option<Arc<Opened>>);

/// A node's pool and executor.
#[derive(Debug)]
pub(crate) struct App {
    pool: BTreeMap<u64, Bytes>,
    done: BTreeSet<u64>,
    /// Final blocks that are not executed yet.
    queue: BTreeMap<Height, Final>,
    last: ResultEntry,
    /// Whether there are no envelopes to open.
    mocked: bool,
    /// Ms that executing a block takes.
    pub(crate) delay: u64,
    /// Whether an execution is under way.
    running: bool,
    /// Bytes that its blocks get beside transactions of users.
    filling: usize,
}

fn number(transaction: &Bytes) -> u64 {
    transaction.get(1..9).map_or(u64::MAX, |b| u64::from_le_bytes(b.try_into().expect("eight bytes")))
}

impl App {
    /// Starts with the newest result that is stored and the final blocks above it: none of an encrypted chain, where they
    /// have to be opened first.
    pub(crate) fn new(
        last: ResultEntry,
        done: BTreeSet<u64>,
        above: Option<Vec<Arc<SealedBlock>>>,
        delay: u64,
        filling: usize,
    ) -> Self {
        let mocked = above.is_some();
        let queue = above.into_iter().flatten().map(|b| (b.header.height, (b, None))).collect();
        Self { pool: BTreeMap::new(), done, queue, last, mocked, delay, running: false, filling }
    }

    /// Takes up a transaction; answers whether it is new.
    pub(crate) fn add(&mut self, transaction: &Bytes) -> bool {
        let number = number(transaction);
        !self.done.contains(&number) && self.pool.insert(number, transaction.clone()).is_none()
    }

    pub(crate) fn has_work(&self) -> bool {
        !self.pool.is_empty() || self.filling > 0
    }

    /// What is still waiting, to be offered to the others again.
    pub(crate) fn waiting(&self) -> Vec<Bytes> {
        self.pool.values().take(MOST_AGAIN).cloned().collect()
    }

    pub(crate) fn build(&self, request: &BuildRequest, choose: Option<Chooser<'_>>) -> BuiltBlock {
        let taken: BTreeSet<u64> = request.ancestors.iter().flat_map(|b| &b.body.transactions).map(number).collect();
        let transactions: Vec<Bytes> = if request.may_carry_content {
            let waiting = self.pool.iter().filter(|(n, _)| !taken.contains(n)).map(|(_, t)| t.clone());
            match choose {
                Some(choose) => {
                    let waiting: Vec<Bytes> = waiting.collect();
                    let payloads: Vec<Bytes> = waiting.iter().map(offered).collect();
                    let chosen = choose(&payloads.iter().map(Shown::Clear).collect::<Vec<_>>());
                    chosen.into_iter().map(|place| waiting[place].clone()).collect()
                }
                None => waiting.take(MOST_PER_BLOCK).chain(filling(self.filling)).collect(),
            }
        } else {
            Vec::new()
        };
        let ordered_gas = transactions.len() as u64;
        let mut built =
            BuiltBlock { transactions, base_fee: request.parent.base_fee, ordered_gas, ..Default::default() };
        built.da = commitment(&built.body(&request.frame, request.may_carry_content));
        built
    }

    pub(crate) fn validate(block: &SealedBlock, request: &BuildRequest) -> Verdict {
        if block.body.transactions.iter().any(is_invalid) {
            return Verdict::Invalid("a marked transaction".to_owned());
        }
        if block.header.base_fee != request.parent.base_fee {
            return Verdict::Invalid("base fee".to_owned());
        }
        Verdict::Valid
    }

    pub(crate) fn finalized(&mut self, block: &Arc<SealedBlock>) {
        for transaction in &block.body.transactions {
            self.pool.remove(&number(transaction));
            self.done.insert(number(transaction));
        }
        self.enqueue(block, None);
    }

    /// A final block can be executed.
    pub(crate) fn enqueue(&mut self, block: &Arc<SealedBlock>, opened: Option<Arc<Opened>>) {
        self.queue.insert(block.header.height, (Arc::clone(block), opened));
    }

    /// Starts the next execution if there is one and none is under way; answers how long it takes.
    pub(crate) fn start(&mut self) -> Option<u64> {
        if self.running || !self.queue.contains_key(&self.last.height.next()) {
            return None;
        }
        self.running = true;
        Some(self.delay)
    }

    /// The block whose execution is under way.
    pub(crate) fn next(&self) -> Option<Final> {
        self.queue.get(&self.last.height.next()).cloned()
    }

    /// Ends the execution that was under way; an application's state has this root then.
    pub(crate) fn finish(&mut self, root: Option<B256>) -> (ResultEntry, Option<Arc<Opened>>) {
        let (block, opened) = self.queue.remove(&self.last.height.next()).expect("an execution was started for it");
        self.last = execute(&self.last, &block, opened.as_deref(), self.mocked, root);
        self.running = false;
        (self.last, opened)
    }
}
