//! The virtual network: decides when, how often and whether a message arrives.

use crate::{
    faults::{Fault, FaultCounts},
    plan::{BASE_DELAY, Weather},
    rng::Rng,
};

#[derive(Debug)]
pub(crate) struct Network {
    nodes: usize,
    weather: Weather,
    groups: Vec<u8>,
    /// When the last message of each link arrives: links keep the order of what is sent over them.
    last: Vec<u64>,
    rng: Rng,
}

/// When a message arrives: not at all, once or twice.
pub(crate) type Arrivals = [Option<u64>; 2];

impl Network {
    pub(crate) fn new(nodes: usize, rng: Rng) -> Self {
        Self { nodes, weather: Weather::default(), groups: vec![0; nodes], last: vec![0; nodes * nodes], rng }
    }

    pub(crate) fn set_weather(&mut self, weather: Weather) {
        self.weather = weather;
    }

    /// Puts the nodes into groups; answers the pairs that can reach each other again.
    pub(crate) fn set_groups(&mut self, groups: Vec<u8>) -> Vec<(usize, usize)> {
        let before = std::mem::replace(&mut self.groups, groups);
        let pairs = (0..self.nodes).flat_map(|a| (0..self.nodes).map(move |b| (a, b)));
        pairs.filter(|&(a, b)| a != b && before[a] != before[b] && self.connected(a, b)).collect()
    }

    pub(crate) fn connected(&self, a: usize, b: usize) -> bool {
        self.groups[a] == self.groups[b]
    }

    pub(crate) fn route(&mut self, now: u64, from: usize, to: usize, counts: &mut FaultCounts) -> Arrivals {
        if !self.connected(from, to) {
            counts.add(Fault::Partition);
            return [None, None];
        }
        let weather = self.weather;
        if weather.loss > 0 && self.rng.permille(weather.loss) {
            counts.add(Fault::Loss);
            return [None, None];
        }
        let first = self.arrival(now, from, to, counts);
        let second = if weather.duplication > 0 && self.rng.permille(weather.duplication) {
            counts.add(Fault::Duplication);
            Some(self.arrival(now, from, to, counts) + self.rng.below(300))
        } else {
            None
        };
        [Some(first), second]
    }

    fn arrival(&mut self, now: u64, from: usize, to: usize, counts: &mut FaultCounts) -> u64 {
        let weather = self.weather;
        if weather.delay > 0 {
            counts.add(Fault::Delay);
        }
        let jitter = if weather.jitter > 0 {
            counts.add(Fault::Jitter);
            self.rng.below(weather.jitter)
        } else {
            0
        };
        let at = now + BASE_DELAY + weather.delay + jitter;
        if weather.reordering > 0 && self.rng.permille(weather.reordering) {
            counts.add(Fault::Reordering);
            return at + self.rng.below(500);
        }
        let last = &mut self.last[from * self.nodes + to];
        *last = (*last).max(at);
        *last
    }
}
