//! A party's part in key generation: what the sequencer's actor for keys does, step by step.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock, Mutex},
};

use cascade_consensus::{Bugs, ChainContext};
use cascade_crypto::{
    VoteScheme, VoteSigner,
    bugs::{SealedBug, SealedBugs},
    dkg::{Dealing, DealingError, KeyGeneration, Parameters, RecipientSecret, VerifiedDealing, dealing},
    threshold::{EpochKeys, store},
};
use cascade_mempool::{
    keybook::{KeyBook, KeyEvent, Offer},
    reveal::Holder,
};
use cascade_primitives::{
    B256, Committee, Decode as _, Encode as _, Epoch, Height, MemberIndex, NodeId, SystemItem, domain, hash,
};
use sha2::{Digest as _, Sha256};

use super::{Dice, Kit, Out, Party, liar::Liar, vault::Kind};
use crate::disk::Stored;

/// Rounds after which dealings, which are large, are given out again.
const DEALING_ROUNDS: u64 = 5;
/// Dealings and verdicts that are remembered.
const REMEMBERED: usize = 4096;

/// How often each node made a secret or a dealing for a committee: none is ever made twice with the same randomness.
pub(crate) type Attempts = BTreeMap<(NodeId, B256, bool), u64>;

type Verdict = Result<VerifiedDealing, DealingError>;

static DEALT: LazyLock<Mutex<HashMap<B256, Dealing>>> = LazyLock::new(Mutex::default);
static VERDICTS: LazyLock<Mutex<HashMap<B256, Verdict>>> = LazyLock::new(Mutex::default);

fn remembered<T: Clone>(memory: &Mutex<HashMap<B256, T>>, key: B256, make: impl FnOnce() -> T) -> T {
    if let Some(known) = memory.lock().expect("nothing panics with it held").get(&key) {
        return known.clone();
    }
    let made = make();
    let mut memory = memory.lock().expect("nothing panics with it held");
    if memory.len() >= REMEMBERED {
        memory.clear();
    }
    memory.insert(key, made.clone());
    made
}

/// The flags of the planted bugs that change dealings and verdicts.
fn flags<B: SealedBugs>(bugs: &B) -> [u8; 2] {
    [bugs.sealed(SealedBug::ThresholdTooLow), bugs.sealed(SealedBug::DealingUnchecked)].map(u8::from)
}

/// The verdict on a dealing, made once for all nodes and runs.
pub(crate) fn verdict<B: SealedBugs>(
    bugs: &B,
    scheme: &dyn VoteScheme,
    generation: &KeyGeneration,
    dealing: &Dealing,
    dice: &mut Dice,
) -> Verdict {
    let digest = dealing.digest(generation.parameters());
    let key = hash::tagged(domain::DEALING, &[digest.as_slice(), &dealing.signature.0, &flags(bugs)]);
    remembered(&VERDICTS, key, || generation.verify_with(bugs, dealing, scheme, dice))
}

/// The dealing that a dealer makes for these recipients at its n-th attempt, made once for all runs.
pub(crate) fn deal<B: SealedBugs>(
    bugs: &B,
    parameters: &Parameters,
    dealer: MemberIndex,
    signer: &dyn VoteSigner,
    attempt: u64,
) -> Dealing {
    let mut hasher = Sha256::new();
    hasher.update(parameters.context.genesis_hash);
    hasher.update(parameters.epoch.0.to_le_bytes());
    hasher.update(parameters.dealer_keys[dealer.index()].0);
    hasher.update([dealer.0 as u8, parameters.recipients.members() as u8]);
    for (member, key) in parameters.recipient_keys.iter().enumerate() {
        hasher.update([parameters.recipients.seats(MemberIndex(member as u16)).len() as u8]);
        hasher.update(key.to_compressed());
    }
    hasher.update(attempt.to_le_bytes());
    hasher.update(flags(bugs));
    let key = B256::from(<[u8; 32]>::from(hasher.finalize()));
    remembered(&DEALT, key, || dealing::deal(parameters, dealer, signer, &mut Dice::of(&key)))
}

impl<B: Bugs> Party<B> {
    /// What is stored of keys, from the epoch of the oldest block that is not executed on.
    pub(super) fn load_ring(&mut self, context: &ChainContext, executed: Height, kit: &mut Kit<'_, B>) {
        let oldest = oldest_epoch(context, executed, kit);
        let committees = (oldest.0..context.epoch.0).filter_map(|epoch| committee_of(Epoch(epoch), kit.blocks));
        let all = committees.chain([Arc::clone(&context.committee), Arc::clone(&context.next_committee)]);
        for committee in all.collect::<Vec<_>>() {
            if let Some(holder) = self.load_holder(committee, kit) {
                self.keys_are_known(holder, kit);
            }
        }
    }

