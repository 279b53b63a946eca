//! Reveals, against members that lie, withhold, fall silent and crash.
//!
//! Real cryptography, a simulated network: messages are delayed, lost, reordered and cut off by partitions, nodes crash and
//! start again with what is on disk (final blocks, key shares), and f seats do what they like. Then faults stop.

use std::{
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    sync::{Arc, OnceLock},
};

use cascade_crypto::{
    curve::G1Affine,
    threshold::{BlockShares, SecretShares, beacon},
};
use cascade_mempool::reveal::{Effect, FinalBlock, Holder, RevealMessage, Reveals};
use cascade_primitives::{
    BlockHash, BlsSignature, Bytes, Certificate, Committee, Epoch, Fork, Height, NodeId, Reveal, SignerSet,
    TimestampMs, View, VoteTarget,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::keys::{Generation, NODES, context, node, seal};

pub struct Chain {
    pub keys: Arc<cascade_crypto::threshold::EpochKeys>,
    pub committee: Arc<Committee>,
    pub secrets: Vec<Arc<SecretShares>>,
    /// For each height its bases; none for an empty block.
    pub blocks: Vec<Option<Vec<G1Affine>>>,
}

/// One chain for all seeds: what differs is what happens to it.
pub fn chain() -> &'static Chain {
    static CHAIN: OnceLock<Chain> = OnceLock::new();
    CHAIN.get_or_init(|| {
        let mut world = Generation::complete(9);
        let keys = Arc::new(world.book.generation().unwrap().keys().unwrap().clone());
        let secrets = (0..NODES).map(|i| Arc::new(world.shares(i).unwrap())).collect();
        let mut blocks = Vec::new();
        for envelopes in [Some(2), None, Some(1), Some(0), None, Some(3)] {
            let key = keys.decryption.encryption_key();
            blocks.push(envelopes.map(|n: usize| (0..n).map(|_| seal(&key, &mut world.rng).1).collect()));
        }
        Chain { keys, committee: world.next, secrets, blocks }
    })
}

pub fn holder(i: usize) -> Holder {
    let chain = chain();
    let secret = Some(Arc::clone(&chain.secrets[i]));
    Holder::new(Arc::clone(&chain.keys), Arc::clone(&chain.committee), secret)
}

pub fn hash_of(height: u64) -> BlockHash {
    BlockHash([0x40 + height as u8; 32])
}

pub fn certificate(height: u64) -> Arc<Certificate> {
    let target = VoteTarget::commit(Epoch(1), View(height), hash_of(height));
    Arc::new(Certificate { target, signers: SignerSet::new(NODES), signature: BlsSignature([9; 96]) })
}

/// What the member that may lie does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    Silent,
    WrongShares,
    SharesOfAnotherBlock,
    WrongReveal,
    Truncated,
    Honest,
}

const LIES: [Lie; 6] =
    [Lie::Silent, Lie::WrongShares, Lie::SharesOfAnotherBlock, Lie::WrongReveal, Lie::Truncated, Lie::Honest];

struct Peer {
    core: Option<Reveals>,
    /// Blocks that are final at it, by height from 1.
    finals: u64,
    opened: BTreeMap<u64, Option<Arc<Reveal>>>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Event(std::cmp::Reverse<u64>, std::cmp::Reverse<u64>, usize);

struct Sim {
    rng: StdRng,
    now: u64,
    peers: Vec<Peer>,
    queue: BinaryHeap<Event>,
    payloads: BTreeMap<usize, (usize, usize, RevealMessage)>,
    next: usize,
    lie: Lie,
    accused: BTreeSet<NodeId>,
    /// Heights of which honest shares were seen.
    shared: BTreeSet<u64>,
    final_anywhere: u64,
    cut: Option<usize>,
    loss: f64,
}

const LIAR: usize = 2;
/// From here on nothing is lost and nobody crashes.
const CALM: u64 = 20_000;
const END: u64 = 40_000;

impl Sim {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let lie = LIES[rng.random_range(0..LIES.len())];
        let loss = [0.0, 0.1, 0.4][rng.random_range(0..3)];
        let mut sim = Self {
            rng,
            now: 0,
            peers: Vec::new(),
            queue: BinaryHeap::new(),
            payloads: BTreeMap::new(),
            next: 0,
            lie,
            accused: BTreeSet::new(),
            shared: BTreeSet::new(),
            final_anywhere: 0,
            cut: None,
            loss,
        };
        for i in 0..NODES {
            sim.peers.push(Peer { core: None, finals: 0, opened: BTreeMap::new() });
            sim.boot(i);
        }
        sim
    }

