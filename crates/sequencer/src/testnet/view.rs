//! The live view of a testnet: a table that is redrawn on a terminal, lines elsewhere.

use std::{
    io::{Write as _, stderr},
    time::{Duration, Instant},
};

use crossterm::{
    cursor::MoveUp,
    queue,
    style::Stylize as _,
    terminal::{Clear, ClearType},
};

use super::stats::Percentiles;
use crate::{
    cli::output,
    rpc::types::{HealthStatus, Status},
};

/// Without a terminal a line is enough this often.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Rates are computed over this long.
const RATE_OVER: Duration = Duration::from_secs(5);

/// What is drawn.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The nodes: their status, or none if they are away.
    pub nodes: Vec<Option<Status>>,
    /// Of the last probes.
    pub finality: Percentiles,
    /// What the light client sees, if there is one.
    pub light: Option<String>,
}

/// Draws snapshots on stderr.
#[derive(Debug)]
pub struct View {
    live: bool,
    colour: bool,
    drawn: u16,
    last_line: Option<Instant>,
    /// Executed transactions and final height, by time.
    history: Vec<(Instant, u64, u64)>,
}

impl Default for View {
    fn default() -> Self {
        Self { live: output::is_live(), colour: output::has_colour(), drawn: 0, last_line: None, history: Vec::new() }
    }
}

impl View {
    /// Draws a snapshot: over the one before on a terminal, now and then as a line elsewhere.
    pub fn draw(&mut self, snapshot: &Snapshot) {
        let (tps, bps) = self.rates(snapshot);
        if !self.live {
            if self.last_line.is_none_or(|at| at.elapsed() >= LINE_EVERY) {
                self.last_line = Some(Instant::now());
                output::note(&summary(snapshot, tps, bps));
                if let Some(light) = &snapshot.light {
                    output::note(&format!("light: {light}"));
                }
            }
            return;
        }
        let mut lines = vec![String::new(), summary(snapshot, tps, bps), String::new()];
        lines.push("  node  height  executed  epoch   view  peers   pool  state".to_owned());
        lines.extend(snapshot.nodes.iter().enumerate().map(|(index, node)| self.row(index, node.as_ref(), snapshot)));
        lines.extend(snapshot.light.iter().map(|light| format!("  light: {light}")));
        let mut out = stderr().lock();
        if self.drawn > 0 {
            let _ = queue!(out, MoveUp(self.drawn));
        }
        for line in &lines {
            let _ = queue!(out, Clear(ClearType::CurrentLine));
            let _ = writeln!(out, "{line}");
        }
        let _ = out.flush();
        self.drawn = lines.len() as u16;
    }

    /// Makes room for other lines: the next drawing starts below them.
    pub fn interrupt(&mut self) {
        self.drawn = 0;
    }

    fn row(&self, index: usize, status: Option<&Status>, snapshot: &Snapshot) -> String {
        let Some(status) = status else {
            let away = if self.colour { "away".red().to_string() } else { "away".to_owned() };
            return format!(
                "  {index:>4}  {:>6}  {:>8}  {:>5}  {:>5}  {:>5}  {:>5}  {away}",
                "-", "-", "-", "-", "-", "-"
            );
        };
        let health = &status.health;
        let leads = head(snapshot).is_some_and(|head| head.health.leader == health.node);
        let word = match health.status {
            HealthStatus::Healthy => "healthy",
            HealthStatus::Syncing => "syncing",
            HealthStatus::NoQuorum => "no quorum",
            HealthStatus::Stalled => "stalled",
        };
        let word = match (self.colour, health.status) {
            (false, _) => word.to_owned(),
            (true, HealthStatus::Healthy) => word.green().to_string(),
            (true, HealthStatus::Syncing) => word.yellow().to_string(),
            (true, _) => word.red().to_string(),
        };
        format!(
            "  {index:>4}  {:>6}  {:>8}  {:>5}  {:>5}  {:>5}  {:>5}  {word}{}",
            health.height.0,
            status.heads.executed.0,
            health.epoch.0,
            health.view.0,
            health.peers,
            status.pool.pending + status.pool.queued,
            if leads { ", leads" } else { "" },
        )
    }

    /// Executed transactions and final blocks per second. Counters start anew with a node; then the rate is zero once.
    fn rates(&mut self, snapshot: &Snapshot) -> (f64, f64) {
        let now = Instant::now();
        let Some(head) = head(snapshot) else { return (0.0, 0.0) };
        let counters = &head.counters;
        let executed = counters.executed_transactions.max(counters.ordered_transactions);
        self.history.push((now, executed, head.health.height.0));
        self.history.retain(|(at, _, _)| now.duration_since(*at) <= RATE_OVER);
        let (at, transactions, height) = self.history[0];
        let seconds = now.duration_since(at).as_secs_f64();
        if seconds < 0.2 {
            return (0.0, 0.0);
        }
        let rate = |newer: u64, older: u64| newer.saturating_sub(older) as f64 / seconds;
        (rate(executed, transactions), rate(head.health.height.0, height))
    }
}

/// The node that is furthest.
fn head(snapshot: &Snapshot) -> Option<&Status> {
    snapshot.nodes.iter().flatten().max_by_key(|status| status.health.height)
}

fn summary(snapshot: &Snapshot, tps: f64, bps: f64) -> String {
    let Some(head) = head(snapshot) else { return "no node answers".to_owned() };
    let leader = snapshot
        .nodes
        .iter()
        .position(|node| node.as_ref().is_some_and(|status| status.health.node == head.health.leader))
        .map_or_else(|| "?".to_owned(), |index| format!("node {index}"));
    let up = snapshot.nodes.iter().flatten().count();
    let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0} ms"));
    format!(
        "height {}  leader {leader}  finality p50 {} p99 {}  {tps:.0} tps  {bps:.1} blocks/s  {up}/{} nodes",
        head.health.height.0,
        ms(snapshot.finality.p50),
        ms(snapshot.finality.p99),
        snapshot.nodes.len(),
    )
}
