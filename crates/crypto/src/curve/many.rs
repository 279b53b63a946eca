//! What is done to many points of G1 at once: in lanes where the processor has them, else one by one.

#[cfg(target_arch = "x86_64")]
use super::simd;
use super::{G1, G1_BYTES, G1Affine, Scalar};

/// Stands in for the lanes of processors that have none.
#[cfg(not(target_arch = "x86_64"))]
mod simd {
    use super::*;

    pub(super) const fn available() -> bool {
        false
    }

    pub(super) fn times(_: &[(G1Affine, &Scalar)]) -> Vec<G1> {
        unreachable!("there are no lanes")
    }

    pub(super) fn sum_of_products(_: (&[G1Affine], &[Scalar]), _: (&[G1Affine], &[Scalar])) -> G1 {
        unreachable!("there are no lanes")
    }

    pub(super) fn sums_of_places(_: &[Place], _: &[Vec<G1Affine>]) -> Vec<G1> {
        unreachable!("there are no lanes")
    }

    pub(super) fn which_hold(_: &[Equation]) -> Vec<bool> {
        unreachable!("there are no lanes")
    }

    pub(super) fn in_subgroup(_: &[G1Affine]) -> Vec<bool> {
        unreachable!("there are no lanes")
    }

    pub(super) fn decompress(_: &[&[u8; G1_BYTES]]) -> Vec<Option<G1Affine>> {
        unreachable!("there are no lanes")
    }
}

/// Which of some points are added or, if the flag is set, subtracted at one binary place of the integers that they are
/// multiplied by.
pub type Place = Vec<(usize, bool)>;

/// Says that two points times public scalars make up a third point, but for torsion.
#[derive(Clone, Copy, Debug)]
pub struct Equation {
    /// The points and their scalars.
    pub terms: [(G1Affine, Scalar); 2],
    /// What they make up.
    pub sum: G1Affine,
}

impl Equation {
    fn has_infinity(&self) -> bool {
        self.sum.is_infinity() || self.terms.iter().any(|(point, _)| point.is_infinity())
    }

    fn holds(&self) -> bool {
        let (points, scalars) = (self.terms.map(|(point, _)| point), self.terms.map(|(_, scalar)| scalar));
        (G1::sum_of_products(&points, &scalars) - G1::from(self.sum)).clears_to_infinity()
    }
}

/// Points that are in lanes at once.
const EIGHT: usize = 8;
/// Of fewer points, blst is done with one after the other before the lanes are with eight.
const FEW: usize = 3;
/// The same for the terms of a sum, where scalars of full length count twice.
const FEW_TERMS: usize = 6;

/// Whether this processor has AVX-512 IFMA, with which work on many points takes a quarter to a half of the time.
#[must_use]
pub fn has_lanes() -> bool {
    simd::available()
}

/// What is done to each item: by eights, but for a few after the last eight, or one by one where there are no lanes or an
/// item has infinity, which lanes do not take.
fn each<T, R>(
    items: &[T],
    has_infinity: impl Fn(&T) -> bool,
    by_eights: impl Fn(&[T]) -> Vec<R>,
    one: impl Fn(&T) -> R,
) -> Vec<R> {
    let left = items.len() % EIGHT;
    let in_lanes = if !simd::available() || items.iter().any(has_infinity) {
        0
    } else if left < FEW {
        items.len() - left
    } else {
        items.len()
    };
    let (lanes, rest) = items.split_at(in_lanes);
    let mut results = if lanes.is_empty() { Vec::new() } else { by_eights(lanes) };
    results.extend(rest.iter().map(one));
    results
}

impl G1 {
    /// Each point times its scalar, in constant time. The points must be in the subgroup.
    #[must_use]
    pub fn each_times(pairs: &[(G1Affine, &Scalar)]) -> Vec<Self> {
        let one = |(point, scalar): &(G1Affine, &Scalar)| Self::from(*point).times(scalar);
        each(pairs, |(point, _)| point.is_infinity(), simd::times, one)
    }

    /// The sum of points each times a scalar below 2^128, and of others each times any scalar: the pairs of slices are the
    /// points and their scalars. Not in constant time: for public scalars only. Where one of the others is outside of the
    /// subgroup, the sum is right up to torsion.
    ///
    /// # Panics
    /// If the numbers of points and scalars differ.
    #[must_use]
    pub fn sum_of_many(short: (&[G1Affine], &[Scalar]), long: (&[G1Affine], &[Scalar])) -> Self {
        let few = short.0.len() + 2 * long.0.len() < FEW_TERMS;
        if !simd::available() || few || short.0.iter().chain(long.0).any(G1Affine::is_infinity) {
            return Self::sum_of_half_products(short.0, short.1) + Self::sum_of_products(long.0, long.1);
        }
        simd::sum_of_products(short, long)
    }