    /// Starts with what is on disk: executed blocks are done, final ones above are handed in again.
    fn boot(&mut self, i: usize) {
        let done = self.peers[i].opened.len() as u64;
        let mut core = Reveals::new(context(), node(i), 500, Height(done + 1));
        for (height, reveal) in &self.peers[i].opened {
            if let Some(reveal) = reveal {
                core.remember(Arc::clone(reveal));
                assert_eq!(reveal.height.0, *height);
            }
        }
        let mut effects = core.on_keys(holder(i), &mut self.rng);
        for height in done + 1..=self.peers[i].finals {
            effects.extend(core.on_final(TimestampMs(self.now), self.final_block(i, height), &mut self.rng));
        }
        self.peers[i].core = Some(core);
        self.execute(i, effects);
    }

    /// A final block carries what opened the block three below, as far as any honest node knows it.
    fn final_block(&self, _: usize, height: u64) -> FinalBlock {
        let carried = height.checked_sub(3).and_then(|h| {
            let honest = self.peers.iter().enumerate().filter(|(i, _)| *i != LIAR);
            honest.filter_map(|(_, peer)| peer.opened.get(&h)?.as_ref()).next().map(|reveal| reveal.as_ref().clone())
        });
        FinalBlock {
            height: Height(height),
            epoch: Epoch(1),
            committee_root: holder(0).committee_root(),
            hash: hash_of(height),
            certificate: certificate(height),
            bases: chain().blocks[height as usize - 1].clone(),
            reveals: carried.into_iter().collect(),
        }
    }

