//! Who waits to have items checked, and whose turn it is: the rounds of [`super::proofs`].

use std::{
    collections::HashMap,
    sync::{Arc, mpsc as std_mpsc},
    time::Duration,
};

use bytes::Bytes;
use cascade_crypto::{
    envelope::EnvelopeError,
    threshold::{CiphertextError, EncryptionKey},
};
use cascade_mempool::Source;
use cascade_primitives::{Address, RecoveredEnvelope, RecoveredItem};
use prometheus::IntCounter;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::{
    items::{CheckError, CheckedItem},
    proofs::{Asked, Checked, Crypto, Proved, Recovered, Request, Work},
    stop::{Cause, Stop},
    turns::{Lately, Lines},
};
use crate::rpc::backend::SubmitError;

/// Signatures and proofs of a round at the most. Once so many wait, a round waits for no more.
const ENOUGH: usize = 256;
/// For how long a payer with a false proof is not looked at.
const SUSPICION: Duration = Duration::from_secs(5);
/// Payers that are asked on the spot, since handing them to another thread costs as much.
const ON_THE_SPOT: usize = 16;
/// Signatures of a round that are checked at ordinary priority: a few milliseconds of a core. On a machine that is busy a
/// thread that stands back waits long for its turn, and one turn for each round is enough (benches/README.md).
const FEW_SIGNATURES: usize = 64;

/// Where an item's answer goes.
#[derive(Clone, Copy, Debug)]
struct Ticket {
    request: u64,
    place: usize,
    is_member: bool,
}

/// A request of which not all is answered.
struct Open {
    answers: Vec<Option<Result<CheckedItem, SubmitError>>>,
    left: usize,
    reply: oneshot::Sender<Checked>,
}

/// An envelope whose proof is due.
type Due = (Ticket, EncryptionKey, RecoveredEnvelope);
pub(super) type Ask = Arc<dyn Fn(Vec<RecoveredEnvelope>) -> Vec<Asked> + Send + Sync>;

/// All that waits.
pub(super) struct Desk {
    requests: HashMap<u64, Open>,
    next_request: u64,
    raw: Lines<u64, (Ticket, Bytes)>,
    due: Lines<Address, Due>,
    suspects: Lately<Address>,
    crypto: Arc<Crypto>,
    thread: std_mpsc::Sender<Work>,
    proofs: IntCounter,
    ask: Ask,
}

/// The thread that checks is gone.
#[derive(Debug)]
struct Gone;

impl Desk {
    pub(super) fn new(crypto: Arc<Crypto>, thread: std_mpsc::Sender<Work>, proofs: IntCounter, ask: Ask) -> Self {
        Self {
            requests: HashMap::new(),
            next_request: 0,
            raw: Lines::default(),
            due: Lines::default(),
            suspects: Lately::new(SUSPICION),
            crypto,
            thread,
            proofs,
            ask,
        }
    }

    fn waiting(&self) -> usize {
        self.raw.len() + self.due.len()
    }

    fn push(&mut self, Request { items, source, reply }: Request) {
        let request = self.next_request;
        self.next_request += 1;
        let answers = items.iter().map(|_| None).collect();
        self.requests.insert(request, Open { answers, left: items.len(), reply });
        let is_member = source == Source::Peer;
        for (place, raw) in items.into_iter().enumerate() {
            self.raw.push(is_member, request, (Ticket { request, place, is_member }, raw));
        }
    }

    fn answer(&mut self, ticket: Ticket, answer: Result<CheckedItem, SubmitError>) {
        let open = self.requests.get_mut(&ticket.request).expect("it is open until its last answer");
        open.answers[ticket.place] = Some(answer);
        open.left -= 1;
        if open.left == 0
            && let Some(Open { answers, reply, .. }) = self.requests.remove(&ticket.request)
        {
            // Who asked may be gone.
            let _ = reply.send(answers.into_iter().flatten().collect());
        }
    }

