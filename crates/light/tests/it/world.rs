//! A chain with real certificates, peers of all kinds, and a client driven in virtual time.

#[path = "../../../da/tests/it/noise.rs"]
mod noise;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{Arc, LazyLock},
};

use blst::min_pk::{AggregateSignature, SecretKey, Signature};
use cascade_da::{
    BadEncoding, Committed, Square,
    wire::{Answer as DataAnswer, Request as DataRequest},
};
use cascade_light::{
    Answer, BlsScheme, ChainAnswer, ChainRequest, Checkpoint, Client, Config, Effect, Failure, Finality, Handover,
    Head, Input, Reply, Report, Request, RequestId, Start, Stop,
};
use cascade_primitives::{
    Address, B256, Block, BlockHash, BlsPublicKey, BlsSignature, Body, Certificate, ChainId, Committee, Decode, Encode,
    Epoch, Fork, Header, HeaderKind, Height, L1Origin, Member, MemberIndex, NodeId, PublicKeys, ResultEntry, Seats,
    SignerSet, SigningContext, ThresholdKeys, TimestampMs, View, VoteTarget,
    block::PROTOCOL_VERSION,
    merkle::{self, MountainProof, MountainRange, subtree_root},
};

pub use noise::noise;

const SUITE: &[u8] = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_";

pub fn signing() -> SigningContext {
    SigningContext { chain_id: ChainId(20252), genesis_hash: B256::repeat_byte(7), fork: Fork(0) }
}

/// The leaves of the tree that stands for the state and the receipts of a block.
pub fn leaves(height: u64) -> Vec<B256> {
    (0..5u8).map(|i| merkle::leaf(&[height as u8, i])).collect()
}

/// The results of a block.
pub fn result(height: u64) -> ResultEntry {
    let root = merkle::root(&leaves(height));
    ResultEntry { height: Height(height), state_root: root, receipts_root: root, ..ResultEntry::default() }
}

/// What stands for an epoch's threshold keys.
pub fn public_keys(epoch: u64) -> PublicKeys {
    let byte = epoch as u8;
    PublicKeys {
        epoch: Epoch(epoch),
        encryption: [byte; 48],
        decryption: [byte.wrapping_add(1); 96],
        beacon: [byte.wrapping_add(2); 96],
        key_sets: B256::repeat_byte(byte),
    }
}

/// Epoch 0 has none.
fn commitment(epoch: u64) -> ThresholdKeys {
    if epoch == 0 { ThresholdKeys::default() } else { public_keys(epoch).commitment() }
}

/// Members of a committee with their keys.
pub struct Voters {
    pub committee: Committee,
    keys: Vec<SecretKey>,
}

impl Voters {
    pub fn new(epoch: u64, members: usize, generation: u8) -> Self {
        let keys: Vec<SecretKey> =
            (0..members).map(|i| SecretKey::key_gen(&[generation, i as u8].repeat(16), &[]).unwrap()).collect();
        let member = |(i, key): (usize, &SecretKey)| Member {
            node: NodeId([generation.wrapping_mul(31).wrapping_add(i as u8); 32]),
            bls_key: BlsPublicKey(key.sk_to_pk().compress()),
            address: Address::ZERO,
            seats: Seats(1),
            lead_weight: 1,
        };
        let members = keys.iter().enumerate().map(member).collect();
        Self { committee: Committee::new(Epoch(epoch), members, commitment(epoch)).unwrap(), keys }
    }

    /// A certificate of the first `signers` members.
    pub fn certify(&self, target: VoteTarget, signers: usize) -> Certificate {
        let digest = target.digest(&signing());
        let mut set = SignerSet::new(self.keys.len());
        let signatures: Vec<Signature> = self.keys[..signers]
            .iter()
            .enumerate()
            .map(|(i, key)| {
                assert!(set.insert(MemberIndex(i as u16)));
                key.sign(digest.as_slice(), SUITE, &[])
            })
            .collect();
        let sum = AggregateSignature::aggregate(&signatures.iter().collect::<Vec<_>>(), false).unwrap();
        Certificate { target, signers: set, signature: BlsSignature(sum.to_signature().compress()) }
    }

