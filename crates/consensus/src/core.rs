//! The protocol: inputs in, effects out.
//!
//! The shell executes the effects of one step in order. **Nothing after a [`Effect::Persist`] may leave the machine
//! before that record is synced**, and the effects of a step come before those of the next. That one rule is all that
//! persist-before-send needs.
//!
//! A deadline in place of timers: after every step the shell arms one timer for [`Core::wake_at`] and answers it with
//! [`Input::Tick`].

mod arrivals;
mod blocks;
mod finality;
mod io;
mod limits;
mod views;
mod votes;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use cascade_crypto::{VoteScheme, VoteSigner, scheme::CertificateError};
use cascade_primitives::{
    Address, B256, BlockHash, Body, Bytes, Certificate, Committee, DaCommitment, Epoch, Header, HeaderKind, Height,
    MemberIndex, NodeId, Ready, ResultEntry, Reveal, SealedBlock, SystemItem, Term, ThresholdKeys, TimestampMs,
    TransactionRule, View, Vote, VoteKind, VoteTarget,
};

use crate::{
    bugs::{Bug, Bugs, NoBugs},
    carriage,
    context::{ChainContext, InvalidBlock, Rules},
    election::{Leaders, epoch_seed},
    messages::{Evidence, Message, Record, SkipReason, Status},
    safety::SignState,
    tally::Tally,
};

use arrivals::Held;
use limits::{Outsiders, Served};

pub use io::{BuildRequest, BuiltBlock, Config, Effect, Finality, Finalized, Footprint, Health, Input, Start, Verdict};

/// Members that are asked for a block at a time, after its proposer did not answer.
const ASKED_AT_A_TIME: usize = 3;
/// Terms above the current one for which votes and proposals are kept, and views, if these terms have fewer.
const TERMS_AHEAD: u64 = 2;
const VIEWS_AHEAD: u64 = 8;
/// Final blocks that are kept to answer requests for single blocks.
const RECENT_BLOCKS: u64 = 64;
/// Certificates whose signatures are remembered as right.
const VERIFIED_CERTIFICATES: usize = 128;
/// Heights above its own head at which a node asks for ranges of final blocks in place of single ones.
const SYNC_DISTANCE: u64 = 16;

/// What is known of a block.
#[derive(Clone, Debug)]
enum Standing {
    /// Its parent is not known.
    Orphan(Held),
    /// It follows from its parent; what it says of results or time cannot be judged yet.
    Waiting(Arc<ChainContext>),
    /// The application is asked.
    Asked(Arc<ChainContext>),
    /// It is valid, or a quorum says so.
    Valid(Arc<ChainContext>),
    /// It is not.
    Invalid,
}

