//! Trades left out until many can be let run at once: the best bet on them, in a model without a chain.
//!
//! The attacker runs some of the sequencers. Where it leads it may leave out trades of users. All that it leaves out together
//! named their limits at one price: a *group*. It lets a group run in a block of its own or of whoever leads next, and strews
//! its [calls](Settings::calls) over that block: transactions of a contract. While the group runs the price wanders off, so that more and more of
//! those that go on that way fail, and those that go back do not: on that it bets. It leaves the pool after the block, before
//! users name the next limits. Left out for no block, it bets on one to three trades.
//!
//! ```text
//!   the attacker leads               | another one does
//!   +-----+ +-----+ ...      +-----+ | +---------------------------------+
//!   |     | |     |          |     | | | c t c c t t c t c c ... t c c t | ---> what it holds is given back
//!   +-----+ +-----+          +-----+ | +---------------------------------+
//!    left out: 1 to 3 trades (t) more  in the order of the shuffle,
//!    before each block                 with its own calls (c)
//! ```
//!
//! While a group waits it may let newer trades run, so that the price wanders away from the group's limits, and let the group run
//! when that is [worth most](Timing).
//!
//! # What it knows
//!
//! The number of trades in the block and the price at which they named their limits, which are public (who calls with the
//! number in the call has heard the block, or made it); at each call the pool and what it holds itself. Not what a trade is:
//! neither direction nor size nor limit. How to bet on that is the [dynamic programme](Bets) that gains most, but for the
//! number of trades that are still to come, which the programme takes as known. Of that there are two readings:
//!
//! - [`Attack::Seeing`]: the contract counts its calls and reckons how many trades have come in between, by whether the pool
//!   has changed, and how likely a trade is to fail where the pool was.
//! - [`Attack::Counting`]: it knows. A block's order comes from its beacon, which a contract can read when it runs; so one that
//!   is told what is in the block could compute it.
//!
//! In the clear the same users meet an attacker who reads all that waits and trades by [`Start::plan`]. It leaves trades out for
//! as long, and lets them run in its own last block, where it orders them as it likes. There are two of it:
//!
//! - [`Attack::Together`] leaves out all of them. Whom the plan would leave out it puts behind the others and plans again, so that
//!   nobody waits longer.
//! - [`Attack::OneSided`] leaves out purchases alone, or sales alone, while the others run: the price goes the way on which the
//!   limits that were named before it are worth most.
//!
//! # What is left out of the model
//!
//! Gas: 256 calls cost 0.16 thousandths of a coin at the least base fee, and take half of a block's gas, up to which that fee
//! stays. What is left of the pool's depth: the reserves begin as 1,000 coins and 1,000,000 tokens whenever nobody waits, since
//! who trades is drawn as a share of the pool, so that profits would grow and shrink with it, and the mean over long chains
//! would say how far pools wander. Trades are drawn by `users.rs`; no more than one of each of the users waits.

mod bet;
mod release;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use rayon::prelude::*;

pub use self::{bet::Bets, release::Timing};
use super::{
    curve::{Curve, Victim, gain, tokens_of},
    plan::{Plan, Start},
    round::{POOL_COINS, POOL_TOKENS, USERS},
    stats::Estimate,
    users::{arriving, wish},
};

/// Who is told directions enters with such a share of the pool.
const TOLD: f64 = 0.002;

/// For how many blocks the attacker leaves a trade out at most; `None`: as long as it leads without a break.
pub type Patience = Option<usize>;

/// A measurement.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Sequencers.
    pub nodes: u32,
    /// Those of them that the attacker runs.
    pub attackers: u32,
    /// Blocks that one of them leads on end.
    pub term: usize,
    /// The exchange's fee in millionths.
    pub fee: u32,
    /// For how long trades are left out.
    pub patience: Patience,
    /// Transactions of the attacker in each block, on the sealed chain.
    pub calls: usize,
    /// Where all randomness comes from.
    pub seed: u64,
    /// Chains of their own: the batches of the statistics.
    pub chains: usize,
    /// Rounds of each chain.
    pub rounds: usize,
}

