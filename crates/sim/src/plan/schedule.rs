//! When what fails.

use cascade_primitives::VoteKind;

use super::*;

impl Plan {
    /// Decides all that happens before the calm.
    pub(super) fn schedule(&mut self, faults: Faults, rng: &mut Rng) {
        // In every fourth run hardly anything works for long.
        let wild = rng.permille(250);
        self.weather(faults, if wild { 900 } else { 400 }, rng);
        if faults.has(Fault::KindLoss) && rng.permille(400) {
            self.kind_losses(rng);
        }
        if faults.has(Fault::SplitView) && rng.permille(250) {
            self.split_views(rng);
        }
        if faults.has(Fault::Partition) {
            let twins = !self.twins.is_empty() && rng.permille(600);
            if twins { self.rounds(rng) } else { self.partitions(rng) }
        }
        if faults.has(Fault::OneWay) && rng.permille(400) {
            self.one_way(rng);
        }
        if faults.has(Fault::SlowLink) && rng.permille(400) {
            self.slow_links(rng);
        }
        if faults.has(Fault::Pause) && rng.permille(500) {
            for _ in 0..rng.between(1, 4) {
                let (node, at) = (self.any(rng), rng.below(self.calm_at));
                let ms = *rng.pick(&[100, 700, 3000, 12_000]);
                self.actions.push((at, Action::Pause(node, rng.between(50, ms).min(self.calm_at - at))));
            }
        }
        if faults.has(Fault::Crash) {
            let most = if wild { 25 } else { 6 };
            self.crashes(rng.between(1, most), faults.has(Fault::TornWrite), rng);
        }
        self.losses_of_data(faults, rng);
        self.slowness(faults, rng);
        if faults.has(Fault::Idle) && rng.permille(400) {
            let at = rng.below(self.calm_at);
            self.actions.push((at, Action::Clients(false)));
            self.actions.push((self.soon(at, 5_000, 25_000, rng), Action::Clients(true)));
        }
        self.actions.push((self.calm_at, Action::Calm));
        self.actions.sort_by_key(|(at, _)| *at);
    }

    /// Nodes die between two steps of a change of keys or of a reveal.
    pub(super) fn schedule_encrypted(&mut self, faults: Faults, rng: &mut Rng) {
        if !faults.has(Fault::Crash) {
            return;
        }
        for _ in 0..rng.below(8) {
            let (node, at) = (self.any(rng), rng.below(self.calm_at));
            self.actions.push((at, Action::CrashAfter(node, rng.between(1, 12) as u32)));
        }
        self.actions.sort_by_key(|(at, _)| *at);
    }

    fn any(&self, rng: &mut Rng) -> usize {
        rng.below(self.instances() as u64) as usize
    }

