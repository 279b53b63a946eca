//! What an attacker earns on trades of others: on a chain in the clear and on an encrypted one.
//!
//! A constant-product exchange (testnet/contracts/Exchange.sol), users who trade on it, and an attacker who runs f of the
//! n sequencers. Everything is drawn from a seed, and everything that decides is the chain's own code: EVM and fees, the
//! reserve rule, what pools select, who leads, and on the encrypted chain envelopes, keys, shares, the beacon and the
//! shuffle. What is not there is the network: the attacker sees whatever comes in at once, and has its answer in every pool
//! before the next block is made, which is the best that it could hope for. [`network`] has the same in the simulator's.
//!
//! ```text
//!  round:   users' trades come in ----> the attacker answers ----> block: by its own will if the attacker leads,
//!           (1 to 3)                    (sees what is in the       by tip if another one does
//!                                        clear, and the state)        |
//!                                                                     v
//!           next round <---- the attacker closes what it <---- executed; on the encrypted chain ordered, then
//!                            left open, in the next block      opened and shuffled by the beacon
//! ```
//!
//! # What counts as profit
//!
//! All fees are paid; tips of the attacker's own transactions come back to it in its own blocks. There are two markets
//! ([`Prices`]).
//!
//! **Wandering.** What a token is worth nobody knows but from what others pay for it. Users buy and sell so that the price is
//! expected to stay where their trades have left it: there is nothing to take back behind them. The attacker ends each round
//! with the tokens that it began with, so its profit is coins and needs no price. That the price is expected to stay holds
//! for who holds nothing when users name their limits, and as long as these are not stale: see [`Strategy::Pump`] (where
//! `loss` and `harm` below say nothing, since they start from a price that the attacker made) and [`Strategy::Hoard`]. This
//! is the measure of what it takes from the users: its *whole* profit, in the clear and sealed. (Efficient markets in the
//! sense of Fama; in the model of Kyle, 1985, the price after each trade is what the token is expected to be worth.)
//!
//! **Anchored.** A token is worth a fixed number of coins, at which the pool stands when a round begins; so each trade has a
//! gain, and holding something for longer has none. Here whoever trades moves the price away from what all know to be
//! right, and whoever comes behind can take that back. To keep the two apart, of each block three things are measured, in
//! both markets:
//!
//! - `total`: what the attacker gains, if nobody is faster than it in closing what is left open after the block.
//! - `back`: what it would have gained in the very same block, at the same places, had it not traded *ahead* of anybody
//!   but only brought the price back after others had moved it (arbitrage). Users lose nothing by that: their trades run
//!   as if there was no attacker. It is open to everybody, on both chains.
//! - `front` = `total - back`: what trading ahead of others earns, that is what knowing a trade, or its place, is worth.
//!   Without an exchange fee, and where no trade fails, it is what the users lose (`loss`), but for gas.
//!
//! A fourth, `harm`, is what users get less than they would have, had they alone traded, in the same order: neither ahead
//! of them nor behind anything of the attacker's. (Trades are compared that ran, without their limits: those that fail
//! where nobody brings prices back are `saved`, and would leave only the lucky ones to compare with.)
//!
//! # The attacker
//!
//! In the clear ([`Strategy::Sandwich`]) it knows size, direction and slippage of each trade, computes the entry that gains
//! most, and puts itself right before and after its victim: as the leader by placing, else by tip. Or it takes all that wait
//! together ([`Strategy::Together`], [`plan`]), and as the leader leaves everything out until its last block; or one side alone,
//! while the other runs ([`Strategy::OneSided`]).
//!
//! Encrypted, it sees payers and gas limits. It sends a contract (testnet/contracts/Sandwich.sol) that looks at the pool when
//! it comes to run, so that it needs no luck to know whether a trade has come before it. [`Strategy::Blind`] enters and
//! closes once. [`Strategy::Strew`] fills the block with transactions of which each enters if nobody has traded yet and
//! closes if somebody has; the direction is a guess ([`Guess`]), drawn when it is sent or, from what others have traded
//! last, when it runs; and as the leader it may leave out all but one trade of
//! others. It may withhold its shares. [`copies`] tries what else one can do with others' ciphertexts. [`Strategy::Hoard`]
//! leaves out all of them; how much there is to gain by that at the best [`hoard`] finds in a model without a chain.
//!
//! # The outsider
//!
//! What of all this is owed to the sequencers that the attacker runs, the same game without them shows
//! ([`Role::Outsider`], compared chain by chain with [`advantage`]): who leads no block and hears nothing before it is
//! ordered sends the same envelopes into every block, by a coin, through a node's pool like anybody. [`duel`] has both on
//! one chain, against each other.

