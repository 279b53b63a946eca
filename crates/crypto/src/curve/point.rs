//! Points of both groups.

use std::{
    fmt,
    ops::{Add, AddAssign, Neg, Sub},
    ptr,
};

use blst::*;
use cascade_primitives::{Decode, DecodeError, Encode, Reader, codec::DecodeErrorKind};
use zeroize::{Zeroize as _, Zeroizing};

use super::{G1_BYTES, G1_WIDE_BYTES, G2_BYTES, Scalar};

/// Bits of a scalar.
const SCALAR_BITS: usize = 255;

macro_rules! group {
    (
        $name:ident, $affine:ident, $what:literal, $bytes:ident, $raw:ident, $raw_affine:ident,
        $generator:ident, $affine_generator:ident, $add:ident, $add_affine:ident, $cneg:ident, $mult:ident, $double:ident,
        $is_inf:ident, $equal:ident, $to_affine:ident, $from_affine:ident, $batch:ident,
        $pippenger:ident, $scratch:ident, $uncompress:ident, $compress:ident, $in_group:ident, $affine_is_inf:ident
    ) => {
        #[doc = concat!("A point on the curve of ", $what, ", projective.")]
        #[derive(Clone, Copy)]
        #[repr(transparent)]
        pub struct $name(pub(super) $raw);

        #[doc = concat!("A point on the curve of ", $what, ", affine.")]
        #[derive(Clone, Copy, PartialEq)]
        #[repr(transparent)]
        pub struct $affine(pub(super) $raw_affine);

        impl Eq for $affine {}

        impl $name {
            /// The neutral element.
            #[must_use]
            pub fn infinity() -> Self {
                Self($raw::default())
            }

            /// The group's generator.
            #[must_use]
            pub fn generator() -> Self {
                // SAFETY: blst answers with a pointer to a constant.
                Self(unsafe { *$generator() })
            }

            /// Whether it is the neutral element.
            #[must_use]
            pub fn is_infinity(&self) -> bool {
                // SAFETY: the pointer is to an initialised point.
                unsafe { $is_inf(&self.0) }
            }

            /// This point times a scalar, in constant time. The point must be in the subgroup.
            #[must_use]
            pub fn times(&self, scalar: &Scalar) -> Self {
                let scalar = Zeroizing::new(scalar.to_scalar());
                let mut out = $raw::default();
                // SAFETY: the scalar has 32 bytes, of which 255 bits are read; the points are initialised.
                unsafe { $mult(&mut out, &self.0, scalar.b.as_ptr(), SCALAR_BITS) };
                Self(out)
            }

            /// This point times a small number.
            #[must_use]
            pub fn times_small(&self, factor: u64) -> Self {
                let bits = 64 - factor.leading_zeros() as usize;
                let mut out = $raw::default();
                // SAFETY: `bits` is at most the 64 bits that the bytes have; the points are initialised.
                unsafe { $mult(&mut out, &self.0, factor.to_le_bytes().as_ptr(), bits) };
                Self(out)
            }

            /// Twice this point.
            #[must_use]
            pub fn double(&self) -> Self {
                let mut out = $raw::default();
                // SAFETY: both pointers are to initialised points.
                unsafe { $double(&mut out, &self.0) };
                Self(out)
            }

            /// This point plus an affine one.
            #[must_use]
            pub fn plus(&self, other: &$affine) -> Self {
                let mut out = $raw::default();
                // SAFETY: all pointers are to initialised points; this call covers doubling and infinity.
                unsafe { $add_affine(&mut out, &self.0, &other.0) };
                Self(out)
            }

            /// The affine form.
            #[must_use]
            pub fn to_affine(&self) -> $affine {
                let mut out = $raw_affine::default();
                // SAFETY: both pointers are to initialised points.
                unsafe { $to_affine(&mut out, &self.0) };
                $affine(out)
            }

            /// The affine forms of many points, with one inversion for all.
            #[must_use]
            pub fn batch_to_affine(points: &[Self]) -> Vec<$affine> {
                // blst's batch inversion does not take infinity.
                if points.len() < 2 || points.iter().any(Self::is_infinity) {
                    return points.iter().map(Self::to_affine).collect();
                }
                let mut out = vec![$affine($raw_affine::default()); points.len()];
                let pointers = [points.as_ptr().cast::<$raw>(), ptr::null()];
                // SAFETY: the wrapper is `repr(transparent)`, so `points` is an array of blst points; a
                // null second pointer tells blst that they are contiguous; `out` has room for all of them.
                unsafe { $batch(out.as_mut_ptr().cast::<$raw_affine>(), pointers.as_ptr(), points.len()) };
                out
            }

            /// The sum of each point times its scalar. Not in constant time: for public scalars only.
            ///
            /// # Panics
            /// If the numbers of points and scalars differ.
            #[must_use]
            pub fn sum_of_products(points: &[$affine], scalars: &[Scalar]) -> Self {
                Self::sum_of_bits(points, scalars, SCALAR_BITS)
            }

            /// The same for scalars below 2^128.
            ///
            /// # Panics
            /// If the numbers of points and scalars differ.
            #[must_use]
            pub fn sum_of_half_products(points: &[$affine], scalars: &[Scalar]) -> Self {
                Self::sum_of_bits(points, scalars, 128)
            }

            fn sum_of_bits(points: &[$affine], scalars: &[Scalar], bits: usize) -> Self {
                assert_eq!(points.len(), scalars.len(), "one scalar for each point");
                if points.is_empty() {
                    return Self::infinity();
                }
                if points.iter().any($affine::is_infinity) {
                    let (points, scalars): (Vec<_>, Vec<_>) =
                        points.iter().zip(scalars).filter(|(p, _)| !p.is_infinity()).unzip();
                    return Self::sum_of_bits(&points, &scalars, bits);
                }
                let width = bits.div_ceil(8);
                let mut packed = Vec::with_capacity(points.len() * width);
                for scalar in scalars {
                    packed.extend_from_slice(&scalar.to_scalar().b[..width]);
                }
                let points_at = [points.as_ptr().cast::<$raw_affine>(), ptr::null()];
                let scalars_at = [packed.as_ptr(), ptr::null()];
                let mut out = $raw::default();
                // SAFETY: the wrapper is `repr(transparent)`, so `points` is an array of blst points; null second
                // pointers tell blst that points and scalars are contiguous; each scalar has `width` bytes, which is
                // what blst reads for `bits`; the scratch has the size that blst asks for.
                unsafe {
                    let mut scratch = vec![0 as limb_t; $scratch(points.len()) / size_of::<limb_t>()];
                    $pippenger(
                        &mut out,
                        points_at.as_ptr(),
                        points.len(),
                        scalars_at.as_ptr(),
                        bits,
                        scratch.as_mut_ptr(),
                    );
                }
                packed.zeroize();
                Self(out)
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                // SAFETY: both pointers are to initialised points.
                unsafe { $equal(&self.0, &other.0) }
            }
        }

        impl Eq for $name {}

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.to_affine().fmt(f)
            }
        }

        impl From<$affine> for $name {
            fn from(point: $affine) -> Self {
                let mut out = $raw::default();
                // SAFETY: both pointers are to initialised points.
                unsafe { $from_affine(&mut out, &point.0) };
                Self(out)
            }
        }

        impl Add for $name {
            type Output = Self;

            fn add(self, other: Self) -> Self {
                let mut out = $raw::default();
                // SAFETY: all pointers are to initialised points; this call covers doubling and infinity.
                unsafe { $add(&mut out, &self.0, &other.0) };
                Self(out)
            }
        }

        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                *self = *self + other;
            }
        }

        impl Sub for $name {
            type Output = Self;

            fn sub(self, other: Self) -> Self {
                self + -other
            }
        }

        impl Neg for $name {
            type Output = Self;

            fn neg(mut self) -> Self {
                // SAFETY: the pointer is to an initialised point.
                unsafe { $cneg(&mut self.0, true) };
                self
            }
        }

        impl $affine {
            /// The group's generator.
            #[must_use]
            pub fn generator() -> Self {
                // SAFETY: blst answers with a pointer to a constant.
                Self(unsafe { *$affine_generator() })
            }

            /// Whether it is the neutral element.
            #[must_use]
            pub fn is_infinity(&self) -> bool {
                // SAFETY: the pointer is to an initialised point.
                unsafe { $affine_is_inf(&self.0) }
            }

            /// Whether it has order r (or 1).
            #[must_use]
            pub fn in_subgroup(&self) -> bool {
                // SAFETY: the pointer is to an initialised point on the curve.
                unsafe { $in_group(&self.0) }
            }

            /// A point of the subgroup other than infinity from its compressed encoding.
            #[must_use]
            pub fn from_compressed(bytes: &[u8; $bytes]) -> Option<Self> {
                Self::on_curve_compressed(bytes).filter(Self::in_subgroup)
            }

            /// A point on the curve other than infinity from its compressed encoding. Its subgroup is not checked.
            #[must_use]
            pub fn on_curve_compressed(bytes: &[u8; $bytes]) -> Option<Self> {
                let mut out = $raw_affine::default();
                // SAFETY: `bytes` has the length that blst reads.
                let result = unsafe { $uncompress(&mut out, bytes.as_ptr()) };
                Some(Self(out)).filter(|point| result == BLST_ERROR::BLST_SUCCESS && !point.is_infinity())
            }

            /// The compressed encoding.
            #[must_use]
            pub fn to_compressed(&self) -> [u8; $bytes] {
                let mut bytes = [0u8; $bytes];
                // SAFETY: `bytes` has the length that blst writes.
                unsafe { $compress(bytes.as_mut_ptr(), &self.0) };
                bytes
            }
        }

        impl fmt::Debug for $affine {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let bytes = self.to_compressed();
                write!(f, concat!(stringify!($name), "({:02x}{:02x}{:02x}{:02x}..)"), bytes[0], bytes[1], bytes[2], bytes[3])
            }
        }

        impl Encode for $affine {
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_compressed());
            }
        }

        impl Decode for $affine {
            fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Self::from_compressed(&r.array()?).ok_or_else(|| {
                    r.error(DecodeErrorKind::NotCanonical(concat!("no point of the subgroup of ", $what, ", or infinity")))
                })
            }
        }
    };
}

