//! The market in the simulator's network (`cascade_sim`): sequencers with real consensus cores, links that take 50 ms and lose
//! and part when they are told to, nodes that die; on an encrypted chain keys that they make together and anew for each
//! epoch, real envelopes and shares. What runs in blocks is the market's own chain: EVM, fees, the ledger's rule, the shuffle.
//!
//! ```text
//!  users: a trade now and then --+--> a node --> gossip --> pools --> leaders --> final --> opened --> executed
//!                                |                            ^  (f of n the attacker's,                  |
//!                                v                            |   by its own order)                       |
//!                            attacker: hears it at once ------+ <-- sees the state, closes what is open --+
//! ```
//!
//! What differs from the market in one process, where the attacker's answer is in every pool before the next block is made:
//! its answer travels like the trade itself and comes too late at times, trades of several blocks are under way at once, and
//! those that are not ordered in time are sealed anew for the next epoch. There are no rounds. The price wanders
//! ([`Prices::Wandering`](super::Prices)), so the attacker's profit is coins. It goes back to no tokens whenever nothing of its
//! own is under way, and what it still holds when the run ends it undoes in one more block, on the market's chain alone.
//!
//! In the clear it has a wallet and a contract for each user, so that it can be around many trades at a time; sealed, it has
//! one payer, one wallet and one contract, whose transactions run in the order of their nonces wherever the shuffle puts
//! them. An honest leader takes what offers most first, whatever is offered, each payer's in the order of its nonces, up to
//! half of a block's gas, where the base fee stays as it is. (It is not the node's pool, which `plain` and `sealed` beside
//! this have.)

use std::{collections::HashMap, fmt};

use alloy_primitives::{Address, B256, keccak256};
use cascade_crypto::{
    ecdsa::{SecretKey, recover},
    envelope::Terms,
    threshold::{Slot, order},
};
use cascade_execution::{
    BlockLoad, ExecutedBlock, InFlight, OpenedItem, OrderedGas, Outcome, check_block_items, check_block_transactions,
    fee_account, sender_state,
};
use cascade_primitives::{
    ChainParams, Height, RecoveredItem, RecoveredTransaction, SigningContext, Transaction, TransactionRule,
};
use cascade_sim::{
    Fault, Faults, SeedReport, SimConfig,
    economy::{Choice, Economy, Offer, Ordered, Place, Shown, Trading},
    run_seed_with_economy,
};
use rand::Rng as _;
use rayon::prelude::*;

use super::{
    Settings, Strategy,
    chain::Account,
    cipher::terms,
    curve::tokens_of,
    round::{Contracts, Ground, POOL_TOKENS, TIP, attack, close, enter, fees, gains, lurk, tokens},
    stats::Estimate,
    users::Order,
};

/// Mean ms of virtual time between two times at which users trade: [`Settings::rounds`] of them make a run.
const EVERY_MS: u64 = 2000;
/// Heights of an epoch.
const EPOCH_LENGTH: u64 = 60;
/// Transactions of the attacker that are under way at most; sealed, for those cost it something in every block.
const MOST_UNDER_WAY: usize = 64;

/// What was counted in one run; money in coins.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Trades of users that were executed, or failed for their limit.
    pub trades: f64,
    /// Those that failed.
    pub failed: f64,
    /// What the attacker gained, all fees paid.
    pub profit: f64,
    /// What of it the fees took.
    pub fees: f64,
    /// Transactions of the attacker that ran.
    pub own: f64,
    /// Blocks with anything in them.
    pub blocks: f64,
    /// Those of them that the attacker made.
    pub led: f64,
}

/// What one run gave.
#[derive(Clone, Debug)]
pub struct Run {
    /// The market's side.
    pub counts: Counts,
    /// What the simulator's checks say, and what went wrong in its network.
    pub report: SeedReport,
}

/// How the network is, and what the attacker is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// What goes wrong during the first four fifths of a run.
    pub faults: Faults,
    /// Whether the attacker is told the direction of what it hears: a leak, to see that one would show.
    pub leak: bool,
    /// Whether its nodes put ciphertexts of others into envelopes of their own, and send again what was ordered.
    pub steals: bool,
}

