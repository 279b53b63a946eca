//! What both markets share: the contracts, what they are called with, and how a block is accounted for.

use alloy_primitives::{Address, B256, U256, keccak256};
use cascade_consensus::election::{Leaders, epoch_seed};
use cascade_execution::{CallRequest, ExecutedBlock, Outcome, Receipt, estimate_gas};
use cascade_primitives::{
    ChainParams, GenesisAccount, MemberIndex, Network, RecoveredTransaction, TransactionRule, View,
};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;

use super::{
    Prices, Role, Settings, Sums, artifact,
    chain::{Account, Call, Chain},
    cipher,
    curve::{Curve, gain, tokens_of},
    users::{Gas, Order, UNIT, Users, units},
};

/// Coins in the pool when a chain begins.
pub(super) const POOL_COINS: f64 = 1000.0;
/// Tokens in it.
pub(super) const POOL_TOKENS: f64 = 1_000_000.0;
/// Coins that a token is worth where that is known.
pub(super) const WORTH: f64 = POOL_COINS / POOL_TOKENS;
/// Who trades on one chain.
pub(super) const USERS: usize = 24;
/// Gas limit that an application sets for a trade.
const TRADE_GAS: u64 = 200_000;
/// Gas limit of the attacker's transactions.
pub(super) const ATTACK_GAS: u64 = 250_000;
/// Tip of what nobody bids for, in wei per gas.
pub(super) const TIP: u64 = 1_000_000;

const EXCHANGE: &str = include_str!("../../../testnet/contracts/Exchange.json");
const SANDWICH: &str = include_str!("../../../testnet/contracts/Sandwich.json");

/// The contracts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contracts {
    pub exchange: Address,
    pub sandwich: Address,
}

/// A chain with its market, whatever its rule.
pub(super) struct Ground {
    pub chain: Chain,
    pub contracts: Contracts,
    pub users: Users,
    pub attacker: Account,
    pub payer: Account,
    pub leaders: Leaders,
    /// Numbers from here on are the attacker's.
    pub honest: usize,
    pub nodes: usize,
    pub kept: f64,
    /// Coins that a token is worth, if that is known.
    pub worth: Option<f64>,
    pub habits: super::Habits,
    /// What the attacker did before users named their limits.
    pub opened: Opened,
    pub rng: ChaCha20Rng,
}

/// What an attacker did in a block of its own before a round.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Opened {
    /// Tokens that it holds more than before.
    tokens: f64,
    /// Coins that it gained, fees apart.
    coins: f64,
    /// Its fees.
    fees: f64,
}

impl Opened {
    /// Tokens that it holds more than before.
    pub const fn tokens(&self) -> f64 {
        self.tokens
    }

    pub fn of(receipt: &Receipt, base_fee: u64) -> Self {
        let fees = fees(receipt, base_fee, false);
        trade_of(receipt).fold(Self { fees, ..Self::default() }, |sum, trade| Self {
            tokens: sum.tokens + tokens_of(trade.buying, trade.paid, trade.got),
            coins: sum.coins + gain(trade.buying, trade.paid, trade.got, 0.0),
            ..sum
        })
    }
}

/// Words of a call.
fn words(signature: &str, arguments: &[U256]) -> Vec<u8> {
    let mut data = if signature.is_empty() { Vec::new() } else { keccak256(signature)[..4].to_vec() };
    arguments.iter().for_each(|argument| data.extend(argument.to_be_bytes::<32>()));
    data
}

fn word(address: Address) -> U256 {
    U256::from_be_slice(address.as_slice())
}

pub(super) fn attack(contracts: &Contracts, data: Vec<u8>, tip: u64) -> Call {
    Call { to: Some(contracts.sandwich), value: U256::ZERO, data, gas: ATTACK_GAS, tip }
}

pub(super) fn enter(buying: bool, paid: f64) -> Vec<u8> {
    words("enter(bool,uint256)", &[U256::from(u8::from(buying)), units(paid)])
}

pub(super) fn close() -> Vec<u8> {
    words("close()", &[])
}

pub(super) fn lurk(buying: bool, paid: f64, entries: usize) -> Vec<u8> {
    words("lurk(bool,uint256,uint256)", &[U256::from(u8::from(buying)), units(paid), U256::from(entries)])
}

