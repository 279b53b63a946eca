//! The keys of the epochs that this node knows, shared between the actors and the RPC.
//!
//! An epoch number alone names no keys: if the next committee is made anew, the epoch gets others, and the actors learn of it
//! one after the other. So a block is opened and judged with the keys that the committee root in its header binds
//! ([`Keyring::of_block`]), and users' envelopes are taken for keys that the chain has agreed on ([`Keyring::agreed`]), which
//! are never replaced. Whoever does not find them waits.

use std::{collections::BTreeMap, sync::Arc};

use cascade_consensus::ChainContext;
use cascade_crypto::{
    BlsSecretKey,
    threshold::{EpochKeys, SeatMap, SecretShares, store},
};
use cascade_mempool::{keybook::KeyProgress, reveal::Holder};
use cascade_primitives::{B256, Committee, Decode as _, Epoch, Header, Height};
use cascade_storage::{ChainDb, KeyKind};
use parking_lot::RwLock;

use super::NodeError;

#[derive(Debug, Default)]
struct Ring {
    holders: BTreeMap<Epoch, Holder>,
    /// Roots of committees whose keys the chain has agreed on.
    agreed: BTreeMap<Epoch, B256>,
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
                ring.set_agreed(&holder.committee);
                ring.insert(holder);
            }
        }
        for committee in [&context.committee, &context.next_committee] {
            ring.set_agreed(committee);
            if let Some(holder) = load_holder(db, committee, owner)? {
                ring.insert(holder);
            }
        }
        Ok(ring)
    }

    /// The keys of the epoch that a block is of, as its header binds them, if they are known.
    #[must_use]
    pub fn of_block(&self, header: &Header) -> Option<Holder> {
        let ring = self.0.read();
        ring.holders.get(&header.epoch).filter(|holder| holder.committee_root() == header.committee_root).cloned()
    }

    /// The keys that this node has for a committee: made under this attempt, whether the chain has agreed on them or not.
    #[must_use]
    pub fn of_committee(&self, committee: &Committee) -> Option<Holder> {
        let ring = self.0.read();
        let holder = ring.holders.get(&committee.epoch())?;
        (holder.committee.members_root() == committee.members_root()).then(|| holder.clone())
    }

    /// The keys of an epoch, if they are known and the chain has agreed on them.
    #[must_use]
    pub fn agreed(&self, epoch: Epoch) -> Option<Holder> {
        self.agreed_from(epoch).into_iter().next().filter(|holder| holder.keys.epoch == epoch)
    }

    /// The keys of this and later epochs that are known and that the chain has agreed on, lowest epoch first.
    #[must_use]
    pub fn agreed_from(&self, epoch: Epoch) -> Vec<Holder> {
        let ring = self.0.read();
        let agreed = |holder: &&Holder| ring.agreed.get(&holder.keys.epoch) == Some(&holder.committee_root());
        ring.holders.range(epoch..).map(|(_, holder)| holder).filter(agreed).cloned().collect()
    }

    /// The chain says who votes in an epoch, and perhaps with which keys.
    pub fn set_agreed(&self, committee: &Committee) {
        if committee.threshold_keys().0.is_some() {
            self.0.write().agreed.insert(committee.epoch(), committee.root());
        }
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
        ring.agreed = ring.agreed.split_off(&epoch);
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
    let agreed = committee.threshold_keys();
    if agreed.0.is_some() && keys.commitment() != *agreed {
        // The log says which are right, and is read again.
        tracing::error!(%epoch, "the stored keys of an epoch are not those that the chain agreed on");
        return Ok(None);
    }
    let secret = match (owner, db.key(KeyKind::Shares, epoch, &committee.members_root())?) {
        (Some(owner), Some(record)) => Some(open_shares(owner, &keys, committee, &record).map_err(damaged)?),
        _ => None,
    };
    Ok(Some(Holder::new(Arc::new(keys), Arc::clone(committee), secret)))
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
