//! `cascade testnet`: a local cluster of sequencers.
//!
//! Nodes are separate processes of the same program on loopback ([`cluster`]); the command watches them ([`watch`]),
//! sends a probe transfer a second ([`probe`]), draws what it sees ([`view`]), and reports.

pub mod accounts;
pub mod cluster;
pub mod genesis;
mod light;
pub mod monitor;
pub mod probe;
mod proxy;
pub mod stats;
pub mod view;
pub mod watch;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use cascade_primitives::{BlockHash, TransactionRule};
use clap::Args;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cli::{Client, Failure, block_on, output},
    config::{BUCKET_SCHEME, KEYS, Key, parse_bucket},
    home::write_atomically,
    proxy::Proxy,
};
use cluster::{Cluster, ClusterSpec};
use genesis::Schedule;
use monitor::Monitor;
use probe::Probes;
use stats::{Percentiles, round};
use view::{Snapshot, View};
use watch::Watch;

/// Probes go out this often.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// The view is drawn this often.
const DRAW_EVERY: Duration = Duration::from_millis(500);
/// With --blocks: without a final block for this long, the chain stands.
const STALL: Duration = Duration::from_secs(60);
/// How often a condition is looked at that cannot be waited for.
const POLL: Duration = Duration::from_millis(20);

/// Starts a local cluster of sequencers, as separate processes with free ports and regtest parameters.
///
/// Nobody, sequencers included, can read a transaction on its chain before that's place is final: wallets use the URL of the
/// proxy, which encrypts what they send. It prints URLs, the proxy's first, and the keys of funded accounts, shows what happens,
/// sends one probe transfer a second, and runs until Ctrl-C. DIR/testnet.json holds the same for scripts. The accounts come
/// from the public development mnemonic.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cascade testnet\n  cascade testnet --nodes 4 --data cluster\n  \
                        cascade testnet --nodes 4 --blocks 20 --json\n\n\
                        A schedule (constants are those of the genesis file; stake in CAS and hat may be left away):\n  \
                        [params]\n  epoch_length = 50\n  [[committee]]\n  from_epoch = 0\n  \
                        members = [{ node = 0 }, { node = 1 }, { node = 2 }, { node = 3 }]\n  [[committee]]\n  \
                        from_epoch = 2\n  \
                        members = [{ node = 1, stake = 40 }, { node = 2 }, { node = 3 }, { node = 4, hat = 80 }]")]
pub struct TestnetArgs {
    /// How many nodes [default: 5].
    #[arg(long, value_name = "N")]
    nodes: Option<usize>,
    /// End after this many final blocks and report.
    #[arg(long, value_name = "B")]
    blocks: Option<u64>,
    /// Keep the cluster here; one that is here goes on. Without it, a temporary directory is used and removed.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// One line of JSON on stdout: with --blocks the report at the end, else what runs where, at the start.
    #[arg(long)]
    json: bool,
    /// Order transactions in the clear, as most chains do: sequencers read them first, and wallets use a node's URL. A chain
    /// that is resumed keeps what it orders.
    #[arg(long, conflicts_with = "opaque")]
    plain: bool,
    /// Order opaque bytes instead of transactions. A chain that is resumed keeps what it orders.
    #[arg(long)]
    opaque: bool,
    /// A TOML file that says which nodes vote from which epoch on, with what stake, and changes constants. See below.
    #[arg(long, value_name = "FILE")]
    schedule: Option<PathBuf>,
    /// Start a node again that ended by itself.
    #[arg(long)]
    restart: bool,
    /// Run a Prometheus (found in PATH) on the nodes' metrics, and write a Grafana's provisioning, in DIR/monitor.
    #[arg(long)]
    monitor: bool,
    /// The first node publishes batches here, for `cascade rebuild`: in a directory, or in a bucket (s3://BUCKET/PREFIX)
    /// with keys from the environment.
    #[arg(long, value_name = "DIR|URL")]
    batches: Option<String>,
    /// Log filter of the nodes; each logs into DIR/node-N/log.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log_level: String,
}

/// A node's JSON-RPC.
#[derive(Clone, Debug, Serialize)]
pub struct RpcUrls {
    /// Over HTTP.
    pub http: String,
    /// Over WebSocket.
    pub ws: String,
}

