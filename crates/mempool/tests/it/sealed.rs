//! Key generation through final blocks, and reveals, against members that lie, withhold, fall silent and crash.
//!
//! Real cryptography, a simulated network: messages are delayed, lost, reordered and cut off by partitions, nodes crash and
//! start again with what is on disk (final blocks, key shares), and f seats do what they like. Then faults stop.

use std::{
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    sync::{Arc, OnceLock},
};

use cascade_crypto::{
    BlsScheme, BlsSecretKey, VoteSigner,
    curve::G1Affine,
    dkg::{Dealing, DealingError, KeyGeneration, RecipientSecret, dealing},
    threshold::{BlockShares, EncryptionScheme as _, Label, SeatMap, SecretShares, Tdh2, beacon},
};
use cascade_mempool::{
    keybook::{KeyBook, KeyProgress, Offer},
    reveal::{Effect, FinalBlock, Holder, RevealMessage, Reveals},
};
use cascade_primitives::{
    Address, B256, Block, BlockHash, BlsSignature, Body, Bytes, Certificate, ChainId, ChainParams, Committee,
    Encode as _, Epoch, Fork, Header, HeaderKind, Height, L1Origin, Member, MemberIndex, Network, NodeId, Reveal,
    SealedBlock, Seats, SignerSet, SigningContext, SystemItem, ThresholdKeys, TimestampMs, View, VoteTarget,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

const NODES: usize = 4;

pub fn context() -> SigningContext {
    SigningContext { chain_id: ChainId(20252), genesis_hash: B256::repeat_byte(7), fork: Fork(0) }
}

fn voting(i: usize) -> BlsSecretKey {
    BlsSecretKey::derive(&[i as u8 + 1; 32]).unwrap()
}

pub fn node(i: usize) -> NodeId {
    NodeId([i as u8 + 1; 32])
}

fn committee(epoch: u64, members: impl IntoIterator<Item = usize>) -> Arc<Committee> {
    let member = |i| Member {
        node: node(i),
        bls_key: voting(i).public_key(),
        address: Address::ZERO,
        seats: Seats(1),
        lead_weight: 1,
    };
    let members = members.into_iter().map(member).collect();
    Arc::new(Committee::new(Epoch(epoch), members, ThresholdKeys::default()).unwrap())
}

fn block(height: u64, epoch: u64, next: &Committee, system: Vec<SystemItem>) -> SealedBlock {
    let body = Body { system, ..Body::default() };
    let header = Header {
        version: 1,
        kind: HeaderKind::Block,
        chain_id: context().chain_id,
        genesis_hash: context().genesis_hash,
        fork: Fork(0),
        epoch: Epoch(epoch),
        view: View(height),
        height: Height(height),
        parent: BlockHash([height as u8; 32]),
        timestamp: TimestampMs(height),
        l1_origin: L1Origin::default(),
        committee_root: B256::ZERO,
        next_committee_root: next.root(),
        history_root: B256::ZERO,
        da: Default::default(),
        body_root: body.root(),
        base_fee: 1,
        ordered_gas: 0,
        results: Vec::new(),
    };
    SealedBlock::new(Block { header, body })
}

/// The current committee of [`NODES`] members, and one like it for the next epoch.
struct Generation {
    book: KeyBook,
    dealers: Arc<Committee>,
    next: Arc<Committee>,
    height: u64,
    secrets: Vec<RecipientSecret>,
    rng: StdRng,
    window: u64,
    /// The newest block.
    last: Option<BlockHash>,
}

impl Generation {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let (dealers, next) = (committee(0, 0..NODES), committee(1, 0..NODES));
        let params = ChainParams { key_window: 5, ..ChainParams::of(Network::Regtest) };
        let scheme = Arc::new(BlsScheme::default());
        let book = KeyBook::new(context(), &params, scheme, Height(1), Arc::clone(&dealers), Arc::clone(&next));
        let secrets = (0..NODES).map(|_| RecipientSecret::generate(Epoch(1), &mut rng)).collect();
        Self { book, dealers, next, height: 0, secrets, rng, window: params.key_window, last: None }
    }

    fn feed(&mut self, system: Vec<SystemItem>) {
        self.height += 1;
        let block = chained(self.height, &self.next, system, self.last);
        self.last = Some(block.hash());
        let mut rng = self.rng.clone();
        self.book.on_final(&block, (&self.dealers, &self.next), &mut |generation, dealing| {
            generation.verify(dealing, &BlsScheme::default(), &mut rng)
        });
    }

    fn announcement(&mut self, i: usize) -> SystemItem {
        let root = self.next.members_root();
        let item = self.secrets[i].announce(&context(), (root, node(i)), &voting(i), &mut self.rng);
        SystemItem::RecipientKey(item.to_bytes().into())
    }

    fn dealing(&mut self, i: usize) -> SystemItem {
        let generation = self.book.generation().expect("recipients are fixed");
        let dealing = dealing::deal(generation.parameters(), MemberIndex(i as u16), &voting(i), &mut self.rng);
        SystemItem::Dealing(dealing.to_bytes().into())
    }

    fn shares(&self, i: usize) -> Option<SecretShares> {
        self.book.shares(&node(i), &self.secrets[i])
    }

    /// All announce, q deal.
    fn complete(seed: u64) -> Self {
        let mut world = Self::new(seed);
        let items = (0..NODES).map(|i| world.announcement(i)).collect();
        world.feed(items);
        for dealer in [3, 0, 2] {
            let item = world.dealing(dealer);
            world.feed(vec![item]);
        }
        world
    }
}

