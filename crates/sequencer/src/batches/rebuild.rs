//! Rebuilds the chain's state from batches alone.
//!
//! ```text
//!   manifest --seal's committee known?--> certificate holds? --no--> refused before a piece is fetched
//!      |
//!   pieces --decompress--> block --rules of the chain--> context (committees) --execute--> state
//!                            |                                |                              |
//!                            +-- certificates in it: every 16th block's, all while the       |
//!                                seal's committee is open    |                               |
//!   seal: header, certificate ---------------- signed by ----+    all of its results ?= -----+
//! ```
//!
//! Nothing is trusted but the genesis file. Of what `rebuild` answers this holds:
//!
//! - each block follows from the one below it by all rules that blocks and their ancestors decide;
//! - the header that seals a batch is certified by the committee of its epoch that these blocks lead to, and its history
//!   contains the batch's last block. There is no exception: a header that carries the results of `last` is of the epoch of
//!   `last`, or of the next one. In the next it is only when `last` is above the epoch's last height with content, since
//!   the epoch does not end before that height's results stand in a header; and from that height on no block changes who
//!   is in the next committee, or its keys. So the blocks up to `last` always settle who has to sign;
//! - what execution gave for the last block is, in all its parts, what that header carries.
//!
//! Where a chain ends is not proved: an archive may leave out its newest batches. So the time of the last block is answered
//! too.
//!
//! A hostile archive costs little. If the blocks before a batch settle the committee of its seal, as they do but at the ends
//! of epochs, the seal is verified before anything is fetched. Otherwise the certificates in each block are. In any batch
//! those in every 16th block are, and in the first one of an epoch. So of a forged history at most 16 blocks are executed and
//! stored. A piece is at most 4 MiB and all of a batch's little more than the content that they can hold.
//!
//! What is missing or damaged is named. A directory that is kept goes on where it was interrupted: a batch whose blocks are
//! there is not fetched and executed again, but is checked again, block by block and with its seal.

use std::{path::Path, sync::Arc};

use cascade_consensus::{
    ChainContext,
    context::{Rules, certificates},
};
use cascade_crypto::{BlsScheme, scheme::verify_certificate};
use cascade_da::batch::{BatchError, BatchReader, Manifest, Position};
use cascade_primitives::{
    B256, Certificate, Committee, Decode as _, Genesis, Header, Height, ResultEntry, SealedBlock,
};
use serde::Serialize;
use thiserror::Error;

use super::{GENESIS, MAX_FILE_BYTES, NEWEST, ReadError, Source, manifest_name};
use crate::{
    config::check_genesis,
    node::{Cause, NodeError, Replay},
};

/// In blocks at multiples of this height the certificates are verified.
const CERTIFIED_EVERY: u64 = 16;

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
    /// Blocks that follow the rules for blocks hold what cannot be executed.
    #[error("batch {first} to {last} is damaged: {what}")]
    Content {
        /// Its first block.
        first: Height,
        /// Its last block.
        last: Height,
        /// What is wrong.
        what: String,
    },
    /// Execution gave something else than the final header says.
    #[error("batch {first}: execution of block {height} gives {what} {found}, the final header says {expected}")]
    Result {
        /// The batch's first height.
        first: Height,
        /// Its last height.
        height: Height,
        /// Which part of the results.
        what: &'static str,
        /// What execution gives.
        found: String,
        /// What the seal says.
        expected: String,
    },
    /// There is nothing to rebuild from.
    #[error("there is no batch: {NEWEST} {0}")]
    Empty(&'static str),
    /// The database.
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
    /// The hash of the genesis file: which chain it is.
    pub genesis_hash: B256,
    /// The last height.
    pub height: u64,
    /// The time of the block there, in ms since 1970.
    pub timestamp_ms: u64,
    /// The state root after it.
    pub state_root: B256,
    /// That it is the one that a final header carries: nothing else is answered.
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
    check_genesis(&genesis, Path::new(GENESIS)).map_err(|error| damaged(error.to_string()))?;
    Ok(genesis)
}

/// A rebuild under way.
struct Rebuild {
    rules: Arc<Rules>,
    replay: Replay,
    context: ChainContext,
    position: Position,
}

