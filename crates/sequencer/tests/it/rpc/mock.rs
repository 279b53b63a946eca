//! A node without consensus and network: blocks are made when a test says so, and really executed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use alloy::signers::{SignerSync, local::PrivateKeySigner};
use alloy_consensus::{SignableTransaction, TxEip1559, TxEip2930, TxEnvelope, TxLegacy};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, Bloom, TxKind, U256, keccak256};
use bytes::Bytes;
use cascade_consensus::Health;
use cascade_execution::{
    BlockEnv, CacheSizes, ExecutedBlock, MemoryStore, Receipt, State, StateStoreMut, StateView, StoreError,
    execute_block, genesis_changes, next_base_fee,
};
use cascade_mempool::{AdmissionError, OpaqueError, OpaquePool};
use cascade_primitives::{
    Block, BlockHash, BlsPublicKey, BlsSignature, Body, Certificate, ChainId, ChainParams, Committee, Epoch, Genesis,
    GenesisAccount, Header, Height, Member, MemberIndex, Network, NodeId, RecoveredTransaction, ResultEntry,
    SealedBlock, Seats, SignerSet, ThresholdKeys, TimestampMs, Transaction, TransactionRule, View, VoteTarget,
};
use cascade_sequencer::rpc::backend::{
    Backend, BackendError, BlockData, BlockResult, ChainEvent, Counters, EpochKeysView, FinalityProof, Heads, Location,
    NodeStatus, PeerInfo, PoolCounts, SubmitError,
};
use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tokio::sync::broadcast;

pub const PRODUCER: Address = Address::repeat_byte(0xee);

/// The funded account `n`.
pub fn signer(n: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(n + 1)).unwrap()
}

pub fn params() -> ChainParams {
    ChainParams { base_fee_floor: 1_000_000_000, ..ChainParams::of(Network::Regtest) }
}

/// What a test says of a transaction; the rest has defaults.
#[derive(Clone, Debug)]
pub struct Tx {
    pub kind: u8,
    pub nonce: u64,
    pub to: Option<Address>,
    pub value: u64,
    pub gas: u64,
    pub tip: u128,
    pub data: Vec<u8>,
    pub chain_id: u64,
}

impl Tx {
    pub fn new(nonce: u64, to: impl Into<Option<Address>>) -> Self {
        let (kind, value, gas, tip) = (2, 1, 100_000, 2_000_000_000);
        Self { kind, nonce, to: to.into(), value, gas, tip, data: Vec::new(), chain_id: params().chain_id.0 }
    }

    /// The signed bytes, by account `n`.
    pub fn raw(&self, n: u8) -> Bytes {
        let Self { kind, nonce, to, value, gas: gas_limit, tip, ref data, chain_id } = *self;
        let (to, value, input) = (to.map_or(TxKind::Create, TxKind::Call), U256::from(value), data.clone().into());
        let (max_fee_per_gas, gas_price, access_list) = (100_000_000_000, 100_000_000_000, Default::default());
        let key = signer(n);
        let sign = |hash: B256| key.sign_hash_sync(&hash).unwrap();
        let envelope: TxEnvelope = match kind {
            0 => {
                let tx = TxLegacy { chain_id: Some(chain_id), nonce, gas_price, gas_limit, to, value, input };
                let signature = sign(tx.signature_hash());
                tx.into_signed(signature).into()
            }
            1 => {
                let tx = TxEip2930 { chain_id, nonce, gas_price, gas_limit, to, value, input, access_list };
                let signature = sign(tx.signature_hash());
                tx.into_signed(signature).into()
            }
            _ => {
                let max_priority_fee_per_gas = tip;
                let tx = TxEip1559 {
                    chain_id,
                    nonce,
                    gas_limit,
                    max_fee_per_gas,
                    max_priority_fee_per_gas,
                    to,
                    value,
                    access_list,
                    input,
                };
                let signature = sign(tx.signature_hash());
                tx.into_signed(signature).into()
            }
        };
        envelope.encoded_2718().into()
    }

    pub fn hash(&self, n: u8) -> B256 {
        keccak256(self.raw(n))
    }
}

#[derive(Default)]
struct Chain {
    blocks: Vec<Arc<BlockData>>,
    receipts: Vec<Arc<Vec<Receipt>>>,
    safe: u64,
    locations: HashMap<B256, Location>,
    pool: BTreeMap<B256, Arc<RecoveredTransaction>>,
    payloads: BTreeMap<B256, Bytes>,
}