    pub fn quorum(&self) -> usize {
        self.committee.quorum().0 as usize
    }

    pub fn commit(&self, header: &Header) -> Certificate {
        self.certify(VoteTarget::commit(header.epoch, header.view, header.hash()), self.quorum())
    }
}

/// A chain: as many headers as are kept, and everything that proves them.
pub struct TestChain {
    pub headers: BTreeMap<Height, Header>,
    pub hashes: Vec<B256>,
    pub range: MountainRange,
    pub voters: Vec<Voters>,
    pub handovers: Vec<Handover>,
    pub squares: BTreeMap<Height, Arc<Square>>,
    /// Heights that only the certificate of a block above makes final.
    pub uncertified: Range<u64>,
    members: usize,
    epoch_length: u64,
    block_ms: u64,
    /// Whether the committee has other members in each epoch.
    changing: bool,
    keep: usize,
}

impl TestChain {
    pub fn new(members: usize, epoch_length: u64, block_ms: u64, changing: bool) -> Self {
        let voters = vec![Voters::new(0, members, 0), Voters::new(1, members, u8::from(changing))];
        let mut chain = Self {
            headers: BTreeMap::new(),
            hashes: Vec::new(),
            range: MountainRange::default(),
            voters,
            handovers: Vec::new(),
            squares: BTreeMap::new(),
            uncertified: 0..0,
            members,
            epoch_length,
            block_ms,
            changing,
            keep: usize::MAX,
        };
        let genesis = chain.header(0, 0, BlockHash::ZERO, Committed::default());
        chain.push(genesis);
        chain
    }

    /// Forgets all but the newest headers.
    pub fn keeping(mut self, keep: usize) -> Self {
        self.keep = keep;
        self
    }

    fn header(&self, height: u64, epoch: u64, parent: BlockHash, data: Committed) -> Header {
        Header {
            version: PROTOCOL_VERSION,
            kind: HeaderKind::Block,
            chain_id: signing().chain_id,
            genesis_hash: signing().genesis_hash,
            fork: Fork(0),
            epoch: Epoch(epoch),
            view: View(height % self.epoch_length + 1),
            height: Height(height),
            parent,
            timestamp: TimestampMs(height * self.block_ms),
            l1_origin: L1Origin::default(),
            committee_root: self.voters[epoch as usize].committee.root(),
            next_committee_root: self.voters[epoch as usize + 1].committee.root(),
            history_root: self.range.root(),
            da: data.da,
            body_root: data.body_root,
            base_fee: 1,
            ordered_gas: 0,
            results: vec![result(height.saturating_sub(3))],
        }
    }

    fn push(&mut self, header: Header) {
        let hash = header.hash();
        self.range.push(hash.into());
        self.hashes.push(hash.into());
        self.headers.insert(header.height, header);
        while self.headers.len() > self.keep {
            self.headers.pop_first();
        }
        while self.squares.len() > self.keep {
            self.squares.pop_first();
        }
    }

    pub fn tip(&self) -> &Header {
        self.headers.last_key_value().unwrap().1
    }

    /// One block more, with this data, or next to none.
    pub fn grow(&mut self, data: Option<&[u8]>) {
        static SMALLEST: LazyLock<Arc<Square>> = LazyLock::new(|| Arc::new(Square::new(&[1]).unwrap()));
        let square = data.map_or_else(|| Arc::clone(&SMALLEST), |data| Arc::new(Square::new(data).unwrap()));
        self.grow_with(Some(square));
    }

