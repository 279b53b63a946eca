//! `cascade light`.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use cascade_light::{Checkpoint, Start};
use cascade_primitives::Genesis;
use clap::Args;

use super::{Failure, block_on, output};
use crate::{
    config::read_genesis,
    exit::ExitCode,
    light::{Follower, Peer, Snapshot, Store, config_of, genesis_checkpoint, of_testnet, parse_checkpoint, rpc::serve},
    testnet::Ends,
};

/// The view is drawn this often on a terminal.
const DRAW_EVERY: Duration = Duration::from_millis(500);
/// And this often elsewhere.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Follows the chain without trusting a node: checks certificates, and samples each block's data.
///
/// It starts from the genesis block or from a checkpoint that you trust, catches up by one handover per epoch, follows each
/// header, and asks several nodes for random shares of every block that it sees live. It stops with a message when data is
/// withheld.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cascade light --from-testnet cluster\n  \
                        cascade light --from-testnet cluster --samples 16 --heights 50 --json\n  \
                        cascade light --genesis genesis.json --peer http://10.0.0.1:8545 --peer http://10.0.0.2:8545 \
                        --data light\n\nExit codes: 22 no node is left to ask, 23 data is withheld or badly encoded (and \
                        again in each run with that --data), 24 the checkpoint or state is too old.")]
pub struct LightArgs {
    /// Take genesis and nodes from the directory of a running `cascade testnet`.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["genesis", "peer"])]
    from_testnet: Option<PathBuf>,
    /// The chain's genesis file.
    #[arg(long, value_name = "FILE", required_unless_present = "from_testnet")]
    genesis: Option<PathBuf>,
    /// JSON-RPC of a node to ask; several, run by different people, are better.
    #[arg(long, value_name = "URL", required_unless_present = "from_testnet")]
    peer: Vec<String>,
    /// A final block that you trust, not older than the unstaking delay [default: the genesis block].
    #[arg(long, value_name = "HEIGHT:HASH:ROOT", value_parser = parse_checkpoint)]
    checkpoint: Option<Checkpoint>,
    /// Samples of each block.
    #[arg(long, value_name = "S", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=256))]
    samples: u64,
    /// End after this many heights were sampled to an end. Heights that cannot be sampled count too, and make it end with 1.
    #[arg(long, value_name = "N")]
    heights: Option<u64>,
    /// Keep what is known of the chain here, and go on from it.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Serve JSON-RPC whose answers are proved, for a wallet. Port 0 picks a free one; the URL is written to stderr.
    #[arg(long, value_name = "IP:PORT")]
    rpc_listen: Option<SocketAddr>,
    /// One line of JSON at the end.
    #[arg(long)]
    json: bool,
    /// 32 bytes of hex that decide what is sampled, for tests: who knows them knows what to withhold.
    #[arg(long, value_name = "HEX", hide = true)]
    seed: Option<alloy_primitives::B256>,
}

/// Runs the command.
pub fn run(args: LightArgs) -> Result<(), Failure> {
    block_on(follow(&args))
}

fn follower(args: &LightArgs) -> Result<(Follower, Genesis, Vec<Peer>), Failure> {
    let (genesis, peers) = match (&args.from_testnet, &args.genesis) {
        (Some(dir), _) => of_testnet(dir)?,
        (None, Some(genesis)) => {
            (genesis.clone(), args.peer.iter().map(|url| Peer::of_url(url)).collect::<Result<_, _>>()?)
        }
        (None, None) => unreachable!("the parser asks for one of them"),
    };
    let genesis = read_genesis(&genesis)?;
    let store = args.data.as_deref().map(Store::new).transpose()?;
    let signing = genesis.signing_context();
    let saved = match (&store, args.checkpoint) {
        (Some(store), None) => store.load(signing)?,
        _ => None,
    };
    let start = match (saved, args.checkpoint) {
        (Some(saved), _) => saved,
        (None, Some(checkpoint)) => Start::Checkpoint(checkpoint),
        (None, None) => Start::Genesis(genesis_checkpoint(&genesis)?),
    };
    let seed = match args.seed {
        Some(seed) => seed.0,
        None => random_seed()?,
    };
    let mut config = config_of(&genesis, start, seed);
    config.samples = args.samples as usize;
    Ok((Follower::new(config, peers.clone(), store, true), genesis, peers))
}

/// Randomness that nobody else knows.
pub(crate) fn random_seed() -> Result<[u8; 32], Failure> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| Failure::new(format!("no randomness from the system: {error}")))?;
    Ok(seed)
}

async fn follow(args: &LightArgs) -> Result<(), Failure> {
    let (mut follower, genesis, peers) = follower(args)?;
    let _server = match args.rpc_listen {
        Some(listen) => {
            let (signing, proven) = (genesis.signing_context(), Arc::clone(follower.proven()));
            let (address, server) = serve(listen, genesis.params, signing, &peers, proven).await?;
            output::note(&format!("light: verified JSON-RPC at http://{address}"));
            Some(server)
        }
        None => None,
    };
    let mut ends = Ends::new()?;
    let mut view = View::new();
    let mut result = follower.start();
    let ended = |follower: &Follower| {
        let stats = follower.client().stats();
        args.heights.is_some_and(|wanted| stats.heights + stats.unsampled >= wanted)
    };
    while result.is_ok() && !ended(&follower) {
        tokio::select! {
            advanced = follower.advance() => result = advanced,
            () = ends.wait() => break,
        }
        if !args.json {
            view.draw(&follower.snapshot());
        }
    }
    let saved = follower.save();
    if args.json {
        output::json(&follower.report())?;
    } else {
        view.end();
        output::line(&line(&follower.snapshot()))?;
    }
    let stats = follower.client().stats();
    if result.is_ok() && ended(&follower) && args.heights.is_some_and(|wanted| stats.heights < wanted) {
        let message = format!("{} heights were sampled, and {} could not be", stats.heights, stats.unsampled);
        result = Err(Failure { code: ExitCode::Failed, message });
    }
    result.and(saved)
}

/// A snapshot in one line.
pub(crate) fn line(now: &Snapshot) -> String {
    let confidence = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
    let newest = now.newest.map_or_else(String::new, |(height, value)| format!(", block {height} {value:.4}"));
    let silence = if now.unreachable { ", none answers" } else { "" };
    format!(
        "head {}, {} sampled, {} failed, {} unsampled, confidence at least {}{newest}, {} samples, {} KB, {} peers{silence}",
        now.head,
        now.heights,
        now.failed,
        now.unsampled,
        confidence(now.min_confidence),
        now.samples,
        now.bytes_received / 1000,
        now.peers
    )
}

/// Redraws a line on a terminal, and writes one now and then elsewhere.
struct View {
    live: bool,
    drawn: Option<Instant>,
}

impl View {
    fn new() -> Self {
        Self { live: output::is_live(), drawn: None }
    }

    fn draw(&mut self, now: &Snapshot) {
        let every = if self.live { DRAW_EVERY } else { LINE_EVERY };
        if self.drawn.is_some_and(|at| at.elapsed() < every) {
            return;
        }
        if self.live {
            output::note(&format!(
                "{}\u{1b}[2Klight: {}",
                if self.drawn.is_some() { "\u{1b}[A" } else { "" },
                line(now)
            ));
        } else {
            output::note(&format!("light: {}", line(now)));
        }
        self.drawn = Some(Instant::now());
    }

    fn end(&mut self) {
        self.drawn = None;
    }
}
