//! Order, then reveal: shares of final blocks, and what they come to (decision 9 of the architecture).
//!
//! ```text
//!   final block ----> own shares to everybody ----+
//!   peers' shares -------------------------------> q seats: combine, check once --+
//!   a peer's answer (beacon and values) ---------> check: two pairings -----------+--> revealed, in order of height
//!   a later final block's reveal ----------------> check: two pairings -----------+
//! ```
//!
//! The one way in for a block is [`Reveals::on_final`], which takes it with the commit certificate that made it final: no
//! share exists before. Shares go out at once, and again when the node waits ([`Reveals::tick`]); who waits also asks, and
//! is answered with the combined values by whoever has them, or with shares. So a node that slept needs one peer that has
//! the values, or none at all once a later block carries them; and a chain that stopped with blocks unrevealed goes on
//! when q seats are back.
//!
//! A message is believed for what it proves: combined values are checked against the epoch's keys, and a message of shares
//! counts for the member that the connection proves. Wrong shares cost their sender its word for the block.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use cascade_crypto::{
    bugs::{NoBugs, SealedBug, SealedBugs},
    curve::G1Affine,
    threshold::{BlockShares, EpochKeys, MemberShares, SeatMap, SecretShares, beacon, shares},
};
use cascade_primitives::{
    B256, BlockHash, Certificate, Committee, Decode, DecodeError, DecodeErrorKind, Encode, Epoch, Height, NodeId,
    Reader, Reveal, SigningContext, TimestampMs, committee_root,
};
use rand::CryptoRng;

/// Heights above the newest final block for which shares of peers that are ahead are kept.
const SHARES_AHEAD: u64 = 8;
/// Bytes of shares that are kept for one block that is not final here, from all members together.
const EARLY_BYTES: usize = 16 << 20;
/// Reveals that are kept to answer those who ask.
const KEPT: usize = 512;

/// What nodes tell each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RevealMessage {
    /// The sender's shares of a final block, and the certificate that makes it so: of the block or of one above it.
    Shares(Arc<BlockShares>, Arc<Certificate>),
    /// What opened a block.
    Reveal(Arc<Reveal>),
    /// Asks for what opens a block.
    Request(Height),
}

impl Encode for RevealMessage {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Shares(shares, certificate) => {
                out.push(1);
                shares.encode(out);
                certificate.encode(out);
            }
            Self::Reveal(reveal) => {
                out.push(2);
                reveal.encode(out);
            }
            Self::Request(height) => {
                out.push(3);
                height.encode(out);
            }
        }
    }
}

impl Decode for RevealMessage {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(r.field("reveal message"))? {
            1 => Ok(Self::Shares(Arc::new(BlockShares::decode(r)?), Arc::new(Certificate::decode(r)?))),
            2 => Ok(Self::Reveal(Arc::new(Reveal::decode(r)?))),
            3 => Ok(Self::Request(Height::decode(r)?)),
            tag => Err(r.error(DecodeErrorKind::UnknownTag(u64::from(tag)))),
        }
    }
}

/// A final block, as far as revealing it goes.
#[derive(Clone, Debug)]
pub struct FinalBlock {
    /// Its height.
    pub height: Height,
    /// Its epoch.
    pub epoch: Epoch,
    /// The root of the epoch's committee, as its header names it: which keys open it.
    pub committee_root: B256,
    /// The block.
    pub hash: BlockHash,
    /// What made it final.
    pub certificate: Arc<Certificate>,
    /// Bases of its envelopes, in its order; none if it is not opened: it has no items, and makes no seed either.
    pub bases: Option<Vec<G1Affine>>,
    /// What it says of blocks below.
    pub reveals: Vec<Reveal>,
}

/// The keys of an epoch, and this node's part.
#[derive(Clone, Debug)]
pub struct Holder {
    /// The public keys.
    pub keys: Arc<EpochKeys>,
    /// Who holds shares.
    pub committee: Arc<Committee>,
    /// This node's shares, if it is one of them.
    pub secret: Option<Arc<SecretShares>>,
    committee_root: B256,
}

