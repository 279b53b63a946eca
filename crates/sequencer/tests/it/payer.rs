//! What a payer shows and pays by the gas limits of its envelopes, and how it gets its money back: real processes.

use std::os::unix::fs::PermissionsExt as _;

use alloy_primitives::{Address, B256, Bytes, U64, U256};
use cascade_execution::{FEE_LEDGER, Withdrawal};
use cascade_primitives::{Height, Transaction};
use cascade_sequencer::{
    testnet::accounts::proxy_account,
    wallet::{Transfer, Wallet},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    cli::cascade,
    cluster::{Cluster, funded},
    fake::Bench,
    proxy::{FEES, Proxy, balance, chain, node_url, transfer},
    sealed,
};

const TO: Address = Address::repeat_byte(0x66);
const COIN: u64 = 1_000_000_000_000_000_000;

fn call(cluster: &Cluster, from: &Wallet, nonce: u64, to: Address, data: Vec<u8>, gas: u64) -> (B256, Bytes) {
    let chain = cluster.genesis.params.chain_id;
    let transfer = Transfer { chain, nonce, to, value: U256::ZERO, data: data.into(), gas, fees: FEES };
    let (hash, raw) = from.sign(&transfer);
    (hash, raw.into())
}

fn number(value: &Value) -> u64 {
    serde_json::from_value::<U64>(value.clone()).unwrap_or_else(|error| panic!("{value}: {error}")).to()
}

/// What a block with one envelope shows of its gas limit.
fn shown(cluster: &Cluster, height: u64) -> u64 {
    let block = cluster.runtime.block_on(cluster.client(1).block(height)).expect("it runs").expect("it is there");
    block.ordered_gas
}

fn fees(cluster: &Cluster, payer: Address) -> U256 {
    cluster.runtime.block_on(cluster.client(0).payer(payer)).expect("it runs").balance
}

/// Sends one transaction through the proxy: what its block shows, and the gas that was charged. The payer pays that, at
/// the price of the receipt, and nobody else does.
fn through(cluster: &Cluster, proxy: &Proxy, from: &Wallet, (hash, raw): (B256, Bytes)) -> (u64, u64) {
    let own = Transaction::decode(raw.0.clone(), cluster.genesis.params.chain_id, raw.len()).expect("it is one");
    let own = own.gas_limit();
    let payer = proxy_account().address();
    let (before, wallet) = (fees(cluster, payer), balance(cluster, 0, from.address()));
    assert_eq!(proxy.send(cluster, &raw), hash);
    let receipt = proxy.receipt(cluster, hash);
    assert_eq!(receipt["status"], "0x1", "{receipt}");
    let (used, charged) = (number(&receipt["gasUsed"]), number(&receipt["l2"]["chargedGas"]));
    assert_eq!(used, charged.min(own), "wallets see no more than the limit that they signed");
    let cost = U256::from(charged) * U256::from(number(&receipt["effectiveGasPrice"]));
    assert_eq!(before - fees(cluster, payer), cost);
    assert_eq!(balance(cluster, 0, from.address()), wallet);
    (shown(cluster, number(&receipt["blockNumber"])), charged)
}

#[test]
fn the_clear_gas_limit_is_a_class_and_half_of_it_is_charged_at_the_least() {
    let cluster = chain(|_| ());
    let data = TempDir::new().unwrap();
    let proxy = Proxy::public(&cluster, data.path());
    let user = funded(30);
    // Two calls whose own limits differ look the same, and cost the same.
    for (nonce, gas) in [(0, 30_000), (1, 95_123)] {
        let call = call(&cluster, &user, nonce, TO, vec![1; 4], gas);
        assert_eq!(through(&cluster, &proxy, &user, call), (300_000, 150_000));
    }
    assert_eq!(through(&cluster, &proxy, &user, call(&cluster, &user, 2, TO, vec![1], 400_000)), (1_200_000, 600_000));
    let plain = transfer(&cluster, &user, 3, TO, 0, FEES);
    assert_eq!(through(&cluster, &proxy, &user, plain), (21_000, 21_000));
    // What wallets ask is answered as ever.
    let asked = json!([{ "from": user.address(), "to": TO, "data": "0x01" }]);
    let estimate = proxy.ok(&cluster, "eth_estimateGas", asked);
    assert!((21_001..22_000).contains(&number(&estimate)), "{estimate}");

    // Told otherwise, it shows the transaction's own limit.
    drop(proxy);
    let proxy = Proxy::start(&node_url(&cluster, 0), data.path(), &["--public-payer", "--gas-classes", "none"]);
    let (limit, charged) = through(&cluster, &proxy, &user, call(&cluster, &user, 4, TO, vec![1; 4], 95_123));
    assert_eq!((limit, charged), (95_123, 47_562));
    sends_in_classes(&cluster, data.path());
    cluster.assert_agree();
}

fn key_file(dir: &std::path::Path, wallet: &Wallet) -> String {
    let file = dir.join(format!("{}.key", wallet.address()));
    std::fs::write(&file, wallet.secret().to_string()).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    file.display().to_string()
}

