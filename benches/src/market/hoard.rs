//! Trades left out until many can be let run at once: the best bet on them, in a model without a chain.
//!
//! The attacker runs some of the sequencers. Where it leads it leaves out users' trades, all of which name their limits at
//! one price, and lets them run in the block of whoever leads next, over which it strews its [calls](Settings::calls):
//! transactions of a contract. While they run the price wanders off, so that more and more of those that go on that way fail,
//! and those that go back do not: on that it bets. It leaves the pool after the block, before users name the next limits.
//! Left out for no block, it bets on one to three trades.
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
//! Leaders are drawn as the chain draws them: a term's leader is none of those of the f terms before it, so one sequencer of
//! four hardly ever leads longer than a term.
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
//! In the clear the same users meet an attacker who reads all that waits and trades by [`Start::plan`], which is the best that
//! is found, not the best that there is. It leaves trades out for as long. There are two of it:
//!
//! - [`Attack::Together`] leaves out all of them. Whom the plan would leave out it puts behind the others and plans again, so that
//!   nobody waits longer.
//! - [`Attack::OneSided`] leaves out purchases alone, or sales alone, while the others run: the price goes the way on which the
//!   limits that were named before it are worth most. (To leave out both in the last blocks gained less.)
//!
//! # What was tried beside it
//!
//! To let newer trades run while others wait, and those when that is worth most by another dynamic programme, gained nothing in
//! leads of up to ten blocks, 6% at fifteen and 30% at twenty: longer than a third of the sequencers leads on end. To let a part of
//! those that wait run, or to keep two groups with different limits, gained nothing.
//!
//! # What is left out of the model
//!
//! Gas. (If a call takes 60,000 of it, 256 calls take half of a block's, up to which the base fee stays at its least, and cost
//! 0.15 thousandths of a coin. What they take was not measured.) What is left of the pool's depth: the reserves begin as 1,000
//! coins and 1,000,000 tokens whenever nobody waits, since who trades is drawn as a share of the pool, so that profits would grow
//! and shrink with it, and the mean over long chains would say how far pools wander. Trades are drawn by `users.rs`; no more
//! than one of each of the users waits.

mod bet;

use cascade_consensus::election::Leaders;
use cascade_primitives::{B256, View};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use rayon::prelude::*;

pub use self::bet::Bets;
use super::{
    cipher::committee,
    curve::{Curve, Victim, gain, tokens_of},
    plan::{Move, Plan, Start},
    round::{POOL_COINS, POOL_TOKENS, USERS},
    stats::Estimate,
    users::{arriving, wish},
};

/// Who is told directions enters with such a share of the pool.
const TOLD: f64 = 0.002;
/// Terms among which the first one of a chain is drawn: as many as the election draws in one cycle, so that all are as likely.
const TERMS: u64 = 256;

/// For how many blocks the attacker leaves a trade out at most; `None`: as long as it leads without a break.
pub type Patience = Option<usize>;

/// A measurement.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Sequencers.
    pub nodes: usize,
    /// Those of them that the attacker runs.
    pub attackers: usize,
    /// Views in a leader's term.
    pub term: u64,
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
    /// Blocks that one of them waited for at most.
    pub longest: usize,
}

/// A trade that has not run yet.
#[derive(Clone, Copy)]
struct Late {
    trade: Victim,
    /// Blocks that it has been left out of.
    blocks: usize,
}

/// Sums over a chain.
#[derive(Clone, Copy, Default)]
struct Sums {
    trades: f64,
    profit: f64,
    waited: f64,
    longest: usize,
}

impl Sums {
    /// A block is made without these.
    fn wait(&mut self, waiting: &mut [Late]) {
        for late in waiting {
            late.blocks += 1;
            self.waited += 1.0;
        }
    }

