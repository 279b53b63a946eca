//! `cascade bench load`: a cluster under a fixed load.
//!
//! ```text
//!  this process                     driver process                      nodes 0 .. N-2        node N-1
//!  starts the cluster  --job------> prepares, signs
//!  samples CPU and RSS <--events--- sends at fixed intended times -----> HTTP ---gossip---->  reads what is final
//!  reports             <--result--- counts and times <-------------------------------------- (observer)
//! ```
//!
//! The load is open loop: payload i is due at start + i / rate, whatever became of those before it, and its latency runs
//! from that moment until the observer, to which nothing is submitted, reports its block as final. Committed and executed
//! are counted there too, as distinct payloads. Warm-up is the same load, not counted.

pub mod driver;
mod floor;
mod http;
mod payload;
mod procfs;
mod tally;

use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use cascade_primitives::{ChainParams, Network, TransactionRule};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::Command,
};

use crate::{
    cli::{Failure, block_on, output},
    testnet::{
        Ends, RpcUrls, TemporaryDir,
        cluster::{Cluster, ClusterSpec},
        genesis::Schedule,
        stats::round,
    },
};
use floor::CpuRatio;
use procfs::Usage;

/// RSS is sampled this often.
const SAMPLE_EVERY: Duration = Duration::from_millis(200);

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LoadKind {
    /// Signed transfers from many senders to fresh recipients.
    Transfer,
    /// The same transfers in encrypted envelopes, sealed before the clock starts.
    Encrypted,
    /// Bytes, which are ordered without signature or execution.
    Opaque,
}

/// Starts a cluster, drives it at a fixed rate from a process of its own, and measures.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cascade bench load --nodes 4 --rate 1000 --secs 60 --kind transfer --json\n  \
                        cascade bench load --nodes 4 --rate 1200 --secs 60 --kind encrypted --json\n  \
                        cascade bench load --nodes 4 --rate 5000 --secs 60 --kind opaque --size 512 --json")]
pub struct LoadArgs {
    /// How many nodes; at least 2, since the last one only observes. Four are the least that bear a fault.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(2..=64))]
    nodes: u64,
    /// Payloads per second.
    #[arg(long, value_name = "R", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,
    /// Seconds that are measured.
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    secs: u64,
    /// Seconds before that, at the same rate.
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=600))]
    warmup: u64,
    /// What is sent.
    #[arg(long, value_enum, default_value_t = LoadKind::Transfer)]
    kind: LoadKind,
    /// Bytes of an opaque payload.
    #[arg(long, value_name = "BYTES", default_value_t = 512, value_parser = clap::value_parser!(u64).range(16..=131_072))]
    size: u64,
    /// Senders of transfers, all funded in the genesis.
    #[arg(long, value_name = "COUNT", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    senders: u64,
    /// Keep the cluster's directory here. It must be empty.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A TOML file with constants of the genesis that differ, as for `cascade testnet --schedule`.
    #[arg(long, value_name = "FILE")]
    schedule: Option<PathBuf>,
    /// Log filter of the nodes.
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    log_level: String,
    /// One line of JSON.
    #[arg(long)]
    json: bool,
}

/// What the driver is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Job {
    submit: Vec<String>,
    observe_http: String,
    observe_ws: String,
    rate: u64,
    secs: u64,
    warmup: u64,
    kind: LoadKind,
    size: usize,
    senders: u64,
    chain_id: u64,
}

/// What the driver says, a line each.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum DriverEvent {
    /// Everything is prepared; sending begins.
    Ready,
    /// What is sent from now on counts.
    WindowStart,
    /// What was sent until now counts.
    WindowEnd,
    /// All that is known.
    Result(DriverResult),
}

/// What the driver measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct DriverResult {
    offered_tps: f64,
    committed_tps: f64,
    executed_tps: f64,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    /// From finality to execution of sealed transfers: shares, combination, opening, EVM.
    reveal_p50_ms: Option<f64>,
    reveal_p99_ms: Option<f64>,
    /// Payloads due in the window that were taken and not final when measuring ended; percentiles count them as if they had
    /// become final then.
    unfinished: u64,
    /// Payloads due in the window that a node refused.
    refused: u64,
    /// Payloads due in the window that wait for one of their sender's that was refused.
    stuck: u64,
    /// The first refusal's words.
    refusal: Option<String>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Latency {
    p50: Option<f64>,
    p99: Option<f64>,
}

