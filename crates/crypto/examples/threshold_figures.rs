//! What threshold encryption and key generation cost, on one thread, next to plain threshold_crypto doing the same job.
//!
//! `cargo run -p cascade-crypto --example threshold_figures [envelopes] [key-generation-seats...]` prints the tables of
//! benches/README.md. Defaults: blocks of 500 envelopes; key generation at 4, 16 and 64 seats. The signatures of payer and
//! sender are counted for our envelopes, not for threshold_crypto. Each figure of the envelopes is the median of five rounds.
//! Times are CPU time of the thread, so that other load on the machine changes them little.

use std::{hint::black_box, time::Duration};

use cascade_crypto::{
    BlsScheme, BlsSecretKey, VoteSigner as _,
    curve::{G1, G1Affine, Scalar, has_lanes},
    dkg::{Dealing, KeyGeneration, Parameters, RecipientSecret, dealing},
    ecdsa::{self, SecretKey},
    envelope::{self, Terms},
    threshold::{
        BlockShares, EncryptionScheme as _, EpochKeys, Label, MemberShares, SeatMap, SecretShares, Tdh2, beacon,
        ciphertext, shares,
    },
};
use cascade_primitives::{
    B256, BlockHash, Bytes, ChainId, ChainParams, Decode as _, Encode as _, Epoch, Fork, Height, MemberIndex, Network,
    RecoveredEnvelope, RecoveredItem, SigningContext,
};
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use threshold_crypto::{self as tc, ff::Field as _};

const ROUNDS: usize = 5;
const EPOCH: Epoch = Epoch(1);

fn main() {
    let arguments: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let envelopes = arguments.first().copied().unwrap_or(500);
    let seats = if arguments.len() > 1 { arguments[1..].to_vec() } else { vec![4, 16, 64] };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread can be started");
    pool.install(|| {
        let lanes = if has_lanes() { "in lanes of AVX-512 IFMA" } else { "one by one: no AVX-512 IFMA here" };
        println!("points of G1, {lanes}: us for each of so many, and how much longer blst takes one by one\n");
        println!("| points | times a secret | subgroup | decoding | sum of half products | sum of products |");
        println!("|---|---|---|---|---|---|");
        for count in [8, 64, 256] {
            points(count);
        }
        println!(
            "\nenvelopes: us per envelope and node, blocks of {envelopes}, transactions of 110 bytes, one thread\n"
        );
        println!(
            "| members x seats | seal | payer | proof | share | read | combine, check | open | sum without seal |"
        );
        println!("|---|---|---|---|---|---|---|---|---|");
        for map in [vec![1; 4], vec![1; 32], vec![8; 4]] {
            block(&map, envelopes);
        }
        println!("\nwhere proofs are false: ms for all envelopes of a batch or block\n");
        println!("| envelopes | false | each of another payer | the false of one payer | a block |");
        println!("|---|---|---|---|---|");
        for (count, wrong) in
            [(256, 0), (256, 1), (256, 4), (256, 32), (256, 256), (1024, 1024), (1428, 1428), (2980, 2980)]
        {
            false_proofs(count, wrong);
        }
        println!("\nplain threshold_crypto, the same job: us per envelope and node\n");
        println!("| members | encrypt | verify | share | check q-1 shares | combine, open | sum without encrypt |");
        println!("|---|---|---|---|---|---|---|");
        for members in [4, 32] {
            plain(members);
        }
        println!("\nkey generation, one seat each: bytes, ms per node\n");
        println!("| seats | dealing | log | deal | tables | check one | open all | node in total |");
        println!("|---|---|---|---|---|---|---|---|");
        for &seats in &seats {
            generation(seats);
        }
    });
}

/// CPU time of this thread so far.
fn now() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux keeps CPU time of each thread");
    let nanoseconds = text.split(' ').next().and_then(|n| n.parse().ok()).expect("it starts with nanoseconds");
    Duration::from_nanos(nanoseconds)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// The median time of a piece of work, each round as many runs as 50 ms hold: the kernel counts in steps of 4 ms.
fn timed<T>(mut work: impl FnMut() -> T) -> (Duration, T) {
    let mut times = Vec::new();
    let mut last = None;
    for _ in 0..ROUNDS {
        let (start, mut runs) = (now(), 0);
        while runs == 0 || now() - start < Duration::from_millis(50) {
            last = Some(black_box(work()));
            runs += 1;
        }
        times.push((now() - start) / runs);
    }
    (median(times), last.expect("there is a round"))
}

