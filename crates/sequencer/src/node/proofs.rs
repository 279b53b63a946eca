//! Checks of sealed items, collected into batches.
//!
//! ```text
//!  submitter ---+                  a batch each LINGER at most,
//!               +--> queue -----> one at a time, on a thread of its own ----> answers
//!  gossip ------+
//! ```
//!
//! The proof of an envelope alone takes three times as long as one of many (`crates/crypto/src/threshold/ciphertext.rs`:
//! one multi-scalar multiplication for all). Envelopes come by ones and twos, so whatever comes within a few milliseconds
//! of the last batch waits for the next one; one that comes after a pause is checked at once.
//!
//! The thread stands back behind all others (nice, where the system has that for threads): under load the shares, the
//! opening and the execution of what is ordered come first, and who submits more waits longer for the answer.
//!
//! A wrong proof in a batch is found by bisection, which costs the others less than checking them alone would.

use std::{
    io,
    sync::{Arc, mpsc as std_mpsc},
    time::Duration,
};

use bytes::Bytes;
use cascade_consensus::Rules;
use cascade_crypto::threshold::EncryptionKey;
use cascade_primitives::RecoveredEnvelope;
use prometheus::IntCounter;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::{
    items::{self, CheckedItem},
    keyring::Keyring,
    pool::SharedPool,
    sealed::payer_account,
};
use crate::rpc::backend::SubmitError;

/// Least time from the start of a batch to that of the next.
const LINGER: Duration = Duration::from_millis(10);
/// Items from which on a batch waits for no more.
const ENOUGH: usize = 256;
/// By how much the thread that checks stands back (nice).
#[cfg(target_os = "linux")]
const NICE: i32 = 10;
/// Requests that wait: what the submitter has under way, and one of the gossip of each kind of peers.
const REQUESTS: usize = 32;

/// One answer for each item, in order.
pub type Checked = Vec<Result<CheckedItem, SubmitError>>;

struct Request {
    items: Vec<Bytes>,
    reply: oneshot::Sender<Checked>,
}

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
    /// Signatures, what can be asked of payers, then ciphertexts.
    fn check(&self, raw: Vec<Bytes>) -> Checked {
        let newest = self.pool.lock().newest();
        let key = |envelope: &RecoveredEnvelope| {
            let key = self.key(envelope)?;
            let starting = || SubmitError::Unavailable("the node is starting".to_owned());
            let (view, in_flight) = newest.as_ref().ok_or_else(starting)?;
            let account = payer_account(view, in_flight, &envelope.payer());
            self.pool.lock().precheck(envelope, &account)?;
            self.proofs.inc();
            Ok(key)
        };
        items::check_all(raw, &self.rules.signing, self.rules.params(), key)
    }

    /// Whether an item's signatures and proof hold, as far as this node can tell, whoever pays.
    fn is_sealed(&self, raw: Bytes) -> bool {
        self.proofs.inc();
        let checked = items::check_all(vec![raw], &self.rules.signing, self.rules.params(), |e| self.key(e));
        !checked.iter().any(|checked| matches!(checked, Err(SubmitError::Item(_))))
    }

    fn key(&self, envelope: &RecoveredEnvelope) -> Result<EncryptionKey, SubmitError> {
        let holder = self.keyring.get(envelope.epoch).ok_or(SubmitError::NoKey { epoch: envelope.epoch.0 })?;
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
    /// Starts the task that collects batches, and the thread that checks them.
    ///
    /// # Panics
    /// If the system has no thread left, as for the actors.
    #[must_use]
    pub fn start(checker: Checker) -> Self {
        let (queue, requests) = mpsc::channel(REQUESTS);
        let by = checker.clone();
        let thread = low_priority_thread(move |raw| by.check(raw)).expect("the system has a thread left");
        tokio::spawn(collect(requests, LINGER, thread));
        Self { queue, checker }
    }

    /// Checks items. None if the node stops.
    pub async fn check(&self, items: Vec<Bytes>) -> Option<Checked> {
        if items.is_empty() {
            return Some(Vec::new());
        }
        let (reply, answer) = oneshot::channel();
        self.queue.send(Request { items, reply }).await.ok()?;
        answer.await.ok()
    }

    /// Whether an item's signatures and proof hold, as far as this node can tell, whoever pays. None if the node stops.
    pub async fn is_sealed(&self, raw: Bytes) -> Option<bool> {
        let checker = self.checker.clone();
        tokio::task::spawn_blocking(move || checker.is_sealed(raw)).await.ok()
    }
}