impl Standing {
    fn context(&self) -> Option<&Arc<ChainContext>> {
        match self {
            Self::Waiting(c) | Self::Asked(c) | Self::Valid(c) => Some(c),
            Self::Orphan(_) | Self::Invalid => None,
        }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    block: Arc<SealedBlock>,
    standing: Standing,
}

/// What is known of a view of the current epoch.
#[derive(Clone, Debug, Default)]
struct ViewState {
    /// The leader's first proposal.
    proposal: Option<BlockHash>,
    prepares: BTreeMap<BlockHash, Tally>,
    commits: BTreeMap<BlockHash, Tally>,
    skips: Tally,
    /// The first vote of each kind of each member, to see contradictions.
    first: BTreeMap<(MemberIndex, VoteKind), Vote>,
    /// Members whose contradictions were reported.
    accused: BTreeSet<MemberIndex>,
    /// Votes with wrong signatures where a contradiction was to be proved, by member.
    unproved: BTreeMap<MemberIndex, u32>,
    /// Whether the leader's first proposal was one that no parent could make valid. It is not kept.
    refused: bool,
    prepared: Option<Arc<Certificate>>,
    committed: Option<Arc<Certificate>>,
    skipped: Option<Arc<Certificate>>,
}

/// The committee at work.
#[derive(Clone, Debug)]
struct EpochState {
    epoch: Epoch,
    committee: Arc<Committee>,
    /// This node's place; none if it only follows.
    me: Option<MemberIndex>,
    leaders: Leaders,
    /// The block that the epoch stands on.
    root: BlockHash,
}

/// A block that peers were asked for.
#[derive(Clone, Debug, Default)]
struct Asked {
    /// When it was last asked for.
    at: TimestampMs,
    /// How often.
    times: u32,
    /// Members that were asked. From nobody else is it taken.
    peers: BTreeSet<NodeId>,
}

/// A commit certificate of a filler, and the headers that lead down from it towards the epoch's last block.
#[derive(Clone, Debug)]
struct EpochEnd {
    /// What the lowest of the headers stands on: the last block, unless whoever sent them kept some back.
    base: BlockHash,
    certificate: Arc<Certificate>,
    /// Never empty: a certificate of the last block itself needs no proof beside it.
    fillers: Vec<Header>,
}

/// A block that the application was asked to fill. What it stands on is fixed with the request: a certificate or
/// result that comes while the application works is for the next block.
#[derive(Clone, Debug)]
struct Building {
    view: View,
    /// The chain up to the parent.
    parent: Arc<ChainContext>,
    /// What the block extends: the parent's chain, handed over to a new epoch if it is the first of one.
    base: Arc<ChainContext>,
    kind: HeaderKind,
    timestamp: TimestampMs,
    /// The last height whose result it carries.
    due: Height,
    may_carry_content: bool,
    commit: Option<Arc<Certificate>>,
    fillers: Vec<Header>,
    /// The body but for its content: what the application commits to is what the block carries.
    frame: Body,
}

/// The consensus core. `B` plants bugs for the simulator's own tests; a node leaves it at [`NoBugs`].
#[derive(Debug)]
pub struct Core<B: Bugs = NoBugs> {
    bugs: B,
    config: Config,
    now: TimestampMs,
    effects: Vec<Effect>,

    head: Arc<ChainContext>,
    head_finality: Option<Finality>,
    finalized_at: TimestampMs,
    tree: BTreeMap<BlockHash, Entry>,
    recent: BTreeMap<Height, Arc<SealedBlock>>,
    results: BTreeMap<Height, ResultEntry>,
    /// Whether there may be something to make final.
    finalize_due: bool,
    /// The proof over fillers that the epoch ended, while the epoch's last block is not known.
    epoch_end: Option<EpochEnd>,
    /// What ended the epoch before this one, until the vote log holds it.
    unlogged_end: Option<Finality>,
    /// The newest height whose result this node has computed, as far as this core was told.
    executed: Height,
    /// Log records of epochs that this node, which lost final blocks, has yet to reach.
    later: Vec<Record>,
    /// Results in final headers that this node has yet to compute.
    claimed: BTreeMap<Height, ResultEntry>,

    epoch: EpochState,
    view: View,
    entered: TimestampMs,
    entry: Option<Arc<Certificate>>,
    views: BTreeMap<View, ViewState>,
    sign: SignState,
    my_votes: BTreeMap<(View, VoteKind), Vote>,

