//! The door for light clients: what a node answers about the chain and its data, over QUIC and HTTP.
//!
//! Everything comes from the database, nothing is signed or stored for it. Handovers are read off the blocks around an
//! epoch's end; the proof that the head's history contains a block needs the roots of subtrees over all headers, of which
//! those over 256 and more are remembered once computed ([`History`]).
//!
//! Every answer is paid for by its bytes from the asker's budget, which it shares with requests for shares.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use cascade_da::serve::Asker;
use cascade_light::{
    Ask, ChainAnswer, ChainRequest, Finality, Handover, Head, Reply,
    ask::MAX_CONTENT_BYTES,
    wire::{MAX_ANSWER_BYTES, MAX_HANDOVERS, MAX_HEADERS},
};
use cascade_primitives::{
    B256, BlockHash, Certificate, Decode, Encode, Epoch, Header, Height, TimestampMs,
    merkle::{self, MountainProof, MountainRange, subtree_root},
};
use cascade_storage::{ChainDb, StorageError};
use parking_lot::Mutex;

use super::{clock::Clock, squares::Squares};

/// What is charged for the reads behind a chain request, whatever comes of them.
const LEAST_COST: u64 = 4096;
/// Blocks below the newest final one that are searched for one with a certificate of its own.
const HEAD_SEARCH: u64 = 64;
/// Subtrees of so many levels and more are remembered: two hashes for each 256 headers.
const REMEMBERED_LEVEL: u32 = 8;
/// Bytes that an answer leaves room for beside its list.
const ROOM: usize = 64 << 10;

/// Answers light clients.
pub struct LightDoor {
    db: Arc<ChainDb>,
    squares: Arc<Squares>,
    clock: Clock,
    history: History,
    /// The first block of each epoch, as far as it was looked up.
    firsts: Mutex<BTreeMap<Epoch, Height>>,
}

impl LightDoor {
    /// A door to a database and squares.
    #[must_use]
    pub fn new(db: Arc<ChainDb>, squares: Arc<Squares>, clock: Clock) -> Self {
        let history = History { db: Arc::clone(&db), nodes: Mutex::default() };
        Self { db, squares, clock, history, firsts: Mutex::default() }
    }

    /// Answers the bytes of an [`Ask`]; none if they are not one. Reads the disk, and may encode a square.
    #[must_use]
    pub fn answer(&self, asker: Asker, bytes: &Bytes) -> Option<Bytes> {
        let ask = Ask::from_slice(bytes).ok()?;
        Some(Bytes::from(self.reply(asker, ask).to_bytes()))
    }

    fn reply(&self, asker: Asker, ask: Ask) -> Reply {
        let now = self.clock.now();
        match ask {
            Ask::Data(request) => Reply::Data(self.squares.answer(&self.db, now, asker, &request)),
            Ask::Chain(request) => {
                if let Err(retry_ms) = self.squares.spend(now, asker, LEAST_COST) {
                    return Reply::Busy { retry_ms };
                }
                let answer = self.chain(&request).unwrap_or_else(|error| {
                    tracing::error!(%error, ?request, "a light client's request could not be answered");
                    None
                });
                let answer = answer.unwrap_or(ChainAnswer::Nothing);
                let bytes = answer.to_bytes().len() as u64;
                match self.squares.spend(now, asker, bytes.saturating_sub(LEAST_COST)) {
                    Ok(()) => Reply::Chain(answer),
                    Err(retry_ms) => Reply::Busy { retry_ms },
                }
            }
            Ask::Fraud { height, proof } => {
                // Verifying one encodes a line: as much as many samples.
                if let Err(retry_ms) = self.squares.spend(now, asker, 1 << 20) {
                    return Reply::Busy { retry_ms };
                }
                if let Ok(Some((_, header))) = self.db.header(height) {
                    self.squares.condemn(&header, *proof);
                }
                Reply::Noted
            }
            Ask::Frauds { from } => match self.squares.spend(now, asker, LEAST_COST) {
                Ok(()) => Reply::Frauds(self.squares.condemned_from(&self.db, now, from)),
                Err(retry_ms) => Reply::Busy { retry_ms },
            },
            Ask::Block { height } => self.paid(now, asker, || {
                let block = self.db.block(height)?;
                Ok(Reply::Block(block.map(|block| Box::new(block.into_block()))))
            }),
            Ask::Receipts { height } => self.paid(now, asker, || {
                let receipts = self.db.receipts(height)?;
                let receipts: Option<Vec<Bytes>> =
                    receipts.map(|all| all.iter().map(|receipt| Bytes::from(receipt.to_bytes())).collect());
                let short = |all: &Vec<Bytes>| all.iter().map(|r| r.len() + 4).sum::<usize>() < MAX_CONTENT_BYTES - 64;
                Ok(Reply::Receipts(receipts.filter(short)))
            }),
        }
    }

