//! The corpora of the fuzz targets as plain tests, and proof that the rules can be broken.

use std::{fs, path::PathBuf};

use cascade_checks::{Source, TARGETS, canonical};
use cascade_primitives::{Decode, DecodeError, Encode, Reader};

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Runs a target's function over its corpus, and over every input cut in half and with one byte changed.
fn run(name: &str) {
    let (_, check) = TARGETS.iter().find(|(target, _)| *target == name).expect("a target of this name");
    let files = corpus(name);
    assert!(files.len() >= 5, "the corpus of {name} has {} inputs", files.len());
    for (place, (path, input)) in files.into_iter().enumerate() {
        println!("{}", path.display());
        check(&input);
        check(&input[..input.len() / 2]);
        let mut changed = input;
        if !changed.is_empty() {
            let at = place * 31 % changed.len();
            changed[at] ^= 1 << (place % 8);
        }
        check(&changed);
    }
}

#[test]
fn corpus_of_blocks() {
    run("blocks");
}

#[test]
fn corpus_of_consensus() {
    run("consensus");
}

#[test]
fn corpus_of_light() {
    run("light");
}

#[test]
fn corpus_of_network() {
    run("network");
}

#[test]
fn corpus_of_sealed() {
    run("sealed");
}

#[test]
fn corpus_of_state() {
    run("state");
}

#[test]
fn corpus_of_storage() {
    run("storage");
}

#[test]
fn corpus_of_text() {
    run("text");
}

#[test]
fn corpus_of_transaction() {
    run("transaction");
}

#[test]
fn every_target_has_a_program_and_every_program_a_target() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/fuzz_targets");
    let mut programs: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    programs.sort();
    let targets: Vec<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(programs, targets);
}

#[test]
fn arbitrary_bytes_break_no_rule() {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    for (_, check) in TARGETS {
        for round in 0..400_usize {
            let length = 1 + round * 3 % 700;
            let input: Vec<u8> = (0..length).map(|_| next()).collect();
            check(&input);
        }
    }
}

/// A decoder that takes any byte for a bool, as a careless one would.
#[derive(Debug, PartialEq)]
struct Careless(bool);

impl Encode for Careless {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.0));
    }
}

impl Decode for Careless {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(u8::decode(r)? != 0))
    }
}

#[test]
#[should_panic(expected = "has another encoding")]
fn a_second_encoding_is_found() {
    canonical::<Careless>(&[2]);
}

/// A decoder that is content with less.
#[derive(Debug, PartialEq)]
struct Greedy(Vec<u8>);

impl Encode for Greedy {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
}

impl Decode for Greedy {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(r.take(r.left())?.to_vec()))
    }
}

#[test]
#[should_panic(expected = "a prefix of")]
fn a_value_that_is_the_beginning_of_another_is_found() {
    canonical::<Greedy>(&[1, 2, 3, 4]);
}

#[test]
fn a_source_never_runs_dry() {
    let mut source = Source::new(&[1, 2]);
    assert_eq!((source.byte(), source.byte(), source.byte()), (1, 2, 0));
    assert_eq!(source.list(200, Source::byte), Vec::<u8>::new());
    assert!(source.bytes(10).is_empty());
}