    work: bool,
    busy_since: Option<TimestampMs>,
    building: Option<Building>,
    resend_at: TimestampMs,
    resends: u64,
    /// Older certificates that were resent, over all views.
    resent: usize,
    /// Leaders that made nothing of their last term and were not heard of since; never this node.
    silent: BTreeSet<MemberIndex>,
    /// Leaders whose terms ended in skips, as this node saw it; none if they and the silent ones have more than f seats.
    cut_short: BTreeMap<MemberIndex, views::CutShort>,
    heard: BTreeMap<MemberIndex, TimestampMs>,
    /// Peers that were sent the entry certificate of the current view because they seemed to need it.
    helped: BTreeSet<NodeId>,
    skipped_terms: u64,
    /// Statements of readiness, each with the members root of the committee that it names: on an encrypted chain the next
    /// committee may be made anew within the epoch.
    readies: BTreeMap<MemberIndex, (B256, Ready)>,
    /// The newest epoch and committee that this node has the keys for, and these keys, where epochs have keys.
    keys_ready: Option<(Epoch, B256, ThresholdKeys)>,
    announced_at: TimestampMs,
    verified: VecDeque<Certificate>,
    requested: BTreeMap<BlockHash, Asked>,
    /// When peers of an earlier epoch were last told that it ended.
    told_end: BTreeMap<NodeId, TimestampMs>,
    waiting: BTreeSet<BlockHash>,
    served: Served,
    outsiders: Outsiders,
}

impl Core {
    /// Starts from what is stored. The first [`Core::step`] should be a [`Input::Tick`].
    ///
    /// # Panics
    /// If the head and its context do not belong together.
    #[must_use]
    pub fn new(config: Config, now: TimestampMs, start: Start) -> Self {
        Self::with_bugs(config, now, start, NoBugs)
    }
}

impl<B: Bugs> Core<B> {
    /// As [`Core::new`], with planted bugs.
    ///
    /// # Panics
    /// If the head and its context do not belong together.
    #[must_use]
    pub fn with_bugs(config: Config, now: TimestampMs, start: Start, bugs: B) -> Self {
        assert_eq!(start.head.hash(), start.context.hash, "the context is that of the head");
        let kept = start.sign_state.filter(|_| !bugs.planted(Bug::SignStateForgotten));
        let sign = kept.unwrap_or_else(|| SignState::new(&config.rules.signing));
        let head = Arc::new(start.context);
        let epoch = EpochState::after(&config, &head, &bugs);
        let mut recent: BTreeMap<_, _> = start.recent.into_iter().map(|b| (b.header.height, b)).collect();
        recent.insert(head.height, Arc::clone(&start.head));
        let tree =
            BTreeMap::from([(head.hash, Entry { block: start.head, standing: Standing::Valid(Arc::clone(&head)) })]);
        let mut core = Self {
            bugs,
            now,
            effects: Vec::new(),
            head_finality: start.finality,
            finalized_at: now,
            tree,
            recent,
            results: start.results.into_iter().map(|r| (r.height, r)).collect(),
            claimed: BTreeMap::new(),
            finalize_due: false,
            epoch_end: None,
            unlogged_end: None,
            executed: Height(0),
            later: Vec::new(),
            view: View(1),
            entered: now,
            entry: None,
            views: BTreeMap::new(),
            sign,
            my_votes: BTreeMap::new(),
            work: false,
            busy_since: None,
            building: None,
            resend_at: now,
            resends: 0,
            resent: 0,
            silent: BTreeSet::new(),
            cut_short: BTreeMap::new(),
            heard: BTreeMap::new(),
            helped: BTreeSet::new(),
            skipped_terms: 0,
            readies: BTreeMap::new(),
            keys_ready: None,
            announced_at: TimestampMs(0),
            verified: VecDeque::new(),
            requested: BTreeMap::new(),
            told_end: BTreeMap::new(),
            waiting: BTreeSet::new(),
            served: Served::default(),
            outsiders: Outsiders::default(),
            epoch,
            head,
            config,
        };
        if core.head.epoch == core.epoch.epoch {
            core.view = core.head.view.next();
        }
        core.restore(start.records);
        core
    }

    /// Takes an input and answers what is to be done, in order.
    pub fn step(&mut self, now: TimestampMs, input: Input) -> Vec<Effect> {
        self.now = self.now.max(now);
        match input {
            Input::Message { from, message } => self.on_message(from, message),
            Input::Connected(peer) => self.on_connected(peer),
            Input::Tick => {}
            Input::Work(work) => self.work = work,
            Input::Executed(result) => self.on_executed(result),
            Input::KeysReady { epoch, members_root, keys } => {
                self.keys_ready = Some((epoch, members_root, keys));
                self.announce_ready();
            }
            Input::Built { view, parent, content } => self.on_built(view, parent, content),
            Input::Validated { hash, verdict, da } => self.on_validated(hash, verdict, da),
            Input::FinalRange { from, blocks, finality } => self.on_final_range(from, blocks, finality),
        }
        self.advance();
        std::mem::take(&mut self.effects)
    }

    /// When the core next wants a [`Input::Tick`], if nothing happens before.
    ///
    /// What was due by now was done in the last step, if it can be done at all; a tick would not change that.
    #[must_use]
    pub fn wake_at(&mut self) -> TimestampMs {
        let deadlines =
            [Some(self.resend_at), self.skip_deadline(), self.propose_at(), self.next_ripe(), self.next_request()];
        let next = deadlines.into_iter().flatten().filter(|at| *at > self.now).min();
        next.unwrap_or_else(|| self.now.plus(self.config.rules.params().leader_timeout_ms))
    }

    /// The newest final block's chain.
    #[must_use]
    pub const fn head(&self) -> &Arc<ChainContext> {
        &self.head
    }

