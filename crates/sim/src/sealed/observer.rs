//! Who sees everything, and checks what must hold of keys, shares and reveals by definitions of its own.
//!
//! 1. No honest node gives out a share of a block that is not final there, nor with anything but a commit certificate of
//!    that block or one above it.
//! 2. No share is made of a user's ciphertext but as a part of that user's envelope; none past its last height, none in
//!    another epoch.
//! 3. q seats open, q-1 do not: values interpolated from shares that exist, Byzantine ones among them.
//! 4. Every final block is opened by every honest node, to the same values, and to what users sealed.
//! 5. Keys come from dealers with q seats, need q seats to open, are the same at every node, and every honest recipient
//!    whose encryption key the log has in time holds its shares. No epoch but the first begins without keys, and the
//!    committee root in its headers binds those that were made.
//! 6. Whoever is accused is Byzantine.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use cascade_consensus::{Bugs, Rules};
use cascade_crypto::{
    VoteScheme,
    curve::{G1, G1Affine, Scalar},
    threshold::{BlockShares, Ciphertext},
};
use cascade_primitives::{
    B256, BlockHash, Bytes, Certificate, Committee, Decode as _, Encode as _, Epoch, Height, Item, MemberIndex, NodeId,
    SealedBlock, VoteKind, committee_root,
};

use super::{Opened, Party, items::name};
use crate::{disk::Stored, scheme};

/// Bytes of a share.
const SHARE: usize = 96;

/// What a user sealed.
#[derive(Debug)]
struct Owned {
    name: B256,
    text: Bytes,
}

/// Shares of the first envelope of a block, by seat.
type FirstShares = BTreeMap<u32, G1Affine>;

#[derive(Debug)]
pub(crate) struct Observer {
    rules: Arc<Rules>,
    scheme: Arc<dyn VoteScheme>,
    honest: Vec<bool>,
    ids: Vec<NodeId>,
    /// By the first component of the ciphertext.
    owned: HashMap<[u8; 48], Owned>,
    /// What commit certificates that made blocks final are of, and a height that they cover.
    certified: HashMap<BlockHash, Height>,
    shares: BTreeMap<Height, FirstShares>,
    opened: BTreeMap<Height, Option<Arc<Opened>>>,
    keys: BTreeMap<(Epoch, B256), Vec<u8>>,
    checked_keys: BTreeSet<(usize, Epoch, B256)>,
    /// Of every node, when the blocks that it has yet to open became final there.
    unopened: Vec<BTreeMap<Height, u64>>,
    pub(crate) violations: Vec<String>,
    /// Envelopes of users that were opened, and blocks that were.
    pub(crate) envelopes: u64,
    pub(crate) blocks: u64,
    /// Sets of q-1 seats that were shown to open nothing.
    pub(crate) too_few: u64,
}

impl Observer {
    pub(crate) fn new(rules: Arc<Rules>, scheme: Arc<dyn VoteScheme>, honest: Vec<bool>, ids: Vec<NodeId>) -> Self {
        Self {
            rules,
            scheme,
            unopened: honest.iter().map(|_| BTreeMap::new()).collect(),
            honest,
            ids,
            owned: HashMap::new(),
            certified: HashMap::new(),
            shares: BTreeMap::new(),
            opened: BTreeMap::new(),
            keys: BTreeMap::new(),
            checked_keys: BTreeSet::new(),
            violations: Vec::new(),
            envelopes: 0,
            blocks: 0,
            too_few: 0,
        }
    }

    fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    /// A user sealed something.
    pub(crate) fn sealed(&mut self, raw: &Bytes, text: Bytes) {
        if let Some(first) = first_component(raw) {
            self.owned.insert(first, Owned { name: name(raw), text });
        }
    }

    /// A node starts from its disk: what is not executed there is to be opened again.
    pub(crate) fn booted(&mut self, node: usize, unexecuted: impl Iterator<Item = Height>, now: u64) {
        self.unopened[node] = unexecuted.map(|height| (height, now)).collect();
    }

    /// A block became final at a node.
    pub(crate) fn finalized(&mut self, node: usize, height: Height, certificate: &Certificate, now: u64) {
        if self.honest[node] {
            let covered = self.certified.entry(certificate.target.block).or_insert(height);
            *covered = (*covered).max(height);
        }
        self.unopened[node].insert(height, now);
    }

    /// A Byzantine node has these shares.
    pub(crate) fn holds(&mut self, shares: &BlockShares, committee: Option<&Committee>) {
        if let Some(committee) = committee {
            self.collect(shares, committee);
        }
    }

