//! A chain of one node with everything in memory.

use std::{collections::BTreeMap, sync::Arc};

use alloy_consensus::{SignableTransaction, TxEip1559, TxEip2930, TxEnvelope, TxLegacy};
use alloy_eips::{eip2718::Encodable2718, eip2930::AccessList};
use alloy_primitives::{Address, B256, Signature, TxKind, U256, keccak256};
use cascade_execution::{
    Account, BlockEnv, CacheSizes, ExecutedBlock, MemoryStore, Receipt, State, StateStoreMut, StateView, StoreError,
    execute_block, genesis_changes, next_base_fee,
};
use cascade_primitives::{
    ChainParams, Genesis, GenesisAccount, Height, Network, RecoveredTransaction, TimestampMs, Transaction,
};

pub const PRODUCER: Address = Address::repeat_byte(0xee);

/// One ether in wei.
pub fn ether(n: u64) -> U256 {
    U256::from(n) * U256::from(1_000_000_000_000_000_000_u64)
}

/// The account of user `n`; no key belongs to it.
pub fn user(n: u64) -> Address {
    Address::from_word(keccak256(n.to_be_bytes()))
}

pub fn params() -> ChainParams {
    ChainParams { base_fee_floor: 1_000_000_000, ..ChainParams::of(Network::Regtest) }
}

/// The hash of a block of the test chain.
pub fn block_hash(height: Height) -> Result<Option<B256>, StoreError> {
    Ok(Some(keccak256(height.0.to_be_bytes())))
}

/// What a test says of a transaction; the rest has defaults.
#[derive(Clone, Debug)]
pub struct Tx {
    pub kind: u8,
    pub from: Address,
    pub nonce: u64,
    pub to: Option<Address>,
    pub value: U256,
    pub gas: u64,
    pub max_fee: u128,
    pub tip: u128,
    pub data: Vec<u8>,
    pub access_list: AccessList,
    pub chain_id: u64,
}

impl Tx {
    pub fn new(from: Address, nonce: u64, to: impl Into<Option<Address>>) -> Self {
        Self {
            kind: 2,
            from,
            nonce,
            to: to.into(),
            value: U256::ZERO,
            gas: 200_000,
            max_fee: 100_000_000_000,
            tip: 2_000_000_000,
            data: Vec::new(),
            access_list: AccessList::default(),
            chain_id: params().chain_id.0,
        }
    }

    pub fn value(self, value: U256) -> Self {
        Self { value, ..self }
    }

    pub fn gas(self, gas: u64) -> Self {
        Self { gas, ..self }
    }

    pub fn data(self, data: Vec<u8>) -> Self {
        Self { data, ..self }
    }

    pub fn sign(&self) -> RecoveredTransaction {
        let Self { kind, from, nonce, to, value, gas, max_fee, tip, ref data, ref access_list, chain_id } = *self;
        let (gas_limit, input, access_list) = (gas, data.clone().into(), access_list.clone());
        let to = to.map_or(TxKind::Create, TxKind::Call);
        // The sender is given, so the signature only has to differ between senders, for the hash.
        let signature = Signature::new(U256::from_be_slice(from.as_slice()), U256::from(1), false);
        let envelope = match kind {
            0 => TxEnvelope::from(
                TxLegacy { chain_id: Some(chain_id), nonce, gas_price: max_fee, gas_limit, to, value, input }
                    .into_signed(signature),
            ),
            1 => TxEnvelope::from(
                TxEip2930 { chain_id, nonce, gas_price: max_fee, gas_limit, to, value, access_list, input }
                    .into_signed(signature),
            ),
            _ => TxEnvelope::from(
                TxEip1559 {
                    chain_id,
                    nonce,
                    gas_limit,
                    max_fee_per_gas: max_fee,
                    max_priority_fee_per_gas: tip,
                    to,
                    value,
                    access_list,
                    input,
                }
                .into_signed(signature),
            ),
        };
        let chain = cascade_primitives::ChainId(chain_id);
        let transaction = Transaction::decode(envelope.encoded_2718().into(), chain, 1 << 20).unwrap();
        RecoveredTransaction::new(transaction, from)
    }
}

pub struct Chain {
    pub params: ChainParams,
    pub store: Arc<MemoryStore>,
    pub state: State,
    pub height: Height,
    pub base_fee: u64,
    pub hashes: fn(Height) -> Result<Option<B256>, StoreError>,
}

impl Chain {
    pub fn with_alloc(alloc: BTreeMap<Address, GenesisAccount>) -> Self {
        Self::new(params(), alloc)
    }

    pub fn new(params: ChainParams, alloc: BTreeMap<Address, GenesisAccount>) -> Self {
        let base_fee = params.base_fee_floor;
        let genesis = Genesis { params: params.clone(), timestamp: TimestampMs(0), committees: Vec::new(), alloc };
        let store = Arc::new(MemoryStore::new());
        let changes = genesis_changes(&genesis).unwrap();
        store.apply(&changes).unwrap();
        let state = State::open(store.clone(), CacheSizes::default()).unwrap();
        Self { params, store, state, height: Height(0), base_fee, hashes: block_hash }
    }

    /// Users 0 to `n - 1` have a thousand ether each.
    pub fn with_users(n: u64) -> Self {
        Self::with_alloc(
            (0..n).map(|i| (user(i), GenesisAccount { balance: ether(1000), ..Default::default() })).collect(),
        )
    }

    /// Another chain with a copy of the store and empty caches, as after a restart.
    pub fn reopened(&self, caches: CacheSizes) -> Self {
        let store = Arc::new((*self.store).clone());
        let state = State::open(store.clone(), caches).unwrap();
        let (params, height, base_fee, hashes) = (self.params.clone(), self.height, self.base_fee, self.hashes);
        Self { params, store, state, height, base_fee, hashes }
    }

    pub fn env(&self) -> BlockEnv<'_> {
        let height = self.height.next();
        let time = TimestampMs(1_700_000_000_999 + height.0 * 100);
        BlockEnv::new(&self.params, height, time, self.base_fee, PRODUCER, keccak256(b"randao"), &self.hashes)
    }

    pub fn view(&self) -> StateView {
        self.state.at(self.height).unwrap()
    }

    pub fn execute(&self, txs: &[Tx]) -> ExecutedBlock {
        let txs: Vec<_> = txs.iter().map(Tx::sign).collect();
        execute_block(&self.view(), &self.env(), &txs).unwrap()
    }

    /// Executes a block and makes it part of the chain.
    pub fn run(&mut self, txs: &[Tx]) -> ExecutedBlock {
        let block = self.execute(txs);
        self.commit(&block, txs.iter().map(|tx| tx.gas).sum());
        block
    }

    pub fn commit(&mut self, block: &ExecutedBlock, ordered_gas: u64) {
        self.store.apply(&block.changes).unwrap();
        self.state.committed(&block.changes);
        self.height = self.height.next();
        self.base_fee = next_base_fee(self.base_fee, ordered_gas, &self.params);
    }

    /// Runs a block with one transaction.
    pub fn run_one(&mut self, tx: Tx) -> Receipt {
        self.run(&[tx]).receipts.remove(0)
    }

    pub fn account(&self, address: Address) -> Account {
        self.view().account(&address).unwrap().unwrap_or_default()
    }

    pub fn balance(&self, address: Address) -> U256 {
        self.account(address).balance
    }

    pub fn slot(&self, address: Address, slot: u64) -> U256 {
        self.view().storage(&address, &U256::from(slot)).unwrap()
    }
}
