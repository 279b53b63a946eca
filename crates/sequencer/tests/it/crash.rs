//! Real processes, killed and restarted: what was final stays final, and nobody contradicts itself.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use cascade_primitives::{Address, B256, ChainId, U256};
use cascade_sequencer::{
    cli::Client,
    rpc::types::FinalityStatus,
    wallet::{Fees, TRANSFER_GAS, Transfer, Wallet},
};

use crate::cluster::{Cluster, funded, wait_for};

/// Sends transfers of a few accounts to whichever node answers, and keeps those that a node reported as final.
pub struct Load {
    stop: Arc<AtomicBool>,
    urls: Arc<Mutex<Vec<String>>>,
    pub finals: Arc<Mutex<BTreeMap<B256, u64>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Load {
    pub fn start(chain: ChainId, urls: Vec<String>) -> Self {
        let (stop, urls) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(urls)));
        let finals = Arc::new(Mutex::new(BTreeMap::new()));
        let thread = {
            let (stop, urls, finals) = (Arc::clone(&stop), Arc::clone(&urls), Arc::clone(&finals));
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(drive(chain, &stop, &urls, &finals));
            })
        };
        Self { stop, urls, finals, thread: Some(thread) }
    }

    pub fn set_urls(&self, urls: Vec<String>) {
        *self.urls.lock().unwrap() = urls;
    }

    pub fn finish(mut self) -> BTreeMap<B256, u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("it runs").join().expect("the load ends well");
        std::mem::take(&mut self.finals.lock().unwrap())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn drive(chain: ChainId, stop: &AtomicBool, urls: &Mutex<Vec<String>>, finals: &Mutex<BTreeMap<B256, u64>>) {
    let wallets: Vec<Wallet> = (0..8).map(funded).collect();
    let mut nonces = vec![0_u64; wallets.len()];
    let mut open: Vec<B256> = Vec::new();
    let mut round = 0_usize;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let url = {
            let urls = urls.lock().unwrap();
            urls[round % urls.len()].clone()
        };
        let Ok(client) = Client::new(&url) else { continue };
        let i = round % wallets.len();
        let raw = transfer(&wallets[i], chain, nonces[i]);
        match client.send_raw(&raw.1).await {
            Ok(hash) => {
                open.push(hash);
                nonces[i] += 1;
            }
            // The node is gone, or knows better which nonce is next: what a node that died had in its pool is lost.
            Err(_) => {
                if let Ok(next) = client.next_nonce(wallets[i].address()).await {
                    nonces[i] = next;
                }
            }
        }
        let mut waiting = Vec::new();
        for hash in std::mem::take(&mut open) {
            match client.finality(hash).await {
                Ok(Some(finality)) if finality.status >= FinalityStatus::Final => {
                    let height = finality.height.expect("a final transaction has a height");
                    finals.lock().unwrap().insert(hash, height.0);
                }
                _ => waiting.push(hash),
            }
        }
        let excess = waiting.len().saturating_sub(64);
        open = waiting.split_off(excess);
    }
}

pub fn transfer(wallet: &Wallet, chain: ChainId, nonce: u64) -> (B256, Vec<u8>) {
    wallet.sign(&Transfer {
        chain,
        nonce,
        to: Address::repeat_byte(0x77),
        value: U256::from(1),
        data: Default::default(),
        gas: TRANSFER_GAS,
        fees: Fees { max: 10_000_000_000, tip: 1 },
    })
}

pub fn urls(cluster: &Cluster) -> Vec<String> {
    cluster.nodes.iter().filter_map(|n| n.file.as_ref()).map(|f| f.rpc_http.clone()).collect()
}

fn rounds() -> usize {
    if std::env::var_os("CASCADE_SLOW").is_some() { 10 } else { 3 }
}

#[test]
fn killing_the_leader_under_load_loses_nothing_and_the_restarted_node_catches_up() {
    let mut cluster = Cluster::start(4);
    for i in 0..4 {
        cluster.wait_height(i, 1);
    }
    let load = Load::start(cluster.genesis.params.chain_id, urls(&cluster));
    let mut recoveries: Vec<Duration> = Vec::new();
    for round in 0..rounds() {
        wait_for("transactions become final under load", || {
            (load.finals.lock().unwrap().len() > 20 * (round + 1)).then_some(())
        });
        let asked = round % 4;
        let leader = cluster.leader(asked);
        let other = (leader + 1) % 4;
        cluster.kill(leader);
        let killed = Instant::now();
        load.set_urls(urls(&cluster));
        let before = cluster.height(other);
        // What was on its way when the leader died may still become final; two more blocks need a new leader.
        cluster.wait_height(other, before + 3);
        recoveries.push(killed.elapsed());
        cluster.start_node(leader);
        load.set_urls(urls(&cluster));
        let target = cluster.height(other);
        cluster.wait_height(leader, target);
    }
    println!("recovery after kill -9 of the leader: {recoveries:?}");
    let finals = load.finish();
    assert_nothing_lost(&cluster, &finals);
}

