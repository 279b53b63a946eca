//! A small chain: blocks, what executing them gave, and the memory store that they were executed on.

use std::{collections::BTreeMap, sync::Arc};

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Signature, TxKind};
use cascade_execution::{
    BlockEnv, ExecutedBlock, MemoryStore, State, StateChanges, StateStoreMut, execute_block, genesis_changes,
    state::CacheSizes,
};
use cascade_primitives::{
    Address, B256, BlockHash, BlsSignature, Body, Certificate, ChainParams, Epoch, Genesis, GenesisAccount, Height,
    Network, RecoveredTransaction, SealedBlock, SignerSet, TimestampMs, Transaction, U256, View, VoteTarget,
    block::Block,
};
use cascade_storage::{ChainDb, FinalBlock, Finality};

/// Stores its second word under its first, and logs the first as a topic.
const CONTRACT_CODE: &[u8] =
    &[0x60, 0x20, 0x35, 0x60, 0x00, 0x35, 0x55, 0x60, 0x00, 0x35, 0x60, 0x00, 0x60, 0x00, 0xa1, 0x00];
pub const CONTRACT: Address = Address::repeat_byte(0xcc);
pub const SENDERS: u8 = 4;

pub fn sender(n: u8) -> Address {
    Address::repeat_byte(0x10 + n % SENDERS)
}

pub fn genesis() -> Genesis {
    let account = |balance: u128, code: &[u8]| GenesisAccount {
        balance: U256::from(balance),
        code: code.to_vec().into(),
        ..GenesisAccount::default()
    };
    let mut alloc: BTreeMap<_, _> = (0..SENDERS).map(|n| (sender(n), account(10_u128.pow(24), &[]))).collect();
    alloc.insert(CONTRACT, account(0, CONTRACT_CODE));
    Genesis { params: ChainParams::of(Network::Regtest), timestamp: TimestampMs(1_000), committees: Vec::new(), alloc }
}

/// What a transaction of the test chain does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A transfer from a sender to an address that ends with a byte.
    Transfer(u8, u8),
    /// Writes a value (0 deletes) to a slot of the contract, and logs.
    Write(u8, u8, u8),
}

impl Action {
    fn build(self, nonce: u64) -> RecoveredTransaction {
        let (from, to, input) = match self {
            Self::Transfer(from, to) => (from, Address::with_last_byte(to), Vec::new()),
            Self::Write(from, slot, value) => {
                let words = [B256::with_last_byte(slot), B256::with_last_byte(value)];
                (from, CONTRACT, words.concat())
            }
        };
        let unsigned = TxEip1559 {
            chain_id: 20252,
            nonce,
            gas_limit: 100_000,
            max_fee_per_gas: 1_000_000_000,
            max_priority_fee_per_gas: 7,
            to: TxKind::Call(to),
            value: U256::from(u8::from(input.is_empty())),
            access_list: Default::default(),
            input: input.into(),
        };
        let signature = Signature::new(U256::from(from % SENDERS + 1), U256::from(1), false);
        let envelope: TxEnvelope = unsigned.into_signed(signature).into();
        let raw = envelope.encoded_2718().into();
        let limit = ChainParams::of(Network::Regtest).max_tx_bytes as usize;
        RecoveredTransaction::new(Transaction::decode(raw, 20252.into(), limit).unwrap(), sender(from))
    }
}

/// The chain so far, executed on a store in memory.
pub struct TestChain {
    pub store: Arc<MemoryStore>,
    pub genesis: Arc<SealedBlock>,
    pub genesis_changes: StateChanges,
    pub blocks: Vec<FinalBlock>,
    pub executed: Vec<ExecutedBlock>,
}

impl TestChain {
    pub fn new() -> Self {
        let genesis = genesis();
        let changes = genesis_changes(&genesis).unwrap();
        let store = Arc::new(MemoryStore::new());
        store.apply(&changes).unwrap();
        let block = Arc::new(SealedBlock::new(genesis.block(changes.root(), B256::ZERO, B256::ZERO)));
        Self { store, genesis: block, genesis_changes: changes, blocks: Vec::new(), executed: Vec::new() }
    }

