//! Interpolation at zero: from shares `x_i * U` at points i to `x * U`.
//!
//! The Lagrange coefficients of points below 2^9 are fractions of small numbers. Over their common denominator L they
//! are integers of a few bits (3 for 4 seats, about 40 for 32), so that
//!
//! ```text
//! x * U = 1/L * sum_i (L * lambda_i) * (x_i * U)
//! ```
//!
//! costs a few additions for each share and one multiplication by the full-size 1/L, in place of a full-size
//! multiplication for each share. A block's combined values all use the same coefficients, whose signed digits are laid
//! out once. Shares are public, so nothing here runs in constant time.

use super::seats::MAX_SEATS;
use crate::curve::{G1, G1Affine, Place, Scalar};

/// Above this size the coefficients are taken modulo r and multiplied by blst.
const INTEGER_BITS: usize = 160;

/// The coefficients for one set of points.
#[derive(Clone, Debug)]
pub(crate) enum Weights {
    /// Integers as signed digits, and 1 over their common denominator where that is not 1.
    Digits {
        /// From the highest binary place to the lowest.
        places: Vec<Place>,
        /// 1/L.
        scale: Option<Scalar>,
    },
    /// Numbers modulo r.
    Field(Vec<Scalar>),
}

impl Weights {
    /// The coefficients for the shares of these seats, which are distinct. Seat s stands at s + 1.
    pub(crate) fn of(seats: &[u32]) -> Self {
        let points: Vec<u32> = seats.iter().map(|s| s + 1).collect();
        debug_assert!(points.iter().all(|&p| p as usize <= MAX_SEATS));
        integers(&points).unwrap_or_else(|| Self::Field(fractions(&points)))
    }

    /// The values at zero of many sets of shares, each set in the order of the seats.
    pub(crate) fn combine_each(&self, sets: &[Vec<G1Affine>]) -> Vec<G1Affine> {
        let sums = match self {
            Self::Field(weights) => sets.iter().map(|shares| G1::sum_of_products(shares, weights)).collect(),
            Self::Digits { places, .. } => G1::sums_of_places(places, sets),
        };
        let sums = G1::batch_to_affine(&sums);
        match self {
            // A share may still carry torsion here, on which a multiplication that assumes the subgroup errs. That is
            // harmless: the result has another torsion component then, or none. If it has one, the check refuses it; if it has
            // none, it is what the subgroup's part of the sum gives, which is right or fails the pairing check.
            Self::Digits { scale: Some(scale), .. } => {
                let pairs: Vec<_> = sums.into_iter().map(|sum| (sum, scale)).collect();
                G1::batch_to_affine(&G1::each_times(&pairs))
            }
            _ => sums,
        }
    }
}

/// The coefficients as numbers modulo r.
pub(crate) fn fractions(points: &[u32]) -> Vec<Scalar> {
    let number = |p: u32| Scalar::from_u64(u64::from(p));
    points
        .iter()
        .map(|&i| {
            let others = points.iter().filter(|&&j| j != i);
            let (over, under) = others.fold((Scalar::ONE, Scalar::ONE), |(over, under), &j| {
                (over * number(j), under * (number(j) - number(i)))
            });
            over * under.inverse().expect("the points differ")
        })
        .collect()
}

/// Powers of the primes up to [`MAX_SEATS`] in a fraction.
type Factors = [i32; MAX_SEATS + 1];

/// Counts the prime factors of a number from 1 to [`MAX_SEATS`], `times` over.
fn factor(mut number: u32, times: i32, factors: &mut Factors) {
    let mut prime = 2;
    while number > 1 {
        while number.is_multiple_of(prime) {
            factors[prime as usize] += times;
            number /= prime;
        }
        prime += 1;
    }
}

