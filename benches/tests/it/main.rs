//! What an attacker earns on others' trades (`cascade_benches::market`).

mod network;

use std::collections::BTreeMap;

use cascade_benches::market::{
    Guess, Prices, Report, Role, Sealing, Settings, Strategy, advantage, chains,
    cipher::Keys,
    copies::copies,
    duel::duel,
    measure, one_chain, play,
    users::{Gas, Habits, UNFORESEEN},
};

fn strewn(count: usize, size: f64, guess: Guess) -> Strategy {
    Strategy::Strew { count, size, guess, isolate: true, withhold: false }
}

fn settings(strategy: Strategy) -> Settings {
    Settings {
        strategy,
        sealing: Sealing::Assumed(BTreeMap::new()),
        nodes: 4,
        attackers: 1,
        role: Role::Sequencer,
        prices: Prices::Anchored,
        fee: 0,
        habits: UNFORESEEN,
        seed: 1,
        chains: 30,
        rounds: 20,
    }
}

/// A twentieth of what the plain chain gives, counted from the lower end of its interval.
fn margin(settings: &Settings) -> f64 {
    let plain = measure(&Settings { strategy: Strategy::Sandwich, ..settings.clone() });
    assert!(plain.front.low() > 0.0, "clearly positive on a chain in the clear: {plain:?}");
    assert!(plain.front.mean > plain.back.mean, "{plain:?}");
    0.05 * plain.front.low()
}

#[test]
fn trading_ahead_pays_in_the_clear_and_nothing_when_sealed() {
    let sealed = settings(strewn(8, 0.0005, Guess::Coin));
    let margin = margin(&sealed);
    let report = measure(&sealed);
    assert!(report.trades > 900.0, "{report:?}");
    assert!(report.front.equivalent_to_zero(margin), "margin {margin}: {report:?}");
    assert!(report.front.power(margin) > 0.9, "margin {margin}: {report:?}");
    // The control: the same attack, where the gas limit gives the direction away, is found out by the same test.
    let habits = Habits { gas: Gas::Estimated, ..UNFORESEEN };
    let by_gas = |habits| measure(&Settings { habits, strategy: strewn(8, 0.001, Guess::Gas), ..sealed.clone() });
    let told = by_gas(habits);
    assert!(told.front.low() > 0.0 && !told.front.equivalent_to_zero(margin), "margin {margin}: {told:?}");
    // In the proxy's classes it no longer does.
    let hidden = by_gas(Habits { gas: Gas::Classes, ..UNFORESEEN });
    assert!(hidden.front.equivalent_to_zero(margin), "margin {margin}: {hidden:?}");
    assert!(hidden.gas.mean > told.gas.mean, "it is paid for: {hidden:?}");
}

/// Where nothing but trades makes the price, there is nothing to be had behind them either: the whole profit.
#[test]
fn the_whole_profit_is_zero_when_sealed_where_trades_alone_make_the_price() {
    let wandering = |strategy| Settings { prices: Prices::Wandering, ..settings(strategy) };
    let plain = measure(&wandering(Strategy::Sandwich)).total;
    assert!(plain.low() > 0.02, "clearly positive on a chain in the clear: {plain:?}");
    let margin = 0.05 * plain.low();
    let open = Strategy::Strew { count: 8, size: 0.0005, guess: Guess::Against, isolate: false, withhold: false };
    for strategy in [Strategy::Blind { size: 0.001 }, strewn(8, 0.0005, Guess::Coin), open] {
        let total = measure(&wandering(strategy)).total;
        assert!(
            total.equivalent_to_zero(margin) && total.power(margin) > 0.9,
            "margin {margin}: {strategy:?} {total:?}"
        );
    }
    // The control: with gas limits that give the direction away the same test finds a profit.
    let habits = Habits { gas: Gas::Estimated, ..UNFORESEEN };
    let told = measure(&Settings { habits, ..wandering(strewn(8, 0.001, Guess::Gas)) }).total;
    assert!(told.low() > margin, "margin {margin}: {told:?}");
}

