//! The market on an encrypted chain.

use std::collections::{BTreeMap, HashMap};

use alloy_primitives::{Address, B256};
use cascade_crypto::envelope::{GasClasses, Sealed, Terms};
use cascade_execution::{ExecutedBlock, InFlight, OpenedItem, check_block_items};
use cascade_mempool::{CheckedEnvelope, Pool, PoolLimits, Source};
use cascade_primitives::{
    Height, RecoveredEnvelope, RecoveredItem, RecoveredTransaction, TimestampMs, TransactionRule,
};
use rand::Rng as _;

use super::{
    Guess, Role, Sealing, Settings, Strategy, Sums,
    chain::{Account, payer},
    cipher::{Cipher, EPOCH, terms},
    plain::limits,
    round::{Ground, Opened, Round, TIP, attack, close, enter, go_back, lean, lurk, traded_last},
    users::{Gas, Knowledge, Order, Seen},
};

pub(super) type Checked = (RecoveredEnvelope, Sealed);

/// An encrypted chain with its market.
pub(super) struct Market {
    pub ground: Ground,
    pub cipher: Cipher,
    strategy: Strategy,
    role: Role,
    pool: Pool<CheckedEnvelope>,
    pub waiting: Vec<Waiting>,
    knowledge: Knowledge,
    /// The direction of what it holds before users name their limits, and what of that it keeps in their block.
    pumped: (bool, f64),
}

/// A trade that waits. What a sequencer may look at is `seen`, an outsider at nothing.
pub(super) struct Waiting {
    pub order: Order,
    pub inside: B256,
    pub sealed: Checked,
    seen: Seen,
    /// The pool's coins when its limit was named.
    pub coins: f64,
}

/// What a block gave, and what it would have given otherwise.
struct Outcomes {
    done: ExecutedBlock,
    /// With other transactions in some of the envelopes.
    alone: ExecutedBlock,
    /// Without those envelopes.
    undisturbed: ExecutedBlock,
}

/// What the attacker sends: envelopes, and for each transaction inside the one that trades ahead of nobody.
pub(super) struct Attack {
    pub envelopes: Vec<Checked>,
    without: HashMap<B256, RecoveredTransaction>,
}

impl Market {
    pub fn new(settings: &Settings, number: u64) -> Self {
        let ground = Ground::new(settings, number, TransactionRule::Encrypted);
        let (params, seed) = (&ground.chain.params, settings.seed ^ number << 32);
        let cipher = match &settings.sealing {
            Sealing::Real(keys) => Cipher::real(keys.clone(), params.clone(), seed),
            Sealing::Assumed(beacons) => Cipher::assumed(params, seed, beacons.clone()),
        };
        let pool = Pool::new(PoolLimits::of(params));
        let (waiting, knowledge) = (Vec::new(), Knowledge::default());
        let Settings { strategy, role, .. } = *settings;
        let mut market = Self { ground, cipher, strategy, role, pool, waiting, knowledge, pumped: (true, 0.0) };
        let calls = market.ground.set_up(settings.fee);
        let params = market.ground.chain.params.clone();
        let sealed: Vec<Checked> = calls
            .iter()
            .map(|call| {
                let transaction = market.ground.attacker.sign(&params, call);
                market.seal_own(&transaction)
            })
            .collect();
        market.commit(&sealed, &[]);
        market
    }

    pub fn beacons(&self) -> BTreeMap<Height, B256> {
        self.cipher.beacons().clone()
    }

    pub fn run(&mut self, rounds: usize) -> Vec<Sums> {
        (0..rounds).map(|_| self.round()).collect()
    }