/// A batch for the thread that checks, and where the answers go.
type Work = (Vec<Bytes>, oneshot::Sender<Checked>);

/// A thread for checks that leaves the processors to everything else: what is ordered already comes first.
fn low_priority_thread(check: impl Fn(Vec<Bytes>) -> Checked + Send + 'static) -> io::Result<std_mpsc::Sender<Work>> {
    let (sender, work) = std_mpsc::channel::<Work>();
    std::thread::Builder::new().name("proofs".to_owned()).spawn(move || {
        // Where threads have no priority of their own, they are all the same.
        #[cfg(target_os = "linux")]
        let _ = rustix::process::setpriority_process(None, NICE);
        for (raw, reply) in work {
            // Who asked may be gone.
            let _ = reply.send(check(raw));
        }
    })?;
    Ok(sender)
}

async fn collect(mut requests: mpsc::Receiver<Request>, linger: Duration, thread: std_mpsc::Sender<Work>) {
    let mut next_at = Instant::now();
    while let Some(first) = requests.recv().await {
        let mut count = first.items.len();
        let mut batch = vec![first];
        let due = sleep_until(next_at);
        tokio::pin!(due);
        while count < ENOUGH {
            tokio::select! {
                biased;
                Some(request) = requests.recv() => {
                    count += request.items.len();
                    batch.push(request);
                }
                () = &mut due => break,
            }
        }
        next_at = Instant::now() + linger;
        let mut replies = Vec::with_capacity(batch.len());
        let mut raw = Vec::with_capacity(count);
        for Request { items, reply } in batch {
            replies.push((items.len(), reply));
            raw.extend(items);
        }
        let (reply, answers) = oneshot::channel();
        if thread.send((raw, reply)).is_err() {
            return;
        }
        let Ok(answers) = answers.await else { return };
        let mut answers = answers.into_iter();
        for (length, reply) in replies {
            // Who asked may be gone.
            let _ = reply.send(answers.by_ref().take(length).collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    type Batches = Arc<Mutex<Vec<usize>>>;

    /// A collector whose check notes how long its batches are and refuses each item by its content.
    fn collector(linger: Duration) -> (mpsc::Sender<Request>, Batches) {
        let (queue, requests) = mpsc::channel(REQUESTS);
        let batches = Batches::default();
        let seen = Arc::clone(&batches);
        let check = move |raw: Vec<Bytes>| {
            let refuse = |item: &Bytes| Err(SubmitError::Unavailable(String::from_utf8_lossy(item).into_owned()));
            seen.lock().push(raw.len());
            raw.iter().map(refuse).collect()
        };
        tokio::spawn(collect(requests, linger, low_priority_thread(check).unwrap()));
        (queue, batches)
    }

    async fn ask(queue: &mpsc::Sender<Request>, items: &[&'static str]) -> oneshot::Receiver<Checked> {
        let (reply, answer) = oneshot::channel();
        let items = items.iter().map(|item| Bytes::from_static(item.as_bytes())).collect();
        queue.send(Request { items, reply }).await.unwrap();
        answer
    }

    async fn are_of(answer: oneshot::Receiver<Checked>, items: &[&str]) {
        let texts: Vec<_> = answer.await.unwrap().into_iter().map(|refused| refused.unwrap_err().to_string()).collect();
        assert_eq!(texts.len(), items.len());
        assert!(texts.iter().zip(items).all(|(text, item)| text.contains(item)), "{texts:?}");
    }

    #[tokio::test]
    async fn what_comes_soon_after_a_batch_waits_for_the_next_and_all_get_their_own_answers() {
        // So long that only enough items end it.
        let (queue, batches) = collector(Duration::from_secs(3600));
        are_of(ask(&queue, &["first"]).await, &["first"]).await;
        let (one, gone, two) =
            (ask(&queue, &["b", "c"]).await, ask(&queue, &["who asks is gone"]).await, ask(&queue, &["d"]).await);
        drop(gone);
        let enough = vec!["e"; ENOUGH];
        let last = ask(&queue, &enough).await;
        are_of(one, &["b", "c"]).await;
        are_of(two, &["d"]).await;
        are_of(last, &enough).await;
        assert_eq!(*batches.lock(), [1, 4 + ENOUGH], "the first after a pause waits for nobody");
    }

    #[tokio::test]
    async fn a_batch_does_not_wait_longer_than_it_must() {
        let (queue, batches) = collector(Duration::from_millis(1));
        for _ in 0..3 {
            are_of(ask(&queue, &["a"]).await, &["a"]).await;
        }
        assert_eq!(*batches.lock(), [1, 1, 1]);
    }
}
