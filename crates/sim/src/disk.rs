//! A node's disk: what a crash leaves of it.
//!
//! The vote log and the sign-state are synced by every [`cascade_consensus::Effect::Persist`]; final blocks and results are
//! appended and synced now and then. A crash takes all appended blocks after the last sync, or the end of them; of a
//! `Persist` whose sync is still under way, it leaves nothing, the log's records or the first of them, the sign-state,
//! or both.
//!
//! A bit that turns while the node is down is found when it starts: everything is stored with a checksum ([`frame`]).
//! What follows is what the storage crate does with its files:
//!
//! | damaged | outcome |
//! |---|---|
//! | the log's last batch | cut off from there on, as after a crash; the sign-state still knows the votes |
//! | anything older in the log, a block, a result | the node refuses to start; its data is taken away, peers have it |
//! | the newer half of the sign-state | the older half and the log's votes count |

use std::{fmt, sync::Arc};

use cascade_consensus::{ChainContext, FinalChain, Finality, Record, SignState, Start};
use cascade_primitives::{Body, Decode, Encode, Header, Height, ResultEntry, SealedBlock};
use sha2::{Digest, Sha256};

use crate::{rng::Rng, sealed::vault::Vault};

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
    /// Where the log's last batch begins.
    last_batch: usize,
    sign_state: Option<SignState>,
    /// What the other half of the sign-state's file holds.
    older_sign_state: Option<SignState>,
    pending: Vec<Pending>,
    /// What one place really holds, where that is not what was written.
    damage: Option<(Place, Vec<u8>)>,
    /// Of an encrypted chain.
    pub(crate) vault: Vault,
}

/// Something that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Log(usize),
    Block(usize),
    Result(usize),
    SignState,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(at) => write!(f, "record {at} of the vote log"),
            Self::Block(height) => write!(f, "block {height}"),
            Self::Result(height) => write!(f, "the result of {height}"),
            Self::SignState => f.write_str("the sign-state"),
        }
    }
}

/// What a crash may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    /// What was not synced.
    pub(crate) unsynced: bool,
    /// A part of what was being written.
    pub(crate) torn: bool,
    /// Of blocks and results all that was not synced, never a part.
    pub(crate) all: bool,
}

/// What a crash took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lost {
    pub(crate) unsynced: bool,
    pub(crate) torn: bool,
}

/// Bytes with a checksum in front.
fn frame(bytes: &[u8]) -> Vec<u8> {
    let mut framed = Sha256::digest(bytes)[..8].to_vec();
    framed.extend_from_slice(bytes);
    framed
}

