//! Which final header seals a batch: one that carries the results of the batch's last block and has a commit certificate of
//! its own, or fillers that have one.
//!
//! ```text
//!   ..  last  ..  due  ..............................  header  ..
//!       of the batch before                              | results of heights from `due` on; a certificate of its own
//!            <------- none of these has both -------->
//! ```
//!
//! One certificate may make a long run of blocks final. None of them carries results before the run's own certificate
//! stands in a block above it, so the header may be as far away as the longest run is, while the batch stays short. What
//! was looked through is not read again, but for the newest heights, whose certificates may still come.

use std::sync::Arc;

use cascade_primitives::{BlockHash, Header, Height};
use cascade_storage::{ChainDb, StorageError};

use crate::node::LightDoor;

/// Blocks below the newest one that are looked at again: a certificate of their own may be stored later.
const RECENT: u64 = 64;

/// What a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The batch's last block, and the header that seals it.
    Seal(Height, Box<Header>),
    /// Nothing among the final blocks so far.
    NotYet,
    /// Nothing that leaves the batch as short as it has to be.
    TooLong,
}

/// Searches for headers that seal batches.
pub(super) struct Seals {
    db: Arc<ChainDb>,
    door: Arc<LightDoor>,
    /// The height that is searched for,
    due: Height,
    /// and up to where it was.
    pub(super) looked: Height,
}

impl Seals {
    pub(super) const fn new(db: Arc<ChainDb>, door: Arc<LightDoor>) -> Self {
        Self { db, door, due: Height(0), looked: Height(0) }
    }

    /// The newest of these heights whose results the header carries, if it can seal a batch.
    fn sealed(
        &self,
        (hash, header): (&BlockHash, &Header),
        mut wanted: impl FnMut(Height) -> bool,
    ) -> Result<Option<Height>, StorageError> {
        let last = header.results.iter().rev().map(|result| result.height).find(|height| wanted(*height));
        Ok(if last.is_some() && self.door.finality(header.height, hash)?.is_some() { last } else { None })
    }

    /// The first header that seals a batch whose last block is one of `due` to `most`, and executed: at most `safe`.
    pub(super) fn first(&mut self, due: Height, most: Height, safe: Height) -> Result<Found, StorageError> {
        if self.due != due {
            (self.due, self.looked) = (due, due);
        }
        for height in (self.looked.0 + 1..).map(Height) {
            let Some((hash, header)) = self.db.header(height)? else { break };
            if header.results.first().is_some_and(|result| result.height > most) {
                return Ok(if most <= safe { Found::TooLong } else { Found::NotYet });
            }
            let wanted = |height| (due..=most.min(safe)).contains(&height);
            if let Some(last) = self.sealed((&hash, &header), wanted)? {
                return Ok(Found::Seal(last, Box::new(header)));
            }
            if header.results.last().is_some_and(|result| result.height > safe) {
                break;
            }
            self.looked = self.looked.max(height.minus(RECENT));
        }
        Ok(Found::NotYet)
    }

    /// The last block above `before` and below `end` that can be sealed, with its header.
    pub(super) fn last(&self, before: Height, end: Height) -> Result<Option<(Height, Box<Header>)>, StorageError> {
        let mut found = None;
        for height in (before.0 + 1..).map(Height) {
            let Some((hash, header)) = self.db.header(height)? else { break };
            if header.results.first().is_some_and(|result| result.height >= end) {
                break;
            }
            if let Some(last) = self.sealed((&hash, &header), |height| height > before && height < end)? {
                found = Some((last, Box::new(header)));
            }
        }
        Ok(found)
    }
}
