//! A dealing: what it holds, how it is made, how it is checked, how a recipient opens it.

use std::array;

use cascade_primitives::{
    B256, BlsSignature, Decode, DecodeError, Encode, Epoch, MemberIndex, Reader,
    codec::{DecodeErrorKind, encode_list},
    domain, hash,
};
use rand::CryptoRng;
use rayon::prelude::*;
use thiserror::Error;
use zeroize::{Zeroize as _, Zeroizing};

use super::{machine::Parameters, polynomial::Polynomial, recipient::RecipientSecret, transcript};
use crate::{
    bugs::{NoBugs, SealedBug, SealedBugs},
    curve::{G1, G1_BYTES, G1Affine, G1Table, G2, G2_BYTES, G2Affine, Scalar, same_exponent},
    scheme::{VoteScheme, VoteSigner},
    threshold::{MAX_SEATS, keys},
};

/// Instances of a dealing.
pub const INSTANCES: usize = 256;
/// Instances that stay sealed and hold the shares. C(256, 30) = 2^129.7.
pub const SEALED: usize = 30;
/// Keys that a dealing shares: decryption, then beacon.
pub(super) const KEYS: usize = 2;

/// An instance that was opened: it proves that the dealer makes its instances right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    seed: [u8; 32],
    commitment: B256,
}

/// An instance that stays sealed: it holds the shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    ephemeral: [u8; G1_BYTES],
    salt: [u8; 32],
    /// For each seat the padded shares of both keys.
    padded: Vec<[u8; 32]>,
}

/// A dealing as it stands in the log. Its points are bytes until [`verify`] has looked at them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dealing {
    /// The epoch whose keys it contributes to.
    pub epoch: Epoch,
    /// The dealer's place in the current committee.
    pub dealer: MemberIndex,
    /// Its signature over [`Dealing::digest`].
    pub signature: BlsSignature,
    public: [[u8; G1_BYTES]; KEYS],
    coefficients: [Vec<[u8; G2_BYTES]>; KEYS],
    weighted: [u8; G1_BYTES],
    challenge: B256,
    opened: Vec<Opened>,
    sealed: Vec<Sealed>,
}

/// Why a dealing does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DealingError {
    /// Of another epoch.
    #[error("it is for epoch {found}, not {expected}")]
    Epoch {
        /// The epoch that it says.
        found: Epoch,
        /// The epoch whose keys are made.
        expected: Epoch,
    },
    /// The dealer is no member of the current committee.
    #[error("the current committee has no member {0}")]
    Dealer(MemberIndex),
    /// Not as many coefficients, instances or shares as the committee asks for.
    #[error("it has the wrong number of {0}")]
    Shape(&'static str),
    /// The dealer did not sign it.
    #[error("the signature is not the dealer's")]
    Signature,
    /// Bytes that are no point of a subgroup, or infinity.
    #[error("its {0} is no point of the subgroup")]
    Point(&'static str),
    /// A padded share at or above the group's order.
    #[error("a padded share is not below the group's order")]
    Share,
    /// The challenge does not follow from what it holds.
    #[error("its proof does not hold")]
    Proof,
    /// The public values do not belong together.
    #[error("its public values do not belong together")]
    Consistency,
}

impl DealingError {
    /// Whether the dealer itself signed what is wrong, which proves that it lies.
    #[must_use]
    pub const fn is_signed(&self) -> bool {
        matches!(self, Self::Point(_) | Self::Share | Self::Proof | Self::Consistency)
    }
}

impl Dealing {
    /// The 32 bytes that the dealer signs.
    #[must_use]
    pub fn digest(&self, parameters: &Parameters) -> B256 {
        let context = transcript::context(parameters, self.dealer);
        let mut bytes = Vec::new();
        self.encode_unsigned(&mut bytes);
        hash::tagged(domain::DEALING, &[context.as_slice(), &bytes])
    }

    fn encode_unsigned(&self, out: &mut Vec<u8>) {
        self.epoch.encode(out);
        self.dealer.encode(out);
        out.extend_from_slice(&self.commitments());
        out.extend_from_slice(&self.weighted);
        self.challenge.encode(out);
        encode_list(&self.opened, out);
        encode_list(&self.sealed, out);
    }

    fn commitments(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (public, coefficients) in self.public.iter().zip(&self.coefficients) {
            out.extend_from_slice(public);
            (coefficients.len() as u32).encode(&mut out);
            out.extend_from_slice(coefficients.as_flattened());
        }
        out
    }
}

#[cfg(test)]
impl Dealing {
    /// The same under another dealer's name.
    pub(super) fn with_dealer(&self, dealer: MemberIndex) -> Self {
        Self { dealer, ..self.clone() }
    }

    /// The same with another public key in G1.
    pub(super) fn with_public(&self, key: usize, point: &G1Affine) -> Self {
        let mut changed = self.clone();
        changed.public[key] = point.to_compressed();
        changed
    }

    /// The same, signed anew.
    pub(super) fn signed(&self, parameters: &Parameters, signer: &dyn VoteSigner) -> Self {
        Self { signature: signer.sign(&self.digest(parameters)), ..self.clone() }
    }
}

impl Encode for Opened {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.seed);
        self.commitment.encode(out);
    }
}

