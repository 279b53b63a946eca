//! The market of the attacker's tests: an exchange, users who trade on it, and the attacker's contract, on a chain of four
//! real sequencers of which the attacker runs one.

use alloy_consensus::{SignableTransaction as _, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, hex, keccak256};
use cascade_crypto::ecdsa::sign_digest;
use cascade_primitives::{Genesis, GenesisAccount};
use cascade_sequencer::{cli::Client, sealing::Seal, wallet::Wallet};
use futures::future::join_all;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, funded, wait_for},
    sealed,
};

/// The sequencer that the attacker runs.
pub const SEAT: usize = 3;
/// The attacker among the accounts; the others are users.
pub const ATTACKER: usize = 0;
const USERS: usize = 4;
/// Payers of nobody: what is stolen is sealed again under them.
pub const THIEVES: u64 = 3;

pub const POOL_COINS: f64 = 1000.0;
const POOL_TOKENS: f64 = 1_000_000.0;
const UNIT: f64 = 1e18;
/// What users pay, in coins or in tokens that are worth so many, and what of the quote they do without at the most.
pub const PAID: f64 = 2.0;
pub const TOLERATED: f64 = 0.01;
/// The tip of the first trade of a round, in wei per gas, and by how much the next ones' is lower.
pub const TIP: u128 = 1_000_000;
const TIP_STEP: u128 = 1000;

pub fn units(whole: f64) -> U256 {
    U256::from((whole * UNIT) as u128)
}

pub fn whole(units: U256) -> f64 {
    units.to::<u128>() as f64 / UNIT
}

pub fn words(signature: &str, arguments: &[U256]) -> Vec<u8> {
    let mut data = if signature.is_empty() { Vec::new() } else { keccak256(signature)[..4].to_vec() };
    arguments.iter().for_each(|argument| data.extend(argument.to_be_bytes::<32>()));
    data
}

fn word(address: Address) -> U256 {
    U256::from_be_slice(address.as_slice())
}

fn contract(json: &str, arguments: &[U256]) -> Vec<u8> {
    let artifact: Value = serde_json::from_str(json).expect("JSON");
    let code = hex::decode(artifact["bytecode"].as_str().expect("bytecode")).expect("hex");
    [code, words("", arguments)].concat()
}

/// The exchange's pool, in whole coins and tokens.
#[derive(Clone, Copy, Debug)]
pub struct Curve {
    pub coins: f64,
    pub tokens: f64,
}

/// What a user asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trade {
    pub buying: bool,
    pub paid: f64,
    pub least: f64,
}

impl Curve {
    pub fn quote(&self, buying: bool, paid: f64) -> f64 {
        let (from, to) = if buying { (self.coins, self.tokens) } else { (self.tokens, self.coins) };
        to * paid / (from + paid)
    }

    fn trade(&mut self, buying: bool, paid: f64) {
        let got = self.quote(buying, paid);
        let (coins, tokens) = if buying { (paid, -got) } else { (-got, paid) };
        self.coins += coins;
        self.tokens += tokens;
    }

    /// Somebody trades ahead of a trade, and gives back the tokens after it.
    pub fn sandwich(&mut self, entry: f64, trade: &Trade) {
        let before = self.tokens;
        self.trade(trade.buying, entry);
        let owed = before - self.tokens;
        self.trade(trade.buying, trade.paid);
        let product = self.coins * self.tokens;
        self.tokens += owed;
        self.coins = product / self.tokens;
    }

    /// A payment in the coin of the trade's side that is worth so many coins.
    pub fn worth(&self, buying: bool, coins: f64) -> f64 {
        if buying { coins } else { coins * self.tokens / self.coins }
    }

    /// The most with which one can trade ahead of a trade that must get its least.
    pub fn entry(&self, trade: &Trade) -> f64 {
        let bears = |paid| {
            let mut pool = *self;
            pool.trade(trade.buying, paid);
            pool.quote(trade.buying, trade.paid) >= trade.least
        };
        let (mut low, mut high) = (0.0, self.worth(trade.buying, self.coins));
        for _ in 0..60 {
            let middle = f64::midpoint(low, high);
            if bears(middle) { low = middle } else { high = middle }
        }
        low * 0.999
    }
}

/// Somebody who signs: transactions, and on an encrypted chain as a payer the envelopes around them, one for each.
struct Account {
    wallet: Wallet,
    payer: Wallet,
    nonce: u64,
}

/// A transaction to be signed. None to create a contract.
pub struct Call {
    pub to: Option<Address>,
    pub value: U256,
    pub data: Vec<u8>,
    pub tip: u128,
}

/// A signed transaction, and what goes to a node: itself, or the envelope around it.
#[derive(Clone, Debug)]
pub struct Sent {
    pub raw: Bytes,
    pub item: Bytes,
}

/// The market on its chain.
pub struct Market {
    pub cluster: Cluster,
    clients: Vec<Client>,
    encrypted: bool,
    pub seal: Option<Seal>,
    pub exchange: Address,
    sandwich: Address,
    accounts: Vec<Account>,
    random: StdRng,
    trades: usize,
}

