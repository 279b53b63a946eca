//! What a block and its ancestors alone prove.
//!
//! A [`ChainContext`] stands for the chain up to one block. [`ChainContext::child`] checks a block against it and
//! answers the context above, or the rule that the block breaks. Nothing here knows a clock, an L1 view or a result of
//! execution: what depends on those is *unknown*, never *invalid* (decision 3 of the architecture), and is decided by
//! the caller. Signatures of certificates are checked apart, because they are cached.
//!
//! ```text
//!  epoch e                                     C          L
//!  | content: transactions, readiness ........ | empty .. | fillers ...      (never part of the chain)
//!                                              |          +--> first block of e+1: parent L, carries a commit
//!                                              |               certificate of L or of a filler above it
//!                                              +- last content height; grows while the next committee is not ready
//!  L = first block whose header carries the results of height C
//! ```
//!
//! Departures from the architecture's wording, all narrower than it:
//! - a header carries at most [`MAX_RESULTS_PER_HEADER`] results; while a backlog is longer than that, blocks stay
//!   empty;
//! - a block whose newest commit certificate is for the same block as its parent's leaves it out;
//! - at most [`MAX_FILLER_HEADERS`] fillers stand above an epoch's last block, so that their headers fit into the first
//!   block of the next one.
//!
//! A block that follows more than [`MAX_SKIPS_PER_BLOCK`] skipped terms carries the certificates of the first so many.
//! That every view between is covered stays the condition of a Prepare vote (decision 2), only that the rest of the
//! certificates is not in the block: a sequencer that does not have them waits for them ([`uncovered`]), and on a stall
//! all are resent in turn. What is safe about a gap rests on those votes alone: of a quorum that prepares, f+1 seats are
//! honest and have seen a certificate for every view between, none of which can therefore have a commit quorum. Whoever
//! sees the prepare or commit certificate of the block needs no more.

mod child;
mod codec;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cascade_crypto::dkg::{Dealing, RecipientKey};
use cascade_primitives::{
    B256, BlockHash, BlsPublicKey, Certificate, ChainParams, Committee, Decode, Epoch, Genesis, Header, HeaderKind,
    Height, MemberIndex, NodeId, Ready, SealedBlock, SigningContext, SystemItem, ThresholdKeys, TimestampMs,
    TransactionRule, View,
    block::{FormError, MAX_FILLER_HEADERS, MAX_RESULTS_PER_HEADER, MAX_SKIPS_PER_BLOCK},
    merkle::MountainRange,
};
use thiserror::Error;

use crate::election::epoch_seed;
use crate::lineage::{Ancestor, Lineage};
use crate::seats::{committee_of, scheduled_committee};

/// The rules that contexts follow: the genesis file and what derives from it.
#[derive(Debug)]
pub struct Rules {
    /// The genesis file.
    pub genesis: Genesis,
    /// What signatures are bound to.
    pub signing: SigningContext,
}

impl Rules {
    /// The rules of a chain.
    #[must_use]
    pub fn new(genesis: Genesis) -> Self {
        let signing = genesis.signing_context();
        Self { genesis, signing }
    }

    /// The chain's constants.
    #[must_use]
    pub const fn params(&self) -> &ChainParams {
        &self.genesis.params
    }
}

