//! Envelopes of the market, and what opens them.
//!
//! [`Cipher::Real`] does all of it: the sequencers make their key together without a dealer, users seal to it, every
//! ciphertext is checked before it is admitted, each sequencer makes its shares of each block, and a node's own
//! [`Reveals`] core combines them into values and beacon. [`Cipher::Assumed`] leaves the ciphertexts empty and draws the
//! beacon from a hash, so that long runs cost what execution costs; everything else of an envelope is as it is. That the
//! two play the same game, given the same beacons, is a test.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use alloy_primitives::{Address, B256, Bytes, keccak256};
use cascade_crypto::{
    BlsScheme, BlsSecretKey, VoteSigner as _,
    curve::G1Affine,
    dkg::{KeyGeneration, Parameters, RecipientSecret, dealing},
    ecdsa::SecretKey,
    envelope::{self, EnvelopeError, Sealed, Terms, Unopened},
    threshold::{BlockShares, Bucket, EncryptionKey, EpochKeys, SeatMap, SecretShares, Slot, beacon, order},
};
use cascade_execution::{OpenFailure, OpenedItem};
use cascade_mempool::reveal::{Effect, FinalBlock, Holder, Opening, RevealMessage, Reveals};
use cascade_primitives::{
    BlockHash, BlsSignature, Certificate, ChainId, ChainParams, Committee, Epoch, Fork, Height, Member, MemberIndex,
    Network, NodeId, RecoveredEnvelope, RecoveredTransaction, Seats, SignerSet, SigningContext, ThresholdKeys,
    TimestampMs, View, VoteTarget, committee_root, envelope::SALT_BYTES,
};
use rand::{RngCore as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;

/// The epoch of all blocks.
pub const EPOCH: Epoch = Epoch(1);

/// What signatures and labels are bound to.
#[must_use]
pub const fn context(chain_id: ChainId) -> SigningContext {
    SigningContext { chain_id, genesis_hash: B256::repeat_byte(7), fork: Fork(0) }
}

/// Sequencers with one seat each.
///
/// # Panics
/// If there are none.
#[must_use]
pub fn committee(nodes: usize) -> Arc<Committee> {
    let member = |i: usize| Member {
        node: NodeId([i as u8 + 1; 32]),
        bls_key: voting(i).public_key(),
        address: Address::ZERO,
        seats: Seats(1),
        lead_weight: 1,
    };
    Arc::new(Committee::new(EPOCH, (0..nodes).map(member).collect(), ThresholdKeys::default()).expect("a committee"))
}

fn voting(i: usize) -> BlsSecretKey {
    BlsSecretKey::derive(&[i as u8 + 1; 32]).expect("32 bytes are enough")
}

/// The sequencers' keys.
#[derive(Clone, Debug)]
pub struct Keys {
    committee: Arc<Committee>,
    keys: Arc<EpochKeys>,
    secrets: Arc<Vec<SecretShares>>,
}

impl Keys {
    /// Makes them, by the sequencers' own key generation.
    ///
    /// # Panics
    /// Never: all are honest in this.
    #[must_use]
    pub fn generate(nodes: usize, seed: u64) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let committee = committee(nodes);
        let context = context(ChainParams::of(Network::Mainnet).chain_id);
        let recipients: Vec<_> = (0..nodes).map(|_| RecipientSecret::generate(EPOCH, &mut rng)).collect();
        let seats = SeatMap::of(&committee).expect("few seats");
        let signers = committee.members().iter().map(|member| member.bls_key).collect();
        let open = recipients.iter().map(RecipientSecret::public_key).collect();
        let parameters = Parameters::new(context, EPOCH, (seats.clone(), signers), (seats, open)).expect("all there");
        let mut generation = KeyGeneration::new(parameters);
        let dealer = |i: usize| MemberIndex(u16::try_from(i).expect("few members"));
        for i in 0..nodes {
            if generation.keys().is_none() {
                let dealing = dealing::deal(generation.parameters(), dealer(i), &voting(i), &mut rng);
                generation.apply(&dealing, &BlsScheme::default(), &mut rng).expect("an honest dealing");
            }
        }
        let secrets = recipients.iter().enumerate();
        let secrets = secrets.map(|(i, secret)| generation.shares(dealer(i), secret).expect("all are recipients"));
        let secrets = Arc::new(secrets.collect());
        Self { committee, keys: Arc::new(generation.keys().expect("a quorum has dealt").clone()), secrets }
    }
}

/// Who seals and opens.
#[derive(Debug)]
pub enum Cipher {
    /// The sequencers' real keys and ciphertexts.
    Real(Box<Sequencers>),
    /// Neither.
    Assumed(Box<Assumed>),
}

/// Sequencers that hold shares.
#[derive(Debug)]
pub struct Sequencers {
    keys: Keys,
    /// The core of the first sequencer, which is honest.
    core: Reveals,
    rng: ChaCha20Rng,
    params: ChainParams,
    /// Beacons so far.
    beacons: BTreeMap<Height, B256>,
}