    /// A time so long after `at`, but not after the faults stop.
    fn soon(&self, at: u64, least: u64, most: u64, rng: &mut Rng) -> u64 {
        (at + rng.between(least, most)).min(self.calm_at)
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
            let one = rng.permille(400).then(|| self.any(rng));
            let certificates = rng.permille(600);
            let start = rng.below(self.calm_at);
            let end = self.soon(start, 500, 20_000, rng);
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

    /// For a while one node alone sees prepares. It goes on and commits; the others skip the same views.
    fn split_views(&mut self, rng: &mut Rng) {
        for _ in 0..rng.between(1, 3) {
            let (one, start) = (self.any(rng), rng.below(self.calm_at));
            let end = self.soon(start, 1000, 8000, rng);
            let what = move |_: usize, to: usize, message: &Message| {
                let prepares = match message {
                    Message::Vote(vote, _) => vote.target.kind == VoteKind::Prepare,
                    Message::Certificate(c) => c.target.kind == VoteKind::Prepare,
                    _ => false,
                };
                prepares && to != one
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
                let alone = self.any(rng);
                (0..self.instances()).map(|i| u8::from(i == alone)).collect()
            } else {
                (0..self.instances()).map(|_| rng.below(groups) as u8).collect()
            };
            self.actions.push((at, Action::Partition(group)));
            at += rng.between(300, 12_000);
            self.actions.push((at.min(self.calm_at), Action::Heal));
            at += rng.between(3000, 25_000);
        }
    }

    /// Another partition for every view or so, as in the paper on Twins (Bano et al. 2020): so the two nodes of a key
    /// talk to different quorums.
    fn rounds(&mut self, rng: &mut Rng) {
        for _ in 0..rng.between(1, 3) {
            let mut at = rng.below(self.calm_at);
            let end = self.soon(at, 3000, 20_000, rng);
            let pace = *rng.pick(&[300, 700, 2000]);
            while at < end {
                let groups = rng.between(1, 3);
                let group = (0..self.instances()).map(|_| rng.below(groups) as u8).collect();
                self.actions.push((at, Action::Partition(group)));
                at += rng.between(pace / 2, pace);
            }
            self.actions.push((end, Action::Heal));
        }
    }

    fn one_way(&mut self, rng: &mut Rng) {
        for _ in 0..rng.between(1, 4) {
            let (one, at) = (self.any(rng), rng.below(self.calm_at));
            let others = (0..self.instances()).filter(|&other| other != one);
            let cuts = match rng.below(4) {
                // It hears all and nobody hears it; or the other way round.
                0 => others.map(|other| (one, other)).collect(),
                1 => others.map(|other| (other, one)).collect(),
                2 => vec![(one, (one + 1) % self.instances())],
                _ => self.some_links(300, rng),
            };
            self.actions.push((at, Action::OneWay(cuts)));
            self.actions.push((self.soon(at, 300, 10_000, rng), Action::OneWay(Vec::new())));
        }
    }

    fn slow_links(&mut self, rng: &mut Rng) {
        for _ in 0..rng.between(1, 3) {
            let (one, at) = (self.any(rng), rng.below(self.calm_at));
            let most = *rng.pick(&[100, 500, 3000]);
            let links = if rng.permille(500) {
                let to_and_from = (0..self.instances()).filter(|&other| other != one);
                to_and_from.flat_map(|other| [(one, other), (other, one)]).collect()
            } else {
                self.some_links(250, rng)
            };
            let slow = links.into_iter().map(|(from, to)| (from, to, rng.between(50, most))).collect();
            self.actions.push((at, Action::SlowLinks(slow)));
            self.actions.push((self.soon(at, 2000, 20_000, rng), Action::SlowLinks(Vec::new())));
        }
    }

    /// So many of a thousand links.
    fn some_links(&self, chance: u64, rng: &mut Rng) -> Vec<(usize, usize)> {
        let nodes = self.instances();
        let links = (0..nodes * nodes).map(|link| (link / nodes, link % nodes));
        links.filter(|(from, to)| from != to && rng.permille(chance)).collect()
    }

    fn crashes(&mut self, times: u64, torn: bool, rng: &mut Rng) {
        let end = self.calm_at;
        for _ in 0..times {
            let at = rng.below(end);
            match rng.below(10) {
                0 => {
                    self.actions.push((at, Action::CrashAll));
                    for node in 0..self.instances() {
                        self.actions.push((self.soon(at, 50, 4000, rng), Action::Restart(node)));
                    }
                }
                1..4 => {
                    self.actions.push((at, Action::CrashLeader));
                    // Whoever it was is up again with this.
                    let up = self.soon(at, 20, 8000, rng);
                    self.actions.extend((0..self.instances()).map(|node| (up, Action::Restart(node))));
                }
                kind => {
                    let node = self.any(rng);
                    let crash = if torn && kind < 7 { Action::CrashWriting(node) } else { Action::Crash(node) };
                    self.actions.push((at, crash));
                    let away = *rng.pick(&[20, 500, 3000, 15_000]);
                    self.actions.push((self.soon(at, 20, away, rng), Action::Restart(node)));
                }
            }
        }
    }

    /// One node loses what it has, or finds it damaged. It counts as one of those that may be faulty.
    fn losses_of_data(&mut self, faults: Faults, rng: &mut Rng) {
        // Of an encrypted chain it loses its shares, so that it is silent like one that never starts.
        let silent = !self.absent.is_empty() && self.is_encrypted();
        if !self.byzantine.is_empty() || silent {
            return;
        }
        let (node, at) = (rng.below(self.nodes as u64) as usize, rng.between(self.calm_at / 4, self.calm_at));
        let back = self.soon(at, 200, 6000, rng);
        if faults.has(Fault::BitFlip) && (rng.permille(600) || !faults.has(Fault::Wipe)) {
            self.actions.extend([(at, Action::Crash(node)), (at, Action::Flip(node))]);
        } else if faults.has(Fault::Wipe) {
            self.actions.push((at, Action::Wipe(node)));
        } else {
            return;
        }
        self.actions.push((back, Action::Restart(node)));
    }

    fn slowness(&mut self, faults: Faults, rng: &mut Rng) {
        for (fault, make) in [
            (Fault::SlowExecution, Action::Execution as fn(usize, u64) -> Action),
            (Fault::SlowDisk, Action::Disk as fn(usize, u64) -> Action),
        ] {
            if !faults.has(fault) {
                continue;
            }
            for _ in 0..rng.below(4) {
                let (node, at) = (self.any(rng), rng.below(self.calm_at));
                let ms = if fault == Fault::SlowExecution { rng.between(200, 8000) } else { rng.between(5, 400) };
                self.actions.push((at, make(node, ms)));
                self.actions.push((self.soon(at, 1000, 10_000, rng), make(node, 5)));
            }
        }
    }
}