#[test]
fn keys_come_from_the_log_and_every_announced_recipient_has_its_shares() {
    let world = Generation::complete(1);
    assert_eq!(world.book.progress(), KeyProgress::Complete);
    let keys = world.book.generation().unwrap().keys().unwrap().clone();
    for i in 0..NODES {
        let seats = SeatMap::of(&world.next).unwrap();
        assert!(world.shares(i).unwrap().belong_to(&keys, &seats), "recipient {i}");
    }
}

#[test]
fn a_book_that_is_read_again_says_the_same() {
    let (first, second) = (Generation::complete(5), Generation::complete(5));
    assert_eq!(first.book.generation().unwrap().keys(), second.book.generation().unwrap().keys());
}

#[test]
fn a_recipient_that_never_announced_is_a_silent_seat_and_nothing_more() {
    let mut world = Generation::new(2);
    let items = (0..3).map(|i| world.announcement(i)).collect();
    world.feed(items);
    assert!(world.book.generation().is_none(), "it waits for the fourth");
    while world.height < world.window {
        world.feed(Vec::new());
    }
    world.feed(Vec::new());
    assert!(world.book.generation().is_some(), "a quorum suffices once the window is over");
    for dealer in 0..3 {
        let item = world.dealing(dealer);
        world.feed(vec![item]);
    }
    assert!(world.shares(3).is_none());
    let keys = world.book.generation().unwrap().keys().unwrap().clone();
    let secrets: Vec<_> = (0..3).map(|i| world.shares(i).unwrap()).collect();
    // q = 3 of 4 seats open.
    let (sealed, base) = seal(&keys.decryption.encryption_key(), &mut world.rng);
    let seats = SeatMap::of(&world.next).unwrap();
    let shares: Vec<_> = secrets
        .iter()
        .map(|secret| {
            let bytes = Tdh2.share(secret, &[base]);
            Tdh2.read_share(secret.member(), seats.seats(secret.member()), &[base], &bytes).unwrap()
        })
        .collect();
    let values = Tdh2.combine(&keys.decryption, &[base], &shares, &mut world.rng).values.unwrap();
    assert_eq!(Tdh2.open(&sealed, &LABEL, &values[0]).unwrap().as_ref(), b"payload");
    let too_few = Tdh2.combine(&keys.decryption, &[base], &shares[..2], &mut world.rng);
    assert!(too_few.values.is_none(), "q - 1 seats open nothing");
}

#[test]
fn items_of_no_use_change_nothing() {
    let mut world = Generation::new(3);
    let root = world.next.members_root();
    let forged = {
        // Somebody else's key under this name: the signature is not the node's.
        let item = world.secrets[1].announce(&context(), (root, node(0)), &voting(1), &mut world.rng);
        SystemItem::RecipientKey(item.to_bytes().into())
    };
    let other_epoch = {
        let secret = RecipientSecret::generate(Epoch(2), &mut world.rng);
        let item = secret.announce(&context(), (root, node(0)), &voting(0), &mut world.rng);
        SystemItem::RecipientKey(item.to_bytes().into())
    };
    let garbage = SystemItem::RecipientKey(Bytes::from_static(b"garbage"));
    let nothing = &mut |_: &KeyGeneration, _: &Dealing| unreachable!("nobody deals yet");
    let dishonest = Offer::Dishonest("a forged encryption key");
    assert_eq!(world.book.on_offer(&node(0), &forged, [], nothing), dishonest);
    assert_eq!(world.book.on_offer(&node(0), &other_epoch, [], nothing), Offer::Useless);
    for item in [forged, other_epoch, garbage, SystemItem::Dealing(Bytes::from_static(b"garbage"))] {
        world.feed(vec![item]);
    }
    assert_eq!(world.book.progress(), KeyProgress::Announcing { announced: 0, needed: 3 });
    let items = (0..NODES).map(|i| world.announcement(i)).collect();
    world.feed(items);
    let mut wrong = world.dealing(1).to_bytes();
    let last = wrong.len() - 200;
    wrong[last] ^= 1;
    if let Ok(item) = <SystemItem as cascade_primitives::Decode>::from_slice(&wrong) {
        world.feed(vec![item]);
    }
    let KeyProgress::Dealing(progress) = world.book.progress() else { panic!("recipients are fixed") };
    assert_eq!((progress.dealt, progress.needed), (0, 3), "a dealing that is wrong does not count");
    let item = world.dealing(0);
    world.feed(vec![item.clone()]);
    assert!(!world.book.is_open(&item), "a second dealing of one dealer does not count");
    world.feed(vec![item]);
    let KeyProgress::Dealing(progress) = world.book.progress() else { panic!("two are missing") };
    assert_eq!(progress.dealt, 1);
}

