//! The keys of the next epoch, as the final log makes them (decision 10 of the architecture).
//!
//! ```text
//!  epoch e   | announcing            | dealing                        | ready
//!            | RecipientKey items    | Dealing items                  | Ready items
//!            +-----------------------+--------------------------------+----------------> epoch e+1 may begin
//!          first                 recipients                    keys of e+1: once dealers with
//!          block                 are fixed                     q seats of e have dealt
//! ```
//!
//! A [`KeyBook`] reads final blocks in order and is a pure function of them: every node that has read the same blocks has
//! the same keys. It does not matter *when* a node reads them: nothing that a block says depends on it but the Ready
//! statements, which each node makes for itself once it has its shares.
//!
//! Recipients are fixed at the first block of the epoch with which all members of the next committee have announced their
//! encryption keys, or, once [`ChainParams::key_window`] blocks of the epoch are left, members with a quorum of seats. (In
//! epoch 0, which waits for nothing else, that is so from `key_window` blocks on.) Only blocks that could carry an
//! announcement count: while finality is away, blocks are empty, and a member that is back in time must not be passed
//! over because the epoch went on without a place for its key. A member that is away for the whole of
//! that time has no share in the epoch after; that fewer than q seats are left then is an assumption, as it is for votes. Dealings are made for
//! the whole committee all the same: in place of a key that was not announced stands a point that nobody knows the
//! logarithm of ([`absent_key`]). So seats keep their numbers, a member without a key is silent like any other, and q
//! seats of all still open. An item that is of no use changes nothing.
//!
//! If the next committee is made anew because too few of it were ready, key generation starts over for the new one, from
//! the first block whose header names it, also where its members are the same ([`Committee::attempt`]): who lost its
//! shares, or was away while they were dealt, announces another encryption key. Blocks are counted from there, and its
//! recipients are fixed after `key_window` of them; an attempt has at least as many again for dealing.

use std::{collections::BTreeMap, sync::Arc};

use cascade_crypto::{
    VoteScheme,
    bugs::{NoBugs, SealedBugs},
    curve::{G1, G1Affine},
    dkg::{Dealing, DealingError, KeyGeneration, Parameters, Progress, RecipientKey, RecipientSecret, VerifiedDealing},
    threshold::{EpochKeys, SeatMap, SecretShares},
};
use cascade_primitives::{
    BlockHash, ChainParams, Committee, Decode as _, Epoch, Height, MemberIndex, NodeId, Reader, SealedBlock,
    SigningContext, SystemItem, domain,
};

/// The encryption key that stands in for one that was not announced: hashed to the curve (RFC 9380), so that nobody
/// knows its secret.
#[must_use]
pub fn absent_key() -> G1Affine {
    G1::hash(b"absent", domain::ABSENT_RECIPIENT.as_bytes()).to_affine()
}

/// What a final block changed.
#[derive(Clone, Debug)]
pub enum KeyEvent {
    /// Recipients are fixed: members of the current committee deal now.
    Dealing,
    /// The next epoch's keys are complete.
    Complete(Arc<EpochKeys>),
}

/// What becomes of an item that a peer gave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It waits for a block of this node.
    Waits,
    /// It is of no use now; an honest peer may have sent it.
    Useless,
    /// No honest peer sends it, and why.
    Dishonest(&'static str),
}

/// How far the next epoch's keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyProgress {
    /// Members of the next committee announce their encryption keys.
    Announcing {
        /// Seats whose keys are announced.
        announced: u32,
        /// Seats of a quorum.
        needed: u32,
    },
    /// Members of the current committee deal.
    Dealing(Progress),
    /// The keys are there.
    Complete,
}

/// How many blocks of the epoch could carry an item. Those that were made while finality was away could not.
#[derive(Clone, Debug, Default)]
struct Chances {
    count: u64,
    /// The height that the newest commit certificate in a block makes final; none before the first block.
    carried: Option<Height>,
    blocks: BTreeMap<BlockHash, Height>,
}

impl Chances {
    /// The rule of consensus: no content in a block whose chain has not seen the last `lag` blocks become final.
    fn read(&mut self, block: &SealedBlock, lag: u64) {
        let height = block.header.height;
        if height == Height::ZERO {
            return;
        }
        let commit = block.body.certificates.commit.as_ref().and_then(|c| self.blocks.get(&c.target.block)).copied();
        // An epoch's first block carries a certificate that makes the block below it final.
        let carried = commit.or(self.carried).unwrap_or(height.minus(1));
        self.carried = Some(carried);
        self.blocks.insert(block.hash(), height);
        self.count += u64::from(height.0.saturating_sub(1).saturating_sub(carried.0) < lag);
    }
}