impl Conditions {
    /// Nothing goes wrong, and nothing is told.
    pub const CALM: Self = Self { faults: Faults::NONE, leak: false, steals: false };
}

/// What goes wrong in a rough network: what is sent is late, lost, doubled, out of order; it parts; nodes stand still, fall
/// behind and die, and their clocks are wrong.
#[must_use]
pub fn rough() -> Faults {
    use Fault::{Clock, Crash, Delay, Duplication, Jitter, Loss, OneWay, Partition, Pause, Reordering, SlowExecution};
    let network = [Delay, Jitter, Loss, Duplication, Reordering, Partition, OneWay];
    network.into_iter().chain([Pause, Crash, Clock, SlowExecution]).collect()
}

/// Runs a seed for each chain of the settings, beside each other.
#[must_use]
pub fn runs(settings: &Settings, conditions: Conditions) -> Vec<Run> {
    (0..settings.chains as u64).into_par_iter().map(|seed| run(settings, conditions, seed)).collect()
}

/// What the attacker gains for each trade of a user, in coins; each run is a batch.
#[must_use]
pub fn profit(runs: &[Run]) -> Estimate {
    Estimate::of(&runs.iter().map(|run| run.counts.profit / run.counts.trades).collect::<Vec<_>>())
}

/// Runs one seed of the simulator.
///
/// # Panics
/// With [`Strategy::Hoard`] and [`Strategy::Pump`], which act at the ends of rounds; there are none here.
#[must_use]
pub fn run(settings: &Settings, conditions: Conditions, seed: u64) -> Run {
    let sealed = settings.strategy.is_sealed();
    let ms = EVERY_MS * settings.rounds as u64;
    let trading = Trading {
        every_ms: EVERY_MS,
        epoch_length: EPOCH_LENGTH,
        withholds: matches!(settings.strategy, Strategy::Strew { withhold: true, .. }),
        steals: conditions.steals,
    };
    let config = SimConfig {
        fault_ms: if conditions.faults == Faults::NONE { 1 } else { ms / 5 * 4 },
        least_ms: ms,
        trading: Some(trading),
        ..SimConfig::of(sealed, settings.nodes, conditions.faults)
    };
    let mut market = Market::new(settings, conditions.leak, seed);
    let report = run_seed_with_economy(&config, seed, &mut market);
    market.end(report)
}

/// A trade under way.
struct Pending {
    hash: B256,
    order: Order,
    tip: u64,
    /// What the attacker enters with ahead of it, in the clear.
    entry: f64,
    /// Its transactions around it, in the clear.
    around: Vec<B256>,
}

/// A contract of the attacker's with the wallet that it obeys.
struct Hand {
    wallet: Account,
    contracts: Contracts,
    /// Tokens that it has more than it began with.
    held: f64,
    under_way: usize,
}

/// The market of one run.
struct Market {
    settings: Settings,
    leak: bool,
    number: u64,
    ground: Option<Ground>,
    hands: Vec<Hand>,
    /// In the order in which they were sent.
    pending: Vec<Pending>,
    /// All that was sent.
    sent: HashMap<B256, RecoveredTransaction>,
    /// The attacker's transactions under way, and whose they are.
    own: HashMap<B256, usize>,
    /// For each height of the network that of the market's chain, which has no empty blocks.
    versions: Vec<Height>,
    counts: Counts,
}

impl fmt::Debug for Market {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Market({}, {:?})", self.number, self.counts)
    }
}

impl Market {
    fn new(settings: &Settings, leak: bool, number: u64) -> Self {
        Self {
            settings: settings.clone(),
            leak,
            number,
            ground: None,
            hands: Vec::new(),
            pending: Vec::new(),
            sent: HashMap::new(),
            own: HashMap::new(),
            versions: Vec::new(),
            counts: Counts::default(),
        }
    }

    fn ground(&self) -> &Ground {
        self.ground.as_ref().expect("a run begins before anything else")
    }

    fn ground_mut(&mut self) -> &mut Ground {
        self.ground.as_mut().expect("a run begins before anything else")
    }

    fn is_sealed(&self) -> bool {
        self.settings.strategy.is_sealed()
    }