    fn execute(&mut self, i: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Broadcast(message) => {
                    for to in (0..NODES).filter(|&to| to != i) {
                        self.send(i, to, message.clone());
                    }
                }
                Effect::Send(to, message) => {
                    let to = (0..NODES).find(|&n| node(n) == to).expect("a node");
                    self.send(i, to, message);
                }
                Effect::Revealed(height, opening) => {
                    let reveal = opening.map(|opening| opening.reveal);
                    assert_eq!(height.0, self.peers[i].opened.len() as u64 + 1, "in order");
                    assert_eq!(reveal.is_some(), chain().blocks[height.0 as usize - 1].is_some());
                    for other in self.peers.iter().filter_map(|peer| peer.opened.get(&height.0)) {
                        assert_eq!(*other, reveal, "all come to the same at height {height}");
                    }
                    self.peers[i].opened.insert(height.0, reveal);
                }
                Effect::Misbehaved(who, what) => {
                    assert_eq!(who, node(LIAR), "nobody else is accused: {what}");
                    self.accused.insert(who);
                }
                Effect::Contradiction(height) => panic!("an honest block contradicts the keys at {height}"),
            }
        }
    }

    /// What the liar makes of its own messages; others say what they mean.
    fn twist(&mut self, from: usize, message: RevealMessage) -> Option<RevealMessage> {
        if from != LIAR {
            return Some(message);
        }
        Some(match (self.lie, message) {
            (Lie::Silent, _) => return None,
            (Lie::WrongShares, RevealMessage::Shares(shares, c)) => {
                let wrong = chain().secrets[0].clone();
                let bases = chain().blocks[shares.height.0 as usize - 1].clone().unwrap_or_default();
                let place = (Fork(0), shares.height, shares.block);
                let beacon = G1Affine::generator();
                let made = BlockShares::create(place, &wrong, &beacon, &bases);
                RevealMessage::Shares(Arc::new(BlockShares { member: shares.member, ..made }), c)
            }
            (Lie::SharesOfAnotherBlock, RevealMessage::Shares(shares, c)) => {
                RevealMessage::Shares(Arc::new(BlockShares { block: hash_of(0), ..shares.as_ref().clone() }), c)
            }
            (Lie::Truncated, RevealMessage::Shares(shares, c)) => {
                let cut = shares.decryption.len() / 2 / 96 * 96;
                let decryption = shares.decryption.slice(..cut);
                let beacon = Bytes::new();
                RevealMessage::Shares(Arc::new(BlockShares { decryption, beacon, ..shares.as_ref().clone() }), c)
            }
            (Lie::WrongReveal, RevealMessage::Reveal(reveal)) => {
                let values = reveal.values.iter().map(|_| G1Affine::generator().to_compressed()).collect();
                RevealMessage::Reveal(Arc::new(Reveal { values, beacon: [3; 48], height: reveal.height }))
            }
            (_, message) => message,
        })
    }

    fn send(&mut self, from: usize, to: usize, message: RevealMessage) {
        if let RevealMessage::Shares(shares, _) = &message
            && from != LIAR
        {
            assert!(shares.height.0 <= self.peers[from].finals, "no share before a commit certificate");
            self.shared.insert(shares.height.0);
        }
        let Some(message) = self.twist(from, message) else { return };
        let cut = self.cut.is_some_and(|cut| (from == cut) != (to == cut));
        if self.now < CALM && (cut || self.rng.random_bool(self.loss)) {
            return;
        }
        let at = self.now + self.rng.random_range(1..if self.now < CALM { 800 } else { 50 });
        self.next += 1;
        self.payloads.insert(self.next, (from, to, message));
        self.queue.push(Event(std::cmp::Reverse(at), std::cmp::Reverse(self.next as u64), self.next));
    }

    fn deliver(&mut self, id: usize) {
        let Some((from, to, message)) = self.payloads.remove(&id) else { return };
        if let Some(mut core) = self.peers[to].core.take() {
            let effects = core.on_message(node(from), message, &mut self.rng);
            self.peers[to].core = Some(core);
            self.execute(to, effects);
        }
    }

    /// A tenth of a second: blocks become final, nodes crash and start, links are cut and healed.
    fn step(&mut self) {
        let calm = self.now >= CALM;
        if self.now.is_multiple_of(1000) && !calm {
            self.cut = self.rng.random_bool(0.4).then(|| self.rng.random_range(0..NODES));
            let i = self.rng.random_range(0..NODES);
            if self.peers[i].core.is_some() && self.rng.random_bool(0.3) {
                self.peers[i].core = None;
            }
        }
        for i in 0..NODES {
            if self.peers[i].core.is_none() {
                if calm || self.rng.random_bool(0.1) {
                    self.boot(i);
                }
                continue;
            }
            let more = self.peers[i].finals < chain().blocks.len() as u64;
            if more && (calm || self.rng.random_bool(0.05)) {
                self.peers[i].finals += 1;
                self.final_anywhere = self.final_anywhere.max(self.peers[i].finals);
                let block = self.final_block(i, self.peers[i].finals);
                let mut core = self.peers[i].core.take().expect("it runs");
                let effects = core.on_final(TimestampMs(self.now), block, &mut self.rng);
                self.peers[i].core = Some(core);
                self.execute(i, effects);
            }
            let Some(mut core) = self.peers[i].core.take() else { continue };
            let effects = core.tick(TimestampMs(self.now));
            self.peers[i].core = Some(core);
            self.execute(i, effects);
        }
    }

    fn run(mut self) -> Self {
        while self.now < END {
            let before = self.now + 100;
            while self.queue.peek().is_some_and(|event| event.0.0 < before) {
                let event = self.queue.pop().expect("it was there");
                self.now = self.now.max(event.0.0);
                self.deliver(event.2);
            }
            self.now = before;
            self.step();
            let done = chain().blocks.len();
            if self.now > CALM && (0..NODES).filter(|&i| i != LIAR).all(|i| self.peers[i].opened.len() == done) {
                return self;
            }
        }
        self
    }
}