/// The current epoch's log of key generation. Made anew from the blocks of the epoch at a start.
#[derive(Clone, Debug)]
pub struct KeyBook<B: SealedBugs = NoBugs> {
    bugs: B,
    context: SigningContext,
    window: u64,
    epoch_length: u64,
    results_lag: u64,
    scheme: Arc<dyn VoteScheme>,
    first: Height,
    dealers: Arc<Committee>,
    recipients: Arc<Committee>,
    /// Blocks of the epoch that could carry an announcement.
    chances: Chances,
    announced: BTreeMap<NodeId, G1Affine>,
    generation: Option<KeyGeneration>,
}

impl KeyBook {
    /// A book for the epoch of `dealers`, whose first block is at `first`.
    #[must_use]
    pub fn new(
        context: SigningContext,
        params: &ChainParams,
        scheme: Arc<dyn VoteScheme>,
        first: Height,
        dealers: Arc<Committee>,
        recipients: Arc<Committee>,
    ) -> Self {
        Self::with_bugs(NoBugs, context, params, scheme, first, (dealers, recipients))
    }
}

impl<B: SealedBugs> KeyBook<B> {
    /// [`KeyBook::new`], with planted bugs if there are any.
    #[must_use]
    pub fn with_bugs(
        bugs: B,
        context: SigningContext,
        params: &ChainParams,
        scheme: Arc<dyn VoteScheme>,
        first: Height,
        (dealers, recipients): (Arc<Committee>, Arc<Committee>),
    ) -> Self {
        Self {
            bugs,
            context,
            window: params.key_window,
            epoch_length: params.epoch_length,
            results_lag: params.results_lag,
            scheme,
            first,
            dealers,
            recipients,
            chances: Chances::default(),
            announced: BTreeMap::new(),
            generation: None,
        }
    }

