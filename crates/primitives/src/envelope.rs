//! What users send to an encrypted chain: envelopes, and deposits that pay for them.
//!
//! ```text
//!  envelope, in the clear       chain, fork, epoch, payer's nonce, gas limit, fees, valid-until, bucket,
//!                               commitment, ciphertext, payer's signature over all of it
//!  ciphertext, after the order  salt (32 bytes) || an ordinary signed Ethereum transaction
//!  commitment                 = hash(salt, transaction)
//! ```
//!
//! The *payer* is the account of the fee ledger that the envelope's signature recovers to. It pays for all gas; who signed
//! the transaction inside pays nothing but the value that it sends. So the payer may be another key than the wallet's: a
//! wallet signs once, what is inside, and whoever holds the payer's key seals and signs the envelope around it.
//!
//! The fee ledger is apart from the accounts that contracts see: it has its own balance and nonce for each payer, and
//! nothing that runs inside an envelope can touch it. That is what makes the reserve rule (decision 14 of the
//! architecture) hold although nobody sees what the envelopes of a block will do. Money comes into the ledger at genesis
//! or by a [`Deposit`]: an ordinary transfer to the payer's address, in the clear, with the payer's consent beside it. A
//! transfer without data has nothing in it to run in front of, but it shows who funds which payer.

use alloy_primitives::{Address, B256, U256, hex};
use bytes::Bytes;

use crate::{
    certificate::SigningContext,
    codec::{Decode, DecodeError, DecodeErrorKind, Encode, Reader, encode_byte_string},
    domain, hash,
    ids::{ChainId, Epoch, Fork, Height},
    transaction::{RecoveredTransaction, Transaction, TransactionError},
};

/// Bytes of an ECDSA signature with its recovery bit: r, s, y parity.
pub const SIGNATURE_BYTES: usize = 65;

/// Largest payload that a ciphertext seals, in bytes: the largest bucket.
pub const MAX_PAYLOAD_BYTES: usize = 256 << MAX_BUCKET;

/// Number of the largest bucket; bucket b holds 256 << b bytes.
pub const MAX_BUCKET: u8 = 9;

/// Bytes of the salt in front of the transaction inside.
pub const SALT_BYTES: usize = 32;

/// Largest envelope that any chain can allow, in bytes.
pub const MAX_ENVELOPE_BYTES: usize = MAX_PAYLOAD_BYTES + 1024;

/// Gas that an envelope is charged for at the least, whatever is inside: a transfer's, and 16 for each byte of its
/// bucket beyond the smallest.
#[must_use]
pub const fn envelope_gas(bucket: u8) -> u64 {
    21_000 + 16 * ((256_u64 << bucket) - 256)
}

/// An ECDSA signature over secp256k1 with the parity of its point: r, s, y parity (0 or 1).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EcdsaSignature(pub [u8; SIGNATURE_BYTES]);

impl std::fmt::Debug for EcdsaSignature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EcdsaSignature({})", hex::encode(self.0))
    }
}

impl Encode for EcdsaSignature {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
}

impl Decode for EcdsaSignature {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(r.field("signature").array()?))
    }
}

/// A sealed transaction with what the sequencers must know to order it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Envelope {
    /// The chain.
    pub chain_id: ChainId,
    /// The history that it may stand in.
    pub fork: Fork,
    /// The epoch whose key it is sealed to; it may stand in a block of that epoch alone.
    pub epoch: Epoch,
    /// The payer's nonce in the fee ledger.
    pub nonce: u64,
    /// Gas that it reserves: at least that of the transaction inside, and [`envelope_gas`].
    pub gas_limit: u64,
    /// Fee cap in wei per gas.
    pub max_fee_per_gas: u64,
    /// Priority fee cap in wei per gas; at most `max_fee_per_gas`.
    pub max_priority_fee_per_gas: u64,
    /// The last height at which it may stand.
    pub valid_until: Height,
    /// Number of the size that the payload is padded to, 0 to [`MAX_BUCKET`].
    pub bucket: u8,
    /// [`commitment`] of the payload.
    pub commitment: B256,
    /// The encoding of the scheme's ciphertext.
    pub ciphertext: Bytes,
    /// The payer's signature over [`Envelope::digest`].
    pub signature: EcdsaSignature,
}

