//! Light clients against real nodes: honest ones, ones that withhold, one that lies.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    ops::RangeInclusive,
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use cascade_da::{
    Shape, sampling,
    wire::{Answer, Request},
};
use cascade_light::{Ask, Chain, ChainAnswer, ChainRequest, Checkpoint, Reply, ask::QUIC_TAG, sampling_seed};
use cascade_primitives::{B256, Bytes, Decode as _, Encode as _, Height, U256};
use cascade_sequencer::{
    exit::ExitCode,
    light::{checkpoint_text, http},
    rpc::types::EpochKeys,
    testnet::accounts::proxy_account,
    wallet::{Fees, TRANSFER_GAS, Transfer},
};
use serde_json::Value;

use crate::{
    cli::cascade,
    cluster::{Cluster, funded, wait_for},
    http_server::{self, Say},
    proxy::Proxy,
    sealed,
    testnet::Testnet,
};

/// Decides what is sampled.
const SEED: &str = "0x0909090909090909090909090909090909090909090909090909090909090909";
pub fn url(cluster: &Cluster, node: usize) -> String {
    cluster.nodes[node].file.as_ref().expect("it runs").rpc_http.clone()
}

pub fn authority(cluster: &Cluster, node: usize) -> String {
    http::authority(&url(cluster, node)).expect("a node's URL").to_owned()
}

/// `cascade light` on all nodes of a cluster, with JSON.
fn light(cluster: &Cluster, more: &[&str]) -> Command {
    let urls: Vec<String> = (0..cluster.nodes.len()).map(|node| url(cluster, node)).collect();
    light_of(cluster, &urls, more)
}

pub fn light_of(cluster: &Cluster, urls: &[String], more: &[&str]) -> Command {
    let mut command = cascade();
    command.args(["light", "--json", "--genesis"]);
    command.arg(cluster.nodes[0].home.path().join("genesis.json"));
    for url in urls {
        command.args(["--peer", url]);
    }
    if !more.contains(&"--seed") {
        command.args(["--seed", SEED]);
    }
    command.args(more);
    command
}