/// Goes against the way that the pool has gone since it held so many coins.
pub(super) fn go_back(entries: usize, coins: f64) -> Vec<u8> {
    words("goBack(uint256,uint256)", &[U256::from(entries), units(coins)])
}

/// Looks at what was traded last, the pool having been left with so many coins.
pub(super) fn lean(buying: bool, along: bool, paid: f64, entries: usize, coins: U256) -> Vec<u8> {
    let flags = [buying, along].map(|flag| U256::from(u8::from(flag)));
    let arguments = [&flags[..], &[units(paid), U256::from(entries), coins]].concat();
    words("lean(bool,bool,uint256,uint256,uint256)", &arguments)
}

fn create(artifact_: &str, arguments: Vec<u8>, value: f64) -> Call {
    let data = [artifact(artifact_), arguments].concat();
    Call { to: None, value: units(value), data, gas: 3_000_000, tip: TIP }
}

/// An attacker beside the first, and its payer.
pub(super) fn second() -> [Account; 2] {
    [Account::of("outsider", 0), Account::of("outsider's payer", 0)]
}

impl Ground {
    /// Genesis, and what of it both kinds of chain share.
    pub fn new(settings: &Settings, number: u64, rule: TransactionRule) -> Self {
        Self::on(settings, number, ChainParams { transactions: rule, ..ChainParams::of(Network::Mainnet) }, &[])
    }

    /// The same on a chain of these constants, with more wallets that have coins.
    pub fn on(settings: &Settings, number: u64, params: ChainParams, more: &[Address]) -> Self {
        let seed = settings.seed.wrapping_mul(1_000_003).wrapping_add(number);
        let rule = params.transactions;
        let users = Users::new(USERS, settings.habits, seed);
        let (attacker, payer) = (Account::of("attacker", 0), Account::of("attacker's payer", 0));
        let account = |coins: f64| GenesisAccount { balance: units(coins), ..Default::default() };
        let wallets =
            users.all.iter().map(|user| user.wallet.address).chain([attacker.address]).chain(more.iter().copied());
        let mut alloc: std::collections::BTreeMap<_, _> = wallets.map(|a| (a, account(100_000.0))).collect();
        if rule == TransactionRule::Encrypted {
            let others = [payer.address, second()[1].address];
            alloc.insert(second()[0].address, account(100_000.0));
            for address in users.all.iter().map(|user| user.payer.address).chain(others) {
                alloc.insert(address, GenesisAccount { fees: units(1000.0), ..Default::default() });
            }
        }
        let leaders = Leaders::new(
            epoch_seed(&keccak256(seed.to_be_bytes()), cipher::EPOCH, &B256::ZERO),
            &cipher::committee(settings.nodes),
            params.views_per_term,
        );
        let create = |nonce| attacker.address.create(nonce);
        Self {
            contracts: Contracts { exchange: create(0), sandwich: create(1) },
            chain: Chain::new(params, alloc),
            users,
            attacker,
            payer,
            leaders,
            honest: match settings.role {
                Role::Sequencer => settings.nodes - settings.attackers,
                Role::Outsider => settings.nodes,
            },
            nodes: settings.nodes,
            kept: 1.0 - f64::from(settings.fee) / 1e6,
            worth: match settings.prices {
                Prices::Anchored => Some(WORTH),
                Prices::Wandering => None,
            },
            habits: settings.habits,
            opened: Opened::default(),
            rng: ChaCha20Rng::seed_from_u64(seed ^ 0x5a5a),
        }
    }

    /// The calls with which the attacker's account sets the market up.
    pub fn set_up(&self, fee: u32) -> Vec<Call> {
        let tokens = POOL_TOKENS * 100.0;
        let exchange = words("", &[units(tokens), units(POOL_TOKENS), U256::from(fee)]);
        let mut calls = vec![
            create(EXCHANGE, exchange, POOL_COINS),
            self.create_sandwich(),
            self.give(self.contracts.sandwich, POOL_TOKENS * 10.0),
        ];
        calls.extend(self.users.all.iter().map(|user| self.give(user.wallet.address, POOL_TOKENS)));
        calls
    }

