//! What an attacker earns on others' trades, on a chain in the clear and on an encrypted one (`cascade_benches::market`).
//!
//! Prints a row for each strategy: coins for each trade of a user, with 99% intervals, and for those that ought to earn
//! nothing the equivalence test against the plain chain's figure.

use std::{collections::BTreeMap, time::Instant};

use cascade_benches::market::{
    Guess, Report, Sealing, Settings, Strategy,
    cipher::Keys,
    copies::copies,
    measure,
    stats::Estimate,
    users::{Gas, Habits, UNFORESEEN},
};
use clap::Parser;

/// Measures what an attacker earns.
#[derive(Parser)]
struct Arguments {
    /// Sequencers
    #[arg(long, default_value_t = 4)]
    nodes: usize,
    /// Those of them that the attacker runs
    #[arg(long, default_value_t = 1)]
    attackers: usize,
    /// Chains, each from a genesis of its own: the batches of the statistics
    #[arg(long, default_value_t = 400)]
    chains: usize,
    /// Rounds of each chain
    #[arg(long, default_value_t = 50)]
    rounds: usize,
    /// Chains with real keys, ciphertexts and shares; others take the encryption for granted
    #[arg(long, default_value_t = 40)]
    real: usize,
    /// Where all randomness comes from
    #[arg(long, default_value_t = 20_261_121)]
    seed: u64,
}

fn strew(count: usize, size: f64, guess: Guess) -> Strategy {
    Strategy::Strew { count, size, guess, isolate: true, withhold: false }
}

fn main() {
    let arguments = Arguments::parse();
    let (nodes, attackers) = (arguments.nodes, arguments.attackers);
    println!("{nodes} sequencers, {attackers} of the attacker; seed {}", arguments.seed);
    println!("coins for each trade of a user, times 1000, 99% intervals; a trade is 1 to 10 coins of a pool of 1000\n");
    let settings = |strategy, fee, habits| Settings {
        strategy,
        sealing: Sealing::Assumed(BTreeMap::new()),
        nodes,
        attackers,
        fee,
        habits,
        seed: arguments.seed,
        chains: arguments.chains,
        rounds: arguments.rounds,
    };
    println!(
        "{:44} {:>7} {:>16} {:>16} {:>16} {:>7} {:>16}",
        "", "trades", "front", "total", "back", "in time", "users lose"
    );
    let plain = row("plain: sandwich", &settings(Strategy::Sandwich, 0, UNFORESEEN), None);
    let margin = 0.05 * plain.front.low();
    println!("margin: 5% of the lower end, {:.4}", margin * 1e3);
    let sealed = |name: &str, strategy| row(name, &settings(strategy, 0, UNFORESEEN), Some(margin));
    for size in [0.0005, 0.001, 0.0025, 0.005] {
        sealed(&format!("blind, {} of the pool", percent(size)), Strategy::Blind { size });
    }
    for (count, size) in [(2, 0.001), (8, 0.001), (32, 0.001), (16, 0.0005), (16, 0.001), (16, 0.0025), (16, 0.005)] {
        sealed(&format!("strewn {count}, {}", percent(size)), strew(count, size, Guess::Coin));
    }
    let all = Strategy::Strew { count: 16, size: 0.001, guess: Guess::Coin, isolate: false, withhold: false };
    sealed("strewn 16, 0.1%, all trades let in", all);
    let withheld = Strategy::Strew { count: 16, size: 0.001, guess: Guess::Coin, isolate: true, withhold: true };
    sealed("strewn 16, 0.1%, by payers' history", strew(16, 0.001, Guess::History));
    sealed("strewn 16, 0.1%, by gas limit", strew(16, 0.001, Guess::Gas));
    let keys = Keys::generate(nodes, arguments.seed);
    let real = |strategy| Settings {
        sealing: Sealing::Real(keys.clone()),
        chains: arguments.real,
        ..settings(strategy, 0, UNFORESEEN)
    };
    if arguments.real > 1 {
        row("real keys: strewn 16, 0.1%", &real(strew(16, 0.001, Guess::Coin)), Some(margin));
        row("the same, shares withheld", &real(withheld), Some(margin));
        for tried in copies(&real(withheld), 20) {
            println!("tried: {:60} {} times, taken {}", tried.what, tried.attempts, tried.taken);
        }
    }
    println!("\nwith an exchange fee of 0.3%");
    row("plain: sandwich", &settings(Strategy::Sandwich, 3000, UNFORESEEN), None);
    for size in [0.001, 0.0025] {
        let strategy = strew(16, size, Guess::Coin);
        row(&format!("strewn 16, {}", percent(size)), &settings(strategy, 3000, UNFORESEEN), Some(margin));
    }
    println!("\nwhere trades can be foretold");
    let habits = Habits { repeats: 0.9, ..UNFORESEEN };
    let of_gas = |gas| Habits { gas, ..UNFORESEEN };
    for size in [0.001, 0.0025, 0.005] {
        let foretold = |name: &str, guess, habits| {
            row(&format!("{name}: strewn 16, {}", percent(size)), &settings(strew(16, size, guess), 0, habits), None)
        };
        foretold("9 of 10 as before", Guess::History, habits);
        foretold("wallets' gas estimates", Guess::Gas, of_gas(Gas::Estimated));
    }
    let rounded = settings(strew(16, 0.0025, Guess::Gas), 0, of_gas(Gas::Rounded));
    row("estimates rounded up: strewn 16, 0.25%", &rounded, Some(margin));
}

fn percent(share: f64) -> String {
    format!("{}%", share * 100.0)
}

fn row(name: &str, settings: &Settings, margin: Option<f64>) -> Report {
    let start = Instant::now();
    let report = measure(settings);
    let cell = |e: &Estimate| format!("{:.3} +- {:.3}", e.mean * 1e3, e.half_width() * 1e3);
    let in_time = format!("{:.0}%", 100.0 * report.back_inside.mean / report.back.mean);
    print!("{name:44} {:>7} {:>16} {:>16}", report.trades, cell(&report.front), cell(&report.total));
    print!(" {:>16} {in_time:>7} {:>16}", cell(&report.back), cell(&report.loss));
    if let Some(margin) = margin {
        let verdict = if report.front.equivalent_to_zero(margin) { "zero" } else { "not shown to be zero" };
        print!("  {verdict}, power {:.4}", report.front.power(margin));
    }
    println!("  spoiled {:.2}%, {:.0?}", report.spoiled.mean * 100.0, start.elapsed());
    report
}