pub mod chain;
pub mod cipher;
pub mod copies;
pub mod curve;
pub mod duel;
pub mod hoard;
pub mod network;
mod plain;
pub mod plan;
mod round;
mod sealed;
pub mod stats;
pub mod users;

use std::{collections::BTreeMap, sync::Arc};

use alloy_primitives::{B256, hex};
use cascade_primitives::Height;
use rayon::prelude::*;

use self::{cipher::Keys, stats::Estimate, users::Habits};

/// How the attacker finds a direction for what it cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guess {
    /// A coin.
    Coin,
    /// What the payers' trades were that were revealed before.
    History,
    /// What trades with such gas limits were.
    Gas,
    /// What others traded last, in this block or before: the next goes on like it.
    Along,
    /// The same, and the next goes back.
    Against,
}

/// What the attacker does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Strategy {
    /// In the clear: the best entry ahead of each trade, and out after it.
    Sandwich,
    /// In the clear: all that wait together ([`plan`]), and as the leader not before the last block that it leads.
    Together {
        /// What it buys or sells before users name their limits, as a share of the pool; see [`Strategy::Pump`].
        before: f64,
    },
    /// In the clear: the same, but as the leader it leaves out purchases alone, or sales alone, until its last block. The
    /// others run, so that the price goes the way on which the limits of those that wait are worth most.
    OneSided,
    /// Encrypted: in and out once, without looking.
    Blind {
        /// What it enters with, as a share of the pool.
        size: f64,
    },
    /// Encrypted: a block full of transactions that look before they act.
    Strew {
        /// How many.
        count: usize,
        /// What it enters with, as a share of the pool.
        size: f64,
        /// In which direction.
        guess: Guess,
        /// Whether it leaves out all trades but one when it leads.
        isolate: bool,
        /// Whether it withholds its shares of every block.
        withhold: bool,
    },
    /// Encrypted: it leaves out all trades as long as it leads, and strews transactions over the blocks of others that bet
    /// on how many of those that waited fail for their limits.
    Hoard {
        /// How many.
        count: usize,
    },
    /// Encrypted: it buys (or sells) in a block before users name their limits, and gives part of that back in theirs, so
    /// that those who trade the other way fail. The one strategy that holds something when a round begins.
    Pump {
        /// How many transactions it strews over their block.
        count: usize,
        /// What it enters with beforehand, as a share of the pool.
        before: f64,
        /// What of that it keeps while they trade.
        during: f64,
    },
}

impl Strategy {
    /// Whether it is one for an encrypted chain.
    #[must_use]
    pub const fn is_sealed(&self) -> bool {
        !matches!(self, Self::Sandwich | Self::Together { .. } | Self::OneSided)
    }
}

/// Where prices come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prices {
    /// A token is worth a fixed number of coins, whoever trades: what users do to the price can be taken back at a gain.
    Anchored,
    /// From the trades alone: users buy or sell so that the price is expected to stay where their trades left it.
    Wandering,
}

/// Who the attacker is. What only a sequencer has counts on an encrypted chain alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It runs sequencers: leads, leaves out what it likes, and hears every envelope before it is ordered.
    Sequencer,
    /// Anybody: no seat, no gossip. Knows the state and what was revealed, not what waits nor from whom.
    Outsider,
}

/// What stands for the encryption.
#[derive(Clone, Debug)]
pub enum Sealing {
    /// It is done.
    Real(Keys),
    /// It is taken for granted; given beacons are used.
    Assumed(BTreeMap<Height, B256>),
}

/// A measurement.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the attacker does, which also says whether the chain is encrypted.
    pub strategy: Strategy,
    /// What stands for the encryption.
    pub sealing: Sealing,
    /// Sequencers.
    pub nodes: usize,
    /// Those of them that the attacker runs, if it runs any.
    pub attackers: usize,
    /// Who the attacker is.
    pub role: Role,
    /// Where prices come from.
    pub prices: Prices,
    /// The exchange's fee in millionths.
    pub fee: u32,
    /// The users.
    pub habits: Habits,
    /// Where all randomness comes from.
    pub seed: u64,
    /// Chains of their own, each from genesis on: the batches of the statistics.
    pub chains: usize,
    /// Rounds of each chain.
    pub rounds: usize,
}

/// Sums over rounds, in coins.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Trades of users that were executed or failed for their limit.
    pub trades: f64,
    /// See the module.
    pub total: f64,
    /// See the module.
    pub back: f64,
    /// What of `back` was gained in the blocks themselves, before anybody else could.
    pub back_inside: f64,
    /// What users got less than they would have without the attacker, where they traded in both cases.
    pub loss: f64,
    /// What users got less than with nothing of the attacker's in the block.
    pub harm: f64,
    /// Trades that would have failed for their limit with nothing of the attacker's in the block, less those that did.
    pub saved: f64,
    /// Trades that failed for their limit, less those that would have without the attacker.
    pub spoiled: f64,
    /// Blocks that trades waited for since they were left out.
    pub waited: f64,
    /// Fees of the attacker.
    pub fees: f64,
    /// Gas that users were charged for.
    pub gas: f64,
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.trades += other.trades;
        self.total += other.total;
        self.back += other.back;
        self.back_inside += other.back_inside;
        self.loss += other.loss;
        self.harm += other.harm;
        self.saved += other.saved;
        self.spoiled += other.spoiled;
        self.waited += other.waited;
        self.fees += other.fees;
        self.gas += other.gas;
    }
}

