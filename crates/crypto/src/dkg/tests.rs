//! Key generation against dealers and recipients that lie, copy, withhold and fall silent.

use cascade_primitives::{B256, ChainId, Decode, Encode, Epoch, Fork, MemberIndex, NodeId, SigningContext};
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;

use super::{
    dealing::{DealingError, INSTANCES, Instance, KEYS},
    polynomial::Polynomial,
    *,
};
use crate::{
    BlsScheme, BlsSecretKey, VoteSigner as _,
    curve::{G1, G2, Scalar},
    threshold::{BlockShares, EncryptionScheme as _, Label, MemberShares, SeatMap, SecretShares, Tdh2, beacon},
};

struct World {
    parameters: Parameters,
    dealers: Vec<BlsSecretKey>,
    recipients: Vec<RecipientSecret>,
    rng: ChaCha20Rng,
}

const EPOCH: Epoch = Epoch(5);

fn context() -> SigningContext {
    SigningContext { chain_id: ChainId(20252), genesis_hash: B256::repeat_byte(1), fork: Fork(0) }
}

impl World {
    fn new(dealers: &[u32], recipients: &[u32], seed: u64) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let voting: Vec<BlsSecretKey> =
            (0..dealers.len()).map(|i| BlsSecretKey::derive(&[i as u8 + 1; 32]).unwrap()).collect();
        let secrets: Vec<RecipientSecret> =
            recipients.iter().map(|_| RecipientSecret::generate(EPOCH, &mut rng)).collect();
        let parameters = Parameters::new(
            context(),
            EPOCH,
            (SeatMap::new(dealers).unwrap(), voting.iter().map(|k| k.public_key()).collect()),
            (SeatMap::new(recipients).unwrap(), secrets.iter().map(RecipientSecret::public_key).collect()),
        )
        .unwrap();
        Self { parameters, dealers: voting, recipients: secrets, rng }
    }

    fn deal(&mut self, dealer: u16) -> Dealing {
        dealing::deal(&self.parameters, MemberIndex(dealer), &self.dealers[dealer as usize], &mut self.rng)
    }

    /// A dealing whose dealer tampers with its instances before it commits to them.
    fn tampered(&mut self, dealer: u16, tamper: impl Fn(usize, &mut Instance)) -> Dealing {
        let quorum = self.parameters.recipients.quorum() as usize;
        let polynomials = std::array::from_fn(|_| Polynomial::random(quorum, &mut self.rng));
        let dealer = MemberIndex(dealer);
        let (shares, mut instances) = dealing::instances(&self.parameters, dealer, &polynomials, &mut self.rng);
        for (number, instance) in instances.iter_mut().enumerate() {
            tamper(number, instance);
        }
        let signer = &self.dealers[dealer.index()];
        dealing::finish(&self.parameters, dealer, signer, &polynomials, &shares, &instances)
    }

    fn verify(&mut self, dealing: &Dealing) -> Result<VerifiedDealing, DealingError> {
        dealing::verify(&self.parameters, dealing, &BlsScheme::default(), &mut self.rng)
    }

    fn generation(&self) -> KeyGeneration {
        KeyGeneration::new(self.parameters.clone())
    }

    fn apply(&mut self, generation: &mut KeyGeneration, dealing: &Dealing) -> Result<Progress, Refusal> {
        generation.apply(dealing, &BlsScheme::default(), &mut self.rng)
    }

    fn shares(&self, generation: &KeyGeneration) -> Vec<SecretShares> {
        (0..self.recipients.len())
            .map(|m| generation.shares(MemberIndex(m as u16), &self.recipients[m]).expect("every recipient has shares"))
            .collect()
    }

    /// Every recipient has its shares of both keys, and the first q seats of them open and shuffle.
    fn works(&mut self, generation: &KeyGeneration) {
        let keys = generation.keys().expect("the keys are complete").clone();
        let map = self.parameters.recipients.clone();
        let shares = self.shares(generation);
        for shares in &shares {
            assert!(shares.belong_to(&keys, &map));
        }
        let label = Label(B256::repeat_byte(2));
        let key = keys.decryption.encryption_key();
        let sealed = Tdh2.seal(&key, &label, b"hello", &mut self.rng).unwrap();
        let bases = vec![Tdh2.check(&key, &[(&sealed, label)], &mut self.rng)[0].unwrap()];
        let block = (Fork(0), cascade_primitives::Height(1), cascade_primitives::BlockHash([1; 32]));
        let message = beacon::message(&context(), EPOCH, block.1, block.2);
        let base = beacon::base(&message);
        let messages: Vec<BlockShares> = shares.iter().map(|s| BlockShares::create(block, s, &base, &bases)).collect();
        let read =
            |m: &BlockShares, bytes: &[u8]| MemberShares::from_wire(m.member, map.seats(m.member), 1, bytes).unwrap();
        let opening: Vec<MemberShares> = messages.iter().map(|m| read(m, &m.decryption)).collect();
        let values = Tdh2.combine(&keys.decryption, &bases, &opening, &mut self.rng).values.unwrap();
        assert_eq!(Tdh2.open(&sealed, &label, &values[0]).unwrap().as_ref(), b"hello");
        let signing: Vec<MemberShares> = messages.iter().map(|m| read(m, &m.beacon)).collect();
        let signature = Tdh2.combine(&keys.beacon, &[base], &signing, &mut self.rng).values.unwrap()[0];
        assert!(beacon::verify(keys.beacon.public_key(), &message, &signature.to_compressed()).is_some());
    }
}

