//! Sealing transactions into envelopes, checking sealed ones, opening them.
//!
//! ```text
//!   wallet side   seal(key, terms, transaction, payer's key) ----> an envelope, signed, as it goes on the wire
//!   admission     check(key, envelopes) -------------------------> what shares are made of, or why not
//!   after order   open(envelope, value) -------------------------> the transaction inside, or why there is none
//! ```
//!
//! The format is `cascade_primitives::envelope`'s, the ciphertext [`crate::threshold::ciphertext`]'s. What [`open`]
//! answers is the same at every node, since the value is the only one that the ciphertext opens under.

use cascade_primitives::{
    Bytes, ChainParams, Decode as _, DecodeError, EcdsaSignature, Encode as _, Envelope, Epoch, Height, Item,
    RecoveredEnvelope, RecoveredTransaction, SigningContext, Transaction,
    envelope::{MAX_PAYLOAD_BYTES, SALT_BYTES, commitment},
};
use rand::CryptoRng;
use thiserror::Error;

use crate::{
    curve::G1Affine,
    ecdsa::{self, SecretKey, public_address},
    threshold::{Bucket, Ciphertext, CiphertextError, EncryptionKey, Label, ciphertext},
};

/// What an envelope says in the clear, but for what follows from the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The epoch whose key it is sealed to.
    pub epoch: Epoch,
    /// The payer's nonce in the fee ledger.
    pub nonce: u64,
    /// Gas that it reserves; see [`Terms::gas_for`].
    pub gas_limit: u64,
    /// Fee cap in wei per gas.
    pub max_fee_per_gas: u64,
    /// Priority fee cap in wei per gas.
    pub max_priority_fee_per_gas: u64,
    /// The last height at which it may stand.
    pub valid_until: Height,
}

impl Terms {
    /// The least gas limit for an envelope around a transaction of so many bytes with this gas limit; none if it is too
    /// large for an envelope.
    #[must_use]
    pub fn gas_for(transaction_bytes: usize, gas_limit: u64) -> Option<u64> {
        let bucket = Bucket::of_payload(transaction_bytes.checked_add(SALT_BYTES)?)?;
        Some(gas_limit.max(cascade_primitives::envelope::envelope_gas(bucket.number())))
    }
}

/// A transaction that no envelope can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("oversized data: transaction size {0}, limit {limit}", limit = MAX_PAYLOAD_BYTES - SALT_BYTES)]
pub struct SealError(pub usize);

/// Seals a transaction and signs the envelope with the payer's key.
///
/// # Errors
/// [`SealError`] if the transaction is too large.
pub fn seal(
    key: &EncryptionKey,
    context: &SigningContext,
    terms: &Terms,
    transaction: &[u8],
    payer: &SecretKey,
    rng: &mut dyn CryptoRng,
) -> Result<RecoveredEnvelope, SealError> {
    let mut salt = [0; SALT_BYTES];
    rng.fill_bytes(&mut salt);
    let payload = [salt.as_slice(), transaction].concat();
    let bucket = Bucket::of_payload(payload.len()).ok_or(SealError(transaction.len()))?;
    let mut envelope = Envelope {
        chain_id: context.chain_id,
        fork: context.fork,
        epoch: terms.epoch,
        nonce: terms.nonce,
        gas_limit: terms.gas_limit,
        max_fee_per_gas: terms.max_fee_per_gas,
        max_priority_fee_per_gas: terms.max_priority_fee_per_gas,
        valid_until: terms.valid_until,
        bucket: bucket.number(),
        commitment: commitment(&salt, transaction),
        ciphertext: Bytes::new(),
        signature: EcdsaSignature([0; 65]),
    };
    let address = public_address(payer);
    let label = Label(envelope.label(context, address));
    let sealed = ciphertext::seal(key, &label, &payload, rng).map_err(|_| SealError(transaction.len()))?;
    envelope.ciphertext = sealed.to_bytes().into();
    let digest = envelope.digest(context);
    envelope.signature = ecdsa::sign_digest(payer, &digest);
    let raw = Item::Envelope(envelope.clone()).to_bytes().into();
    Ok(RecoveredEnvelope::new(envelope, raw, digest, address))
}

