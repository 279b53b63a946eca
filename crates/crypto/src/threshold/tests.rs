//! What the schemes promise, against liars, and against threshold_crypto.

use cascade_primitives::{B256, BlockHash, ChainId, Decode, Encode, Epoch, Fork, Height, MemberIndex, SigningContext};
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use threshold_crypto as tc;

use super::{
    ciphertext::{check_every, check_of_authors, test_parts},
    *,
};
use crate::{
    BlsSecretKey,
    curve::{G1, G1Affine, Scalar, tests::torsion},
    dkg::{
        RecipientSecret,
        polynomial::{Polynomial, from_tc, to_tc},
    },
};

const LABEL: Label = Label(B256::repeat_byte(7));

/// A key as a trusted dealer would make it, which only tests have.
struct Dealt {
    map: SeatMap,
    keys: KeySet,
    polynomial: Polynomial,
    rng: ChaCha20Rng,
}

impl Dealt {
    fn new(seats: &[u32], seed: u64) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let map = SeatMap::new(seats).unwrap();
        let polynomial = Polynomial::random(map.quorum() as usize, &mut rng);
        let keys = KeySet::new(polynomial.public().to_affine(), polynomial.commitment(), map.total()).unwrap();
        Self { map, keys, polynomial, rng }
    }

    fn secret(&self, member: u16) -> SecretShares {
        let shares: Vec<Scalar> = self.map.seats(MemberIndex(member)).map(|seat| self.polynomial.share(seat)).collect();
        SecretShares::new(Epoch(3), MemberIndex(member), shares.clone(), shares)
    }

    fn sealed(&mut self, payloads: &[&[u8]]) -> Vec<Ciphertext> {
        let key = self.keys.encryption_key();
        payloads.iter().map(|p| Tdh2.seal(&key, &LABEL, p, &mut self.rng).unwrap()).collect()
    }

    fn bases(&mut self, ciphertexts: &[Ciphertext]) -> Vec<G1Affine> {
        let items: Vec<_> = ciphertexts.iter().map(|c| (c, LABEL)).collect();
        let checked = Tdh2.check(&self.keys.encryption_key(), &items, &mut self.rng);
        checked.into_iter().map(Result::unwrap).collect()
    }

    fn shares(&self, member: u16, bases: &[G1Affine]) -> MemberShares {
        let wire = Tdh2.share(&self.secret(member), bases);
        Tdh2.read_share(MemberIndex(member), self.map.seats(MemberIndex(member)), bases, &wire).unwrap()
    }

    fn all_shares(&self, bases: &[G1Affine]) -> Vec<MemberShares> {
        (0..self.map.members() as u16).map(|member| self.shares(member, bases)).collect()
    }

    fn combine(&mut self, bases: &[G1Affine], shares: &[MemberShares]) -> Combination {
        Tdh2.combine(&self.keys, bases, shares, &mut self.rng)
    }
}