    fn round(&mut self) -> Sums {
        self.pump();
        let leads = self.ground.leads();
        let start = self.ground.pool();
        self.orders();
        let chosen = self.chosen(leads);
        let Attack { envelopes, without } = self.attack(chosen);
        let block = if leads {
            self.propose(&envelopes, chosen)
        } else {
            envelopes.into_iter().for_each(|envelope| self.admit(envelope));
            self.select()
        };
        assert_eq!(block.len(), chosen + without.len(), "all of it fits a block");
        let silent = match self.strategy {
            Strategy::Strew { withhold: true, .. } => self.ground.seats(),
            _ => Vec::new(),
        };
        let base_fee = self.ground.chain.base_fee;
        let Outcomes { done, alone, undisturbed } = self.commit_against(&block, &silent, &without);
        assert_eq!(base_fee, self.ground.chain.params.base_fee_floor, "blocks are far from full");
        let hashes: Vec<B256> = self.reveal(chosen).iter().map(|trade| trade.inside).collect();
        self.knowledge.last = traded_last(&done, &hashes).or(self.knowledge.last);
        let [round, alone, undisturbed] =
            [done, alone, undisturbed].map(|block| Round::of(&self.ground, &block, start, &hashes, leads));
        if round.closes.is_some() {
            let params = self.ground.chain.params.clone();
            let call = attack(&self.ground.contracts, close(), TIP);
            let closing = self.ground.attacker.sign(&params, &call);
            let sealed = self.seal_own(&closing);
            self.commit(&[sealed], &silent);
        }
        round.against(&alone, &undisturbed, self.waiting.len())
    }

    /// Enters before users name their limits.
    fn pump(&mut self) {
        let Strategy::Pump { before, during, .. } = self.strategy else { return };
        let pool = self.ground.pool();
        let (buying, own) = self.ground.open(before);
        self.pumped = (buying, during * if buying { pool.coins } else { pool.tokens });
        let sealed = self.seal_own(&own);
        let base_fee = self.ground.chain.base_fee;
        let block = self.commit(&[sealed], &[]);
        self.ground.opened = Opened::of(&block.receipts[0], base_fee);
    }

    /// How many trades come into the next block.
    pub fn chosen(&self, leads: bool) -> usize {
        match self.strategy {
            Strategy::Hoard { .. } if leads => 0,
            Strategy::Strew { isolate: true, .. } if leads => self.waiting.len().min(1),
            _ => self.waiting.len(),
        }
    }

    /// What the attacker proposes: its own first, then others', then its own, should the order of a proposal mean
    /// anything.
    pub fn propose(&self, own: &[Checked], chosen: usize) -> Vec<Checked> {
        let (first, last) = own.split_at(own.len() / 2);
        let others = self.waiting[..chosen].iter().map(|trade| &trade.sealed);
        first.iter().chain(others).chain(last).cloned().collect()
    }

    /// The first trades that waited have been revealed.
    pub fn reveal(&mut self, count: usize) -> Vec<Waiting> {
        let trades: Vec<Waiting> = self.waiting.drain(..count).collect();
        for trade in &trades {
            self.ground.users.all[trade.order.user].waits = false;
            self.knowledge.learn(&trade.seen, trade.order.victim.buying);
        }
        trades
    }

    pub fn orders(&mut self) {
        let (pool, params) = (self.ground.pool(), self.ground.chain.params.clone());
        for order in self.ground.users.orders(&pool, self.ground.worth) {
            let call = self.ground.call(&order, TIP);
            let transaction = self.ground.users.all[order.user].wallet.sign(&params, &call);
            let sealed = self.seal_for(order.user, &transaction);
            let seen = Seen { payer: sealed.0.payer(), gas_limit: sealed.0.gas_limit };
            self.admit(sealed.clone());
            self.waiting.push(Waiting { order, inside: transaction.hash(), sealed, seen, coins: pool.coins });
        }
    }

