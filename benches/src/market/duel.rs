//! A sequencer and an outsider against each other: who gets what is to be had behind users' trades?
//!
//! On an encrypted chain that is all there is to be had. Both keep envelopes of a contract in every block that brings the
//! pool's price back if it comes to run after a trade; whose comes first behind a trade gets it. The sequencer hears how many
//! trades wait, and in its own blocks it may leave the outsider's envelopes out, whose payer everybody knows by then. The
//! outsider's wait for the next leader. What neither has closed stays for the next block.

use std::sync::Arc;

use alloy_primitives::Address;
use cascade_execution::ExecutedBlock;
use rayon::prelude::*;

use super::{
    Settings, Strategy,
    chain::Account,
    round::{Contracts, TIP, WORTH, attack, gains, lurk, second},
    sealed::{Attack, Checked, Market},
    stats::Estimate,
};

/// What a duel gave; all for each trade of a user, in coins.
#[derive(Clone, Debug)]
pub struct Duel {
    /// Trades.
    pub trades: f64,
    /// What the sequencer gains.
    pub sequencer: Estimate,
    /// What the outsider gains.
    pub outsider: Estimate,
    /// What the sequencer gains more.
    pub edge: Estimate,
    /// Share of the blocks that the attacker led.
    pub led: Estimate,
}

/// What is summed over the rounds of a chain.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    trades: f64,
    sequencer: f64,
    outsider: f64,
    led: f64,
}

/// Runs duels, in which the sequencer of the settings does what they say and leaves the outsider out if it is told so.
///
/// # Panics
/// If the strategy is not to strew.
#[must_use]
pub fn duel(settings: &Settings, leaves_out: bool) -> Duel {
    let settings = Arc::new(settings.clone());
    let chain = |number| {
        let mut duelists = Duelists::new(&settings, number, leaves_out);
        (0..settings.rounds).for_each(|_| duelists.round());
        duelists.sums
    };
    let chains: Vec<Sums> = (0..settings.chains as u64).into_par_iter().map(chain).collect();
    let each = |of: &dyn Fn(&Sums) -> f64| Estimate::of(&chains.iter().map(of).collect::<Vec<_>>());
    Duel {
        trades: chains.iter().map(|sums| sums.trades).sum(),
        sequencer: each(&|s| s.sequencer / s.trades),
        outsider: each(&|s| s.outsider / s.trades),
        edge: each(&|s| (s.sequencer - s.outsider) / s.trades),
        led: each(&|s| s.led / settings.rounds as f64),
    }
}

/// The market with both.
struct Duelists {
    market: Market,
    leaves_out: bool,
    /// The outsider.
    rival: Account,
    payer: Account,
    contracts: Contracts,
    count: usize,
    /// What it has sent and no block has taken.
    pending: Vec<Checked>,
    sums: Sums,
}

impl Duelists {
    fn new(settings: &Settings, number: u64, leaves_out: bool) -> Self {
        let Strategy::Strew { count, .. } = settings.strategy else { panic!("a duel is strewn") };
        let mut market = Market::new(settings, number);
        let [mut rival, mut payer] = second();
        let contracts = Contracts { sandwich: rival.address.create(0), ..market.ground.contracts };
        let [create, give] = market.ground.set_up_second(contracts.sandwich);
        let params = market.ground.chain.params.clone();
        let create = rival.sign(&params, &create);
        let give = market.ground.attacker.sign(&params, &give);
        let sealed = [market.seal_by(&mut payer, &create), market.seal_own(&give)];
        market.commit(&sealed, &[]);
        Self { market, leaves_out, rival, payer, contracts, count, pending: Vec::new(), sums: Sums::default() }
    }

    fn round(&mut self) {
        let leads = self.market.ground.leads();
        self.market.orders();
        self.send();
        let chosen = self.market.chosen(leads);
        let Attack { envelopes, .. } = self.market.attack(chosen);
        let mut block = if leads {
            self.market.propose(&envelopes, chosen)
        } else {
            envelopes.into_iter().for_each(|envelope| self.market.admit(envelope));
            self.market.select()
        };
        if leads && !self.leaves_out {
            block.extend(self.pending.iter().cloned());
        }
        let rivals = block.iter().filter(|(envelope, _)| envelope.payer() == self.payer.address).count();
        assert_eq!(block.len(), chosen + self.count + rivals, "all of it fits a block");
        if rivals > 0 {
            assert_eq!(rivals, self.pending.len(), "all of them or none");
            self.pending.clear();
        }
        let base_fee = self.market.ground.chain.base_fee;
        let done = self.market.commit(&block, &[]);
        self.market.reveal(chosen);
        let net = |who: &Account, tips: bool| net(&done, who.address, base_fee, tips);
        self.sums.trades += chosen as f64;
        self.sums.sequencer += net(&self.market.ground.attacker, leads);
        self.sums.outsider += net(&self.rival, false);
        self.sums.led += f64::from(u8::from(leads));
    }

    /// The outsider sends envelopes for the next block, unless those that it has sent still wait.
    fn send(&mut self) {
        if !self.pending.is_empty() {
            return;
        }
        let params = self.market.ground.chain.params.clone();
        for _ in 0..self.count {
            let call = attack(&self.contracts, lurk(true, 0.0, 1), TIP);
            let transaction = self.rival.sign(&params, &call);
            let sealed = self.market.seal_by(&mut self.payer, &transaction);
            self.market.admit(sealed.clone());
            self.pending.push(sealed);
        }
    }
}

/// What somebody gained in a block, less fees. Who proposed it has its tips back.
fn net(block: &ExecutedBlock, who: Address, base_fee: u64, tips: bool) -> f64 {
    let own = block.receipts.iter().filter(|receipt| receipt.from == who);
    own.map(|receipt| gains(receipt, WORTH) - super::round::fees(receipt, base_fee, tips)).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{
        super::{Guess, Prices, Role, Sealing, users::UNFORESEEN},
        *,
    };

    fn settings(chains: usize) -> Settings {
        Settings {
            strategy: Strategy::Strew { count: 4, size: 0.0, guess: Guess::Coin, isolate: true, withhold: false },
            sealing: Sealing::Assumed(BTreeMap::new()),
            nodes: 4,
            attackers: 1,
            role: Role::Sequencer,
            prices: Prices::Anchored,
            fee: 0,
            habits: UNFORESEEN,
            seed: 5,
            chains,
            rounds: 25,
        }
    }

    #[test]
    fn what_is_left_out_waits_and_comes_back() {
        let mut duelists = Duelists::new(&settings(1), 0, true);
        let (mut out, mut in_) = (0, 0);
        for _ in 0..30 {
            let before = duelists.sums.led;
            let nonce = duelists.payer.nonce;
            duelists.round();
            let led = duelists.sums.led > before;
            assert_eq!(duelists.pending.is_empty(), !led, "left out by the rival alone");
            if led {
                out += 1
            } else {
                in_ += 1
            }
            assert!(duelists.payer.nonce <= nonce + 4, "what waits is not sent twice");
        }
        assert!(out > 2 && in_ > 10, "{out} {in_}");
    }

    #[test]
    fn who_leaves_nobody_out_has_no_edge_and_who_does_has_one() {
        // Forty chains show the edge by some seeds alone.
        let fair = duel(&settings(160), false);
        assert!(fair.edge.low() < 0.0 && fair.edge.high() > 0.0, "{fair:?}");
        assert!(fair.outsider.low() > 0.0, "{fair:?}");
        let unfair = duel(&settings(160), true);
        assert!(unfair.edge.low() > 0.0, "{unfair:?}");
    }
}
