//! Real partitions: five processes in five network namespaces on one bridge, cut apart by nftables.
//!
//! ```text
//!   test process           198.18.N.254
//!        |                      |
//!        +------ bridge --------+------ veth -- namespace 1: cascade node, 198.18.N.1
//!                               +------ veth -- namespace 2: cascade node, 198.18.N.2   ...
//! ```
//!
//! The rules stand inside the namespaces and speak of the nodes' addresses only, so the test always reaches everybody's
//! RPC. Needs root, `ip` and `nft` (Debian: iproute2, nftables); skipped with a message where they are missing.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use cascade_primitives::B256;
use cascade_sequencer::{
    node::NodeFile,
    rpc::types::{FinalityStatus, Health, HealthStatus},
};

use crate::{
    cluster::{Cluster, funded, wait_for},
    crash::transfer,
};

const NODES: usize = 5;
const PORT: u16 = 30330;

/// The namespaces of one test, removed with it.
struct Wires {
    /// The process id, which names everything that belongs to this run.
    run: u32,
}

/// Runs a command and says what it said if it failed.
fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).output().map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{program} {}: {}", args.join(" "), said.trim())) }
}

impl Wires {
    fn lay() -> Result<Self, String> {
        run("nft", &["--version"])?;
        remove_leftovers();
        let wires = Self { run: std::process::id() };
        let (bridge, host) = (wires.bridge(), format!("{}/24", wires.address(254)));
        run("ip", &["link", "add", &bridge, "type", "bridge"])?;
        run("ip", &["addr", "add", &host, "dev", &bridge])?;
        run("ip", &["link", "set", &bridge, "up"])?;
        for i in 0..NODES {
            let (space, port) = (wires.space(i), format!("{bridge}{}", char::from(b'a' + i as u8)));
            let address = format!("{}/24", wires.address(i + 1));
            run("ip", &["netns", "add", &space])?;
            run("ip", &["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &space])?;
            run("ip", &["link", "set", &port, "master", &bridge, "up"])?;
            run("ip", &["-n", &space, "addr", "add", &address, "dev", "eth0"])?;
            run("ip", &["-n", &space, "link", "set", "eth0", "up"])?;
            run("ip", &["-n", &space, "link", "set", "lo", "up"])?;
        }
        Ok(wires)
    }

    fn bridge(&self) -> String {
        format!("cas{}", self.run)
    }

    fn space(&self, i: usize) -> String {
        format!("cascade-{}-{i}", self.run)
    }

    /// In 198.18.0.0/15, which is set aside for tests (RFC 2544).
    fn address(&self, host: usize) -> String {
        format!("198.18.{}.{host}", self.run % 256)
    }

    /// Drops what node `i` hears from (`hears`) and says to (`says`) these nodes, until it is healed.
    fn cut(&self, i: usize, from: &[usize], hears: bool, says: bool) {
        let others: Vec<String> = from.iter().filter(|n| **n != i).map(|n| self.address(n + 1)).collect();
        let set = format!("{{ {} }}", others.join(", "));
        let space = self.space(i);
        let nft = |rule: &str| run("ip", &["netns", "exec", &space, "nft", rule]).expect("nftables takes the rule");
        nft("add table inet cut");
        nft("add chain inet cut hears { type filter hook input priority 0; }");
        nft("add chain inet cut says { type filter hook output priority 0; }");
        if hears {
            nft(&format!("add rule inet cut hears ip saddr {set} drop"));
        }
        if says {
            nft(&format!("add rule inet cut says ip daddr {set} drop"));
        }
    }

    fn heal(&self) {
        for i in 0..NODES {
            // Most nodes have nothing to heal.
            let _ = run("ip", &["netns", "exec", &self.space(i), "nft", "delete table inet cut"]);
        }
    }

    fn command(&self, cluster: &Cluster, i: usize) -> Command {
        let home = &cluster.nodes[i].home;
        let log = std::fs::File::create(home.path().join("log")).expect("a log file");
        let address = self.address(i + 1);
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.space(i), env!("CARGO_BIN_EXE_cascade"), "node", "--exit-with-parent"])
            .arg("--data")
            .arg(home.path())
            .args(["--role", "sequencer", "--set", "network.allow_private=true", "--set", "log.level=info"])
            .args(["--listen", &format!("{address}:{PORT}"), "--rpc-listen", &format!("{address}:0")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log);
        for other in (0..NODES).filter(|other| *other != i) {
            command.args(["--bootstrap", &format!("{}:{PORT}", self.address(other + 1))]);
        }
        command
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        remove(self.run);
    }
}

fn remove(run_id: u32) {
    for i in 0..NODES {
        let _ = run("ip", &["netns", "del", &format!("cascade-{run_id}-{i}")]);
    }
    let _ = run("ip", &["link", "del", &format!("cas{run_id}")]);
}

/// Removes what runs left that were killed.
fn remove_leftovers() {
    let Ok(output) = Command::new("ip").args(["netns", "list"]).output() else { return };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let runs = text.lines().filter_map(|line| line.strip_prefix("cascade-")?.split('-').next()?.parse::<u32>().ok());
    for run_id in runs.filter(|run_id| !Path::new(&format!("/proc/{run_id}")).exists()) {
        remove(run_id);
    }
}

/// The cluster in its namespaces.
struct Split {
    // Processes end before the namespaces go.
    cluster: Cluster,
    wires: Wires,
    /// Transfers that were sent, in the order of their nonces.
    sent: Vec<B256>,
}

impl Split {
    fn start(wires: Wires) -> Self {
        let mut cluster = Cluster::new(NODES, |_, _| ());
        for i in 0..NODES {
            let child = wires.command(&cluster, i).spawn().expect("cascade can be started");
            cluster.nodes[i].process = Some(child);
        }
        for i in 0..NODES {
            let path = cluster.nodes[i].home.path().join("node.json");
            let child: &mut Child = cluster.nodes[i].process.as_mut().expect("it was just started");
            let file = wait_for("the node writes node.json", || {
                assert_eq!(child.try_wait().expect("a child can be asked"), None, "node {i} ended");
                serde_json::from_str::<NodeFile>(&std::fs::read_to_string(&path).ok()?).ok()
            });
            cluster.nodes[i].file = Some(file);
        }
        Self { cluster, wires, sent: Vec::new() }
    }