    /// The calls that make a second attacker: its own, which makes a contract, and the first one's, which gives that tokens.
    pub fn set_up_second(&self, sandwich: Address) -> [Call; 2] {
        [self.create_sandwich(), self.give(sandwich, POOL_TOKENS * 10.0)]
    }

    /// What an attacker trades before users name their limits, as a share of the pool: in which direction, by lot, and its
    /// transaction.
    pub fn open(&mut self, before: f64) -> (bool, RecoveredTransaction) {
        assert!(self.worth.is_none(), "what it holds is counted in coins alone");
        let (buying, pool) = (self.rng.random_bool(0.5), self.pool());
        let reserve = if buying { pool.coins } else { pool.tokens };
        let call = attack(&self.contracts, enter(buying, reserve * before), TIP);
        (buying, self.attacker.sign(&self.chain.params, &call))
    }

    pub fn create_sandwich(&self) -> Call {
        let worth = if self.worth.is_some() { [POOL_COINS, POOL_TOKENS] } else { [0.0; 2] }.map(U256::from);
        let arguments = [&[word(self.contracts.exchange)], &worth[..]].concat();
        create(SANDWICH, words("", &arguments), 10_000.0)
    }

    pub fn give(&self, to: Address, amount: f64) -> Call {
        Call {
            to: Some(self.contracts.exchange),
            value: U256::ZERO,
            data: words("transfer(address,uint256)", &[word(to), units(amount)]),
            gas: 100_000,
            tip: TIP,
        }
    }

    /// The pool as it stands.
    pub fn pool(&self) -> Curve {
        let whole = |n| self.slot(n).to::<u128>() as f64 / UNIT;
        Curve { coins: whole(0), tokens: whole(1), kept: self.kept }
    }

    /// The coins in it, in wei.
    pub fn pool_coins(&self) -> U256 {
        self.slot(0)
    }

    fn slot(&self, n: u64) -> U256 {
        self.chain.executed().storage(&self.contracts.exchange, &U256::from(n)).expect("a store that works")
    }

    /// Whether the attacker leads the next block.
    pub fn leads(&mut self) -> bool {
        self.leads_in(1)
    }

    /// Whether it leads the block that comes so many after the newest one.
    pub fn leads_in(&mut self, blocks: u64) -> bool {
        let view = View(self.chain.height.plus(blocks).0);
        self.leaders.of_view(view).index() >= self.honest
    }

    /// The attacker's seats.
    pub fn seats(&self) -> Vec<MemberIndex> {
        (self.honest..self.nodes).map(|i| MemberIndex(u16::try_from(i).expect("few nodes"))).collect()
    }

    /// What a user signs for a trade.
    pub fn call(&self, order: &Order, tip: u64) -> Call {
        let (value, data) = if order.victim.buying {
            (order.paid, words("buy(uint256)", &[order.least]))
        } else {
            (U256::ZERO, words("sell(uint256,uint256)", &[order.paid, order.least]))
        };
        let mut call = Call { to: Some(self.contracts.exchange), value, data, gas: TRADE_GAS, tip };
        if self.habits.gas != Gas::Set {
            call.gas = self.estimate(order.user, &call) * 3 / 2;
        }
        call
    }

    fn estimate(&self, user: usize, call: &Call) -> u64 {
        let request = CallRequest {
            from: self.users.all[user].wallet.address,
            to: call.to,
            value: call.value,
            data: call.data.clone().into(),
            ..CallRequest::default()
        };
        let env = self.chain.env(B256::ZERO);
        estimate_gas(&self.chain.executed(), &env, &request, 30_000_000).expect("the trade succeeds as things stand")
    }
}

/// What a block did on the exchange.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// What the attacker gained by trades in the block, fees apart.
    gained: f64,
    /// What it paid in fees.
    fees: f64,
    /// What it gains by closing, and with which trade.
    closing: f64,
    pub closes: Option<(bool, f64)>,
    /// Of each user's trade what it was worth to it; none if it failed.
    worth: Vec<Option<f64>>,
    /// What users got less than if they alone had traded, in this order.
    harm: f64,
    /// Gas that users were charged for.
    charged: u64,
}

struct Trade {
    buying: bool,
    paid: f64,
    got: f64,
}

