use cascade_primitives::{
    B256, Block, BlockHash, BlsSignature, Body, Bytes, Certificate, ChainParams, DaCommitment, Epoch, HeaderKind,
    L1Origin, Network, ResultEntry, SealedBlock, SignerSet, TimestampMs, View, VoteTarget, block::PROTOCOL_VERSION,
    merkle::MountainRange,
};
use cascade_storage::{ChainDbOptions, FinalBlock, Finality};
use prometheus::{Histogram, HistogramOpts};

use super::*;
use crate::{
    config::SquaresSection,
    node::{Clock, Squares},
};

/// A chain in a database, whose blocks carry what a test gives them.
struct Fixture {
    publisher: Publisher,
    to: PathBuf,
    db: Arc<ChainDb>,
    blocks: Vec<Arc<SealedBlock>>,
    range: MountainRange,
    _dir: tempfile::TempDir,
}

impl Fixture {
    fn new(limits: impl FnOnce(&mut Limits)) -> Self {
        let params = ChainParams { transactions: TransactionRule::Opaque, ..ChainParams::of(Network::Regtest) };
        assert_eq!(params.anchor_interval, 5);
        let genesis = Genesis { params, timestamp: TimestampMs(0), committees: Vec::new(), alloc: Default::default() };
        let dir = tempfile::tempdir().unwrap();
        let db = Arc::new(ChainDb::open(dir.path().join("db"), ChainDbOptions::default()).unwrap());
        let histogram = Histogram::with_opts(HistogramOpts::new("h", "h")).unwrap();
        let squares = Arc::new(Squares::new(&genesis.params, &SquaresSection::default(), histogram));
        let door = Arc::new(LightDoor::new(Arc::clone(&db), squares, Clock::start()));
        let (to, height) = (dir.path().join("batches"), IntGauge::new("g", "g").unwrap());
        let place = Place::Directory(to.clone());
        let mut publisher = Publisher::new(place, genesis, (Arc::clone(&db), door), Stop::default(), height);
        limits(&mut publisher.limits);
        let mut fixture = Self { publisher, to, db, blocks: Vec::new(), range: MountainRange::default(), _dir: dir };
        fixture.grow(0..1, |_| 0..0, |height| height);
        fixture
    }

    /// Final, executed blocks with the results of some heights, made final by the certificate of some height.
    fn grow(
        &mut self,
        heights: std::ops::Range<u64>,
        results: impl Fn(u64) -> std::ops::Range<u64>,
        certified: impl Fn(u64) -> u64,
    ) {
        let signing = self.publisher.genesis.signing_context();
        for height in heights.clone() {
            let body = Body { transactions: vec![Bytes::from(vec![height as u8; 400])], ..Body::default() };
            let header = Header {
                version: PROTOCOL_VERSION,
                kind: HeaderKind::Block,
                chain_id: signing.chain_id,
                genesis_hash: signing.genesis_hash,
                fork: signing.fork,
                epoch: Epoch(0),
                view: View(height),
                height: Height(height),
                parent: self.blocks.last().map_or(BlockHash::ZERO, |block| block.hash()),
                timestamp: TimestampMs(height),
                l1_origin: L1Origin::default(),
                committee_root: B256::ZERO,
                next_committee_root: B256::ZERO,
                history_root: self.range.root(),
                da: DaCommitment::default(),
                body_root: body.root(),
                base_fee: 1,
                ordered_gas: 0,
                results: results(height).map(entry).collect(),
            };
            let block = Arc::new(SealedBlock::new(Block { header, body }));
            self.range.push(block.hash().into());
            self.blocks.push(block);
        }
        for height in heights {
            let (block, proof) = (&self.blocks[height as usize], &self.blocks[certified(height) as usize]);
            let target = VoteTarget::commit(Epoch(0), proof.header.view, proof.hash());
            let certificate = Certificate { target, signers: SignerSet::new(4), signature: BlsSignature([1; 96]) };
            let finality = Some(Finality { certificate, fillers: Vec::new() });
            let block = FinalBlock { block: Arc::clone(block), finality, transactions: Vec::new() };
            self.db.append_final(&[block]).unwrap();
            self.db.commit_result(&entry(height)).unwrap();
        }
    }