impl Decode for Opened {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { seed: r.array()?, commitment: B256::decode(r)? })
    }
}

impl Encode for Sealed {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.ephemeral);
        out.extend_from_slice(&self.salt);
        (self.padded.len() as u32).encode(out);
        out.extend_from_slice(self.padded.as_flattened());
    }
}

impl Decode for Sealed {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { ephemeral: r.array()?, salt: r.array()?, padded: arrays(r, "padded shares", KEYS * MAX_SEATS)? })
    }
}

fn arrays<const N: usize>(r: &mut Reader<'_>, what: &'static str, limit: usize) -> Result<Vec<[u8; N]>, DecodeError> {
    let count = r.field(what).length(limit)?;
    Ok(r.take(count * N)?.as_chunks::<N>().0.to_vec())
}

impl Encode for Dealing {
    fn encode(&self, out: &mut Vec<u8>) {
        self.encode_unsigned(out);
        self.signature.encode(out);
    }
}

impl Decode for Dealing {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.field("dealing");
        let (epoch, dealer) = (Epoch::decode(r)?, MemberIndex::decode(r)?);
        let (first, first_coefficients) = (r.array()?, arrays(r, "coefficients", MAX_SEATS)?);
        let (second, second_coefficients) = (r.array()?, arrays(r, "coefficients", MAX_SEATS)?);
        let weighted = r.field("dealing").array()?;
        let challenge = B256::decode(r)?;
        let opened: Vec<Opened> = r.field("opened instances").list(INSTANCES - SEALED)?;
        let sealed: Vec<Sealed> = r.field("sealed instances").list(SEALED)?;
        if opened.len() != INSTANCES - SEALED || sealed.len() != SEALED {
            return Err(r.error(DecodeErrorKind::NotCanonical("226 instances are opened, 30 sealed")));
        }
        let signature = BlsSignature::decode(r.field("signature of a dealing"))?;
        let (public, coefficients) = ([first, second], [first_coefficients, second_coefficients]);
        Ok(Self { epoch, dealer, signature, public, coefficients, weighted, challenge, opened, sealed })
    }
}

/// The secrets of an instance while it is being made.
pub(super) struct Instance {
    seed: [u8; 32],
    salt: [u8; 32],
    ephemeral: G1Affine,
    pub(super) pads: Vec<Scalar>,
    pub(super) padded: Vec<[u8; 32]>,
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Once the seed of an opened instance is public, its padded shares are the shares.
        self.seed.zeroize();
        self.salt.zeroize();
        self.pads.zeroize();
        self.padded.zeroize();
    }
}

