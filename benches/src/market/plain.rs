//! The market on a chain in the clear.

use alloy_primitives::{Address, B256};
use cascade_execution::{InFlight, check_block_transactions};
use cascade_mempool::{Pool, PoolLimits, SelectLimits, Source};
use cascade_primitives::{ChainParams, RecoveredTransaction, TimestampMs, TransactionRule};
use rand::Rng as _;

use super::{
    Settings, Strategy, Sums,
    chain::sender,
    curve::Victim,
    plan::{Move, Start},
    round::{Ground, Opened, Round, TIP, USERS, attack, close, enter},
    users::Order,
};

/// A chain in the clear with its market.
pub(super) struct Market {
    ground: Ground,
    strategy: Strategy,
    pool: Pool,
    waiting: Vec<Waiting>,
    /// Whether the trades that are left out are purchases, where it is one side alone.
    side: Option<bool>,
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

/// What stands in a block about one trade.
struct Place {
    /// Number of the trade among those that wait; none if it is left out.
    trade: Option<usize>,
    ahead: Attack,
    behind: Attack,
}

impl Market {
    pub fn new(settings: &Settings, number: u64) -> Self {
        let ground = Ground::new(settings, number, TransactionRule::Plain);
        let pool = Pool::new(PoolLimits::of(&ground.chain.params));
        let mut market = Self { ground, strategy: settings.strategy, pool, waiting: Vec::new(), side: None };
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
        self.pump();
        let leads = self.ground.leads();
        let start = self.ground.pool();
        self.orders();
        // The best tip runs first, and a leader may as well leave it at that.
        self.waiting.sort_by_key(|trade| std::cmp::Reverse(trade.tip));
        let run = self.running(leads);
        let places = self.places(leads, &run);
        let block = if leads {
            places.iter().flat_map(|place| self.placed(place)).collect()
        } else {
            let own = places.iter().flat_map(|place| [&place.ahead, &place.behind]);
            own.for_each(|attack| self.admit(attack.with.clone()));
            self.select()
        };
        let attacks = || places.iter().flat_map(|place| [&place.ahead, &place.behind]);
        let without: Vec<RecoveredTransaction> = block
            .iter()
            .map(|tx| attacks().find(|a| a.with.hash() == tx.hash()).map_or(tx, |a| &a.without).clone())
            .collect();
        let hashes: Vec<B256> =
            places.iter().filter_map(|place| Some(self.waiting[place.trade?].transaction.hash())).collect();
        assert_eq!(block.len(), hashes.len() + 2 * places.len(), "all of it fits a block");
        let users: Vec<RecoveredTransaction> = block.iter().filter(|tx| hashes.contains(&tx.hash())).cloned().collect();
        let undisturbed = Round::of(&self.ground, &self.ground.chain.run(&users), start, &hashes, leads);
        let alone = self.ground.chain.run(&without);
        let alone = Round::of(&self.ground, &alone, start, &hashes, leads);
        let done = self.commit(&block);
        let round = Round::of(&self.ground, &done, start, &hashes, leads);
        for trade in self.waiting.extract_if(.., |trade| hashes.contains(&trade.transaction.hash())) {
            self.ground.users.all[trade.order.user].waits = false;
        }
        if round.closes.is_some() {
            let params = self.ground.chain.params.clone();
            let call = attack(&self.ground.contracts, close(), TIP);
            let closing = self.ground.attacker.sign(&params, &call);
            self.commit(&[closing]);
        }
        round.against(&alone, &undisturbed, self.waiting.len())
    }

    /// Enters before users name their limits.
    fn pump(&mut self) {
        let Strategy::Together { before } = self.strategy else { return };
        if before == 0.0 {
            return;
        }
        let (_, own) = self.ground.open(before);
        let base_fee = self.ground.chain.base_fee;
        let block = self.commit(&[own]);
        self.ground.opened = Opened::of(&block.receipts[0], base_fee);
    }

    /// Numbers of the trades that wait and are not kept for a later block, which the attacker leads as well.
    fn running(&mut self, leads: bool) -> Vec<usize> {
        let until = match self.strategy {
            Strategy::Together { before } if before != 0.0 => 4,
            _ => 2,
        };
        let all = (0..self.waiting.len()).collect();
        if !(leads && self.ground.leads_in(until)) {
            self.side = None;
            return all;
        }
        match self.strategy {
            Strategy::Together { .. } => Vec::new(),
            Strategy::OneSided => {
                let pool = self.ground.pool();
                let victims: Vec<Victim> = self.waiting.iter().map(|trade| trade.order.victim).collect();
                let buying = *self.side.get_or_insert_with(|| pool.purchases(&victims) > 0.0);
                let others: Vec<usize> = all.into_iter().filter(|&i| victims[i].buying != buying).collect();
                let everybody_waits = others.is_empty() && victims.len() == USERS;
                if everybody_waits { (0..victims.len()).collect() } else { others }
            }
            _ => all,
        }
    }

    fn orders(&mut self) {
        let pool = self.ground.pool();
        let params = self.ground.chain.params.clone();
        for order in self.ground.users.orders(&pool, self.ground.worth) {
            // Each bids something else, with room in between.
            let tip = loop {
                let tip = TIP + 10 * self.ground.rng.random_range(1..10_000);
                if self.waiting.iter().all(|other| other.tip != tip) {
                    break tip;
                }
            };
            let call = self.ground.call(&order, tip);
            let transaction = self.ground.users.all[order.user].wallet.sign(&params, &call);
            self.admit(transaction.clone());
            self.waiting.push(Waiting { order, transaction, tip });
        }
    }

    /// Two transactions for each of these trades, ahead of it and behind.
    fn places(&mut self, leads: bool, run: &[usize]) -> Vec<Place> {
        let Ground { worth, opened, .. } = &self.ground;
        let start = Start { pool: self.ground.pool(), worth: *worth, held: opened.tokens(), leads };
        let victims: Vec<Victim> = run.iter().map(|&i| self.waiting[i].order.victim).collect();
        let plan = match self.strategy {
            Strategy::Together { .. } | Strategy::OneSided => start.plan(&victims),
            _ => start.one_by_one(&victims),
        };
        let mut places = Vec::with_capacity(plan.moves.len());
        for Move { trade, entry: (buying, paid), leaves, included } in plan.moves {
            let trade = run[trade];
            let tip = self.waiting[trade].tip;
            let ahead = self.attack(enter(buying, paid), enter(buying, 0.0), tip + 1);
            let behind = if leaves { close() } else { enter(buying, 0.0) };
            let behind = self.attack(behind.clone(), behind, tip - 1);
            places.push(Place { trade: included.then_some(trade), ahead, behind });
        }
        places
    }

    fn placed(&self, place: &Place) -> Vec<RecoveredTransaction> {
        let trade = place.trade.map(|trade| &self.waiting[trade].transaction);
        [Some(&place.ahead.with), trade, Some(&place.behind.with)].into_iter().flatten().cloned().collect()
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