/// The testnet's proxy.
#[derive(Clone, Debug, Serialize)]
struct ProxyUrls {
    http: String,
    ws: String,
    payer: String,
}

#[derive(Clone, Debug, Serialize)]
struct Account {
    address: String,
    private_key: String,
}

#[derive(Clone, Debug, Serialize)]
struct NodeInfo {
    home: PathBuf,
    pid: u32,
    node_id: String,
}

/// `DIR/testnet.json`, and the line that `--json` prints.
#[derive(Clone, Debug, Serialize)]
struct Info {
    chain_id: u64,
    pid: u32,
    genesis: PathBuf,
    /// On an encrypted chain, where wallets send.
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy: Option<ProxyUrls>,
    rpc: Vec<RpcUrls>,
    metrics: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prometheus: Option<String>,
    network: Vec<String>,
    accounts: Vec<Account>,
    nodes: Vec<NodeInfo>,
}

impl Info {
    fn of(cluster: &Cluster, monitor: Option<&Monitor>, proxy: Option<&Proxy>) -> Self {
        let files = || cluster.nodes().iter().map(|node| node.file());
        let account = |wallet: &crate::wallet::Wallet| Account {
            address: wallet.address().to_string(),
            private_key: wallet.secret().to_string(),
        };
        Self {
            chain_id: cluster.genesis().params.chain_id.0,
            pid: std::process::id(),
            genesis: cluster.dir().join("genesis.json"),
            proxy: proxy.map(|proxy| ProxyUrls {
                http: proxy.url(),
                ws: proxy.ws_url(),
                payer: proxy.payer().to_string(),
            }),
            rpc: files().map(|f| RpcUrls { http: f.rpc_http.clone(), ws: f.rpc_ws.clone() }).collect(),
            metrics: files().filter_map(|f| f.metrics.clone()).collect(),
            prometheus: monitor.map(|monitor| monitor.url().to_owned()),
            network: files().map(|f| f.network.to_string()).collect(),
            accounts: accounts::dev_accounts().iter().map(account).collect(),
            nodes: cluster
                .nodes()
                .iter()
                .map(|node| NodeInfo {
                    home: node.home().path().to_owned(),
                    pid: node.file().pid,
                    node_id: node.file().node_id.to_string(),
                })
                .collect(),
        }
    }

    fn write(&self, dir: &Path) -> Result<(), Failure> {
        let path = dir.join(cluster::INFO_FILE);
        let text = serde_json::to_string_pretty(self).expect("strings and numbers have a JSON form");
        write_atomically(&path, (text + "\n").as_bytes()).map_err(|error| Failure::io(path.display(), &error))
    }

    fn print(&self) -> Result<(), Failure> {
        if let Some(proxy) = &self.proxy {
            output::line(&format!("proxy    {}   {}   for wallets: it encrypts what they send", proxy.http, proxy.ws))?;
        }
        for (index, rpc) in self.rpc.iter().enumerate() {
            output::line(&format!(
                "node {index}   {}   {}   log {}/log",
                rpc.http,
                rpc.ws,
                self.nodes[index].home.display()
            ))?;
        }
        output::line(&format!("chain id {}, genesis {}", self.chain_id, self.genesis.display()))?;
        output::line(&format!("accounts of \"{}\", 10000 CAS each:", accounts::DEV_MNEMONIC))?;
        for account in self.accounts.iter().take(SHOWN_ACCOUNTS) {
            output::line(&format!("  {}   {}", account.address, account.private_key))?;
        }
        Ok(())
    }
}

/// Accounts that are printed for people; `testnet.json` has all.
const SHOWN_ACCOUNTS: usize = 10;

/// What `--blocks` reports.
#[derive(Clone, Debug, Serialize)]
struct Report {
    nodes: usize,
    height: u64,
    agree: bool,
    finality_ms: Percentiles,
    blocks_per_s: f64,
}

/// Runs the command.
///
/// # Errors
/// If the cluster does not start, dies, stands still, or disagrees.
pub fn run(args: TestnetArgs) -> Result<(), Failure> {
    let temporary = match &args.data {
        Some(_) => None,
        None => Some(TemporaryDir::new()?),
    };
    let dir = args.data.clone().or_else(|| temporary.as_ref().map(|t| t.0.clone())).expect("one of both is there");
    block_on(run_in(&args, dir))
}

