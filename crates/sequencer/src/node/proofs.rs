//! Checks of submitted items, collected into batches.
//!
//! ```text
//!  members' gossip --+    lines of requests            lines of payers
//!                    +--> in turn ---> signatures ---> in turn ---> proofs ---> answers
//!  submitter --------+                 |         |                  |    a round each LINGER at most
//!                                      |         asked of payers    |
//!                                      +---- a thread of its own ---+
//! ```
//!
//! The proof of an envelope alone takes five times as long as one of many (`crates/crypto/src/threshold/ciphertext.rs`:
//! one multi-scalar multiplication for all). Envelopes come by ones and twos, so whatever comes within a few milliseconds
//! of the last round waits for the next one; what comes after a pause is checked at once.
//!
//! Proofs, and the signatures of rounds that have many, are checked on a thread that stands back behind all others (nice,
//! where the system has that for threads): under load the shares, the opening and the execution of what is ordered come first, and who submits more waits
//! longer for the answer. It takes no lock and starts no thread, so nobody of ordinary priority ever waits for it. What is
//! asked of payers needs the pool's lock, so that is done between, by who hands the thread its work.
//!
//! **Who waits for whom.** A round has so many signatures and so many proofs at the most. Members' gossip goes first, with a
//! quarter of the round left to others; among either, requests have their signatures and payers their proofs checked in
//! turn. Whose proof is false is known, since a payer signs the ciphertext: what else it has in the batch and in the lines is
//! refused unseen, and for a while whatever comes of it, at the price of its signature. So one payer's garbage takes the
//! place of what is right in one batch, however much of it there is, and makes that one cost about three times as much
//! (docs/known-limits.md).

use std::{
    io,
    sync::{Arc, mpsc as std_mpsc},
    time::Duration,
};

use bytes::Bytes;
use cascade_consensus::Rules;
use cascade_crypto::{
    ecdsa::{self, ItemError},
    envelope::{self, EnvelopeError, Sealed},
    threshold::EncryptionKey,
};
use cascade_mempool::{AccountState, Source};
use cascade_primitives::{ChainParams, RecoveredEnvelope, RecoveredItem, SigningContext};
use prometheus::IntCounter;
use tokio::sync::{mpsc, oneshot};

use super::{
    desk::{self, Desk},
    items::CheckedItem,
    keyring::Keyring,
    pool::SharedPool,
    sealed::payer_account,
    stop::Stop,
};
use crate::rpc::backend::SubmitError;

/// Least time from the start of a round to that of the next.
const LINGER: Duration = Duration::from_millis(10);
/// By how much the thread that checks stands back (nice).
#[cfg(target_os = "linux")]
const NICE: i32 = 10;
/// Requests that wait to be put into line. Those in line are bounded by who asks ([`super::submitter`], [`super::gossip`]).
const REQUESTS: usize = 1024;

/// One answer for each item, in order.
pub type Checked = Vec<Result<CheckedItem, SubmitError>>;

pub(super) struct Request {
    pub(super) items: Vec<Bytes>,
    pub(super) source: Source,
    pub(super) reply: oneshot::Sender<Checked>,
}

/// What is asked of a payer: the key that its envelope is sealed to, or why its proof is not worth a look.
pub(super) type Asked = (RecoveredEnvelope, Result<EncryptionKey, SubmitError>);

/// What a check asks.
#[derive(Clone)]
pub struct Checker {
    /// The pool, which says of payers what needs no proof.
    pub pool: SharedPool,
    /// The chain.
    pub rules: Arc<Rules>,
    /// Keys that envelopes are sealed to.
    pub keyring: Keyring,
    /// Counts proofs.
    pub proofs: IntCounter,
}

impl Checker {
    /// What can be asked of payers. The pool is locked for what only it knows, once for all.
    fn ask(&self, envelopes: Vec<RecoveredEnvelope>) -> Vec<Asked> {
        let newest = self.pool.lock().newest();
        let account = |envelope: &RecoveredEnvelope| {
            let (view, in_flight) = newest.as_ref()?;
            Some(payer_account(view, in_flight, &envelope.payer()))
        };
        let accounts: Vec<_> = envelopes.iter().map(account).collect();
        let pool = self.pool.lock();
        let key = |envelope: &RecoveredEnvelope, account: Option<AccountState>| {
            let key = self.key(envelope)?;
            let account = account.ok_or_else(|| SubmitError::Unavailable("the node is starting".to_owned()))?;
            pool.precheck(envelope, &account)?;
            Ok(key)
        };
        let asked = envelopes.into_iter().zip(accounts);
        asked
            .map(|(envelope, account)| {
                let key = key(&envelope, account);
                (envelope, key)
            })
            .collect()
    }

