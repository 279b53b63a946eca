//! Decoders on hostile bytes, and frozen encodings.

use cascade_light::{Ask, Chain, ChainAnswer, ChainRequest, Checkpoint, Handover, Reply, ask::MAX_FRAUDS, wire};
use cascade_primitives::{Decode, Encode, Epoch, Height};
use proptest::prelude::*;

use super::world::{TestChain, signing};

fn canonical<T: Decode + Encode>(bytes: &[u8]) {
    if let Ok(value) = T::from_slice(bytes) {
        assert_eq!(value.to_bytes(), bytes);
    }
}

fn all(bytes: &[u8]) {
    canonical::<ChainRequest>(bytes);
    canonical::<ChainAnswer>(bytes);
    canonical::<Handover>(bytes);
    canonical::<Ask>(bytes);
    canonical::<Reply>(bytes);
    canonical::<Checkpoint>(bytes);
    if let Ok(chain) = Chain::restore(signing(), bytes) {
        assert_eq!(chain.to_bytes(), bytes);
    }
}

fn answers() -> Vec<Vec<u8>> {
    let mut chain = TestChain::new(4, 5, 500, true);
    for _ in 0..11 {
        chain.grow_with(None);
    }
    let requests = [
        ChainRequest::Start { height: Height(3) },
        ChainRequest::Handovers { from: Epoch(0) },
        ChainRequest::Head { ancestor: Height(3) },
        ChainRequest::Headers { from: Height(6) },
    ];
    requests.iter().map(|request| chain.answer(request).to_bytes()).collect()
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), tag in 0u8..6) {
        all(&bytes);
        let mut tagged = vec![tag];
        tagged.extend_from_slice(&bytes);
        all(&tagged);
    }
}

#[test]
fn damaged_answers_never_panic_and_answers_round_trip() {
    for bytes in answers() {
        assert!(bytes.len() < wire::MAX_ANSWER_BYTES);
        assert!(ChainAnswer::from_slice(&bytes).is_ok());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x81;
            all(&damaged);
            all(&bytes[..at]);
        }
    }
}

#[test]
fn lists_of_proofs_are_short_and_rise() {
    let ask = Ask::Frauds { from: Height(0x0102) };
    assert_eq!(hex::encode(ask.to_bytes()), "060201000000000000");
    assert_eq!(Ask::from_slice(&ask.to_bytes()), Ok(ask.clone()));
    let list = |heights: &[u64]| Reply::Frauds(heights.iter().copied().map(Height).collect()).to_bytes();
    let most: Vec<u64> = (1..=MAX_FRAUDS as u64).collect();
    for right in [&[][..], &[7], &[7, 9], &most] {
        assert!(Reply::from_slice(&list(right)).is_ok(), "{right:?}");
        assert!(list(right).len() <= ask.max_reply());
    }
    let too_many: Vec<u64> = (1..=MAX_FRAUDS as u64 + 1).collect();
    for wrong in [&[7, 7][..], &[9, 7], &too_many] {
        assert!(Reply::from_slice(&list(wrong)).is_err(), "{wrong:?}");
    }
}

#[test]
fn encodings_are_frozen() {
    let requests = [
        ChainRequest::Start { height: Height(3) },
        ChainRequest::Handovers { from: Epoch(4) },
        ChainRequest::Head { ancestor: Height(5) },
        ChainRequest::Headers { from: Height(0x0102_0304) },
    ];
    let found: Vec<String> = requests.iter().map(|request| hex::encode(request.to_bytes())).collect();
    assert_eq!(found, ["010300000000000000", "020400000000000000", "030500000000000000", "040403020100000000"]);
    let hashes: Vec<String> = answers()
        .iter()
        .map(|bytes| hex::encode(cascade_primitives::hash::tagged(cascade_primitives::domain::LABEL, &[bytes])))
        .collect();
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/answers.txt");
    let text = hashes.join("\n") + "\n";
    if std::env::var_os("CASCADE_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        return;
    }
    assert_eq!(text, std::fs::read_to_string(&path).unwrap(), "the encoding of an answer changed");
}
