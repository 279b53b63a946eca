//! Proposals in chunks: who gets what, what liars get away with, and what it may cost.

use std::{collections::BTreeMap, sync::Arc};

use cascade_consensus::{
    CarriageConfig, CarriageEffect, CarriageInput, Carried, Carrier, Message, Standing, Way,
    carriage::{ALL_BYTES, LEADER_BYTES, MAX_PROPOSAL, MORE_BYTES, Manifest, Piece, VIEWS_AHEAD, VIEWS_BEHIND, wins},
};
use cascade_crypto::{VoteScheme, VoteSigner};
use cascade_da::dispersal::{Chunk, Plan, commit_unchecked, disperse};
use cascade_primitives::{
    Address, B256, BlockHash, BlsPublicKey, BlsSignature, Committee, Decode, Encode, Epoch, Member, MemberIndex,
    NodeId, SealedBlock, Seats, SigningContext, ThresholdKeys, TimestampMs, View, Vote, VoteTarget, domain, hash,
};
use proptest::prelude::*;

use crate::chain::{Chain, RIGHT};

const EPOCH: Epoch = Epoch(3);
const VIEW: View = View(20);
const NOW: TimestampMs = TimestampMs(1_000_000);

/// Signatures that only their key's holder makes, as far as these tests go.
#[derive(Debug)]
struct Keyed;

#[derive(Debug)]
struct Key(BlsPublicKey);

fn signature(key: &BlsPublicKey, digest: &B256) -> BlsSignature {
    let mut bytes = [0; 96];
    bytes[..32].copy_from_slice(hash::tagged(domain::TLS, &[&key.0, digest.as_slice()]).as_slice());
    BlsSignature(bytes)
}

impl VoteScheme for Keyed {
    fn verify(&self, key: &BlsPublicKey, digest: &B256, found: &BlsSignature) -> bool {
        *found == signature(key, digest)
    }

    fn aggregate(&self, _: &[BlsSignature]) -> Option<BlsSignature> {
        None
    }

    fn verify_aggregate(&self, _: &[BlsPublicKey], _: &B256, _: &BlsSignature) -> bool {
        false
    }
}

impl VoteSigner for Key {
    fn public_key(&self) -> BlsPublicKey {
        self.0
    }

    fn sign(&self, digest: &B256) -> BlsSignature {
        signature(&self.0, digest)
    }
}

fn node(i: usize) -> NodeId {
    NodeId([i as u8 + 1; 32])
}

fn key(i: usize) -> Key {
    Key(BlsPublicKey([i as u8 + 1; 48]))
}

fn committee(seats: &[u32]) -> Arc<Committee> {
    let member = |(i, &seats): (usize, &u32)| Member {
        node: node(i),
        bls_key: key(i).0,
        address: Address::with_last_byte(i as u8),
        seats: Seats(seats),
        lead_weight: 1,
    };
    let members = seats.iter().enumerate().map(member).collect();
    Arc::new(Committee::new(EPOCH, members, ThresholdKeys::default()).unwrap())
}

/// In a view whose window one member leads.
fn standing(committee: &Arc<Committee>, view: View, leader: usize) -> Standing {
    let leaders = Standing::views(view).map(|_| MemberIndex(leader as u16)).collect();
    Standing { epoch: EPOCH, view, committee: Arc::clone(committee), leaders }
}

fn chain() -> &'static Chain {
    static CHAIN: std::sync::OnceLock<Chain> = std::sync::OnceLock::new();
    CHAIN.get_or_init(|| {
        let mut chain = Chain::new();
        chain.grow(8);
        chain
    })
}

fn context() -> SigningContext {
    chain().rules.signing
}

fn timeout() -> u64 {
    chain().rules.params().leader_timeout_ms
}

fn block() -> Arc<SealedBlock> {
    Arc::clone(&chain().blocks[4])
}

fn proposal(leader: usize) -> Message {
    let target = VoteTarget::prepare(EPOCH, VIEW, block().hash());
    Message::Proposal(block(), Vote { target, signer: MemberIndex(leader as u16), signature: RIGHT })
}

