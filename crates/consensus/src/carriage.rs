//! How proposals travel: whole, or in coded chunks that members pass on to each other.
//!
//! ```text
//!  whole:   leader ---- block ----> each other node                              n - 1 blocks leave the leader
//!
//!  chunks:  leader -- chunk i, signed manifest --> member i -- chunk i --> all members but the leader
//!                                                  f + 1 chunks --rebuild--> proposal --> the core, as if from the leader
//!                                  not so many in time: member -- ask --> leader -- block --> member
//! ```
//!
//! `cascade_da::dispersal` has the code: one chunk for each seat, any f + 1 give the proposal. A core gives out a proposal
//! and gets one, and does not know how it travelled; a [`Carrier`] stands between it and the network. It does no I/O: the
//! node's actor and the simulator run the same one. Voters still need the whole block before they vote *prepare* (decision 16
//! of the architecture): nothing but a whole proposal ever reaches the core.
//!
//! # When
//!
//! Whole, a block of B bytes is prepared once the leader has sent it to a quorum, q - 1 others; in chunks, once it has sent
//! three blocks' worth of chunks, and a second delay later. So chunks win where B (q - 4) bytes take longer than a delay. A
//! leader knows neither its uplink nor its delays: over 50 ms that is 0.6 MiB at 100 Mbit/s and 6 MiB at 1 Gbit/s. With
//! [`Way::Auto`] it sends chunks from [`WORTH`] = 1 MiB on ([`wins`]), where from 6 members on it loses about 40 ms at most
//! either way: at 4 members never, at 7 from blocks of 1 MiB on, at 10 from 350 KiB, at 16 from 150 KiB, at 64 from 27 KiB
//! (docs/simulator.md has the measurements). Always whole go the first block of an epoch, since a node that is still in the
//! epoch before learns from it who leads; what is proposed again, since something did not work the first time; and what goes
//! to peers outside of the committee, to whom no member passes anything on.
//!
//! # Who may say what
//!
//! A leader signs a [`Manifest`]: chain, fork, epoch, view, block hash, root, size, number of chunks. It signs with its voting
//! key. That key is the one that the committee binds to it in the core, in the simulator and in the node alike; what it signs
//! is a hash under a tag of manifests alone, so a manifest can never be taken for a vote or the other way round, as with
//! statements of readiness, which the same key signs. Checking it costs a millisecond, once for each proposal; the key of a
//! node's connections would be cheaper, but is the network's alone. A manifest proves nothing that votes rest on: who signs two harms
//! nobody's safety, so nothing of it is persisted, and a leader that starts again signs the same one again.
//!
//! - From the leader a member takes chunks of its own seats alone, and passes each on once, after it checked signature and
//!   path. From any other member it takes chunks of that member's seats alone, and passes none on. So what is wrong was made
//!   wrong by who sent it, and who sent it is reported.
//! - Whoever rebuilds a proposal encodes it again and compares the root. Either everybody with f + 1 chunks finds the same
//!   proposal under a manifest, or everybody finds the same lie ([`Lie`]) and reports the leader. Nobody skips for it: the
//!   timeout decides, as for a leader that is silent.
//! - All that a proposal says is judged by the core, whichever way it came.
//!
//! # What it may cost
//!
//! Chunks of views from [`VIEWS_BEHIND`] below the current one to [`VIEWS_AHEAD`] above it, [`MANIFESTS`] of a view, each of
//! a proposal that the chain's largest block and [`MORE_BYTES`] allow, [`MAX_PROPOSAL`] at most: so a leader that lies can
//! make each member pass on twice what an honest one does. A place counts all bytes of its proposal from the first chunk
//! on: [`LEADER_BYTES`] for one leader, [`ALL_BYTES`] in all. On top of that the leader with most gives way, if it has more
//! than the newcomer's: so who floods is left with what others leave him. A manifest's signature is checked once. A place
//! goes with its view.
//!
//! # When chunks do not come
//!
//! After half a leader timeout, or while chunks come in a quarter after the last and a whole one at most, a member asks the
//! leader for all of it, once; the leader answers each member once. A block that a certificate names and whose chunks are
//! coming in is not asked for from its leader until then; others are asked as without chunks, since a leader may send a few
//! chunks alone to one that it wants to be late. So a leader that is honest sends at most what it would have sent without
//! chunks, beside the chunks. With an honest leader and links that work nobody asks the leader: of the seats that are not the
//! leader's 2f or more are honest. After the deadline all is as it is without chunks, so nothing stalls for want of them.