/// A member's shares after a change of one of them.
fn changed(
    shares: &MemberShares,
    seats: std::ops::Range<u32>,
    bases: usize,
    change: impl Fn(G1) -> G1,
) -> MemberShares {
    let mut values = shares.values().to_vec();
    let at = values.len() - 1;
    values[at] = change(G1::from(values[at])).to_affine();
    MemberShares::from_wire(shares.member(), seats, bases, &shares::to_wire(&values)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// P7: what is sealed opens, with the shares of any quorum, whoever holds how many seats.
    #[test]
    fn p7_any_quorum_opens_what_was_sealed(
        seed: u64,
        seats in prop::collection::vec(1u32..4, 1..7),
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..4),
        order in any::<prop::sample::Index>(),
    ) {
        let mut dealt = Dealt::new(&seats, seed);
        let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
        let ciphertexts = dealt.sealed(&payloads);
        let bases = dealt.bases(&ciphertexts);
        let mut shares = dealt.all_shares(&bases);
        shares.rotate_left(order.index(seats.len()));
        let combination = dealt.combine(&bases, &shares);
        prop_assert_eq!(&combination.culprits, &[]);
        let values = combination.values.unwrap();
        for ((ciphertext, value), payload) in ciphertexts.iter().zip(&values).zip(payloads) {
            let opened = Tdh2.open(ciphertext, &LABEL, value).unwrap();
            prop_assert_eq!(opened.as_ref(), payload);
            let decoded = Ciphertext::from_slice(&ciphertext.to_bytes()).unwrap();
            prop_assert_eq!(&decoded, ciphertext);
        }
        prop_assert!(shares::check_combined(&dealt.keys, &bases, &values, &mut dealt.rng));
    }

    /// P7: q-1 shares and a guess open nothing.
    #[test]
    fn p7_one_share_too_few_opens_nothing(seed: u64, seats in 4u32..10, guess: u64) {
        let mut dealt = Dealt::new(&vec![1; seats as usize], seed);
        let ciphertexts = dealt.sealed(&[b"secret"]);
        let bases = dealt.bases(&ciphertexts);
        let quorum = dealt.map.quorum() as usize;
        let mut shares = dealt.all_shares(&bases);
        shares.truncate(quorum - 1);
        prop_assert_eq!(dealt.combine(&bases, &shares).values, None);
        let last = dealt.map.seats(MemberIndex(quorum as u16 - 1));
        let guess = G1::from(bases[0]).times(&Scalar::from_u64(guess)).to_affine();
        shares.push(MemberShares::own(MemberIndex(quorum as u16 - 1), last, vec![guess]));
        let combination = dealt.combine(&bases, &shares);
        prop_assert_eq!(combination.values, None);
        prop_assert_eq!(combination.culprits, vec![MemberIndex(quorum as u16 - 1)]);
        let forced = shares::combine_unchecked(&dealt.keys, &bases, &shares).unwrap();
        prop_assert_eq!(Tdh2.open(&ciphertexts[0], &LABEL, &forced[0]), Err(OpenError::Commitment));
    }

    /// P7: q-1 shares fit every secret there is, so they say nothing about this one.
    #[test]
    fn p7_one_share_too_few_fits_every_secret(seed: u64, seats in 4u32..10, other: [u8; 32]) {
        let dealt = Dealt::new(&vec![1; seats as usize], seed);
        let other = Scalar::from_wide(&[other, other].concat().try_into().unwrap());
        let known: Vec<(u64, Scalar)> =
            (0..dealt.map.quorum() - 1).map(|seat| (u64::from(seat) + 1, dealt.polynomial.share(seat))).collect();
        let samples = known.iter().map(|(at, share)| (*at, to_tc(share))).chain([(0u64, to_tc(&other))]);
        let fitting = tc::poly::Poly::interpolate(samples);
        prop_assert_eq!(fitting.degree(), dealt.map.quorum() as usize - 1, "a polynomial of the right degree");
        prop_assert_eq!(from_tc(fitting.evaluate(0u64)), other, "with any secret");
        for (at, share) in known {
            prop_assert_eq!(from_tc(fitting.evaluate(at)), share, "gives the same q-1 shares");
        }
    }

    /// One bit of a ciphertext or of its label changed: refused at admission.
    #[test]
    fn a_changed_bit_is_refused(seed: u64, at: prop::sample::Index, bit in 0u8..8, in_label: bool) {
        let mut dealt = Dealt::new(&[1], seed);
        let sealed = dealt.sealed(&[b"payload"]).remove(0);
        let (mut bytes, mut label) = (sealed.to_bytes(), LABEL);
        if in_label {
            label.0[at.index(32)] ^= 1 << bit;
        } else {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        if let Ok(changed) = Ciphertext::from_slice(&bytes) {
            let answer = Tdh2.check(&dealt.keys.encryption_key(), &[(&changed, label)], &mut dealt.rng);
            prop_assert!(answer[0].is_err());
        }
    }

    /// Among many, exactly the wrong ones are refused.
    #[test]
    fn a_batch_refuses_exactly_the_wrong(seed: u64, wrong in prop::collection::btree_set(0usize..12, 0..5)) {
        let mut dealt = Dealt::new(&[1], seed);
        let ciphertexts = dealt.sealed(&[b"x".as_slice(); 12]);
        let label = |i| if wrong.contains(&i) { Label(B256::ZERO) } else { LABEL };
        let items: Vec<_> = ciphertexts.iter().enumerate().map(|(i, c)| (c, label(i))).collect();
        for (i, answer) in Tdh2.check(&dealt.keys.encryption_key(), &items, &mut dealt.rng).iter().enumerate() {
            prop_assert_eq!(answer.is_err(), wrong.contains(&i));
        }
    }

    /// With authors of several, exactly the wrong ones' are refused; for all at once, any wrong one suffices.
    #[test]
    fn of_an_author_with_a_wrong_one_all_are_refused_and_of_nobody_else(
        seed: u64,
        authors in prop::collection::vec(0u8..6, 1..24),
        wrong in prop::collection::btree_set(0usize..24, 0..4),
    ) {
        let mut dealt = Dealt::new(&[1], seed);
        let key = dealt.keys.encryption_key();
        let ciphertexts = dealt.sealed(&vec![b"x".as_slice(); authors.len()]);
        let label = |i| if wrong.contains(&i) { Label(B256::ZERO) } else { LABEL };
        let items: Vec<_> = ciphertexts.iter().enumerate().map(|(i, c)| (c, label(i))).collect();
        let answers = check_of_authors(&key, &items, &authors, &mut dealt.rng);
        for (i, answer) in answers.iter().enumerate() {
            let of_author = |j: &usize| authors[*j] == authors[i];
            let has_wrong = (0..authors.len()).filter(of_author).any(|j| wrong.contains(&j));
            let alone = (0..authors.len()).filter(of_author).count() == 1;
            let due = if alone { CiphertextError::Proof } else { CiphertextError::Company };
            prop_assert_eq!(answer.as_ref().err(), has_wrong.then_some(&due));
        }
        let every = check_every(&key, &items, &mut dealt.rng);
        let any = wrong.iter().any(|&i| i < authors.len());
        prop_assert_eq!(every.is_err(), any);
        if let Ok(bases) = every {
            prop_assert_eq!(bases, answers.into_iter().map(Result::unwrap).collect::<Vec<_>>());
        }
    }

    /// Liars are named, all of them and nobody else, and the others' shares open the block if they are a quorum.
    #[test]
    fn liars_are_named_and_left_out(
        seed: u64, seats in prop::collection::vec(1u32..3, 4..8), lies in prop::collection::btree_map(0u16..8, 0u8..3, 1..4)
    ) {
        let mut dealt = Dealt::new(&seats, seed);
        let ciphertexts = dealt.sealed(&[b"one", b"two", b"three"]);
        let bases = dealt.bases(&ciphertexts);
        let torsion = G1::from(torsion());
        let shares: Vec<MemberShares> = dealt.all_shares(&bases).into_iter().map(|shares| {
            let range = dealt.map.seats(shares.member());
            match lies.get(&shares.member().0) {
                None => shares,
                Some(0) => changed(&shares, range, 3, |s| s + G1::generator()),
                Some(1) => changed(&shares, range, 3, |s| s + torsion),
                Some(_) => changed(&shares, range, 3, |s| -s),
            }
        }).collect();
        let liars: Vec<MemberIndex> = lies.keys().copied().map(MemberIndex).filter(|m| m.index() < seats.len()).collect();
        let combination = dealt.combine(&bases, &shares);
        let honest: u32 = seats.iter().sum::<u32>() - liars.iter().map(|m| seats[m.index()]).sum::<u32>();
        if combination.culprits.is_empty() {
            // No wrong share was needed, or the liars' torsion cancelled out: the values are right all the same.
            prop_assert!(combination.values.is_some());
        } else {
            prop_assert_eq!(&combination.culprits, &liars);
            prop_assert_eq!(combination.values.is_some(), honest >= dealt.map.quorum());
        }
        for (ciphertext, value) in ciphertexts.iter().zip(combination.values.unwrap_or_default()) {
            prop_assert!(Tdh2.open(ciphertext, &LABEL, &value).is_ok());
        }
    }

    /// No bytes make a decoder panic, and what decodes encodes to the same bytes.
    #[test]
    fn decoders_are_total(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(value) = Ciphertext::from_slice(&bytes) {
            prop_assert_eq!(value.to_bytes(), bytes.clone());
        }
        if let Ok(value) = BlockShares::from_slice(&bytes) {
            prop_assert_eq!(value.to_bytes(), bytes.clone());
        }
        if let Ok(value) = EpochKeys::from_slice(&bytes) {
            prop_assert_eq!(value.to_bytes(), bytes.clone());
        }
        if let Ok(value) = SecretShares::from_slice(&bytes) {
            prop_assert_eq!(value.to_bytes(), bytes);
        }
    }
}

#[test]
fn a_first_component_with_torsion_is_refused_and_elsewhere_torsion_changes_no_answer() {
    let mut dealt = Dealt::new(&[1], 1);
    let key = dealt.keys.encryption_key();
    let torsion = torsion();
    for moved in ["u", "v", "a", "b", "none"] {
        let ciphertext = test_parts::with_torsion(&key, &LABEL, &torsion, moved);
        let other = dealt.sealed(&[b"other"]).remove(0);
        let expected = if moved == "u" { Some(CiphertextError::Point("first component")) } else { None };
        for _ in 0..10 {
            let alone = Tdh2.check(&key, &[(&ciphertext, LABEL)], &mut dealt.rng);
            let batch = Tdh2.check(&key, &[(&ciphertext, LABEL), (&other, LABEL)], &mut dealt.rng);
            assert_eq!(alone[0].err(), expected, "{moved} alone");
            assert_eq!(batch[0].err(), expected, "{moved} in a batch, whatever the coefficients");
            assert!(batch[1].is_ok());
        }
    }
}

#[test]
fn a_combined_value_with_torsion_is_refused() {
    let mut dealt = Dealt::new(&[1; 4], 2);
    let ciphertexts = dealt.sealed(&[b"one", b"two"]);
    let bases = dealt.bases(&ciphertexts);
    let shares = dealt.all_shares(&bases);
    let mut values = dealt.combine(&bases, &shares).values.unwrap();
    assert!(shares::check_combined(&dealt.keys, &bases, &values, &mut dealt.rng));
    values[1] = (G1::from(values[1]) + G1::from(torsion())).to_affine();
    assert!(!shares::check_combined(&dealt.keys, &bases, &values, &mut dealt.rng));
    assert_eq!(Tdh2.open(&ciphertexts[1], &LABEL, &values[1]), Err(OpenError::Commitment), "another key for each node");
}

#[test]
fn swapped_values_whose_sum_is_right_are_refused() {
    let mut dealt = Dealt::new(&[1; 4], 3);
    let ciphertexts = dealt.sealed(&[b"one", b"two"]);
    let bases = dealt.bases(&ciphertexts);
    let shares = dealt.all_shares(&bases);
    let mut values = dealt.combine(&bases, &shares).values.unwrap();
    values.swap(0, 1);
    assert!(!shares::check_combined(&dealt.keys, &bases, &values, &mut dealt.rng), "coefficients differ");
    assert!(!shares::check_combined(&dealt.keys, &bases, &values[..1], &mut dealt.rng), "one value for each base");
    assert!(shares::check_combined(&dealt.keys, &[], &[], &mut dealt.rng), "nothing to open is opened");
}

#[test]
fn a_seat_counts_as_a_seat() {
    // Members with 3, 1, 1, 1 seats: q is 5 of 6, so three members are enough only with the large one.
    let mut dealt = Dealt::new(&[3, 1, 1, 1], 4);
    let ciphertexts = dealt.sealed(&[b"payload"]);
    let bases = dealt.bases(&ciphertexts);
    let shares = dealt.all_shares(&bases);
    assert!(dealt.combine(&bases, &shares[1..]).values.is_none());
    assert!(dealt.combine(&bases, &shares[..2]).values.is_none());
    assert!(dealt.combine(&bases, &shares[..3]).values.is_some());
}

#[test]
fn a_share_that_comes_twice_counts_once() {
    let mut dealt = Dealt::new(&[1; 4], 13);
    let ciphertexts = dealt.sealed(&[b"payload"]);
    let bases = dealt.bases(&ciphertexts);
    let shares = dealt.all_shares(&bases);
    let twice = [shares[0].clone(), shares[0].clone(), shares[1].clone()];
    assert_eq!(dealt.combine(&bases, &twice), Combination { values: None, culprits: Vec::new() });
    let enough = [twice.as_slice(), &shares[3..]].concat();
    assert_eq!(dealt.combine(&bases, &enough).values, dealt.combine(&bases, &shares).values);
}

#[test]
fn ill_formed_payloads_are_defined_outcomes() {
    let mut dealt = Dealt::new(&[1], 5);
    let (key, r) = (dealt.keys.encryption_key(), Scalar::from_u64(5));
    let k = G1::from(key.0).times(&r).to_affine();
    let u = G1::generator().times(&r).to_affine().to_compressed();
    let text = |length: u32, padding: u8| [&length.to_le_bytes()[..], &[padding; 256]].concat();
    let padded = |text: Vec<u8>| test_parts::sealed_body(&k, &u, &LABEL, &text);
    let mut other_key = padded(text(0, 0));
    other_key[0] ^= 1;
    let mut damaged = padded(text(0, 0));
    damaged[40] ^= 1;
    let cases = [
        (padded(text(0, 0)), Ok(0)),
        (padded(text(256, 1)), Ok(256)),
        (padded(text(255, 1)), Err(OpenError::Padding)),
        (padded(text(257, 0)), Err(OpenError::Padding)),
        (padded(text(u32::MAX, 0)), Err(OpenError::Padding)),
        (other_key, Err(OpenError::Commitment)),
        (damaged, Err(OpenError::Body)),
    ];
    for (body, expected) in cases {
        let ciphertext = test_parts::with_body(&key, &LABEL, &r, body);
        assert!(Tdh2.check(&key, &[(&ciphertext, LABEL)], &mut dealt.rng)[0].is_ok(), "the proof covers nonsense too");
        assert_eq!(Tdh2.open(&ciphertext, &LABEL, &k).map(|p| p.len()), expected);
    }
    let empty_in_large = test_parts::sealed_body(&k, &u, &LABEL, &[0; 4 + 512]);
    let ciphertext = test_parts::with_body(&key, &LABEL, &r, empty_in_large);
    assert_eq!(Tdh2.open(&ciphertext, &LABEL, &k), Err(OpenError::Padding), "the bucket is the smallest that holds it");
}

#[test]
fn payloads_fill_ten_buckets() {
    let mut dealt = Dealt::new(&[1], 6);
    let key = dealt.keys.encryption_key();
    for (length, bucket) in [(0, 0), (256, 0), (257, 1), (131_072, 9)] {
        let ciphertext = Tdh2.seal(&key, &LABEL, &vec![1; length], &mut dealt.rng).unwrap();
        assert_eq!(ciphertext.bucket().number(), bucket);
        assert_eq!(ciphertext.to_bytes().len(), 4 * 48 + 32 + 4 + ciphertext.bucket().body_bytes());
    }
    assert_eq!(Tdh2.seal(&key, &LABEL, &vec![1; 131_073], &mut dealt.rng).unwrap_err(), TooLarge(131_073));
}

#[test]
fn messages_with_a_wrong_number_of_shares_or_with_no_points_are_refused() {
    let mut dealt = Dealt::new(&[2, 1, 1], 7);
    let ciphertexts = dealt.sealed(&[b"one", b"two"]);
    let bases = dealt.bases(&ciphertexts);
    let wire = Tdh2.share(&dealt.secret(0), &bases);
    assert_eq!(wire.len(), 4 * 96);
    let read = |bytes: &[u8]| Tdh2.read_share(MemberIndex(0), 0..2, &bases, bytes).map(|_| ());
    assert_eq!(read(&wire), Ok(()));
    assert_eq!(read(&wire[96..]), Err(ShareError::Count { found: 3, expected: 4 }));
    assert_eq!(read(&wire[1..]), Err(ShareError::Count { found: 3, expected: 4 }));
    let mut infinity = wire.to_vec();
    infinity[96..192].fill(0);
    infinity[96] = 0x40;
    assert_eq!(read(&infinity), Err(ShareError::Point(1)));
    let mut off_curve = wire.to_vec();
    off_curve[191] ^= 1;
    assert_eq!(read(&off_curve), Err(ShareError::Point(1)));
}

#[test]
fn a_message_of_shares_is_bounded_before_it_is_read() {
    let dealt = Dealt::new(&[1], 14);
    let base = beacon::base(&B256::ZERO);
    let sent = BlockShares::create((Fork(0), Height(1), BlockHash([1; 32])), &dealt.secret(0), &base, &[base]);
    let bytes = sent.to_bytes();
    assert_eq!(BlockShares::from_slice(&bytes), Ok(sent));
    let header = 4 + 8 + 8 + 32 + 2;
    for (at, what) in [(header, "beacon shares"), (header + 4 + 96, "decryption shares")] {
        for (length, reason) in [(u32::MAX, "exceeds the limit"), (95, "96 bytes"), (97, "")] {
            let mut wrong = bytes.clone();
            wrong[at..at + 4].copy_from_slice(&length.to_le_bytes());
            let error = BlockShares::from_slice(&wrong).unwrap_err();
            assert!(error.what == what && error.to_string().contains(reason), "{error}");
        }
    }
}

/// The seams to threshold_crypto: keys, shares and combined values are the same points in the same encodings.
#[test]
fn shares_and_keys_are_those_of_threshold_crypto() {
    let dealt = Dealt::new(&[1; 7], 8);
    let secret_set = tc::SecretKeySet::from(dealt.polynomial.poly().clone());
    let public_set = secret_set.public_keys();
    assert_eq!(public_set.threshold() + 1, dealt.keys.quorum());
    assert_eq!(public_set.public_key().to_bytes(), dealt.keys.encryption_key().to_bytes());

    let message = b"differential";
    let ciphertext = public_set.public_key().encrypt(message);
    let json = serde_json::to_value(&ciphertext).unwrap();
    let u: [u8; 48] = serde_json::from_value::<Vec<u8>>(json[0].clone()).unwrap().try_into().unwrap();
    let base = G1Affine::from_compressed(&u).unwrap();
    let mut shares = Vec::new();
    for seat in 0..7u32 {
        let ours = dealt.shares(seat as u16, &[base]).values()[0];
        let theirs = secret_set.secret_key_share(u64::from(seat)).decrypt_share(&ciphertext).unwrap();
        assert_eq!(serde_json::to_value(&theirs).unwrap(), serde_json::json!(ours.to_compressed().to_vec()));
        let ours: tc::DecryptionShare =
            serde_json::from_value(serde_json::json!(ours.to_compressed().to_vec())).unwrap();
        assert!(public_set.public_key_share(u64::from(seat)).verify_decryption_share(&ours, &ciphertext));
        let key = tc::SecretKeyShare::from_mut(&mut to_tc(&dealt.polynomial.share(seat))).public_key_share();
        assert_eq!(key, public_set.public_key_share(u64::from(seat)), "our polynomial is theirs");
        shares.push((u64::from(seat), ours));
    }
    let opened = public_set.decrypt(shares[1..6].iter().map(|(i, s)| (*i, s)), &ciphertext).unwrap();
    assert_eq!(opened, message, "our shares open their ciphertext");

    // Their combined value is their share of the master secret; ours comes from five of the seven.
    let master = tc::SecretKeyShare::from_mut(&mut dealt.polynomial.poly().evaluate(0u64));
    let theirs = serde_json::to_value(master.decrypt_share_no_verify(&ciphertext)).unwrap();
    let mut dealt = dealt;
    let ours = dealt.all_shares(&[base]);
    for quorum in [0..5, 1..6, 2..7] {
        let values = dealt.combine(&[base], &ours[quorum]).values.unwrap();
        assert_eq!(theirs, serde_json::json!(values[0].to_compressed().to_vec()));
    }
}

#[test]
fn the_beacon_is_one_bls_signature_whatever_the_quorum() {
    let mut dealt = Dealt::new(&[2, 1, 1, 1, 1, 1], 9);
    let context = SigningContext { chain_id: ChainId(1), genesis_hash: B256::ZERO, fork: Fork(0) };
    let message = beacon::message(&context, Epoch(3), Height(9), BlockHash([5; 32]));
    let base = beacon::base(&message);
    let shares: Vec<MemberShares> = (0..6u16)
        .map(|m| {
            let sent = BlockShares::create((Fork(0), Height(9), BlockHash([5; 32])), &dealt.secret(m), &base, &[]);
            let sent = BlockShares::from_slice(&sent.to_bytes()).unwrap();
            MemberShares::from_wire(sent.member, dealt.map.seats(sent.member), 1, &sent.beacon).unwrap()
        })
        .collect();
    let signature = dealt.combine(&[base], &shares[..4]).values.unwrap()[0];
    assert_eq!(dealt.combine(&[base], &shares[1..]).values.unwrap()[0], signature, "nobody can choose it");
    assert_eq!(beacon::verify(dealt.keys.public_key(), &message, &signature.to_compressed()), Some(signature));

    // blst's own verification of the same ciphersuite agrees.
    let key = blst::min_sig::PublicKey::from_bytes(&dealt.keys.public_key().to_compressed()).unwrap();
    let signed = blst::min_sig::Signature::from_bytes(&signature.to_compressed()).unwrap();
    let result = signed.verify(true, message.as_slice(), beacon::BEACON_SUITE, &[], &key, true);
    assert_eq!(result, blst::BLST_ERROR::BLST_SUCCESS);

    for other in [
        beacon::message(&SigningContext { fork: Fork(1), ..context }, Epoch(3), Height(9), BlockHash([5; 32])),
        beacon::message(&context, Epoch(4), Height(9), BlockHash([5; 32])),
        beacon::message(&context, Epoch(3), Height(10), BlockHash([5; 32])),
        beacon::message(&context, Epoch(3), Height(9), BlockHash([6; 32])),
    ] {
        assert_eq!(beacon::verify(dealt.keys.public_key(), &other, &signature.to_compressed()), None);
    }
}

#[test]
fn key_sets_decode_only_if_both_groups_agree() {
    let (a, b) = (Dealt::new(&[1; 4], 10), Dealt::new(&[1; 4], 11));
    assert_eq!(KeySet::from_slice(&a.keys.to_bytes()).unwrap(), a.keys);
    let mut mixed = a.keys.to_bytes();
    mixed[4..52].copy_from_slice(&b.keys.encryption_key().to_bytes());
    assert!(KeySet::from_slice(&mixed).is_err());
    let mut too_many = a.keys.to_bytes();
    too_many[0] = 2;
    assert!(KeySet::from_slice(&too_many).is_err(), "three coefficients for two seats");
}

#[test]
fn secrets_at_rest_open_with_the_same_voting_key_and_epoch_alone() {
    let mut dealt = Dealt::new(&[2, 2, 1], 12);
    let (owner, other) = (BlsSecretKey::derive(&[1; 32]).unwrap(), BlsSecretKey::derive(&[2; 32]).unwrap());
    let shares = dealt.secret(1);
    let record = store::seal_shares(&owner, &shares, &mut dealt.rng);
    assert_eq!(store::open_shares(&owner, Epoch(3), &record), Ok(shares));
    assert_eq!(store::open_shares(&other, Epoch(3), &record), Err(store::StoreError::Sealed));
    assert_eq!(store::open_shares(&owner, Epoch(4), &record), Err(store::StoreError::Sealed));
    assert_eq!(store::open_shares(&owner, Epoch(3), &record[..12]), Err(store::StoreError::Format));
    let secret = RecipientSecret::generate(Epoch(3), &mut dealt.rng);
    let kept = store::seal_recipient(&owner, &secret, &mut dealt.rng);
    let read = store::open_recipient(&owner, Epoch(3), &kept).unwrap();
    assert_eq!(read.public_key(), secret.public_key());
    assert_eq!(store::open_recipient(&owner, Epoch(4), &kept).unwrap_err(), store::StoreError::Sealed);
    assert_eq!(store::open_shares(&owner, Epoch(3), &kept), Err(store::StoreError::Sealed), "a record of another kind");
    let mut damaged = record;
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    assert_eq!(store::open_shares(&owner, Epoch(3), &damaged), Err(store::StoreError::Sealed));
}

/// Ciphertexts that went into sums of batches since the generator was made: each takes two coefficients of 16 bytes.
fn summed(rng: &ChaCha20Rng) -> u128 {
    rng.get_word_pos() / 8
}

#[test]
fn a_block_of_false_proofs_costs_its_first_batch() {
    let mut dealt = Dealt::new(&[1], 1);
    let (key, count) = (dealt.keys.encryption_key(), 700);
    let one = dealt.sealed(&[b"x"]).remove(0);
    let label = |from: usize, i: usize| if i >= from { Label(B256::ZERO) } else { LABEL };
    let cost = |from: usize| {
        let items: Vec<_> = (0..count).map(|i| (&one, label(from, i))).collect();
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        (check_every(&key, &items, &mut rng).map_err(|_| ()).map(|bases| bases.len()), summed(&rng))
    };
    assert_eq!(cost(0), (Err(()), 256), "all are false");
    assert_eq!(cost(300), (Err(()), 512));
    assert_eq!(cost(count - 1), (Err(()), 700), "the last alone: what an honest block costs");
    assert_eq!(cost(count), (Ok(700), 700));
}

#[test]
fn either_equation_alone_is_enough_to_be_refused() {
    let mut dealt = Dealt::new(&[1], 1);
    let key = dealt.keys.encryption_key();
    for second in [false, true] {
        let wrong = test_parts::with_one_wrong_equation(&key, &LABEL, second);
        for others in [0, 1, 11] {
            let mut ciphertexts = dealt.sealed(&vec![b"x".as_slice(); others]);
            ciphertexts.push(wrong.clone());
            let items: Vec<_> = ciphertexts.iter().map(|c| (c, LABEL)).collect();
            let answers = Tdh2.check(&key, &items, &mut dealt.rng);
            assert_eq!(answers.last(), Some(&Err(CiphertextError::Proof)), "second: {second}, others: {others}");
            assert!(answers[..others].iter().all(Result::is_ok));
            assert_eq!(check_every(&key, &items, &mut dealt.rng), Err(CiphertextError::Proof));
        }
    }
}

#[test]
fn the_few_wrong_ones_of_a_large_batch_are_found_wherever_they_are() {
    let mut dealt = Dealt::new(&[1], 1);
    let (key, one) = (dealt.keys.encryption_key(), dealt.sealed(&[b"x"]).remove(0));
    for wrong in [vec![3, 200], vec![0, 64, 128, 192], vec![255], vec![0, 1, 2, 3, 4, 5, 130], vec![127, 128]] {
        let label = |i| if wrong.contains(&i) { Label(B256::ZERO) } else { LABEL };
        let items: Vec<_> = (0..256).map(|i| (&one, label(i))).collect();
        let answers = Tdh2.check(&key, &items, &mut dealt.rng);
        let found: Vec<usize> = (0..256).filter(|&i| answers[i].is_err()).collect();
        assert_eq!(found, wrong);
    }
}

#[test]
fn false_proofs_of_a_batch_cost_no_logarithm_and_one_author_costs_the_same_with_one_or_many() {
    let mut dealt = Dealt::new(&[1], 1);
    let (key, count) = (dealt.keys.encryption_key(), 128);
    let one = dealt.sealed(&[b"x"]).remove(0);
    let cost = |is_wrong: &dyn Fn(usize) -> bool, author: &dyn Fn(usize) -> usize| {
        let label = |i| if is_wrong(i) { Label(B256::ZERO) } else { LABEL };
        let items: Vec<_> = (0..count).map(|i| (&one, label(i))).collect();
        let authors: Vec<usize> = (0..count).map(author).collect();
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let answers = check_of_authors(&key, &items, &authors, &mut rng);
        (answers.iter().filter(|answer| answer.is_err()).count(), summed(&rng) as usize)
    };
    // Sums of 128, 64, 32 and so on; each of the rest is looked at alone. Halving all of them would sum 6 times 128.
    let (refused, summed) = cost(&|_| true, &|i| i);
    assert!(refused == count && summed <= 2 * count, "{refused}, {summed}");
    // The last: 128 and half of what is left, again and again.
    let (refused, summed) = cost(&|i| i == count - 1, &|i| i);
    assert!(refused == 1 && summed <= 2 * count, "{refused}, {summed}");
    // One author has half of the batch, the others one each.
    let author = |i| if i % 2 == 0 { 0 } else { i };
    let (few, many) = (cost(&|i| i == 64, &author), cost(&|i| i % 2 == 0, &author));
    assert_eq!((few.0, many.0), (64, 64), "who sends a wrong one has all of its own refused");
    assert_eq!(few.1, many.1);
    assert!(many.1 <= 4 * count, "{}", many.1);
}
