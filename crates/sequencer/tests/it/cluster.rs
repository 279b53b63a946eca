//! A cluster of real `cascade node` processes for tests: own homes, loopback ports that the system picks, and no
//! sleeping but for a condition with a deadline.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use cascade_network::{Identity, Network as P2p, NetworkConfig, NetworkId, Receivers};
use cascade_primitives::{
    Address, ChainParams, Epoch, Genesis, GenesisAccount, Network, ScheduledCommittee, SequencerSpec, TimestampMs, U256,
};
use cascade_sequencer::{
    cli::Client,
    config::Role,
    home::{Home, NewKeys, unix_ms},
    node::NodeFile,
    wallet::Wallet,
};
use tempfile::TempDir;

/// How long a condition may take. Far more than it needs, so that only a real failure reaches it.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// One node: its home and, while it runs, its process.
pub struct Node {
    pub home: Home,
    pub keys: NewKeys,
    pub process: Option<Child>,
    pub file: Option<NodeFile>,
    /// More arguments of `cascade node`.
    pub more: Vec<String>,
    /// More of its environment.
    pub environment: Vec<(&'static str, String)>,
}

/// A cluster and the directory that holds it.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub genesis: Genesis,
    pub runtime: tokio::runtime::Runtime,
    /// Holds the homes; deleted with the cluster.
    _directory: TempDir,
}

/// Sends a signal. By the shell's own `kill`: not every machine has the program of that name.
pub fn signal(pid: u32, name: &str) {
    let kill = format!("kill -{name} {pid}");
    assert!(Command::new("sh").args(["-c", &kill]).status().expect("a shell").success(), "{kill}");
}

/// Waits until `condition` answers something.
///
/// # Panics
/// After [`PATIENCE`], with `what`.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "after {PATIENCE:?} still not: {what}");
        std::thread::park_timeout(LOOK);
    }
}

/// An account that every cluster's genesis funds.
pub fn funded(index: u64) -> Wallet {
    Wallet::public("integration test", index)
}