mod place;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::Arc,
};

use cascade_crypto::{VoteScheme, VoteSigner};
use cascade_da::dispersal::{Assembler, MAX_CHUNKS, disperse};
use cascade_primitives::{B256, BlockHash, Committee, Encode as _, Epoch, MemberIndex, NodeId, TimestampMs, View};

use crate::{
    bugs::{Bug, Bugs, NoBugs},
    context::Rules,
    messages::Message,
};

pub use place::{Lie, Rebuild, Rebuilt};
use place::{Phase, Place};
pub use wire::{Carried, Manifest, Piece};

/// Bytes that a leader must save on the way to a quorum for chunks to be worth a second delay.
pub const WORTH: usize = 1 << 20;
/// Views below the current one whose chunks are taken: a node enters a view on a certificate for a block that may not have
/// come yet.
pub const VIEWS_BEHIND: u64 = 2;
/// Views above the current one whose chunks are taken.
pub const VIEWS_AHEAD: u64 = 4;
/// Manifests of one view that are taken. A second one proves that its leader lies.
pub const MANIFESTS: usize = 2;
/// Bytes of a proposal in chunks beside those of the largest block's transactions: what is larger goes whole.
pub const MORE_BYTES: usize = 1 << 20;
/// Bytes of a proposal in chunks on any chain: what a message of consensus may have.
pub const MAX_PROPOSAL: usize = 16 << 20;
/// Bytes of the proposals of one leader that are on their way here.
pub const LEADER_BYTES: usize = 32 << 20;
/// Of all leaders.
pub const ALL_BYTES: usize = 64 << 20;

/// How a leader's proposals go out. What comes in is taken either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// In chunks where the measurements say that this wins.
    #[default]
    Auto,
    /// Always whole.
    Whole,
    /// In chunks whenever that is possible. For tests.
    Chunks,
}

/// Whether a block of so many bytes is prepared earlier in chunks, as far as a leader can tell.
#[must_use]
pub const fn wins(members: usize, bytes: usize) -> bool {
    let quorum = members - members.saturating_sub(1) / 3;
    quorum.saturating_sub(4).saturating_mul(bytes) >= WORTH
}

/// What a carrier is made with.
#[derive(Clone, Debug)]
pub struct CarriageConfig {
    /// The chain.
    pub rules: Arc<Rules>,
    /// Verifies manifests.
    pub scheme: Arc<dyn VoteScheme>,
    /// Signs this node's manifests; none on a node that does not vote.
    pub signer: Option<Arc<dyn VoteSigner>>,
    /// This node.
    pub node: NodeId,
    /// How its proposals go out.
    pub way: Way,
}

/// Where consensus stands, as far as carriage must know.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The epoch.
    pub epoch: Epoch,
    /// The view.
    pub view: View,
    /// The committee.
    pub committee: Arc<Committee>,
    /// Who leads the views in [`Standing::views`], in order.
    pub leaders: Vec<MemberIndex>,
}

impl Standing {
    /// The views whose proposals are carried while a node is in this one.
    #[must_use]
    pub fn views(view: View) -> RangeInclusive<u64> {
        view.0.saturating_sub(VIEWS_BEHIND).max(1)..=view.0.saturating_add(VIEWS_AHEAD)
    }

    fn leader(&self, view: View) -> Option<MemberIndex> {
        let views = Self::views(self.view);
        let place = views.contains(&view.0).then(|| view.0 - views.start())?;
        self.leaders.get(usize::try_from(place).ok()?).copied()
    }

