//! One run: the queue of events, and everything that they happen to.

mod chunks;
mod economy;
mod life;
mod queue;
mod sealed;
mod traffic;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use cascade_consensus::{
    Bugs, CarriageInput, ChainContext, Config, Core, Effect, Input, Message, Rules, Sync, SyncEffect, SyncInput,
};
use cascade_crypto::VoteScheme;
use cascade_primitives::{Epoch, Height, NodeId, SealedBlock, TimestampMs, TransactionRule};

use crate::{
    adversary::Adversary,
    app::{self, App},
    check::Checker,
    config::{SimConfig, recovery_bound_ms, reveal_bound_ms},
    disk::{Disk, Stored},
    faults::{Fault, FaultCounts},
    figures::{Probe, Traffic},
    network::Network,
    node::{Batch, Node, Payload, Running, done_transactions, unexecuted},
    plan::{Action, Character, GENESIS_TIME, Plan, Weather, node_id},
    report::SeedReport,
    rng::Rng,
    scheme::Keys,
    trace::Trace,
    uplink::Uplinks,
    watch::Watch,
};
use chunks::Chunked;
use economy::Stage;
use queue::{Event, Queue};
use sealed::Beside;

/// Ms after which a node offers waiting transactions to the others again.
const OFFER_AGAIN: u64 = 2000;
/// Ms that a node waits for an answer to a catch-up request.
const SYNC_TIMEOUT: u64 = 1000;
/// Ms after its recovery within which a run must have made the blocks that it owes.
const ENOUGH: u64 = 300_000;

/// The virtual time at which a clock shows this.
fn to_virtual(local: TimestampMs, clock: i64) -> u64 {
    local.0.saturating_add_signed(-clock).saturating_sub(GENESIS_TIME.0)
}

#[derive(Debug)]
pub(crate) struct World<'a, B: Bugs> {
    config: SimConfig,
    seed: u64,
    bugs: B,
    now: u64,
    queue: Queue,
    plan: Plan,
    rules: Arc<Rules>,
    keys: Keys,
    /// Of every node, its identity; two nodes have the same if a key was copied.
    ids: Vec<NodeId>,
    /// Of every node, its key, if another node has it too.
    shared: Vec<Option<usize>>,
    nodes: Vec<Node<B>>,
    network: Network,
    checker: Checker,
    watch: Watch,
    trace: Trace<'a>,
    counts: FaultCounts,
    /// Counts messages, where somebody wants to know.
    pub(crate) traffic: Option<Traffic>,
    /// Notes how proposals spread, where somebody wants to know.
    pub(crate) probe: Option<Probe>,
    /// Of nodes that can send only so much.
    uplinks: Option<Uplinks>,
    chunked: Chunked,
    /// Of an encrypted chain.
    beside: Option<Beside<B>>,
    /// An application in place of users and execution.
    stage: Option<Box<Stage<'a>>>,
    clients: bool,
    submitted: u64,
    calm: bool,
    /// Height that every honest node must reach after the faults stopped.
    goal: Option<Height>,
    recovered_at: Option<u64>,
    rng: Rng,
    disk_rng: Rng,
}

impl<'a, B: Bugs> World<'a, B> {
    pub(crate) fn new(config: &SimConfig, seed: u64, bugs: B, words: Option<&'a mut dyn FnMut(String)>) -> Self {
        let chain = if config.encrypted { Plan::chain_of(seed) } else { seed };
        let keys = Keys::new(config.scheme, Plan::identities(config), &mut Rng::new(chain, 1));
        let mut of_chain = config.encrypted.then(|| Rng::new(chain, 6));
        let plan = Plan::new(config, &keys, of_chain.as_mut(), &mut Rng::new(seed, 2));
        Self::with_plan(config, seed, plan, keys, bugs, words)
    }