    fn load_holder(&self, committee: Arc<Committee>, kit: &Kit<'_, B>) -> Option<Holder> {
        let (epoch, root) = (committee.epoch(), committee.members_root());
        let keys = EpochKeys::from_slice(kit.vault.key(Kind::Public, epoch, &root)?).expect("it was stored whole");
        let secret = kit.vault.key(Kind::Shares, epoch, &root).map(|record| {
            Arc::new(store::open_shares(&self.who.owner, epoch, record).expect("it was sealed by this node"))
        });
        Some(Holder::new(Arc::new(keys), committee, secret))
    }

    /// Reads the stored blocks, and makes up for keys that were complete in the log and not stored yet.
    pub(super) fn read_stored(&mut self, context: &ChainContext, executed: Height, kit: &mut Kit<'_, B>) {
        let oldest = oldest_epoch(context, executed, kit);
        for epoch in (oldest.0.max(1)..=context.epoch.0).map(Epoch) {
            let recipients = match epoch == context.epoch {
                true => Some(Arc::clone(&context.committee)),
                false => committee_of(epoch, kit.blocks),
            };
            if let (Some(dealers), Some(recipients)) = (committee_of(epoch.minus(1), kit.blocks), recipients) {
                let stored = self.holder(epoch);
                let announced = kit.vault.key(Kind::Recipient, epoch, &recipients.members_root()).is_some();
                if stored.is_some_and(|holder| holder.secret.is_some() || !announced) {
                    continue;
                }
                let book = self.read_epoch(dealers, recipients, kit);
                if let Some(holder) = self.store_keys(&book, kit) {
                    self.keys_are_known(holder, kit);
                }
            }
        }
        self.book = self.read_epoch(Arc::clone(&context.committee), Arc::clone(&context.next_committee), kit);
    }

    fn read_epoch(&self, dealers: Arc<Committee>, recipients: Arc<Committee>, kit: &mut Kit<'_, B>) -> KeyBook<B> {
        let (epoch, rules) = (dealers.epoch(), &self.who.rules);
        let of_epoch = |stored: &&Stored| stored.block.header.epoch == epoch && stored.block.header.height.0 > 0;
        let first = kit
            .blocks
            .iter()
            .find(of_epoch)
            .map_or(kit.blocks.last().expect("genesis is there").block.header.height.next(), |stored| {
                stored.block.header.height
            });
        // Epoch 0 begins with genesis.
        let first = if epoch == Epoch(0) { Height(0) } else { first };
        let mut book = KeyBook::with_bugs(
            self.bugs.clone(),
            rules.signing,
            rules.params(),
            Arc::clone(&self.who.scheme),
            first,
            (Arc::clone(&dealers), Arc::clone(&recipients)),
        );
        for stored in kit.blocks.iter().filter(|stored| stored.block.header.epoch == epoch) {
            book.on_final(&stored.block, (&dealers, &recipients), &mut |generation, dealing| {
                verdict(&self.bugs, self.who.scheme.as_ref(), generation, dealing, kit.dice)
            });
        }
        book
    }

    /// Stores a book's complete keys, and this node's shares of them.
    fn store_keys(&mut self, book: &KeyBook<B>, kit: &mut Kit<'_, B>) -> Option<Holder> {
        let keys = book.generation()?.keys()?.clone();
        let (epoch, root) = (book.epoch(), book.recipients().members_root());
        let mut records = vec![(Kind::Public, keys.to_bytes())];
        let mut secret = None;
        let record = kit.vault.key(Kind::Recipient, epoch, &root);
        if let Some(recipient) = record.and_then(|r| store::open_recipient(&self.who.owner, epoch, r).ok())
            && let Some(shares) = book.shares(&self.who.node, &recipient)
        {
            let record = store::seal_shares(&self.who.owner, &shares, kit.dice);
            records.push((Kind::Shares, record));
            secret = Some(Arc::new(shares));
        }
        // One write: no crash takes the shares and leaves the keys.
        self.put(epoch, root, records, kit);
        Some(Holder::new(Arc::new(keys), Arc::clone(book.recipients()), secret))
    }