    /// Whose seat a chunk belongs to.
    #[must_use]
    pub fn owner(&self, seat: u16) -> Option<MemberIndex> {
        let mut left = u32::from(seat);
        for (i, member) in self.committee.members().iter().enumerate() {
            match left.checked_sub(member.seats.0) {
                Some(rest) => left = rest,
                None => return Some(MemberIndex(i as u16)),
            }
        }
        None
    }
}

/// What a carrier is told.
#[derive(Clone, Debug)]
pub enum CarriageInput {
    /// A view began.
    Entered(Standing),
    /// The core broadcasts a proposal of its own. Its vote is durable.
    Propose(Message),
    /// A peer's message.
    Message {
        /// The peer.
        from: NodeId,
        /// What it said.
        message: Carried,
    },
    /// A whole proposal came from a peer.
    Arrived {
        /// The peer.
        from: NodeId,
        /// The block.
        block: BlockHash,
    },
    /// The core asks a peer for a block.
    Want {
        /// The peer.
        peer: NodeId,
        /// The block.
        block: BlockHash,
    },
    /// Answers [`CarriageEffect::Rebuild`].
    Rebuilt(Rebuilt),
    /// The time has come that [`Carrier::wake_at`] named.
    Tick,
}

/// What a carrier wants done.
#[derive(Clone, Debug)]
pub enum CarriageEffect {
    /// Tell one peer.
    Send(NodeId, Carried),
    /// Tell some, in this order.
    Forward(Vec<NodeId>, Carried),
    /// Send a proposal whole to every peer.
    Broadcast(Message),
    /// Send a proposal whole to every peer that is not in the committee.
    Outside(Message, Arc<Committee>),
    /// Send a proposal whole to one peer, that asked for it.
    Whole(NodeId, Message),
    /// Ask a peer for a block, as the core wants.
    GetBlock(NodeId, BlockHash),
    /// Do this work and answer with [`CarriageInput::Rebuilt`].
    Rebuild(Rebuild),
    /// Give the core a proposal, as if this peer had sent it.
    Deliver(NodeId, Message),
    /// A peer sent what no honest one sends.
    Misbehaved(NodeId, &'static str),
}

/// What a leader keeps of a proposal that it sent in chunks.
#[derive(Debug)]
struct Kept {
    message: Message,
    block: BlockHash,
    at: TimestampMs,
    served: BTreeSet<NodeId>,
}

/// Carries proposals. `B` plants bugs for the simulator's own tests; a node leaves it at [`NoBugs`].
#[derive(Debug)]
pub struct Carrier<B: Bugs = NoBugs> {
    bugs: B,
    config: CarriageConfig,
    now: TimestampMs,
    effects: Vec<CarriageEffect>,
    standing: Standing,
    /// By view and digest of the manifest.
    places: BTreeMap<(View, B256), Place>,
    /// Views whose leader was reported for two manifests.
    accused: BTreeSet<View>,
    kept: BTreeMap<(View, B256), Kept>,
}

impl Carrier {
    /// A carrier with nothing on its way.
    #[must_use]
    pub const fn new(config: CarriageConfig, standing: Standing) -> Self {
        Self::with_bugs(config, standing, NoBugs)
    }
}

impl<B: Bugs> Carrier<B> {
    /// As [`Carrier::new`], with planted bugs.
    #[must_use]
    pub const fn with_bugs(config: CarriageConfig, standing: Standing, bugs: B) -> Self {
        Self {
            bugs,
            config,
            now: TimestampMs(0),
            effects: Vec::new(),
            standing,
            places: BTreeMap::new(),
            accused: BTreeSet::new(),
            kept: BTreeMap::new(),
        }
    }

    /// Takes an input and answers what is to be done, in order.
    pub fn step(&mut self, now: TimestampMs, input: CarriageInput) -> Vec<CarriageEffect> {
        self.now = self.now.max(now);
        match input {
            CarriageInput::Entered(standing) => self.enter(standing),
            CarriageInput::Propose(message) => self.propose(message),
            CarriageInput::Message { from, message: Carried::Piece(piece) } => self.take(from, &piece),
            CarriageInput::Message { from, message: Carried::Ask { epoch, view, manifest } } => {
                self.serve(from, epoch, view, manifest);
            }
            CarriageInput::Arrived { from, block } => self.arrived(from, block),
            CarriageInput::Want { peer, block } => {
                // A leader may send a few chunks and keep the rest back; that must not keep anybody from asking others.
                let promised = |place: &Place| self.node(place.leader) == peer && place.promises(&block);
                if !self.places.values().any(promised) {
                    self.effects.push(CarriageEffect::GetBlock(peer, block));
                }
            }
            CarriageInput::Rebuilt(rebuilt) => self.rebuilt(rebuilt),
            CarriageInput::Tick => {}
        }
        self.ask_for_overdue();
        std::mem::take(&mut self.effects)
    }