impl Holder {
    /// The keys that this committee made for itself, and this node's shares of them.
    #[must_use]
    pub fn new(keys: Arc<EpochKeys>, committee: Arc<Committee>, secret: Option<Arc<SecretShares>>) -> Self {
        let committee_root = committee_root(&committee.members_root(), &keys.commitment());
        Self { keys, committee, secret, committee_root }
    }

    /// The root of the committee once the chain has agreed on these keys: headers of their epoch name it, and those of no
    /// committee that was made anew since, nor of one that agreed on other keys.
    #[must_use]
    pub const fn committee_root(&self) -> B256 {
        self.committee_root
    }
}

/// What opens a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// As it travels.
    pub reveal: Arc<Reveal>,
    /// The beacon's value.
    pub beacon: B256,
    /// The value of each envelope.
    pub values: Vec<G1Affine>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Tell every peer.
    Broadcast(RevealMessage),
    /// Tell one.
    Send(NodeId, RevealMessage),
    /// The next block in order is revealed; none for one that is not opened.
    Revealed(Height, Option<Opening>),
    /// A peer sent what no honest one sends.
    Misbehaved(NodeId, &'static str),
    /// A final block says what its epoch's keys contradict. This node must stop.
    Contradiction(Height),
}

#[derive(Debug)]
struct Pending {
    block: FinalBlock,
    beacon_message: B256,
    own: Option<Arc<BlockShares>>,
    /// Shares of the beacon's base and of the envelopes', in the order in which they came.
    received: Vec<(NodeId, MemberShares, MemberShares)>,
    /// Senders whose shares were wrong.
    out: Vec<NodeId>,
    opening: Option<Opening>,
}

/// The core of revealing.
#[derive(Debug)]
pub struct Reveals<B: SealedBugs = NoBugs> {
    bugs: B,
    context: SigningContext,
    node: NodeId,
    retry_ms: u64,
    /// The newest keys of each epoch. Those of a committee that was made anew since open nothing: blocks wait for the others.
    holders: BTreeMap<Epoch, Holder>,
    /// Final blocks that are not handed on yet, lowest first, without gap.
    pending: VecDeque<Pending>,
    next: Height,
    /// Shares of blocks that are not final here.
    early: BTreeMap<Height, BTreeMap<NodeId, Arc<BlockShares>>>,
    /// What was revealed lately.
    kept: BTreeMap<Height, Arc<Reveal>>,
    retry_at: TimestampMs,
    effects: Vec<Effect>,
}

impl Reveals {
    /// A core that waits for the block at `next`.
    #[must_use]
    pub fn new(context: SigningContext, node: NodeId, retry_ms: u64, next: Height) -> Self {
        Self::with_bugs(NoBugs, context, node, retry_ms, next)
    }
}

impl<B: SealedBugs> Reveals<B> {
    /// [`Reveals::new`], with planted bugs if there are any.
    #[must_use]
    pub fn with_bugs(bugs: B, context: SigningContext, node: NodeId, retry_ms: u64, next: Height) -> Self {
        Self {
            bugs,
            context,
            node,
            retry_ms,
            holders: BTreeMap::new(),
            pending: VecDeque::new(),
            next,
            early: BTreeMap::new(),
            kept: BTreeMap::new(),
            retry_at: TimestampMs(0),
            effects: Vec::new(),
        }
    }

    /// The keys of an epoch are known, in place of those that were known before.
    pub fn on_keys(&mut self, holder: Holder, rng: &mut dyn CryptoRng) -> Vec<Effect> {
        let epoch = holder.keys.epoch;
        self.holders.insert(epoch, holder);
        for index in 0..self.pending.len() {
            if self.pending[index].block.epoch == epoch {
                self.start(index, rng);
            }
        }
        self.finish()
    }

    /// The keys of epochs before this one are no longer needed.
    pub fn forget_before(&mut self, epoch: Epoch) {
        self.holders = self.holders.split_off(&epoch);
    }

    /// This node's shares of epochs before this one are erased; the public keys stay.
    pub fn erase_secrets_before(&mut self, epoch: Epoch) {
        for (_, holder) in self.holders.range_mut(..epoch) {
            holder.secret = None;
        }
    }

