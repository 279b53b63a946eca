//! A cluster of nodes as separate processes on loopback.
//!
//! ```text
//! DIR/genesis.json        the chain                   DIR/node-0/ ... the nodes' homes
//! DIR/testnet.json        what runs, while it runs    DIR/node-0/log  what the node said
//! DIR/testnet.lock        held while it runs
//! ```
//!
//! Nodes bind port 0 themselves and report what they got in `node.json`, so that no port is chosen before it is taken.
//! The first node starts alone and the others are told its address. What was bound is written into the homes'
//! configuration: the next start, of all or of one node by hand, takes the same ports again, or new ones where those are
//! gone.
//!
//! A node stops when its stdin is closed. Its end is held by this process, so nodes end with it however it ends.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions, TryLockError},
    io::{BufRead as _, BufReader, ErrorKind, Seek as _, SeekFrom},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use cascade_primitives::{Genesis, TransactionRule};
use tokio::process::{Child, Command};

use super::genesis::{self, Schedule};
use crate::{
    cli::Failure,
    config::{Role, load_genesis},
    exit::ExitCode,
    home::{Home, HomeKeys},
    node::NodeFile,
};

/// How long a node may take to open its data and bind its ports.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a node may take to stop before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a condition is looked at that cannot be waited for.
const POLL: Duration = Duration::from_millis(10);
/// Lines of a node's log that are shown when it dies.
const TAIL_LINES: usize = 20;

/// The chain; with it, a directory can be resumed.
const GENESIS_FILE: &str = "genesis.json";
/// What runs, for scripts.
pub(crate) const INFO_FILE: &str = "testnet.json";
/// Locked while a cluster runs.
const LOCK_FILE: &str = "testnet.lock";

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct ClusterSpec {
    /// The `cascade` program.
    pub program: PathBuf,
    /// Where everything is kept.
    pub dir: PathBuf,
    /// Nodes of a new cluster. One that is resumed keeps its own; then a number that differs is refused.
    pub nodes: Option<usize>,
    /// What a new chain orders: envelopes, if nothing is said. One that is resumed must order the same, or nothing is said.
    pub rule: Option<TransactionRule>,
    /// Committees and constants of a new chain. One that is resumed must have been made with the same, or none is given.
    pub schedule: Schedule,
    /// Senders of the load driver that a new chain funds.
    pub load_accounts: u64,
    /// Log filter of the nodes.
    pub log: String,
    /// The first node's setting of where batches are published.
    pub batches: Option<String>,
}

/// Nodes of a new cluster if nobody says how many.
pub const DEFAULT_NODES: usize = 5;
/// More processes than this on one machine are a mistake.
pub const MAX_NODES: usize = 64;

/// A node of a cluster.
#[derive(Debug)]
pub struct ClusterNode {
    home: Home,
    child: Option<Child>,
    file: NodeFile,
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    spec: ClusterSpec,
    genesis: Genesis,
    nodes: Vec<ClusterNode>,
    resumed: bool,
    /// Held until the nodes are stopped: a second command in the same directory would take their files away.
    _lock: File,
}

impl ClusterNode {
    /// Its home.
    #[must_use]
    pub const fn home(&self) -> &Home {
        &self.home
    }

    /// What it reported when it started last.
    #[must_use]
    pub const fn file(&self) -> &NodeFile {
        &self.file
    }

    /// Whether its process was running when last looked at.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Where it logs.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        log_of(&self.home)
    }
}

fn log_of(home: &Home) -> PathBuf {
    home.path().join("log")
}

impl Cluster {
    /// Starts a cluster: a new one, or the one that is in the directory.
    ///
    /// # Errors
    /// If the directory holds something else, or a node does not start; then the error holds the end of its log, and its
    /// exit code.
    pub async fn start(spec: ClusterSpec) -> Result<Self, Failure> {
        let lock = take_dir(&spec.dir)?;
        let resumed = spec.dir.join(GENESIS_FILE).exists();
        if !resumed {
            create(&spec)?
        }
        let genesis = load_genesis(&spec.dir.join(GENESIS_FILE))?;
        if resumed {
            check_resumable(&spec, &genesis)?
        }
        let homes = homes(&spec.dir);
        let _ = std::fs::remove_file(spec.dir.join(INFO_FILE));
        let mut starting = homes.into_iter();
        let first = starting.next().ok_or_else(|| Failure::new("the cluster has no nodes"))?;
        let first = start_node(&spec, first, &[]).await?;
        let bootstrap = [first.file.network];
        let others = futures::future::try_join_all(starting.map(|home| start_node(&spec, home, &bootstrap))).await?;
        let mut cluster = Self { spec, genesis, nodes: vec![first], resumed, _lock: lock };
        cluster.nodes.extend(others);
        cluster.remember_addresses()?;
        Ok(cluster)
    }

