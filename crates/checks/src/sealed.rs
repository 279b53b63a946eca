//! Envelopes, deposits, and what makes and opens them: recipient keys, dealings, shares, reveals.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use cascade_crypto::{
    BlsScheme, BlsSecretKey, VoteSigner as _,
    curve::G1Affine,
    dkg::{Dealing, RecipientKey, RecipientSecret, dealing},
    ecdsa::{SecretKey, public_address, recover_item},
    envelope::{self, Terms},
    threshold::{BlockShares, EpochKeys, SecretShares},
};
use cascade_mempool::{
    gossip::{decode_system_item, encode_system_item},
    keybook::KeyBook,
    reveal::{Effect, FinalBlock, Holder, RevealMessage, Reveals},
};
use cascade_primitives::{
    Address, B256, Block, BlockHash, BlsSignature, Body, Certificate, ChainId, ChainParams, Committee, Encode as _,
    Epoch, Fork, Header, HeaderKind, Height, Item, L1Origin, Member, MemberIndex, Network, NodeId, RecoveredItem,
    Reveal, SealedBlock, Seats, SignerSet, SigningContext, SystemItem, ThresholdKeys, TimestampMs, View, VoteTarget,
};
use rand::{SeedableRng as _, rngs::StdRng};

use crate::{canonical::canonical, source::Source};

const CONTEXT: SigningContext =
    SigningContext { chain_id: ChainId(20252), genesis_hash: B256::repeat_byte(7), fork: Fork(0) };
const HEIGHT: Height = Height(9);
const BLOCK: BlockHash = BlockHash([9; 32]);

/// A committee of one whose keys are made by the real key generation, once for the process.
struct World {
    params: ChainParams,
    committee: Arc<Committee>,
    keys: Arc<EpochKeys>,
    secret: Arc<SecretShares>,
    dealing: Dealing,
    recipient: RecipientKey,
    book: KeyBook,
    base: G1Affine,
    /// What opens the block of one envelope with this base.
    reveal: Reveal,
}

fn block(height: u64, next: &Committee, system: Vec<SystemItem>) -> SealedBlock {
    let body = Body { system, ..Body::default() };
    let header = Header {
        version: 1,
        kind: HeaderKind::Block,
        chain_id: CONTEXT.chain_id,
        genesis_hash: CONTEXT.genesis_hash,
        fork: CONTEXT.fork,
        epoch: Epoch(0),
        view: View(height),
        height: Height(height),
        parent: BlockHash([1; 32]),
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

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let mut rng = StdRng::seed_from_u64(1);
        let voting = BlsSecretKey::derive(&[5; 32]).expect("32 bytes are enough");
        let node = NodeId([1; 32]);
        let committee = |epoch| {
            let member =
                Member { node, bls_key: voting.public_key(), address: Address::ZERO, seats: Seats(1), lead_weight: 1 };
            Arc::new(Committee::new(Epoch(epoch), vec![member], ThresholdKeys::default()).expect("one member"))
        };
        let (dealers, next) = (committee(0), committee(1));
        let params = ChainParams::of(Network::Regtest);
        let scheme = Arc::new(BlsScheme::default());
        let mut book = KeyBook::new(CONTEXT, &params, scheme, Height(1), Arc::clone(&dealers), Arc::clone(&next));
        let own = RecipientSecret::generate(Epoch(1), &mut rng);
        let recipient = own.announce(&CONTEXT, (next.members_root(), node), &voting, &mut rng);
        let mut checks = StdRng::seed_from_u64(2);
        let mut feed = |book: &mut KeyBook, height, item| {
            book.on_final(&block(height, &next, vec![item]), (&dealers, &next), &mut |generation, dealing| {
                generation.verify(dealing, &BlsScheme::default(), &mut checks)
            });
        };
        feed(&mut book, 1, SystemItem::RecipientKey(recipient.to_bytes().into()));
        let open = book.clone();
        let generation = book.generation().expect("its recipient has announced");
        let dealing = dealing::deal(generation.parameters(), MemberIndex(0), &voting, &mut rng);
        feed(&mut book, 2, SystemItem::Dealing(dealing.to_bytes().into()));
        let keys = book.generation().and_then(|g| g.keys()).expect("its dealer has dealt").clone();
        let secret = Arc::new(book.shares(&node, &own).expect("it is the recipient"));
        let mut built = World {
            params,
            committee: next,
            keys: Arc::new(keys),
            secret,
            dealing,
            recipient,
            book: open,
            base: G1Affine::generator(),
            reveal: Reveal { height: HEIGHT, beacon: [0; 48], values: Vec::new() },
        };
        let envelope = seal(&built, b"transaction", 7, &mut rng);
        let RecoveredItem::Envelope(envelope) = envelope else { unreachable!("it was sealed") };
        let key = built.keys.decryption.encryption_key();
        let checked = envelope::check(&key, &CONTEXT, &[&envelope], &mut rng).remove(0).expect("it is sealed rightly");
        built.base = *checked.base();
        let (_, effects) = reveals(&built, true);
        let found = effects.into_iter().find_map(|effect| match effect {
            Effect::Revealed(_, opening) => opening.map(|opening| opening.reveal.as_ref().clone()),
            _ => None,
        });
        built.reveal = found.expect("one seat is a quorum of one");
        built
    })
}