fn again(dealing: &Dealing) -> Dealing {
    Dealing::from_slice(&dealing.to_bytes()).expect("what was encoded decodes")
}

#[test]
fn a_quorum_of_dealers_makes_keys_that_every_recipient_holds() {
    let mut world = World::new(&[1; 4], &[2, 1, 1, 1], 1);
    let mut generation = world.generation();
    for dealer in [2, 0] {
        let dealing = world.deal(dealer);
        assert!(!world.apply(&mut generation, &again(&dealing)).unwrap().complete());
        assert!(generation.keys().is_none() && generation.shares(MemberIndex(0), &world.recipients[0]).is_none());
    }
    let dealing = world.deal(3);
    assert_eq!(world.apply(&mut generation, &dealing), Ok(Progress { dealt: 3, needed: 3 }));
    let late = world.deal(1);
    assert_eq!(world.apply(&mut generation, &late), Err(Refusal::Complete));
    assert_eq!(generation.dealers().collect::<Vec<_>>(), [2, 0, 3].map(MemberIndex));
    world.works(&generation);
    let other = RecipientSecret::generate(EPOCH, &mut world.rng);
    assert_eq!(generation.shares(MemberIndex(0), &other), None, "another secret opens nothing");
    assert_eq!(generation.shares(MemberIndex(9), &world.recipients[0]), None);
}

#[test]
fn a_dealers_seats_all_count() {
    let mut world = World::new(&[3, 1, 1, 1], &[1; 4], 2);
    let mut generation = world.generation();
    let dealing = world.deal(0);
    assert_eq!(world.apply(&mut generation, &dealing), Ok(Progress { dealt: 3, needed: 5 }));
}

#[test]
fn a_recipient_that_was_away_throughout_reads_its_shares_from_the_log() {
    // One dealer lies and is refused, one is silent; then all dealers are gone and only the log is left.
    let mut world = World::new(&[1; 7], &[1; 4], 3);
    let mut log: Vec<Vec<u8>> = (0..5).map(|dealer| world.deal(dealer).to_bytes()).collect();
    log.insert(2, world.tampered(5, |_, instance| shift(instance, 0, false)).to_bytes());
    let mut secret = world.recipients[3].to_bytes();
    world.dealers.clear();
    let mut generation = world.generation();
    for item in &log {
        let _ = world.apply(&mut generation, &Dealing::from_slice(item).unwrap());
    }
    let restored = RecipientSecret::from_slice(&secret).unwrap();
    secret.fill(0);
    let shares = generation.shares(MemberIndex(3), &restored).unwrap();
    assert!(shares.belong_to(generation.keys().unwrap(), &world.parameters.recipients));
    world.works(&generation);
}

/// Moves one seat's padded share; with `pads` as well, the way a sealed instance would look right.
fn shift(instance: &mut Instance, place: usize, pads: bool) {
    let moved = Scalar::from_bytes(&instance.padded[place]).unwrap() + Scalar::ONE;
    instance.padded[place] = moved.to_bytes();
    if pads {
        instance.pads[place] += Scalar::ONE;
    }
}

#[test]
fn a_dealing_that_cheats_one_recipient_is_refused() {
    let mut world = World::new(&[1; 4], &[1; 4], 4);
    for place in [0, 7] {
        for pads in [false, true] {
            let everywhere = world.tampered(1, |_, instance| shift(instance, place, pads));
            assert_eq!(world.verify(&everywhere), Err(DealingError::Proof));
            let guessed = world.tampered(1, |number, instance| {
                if number < 30 {
                    shift(instance, place, pads);
                }
            });
            assert_eq!(world.verify(&guessed), Err(DealingError::Proof), "a guess at the 30 sealed instances");
        }
    }
}

