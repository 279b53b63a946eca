//! The running node: actors around the cores.
//!
//! ```text
//!   network --FromPeer--> Consensus --Build, Validate--> Content (pool)          each actor has a thread of its own;
//!      ^                   |  ^  ^  <--Built, Validated--   ^   ^                network, RPC and metrics share the
//!      +------votes--------+  |  |                          |   +--Admit-- RPC   tokio runtime
//!                          |  |  +--FinalRange-- Sync       |
//!                        Final|Executed              StateAdvanced
//!                          v  |                             |
//!                        Storage ------Final------> Execution
//!                             \--Final--> Reveal --Opened--^      on an encrypted chain: shares, then execution
//!                              \-Final--> Keys --Offers--> Content     the next epoch's keys, through the log
//! ```
//!
//! An actor is a thin shell: mailbox message in, a core's decision, effects out. What an actor owns, nobody else writes.
//! Consensus, storage and execution stop the node when they fail or panic, because going on could say something wrong;
//! everything they own is on disk, and the next start goes on from there.

mod admission;
mod backend;
mod carriage;
mod clock;
mod consensus;
mod content;
mod desk;
mod door;
mod error;
mod execution;
mod expiry;
mod gossip;
mod hub;
mod items;
mod judge;
mod keyring;
mod keys;
mod keystore;
mod lanes;
mod light;
mod mail;
mod messages;
mod metrics;
mod notices;
mod observe;
mod pace;
mod pool;
mod proofs;
mod pumps;
mod recent;
mod recovered;
mod replay;
mod reveal;
mod sealed;
mod squares;
mod start;
mod stop;
mod storage;
mod submitter;
mod sync;
mod throttle;
mod turns;

use std::{io, net::SocketAddr, sync::Arc, time::Instant};

use actix::{Actor, Arbiter};
use cascade_consensus::sync::Sync;
use cascade_network::{Claims, Network, NetworkConfig, NetworkId, Receivers};
use cascade_primitives::{NodeId, TimestampMs, TransactionRule};
use parking_lot::Mutex;
use prometheus::Registry;
use serde::{Deserialize, Serialize};

pub use error::NodeError;
pub(crate) use execution::randao_of;
pub use items::CheckError;
pub(crate) use light::LightDoor;
pub use pool::SEALED_ONLY;
pub(crate) use replay::Replay;
pub(crate) use stop::{Cause, Stop};

use crate::{
    batches::publish::Publisher,
    config::{NodeConfig, Role},
    rpc,
};
use admission::Admitter;
use backend::NodeBackend;
use carriage::CarriageActor;
pub(crate) use clock::Clock;
use consensus::{ConsensusActor, ConsensusConfig};
use content::ContentActor;
use door::Door;
use execution::ExecutionActor;
use hub::Hub;
use items::ItemBlocks;
use keys::{KeysActor, KeysConfig};
use mail::Addr;
use metrics::Metrics;
use notices::Notices;
use observe::Observed;
use pool::PoolState;
use proofs::{Checker, Proofs};
use reveal::{RevealActor, RevealConfig};
use sealed::SealedSources;
pub(crate) use squares::Squares;
use start::Loaded;
use storage::StorageActor;
use submitter::Submitter;
use sync::SyncActor;

/// How long a peer may take for a run of headers or bodies, in ms.
const SYNC_TIMEOUT_MS: u64 = 5_000;

/// What a running node writes into `node.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFile {
    /// Its process.
    pub pid: u32,
    /// Who it is.
    pub node_id: NodeId,
    /// JSON-RPC over HTTP.
    pub rpc_http: String,
    /// JSON-RPC over WebSocket.
    pub rpc_ws: String,
    /// Prometheus metrics; none if switched off.
    pub metrics: Option<String>,
    /// QUIC, for other nodes.
    pub network: SocketAddr,
}

/// Runs a node until it is asked to stop (SIGTERM, SIGINT, or the end of its parent where the configuration says so) or
/// cannot go on.
///
/// # Errors
/// [`NodeError`], with the exit code that belongs to it.
pub fn run(config: NodeConfig) -> Result<(), NodeError> {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("cascade-io")
            .enable_all()
            .build()
            .expect("the system can start a few threads")
    };
    actix::System::with_tokio_rt(runtime).block_on(run_in_system(config))
}