struct World {
    parameters: Parameters,
    dealers: Vec<BlsSecretKey>,
    recipients: Vec<RecipientSecret>,
    rng: ChaCha20Rng,
}

fn world(dealers: &[u32], recipients: &[u32]) -> World {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let voting: Vec<BlsSecretKey> =
        (0..dealers.len()).map(|i| BlsSecretKey::derive(&[i as u8 + 1; 32]).expect("32 bytes are enough")).collect();
    let secrets: Vec<RecipientSecret> = recipients.iter().map(|_| RecipientSecret::generate(EPOCH, &mut rng)).collect();
    let context = SigningContext { chain_id: ChainId(1), genesis_hash: B256::ZERO, fork: Fork(0) };
    let map = |seats: &[u32]| SeatMap::new(seats).expect("256 seats at most");
    let parameters = Parameters::new(
        context,
        EPOCH,
        (map(dealers), voting.iter().map(|k| k.public_key()).collect()),
        (map(recipients), secrets.iter().map(RecipientSecret::public_key).collect()),
    )
    .expect("a key for each");
    World { parameters, dealers: voting, recipients: secrets, rng }
}

fn keys(seats: &[u32]) -> (EpochKeys, Vec<SecretShares>, ChaCha20Rng) {
    let mut world = world(&[1], seats);
    let dealing = dealing::deal(&world.parameters, MemberIndex(0), &world.dealers[0], &mut world.rng);
    let mut generation = KeyGeneration::new(world.parameters.clone());
    generation.apply(&dealing, &BlsScheme::default(), &mut world.rng).expect("an honest dealing is valid");
    let shares = world.recipients.iter().enumerate();
    let shares = shares.map(|(m, s)| generation.shares(MemberIndex(m as u16), s).expect("the keys are complete"));
    (generation.keys().expect("one dealer is enough for one").clone(), shares.collect(), world.rng)
}

fn points(count: usize) {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let scalars: Vec<Scalar> = (0..count).map(|_| Scalar::random(&mut rng)).collect();
    let halves: Vec<Scalar> = (0..count).map(|_| Scalar::random_half(&mut rng)).collect();
    let points: Vec<G1> = scalars.iter().map(|scalar| G1::generator().times(scalar)).collect();
    let points = G1::batch_to_affine(&points);
    let encodings: Vec<_> = points.iter().map(G1Affine::to_compressed).collect();
    let encodings: Vec<_> = encodings.iter().collect();
    let secret = scalars[0];
    let pairs: Vec<_> = points.iter().map(|point| (*point, &secret)).collect();
    let compare = |many: Duration, single: Duration| {
        let us = many.as_secs_f64() * 1e6 / count as f64;
        format!("{us:.1} ({:.1}x)", single.as_secs_f64() / many.as_secs_f64())
    };
    let single = |point: &G1Affine| G1::from(*point).times(&secret);
    let cells = [
        compare(timed(|| G1::each_times(&pairs)).0, timed(|| points.iter().map(single).collect::<Vec<_>>()).0),
        compare(
            timed(|| G1Affine::which_in_subgroup(&points)).0,
            timed(|| points.iter().map(G1Affine::in_subgroup).collect::<Vec<_>>()).0,
        ),
        compare(
            timed(|| G1Affine::many_on_curve(&encodings)).0,
            timed(|| encodings.iter().map(|bytes| G1Affine::on_curve_compressed(bytes)).collect::<Vec<_>>()).0,
        ),
        compare(
            timed(|| G1::sum_of_many((&points, &halves), (&[], &[]))).0,
            timed(|| G1::sum_of_half_products(&points, &halves)).0,
        ),
        compare(
            timed(|| G1::sum_of_many((&[], &[]), (&points, &scalars))).0,
            timed(|| G1::sum_of_products(&points, &scalars)).0,
        ),
    ];
    println!("| {count} | {} |", cells.join(" | "));
}

/// The example transaction of EIP-155, for chain 1: 110 bytes.
const TRANSACTION: &str = "f86c098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a76400008025a028ef61340bd939bc2195fe537567866003e1a15d3c71ff63e1590620aa636276a067cbe9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83";

