//! The keys of the epochs that this node knows, shared between the actors and the RPC.

use std::{collections::BTreeMap, sync::Arc};

use cascade_consensus::ChainContext;
use cascade_crypto::{
    BlsSecretKey,
    threshold::{EpochKeys, SeatMap, SecretShares, store},
};
use cascade_mempool::{keybook::KeyProgress, reveal::Holder};
use cascade_primitives::{Committee, Decode as _, Epoch, Height};
use cascade_storage::{ChainDb, KeyKind};
use parking_lot::RwLock;

use super::NodeError;

#[derive(Debug, Default)]
struct Ring {
    holders: BTreeMap<Epoch, Holder>,
    progress: Option<(Epoch, KeyProgress)>,
}

/// The shared keyring. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Keyring(Arc<RwLock<Ring>>);

impl Keyring {
    /// Reads what is stored of the keys from the epoch of the oldest block that is not executed on, up to the next epoch.
    ///
    /// # Errors
    /// If the database fails, or holds a record that is damaged.
    pub fn load(
        db: &ChainDb,
        context: &ChainContext,
        executed: Height,
        owner: Option<&BlsSecretKey>,
    ) -> Result<Self, NodeError> {
        let ring = Self::default();
        let oldest = db.header(executed.next().min(context.height))?.map_or(context.epoch, |(_, header)| header.epoch);
        for epoch in (oldest.0..context.epoch.0).map(Epoch) {
            if let Some(committee) = db.committee(epoch)?
                && let Some(holder) = load_holder(db, &Arc::new(committee), owner)?
            {
                ring.insert(holder);
            }
        }
        for committee in [&context.committee, &context.next_committee] {
            if let Some(holder) = load_holder(db, committee, owner)? {
                ring.insert(holder);
            }
        }
        Ok(ring)
    }

    /// The keys of an epoch, if they are made.
    #[must_use]
    pub fn get(&self, epoch: Epoch) -> Option<Holder> {
        self.0.read().holders.get(&epoch).cloned()
    }

    /// The keys of an epoch are made.
    pub fn insert(&self, holder: Holder) {
        self.0.write().holders.insert(holder.keys.epoch, holder);
    }

    /// The keys of an epoch are made anew.
    pub fn remove(&self, epoch: Epoch) {
        self.0.write().holders.remove(&epoch);
    }

    /// Blocks of earlier epochs are all opened.
    pub fn forget_before(&self, epoch: Epoch) {
        let mut ring = self.0.write();
        ring.holders = ring.holders.split_off(&epoch);
    }

    /// This node's shares of earlier epochs are erased; the public keys stay.
    pub fn erase_secrets_before(&self, epoch: Epoch) {
        for (_, holder) in self.0.write().holders.range_mut(..epoch) {
            holder.secret = None;
        }
    }

    /// All of them, lowest epoch first.
    #[must_use]
    pub fn all(&self) -> Vec<Holder> {
        self.0.read().holders.values().cloned().collect()
    }

    /// How far the keys of the epoch are that are being made.
    #[must_use]
    pub fn progress(&self) -> Option<(Epoch, KeyProgress)> {
        self.0.read().progress
    }

    /// Key generation goes on.
    pub fn set_progress(&self, epoch: Epoch, progress: KeyProgress) {
        self.0.write().progress = Some((epoch, progress));
    }
}

fn load_holder(
    db: &ChainDb,
    committee: &Arc<Committee>,
    owner: Option<&BlsSecretKey>,
) -> Result<Option<Holder>, NodeError> {
    let epoch = committee.epoch();
    let damaged = |what: String| NodeError::Damaged { path: db.path().to_owned(), what };
    let Some(record) = db.key(KeyKind::Public, epoch, &committee.members_root())? else { return Ok(None) };
    let keys = EpochKeys::from_slice(&record).map_err(|error| damaged(error.to_string()))?;
    let secret = match (owner, db.key(KeyKind::Shares, epoch, &committee.members_root())?) {
        (Some(owner), Some(record)) => Some(open_shares(owner, &keys, committee, &record).map_err(damaged)?),
        _ => None,
    };
    Ok(Some(Holder { keys: Arc::new(keys), committee: Arc::clone(committee), secret }))
}

fn open_shares(
    owner: &BlsSecretKey,
    keys: &EpochKeys,
    committee: &Committee,
    record: &[u8],
) -> Result<Arc<SecretShares>, String> {
    let shares = store::open_shares(owner, keys.epoch, record).map_err(|error| error.to_string())?;
    let seats = SeatMap::of(committee).map_err(|error| error.to_string())?;
    if !shares.belong_to(keys, &seats) {
        return Err(format!("the stored key shares of epoch {} are not those of its keys", keys.epoch));
    }
    Ok(Arc::new(shares))
}