#[test]
fn a_committee_that_is_made_anew_gets_keys_of_its_own_whenever_the_book_is_read() {
    let smaller = Arc::new(committee(1, 0..3).as_ref().clone().with_attempt(1));
    let run = |late: bool| {
        let mut world = Generation::new(4);
        let announcements: Vec<_> = (0..NODES).map(|i| world.announcement(i)).collect();
        // Under the first committee all announce; under the second, those that are left do so again.
        let first = std::mem::replace(&mut world.next, Arc::clone(&smaller));
        let again: Vec<_> = (0..3).map(|i| world.announcement(i)).collect();
        world.next = first;
        let blocks =
            [block(1, 0, &world.next, announcements), block(2, 0, &smaller, Vec::new()), block(3, 0, &smaller, again)];
        if late {
            // Read again after a start: only the newest committee is known.
            world.next = Arc::clone(&smaller);
            let params = ChainParams { key_window: 5, ..ChainParams::of(Network::Regtest) };
            let scheme = Arc::new(BlsScheme::default());
            let (dealers, next) = (Arc::clone(&world.dealers), Arc::clone(&smaller));
            world.book = KeyBook::new(context(), &params, scheme, Height(1), dealers, next);
        }
        for (i, block) in blocks.iter().enumerate() {
            let next = if i > 0 || late { Arc::clone(&smaller) } else { Arc::clone(&world.next) };
            world.book.on_final(block, (&world.dealers, &next), &mut |_, _| unreachable!("nobody has dealt"));
        }
        world.book.generation().expect("all have announced").parameters().recipient_keys.clone()
    };
    assert_eq!(run(false), run(true));
    assert_eq!(run(false).len(), 3);
}

/// Three of four hold shares, and only two of them say so: the next committee is made anew, of the same members. All make
/// new keys, and an announcement for the one before counts no more, whoever puts it into the log.
#[test]
fn the_same_members_make_new_keys_when_their_committee_is_made_anew() {
    let mut world = Generation::complete(11);
    let keys = world.book.generation().unwrap().keys().unwrap().clone();
    let old = world.announcement(3);
    let again = Arc::new(world.next.as_ref().clone().with_attempt(1));
    assert_eq!(again.members(), world.next.members());
    world.next = again;
    world.feed(vec![old.clone()]);
    assert_eq!(world.book.progress(), KeyProgress::Announcing { announced: 0, needed: 3 });
    assert!(!world.book.is_open(&old), "announced for the committee before");
    let nothing = &mut |_: &KeyGeneration, _: &Dealing| unreachable!("nobody deals yet");
    assert_eq!(world.book.on_offer(&node(3), &old, [], nothing), Offer::Useless, "its node may be behind");
    world.secrets = (0..NODES).map(|_| RecipientSecret::generate(Epoch(1), &mut world.rng)).collect();
    let items = (0..NODES).map(|i| world.announcement(i)).collect();
    world.feed(items);
    for dealer in 0..3 {
        let item = world.dealing(dealer);
        world.feed(vec![item]);
    }
    assert_eq!(world.book.progress(), KeyProgress::Complete);
    assert_ne!(world.book.generation().unwrap().keys().unwrap().commitment(), keys.commitment());
    assert!((0..NODES).all(|i| world.shares(i).is_some()), "also who had none");
}

/// Blocks count from the one that first names the committee that was made anew: those before have used up all patience.
#[test]
fn a_committee_that_is_made_anew_waits_for_its_members_again() {
    for read_again in [false, true] {
        let mut world = Generation::new(12);
        (0..3 * world.window).for_each(|_| world.feed(Vec::new()));
        world.next = Arc::new(world.next.as_ref().clone().with_attempt(1));
        if read_again {
            let params = ChainParams { key_window: world.window, ..ChainParams::of(Network::Regtest) };
            let scheme = Arc::new(BlsScheme::default());
            let (dealers, next) = (Arc::clone(&world.dealers), Arc::clone(&world.next));
            world.book = KeyBook::new(context(), &params, scheme, Height(1), dealers, next);
            let first = committee(1, 0..NODES);
            let mut last = None;
            for height in 1..=world.height {
                let block = chained(height, &first, Vec::new(), last);
                last = Some(block.hash());
                let pair = (&world.dealers, &world.next);
                world.book.on_final(&block, pair, &mut |_, _| unreachable!("nobody has dealt"));
            }
        }
        let items = (0..3).map(|i| world.announcement(i)).collect();
        world.feed(items);
        for block in 1..world.window {
            assert!(world.book.generation().is_none(), "it waits for the fourth in block {block}, {read_again}");
            world.feed(Vec::new());
        }
        world.feed(Vec::new());
        assert!(world.book.generation().is_some(), "not for ever, {read_again}");
    }
}

