//! An application's offers, choices and blocks.

use std::collections::{BTreeMap, HashMap};

use cascade_consensus::{BuildRequest, BuiltBlock, Finalized, Verdict};
use cascade_crypto::{
    ecdsa,
    envelope::{self, Terms},
};
use cascade_primitives::{Address, B256, Bytes, RecoveredEnvelope, RecoveredItem, envelope::SALT_BYTES};

use super::*;
use crate::{
    economy::{AGAIN_MS, Choice, Economy, Offer, Ordered, Place, Shown},
    sealed::{Dice, Opened},
};

/// An offer whose block is not final yet.
#[derive(Debug)]
struct Sent {
    offer: Offer,
    attacker: bool,
    /// Its number in the clear.
    number: u64,
    /// As it is on its way, with the epoch that it is sealed for and its last height; none while there is no key.
    raw: Option<(Bytes, Epoch, Height)>,
    at: u64,
}

/// The application of a run, and what clients keep of it.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    economy: &'a mut dyn Economy,
    sent: Vec<Sent>,
    /// The newest height that it has executed.
    executed: Height,
    roots: BTreeMap<Height, B256>,
    /// Who made the final blocks that are not executed yet.
    producers: BTreeMap<Height, Address>,
    /// The highest block that is final anywhere.
    height: Height,
    /// What items of blocks show, by their bytes.
    items: HashMap<Bytes, Arc<Item>>,
    rng: Rng,
    dice: Dice,
}

/// An item of a block or pool.
#[derive(Debug)]
enum Item {
    Clear(Bytes),
    Sealed(Box<RecoveredEnvelope>),
}

impl Item {
    const fn shown(&self) -> Shown<'_> {
        match self {
            Self::Clear(payload) => Shown::Clear(payload),
            Self::Sealed(envelope) => Shown::Sealed(envelope),
        }
    }

    /// What can be read without keys.
    fn payload(&self) -> Option<Bytes> {
        match self {
            Self::Clear(payload) => Some(payload.clone()),
            Self::Sealed(_) => None,
        }
    }
}

impl<'a, B: Bugs> World<'a, B> {
    /// Gives the run to an application.
    pub(crate) fn employ(&mut self, economy: &'a mut dyn Economy) {
        economy.begin(self.rules.params(), &self.rules.signing);
        self.checker.waits_for_roots();
        self.stage = Some(Box::new(Stage {
            economy,
            sent: Vec::new(),
            executed: Height(0),
            roots: BTreeMap::new(),
            producers: BTreeMap::new(),
            height: Height(0),
            items: HashMap::new(),
            rng: Rng::new(self.seed, 41),
            dice: Dice::new(Rng::new(self.seed, 42)),
        }));
    }

    fn is_attacker(&self, node: usize) -> bool {
        self.plan.byzantine.contains_key(&self.plan.key(node))
    }

    /// Where something enters: at an honest node, or at one of the attacker's, if such a one is up.
    fn entrance(&mut self, attacker: bool) -> Option<usize> {
        let fit = |i: &usize| self.nodes[*i].is_up() && self.is_attacker(*i) == attacker;
        let up: Vec<usize> = (0..self.nodes.len()).filter(fit).collect();
        let stage = self.stage.as_mut()?;
        if up.is_empty() { None } else { Some(*stage.rng.pick(&up)) }
    }

    /// Users are asked, and what waits for too long is sent again.
    pub(super) fn trade(&mut self) {
        let Some(stage) = &mut self.stage else { return };
        let now = self.now;
        let (waiting, old) = std::mem::take(&mut stage.sent).into_iter().partition(|sent| now < sent.at + AGAIN_MS);
        stage.sent = waiting;
        for sent in old {
            self.send_out(sent);
        }
        if self.clients && (self.beside.is_none() || self.sealing_key().is_some()) {
            let offers = self.stage.as_mut().map(|stage| stage.economy.users()).unwrap_or_default();
            self.offer(offers, false);
        }
    }