    /// Adds a block in an epoch; `direct` says whether the certificate that makes it final is its own.
    pub fn push(&mut self, epoch: u64, direct: bool, actions: &[Action]) {
        let tip = self.blocks.last().map_or(&self.genesis, |block| &block.block);
        let height = tip.header.height.next();
        let state = State::open(Arc::clone(&self.store) as _, CacheSizes::default()).unwrap();
        let view = state.at(height.minus(1)).unwrap();
        let mut nonces = BTreeMap::new();
        let transactions: Vec<_> = actions
            .iter()
            .map(|action| {
                let from = match action {
                    Action::Transfer(from, _) | Action::Write(from, _, _) => sender(*from),
                };
                let nonce =
                    nonces.entry(from).or_insert_with(|| view.account(&from).unwrap().unwrap_or_default().nonce);
                *nonce += 1;
                action.build(*nonce - 1)
            })
            .collect();
        let body = Body { transactions: transactions.iter().map(|tx| tx.raw().clone()).collect(), ..Body::default() };
        let mut header = tip.header.clone();
        header.height = height;
        header.parent = tip.hash();
        header.epoch = Epoch(epoch);
        header.view = View(height.0);
        header.timestamp = TimestampMs(tip.header.timestamp.0 + 1000);
        header.body_root = body.root();
        header.results.clear();
        let block = Arc::new(SealedBlock::new(Block { header, body }));
        let hashes = |_: Height| Ok(Some(B256::ZERO));
        let params = ChainParams::of(Network::Regtest);
        let time = block.header.timestamp;
        let env = BlockEnv::new(&params, height, time, 1, Address::repeat_byte(0xfe), B256::ZERO, &hashes);
        let executed = execute_block(&view, &env, &transactions).unwrap();
        self.store.apply(&executed.changes).unwrap();
        let target = if direct { block.hash() } else { BlockHash([0xdd; 32]) };
        let certificate = Certificate {
            target: VoteTarget::commit(Epoch(epoch), View(height.0), target),
            signers: SignerSet::new(4),
            signature: BlsSignature::ZERO,
        };
        self.blocks.push(FinalBlock {
            block,
            finality: Some(Finality { certificate, fillers: Vec::new() }),
            transactions: transactions.iter().map(|tx| tx.hash()).collect(),
        });
        self.executed.push(executed);
    }

    /// Forgets everything above a height.
    pub fn truncate(&mut self, height: u64) {
        self.store.revert_to(Height(height)).unwrap();
        self.blocks.truncate(usize::try_from(height).unwrap());
        self.executed.truncate(usize::try_from(height).unwrap());
    }

    /// Writes all of it into a database that has the first `from` blocks.
    pub fn write_from(&self, db: &ChainDb, from: usize) {
        if from == 0 {
            db.init_genesis(&self.genesis, &self.genesis_changes).unwrap();
        }
        for (block, executed) in self.blocks.iter().zip(&self.executed).skip(from) {
            db.append_final(std::slice::from_ref(block)).unwrap();
            db.commit_executed(executed).unwrap();
        }
    }
}

/// Six blocks with transfers, writes, deletions and an empty one.
pub fn six_blocks() -> TestChain {
    let mut chain = TestChain::new();
    chain.push(0, true, &[Action::Transfer(0, 1), Action::Transfer(0, 2), Action::Write(1, 1, 5)]);
    chain.push(0, false, &[]);
    chain.push(0, true, &[Action::Write(2, 1, 0), Action::Write(2, 2, 9), Action::Write(3, 3, 1)]);
    chain.push(0, true, &[Action::Transfer(3, 1)]);
    chain.push(1, false, &[Action::Write(0, 2, 8)]);
    chain.push(1, true, &[Action::Transfer(1, 200), Action::Write(1, 3, 0)]);
    chain
}