    /// Makes contracts and hands out tokens, before the network begins.
    fn set_up(&mut self) {
        let fee = self.settings.fee;
        let ground = self.ground.as_mut().expect("it was made just now");
        let params = ground.chain.params.clone();
        let calls = ground.set_up(fee);
        let mut block: Vec<_> = calls.iter().map(|call| ground.attacker.sign(&params, call)).collect();
        for hand in &mut self.hands[1..] {
            hand.contracts.sandwich = hand.wallet.address.create(0);
            let (create, give) = (ground.create_sandwich(), ground.give(hand.contracts.sandwich, POOL_TOKENS));
            block.extend([hand.wallet.sign(&params, &create), ground.attacker.sign(&params, &give)]);
        }
        self.hands[0].wallet = ground.attacker.clone();
        self.hands[0].contracts = ground.contracts;
        run_alone(ground, &block);
    }

    /// What a hand sends, which its contract runs.
    fn send(&mut self, hand: usize, data: Vec<u8>, tip: u64) -> (B256, Offer) {
        let sealed = self.is_sealed();
        let ground = self.ground.as_mut().expect("a run begins before anything else");
        let of = &mut self.hands[hand];
        of.under_way += 1;
        let transaction = of.wallet.sign(&ground.chain.params, &attack(&of.contracts, data, tip));
        self.own.insert(transaction.hash(), hand);
        let cover = sealed.then(|| cover(&mut ground.payer, &transaction));
        (transaction.hash(), self.offer(transaction, cover))
    }

    fn offer(&mut self, transaction: RecoveredTransaction, cover: Option<Cover>) -> Offer {
        let payload = transaction.raw().clone();
        self.sent.insert(transaction.hash(), transaction);
        Offer { payload, cover }
    }

    /// In the clear: into the trade with the best entry, as things will stand when those before it have run, and out.
    fn sandwich(&mut self, victim: B256) -> Vec<Offer> {
        let ground = self.ground();
        let (mut pool, worth) = (ground.pool(), ground.worth);
        let Some(at) = self.pending.iter().position(|pending| pending.hash == victim) else { return Vec::new() };
        for Pending { order, entry, .. } in &self.pending[..at] {
            let got = if *entry > 0.0 { pool.trade(order.victim.buying, *entry) } else { 0.0 };
            if pool.quote(order.victim.buying, order.victim.paid) >= order.victim.least {
                pool.trade(order.victim.buying, order.victim.paid);
            }
            pool.leave(worth, tokens_of(order.victim.buying, *entry, got));
        }
        let (order, tip) = (self.pending[at].order.clone(), self.pending[at].tip);
        let entry = pool.best_entry(worth, &order.victim);
        if entry <= 0.0 {
            return Vec::new();
        }
        let (front, first) = self.send(order.user, enter(order.victim.buying, entry), tip + 1);
        let (back, second) = self.send(order.user, close(), tip - 1);
        let pending = &mut self.pending[at];
        (pending.entry, pending.around) = (entry, vec![front, back]);
        vec![first, second]
    }

    /// Sealed: strewn, or in and out once.
    fn strew(&mut self, payer: Address) -> Vec<Offer> {
        let leak = self.leak;
        let pending = &self.pending;
        let ground = self.ground.as_mut().expect("a run begins before anything else");
        let drawn = ground.rng.random_bool(0.5);
        let told = pending.iter().find(|p| leak && ground.users.all[p.order.user].payer.address == payer);
        let buying = told.map_or(drawn, |trade| trade.order.victim.buying);
        let pool = ground.pool();
        let amount = |size: f64| pool.coins * size / if buying { 1.0 } else { pool.coins / pool.tokens };
        let calls: Vec<Vec<u8>> = match self.settings.strategy {
            Strategy::Sandwich | Strategy::Together { .. } | Strategy::OneSided => {
                unreachable!("it reads what it hears")
            }
            Strategy::Hoard { .. } | Strategy::Pump { .. } => unreachable!("they need rounds, which a network has not"),
            Strategy::Blind { size } => vec![enter(buying, amount(size)), close()],
            Strategy::Strew { count, size, .. } => {
                let room = MOST_UNDER_WAY.saturating_sub(self.hands[0].under_way).min(count);
                // The last one to run only closes: nobody is left to be ahead of.
                let one = |i| if i + 1 < room { amount(size) } else { 0.0 };
                (0..room).map(|i| lurk(buying, one(i), pending.len())).collect()
            }
        };
        calls.into_iter().map(|data| self.send(0, data, TIP).1).collect()
    }