#[derive(Clone, Debug, Serialize)]
struct Report {
    offered_tps: f64,
    committed_tps: f64,
    executed_tps: f64,
    latency_ms: Latency,
    /// From a sealed transfer's finality until it is opened and executed; none for other loads.
    reveal_ms: Option<Latency>,
    cpu_cores: f64,
    rss_mib: f64,
    /// Of the payloads due in the window: taken and not final at the end (in the percentiles as if they were then), refused,
    /// waiting for a refused one of their sender.
    unfinished: u64,
    refused: u64,
    stuck: u64,
    /// CPU time for a transfer against what none can do without; none for other loads.
    cpu: Option<CpuRatio>,
}

/// Runs the command.
///
/// # Errors
/// If the cluster or the driver does not start, or dies.
pub fn run(args: LoadArgs) -> Result<(), Failure> {
    let temporary = match &args.data {
        Some(_) => None,
        None => Some(TemporaryDir::new()?),
    };
    let dir = args.data.clone().or_else(|| temporary.as_ref().map(|t| t.0.clone())).expect("one of both is there");
    let report = block_on(run_in(&args, dir))?;
    let report = with_ratio(&args, report)?;
    if args.json {
        return output::json(&report);
    }
    let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
    output::line(&format!(
        "offered   {}/s\ncommitted {}/s\nexecuted  {}/s\nlatency   p50 {}, p99 {}\nnodes     {} cores, {} MiB at most\n\
         lost      {} unfinished, {} refused, {} behind a refused one{}",
        report.offered_tps,
        report.committed_tps,
        report.executed_tps,
        ms(report.latency_ms.p50),
        ms(report.latency_ms.p99),
        report.cpu_cores,
        report.rss_mib,
        report.unfinished,
        report.refused,
        report.stuck,
        report.cpu.map_or_else(String::new, |cpu| format!(
            "\ncpu       {} us a transfer and node, {} times what it cannot do without",
            cpu.us_per_transfer, cpu.ratio
        ))
    ))?;
    match report.reveal_ms {
        Some(reveal) => output::line(&format!("reveal    p50 {}, p99 {}", ms(reveal.p50), ms(reveal.p99))),
        None => Ok(()),
    }
}

/// Measures, now that the cluster is gone, what a transfer cannot do without on this machine.
fn with_ratio(args: &LoadArgs, report: Report) -> Result<Report, Failure> {
    if args.kind != LoadKind::Transfer || report.executed_tps == 0.0 {
        return Ok(report);
    }
    let recipients = (report.executed_tps * (args.warmup + args.secs) as f64) as u64;
    let floor = floor::measure(&ChainParams::of(Network::Regtest), args.senders, recipients)?;
    let cpu = CpuRatio::new(report.cpu_cores, args.nodes, report.executed_tps, floor);
    Ok(Report { cpu: Some(cpu), ..report })
}

async fn run_in(args: &LoadArgs, dir: PathBuf) -> Result<Report, Failure> {
    let program = std::env::current_exe().map_err(|error| Failure::io("cannot find this program", &error))?;
    let rule = match args.kind {
        LoadKind::Transfer => TransactionRule::Plain,
        LoadKind::Encrypted => TransactionRule::Encrypted,
        LoadKind::Opaque => TransactionRule::Opaque,
    };
    let mut schedule = args.schedule.as_deref().map(Schedule::read).transpose()?.unwrap_or_default();
    if args.kind == LoadKind::Encrypted {
        // One key for the whole run: what is sealed beforehand has no time to be sealed again. A schedule may say otherwise.
        for key in ["epoch_length", "max_validity"] {
            schedule.params.entry(key).or_insert(toml::Value::Integer(1 << 20));
        }
    }
    let spec = ClusterSpec {
        program: program.clone(),
        dir: std::path::absolute(&dir).map_err(|error| Failure::io(dir.display(), &error))?,
        nodes: Some(args.nodes as usize),
        rule: Some(rule),
        schedule,
        load_accounts: if args.kind == LoadKind::Opaque { 0 } else { args.senders },
        log: args.log_level.clone(),
        batches: None,
    };
    let mut ends = Ends::new()?;
    // Nodes that were started end with the future that is dropped here.
    let mut cluster = tokio::select! {
        cluster = Cluster::start(spec) => cluster?,
        () = ends.wait() => return Err(Failure::new("interrupted")),
    };
    if cluster.is_resumed() {
        return Err(Failure::usage(
            "--data holds a cluster already: its senders' nonces are used; choose an empty one",
        ));
    }
    let result = tokio::select! {
        result = drive(args, program, &mut cluster) => result,
        () = ends.wait() => Err(Failure::new("interrupted")),
    };
    let stopped = cluster.stop().await;
    let report = result?;
    stopped.map(|()| report)
}

