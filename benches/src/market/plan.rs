//! What an attacker does who can read all trades that wait: around each of them, or with all of them together.
//!
//! Trade by trade it enters as far as the victim bears, and leaves behind it. With several it need not leave in between: it
//! moves the price from one victim's limit to the next one's, in either direction, so that each trades at the least that it
//! takes and purchases are crossed with sales; and it keeps those from trading that would cost it something. Which of that
//! gains most it finds by trying: an ascent over the steps, one trade at a time, from two beginnings and in several orders.

use super::curve::{Curve, NUDGE, Victim, gain, tokens_of};

/// What is done about one trade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The best entry ahead of it, and out behind it.
    Sandwich,
    /// The price is moved until the trade runs at its limit, and what was traded for that is kept.
    AtLimit,
    /// Nothing.
    Pass,
    /// The trade does not run: it is left out, or the price is moved beyond its limit.
    Keep,
}

/// What a step comes to at its place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Move {
    /// Which of the trades it is about.
    pub trade: usize,
    /// The payment ahead of it, and whether it is in coins; nothing if that is zero.
    pub entry: (bool, f64),
    /// Whether the attacker gets out behind it.
    pub leaves: bool,
    /// Whether the trade is in the block.
    pub included: bool,
}

/// What is done about all of them.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it gains in coins, all tokens given back.
    pub gained: f64,
    /// The pool that it leaves.
    pub pool: Curve,
    /// A move for each trade, in the order of the block.
    pub moves: Vec<Move>,
}

/// What the attacker starts from.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// The pool.
    pub pool: Curve,
    /// Coins that a token is worth, if that is known.
    pub worth: Option<f64>,
    /// Tokens that it holds more than it has to end with.
    pub held: f64,
    /// Whether it makes the block: then it may leave out and reorder.
    pub leads: bool,
}

impl Start {
    /// The best plan that is found for trades, given in the order in which they run in somebody else's block.
    #[must_use]
    pub fn plan(&self, victims: &[Victim]) -> Plan {
        let as_given: Vec<usize> = (0..victims.len()).collect();
        let mut orders = vec![as_given.clone()];
        if self.leads {
            for buying in [true, false] {
                let (mut first, mut second): (Vec<usize>, Vec<usize>) =
                    as_given.iter().partition(|&&i| victims[i].buying == buying);
                // The price goes the way of those that run, so who bears least of that comes first.
                for side in [&mut first, &mut second] {
                    side.sort_by(|&a, &b| bears_less(&victims[a], &victims[b]));
                }
                first.extend(second);
                orders.push(first);
            }
        }
        let beginnings = [Step::Sandwich, Step::AtLimit];
        let tried = orders.iter().flat_map(|order| beginnings.map(|step| self.ascend(victims, order, step)));
        tried.max_by(|a, b| a.gained.total_cmp(&b.gained)).expect("one order at the least")
    }

    /// Each trade for itself, in the order given: the best entry ahead of it, and out behind it.
    #[must_use]
    pub fn one_by_one(&self, victims: &[Victim]) -> Plan {
        let order: Vec<usize> = (0..victims.len()).collect();
        self.follow(victims, &order, &vec![Step::Sandwich; victims.len()])
    }

    fn ascend(&self, victims: &[Victim], order: &[usize], beginning: Step) -> Plan {
        let mut steps = vec![beginning; order.len()];
        let mut best = self.follow(victims, order, &steps);
        loop {
            let before = best.gained;
            for i in 0..steps.len() {
                for step in [Step::Sandwich, Step::AtLimit, Step::Pass, Step::Keep] {
                    let old = std::mem::replace(&mut steps[i], step);
                    let other = self.follow(victims, order, &steps);
                    if other.gained > best.gained + 1e-9 { best = other } else { steps[i] = old }
                }
            }
            if best.gained <= before {
                return best;
            }
        }
    }

    /// What the steps gain, and what they come to.
    fn follow(&self, victims: &[Victim], order: &[usize], steps: &[Step]) -> Plan {
        let Self { mut pool, worth, mut held, leads } = *self;
        let valued = worth.unwrap_or(0.0);
        let mut gained = 0.0;
        let mut moves = Vec::with_capacity(steps.len());
        for (i, (&trade, step)) in order.iter().zip(steps).enumerate() {
            let victim = &victims[trade];
            let mut made = Move { trade, entry: (victim.buying, 0.0), leaves: i + 1 == steps.len(), included: true };
            match step {
                Step::Sandwich => {
                    made.entry.1 = pool.best_entry(worth, victim);
                    made.leaves = true;
                }
                Step::AtLimit => {
                    let (buying, paid) = pool.bearable(victim);
                    let safe = if buying == victim.buying { 1.0 - NUDGE } else { 1.0 + NUDGE };
                    made.entry = (buying, paid * safe);
                }
                Step::Pass => {}
                Step::Keep if leads => made.included = false,
                Step::Keep if pool.bears(victim) => made.entry.1 = pool.bearable(victim).1 * (1.0 + NUDGE),
                Step::Keep => {}
            }
            let (buying, paid) = made.entry;
            if paid > 0.0 {
                let got = pool.trade(buying, paid);
                gained += gain(buying, paid, got, valued);
                held += tokens_of(buying, paid, got);
            }
            if made.included && pool.bears(victim) {
                pool.trade(victim.buying, victim.paid);
            }
            if made.leaves {
                gained += pool.leave(worth, held);
                held = 0.0;
            }
            moves.push(made);
        }
        Plan { gained, pool, moves }
    }
}