/// A payer to whom nothing belongs but its fees.
pub fn thief(number: u64) -> Wallet {
    Wallet::public("thief", number)
}

fn payer(account: usize) -> Wallet {
    Wallet::public("market payer", account as u64)
}

/// Blocks are half a second apart, which is time enough to hear and to answer; leaders change with every block, so that the
/// attacker's turn comes soon. One epoch lasts for the whole test, and gas costs what it costs at least on the mainnet.
fn change(genesis: &mut Genesis) {
    let params = &mut genesis.params;
    (params.block_time_ms, params.leader_timeout_ms, params.views_per_term) = (500, 3000, 1);
    (params.epoch_length, params.base_fee_floor) = (100_000, 10_000_000);
    let fees = U256::from(10).pow(U256::from(24));
    for payer in (0..=USERS).map(payer).chain((0..THIEVES).map(thief)) {
        genesis.alloc.insert(payer.address(), GenesisAccount { fees, ..GenesisAccount::default() });
    }
}

impl Market {
    /// A chain with its market, on which one sequencer builds its blocks in the attacker's favour and withholds its shares.
    /// What users do follows from the seed.
    pub fn start(encrypted: bool, seed: u64) -> Self {
        let mut cluster =
            if encrypted { sealed::new(4, change) } else { Cluster::new(4, |genesis, _| change_plain(genesis)) };
        let accounts: Vec<Account> =
            (0..=USERS).map(|i| Account { wallet: funded(i as u64), payer: payer(i), nonce: 0 }).collect();
        let attacker = &accounts[ATTACKER];
        let favoured = if encrypted { attacker.payer.address() } else { attacker.wallet.address() };
        let settings = [format!("pool.favour={favoured}"), "shares.withhold=true".to_owned()];
        cluster.nodes[SEAT].more = settings.into_iter().flat_map(|setting| ["--set".to_owned(), setting]).collect();
        cluster.start_all();
        let create = |nonce| attacker.wallet.address().create(nonce);
        let mut market = Self {
            clients: (0..4).map(|node| cluster.client(node)).collect(),
            seal: encrypted.then(|| sealed::wait_key(&cluster, 0, 1)),
            cluster,
            encrypted,
            exchange: create(0),
            sandwich: create(1),
            accounts,
            random: StdRng::seed_from_u64(seed),
            trades: 0,
        };
        market.set_up();
        market
    }

    fn set_up(&mut self) {
        let (tokens, none) = (units(POOL_TOKENS), U256::ZERO);
        let supply = [tokens * U256::from(10), tokens, none];
        let exchange = contract(include_str!("../../../../../testnet/contracts/Exchange.json"), &supply);
        // Nobody knows what a token is worth.
        let unknown = [word(self.exchange), none, none];
        let sandwich = contract(include_str!("../../../../../testnet/contracts/Sandwich.json"), &unknown);
        let create = |data| Call { to: None, value: units(POOL_COINS), data, tip: TIP };
        let mut calls = vec![create(exchange), create(sandwich)];
        calls.extend(self.users().chain([self.sandwich]).map(|to| Call {
            to: Some(self.exchange),
            value: none,
            data: words("transfer(address,uint256)", &[word(to), tokens]),
            tip: TIP,
        }));
        let sent: Vec<Sent> = calls.into_iter().map(|call| self.make(ATTACKER, call)).collect();
        self.submit(0, &sent);
        assert!(self.ran(&sent), "the market's set-up");
    }

    /// Signs an account's next transaction, and seals it where that is due.
    pub fn make(&mut self, account: usize, call: Call) -> Sent {
        let Account { wallet, payer, nonce } = &mut self.accounts[account];
        let unsigned = TxEip1559 {
            chain_id: self.cluster.genesis.params.chain_id.0,
            nonce: *nonce,
            gas_limit: if call.to.is_some() { 250_000 } else { 3_000_000 },
            max_fee_per_gas: 1_000_000_000,
            max_priority_fee_per_gas: call.tip,
            to: call.to.map_or(TxKind::Create, TxKind::Call),
            value: call.value,
            access_list: Default::default(),
            input: call.data.into(),
        };
        let signature = sign_digest(wallet.signing_key(), &unsigned.signature_hash()).0;
        let signature = Signature::from_bytes_and_parity(&signature[..64], signature[64] == 1);
        let raw: Bytes = TxEnvelope::from(unsigned.into_signed(signature)).encoded_2718().into();
        let item = match &self.seal {
            None => raw.clone(),
            Some(seal) => {
                let params = &self.cluster.genesis.params;
                let sealed = seal.transaction(&raw, payer.signing_key(), *nonce, params).expect("it can be sealed");
                Bytes(sealed.raw().clone())
            }
        };
        *nonce += 1;
        Sent { raw, item }
    }

    /// What the attacker's contract is called with.
    pub fn attack(&mut self, data: Vec<u8>, tip: u128) -> Sent {
        self.make(ATTACKER, Call { to: Some(self.sandwich), value: U256::ZERO, data, tip })
    }

