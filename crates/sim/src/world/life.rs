//! Starting, stopping, and everything else that happens by plan.

use super::*;

impl<B: Bugs> World<'_, B> {
    pub(super) fn boot(&mut self, i: usize) {
        let node = &self.nodes[i];
        if node.is_up() {
            return;
        }
        let now = self.local(i);
        let life = node.life;
        let config = Config {
            rules: Arc::clone(&self.rules),
            scheme: Arc::clone(&self.keys.scheme),
            signer: Some(Arc::clone(&self.keys.signers[i])),
            node: self.ids[i],
        };
        let head: &SealedBlock = &node.disk.head().block;
        self.checker.restarted(i, head);
        let core = Core::with_bugs(config, now, node.disk.start(), self.bugs.clone());
        let disk = &node.disk;
        let scheme = Arc::clone(&self.keys.scheme);
        let sync = Sync::new(Arc::clone(&self.rules), scheme, Arc::clone(core.head()), SYNC_TIMEOUT, now);
        let app = App::new(disk.last_result(), done_transactions(disk), unexecuted(disk), node.execution_delay);
        self.nodes[i].running = Some(Running {
            core,
            sync,
            app,
            outbox: VecDeque::new(),
            disk_free_at: self.now,
            wake_at: 0,
            sync_wake_at: 0,
            has_work: false,
        });
        self.step(i, None, Input::Tick);
        for peer in 0..self.nodes.len() {
            if peer != i && self.nodes[peer].is_up() && self.network.connected(i, peer) {
                self.meet(i, peer);
                self.meet(peer, i);
            }
        }
        self.start_execution(i);
        let first_offer = self.now + self.rng.below(OFFER_AGAIN);
        self.push(first_offer, Event::OfferAgain { node: i, life });
    }

    fn meet(&mut self, node: usize, peer: usize) {
        let input = Box::new(Input::Connected(self.ids[peer]));
        let life = self.nodes[node].life;
        self.push(self.now + 1, Event::Input { node, life, input });
    }

    fn crash(&mut self, i: usize, wipe: bool) {
        if !self.nodes[i].is_up() {
            return;
        }
        self.counts.add(if wipe { Fault::Wipe } else { Fault::Crash });
        self.trace.note(self.now, || format!("node {i} dies"));
        let take = self.config.faults.has(Fault::UnsyncedLoss);
        let (now, node) = (self.now, &mut self.nodes[i]);
        node.running = None;
        node.life += 1;
        if node.disk.crash(now, take, !self.plan.syncs_blocks, &mut self.disk_rng) {
            self.counts.add(Fault::UnsyncedLoss);
        }
        if wipe {
            node.disk.wipe();
        }
    }

    pub(super) fn act(&mut self, action: Action) {
        self.trace.note(self.now, || format!("{action:?}"));
        match action {
            Action::Weather(weather) => self.network.set_weather(weather),
            Action::Partition(groups) => self.regroup(groups),
            Action::Heal => self.regroup(vec![0; self.nodes.len()]),
            Action::Crash(node) => self.crash(node, false),
            Action::CrashAll => (0..self.nodes.len()).for_each(|node| self.crash(node, false)),
            Action::CrashLeader => {
                let leader = self.nodes.iter_mut().find_map(|n| n.running.as_mut()).map(|r| r.core.health().leader);
                if let Some(node) = leader.and_then(|leader| self.ids.iter().position(|id| *id == leader)) {
                    self.crash(node, false);
                }
            }
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
        for (a, b) in self.network.set_groups(groups) {
            if self.nodes[a].is_up() && self.nodes[b].is_up() {
                self.meet(a, b);
            }
        }
    }

    fn calm_down(&mut self) {
        self.network.set_weather(Weather::default());
        self.regroup(vec![0; self.nodes.len()]);
        self.clients = true;
        for node in 0..self.nodes.len() {
            self.nodes[node].execution_delay = 5;
            self.nodes[node].sync_delay = 1;
            self.boot(node);
        }
        self.calm = true;
        self.goal = Some(self.checker.height().plus(2));
        if self.config.faults.has(Fault::Clock) {
            self.counts.add(Fault::Clock);
        }
    }
}
