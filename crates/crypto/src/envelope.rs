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

mod classes;

use cascade_primitives::{
    Address, Bytes, ChainParams, Decode as _, DecodeError, EcdsaSignature, Encode as _, Envelope, Epoch, Height, Item,
    RecoveredEnvelope, RecoveredTransaction, SigningContext, Transaction,
    envelope::{MAX_PAYLOAD_BYTES, SALT_BYTES, commitment},
};
use rand::CryptoRng;
use thiserror::Error;

use crate::{
    bugs::{NoBugs, SealedBugs},
    curve::G1Affine,
    ecdsa::{self, SecretKey, public_address},
    threshold::{Bucket, Ciphertext, CiphertextError, EncryptionKey, Label, ciphertext},
};

pub use classes::{GasClasses, GasClassesError};

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
    check_with(&NoBugs, key, context, envelopes, rng)
}

/// [`check`], with planted bugs if there are any.
#[must_use]
pub fn check_with<B: SealedBugs>(
    bugs: &B,
    key: &EncryptionKey,
    context: &SigningContext,
    envelopes: &[&RecoveredEnvelope],
    rng: &mut dyn CryptoRng,
) -> Vec<Result<Sealed, EnvelopeError>> {
    check_parsed(context, envelopes, |items, _| ciphertext::check_with(bugs, key, items, rng))
}

/// [`check`], where those of a payer with a wrong one among several are all refused, with [`CiphertextError::Company`]: an
/// envelope is signed by its payer with its ciphertext, so nobody else can have made it wrong.
#[must_use]
pub fn check_by_payer(
    key: &EncryptionKey,
    context: &SigningContext,
    envelopes: &[&RecoveredEnvelope],
    rng: &mut dyn CryptoRng,
) -> Vec<Result<Sealed, EnvelopeError>> {
    check_parsed(context, envelopes, |items, payers| ciphertext::check_of_authors(key, items, payers, rng))
}

/// Checks all ciphertexts of a block's envelopes; stops soon after the first wrong one ([`ciphertext::check_every`]).
///
/// # Errors
/// What is wrong with one of them.
pub fn check_every(
    key: &EncryptionKey,
    context: &SigningContext,
    envelopes: &[&RecoveredEnvelope],
    rng: &mut dyn CryptoRng,
) -> Result<Vec<Sealed>, EnvelopeError> {
    let parsed: Vec<_> = envelopes.iter().map(|envelope| parse(context, envelope)).collect::<Result<_, _>>()?;
    let items: Vec<(&Ciphertext, Label)> = parsed.iter().map(|(ciphertext, label)| (ciphertext, *label)).collect();
    let bases = ciphertext::check_every(key, &items, rng)?;
    let sealed = parsed.into_iter().zip(bases);
    Ok(sealed.map(|((ciphertext, label), base)| Sealed { ciphertext, label, base }).collect())
}

/// An envelope's ciphertext and what it must be bound to.
fn parse(context: &SigningContext, envelope: &RecoveredEnvelope) -> Result<(Ciphertext, Label), EnvelopeError> {
    let ciphertext = Ciphertext::from_shared(&envelope.ciphertext)?;
    let (found, said) = (ciphertext.bucket().number(), envelope.bucket);
    if found != said {
        return Err(EnvelopeError::Bucket { found, said });
    }
    Ok((ciphertext, Label(envelope.label(context, envelope.payer()))))
}

