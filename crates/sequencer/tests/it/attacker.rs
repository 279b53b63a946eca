//! An attacker on real processes, that runs one of four sequencers and hears all gossip.
//!
//! ```text
//!   users ----> nodes 0, 1, 2 ----> gossip ----> the attacker's ear
//!                                                   | answers, in milliseconds
//!               blocks <---- node 3 of the attacker <+
//! ```
//!
//! Its sequencer builds blocks in its favour (`pool.favour`): one trade of somebody else amid its own, all others left out;
//! and it withholds its shares (`shares.withhold`). In the clear it trades around whoever trades. Of an encrypted chain's
//! gossip it can make nothing but that somebody does something: it strews envelopes over the block that look at the pool
//! when they come to run, in a direction by a coin, copies, changes and repeats what it hears, and asks for shares early.
//!
//! Nobody knows what a token is worth, and users buy or sell so that the price is expected to stay. After each round of
//! trades the attacker gives back the tokens that it has gained, or buys those that it lost; so its profit is coins, all that
//! it ends with less all that it began with, fees paid. What can be gained without trading ahead of anybody is nothing here.
//!
//! How much it earns in ways that take more trades to tell, and with a fixed worth, is measured elsewhere
//! (benches/src/market.rs).

mod ear;
mod market;

use std::{cmp::Reverse, collections::BTreeSet};

use alloy_consensus::TxEnvelope;
use alloy_eips::eip2718::Decodable2718 as _;
use alloy_primitives::{Address, Bytes, TxKind, U256, keccak256};
use cascade_crypto::ecdsa::sign_digest;
use cascade_primitives::{Decode as _, Encode as _, Envelope, Item};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use self::{
    ear::Ear,
    market::{Curve, Market, PAID, POOL_COINS, SEAT, Sent, TIP, TOLERATED, Trade, thief, units, whole, words},
};
use crate::{cluster::wait_for, sealed};

/// What a sandwich of one trade takes: all that the user tolerates.
const TOLERANCE: f64 = PAID * TOLERATED;
/// Trades of a round.
const TRADES: usize = 2;
/// Rounds until the attacker has led the block of a trade: that it takes more has a probability of 0.75 to this power.
const MOST_ROUNDS: usize = 60;

/// How an attacker meets sealed trades.
#[derive(Clone, Copy)]
struct Strewn {
    /// Envelopes for each trade.
    count: usize,
    /// With so many coins, or tokens for so many, each enters.
    coins: f64,
    /// Whether somebody tells it the direction.
    told: bool,
}

const BLIND: Strewn = Strewn { count: 8, coins: 0.4, told: false };

impl Strewn {
    /// What a trade brings or costs who has entered ahead of it: it moves the price by `2 PAID / POOL_COINS`.
    fn stake(&self) -> f64 {
        self.coins * 2.0 * PAID / POOL_COINS
    }

    /// The most that it can be as the pool moves.
    fn most(&self) -> f64 {
        1.2 * self.stake()
    }
}

/// A trade on the exchange and its tip, if that is what the bytes say.
fn read(item: &Bytes, exchange: Address) -> Option<(u128, Trade)> {
    let transaction = TxEnvelope::decode_2718(&mut item.as_ref()).ok()?;
    let inner = transaction.as_eip1559()?.tx();
    (inner.to == TxKind::Call(exchange)).then_some(())?;
    let word = |place: usize| Some(whole(U256::try_from_be_slice(inner.input.get(4 + 32 * place..36 + 32 * place)?)?));
    let selects = |signature: &str| inner.input.starts_with(&keccak256(signature)[..4]);
    let trade = if selects("buy(uint256)") {
        Some(Trade { buying: true, paid: whole(inner.value), least: word(0)? })
    } else if selects("sell(uint256,uint256)") {
        Some(Trade { buying: false, paid: word(0)?, least: word(1)? })
    } else {
        None
    };
    trade.map(|trade| (inner.max_priority_fee_per_gas, trade))
}

/// What the attacker has gained in a round of which all has run, in coins, once it has given back what it holds.
fn profit(market: &mut Market, ear: &mut Ear, before: U256) -> f64 {
    let closed = [market.attack(words("close()", &[]), TIP)];
    ear.expect(&closed);
    market.submit(SEAT, &closed);
    assert!(market.ran(&closed));
    let after = market.wealth();
    if after >= before { whole(after - before) } else { -whole(before - after) }
}

