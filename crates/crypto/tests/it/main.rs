//! Golden files: the encodings of everything that the threshold schemes put on the wire, into the log or on a disk. A
//! change of one is a change of the protocol.
//!
//! `CASCADE_BLESS=1 cargo test -p cascade-crypto` writes the files anew; the diff then shows what changed.

use std::{fmt::Debug, fs, path::Path};

use cascade_crypto::{
    BlsScheme, BlsSecretKey, VoteSigner as _,
    dkg::{Dealing, KeyGeneration, Parameters, Progress, RecipientKey, RecipientSecret, dealing},
    threshold::{
        BlockShares, Ciphertext, EncryptionScheme as _, EpochKeys, Label, SeatMap, SecretShares, Slot, Tdh2, beacon,
        order, store,
    },
};
use cascade_primitives::{
    Address, B256, BlockHash, ChainId, Decode, Encode, Epoch, Fork, Height, MemberIndex, NodeId, SigningContext,
};
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;

const EPOCH: Epoch = Epoch(4);

fn golden(name: &str, bytes: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex"));
    let found = hex::encode(bytes);
    if std::env::var_os("CASCADE_BLESS").is_some() {
        fs::write(&path, found + "\n").expect("the golden file can be written");
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(found == expected.trim_end(), "the format of {name} changed: that is another protocol version");
}

fn frozen<T: Encode + Decode + PartialEq + Debug>(name: &str, value: &T) {
    let bytes = value.to_bytes();
    golden(name, &bytes);
    assert_eq!(&T::from_slice(&bytes).expect("what was encoded decodes"), value);
    assert!(T::from_slice(&bytes[..bytes.len() - 1]).is_err(), "a cut {name} is refused");
    assert!(T::from_slice(&[bytes.as_slice(), &[0]].concat()).is_err(), "a {name} with a byte more is refused");
}

#[test]
fn what_key_generation_and_encryption_write_is_frozen() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let context = SigningContext { chain_id: ChainId(20252), genesis_hash: B256::repeat_byte(1), fork: Fork(0) };
    let voting = BlsSecretKey::derive(&[1; 32]).unwrap();
    let secret = RecipientSecret::generate(EPOCH, &mut rng);
    let announced = secret.announce(&context, (B256::repeat_byte(2), NodeId([3; 32])), &voting, &mut rng);
    frozen::<RecipientKey>("recipient-key", &announced);
    let key = announced.verify(&context, &BlsScheme::default(), &voting.public_key()).unwrap();

    let map = SeatMap::new(&[2]).unwrap();
    let parameters =
        Parameters::new(context, EPOCH, (map.clone(), vec![voting.public_key()]), (map.clone(), vec![key])).unwrap();
    let dealing = dealing::deal(&parameters, MemberIndex(0), &voting, &mut rng);
    frozen::<Dealing>("dealing", &dealing);
    golden("dealing-digest", dealing.digest(&parameters).as_slice());
    let mut generation = KeyGeneration::new(parameters);
    let progress = generation.apply(&dealing, &BlsScheme::default(), &mut rng);
    assert_eq!(progress, Ok(Progress { dealt: 2, needed: 2 }));
    let keys = generation.keys().unwrap();
    frozen::<EpochKeys>("epoch-keys", keys);
    golden("epoch-keys-commitment", keys.commitment().0.unwrap().as_slice());
    let shares = generation.shares(MemberIndex(0), &secret).unwrap();
    frozen::<SecretShares>("secret-shares", &shares);
    let record = store::seal_shares(&voting, &shares, &mut rng);
    golden("stored-shares", &record);
    assert_eq!(store::open_shares(&voting, EPOCH, &record).unwrap(), shares);

    let kept = store::seal_recipient(&voting, &secret, &mut ChaCha20Rng::seed_from_u64(2));
    golden("stored-recipient", &kept);
    assert_eq!(store::open_recipient(&voting, EPOCH, &kept).unwrap().public_key(), key);

    let label = Label(B256::repeat_byte(9));
    let sealed = Tdh2.seal(&keys.decryption.encryption_key(), &label, b"payload", &mut rng).unwrap();
    frozen::<Ciphertext>("ciphertext", &sealed);
    let bases = [Tdh2.check(&keys.decryption.encryption_key(), &[(&sealed, label)], &mut rng)[0].unwrap()];
    let (height, block) = (Height(7), BlockHash([8; 32]));
    let message = beacon::message(&context, EPOCH, height, block);
    golden("beacon-message", message.as_slice());
    let sent = BlockShares::create((Fork(0), height, block), &shares, &beacon::base(&message), &bases);
    frozen::<BlockShares>("block-shares", &sent);
    golden("block-shares-digest", sent.digest().as_slice());

    let seats = map.seats(MemberIndex(0));
    let read = Tdh2.read_share(MemberIndex(0), seats, &bases, &sent.beacon).unwrap();
    let signature = Tdh2.combine(&keys.beacon, &[beacon::base(&message)], &[read], &mut rng).values.unwrap()[0];
    golden("beacon-signature", &signature.to_compressed());
    golden("beacon-value", beacon::value(&signature).as_slice());
}

#[test]
fn the_order_of_a_block_is_frozen() {
    let slot = |i: u8| Slot { payer: Address::repeat_byte(i % 5), nonce: u64::from(100 - i) };
    let slots: Vec<Slot> = (0..40).map(slot).collect();
    let order: Vec<u8> = order(&B256::repeat_byte(0x5a), 3, &slots).into_iter().map(|i| i as u8).collect();
    golden("order", &order);
}
