//! Eight points of E(Fp) at once.

use std::arch::x86_64::{
    _mm_cvtsi64_si128, _mm512_abs_epi64, _mm512_cmpeq_epi64_mask, _mm512_cvtepi8_epi64, _mm512_movepi64_mask,
    _mm512_set1_epi64,
};

use blst::{blst_p1, blst_p1_affine};
use zeroize::Zeroizing;

use super::{
    super::many::Place,
    LANES,
    field::{Fp, Sum},
};

/// A cube root of one, in plain form: (BETA x, y) is -z^2 (x, y) in the subgroup of order r, for the curve's parameter z.
const BETA: [u64; 6] = [
    0x2e01_ffff_fffe_fffe,
    0xde17_d813_620a_0002,
    0xddb3_a93b_e6f8_9688,
    0xba69_c607_6a0f_77ea,
    0x5f19_672f_df76_ce51,
    0,
];
/// -z of the curve's parameter z.
const MINUS_Z: u64 = 0xd201_0000_0001_0000;
/// The curve is y^2 = x^3 + 4.
const FOUR: [u64; 6] = [4, 0, 0, 0, 0, 0];

/// Multiples in a table: 1 to 8.
const MULTIPLES: usize = 8;
/// Digits of a number below 2^128, to the base 16.
const DIGITS: usize = 33;

/// The signed digits of a number in each lane, from -7 to 8, from the lowest place to the highest; the last is 0 or 1.
pub(super) struct Digits(Zeroizing<Box<[[i8; LANES]]>>);

impl Digits {
    /// In constant time.
    pub(super) fn new(number: impl Fn(usize) -> u128) -> Self {
        let mut digits = Zeroizing::new(vec![[0; LANES]; DIGITS].into_boxed_slice());
        for lane in 0..LANES {
            let (number, mut carry) = (number(lane), 0);
            for (place, digits) in digits.iter_mut().enumerate() {
                let nibble = if place < DIGITS - 1 { (number >> (4 * place) & 15) as i8 } else { 0 };
                let digit = nibble + carry;
                // The sign: one where the digit is above 8.
                carry = (8 - digit) >> 7 & 1;
                digits[lane] = digit - (carry << 4);
            }
        }
        Self(digits)
    }
}

/// Eight points, homogeneous: (x : y : z) is (x/z, y/z), and (0 : 1 : 0) infinity. x and z are below 4 p, y below 2^12 p.
///
/// The formulas are those of Renes, Costello and Batina (Complete addition formulas for prime order elliptic curves, ePrint
/// 2015/1060, algorithms 7 to 9). They hold for any two points, equal, opposite or infinite, wherever no point has order
/// two; the order of E(Fp), r (z - 1)^2 / 3, is odd. So all lanes take the same steps, whatever they hold.
#[derive(Clone, Copy)]
pub(super) struct Points {
    x: Fp,
    y: Fp,
    z: Fp,
}

impl Points {
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn infinity() -> Self {
        Self { x: Fp::zero(), y: Fp::one(), z: Fp::zero() }
    }