    fn step(&mut self) -> Result<usize, PublishError> {
        let safe = self.db.heads().executed.unwrap();
        self.publisher.step(safe)
    }

    /// The last blocks of all batches, each of which a reader takes.
    fn ends(&self) -> Vec<u64> {
        let (mut at, mut ends) = (0, Vec::new());
        while let Ok(bytes) = std::fs::read(self.to.join(manifest_name(Height(at + 1)))) {
            let manifest = Manifest::from_slice(&bytes).unwrap();
            assert_eq!((manifest.before.height.0, manifest.before.hash), (at, self.blocks[at as usize].hash()));
            manifest.check(|_, _| true).unwrap();
            at = manifest.last.0;
            ends.push(at);
        }
        ends
    }
}

fn entry(height: u64) -> ResultEntry {
    ResultEntry { height: Height(height), ..ResultEntry::default() }
}

/// As a chain carries results when all goes well.
fn three_below(height: u64) -> std::ops::Range<u64> {
    height.saturating_sub(3)..height.saturating_sub(2).max(u64::from(height > 2))
}

#[test]
fn a_batch_ends_where_it_is_due() {
    let mut fixture = Fixture::new(|_| {});
    fixture.grow(1..24, three_below, |height| height);
    assert_eq!(fixture.step().unwrap(), 4);
    assert_eq!(fixture.ends(), [5, 10, 15, 20]);
    assert_eq!(fixture.publisher.height.get(), 20);
    assert_eq!(fixture.step().unwrap(), 0);
}

#[test]
fn a_long_run_under_one_certificate_is_published_after_it() {
    let mut fixture = Fixture::new(|_| {});
    fixture.grow(1..21, three_below, |height| height);
    assert_eq!(fixture.step().unwrap(), 3);
    // Ten minutes without a commit certificate: no block carries results, and one certificate makes all of them final.
    fixture.grow(21..1221, |_| 0..0, |_| 1220);
    assert_eq!(fixture.step().unwrap(), 0);
    assert_eq!(fixture.publisher.seals.looked, Height(1220 - 64), "what was looked through is not read again");
    assert!(!fixture.publisher.miss(fixture.publisher.before.unwrap(), Height(20), Height(1220)), "it was said");
    assert!(fixture.publisher.missed.take().is_some());
    // Then they follow, 64 in a header.
    fixture.grow(1221..1241, |height| 18 + 64 * (height - 1221)..(18 + 64 * (height - 1220)).min(height - 2), |h| h);
    assert!(fixture.step().unwrap() > 10);
    let ends = fixture.ends();
    assert_eq!(ends[..4], [5, 10, 15, 81]);
    assert!(*ends.last().unwrap() > 1200, "{ends:?}");
}

#[test]
fn a_batch_ends_early_where_it_has_no_more_room() {
    // Room for seven blocks, where only every fourth height can be sealed.
    let mut fixture = Fixture::new(|limits| limits.raw_bytes = 7 * 900);
    fixture.publisher.genesis.params.anchor_interval = 10;
    fixture.grow(1..41, three_below, |height| height.next_multiple_of(4).min(40));
    assert!(fixture.step().unwrap() > 3);
    let ends = fixture.ends();
    assert!(ends.iter().all(|end| end % 4 == 1), "three below a certificate of its own: {ends:?}");
    assert!(ends.windows(2).all(|pair| pair[1] - pair[0] < 10), "{ends:?}");
    // As many blocks as there is room for, and none can be sealed: it is said, and not published.
    let mut fixture = Fixture::new(|limits| limits.blocks = 10);
    fixture.grow(1..41, three_below, |height| if height < 8 { height } else { 40 });
    match fixture.step() {
        Err(PublishError::TooLong { first: Height(5), end: Height(15) }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(fixture.ends(), [4]);
}