/// Why a block can never be part of the chain above its parent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidBlock {
    /// It breaks a rule of form.
    #[error("form: {0}")]
    Form(#[from] FormError),
    /// A header field does not follow from the parent.
    #[error("{0} does not follow from the parent")]
    Field(&'static str),
    /// The certificate of the parent is missing, superfluous or of something else.
    #[error("the parent's prepare certificate is missing or not of the parent")]
    ParentCertificate,
    /// The skip certificates do not cover the views between exactly.
    #[error("skip certificates do not cover the views from {from} to {to} exactly")]
    Gap {
        /// First view that needs cover.
        from: View,
        /// First view that needs none.
        to: View,
    },
    /// The commit certificate is older than the parent's, of no ancestor, or missing where one is needed.
    #[error("the commit certificate is older than the parent's, of no ancestor, or missing")]
    CommitCertificate,
    /// The results are not those of the heights that are due.
    #[error("carries results up to {found}, due are those up to {due}")]
    Results {
        /// Height of the last result.
        found: Height,
        /// Height of the last result that is due.
        due: Height,
    },
    /// As many fillers stand above the epoch's last block as may.
    #[error("more than {MAX_FILLER_HEADERS} fillers above the epoch's last block")]
    Fillers,
    /// It carries transactions where none are allowed.
    #[error("carries transactions or system items where none are allowed")]
    NotEmpty,
    /// A system item is wrong.
    #[error("system item {0} is wrong or superfluous")]
    SystemItem(usize),
    /// A certificate's signature or quorum is wrong.
    #[error("certificate: {0}")]
    Certificate(#[from] cascade_crypto::scheme::CertificateError),
    /// A result differs from what this node computed.
    #[error("result of height {0} differs from the one computed here")]
    WrongResult(Height),
    /// The application refuses the content.
    #[error("content: {0}")]
    Content(String),
}

/// Beacons of last content blocks; zero where there is none (see [`crate::election`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beacons {
    /// Of the epoch two before: what the epoch's own seed is made of.
    pub older: B256,
    /// Of the epoch before.
    pub newer: B256,
    /// Of the epoch itself, so far.
    pub own: B256,
}

/// The chain up to one block, as far as the blocks alone prove it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainContext {
    /// The block's hash.
    pub hash: BlockHash,
    /// Its height.
    pub height: Height,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its view.
    pub view: View,
    /// Its time.
    pub timestamp: TimestampMs,
    /// Part of the chain, or a filler.
    pub kind: HeaderKind,
    /// Base fee in wei per gas.
    pub base_fee: u64,
    /// Sum of the gas limits of its transactions.
    pub ordered_gas: u64,
    /// Last height whose result the chain carries.
    pub last_result: Height,
    /// Last height with transactions; genesis if there is none.
    pub last_content: Height,
    /// Last height of the epoch that may carry transactions.
    pub content_end: Height,
    /// How often the epoch was extended.
    pub extensions: u64,
    /// Whether this is the epoch's last block or a filler above it.
    pub ended: bool,
    /// The committee of its epoch.
    pub committee: Arc<Committee>,
    /// The committee of the next epoch.
    pub next_committee: Arc<Committee>,
    /// Members of the next committee that stated in the chain that they are ready, and the keys that they named.
    pub ready: BTreeMap<MemberIndex, ThresholdKeys>,
    /// The beacons that seeds are made of.
    pub beacons: Beacons,
    /// Headers of the chain up to and including this block.
    history: MountainRange,
    /// From the block that the newest commit certificate carried is for, up to this one.
    uncommitted: Lineage,
}

impl ChainContext {
    /// The context of the genesis block.
    ///
    /// # Errors
    /// [`cascade_primitives::CommitteeError`] if the schedule names a node or key twice.
    pub fn genesis(rules: &Rules, state_root: B256) -> Result<(Self, SealedBlock), cascade_primitives::CommitteeError> {
        let genesis = &rules.genesis;
        let committee = Arc::new(scheduled_committee(genesis, Epoch(0))?);
        let next_committee = Arc::new(scheduled_committee(genesis, Epoch(1))?);
        let block = SealedBlock::new(genesis.block(state_root, committee.root(), next_committee.root()));
        let mut history = MountainRange::default();
        history.push(block.hash().into());
        let context = Self {
            hash: block.hash(),
            height: Height(0),
            epoch: Epoch(0),
            view: View(0),
            timestamp: genesis.timestamp,
            kind: HeaderKind::Block,
            base_fee: block.header.base_fee,
            ordered_gas: 0,
            last_result: Height(0),
            last_content: Height(0),
            content_end: Height(genesis.params.epoch_length - 1),
            extensions: 0,
            ended: false,
            committee,
            next_committee,
            ready: BTreeMap::new(),
            beacons: Beacons::default(),
            history,
            uncommitted: Lineage::new(Ancestor {
                epoch: Epoch(0),
                view: View(0),
                height: Height(0),
                hash: block.hash(),
                kind: HeaderKind::Block,
            }),
        };
        Ok((context, block))
    }

    /// Height of the block that the newest commit certificate carried by the chain is for.
    #[must_use]
    pub fn carried_commit(&self) -> Height {
        self.uncommitted.oldest().height
    }

    /// Root over the headers of the chain up to and including this block.
    #[must_use]
    pub fn history_root(&self) -> B256 {
        self.history.root()
    }

    /// Whether a child that is the first of the next epoch may stand on this block.
    #[must_use]
    pub fn can_hand_over(&self) -> bool {
        self.ended && self.kind == HeaderKind::Block
    }

    /// Whether the chain still has to make blocks for results of transactions to become final.
    #[must_use]
    pub fn needs_flush(&self) -> bool {
        self.last_result < self.last_content
    }

    /// Whether the epoch takes no more transactions.
    #[must_use]
    pub fn in_tail(&self) -> bool {
        self.height >= self.content_end
    }

    /// The height at which this chain has a block, as far back as the newest commit certificate it carries.
    #[must_use]
    pub fn find(&self, hash: &BlockHash) -> Option<Height> {
        self.uncommitted.find(hash).map(|found| found.height)
    }