/// The bytes, if they are what was framed.
fn unframe<T: Decode>(framed: &[u8]) -> Option<T> {
    let (checksum, bytes) = framed.split_at_checked(8)?;
    if Sha256::digest(bytes)[..8] != *checksum {
        return None;
    }
    T::from_slice(bytes).ok()
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
            last_batch: 0,
            sign_state: None,
            older_sign_state: None,
            pending: Vec::new(),
            damage: None,
            vault: Vault::default(),
        }
    }

    /// Final blocks, the newest height whose result is stored, and what is stored of keys and reveals.
    pub(crate) fn parts(&mut self) -> (&[Stored], Height, &mut Vault) {
        let executed = self.last_result().height;
        (&self.blocks, executed, &mut self.vault)
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
            self.write_log(done.records);
            self.write_sign_state(done.sign_state);
        }
    }

    fn write_log(&mut self, records: Vec<Record>) {
        // A sync of nothing is no batch.
        if !records.is_empty() {
            self.last_batch = self.log.len();
        }
        self.log.extend(records);
    }

    fn write_sign_state(&mut self, state: SignState) {
        self.older_sign_state = self.sign_state.replace(state);
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
        self.last_batch = live.len();
        self.log = live;
    }

    /// What a crash leaves.
    pub(crate) fn crash(&mut self, now: u64, take: Taken, rng: &mut Rng) -> Lost {
        self.sync_log(now);
        let mut lost = Lost::default();
        for write in std::mem::take(&mut self.pending) {
            // What was not synced may be on the disk all the same, from the oldest on.
            match rng.below(6) {
                1 if take.torn => self.write_log(write.records),
                2 if take.torn => self.write_sign_state(write.sign_state),
                3 if take.torn => {
                    let kept = rng.below(write.records.len() as u64 + 1) as usize;
                    self.write_log(write.records.into_iter().take(kept).collect());
                }
                4.. if take.unsynced => {
                    lost.unsynced = true;
                    break;
                }
                _ => {
                    self.write_log(write.records);
                    self.write_sign_state(write.sign_state);
                    continue;
                }
            }
            lost.torn = true;
            break;
        }
        if take.unsynced {
            let most = if take.all { self.synced_blocks } else { self.blocks.len() };
            let kept = rng.between(self.synced_blocks as u64, most as u64) as usize;
            lost.unsynced |= kept < self.blocks.len();
            self.blocks.truncate(kept);
            let kept = rng.between(self.synced_results as u64, self.results.len().max(self.synced_results) as u64);
            self.results.truncate((kept as usize).min(self.blocks.len()));
        }
        self.results.truncate(self.blocks.len());
        self.vault.truncate(self.last_result().height);
        self.synced_blocks = self.blocks.len();
        self.synced_results = self.results.len();
        lost
    }

    /// Turns a bit of something that is stored. Answers false if there is nothing yet.
    pub(crate) fn flip(&mut self, rng: &mut Rng) -> bool {
        let mut at = |len: usize| rng.below(len as u64) as usize;
        let place = match at(5) {
            0 | 1 if !self.log.is_empty() => Place::Log(at(self.log.len())),
            2 if self.last_batch < self.log.len() => Place::Log(self.last_batch + at(self.log.len() - self.last_batch)),
            3 if self.older_sign_state.is_some() && !self.log.is_empty() => Place::SignState,
            4 if self.results.len() > 1 => Place::Result(1 + at(self.results.len() - 1)),
            _ if self.blocks.len() > 1 => Place::Block(1 + at(self.blocks.len() - 1)),
            _ => return false,
        };
        let mut bytes = frame(&match place {
            Place::Log(at) => self.log[at].to_bytes(),
            Place::Block(height) => self.blocks[height].block.to_bytes(),
            Place::Result(height) => self.results[height].to_bytes(),
            Place::SignState => self.sign_state.as_ref().map(Encode::to_bytes).unwrap_or_default(),
        });
        let bit = at(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        self.damage = Some((place, bytes));
        true
    }

    /// Reads back what a bit may have turned in, as a starting node does. What passes its checksum is used as it is.
    ///
    /// # Errors
    /// The place, if what it holds is not what was written and cannot be done without.
    pub(crate) fn open(&mut self) -> Result<(), Place> {
        let Some((place, bytes)) = self.damage.take() else { return Ok(()) };
        match place {
            Place::Log(at) => match unframe(&bytes) {
                Some(record) => self.log[at] = record,
                None if at >= self.last_batch => self.log.truncate(at),
                None => return Err(place),
            },
            Place::Block(height) => self.blocks[height].block = Arc::new(unframe(&bytes).ok_or(place)?),
            Place::Result(height) => self.results[height] = unframe(&bytes).ok_or(place)?,
            Place::SignState => {
                let newest = unframe(&bytes);
                self.sign_state = newest.or_else(|| self.older_sign_state.clone());
            }
        }
        Ok(())
    }

    /// Loses everything but the sign-state; of an encrypted chain also its shares.
    pub(crate) fn wipe(&mut self) {
        self.blocks.truncate(1);
        self.results.truncate(1);
        self.synced_blocks = 1;
        self.synced_results = 1;
        self.log.clear();
        self.last_batch = 0;
        self.pending.clear();
        self.damage = None;
        self.vault.wipe();
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

#[cfg(test)]
mod tests {
    use cascade_primitives::B256;

    use super::*;

    #[test]
    fn no_bit_can_turn_unnoticed() {
        let entry = ResultEntry { height: Height(7), state_root: B256::repeat_byte(3), ..ResultEntry::default() };
        let framed = frame(&entry.to_bytes());
        assert_eq!(unframe(&framed), Some(entry));
        for bit in 0..framed.len() * 8 {
            let mut damaged = framed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unframe::<ResultEntry>(&damaged), None, "bit {bit}");
        }
    }
}
