//! The state machine that is fed with dealings in the order of the log.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, OnceLock},
};

use cascade_primitives::{BlsPublicKey, Epoch, MemberIndex, SigningContext};
use rand::CryptoRng;
use rayon::prelude::*;
use thiserror::Error;
use zeroize::Zeroizing;

use super::{
    dealing::{self, Dealing, DealingError, KEYS, VerifiedDealing},
    recipient::RecipientSecret,
};
use crate::{
    bugs::{NoBugs, SealedBug, SealedBugs},
    curve::{G1, G1Affine, G1Table, G2, G2Affine, Scalar},
    scheme::VoteScheme,
    threshold::{EpochKeys, KeySet, SeatMap, SecretShares},
};

/// Everything that a key generation is about; the same at every node.
#[derive(Clone)]
pub struct Parameters {
    /// Chain, genesis and fork.
    pub context: SigningContext,
    /// The epoch whose keys are made.
    pub epoch: Epoch,
    /// The seats of the current committee.
    pub dealers: SeatMap,
    /// The voting keys of the current committee, in its order.
    pub dealer_keys: Vec<BlsPublicKey>,
    /// The seats of the next committee.
    pub recipients: SeatMap,
    /// The encryption keys of the next committee, in its order; each verified.
    pub recipient_keys: Vec<G1Affine>,
    /// Shares that open what is sealed to the keys.
    quorum: u32,
    tables: Arc<OnceLock<Vec<G1Table>>>,
}

impl fmt::Debug for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dealers, recipients) = (self.dealers.members(), self.recipients.members());
        write!(f, "Parameters(epoch {}, {dealers} dealers, {recipients} recipients)", self.epoch)
    }
}

/// Why there can be no key generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ParametersError {
    /// Not one voting key for each dealer.
    #[error("{found} voting keys for {expected} dealers")]
    DealerKeys {
        /// Keys found.
        found: usize,
        /// Members of the current committee.
        expected: usize,
    },
    /// Not one encryption key for each recipient.
    #[error("{found} encryption keys for {expected} recipients")]
    RecipientKeys {
        /// Keys found.
        found: usize,
        /// Members of the next committee.
        expected: usize,
    },
}

impl Parameters {
    /// The parameters of one epoch's key generation. Recipients are those of the next committee whose encryption keys
    /// the log holds: a candidate without one is not of that committee.
    ///
    /// # Errors
    /// [`ParametersError`] if keys and members differ in number.
    pub fn new(
        context: SigningContext,
        epoch: Epoch,
        (dealers, dealer_keys): (SeatMap, Vec<BlsPublicKey>),
        (recipients, recipient_keys): (SeatMap, Vec<G1Affine>),
    ) -> Result<Self, ParametersError> {
        Self::with_bugs(&NoBugs, context, epoch, (dealers, dealer_keys), (recipients, recipient_keys))
    }

    /// [`Parameters::new`], with planted bugs if there are any.
    ///
    /// # Errors
    /// As [`Parameters::new`].
    pub fn with_bugs<B: SealedBugs>(
        bugs: &B,
        context: SigningContext,
        epoch: Epoch,
        (dealers, dealer_keys): (SeatMap, Vec<BlsPublicKey>),
        (recipients, recipient_keys): (SeatMap, Vec<G1Affine>),
    ) -> Result<Self, ParametersError> {
        let (found, expected) = (dealer_keys.len(), dealers.members());
        if found != expected {
            return Err(ParametersError::DealerKeys { found, expected });
        }
        let (found, expected) = (recipient_keys.len(), recipients.members());
        if found != expected {
            return Err(ParametersError::RecipientKeys { found, expected });
        }
        let quorum = recipients.quorum() - u32::from(bugs.sealed(SealedBug::ThresholdTooLow));
        let tables = Arc::default();
        Ok(Self { context, epoch, dealers, dealer_keys, recipients, recipient_keys, quorum, tables })
    }

    /// Shares that open what is sealed to the keys: q of the recipients' seats.
    pub(super) const fn quorum(&self) -> usize {
        self.quorum as usize
    }

    /// Tables of the recipients' keys; made once, when the first dealing is checked.
    pub(super) fn tables(&self) -> &[G1Table] {
        self.tables.get_or_init(|| self.recipient_keys.par_iter().map(G1Table::new).collect())
    }
}

/// How far a key generation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Seats of the dealers that have dealt.
    pub dealt: u32,
    /// Seats of dealers that are needed, q of the current committee.
    pub needed: u32,
}

impl Progress {
    /// Whether the keys are there.
    #[must_use]
    pub const fn complete(&self) -> bool {
        self.dealt >= self.needed
    }
}

/// Why a dealing in the log changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It is invalid.
    #[error(transparent)]
    Invalid(#[from] DealingError),
    /// Its dealer has dealt before; the first dealing that it signed counts, right or wrong.
    #[error("member {0} has dealt already")]
    Again(MemberIndex),
    /// The keys are made.
    #[error("the keys of the epoch are complete")]
    Complete,
    /// It was verified against the parameters of another key generation.
    #[error("it was verified for another key generation")]
    Elsewhere,
}

/// Key generation for one epoch: a pure function of the dealings in the log.
///
/// Items that do not count are refused, so that every node that reads the same log has the same keys, whatever else the
/// log holds. A dealer whose signed dealing is wrong is out: checking a dealing costs a fraction of a second, so each
/// dealer gets one.
#[derive(Clone, Debug)]
pub struct KeyGeneration {
    parameters: Parameters,
    dealings: Vec<VerifiedDealing>,
    liars: BTreeSet<MemberIndex>,
    keys: Option<EpochKeys>,
}

