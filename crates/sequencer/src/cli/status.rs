//! `cascade status`.

use std::time::Duration;

use clap::Args;

use super::{Client, Failure, block_on, output, units};
use crate::{
    exit::ExitCode,
    rpc::types::{Health, HealthStatus, Status},
};

/// Asks a node how it is.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cascade status\n  cascade status --rpc http://127.0.0.1:8545 --watch\n  \
                        cascade status --json | jq .health.status\n\nExit codes: 0 healthy, 20 no peers, 21 not healthy otherwise, 22 no node \
                        answers.")]
pub struct StatusArgs {
    /// The node's JSON-RPC.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8545", env = "CASCADE_RPC")]
    rpc: String,
    /// One line of JSON: the node's l2_status.
    #[arg(long)]
    json: bool,
    /// Ask again every second until Ctrl-C.
    #[arg(long, conflicts_with = "json")]
    watch: bool,
}

/// Runs the command.
pub fn run(args: StatusArgs) -> Result<(), Failure> {
    block_on(async {
        let client = Client::new(&args.rpc)?;
        if args.watch {
            return watch(&client).await;
        }
        let status = client.status().await?;
        if args.json {
            output::json(&status)?
        } else {
            render(&status).iter().try_for_each(|line| output::line(line))?
        }
        judge(&status.health)
    })
}

/// Whether a node needs peers and has none: one that has all the seats of a quorum itself needs none.
fn is_alone(health: &Health) -> bool {
    health.peers == 0 && !(health.votes && health.seats_heard >= health.quorum)
}

fn judge(health: &Health) -> Result<(), Failure> {
    if is_alone(health) {
        return Err(Failure {
            code: ExitCode::NoPeers,
            message:
                "the node has no peers, so it neither gets nor sends blocks; see that another node of its chain runs, \
                      that network.bootstrap names it, and that UDP passes the firewalls; the node's log says why its \
                      dials fail"
                    .to_owned(),
        });
    }
    match health.status {
        HealthStatus::Healthy => Ok(()),
        other => Err(Failure {
            code: ExitCode::Unhealthy,
            message: format!("the node is not healthy: {}; {}", word(other), remedy(other)),
        }),
    }
}

fn remedy(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::Healthy => "nothing is to be done",
        HealthStatus::Syncing => "wait, it catches up",
        HealthStatus::NoQuorum => "see which sequencers are down or cut off from it",
        HealthStatus::Stalled => "its log, and those of the other sequencers, say why",
    }
}

async fn watch(client: &Client) -> Result<(), Failure> {
    use std::io::IsTerminal as _;
    let live = std::io::stdout().is_terminal();
    let mut drawn = 0;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
        let lines = match client.status().await {
            Ok(status) if live => render(&status),
            Ok(status) => vec![one_line(&status)],
            Err(error) => vec![error.to_string()],
        };
        if live && drawn > 0 {
            output::line(&format!("\u{1b}[{drawn}A\u{1b}[J{}", lines.join("\n")))?;
        } else {
            output::line(&lines.join("\n"))?;
        }
        drawn = lines.len();
    }
}

fn word(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::Healthy => "healthy",
        HealthStatus::Syncing => "syncing",
        HealthStatus::NoQuorum => "no quorum: it hears too few sequencers",
        HealthStatus::Stalled => "stalled: a quorum is heard, but no block becomes final",
    }
}

fn one_line(status: &Status) -> String {
    let health = &status.health;
    let state = if is_alone(health) { "no peers" } else { word(health.status) };
    format!(
        "{state}: height {}, executed {}, epoch {}, {} peers, {} in the pool",
        health.height,
        status.heads.executed,
        health.epoch,
        health.peers,
        status.pool.pending + status.pool.queued
    )
}

fn render(status: &Status) -> Vec<String> {
    let health = &status.health;
    let mut lines = vec![
        format!("node       {} ({})", health.node, status.client),
        format!("chain      {} (genesis {})", status.chain_id, status.genesis_hash),
        format!("status     {}", word(health.status)),
        format!("final      {} ({}, {} ms ago)", health.height, status.head, health.since_final_ms),
        format!("executed   {} (in a final header: {})", status.heads.executed, status.heads.safe),
        format!("epoch      {}, view {}, leader {}", health.epoch, health.view, health.leader),
        format!(
            "seats      {} of {} heard, {} are a quorum; this node {}",
            health.seats_heard,
            health.seats,
            health.quorum,
            if health.votes { "votes" } else { "does not vote" }
        ),
        if is_alone(health) {
            "peers      none: this node is on its own".to_owned()
        } else {
            format!("peers      {}", health.peers)
        },
        format!(
            "pool       {} ready, {} behind a gap, {} in flight",
            status.pool.pending, status.pool.queued, status.pool.in_flight
        ),
        format!("base fee   {} gwei", gwei(status.next_base_fee)),
    ];
    if let Some(sync) = &health.sync {
        lines.push(format!("syncing    from {} to {}", sync.from, sync.target));
    }
    lines
}

/// Wei in gwei: 10^9 wei.
fn gwei(wei: u64) -> String {
    const CAS_PER_GWEI: u64 = 1_000_000_000;
    units::format_cas(alloy_primitives::U256::from(wei) * alloy_primitives::U256::from(CAS_PER_GWEI))
}