    fn health(&self, i: usize) -> Health {
        self.cluster.runtime.block_on(self.cluster.client(i).status()).expect("it runs").health
    }

    fn wait_all(&self, nodes: impl IntoIterator<Item = usize>, height: u64) {
        nodes.into_iter().for_each(|i| self.cluster.wait_height(i, height));
    }

    fn highest(&self) -> u64 {
        (0..NODES).map(|i| self.cluster.height(i)).max().expect("there are nodes")
    }

    /// Waits until the node says that it is on the small side; answers its height.
    fn wait_cut_off(&self, i: usize) -> u64 {
        wait_for(&format!("node {i} says that it has no quorum"), || {
            let health = self.health(i);
            (health.status == HealthStatus::NoQuorum && health.seats_heard < health.quorum).then_some(health.height.0)
        })
    }

    /// Heals everything and waits until all nodes are beyond what anyone had, and say that they are well.
    fn heal(&self, what: &str) {
        let healed = Instant::now();
        self.wires.heal();
        let highest = self.highest();
        self.wait_all(0..NODES, highest + 3);
        for i in 0..NODES {
            wait_for(&format!("node {i} is well"), || (self.health(i).status == HealthStatus::Healthy).then_some(()));
        }
        println!("{what}: all go on {:?} after healing", healed.elapsed());
        self.assert_safe();
    }

    /// Sends the next transfer of one account to a node.
    fn send(&mut self, to: usize) -> B256 {
        let raw = transfer(&funded(0), self.cluster.genesis.params.chain_id, self.sent.len() as u64);
        let client = self.cluster.client(to);
        let hash = self.cluster.runtime.block_on(client.send_raw(&raw.1)).expect("a cut-off node still takes it");
        self.sent.push(hash);
        hash
    }

    fn status_of(&self, asked: usize, hash: B256) -> Option<FinalityStatus> {
        let client = self.cluster.client(asked);
        self.cluster.runtime.block_on(client.finality(hash)).expect("it runs").map(|f| f.status)
    }

    fn wait_final(&self, asked: usize, hash: B256) {
        wait_for(&format!("node {asked} has {hash} final"), || {
            self.status_of(asked, hash).filter(|status| *status >= FinalityStatus::Final)
        });
    }