    /// Whether an item's signatures and proof hold, as far as this node can tell, whoever pays.
    fn is_sealed(&self, raw: Bytes) -> bool {
        self.proofs.inc();
        match ecdsa::recover_item(raw, &self.rules.signing, self.rules.params()) {
            Ok(RecoveredItem::Envelope(envelope)) => match self.key(&envelope) {
                Ok(key) => envelope::check_every(&key, &self.rules.signing, &[&envelope], &mut rand::rng()).is_ok(),
                Err(_) => true,
            },
            Ok(RecoveredItem::Deposit(_)) => true,
            Err(_) => false,
        }
    }

    fn key(&self, envelope: &RecoveredEnvelope) -> Result<EncryptionKey, SubmitError> {
        let holder = self.keyring.agreed(envelope.epoch).ok_or(SubmitError::NoKey { epoch: envelope.epoch.0 })?;
        Ok(holder.keys.decryption.encryption_key())
    }
}

/// Where items are checked. Cheap to clone.
#[derive(Clone)]
pub struct Proofs {
    queue: mpsc::Sender<Request>,
    checker: Checker,
}

impl Proofs {
    /// Starts the task that hands out turns, and the thread that checks. If that panics, the node stops.
    ///
    /// # Panics
    /// If the system has no thread left, as for the actors.
    #[must_use]
    pub fn start(checker: Checker, stop: Stop) -> Self {
        let (queue, requests) = mpsc::channel(REQUESTS);
        let crypto = Arc::new(Crypto { context: checker.rules.signing, params: checker.rules.params().clone() });
        let thread = low_priority_thread(Arc::clone(&crypto)).expect("the system has a thread left");
        let (by, proofs) = (checker.clone(), checker.proofs.clone());
        let desk = Desk::new(crypto, thread, proofs, Arc::new(move |envelopes| by.ask(envelopes)));
        tokio::spawn(desk::run(requests, LINGER, desk, stop));
        Self { queue, checker }
    }

    /// Checks items. None if the node stops.
    pub async fn check(&self, items: Vec<Bytes>, source: Source) -> Option<Checked> {
        if items.is_empty() {
            return Some(Vec::new());
        }
        let (reply, answer) = oneshot::channel();
        self.queue.send(Request { items, source, reply }).await.ok()?;
        answer.await.ok()
    }

    /// Whether an item's signatures and proof hold, as far as this node can tell, whoever pays. None if the node stops.
    pub async fn is_sealed(&self, raw: Bytes) -> Option<bool> {
        let checker = self.checker.clone();
        tokio::task::spawn_blocking(move || checker.is_sealed(raw)).await.ok()
    }
}

pub(super) type Recovered = Vec<Result<RecoveredItem, ItemError>>;
pub(super) type Proved = Vec<Result<Sealed, EnvelopeError>>;

/// What the thread does.
pub(super) enum Work {
    Recover(Vec<Bytes>, oneshot::Sender<Recovered>),
    /// Envelopes sealed to one key, which come back with the answers.
    Prove(EncryptionKey, Vec<RecoveredEnvelope>, oneshot::Sender<(Vec<RecoveredEnvelope>, Proved)>),
}

/// What the thread needs.
pub(super) struct Crypto {
    pub(super) context: SigningContext,
    pub(super) params: ChainParams,
}

impl Crypto {
    /// One after the other: other threads' time is what this one must not take.
    pub(super) fn recover(&self, raw: Vec<Bytes>) -> Recovered {
        raw.into_iter().map(|raw| ecdsa::recover_item(raw, &self.context, &self.params)).collect()
    }

    fn prove(&self, key: &EncryptionKey, envelopes: &[RecoveredEnvelope]) -> Proved {
        let envelopes: Vec<&RecoveredEnvelope> = envelopes.iter().collect();
        envelope::check_by_payer(key, &self.context, &envelopes, &mut rand::rng())
    }
}

/// A thread for checks that leaves the processors to everything else: what is ordered already comes first.
pub(super) fn low_priority_thread(crypto: Arc<Crypto>) -> io::Result<std_mpsc::Sender<Work>> {
    let (sender, work) = std_mpsc::channel::<Work>();
    std::thread::Builder::new().name("proofs".to_owned()).spawn(move || {
        // Where threads have no priority of their own, they are all the same.
        #[cfg(target_os = "linux")]
        let _ = rustix::process::setpriority_process(None, NICE);
        for work in work {
            // Who asked may be gone.
            match work {
                Work::Recover(raw, reply) => drop(reply.send(crypto.recover(raw))),
                Work::Prove(key, envelopes, reply) => {
                    let proved = crypto.prove(&key, &envelopes);
                    drop(reply.send((envelopes, proved)));
                }
            }
        }
    })?;
    Ok(sender)
}