/// Which of two trades that go the same way stops to run first.
fn bears_less(one: &Victim, other: &Victim) -> std::cmp::Ordering {
    (other.least / other.paid).total_cmp(&(one.least / one.paid))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn pool() -> Curve {
        Curve { coins: 1000.0, tokens: 1_000_000.0, kept: 1.0 }
    }

    fn victim(buying: bool, pool: &Curve) -> Victim {
        let paid = if buying { 5.0 } else { 5000.0 };
        Victim { buying, paid, least: pool.quote(buying, paid) * 0.99 }
    }

    /// What a plan gains if it is followed, which is what it promises.
    fn gained(start: &Start, victims: &[Victim], plan: &Plan) -> f64 {
        let (mut pool, mut held, mut sum) = (start.pool, start.held, 0.0);
        for made in &plan.moves {
            let got = pool.trade(made.entry.0, made.entry.1);
            sum += gain(made.entry.0, made.entry.1, got, start.worth.unwrap_or(0.0));
            held += tokens_of(made.entry.0, made.entry.1, got);
            let victim = &victims[made.trade];
            if made.included && pool.bears(victim) {
                pool.trade(victim.buying, victim.paid);
            }
            if made.leaves {
                sum += pool.leave(start.worth, held);
                held = 0.0;
            }
        }
        assert!((sum - plan.gained).abs() < 1e-9 && pool == plan.pool, "{sum} {plan:?}");
        sum
    }

    #[test]
    fn one_trade_is_sandwiched() {
        let start = Start { pool: pool(), worth: None, held: 0.0, leads: false };
        for buying in [true, false] {
            let victims = [victim(buying, &pool())];
            let entry = pool().best_entry(None, &victims[0]);
            let [made] = start.plan(&victims).moves[..] else { panic!("one move") };
            assert!(made.leaves && made.included && made.entry.0 == buying);
            assert!((made.entry.1 / entry - 1.0).abs() < 1e-3, "{} {entry}", made.entry.1);
        }
    }

    #[test]
    fn what_would_fail_one_by_one_is_crossed_with_what_goes_the_other_way() {
        let start = Start { pool: pool(), worth: None, held: 0.0, leads: true };
        let [buy, sale] = [true, false].map(|buying| victim(buying, &pool()));
        let victims = [buy, buy, buy, sale, sale, sale];
        let alone = gained(&start, &victims, &start.one_by_one(&victims));
        let together = gained(&start, &victims, &start.plan(&victims));
        // Each loses a hundredth of five coins; but one by one the second purchase finds the price that the first has left.
        assert!(together > alone + 0.05, "{alone} {together}");
    }

    proptest! {
        #[test]
        fn no_plan_gains_less_than_one_by_one(
            trades in vec((any::<bool>(), 1.0..10.0, 0.98..1.0, 0.97..1.03), 0..8),
            kept in prop_oneof![Just(1.0), Just(0.997)],
            worth in prop_oneof![Just(None), Just(Some(0.001))],
            leads in any::<bool>(),
        ) {
            let start = Start { pool: Curve { kept, ..pool() }, worth, held: 0.0, leads };
            let victims: Vec<Victim> = trades
                .into_iter()
                .map(|(buying, coins, tolerated, stale)| {
                    let paid = if buying { coins } else { coins * 1000.0 };
                    Victim { buying, paid, least: start.pool.quote(buying, paid) * tolerated * stale }
                })
                .collect();
            let (alone, together) = (start.one_by_one(&victims), start.plan(&victims));
            prop_assert!(gained(&start, &victims, &together) >= gained(&start, &victims, &alone) - 1e-9);
            prop_assert!(together.moves.last().is_none_or(|last| last.leaves), "it ends without tokens");
        }
    }

    #[test]
    fn who_holds_tokens_at_a_high_price_sells_them_to_buyers_and_keeps_sellers_away() {
        let mut pumped = pool();
        let held = pumped.trade(true, 50.0);
        let victims = [victim(false, &pumped), victim(true, &pumped)];
        for leads in [false, true] {
            let start = Start { pool: pumped, worth: None, held, leads };
            let profit = gained(&start, &victims, &start.plan(&victims)) - 50.0;
            assert!(profit > 0.3, "{profit}");
        }
    }

    #[test]
    fn a_limit_that_the_price_has_left_is_met_from_the_other_side() {
        let stale = victim(true, &pool());
        let mut risen = pool();
        risen.trade(true, 60.0);
        assert!(!risen.bears(&stale));
        let (buying, paid) = risen.bearable(&stale);
        assert!(!buying);
        risen.trade(false, paid * (1.0 + NUDGE));
        assert!(risen.bears(&stale) && risen.quote(true, stale.paid) / stale.least < 1.0 + 1e-5);
    }
}
