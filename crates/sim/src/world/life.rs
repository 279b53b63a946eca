//! Starting, stopping, and everything else that happens by plan.

use cascade_primitives::Committee;

use super::*;
use crate::{disk::Taken, network::Reunion};

impl<B: Bugs> World<'_, B> {
    pub(super) fn boot(&mut self, i: usize) {
        if self.nodes[i].is_up() || self.plan.absent.contains(&self.plan.key(i)) {
            return;
        }
        if let Err(damaged) = self.nodes[i].disk.open() {
            // It refuses to start. Whoever runs it takes the data away and lets it catch up from peers.
            self.trace.note(self.now, || format!("node {i} does not start: {damaged} is damaged"));
            self.nodes[i].disk.wipe();
        }
        let now = self.local(i);
        let node = &self.nodes[i];
        let life = node.life;
        let config = Config {
            rules: Arc::clone(&self.rules),
            scheme: Arc::clone(&self.keys.scheme),
            signer: Some(Arc::clone(&self.keys.signers[self.plan.key(i)])),
            node: self.ids[i],
        };
        let head: &SealedBlock = &node.disk.head().block;
        self.checker.restarted(i, head);
        let mut core = Core::with_bugs(config.clone(), now, node.disk.start(), self.bugs.clone());
        let carrier = self.new_carrier(config, core.standing());
        let disk = &node.disk;
        let scheme = Arc::clone(&self.keys.scheme);
        let sync = Sync::new(Arc::clone(&self.rules), scheme, Arc::clone(core.head()), SYNC_TIMEOUT, now);
        let (done, above) = match self.beside {
            Some(_) => Default::default(),
            None => (done_transactions(disk), Some(unexecuted(disk))),
        };
        let app = App::new(disk.last_result(), done, above, node.execution_delay, self.plan.carriage.filling);
        self.nodes[i].running = Some(Running {
            core,
            sync,
            app,
            carrier,
            party: None,
            outbox: VecDeque::new(),
            disk_free_at: self.now,
            wake_at: 0,
            sync_wake_at: 0,
            carrier_wake_at: 0,
            has_work: false,
        });
        self.boot_party(i);
        self.step(i, None, Input::Tick);
        for peer in 0..self.nodes.len() {
            if peer != i && self.nodes[peer].is_up() && self.network.connected(i, peer) {
                self.meet(i, peer);
                self.meet(peer, i);
            }
        }
        self.start_execution(i);
        let first_offer = self.now + self.rng.below(OFFER_AGAIN);
        self.queue.push(first_offer, Event::OfferAgain { node: i, life });
    }

    fn meet(&mut self, node: usize, peer: usize) {
        let input = Box::new(Input::Connected(self.ids[peer]));
        let life = self.nodes[node].life;
        self.queue.push(self.now + 1, Event::Input { node, life, input });
    }

    /// Whether a node's data may be lost. Who loses its shares is silent for the rest of the epoch and counts as one of
    /// those that may be faulty; so does a member that was away while the epoch's keys were made, and here one is all that
    /// may. Of the next epoch that is so of whoever may have said that it holds them; any others may be without: its keys
    /// are made anew if too few are ready.
    fn may_lose_data(&self, i: usize) -> bool {
        let epoch = self.checker.epoch();
        let Some(current) = self.checker.committee(epoch).filter(|_| self.beside.is_some()) else { return true };
        let next = self.checker.next_committee();
        let holds =
            |node: usize, of: &Committee| self.nodes[node].disk.vault.has_shares(of.epoch(), &of.members_root());
        let matter = |of: &Committee| if of.epoch() == epoch { epoch > Epoch(0) } else { holds(i, of) };
        [current, next].into_iter().filter(|of| matter(of)).all(|of| {
            let mut others = (0..self.nodes.len()).filter(|&node| node != i && of.index_of(&self.ids[node]).is_some());
            others.all(|node| holds(node, of))
        })
    }

    pub(super) fn crash(&mut self, i: usize, wipe: bool) {
        if !self.nodes[i].is_up() {
            return;
        }
        let wipe = wipe && self.may_lose_data(i);
        self.counts.add(if wipe { Fault::Wipe } else { Fault::Crash });
        self.trace.note(self.now, || format!("node {i} dies"));
        let what = Taken {
            unsynced: self.config.faults.has(Fault::UnsyncedLoss),
            torn: self.config.faults.has(Fault::TornWrite),
            all: !self.plan.syncs_blocks,
        };
        let (now, node) = (self.now, &mut self.nodes[i]);
        node.running = None;
        node.life += 1;
        node.paused_until = 0;
        node.dies_writing = false;
        let lost = node.disk.crash(now, what, &mut self.disk_rng);
        for (fault, happened) in [(Fault::UnsyncedLoss, lost.unsynced), (Fault::TornWrite, lost.torn)] {
            if happened {
                self.counts.add(fault);
            }
        }
        if wipe {
            node.disk.wipe();
        }
    }

    fn pause(&mut self, i: usize, ms: u64) {
        if self.nodes[i].is_up() {
            self.counts.add(Fault::Pause);
            self.nodes[i].paused_until = self.now + ms;
        }
    }

    fn flip(&mut self, i: usize) {
        if !self.nodes[i].is_up() && self.may_lose_data(i) && self.nodes[i].disk.flip(&mut self.disk_rng) {
            self.counts.add(Fault::BitFlip);
        }
    }

    pub(super) fn act(&mut self, action: Action) {
        self.trace.note(self.now, || format!("{action:?}"));
        match action {
            Action::Weather(weather) => self.network.set_weather(weather),
            Action::Partition(groups) => self.regroup(groups),
            Action::Heal => self.regroup(vec![0; self.nodes.len()]),
            Action::OneWay(cuts) => self.cut(&cuts),
            Action::SlowLinks(links) => self.network.set_slow(&links),
            Action::Pause(node, ms) => self.pause(node, ms),
            Action::Flip(node) => self.flip(node),
            Action::CrashWriting(node) => self.nodes[node].dies_writing = true,
            Action::Crash(node) => self.crash(node, false),
            Action::CrashAll => (0..self.nodes.len()).for_each(|node| self.crash(node, false)),
            Action::CrashLeader => {
                let leader = self.nodes.iter_mut().find_map(|n| n.running.as_mut()).map(|r| r.core.health().leader);
                if let Some(node) = leader.and_then(|leader| self.ids.iter().position(|id| *id == leader)) {
                    self.crash(node, false);
                }
            }
            Action::CrashAfter(node, steps) => self.light(node, steps),
            Action::Wipe(node) => self.crash(node, true),
            Action::Restart(node) => self.boot(node),
            Action::Clients(on) => {
                if !on {
                    self.counts.add(Fault::Idle);
                }
                self.clients = on;
            }
            Action::Execution(node, ms) => self.nodes[node].execution_delay = ms,
            Action::Disk(node, ms) => {
                if ms > 5 {
                    self.counts.add(Fault::SlowDisk);
                }
                self.nodes[node].sync_delay = ms;
            }
            Action::Calm => self.calm_down(),
        }
    }

    fn regroup(&mut self, groups: Vec<u8>) {
        let reunited = self.network.set_groups(groups);
        self.reunite(reunited);
    }

    fn cut(&mut self, cuts: &[(usize, usize)]) {
        let reunited = self.network.set_cuts(cuts);
        self.reunite(reunited);
    }

    fn reunite(&mut self, pairs: Vec<Reunion>) {
        for (a, b) in pairs {
            if self.nodes[a].is_up() && self.nodes[b].is_up() {
                self.meet(a, b);
            }
        }
    }

    fn calm_down(&mut self) {
        self.network.set_weather(Weather::default());
        self.network.set_slow(&[]);
        self.regroup(vec![0; self.nodes.len()]);
        self.cut(&[]);
        self.clients = true;
        for node in 0..self.nodes.len() {
            self.nodes[node].execution_delay = self.plan.timing.execution;
            self.nodes[node].sync_delay = self.plan.timing.sync;
            self.nodes[node].dies_writing = false;
            if let Some(party) = self.nodes[node].running.as_mut().and_then(|running| running.party.as_mut()) {
                party.put_out();
            }
            self.boot(node);
        }
        self.calm = true;
        self.goal = Some(self.checker.height().plus(2));
        if self.config.faults.has(Fault::Clock) {
            self.counts.add(Fault::Clock);
        }
    }

    pub(super) fn store(&mut self, i: usize, finalized: &cascade_consensus::Finalized) {
        let node = &mut self.nodes[i];
        let Some(running) = &mut node.running else { return };
        if running.party.is_none() {
            running.app.finalized(&finalized.block);
        }
        let stored = Stored {
            block: Arc::clone(&finalized.block),
            context: Arc::clone(&finalized.context),
            finality: Some(finalized.finality.clone()),
        };
        node.disk.append(stored.clone());
        if let Some(adversary) = &mut node.adversary {
            adversary.learn_context(&finalized.context);
        }
        let head = running.core.head().height;
        self.party_on_final(i, &stored);
        if self.plan.syncs_blocks && self.disk_rng.permille(250) {
            let results = self.disk_rng.permille(600);
            let node = &mut self.nodes[i];
            node.disk.sync_blocks(results);
            let Some(running) = &mut node.running else { return };
            if self.disk_rng.permille(400) && node.disk.is_quiet() && head == finalized.context.height {
                node.disk.replace_log(running.core.live_records());
            }
        }
        self.refresh_work(i);
    }

    pub(super) fn start_execution(&mut self, i: usize) {
        let life = self.nodes[i].life;
        let slow = self.nodes[i].execution_delay;
        let Some(running) = &mut self.nodes[i].running else { return };
        running.app.delay = slow;
        if let Some(delay) = running.app.start() {
            if delay > 100 {
                self.counts.add(Fault::SlowExecution);
            }
            self.queue.push(self.now + delay, Event::Executed { node: i, life });
        }
    }

    pub(super) fn executed(&mut self, i: usize) {
        let Some((block, opened)) = self.nodes[i].running.as_ref().and_then(|running| running.app.next()) else {
            return;
        };
        let root = self.root_after(&block, opened.as_deref());
        let Some(running) = &mut self.nodes[i].running else { return };
        let (result, opened) = running.app.finish(root);
        self.nodes[i].disk.append_result(result);
        if let Some(opened) = opened {
            self.nodes[i].disk.vault.put_reveal(Arc::clone(&opened.reveal));
        }
        if let Some(adversary) = &mut self.nodes[i].adversary {
            adversary.learn_result(result);
        }
        self.checker.executed(i, &result);
        self.step(i, None, Input::Executed(result));
        self.start_execution(i);
    }
}
