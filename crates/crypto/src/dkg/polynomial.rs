//! Secret polynomials, on threshold_crypto.
//!
//! Its field arithmetic does not run in constant time. A dealer evaluates two polynomials once an epoch, at public
//! points, and never again: who would learn something from timing must measure that one run on the dealer's machine.
//! Everything that runs for each envelope multiplies by secrets with blst, in constant time.

use std::fmt;

use rand::CryptoRng;
use threshold_crypto::{Fr, FrRepr, ff::PrimeField as _, poly::Poly};
use zeroize::{Zeroize as _, Zeroizing};

use crate::curve::{G1, G2, G2Affine, Scalar};

/// A scalar of threshold_crypto's in blst's form.
pub(crate) fn from_tc(value: Fr) -> Scalar {
    let mut bytes = Zeroizing::new([0u8; 32]);
    for (chunk, limb) in bytes.chunks_exact_mut(8).zip(value.into_repr().0.iter().rev()) {
        chunk.copy_from_slice(&limb.to_be_bytes());
    }
    Scalar::from_bytes(&bytes).expect("both fields have the order r")
}

/// A scalar of ours in threshold_crypto's form.
pub(crate) fn to_tc(value: &Scalar) -> Fr {
    let bytes = Zeroizing::new(value.to_bytes());
    let mut limbs = [0u64; 4];
    for (limb, chunk) in limbs.iter_mut().rev().zip(bytes.chunks_exact(8)) {
        *limb = u64::from_be_bytes(chunk.try_into().expect("chunks have 8 bytes"));
    }
    Fr::from_repr(FrRepr(limbs)).expect("both fields have the order r")
}

/// A secret polynomial of a fixed degree; its value at zero is what is dealt. Erased when dropped.
pub(crate) struct Polynomial {
    coefficients: Vec<Scalar>,
    poly: Poly,
}

impl Drop for Polynomial {
    fn drop(&mut self) {
        self.coefficients.zeroize();
    }
}

impl fmt::Debug for Polynomial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Polynomial(degree {})", self.coefficients.len() - 1)
    }
}

impl Polynomial {
    /// A uniform polynomial with so many coefficients, at least one.
    pub(crate) fn random(coefficients: usize, rng: &mut dyn CryptoRng) -> Self {
        Self::new((0..coefficients).map(|_| Scalar::random(rng)).collect())
    }

    pub(crate) fn new(coefficients: Vec<Scalar>) -> Self {
        assert!(!coefficients.is_empty(), "a polynomial has a coefficient");
        let poly = Poly::from(coefficients.iter().map(to_tc).collect::<Vec<_>>());
        Self { coefficients, poly }
    }

    /// The share of a seat: the value at seat + 1.
    pub(crate) fn share(&self, seat: u32) -> Scalar {
        from_tc(self.poly.evaluate(u64::from(seat) + 1))
    }

    /// The coefficients times the generator of G2.
    pub(crate) fn commitment(&self) -> Vec<G2Affine> {
        let points: Vec<G2> = self.coefficients.iter().map(|c| G2::generator().times(c)).collect();
        G2::batch_to_affine(&points)
    }

    /// The secret times the generator of G1.
    pub(crate) fn public(&self) -> G1 {
        G1::generator().times(&self.coefficients[0])
    }

    /// The polynomial itself, for comparison with threshold_crypto's own schemes.
    #[cfg(test)]
    pub(crate) fn poly(&self) -> &Poly {
        &self.poly
    }
}
