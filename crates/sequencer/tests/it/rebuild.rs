//! The chain's state from published batches alone, with damage named.

mod forged;

use std::{
    path::{Path, PathBuf},
    process::Output,
};

use cascade_primitives::{Address, ChainId, GenesisAccount, U256};
use cascade_sequencer::{
    exit::ExitCode,
    rpc::types::EnvelopeState,
    sealing::Seal,
    wallet::{Fees, Transfer},
};
use serde_json::Value;

use crate::{
    cli::cascade,
    cluster::{Cluster, funded, wait_for},
    http_server::{self, Say},
    sealed,
};

/// Stores the second word of its input under the first: PUSH1 32 CALLDATALOAD PUSH1 0 CALLDATALOAD SSTORE STOP.
const STORE: [u8; 8] = [0x60, 0x20, 0x35, 0x60, 0x00, 0x35, 0x55, 0x00];

fn contract() -> Address {
    Address::repeat_byte(0xcc)
}

/// A call that changes the contract's storage.
fn store_call(chain: ChainId, nonce: u64, fees: Fees) -> Transfer {
    let mut input = vec![0; 64];
    input[31] = nonce as u8;
    input[63] = (nonce >> 3) as u8 | 1;
    Transfer { chain, nonce, to: contract(), value: U256::ZERO, data: input.into(), gas: 100_000, fees }
}

/// Blocks that the chain makes: few, or with CASCADE_SLOW=1 the 1,000 of the acceptance.
fn blocks() -> u64 {
    if std::env::var_os("CASCADE_SLOW").is_some() { 1_000 } else { 100 }
}

/// A chain with transfers, calls of a contract and ends of epochs, whose node 0 publishes batches into `dir`.
fn published(dir: &Path) -> Cluster {
    let mut cluster = Cluster::new(4, |genesis, specs| {
        genesis.params.epoch_length = 40;
        genesis.params.batch_piece_bytes = 700;
        let code = GenesisAccount { code: STORE.to_vec().into(), ..GenesisAccount::default() };
        genesis.alloc.insert(contract(), code);
        // Another committee from the second epoch on.
        let mut later = genesis.committees[0].clone();
        later.from_epoch = cascade_primitives::Epoch(2);
        later.sequencers = specs.iter().map(|s| cascade_primitives::SequencerSpec { hat: 80, ..s.clone() }).collect();
        genesis.committees.push(later);
    });
    cluster.nodes[0].more = vec!["--set".to_owned(), format!("batches.dir={}", dir.display())];
    cluster.start_all();
    let (client, chain) = (cluster.client(1), cluster.genesis.params.chain_id);
    let mut nonce = 0;
    while cluster.height(0) < blocks() {
        let call = store_call(chain, nonce, Fees { max: 10_000_000_000, tip: 1 });
        let transfer = Transfer { nonce: nonce + 1, to: funded(9).address(), data: Default::default(), ..call.clone() };
        for transaction in [&call, &Transfer { value: U256::from(nonce), ..transfer }] {
            let (_, raw) = funded(3).sign(transaction);
            cluster.runtime.block_on(client.send_raw(&raw)).expect("it is taken");
            nonce += 1;
        }
        // About one pair a block.
        let height = cluster.height(1);
        cluster.wait_height(1, height + 1);
    }
    cluster
}

fn newest(dir: &Path) -> u64 {
    std::fs::read_to_string(dir.join("newest")).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn rebuild(from: &str) -> Output {
    cascade().args(["rebuild", "--json", "--from", from]).output().expect("cascade can be started")
}

fn rebuilt(from: &str) -> Value {
    let output = rebuild(from);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one line of JSON")
}

/// The same with the seconds that it took.
fn timed(from: &str) -> (Value, f64) {
    let start = std::time::Instant::now();
    (rebuilt(from), start.elapsed().as_secs_f64())
}

/// The state root that a running node has at a height.
fn live_root(cluster: &Cluster, height: u64) -> String {
    let block = cluster.runtime.block_on(cluster.client(1).block(height)).unwrap().expect("a final block");
    block.executed.expect("it is executed").state_root.to_string()
}

/// Batches and bytes in a directory.
fn size(dir: &Path) -> String {
    let (mut batches, mut bytes) = (0, 0);
    for place in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        batches += 1;
        bytes += std::fs::read_dir(place).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>();
    }
    format!("{batches} batches of {bytes} bytes")
}