#[test]
fn one_item_of_each_kind_and_author_waits() {
    let mut world = Generation::new(13);
    let mut asked = 0;
    let verify = &mut |generation: &KeyGeneration, item: &Dealing| {
        asked += 1;
        generation.verify(item, &BlsScheme::default(), &mut StdRng::seed_from_u64(1))
    };
    let (first, second, other) = (world.announcement(0), world.announcement(0), world.announcement(1));
    assert_ne!(first, second, "each has a proof of its own, and both hold");
    assert_eq!(world.book.on_offer(&node(0), &first, [], verify), Offer::Waits);
    assert_eq!(world.book.on_offer(&node(0), &second, [&first], verify), Offer::Useless);
    assert_eq!(world.book.on_offer(&node(0), &first, [&first], verify), Offer::Useless);
    assert_eq!(world.book.on_offer(&node(1), &other, [&first], verify), Offer::Waits);
    let items = (0..NODES).map(|i| world.announcement(i)).collect();
    world.feed(items);
    let (first, second) = (world.dealing(0), world.dealing(0));
    assert_eq!(world.book.on_offer(&node(0), &first, [&other], verify), Offer::Waits);
    assert_eq!(world.book.on_offer(&node(0), &second, [&first], verify), Offer::Useless);
    assert_eq!(asked, 1, "what waits is not checked again, nor is what cannot");
}

/// Its peer may not know yet that the committee was made anew, or this node may not.
#[test]
fn a_dealer_is_blamed_for_what_it_signed_alone() {
    let mut world = Generation::new(14);
    let items = (0..NODES).map(|i| world.announcement(i)).collect();
    world.feed(items);
    let of_four = world.dealing(0);
    world.next = Arc::new(committee(1, 0..2).as_ref().clone().with_attempt(1));
    let items = (0..2).map(|i| world.announcement(i)).collect();
    world.feed(items);
    let verify = &mut |generation: &KeyGeneration, item: &Dealing| {
        generation.verify(item, &BlsScheme::default(), &mut StdRng::seed_from_u64(1))
    };
    let parsed = world.book.parse_dealing(match &of_four {
        SystemItem::Dealing(bytes) => bytes,
        _ => unreachable!("it is a dealing"),
    });
    let refused = verify(world.book.generation().unwrap(), &parsed.expect("epoch and dealer are right"));
    assert_eq!(refused.err(), Some(DealingError::Shape("coefficients")), "made for more seats");
    assert_eq!(world.book.on_offer(&node(0), &of_four, [], verify), Offer::Useless);
    let signed = &mut |_: &KeyGeneration, _: &Dealing| Err(DealingError::Proof);
    assert_eq!(world.book.on_offer(&node(0), &of_four, [], signed), Offer::Dishonest("a wrong dealing"));
}

/// Half a megabyte is not read for a number in front of it.
#[test]
fn a_dealing_is_read_if_its_epoch_and_dealer_are_right() {
    let mut world = Generation::new(15);
    let items = (0..NODES).map(|i| world.announcement(i)).collect();
    world.feed(items);
    let SystemItem::Dealing(right) = world.dealing(1) else { unreachable!("it is a dealing") };
    // Whether the rest is read shows by whether it matters: the book takes no look at it when it says what is open.
    let with = |epoch: u64, dealer: u16| {
        let place = [epoch.to_le_bytes().as_slice(), &dealer.to_le_bytes()].concat();
        let garbage = SystemItem::Dealing([place.as_slice(), &[0xff; 64]].concat().into());
        (world.book.is_open(&garbage), world.book.parse_dealing(&[place.as_slice(), &right[10..]].concat()).is_some())
    };
    assert_eq!(with(1, 1), (true, true));
    assert_eq!(with(2, 1), (false, false), "of another epoch");
    assert_eq!(with(1, 4), (false, false), "of nobody");
    world.feed(vec![SystemItem::Dealing(right)]);
    let item = world.dealing(1);
    assert!(!world.book.is_open(&item), "it has dealt");
}

const LABEL: Label = Label(B256::repeat_byte(3));

fn seal(
    key: &cascade_crypto::threshold::EncryptionKey,
    rng: &mut StdRng,
) -> (cascade_crypto::threshold::Ciphertext, G1Affine) {
    let sealed = Tdh2.seal(key, &LABEL, b"payload", rng).unwrap();
    let base = Tdh2.check(key, &[(&sealed, LABEL)], rng)[0].unwrap();
    (sealed, base)
}

