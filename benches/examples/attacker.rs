//! What an attacker earns on others' trades, on a chain in the clear and on an encrypted one (`cascade_benches::market`).
//!
//! Prints a row for each strategy: coins for each trade of a user, with 99% intervals, and for those that ought to earn
//! nothing the equivalence test against the plain chain's figure.

use std::{collections::BTreeMap, time::Instant};

use cascade_benches::market::{
    Guess, Prices, Report, Role, Sealing, Settings, Strategy, Sums, advantage, chains,
    cipher::Keys,
    copies::copies,
    duel::duel,
    hoard::{self, Attack},
    network::{self, Conditions, Counts},
    stats::Estimate,
    users::{Gas, Habits, UNFORESEEN},
};
use cascade_primitives::{ChainParams, Network};
use cascade_sim::{Fault, Summary};
use clap::Parser;

/// Measures what an attacker earns.
#[derive(Parser)]
struct Arguments {
    /// Sequencers
    #[arg(long, default_value_t = 4)]
    nodes: usize,
    /// Those of them that the attacker runs; in the simulator's network it has f seats, whatever is said here
    #[arg(long, default_value_t = 1)]
    attackers: usize,
    /// Chains, each from a genesis of its own: the batches of the statistics
    #[arg(long, default_value_t = 400, value_parser = batches)]
    chains: usize,
    /// Rounds of each chain
    #[arg(long, default_value_t = 50)]
    rounds: usize,
    /// Chains with real keys, ciphertexts and shares; others take the encryption for granted
    #[arg(long, default_value_t = 40)]
    real: usize,
    /// Runs of the simulator for each row of the part `network`
    #[arg(long, default_value_t = 24, value_parser = batches)]
    seeds: usize,
    /// Times at which users trade in each of them, every two seconds
    #[arg(long, default_value_t = 120)]
    times: usize,
    /// The exchange's fee in the part `network`, in millionths
    #[arg(long, default_value_t = 0)]
    network_fee: u32,
    /// Views for which one sequencer leads, in the part `hoard`; mainnet's unless said
    #[arg(
        long,
        default_value_t = ChainParams::of(Network::Mainnet).views_per_term,
        value_parser = clap::value_parser!(u64).range(1..=1000),
    )]
    term: u64,
    /// The exchange's fees in the part `hoard`, in millionths
    #[arg(long, value_delimiter = ',', default_values_t = [0, 500, 3000])]
    fees: Vec<u32>,
    /// Transactions of the attacker in each block of the part `hoard`
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    calls: u16,
    /// Sealed rows of the parts `whole`, `fees` and `network`: those whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Where all randomness comes from
    #[arg(long, default_value_t = 20_261_121)]
    seed: u64,
    /// Which parts to run
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["whole", "fees", "ways", "seat", "fee", "foretold"])]
    parts: Vec<Part>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// The whole profit, where prices come from the users' trades alone
    Whole,
    /// The same with exchange fees, by who plays with users' limits, and by who makes the price
    Fees,
    /// All strategies on a sealed chain, against the plain one
    Ways,
    /// What a seat is worth: the same by an outsider, and one against the other
    Seat,
    /// With an exchange fee
    Fee,
    /// Where trades can be foretold
    Foretold,
    /// In the simulator's network
    Network,
    /// Trades left out and let run together with the best bet on them, in a model without a chain
    Hoard,
}

/// Batches of the statistics: an interval needs two.
fn batches(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0 | 1) => Err("an interval needs at least 2".to_owned()),
        Ok(count) => Ok(count),
        Err(error) => Err(format!("{error}")),
    }
}

/// Sixteen of them, and the attacker leaves no trade out.
fn strew_open(size: f64) -> Strategy {
    Strategy::Strew { count: 16, size, guess: Guess::Coin, isolate: false, withhold: false }
}

fn strew(count: usize, size: f64, guess: Guess) -> Strategy {
    Strategy::Strew { count, size, guess, isolate: true, withhold: false }
}