    /// What the attacker sends against the first trades that wait; an outsider against whatever may wait.
    pub fn attack(&mut self, chosen: usize) -> Attack {
        let (heard, entries) = match self.role {
            Role::Sequencer => (chosen, chosen),
            Role::Outsider => (0, 1),
        };
        let votes = |guess: Guess, market: &mut Self| {
            let seen = market.waiting[..heard].iter().map(|trade| trade.seen);
            let sum: i64 = match guess {
                Guess::Coin => 0,
                Guess::History => seen.map(|seen| market.knowledge.by_history(&seen)).sum(),
                Guess::Gas => seen.map(|seen| market.knowledge.by_gas(&seen)).sum(),
                Guess::Along | Guess::Against => match market.knowledge.last {
                    Some(bought) if bought == (guess == Guess::Along) => 1,
                    Some(_) => -1,
                    None => 0,
                },
            };
            if sum == 0 { market.ground.rng.random_bool(0.5) } else { sum > 0 }
        };
        let pool = self.ground.pool();
        let price = self.ground.worth.unwrap_or(pool.coins / pool.tokens);
        let amount = |buying: bool, size: f64| pool.coins * size / if buying { 1.0 } else { price };
        let calls: Vec<(Vec<u8>, Vec<u8>)> = match self.strategy {
            Strategy::Sandwich | Strategy::Together { .. } | Strategy::OneSided => {
                unreachable!("it needs a chain in the clear")
            }
            Strategy::Blind { size } => {
                let buying = votes(Guess::Coin, self);
                vec![(enter(buying, amount(buying, size)), enter(buying, 0.0)), (close(), close())]
            }
            Strategy::Strew { count, size, guess, .. } => {
                let buying = votes(guess, self);
                // The last one to run only closes: nobody is left to be ahead of.
                let one = |i| if i + 1 < count { amount(buying, size) } else { 0.0 };
                let coins = self.ground.pool_coins();
                let with = |paid: f64| match guess {
                    Guess::Along | Guess::Against => {
                        let paid = if paid > 0.0 { pool.coins * size } else { 0.0 };
                        lean(buying, guess == Guess::Along, paid, entries, coins)
                    }
                    _ => lurk(buying, paid, entries),
                };
                (0..count).map(|i| (with(one(i)), with(0.0))).collect()
            }
            Strategy::Hoard { count } => {
                let named = self.waiting[..chosen].iter().map(|trade| trade.coins).sum::<f64>();
                let named = if chosen == 0 { pool.coins } else { named / chosen as f64 };
                let idle = lurk(true, 0.0, entries);
                let with = |i| if i + 1 < count { go_back(entries, named) } else { idle.clone() };
                (0..count).map(|i| (with(i), idle.clone())).collect()
            }
            Strategy::Pump { count, .. } => {
                let (buying, kept) = self.pumped;
                let one = |i| if i + 1 < count { kept } else { 0.0 };
                (0..count).map(|i| (lurk(buying, one(i), entries), lurk(buying, 0.0, entries))).collect()
            }
        };
        let params = self.ground.chain.params.clone();
        let mut attack_ = Attack { envelopes: Vec::new(), without: HashMap::new() };
        for (with, without) in calls {
            let nonce = self.ground.attacker.nonce;
            let call = |data| attack(&self.ground.contracts, data, TIP);
            let without = self.ground.attacker.signed(&params, &call(without), nonce);
            let call = call(with);
            let with = self.ground.attacker.sign(&params, &call);
            attack_.without.insert(with.hash(), without);
            attack_.envelopes.push(self.seal_own(&with));
        }
        attack_
    }

    /// What a user's proxy makes of a transaction.
    pub fn seal_for(&mut self, user: usize, transaction: &RecoveredTransaction) -> Checked {
        let payer = &mut self.ground.users.all[user].payer;
        let mut terms = terms_for(payer, transaction, self.ground.chain.height.plus(1000));
        if self.ground.habits.gas == Gas::Classes {
            let most = self.ground.chain.params.block_gas_limit;
            terms.gas_limit = GasClasses::default().round(terms.gas_limit, most);
        }
        let envelope = self.cipher.seal(&terms, transaction, &payer.key);
        let checked = self.cipher.check(&envelope).expect("an honest envelope");
        (envelope, checked)
    }

    /// The same for the attacker.
    pub fn seal_own(&mut self, transaction: &RecoveredTransaction) -> Checked {
        let mut payer = self.ground.payer.clone();
        let checked = self.seal_by(&mut payer, transaction);
        self.ground.payer = payer;
        checked
    }

