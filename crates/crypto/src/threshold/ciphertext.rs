//! Sealed payloads: hashed ElGamal with a proof of well-formedness, and an AEAD that commits to its key.
//!
//! ```text
//! r, s random;  G the generator, H a second one that nobody knows the logarithm of;  Y = x G the epoch's key
//!
//!   U  = r G     V  = r H                  what shares are made of, and its mirror
//!   A  = s G     B  = s H                  the commitments of the proof
//!   e  = hash(Y, label, U, V, A, B, body)  the challenge
//!   z  = s + e r                           the response
//!   K  = r Y = x U                         what q shares combine to
//!
//! ciphertext = U, V, A, B, z, body         4 x 48 + 32 + body bytes
//! body       = hash(K, U, label) || ChaCha20-Poly1305(key = hash'(K, U, label), padded payload)
//! ```
//!
//! **Proof.** This is TDH2 of Shoup and Gennaro (J. Cryptology 15(2), 2002, section 5; first 1998) with the label in
//! the challenge: whoever made U knew r and this label, so a ciphertext that is copied under another payer, nonce,
//! epoch, fork or chain is refused before any share of it exists. TDH2 sends (e, z); we send the commitments A and B
//! instead, from which e follows, because `z G = A + e U` and `z H = B + e V` of many ciphertexts then add up, with
//! random 128-bit coefficients, to a single multi-scalar multiplication ([`check`]). If the sum of a batch is wrong, so is one
//! of the batch for certain; which one takes a search. Who needs no more than one answer for all, as for a block, does not
//! search ([`check_every`]); else the search goes by authors, who are few even where wrong ciphertexts are many
//! ([`check_of_authors`]), and gives up halving where more than a few are wrong.
//!
//! **Torsion.** U is checked to lie in the subgroup. V, A and B stand in these two equations alone, and the equations
//! are defined *up to torsion* (both sides times the cofactor, as in RFC 8032 for Ed25519). Otherwise a ciphertext
//! whose A has a component of order 3 would pass a third of all batches, and honest nodes would disagree about a block.
//!
//! **Body.** ChaCha20-Poly1305 alone opens under several keys, so a dishonest quorum could show different payloads of
//! one ciphertext. The 32 bytes in front, a collision-resistant hash of K, bind the ciphertext to one K (the generic
//! transform of Bellare and Hoang, ePrint 2022/268, section 4; Albertini et al., ePrint 2020/1456). The AEAD is
//! ring's, which the node has already for TLS; its nonce is zero since a key is used once. Payloads are padded with
//! zeros to one of ten sizes ([`Bucket`]), 256 bytes to 128 KiB, each twice the one before.

use std::{collections::BTreeMap, ops::Range, sync::OnceLock};

use cascade_primitives::{
    B256, Bytes, Decode, DecodeError, Encode, Reader,
    codec::{DecodeErrorKind, encode_byte_string},
    domain, hash,
};
use rand::CryptoRng;
use ring::aead;
use thiserror::Error;
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    bugs::{NoBugs, SealedBug, SealedBugs},
    curve::{Equation, G1, G1_BYTES, G1Affine, Scalar},
};

/// Suite of the second generator (RFC 9380).
const GENERATOR_SUITE: &[u8] = b"CASCADE-TDH2-V01-CS01-with-BLS12381G1_XMD:SHA-256_SSWU_RO_";
/// Bytes that the length of a payload takes inside.
const LENGTH_BYTES: usize = 4;
/// Bytes of the key commitment.
const COMMITMENT_BYTES: usize = 32;
/// Bytes of the AEAD's tag.
const TAG_BYTES: usize = 16;

/// The size that a payload is padded to: 256 bytes shifted left by 0 to 9.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket(u8);

impl Bucket {
    /// The largest bucket: 128 KiB.
    pub const MAX: Self = Self(9);

    /// The smallest bucket that holds a payload; none above 128 KiB.
    #[must_use]
    pub fn of_payload(length: usize) -> Option<Self> {
        (0..=Self::MAX.0).map(Self).find(|bucket| bucket.payload_bytes() >= length)
    }

    /// The bucket with this number, 0 to 9.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if number <= Self::MAX.0 { Some(Self(number)) } else { None }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The bytes of payload that it holds.
    #[must_use]
    pub const fn payload_bytes(self) -> usize {
        256 << self.0
    }

