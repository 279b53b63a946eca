//! Points of G1 by eights, in the lanes of AVX-512 with its 52-bit multiplications (IFMA).
//!
//! Most of what an encrypted transaction costs a node is arithmetic of G1 on many points that have nothing to do with each
//! other: decoding, membership of the subgroup, shares, sums with random coefficients. blst works on one at a time, with the
//! processor's 64-bit multiplier. AMD's since Zen 4 and Intel's Xeons since Ice Lake multiply eight pairs of 52-bit numbers at once: a
//! point in each lane, and eight take as long as two of blst's. All lanes take the same steps, by formulas without
//! exceptions, so nothing here branches on secrets. Without those instructions blst does it ([`super::many`]).
//!
//! The results are those of blst, bit for bit once affine, which nodes with and without the instructions rely on. The
//! exceptions are sums of points outside of the subgroup times full-size scalars, which may differ by torsion: blst multiplies
//! by the scalar itself there, and here by `low + high z^2`.

mod field;
mod point;

use std::hint::black_box;

use blst::{blst_p1, blst_p1_affine};
use point::{Digits, Points, Table, sum_of_places, sums};
use zeroize::Zeroizing;

use super::{
    G1, G1_BYTES, G1Affine, Scalar,
    many::{Equation, Place},
};

/// Points that are worked on at once.
pub(super) const LANES: usize = 8;

/// Terms of eight points whose tables are held at once: 12 KiB each.
const TERMS: usize = 24;

/// z^2 for the curve's parameter z.
const Z_SQUARED: u128 = 0xac45_a401_0001_a402_0000_0001_0000_0000;

/// Whether this processor has the instructions.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512ifma")
}

/// The number as `low + high z^2`, in constant time. Its points are then multiplied by two numbers of half the length, since
/// z^2 times a point costs one multiplication in the field (Gallant, Lambert and Vanstone, CRYPTO 2001).
fn halves(scalar: &Scalar) -> [u128; 2] {
    let scalar = Zeroizing::new(scalar.to_scalar());
    let (bytes, _) = scalar.b.as_chunks::<16>();
    let (low, mut rest, mut high) = (u128::from_le_bytes(bytes[0]), u128::from_le_bytes(bytes[1]), 0u128);
    // The upper half of a number below r is below z^2.
    for bit in (0..128).rev() {
        let overflow = (rest >> 127) as u8;
        rest = rest << 1 | low >> bit & 1;
        let (less, borrow) = rest.overflowing_sub(Z_SQUARED);
        // The compiler is not to know what the mask can be, or it could branch on it.
        let fits = black_box(u128::from(overflow | u8::from(!borrow)).wrapping_neg());
        rest = less & fits | rest & !fits;
        high = high << 1 | fits & 1;
    }
    [rest, high]
}

/// The points; beyond their end, the generator.
fn padded(points: impl IntoIterator<Item = G1Affine>) -> [blst_p1_affine; LANES] {
    let mut points = points.into_iter();
    std::array::from_fn(|_| points.next().unwrap_or_else(G1Affine::generator).0)
}

/// Each point times its scalar, in constant time. The points are of the subgroup and not infinity.
///
/// # Panics
/// Without the instructions.
pub(super) fn times(pairs: &[(G1Affine, &Scalar)]) -> Vec<G1> {
    assert!(available(), "AVX-512 IFMA");
    // SAFETY: the processor has the features.
    let products = |chunk: &[(G1Affine, &Scalar)]| unsafe { times_lanes(chunk) };
    pairs.chunks(LANES).flat_map(|chunk| products(chunk).into_iter().take(chunk.len()).map(G1)).collect()
}

#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn times_lanes(pairs: &[(G1Affine, &Scalar)]) -> [blst_p1; LANES] {
    let (tables, digits) = multiplication(pairs.iter().copied());
    sums(&tables, &digits).to_blst()
}