pub struct Mock {
    params: ChainParams,
    genesis: Genesis,
    chain: RwLock<Chain>,
    store: Arc<MemoryStore>,
    state: State,
    committee: Arc<Committee>,
    events: broadcast::Sender<ChainEvent>,
    pub status: Mutex<NodeStatus>,
    /// Calls of `submit`.
    pub submissions: AtomicUsize,
    /// Whether a submission makes a block at once.
    pub eager: bool,
    /// Final blocks of envelopes, and whether they are opened.
    pub ordered_items: Mutex<HashMap<B256, (Height, bool)>>,
    /// Ends of envelopes.
    pub ends: Mutex<HashMap<B256, (Epoch, Height)>>,
}

fn committee() -> Committee {
    let member = |i: u8| Member {
        node: NodeId([i; 32]),
        bls_key: BlsPublicKey([i; 48]),
        address: Address::repeat_byte(i),
        seats: Seats(1),
        lead_weight: 1,
    };
    Committee::new(Epoch(0), (1..=4).map(member).collect(), ThresholdKeys::default()).unwrap()
}

fn status() -> NodeStatus {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let peer = |i: u8| PeerInfo { node: NodeId([i; 32]), address: ([127, 0, 0, 1], 4000).into(), inbound: i == 2 };
    NodeStatus {
        node: NodeId([1; 32]),
        health: Health {
            epoch: Epoch(0),
            view: View(7),
            leader: NodeId([2; 32]),
            height: Height(0),
            // An hour ahead: the node is not taken for stalled, however slow the test machine is.
            finalized_at: TimestampMs(now.as_millis() as u64 + 3_600_000),
            votes: true,
            seats_heard: 4,
            quorum: 3,
            seats: 4,
        },
        sync: None,
        peers: (2..=4).map(peer).collect(),
        pool: PoolCounts::default(),
        counters: Counters::default(),
    }
}

impl Mock {
    pub fn new(rule: TransactionRule, eager: bool) -> Arc<Self> {
        let params = ChainParams { transactions: rule, data_squares: rule != TransactionRule::Opaque, ..params() };
        let rich = GenesisAccount { balance: U256::from(10_u64.pow(18)) * U256::from(1000), ..Default::default() };
        let alloc = (0..4).map(|n| (signer(n).address(), rich.clone())).collect();
        let timestamp = TimestampMs(1_700_000_000_000);
        let genesis = Genesis { params: params.clone(), timestamp, committees: Vec::new(), alloc };
        let changes = genesis_changes(&genesis).unwrap();
        let store = Arc::new(MemoryStore::new());
        store.apply(&changes).unwrap();
        let state = State::open(store.clone(), CacheSizes::default()).unwrap();
        let committee = Arc::new(committee());
        let block = SealedBlock::new(genesis.block(changes.root(), committee.root(), committee.root()));
        let result = BlockResult { entry: block.header.results[0], bloom: Bloom::ZERO };
        let data = BlockData {
            block: Arc::new(block),
            result: Some(result),
            producer: Address::ZERO,
            prev_randao: B256::ZERO,
            opened: None,
        };
        let chain = Chain { blocks: vec![Arc::new(data)], receipts: vec![Arc::default()], ..Chain::default() };
        let (events, _) = broadcast::channel(64);
        Arc::new(Self {
            params,
            genesis,
            chain: RwLock::new(chain),
            store,
            state,
            committee,
            events,
            status: Mutex::new(status()),
            submissions: AtomicUsize::new(0),
            eager,
            ordered_items: Mutex::default(),
            ends: Mutex::default(),
        })
    }

    pub fn plain() -> Arc<Self> {
        Self::new(TransactionRule::Plain, false)
    }

    /// Makes these the next final block, which is not executed.
    pub fn order(&self, transactions: Vec<Bytes>) -> Height {
        let chain = &mut *self.chain.write();
        let parent = &chain.blocks.last().unwrap().block;
        let height = parent.header.height.next();
        let gas =
            |raw: &Bytes| Transaction::decode(raw.clone(), self.params.chain_id, 1 << 20).map_or(0, |t| t.gas_limit());
        let carried = height.0.checked_sub(self.params.results_lag).filter(|carried| *carried > 0);
        let result = |at: u64| chain.blocks[at as usize].result.map(|result| result.entry);
        let header = Header {
            height,
            view: View(height.0),
            parent: parent.hash(),
            timestamp: parent.header.timestamp.plus(500),
            base_fee: next_base_fee(parent.header.base_fee, parent.header.ordered_gas, &self.params),
            ordered_gas: transactions.iter().map(gas).sum(),
            results: carried.and_then(result).into_iter().collect::<Vec<ResultEntry>>(),
            ..parent.header.clone()
        };
        let body = Body { transactions, ..Body::default() };
        let block = Block { header: Header { body_root: body.root(), ..header }, body };
        let data = BlockData {
            block: Arc::new(SealedBlock::new(block)),
            result: None,
            producer: PRODUCER,
            prev_randao: B256::repeat_byte(0xda),
            opened: None,
        };
        for (raw, index) in data.block.body.transactions.iter().zip(0..) {
            let hash = self.hash_of(raw);
            // What is sealed is found once it is executed.
            if self.params.transactions != TransactionRule::Encrypted {
                chain.locations.insert(hash, Location { height, index });
            }
            chain.payloads.remove(&hash);
        }
        chain.safe = chain.safe.max(carried.unwrap_or(0));
        let hash = data.block.hash();
        chain.blocks.push(Arc::new(data));
        let _ = self.events.send(ChainEvent::Final { height, hash });
        height
    }