    /// What the first block of the next epoch would find: the old committee steps down.
    ///
    /// # Panics
    /// If the epoch has not ended here, or the schedule of the genesis file is broken, which [`Rules`] exclude.
    #[must_use]
    pub fn hand_over(&self, rules: &Rules) -> Self {
        assert!(self.can_hand_over(), "only an epoch's last block hands over");
        let epoch = self.epoch.next();
        let next = scheduled_committee(&rules.genesis, epoch.next()).expect("the schedule was checked at start");
        Self {
            epoch,
            view: View(0),
            content_end: self.height.plus(rules.params().epoch_length),
            extensions: 0,
            ended: false,
            committee: Arc::clone(&self.next_committee),
            next_committee: Arc::new(next),
            ready: BTreeMap::new(),
            beacons: Beacons { older: self.beacons.newer, newer: self.beacons.own, own: B256::ZERO },
            ..self.clone()
        }
    }

    /// The seed of the epoch's leaders.
    #[must_use]
    pub fn seed(&self, rules: &Rules) -> B256 {
        epoch_seed(&rules.signing.genesis_hash, self.epoch, &self.beacons.older)
    }

    /// The seed of the next epoch's leaders.
    #[must_use]
    pub fn next_seed(&self, rules: &Rules) -> B256 {
        epoch_seed(&rules.signing.genesis_hash, self.epoch.next(), &self.beacons.newer)
    }

    /// Whether a block is opened with its epoch's keys before it is executed: one with items is.
    #[must_use]
    pub fn is_opened(rules: &Rules, block: &SealedBlock) -> bool {
        rules.params().transactions == TransactionRule::Encrypted && !block.body.transactions.is_empty()
    }

    /// The results that a child with this commit certificate must carry: after `last_result`, up to the answer.
    /// The flag says that the backlog is longer than a header holds.
    #[must_use]
    pub fn due(&self, rules: &Rules, carried_commit: Height, kind: HeaderKind) -> (Height, bool) {
        if kind == HeaderKind::Filler {
            return (self.last_result, false);
        }
        let height = self.height.next();
        let due = carried_commit.min(height.minus(rules.params().results_lag)).max(self.last_result);
        let most = self.last_result.plus(MAX_RESULTS_PER_HEADER as u64);
        (due.min(most), due > most)
    }

    /// Whether a child may carry transactions and readiness.
    #[must_use]
    pub fn may_carry_content(&self, rules: &Rules, carried_commit: Height, kind: HeaderKind) -> bool {
        let height = self.height.next();
        let (_, backlog) = self.due(rules, carried_commit, kind);
        kind == HeaderKind::Block
            && height <= self.content_end
            && !backlog
            && self.height.0 - carried_commit.0 < rules.params().results_lag
    }

    /// Whether a child of this kind may stand here: there is a limit to fillers.
    #[must_use]
    pub fn has_room(&self, kind: HeaderKind) -> bool {
        let fillers = || self.uncommitted.iter().take_while(|a| a.kind == HeaderKind::Filler);
        kind == HeaderKind::Block || fillers().count() < MAX_FILLER_HEADERS
    }

    /// Whether an item of key generation has the form of one, and is of somebody who has a part in it.
    #[must_use]
    pub fn accepts_key_item(&self, item: &SystemItem) -> bool {
        let epoch = self.epoch.next();
        match item {
            SystemItem::Ready(_) => false,
            SystemItem::RecipientKey(bytes) => RecipientKey::from_slice(bytes).is_ok_and(|key| {
                let next = &self.next_committee;
                key.epoch == epoch && key.committee == next.members_root() && next.index_of(&key.node).is_some()
            }),
            SystemItem::Dealing(bytes) => Dealing::from_slice(bytes)
                .is_ok_and(|dealing| dealing.epoch == epoch && self.committee.member(dealing.dealer).is_some()),
        }
    }

    /// The member of the next committee whose readiness this would record, signature aside. Where epochs have keys, it names
    /// some; which ones is not judged.
    #[must_use]
    pub fn accepts_ready(&self, rules: &Rules, ready: &Ready) -> Option<MemberIndex> {
        let encrypted = rules.params().transactions == TransactionRule::Encrypted;
        let member = self.next_committee.index_of(&ready.node)?;
        let new = ready.epoch == self.epoch.next() && !self.ready.contains_key(&member);
        (new && ready.keys.0.is_some() == encrypted).then_some(member)
    }

    /// The keys that ready members with the most seats named, and these seats; of two with as many, the lower commitment.
    fn favoured_keys(&self) -> Option<(ThresholdKeys, u32)> {
        let mut seats: BTreeMap<ThresholdKeys, u32> = BTreeMap::new();
        for (member, keys) in &self.ready {
            *seats.entry(*keys).or_default() += self.next_committee.members()[member.index()].seats.0;
        }
        seats.into_iter().max_by_key(|(keys, seats)| (*seats, Reverse(*keys)))
    }