fn check_parsed(
    context: &SigningContext,
    envelopes: &[&RecoveredEnvelope],
    check: impl FnOnce(&[(&Ciphertext, Label)], &[Address]) -> Vec<Result<G1Affine, CiphertextError>>,
) -> Vec<Result<Sealed, EnvelopeError>> {
    let parsed: Vec<_> = envelopes.iter().map(|envelope| parse(context, envelope)).collect();
    let items: Vec<(&Ciphertext, Label)> = parsed.iter().flatten().map(|(c, label)| (c, *label)).collect();
    let payers = envelopes.iter().zip(&parsed).filter(|(_, parsed)| parsed.is_ok());
    let payers: Vec<Address> = payers.map(|(envelope, _)| envelope.payer()).collect();
    let mut checked = check(&items, &payers).into_iter();
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

#[cfg(test)]
mod tests {
    use cascade_primitives::{B256, ChainId, Fork, Network, RecoveredItem, domain, hash};
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha20Rng;

    use super::*;
    use crate::{
        curve::{G1, Scalar},
        ecdsa::{ItemError, recover_item, sign_digest},
    };

    /// The example transaction of EIP-155, for chain 1.
    const EIP_155: &str = "f86c098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a76400008025a028ef61340bd939bc2195fe537567866003e1a15d3c71ff63e1590620aa636276a067cbe9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83";

    fn context() -> SigningContext {
        SigningContext { chain_id: ChainId(1), genesis_hash: B256::repeat_byte(7), fork: Fork(0) }
    }

    fn params() -> ChainParams {
        ChainParams { chain_id: ChainId(1), ..ChainParams::of(Network::Regtest) }
    }

    fn rng() -> ChaCha20Rng {
        ChaCha20Rng::seed_from_u64(1)
    }

    /// A key of which this test knows the secret, as q seats would together.
    fn key() -> (Scalar, EncryptionKey) {
        let secret = Scalar::random(&mut rng());
        (secret, EncryptionKey(G1::generator().times(&secret).to_affine()))
    }

    fn payer(byte: u8) -> SecretKey {
        SecretKey::from_byte_array([byte; 32]).unwrap()
    }

    fn terms() -> Terms {
        Terms {
            epoch: Epoch(3),
            nonce: 5,
            gas_limit: Terms::gas_for(110, 21_000).unwrap(),
            max_fee_per_gas: 9,
            max_priority_fee_per_gas: 1,
            valid_until: Height(70),
        }
    }

    fn sealed(transaction: &[u8], terms: &Terms) -> RecoveredEnvelope {
        seal(&key().1, &context(), terms, transaction, &payer(1), &mut rng()).unwrap()
    }

    fn checked(envelope: &RecoveredEnvelope) -> Result<Sealed, EnvelopeError> {
        check(&key().1, &context(), &[envelope], &mut rng()).remove(0)
    }

    fn opened(envelope: &RecoveredEnvelope) -> Result<RecoveredTransaction, Unopened> {
        let sealed = checked(envelope).unwrap();
        let value = G1::from(*sealed.base()).times(&key().0).to_affine();
        open(envelope, &sealed, &value, &params())
    }

    /// The envelope as somebody changes it and signs it with the same key.
    fn changed(envelope: &RecoveredEnvelope, change: impl FnOnce(&mut Envelope)) -> RecoveredEnvelope {
        let mut other = Envelope::clone(envelope);
        change(&mut other);
        other.signature = sign_digest(&payer(1), &other.digest(&context()));
        recovered(&other)
    }

    fn recovered(envelope: &Envelope) -> RecoveredEnvelope {
        let raw = Item::Envelope(envelope.clone()).to_bytes().into();
        match recover_item(raw, &context(), &params()).unwrap() {
            RecoveredItem::Envelope(envelope) => *envelope,
            RecoveredItem::Deposit(_) => unreachable!("an envelope was encoded"),
        }
    }

    #[test]
    fn what_is_sealed_opens_to_the_transaction() {
        let transaction = hex::decode(EIP_155).unwrap();
        let envelope = sealed(&transaction, &terms());
        assert_eq!(recovered(&envelope).hash(), envelope.hash());
        assert_eq!(envelope.payer(), public_address(&payer(1)));
        let inside = opened(&envelope).unwrap();
        assert_eq!(inside.raw().as_ref(), transaction);
        assert_eq!(inside.sender().to_string(), "0x9d8A62f656a8d1615C1294fd71e9CFb3E4855A4F");
    }

    #[test]
    fn the_format_is_frozen() {
        let envelope = sealed(&hex::decode(EIP_155).unwrap(), &terms());
        assert_eq!(envelope.raw().len(), 699);
        let digest = hash::tagged(domain::ENVELOPE, &[envelope.raw()]);
        assert_eq!(digest.to_string(), "0xfefa2b23cb4dd596cbb141104f0befcc5972a75abf88500f0f28b47c46495472");
    }

    #[test]
    fn no_term_can_be_changed_even_by_the_payer() {
        let envelope = sealed(&hex::decode(EIP_155).unwrap(), &terms());
        type Change = (&'static str, fn(&mut Envelope));
        let changes: [Change; 8] = [
            ("epoch", |e| e.epoch = Epoch(4)),
            ("nonce", |e| e.nonce += 1),
            ("gas limit", |e| e.gas_limit += 1),
            ("fee cap", |e| e.max_fee_per_gas += 1),
            ("tip", |e| e.max_priority_fee_per_gas = 0),
            ("valid until", |e| e.valid_until = Height(71)),
            ("bucket", |e| e.bucket = 1),
            ("commitment", |e| e.commitment = B256::ZERO),
        ];
        for (what, change) in changes {
            assert!(checked(&changed(&envelope, change)).is_err(), "{what}");
        }
    }

    #[test]
    fn another_payer_chain_genesis_or_fork_cannot_use_a_ciphertext() {
        let envelope = sealed(&hex::decode(EIP_155).unwrap(), &terms());
        let mut stolen = Envelope::clone(&envelope);
        stolen.signature = sign_digest(&payer(2), &stolen.digest(&context()));
        let stolen = recovered(&stolen);
        assert_ne!(stolen.payer(), envelope.payer());
        assert_eq!(checked(&stolen), Err(EnvelopeError::Ciphertext(CiphertextError::Proof)));
        for other in [
            SigningContext { genesis_hash: B256::ZERO, ..context() },
            SigningContext { chain_id: ChainId(2), ..context() },
            SigningContext { fork: Fork(1), ..context() },
        ] {
            let raw = envelope.raw().clone();
            match recover_item(raw, &other, &params()) {
                // Another genesis: the signature recovers to somebody else.
                Ok(RecoveredItem::Envelope(found)) => {
                    assert_ne!(found.payer(), envelope.payer());
                    assert!(check(&key().1, &other, &[&found], &mut rng())[0].is_err());
                }
                Ok(RecoveredItem::Deposit(_)) => unreachable!("it is an envelope"),
                Err(error) => assert!(matches!(error, ItemError::Chain { .. }), "{error}"),
            }
        }
    }

    #[test]
    fn nonsense_inside_is_a_defined_outcome() {
        let transaction = hex::decode(EIP_155).unwrap();
        assert_eq!(opened(&sealed(b"no transaction", &terms())).unwrap_err(), Unopened::Transaction);
        let short = Terms { gas_limit: 20_000, ..terms() };
        assert_eq!(opened(&sealed(&transaction, &short)).unwrap_err(), Unopened::GasLimit);
        // Another value than the combined one.
        let envelope = sealed(&transaction, &terms());
        let wrong = open(&envelope, &checked(&envelope).unwrap(), &G1Affine::generator(), &params());
        assert_eq!(wrong.unwrap_err(), Unopened::Undecryptable);
        // A payload that is not the one committed to.
        let mut terms_of = Envelope::clone(&envelope);
        terms_of.commitment = B256::repeat_byte(1);
        terms_of.ciphertext = Bytes::new();
        let address: Address = envelope.payer();
        let label = Label(terms_of.label(&context(), address));
        let payload = [&[0; SALT_BYTES], transaction.as_slice()].concat();
        terms_of.ciphertext = ciphertext::seal(&key().1, &label, &payload, &mut rng()).unwrap().to_bytes().into();
        let lying = changed(&envelope, |e| *e = terms_of);
        assert_eq!(opened(&lying).unwrap_err(), Unopened::Commitment);
    }

    #[test]
    fn too_large_a_transaction_is_named() {
        let large = vec![0; MAX_PAYLOAD_BYTES];
        let refused = seal(&key().1, &context(), &terms(), &large, &payer(1), &mut rng()).unwrap_err();
        assert_eq!(refused, SealError(MAX_PAYLOAD_BYTES));
        assert_eq!(Terms::gas_for(MAX_PAYLOAD_BYTES, 1), None);
    }
}
