//! What a node does about keys and reveals: the part of its actors, around the same cores.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use cascade_consensus::{Bugs, BuildRequest, Rules};
use cascade_crypto::{BlsSecretKey, VoteScheme, VoteSigner, dkg::RecipientSecret, threshold::BlockShares};
use cascade_mempool::{
    keybook::KeyBook,
    reveal::{Holder, RevealMessage, Reveals},
};
use cascade_primitives::{
    B256, Bytes, Epoch, Height, NodeId, Reveal, SealedBlock, SystemItem, ThresholdKeys, TimestampMs,
};

use super::{
    Dice,
    items::{Checked, Items},
    keys::Attempts,
    liar::Liar,
    vault::Vault,
};
use crate::disk::Stored;

/// Who a party is.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) node: NodeId,
    pub(crate) signer: Arc<dyn VoteSigner>,
    /// The key under which its secrets lie on the disk.
    pub(crate) owner: Arc<BlsSecretKey>,
    pub(crate) scheme: Arc<dyn VoteScheme>,
    pub(crate) rules: Arc<Rules>,
}

/// A block that was opened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) reveal: Arc<Reveal>,
    pub(crate) beacon: B256,
    /// What is in each envelope; none where nothing can be made of it.
    pub(crate) payloads: Vec<Option<Bytes>>,
}

/// What a party wants done.
#[derive(Debug)]
pub(crate) enum Out {
    /// Give an item of key generation to everybody.
    Spread(SystemItem),
    /// Give an envelope to everybody.
    Offer(Bytes),
    /// A Byzantine node has these shares, whatever it says.
    Holds(Arc<BlockShares>),
    /// A Byzantine node did something of this kind.
    Lied(&'static str),
    /// Tell one peer, or all.
    Tell(Option<NodeId>, RevealMessage),
    /// The next block is opened; none if it does not have to be.
    Opened(Arc<SealedBlock>, Option<Arc<Opened>>),
    /// Tell the core of consensus that the keys of an epoch are ready for this committee, and which they are.
    KeysReady(Epoch, B256, ThresholdKeys),
    /// A peer sent what no honest one sends.
    Accused(NodeId, &'static str),
    /// The node must stop.
    Fatal(String),
}

/// What a party works with beside what it has in memory.
pub(crate) struct Kit<'k, B: Bugs> {
    pub(crate) now: TimestampMs,
    pub(crate) blocks: &'k [Stored],
    /// The newest height whose result is stored.
    pub(crate) executed: Height,
    pub(crate) vault: &'k mut Vault,
    pub(crate) items: &'k mut Items<B>,
    pub(crate) attempts: &'k mut Attempts,
    pub(crate) dice: &'k mut Dice,
}

/// A final block that waits for its reveal.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) block: Arc<SealedBlock>,
    /// Its envelopes; none if it is not opened.
    pub(super) envelopes: Option<Vec<Arc<Checked>>>,
}

/// One node's part in keys and reveals. A crash ends it.
#[derive(Debug)]
pub(crate) struct Party<B: Bugs> {
    pub(super) bugs: B,
    pub(super) who: Identity,
    // Keys.
    pub(super) book: KeyBook<B>,
    pub(super) ring: BTreeMap<Epoch, Holder>,
    /// Roots of committees whose keys the chain has agreed on.
    pub(super) agreed: BTreeMap<Epoch, B256>,
    pub(super) offers: BTreeMap<B256, SystemItem>,
    pub(super) own: Vec<SystemItem>,
    pub(super) dealt_for: Option<B256>,
    pub(super) recipient: Option<RecipientSecret>,
    pub(super) ready: Option<(Epoch, B256, bool)>,
    pub(super) erased: Epoch,
    pub(super) rounds: u64,
    // Reveals.
    pub(super) reveals: Reveals<B>,
    pub(super) waiting: VecDeque<Stored>,
    pub(super) pending: BTreeMap<Height, Pending>,
    // Envelopes.
    pub(super) pool: BTreeMap<B256, Arc<Checked>>,
    pub(super) done: BTreeSet<B256>,
    /// The newest final block.
    pub(super) head: (Epoch, Height),
    /// What bends its words, if it is Byzantine.
    pub(super) liar: Option<Liar>,
    /// Writes and messages after which it dies, if it does.
    fuse: Option<u32>,
    out: Vec<Out>,
}

