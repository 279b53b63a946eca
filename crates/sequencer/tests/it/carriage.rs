//! Blocks in coded chunks between real processes.

use cascade_primitives::{Address, U256};
use cascade_sequencer::wallet::{Fees, Transfer};

use crate::{
    cluster::{Cluster, funded, signal, wait_for},
    metrics::scrape,
};

const NODES: usize = 7;

/// Seven sequencers with metrics, that send their blocks like this.
fn cluster(proposals: &str, change: impl FnOnce(&mut cascade_primitives::Genesis)) -> Cluster {
    let mut cluster = Cluster::new(NODES, |genesis, _| change(genesis));
    for node in &mut cluster.nodes {
        node.more = ["--set", &format!("network.proposals={proposals}"), "--set", "metrics.listen=127.0.0.1:0"]
            .map(str::to_owned)
            .to_vec();
    }
    cluster.start_all();
    cluster
}

/// A counter of carriage at a node.
fn count(cluster: &Cluster, node: usize, name: &str) -> u64 {
    let file = cluster.nodes[node].file.as_ref().expect("it runs");
    let text = scrape(file.metrics.as_ref().expect("it serves metrics"));
    let line = format!("cascade_carriage_{name}_total ");
    let value = text.lines().find_map(|l| l.strip_prefix(&line)).unwrap_or_else(|| panic!("no {line}in {text}"));
    value.trim().parse().expect("a number")
}

fn sum(cluster: &Cluster, nodes: &[usize], name: &str) -> u64 {
    nodes.iter().map(|&node| count(cluster, node, name)).sum()
}

#[test]
fn seven_nodes_make_blocks_in_chunks_with_one_killed_and_one_that_passes_nothing_on() {
    let mut cluster = cluster("chunks", |_| ());
    let all: Vec<usize> = (0..NODES).collect();
    for &node in &all {
        cluster.wait_height(node, 20);
    }
    let (dispersed, rebuilt) = (sum(&cluster, &all, "dispersed"), sum(&cluster, &all, "rebuilt"));
    assert!(dispersed >= 15, "all blocks but the first of an epoch: {dispersed}");
    assert!(rebuilt >= 4 * dispersed, "of {dispersed} proposals, six nodes each: {rebuilt}");
    assert!(sum(&cluster, &all, "chunks_sent") >= 6 * dispersed);

    // Two of seven: one is gone, one is connected and says nothing.
    cluster.kill(5);
    let stopped = cluster.nodes[6].process.as_ref().expect("it runs").id();
    signal(stopped, "STOP");
    let rest = &all[..5];
    let before = sum(&cluster, rest, "rebuilt");
    let height = cluster.height(0);
    cluster.wait_height(0, height + 15);
    let after = sum(&cluster, rest, "rebuilt");
    assert!(after >= before + 40, "blocks come out of the chunks of five: {before} and {after}");

    // They come back, and lies were told by nobody.
    signal(stopped, "CONT");
    cluster.start_node(5);
    let height = cluster.height(0);
    for &node in &all {
        cluster.wait_height(node, height + 5);
    }
    assert_eq!(sum(&cluster, &all, "lies"), 0);
    cluster.assert_agree();
}

#[test]
fn by_themselves_seven_nodes_send_small_blocks_whole_and_large_ones_in_chunks() {
    let mut cluster = cluster("auto", |genesis| {
        genesis.params.block_time_ms = 1500;
        genesis.params.leader_timeout_ms = 6000;
    });
    // One that sends everything whole takes what others send in chunks.
    cluster.terminate(6);
    cluster.nodes[6].more[1] = "network.proposals=whole".to_owned();
    cluster.start_node(6);
    let all: Vec<usize> = (0..NODES).collect();
    for &node in &all {
        cluster.wait_height(node, 2);
    }
    assert_eq!(sum(&cluster, &all, "dispersed"), 0, "empty blocks");
    let chain = cluster.genesis.params.chain_id;
    let mut nonce = 0;
    wait_for("a block of more than a mebibyte goes in chunks and is rebuilt everywhere", || {
        for i in 0..16 {
            let transfer = Transfer {
                chain,
                nonce,
                to: Address::repeat_byte(0x77),
                value: U256::from(1),
                data: vec![0; 100 << 10].into(),
                gas: 1_300_000,
                fees: Fees { max: 10_000_000_000, tip: 1 },
            };
            let (_, raw) = funded(i).sign(&transfer);
            cluster.runtime.block_on(cluster.client(0).send_raw(&raw)).expect("it is taken");
        }
        nonce += 1;
        let height = cluster.height(0);
        cluster.wait_height(0, height + 2);
        all.iter().filter(|&&node| count(&cluster, node, "rebuilt") > 0).nth(5)
    });
    assert!(sum(&cluster, &all, "dispersed") > 0);
    assert_eq!((count(&cluster, 6, "dispersed"), count(&cluster, 6, "rebuilt") > 0), (0, true));
    let height = cluster.height(0);
    for &node in &all {
        cluster.wait_height(node, height);
    }
    assert_eq!(sum(&cluster, &all, "lies"), 0);
    cluster.assert_agree();
}
