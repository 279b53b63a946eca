//! The market in the simulator's network (`cascade_benches::market::network`).

use cascade_benches::market::{
    Guess, Prices, Settings, Strategy,
    network::{Conditions, Run, profit, rough, runs},
};

fn settings(strategy: Strategy, seeds: usize) -> Settings {
    Settings { prices: Prices::Wandering, chains: seeds, rounds: 30, ..crate::settings(strategy) }
}

fn strewn(size: f64) -> Strategy {
    crate::strewn(8, size, Guess::Coin)
}

/// Runs seeds, in all of which every rule of the simulator's checker holds.
fn clean(strategy: Strategy, seeds: usize, conditions: Conditions) -> Vec<Run> {
    let runs = runs(&settings(strategy, seeds), conditions);
    for Run { report, counts } in &runs {
        assert!(report.is_clean(), "seed {}: {:?} {:?}", report.seed, report.violations, report.stalls);
        assert!(counts.trades > 20.0 && counts.own > 20.0, "seed {}: {counts:?}", report.seed);
    }
    runs
}

#[test]
fn in_a_network_the_attacker_gains_in_the_clear_and_when_sealed_only_from_what_leaks() {
    let plain = profit(&clean(Strategy::Sandwich, 12, Conditions::CALM));
    assert!(plain.low() > 0.0, "{plain:?}");
    let sealed = profit(&clean(strewn(0.0025), 8, Conditions::CALM));
    let told = profit(&clean(strewn(0.0025), 8, Conditions { leak: true, ..Conditions::CALM }));
    assert!(told.low() > 0.0, "{told:?}");
    assert!(sealed.low() < 0.0 && sealed.high() > 0.0 && sealed.high() < told.mean, "{sealed:?}, told {told:?}");
    assert!(sealed.high() < plain.low(), "{sealed:?}, in the clear {plain:?}");
}

#[test]
fn in_a_rough_network_withheld_shares_and_stolen_ciphertexts_change_nothing_that_holds() {
    let rough = Conditions { faults: rough(), ..Conditions::CALM };
    let plain = profit(&clean(Strategy::Sandwich, 12, rough));
    assert!(plain.low() > 0.0, "{plain:?}");
    let withheld = Strategy::Strew { count: 8, size: 0.001, guess: Guess::Coin, isolate: true, withhold: true };
    let runs = clean(withheld, 4, Conditions { steals: true, ..rough });
    let tried = |what| runs.iter().filter_map(|run| run.report.revealed.lies.get(what)).sum::<u64>();
    // That one of them is taken would be a violation: shares for a stolen ciphertext, or a block that breaks the ledger.
    assert!(tried("withheld-shares") > 50 && tried("stolen-ciphertext") > 100 && tried("replayed-envelope") > 50);
    assert!(runs.iter().any(|run| run.counts.led > 0.0), "it leads blocks that hold");
    let sealed = profit(&runs);
    assert!(sealed.high() < plain.mean, "{sealed:?}, in the clear {plain:?}");
}

#[test]
fn a_seed_is_one_market() {
    for strategy in [Strategy::Sandwich, strewn(0.001)] {
        let conditions = Conditions { faults: rough(), ..Conditions::CALM };
        let sums = || {
            let runs = runs(&settings(strategy, 2), conditions);
            runs.iter().map(|run| (run.counts, run.report.trace)).collect::<Vec<_>>()
        };
        assert_eq!(sums(), sums());
    }
}