    /// The next final block. Blocks come in order and without gap.
    ///
    /// # Panics
    /// If one is left out.
    pub fn on_final(&mut self, now: TimestampMs, block: FinalBlock, rng: &mut dyn CryptoRng) -> Vec<Effect> {
        let due = self.next.plus(self.pending.len() as u64);
        assert_eq!(block.height, due, "final blocks come in order");
        let reveals = block.reveals.clone();
        for reveal in reveals {
            self.on_carried(Arc::new(reveal), rng);
        }
        if self.pending.is_empty() {
            self.retry_at = now.plus(self.retry_ms);
        }
        let beacon_message = beacon::message(&self.context, block.epoch, block.height, block.hash);
        self.pending.push_back(Pending {
            block,
            beacon_message,
            own: None,
            received: Vec::new(),
            out: Vec::new(),
            opening: None,
        });
        self.start(self.pending.len() - 1, rng);
        self.finish()
    }

    /// A peer's message.
    pub fn on_message(&mut self, from: NodeId, message: RevealMessage, rng: &mut dyn CryptoRng) -> Vec<Effect> {
        match message {
            RevealMessage::Shares(shares, _) => self.on_shares(from, &shares, rng),
            RevealMessage::Reveal(reveal) => {
                if let Some(index) = self.index(reveal.height)
                    && self.pending[index].opening.is_none()
                {
                    match self.check(index, &reveal, rng) {
                        Some(true) => {}
                        Some(false) => self.effects.push(Effect::Misbehaved(from, "values that open nothing")),
                        None => {}
                    }
                }
            }
            RevealMessage::Request(height) => self.on_request(from, height),
        }
        self.finish()
    }

    /// While a block waits for its reveal: sends own shares again and asks, once in each interval.
    pub fn tick(&mut self, now: TimestampMs) -> Vec<Effect> {
        if self.pending.is_empty() || now < self.retry_at || self.bugs.sealed(SealedBug::NothingAgain) {
            return Vec::new();
        }
        self.retry_at = now.plus(self.retry_ms);
        for (place, pending) in self.pending.iter().filter(|p| p.opening.is_none()).take(4).enumerate() {
            if let Some(own) = &pending.own {
                let message = RevealMessage::Shares(Arc::clone(own), Arc::clone(&pending.block.certificate));
                self.effects.push(Effect::Broadcast(message));
            }
            // Answers are large, and nothing above the lowest block helps before it is there.
            if place == 0 {
                self.effects.push(Effect::Broadcast(RevealMessage::Request(pending.block.height)));
            }
        }
        self.finish()
    }

    /// What opened a block, if it is one of the last.
    #[must_use]
    pub fn revealed(&self, height: Height) -> Option<&Arc<Reveal>> {
        self.kept.get(&height)
    }

    /// What opened a block, from storage: after a start.
    pub fn remember(&mut self, reveal: Arc<Reveal>) {
        self.kept.insert(reveal.height, reveal);
    }

    /// The block that is waited for.
    #[must_use]
    pub const fn next(&self) -> Height {
        self.next
    }

    fn index(&self, height: Height) -> Option<usize> {
        let index = usize::try_from(height.0.checked_sub(self.next.0)?).ok()?;
        (index < self.pending.len()).then_some(index)
    }

    /// Makes own shares of a block, and takes up what came before it.
    fn start(&mut self, index: usize, rng: &mut dyn CryptoRng) {
        let pending = &mut self.pending[index];
        let block = &pending.block;
        let Some(bases) = &block.bases else { return };
        let Some(holder) = holder_of(&self.holders, block) else { return };
        if pending.opening.is_some() {
            return;
        }
        if let Some(secret) = holder.secret.as_ref().filter(|_| pending.own.is_none()) {
            let base = beacon::base(&pending.beacon_message);
            let place = (self.context.fork, block.height, block.hash);
            let own = Arc::new(BlockShares::create(place, secret, &base, bases));
            pending.own = Some(Arc::clone(&own));
            let message = RevealMessage::Shares(Arc::clone(&own), Arc::clone(&block.certificate));
            self.effects.push(Effect::Broadcast(message));
            let node = self.node;
            self.on_shares(node, &own, rng);
        }
        let height = self.pending[index].block.height;
        for (from, shares) in self.early.remove(&height).unwrap_or_default() {
            self.on_shares(from, &shares, rng);
        }
    }

