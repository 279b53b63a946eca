//! Key generation through final blocks, with members that are away, made anew, or send what is of no use.

use std::sync::Arc;

use cascade_crypto::{
    BlsScheme, BlsSecretKey, VoteSigner,
    curve::G1Affine,
    dkg::{Dealing, DealingError, KeyGeneration, RecipientSecret, dealing},
    threshold::{EncryptionScheme as _, Label, SeatMap, SecretShares, Tdh2},
};
use cascade_mempool::keybook::{KeyBook, KeyProgress, Offer};
use cascade_primitives::{
    Address, B256, Block, BlockHash, BlsSignature, Body, Bytes, Certificate, ChainId, ChainParams, Committee,
    Encode as _, Epoch, Fork, Header, HeaderKind, Height, L1Origin, Member, MemberIndex, Network, NodeId, SealedBlock,
    Seats, SignerSet, SigningContext, SystemItem, ThresholdKeys, TimestampMs, View, VoteTarget,
};
use rand::{SeedableRng as _, rngs::StdRng};

pub const NODES: usize = 4;

pub fn context() -> SigningContext {
    SigningContext { chain_id: ChainId(20252), genesis_hash: B256::repeat_byte(7), fork: Fork(0) }
}

fn voting(i: usize) -> BlsSecretKey {
    BlsSecretKey::derive(&[i as u8 + 1; 32]).unwrap()
}

pub fn node(i: usize) -> NodeId {
    NodeId([i as u8 + 1; 32])
}

pub fn committee(epoch: u64, members: impl IntoIterator<Item = usize>) -> Arc<Committee> {
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
pub struct Generation {
    pub book: KeyBook,
    pub dealers: Arc<Committee>,
    pub next: Arc<Committee>,
    pub height: u64,
    pub secrets: Vec<RecipientSecret>,
    pub rng: StdRng,
    pub window: u64,
    /// The newest block.
    pub last: Option<BlockHash>,
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

    pub fn shares(&self, i: usize) -> Option<SecretShares> {
        self.book.shares(&node(i), &self.secrets[i])
    }

    /// All announce, q deal.
    pub fn complete(seed: u64) -> Self {
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

pub const LABEL: Label = Label(B256::repeat_byte(3));

pub fn seal(
    key: &cascade_crypto::threshold::EncryptionKey,
    rng: &mut StdRng,
) -> (cascade_crypto::threshold::Ciphertext, G1Affine) {
    let sealed = Tdh2.seal(key, &LABEL, b"payload", rng).unwrap();
    let base = Tdh2.check(key, &[(&sealed, LABEL)], rng)[0].unwrap();
    (sealed, base)
}