/// The hiding commitment to a transaction.
#[must_use]
pub fn commitment(salt: &[u8; SALT_BYTES], transaction: &[u8]) -> B256 {
    hash::tagged(domain::ENVELOPE_COMMITMENT, &[salt, transaction])
}

impl Envelope {
    fn encode_terms(&self, out: &mut Vec<u8>) {
        self.chain_id.encode(out);
        self.fork.encode(out);
        self.epoch.encode(out);
        self.nonce.encode(out);
        self.gas_limit.encode(out);
        self.max_fee_per_gas.encode(out);
        self.max_priority_fee_per_gas.encode(out);
        self.valid_until.encode(out);
        self.bucket.encode(out);
        self.commitment.encode(out);
    }

    /// The 32 bytes that the payer signs: chain and genesis, all terms, and the ciphertext.
    #[must_use]
    pub fn digest(&self, context: &SigningContext) -> B256 {
        let mut terms = Vec::with_capacity(128);
        context.genesis_hash.encode(&mut terms);
        self.encode_terms(&mut terms);
        hash::tagged(domain::ENVELOPE, &[&terms, &self.ciphertext])
    }

    /// What the ciphertext is bound to: chain, genesis, all terms, and the payer. A ciphertext that is copied into
    /// another envelope, or under another payer, does not check (decision 11 of the architecture).
    #[must_use]
    pub fn label(&self, context: &SigningContext, payer: Address) -> B256 {
        let mut terms = Vec::with_capacity(160);
        context.genesis_hash.encode(&mut terms);
        self.encode_terms(&mut terms);
        payer.encode(&mut terms);
        hash::tagged(domain::ENVELOPE_LABEL, &[&terms])
    }

    /// The most that it can take from the payer, in wei. Saturates, which no balance reaches.
    #[must_use]
    pub fn max_cost(&self) -> U256 {
        U256::from(self.gas_limit).saturating_mul(U256::from(self.max_fee_per_gas))
    }
}

impl Encode for Envelope {
    fn encode(&self, out: &mut Vec<u8>) {
        self.encode_terms(out);
        encode_byte_string(&self.ciphertext, out);
        self.signature.encode(out);
    }
}

impl Decode for Envelope {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.field("envelope");
        let envelope = Self {
            chain_id: ChainId::decode(r)?,
            fork: Fork::decode(r)?,
            epoch: Epoch::decode(r)?,
            nonce: u64::decode(r)?,
            gas_limit: u64::decode(r)?,
            max_fee_per_gas: u64::decode(r)?,
            max_priority_fee_per_gas: u64::decode(r)?,
            valid_until: Height::decode(r)?,
            bucket: u8::decode(r.field("bucket"))?,
            commitment: B256::decode(r)?,
            ciphertext: r.field("ciphertext").byte_string(MAX_ENVELOPE_BYTES)?,
            signature: EcdsaSignature::decode(r)?,
        };
        if envelope.bucket > MAX_BUCKET {
            return Err(r.error(DecodeErrorKind::UnknownTag(u64::from(envelope.bucket))));
        }
        Ok(envelope)
    }
}

/// A transfer from an account into a payer's balance in the fee ledger.
///
/// The transaction is an ordinary signed one: no data, to the payer's address. When it runs, what it transfers is moved
/// on into the ledger. The payer's consent is what tells it from any other transfer, which an encrypted chain does not
/// take in the clear.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Deposit {
    /// The transfer, EIP-2718 encoded.
    pub transaction: Bytes,
    /// The payer's signature over [`Deposit::digest`].
    pub consent: EcdsaSignature,
}

