//! Trades left out until many can be let run at once: the best bet on them, in a model without a chain.
//!
//! The attacker runs some of the sequencers. Where it leads it leaves out all trades of users, but none for more than so many
//! blocks; it lets them run in a block of its own or of whoever leads next, and strews [`CALLS`] transactions of a contract
//! over that block. All of them named their limits at the price before it. While they run the price wanders off, so that
//! more and more of those that go on that way fail, and those that go back do not: on that it bets. It leaves the pool after
//! the block, before users name the next limits. Left out for no block, it bets on one to three trades.
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
//! # What is left out of the model
//!
//! Gas (32 calls cost 0.02 thousandths of a coin at the least base fee). The reserves begin each block that has trades as
//! 1,000 coins and 1,000,000 tokens: who trades is drawn as a share of the pool, so profits would grow and shrink with it,
//! and the mean over long chains would say how far pools wander. Trades are drawn by `users.rs`; no more than one of each
//! of the users waits.
//!
//! In the clear ([`Attack::Plain`]) the same users meet an attacker who reads all that waits and trades by [`Start::plan`]:
//! it waits as long, but lets trades run in its own last block, where it orders them as it likes. Whom the plan would leave
//! out it puts behind the others and plans again, so that nobody waits longer.

pub mod bet;

use cascade_primitives::{ChainParams, Network};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use rayon::prelude::*;

pub use self::bet::Bets;
use super::{
    curve::{Curve, Victim, gain, tokens_of},
    plan::Start,
    round::{POOL_COINS, POOL_TOKENS, USERS},
    stats::Estimate,
    users::{arriving, wish},
};

/// Transactions of the attacker in each block.
pub const CALLS: usize = 32;
/// Who is told directions enters with such a share of the pool.
const TOLD: f64 = 0.002;

/// A measurement.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Sequencers.
    pub nodes: u32,
    /// Those of them that the attacker runs.
    pub attackers: u32,
    /// The exchange's fee in millionths.
    pub fee: u32,
    /// Blocks for which a trade is left out at most.
    pub most: usize,
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
    /// In the clear, it reads what waits.
    Plain,
    /// Sealed, it bets by what its contract sees when it is called.
    Seeing(&'a Bets),
    /// Sealed, it bets, and knows how many trades are still to come at each call.
    Counting(&'a Bets),
    /// A leak, to see that it would be found: at each call it knows the direction of the next trade.
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
        Bets::find(f64::from(self.fee) / 1e6, USERS, CALLS)
    }

    /// The pool when users name their limits.
    #[must_use]
    pub fn pool(&self) -> Curve {
        Curve { coins: POOL_COINS, tokens: POOL_TOKENS, kept: 1.0 - f64::from(self.fee) / 1e6 }
    }

    /// Runs a measurement. Chains run beside each other; the answer does not depend on how many at a time.
    #[must_use]
    pub fn measure(&self, attack: Attack<'_>) -> Report {
        let chains: Vec<Sums> =
            (0..self.chains as u64).into_par_iter().map(|number| self.chain(attack, number)).collect();
        let each = |of: fn(&Sums) -> f64| Estimate::of(&chains.iter().map(|s| of(s) / s.trades).collect::<Vec<_>>());
        Report {
            trades: chains.iter().map(|sums| sums.trades).sum(),
            profit: each(|sums| sums.profit),
            waited: each(|sums| sums.waited),
        }
    }

    fn chain(&self, attack: Attack<'_>, number: u64) -> Sums {
        let mut rng = ChaCha20Rng::seed_from_u64(self.seed.wrapping_mul(1_000_003).wrapping_add(number));
        let (mut sums, mut waiting) = (Sums::default(), Vec::new());
        for own in self.schedule(&mut rng) {
            let more = arriving(&mut rng).min(USERS - waiting.len());
            waiting.extend((0..more).map(|_| self.wish(&mut rng)));
            if self.keeps(attack, own) {
                sums.waited += waiting.len() as f64;
                continue;
            }
            sums.trades += waiting.len() as f64;
            sums.profit += match attack {
                Attack::Plain => in_the_clear(self.pool(), waiting, own > 0),
                _ => sealed(attack, self.pool(), &waiting, &mut rng),
            };
            waiting = Vec::new();
        }
        sums
    }

    /// Whether the attacker leaves out all that waits, in the first of so many blocks that it leads.
    const fn keeps(&self, attack: Attack<'_>, own: usize) -> bool {
        // Sealed, they may as well run in the block of who leads next.
        let own = if matches!(attack, Attack::Plain) { own.saturating_sub(1) } else { own };
        own % (self.most + 1) > 0
    }

    /// For each round how many blocks the attacker leads from then on without a break.
    fn schedule(&self, rng: &mut ChaCha20Rng) -> Vec<usize> {
        let term = usize::try_from(ChainParams::of(Network::Mainnet).views_per_term).expect("a short term");
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

    fn wish(&self, rng: &mut ChaCha20Rng) -> Victim {
        let buying = rng.random();
        wish(rng, buying, &self.pool(), None)
    }
}

/// What the attacker gains in a block of trades that named their limits at the usual pool, which has moved since.
fn sealed(attack: Attack<'_>, pool: Curve, trades: &[Victim], rng: &mut ChaCha20Rng) -> f64 {
    let mut own = Own { pool, held: 0.0, gained: 0.0 };
    let mut guess = Guess { trades: trades.len() as f64, calls: CALLS, seen: pool };
    let (mut next, mut calls) = (0, CALLS);
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
            Attack::Plain => unreachable!("not in the clear"),
            Attack::Seeing(bets) => own.bet(bets, guess.called(&own.pool), calls),
            Attack::Counting(bets) => own.bet(bets, left, calls),
            Attack::Told => trades.get(next).map_or(0.0, |trade| if trade.buying { TOLD } else { -TOLD }) * POOL_TOKENS,
        };
        own.hold(target);
        guess.seen = own.pool;
    }
    own.hold(0.0);
    own.gained
}