    /// Reads something, which is paid for by its bytes.
    fn paid(&self, now: TimestampMs, asker: Asker, read: impl FnOnce() -> Result<Reply, StorageError>) -> Reply {
        if let Err(retry_ms) = self.squares.spend(now, asker, LEAST_COST) {
            return Reply::Busy { retry_ms };
        }
        let reply = match read() {
            Ok(reply) => reply,
            Err(error) => {
                tracing::error!(%error, "a light client's request could not be answered");
                return Reply::Busy { retry_ms: 1_000 };
            }
        };
        match self.squares.spend(now, asker, reply.to_bytes().len() as u64) {
            Ok(()) => reply,
            Err(retry_ms) => Reply::Busy { retry_ms },
        }
    }

    fn newest(&self) -> Height {
        self.db.heads().last_final.map_or(Height(0), |(height, _)| height)
    }

    fn chain(&self, request: &ChainRequest) -> Result<Option<ChainAnswer>, StorageError> {
        match *request {
            ChainRequest::Start { height } => {
                let Some((_, header)) = self.db.header(height)? else { return Ok(None) };
                let committee = self.db.committee(header.epoch)?;
                Ok(committee.map(|committee| ChainAnswer::Start(Box::new((header, committee)))))
            }
            ChainRequest::Handovers { from } => self.handovers(from),
            ChainRequest::Head { ancestor } => self.head(ancestor),
            ChainRequest::Headers { from } => self.headers(from),
        }
    }

    /// What makes a block final by itself, or by fillers on it.
    pub(crate) fn finality(&self, height: Height, hash: &BlockHash) -> Result<Option<Finality>, StorageError> {
        let stored = self.db.finality(height)?.filter(|finality| match finality.fillers.first() {
            None => finality.certificate.target.block == *hash,
            Some(filler) => filler.parent == *hash,
        });
        Ok(stored.map(|stored| Finality { certificate: stored.certificate, fillers: stored.fillers }))
    }

    /// The proof that the header at `head` has the block at `ancestor` in its history; none unless it is below.
    pub(crate) fn ancestry(&self, ancestor: Height, head: Height) -> Result<Option<MountainProof>, StorageError> {
        self.history.prove(ancestor, head)
    }

    /// A run of headers that one certificate proves. None if that would be longer than an answer: then the head is what leads
    /// on.
    fn headers(&self, from: Height) -> Result<Option<ChainAnswer>, StorageError> {
        let (mut run, mut bytes): (Vec<Header>, usize) = Default::default();
        let mut proven: Option<(usize, Finality)> = None;
        for height in (from.0..=self.newest().0).map(Height) {
            let Some((hash, header)) = self.db.header(height)? else { break };
            bytes += header.to_bytes().len();
            let other_epoch = run.first().is_some_and(|first| first.epoch != header.epoch);
            if other_epoch || run.len() >= MAX_HEADERS || bytes > MAX_ANSWER_BYTES - ROOM {
                break;
            }
            run.push(header);
            if let Some(finality) = self.finality(height, &hash)? {
                proven = Some((run.len(), finality));
            }
        }
        Ok(proven.map(|(length, finality)| {
            run.truncate(length);
            ChainAnswer::Headers(run, Box::new(finality))
        }))
    }

    fn head(&self, ancestor: Height) -> Result<Option<ChainAnswer>, StorageError> {
        let newest = self.newest();
        for height in (newest.0.saturating_sub(HEAD_SEARCH)..=newest.0).rev().map(Height) {
            let Some((hash, header)) = self.db.header(height)? else { return Ok(None) };
            if let Some(finality) = self.finality(height, &hash)? {
                let ancestry = self.history.prove(ancestor, height)?;
                return Ok(ancestry.map(|ancestry| ChainAnswer::Head(Box::new(Head { header, finality, ancestry }))));
            }
        }
        Ok(None)
    }

