//! When to let a group of trades run that has been left out: a dynamic programme over what is left of the attacker's lead.
//!
//! A group is what was left out together, so that all of it named its limits at one price. In each block in which it may leave
//! out trades the attacker does one of these:
//!
//! - it leaves out the new trades as well, as long as nothing has run since the group's limits: they join it;
//! - it lets the new trades run and goes on leaving out the group: the price wanders, and more is known about who of the group
//!   fails;
//! - it lets the group run, alone. (New trades are taken to come in after it, at the price that it leaves, and begin a group.)
//!
//! Whatever runs, it [bets](Bets) on it. In the block behind those all that waits runs, by when a group has run if anything has
//! since its limits. What is gained in all is what counts, not what is gained for each trade: where nearly all users wait fewer
//! trades come in, but to count that too changed the figures by less than a hundredth.

use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;

use super::{Attack, Bets, Settings, bet};
use crate::market::{round::USERS, users::ARRIVING};

/// Blocks left to lead beyond which more make no difference to what it does.
const LONGEST: usize = 60;
/// Blocks that are run to see how far the price goes in one.
const SAMPLES: usize = 20_000;
/// New trades of a block, at most.
const MOST: usize = 3;

/// What is best, whatever comes.
pub struct Timing {
    /// By the number of blocks left in which trades may be left out.
    leads: Vec<Lead>,
}

/// What is best in a block, by the size of the group that waits.
struct Lead {
    /// What is to come as long as nothing has run since the group's limits, as a share of the pool.
    still: Vec<f64>,
    /// The same by how far the price has gone since, in cells.
    moved: Vec<Vec<f64>>,
    /// Whether the group is let run at once, nothing having run since its limits.
    runs_still: Vec<bool>,
    /// The same by how far the price has gone.
    runs_moved: Vec<Vec<bool>>,
    /// Whether so many new trades join the group, nothing having run since its limits.
    joins: Vec<[bool; MOST + 1]>,
}

/// What comes of blocks of new trades alone.
struct New<'a> {
    bets: &'a Bets,
    /// By their number, by how many cells the price goes: how likely each is.
    steps: Vec<Vec<(isize, f64)>>,
}

impl<'a> New<'a> {
    fn sample(settings: &Settings, bets: &'a Bets) -> Self {
        let steps = |trades: usize| {
            let (mut rng, pool) = (ChaCha20Rng::seed_from_u64(trades as u64), settings.pool());
            let mut likely = std::collections::BTreeMap::new();
            for _ in 0..SAMPLES {
                let named: Vec<_> = (0..trades).map(|_| settings.wish(&mut rng, &pool)).collect();
                let after = settings.sealed(Attack::Counting(bets), pool, pool, &named, &mut rng).pool;
                let cells = (after.drift(&pool) / bet::CELL).round() as isize;
                *likely.entry(cells).or_insert(0.0) += 1.0 / SAMPLES as f64;
            }
            likely.into_iter().collect()
        };
        Self { bets, steps: (0..=MOST).map(steps).collect() }
    }

    /// The mean over how many come if no more than so many can.
    fn expect(room: usize, of: impl Fn(usize) -> f64) -> f64 {
        ARRIVING.iter().map(|&count| of(count.min(room))).sum::<f64>() / ARRIVING.len() as f64
    }

    /// What it gains to let them run while a group waits, and what is to come then.
    fn run(&self, next: &Lead, group: usize, drift: usize, new: usize) -> f64 {
        let to = |step: isize| drift.saturating_add_signed(step).min(bet::DRIFTS - 1);
        let later = || self.steps[new].iter().map(|&(step, likely)| likely * next.moved[group][to(step)]).sum();
        self.bets.value(new, 0.0) + if group == 0 { next.still[0] } else { later() }
    }
}

impl Lead {
    /// Another one leads: all that waits runs.
    fn of_another(bets: &Bets) -> Self {
        let runs = |group| New::expect(USERS - group, |new| bets.value(group + new, 0.0));
        Self {
            still: (0..=USERS).map(runs).collect(),
            moved: vec![vec![f64::NEG_INFINITY; bet::DRIFTS]; USERS + 1],
            runs_still: Vec::new(),
            runs_moved: Vec::new(),
            joins: Vec::new(),
        }
    }

    /// The best ahead of what is best in the next block.
    fn before(next: &Self, new: &New<'_>) -> Self {
        let begun = New::expect(USERS, |count| next.still[count]);
        let released = |group: usize, drift: usize| {
            if group == 0 { f64::NEG_INFINITY } else { new.bets.value(group, bet::drift_of(drift)) + begun }
        };
        let mut lead = Self { still: vec![], moved: vec![], runs_still: vec![], runs_moved: vec![], joins: vec![] };
        for group in 0..=USERS {
            let room = USERS - group;
            let run = |count| new.run(next, group, bet::FAR, count);
            let joined = |count: usize| next.still[group + count];
            let stays = New::expect(room, |count| joined(count).max(run(count)));
            let runs = released(group, bet::FAR);
            lead.still.push(stays.max(runs));
            lead.runs_still.push(runs > stays);
            lead.joins.push(std::array::from_fn(|count| count <= room && joined(count) >= run(count)));
            let at = |drift| {
                let stays = New::expect(room, |count| new.run(next, group, drift, count));
                (stays.max(released(group, drift)), released(group, drift) >= stays)
            };
            let (moved, runs) = (0..bet::DRIFTS).map(at).unzip();
            lead.moved.push(moved);
            lead.runs_moved.push(runs);
        }
        lead
    }
}

impl Timing {
    /// The timing that gains most for somebody who bets on what runs.
    pub fn find(settings: &Settings, bets: &Bets) -> Self {
        let new = New::sample(settings, bets);
        let mut leads = vec![Lead::of_another(bets)];
        for _ in 0..LONGEST {
            leads.push(Lead::before(leads.last().expect("the first"), &new));
        }
        Self { leads }
    }

    /// What is gained in so many blocks in which trades may be left out and the one behind them, as a share of the pool.
    pub fn value(&self, keeps: usize) -> f64 {
        self.leads[keeps].still[0]
    }

    /// Whether a group is let run at the beginning of a block, with so many left in which trades may be left out, this one
    /// included. `drift` is how far the price has gone since its limits, if anything has run.
    pub fn releases(&self, keeps: usize, group: usize, drift: Option<f64>) -> bool {
        let lead = &self.leads[keeps.min(LONGEST)];
        match drift {
            _ if group == 0 => false,
            None => lead.runs_still[group],
            Some(drift) => lead.runs_moved[group][bet::cell(drift / bet::CELL, bet::FAR)],
        }
    }

    /// Whether new trades join a group, nothing having run since its limits.
    pub fn joins(&self, keeps: usize, group: usize, new: usize) -> bool {
        self.leads[keeps.min(LONGEST)].joins[group][new]
    }
}