    /// Sends all of it to a node at once.
    pub fn submit(&self, node: usize, sent: &[Sent]) {
        let client = &self.clients[node];
        let submit = |sent: &Sent| {
            let item = sent.item.clone();
            async move { if self.encrypted { client.send_item(&item).await } else { client.send_raw(&item).await } }
        };
        let taken = self.cluster.runtime.block_on(join_all(sent.iter().map(submit)));
        for hash in taken {
            hash.expect("it is taken");
        }
    }

    /// Why a node refuses an item.
    pub fn refused(&self, node: usize, item: &[u8]) -> String {
        let answer = self.cluster.runtime.block_on(self.clients[node].send_item(item));
        answer.expect_err("it is refused").to_string()
    }

    /// Waits until all of it has run; whether it succeeded.
    pub fn ran(&self, sent: &[Sent]) -> bool {
        let succeeded = |sent: &Sent| {
            let hash = keccak256(&sent.raw);
            wait_for("a transaction runs", || self.cluster.runtime.block_on(self.clients[0].succeeded(hash)).ok()?)
        };
        let succeeded: Vec<bool> = sent.iter().map(succeeded).collect();
        !succeeded.contains(&false)
    }

    /// A user's next trade on the pool as it is, with the `place`-th best tip of its round. Buying or selling is drawn so that the
    /// price is expected to stay: a purchase raises it by as large a factor as a sale for the same lowers it.
    pub fn trade(&mut self, pool: &Curve, place: usize) -> (Trade, Sent) {
        let factor = (1.0 + PAID / pool.coins).powi(2);
        let buying = self.random.random_bool(1.0 / (1.0 + factor));
        let paid = pool.worth(buying, PAID);
        let trade = Trade { buying, paid, least: pool.quote(buying, paid) * (1.0 - TOLERATED) };
        let (value, data) = if buying {
            (units(paid), words("buy(uint256)", &[units(trade.least)]))
        } else {
            (U256::ZERO, words("sell(uint256,uint256)", &[units(paid), units(trade.least)]))
        };
        let user = 1 + self.trades % USERS;
        let call = Call { to: Some(self.exchange), value, data, tip: TIP - place as u128 * TIP_STEP };
        let sent = self.make(user, call);
        self.submit(self.trades % SEAT, std::slice::from_ref(&sent));
        self.trades += 1;
        (trade, sent)
    }

    /// Envelopes are sealed from now on as is right for the newest block.
    pub fn renew_seal(&mut self) {
        self.seal = self.encrypted.then(|| sealed::wait_key(&self.cluster, 0, 1));
    }

    fn ask(&self, method: &str, params: &Value) -> Value {
        let params = serde_json::value::to_raw_value(params).expect("JSON");
        let answer = self.cluster.runtime.block_on(self.clients[0].forward(method, Some(&params)));
        serde_json::from_str(answer.expect("it answers").get()).expect("JSON")
    }

    /// The exchange's pool.
    pub fn pool(&self) -> Curve {
        let read = |signature| {
            let data = Bytes::from(words(signature, &[]));
            let answer = self.ask("eth_call", &json!([{ "to": self.exchange, "data": data }, "latest"]));
            whole(serde_json::from_value::<B256>(answer).expect("a word").into())
        };
        Curve { coins: read("coins()"), tokens: read("tokens()") }
    }

    /// All coins that the attacker has: its wallet's, its contract's, its payer's.
    pub fn wealth(&self) -> U256 {
        let attacker = &self.accounts[ATTACKER];
        let balance = |address| self.cluster.runtime.block_on(self.clients[0].balance(address)).expect("it answers");
        let fees = if self.encrypted {
            self.cluster.runtime.block_on(self.clients[0].payer(attacker.payer.address())).expect("it answers").balance
        } else {
            U256::ZERO
        };
        balance(attacker.wallet.address()) + balance(self.sandwich) + fees
    }

    /// Of each block that the attacker's sequencer led and that is not empty: which transactions are the attacker's.
    pub fn led(&self) -> Vec<Vec<bool>> {
        let (leader, attacker) = (Address::repeat_byte(SEAT as u8 + 1), self.accounts[ATTACKER].wallet.address());
        let executed = self.cluster.runtime.block_on(self.clients[0].status()).expect("it runs").heads.executed.0;
        let mut led = Vec::new();
        for height in 1..=executed {
            let block = self.cluster.runtime.block_on(self.clients[0].block(height)).expect("it answers");
            let block = block.expect("it is there");
            if block.producer == leader && block.transaction_count > 0 {
                let shown = self.ask("eth_getBlockByNumber", &json!([format!("{height:#x}"), true]));
                let from = |transaction: &Value| transaction["from"] == json!(attacker);
                led.push(shown["transactions"].as_array().expect("a list").iter().map(from).collect());
            }
        }
        led
    }

    /// The wallets of the users.
    pub fn users(&self) -> impl Iterator<Item = Address> {
        self.accounts[1..].iter().map(|user| user.wallet.address())
    }
}

fn change_plain(genesis: &mut Genesis) {
    let funded = genesis.alloc.clone();
    change(genesis);
    genesis.alloc = funded;
}
