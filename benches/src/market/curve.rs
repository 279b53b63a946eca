//! The exchange's arithmetic in floats: what an attacker computes before it acts, and what the measurement marks with.

/// The pool of a constant-product exchange, in whole coins and tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Curve {
    /// Coins in the pool.
    pub coins: f64,
    /// Tokens in the pool.
    pub tokens: f64,
    /// What of each payment counts: one less the exchange's fee.
    pub kept: f64,
}

/// Relative distance from the best price below which nobody trades for the rest (the contract's, too).
const DUST: f64 = 1e-9;
/// By which share of a payment an attacker stays on the safe side of what a victim bears, since the chain rounds otherwise.
pub const NUDGE: f64 = 1e-7;

impl Curve {
    /// What a payment gets; changes nothing.
    #[must_use]
    pub fn quote(&self, buying: bool, paid: f64) -> f64 {
        let (from, to) = if buying { (self.coins, self.tokens) } else { (self.tokens, self.coins) };
        to * paid * self.kept / (from + paid * self.kept)
    }

    /// Trades.
    pub fn trade(&mut self, buying: bool, paid: f64) -> f64 {
        let got = self.quote(buying, paid);
        self.apply(buying, paid, got);
        got
    }

    /// Takes a trade that the chain has made.
    pub fn apply(&mut self, buying: bool, paid: f64, got: f64) {
        if buying {
            self.coins += paid;
            self.tokens -= got;
        } else {
            self.tokens += paid;
            self.coins -= got;
        }
    }

    /// The trade that gains most if a token is worth so many coins; none if none gains.
    #[must_use]
    pub fn closing(&self, worth: f64) -> Option<(bool, f64)> {
        let product = self.kept * self.coins * self.tokens;
        let sides = [(true, (product * worth).sqrt(), self.coins), (false, (product / worth).sqrt(), self.tokens)];
        sides
            .into_iter()
            .find(|(_, target, reserve)| *target > reserve * (1.0 + DUST))
            .map(|(buying, target, reserve)| (buying, (target - reserve) / self.kept))
    }

    /// Makes the closing trade; answers what it gains in coins, a token being worth so many.
    pub fn close(&mut self, worth: f64) -> f64 {
        let Some((buying, paid)) = self.closing(worth) else { return 0.0 };
        let got = self.trade(buying, paid);
        gain(buying, paid, got, worth)
    }

    /// The trade that gives back so many tokens, or buys so many if it is less than none; none for dust.
    #[must_use]
    pub fn undoing(&self, held: f64) -> Option<(bool, f64)> {
        if held.abs() < self.tokens * DUST {
            return None;
        }
        let cost = -held * self.coins / (self.tokens + held) / self.kept;
        Some(if held > 0.0 { (false, held) } else { (true, cost) })
    }

    /// How somebody gets out who holds so many tokens more than before: by closing if it is known what they are worth,
    /// else by giving them back.
    #[must_use]
    pub fn leaving(&self, worth: Option<f64>, held: f64) -> Option<(bool, f64)> {
        worth.map_or_else(|| self.undoing(held), |worth| self.closing(worth))
    }

    /// Makes that trade; answers what it gains in coins, tokens counting for what they are known to be worth.
    pub fn leave(&mut self, worth: Option<f64>, held: f64) -> f64 {
        let Some((buying, paid)) = self.leaving(worth, held) else { return 0.0 };
        let got = self.trade(buying, paid);
        gain(buying, paid, got, worth.unwrap_or(0.0))
    }

    /// What entering with `paid` ahead of a victim's trade and leaving after it gains. A victim that would get less than
    /// it asks for does not trade.
    fn sandwich(mut self, worth: Option<f64>, paid: f64, victim: &Victim) -> f64 {
        let got = self.trade(victim.buying, paid);
        let ahead = gain(victim.buying, paid, got, worth.unwrap_or(0.0));
        if self.bears(victim) {
            self.trade(victim.buying, victim.paid);
        }
        ahead + self.leave(worth, tokens_of(victim.buying, paid, got))
    }

    /// Whether a victim's trade runs as the pool stands.
    #[must_use]
    pub fn bears(&self, victim: &Victim) -> bool {
        self.quote(victim.buying, victim.paid) >= victim.least
    }

    /// What the purchases among trades pay in coins, less what the sales are worth.
    #[must_use]
    pub fn purchases(&self, trades: &[Victim]) -> f64 {
        trades.iter().map(|t| if t.buying { t.paid } else { -t.paid * self.coins / self.tokens }).sum()
    }

    /// The payment at which a victim stops to bear (or begins to, if it does not yet) what is traded ahead of it: in its own
    /// direction if it bears the pool as it stands, else in the other one.
    #[must_use]
    pub fn bearable(&self, victim: &Victim) -> (bool, f64) {
        let worse = self.bears(victim);
        let buying = victim.buying == worse;
        let (mut low, mut high) = (0.0, if buying { self.coins } else { self.tokens });
        for _ in 0..60 {
            let middle = f64::midpoint(low, high);
            let mut pool = *self;
            pool.trade(buying, middle);
            if pool.bears(victim) == worse { low = middle } else { high = middle }
        }
        (buying, f64::midpoint(low, high))
    }

