//! Batches in an S3-compatible bucket.

mod signature;

use std::{
    collections::BTreeMap,
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use cascade_primitives::U256;
use cascade_sequencer::{
    exit::ExitCode,
    wallet::{Fees, TRANSFER_GAS, Transfer},
};
use parking_lot::Mutex;
use serde_json::Value;

use crate::{
    cli::cascade,
    cluster::{Cluster, funded, wait_for},
    http_server::{self, Say},
};

const ID: &str = "id-31415926";
const SECRET: &str = "secret-27182818";
const URL: &str = "s3://archive/chains/one";

/// What of S3 is needed: whole objects put and got by path, in requests that are signed in version 4 by the key `ID`. Like
/// Amazon's it names the id of a key that it refuses.
#[derive(Clone, Default)]
struct Server {
    objects: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    requests: Arc<Mutex<Vec<String>>>,
    /// Takes requests and answers none.
    mute: Arc<AtomicBool>,
    /// Takes no key.
    closed: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
}

impl Server {
    fn start(&self) -> String {
        let server = self.clone();
        http_server::serve(move |head, body| {
            server.requests.lock().push(head.to_owned());
            if server.mute.load(Ordering::Relaxed) {
                return Say::Hold;
            }
            let (status, body) = server.answer(head, body);
            if status.starts_with("403") {
                server.refused.fetch_add(1, Ordering::Relaxed);
            }
            Say::Answer(status, body)
        })
    }

    fn answer(&self, head: &str, body: Vec<u8>) -> (&'static str, Vec<u8>) {
        let error = |code: &str| {
            format!("<Error><Code>{code}</Code><AWSAccessKeyId>{ID}</AWSAccessKeyId></Error>").into_bytes()
        };
        if self.closed.load(Ordering::Relaxed) || !signature::is_right(head, &body, ID, SECRET) {
            return ("403 Forbidden", error("SignatureDoesNotMatch"));
        }
        let mut words = head.split(' ');
        match (words.next(), words.next()) {
            (Some("PUT"), Some(path)) => {
                self.objects.lock().insert(path.to_owned(), body);
                ("200 OK", Vec::new())
            }
            (Some("GET"), Some(path)) => match self.objects.lock().get(path) {
                Some(object) => ("200 OK", object.clone()),
                None => ("404 Not Found", error("NoSuchKey")),
            },
            _ => ("501 Not Implemented", error("NotImplemented")),
        }
    }

    fn newest(&self) -> u64 {
        let objects = self.objects.lock();
        let newest = objects.get("/archive/chains/one/newest").and_then(|bytes| std::str::from_utf8(bytes).ok());
        newest.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }
}

fn environment(endpoint: &str) -> Vec<(&'static str, String)> {
    let keys = [("AWS_ACCESS_KEY_ID", ID), ("AWS_SECRET_ACCESS_KEY", SECRET), ("AWS_ENDPOINT_URL", endpoint)];
    keys.map(|(name, value)| (name, value.to_owned())).to_vec()
}

fn rebuild(environment: Vec<(&'static str, String)>) -> Output {
    let mut command = cascade();
    command.args(["rebuild", "--json", "--from", URL]).envs(environment);
    command.output().expect("cascade can be started")
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_node_publishes_into_a_bucket_from_which_the_state_is_rebuilt() {
    let server = Server::default();
    let endpoint = server.start();
    // Before there is anything.
    let output = rebuild(environment(&endpoint));
    assert_eq!(output.status.code(), Some(i32::from(ExitCode::Corrupt.code())), "{}", words(&output));
    assert!(words(&output).contains("genesis.json"), "{}", words(&output));

    let mut cluster = Cluster::new(4, |genesis, _| {
        genesis.params.batch_piece_bytes = 700;
        genesis.params.empty_block_interval = 2;
    });
    cluster.nodes[0].more = ["--set", &format!("batches.url={URL}"), "--set", "log.level=debug,object_store=trace"]
        .map(str::to_owned)
        .to_vec();
    cluster.nodes[0].environment = environment(&endpoint);
    cluster.start_all();
    for nonce in 0..5 {
        let fees = Fees { max: 10_000_000_000, tip: 1 };
        let (to, value) = (funded(9).address(), U256::from(nonce + 1));
        let chain = cluster.genesis.params.chain_id;
        let transfer = Transfer { chain, nonce, to, value, data: Default::default(), gas: TRANSFER_GAS, fees };
        let (_, raw) = funded(3).sign(&transfer);
        cluster.runtime.block_on(cluster.client(1).send_raw(&raw)).expect("it is taken");
        let height = cluster.height(1);
        cluster.wait_height(1, height + 2);
    }
    let height = cluster.height(1);
    wait_for("the transfers are published", || (server.newest() > height).then_some(()));
    // It goes on where it stopped.
    assert_eq!(cluster.terminate(0), Some(0));
    let before = server.newest();
    cluster.start_node(0);
    wait_for("batches go on after a restart", || (server.newest() > before).then_some(()));
    // While the store refuses, the node says so, without the key that it used, and goes on.
    server.closed.store(true, Ordering::Relaxed);
    let refused = server.refused.load(Ordering::Relaxed);
    wait_for("the store refuses", || (server.refused.load(Ordering::Relaxed) > refused).then_some(()));
    wait_for("the node says so", || cluster.log(0).contains("SignatureDoesNotMatch").then_some(()));
    server.closed.store(false, Ordering::Relaxed);
    let before = server.newest();
    wait_for("batches go on after a refusal", || (server.newest() > before).then_some(()));
    // A store that does not answer keeps nobody from stopping.
    server.mute.store(true, Ordering::Relaxed);
    let seen = server.requests.lock().len();
    wait_for("a request is without an answer", || (server.requests.lock().len() > seen).then_some(()));
    let asked = Instant::now();
    assert_eq!(cluster.terminate(0), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    server.mute.store(false, Ordering::Relaxed);
    assert!(!cluster.log(0).contains(SECRET) && !cluster.log(0).contains(ID), "keys are never logged");
    assert!(server.requests.lock().iter().all(|head| !head.contains(SECRET)));

    let output = rebuild(environment(&endpoint));
    assert!(output.status.success(), "{}", words(&output));
    let result: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    let height = result["height"].as_u64().unwrap();
    assert!(height >= server.newest() && result["root_matches"] == true, "{result}");
    let live = cluster.runtime.block_on(cluster.client(1).block(height)).unwrap().expect("a final block");
    let live = live.executed.expect("it is executed").state_root.to_string();
    assert_eq!(result["state_root"].as_str(), Some(live.as_str()), "{result}");

    without_keys(&server, &endpoint);
    damaged(&server, &endpoint);
    shown(&endpoint);
}

/// Without keys, with half of them, with a wrong one.
fn without_keys(server: &Server, endpoint: &str) {
    let output = rebuild(environment(endpoint).split_off(2));
    assert_eq!(output.status.code(), Some(i32::from(ExitCode::Failed.code())), "{}", words(&output));
    assert!(words(&output).contains("genesis.json") && words(&output).contains("403"), "{}", words(&output));
    let output = rebuild(environment(endpoint).split_off(1));
    assert_eq!(output.status.code(), Some(i32::from(ExitCode::Usage.code())), "{}", words(&output));
    assert!(words(&output).contains("AWS_ACCESS_KEY_ID is missing"), "{}", words(&output));
    assert!(!words(&output).contains(SECRET));
    let mut wrong = environment(endpoint);
    wrong[1].1 = "secret-16180339".to_owned();
    let refused = server.refused.load(Ordering::Relaxed);
    let output = rebuild(wrong);
    assert_eq!(output.status.code(), Some(i32::from(ExitCode::Failed.code())), "{}", words(&output));
    assert_eq!(server.refused.load(Ordering::Relaxed), refused + 1, "a refusal is not repeated");
    let text = words(&output);
    assert!(text.contains("SignatureDoesNotMatch") && !text.contains("16180339") && !text.contains(ID), "{text}");
}

/// Objects that are damaged, cut, of another place or not there are named.
fn damaged(server: &Server, endpoint: &str) {
    let named = |expected: &[&str]| {
        let output = rebuild(environment(endpoint));
        assert_eq!(output.status.code(), Some(i32::from(ExitCode::Corrupt.code())), "{}", words(&output));
        assert!(expected.iter().all(|word| words(&output).contains(word)), "{} lacks {expected:?}", words(&output));
        assert!(output.stdout.is_empty(), "no result: {output:?}");
    };
    let piece =
        server.objects.lock().keys().find(|name| name.ends_with("/piece-00001")).expect("several pieces").clone();
    let first: u64 = piece.split('/').nth_back(1).and_then(|batch| batch.strip_prefix("batch-")?.parse().ok()).unwrap();
    let put = |bytes: Vec<u8>| server.objects.lock().insert(piece.clone(), bytes);
    let bytes = server.objects.lock()[&piece].clone();
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    put(flipped);
    named(&[&format!("piece 1 of batch {first} is damaged")]);
    put(bytes[..bytes.len() - 1].to_vec());
    named(&[&format!("piece 1 of batch {first} is damaged")]);
    server.objects.lock().remove(&piece);
    named(&[&format!("piece 1 of batch {first} is missing")]);
    put(bytes);
    let manifest = piece.replace("/piece-00001", "/manifest");
    let bytes = server.objects.lock().remove(&manifest).expect("it is there");
    named(&[&format!("batch {first} ("), "is missing"]);
    server.objects.lock().insert(manifest, bytes);
    let output = rebuild(environment(endpoint));
    assert!(output.status.success(), "put back, all is well: {}", words(&output));
}

/// `cascade config` shows where batches go, and no key.
fn shown(endpoint: &str) {
    let home = tempfile::tempdir().unwrap();
    let url = format!("batches.url={URL}");
    let data = home.path().to_str().unwrap();
    let output = cascade()
        .args(["config", "--data", data, "--set", &url])
        .envs(environment(endpoint))
        .output()
        .expect("cascade can be started");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &words(&output);
    assert!(output.status.success() && text.contains(URL), "{text}");
    assert!(!text.contains(ID) && !text.contains(SECRET), "{text}");
    let output = cascade()
        .args(["config", "--data", data, "--set", &format!("batches.url=s3://{ID}:{SECRET}@archive")])
        .output()
        .expect("cascade can be started");
    assert_eq!(output.status.code(), Some(i32::from(ExitCode::Usage.code())), "{}", words(&output));
    assert!(words(&output).contains("batches.url") && !words(&output).contains(SECRET), "{}", words(&output));
}