fn carrier(i: usize, way: Way, standing: Standing) -> Carrier {
    let config = CarriageConfig {
        rules: Arc::clone(&chain().rules),
        scheme: Arc::new(Keyed),
        signer: Some(Arc::new(key(i))),
        node: node(i),
        way,
    };
    Carrier::new(config, standing)
}

/// Carriers of a whole committee, with nothing but what a test lets through between them.
struct Net {
    committee: Arc<Committee>,
    carriers: Vec<Carrier>,
    now: TimestampMs,
    /// What each node's core was given.
    delivered: BTreeMap<usize, Vec<(NodeId, Message)>>,
    blamed: Vec<(usize, NodeId, &'static str)>,
    /// Proposals sent whole, to whom.
    whole: Vec<(usize, Option<NodeId>)>,
    wanted: Vec<(usize, NodeId, BlockHash)>,
}

type Sent = (usize, NodeId, Carried);
/// What a liar does to a piece.
type Change = fn(&mut Piece);

impl Net {
    fn new(seats: &[u32], leader: usize) -> Self {
        let committee = committee(seats);
        let carriers = (0..seats.len()).map(|i| carrier(i, Way::Chunks, standing(&committee, VIEW, leader))).collect();
        Self {
            committee,
            carriers,
            now: NOW,
            delivered: BTreeMap::new(),
            blamed: Vec::new(),
            whole: Vec::new(),
            wanted: Vec::new(),
        }
    }

    fn place(&self, id: &NodeId) -> usize {
        self.committee.index_of(id).expect("only members are named").index()
    }

    /// One input; answers what is put on the wire.
    fn step(&mut self, i: usize, input: CarriageInput) -> Vec<Sent> {
        let mut sent = Vec::new();
        for effect in self.carriers[i].step(self.now, input) {
            match effect {
                CarriageEffect::Send(to, message) => sent.push((i, to, message)),
                CarriageEffect::Forward(to, message) => sent.extend(to.into_iter().map(|to| (i, to, message.clone()))),
                CarriageEffect::Broadcast(_) => self.whole.push((i, None)),
                CarriageEffect::Outside(..) => {}
                CarriageEffect::Whole(to, _) => self.whole.push((i, Some(to))),
                CarriageEffect::GetBlock(peer, hash) => self.wanted.push((i, peer, hash)),
                CarriageEffect::Rebuild(job) => {
                    let rebuilt = job.run();
                    sent.extend(self.step(i, CarriageInput::Rebuilt(rebuilt)));
                }
                CarriageEffect::Deliver(from, message) => self.delivered.entry(i).or_default().push((from, message)),
                CarriageEffect::Misbehaved(peer, what) => self.blamed.push((i, peer, what)),
            }
        }
        sent
    }

    fn deliver(&mut self, (from, to, message): Sent) -> Vec<Sent> {
        let to = self.place(&to);
        let bytes = message.to_bytes();
        let message = Carried::from_shared(&bytes.into()).expect("what is sent can be read");
        self.step(to, CarriageInput::Message { from: node(from), message })
    }

    /// Delivers all that `passes` lets through, and what follows from it.
    fn run(&mut self, sent: Vec<Sent>, passes: impl Fn(&Sent) -> bool) {
        let mut queue: std::collections::VecDeque<Sent> = sent.into();
        while let Some(next) = queue.pop_front() {
            if passes(&next) {
                queue.extend(self.deliver(next));
            }
        }
    }