/// What all rows share.
struct Bench {
    arguments: Arguments,
    margin: f64,
}

impl Bench {
    fn settings(&self, strategy: Strategy, fee: u32, habits: Habits) -> Settings {
        Settings {
            strategy,
            sealing: Sealing::Assumed(BTreeMap::new()),
            nodes: self.arguments.nodes,
            attackers: self.arguments.attackers,
            role: Role::Sequencer,
            prices: Prices::Anchored,
            fee,
            habits,
            seed: self.arguments.seed,
            chains: self.arguments.chains,
            rounds: self.arguments.rounds,
        }
    }

    fn sealed(&self, name: &str, strategy: Strategy) -> Vec<Sums> {
        row(name, &self.settings(strategy, 0, UNFORESEEN), Some(self.margin))
    }

    /// All that the attacker gains, where nothing says what a token is worth but its price.
    fn whole(&self) {
        println!("\nprices that wander, the attacker ends every round without tokens: the whole profit");
        let wandering = |strategy| Settings { prices: Prices::Wandering, ..self.settings(strategy, 0, UNFORESEEN) };
        let margin = in_the_clear(&wandering);
        let whole = |name: &str, strategy| self.profit(name, &wandering(strategy), margin);
        whole("hoarded for a term, 32 strewn", Strategy::Hoard { count: 32 });
        for size in [0.0005, 0.001, 0.0025, 0.005] {
            whole(&format!("blind, {}", percent(size)), Strategy::Blind { size });
        }
        for (count, size) in [(2, 0.001), (8, 0.001), (32, 0.001), (16, 0.0005), (16, 0.001), (16, 0.0025), (16, 0.005)]
        {
            whole(&format!("strewn {count}, {}", percent(size)), strew(count, size, Guess::Coin));
        }
        for size in [0.001, 0.0025] {
            let name = |what: &str| format!("strewn 16, {}, {what}", percent(size));
            whole(&name("no trade left out"), strew_open(size));
            whole(&name("by payers' history"), strew(16, size, Guess::History));
            whole(&name("along the last"), strew(16, size, Guess::Along));
        }
        for size in [0.0005, 0.001, 0.0025, 0.005] {
            let name = |what: &str| format!("strewn 16, {}, against the last{what}", percent(size));
            let open = Strategy::Strew { count: 16, size, guess: Guess::Against, isolate: false, withhold: false };
            whole(&name(""), strew(16, size, Guess::Against));
            whole(&name(", none left out"), open);
        }
        if self.arguments.real > 1 {
            for (name, settings) in self.with_real_keys(Prices::Wandering) {
                self.profit(name, &settings, margin);
            }
        }
    }

    /// One row of those that were asked for, by the whole profit.
    fn profit(&self, name: &str, settings: &Settings, margin: f64) {
        if name.contains(&self.arguments.only) {
            let total = Report::of(&row(name, settings, None)).total;
            println!("  whole profit {}, {}", cell(&total), verdict(&total, margin));
        }
    }

    fn ways(&self) {
        for size in [0.0005, 0.001, 0.0025, 0.005] {
            self.sealed(&format!("blind, {} of the pool", percent(size)), Strategy::Blind { size });
        }
        for (count, size) in [(2, 0.001), (8, 0.001), (32, 0.001), (16, 0.0005), (16, 0.001), (16, 0.0025), (16, 0.005)]
        {
            self.sealed(&format!("strewn {count}, {}", percent(size)), strew(count, size, Guess::Coin));
        }
        self.sealed("strewn 16, 0.1%, all trades let in", strew_open(0.001));
        self.sealed("strewn 16, 0.1%, by payers' history", strew(16, 0.001, Guess::History));
        self.sealed("strewn 16, 0.1%, by gas limit", strew(16, 0.001, Guess::Gas));
        if self.arguments.real > 1 {
            self.real();
        }
    }