    /// For each set of points their sum, each point times an integer. The integers are public and the same for all sets,
    /// given by their signed digits from the highest binary place to the lowest.
    ///
    /// # Panics
    /// If sets have different lengths, or a place names a point that they have not.
    #[must_use]
    pub fn sums_of_places(places: &[Place], sets: &[Vec<G1Affine>]) -> Vec<Self> {
        let has_infinity = |points: &Vec<G1Affine>| points.iter().any(G1Affine::is_infinity);
        let one = |points: &Vec<G1Affine>| Self::sum_of_places(places, points);
        each(sets, has_infinity, |sets| simd::sums_of_places(places, sets), one)
    }

    /// Which of the equations hold.
    #[must_use]
    pub fn which_hold(equations: &[Equation]) -> Vec<bool> {
        each(equations, Equation::has_infinity, simd::which_hold, Equation::holds)
    }

    fn sum_of_places(places: &[Place], points: &[G1Affine]) -> Self {
        let mut sum = Self::infinity();
        for (n, place) in places.iter().enumerate() {
            if n > 0 {
                sum = sum.double();
            }
            for &(index, minus) in place {
                let point = points[index];
                sum = sum.plus(&if minus { point.negated() } else { point });
            }
        }
        sum
    }
}

impl G1Affine {
    /// Which of the points have order r (or 1).
    #[must_use]
    pub fn which_in_subgroup(points: &[Self]) -> Vec<bool> {
        each(points, Self::is_infinity, simd::in_subgroup, Self::in_subgroup)
    }

    /// [`on_curve_compressed`](Self::on_curve_compressed) of many encodings.
    #[must_use]
    pub fn many_on_curve(encodings: &[&[u8; G1_BYTES]]) -> Vec<Option<Self>> {
        each(encodings, |_| false, simd::decompress, |bytes| Self::on_curve_compressed(bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{point::COFACTOR, tests::scalar},
        *,
    };

    /// A point of this order, which divides 1 - z; those of order 3 have x = 0, and blst does not decode them.
    fn of_order(order: u64) -> G1 {
        // The x of a point with a component of that order: as many have one as have not, or far more.
        let on_curve = |x: u8| {
            let mut bytes = [0; 48];
            (bytes[0], bytes[47]) = (0x80, x);
            G1Affine::on_curve_compressed(&bytes)
        };
        let part = |point: G1Affine| G1::from(point).times_order().times_small(COFACTOR / order);
        let point = (1..=u8::MAX).filter_map(on_curve).map(part).find(|point| !point.is_infinity());
        let point = point.expect("most points have a component of each order");
        assert!(point.times_small(order).is_infinity());
        point
    }

    /// Orders of points outside of the subgroup: the primes that divide 1 - z but for the largest, and 1 - z.
    const ORDERS: [u64; 4] = [3, 11, 10177, COFACTOR];

    /// Multiples of the generator, now and then with a component outside of the subgroup, and such components alone.
    fn points() -> impl Strategy<Value = Vec<(G1Affine, bool)>> {
        let small: Vec<G1> = ORDERS.into_iter().map(of_order).collect();
        let point = move |(scalar, off): (Scalar, Option<(usize, bool)>)| {
            let point = G1::generator().times(&scalar);
            match off {
                None => (point.to_affine(), false),
                Some((order, true)) => (small[order].to_affine(), true),
                Some((order, false)) => ((point + small[order]).to_affine(), true),
            }
        };
        let off = prop::option::weighted(0.3, (0..ORDERS.len(), prop::bool::weighted(0.2)));
        let pairs = prop::collection::vec((scalar(), off), 1..40);
        pairs.prop_map(move |pairs| pairs.into_iter().map(&point).collect())
    }

    /// A point, in the subgroup or not, times a scalar, bit by bit: blst's multiplications err on points of order 3.
    fn exactly(point: &G1Affine, scalar: &Scalar) -> G1 {
        let bits = scalar.to_bytes().into_iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1));
        bits.fold(G1::infinity(), |sum, bit| if bit { sum.double().plus(point) } else { sum.double() })
    }

