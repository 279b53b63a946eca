//! Envelopes, checked once for all nodes: the answer follows from the bytes and the key.

use std::{collections::HashMap, sync::Arc};

use cascade_crypto::{
    bugs::{SealedBug, SealedBugs},
    curve::G1Affine,
    ecdsa, envelope,
    threshold::{Ciphertext, EncryptionKey, EncryptionScheme as _, Label, Tdh2},
};
use cascade_primitives::{
    B256, Bytes, ChainParams, Decode as _, Epoch, Height, RecoveredEnvelope, RecoveredItem, SigningContext, keccak256,
};

use super::Dice;

/// An envelope whose signature and proof hold.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) envelope: RecoveredEnvelope,
    /// What shares are made of.
    pub(crate) base: G1Affine,
}

/// The name of an item by its bytes.
pub(crate) fn name(raw: &Bytes) -> B256 {
    keccak256(raw)
}

#[derive(Debug)]
pub(crate) struct Items<B: SealedBugs> {
    pub(crate) bugs: B,
    pub(crate) context: SigningContext,
    pub(crate) params: ChainParams,
    known: HashMap<(B256, [u8; 48]), Result<Arc<Checked>, String>>,
    dice: Dice,
}

impl<B: SealedBugs> Items<B> {
    pub(crate) fn new(bugs: B, context: SigningContext, params: &ChainParams, dice: Dice) -> Self {
        Self { bugs, context, params: params.clone(), known: HashMap::new(), dice }
    }

    /// The envelope in these bytes, if it is sealed to this key by its payer.
    pub(crate) fn check(&mut self, raw: &Bytes, key: &EncryptionKey) -> Result<Arc<Checked>, String> {
        let place = (name(raw), key.to_bytes());
        if let Some(known) = self.known.get(&place) {
            return known.clone();
        }
        let answer = self.check_anew(raw, key);
        self.known.insert(place, answer.clone());
        answer
    }

    fn check_anew(&mut self, raw: &Bytes, key: &EncryptionKey) -> Result<Arc<Checked>, String> {
        let item = ecdsa::recover_item(raw.clone(), &self.context, &self.params).map_err(|e| e.to_string())?;
        let RecoveredItem::Envelope(envelope) = item else {
            return Err("a deposit, of which there are none".to_owned());
        };
        let sealed = envelope::check_with(&self.bugs, key, &self.context, &[&envelope], &mut self.dice).remove(0);
        let sealed = sealed.map_err(|e| e.to_string())?;
        Ok(Arc::new(Checked { base: *sealed.base(), envelope: *envelope }))
    }

    /// Whether a block of an epoch at a height may carry an envelope: the ledger's rule, as far as it goes here.
    pub(crate) fn may_stand(&self, checked: &Checked, epoch: Epoch, height: Height) -> Result<(), String> {
        let envelope = &checked.envelope;
        if envelope.epoch != epoch {
            return Err(format!("an envelope of epoch {} in epoch {epoch}", envelope.epoch));
        }
        let expired = envelope.valid_until < height && !self.bugs.sealed(SealedBug::ShareAfterValidUntil);
        if expired || envelope.valid_until > height.plus(self.params.max_validity) {
            return Err(format!("an envelope that is valid until {} at {height}", envelope.valid_until));
        }
        Ok(())
    }

    /// What is in an envelope, opened with its combined value.
    pub(crate) fn open(&self, checked: &Checked, value: &G1Affine) -> Option<Bytes> {
        let envelope = &checked.envelope;
        let ciphertext = Ciphertext::from_shared(&envelope.ciphertext).ok()?;
        Tdh2.open(&ciphertext, &Label(envelope.label(&self.context, envelope.payer())), value).ok()
    }
}