    /// The same with exchange fees, by who plays with users' limits, and by who makes the price that users see.
    fn fees(&self) {
        for fee in [0, 500, 3000] {
            println!("\nprices that wander, an exchange fee of {}%", f64::from(fee) / 10_000.0);
            let wandering =
                |strategy| Settings { prices: Prices::Wandering, ..self.settings(strategy, fee, UNFORESEEN) };
            let margin = in_the_clear(&wandering);
            for before in [0.01, 0.05] {
                let name = format!("plain: all together, pumped {}", percent(before));
                self.profit(&name, &wandering(Strategy::Together { before }), margin);
            }
            let whole =
                |name: &str, strategy, role| self.profit(name, &Settings { role, ..wandering(strategy) }, margin);
            let pump = |before, during| Strategy::Pump { count: 16, before, during };
            whole("strewn 16, 0.1%", strew(16, 0.001, Guess::Coin), Role::Sequencer);
            whole("strewn 16, 0.1%, against the last", strew(16, 0.001, Guess::Against), Role::Sequencer);
            whole("hoarded for a term, 32 strewn", Strategy::Hoard { count: 32 }, Role::Sequencer);
            for (before, during) in [(0.01, 0.005), (0.05, 0.035), (0.05, 0.05)] {
                let name = format!("pumped {}, then {}", percent(before), percent(during));
                whole(&name, pump(before, during), Role::Sequencer);
                whole(&format!("{name}, an outsider"), pump(before, during), Role::Outsider);
            }
        }
    }

