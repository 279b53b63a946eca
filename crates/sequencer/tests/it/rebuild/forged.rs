//! Archives that somebody forged, and a kept database.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use cascade_da::batch::{BatchError, BatchReader, BatchWriter, Manifest};
use cascade_primitives::{B256, Block, Bytes, Decode as _, Encode as _, Epoch, VoteTarget};
use cascade_sequencer::exit::ExitCode;
use serde_json::Value;
use tempfile::TempDir;

use super::{Say, assert_named, batch, cascade, http_server, rebuilt, wait_for};

/// A copy of an archive.
fn copied(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let to = copy.path().join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir(&to).unwrap();
            for file in fs::read_dir(entry.path()).unwrap().map(Result::unwrap) {
                fs::copy(file.path(), to.join(file.file_name())).unwrap();
            }
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
    copy
}

/// The first heights of all batches, in order.
pub fn firsts(dir: &Path) -> Vec<u64> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut firsts: Vec<u64> = names.filter_map(|name| name.to_str()?.strip_prefix("batch-")?.parse().ok()).collect();
    firsts.sort_unstable();
    firsts
}

pub fn manifest(dir: &Path, first: u64) -> Manifest {
    Manifest::from_slice(&fs::read(batch(dir, first).join("manifest")).unwrap()).unwrap()
}

pub fn put(dir: &Path, manifest: &Manifest) {
    fs::write(batch(dir, manifest.first().0).join("manifest"), manifest.to_bytes()).unwrap();
}

fn blocks(dir: &Path, manifest: &Manifest) -> Vec<Block> {
    let (mut reader, mut blocks) = (BatchReader::new(manifest), Vec::new());
    for index in 0..manifest.pieces.len() {
        let piece = fs::read(batch(dir, manifest.first().0).join(format!("piece-{index:05}"))).unwrap();
        reader
            .push(index, &piece, |block| {
                blocks.push(block);
                Ok::<_, BatchError>(())
            })
            .unwrap();
    }
    blocks
}

fn remove_pieces(dir: &Path, first: u64) {
    for file in fs::read_dir(batch(dir, first)).unwrap().map(Result::unwrap) {
        if file.file_name().to_str().unwrap().starts_with("piece-") {
            fs::remove_file(file.path()).unwrap();
        }
    }
}

/// Puts other blocks into a batch, whose manifest is right about its pieces.
fn fill(dir: &Path, manifest: &Manifest, blocks: &[Block]) {
    let mut writer = BatchWriter::new(manifest.chain, manifest.before, 700);
    blocks.iter().for_each(|block| writer.push(block).unwrap());
    let (made, pieces) = writer.finish(manifest.seal.clone());
    remove_pieces(dir, manifest.first().0);
    for (index, piece) in pieces.iter().enumerate() {
        fs::write(batch(dir, manifest.first().0).join(format!("piece-{index:05}")), piece).unwrap();
    }
    put(dir, &Manifest { raw_bytes: made.raw_bytes, content: made.content, pieces: made.pieces, ..manifest.clone() });
}

/// A seal that names its own header, whoever signed it.
fn point_at_header(manifest: &mut Manifest) {
    let header = &manifest.seal.header;
    manifest.seal.certificate.target = VoteTarget::commit(header.epoch, header.view, header.hash());
}

/// The first batch that can be forged in the middle of the chain.
fn victim(dir: &Path, fits: impl Fn(&Manifest) -> bool) -> Manifest {
    let found = firsts(dir).into_iter().filter(|first| *first > 20).map(|first| manifest(dir, first)).find(fits);
    found.expect("there is such a batch")
}

