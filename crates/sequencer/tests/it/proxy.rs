//! `cascade proxy` in front of an encrypted chain, as wallets meet it: real processes all through.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Stdio},
};

use alloy_primitives::{Address, B256, Bytes, U64, U256};
use cascade_primitives::{Genesis, GenesisAccount};
use cascade_sequencer::{
    cli::Client,
    rpc::types::{EnvelopeState, EnvelopeStatus, HealthStatus},
    sealing::Seal,
    testnet::accounts::proxy_account,
    wallet::{Fees, TRANSFER_GAS, Transfer, Wallet},
};
use jsonrpsee::{
    core::client::{ClientT as _, SubscriptionClientT as _},
    rpc_params,
    types::ErrorObjectOwned,
    ws_client::WsClientBuilder,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    cli::cascade,
    cluster::{Cluster, funded, wait_for},
    sealed,
};

const TO: Address = Address::repeat_byte(0x55);
pub const FEES: Fees = Fees { max: 1_000_000_000, tip: 10 };

/// An encrypted chain that funds the public payer, ready to take envelopes.
pub fn chain(change: impl FnOnce(&mut Genesis)) -> Cluster {
    let cluster = sealed::start(4, |genesis| {
        let fees = U256::from(10).pow(U256::from(24));
        genesis.alloc.insert(proxy_account().address(), GenesisAccount { fees, ..GenesisAccount::default() });
        change(genesis);
    });
    for node in 0..4 {
        sealed::wait_key(&cluster, node, 1);
    }
    cluster
}

pub fn node_url(cluster: &Cluster, node: usize) -> String {
    cluster.nodes[node].file.as_ref().expect("it runs").rpc_http.clone()
}

/// A proxy's process, killed at the end.
pub struct Proxy {
    child: Child,
    pub info: Value,
    client: Client,
}

impl Proxy {
    pub fn start(node: &str, data: &Path, more: &[&str]) -> Self {
        let mut child = cascade()
            .args(["proxy", "--json", "--listen", "127.0.0.1:0", "--rpc", node, "--data"])
            .arg(data)
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("cascade can be started");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout is piped")).read_line(&mut line).expect("a line");
        let info: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let client = Client::new(info["url"].as_str().expect("a URL")).expect("a URL");
        Self { child, info, client }
    }

    /// At node 0, with the payer that every genesis here funds.
    pub fn public(cluster: &Cluster, data: &Path) -> Self {
        Self::start(&node_url(cluster, 0), data, &["--public-payer"])
    }

    pub fn url(&self) -> &str {
        self.client.url()
    }

    pub fn call(&self, cluster: &Cluster, method: &str, params: Value) -> Result<Value, ErrorObjectOwned> {
        let params = serde_json::value::to_raw_value(&params).expect("JSON");
        let answer = cluster.runtime.block_on(self.client.forward(method, Some(&params)))?;
        Ok(serde_json::from_str(answer.get()).expect("JSON"))
    }

