//! `cascade testnet --monitor`: a Prometheus beside the cluster.
//!
//! ```text
//! DIR/monitor/prometheus.yml, alerts.yml     as in testnet/monitoring of the sources
//! DIR/monitor/targets.json                   the nodes' metrics addresses; written again when a node restarts
//! DIR/monitor/data, log                      Prometheus's own
//! DIR/monitor/grafana/provisioning           data source and dashboards, for a Grafana that is pointed here
//! DIR/monitor/grafana/dashboards             the overview
//! ```
//!
//! Prometheus is found in PATH; Grafana is not started. A shell between the two processes watches a pipe from this one,
//! so that Prometheus ends with the cluster however that ends.

use std::{
    fs::File,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, timeout},
};

use super::cluster::Cluster;
use crate::{cli::Failure, home::write_atomically};

const PROMETHEUS: &str = include_str!("../../../../testnet/monitoring/prometheus.yml");
const ALERTS: &str = include_str!("../../../../testnet/monitoring/alerts.yml");
const OVERVIEW: &str = include_str!("../../../../testnet/monitoring/dashboards/overview.json");

/// How long Prometheus may take to answer.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How long it may take to stop before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is asked whether it is ready.
const POLL: Duration = Duration::from_millis(50);
/// Ports that are tried: each is free when it is chosen, and may be taken when Prometheus binds it.
const ATTEMPTS: usize = 3;

/// Runs Prometheus until the pipe on stdin ends.
const KEEPER: &str = r#""$@" & server=$!; cat >/dev/null; kill "$server" 2>/dev/null; wait "$server""#;

/// A running Prometheus.
#[derive(Debug)]
pub struct Monitor {
    dir: PathBuf,
    url: String,
    keeper: Child,
}

/// Where Prometheus is.
///
/// # Errors
/// If it is not in PATH; the message says how to get it.
pub fn find() -> Result<PathBuf, Failure> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).map(|dir| dir.join("prometheus")).find(|path| path.is_file());
    found.ok_or_else(|| {
        Failure::usage(
            "--monitor needs Prometheus, and there is no `prometheus` in PATH. On Debian or Ubuntu: \
             apt-get install prometheus; elsewhere: https://prometheus.io/download",
        )
    })
}