    /// Points other than infinity.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn from_blst(points: &[blst_p1_affine; LANES]) -> Self {
        let (x, y) = (points.map(|point| point.x), points.map(|point| point.y));
        Self { x: Fp::from_blst(&x), y: Fp::from_blst(&y), z: Fp::one() }
    }

    /// The points in the form of blst, Jacobian: (x z : y z^2 : z).
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn to_blst(self) -> [blst_p1; LANES] {
        let xz = self.x.times(&self.z).carried();
        let yzz = self.y.times(&self.z.square().carried()).carried();
        let (x, y, z) = (xz.to_blst(), yzz.to_blst(), self.z.to_blst());
        std::array::from_fn(|lane| blst_p1 { x: x[lane], y: y[lane], z: z[lane] })
    }

    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn add(&mut self, other: &Self) {
        let (xx, yy, zz) = (self.x.times(&other.x), self.y.times(&other.y), self.z.times(&other.z));
        // Each is (a + b)(a' + b') - aa' - bb' = ab' + a'b.
        let mixed = |a: &Fp, b: &Fp, c: &Fp, d: &Fp, products: Sum| {
            let left = a.sum().plus(b.sum()).carried();
            left.times(&c.sum().plus(d.sum()).carried()).minus(products)
        };
        let xy = mixed(&self.x, &self.y, &other.x, &other.y, xx.plus(yy)).carried();
        let yz = mixed(&self.y, &self.z, &other.y, &other.z, yy.plus(zz)).carried();
        let xz = mixed(&self.x, &self.z, &other.x, &other.z, xx.plus(zz)).carried();
        let (xx, xz) = (xx.thrice().carried(), xz.sum().twelvefold().carried());
        let zz = zz.carried().sum().twelvefold();
        let (plus, minus) = (yy.plus(zz).carried(), yy.minus(zz).carried());
        self.x = xy.times_plus(&minus, &yz, &xz.negative()).carried();
        self.y = minus.times_plus(&plus, &xz, &xx).carried();
        self.z = plus.times_plus(&yz, &xy, &xx).carried();
    }

    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn double(&mut self) {
        let yy = self.y.square();
        let yz = self.y.times(&self.z).carried();
        let zz = self.z.square().carried().sum().twelvefold().carried();
        let xy = self.x.times(&self.y).carried();
        let eight = yy.eightfold().carried();
        let plus = yy.plus(zz.sum()).carried();
        let minus = yy.minus(zz.sum().thrice()).carried();
        self.x = minus.times(&xy).twice().carried();
        self.y = minus.times_plus(&plus, &zz, &eight).carried();
        self.z = yz.times(&eight).carried();
    }

    /// The points (BETA x, y).
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn endomorphism(&self, beta: &Fp) -> Self {
        Self { x: self.x.times(beta).carried(), ..*self }
    }

    /// The negatives in the lanes of the mask.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn negated(&self, lanes: u8) -> Self {
        Self { y: self.y.negated(lanes), ..*self }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn or(&self, lanes: u8, other: &Self) -> Self {
        Self { x: self.x.or(lanes, &other.x), y: self.y.or(lanes, &other.y), z: self.z.or(lanes, &other.z) }
    }

    /// Each point times -z.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn times_minus_z(&self) -> Self {
        let mut product = *self;
        for bit in (0..MINUS_Z.ilog2()).rev() {
            product.double();
            if MINUS_Z >> bit & 1 == 1 {
                product.add(self);
            }
        }
        product
    }

    /// Which affine points have order r: those of which (BETA x, y) is -z^2 times the point (Scott, A note on group membership
    /// tests for G1, G2 and GT on BLS pairing-friendly curves, ePrint 2021/1130).
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn in_subgroup(&self) -> u8 {
        let image = self.endomorphism(&Fp::constant(BETA));
        let multiple = self.times_minus_z().times_minus_z().negated(u8::MAX);
        let (x, y) = (image.x.times(&multiple.z), image.y.times(&multiple.z));
        // Were a multiple infinity, (0 : y : 0), its y would differ.
        multiple.x.sum().minus(x).carried().is_zero() & multiple.y.sum().minus(y).carried().is_zero()
    }

    /// Which points differ from others by torsion alone: 1 - z maps that to infinity, and nothing else (Wahby and Boneh, ePrint
    /// 2019/403, section 5).
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn differ_by_torsion(&self, others: &Self) -> u8 {
        let mut difference = *self;
        difference.add(&others.negated(u8::MAX));
        let mut cleared = difference.times_minus_z();
        cleared.add(&difference);
        cleared.z.is_zero()
    }

    /// The y of points with these x in plain form, each of which is below p, in the form of blst, and which of them exist. Of
    /// the two it is the one above or below p/2, as the flag of its lane says.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn lift(plain: &[[u64; 6]; LANES], upper: u8) -> ([blst_p1_affine; LANES], u8) {
        let x = Fp::from_plain(plain);
        let right = x.square().carried().times(&x).plus(Fp::constant(FOUR).sum()).carried();
        let y = right.root();
        let exist = y.square().minus(right.sum()).carried().is_zero();
        let is_upper = y.to_plain().iter().rev().fold(0, |lanes, y| lanes << 1 | u8::from(above_half(y)));
        let y = y.negated(is_upper ^ upper);
        let (x, y) = (x.to_blst(), y.to_blst());
        (std::array::from_fn(|lane| blst_p1_affine { x: x[lane], y: y[lane] }), exist)
    }
}