/// What a sealed chain is compared with is the best of three ways: who reads all trades that wait gains more with them together,
/// purchases crossed with sales, than one by one; by waiting for it as long as it leads, with all of them or with one side. Two
/// of seven lead on end at times.
#[test]
fn in_the_clear_trades_together_give_more_than_one_by_one() {
    for fee in [0, 3000] {
        let wandering = |strategy| Settings {
            prices: Prices::Wandering,
            fee,
            chains: 200,
            rounds: 40,
            nodes: 7,
            attackers: 2,
            ..settings(strategy)
        };
        let alone = chains(&wandering(Strategy::Sandwich));
        for patient in [Strategy::Together { before: 0.0 }, Strategy::OneSided] {
            let patient = chains(&wandering(patient));
            let gain = advantage(&patient, &alone);
            assert!(gain.low() > 0.0, "fee {fee}: {gain:?}");
            let waited = Report::of(&patient).waited.mean;
            assert!(waited > 0.04, "it leaves out as long as it leads: {waited}");
        }
    }
}

/// A control of the one above: who holds something when users name their limits does gain, without a seat as well; and with
/// the exchange's usual fee it loses, as does who plays with limits that have gone stale, while the sandwich still pays.
#[test]
fn who_makes_the_price_that_users_see_gains_without_an_exchange_fee_and_loses_with_one() {
    let pump = Strategy::Pump { count: 16, before: 0.05, during: 0.035 };
    let wandering = |strategy, role, fee| Settings { prices: Prices::Wandering, role, fee, ..settings(strategy) };
    for role in [Role::Sequencer, Role::Outsider] {
        let free = measure(&wandering(pump, role, 0)).total;
        assert!(free.low() > 0.05, "{role:?} {free:?}");
        let dear = measure(&wandering(pump, role, 3000)).total;
        assert!(dear.high() < 0.0, "{role:?} {dear:?}");
    }
    let hoard = measure(&wandering(Strategy::Hoard { count: 32 }, Role::Sequencer, 3000)).total;
    assert!(hoard.high() < 0.0, "{hoard:?}");
    let plain = measure(&wandering(Strategy::Sandwich, Role::Sequencer, 3000)).total;
    assert!(plain.low() > 0.01, "{plain:?}");
}

/// What a seat is worth: the same strategies with the same seeds by one who runs no sequencer.
#[test]
fn a_seat_earns_no_more_than_an_outsider_does_on_a_sealed_chain() {
    let short = settings(Strategy::Sandwich);
    let margin = margin(&short);
    let edge = |settings: &Settings| {
        let outsider = Settings { role: Role::Outsider, ..settings.clone() };
        let (seat, outsider) = (chains(settings), chains(&outsider));
        assert!(Report::of(&outsider).back.low() > 0.0, "an outsider brings prices back, too");
        advantage(&seat, &outsider)
    };
    let open = |size, guess| Strategy::Strew { count: 8, size, guess, isolate: false, withhold: false };
    let sealed = Settings { strategy: open(0.0005, Guess::Coin), ..short.clone() };
    let found = edge(&sealed);
    assert!(found.equivalent_to_zero(margin) && found.power(margin) > 0.9, "margin {margin}: {found:?}");
    // All trades but one left out of its blocks, which nobody but a sequencer can do.
    let alone = Strategy::Strew { count: 8, size: 0.0005, guess: Guess::Coin, isolate: true, withhold: false };
    let found = edge(&Settings { strategy: alone, ..short.clone() });
    assert!(found.equivalent_to_zero(margin) && found.power(margin) > 0.9, "margin {margin}: {found:?}");
    // The control: who hears envelopes whose gas limits give the direction away is found to have an edge.
    let habits = Habits { gas: Gas::Estimated, ..UNFORESEEN };
    let told = edge(&Settings { habits, strategy: open(0.001, Guess::Gas), ..short });
    assert!(told.low() > 0.0 && !told.equivalent_to_zero(margin), "margin {margin}: {told:?}");
}

/// Users lose to a sandwich what it earns ahead of them; to what is strewn over a sealed block nothing that shows.
#[test]
fn users_lose_in_the_clear_and_not_when_sealed() {
    let plain = measure(&settings(Strategy::Sandwich));
    assert!(plain.harm.low() > 0.0 && plain.harm.mean > 0.9 * plain.front.mean, "{plain:?}");
    let sealed = measure(&Settings { chains: 60, rounds: 60, ..settings(strewn(8, 0.0005, Guess::Coin)) });
    assert!(sealed.harm.equivalent_to_zero(0.05 * plain.harm.low()), "{sealed:?}");
}

