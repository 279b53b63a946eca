//! What a seed decides before anything runs: constants of the chain, committees, who is Byzantine, and when what fails.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use cascade_consensus::{Message, seats::committee_of};
use cascade_primitives::{
    Address, BlsSignature, ChainParams, Epoch, Genesis, Network, NodeId, ScheduledCommittee, SequencerSpec,
    TimestampMs, TransactionRule, VoteKind,
};

use crate::{
    config::SimConfig,
    faults::{Fault, Faults},
    rng::Rng,
    scheme::Keys,
};

/// Wall-clock time at which virtual time starts.
pub(crate) const GENESIS_TIME: TimestampMs = TimestampMs(1_700_000_000_000);
/// One-way delay of a link in good weather, in ms.
pub(crate) const BASE_DELAY: u64 = 50;
/// Epochs for which committees are scheduled.
const SCHEDULED_EPOCHS: u64 = 12;

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
    Crash(usize),
    CrashAll,
    /// Whoever leads at that moment.
    CrashLeader,
    Wipe(usize),
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
    pub(crate) nodes: usize,
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
}

/// The node id of a place.
pub(crate) fn node_id(index: usize) -> NodeId {
    let mut id = [0xd0; 32];
    id[..8].copy_from_slice(&(index as u64).to_be_bytes());
    NodeId(id)
}

impl Plan {
    pub(crate) fn new(config: &SimConfig, keys: &Keys, rng: &mut Rng) -> Self {
        let faults = config.faults;
        let nodes = keys.signers.len();
        let params = params(faults, rng);
        let committees = committees(config, keys, rng);
        let genesis = Genesis { params, timestamp: GENESIS_TIME, committees, alloc: BTreeMap::new() };
        genesis.check().expect("the simulator's genesis files are right");
        let byzantine = byzantine(config, &genesis, rng);
        let clock = |rng: &mut Rng| rng.between(0, 1200) as i64 - 600;
        let clocks = (0..nodes).map(|_| if faults.has(Fault::Clock) { clock(rng) } else { 0 }).collect();
        let mut plan = Self {
            genesis,
            nodes,
            byzantine,
            clocks,
            actions: Vec::new(),
            calm_at: config.fault_ms,
            transaction_every: *rng.pick(&[60, 250, 1000]),
            losses: Vec::new(),
            syncs_blocks: true,
        };
        plan.schedule(config, rng);
        plan
    }

    fn schedule(&mut self, config: &SimConfig, rng: &mut Rng) {
        let faults = config.faults;
        let end = self.calm_at;
        // In every fourth run hardly anything works for long.
        let wild = rng.permille(250);
        self.weather(faults, if wild { 900 } else { 400 }, rng);
        if faults.has(Fault::KindLoss) && rng.permille(400) {
            self.kind_losses(rng);
        }
        if faults.has(Fault::Partition) {
            self.partitions(rng);
        }
        if faults.has(Fault::Crash) {
            let most = if wild { 25 } else { 6 };
            self.crashes(rng.between(1, most), rng);
        }
        if faults.has(Fault::Wipe) && self.byzantine.is_empty() {
            let (node, at) = (rng.below(self.nodes as u64) as usize, rng.between(end / 4, end));
            self.actions.push((at, Action::Wipe(node)));
            self.actions.push(((at + rng.between(200, 6000)).min(end), Action::Restart(node)));
        }
        for (fault, make) in [
            (Fault::SlowExecution, Action::Execution as fn(usize, u64) -> Action),
            (Fault::SlowDisk, Action::Disk as fn(usize, u64) -> Action),
        ] {
            if !faults.has(fault) {
                continue;
            }
            for _ in 0..rng.below(4) {
                let (node, at) = (rng.below(self.nodes as u64) as usize, rng.below(end));
                let ms = if fault == Fault::SlowExecution { rng.between(200, 8000) } else { rng.between(5, 400) };
                self.actions.push((at, make(node, ms)));
                self.actions.push(((at + rng.between(1000, 10_000)).min(end), make(node, 5)));
            }
        }
        if faults.has(Fault::Idle) && rng.permille(400) {
            let at = rng.below(end);
            self.actions.push((at, Action::Clients(false)));
            self.actions.push(((at + rng.between(5_000, 25_000)).min(end), Action::Clients(true)));
        }
        self.actions.push((end, Action::Calm));
        self.actions.sort_by_key(|(at, _)| *at);
    }