impl Cluster {
    /// Homes and genesis for `count` sequencers; `schedule` may change the genesis. Nothing runs yet.
    pub fn new(count: usize, change: impl FnOnce(&mut Genesis, &[SequencerSpec])) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let mut nodes = Vec::new();
        let mut specs = Vec::new();
        for i in 0..count {
            let home = Home::new(&directory.path().join(format!("node-{i}")));
            let keys = home.create_keys(Role::Sequencer).expect("keys");
            specs.push(keys.spec(Address::repeat_byte(i as u8 + 1), 100, 90).expect("a sequencer's entry"));
            nodes.push(Node { home, keys, process: None, file: None, more: Vec::new(), environment: Vec::new() });
        }
        let account = GenesisAccount { balance: U256::from(10).pow(U256::from(24)), ..GenesisAccount::default() };
        let mut genesis = Genesis {
            params: ChainParams::of(Network::Regtest),
            timestamp: TimestampMs(unix_ms()),
            committees: vec![ScheduledCommittee { from_epoch: Epoch(0), sequencers: specs.clone() }],
            alloc: (0..32).map(|i| (funded(i).address(), account.clone())).collect(),
        };
        change(&mut genesis, &specs);
        for node in &nodes {
            node.home.write_genesis(&genesis).expect("genesis");
        }
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
        Self { nodes, genesis, runtime, _directory: directory }
    }

    /// The same with all nodes running.
    pub fn start(count: usize) -> Self {
        let mut cluster = Self::new(count, |_, _| ());
        cluster.start_all();
        cluster
    }

    pub fn start_all(&mut self) {
        for i in 0..self.nodes.len() {
            if self.nodes[i].process.is_none() {
                self.start_node(i);
            }
        }
    }

    /// Addresses of the nodes that run.
    fn bootstrap(&self) -> Vec<String> {
        self.nodes.iter().filter_map(|n| n.file.as_ref()).map(|file| file.network.to_string()).collect()
    }

    /// Starts a node and waits until it serves.
    pub fn start_node(&mut self, i: usize) {
        let bootstrap = self.bootstrap();
        let node = &mut self.nodes[i];
        let child = command(&node.home, &bootstrap)
            .args(&node.more)
            .envs(node.environment.iter().map(|(name, value)| (name, value)))
            .spawn()
            .expect("cascade can be started");
        node.process = Some(child);
        let path = node.home.path().join("node.json");
        let log = log_path(&node.home);
        let process = node.process.as_mut().expect("it was just started");
        let file = wait_for("the node writes node.json", || {
            if let Some(status) = process.try_wait().expect("a child can be asked") {
                panic!("the node ended with {status}: {}", std::fs::read_to_string(&log).unwrap_or_default());
            }
            let text = std::fs::read_to_string(&path).ok()?;
            serde_json::from_str::<NodeFile>(&text).ok().filter(|file| file.pid == process.id())
        });
        node.file = Some(file);
    }

    /// `kill -9`.
    pub fn kill(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        let mut process = node.process.take().expect("it runs");
        process.kill().expect("a child can be killed");
        process.wait().expect("a killed child ends");
        node.file = None;
    }

    /// SIGTERM; answers the exit code.
    pub fn terminate(&mut self, i: usize) -> Option<i32> {
        let node = &mut self.nodes[i];
        let mut process = node.process.take().expect("it runs");
        signal(process.id(), "TERM");
        node.file = None;
        wait_for("a node that was asked to stop ends", || process.try_wait().expect("a child can be asked")).code()
    }

    pub fn client(&self, i: usize) -> Client {
        let file = self.nodes[i].file.as_ref().expect("it runs");
        Client::new(&file.rpc_http).expect("a node's own URL is one")
    }

    /// Height of the newest final block of a node; 0 while it does not answer.
    pub fn height(&self, i: usize) -> u64 {
        let client = self.client(i);
        self.runtime.block_on(client.status()).map_or(0, |status| status.heads.ordered.0)
    }

    pub fn wait_height(&self, i: usize, height: u64) {
        wait_for(&format!("node {i} has {height} final blocks (it has {})", self.height(i)), || {
            (self.height(i) >= height).then_some(())
        });
    }

    /// Which node leads the current view, as node `asked` sees it.
    pub fn leader(&self, asked: usize) -> usize {
        let status = self.runtime.block_on(self.client(asked).status()).expect("it runs");
        let leader = status.health.leader;
        self.nodes.iter().position(|n| n.keys.identity.node_id() == leader).expect("a leader is one of the nodes")
    }

    /// What a node logged.
    pub fn log(&self, i: usize) -> String {
        std::fs::read_to_string(log_path(&self.nodes[i].home)).unwrap_or_default()
    }

    /// A peer that is no part of the chain, connected to these nodes, with what it hears.
    pub async fn stranger(&self, nodes: &[usize]) -> (P2p, Receivers) {
        let id = NetworkId { chain_id: self.genesis.params.chain_id, genesis_hash: self.genesis.hash() };
        let config = NetworkConfig::new("127.0.0.1:0".parse().expect("an address"), id);
        let identity = Identity::generate().expect("randomness");
        let (network, mut receivers) =
            P2p::start(config, identity, &prometheus::Registry::new()).await.expect("a network");
        for &node in nodes {
            let file = self.nodes[node].file.as_ref().expect("it runs");
            network.dial(file.network, Some(file.node_id));
            while !network.peers().iter().any(|peer| peer.node == file.node_id) {
                receivers.events.recv().await.expect("events");
            }
        }
        (network, receivers)
    }

    /// Panics unless all running nodes have the same block and state root at every height that all have executed.
    pub fn assert_agree(&self) {
        let running: Vec<usize> = (0..self.nodes.len()).filter(|&i| self.nodes[i].process.is_some()).collect();
        let common = running
            .iter()
            .map(|&i| self.runtime.block_on(self.client(i).status()).expect("it runs").heads.executed.0)
            .min()
            .expect("at least one runs");
        for height in 0..=common {
            let seen: Vec<_> = running
                .iter()
                .map(|&i| {
                    let block =
                        self.runtime.block_on(self.client(i).block(height)).expect("it runs").expect("executed");
                    (block.hash, block.executed.expect("it is executed").state_root)
                })
                .collect();
            assert!(seen.windows(2).all(|w| w[0] == w[1]), "height {height}: {seen:?}");
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(mut process) = node.process.take() {
                let _ = process.kill();
                let _ = process.wait();
            }
            if std::thread::panicking() {
                let log = std::fs::read_to_string(log_path(&node.home)).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(40).collect();
                eprintln!("--- {}", node.home.path().display());
                tail.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
    }
}

fn log_path(home: &Home) -> PathBuf {
    home.path().join("log")
}

/// `cascade node` on a home, with ports that the system picks.
pub fn command(home: &Home, bootstrap: &[String]) -> Command {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log_path(home)).expect("a log file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_cascade"));
    command
        .arg("node")
        .arg("--data")
        .arg(home.path())
        .args(["--role", "sequencer"])
        .args(["--set", "network.listen=127.0.0.1:0", "--set", "rpc.listen=127.0.0.1:0"])
        .args(["--set", "network.allow_private=true", "--set", "log.level=info"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    for address in bootstrap {
        command.args(["--bootstrap", address]);
    }
    command
}