/// A round in the clear.
fn sandwich(market: &mut Market, ear: &mut Ear, trades: usize) -> f64 {
    let (before, pool) = (market.wealth(), market.pool());
    let mut sent: Vec<Sent> = (0..trades).map(|place| market.trade(&pool, place).1).collect();
    let (mut expected, exchange) = (pool, market.exchange);
    let mut heard: Vec<(u128, Trade)> =
        (0..trades).map(|_| read(&ear.next(&market.cluster), exchange).expect("it can be read")).collect();
    heard.sort_by_key(|(tip, _)| Reverse(*tip));
    for (tip, trade) in heard {
        let entry = expected.entry(&trade);
        expected.sandwich(entry, &trade);
        if entry > 0.0 {
            let enter = words("enter(bool,uint256)", &[U256::from(trade.buying), units(entry)]);
            let own = [market.attack(enter, tip + 1), market.attack(words("close()", &[]), tip - 1)];
            ear.expect(&own);
            market.submit(SEAT, &own);
            sent.extend(own);
        }
    }
    // A user's may fail: the tips say in which order it all runs, if it gets into one block.
    market.ran(&sent);
    profit(market, ear, before)
}

/// A round on the encrypted chain.
fn strew(market: &mut Market, ear: &mut Ear, trades: usize, strewn: Strewn, coin: &mut StdRng) -> f64 {
    market.renew_seal();
    ear.ask_early(&market.cluster);
    let (before, pool) = (market.wealth(), market.pool());
    let traded: Vec<(Trade, Sent)> = (0..trades).map(|place| market.trade(&pool, place)).collect();
    let mut sent: Vec<Sent> = traded.iter().map(|(_, sent)| sent.clone()).collect();
    for _ in 0..trades {
        let heard = ear.next(&market.cluster);
        assert_says_nothing(market, &heard, &traded);
        let lot = coin.random_bool(0.5);
        let told = || traded.iter().find(|(_, sent)| sent.item == heard).expect("it is what a user sent").0.buying;
        let own = lurk(market, &pool, strewn, trades, if strewn.told { told() } else { lot });
        ear.expect(&own);
        market.submit(SEAT, &own);
        sent.extend(own);
    }
    assert!(market.ran(&sent), "no limit is so narrow that a blind entry reaches it");
    profit(market, ear, before)
}

fn lurk(market: &mut Market, pool: &Curve, strewn: Strewn, entries: usize, buying: bool) -> Vec<Sent> {
    let paid = units(pool.worth(buying, strewn.coins));
    let data = words("lurk(bool,uint256,uint256)", &[U256::from(buying), paid, U256::from(entries)]);
    (0..strewn.count).map(|_| market.attack(data.clone(), TIP)).collect()
}

/// Nothing of a trade is in what is heard of it.
fn assert_says_nothing(market: &Market, heard: &Bytes, traded: &[(Trade, Sent)]) {
    assert_eq!(read(heard, market.exchange), None, "nothing in the clear");
    let addresses = market.users().chain([market.exchange]).map(|address| address.to_vec());
    let signatures = traded.iter().map(|(_, sent)| sent.raw[sent.raw.len() - 32..].to_vec());
    for secret in addresses.chain(signatures) {
        assert!(!heard.windows(secret.len()).any(|part| part == secret), "part of a trade is heard");
    }
}

/// In each block that the attacker's sequencer led stands at most one transaction of somebody else. Answers in how many of
/// them one stands, with the attacker's around it.
fn assert_favoured(market: &Market) -> usize {
    let led = market.led();
    for block in &led {
        assert!(block.iter().filter(|own| !**own).count() <= 1, "{led:?}");
    }
    led.iter().filter(|block| block.contains(&false) && block.contains(&true)).count()
}