    fn with_real_keys(&self, prices: Prices) -> [(&'static str, Settings); 2] {
        let keys = Keys::generate(self.arguments.nodes, self.arguments.seed);
        let real = |withhold| Settings {
            sealing: Sealing::Real(keys.clone()),
            prices,
            chains: self.arguments.real,
            ..self.settings(
                Strategy::Strew { count: 16, size: 0.001, guess: Guess::Coin, isolate: true, withhold },
                0,
                UNFORESEEN,
            )
        };
        [("real keys: strewn 16, 0.1%", real(false)), ("the same, shares withheld", real(true))]
    }

    fn real(&self) {
        let rows = self.with_real_keys(Prices::Anchored);
        for (name, settings) in &rows {
            row(name, settings, Some(self.margin));
        }
        for tried in copies(&rows[1].1, 20) {
            println!("tried: {:60} {} times, taken {}", tried.what, tried.attempts, tried.taken);
        }
    }

    fn seat(&self) {
        println!("\nwhat a seat is worth: the same by an outsider with the same seeds");
        let ways = [
            ("blind, 0.1%", Strategy::Blind { size: 0.001 }),
            ("strewn 2, 0.1%", strew(2, 0.001, Guess::Coin)),
            ("strewn 16, 0%: behind alone", strew(16, 0.0, Guess::Coin)),
            ("strewn 16, 0.05%", strew(16, 0.0005, Guess::Coin)),
            ("strewn 16, 0.1%", strew(16, 0.001, Guess::Coin)),
            ("strewn 16, 0.1%, all trades let in", strew_open(0.001)),
            ("strewn 16, 0.25%", strew(16, 0.0025, Guess::Coin)),
        ];
        for (name, strategy) in ways {
            let seat = self.sealed(name, strategy);
            let outsider = Settings { role: Role::Outsider, ..self.settings(strategy, 0, UNFORESEEN) };
            let outsider = row("  the same by an outsider", &outsider, Some(self.margin));
            let edge = advantage(&seat, &outsider);
            println!("  seat less outsider: {}, {}", cell(&edge), verdict(&edge, self.margin));
        }
        println!("against each other, 16 strewn by each, both behind alone");
        let settings = self.settings(strew(16, 0.0, Guess::Coin), 0, UNFORESEEN);
        for (name, leaves_out) in [("the sequencer leaves the outsider out", true), ("it does not", false)] {
            let duel = duel(&settings, leaves_out);
            let [seat, outsider, edge] = [&duel.sequencer, &duel.outsider, &duel.edge].map(cell);
            println!(
                "  {name:40} {} trades, it leads {:.1}%: sequencer {seat}, outsider {outsider}, edge {edge}, {}",
                duel.trades,
                duel.led.mean * 100.0,
                verdict(&duel.edge, self.margin)
            );
        }
    }

    fn fee(&self) {
        println!("\nwith an exchange fee of 0.3%");
        row("plain: sandwich", &self.settings(Strategy::Sandwich, 3000, UNFORESEEN), None);
        for size in [0.001, 0.0025] {
            let strategy = strew(16, size, Guess::Coin);
            let settings = self.settings(strategy, 3000, UNFORESEEN);
            row(&format!("strewn 16, {}", percent(size)), &settings, Some(self.margin));
        }
    }

    fn foretold(&self) {
        println!("\nwhere trades can be foretold");
        let of_gas = |gas| Habits { gas, ..UNFORESEEN };
        let foretold = |name: &str, size, guess, habits| {
            let settings = self.settings(strew(16, size, guess), 0, habits);
            row(&format!("{name}: strewn 16, {}", percent(size)), &settings, Some(self.margin));
        };
        for size in [0.001, 0.0025, 0.005] {
            foretold("9 of 10 as before", size, Guess::History, Habits { repeats: 0.9, ..UNFORESEEN });
            foretold("wallets' gas estimates", size, Guess::Gas, of_gas(Gas::Estimated));
        }
        for size in [0.001, 0.0025, 0.005] {
            foretold("estimates in the proxy's classes", size, Guess::Gas, of_gas(Gas::Classes));
        }
    }

    /// One row in the simulator's network; its margin is that of the plain chain there.
    fn run(&self, name: &str, strategy: Strategy, conditions: Conditions, margin: Option<f64>) -> Estimate {
        let settings = Settings {
            prices: Prices::Wandering,
            chains: self.arguments.seeds,
            rounds: self.arguments.times,
            ..self.settings(strategy, self.arguments.network_fee, UNFORESEEN)
        };
        let start = Instant::now();
        let runs = network::runs(&settings, conditions);
        let profit = network::profit(&runs);
        let sum = |of: fn(&Counts) -> f64| runs.iter().map(|run| of(&run.counts)).sum::<f64>();
        let trades = sum(|c| c.trades);
        print!("{name:44} {trades:>7} {:>16}", cell(&profit));
        if let Some(margin) = margin {
            print!("  {}", verdict(&profit, margin));
        }
        let share = |of: f64, all: f64| 100.0 * of / all;
        print!("  failed {:.1}%", share(sum(|c| c.failed), trades));
        print!(", it led {:.1}%", share(sum(|c| c.led), sum(|c| c.blocks)));
        print!(", {:.1} of its own a trade, fees {:.4}", sum(|c| c.own) / trades, 1e3 * sum(|c| c.fees) / trades);
        println!(", {:.0?}", start.elapsed());
        for run in runs.iter().filter(|run| !run.report.is_clean()) {
            println!("    seed {}: {:?} {:?}", run.report.seed, run.report.violations, run.report.stalls);
        }
        let summary = Summary::of(runs.into_iter().map(|run| run.report).collect());
        let faults = Fault::ALL.iter().map(|fault| (fault.name(), summary.faults.of(*fault)));
        let happened: Vec<_> = faults.chain(summary.revealed.lies.clone()).filter(|(_, times)| *times > 0).collect();
        println!(
            "    {} blocks, {} violations, {} stalls, {} keys, {happened:?}",
            summary.commits, summary.violations, summary.stalls, summary.revealed.keys
        );
        profit
    }

    fn network(&self) {
        println!("\nin the simulator's network, {} seeds; the whole profit", self.arguments.seeds);
        let (calm, rough) = (Conditions::CALM, Conditions { faults: network::rough(), ..Conditions::CALM });
        let plain = self.run("plain: sandwich", Strategy::Sandwich, calm, None);
        let margin = 0.05 * plain.low();
        println!("margin: 5% of the lower end, {:.4}", margin * 1e3);
        self.run("plain: sandwich, faults", Strategy::Sandwich, rough, None);
        let sealed = |name: &str, strategy, conditions| {
            if name.contains(&self.arguments.only) {
                self.run(name, strategy, conditions, Some(margin));
            }
        };
        let (coin, withheld) =
            (Guess::Coin, |size| Strategy::Strew { count: 8, size, guess: Guess::Coin, isolate: true, withhold: true });
        sealed("blind, 0.1%", Strategy::Blind { size: 0.001 }, calm);
        sealed("strewn 8, 0.1%", strew(8, 0.001, coin), calm);
        sealed("strewn 8, 0.25%", strew(8, 0.0025, coin), calm);
        sealed("strewn 16, 0.1%", strew(16, 0.001, coin), calm);
        sealed("strewn 8, 0.1%, shares withheld", withheld(0.001), calm);
        sealed("strewn 8, 0.1%, faults", strew(8, 0.001, coin), rough);
        sealed("strewn 8, 0.1%, shares withheld, faults", withheld(0.001), rough);
        sealed(
            "blind, 0.1%, ciphertexts stolen, faults",
            Strategy::Blind { size: 0.001 },
            Conditions { steals: true, ..rough },
        );
        sealed("told the direction: strewn 8, 0.1%", strew(8, 0.001, coin), Conditions { leak: true, ..calm });
    }

    /// What is gained by leaving trades out, with the best bet on those that are let run together.
    fn hoard(&self) {
        let Arguments { chains, rounds, seed, nodes, attackers, calls, term, .. } = self.arguments;
        println!(
            "\ntrades left out and let run together, prices that wander: the whole profit in a model without a chain"
        );
        for &fee in &self.arguments.fees {
            let settings = hoard::Settings {
                nodes,
                attackers,
                term,
                fee,
                patience: None,
                calls: calls.into(),
                seed,
                chains,
                rounds,
            };
            let bets = settings.bets();
            println!("\nan exchange fee of {}%", f64::from(fee) / 10_000.0);
            println!("each of so many trades of one block: in the clear, sealed");
            for trades in [1, 2, 4, 8, 16, 24] {
                let many = hoard::Settings { chains: 20 * chains, ..settings };
                let [clear, sealed] = [Attack::Together, Attack::Counting(&bets)].map(|a| many.block(a, trades));
                println!("  {trades:2} {:>16} {:>16}  {:.3}", cell(&clear), cell(&sealed), sealed.mean / clear.mean);
            }
            // Who leads for no longer than that leaves out for as long as it leads.
            let shorter = [0, 1, 2, 3, 5].into_iter().filter(|&most| (most as u64) < term);
            for patience in shorter.map(Some).chain([None]) {
                // Plans take long, and the margin needs no more chains.
                let settings = hoard::Settings { patience, ..settings };
                let few = hoard::Settings { chains: chains.div_ceil(4).max(2), ..settings };
                match patience {
                    Some(most) => println!("left out for {most} blocks at most"),
                    None => println!("left out for as long as it leads"),
                }
                let clear = [("  in the clear, all together", Attack::Together), ("  one side", Attack::OneSided)];
                let lows = clear.map(|(name, attack)| hoarded(name, &few, attack, None).low());
                let margin = 0.05 * lows[0].max(lows[1]);
                for (name, attack) in [
                    ("  sealed: bets by what a contract sees", Attack::Seeing(&bets)),
                    ("  it knows how many trades are to come", Attack::Counting(&bets)),
                    ("  told the next trade's direction", Attack::Told),
                ] {
                    hoarded(name, &settings, attack, Some(margin));
                }
            }
        }
    }
}

fn hoarded(name: &str, settings: &hoard::Settings, attack: Attack<'_>, margin: Option<f64>) -> Estimate {
    let start = Instant::now();
    let report = settings.measure(attack);
    print!("{name:44} {:>7} {:>16}", report.trades, cell(&report.profit));
    if let Some(margin) = margin {
        print!("  margin {:.3}, {}", margin * 1e3, verdict(&report.profit, margin));
    }
    println!("  waited {:.2}, {} at most, {:.1?}", report.waited.mean, report.longest, start.elapsed());
    report.profit
}

fn main() {
    let arguments = Arguments::parse();
    println!("{} sequencers, {} of the attacker; seed {}", arguments.nodes, arguments.attackers, arguments.seed);
    println!("coins for each trade of a user, times 1000, 99% intervals; a trade is 1 to 10 coins of a pool of 1000\n");
    println!(
        "{:44} {:>7} {:>16} {:>16} {:>16} {:>7} {:>16} {:>16}",
        "", "trades", "front", "total", "back", "in time", "users lose", "against none"
    );
    let mut bench = Bench { arguments, margin: 0.0 };
    if bench.arguments.parts.iter().any(|part| !matches!(part, Part::Network | Part::Hoard)) {
        let plain = Report::of(&row("plain: sandwich", &bench.settings(Strategy::Sandwich, 0, UNFORESEEN), None));
        bench.margin = 0.05 * plain.front.low();
        println!("margin: 5% of the lower end, {:.4}", bench.margin * 1e3);
    }
    for (part, run) in [
        (Part::Whole, Bench::whole as fn(&Bench)),
        (Part::Fees, Bench::fees),
        (Part::Ways, Bench::ways),
        (Part::Seat, Bench::seat),
        (Part::Fee, Bench::fee),
        (Part::Foretold, Bench::foretold),
        (Part::Network, Bench::network),
        (Part::Hoard, Bench::hoard),
    ] {
        if bench.arguments.parts.contains(&part) {
            run(&bench);
        }
    }
}

/// What the attacker gains in the clear, in three ways; 5% of the lower end of the best one.
fn in_the_clear(settings: &dyn Fn(Strategy) -> Settings) -> f64 {
    let total = |name: &str, strategy| Report::of(&row(name, &settings(strategy), None)).total;
    let one_by_one = total("plain: sandwich", Strategy::Sandwich);
    let together = total("plain: all together, at the end of a term", Strategy::Together { before: 0.0 });
    let one_sided = total("plain: one side left out", Strategy::OneSided);
    let margin = 0.05 * one_by_one.low().max(together.low()).max(one_sided.low());
    println!("margin: 5% of the lower end of the best total, {:.4}", margin * 1e3);
    margin
}

fn percent(share: f64) -> String {
    format!("{}%", (share * 1e6).round() / 1e4)
}

fn cell(estimate: &Estimate) -> String {
    format!("{:.3} +- {:.3}", estimate.mean * 1e3, estimate.half_width() * 1e3)
}

fn verdict(estimate: &Estimate, margin: f64) -> String {
    let verdict = match () {
        () if estimate.equivalent_to_zero(margin) => "zero",
        () if estimate.high() < 0.0 => "it loses",
        () if estimate.high() < margin => "no gain beyond the margin",
        () => "not shown to be zero",
    };
    format!("{verdict}, power {:.4}", estimate.power(margin))
}

fn row(name: &str, settings: &Settings, margin: Option<f64>) -> Vec<Sums> {
    let start = Instant::now();
    let chains = chains(settings);
    let report = Report::of(&chains);
    let in_time = format!("{:.0}%", 100.0 * report.back_inside.mean / report.back.mean);
    print!("{name:44} {:>7} {:>16} {:>16}", report.trades, cell(&report.front), cell(&report.total));
    print!(" {:>16} {in_time:>7} {:>16} {:>16}", cell(&report.back), cell(&report.loss), cell(&report.harm));
    if let Some(margin) = margin {
        print!("  {}", verdict(&report.front, margin));
    }
    let percent = |e: &Estimate| e.mean * 100.0;
    print!("  spoiled {:.2}%, saved {:.2}%", percent(&report.spoiled), percent(&report.saved));
    print!(", waited {:.2}", report.waited.mean);
    println!(", fees {:.4}, users' gas {:.0}, {:.0?}", report.fees.mean * 1e3, report.gas.mean, start.elapsed());
    chains
}