    /// The bytes of a ciphertext's body.
    #[must_use]
    pub const fn body_bytes(self) -> usize {
        COMMITMENT_BYTES + LENGTH_BYTES + self.payload_bytes() + TAG_BYTES
    }

    fn of_body(length: usize) -> Option<Self> {
        (0..=Self::MAX.0).map(Self).find(|bucket| bucket.body_bytes() == length)
    }
}

/// A digest of everything that a ciphertext is bound to: chain, genesis, fork, epoch, payer, nonce and whatever else
/// the envelope authenticates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Label(pub B256);

/// The public key that payloads are sealed to, Y.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncryptionKey(pub(crate) G1Affine);

impl EncryptionKey {
    /// The key with this encoding; none if it is no point of the subgroup, or infinity.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; G1_BYTES]) -> Option<Self> {
        G1Affine::from_compressed(bytes).map(Self)
    }

    /// The compressed encoding, as wallets get it.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; G1_BYTES] {
        self.0.to_compressed()
    }
}

/// A sealed payload. Its points are bytes until [`check`] has looked at them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ciphertext {
    u: [u8; G1_BYTES],
    v: [u8; G1_BYTES],
    a: [u8; G1_BYTES],
    b: [u8; G1_BYTES],
    z: [u8; 32],
    body: Bytes,
}

impl Ciphertext {
    /// The encoding of U. Two ciphertexts with the same U have the same key: refuse the second.
    #[must_use]
    pub const fn first_component(&self) -> &[u8; G1_BYTES] {
        &self.u
    }

    /// The size that its payload was padded to.
    #[must_use]
    pub fn bucket(&self) -> Bucket {
        Bucket::of_body(self.body.len()).expect("decoding and sealing allow the sizes of buckets alone")
    }

    fn challenge(&self, key: &EncryptionKey, label: &Label) -> Scalar {
        let parts: [&[u8]; 7] = [&key.to_bytes(), label.0.as_slice(), &self.u, &self.v, &self.a, &self.b, &self.body];
        let mut wide = [0u8; 64];
        wide[32..].copy_from_slice(hash::tagged(domain::SEAL_CHALLENGE, &parts).as_slice());
        Scalar::from_wide(&wide)
    }
}

impl Encode for Ciphertext {
    fn encode(&self, out: &mut Vec<u8>) {
        for point in [&self.u, &self.v, &self.a, &self.b] {
            out.extend_from_slice(point);
        }
        out.extend_from_slice(&self.z);
        encode_byte_string(&self.body, out);
    }
}

impl Decode for Ciphertext {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.field("ciphertext");
        let (u, v, a, b, z) = (r.array()?, r.array()?, r.array()?, r.array()?, r.array()?);
        let body = r.field("body of a ciphertext").byte_string(Bucket::MAX.body_bytes())?;
        if Bucket::of_body(body.len()).is_none() {
            return Err(r.error(DecodeErrorKind::NotCanonical("the body has the size of no bucket")));
        }
        Ok(Self { u, v, a, b, z, body })
    }
}

/// Why a payload cannot be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a payload has at most {limit} bytes, not {0}", limit = Bucket::MAX.payload_bytes())]
pub struct TooLarge(pub usize);

/// Why a ciphertext was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CiphertextError {
    /// Bytes that are no point, or a U outside of the subgroup.
    #[error("its {0} is no valid point")]
    Point(&'static str),
    /// A response at or above the group's order.
    #[error("its response is not below the group's order")]
    Response,
    /// The proof does not hold for this key and label.
    #[error("its proof does not hold for this key and label")]
    Proof,
    /// Its author has one in the batch whose proof does not hold: this or another, nobody looked which.
    #[error("its author sent others with it, and a proof among them does not hold")]
    Company,
}

/// Why a ciphertext that was ordered gives no payload. All nodes come to the same answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// The body is bound to another key than the one that the ciphertext's U has.
    #[error("the body is not bound to the key of its first component")]
    Commitment,
    /// The AEAD refuses the body.
    #[error("the body is not authentic")]
    Body,
    /// The padding or the length inside is wrong.
    #[error("the payload's length or padding is wrong")]
    Padding,
}