/// Makes a dealing of two fresh secrets to all recipients.
///
/// # Panics
/// If `dealer` is no member of the current committee.
#[must_use]
pub fn deal(parameters: &Parameters, dealer: MemberIndex, signer: &dyn VoteSigner, rng: &mut dyn CryptoRng) -> Dealing {
    let quorum = parameters.quorum();
    let polynomials: [Polynomial; KEYS] = array::from_fn(|_| Polynomial::random(quorum, rng));
    deal_polynomials(parameters, dealer, signer, &polynomials, rng)
}

pub(super) fn deal_polynomials(
    parameters: &Parameters,
    dealer: MemberIndex,
    signer: &dyn VoteSigner,
    polynomials: &[Polynomial; KEYS],
    rng: &mut dyn CryptoRng,
) -> Dealing {
    let (shares, instances) = instances(parameters, dealer, polynomials, rng);
    finish(parameters, dealer, signer, polynomials, &shares, &instances)
}

/// Step 1 of the scheme: all shares, for each seat both keys', and the instances that hide them.
pub(super) fn instances(
    parameters: &Parameters,
    dealer: MemberIndex,
    polynomials: &[Polynomial; KEYS],
    rng: &mut dyn CryptoRng,
) -> (Zeroizing<Vec<Scalar>>, Vec<Instance>) {
    assert!(dealer.index() < parameters.dealers.members(), "the dealer is a member of the current committee");
    let context = transcript::context(parameters, dealer);
    let seats = 0..parameters.recipients.total();
    let shares: Zeroizing<Vec<Scalar>> =
        seats.flat_map(|seat| polynomials.iter().map(move |p| p.share(seat))).collect::<Vec<_>>().into();
    let seeds: Vec<([u8; 32], [u8; 32])> = (0..INSTANCES)
        .map(|_| {
            let (mut seed, mut salt) = ([0; 32], [0; 32]);
            rng.fill_bytes(&mut seed);
            rng.fill_bytes(&mut salt);
            (seed, salt)
        })
        .collect();
    let instances = seeds
        .into_par_iter()
        .enumerate()
        .map(|(number, (seed, salt))| make_instance(parameters, &context, number, seed, salt, &shares))
        .collect();
    (shares, instances)
}

/// Steps 2 to 5 of the scheme.
pub(super) fn finish(
    parameters: &Parameters,
    dealer: MemberIndex,
    signer: &dyn VoteSigner,
    polynomials: &[Polynomial; KEYS],
    shares: &[Scalar],
    instances: &[Instance],
) -> Dealing {
    let context = transcript::context(parameters, dealer);
    let seats = parameters.recipients.total();
    let mut dealing = Dealing {
        epoch: parameters.epoch,
        dealer,
        signature: BlsSignature([0; 96]),
        public: array::from_fn(|key| polynomials[key].public().to_affine().to_compressed()),
        coefficients: array::from_fn(|key| polynomials[key].commitment().iter().map(G2Affine::to_compressed).collect()),
        weighted: [0; G1_BYTES],
        challenge: B256::ZERO,
        opened: Vec::with_capacity(INSTANCES - SEALED),
        sealed: Vec::with_capacity(SEALED),
    };
    let ephemerals: Vec<G1Affine> = instances.iter().map(|i| i.ephemeral).collect();
    let commitments: Vec<B256> = instances
        .iter()
        .enumerate()
        .map(|(number, i)| transcript::instance_commitment(&context, number, &i.salt, &i.padded))
        .collect();
    let first = transcript::first_challenge(&context, &dealing.commitments(), &ephemerals, &commitments);
    let weights = transcript::weights(&first, seats);
    let weighted = G1::generator().times(&dot(&weights, shares)).to_affine();
    let sums: Vec<G1> = instances.par_iter().map(|i| G1::generator().times(&dot(&weights, &i.pads))).collect();
    let sums = G1::batch_to_affine(&sums);
    dealing.weighted = weighted.to_compressed();
    dealing.challenge = transcript::second_challenge(&first, &weighted, &sums);
    let sealed = transcript::sealed_instances(&dealing.challenge);
    for ((instance, commitment), sealed) in instances.iter().zip(&commitments).zip(sealed) {
        if sealed {
            dealing.sealed.push(Sealed {
                ephemeral: instance.ephemeral.to_compressed(),
                salt: instance.salt,
                padded: instance.padded.clone(),
            });
        } else {
            dealing.opened.push(Opened { seed: instance.seed, commitment: *commitment });
        }
    }
    dealing.signature = signer.sign(&dealing.digest(parameters));
    dealing
}

