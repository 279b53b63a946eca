//! What pools tell each other, on its way into this node's pool.
//!
//! ```text
//!  inbox --> members of the committee --> Admitter
//!       \--> all others --> Submitter: the same door and bounds as for users of the RPC
//! ```
//!
//! Items are pushed whole, not announced and fetched: only the node that took one from a user sends it, to each peer once, so
//! there is nothing to choose from, and a round trip is saved. Two nodes that take the same one within milliseconds both send it.
//!
//! Sequencers are connected with each other, so what one gossips the others get from it, and what it gossips it took from
//! users by its own door. What a node outside of the committee sends may have reached nobody else, and nobody answered for
//! it yet: it is taken like what users submit, and given on. Members wait for no others, on an encrypted chain for a round of
//! checks at the most, in which they come first ([`super::proofs`]); so a flood of strangers holds up strangers.

use std::{
    collections::HashMap,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use cascade_consensus::Rules;
use cascade_mempool::{
    AdmissionError, Source,
    gossip::{decode_gossip, decode_system_item},
};
use cascade_network::{Message, Misbehaviour, Network};
use cascade_primitives::{
    Bytes, ChainParams, NodeId, SystemItem, Transaction, TransactionRule, system::MAX_DEALING_BYTES,
};
use parking_lot::Mutex;
use tokio::sync::mpsc::{self, error::TrySendError};

use super::{
    admission::{Admitter, Submitted},
    hub::Hub,
    keys::KeysActor,
    mail::Addr,
    messages::{Candidate, KeyItem},
    submitter::Submitter,
    turns::Lately,
};
use crate::rpc::backend::SubmitError;

/// Gossiped transactions from which on no further message is added to a batch.
const GOSSIP_BATCH: usize = 1024;

/// Messages of peers outside of the committee that wait behind a batch; the next ones are dropped.
const OF_OTHERS: usize = 16;

/// Items of key generation of one member that may wait to be checked: one of each kind.
const KEY_ITEMS: usize = 2;

/// Starts the tasks. They end with the network.
pub(super) fn start(
    inbox: mpsc::Receiver<Message>,
    network: &Network,
    rules: &Arc<Rules>,
    hub: &Arc<Hub>,
    admitter: &Admitter,
    submitter: &Submitter,
    keys: Option<Addr<KeysActor>>,
) {
    let (to_others, of_others) = mpsc::channel(OF_OTHERS);
    let taker = Taker {
        network: network.clone(),
        rules: Arc::clone(rules),
        admitter: admitter.clone(),
        keys: keys.map(KeyItems::start),
        hub: Arc::clone(hub),
        doubts: Lately::new(DOUBT),
    };
    let (hub, by, submitter) = (Arc::clone(hub), admitter.clone(), submitter.clone());
    let of_members = move |message: Message| {
        if hub.is_member(&message.peer) {
            return Some(message);
        }
        if let Err(TrySendError::Full(message)) = to_others.try_send(message) {
            tracing::debug!(peer = %message.peer, "peers outside of the committee gossip more than can be taken");
        }
        None
    };
    tokio::spawn(taker.clone().run(inbox, of_members, move |batch| {
        let by = by.clone();
        async move { by.admit(batch, Source::Peer).await }
    }));
    tokio::spawn(taker.run(of_others, Some, move |batch| {
        let submitter = submitter.clone();
        async move { Some(submitter.submit(batch).await) }
    }));
}

/// Takes messages of one kind of peers.
#[derive(Clone)]
struct Taker {
    network: Network,
    rules: Arc<Rules>,
    admitter: Admitter,
    keys: Option<KeyItems>,
    hub: Arc<Hub>,
    doubts: Lately<NodeId>,
}

impl Taker {
    /// `keep` answers with a message if it is for this one.
    async fn run<A, F>(
        mut self,
        mut messages: mpsc::Receiver<Message>,
        keep: impl Fn(Message) -> Option<Message>,
        admit: A,
    ) where
        A: Fn(Vec<Candidate>) -> F,
        F: Future<Output = Option<Vec<Submitted>>>,
    {
        while let Some(first) = messages.recv().await {
            let (mut batch, mut senders, mut next) = (Vec::new(), Vec::new(), Some(first));
            while let Some(message) = next {
                if let Some(Message { peer, payload, .. }) = keep(message) {
                    self.read(peer, &payload, &mut batch);
                    senders.resize(batch.len(), peer);
                }
                next = if batch.len() < GOSSIP_BATCH { messages.try_recv().ok() } else { None };
            }
            if batch.is_empty() {
                continue;
            }
            let raw: Vec<Option<Bytes>> = batch.iter().map(Candidate::item).collect();
            let Some(results) = admit(batch).await else { return };
            for ((sender, raw), result) in senders.into_iter().zip(raw).zip(results) {
                if self.is_wrong(sender, raw, result).await {
                    tracing::debug!(peer = %sender, "gossip that no honest node gives on");
                    self.network.report(sender, Misbehaviour::InvalidContent);
                }
            }
        }
    }

    fn read(&self, peer: NodeId, payload: &Bytes, batch: &mut Vec<Candidate>) {
        // Nobody else has a part in key generation, or hands on what is another's.
        let forward = |item| {
            if let Some(keys) = self.keys.as_ref().filter(|_| self.hub.makes_keys(&peer)) {
                keys.put(peer, item);
            }
        };
        if let Err(misbehaviour) = read(payload, self.rules.params(), forward, batch) {
            self.network.report(peer, misbehaviour);
        }
    }

    /// Wrong signatures and proofs: an honest node has checked them before it gave the item on.
    async fn is_wrong(&mut self, sender: NodeId, raw: Option<Bytes>, result: Submitted) -> bool {
        match (result, raw) {
            (Err(SubmitError::Item(_)), _) => true,
            (Err(SubmitError::Admission(AdmissionError::AlreadyKnown)), _) => false,
            (Err(SubmitError::Admission(_) | SubmitError::Suspect), Some(raw))
                if may_check(&mut self.doubts, Instant::now(), sender) =>
            {
                self.admitter.is_sealed(raw).await.is_some_and(|sealed| !sealed)
            }
            _ => false,
        }
    }
}

/// A refused envelope of a peer has its proof checked once in this time. Whose payer cannot pay, or sent a false proof lately,
/// is refused before its proof is looked at, and that may be no fault of the peer: nodes are not all at the same height. A
/// proof that does not hold is.
const DOUBT: Duration = Duration::from_secs(1);

/// Whether one may be checked now.
fn may_check(doubts: &mut Lately<NodeId>, now: Instant, peer: NodeId) -> bool {
    !doubts.contains(now, &peer) && doubts.insert(now, peer)
}

/// Items of key generation on their way to the actor, a few of each member at a time: checking one may take long, and
/// what one member says must not keep out what others do.
#[derive(Clone)]
struct KeyItems {
    waiting: Waiting,
    queue: mpsc::UnboundedSender<KeyItem>,
}

impl KeyItems {
    fn start(keys: Addr<KeysActor>) -> Self {
        let (queue, mut items) = mpsc::unbounded_channel::<KeyItem>();
        let waiting = Waiting::default();
        let of_task = waiting.clone();
        tokio::spawn(async move {
            while let Some(item) = items.recv().await {
                let from = item.from;
                if keys.send(item).await.is_err() {
                    return;
                }
                of_task.leave(&from);
            }
        });
        Self { waiting, queue }
    }

    /// Nodes give their own items out again until the log has them: one that finds no room comes again.
    fn put(&self, from: NodeId, item: SystemItem) {
        if self.waiting.enter(from) {
            let _ = self.queue.send(KeyItem { from, item });
        }
    }
}

/// How many items of which member wait.
#[derive(Clone, Debug, Default)]
struct Waiting(Arc<Mutex<HashMap<NodeId, usize>>>);

impl Waiting {
    fn enter(&self, member: NodeId) -> bool {
        let mut waiting = self.0.lock();
        let mine = waiting.entry(member).or_default();
        let room = *mine < KEY_ITEMS;
        *mine += usize::from(room);
        room
    }

    fn leave(&self, member: &NodeId) {
        let mut waiting = self.0.lock();
        if let Some(mine) = waiting.get_mut(member) {
            *mine -= 1;
            if *mine == 0 {
                waiting.remove(member);
            }
        }
    }
}

/// Reads a message up to the first item that no honest node gossips: it gossips nothing that it could not decode itself.
fn read(
    payload: &Bytes,
    params: &ChainParams,
    forward: impl Fn(SystemItem),
    batch: &mut Vec<Candidate>,
) -> Result<(), Misbehaviour> {
    let limit = params.max_tx_bytes as usize;
    let encrypted = params.transactions == TransactionRule::Encrypted;
    let largest = if encrypted { limit.max(MAX_DEALING_BYTES + 16) } else { limit };
    let items = decode_gossip(payload, largest).map_err(|_| Misbehaviour::Undecodable)?;
    for item in items {
        match params.transactions {
            TransactionRule::Opaque => batch.push(Candidate::Opaque(item)),
            TransactionRule::Plain => match Transaction::decode(item, params.chain_id, limit) {
                Ok(transaction) => batch.push(Candidate::Plain(Box::new(transaction))),
                Err(_) => return Err(Misbehaviour::InvalidContent),
            },
            TransactionRule::Encrypted => match decode_system_item(&item) {
                Ok(Some(item)) => forward(item),
                Ok(None) if item.len() <= limit => batch.push(Candidate::Item(item)),
                _ => return Err(Misbehaviour::InvalidContent),
            },
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::turns::MOST_REMEMBERED, *};

    #[test]
    fn one_refused_envelope_of_a_peer_is_looked_at_in_a_second_and_so_many_peers_are_remembered() {
        let (mut doubts, start) = (Lately::new(DOUBT), Instant::now());
        let peer = |i: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&i.to_be_bytes());
            NodeId(id)
        };
        let checked = |doubts: &mut Lately<NodeId>, ms| may_check(doubts, start + Duration::from_millis(ms), peer(0));
        let times: Vec<u64> = (0..3000).step_by(100).filter(|ms| checked(&mut doubts, *ms)).collect();
        assert_eq!(times, [0, 1000, 2000]);
        let now = start + Duration::from_secs(9);
        let many = (0..2 * MOST_REMEMBERED).filter(|i| may_check(&mut doubts, now, peer(*i))).count();
        assert_eq!(many, MOST_REMEMBERED);
        assert!(may_check(&mut doubts, now + DOUBT, peer(2 * MOST_REMEMBERED)), "there is room again");
    }

    #[test]
    fn a_members_items_of_key_generation_keep_out_nobody_elses() {
        let (waiting, flood, other) = (Waiting::default(), NodeId([1; 32]), NodeId([2; 32]));
        let entered = (0..1000).filter(|_| waiting.enter(flood)).count();
        assert_eq!(entered, KEY_ITEMS);
        assert!(waiting.enter(other));
        waiting.leave(&flood);
        assert!(waiting.enter(flood) && !waiting.enter(flood));
        (0..KEY_ITEMS).for_each(|_| waiting.leave(&flood));
        waiting.leave(&other);
        assert!(waiting.0.lock().is_empty(), "nobody is remembered for ever");
    }

    #[test]
    fn a_message_is_read_up_to_the_first_item_that_is_none() {
        let params = ChainParams::of(cascade_primitives::Network::Regtest);
        let opaque = ChainParams { transactions: TransactionRule::Opaque, ..params.clone() };
        let plain = ChainParams { transactions: TransactionRule::Plain, ..params };
        let message = cascade_mempool::gossip::encode_gossip(&vec![Bytes::from_static(&[0]); 1000]);
        let mut batch = Vec::new();
        assert_eq!(read(&message, &plain, |_| {}, &mut batch), Err(Misbehaviour::InvalidContent), "one report");
        assert!(batch.is_empty());
        assert_eq!(read(&message, &opaque, |_| {}, &mut batch), Ok(()));
        assert_eq!(batch.len(), 1000);
        assert_eq!(read(&message.slice(1..), &opaque, |_| {}, &mut batch), Err(Misbehaviour::Undecodable));
    }
}
