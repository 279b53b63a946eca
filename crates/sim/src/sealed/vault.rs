//! What a node's database holds of keys and reveals.
//!
//! A record of keys is synced before the node goes on, so a crash takes none. What opened a block is written with the
//! block's result and lost with it.

use std::{collections::BTreeMap, sync::Arc};

use cascade_primitives::{B256, Epoch, Height, Reveal};

/// A kind of record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The epoch's public keys.
    Public,
    /// The secret of the node's encryption key.
    Recipient,
    /// The node's shares.
    Shares,
}

#[derive(Debug, Default)]
pub(crate) struct Vault {
    /// One record of each kind and epoch, with the root of the committee that it was made for.
    keys: BTreeMap<(Kind, Epoch), (B256, Vec<u8>)>,
    reveals: BTreeMap<Height, Arc<Reveal>>,
}

impl Vault {
    pub(super) fn put_key(&mut self, kind: Kind, epoch: Epoch, root: B256, record: Vec<u8>) {
        self.keys.insert((kind, epoch), (root, record));
    }

    pub(super) fn key(&self, kind: Kind, epoch: Epoch, root: &B256) -> Option<&[u8]> {
        self.keys.get(&(kind, epoch)).filter(|(of, _)| of == root).map(|(_, record)| record.as_slice())
    }

    /// Whether the node can help to open blocks of an epoch, with keys made for this committee.
    pub(crate) fn has_shares(&self, epoch: Epoch, root: &B256) -> bool {
        self.key(Kind::Shares, epoch, root).is_some()
    }

    pub(super) fn erase_secrets_before(&mut self, epoch: Epoch) {
        self.keys.retain(|(kind, of), _| *kind == Kind::Public || *of >= epoch);
    }

    pub(crate) fn put_reveal(&mut self, reveal: Arc<Reveal>) {
        self.reveals.insert(reveal.height, reveal);
    }

    pub(crate) fn reveal(&self, height: Height) -> Option<&Arc<Reveal>> {
        self.reveals.get(&height)
    }

    /// Loses what opened the blocks above a height.
    pub(crate) fn truncate(&mut self, last_result: Height) {
        self.reveals.split_off(&last_result.next());
    }

    /// Loses everything.
    pub(crate) fn wipe(&mut self) {
        *self = Self::default();
    }
}