/// The second generator, H.
fn second_generator() -> &'static G1Affine {
    static GENERATOR: OnceLock<G1Affine> = OnceLock::new();
    GENERATOR.get_or_init(|| G1::hash(b"second generator", GENERATOR_SUITE).to_affine())
}

/// The key commitment and the AEAD's key.
fn payload_keys(k: &G1Affine, u: &[u8; G1_BYTES], label: &Label) -> (B256, aead::LessSafeKey) {
    let k = Zeroizing::new(k.to_compressed());
    let parts: [&[u8]; 3] = [k.as_slice(), u, label.0.as_slice()];
    let commitment = hash::tagged(domain::SEAL_COMMITMENT, &parts);
    let mut key = hash::tagged(domain::SEAL_KEY, &parts);
    let unbound = aead::UnboundKey::new(&aead::CHACHA20_POLY1305, key.as_slice()).expect("the key has 32 bytes");
    key.0.zeroize();
    (commitment, aead::LessSafeKey::new(unbound))
}

fn nonce() -> aead::Nonce {
    aead::Nonce::assume_unique_for_key([0; aead::NONCE_LEN])
}

/// Seals a payload to the holders of a key, bound to a label.
///
/// # Errors
/// [`TooLarge`] above 128 KiB.
pub fn seal(
    key: &EncryptionKey,
    label: &Label,
    payload: &[u8],
    rng: &mut dyn CryptoRng,
) -> Result<Ciphertext, TooLarge> {
    let bucket = Bucket::of_payload(payload.len()).ok_or(TooLarge(payload.len()))?;
    let (r, s) = (Zeroizing::new(Scalar::random(rng)), Zeroizing::new(Scalar::random(rng)));
    let (g, h) = (G1Affine::generator(), *second_generator());
    let points = G1::batch_to_affine(&G1::each_times(&[(g, &r), (h, &r), (g, &s), (h, &s), (key.0, &r)]));
    let [u, v, a, b] = [0, 1, 2, 3].map(|i: usize| points[i].to_compressed());
    let (commitment, aead) = payload_keys(&points[4], &u, label);

    let mut text = Zeroizing::new(vec![0u8; LENGTH_BYTES + bucket.payload_bytes()]);
    text[..LENGTH_BYTES].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    text[LENGTH_BYTES..][..payload.len()].copy_from_slice(payload);
    let tag = aead
        .seal_in_place_separate_tag(nonce(), aead::Aad::empty(), &mut text)
        .expect("a bucket is far below the AEAD's limit of 256 GiB");
    let mut body = Vec::with_capacity(bucket.body_bytes());
    body.extend_from_slice(commitment.as_slice());
    body.extend_from_slice(&text);
    body.extend_from_slice(tag.as_ref());

    let mut ciphertext = Ciphertext { u, v, a, b, z: [0; 32], body: body.into() };
    ciphertext.z = (*s + ciphertext.challenge(key, label) * *r).to_bytes();
    Ok(ciphertext)
}

/// The parts of a ciphertext whose points are valid.
struct Parsed {
    u: G1Affine,
    v: G1Affine,
    a: G1Affine,
    b: G1Affine,
    z: Scalar,
    e: Scalar,
}

impl Parsed {
    /// The parts of many ciphertexts, or what is wrong with each.
    fn each(key: &EncryptionKey, items: &[(&Ciphertext, Label)]) -> Vec<Result<Self, CiphertextError>> {
        let encodings: Vec<&[u8; G1_BYTES]> = items.iter().flat_map(|(c, _)| [&c.u, &c.v, &c.a, &c.b]).collect();
        let points = G1Affine::many_on_curve(&encodings);
        let (points, _) = points.as_chunks::<4>();
        let bases: Vec<G1Affine> = points.iter().map(|[u, ..]| u.unwrap_or_else(G1Affine::generator)).collect();
        let within = G1Affine::which_in_subgroup(&bases);
        let point = |point: Option<G1Affine>, name| point.ok_or(CiphertextError::Point(name));
        let parts = items.iter().zip(points).zip(within);
        parts
            .map(|(((ciphertext, label), [u, v, a, b]), within)| {
                Ok(Self {
                    u: point(u.filter(|_| within), "first component")?,
                    v: point(*v, "second component")?,
                    a: point(*a, "first commitment")?,
                    b: point(*b, "second commitment")?,
                    z: Scalar::from_bytes(&ciphertext.z).ok_or(CiphertextError::Response)?,
                    e: ciphertext.challenge(key, label),
                })
            })
            .collect()
    }