/// Whether a number below p is above (p - 1) / 2.
fn above_half(number: &[u64; 6]) -> bool {
    /// (p - 1) / 2.
    const HALF: [u64; 6] = [
        0xdcff_7fff_ffff_d555,
        0x0f55_ffff_58a9_ffff,
        0xb398_6950_7b58_7b12,
        0xb23b_a5c2_79c2_895f,
        0x258d_d3db_21a5_d66b,
        0x0d00_88f5_1cbf_f34d,
    ];
    number.iter().rev().gt(HALF.iter().rev())
}

/// The multiples 1 to 8 of eight points, or of their images under the endomorphism.
pub(super) struct Table([Points; MULTIPLES]);

impl Table {
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn new(points: &Points) -> Self {
        let mut multiples = [*points; MULTIPLES];
        for n in 1..MULTIPLES {
            // multiples[n] is n + 1 times the point.
            if n % 2 == 1 {
                multiples[n] = multiples[n / 2];
                multiples[n].double();
            } else {
                multiples[n] = multiples[n - 1];
                multiples[n].add(points);
            }
        }
        Self(multiples)
    }

    /// The table of z^2 times the points, which must be in the subgroup, or anything that differs from that by torsion.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn times_z_squared(&self) -> Self {
        let beta = Fp::constant(BETA);
        Self(self.0.map(|multiple| multiple.endomorphism(&beta).negated(u8::MAX)))
    }

    /// In each lane the multiple that its digit says. Reads the whole table, whatever the digits.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn multiple(&self, digits: [i8; LANES]) -> Points {
        let digits = _mm512_cvtepi8_epi64(_mm_cvtsi64_si128(i64::from_le_bytes(digits.map(|digit| digit as u8))));
        let sizes = _mm512_abs_epi64(digits);
        let mut picked = Points::infinity();
        for (n, multiple) in self.0.iter().enumerate() {
            picked = picked.or(_mm512_cmpeq_epi64_mask(sizes, _mm512_set1_epi64(n as i64 + 1)), multiple);
        }
        picked.negated(_mm512_movepi64_mask(digits))
    }
}

/// In each lane the sum of its points times integers that are the same for all lanes.
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub(super) fn sum_of_places(points: &[Points], places: &[Place]) -> Points {
    let mut sum = Points::infinity();
    for (n, place) in places.iter().enumerate() {
        if n > 0 {
            sum.double();
        }
        for &(index, minus) in place {
            if minus {
                sum.add(&points[index].negated(u8::MAX));
            } else {
                sum.add(&points[index]);
            }
        }
    }
    sum
}

/// In each lane the sum of the points of all tables, each times its number: Straus's method, where all share the doublings.
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub(super) fn sums(tables: &[Table], digits: &[Digits]) -> Points {
    let mut sum = Points::infinity();
    for place in (0..DIGITS).rev() {
        if place < DIGITS - 1 {
            for _ in 0..4 {
                sum.double();
            }
        }
        for (table, digits) in tables.iter().zip(digits) {
            sum.add(&table.multiple(digits.0[place]));
        }
    }
    sum
}