impl Monitor {
    /// Writes the configuration for a cluster and starts Prometheus.
    ///
    /// # Errors
    /// If files cannot be written, or Prometheus does not answer; then with the end of its log.
    pub async fn start(program: &Path, cluster: &Cluster) -> Result<Self, Failure> {
        let dir = cluster.dir().join("monitor");
        create_dir(&dir)?;
        write(&dir.join("prometheus.yml"), PROMETHEUS)?;
        write(&dir.join("alerts.yml"), ALERTS)?;
        write_targets(&dir, cluster)?;
        let mut failure = None;
        for _ in 0..ATTEMPTS {
            match launch(program, &dir).await {
                Ok((address, keeper)) => {
                    let url = format!("http://{address}");
                    write_grafana(&dir.join("grafana"), &url)?;
                    return Ok(Self { dir, url, keeper });
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.expect("there was an attempt"))
    }

    /// Where its pages and API are.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What a Grafana's `paths.provisioning` is to be.
    #[must_use]
    pub fn provisioning(&self) -> PathBuf {
        self.dir.join("grafana/provisioning")
    }

    /// Tells Prometheus the nodes' present addresses.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn retarget(&self, cluster: &Cluster) -> Result<(), Failure> {
        write_targets(&self.dir, cluster)
    }

    /// Stops it.
    pub async fn stop(mut self) {
        drop(self.keeper.stdin.take());
        if timeout(STOP_TIMEOUT, self.keeper.wait()).await.is_err() {
            let _ = self.keeper.kill().await;
        }
    }
}

fn create_dir(path: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(path).map_err(|error| Failure::io(path.display(), &error))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    write_atomically(path, text.as_bytes()).map_err(|error| Failure::io(path.display(), &error))
}

/// Prometheus's file-based service discovery (file_sd_config).
fn write_targets(dir: &Path, cluster: &Cluster) -> Result<(), Failure> {
    let nodes = cluster.nodes().iter().enumerate();
    let targets: Vec<_> = nodes
        .filter_map(|(index, node)| {
            let address = node.file().metrics.as_deref()?.strip_prefix("http://")?.strip_suffix("/metrics")?;
            Some(json!({ "targets": [address], "labels": { "instance": format!("node-{index}") } }))
        })
        .collect();
    write(&dir.join("targets.json"), &format!("{:#}\n", json!(targets)))
}

/// What Grafana reads at its start (Grafana's provisioning, version 1).
fn write_grafana(dir: &Path, url: &str) -> Result<(), Failure> {
    let (sources, boards) = (dir.join("provisioning/datasources"), dir.join("provisioning/dashboards"));
    let dashboards = dir.join("dashboards");
    for folder in [&sources, &boards, &dashboards] {
        create_dir(folder)?;
    }
    let source = format!(
        "apiVersion: 1\ndatasources:\n  - name: Cascade\n    uid: cascade\n    type: prometheus\n    access: proxy\n    \
         url: {url}\n    isDefault: true\n    jsonData:\n      timeInterval: 2s\n"
    );
    write(&sources.join("cascade.yml"), &source)?;
    let path = json!(dashboards.to_string_lossy());
    let provider =
        format!("apiVersion: 1\nproviders:\n  - name: Cascade\n    type: file\n    options:\n      path: {path}\n");
    write(&boards.join("cascade.yml"), &provider)?;
    write(&dashboards.join("overview.json"), OVERVIEW)
}

async fn launch(program: &Path, dir: &Path) -> Result<(SocketAddr, Child), Failure> {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = free.map_err(|error| Failure::io("cannot find a free port", &error))?;
    let path = dir.join("log");
    let log = File::create(&path).map_err(|error| Failure::io(path.display(), &error))?;
    let twin = log.try_clone().map_err(|error| Failure::io(path.display(), &error))?;
    let mut keeper = Command::new("sh")
        .args(["-c", KEEPER, "sh"])
        .arg(program)
        .arg(format!("--config.file={}", dir.join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .arg("--log.level=warn")
        .stdin(Stdio::piped())
        .stdout(log)
        .stderr(twin)
        .process_group(0)
        .spawn()
        .map_err(|error| Failure::io("cannot start Prometheus", &error))?;
    let deadline = Instant::now() + START_TIMEOUT;
    while Instant::now() < deadline {
        if is_ready(address).await {
            return Ok((address, keeper));
        }
        let words = std::fs::read_to_string(&path).unwrap_or_default();
        if words.contains("level=error") || words.contains("level=ERROR") {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    drop(keeper.stdin.take());
    let _ = timeout(STOP_TIMEOUT, keeper.wait()).await;
    let words = std::fs::read_to_string(&path).unwrap_or_default();
    Err(Failure::new(format!("Prometheus does not answer on {address}; its log says:\n{}", words.trim_end())))
}

/// Prometheus's readiness check (management API).
async fn is_ready(address: SocketAddr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /-/ready HTTP/1.0\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.take(4096).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = timeout(Duration::from_secs(1), ask).await;
    matches!(answer, Ok(Ok(answer)) if answer.starts_with(b"HTTP/1.0 200") || answer.starts_with(b"HTTP/1.1 200"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grafana_finds_the_data_source_and_the_dashboard() {
        let dir = tempfile::tempdir().unwrap();
        write_grafana(dir.path(), "http://127.0.0.1:9").unwrap();
        let source = std::fs::read_to_string(dir.path().join("provisioning/datasources/cascade.yml")).unwrap();
        assert!(source.contains("    url: http://127.0.0.1:9\n"), "{source}");
        let provider = std::fs::read_to_string(dir.path().join("provisioning/dashboards/cascade.yml")).unwrap();
        let path = dir.path().join("dashboards");
        assert!(provider.contains(&format!("path: \"{}\"\n", path.display())), "{provider}");
        let board: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path.join("overview.json")).unwrap()).unwrap();
        assert!(board["panels"].as_array().is_some_and(|panels| panels.len() > 20));
    }
}