    /// The chain.
    #[must_use]
    pub const fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// Whether the chain was there before.
    #[must_use]
    pub const fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// Where everything is kept.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.spec.dir
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[ClusterNode] {
        &self.nodes
    }

    /// Writes what was bound into the homes, so that a node finds the others whenever and however it is started again.
    fn remember_addresses(&self) -> Result<(), Failure> {
        for (index, node) in self.nodes.iter().enumerate() {
            let others = self.nodes.iter().enumerate().filter(|(other, _)| *other != index);
            let others: Vec<SocketAddr> = others.map(|(_, other)| other.file.network).collect();
            let rpc = address_of(&node.file.rpc_http)?;
            let metrics = node.file.metrics.as_deref().map(address_of).transpose()?;
            node.home.write_config(&settings(node.file.network, rpc, metrics, &others))?;
        }
        Ok(())
    }

    /// Kills a node (SIGKILL) and waits for its end.
    ///
    /// # Errors
    /// If the system does not do it.
    pub async fn kill(&mut self, index: usize) -> Result<(), Failure> {
        match self.nodes[index].child.take() {
            Some(mut child) => child.kill().await.map_err(|error| Failure::io("cannot kill a node", &error)),
            None => Ok(()),
        }
    }

    /// Stops a node as SIGTERM would, and answers its exit code.
    ///
    /// # Errors
    /// If it did not stop in time and was killed.
    pub async fn stop_node(&mut self, index: usize) -> Result<Option<i32>, Failure> {
        match self.nodes[index].child.take() {
            Some(child) => stop_child(child, &self.nodes[index].home).await.map(|status| status.code()),
            None => Ok(None),
        }
    }

    /// Starts a node that is down, with the addresses that it had.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub async fn restart(&mut self, index: usize) -> Result<(), Failure> {
        let node = start_node(&self.spec, self.nodes[index].home.clone(), &[]).await?;
        self.nodes[index] = node;
        Ok(())
    }

    /// Nodes that died since this was last asked, each with its exit status and the end of its log.
    pub fn deaths(&mut self) -> Vec<(usize, String)> {
        let mut deaths = Vec::new();
        for (index, node) in self.nodes.iter_mut().enumerate() {
            let Some(child) = &mut node.child else { continue };
            if let Ok(Some(status)) = child.try_wait() {
                node.child = None;
                deaths.push((index, death(&node.home, status)));
            }
        }
        deaths
    }

    /// Stops all nodes at once.
    ///
    /// # Errors
    /// The first node that did not stop by itself; all are down nevertheless.
    pub async fn stop(mut self) -> Result<(), Failure> {
        let stopping =
            self.nodes.iter_mut().filter_map(|node| node.child.take().map(|child| (child, node.home.clone())));
        let stopping: Vec<_> = stopping.collect();
        let ends = stopping.into_iter().map(|(child, home)| async move {
            let status = stop_child(child, &home).await?;
            if status.success() { Ok(()) } else { Err(Failure::new(death(&home, status))) }
        });
        let ends = futures::future::join_all(ends).await;
        let _ = std::fs::remove_file(self.spec.dir.join(INFO_FILE));
        ends.into_iter().collect()
    }
}

async fn stop_child(mut child: Child, home: &Home) -> Result<ExitStatus, Failure> {
    drop(child.stdin.take());
    match tokio::time::timeout(STOP_TIMEOUT, child.wait()).await {
        Ok(status) => status.map_err(|error| Failure::io("cannot wait for a node", &error)),
        Err(_) => {
            let _ = child.kill().await;
            Err(Failure::new(format!(
                "{} did not stop within {} s and was killed",
                home.path().display(),
                STOP_TIMEOUT.as_secs()
            )))
        }
    }
}

fn homes(dir: &Path) -> Vec<Home> {
    let home = |index: usize| Home::new(&dir.join(format!("node-{index}")));
    (0..MAX_NODES).map(home).take_while(|home| home.path().is_dir()).collect()
}

/// Takes the directory for this process. One that is not there is made; one that holds something else is refused and
/// left as it is.
fn take_dir(dir: &Path) -> Result<File, Failure> {
    let failed = |error: &std::io::Error| Failure::io(dir.display(), error);
    match std::fs::read_dir(dir) {
        Ok(mut entries) => {
            if !dir.join(GENESIS_FILE).exists()
                && entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != LOCK_FILE))
            {
                let message = format!("{} is not empty and holds no testnet; choose another --data", dir.display());
                return Err(Failure { code: ExitCode::Foreign, message });
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            std::fs::create_dir_all(dir).map_err(|error| failed(&error))?;
        }
        Err(error) => return Err(failed(&error)),
    }
    let path = dir.join(LOCK_FILE);
    let lock = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let lock = lock.map_err(|error| Failure::io(path.display(), &error))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            let message =
                format!("another `cascade testnet` runs in {}; stop it, or choose another --data", dir.display());
            Err(Failure { code: ExitCode::Locked, message })
        }
        Err(TryLockError::Error(error)) => Err(Failure::io(path.display(), &error)),
    }
}