/// Panics unless every node has every transaction that any node called final, at the height that was said then, and all
/// have the same blocks.
pub fn assert_nothing_lost(cluster: &Cluster, finals: &BTreeMap<B256, u64>) {
    let highest = finals.values().copied().max().expect("some became final");
    for i in 0..cluster.nodes.len() {
        cluster.wait_height(i, highest + 1);
        wait_for("the node executes what is final", || {
            let status = cluster.runtime.block_on(cluster.client(i).status()).ok()?;
            (status.heads.executed.0 > highest).then_some(())
        });
    }
    for i in 0..cluster.nodes.len() {
        let client = cluster.client(i);
        for (hash, height) in finals {
            let found = cluster.runtime.block_on(client.finality(*hash)).expect("it runs");
            assert_eq!(found.and_then(|f| f.height).map(|h| h.0), Some(*height), "node {i} lost final {hash}");
        }
        assert!(!cluster.log(i).contains("contradict"), "node {i} saw a double sign");
    }
    cluster.assert_agree();
}

#[test]
fn more_than_f_stopped_halts_without_harm_and_resumes() {
    let mut cluster = Cluster::start(4);
    for i in 0..4 {
        cluster.wait_height(i, 2);
    }
    cluster.kill(2);
    assert_eq!(cluster.terminate(3), Some(0), "SIGTERM ends a node cleanly");
    // Two of four are no quorum: what they have is all there will be.
    let raw = transfer(&funded(0), cluster.genesis.params.chain_id, 0);
    let hash =
        cluster.runtime.block_on(cluster.client(0).send_raw(&raw.1)).expect("a node without quorum still takes it");
    let halted = wait_for("the node says that there is no quorum", || {
        let status = cluster.runtime.block_on(cluster.client(0).status()).ok()?;
        (status.health.seats_heard < status.health.quorum).then_some(status.heads.ordered.0)
    });
    let pending = cluster.runtime.block_on(cluster.client(0).finality(hash)).expect("it runs").expect("it is known");
    assert_eq!(pending.status, FinalityStatus::Pending);
    assert_eq!(cluster.height(0), halted);
    cluster.start_node(2);
    cluster.start_node(3);
    for i in 0..4 {
        cluster.wait_height(i, halted + 3);
    }
    wait_for("the waiting transaction becomes final", || {
        let found = cluster.runtime.block_on(cluster.client(0).finality(hash)).ok()??;
        (found.status >= FinalityStatus::Executed).then_some(())
    });
    cluster.assert_agree();
}

#[test]
fn a_node_that_lost_its_data_but_not_its_sign_state_syncs_and_signs_on() {
    let mut cluster = Cluster::start(4);
    for i in 0..4 {
        cluster.wait_height(i, 5);
    }
    cluster.kill(1);
    std::fs::remove_dir_all(cluster.nodes[1].home.path().join("chain")).expect("the chain data can be deleted");
    cluster.start_node(1);
    let target = cluster.height(0);
    cluster.wait_height(1, target);
    // With another one stopped, the three that are left are a quorum only if the one that lost its data votes.
    cluster.kill(2);
    let before = cluster.height(0);
    cluster.wait_height(0, before + 3);
    cluster.assert_agree();

    // Without the sign-state too, it could contradict itself: it refuses, and says what to do.
    cluster.kill(1);
    std::fs::remove_dir_all(cluster.nodes[1].home.path().join("chain")).expect("the chain data can be deleted");
    std::fs::remove_file(cluster.nodes[1].home.sign_state()).expect("the sign-state can be deleted");
    let output = crate::cluster::command(&cluster.nodes[1].home, &[])
        .stderr(std::process::Stdio::piped())
        .output()
        .expect("cascade can be started");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(16), "{text}");
    assert!(text.contains("sign-state"), "{text}");
}