/// Rebuilds the state with a database in `dir`, which is empty or the one of an earlier rebuild of the same chain.
/// `progress` hears of each batch: its last height.
///
/// # Errors
/// [`RebuildError`]: what is missing or wrong, by name.
pub async fn rebuild(
    source: &Source,
    genesis: Genesis,
    dir: &Path,
    mut progress: impl FnMut(Height),
) -> Result<Rebuilt, RebuildError> {
    let newest = source.get(NEWEST, 64).await?.ok_or(RebuildError::Empty("is missing"))?;
    let newest = std::str::from_utf8(&newest).ok().and_then(|text| text.trim().parse().ok()).map(Height);
    let newest = newest
        .ok_or_else(|| RebuildError::Damaged { name: NEWEST.to_owned(), what: "it holds no height".to_owned() })?;
    if newest == Height(0) {
        return Err(RebuildError::Empty("is 0"));
    }
    let rules = Arc::new(Rules::new(genesis));
    let (replay, context, root) = Replay::open(dir, &rules)?;
    let position = Position { height: Height(0), hash: context.hash, state_root: root };
    let mut work = Rebuild { rules, replay, context, position };
    while work.position.height < newest {
        let first = work.position.height.next();
        let name = manifest_name(first);
        let bytes = source.get(&name, MAX_FILE_BYTES).await?;
        let bytes = bytes.ok_or_else(|| RebuildError::Missing(format!("batch {first} ({name})")))?;
        let manifest =
            Manifest::from_slice(&bytes).map_err(|error| RebuildError::Damaged { name, what: error.to_string() })?;
        work.batch(source, &manifest).await?;
        progress(work.position.height);
    }
    work.replay.sync()?;
    Ok(Rebuilt {
        genesis_hash: work.rules.signing.genesis_hash,
        height: work.position.height.0,
        timestamp_ms: work.context.timestamp.0,
        state_root: work.position.state_root,
        root_matches: true,
    })
}

impl Rebuild {
    /// Replays a batch.
    async fn batch(&mut self, source: &Source, manifest: &Manifest) -> Result<(), RebuildError> {
        let (first, last) = (manifest.first(), manifest.last);
        let wrong = |what| BatchError::Manifest { first, last, what };
        manifest.check_follows(&self.position)?;
        if manifest.chain != self.rules.signing {
            return Err(wrong("it is of another chain").into());
        }
        // All but the signature, which needs the committee that its blocks lead to.
        let expected = *manifest.check(|_, _| true)?;
        let known = self.sealer(&manifest.seal.header);
        match &known {
            Some(committee) => self.check_seal(manifest, committee)?,
            None if self.may_reach(manifest) => {}
            None => return Err(wrong("it is not sealed by the committee of its epoch").into()),
        }
        if self.replay.has(last, &manifest.last_hash)? {
            for height in (first.0..=last.0).map(Height) {
                let block = self.replay.block(height)?;
                self.block(manifest, block, known.is_some())?;
            }
        } else {
            self.pieces(source, manifest, known.is_some()).await?;
        }
        // The blocks may have changed the next committee, or led beyond it.
        match (self.sealer(&manifest.seal.header), known) {
            (Some(committee), None) => self.check_seal(manifest, &committee)?,
            (Some(committee), Some(before)) if committee == before => {}
            _ => return Err(wrong("it is not sealed by the committee that its blocks lead to").into()),
        }
        self.replay.opened(&manifest.seal.reveals).map_err(|error| forged(manifest, error))?;
        let result = self.replay.result(last)?.ok_or(RebuildError::Unopened { first, last })?;
        check_result(first, &result, &expected)?;
        self.position = Position { height: last, hash: manifest.last_hash, state_root: result.state_root };
        Ok(())
    }

    async fn pieces(&mut self, source: &Source, manifest: &Manifest, sealed: bool) -> Result<(), RebuildError> {
        let first = manifest.first();
        let mut reader = BatchReader::new(manifest);
        for index in 0..manifest.pieces.len() {
            let piece = source.piece(first, index).await?;
            let piece = piece.ok_or(BatchError::PieceMissing { first, missing: index })?;
            reader.push(index, &piece, |block| self.block(manifest, SealedBlock::new(block), sealed))?;
        }
        Ok(reader.finish()?)
    }