    fn on_shares(&mut self, from: NodeId, shares: &Arc<BlockShares>, rng: &mut dyn CryptoRng) {
        let ready = self.index(shares.height).filter(|&i| {
            let block = &self.pending[i].block;
            block.bases.is_none() || holder_of(&self.holders, block).is_some()
        });
        let Some(index) = ready else {
            self.keep_early(from, shares);
            return;
        };
        let pending = &mut self.pending[index];
        let Some(bases) = pending.block.bases.as_ref().filter(|_| pending.opening.is_none()) else { return };
        let Some(holder) = holder_of(&self.holders, &pending.block) else { return };
        let Some(member) = holder.committee.index_of(&from) else { return };
        let Ok(seats) = SeatMap::of(&holder.committee) else { return };
        let again = pending.received.iter().any(|(sender, ..)| *sender == from);
        if again && !self.bugs.sealed(SealedBug::SeatTwice) || pending.out.contains(&from) {
            return;
        }
        let right = shares.member == member
            && shares.block == pending.block.hash
            && shares.epoch == pending.block.epoch
            && shares.fork == self.context.fork;
        let mine = seats.seats(member);
        let read = |count: usize, bytes: &[u8]| MemberShares::from_wire(member, mine.clone(), count, bytes);
        let (Ok(of_beacon), Ok(of_values), true) =
            (read(1, &shares.beacon), read(bases.len(), &shares.decryption), right)
        else {
            pending.out.push(from);
            self.effects.push(Effect::Misbehaved(from, "shares of another form than the block's"));
            return;
        };
        pending.received.push((from, of_beacon, of_values));
        self.combine(index, rng);
    }

    /// Shares of a block that is not final here, or whose keys are not known here: bounded in heights and bytes.
    fn keep_early(&mut self, from: NodeId, shares: &Arc<BlockShares>) {
        let newest = self.next.plus(self.pending.len() as u64);
        if shares.height < self.next || shares.height > newest.plus(SHARES_AHEAD) {
            return;
        }
        let members = self.holders.values().any(|holder| holder.committee.index_of(&from).is_some());
        let size = |s: &BlockShares| s.beacon.len() + s.decryption.len();
        let early = self.early.entry(shares.height).or_default();
        // Each member has its own part, so that none can take that of another.
        let committee = self.holders.values().map(|holder| holder.committee.members().len()).max().unwrap_or(1);
        if members && size(shares) <= EARLY_BYTES / committee {
            early.entry(from).or_insert_with(|| Arc::clone(shares));
        }
    }

    fn combine(&mut self, index: usize, rng: &mut dyn CryptoRng) {
        let pending = &mut self.pending[index];
        let Some(holder) = holder_of(&self.holders, &pending.block) else { return };
        let Ok(seats) = SeatMap::of(&holder.committee) else { return };
        let Some(bases) = &pending.block.bases else { return };
        loop {
            let held: usize = pending
                .received
                .iter()
                .filter_map(|(node, ..)| holder.committee.index_of(node))
                .map(|member| seats.seats(member).len())
                .sum();
            if held < seats.quorum() as usize {
                return;
            }
            let shares = pending.received.iter().map(|(_, beacon, values)| (beacon.clone(), values.clone()));
            let (of_beacon, of_values): (Vec<_>, Vec<_>) = shares.unzip();
            let base = beacon::base(&pending.beacon_message);
            let signature = shares::combine_with(&self.bugs, &holder.keys.beacon, &[base], &of_beacon, rng);
            let values = shares::combine_with(&self.bugs, &holder.keys.decryption, bases, &of_values, rng);
            for member in signature.culprits.iter().chain(&values.culprits) {
                let node = holder.committee.members()[member.index()].node;
                let before = pending.received.len();
                pending.received.retain(|(sender, ..)| *sender != node);
                if pending.received.len() < before {
                    pending.out.push(node);
                    self.effects.push(Effect::Misbehaved(node, "wrong shares"));
                }
            }
            match (signature.values, values.values) {
                (Some(signature), Some(values)) => {
                    pending.opening = Some(opening(pending.block.height, &signature[0], values));
                    pending.received.clear();
                    return;
                }
                _ if signature.culprits.is_empty() && values.culprits.is_empty() => return,
                _ => {}
            }
        }
    }

