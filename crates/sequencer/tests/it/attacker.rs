//! A trader and an attacker that hears all gossip, on real chains: in the clear it trades around whoever trades; of an
//! encrypted chain's gossip it can make nothing but that somebody does something, and enters blindly. How much it earns is
//! measured elsewhere (benches/src/market.rs).

use alloy_consensus::{SignableTransaction as _, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::{Decodable2718 as _, Encodable2718 as _};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, hex, keccak256};
use cascade_crypto::ecdsa::sign_digest;
use cascade_mempool::gossip::decode_gossip;
use cascade_network::{Network, Receivers};
use cascade_primitives::{Decode as _, Genesis, Item};
use cascade_sequencer::{sealing::Seal, wallet::Wallet};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, funded, wait_for},
    sealed,
};

const VICTIMS: u64 = 4;
const POOL_COINS: f64 = 1000.0;
const POOL_TOKENS: f64 = 1_000_000.0;
const UNIT: f64 = 1e18;
/// What a victim pays, and what of the quote it does without at the most.
const PAID: f64 = 10.0;
const TOLERATED: f64 = 0.01;
const VICTIMS_TIP: u128 = 1_000_000;
/// What an attacker enters with who cannot know on which side, in coins, and how many envelopes it strews.
const BLIND: f64 = 1.0;
const STREWN: u64 = 3;

fn units(whole: f64) -> U256 {
    U256::from((whole * UNIT) as u128)
}

fn whole(units: U256) -> f64 {
    units.to::<u128>() as f64 / UNIT
}

fn words(signature: &str, arguments: &[U256]) -> Vec<u8> {
    let mut data = if signature.is_empty() { Vec::new() } else { keccak256(signature)[..4].to_vec() };
    arguments.iter().for_each(|argument| data.extend(argument.to_be_bytes::<32>()));
    data
}

fn contract(json: &str, arguments: &[U256]) -> Vec<u8> {
    let artifact: Value = serde_json::from_str(json).expect("JSON");
    let code = hex::decode(artifact["bytecode"].as_str().expect("bytecode")).expect("hex");
    [code, words("", arguments)].concat()
}

fn word(address: Address) -> U256 {
    U256::from_be_slice(address.as_slice())
}

/// What the pool gives for coins.
fn quote(coins: f64, tokens: f64, paid: f64) -> f64 {
    tokens * paid / (coins + paid)
}

/// An exchange and the attacker's contract on a running chain.
struct Market {
    cluster: Cluster,
    /// On an encrypted chain.
    seal: Option<Seal>,
    payer_nonce: u64,
    exchange: Address,
    sandwich: Address,
}

/// The one that deploys both, and later attacks.
fn attacker() -> Wallet {
    funded(0)
}

impl Market {
    fn new(cluster: Cluster, seal: Option<Seal>) -> Self {
        let create = |nonce| attacker().address().create(nonce);
        let mut market = Self { cluster, seal, payer_nonce: 0, exchange: create(0), sandwich: create(1) };
        let fee = U256::ZERO;
        let supply = [units(2.0 * POOL_TOKENS), units(POOL_TOKENS), fee];
        let exchange = contract(include_str!("../../../../testnet/contracts/Exchange.json"), &supply);
        let worth = [word(market.exchange), U256::from(POOL_COINS), U256::from(POOL_TOKENS)];
        let sandwich = contract(include_str!("../../../../testnet/contracts/Sandwich.json"), &worth);
        let give = words("transfer(address,uint256)", &[word(market.sandwich), units(POOL_TOKENS)]);
        let calls = [
            (None, units(POOL_COINS), exchange),
            (None, units(POOL_COINS), sandwich),
            (Some(market.exchange), U256::ZERO, give),
        ];
        for (nonce, (to, value, data)) in calls.into_iter().enumerate() {
            let raw = market.sign(&attacker(), nonce as u64, to, value, data, 10);
            let hash = market.send(&raw);
            assert!(market.ran(hash), "transaction {nonce} of the market's set-up");
        }
        market
    }

    fn sign(&self, from: &Wallet, nonce: u64, to: Option<Address>, value: U256, data: Vec<u8>, tip: u128) -> Bytes {
        let unsigned = TxEip1559 {
            chain_id: self.cluster.genesis.params.chain_id.0,
            nonce,
            gas_limit: if to.is_some() { 250_000 } else { 3_000_000 },
            max_fee_per_gas: 1_000_000_000,
            max_priority_fee_per_gas: tip,
            to: to.map_or(TxKind::Create, TxKind::Call),
            value,
            access_list: Default::default(),
            input: data.into(),
        };
        let signature = sign_digest(from.signing_key(), &unsigned.signature_hash()).0;
        let signature = Signature::from_bytes_and_parity(&signature[..64], signature[64] == 1);
        TxEnvelope::from(unsigned.into_signed(signature)).encoded_2718().into()
    }

