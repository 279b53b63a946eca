//! What users submit, on its way to the pool: bounded, and collected into batches.
//!
//! ```text
//!  RPC connections --> door (opaque payloads) --> queue: submissions and bytes bounded --> one task --> Admitter
//!                        |                          |                                     in batches
//!                        +--> "txpool is full"      +--> "the node is busy"
//! ```
//!
//! Batches save recovering signers one by one. On an encrypted chain batches are made where proofs are checked, of gossip too,
//! and in turn ([`super::proofs`]); so each submission goes there by itself and gets its answer by itself, whoever else
//! submits. Whoever finds no room is told so at once and has to come again.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use cascade_mempool::{OpaqueError, Source};
use cascade_primitives::TransactionRule;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{
    admission::{Admitter, Submitted},
    door::{self, Door},
    messages::Candidate,
    metrics::Metrics,
};
use crate::rpc::backend::SubmitError;

/// Submissions that may wait for the content actor; what comes on top is told that the node is busy.
const WAITING_SUBMISSIONS: usize = 4096;
/// Bytes of transactions and payloads in them; one submission may be larger.
const WAITING_BYTES: usize = 32 << 20;
/// Transactions that are handed to the content actor at once.
const SUBMISSION_BATCH: usize = 1024;
/// Submissions that are under way at once where they wait for others.
const UNDER_WAY: usize = 4096;

/// A node's door, which its RPC asks and its pool tells.
pub type SharedDoor = Arc<Mutex<Door>>;

struct Submission {
    candidates: Vec<Candidate>,
    reply: oneshot::Sender<Vec<Submitted>>,
    room: Room,
}

/// What a submission takes of the bounds, until it is in the pool, refused or lost.
struct Room {
    door: SharedDoor,
    waiting: Arc<AtomicUsize>,
    bytes: usize,
    work: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.bytes, Ordering::AcqRel);
        if self.work > 0 {
            self.door.lock().entered(self.work);
        }
    }
}

/// Takes submissions of many connections. Cheap to clone.
#[derive(Clone)]
pub struct Submitter {
    queue: mpsc::Sender<Submission>,
    waiting: Arc<AtomicUsize>,
    door: SharedDoor,
    metrics: Arc<Metrics>,
}

impl Submitter {
    /// Starts the task that hands submissions on.
    #[must_use]
    pub fn start(admitter: Admitter, door: SharedDoor, metrics: Arc<Metrics>, rule: TransactionRule) -> Self {
        let (queue, receiver) = mpsc::channel(WAITING_SUBMISSIONS);
        let under_way = if rule == TransactionRule::Encrypted { UNDER_WAY } else { 1 };
        tokio::spawn(hand_on(receiver, admitter, under_way));
        Self { queue, waiting: Arc::default(), door, metrics }
    }

    /// Takes what there is room for. Answers one result for each candidate, in order, or none if the node stops.
    pub async fn submit(&self, candidates: Vec<Candidate>) -> Vec<Submitted> {
        let (mut results, candidates, work) = self.let_in(candidates);
        if !candidates.is_empty() {
            let count = candidates.len();
            let answers = match self.enqueue(candidates, work) {
                Ok(answer) => answer.await.unwrap_or_default(),
                Err(refusal) => {
                    self.metrics.mempool_refused.inc_by(count as u64);
                    std::iter::repeat_with(|| Err(SubmitError::Unavailable(refusal.clone()))).take(count).collect()
                }
            };
            let mut answers = answers.into_iter();
            for place in results.iter_mut().filter(|place| place.is_none()) {
                *place = answers.next();
            }
        }
        results.into_iter().map(|result| result.unwrap_or_else(|| Err(stopping()))).collect()
    }

    /// Asks the door for each payload: the refusals in their places, who was let in, and their work.
    fn let_in(&self, candidates: Vec<Candidate>) -> (Vec<Option<Submitted>>, Vec<Candidate>, usize) {
        let mut results = Vec::with_capacity(candidates.len());
        let (mut taken, mut entering) = (Vec::with_capacity(candidates.len()), 0);
        let mut door = self.door.lock();
        for candidate in candidates {
            if let Candidate::Opaque(payload) = &candidate {
                let work = door::work(1, payload.len());
                if !door.lets_in(work) {
                    results.push(Some(Err(OpaqueError::Full.into())));
                    continue;
                }
                entering += work;
            }
            results.push(None);
            taken.push(candidate);
        }
        drop(door);
        self.metrics.mempool_refused.inc_by((results.len() - taken.len()) as u64);
        (results, taken, entering)
    }

    fn enqueue(&self, candidates: Vec<Candidate>, work: usize) -> Result<oneshot::Receiver<Vec<Submitted>>, String> {
        let bytes = candidates.iter().map(Candidate::bytes).sum();
        let before = self.waiting.fetch_add(bytes, Ordering::AcqRel);
        let room = Room { door: Arc::clone(&self.door), waiting: Arc::clone(&self.waiting), bytes, work };
        if before > 0 && before + bytes > WAITING_BYTES {
            return Err(busy(&format!("{WAITING_BYTES} bytes of submissions")));
        }
        let (reply, answer) = oneshot::channel();
        match self.queue.try_send(Submission { candidates, reply, room }) {
            Ok(()) => Ok(answer),
            Err(mpsc::error::TrySendError::Full(_)) => Err(busy(&format!("{WAITING_SUBMISSIONS} submissions"))),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(STOPPING.to_owned()),
        }
    }
}