#[test]
fn a_cheat_that_slips_through_in_some_instances_cheats_nobody() {
    let mut world = World::new(&[1], &[2, 1], 5);
    let mut accepted = 0;
    for number in 0..40 {
        let dealing = world.tampered(0, |at, instance| {
            if at == number {
                shift(instance, 2, true);
            }
        });
        if let Ok(verified) = world.verify(&dealing) {
            accepted += 1;
            for member in 0..2u16 {
                let shares = verified.open(&world.parameters, MemberIndex(member), &world.recipients[member as usize]);
                assert!(shares.is_some(), "the other 29 sealed instances are right");
            }
        }
    }
    assert!((1..20).contains(&accepted), "30 of 256 such dealings pass, {accepted} of 40 did");
}

#[test]
fn public_values_that_do_not_belong_together_are_refused() {
    let mut world = World::new(&[1; 4], &[1; 4], 6);
    let quorum = world.parameters.recipients.quorum() as usize;
    let honest: [Polynomial; KEYS] = std::array::from_fn(|_| Polynomial::random(quorum, &mut world.rng));
    let other: [Polynomial; KEYS] = std::array::from_fn(|_| Polynomial::random(quorum, &mut world.rng));
    let dealer = MemberIndex(0);
    let (shares, instances) = dealing::instances(&world.parameters, dealer, &honest, &mut world.rng);
    let dealing = dealing::finish(&world.parameters, dealer, &world.dealers[0], &other, &shares, &instances);
    assert_eq!(world.verify(&dealing), Err(DealingError::Consistency), "shares of another polynomial");
    let dealing = dealing::finish(&world.parameters, dealer, &world.dealers[0], &honest, &shares, &instances);
    assert!(world.verify(&dealing).is_ok());
    // A public key in G1 that is not the constant coefficient's.
    let swapped = dealing.with_public(1, &G1::generator().to_affine());
    let signed = swapped.signed(&world.parameters, &world.dealers[0]);
    assert_eq!(world.verify(&signed), Err(DealingError::Proof), "the challenge covers it");
}

#[test]
fn a_copied_dealing_counts_for_nobody_else() {
    let mut world = World::new(&[1; 4], &[1; 4], 7);
    let original = world.deal(0);
    let copy = original.with_dealer(MemberIndex(1));
    assert_eq!(world.verify(&copy), Err(DealingError::Signature));
    let copy = copy.signed(&world.parameters, &world.dealers[1]);
    assert_eq!(world.verify(&copy), Err(DealingError::Proof), "signed by the thief, it still proves nothing");
    let absent = original.with_dealer(MemberIndex(4));
    assert_eq!(world.verify(&absent), Err(DealingError::Dealer(MemberIndex(4))));

    let elsewhere = |change: &dyn Fn(&mut Parameters)| {
        let mut parameters = world.parameters.clone();
        change(&mut parameters);
        parameters
    };
    let places = [
        elsewhere(&|p| p.context.fork = Fork(1)),
        elsewhere(&|p| p.context.chain_id = ChainId(1)),
        elsewhere(&|p| p.context.genesis_hash = B256::ZERO),
        elsewhere(&|p| p.recipient_keys.swap(0, 1)),
    ];
    for parameters in places {
        let resigned = original.signed(&parameters, &world.dealers[0]);
        let answer = dealing::verify(&parameters, &resigned, &BlsScheme::default(), &mut world.rng);
        assert_eq!(answer, Err(DealingError::Proof), "even if its own dealer signs it there");
    }
    let mut parameters = world.parameters.clone();
    parameters.epoch = Epoch(6);
    let answer = dealing::verify(&parameters, &original, &BlsScheme::default(), &mut world.rng);
    assert_eq!(answer, Err(DealingError::Epoch { found: EPOCH, expected: Epoch(6) }));
    let verified = world.verify(&original).unwrap();
    parameters.epoch = EPOCH;
    parameters.context.fork = Fork(1);
    let mut generation = KeyGeneration::new(parameters);
    assert_eq!(generation.apply_verdict(MemberIndex(0), Ok(verified)), Err(Refusal::Elsewhere));
}