    /// Shares leave a machine. `stored` is the block at their height that is final there.
    pub(crate) fn shared(
        &mut self,
        node: usize,
        shares: &BlockShares,
        certificate: &Certificate,
        committee: Option<&Committee>,
        stored: Option<&Stored>,
    ) {
        let height = shares.height;
        if !self.honest[node] {
            return;
        }
        if let Some(committee) = committee {
            self.collect(shares, committee);
        }
        let Some(block) = stored.map(|s| &s.block).filter(|b| b.hash() == shares.block) else {
            self.violation(format!("node {node} shares block {height}, which is not final there"));
            return;
        };
        let Some(committee) = committee else {
            self.violation(format!("node {node} shares block {height} of an epoch without committee"));
            return;
        };
        let covers = self.certified.get(&certificate.target.block).is_some_and(|covered| *covered >= height);
        if certificate.target.kind != VoteKind::Commit || !covers {
            self.violation(format!("node {node} shares block {height} by a certificate of {:?}", certificate.target));
        } else if let Err(why) = scheme::proves(self.scheme.as_ref(), &self.rules, committee, certificate) {
            self.violation(format!("node {node} shares block {height} by a certificate that is none: {why}"));
        }
        let (block, epoch) = (Arc::clone(block), shares.epoch);
        for raw in &block.body.transactions {
            if let Err(why) = self.may_be_opened(raw, epoch, height) {
                self.violation(format!("node {node} shares block {height}: {why}"));
            }
        }
    }

    fn may_be_opened(&self, raw: &Bytes, epoch: Epoch, height: Height) -> Result<(), String> {
        let Ok(Item::Envelope(envelope)) = Item::from_shared(raw) else {
            return Err("an item that is none".to_owned());
        };
        if envelope.valid_until < height {
            return Err(format!("an envelope that was valid until {}", envelope.valid_until));
        }
        if envelope.epoch != epoch {
            return Err(format!("an envelope of epoch {} in epoch {epoch}", envelope.epoch));
        }
        let owned = first_component(raw).and_then(|first| self.owned.get(&first));
        if owned.is_some_and(|owned| owned.name != name(raw)) {
            return Err("a user's ciphertext in another envelope".to_owned());
        }
        Ok(())
    }

    /// Keeps the shares of the block's first envelope.
    fn collect(&mut self, shares: &BlockShares, committee: &Committee) {
        let seats = seats_of(committee, shares.member);
        if shares.decryption.is_empty() {
            return;
        }
        let points = shares.decryption.chunks_exact(SHARE).take(seats.len());
        let points = points.map(|bytes| G1Affine::on_curve_uncompressed(bytes.try_into().expect("96 bytes")));
        let known = self.shares.entry(shares.height).or_default();
        known.extend(seats.zip(points).filter_map(|(seat, point)| Some((seat, point?))));
    }

    /// A node opened the next block.
    pub(crate) fn opened(
        &mut self,
        node: usize,
        block: &SealedBlock,
        opened: Option<&Arc<Opened>>,
        (is_due, committee): (bool, Option<&Committee>),
    ) {
        let height = block.header.height;
        self.unopened[node].remove(&height);
        if !self.honest[node] {
            return;
        }
        if opened.is_some() != is_due {
            self.violation(format!("node {node} hands on block {height} unopened, or opened though nothing needs it"));
        }
        match self.opened.get(&height) {
            Some(first) if first.as_ref() == opened => {}
            Some(_) => self.violation(format!("node {node} opens block {height} to something else than others did")),
            None => {
                self.opened.insert(height, opened.cloned());
                if let (Some(opened), Some(committee)) = (opened, committee) {
                    self.check_content(block, opened);
                    self.check_threshold(opened, committee);
                }
            }
        }
    }

    fn check_content(&mut self, block: &SealedBlock, opened: &Opened) {
        let height = block.header.height;
        self.blocks += 1;
        let mut wrong = Vec::new();
        for (raw, payload) in block.body.transactions.iter().zip(&opened.payloads) {
            let owned = first_component(raw).and_then(|first| self.owned.get(&first));
            let Some(owned) = owned.filter(|owned| owned.name == name(raw)) else { continue };
            self.envelopes += 1;
            // The payload is a salt and what was sealed.
            if payload.as_ref().is_none_or(|payload| !payload.ends_with(&owned.text)) {
                wrong.push(format!("an envelope in block {height} opens to something that nobody sealed"));
            }
        }
        self.violations.extend(wrong);
    }

    /// The value of the first envelope follows from q shares and not from q-1.
    fn check_threshold(&mut self, opened: &Opened, committee: &Committee) {
        let height = opened.reveal.height;
        let Some(value) = opened.reveal.values.first() else { return };
        let Some(known) = self.shares.remove(&height) else { return };
        let quorum = quorum_of(committee) as usize;
        let seats: Vec<(u32, G1Affine)> = known.into_iter().collect();
        if seats.len() >= quorum && interpolate(&seats[..quorum]).to_compressed() != *value {
            self.violation(format!("{quorum} seats do not open an envelope of block {height}"));
        }
        if seats.len() + 1 >= quorum {
            self.too_few += 1;
            if interpolate(&seats[..quorum - 1]).to_compressed() == *value {
                self.violation(format!("{} seats open an envelope of block {height}", quorum - 1));
            }
        }
    }