    /// One block more, with this square or none at all.
    pub fn grow_with(&mut self, square: Option<Arc<Square>>) {
        let below = self.tip().clone();
        let height = below.height.0 + 1;
        let epoch = height / self.epoch_length;
        if epoch > below.epoch.0 {
            let generation = if self.changing { epoch as u8 + 1 } else { 0 };
            self.voters.push(Voters::new(epoch + 1, self.members, generation));
        }
        let data = square.as_ref().map_or_else(Committed::default, |square| square.committed());
        let header = self.header(height, epoch, below.hash(), data);
        if let Some(square) = square {
            self.squares.insert(header.height, square);
        }
        if epoch > below.epoch.0 {
            self.hand_over(&below, &header);
        }
        self.push(header);
    }

    fn hand_over(&mut self, last: &Header, first: &Header) {
        let (old, new) = (&self.voters[last.epoch.0 as usize], &self.voters[first.epoch.0 as usize]);
        // Every other epoch ends by a certificate of a filler above its last block.
        let filler = Header {
            kind: HeaderKind::Filler,
            view: last.view.next(),
            ..self.header(last.height.0 + 1, last.epoch.0, last.hash(), Committed::from(last))
        };
        let mut body = Body::default();
        if last.epoch.0.is_multiple_of(2) {
            body.certificates.commit = Some(old.commit(last));
        } else {
            body.certificates.commit = Some(old.commit(&filler));
            body.certificates.fillers = vec![filler];
        }
        let opened = new.certify(VoteTarget::prepare(first.epoch, first.view, first.hash()), new.quorum());
        let block = Block { header: first.clone(), body };
        self.handovers.push(Handover::from_blocks(last, &block, opened, &old.committee, &new.committee).unwrap());
    }

    pub fn checkpoint(&self, height: u64) -> Checkpoint {
        let header = &self.headers[&Height(height)];
        Checkpoint { height: header.height, hash: header.hash(), committee_root: header.committee_root }
    }

    pub fn finality(&self, header: &Header) -> Finality {
        let certificate = self.voters[header.epoch.0 as usize].commit(header);
        Finality { certificate, fillers: Vec::new() }
    }

    /// What an honest node answers.
    pub fn answer(&self, request: &ChainRequest) -> ChainAnswer {
        match request {
            ChainRequest::Start { height } => self.headers.get(height).map_or(ChainAnswer::Nothing, |header| {
                let committee = self.voters[header.epoch.0 as usize].committee.clone();
                ChainAnswer::Start(Box::new((header.clone(), committee)))
            }),
            ChainRequest::Handovers { from } => match self.handovers.get(from.0 as usize..) {
                None | Some([]) => ChainAnswer::Nothing,
                Some(some) => ChainAnswer::Handovers(some.iter().take(16).cloned().collect()),
            },
            ChainRequest::Head { ancestor } => self.head_at(self.tip().height, *ancestor),
            ChainRequest::Headers { from } => {
                let Some(first) = self.headers.get(from) else { return ChainAnswer::Nothing };
                let run: Vec<Header> = self
                    .headers
                    .range(*from..)
                    .map(|(_, h)| h)
                    .take(100)
                    .take_while(|h| h.epoch == first.epoch)
                    .cloned()
                    .collect();
                let certified = run.iter().rposition(|h| !self.uncertified.contains(&h.height.0));
                let Some(last) = certified else { return ChainAnswer::Nothing };
                let finality = self.finality(&run[last]);
                ChainAnswer::Headers(run[..=last].to_vec(), Box::new(finality))
            }
        }
    }
}

impl TestChain {
    /// The answer of a node to which this block is the head.
    fn head_at(&self, height: Height, ancestor: Height) -> ChainAnswer {
        let header = self.headers[&height].clone();
        let mut range = MountainRange::default();
        for hash in &self.hashes[..height.0 as usize] {
            range.push(*hash);
        }
        let subtree = |first, level| subtree_root(first, level, &mut |i| self.hashes[i as usize]);
        let Some(ancestry) = range.prove(ancestor.0, subtree) else { return ChainAnswer::Nothing };
        ChainAnswer::Head(Box::new(Head { finality: self.finality(&header), header, ancestry }))
    }
}