    /// So many signatures, what is asked of payers, and so many proofs.
    async fn round(&mut self) -> Result<(), Gone> {
        let (tickets, raw): (Vec<_>, Vec<_>) = self.raw.take(ENOUGH).into_iter().unzip();
        if !raw.is_empty() {
            let recovered = self.recover(raw).await?;
            self.recovered(tickets, recovered).await?;
        }
        let mut by_key: Vec<(EncryptionKey, Vec<Ticket>, Vec<RecoveredEnvelope>)> = Vec::new();
        for (ticket, key, envelope) in self.due.take(ENOUGH) {
            let place = by_key.iter().position(|(known, ..)| *known == key).unwrap_or_else(|| {
                by_key.push((key, Vec::new(), Vec::new()));
                by_key.len() - 1
            });
            by_key[place].1.push(ticket);
            by_key[place].2.push(envelope);
        }
        for (key, tickets, envelopes) in by_key {
            self.proofs.inc_by(envelopes.len() as u64);
            let (reply, proved) = oneshot::channel();
            self.thread.send(Work::Prove(key, envelopes, reply)).map_err(|_| Gone)?;
            let (envelopes, proved) = proved.await.map_err(|_| Gone)?;
            self.proved(tickets, envelopes, proved);
        }
        Ok(())
    }

    async fn recover(&self, raw: Vec<Bytes>) -> Result<Recovered, Gone> {
        if raw.len() <= FEW_SIGNATURES {
            let crypto = Arc::clone(&self.crypto);
            return tokio::task::spawn_blocking(move || crypto.recover(raw)).await.map_err(|_| Gone);
        }
        let (reply, recovered) = oneshot::channel();
        self.thread.send(Work::Recover(raw, reply)).map_err(|_| Gone)?;
        recovered.await.map_err(|_| Gone)
    }

    /// Puts envelopes of payers that can pay and are not suspected into line.
    async fn recovered(&mut self, tickets: Vec<Ticket>, recovered: Recovered) -> Result<(), Gone> {
        let (mut asking, mut envelopes) = (Vec::new(), Vec::new());
        for (ticket, item) in tickets.into_iter().zip(recovered) {
            match item {
                Ok(RecoveredItem::Envelope(envelope))
                    if self.suspects.contains(Instant::now().into_std(), &envelope.payer()) =>
                {
                    self.answer(ticket, Err(SubmitError::Suspect));
                }
                Ok(RecoveredItem::Envelope(envelope)) => {
                    asking.push(ticket);
                    envelopes.push(*envelope);
                }
                Ok(item @ RecoveredItem::Deposit(_)) => self.answer(ticket, Ok(CheckedItem { item, sealed: None })),
                Err(error) => self.answer(ticket, Err(CheckError::from(error).into())),
            }
        }
        let asked = if envelopes.len() <= ON_THE_SPOT {
            (self.ask)(envelopes)
        } else {
            let ask = Arc::clone(&self.ask);
            tokio::task::spawn_blocking(move || ask(envelopes)).await.map_err(|_| Gone)?
        };
        for (ticket, (envelope, key)) in asking.into_iter().zip(asked) {
            match key {
                Ok(key) => self.due.push(ticket.is_member, envelope.payer(), (ticket, key, envelope)),
                Err(error) => self.answer(ticket, Err(error)),
            }
        }
        Ok(())
    }

    fn proved(&mut self, tickets: Vec<Ticket>, envelopes: Vec<RecoveredEnvelope>, proved: Proved) {
        for ((ticket, envelope), sealed) in tickets.into_iter().zip(envelopes).zip(proved) {
            let payer = envelope.payer();
            let answer = match sealed {
                Ok(sealed) => {
                    Ok(CheckedItem { item: RecoveredItem::Envelope(Box::new(envelope)), sealed: Some(sealed) })
                }
                Err(error) => {
                    self.suspects.insert(Instant::now().into_std(), payer);
                    for (ticket, ..) in self.due.drain(&payer).collect::<Vec<_>>() {
                        self.answer(ticket, Err(SubmitError::Suspect));
                    }
                    match error {
                        EnvelopeError::Ciphertext(CiphertextError::Company) => Err(SubmitError::Suspect),
                        error => Err(CheckError::from(error).into()),
                    }
                }
            };
            self.answer(ticket, answer);
        }
    }
}