pub fn report(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text} {}", stderr(output)))
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Keeps blocks coming and makes them large: transfers with a lot of call data.
pub struct Traffic {
    stop: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Traffic {
    pub fn start(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicU64::new(0));
        let (client, chain, seen) = (cluster.client(0), cluster.genesis.params.chain_id, Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let (wallet, mut nonce) = (funded(7), 0);
            while seen.load(Ordering::Relaxed) == 0 {
                let data = vec![nonce as u8 | 1; 20_000];
                let transfer = Transfer {
                    chain,
                    nonce,
                    to: funded(8).address(),
                    value: U256::from(1),
                    data: data.into(),
                    gas: 1_000_000,
                    fees: Fees { max: 1_000_000_000_000, tip: 1 },
                };
                let (hash, raw) = wallet.sign(&transfer);
                if runtime.block_on(client.send_raw(&raw)).is_ok() {
                    nonce += 1;
                    wait_for("a transfer is final", || {
                        let stopped = seen.load(Ordering::Relaxed) > 0;
                        let found = runtime.block_on(client.finality(hash)).is_ok_and(|found| found.is_some());
                        (found || stopped).then_some(())
                    });
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(1, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn every_height_seen_is_available_with_confidence_though_one_node_serves_no_shares() {
    let mut cluster = Cluster::new(4, |genesis, _| genesis.params.epoch_length = 40);
    cluster.nodes[1].more = vec!["--set".to_owned(), "squares.withhold=all".to_owned()];
    cluster.start_all();
    let traffic = Traffic::start(&cluster);
    cluster.wait_height(0, 5);
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().to_str().unwrap();
    // Over the end of an epoch and more.
    let output = light(&cluster, &["--samples", "16", "--heights", "45", "--data", data]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let first = report(&output);
    assert_eq!((first["heights"].as_u64(), first["failed"].as_u64()), (Some(45), Some(0)), "{first}");
    assert!(first["min_confidence"].as_f64().unwrap() >= 0.99, "{first}");
    assert!(first["samples"].as_u64().unwrap() > 45 * 4, "bodies of 20 KB have more than four shares: {first}");
    assert!(first["bytes_received"].as_u64().unwrap() > 100_000, "{first}");
    assert!(!stderr(&output).contains("dropped"), "to have nothing is no lie: {}", stderr(&output));
    let keys: Vec<&String> = first.as_object().unwrap().keys().collect();
    assert_eq!(keys.len(), 9, "{first}");
    // No height between the first and the last one is missing but those that were just seen.
    let count = |key: &str| first[key].as_u64().unwrap();
    assert_eq!(count("unsampled"), 0, "{first}");
    assert_eq!(count("followed"), count("heights") + count("sampling"), "{first}");
    assert!(count("head") >= count("followed") && count("followed") >= 45, "{first}");

    // It goes on from what it saved.
    let output = light(&cluster, &["--heights", "3", "--data", data]).output().unwrap();
    let second = report(&output);
    assert_eq!((second["heights"].as_u64(), second["failed"].as_u64()), (Some(3), Some(0)), "{second}");
    assert!(second["head"].as_u64() > first["head"].as_u64());
    drop(traffic);
    cluster.assert_agree();
}

/// Heights that the client may see before it gives up.
const SEEN: RangeInclusive<u64> = 1..=200;

/// Whether 16 samples of a client with this seed miss a corner of (k+1) x (k+1) shares, whatever a block holds, at a height
/// that it may see.
fn misses(seed: [u8; 32]) -> bool {
    // The squares of bodies of up to 2 MiB.
    [1, 2, 4, 8, 16, 32, 64].into_iter().any(|width| {
        let shape = Shape::of_size(width * width * 512).unwrap();
        assert_eq!(shape.width(), width);
        let corner = width as u16 + 1;
        SEEN.into_iter().any(|height| {
            let drawn = sampling::draw(&shape, 16, sampling_seed(seed, Height(height)));
            !drawn.iter().any(|id| id.row < corner && id.column < corner)
        })
    })
}

#[test]
fn a_corner_withheld_by_all_is_named_and_never_called_available_while_certificates_go_on() {
    let mut cluster = Cluster::new(4, |_, _| ());
    for node in &mut cluster.nodes {
        node.more = vec!["--set".to_owned(), "squares.withhold=corner".to_owned()];
    }
    cluster.start_all();
    let _traffic = Traffic::start(&cluster);
    cluster.wait_height(0, 5);
    // A quarter of the shares is withheld: 16 samples miss them all in one block of some hundred. So the first seed with which
    // they do in none that the client can see.
    let seed = (0_u64..).map(|n| B256::left_padding_from(&n.to_be_bytes())).find(|seed| !misses(seed.0)).unwrap();
    let (directory, seed) = (tempfile::tempdir().unwrap(), seed.to_string());
    let data = ["--data", directory.path().to_str().unwrap()];
    let output = light(&cluster, &["--samples", "16", "--heights", "50", "--seed", &seed, data[0], data[1]]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(i32::from(ExitCode::Unavailable.code())), "{}", stderr(&output));
    let report = report(&output);
    let (heights, failed) = (report["heights"].as_u64().unwrap(), report["failed"].as_u64().unwrap());
    assert!(heights == failed && failed >= 1, "{report}");
    assert_eq!(report["min_confidence"], Value::Null, "none was called available: {report}");
    let words = stderr(&output);
    let named = words.split("the data of block ").nth(1).and_then(|rest| rest.split(' ').next());
    let named: u64 = named.unwrap_or_else(|| panic!("{words}")).parse().unwrap();
    assert!(words.contains(&format!("block {named} is withheld")), "{words}");
    let head = report["head"].as_u64().unwrap();
    assert!(head > named && SEEN.contains(&head), "headers were certified meanwhile: {report} {words}");
    let height = cluster.height(0);
    cluster.wait_height(0, height + 3);

    // What was saved ends below, and no later run goes on above, whatever it is started with.
    let bytes = std::fs::read(directory.path().join("light.state")).expect("it was saved");
    let saved = Chain::restore(cluster.genesis.signing_context(), &bytes[8 + 32 + 32..]).expect("a chain");
    assert!(saved.tip().height < Height(named), "saved up to {}", saved.tip().height);
    let checkpoint = checkpoint_text(&Checkpoint {
        height: saved.tip().height,
        hash: saved.hash(),
        committee_root: saved.tip().committee_root,
    });
    for more in [&data[..], &[data[0], data[1], "--checkpoint", &checkpoint]] {
        let output = light(&cluster, more).output().unwrap();
        let words = stderr(&output);
        assert_eq!(output.status.code(), Some(i32::from(ExitCode::Unavailable.code())), "{words}");
        assert!(words.contains(&format!("block {named} is withheld")) && words.contains("remove"), "{words}");
    }
}

/// Passes requests on to a node and turns a bit of every share in the answers.
fn liar(target: String) -> String {
    http_server::middleman(target, |runtime, target, asked| {
        let mut reply = http_server::ask(runtime, target, asked)?;
        if let Reply::Data(Answer::Samples(samples)) = &mut reply {
            for sample in samples {
                let mut share = sample.proof.share.to_vec();
                share[0] ^= 1;
                sample.proof.share = share.into();
            }
        }
        Some(reply)
    })
}

#[test]
fn a_peer_that_lies_about_a_share_is_dropped_by_name_and_the_rest_goes_on() {
    let cluster = Cluster::start(4);
    let _traffic = Traffic::start(&cluster);
    cluster.wait_height(0, 5);
    let liar = liar(authority(&cluster, 0));
    let urls = [liar.clone(), url(&cluster, 1), url(&cluster, 2)];
    let output = light_of(&cluster, &urls, &["--heights", "10"]).output().unwrap();
    let words = stderr(&output);
    assert!(output.status.success(), "{words}");
    let report = report(&output);
    assert_eq!((report["heights"].as_u64(), report["failed"].as_u64()), (Some(10), Some(0)), "{report}");
    let name = http::authority(&liar).unwrap();
    assert!(words.contains(&format!("dropped {name}: sample of block")), "{words}");
    assert_eq!(words.matches("dropped").count(), 1, "nobody else is: {words}");

    // Beside a page on which to sign in, which is no lie of a node, the rest goes on; with liars alone it ends and says so.
    let page = http_server::serve(|_, _| Say::Answer("200 OK\r\ncontent-type: text/html", b"<html>".to_vec()));
    let output = light_of(&cluster, &[page, url(&cluster, 1)], &["--heights", "5"]).output().unwrap();
    assert!(output.status.success() && !stderr(&output).contains("dropped"), "{}", stderr(&output));
    let output = light_of(&cluster, &[liar], &["--heights", "5"]).output().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(ExitCode::Unreachable.code())), "{}", stderr(&output));
    assert!(stderr(&output).contains("no node is left to ask"), "{}", stderr(&output));
}

/// A node behind a line that can be cut.
fn behind_a_line(target: String, cut: &Arc<AtomicU64>) -> String {
    let cut = Arc::clone(cut);
    http_server::middleman(target, move |runtime, target, asked| {
        let is_cut = cut.load(Ordering::Relaxed) > 0;
        if is_cut { None } else { http_server::ask(runtime, target, asked) }
    })
}

#[test]
fn a_client_that_loses_its_connection_says_so_and_goes_on_when_it_is_back() {
    let cluster = Cluster::start(4);
    let _traffic = Traffic::start(&cluster);
    cluster.wait_height(0, 5);
    let cut = Arc::new(AtomicU64::new(0));
    let urls: Vec<String> = (0..3).map(|node| behind_a_line(authority(&cluster, node), &cut)).collect();
    let mut light = Spoken::start(light_of(&cluster, &urls, &["--heights", "30"]));
    wait_for("it has caught up", || light.said.lock().contains("caught up with").then_some(()));
    cut.store(1, Ordering::Relaxed);
    wait_for("it says that no node answers", || {
        light.said.lock().contains("none of 3 nodes has answered").then_some(())
    });
    let height = cluster.height(0);
    cluster.wait_height(0, height + 10);
    cut.store(0, Ordering::Relaxed);
    let (code, words) = light.end();
    assert!(words.contains("a node answers again") && !words.contains("withheld"), "{words}");
    assert_eq!(code, Some(0), "{words}");
}

#[test]
fn a_light_client_takes_genesis_and_nodes_from_a_testnets_directory() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("cluster");
    let testnet = Testnet::start(&data, &["--nodes", "4"]);
    assert_eq!(testnet.info["rpc"].as_array().map(Vec::len), Some(4));
    let mut command = cascade();
    command.args(["light", "--heights", "5", "--json", "--from-testnet"]).arg(&data);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let found = report(&output);
    assert_eq!((found["heights"].as_u64(), found["failed"].as_u64()), (Some(5), Some(0)), "{found}");
    drop(testnet);
    let output = cascade().args(["light", "--from-testnet"]).arg(dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(ExitCode::Unreachable.code())), "{}", stderr(&output));
}

#[test]
fn what_is_older_than_the_unstaking_delay_is_refused() {
    let mut cluster = Cluster::new(4, |genesis, _| genesis.params.unstaking_delay_ms = 1_500);
    cluster.start_all();
    cluster.wait_height(0, 3);
    let first = cluster
        .runtime
        .block_on(http::ask(&authority(&cluster, 0), &Ask::Chain(ChainRequest::Headers { from: Height(1) })));
    let Ok((Reply::Chain(ChainAnswer::Headers(headers, _)), _)) = first else { panic!("{first:?}") };
    let header = &headers[0];
    let old = Checkpoint { height: header.height, hash: header.hash(), committee_root: header.committee_root };
    wait_for("block 1 is older than the delay", || {
        (cascade_sequencer::home::unix_ms() > header.timestamp.0 + 1_600).then_some(())
    });
    let output = light(&cluster, &["--heights", "1", "--checkpoint", &checkpoint_text(&old)]).output().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(ExitCode::TooOld.code())), "{}", stderr(&output));
    assert!(stderr(&output).contains("unstaking delay"), "{}", stderr(&output));
    // From genesis it goes on, with a warning.
    let output = light(&cluster, &["--heights", "1"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("older than the unstaking delay"), "{}", stderr(&output));
}

#[test]
fn shares_and_headers_are_served_over_quic_and_http_and_outside_the_window_the_answer_says_so() {
    let mut cluster = Cluster::new(4, |genesis, _| genesis.params.share_retention_ms = 3_000);
    cluster.start_all();
    cluster.wait_height(0, 3);
    let target = authority(&cluster, 0);
    let ask = |ask: &Ask| cluster.runtime.block_on(http::ask(&target, ask)).expect("an answer").0;
    let Reply::Chain(ChainAnswer::Headers(headers, _)) = ask(&Ask::Chain(ChainRequest::Headers { from: Height(1) }))
    else {
        panic!("there are headers")
    };
    let newest = headers.last().unwrap().clone();
    let request = Request::Roots { height: newest.height };
    let Reply::Data(answer) = ask(&Ask::Data(request.clone())) else { panic!("an answer about data") };
    assert!(matches!(answer, Answer::Roots { .. }), "{answer:?}");
    assert_eq!(answer.check(&request, &cascade_da::Committed::from(&newest)), Ok(()));
    let Reply::Data(Answer::Outside { oldest, newest: high }) =
        ask(&Ask::Data(Request::Roots { height: Height(1 << 40) }))
    else {
        panic!("no such height")
    };
    assert!(oldest >= Height(1) && high >= newest.height);
    wait_for("block 1 leaves the window", || match ask(&Ask::Data(Request::Roots { height: Height(1) })) {
        Reply::Data(Answer::Outside { oldest, .. }) => (oldest > Height(1)).then_some(()),
        _ => None,
    });

    // The same over QUIC, from a stranger to the chain.
    let node = cluster.nodes[0].file.as_ref().unwrap();
    cluster.runtime.block_on(async {
        let (network, _receivers) = cluster.stranger(&[0]).await;
        let height = Height(cluster.client(0).status().await.unwrap().heads.ordered.0);
        let mut payload = vec![QUIC_TAG];
        Ask::Data(Request::Roots { height }).encode(&mut payload);
        let answer = network.request(node.node_id, Bytes::from(payload)).await.expect("an answer");
        let reply = Reply::from_slice(&answer).expect("an answer that decodes");
        assert!(matches!(reply, Reply::Data(Answer::Roots { .. })), "{reply:?}");
        network.shutdown().await;
    });

    // What is no request is refused.
    let mut stream = TcpStream::connect(&target).unwrap();
    stream
        .write_all(b"POST /light HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 400"), "{text}");
}

/// Passes JSON-RPC on to a node and changes a digit of whatever follows `mark` first in an answer.
fn forger(target: String, mark: &'static str) -> String {
    http_server::serve(move |head, body| {
        let path = if head.starts_with("POST /light") { "/light" } else { "/" };
        let mut node = TcpStream::connect(&target).unwrap();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: {target}\r\ncontent-type: application/json\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        node.write_all(request.as_bytes()).and_then(|()| node.write_all(&body)).unwrap();
        let Some((_, mut answer)) = http_server::read(&mut node) else { return Say::Close };
        if path == "/"
            && let Some(at) = answer.windows(mark.len()).position(|window| window == mark.as_bytes())
        {
            let digit = &mut answer[at + mark.len() + 60];
            *digit = if *digit == b'0' { b'1' } else { b'0' };
        }
        Say::Answer("200 OK", answer)
    })
}

/// Passes a light client's requests on to a node, and answers no JSON-RPC.
fn silent(target: String) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    http_server::serve(move |head, body| {
        if !head.starts_with("POST /light") {
            return Say::Hold;
        }
        let reply = Ask::from_slice(&body).ok().and_then(|asked| http_server::ask(&runtime, &target, &asked));
        reply.map_or(Say::Close, |reply| Say::Answer("200 OK", reply.to_bytes()))
    })
}