fn make_instance(
    parameters: &Parameters,
    context: &B256,
    number: usize,
    seed: [u8; 32],
    salt: [u8; 32],
    shares: &[Scalar],
) -> Instance {
    let secret = Zeroizing::new(transcript::ephemeral(context, number, &seed));
    let ephemeral = G1::generator().times(&secret).to_affine();
    let pairs: Vec<_> = parameters.recipient_keys.iter().map(|key| (*key, &*secret)).collect();
    let agreed = G1::batch_to_affine(&G1::each_times(&pairs));
    let pads = all_pads(parameters, context, number, &ephemeral, &agreed);
    let padded = shares.iter().zip(&pads).map(|(share, pad)| (*share + *pad).to_bytes()).collect();
    Instance { seed, salt, ephemeral, pads, padded }
}

/// The pads of all recipients, in the order of the seats.
fn all_pads(
    parameters: &Parameters,
    context: &B256,
    number: usize,
    ephemeral: &G1Affine,
    agreed: &[G1Affine],
) -> Vec<Scalar> {
    let mut pads = Vec::with_capacity(parameters.recipients.total() as usize * KEYS);
    for (member, agreed) in agreed.iter().enumerate() {
        let member = MemberIndex(member as u16);
        let seats = parameters.recipients.seats(member).len();
        pads.extend(transcript::pads(context, number, member, ephemeral, agreed, seats));
    }
    pads
}

fn dot(weights: &[Scalar], values: &[Scalar]) -> Scalar {
    weights.iter().zip(values).map(|(weight, value)| *weight * *value).sum()
}

/// A sealed instance whose values are valid.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SealedShares {
    number: usize,
    ephemeral: G1Affine,
    padded: Vec<Scalar>,
}

/// A dealing that was checked: every recipient can open its shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedDealing {
    pub(super) context: B256,
    pub(super) dealer: MemberIndex,
    pub(super) public: [G1Affine; KEYS],
    pub(super) coefficients: [Vec<G2Affine>; KEYS],
    sealed: Vec<SealedShares>,
}

/// Checks a dealing. Needs no secret and no state, so that it can run when the dealing is heard of, on any thread.
///
/// The answer is the same at every node but for a chance of 2^-127 in the check of the public values, whose random
/// coefficients come from `rng`.
///
/// # Errors
/// [`DealingError`]: the dealing counts for nothing.
pub fn verify(
    parameters: &Parameters,
    dealing: &Dealing,
    scheme: &dyn VoteScheme,
    rng: &mut dyn CryptoRng,
) -> Result<VerifiedDealing, DealingError> {
    verify_with(&NoBugs, parameters, dealing, scheme, rng)
}

