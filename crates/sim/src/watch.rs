//! Sees what no single node can: views that hold both a prepare and a skip certificate, and keys that are on two nodes
//! and contradict themselves. Neither is a violation; both are faults that a run must really contain.

use std::collections::{BTreeMap, btree_map::Entry};

use cascade_consensus::Message;
use cascade_primitives::{BlockHash, Epoch, View, VoteKind};

use crate::faults::{Fault, FaultCounts};

const PREPARED: u8 = 1;
const SKIPPED: u8 = 2;

#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Which certificates of a view were sent.
    certified: BTreeMap<(Epoch, View), u8>,
    /// What each key that is on two nodes said.
    said: BTreeMap<(usize, Epoch, View, VoteKind), BlockHash>,
}

impl Watch {
    /// A message leaves a node; `shared` is its key if another node has that key too.
    pub(crate) fn sent(&mut self, shared: Option<usize>, message: &Message, counts: &mut FaultCounts) {
        match message {
            Message::Certificate(certificate) => {
                let target = certificate.target;
                let bit = match target.kind {
                    VoteKind::Prepare => PREPARED,
                    VoteKind::Skip => SKIPPED,
                    VoteKind::Commit => return,
                };
                let seen = self.certified.entry((target.epoch, target.view)).or_default();
                if *seen | bit == PREPARED | SKIPPED && *seen & bit == 0 {
                    counts.add(Fault::SplitView);
                }
                *seen |= bit;
            }
            Message::Proposal(_, vote) | Message::Vote(vote, _) => {
                let Some(key) = shared else { return };
                let target = vote.target;
                match self.said.entry((key, target.epoch, target.view, target.kind)) {
                    Entry::Vacant(place) => {
                        place.insert(target.block);
                    }
                    Entry::Occupied(said) if *said.get() == target.block => return,
                    Entry::Occupied(_) => counts.add(Fault::Twins),
                }
                let opposite = match target.kind {
                    VoteKind::Prepare => return,
                    VoteKind::Commit => VoteKind::Skip,
                    VoteKind::Skip => VoteKind::Commit,
                };
                if self.said.contains_key(&(key, target.epoch, target.view, opposite)) {
                    counts.add(Fault::Twins);
                }
            }
            _ => {}
        }
    }
}