/// What stands in for keys.
#[derive(Debug)]
pub struct Assumed {
    /// Stands in for what a check finds.
    sealed: Sealed,
    inside: HashMap<B256, RecoveredTransaction>,
    /// Beacons that are given; others are drawn.
    beacons: BTreeMap<Height, B256>,
    rng: ChaCha20Rng,
    chain: ChainId,
}

impl Cipher {
    /// The real thing, for blocks from height 1 on.
    #[must_use]
    pub fn real(keys: Keys, params: ChainParams, seed: u64) -> Self {
        let first = keys.committee.members()[0].node;
        let mut core = Reveals::new(context(params.chain_id), first, 500, Height(1));
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let secret = Some(Arc::new(keys.secrets[0].clone()));
        let holder = Holder::new(Arc::clone(&keys.keys), Arc::clone(&keys.committee), secret);
        core.on_keys(holder, &mut rng);
        Self::Real(Box::new(Sequencers { keys, core, rng, params, beacons: BTreeMap::new() }))
    }

    /// What stands in for it. Beacons that are not given come from the seed.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn assumed(params: &ChainParams, seed: u64, beacons: BTreeMap<Height, B256>) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let key = EncryptionKey::from_bytes(&G1Affine::generator().to_compressed()).expect("a point");
        let terms = terms(0, 21_000, 1, Height(1));
        let payer = SecretKey::from_byte_array([1; 32]).expect("a key");
        let context = context(params.chain_id);
        let sample = envelope::seal(&key, &context, &terms, b"", &payer, &mut rng).expect("it is small");
        let sealed = envelope::check(&key, &context, &[&sample], &mut rng).remove(0).expect("just sealed");
        Self::Assumed(Box::new(Assumed { sealed, inside: HashMap::new(), beacons, rng, chain: params.chain_id }))
    }

    /// The beacons of the blocks so far.
    #[must_use]
    pub const fn beacons(&self) -> &BTreeMap<Height, B256> {
        match self {
            Self::Real(real) => &real.beacons,
            Self::Assumed(assumed) => &assumed.beacons,
        }
    }

    /// An envelope around a transaction.
    ///
    /// # Panics
    /// If the transaction is larger than an envelope can hold.
    pub fn seal(&mut self, terms: &Terms, transaction: &RecoveredTransaction, payer: &SecretKey) -> RecoveredEnvelope {
        match self {
            Self::Real(real) => {
                let key = real.keys.keys.decryption.encryption_key();
                let context = context(real.params.chain_id);
                envelope::seal(&key, &context, terms, transaction.raw(), payer, &mut real.rng).expect("it is small")
            }
            Self::Assumed(assumed) => assumed.wrap(terms, transaction, payer),
        }
    }

    /// Checks an envelope as admission does.
    ///
    /// # Errors
    /// As [`envelope::check`].
    pub fn check(&mut self, envelope: &RecoveredEnvelope) -> Result<Sealed, EnvelopeError> {
        self.check_on(&context(envelope.chain_id), envelope)
    }

    /// The same on a history of its own.
    ///
    /// # Errors
    /// As [`envelope::check`].
    pub fn check_on(
        &mut self,
        context: &SigningContext,
        envelope: &RecoveredEnvelope,
    ) -> Result<Sealed, EnvelopeError> {
        match self {
            Self::Real(real) => {
                let key = real.keys.keys.decryption.encryption_key();
                envelope::check(&key, context, &[envelope], &mut real.rng).remove(0)
            }
            Self::Assumed(assumed) => Ok(assumed.sealed.clone()),
        }
    }

    /// A block is final: its beacon, and its items in the order in which they run. `silent` sequencers give no shares.
    ///
    /// # Panics
    /// If too few give theirs.
    pub fn open(
        &mut self,
        height: Height,
        items: &[(RecoveredEnvelope, Sealed)],
        silent: &[MemberIndex],
    ) -> (B256, Vec<OpenedItem>) {
        let (beacon, opened) = match self {
            Self::Real(real) => real.open(height, items, silent),
            Self::Assumed(assumed) => assumed.open(height, items),
        };
        let slots: Vec<Slot> = items.iter().map(|(e, _)| Slot { payer: e.payer(), nonce: e.nonce }).collect();
        let mut places: Vec<Option<OpenedItem>> = items
            .iter()
            .zip(opened)
            .map(|((e, _), opened)| Some(OpenedItem::Envelope { envelope: Box::new(e.clone()), opened }))
            .collect();
        (beacon, order(&beacon, 0, &slots).into_iter().filter_map(|place| places[place].take()).collect())
    }
}

type Inside = Vec<Result<RecoveredTransaction, OpenFailure>>;