    /// What an honest node knows of keys after a final block.
    pub(crate) fn keys<B: Bugs>(&mut self, node: usize, party: &Party<B>, stored: &Stored) {
        if !self.honest[node] {
            return;
        }
        let epoch = stored.block.header.epoch;
        if epoch > Epoch(0) && party.holder(epoch).is_none() {
            self.violation(format!("node {node} knows no keys of epoch {epoch}, which has begun"));
        }
        let members_root = stored.context.committee.members_root();
        let made = party.holder(epoch).map(|holder| holder.keys.commitment()).unwrap_or_default();
        if stored.block.header.committee_root != committee_root(&members_root, &made) {
            self.violation(format!("the committee root of epoch {epoch} binds other keys than node {node} has"));
        }
        let book = party.book();
        let Some((generation, keys)) = book.generation().and_then(|g| Some((g, g.keys()?))) else { return };
        let place = (book.epoch(), book.recipients().members_root());
        if !self.checked_keys.insert((node, place.0, place.1)) {
            return;
        }
        let epoch = place.0;
        let dealers: BTreeSet<_> = generation.dealers().collect();
        let dealt: u32 = dealers.iter().map(|m| book.dealers().members()[m.index()].seats.0).sum();
        if dealt < quorum_of(book.dealers()) {
            self.violation(format!("the keys of epoch {epoch} come from dealers with {dealt} seats"));
        }
        if keys.decryption.quorum() as u32 != quorum_of(book.recipients()) {
            let needed = keys.decryption.quorum();
            self.violation(format!("{needed} seats open what is sealed to epoch {epoch}"));
        }
        for liar in generation.liars() {
            let id = book.dealers().members()[liar.index()].node;
            if self.is_honest(&id) {
                self.violation(format!("honest dealer {liar} of epoch {epoch} counts as a liar"));
            }
        }
        let encoded = keys.to_bytes();
        if *self.keys.entry(place).or_insert_with(|| encoded.clone()) != encoded {
            self.violation(format!("node {node} has other keys of epoch {epoch} than others"));
        }
        let me = book.recipients().index_of(&self.ids[node]);
        if let (Some(me), Some(secret)) = (me, party.recipient())
            && generation.parameters().recipient_keys[me.index()] == secret.public_key()
            && party.holder(epoch).is_none_or(|holder| holder.secret.is_none())
        {
            self.violation(format!("node {node} was dealt to and has no share of epoch {epoch}"));
        }
    }

    fn is_honest(&self, id: &NodeId) -> bool {
        self.ids.iter().zip(&self.honest).any(|(known, honest)| known == id && *honest)
    }

    /// A node accuses a peer.
    pub(crate) fn accused(&mut self, node: usize, peer: &NodeId, what: &str) {
        if self.honest[node] && self.is_honest(peer) {
            self.violation(format!("node {node} accuses an honest peer of {what}"));
        }
    }

    /// A node's core of reveals says that it must stop.
    pub(crate) fn fatal(&mut self, node: usize, why: &str) {
        if self.honest[node] {
            self.violation(format!("node {node} must stop: {why}"));
        }
    }

    /// Keys that some honest node has.
    pub(crate) fn keys_made(&self) -> u64 {
        self.keys.len() as u64
    }

    /// The lowest block that a node has yet to open, and since when it waits.
    pub(crate) fn waits(&self, node: usize) -> Option<(Height, u64)> {
        self.unopened[node].first_key_value().map(|(height, at)| (*height, *at))
    }
}

/// The first component of the ciphertext in an envelope.
pub(super) fn first_component(raw: &Bytes) -> Option<[u8; 48]> {
    let Ok(Item::Envelope(envelope)) = Item::from_shared(raw) else { return None };
    Some(*Ciphertext::from_shared(&envelope.ciphertext).ok()?.first_component())
}

fn seats_of(committee: &Committee, member: MemberIndex) -> std::ops::Range<u32> {
    let before: u32 = committee.members().iter().take(member.index()).map(|m| m.seats.0).sum();
    before..before + committee.members().get(member.index()).map_or(0, |m| m.seats.0)
}

/// q = S - (S-1)/3.
pub(crate) fn quorum_of(committee: &Committee) -> u32 {
    let total: u32 = committee.members().iter().map(|m| m.seats.0).sum();
    total - (total - 1) / 3
}

/// The value at zero of what has these values at seat + 1, by Lagrange's formula.
fn interpolate(points: &[(u32, G1Affine)]) -> G1Affine {
    let at = |seat: u32| Scalar::from_u64(u64::from(seat) + 1);
    let weight = |&(i, _): &(u32, G1Affine)| {
        let others = points.iter().filter(|(j, _)| *j != i);
        others.fold(Scalar::from_u64(1), |product, &(j, _)| {
            product * at(j) * (at(j) - at(i)).inverse().expect("seats differ")
        })
    };
    let weights: Vec<Scalar> = points.iter().map(weight).collect();
    let points: Vec<G1Affine> = points.iter().map(|(_, point)| *point).collect();
    G1::sum_of_products(&points, &weights).to_affine()
}
