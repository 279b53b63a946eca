//! The storage actor: final blocks onto the disk, in order, before anybody is told of them.
//!
//! Blocks that become final together are written together: what waits in the mailbox goes into one batch.

use std::sync::Arc;

use actix::{Actor, AsyncContext, Context, Handler};
use cascade_consensus::{ChainContext, Finalized, Rules};
use cascade_primitives::{Encode, TransactionRule, keccak256};
use cascade_storage::{ChainDb, EpochStart, FinalBlock, Finality};

use super::{
    consensus::ConsensusActor,
    execution::ExecutionActor,
    hub::Hub,
    keys::KeysActor,
    mail::Addr,
    messages::{Final, MakeDurable, Stored},
    metrics::Metrics,
    reveal::RevealActor,
    stop::{Cause, Stop},
};
use crate::rpc::backend::ChainEvent;

/// Who gets a final block once it is stored.
pub enum Next {
    /// Execution, at once.
    Execution(Addr<ExecutionActor>),
    /// On an encrypted chain: key generation, and those who open it before it is executed.
    Sealed {
        /// Key generation.
        keys: Addr<KeysActor>,
        /// Opens it.
        reveal: Addr<RevealActor>,
    },
}

/// The storage actor.
pub struct StorageActor {
    db: Arc<ChainDb>,
    rules: Arc<Rules>,
    next: Next,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    stop: Stop,
    consensus: Option<Addr<ConsensusActor>>,
    waiting: Vec<Arc<Finalized>>,
    failed: bool,
}

/// To storage: where consensus is.
#[derive(actix::Message)]
#[rtype(result = "()")]
pub struct SetConsensus(pub Addr<ConsensusActor>);

#[derive(actix::Message)]
#[rtype(result = "()")]
struct Flush;

impl StorageActor {
    /// An actor around the database.
    #[must_use]
    pub const fn new(
        db: Arc<ChainDb>,
        rules: Arc<Rules>,
        next: Next,
        hub: Arc<Hub>,
        metrics: Arc<Metrics>,
        stop: Stop,
    ) -> Self {
        Self { db, rules, next, hub, metrics, stop, consensus: None, waiting: Vec::new(), failed: false }
    }

    fn flush(&mut self) -> Result<(), Cause> {
        let Some(last) = self.waiting.last() else { return Ok(()) };
        let timer = self.metrics.commit_seconds.start_timer();
        let blocks: Vec<FinalBlock> =
            self.waiting.iter().map(|f| final_block(f, self.rules.params().transactions)).collect();
        for ended in self.waiting.iter().filter(|f| f.context.can_hand_over()) {
            self.db.put_epoch(&next_epoch(&self.rules, &ended.context))?;
        }
        self.db.append_final_with_context(&blocks, &last.context.to_bytes())?;
        timer.observe_duration();
        for finalized in self.waiting.drain(..) {
            let block = &finalized.block;
            let event = ChainEvent::Final { height: block.header.height, hash: block.hash() };
            let transactions = block.body.transactions.len() as u64;
            self.hub.ordered(block.header.height, transactions, block.body.transaction_bytes() as u64, event);
            match &self.next {
                Next::Execution(execution) => execution.do_send(Final(finalized)),
                Next::Sealed { keys, reveal } => {
                    keys.do_send(Final(Arc::clone(&finalized)));
                    reveal.do_send(Final(finalized));
                }
            }
        }
        Ok(())
    }
}

/// What the epoch above its predecessor's last block begins with.
pub(super) fn next_epoch(rules: &Rules, last: &ChainContext) -> EpochStart {
    EpochStart { committee: last.next_committee.as_ref().clone(), seed: last.next_seed(rules) }
}

fn final_block(finalized: &Finalized, rule: TransactionRule) -> FinalBlock {
    // The index would be half of the work of an opaque chain; there, payloads are found by reading blocks.
    let transactions = match rule {
        TransactionRule::Plain => finalized.block.body.transactions.iter().map(keccak256).collect(),
        // What is inside an envelope is known, and found, once it is opened.
        TransactionRule::Encrypted | TransactionRule::Opaque => Vec::new(),
    };
    FinalBlock {
        block: Arc::clone(&finalized.block),
        finality: Some(Finality {
            certificate: finalized.finality.certificate.as_ref().clone(),
            fillers: finalized.finality.fillers.clone(),
        }),
        transactions,
    }
}

impl Actor for StorageActor {
    type Context = Context<Self>;
}

impl Handler<SetConsensus> for StorageActor {
    type Result = ();

    fn handle(&mut self, message: SetConsensus, _: &mut Self::Context) {
        self.consensus = Some(message.0);
    }
}

impl Handler<Final> for StorageActor {
    type Result = ();

    fn handle(&mut self, Final(finalized): Final, ctx: &mut Self::Context) {
        if self.waiting.is_empty() {
            ctx.address().do_send(Flush);
        }
        self.waiting.push(finalized);
    }
}

impl Handler<Flush> for StorageActor {
    type Result = ();

    fn handle(&mut self, _: Flush, _: &mut Self::Context) {
        if !self.failed
            && let Err(cause) = self.flush()
        {
            self.failed = true;
            self.stop.fail(cause);
        }
    }
}

impl Handler<MakeDurable> for StorageActor {
    type Result = ();

    fn handle(&mut self, _: MakeDurable, _: &mut Self::Context) {
        if self.failed {
            return;
        }
        match self.flush().and_then(|()| Ok(self.db.sync()?)) {
            Ok(()) => {
                if let (Some((height, _)), Some(consensus)) = (self.db.heads().last_final, &self.consensus) {
                    consensus.do_send(Stored(height));
                }
            }
            Err(cause) => {
                self.failed = true;
                self.stop.fail(cause);
            }
        }
    }
}