/// Says that settings of the environment are not the nodes'.
fn note_settings() {
    let set = KEYS.iter().map(Key::variable).filter(|name| std::env::var_os(name).is_some());
    let set: Vec<String> = set.collect();
    if !set.is_empty() {
        output::note(&format!("a testnet's nodes have their own settings; ignored: {}", set.join(", ")));
    }
}

/// Where batches go, as the first node is told.
fn batches_setting(place: &str) -> Result<String, Failure> {
    if place.starts_with(BUCKET_SCHEME) {
        parse_bucket(place).map_err(|rule| Failure::usage(format!("--batches {rule}")))?;
        return Ok(format!("batches.url={place}"));
    }
    let dir = std::path::absolute(place).map_err(|error| Failure::io("--batches", &error))?;
    Ok(format!("batches.dir={}", dir.display()))
}

async fn run_in(args: &TestnetArgs, dir: PathBuf) -> Result<(), Failure> {
    note_settings();
    // Before anything is started or written.
    let prometheus = args.monitor.then(monitor::find).transpose()?;
    let mut ends = Ends::new()?;
    let program = std::env::current_exe().map_err(|error| Failure::io("cannot find this program", &error))?;
    let schedule = args.schedule.as_deref().map(Schedule::read).transpose()?.unwrap_or_default();
    let rule = match (args.opaque, args.plain) {
        (true, _) => Some(TransactionRule::Opaque),
        (_, true) => Some(TransactionRule::Plain),
        _ => None,
    };
    let dir = std::path::absolute(&dir).map_err(|error| Failure::io(dir.display(), &error))?;
    let batches = args.batches.as_deref().map(batches_setting).transpose()?;
    let log = args.log_level.clone();
    let spec = ClusterSpec { program, dir, nodes: args.nodes, rule, schedule, load_accounts: 0, log, batches };
    // Nodes that were started end with the future that is dropped here.
    let cluster = tokio::select! {
        cluster = Cluster::start(spec) => cluster?,
        () = ends.wait() => return Ok(()),
    };
    let orders = cluster.genesis().params.transactions;
    if cluster.is_resumed() && rule.is_none() && orders != TransactionRule::Encrypted {
        let (dir, what) = (cluster.dir().display(), cluster::what_it_is(orders));
        output::note(&format!("{dir} holds {what}, as it did before"));
    }
    let monitor = match &prometheus {
        Some(program) => Some(tokio::select! {
            monitor = Monitor::start(program, &cluster) => monitor?,
            () = ends.wait() => return Ok(()),
        }),
        None => None,
    };
    let proxy = match cluster.genesis().params.transactions {
        TransactionRule::Encrypted => Some(tokio::select! {
            proxy = proxy::start(&cluster) => proxy?,
            () = ends.wait() => return Ok(()),
        }),
        TransactionRule::Plain | TransactionRule::Opaque => None,
    };
    let info = Info::of(&cluster, monitor.as_ref(), proxy.as_ref());
    info.write(cluster.dir())?;
    match (args.json, args.blocks) {
        (true, None) => output::json(&info)?,
        (true, Some(_)) => {}
        (false, _) => {
            info.print()?;
            if let Some(monitor) = &monitor {
                print_monitor(monitor)?;
            }
        }
    }
    let mut session = Session::new(cluster, monitor, proxy, args)?;
    let result = tokio::select! {
        result = session.go_on() => result,
        () = ends.wait() => Ok(None),
    };
    session.view.interrupt();
    drop(session.proxy);
    let stopped = session.cluster.stop().await;
    if let Some(monitor) = session.monitor {
        monitor.stop().await;
    }
    if let Some(report) = result? {
        let agree = report.agree;
        if args.json {
            output::json(&report)?
        } else {
            print_report(&report)?
        }
        if !agree {
            return Err(Failure::new(format!("the nodes disagree at height {}", report.height)));
        }
    }
    stopped
}

fn print_monitor(monitor: &Monitor) -> Result<(), Failure> {
    output::line(&format!("Prometheus {}", monitor.url()))?;
    output::line(&format!(
        "Grafana    GF_PATHS_PROVISIONING={} grafana server --homepath /usr/share/grafana",
        monitor.provisioning().display()
    ))
}