    /// The payment with which to enter ahead of a victim so that the sandwich gains most; zero if none gains anything
    /// beyond leaving alone.
    #[must_use]
    pub fn best_entry(&self, worth: Option<f64>, victim: &Victim) -> f64 {
        if !self.bears(victim) {
            return 0.0;
        }
        // The gain rises to one peak and falls: golden section.
        let most = self.bearable(victim).1 * (1.0 - NUDGE);
        let ratio = 0.5 * (5f64.sqrt() - 1.0);
        let (mut left, mut right) = (0.0, most);
        for _ in 0..60 {
            let (a, b) = (right - ratio * (right - left), left + ratio * (right - left));
            if self.sandwich(worth, a, victim) < self.sandwich(worth, b, victim) { left = a } else { right = b }
        }
        let found = f64::midpoint(left, right);
        if self.sandwich(worth, found, victim) > self.sandwich(worth, 0.0, victim) { found } else { 0.0 }
    }
}

/// What a victim asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Victim {
    /// Whether it pays coins for tokens.
    pub buying: bool,
    /// What it pays.
    pub paid: f64,
    /// The least that it wants for it.
    pub least: f64,
}

/// By how many tokens a trade makes richer.
#[must_use]
pub const fn tokens_of(buying: bool, paid: f64, got: f64) -> f64 {
    if buying { got } else { -paid }
}

/// What a trade gains in coins, a token being worth so many.
#[must_use]
pub fn gain(buying: bool, paid: f64, got: f64, worth: f64) -> f64 {
    if buying { got * worth - paid } else { got - paid * worth }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(kept: f64) -> Curve {
        Curve { coins: 1000.0, tokens: 1_000_000.0, kept }
    }

    #[test]
    fn without_a_fee_a_sandwich_takes_what_the_victim_tolerates_and_the_back_run() {
        let mut fair = pool(1.0);
        let least = fair.quote(true, 10.0) * 0.99;
        let victim = Victim { buying: true, paid: 10.0, least };
        let paid = pool(1.0).best_entry(Some(0.001), &victim);
        let all = pool(1.0).sandwich(Some(0.001), paid, &victim);
        fair.trade(true, 10.0);
        let back_run = fair.close(0.001);
        // The pool ends as it began, so what the attacker gains the victim has paid.
        let slippage = 0.01 * least / 0.99 * 0.001;
        assert!((all - back_run - slippage).abs() < 1e-6, "{all} {back_run} {slippage}");
    }

    #[test]
    fn closing_is_the_best_trade() {
        for (kept, moved) in [(1.0, 30.0), (0.997, 30.0), (0.997, 1.0)] {
            let mut moved_pool = pool(kept);
            moved_pool.trade(true, moved);
            let best = moved_pool.clone_closed();
            for nudge in [0.9, 0.99, 1.01, 1.1] {
                if let Some((buying, paid)) = moved_pool.closing(0.001) {
                    let got = moved_pool.quote(buying, paid * nudge);
                    assert!(gain(buying, paid * nudge, got, 0.001) < best);
                }
            }
        }
        assert_eq!(pool(0.997).closing(0.001), None);
    }

    #[test]
    fn where_the_fee_eats_the_gain_nothing_is_entered() {
        let least = pool(0.97).quote(true, 1.0) * 0.999;
        assert_eq!(pool(0.97).best_entry(Some(0.001), &Victim { buying: true, paid: 1.0, least }), 0.0);
    }

    #[test]
    fn who_undoes_what_it_did_ends_where_it_began() {
        for (kept, buying, paid) in [(1.0, true, 30.0), (1.0, false, 3000.0), (0.997, true, 5.0), (0.997, false, 900.0)]
        {
            let mut moved = pool(kept);
            let got = moved.trade(buying, paid);
            let held = tokens_of(buying, paid, got);
            let (back, cost) = moved.undoing(held).expect("more than dust");
            let returned = moved.trade(back, cost);
            assert!((held + tokens_of(back, cost, returned)).abs() < 1e-6, "no token more or less");
            let coins = moved.coins - 1000.0;
            assert!(coins > -1e-9 && (kept < 1.0 || coins < 1e-9), "the fee alone stays: {coins}");
        }
    }

    #[test]
    fn whoever_ends_flat_takes_no_more_than_the_victim_tolerates() {
        for buying in [true, false] {
            let paid = if buying { 10.0 } else { 10_000.0 };
            let victim = Victim { buying, paid, least: pool(1.0).quote(buying, paid) * 0.99 };
            let entry = pool(1.0).best_entry(None, &victim);
            let mut robbed = pool(1.0);
            let got = robbed.trade(buying, entry);
            assert!((robbed.trade(buying, paid) / victim.least - 1.0).abs() < 1e-6, "all that it tolerates");
            let gained = robbed.leave(None, tokens_of(buying, entry, got)) + gain(buying, entry, got, 0.0);
            assert!((gained - pool(1.0).sandwich(None, entry, &victim)).abs() < 1e-9);
            assert!(gained > 0.09 && gained < 0.11, "a hundredth of ten coins: {gained}");
        }
        let still = Victim { buying: true, paid: 0.0, least: 0.0 };
        assert!(pool(1.0).sandwich(None, 20.0, &still).abs() < 1e-9, "in and out again gains nothing");
    }

    impl Curve {
        fn clone_closed(&self) -> f64 {
            let mut pool = *self;
            pool.close(0.001)
        }
    }
}