/// A ciphertext that was checked, and what shares of it are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    ciphertext: Ciphertext,
    label: Label,
    base: G1Affine,
}

impl Sealed {
    /// What shares are made of.
    #[must_use]
    pub const fn base(&self) -> &G1Affine {
        &self.base
    }
}

/// Why an envelope's ciphertext was refused. No share of it is ever made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EnvelopeError {
    /// The bytes are no ciphertext.
    #[error("ciphertext: {0}")]
    Encoding(#[from] DecodeError),
    /// Another size than the envelope says.
    #[error("the ciphertext is of bucket {found}, the envelope says {said}")]
    Bucket {
        /// The ciphertext's.
        found: u8,
        /// The envelope's.
        said: u8,
    },
    /// It was not made for this envelope, key and payer.
    #[error("ciphertext: {0}")]
    Ciphertext(#[from] CiphertextError),
}

/// Checks the ciphertexts of envelopes, in a batch; answers stand in the order of the input.
#[must_use]
pub fn check(
    key: &EncryptionKey,
    context: &SigningContext,
    envelopes: &[&RecoveredEnvelope],
    rng: &mut dyn CryptoRng,
) -> Vec<Result<Sealed, EnvelopeError>> {
    let parse = |envelope: &&RecoveredEnvelope| {
        let ciphertext = Ciphertext::from_shared(&envelope.ciphertext)?;
        let (found, said) = (ciphertext.bucket().number(), envelope.bucket);
        if found != said {
            return Err(EnvelopeError::Bucket { found, said });
        }
        Ok((ciphertext, Label(envelope.label(context, envelope.payer()))))
    };
    let parsed: Vec<_> = envelopes.iter().map(parse).collect();
    let items: Vec<(&Ciphertext, Label)> = parsed.iter().flatten().map(|(c, label)| (c, *label)).collect();
    let mut checked = ciphertext::check(key, &items, rng).into_iter();
    parsed
        .into_iter()
        .map(|parsed| {
            let (ciphertext, label) = parsed?;
            let base = checked.next().expect("one answer for each parsed ciphertext")?;
            Ok(Sealed { ciphertext, label, base })
        })
        .collect()
}

/// Why an envelope that was ordered holds no transaction that can run. The same at every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unopened {
    /// The payload does not decrypt.
    #[error("the payload does not decrypt")]
    Undecryptable,
    /// It is not what the envelope commits to.
    #[error("the payload is not what the envelope commits to")]
    Commitment,
    /// It is no signed transaction of this chain.
    #[error("the payload is no signed transaction of this chain")]
    Transaction,
    /// The transaction asks for more gas than the envelope reserves.
    #[error("the transaction's gas limit is above the envelope's")]
    GasLimit,
}

/// Opens an envelope with its combined value.
///
/// # Errors
/// [`Unopened`]: its sender sealed nonsense.
pub fn open(
    envelope: &RecoveredEnvelope,
    sealed: &Sealed,
    value: &G1Affine,
    params: &ChainParams,
) -> Result<RecoveredTransaction, Unopened> {
    let payload = ciphertext::open(&sealed.ciphertext, &sealed.label, value).map_err(|_| Unopened::Undecryptable)?;
    let (salt, transaction) = payload.split_first_chunk::<SALT_BYTES>().ok_or(Unopened::Commitment)?;
    if commitment(salt, transaction) != envelope.commitment {
        return Err(Unopened::Commitment);
    }
    let raw = payload.slice(SALT_BYTES..);
    let transaction = Transaction::decode(raw, params.chain_id, params.max_tx_bytes as usize)
        .and_then(ecdsa::recover)
        .map_err(|_| Unopened::Transaction)?;
    if transaction.gas_limit() > envelope.gas_limit {
        return Err(Unopened::GasLimit);
    }
    Ok(transaction)
}