fn print_report(report: &Report) -> Result<(), Failure> {
    let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |ms| ms.to_string());
    output::line(&format!(
        "{} nodes, height {}, {}, finality p50 {} ms, p99 {} ms, {} blocks/s",
        report.nodes,
        report.height,
        if report.agree { "all agree" } else { "NO AGREEMENT" },
        ms(report.finality_ms.p50),
        ms(report.finality_ms.p99),
        report.blocks_per_s
    ))
}

/// The signals that end a command with a cluster.
pub(crate) struct Ends {
    signals: [tokio::signal::unix::Signal; 3],
}

impl Ends {
    pub(crate) fn new() -> Result<Self, Failure> {
        let take = |kind| signal(kind).map_err(|error| Failure::io("cannot handle signals", &error));
        Ok(Self {
            signals: [take(SignalKind::interrupt())?, take(SignalKind::terminate())?, take(SignalKind::hangup())?],
        })
    }

    pub(crate) async fn wait(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// A cluster that runs and is watched.
struct Session {
    cluster: Cluster,
    monitor: Option<Monitor>,
    /// On an encrypted chain.
    proxy: Option<Proxy>,
    clients: Vec<Client>,
    watch: Watch,
    probes: Probes,
    view: View,
    shows: bool,
    restarts: bool,
    /// With --blocks: how many.
    blocks: Option<u64>,
    /// What the light client sees; none on a chain without squares.
    light: Option<tokio::sync::watch::Receiver<String>>,
    /// Whether probes can be sent: on an encrypted chain, once there is a key to seal to.
    takes_probes: bool,
    /// Newest final block of each node.
    heights: Vec<u64>,
    /// The first final block that was seen here once probes could be sent, and when.
    first: Option<(u64, Instant)>,
    /// When the newest final block was seen.
    progress: Instant,
}

impl Session {
    fn new(
        cluster: Cluster,
        monitor: Option<Monitor>,
        proxy: Option<Proxy>,
        args: &TestnetArgs,
    ) -> Result<Self, Failure> {
        let urls: Vec<String> = cluster.nodes().iter().map(|node| node.file().rpc_ws.clone()).collect();
        let clients =
            cluster.nodes().iter().map(|node| Client::new(&node.file().rpc_http)).collect::<Result<Vec<_>, _>>()?;
        let params = &cluster.genesis().params;
        let probes = Probes::new(clients.clone(), params.clone());
        let heights = vec![0; clients.len()];
        let light = params.data_squares.then(|| light::start(&cluster)).transpose()?;
        Ok(Self {
            light,
            watch: Watch::start(&urls),
            clients,
            probes,
            view: View::default(),
            shows: !args.json,
            restarts: args.restart,
            blocks: args.blocks,
            takes_probes: params.transactions != TransactionRule::Encrypted,
            heights,
            first: None,
            progress: Instant::now(),
            cluster,
            monitor,
            proxy,
        })
    }

    /// Probes, watches and draws until the blocks asked for are there.
    async fn go_on(&mut self) -> Result<Option<Report>, Failure> {
        let mut probe = tokio::time::interval(PROBE_EVERY);
        let mut draw = tokio::time::interval(DRAW_EVERY);
        for interval in [&mut probe, &mut draw] {
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        }
        loop {
            // Timers first: they are seldom due, while news of blocks may always wait on a busy machine.
            tokio::select! {
                biased;
                // Before the first final block the nodes still look for each other, and before the first key is made, nothing
                // can be sealed. Neither is what a probe measures, or what is counted.
                _ = probe.tick(), if self.first.is_some() => self.send_probe().await,
                _ = draw.tick() => {
                    self.look_after_nodes().await?;
                    if self.shows {
                        self.draw().await;
                    }
                }
                seen = self.watch.next() => {
                    self.heights[seen.node] = self.heights[seen.node].max(seen.block.height.0);
                    self.progress = Instant::now();
                    self.takes_probes = self.takes_probes || self.probes.can_seal(seen.node).await;
                    if self.takes_probes {
                        self.first.get_or_insert((seen.block.height.0, seen.at));
                    }
                    self.probes.observe(&seen).await;
                    if let Some(report) = self.report_if_done(seen.at).await? {
                        return Ok(Some(report));
                    }
                }
            }
        }
    }

    async fn send_probe(&mut self) {
        let nodes = self.cluster.nodes();
        self.probes.send(|node| nodes[node].is_running()).await;
    }

    async fn look_after_nodes(&mut self) -> Result<(), Failure> {
        for (index, words) in self.cluster.deaths() {
            self.view.interrupt();
            output::note(&words);
            if self.restarts {
                self.cluster.restart(index).await?;
                Info::of(&self.cluster, self.monitor.as_ref(), self.proxy.as_ref()).write(self.cluster.dir())?;
                if let Some(monitor) = &self.monitor {
                    monitor.retarget(&self.cluster)?;
                }
                output::note(&format!("node {index} runs again"));
            }
        }
        if !self.cluster.nodes().iter().any(cluster::ClusterNode::is_running) {
            return Err(Failure::new("no node runs any more"));
        }
        if self.blocks.is_some() && self.progress.elapsed() > STALL {
            return Err(Failure::new(format!("no block became final for {} s", STALL.as_secs())));
        }
        Ok(())
    }

    async fn draw(&mut self) {
        let status = self
            .clients
            .iter()
            .map(|client| async { tokio::time::timeout(DRAW_EVERY, client.status()).await.ok().and_then(Result::ok) });
        let nodes = futures::future::join_all(status).await;
        let finality = Percentiles::of(self.probes.recent());
        let light = self.light.as_ref().map(|light| light.borrow().clone());
        self.view.draw(&Snapshot { nodes, finality, light });
    }

    /// The report, once a node has seen the last block asked for become final.
    async fn report_if_done(&mut self, now: Instant) -> Result<Option<Report>, Failure> {
        let (Some(blocks), Some((first, since))) = (self.blocks, self.first) else { return Ok(None) };
        let height = first + blocks.saturating_sub(1);
        if self.heights.iter().all(|seen| *seen < height) {
            return Ok(None);
        }
        let seconds = now.duration_since(since).as_secs_f64();
        let seen = self.heights.iter().max().copied().unwrap_or(height) - first;
        let blocks_per_s = if seconds > 0.0 { round(seen as f64 / seconds, 2) } else { 0.0 };
        let agree = self.agree_at(height).await?;
        self.finish_probes().await;
        let finality_ms = Percentiles::of(self.probes.times().iter().copied());
        Ok(Some(Report { nodes: self.clients.len(), height, agree, finality_ms, blocks_per_s }))
    }

    /// Waits, a while, for probes that are on their way: a short run has few. One that has none yet, since they could not be
    /// sent, sends another with each block and waits longer: what is asked for is a figure.
    async fn finish_probes(&mut self) {
        let patience = if self.probes.times().is_empty() { STALL } else { Duration::from_secs(5) };
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            if !self.probes.is_waiting() {
                if !self.probes.times().is_empty() {
                    return;
                }
                self.send_probe().await;
            }
            match tokio::time::timeout_at(deadline, self.watch.next()).await {
                Ok(seen) => self.probes.observe(&seen).await,
                Err(_) => return,
            }
        }
    }

    /// Whether all nodes have the same block with the same state at a height, once all have executed it.
    async fn agree_at(&mut self, height: u64) -> Result<bool, Failure> {
        let deadline = Instant::now() + STALL;
        let mut found: Vec<(BlockHash, alloy_primitives::B256)> = Vec::new();
        for client in &self.clients {
            let state = loop {
                if let Ok(Some(block)) = client.block(height).await
                    && let Some(result) = block.executed
                {
                    break (block.hash, result.state_root);
                }
                if Instant::now() > deadline {
                    return Err(Failure::new(format!("{} did not execute block {height}", client.url())));
                }
                tokio::time::sleep(POLL).await;
            };
            found.push(state);
        }
        Ok(found.windows(2).all(|pair| pair[0] == pair[1]))
    }
}

/// A directory that is removed at the end.
pub(crate) struct TemporaryDir(pub(crate) PathBuf);

impl TemporaryDir {
    pub(crate) fn new() -> Result<Self, Failure> {
        Self::named("testnet")
    }

    /// One that says what it is for.
    pub(crate) fn named(purpose: &str) -> Result<Self, Failure> {
        use std::os::unix::fs::DirBuilderExt as _;
        let mut name = [0; 8];
        getrandom::fill(&mut name).map_err(|error| Failure::new(format!("no randomness: {error}")))?;
        let path = std::env::temp_dir().join(format!("cascade-{purpose}-{}", hex::encode(name)));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| Failure::io(path.display(), &error))?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
