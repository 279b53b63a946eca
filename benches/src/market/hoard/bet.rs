//! The best bet on trades that nobody can read: a dynamic programme over what is left of a block.
//!
//! What is unknown of a trade is drawn as the users draw it (a few sizes stand for all). The state is
//!
//! - `drift`: where the price would be without what the attacker holds, against the price at which the limits were named
//!   (half the logarithm of their ratio),
//! - `held`: what it holds, as a share of the tokens that the pool had at that price,
//! - the trades and the attacker's own calls that are still to come; any of them is as likely the next one, since the
//!   block is shuffled.
//!
//! Prices are marked without what the attacker holds: then its own trades cost it the exchange's fee and nothing else, and a
//! trade of a user is worth to it by how much more its holding can be given back for. A trade that fails changes nothing.
//!
//! Cells of half the width make bets on two trades worth 5% more, on eight 1%, on sixteen 0.3% (with 24 calls); to hold up to
//! 2% of the pool in place of 3% costs 0.2% with 24 trades. With 256 calls the tables take 2 GB.

use rayon::prelude::*;

use crate::market::users::{TOLERATED, tilt};

/// Width of a cell, of drift as of what is held.
const CELL: f64 = 0.00025;
/// Cells of drift to each side: up to 16% of the price.
const FAR: usize = 320;
/// Cells of what is held to each side: up to 3% of the pool.
const MUCH: usize = 120;
const DRIFTS: usize = 2 * FAR + 1;
const HOLDINGS: usize = 2 * MUCH + 1;
/// Sizes that stand for all.
const SIZES: usize = 12;
/// By how much another target has to be better: there are ties, and then it is better to be out.
const BETTER: f64 = 1e-12;

/// A trade that may run at some state.
struct Run {
    likely: f64,
    /// The cell of drift that it leads to, and how much of it falls to the next one.
    to: usize,
    next: f64,
}

/// What the next trade does at some state.
struct Outcomes {
    fails: f64,
    /// What the trade is worth on average.
    worth: f64,
    runs: Vec<Run>,
}

/// What to hold, whatever comes.
pub struct Bets {
    fee: f64,
    calls: usize,
    /// Of so many trades and all calls, what they are worth at each drift with nothing held.
    values: Vec<Vec<f64>>,
    /// For each number of trades, at each drift, holding and number of calls after this one, the holding to go to.
    targets: Vec<Vec<u8>>,
}

fn drift_of(cell: usize) -> f64 {
    (cell as f64 - FAR as f64) * CELL
}

fn held_of(cell: usize) -> f64 {
    (cell as f64 - MUCH as f64) * CELL
}

/// The cell that a number of cells off the middle one is in.
fn cell(off: f64, side: usize) -> usize {
    let side = side as f64;
    (off.round().clamp(-side, side) + side) as usize
}

/// Coins in a pool in which coins and tokens would be 1 at the price of the limits, and what somebody holds is missing.
fn coins(drift: f64, held: f64) -> f64 {
    1.0 / ((-drift).exp() - held)
}

/// Sizes as a share of the pool with how likely a trade is such a purchase, and such a sale.
fn trades() -> impl Iterator<Item = (f64, [f64; 2])> {
    (0..SIZES).map(|i| {
        let share = 0.001 * 10f64.powf((i as f64 + 0.5) / SIZES as f64);
        let buys = 0.5 * (1.0 - tilt(share));
        (share, [buys, 1.0 - buys].map(|likely| likely / SIZES as f64))
    })
}

/// How likely a trade of such a share is to run, by how much less it gets than where its limit was named.
fn runs(coins: f64, buys: bool, share: f64) -> f64 {
    let (from, to) = if buys { (coins, 1.0 / coins) } else { (1.0 / coins, coins) };
    let less = 1.0 - to * (1.0 + share) / (from + share);
    let bears = TOLERATED.iter().filter(|tolerated| less <= *tolerated / 10_000.0 + BETTER).count();
    bears as f64 / TOLERATED.len() as f64
}

/// How likely a trade is to fail where so many coins are in the pool.
pub fn fails(coins: f64) -> f64 {
    let run =
        |(share, [buys, sells]): (f64, [f64; 2])| buys * runs(coins, true, share) + sells * runs(coins, false, share);
    1.0 - trades().map(run).sum::<f64>()
}

fn outcomes(drift: usize, held: usize) -> Outcomes {
    let (drift, held) = (drift_of(drift), held_of(held));
    let (natural, pooled) = (drift.exp(), coins(drift, held));
    let mut all = Outcomes { fails: 1.0, worth: 0.0, runs: Vec::new() };
    for (share, [buys, sells]) in trades() {
        for (buying, likely) in [(true, buys), (false, sells)] {
            let likely = likely * runs(pooled, buying, share);
            if likely == 0.0 {
                continue;
            }
            let after = if buying { pooled + share } else { 1.0 / (1.0 / pooled + share) };
            let then = 1.0 / (1.0 / after + held);
            let at = (then.ln() / CELL + FAR as f64).clamp(0.0, (DRIFTS - 1) as f64 - 1e-6);
            all.fails -= likely;
            all.worth += likely * ((after - then) - (pooled - natural));
            all.runs.push(Run { likely, to: at as usize, next: at.fract() });
        }
    }
    all
}