impl KeyGeneration {
    /// A key generation that has seen no dealing.
    #[must_use]
    pub const fn new(parameters: Parameters) -> Self {
        Self { parameters, dealings: Vec::new(), liars: BTreeSet::new(), keys: None }
    }

    /// What it is about.
    #[must_use]
    pub const fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Checks a dealing without changing anything: when it is heard of, before the log has it.
    ///
    /// # Errors
    /// [`DealingError`].
    pub fn verify(
        &self,
        dealing: &Dealing,
        scheme: &dyn VoteScheme,
        rng: &mut dyn CryptoRng,
    ) -> Result<VerifiedDealing, DealingError> {
        self.verify_with(&NoBugs, dealing, scheme, rng)
    }

    /// [`KeyGeneration::verify`], with planted bugs if there are any.
    ///
    /// # Errors
    /// [`DealingError`].
    pub fn verify_with<B: SealedBugs>(
        &self,
        bugs: &B,
        dealing: &Dealing,
        scheme: &dyn VoteScheme,
        rng: &mut dyn CryptoRng,
    ) -> Result<VerifiedDealing, DealingError> {
        dealing::verify_with(bugs, &self.parameters, dealing, scheme, rng)
    }

    /// Takes a dealing from the log, in the log's order.
    ///
    /// # Errors
    /// [`Refusal`]: the dealing counts for nothing, at every node.
    pub fn apply(
        &mut self,
        dealing: &Dealing,
        scheme: &dyn VoteScheme,
        rng: &mut dyn CryptoRng,
    ) -> Result<Progress, Refusal> {
        // The cheap reasons first: a log full of repeats must not cost a verification each.
        self.check_new(dealing.dealer)?;
        let verdict = self.verify(dealing, scheme, rng);
        self.apply_verdict(dealing.dealer, verdict)
    }

    /// Takes a dealing from the log whose dealer and verdict, from [`KeyGeneration::verify`], are known.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn apply_verdict(
        &mut self,
        dealer: MemberIndex,
        verdict: Result<VerifiedDealing, DealingError>,
    ) -> Result<Progress, Refusal> {
        self.check_new(dealer)?;
        let dealing = verdict.inspect_err(|error| {
            if error.is_signed() {
                self.liars.insert(dealer);
            }
        })?;
        if dealing.dealer != dealer
            || dealer.index() >= self.parameters.dealers.members()
            || dealing.context != super::transcript::context(&self.parameters, dealer)
        {
            return Err(Refusal::Elsewhere);
        }
        self.dealings.push(dealing);
        let progress = self.progress();
        if progress.complete() {
            self.keys = self.sum();
        }
        Ok(progress)
    }

    fn check_new(&self, dealer: MemberIndex) -> Result<(), Refusal> {
        if self.keys.is_some() {
            return Err(Refusal::Complete);
        }
        if self.liars.contains(&dealer) || self.dealings.iter().any(|d| d.dealer == dealer) {
            return Err(Refusal::Again(dealer));
        }
        Ok(())
    }

    /// The public keys that the dealings add up to. None if a sum is infinity, which takes a dealer that knows the sum
    /// of the others' secrets; the next dealing then mends it.
    fn sum(&self) -> Option<EpochKeys> {
        let set = |key: usize| {
            let public = self.dealings.iter().fold(G1::infinity(), |sum, d| sum.plus(&d.public[key])).to_affine();
            let quorum = self.parameters.quorum();
            let coefficients: Vec<G2> = (0..quorum)
                .map(|k| self.dealings.iter().fold(G2::infinity(), |sum, d| sum.plus(&d.coefficients[key][k])))
                .collect();
            let coefficients: Vec<G2Affine> = G2::batch_to_affine(&coefficients);
            KeySet::new(public, coefficients, self.parameters.recipients.total())
        };
        Some(EpochKeys { epoch: self.parameters.epoch, decryption: set(0)?, beacon: set(1)? })
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let dealt = self.dealings.iter().map(|d| self.parameters.dealers.seats(d.dealer).len() as u32).sum();
        Progress { dealt, needed: self.parameters.dealers.quorum() }
    }

    /// Who has dealt, in the order of the log.
    pub fn dealers(&self) -> impl Iterator<Item = MemberIndex> + '_ {
        self.dealings.iter().map(|d| d.dealer)
    }

    /// Who signed a dealing that is wrong. The dealing in the log proves it.
    pub fn liars(&self) -> impl Iterator<Item = MemberIndex> + '_ {
        self.liars.iter().copied()
    }

    /// The epoch's public keys, once they are complete.
    #[must_use]
    pub const fn keys(&self) -> Option<&EpochKeys> {
        self.keys.as_ref()
    }

    /// This recipient's shares, once the keys are complete.
    ///
    /// None before, for one who is no recipient, or with another secret than that of the announced key.
    #[must_use]
    pub fn shares(&self, member: MemberIndex, secret: &RecipientSecret) -> Option<SecretShares> {
        self.keys.as_ref()?;
        if self.parameters.recipient_keys.get(member.index()) != Some(&secret.public_key()) {
            return None;
        }
        let seats = self.parameters.recipients.seats(member).len();
        let mut sums: Zeroizing<Vec<[Scalar; KEYS]>> = vec![[Scalar::ZERO; KEYS]; seats].into();
        for dealing in &self.dealings {
            for (sum, share) in sums.iter_mut().zip(dealing.open(&self.parameters, member, secret)?.iter()) {
                for (sum, share) in sum.iter_mut().zip(share) {
                    *sum += *share;
                }
            }
        }
        let (decryption, beacon) = sums.iter().map(|[d, b]| (*d, *b)).unzip();
        Some(SecretShares::new(self.parameters.epoch, member, decryption, beacon))
    }
}
