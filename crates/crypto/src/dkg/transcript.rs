//! What dealer and verifiers derive alike: context, pads, weights and the sealed instances.

use cascade_primitives::{B256, Encode as _, MemberIndex, codec::encode_list, domain, hash};
use rand::{RngCore as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use zeroize::{Zeroize as _, Zeroizing};

use super::{
    dealing::{INSTANCES, KEYS, SEALED},
    machine::Parameters,
};
use crate::curve::{G1Affine, Scalar};

/// The digest that everything in a dealing is bound to.
pub(super) fn context(parameters: &Parameters, dealer: MemberIndex) -> B256 {
    let mut bytes = Vec::new();
    parameters.context.chain_id.encode(&mut bytes);
    parameters.context.genesis_hash.encode(&mut bytes);
    parameters.context.fork.encode(&mut bytes);
    parameters.epoch.encode(&mut bytes);
    dealer.encode(&mut bytes);
    parameters.dealer_keys[dealer.index()].encode(&mut bytes);
    let members = 0..parameters.recipients.members() as u16;
    encode_list(
        &members.map(|m| parameters.recipients.seats(MemberIndex(m)).len() as u32).collect::<Vec<_>>(),
        &mut bytes,
    );
    encode_list(&parameters.recipient_keys, &mut bytes);
    hash::tagged(domain::DEALING_CONTEXT, &[&bytes])
}

/// A stream of scalars and numbers from a digest: the key stream of ChaCha20 (20 rounds, nonce zero).
pub(super) struct Stream(ChaCha20Rng);

impl Stream {
    pub(super) fn new(mut seed: B256) -> Self {
        let stream = Self(ChaCha20Rng::from_seed(seed.0));
        seed.0.zeroize();
        stream
    }

    pub(super) fn scalar(&mut self) -> Scalar {
        Scalar::random(&mut self.0)
    }
}

/// The ephemeral secret of an instance.
pub(super) fn ephemeral(context: &B256, instance: usize, seed: &[u8; 32]) -> Scalar {
    let number = (instance as u16).to_le_bytes();
    Stream::new(hash::tagged(domain::DEALING_SECRET, &[context.as_slice(), &number, seed])).scalar()
}

/// The pads of one recipient's shares in an instance: for each of its seats one for each key.
pub(super) fn pads(
    context: &B256,
    instance: usize,
    recipient: MemberIndex,
    ephemeral: &G1Affine,
    agreed: &G1Affine,
    seats: usize,
) -> Vec<Scalar> {
    let agreed = Zeroizing::new(agreed.to_compressed());
    let numbers = [(instance as u16).to_le_bytes(), recipient.0.to_le_bytes()].concat();
    let parts: [&[u8]; 4] = [context.as_slice(), &numbers, &ephemeral.to_compressed(), agreed.as_slice()];
    let mut stream = Stream::new(hash::tagged(domain::DEALING_PAD, &parts));
    (0..seats * KEYS).map(|_| stream.scalar()).collect()
}

/// The commitment to an instance's padded shares.
pub(super) fn instance_commitment(context: &B256, instance: usize, salt: &[u8; 32], padded: &[[u8; 32]]) -> B256 {
    let number = (instance as u16).to_le_bytes();
    hash::tagged(domain::DEALING_INSTANCE, &[context.as_slice(), &number, salt, padded.as_flattened()])
}

/// The digest of the first message, from which the weights come.
pub(super) fn first_challenge(context: &B256, commitments: &[u8], ephemerals: &[G1Affine], instances: &[B256]) -> B256 {
    let mut bytes = Vec::with_capacity(INSTANCES * 80);
    for (ephemeral, commitment) in ephemerals.iter().zip(instances) {
        ephemeral.encode(&mut bytes);
        commitment.encode(&mut bytes);
    }
    hash::tagged(domain::DEALING_WEIGHTS, &[context.as_slice(), &bytes, commitments])
}

/// The weights of all seats' shares of both keys.
pub(super) fn weights(first: &B256, seats: u32) -> Vec<Scalar> {
    let mut stream = Stream::new(*first);
    (0..seats as usize * KEYS).map(|_| stream.scalar()).collect()
}

/// The second challenge.
pub(super) fn second_challenge(first: &B256, weighted: &G1Affine, sums: &[G1Affine]) -> B256 {
    let mut bytes = Vec::with_capacity((INSTANCES + 1) * 48);
    weighted.encode(&mut bytes);
    for sum in sums {
        sum.encode(&mut bytes);
    }
    hash::tagged(domain::DEALING_CHALLENGE, &[first.as_slice(), &bytes])
}

/// Which instances stay sealed: the first places of a shuffle of all.
pub(super) fn sealed_instances(challenge: &B256) -> [bool; INSTANCES] {
    let mut rng = ChaCha20Rng::from_seed(challenge.0);
    let mut order: Vec<usize> = (0..INSTANCES).collect();
    let mut sealed = [false; INSTANCES];
    for place in 0..SEALED {
        let left = (INSTANCES - place) as u64;
        let limit = u64::MAX - (u64::MAX % left + 1) % left;
        let draw = loop {
            let draw = rng.next_u64();
            if draw <= limit {
                break draw;
            }
        };
        order.swap(place, place + (draw % left) as usize);
        sealed[order[place]] = true;
    }
    sealed
}