/// What a measurement gave; all for each trade of a user, in coins.
#[derive(Clone, Debug)]
pub struct Report {
    /// Trades.
    pub trades: f64,
    /// What trading ahead earns.
    pub front: Estimate,
    /// What the attacker gains in all.
    pub total: Estimate,
    /// What it would gain by closing alone.
    pub back: Estimate,
    /// What of that it would gain in the blocks themselves.
    pub back_inside: Estimate,
    /// What users lose.
    pub loss: Estimate,
    /// What users lose against blocks without the attacker.
    pub harm: Estimate,
    /// Trades that failed without it and not with it.
    pub saved: Estimate,
    /// Trades spoiled.
    pub spoiled: Estimate,
    /// Blocks that a trade waited for since it was left out.
    pub waited: Estimate,
    /// The attacker's fees.
    pub fees: Estimate,
    /// Gas that a user was charged for, for each trade.
    pub gas: Estimate,
}

/// Runs a measurement.
#[must_use]
pub fn measure(settings: &Settings) -> Report {
    Report::of(&chains(settings))
}

/// The sums of each chain of a measurement. Chains run beside each other; the answer does not depend on how many at a time.
#[must_use]
pub fn chains(settings: &Settings) -> Vec<Sums> {
    let settings = Arc::new(settings.clone());
    let sum = |number| {
        let mut sums = Sums::default();
        one_chain(&settings, number).iter().for_each(|round| sums.add(round));
        sums
    };
    (0..settings.chains as u64).into_par_iter().map(sum).collect()
}

/// What the first of two gains more than the second for each trade of a user. Chains of the same number have the same
/// seed, so the same users want to trade the same, and are compared with each other.
///
/// # Panics
/// If the numbers of chains differ.
#[must_use]
pub fn advantage(of: &[Sums], over: &[Sums]) -> Estimate {
    assert_eq!(of.len(), over.len(), "each chain has its pair");
    let difference = |(of, over): (&Sums, &Sums)| of.total / of.trades - over.total / over.trades;
    Estimate::of(&of.iter().zip(over).map(difference).collect::<Vec<_>>())
}

impl Report {
    /// What the sums of chains say.
    ///
    /// # Panics
    /// With fewer than two.
    #[must_use]
    pub fn of(chains: &[Sums]) -> Self {
        let each = |of: fn(&Sums) -> f64| Estimate::of(&chains.iter().map(|s| of(s) / s.trades).collect::<Vec<_>>());
        Self {
            trades: chains.iter().map(|sums| sums.trades).sum(),
            front: each(|s| s.total - s.back),
            total: each(|s| s.total),
            back: each(|s| s.back),
            back_inside: each(|s| s.back_inside),
            loss: each(|s| s.loss),
            harm: each(|s| s.harm),
            saved: each(|s| s.saved),
            spoiled: each(|s| s.spoiled),
            waited: each(|s| s.waited),
            fees: each(|s| s.fees),
            gas: each(|s| s.gas),
        }
    }
}

/// The rounds of one chain.
#[must_use]
pub fn one_chain(settings: &Settings, number: u64) -> Vec<Sums> {
    play(settings, number, settings.rounds).0
}

/// The first rounds of one chain, with the beacons of its blocks.
#[must_use]
pub fn play(settings: &Settings, number: u64, rounds: usize) -> (Vec<Sums>, BTreeMap<Height, B256>) {
    match settings.strategy {
        Strategy::Sandwich | Strategy::Together { .. } | Strategy::OneSided => {
            (plain::Market::new(settings, number).run(rounds), BTreeMap::new())
        }
        Strategy::Blind { .. } | Strategy::Strew { .. } | Strategy::Hoard { .. } | Strategy::Pump { .. } => {
            let mut market = sealed::Market::new(settings, number);
            (market.run(rounds), market.beacons())
        }
    }
}

/// Code that makes a contract of testnet/contracts.
fn artifact(json: &str) -> Vec<u8> {
    let (_, rest) = json.split_once("\"bytecode\": \"0x").expect("an artifact has bytecode");
    let (digits, _) = rest.split_once('"').expect("a string ends");
    hex::decode(digits).expect("bytecode is hex")
}
