//! `kill -9` of random nodes under load, again and again, never more than f of them down.

use std::{
    fmt,
    time::{Duration, Instant},
};

use cascade_primitives::Epoch;
use cascade_sequencer::{rpc::types::KeyState, sealing::Seal};
use cascade_storage::{ChainDb, ChainDbOptions, KeyKind};

use crate::{
    cluster::{Cluster, funded, wait_for},
    crash::{Load, assert_nothing_lost, urls},
    sealed::{payer, start, transfer},
};

const NODES: usize = 4;
/// From one kill to the next, unless the last victim takes longer to serve again: no more than f may be down.
const EVERY: Duration = Duration::from_secs(2);

fn duration() -> Duration {
    Duration::from_secs(if std::env::var_os("CASCADE_SLOW").is_some() { 600 } else { 20 })
}

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}

/// What a run measures, in ms.
#[derive(Default)]
struct Figures {
    /// From the kill until the others have made two blocks final.
    others: Vec<u128>,
    /// From the start until it serves requests.
    serves: Vec<u128>,
    /// From the start until it has what the others had at its start.
    caught_up: Vec<u128>,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [("others go on", &self.others), ("serves", &self.serves), ("caught up", &self.caught_up)];
        rows.iter().try_for_each(|(name, values)| {
            let mut sorted = (*values).clone();
            sorted.sort_unstable();
            let at = |percent: usize| sorted.get((sorted.len().max(1) - 1) * percent / 100).copied().unwrap_or(0);
            writeln!(f, "  {name}: p50 {} ms, p90 {} ms, most {} ms", at(50), at(90), at(100))
        })
    }
}

#[test]
fn random_kills_under_load_lose_nothing_final() {
    let seed = std::env::var("CASCADE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(7);
    println!("CASCADE_SEED={seed}");
    let mut random = Random(seed);
    let mut cluster = Cluster::start(NODES);
    for i in 0..NODES {
        cluster.wait_height(i, 1);
    }
    let load = Load::start(cluster.genesis.params.chain_id, urls(&cluster));
    wait_for("transactions become final", || (load.finals.lock().unwrap().len() > 10).then_some(()));
    let (mut figures, begin) = (Figures::default(), Instant::now());
    let mut next = begin;
    while begin.elapsed() < duration() {
        wait_for("it is time for the next kill", || (Instant::now() >= next).then_some(()));
        next = Instant::now() + EVERY;
        let victim = random.below(NODES);
        let witness = (victim + 1 + random.below(NODES - 1)) % NODES;
        cluster.kill(victim);
        let killed = Instant::now();
        load.set_urls(urls(&cluster));
        let before = cluster.height(witness);
        cluster.wait_height(witness, before + 2);
        figures.others.push(killed.elapsed().as_millis());
        let started = Instant::now();
        cluster.start_node(victim);
        figures.serves.push(started.elapsed().as_millis());
        load.set_urls(urls(&cluster));
        let target = cluster.height(witness);
        cluster.wait_height(victim, target);
        figures.caught_up.push(started.elapsed().as_millis());
    }
    let took = begin.elapsed();
    let finals = load.finish();
    println!("{} kills in {:.0} s, {} transactions final", figures.others.len(), took.as_secs_f64(), finals.len());
    print!("{figures}");
    assert_nothing_lost(&cluster, &finals);
    println!("height {} at the end, and all agree", cluster.height(0));
}

/// Steps of key generation at which a node is killed.
const STEPS: [&str; 3] = ["announcing", "dealing", "complete"];

/// The step at which a node is, as it says itself.
fn step_of(cluster: &Cluster, node: usize) -> Option<&'static str> {
    let keys = cluster.runtime.block_on(cluster.client(node).epoch_keys()).ok()?;
    Some(match keys.progress? {
        KeyState::Announcing { .. } => STEPS[0],
        KeyState::Dealing { .. } => STEPS[1],
        KeyState::Complete { .. } => STEPS[2],
    })
}

fn epoch_of(cluster: &Cluster, node: usize) -> Option<Epoch> {
    Some(cluster.runtime.block_on(cluster.client(node).epoch_keys()).ok()?.epoch)
}

/// Sends an envelope, if its epoch still takes it: so that there is something to reveal when a node dies.
fn offer_envelope(cluster: &Cluster, node: usize) {
    let client = cluster.client(node);
    let sent = cluster.runtime.block_on(async {
        let keys = client.epoch_keys().await.ok()?;
        let nonce = client.payer(payer().address()).await.ok()?.nonce;
        let (_, raw) = transfer(cluster, &funded(0), nonce, 1);
        let seal = Seal::of(&keys, 200).ok()?;
        let envelope = seal.transaction(&raw, payer().signing_key(), nonce, &cluster.genesis.params).ok()?;
        client.send_item(envelope.raw()).await.ok()
    });
    println!("  an envelope beside it: {}", sent.is_some());
}

/// Nodes die at every step of key generation, and while blocks are opened, and come back at once. Afterwards every member
/// holds its shares of the running epoch's keys, and the chain has gone from epoch to epoch.
#[test]
fn kills_at_every_step_of_key_generation_leave_all_members_with_shares() {
    let seed = std::env::var("CASCADE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(11);
    println!("CASCADE_SEED={seed}");
    let mut random = Random(seed);
    let mut cluster = start(NODES, |genesis| {
        (genesis.params.epoch_length, genesis.params.key_window) = (40, 10);
        genesis.params.empty_block_interval = 2;
    });
    wait_for("the first keys are there", || (epoch_of(&cluster, 0)? >= Epoch(1)).then_some(()));
    let kills = if std::env::var_os("CASCADE_SLOW").is_some() { 40 } else { 3 };
    for kill in 0..kills {
        let victim = random.below(NODES);
        let witness = (victim + 1 + random.below(NODES - 1)) % NODES;
        let step = STEPS[(kill + random.below(2)) % STEPS.len()];
        wait_for(&format!("node {victim} is {step}"), || (step_of(&cluster, victim)? == step).then_some(()));
        println!("kill {kill}: node {victim}, {step}");
        offer_envelope(&cluster, witness);
        // Anywhere in the blocks that follow.
        let after = cluster.height(witness) + random.below(4) as u64;
        cluster.wait_height(witness, after);
        cluster.kill(victim);
        cluster.start_node(victim);
        let target = cluster.height(witness);
        cluster.wait_height(victim, target);
    }
    // A node that has just started knows of no epoch yet.
    let newest = || (0..NODES).filter_map(|i| epoch_of(&cluster, i)).max().filter(|epoch| *epoch > Epoch(0));
    let begun = wait_for("an epoch is known", newest);
    for i in 0..NODES {
        wait_for("the chain goes on from epoch to epoch", || (epoch_of(&cluster, i)? > begun).then_some(()));
    }
    cluster.assert_agree();
    (0..NODES).for_each(|i| cluster.kill(i));
    for (i, node) in cluster.nodes.iter().enumerate() {
        let log = cluster.log(i);
        assert!(!log.contains("has no share of the epoch's keys"), "node {i} was passed over");
        let db = ChainDb::open(node.home.path().join("chain/db"), ChainDbOptions::default()).expect("its database");
        let (height, _) = db.heads().last_final.expect("it has blocks");
        let epoch = db.header(height).unwrap().expect("its newest block").1.epoch;
        let root = db.committee(epoch).unwrap().expect("the epoch has begun").members_root();
        let shares = db.key(KeyKind::Shares, epoch, &root).unwrap();
        assert!(shares.is_some(), "node {i} holds no shares of epoch {epoch}");
    }
}
