//! Eight numbers modulo p at once, in 52-bit limbs.

use std::{
    arch::x86_64::{
        __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_cmpeq_epi64_mask, _mm512_loadu_si512,
        _mm512_madd52hi_epu64, _mm512_madd52lo_epu64, _mm512_mask_mov_epi64, _mm512_set1_epi64, _mm512_setzero_si512,
        _mm512_slli_epi64, _mm512_srai_epi64, _mm512_srli_epi64, _mm512_storeu_si512, _mm512_sub_epi64,
    },
    hint::black_box,
};

use blst::blst_fp;

use super::LANES;

/// Limbs of a number: 416 bits, of which p takes 381. The 35 bits above it make reductions after sums needless.
const LIMBS: usize = 8;
/// Bits of a limb, which is what AVX-512 IFMA multiplies.
const BITS: u32 = 52;
const MASK: u64 = (1 << BITS) - 1;

/// The field's prime, from its lowest 64 bits up.
const PRIME: [u64; 6] = [
    0xb9fe_ffff_ffff_aaab,
    0x1eab_fffe_b153_ffff,
    0x6730_d2a0_f6b0_f624,
    0x6477_4b84_f385_12bf,
    0x4b1b_a7b6_434b_acd7,
    0x1a01_11ea_397f_e69a,
];
const P: [u64; LIMBS] = split(PRIME);
/// 128 p: added before a subtraction, it keeps the difference positive.
const MULTIPLE: [u64; LIMBS] = shifted(P, 7);
/// 2048 p: what numbers are negated by.
const LARGE_MULTIPLE: [u64; LIMBS] = shifted(P, 11);
/// -1/p modulo 2^52.
const NEGATED_INVERSE: u64 = negated_inverse(PRIME[0]);
/// From blst's Montgomery form, with 2^384, to the one here, with 2^416, and back.
const FROM_BLST: [u64; LIMBS] = split(power_of_two(416 + 416 - 384));
const TO_BLST: [u64; LIMBS] = split(power_of_two(384));
/// From the plain form to the one here.
const FROM_PLAIN: [u64; LIMBS] = split(power_of_two(416 + 416));
const ONE: [u64; LIMBS] = split(power_of_two(416));
/// (p + 1) / 4: the power that gives a square root, since p = 3 mod 4.
const ROOT: [u64; 6] = shifted_down_with_one(PRIME);
/// Bits of [`ROOT`].
const ROOT_BITS: usize = 379;

/// 52-bit limbs of 64-bit ones.
const fn split(limbs: [u64; 6]) -> [u64; LIMBS] {
    let mut out = [0; LIMBS];
    let mut n = 0;
    while n < LIMBS {
        let (at, shift) = (n * BITS as usize / 64, (n as u32 * BITS) % 64);
        let mut limb = limbs[at] >> shift;
        if shift > 64 - BITS && at + 1 < 6 {
            limb |= limbs[at + 1] << (64 - shift);
        }
        out[n] = limb & MASK;
        n += 1;
    }
    out
}

/// 64-bit limbs of 52-bit ones, of a number below 2^384.
fn join(limbs: [u64; LIMBS]) -> [u64; 6] {
    let mut out = [0; 6];
    for (n, limb) in limbs.into_iter().enumerate() {
        let (at, shift) = (n * BITS as usize / 64, (n as u32 * BITS) % 64);
        out[at] |= limb << shift;
        if shift > 64 - BITS && at + 1 < 6 {
            out[at + 1] |= limb >> (64 - shift);
        }
    }
    out
}

const fn shifted(limbs: [u64; LIMBS], by: u32) -> [u64; LIMBS] {
    let mut out = [0; LIMBS];
    let (mut n, mut carry) = (0, 0);
    while n < LIMBS {
        out[n] = ((limbs[n] << by) & MASK) | carry;
        carry = limbs[n] >> (BITS - by);
        n += 1;
    }
    out
}

const fn shifted_down_with_one(limbs: [u64; 6]) -> [u64; 6] {
    let mut out = [0; 6];
    let mut n = 0;
    while n < 6 {
        // The lowest limb does not overflow.
        let low = if n == 0 { limbs[0] + 1 } else { limbs[n] };
        out[n] = low >> 2;
        if n < 5 {
            out[n] |= limbs[n + 1] << 62;
        }
        n += 1;
    }
    out
}

/// Newton's iteration: each step doubles the bits that are right, of which an odd number has three.
const fn negated_inverse(p: u64) -> u64 {
    let (mut x, mut n) = (p, 0);
    while n < 5 {
        x = x.wrapping_mul(2u64.wrapping_sub(p.wrapping_mul(x)));
        n += 1;
    }
    x.wrapping_neg() & MASK
}