    /// A synced write, unless it died before.
    fn put(&mut self, epoch: Epoch, root: B256, records: Vec<(Kind, Vec<u8>)>, kit: &mut Kit<'_, B>) {
        if self.step() {
            for (kind, record) in records {
                kit.vault.put_key(kind, epoch, root, record);
            }
        }
    }

    fn keys_are_known(&mut self, holder: Holder, kit: &mut Kit<'_, B>) {
        self.ring.insert(holder.keys.epoch, holder.clone());
        let effects = self.reveals.on_keys(holder, kit.dice);
        self.execute(effects, kit);
        self.feed(kit);
    }

    /// A block is final.
    pub(super) fn keys_on_final(&mut self, stored: &Stored, kit: &mut Kit<'_, B>) {
        let context = &stored.context;
        let before = (self.book.epoch(), self.book.recipients().members_root());
        let (bugs, scheme) = (&self.bugs, self.who.scheme.as_ref());
        let events = self.book.on_final(
            &stored.block,
            (&context.committee, &context.next_committee),
            &mut |generation, dealing| verdict(bugs, scheme, generation, dealing, kit.dice),
        );
        debug_assert!(events.iter().filter(|e| matches!(e, KeyEvent::Complete(_))).count() <= 1);
        self.agree(context);
        if self.book.epoch() != before.0 {
            self.start_over();
        } else if self.book.recipients().members_root() != before.1 {
            self.start_over();
            self.ready = None;
            self.ring.remove(&before.0);
        }
        let kept = self.who.rules.params().old_keys_kept;
        if self.erased < context.epoch && stored.block.header.height >= self.book.first().plus(kept) {
            self.erased = context.epoch;
            for (_, holder) in self.ring.range_mut(..context.epoch) {
                holder.secret = None;
            }
            self.reveals.erase_secrets_before(context.epoch);
            if self.step() {
                kit.vault.erase_secrets_before(context.epoch);
            }
        }
        self.pursue(kit);
    }

    /// What a final block says of keys that are agreed on.
    pub(super) fn agree(&mut self, context: &ChainContext) {
        for committee in [&context.committee, &context.next_committee] {
            if committee.threshold_keys().0.is_some() {
                self.agreed.insert(committee.epoch(), committee.root());
            }
        }
    }

    fn start_over(&mut self) {
        self.offers.clear();
        self.own.clear();
        self.dealt_for = None;
        self.recipient = None;
    }

    /// Does what is next for this node.
    pub(super) fn pursue(&mut self, kit: &mut Kit<'_, B>) {
        self.announce(kit);
        self.deal(kit);
        self.complete(kit);
        let book = &self.book;
        self.offers.retain(|_, item| book.is_open(item));
        self.own.retain(|item| book.is_open(item));
    }

    fn announce(&mut self, kit: &mut Kit<'_, B>) {
        let (node, epoch, root) = (self.who.node, self.book.epoch(), self.book.recipients().members_root());
        if self.book.recipients().index_of(&node).is_none() {
            return;
        }
        if self.recipient.is_none() {
            let record = kit.vault.key(Kind::Recipient, epoch, &root);
            self.recipient = record.and_then(|record| store::open_recipient(&self.who.owner, epoch, record).ok());
        }
        let announced = self.own.iter().any(|item| matches!(item, SystemItem::RecipientKey(_)));
        if announced || self.book.has_announced(&node) {
            return;
        }
        let attempt = attempt(kit, node, root, true);
        let place = [node.0.as_slice(), root.as_slice(), &attempt.to_le_bytes()].concat();
        let mut dice = Dice::of(&B256::from(<[u8; 32]>::from(Sha256::digest(&place))));
        if self.recipient.is_none() {
            let secret = RecipientSecret::generate(epoch, &mut dice);
            let record = store::seal_recipient(&self.who.owner, &secret, kit.dice);
            self.put(epoch, root, vec![(Kind::Recipient, record)], kit);
            self.recipient = Some(secret);
        }
        let secret = self.recipient.as_ref().expect("it is there now");
        let item = secret.announce(&self.who.rules.signing, (root, node), self.who.signer.as_ref(), &mut dice);
        let others = self.others_key();
        let (item, habit) = match &mut self.liar {
            Some(liar) => liar.bend_key(item, others, (&self.who.rules.signing, self.who.signer.as_ref())),
            None => (Some(item), None),
        };
        self.lied(habit);
        if let Some(item) = item {
            self.put_forward(SystemItem::RecipientKey(item.to_bytes().into()));
        }
    }