group!(
    G1,
    G1Affine,
    "G1",
    G1_BYTES,
    blst_p1,
    blst_p1_affine,
    blst_p1_generator,
    blst_p1_affine_generator,
    blst_p1_add_or_double,
    blst_p1_add_or_double_affine,
    blst_p1_cneg,
    blst_p1_mult,
    blst_p1_double,
    blst_p1_is_inf,
    blst_p1_is_equal,
    blst_p1_to_affine,
    blst_p1_from_affine,
    blst_p1s_to_affine,
    blst_p1s_mult_pippenger,
    blst_p1s_mult_pippenger_scratch_sizeof,
    blst_p1_uncompress,
    blst_p1_affine_compress,
    blst_p1_affine_in_g1,
    blst_p1_affine_is_inf
);

group!(
    G2,
    G2Affine,
    "G2",
    G2_BYTES,
    blst_p2,
    blst_p2_affine,
    blst_p2_generator,
    blst_p2_affine_generator,
    blst_p2_add_or_double,
    blst_p2_add_or_double_affine,
    blst_p2_cneg,
    blst_p2_mult,
    blst_p2_double,
    blst_p2_is_inf,
    blst_p2_is_equal,
    blst_p2_to_affine,
    blst_p2_from_affine,
    blst_p2s_to_affine,
    blst_p2s_mult_pippenger,
    blst_p2s_mult_pippenger_scratch_sizeof,
    blst_p2_uncompress,
    blst_p2_affine_compress,
    blst_p2_affine_in_g2,
    blst_p2_affine_is_inf
);