// --- reveals ------------------------------------------------------------------------------------------------------

pub struct Chain {
    pub keys: Arc<cascade_crypto::threshold::EpochKeys>,
    pub committee: Arc<Committee>,
    pub secrets: Vec<Arc<SecretShares>>,
    /// For each height its bases; none for an empty block.
    pub blocks: Vec<Option<Vec<G1Affine>>>,
}

/// One chain for all seeds: what differs is what happens to it.
pub fn chain() -> &'static Chain {
    static CHAIN: OnceLock<Chain> = OnceLock::new();
    CHAIN.get_or_init(|| {
        let mut world = Generation::complete(9);
        let keys = Arc::new(world.book.generation().unwrap().keys().unwrap().clone());
        let secrets = (0..NODES).map(|i| Arc::new(world.shares(i).unwrap())).collect();
        let mut blocks = Vec::new();
        for envelopes in [Some(2), None, Some(1), Some(0), None, Some(3)] {
            let key = keys.decryption.encryption_key();
            blocks.push(envelopes.map(|n: usize| (0..n).map(|_| seal(&key, &mut world.rng).1).collect()));
        }
        Chain { keys, committee: world.next, secrets, blocks }
    })
}

pub fn holder(i: usize) -> Holder {
    let chain = chain();
    let secret = Some(Arc::clone(&chain.secrets[i]));
    Holder::new(Arc::clone(&chain.keys), Arc::clone(&chain.committee), secret)
}

pub fn hash_of(height: u64) -> BlockHash {
    BlockHash([0x40 + height as u8; 32])
}

pub fn certificate(height: u64) -> Arc<Certificate> {
    let target = VoteTarget::commit(Epoch(1), View(height), hash_of(height));
    Arc::new(Certificate { target, signers: SignerSet::new(NODES), signature: BlsSignature([9; 96]) })
}

/// What the member that may lie does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    Silent,
    WrongShares,
    SharesOfAnotherBlock,
    WrongReveal,
    Truncated,
    Honest,
}

const LIES: [Lie; 6] =
    [Lie::Silent, Lie::WrongShares, Lie::SharesOfAnotherBlock, Lie::WrongReveal, Lie::Truncated, Lie::Honest];

struct Peer {
    core: Option<Reveals>,
    /// Blocks that are final at it, by height from 1.
    finals: u64,
    opened: BTreeMap<u64, Option<Arc<Reveal>>>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Event(std::cmp::Reverse<u64>, std::cmp::Reverse<u64>, usize);

struct Sim {
    rng: StdRng,
    now: u64,
    peers: Vec<Peer>,
    queue: BinaryHeap<Event>,
    payloads: BTreeMap<usize, (usize, usize, RevealMessage)>,
    next: usize,
    lie: Lie,
    accused: BTreeSet<NodeId>,
    /// Heights of which honest shares were seen.
    shared: BTreeSet<u64>,
    final_anywhere: u64,
    cut: Option<usize>,
    loss: f64,
}

const LIAR: usize = 2;
/// From here on nothing is lost and nobody crashes.
const CALM: u64 = 20_000;
const END: u64 = 40_000;

impl Sim {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let lie = LIES[rng.random_range(0..LIES.len())];
        let loss = [0.0, 0.1, 0.4][rng.random_range(0..3)];
        let mut sim = Self {
            rng,
            now: 0,
            peers: Vec::new(),
            queue: BinaryHeap::new(),
            payloads: BTreeMap::new(),
            next: 0,
            lie,
            accused: BTreeSet::new(),
            shared: BTreeSet::new(),
            final_anywhere: 0,
            cut: None,
            loss,
        };
        for i in 0..NODES {
            sim.peers.push(Peer { core: None, finals: 0, opened: BTreeMap::new() });
            sim.boot(i);
        }
        sim
    }

    /// Starts with what is on disk: executed blocks are done, final ones above are handed in again.
    fn boot(&mut self, i: usize) {
        let done = self.peers[i].opened.len() as u64;
        let mut core = Reveals::new(context(), node(i), 500, Height(done + 1));
        for (height, reveal) in &self.peers[i].opened {
            if let Some(reveal) = reveal {
                core.remember(Arc::clone(reveal));
                assert_eq!(reveal.height.0, *height);
            }
        }
        let mut effects = core.on_keys(holder(i), &mut self.rng);
        for height in done + 1..=self.peers[i].finals {
            effects.extend(core.on_final(TimestampMs(self.now), self.final_block(i, height), &mut self.rng));
        }
        self.peers[i].core = Some(core);
        self.execute(i, effects);
    }