fn assert_named(dir: &Path, words: &[&str]) {
    let output = rebuild(dir.to_str().unwrap());
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(i32::from(ExitCode::Corrupt.code())), "{text}");
    assert!(words.iter().all(|word| text.contains(word)), "{text} lacks one of {words:?}");
    assert!(output.stdout.is_empty(), "no result: {}", String::from_utf8_lossy(&output.stdout));
}

fn batch(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("batch-{first:020}"))
}

/// Serves a directory's files.
fn serve(dir: PathBuf) -> String {
    let url = http_server::serve(move |head, _| {
        let name = head.split(' ').nth(1).unwrap_or("/").trim_start_matches("/data/").to_owned();
        match std::fs::read(dir.join(name)) {
            Ok(body) => Say::Answer("200 OK", body),
            Err(_) => Say::Answer("404 Not Found", Vec::new()),
        }
    });
    format!("{url}/data/")
}

#[test]
fn batches_alone_give_the_live_state_root_and_damage_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("batches");
    let mut cluster = published(&dir);
    // The node goes on where it stopped.
    let before = newest(&dir);
    assert!(before > 0, "batches are published while the chain runs");
    assert_eq!(cluster.terminate(0), Some(0));
    cluster.start_node(0);
    wait_for("batches go on after a restart", || (newest(&dir) > before).then_some(()));
    assert_eq!(cluster.terminate(0), Some(0));

    let from = dir.to_str().unwrap();
    let (result, seconds) = timed(from);
    let height = result["height"].as_u64().unwrap();
    assert!(height >= newest(&dir) && height + 20 > blocks(), "{result}");
    assert_eq!(result["root_matches"], true, "{result}");
    let live = live_root(&cluster, height);
    assert_eq!(result["state_root"].as_str(), Some(live.as_str()), "{result}");
    assert_ne!(live, live_root(&cluster, 0));
    println!("plain: {height} blocks; {}, rebuilt in {seconds:.1} s", size(&dir));
    assert_eq!(result.as_object().unwrap().len(), 5, "{result}");
    assert_eq!(result["genesis_hash"].as_str(), Some(cluster.genesis.hash().to_string().as_str()), "{result}");
    let block = cluster.runtime.block_on(cluster.client(1).block(height)).unwrap().expect("a final block");
    assert_eq!(result["timestamp_ms"].as_u64(), Some(block.timestamp.0), "{result}");
    assert_eq!(rebuilt(&serve(dir.clone())), result, "the same over HTTP");
    forged::is_described(&dir, &result);
    forged::are_refused(&dir);
    forged::kept(&dir, &result);
    forged::over_a_bad_line(&dir, &result);

    // A batch in the middle.
    let first: u64 = std::fs::read_dir(&dir)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_prefix("batch-")?.parse().ok())
        .filter(|first| *first > 30)
        .min()
        .expect("there are some");
    let place = batch(&dir, first);
    let piece = place.join("piece-00001");
    let bytes = std::fs::read(&piece).expect("batches have several pieces here");
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 1;
    std::fs::write(&piece, &damaged).unwrap();
    assert_named(&dir, &[&format!("piece 1 of batch {first} is damaged")]);
    std::fs::write(&piece, &bytes[..bytes.len() - 1]).unwrap();
    assert_named(&dir, &[&format!("piece 1 of batch {first} is damaged")]);
    std::fs::remove_file(&piece).unwrap();
    assert_named(&dir, &[&format!("piece 1 of batch {first} is missing")]);
    std::fs::write(&piece, &bytes).unwrap();
    let away = directory.path().join("away");
    std::fs::rename(&place, &away).unwrap();
    assert_named(&dir, &[&format!("batch {first} ("), "is missing"]);
    // Another batch in its place.
    std::fs::create_dir(&place).unwrap();
    for entry in std::fs::read_dir(batch(&dir, 1)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), place.join(entry.file_name())).unwrap();
    }
    assert_named(&dir, &["does not follow", &format!("the blocks from {first} on are missing")]);
    std::fs::remove_dir_all(&place).unwrap();
    std::fs::rename(&away, &place).unwrap();
    let manifest = place.join("manifest");
    let bytes = std::fs::read(&manifest).unwrap();
    for at in [bytes.len() / 3, bytes.len() - 40] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 4;
        std::fs::write(&manifest, &damaged).unwrap();
        assert_named(&dir, &[&first.to_string()]);
    }
    std::fs::write(&manifest, &bytes).unwrap();
    assert_eq!(rebuilt(from), result, "put back, all is well");
}