/// [`verify`], with planted bugs if there are any.
///
/// # Errors
/// [`DealingError`].
pub fn verify_with<B: SealedBugs>(
    bugs: &B,
    parameters: &Parameters,
    dealing: &Dealing,
    scheme: &dyn VoteScheme,
    rng: &mut dyn CryptoRng,
) -> Result<VerifiedDealing, DealingError> {
    check_shape(parameters, dealing)?;
    let signer = &parameters.dealer_keys[dealing.dealer.index()];
    if !scheme.verify(signer, &dealing.digest(parameters), &dealing.signature) {
        return Err(DealingError::Signature);
    }
    let point = |bytes, name| G1Affine::from_compressed(bytes).ok_or(DealingError::Point(name));
    let public = [point(&dealing.public[0], "first public key")?, point(&dealing.public[1], "second public key")?];
    let weighted = point(&dealing.weighted, "weighted sum")?;
    let read = |coefficients: &[[u8; G2_BYTES]]| -> Result<Vec<G2Affine>, DealingError> {
        let read = |bytes| G2Affine::from_compressed(bytes).ok_or(DealingError::Point("coefficient"));
        coefficients.par_iter().map(read).collect()
    };
    let coefficients = [read(&dealing.coefficients[0])?, read(&dealing.coefficients[1])?];

    let context = transcript::context(parameters, dealing.dealer);
    let unchecked = bugs.sealed(SealedBug::DealingUnchecked);
    let (weights, sealed) = check_proof(parameters, dealing, &context, &weighted, unchecked)?;
    let commitments = weigh(&coefficients, &weights, parameters.recipients.total());
    let (x, y) = (Scalar::random_half(rng), Scalar::random_half(rng));
    let left = G1::from(weighted) + G1::from(public[0]).times(&x) + G1::from(public[1]).times(&y);
    let right = commitments + G2::from(coefficients[0][0]).times(&x) + G2::from(coefficients[1][0]).times(&y);
    if !unchecked && !same_exponent(&left.to_affine(), &G1Affine::generator(), &right.to_affine()) {
        return Err(DealingError::Consistency);
    }
    Ok(VerifiedDealing { context, dealer: dealing.dealer, public, coefficients, sealed })
}

fn check_shape(parameters: &Parameters, dealing: &Dealing) -> Result<(), DealingError> {
    if dealing.epoch != parameters.epoch {
        return Err(DealingError::Epoch { found: dealing.epoch, expected: parameters.epoch });
    }
    if dealing.dealer.index() >= parameters.dealers.members() {
        return Err(DealingError::Dealer(dealing.dealer));
    }
    let (quorum, seats) = (parameters.quorum(), parameters.recipients.total() as usize);
    if dealing.coefficients.iter().any(|c| c.len() != quorum) {
        return Err(DealingError::Shape("coefficients"));
    }
    if dealing.opened.len() != INSTANCES - SEALED || dealing.sealed.len() != SEALED {
        return Err(DealingError::Shape("instances"));
    }
    if dealing.sealed.iter().any(|s| s.padded.len() != seats * KEYS) {
        return Err(DealingError::Shape("padded shares"));
    }
    Ok(())
}

/// Steps 3 and 4 of the scheme anew; answers the weights and the sealed instances.
fn check_proof(
    parameters: &Parameters,
    dealing: &Dealing,
    context: &B256,
    weighted: &G1Affine,
    unchecked: bool,
) -> Result<(Vec<Scalar>, Vec<SealedShares>), DealingError> {
    let tables = parameters.tables();
    let base = G1Table::generator();
    let is_sealed = transcript::sealed_instances(&dealing.challenge);
    let (mut opened, mut sealed) = (dealing.opened.iter(), dealing.sealed.iter());
    let instances: Vec<(Option<&Opened>, Option<&Sealed>)> =
        is_sealed.iter().map(|&s| if s { (None, sealed.next()) } else { (opened.next(), None) }).collect();
    // The weights depend on all ephemeral keys, the sums on the weights: two passes.
    let first_pass: Vec<(G1Affine, B256, Vec<Scalar>)> = instances
        .par_iter()
        .enumerate()
        .map(|(number, instance)| match instance {
            (Some(opened), _) => {
                let secret = transcript::ephemeral(context, number, &opened.seed);
                let ephemeral = base.times(&secret).to_affine();
                let agreed: Vec<G1> = tables.iter().map(|table| table.times(&secret)).collect();
                let pads = all_pads(parameters, context, number, &ephemeral, &G1::batch_to_affine(&agreed));
                Ok((ephemeral, opened.commitment, pads))
            }
            (None, Some(sealed)) => {
                let ephemeral =
                    G1Affine::from_compressed(&sealed.ephemeral).ok_or(DealingError::Point("ephemeral key"))?;
                let padded: Option<Vec<Scalar>> = sealed.padded.iter().map(Scalar::from_bytes).collect();
                let commitment = transcript::instance_commitment(context, number, &sealed.salt, &sealed.padded);
                Ok((ephemeral, commitment, padded.ok_or(DealingError::Share)?))
            }
            (None, None) => Err(DealingError::Shape("instances")),
        })
        .collect::<Result<_, _>>()?;
    let ephemerals: Vec<G1Affine> = first_pass.iter().map(|(e, _, _)| *e).collect();
    let commitments: Vec<B256> = first_pass.iter().map(|(_, c, _)| *c).collect();
    let first = transcript::first_challenge(context, &dealing.commitments(), &ephemerals, &commitments);
    let weights = transcript::weights(&first, parameters.recipients.total());
    let sums: Vec<G1> = first_pass
        .par_iter()
        .zip(&is_sealed)
        .map(|((_, _, values), &sealed)| {
            let sum = base.times(&dot(&weights, values));
            if sealed { sum - G1::from(*weighted) } else { sum }
        })
        .collect();
    if !unchecked && transcript::second_challenge(&first, weighted, &G1::batch_to_affine(&sums)) != dealing.challenge {
        return Err(DealingError::Proof);
    }
    let sealed = first_pass
        .into_iter()
        .enumerate()
        .filter(|(number, _)| is_sealed[*number])
        .map(|(number, (ephemeral, _, padded))| SealedShares { number, ephemeral, padded })
        .collect();
    Ok((weights, sealed))
}