/// The coefficients as integers over their common denominator; none if they are too large to gain by it.
fn integers(points: &[u32]) -> Option<Weights> {
    let mut denominator: Factors = [0; MAX_SEATS + 1];
    let mut coefficients = Vec::with_capacity(points.len());
    for &i in points {
        let mut factors: Factors = [0; MAX_SEATS + 1];
        for &j in points.iter().filter(|&&j| j != i) {
            factor(j, 1, &mut factors);
            factor(j.abs_diff(i), -1, &mut factors);
        }
        // Each point below i makes one factor j - i negative.
        let negative = points.iter().filter(|&&j| j < i).count() % 2 == 1;
        for (most, &power) in denominator.iter_mut().zip(&factors) {
            *most = (*most).max(-power);
        }
        coefficients.push((negative, factors));
    }
    let mut places = vec![Vec::new(); INTEGER_BITS + 1];
    for (index, (negative, factors)) in coefficients.iter().enumerate() {
        let mut value = Wide::ONE;
        for (prime, (power, most)) in factors.iter().zip(&denominator).enumerate() {
            for _ in 0..power + most {
                value = value.times(prime as u64)?;
            }
        }
        for (place, minus) in value.signed_digits() {
            places[INTEGER_BITS - place].push((index, minus != *negative));
        }
    }
    let first = places.iter().position(|place| !place.is_empty()).unwrap_or(places.len());
    places.drain(..first);
    let mut common = Scalar::ONE;
    for (prime, &most) in denominator.iter().enumerate() {
        for _ in 0..most {
            common = common * Scalar::from_u64(prime as u64);
        }
    }
    let scale = (common != Scalar::ONE).then(|| common.inverse().expect("a product of primes below r is not 0"));
    Some(Weights::Digits { places, scale })
}

/// A positive integer below 2^[`INTEGER_BITS`].
#[derive(Clone, Copy)]
struct Wide([u64; 3]);

impl Wide {
    const ONE: Self = Self([1, 0, 0]);

    /// The product; none from 2^[`INTEGER_BITS`] on.
    fn times(self, factor: u64) -> Option<Self> {
        let mut carry = 0u128;
        let mut out = [0u64; 3];
        for (limb, out) in self.0.iter().zip(&mut out) {
            carry += u128::from(*limb) * u128::from(factor);
            *out = carry as u64;
            carry >>= 64;
        }
        (carry == 0 && out[2] >> (INTEGER_BITS - 128) == 0).then_some(Self(out))
    }

    /// Non-adjacent form: binary places with their signs (true is minus), a third of all places on average.
    fn signed_digits(self) -> Vec<(usize, bool)> {
        let bit = |n: usize| n < 192 && self.0[n / 64] >> (n % 64) & 1 == 1;
        let mut digits = Vec::new();
        let mut carry = false;
        for place in 0..=INTEGER_BITS {
            let ones = u8::from(bit(place)) + u8::from(carry);
            if ones == 1 {
                let minus = bit(place + 1);
                digits.push((place, minus));
                carry = minus;
            } else {
                carry = ones == 2;
            }
        }
        digits
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha20Rng;

    use super::*;
    use crate::dkg::polynomial::Polynomial;

    #[test]
    fn quorums_of_few_seats_have_short_coefficients() {
        let Weights::Digits { places, scale } = Weights::of(&[0, 1, 3]) else { panic!("integers") };
        assert!(places.len() <= 5 && scale.is_some(), "8/3, -2, 1/3");
        let Weights::Digits { places, scale } = Weights::of(&[0, 1, 2]) else { panic!("integers") };
        assert!(places.len() <= 3 && scale.is_none(), "3, -3, 1");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn both_ways_give_the_value_at_zero(
            seed: u64,
            seats in prop::sample::subsequence((0u32..256).collect::<Vec<_>>(), 1..24),
            narrow in prop::sample::subsequence((0u32..12).collect::<Vec<_>>(), 1..8),
        ) {
            for seats in [seats, narrow] {
                let poly = Polynomial::random(seats.len(), &mut ChaCha20Rng::seed_from_u64(seed));
                let expected = vec![poly.public().to_affine(); 2];
                let shares: Vec<_> =
                    seats.iter().map(|&seat| G1::generator().times(&poly.share(seat)).to_affine()).collect();
                let sets = vec![shares; 2];
                prop_assert_eq!(&Weights::of(&seats).combine_each(&sets), &expected);
                let points: Vec<u32> = seats.iter().map(|s| s + 1).collect();
                prop_assert_eq!(Weights::Field(fractions(&points)).combine_each(&sets), expected);
            }
        }
    }
}