    pub(crate) fn with_plan(
        config: &SimConfig,
        seed: u64,
        plan: Plan,
        keys: Keys,
        bugs: B,
        words: Option<&'a mut dyn FnMut(String)>,
    ) -> Self {
        let count = plan.instances();
        let rules = Arc::new(Rules::new(plan.genesis.clone()));
        let (context, genesis) = ChainContext::genesis(&rules, app::genesis_root()).expect("the schedule is right");
        let (context, genesis) = (Arc::new(context), Arc::new(genesis));
        let ids: Vec<NodeId> = (0..count).map(|i| node_id(plan.key(i))).collect();
        let shared = (0..count).map(|i| Some(plan.key(i)).filter(|key| plan.twins.contains(key))).collect();
        let honest = (0..count).map(|i| plan.is_honest(i)).collect();
        let committee = Arc::clone(&context.committee);
        let checker =
            Checker::new(Arc::clone(&rules), Arc::clone(&keys.scheme), &ids, honest, Arc::clone(&genesis), committee);
        let node = |i: usize| {
            let disk = Disk::new(Stored { block: Arc::clone(&genesis), context: Arc::clone(&context), finality: None });
            let adversary = plan.byzantine.get(&plan.key(i)).map(|character| {
                let (signer, scheme) = (Arc::clone(&keys.signers[plan.key(i)]), Arc::clone(&keys.scheme));
                let rng = Rng::new(seed, 1000 + i as u64);
                Adversary::new(i, count, character.clone(), signer, scheme, Arc::clone(&rules), rng)
            });
            Node::new(disk, plan.clocks[i], adversary, plan.timing)
        };
        let nodes = (0..count).map(node).collect();
        // Whose key is on two nodes that both follow the protocol follows it here too.
        let lies = |character: &Character| config.chunks && character.faults != [Fault::Twins];
        let liars: Vec<usize> = plan.byzantine.iter().filter(|(_, c)| lies(c)).map(|(node, _)| *node).collect();
        let chunked = Chunked::new(seed, &liars, &keys, &rules);
        let encrypted = rules.params().transactions == TransactionRule::Encrypted;
        let beside = encrypted.then(|| Beside::new(seed, &bugs, &rules, &keys, &plan, &ids));
        Self {
            config: config.clone(),
            seed,
            bugs,
            now: 0,
            queue: Queue::default(),
            network: Network::new(count, plan.timing.link, Rng::new(seed, 3)),
            checker,
            watch: Watch::default(),
            trace: Trace::new(words),
            counts: FaultCounts::default(),
            traffic: None,
            probe: None,
            uplinks: plan.carriage.uplink.map(|rate| Uplinks::new(count, rate)),
            chunked,
            beside,
            stage: None,
            clients: true,
            submitted: 0,
            calm: false,
            goal: None,
            recovered_at: None,
            rng: Rng::new(seed, 4),
            disk_rng: Rng::new(seed, 5),
            plan,
            rules,
            keys,
            ids,
            shared,
            nodes,
        }
    }

    /// Runs to the end.
    pub(crate) fn run(mut self, seed: u64) -> SeedReport {
        self.run_through(seed)
    }

    /// Runs to the end and leaves the world to be looked at.
    pub(crate) fn run_through(&mut self, seed: u64) -> SeedReport {
        self.trace.note(0, || self.plan.describe());
        for node in 0..self.nodes.len() {
            if self.plan.absent.contains(&self.plan.key(node)) {
                self.counts.add(Fault::Absent);
            } else {
                self.boot(node);
            }
        }
        for (i, (at, _)) in self.plan.actions.clone().into_iter().enumerate() {
            self.queue.push(at, Event::Act(i));
        }
        self.queue.push(10, Event::Submit);
        let mut bound = recovery_bound_ms(self.rules.params(), self.config.nodes);
        if self.beside.is_some() {
            bound += reveal_bound_ms(self.rules.params());
        }
        let mut stalls = Vec::new();
        while let Some((at, event)) = self.queue.pop() {
            self.now = at;
            self.handle(event);
            self.take_violations();
            if !self.checker.violations().is_empty() {
                break;
            }
            if self.calm && self.recovered_at.is_none() {
                if self.behind().next().is_none() {
                    self.recovered_at = Some(self.now);
                } else if self.now > self.plan.calm_at + bound {
                    stalls = self.behind().collect();
                    break;
                }
            }
            if let Some(recovered_at) = self.recovered_at {
                stalls = self.unrevealed(recovered_at);
                if !stalls.is_empty() {
                    break;
                }
                let enough = self.checker.height().0 >= self.config.least_commits && self.has_changed_keys();
                if self.now >= self.config.least_ms && enough {
                    break;
                } else if self.now > recovered_at.max(self.config.least_ms) + ENOUGH {
                    stalls.push(format!("only {} blocks by {} ms", self.checker.height(), self.now));
                    break;
                }
            }
        }
        if self.recovered_at.is_none() && stalls.is_empty() && self.checker.violations().is_empty() {
            stalls.push(format!("nothing more happens after {} ms, and not all have recovered", self.now));
        }
        for node in &self.nodes {
            if let Some(adversary) = &node.adversary {
                self.counts.merge(&adversary.counts);
            }
        }
        self.trace.note(self.now, || format!("{} groups of candidates dropped", self.checker.dropped()));
        (0..self.checker.epochs_begun()).for_each(|_| self.counts.add(Fault::Epochs));
        SeedReport {
            seed,
            commits: self.checker.height().0,
            virtual_ms: self.now,
            recovery_ms: self.recovered_at.map(|at| at - self.plan.calm_at),
            faults: self.counts.clone(),
            revealed: self.what_was_revealed(),
            chunks: self.chunked.counts(),
            trace: self.trace.finish(),
            violations: self.checker.violations().to_vec(),
            stalls,
        }
    }