    /// What a final block says of one below. Its voters have checked it; this node does so too.
    fn on_carried(&mut self, reveal: Arc<Reveal>, rng: &mut dyn CryptoRng) {
        let Some(index) = self.index(reveal.height) else { return };
        if self.pending[index].opening.is_none() && self.check(index, &reveal, rng) == Some(false) {
            self.effects.push(Effect::Contradiction(reveal.height));
        }
    }

    /// Whether a reveal opens a pending block; none while its keys are not known.
    fn check(&mut self, index: usize, reveal: &Arc<Reveal>, rng: &mut dyn CryptoRng) -> Option<bool> {
        let pending = &mut self.pending[index];
        let holder = holder_of(&self.holders, &pending.block)?;
        let Some(bases) = &pending.block.bases else { return Some(false) };
        let key = holder.keys.beacon.public_key();
        // The cheapest first: nobody can make a beacon before q seats have, and values cost a check each.
        if reveal.values.len() != bases.len() {
            return Some(false);
        }
        let Some(signature) = beacon::verify(key, &pending.beacon_message, &reveal.beacon) else { return Some(false) };
        let values: Option<Vec<G1Affine>> = reveal.values.iter().map(G1Affine::from_compressed).collect();
        let Some(values) = values else { return Some(false) };
        let right =
            bases.is_empty() || shares::check_combined_with(&self.bugs, &holder.keys.decryption, bases, &values, rng);
        if right {
            pending.opening = Some(Opening { reveal: Arc::clone(reveal), beacon: beacon::value(&signature), values });
            pending.received.clear();
        }
        Some(right)
    }

    fn on_request(&mut self, from: NodeId, height: Height) {
        let pending = self.index(height).map(|index| &self.pending[index]);
        let reveal = self.kept.get(&height).or_else(|| pending?.opening.as_ref().map(|o| &o.reveal));
        if let Some(reveal) = reveal {
            self.effects.push(Effect::Send(from, RevealMessage::Reveal(Arc::clone(reveal))));
        } else if let Some(pending) = pending
            && let Some(own) = &pending.own
        {
            let message = RevealMessage::Shares(Arc::clone(own), Arc::clone(&pending.block.certificate));
            self.effects.push(Effect::Send(from, message));
        }
    }

    /// Hands on what is revealed, in order.
    fn finish(&mut self) -> Vec<Effect> {
        while let Some(front) = self.pending.front() {
            if front.block.bases.is_some() && front.opening.is_none() {
                break;
            }
            let front = self.pending.pop_front().expect("it has a front");
            if let Some(opening) = &front.opening {
                self.kept.insert(front.block.height, Arc::clone(&opening.reveal));
                if self.kept.len() > KEPT {
                    self.kept.pop_first();
                }
            }
            self.early.remove(&front.block.height);
            self.effects.push(Effect::Revealed(front.block.height, front.opening));
            self.next = self.next.next();
        }
        self.early = self.early.split_off(&self.next);
        std::mem::take(&mut self.effects)
    }
}

/// The keys that open a block, if they are known.
fn holder_of<'h>(holders: &'h BTreeMap<Epoch, Holder>, block: &FinalBlock) -> Option<&'h Holder> {
    holders.get(&block.epoch).filter(|holder| holder.committee_root() == block.committee_root)
}

fn opening(height: Height, signature: &G1Affine, values: Vec<G1Affine>) -> Opening {
    let reveal = Reveal {
        height,
        beacon: signature.to_compressed(),
        values: values.iter().map(G1Affine::to_compressed).collect(),
    };
    Opening { reveal: Arc::new(reveal), beacon: beacon::value(signature), values }
}