async fn run_in_system(config: NodeConfig) -> Result<(), NodeError> {
    let stop = Stop::default();
    stop.on_panic();
    let registry = Registry::new();
    let metrics = Arc::new(Metrics::new(&registry).map_err(NodeError::Metrics)?);
    let clock = Clock::start();
    let loaded = start::load(&config, &metrics, clock)?;
    let others = loaded.context.committee.members().len() > 1;
    let address = notices::of_address(config.role, others, config.network.listen, config.network.external);
    let notices = [loaded.notice_of_seat(config.role), address];
    notices.iter().flatten().for_each(notices::Notice::log);
    let listeners = Listeners::bind(&config).await?;
    let (network, receivers) = start_network(&config, &loaded, &registry).await?;
    let running = Running::start(&config, loaded, network, receivers, metrics, clock, &stop);
    observe::register(&registry, running.observed()).map_err(NodeError::Metrics)?;
    let result = running.serve(&config, listeners, registry, &stop).await;
    stop.end();
    running.stop().await;
    match stop.take_cause() {
        Some(cause) => Err(NodeError::Stopped(cause)),
        None => result,
    }
}

/// Ports that are taken before anything else starts, so that a taken one is an error of the start.
struct Listeners {
    rpc: std::net::TcpListener,
    metrics: Option<tokio::net::TcpListener>,
}

impl Listeners {
    async fn bind(config: &NodeConfig) -> Result<Self, NodeError> {
        let failed = |key: &'static str, address: SocketAddr| {
            move |source: io::Error| NodeError::Listen { key, address, source }
        };
        let rpc = std::net::TcpListener::bind(config.rpc.listen).map_err(failed("rpc.listen", config.rpc.listen))?;
        rpc.set_nonblocking(true).map_err(failed("rpc.listen", config.rpc.listen))?;
        let metrics = match config.metrics.listen {
            Some(address) => {
                Some(tokio::net::TcpListener::bind(address).await.map_err(failed("metrics.listen", address))?)
            }
            None => None,
        };
        Ok(Self { rpc, metrics })
    }
}

async fn start_network(
    config: &NodeConfig,
    loaded: &Loaded,
    registry: &Registry,
) -> Result<(Network, Receivers), NodeError> {
    let section = &config.network;
    let id = NetworkId { chain_id: loaded.rules.signing.chain_id, genesis_hash: loaded.rules.signing.genesis_hash };
    let mut network = NetworkConfig::new(section.listen, id);
    network.external = section.external;
    network.bootstrap = config.bootstrap_addresses()?;
    network.max_peers = section.max_peers;
    network.target_peers = section.target_peers;
    network.allow_private = section.allow_private;
    network.announce = Some(match &loaded.keys.bls {
        Some(key) if config.role == Role::Sequencer => start::claims(&loaded.rules, &loaded.keys.identity, key),
        _ => Claims::FOLLOWER,
    });
    let (network, receivers) = Network::start(network, loaded.keys.identity.clone(), registry).await?;
    network.set_reserved(start::reserved(&loaded.context));
    Ok((network, receivers))
}

/// The started actors.
struct Running {
    network: Network,
    backend: Arc<NodeBackend>,
    consensus: Addr<ConsensusActor>,
    db: Arc<cascade_storage::ChainDb>,
    hub: Arc<Hub>,
    _data: cascade_storage::DataDir,
}

