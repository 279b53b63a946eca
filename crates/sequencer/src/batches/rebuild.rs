//! Rebuilds the chain's state from batches alone.
//!
//! ```text
//!   manifest, pieces --decompress--> block --rules of the chain--> context (committees) --execute--> state
//!        |                                                             |                              |
//!        +-- seal: header, certificate ------------- signed by --------+      its results ?= ---------+
//! ```
//!
//! Nothing is trusted but the genesis file: each block has to follow from the one below it by all rules that blocks and
//! their ancestors decide, the header that seals a batch has to be signed by the committee that follows from these blocks,
//! and the state that execution gives has to be the one that this header carries. What is missing or damaged is named.

use std::{path::Path, sync::Arc};

use cascade_consensus::{ChainContext, context::Rules};
use cascade_crypto::{BlsScheme, scheme::verify_certificate};
use cascade_da::batch::{BatchError, BatchReader, Manifest, Position};
use cascade_primitives::{B256, Block, Certificate, Committee, Decode as _, Genesis, Header, Height, SealedBlock};
use serde::Serialize;
use thiserror::Error;

use super::{GENESIS, MAX_FILE_BYTES, NEWEST, ReadError, Source, manifest_name};
use crate::node::{NodeError, Replay};

/// Why the state was not rebuilt.
#[derive(Debug, Error)]
pub enum RebuildError {
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file that has to be there is not.
    #[error("{0} is missing")]
    Missing(String),
    /// A file is not what it has to be.
    #[error("{name}: {what}")]
    Damaged {
        /// Which one.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// The batch does not hold what opens its blocks.
    #[error("batch {first} to {last} does not hold what opens its last blocks")]
    Unopened {
        /// Its first block.
        first: Height,
        /// Its last block.
        last: Height,
    },
    /// A batch or a piece of it is missing or damaged.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A block breaks a rule.
    #[error("block {height} of batch {first}: {what}")]
    Block {
        /// Its batch.
        first: Height,
        /// Its height.
        height: Height,
        /// The rule.
        what: String,
    },
    /// Execution gave another state than the final header says.
    #[error("block {height}: execution gives state root {found}, the final header says {expected}")]
    Root {
        /// The batch's last height.
        height: Height,
        /// The root that execution gives.
        found: B256,
        /// The root in the seal.
        expected: B256,
    },
    /// The temporary database.
    #[error(transparent)]
    Node(Box<NodeError>),
}

impl From<NodeError> for RebuildError {
    fn from(error: NodeError) -> Self {
        Self::Node(Box::new(error))
    }
}

/// What was rebuilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rebuilt {
    /// The last height.
    pub height: u64,
    /// The state root after it.
    pub state_root: B256,
    /// Whether it is the one that a final header carries.
    pub root_matches: bool,
}

/// The genesis file that lies with the batches.
///
/// # Errors
/// [`RebuildError`] if it is missing or no genesis file.
pub async fn genesis_of(source: &Source) -> Result<Genesis, RebuildError> {
    let bytes = source.get(GENESIS, MAX_FILE_BYTES).await?;
    let bytes = bytes.ok_or_else(|| RebuildError::Missing(GENESIS.to_owned()))?;
    let damaged = |what: String| RebuildError::Damaged { name: GENESIS.to_owned(), what };
    let genesis: Genesis = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    genesis.check().map_err(|error| damaged(error.to_string()))?;
    Ok(genesis)
}

/// A rebuild under way.
struct Rebuild {
    rules: Arc<Rules>,
    replay: Replay,
    context: ChainContext,
    position: Position,
}

