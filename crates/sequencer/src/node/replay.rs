//! A node without network and votes: executes blocks that were checked elsewhere, on a database of its own.
//!
//! ```text
//!   block --plain, opaque------------------------------------------------------> execute
//!     |  \--encrypted: key generation's log --> keys of epochs --> check items ----> wait
//!     |                                                                            |
//!     +--reveals of blocks below, in its body, or above the last block's batch --> open, order, execute
//! ```
//!
//! Reveals are checked against the epoch's keys, and the keys come from the dealings in the blocks: nobody is asked.
//!
//! On a database that is there already it is given the same blocks again, from the first one on: those that it executed are
//! compared and not executed again. So nothing is read back but blocks and results, and keys are made anew.

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    sync::Arc,
};

use cascade_consensus::{ChainContext, context::Rules};
use cascade_crypto::{BlsScheme, curve::G1Affine, threshold::EncryptionKey};
use cascade_execution::{CacheSizes, State, StateStore};
use cascade_mempool::{
    keybook::{KeyBook, KeyEvent},
    reveal::{Effect, FinalBlock as ToReveal, Holder, RevealMessage, Reveals},
};
use cascade_primitives::{
    B256, BlockHash, BlsSignature, Certificate, Epoch, Header, Height, NodeId, ResultEntry, Reveal, SealedBlock,
    SignerSet, TimestampMs, TransactionRule, VoteTarget,
};
use cascade_storage::{ChainDb, ChainDbOptions, FinalBlock};
use prometheus::Registry;

use super::{
    NodeError,
    backend::Producers,
    execution::Executor,
    items::{ItemBlocks, ItemContent},
    metrics::Metrics,
    recovered::RecoveredBlocks,
    reveal::open_content,
    start,
    stop::Cause,
    storage::next_epoch,
};

/// Who nobody is: nothing is sent anywhere.
const NOBODY: NodeId = NodeId([0; 32]);
/// Epochs whose keys are kept.
const KNOWN_EPOCHS: usize = 3;

/// Executes a chain from its genesis block on.
pub(crate) struct Replay {
    rules: Arc<Rules>,
    /// What was executed when the database was opened.
    done: Height,
    db: Arc<ChainDb>,
    executor: Executor,
    producers: Producers,
    sealed: Option<Sealed>,
}

/// What an encrypted chain needs besides.
struct Sealed {
    book: KeyBook,
    keys: BTreeMap<Epoch, Holder>,
    items: ItemBlocks,
    core: Reveals,
    waiting: VecDeque<(Arc<SealedBlock>, Option<Arc<ItemContent>>)>,
}

fn diverged(what: impl Into<String>) -> NodeError {
    NodeError::Stopped(Cause::Diverged(what.into()))
}

/// What a block's envelopes are sealed to: the keys that were made in the log, if they are those that its header binds.
pub(super) fn opening_key(keys: &BTreeMap<Epoch, Holder>, header: &Header) -> Result<EncryptionKey, NodeError> {
    let epoch = header.epoch;
    let made = keys.get(&epoch).ok_or_else(|| diverged(format!("the keys of epoch {epoch} were not made")))?;
    if made.committee_root() != header.committee_root {
        let height = header.height;
        return Err(diverged(format!("block {height} names other keys of epoch {epoch} than those that were made")));
    }
    Ok(made.keys.decryption.encryption_key())
}

impl Replay {
    /// Opens the database in a directory, or makes one with the genesis block and state. Answers the chain up to genesis and
    /// its state root.
    pub(crate) fn open(dir: &Path, rules: &Arc<Rules>) -> Result<(Self, ChainContext, B256), NodeError> {
        let path = dir.join("db");
        let db = Arc::new(ChainDb::open(&path, ChainDbOptions::default())?);
        let state = State::open(Arc::clone(&db) as Arc<dyn StateStore>, CacheSizes::default())?;
        if db.heads().last_final.is_none() {
            start::make_genesis(rules, &db, &state)?;
        }
        let root = db.result(Height(0))?.unwrap_or_default().state_root;
        let (context, block) =
            ChainContext::genesis(rules, root).map_err(|error| NodeError::GenesisState(error.to_string()))?;
        let done = db.heads().executed.filter(|_| db.hash_at(Height(0)).is_ok_and(|hash| hash == Some(block.hash())));
        let done = done.ok_or_else(|| {
            let what = "it holds another chain, or was never finished";
            NodeError::GenesisState(format!("{}: {what}; remove it, or name another directory", path.display()))
        })?;
        let executor = Executor {
            params: rules.params().clone(),
            db: Arc::clone(&db),
            state,
            recovered: RecoveredBlocks::default(),
            metrics: Arc::new(Metrics::new(&Registry::new()).map_err(NodeError::Metrics)?),
        };
        let producers = Producers::new(Arc::clone(rules), Arc::clone(&db));
        let sealed = (rules.params().transactions == TransactionRule::Encrypted).then(|| Sealed {
            book: KeyBook::new(
                rules.signing,
                rules.params(),
                Arc::new(BlsScheme::default()),
                Height(0),
                Arc::clone(&context.committee),
                Arc::clone(&context.next_committee),
            ),
            keys: BTreeMap::new(),
            items: ItemBlocks::default(),
            core: Reveals::new(rules.signing, NOBODY, 1, done.next()),
            waiting: VecDeque::new(),
        });
        Ok((Self { rules: Arc::clone(rules), done, db, executor, producers, sealed }, context, root))
    }