/// What the attacker does.
#[derive(Clone, Copy)]
pub enum Attack<'a> {
    /// In the clear: it reads what waits, leaves out all of it, and takes it together.
    Together,
    /// In the clear: it leaves out one side while the other runs.
    OneSided,
    /// Sealed: it bets by what its contract sees when it is called.
    Seeing(&'a Bets),
    /// Sealed: it bets, and knows how many trades are still to come at each call.
    Counting(&'a Bets),
    /// A leak, to see that it would be found: all are left out, and at each call it knows the direction of the next trade.
    Told,
}

/// What a measurement gave.
#[derive(Clone, Debug)]
pub struct Report {
    /// Trades that ran or failed for their limit.
    pub trades: f64,
    /// What the attacker gains for each of them, in coins.
    pub profit: Estimate,
    /// Blocks that each of them waited for.
    pub waited: Estimate,
}

/// Sums over a chain.
#[derive(Clone, Copy, Default)]
struct Sums {
    trades: f64,
    profit: f64,
    waited: f64,
}

impl Settings {
    /// The best bets on this exchange.
    #[must_use]
    pub fn bets(&self) -> Bets {
        Bets::find(f64::from(self.fee) / 1e6, USERS, self.calls)
    }

    /// The pool when users name their limits.
    #[must_use]
    pub fn pool(&self) -> Curve {
        Curve { coins: POOL_COINS, tokens: POOL_TOKENS, kept: 1.0 - f64::from(self.fee) / 1e6 }
    }

    /// Runs a measurement. Chains run beside each other; the answer does not depend on how many at a time.
    #[must_use]
    pub fn measure(&self, attack: Attack<'_>) -> Report {
        let timing = match attack {
            Attack::Seeing(bets) | Attack::Counting(bets) => Some(Timing::find(self, bets)),
            _ => None,
        };
        let chain = |number| {
            let mut rng = ChaCha20Rng::seed_from_u64(self.seed.wrapping_mul(1_000_003).wrapping_add(number));
            match (attack, &timing) {
                (Attack::OneSided, _) => self.one_sided(&mut rng),
                (_, Some(timing)) => self.timed(attack, timing, &self.schedule(&mut rng), &mut rng),
                (_, None) => self.together(attack, &mut rng),
            }
        };
        let chains: Vec<Sums> = (0..self.chains as u64).into_par_iter().map(chain).collect();
        let each = |of: fn(&Sums) -> f64| Estimate::of(&chains.iter().map(|s| of(s) / s.trades).collect::<Vec<_>>());
        Report {
            trades: chains.iter().map(|sums| sums.trades).sum(),
            profit: each(|sums| sums.profit),
            waited: each(|sums| sums.waited),
        }
    }

    /// All trades that have been left out run together.
    fn together(&self, attack: Attack<'_>, rng: &mut ChaCha20Rng) -> Sums {
        let (mut sums, mut waiting) = (Sums::default(), Vec::new());
        for own in self.schedule(rng) {
            waiting.extend(self.new_trades(rng, waiting.len(), &self.pool()));
            if self.keeps(attack, own) > 0 {
                sums.waited += waiting.len() as f64;
                continue;
            }
            sums.trades += waiting.len() as f64;
            sums.profit += match attack {
                Attack::Told => self.sealed(attack, self.pool(), self.pool(), &waiting, rng).gained,
                _ => in_the_clear(self.pool(), waiting, own > 0),
            };
            waiting = Vec::new();
        }
        sums
    }

    /// In the clear, one side is left out until the attacker's last block, or until all users wait for it.
    fn one_sided(&self, rng: &mut ChaCha20Rng) -> Sums {
        let (mut sums, mut pool) = (Sums::default(), self.pool());
        let (mut waiting, mut side): (Vec<Victim>, _) = (Vec::new(), None);
        for own in self.schedule(rng) {
            waiting.extend(self.new_trades(rng, waiting.len(), &pool));
            let mut run = std::mem::take(&mut waiting);
            let keeps = self.keeps(Attack::OneSided, own) > 0;
            if keeps {
                let buying = *side.get_or_insert_with(|| pool.purchases(&run) > 0.0);
                if run.iter().filter(|trade| trade.buying == buying).count() < USERS {
                    (waiting, run) = run.into_iter().partition(|trade| trade.buying == buying);
                }
            } else {
                side = None;
            }
            let plan = Start { pool, worth: None, held: 0.0, leads: own > 0 }.plan(&run);
            (sums.profit, pool) = (sums.profit + plan.gained, plan.pool);
            let left_out: Vec<Victim> = left_out(&plan, &run).collect();
            sums.trades += (run.len() - left_out.len()) as f64;
            if keeps || self.patience.is_none() {
                waiting.extend(left_out);
            } else {
                sums.trades += left_out.len() as f64;
                sums.profit += in_the_clear(pool, left_out, true);
            }
            sums.waited += waiting.len() as f64;
            if waiting.is_empty() && !keeps {
                pool = self.pool();
            }
        }
        sums
    }

    /// Sealed, a group is left out and let run when that is worth most.
    fn timed(&self, attack: Attack<'_>, timing: &Timing, schedule: &[usize], rng: &mut ChaCha20Rng) -> Sums {
        let (mut sums, mut pool) = (Sums::default(), self.pool());
        let mut group = Group { trades: Vec::new(), named: pool, still: true };
        for &own in schedule {
            let keeps = self.keeps(attack, own);
            let mut run = |named: Curve, trades: &[Victim], pool: &mut Curve, rng: &mut ChaCha20Rng| {
                let done = self.sealed(attack, *pool, named, trades, rng);
                (sums.profit, sums.trades) = (sums.profit + done.gained, sums.trades + trades.len() as f64);
                *pool = done.pool;
            };
            if keeps > 0 && timing.releases(keeps, group.trades.len(), group.drift(&pool)) {
                run(group.named, &group.trades, &mut pool, rng);
                group.trades.clear();
            }
            if group.trades.is_empty() {
                (group.named, group.still) = (pool, true);
            }
            let new = self.new_trades(rng, group.trades.len(), &pool);
            if keeps == 0 {
                assert!(group.still, "by now a group is alone or has run");
                group.trades.extend(new);
                run(group.named, &group.trades, &mut pool, rng);
                group.trades.clear();
                pool = self.pool();
            } else if group.still && timing.joins(keeps, group.trades.len(), new.len()) {
                group.trades.extend(new);
            } else {
                run(pool, &new, &mut pool, rng);
                group.still = false;
            }
            sums.waited += group.trades.len() as f64;
        }
        sums
    }

    /// For how many blocks on end, from the first of so many that it leads, the attacker may leave out what waits.
    fn keeps(&self, attack: Attack<'_>, own: usize) -> usize {
        // Sealed, they may as well run in the block of who leads next.
        let clear = matches!(attack, Attack::Together | Attack::OneSided);
        let own = if clear { own.saturating_sub(1) } else { own };
        self.patience.map_or(own, |most| own % (most + 1))
    }

    /// For each round how many blocks the attacker leads from then on without a break.
    fn schedule(&self, rng: &mut ChaCha20Rng) -> Vec<usize> {
        let term = self.term;
        let begun = rng.random_range(0..term);
        let terms: Vec<bool> =
            (0..=self.rounds / term + 1).map(|_| rng.random_ratio(self.attackers, self.nodes)).collect();
        let mut own = 0;
        let mut schedule: Vec<usize> = (begun..begun + self.rounds)
            .rev()
            .map(|block| {
                own = if terms[block / term] { own + 1 } else { 0 };
                own
            })
            .collect();
        schedule.reverse();
        schedule
    }

    /// New trades, if so many users wait already.
    fn new_trades(&self, rng: &mut ChaCha20Rng, waiting: usize, pool: &Curve) -> Vec<Victim> {
        (0..arriving(rng).min(USERS - waiting)).map(|_| self.wish(rng, pool)).collect()
    }

    /// What the attacker gains in a block of trades that named their limits at some pool, which has moved since.
    fn sealed(&self, attack: Attack<'_>, pool: Curve, named: Curve, trades: &[Victim], rng: &mut ChaCha20Rng) -> Own {
        let mut own = Own { pool, named, held: 0.0, gained: 0.0 };
        let mut guess = Guess { trades: trades.len() as f64, calls: self.calls, seen: pool };
        let (mut next, mut calls) = (0, self.calls);
        while next < trades.len() || calls > 0 {
            let left = trades.len() - next;
            // Every order is as likely.
            if rng.random_range(0..left + calls) < left {
                let trade = &trades[next];
                next += 1;
                if own.pool.bears(trade) {
                    own.pool.trade(trade.buying, trade.paid);
                }
                continue;
            }
            calls -= 1;
            let target = match attack {
                Attack::Together | Attack::OneSided => unreachable!("not in the clear"),
                Attack::Seeing(bets) => own.bet(bets, guess.called(&own), calls),
                Attack::Counting(bets) => own.bet(bets, left, calls),
                Attack::Told => {
                    trades.get(next).map_or(0.0, |trade| if trade.buying { TOLD } else { -TOLD }) * pool.tokens
                }
            };
            own.hold(target);
            guess.seen = own.pool;
        }
        own.hold(0.0);
        own
    }

    fn wish(&self, rng: &mut ChaCha20Rng, pool: &Curve) -> Victim {
        let buying = rng.random();
        wish(rng, buying, pool, None)
    }
}

/// Trades that are left out, sealed, all of which named their limits at one price.
struct Group {
    trades: Vec<Victim>,
    /// The pool then.
    named: Curve,
    /// Whether nothing has run since.
    still: bool,
}

impl Group {
    /// How far the price has gone since, if anything has run.
    fn drift(&self, pool: &Curve) -> Option<f64> {
        (!self.still).then(|| pool.drift(&self.named))
    }
}

/// What the attacker has in the exchange.
struct Own {
    pool: Curve,
    /// The pool when limits were named.
    named: Curve,
    held: f64,
    gained: f64,
}

impl Own {
    /// Tokens that would be in the pool at the price of the limits.
    fn unit(&self) -> f64 {
        (self.pool.coins * self.pool.tokens * self.named.tokens / self.named.coins).sqrt()
    }

    /// What to hold.
    fn bet(&self, bets: &Bets, trades: usize, calls: usize) -> f64 {
        let unit = self.unit();
        let drift = (unit / (self.pool.tokens + self.held)).ln();
        bets.hold(trades, calls, drift, self.held / unit) * unit
    }

    fn hold(&mut self, target: f64) {
        if let Some((buying, paid)) = self.pool.undoing(self.held - target) {
            let got = self.pool.trade(buying, paid);
            self.gained += gain(buying, paid, got, 0.0);
            self.held += tokens_of(buying, paid, got);
        }
    }
}

/// What a contract reckons of the trades that are still to come.
struct Guess {
    trades: f64,
    calls: usize,
    /// The pool as the last call left it.
    seen: Curve,
}

impl Guess {
    /// Called again: so many seem to be still to come.
    fn called(&mut self, own: &Own) -> usize {
        // So many were to be expected in between; about a Poisson number, of which some fail.
        let expected = self.trades / (self.calls + 1) as f64;
        self.calls -= 1;
        let fail = expected * bet::fails(own.unit() / self.seen.tokens);
        let run = expected - fail;
        let passed = match () {
            () if own.pool == self.seen => fail,
            () if run < 1e-9 => fail + 1.0,
            () => fail + run / (1.0 - (-run).exp()),
        };
        self.trades = (self.trades - passed).max(0.0);
        // To bet on one too few costs more than to bet on one too many; other places to round at gained less.
        (self.trades + 0.7) as usize
    }
}

fn left_out<'a>(plan: &'a Plan, trades: &'a [Victim]) -> impl Iterator<Item = Victim> + 'a {
    plan.moves.iter().filter(|step| !step.included).map(|step| trades[step.trade])
}

/// What is gained by reading: by plan, and those whom the plan would leave out after the others by another one.
fn in_the_clear(mut pool: Curve, mut trades: Vec<Victim>, leads: bool) -> f64 {
    let mut gained = 0.0;
    while !trades.is_empty() {
        let plan = Start { pool, worth: None, held: 0.0, leads }.plan(&trades);
        (gained, pool) = (gained + plan.gained, plan.pool);
        let left_out: Vec<Victim> = left_out(&plan, &trades).collect();
        if left_out.len() == trades.len() {
            break;
        }
        trades = left_out;
    }
    gained
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        nodes: 4,
        attackers: 1,
        term: 10,
        fee: 0,
        patience: Some(3),
        calls: 32,
        seed: 1,
        chains: 100,
        rounds: 250,
    };

    #[test]
    fn nobody_is_left_out_for_longer_than_allowed() {
        for most in [0, 1, 3, 10] {
            let settings = Settings { patience: Some(most), rounds: 2000, ..SETTINGS };
            for attack in [Attack::OneSided, Attack::Told] {
                let schedule = settings.schedule(&mut ChaCha20Rng::seed_from_u64(7));
                let kept = schedule.iter().map(|&own| settings.keeps(attack, own) > 0);
                let longest = kept.fold((0, 0), |(run, longest), keeps| {
                    let run = if keeps { run + 1 } else { 0 };
                    (run, longest.max(run))
                });
                assert_eq!(longest.1, most, "some wait for as long, none for longer");
            }
        }
    }

    /// What the programme promises a simulated attacker gains, who knows how many trades are to come.
    #[test]
    fn a_block_is_worth_what_the_programme_says() {
        for fee in [0, 3000] {
            let settings = Settings { fee, ..SETTINGS };
            let bets = settings.bets();
            for (trades, drift) in [(1, 0.01), (2, 0.0), (6, -0.01), (12, 0.0), (12, 0.015), (20, -0.02)] {
                let mut pool = settings.pool();
                pool.apply(true, pool.coins * (f64::exp(drift) - 1.0), pool.tokens * (1.0 - f64::exp(-drift)));
                let mut rng = ChaCha20Rng::seed_from_u64(trades as u64);
                let mut one = || {
                    let named: Vec<Victim> = (0..trades).map(|_| settings.wish(&mut rng, &settings.pool())).collect();
                    settings.sealed(Attack::Counting(&bets), pool, settings.pool(), &named, &mut rng).gained
                };
                let gained = Estimate::of(&(0..40_000).map(|_| one()).collect::<Vec<_>>());
                let promised = bets.value(trades, drift) * POOL_COINS;
                // A few sizes stand for all, and prices come in cells.
                let allowed = gained.half_width() + 0.03 * promised + 1e-9;
                println!("fee {fee}, {trades} trades, drift {drift}: {promised} {gained:?}");
                assert!((gained.mean - promised).abs() < allowed, "fee {fee}, {trades} trades, drift {drift}");
            }
        }
    }

    #[test]
    fn what_hoarding_gains_is_found_and_is_little_where_nobody_waits_for_long() {
        for fee in [0, 500, 3000] {
            let settings = Settings { fee, ..SETTINGS };
            let bets = settings.bets();
            let clear = |attack| Settings { chains: 20, ..settings }.measure(attack).profit;
            let margin = 0.05 * clear(Attack::Together).low();
            for attack in [Attack::Seeing(&bets), Attack::Counting(&bets)] {
                let profit = settings.measure(attack).profit;
                assert!(profit.equivalent_to_zero(margin), "margin {margin}: {profit:?}");
                assert!(profit.power(margin) > 0.99, "margin {margin}: {profit:?}");
                let long = Settings { patience: None, ..settings }.measure(attack).profit;
                assert!(long.low() > profit.high(), "{fee}: {profit:?} {long:?}");
            }
            let told = settings.measure(Attack::Told).profit;
            assert!(told.low() > 2.0 * margin, "margin {margin}: {told:?}");
        }
    }

    /// What the other programme promises, and no less than where all that is left out runs together.
    #[test]
    fn a_lead_is_worth_what_the_programme_says() {
        for fee in [0, 3000] {
            let settings = Settings { fee, patience: None, ..SETTINGS };
            let bets = settings.bets();
            let (attack, timing) = (Attack::Counting(&bets), Timing::find(&settings, &bets));
            let mut rng = ChaCha20Rng::seed_from_u64(fee.into());
            for lead in [0, 1, 4, 10, 20] {
                let schedule: Vec<usize> = (0..=lead).rev().collect();
                let mut one = || settings.timed(attack, &timing, &schedule, &mut rng).profit;
                let gained = Estimate::of(&(0..10_000).map(|_| one()).collect::<Vec<_>>());
                let promised = timing.value(lead) * POOL_COINS;
                println!("fee {fee}, {lead} blocks: {promised} {gained:?}");
                // Where little is gained, few blocks gain it.
                let allowed = gained.half_width() + 0.04 * promised + 0.0003;
                assert!((gained.mean - promised).abs() < allowed, "fee {fee}, {lead} blocks");
                let mut waits = || (0..=lead).fold(0, |sum: usize, _| USERS.min(sum + arriving(&mut rng)));
                let together = (0..10_000).map(|_| bets.value(waits(), 0.0)).sum::<f64>() / 10_000.0;
                assert!(promised > together * POOL_COINS * 0.99 - 0.0003, "fee {fee}, {lead} blocks: {together}");
            }
        }
    }

    #[test]
    fn to_leave_out_one_side_gains_more_than_to_leave_out_all() {
        let settings = Settings { patience: None, rounds: 500, ..SETTINGS };
        let [together, one_sided] = [Attack::Together, Attack::OneSided].map(|a| settings.measure(a).profit);
        println!("{together:?} {one_sided:?}");
        assert!(one_sided.low() > together.high());
    }
}
