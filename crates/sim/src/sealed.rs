//! Encrypted runs: beside the core of consensus each node runs the cores of key generation and of reveals.
//!
//! ```text
//!   users --> envelopes --> pools --> blocks --> final --> [Party] KeyBook   --> keys, shares, KeysReady --> core
//!                                                  |               Reveals   --> opened --> executed
//!                                                  |                  ^  |
//!                                                  |                  |  v
//!                                                  |       shares, requests, items of key generation --> network
//!                                                  v
//!                                               [Observer]
//! ```
//!
//! A [`Party`] does what a node's actors for keys and reveals do, with the same cores, real ciphertexts, real dealings and
//! real shares; only votes are signed with the simulator's mock. What it puts on disk lies in a [`Vault`]. Byzantine nodes
//! run a party as well, and a [`liar`] bends what it says. The [`Observer`] sees everything and knows what users sealed.
//!
//! What stands in for the rest of a node: the ledger of fees (an envelope may stand in a block of its epoch up to its
//! last height, once in a block) and execution (a hash over what was opened).
//!
//! Making a dealing costs a tenth of a second. Secrets of recipients and dealers follow from the chain, the node and how
//! often it did so before, so that runs on one chain (`SEEDS_OF_A_CHAIN` in `plan.rs`) make and check each dealing once.

pub(crate) mod items;
pub(crate) mod keys;
pub(crate) mod liar;
pub(crate) mod observer;
pub(crate) mod party;
mod pool;
mod reveals;
pub(crate) mod users;
pub(crate) mod vault;

use cascade_primitives::B256;
use rand::{CryptoRng, RngCore};

use crate::rng::Rng;

pub(crate) use party::{Kit, Opened, Out, Party};

/// The simulator's randomness where cryptography asks for some. Whoever knows the seed knows it: fit for nothing else.
#[derive(Clone, Debug)]
pub(crate) struct Dice(Rng);

impl Dice {
    pub(crate) const fn new(rng: Rng) -> Self {
        Self(rng)
    }

    /// Randomness that follows from a digest.
    fn of(digest: &B256) -> Self {
        let word = |at: usize| u64::from_le_bytes(digest[at..at + 8].try_into().expect("eight bytes"));
        Self(Rng::new(word(0), word(8)))
    }
}

impl RngCore for Dice {
    fn next_u32(&mut self) -> u32 {
        self.0.bits() as u32
    }

    fn next_u64(&mut self) -> u64 {
        self.0.bits()
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.0.bits().to_le_bytes()[..chunk.len()]);
        }
    }
}

impl CryptoRng for Dice {}
