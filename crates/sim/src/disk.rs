//! A node's disk: what a crash leaves of it.
//!
//! The vote log and the sign-state are synced by every [`cascade_consensus::Effect::Persist`]; final blocks and results are
//! appended and synced now and then. A crash takes all appended blocks after the last sync, or the end of them; of a
//! `Persist` whose sync is still under way, it leaves nothing, the log record, the sign-state, or both.

use std::sync::Arc;

use cascade_consensus::{ChainContext, FinalChain, Finality, Record, SignState, Start};
use cascade_primitives::{Body, Header, Height, ResultEntry, SealedBlock};

use crate::rng::Rng;

/// Final blocks that a restarting node takes up besides its head.
const RECENT: usize = 64;

#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) block: Arc<SealedBlock>,
    pub(crate) context: Arc<ChainContext>,
    pub(crate) finality: Option<Finality>,
}

#[derive(Debug)]
struct Pending {
    ready_at: u64,
    records: Vec<Record>,
    sign_state: SignState,
}

#[derive(Debug)]
pub(crate) struct Disk {
    blocks: Vec<Stored>,
    synced_blocks: usize,
    /// By height, genesis first.
    results: Vec<ResultEntry>,
    synced_results: usize,
    log: Vec<Record>,
    sign_state: Option<SignState>,
    pending: Vec<Pending>,
}

impl Disk {
    pub(crate) fn new(genesis: Stored) -> Self {
        let result = genesis.block.header.results[0];
        Self {
            blocks: vec![genesis],
            synced_blocks: 1,
            results: vec![result],
            synced_results: 1,
            log: Vec::new(),
            sign_state: None,
            pending: Vec::new(),
        }
    }

    pub(crate) fn head(&self) -> &Stored {
        self.blocks.last().expect("genesis is there")
    }

    pub(crate) fn stored(&self, height: Height) -> Option<&Stored> {
        self.blocks.get(height.0 as usize)
    }

    /// The synced vote log.
    pub(crate) fn log(&self) -> &[Record] {
        &self.log
    }

    pub(crate) fn persist(&mut self, ready_at: u64, records: Vec<Record>, sign_state: SignState) {
        self.pending.push(Pending { ready_at, records, sign_state });
    }

    /// Ends the syncs that are done by now.
    pub(crate) fn sync_log(&mut self, now: u64) {
        while self.pending.first().is_some_and(|p| p.ready_at <= now) {
            let done = self.pending.remove(0);
            self.log.extend(done.records);
            self.sign_state = Some(done.sign_state);
        }
    }

    pub(crate) fn append(&mut self, stored: Stored) {
        self.blocks.push(stored);
    }

    pub(crate) fn append_result(&mut self, result: ResultEntry) {
        if result.height.0 as usize == self.results.len() {
            self.results.push(result);
        }
    }

    /// Syncs blocks, and results if there is time.
    pub(crate) fn sync_blocks(&mut self, results: bool) {
        self.synced_blocks = self.blocks.len();
        if results {
            self.synced_results = self.results.len().min(self.synced_blocks);
        }
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.pending.is_empty()
    }

    /// Starts a new vote log; the final blocks must be synced.
    pub(crate) fn replace_log(&mut self, live: Vec<Record>) {
        assert!(self.pending.is_empty() && self.synced_blocks == self.blocks.len(), "a log follows a sync");
        self.log = live;
    }

    /// What a crash leaves. Answers whether it took anything.
    ///
    /// Of blocks and results it takes everything since the last sync (`all`), or a part of it.
    pub(crate) fn crash(&mut self, now: u64, take: bool, all: bool, rng: &mut Rng) -> bool {
        self.sync_log(now);
        let mut lost = false;
        let pending = std::mem::take(&mut self.pending);
        for record in pending {
            // What was not synced may be on the disk all the same, from the oldest on.
            match if take { rng.below(5) } else { 0 } {
                0 => {
                    self.log.extend(record.records);
                    self.sign_state = Some(record.sign_state);
                    continue;
                }
                1 => self.log.extend(record.records),
                2 => self.sign_state = Some(record.sign_state),
                _ => {}
            }
            lost = true;
            break;
        }
        if take {
            let most = if all { self.synced_blocks } else { self.blocks.len() };
            let kept = rng.between(self.synced_blocks as u64, most as u64) as usize;
            lost |= kept < self.blocks.len();
            self.blocks.truncate(kept);
            let kept = rng.between(self.synced_results as u64, self.results.len().max(self.synced_results) as u64);
            self.results.truncate((kept as usize).min(self.blocks.len()));
        }
        self.results.truncate(self.blocks.len());
        self.synced_blocks = self.blocks.len();
        self.synced_results = self.results.len();
        lost
    }

    /// Loses everything but the sign-state.
    pub(crate) fn wipe(&mut self) {
        self.blocks.truncate(1);
        self.results.truncate(1);
        self.synced_blocks = 1;
        self.synced_results = 1;
        self.log.clear();
        self.pending.clear();
    }

    /// What a core starts from.
    pub(crate) fn start(&self) -> Start {
        let head = self.head();
        let last_result = head.context.last_result;
        let from = (self.blocks.len().saturating_sub(RECENT)).min(last_result.0 as usize);
        Start {
            head: Arc::clone(&head.block),
            context: head.context.as_ref().clone(),
            finality: head.finality.clone(),
            recent: self.blocks[from..self.blocks.len() - 1].iter().map(|s| Arc::clone(&s.block)).collect(),
            results: self.results.iter().filter(|r| r.height > last_result).copied().collect(),
            records: self.log.clone(),
            sign_state: self.sign_state.clone(),
        }
    }

    pub(crate) fn last_result(&self) -> ResultEntry {
        *self.results.last().expect("genesis is there")
    }

    pub(crate) fn blocks(&self) -> &[Stored] {
        &self.blocks
    }
}

impl FinalChain for Disk {
    fn height(&self) -> Height {
        self.head().block.header.height
    }

    fn header(&self, height: Height) -> Option<Header> {
        self.stored(height).map(|s| s.block.header.clone())
    }

    fn body(&self, height: Height) -> Option<Body> {
        self.stored(height).map(|s| s.block.body.clone())
    }

    fn finality(&self, height: Height) -> Option<Finality> {
        self.stored(height).and_then(|s| s.finality.clone())
    }
}