    /// When it wants a [`CarriageInput::Tick`], if nothing happens before; none if nothing is on its way.
    #[must_use]
    pub fn wake_at(&self) -> Option<TimestampMs> {
        self.places.values().filter_map(|place| place.deadline(self.timeout())).min()
    }

    /// Proposals on their way here and the bytes that they count for, and proposals kept to be asked for.
    #[must_use]
    pub fn footprint(&self) -> (usize, usize, usize) {
        (self.places.len(), self.places.values().map(Place::bytes).sum(), self.kept.len())
    }

    /// Bytes of a proposal in chunks, at most. All nodes of a chain say the same.
    fn most(&self) -> usize {
        MAX_PROPOSAL.min(self.config.rules.params().max_block_bytes as usize + MORE_BYTES)
    }

    fn timeout(&self) -> u64 {
        self.config.rules.params().leader_timeout_ms
    }

    fn me(&self) -> Option<MemberIndex> {
        self.standing.committee.index_of(&self.config.node)
    }

    fn node(&self, member: MemberIndex) -> NodeId {
        self.standing.committee.members()[member.index()].node
    }

    fn misbehaved(&mut self, peer: NodeId, what: &'static str) {
        tracing::debug!(%peer, what, "peer misbehaved");
        self.effects.push(CarriageEffect::Misbehaved(peer, what));
    }

    fn enter(&mut self, standing: Standing) {
        if standing.epoch != self.standing.epoch {
            self.places.clear();
            self.accused.clear();
            self.kept.clear();
        }
        let oldest = View(*Standing::views(standing.view).start());
        self.standing = standing;
        if !self.bugs.planted(Bug::ChunksPinned) {
            self.places.retain(|(view, _), _| *view >= oldest);
        }
        self.accused.retain(|view| *view >= oldest);
        self.kept.retain(|(view, _), _| *view >= oldest);
    }

    fn propose(&mut self, message: Message) {
        let Message::Proposal(block, vote) = &message else {
            self.effects.push(CarriageEffect::Broadcast(message));
            return;
        };
        let (hash, timeout) = (block.hash(), self.timeout());
        let mut kept = self.kept.values();
        if let Some(kept) = kept.find(|kept| kept.block == hash) {
            // Until then members ask for themselves.
            if kept.at.plus(timeout / 2) <= self.now {
                self.effects.push(CarriageEffect::Broadcast(message));
            }
            return;
        }
        let first_of_epoch = block.body.certificates.parent.is_none();
        let wins = match self.config.way {
            Way::Whole => false,
            Way::Chunks => true,
            Way::Auto => wins(self.standing.committee.members().len(), block.body.encoded_len()),
        };
        let current = (vote.target.epoch, vote.target.view) == (self.standing.epoch, self.standing.view);
        if first_of_epoch || !wins || !current || !self.disperse(&message, hash) {
            self.effects.push(CarriageEffect::Broadcast(message));
        }
    }

