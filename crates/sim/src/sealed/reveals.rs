//! A party's part in reveals: what the sequencer's actor for reveals does.

use std::sync::Arc;

use cascade_consensus::{Bugs, ChainContext};
use cascade_crypto::threshold::BlockShares;
use cascade_mempool::reveal::{Effect, FinalBlock, Opening, RevealMessage};
use cascade_primitives::{Certificate, Height, NodeId, SealedBlock};

use super::{Kit, Opened, Out, Party, items::Checked, party::Pending};

impl<B: Bugs> Party<B> {
    /// Hands final blocks to the core as far as the keys are known.
    pub(super) fn feed(&mut self, kit: &mut Kit<'_, B>) {
        while let Some(stored) = self.waiting.front().cloned() {
            let is_opened = ChainContext::is_opened(&self.who.rules, &stored.block);
            let envelopes = match self.envelopes_of(&stored.block, is_opened, kit) {
                None => return,
                Some(Ok(envelopes)) => envelopes,
                Some(Err(why)) => {
                    let height = stored.block.header.height;
                    self.emit(Out::Fatal(format!("final block {height} has an item that is none: {why}")));
                    return;
                }
            };
            self.waiting.pop_front();
            let certificate = &stored.finality.as_ref().expect("only genesis has none").certificate;
            self.hand_over(&stored.block, envelopes, Arc::clone(certificate), kit);
        }
    }

    fn hand_over(
        &mut self,
        block: &Arc<SealedBlock>,
        envelopes: Option<Vec<Arc<Checked>>>,
        certificate: Arc<Certificate>,
        kit: &mut Kit<'_, B>,
    ) {
        let height = block.header.height;
        let bases = envelopes.as_ref().map(|envelopes| envelopes.iter().map(|checked| checked.base).collect());
        let input = FinalBlock {
            height,
            epoch: block.header.epoch,
            committee_root: block.header.committee_root,
            hash: block.hash(),
            certificate,
            bases,
            reveals: block.body.reveals.clone(),
        };
        self.pending.insert(height, Pending { block: Arc::clone(block), envelopes });
        let effects = self.reveals.on_final(kit.now, input, kit.dice);
        self.execute(effects, kit);
    }

    /// The envelopes of a block, none if it is not opened; nothing while its epoch's keys are not known.
    pub(super) fn envelopes_of(
        &self,
        block: &SealedBlock,
        is_opened: bool,
        kit: &mut Kit<'_, B>,
    ) -> Option<Result<Option<Vec<Arc<Checked>>>, String>> {
        if !is_opened {
            return Some(Ok(None));
        }
        let key = self.holder_of(block)?.keys.decryption.encryption_key();
        let checked: Result<Vec<_>, _> = block.body.transactions.iter().map(|raw| kit.items.check(raw, &key)).collect();
        Some(checked.map(Some))
    }

    pub(super) fn execute(&mut self, effects: Vec<Effect>, kit: &mut Kit<'_, B>) {
        for effect in effects {
            match effect {
                Effect::Broadcast(message) => self.tell(None, message),
                Effect::Send(to, message) => self.tell(Some(to), message),
                Effect::Revealed(height, opening) => self.revealed(height, opening, kit),
                Effect::Misbehaved(node, what) => self.emit(Out::Accused(node, what)),
                Effect::Contradiction(height) => {
                    self.emit(Out::Fatal(format!("a final block opens block {height} with values that are wrong")));
                }
            }
        }
    }

    fn revealed(&mut self, height: Height, opening: Option<Opening>, kit: &mut Kit<'_, B>) {
        let Some(Pending { block, envelopes }) = self.pending.remove(&height) else { return };
        let opened = match (opening, envelopes) {
            (Some(opening), Some(envelopes)) => {
                let payloads = envelopes
                    .iter()
                    .zip(&opening.values)
                    .map(|(checked, value)| kit.items.open(checked, value))
                    .collect();
                Some(Arc::new(Opened { reveal: opening.reveal, beacon: opening.beacon, payloads }))
            }
            _ => None,
        };
        // Whoever reads blocks after this one needs no keys of epochs before its own.
        let epoch = block.header.epoch;
        self.reveals.forget_before(epoch);
        self.ring = self.ring.split_off(&epoch);
        self.agreed = self.agreed.split_off(&epoch);
        self.emit(Out::Opened(block, opened));
    }

    /// A peer's message.
    pub(crate) fn on_reveal(&mut self, from: NodeId, message: RevealMessage, kit: &mut Kit<'_, B>) {
        if let RevealMessage::Request(height) = message
            && height < self.reveals.next()
            && self.reveals.revealed(height).is_none()
        {
            // Long ago: from the database.
            if let Some(reveal) = kit.vault.reveal(height) {
                self.tell(Some(from), RevealMessage::Reveal(Arc::clone(reveal)));
            }
            return;
        }
        if let (Some(liar), RevealMessage::Shares(shares, _)) = (&mut self.liar, &message) {
            liar.hears(shares);
        }
        let effects = self.reveals.on_message(from, message, kit.dice);
        self.execute(effects, kit);
    }

    /// Time passes.
    pub(crate) fn look(&mut self, kit: &mut Kit<'_, B>) {
        let effects = self.reveals.tick(kit.now);
        self.execute(effects, kit);
        self.ask_early();
    }

    /// With the planted bug: makes shares of a block for which this node votes to commit.
    pub(crate) fn on_commit_vote(
        &mut self,
        block: &Arc<SealedBlock>,
        prepared: Arc<Certificate>,
        kit: &mut Kit<'_, B>,
    ) {
        let Some(Ok(Some(envelopes))) = self.envelopes_of(block, !block.body.transactions.is_empty(), kit) else {
            return;
        };
        let Some(secret) = self.holder_of(block).and_then(|holder| holder.secret.clone()) else { return };
        let header = &block.header;
        let message = cascade_crypto::threshold::beacon::message(
            &self.who.rules.signing,
            header.epoch,
            header.height,
            block.hash(),
        );
        let beacon = cascade_crypto::threshold::beacon::base(&message);
        let bases: Vec<_> = envelopes.iter().map(|checked| checked.base).collect();
        let place = (self.who.rules.signing.fork, header.height, block.hash());
        let shares = Arc::new(BlockShares::create(place, &secret, &beacon, &bases));
        self.emit(Out::Tell(None, RevealMessage::Shares(shares, prepared)));
    }
}