    /// Takes the next block; `context` is the chain up to it. One of an encrypted chain is executed once it is opened.
    pub(crate) fn run(&mut self, block: &Arc<SealedBlock>, context: &ChainContext) -> Result<(), NodeError> {
        let height = block.header.height;
        if self.db.hash_at(height)?.is_some_and(|kept| kept != block.hash()) {
            return Err(diverged(format!(
                "block {height} is another one than an earlier rebuild left in {}; remove that to begin anew",
                self.db.path().display()
            )));
        }
        if context.can_hand_over() {
            self.db.put_epoch(&next_epoch(&self.rules, context))?;
        }
        let stored = FinalBlock { block: Arc::clone(block), finality: None, transactions: Vec::new() };
        self.db.append_final(&[stored])?;
        if self.sealed.is_some() {
            return self.run_sealed(block, context);
        }
        if height <= self.done {
            return Ok(());
        }
        let producer = self.producers.of(&block.header)?;
        self.executor.run(block, producer).map_err(NodeError::Stopped)?;
        Ok(())
    }

    fn run_sealed(&mut self, block: &Arc<SealedBlock>, context: &ChainContext) -> Result<(), NodeError> {
        let Some(sealed) = &mut self.sealed else { return Ok(()) };
        let (header, scheme) = (&block.header, BlsScheme::default());
        let events =
            sealed.book.on_final(block, (&context.committee, &context.next_committee), &mut |made, dealing| {
                made.verify(dealing, &scheme, &mut rand::rng())
            });
        let mut effects = Vec::new();
        for event in events {
            let KeyEvent::Complete(keys) = event else { continue };
            let holder = Holder::new(keys, Arc::clone(sealed.book.recipients()), None);
            sealed.keys.insert(holder.keys.epoch, holder.clone());
            while sealed.keys.len() > KNOWN_EPOCHS {
                sealed.keys.pop_first();
            }
            effects.extend(sealed.core.on_keys(holder, &mut rand::rng()));
        }
        if header.height <= self.done {
            return self.execute(effects);
        }
        let mut content = None;
        if ChainContext::is_opened(&self.rules, block) {
            let key = opening_key(&sealed.keys, header)?;
            let found = sealed.items.get_or_check(block, &self.rules.signing, self.rules.params(), &key, |_| None);
            content =
                Some(found.map_err(|e| diverged(format!("block {} has an item that is none: {e}", header.height)))?);
        }
        let bases: Option<Vec<G1Affine>> =
            content.as_ref().map(|content| content.sealed.iter().flatten().map(|sealed| *sealed.base()).collect());
        // What made a block final only travels with shares, and there are none here.
        let target = VoteTarget::commit(header.epoch, header.view, block.hash());
        let certificate = Certificate { target, signers: SignerSet::new(0), signature: BlsSignature([0; 96]) };
        sealed.waiting.push_back((Arc::clone(block), content));
        let block = ToReveal {
            height: header.height,
            epoch: header.epoch,
            committee_root: header.committee_root,
            hash: block.hash(),
            certificate: Arc::new(certificate),
            bases,
            reveals: block.body.reveals.clone(),
        };
        effects.extend(sealed.core.on_final(TimestampMs(0), block, &mut rand::rng()));
        self.execute(effects)
    }

    /// Takes what opened the last blocks, and stands in blocks above them.
    pub(crate) fn opened(&mut self, reveals: &[Reveal]) -> Result<(), NodeError> {
        let Some(sealed) = &mut self.sealed else { return Ok(()) };
        let mut effects = Vec::new();
        for reveal in reveals {
            let message = RevealMessage::Reveal(Arc::new(reveal.clone()));
            effects.extend(sealed.core.on_message(NOBODY, message, &mut rand::rng()));
        }
        self.execute(effects)
    }

    fn execute(&mut self, effects: Vec<Effect>) -> Result<(), NodeError> {
        for effect in effects {
            match effect {
                Effect::Revealed(height, opening) => {
                    let Some(sealed) = &mut self.sealed else { continue };
                    let Some((block, content)) = sealed.waiting.pop_front() else { continue };
                    let opened = opening
                        .zip(content)
                        .map(|(opening, content)| open_content(self.rules.params(), &opening, &content));
                    sealed.items.drop_up_to(height);
                    let producer = self.producers.of(&block.header)?;
                    let executed = self.executor.run_opened(&block, producer, opened.as_ref());
                    executed.map_err(NodeError::Stopped)?;
                }
                Effect::Misbehaved(_, what) => return Err(diverged(what)),
                Effect::Contradiction(height) => {
                    return Err(diverged(format!("block {height} is opened with values that are wrong")));
                }
                Effect::Broadcast(_) | Effect::Send(..) => {}
            }
        }
        Ok(())
    }

    /// Whether this block and all below it are stored and executed.
    pub(crate) fn has(&self, height: Height, hash: &BlockHash) -> Result<bool, NodeError> {
        Ok(height <= self.done && self.db.hash_at(height)? == Some(*hash))
    }

    /// A stored block.
    pub(crate) fn block(&self, height: Height) -> Result<SealedBlock, NodeError> {
        self.db.block(height)?.ok_or_else(|| NodeError::Damaged {
            path: self.db.path().to_owned(),
            what: format!("block {height} is missing"),
        })
    }

    /// Waits until all of it is on the disk.
    pub(crate) fn sync(&self) -> Result<(), NodeError> {
        Ok(self.db.sync()?)
    }

    /// What executing a block gave; none while it waits to be opened.
    pub(crate) fn result(&self, height: Height) -> Result<Option<ResultEntry>, NodeError> {
        Ok(self.db.result(height)?)
    }
}