impl Running {
    fn start(
        config: &NodeConfig,
        loaded: Loaded,
        network: Network,
        receivers: Receivers,
        metrics: Arc<Metrics>,
        clock: Clock,
        stop: &Stop,
    ) -> Self {
        let Loaded {
            data,
            rules,
            keys,
            db,
            state,
            recovered,
            keyring,
            context,
            core_start,
            log,
            sign_state,
            executed,
            unexecuted,
            producers,
            batches,
        } = loaded;
        let params = rules.params().clone();
        let hub = Arc::new(Hub::new(context.height, executed, context.last_result));
        let items = ItemBlocks::default();
        let sources = SealedSources {
            context: rules.signing,
            keyring: keyring.clone(),
            blocks: items.clone(),
            db: Arc::clone(&db),
        };
        let door = Arc::new(Mutex::new(Door::new(&params)));
        let recovered_blocks = recovered.clone();
        let pool =
            PoolState::new(params.clone(), state.clone(), recovered_blocks, sources, executed, Arc::clone(&door));
        let pool = Arc::new(Mutex::new(pool.favouring(config.pool.favour)));
        let mailboxes = metrics.mailboxes.clone();
        let squares = Arc::new(Squares::new(&params, &config.squares, metrics.encode_seconds.clone()));
        let light = Arc::new(LightDoor::new(Arc::clone(&db), Arc::clone(&squares), clock));
        if let Some(place) = batches {
            let (stored, height) = ((Arc::clone(&db), Arc::clone(&light)), metrics.batches_height.clone());
            let publisher = Publisher::new(place, rules.genesis.clone(), stored, stop.clone(), height);
            tokio::spawn(pumps::publish(publisher, Arc::clone(&hub)));
        }
        let content = mailboxes.counted("content", {
            let (pool, network, hub, metrics) =
                (Arc::clone(&pool), network.clone(), Arc::clone(&hub), Arc::clone(&metrics));
            ContentActor::start_in_arbiter(&Arbiter::new().handle(), move |_| {
                ContentActor::new(pool, network, hub, metrics, clock, squares)
            })
        });
        let executor = execution::Executor {
            params: params.clone(),
            db: Arc::clone(&db),
            state: state.clone(),
            recovered,
            metrics: Arc::clone(&metrics),
        };
        let execution = mailboxes.counted("execution", {
            let (content, hub, stop) = (content.clone(), Arc::clone(&hub), stop.clone());
            ExecutionActor::start_in_arbiter(&Arbiter::new().handle(), move |_| {
                ExecutionActor::new(executor, content, hub, stop)
            })
        });
        let voting = keys.bls.filter(|_| config.role == Role::Sequencer).map(Arc::new);
        let sealed = (params.transactions == TransactionRule::Encrypted).then(|| {
            let reveal_config = RevealConfig {
                rules: Arc::clone(&rules),
                db: Arc::clone(&db),
                blocks: items.clone(),
                pool: Arc::clone(&pool),
                network: network.clone(),
                execution: execution.clone(),
                keyring: keyring.clone(),
                clock,
                metrics: Arc::clone(&metrics),
                hub: Arc::clone(&hub),
                stop: stop.clone(),
                withhold: config.shares.withhold,
            };
            let reveal = mailboxes.counted(
                "reveal",
                RevealActor::start_in_arbiter(&Arbiter::new().handle(), move |_| {
                    RevealActor::new(reveal_config, executed)
                }),
            );
            let keys_config = KeysConfig {
                rules: Arc::clone(&rules),
                db: Arc::clone(&db),
                signer: voting.clone(),
                node: network.node_id(),
                keyring: keyring.clone(),
                network: network.clone(),
                content: content.clone(),
                reveal: reveal.clone(),
                stop: stop.clone(),
            };
            let at = context.clone();
            let keys = mailboxes.counted(
                "keys",
                KeysActor::start_in_arbiter(&Arbiter::new().handle(), move |_| KeysActor::new(keys_config, at)),
            );
            (keys, reveal)
        });
        if let Some((_, reveal)) = &sealed {
            // Before consensus runs, so that they come before what becomes final next.
            unexecuted.into_iter().for_each(|finalized| reveal.do_send(messages::Final(finalized)));
        }
        let next = match &sealed {
            Some((keys, reveal)) => storage::Next::Sealed { keys: keys.clone(), reveal: reveal.clone() },
            None => storage::Next::Execution(execution.clone()),
        };
        let storage = mailboxes.counted("storage", {
            let (db, hub, metrics, stop) = (Arc::clone(&db), Arc::clone(&hub), Arc::clone(&metrics), stop.clone());
            let rules = Arc::clone(&rules);
            StorageActor::start_in_arbiter(&Arbiter::new().handle(), move |_| {
                StorageActor::new(db, rules, next, hub, metrics, stop)
            })
        });
        let sync = mailboxes.counted("sync", {
            let (network, hub) = (network.clone(), Arc::clone(&hub));
            let scheme = Arc::new(cascade_crypto::BlsScheme::default());
            let (head, height) = (Arc::new(context.clone()), context.height);
            let core = Sync::new(Arc::clone(&rules), scheme, head, SYNC_TIMEOUT_MS, clock.now());
            SyncActor::start_in_arbiter(&Arbiter::new().handle(), move |_| {
                SyncActor::new(core, height, network, hub, clock)
            })
        });
        let signer = voting.map(|key| key as Arc<dyn cascade_crypto::VoteSigner>);
        let core_config = cascade_consensus::Config {
            rules: Arc::clone(&rules),
            scheme: Arc::new(cascade_crypto::BlsScheme::default()),
            signer,
            node: network.node_id(),
        };
        let carriage_config = cascade_consensus::CarriageConfig {
            rules: Arc::clone(&rules),
            scheme: Arc::clone(&core_config.scheme),
            signer: core_config.signer.clone(),
            node: core_config.node,
            way: config.network.proposals.way(),
        };
        let mut core = cascade_consensus::Core::new(core_config, clock.now(), core_start);
        let carriage = mailboxes.counted("carriage", {
            let carrier = cascade_consensus::Carrier::new(carriage_config, core.standing());
            let (network, metrics) = (network.clone(), Arc::clone(&metrics));
            let workers = tokio::runtime::Handle::current();
            CarriageActor::start_in_arbiter(&Arbiter::new().handle(), move |_| {
                CarriageActor::new(carrier, network, metrics, clock, workers)
            })
        });
        hub.set_consensus(hub::ConsensusView {
            health: core.health(),
            committee: Arc::clone(core.committee()),
            next_committee: Arc::clone(&core.head().next_committee),
            leaders: core.leaders(hub::LEADERS_AHEAD),
        });
        let consensus = mailboxes.counted("consensus", {
            let config = ConsensusConfig {
                core,
                log,
                sign_state,
                network: network.clone(),
                carriage: carriage.clone(),
                content: content.clone(),
                storage: storage.clone(),
                sync: sync.clone(),
                hub: Arc::clone(&hub),
                metrics: Arc::clone(&metrics),
                clock,
                stop: stop.clone(),
            };
            ConsensusActor::start_in_arbiter(&Arbiter::new().handle(), move |_| ConsensusActor::new(config))
        });
        carriage.do_send(carriage::Links { consensus: consensus.clone(), own: carriage.clone() });
        content.do_send(content::SetConsensus(consensus.clone()));
        execution.do_send(execution::SetConsensus(consensus.clone()));
        storage.do_send(storage::SetConsensus(consensus.clone()));
        sync.do_send(sync::SetConsensus(consensus.clone()));
        let notices = Notices::new(Instant::now(), !config.network.bootstrap.is_empty());
        if let Some((keys, _)) = &sealed {
            keys.do_send(keys::SetConsensus(consensus.clone()));
        }
        let checker = Checker {
            pool: Arc::clone(&pool),
            rules: Arc::clone(&rules),
            keyring: keyring.clone(),
            proofs: metrics.mempool_proofs.clone(),
        };
        let proofs = Proofs::start(checker, stop.clone());
        let admitter = Admitter::new(Arc::clone(&pool), content, proofs);
        let submitter = Submitter::start(admitter.clone(), door, Arc::clone(&metrics), rules.params().transactions);
        pumps::start(
            receivers, &network, &rules, &consensus, &carriage, &admitter, &submitter, &sync, &db, &light, &hub,
            notices, sealed,
        );
        let backend = Arc::new(NodeBackend {
            rules,
            db: Arc::clone(&db),
            state,
            pool,
            network: network.clone(),
            hub: Arc::clone(&hub),
            producers,
            submitter,
            blocks: Mutex::default(),
            light,
            keyring,
            items,
        });
        Self { network, backend, consensus, db, hub, _data: data }
    }