    /// Sends as a wallet's node or proxy does; answers the transaction's own hash.
    fn send(&mut self, raw: &Bytes) -> B256 {
        match &self.seal {
            None => {
                self.cluster.runtime.block_on(self.cluster.client(0).send_raw(raw)).expect("it is taken");
            }
            Some(seal) => {
                sealed::send(&self.cluster, 0, seal, raw, self.payer_nonce);
                self.payer_nonce += 1;
            }
        }
        keccak256(raw)
    }

    /// Waits until a transaction has run; whether it succeeded.
    fn ran(&self, hash: B256) -> bool {
        let client = self.cluster.client(0);
        wait_for("a transaction runs", || self.cluster.runtime.block_on(client.succeeded(hash)).ok()?)
    }

    fn tokens(&self, owner: Address) -> f64 {
        let data = Bytes::from(words("balanceOf(address)", &[word(owner)]));
        let params = json!([{ "to": self.exchange, "data": data }, "latest"]);
        let params = serde_json::value::to_raw_value(&params).expect("JSON");
        let answer = self.cluster.runtime.block_on(self.cluster.client(0).forward("eth_call", Some(&params)));
        let answer: B256 = serde_json::from_str(answer.expect("it answers").get()).expect("a word");
        whole(answer.into())
    }

    /// What the attacker has, in coins.
    fn wealth(&self) -> f64 {
        let coins = |address| whole(self.cluster.runtime.block_on(self.cluster.client(0).balance(address)).unwrap());
        let worth = POOL_COINS / POOL_TOKENS;
        coins(attacker().address()) + coins(self.sandwich) + self.tokens(self.sandwich) * worth
    }

    /// A victim's trade: it buys with what it sees as the least that it takes.
    fn trade(&self, victim: &Wallet) -> Bytes {
        let least = quote(POOL_COINS, POOL_TOKENS, PAID) * (1.0 - TOLERATED);
        let data = words("buy(uint256)", &[units(least)]);
        self.sign(victim, 0, Some(self.exchange), units(PAID), data, VICTIMS_TIP)
    }

    /// A block by itself, so that the next one is a block time away.
    fn tick(&mut self, nonce: u64) {
        let raw = self.sign(&funded(20), nonce, Some(Address::repeat_byte(9)), U256::from(1), Vec::new(), 1);
        let hash = self.send(&raw);
        assert!(self.ran(hash));
    }
}

/// Blocks are a second apart, which is time enough to hear and to answer.
fn slow(genesis: &mut Genesis) {
    genesis.params.block_time_ms = 1000;
    genesis.params.leader_timeout_ms = 4000;
}

/// A peer of all nodes that keeps what is gossiped.
struct Ear {
    network: Network,
    receivers: Receivers,
    heard: Vec<Bytes>,
}

impl Ear {
    fn new(cluster: &Cluster) -> Self {
        let all: Vec<usize> = (0..cluster.nodes.len()).collect();
        let (network, receivers) = cluster.runtime.block_on(cluster.stranger(&all));
        Self { network, receivers, heard: Vec::new() }
    }

    /// Listens until something new was said that passes.
    fn listen<T>(&mut self, cluster: &Cluster, mut passes: impl FnMut(&Bytes) -> Option<T>) -> T {
        cluster.runtime.block_on(async {
            loop {
                let message = self.receivers.mempool.recv().await.expect("gossip");
                for item in decode_gossip(&message.payload, 1 << 20).expect("gossip decodes").into_iter().map(Bytes) {
                    let found = passes(&item);
                    self.heard.push(item);
                    if let Some(found) = found {
                        return found;
                    }
                }
            }
        })
    }

    fn stop(self, cluster: &Cluster) {
        cluster.runtime.block_on(self.network.shutdown());
    }
}

/// A trade on the exchange, if that is what the bytes say: its hash, what it pays and the least that it takes.
fn read(item: &Bytes, exchange: Address) -> Option<(B256, f64, f64)> {
    let transaction = TxEnvelope::decode_2718(&mut item.as_ref()).ok()?;
    let inner = transaction.as_eip1559()?.tx();
    let arguments = inner.input.strip_prefix(&keccak256("buy(uint256)")[..4])?;
    let least = whole(U256::try_from_be_slice(arguments)?);
    (inner.to == TxKind::Call(exchange)).then_some(())?;
    Some((keccak256(item), whole(inner.value), least))
}

/// The most that one can buy for ahead of a trade that must get at least so much.
fn entry(paid: f64, least: f64) -> f64 {
    let (mut low, mut high) = (0.0, POOL_COINS);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        let tokens = POOL_TOKENS - quote(POOL_COINS, POOL_TOKENS, middle);
        if quote(POOL_COINS + middle, tokens, paid) >= least { low = middle } else { high = middle }
    }
    low * 0.999
}