    fn deal(&mut self, kit: &mut Kit<'_, B>) {
        let Some(me) = self.book.may_deal(&self.who.node) else { return };
        let root = self.book.recipients().members_root();
        if self.dealt_for == Some(root) {
            return;
        }
        let Some(generation) = self.book.generation() else { return };
        let others = self.others_dealing(me);
        if others.is_none() && self.liar.as_ref().is_some_and(Liar::waits_for_dealings) {
            return;
        }
        self.dealt_for = Some(root);
        let attempt = attempt(kit, self.who.node, root, false);
        let (parameters, signer) = (generation.parameters().clone(), Arc::clone(&self.who.signer));
        let make = |attempt| deal(&self.bugs, &parameters, me, signer.as_ref(), attempt);
        let right = make(attempt);
        let (dealings, habit) = match &mut self.liar {
            Some(liar) => liar.bend_dealing(right, || make(attempt + 1000), others, (&parameters, signer.as_ref())),
            None => (vec![right], None),
        };
        self.lied(habit);
        for dealing in dealings {
            self.put_forward(SystemItem::Dealing(dealing.to_bytes().into()));
        }
    }

    /// Once the keys are complete: stores them and this node's shares, and says that it is ready.
    fn complete(&mut self, kit: &mut Kit<'_, B>) {
        let (epoch, root) = (self.book.epoch(), self.book.recipients().members_root());
        if self.ready.is_some_and(|(ready, of, _)| (ready, of) == (epoch, root)) {
            return;
        }
        let book = self.book.clone();
        let Some(holder) = self.store_keys(&book, kit) else { return };
        let can_serve = holder.secret.is_some();
        self.ready = Some((epoch, root, can_serve));
        let mut keys = holder.keys.commitment();
        self.keys_are_known(holder, kit);
        let mut habit = None;
        if let Some(liar) = &mut self.liar {
            (keys, habit) = liar.bend_commitment(keys);
        }
        self.lied(habit);
        if can_serve {
            self.emit(Out::KeysReady(epoch, root, keys));
        }
    }

    fn put_forward(&mut self, item: SystemItem) {
        self.own.push(item.clone());
        self.emit(Out::Spread(item.clone()));
        self.offer(item);
    }

    fn offer(&mut self, item: SystemItem) {
        self.offers.entry(hash::of(domain::SYSTEM_ITEM, &item)).or_insert(item);
    }

    /// A second is over: what the log does not have yet is given out again.
    pub(crate) fn repeat(&mut self) {
        self.rounds += 1;
        let all = self.rounds.is_multiple_of(DEALING_ROUNDS);
        let due: Vec<_> =
            self.own.iter().filter(|item| all || !matches!(item, SystemItem::Dealing(_))).cloned().collect();
        due.into_iter().for_each(|item| self.emit(Out::Spread(item)));
    }

    /// An item by gossip.
    pub(crate) fn on_item(&mut self, from: NodeId, item: SystemItem, kit: &mut Kit<'_, B>) {
        let (bugs, scheme) = (&self.bugs, self.who.scheme.as_ref());
        let mut check =
            |generation: &KeyGeneration, dealing: &Dealing| verdict(bugs, scheme, generation, dealing, kit.dice);
        match self.book.on_offer(&from, &item, self.offers.values(), &mut check) {
            Offer::Waits => self.offer(item),
            Offer::Useless => {}
            Offer::Dishonest(what) => self.emit(Out::Accused(from, what)),
        }
    }
}

fn attempt<B: Bugs>(kit: &mut Kit<'_, B>, node: NodeId, root: B256, recipient: bool) -> u64 {
    let attempts = kit.attempts.entry((node, root, recipient)).or_default();
    *attempts += 1;
    *attempts
}

/// The epoch of the oldest block that is not executed.
fn oldest_epoch<B: Bugs>(context: &ChainContext, executed: Height, kit: &Kit<'_, B>) -> Epoch {
    let oldest = executed.next().min(context.height);
    kit.blocks.get(oldest.0 as usize).map_or(context.epoch, |stored| stored.block.header.epoch)
}

/// The committee of an epoch that has begun.
fn committee_of(epoch: Epoch, blocks: &[Stored]) -> Option<Arc<Committee>> {
    let of_epoch = blocks.iter().find(|stored| stored.context.epoch == epoch)?;
    Some(Arc::clone(&of_epoch.context.committee))
}
