//! The execution actor: final blocks in, results out, in order of height.
//!
//! [`Executor`] is the part without an actor; a starting node uses it to execute what was final but not executed when it
//! stopped.

use std::sync::Arc;

use actix::{Actor, Context, Handler};
use cascade_execution::{
    BlockEnv, ExecutedBlock, OpenedItem as ExecutedItem, Receipt, State, StateView, StoreError, execute_block,
    execute_items,
};
use cascade_primitives::{Address, B256, ChainParams, Height, ResultEntry, SealedBlock, TransactionRule, domain, hash};
use cascade_storage::{ChainDb, OpenedBlock, OpenedItem};

use super::{
    consensus::ConsensusActor,
    content::ContentActor,
    hub::Hub,
    mail::Addr,
    messages::{Executed, Final, Opened, StateAdvanced},
    metrics::Metrics,
    recovered::RecoveredBlocks,
    reveal::OpenedContent,
    stop::{Cause, Stop},
};
use crate::rpc::backend::{BlockData, BlockResult, ChainEvent};

/// Versions of the state that are kept for reads and proofs.
const STATE_VERSIONS: u64 = 1024;
/// Versions that are pruned at once.
const PRUNE_STEP: u64 = 64;

/// What `PREVRANDAO` gives in a block of a chain without a beacon.
///
/// Its leader can try several blocks and choose; only the beacon of a chain with threshold keys is unpredictable.
#[must_use]
pub fn prev_randao(block: &SealedBlock) -> B256 {
    hash::tagged(domain::RANDAO, &[block.hash().as_bytes()])
}

/// What `PREVRANDAO` gives in a block: the beacon where there is one.
#[must_use]
pub fn randao_of(block: &SealedBlock, result: Option<&ResultEntry>) -> B256 {
    result.map(|entry| entry.beacon).filter(|beacon| !beacon.is_zero()).unwrap_or_else(|| prev_randao(block))
}

/// Executes blocks and stores what comes of it.
#[derive(Clone)]
pub struct Executor {
    /// The chain's constants.
    pub params: ChainParams,
    /// The database.
    pub db: Arc<ChainDb>,
    /// The state in it.
    pub state: State,
    /// Signers of recent blocks.
    pub recovered: RecoveredBlocks,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

impl Executor {
    /// Executes the block above the newest executed one and stores the result in one batch.
    ///
    /// # Errors
    /// If the store fails. A bad transaction is no error.
    pub fn run(&self, block: &SealedBlock, producer: Address) -> Result<Option<ExecutedBlock>, Cause> {
        let header = &block.header;
        if self.params.transactions == TransactionRule::Opaque {
            self.db.commit_result(&ResultEntry { height: header.height, ..ResultEntry::default() })?;
            return Ok(None);
        }
        if self.params.transactions == TransactionRule::Encrypted {
            return self.run_opened(block, producer, None).map(Some);
        }
        let content = self.recovered.get_or_recover(block, &self.params, |_| None).map_err(|error| {
            Cause::Diverged(format!("final block {} has a transaction that is none: {error}", header.height))
        })?;
        let executed = self.with_env(block, producer, prev_randao(block), |parent, env| {
            execute_block(parent, env, &content.transactions)
        })?;
        self.db.commit_executed(&executed)?;
        self.recovered.drop_up_to(header.height.minus(8));
        self.committed(&executed)?;
        Ok(Some(executed))
    }

    /// Executes a block of an encrypted chain: as [`Executor::run`]. `opened` is what is in it, none if it has no items and
    /// no beacon.
    ///
    /// # Errors
    /// If the store fails. A bad item is no error.
    pub fn run_opened(
        &self,
        block: &SealedBlock,
        producer: Address,
        opened: Option<&OpenedContent>,
    ) -> Result<ExecutedBlock, Cause> {
        let height = block.header.height;
        if opened.is_none() && !block.body.transactions.is_empty() {
            return Err(Cause::Diverged(format!("block {height} has items and was not opened")));
        }
        let randao = opened.map_or_else(|| prev_randao(block), |opened| opened.beacon);
        let items = opened.map_or(&[][..], |opened| &opened.items);
        let mut executed = self.with_env(block, producer, randao, |parent, env| execute_items(parent, env, items))?;
        if let Some(opened) = opened {
            executed.result.beacon = opened.beacon;
            executed.result.reveals_root = opened.reveal.root();
        }
        let record = opened.map(|opened| OpenedBlock {
            reveal: opened.reveal.as_ref().clone(),
            items: opened.items.iter().zip(&executed.receipts).map(opened_item).collect(),
        });
        self.db.commit_opened(&executed, record.as_ref())?;
        self.committed(&executed)?;
        Ok(executed)
    }