/// `a - p` and whether p was at most a.
const fn less_prime(a: [u64; 6]) -> ([u64; 6], bool) {
    let mut out = [0; 6];
    let (mut n, mut borrow) = (0, false);
    while n < 6 {
        let (x, first) = a[n].overflowing_sub(PRIME[n]);
        let (x, second) = x.overflowing_sub(borrow as u64);
        out[n] = x;
        borrow = first | second;
        n += 1;
    }
    (out, !borrow)
}

/// Whether a number is below p.
pub(super) fn is_reduced(number: &[u64; 6]) -> bool {
    !less_prime(*number).1
}

/// 2^n modulo p.
const fn power_of_two(n: usize) -> [u64; 6] {
    let mut x = [1, 0, 0, 0, 0, 0];
    let mut step = 0;
    while step < n {
        let mut limb = 5;
        while limb > 0 {
            x[limb] = x[limb] << 1 | x[limb - 1] >> 63;
            limb -= 1;
        }
        x[0] <<= 1;
        let (less, fits) = less_prime(x);
        if fits {
            x = less;
        }
        step += 1;
    }
    x
}

/// Eight numbers below 2^416, in Montgomery form with 2^416, each limb below 2^52.
#[derive(Clone, Copy)]
pub(super) struct Fp([__m512i; LIMBS]);

/// Eight numbers between 0 and 2^416 in limbs of up to 63 bits and a sign: sums and products before their carries.
#[derive(Clone, Copy)]
pub(super) struct Sum([__m512i; LIMBS]);

#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn spread(limbs: [u64; LIMBS]) -> [__m512i; LIMBS] {
    limbs.map(|limb| _mm512_set1_epi64(limb as i64))
}

/// Adds `a` times a limb of another number. These are macros, and their arrays values, so that all of a product stays in registers.
macro_rules! add_product {
    ($t:ident, $a:expr, $limb:expr) => {{
        let (a, limb): (&[__m512i; LIMBS], __m512i) = ($a, $limb);
        let mut n = 0;
        while n < LIMBS {
            $t[n] = _mm512_madd52lo_epu64($t[n], a[n], limb);
            $t[n + 1] = _mm512_madd52hi_epu64($t[n + 1], a[n], limb);
            n += 1;
        }
    }};
}

/// Adds the multiple of p that makes the lowest limb zero, and moves all limbs down by one; `next` becomes the highest.
macro_rules! reduce_limb {
    ($t:ident, $p:expr, $next:expr) => {{
        let factor = _mm512_set1_epi64(NEGATED_INVERSE as i64);
        let q = _mm512_madd52lo_epu64(_mm512_setzero_si512(), $t[0], factor);
        add_product!($t, $p, q);
        let carry = _mm512_srli_epi64::<BITS>($t[0]);
        $t = [_mm512_add_epi64($t[1], carry), $t[2], $t[3], $t[4], $t[5], $t[6], $t[7], $t[8], $next];
    }};
}

/// Repeats a step for each limb.
macro_rules! each_limb {
    ($step:ident) => {
        $step!(0);
        $step!(1);
        $step!(2);
        $step!(3);
        $step!(4);
        $step!(5);
        $step!(6);
        $step!(7);
    };
}

impl Sum {
    /// Carries, so that each limb is below 2^52.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn carried(self) -> Fp {
        let mask = _mm512_set1_epi64(MASK as i64);
        let mut limbs = self.0;
        for n in 0..LIMBS - 1 {
            limbs[n + 1] = _mm512_add_epi64(limbs[n + 1], _mm512_srai_epi64::<BITS>(limbs[n]));
            limbs[n] = _mm512_and_si512(limbs[n], mask);
        }
        Fp(limbs)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn plus(self, other: Self) -> Self {
        let mut limbs = self.0;
        for (a, b) in limbs.iter_mut().zip(other.0) {
            *a = _mm512_add_epi64(*a, b);
        }
        Self(limbs)
    }