#[test]
fn in_the_clear_who_hears_a_trade_trades_around_it() {
    let mut cluster = Cluster::new(4, |genesis, _| slow(genesis));
    cluster.start_all();
    let mut market = Market::new(cluster, None);
    let mut ear = Ear::new(&market.cluster);
    let (before, fair) = (market.wealth(), quote(POOL_COINS, POOL_TOKENS, PAID));
    let mut known = Vec::new();
    for number in 0..VICTIMS {
        market.tick(number);
        let victim = funded(1 + number);
        let raw = market.trade(&victim);
        let hash = market.send(&raw);
        let exchange = market.exchange;
        let new = |item: &Bytes| read(item, exchange).filter(|(hash, _, _)| !known.contains(hash));
        let (heard, paid, least) = ear.listen(&market.cluster, new);
        assert_eq!(heard, hash);
        known.push(heard);
        let enter = words("enter(bool,uint256)", &[U256::from(1), units(entry(paid, least))]);
        let nonce = 3 + 2 * number;
        let ahead = market.sign(&attacker(), nonce, Some(market.sandwich), U256::ZERO, enter, VICTIMS_TIP + 1);
        let close = words("close()", &[]);
        let behind = market.sign(&attacker(), nonce + 1, Some(market.sandwich), U256::ZERO, close, VICTIMS_TIP - 1);
        market.send(&ahead);
        let closed = market.send(&behind);
        market.ran(hash);
        assert!(market.ran(closed), "the attacker is out again");
    }
    let got: Vec<f64> = (0..VICTIMS).map(|number| market.tokens(funded(1 + number).address())).collect();
    let profit = (market.wealth() - before) / VICTIMS as f64;
    // What a victim tolerates is a tenth of a coin; let one of four be missed, or fail for what came in between.
    let robbed = got.iter().filter(|got| **got < fair * (1.0 - 0.9 * TOLERATED)).count();
    assert!(robbed as u64 >= VICTIMS - 1, "of {fair} they got {got:?}");
    assert!(profit > 0.1, "{profit} coins a trade; users got {got:?} of {fair}");
    ear.stop(&market.cluster);
    market.cluster.assert_agree();
}

#[test]
fn of_a_sealed_trade_nothing_is_heard_and_who_enters_blindly_takes_no_more_than_it_risks() {
    let cluster = sealed::start(4, slow);
    let seal = sealed::wait_key(&cluster, 0, 1);
    let mut market = Market::new(cluster, Some(seal));
    let mut ear = Ear::new(&market.cluster);
    let fair = quote(POOL_COINS, POOL_TOKENS, PAID);
    for number in 0..VICTIMS {
        market.tick(number);
        let victim = funded(1 + number);
        let raw = market.trade(&victim);
        let hash = market.send(&raw);
        let nonce = market.payer_nonce - 1;
        ear.listen(&market.cluster, |item| match Item::from_slice(item) {
            Ok(Item::Envelope(envelope)) if envelope.nonce == nonce => Some(()),
            _ => None,
        });
        let signed = &raw[raw.len() - 32..];
        for item in &ear.heard {
            assert_eq!(read(item, market.exchange), None, "nothing in the clear");
            for secret in [market.exchange.as_slice(), victim.address().as_slice(), signed] {
                assert!(!item.windows(secret.len()).any(|part| part == secret), "part of a trade is heard");
            }
        }
        // That there is an envelope is all it knows: it strews some that look at the pool when they come to run.
        let nonce = 3 + (STREWN + 1) * number;
        let buying = U256::from(number % 2);
        let lurk = words("lurk(bool,uint256,uint256)", &[buying, units(BLIND), U256::from(1)]);
        let strewn: Vec<B256> = (0..STREWN)
            .map(|i| {
                let raw = market.sign(&attacker(), nonce + i, Some(market.sandwich), U256::ZERO, lurk.clone(), 10);
                market.send(&raw)
            })
            .collect();
        assert!(market.ran(hash), "the trade runs");
        assert!(strewn.into_iter().all(|hash| market.ran(hash)), "what is strewn runs");
        // At most one entry stands before the trade, on either side of it, and moves its price by twice what was paid.
        let got = market.tokens(victim.address());
        assert!((got / fair - 1.0).abs() < 2.5 * BLIND / POOL_COINS, "it got {got} of {fair}");
        // Afterwards everybody can see it, and bring the price back.
        let close = words("close()", &[]);
        let raw = market.sign(&attacker(), nonce + STREWN, Some(market.sandwich), U256::ZERO, close, 10);
        let closed = market.send(&raw);
        assert!(market.ran(closed));
    }
    assert!(ear.heard.len() as u64 >= VICTIMS, "it listened");
    ear.stop(&market.cluster);
    market.cluster.assert_agree();
}