fn run(line: &[&str], variables: &[(&str, &str)]) -> Result<Value, String> {
    let output = cascade().args(line).envs(variables.iter().copied()).output().expect("cascade runs");
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).expect("one line of JSON"))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// So does `cascade send`, by flag, environment and default.
fn sends_in_classes(cluster: &Cluster, dir: &std::path::Path) {
    let (url, to) = (node_url(cluster, 0), TO.to_string());
    let key = key_file(dir, &sealed::payer());
    let line = ["send", "--rpc", &url, "--key-file", &key, "--to", &to, "--data", "0x01", "--json"];
    let height = |sent: Result<Value, String>| sent.expect("it is sent")["height"].as_u64().expect("a height");
    assert_eq!(shown(cluster, height(run(&line, &[]))), 300_000);
    let told = [("CASCADE_GAS_CLASSES", "50000,300000")];
    assert_eq!(shown(cluster, height(run(&line, &told))), 50_000);
    let flagged = [line.as_slice(), &["--gas-classes", "40000"]].concat();
    assert_eq!(shown(cluster, height(run(&flagged, &told))), 40_000);
}

#[test]
fn send_seals_for_as_many_blocks_as_it_is_told_and_the_chain_allows() {
    let bench = Bench::new();
    let dir = TempDir::new().unwrap();
    let (key, to) = (key_file(dir.path(), &funded(0)), TO.to_string());
    let line =
        ["send", "--rpc", &bench.node.url, "--key-file", &key, "--to", &to, "--gas", "21000", "--max-fee", "1000"];
    let line = [line.as_slice(), &["--tip", "10", "--no-wait", "--json"]].concat();
    // The fake's newest block is 100, and it allows 600 more.
    for (more, end) in [(vec![], 300), (vec!["--valid-for", "5"], 105), (vec!["--valid-for", "9999"], 700)] {
        run(&[line.as_slice(), &more].concat(), &[]).expect("it is sent");
        assert_eq!(bench.node.world.lock().envelopes().last().expect("one").valid_until, Height(end));
    }
    let refused = run(&[line.as_slice(), &["--valid-for", "0"]].concat(), &[]).expect_err("no block could hold it");
    assert!(refused.contains("--valid-for"), "{refused}");
}

#[test]
fn a_payer_gets_its_deposit_back() {
    let cluster = chain(|_| ());
    let data = TempDir::new().unwrap();
    let proxy = Proxy::start(&node_url(&cluster, 0), data.path(), &[]);
    let payer: Address = proxy.info["payer"].as_str().unwrap().parse().unwrap();
    let user = funded(31);
    let (deposit, raw) = transfer(&cluster, &user, 0, payer, 2 * COIN, FEES);
    assert_eq!(proxy.send(&cluster, &raw), deposit);
    assert_eq!(proxy.receipt(&cluster, deposit)["status"], "0x1");

    let (url, key, to) = (node_url(&cluster, 0), data.path().join("payer.key").display().to_string(), TO.to_string());
    let withdraw = |more: &[&str]| {
        let line = ["withdraw", "--rpc", &url, "--key-file", &key, "--to", &to, "--json"];
        run(&[line.as_slice(), more].concat(), &[])
    };
    let part = withdraw(&["--value", "0.5"]).expect("there is enough");
    let wei = |value: &Value| serde_json::from_value::<U256>(value.clone()).expect("wei");
    assert_eq!((wei(&part["amount"]), balance(&cluster, 0, TO)), (U256::from(COIN / 2), U256::from(COIN / 2)));
    let too_much = withdraw(&["--value", "1.5"]).expect_err("some of it was the fee");
    assert!(too_much.contains("insufficient funds"), "{too_much}");

    // The proxy, whose key it is, goes on.
    let (hash, raw) = transfer(&cluster, &user, 1, TO, 1, FEES);
    assert_eq!(proxy.send(&cluster, &raw), hash);
    assert_eq!(proxy.receipt(&cluster, hash)["status"], "0x1");
    // Its users cannot take what is the payer's: charged, and the receipt says why.
    let before = fees(&cluster, payer);
    let theft = Withdrawal { to: user.address(), amount: Some(U256::from(1)) }.call_data();
    let (hash, raw) = call(&cluster, &user, 2, FEE_LEDGER, theft, 50_000);
    assert_eq!(proxy.send(&cluster, &raw), hash);
    let receipt = proxy.receipt(&cluster, hash);
    assert_eq!(receipt["status"], "0x0");
    assert!(receipt["l2"]["outcome"].to_string().contains("only the envelope's payer"), "{receipt}");
    let cost = U256::from(number(&receipt["l2"]["chargedGas"])) * U256::from(number(&receipt["effectiveGasPrice"]));
    assert_eq!(before - fees(&cluster, payer), cost);

    let all = withdraw(&[]).expect("all of it");
    let left = fees(&cluster, payer);
    assert!(left < U256::from(24_000), "{left}");
    assert_eq!(balance(&cluster, 0, TO), U256::from(COIN / 2 + 1) + wei(&all["amount"]));
    assert!(wei(&all["amount"]) > U256::from(COIN), "{all}");
    let (_, raw) = transfer(&cluster, &user, 2, TO, 1, FEES);
    let refused = proxy.call(&cluster, "eth_sendRawTransaction", json!([raw])).expect_err("nothing is left");
    assert!(refused.message().contains("insufficient funds"), "{refused}");
    let nothing = withdraw(&[]).expect_err("nothing is left");
    assert!(nothing.contains("insufficient funds"), "{nothing}");
    cluster.assert_agree();
}
