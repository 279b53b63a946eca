//! A node without network and votes: executes blocks that were checked elsewhere, on a database of its own.

use std::{path::Path, sync::Arc};

use cascade_consensus::{ChainContext, context::Rules};
use cascade_execution::{CacheSizes, State, StateStore};
use cascade_primitives::{B256, Height, ResultEntry, SealedBlock};
use cascade_storage::{ChainDb, ChainDbOptions, FinalBlock};
use prometheus::Registry;

use super::{NodeError, backend::Producers, content::RecoveredBlocks, execution::Executor, metrics::Metrics, start};

/// Executes a chain from its genesis block on.
pub(crate) struct Replay {
    db: Arc<ChainDb>,
    executor: Executor,
    producers: Producers,
}

impl Replay {
    /// Makes the genesis block and state in an empty directory. Answers the chain up to it and its state root.
    pub(crate) fn create(dir: &Path, rules: &Arc<Rules>) -> Result<(Self, ChainContext, B256), NodeError> {
        let db = Arc::new(ChainDb::open(dir.join("db"), ChainDbOptions::default())?);
        let state = State::open(Arc::clone(&db) as Arc<dyn StateStore>, CacheSizes::default())?;
        start::make_genesis(rules, &db, &state)?;
        let root = db.result(Height(0))?.unwrap_or_default().state_root;
        let (context, _) =
            ChainContext::genesis(rules, root).map_err(|error| NodeError::GenesisState(error.to_string()))?;
        let executor = Executor {
            params: rules.params().clone(),
            db: Arc::clone(&db),
            state,
            recovered: RecoveredBlocks::default(),
            metrics: Arc::new(Metrics::new(&Registry::new()).map_err(NodeError::Metrics)?),
        };
        let producers = Producers::new(Arc::clone(rules), Arc::clone(&db));
        Ok((Self { db, executor, producers }, context, root))
    }

    /// Executes the next block; `context` is the chain up to it.
    pub(crate) fn run(&self, block: &Arc<SealedBlock>, context: &ChainContext) -> Result<(), NodeError> {
        if context.can_hand_over() {
            self.db.put_committee(&context.next_committee)?;
        }
        let stored = FinalBlock { block: Arc::clone(block), finality: None, transactions: Vec::new() };
        self.db.append_final(&[stored])?;
        let producer = self.producers.of(&block.header)?;
        self.executor.run(block, producer).map_err(NodeError::Stopped)?;
        Ok(())
    }

    /// What executing a block gave.
    pub(crate) fn result(&self, height: Height) -> Result<Option<ResultEntry>, NodeError> {
        Ok(self.db.result(height)?)
    }
}
