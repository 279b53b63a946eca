//! A node, or a light client, that answers what a test tells it to: what a proxy does can be seen one request at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use alloy_primitives::{Address, B256, Bytes, U64, U256};
use cascade_crypto::{VoteSigner as _, ecdsa};
use cascade_primitives::{
    ChainParams, Decode as _, Envelope, Epoch, Fork, Height, Item, Network, SigningContext, TransactionRule,
};
use cascade_sequencer::{
    cli::{Client, Failure},
    proxy::{PayerKey, Proxy, ProxyConfig},
    rpc::types::{EnvelopeState, EnvelopeStatus, EpochKey, EpochKeys, Payer},
    testnet::accounts::proxy_account,
    wallet::{Fees, TRANSFER_GAS, Transfer, Wallet},
};
use jsonrpsee::{
    RpcModule,
    server::{Server, ServerHandle},
    types::{ErrorObjectOwned, Params},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::cluster::wait_for;

/// What it answers.
pub struct World {
    pub keys: EpochKeys,
    pub payer: Payer,
    /// Nonces and balances of senders.
    pub accounts: BTreeMap<Address, (u64, U256)>,
    /// What all envelopes and deposits have come to; nothing, if it does not know them.
    pub state: Option<EnvelopeState>,
    /// Items taken, in the order in which they came.
    pub taken: Vec<Item>,
    /// Their names: like a node, it does not know what is inside.
    names: BTreeSet<B256>,
    /// With this every envelope is refused.
    pub refuse: Option<String>,
    /// With this every deposit is.
    pub refuse_deposits: Option<String>,
    /// Items are taken, and nobody is told.
    pub mute: bool,
    /// What the receipt of anything is, but for one hash.
    pub receipt: Value,
    /// Of this there is none.
    pub no_receipt: Option<B256>,
    /// With this `l2_epochKey` is refused.
    pub no_keys: Option<String>,
    /// Requests: method and first parameter.
    pub asked: Vec<(&'static str, Value)>,
}

/// A key that nobody can open anything with.
pub fn key(epoch: u64, of: u8) -> EpochKey {
    let secret = cascade_crypto::BlsSecretKey::derive(&[of; 32]).expect("32 bytes are enough");
    let point = Bytes::copy_from_slice(&secret.public_key().0);
    EpochKey {
        epoch: Epoch(epoch),
        key: point,
        decryption_key: Bytes::new(),
        beacon_key: Bytes::new(),
        key_sets: B256::ZERO,
        members_root: B256::ZERO,
    }
}

pub fn params() -> ChainParams {
    ChainParams { transactions: TransactionRule::Encrypted, ..ChainParams::of(Network::Regtest) }
}

impl World {
    fn new() -> Self {
        let keys = EpochKeys {
            chain_id: params().chain_id,
            genesis_hash: B256::repeat_byte(7),
            fork: Fork(0),
            epoch: Epoch(3),
            height: Height(100),
            max_validity: 600,
            base_fee: 1,
            keys: vec![key(3, 3)],
            progress: None,
            proved: false,
        };
        let balance = U256::from(10).pow(U256::from(24));
        let payer = Payer { address: proxy_account().address(), balance, nonce: 0, next_nonce: 0 };
        Self {
            keys,
            payer,
            accounts: BTreeMap::new(),
            state: Some(EnvelopeState::Pending),
            taken: Vec::new(),
            names: BTreeSet::new(),
            refuse: None,
            refuse_deposits: None,
            mute: false,
            receipt: Value::Null,
            no_receipt: None,
            no_keys: None,
            asked: Vec::new(),
        }
    }

    /// The envelopes that were taken.
    pub fn envelopes(&self) -> Vec<Envelope> {
        let envelope = |item: &Item| match item {
            Item::Envelope(envelope) => Some(envelope.clone()),
            Item::Deposit(_) => None,
        };
        self.taken.iter().filter_map(envelope).collect()
    }

    fn account(&self, params: &Value) -> (u64, U256) {
        let address: Address = serde_json::from_value(params.clone()).expect("an address");
        self.accounts.get(&address).copied().unwrap_or((0, U256::from(10).pow(U256::from(24))))
    }

    fn take(&mut self, raw: &Value) -> Result<Value, ErrorObjectOwned> {
        let raw: Bytes = serde_json::from_value(raw.clone()).expect("bytes");
        let item = Item::from_slice(&raw).expect("an item");
        let refuse = match &item {
            Item::Envelope(_) => &self.refuse,
            Item::Deposit(_) => &self.refuse_deposits,
        };
        if let Some(refuse) = refuse {
            return Err(ErrorObjectOwned::owned(-32000, refuse.clone(), None::<()>));
        }
        if let Item::Envelope(envelope) = &item {
            self.payer.next_nonce = self.payer.next_nonce.max(envelope.nonce + 1);
        }
        let EpochKeys { chain_id, genesis_hash, fork, .. } = self.keys;
        let context = SigningContext { chain_id, genesis_hash, fork };
        let name = ecdsa::recover_item(raw.0, &context, &params()).expect("it is signed").hash();
        self.names.insert(name);
        self.taken.push(item);
        Ok(json!(name))
    }

    fn status(&self, name: &Value) -> Value {
        let hash: B256 = serde_json::from_value(name.clone()).expect("a hash");
        let status =
            |status| EnvelopeStatus { hash, status, height: None, index: None, transaction: None, reason: None };
        json!(self.state.filter(|_| self.names.contains(&hash)).map(status))
    }

    fn answer(&mut self, method: &'static str, first: &Value) -> Result<Value, ErrorObjectOwned> {
        Ok(match method {
            "l2_chainParams" => json!(params()),
            "l2_genesisHash" => json!(self.keys.genesis_hash),
            "eth_chainId" => json!(U64::from(self.keys.chain_id.0)),
            "l2_epochKey" => match &self.no_keys {
                Some(words) => return Err(ErrorObjectOwned::owned(-32000, words.clone(), None::<()>)),
                None => json!(self.keys),
            },
            "l2_payer" => json!(self.payer),
            "l2_sendEnvelope" => return self.take(first),
            "l2_envelopeStatus" => self.status(first),
            "eth_getTransactionCount" => json!(U64::from(self.account(first).0)),
            "eth_getBalance" => json!(self.account(first).1),
            "eth_getTransactionReceipt" if json!(self.no_receipt) == *first => Value::Null,
            "eth_getTransactionReceipt" => self.receipt.clone(),
            _ => Value::Null,
        })
    }
}

const METHODS: [&str; 13] = [
    "eth_chainId",
    "l2_chainParams",
    "l2_genesisHash",
    "l2_epochKey",
    "l2_payer",
    "l2_sendEnvelope",
    "l2_envelopeStatus",
    "eth_getTransactionCount",
    "eth_getBalance",
    "eth_getTransactionByHash",
    "eth_getTransactionReceipt",
    "eth_sendPrivateTransaction",
    "mev_sendBundle",
];

/// One that runs.
pub struct Fake {
    pub url: String,
    pub world: Arc<Mutex<World>>,
    _server: ServerHandle,
}

impl Fake {
    pub fn start(runtime: &Runtime) -> Self {
        let world = Arc::new(Mutex::new(World::new()));
        let mut module = RpcModule::new(Arc::clone(&world));
        for name in METHODS {
            let answer = move |params: Params<'static>, world: Arc<Arc<Mutex<World>>>, _| async move {
                let first = params.sequence().optional_next::<Value>().ok().flatten().unwrap_or_default();
                let (answer, mute) = {
                    let mut world = world.lock();
                    world.asked.push((name, first.clone()));
                    (world.answer(name, &first), world.mute && name == "l2_sendEnvelope")
                };
                if mute {
                    std::future::pending::<()>().await;
                }
                answer
            };
            module.register_async_method(name, answer).expect("each name once");
        }
        let (address, server) = runtime.block_on(async {
            let server = Server::builder().build("127.0.0.1:0").await.expect("a port");
            (server.local_addr().expect("an address"), server.start(module))
        });
        Self { url: format!("http://{address}"), world, _server: server }
    }

    /// A light client that has proved the node's keys.
    pub fn light(runtime: &Runtime) -> Self {
        let light = Self::start(runtime);
        light.world.lock().keys.proved = true;
        light
    }

    /// How often a method was asked for.
    pub fn asked(&self, method: &str) -> usize {
        self.world.lock().asked.iter().filter(|(name, _)| *name == method).count()
    }

    /// Blocks are made: what was not ordered up to then is too late.
    pub fn later(&self, blocks: u64) {
        self.world.lock().keys.height.0 += blocks;
    }
}

/// A proxy in this process, between a fake node and a wallet.
pub struct Bench {
    pub runtime: Runtime,
    pub node: Fake,
    pub dir: TempDir,
}

pub const FEES: Fees = Fees { max: 1_000, tip: 10 };

impl Bench {
    pub fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let node = Fake::start(&runtime);
        Self { runtime, node, dir: TempDir::new().expect("a directory") }
    }

    pub fn try_proxy(&self, light: Option<&str>) -> Result<Wired, Failure> {
        let config = ProxyConfig {
            node: self.node.url.clone(),
            light: light.map(str::to_owned),
            listen: ([127, 0, 0, 1], 0).into(),
            allow_remote: false,
            data: self.dir.path().join("proxy"),
            payer: PayerKey::Public,
            cors_origins: Vec::new(),
            gas_classes: "none".parse().expect("classes"),
        };
        let proxy = self.runtime.block_on(Proxy::start(&config))?;
        let client = Client::patient(&proxy.url(), Duration::from_secs(60)).expect("a URL");
        Ok(Wired { _proxy: proxy, client })
    }

    /// One that starts once the one before has let its directory go.
    pub fn proxy(&self) -> Wired {
        wait_for("the proxy starts", || self.try_proxy(None).ok())
    }

    /// Sends without waiting for what is answered.
    pub fn send_soon(&self, proxy: &Wired, raw: &Bytes) {
        let params = serde_json::value::to_raw_value(&[raw]).expect("JSON");
        let client = proxy.client.clone();
        self.runtime.spawn(async move { client.forward("eth_sendRawTransaction", Some(&params)).await });
    }

    pub fn call(&self, proxy: &Wired, method: &str, params: Value) -> Result<Value, ErrorObjectOwned> {
        let params = serde_json::value::to_raw_value(&params).expect("JSON");
        let answer = self.runtime.block_on(proxy.client.forward(method, Some(&params)))?;
        Ok(serde_json::from_str(answer.get()).expect("JSON"))
    }

    pub fn send(&self, proxy: &Wired, raw: &Bytes) -> Result<B256, ErrorObjectOwned> {
        let hash = self.call(proxy, "eth_sendRawTransaction", json!([raw]))?;
        Ok(serde_json::from_value(hash).expect("a hash"))
    }

    pub fn status(&self, proxy: &Wired, hash: B256) -> EnvelopeStatus {
        let status = self.call(proxy, "l2_envelopeStatus", json!([hash])).expect("it is known");
        serde_json::from_value(status).expect("a status")
    }

    /// Waits until what keeps a transaction is said in words that contain these.
    pub fn reason(&self, proxy: &Wired, hash: B256, words: &str) {
        wait_for(words, || self.status(proxy, hash).reason.filter(|reason| reason.contains(words)));
    }

    /// What stands in the proxy's file.
    pub fn saved(&self) -> Value {
        let text = std::fs::read(self.dir.path().join("proxy/proxy.json")).expect("it was written");
        serde_json::from_slice(&text).expect("JSON")
    }
}

pub struct Wired {
    _proxy: Proxy,
    client: Client,
}

pub fn transfer(from: &Wallet, nonce: u64, to: Address, fees: Fees) -> (B256, Bytes) {
    let value = U256::from(1);
    let chain = params().chain_id;
    let (hash, raw) = from.sign(&Transfer { chain, nonce, to, value, data: Bytes::new(), gas: TRANSFER_GAS, fees });
    (hash, raw.into())
}
