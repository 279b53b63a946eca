//! A chain of blocks that follow all rules, made without any node.

use std::sync::Arc;

use cascade_consensus::{ChainContext, Finality, Rules};
use cascade_crypto::VoteScheme;
use cascade_primitives::{
    Address, B256, Block, BlsPublicKey, BlsSignature, Body, Bytes, Certificate, Certificates, ChainParams,
    DaCommitment, Epoch, Genesis, Header, HeaderKind, Height, L1Origin, Network, NodeId, Ready, ResultEntry,
    ScheduledCommittee, SealedBlock, SequencerSpec, SignerSet, SystemItem, ThresholdKeys, TimestampMs, TransactionRule,
    View, VoteTarget, block::PROTOCOL_VERSION,
};

/// What stands for a right signature.
pub const RIGHT: BlsSignature = BlsSignature([7; 96]);

/// What stands for the commitment to a body's square.
pub const SQUARE: DaCommitment = DaCommitment { data_size: 99, share_size: 512, width: 1, root: B256::repeat_byte(9) };

/// Takes [`RIGHT`] for right.
#[derive(Debug)]
pub struct Scheme;

impl VoteScheme for Scheme {
    fn verify(&self, _: &BlsPublicKey, _: &B256, signature: &BlsSignature) -> bool {
        *signature == RIGHT
    }

    fn aggregate(&self, signatures: &[BlsSignature]) -> Option<BlsSignature> {
        signatures.iter().all(|s| *s == RIGHT).then_some(RIGHT)
    }

    fn verify_aggregate(&self, keys: &[BlsPublicKey], _: &B256, signature: &BlsSignature) -> bool {
        !keys.is_empty() && *signature == RIGHT
    }
}

/// A chain of four sequencers with epochs of ten blocks, terms of five views and D = 3.
#[derive(Clone, Debug)]
pub struct Chain {
    pub rules: Arc<Rules>,
    pub contexts: Vec<Arc<ChainContext>>,
    pub blocks: Vec<Arc<SealedBlock>>,
}

pub fn certificate(target: VoteTarget) -> Certificate {
    let mut signers = SignerSet::new(4);
    (0..3).for_each(|i| assert!(signers.insert(cascade_primitives::MemberIndex(i))));
    Certificate { target, signers, signature: RIGHT }
}

/// What stands for a block's beacon.
pub fn beacon(height: Height) -> B256 {
    B256::left_padding_from(&(height.0 + 1000).to_be_bytes())
}

pub fn result(height: Height) -> ResultEntry {
    ResultEntry {
        height,
        state_root: B256::with_last_byte((height.0 as u8).wrapping_add(1)),
        beacon: beacon(height),
        ..ResultEntry::default()
    }
}

/// A sequencer of the genesis file.
pub fn sequencer(i: u8) -> SequencerSpec {
    SequencerSpec {
        node: NodeId([i; 32]),
        bls_key: BlsPublicKey([i; 48]),
        bls_proof: BlsSignature::ZERO,
        address: Address::with_last_byte(i),
        stake: 100,
        hat: 80,
    }
}

/// What a block is made with.
#[derive(Clone, Copy, Debug)]
pub struct Next {
    /// Its view.
    pub view: View,
    /// Whether it carries a commit certificate of its parent, or a descendant of the newest one carried.
    pub commit: bool,
    /// Whether it carries a transaction where it may.
    pub transaction: bool,
    /// How many of the next committee state that they are ready, where they may.
    pub ready: u8,
}

impl Chain {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// An encrypted chain: epochs have keys, and epoch 0 ends when the first ones are there.
    pub fn encrypted(change: impl FnOnce(&mut Genesis)) -> Self {
        Self::with(|genesis| {
            genesis.params.transactions = TransactionRule::Encrypted;
            genesis.params.key_window = 5;
            change(genesis);
        })
    }

    /// A chain with another genesis file.
    pub fn with(change: impl FnOnce(&mut Genesis)) -> Self {
        let params = ChainParams {
            transactions: TransactionRule::Opaque,
            data_squares: false,
            min_sequencers: 3,
            views_per_term: 5,
            epoch_length: 10,
            epoch_extension: 4,
            ..ChainParams::of(Network::Regtest)
        };
        let committees =
            vec![ScheduledCommittee { from_epoch: Epoch(0), sequencers: (1..=4).map(sequencer).collect() }];
        let mut genesis = Genesis { params, timestamp: TimestampMs(1000), committees, alloc: Default::default() };
        change(&mut genesis);
        genesis.check().unwrap();
        let rules = Arc::new(Rules::new(genesis));
        let (context, block) = ChainContext::genesis(&rules, B256::with_last_byte(1)).unwrap();
        Self { rules, contexts: vec![Arc::new(context)], blocks: vec![Arc::new(block)] }
    }

    pub fn tip(&self) -> &Arc<ChainContext> {
        self.contexts.last().unwrap()
    }