/// A transfer of each of six accounts, a call of the contract, and last an envelope whose transaction ran already, which is
/// charged and fails. Answers where that one lies.
fn sealed_round(cluster: &Cluster, seal: &Seal, round: u64) -> u64 {
    let first = round * 8;
    let mut last = None;
    for i in 0..6 {
        let (_, raw) = sealed::transfer(cluster, &funded(i), round, 1 + i);
        last = Some(sealed::send(cluster, i as usize % 4, seal, &raw, first + i));
    }
    let (chain, fees) = (cluster.genesis.params.chain_id, Fees { max: 1_000_000_000, tip: 1 });
    let (_, raw) = funded(6).sign(&store_call(chain, round, fees));
    let call = sealed::send(cluster, 2, seal, &raw.into(), first + 6);
    sealed::wait_done(cluster, 1, last.expect("six were sent"));
    let status = sealed::wait_done(cluster, 1, call);
    assert_eq!(status.status, EnvelopeState::Executed, "{status:?}");
    let (_, raw) = sealed::transfer(cluster, &funded(0), round, 1);
    let failed = sealed::send(cluster, 1, seal, &raw, first + 7);
    let status = sealed::wait_done(cluster, 1, failed);
    assert_eq!(status.status, EnvelopeState::Failed, "{status:?}");
    status.height.expect("it is in a block").0
}

#[test]
fn batches_of_an_encrypted_chain_give_the_live_state_root_failed_envelopes_included() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("batches");
    let to = dir.clone();
    let slow = std::env::var_os("CASCADE_SLOW").is_some();
    let mut cluster = sealed::new(4, |genesis| {
        genesis.params.epoch_length = if slow { 120 } else { 40 };
        genesis.params.empty_block_interval = if slow { 1 } else { 2 };
        let code = GenesisAccount { code: STORE.to_vec().into(), ..GenesisAccount::default() };
        genesis.alloc.insert(contract(), code);
    });
    cluster.nodes[0].more = vec!["--set".to_owned(), format!("batches.dir={}", to.display())];
    cluster.start_all();
    // In the first epoch with a key, and in at least one after a handover with keys of its own.
    let (mut epoch, mut rounds, mut done) = (1, 0, 0);
    while epoch <= 2 || slow && cluster.height(0) < blocks() {
        let seal = sealed::wait_key(&cluster, 0, epoch);
        for _ in 0..if slow { 3 } else { 1 } {
            done = sealed_round(&cluster, &seal, rounds);
            rounds += 1;
        }
        epoch = seal.epoch.0 + 1;
    }
    wait_for("the last envelopes are published", || (newest(&dir) > done).then_some(()));
    assert_eq!(cluster.terminate(0), Some(0));
    let (result, seconds) = timed(dir.to_str().unwrap());
    let height = result["height"].as_u64().unwrap();
    assert!(height >= done && result["root_matches"] == true, "{result}");
    assert_eq!(result["state_root"].as_str(), Some(live_root(&cluster, height).as_str()), "{result}");
    forged::encrypted(&dir, &result);
    println!(
        "encrypted: {height} blocks in {} epochs, {} envelopes, {rounds} of them failed; {}, rebuilt in {seconds:.1} s",
        epoch,
        rounds * 8,
        size(&dir)
    );
}