const STOPPING: &str = "the node is stopping";

fn stopping() -> SubmitError {
    SubmitError::Unavailable(STOPPING.to_owned())
}

fn busy(what: &str) -> String {
    format!("the node is busy: {what} wait, which is the limit; send again later")
}

/// Batches one after the other, or so many submissions at a time.
async fn hand_on(mut queue: mpsc::Receiver<Submission>, admitter: Admitter, under_way: usize) {
    let turns = Arc::new(Semaphore::new(under_way));
    while let Ok(turn) = Arc::clone(&turns).acquire_owned().await
        && let Some(first) = queue.recv().await
    {
        let mut count = first.candidates.len();
        let mut batch = vec![first];
        while under_way == 1
            && count < SUBMISSION_BATCH
            && let Ok(next) = queue.try_recv()
        {
            count += next.candidates.len();
            batch.push(next);
        }
        if under_way == 1 {
            admit(batch, &admitter).await;
            continue;
        }
        let admitter = admitter.clone();
        tokio::spawn(async move {
            admit(batch, &admitter).await;
            drop(turn);
        });
    }
}

async fn admit(batch: Vec<Submission>, admitter: &Admitter) {
    let mut candidates = Vec::new();
    let mut replies = Vec::with_capacity(batch.len());
    for Submission { candidates: items, reply, room } in batch {
        replies.push((items.len(), reply, room));
        candidates.extend(items);
    }
    let results = admitter.admit(candidates, Source::Local).await;
    let mut results = results.unwrap_or_default().into_iter();
    for (length, reply, room) in replies {
        drop(room);
        let own: Vec<_> = results.by_ref().take(length).collect();
        // The client may have gone.
        let _ = reply.send(own);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use cascade_primitives::{ChainParams, Network};
    use futures::FutureExt as _;
    use prometheus::Registry;

    use super::*;

    /// A submitter whose queue nobody reads but the test.
    fn submitter() -> (Submitter, mpsc::Receiver<Submission>) {
        let (queue, receiver) = mpsc::channel(WAITING_SUBMISSIONS);
        let door = Arc::new(Mutex::new(Door::new(&ChainParams::of(Network::Regtest))));
        let metrics = Arc::new(Metrics::new(&Registry::new()).expect("the registry is empty"));
        (Submitter { queue, waiting: Arc::default(), door, metrics }, receiver)
    }

    fn payloads(count: usize, size: usize) -> Vec<Candidate> {
        let payload = Bytes::from(vec![7; size]);
        (0..count).map(|_| Candidate::Opaque(payload.clone())).collect()
    }

    fn texts(results: Vec<Submitted>) -> Vec<String> {
        results.into_iter().map(|result| result.expect_err("nobody admits anything").to_string()).collect()
    }

    #[test]
    fn the_door_answers_at_once_and_each_result_stands_in_its_place() {
        let (submitter, mut queue) = submitter();
        // Five payloads of 4 MiB are more than a chain that has ordered nothing yet has room for.
        let waiting = submitter.submit(payloads(5, 4 << 20));
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        let Submission { candidates, reply, room } = queue.try_recv().expect("some were let in");
        assert!((1..5).contains(&candidates.len()), "{}", candidates.len());
        let answers = (0..candidates.len()).map(|_| Err(SubmitError::Unavailable("admitted".to_owned())));
        drop(room);
        reply.send(answers.collect()).expect("it waits");
        let answers = texts(waiting.now_or_never().expect("it has its answer"));
        assert_eq!(answers.iter().filter(|text| *text == "admitted").count(), candidates.len());
        assert_eq!(answers.iter().filter(|text| *text == "txpool is full").count(), 5 - candidates.len());
        assert_eq!(submitter.metrics.mempool_refused.get() as usize, 5 - candidates.len());
        assert!(submitter.submit(payloads(1, 512)).now_or_never().is_none(), "what is done makes room");
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_and_in_number() {
        let (submitter, mut queue) = submitter();
        let offer = |size| submitter.enqueue(payloads(1, size), 0);
        assert!(offer(WAITING_BYTES + 1).is_ok(), "one of any size");
        assert!(offer(1).unwrap_err().contains("33554432 bytes of submissions wait"));
        drop(queue.try_recv());
        assert!(offer(WAITING_BYTES - 1).is_ok() && offer(1).is_ok() && offer(1).is_err());
        while queue.try_recv().is_ok() {}
        for _ in 0..WAITING_SUBMISSIONS {
            assert!(offer(1).is_ok());
        }
        assert!(offer(1).unwrap_err().contains("4096 submissions wait"));
        assert_eq!(submitter.waiting.load(Ordering::Acquire), WAITING_SUBMISSIONS, "who was refused takes no room");
    }

    #[test]
    fn a_node_that_stops_says_so() {
        let (submitter, queue) = submitter();
        drop(queue);
        let answers = submitter.submit(payloads(2, 10)).now_or_never().expect("there is nobody to wait for");
        assert_eq!(texts(answers), ["the node is stopping"; 2]);
    }
}
