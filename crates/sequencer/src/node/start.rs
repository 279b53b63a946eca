//! From files to a core that can go on: what a node does before its actors start.

use std::{path::Path, sync::Arc};

use cascade_consensus::{ChainContext, Finality, Finalized, Record, Rules, SignState as SignRecord, Start};
use cascade_crypto::{BlsSecretKey, VoteSigner as _, curve::has_lanes};
use cascade_execution::{CacheSizes, State, StateStore, genesis_changes};
use cascade_network::{Claims, Identity};
use cascade_primitives::{B256, Decode, Height, Network, NodeId, ResultEntry, SealedBlock, TransactionRule};
use cascade_storage::{
    ChainDb, ChainDbOptions, ChainIdentity, DataDir, EpochStart, FinalBlock, LogOptions, SignState, StorageError,
    VoteLog,
};

use super::{
    NodeError, NodeFile, backend::Producers, clock::Clock, clock_is_behind, execution::Executor, hub::Hub,
    keyring::Keyring, metrics::Metrics, notices, notices::Notice, recovered::RecoveredBlocks, stop::Stop,
};
use crate::batches::publish::Place;
use crate::config::{NodeConfig, NodeKeys, Role, load_genesis};

/// Final blocks below the head that consensus gets, for peers that missed one.
const RECENT_BLOCKS: u64 = 64;

/// Everything that was on disk.
pub(super) struct Loaded {
    pub(super) data: DataDir,
    pub(super) rules: Arc<Rules>,
    pub(super) keys: NodeKeys,
    pub(super) db: Arc<ChainDb>,
    pub(super) state: State,
    pub(super) recovered: RecoveredBlocks,
    pub(super) keyring: Keyring,
    pub(super) context: ChainContext,
    pub(super) core_start: Start,
    pub(super) log: VoteLog,
    pub(super) sign_state: Option<SignState>,
    pub(super) executed: Height,
    pub(super) unexecuted: Vec<Arc<Finalized>>,
    pub(super) producers: Arc<Producers>,
    /// Where batches are published.
    pub(super) batches: Option<Place>,
}

impl Loaded {
    /// What the operator should know of this node's seat.
    pub(super) fn notice_of_seat(&self, role: Role) -> Option<Notice> {
        let key = self.keys.bls.as_ref().map(|key| key.public_key());
        let node = self.keys.identity.node_id();
        notices::of_seat(&self.rules.genesis.committees, self.context.epoch, role, node, key)
    }
}

/// Opens what is on disk, makes genesis where there is nothing, and executes what was final but not executed.
pub(super) fn load(config: &NodeConfig, metrics: &Arc<Metrics>, clock: Clock) -> Result<Loaded, NodeError> {
    let genesis = load_genesis(&config.genesis)?;
    let keys = NodeKeys::load(config)?;
    let params = genesis.params.clone();
    if config.is_harmful() && params.network != Network::Regtest {
        return Err(NodeError::ForTests);
    }
    let batches = Place::of(&config.batches)?;
    let identity = ChainIdentity { network: params.network, chain_id: params.chain_id, genesis_hash: genesis.hash() };
    let data = DataDir::open(config.chain_dir(), &identity)?;
    let rules = Arc::new(Rules::new(genesis));
    let (sign_state, sign_record) = load_sign_state(config, &keys, &rules)?;
    let db = Arc::new(ChainDb::open(data.db_path(), ChainDbOptions::default())?);
    let state = State::open(Arc::clone(&db) as Arc<dyn StateStore>, CacheSizes::default())?;
    if db.heads().last_final.is_none() {
        make_genesis(&rules, &db, &state)?;
    }
    let context = load_context(&db)?;
    let newest = context.timestamp;
    if clock_is_behind(clock.now(), newest, params.future_drift_ms) {
        return Err(NodeError::Clock { now: clock.now(), newest, drift_ms: params.future_drift_ms });
    }
    let producers = Arc::new(Producers::new(Arc::clone(&rules), Arc::clone(&db)));
    let recovered = RecoveredBlocks::default();
    let executor = Executor {
        params: params.clone(),
        db: Arc::clone(&db),
        state: state.clone(),
        recovered: recovered.clone(),
        metrics: Arc::clone(metrics),
    };
    if params.transactions == TransactionRule::Encrypted && !has_lanes() {
        tracing::info!(
            "no AVX-512 IFMA here, without which an envelope takes nearly twice the CPU (docs/operating.md)"
        );
    }
    // What is final and not opened yet is opened, and then executed, by the actors.
    let executed = if params.transactions == TransactionRule::Encrypted {
        db.heads().executed.unwrap_or(Height::ZERO)
    } else {
        execute_backlog(&executor, &producers)?
    };
    let owner = keys.bls.as_ref().filter(|_| config.role == Role::Sequencer);
    let keyring = Keyring::load(&db, &context, executed, owner)?;
    let (log, raw, recovery) = VoteLog::open_collect(data.log_path(), LogOptions::default())?;
    if let Some(torn) = &recovery.torn {
        tracing::info!(
            ?torn,
            "the vote log ended in the middle of a record, which was never acted upon; it is cut off"
        );
    }
    let records = raw
        .iter()
        .map(|bytes| {
            Record::from_shared(bytes)
                .map_err(|error| NodeError::Damaged { path: data.log_path(), what: error.to_string() })
        })
        .collect::<Result<Vec<_>, _>>()?;
    if records.is_empty() && sign_state.as_ref().is_some_and(SignState::damaged_slot) {
        return Err(NodeError::SignStateDoubtful { path: config.keys.sign_state.clone() });
    }
    let core_start = core_start(&db, context.clone(), executed, records, sign_record)?;
    let unexecuted = if params.transactions == TransactionRule::Encrypted {
        unexecuted(&db, &producers, &context, executed)?
    } else {
        Vec::new()
    };
    Ok(Loaded {
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
    })
}