    /// The epoch whose keys are made.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.dealers.epoch().next()
    }

    /// The height of the epoch's first block.
    #[must_use]
    pub const fn first(&self) -> Height {
        self.first
    }

    /// The committee whose keys are made.
    #[must_use]
    pub const fn recipients(&self) -> &Arc<Committee> {
        &self.recipients
    }

    /// The committee that deals.
    #[must_use]
    pub const fn dealers(&self) -> &Arc<Committee> {
        &self.dealers
    }

    /// Key generation, once recipients are fixed.
    #[must_use]
    pub const fn generation(&self) -> Option<&KeyGeneration> {
        self.generation.as_ref()
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> KeyProgress {
        match &self.generation {
            None => KeyProgress::Announcing { announced: self.announced_seats(), needed: self.recipients.quorum().0 },
            Some(generation) if generation.keys().is_some() => KeyProgress::Complete,
            Some(generation) => KeyProgress::Dealing(generation.progress()),
        }
    }

    /// Whether the log has a member's encryption key.
    #[must_use]
    pub fn has_announced(&self, node: &NodeId) -> bool {
        self.announced.contains_key(node)
    }

    /// Whose item it is: nodes put forward their own, and nobody hands on what is another's.
    #[must_use]
    pub fn author(&self, item: &SystemItem) -> Option<NodeId> {
        match item {
            SystemItem::Ready(ready) => Some(ready.node),
            SystemItem::RecipientKey(bytes) => RecipientKey::from_slice(bytes).ok().map(|key| key.node),
            SystemItem::Dealing(bytes) => {
                // The epoch and the dealer stand first; the rest is large.
                let mut r = Reader::new(bytes);
                let (_, dealer) = (Epoch::decode(&mut r).ok()?, MemberIndex::decode(&mut r).ok()?);
                self.dealers.member(dealer).map(|member| member.node)
            }
        }
    }

    /// Whether an item shows that this peer did not make it, or no honest peer would. Dealers are known by their place in
    /// the committee that deals: of a dealing for another epoch, as a peer gives out that is behind, it cannot be told.
    #[must_use]
    pub fn is_not_of(&self, item: &SystemItem, peer: &NodeId) -> bool {
        if let SystemItem::Dealing(bytes) = item
            && Epoch::decode(&mut Reader::new(bytes)).is_ok_and(|epoch| epoch != self.epoch())
        {
            return false;
        }
        self.author(item) != Some(*peer)
    }

    /// Whether an item could change anything if the next block carried it, as far as costs nothing to say: it is for these
    /// keys, and the first of its kind and author in the log. Signatures and proofs are not looked at.
    #[must_use]
    pub fn is_open(&self, item: &SystemItem) -> bool {
        match item {
            SystemItem::Ready(_) => false,
            SystemItem::RecipientKey(bytes) => {
                RecipientKey::from_slice(bytes).is_ok_and(|key| self.member(&key).is_some())
            }
            SystemItem::Dealing(bytes) => self.expects_dealing(bytes),
        }
    }

    /// Judges an item that `peer` gave out, before a block of ours carries it; one of each kind and author may be among
    /// those that wait, and what waits is not checked again. `verify` is asked at most once, and as in
    /// [`KeyBook::on_final`].
    pub fn on_offer<'a>(
        &self,
        peer: &NodeId,
        item: &SystemItem,
        waiting: impl IntoIterator<Item = &'a SystemItem>,
        verify: &mut dyn FnMut(&KeyGeneration, &Dealing) -> Result<VerifiedDealing, DealingError>,
    ) -> Offer {
        if self.is_not_of(item, peer) {
            return Offer::Dishonest("another's item of key generation");
        }
        let is_like = |other: &SystemItem| {
            std::mem::discriminant(other) == std::mem::discriminant(item) && self.author(other) == Some(*peer)
        };
        if waiting.into_iter().any(is_like) {
            return Offer::Useless;
        }
        match item {
            SystemItem::Ready(_) => Offer::Useless,
            SystemItem::RecipientKey(bytes) => match RecipientKey::from_slice(bytes) {
                Ok(key) if self.member(&key).is_none() => Offer::Useless,
                Ok(key) if self.accept(&key).is_some() => Offer::Waits,
                _ => Offer::Dishonest("a forged encryption key"),
            },
            SystemItem::Dealing(bytes) => {
                let (Some(dealing), Some(generation)) = (self.parse_dealing(bytes), self.generation()) else {
                    return Offer::Useless;
                };
                match verify(generation, &dealing) {
                    Ok(_) => Offer::Waits,
                    // Whoever makes it signs what is wrong with it. Bound to another committee than the one that this
                    // node knows, a dealing has another shape, or its signature does not hold: this node may be behind.
                    Err(error) if error.is_signed() => Offer::Dishonest("a wrong dealing"),
                    Err(_) => Offer::Useless,
                }
            }
        }
    }

    /// The dealing in an item, if it is for this key generation and the first of its dealer. Who dealt, and for which epoch,
    /// is looked at before the rest is read, which is large.
    #[must_use]
    pub fn parse_dealing(&self, bytes: &[u8]) -> Option<Dealing> {
        self.expects_dealing(bytes).then(|| Dealing::from_slice(bytes).ok()).flatten()
    }

    fn expects_dealing(&self, bytes: &[u8]) -> bool {
        let Some(generation) = self.generation.as_ref().filter(|g| g.keys().is_none()) else { return false };
        let mut r = Reader::new(bytes);
        let (Ok(epoch), Ok(dealer)) = (Epoch::decode(&mut r), MemberIndex::decode(&mut r)) else { return false };
        let new = generation.dealers().chain(generation.liars()).all(|other| other != dealer);
        new && epoch == self.epoch() && dealer.index() < self.dealers.members().len()
    }

    /// The member whose encryption key this would be, signature and proof aside: the key is for this committee, and the log
    /// has none of it.
    fn member(&self, key: &RecipientKey) -> Option<MemberIndex> {
        let of_these = key.epoch == self.epoch() && key.committee == self.recipients.members_root();
        let open = of_these && !self.announced.contains_key(&key.node);
        self.recipients.index_of(&key.node).filter(|_| open)
    }

    fn accept(&self, key: &RecipientKey) -> Option<G1Affine> {
        let member = self.member(key)?;
        key.verify(&self.context, self.scheme.as_ref(), &self.recipients.members()[member.index()].bls_key)
    }

    fn announced_seats(&self) -> u32 {
        let members = self.recipients.members().iter();
        members.filter(|m| self.announced.contains_key(&m.node)).map(|m| m.seats.0).sum()
    }

    /// Reads the next final block. `committee` votes on it, `next` is scheduled above it. Checking a dealing takes a
    /// fraction of a second: `verify` may look the answer up, as long as it is that of [`KeyGeneration::verify`].
    pub fn on_final(
        &mut self,
        block: &SealedBlock,
        (committee, next): (&Arc<Committee>, &Arc<Committee>),
        verify: &mut dyn FnMut(&KeyGeneration, &Dealing) -> Result<VerifiedDealing, DealingError>,
    ) -> Vec<KeyEvent> {
        let new_epoch = committee.epoch() != self.dealers.epoch();
        if new_epoch {
            self.first = block.header.height;
            self.dealers = Arc::clone(committee);
            self.chances = Chances::default();
            self.start_over(next);
        }
        // The roots that headers name one after the other differ when the committee is made anew, and when its keys are
        // agreed on: it is the same as long as its members root is.
        let named = &block.header.next_committee_root;
        let names_next = next.is_named_by(named);
        if !new_epoch && names_next && next.members_root() != self.recipients.members_root() {
            self.start_over(next);
        }
        self.chances.read(block, self.results_lag);
        if !new_epoch && !names_next && !self.recipients.is_named_by(named) {
            // Of a committee that was made anew since: read again after a start, when only the newest is known. What
            // is made under it counts for nothing, now as it did then.
            self.forget();
            return Vec::new();
        }
        self.take_keys(block);
        let mut events = Vec::new();
        for item in &block.body.system {
            let SystemItem::Dealing(bytes) = item else { continue };
            let Some(dealing) = self.parse_dealing(bytes) else { continue };
            let generation = self.generation.as_mut().expect("a dealing was parsed for it");
            let verdict = verify(generation, &dealing);
            let _ = generation.apply_verdict(dealing.dealer, verdict);
            events.extend(generation.keys().map(|keys| KeyEvent::Complete(Arc::new(keys.clone()))));
        }
        if self.generation.is_none() && self.are_fixed() {
            self.generation = self.parameters().map(KeyGeneration::new);
            events.extend(self.generation.as_ref().map(|_| KeyEvent::Dealing));
        }
        events
    }

    /// Another committee is scheduled: its members announce their keys anew.
    fn start_over(&mut self, recipients: &Arc<Committee>) {
        self.recipients = Arc::clone(recipients);
        self.forget();
    }

    fn forget(&mut self) {
        self.announced.clear();
        self.generation = None;
        self.chances.count = 0;
    }

    fn take_keys(&mut self, block: &SealedBlock) {
        for item in &block.body.system {
            if let SystemItem::RecipientKey(bytes) = item
                && let Ok(key) = RecipientKey::from_slice(bytes)
                && let Some(point) = self.accept(&key)
            {
                self.announced.insert(key.node, point);
            }
        }
    }

    fn are_fixed(&self) -> bool {
        let announced = self.announced_seats();
        // An epoch leaves time for those that are away, and what it keeps for dealing; epoch 0 has nothing else to do, and
        // one whose next committee was made anew waits for nothing else.
        let waits_for_nothing_else = self.dealers.epoch() == Epoch(0) || self.recipients.attempt() > 0;
        let whole = if waits_for_nothing_else { self.window.saturating_mul(2) } else { self.epoch_length };
        let patience = whole.saturating_sub(self.window);
        announced == self.recipients.total_seats().0
            || announced >= self.recipients.quorum().0 && self.chances.count > patience
    }

    /// None for a committee with too many seats for threshold keys, which the chain's constants exclude.
    fn parameters(&self) -> Option<Parameters> {
        let dealers = SeatMap::of(&self.dealers).ok()?;
        let recipients = SeatMap::of(&self.recipients).ok()?;
        let dealer_keys = self.dealers.members().iter().map(|m| m.bls_key).collect();
        let mut recipient_keys: Vec<G1Affine> = Vec::new();
        for member in self.recipients.members() {
            // Pads are derived from the key: two recipients with one key would read each other's shares.
            let key = self.announced.get(&member.node).filter(|key| !recipient_keys.contains(key));
            recipient_keys.push(key.copied().unwrap_or_else(absent_key));
        }
        Parameters::with_bugs(
            &self.bugs,
            self.context,
            self.epoch(),
            (dealers, dealer_keys),
            (recipients, recipient_keys),
        )
        .ok()
    }

    /// This node's shares of the next epoch's keys, once they are complete; none for one who is not of the committee or
    /// whose secret is not that of the announced key.
    #[must_use]
    pub fn shares(&self, node: &NodeId, secret: &RecipientSecret) -> Option<SecretShares> {
        self.generation.as_ref()?.shares(self.recipients.index_of(node)?, secret)
    }

    /// This node's place among the dealers that have yet to deal.
    #[must_use]
    pub fn may_deal(&self, node: &NodeId) -> Option<MemberIndex> {
        let generation = self.generation.as_ref().filter(|g| g.keys().is_none())?;
        let me = self.dealers.index_of(node)?;
        generation.dealers().chain(generation.liars()).all(|dealer| dealer != me).then_some(me)
    }
}