    pub fn ok(&self, cluster: &Cluster, method: &str, params: Value) -> Value {
        self.call(cluster, method, params).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    pub fn send(&self, cluster: &Cluster, raw: &Bytes) -> B256 {
        let answer = self.ok(cluster, "eth_sendRawTransaction", json!([raw]));
        serde_json::from_value(answer).expect("a hash")
    }

    fn pending_nonce(&self, cluster: &Cluster, account: Address) -> u64 {
        let count = self.ok(cluster, "eth_getTransactionCount", json!([account, "pending"]));
        serde_json::from_value::<U64>(count).expect("a number").to()
    }

    pub fn receipt(&self, cluster: &Cluster, hash: B256) -> Value {
        wait_for("a receipt", || {
            let receipt = self.call(cluster, "eth_getTransactionReceipt", json!([hash])).ok()?;
            (!receipt.is_null()).then_some(receipt)
        })
    }
}

impl Drop for Proxy {
    /// `kill -9`.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn transfer(cluster: &Cluster, from: &Wallet, nonce: u64, to: Address, value: u64, fees: Fees) -> (B256, Bytes) {
    let (hash, raw) = from.sign(&Transfer {
        chain: cluster.genesis.params.chain_id,
        nonce,
        to,
        value: U256::from(value),
        data: Bytes::new(),
        gas: TRANSFER_GAS,
        fees,
    });
    (hash, raw.into())
}

pub fn payer_nonce(cluster: &Cluster, node: usize) -> u64 {
    cluster.runtime.block_on(cluster.client(node).payer(proxy_account().address())).expect("it runs").nonce
}

pub fn balance(cluster: &Cluster, node: usize, account: Address) -> U256 {
    cluster.runtime.block_on(cluster.client(node).balance(account)).expect("it runs")
}

/// Takes two nodes away, the leader among them: nothing is proposed and nothing ordered any more, but node 0 answers.
fn stall(cluster: &mut Cluster) {
    loop {
        let leader = wait_for("another node than 0 leads", || Some(cluster.leader(0)).filter(|leader| *leader != 0));
        let other = (1..4).find(|node| *node != leader).expect("three are others");
        cluster.kill(leader);
        cluster.kill(other);
        wait_for("node 0 misses its quorum", || {
            let health = cluster.runtime.block_on(cluster.client(0).status()).expect("it runs").health;
            (health.status == HealthStatus::NoQuorum).then_some(())
        });
        if [leader, other].contains(&cluster.leader(0)) {
            return;
        }
        cluster.start_node(leader);
        cluster.start_node(other);
    }
}

/// Kills all nodes and starts them again: what was final is there, and all pools are empty.
fn empty_pools(cluster: &mut Cluster) {
    for node in 0..4 {
        if cluster.nodes[node].process.is_some() {
            cluster.kill(node);
        }
    }
    cluster.start_all();
}

#[test]
fn wallets_work_through_the_proxy_unchanged() {
    let cluster = chain(|_| ());
    let data = TempDir::new().unwrap();
    let proxy = Proxy::public(&cluster, data.path());
    crate::alloy::exercise(&cluster, proxy.url(), &node_url(&cluster, 1));

    // The same bytes give the same answer and no second envelope, whether they wait or have run.
    let used = payer_nonce(&cluster, 0);
    let user = funded(5);
    let (hash, raw) = transfer(&cluster, &user, 0, TO, 1, FEES);
    for _ in 0..3 {
        assert_eq!(proxy.send(&cluster, &raw), hash);
    }
    assert_eq!(proxy.receipt(&cluster, hash)["status"], "0x1");
    assert_eq!(proxy.send(&cluster, &raw), hash);
    assert_eq!(payer_nonce(&cluster, 0), used + 1);

    // Nonces that arrive in the wrong order run in the right one; none fails and is charged for it.
    let later: Vec<_> = (1..4).rev().map(|nonce| transfer(&cluster, &user, nonce, TO, 1, FEES)).collect();
    for (hash, raw) in &later {
        assert_eq!(proxy.send(&cluster, raw), *hash);
    }
    assert_eq!(proxy.pending_nonce(&cluster, user.address()), 4);
    for (hash, _) in &later {
        assert_eq!(proxy.receipt(&cluster, *hash)["status"], "0x1");
    }
    assert_eq!(payer_nonce(&cluster, 0), used + 4);

    again_and_again_while_it_runs(&cluster, &proxy, &funded(6));
    refusals(&cluster, &proxy, &user);
    subscriptions_and_batches(&cluster, &proxy, &user);
    cluster.assert_agree();
}

/// The same bytes get the same answer at whatever moment, and are sealed once.
fn again_and_again_while_it_runs(cluster: &Cluster, proxy: &Proxy, user: &Wallet) {
    let used = payer_nonce(cluster, 0);
    for nonce in 0..8 {
        let (hash, raw) = transfer(cluster, user, nonce, TO, 1, FEES);
        wait_for("a receipt", || {
            assert_eq!(proxy.send(cluster, &raw), hash);
            let receipt = proxy.ok(cluster, "eth_getTransactionReceipt", json!([hash]));
            (!receipt.is_null()).then_some(())
        });
    }
    assert_eq!(proxy.pending_nonce(cluster, user.address()), 8);
    assert_eq!(payer_nonce(cluster, 0), used + 8);
}

/// What geth refuses, the proxy refuses in the same words before anything is sealed.
fn refusals(cluster: &Cluster, proxy: &Proxy, user: &Wallet) {
    let refused = |raw: &Bytes| {
        let error = proxy.call(cluster, "eth_sendRawTransaction", json!([raw])).expect_err("it is refused");
        assert_eq!(error.code(), -32000, "{error}");
        error.message().to_owned()
    };
    let used = payer_nonce(cluster, 0);
    let old = transfer(cluster, user, 0, TO, 9, FEES).1;
    assert_eq!(refused(&old), "nonce too low: next nonce 4, tx nonce 0");
    let poor = Wallet::public("poor", 0);
    let text = refused(&transfer(cluster, &poor, 0, TO, 1, FEES).1);
    assert!(text.starts_with("insufficient funds for gas * price + value: balance 0, tx cost "), "{text}");
    let text = refused(&transfer(cluster, user, 4, TO, 1, Fees { max: 0, tip: 0 }).1);
    assert!(text.starts_with("transaction underpriced: "), "{text}");
    let text = refused(&transfer(cluster, user, 1000, TO, 1, FEES).1);
    assert!(text.starts_with("nonce too high: next nonce 4, tx nonce 1000"), "{text}");
    let mut unsigned = transfer(cluster, user, 4, TO, 1, FEES).1.to_vec();
    let s = unsigned.len() - 32;
    unsigned[s..].fill(0xff);
    assert_eq!(refused(&unsigned.into()), "invalid sender: invalid transaction v, r, s values");
    assert_eq!(payer_nonce(cluster, 0), used);
    assert_eq!(proxy.pending_nonce(cluster, user.address()), 4);
}

fn subscriptions_and_batches(cluster: &Cluster, proxy: &Proxy, user: &Wallet) {
    let ws = proxy.info["ws"].as_str().expect("a URL").to_owned();
    let (hash, raw) = transfer(cluster, user, 4, TO, 1, FEES);
    let (first, second, told) = cluster.runtime.block_on(async {
        let socket = WsClientBuilder::default().build(&ws).await.expect("it serves WebSockets");
        let mut heads = socket
            .subscribe::<Value, _>("eth_subscribe", rpc_params!["newHeads"], "eth_unsubscribe")
            .await
            .expect("subscriptions pass");
        // By the hash that the wallet shows: the proxy knows the envelope.
        let mut states = socket
            .subscribe::<EnvelopeStatus, _>("eth_subscribe", rpc_params!["l2_envelopeStatus", hash], "eth_unsubscribe")
            .await
            .expect("it has envelopes");
        let sent: B256 = socket.request("eth_sendRawTransaction", rpc_params![raw]).await.expect("sealed");
        assert_eq!(sent, hash);
        let mut batch = jsonrpsee::core::params::BatchRequestBuilder::new();
        batch.insert("eth_chainId", rpc_params![]).unwrap();
        batch.insert("eth_getTransactionByHash", rpc_params![hash]).unwrap();
        batch.insert("eth_nonsense", rpc_params![]).unwrap();
        let answers = socket.batch_request::<Value>(batch).await.expect("batches pass");
        let answers: Vec<_> = answers.into_iter().collect();
        assert_eq!(*answers[0].as_ref().unwrap(), json!("0x4f1c"));
        assert_eq!(answers[1].as_ref().unwrap()["hash"], json!(hash));
        assert_eq!(answers[2].as_ref().unwrap_err().code(), -32601);
        let number = |head: Value| serde_json::from_value::<U64>(head["number"].clone()).unwrap().to::<u64>();
        let first = number(heads.next().await.expect("a head").expect("JSON"));
        let second = number(heads.next().await.expect("a head").expect("JSON"));
        let mut told = Vec::new();
        while !told.last().is_some_and(|status: &EnvelopeStatus| status.status.is_last()) {
            told.push(states.next().await.expect("a state").expect("JSON"));
        }
        (first, second, told)
    });
    assert_eq!(first + 1, second);
    assert!(told.iter().all(|status| status.hash == hash), "{told:?}");
    assert_eq!(told.last().map(|last| last.status), Some(EnvelopeState::Executed));
    assert_eq!(proxy.receipt(cluster, hash)["status"], "0x1");
    let receipt =
        proxy.ok(cluster, "eth_sendRawTransactionSync", json!([transfer(cluster, user, 5, TO, 1, FEES).1, "0x4e20"]));
    assert_eq!(receipt["status"], "0x1");
}

#[test]
fn a_new_user_funds_the_payer_by_one_transfer() {
    let cluster = chain(|_| ());
    let data = TempDir::new().unwrap();
    let proxy = Proxy::start(&node_url(&cluster, 0), data.path(), &[]);
    let payer: Address = proxy.info["payer"].as_str().unwrap().parse().unwrap();
    let mode = std::fs::metadata(data.path().join("payer.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let user = funded(6);
    let (_, raw) = transfer(&cluster, &user, 0, TO, 1, FEES);
    let refused = proxy.call(&cluster, "eth_sendRawTransaction", json!([raw])).expect_err("nobody pays");
    assert_eq!(refused.code(), -32000);
    let says = |words: &str| assert!(refused.message().contains(words), "{refused}");
    says("insufficient funds for gas");
    says(&format!("send some CAS to {payer} in your wallet"));

    // The step that it asks for, and at once, without waiting, the transaction that it is for.
    let (deposit, raw) = transfer(&cluster, &user, 0, payer, 1_000_000_000_000_000_000, FEES);
    assert_eq!(proxy.send(&cluster, &raw), deposit);
    assert_eq!(proxy.send(&cluster, &raw), deposit);
    assert_eq!(proxy.receipt(&cluster, deposit)["status"], "0x1");
    let account = cluster.runtime.block_on(cluster.client(0).payer(payer)).unwrap();
    assert_eq!(account.balance, U256::from(10).pow(U256::from(18)));
    let before = balance(&cluster, 0, user.address());
    let (hash, raw) = transfer(&cluster, &user, 1, TO, 7, FEES);
    assert_eq!(proxy.send(&cluster, &raw), hash);
    assert_eq!(proxy.receipt(&cluster, hash)["status"], "0x1");
    // What the wallet signed as gas fee is the payer's affair.
    assert_eq!(before - balance(&cluster, 0, user.address()), U256::from(7));
    let info = proxy.ok(&cluster, "l2_proxy", json!([]));
    assert_eq!(info["payer"], json!(payer));

    // `cascade send` and `cascade deposit` with an account of their own, at the node itself.
    let output = |line: &[&str]| {
        let output = cascade().args(line).output().expect("cascade runs");
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let key = data.path().join("user.key");
    let secret = funded(7).secret();
    std::fs::write(&key, secret.to_string()).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let (url, key, to) = (node_url(&cluster, 0), key.display().to_string(), TO.to_string());
    let send = ["send", "--rpc", &url, "--key-file", &key, "--to", &to, "--value", "0.5", "--json"];
    let (success, text) = output(&send);
    assert!(!success && text.contains("cascade deposit") && text.contains("cascade proxy"), "{text}");
    let (success, text) = output(&["deposit", "--rpc", &url, "--key-file", &key, "--value", "2", "--json"]);
    assert!(success && text.contains("\"balance\":\"0x1bc16d674ec80000\""), "{text}");
    let (success, text) = output(&send);
    assert!(success && text.contains("\"envelope\":\"0x") && text.contains("\"success\":true"), "{text}");
    // And through the proxy, whose payer pays.
    let mut through = send;
    through[2] = proxy.url();
    let other = data.path().join("other.key");
    std::fs::write(&other, funded(8).secret().to_string()).unwrap();
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o600)).unwrap();
    let other = other.display().to_string();
    through[4] = &other;
    let (success, text) = output(&through);
    assert!(success && text.contains("\"success\":true") && !text.contains("envelope"), "{text}");
}

#[test]
fn a_better_offer_replaces_what_is_not_ordered_and_what_is_pending_survives_a_restart() {
    let mut cluster = chain(|_| ());
    let data = TempDir::new().unwrap();
    let mut proxy = Proxy::public(&cluster, data.path());
    let user = funded(9);
    stall(&mut cluster);
    let better = |percent: u128| Fees { max: FEES.max * percent / 100, tip: FEES.tip * percent / 100 };
    let (slow, raw) = transfer(&cluster, &user, 0, TO, 1, FEES);
    assert_eq!(proxy.send(&cluster, &raw), slow);
    let (kept, raw) = transfer(&cluster, &user, 1, TO, 2, FEES);
    assert_eq!(proxy.send(&cluster, &raw), kept);
    let (_, raw) = transfer(&cluster, &user, 0, TO, 3, better(109));
    let refused = proxy.call(&cluster, "eth_sendRawTransaction", json!([raw])).expect_err("9% are too little");
    assert_eq!(refused.message(), "replacement transaction underpriced");
    // Cancelled as wallets do it: nothing to oneself, for more.
    let (cancel, raw) = transfer(&cluster, &user, 0, user.address(), 0, better(110));
    assert_eq!(proxy.send(&cluster, &raw), cancel);
    assert_eq!(proxy.pending_nonce(&cluster, user.address()), 2);

    // The proxy is killed, and so are all pools.
    drop(proxy);
    empty_pools(&mut cluster);
    sealed::wait_key(&cluster, 0, 1);
    proxy = Proxy::public(&cluster, data.path());
    assert_eq!(proxy.ok(&cluster, "eth_getTransactionByHash", json!([cancel]))["hash"], json!(cancel));
    for hash in [cancel, kept] {
        assert_eq!(proxy.receipt(&cluster, hash)["status"], "0x1");
    }
    assert_eq!(proxy.ok(&cluster, "eth_getTransactionReceipt", json!([slow])), Value::Null);
    assert_eq!(balance(&cluster, 0, TO), U256::from(2), "the slow one never ran");
    assert_eq!(payer_nonce(&cluster, 0), 2, "one envelope for each nonce was charged");
    wait_for("nothing is pending", || (proxy.ok(&cluster, "l2_proxy", json!([]))["pending"] == 0).then_some(()));
    cluster.assert_agree();
}

#[test]
fn what_its_epoch_did_not_order_is_sealed_again_and_what_cannot_run_has_a_receipt_that_says_why() {
    let mut cluster = chain(|genesis| genesis.params.epoch_length = 40);
    let data = TempDir::new().unwrap();
    let proxy = Proxy::public(&cluster, data.path());
    stall(&mut cluster);
    let (late, raw) = transfer(&cluster, &funded(10), 0, TO, 1, FEES);
    assert_eq!(proxy.send(&cluster, &raw), late);
    let (doomed, raw) = transfer(&cluster, &funded(11), 0, TO, 2, FEES);
    assert_eq!(proxy.send(&cluster, &raw), doomed);
    let sealed_in = cluster.runtime.block_on(cluster.client(0).epoch_keys()).unwrap().epoch.0;
    drop(proxy);
    empty_pools(&mut cluster);
    // The chain goes on without the envelopes, and the second sender's nonce is used elsewhere.
    let seal = sealed::wait_key(&cluster, 0, sealed_in);
    let raw = transfer(&cluster, &funded(11), 0, TO, 5, FEES).1;
    sealed::send(&cluster, 0, &seal, &raw, 0);
    wait_for("the other transaction ran", || (balance(&cluster, 0, TO) == U256::from(5)).then_some(()));
    // Transactions of others, so that the epoch's blocks come quickly.
    let mut nonce = 0;
    wait_for("the next epoch votes", || {
        let keys = cluster.runtime.block_on(cluster.client(0).epoch_keys()).ok()?;
        let done = cluster.runtime.block_on(cluster.client(0).payer(sealed::payer().address())).ok()?.nonce;
        let seal = Seal::of(&keys, 200).ok()?;
        if seal.epoch.0 <= sealed_in && done == nonce + 1 {
            let raw = transfer(&cluster, &funded(12), nonce, Address::repeat_byte(0x56), 1, FEES).1;
            nonce += 1;
            sealed::send(&cluster, 0, &seal, &raw, nonce);
        }
        (seal.epoch.0 > sealed_in).then_some(())
    });

    let proxy = Proxy::public(&cluster, data.path());
    assert_eq!(proxy.receipt(&cluster, late)["status"], "0x1");
    let status: EnvelopeStatus =
        serde_json::from_value(proxy.ok(&cluster, "l2_envelopeStatus", json!([late]))).expect("a status");
    assert_eq!((status.status, status.transaction), (EnvelopeState::Executed, Some(late)));

    let receipt = proxy.receipt(&cluster, doomed);
    assert_eq!((&receipt["status"], &receipt["transactionHash"]), (&json!("0x0"), &json!(doomed)), "{receipt}");
    assert!(receipt["l2"]["outcome"].to_string().contains("nonce too low"), "{receipt}");
    let status: EnvelopeStatus =
        serde_json::from_value(proxy.ok(&cluster, "l2_envelopeStatus", json!([doomed]))).expect("a status");
    assert_eq!(status.status, EnvelopeState::Failed);
    assert!(status.reason.is_some_and(|reason| reason.contains("nonce too low")));
    let transaction = proxy.ok(&cluster, "eth_getTransactionByHash", json!([doomed]));
    assert_eq!(transaction["blockNumber"], receipt["blockNumber"]);
    assert_eq!(payer_nonce(&cluster, 0), 2);
    assert_eq!(proxy.pending_nonce(&cluster, funded(11).address()), 1);
}

#[test]
fn a_proxy_refuses_what_would_be_unsafe() {
    let cluster = Cluster::start(1);
    let data = TempDir::new().unwrap();
    let refused = |more: &[&str]| {
        let output = cascade()
            .args(["proxy", "--rpc", &node_url(&cluster, 0), "--data"])
            .arg(data.path())
            .args(more)
            .output()
            .expect("cascade runs");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let text = refused(&["--listen", "0.0.0.0:0"]);
    assert!(text.contains("loopback") && text.contains("--allow-remote"), "{text}");
    let text = refused(&["--listen", "127.0.0.1:0"]);
    assert!(text.contains("does not take encrypted transactions"), "{text}");
}