    /// Whether both equations of each hold up to torsion; no randomness, for the last word on single ciphertexts.
    fn which_hold(parsed: &[&Self]) -> Vec<bool> {
        let equations = |item: &&Self| {
            [(G1Affine::generator(), item.a, item.u), (*second_generator(), item.b, item.v)].map(
                |(base, commitment, component)| Equation {
                    terms: [(base, item.z), (component, -item.e)],
                    sum: commitment,
                },
            )
        };
        let holds = G1::which_hold(&parsed.iter().flat_map(equations).collect::<Vec<_>>());
        let (holds, _) = holds.as_chunks::<2>();
        holds.iter().map(|both| both[0] && both[1]).collect()
    }
}

/// Whether the equations of all hold, but for a chance of 2^-127.
fn all_hold(parsed: &[&Parsed], rng: &mut dyn CryptoRng) -> bool {
    let (mut halves, mut half_points) = (Vec::with_capacity(2 * parsed.len()), Vec::with_capacity(2 * parsed.len()));
    let (mut fulls, mut full_points) = (Vec::with_capacity(2 * parsed.len() + 2), Vec::new());
    full_points.reserve(2 * parsed.len() + 2);
    let (mut g, mut h) = (Scalar::ZERO, Scalar::ZERO);
    for item in parsed {
        let (x, y) = (Scalar::random_half(rng), Scalar::random_half(rng));
        halves.extend([x, y]);
        half_points.extend([item.a, item.b]);
        fulls.extend([x * item.e, y * item.e]);
        full_points.extend([item.u, item.v]);
        g += x * item.z;
        h += y * item.z;
    }
    fulls.extend([-g, -h]);
    full_points.extend([G1Affine::generator(), *second_generator()]);
    G1::sum_of_many((&half_points, &halves), (&full_points, &fulls)).clears_to_infinity()
}

/// Ciphertexts of a block that are checked at once: of more, each costs hardly less.
const BATCH: usize = 256;

/// Where more than one in so many were wrong, halving costs more than looking at each.
const MANY: usize = 64;

/// Of so many, one of which is wrong, it always does: small sums are dear.
const FEW: usize = 8;

/// Ciphertexts in parts: those of an author.
struct Parts<'a> {
    parts: Vec<Vec<(usize, &'a Parsed)>>,
    rng: &'a mut dyn CryptoRng,
}

impl Parts<'_> {
    /// Whether all of a range of parts hold; if not, one of them does not for certain.
    fn hold(&mut self, range: Range<usize>) -> bool {
        let all: Vec<&Parsed> = self.parts[range].iter().flatten().map(|(_, parsed)| *parsed).collect();
        all_hold(&all, self.rng)
    }

    /// Which of a range of parts do not hold, each by itself.
    fn wrong_among(&mut self, range: Range<usize>) -> Vec<usize> {
        let single = |part: &usize| self.parts[*part].len() == 1;
        let (singles, others): (Vec<usize>, Vec<usize>) = range.partition(single);
        let alone: Vec<&Parsed> = singles.iter().map(|part| self.parts[*part][0].1).collect();
        let holds = Parsed::which_hold(&alone);
        let mut wrong: Vec<usize> =
            singles.into_iter().zip(holds).filter(|(_, holds)| !holds).map(|(part, _)| part).collect();
        wrong.extend(others.into_iter().filter(|&part| !self.hold(part..part + 1)));
        wrong
    }

    /// Which of a range of parts do not hold, in any order. `known` says that some do not.
    ///
    /// Halves what does not hold: k wrong ones of n take O(k log n). Where more than a few of a left half were wrong, each of the
    /// right half is asked for alone, so n wrong ones take one question of each size above, and n of one part.
    fn find_wrong(&mut self, range: Range<usize>, known: bool) -> Vec<usize> {
        if range.len() > 1 && !known && self.hold(range.clone()) {
            return Vec::new();
        }
        if range.len() <= FEW {
            return self.wrong_among(range);
        }
        let middle = range.start + range.len() / 2;
        let (left, right) = (range.start..middle, middle..range.end);
        let mut wrong = self.find_wrong(left.clone(), false);
        let found = wrong.len();
        wrong.extend(if found * MANY > left.len() {
            self.wrong_among(right)
        } else {
            self.find_wrong(right, found == 0)
        });
        wrong
    }
}