/// What a peer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Honest,
    /// Answers about the chain and has no shares.
    NoShares,
    /// Withholds the corner of (k+1)^2 shares from this height on.
    Corner(Height),
    /// Answers with shares of another square.
    Liar,
    /// Answers nothing at all.
    Silent,
    /// Signs with too few.
    Forger,
    /// Flips a bit of every answer.
    Scrambler,
    /// Never heard of any block above this height.
    Stale(Height),
    /// Is behind: knows the chain up to this height, whose head it shows, and has no squares above.
    Behind(Height),
    /// Cannot be reached: every request fails at once.
    Cut,
    /// Fails requests for shares from this height on, and answers all else.
    CutData(Height),
    /// Is too busy for requests for shares from this height on.
    Busy(Height),
    /// Says nothing to requests for shares from this height on, and answers all else.
    Mute(Height),
    /// Shows a head at or below everybody's tip that nobody certified.
    LowHead(Height),
    /// Shows a head and headers of an epoch that has not begun.
    Hasty,
    /// Once there is a next epoch, says of any header of this one that it is of that.
    Skipper,
    /// Names proofs that it does not have.
    Crier,
}

/// A client, its peers and the time.
pub struct World {
    pub chain: TestChain,
    pub client: Client,
    pub now: u64,
    pub peers: BTreeMap<NodeId, Kind>,
    queue: BTreeMap<(u64, u64), Input>,
    sequence: u64,
    pub reports: Vec<Report>,
    pub stopped: Option<Stop>,
    pub dropped: BTreeMap<NodeId, String>,
    pub passed_on: BTreeSet<NodeId>,
    /// Proofs that peers hold.
    pub proofs: BTreeMap<(NodeId, Height), Box<BadEncoding>>,
    pub asked: BTreeMap<NodeId, usize>,
    /// Makes runs differ.
    pub salt: u64,
}

impl World {
    pub fn new(chain: TestChain, start: Start, peers: &[Kind]) -> Self {
        let now = chain.tip().timestamp.0;
        let config = Config::new(signing(), start, 86_400_000 * 7, [9; 32]);
        Self::with(chain, config, peers, now)
    }

    pub fn with(chain: TestChain, config: Config, peers: &[Kind], now: u64) -> Self {
        let mut world = Self {
            chain,
            client: Client::new(config, Box::new(BlsScheme::default())),
            now,
            peers: BTreeMap::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            reports: Vec::new(),
            stopped: None,
            dropped: BTreeMap::new(),
            passed_on: BTreeSet::new(),
            proofs: BTreeMap::new(),
            asked: BTreeMap::new(),
            salt: 0,
        };
        for (i, kind) in peers.iter().enumerate() {
            let id = NodeId([i as u8 + 1; 32]);
            world.peers.insert(id, *kind);
            world.put(0, Input::PeerUp(id));
        }
        world
    }

    pub fn put(&mut self, after: u64, input: Input) {
        self.sequence += 1;
        self.queue.insert((self.now + after, self.sequence), input);
    }

    /// Sets the clock back. What is under way happens when it would have.
    pub fn turn_back(&mut self, ms: u64) {
        self.now -= ms;
        let queue = std::mem::take(&mut self.queue);
        self.queue = queue.into_iter().map(|((at, sequence), input)| ((at - ms, sequence), input)).collect();
    }

    /// Lets this much time pass.
    pub fn run(&mut self, ms: u64) {
        let end = self.now + ms;
        while let Some((&(at, sequence), _)) = self.queue.first_key_value() {
            if at > end || self.stopped.is_some() {
                break;
            }
            let input = self.queue.remove(&(at, sequence)).unwrap();
            self.now = self.now.max(at);
            let effects = self.client.step(TimestampMs(self.now), input);
            for effect in effects {
                self.act(effect);
            }
        }
        self.now = end;
    }

