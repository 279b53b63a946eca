//! The market on a chain in the clear.

use alloy_primitives::{Address, B256};
use cascade_execution::{InFlight, check_block_transactions};
use cascade_mempool::{Pool, PoolLimits, SelectLimits, Source};
use cascade_primitives::{ChainParams, RecoveredTransaction, TimestampMs, TransactionRule};
use rand::Rng as _;

use super::{
    Settings, Sums,
    chain::sender,
    curve::tokens_of,
    round::{Ground, Round, TIP, attack, close, enter},
    users::Order,
};

/// A chain in the clear with its market.
pub(super) struct Market {
    ground: Ground,
    pool: Pool,
}

/// A trade that waits, in the clear.
struct Waiting {
    order: Order,
    transaction: RecoveredTransaction,
    tip: u64,
}

/// A transaction of the attacker, and the same with nothing traded ahead.
struct Attack {
    with: RecoveredTransaction,
    without: RecoveredTransaction,
}

impl Market {
    pub fn new(settings: &Settings, number: u64) -> Self {
        let ground = Ground::new(settings, number, TransactionRule::Plain);
        let pool = Pool::new(PoolLimits::of(&ground.chain.params));
        let mut market = Self { ground, pool };
        let calls = market.ground.set_up(settings.fee);
        let params = market.ground.chain.params.clone();
        let transactions: Vec<_> = calls.iter().map(|call| market.ground.attacker.sign(&params, call)).collect();
        market.commit(&transactions);
        market
    }

    pub fn run(&mut self, rounds: usize) -> Vec<Sums> {
        (0..rounds).map(|_| self.round()).collect()
    }

    fn round(&mut self) -> Sums {
        let leads = self.ground.leads();
        let start = self.ground.pool();
        let mut waiting = self.orders();
        // The best tip runs first, and a leader may as well leave it at that.
        waiting.sort_by_key(|trade| std::cmp::Reverse(trade.tip));
        let attacks = self.attacks(&waiting);
        let hashes: Vec<B256> = waiting.iter().map(|trade| trade.transaction.hash()).collect();
        let block = if leads {
            let placed = |(trade, pair): (&Waiting, &[Attack])| {
                [pair[0].with.clone(), trade.transaction.clone(), pair[1].with.clone()]
            };
            waiting.iter().zip(attacks.chunks(2)).flat_map(placed).collect()
        } else {
            attacks.iter().for_each(|attack| self.admit(attack.with.clone()));
            self.select()
        };
        let without: Vec<RecoveredTransaction> = block
            .iter()
            .map(|tx| attacks.iter().find(|a| a.with.hash() == tx.hash()).map_or(tx, |a| &a.without).clone())
            .collect();
        assert_eq!(block.len(), waiting.len() + attacks.len(), "all of it fits a block");
        let users: Vec<RecoveredTransaction> = block.iter().filter(|tx| hashes.contains(&tx.hash())).cloned().collect();
        let undisturbed = Round::of(&self.ground, &self.ground.chain.run(&users), start, &hashes, leads);
        let alone = self.ground.chain.run(&without);
        let alone = Round::of(&self.ground, &alone, start, &hashes, leads);
        let done = self.commit(&block);
        let round = Round::of(&self.ground, &done, start, &hashes, leads);
        for trade in &waiting {
            self.ground.users.all[trade.order.user].waits = false;
        }
        if round.closes.is_some() {
            let params = self.ground.chain.params.clone();
            let call = attack(&self.ground.contracts, close(), TIP);
            let closing = self.ground.attacker.sign(&params, &call);
            self.commit(&[closing]);
        }
        round.against(&alone, &undisturbed, 0)
    }

    fn orders(&mut self) -> Vec<Waiting> {
        let pool = self.ground.pool();
        let params = self.ground.chain.params.clone();
        let orders = self.ground.users.orders(&pool, self.ground.worth);
        let mut waiting: Vec<Waiting> = Vec::new();
        for order in orders {
            // Each bids something else, with room in between.
            let tip = loop {
                let tip = TIP + 10 * self.ground.rng.random_range(1..10_000);
                if waiting.iter().all(|other| other.tip != tip) {
                    break tip;
                }
            };
            let call = self.ground.call(&order, tip);
            let transaction = self.ground.users.all[order.user].wallet.sign(&params, &call);
            self.admit(transaction.clone());
            waiting.push(Waiting { order, transaction, tip });
        }
        waiting
    }

    /// Two transactions for each trade, in and out.
    fn attacks(&mut self, waiting: &[Waiting]) -> Vec<Attack> {
        let (mut pool, worth) = (self.ground.pool(), self.ground.worth);
        let mut attacks = Vec::new();
        for Waiting { order, tip, .. } in waiting {
            let paid = pool.best_entry(worth, &order.victim);
            let buying = order.victim.buying;
            attacks.push(self.attack(enter(buying, paid), enter(buying, 0.0), tip + 1));
            attacks.push(self.attack(close(), close(), tip - 1));
            let got = if paid > 0.0 { pool.trade(buying, paid) } else { 0.0 };
            if pool.quote(buying, order.victim.paid) >= order.victim.least {
                pool.trade(buying, order.victim.paid);
            }
            pool.leave(worth, tokens_of(buying, paid, got));
        }
        attacks
    }

    fn attack(&mut self, with: Vec<u8>, without: Vec<u8>, tip: u64) -> Attack {
        let Ground { attacker, contracts, chain, .. } = &mut self.ground;
        let nonce = attacker.nonce;
        let without = attacker.signed(&chain.params, &attack(contracts, without, tip), nonce);
        Attack { with: attacker.sign(&chain.params, &attack(contracts, with, tip)), without }
    }

    fn admit(&mut self, transaction: RecoveredTransaction) {
        let (view, above) = (self.ground.chain.executed(), InFlight::empty(self.ground.chain.height));
        let accounts = |address: &Address| sender(&view, &above, address);
        self.pool.admit(TimestampMs(1), transaction, Source::Peer, &accounts).expect("it pays");
    }

    /// What an honest leader takes.
    fn select(&self) -> Vec<RecoveredTransaction> {
        let chain = &self.ground.chain;
        let (view, in_flight) = chain.basis();
        let limits = limits(&chain.params);
        let selected = self.pool.select(limits, chain.base_fee, &|a: &Address| sender(&view, &in_flight, a));
        selected.iter().map(|tx| tx.as_ref().clone()).collect()
    }

    /// Checks a block as every validator does, runs and stores it.
    fn commit(&mut self, transactions: &[RecoveredTransaction]) -> cascade_execution::ExecutedBlock {
        let chain = &mut self.ground.chain;
        let (view, in_flight) = chain.basis();
        let checked = check_block_transactions(&chain.params, chain.base_fee, &view, &in_flight, transactions);
        let block = chain.run(transactions);
        chain.commit(&block, checked.expect("a valid block"));
        let (view, above) = (chain.executed(), InFlight::empty(chain.height));
        let senders = transactions.iter().map(RecoveredTransaction::sender).map(|a| (a, sender(&view, &above, &a)));
        self.pool.on_executed(senders);
        block
    }
}

pub(super) const fn limits(params: &ChainParams) -> SelectLimits {
    SelectLimits { bytes: params.max_block_bytes as usize, gas: params.block_gas_limit, count: 10_000 }
}
