//! `cascade testnet` as a user and a script meet it.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use alloy_primitives::{Bytes, U256};
use cascade_sequencer::{
    cli::Client,
    rpc::types::EnvelopeState,
    testnet::accounts::dev_accounts,
    wallet::{Fees, TRANSFER_GAS, Transfer},
};
use serde_json::Value;

use crate::{
    cli::cascade,
    cluster::{PATIENCE, signal, wait_for},
};

/// What is allowed from the start to the first envelope that is admitted.
const ADMITS_WITHIN: Duration = Duration::from_secs(10);

/// What the issue allows from the start to the printed URLs.
const READY_WITHIN: Duration = Duration::from_secs(5);

/// A testnet with `--json`, after its ready line.
pub struct Testnet {
    child: Child,
    pub info: Value,
    ready_after: Duration,
}

impl Testnet {
    pub fn start(data: &Path, more: &[&str]) -> Self {
        let started = Instant::now();
        let mut child = cascade()
            .args(["testnet", "--json", "--data"])
            .arg(data)
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("cascade can be started");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout is piped")).read_line(&mut line).expect("a line");
        let info = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
        Self { child, info, ready_after: started.elapsed() }
    }

    fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    fn pids(&self) -> Vec<u64> {
        let nodes = self.info["nodes"].as_array().expect("nodes");
        nodes.iter().map(|node| node["pid"].as_u64().expect("a pid")).collect()
    }

    pub fn height(&self, runtime: &tokio::runtime::Runtime, node: usize) -> u64 {
        let client = Client::new(self.info["rpc"][node]["http"].as_str().expect("a URL")).expect("a URL");
        runtime.block_on(client.status()).map_or(0, |status| status.heads.executed.0)
    }
}