impl Bets {
    /// The best bets in blocks of up to so many trades, with so many calls, where the exchange keeps such a share of what is
    /// paid.
    pub fn find(fee: f64, trades: usize, calls: usize) -> Self {
        let states = calls + 1;
        let outcomes: Vec<Outcomes> =
            (0..DRIFTS * HOLDINGS).into_par_iter().map(|i| outcomes(i / HOLDINGS, i % HOLDINGS)).collect();
        let mut bets = Self { fee, calls, values: Vec::new(), targets: Vec::new() };
        // Values at each drift, holding and number of calls, for one trade less.
        let mut before: Vec<f64> = Vec::new();
        for trades in 0..=trades {
            let mut values = vec![0.0; DRIFTS * HOLDINGS * states];
            let mut targets = vec![0; DRIFTS * HOLDINGS * calls];
            let rows = values.par_chunks_mut(HOLDINGS * states).zip(targets.par_chunks_mut(HOLDINGS * calls));
            rows.enumerate().for_each(|(drift, (values, targets))| {
                if trades > 0 {
                    let outcomes = &outcomes[drift * HOLDINGS..][..HOLDINGS];
                    values.chunks_mut(states).zip(outcomes).enumerate().for_each(|(held, (values, outcomes))| {
                        next_trade(values, outcomes, &before, (drift, held), trades);
                    });
                }
                own_calls(values, targets, fee, (drift, trades), calls);
            });
            bets.values.push((0..DRIFTS).map(|i| values[((i * HOLDINGS) + MUCH) * states + calls]).collect());
            bets.targets.push(targets);
            before = values;
        }
        bets
    }

    /// Calls in a block that they are for.
    pub const fn calls(&self) -> usize {
        self.calls
    }

    /// What a block is worth in which so many trades are known to be, as a share of the pool.
    pub fn value(&self, trades: usize, drift: f64) -> f64 {
        self.values[trades][cell(drift / CELL, FAR)]
    }

    /// What to hold at a call of one's own.
    pub fn hold(&self, trades: usize, calls: usize, drift: f64, held: f64) -> f64 {
        let (at, now) = (cell(drift / CELL, FAR), cell(held / CELL, MUCH));
        let trades = trades.min(self.targets.len() - 1);
        let target = usize::from(self.targets[trades][(at * HOLDINGS + now) * self.calls + calls]);
        if target == MUCH {
            0.0
        } else if target == now && self.fee > 0.0 {
            held
        } else {
            // What counts is the price, at which trades fail, not what is held.
            (-drift).exp() - (-drift_of(at)).exp() + held_of(target)
        }
    }
}

/// Adds to values what comes if the next one is a trade of somebody else.
fn next_trade(values: &mut [f64], outcomes: &Outcomes, before: &[f64], at: (usize, usize), trades: usize) {
    let states = values.len();
    let (drift, held) = at;
    let of = |drift: usize| &before[(drift * HOLDINGS + held) * states..][..states];
    let mut add = |likely: f64, from: &[f64]| values.iter_mut().zip(from).for_each(|(value, v)| *value += likely * v);
    add(outcomes.fails, of(drift));
    for run in &outcomes.runs {
        add(run.likely * (1.0 - run.next), of(run.to));
        add(run.likely * run.next, of(run.to + 1));
    }
    for (calls, value) in values.iter_mut().enumerate() {
        *value = (*value + outcomes.worth) * trades as f64 / (trades + calls) as f64;
    }
}

/// Adds what comes if the next one is a call of one's own, and notes where it goes.
fn own_calls(values: &mut [f64], targets: &mut [u8], fee: f64, at: (usize, usize), calls: usize) {
    let states = calls + 1;
    let (drift, trades) = at;
    let drift = drift_of(drift);
    let pooled: Vec<f64> = (0..HOLDINGS).map(|held| fee * coins(drift, held_of(held))).collect();
    if trades == 0 {
        for held in 0..HOLDINGS {
            values[held * states] = -(pooled[held] - pooled[MUCH]).abs();
        }
    }
    for left in 0..calls {
        let value = |held: usize| values[held * states + left];
        let mut best: Vec<(f64, usize)> = (0..HOLDINGS)
            .map(|held| {
                let out = value(MUCH) - (pooled[MUCH] - pooled[held]).abs();
                if out + BETTER < value(held) { (value(held), held) } else { (out, MUCH) }
            })
            .collect();
        // The fee goes by the coins that move, so the best target upwards is one pass, and downwards another.
        let mut pass = |all: &mut dyn Iterator<Item = usize>, sign: f64| {
            let mut target = (f64::NEG_INFINITY, 0);
            for held in all {
                let marked = value(held) - sign * pooled[held];
                if marked > target.0 {
                    target = (marked, held);
                }
                let gained = target.0 + sign * pooled[held];
                if gained > best[held].0 + BETTER {
                    best[held] = (gained, target.1);
                }
            }
        };
        pass(&mut (0..HOLDINGS), -1.0);
        pass(&mut (0..HOLDINGS).rev(), 1.0);
        for (held, (best, target)) in best.into_iter().enumerate() {
            targets[held * calls + left] = u8::try_from(target).expect("fewer than 256 cells");
            let own = (left + 1) as f64 / (trades + left + 1) as f64;
            values[held * states + left + 1] += best * own;
        }
    }
}