    /// Sends offers, each with what the attacker answers to it.
    fn offer(&mut self, offers: Vec<Offer>, attacker: bool) {
        for offer in offers {
            self.submitted += 1;
            self.send_out(Sent { offer, attacker, number: self.submitted, raw: None, at: 0 });
        }
    }

    /// Gives an offer to a node, sealed (anew) if it has to be; the attacker hears of what it has not heard.
    fn send_out(&mut self, mut sent: Sent) {
        sent.at = self.now;
        let (height, epoch) = (self.checker.height(), self.checker.epoch());
        let lapsed = |of: &(Bytes, Epoch, Height)| self.beside.is_some() && (of.1 < epoch || of.2 < height);
        let is_new = sent.raw.as_ref().is_none_or(lapsed);
        let mut heard = None;
        if is_new {
            (sent.raw, heard) = match self.wrap(&sent) {
                Some((raw, epoch, until, item)) => (Some((raw, epoch, until)), Some(item)),
                None => (None, None),
            };
        }
        let (raw, attacker) = (sent.raw.as_ref().map(|(raw, ..)| raw.clone()), sent.attacker);
        self.stage.as_mut().expect("an application sends").sent.push(sent);
        let Some(raw) = raw else { return };
        let ears: Vec<usize> =
            (0..self.nodes.len()).filter(|&i| self.nodes[i].is_up() && self.is_attacker(i)).collect();
        if let Some(first) = self.entrance(attacker) {
            self.add_transaction(first, &raw);
            for to in (0..self.nodes.len()).filter(|&to| to != first) {
                self.transmit(first, to, Payload::Transaction(raw.clone()));
            }
        }
        ears.into_iter().for_each(|node| self.add_transaction(node, &raw));
        if let Some(item) = heard.filter(|_| !attacker) {
            let answer = self.stage.as_mut().expect("an application sends").economy.overheard(item.shown());
            self.offer(answer, true);
        }
    }

    /// The key that clients seal to, with its epoch and the height that they see.
    fn sealing_key(&self) -> Option<(cascade_crypto::threshold::EncryptionKey, Epoch, Height)> {
        let parties = (0..self.nodes.len()).filter(|&i| self.checker.is_honest(i));
        let parties = parties.filter_map(|i| self.nodes[i].running.as_ref()?.party.as_ref());
        let party = parties.max_by_key(|party| party.head())?;
        let (epoch, height) = party.head();
        Some((party.agreed(epoch)?.keys.decryption.encryption_key(), epoch, height))
    }

    fn wrap(&mut self, sent: &Sent) -> Option<(Bytes, Epoch, Height, Item)> {
        if self.beside.is_none() {
            let (raw, item) = (app::offer(sent.number, &sent.offer.payload), Item::Clear(sent.offer.payload.clone()));
            return Some((raw, Epoch(0), Height(u64::MAX), item));
        }
        let (key, epoch, seen) = self.sealing_key()?;
        let (payer, terms) = sent.offer.cover.expect("on an encrypted chain somebody pays");
        let terms = Terms { epoch, valid_until: seen.plus(self.rules.params().max_validity), ..terms };
        let dice = &mut self.stage.as_mut()?.dice;
        let sealed = envelope::seal(&key, &self.rules.signing, &terms, &sent.offer.payload, &payer, dice);
        let sealed = sealed.expect("an application offers what fits an envelope");
        let raw = sealed.raw().clone();
        self.beside.as_mut()?.user_sealed(&raw, sent.offer.payload.clone());
        Some((raw, epoch, terms.valid_until, Item::Sealed(Box::new(sealed))))
    }

    /// A block is final somewhere.
    pub(super) fn ordered(&mut self, finalized: &Finalized) {
        let Some(stage) = &mut self.stage else { return };
        let block = &finalized.block;
        if block.header.height == stage.height.next() {
            stage.height = block.header.height;
            stage.producers.insert(block.header.height, finalized.producer);
            let carried =
                |sent: &Sent| sent.raw.as_ref().is_some_and(|(raw, ..)| block.body.transactions.contains(raw));
            stage.sent.retain(|sent| !carried(sent));
        }
    }