    fn tick(&mut self, after: u64) -> Vec<Sent> {
        self.now = NOW.plus(after);
        (0..self.carriers.len()).flat_map(|i| self.step(i, CarriageInput::Tick)).collect()
    }
}

fn pieces(sent: &[Sent]) -> Vec<(NodeId, Piece)> {
    let piece = |(_, to, message): &Sent| match message {
        Carried::Piece(piece) => Some((*to, piece.as_ref().clone())),
        Carried::Ask { .. } => None,
    };
    sent.iter().filter_map(piece).collect()
}

/// Pieces of arbitrary chunks that a leader signs.
fn signed(leader: usize, view: View, block: BlockHash, chunks: Vec<Chunk>) -> Vec<Piece> {
    let of = |chunk: Chunk| {
        let mut piece = Piece { epoch: EPOCH, view, block, signature: RIGHT, chunk };
        piece.signature = piece.manifest().sign(&context(), &key(leader));
        piece
    };
    chunks.into_iter().map(of).collect()
}

fn say(net: &mut Net, from: usize, to: usize, piece: &Piece) -> Vec<Sent> {
    net.deliver((from, node(to), Carried::Piece(Box::new(piece.clone()))))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn everybody_gets_the_proposal_while_f_seats_pass_nothing_on(
        seats in prop::collection::vec(1u32..4, 4..20), leader in 0usize..20, order: u64,
    ) {
        let count = seats.len();
        let leader = leader % count;
        let mut net = Net::new(&seats, leader);
        let mut left = net.committee.faulty_seats().0;
        // As seats are dealt: nobody has more than may be faulty.
        prop_assume!(seats.iter().all(|&of_one| of_one <= left));
        // Whoever comes first in an order of chance, as long as there are faulty seats left.
        let mut others: Vec<usize> = (0..count).filter(|i| *i != leader).collect();
        others.sort_by_key(|i| (order ^ *i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mute: Vec<usize> = others.into_iter().filter(|&i| seats[i] <= left && { left -= seats[i]; true }).collect();
        let sent = net.step(leader, CarriageInput::Propose(proposal(leader)));
        prop_assert_eq!(sent.len() as u32, net.committee.total_seats().0 - seats[leader], "a chunk for each seat of others");
        net.run(sent, |(from, ..)| !mute.contains(from));
        for i in (0..count).filter(|i| *i != leader) {
            let wanted = vec![(node(leader), proposal(leader))];
            prop_assert_eq!(net.delivered.get(&i), Some(&wanted), "node {}", i);
        }
        prop_assert!(net.blamed.is_empty() && net.whole.is_empty(), "{:?}", net.blamed);
        prop_assert!(net.tick(2 * timeout()).is_empty(), "nobody asks for what is there");
    }

    #[test]
    fn digests_are_of_manifests_alone_and_of_one_each(what in 0usize..8, number: u64, byte in 1u8..) {
        let manifest = Manifest {
            epoch: EPOCH, view: VIEW, block: BlockHash([1; 32]), root: B256::ZERO, size: 9, chunks: 7,
        };
        let mut other = manifest;
        let mut context = context();
        match what {
            0 => other.epoch.0 ^= number,
            1 => other.view.0 ^= number,
            2 => other.block.0[3] ^= byte,
            3 => other.root.0[3] ^= byte,
            4 => other.size ^= number as u32,
            5 => other.chunks ^= number as u16,
            6 => context.fork.0 ^= number as u32,
            _ => context.genesis_hash.0[0] ^= byte,
        }
        let same = other == manifest && context == crate::carriage::context();
        prop_assert_eq!(other.digest(&context) == manifest.digest(&crate::carriage::context()), same);
        let vote = VoteTarget::prepare(manifest.epoch, manifest.view, manifest.block);
        prop_assert_ne!(manifest.digest(&context), vote.digest(&context));
    }

    #[test]
    fn messages_read_back_in_one_way_alone(seats in 1usize..40, len in 1usize..3000, index: usize, cut: usize, ask: bool) {
        let chunks = disperse(&vec![5; len], seats).unwrap();
        let chunk = chunks[index % seats].clone();
        let message = if ask {
            Carried::Ask { epoch: EPOCH, view: VIEW, manifest: chunk.root }
        } else {
            Carried::Piece(Box::new(signed(0, VIEW, BlockHash([9; 32]), vec![chunk]).remove(0)))
        };
        let bytes = message.to_bytes();
        prop_assert!(Carried::is_in(&bytes));
        prop_assert_eq!(message.message_bytes(), bytes.len());
        prop_assert_eq!(Carried::from_slice(&bytes).unwrap(), message);
        prop_assert!(Carried::from_slice(&bytes[..cut % bytes.len()]).is_err());
        prop_assert!(Carried::from_slice(&[bytes, vec![0]].concat()).is_err());
    }
}

#[test]
fn chunks_are_for_committees_and_blocks_for_which_they_win() {
    for (members, whole, chunks) in
        [(7, 1 << 19, 1 << 20), (10, 300 << 10, 400 << 10), (16, 128 << 10, 192 << 10), (64, 16 << 10, 64 << 10)]
    {
        assert!(!wins(members, whole) && wins(members, chunks), "{members}");
    }
    assert!(!wins(1, usize::MAX) && !wins(4, 8 << 20));
    // The block of these tests is small.
    for (way, whole) in [(Way::Auto, true), (Way::Whole, true), (Way::Chunks, false)] {
        let mut carrier = carrier(2, way, standing(&committee(&[1; 7]), VIEW, 2));
        let effects = carrier.step(NOW, CarriageInput::Propose(proposal(2)));
        assert_eq!(matches!(effects[..], [CarriageEffect::Broadcast(_)]), whole, "{way:?}");
    }
}

#[test]
fn the_first_block_of_an_epoch_goes_whole() {
    let mut carrier = carrier(2, Way::Chunks, standing(&committee(&[1; 7]), VIEW, 2));
    let block = Arc::clone(&chain().blocks[1]);
    assert!(block.body.certificates.parent.is_none());
    let vote =
        Vote { target: VoteTarget::prepare(EPOCH, VIEW, block.hash()), signer: MemberIndex(2), signature: RIGHT };
    let effects = carrier.step(NOW, CarriageInput::Propose(Message::Proposal(block, vote)));
    assert!(matches!(effects[..], [CarriageEffect::Broadcast(_)]));
}

#[test]
fn what_is_proposed_again_goes_whole_once_members_have_asked_for_themselves() {
    let mut net = Net::new(&[1; 7], 2);
    assert_eq!(net.step(2, CarriageInput::Propose(proposal(2))).len(), 6);
    net.now = NOW.plus(timeout() / 2 - 1);
    assert!(net.step(2, CarriageInput::Propose(proposal(2))).is_empty());
    assert!(net.whole.is_empty());
    net.now = NOW.plus(timeout() / 2);
    assert!(net.step(2, CarriageInput::Propose(proposal(2))).is_empty());
    assert_eq!(net.whole, [(2, None)]);
}

#[test]
fn what_is_wrong_is_blamed_on_who_sent_it_and_goes_no_further() {
    let leader = 2;
    let sent = Net::new(&[1, 2, 1, 1, 1, 1, 1], leader).step(leader, CarriageInput::Propose(proposal(leader)));
    // Seats 1 and 2 are member 1's.
    let own = pieces(&sent).into_iter().find(|(to, _)| *to == node(1)).expect("it has two").1;
    let of_member_4 = pieces(&sent).into_iter().find(|(to, _)| *to == node(4)).expect("it has one").1;
    let bend = |piece: &Piece, change: Change| {
        let mut bent = piece.clone();
        change(&mut bent);
        bent
    };
    let changes: [(&str, Change); 7] = [
        ("bytes", |p| p.chunk.bytes = vec![0; p.chunk.bytes.len()].into()),
        ("path", |p| p.chunk.path[0].0[0] ^= 1),
        ("block", |p| p.block.0[0] ^= 1),
        ("root", |p| p.chunk.root.0[0] ^= 1),
        ("size", |p| p.chunk.size += 1),
        ("seats", |p| p.chunk.chunks += 1),
        ("signature", |p| p.signature.0[0] ^= 1),
    ];
    for (name, change) in changes {
        for (from, piece) in [(leader, &own), (4, &of_member_4)] {
            for known in [false, true] {
                let mut net = Net::new(&[1, 2, 1, 1, 1, 1, 1], leader);
                if known {
                    let other = pieces(&sent).into_iter().find(|(to, _)| *to == node(5)).expect("it has one").1;
                    say(&mut net, 5, 1, &other);
                }
                let out = say(&mut net, from, 1, &bend(piece, change));
                assert!(out.is_empty(), "{name} from {from} is passed on");
                let blamed: Vec<NodeId> = net.blamed.iter().map(|(_, peer, _)| *peer).collect();
                assert_eq!(blamed, [node(from)], "{name} from {from}, place known: {known}");
            }
        }
    }
}

#[test]
fn chunks_are_taken_for_seats_of_who_sends_them_and_passed_on_from_the_leader_alone() {
    let leader = 2;
    let sent = Net::new(&[1; 7], leader).step(leader, CarriageInput::Propose(proposal(leader)));
    let all = pieces(&sent);
    let of = |i: usize| all.iter().find(|(to, _)| *to == node(i)).expect("it has one").1.clone();
    let mut net = Net::new(&[1; 7], leader);
    assert!(say(&mut net, 4, 1, &of(5)).is_empty());
    assert!(say(&mut net, 4, 1, &of(1)).is_empty(), "its own, from another");
    assert!(say(&mut net, leader, 1, &of(4)).is_empty(), "another's, from the leader");
    let blamed: Vec<NodeId> = net.blamed.iter().map(|(_, peer, _)| *peer).collect();
    assert_eq!(blamed, [node(4), node(4), node(leader)]);
    assert_eq!(net.carriers[1].footprint(), (0, 0, 0));
    let passed = say(&mut net, leader, 1, &of(1));
    let to: Vec<NodeId> = passed.iter().map(|(_, to, _)| *to).collect();
    assert_eq!(to, [3, 4, 5, 6, 0].map(node), "all but the leader, from the next one on");
    assert!(say(&mut net, leader, 1, &of(1)).is_empty(), "once");
    assert!(say(&mut net, 4, 1, &of(4)).is_empty(), "what is another's is not passed on");
    // With this it has three, and passes on what is its own none the less.
    let mut late = Net::new(&[1; 7], leader);
    for i in [3, 4, 5] {
        say(&mut late, i, 1, &of(i));
    }
    assert!(late.delivered.contains_key(&1));
    assert_eq!(say(&mut late, leader, 1, &of(1)).len(), 5);
    assert!(late.blamed.is_empty());
}

#[test]
fn chunks_of_other_epochs_and_far_views_or_from_outside_are_passed_over() {
    let leader = 2;
    let mut net = Net::new(&[1; 7], leader);
    let chunks = disperse(&proposal(leader).to_bytes(), 7).unwrap();
    let at = |view: u64| signed(leader, View(view), block().hash(), chunks.clone());
    let oldest = VIEW.0 - VIEWS_BEHIND;
    let newest = VIEW.0 + VIEWS_AHEAD;
    for view in [0, 1, oldest - 1, newest + 1, u64::MAX] {
        assert!(say(&mut net, leader, 1, &at(view)[1]).is_empty());
    }
    let mut other = at(VIEW.0).remove(1);
    other.epoch = EPOCH.next();
    assert!(say(&mut net, leader, 1, &other).is_empty());
    let stranger =
        CarriageInput::Message { from: NodeId([77; 32]), message: Carried::Piece(Box::new(at(VIEW.0).remove(1))) };
    assert!(net.step(1, stranger).is_empty());
    assert_eq!(net.carriers[1].footprint().0, 0);
    for view in [oldest, newest] {
        assert_eq!(say(&mut net, leader, 1, &at(view)[1]).len(), 5);
    }
    assert!(net.blamed.is_empty(), "who is ahead or behind is no liar");
}

#[test]
fn two_manifests_for_a_view_are_reported_and_a_third_is_not_looked_at() {
    let leader = 2;
    let mut net = Net::new(&[1; 7], leader);
    for i in 0..5_u8 {
        let chunks = disperse(&[i; 99], 7).unwrap();
        let pieces = signed(leader, VIEW, BlockHash([i + 1; 32]), chunks);
        say(&mut net, leader, 1, &pieces[1]);
        say(&mut net, 4, 1, &pieces[4]);
    }
    assert_eq!(net.blamed, [(1, node(leader), "two manifests for one view")]);
    assert_eq!(net.carriers[1].footprint(), (2, 198, 0));
}

#[test]
fn a_lie_is_found_by_everybody_and_reported_whichever_chunks_they_hold() {
    let leader = 2;
    let bytes = proposal(leader).to_bytes();
    let mut shards: Vec<Vec<u8>> = disperse(&bytes, 7).unwrap().iter().map(|c| c.bytes.to_vec()).collect();
    shards[5][3] ^= 1;
    let no_code = commit_unchecked(shards, bytes.len()).unwrap();
    let hash = block().hash();
    let lies = [
        (no_code, hash, "a root over chunks that are no code"),
        (disperse(b"no proposal", 7).unwrap(), hash, "chunks of something that is no proposal"),
        (disperse(&Message::GetBlock(hash).to_bytes(), 7).unwrap(), hash, "chunks of something that is no proposal"),
        (disperse(&bytes, 7).unwrap(), BlockHash([8; 32]), "chunks of another proposal than it signed"),
    ];
    for (chunks, named, what) in lies {
        let pieces = signed(leader, VIEW, named, chunks);
        for first in 0..7 {
            let mut net = Net::new(&[1; 7], leader);
            let others = (0..7).map(|i| (first + i) % 7).filter(|i| ![1, leader].contains(i));
            for i in others {
                say(&mut net, i, 1, &pieces[i]);
            }
            assert_eq!(net.blamed, [(1, node(leader), what)]);
            assert!(net.delivered.is_empty());
            // Nothing of it keeps the node from the block that a quorum may have none the less.
            net.step(1, CarriageInput::Want { peer: node(3), block: named });
            assert_eq!(net.wanted.len(), 1);
            assert!(net.tick(timeout()).is_empty());
        }
    }
    // A proposal of another view under a manifest of this one is another proposal.
    let view = View(VIEW.0 + 1);
    let pieces = signed(leader, view, hash, disperse(&bytes, 7).unwrap());
    let mut net = Net::new(&[1; 7], leader);
    (3..7).for_each(|i| drop(say(&mut net, i, 1, &pieces[i])));
    assert_eq!(net.blamed, [(1, node(leader), "chunks of another proposal than it signed")]);
}

#[test]
fn who_has_too_few_chunks_asks_the_leader_once_and_is_answered_once() {
    let leader = 2;
    let mut net = Net::new(&[1; 7], leader);
    let sent = net.step(leader, CarriageInput::Propose(proposal(leader)));
    let manifest = pieces(&sent)[0].1.manifest().digest(&context());
    // Nobody passes anything on.
    net.run(sent, |(from, ..)| *from == leader);
    assert!(net.delivered.is_empty());
    assert_eq!(net.carriers[1].wake_at(), Some(NOW.plus(timeout() / 2)));
    assert!(net.tick(timeout() / 2 - 1).is_empty());
    let asks = net.tick(timeout() / 2);
    assert_eq!(asks.len(), 6);
    assert!(asks.iter().all(|(_, to, m)| *to == node(leader) && matches!(m, Carried::Ask { .. })));
    let again = asks.clone();
    net.run(asks, |_| true);
    net.run(again, |_| true);
    let mut answered: Vec<_> = net.whole.iter().map(|(_, to)| to.expect("to one")).collect();
    answered.sort();
    assert_eq!(answered, [0, 1, 3, 4, 5, 6].map(node));
    assert!(net.tick(timeout()).is_empty(), "once");
    assert_eq!(net.carriers[1].wake_at(), None);
    // Who is not in the committee is not answered.
    let ask = Carried::Ask { epoch: EPOCH, view: VIEW, manifest };
    net.step(leader, CarriageInput::Message { from: NodeId([99; 32]), message: ask });
    assert_eq!(net.whole.len(), 6);
}

#[test]
fn while_chunks_come_in_nobody_asks_the_leader_for_the_block_but_not_for_ever() {
    let leader = 2;
    // Ten seats, four chunks.
    let seats = [1; 10];
    let pieces = pieces(&Net::new(&seats, leader).step(leader, CarriageInput::Propose(proposal(leader))));
    let of = |i: usize| pieces.iter().find(|(to, _)| *to == node(i)).expect("it has one").1.clone();
    let mut net = Net::new(&seats, leader);
    let want = CarriageInput::Want { peer: node(leader), block: block().hash() };
    net.step(1, want.clone());
    assert_eq!(net.wanted.len(), 1, "nothing of it is on its way");
    say(&mut net, leader, 1, &of(1));
    net.step(1, want.clone());
    net.step(1, CarriageInput::Want { peer: node(leader), block: BlockHash([6; 32]) });
    assert_eq!(net.wanted.len(), 2, "another block is asked for");
    net.step(1, CarriageInput::Want { peer: node(3), block: block().hash() });
    assert_eq!(net.wanted.len(), 3, "and others are: its leader may keep the rest of the chunks back");
    net.wanted.pop();
    let at = |net: &mut Net, after| net.now = NOW.plus(after);
    at(&mut net, timeout() * 2 / 5);
    say(&mut net, 3, 1, &of(3));
    assert!(net.tick(timeout() / 2).is_empty(), "one came a moment ago");
    at(&mut net, timeout() * 3 / 5);
    say(&mut net, 3, 1, &of(3));
    assert_eq!(
        net.carriers[1].wake_at(),
        Some(NOW.plus(timeout() * 2 / 5 + timeout() / 4)),
        "the same again is no news"
    );
    say(&mut net, 4, 1, &of(4));
    at(&mut net, timeout() * 17 / 20 - 1);
    net.step(1, want.clone());
    assert_eq!(net.wanted.len(), 2);
    assert_eq!(net.tick(timeout() * 17 / 20).len(), 1);
    net.step(1, want);
    assert_eq!(net.wanted.len(), 3, "from here on it is as without chunks");
    // The last chunk still does.
    say(&mut net, 5, 1, &of(5));
    assert!(net.delivered.contains_key(&1));
}

#[test]
fn a_whole_proposal_from_its_leader_ends_the_wait() {
    let leader = 2;
    let mut net = Net::new(&[1; 7], leader);
    let sent = net.step(leader, CarriageInput::Propose(proposal(leader)));
    net.run(sent, |(from, ..)| *from == leader);
    net.step(1, CarriageInput::Arrived { from: node(3), block: block().hash() });
    assert!(net.carriers[1].wake_at().is_some(), "another's word for it ends nothing");
    net.step(1, CarriageInput::Arrived { from: node(leader), block: block().hash() });
    assert_eq!(net.carriers[1].wake_at(), None);
    assert_eq!(net.carriers[1].footprint(), (1, 0, 0));
}

#[test]
fn everything_goes_with_its_view() {
    let leader = 2;
    let mut net = Net::new(&[1; 7], leader);
    let sent = net.step(leader, CarriageInput::Propose(proposal(leader)));
    net.run(sent, |(from, ..)| *from == leader);
    assert!(net.carriers[1].footprint().1 > 0);
    assert_eq!(net.carriers[leader].footprint().2, 1);
    let enter = |net: &mut Net, view: u64| {
        for i in 0..7 {
            let standing = standing(&net.committee, View(view), leader);
            assert!(net.step(i, CarriageInput::Entered(standing)).is_empty());
        }
    };
    enter(&mut net, VIEW.0 + VIEWS_BEHIND);
    assert_eq!((net.carriers[1].footprint().0, net.carriers[leader].footprint().2), (1, 1));
    enter(&mut net, VIEW.0 + VIEWS_BEHIND + 1);
    assert_eq!((net.carriers[1].footprint(), net.carriers[leader].footprint()), ((0, 0, 0), (0, 0, 0)));
}

/// Pieces of a view of something that a leader says has so many bytes.
fn bulk(leader: usize, view: u64, mark: u8, size: usize) -> Vec<Piece> {
    let plan = Plan::new(4, size).unwrap();
    let chunks = commit_unchecked(vec![vec![mark; plan.chunk_bytes()]; 4], size).unwrap();
    signed(leader, View(view), BlockHash([mark; 32]), chunks)
}

#[test]
fn who_floods_is_left_with_what_others_leave_him() {
    let committee = committee(&[1; 4]);
    let led = |by: &dyn Fn(u64) -> u16| Standing {
        leaders: Standing::views(VIEW).map(|view| MemberIndex(by(view))).collect(),
        ..standing(&committee, VIEW, 0)
    };
    let take = |carrier: &mut Carrier, from: usize, piece: &Piece| {
        let message = Carried::Piece(Box::new(piece.clone()));
        carrier.step(NOW, CarriageInput::Message { from: node(from), message })
    };
    // More than any proposal of this chain has.
    let most = chain().rules.params().max_block_bytes as usize + MORE_BYTES;
    assert!(most <= MAX_PROPOSAL);
    let each = LEADER_BYTES / most;
    let mut alone = carrier(1, Way::Auto, led(&|_| 2));
    let too_large = &bulk(2, VIEW.0, 1, most + 1)[1];
    assert!(matches!(take(&mut alone, 2, too_large)[..], [CarriageEffect::Misbehaved(..)]));
    // One leader, as many and as large as it can.
    for view in VIEW.0 - VIEWS_BEHIND..=VIEW.0 + VIEWS_AHEAD {
        for mark in 1..4 {
            take(&mut alone, 2, &bulk(2, view, mark, most)[1]);
        }
    }
    assert_eq!(alone.footprint(), (each, each * most, 0));
    // Two take all that they may; a third leads the view between theirs.
    let who = |view: u64| 2 + u16::from(view > VIEW.0) - 2 * u16::from(view == VIEW.0);
    let mut among = carrier(1, Way::Auto, led(&who));
    for view in (VIEW.0 - VIEWS_BEHIND..VIEW.0).chain(VIEW.0 + 1..=VIEW.0 + VIEWS_AHEAD) {
        for mark in 1..3 {
            let leader = usize::from(who(view));
            take(&mut among, leader, &bulk(leader, view, mark, most)[1]);
        }
    }
    assert_eq!(among.footprint(), (2 * each, 2 * each * most, 0));
    let passed_on = |effects: Vec<CarriageEffect>| effects.iter().any(|e| matches!(e, CarriageEffect::Forward(..)));
    assert!(passed_on(take(&mut among, 0, &bulk(0, VIEW.0, 7, most)[1])), "there is room");
    assert_eq!(among.footprint().0, 2 * each + 1);
    assert!((2 * each + 2) * most > ALL_BYTES, "and for one more there is not");
    assert!(passed_on(take(&mut among, 0, &bulk(0, VIEW.0, 8, most)[1])), "one of those with more gives way");
    assert_eq!(among.footprint(), (2 * each + 1, (2 * each + 1) * most, 0));
    assert!(!passed_on(take(&mut among, 3, &bulk(3, VIEW.0 + 4, 9, most)[1])), "not for who has most");
}

#[test]
fn the_format_is_frozen() {
    let chunks = disperse(&[3; 40], 4).unwrap();
    let piece = signed(0, VIEW, BlockHash([9; 32]), vec![chunks[2].clone()]).remove(0);
    crate::codec::golden("carried-piece", &Carried::Piece(Box::new(piece)).to_bytes());
    let ask = Carried::Ask { epoch: EPOCH, view: VIEW, manifest: B256::repeat_byte(4) };
    crate::codec::golden("carried-ask", &ask.to_bytes());
}