/// Checks all ciphertexts of a block with their labels: the U of each, or why one of them was refused. It stops at the first
/// batch with a wrong one, so what is wrong never costs more than what is right.
///
/// # Errors
/// What is wrong with one of them.
pub fn check_every(
    key: &EncryptionKey,
    items: &[(&Ciphertext, Label)],
    rng: &mut dyn CryptoRng,
) -> Result<Vec<G1Affine>, CiphertextError> {
    let mut bases = Vec::with_capacity(items.len());
    for batch in items.chunks(BATCH) {
        let parsed: Vec<Parsed> = Parsed::each(key, batch).into_iter().collect::<Result<_, _>>()?;
        if !all_hold(&parsed.iter().collect::<Vec<_>>(), rng) {
            return Err(CiphertextError::Proof);
        }
        bases.extend(parsed.into_iter().map(|parsed| parsed.u));
    }
    Ok(bases)
}

/// As [`check`], where `authors` says who answers for each. Of an author with several of which one is wrong, all are refused
/// ([`CiphertextError::Company`]), so that an author costs the others the same however many wrong ones it sends.
///
/// # Panics
/// If there is not one author for each.
#[must_use]
pub fn check_of_authors<A: Ord>(
    key: &EncryptionKey,
    items: &[(&Ciphertext, Label)],
    authors: &[A],
    rng: &mut dyn CryptoRng,
) -> Vec<Result<G1Affine, CiphertextError>> {
    assert_eq!(items.len(), authors.len(), "each has an author");
    let parsed = Parsed::each(key, items);
    let mut groups: BTreeMap<&A, Vec<(usize, &Parsed)>> = BTreeMap::new();
    for (index, (parsed, author)) in parsed.iter().zip(authors).enumerate() {
        if let Ok(parsed) = parsed {
            groups.entry(author).or_default().push((index, parsed));
        }
    }
    let mut parts = Parts { parts: groups.into_values().collect(), rng };
    let wrong = parts.find_wrong(0..parts.parts.len(), false);
    let refused: Vec<(usize, CiphertextError)> = wrong
        .into_iter()
        .map(|part| &parts.parts[part])
        .flat_map(|part| {
            let error = if part.len() == 1 { CiphertextError::Proof } else { CiphertextError::Company };
            part.iter().map(move |(index, _)| (*index, error))
        })
        .collect();
    let mut answers: Vec<_> = parsed.into_iter().map(|p| p.map(|p| p.u)).collect();
    for (index, error) in refused {
        answers[index] = Err(error);
    }
    answers
}

/// Checks ciphertexts with their labels; the answers stand in the order of the input, each the U that shares are made
/// of, or why it was refused.
///
/// One multi-scalar multiplication if all are right; with k wrong ones of n, O(k log n) of them, or n single checks where they
/// are many.
#[must_use]
pub fn check(
    key: &EncryptionKey,
    items: &[(&Ciphertext, Label)],
    rng: &mut dyn CryptoRng,
) -> Vec<Result<G1Affine, CiphertextError>> {
    check_with(&NoBugs, key, items, rng)
}

/// [`check`], with planted bugs if there are any.
#[must_use]
pub fn check_with<B: SealedBugs>(
    bugs: &B,
    key: &EncryptionKey,
    items: &[(&Ciphertext, Label)],
    rng: &mut dyn CryptoRng,
) -> Vec<Result<G1Affine, CiphertextError>> {
    if bugs.sealed(SealedBug::LabelUnchecked) {
        return Parsed::each(key, items).into_iter().map(|parsed| Ok(parsed?.u)).collect();
    }
    let authors: Vec<usize> = (0..items.len()).collect();
    check_of_authors(key, items, &authors, rng)
}