    /// Panics if any two nodes have different blocks at any height, executed by both or not.
    fn assert_safe(&self) {
        let mut seen = BTreeMap::new();
        for i in 0..NODES {
            let client = self.cluster.client(i);
            for height in 0..=self.cluster.height(i) {
                let block = self.cluster.runtime.block_on(client.block(height)).expect("it runs").expect("it is final");
                let first = *seen.entry(height).or_insert((i, block.hash));
                assert_eq!(first.1, block.hash, "nodes {} and {i} differ at height {height}", first.0);
            }
            assert!(!self.cluster.log(i).contains("contradict"), "node {i} saw a double sign");
        }
    }
}

#[test]
fn partitions_halt_the_small_side_and_heal() {
    let wires = match Wires::lay() {
        Ok(wires) => wires,
        Err(reason) => {
            // Not println, which the test harness swallows.
            let _ = writeln!(std::io::stderr(), "SKIPPED: partitions need root, ip and nft: {reason}");
            assert!(std::env::var_os("CASCADE_NEED_PARTITIONS").is_none(), "they were asked for");
            return;
        }
    };
    let begin = Instant::now();
    let mut split = Split::start(wires);
    split.wait_all(0..NODES, 2);
    let first = split.send(0);
    split.wait_final(4, first);
    cut_off_one(&mut split);
    cut_in_two(&mut split);
    cut_the_leader_one_way(&mut split, "the leader is heard by nobody", false);
    cut_the_leader_one_way(&mut split, "the leader hears nobody", true);
    for &hash in &split.sent {
        (0..NODES).for_each(|i| split.wait_final(i, hash));
    }
    split.assert_safe();
    split.cluster.assert_agree();
    println!("partitions: {:?} in all, height {}", begin.elapsed(), split.highest());
}

/// Four of five go on; the one stops, says so, and takes nothing for final.
fn cut_off_one(split: &mut Split) {
    split.wires.cut(4, &[0, 1, 2, 3], true, true);
    let alone = split.wait_cut_off(4);
    let majority = split.send(0);
    let minority = funded(1);
    let raw = transfer(&minority, split.cluster.genesis.params.chain_id, 0);
    let hash = split.cluster.runtime.block_on(split.cluster.client(4).send_raw(&raw.1)).expect("it still takes it");
    let highest = split.highest();
    split.wait_all(0..4, highest + 5);
    split.wait_final(1, majority);
    assert_eq!(split.cluster.height(4), alone, "one of five makes nothing final");
    assert_eq!(split.status_of(4, majority), None);
    assert_eq!(split.status_of(4, hash), Some(FinalityStatus::Pending));
    split.heal("one cut off");
    (0..NODES).for_each(|i| split.wait_final(i, majority));
    split.wait_final(4, hash);
}

/// Neither two nor three of five are a quorum: both sides stop, and nothing is lost.
fn cut_in_two(split: &mut Split) {
    for i in [0, 1] {
        split.wires.cut(i, &[2, 3, 4], true, true);
    }
    let halted: Vec<u64> = (0..NODES).map(|i| split.wait_cut_off(i)).collect();
    let hash = split.send(2);
    // Two leaders' time in which a side that should have stopped would have gone on.
    let window = Duration::from_millis(2 * split.cluster.genesis.params.leader_timeout_ms);
    let until = Instant::now() + window;
    wait_for("the window is over", || {
        let heights: Vec<u64> = (0..NODES).map(|i| split.cluster.height(i)).collect();
        assert_eq!(heights, halted, "a side without a quorum made a block final");
        (Instant::now() >= until).then_some(())
    });
    assert!((0..2).all(|i| split.status_of(i, hash).is_none()));
    assert_eq!(split.status_of(2, hash), Some(FinalityStatus::Pending));
    split.heal("two against three");
    (0..NODES).for_each(|i| split.wait_final(i, hash));
}

/// The leader hears the others or is heard by them, not both; the four others go on without it.
fn cut_the_leader_one_way(split: &mut Split, what: &str, it_is_heard: bool) {
    let leader = split.cluster.leader(0);
    let all: Vec<usize> = (0..NODES).collect();
    split.wires.cut(leader, &all, it_is_heard, !it_is_heard);
    let others: Vec<usize> = all.into_iter().filter(|i| *i != leader).collect();
    let hash = split.send(others[0]);
    let highest = split.highest();
    split.wait_all(others.iter().copied(), highest + 5);
    split.wait_final(others[1], hash);
    split.heal(what);
    split.wait_final(leader, hash);
}