    /// `rough`: of a thousand spells of weather.
    fn weather(&mut self, faults: Faults, rough: u64, rng: &mut Rng) {
        let mut at = 0;
        while at < self.calm_at {
            let rough = rng.permille(rough);
            let mut pick = |fault, choices: &[u64]| if rough && faults.has(fault) { *rng.pick(choices) } else { 0 };
            let weather = Weather {
                delay: pick(Fault::Delay, &[0, 0, 100, 400, 1500]),
                jitter: pick(Fault::Jitter, &[0, 20, 100, 500, 2000]),
                loss: pick(Fault::Loss, &[0, 5, 20, 100, 300, 700]),
                duplication: pick(Fault::Duplication, &[0, 20, 200]),
                reordering: pick(Fault::Reordering, &[0, 50, 300]),
            };
            self.actions.push((at, Action::Weather(weather)));
            at += rng.between(1000, 10_000);
        }
    }

    fn kind_losses(&mut self, rng: &mut Rng) {
        for _ in 0..rng.between(1, 4) {
            let kind = *rng.pick(&[VoteKind::Prepare, VoteKind::Commit, VoteKind::Commit, VoteKind::Skip]);
            let one = rng.permille(400).then(|| rng.below(self.nodes as u64) as usize);
            let certificates = rng.permille(600);
            let start = rng.below(self.calm_at);
            let end = (start + rng.between(500, 20_000)).min(self.calm_at);
            let what = move |_: usize, to: usize, message: &Message| {
                let hit = match message {
                    Message::Vote(vote, _) => vote.target.kind == kind,
                    Message::Certificate(c) | Message::EpochEnd(c, _) => certificates && c.target.kind == kind,
                    _ => false,
                };
                hit && one.is_none_or(|one| one == to)
            };
            self.losses.push(Loss { during: start..end, what: Arc::new(what) });
        }
    }

    fn partitions(&mut self, rng: &mut Rng) {
        let mut at = rng.between(0, 15_000);
        while at < self.calm_at {
            let groups = rng.between(2, 3);
            let group = if rng.permille(500) {
                // One node apart: the rest goes on.
                let alone = rng.below(self.nodes as u64) as usize;
                (0..self.nodes).map(|i| u8::from(i == alone)).collect()
            } else {
                (0..self.nodes).map(|_| rng.below(groups) as u8).collect()
            };
            self.actions.push((at, Action::Partition(group)));
            at += rng.between(300, 12_000);
            self.actions.push((at.min(self.calm_at), Action::Heal));
            at += rng.between(3000, 25_000);
        }
    }

    fn crashes(&mut self, times: u64, rng: &mut Rng) {
        let end = self.calm_at;
        for _ in 0..times {
            let at = rng.below(end);
            match rng.below(10) {
                0 => {
                    self.actions.push((at, Action::CrashAll));
                    for node in 0..self.nodes {
                        self.actions.push(((at + rng.between(50, 4000)).min(end), Action::Restart(node)));
                    }
                }
                1..4 => {
                    self.actions.push((at, Action::CrashLeader));
                    // Whoever it was is up again with this.
                    let up = (at + rng.between(20, 8000)).min(end);
                    self.actions.extend((0..self.nodes).map(|node| (up, Action::Restart(node))));
                }
                _ => {
                    let node = rng.below(self.nodes as u64) as usize;
                    self.actions.push((at, Action::Crash(node)));
                    let away = *rng.pick(&[20, 500, 3000, 15_000]);
                    self.actions.push(((at + rng.between(20, away)).min(end), Action::Restart(node)));
                }
            }
        }
    }
}