impl Deposit {
    /// The 32 bytes that the payer signs.
    #[must_use]
    pub fn digest(context: &SigningContext, transaction: &B256) -> B256 {
        let mut bytes = Vec::with_capacity(80);
        context.chain_id.encode(&mut bytes);
        context.genesis_hash.encode(&mut bytes);
        transaction.encode(&mut bytes);
        hash::tagged(domain::DEPOSIT, &[&bytes])
    }
}

impl Encode for Deposit {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_byte_string(&self.transaction, out);
        self.consent.encode(out);
    }
}

impl Decode for Deposit {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            transaction: r.field("deposit").byte_string(MAX_DEPOSIT_BYTES)?,
            consent: EcdsaSignature::decode(r)?,
        })
    }
}

/// Largest transfer that a deposit may hold, in bytes: a transfer without data and without access list is far smaller.
const MAX_DEPOSIT_BYTES: usize = 512;

/// One item of what users sent, in a block of an encrypted chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Item {
    /// A sealed transaction.
    Envelope(Envelope),
    /// Money for a payer.
    Deposit(Deposit),
}

impl Encode for Item {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Envelope(envelope) => {
                out.push(1);
                envelope.encode(out);
            }
            Self::Deposit(deposit) => {
                out.push(2);
                deposit.encode(out);
            }
        }
    }
}

impl Decode for Item {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(r.field("item"))? {
            1 => Ok(Self::Envelope(Envelope::decode(r)?)),
            2 => Ok(Self::Deposit(Deposit::decode(r)?)),
            tag => Err(r.error(DecodeErrorKind::UnknownTag(u64::from(tag)))),
        }
    }
}

/// An envelope whose payer is known.
#[derive(Clone, Debug)]
pub struct RecoveredEnvelope {
    envelope: Envelope,
    raw: Bytes,
    payer: Address,
    hash: B256,
}

impl RecoveredEnvelope {
    /// Puts an envelope, the [`Item`] encoding that it was read from, and its recovered payer together.
    /// `cascade_crypto::ecdsa` is where payers are recovered.
    #[must_use]
    pub fn new(envelope: Envelope, raw: Bytes, digest: B256, payer: Address) -> Self {
        // Not over the signature, which its signer can change at will.
        let hash = hash::tagged(domain::ENVELOPE_HASH, &[digest.as_slice(), payer.as_slice()]);
        Self { envelope, raw, payer, hash }
    }

    /// The encoding as an [`Item`].
    #[must_use]
    pub const fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// Who pays.
    #[must_use]
    pub const fn payer(&self) -> Address {
        self.payer
    }

    /// Its name, before anybody knows what is inside.
    #[must_use]
    pub const fn hash(&self) -> B256 {
        self.hash
    }
}

impl std::ops::Deref for RecoveredEnvelope {
    type Target = Envelope;

    fn deref(&self) -> &Envelope {
        &self.envelope
    }
}

/// A deposit whose signatures hold.
#[derive(Clone, Debug)]
pub struct RecoveredDeposit {
    transaction: RecoveredTransaction,
    raw: Bytes,
    payer: Address,
}

/// Why a deposit is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DepositError {
    /// What it holds is no transaction of this chain.
    #[error(transparent)]
    Transaction(#[from] TransactionError),
    /// The transaction is more than a transfer.
    #[error("a deposit is a transfer to the payer, without data and access list, of 21000 gas at the most")]
    NotATransfer,
    /// The consent is not of the account that the transfer goes to.
    #[error("the consent is not that of the account that the transfer goes to")]
    Consent,
}