    /// A final block carries what opened the block three below, as far as any honest node knows it.
    fn final_block(&self, _: usize, height: u64) -> FinalBlock {
        let carried = height.checked_sub(3).and_then(|h| {
            let honest = self.peers.iter().enumerate().filter(|(i, _)| *i != LIAR);
            honest.filter_map(|(_, peer)| peer.opened.get(&h)?.as_ref()).next().map(|reveal| reveal.as_ref().clone())
        });
        FinalBlock {
            height: Height(height),
            epoch: Epoch(1),
            committee_root: holder(0).committee_root(),
            hash: hash_of(height),
            certificate: certificate(height),
            bases: chain().blocks[height as usize - 1].clone(),
            reveals: carried.into_iter().collect(),
        }
    }

    fn execute(&mut self, i: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Broadcast(message) => {
                    for to in (0..NODES).filter(|&to| to != i) {
                        self.send(i, to, message.clone());
                    }
                }
                Effect::Send(to, message) => {
                    let to = (0..NODES).find(|&n| node(n) == to).expect("a node");
                    self.send(i, to, message);
                }
                Effect::Revealed(height, opening) => {
                    let reveal = opening.map(|opening| opening.reveal);
                    assert_eq!(height.0, self.peers[i].opened.len() as u64 + 1, "in order");
                    assert_eq!(reveal.is_some(), chain().blocks[height.0 as usize - 1].is_some());
                    for other in self.peers.iter().filter_map(|peer| peer.opened.get(&height.0)) {
                        assert_eq!(*other, reveal, "all come to the same at height {height}");
                    }
                    self.peers[i].opened.insert(height.0, reveal);
                }
                Effect::Misbehaved(who, what) => {
                    assert_eq!(who, node(LIAR), "nobody else is accused: {what}");
                    self.accused.insert(who);
                }
                Effect::Contradiction(height) => panic!("an honest block contradicts the keys at {height}"),
            }
        }
    }

    /// What the liar makes of its own messages; others say what they mean.
    fn twist(&mut self, from: usize, message: RevealMessage) -> Option<RevealMessage> {
        if from != LIAR {
            return Some(message);
        }
        Some(match (self.lie, message) {
            (Lie::Silent, _) => return None,
            (Lie::WrongShares, RevealMessage::Shares(shares, c)) => {
                let wrong = chain().secrets[0].clone();
                let bases = chain().blocks[shares.height.0 as usize - 1].clone().unwrap_or_default();
                let place = (Fork(0), shares.height, shares.block);
                let beacon = G1Affine::generator();
                let made = BlockShares::create(place, &wrong, &beacon, &bases);
                RevealMessage::Shares(Arc::new(BlockShares { member: shares.member, ..made }), c)
            }
            (Lie::SharesOfAnotherBlock, RevealMessage::Shares(shares, c)) => {
                RevealMessage::Shares(Arc::new(BlockShares { block: hash_of(0), ..shares.as_ref().clone() }), c)
            }
            (Lie::Truncated, RevealMessage::Shares(shares, c)) => {
                let cut = shares.decryption.len() / 2 / 96 * 96;
                let decryption = shares.decryption.slice(..cut);
                let beacon = Bytes::new();
                RevealMessage::Shares(Arc::new(BlockShares { decryption, beacon, ..shares.as_ref().clone() }), c)
            }
            (Lie::WrongReveal, RevealMessage::Reveal(reveal)) => {
                let values = reveal.values.iter().map(|_| G1Affine::generator().to_compressed()).collect();
                RevealMessage::Reveal(Arc::new(Reveal { values, beacon: [3; 48], height: reveal.height }))
            }
            (_, message) => message,
        })
    }

    fn send(&mut self, from: usize, to: usize, message: RevealMessage) {
        if let RevealMessage::Shares(shares, _) = &message
            && from != LIAR
        {
            assert!(shares.height.0 <= self.peers[from].finals, "no share before a commit certificate");
            self.shared.insert(shares.height.0);
        }
        let Some(message) = self.twist(from, message) else { return };
        let cut = self.cut.is_some_and(|cut| (from == cut) != (to == cut));
        if self.now < CALM && (cut || self.rng.random_bool(self.loss)) {
            return;
        }
        let at = self.now + self.rng.random_range(1..if self.now < CALM { 800 } else { 50 });
        self.next += 1;
        self.payloads.insert(self.next, (from, to, message));
        self.queue.push(Event(std::cmp::Reverse(at), std::cmp::Reverse(self.next as u64), self.next));
    }

    fn deliver(&mut self, id: usize) {
        let Some((from, to, message)) = self.payloads.remove(&id) else { return };
        if let Some(mut core) = self.peers[to].core.take() {
            let effects = core.on_message(node(from), message, &mut self.rng);
            self.peers[to].core = Some(core);
            self.execute(to, effects);
        }
    }

    /// A tenth of a second: blocks become final, nodes crash and start, links are cut and healed.
    fn step(&mut self) {
        let calm = self.now >= CALM;
        if self.now.is_multiple_of(1000) && !calm {
            self.cut = self.rng.random_bool(0.4).then(|| self.rng.random_range(0..NODES));
            let i = self.rng.random_range(0..NODES);
            if self.peers[i].core.is_some() && self.rng.random_bool(0.3) {
                self.peers[i].core = None;
            }
        }
        for i in 0..NODES {
            if self.peers[i].core.is_none() {
                if calm || self.rng.random_bool(0.1) {
                    self.boot(i);
                }
                continue;
            }
            let more = self.peers[i].finals < chain().blocks.len() as u64;
            if more && (calm || self.rng.random_bool(0.05)) {
                self.peers[i].finals += 1;
                self.final_anywhere = self.final_anywhere.max(self.peers[i].finals);
                let block = self.final_block(i, self.peers[i].finals);
                let mut core = self.peers[i].core.take().expect("it runs");
                let effects = core.on_final(TimestampMs(self.now), block, &mut self.rng);
                self.peers[i].core = Some(core);
                self.execute(i, effects);
            }
            let Some(mut core) = self.peers[i].core.take() else { continue };
            let effects = core.tick(TimestampMs(self.now));
            self.peers[i].core = Some(core);
            self.execute(i, effects);
        }
    }

    fn run(mut self) -> Self {
        while self.now < END {
            let before = self.now + 100;
            while self.queue.peek().is_some_and(|event| event.0.0 < before) {
                let event = self.queue.pop().expect("it was there");
                self.now = self.now.max(event.0.0);
                self.deliver(event.2);
            }
            self.now = before;
            self.step();
            let done = chain().blocks.len();
            if self.now > CALM && (0..NODES).filter(|&i| i != LIAR).all(|i| self.peers[i].opened.len() == done) {
                return self;
            }
        }
        self
    }
}