    /// The items of a final block are opened.
    pub fn open(&self, height: Height) {
        let _ = self.events.send(ChainEvent::Opened { height });
    }

    /// Executes the lowest block that is not executed.
    pub fn execute(&self) {
        let mut chain = self.chain.write();
        let height = chain.receipts.len();
        let data = Arc::clone(&chain.blocks[height]);
        let (receipts, entry, bloom) = match self.params.transactions {
            TransactionRule::Plain | TransactionRule::Encrypted => {
                let executed = self.run(&chain.blocks, &data);
                (executed.receipts, executed.result, executed.bloom)
            }
            TransactionRule::Opaque => {
                let entry = ResultEntry { height: Height(height as u64), ..chain.blocks[0].result.unwrap().entry };
                (Vec::new(), entry, Bloom::ZERO)
            }
        };
        let done = Arc::new(BlockData { result: Some(BlockResult { entry, bloom }), ..(*data).clone() });
        let receipts = Arc::new(receipts);
        for (receipt, index) in receipts.iter().zip(0..) {
            let hash = receipt.transaction_hash;
            chain.pool.remove(&hash);
            chain.locations.insert(hash, Location { height: Height(height as u64), index });
        }
        chain.blocks[height] = Arc::clone(&done);
        chain.receipts.push(Arc::clone(&receipts));
        drop(chain);
        let _ = self.events.send(ChainEvent::Executed { block: done, receipts });
    }

    fn run(&self, blocks: &[Arc<BlockData>], data: &BlockData) -> ExecutedBlock {
        let header = &data.block.header;
        let hashes = |height: Height| -> Result<Option<B256>, StoreError> {
            Ok(blocks.get(height.0 as usize).map(|data| data.block.hash().into()))
        };
        let (height, time, fee) = (header.height, header.timestamp, header.base_fee);
        let env = BlockEnv::new(&self.params, height, time, fee, data.producer, data.prev_randao, &hashes);
        let recover = |raw: &Bytes| {
            let transaction = Transaction::decode(raw.clone(), self.params.chain_id, 1 << 20).unwrap();
            cascade_crypto::ecdsa::recover(transaction).unwrap()
        };
        let transactions: Vec<_> = data.block.body.transactions.iter().map(recover).collect();
        let view = self.state.at(Height(header.height.0 - 1)).unwrap();
        let executed = execute_block(&view, &env, &transactions).unwrap();
        self.store.apply(&executed.changes).unwrap();
        self.state.committed(&executed.changes);
        executed
    }

    /// Orders and executes a block.
    pub fn produce(&self, transactions: Vec<Bytes>) -> Height {
        let height = self.order(transactions);
        self.execute();
        height
    }

    pub fn receipt(&self, height: Height, index: usize) -> Receipt {
        self.chain.read().receipts[height.0 as usize][index].clone()
    }

    fn hash_of(&self, raw: &Bytes) -> B256 {
        match self.params.transactions {
            TransactionRule::Plain | TransactionRule::Encrypted => keccak256(raw),
            TransactionRule::Opaque => OpaquePool::key(raw),
        }
    }

    fn take(&self, raw: Bytes) -> Result<B256, SubmitError> {
        let limit = self.params.max_tx_bytes as usize;
        if self.params.transactions == TransactionRule::Opaque {
            if raw.is_empty() {
                return Err(OpaqueError::Empty.into());
            }
            let key = OpaquePool::key(&raw);
            self.chain.write().payloads.insert(key, raw);
            return Ok(key);
        }
        let decoded = Transaction::decode(raw.clone(), ChainId(self.params.chain_id.0), limit)?;
        let transaction = cascade_crypto::ecdsa::recover(decoded)?;
        let hash = transaction.hash();
        let account = self.state.latest().unwrap().account(&transaction.sender()).unwrap().unwrap_or_default();
        if account.nonce > transaction.nonce() {
            let nonce = transaction.nonce();
            return Err(AdmissionError::NonceTooLow { next: account.nonce, nonce }.into());
        }
        if self.chain.write().pool.insert(hash, Arc::new(transaction)).is_some() {
            return Err(AdmissionError::AlreadyKnown.into());
        }
        if self.eager {
            self.produce(vec![raw]);
        }
        Ok(hash)
    }
}