    /// The committee that has to sign this header, if the blocks so far settle it.
    fn sealer(&self, header: &Header) -> Option<Arc<Committee>> {
        let candidates = [&self.context.committee, &self.context.next_committee];
        let found = candidates
            .into_iter()
            .find(|committee| committee.epoch() == header.epoch && committee.root() == header.committee_root);
        found.cloned()
    }

    /// Whether the batch's blocks can settle the committee of its seal: that of the next epoch, or of a later one, which is as
    /// many blocks away as epochs have.
    fn may_reach(&self, manifest: &Manifest) -> bool {
        let blocks = manifest.last.0 - manifest.before.height.0;
        let most = self.context.epoch.plus(2 + blocks / self.rules.params().epoch_length.max(1));
        manifest.seal.header.epoch > self.context.epoch && manifest.seal.header.epoch <= most
    }

    fn check_seal(&self, manifest: &Manifest, committee: &Committee) -> Result<(), RebuildError> {
        let certified = |_: &Header, certificate: &Certificate| self.holds(certificate, committee).is_ok();
        Ok(manifest.check(certified).map(|_| ())?)
    }

    fn holds(&self, certificate: &Certificate, committee: &Committee) -> Result<(), String> {
        verify_certificate(&BlsScheme::default(), &self.rules.signing, committee, certificate)
            .map_err(|error| error.to_string())
    }

    /// Checks the next block and executes it. `sealed` says that the batch's seal holds.
    fn block(&mut self, manifest: &Manifest, block: SealedBlock, sealed: bool) -> Result<(), RebuildError> {
        let (block, first) = (Arc::new(block), manifest.first());
        let height = block.header.height;
        let wrong = |what: String| RebuildError::Block { first, height, what };
        let next = self.context.child(&self.rules, &block).map_err(|error| wrong(error.to_string()))?;
        if !sealed || height.0.is_multiple_of(CERTIFIED_EVERY) || next.epoch != self.context.epoch {
            for (certificate, committee) in certificates(&self.context, &block) {
                self.holds(certificate, committee).map_err(|what| wrong(format!("a certificate in it: {what}")))?;
            }
        }
        self.context = next;
        self.replay.run(&block, &self.context).map_err(|error| forged(manifest, error))
    }
}

/// What contradicts the rules of execution here is the batch, and not this program.
fn forged(manifest: &Manifest, error: NodeError) -> RebuildError {
    match error {
        NodeError::Stopped(Cause::Diverged(what)) => {
            RebuildError::Content { first: manifest.first(), last: manifest.last, what }
        }
        other => other.into(),
    }
}

fn check_result(first: Height, found: &ResultEntry, expected: &ResultEntry) -> Result<(), RebuildError> {
    let parts = |entry: &ResultEntry| {
        [
            ("state root", entry.state_root.to_string()),
            ("receipts root", entry.receipts_root.to_string()),
            ("gas", entry.gas_used.to_string()),
            ("beacon", entry.beacon.to_string()),
            ("root of reveals", entry.reveals_root.to_string()),
            ("height", entry.height.to_string()),
        ]
    };
    let height = expected.height;
    match parts(found).into_iter().zip(parts(expected)).find(|(found, expected)| found != expected) {
        Some(((what, found), (_, expected))) => Err(RebuildError::Result { first, height, what, found, expected }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_results_is_compared() {
        let word = B256::repeat_byte(7);
        let right = ResultEntry { height: Height(9), ..ResultEntry::default() };
        assert!(check_result(Height(5), &right, &right).is_ok());
        let wrong = [
            ("state root", ResultEntry { state_root: word, ..right }),
            ("receipts root", ResultEntry { receipts_root: word, ..right }),
            ("gas", ResultEntry { gas_used: 1, ..right }),
            ("beacon", ResultEntry { beacon: word, ..right }),
            ("root of reveals", ResultEntry { reveals_root: word, ..right }),
            ("height", ResultEntry { height: Height(8), ..right }),
        ];
        for (name, wrong) in wrong {
            match check_result(Height(5), &right, &wrong) {
                Err(RebuildError::Result { what, .. }) => assert_eq!(what, name),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}