    /// What made the newest final block final; none for genesis.
    #[must_use]
    pub const fn finality(&self) -> Option<&Finality> {
        self.head_finality.as_ref()
    }

    /// The epoch and view that this node is in.
    #[must_use]
    pub const fn position(&self) -> (Epoch, View) {
        (self.epoch.epoch, self.view)
    }

    /// The committee that votes now.
    #[must_use]
    pub const fn committee(&self) -> &Arc<Committee> {
        &self.epoch.committee
    }

    /// What this node's key has signed.
    #[must_use]
    pub const fn sign_state(&self) -> &SignState {
        &self.sign
    }

    /// The leaders of the current and the next terms, `count` in all, each with the first view it leads from now on.
    #[must_use]
    pub fn leaders(&mut self, count: u64) -> Vec<(View, NodeId)> {
        let per_term = self.config.rules.params().views_per_term;
        let term = self.view.term(per_term);
        (0..count)
            .map(|i| {
                let term = term.plus(i);
                let leader = self.epoch.leaders.of_term(term);
                let view = term.first_view(per_term).max(self.view);
                (view, self.epoch.committee.members()[leader.index()].node)
            })
            .collect()
    }

    /// Where this node stands, for what carries its proposals: to be told at the start and whenever a view began.
    #[must_use]
    pub fn standing(&mut self) -> carriage::Standing {
        let leaders = carriage::Standing::views(self.view).map(|view| self.epoch.leaders.of_view(View(view))).collect();
        let committee = Arc::clone(&self.epoch.committee);
        carriage::Standing { epoch: self.epoch.epoch, view: self.view, committee, leaders }
    }

    /// How the node fares.
    #[must_use]
    pub fn health(&mut self) -> Health {
        let leader = self.epoch.leaders.of_view(self.view);
        let horizon = self.now.minus(4 * self.config.rules.params().leader_timeout_ms);
        let committee = &self.epoch.committee;
        let heard = |m: &MemberIndex| Some(*m) == self.epoch.me || self.heard.get(m).is_some_and(|&at| at >= horizon);
        let seats_heard = (0..committee.members().len() as u16)
            .map(MemberIndex)
            .filter(heard)
            .map(|m| committee.members()[m.index()].seats.0)
            .sum();
        Health {
            epoch: self.epoch.epoch,
            view: self.view,
            leader: committee.members()[leader.index()].node,
            height: self.head.height,
            finalized_at: self.finalized_at,
            votes: self.epoch.me.is_some() && self.config.signer.is_some(),
            seats_heard,
            quorum: committee.quorum().0,
            seats: committee.total_seats().0,
        }
    }

    /// What this core holds in memory.
    #[must_use]
    pub fn footprint(&self) -> Footprint {
        let votes = |s: &ViewState| {
            let tallies = s.prepares.values().chain(s.commits.values()).chain([&s.skips]);
            tallies.map(|t| t.signers().count()).sum::<usize>()
        };
        let orphan = |e: &Entry| if let Standing::Orphan(held) = e.standing { held.bytes } else { 0 };
        Footprint {
            blocks: self.tree.len(),
            orphan_bytes: self.tree.values().map(orphan).sum(),
            views: self.views.len(),
            votes: self.views.values().map(votes).sum(),
            requested: self.requested.len(),
        }
    }

    /// What the vote log must hold from here on, so that everything older can be dropped once the final blocks up to
    /// the head are stored.
    #[must_use]
    pub fn live_records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for (hash, entry) in &self.tree {
            let header = &entry.block.header;
            // No vote rests on an orphan, but for one that this node prepared and cannot judge since it started again:
            // a Prepare says that it has the block. Others are whatever somebody sent.
            let judged = entry.standing.context().is_some() || self.prepared_here(hash, header.view);
            if header.height > self.head.height && judged {
                records.push(Record::Block(Arc::clone(&entry.block)));
            }
        }
        for state in self.views.values() {
            let certificates = [&state.prepared, &state.skipped, &state.committed];
            records.extend(certificates.into_iter().flatten().map(|c| Record::Certificate(Arc::clone(c))));
        }
        records.extend(self.entry.iter().map(|c| Record::Certificate(Arc::clone(c))));
        records.extend(self.my_votes.values().map(|v| Record::Vote(*v)));
        if self.head.can_hand_over()
            && let Some(Finality { certificate, fillers }) = self.head_finality.clone()
        {
            records.push(Record::EpochEnd(certificate, fillers));
        }
        if let Some(EpochEnd { certificate, fillers, .. }) = self.epoch_end.clone() {
            records.push(Record::EpochEnd(certificate, fillers));
        }
        records.extend(self.later.iter().cloned());
        records
    }