/// Seeds of a run; more by hand with CASCADE_SEEDS.
fn seeds() -> u64 {
    std::env::var("CASCADE_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60)
}

#[test]
fn every_final_block_is_opened_whatever_f_seats_and_the_network_do() {
    let mut accused = BTreeMap::new();
    for seed in 0..seeds() {
        let sim = Sim::new(seed).run();
        for i in (0..NODES).filter(|&i| i != LIAR) {
            let opened = sim.peers[i].opened.len();
            assert_eq!(opened, chain().blocks.len(), "seed {seed}, {:?}: node {i} opened {opened} blocks", sim.lie);
        }
        *accused.entry(format!("{:?}", sim.lie)).or_insert(0) += sim.accused.len();
    }
    // Wrong values and shares of another form are noticed in some run; silence and honesty never.
    for lie in [Lie::WrongShares, Lie::SharesOfAnotherBlock, Lie::Truncated] {
        assert!(accused[&format!("{lie:?}")] > 0, "{accused:?}");
    }
    for lie in [Lie::Silent, Lie::Honest] {
        assert_eq!(accused[&format!("{lie:?}")], 0, "{accused:?}");
    }
}

/// A block's header binds its epoch's keys. With those of a committee that was made anew since, nothing is opened, refused
/// or blamed on anybody: it waits for the right ones.
#[test]
fn keys_of_another_committee_open_nothing_and_blame_nobody() {
    let mut rng = StdRng::seed_from_u64(16);
    let world = Generation::complete(17);
    let stale = Arc::new(world.book.generation().unwrap().keys().unwrap().clone());
    let stale = Holder::new(stale, Arc::clone(&world.next), Some(Arc::new(world.shares(0).unwrap())));
    assert_eq!(stale.keys.epoch, holder(0).keys.epoch);
    assert_ne!(stale.committee_root(), holder(0).committee_root());
    let mut core = Reveals::new(context(), node(0), 500, Height(1));
    assert_eq!(core.on_keys(stale, &mut rng), []);
    let block = |height: u64| FinalBlock {
        height: Height(height),
        epoch: Epoch(1),
        committee_root: holder(0).committee_root(),
        hash: hash_of(height),
        certificate: certificate(height),
        bases: chain().blocks[height as usize - 1].clone(),
        reveals: Vec::new(),
    };
    // What opens block 1, from a peer that has the right keys.
    let mut peer = Reveals::new(context(), node(1), 500, Height(1));
    let _ = peer.on_keys(holder(1), &mut rng);
    let said = peer.on_final(TimestampMs(1), block(1), &mut rng);
    let [Effect::Broadcast(RevealMessage::Shares(shares, _))] = said.as_slice() else { panic!("{said:?}") };
    assert_eq!(core.on_final(TimestampMs(1), block(1), &mut rng), [], "it makes no shares with other keys");
    let message = RevealMessage::Shares(Arc::clone(shares), certificate(1));
    assert_eq!(core.on_message(node(1), message, &mut rng), [], "and blames nobody for right ones");
    let from_another = RevealMessage::Shares(
        Arc::new(BlockShares::create(
            (Fork(0), Height(1), hash_of(1)),
            &chain().secrets[2],
            &beacon::base(&beacon::message(&context(), Epoch(1), Height(1), hash_of(1))),
            chain().blocks[0].as_ref().unwrap(),
        )),
        certificate(1),
    );
    assert_eq!(core.on_message(node(2), from_another, &mut rng), []);
    let effects = core.on_keys(holder(0), &mut rng);
    assert!(matches!(effects.first(), Some(Effect::Broadcast(RevealMessage::Shares(..)))), "{effects:?}");
    assert!(
        matches!(effects.last(), Some(Effect::Revealed(Height(1), Some(_)))),
        "what came before counts: {effects:?}"
    );
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Misbehaved(..) | Effect::Contradiction(_))));
}