#[test]
fn in_the_clear_who_hears_a_trade_trades_around_it() {
    let mut market = Market::start(false, 1);
    let mut ear = Ear::new(&market.cluster);
    let mut profits = Vec::new();
    while profits.len() < 4 || assert_favoured(&market) == 0 && profits.len() < MOST_ROUNDS {
        profits.push(sandwich(&mut market, &mut ear, TRADES));
    }
    assert!(assert_favoured(&market) > 0, "its sequencer never led");
    for block in market.led().iter().filter(|block| block.contains(&false) && block.contains(&true)) {
        assert!(block[0] && !block[1], "in front of a trade and behind it: {block:?}");
    }
    let profit = profits.iter().sum::<f64>() / (profits.len() * TRADES) as f64;
    // Half of the trades, if the second of each round went free; and let some be missed.
    assert!(profit > 0.25 * TOLERANCE, "{profit} coins a trade: {profits:?}");
    ear.stop(&market.cluster);
    market.cluster.assert_agree();
}

#[test]
fn of_a_sealed_trade_nothing_is_heard_and_who_enters_blindly_takes_no_more_than_it_risks() {
    let mut market = Market::start(true, 2);
    let (mut ear, mut coin) = (Ear::new(&market.cluster), StdRng::seed_from_u64(3));
    let (mut profits, mut heard) = (Vec::new(), Vec::new());
    while profits.len() < 4 || assert_favoured(&market) == 0 && profits.len() < MOST_ROUNDS {
        let profit = strew(&mut market, &mut ear, TRADES, BLIND, &mut coin);
        assert!(profit.abs() < BLIND.most() * TRADES as f64, "{profit} of {TRADES} trades");
        profits.push(profit);
        heard.extend(ear.shares());
    }
    assert!(assert_favoured(&market) > 0, "its sequencer never led");
    assert!(BLIND.most() < TOLERANCE / 8.0, "not an eighth of what it takes in the clear");

    // Every share came with a commit certificate, however early it was asked for; and none from the attacker's sequencer,
    // whose own blocks were opened by the others' like all.
    let senders: BTreeSet<_> = heard.iter().map(|(from, ..)| *from).collect();
    let honest = market.cluster.nodes[..SEAT].iter().map(|node| node.keys.identity.node_id());
    assert_eq!(senders, honest.collect());
    heard.iter().for_each(|(_, shares, certificate)| sealed::assert_certified(&market.cluster, shares, certificate));
    ear.stop(&market.cluster);
    market.cluster.assert_agree();
}

#[test]
fn what_the_attacker_hears_cannot_be_used_under_another_payer_nonce_or_epoch_nor_again() {
    let mut market = Market::start(true, 4);
    let mut ear = Ear::new(&market.cluster);
    let pool = market.pool();
    let (_, sent) = market.trade(&pool, 0);
    let heard = ear.next(&market.cluster);
    let Ok(Item::Envelope(envelope)) = Item::from_slice(&heard) else { panic!("an envelope is heard") };
    let mut next = envelope.clone();
    next.nonce += 1;
    let mut later = envelope.clone();
    later.epoch = later.epoch.next();
    let mut earlier = envelope.clone();
    earlier.epoch.0 -= 1;

    let context = market.seal.as_ref().expect("it is encrypted").context;
    let refused = |envelope: &Envelope| market.refused(SEAT, &Item::Envelope(envelope.clone()).to_bytes());
    let stolen = |envelope: &Envelope, thief_: u64| {
        let digest = envelope.digest(&context);
        refused(&Envelope { signature: sign_digest(thief(thief_).signing_key(), &digest), ..envelope.clone() })
    };
    // Signed by a payer of its own, who could pay.
    for (thief, envelope) in [(0, &envelope), (1, &next)] {
        let why = stolen(envelope, thief);
        assert!(why.contains("proof does not hold"), "{why}");
    }
    for envelope in [&later, &earlier] {
        for why in [stolen(envelope, 2), refused(envelope)] {
            let of = format!("sealed to the key of epoch {}, which this node does not have", envelope.epoch.0);
            assert!(why.contains(&of), "{why}");
        }
    }
    // With the user's signature, which then is another payer's, who has nothing.
    let why = refused(&next);
    assert!(why.contains("insufficient funds"), "{why}");
    // As it is, before it has run and afterwards.
    let mut whys = vec![market.refused(SEAT, &heard)];
    assert!(market.ran(&[sent]));
    wait_for("it has run at the attacker's node", || {
        whys.push(market.refused(SEAT, &heard));
        whys.last()?.contains("nonce too low").then_some(())
    });
    assert!(whys.iter().all(|why| why.contains("already known") || why.contains("nonce too low")), "{whys:?}");
    ear.stop(&market.cluster);
    market.cluster.assert_agree();
}