    fn act(&mut self, effect: Effect) {
        match effect {
            Effect::Ask { id, peer, request, alone } => {
                assert_eq!(alone, matches!(request, Request::Data(_)));
                *self.asked.entry(peer).or_default() += 1;
                self.serve(id, peer, &request);
            }
            Effect::Drop { peer, why } => {
                self.dropped.insert(peer, why);
            }
            Effect::PassOn { peer, .. } => {
                self.passed_on.insert(peer);
            }
            Effect::Report(report) => self.reports.push(report),
            Effect::WakeAt(at) => {
                assert!(at.0 > self.now, "a client that wakes itself at once never sleeps");
                self.put(at.0 - self.now, Input::Tick);
            }
            Effect::Stop(stop) => self.stopped = Some(stop),
        }
    }

    fn serve(&mut self, id: RequestId, peer: NodeId, request: &Request) {
        let kind = self.peers[&peer];
        let height = match request {
            Request::Data(request) => request.height(),
            _ => Height(0),
        };
        let answer = match (kind, request) {
            (Kind::Silent, _) => return,
            (Kind::Mute(from), Request::Data(_)) if height >= from => return,
            (Kind::Cut, _) => return self.put(10, Input::Failed { id, why: Failure::Silent, bytes: 7 }),
            (Kind::Busy(from), Request::Data(_)) if height >= from => {
                return self.put(10, Input::Failed { id, why: Failure::Busy, bytes: 7 });
            }
            (Kind::CutData(from), Request::Data(_)) if height >= from => {
                return self.put(10, Input::Failed { id, why: Failure::Silent, bytes: 7 });
            }
            (Kind::Crier, Request::Frauds { .. }) => {
                let tip = self.chain.tip().height.0;
                Answer::Frauds((tip.saturating_sub(15)..=tip).map(Height).collect())
            }
            (_, Request::Frauds { from }) => {
                let held = self.proofs.keys().filter(|(holder, height)| *holder == peer && height >= from);
                Answer::Frauds(held.map(|(_, height)| *height).collect())
            }
            (_, Request::Chain(request)) => Answer::Chain(self.serve_chain(kind, request)),
            (Kind::NoShares, Request::Data(_)) => {
                Answer::Data(DataAnswer::Outside { oldest: Height(1), newest: Height(0) })
            }
            (Kind::Behind(newest), Request::Data(_)) if height > newest => {
                Answer::Data(DataAnswer::Outside { oldest: Height(1), newest })
            }
            (_, Request::Data(request)) => Answer::Data(self.serve_data(kind, peer, request)),
        };
        let bytes = encoded(&answer).len();
        let answer = if kind == Kind::Scrambler { self.scramble(&answer) } else { Some(answer) };
        match answer {
            Some(answer) => self.put(10, Input::Answered { id, answer, bytes: bytes as u64 }),
            None => self.put(10, Input::Failed { id, why: Failure::Hostile, bytes: 0 }),
        }
    }

    /// An answer with one bit flipped, if it still decodes.
    fn scramble(&mut self, answer: &Answer) -> Option<Answer> {
        let mut bytes = encoded(answer);
        let pick = noise(16, self.sequence.wrapping_add(self.salt));
        let at = u64::from_le_bytes(pick[..8].try_into().unwrap()) as usize % bytes.len();
        bytes[at] ^= 1 << (pick[8] % 8);
        match answer {
            Answer::Chain(_) => ChainAnswer::from_slice(&bytes).ok().map(Answer::Chain),
            Answer::Data(_) => DataAnswer::from_slice(&bytes).ok().map(Answer::Data),
            Answer::Frauds(_) => match Reply::from_slice(&bytes) {
                Ok(Reply::Frauds(heights)) => Some(Answer::Frauds(heights)),
                _ => None,
            },
        }
    }