async fn drive(args: &LoadArgs, program: PathBuf, cluster: &mut Cluster) -> Result<Report, Failure> {
    let urls: Vec<RpcUrls> = cluster
        .nodes()
        .iter()
        .map(|node| RpcUrls { http: node.file().rpc_http.clone(), ws: node.file().rpc_ws.clone() })
        .collect();
    let (observer, submit) = urls.split_last().expect("at least two nodes");
    let job = Job {
        submit: submit.iter().map(|urls| urls.http.clone()).collect(),
        observe_http: observer.http.clone(),
        observe_ws: observer.ws.clone(),
        rate: args.rate,
        secs: args.secs,
        warmup: args.warmup,
        kind: args.kind,
        size: args.size as usize,
        senders: args.senders,
        chain_id: cluster.genesis().params.chain_id.0,
    };
    let mut child = Command::new(program)
        .args(["bench", "drive"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Failure::io("cannot start the driver", &error))?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let text = serde_json::to_string(&job).expect("a job has a JSON form");
    stdin.write_all(text.as_bytes()).await.map_err(|error| Failure::io("cannot tell the driver its job", &error))?;
    drop(stdin);
    let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
    let pids: Vec<u32> = cluster.nodes().iter().map(|node| node.file().pid).collect();
    let driver = child.id();
    let mut meter = Meter::default();
    let mut sample = tokio::time::interval(SAMPLE_EVERY);
    loop {
        tokio::select! {
            line = lines.next_line() => {
                let line = line.map_err(|error| Failure::io("cannot hear the driver", &error))?;
                let line = line.ok_or_else(|| Failure::new("the driver ended without a result"))?;
                let event = serde_json::from_str(&line);
                match event.map_err(|error| Failure::new(format!("the driver said {line}: {error}")))? {
                    DriverEvent::Ready => output::note(&format!("sending {}/s for {} s", args.rate, args.warmup + args.secs)),
                    DriverEvent::WindowStart => meter.start(&pids),
                    DriverEvent::WindowEnd => meter.end(&pids),
                    DriverEvent::Result(result) => {
                        // A driver that is short of CPU measures itself.
                        if let Some(usage) = driver.and_then(Usage::of) {
                            output::note(&format!("the driver used {:.1} s of CPU", usage.cpu.as_secs_f64()));
                        }
                        return Ok(report(result, &meter));
                    }
                }
            }
            _ = sample.tick() => {
                meter.sample(&pids);
                if let Some((_, words)) = cluster.deaths().into_iter().next() {
                    return Err(Failure::new(words));
                }
            }
        }
    }
}

fn report(result: DriverResult, meter: &Meter) -> Report {
    if let Some(words) = &result.refusal {
        output::note(&format!("{} payloads were refused; the first: {words}", result.refused));
    }
    Report {
        offered_tps: result.offered_tps,
        committed_tps: result.committed_tps,
        executed_tps: result.executed_tps,
        latency_ms: Latency { p50: result.p50_ms, p99: result.p99_ms },
        reveal_ms: result.reveal_p50_ms.map(|p50| Latency { p50: Some(p50), p99: result.reveal_p99_ms }),
        cpu_cores: round(meter.cores, 3),
        rss_mib: round(meter.rss_bytes as f64 / f64::from(1 << 20), 1),
        unfinished: result.unfinished,
        refused: result.refused,
        stuck: result.stuck,
        cpu: None,
    }
}

/// CPU and memory of the nodes during the window.
#[derive(Debug, Default)]
struct Meter {
    started: Option<(Instant, Duration)>,
    cores: f64,
    rss_bytes: u64,
}

impl Meter {
    fn start(&mut self, pids: &[u32]) {
        self.started = Some((Instant::now(), cpu(pids)));
        self.sample(pids);
    }

    fn sample(&mut self, pids: &[u32]) {
        if self.started.is_some() && self.cores == 0.0 {
            let most = pids.iter().filter_map(|pid| Usage::of(*pid)).map(|usage| usage.rss_bytes).max();
            self.rss_bytes = self.rss_bytes.max(most.unwrap_or(0));
        }
    }

    fn end(&mut self, pids: &[u32]) {
        self.sample(pids);
        if let Some((at, before)) = self.started {
            self.cores = cpu(pids).saturating_sub(before).as_secs_f64() / at.elapsed().as_secs_f64();
        }
    }
}

fn cpu(pids: &[u32]) -> Duration {
    pids.iter().filter_map(|pid| Usage::of(*pid)).map(|usage| usage.cpu).sum()
}