    /// These come to run.
    fn run(&mut self, late: Vec<Late>) -> Vec<Victim> {
        self.trades += late.len() as f64;
        self.longest = late.iter().map(|late| late.blocks).fold(self.longest, usize::max);
        trades(&late)
    }
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
        let chain = |number| {
            let mut rng = self.draws(number);
            match attack {
                Attack::OneSided => self.one_sided(&mut rng),
                _ => self.together(attack, &mut rng),
            }
        };
        let chains: Vec<Sums> = (0..self.chains as u64).into_par_iter().map(chain).collect();
        let each = |of: fn(&Sums) -> f64| Estimate::of(&chains.iter().map(|s| of(s) / s.trades).collect::<Vec<_>>());
        Report {
            trades: chains.iter().map(|sums| sums.trades).sum(),
            profit: each(|sums| sums.profit),
            waited: each(|sums| sums.waited),
            longest: chains.iter().map(|sums| sums.longest).max().unwrap_or(0),
        }
    }

    /// What the attacker gains for each of so many trades that all come before one block, which another one makes.
    #[must_use]
    pub fn block(&self, attack: Attack<'_>, trades: usize) -> Estimate {
        let block = |number| {
            let mut rng = self.draws(number);
            let named: Vec<Victim> = (0..trades).map(|_| self.wish(&mut rng, &self.pool())).collect();
            let gained = match attack {
                Attack::Together | Attack::OneSided => in_the_clear(self.pool(), named, false),
                _ => self.sealed(attack, self.pool(), &named, &mut rng),
            };
            gained / trades as f64
        };
        Estimate::of(&(0..self.chains as u64).into_par_iter().map(block).collect::<Vec<_>>())
    }

    /// The draws of one chain.
    fn draws(&self, number: u64) -> ChaCha20Rng {
        ChaCha20Rng::seed_from_u64(self.seed.wrapping_mul(1_000_003).wrapping_add(number))
    }

    /// All trades that have been left out run together.
    fn together(&self, attack: Attack<'_>, rng: &mut ChaCha20Rng) -> Sums {
        let (mut sums, mut waiting) = (Sums::default(), Vec::new());
        for own in self.schedule(rng) {
            waiting.extend(self.new_trades(rng, waiting.len(), &self.pool()));
            if self.keeps(own) {
                sums.wait(&mut waiting);
                continue;
            }
            let trades = sums.run(std::mem::take(&mut waiting));
            sums.profit += match attack {
                Attack::Together => in_the_clear(self.pool(), trades, own > 0),
                _ => self.sealed(attack, self.pool(), &trades, rng),
            };
        }
        sums
    }

    /// In the clear, one side is left out until the block behind the attacker's last, or until all users wait for it.
    fn one_sided(&self, rng: &mut ChaCha20Rng) -> Sums {
        let (mut sums, mut pool) = (Sums::default(), self.pool());
        let (mut waiting, mut side): (Vec<Late>, _) = (Vec::new(), None);
        for own in self.schedule(rng) {
            waiting.extend(self.new_trades(rng, waiting.len(), &pool));
            let mut late = std::mem::take(&mut waiting);
            let keeps = self.keeps(own);
            if keeps {
                let buying = *side.get_or_insert_with(|| pool.purchases(&trades(&late)) > 0.0);
                if late.iter().filter(|late| late.trade.buying == buying).count() < USERS {
                    (waiting, late) = late.into_iter().partition(|late| late.trade.buying == buying);
                }
            } else {
                side = None;
            }
            let plan = Start { pool, worth: None, held: 0.0, leads: own > 0 }.plan(&trades(&late));
            (sums.profit, pool) = (sums.profit + plan.gained, plan.pool);
            let (run, left_out) = split(&plan, &late);
            sums.run(run);
            if keeps {
                waiting.extend(left_out);
            } else {
                sums.profit += in_the_clear(pool, sums.run(left_out), own > 0);
            }
            sums.wait(&mut waiting);
            if waiting.is_empty() && !keeps {
                pool = self.pool();
            }
        }
        sums
    }

    /// Whether the attacker leaves out what waits, in the first of so many blocks that it leads on end. What waits
    /// at last runs in the block of who leads next. Who leaves out for fewer blocks counts back from there.
    fn keeps(&self, own: usize) -> bool {
        self.patience.map_or(own, |most| own % (most + 1)) > 0
    }

    /// For each round how many blocks the attacker leads from then on without a break; another one leads the last.
    fn schedule(&self, rng: &mut ChaCha20Rng) -> Vec<usize> {
        let mut leaders = Leaders::new(B256::new(rng.random()), &committee(self.nodes), self.term);
        let begun = rng.random_range(0..TERMS * self.term);
        let mut own = 0;
        let mut schedule: Vec<usize> = (begun..begun + self.rounds as u64)
            .rev()
            .map(|view| {
                own = if leaders.of_view(View(view + 1)).index() < self.attackers { own + 1 } else { 0 };
                own
            })
            .collect();
        schedule.reverse();
        schedule.push(0);
        schedule
    }

    /// New trades, if so many users wait already.
    fn new_trades(&self, rng: &mut ChaCha20Rng, waiting: usize, pool: &Curve) -> Vec<Late> {
        (0..arriving(rng).min(USERS - waiting)).map(|_| Late { trade: self.wish(rng, pool), blocks: 0 }).collect()
    }

    /// What the attacker gains in a block of trades that named their limits at the usual pool, which has moved since.
    fn sealed(&self, attack: Attack<'_>, pool: Curve, trades: &[Victim], rng: &mut ChaCha20Rng) -> f64 {
        if let Attack::Seeing(bets) | Attack::Counting(bets) = attack {
            assert_eq!(bets.calls(), self.calls, "bets for so many calls");
        }
        let mut own = Own { pool, held: 0.0, gained: 0.0 };
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
        own.gained
    }

    fn wish(&self, rng: &mut ChaCha20Rng, pool: &Curve) -> Victim {
        let buying = rng.random();
        wish(rng, buying, pool, None)
    }
}