    /// Sends a proposal of the current view in chunks, if that can be done.
    fn disperse(&mut self, message: &Message, block: BlockHash) -> bool {
        let Some((me, signer)) = self.me().zip(self.config.signer.clone()) else { return false };
        let Standing { epoch, view, .. } = self.standing;
        let seats = self.standing.committee.total_seats().0 as usize;
        let bytes = message.to_bytes();
        if seats > MAX_CHUNKS || bytes.len() > self.most() {
            return false;
        }
        let chunks = disperse(&bytes, seats).expect("a proposal and a committee that were just measured");
        let context = self.config.rules.signing;
        let manifest =
            Manifest { epoch, view, block, root: chunks[0].root, size: chunks[0].size, chunks: chunks[0].chunks };
        let digest = manifest.digest(&context);
        let signature = signer.sign(&digest);
        for chunk in chunks {
            let owner = self.standing.owner(chunk.index).expect("a chunk for each seat");
            if owner != me {
                let piece = Piece { epoch, view, block, signature, chunk };
                self.effects.push(CarriageEffect::Send(self.node(owner), Carried::Piece(Box::new(piece))));
            }
        }
        let committee = Arc::clone(&self.standing.committee);
        self.effects.push(CarriageEffect::Outside(message.clone(), committee));
        let kept = Kept { message: message.clone(), block, at: self.now, served: BTreeSet::new() };
        self.kept.insert((view, digest), kept);
        true
    }

    /// A chunk from a peer.
    fn take(&mut self, from: NodeId, piece: &Piece) {
        let standing = &self.standing;
        if piece.epoch != standing.epoch {
            return;
        }
        let Some(leader) = standing.leader(piece.view) else { return };
        let (Some(me), Some(sender)) = (self.me(), standing.committee.index_of(&from)) else { return };
        if leader == me || sender == me {
            return;
        }
        let holder = if sender == leader { me } else { sender };
        if standing.owner(piece.chunk.index) != Some(holder) {
            self.misbehaved(from, "a chunk of another's seat");
            return;
        }
        let digest = piece.manifest().digest(&self.config.rules.signing);
        let key = (piece.view, digest);
        if !self.places.contains_key(&key) && !self.open(from, leader, piece, key) {
            return;
        }
        let place = self.places.get_mut(&key).expect("it was there or was just made");
        // There is one signature of a key over a message, and the place has it.
        if place.signature != piece.signature {
            self.misbehaved(from, "a chunk that its leader did not sign");
            return;
        }
        let sound = self.bugs.planted(Bug::ChunkUnchecked) || place.assembler.check(&piece.chunk).is_ok();
        if !sound {
            self.misbehaved(from, "a chunk that is not one of its root");
            return;
        }
        if sender == leader && !place.forwarded.contains(&piece.chunk.index) {
            place.forwarded.push(piece.chunk.index);
            self.pass_on(me, leader, piece);
        }
        self.keep(key, piece);
    }

    /// Passes an own chunk on to everybody but the leader. Each begins with the one after it: what arrives at one time is
    /// spread over all.
    fn pass_on(&mut self, me: MemberIndex, leader: MemberIndex, piece: &Piece) {
        let count = self.standing.committee.members().len();
        let others = (1..count).map(|step| MemberIndex(((me.index() + step) % count) as u16));
        let to: Vec<NodeId> = others.filter(|other| *other != leader).map(|other| self.node(other)).collect();
        self.effects.push(CarriageEffect::Forward(to, Carried::Piece(Box::new(piece.clone()))));
    }

    fn keep(&mut self, key: (View, B256), piece: &Piece) {
        let place = self.places.get_mut(&key).expect("the chunk was checked against it");
        if place.phase != Phase::Gathering {
            return;
        }
        let before = place.assembler.found();
        let enough = place.assembler.insert_checked(&piece.chunk);
        if place.assembler.found() > before {
            place.newest = self.now;
        }
        if enough {
            place.phase = Phase::Rebuilding;
            let Manifest { epoch, view, block, .. } = place.manifest;
            let assembler = place.assembler.clone();
            self.effects.push(CarriageEffect::Rebuild(Rebuild { epoch, view, block, digest: key.1, assembler }));
        }
    }