/// Rebuilds the state with a database in `dir`, which must be empty. `progress` hears of each batch: its last height.
///
/// # Errors
/// [`RebuildError`]: what is missing or wrong, by name.
pub async fn rebuild(
    source: &Source,
    genesis: Genesis,
    dir: &Path,
    mut progress: impl FnMut(Height),
) -> Result<Rebuilt, RebuildError> {
    let newest = source.get(NEWEST, 64).await?.ok_or_else(|| RebuildError::Missing(NEWEST.to_owned()))?;
    let newest = std::str::from_utf8(&newest).ok().and_then(|text| text.trim().parse().ok()).map(Height);
    let newest = newest
        .ok_or_else(|| RebuildError::Damaged { name: NEWEST.to_owned(), what: "it holds no height".to_owned() })?;
    let rules = Arc::new(Rules::new(genesis));
    let (replay, context, root) = Replay::create(dir, &rules)?;
    let position = Position { height: Height(0), hash: context.hash, state_root: root };
    let mut work = Rebuild { rules, replay, context, position };
    let mut last = None;
    while work.position.height < newest {
        let first = work.position.height.next();
        let name = manifest_name(first);
        let bytes = source.get(&name, MAX_FILE_BYTES).await?;
        let bytes = bytes.ok_or_else(|| RebuildError::Missing(format!("batch {first} ({name})")))?;
        let manifest =
            Manifest::from_slice(&bytes).map_err(|error| RebuildError::Damaged { name, what: error.to_string() })?;
        let sealed_by_known = work.batch(source, &manifest).await?;
        progress(work.position.height);
        last = Some((manifest, sealed_by_known));
    }
    if let Some((manifest, false)) = &last {
        let (first, last) = (manifest.first(), manifest.last);
        let what = "the committee that seals the newest batch is not settled by the batches before it";
        return Err(BatchError::Manifest { first, last, what }.into());
    }
    Ok(Rebuilt { height: work.position.height.0, state_root: work.position.state_root, root_matches: last.is_some() })
}

impl Rebuild {
    /// Replays a batch. Answers whether the seal's committee is known from the blocks so far; if not, the next batch, which
    /// stands on this one, proves it.
    async fn batch(&mut self, source: &Source, manifest: &Manifest) -> Result<bool, RebuildError> {
        manifest.check_follows(&self.position)?;
        if manifest.chain != self.rules.signing {
            let (first, last) = (manifest.first(), manifest.last);
            return Err(BatchError::Manifest { first, last, what: "it is of another chain" }.into());
        }
        // All but the signature, which needs the committee that its blocks lead to.
        let expected = *manifest.check(|_, _| true)?;
        let mut reader = BatchReader::new(manifest);
        for index in 0..manifest.pieces.len() {
            let piece = source.piece(manifest.first(), index).await?;
            let piece = piece.ok_or(BatchError::PieceMissing { first: manifest.first(), missing: index })?;
            reader.push(index, &piece, |block| self.block(manifest.first(), block))?;
        }
        reader.finish()?;
        self.replay.opened(&manifest.seal.reveals)?;
        let unopened = RebuildError::Unopened { first: manifest.first(), last: manifest.last };
        let result = self.replay.result(manifest.last)?.ok_or(unopened)?;
        if result.state_root != expected.state_root {
            let (found, expected) = (result.state_root, expected.state_root);
            return Err(RebuildError::Root { height: manifest.last, found, expected });
        }
        self.position = Position { height: manifest.last, hash: manifest.last_hash, state_root: result.state_root };
        let known = self.committee_of(&manifest.seal.header);
        if let Some(committee) = &known {
            let certified = |_: &Header, certificate: &Certificate| {
                verify_certificate(&BlsScheme::default(), &self.rules.signing, committee, certificate).is_ok()
            };
            manifest.check(certified)?;
        }
        Ok(known.is_some())
    }

    fn committee_of(&self, header: &Header) -> Option<Arc<Committee>> {
        let candidates = [&self.context.committee, &self.context.next_committee];
        let found = candidates
            .into_iter()
            .find(|committee| committee.epoch() == header.epoch && committee.root() == header.committee_root);
        found.cloned()
    }

    fn block(&mut self, first: Height, block: Block) -> Result<(), RebuildError> {
        let block = Arc::new(SealedBlock::new(block));
        let height = block.header.height;
        let wrong = |what: String| RebuildError::Block { first, height, what };
        let before = self.context.clone();
        self.context = before.child(&self.rules, &block).map_err(|error| wrong(error.to_string()))?;
        Ok(self.replay.run(&block, &self.context)?)
    }
}