/// The long run: enough trades to tell a twentieth from nothing for attacks of every size, on 4 and on 7 sequencers.
#[test]
fn trading_ahead_of_sealed_trades_earns_nothing_at_any_size() {
    if std::env::var_os("CASCADE_SLOW").is_none() {
        return;
    }
    let ways = [
        (0.0005, Guess::Coin),
        (0.001, Guess::Coin),
        (0.001, Guess::History),
        (0.001, Guess::Gas),
        (0.0025, Guess::Coin),
    ];
    for (nodes, attackers) in [(4, 1), (7, 2)] {
        let long = |strategy| Settings { nodes, attackers, seed: 7, chains: 120, rounds: 50, ..settings(strategy) };
        let margin = margin(&long(Strategy::Sandwich));
        for (size, guess) in ways {
            let report = measure(&long(strewn(16, size, guess)));
            println!("{nodes} sequencers, size {size}, {guess:?}: margin {margin:.5}, {report:?}");
            assert!(report.front.equivalent_to_zero(margin), "{guess:?} {size}: margin {margin}: {report:?}");
            assert!(report.front.power(margin) > 0.99, "{guess:?} {size}: margin {margin}: {report:?}");
        }
        for isolate in [true, false] {
            let strategy = Strategy::Strew { count: 16, size: 0.001, guess: Guess::Coin, isolate, withhold: false };
            let outsider = Settings { role: Role::Outsider, ..long(strategy) };
            let edge = advantage(&chains(&long(strategy)), &chains(&outsider));
            println!("{nodes} sequencers, left out {isolate}: margin {margin:.5}, a seat's edge {edge:?}");
            assert!(edge.equivalent_to_zero(margin), "margin {margin}: {edge:?}");
            assert!(edge.power(margin) > 0.9, "margin {margin}: {edge:?}");
        }
        let silent = strewn(16, 0.0, Guess::Coin);
        println!("{nodes} sequencers, against each other: {:?}", duel(&long(silent), true));
        let large = measure(&long(strewn(16, 0.005, Guess::Coin)));
        assert!(large.front.high() < 0.0, "large entries lose, since they make trades fail: {large:?}");
    }
}

#[test]
fn without_a_fee_the_attacker_gains_what_users_lose() {
    for strategy in [Strategy::Sandwich, strewn(6, 0.001, Guess::Coin), Strategy::Blind { size: 0.001 }] {
        let rounds = one_chain(&settings(strategy), 3);
        assert!(rounds.iter().any(|round| round.loss.abs() > 1e-4), "{strategy:?}");
        for round in rounds.iter().filter(|round| round.spoiled == 0.0) {
            let difference = round.total - round.back - round.loss;
            assert!(difference.abs() < 1e-5, "{strategy:?}: {round:?}");
        }
    }
}

#[test]
fn real_keys_play_the_same_game_and_withheld_shares_change_nothing() {
    let keys = Keys::generate(4, 1);
    let market = |withhold| Settings {
        strategy: Strategy::Strew { count: 4, size: 0.001, guess: Guess::Coin, isolate: true, withhold },
        sealing: Sealing::Real(keys.clone()),
        ..settings(Strategy::Sandwich)
    };
    let (real, beacons) = play(&market(false), 0, 8);
    assert!(beacons.len() > 8 && real.iter().any(|round| round.total != round.back));
    assert_eq!(
        play(&market(true), 0, 8),
        (real.clone(), beacons.clone()),
        "the beacon is the same without these shares"
    );
    let assumed = Settings { sealing: Sealing::Assumed(beacons.clone()), ..market(false) };
    assert_eq!(play(&assumed, 0, 8), (real, beacons));
}

#[test]
fn copied_changed_repeated_and_rewrapped_envelopes_come_to_nothing() {
    let sealing = Sealing::Real(Keys::generate(4, 2));
    let tried = copies(&Settings { sealing, ..settings(strewn(2, 0.001, Guess::Coin)) }, 6);
    assert_eq!(tried.len(), 7);
    for way in tried {
        assert!(way.attempts >= 6 && way.taken == 0, "{way:?}");
    }
}