#[test]
fn one_seat_less_than_a_quorum_opens_nothing() {
    let mut sim = Sim::new(1);
    sim.lie = Lie::Silent;
    sim.loss = 0.0;
    // Besides the silent member another one is away for good: q - 1 seats are left.
    sim.peers[3].core = None;
    sim.now = CALM;
    for _ in 0..100 {
        sim.now += 100;
        while let Some(event) = sim.queue.pop() {
            sim.deliver(event.2);
        }
        for i in [0, 1] {
            if sim.peers[i].finals < chain().blocks.len() as u64 {
                sim.peers[i].finals += 1;
                let block = sim.final_block(i, sim.peers[i].finals);
                let mut core = sim.peers[i].core.take().unwrap();
                let effects = core.on_final(TimestampMs(sim.now), block, &mut sim.rng);
                sim.peers[i].core = Some(core);
                sim.execute(i, effects);
            }
        }
    }
    assert_eq!(sim.peers[0].opened.len() + sim.peers[1].opened.len(), 0);
}

#[test]
fn blocks_that_can_carry_nothing_are_no_chance_to_announce_a_key() {
    // Three of four announce. Then finality is away: blocks are made, and none of them may carry the fourth's key.
    let mut world = Generation::new(6);
    let items = (0..3).map(|i| world.announcement(i)).collect();
    world.feed(items);
    let away = 4 * world.window;
    let newest = world.last;
    for _ in 0..away {
        world.height += 1;
        let block = chained(world.height, &world.next, Vec::new(), newest);
        world.book.on_final(&block, (&world.dealers, &world.next), &mut |_, _| unreachable!("nobody has dealt"));
    }
    assert!(world.book.generation().is_none(), "the fourth had no chance");
    // Finality is back, and the fourth's key is in the first block that can carry it.
    let item = world.announcement(3);
    let block = chained(world.height + 1, &world.next, vec![item], newest);
    world.book.on_final(&block, (&world.dealers, &world.next), &mut |_, _| unreachable!("nobody has dealt"));
    let parameters = world.book.generation().expect("all have announced").parameters().clone();
    assert!(!parameters.recipient_keys.contains(&cascade_mempool::keybook::absent_key()));
}

/// A block that carries a commit certificate of this one.
fn chained(height: u64, next: &Committee, system: Vec<SystemItem>, commit: Option<BlockHash>) -> SealedBlock {
    let block = block(height, 0, next, system);
    let mut body = block.body.clone();
    body.certificates.commit = commit.map(|hash| Certificate {
        target: VoteTarget::commit(Epoch(0), View(height), hash),
        signers: SignerSet::new(NODES),
        signature: BlsSignature([9; 96]),
    });
    let header = Header { body_root: body.root(), ..block.header.clone() };
    SealedBlock::new(Block { header, body })
}

#[test]
fn a_peer_that_gives_out_its_dealing_of_the_epoch_before_is_not_taken_for_a_forger() {
    let mut world = Generation::new(7);
    let items = (0..NODES).map(|i| world.announcement(i)).collect();
    world.feed(items);
    let item = world.dealing(0);
    assert!(!world.book.is_not_of(&item, &node(0)));
    assert!(world.book.is_not_of(&item, &node(1)), "another's");
    // The epoch that the dealing was for has begun, and its committee has another order.
    let (dealers, recipients) = (committee(1, (0..NODES).rev()), committee(2, 0..NODES));
    let params = ChainParams { key_window: 5, ..ChainParams::of(Network::Regtest) };
    let scheme = Arc::new(BlsScheme::default());
    let later = KeyBook::new(context(), &params, scheme, Height(9), dealers, recipients);
    assert_eq!(later.author(&item), Some(node(3)), "that is who has the place now");
    assert!(!later.is_not_of(&item, &node(0)) && !later.is_open(&item));
    assert!(later.is_not_of(&SystemItem::Dealing(Bytes::from_static(b"garbage")), &node(0)));
}
