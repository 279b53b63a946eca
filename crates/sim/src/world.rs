//! One run: the queue of events, and everything that they happen to.

mod life;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
};

use cascade_consensus::{
    Bugs, ChainContext, Config, Core, Effect, Input, Message, Rules, Sync, SyncEffect, SyncInput, sync,
};
use cascade_primitives::{Bytes, Epoch, Height, NodeId, SealedBlock, TimestampMs, View};

use crate::{
    adversary::Adversary,
    app::{self, App},
    check::Checker,
    config::{SimConfig, recovery_bound_ms},
    disk::{Disk, Stored},
    faults::{Fault, FaultCounts},
    network::Network,
    node::{Batch, Node, Payload, Running, done_transactions, unexecuted},
    plan::{Action, GENESIS_TIME, Plan, Weather, node_id},
    report::SeedReport,
    rng::Rng,
    scheme::Keys,
    trace::Trace,
};

/// Identities besides those of the first committee, which may join later.
const JOINERS: usize = 2;
/// Ms after which a node offers waiting transactions to the others again.
const OFFER_AGAIN: u64 = 2000;
/// Ms that a node waits for an answer to a catch-up request.
const SYNC_TIMEOUT: u64 = 1000;

#[derive(Debug)]
enum Event {
    Deliver {
        from: usize,
        to: usize,
        payload: Payload,
    },
    Wake {
        node: usize,
        at: u64,
    },
    SyncWake {
        node: usize,
        at: u64,
    },
    /// Syncs are done: what waited for them leaves.
    Flush {
        node: usize,
        life: u32,
    },
    Input {
        node: usize,
        life: u32,
        input: Box<Input>,
    },
    Executed {
        node: usize,
        life: u32,
    },
    OfferAgain {
        node: usize,
        life: u32,
    },
    Submit,
    Act(usize),
}