impl<B: Bugs> Party<B> {
    /// A party that starts from its disk.
    pub(crate) fn new(bugs: B, who: Identity, liar: Option<Liar>, kit: &mut Kit<'_, B>) -> Self {
        let head = kit.blocks.last().expect("genesis is there");
        let context = Arc::clone(&head.context);
        let executed = kit.executed;
        let params = who.rules.params();
        let retry_ms = (params.leader_timeout_ms / 2).max(1);
        let reveals = Reveals::with_bugs(bugs.clone(), who.rules.signing, who.node, retry_ms, executed.next());
        let committees = (Arc::clone(&context.committee), Arc::clone(&context.next_committee));
        let book = KeyBook::with_bugs(
            bugs.clone(),
            who.rules.signing,
            params,
            Arc::clone(&who.scheme),
            context.height,
            committees,
        );
        let mut party = Self {
            bugs,
            who,
            book,
            ring: BTreeMap::new(),
            agreed: BTreeMap::new(),
            offers: BTreeMap::new(),
            own: Vec::new(),
            dealt_for: None,
            recipient: None,
            ready: None,
            erased: Epoch(0),
            rounds: 0,
            reveals,
            waiting: VecDeque::new(),
            pending: BTreeMap::new(),
            pool: BTreeMap::new(),
            done: kit.blocks.iter().flat_map(|s| &s.block.body.transactions).map(super::items::name).collect(),
            head: (context.epoch, context.height),
            liar,
            fuse: None,
            out: Vec::new(),
        };
        party.load_ring(&context, executed, kit);
        party.read_stored(&context, executed, kit);
        party.agree(&context);
        party.waiting = kit.blocks[(executed.0 as usize + 1).min(kit.blocks.len())..].iter().cloned().collect();
        party.feed(kit);
        party.pursue(kit);
        party
    }

    /// Dies after so many more writes and messages.
    pub(crate) fn light(&mut self, steps: u32) {
        self.fuse = Some(steps);
    }

    /// Lives on.
    pub(crate) fn put_out(&mut self) {
        self.fuse = self.fuse.filter(|left| *left == 0);
    }

    /// Whether it died in the middle of what it did.
    pub(crate) fn is_dead(&self) -> bool {
        self.fuse == Some(0)
    }

    /// Whether it lives for one more step.
    pub(super) fn step(&mut self) -> bool {
        match &mut self.fuse {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                *left > 0
            }
        }
    }

    pub(super) fn emit(&mut self, out: Out) {
        if self.step() {
            self.out.push(out);
        }
    }

    /// What is to be done since the last time.
    pub(crate) fn take(&mut self) -> Vec<Out> {
        std::mem::take(&mut self.out)
    }

    /// A block is final here, and stored.
    pub(crate) fn on_final(&mut self, stored: &Stored, kit: &mut Kit<'_, B>) {
        self.head = (stored.context.epoch, stored.block.header.height);
        self.drop_ordered(&stored.block);
        self.keys_on_final(stored, kit);
        self.waiting.push_back(stored.clone());
        self.feed(kit);
    }

    /// The keys of an epoch.
    pub(crate) fn holder(&self, epoch: Epoch) -> Option<&Holder> {
        self.ring.get(&epoch)
    }

    /// The keys of an epoch, if the chain has agreed on them.
    pub(crate) fn agreed(&self, epoch: Epoch) -> Option<&Holder> {
        let agreed = self.agreed.get(&epoch);
        self.holder(epoch).filter(|holder| agreed == Some(&holder.committee_root()))
    }

    /// The keys that open a block, as its header binds them.
    pub(super) fn holder_of(&self, block: &SealedBlock) -> Option<&Holder> {
        let header = &block.header;
        self.holder(header.epoch).filter(|holder| holder.committee_root() == header.committee_root)
    }

    /// Key generation, as far as this node has read.
    pub(crate) fn book(&self) -> &KeyBook<B> {
        &self.book
    }

    /// The secret of the encryption key that it announced for the next epoch.
    pub(crate) fn recipient(&self) -> Option<&RecipientSecret> {
        self.recipient.as_ref()
    }

    /// The block that it waits for.
    pub(crate) fn next_reveal(&self) -> Height {
        self.waiting.front().map_or(self.reveals.next(), |s| s.block.header.height.min(self.reveals.next()))
    }

    /// The epoch of the newest final block, and its height.
    pub(crate) const fn head(&self) -> (Epoch, Height) {
        self.head
    }

    /// Blocks above the parent's results whose reveals a child must carry.
    pub(super) fn due_reveals(request: &BuildRequest, vault: &Vault) -> Vec<Reveal> {
        let heights = request.parent.last_result.0 + 1..=request.state_height.0;
        heights.filter_map(|height| vault.reveal(Height(height)).map(|r| r.as_ref().clone())).collect()
    }
}