    fn with_env(
        &self,
        block: &SealedBlock,
        producer: Address,
        randao: B256,
        execute: impl FnOnce(&StateView, &BlockEnv<'_>) -> Result<ExecutedBlock, StoreError>,
    ) -> Result<ExecutedBlock, Cause> {
        let header = &block.header;
        let parent =
            self.state.at(header.height.minus(1)).map_err(|e| StoreError::new("read the parent's state", e))?;
        let hashes = |height: Height| -> Result<Option<B256>, StoreError> {
            let hash = self.db.hash_at(height).map_err(|error| StoreError::new("read a block hash", error))?;
            Ok(hash.map(B256::from))
        };
        let env =
            BlockEnv::new(&self.params, header.height, header.timestamp, header.base_fee, producer, randao, &hashes);
        let timer = self.metrics.execute_seconds.start_timer();
        let executed = execute(&parent, &env)?;
        timer.observe_duration();
        Ok(executed)
    }

    fn committed(&self, executed: &ExecutedBlock) -> Result<(), Cause> {
        let height = executed.result.height;
        self.state.committed(&executed.changes);
        if height.0.is_multiple_of(PRUNE_STEP) && height.0 > STATE_VERSIONS {
            self.db.prune_state(height.minus(STATE_VERSIONS), 4 * PRUNE_STEP as usize)?;
        }
        Ok(())
    }
}

/// What is kept of an item: a transaction that ran is found by its hash, and shown in the place of the envelope.
fn opened_item((item, receipt): (&ExecutedItem, &Receipt)) -> OpenedItem {
    let (name, payer, inside) = match item {
        ExecutedItem::Envelope { envelope, opened } => (envelope.hash(), envelope.payer(), opened.as_ref().ok()),
        ExecutedItem::Deposit(deposit) => {
            (deposit.transaction().hash(), deposit.transaction().sender(), Some(deposit.transaction()))
        }
    };
    let ran = inside.filter(|inside| receipt.transaction_hash == inside.hash());
    OpenedItem { name, payer, transaction: ran.map(|inside| inside.raw().clone()).unwrap_or_default() }
}

/// The execution actor.
pub struct ExecutionActor {
    executor: Executor,
    content: Addr<ContentActor>,
    hub: Arc<Hub>,
    stop: Stop,
    consensus: Option<Addr<ConsensusActor>>,
    failed: bool,
}

/// To execution: where consensus is.
#[derive(actix::Message)]
#[rtype(result = "()")]
pub struct SetConsensus(pub Addr<ConsensusActor>);

impl ExecutionActor {
    /// An actor around an executor.
    #[must_use]
    pub const fn new(executor: Executor, content: Addr<ContentActor>, hub: Arc<Hub>, stop: Stop) -> Self {
        Self { executor, content, hub, stop, consensus: None, failed: false }
    }

    fn execute(&self, block: &Arc<SealedBlock>, producer: Address) -> Result<(), Cause> {
        let executed = self.executor.run(block, producer)?;
        self.tell(block, producer, executed)
    }

    fn tell(&self, block: &Arc<SealedBlock>, producer: Address, executed: Option<ExecutedBlock>) -> Result<(), Cause> {
        let height = block.header.height;
        let (entry, bloom, receipts) = match executed {
            Some(executed) => (executed.result, executed.bloom, executed.receipts),
            None => (ResultEntry { height, ..ResultEntry::default() }, Default::default(), Vec::new()),
        };
        let metrics = &self.executor.metrics;
        let transactions = block.body.transactions.len() as u64;
        metrics.executed_height.set(i64::try_from(height.0).unwrap_or(i64::MAX));
        metrics.executed_transactions.inc_by(transactions);
        metrics.executed_gas.inc_by(entry.gas_used);
        if let Some(consensus) = &self.consensus {
            consensus.do_send(Executed(entry));
        }
        self.content.do_send(StateAdvanced(height, Arc::clone(block)));
        let data = BlockData {
            block: Arc::clone(block),
            result: Some(BlockResult { entry, bloom }),
            producer,
            prev_randao: randao_of(block, Some(&entry)),
            opened: opened_items(&self.executor.db, self.executor.params.transactions, height)?,
        };
        let event = ChainEvent::Executed { block: Arc::new(data), receipts: Arc::new(receipts) };
        self.hub.executed(height, transactions, entry.gas_used, event);
        Ok(())
    }
}

impl Actor for ExecutionActor {
    type Context = Context<Self>;
}

impl Handler<SetConsensus> for ExecutionActor {
    type Result = ();

    fn handle(&mut self, message: SetConsensus, _: &mut Self::Context) {
        self.consensus = Some(message.0);
    }
}

/// What was in a block of an encrypted chain, in the order in which it ran.
pub fn opened_items(
    db: &ChainDb,
    rule: TransactionRule,
    height: Height,
) -> Result<Option<Arc<Vec<OpenedItem>>>, cascade_storage::StorageError> {
    if rule != TransactionRule::Encrypted {
        return Ok(None);
    }
    Ok(Some(Arc::new(db.opened(height)?.map(|opened| opened.items).unwrap_or_default())))
}

impl Handler<Opened> for ExecutionActor {
    type Result = ();

    fn handle(&mut self, Opened(finalized, opened): Opened, _: &mut Self::Context) {
        if self.failed {
            return;
        }
        let result = self
            .executor
            .run_opened(&finalized.block, finalized.producer, opened.as_deref())
            .and_then(|executed| self.tell(&finalized.block, finalized.producer, Some(executed)));
        if let Err(cause) = result {
            self.failed = true;
            self.stop.fail(cause);
        }
    }
}

impl Handler<Final> for ExecutionActor {
    type Result = ();

    fn handle(&mut self, Final(finalized): Final, _: &mut Self::Context) {
        if self.failed {
            return;
        }
        if let Err(cause) = self.execute(&finalized.block, finalized.producer) {
            self.failed = true;
            self.stop.fail(cause);
        }
    }
}