impl Backend for Mock {
    fn epoch_keys(&self) -> EpochKeysView {
        EpochKeysView { epoch: Epoch(0), keys: Vec::new(), progress: None }
    }

    fn payer_nonce(&self, _: &Address) -> Option<u64> {
        None
    }

    fn ordered_item(&self, name: &B256) -> Option<(Height, bool)> {
        self.ordered_items.lock().get(name).copied()
    }

    fn envelope_end(&self, name: &B256) -> Option<(Epoch, Height)> {
        self.ends.lock().get(name).copied()
    }

    fn params(&self) -> &ChainParams {
        &self.params
    }

    fn genesis_hash(&self) -> B256 {
        self.genesis.hash()
    }

    fn heads(&self) -> Heads {
        let chain = self.chain.read();
        let safe = Height(chain.safe);
        let executed = Height(chain.receipts.len() as u64 - 1);
        Heads { ordered: Height(chain.blocks.len() as u64 - 1), executed, safe, finalized: safe }
    }

    fn block(&self, height: Height) -> Result<Option<Arc<BlockData>>, BackendError> {
        Ok(self.chain.read().blocks.get(height.0 as usize).cloned())
    }

    fn height_of(&self, hash: &BlockHash) -> Result<Option<Height>, BackendError> {
        let chain = self.chain.read();
        Ok(chain.blocks.iter().position(|data| data.block.hash() == *hash).map(|height| Height(height as u64)))
    }

    fn receipts(&self, height: Height) -> Result<Option<Arc<Vec<Receipt>>>, BackendError> {
        Ok(self.chain.read().receipts.get(height.0 as usize).cloned())
    }

    fn location(&self, hash: &B256) -> Result<Option<Location>, BackendError> {
        Ok(self.chain.read().locations.get(hash).copied())
    }

    fn pool_transaction(&self, hash: &B256) -> Option<Arc<RecoveredTransaction>> {
        self.chain.read().pool.get(hash).cloned()
    }

    fn pool_contains(&self, hash: &B256) -> bool {
        let chain = self.chain.read();
        chain.pool.contains_key(hash) || chain.payloads.contains_key(hash)
    }

    fn pending_nonce(&self, sender: &Address) -> Result<u64, BackendError> {
        let nonce = self.state.latest()?.account(sender)?.unwrap_or_default().nonce;
        let waiting = self.chain.read().pool.values().filter(|transaction| transaction.sender() == *sender).count();
        Ok(nonce + waiting as u64)
    }

    fn state(&self, height: Height) -> Result<StateView, BackendError> {
        Ok(self.state.at(height)?)
    }

    fn finality(&self, height: Height) -> Result<Option<FinalityProof>, BackendError> {
        let chain = self.chain.read();
        let at = height.0 as usize;
        if at == 0 || at >= chain.blocks.len() {
            return Ok(None);
        }
        // The certificate is of the block above, if there is one.
        let headers: Vec<Header> = chain.blocks.get(at + 1).map(|data| data.block.header.clone()).into_iter().collect();
        let certified = chain.blocks.get(at + 1).unwrap_or(&chain.blocks[at]);
        let mut signers = SignerSet::new(4);
        for member in [0, 1, 3] {
            signers.insert(MemberIndex(member));
        }
        let target = VoteTarget::commit(Epoch(0), certified.block.header.view, certified.block.hash());
        let certificate = Arc::new(Certificate { target, signers, signature: BlsSignature([9; 96]) });
        Ok(Some(FinalityProof { certificate, headers, committee: Arc::clone(&self.committee) }))
    }

    fn committee(&self, epoch: Epoch) -> Result<Option<Arc<Committee>>, BackendError> {
        Ok((epoch == Epoch(0)).then(|| Arc::clone(&self.committee)))
    }

    fn leaders(&self, count: u64) -> Vec<(View, NodeId)> {
        (0..count).map(|i| (View(7 + i), NodeId([2 + (i % 3) as u8; 32]))).collect()
    }

    fn status(&self) -> NodeStatus {
        self.status.lock().clone()
    }

    fn events(&self) -> broadcast::Receiver<ChainEvent> {
        self.events.subscribe()
    }

    fn submit(&self, raw: Vec<Bytes>) -> BoxFuture<'static, Vec<Result<B256, SubmitError>>> {
        self.submissions.fetch_add(1, Ordering::Relaxed);
        let results: Vec<_> = raw.into_iter().map(|raw| self.take(raw)).collect();
        let hashes: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok().copied()).collect();
        if !hashes.is_empty() {
            let _ = self.events.send(ChainEvent::Pending(Arc::new(hashes)));
        }
        Box::pin(async move { results })
    }
}
