//! What the benches share: a chain with funded accounts, and transactions that its users signed.
//!
//! `./dev bench` runs the benches, `./dev bench state_tree` those of one topic; README.md beside this crate has figures.
//! [`market`] is something else: what an attacker earns on others' trades.

use std::{collections::BTreeMap, sync::Arc};

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, keccak256};
use cascade_execution::{
    BlockEnv, BlockRun, CacheSizes, ExecutedBlock, State, StateStoreMut, StateView, StoreError, genesis_changes,
};
use cascade_primitives::{
    ChainParams, Genesis, GenesisAccount, Height, Network, RecoveredTransaction, TimestampMs, Transaction,
};
use secp256k1::{Message, SECP256K1, SecretKey};

#[path = "../../crates/execution/tests/it/asm.rs"]
pub mod asm;
pub mod market;

/// Who gets the tips.
const PRODUCER: Address = Address::repeat_byte(0xee);

/// The account of user `n`, to which no key belongs.
#[must_use]
pub fn user(n: u64) -> Address {
    Address::from_word(keccak256(n.to_be_bytes()))
}

/// The constants of the benches' chain: many transactions of one sender in a block, for blocks of any size.
#[must_use]
pub fn params() -> ChainParams {
    ChainParams { sender_tx_limit: u32::MAX, block_gas_limit: 1_000_000_000, ..ChainParams::of(Network::Regtest) }
}

/// An unsigned transaction of the benches' chain.
#[must_use]
pub fn unsigned(nonce: u64, to: TxKind, gas_limit: u64, input: Vec<u8>) -> TxEip1559 {
    TxEip1559 {
        chain_id: params().chain_id.0,
        nonce,
        gas_limit,
        max_fee_per_gas: 10_000_000_000,
        max_priority_fee_per_gas: 1,
        to,
        value: U256::from(u64::from(input.is_empty())),
        input: input.into(),
        ..TxEip1559::default()
    }
}

/// A transaction of [`user`] `from`. Its signature is none: it is taken as recovered.
///
/// # Panics
/// Never: it is well formed.
#[must_use]
pub fn recovered(from: u64, transaction: TxEip1559) -> RecoveredTransaction {
    let signature = Signature::new(U256::from(from + 1), U256::from(1), false);
    let raw = TxEnvelope::from(transaction.into_signed(signature)).encoded_2718();
    let transaction = Transaction::decode(raw.into(), params().chain_id, 1 << 20).expect("well formed");
    RecoveredTransaction::new(transaction, user(from))
}

/// A transfer of one wei.
#[must_use]
pub fn transfer(from: u64, nonce: u64, to: u64) -> RecoveredTransaction {
    recovered(from, unsigned(nonce, TxKind::Call(user(to)), 21_000, Vec::new()))
}

/// A transfer that is signed with the `n`-th of as many keys, as it travels.
///
/// # Panics
/// Never: the key is one.
#[must_use]
pub fn signed_transfer(n: u64, nonce: u64) -> Bytes {
    let transaction = unsigned(nonce, TxKind::Call(user(n)), 21_000, Vec::new());
    let key = SecretKey::from_byte_array(keccak256(n.to_be_bytes()).0).expect("a hash is a key but for one in 2^127");
    let message = Message::from_digest(transaction.signature_hash().0);
    let (id, compact) = SECP256K1.sign_ecdsa_recoverable(message, &key).serialize_compact();
    let signature = Signature::from_bytes_and_parity(&compact, i32::from(id) == 1);
    TxEnvelope::from(transaction.into_signed(signature)).encoded_2718().into()
}

/// A chain of one node over a store.
pub struct Chain<S> {
    params: ChainParams,
    store: Arc<S>,
    state: State,
    height: Height,
    accounts: u64,
    nonces: BTreeMap<u64, u64>,
    random: u64,
}

impl<S> std::fmt::Debug for Chain<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain").field("height", &self.height).field("accounts", &self.accounts).finish_non_exhaustive()
    }
}

impl<S: StateStoreMut + 'static> Chain<S> {
    /// A chain with so many funded accounts in an empty store.
    ///
    /// # Panics
    /// If the store fails.
    pub fn new(store: S, accounts: u64) -> Self {
        let params = params();
        let balance = U256::from(1_000_000_000_000_000_000_000_u128);
        let account = GenesisAccount { balance, ..GenesisAccount::default() };
        let alloc: BTreeMap<_, _> = (0..accounts).map(|n| (user(n), account.clone())).collect();
        let genesis = Genesis { params: params.clone(), timestamp: TimestampMs(0), committees: Vec::new(), alloc };
        let store = Arc::new(store);
        store.apply(&genesis_changes(&genesis).expect("a well-formed genesis")).expect("the first version");
        drop(genesis);
        let state = State::open(Arc::clone(&store) as Arc<_>, CacheSizes::default()).expect("a store that works");
        Self { params, store, state, height: Height::ZERO, accounts, nonces: BTreeMap::new(), random: 1 }
    }

    /// A number below the number of accounts.
    pub fn pick(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % self.accounts
    }

    /// The next nonce of a user.
    pub fn nonce(&mut self, user: u64) -> u64 {
        let nonce = self.nonces.entry(user).or_default();
        *nonce += 1;
        *nonce - 1
    }

    /// Transfers between accounts anywhere in the tree.
    pub fn transfers(&mut self, count: usize) -> Vec<RecoveredTransaction> {
        let mut transfers = Vec::with_capacity(count);
        for _ in 0..count {
            let (from, to) = (self.pick(), self.pick());
            let nonce = self.nonce(from);
            transfers.push(transfer(from, nonce, to));
        }
        transfers
    }

    /// The newest state.
    ///
    /// # Panics
    /// If the store fails.
    #[must_use]
    pub fn view(&self) -> StateView {
        self.state.at(self.height).expect("the newest version")
    }

    /// Runs the transactions of the next block on `parent`, which is [`Self::view`]; the state root is not computed yet.
    ///
    /// # Panics
    /// If the store fails.
    pub fn run<'a>(&'a self, parent: &'a StateView, transactions: &[RecoveredTransaction]) -> BlockRun<'a> {
        let (height, time) = (self.height.next(), TimestampMs(self.height.0 * 1000));
        let env = BlockEnv::new(&self.params, height, time, 1, PRODUCER, B256::ZERO, &no_hash);
        BlockRun::new(parent, &env, transactions).expect("a store that works")
    }

    /// Stores a block and goes on from it.
    ///
    /// # Panics
    /// If the store fails, or a transaction of the block did.
    pub fn commit(&mut self, block: &ExecutedBlock) {
        assert!(block.receipts.iter().all(|receipt| receipt.outcome.is_success()), "every transaction succeeds");
        self.store.apply(&block.changes).expect("the next version");
        self.state.committed(&block.changes);
        self.height = self.height.next();
    }

    /// Executes and stores a block.
    ///
    /// # Panics
    /// As [`Self::commit`].
    pub fn execute(&mut self, transactions: &[RecoveredTransaction]) -> ExecutedBlock {
        let parent = self.view();
        let block = self.run(&parent, transactions).seal().expect("a store that works");
        self.commit(&block);
        block
    }
}

fn no_hash(_: Height) -> Result<Option<B256>, StoreError> {
    Ok(Some(B256::ZERO))
}