/// A chain's kind, in words.
pub(super) const fn what_it_is(rule: TransactionRule) -> &'static str {
    match rule {
        TransactionRule::Plain => "a chain of plain transactions",
        TransactionRule::Encrypted => "an encrypted chain",
        TransactionRule::Opaque => "a chain of opaque bytes",
    }
}

/// Refuses what was asked of a new cluster where the one that is here is another.
fn check_resumable(spec: &ClusterSpec, genesis: &Genesis) -> Result<(), Failure> {
    let other = |what: &str| {
        let dir = spec.dir.display();
        Err(Failure::usage(format!("{dir} {what} away to resume it, or choose another --data")))
    };
    let homes = homes(&spec.dir);
    if spec.nodes.is_some_and(|nodes| nodes != homes.len()) {
        return other(&format!("has {} nodes; leave --nodes", homes.len()));
    }
    let orders = genesis.params.transactions;
    if let Some(rule) = spec.rule.filter(|rule| *rule != orders) {
        let flag = match rule {
            TransactionRule::Plain => "--plain",
            TransactionRule::Opaque => "--opaque",
            TransactionRule::Encrypted => "--kind",
        };
        return other(&format!("holds {}; leave {flag}", what_it_is(orders)));
    }
    if !spec.schedule.is_empty() {
        let keys = homes.iter().map(|home| HomeKeys::find_or_generate(&home.key_paths(), Role::Sequencer));
        let keys = keys.map(|found| Ok(found?.keys)).collect::<Result<Vec<_>, Failure>>()?;
        let asked = genesis::build(&keys, genesis.params.transactions, &spec.schedule, 0)?;
        if (&asked.params, &asked.committees) != (&genesis.params, &genesis.committees) {
            return other("was made with another schedule; leave --schedule");
        }
    }
    Ok(())
}

/// Makes genesis and homes. The genesis file comes last: with it, the directory can be resumed.
fn create(spec: &ClusterSpec) -> Result<(), Failure> {
    let nodes = spec.nodes.unwrap_or(DEFAULT_NODES);
    if nodes == 0 || nodes > MAX_NODES {
        return Err(Failure::usage(format!("--nodes {nodes}: must be from 1 to {MAX_NODES}")));
    }
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut keys = Vec::with_capacity(nodes);
    let homes: Vec<Home> = (0..nodes).map(|index| Home::new(&spec.dir.join(format!("node-{index}")))).collect();
    for home in &homes {
        keys.push(home.create_keys(Role::Sequencer)?);
        home.write_config(&settings(loopback, loopback, Some(loopback), &[]))?;
    }
    let genesis =
        genesis::build(&keys, spec.rule.unwrap_or(TransactionRule::Encrypted), &spec.schedule, spec.load_accounts)?;
    for home in homes.iter().chain([&Home::new(&spec.dir)]) {
        home.write_genesis(&genesis)?;
    }
    Ok(())
}

/// The configuration of a node of a cluster.
fn settings(
    network: SocketAddr,
    rpc: SocketAddr,
    metrics: Option<SocketAddr>,
    bootstrap: &[SocketAddr],
) -> toml::Table {
    let bootstrap: Vec<String> = bootstrap.iter().map(ToString::to_string).collect();
    let mut table = toml::toml! {
        role = "sequencer"
        [rpc]
        cors_origins = ["*"]
        [metrics]
    };
    table.insert("network".to_owned(), toml::Value::Table(toml::Table::new()));
    let mut set = |section: &str, key: &str, value: toml::Value| {
        let table = table.get_mut(section).and_then(toml::Value::as_table_mut).expect("the sections are made above");
        table.insert(key.to_owned(), value);
    };
    set("network", "listen", network.to_string().into());
    set("network", "allow_private", true.into());
    set("network", "bootstrap", bootstrap.into());
    set("rpc", "listen", rpc.to_string().into());
    if let Some(metrics) = metrics {
        set("metrics", "listen", metrics.to_string().into());
    }
    table
}

/// The address in a URL that a node reported.
fn address_of(url: &str) -> Result<SocketAddr, Failure> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let address = rest.split('/').next().unwrap_or(rest);
    address.parse().map_err(|_| Failure::new(format!("a node reported the URL {url}, which is no address")))
}