/// Opens a ciphertext that passed [`check`] under this label with its combined value K.
///
/// # Errors
/// [`OpenError`], the same at every node: a sender can seal nonsense.
pub fn open(ciphertext: &Ciphertext, label: &Label, k: &G1Affine) -> Result<Bytes, OpenError> {
    let (commitment, aead) = payload_keys(k, &ciphertext.u, label);
    let (found, sealed) = ciphertext.body.split_at(COMMITMENT_BYTES);
    if found != commitment.as_slice() {
        return Err(OpenError::Commitment);
    }
    let mut text = sealed.to_vec();
    aead.open_in_place(nonce(), aead::Aad::empty(), &mut text).map_err(|_| OpenError::Body)?;
    text.truncate(text.len() - TAG_BYTES);
    let (length, rest) = text.split_first_chunk::<LENGTH_BYTES>().ok_or(OpenError::Padding)?;
    let length = u32::from_le_bytes(*length) as usize;
    let fits = Bucket::of_payload(length) == Some(ciphertext.bucket());
    if !fits || rest[length..].iter().any(|&byte| byte != 0) {
        return Err(OpenError::Padding);
    }
    let text = Bytes::from(text);
    Ok(text.slice(LENGTH_BYTES..LENGTH_BYTES + length))
}

#[cfg(test)]
pub(crate) mod test_parts {
    use super::*;

    /// The ciphertext with its body replaced and its proof made anew with the r that made it.
    pub(crate) fn with_body(key: &EncryptionKey, label: &Label, r: &Scalar, body: Vec<u8>) -> Ciphertext {
        let (g, h, s) = (G1::generator(), G1::from(*second_generator()), Scalar::from_u64(11));
        let [u, v, a, b] = [g.times(r), h.times(r), g.times(&s), h.times(&s)].map(|p| p.to_affine().to_compressed());
        let mut ciphertext = Ciphertext { u, v, a, b, z: [0; 32], body: body.into() };
        ciphertext.z = (s + ciphertext.challenge(key, label) * *r).to_bytes();
        ciphertext
    }

    /// The ciphertext with points of its proof moved by torsion, and the response that fits the new challenge.
    pub(crate) fn with_torsion(key: &EncryptionKey, label: &Label, torsion: &G1Affine, moved: &str) -> Ciphertext {
        let (r, s) = (Scalar::from_u64(5), Scalar::from_u64(11));
        let (g, h, t) = (G1::generator(), G1::from(*second_generator()), G1::from(*torsion));
        let add = |name: &str, p: G1| if moved == name { p + t } else { p };
        let points = [add("u", g.times(&r)), add("v", h.times(&r)), add("a", g.times(&s)), add("b", h.times(&s))];
        let [u, v, a, b] = points.map(|p| p.to_affine().to_compressed());
        let body = vec![7; Bucket(0).body_bytes()];
        let mut ciphertext = Ciphertext { u, v, a, b, z: [0; 32], body: body.into() };
        ciphertext.z = (s + ciphertext.challenge(key, label) * r).to_bytes();
        ciphertext
    }

    /// A ciphertext of which one of the two equations does not hold and the other does, under the challenge that belongs to it.
    pub(crate) fn with_one_wrong_equation(key: &EncryptionKey, label: &Label, second: bool) -> Ciphertext {
        let (r, s) = (Scalar::from_u64(5), Scalar::from_u64(11));
        let (g, h) = (G1::generator(), G1::from(*second_generator()));
        let (a, b) = if second {
            (g.times(&s), h.times(&(s + Scalar::ONE)))
        } else {
            (g.times(&(s + Scalar::ONE)), h.times(&s))
        };
        let [u, v, a, b] = [g.times(&r), h.times(&r), a, b].map(|p| p.to_affine().to_compressed());
        let body = vec![7; Bucket(0).body_bytes()];
        let mut ciphertext = Ciphertext { u, v, a, b, z: [0; 32], body: body.into() };
        ciphertext.z = (s + ciphertext.challenge(key, label) * r).to_bytes();
        ciphertext
    }

    pub(crate) fn sealed_body(k: &G1Affine, u: &[u8; G1_BYTES], label: &Label, text: &[u8]) -> Vec<u8> {
        let (commitment, aead) = payload_keys(k, u, label);
        let mut text = text.to_vec();
        let tag = aead.seal_in_place_separate_tag(nonce(), aead::Aad::empty(), &mut text).unwrap();
        [commitment.as_slice(), &text, tag.as_ref()].concat()
    }
}