    /// The difference, plus 128 p. What is subtracted must be below 128 p.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn minus(self, other: Self) -> Self {
        let mut limbs = self.0;
        for ((a, b), p) in limbs.iter_mut().zip(other.0).zip(spread(MULTIPLE)) {
            *a = _mm512_add_epi64(*a, _mm512_sub_epi64(p, b));
        }
        Self(limbs)
    }

    /// The number times 2 to this power, at most 3.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn shifted_up<const BY: u32>(self) -> Self {
        Self(self.0.map(|limb| _mm512_slli_epi64::<BY>(limb)))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn twice(self) -> Self {
        self.shifted_up::<1>()
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn thrice(self) -> Self {
        self.twice().plus(self)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn eightfold(self) -> Self {
        self.shifted_up::<3>()
    }

    /// Times 12.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn twelvefold(self) -> Self {
        self.thrice().shifted_up::<2>()
    }
}

impl Fp {
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn zero() -> Self {
        Self([_mm512_setzero_si512(); LIMBS])
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn one() -> Self {
        Self(spread(ONE))
    }

    /// The same number, given in plain form by its 64-bit limbs, in every lane.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn constant(limbs: [u64; 6]) -> Self {
        Self(spread(split(limbs))).times(&Self(spread(FROM_PLAIN))).carried()
    }