    fn handovers(&self, from: Epoch) -> Result<Option<ChainAnswer>, StorageError> {
        let (mut found, mut bytes): (Vec<Handover>, usize) = Default::default();
        for epoch in (0..MAX_HANDOVERS as u64).map(|i| Epoch(from.0.saturating_add(i))) {
            let Some(handover) = self.handover(epoch)? else { break };
            bytes += handover.to_bytes().len();
            // One is always given: a committee of 1,024 and thousands of fillers may take more than an answer's usual size.
            if bytes > MAX_ANSWER_BYTES - ROOM && !found.is_empty() {
                break;
            }
            found.push(handover);
        }
        Ok((!found.is_empty()).then_some(ChainAnswer::Handovers(found)))
    }

    fn handover(&self, epoch: Epoch) -> Result<Option<Handover>, StorageError> {
        let Some(first) = self.first_of(epoch.next())? else { return Ok(None) };
        let below = self.db.header(first.minus(1))?;
        let (Some((_, last)), Some(block)) = (below, self.db.block(first)?) else { return Ok(None) };
        let (before, after) = (self.db.committee(epoch)?, self.db.committee(epoch.next())?);
        let (Some(before), Some(after)) = (before, after) else { return Ok(None) };
        let Some(opened) = self.certificate_of(first, &block.hash())? else { return Ok(None) };
        Ok(Handover::from_blocks(&last, &block, opened, &before, &after))
    }

    /// A prepare or commit certificate of a final block.
    fn certificate_of(&self, height: Height, hash: &BlockHash) -> Result<Option<Certificate>, StorageError> {
        let stored = self.db.finality(height)?.map(|finality| finality.certificate);
        if let Some(certificate) = stored.filter(|certificate| certificate.target.block == *hash) {
            return Ok(Some(certificate));
        }
        let above = self.db.block(height.next())?.and_then(|block| block.into_block().body.certificates.parent);
        Ok(above.filter(|certificate| certificate.target.block == *hash))
    }

    /// The first final block of an epoch.
    fn first_of(&self, epoch: Epoch) -> Result<Option<Height>, StorageError> {
        if let Some(height) = self.firsts.lock().get(&epoch) {
            return Ok(Some(*height));
        }
        let newest = self.newest();
        let epoch_at = |height: u64| Ok::<_, StorageError>(self.db.header(Height(height))?.map(|(_, h)| h.epoch));
        if epoch_at(newest.0)?.is_none_or(|newest| newest < epoch) {
            return Ok(None);
        }
        // Epochs rise with heights.
        let (mut low, mut high) = (0, newest.0);
        while low < high {
            let middle = low + (high - low) / 2;
            if epoch_at(middle)?.is_some_and(|found| found >= epoch) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        self.firsts.lock().insert(epoch, Height(low));
        Ok(Some(Height(low)))
    }
}

/// The mountain range over all final headers, as far as proofs needed it.
struct History {
    db: Arc<ChainDb>,
    /// Roots by first leaf and level, from [`REMEMBERED_LEVEL`] on. Final headers never change.
    nodes: Mutex<BTreeMap<(u64, u32), B256>>,
}

impl History {
    /// The proof that the header at `head` has the block at `ancestor` in its history; none unless it is below.
    fn prove(&self, ancestor: Height, head: Height) -> Result<Option<MountainProof>, StorageError> {
        let mut failed = None;
        let (mut peaks, mut first) = (Vec::new(), 0);
        for level in (0..u64::BITS).rev().filter(|level| head.0 >> level & 1 == 1) {
            peaks.push(self.subtree(first, level, &mut failed));
            first += 1 << level;
        }
        let range = MountainRange::of_peaks(head.0, peaks).expect("a peak was made for each bit");
        let proof = range.prove(ancestor.0, |first, level| self.subtree(first, level, &mut failed));
        match failed {
            Some(error) => Err(error),
            None => Ok(proof),
        }
    }

    /// The root over the `2^level` headers from `first` on. A read that fails is told at the end.
    fn subtree(&self, first: u64, level: u32, failed: &mut Option<StorageError>) -> B256 {
        if level < REMEMBERED_LEVEL {
            return subtree_root(first, level, &mut |height| self.hash(height, failed));
        }
        if let Some(root) = self.nodes.lock().get(&(first, level)) {
            return *root;
        }
        let half = 1 << (level - 1);
        let halves = [self.subtree(first, level - 1, failed), self.subtree(first + half, level - 1, failed)];
        let root = merkle::root(&halves);
        if failed.is_none() {
            self.nodes.lock().insert((first, level), root);
        }
        root
    }

