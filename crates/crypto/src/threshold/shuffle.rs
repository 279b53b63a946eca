//! The order in which a block's items run (decision 17 of the architecture), a pure function of the beacon.
//!
//! ```text
//! block     | L1 items |  a5   b1   a4   c9   b2      (payer and nonce, in the proposer's order)
//! shuffled  | L1 items |  c    a    b    b    a       slots by Fisher-Yates over ChaCha20
//! filled    | L1 items |  c9   a4   b1   b2   a5      each payer's slots in the order of its nonces
//! ```
//!
//! Fisher-Yates goes down from the last item: item i changes places with item j, j uniform in 0..=i by rejection
//! sampling over the 64-bit little-endian words of the ChaCha20 key stream (20 rounds, key = the beacon's value, nonce
//! and counter zero). A modulus without rejection would favour early places by up to n/2^64; rejection makes it exact.

use cascade_primitives::{Address, B256};
use rand::{RngCore as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;

/// Whose item it is, and its place among that payer's items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// The payer.
    pub payer: Address,
    /// The payer's nonce.
    pub nonce: u64,
}

/// The order of a block's items: first the L1 items as they are, 0 to `l1_items`, then the envelopes. The answer holds
/// indices into the block's items, the envelopes counted from `l1_items`. Items of one payer with the same nonce keep
/// the proposer's order.
#[must_use]
pub fn order(beacon: &B256, l1_items: usize, envelopes: &[Slot]) -> Vec<usize> {
    let mut rng = ChaCha20Rng::from_seed(beacon.0);
    let mut shuffled: Vec<usize> = (0..envelopes.len()).collect();
    for last in (1..shuffled.len()).rev() {
        let pick = below(&mut rng, last as u64 + 1) as usize;
        shuffled.swap(last, pick);
    }
    // The k-th slot of a payer, counted in shuffled order, gets its k-th envelope by nonce.
    let mut by_nonce: Vec<usize> = (0..envelopes.len()).collect();
    by_nonce.sort_by_key(|&index| (envelopes[index], index));
    let mut slots: Vec<usize> = (0..shuffled.len()).collect();
    slots.sort_by_key(|&slot| (envelopes[shuffled[slot]].payer, slot));
    let mut filled = vec![0; shuffled.len()];
    for (slot, index) in slots.into_iter().zip(by_nonce) {
        filled[slot] = index;
    }
    (0..l1_items).chain(filled.into_iter().map(|index| l1_items + index)).collect()
}

/// A uniform number below `bound`, which is at least 1.
fn below(rng: &mut ChaCha20Rng, bound: u64) -> u64 {
    // The largest multiple of `bound` that fits; what lies above it is drawn again.
    let limit = u64::MAX - (u64::MAX % bound + 1) % bound;
    loop {
        let draw = rng.next_u64();
        if draw <= limit {
            return draw % bound;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn slot(payer: u8, nonce: u64) -> Slot {
        Slot { payer: Address::repeat_byte(payer), nonce }
    }

    #[test]
    fn the_order_is_frozen() {
        let envelopes: Vec<Slot> = (0..8).map(|i| slot(i, 0)).collect();
        assert_eq!(order(&B256::repeat_byte(7), 2, &envelopes), [0, 1, 7, 4, 9, 3, 5, 2, 8, 6]);
    }

    #[test]
    fn every_place_is_as_likely_as_every_other() {
        let envelopes: Vec<Slot> = (0..5).map(|i| slot(i, 0)).collect();
        let mut counts = [[0u32; 5]; 5];
        for seed in 0..5000u64 {
            let mut beacon = B256::ZERO;
            beacon.0[..8].copy_from_slice(&seed.to_le_bytes());
            for (place, item) in order(&beacon, 0, &envelopes).into_iter().enumerate() {
                counts[item][place] += 1;
            }
        }
        // 1000 expected, standard deviation 28; six of them.
        assert!(counts.iter().flatten().all(|&n| (830..1170).contains(&n)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn the_order_is_a_permutation_that_keeps_l1_items_and_nonces(
            seed: [u8; 32], l1 in 0usize..5, items in prop::collection::vec((0u8..6, 0u64..20), 0..60)
        ) {
            let envelopes: Vec<Slot> = items.iter().map(|&(payer, nonce)| slot(payer, nonce)).collect();
            let order = order(&B256::from(seed), l1, &envelopes);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..l1 + envelopes.len()).collect::<Vec<_>>());
            prop_assert!(order[..l1].iter().copied().eq(0..l1));
            let mut last = BTreeMap::new();
            for index in &order[l1..] {
                let slot = envelopes[index - l1];
                if let Some(before) = last.insert(slot.payer, (slot.nonce, *index)) {
                    prop_assert!(before < (slot.nonce, *index), "a payer's items run in the order of nonces");
                }
            }
        }

        #[test]
        fn who_gets_a_slot_does_not_depend_on_nonces(seed: [u8; 32], payers in prop::collection::vec(0u8..6, 0..40)) {
            let up: Vec<Slot> = payers.iter().enumerate().map(|(i, &p)| slot(p, i as u64)).collect();
            let down: Vec<Slot> = payers.iter().enumerate().map(|(i, &p)| slot(p, 1000 - i as u64)).collect();
            let owners = |slots: &[Slot]| -> Vec<Address> {
                order(&B256::from(seed), 0, slots).into_iter().map(|i| slots[i].payer).collect()
            };
            prop_assert_eq!(owners(&up), owners(&down));
        }
    }
}
