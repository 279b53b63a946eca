//! When an epoch must end, and with which committee the next one begins: decision 7, written out once more, from the
//! final chain alone.

use std::{collections::BTreeMap, sync::Arc};

use cascade_consensus::{
    Rules,
    seats::{committee_of, scheduled_committee},
};
use cascade_primitives::{
    Committee, Epoch, Header, Height, NodeId, SealedBlock, SystemItem, ThresholdKeys, TransactionRule,
};

/// The epoch that the chain is in.
#[derive(Debug)]
pub(super) struct Epochs {
    epoch: Epoch,
    committee: Arc<Committee>,
    /// Who takes over, as far as that is settled.
    pub(super) next: Arc<Committee>,
    /// Last height that may carry transactions.
    content_end: Height,
    /// That of the two epochs before, oldest first; none of epochs before the first.
    ends: [Option<Height>; 2],
    extensions: u64,
    /// How often the next committee was made anew in this epoch.
    attempt: u32,
    /// Who is ready, and the keys that it named.
    ready: BTreeMap<NodeId, ThresholdKeys>,
    /// How often candidates who were not ready were dropped.
    pub(super) dropped: u64,
}

fn scheduled(rules: &Rules, epoch: Epoch) -> Arc<Committee> {
    Arc::new(scheduled_committee(&rules.genesis, epoch).expect("the schedule was checked"))
}

impl Epochs {
    pub(super) fn new(rules: &Rules, committee: Arc<Committee>) -> Self {
        Self {
            epoch: Epoch(0),
            committee,
            next: scheduled(rules, Epoch(1)),
            content_end: Height(rules.params().epoch_length - 1),
            ends: [None; 2],
            extensions: 0,
            attempt: 0,
            ready: BTreeMap::new(),
            dropped: 0,
        }
    }

    /// An epoch ends with the first block whose chain carries the results of its last content height, and never
    /// sooner.
    pub(super) fn check(&self, header: &Header, last_result: Height, new_epoch: bool) -> Result<(), String> {
        if new_epoch == (last_result >= self.content_end) {
            return Ok(());
        }
        let (epoch, end) = (self.epoch, self.content_end);
        Err(format!(
            "block {} is of epoch {}, while epoch {epoch} takes content up to {end}",
            header.height, header.epoch
        ))
    }

    /// The next epoch begins.
    pub(super) fn begin(&mut self, rules: &Rules, first: &Header) -> Result<Arc<Committee>, String> {
        if first.committee_root != self.next.root() {
            return Err(format!("the committee of epoch {} is not the one that the chain settled", first.epoch));
        }
        self.epoch = first.epoch;
        self.ends = [self.ends[1], Some(self.content_end)];
        self.committee = Arc::clone(&self.next);
        self.next = scheduled(rules, first.epoch.next());
        self.content_end = Height(first.height.0 - 1 + rules.params().epoch_length);
        (self.extensions, self.attempt) = (0, 0);
        self.ready.clear();
        Ok(Arc::clone(&self.committee))
    }

    /// Up to where beacons can make the seed of this epoch: the last content height of the epoch two before.
    pub(super) const fn seed_height(&self) -> Option<Height> {
        self.ends[0]
    }

    /// Takes up a final block of the epoch.
    pub(super) fn follow(&mut self, rules: &Rules, block: &SealedBlock) {
        let ready = |item: &SystemItem| match item {
            SystemItem::Ready(ready) => Some((ready.node, ready.keys)),
            SystemItem::RecipientKey(_) | SystemItem::Dealing(_) => None,
        };
        self.ready.extend(block.body.system.iter().filter_map(ready));
        if let Some(keys) = self.agreed() {
            self.next = Arc::new(self.next.with_keys(keys));
        }
        // Epoch 0 of an encrypted chain is over as soon as its successor is ready.
        if is_encrypted(rules) && self.epoch == Epoch(0) && self.agreed().is_some() {
            self.content_end = self.content_end.min(block.header.height);
        }
        if block.header.height == self.content_end {
            self.settle(rules);
        }
    }

    /// Seats of the next committee whose members named these keys.
    fn seats_for(&self, keys: &ThresholdKeys) -> u32 {
        let named = |node: &NodeId| self.ready.get(node) == Some(keys);
        self.next.members().iter().filter(|m| named(&m.node)).map(|m| m.seats.0).sum()
    }

    /// The keys for which there are most seats; the lower ones of two with as many.
    fn favoured(&self) -> Option<ThresholdKeys> {
        let mut named: Vec<ThresholdKeys> = self.ready.values().copied().collect();
        named.sort_by_key(|keys| (u32::MAX - self.seats_for(keys), *keys));
        named.first().copied()
    }

    /// The keys that a quorum of seats names: the epoch can end.
    fn agreed(&self) -> Option<ThresholdKeys> {
        let total: u32 = self.next.members().iter().map(|m| m.seats.0).sum();
        self.favoured().filter(|keys| self.seats_for(keys) >= total - (total - 1) / 3)
    }

    fn settle(&mut self, rules: &Rules) {
        let params = rules.params();
        if self.agreed().is_some() {
            return;
        }
        if self.extensions < params.epoch_extensions_max {
            self.extensions += 1;
            self.content_end = self.content_end.plus(params.epoch_extension);
            return;
        }
        self.dropped += 1;
        let epoch = self.epoch.next();
        let candidates = rules.genesis.sequencers(epoch).iter();
        let keys = self.favoured();
        let named = |node: &NodeId| keys.is_some() && self.ready.get(node).copied() == keys;
        let left: Vec<_> = candidates.filter(|s| named(&s.node)).cloned().collect();
        let smaller = committee_of(&left, epoch, params.seats).ok();
        let enough = left.len() >= params.min_sequencers as usize;
        let next = smaller.filter(|_| enough).unwrap_or_else(|| {
            let members = self.committee.members().to_vec();
            Committee::new(epoch, members, ThresholdKeys::default()).expect("they are a committee today")
        });
        self.attempt += 1;
        self.next = Arc::new(next.with_attempt(self.attempt));
        self.ready.clear();
        // Those that are left need keys of their own: the epoch goes on until they have them.
        if is_encrypted(rules) {
            self.extensions = 0;
            // Time for announcing and for dealing, and more where that was too little before.
            let longer = [1, 2, 4, 8][(self.attempt as usize - 1).min(3)];
            self.content_end = self.content_end.plus(longer * params.epoch_extension.max(2 * params.key_window));
        }
    }
}

fn is_encrypted(rules: &Rules) -> bool {
    rules.params().transactions == TransactionRule::Encrypted
}
