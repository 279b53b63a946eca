//! The execution actor: final blocks in, results out, in order of height.
//!
//! [`Executor`] is the part without an actor; a starting node uses it to execute what was final but not executed when it
//! stopped.

use std::sync::Arc;

use actix::{Actor, Context, Handler};
use cascade_execution::{BlockEnv, ExecutedBlock, State, StoreError, execute_block};
use cascade_primitives::{Address, B256, ChainParams, Height, ResultEntry, SealedBlock, TransactionRule, domain, hash};
use cascade_storage::ChainDb;

use super::{
    consensus::ConsensusActor,
    content::{ContentActor, RecoveredBlocks},
    hub::Hub,
    mail::Addr,
    messages::{Executed, Final, StateAdvanced},
    metrics::Metrics,
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
        let content = self.recovered.get_or_recover(block, &self.params, |_| None).map_err(|error| {
            Cause::Diverged(format!("final block {} has a transaction that is none: {error}", header.height))
        })?;
        let parent =
            self.state.at(header.height.minus(1)).map_err(|e| StoreError::new("read the parent's state", e))?;
        let hashes = |height: Height| -> Result<Option<B256>, StoreError> {
            let hash = self.db.hash_at(height).map_err(|error| StoreError::new("read a block hash", error))?;
            Ok(hash.map(B256::from))
        };
        let env = BlockEnv::new(
            &self.params,
            header.height,
            header.timestamp,
            header.base_fee,
            producer,
            prev_randao(block),
            &hashes,
        );
        let timer = self.metrics.execute_seconds.start_timer();
        let executed = execute_block(&parent, &env, &content.transactions)?;
        timer.observe_duration();
        self.db.commit_executed(&executed)?;
        self.state.committed(&executed.changes);
        self.recovered.drop_up_to(header.height.minus(8));
        if header.height.0.is_multiple_of(PRUNE_STEP) && header.height.0 > STATE_VERSIONS {
            self.db.prune_state(header.height.minus(STATE_VERSIONS), 4 * PRUNE_STEP as usize)?;
        }
        Ok(Some(executed))
    }
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
            prev_randao: prev_randao(block),
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