    /// Whose an item is, its nonce, gas limit and tip.
    fn seen(&self, shown: &Shown<'_>) -> (Address, u64, u64, u128) {
        match shown {
            Shown::Clear(payload) => {
                let tx = &self.sent[&keccak256(payload)];
                (tx.sender(), tx.nonce(), tx.gas_limit(), tx.max_priority_fee_per_gas())
            }
            Shown::Sealed(e) => (e.payer(), e.nonce, e.gas_limit, e.max_priority_fee_per_gas.into()),
        }
    }

    /// Of what waits, by these wishes, what the ledger lets into one block.
    fn lawful(&self, choice: &Choice<'_>, mut wishes: Vec<usize>) -> Vec<usize> {
        let mut fits = self.law(choice.place);
        let mut chosen = Vec::new();
        while let Some(next) = wishes.iter().position(|place| fits(&choice.waiting[*place])) {
            chosen.push(wishes.remove(next));
        }
        chosen
    }

    /// What says of one item after the other whether a block can carry it next.
    fn law(&self, place: Place<'_>) -> impl FnMut(&Shown<'_>) -> bool {
        let ground = self.ground();
        let version = self.versions[place.state.0 as usize];
        let (view, none) = (ground.chain.state_at(version), InFlight::empty(version));
        let nonce = move |who: &Address| match self.is_sealed() {
            true => fee_account(&view, who).expect("a store that works").nonce,
            false => sender_state(&view, &none, who).expect("a store that works").next_nonce,
        };
        // Of each its next nonce, and what the block carries of it.
        let mut due: HashMap<Address, (u64, u32)> = HashMap::new();
        for shown in place.above {
            let who = self.seen(shown).0;
            due.entry(who).or_insert_with(|| (nonce(&who), 0)).0 += 1;
        }
        let (mut room, most) = (ground.chain.params.block_gas_limit / 2, ground.chain.params.sender_tx_limit);
        move |shown| {
            let (who, has, gas, _) = self.seen(shown);
            let (due, carried) = due.entry(who).or_insert_with(|| (nonce(&who), 0));
            let fits = has == *due && gas <= room && *carried < most;
            if fits {
                (*due, *carried, room) = (*due + 1, *carried + 1, room - gas);
            }
            fits
        }
    }

    /// What the attacker wants in its own block: what it has left open first; then in the clear each trade between its two,
    /// sealed its own and, if it isolates, one trade alone.
    fn wishes(&self, choice: &Choice<'_>) -> Vec<usize> {
        let ground = self.ground();
        if self.is_sealed() {
            let payer = ground.payer.address;
            let is_own = |place: &usize| self.seen(&choice.waiting[*place]).0 == payer;
            let (own, others): (Vec<usize>, Vec<usize>) = (0..choice.waiting.len()).partition(is_own);
            let isolates = matches!(self.settings.strategy, Strategy::Strew { isolate: true, .. });
            let let_in = if isolates { 1 } else { others.len() };
            // A trade first: own ones that do not fit any more wait.
            return others.into_iter().take(let_in).chain(own).collect();
        }
        let hashes: HashMap<B256, usize> = choice
            .waiting
            .iter()
            .enumerate()
            .filter_map(|(place, shown)| match shown {
                Shown::Clear(payload) => Some((keccak256(payload), place)),
                Shown::Sealed(_) => None,
            })
            .collect();
        let mut placed = Vec::new();
        for pending in self.pending.iter().filter(|pending| hashes.contains_key(&pending.hash)) {
            let front = pending.around.first().into_iter();
            let all = front.chain([&pending.hash]).chain(pending.around.get(1));
            placed.extend(all.filter_map(|hash| hashes.get(hash).copied()));
        }
        let rest = (0..choice.waiting.len()).filter(|place| !placed.contains(place));
        rest.chain(placed.iter().copied()).collect()
    }