    fn decodes(point: &G1Affine) -> bool {
        G1Affine::on_curve_compressed(&point.to_compressed()).is_some()
    }

    /// Scalars that reach the ends of digits and halves, and any.
    fn edges() -> impl Strategy<Value = Scalar> {
        let power = |n: u32| (0..n).fold(Scalar::ONE, |x, _| x + x);
        let sum = (0u32..255, -1i8..=1).prop_map(move |(n, off)| match off {
            -1 => power(n) - Scalar::ONE,
            0 => power(n),
            _ => power(n) + Scalar::ONE,
        });
        prop_oneof![
            Just(Scalar::ZERO),
            Just(Scalar::ONE),
            Just(-Scalar::ONE),
            sum.clone(),
            sum.prop_map(|x| -x),
            scalar(),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn lanes_multiply_like_blst(points in points(), scalars in prop::collection::vec(edges(), 40)) {
            // With torsion they agree as well, which nobody relies on, but where blst errs.
            let points = points.into_iter().map(|(point, _)| point).filter(decodes);
            let pairs: Vec<_> = points.zip(&scalars).collect();
            let expected: Vec<_> = pairs.iter().map(|(point, scalar)| G1::from(*point).times(scalar)).collect();
            prop_assert_eq!(G1::batch_to_affine(&G1::each_times(&pairs)), G1::batch_to_affine(&expected));
        }

        #[test]
        fn lanes_know_the_subgroup_as_blst_does(points in points()) {
            let (points, off): (Vec<_>, Vec<bool>) = points.into_iter().unzip();
            let answers = G1Affine::which_in_subgroup(&points);
            prop_assert_eq!(&answers, &points.iter().map(G1Affine::in_subgroup).collect::<Vec<_>>());
            prop_assert!(answers.iter().zip(off).all(|(within, off)| *within != off));
        }

        #[test]
        fn lanes_add_up_like_blst(
            short in points(), long in points(), halves in prop::collection::vec(any::<u128>(), 40),
            wholes in prop::collection::vec(edges(), 40),
        ) {
            let half = |n: &u128| {
                let mut bytes = [0u8; 32];
                bytes[16..].copy_from_slice(&n.to_be_bytes());
                Scalar::from_bytes(&bytes).unwrap()
            };
            let torsion = short.iter().chain(&long).any(|(_, off)| *off);
            let (short, long) = [short, long].map(|s| s.into_iter().map(|(p, _)| p).collect::<Vec<_>>()).into();
            let (halves, wholes): (Vec<_>, _) = (halves.iter().take(short.len()).map(half).collect(), &wholes[..long.len()]);
            let found = G1::sum_of_many((&short, &halves), (&long, wholes));
            let pairs = || short.iter().zip(&halves).chain(long.iter().zip(wholes));
            let expected = pairs().fold(G1::infinity(), |sum, (point, scalar)| sum + exactly(point, scalar));
            prop_assert!((found - expected).clears_to_infinity());
            prop_assert!(torsion || found == expected);
        }

        #[test]
        fn lanes_know_which_equations_hold(
            points in points(), scalars in prop::collection::vec((edges(), edges()), 40),
            right in prop::collection::vec(any::<bool>(), 40),
        ) {
            // blst, which does the last ones, errs where it does not decode.
            let points: Vec<_> = points.into_iter().filter(|(point, _)| decodes(point)).collect();
            let mut equations = Vec::new();
            for (n, ((p, _), (x, y))) in points.iter().zip(&scalars).enumerate() {
                let q = points[n * 7 % points.len()].0;
                let off = if right[n] { of_order(ORDERS[n % 4]) } else { G1::generator() };
                let sum = exactly(p, x) + exactly(&q, y) + off;
                equations.push(Equation { terms: [(*p, *x), (q, *y)], sum: sum.to_affine() });
            }
            prop_assume!(!equations.iter().any(Equation::has_infinity));
            prop_assert_eq!(G1::which_hold(&equations), &right[..points.len()]);
        }

        #[test]
        fn lanes_combine_like_blst(
            sets in prop::collection::vec(points(), 1..20),
            places in prop::collection::vec(prop::collection::vec((0usize..4, any::<bool>()), 0..5), 0..12),
        ) {
            let set = |set: Vec<(G1Affine, bool)>| set.into_iter().map(|(p, _)| p).cycle().take(4).collect::<Vec<_>>();
            let sets: Vec<_> = sets.into_iter().map(set).collect();
            let expected: Vec<_> = sets.iter().map(|set| G1::sum_of_places(&places, set)).collect();
            prop_assert_eq!(G1::sums_of_places(&places, &sets), expected);
        }

        #[test]
        fn lanes_decode_like_blst(points in points(), flips in prop::collection::vec((0usize..40, 0usize..384), 0..12)) {
            let mut encodings: Vec<_> = points.iter().map(|(point, _)| point.to_compressed()).collect();
            for (index, bit) in flips {
                if let Some(encoding) = encodings.get_mut(index) {
                    encoding[bit / 8] ^= 1 << (bit % 8);
                }
            }
            let encodings: Vec<_> = encodings.iter().collect();
            let expected: Vec<_> = encodings.iter().map(|bytes| G1Affine::on_curve_compressed(bytes)).collect();
            prop_assert_eq!(G1Affine::many_on_curve(&encodings), expected);
        }
    }

    /// Encodings at the edges of what blst takes: x of 0, p - 1, p, p + x, all bits; every combination of flags.
    #[test]
    fn lanes_refuse_what_blst_refuses() {
        let mut prime = [0u8; 48];
        hex::decode_to_slice(
            "1a0111ea397fe69a4b1ba7b6434bacd764774b84f38512bf6730d2a0f6b0f6241eabfffeb153ffffb9feffffffffaaab",
            &mut prime,
        )
        .unwrap();
        let mut encodings = Vec::new();
        for flags in 0..8u8 {
            for offset in -40..40i16 {
                for base in [[0u8; 48], prime] {
                    let mut bytes = base;
                    let last = i16::from(bytes[47]) + offset;
                    if let Ok(last) = u8::try_from(last) {
                        bytes[47] = last;
                        bytes[0] |= flags << 5;
                        encodings.push(bytes);
                    }
                }
            }
            let mut ones = [0xff; 48];
            ones[0] = flags << 5 | 0x1f;
            encodings.push(ones);
            let mut generator = G1Affine::generator().to_compressed();
            generator[0] = generator[0] & 0x1f | flags << 5;
            encodings.push(generator);
        }
        let encodings: Vec<_> = encodings.iter().collect();
        let expected: Vec<_> = encodings.iter().map(|bytes| G1Affine::on_curve_compressed(bytes)).collect();
        assert!(expected.iter().filter(|point| point.is_some()).count() > 40);
        assert_eq!(G1Affine::many_on_curve(&encodings), expected);
    }

    #[test]
    fn infinity_and_pairs_that_cancel_are_no_exceptions() {
        let g = G1Affine::generator();
        let points = [g, (G1::from(g) - G1::from(g)).to_affine(), g.negated()].repeat(9);
        let seven = Scalar::from_u64(7);
        let expected: Vec<_> = points.iter().map(|point| G1::from(*point).times(&seven)).collect();
        let pairs: Vec<_> = points.iter().map(|point| (*point, &seven)).collect();
        assert_eq!(G1::each_times(&pairs), expected);
        assert_eq!(G1Affine::which_in_subgroup(&points), vec![true; 27]);
        assert_eq!(G1Affine::which_in_subgroup(&[g, g.negated()].repeat(9)), vec![true; 18]);
        let twice = vec![vec![(0, false), (0, false)]];
        let sets: Vec<_> = points.iter().map(|point| vec![*point]).collect();
        assert_eq!(G1::sums_of_places(&twice, &sets), points.iter().map(|p| G1::from(*p).double()).collect::<Vec<_>>());
        let one = Scalar::ONE;
        let zero = |point: &G1Affine| Equation { terms: [(*point, one), (g, -one)], sum: points[1] };
        assert_eq!(G1::which_hold(&points.iter().map(zero).collect::<Vec<_>>()), [true, false, false].repeat(9));
        let pairs = [g, g.negated()].repeat(30);
        assert!(G1::sum_of_many((&pairs, &[seven; 60]), (&pairs, &[-seven; 60])).is_infinity());
        assert_eq!(
            G1::sum_of_many((&[g; 60], &[seven; 60]), (&[g; 9], &[-Scalar::ONE; 9])),
            G1::generator().times(&Scalar::from_u64(411)),
        );
        // More than fit at once: 25 and 50 terms of eight.
        assert_eq!(
            G1::sum_of_many((&[g; 200], &[seven; 200]), (&[g; 200], &[-Scalar::ONE; 200])),
            G1::generator().times(&Scalar::from_u64(1200)),
        );
    }
}
