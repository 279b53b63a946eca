//! A chain in memory, by the rules that all nodes of a real one keep: execution, the reserve rule, the base fee.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use alloy_consensus::{SignableTransaction as _, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, Signature, TxKind, U256, keccak256};
use cascade_crypto::ecdsa::{SecretKey, public_address, sign_digest};
use cascade_execution::{
    BlockEnv, BlockLoad, CacheSizes, ExecutedBlock, InFlight, MemoryStore, OpenedItem, OrderedGas, State,
    StateStoreMut as _, StateView, StoreError, execute_block, execute_items, fee_account, genesis_changes,
    next_base_fee, sender_state,
};
use cascade_mempool::AccountState;
use cascade_primitives::{
    ChainParams, Genesis, GenesisAccount, Height, RecoveredTransaction, TimestampMs, Transaction,
};

/// Who gets the tips.
const PRODUCER: Address = Address::repeat_byte(0xee);

/// An account with its key.
#[derive(Clone, Debug)]
pub struct Account {
    /// Signs its transactions, or its envelopes if it is a payer.
    pub key: SecretKey,
    /// Its address.
    pub address: Address,
    /// The nonce of what it signs next.
    pub nonce: u64,
}

/// What a transaction does and offers.
#[derive(Clone, Debug)]
pub struct Call {
    /// Whom it calls; none creates a contract.
    pub to: Option<Address>,
    /// Wei.
    pub value: U256,
    /// Input.
    pub data: Vec<u8>,
    /// Gas limit.
    pub gas: u64,
    /// Tip in wei per gas.
    pub tip: u64,
}

/// Fee cap of every transaction and envelope in wei per gas: far above any base fee that a measurement reaches.
pub const FEE_CAP: u64 = 1_000_000_000;

impl Account {
    /// The account of a name.
    ///
    /// # Panics
    /// Never: a hash is a key but for one in 2^127.
    #[must_use]
    pub fn of(name: &str, number: u64) -> Self {
        let key = SecretKey::from_byte_array(keccak256(format!("{name} {number}")).0).expect("a hash is a key");
        Self { address: public_address(&key), key, nonce: 0 }
    }

    /// Signs a transaction with the next nonce.
    pub fn sign(&mut self, params: &ChainParams, call: &Call) -> RecoveredTransaction {
        let transaction = self.signed(params, call, self.nonce);
        self.nonce += 1;
        transaction
    }

    /// Signs a transaction with a nonce.
    ///
    /// # Panics
    /// Never: what it signs is well formed.
    #[must_use]
    pub fn signed(&self, params: &ChainParams, call: &Call, nonce: u64) -> RecoveredTransaction {
        let unsigned = TxEip1559 {
            chain_id: params.chain_id.0,
            nonce,
            gas_limit: call.gas,
            max_fee_per_gas: FEE_CAP.into(),
            max_priority_fee_per_gas: call.tip.into(),
            to: call.to.map_or(TxKind::Create, TxKind::Call),
            value: call.value,
            access_list: Default::default(),
            input: call.data.clone().into(),
        };
        let signature = sign_digest(&self.key, &unsigned.signature_hash()).0;
        let signature = Signature::from_bytes_and_parity(&signature[..64], signature[64] == 1);
        let raw = TxEnvelope::from(unsigned.into_signed(signature)).encoded_2718();
        let decoded = Transaction::decode(raw.into(), params.chain_id, params.max_tx_bytes as usize);
        RecoveredTransaction::new(decoded.expect("well formed"), self.address)
    }
}

/// The chain.
#[derive(Debug)]
pub struct Chain {
    /// Its constants.
    pub params: ChainParams,
    /// The newest block.
    pub height: Height,
    /// Base fee of the next block in wei per gas.
    pub base_fee: u64,
    store: Arc<MemoryStore>,
    state: State,
    /// What the newest blocks ordered, whose results no header carries yet.
    loads: VecDeque<Arc<BlockLoad>>,
}

