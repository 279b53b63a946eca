//! The arithmetic of BLS12-381 that the threshold schemes need, on blst; of many points of G1 at once, on the processor's
//! vectors where it has them.
//!
//! blst's safe Rust interface covers signatures; multiplication by secret scalars, multi-scalar multiplication without
//! a thread pool, and decoding without a subgroup check stand only in its C interface. This module wraps exactly those
//! calls and the vector instructions, keeps every `unsafe` block of the crate, and hands out types that can hold only valid
//! values:
//!
//! | type | what it holds |
//! |---|---|
//! | [`Scalar`] | a number below the group's order r |
//! | [`G1`], [`G2`] | a point on the curve, projective, for sums |
//! | [`G1Affine`], [`G2Affine`] | a point on the curve, affine, for encodings, products and pairings |
//!
//! A point that comes from bytes lies on the curve, not necessarily in the subgroup of order r: the cofactors are
//! composite, so a point can have a *torsion component* that a pairing does not see. The names of the decoders say what
//! they checked: `from_compressed` checks the subgroup and refuses infinity, `on_curve_*` does not check the subgroup.
//!
//! Encodings are those of the IETF draft for BLS signatures (and of ZCash, zkcrypto and threshold_crypto): 48 bytes
//! compressed or 96 uncompressed in G1, twice that in G2, big endian.

#![allow(unsafe_code)]

mod many;
mod point;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod simd;
mod table;

use blst::blst_fp12;
pub use many::{Equation, Place, has_lanes};
pub use point::{G1, G1Affine, G2, G2Affine};
pub use scalar::Scalar;
pub use table::G1Table;

/// Bytes of a compressed point of G1.
pub const G1_BYTES: usize = 48;
/// Bytes of an uncompressed point of G1.
pub const G1_WIDE_BYTES: usize = 96;
/// Bytes of a compressed point of G2.
pub const G2_BYTES: usize = 96;
/// Bytes of a scalar.
pub const SCALAR_BYTES: usize = 32;

/// Whether the product of the pairings of these pairs is one.
///
/// A torsion component of a point does not change the answer: check subgroups before.
#[must_use]
pub fn pairings_cancel(pairs: &[(G1Affine, G2Affine)]) -> bool {
    let mut product = blst_fp12::default();
    for (p, q) in pairs {
        if !p.is_infinity() && !q.is_infinity() {
            product *= blst_fp12::miller_loop(&q.0, &p.0);
        }
    }
    product.final_exp() == blst_fp12::default()
}