fn params(faults: Faults, rng: &mut Rng) -> ChainParams {
    let mut params = ChainParams {
        transactions: TransactionRule::Opaque,
        min_sequencers: 3,
        block_time_ms: 500,
        leader_timeout_ms: *rng.pick(&[1000, 2000, 3000]),
        views_per_term: *rng.pick(&[2, 5, 10]),
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

fn committees(config: &SimConfig, keys: &Keys, rng: &mut Rng) -> Vec<ScheduledCommittee> {
    let spec = |node: usize, stake: u64, hat: u8| spec(keys, node, stake, hat);
    let mut members: Vec<usize> = (0..config.nodes).collect();
    let first = members.iter().map(|&i| spec(i, 100, 80)).collect();
    let mut schedule = vec![ScheduledCommittee { from_epoch: Epoch(0), sequencers: first }];
    if !config.faults.has(Fault::Epochs) {
        return schedule;
    }
    let mut weighted = false;
    for epoch in 1..SCHEDULED_EPOCHS {
        if !rng.permille(700) {
            continue;
        }
        let outside: Vec<usize> = (0..keys.signers.len()).filter(|i| !members.contains(i)).collect();
        match rng.below(3) {
            0 if !outside.is_empty() => members.push(*rng.pick(&outside)),
            1 if members.len() > config.nodes.max(4) => {
                members.remove(rng.below(members.len() as u64) as usize);
            }
            1 if !outside.is_empty() => {
                let at = rng.below(members.len() as u64) as usize;
                members[at] = *rng.pick(&outside);
            }
            _ => weighted = !weighted,
        }
        let stakes = members.iter().map(|&i| {
            let stake = if weighted { rng.between(100, 400) } else { 100 };
            spec(i, stake, rng.between(50, 100) as u8)
        });
        schedule.push(ScheduledCommittee { from_epoch: Epoch(epoch), sequencers: stakes.collect() });
    }
    schedule
}

/// Who is Byzantine: at most f seats in every committee of the schedule.
fn byzantine(config: &SimConfig, genesis: &Genesis, rng: &mut Rng) -> BTreeMap<usize, Character> {
    const KINDS: [Fault; 8] = [
        Fault::Silence,
        Fault::SilentLeader,
        Fault::Equivocation,
        Fault::DoubleVotes,
        Fault::InvalidBlocks,
        Fault::Forgery,
        Fault::Selective,
        Fault::LyingSync,
    ];
    let kinds: Vec<Fault> = KINDS.into_iter().filter(|f| config.faults.has(*f)).collect();
    let mut chosen: BTreeMap<usize, Character> = BTreeMap::new();
    if kinds.is_empty() || (kinds.len() == KINDS.len() && rng.permille(200)) {
        return chosen;
    }
    let mut candidates: Vec<usize> = (0..config.nodes).collect();
    rng.shuffle(&mut candidates);
    for candidate in candidates {
        chosen.insert(candidate, Character::default());
        let tolerated = genesis.committees.iter().all(|scheduled| {
            let committee = committee_of(&scheduled.sequencers, scheduled.from_epoch, genesis.params.seats)
                .expect("the simulator's schedules are right");
            let seats: u32 = committee
                .members()
                .iter()
                .filter(|m| chosen.keys().any(|&i| node_id(i) == m.node))
                .map(|m| m.seats.0)
                .sum();
            seats <= committee.faulty_seats().0
        });
        if !tolerated {
            chosen.remove(&candidate);
        }
    }
    for character in chosen.values_mut() {
        character.faults =
            kinds.iter().copied().filter(|f| rng.permille(if *f == Fault::Silence { 60 } else { 400 })).collect();
        if character.faults.is_empty() {
            character.faults.push(*rng.pick(&kinds));
        }
    }
    chosen
}