/// The tables and digits that multiply each of eight points by its scalar. In constant time.
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn multiplication<'a>(pairs: impl Iterator<Item = (G1Affine, &'a Scalar)> + Clone) -> ([Table; 2], [Digits; 2]) {
    let mut parts = Zeroizing::new([[0; 2]; LANES]);
    for (parts, (_, scalar)) in parts.iter_mut().zip(pairs.clone()) {
        *parts = halves(scalar);
    }
    let table = Table::new(&Points::from_blst(&padded(pairs.map(|(point, _)| point))));
    let upper = table.times_z_squared();
    ([table, upper], [0, 1].map(|half| Digits::new(|lane| parts[lane][half])))
}

/// The sum of points times numbers below 2^128 and of others times any. None is infinity. Where one is outside of the
/// subgroup, the sum is right up to torsion.
///
/// # Panics
/// Without the instructions, or if the numbers of points and scalars differ.
pub(super) fn sum_of_products(short: (&[G1Affine], &[Scalar]), long: (&[G1Affine], &[Scalar])) -> G1 {
    assert!(available(), "AVX-512 IFMA");
    assert!(short.0.len() == short.1.len() && long.0.len() == long.1.len(), "one scalar for each point");
    // SAFETY: the processor has the features.
    unsafe { sum_of_terms(short, long) }
}

#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn sum_of_terms(short: (&[G1Affine], &[Scalar]), long: (&[G1Affine], &[Scalar])) -> G1 {
    let tables = short.0.len().div_ceil(LANES) + 2 * long.0.len().div_ceil(LANES);
    let mut terms = Terms::new(tables.div_ceil(tables.div_ceil(TERMS).max(1)));
    for (points, scalars) in short.0.chunks(LANES).zip(short.1.chunks(LANES)) {
        let table = Table::new(&Points::from_blst(&padded(points.iter().copied())));
        terms.push(table, Digits::new(|lane| scalars.get(lane).map_or(0, low_bits)));
    }
    for (points, scalars) in long.0.chunks(LANES).zip(long.1.chunks(LANES)) {
        let (tables, digits) = multiplication(points.iter().copied().zip(scalars));
        for (table, digits) in tables.into_iter().zip(digits) {
            terms.push(table, digits);
        }
    }
    terms.add_up();
    terms.sum
}

/// The lowest 128 bits.
fn low_bits(scalar: &Scalar) -> u128 {
    let scalar = scalar.to_scalar();
    let (bytes, _) = scalar.b.as_chunks::<16>();
    u128::from_le_bytes(bytes[0])
}

/// Terms of a sum, of eight points each, and what earlier ones came to.
struct Terms {
    /// So many are added up at a time.
    most: usize,
    tables: Vec<Table>,
    digits: Vec<Digits>,
    sum: G1,
}

impl Terms {
    fn new(most: usize) -> Self {
        Self { most, tables: Vec::with_capacity(most), digits: Vec::with_capacity(most), sum: G1::infinity() }
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn push(&mut self, table: Table, digits: Digits) {
        self.tables.push(table);
        self.digits.push(digits);
        if self.tables.len() == self.most {
            self.add_up();
        }
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn add_up(&mut self) {
        if self.tables.is_empty() {
            return;
        }
        for lane in sums(&self.tables, &self.digits).to_blst() {
            self.sum += G1(lane);
        }
        self.tables.clear();
        self.digits.clear();
    }
}

/// For each set of points, none of which is infinity, their sum times the integers of [`Place`]s.
///
/// # Panics
/// Without the instructions, or if a place names a point that a set has not.
pub(super) fn sums_of_places(places: &[Place], sets: &[Vec<G1Affine>]) -> Vec<G1> {
    assert!(available(), "AVX-512 IFMA");
    // SAFETY: the processor has the features.
    let sums = |chunk: &[Vec<G1Affine>]| unsafe { sums_of_places_lanes(places, chunk) };
    sets.chunks(LANES).flat_map(|chunk| sums(chunk).into_iter().take(chunk.len()).map(G1)).collect()
}

#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn sums_of_places_lanes(places: &[Place], sets: &[Vec<G1Affine>]) -> [blst_p1; LANES] {
    let each = |index: usize| padded(sets.iter().map(|set| set[index]));
    let points: Vec<Points> = (0..sets[0].len()).map(|index| Points::from_blst(&each(index))).collect();
    sum_of_places(&points, places).to_blst()
}

/// Which equations hold. None of their points is infinity.
///
/// # Panics
/// Without the instructions.
pub(super) fn which_hold(equations: &[Equation]) -> Vec<bool> {
    assert!(available(), "AVX-512 IFMA");
    // SAFETY: the processor has the features.
    let lanes = |chunk: &[Equation]| unsafe { which_hold_lanes(chunk) };
    equations.chunks(LANES).flat_map(|chunk| flags(lanes(chunk), chunk.len())).collect()
}

#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn which_hold_lanes(equations: &[Equation]) -> u8 {
    let (mut tables, mut digits) = (Vec::with_capacity(4), Vec::with_capacity(4));
    for term in 0..2 {
        let pairs = equations.iter().map(|Equation { terms, .. }| (terms[term].0, &terms[term].1));
        let (two_tables, two_digits) = multiplication(pairs);
        tables.extend(two_tables);
        digits.extend(two_digits);
    }
    let sums = Points::from_blst(&padded(equations.iter().map(|equation| equation.sum)));
    point::sums(&tables, &digits).differ_by_torsion(&sums)
}