#[test]
fn the_first_signed_dealing_of_a_dealer_counts() {
    let mut world = World::new(&[1; 4], &[1; 4], 8);
    let mut generation = world.generation();
    let (first, second) = (world.deal(0), world.deal(0));
    let unsigned = first.signed(&world.parameters, &world.dealers[1]);
    assert_eq!(world.apply(&mut generation, &unsigned), Err(Refusal::Invalid(DealingError::Signature)));
    assert!(world.apply(&mut generation, &first).is_ok(), "another's forgery costs a dealer nothing");
    assert_eq!(world.apply(&mut generation, &second), Err(Refusal::Again(MemberIndex(0))));
    assert_eq!(world.apply(&mut generation, &first), Err(Refusal::Again(MemberIndex(0))));
    let (wrong, right) = (world.tampered(1, |_, instance| shift(instance, 0, true)), world.deal(1));
    assert_eq!(world.apply(&mut generation, &wrong), Err(Refusal::Invalid(DealingError::Proof)));
    assert_eq!(world.apply(&mut generation, &right), Err(Refusal::Again(MemberIndex(1))), "a liar has no second try");
    assert_eq!(generation.liars().collect::<Vec<_>>(), [MemberIndex(1)]);
    assert_eq!(generation.progress().dealt, 1);
}

#[test]
fn dealt_keys_are_those_of_the_summed_polynomials_of_threshold_crypto() {
    let mut world = World::new(&[1; 4], &[1; 5], 9);
    let mut generation = world.generation();
    let mut sum = threshold_crypto::poly::Poly::zero();
    for dealer in 0..3u16 {
        let polynomials: [Polynomial; KEYS] = std::array::from_fn(|_| Polynomial::random(4, &mut world.rng));
        sum += polynomials[0].poly();
        let signer = world.dealers[dealer as usize].clone();
        let dealing =
            dealing::deal_polynomials(&world.parameters, MemberIndex(dealer), &signer, &polynomials, &mut world.rng);
        world.apply(&mut generation, &dealing).unwrap();
    }
    let secret_set = threshold_crypto::SecretKeySet::from(sum.clone());
    let keys = generation.keys().unwrap();
    assert_eq!(keys.decryption.encryption_key().to_bytes(), secret_set.public_keys().public_key().to_bytes());
    for (seat, shares) in world.shares(&generation).iter().enumerate() {
        assert_eq!(shares.decryption()[0], polynomial::from_tc(sum.evaluate(seat as u64 + 1)));
        let key = G2::generator().times(&shares.decryption()[0]).to_affine();
        assert_eq!(keys.decryption.share_key(seat as u32), Some(&key));
    }
}

#[test]
fn an_encryption_key_is_announced_by_its_holder_alone() {
    let mut rng = ChaCha20Rng::seed_from_u64(10);
    let (signer, other) = (BlsSecretKey::derive(&[1; 32]).unwrap(), BlsSecretKey::derive(&[2; 32]).unwrap());
    let secret = RecipientSecret::generate(EPOCH, &mut rng);
    let item = secret.announce(&context(), (B256::repeat_byte(1), NodeId([1; 32])), &signer, &mut rng);
    let item = RecipientKey::from_slice(&item.to_bytes()).unwrap();
    let scheme = BlsScheme::default();
    let verify = |item: &RecipientKey, context: &SigningContext, key: &BlsSecretKey| {
        item.verify(context, &scheme, &key.public_key())
    };
    assert_eq!(verify(&item, &context(), &signer), Some(secret.public_key()));
    assert_eq!(verify(&item, &context(), &other), None);
    assert_eq!(verify(&item, &SigningContext { fork: Fork(1), ..context() }, &signer), None);
    let mut stolen = item;
    stolen.node = NodeId([2; 32]);
    stolen.signature = other.sign(&stolen.digest(&context()));
    assert_eq!(verify(&stolen, &context(), &other), None, "signed by the thief, who does not hold the key");
    let mut again = item;
    again.committee = B256::repeat_byte(2);
    again.signature = signer.sign(&again.digest(&context()));
    assert_eq!(verify(&again, &context(), &signer), None, "for a committee that was made anew");
    let mut epoch = item;
    epoch.epoch = Epoch(6);
    epoch.signature = signer.sign(&epoch.digest(&context()));
    assert_eq!(verify(&epoch, &context(), &signer), None, "a proof is for one epoch");
}

#[test]
fn parameters_need_a_key_for_everybody() {
    let world = World::new(&[1; 4], &[1; 4], 11);
    let p = world.parameters;
    let make = |dealer_keys: usize, recipient_keys: usize| {
        Parameters::new(
            p.context,
            p.epoch,
            (p.dealers.clone(), p.dealer_keys[..dealer_keys].to_vec()),
            (p.recipients.clone(), p.recipient_keys[..recipient_keys].to_vec()),
        )
        .map(|_| ())
    };
    assert_eq!(make(4, 4), Ok(()));
    assert_eq!(make(3, 4), Err(ParametersError::DealerKeys { found: 3, expected: 4 }));
    assert_eq!(make(4, 3), Err(ParametersError::RecipientKeys { found: 3, expected: 4 }));
}