    /// What verifies signatures.
    pub(crate) fn scheme(&self) -> Arc<dyn VoteScheme> {
        Arc::clone(&self.keys.scheme)
    }

    /// Verifies with this from now on; what checks the run goes on with what it had.
    pub(crate) fn set_scheme(&mut self, scheme: Arc<dyn VoteScheme>) {
        self.keys.scheme = scheme;
    }

    pub(crate) fn checker(&self) -> &Checker {
        &self.checker
    }

    fn local(&self, node: usize) -> TimestampMs {
        TimestampMs((GENESIS_TIME.0 + self.now).saturating_add_signed(self.nodes[node].clock))
    }

    /// What each honest node lacks that has not recovered; nothing once all have.
    fn behind(&self) -> impl Iterator<Item = String> + '_ {
        let goal = self.goal.unwrap_or(Height(u64::MAX));
        let lacks = move |node: usize| {
            let Some(running) = &self.nodes[node].running else { return Some(format!("node {node} is down")) };
            let (height, (epoch, view)) = (running.core.head().height, running.core.position());
            if height < goal {
                return Some(format!("node {node} is at height {height} of {goal}, epoch {epoch} view {view}"));
            }
            let next = running.party.as_ref()?.next_reveal();
            (next <= goal).then(|| format!("node {node} has not opened block {next}, of those up to {goal}"))
        };
        (0..self.nodes.len()).filter(|&i| self.checker.is_honest(i)).filter_map(lacks)
    }

    fn handle(&mut self, event: Event) {
        if let Some(node) = event.node()
            && self.nodes[node].paused_until > self.now
        {
            // It will see all of this at once.
            self.queue.push(self.nodes[node].paused_until, event);
            return;
        }
        match event {
            Event::Deliver { from, to, payload } => self.deliver(from, to, payload),
            Event::Wake { node, at } => {
                if self.nodes[node].running.as_ref().is_some_and(|r| r.wake_at == at) {
                    self.step(node, None, Input::Tick);
                }
            }
            Event::SyncWake { node, at } => {
                if self.nodes[node].running.as_ref().is_some_and(|r| r.sync_wake_at == at) {
                    self.sync(node, SyncInput::Tick);
                }
            }
            Event::CarrierWake { node, at } => {
                if self.nodes[node].running.as_ref().is_some_and(|r| r.carrier_wake_at == at) {
                    self.carry(node, CarriageInput::Tick);
                }
            }
            Event::Flush { node, life } if self.nodes[node].life == life => self.flush(node),
            Event::Input { node, life, input } if self.nodes[node].life == life => self.step(node, None, *input),
            Event::Executed { node, life } if self.nodes[node].life == life => self.executed(node),
            Event::OfferAgain { node, life } if self.nodes[node].life == life => self.offer_again(node),
            Event::Look { node, life } if self.nodes[node].life == life => self.look(node),
            // Faults are over once it is calm, those that were on their way too.
            Event::Die { node, life } if self.nodes[node].life == life && !self.calm => self.crash(node, false),
            Event::Flush { .. }
            | Event::Input { .. }
            | Event::Executed { .. }
            | Event::OfferAgain { .. }
            | Event::Look { .. }
            | Event::Die { .. } => {}
            Event::Boot(node) => self.boot(node),
            Event::Submit => self.submit(),
            Event::Act(i) => {
                let action = self.plan.actions[i].1.clone();
                self.act(action);
            }
        }
    }

    /// Gives a core an input and does what it wants, and so on until it wants nothing more.
    fn step(&mut self, node: usize, from: Option<usize>, input: Input) {
        let now = self.local(node);
        self.trace.input(self.now, node, from, &input);
        let Some(running) = &mut self.nodes[node].running else { return };
        let before = running.core.head().height;
        let effects = running.core.step(now, input);
        let head = Arc::clone(running.core.head());
        for effect in effects {
            self.trace.effect(self.now, node, &effect);
            self.checker.report(node, &effect);
            self.apply(node, effect);
        }
        self.checker.settled(node);
        self.rearm(node);
        if head.height > before {
            self.sync(node, SyncInput::Head(head));
        }
    }

    fn sync(&mut self, node: usize, input: SyncInput) {
        let (now, life) = (self.local(node), self.nodes[node].life);
        let Some(running) = &mut self.nodes[node].running else { return };
        let effects = running.sync.step(now, input);
        for effect in effects {
            self.trace.sync(self.now, node, &effect);
            match effect {
                SyncEffect::Request { peer, id, request } => {
                    let place = self.places(node, &peer).next();
                    if let Some(to) = place {
                        self.transmit(node, to, Payload::Request { life, id, request });
                    }
                }
                SyncEffect::Deliver { from, blocks, finality } => {
                    let input = Box::new(Input::FinalRange { from, blocks, finality });
                    self.queue.push(self.now, Event::Input { node, life, input });
                }
                SyncEffect::Misbehaved(peer, what) => self.checker.sync_lied(node, &peer, what),
            }
        }
        let clock = self.nodes[node].clock;
        let Some(running) = &mut self.nodes[node].running else { return };
        if let Some(local) = running.sync.wake_at() {
            let at = to_virtual(local, clock).max(self.now + 1);
            if running.sync_wake_at != at {
                running.sync_wake_at = at;
                self.queue.push(at, Event::SyncWake { node, at });
            }
        }
    }

    fn rearm(&mut self, node: usize) {
        let (now, clock) = (self.now, self.nodes[node].clock);
        let Some(running) = &mut self.nodes[node].running else { return };
        let local = running.core.wake_at();
        let at = to_virtual(local, clock).max(now + 1);
        if running.wake_at != at {
            running.wake_at = at;
            self.queue.push(at, Event::Wake { node, at });
        }
    }

    fn apply(&mut self, i: usize, effect: Effect) {
        let life = self.nodes[i].life;
        match effect {
            Effect::Persist { records, sign_state } => {
                let now = self.now;
                let node = &mut self.nodes[i];
                let Some(running) = &mut node.running else { return };
                let ready_at = running.disk_free_at.max(now) + node.sync_delay;
                running.disk_free_at = ready_at;
                node.disk.persist(ready_at, records, *sign_state);
                if node.sync_delay == 0 {
                    node.disk.sync_log(now);
                    return;
                }
                if std::mem::take(&mut node.dies_writing) {
                    self.queue.push(now, Event::Die { node: i, life });
                }
                self.queue.push(ready_at, Event::Flush { node: i, life });
            }
            Effect::Broadcast(message) => self.emit(i, None, message),
            Effect::Send(peer, message) => self.emit(i, Some(peer), message),
            Effect::Build(request) => {
                let Some(content) = self.build(i, &request) else { return };
                if let Some(adversary) = &mut self.nodes[i].adversary {
                    adversary.learn_context(&request.parent);
                }
                let input = Box::new(Input::Built { view: request.view, parent: request.parent.hash, content });
                self.queue.push(self.now + self.plan.timing.build, Event::Input { node: i, life, input });
            }
            Effect::Validate(block, request) => {
                let Some(verdict) = self.judge(i, &block, &request) else { return };
                let input =
                    Box::new(Input::Validated { hash: block.hash(), verdict, da: app::commitment(&block.body) });
                let most = self.plan.timing.validate;
                let delay = if most == 0 { 0 } else { 1 + self.rng.below(most) };
                self.queue.push(self.now + delay, Event::Input { node: i, life, input });
            }
            Effect::Finalized(finalized) => {
                self.checker.finalized(i, &finalized, self.now);
                if let Some(traffic) = &mut self.traffic {
                    traffic.grown(self.checker.height().0);
                }
                self.ordered(&finalized);
                self.store(i, &finalized);
                self.start_execution(i);
            }
            Effect::EnteredView(epoch, view) => {
                self.carrier_enters(i);
                self.may_lead(i, epoch, view);
            }
            Effect::PeerStatus(peer, status) => self.sync(i, SyncInput::Status(peer, status)),
            Effect::Behind(peer) => self.sync(i, SyncInput::Behind(peer)),
            Effect::Evidence(_) | Effect::Misbehaved(..) | Effect::Skipped(..) | Effect::Fatal(_) => {}
        }
    }
}