    /// Makes a place for the proposal of which a first chunk has come; answers whether there is one now.
    fn open(&mut self, from: NodeId, leader: MemberIndex, piece: &Piece, key: (View, B256)) -> bool {
        let seats = self.standing.committee.total_seats().0 as usize;
        let manifest = piece.manifest();
        let size = manifest.size as usize;
        if usize::from(manifest.chunks) != seats || size > self.most() {
            self.misbehaved(from, "a chunk of no such proposal");
            return false;
        }
        let Ok(assembler) = Assembler::new(manifest.root, size, seats) else {
            self.misbehaved(from, "a chunk of no such proposal");
            return false;
        };
        let others = self.places.range((key.0, B256::ZERO)..=(key.0, B256::repeat_byte(0xff))).count();
        if others >= MANIFESTS {
            return false;
        }
        let context = self.config.rules.signing;
        let public = self.standing.committee.members()[leader.index()].bls_key;
        let signed = self.bugs.planted(Bug::ManifestUnchecked)
            || manifest.is_signed(&context, self.config.scheme.as_ref(), &public, &piece.signature);
        if !signed {
            self.misbehaved(from, "a chunk that its leader did not sign");
            return false;
        }
        if others > 0 && self.accused.insert(key.0) {
            let node = self.node(leader);
            self.misbehaved(node, "two manifests for one view");
        }
        if !self.make_room(leader, size) {
            return false;
        }
        let place = Place {
            manifest,
            signature: piece.signature,
            leader,
            assembler,
            phase: Phase::Gathering,
            since: self.now,
            newest: self.now,
            asked: false,
            forwarded: Vec::new(),
        };
        self.places.insert(key, place);
        true
    }

    /// Makes room for so many bytes of a leader: others give way that have more than it would. Answers whether there is.
    fn make_room(&mut self, leader: MemberIndex, bytes: usize) -> bool {
        let mut held: BTreeMap<MemberIndex, usize> = BTreeMap::new();
        for place in self.places.values() {
            *held.entry(place.leader).or_default() += place.bytes();
        }
        let own = held.remove(&leader).unwrap_or(0) + bytes;
        if own > LEADER_BYTES {
            return false;
        }
        while own + held.values().sum::<usize>() > ALL_BYTES {
            let Some((&most, of_most)) = held.iter_mut().max_by_key(|(_, bytes)| **bytes) else { return false };
            let latest = self.places.iter().rev().find(|(_, place)| place.leader == most && place.bytes() > 0);
            let Some((&key, place)) = latest.filter(|_| *of_most > own) else { return false };
            *of_most -= place.bytes();
            self.places.remove(&key);
        }
        true
    }

    fn rebuilt(&mut self, rebuilt: Rebuilt) {
        let Some(place) = self.places.get_mut(&(rebuilt.view, rebuilt.digest)) else { return };
        if place.phase != Phase::Rebuilding {
            return;
        }
        place.close();
        let leader = place.leader;
        let node = self.node(leader);
        match rebuilt.outcome {
            Ok(message) => self.effects.push(CarriageEffect::Deliver(node, message)),
            Err(lie) => {
                tracing::warn!(leader = %node, view = %rebuilt.view, %lie, "chunks of a leader that lies");
                self.misbehaved(node, lie.words());
            }
        }
    }

    fn arrived(&mut self, from: NodeId, block: BlockHash) {
        let Some(leader) = self.standing.committee.index_of(&from) else { return };
        let same = |place: &&mut Place| place.leader == leader && place.manifest.block == block;
        self.places.values_mut().filter(same).for_each(Place::close);
    }

    fn ask_for_overdue(&mut self) {
        let (now, timeout, epoch) = (self.now, self.timeout(), self.standing.epoch);
        for ((view, digest), place) in &mut self.places {
            if place.deadline(timeout).is_some_and(|at| at <= now) {
                place.asked = true;
                let leader = self.standing.committee.members()[place.leader.index()].node;
                let ask = Carried::Ask { epoch, view: *view, manifest: *digest };
                self.effects.push(CarriageEffect::Send(leader, ask));
            }
        }
    }

    /// Answers a member that has too few chunks, once.
    fn serve(&mut self, from: NodeId, epoch: Epoch, view: View, digest: B256) {
        if epoch != self.standing.epoch || self.standing.committee.index_of(&from).is_none() {
            return;
        }
        let Some(kept) = self.kept.get_mut(&(view, digest)) else { return };
        if kept.served.insert(from) {
            self.effects.push(CarriageEffect::Whole(from, kept.message.clone()));
        }
    }
}