/// The weighted sum of all seats' shares in G2, from the coefficients: that of coefficient k is sum_s w_s (s+1)^k.
fn weigh(coefficients: &[Vec<G2Affine>; KEYS], weights: &[Scalar], seats: u32) -> G2 {
    let mut points = Vec::new();
    let mut factors = Vec::new();
    for (key, coefficients) in coefficients.iter().enumerate() {
        let mut powers: Vec<Scalar> = (0..seats as usize).map(|seat| weights[seat * KEYS + key]).collect();
        for coefficient in coefficients {
            points.push(*coefficient);
            factors.push(powers.iter().copied().sum());
            for (seat, power) in powers.iter_mut().enumerate() {
                *power = *power * Scalar::from_u64(seat as u64 + 1);
            }
        }
    }
    G2::sum_of_products(&points, &factors)
}

impl VerifiedDealing {
    /// Who dealt it.
    #[must_use]
    pub const fn dealer(&self) -> MemberIndex {
        self.dealer
    }

    /// The shares of a recipient, for each of its seats one of each key.
    ///
    /// None if `secret` does not belong to the key that was dealt to. For the right one it cannot fail, but for the
    /// chance of 2^-129 that the proof leaves.
    pub(super) fn open(
        &self,
        parameters: &Parameters,
        member: MemberIndex,
        secret: &RecipientSecret,
    ) -> Option<Zeroizing<Vec<[Scalar; KEYS]>>> {
        let seats = parameters.recipients.seats(member);
        let expected: Vec<[G2; KEYS]> = seats
            .clone()
            .map(|seat| array::from_fn(|key| keys::evaluate(&self.coefficients[key], u64::from(seat) + 1)))
            .collect();
        let mut found: Zeroizing<Vec<[Option<Scalar>; KEYS]>> = vec![[None; KEYS]; seats.len()].into();
        for sealed in &self.sealed {
            let agreed = secret.agree(&sealed.ephemeral);
            let pads = Zeroizing::new(transcript::pads(
                &self.context,
                sealed.number,
                member,
                &sealed.ephemeral,
                &agreed,
                seats.len(),
            ));
            for (place, seat) in seats.clone().enumerate() {
                for key in 0..KEYS {
                    let share = sealed.padded[seat as usize * KEYS + key] - pads[place * KEYS + key];
                    if found[place][key].is_none() && G2::generator().times(&share) == expected[place][key] {
                        found[place][key] = Some(share);
                    }
                }
            }
            if found.as_flattened().iter().all(Option::is_some) {
                break;
            }
        }
        let shares: Option<Vec<[Scalar; KEYS]>> = found.iter().map(|[a, b]| Some([(*a)?, (*b)?])).collect();
        shares.map(Zeroizing::new)
    }
}