fn payer() -> SecretKey {
    SecretKey::from_byte_array([3; 32]).expect("a small number is a key")
}

fn seal(world: &World, transaction: &[u8], nonce: u64, rng: &mut StdRng) -> RecoveredItem {
    let gas_limit = Terms::gas_for(transaction.len(), 21_000).expect("it is small enough");
    let terms = Terms {
        epoch: Epoch(1),
        nonce,
        gas_limit,
        max_fee_per_gas: 5,
        max_priority_fee_per_gas: 1,
        valid_until: Height(100),
    };
    let key = world.keys.decryption.encryption_key();
    let sealed = envelope::seal(&key, &CONTEXT, &terms, transaction, &payer(), rng).expect("it is small enough");
    RecoveredItem::Envelope(Box::new(sealed))
}

/// A node that waits for a block of one envelope, with its shares or without.
fn reveals(world: &World, with_secret: bool) -> (Reveals, Vec<Effect>) {
    let mut rng = StdRng::seed_from_u64(4);
    let mut core = Reveals::new(CONTEXT, NodeId([1; 32]), 1000, HEIGHT);
    let secret = with_secret.then(|| Arc::clone(&world.secret));
    let holder = Holder::new(Arc::clone(&world.keys), Arc::clone(&world.committee), secret);
    let committee_root = holder.committee_root();
    let mut effects = core.on_keys(holder, &mut rng);
    let target = VoteTarget::commit(Epoch(1), View(1), BLOCK);
    let certificate = Certificate { target, signers: SignerSet::new(1), signature: BlsSignature([1; 96]) };
    let block = FinalBlock {
        height: HEIGHT,
        epoch: Epoch(1),
        committee_root,
        hash: BLOCK,
        certificate: Arc::new(certificate),
        bases: Some(vec![world.base]),
        reveals: Vec::new(),
    };
    effects.extend(core.on_final(TimestampMs(1), block, &mut rng));
    (core, effects)
}

/// Target `sealed`.
///
/// # Panics
/// If a rule is broken.
pub fn check(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else { return };
    match choice % 6 {
        0 => check_item(bytes),
        1 => check_dealing(bytes),
        2 => check_recipient(bytes),
        3 => check_message(bytes),
        4 => check_system(bytes),
        _ => check_own(&mut Source::new(bytes)),
    }
}

fn check_item(bytes: &[u8]) {
    let world = world();
    let decoded = canonical::<Item>(bytes);
    let raw = Bytes::copy_from_slice(bytes);
    let Ok(item) = recover_item(raw.clone(), &CONTEXT, &world.params) else { return };
    assert!(decoded.is_some() && *item.raw() == raw);
    let again = recover_item(raw, &CONTEXT, &world.params).expect("it was one before");
    assert_eq!(item.hash(), again.hash());
    if let RecoveredItem::Envelope(envelope) = item {
        let key = world.keys.decryption.encryption_key();
        let _ = envelope::check(&key, &CONTEXT, &[&envelope], &mut StdRng::seed_from_u64(6)).remove(0);
    }
}