/// Everything that an envelope costs a node but for the EVM and the disk, both signatures included.
fn block(seats: &[u32], envelopes: usize) {
    let (keys, secrets, mut rng) = keys(seats);
    let map = SeatMap::new(seats).expect("256 seats at most");
    let key = keys.decryption.encryption_key();
    let params = ChainParams { chain_id: ChainId(1), ..ChainParams::of(Network::Regtest) };
    let context = SigningContext { chain_id: params.chain_id, genesis_hash: B256::ZERO, fork: Fork(0) };
    let transaction = hex::decode(TRANSACTION).expect("it is hex");
    let payer = SecretKey::from_byte_array([7; 32]).expect("it is a key");
    let terms = Terms {
        epoch: EPOCH,
        nonce: 0,
        gas_limit: Terms::gas_for(transaction.len(), 21_000).expect("it is small"),
        max_fee_per_gas: 1,
        max_priority_fee_per_gas: 0,
        valid_until: Height(100),
    };
    let (seal, sealed) = timed(|| {
        let one = |nonce| {
            let terms = Terms { nonce, ..terms };
            envelope::seal(&key, &context, &terms, &transaction, &payer, &mut rng).expect("it is small")
        };
        (0..envelopes as u64).map(one).collect::<Vec<_>>()
    });
    let wire: Vec<Bytes> = sealed.iter().map(|envelope| envelope.raw().clone()).collect();
    let (payers, read) = timed(|| {
        let one = |raw: &Bytes| match ecdsa::recover_item(raw.clone(), &context, &params) {
            Ok(RecoveredItem::Envelope(envelope)) => *envelope,
            _ => unreachable!("it was signed"),
        };
        wire.iter().map(one).collect::<Vec<_>>()
    });
    let envelopes_read: Vec<&RecoveredEnvelope> = read.iter().collect();
    let (admit, checked) =
        timed(|| envelope::check_every(&key, &context, &envelopes_read, &mut rng).expect("they were sealed"));
    let bases: Vec<G1Affine> = checked.iter().map(|sealed| *sealed.base()).collect();
    let message = beacon::base(&B256::ZERO);
    let at = (Fork(0), Height(1), BlockHash([1; 32]));
    let (share, _) = timed(|| BlockShares::create(at, &secrets[0], &message, &bases).to_bytes());
    // The last members' shares, so that the coefficients are not the easiest.
    let messages: Vec<Vec<u8>> =
        secrets.iter().rev().map(|s| BlockShares::create(at, s, &message, &bases).to_bytes()).collect();
    let (others, members) = timed(|| {
        let mut found = 0;
        let mut members = Vec::new();
        for bytes in &messages {
            if found >= keys.decryption.quorum() {
                break;
            }
            let sent = BlockShares::from_slice(bytes).expect("it was encoded");
            let seats = map.seats(sent.member);
            found += seats.len();
            let shares = MemberShares::from_wire(sent.member, seats, bases.len(), &sent.decryption);
            members.push(shares.expect("it was made for these bases"));
        }
        members
    });
    let (combine, values) =
        timed(|| shares::combine(&keys.decryption, &bases, &members, &mut rng).values.expect("all are honest"));
    let (open, _) = timed(|| {
        let items = read.iter().zip(&checked).zip(&values);
        let one =
            |((envelope, sealed), value)| envelope::open(envelope, sealed, value, &params).expect("it was sealed");
        items.map(one).collect::<Vec<_>>()
    });
    let us = |time: Duration| time.as_secs_f64() * 1e6 / envelopes as f64;
    let sum = [payers, admit, share, others, combine, open].into_iter().map(us).sum::<f64>();
    println!(
        "| {} x {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.1} | {:.0} | {:.0} | {sum:.0} |",
        seats.len(),
        seats[0],
        us(seal),
        us(payers),
        us(admit),
        us(share),
        us(others),
        us(combine),
        us(open)
    );
}