    fn serve_chain(&self, kind: Kind, request: &ChainRequest) -> ChainAnswer {
        let mut answer = self.chain.answer(request);
        if kind == Kind::Forger {
            match &mut answer {
                ChainAnswer::Headers(headers, finality) => {
                    let voters = &self.chain.voters[headers[0].epoch.0 as usize];
                    finality.certificate = voters.certify(finality.certificate.target, voters.quorum() - 1);
                }
                ChainAnswer::Head(head) => head.finality.certificate.signature = BlsSignature([3; 96]),
                ChainAnswer::Handovers(handovers) => handovers[0].opened.target.view = View(999),
                ChainAnswer::Start(start) => start.0.base_fee += 1,
                ChainAnswer::Nothing => {}
            }
        }
        match (kind, request) {
            (Kind::Stale(height) | Kind::Behind(height), ChainRequest::Headers { from }) if *from > height => {
                ChainAnswer::Nothing
            }
            (Kind::Behind(height), ChainRequest::Head { ancestor }) => self.chain.head_at(height, *ancestor),
            (Kind::LowHead(height), ChainRequest::Head { .. }) => {
                let header = self.chain.headers[&height].clone();
                let mut finality = self.chain.finality(&header);
                finality.certificate.signature = BlsSignature([3; 96]);
                let ancestry = MountainProof { range: MountainRange::default(), path: Vec::new() };
                ChainAnswer::Head(Box::new(Head { header, finality, ancestry }))
            }
            (Kind::Hasty, ChainRequest::Head { .. } | ChainRequest::Headers { .. }) => {
                let mut header = self.chain.tip().clone();
                header.epoch = header.epoch.next();
                header.height = Height(header.height.0 + 50);
                let finality = self.chain.finality(self.chain.tip());
                match answer {
                    ChainAnswer::Head(head) => ChainAnswer::Head(Box::new(Head { header, finality, ..*head })),
                    _ => ChainAnswer::Headers(vec![header], Box::new(finality)),
                }
            }
            (Kind::Skipper, ChainRequest::Headers { from }) => {
                let (Some(first), tip) = (self.chain.headers.get(from), self.chain.tip()) else { return answer };
                if tip.epoch == first.epoch {
                    return answer;
                }
                let claimed = Header { epoch: tip.epoch, ..first.clone() };
                ChainAnswer::Headers(vec![claimed], Box::new(self.chain.finality(tip)))
            }
            _ => answer,
        }
    }

    fn serve_data(&self, kind: Kind, peer: NodeId, request: &DataRequest) -> DataAnswer {
        if let Some(proof) = self.proofs.get(&(peer, request.height())) {
            return DataAnswer::BadEncoding(proof.clone());
        }
        let Some(square) = self.chain.squares.get(&request.height()) else { return DataAnswer::NotInSquare };
        let (height, ids) = match request {
            DataRequest::Samples { height, ids } => (height, ids),
            DataRequest::Roots { .. } => {
                let roots = square.commitment().roots().to_vec();
                return DataAnswer::Roots { roots };
            }
            DataRequest::Line { .. } => panic!("a client asks for no lines"),
        };
        assert_eq!(ids.len(), 1, "one sample a request");
        let corner = square.shape().width() as u16 + 1;
        if let Kind::Corner(from) = kind
            && *height >= from
            && ids[0].row < corner
            && ids[0].column < corner
        {
            return DataAnswer::NotInSquare;
        }
        let other;
        let square = if kind == Kind::Liar {
            other = Square::new(&noise(square.shape().data_size(), 999)).unwrap();
            &other
        } else {
            square.as_ref()
        };
        DataAnswer::Samples(vec![square.sample(ids[0].row, ids[0].column, ids[0].axis).unwrap()])
    }
}

fn encoded(answer: &Answer) -> Vec<u8> {
    match answer {
        Answer::Chain(answer) => answer.to_bytes(),
        Answer::Data(answer) => answer.to_bytes(),
        Answer::Frauds(heights) => Reply::Frauds(heights.clone()).to_bytes(),
    }
}

/// Blocks with data, half a second apart, each followed by the client.
pub fn grow(world: &mut World, blocks: u64) {
    for _ in 0..blocks {
        let seed = world.chain.hashes.len() as u64;
        world.chain.grow(Some(&noise(4 * 4 * 512, seed)));
        world.run(500);
    }
}