/// What the attacker has in the exchange.
struct Own {
    pool: Curve,
    held: f64,
    gained: f64,
}

impl Own {
    /// Tokens that would be in the pool at the price of the limits.
    fn unit(&self) -> f64 {
        (self.pool.coins * self.pool.tokens * POOL_TOKENS / POOL_COINS).sqrt()
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

fn trades(late: &[Late]) -> Vec<Victim> {
    late.iter().map(|late| late.trade).collect()
}

/// Which of the trades that a plan is about it lets run, and which it leaves out.
fn split<T: Copy>(plan: &Plan, trades: &[T]) -> (Vec<T>, Vec<T>) {
    let (run, left_out): (Vec<_>, Vec<_>) = plan.moves.iter().partition(|step| step.included);
    let of = |moves: Vec<&Move>| moves.iter().map(|step| trades[step.trade]).collect();
    (of(run), of(left_out))
}

/// What is gained by reading: by plan, and those whom the plan would leave out after the others by another one, as long as
/// that finds somebody to let run. Who is left then gains it nothing, wherever in the block.
fn in_the_clear(mut pool: Curve, mut trades: Vec<Victim>, leads: bool) -> f64 {
    let mut gained = 0.0;
    while !trades.is_empty() {
        let plan = Start { pool, worth: None, held: 0.0, leads }.plan(&trades);
        (gained, pool) = (gained + plan.gained, plan.pool);
        let (run, left_out) = split(&plan, &trades);
        if run.is_empty() {
            break;
        }
        trades = left_out;
    }
    gained
}

#[cfg(test)]
mod tests {
    use cascade_primitives::{ChainParams, Network};

    use super::*;

    const SETTINGS: Settings = Settings {
        nodes: 4,
        attackers: 1,
        term: 10,
        fee: 0,
        patience: Some(3),
        calls: 16,
        seed: 1,
        chains: 100,
        rounds: 250,
    };

    #[test]
    fn nobody_is_left_out_for_longer_than_allowed() {
        for patience in [Some(0), Some(1), Some(3), None] {
            // Two of seven lead two terms of five blocks on end at times, and hardly ever more.
            let settings = Settings { nodes: 7, attackers: 2, term: 5, patience, chains: 20, ..SETTINGS };
            for attack in [Attack::Together, Attack::OneSided, Attack::Told] {
                let longest = settings.measure(attack).longest;
                match patience {
                    Some(most) => assert_eq!(longest, most, "some wait for as long, none for longer"),
                    None => assert!((10..=20).contains(&longest), "{longest}"),
                }
            }
        }
    }

    /// The election leaves out the leader of the term before, but for the first of 256 terms.
    #[test]
    fn one_of_four_leads_a_quarter_and_hardly_ever_two_terms_on_end() {
        let settings = Settings { rounds: 200_000, ..SETTINGS };
        let schedule = settings.schedule(&mut ChaCha20Rng::seed_from_u64(1));
        let led = schedule.iter().filter(|&&own| own > 0).count();
        assert!((48_000..52_000).contains(&led), "{led}");
        let long = schedule.iter().filter(|&&own| own > 10).count();
        assert!(0 < long && long < 200 && schedule.iter().all(|&own| own <= 20), "{long}");
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
                    settings.sealed(Attack::Counting(&bets), pool, &named, &mut rng)
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
    fn what_hoarding_gains_is_found_and_is_little_in_mainnets_terms_and_more_in_longer_ones() {
        let term = ChainParams::of(Network::Mainnet).views_per_term;
        for fee in [0, 500, 3000] {
            let settings = Settings { fee, term, patience: None, chains: 200, ..SETTINGS };
            let bets = settings.bets();
            let clear = |settings: Settings| {
                let few = Settings { chains: 40, ..settings };
                let lows = [Attack::Together, Attack::OneSided].map(|attack| few.measure(attack).profit.low());
                lows[0].max(lows[1])
            };
            let long = Settings { term: 10, ..settings };
            let (margin, long_clear) = (0.05 * clear(settings), clear(long));
            for attack in [Attack::Seeing(&bets), Attack::Counting(&bets)] {
                let profit = settings.measure(attack).profit;
                assert!(profit.equivalent_to_zero(margin), "margin {margin}: {profit:?}");
                assert!(profit.power(margin) > 0.99, "margin {margin}: {profit:?}");
                let patient = long.measure(attack).profit;
                assert!(patient.low() > profit.high(), "{fee}: {profit:?} {patient:?}");
                // With 256 calls it is over 5% with less of a fee, which docs/attacker.md says; here are few calls.
                let most = if fee == 3000 { 0.05 } else { 0.065 };
                assert!(patient.high() < most * long_clear, "{fee}: {patient:?}, in the clear {long_clear}");
            }
            let told = settings.measure(Attack::Told).profit;
            assert!(told.low() > 2.0 * margin, "margin {margin}: {told:?}");
        }
    }

    /// Where terms adjoin, and with as many calls as the figures of docs/attacker.md; three views in a term were too many.
    #[test]
    fn three_of_ten_gain_little_in_mainnets_terms() {
        let term = ChainParams::of(Network::Mainnet).views_per_term;
        let settings = Settings { nodes: 10, attackers: 3, term, calls: 256, chains: 200, ..SETTINGS };
        let margin = 0.05 * Settings { chains: 100, ..settings }.measure(Attack::Together).profit.low();
        let profit = settings.measure(Attack::Counting(&settings.bets())).profit;
        assert!(profit.equivalent_to_zero(margin), "margin {margin}: {profit:?}");
        assert!(profit.power(margin) > 0.99, "margin {margin}: {profit:?}");
    }

    #[test]
    fn the_more_trades_are_in_a_block_the_more_there_is_to_bet_on() {
        let settings = Settings { chains: 2000, ..SETTINGS };
        let bets = settings.bets();
        let share = |trades| {
            let [clear, sealed] = [Attack::Together, Attack::Counting(&bets)].map(|a| settings.block(a, trades));
            (sealed.low() / clear.high(), sealed.high() / clear.low())
        };
        assert!(share(2).1 < 0.05 && share(16).0 > 0.08, "{:?} {:?}", share(2), share(16));
    }

    #[test]
    fn to_leave_out_one_side_gains_more_than_to_leave_out_all() {
        let settings = Settings { patience: None, rounds: 500, ..SETTINGS };
        let [together, one_sided] = [Attack::Together, Attack::OneSided].map(|a| settings.measure(a).profit);
        println!("{together:?} {one_sided:?}");
        assert!(one_sided.low() > together.high());
    }
}