/// Takes requests in, and holds one round after the other. Ends with those who ask, or with the thread.
pub(super) async fn run(mut requests: mpsc::Receiver<Request>, linger: Duration, mut desk: Desk, stop: Stop) {
    let mut next_at = Instant::now();
    loop {
        if desk.waiting() == 0 {
            let Some(first) = requests.recv().await else { return };
            desk.push(first);
        }
        let due = sleep_until(next_at);
        tokio::pin!(due);
        while desk.waiting() < ENOUGH {
            tokio::select! {
                biased;
                Some(request) = requests.recv() => desk.push(request),
                () = &mut due => break,
            }
        }
        // Whose turn it is can only be told among those that are in line.
        while let Ok(request) = requests.try_recv() {
            desk.push(request);
        }
        next_at = Instant::now() + linger;
        if desk.round().await.is_err() {
            stop.fail(Cause::Panic("the thread that checks what is submitted ended".to_owned()));
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use cascade_crypto::{
        curve::G1Affine,
        ecdsa::{self, SecretKey},
        envelope::{self, Terms},
    };
    use cascade_primitives::{
        B256, ChainParams, Encode as _, Envelope, Epoch, Fork, Height, Item, Network, SigningContext,
    };
    use parking_lot::Mutex;

    use super::{super::proofs::low_priority_thread, *};

    const REQUESTS: usize = 64;
    const LINGER: Duration = Duration::from_millis(1);

    fn params() -> ChainParams {
        ChainParams::of(Network::Regtest)
    }

    fn context() -> SigningContext {
        SigningContext { chain_id: params().chain_id, genesis_hash: B256::ZERO, fork: Fork(0) }
    }

    fn key() -> EncryptionKey {
        EncryptionKey::from_bytes(&G1Affine::generator().to_compressed()).expect("it is a point")
    }

    fn wallet(of: u8) -> SecretKey {
        SecretKey::from_byte_array([of; 32]).expect("it is a key")
    }

    fn sealed(payer: u8, nonce: u64) -> RecoveredEnvelope {
        let (epoch, valid_until) = (Epoch(1), Height(100));
        let terms =
            Terms { epoch, nonce, gas_limit: 21_000, max_fee_per_gas: 1, max_priority_fee_per_gas: 0, valid_until };
        envelope::seal(&key(), &context(), &terms, &[7; 110], &wallet(payer), &mut rand::rng()).expect("it is small")
    }

    fn right(payer: u8, nonce: u64) -> Bytes {
        sealed(payer, nonce).raw().clone()
    }

    /// With a proof that does not hold, signed by its payer.
    fn wrong(payer: u8, nonce: u64) -> Bytes {
        let mut envelope = Envelope::clone(&sealed(payer, nonce));
        let mut ciphertext = envelope.ciphertext.to_vec();
        // The last byte of the response.
        ciphertext[4 * 48 + 31] ^= 1;
        envelope.ciphertext = ciphertext.into();
        envelope.signature = ecdsa::sign_digest(&wallet(payer), &envelope.digest(&context()));
        Item::Envelope(envelope).to_bytes().into()
    }

    /// Where requests go, and what a desk notes.
    struct Office {
        queue: mpsc::Sender<Request>,
        rounds: Arc<Mutex<Vec<usize>>>,
    }

    /// A desk whose payers can all pay, and which notes how many it asks of in each round.
    fn desk() -> (Desk, Arc<Mutex<Vec<usize>>>, IntCounter) {
        let crypto = Arc::new(Crypto { context: context(), params: params() });
        let thread = low_priority_thread(Arc::clone(&crypto)).unwrap();
        let (rounds, proofs) = (Arc::<Mutex<Vec<usize>>>::default(), IntCounter::new("proofs", "of a test").unwrap());
        let seen = Arc::clone(&rounds);
        let ask = move |envelopes: Vec<RecoveredEnvelope>| {
            seen.lock().push(envelopes.len());
            envelopes.into_iter().map(|envelope| (envelope, Ok(key()))).collect()
        };
        (Desk::new(crypto, thread, proofs.clone(), Arc::new(ask)), rounds, proofs)
    }

    fn office(linger: Duration) -> Office {
        let (queue, requests) = mpsc::channel(REQUESTS);
        let (desk, rounds, _) = desk();
        tokio::spawn(run(requests, linger, desk, Stop::default()));
        Office { queue, rounds }
    }

    async fn ask(office: &Office, items: Vec<Bytes>, source: Source) -> oneshot::Receiver<Checked> {
        let (reply, answer) = oneshot::channel();
        office.queue.send(Request { items, source, reply }).await.unwrap();
        answer
    }

    /// Whether each was right, wrong or not looked at.
    fn told(answers: &Checked) -> String {
        let one = |answer: &Result<CheckedItem, SubmitError>| match answer {
            Ok(CheckedItem { sealed: Some(_), .. }) => 'r',
            Err(SubmitError::Suspect) => 's',
            Err(SubmitError::Item(_)) => 'w',
            _ => '?',
        };
        answers.iter().map(one).collect()
    }

    #[tokio::test]
    async fn what_comes_soon_after_a_round_waits_for_the_next_and_all_get_their_own_answers() {
        // So long that only enough items end it.
        let office = office(Duration::from_secs(3600));
        assert_eq!(told(&ask(&office, vec![right(1, 0)], Source::Local).await.await.unwrap()), "r");
        let one = ask(&office, vec![right(1, 1), wrong(2, 0)], Source::Local).await;
        drop(ask(&office, vec![right(3, 0)], Source::Local).await);
        let two = ask(&office, vec![Bytes::from_static(b"none")], Source::Local).await;
        let enough = ask(&office, vec![right(4, 0); ENOUGH - 4], Source::Local).await;
        assert_eq!(told(&one.await.unwrap()), "rw");
        assert_eq!(told(&two.await.unwrap()), "w");
        assert_eq!(told(&enough.await.unwrap()), "r".repeat(ENOUGH - 4));
        assert_eq!(office.rounds.lock()[..2], [1, ENOUGH - 1], "the first after a pause waits for nobody");
    }

    #[tokio::test]
    async fn a_round_does_not_wait_longer_than_it_must() {
        let office = office(Duration::from_millis(1));
        for nonce in 0..3 {
            assert_eq!(told(&ask(&office, vec![right(1, nonce)], Source::Local).await.await.unwrap()), "r");
        }
        assert_eq!(*office.rounds.lock(), [1, 1, 1]);
    }

    /// Ten rounds' garbage of one payer, in requests of different sizes, then a user and a member.
    #[tokio::test]
    async fn a_payers_garbage_costs_one_batch_of_proofs_and_holds_up_nobody_for_longer() {
        let (mut desk, _, proofs) = desk();
        let garbage = wrong(9, 0);
        let push = |desk: &mut Desk, items: Vec<Bytes>, source| {
            let (reply, answer) = oneshot::channel();
            desk.push(Request { items, source, reply });
            answer
        };
        let mut refused: Vec<_> =
            (0..5).map(|_| push(&mut desk, vec![garbage.clone(); 2 * ENOUGH], Source::Local)).collect();
        let mut user = push(&mut desk, vec![right(1, 0), right(2, 0)], Source::Local);
        let mut member = push(&mut desk, vec![right(3, 0)], Source::Peer);
        desk.round().await.unwrap();
        assert_eq!(told(&member.try_recv().expect("members come first")), "r");
        assert_eq!(told(&user.try_recv().expect("it had its turn")), "rr");
        assert_eq!(proofs.get() as usize, ENOUGH);
        let mut rounds = 1;
        while desk.waiting() > 0 {
            desk.round().await.unwrap();
            rounds += 1;
        }
        assert_eq!(proofs.get() as usize, ENOUGH, "it is suspected");
        assert_eq!(rounds, 11, "a signature each");
        for answer in &mut refused {
            assert_eq!(told(&answer.try_recv().unwrap()), "s".repeat(2 * ENOUGH));
        }
        // What is right of it has to wait, alone.
        let (mut own, mut other) =
            (push(&mut desk, vec![right(9, 1)], Source::Peer), push(&mut desk, vec![right(1, 1)], Source::Local));
        desk.round().await.unwrap();
        assert_eq!(told(&own.try_recv().unwrap()) + &told(&other.try_recv().unwrap()), "sr");
        desk.suspects = Lately::new(SUSPICION);
        let mut own = push(&mut desk, vec![right(9, 1)], Source::Peer);
        desk.round().await.unwrap();
        assert_eq!(told(&own.try_recv().unwrap()), "r");
    }

    /// What cannot be told from what is right before its proof is looked at, in front of a member's message.
    #[tokio::test]
    async fn members_come_first_and_payers_in_turn() {
        let (mut desk, ..) = desk();
        let (reply, _many) = oneshot::channel();
        desk.push(Request { items: vec![right(9, 0); 3 * ENOUGH], source: Source::Local, reply });
        desk.round().await.unwrap();
        let (reply, mut member) = oneshot::channel();
        let of_members: Vec<Bytes> = vec![right(8, 0); ENOUGH];
        desk.push(Request { items: of_members, source: Source::Peer, reply });
        let (reply, mut user) = oneshot::channel();
        desk.push(Request { items: vec![right(1, 0)], source: Source::Local, reply });
        desk.round().await.unwrap();
        assert_eq!(told(&user.try_recv().expect("a quarter is others'")), "r");
        assert!(member.try_recv().is_err());
        desk.round().await.unwrap();
        assert_eq!(told(&member.try_recv().unwrap()).len(), ENOUGH);
        assert!(desk.waiting() > 0, "who has most waits");
    }

    #[tokio::test]
    async fn a_node_whose_thread_of_checks_panics_stops_and_says_so() {
        let mut desk = desk().0;
        let (broken, work) = std_mpsc::channel::<Work>();
        std::thread::spawn(move || {
            let _work = work.recv();
            panic!("planted");
        });
        desk.thread = broken;
        let ((queue, requests), stop) = (mpsc::channel(REQUESTS), Stop::default());
        tokio::spawn(run(requests, LINGER, desk, stop.clone()));
        let (reply, answer) = oneshot::channel();
        queue.send(Request { items: vec![right(1, 0)], source: Source::Local, reply }).await.unwrap();
        assert!(answer.await.is_err(), "nobody waits for ever");
        tokio::time::timeout(Duration::from_secs(30), stop.wait()).await.expect("the node stops");
        let cause = stop.take_cause().expect("it cannot go on").to_string();
        assert!(cause.contains("the thread that checks what is submitted ended"), "{cause}");
    }

    /// Its priority is the thread's own: what it had others do would be done at theirs.
    #[cfg(target_os = "linux")]
    #[test]
    fn signatures_are_checked_by_the_thread_itself_however_many() {
        let time = || {
            let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux counts it");
            Duration::from_nanos(text.split(' ').next().and_then(|n| n.parse().ok()).expect("nanoseconds"))
        };
        let (crypto, item, start) = (Crypto { context: context(), params: params() }, right(1, 0), time());
        let recovered = crypto.recover(vec![item; 1024]);
        assert!(recovered.iter().all(Result::is_ok));
        // A signature takes 20 us at the least; the kernel counts in steps of 4 ms.
        assert!(time() - start > Duration::from_millis(8), "{:?}", time() - start);
    }
}