/// Seeds of a run; more by hand with CASCADE_SEEDS.
fn seeds() -> u64 {
    std::env::var("CASCADE_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60)
}

#[test]
fn every_final_block_is_opened_whatever_f_seats_and_the_network_do() {
    let mut accused = BTreeMap::new();
    for seed in 0..seeds() {
        let sim = Sim::new(seed).run();
        for i in (0..NODES).filter(|&i| i != LIAR) {
            let opened = sim.peers[i].opened.len();
            assert_eq!(opened, chain().blocks.len(), "seed {seed}, {:?}: node {i} opened {opened} blocks", sim.lie);
        }
        *accused.entry(format!("{:?}", sim.lie)).or_insert(0) += sim.accused.len();
    }
    // Wrong values and shares of another form are noticed in some run; silence and honesty never.
    for lie in [Lie::WrongShares, Lie::SharesOfAnotherBlock, Lie::Truncated] {
        assert!(accused[&format!("{lie:?}")] > 0, "{accused:?}");
    }
    for lie in [Lie::Silent, Lie::Honest] {
        assert_eq!(accused[&format!("{lie:?}")], 0, "{accused:?}");
    }
}

/// A block's header binds its epoch's keys. With those of a committee that was made anew since, nothing is opened, refused
/// or blamed on anybody: it waits for the right ones.
#[test]
fn keys_of_another_committee_open_nothing_and_blame_nobody() {
    let mut rng = StdRng::seed_from_u64(16);
    let world = Generation::complete(17);
    let stale = Arc::new(world.book.generation().unwrap().keys().unwrap().clone());
    let stale = Holder::new(stale, Arc::clone(&world.next), Some(Arc::new(world.shares(0).unwrap())));
    assert_eq!(stale.keys.epoch, holder(0).keys.epoch);
    assert_ne!(stale.committee_root(), holder(0).committee_root());
    let mut core = Reveals::new(context(), node(0), 500, Height(1));
    assert_eq!(core.on_keys(stale, &mut rng), []);
    let block = |height: u64| FinalBlock {
        height: Height(height),
        epoch: Epoch(1),
        committee_root: holder(0).committee_root(),
        hash: hash_of(height),
        certificate: certificate(height),
        bases: chain().blocks[height as usize - 1].clone(),
        reveals: Vec::new(),
    };
    // What opens block 1, from a peer that has the right keys.
    let mut peer = Reveals::new(context(), node(1), 500, Height(1));
    let _ = peer.on_keys(holder(1), &mut rng);
    let said = peer.on_final(TimestampMs(1), block(1), &mut rng);
    let [Effect::Broadcast(RevealMessage::Shares(shares, _))] = said.as_slice() else { panic!("{said:?}") };
    assert_eq!(core.on_final(TimestampMs(1), block(1), &mut rng), [], "it makes no shares with other keys");
    let message = RevealMessage::Shares(Arc::clone(shares), certificate(1));
    assert_eq!(core.on_message(node(1), message, &mut rng), [], "and blames nobody for right ones");
    let from_another = RevealMessage::Shares(
        Arc::new(BlockShares::create(
            (Fork(0), Height(1), hash_of(1)),
            &chain().secrets[2],
            &beacon::base(&beacon::message(&context(), Epoch(1), Height(1), hash_of(1))),
            chain().blocks[0].as_ref().unwrap(),
        )),
        certificate(1),
    );
    assert_eq!(core.on_message(node(2), from_another, &mut rng), []);
    let effects = core.on_keys(holder(0), &mut rng);
    assert!(matches!(effects.first(), Some(Effect::Broadcast(RevealMessage::Shares(..)))), "{effects:?}");
    assert!(
        matches!(effects.last(), Some(Effect::Revealed(Height(1), Some(_)))),
        "what came before counts: {effects:?}"
    );
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Misbehaved(..) | Effect::Contradiction(_))));
}

#[test]
fn one_seat_less_than_a_quorum_opens_nothing() {
    let mut sim = Sim::new(1);
    sim.lie = Lie::Silent;
    sim.loss = 0.0;
    // Besides the silent member another one is away for good: q - 1 seats are left.
    sim.peers[3].core = None;
    sim.now = CALM;
    for _ in 0..100 {
        sim.now += 100;
        while let Some(event) = sim.queue.pop() {
            sim.deliver(event.2);
        }
        for i in [0, 1] {
            if sim.peers[i].finals < chain().blocks.len() as u64 {
                sim.peers[i].finals += 1;
                let block = sim.final_block(i, sim.peers[i].finals);
                let mut core = sim.peers[i].core.take().unwrap();
                let effects = core.on_final(TimestampMs(sim.now), block, &mut sim.rng);
                sim.peers[i].core = Some(core);
                sim.execute(i, effects);
            }
        }
    }
    assert_eq!(sim.peers[0].opened.len() + sim.peers[1].opened.len(), 0);
}