#[derive(Debug)]
struct Queued {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// The virtual time at which a clock shows this.
fn to_virtual(local: TimestampMs, clock: i64) -> u64 {
    local.0.saturating_add_signed(-clock).saturating_sub(GENESIS_TIME.0)
}

#[derive(Debug)]
pub(crate) struct World<'a, B: Bugs> {
    config: SimConfig,
    bugs: B,
    now: u64,
    order: u64,
    queue: BinaryHeap<Reverse<Queued>>,
    plan: Plan,
    rules: Arc<Rules>,
    keys: Keys,
    ids: Vec<NodeId>,
    nodes: Vec<Node<B>>,
    network: Network,
    checker: Checker,
    trace: Trace<'a>,
    counts: FaultCounts,
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
        let joiners = if config.faults.has(Fault::Epochs) { JOINERS } else { 0 };
        let keys = Keys::new(config.scheme, config.nodes + joiners, &mut Rng::new(seed, 1));
        let plan = Plan::new(config, &keys, &mut Rng::new(seed, 2));
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
        let count = plan.nodes;
        let rules = Arc::new(Rules::new(plan.genesis.clone()));
        let (context, genesis) = ChainContext::genesis(&rules, app::genesis_root()).expect("the schedule is right");
        let (context, genesis) = (Arc::new(context), Arc::new(genesis));
        let ids: Vec<NodeId> = (0..count).map(node_id).collect();
        let honest = (0..count).map(|i| !plan.byzantine.contains_key(&i)).collect();
        let committee = Arc::clone(&context.committee);
        let checker =
            Checker::new(Arc::clone(&rules), Arc::clone(&keys.scheme), &ids, honest, Arc::clone(&genesis), committee);
        let node = |i: usize| Node {
            disk: Disk::new(Stored { block: Arc::clone(&genesis), context: Arc::clone(&context), finality: None }),
            running: None,
            life: 0,
            clock: plan.clocks[i],
            adversary: plan.byzantine.get(&i).map(|character| {
                let (signer, scheme) = (Arc::clone(&keys.signers[i]), Arc::clone(&keys.scheme));
                let rng = Rng::new(seed, 1000 + i as u64);
                Adversary::new(i, count, character.clone(), signer, scheme, Arc::clone(&rules), rng)
            }),
            sync_delay: 1,
            execution_delay: 5,
        };
        let nodes = (0..count).map(node).collect();
        Self {
            config: config.clone(),
            bugs,
            now: 0,
            order: 0,
            queue: BinaryHeap::new(),
            network: Network::new(count, Rng::new(seed, 3)),
            checker,
            trace: Trace::new(words),
            counts: FaultCounts::default(),
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
            nodes,
        }
    }

    /// Runs to the end.
    pub(crate) fn run(mut self, seed: u64) -> SeedReport {
        self.run_through(seed)
    }

    /// Runs to the end and leaves the world to be looked at.
    pub(crate) fn run_through(&mut self, seed: u64) -> SeedReport {
        let (plan, now) = (&self.plan, self.now);
        let (params, byzantine, clocks) = (&plan.genesis.params, &plan.byzantine, &plan.clocks);
        self.trace.note(now, || {
            format!(
                "T {} ms, term {}, D {}, epoch {}, idle {}, byzantine {byzantine:?}, clocks {clocks:?}",
                params.leader_timeout_ms,
                params.views_per_term,
                params.results_lag,
                params.epoch_length,
                params.empty_block_interval
            )
        });
        for node in 0..self.nodes.len() {
            self.boot(node);
        }
        for (i, (at, _)) in self.plan.actions.clone().into_iter().enumerate() {
            self.push(at, Event::Act(i));
        }
        self.push(10, Event::Submit);
        let bound = recovery_bound_ms(self.rules.params(), self.config.nodes);
        let mut stalls = Vec::new();
        while let Some(Reverse(next)) = self.queue.pop() {
            self.now = next.at;
            self.handle(next.event);
            if !self.checker.violations().is_empty() {
                break;
            }
            if self.calm && self.recovered_at.is_none() {
                if self.has_recovered() {
                    self.recovered_at = Some(self.now);
                } else if self.now > self.plan.calm_at + bound {
                    stalls = self.stalled();
                    break;
                }
            }
            if self.recovered_at.is_some() && self.now >= self.config.least_ms {
                break;
            }
        }
        for node in &self.nodes {
            if let Some(adversary) = &node.adversary {
                self.counts.merge(&adversary.counts);
            }
        }
        SeedReport {
            seed,
            commits: self.checker.height().0,
            virtual_ms: self.now,
            recovery_ms: self.recovered_at.map(|at| at - self.plan.calm_at),
            faults: self.counts.clone(),
            trace: self.trace.finish(),
            violations: self.checker.violations().to_vec(),
            stalls,
        }
    }

    pub(crate) fn checker(&self) -> &Checker {
        &self.checker
    }

    fn push(&mut self, at: u64, event: Event) {
        self.order += 1;
        self.queue.push(Reverse(Queued { at, order: self.order, event }));
    }

    fn local(&self, node: usize) -> TimestampMs {
        TimestampMs((GENESIS_TIME.0 + self.now).saturating_add_signed(self.nodes[node].clock))
    }

    fn has_recovered(&self) -> bool {
        let Some(goal) = self.goal else { return false };
        let mut honest = (0..self.nodes.len()).filter(|&i| self.checker.is_honest(i));
        honest.all(|i| self.nodes[i].running.as_ref().is_some_and(|r| r.core.head().height >= goal))
    }

    fn stalled(&mut self) -> Vec<String> {
        let goal = self.goal.unwrap_or_default();
        let mut stalls = Vec::new();
        for (i, node) in self.nodes.iter().enumerate() {
            let Some(running) = &node.running else { continue };
            let height = running.core.head().height;
            if self.checker.is_honest(i) && height < goal {
                let (epoch, view) = running.core.position();
                stalls.push(format!("node {i} is at height {height} of {goal}, epoch {epoch} view {view}"));
            }
        }
        stalls
    }

    fn handle(&mut self, event: Event) {
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
            Event::Flush { node, life } => {
                if self.nodes[node].life == life {
                    self.flush(node);
                }
            }
            Event::Input { node, life, input } => {
                if self.nodes[node].life == life {
                    self.step(node, None, *input);
                }
            }
            Event::Executed { node, life } => {
                if self.nodes[node].life == life {
                    self.executed(node);
                }
            }
            Event::OfferAgain { node, life } => {
                if self.nodes[node].life == life {
                    self.offer_again(node);
                }
            }
            Event::Submit => self.submit(),
            Event::Act(i) => {
                let action = self.plan.actions[i].1.clone();
                self.act(action);
            }
        }
    }

    fn deliver(&mut self, from: usize, to: usize, payload: Payload) {
        if !self.nodes[to].is_up() {
            return;
        }
        match payload {
            Payload::Consensus(message) => {
                let peer = self.ids[from];
                if self.nodes[to].adversary.is_some() {
                    self.overheard(to, &message);
                }
                self.step(to, Some(from), Input::Message { from: peer, message });
            }
            Payload::Transaction(transaction) => self.add_transaction(to, &transaction),
            Payload::Request { life, id, request } => {
                let truth = sync::answer(&self.nodes[to].disk, &request);
                let answer = match &mut self.nodes[to].adversary {
                    Some(adversary) => adversary.answer(truth),
                    None => Some(truth),
                };
                if let Some(response) = answer {
                    self.transmit(to, from, Payload::Response { life, id, response: Arc::new(response) });
                }
            }
            Payload::Response { life, id, response } => {
                if self.nodes[to].life == life {
                    let peer = self.ids[from];
                    self.sync(to, SyncInput::Response { peer, id, response: response.as_ref().clone() });
                }
            }
        }
    }

    fn overheard(&mut self, node: usize, message: &Message) {
        let Some(running) = &self.nodes[node].running else { return };
        let epoch = running.core.position().0;
        let place = running.core.committee().index_of(&self.ids[node]);
        let mut out = Vec::new();
        let adversary = self.nodes[node].adversary.as_mut().expect("the node is Byzantine");
        adversary.incoming(place, epoch, message, &mut out);
        for (to, message) in out {
            self.transmit(node, to, Payload::Consensus(message));
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
                    if let Some(to) = self.ids.iter().position(|i| *i == peer) {
                        self.transmit(node, to, Payload::Request { life, id, request });
                    }
                }
                SyncEffect::Deliver { from, blocks, finality } => {
                    let input = Box::new(Input::FinalRange { from, blocks, finality });
                    self.push(self.now, Event::Input { node, life, input });
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
                self.push(at, Event::SyncWake { node, at });
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
            self.push(at, Event::Wake { node, at });
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
                self.push(ready_at, Event::Flush { node: i, life });
            }
            Effect::Broadcast(message) => self.emit(i, None, message),
            Effect::Send(peer, message) => {
                if let Some(to) = self.ids.iter().position(|id| *id == peer) {
                    self.emit(i, Some(to), message);
                }
            }
            Effect::Build(request) => {
                let Some(running) = &self.nodes[i].running else { return };
                let content = running.app.build(&request);
                if let Some(adversary) = &mut self.nodes[i].adversary {
                    adversary.learn_context(&request.parent);
                }
                let input = Box::new(Input::Built { view: request.view, parent: request.parent.hash, content });
                self.push(self.now + 1, Event::Input { node: i, life, input });
            }
            Effect::Validate(block, request) => {
                let verdict = App::validate(&block, &request);
                let input = Box::new(Input::Validated { hash: block.hash(), verdict });
                let delay = 1 + self.rng.below(4);
                self.push(self.now + delay, Event::Input { node: i, life, input });
            }
            Effect::Finalized(finalized) => {
                self.checker.finalized(i, &finalized, self.now);
                self.store(i, &finalized);
                self.start_execution(i);
            }
            Effect::EnteredView(epoch, view) => self.may_lead(i, epoch, view),
            Effect::PeerStatus(peer, status) => self.sync(i, SyncInput::Status(peer, status)),
            Effect::Behind(peer) => self.sync(i, SyncInput::Behind(peer)),
            Effect::Evidence(_) | Effect::Misbehaved(..) | Effect::Skipped(..) | Effect::Fatal(_) => {}
        }
    }

    /// A Byzantine node that leads the view it entered need not wait for its core.
    fn may_lead(&mut self, i: usize, epoch: Epoch, view: View) {
        let node = &mut self.nodes[i];
        let (Some(adversary), Some(running)) = (&mut node.adversary, &mut node.running) else { return };
        let Some(place) = running.core.committee().index_of(&self.ids[i]) else { return };
        let mut out = Vec::new();
        if running.core.position() == (epoch, view) && running.core.health().leader == self.ids[i] {
            adversary.leads(epoch, view, place, &mut out);
        }
        for hash in adversary.invalid.drain(..) {
            self.checker.invalid_block(hash);
        }
        for (to, message) in out {
            self.transmit(i, to, Payload::Consensus(message));
        }
    }

    fn store(&mut self, i: usize, finalized: &cascade_consensus::Finalized) {
        let node = &mut self.nodes[i];
        let Some(running) = &mut node.running else { return };
        running.app.finalized(&finalized.block);
        node.disk.append(Stored {
            block: Arc::clone(&finalized.block),
            context: Arc::clone(&finalized.context),
            finality: Some(finalized.finality.clone()),
        });
        if let Some(adversary) = &mut node.adversary {
            adversary.learn_context(&finalized.context);
        }
        let head = running.core.head().height;
        if self.plan.syncs_blocks && self.disk_rng.permille(250) {
            let results = self.disk_rng.permille(600);
            node.disk.sync_blocks(results);
            if self.disk_rng.permille(400) && node.disk.is_quiet() && head == finalized.context.height {
                node.disk.replace_log(running.core.live_records());
            }
        }
        self.refresh_work(i);
    }

    /// Sends a message once everything that was persisted before it is synced.
    fn emit(&mut self, i: usize, to: Option<usize>, message: Message) {
        let now = self.now;
        let Some(running) = &mut self.nodes[i].running else { return };
        if running.disk_free_at <= now && running.outbox.is_empty() {
            self.send(i, to, message);
            return;
        }
        let ready_at = running.disk_free_at.max(now);
        match running.outbox.back_mut() {
            Some(batch) if batch.ready_at == ready_at => batch.messages.push((to, message)),
            _ => running.outbox.push_back(Batch { ready_at, messages: vec![(to, message)] }),
        }
    }

    fn flush(&mut self, i: usize) {
        let now = self.now;
        self.nodes[i].disk.sync_log(now);
        while let Some(running) = &mut self.nodes[i].running
            && running.outbox.front().is_some_and(|batch| batch.ready_at <= now)
        {
            let batch = running.outbox.pop_front().expect("there is one");
            for (to, message) in batch.messages {
                self.send(i, to, message);
            }
        }
    }

    fn send(&mut self, i: usize, to: Option<usize>, message: Message) {
        self.checker.sent(i, &message, self.nodes[i].disk.log());
        if let Some(adversary) = &mut self.nodes[i].adversary {
            let mut out = Vec::new();
            adversary.outgoing(to, message, &mut out);
            for hash in adversary.invalid.drain(..) {
                self.checker.invalid_block(hash);
            }
            for (to, message) in out {
                self.transmit(i, to, Payload::Consensus(message));
            }
            return;
        }
        match to {
            Some(to) => self.transmit(i, to, Payload::Consensus(message)),
            None => {
                for to in (0..self.nodes.len()).filter(|&to| to != i) {
                    self.transmit(i, to, Payload::Consensus(message.clone()));
                }
            }
        }
    }

    fn transmit(&mut self, from: usize, to: usize, payload: Payload) {
        if let Payload::Consensus(message) = &payload
            && self.plan.losses.iter().any(|l| l.during.contains(&self.now) && (l.what)(from, to, message))
        {
            self.counts.add(Fault::KindLoss);
            return;
        }
        let [first, second] = self.network.route(self.now, from, to, &mut self.counts);
        if let Some(at) = second {
            self.push(at, Event::Deliver { from, to, payload: payload.clone() });
        }
        if let Some(at) = first {
            self.push(at, Event::Deliver { from, to, payload });
        }
    }

    fn start_execution(&mut self, i: usize) {
        let life = self.nodes[i].life;
        let slow = self.nodes[i].execution_delay;
        let Some(running) = &mut self.nodes[i].running else { return };
        running.app.delay = slow;
        if let Some(delay) = running.app.start() {
            if delay > 100 {
                self.counts.add(Fault::SlowExecution);
            }
            self.push(self.now + delay, Event::Executed { node: i, life });
        }
    }

    fn executed(&mut self, i: usize) {
        let Some(running) = &mut self.nodes[i].running else { return };
        let result = running.app.finish();
        self.nodes[i].disk.append_result(result);
        if let Some(adversary) = &mut self.nodes[i].adversary {
            adversary.learn_result(result);
        }
        self.checker.executed(i, &result);
        self.step(i, None, Input::Executed(result));
        self.start_execution(i);
    }

    fn submit(&mut self) {
        if self.clients {
            self.submitted += 1;
            let transaction = app::transaction(self.submitted);
            let first = self.rng.below(self.nodes.len() as u64) as usize;
            if self.nodes[first].is_up() {
                self.add_transaction(first, &transaction);
                for to in (0..self.nodes.len()).filter(|&to| to != first) {
                    self.transmit(first, to, Payload::Transaction(transaction.clone()));
                }
            }
        }
        let pause = 1 + self.rng.below(2 * self.plan.transaction_every);
        self.push(self.now + pause, Event::Submit);
    }

    fn add_transaction(&mut self, i: usize, transaction: &Bytes) {
        let Some(running) = &mut self.nodes[i].running else { return };
        if running.app.add(transaction) {
            self.refresh_work(i);
        }
    }

    fn refresh_work(&mut self, i: usize) {
        let life = self.nodes[i].life;
        let Some(running) = &mut self.nodes[i].running else { return };
        let has_work = running.app.has_work();
        if has_work != running.has_work {
            running.has_work = has_work;
            self.push(self.now, Event::Input { node: i, life, input: Box::new(Input::Work(has_work)) });
        }
    }

    fn offer_again(&mut self, i: usize) {
        let Some(running) = &self.nodes[i].running else { return };
        for transaction in running.app.waiting() {
            for to in (0..self.nodes.len()).filter(|&to| to != i) {
                self.transmit(i, to, Payload::Transaction(transaction.clone()));
            }
        }
        let life = self.nodes[i].life;
        self.push(self.now + OFFER_AGAIN, Event::OfferAgain { node: i, life });
    }
}