fn check_dealing(bytes: &[u8]) {
    let decoded = canonical::<Dealing>(bytes);
    let wanted = world().book.parse_dealing(bytes);
    assert!(wanted.is_none() || decoded == wanted);
}

fn check_recipient(bytes: &[u8]) {
    let Some(key) = canonical::<RecipientKey>(bytes) else { return };
    let world = world();
    let voting = &world.committee.members()[0].bls_key;
    if key.verify(&CONTEXT, &BlsScheme::default(), voting).is_some() {
        assert_eq!(key, world.recipient, "nobody else can announce a key under this name");
    }
}

fn check_message(bytes: &[u8]) {
    let Some(message) = canonical::<RevealMessage>(bytes) else { return };
    let world = world();
    let (mut core, _) = reveals(world, false);
    let mut rng = StdRng::seed_from_u64(8);
    for from in [NodeId([1; 32]), NodeId([2; 32])] {
        for effect in core.on_message(from, message.clone(), &mut rng) {
            if let Effect::Revealed(height, opening) = effect {
                let opening = opening.expect("the block has an envelope");
                assert_eq!((height, opening.reveal.as_ref()), (HEIGHT, &world.reveal), "only the truth opens");
            }
        }
    }
}

fn check_system(bytes: &[u8]) {
    let item = Bytes::copy_from_slice(bytes);
    if let Ok(Some(system)) = decode_system_item(&item) {
        assert_eq!(encode_system_item(&system), item);
        let _ = world().book.is_open(&system);
    }
}

fn check_own(source: &mut Source<'_>) {
    let world = world();
    let mut rng = StdRng::seed_from_u64(source.number());
    let (nonce, transaction) = (source.number(), source.bytes(600));
    let item = seal(world, &transaction, nonce, &mut rng);
    let raw = item.raw().clone();
    check_item(&raw);
    let RecoveredItem::Envelope(envelope) = &item else { unreachable!("it was sealed") };
    assert_eq!(envelope.payer(), public_address(&payer()));
    let key = world.keys.decryption.encryption_key();
    let sealed = envelope::check(&key, &CONTEXT, &[envelope], &mut rng).remove(0);
    assert!(sealed.is_ok(), "what was sealed rightly checks");
    // One changed byte: refused, or another payer's, under whom the ciphertext does not check.
    let mut changed = raw.to_vec();
    let at = source.below(changed.len());
    changed[at] ^= 1 << source.below(8);
    if let Ok(RecoveredItem::Envelope(other)) = recover_item(changed.into(), &CONTEXT, &world.params)
        && other.payer() != envelope.payer()
    {
        let sealed = envelope::check(&key, &CONTEXT, &[&other], &mut rng).remove(0);
        assert!(sealed.is_err(), "a ciphertext is bound to its payer");
    }
}

/// Inputs from which fuzzing starts.
#[must_use]
pub fn seeds() -> Vec<(u8, Vec<u8>)> {
    let world = world();
    let item = seal(world, &[2; 100], 3, &mut StdRng::seed_from_u64(5));
    let target = VoteTarget::commit(Epoch(1), View(1), BLOCK);
    let certificate = Certificate { target, signers: SignerSet::new(1), signature: BlsSignature([1; 96]) };
    let place = (CONTEXT.fork, HEIGHT, BLOCK);
    let shares = BlockShares::create(place, &world.secret, &G1Affine::generator(), &[world.base]);
    let system = encode_system_item(&SystemItem::RecipientKey(world.recipient.to_bytes().into()));
    vec![
        (0, item.raw().to_vec()),
        (1, world.dealing.to_bytes()),
        (2, world.recipient.to_bytes()),
        (3, RevealMessage::Shares(Arc::new(shares), Arc::new(certificate)).to_bytes()),
        (3, RevealMessage::Reveal(Arc::new(world.reveal.clone())).to_bytes()),
        (3, RevealMessage::Request(HEIGHT).to_bytes()),
        (4, system.to_vec()),
        (5, (0..64).collect()),
    ]
}