/// Whether `e(a, generator of G2) = e(b, key)`.
#[must_use]
pub fn same_exponent(a: &G1Affine, b: &G1Affine, key: &G2Affine) -> bool {
    let minus = (-G1::from(*a)).to_affine();
    pairings_cancel(&[(minus, G2Affine::generator()), (*b, *key)])
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A point of E(Fp) outside of the subgroup: x = 4 is on the curve (4^3 + 4 is a square) and nobody's multiple of
    /// the generator. Times r it is pure torsion.
    pub(crate) fn torsion() -> G1Affine {
        let mut bytes = [0u8; 48];
        for x in 0..=u8::MAX {
            bytes[0] = 0x80;
            bytes[47] = x;
            if let Some(point) = G1Affine::on_curve_compressed(&bytes)
                && !point.in_subgroup()
            {
                let torsion = G1::from(point).times_order().to_affine();
                assert!(!torsion.is_infinity());
                return torsion;
            }
        }
        unreachable!("half of all x are on the curve, few of those in the subgroup")
    }

    pub(crate) fn scalar() -> impl Strategy<Value = Scalar> {
        any::<[u8; 32]>().prop_map(|a| Scalar::from_wide(&[a, a].concat().try_into().expect("64 bytes")))
    }

    #[test]
    fn a_pairing_does_not_see_torsion_and_the_subgroup_check_does() {
        let x = Scalar::from_u64(77);
        let key = G2::generator().times(&x).to_affine();
        let u = G1::generator().times(&Scalar::from_u64(5)).to_affine();
        let right = G1::from(u).times(&x);
        let wrong = (right + G1::from(torsion())).to_affine();
        assert!(right.to_affine().in_subgroup() && !wrong.in_subgroup());
        assert!(same_exponent(&right.to_affine(), &u, &key));
        assert!(same_exponent(&wrong, &u, &key), "this is why decision 11 wants the subgroup check");
    }

    #[test]
    fn clearing_the_cofactor_removes_torsion_and_keeps_the_rest() {
        assert!(G1::from(torsion()).clears_to_infinity());
        assert!(G1::infinity().clears_to_infinity());
        assert!(!G1::generator().clears_to_infinity());
        assert!(!(G1::generator() + G1::from(torsion())).clears_to_infinity());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn the_field_and_the_groups_agree(a in scalar(), b in scalar()) {
            let g = G1::generator();
            prop_assert_eq!(g.times(&a) + g.times(&b), g.times(&(a + b)));
            prop_assert_eq!(g.times(&a).times(&b), g.times(&(a * b)));
            prop_assert_eq!(g.times(&(a - b)) + g.times(&b), g.times(&a));
            prop_assert_eq!(Scalar::from_bytes(&a.to_bytes()), Some(a));
            if let Some(inverse) = a.inverse() {
                prop_assert_eq!(inverse * a, Scalar::ONE);
            }
            let h = G2::generator();
            prop_assert_eq!(h.times(&a) + h.times(&b), h.times(&(a + b)));
            prop_assert_eq!(h.times_small(1023), h.times(&Scalar::from_u64(1023)));
        }

        #[test]
        fn tables_multiply_like_blst(a in scalar(), b in scalar()) {
            let point = G1::generator().times(&a).to_affine();
            prop_assert_eq!(G1Table::new(&point).times(&b), G1::from(point).times(&b));
            prop_assert_eq!(G1Table::generator().times(&b), G1::generator().times(&b));
            prop_assert!(G1Table::generator().times(&Scalar::ZERO).is_infinity());
        }

        #[test]
        fn sums_of_products_are_what_they_say(values in prop::collection::vec((scalar(), scalar()), 0..40)) {
            let points: Vec<_> = values.iter().map(|(a, _)| G1::generator().times(a)).collect();
            let scalars: Vec<_> = values.iter().map(|(_, b)| *b).collect();
            let expected = points.iter().zip(&scalars).fold(G1::infinity(), |sum, (p, s)| sum + p.times(s));
            prop_assert_eq!(G1::sum_of_products(&G1::batch_to_affine(&points), &scalars), expected);
            let points: Vec<_> = values.iter().map(|(a, _)| G2::generator().times(a)).collect();
            let expected = points.iter().zip(&scalars).fold(G2::infinity(), |sum, (p, s)| sum + p.times(s));
            prop_assert_eq!(G2::sum_of_products(&G2::batch_to_affine(&points), &scalars), expected);
        }

        #[test]
        fn what_decodes_encodes_to_the_same_bytes(a in scalar(), at in 0usize..96, bit in 0u8..8) {
            let point = G1::generator().times(&a).to_affine();
            let mut wide = point.to_uncompressed();
            prop_assert_eq!(G1Affine::on_curve_uncompressed(&wide), Some(point));
            wide[at] ^= 1 << bit;
            prop_assert_eq!(G1Affine::on_curve_uncompressed(&wide).map_or(wide, |p| p.to_uncompressed()), wide);
            let mut compressed = point.to_compressed();
            prop_assert_eq!(G1Affine::from_compressed(&compressed), Some(point));
            compressed[at % 48] ^= 1 << bit;
            prop_assert_eq!(
                G1Affine::on_curve_compressed(&compressed).map_or(compressed, |p| p.to_compressed()), compressed);
        }
    }
}