    /// Numbers below p in plain form.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn from_plain(values: &[[u64; 6]; LANES]) -> Self {
        Self::gather(values).times(&Self(spread(FROM_PLAIN))).carried()
    }

    /// Numbers of blst.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn from_blst(values: &[blst_fp; LANES]) -> Self {
        Self::gather(&values.map(|value| value.l)).times(&Self(spread(FROM_BLST))).carried()
    }

    /// The same numbers, reduced, as blst has them.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn to_blst(self) -> [blst_fp; LANES] {
        self.times(&Self(spread(TO_BLST))).carried().reduced().map(|l| blst_fp { l })
    }

    /// The numbers in plain form, below p.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn to_plain(self) -> [[u64; 6]; LANES] {
        self.out_of_montgomery().reduced()
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn gather(values: &[[u64; 6]; LANES]) -> Self {
        let lanes = values.map(split);
        let mut limbs = [_mm512_setzero_si512(); LIMBS];
        for (n, limb) in limbs.iter_mut().enumerate() {
            let row: [u64; LANES] = std::array::from_fn(|lane| lanes[lane][n]);
            // SAFETY: the row has the 64 bytes that are read; the call asks for no alignment.
            *limb = unsafe { _mm512_loadu_si512(row.as_ptr().cast()) };
        }
        Self(limbs)
    }

    /// The limbs of each lane, of numbers below 2 p, reduced below p.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn reduced(self) -> [[u64; 6]; LANES] {
        let mut rows = [[0u64; LANES]; LIMBS];
        for (row, limb) in rows.iter_mut().zip(self.0) {
            // SAFETY: the row has the 64 bytes that are written; the call asks for no alignment.
            unsafe { _mm512_storeu_si512(row.as_mut_ptr().cast(), limb) };
        }
        std::array::from_fn(|lane| {
            let value = join(std::array::from_fn(|n| rows[n][lane]));
            let (less, fits) = less_prime(value);
            // Without a branch: the value may be secret, and the compiler is not to know what the mask can be.
            let mask = black_box(u64::from(fits).wrapping_neg());
            std::array::from_fn(|n| less[n] & mask | value[n] & !mask)
        })
    }

    /// The number over 2^416: at most p where the number is below 2^416.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn out_of_montgomery(self) -> Self {
        let (zero, p, a) = (_mm512_setzero_si512(), spread(P), self.0);
        let mut t = [a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], zero];
        macro_rules! step {
            ($n:literal) => {
                reduce_limb!(t, &p, zero);
            };
        }
        each_limb!(step);
        Sum([t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7]]).carried()
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn sum(self) -> Sum {
        Sum(self.0)
    }

    /// The product modulo p. If the factors are below 2^m p and 2^n p with m + n at most 34, it is below 2 p.
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn times(&self, other: &Self) -> Sum {
        let (zero, p, a) = (_mm512_setzero_si512(), spread(P), self.0);
        let mut t = [zero; LIMBS + 1];
        macro_rules! step {
            ($n:literal) => {
                add_product!(t, &a, other.0[$n]);
                reduce_limb!(t, &p, zero);
            };
        }
        each_limb!(step);
        Sum([t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7]])
    }

    /// `self a + b c`, with one reduction for both. Below 2 p if the factors are as for [`times`](Self::times), with 33.
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn times_plus(&self, a: &Self, b: &Self, c: &Self) -> Sum {
        let (zero, p, left, right) = (_mm512_setzero_si512(), spread(P), self.0, b.0);
        let mut t = [zero; LIMBS + 1];
        macro_rules! step {
            ($n:literal) => {
                add_product!(t, &left, a.0[$n]);
                add_product!(t, &right, c.0[$n]);
                reduce_limb!(t, &p, zero);
            };
        }
        each_limb!(step);
        Sum([t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7]])
    }

    /// The square modulo p, bounded as [`times`](Self::times).
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn square(&self) -> Sum {
        let (p, a) = (spread(P), self.0);
        let mut wide = [_mm512_setzero_si512(); 2 * LIMBS];
        macro_rules! cross {
            ($i:literal) => {
                let mut j = $i + 1;
                while j < LIMBS {
                    wide[$i + j] = _mm512_madd52lo_epu64(wide[$i + j], a[$i], a[j]);
                    wide[$i + j + 1] = _mm512_madd52hi_epu64(wide[$i + j + 1], a[$i], a[j]);
                    j += 1;
                }
            };
        }
        macro_rules! diagonal {
            ($i:literal) => {
                let (low, high) = (_mm512_slli_epi64::<1>(wide[2 * $i]), _mm512_slli_epi64::<1>(wide[2 * $i + 1]));
                wide[2 * $i] = _mm512_madd52lo_epu64(low, a[$i], a[$i]);
                wide[2 * $i + 1] = _mm512_madd52hi_epu64(high, a[$i], a[$i]);
            };
        }
        each_limb!(cross);
        each_limb!(diagonal);
        let mut t = [wide[0], wide[1], wide[2], wide[3], wide[4], wide[5], wide[6], wide[7], wide[8]];
        macro_rules! step {
            ($n:literal) => {
                reduce_limb!(t, &p, wide[if $n < 7 { $n + 9 } else { 15 }]);
            };
        }
        each_limb!(step);
        Sum([t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7]])
    }

    /// Which lanes hold a multiple of p.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn is_zero(self) -> u8 {
        let plain = self.out_of_montgomery();
        plain.has_limbs([0; LIMBS]) | plain.has_limbs(P)
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn has_limbs(self, limbs: [u64; LIMBS]) -> u8 {
        let same = |(a, b)| _mm512_cmpeq_epi64_mask(a, b);
        self.0.into_iter().zip(spread(limbs)).map(same).fold(u8::MAX, |all, lanes| all & lanes)
    }

    /// `other` in the lanes of the mask, this elsewhere.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn or(&self, lanes: u8, other: &Self) -> Self {
        Self(std::array::from_fn(|n| _mm512_mask_mov_epi64(self.0[n], lanes, other.0[n])))
    }

    /// The negatives, up to 2048 p; of numbers below that.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn negative(&self) -> Self {
        let mut limbs = spread(LARGE_MULTIPLE);
        for (limb, own) in limbs.iter_mut().zip(self.0) {
            *limb = _mm512_sub_epi64(*limb, own);
        }
        Sum(limbs).carried()
    }

    /// The negatives in the lanes of the mask.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn negated(&self, lanes: u8) -> Self {
        self.or(lanes, &self.negative())
    }

    /// A square root where there is one: the power (p + 1) / 4, in windows of five bits. The same steps whatever the number.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn root(&self) -> Self {
        const WINDOW: usize = 5;
        let bit = |n: usize| ROOT[n / 64] >> (n % 64) & 1;
        let square = self.square().carried();
        let mut odd = [*self; 1 << (WINDOW - 1)];
        for n in 1..odd.len() {
            odd[n] = odd[n - 1].times(&square).carried();
        }
        let (mut power, mut n): (Option<Self>, usize) = (None, ROOT_BITS);
        while n > 0 {
            if bit(n - 1) == 0 {
                power = power.map(|power| power.square().carried());
                n -= 1;
                continue;
            }
            let mut end = n.saturating_sub(WINDOW);
            while bit(end) == 0 {
                end += 1;
            }
            let digit = (end..n).rev().fold(0, |digit, n| digit << 1 | bit(n));
            let factor = &odd[digit as usize / 2];
            power = Some(match power {
                None => *factor,
                Some(mut power) => {
                    for _ in end..n {
                        power = power.square().carried();
                    }
                    power.times(factor).carried()
                }
            });
            n = end;
        }
        power.expect("the exponent is not zero")
    }
}

#[cfg(test)]
mod tests {
    use blst::{blst_fp_add, blst_fp_mul, blst_fp_sqr};
    use proptest::prelude::*;

    use super::{super::available, *};