/// Whoever forges a batch is found out, and before much of it is fetched or executed.
pub fn are_refused(dir: &Path) {
    let inside = |m: &Manifest| m.seal.fillers.is_empty() && m.last.0 + 2 < firsts(dir).last().copied().unwrap();
    let real = victim(dir, inside);
    let (first, named) = (real.first().0, format!("batch {} to {}", real.first(), real.last));

    // Other results than a quorum signed: nothing is fetched.
    let archive = copied(dir);
    let mut forged = real.clone();
    forged.seal.header.results.last_mut().unwrap().state_root = B256::repeat_byte(7);
    point_at_header(&mut forged);
    put(archive.path(), &forged);
    remove_pieces(archive.path(), first);
    assert_named(archive.path(), &[&named, "the seal's certificate does not hold"]);

    // Of an epoch that is so far away that its committee cannot be known, with pieces or without.
    let archive = copied(dir);
    let mut forged = real.clone();
    forged.seal.header.epoch = Epoch(real.seal.header.epoch.0 + 9);
    point_at_header(&mut forged);
    put(archive.path(), &forged);
    remove_pieces(archive.path(), first);
    assert_named(archive.path(), &[&named, "it is not sealed by the committee of its epoch"]);

    // Of the next epoch, whose committee the batch's blocks might settle, as far as can be known before they are there.
    let archive = copied(dir);
    let mut forged = real.clone();
    forged.seal.header.epoch = real.seal.header.epoch.next();
    forged.seal.header.committee_root = B256::repeat_byte(9);
    point_at_header(&mut forged);
    put(archive.path(), &forged);
    assert_named(archive.path(), &[&named, "it is not sealed by the committee that its blocks lead to"]);
    // The blocks below such a seal show the votes of their own committee, each of them.
    let mut blocks_of = blocks(dir, &real);
    blocks_of.truncate(2);
    let last = spoil(blocks_of.last_mut().unwrap());
    fill(archive.path(), &forged, &blocks_of);
    assert_named(archive.path(), &[&format!("block {last}"), "a certificate in it"]);

    // Below a seal that holds every sixteenth does.
    let archive = copied(dir);
    let real = victim(dir, |m| (m.first().0..=m.last.0).any(|height| height.is_multiple_of(16)));
    let mut blocks_of = blocks(dir, &real);
    let at = blocks_of.iter().position(|block| block.header.height.0.is_multiple_of(16)).unwrap();
    blocks_of.truncate(at + 1);
    let last = spoil(blocks_of.last_mut().unwrap());
    fill(archive.path(), &real, &blocks_of);
    assert_named(archive.path(), &[&format!("block {last} of batch {}", real.first()), "a certificate in it"]);
    poisoned(dir);
}

/// Gives a block another certificate of its parent than its parent has.
fn spoil(block: &mut Block) -> u64 {
    block.body.certificates.parent.as_mut().expect("it is within an epoch").signature.0[95] ^= 1;
    block.header.body_root = block.body.root();
    block.header.height.0
}