/// Starts a node; if its ports are taken by now, once more with free ones.
async fn start_node(spec: &ClusterSpec, home: Home, bootstrap: &[SocketAddr]) -> Result<ClusterNode, Failure> {
    match try_start_node(spec, &home, bootstrap, false).await {
        Err(failure) if failure.code == ExitCode::PortInUse => try_start_node(spec, &home, bootstrap, true).await,
        result => result,
    }
    .map(|(child, file)| ClusterNode { home, child: Some(child), file })
}

async fn try_start_node(
    spec: &ClusterSpec,
    home: &Home,
    bootstrap: &[SocketAddr],
    free_ports: bool,
) -> Result<(Child, NodeFile), Failure> {
    let node_file = home.path().join("node.json");
    let _ = std::fs::remove_file(&node_file);
    let log = OpenOptions::new().create(true).append(true).open(log_of(home));
    let log = log.map_err(|error| Failure::io(log_of(home).display(), &error))?;
    let twin = log.try_clone().map_err(|error| Failure::io(log_of(home).display(), &error))?;
    let mut command = Command::new(&spec.program);
    command.arg("node").arg("--data").arg(home.path()).args(["--exit-with-parent", "--log-level", &spec.log]);
    for address in bootstrap {
        command.args(["--bootstrap", &address.to_string()]);
    }
    if let Some(batches) = spec.batches.as_ref().filter(|_| home.path().ends_with("node-0")) {
        command.args(["--set", batches]);
    }
    if free_ports {
        for flag in ["--listen", "--rpc-listen", "--metrics-listen"] {
            command.args([flag, "127.0.0.1:0"]);
        }
    }
    // Settings of the caller are not the nodes'. Its own process group keeps Ctrl-C away: nodes are stopped by us.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CASCADE_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::piped()).stdout(log).stderr(twin).process_group(0).kill_on_drop(true);
    let mut child =
        command.spawn().map_err(|error| Failure::io(format!("cannot start {}", spec.program.display()), &error))?;
    let pid = child.id();
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        if let Some(status) = child.try_wait().map_err(|error| Failure::io("cannot wait for a node", &error))? {
            let code = ExitCode::ALL.into_iter().find(|code| Some(i32::from(code.code())) == status.code());
            let code = code.filter(|code| *code != ExitCode::Done).unwrap_or(ExitCode::Failed);
            return Err(Failure { code, message: death(home, status) });
        }
        if let Some(file) = read_node_file(&node_file).filter(|file| Some(file.pid) == pid) {
            return Ok((child, file));
        }
        if Instant::now() > deadline {
            let seconds = START_TIMEOUT.as_secs();
            let tail = tail(&log_of(home));
            return Err(Failure::new(format!("{} did not start within {seconds} s\n{tail}", home.path().display())));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn read_node_file(path: &Path) -> Option<NodeFile> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn death(home: &Home, status: ExitStatus) -> String {
    format!("the node in {} ended ({status}); the end of its log:\n{}", home.path().display(), tail(&log_of(home)))
}

/// The last lines of a log, each indented.
fn tail(path: &Path) -> String {
    const BYTES: u64 = 16 << 10;
    let Ok(mut file) = File::open(path) else { return String::new() };
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    if file.seek(SeekFrom::Start(length.saturating_sub(BYTES))).is_err() {
        return String::new();
    }
    let mut lines = VecDeque::with_capacity(TAIL_LINES + 1);
    for line in BufReader::new(file).split(b'\n').map_while(Result::ok) {
        lines.push_back(format!("    {}", String::from_utf8_lossy(&line)));
        if lines.len() > TAIL_LINES {
            lines.pop_front();
        }
    }
    Vec::from(lines).join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_from_urls() {
        let address: SocketAddr = "127.0.0.1:9".parse().unwrap();
        for url in ["http://127.0.0.1:9", "ws://127.0.0.1:9/", "http://127.0.0.1:9/metrics"] {
            assert_eq!(address_of(url).unwrap(), address);
        }
        assert!(address_of("http://localhost:9").is_err());
    }

    #[test]
    fn a_directory_with_something_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.txt"), "work").unwrap();
        assert_eq!(take_dir(dir.path()).unwrap_err().code, ExitCode::Foreign);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_cluster_writes_a_node_accepts() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::new(dir.path());
        let address: SocketAddr = "127.0.0.1:9".parse().unwrap();
        home.write_config(&settings(address, "127.0.0.1:10".parse().unwrap(), None, &[address])).unwrap();
        let flags = vec![("--data".to_owned(), "data".to_owned(), dir.path().display().to_string())];
        let config = crate::config::Layers { flags, ..Default::default() }.resolve().unwrap().config;
        assert_eq!((config.role, config.network.listen), (Role::Sequencer, address));
        assert_eq!(config.network.bootstrap, ["127.0.0.1:9"]);
    }
}