    /// Numbers below p, often at one end.
    fn number() -> impl Strategy<Value = [u64; 6]> {
        let small = prop_oneof![Just(0u64), Just(1), Just(MASK), any::<u64>()];
        prop_oneof![
            any::<[u64; 6]>().prop_map(|mut limbs| {
                limbs[5] >>= 4;
                limbs
            }),
            small.clone().prop_map(|low| [low, 0, 0, 0, 0, 0]),
            // p - 1 and below.
            small.prop_map(|low| {
                let (low, borrow) = PRIME[0].overflowing_sub(low.max(1));
                [low, PRIME[1] - u64::from(borrow), PRIME[2], PRIME[3], PRIME[4], PRIME[5]]
            }),
        ]
        .prop_filter("below p", is_reduced)
    }

    fn numbers() -> impl Strategy<Value = [[u64; 6]; LANES]> {
        prop::array::uniform8(number())
    }

    /// The same numbers modulo p, higher by 2^n p, and limbs as large as carries leave them.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn raised(numbers: &[[u64; 6]; LANES], n: u32) -> Fp {
        Fp::from_blst(&numbers.map(|l| blst_fp { l })).sum().plus(Sum(spread(shifted(P, n)))).carried()
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn products(a: &[[u64; 6]; LANES], b: &[[u64; 6]; LANES], m: u32, n: u32) -> [[blst_fp; LANES]; 4] {
        let (a, b) = (raised(a, m), raised(b, n));
        let negative = raised(&[[0; 6]; LANES], 10).sum().plus(a.negative().sum()).carried();
        [
            a.times(&b).carried().to_blst(),
            a.times_plus(&b, &b, &a).carried().to_blst(),
            b.square().carried().to_blst(),
            if m < 11 { negative.to_blst() } else { Fp::zero().to_blst() },
        ]
    }

    fn each(
        a: [[u64; 6]; LANES],
        b: [[u64; 6]; LANES],
        call: unsafe extern "C" fn(*mut blst_fp, *const blst_fp, *const blst_fp),
    ) -> [blst_fp; LANES] {
        std::array::from_fn(|lane| {
            let mut out = blst_fp::default();
            // SAFETY: the pointers are to initialised field elements.
            unsafe { call(&mut out, &blst_fp { l: a[lane] }, &blst_fp { l: b[lane] }) };
            out
        })
    }

    #[test]
    fn constants_are_what_they_are_called() {
        assert_eq!(PRIME[0].wrapping_mul(NEGATED_INVERSE) & MASK, MASK, "p times -1/p is -1");
        assert_eq!(join(split(PRIME)), PRIME);
        assert_eq!(join(split(power_of_two(384))), power_of_two(384));
        // 4 (p + 1) / 4 - 1.
        let mut back = ROOT.map(|limb| limb << 2);
        (1..6).for_each(|n| back[n] |= ROOT[n - 1] >> 62);
        back[0] -= 1;
        assert_eq!(back, PRIME);
        assert!(is_reduced(&[0; 6]) && !is_reduced(&PRIME) && !is_reduced(&[u64::MAX; 6]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn products_are_those_of_blst_however_far_above_p_the_factors_are(
            a in numbers(), b in numbers(), m in 0u32..=16, n in 0u32..=16,
        ) {
            if !available() {
                return Ok(());
            }
            // SAFETY: the processor has the features.
            let [product, twice, square, negative] = unsafe { products(&a, &b, m, n) };
            let expected = each(a, b, blst_fp_mul);
            prop_assert_eq!(product, expected);
            let limbs = expected.map(|fp| fp.l);
            prop_assert_eq!(twice, each(limbs, limbs, blst_fp_add));
            let mut squares = [blst_fp::default(); LANES];
            for (lane, square) in squares.iter_mut().enumerate() {
                // SAFETY: the pointers are to initialised field elements.
                unsafe { blst_fp_sqr(square, &blst_fp { l: b[lane] }) };
            }
            prop_assert_eq!(square, squares);
            if m < 11 {
                prop_assert_eq!(each(negative.map(|fp| fp.l), a, blst_fp_add), [blst_fp::default(); LANES]);
            }
        }

        #[test]
        fn zero_is_seen_however_far_above_p_it_is(a in numbers(), n in 0u32..=11, zeros: u8) {
            if !available() {
                return Ok(());
            }
            let numbers = std::array::from_fn(|lane| if zeros >> lane & 1 == 1 { [0; 6] } else { a[lane] });
            let expected = (0..LANES).fold(0, |mask, lane| mask | u8::from(numbers[lane] == [0; 6]) << lane);
            // SAFETY: the processor has the features.
            prop_assert_eq!(unsafe { raised(&numbers, n).is_zero() }, expected);
        }
    }
}
