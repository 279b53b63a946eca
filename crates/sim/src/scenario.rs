//! Runs in which not a seed but a test says what happens.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use cascade_consensus::{Bugs, Message, NoBugs};
use cascade_primitives::{ChainParams, Epoch, Genesis, Network, ScheduledCommittee, SealedBlock, TransactionRule};

use crate::{
    config::{Carriage, SimConfig, Timing},
    faults::{Fault, Faults},
    plan::{Action, Character, GENESIS_TIME, Loss, Plan, spec},
    report::SeedReport,
    rng::Rng,
    scheme::{Keys, Scheme},
    world::World,
};

/// The seed of every scenario: what little is left to chance is the same each time.
pub(crate) const SEED: u64 = 1;

/// What happens when, in a cluster that otherwise has no faults: links of 50 ms, a transaction now and then.
#[derive(Debug)]
pub struct Scenario {
    nodes: usize,
    params: ChainParams,
    committees: Vec<(Epoch, Vec<(usize, u64)>)>,
    byzantine: BTreeMap<usize, Vec<Fault>>,
    clocks: BTreeMap<usize, i64>,
    twins: Vec<usize>,
    absent: BTreeSet<usize>,
    actions: Vec<(u64, Action)>,
    losses: Vec<Loss>,
    syncs_blocks: bool,
    faults_end: u64,
    transaction_every: u64,
    timing: Timing,
    carriage: Carriage,
    least_ms: u64,
    least_commits: u64,
}

/// How a scenario ended.
#[derive(Debug)]
pub struct Outcome {
    /// What the checks say.
    pub report: SeedReport,
    /// The final chain from genesis on; with each block the ms at which it first was final anywhere.
    pub chain: Vec<(u64, Arc<SealedBlock>)>,
}

impl Outcome {
    /// The longest time without a new final block within these ms.
    #[must_use]
    pub fn longest_pause(&self, during: Range<u64>) -> u64 {
        let inside = self.chain.iter().map(|(at, _)| *at).filter(|at| during.contains(at));
        let mut last = during.start;
        let mut longest = 0;
        for at in inside.chain([during.end]) {
            longest = longest.max(at - last);
            last = at;
        }
        longest
    }

    /// Panics unless no rule was broken and every honest node recovered.
    ///
    /// # Panics
    /// If a rule was broken or a node did not recover.
    pub fn assert_clean(&self) {
        assert!(self.report.is_clean(), "{:?} {:?}", self.report.violations, self.report.stalls);
    }
}

impl Scenario {
    /// A cluster of `nodes` sequencers: blocks of 500 ms, timeout 1 s, terms of 5 views, D = 3.
    #[must_use]
    pub fn new(nodes: usize) -> Self {
        let params = ChainParams {
            transactions: TransactionRule::Opaque,
            min_sequencers: 3,
            block_time_ms: 500,
            leader_timeout_ms: 1000,
            views_per_term: 5,
            epoch_length: 7200,
            ..ChainParams::of(Network::Regtest)
        };
        Self {
            nodes,
            params,
            committees: vec![(Epoch(0), (0..nodes).map(|i| (i, 100)).collect())],
            byzantine: BTreeMap::new(),
            clocks: BTreeMap::new(),
            twins: Vec::new(),
            absent: BTreeSet::new(),
            actions: Vec::new(),
            losses: Vec::new(),
            syncs_blocks: true,
            faults_end: 20_000,
            transaction_every: 200,
            timing: Timing::USUAL,
            carriage: Carriage::default(),
            least_ms: 5000,
            least_commits: 0,
        }
    }

    /// Changes constants of the chain.
    #[must_use]
    pub fn params(mut self, change: impl FnOnce(&mut ChainParams)) -> Self {
        change(&mut self.params);
        self
    }

    /// Schedules a committee: nodes with their stakes. Nodes that are not in the first one follow from the start.
    #[must_use]
    pub fn committee(mut self, from: u64, members: &[(usize, u64)]) -> Self {
        self.committees.push((Epoch(from), members.to_vec()));
        self
    }

    /// Makes a node Byzantine.
    #[must_use]
    pub fn byzantine(mut self, node: usize, faults: &[Fault]) -> Self {
        self.byzantine.insert(node, faults.to_vec());
        self
    }

    /// Sets a node's clock ahead by so many ms.
    #[must_use]
    pub fn clock(mut self, node: usize, ms: i64) -> Self {
        self.clocks.insert(node, ms);
        self
    }

    /// Copies a node's key to a second node, which gets the next free place after all the others.
    #[must_use]
    pub fn twin(mut self, node: usize) -> Self {
        self.twins.push(node);
        self
    }

    /// A node that never starts.
    #[must_use]
    pub fn absent(mut self, node: usize) -> Self {
        self.absent.insert(node);
        self
    }

    /// How long things take.
    #[must_use]
    pub const fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// How blocks travel.
    #[must_use]
    pub fn carriage(mut self, carriage: Carriage) -> Self {
        self.carriage = carriage;
        self
    }

    /// Mean ms between two transactions.
    #[must_use]
    pub const fn transaction_every(mut self, ms: u64) -> Self {
        self.transaction_every = ms;
        self
    }

    /// How long it goes on after the faults: so many ms, and until so many blocks are final.
    #[must_use]
    pub const fn goes_on(mut self, ms: u64, blocks: u64) -> Self {
        self.least_ms = ms;
        self.least_commits = blocks;
        self
    }

    /// Loses consensus messages (sender, receiver, message) during these ms.
    #[must_use]
    pub fn lose(
        mut self,
        during: Range<u64>,
        what: impl Fn(usize, usize, &Message) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.losses.push(Loss { during, what: Arc::new(what) });
        self
    }

