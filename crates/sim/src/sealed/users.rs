//! Honest users: they seal something that nobody else knows and give it to the nodes.

use cascade_crypto::{
    ecdsa::SecretKey,
    envelope::{self, Terms},
    threshold::EncryptionKey,
};
use cascade_primitives::{Bytes, Epoch, Height, SigningContext};

use super::Dice;
use crate::rng::Rng;

const USERS: u64 = 6;

#[derive(Debug)]
pub(crate) struct Users {
    rng: Rng,
    dice: Dice,
    nonce: u64,
}

/// The key of a payer. Numbers from 100 on are the adversary's.
pub(super) fn payer(number: u64) -> SecretKey {
    let mut bytes = [0x5e; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    SecretKey::from_byte_array(bytes).expect("it is neither zero nor above the order")
}

impl Users {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed, 21), dice: Dice::new(Rng::new(seed, 22)), nonce: 0 }
    }

    /// An envelope for an epoch, made by somebody who saw the chain at a height, and what is in it.
    pub(crate) fn seal(
        &mut self,
        context: &SigningContext,
        key: &EncryptionKey,
        epoch: Epoch,
        seen: Height,
    ) -> (Bytes, Bytes) {
        self.nonce += 1;
        let mut text = format!("secret {} ", self.nonce).into_bytes();
        text.extend((0..self.rng.below(40)).map(|_| self.rng.bits() as u8));
        // Some are content with few blocks, so that many expire.
        let patience = if self.rng.permille(400) { self.rng.between(1, 4) } else { self.rng.between(10, 60) };
        let terms = Terms {
            epoch,
            nonce: self.nonce,
            gas_limit: 100_000,
            max_fee_per_gas: 10,
            max_priority_fee_per_gas: 1,
            valid_until: seen.plus(patience),
        };
        let payer = payer(1 + self.rng.below(USERS));
        let sealed = envelope::seal(key, context, &terms, &text, &payer, &mut self.dice).expect("it is short");
        (sealed.raw().clone(), text.into())
    }
}
