//! Those who trade, and what an attacker can know of it beforehand.

use alloy_primitives::{Address, U256};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;

use super::{
    chain::Account,
    curve::{Curve, Victim},
};

/// How users trade.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Habits {
    /// How likely a user trades the way that it prefers; one half if nothing can be foretold.
    pub repeats: f64,
    /// Where the gas limit of an envelope comes from.
    pub gas: Gas,
}

/// Where the gas limit of an envelope comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gas {
    /// The application sets the same for every trade.
    Set,
    /// The wallet estimates what this very trade needs, and adds half as much again.
    Estimated,
    /// The same, and the proxy rounds it up to one of its classes.
    Classes,
}

/// Users whose trades nobody can foretell.
pub const UNFORESEEN: Habits = Habits { repeats: 0.5, gas: Gas::Set };

/// Slippages that users tolerate, in hundredths of a percent.
pub(super) const TOLERATED: [f64; 3] = [50.0, 100.0, 200.0];

/// One who trades.
#[derive(Debug)]
pub struct User {
    /// The wallet.
    pub wallet: Account,
    /// The payer of its proxy.
    pub payer: Account,
    prefers: bool,
    /// Whether a trade of it waits.
    pub waits: bool,
}

/// A trade that somebody wants.
#[derive(Clone, Debug)]
pub struct Order {
    /// Number of the user.
    pub user: usize,
    /// What it asks for, in whole coins and tokens.
    pub victim: Victim,
    /// What it pays, in wei or the token's smallest unit.
    pub paid: U256,
    /// The least that it takes.
    pub least: U256,
}

/// All users.
#[derive(Debug)]
pub struct Users {
    /// Each of them.
    pub all: Vec<User>,
    habits: Habits,
    rng: ChaCha20Rng,
}

/// Wei of a coin, and smallest units of a token.
pub const UNIT: f64 = 1e18;

/// An amount in smallest units.
#[must_use]
pub fn units(whole: f64) -> U256 {
    U256::from((whole * UNIT) as u128)
}

impl Users {
    /// So many users.
    #[must_use]
    pub fn new(count: usize, habits: Habits, seed: u64) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let user = |i| User {
            wallet: Account::of("user", i),
            payer: Account::of("payer", i),
            prefers: rng.random_bool(0.5),
            waits: false,
        };
        let all = (0..count as u64).map(user).collect();
        Self { all, habits, rng }
    }

    /// What comes in before the next block: one to three trades of users of whom none waits, each between a thousandth
    /// and a hundredth of the pool, with the least price that its user takes reckoned from the pool as it is. A sale is of
    /// tokens for so many coins at what they are known to be worth, or else at the pool's price.
    pub fn orders(&mut self, pool: &Curve, worth: Option<f64>) -> Vec<Order> {
        (0..arriving(&mut self.rng)).filter_map(|_| self.order(pool, worth)).collect()
    }

    fn order(&mut self, pool: &Curve, worth: Option<f64>) -> Option<Order> {
        let free: Vec<usize> = (0..self.all.len()).filter(|&i| !self.all[i].waits).collect();
        let user = *free.get(self.rng.random_range(0..free.len().max(1)))?;
        let prefers = self.all[user].prefers;
        let buying = if self.rng.random_bool(self.habits.repeats) { prefers } else { !prefers };
        let victim = wish(&mut self.rng, buying, pool, worth);
        self.all[user].waits = true;
        Some(Order { user, victim, paid: units(victim.paid), least: units(victim.least) })
    }
}

/// How many trades come in before a block.
pub(super) fn arriving(rng: &mut ChaCha20Rng) -> usize {
    [1, 1, 1, 2, 2, 3][rng.random_range(0..6)]
}

/// What somebody asks for who would rather buy, or sell.
pub(super) fn wish(rng: &mut ChaCha20Rng, mut buying: bool, pool: &Curve, worth: Option<f64>) -> Victim {
    let coins = pool.coins / 1000.0 * 10f64.powf(rng.random());
    if worth.is_none() && buying {
        buying = !rng.random_bool(tilt(coins / pool.coins));
    }
    let paid = if buying { coins } else { coins / worth.unwrap_or(pool.coins / pool.tokens) };
    let tolerated = TOLERATED[rng.random_range(0..TOLERATED.len())] / 10_000.0;
    Victim { buying, paid, least: pool.quote(buying, paid) * (1.0 - tolerated) }
}

/// How many of the purchases for such a share of the pool, which are half of all trades, have to be sales in their place, so
/// that the price is expected to stay where it is: a purchase raises it by `(1 + share)^2`, a sale lowers it by as much
/// again, and the mean of both lies above what it was.
pub(super) fn tilt(share: f64) -> f64 {
    let step = (1.0 + share).powi(2);
    1.0 - 2.0 / (1.0 + step)
}

/// What an attacker has learned from trades that were revealed.
#[derive(Debug, Default)]
pub struct Knowledge {
    /// Whether the last one that ran bought.
    pub last: Option<bool>,
    /// For each payer how often it bought more than it sold.
    payers: std::collections::HashMap<Address, i64>,
    /// Of sales and purchases: how many, and the sum of their gas limits.
    gas: [(u64, u64); 2],
}

impl Knowledge {
    /// A trade was revealed.
    pub fn learn(&mut self, seen: &Seen, buying: bool) {
        *self.payers.entry(seen.payer).or_default() += if buying { 1 } else { -1 };
        let (count, sum) = &mut self.gas[usize::from(buying)];
        *count += 1;
        *sum += seen.gas_limit;
    }

    /// What the payer's past says: positive for buying.
    #[must_use]
    pub fn by_history(&self, seen: &Seen) -> i64 {
        self.payers.get(&seen.payer).map_or(0, |balance| balance.signum())
    }

    /// What the gas limit says: of which kind of trade the average is nearer.
    #[must_use]
    pub fn by_gas(&self, seen: &Seen) -> i64 {
        let [(sales, of_sales), (purchases, of_purchases)] = self.gas;
        if sales == 0 || purchases == 0 {
            return 0;
        }
        let distance = |sum: u64, count: u64| (sum as f64 / count as f64 - seen.gas_limit as f64).abs();
        let (sale, purchase) = (distance(of_sales, sales), distance(of_purchases, purchases));
        if sale == purchase {
            0
        } else if purchase < sale {
            1
        } else {
            -1
        }
    }
}

/// What everybody sees of an envelope. (Fee, size and the rest are the same for all trades of the market.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who pays.
    pub payer: Address,
    /// Gas limit.
    pub gas_limit: u64,
}