/// What the attacker has in the exchange.
struct Own {
    pool: Curve,
    held: f64,
    gained: f64,
}

/// Tokens that would be in a pool at the price of the limits.
fn unit(pool: &Curve) -> f64 {
    (pool.coins * pool.tokens * POOL_TOKENS / POOL_COINS).sqrt()
}

impl Own {
    /// What to hold.
    fn bet(&self, bets: &Bets, trades: usize, calls: usize) -> f64 {
        let unit = unit(&self.pool);
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
    fn called(&mut self, pool: &Curve) -> usize {
        // So many were to be expected in between; about a Poisson number, of which some fail.
        let expected = self.trades / (self.calls + 1) as f64;
        self.calls -= 1;
        let fail = expected * bet::fails(unit(&self.seen) / self.seen.tokens);
        let run = expected - fail;
        let passed = match () {
            () if *pool == self.seen => fail,
            () if run < 1e-9 => fail + 1.0,
            () => fail + run / (1.0 - (-run).exp()),
        };
        self.trades = (self.trades - passed).max(0.0);
        // To bet on one too few costs more than to bet on one too many; other places to round at gained less.
        (self.trades + 0.7) as usize
    }
}

/// What is gained by reading: by plan, and those whom the plan would leave out after the others by another one.
fn in_the_clear(mut pool: Curve, mut trades: Vec<Victim>, leads: bool) -> f64 {
    let mut gained = 0.0;
    while !trades.is_empty() {
        let plan = Start { pool, worth: None, held: 0.0, leads }.plan(&trades);
        (gained, pool) = (gained + plan.gained, plan.pool);
        let left_out: Vec<Victim> =
            plan.moves.iter().filter(|step| !step.included).map(|step| trades[step.trade]).collect();
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

    const SETTINGS: Settings = Settings { nodes: 4, attackers: 1, fee: 0, most: 3, seed: 1, chains: 100, rounds: 250 };

    #[test]
    fn nobody_is_left_out_for_longer_than_allowed() {
        for most in [0, 1, 3, 10] {
            let settings = Settings { most, rounds: 2000, ..SETTINGS };
            for attack in [Attack::Plain, Attack::Told] {
                let schedule = settings.schedule(&mut ChaCha20Rng::seed_from_u64(7));
                let kept = schedule.iter().map(|&own| settings.keeps(attack, own));
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
                    let named: Vec<Victim> = (0..trades).map(|_| settings.wish(&mut rng)).collect();
                    sealed(Attack::Counting(&bets), pool, &named, &mut rng)
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
            let margin = 0.05 * Settings { chains: 20, ..settings }.measure(Attack::Plain).profit.low();
            for attack in [Attack::Seeing(&bets), Attack::Counting(&bets)] {
                let profit = settings.measure(attack).profit;
                assert!(profit.equivalent_to_zero(margin), "margin {margin}: {profit:?}");
                assert!(profit.power(margin) > 0.99, "margin {margin}: {profit:?}");
                let long = Settings { most: 10, ..settings }.measure(attack).profit;
                assert!(long.low() > 0.0, "{fee}: {long:?}");
            }
            let told = settings.measure(Attack::Told).profit;
            assert!(told.low() > 2.0 * margin, "margin {margin}: {told:?}");
        }
    }
}