    /// The same for anybody with a payer.
    pub fn seal_by(&mut self, payer: &mut Account, transaction: &RecoveredTransaction) -> Checked {
        let terms = terms_for(payer, transaction, self.ground.chain.height.plus(1000));
        let envelope = self.cipher.seal(&terms, transaction, &payer.key);
        let checked = self.cipher.check(&envelope).expect("a well-formed envelope");
        (envelope, checked)
    }

    pub fn admit(&mut self, (envelope, sealed): Checked) {
        let (view, above) = (self.ground.chain.executed(), InFlight::empty(self.ground.chain.height));
        let accounts = |address: &Address| payer(&view, &above, address);
        let envelope = CheckedEnvelope { envelope, sealed };
        self.pool.admit(TimestampMs(1), envelope, Source::Peer, &accounts).expect("it pays");
    }

    /// What an honest leader takes.
    pub fn select(&self) -> Vec<Checked> {
        let chain = &self.ground.chain;
        let (view, in_flight) = chain.basis();
        let accounts = |address: &Address| payer(&view, &in_flight, address);
        let selected = self.pool.select(limits(&chain.params), chain.base_fee, &accounts);
        selected.iter().map(|pooled| (pooled.envelope.clone(), pooled.sealed.clone())).collect()
    }

    /// A block that is checked as every validator does, opened, run and stored.
    pub fn commit(&mut self, block: &[Checked], silent: &[cascade_primitives::MemberIndex]) -> ExecutedBlock {
        self.commit_against(block, silent, &HashMap::new()).done
    }

    /// The same, and what would have happened with other transactions in some of the envelopes, or without them.
    fn commit_against(
        &mut self,
        block: &[Checked],
        silent: &[cascade_primitives::MemberIndex],
        without: &HashMap<B256, RecoveredTransaction>,
    ) -> Outcomes {
        let chain = &mut self.ground.chain;
        let (view, in_flight) = chain.basis();
        let items: Vec<_> = block.iter().map(|(e, _)| RecoveredItem::Envelope(Box::new(e.clone()))).collect();
        let height = chain.height.next();
        let checked = check_block_items(&chain.params, chain.base_fee, height, EPOCH, &view, &in_flight, &items);
        let checked = checked.expect("a valid block");
        let (beacon, opened) = self.cipher.open(height, block, silent);
        let other: Vec<OpenedItem> = opened.iter().map(|item| exchanged(item, without)).collect();
        let others: Vec<OpenedItem> = opened.iter().filter(|item| !hides(item, without)).cloned().collect();
        let alone = chain.run_items(beacon, &other);
        let undisturbed = chain.run_items(beacon, &others);
        let done = chain.run_items(beacon, &opened);
        chain.commit(&done, checked);
        let (view, above) = (chain.executed(), InFlight::empty(chain.height));
        self.pool.on_executed(block.iter().map(|(e, _)| (e.payer(), payer(&view, &above, &e.payer()))));
        Outcomes { done, alone, undisturbed }
    }
}

/// Whether an item hides one of these transactions.
fn hides(item: &OpenedItem, of: &HashMap<B256, RecoveredTransaction>) -> bool {
    matches!(item, OpenedItem::Envelope { opened: Ok(inside), .. } if of.contains_key(&inside.hash()))
}

fn exchanged(item: &OpenedItem, without: &HashMap<B256, RecoveredTransaction>) -> OpenedItem {
    match item {
        OpenedItem::Envelope { envelope, opened: Ok(inside) } if without.contains_key(&inside.hash()) => {
            OpenedItem::Envelope { envelope: envelope.clone(), opened: Ok(without[&inside.hash()].clone()) }
        }
        other => other.clone(),
    }
}

/// The terms under which a proxy seals a transaction: it offers what the transaction offers.
fn terms_for(payer: &mut Account, transaction: &RecoveredTransaction, valid_until: Height) -> Terms {
    let gas = Terms::gas_for(transaction.raw().len(), transaction.gas_limit()).expect("it is small");
    payer.nonce += 1;
    terms(payer.nonce - 1, gas, TIP, valid_until)
}