fn false_proofs(count: usize, wrong: usize) {
    let (keys, _, mut rng) = keys(&[1; 4]);
    let key = keys.decryption.encryption_key();
    let label = |i: usize| Label(B256::left_padding_from(&i.to_be_bytes()));
    let sealed: Vec<_> =
        (0..count).map(|i| Tdh2.seal(&key, &label(i), &[7; 110], &mut rng).expect("it is small")).collect();
    let is_wrong = |i: usize| wrong > 0 && i.is_multiple_of(count / wrong);
    let items: Vec<_> =
        sealed.iter().enumerate().map(|(i, c)| (c, label(if is_wrong(i) { i + count } else { i }))).collect();
    let authors: Vec<usize> = (0..count).map(|i| if is_wrong(i) { 0 } else { i + 1 }).collect();
    let ms = |work: &mut dyn FnMut() -> usize| {
        let start = now();
        let refused = work();
        ((now() - start).as_secs_f64() * 1e3, refused)
    };
    let wrong = |answers: Vec<Result<G1Affine, _>>| answers.iter().filter(|answer| answer.is_err()).count();
    let (each, refused) = ms(&mut || wrong(Tdh2.check(&key, &items, &mut rng)));
    let (one_payer, _) = ms(&mut || wrong(ciphertext::check_of_authors(&key, &items, &authors, &mut rng)));
    let (block, _) = ms(&mut || usize::from(ciphertext::check_every(&key, &items, &mut rng).is_err()));
    println!("| {count} | {refused} | {each:.0} | {one_payer:.0} | {block:.0} |");
}

fn plain(members: usize) {
    let quorum = members - (members - 1) / 3;
    // Full-size coefficients: small ones would make its shares cheaper than they are.
    let mut coefficient: tc::Fr = tc::IntoFr::into_fr(7919_u64);
    let mut coefficients = Vec::new();
    while coefficients.len() < quorum {
        for _ in 0..8 {
            coefficient.square();
        }
        coefficients.push(coefficient);
    }
    let secret_set = tc::SecretKeySet::from(tc::poly::Poly::from(coefficients));
    let public_set = secret_set.public_keys();
    let (encrypt, ciphertext) = timed(|| public_set.public_key().encrypt([7; 110]));
    let (verify, _) = timed(|| assert!(ciphertext.verify()));
    let own = secret_set.secret_key_share(0u64);
    let (share, _) = timed(|| own.decrypt_share_no_verify(&ciphertext));
    let shares: Vec<(u64, tc::DecryptionShare)> =
        (0..quorum as u64).map(|i| (i, secret_set.secret_key_share(i).decrypt_share_no_verify(&ciphertext))).collect();
    let keys: Vec<_> = (0..quorum as u64).map(|i| public_set.public_key_share(i)).collect();
    let (check, _) = timed(|| {
        for (key, (_, share)) in keys.iter().zip(&shares).skip(1) {
            assert!(key.verify_decryption_share(share, &ciphertext));
        }
    });
    let (open, _) = timed(|| {
        let shares = shares.iter().map(|(i, share)| (*i, share));
        public_set.decrypt(shares, &ciphertext).expect("there are enough")
    });
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    let sum = [verify, share, check, open].into_iter().map(us).sum::<f64>();
    println!(
        "| {members} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {sum:.0} |",
        us(encrypt),
        us(verify),
        us(share),
        us(check),
        us(open)
    );
}

fn generation(seats: usize) {
    let mut world = world(&vec![1; seats], &vec![1; seats]);
    let mut generation = KeyGeneration::new(world.parameters.clone());
    let quorum = world.parameters.dealers.quorum() as usize;
    let (mut dealt, mut checked, mut log) = (Vec::new(), Vec::new(), Vec::new());
    for dealer in 0..quorum {
        let start = now();
        let dealing =
            dealing::deal(&world.parameters, MemberIndex(dealer as u16), &world.dealers[dealer], &mut world.rng);
        dealt.push(now() - start);
        log.push(dealing.to_bytes());
    }
    for bytes in &log {
        let start = now();
        let dealing = Dealing::from_slice(bytes).expect("it was encoded");
        generation.apply(&dealing, &BlsScheme::default(), &mut world.rng).expect("an honest dealing is valid");
        checked.push(now() - start);
    }
    let start = now();
    black_box(generation.shares(MemberIndex(0), &world.recipients[0]).expect("the keys are complete"));
    let opened = now() - start;
    let all: Duration = checked.iter().sum();
    let (deal, check) = (median(dealt), median(checked.clone()));
    let tables = checked[0].saturating_sub(check);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "| {seats} | {} | {} | {:.0} | {:.0} | {:.1} | {:.1} | {:.0} |",
        log[0].len(),
        log.iter().map(Vec::len).sum::<usize>(),
        ms(deal),
        ms(tables),
        ms(check),
        ms(opened),
        ms(deal + all + opened)
    );
}