fn trade_of(receipt: &Receipt) -> impl Iterator<Item = Trade> + '_ {
    receipt.logs.iter().map(|log| {
        let word = |n: usize| U256::from_be_slice(&log.data.data[n * 32..][..32]);
        let whole = |n: usize| word(n).to::<u128>() as f64 / UNIT;
        Trade { buying: !word(0).is_zero(), paid: whole(1), got: whole(2) }
    })
}

/// Whether the last of these transactions that traded in a block bought.
pub(super) fn traded_last(block: &ExecutedBlock, orders: &[B256]) -> Option<bool> {
    let of_users = block.receipts.iter().rev().filter(|receipt| orders.contains(&receipt.transaction_hash));
    of_users.flat_map(trade_of).map(|trade| trade.buying).next()
}

/// By how many tokens the trades of a transaction made richer.
pub(super) fn tokens(receipt: &Receipt) -> f64 {
    trade_of(receipt).map(|trade| tokens_of(trade.buying, trade.paid, trade.got)).sum()
}

/// What the trades of a transaction gained, fees apart.
pub(super) fn gains(receipt: &Receipt, worth: f64) -> f64 {
    trade_of(receipt).map(|trade| gain(trade.buying, trade.paid, trade.got, worth)).sum()
}

/// What a transaction of an attacker paid; who proposed the block has its tips back.
pub(super) fn fees(receipt: &Receipt, base_fee: u64, tips: bool) -> f64 {
    assert!(receipt.outcome == Outcome::Success, "what the attacker sends runs: {:?}", receipt.outcome);
    let price = if tips { u128::from(base_fee) } else { receipt.effective_gas_price };
    receipt.gas_used as f64 * price as f64 / UNIT
}

impl Round {
    /// Accounts for a block that ran on a pool. The trades of users are those with the given hashes; where nobody knows what
    /// a token is worth, theirs count at the pool's price, and the attacker's count in coins, since it ends without tokens.
    pub fn of(ground: &Ground, block: &ExecutedBlock, mut pool: Curve, orders: &[B256], leads: bool) -> Self {
        let Opened { tokens: mut held, coins: gained, fees: paid } = ground.opened;
        let mut round = Self { worth: vec![None; orders.len()], gained, fees: paid, ..Self::default() };
        let mut undisturbed = pool;
        let price = ground.worth.unwrap_or(pool.coins / pool.tokens);
        for receipt in &block.receipts {
            if orders.contains(&receipt.transaction_hash) {
                round.charged += receipt.gas_used;
            }
            for trade in trade_of(receipt) {
                pool.apply(trade.buying, trade.paid, trade.got);
                let gained = |worth| gain(trade.buying, trade.paid, trade.got, worth);
                match orders.iter().position(|hash| *hash == receipt.transaction_hash) {
                    Some(order) => {
                        round.worth[order] = Some(gained(price));
                        let fair = undisturbed.trade(trade.buying, trade.paid);
                        round.harm += gain(trade.buying, trade.paid, fair, price) - gained(price);
                    }
                    None => {
                        round.gained += gained(ground.worth.unwrap_or(0.0));
                        held += tokens_of(trade.buying, trade.paid, trade.got);
                    }
                }
            }
            if receipt.from == ground.attacker.address || receipt.from == ground.payer.address {
                round.fees += fees(receipt, ground.chain.base_fee, leads);
            }
        }
        round.closes = pool.leaving(ground.worth, held);
        round.closing = pool.leave(ground.worth, held);
        round
    }

    /// Compares the block with the same block in which the attacker traded ahead of nobody, and with the one that has
    /// nothing of it. `left` trades were left out.
    pub fn against(&self, without: &Self, undisturbed: &Self, left: usize) -> Sums {
        let pairs = || self.worth.iter().zip(&without.worth);
        let failed = |round: &Self| round.worth.iter().filter(|worth| worth.is_none()).count() as f64;
        Sums {
            trades: self.worth.len() as f64,
            total: self.gained + self.closing - self.fees,
            back: without.gained + without.closing - without.fees,
            back_inside: without.gained - without.fees,
            loss: pairs().filter_map(|(with, without)| Some((*without)? - (*with)?)).sum(),
            harm: self.harm,
            saved: failed(undisturbed) - failed(self),
            waited: left as f64,
            gas: self.charged as f64,
            spoiled: failed(self) - failed(without),
            fees: self.fees,
        }
    }
}