    /// Runs a final block as every node does, by the rules of the chain.
    fn run(&mut self, block: &Ordered<'_>) -> ExecutedBlock {
        let sealed = self.is_sealed();
        let chain = &mut self.ground_mut().chain;
        let payloads = block.payloads.iter().map(|payload| {
            let raw = payload.clone().expect("all of it was sealed honestly");
            let (id, most) = (chain.params.chain_id, chain.params.max_tx_bytes as usize);
            Transaction::decode(raw, id, most).and_then(recover).expect("a wallet signed it")
        });
        let transactions: Vec<RecoveredTransaction> = payloads.collect();
        let (view, in_flight) = chain.basis();
        let (done, checked) = if sealed {
            let envelopes = block.items.iter().filter_map(|shown| match shown {
                Shown::Sealed(envelope) => Some(*envelope),
                Shown::Clear(_) => None,
            });
            let envelopes: Vec<_> = envelopes.collect();
            let items: Vec<_> = envelopes.iter().map(|e| RecoveredItem::Envelope(Box::new((*e).clone()))).collect();
            let (params, base_fee) = (&chain.params, chain.base_fee);
            let checked = check_block_items(params, base_fee, block.height, block.epoch, &view, &in_flight, &items);
            let slots: Vec<Slot> = envelopes.iter().map(|e| Slot { payer: e.payer(), nonce: e.nonce }).collect();
            let opened = order(&block.beacon, 0, &slots).into_iter().map(|place| OpenedItem::Envelope {
                envelope: Box::new(envelopes[place].clone()),
                opened: Ok(transactions[place].clone()),
            });
            (chain.run_items(block.beacon, &opened.collect::<Vec<_>>()), checked)
        } else {
            let checked = check_block_transactions(&chain.params, chain.base_fee, &view, &in_flight, &transactions);
            (chain.run(&transactions), checked)
        };
        chain.commit(&done, checked.expect("leaders choose what is lawful"));
        done
    }

    /// Books what a block did.
    fn account(&mut self, done: &ExecutedBlock, base_fee: u64, attacker: bool) {
        self.counts.blocks += 1.0;
        self.counts.led += f64::from(u8::from(attacker));
        for receipt in &done.receipts {
            let hash = receipt.transaction_hash;
            if let Some(hand) = self.own.remove(&hash) {
                let paid = fees(receipt, base_fee, attacker);
                self.counts.profit += gains(receipt, 0.0) - paid;
                self.counts.fees += paid;
                self.counts.own += 1.0;
                self.hands[hand].held += tokens(receipt);
                self.hands[hand].under_way -= 1;
            } else if let Some(at) = self.pending.iter().position(|pending| pending.hash == hash) {
                let user = self.pending.remove(at).order.user;
                self.ground_mut().users.all[user].waits = false;
                self.counts.trades += 1.0;
                self.counts.failed += f64::from(u8::from(receipt.outcome != Outcome::Success));
            }
        }
    }

    /// The hands that hold something though nothing of theirs is under way.
    fn open(&mut self) -> Vec<usize> {
        let dust = self.ground().pool().tokens * 1e-9;
        (0..self.hands.len()).filter(|&i| self.hands[i].under_way == 0 && self.hands[i].held.abs() > dust).collect()
    }

    /// Undoes what the attacker still holds, whatever else is under way, and says what came of all.
    fn end(mut self, report: SeedReport) -> Run {
        if self.ground.is_some() {
            self.hands.iter_mut().for_each(|hand| hand.under_way = 0);
            self.own.clear();
            for at in self.open() {
                let ground = self.ground.as_mut().expect("it is there");
                let hand = &self.hands[at];
                let (view, none) = (ground.chain.executed(), InFlight::empty(ground.chain.height));
                let nonce = sender_state(&view, &none, &hand.wallet.address).expect("a store that works").next_nonce;
                let call = attack(&hand.contracts, close(), TIP);
                let transaction = hand.wallet.signed(&ground.chain.params, &call, nonce);
                let base_fee = ground.chain.base_fee;
                let done = run_alone(ground, std::slice::from_ref(&transaction));
                self.own.insert(transaction.hash(), at);
                self.hands[at].under_way = 1;
                self.account(&done, base_fee, false);
                self.counts.blocks -= 1.0;
            }
            assert!(self.open().is_empty(), "it ends with the tokens that it began with");
        }
        Run { counts: self.counts, report }
    }
}