/// The tests above can see it if something is heard: told the direction, the same attacker earns.
#[test]
fn who_is_told_the_direction_of_sealed_trades_earns_on_them() {
    const ROUNDS: usize = 8;
    let strewn = Strewn { count: 15, coins: 2.0, told: true };
    let mut market = Market::start(true, 5);
    let (mut ear, mut coin) = (Ear::new(&market.cluster), StdRng::seed_from_u64(6));
    let profits: Vec<f64> = (0..ROUNDS).map(|_| strew(&mut market, &mut ear, 1, strewn, &mut coin)).collect();
    // The trade comes before all 15 envelopes in one round of 16, and then brings nothing. That it does so in more than six of
    // eight has a probability of 3e-8.
    let (sum, stake) = (profits.iter().sum::<f64>(), strewn.stake());
    println!("told the direction: {:.2} thousandths of a coin a trade", 1e3 * sum / ROUNDS as f64);
    assert!(sum > 2.0 * 0.8 * stake, "{profits:?} of {stake}");
    assert!(profits.iter().all(|profit| *profit > -0.1 * stake), "it never stands on the wrong side: {profits:?}");
    ear.stop(&market.cluster);
    market.cluster.assert_agree();
}

/// A mean for each trade, with half of its 99% interval, from rounds of two that are independent of one another.
struct Estimate {
    mean: f64,
    half: f64,
}

impl Estimate {
    /// Student's quantile that leaves half a percent above it, with 99 degrees of freedom.
    const STUDENT: f64 = 2.626;

    fn of(rounds: &[f64]) -> Self {
        let count = rounds.len() as f64;
        assert!(count >= 100.0, "the quantile is that of a hundred");
        let mean = rounds.iter().sum::<f64>() / count;
        let variance = rounds.iter().map(|round| (round - mean).powi(2)).sum::<f64>() / (count - 1.0);
        let scale = 1.0 / TRADES as f64;
        Self { mean: mean * scale, half: Self::STUDENT * (variance / count).sqrt() * scale }
    }
}

/// The long run: 200 trades on each chain.
#[test]
fn two_hundred_sealed_trades_bring_within_a_twentieth_of_what_plain_ones_do() {
    const ROUNDS: usize = 100;
    if std::env::var_os("CASCADE_SLOW").is_none() {
        return;
    }
    let tell = |chain, market: &Market, profit: &Estimate| {
        let led = assert_favoured(market);
        println!("{chain}: {} trades, {led} of them in blocks that the attacker led", ROUNDS * TRADES);
        println!("    {:.3} +- {:.3} thousandths of a coin a trade", profit.mean * 1e3, profit.half * 1e3);
    };
    let mut market = Market::start(false, 7);
    let mut ear = Ear::new(&market.cluster);
    let profits: Vec<f64> = (0..ROUNDS).map(|_| sandwich(&mut market, &mut ear, TRADES)).collect();
    let plain = Estimate::of(&profits);
    tell("in the clear", &market, &plain);
    drop((market, ear));

    let mut market = Market::start(true, 8);
    let (mut ear, mut coin) = (Ear::new(&market.cluster), StdRng::seed_from_u64(9));
    let mut profits = Vec::new();
    for _ in 0..ROUNDS {
        profits.push(strew(&mut market, &mut ear, TRADES, BLIND, &mut coin));
        ear.shares();
    }
    let sealed = Estimate::of(&profits);
    tell("sealed", &market, &sealed);
    let squares: f64 = profits.iter().map(|profit| (profit / BLIND.stake()).powi(2)).sum();
    println!("    by their spread, it was ahead of {:.0}% of them", 100.0 * squares / (ROUNDS * TRADES) as f64);
    let margin = 0.05 * (plain.mean - plain.half);
    let errors = margin * Estimate::STUDENT / sealed.half;
    let within = sealed.mean + sealed.half < margin && sealed.mean - sealed.half > -margin;
    println!("    a twentieth is {:.3}, {errors:.1} standard errors; within it: {within}", margin * 1e3);
    assert!(plain.mean - plain.half > 0.0, "it earns in the clear");
    assert!(within, "{profits:?}");
}
