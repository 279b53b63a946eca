//! The virtual network: decides when, how often and whether a message arrives.

use crate::{
    faults::{Fault, FaultCounts},
    plan::Weather,
    rng::Rng,
    uplink::Departure,
};

#[derive(Debug)]
pub(crate) struct Network {
    nodes: usize,
    /// One-way delay of every link in good weather, in ms.
    delay: u64,
    weather: Weather,
    groups: Vec<u8>,
    /// Links, by sender and receiver, over which nothing arrives though both are in one group.
    cut: Vec<bool>,
    /// Ms that a link takes longer than the others.
    slow: Vec<u64>,
    /// When the last message of each link arrives: links keep the order of what is sent over them.
    last: Vec<u64>,
    rng: Rng,
}

/// When a message arrives: not at all, once or twice.
pub(crate) type Arrivals = [Option<u64>; 2];

/// Two nodes that can reach each other again.
pub(crate) type Reunion = (usize, usize);

impl Network {
    pub(crate) fn new(nodes: usize, delay: u64, rng: Rng) -> Self {
        let links = nodes * nodes;
        Self {
            nodes,
            delay,
            weather: Weather::default(),
            groups: vec![0; nodes],
            cut: vec![false; links],
            slow: vec![0; links],
            last: vec![0; links],
            rng,
        }
    }

    pub(crate) fn set_weather(&mut self, weather: Weather) {
        self.weather = weather;
    }

    /// Puts the nodes into groups; answers who can reach each other again.
    pub(crate) fn set_groups(&mut self, groups: Vec<u8>) -> Vec<Reunion> {
        let before = self.pairs();
        self.groups = groups;
        self.reunited(&before)
    }

    /// Cuts these links, from sender to receiver, and mends all others; answers who can reach each other again.
    pub(crate) fn set_cuts(&mut self, cuts: &[(usize, usize)]) -> Vec<Reunion> {
        let before = self.pairs();
        self.cut.fill(false);
        for &(from, to) in cuts {
            self.cut[from * self.nodes + to] = true;
        }
        self.reunited(&before)
    }

    /// Makes these links slower, from sender to receiver, by so many ms, and all others as fast as they were.
    pub(crate) fn set_slow(&mut self, links: &[(usize, usize, u64)]) {
        self.slow.fill(0);
        for &(from, to, ms) in links {
            self.slow[from * self.nodes + to] = ms;
        }
    }

    /// Whether a connection between them holds: one direction is not enough for that.
    pub(crate) fn connected(&self, a: usize, b: usize) -> bool {
        let cut = self.cut[a * self.nodes + b] || self.cut[b * self.nodes + a];
        self.groups[a] == self.groups[b] && !cut
    }

    fn pairs(&self) -> Vec<bool> {
        (0..self.nodes * self.nodes).map(|link| self.connected(link / self.nodes, link % self.nodes)).collect()
    }

    fn reunited(&self, before: &[bool]) -> Vec<Reunion> {
        let links = (0..before.len()).map(|link| (link / self.nodes, link % self.nodes));
        links.filter(|&(a, b)| a != b && !before[a * self.nodes + b] && self.connected(a, b)).collect()
    }

    /// When a message arrives that is sent now and, where uplinks have a rate, has left its sender some time later.
    pub(crate) fn route(
        &mut self,
        now: u64,
        from: usize,
        to: usize,
        departure: Option<Departure>,
        counts: &mut FaultCounts,
    ) -> Arrivals {
        if self.groups[from] != self.groups[to] {
            counts.add(Fault::Partition);
            return [None, None];
        }
        if self.cut[from * self.nodes + to] {
            counts.add(Fault::OneWay);
            return [None, None];
        }
        let departure = departure.unwrap_or(Departure { at: now, bulk: false });
        let weather = self.weather;
        if weather.loss > 0 && self.rng.permille(weather.loss) {
            counts.add(Fault::Loss);
            return [None, None];
        }
        let first = self.arrival(departure, from, to, counts);
        let second = if weather.duplication > 0 && self.rng.permille(weather.duplication) {
            counts.add(Fault::Duplication);
            Some(self.arrival(departure, from, to, counts) + self.rng.below(300))
        } else {
            None
        };
        [Some(first), second]
    }

    fn arrival(&mut self, departure: Departure, from: usize, to: usize, counts: &mut FaultCounts) -> u64 {
        let (weather, link) = (self.weather, from * self.nodes + to);
        if weather.delay > 0 {
            counts.add(Fault::Delay);
        }
        if self.slow[link] > 0 {
            counts.add(Fault::SlowLink);
        }
        let jitter = if weather.jitter > 0 {
            counts.add(Fault::Jitter);
            self.rng.below(weather.jitter)
        } else {
            0
        };
        let at = departure.at + self.delay + self.slow[link] + weather.delay + jitter;
        if weather.reordering > 0 && self.rng.permille(weather.reordering) {
            counts.add(Fault::Reordering);
            return at + self.rng.below(500);
        }
        if departure.bulk {
            // Its turn on the uplink is its order.
            return at;
        }
        self.last[link] = self.last[link].max(at);
        self.last[link]
    }
}
