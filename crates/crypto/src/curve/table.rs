//! Many multiples of one point of G1.

use std::{fmt, sync::OnceLock};

use super::{G1, G1Affine, Scalar};

/// Bits of a digit.
const WINDOW: usize = 6;
/// Digits of a scalar.
const DIGITS: usize = 256_usize.div_ceil(WINDOW);
/// Multiples kept for each digit: all but zero.
const MULTIPLES: usize = (1 << WINDOW) - 1;

/// All multiples d 2^(6w) P for d in 1..64 and w in 0..43: 260 KB, made in about 2 ms. A multiplication is then at most
/// 43 additions. Its time depends on the scalar: for public scalars only.
pub struct G1Table {
    multiples: Vec<G1Affine>,
}

impl fmt::Debug for G1Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "G1Table({:?})", self.multiples[0])
    }
}

impl G1Table {
    /// The table of a point.
    #[must_use]
    pub fn new(point: &G1Affine) -> Self {
        let mut base = G1::from(*point);
        let mut multiples = Vec::with_capacity(DIGITS * MULTIPLES);
        for _ in 0..DIGITS {
            let mut multiple = base;
            for _ in 0..MULTIPLES {
                multiples.push(multiple);
                multiple += base;
            }
            base = multiple;
        }
        Self { multiples: G1::batch_to_affine(&multiples) }
    }

    /// The table of the generator.
    #[must_use]
    pub fn generator() -> &'static Self {
        static TABLE: OnceLock<G1Table> = OnceLock::new();
        TABLE.get_or_init(|| Self::new(&G1Affine::generator()))
    }

    /// The point times a public scalar.
    #[must_use]
    pub fn times(&self, scalar: &Scalar) -> G1 {
        let mut bytes = [0u8; 34];
        bytes[..32].copy_from_slice(&scalar.to_scalar().b);
        let mut sum = G1::infinity();
        for digit in 0..DIGITS {
            let (byte, shift) = (digit * WINDOW / 8, digit * WINDOW % 8);
            let pair = u16::from_le_bytes([bytes[byte], bytes[byte + 1]]);
            let value = usize::from(pair >> shift) & MULTIPLES;
            if value != 0 {
                sum = sum.plus(&self.multiples[digit * MULTIPLES + value - 1]);
            }
        }
        sum
    }
}