    /// What the items of a block show that nodes find well formed.
    fn items(&mut self, block: &SealedBlock) -> Vec<Arc<Item>> {
        let (sealed, rules) = (self.beside.is_some(), &self.rules);
        let stage = self.stage.as_mut().expect("an application looks at blocks");
        let item = |raw: &Bytes| {
            if !sealed {
                return Item::Clear(app::offered(raw));
            }
            match ecdsa::recover_item(raw.clone(), &rules.signing, rules.params()) {
                Ok(RecoveredItem::Envelope(envelope)) => Item::Sealed(envelope),
                other => unreachable!("envelopes alone stand in blocks: {other:?}"),
            }
        };
        let mut known = |raw: &Bytes| Arc::clone(stage.items.entry(raw.clone()).or_insert_with(|| Arc::new(item(raw))));
        block.body.transactions.iter().map(&mut known).collect()
    }

    /// Whether the application finds a block's content lawful.
    pub(super) fn judge_by_law(&mut self, block: &SealedBlock, request: &BuildRequest) -> Verdict {
        let above: Vec<Arc<Item>> = request.ancestors.iter().flat_map(|block| self.items(block)).collect();
        let items = self.items(block);
        let above: Vec<Shown<'_>> = above.iter().map(|item| item.shown()).collect();
        let items: Vec<Shown<'_>> = items.iter().map(|item| item.shown()).collect();
        let place = Place { state: request.state_height, above: &above };
        let stage = self.stage.as_ref().expect("an application judges");
        if stage.economy.is_lawful(place, &items) { Verdict::Valid } else { Verdict::Invalid("unlawful".to_owned()) }
    }

    /// The root of the application's state after the block that a node executes next; the first time it is executed for it.
    pub(super) fn root_after(&mut self, block: &SealedBlock, opened: Option<&Opened>) -> Option<B256> {
        let height = block.header.height;
        if let Some(root) = self.stage.as_ref()?.roots.get(&height) {
            return Some(*root);
        }
        let items = self.items(block);
        let payloads = match opened {
            Some(opened) => opened.payloads.iter().map(|p| Some(p.as_ref()?.slice(SALT_BYTES..))).collect(),
            None => items.iter().map(|item| item.payload()).collect(),
        };
        let producer = self.stage.as_mut()?.producers.remove(&height);
        let attacker = producer.is_some_and(|address| {
            self.plan.byzantine.keys().any(|node| address == Address::with_last_byte(*node as u8 + 1))
        });
        let ordered = Ordered {
            height,
            epoch: block.header.epoch,
            attacker,
            items: items.iter().map(|item| item.shown()).collect(),
            payloads,
            beacon: opened.map(|opened| opened.beacon).unwrap_or_default(),
        };
        let stage = self.stage.as_mut()?;
        assert_eq!(height, stage.executed.next(), "whoever executes first executes in order");
        stage.executed = height;
        let (root, answer) = stage.economy.execute(&ordered);
        stage.roots.insert(height, root);
        self.checker.root(height, root);
        self.offer(answer, true);
        Some(root)
    }

    /// The content of a leader's block, as the application chooses it.
    pub(super) fn build_by_choice(&mut self, i: usize, request: &BuildRequest) -> Option<BuiltBlock> {
        let attacker = self.is_attacker(i);
        let above: Vec<Arc<Item>> = request.ancestors.iter().flat_map(|block| self.items(block)).collect();
        let above: Vec<Shown<'_>> = above.iter().map(|item| item.shown()).collect();
        let place = Place { state: request.state_height, above: &above };
        let stage = self.stage.take()?;
        let mut choose = |waiting: &[Shown<'_>]| stage.economy.select(&Choice { attacker, place, waiting });
        let mut built = None;
        if self.beside.is_some() {
            self.with_party(i, |party, kit| built = Some(party.build(request, kit, Some(&mut choose))));
        } else if let Some(running) = &self.nodes[i].running {
            built = Some(running.app.build(request, Some(&mut choose)));
        }
        self.stage = Some(stage);
        built
    }
}
