//! `kill -9` of random nodes under load, again and again, never more than f of them down.

use std::{
    fmt,
    time::{Duration, Instant},
};

use crate::{
    cluster::{Cluster, wait_for},
    crash::{Load, assert_nothing_lost, urls},
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