type Cover = (SecretKey, Terms);

/// Under which terms a payer's proxy seals a transaction.
fn cover(payer: &mut Account, transaction: &RecoveredTransaction) -> Cover {
    let gas = Terms::gas_for(transaction.raw().len(), transaction.gas_limit()).expect("it is small");
    payer.nonce += 1;
    (payer.key, terms(payer.nonce - 1, gas, TIP, Height(0)))
}

/// A block of the market's chain that no network has seen.
fn run_alone(ground: &mut Ground, transactions: &[RecoveredTransaction]) -> ExecutedBlock {
    let done = ground.chain.run(transactions);
    assert!(done.receipts.iter().all(|receipt| receipt.outcome == Outcome::Success), "{:?}", done.receipts);
    ground.chain.commit(&done, (OrderedGas(0), BlockLoad::of(transactions)));
    done
}

impl Economy for Market {
    fn begin(&mut self, params: &ChainParams, _: &SigningContext) {
        assert_eq!(params.transactions == TransactionRule::Encrypted, self.is_sealed());
        let hand = |i| Account::of("attacker", i);
        let count = if self.is_sealed() { 1 } else { super::round::USERS as u64 };
        let wallets: Vec<Account> = (0..count).map(hand).collect();
        let addresses: Vec<Address> = wallets.iter().map(|wallet| wallet.address).collect();
        let ground = Ground::on(&self.settings, self.number, params.clone(), &addresses);
        let contracts = ground.contracts;
        let hand = |wallet| Hand { wallet, contracts, held: 0.0, under_way: 0 };
        self.hands = wallets.into_iter().map(hand).collect();
        self.ground = Some(ground);
        self.set_up();
        self.versions = vec![self.ground().chain.height];
    }

    fn users(&mut self) -> Vec<Offer> {
        let sealed = self.is_sealed();
        let ground = self.ground();
        let (pool, worth, params) = (ground.pool(), ground.worth, ground.chain.params.clone());
        let mut offers = Vec::new();
        for order in self.ground_mut().users.orders(&pool, worth) {
            let ground = self.ground_mut();
            // In the clear each bids something else, with room in between.
            let tip = if sealed { TIP } else { TIP + 10 * ground.rng.random_range(1..10_000) };
            let call = ground.call(&order, tip);
            let user = &mut ground.users.all[order.user];
            let transaction = user.wallet.sign(&params, &call);
            let cover = sealed.then(|| cover(&mut user.payer, &transaction));
            let hash = transaction.hash();
            offers.push(self.offer(transaction, cover));
            self.pending.push(Pending { hash, order, tip, entry: 0.0, around: Vec::new() });
        }
        offers
    }

    fn overheard(&mut self, shown: Shown<'_>) -> Vec<Offer> {
        match shown {
            Shown::Clear(payload) => self.sandwich(keccak256(payload)),
            Shown::Sealed(envelope) => self.strew(envelope.payer()),
        }
    }

    fn select(&mut self, choice: &Choice<'_>) -> Vec<usize> {
        let wishes = if choice.attacker {
            self.wishes(choice)
        } else {
            let mut places: Vec<usize> = (0..choice.waiting.len()).collect();
            places.sort_by_key(|&place| std::cmp::Reverse(self.seen(&choice.waiting[place]).3));
            places
        };
        self.lawful(choice, wishes)
    }

    fn is_lawful(&self, place: Place<'_>, items: &[Shown<'_>]) -> bool {
        items.iter().all(self.law(place))
    }

    fn execute(&mut self, block: &Ordered<'_>) -> (B256, Vec<Offer>) {
        let (mut root, mut closing) = (B256::ZERO, Vec::new());
        if !block.items.is_empty() {
            let base_fee = self.ground().chain.base_fee;
            let done = self.run(block);
            self.account(&done, base_fee, block.attacker);
            closing = self.open().into_iter().map(|hand| self.send(hand, close(), TIP).1).collect();
            root = done.result.state_root;
        }
        let version = self.ground().chain.height;
        self.versions.push(version);
        (root, closing)
    }
}