/// The record beside the key. Where it is missing, the key must not sign: it may have signed anything.
fn load_sign_state(
    config: &NodeConfig,
    keys: &NodeKeys,
    rules: &Rules,
) -> Result<(Option<SignState>, Option<SignRecord>), NodeError> {
    let Some(key) = keys.bls.as_ref().filter(|_| config.role == Role::Sequencer) else { return Ok((None, None)) };
    let path = &config.keys.sign_state;
    let file = SignState::open(path, key.public_key())?;
    let record = file
        .load()
        .map(|bytes| {
            SignRecord::from_slice(bytes).map_err(|error| StorageError::SignStateDamaged {
                path: path.clone(),
                offset: 0,
                what: error.to_string(),
            })
        })
        .transpose()?;
    if record.as_ref().is_some_and(|r| !r.is_of(rules.signing.chain_id)) {
        return Err(NodeError::SignStateForeign { path: path.clone() });
    }
    Ok((Some(file), record))
}

pub(super) fn make_genesis(rules: &Rules, db: &ChainDb, state: &State) -> Result<(), NodeError> {
    let opaque = rules.params().transactions == TransactionRule::Opaque;
    let changes = genesis_changes(&rules.genesis).map_err(|error| NodeError::GenesisState(error.to_string()))?;
    let root = if opaque { B256::ZERO } else { changes.root() };
    let (context, block) =
        ChainContext::genesis(rules, root).map_err(|error| NodeError::GenesisState(error.to_string()))?;
    db.put_epoch(&EpochStart { committee: context.committee.as_ref().clone(), seed: context.seed(rules) })?;
    let result = block.header.results[0];
    let block = FinalBlock { block: Arc::new(block), finality: None, transactions: Vec::new() };
    db.append_final_with_context(&[block], &cascade_primitives::Encode::to_bytes(&context))?;
    if opaque {
        db.commit_result(&result)?;
    } else {
        let executed = cascade_execution::ExecutedBlock {
            result,
            receipts: Vec::new(),
            bloom: Default::default(),
            burned: Default::default(),
            tips: Default::default(),
            changes,
        };
        db.commit_executed(&executed)?;
        state.committed(&executed.changes);
    }
    db.sync()?;
    Ok(())
}

fn load_context(db: &ChainDb) -> Result<ChainContext, NodeError> {
    let damaged = |what: String| NodeError::Damaged { path: db.path().to_owned(), what };
    let (height, hash) = db.heads().last_final.ok_or_else(|| damaged("no final block".to_owned()))?;
    let bytes = db.context()?.ok_or_else(|| damaged("no context of the newest final block".to_owned()))?;
    let context = ChainContext::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if context.hash != hash {
        return Err(damaged(format!(
            "the stored context is of block {}, the newest is {height} {hash}",
            context.height
        )));
    }
    Ok(context)
}

/// Executes final blocks that were not executed when the node stopped. Answers the newest executed height.
fn execute_backlog(executor: &Executor, producers: &Producers) -> Result<Height, NodeError> {
    let heads = executor.db.heads();
    let last = heads.last_final.map_or(Height::ZERO, |(height, _)| height);
    let mut done = heads.executed.unwrap_or(Height::ZERO);
    if done < last {
        tracing::info!(from = %done.next(), to = %last, "executing final blocks");
    }
    while done < last {
        let height = done.next();
        let block = executor.db.block(height)?.ok_or_else(|| NodeError::Damaged {
            path: executor.db.path().to_owned(),
            what: format!("final block {height} is missing"),
        })?;
        let producer = producers.of(&block.header)?;
        executor.run(&block, producer).map_err(NodeError::Stopped)?;
        done = height;
        if height.0.is_multiple_of(1000) {
            tracing::info!(%height, to = %last, "executing final blocks");
        }
    }
    Ok(done)
}

