//! Numbers modulo the group's order.

use std::{
    fmt,
    iter::Sum,
    ops::{Add, AddAssign, Mul, Neg, Sub},
};

use blst::{
    blst_bendian_from_scalar, blst_fr, blst_fr_add, blst_fr_from_scalar, blst_fr_from_uint64, blst_fr_inverse,
    blst_fr_mul, blst_fr_sub, blst_scalar, blst_scalar_fr_check, blst_scalar_from_be_bytes, blst_scalar_from_bendian,
    blst_scalar_from_fr,
};
use cascade_primitives::{Decode, DecodeError, Encode, Reader, codec::DecodeErrorKind};
use rand::CryptoRng;
use zeroize::{Zeroize, Zeroizing};

use super::SCALAR_BYTES;

/// A number below the order r of the groups. Never printed; erase secret ones with [`Zeroize`].
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Scalar(blst_fr);

impl Zeroize for Scalar {
    fn zeroize(&mut self) {
        self.0.l.zeroize();
    }
}

impl fmt::Debug for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scalar(..)")
    }
}

impl Scalar {
    /// Zero.
    pub const ZERO: Self = Self(blst_fr { l: [0; 4] });
    /// One, in blst's Montgomery form (2^256 mod r).
    pub const ONE: Self = Self(blst_fr {
        l: [0x0000_0001_ffff_fffe, 0x5884_b7fa_0003_4802, 0x998c_4fef_ecbc_4ff5, 0x1824_b159_acc5_056f],
    });

    /// A small number.
    #[must_use]
    pub fn from_u64(value: u64) -> Self {
        let limbs = [value, 0, 0, 0];
        let mut fr = blst_fr::default();
        // SAFETY: both pointers are to initialised values of the size that blst expects (four limbs).
        unsafe { blst_fr_from_uint64(&mut fr, limbs.as_ptr()) };
        Self(fr)
    }

    /// The number with this big-endian encoding; none at or above r.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; SCALAR_BYTES]) -> Option<Self> {
        let mut scalar = Zeroizing::new(blst_scalar::default());
        let mut fr = blst_fr::default();
        // SAFETY: `bytes` has the 32 bytes that are read; the other pointers are to initialised values.
        unsafe {
            blst_scalar_from_bendian(&mut *scalar, bytes.as_ptr());
            if !blst_scalar_fr_check(&*scalar) {
                return None;
            }
            blst_fr_from_scalar(&mut fr, &*scalar);
        }
        Some(Self(fr))
    }

    /// 64 uniform bytes reduced modulo r: uniform but for 2^-256.
    #[must_use]
    pub fn from_wide(bytes: &[u8; 64]) -> Self {
        let mut scalar = Zeroizing::new(blst_scalar::default());
        let mut fr = blst_fr::default();
        // SAFETY: the length is that of `bytes`; the other pointers are to initialised values. The answer of
        // blst_scalar_from_be_bytes says only whether the number is not zero.
        unsafe {
            blst_scalar_from_be_bytes(&mut *scalar, bytes.as_ptr(), bytes.len());
            blst_fr_from_scalar(&mut fr, &*scalar);
        }
        Self(fr)
    }

    /// A uniform number.
    #[must_use]
    pub fn random(rng: &mut dyn CryptoRng) -> Self {
        let mut wide = Zeroizing::new([0u8; 64]);
        rng.fill_bytes(wide.as_mut_slice());
        Self::from_wide(&wide)
    }

    /// A uniform number below 2^128 that is not zero: a coefficient of a random linear combination.
    #[must_use]
    pub fn random_half(rng: &mut dyn CryptoRng) -> Self {
        let mut bytes = [0u8; SCALAR_BYTES];
        rng.fill_bytes(&mut bytes[16..]);
        bytes[31] |= u8::from(bytes[16..] == [0u8; 16]);
        Self::from_bytes(&bytes).expect("a number below 2^128 is below r")
    }

    /// The big-endian encoding.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; SCALAR_BYTES] {
        let mut bytes = [0u8; SCALAR_BYTES];
        let scalar = Zeroizing::new(self.to_scalar());
        // SAFETY: `bytes` has the 32 bytes that are written.
        unsafe { blst_bendian_from_scalar(bytes.as_mut_ptr(), &*scalar) };
        bytes
    }

    /// The little-endian bytes that blst multiplies by.
    pub(super) fn to_scalar(self) -> blst_scalar {
        let mut scalar = blst_scalar::default();
        // SAFETY: both pointers are to initialised values.
        unsafe { blst_scalar_from_fr(&mut scalar, &self.0) };
        scalar
    }

    /// Whether it is zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0.l == [0; 4]
    }

    /// 1/x; none for zero.
    #[must_use]
    pub fn inverse(&self) -> Option<Self> {
        if self.is_zero() {
            return None;
        }
        let mut fr = blst_fr::default();
        // SAFETY: both pointers are to initialised values.
        unsafe { blst_fr_inverse(&mut fr, &self.0) };
        Some(Self(fr))
    }
}

macro_rules! operator {
    ($trait:ident, $method:ident, $call:ident) => {
        impl $trait for Scalar {
            type Output = Self;

            fn $method(self, other: Self) -> Self {
                let mut fr = blst_fr::default();
                // SAFETY: all pointers are to initialised values.
                unsafe { $call(&mut fr, &self.0, &other.0) };
                Self(fr)
            }
        }
    };
}

operator!(Add, add, blst_fr_add);
operator!(Sub, sub, blst_fr_sub);
operator!(Mul, mul, blst_fr_mul);

impl AddAssign for Scalar {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Neg for Scalar {
    type Output = Self;

    fn neg(self) -> Self {
        Self::ZERO - self
    }
}

impl Sum for Scalar {
    fn sum<I: Iterator<Item = Self>>(values: I) -> Self {
        values.fold(Self::ZERO, Add::add)
    }
}

impl Encode for Scalar {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_bytes());
    }
}

impl Decode for Scalar {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Self::from_bytes(&r.array()?).ok_or_else(|| r.error(DecodeErrorKind::NotCanonical("a scalar is below r")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_one_and_r_is_refused() {
        assert_eq!(Scalar::from_u64(1), Scalar::ONE);
        assert_eq!(Scalar::ONE * Scalar::from_u64(7), Scalar::from_u64(7));
        let mut r = [0u8; 32];
        hex::decode_to_slice("73eda753299d7d483339d80809a1d80553bda402fffe5bfeffffffff00000001", &mut r).unwrap();
        assert_eq!(Scalar::from_bytes(&r), None);
        r[31] = 0;
        assert_eq!(Scalar::from_bytes(&r), Some(-Scalar::ONE));
    }

    #[test]
    fn wide_bytes_are_reduced() {
        let mut wide = [0u8; 64];
        wide[63] = 5;
        assert_eq!(Scalar::from_wide(&wide), Scalar::from_u64(5));
        wide[31] = 1;
        // 2^256 + 5
        let half = (0..256).fold(Scalar::ONE, |x, _| x + x);
        assert_eq!(Scalar::from_wide(&wide), half + Scalar::from_u64(5));
    }

    #[test]
    fn a_scalar_is_never_printed() {
        assert_eq!(format!("{:?}", Scalar::from_u64(5)), "Scalar(..)");
    }
}