/// A block that cannot be executed is the batch's fault, not this program's; and what it left in a kept database is
/// recognised.
fn poisoned(dir: &Path) {
    let archive = copied(dir);
    let with_content = |block: &Block| !block.body.transactions.is_empty() && !block.header.height.0.is_multiple_of(16);
    let real = victim(dir, |m| blocks(dir, m).iter().any(with_content));
    let mut blocks_of = blocks(dir, &real);
    let at = blocks_of.iter().position(with_content).unwrap();
    blocks_of.truncate(at + 1);
    let block = blocks_of.last_mut().unwrap();
    block.body.transactions[0] = Bytes::from_static(&[1, 2, 3]);
    block.header.body_root = block.body.root();
    let height = block.header.height;
    fill(archive.path(), &real, &blocks_of);
    let named = format!("batch {} to {} is damaged", real.first(), real.last);
    assert_named(archive.path(), &[&named, "a transaction that is none"]);

    let data = tempfile::tempdir().unwrap();
    let run = |from: &Path| {
        let output = cascade().args(["rebuild", "--from"]).arg(from).arg("--data").arg(data.path()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let corrupt = Some(i32::from(ExitCode::Corrupt.code()));
    let (code, text) = run(archive.path());
    assert!(code == corrupt && text.contains(&named), "{code:?} {text}");
    let (code, text) = run(dir);
    assert!(code == corrupt && text.contains(&format!("block {height} is another one")), "{code:?} {text}");
}

/// A database that is kept goes on after an interruption in the middle of a batch, without what it has already.
pub fn kept(dir: &Path, expected: &Value) {
    let data = tempfile::tempdir().unwrap();
    let all = firsts(dir);
    let middle = all[all.len() / 2];
    let stuck = Arc::new(AtomicBool::new(false));
    let url = {
        let (stuck, dir) = (Arc::clone(&stuck), dir.to_owned());
        http_server::serve(move |head, _| {
            let name = head.split(' ').nth(1).unwrap_or("/").trim_start_matches('/').to_owned();
            if name.ends_with("piece-00001") && name.contains(&format!("{middle:020}")) {
                stuck.store(true, Ordering::Relaxed);
                return Say::Hold;
            }
            Say::Answer("200 OK", fs::read(dir.join(name)).unwrap())
        })
    };
    let arguments = |from: &str| {
        let mut command = cascade();
        command.args(["rebuild", "--json", "--from", from, "--data"]).arg(data.path());
        command
    };
    let mut child = arguments(&url).stdout(std::process::Stdio::null()).spawn().unwrap();
    wait_for("it waits for a piece", || stuck.load(Ordering::Relaxed).then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();

    let archive = copied(dir);
    all.iter().filter(|first| **first < middle).for_each(|first| remove_pieces(archive.path(), *first));
    for round in 0..2 {
        let output = arguments(archive.path().to_str().unwrap()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(&serde_json::from_slice::<Value>(&output.stdout).unwrap(), expected);
        if round == 0 {
            // Now all of it is there.
            all.iter().for_each(|first| remove_pieces(archive.path(), *first));
        }
    }
    // What is there is checked again all the same.
    let mut forged = manifest(dir, middle);
    forged.seal.certificate.signature.0[95] ^= 1;
    put(archive.path(), &forged);
    let output = arguments(archive.path().to_str().unwrap()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(i32::from(ExitCode::Corrupt.code())), "{text}");
    assert!(text.contains("the seal's certificate does not hold"), "{text}");
    // Another chain's it is not.
    let mut genesis: Value = serde_json::from_slice(&fs::read(dir.join("genesis.json")).unwrap()).unwrap();
    genesis["params"]["max_validity"] = 599.into();
    let other = data.path().join("other.json");
    fs::write(&other, genesis.to_string()).unwrap();
    let output = arguments(dir.to_str().unwrap()).arg("--genesis").arg(other).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(i32::from(ExitCode::Foreign.code())), "{text}");
}

/// Which chain it is and how far it came is said, and whom that rests on.
pub fn is_described(dir: &Path, expected: &Value) {
    let home = tempfile::tempdir().unwrap();
    let genesis = home.path().join("genesis.json");
    fs::copy(dir.join("genesis.json"), &genesis).unwrap();
    let run = |with: bool| {
        let mut command = cascade();
        command.args(["rebuild", "--from"]).arg(dir);
        if with {
            command.arg("--genesis").arg(&genesis);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let hash = expected["genesis_hash"].as_str().unwrap();
    let (told, warned) = run(false);
    assert!(warned.contains("warning") && warned.contains(hash) && warned.contains("--genesis"), "{warned}");
    let (same, silent) = run(true);
    assert!(!silent.contains("warning"), "{silent}");
    for text in [told, same] {
        for word in ["genesis_hash", "state_root"].map(|key| expected[key].as_str().unwrap().to_owned()) {
            assert!(text.contains(&word), "{text} lacks {word}");
        }
        let made = format!("height {}, made ", expected["height"]);
        assert!(
            text.contains(&made) && text.contains(" ago (") && text.contains(&expected["timestamp_ms"].to_string()),
            "{text}"
        );
    }
    // Without a batch there is nothing to tell.
    fs::write(home.path().join("newest"), "0\n").unwrap();
    assert_named(home.path(), &["there is no batch: newest is 0"]);
    fs::remove_file(home.path().join("newest")).unwrap();
    assert_named(home.path(), &["there is no batch: newest is missing"]);
}

/// A server that fails now and then is asked again; one that refuses is not.
pub fn over_a_bad_line(dir: &Path, expected: &Value) {
    let asked = Arc::new(AtomicUsize::new(0));
    let serve = |answer: Box<dyn Fn(usize) -> Option<Say> + Send>| {
        let (dir, asked) = (dir.to_owned(), Arc::clone(&asked));
        http_server::serve(move |head, _| {
            let count = asked.fetch_add(1, Ordering::Relaxed);
            let name = head.split(' ').nth(1).unwrap_or("/").trim_start_matches('/').to_owned();
            answer(count).unwrap_or_else(|| Say::Answer("200 OK", fs::read(dir.join(name)).unwrap()))
        })
    };
    let url = serve(Box::new(|count| match count % 96 {
        0 => Some(Say::Answer("503 Service Unavailable", Vec::new())),
        1 | 48 => Some(Say::Close),
        _ => None,
    }));
    assert_eq!(&rebuilt(&url), expected);
    for (status, requests) in [("403 Forbidden", 1), ("503 Service Unavailable", 4)] {
        let url = serve(Box::new(move |_| Some(Say::Answer(status, Vec::new()))));
        let before = asked.load(Ordering::Relaxed);
        let output = super::rebuild(&url);
        assert_eq!(output.status.code(), Some(i32::from(ExitCode::Failed.code())), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(&status[..3]), "{output:?}");
        assert_eq!(asked.load(Ordering::Relaxed) - before, requests);
    }
}

/// Of an encrypted chain: values that open nothing are the batch's fault, and a kept database goes on with more batches.
pub fn encrypted(dir: &Path, expected: &Value) {
    let archive = copied(dir);
    let all = firsts(dir);
    let mut forged = all.iter().map(|first| manifest(dir, *first)).find(|m| !m.seal.reveals.is_empty()).unwrap();
    forged.seal.reveals[0].beacon[47] ^= 1;
    put(archive.path(), &forged);
    let named = format!("batch {} to {} is damaged", forged.first(), forged.last);
    assert_named(archive.path(), &[&named, "values that open nothing"]);

    let (data, archive) = (tempfile::tempdir().unwrap(), copied(dir));
    let middle = all[all.len() / 2];
    fs::write(archive.path().join("newest"), middle.to_string()).unwrap();
    let run = || {
        let mut command = cascade();
        command.args(["rebuild", "--json", "--data"]).arg(data.path()).arg("--from").arg(archive.path());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    assert_eq!(run()["height"], manifest(dir, middle).last.0);
    fs::copy(dir.join("newest"), archive.path().join("newest")).unwrap();
    all.iter().filter(|first| **first <= middle).for_each(|first| remove_pieces(archive.path(), *first));
    assert_eq!(&run(), expected);
}