fn core_start(
    db: &ChainDb,
    context: ChainContext,
    executed: Height,
    records: Vec<Record>,
    sign_state: Option<SignRecord>,
) -> Result<Start, NodeError> {
    let head = context.height;
    let missing = |height: Height| NodeError::Damaged {
        path: db.path().to_owned(),
        what: format!("final block {height} or its result is missing"),
    };
    let oldest = context.last_result.0.min(head.0.saturating_sub(RECENT_BLOCKS));
    let recent = (oldest..=head.0)
        .map(|h| Ok(Arc::new(db.block(Height(h))?.ok_or_else(|| missing(Height(h)))?)))
        .collect::<Result<Vec<Arc<SealedBlock>>, NodeError>>()?;
    let results = (context.last_result.0 + 1..=executed.0)
        .map(|h| db.result(Height(h))?.ok_or_else(|| missing(Height(h))))
        .collect::<Result<Vec<ResultEntry>, NodeError>>()?;
    let finality = db
        .finality(head)?
        .map(|stored| Finality { certificate: Arc::new(stored.certificate), fillers: stored.fillers });
    let head = Arc::clone(recent.last().expect("the range holds the head"));
    Ok(Start { head, context, finality, recent, results, records, sign_state })
}

/// What a sequencer announces of itself.
pub(super) fn claims(rules: &Rules, identity: &Identity, key: &BlsSecretKey) -> Claims {
    let spec = rules
        .genesis
        .committees
        .iter()
        .flat_map(|c| &c.sequencers)
        .rev()
        .find(|s| s.node == identity.node_id() && s.bls_key == key.public_key());
    spec.map_or(Claims::FOLLOWER, |spec| Claims {
        bls_key: spec.bls_key,
        address: spec.address,
        hat: spec.hat,
        stake: spec.stake,
        ..Claims::FOLLOWER
    })
}

/// Nodes that always get a connection: the committees of this epoch and the next.
pub(super) fn reserved(context: &ChainContext) -> Vec<NodeId> {
    let members = context.committee.members().iter().chain(context.next_committee.members());
    members.map(|m| m.node).collect()
}

/// Writes `node.json` so that a reader sees all of it or nothing.
pub(super) fn write_node_file(path: &Path, file: &NodeFile) -> Result<(), NodeError> {
    let failed = |source| NodeError::File { path: path.to_owned(), source };
    let temporary = path.with_extension("json.new");
    let text = serde_json::to_string_pretty(file).expect("strings and numbers have a JSON form");
    std::fs::write(&temporary, text + "\n").map_err(failed)?;
    std::fs::rename(&temporary, path).map_err(failed)
}

/// Waits for whatever ends the node, and says what it was.
pub(super) async fn wait_for_end(config: &NodeConfig, hub: &Arc<Hub>, stop: &Stop) -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).expect("a process may handle its signals");
    let mut interrupt = signal(SignalKind::interrupt()).expect("a process may handle its signals");
    tokio::select! {
        () = stop.wait() => "an actor asked for it",
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        () = parent_gone(config.run.exit_with_parent) => "the parent is gone",
        () = reached(config.run.until_height, hub) => "the height asked for is reached",
    }
}

/// The end of stdin, which the parent holds open for as long as it lives.
async fn parent_gone(watch: bool) {
    if !watch {
        return std::future::pending().await;
    }
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = sender.send(());
    });
    let _ = receiver.await;
}

async fn reached(height: Option<u64>, hub: &Hub) {
    let Some(height) = height else { return std::future::pending().await };
    let mut events = hub.subscribe();
    while hub.heads().executed.0 < height {
        // A lagging receiver has seen that something happened, which is all that matters.
        if let Err(tokio::sync::broadcast::error::RecvError::Closed) = events.recv().await {
            return std::future::pending().await;
        }
    }
}

/// Final blocks that are not executed, in order, as consensus handed them out when they became final: for those who open
/// them.
pub(super) fn unexecuted(
    db: &ChainDb,
    producers: &Producers,
    context: &ChainContext,
    executed: Height,
) -> Result<Vec<Arc<Finalized>>, NodeError> {
    let mut found = Vec::new();
    let newest = db.finality(context.height)?;
    for height in (executed.0 + 1..=context.height.0).map(Height) {
        let missing = || NodeError::Damaged {
            path: db.path().to_owned(),
            what: format!("final block {height} or its certificate is missing"),
        };
        let block = Arc::new(db.block(height)?.ok_or_else(missing)?);
        let stored = db.finality(height)?.or_else(|| newest.clone()).ok_or_else(missing)?;
        found.push(Arc::new(Finalized {
            producer: producers.of(&block.header)?,
            context: Arc::new(context.clone()),
            is_opened: !block.body.transactions.is_empty(),
            finality: Finality { certificate: Arc::new(stored.certificate), fillers: stored.fillers },
            block,
        }));
    }
    Ok(found)
}