impl Sequencers {
    fn open(
        &mut self,
        height: Height,
        items: &[(RecoveredEnvelope, Sealed)],
        silent: &[MemberIndex],
    ) -> (B256, Inside) {
        let opening = self.reveal(height, items, silent);
        self.beacons.insert(height, opening.beacon);
        let opened = items.iter().zip(&opening.values).map(|((e, sealed), value)| {
            envelope::open(e, sealed, value, &self.params).map_err(|unopened| match unopened {
                Unopened::Undecryptable => OpenFailure::Undecryptable,
                Unopened::Commitment => OpenFailure::Commitment,
                Unopened::Transaction => OpenFailure::NotATransaction,
                Unopened::GasLimit => OpenFailure::GasLimit,
            })
        });
        (opening.beacon, opened.collect())
    }

    fn reveal(&mut self, height: Height, items: &[(RecoveredEnvelope, Sealed)], silent: &[MemberIndex]) -> Opening {
        let raw: Vec<u8> = items.iter().flat_map(|(e, _)| e.hash()).chain(height.0.to_be_bytes()).collect();
        let hash = BlockHash(keccak256(raw).0);
        let bases: Vec<G1Affine> = items.iter().map(|(_, sealed)| *sealed.base()).collect();
        let certificate = Arc::new(Certificate {
            target: VoteTarget::commit(EPOCH, View(height.0), hash),
            signers: SignerSet::new(self.keys.committee.members().len()),
            signature: BlsSignature([0; 96]),
        });
        let block = FinalBlock {
            height,
            epoch: EPOCH,
            committee_root: committee_root(&self.keys.committee.members_root(), &self.keys.keys.commitment()),
            hash,
            certificate: Arc::clone(&certificate),
            bases: Some(bases.clone()),
            reveals: Vec::new(),
        };
        let mut effects = self.core.on_final(TimestampMs(height.0), block, &mut self.rng);
        let message = beacon::message(&context(self.params.chain_id), EPOCH, height, hash);
        for (i, member) in self.keys.committee.members().iter().enumerate().skip(1) {
            if silent.iter().any(|member| member.index() == i) {
                continue;
            }
            let base = beacon::base(&message);
            let shares = BlockShares::create((Fork(0), height, hash), &self.keys.secrets[i], &base, &bases);
            let message = RevealMessage::Shares(Arc::new(shares), Arc::clone(&certificate));
            effects.extend(self.core.on_message(member.node, message, &mut self.rng));
        }
        let opening = effects.into_iter().find_map(|effect| match effect {
            Effect::Revealed(at, opening) if at == height => opening,
            _ => None,
        });
        opening.expect("a quorum gives its shares")
    }
}

impl Assumed {
    /// The envelope as it is, but for its ciphertext and signature, which nobody looks at here.
    fn wrap(&mut self, terms: &Terms, transaction: &RecoveredTransaction, payer: &SecretKey) -> RecoveredEnvelope {
        let mut component = [0; 48];
        self.rng.fill_bytes(&mut component);
        let bucket = Bucket::of_payload(transaction.raw().len() + SALT_BYTES).expect("it is small");
        let sealed = cascade_primitives::Envelope {
            chain_id: self.chain,
            fork: Fork(0),
            epoch: terms.epoch,
            nonce: terms.nonce,
            gas_limit: terms.gas_limit,
            max_fee_per_gas: terms.max_fee_per_gas,
            max_priority_fee_per_gas: terms.max_priority_fee_per_gas,
            valid_until: terms.valid_until,
            bucket: bucket.number(),
            commitment: B256::ZERO,
            ciphertext: Bytes::copy_from_slice(&component).0,
            signature: cascade_primitives::EcdsaSignature([0; 65]),
        };
        let digest = keccak256(component);
        let address = cascade_crypto::ecdsa::public_address(payer);
        let wrapped = RecoveredEnvelope::new(sealed, Bytes::copy_from_slice(&component).0, digest, address);
        self.inside.insert(wrapped.hash(), transaction.clone());
        wrapped
    }

    fn open(&mut self, height: Height, items: &[(RecoveredEnvelope, Sealed)]) -> (B256, Inside) {
        let mut drawn = B256::ZERO;
        self.rng.fill_bytes(drawn.as_mut_slice());
        let beacon = *self.beacons.entry(height).or_insert(drawn);
        let inside = |e: &RecoveredEnvelope| self.inside.remove(&e.hash()).ok_or(OpenFailure::Undecryptable);
        (beacon, items.iter().map(|(e, _)| e).map(inside).collect())
    }
}

/// The terms of an envelope.
#[must_use]
pub const fn terms(nonce: u64, gas_limit: u64, tip: u64, valid_until: Height) -> Terms {
    Terms {
        epoch: EPOCH,
        nonce,
        gas_limit,
        max_fee_per_gas: super::chain::FEE_CAP,
        max_priority_fee_per_gas: tip,
        valid_until,
    }
}