    /// The keys of the next epoch (none where epochs have no keys), once a quorum of the next committee said that it is
    /// ready, and with the same ones.
    fn agreed_keys(&self) -> Option<ThresholdKeys> {
        let (keys, seats) = self.favoured_keys()?;
        (seats >= self.next_committee.quorum().0).then_some(keys)
    }

    fn next_is_ready(&self) -> bool {
        self.agreed_keys().is_some()
    }

    /// At the last content height: the epoch ends if a quorum of the next committee is ready; else it is extended; and
    /// after the last extension those who are not ready, or with other keys than most, are dropped.
    ///
    /// If fewer are left than [`ChainParams::min_sequencers`], the committee of today goes on. On an encrypted chain those
    /// that take over need keys of their own, which are not made yet, also if they are the same as before: the epoch goes on
    /// until they are, and if again too few hold them in time, the next attempt begins.
    fn settle_next_committee(&mut self, rules: &Rules) {
        if self.next_is_ready() {
            return;
        }
        if self.extensions < rules.params().epoch_extensions_max {
            self.extensions += 1;
            self.content_end = self.content_end.plus(rules.params().epoch_extension);
            return;
        }
        let favoured = self.favoured_keys().map(|(keys, _)| keys);
        let with_most = self.ready.iter().filter(|(_, keys)| Some(**keys) == favoured);
        let ready: BTreeSet<NodeId> = with_most.map(|(m, _)| self.next_committee.members()[m.index()].node).collect();
        let epoch = self.epoch.next();
        let sequencers: Vec<_> =
            rules.genesis.sequencers(epoch).iter().filter(|s| ready.contains(&s.node)).cloned().collect();
        let enough = sequencers.len() >= rules.params().min_sequencers as usize;
        let committee = if enough { committee_of(&sequencers, epoch, rules.params().seats).ok() } else { None };
        let committee = committee.unwrap_or_else(|| {
            let members = self.committee.members().to_vec();
            Committee::new(epoch, members, ThresholdKeys::default()).expect("a committee's members form a committee")
        });
        // Also where the members are those of before: what was announced and dealt for them does not count again.
        self.next_committee = Arc::new(committee.with_attempt(self.next_committee.attempt().saturating_add(1)));
        self.ready.clear();
        if rules.params().transactions == TransactionRule::Encrypted {
            self.extensions = 0;
            self.content_end = self.content_end.plus(attempt_length(rules.params(), self.next_committee.attempt()));
        }
    }
}

/// Blocks that an encrypted chain's epoch goes on for when its next committee is made anew for the n-th time, before it is
/// extended again: as long as announcing and dealing may take, and up to eight times as much if that did not suffice.
fn attempt_length(params: &ChainParams, attempt: u32) -> u64 {
    let least = params.epoch_extension.max(params.key_window.saturating_mul(2));
    least.saturating_mul(1 << attempt.saturating_sub(1).min(3))
}

/// The views below a block, first and first not, that the skip certificates in it do not reach because it carries as
/// many as it may.
#[must_use]
pub fn uncovered(rules: &Rules, block: &SealedBlock) -> Option<(View, View)> {
    let skips = &block.body.certificates.skips;
    let per_term = rules.params().views_per_term;
    let open = skips.last()?.target.view.term(per_term).last_view(per_term).next();
    (skips.len() == MAX_SKIPS_PER_BLOCK && open < block.header.view).then_some((open, block.header.view))
}

/// The hash that a run of filler headers above an epoch's last block leads to; none if they do not chain.
#[must_use]
pub fn filler_path(last: &BlockHash, epoch: Epoch, fillers: &[Header]) -> Option<BlockHash> {
    fillers.iter().try_fold(*last, |below, filler| {
        let chained = filler.parent == below && filler.kind == HeaderKind::Filler && filler.epoch == epoch;
        chained.then(|| filler.hash())
    })
}

/// The certificates of a block, each with the committee that must have signed it.
pub fn certificates<'a>(
    base: &'a ChainContext,
    block: &'a SealedBlock,
) -> impl Iterator<Item = (&'a Certificate, &'a Arc<Committee>)> {
    let carried = &block.body.certificates;
    let own = if block.header.epoch == base.epoch { &base.committee } else { &base.next_committee };
    carried.parent.iter().chain(&carried.skips).map(move |c| (c, own)).chain(
        carried.commit.iter().map(move |c| (c, if c.target.epoch == base.epoch { &base.committee } else { own })),
    )
}

/// The keys of the next committee whose readiness a block records, with the statements.
pub fn readiness<'a>(
    base: &'a ChainContext,
    block: &'a SealedBlock,
) -> impl Iterator<Item = (&'a Ready, Option<BlsPublicKey>)> {
    block.body.system.iter().filter_map(move |item| {
        let SystemItem::Ready(ready) = item else { return None };
        let member = base.next_committee.index_of(&ready.node);
        Some((ready, member.map(|m| base.next_committee.members()[m.index()].bls_key)))
    })
}
