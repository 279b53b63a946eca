//! What a seed decides before anything runs: constants of the chain, committees, who is Byzantine, and when what fails.

mod members;
mod schedule;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use cascade_consensus::Message;
use cascade_primitives::{
    Address, BlsSignature, ChainParams, Genesis, Network, NodeId, SequencerSpec, TimestampMs, TransactionRule,
};

use crate::{
    config::{Carriage, SimConfig, Timing},
    faults::{Fault, Faults},
    rng::Rng,
    scheme::Keys,
};

/// Wall-clock time at which virtual time starts.
pub(crate) const GENESIS_TIME: TimestampMs = TimestampMs(1_700_000_000_000);
/// Identities besides those of the first committee, which may join later.
const JOINERS: usize = 2;
/// Encrypted runs that share keys, constants and committees.
const SEEDS_OF_A_CHAIN: u64 = 100;
/// Nodes up to which whole groups of joiners never start, more than the next committee can spare.
const MOST_FOR_ABSENCE: usize = 16;

/// The state of the network, between two changes of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// Added to every message, in ms.
    pub(crate) delay: u64,
    /// Added to each message up to this, in ms.
    pub(crate) jitter: u64,
    /// Of a thousand messages.
    pub(crate) loss: u64,
    /// Of a thousand messages.
    pub(crate) duplication: u64,
    /// Of a thousand messages.
    pub(crate) reordering: u64,
}

/// Something that happens at a fixed time.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Weather(Weather),
    /// The group of every node.
    Partition(Vec<u8>),
    Heal,
    /// Links, from sender to receiver, over which nothing arrives; all others work again.
    OneWay(Vec<(usize, usize)>),
    /// Links, from sender to receiver, and the ms that they take longer; all others are as fast as they were.
    SlowLinks(Vec<(usize, usize, u64)>),
    /// The node stands still for so many ms.
    Pause(usize, u64),
    Crash(usize),
    /// The node dies in the middle of its next write.
    CrashWriting(usize),
    CrashAll,
    /// Whoever leads at that moment.
    CrashLeader,
    /// The node dies after so many more writes and messages about keys and reveals.
    CrashAfter(usize, u32),
    Wipe(usize),
    /// A bit turns in what the node has stored, if it is down.
    Flip(usize),
    Restart(usize),
    /// Whether clients send.
    Clients(bool),
    /// Ms that the node's execution of a block takes from now on.
    Execution(usize, u64),
    /// Ms that the node's syncs take from now on.
    Disk(usize, u64),
    /// From here on everything works, but for what Byzantine nodes do.
    Calm,
}

/// How a Byzantine node behaves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Character {
    pub(crate) faults: Vec<Fault>,
}

impl Character {
    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }
}

/// Says of sender, receiver and message whether the message is meant.
pub(crate) type Selector = Arc<dyn Fn(usize, usize, &Message) -> bool + Send + Sync>;

/// Consensus messages that are lost.
#[derive(Clone)]
pub(crate) struct Loss {
    pub(crate) during: Range<u64>,
    pub(crate) what: Selector,
}

impl std::fmt::Debug for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Loss({:?})", self.during)
    }
}

/// Everything that is fixed before a run.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) genesis: Genesis,
    /// Sequencers, joiners among them.
    pub(crate) nodes: usize,
    /// Sequencers whose key is on two nodes; the second ones follow after all the others.
    pub(crate) twins: Vec<usize>,
    /// Sequencers that never start.
    pub(crate) absent: BTreeSet<usize>,
    pub(crate) byzantine: BTreeMap<usize, Character>,
    /// Ms that each node's clock is ahead.
    pub(crate) clocks: Vec<i64>,
    pub(crate) actions: Vec<(u64, Action)>,
    /// When the faults stop.
    pub(crate) calm_at: u64,
    /// Mean ms between two transactions.
    pub(crate) transaction_every: u64,
    pub(crate) losses: Vec<Loss>,
    /// Whether disks sync final blocks before they are asked to.
    pub(crate) syncs_blocks: bool,
    pub(crate) timing: Timing,
    pub(crate) carriage: Carriage,
}

/// The node id of a place.
pub(crate) fn node_id(index: usize) -> NodeId {
    let mut id = [0xd0; 32];
    id[..8].copy_from_slice(&(index as u64).to_be_bytes());
    NodeId(id)
}

impl Plan {
    /// The chain of a seed's encrypted run, which other seeds share.
    pub(crate) const fn chain_of(seed: u64) -> u64 {
        seed / SEEDS_OF_A_CHAIN
    }

    /// The keys that a run may need.
    pub(crate) fn identities(config: &SimConfig) -> usize {
        let faulty = (config.nodes - 1) / 3;
        let absent = if config.faults.has(Fault::Absent) && config.nodes <= MOST_FOR_ABSENCE { faulty + 1 } else { 0 };
        config.nodes + if config.faults.has(Fault::Epochs) { JOINERS.max(absent) } else { 0 }
    }