impl Chain {
    /// A chain with its genesis.
    ///
    /// # Panics
    /// If the genesis is none.
    #[must_use]
    pub fn new(params: ChainParams, alloc: BTreeMap<Address, GenesisAccount>) -> Self {
        let genesis = Genesis { params: params.clone(), timestamp: TimestampMs(0), committees: Vec::new(), alloc };
        let store = Arc::new(MemoryStore::new());
        store.apply(&genesis_changes(&genesis).expect("a well-formed genesis")).expect("the first version");
        let state = State::open(Arc::clone(&store) as Arc<_>, CacheSizes::default()).expect("a store that works");
        let base_fee = params.base_fee_floor;
        Self { params, height: Height(0), base_fee, store, state, loads: VecDeque::new() }
    }

    /// What the next block is checked against: the state that its ancestors prove, and what is in flight above it.
    ///
    /// # Panics
    /// If the store fails.
    #[must_use]
    pub fn basis(&self) -> (StateView, InFlight) {
        let proved = Height(self.height.0 - self.loads.len() as u64);
        let in_flight = self.loads.iter().fold(InFlight::empty(proved), |sum, load| sum.with_block(Arc::clone(load)));
        (self.state.at(proved).expect("no version is pruned"), in_flight)
    }

    /// The state after the newest block.
    ///
    /// # Panics
    /// If the store fails.
    #[must_use]
    pub fn executed(&self) -> StateView {
        self.state.at(self.height).expect("the newest version")
    }

    /// The state after a block of the past.
    ///
    /// # Panics
    /// If the store fails.
    #[must_use]
    pub fn state_at(&self, height: Height) -> StateView {
        self.state.at(height).expect("no version is pruned")
    }

    /// The environment of the next block.
    #[must_use]
    pub const fn env(&self, beacon: B256) -> BlockEnv<'_> {
        let (height, time) = (self.height.next(), TimestampMs(self.height.0 * 1000));
        BlockEnv::new(&self.params, height, time, self.base_fee, PRODUCER, beacon, &no_hash)
    }

    /// Runs the next block in the clear; nothing is stored.
    ///
    /// # Panics
    /// If the store fails.
    #[must_use]
    pub fn run(&self, transactions: &[RecoveredTransaction]) -> ExecutedBlock {
        execute_block(&self.executed(), &self.env(B256::ZERO), transactions).expect("a store that works")
    }

    /// Runs the opened items of the next block; nothing is stored.
    ///
    /// # Panics
    /// If the store fails.
    #[must_use]
    pub fn run_items(&self, beacon: B256, items: &[OpenedItem]) -> ExecutedBlock {
        execute_items(&self.executed(), &self.env(beacon), items).expect("a store that works")
    }

    /// Stores a block and goes on from it.
    ///
    /// # Panics
    /// If the store fails.
    pub fn commit(&mut self, block: &ExecutedBlock, (gas, load): (OrderedGas, BlockLoad)) {
        self.store.apply(&block.changes).expect("the next version");
        self.state.committed(&block.changes);
        self.height = self.height.next();
        self.base_fee = next_base_fee(self.base_fee, gas.0, &self.params);
        self.loads.push_back(Arc::new(load));
        // Results of the height D below stand in the next block's header.
        if self.loads.len() as u64 >= self.params.results_lag {
            self.loads.pop_front();
        }
    }
}

/// A payer in the fee ledger, as a pool sees it.
///
/// # Panics
/// If the store fails.
#[must_use]
pub fn payer(view: &StateView, in_flight: &InFlight, payer: &Address) -> AccountState {
    let (account, load) = (fee_account(view, payer).expect("a store that works"), in_flight.payer(payer));
    AccountState {
        nonce: account.nonce,
        balance: account.balance,
        in_flight: load.count,
        in_flight_cost: load.cost,
        is_contract: false,
    }
}

/// A sender of transactions in the clear, as a pool sees it.
///
/// # Panics
/// If the store fails.
#[must_use]
pub fn sender(view: &StateView, in_flight: &InFlight, address: &Address) -> AccountState {
    let (state, load) =
        (sender_state(view, in_flight, address).expect("a store that works"), in_flight.sender(address));
    AccountState {
        nonce: state.next_nonce - load.count,
        balance: state.available.saturating_add(load.cost),
        in_flight: load.count,
        in_flight_cost: load.cost,
        is_contract: state.is_contract,
    }
}

fn no_hash(_: Height) -> Result<Option<B256>, StoreError> {
    Ok(Some(B256::ZERO))
}