impl Drop for Testnet {
    fn drop(&mut self) {
        // Nodes end with their parent.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn is_alive(pid: u64) -> bool {
    // A zombie has ended.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_run_of_ten_blocks_ends_with_one_line_that_says_all_agree() {
    let output = cascade().args(["testnet", "--nodes", "4", "--blocks", "10", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&report["nodes"], &report["agree"]), (&Value::from(4), &Value::from(true)), "{report}");
    assert!(report["height"].as_u64().unwrap() >= 10, "{report}");
    assert!(report["blocks_per_s"].as_f64().unwrap() > 0.0, "{report}");
    let (p50, p99) = (report["finality_ms"]["p50"].as_f64(), report["finality_ms"]["p99"].as_f64());
    assert!(p50.unwrap() > 0.0 && p50 <= p99, "{report}");
    let keys: Vec<&String> = report.as_object().unwrap().keys().collect();
    assert_eq!(keys.len(), 5, "{report}");
}

/// What the light client of a testnet says until a line passes.
fn light_of_a_testnet(passes: impl Fn(&str) -> bool) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut child = cascade()
        .args(["testnet", "--nodes", "4", "--data"])
        .arg(dir.path().join("cluster"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cascade can be started");
    let (started, mut said, mut found) = (Instant::now(), String::new(), None);
    // The summary is written every few seconds as long as the testnet runs.
    let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    for line in lines.by_ref() {
        let line = line.expect("text");
        said += &format!("{line}\n");
        let passes = line.contains("light: ") && passes(&line);
        if passes || started.elapsed() > PATIENCE {
            found = passes.then_some(line);
            signal(child.id(), "INT");
            break;
        }
    }
    assert_eq!(child.wait().unwrap().code(), Some(0), "{said}");
    // It writes until it ends.
    drop(lines);
    found.unwrap_or_else(|| panic!("{said}"))
}

#[test]
fn a_testnet_runs_a_light_client_that_samples_what_it_sees() {
    let sampled = |line: &str| {
        let count = line.split(" sampled").next().and_then(|rest| rest.rsplit(' ').next());
        count.and_then(|count| count.parse().ok()).is_some_and(|count: u64| count >= 10)
    };
    let line = light_of_a_testnet(sampled);
    assert!(line.contains(" 0 failed") && line.contains(" 4 peers"), "{line}");
    let confidence = line.split("confidence at least ").nth(1).and_then(|rest| rest.split(',').next());
    assert!(confidence.and_then(|c| c.parse().ok()).is_some_and(|c: f64| c >= 0.99), "{line}");
}

#[test]
fn a_testnet_is_ready_soon_stops_on_ctrl_c_and_is_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("cluster");
    let runtime = runtime();
    let first = Testnet::start(&data, &["--nodes", "4"]);
    assert!(first.ready_after < READY_WITHIN, "it took {:?}", first.ready_after);
    let file: Value = serde_json::from_slice(&std::fs::read(data.join("testnet.json")).unwrap()).unwrap();
    assert_eq!(file, first.info, "testnet.json and the ready line say the same");
    assert_eq!(file["chain_id"], 20252);
    assert!(file["accounts"].as_array().unwrap().len() >= 10);
    assert_eq!(file["accounts"][0]["address"], "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
    let height = wait_for("blocks are executed", || Some(first.height(&runtime, 0)).filter(|height| *height >= 3));
    let (pids, mut first) = (first.pids(), first);
    first.signal("INT");
    assert_eq!(first.child.wait().unwrap().code(), Some(0));
    assert!(pids.iter().all(|pid| !is_alive(*pid)), "Ctrl-C stops all nodes");

    let second = Testnet::start(&data, &[]);
    let ids = |info: &Value| info["nodes"].as_array().unwrap().iter().map(|n| n["node_id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&second.info), ids(&first.info));
    assert_eq!(second.info["rpc"], first.info["rpc"], "the same ports are taken again");
    wait_for("the chain goes on", || (second.height(&runtime, 3) > height).then_some(()));
}

/// Runs the command in a directory and answers exit code and stderr.
fn testnet(data: &Path, more: &[&str]) -> (Option<i32>, String) {
    let output = cascade().args(["testnet", "--json", "--data"]).arg(data).args(more).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_second_testnet_in_the_same_directory_is_refused_and_takes_nothing_away() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("cluster");
    let mut first = Testnet::start(&data, &["--nodes", "1"]);
    let before = std::fs::read(data.join("testnet.json")).unwrap();
    let (code, text) = testnet(&data, &["--blocks", "1"]);
    assert_eq!(code, Some(10), "{text}");
    assert!(text.contains("another `cascade testnet` runs") && text.contains("--data"), "{text}");
    assert_eq!(std::fs::read(data.join("testnet.json")).unwrap(), before);
    assert!(first.pids().iter().all(|pid| is_alive(*pid)));
    first.signal("INT");
    assert_eq!(first.child.wait().unwrap().code(), Some(0));
    assert!(!data.join("testnet.json").exists(), "it names what runs");
    let (code, text) = testnet(&data, &["--blocks", "1"]);
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn what_a_resumed_testnet_cannot_be_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("cluster");
    let schedule = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let same = schedule("same.toml", "[params]\nepoch_length = 30\n");
    let other = schedule("other.toml", "[params]\nepoch_length = 40\n");
    let made = ["--nodes", "2", "--blocks", "1", "--schedule", &same];
    assert_eq!(testnet(&data, &made).0, Some(0));
    for (more, words) in [
        (vec!["--nodes", "5"], ["has 2 nodes", "leave --nodes away"]),
        (vec!["--opaque"], ["an encrypted chain", "leave --opaque away"]),
        (vec!["--plain"], ["an encrypted chain", "leave --plain away"]),
        (vec!["--plain", "--opaque"], ["--plain", "cannot be used with"]),
        (vec!["--schedule", &other], ["another schedule", "leave --schedule away"]),
    ] {
        let (code, text) = testnet(&data, &more);
        assert_eq!(code, Some(2), "{more:?}: {text}");
        assert!(words.iter().all(|word| text.contains(word)), "{more:?}: {text}");
    }
    assert_eq!(testnet(&data, &made).0, Some(0), "the command that made it resumes it");

    let plain = dir.path().join("plain");
    assert_eq!(testnet(&plain, &["--nodes", "1", "--blocks", "1", "--plain"]).0, Some(0));
    let (code, text) = testnet(&plain, &["--blocks", "1"]);
    assert!(code == Some(0) && text.contains("holds a chain of plain transactions, as it did before"), "{text}");
}

#[test]
fn a_fresh_testnet_takes_encrypted_transactions_soon_and_says_until_then_how_far_its_key_is() {
    let dir = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let testnet = Testnet::start(&dir.path().join("cluster"), &["--nodes", "4"]);
    let runtime = runtime();
    let proxy = Client::new(testnet.info["proxy"]["http"].as_str().expect("a proxy")).expect("a URL");
    let node = Client::new(testnet.info["rpc"][1]["http"].as_str().expect("a URL")).expect("a URL");
    let wallet = &dev_accounts()[3];
    let (hash, raw) = wallet.sign(&Transfer {
        chain: runtime.block_on(proxy.params()).expect("it answers").chain_id,
        nonce: 0,
        to: wallet.address(),
        value: U256::ZERO,
        data: Bytes::new(),
        gas: TRANSFER_GAS,
        fees: Fees { max: 1_000_000_000, tip: 1 },
    });
    let mut steps = Vec::new();
    let sent = wait_for("the first envelope is admitted", || {
        let keys = runtime.block_on(node.epoch_keys()).expect("nodes answer before there are keys");
        if keys.keys.is_empty() {
            steps.push(keys.progress.expect("it says how far the first key is"));
        }
        match runtime.block_on(proxy.send_raw(&raw)) {
            Ok(sent) => Some(sent),
            Err(error) => {
                let error = error.to_string();
                assert!(
                    error.contains("first key is still being made") && error.contains("send it again in a moment"),
                    "{error}"
                );
                None
            }
        }
    });
    let after = started.elapsed();
    assert_eq!(sent, hash);
    // Where other work takes the cores, starting the processes takes longer, too.
    let allowed = ADMITS_WITHIN.max(8 * testnet.ready_after);
    assert!(after < allowed, "it took {after:?}, the ready line {:?}", testnet.ready_after);
    assert!(!steps.is_empty(), "the key was there before anybody could ask");
    eprintln!("the first envelope was admitted after {after:?}; the key's steps: {steps:?}");
    wait_for("it is executed", || {
        let status = runtime.block_on(proxy.envelope_status(hash)).expect("it answers")?;
        (status.status == EnvelopeState::Executed).then_some(())
    });
}

#[test]
fn nodes_end_with_a_testnet_that_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut testnet = Testnet::start(&dir.path().join("cluster"), &["--nodes", "4"]);
    let pids = testnet.pids();
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    testnet.child.kill().unwrap();
    testnet.child.wait().unwrap();
    wait_for("all nodes end", || pids.iter().all(|pid| !is_alive(*pid)).then_some(()));
}

#[test]
fn a_node_that_dies_is_started_again_if_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("cluster");
    let testnet = Testnet::start(&data, &["--nodes", "4", "--restart"]);
    let pid = testnet.pids()[1];
    signal(u32::try_from(pid).expect("a pid"), "KILL");
    let again = wait_for("testnet.json names another process", || {
        let info: Value = serde_json::from_slice(&std::fs::read(data.join("testnet.json")).ok()?).ok()?;
        info["nodes"][1]["pid"].as_u64().filter(|again| *again != pid)
    });
    assert!(is_alive(again));
    let runtime = runtime();
    let height = testnet.height(&runtime, 0);
    wait_for("the node catches up", || (testnet.height(&runtime, 1) > height).then_some(()));
}

#[test]
fn a_testnet_of_opaque_payloads_agrees() {
    let output = cascade().args(["testnet", "--nodes", "4", "--blocks", "5", "--json", "--opaque"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["agree"], true, "{report}");
    assert!(report["finality_ms"]["p50"].as_f64().is_some(), "{report}");
}

#[test]
fn committees_change_by_schedule() {
    let dir = tempfile::tempdir().unwrap();
    let run = |length: u64, from: u64, more: &[&str]| {
        let schedule = dir.path().join(format!("{length}.toml"));
        let text = format!(
            "[params]\nepoch_length = {length}\nempty_block_interval = 1\n\
             [[committee]]\nfrom_epoch = 0\nmembers = [{{ node = 0 }}, {{ node = 1 }}, {{ node = 2 }}, {{ node = 3 }}]\n\
             [[committee]]\nfrom_epoch = {from}\n\
             members = [{{ node = 1, stake = 40 }}, {{ node = 2 }}, {{ node = 3 }}, {{ node = 4 }}]\n"
        );
        std::fs::write(&schedule, text).unwrap();
        let output = cascade()
            .args(["testnet", "--nodes", "5", "--json", "--schedule"])
            .arg(&schedule)
            .args(more)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&report["agree"], &report["nodes"]), (&Value::from(true), &Value::from(5)), "{report}");
        assert!(report["finality_ms"]["p50"].as_f64().is_some(), "{report}");
    };
    run(8, 1, &["--plain", "--blocks", "40"]);
    // Epoch 0 makes the first keys and ends with that; the later committee makes those of its own epochs.
    run(25, 2, &["--blocks", "60"]);
}