/// A process whose stderr can be read while it runs; ends with the value.
pub struct Spoken {
    child: std::process::Child,
    pub said: Arc<parking_lot::Mutex<String>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Spoken {
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("cascade can be started");
        let said: Arc<parking_lot::Mutex<String>> = Arc::default();
        let (mut stderr, heard) = (child.stderr.take().expect("it is piped"), Arc::clone(&said));
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok(read @ 1..) = stderr.read(&mut buffer) {
                heard.lock().push_str(&String::from_utf8_lossy(&buffer[..read]));
            }
        });
        Self { child, said, reader: Some(reader) }
    }

    /// Waits for its end; its exit code and all that it said.
    pub fn end(&mut self) -> (Option<i32>, String) {
        let status = wait_for("it ends", || self.child.try_wait().expect("it is our child"));
        self.reader.take().expect("it ends once").join().expect("the reader does not fail");
        (status.code(), self.said.lock().clone())
    }
}

impl Drop for Spoken {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A light client with a verified RPC.
struct Verified {
    url: String,
    said: Arc<parking_lot::Mutex<String>>,
    _process: Spoken,
}

impl Verified {
    fn start(mut command: Command) -> Self {
        command.args(["--rpc-listen", "127.0.0.1:0"]);
        let process = Spoken::start(command);
        let said = Arc::clone(&process.said);
        let url = wait_for("the verified RPC says its URL", || {
            let text = said.lock().clone();
            let rest = text.split("JSON-RPC at ").nth(1)?;
            rest.split_once('\n').map(|(url, _)| url.to_owned())
        });
        Self { url, said, _process: process }
    }
}

fn call(cluster: &Cluster, url: &str, method: &str, params: Value) -> Result<Value, String> {
    use jsonrpsee::core::client::ClientT as _;
    let client = jsonrpsee::http_client::HttpClientBuilder::default().build(url).expect("a URL");
    let mut array = jsonrpsee::core::params::ArrayParams::new();
    params.as_array().expect("an array").iter().for_each(|value| array.insert(value).expect("a value"));
    cluster.runtime.block_on(client.request(method, array)).map_err(|error| error.to_string())
}

#[test]
fn a_wallet_can_use_the_verified_rpc_in_place_of_a_node_and_a_node_that_forges_proofs_is_dropped() {
    let contract = cascade_primitives::Address::repeat_byte(0xcc);
    let mut cluster = Cluster::new(4, |genesis, _| {
        let code: &[u8] = &[0x60, 0x20, 0x35, 0x60, 0x00, 0x35, 0x55, 0x00];
        let storage = [(U256::from(7).into(), U256::from(9).into())].into();
        let account = cascade_primitives::GenesisAccount { code: code.to_vec().into(), storage, ..Default::default() };
        genesis.alloc.insert(contract, account);
    });
    cluster.start_all();
    let _traffic = Traffic::start(&cluster);
    cluster.wait_height(0, 5);
    let forger = forger(authority(&cluster, 0), "\"proof\":\"0x");
    let urls = [forger.clone(), url(&cluster, 1), url(&cluster, 2)];
    let light = Verified::start(light_of(&cluster, &urls, &[]));
    let node = url(&cluster, 1);
    let ask = |method: &str, params: Value| call(&cluster, &light.url, method, params);
    let height = wait_for("a height with results is proved", || ask("eth_blockNumber", serde_json::json!([])).ok());
    let same = |method: &str, params: Value| {
        let (proved, plain) = (ask(method, params.clone()), call(&cluster, &node, method, params));
        assert_eq!(proved, plain, "{method}");
        assert!(proved.is_ok(), "{method}: {proved:?}");
        proved.unwrap()
    };
    same("eth_chainId", serde_json::json!([]));
    let sender = funded(7).address();
    let balance = same("eth_getBalance", serde_json::json!([sender, height]));
    assert_ne!(balance, "0x0");
    same("eth_getBalance", serde_json::json!([cascade_primitives::Address::repeat_byte(0xee), height]));
    same("eth_getTransactionCount", serde_json::json!([sender, height]));
    assert_ne!(same("eth_getCode", serde_json::json!([contract, height])), "0x");
    same("eth_getCode", serde_json::json!([sender, height]));
    let slot = same("eth_getStorageAt", serde_json::json!([contract, "0x7", height]));
    assert!(slot.as_str().unwrap().ends_with('9'), "{slot}");
    let words = light.said.lock().clone();
    let name = http::authority(&forger).unwrap();
    assert!(words.contains(&format!("dropped {name}: state proof at block")), "{words}");

    // A block that was followed, with a transaction in it.
    let (receipt, number) = wait_for("a block with transactions is followed and its results are proved", || {
        let number = ask("eth_blockNumber", serde_json::json!([])).ok()?;
        let receipts = ask("eth_getBlockReceipts", serde_json::json!([number])).ok()?;
        Some((receipts.as_array()?.first()?.clone(), number))
    });
    let hash = receipt["transactionHash"].clone();
    assert_eq!(same("eth_getTransactionReceipt", serde_json::json!([hash])), receipt);
    same("eth_getBlockReceipts", serde_json::json!([number]));
    same("eth_getBlockByNumber", serde_json::json!([number, false]));
    same("eth_getBlockByNumber", serde_json::json!([number, true]));
    let refused = ask("eth_getBalance", serde_json::json!([sender, "0xffffffff"]));
    assert!(refused.unwrap_err().contains("not proved here"));
    assert!(ask("eth_call", serde_json::json!([{}])).is_err(), "what cannot be proved is not offered");
}

#[test]
fn keys_that_the_headers_do_not_bind_are_told_to_nobody_and_nothing_is_sealed_to_them() {
    let cluster = sealed::start(4, |genesis| {
        let fees = U256::from(10).pow(U256::from(24));
        let account = cascade_primitives::GenesisAccount { fees, ..Default::default() };
        genesis.alloc.insert(proxy_account().address(), account);
        (genesis.params.epoch_length, genesis.params.empty_block_interval) = (40, 2);
    });
    sealed::wait_key(&cluster, 0, 1);
    // One that says nothing is asked first; then one that forges keys, and one that forges the members root beside them.
    let silent = silent(authority(&cluster, 0));
    let forged_root = forger(authority(&cluster, 0), "\"membersRoot\":\"0x");
    let forger = forger(authority(&cluster, 0), "\"key\":\"0x");
    let urls = [silent, forger.clone(), forged_root.clone(), url(&cluster, 1), url(&cluster, 2)];
    let light = Verified::start(light_of(&cluster, &urls, &[]));
    let keys = |url: &str| -> Option<EpochKeys> {
        serde_json::from_value(call(&cluster, url, "l2_epochKey", serde_json::json!([])).ok()?).ok()
    };
    // Not before it has headers of the first epoch with a key: of the next one's keys it cannot tell which are wrong.
    let height = cluster.height(0);
    wait_for("the light client has followed so far", || {
        let proved = call(&cluster, &light.url, "eth_blockNumber", serde_json::json!([])).ok()?;
        let proved: alloy_primitives::U64 = serde_json::from_value(proved).ok()?;
        (proved.to::<u64>() >= height).then_some(())
    });
    // From there into the next one: it has the key of whichever epoch its headers are in, or of the next, at every moment.
    for epoch in 1..=2 {
        let proved = wait_for(&format!("the key of epoch {epoch} is proved"), || {
            let proved = keys(&light.url).expect("it has a key");
            let epochs = [proved.epoch, proved.epoch.next()];
            assert!(proved.keys.iter().any(|key| epochs.contains(&key.epoch)), "{proved:?}");
            (proved.epoch.0 >= epoch).then_some(proved)
        });
        let given = keys(&url(&cluster, 3)).expect("a node answers");
        for key in &proved.keys {
            let same = given.keys.iter().find(|given| given.epoch == key.epoch);
            assert!(same.is_none_or(|same| same == key), "{given:?}");
        }
        assert_eq!((proved.chain_id, proved.genesis_hash), (given.chain_id, given.genesis_hash));
        assert!(proved.proved && !given.proved, "only what is proved says so");
    }
    let words = light.said.lock().clone();
    for liar in [&forger, &forged_root] {
        let name = http::authority(liar).unwrap();
        assert!(words.contains(&format!("dropped {name}: a key that the chain's headers do not bind")), "{words}");
    }

    // A proxy with a light client beside it seals through an honest node, and not to what the forger gives.
    let dir = tempfile::tempdir().unwrap();
    let to = cascade_primitives::Address::repeat_byte(0x5e);
    let (_, raw) = funded(9).sign(&Transfer {
        chain: cluster.genesis.params.chain_id,
        nonce: 0,
        to,
        value: U256::from(5),
        data: alloy_primitives::Bytes::new(),
        gas: TRANSFER_GAS,
        fees: Fees { max: 1_000_000_000, tip: 10 },
    });
    let raw: alloy_primitives::Bytes = raw.into();
    let send = |node: &str, data: &str| {
        let proxy = Proxy::start(node, &dir.path().join(data), &["--public-payer", "--light", &light.url]);
        call(&cluster, proxy.url(), "eth_sendRawTransaction", serde_json::json!([raw]))
    };
    let refused = send(&forger, "forged").expect_err("there is no key to seal to");
    assert!(refused.contains("is FALSE"), "{refused}");
    // Nor is it refused where the light client is a block behind the node, as at an epoch's start. What a node says of members
    // is not what is sealed to.
    send(&forged_root, "honest").expect("it is sealed");
    wait_for("it is executed", || {
        let paid = cluster.runtime.block_on(cluster.client(2).balance(to)).ok()?;
        (paid == U256::from(5)).then_some(())
    });
}