    fn hash(&self, height: u64, failed: &mut Option<StorageError>) -> B256 {
        match self.db.hash_at(Height(height)) {
            Ok(hash) => hash.unwrap_or(BlockHash::ZERO).into(),
            Err(error) => {
                failed.get_or_insert(error);
                BlockHash::ZERO.into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cascade_execution::genesis_changes;
    use cascade_primitives::{
        BlsSignature, Body, ChainParams, DaCommitment, Fork, Genesis, HeaderKind, L1Origin, Network, ResultEntry,
        SealedBlock, SignerSet, View, VoteTarget, block::PROTOCOL_VERSION,
    };
    use cascade_storage::{ChainDbOptions, FinalBlock};
    use prometheus::{Histogram, HistogramOpts};

    use super::*;
    use crate::config::SquaresSection;

    fn certificate(header: &Header) -> Certificate {
        let target = VoteTarget::commit(header.epoch, header.view, header.hash());
        Certificate { target, signers: SignerSet::new(4), signature: BlsSignature([1; 96]) }
    }

    /// A door to a chain of so many blocks above genesis that one certificate made final.
    fn door(dir: &std::path::Path, blocks: u64) -> LightDoor {
        let params = ChainParams::of(Network::Regtest);
        let genesis = Genesis { params, timestamp: TimestampMs(1), committees: Vec::new(), alloc: BTreeMap::new() };
        let changes = genesis_changes(&genesis).expect("no accounts are a state");
        let first = Header {
            version: PROTOCOL_VERSION,
            kind: HeaderKind::Block,
            chain_id: genesis.params.chain_id,
            genesis_hash: B256::ZERO,
            fork: Fork(0),
            epoch: Epoch(0),
            view: View(0),
            height: Height(0),
            parent: BlockHash::ZERO,
            timestamp: TimestampMs(1),
            l1_origin: L1Origin::default(),
            committee_root: B256::ZERO,
            next_committee_root: B256::ZERO,
            history_root: B256::ZERO,
            da: DaCommitment::default(),
            body_root: Body::default().root(),
            base_fee: 1,
            ordered_gas: 0,
            results: vec![ResultEntry { state_root: changes.root(), ..ResultEntry::default() }],
        };
        let sealed = |header: &Header| {
            Arc::new(SealedBlock::new(cascade_primitives::Block { header: header.clone(), body: Body::default() }))
        };
        let db = ChainDb::open(dir, ChainDbOptions::default()).expect("a database");
        db.init_genesis(&sealed(&first), &changes).expect("a genesis block");
        let mut headers = vec![first];
        for height in 1..=blocks {
            let parent = headers.last().expect("there is genesis");
            let (parent, timestamp) = (parent.hash(), TimestampMs(height + 1));
            headers.push(Header {
                height: Height(height),
                view: View(height),
                parent,
                timestamp,
                results: Vec::new(),
                ..headers[0].clone()
            });
        }
        let certificate = certificate(headers.last().expect("there is genesis"));
        let finality = cascade_storage::Finality { certificate, fillers: Vec::new() };
        let of =
            |header| FinalBlock { block: sealed(header), finality: Some(finality.clone()), transactions: Vec::new() };
        let blocks: Vec<FinalBlock> = headers[1..].iter().map(of).collect();
        db.append_final(&blocks).expect("they follow each other");
        let histogram = Histogram::with_opts(HistogramOpts::new("h", "h")).expect("a name");
        let squares = Squares::new(&genesis.params, &SquaresSection::default(), histogram);
        LightDoor::new(Arc::new(db), Arc::new(squares), Clock::start())
    }

    #[test]
    fn a_run_under_one_certificate_that_is_longer_than_an_answer_is_crossed_by_the_head() {
        let dir = tempfile::tempdir().expect("a directory");
        let blocks = MAX_HEADERS as u64 + 44;
        let door = door(dir.path(), blocks);
        let chain = |request| door.chain(&request).expect("the database can be read");
        assert_eq!(chain(ChainRequest::Headers { from: Height(1) }), None);
        match chain(ChainRequest::Head { ancestor: Height(0) }) {
            Some(ChainAnswer::Head(head)) => assert_eq!(head.header.height, Height(blocks)),
            other => panic!("{other:?}"),
        }
        match chain(ChainRequest::Headers { from: Height(45) }) {
            Some(ChainAnswer::Headers(run, _)) => assert_eq!(run.len(), MAX_HEADERS),
            other => panic!("{other:?}"),
        }
    }
}