    /// Splits the nodes into groups during these ms.
    #[must_use]
    pub fn partition(mut self, during: Range<u64>, groups: &[u8]) -> Self {
        self.actions.push((during.start, Action::Partition(groups.to_vec())));
        self.actions.push((during.end, Action::Heal));
        self
    }

    /// Cuts links, from sender to receiver, during these ms.
    #[must_use]
    pub fn one_way(mut self, during: Range<u64>, cuts: &[(usize, usize)]) -> Self {
        self.actions.push((during.start, Action::OneWay(cuts.to_vec())));
        self.actions.push((during.end, Action::OneWay(Vec::new())));
        self
    }

    /// Makes links, from sender to receiver, slower by so many ms during these ms.
    #[must_use]
    pub fn slow_links(mut self, during: Range<u64>, links: &[(usize, usize, u64)]) -> Self {
        self.actions.push((during.start, Action::SlowLinks(links.to_vec())));
        self.actions.push((during.end, Action::SlowLinks(Vec::new())));
        self
    }

    /// Lets a node stand still during these ms.
    #[must_use]
    pub fn paused(mut self, node: usize, during: Range<u64>) -> Self {
        self.actions.push((during.start, Action::Pause(node, during.end - during.start)));
        self
    }

    /// Stops a node during these ms, and turns a bit of what it has stored.
    #[must_use]
    pub fn flipped(mut self, node: usize, during: Range<u64>) -> Self {
        self.actions.push((during.start, Action::Crash(node)));
        self.actions.push((during.start, Action::Flip(node)));
        self.actions.push((during.end, Action::Restart(node)));
        self
    }

    /// Stops a node during these ms, with what it has not synced lost.
    #[must_use]
    pub fn down(mut self, node: usize, during: Range<u64>) -> Self {
        self.actions.push((during.start, Action::Crash(node)));
        self.actions.push((during.end, Action::Restart(node)));
        self
    }

    /// Stops a node during these ms, and takes all it has but its keys and sign-state.
    #[must_use]
    pub fn wiped(mut self, node: usize, during: Range<u64>) -> Self {
        self.actions.push((during.start, Action::Wipe(node)));
        self.actions.push((during.end, Action::Restart(node)));
        self
    }

    /// Makes execution take so many ms at a node during these ms.
    #[must_use]
    pub fn slow_execution(mut self, node: usize, during: Range<u64>, ms: u64) -> Self {
        self.actions.push((during.start, Action::Execution(node, ms)));
        self.actions.push((during.end, Action::Execution(node, 5)));
        self
    }

    /// Keeps clients silent during these ms.
    #[must_use]
    pub fn idle(mut self, during: Range<u64>) -> Self {
        self.actions.push((during.start, Action::Clients(false)));
        self.actions.push((during.end, Action::Clients(true)));
        self
    }

    /// Leaves final blocks and results unsynced, so that a crash takes all of them.
    #[must_use]
    pub const fn lazy_disks(mut self) -> Self {
        self.syncs_blocks = false;
        self
    }

    /// When the faults end and recovery is measured from.
    #[must_use]
    pub const fn faults_end(mut self, ms: u64) -> Self {
        self.faults_end = ms;
        self
    }

    /// Runs it.
    #[must_use]
    pub fn run(self) -> Outcome {
        self.run_with(NoBugs, None)
    }

    /// Runs it with planted bugs, or with all that happens said in words.
    #[must_use]
    pub fn run_with<B: Bugs>(self, bugs: B, words: Option<&mut dyn FnMut(String)>) -> Outcome {
        let mut world = self.world(Scheme::Mock, bugs, words);
        let report = world.run_through(SEED);
        let chain = world.checker().chain().map(|(at, block)| (at, Arc::clone(block))).collect();
        Outcome { report, chain }
    }

    /// The world in which it runs.
    pub(crate) fn world<B: Bugs>(self, scheme: Scheme, bugs: B, words: Option<&mut dyn FnMut(String)>) -> World<'_, B> {
        let members = self.committees.iter().flat_map(|(_, members)| members.iter().map(|(node, _)| node + 1));
        let count = members.max().unwrap_or(0).max(self.nodes);
        let keys = Keys::new(scheme, count, &mut Rng::new(SEED, 1));
        let committees = self.committees.iter().map(|(from_epoch, members)| ScheduledCommittee {
            from_epoch: *from_epoch,
            sequencers: members.iter().map(|&(node, stake)| spec(&keys, node, stake, 80)).collect(),
        });
        let instances = count + self.twins.len();
        let genesis = Genesis {
            params: self.params,
            timestamp: GENESIS_TIME,
            committees: committees.collect(),
            alloc: BTreeMap::new(),
        };
        genesis.check().expect("the scenario's genesis file is right");
        let mut actions = self.actions;
        actions.push((self.faults_end, Action::Calm));
        actions.sort_by_key(|(at, _)| *at);
        let plan = Plan {
            genesis,
            nodes: count,
            twins: self.twins,
            absent: self.absent,
            byzantine: self.byzantine.into_iter().map(|(node, faults)| (node, Character { faults })).collect(),
            clocks: (0..instances).map(|i| self.clocks.get(&i).copied().unwrap_or(0)).collect(),
            actions,
            calm_at: self.faults_end,
            transaction_every: self.transaction_every,
            losses: self.losses,
            syncs_blocks: self.syncs_blocks,
            timing: self.timing,
            carriage: self.carriage,
        };
        let faults = Faults::NONE.with(Fault::UnsyncedLoss).with(Fault::TornWrite);
        let config = SimConfig {
            least_ms: self.faults_end + self.least_ms,
            least_commits: self.least_commits,
            ..SimConfig::new(self.nodes, faults)
        };
        World::with_plan(&config, SEED, plan, keys, bugs, words)
    }
}