    fn per_term(&self) -> u64 {
        self.config.rules.params().views_per_term
    }

    fn term(&self, view: View) -> Term {
        view.term(self.per_term())
    }

    fn emit(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    fn misbehaved(&mut self, peer: NodeId, what: &'static str) {
        tracing::debug!(%peer, what, "peer misbehaved");
        self.emit(Effect::Misbehaved(peer, what));
    }

    /// Follows every consequence that needs no further input.
    fn advance(&mut self) {
        self.follow();
        self.tick_views();
        self.follow();
        self.try_propose();
        self.tick_requests();
        self.tick_resend();
    }

    /// Judges what has become known and makes final what can be, until neither leads to the other. Nothing else
    /// changes the epoch while a message is being taken up, but for the proofs of its end themselves.
    fn follow(&mut self) {
        loop {
            self.recheck_waiting();
            if !std::mem::take(&mut self.finalize_due) {
                return;
            }
            self.try_finalize();
        }
    }

    fn on_message(&mut self, from: NodeId, message: Message) {
        if let Some(member) = self.epoch.committee.index_of(&from) {
            self.heard.insert(member, self.now);
        }
        match message {
            Message::Proposal(block, vote) => self.on_proposal(from, block, vote),
            Message::Vote(vote, _) => self.on_vote(from, vote),
            Message::Certificate(certificate) => self.on_certificate(from, certificate),
            Message::EpochEnd(certificate, fillers) => self.on_epoch_end(from, certificate, fillers),
            Message::Ready(ready) => self.on_ready(from, ready),
            Message::GetBlock(hash) => self.on_get_block(from, hash),
            Message::Block(block) => self.on_block(from, block),
            Message::Status(status) => self.on_status(from, status),
        }
    }

    fn on_connected(&mut self, peer: NodeId) {
        let status = self.status();
        self.emit(Effect::Send(peer, Message::Status(status)));
    }

    fn status(&self) -> Status {
        Status {
            fork: self.config.rules.signing.fork,
            epoch: self.epoch.epoch,
            view: self.view,
            height: self.head.height,
            hash: self.head.hash,
        }
    }

    fn on_status(&mut self, from: NodeId, status: Status) {
        self.emit(Effect::PeerStatus(from, status));
        if status.height < self.head.height {
            // It cannot ask for what it does not know of.
            let own = self.status();
            self.emit(Effect::Send(from, Message::Status(own)));
        }
        if status.height.0 > self.head.height.0 + SYNC_DISTANCE
            || (status.epoch > self.epoch.epoch && status.height > self.head.height)
        {
            self.emit(Effect::Behind(from));
        } else if status.epoch < self.epoch.epoch && self.head.height == status.height {
            self.send_epoch_end(from);
        } else if status.epoch == self.epoch.epoch && status.view < self.view {
            self.send_entry(from);
        }
    }

    /// Takes up the vote log.
    fn restore(&mut self, records: Vec<Record>) {
        let (fork, per_term) = (self.config.rules.signing.fork, self.per_term());
        let beside_key = self.sign.clone();
        for record in &records {
            if let Record::Vote(vote) = record {
                // The record beside the key is at least as new; where it is lost, the log alone must do.
                let _ = self.sign.allow(fork, &vote.target, per_term);
            }
        }
        if self.sign != beside_key {
            // What the log alone knows would be lost with it, after its votes were sent again.
            self.emit(Effect::Persist { records: Vec::new(), sign_state: Box::new(self.sign.clone()) });
        }
        let results = self.recent.values().flat_map(|b| &b.header.results);
        self.claimed = results.filter(|r| !self.results.contains_key(&r.height)).map(|r| (r.height, *r)).collect();
        self.executed = self.results.keys().next_back().copied().unwrap_or_default();
        self.later = records;
        if self.head.can_hand_over() {
            self.unlogged_end.clone_from(&self.head_finality);
        }
        self.take_up_log();
        self.learn_finality();
        self.follow();
    }

    /// Takes up what made the head final as any commit certificate, so that a leader carries the newest one it knows.
    fn learn_finality(&mut self) {
        if let Some(finality) = &self.head_finality {
            self.learn(Arc::clone(&finality.certificate));
        }
    }

    /// Takes up blocks, certificates and votes of the epoch that the node is in, and keeps those of later ones: a node
    /// whose newest final blocks were lost gets to those epochs again, and what its votes there rest on must be there.
    fn take_up_log(&mut self) {
        let epoch = self.epoch.epoch;
        let (mut blocks, mut certificates, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for record in std::mem::take(&mut self.later) {
            match record {
                Record::EpochEnd(certificate, _) if certificate.target.epoch.next() == epoch => {
                    self.unlogged_end = None
                }
                _ if record.epoch() < epoch => {}
                _ if record.epoch() > epoch => self.later.push(record),
                Record::Block(block) => blocks.push(block),
                Record::Certificate(certificate) => certificates.push(certificate),
                Record::EpochEnd(certificate, fillers) => ends.push((certificate, fillers)),
                Record::Vote(vote) => {
                    self.my_votes.insert((vote.target.view, vote.target.kind), vote);
                }
            }
        }
        blocks.sort_by_key(|b| (b.header.height, b.header.view));
        for block in blocks {
            if block.header.height > self.head.height {
                // Judged one by one, from the head up: so hardly any waits as an orphan.
                let leader = self.epoch.leaders.of_view(block.header.view);
                self.insert_block(&block, leader);
                self.judge(block.hash());
            }
        }
        certificates.sort_by_key(|c| (c.target.view, c.target.kind));
        for certificate in certificates {
            self.learn(certificate);
        }
        let votes: Vec<Vote> = self.my_votes.values().copied().collect();
        for vote in votes {
            self.count_vote(vote);
        }
        for (certificate, fillers) in ends {
            self.take_epoch_end(certificate, fillers);
        }
    }

    fn verify_cached(&mut self, certificate: &Certificate, committee: &Committee) -> Result<(), InvalidBlock> {
        if self.verified.contains(certificate) || self.bugs.planted(Bug::CertificateUnchecked) {
            return Ok(());
        }
        let verdict = cascade_crypto::verify_certificate(
            self.config.scheme.as_ref(),
            &self.config.rules.signing,
            committee,
            certificate,
        );
        match verdict {
            Err(CertificateError::Quorum { found, needed })
                if self.bugs.planted(Bug::QuorumTooLow) && found + 1 == needed => {}
            _ => verdict?,
        }
        self.remember(certificate);
        Ok(())
    }

    fn remember(&mut self, certificate: &Certificate) {
        if !self.verified.contains(certificate) {
            if self.verified.len() == VERIFIED_CERTIFICATES {
                self.verified.pop_front();
            }
            self.verified.push_back(certificate.clone());
        }
    }

    fn sign(&self, target: VoteTarget) -> Option<Vote> {
        let signer = self.config.signer.as_ref()?;
        let signature = signer.sign(&target.digest(&self.config.rules.signing));
        Some(Vote { target, signer: self.epoch.me?, signature })
    }
}

impl EpochState {
    /// The epoch in which blocks above `head` are voted on, once `head` is final.
    fn after<B: Bugs>(config: &Config, head: &ChainContext, bugs: &B) -> Self {
        let (rules, hands_over) = (&config.rules, head.can_hand_over());
        let (epoch, committee, mut seed) = if hands_over {
            (head.epoch.next(), &head.next_committee, head.next_seed(rules))
        } else {
            (head.epoch, &head.committee, head.seed(rules))
        };
        if bugs.planted(Bug::SeedTooNew) {
            let beacon = if hands_over { head.beacons.own } else { head.beacons.newer };
            seed = epoch_seed(&rules.signing.genesis_hash, epoch, &beacon);
        }
        let leaders = Leaders::new(seed, committee, config.rules.params().views_per_term);
        let key = config.signer.as_ref().map(|s| s.public_key());
        let me = committee
            .index_of(&config.node)
            .filter(|m| committee.member(*m).is_some_and(|member| Some(member.bls_key) == key));
        Self { epoch, committee: Arc::clone(committee), me, leaders, root: head.hash }
    }
}