impl Deposit {
    /// The transaction, if its form is that of a deposit.
    ///
    /// # Errors
    /// [`DepositError`], never [`DepositError::Consent`].
    pub fn decode_transaction(&self, chain: ChainId) -> Result<Transaction, DepositError> {
        use alloy_consensus::Transaction as _;
        let transaction = Transaction::decode(self.transaction.clone(), chain, MAX_DEPOSIT_BYTES)?;
        let inner = transaction.envelope();
        let plain = inner.input().is_empty() && inner.access_list().is_none_or(|list| list.0.is_empty());
        if !plain || inner.to().is_none() || transaction.gas_limit() != 21_000 {
            return Err(DepositError::NotATransfer);
        }
        Ok(transaction)
    }
}

impl RecoveredDeposit {
    /// Puts a transfer and the recovered signer of the consent together.
    ///
    /// # Errors
    /// [`DepositError::Consent`] if the transfer goes to somebody else.
    pub fn new(transaction: RecoveredTransaction, raw: Bytes, consent: Address) -> Result<Self, DepositError> {
        use alloy_consensus::Transaction as _;
        if transaction.envelope().to() != Some(consent) {
            return Err(DepositError::Consent);
        }
        Ok(Self { transaction, raw, payer: consent })
    }

    /// The transfer.
    #[must_use]
    pub const fn transaction(&self) -> &RecoveredTransaction {
        &self.transaction
    }

    /// The encoding as an [`Item`].
    #[must_use]
    pub const fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// Whose balance in the ledger grows.
    #[must_use]
    pub const fn payer(&self) -> Address {
        self.payer
    }
}

/// An item whose signatures hold.
#[derive(Clone, Debug)]
pub enum RecoveredItem {
    /// A sealed transaction.
    Envelope(Box<RecoveredEnvelope>),
    /// Money for a payer.
    Deposit(Box<RecoveredDeposit>),
}

impl RecoveredItem {
    /// The encoding as an [`Item`].
    #[must_use]
    pub const fn raw(&self) -> &Bytes {
        match self {
            Self::Envelope(envelope) => envelope.raw(),
            Self::Deposit(deposit) => deposit.raw(),
        }
    }

    /// Its name: an envelope's hash, or that of the transfer in a deposit.
    #[must_use]
    pub fn hash(&self) -> B256 {
        match self {
            Self::Envelope(envelope) => envelope.hash(),
            Self::Deposit(deposit) => deposit.transaction().hash(),
        }
    }
}

/// What opens a block's envelopes: the beacon's signature and one combined value for each envelope, in the order of the
/// block. Anybody who has the epoch's public keys can check it; it travels between nodes, and a later block carries it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reveal {
    /// The block that it opens.
    pub height: Height,
    /// The beacon's signature, a compressed point of G1.
    pub beacon: [u8; POINT_BYTES],
    /// Combined values, compressed points of G1.
    pub values: Vec<[u8; POINT_BYTES]>,
}

/// Bytes of a compressed point of G1.
pub const POINT_BYTES: usize = 48;

/// Envelopes that one block may carry; bounds a decoder.
pub const MAX_ENVELOPES_PER_BLOCK: usize = 1 << 15;

impl Reveal {
    /// What a result entry carries of it.
    #[must_use]
    pub fn root(&self) -> B256 {
        hash::of(domain::REVEAL, self)
    }
}

impl Encode for Reveal {
    fn encode(&self, out: &mut Vec<u8>) {
        self.height.encode(out);
        out.extend_from_slice(&self.beacon);
        u32::try_from(self.values.len()).expect("bounded by MAX_ENVELOPES_PER_BLOCK").encode(out);
        out.extend_from_slice(self.values.as_flattened());
    }
}

impl Decode for Reveal {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (height, beacon) = (Height::decode(r.field("reveal"))?, r.array()?);
        let count = r.length(MAX_ENVELOPES_PER_BLOCK)?;
        let values = r.take(count * POINT_BYTES)?.as_chunks::<POINT_BYTES>().0.to_vec();
        Ok(Self { height, beacon, values })
    }
}