    /// The block that `next` describes, on the tip.
    pub fn make(&self, next: Next) -> Block {
        let rules = &self.rules;
        let parent = self.tip();
        let handover = parent.can_hand_over();
        let base = if handover { parent.hand_over(rules) } else { parent.as_ref().clone() };
        let kind = if base.ended { HeaderKind::Filler } else { HeaderKind::Block };
        let commit = (handover || (next.commit && parent.height > parent.carried_commit()))
            .then(|| certificate(VoteTarget::commit(parent.epoch, parent.view, parent.hash)));
        let carried = if commit.is_some() { parent.height } else { base.carried_commit() };
        let (due, _) = base.due(rules, carried, kind);
        let content = base.may_carry_content(rules, carried, kind);
        let system = if content && !handover { self.readies(&base, next.ready) } else { Vec::new() };
        let transactions =
            if content && next.transaction { vec![Bytes::from_static(b"transaction")] } else { Vec::new() };
        let per_term = rules.params().views_per_term;
        let mut skips = Vec::new();
        let mut open = base.view.next();
        while open < next.view {
            skips.push(certificate(VoteTarget::skip(base.epoch, open)));
            open = open.term(per_term).last_view(per_term).next();
        }
        let certificates = Certificates {
            parent: (base.view > View(0)).then(|| certificate(VoteTarget::prepare(base.epoch, base.view, base.hash))),
            skips,
            commit,
            fillers: Vec::new(),
        };
        let body = Body { system, certificates, transactions, ..Body::default() };
        let results = (base.last_result.0 + 1..=due.0).map(|h| result(Height(h))).collect();
        self.block(&base, kind, next.view, body, results)
    }

    /// An empty block above the epoch's last one, which is the tip, or above a filler.
    pub fn make_filler(&self) -> Block {
        let base = self.tip();
        let parent = Some(certificate(VoteTarget::prepare(base.epoch, base.view, base.hash)));
        let certificates = Certificates { parent, ..Certificates::default() };
        self.block(base, HeaderKind::Filler, base.view.next(), Body { certificates, ..Body::default() }, Vec::new())
    }

    fn block(&self, base: &ChainContext, kind: HeaderKind, view: View, body: Body, results: Vec<ResultEntry>) -> Block {
        let (rules, parent) = (&self.rules, self.tip());
        let header = Header {
            version: PROTOCOL_VERSION,
            kind,
            chain_id: rules.signing.chain_id,
            genesis_hash: rules.signing.genesis_hash,
            fork: rules.signing.fork,
            epoch: base.epoch,
            view,
            height: parent.height.next(),
            parent: parent.hash,
            timestamp: parent.timestamp.plus(500),
            l1_origin: L1Origin::default(),
            committee_root: base.committee.root(),
            next_committee_root: base.next_committee.root(),
            history_root: base.history_root(),
            da: Default::default(),
            body_root: body.root(),
            base_fee: 1,
            ordered_gas: body.transactions.len() as u64,
            results,
        };
        let da = if header.has_square(rules.params()) { SQUARE } else { DaCommitment::default() };
        Block { header: Header { da, ..header }, body }
    }

    /// What the next committee says of its keys: nothing, but on an encrypted chain.
    pub fn keys(&self) -> ThresholdKeys {
        let encrypted = self.rules.params().transactions == TransactionRule::Encrypted;
        ThresholdKeys(encrypted.then(|| B256::repeat_byte(0x4b)))
    }

    fn readies(&self, base: &ChainContext, count: u8) -> Vec<SystemItem> {
        let keys = self.keys();
        let ready = |i: u8| Ready { epoch: base.epoch.next(), node: NodeId([i; 32]), keys, signature: RIGHT };
        let statements = (1..=count).map(ready).filter(|r| base.accepts_ready(&self.rules, r).is_some());
        statements.map(SystemItem::Ready).collect()
    }

    /// The first view that a block on the tip can have.
    pub fn next_view(&self) -> View {
        if self.tip().can_hand_over() { View(1) } else { self.tip().view.next() }
    }

    /// Appends a block.
    pub fn push(&mut self, next: Next) {
        self.append(self.make(next));
    }

    /// Appends a block that was made for the tip.
    pub fn append(&mut self, block: Block) {
        let block = Arc::new(SealedBlock::new(block));
        let context = self.tip().child(&self.rules, &block).expect("the chain follows the rules");
        self.contexts.push(Arc::new(context));
        self.blocks.push(block);
    }

    /// Appends ordinary blocks up to the last one of the epoch.
    pub fn grow_to_end(&mut self) {
        while !self.tip().can_hand_over() {
            self.grow(self.tip().height.0 + 1);
        }
    }

    /// Appends ordinary blocks, each carrying its parent's commit certificate, up to a height.
    pub fn grow(&mut self, height: u64) {
        while self.tip().height.0 < height {
            self.push(Next { view: self.next_view(), commit: true, transaction: true, ready: 4 });
        }
    }

    /// What makes the block at a height final by itself.
    pub fn finality(&self, height: Height) -> Finality {
        let context = &self.contexts[height.0 as usize];
        let target = VoteTarget::commit(context.epoch, context.view, context.hash);
        Finality { certificate: Arc::new(certificate(target)), fillers: Vec::new() }
    }
}

/// A block with its body's root set right.
pub fn seal(mut block: Block) -> SealedBlock {
    block.header.body_root = block.body.root();
    SealedBlock::new(block)
}