    /// Constants and committees of an encrypted chain follow from `chain`, everything else from `rng`.
    pub(crate) fn new(config: &SimConfig, keys: &Keys, mut chain: Option<&mut Rng>, rng: &mut Rng) -> Self {
        let faults = config.faults;
        let mut params = match &mut chain {
            Some(chain) => encrypted_params(config, chain),
            None => params(faults, rng),
        };
        if let Some(trading) = config.trading {
            params.epoch_length = trading.epoch_length;
        }
        let members = members::choose(config, keys, &mut params, chain, rng);
        let (nodes, twins) = (members.nodes, members.twins);
        let genesis =
            Genesis { params, timestamp: GENESIS_TIME, committees: members.committees, alloc: BTreeMap::new() };
        genesis.check().expect("the simulator's genesis files are right");
        let clock = |rng: &mut Rng| rng.between(0, 1200) as i64 - 600;
        let instances = nodes + twins.len();
        let clocks = (0..instances).map(|_| if faults.has(Fault::Clock) { clock(rng) } else { 0 }).collect();
        let mut plan = Self {
            genesis,
            nodes,
            twins,
            absent: members.absent,
            byzantine: members.byzantine,
            clocks,
            actions: Vec::new(),
            calm_at: config.fault_ms,
            transaction_every: *rng.pick(if config.encrypted { &[500, 1000, 2500] } else { &[60, 250, 1000] }),
            losses: Vec::new(),
            syncs_blocks: true,
            timing: Timing::USUAL,
            carriage: Carriage { coded: config.chunks, ..Carriage::default() },
        };
        if let Some(trading) = config.trading {
            plan.transaction_every = trading.every_ms;
        }
        plan.schedule(faults, rng);
        if config.encrypted {
            plan.schedule_encrypted(faults, rng);
        }
        plan
    }

    /// All nodes, those with a copied key among them.
    pub(crate) fn instances(&self) -> usize {
        self.nodes + self.twins.len()
    }

    /// The sequencer whose key a node has.
    pub(crate) fn key(&self, node: usize) -> usize {
        if node < self.nodes { node } else { self.twins[node - self.nodes] }
    }

    fn is_encrypted(&self) -> bool {
        self.genesis.params.transactions == TransactionRule::Encrypted
    }

    /// Whether a node must keep every promise, that to go on included.
    pub(crate) fn is_honest(&self, node: usize) -> bool {
        let key = self.key(node);
        !self.byzantine.contains_key(&key) && !self.twins.contains(&key) && !self.absent.contains(&key)
    }

    /// The constants and the cast, in words.
    pub(crate) fn describe(&self) -> String {
        let p = &self.genesis.params;
        format!(
            "T {} ms, term {}, D {}, epoch {} + {} x {}, idle {}, byzantine {:?}, twins {:?}, absent {:?}, clocks {:?}",
            p.leader_timeout_ms,
            p.views_per_term,
            p.results_lag,
            p.epoch_length,
            p.epoch_extensions_max,
            p.epoch_extension,
            p.empty_block_interval,
            self.byzantine,
            self.twins,
            self.absent,
            self.clocks
        )
    }
}

fn params(faults: Faults, rng: &mut Rng) -> ChainParams {
    let mut params = ChainParams {
        transactions: TransactionRule::Opaque,
        min_sequencers: 3,
        block_time_ms: 500,
        leader_timeout_ms: *rng.pick(&[1000, 2000, 3000]),
        views_per_term: *rng.pick(&[1, 2, 3, 10, 30]),
        results_lag: *rng.pick(&[1, 2, 3, 3, 5]),
        empty_block_interval: *rng.pick(&[4, 10, 20]),
        future_drift_ms: *rng.pick(&[2000, 10_000, 30_000]),
        ..ChainParams::of(Network::Regtest)
    };
    if faults.has(Fault::Epochs) {
        params.epoch_length = rng.between(10, 45).max(params.results_lag + 2);
        params.epoch_extension = rng.between(4, 10);
        params.epoch_extensions_max = 10;
    } else {
        params.epoch_length = 7200;
    }
    params
}

/// Short epochs, so that a run has several changes of keys; seats that are few, since each costs every node a share of
/// every envelope; secrets that are erased soon.
fn encrypted_params(config: &SimConfig, rng: &mut Rng) -> ChainParams {
    let results_lag = *rng.pick(&[1, 2, 3]);
    let key_window = rng.between(5, 8);
    ChainParams {
        transactions: TransactionRule::Encrypted,
        seats: config.nodes as u32 + 3,
        results_lag,
        leader_timeout_ms: *rng.pick(&[1000, 2000]),
        views_per_term: *rng.pick(&[1, 3, 10]),
        empty_block_interval: *rng.pick(&[2, 4]),
        epoch_length: rng.between(key_window + 10, key_window + 18),
        key_window,
        epoch_extension: rng.between(4, 8),
        epoch_extensions_max: 4,
        old_keys_kept: rng.between(4, 10),
        max_validity: 60,
        ..params(Faults::NONE, rng)
    }
}

/// A sequencer of the genesis file.
pub(crate) fn spec(keys: &Keys, node: usize, stake: u64, hat: u8) -> SequencerSpec {
    SequencerSpec {
        node: node_id(node),
        bls_key: keys.signers[node].public_key(),
        bls_proof: BlsSignature::ZERO,
        address: Address::with_last_byte(node as u8 + 1),
        stake,
        hat,
    }
}
