//! Which shares to ask for, and how sure the answers make one.
//!
//! Whoever wants to keep a square from being repaired must withhold at least `(k+1)^2` of its `4k^2` shares. Samples are
//! drawn without replacement, so s samples that were all answered leave this doubt:
//!
//! ```text
//!             s-1   4k^2 - (k+1)^2 - i
//!  doubt(s) = prod  ------------------     confidence = 1 - doubt        k = 64, s = 16: 0.9916
//!             i=0        4k^2 - i
//! ```
//!
//! (hypergeometric distribution; Al-Bassam, Sonnino, Buterin 2018, theorem 3). It holds for one client against somebody who
//! does not know what it will ask; that enough clients ask to make up the whole square is a separate assumption.
//!
//! Floats are used here and nowhere else in this crate: confidence is what one client tells its user. No two nodes ever
//! have to agree on it.

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{RngCore, SeedableRng},
};

use crate::{commitment::Axis, shape::Shape};

/// Shares without which a square of this shape cannot be repaired, at least: `(k+1)^2`.
#[must_use]
pub const fn withheld(shape: &Shape) -> usize {
    (shape.width() + 1) * (shape.width() + 1)
}

/// The probability that `samples` different shares, drawn at random, miss all of `withheld` ones among `total`.
#[must_use]
pub fn doubt(total: usize, withheld: usize, samples: usize) -> f64 {
    (0..samples.min(total)).map(|i| total.saturating_sub(withheld + i) as f64 / (total - i) as f64).product()
}

/// How sure `samples` answered samples make one that a square can be repaired: 0 to 1.
#[must_use]
pub fn confidence(shape: &Shape, samples: usize) -> f64 {
    1.0 - doubt(shape.shares(), withheld(shape), samples)
}

/// The least number of samples for a confidence. All shares of the square if nothing less gives it.
#[must_use]
pub fn samples_for(shape: &Shape, confidence: f64) -> usize {
    (0..shape.shares()).find(|&s| self::confidence(shape, s) >= confidence).unwrap_or(shape.shares())
}

/// A share to ask for, and the axis to have it proved by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SampleId {
    /// Its row.
    pub row: u16,
    /// Its column.
    pub column: u16,
    /// The axis of the proof: drawn as well, so that both trees are asked about.
    pub axis: Axis,
}

/// Draws `count` different shares uniformly, in random order; all shares if the square has no more.
///
/// The seed must be secret and fresh for each block: who knows it can answer just what will be asked.
#[must_use]
pub fn draw(shape: &Shape, count: usize, seed: [u8; 32]) -> Vec<SampleId> {
    let mut rng = ChaCha20Rng::from_seed(seed);
    let total = shape.shares();
    let mut places: Vec<u32> = (0..total as u32).collect();
    let count = count.min(total);
    for i in 0..count {
        let other = i + below(&mut rng, (total - i) as u32) as usize;
        places.swap(i, other);
    }
    let side = shape.side() as u32;
    let sample = |place: &u32| SampleId {
        row: (place / side) as u16,
        column: (place % side) as u16,
        axis: if rng.next_u32() & 1 == 0 { Axis::Row } else { Axis::Column },
    };
    places[..count].iter().map(sample).collect()
}

/// A uniform number below `bound`, by rejection.
fn below(rng: &mut ChaCha20Rng, bound: u32) -> u32 {
    let limit = u32::MAX - u32::MAX % bound;
    loop {
        let value = rng.next_u32();
        if value < limit {
            return value % bound;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn shape(width: usize) -> Shape {
        let shape = Shape::of_size(width * width * 512).unwrap();
        assert_eq!(shape.width(), width);
        shape
    }

    #[test]
    fn the_formula_has_the_values_that_can_be_worked_out_by_hand() {
        // k = 1: all 4 shares are withheld, so one sample is enough. k = 2: 9 of 16, so 7/16 * 6/15 remain after two.
        assert_eq!(confidence(&shape(1), 1), 1.0);
        assert!((confidence(&shape(2), 2) - (1.0 - 7.0 / 16.0 * 6.0 / 15.0)).abs() < 1e-12);
        assert_eq!(confidence(&shape(2), 8), 1.0);
        assert_eq!(confidence(&shape(64), 0), 0.0);
        for width in [1, 2, 4, 8, 16, 32, 64] {
            assert!(confidence(&shape(width), 16) >= 0.99, "16 samples are enough at width {width}");
        }
        assert_eq!(samples_for(&shape(64), 0.99), 16);
    }

    #[test]
    fn draws_are_distinct_and_cover_the_square() {
        let shape = shape(4);
        let all: BTreeSet<_> = draw(&shape, 1000, [1; 32]).iter().map(|s| (s.row, s.column)).collect();
        assert_eq!(all.len(), 64);
        assert_ne!(draw(&shape, 16, [1; 32]), draw(&shape, 16, [2; 32]));
    }
}