/// Which points are of order r. None is infinity.
///
/// # Panics
/// Without the instructions.
pub(super) fn in_subgroup(points: &[G1Affine]) -> Vec<bool> {
    assert!(available(), "AVX-512 IFMA");
    // SAFETY: the processor has the features.
    let lanes = |chunk: &[G1Affine]| unsafe { in_subgroup_lanes(&padded(chunk.iter().copied())) };
    points.chunks(LANES).flat_map(|chunk| flags(lanes(chunk), chunk.len())).collect()
}

#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn in_subgroup_lanes(points: &[blst_p1_affine; LANES]) -> u8 {
    Points::from_blst(points).in_subgroup()
}

/// The first bits of a mask.
fn flags(mask: u8, count: usize) -> impl Iterator<Item = bool> {
    (0..count).map(move |lane| mask >> lane & 1 == 1)
}

/// The points of these compressed encodings: on the curve, not infinity, in the subgroup or not.
///
/// # Panics
/// Without the instructions.
pub(super) fn decompress(encodings: &[&[u8; G1_BYTES]]) -> Vec<Option<G1Affine>> {
    assert!(available(), "AVX-512 IFMA");
    let decode = |chunk: &[&[u8; G1_BYTES]]| {
        let x = std::array::from_fn(|lane| chunk.get(lane).and_then(|bytes| coordinate(bytes)));
        let upper = (0..chunk.len()).fold(0, |lanes, lane| lanes | (chunk[lane][0] >> 5 & 1) << lane);
        // SAFETY: the processor has the features.
        let (points, exist) = unsafe { lift(&x.map(Option::unwrap_or_default), upper) };
        let points = points.into_iter().zip(x.map(|x| x.is_some())).zip(flags(exist, chunk.len()));
        points.map(|((point, valid), exists)| Some(G1Affine(point)).filter(|_| valid && exists)).collect::<Vec<_>>()
    };
    encodings.chunks(LANES).flat_map(decode).collect()
}

#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn lift(x: &[[u64; 6]; LANES], upper: u8) -> ([blst_p1_affine; LANES], u8) {
    Points::lift(x, upper)
}

/// The x of a compressed encoding; none if the flags are not those of a finite point, or x is not below p. Zero, which is
/// the x of two points of order three, blst refuses as well.
fn coordinate(bytes: &[u8; G1_BYTES]) -> Option<[u64; 6]> {
    if bytes[0] & 0xc0 != 0x80 {
        return None;
    }
    let (limbs, _) = bytes.as_chunks::<8>();
    let mut x: [u64; 6] = std::array::from_fn(|n| u64::from_be_bytes(limbs[5 - n]));
    x[5] &= u64::MAX >> 3;
    Some(x).filter(|x| *x != [0; 6] && field::is_reduced(x))
}