/// One item of a random log. Member 3 is the liar; three of four are a quorum.
#[derive(Clone, Debug)]
enum Item {
    Honest(u16),
    Cheating(usize),
    Stolen(u16),
    Forged(u16),
}

fn item() -> impl Strategy<Value = Item> {
    prop_oneof![
        3 => (0u16..4).prop_map(Item::Honest),
        1 => (0usize..8).prop_map(Item::Cheating),
        1 => (0u16..3).prop_map(Item::Stolen),
        1 => (0u16..4).prop_map(Item::Forged),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Whatever the log holds and in which order: nodes agree, what is refused changes nothing, and once honest dealers
    /// of a quorum are in, every recipient has its shares, one that replays the log at the end too.
    #[test]
    fn random_logs_give_all_the_same_keys(seed: u64, items in prop::collection::vec(item(), 0..7)) {
        let mut world = World::new(&[1; 4], &[1; 4], seed);
        let mut log = Vec::new();
        for item in items.iter().cloned().chain((0..3).map(Item::Honest)) {
            log.push(match item {
                Item::Honest(dealer) => world.deal(dealer),
                Item::Cheating(place) => world.tampered(3, |_, i| shift(i, place, true)),
                Item::Stolen(from) => {
                    world.deal(from).with_dealer(MemberIndex(3)).signed(&world.parameters, &world.dealers[3])
                }
                Item::Forged(dealer) => world.deal(dealer).signed(&world.parameters, &world.dealers[3 - dealer as usize]),
            });
        }
        let (mut live, mut late) = (world.generation(), world.generation());
        let mut verdicts = Vec::new();
        for dealing in &log {
            let before = live.progress();
            let verdict = world.apply(&mut live, dealing);
            prop_assert!(verdict.is_ok() || live.progress() == before);
            verdicts.push(verdict);
        }
        for (dealing, verdict) in log.iter().zip(verdicts) {
            prop_assert_eq!(world.apply(&mut late, dealing), verdict);
        }
        prop_assert_eq!(live.keys(), late.keys());
        world.works(&late);
    }

    /// A changed bit anywhere, signed anew by the dealer itself: refused, or not even decoded.
    #[test]
    fn a_changed_bit_in_a_dealing_is_refused(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut world = World::new(&[1], &[1, 1], 12);
        let dealing = world.deal(0);
        let mut bytes = dealing.to_bytes();
        let at = at.index(bytes.len() - 96);
        bytes[at] ^= 1 << bit;
        if let Ok(changed) = Dealing::from_slice(&bytes) {
            prop_assert_eq!(changed.to_bytes(), bytes);
            prop_assert!(world.verify(&changed).is_err());
            if changed.dealer == MemberIndex(0) {
                prop_assert!(world.verify(&changed.signed(&world.parameters, &world.dealers[0])).is_err());
            }
        }
    }

    /// No bytes make the decoders panic.
    #[test]
    fn decoders_are_total(cut in 0usize..20_000, noise in prop::collection::vec((0usize..20_000, any::<u8>()), 0..4)) {
        let mut world = World::new(&[1], &[1], 13);
        let mut bytes = world.deal(0).to_bytes();
        bytes.truncate(cut);
        for (at, byte) in noise {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        if let Ok(dealing) = Dealing::from_slice(&bytes) {
            prop_assert_eq!(dealing.to_bytes(), bytes.clone());
        }
        if let Ok(key) = RecipientKey::from_slice(&bytes) {
            prop_assert_eq!(key.to_bytes(), bytes);
        }
    }
}

#[test]
fn the_sealed_instances_are_thirty_of_all_and_differ_with_the_challenge() {
    let pick = |byte| transcript::sealed_instances(&B256::repeat_byte(byte));
    for byte in 0..50 {
        assert_eq!(pick(byte).iter().filter(|&&sealed| sealed).count(), SEALED);
        assert_ne!(pick(byte), pick(byte + 1));
    }
    let mut counts = [0u32; INSTANCES];
    for byte in 0..=255 {
        for (count, sealed) in counts.iter_mut().zip(pick(byte)) {
            *count += u32::from(sealed);
        }
    }
    // 30 expected, standard deviation 5.2; six of them.
    assert!(counts.iter().all(|&n| n < 62), "{counts:?}");
}