/// 1 - z for the curve's parameter z. Multiplication by it maps every point of E(Fp) into the subgroup, and exactly the
/// torsion points to infinity (Wahby and Boneh, ePrint 2019/403, section 5).
pub(super) const COFACTOR: u64 = 0xd201_0000_0001_0001;

impl G1 {
    /// The hash of a message to a point of the subgroup (RFC 9380, BLS12381G1_XMD:SHA-256_SSWU_RO_).
    #[must_use]
    pub fn hash(message: &[u8], tag: &[u8]) -> Self {
        let mut out = blst_p1::default();
        // SAFETY: the lengths are those of the slices; no augmentation is given.
        unsafe {
            blst_hash_to_g1(&mut out, message.as_ptr(), message.len(), tag.as_ptr(), tag.len(), ptr::null(), 0);
        }
        Self(out)
    }

    /// Whether it is infinity but for a torsion component: the cofactored form of "is infinity".
    #[must_use]
    pub fn clears_to_infinity(&self) -> bool {
        self.times_small(COFACTOR).is_infinity()
    }

    /// This point times the order of the subgroup, which leaves its torsion component.
    #[cfg(test)]
    pub(crate) fn times_order(&self) -> Self {
        let minus_one = (-Scalar::ONE).to_scalar();
        let mut out = blst_p1::default();
        // SAFETY: the scalar has 32 bytes; this call works for points outside of the subgroup too.
        unsafe { blst_p1_unchecked_mult(&mut out, &self.0, minus_one.b.as_ptr(), SCALAR_BITS) };
        Self(out) + *self
    }
}

impl G1Affine {
    /// A point on the curve other than infinity from its uncompressed encoding. Its subgroup is not checked.
    #[must_use]
    pub fn on_curve_uncompressed(bytes: &[u8; G1_WIDE_BYTES]) -> Option<Self> {
        // The three flag bits are zero, or blst would read a compressed point or infinity.
        if bytes[0] & 0xe0 != 0 {
            return None;
        }
        let mut out = blst_p1_affine::default();
        // SAFETY: `bytes` has the length that blst reads.
        let result = unsafe { blst_p1_deserialize(&mut out, bytes.as_ptr()) };
        Some(Self(out)).filter(|point| result == BLST_ERROR::BLST_SUCCESS && !point.is_infinity())
    }

    /// The point mirrored: its negative.
    #[must_use]
    pub fn negated(mut self) -> Self {
        let y = self.0.y;
        // SAFETY: both pointers are to initialised field elements. Infinity stays (0, 0).
        unsafe { blst_fp_cneg(&mut self.0.y, &y, true) };
        self
    }

    /// The uncompressed encoding.
    #[must_use]
    pub fn to_uncompressed(&self) -> [u8; G1_WIDE_BYTES] {
        let mut bytes = [0u8; G1_WIDE_BYTES];
        // SAFETY: `bytes` has the length that blst writes.
        unsafe { blst_p1_affine_serialize(bytes.as_mut_ptr(), &self.0) };
        bytes
    }
}