    fn observed(&self) -> Observed {
        let NodeBackend { db, pool, network, hub, .. } = self.backend.as_ref();
        Observed { hub: Arc::clone(hub), pool: Arc::clone(pool), db: Arc::clone(db), network: network.clone() }
    }

    /// Serves RPC and metrics until the node is to stop.
    async fn serve(
        &self,
        config: &NodeConfig,
        listeners: Listeners,
        registry: Registry,
        stop: &Stop,
    ) -> Result<(), NodeError> {
        let rpc_address = listeners.rpc.local_addr().map_err(|source| NodeError::Listen {
            key: "rpc.listen",
            address: config.rpc.listen,
            source,
        })?;
        let backend: Arc<dyn rpc::backend::Backend> = Arc::clone(&self.backend) as _;
        let server = rpc::start(&config.rpc, listeners.rpc, backend, &registry).await.map_err(NodeError::Rpc)?;
        let metrics_address = listeners.metrics.as_ref().and_then(|l| l.local_addr().ok());
        if let Some(listener) = listeners.metrics {
            tokio::spawn(crate::metrics_http::serve(listener, registry));
        }
        let file = NodeFile {
            pid: std::process::id(),
            node_id: self.network.node_id(),
            rpc_http: format!("http://{rpc_address}"),
            rpc_ws: format!("ws://{rpc_address}"),
            metrics: metrics_address.map(|a| format!("http://{a}/metrics")),
            network: self.network.local_addr(),
        };
        start::write_node_file(&config.node_file(), &file)?;
        tracing::info!(node = %file.node_id, rpc = %file.rpc_http, network = %file.network, "running");
        let reason = start::wait_for_end(config, &self.hub, stop).await;
        tracing::info!(reason, "stopping");
        server.stop().await;
        let _ = std::fs::remove_file(config.node_file());
        Ok(())
    }

    async fn stop(self) {
        // Votes are durable before they are sent, so nothing is lost by stopping at any point; this only makes it tidy.
        let _ = self.consensus.send(messages::Halt).await;
        self.network.shutdown().await;
        if let Err(error) = self.db.sync() {
            tracing::error!(%error, "the last blocks could not be synced; they will be fetched or voted on again");
        }
    }
}

/// Checks that a clock is not behind a block that a quorum made final.
fn clock_is_behind(now: TimestampMs, newest: TimestampMs, drift_ms: u64) -> bool {
    now.plus(drift_ms) < newest
}
