//! What a peer may send that no honest one sends, and what it must not bring about.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use cascade_consensus::{Core, Effect, Input, Message, Record};
use cascade_crypto::VoteScheme;
use cascade_primitives::{
    B256, Block, BlockHash, BlsPublicKey, BlsSignature, Bytes, Certificate, Epoch, Height, MemberIndex, NodeId,
    SealedBlock, View, Vote, VoteKind, VoteTarget, block::MAX_SKIPS_PER_BLOCK,
};

use crate::{
    chain::{Chain, Next, RIGHT, Scheme, certificate, seal},
    core::{NOW, leader, message, own_votes, prepared, proposal, restarted, restarted_with},
};

fn say(core: &mut Core, at: u64, from: u8, message: Message) -> Vec<Effect> {
    core.step(NOW.plus(at), Input::Message { from: NodeId([from + 1; 32]), message })
}

fn blamed(effects: &[Effect]) -> Vec<u8> {
    let blamed = |e: &Effect| if let Effect::Misbehaved(peer, _) = e { Some(peer.0[0].wrapping_sub(1)) } else { None };
    effects.iter().filter_map(blamed).collect()
}

fn fatal(effects: &[Effect]) -> bool {
    effects.iter().any(|e| matches!(e, Effect::Fatal(_)))
}

/// Whom a block is asked of.
fn asked(effects: &[Effect]) -> Vec<u8> {
    let asked = |e: &Effect| if let Effect::Send(to, Message::GetBlock(_)) = e { Some(to.0[0] - 1) } else { None };
    effects.iter().filter_map(asked).collect()
}

/// A chain of four blocks, the core of a member at the third that does not lead the fourth's view, and who does.
fn before_the_fourth() -> (Chain, Core, u8) {
    let mut chain = Chain::new();
    chain.grow(4);
    let records = [prepared(&chain, 3)];
    let leads = leader(&mut restarted(&chain, 0, 3, 3, records.to_vec()));
    let core = restarted(&chain, (leads + 1) % 4, 3, 3, records.to_vec());
    (chain, core, leads)
}

fn with_another_body(block: &SealedBlock) -> Arc<SealedBlock> {
    let mut other = block.clone().into_block();
    other.body.transactions.push(Bytes::from_static(b"another"));
    let other = SealedBlock::new(other);
    assert_eq!(other.hash(), block.hash(), "the hash is the header's");
    Arc::new(other)
}

#[test]
fn a_header_with_another_body_keeps_nobody_from_the_block() {
    let (chain, mut core, leads) = before_the_fourth();
    let block = Arc::clone(&chain.blocks[4]);
    let lie = with_another_body(&block);
    let effects = proposal(&mut core, 1, &lie, leads);
    assert_eq!(blamed(&effects), [leads]);
    assert_eq!(own_votes(&effects, VoteKind::Prepare) + own_votes(&effects, VoteKind::Skip), 0, "{effects:?}");
    assert_eq!(core.footprint().blocks, 1, "nothing of it is kept");

    // The others prepared the block. It is asked for, from its leader first, who lies again.
    let Record::Certificate(certificate) = prepared(&chain, 4) else { unreachable!() };
    let effects = message(&mut core, 2, Message::Certificate(certificate));
    assert!(!fatal(&effects), "{effects:?}");
    assert_eq!(asked(&effects), [leads]);
    let effects = say(&mut core, 3, leads, Message::Block(Arc::clone(&lie)));
    assert_eq!((blamed(&effects), core.footprint().blocks), (vec![leads], 1));

    // Who was not asked is not listened to, whatever he sends; then others are asked.
    let me = (leads + 1) % 4;
    let unasked = (leads + 2) % 4;
    for sent in [&lie, &block] {
        say(&mut core, 4, unasked, Message::Block(Arc::clone(sent)));
        assert_eq!(core.footprint().blocks, 1);
    }
    let mut at = 4;
    let others = loop {
        let next = core.wake_at().0 - NOW.0;
        let effects = core.step(NOW.plus(next), Input::Tick);
        at = at.max(next);
        let others: Vec<u8> = asked(&effects).into_iter().filter(|peer| *peer != leads).collect();
        if let Some(peer) = others.first() {
            break *peer;
        }
        assert!(at < 60_000, "nobody else is asked");
    };
    assert_ne!(others, me);
    let effects = say(&mut core, at, others, Message::Block(Arc::clone(&block)));
    assert!(!fatal(&effects) && blamed(&effects).is_empty(), "{effects:?}");
    assert_eq!(core.footprint().blocks, 2);
    let finality = chain.finality(block.header.height).certificate;
    let effects = say(&mut core, at, unasked, Message::Certificate(finality));
    assert_eq!(crate::core::final_heights(&effects), [4]);
}

#[test]
fn the_true_block_is_prepared_after_a_lie_about_it() {
    let (chain, mut core, leads) = before_the_fourth();
    let block = Arc::clone(&chain.blocks[4]);
    proposal(&mut core, 1, &with_another_body(&block), leads);
    let mut effects = proposal(&mut core, 2, &block, leads);
    let verdict = cascade_consensus::Verdict::Valid;
    effects.extend(core.step(NOW.plus(3), Input::Validated { hash: block.hash(), verdict, da: block.header.da }));
    assert_eq!(own_votes(&effects, VoteKind::Prepare), 1, "{effects:?}");
}

/// A block like the fourth, at another place and without certificates.
fn elsewhere(chain: &Chain, view: u64, height: u64, parent: u8) -> Block {
    let mut block = chain.blocks[4].as_ref().clone().into_block();
    block.header.parent = BlockHash([parent; 32]);
    block.header.view = View(view);
    block.header.height = Height(height);
    block.body.certificates = Default::default();
    block
}

#[test]
fn a_block_that_no_chain_from_the_head_reaches_is_not_kept() {
    let (chain, mut core, leads) = before_the_fourth();
    for (view, height) in [(4, 5), (4, u64::MAX), (5, u64::MAX / 2), (5, 6), (5, 3), (5, 0)] {
        let block = Arc::new(seal(elsewhere(&chain, view, height, 9)));
        let effects = proposal(&mut core, 1, &block, leads);
        assert!(asked(&effects).is_empty(), "{effects:?}");
        assert_eq!((core.footprint().blocks, core.footprint().orphan_bytes), (1, 0), "view {view}, height {height}");
    }
}

#[test]
fn a_block_that_is_wrong_whatever_its_parent_is_is_not_kept_and_ends_its_view() {
    let chain = || {
        let (chain, core, leads) = before_the_fourth();
        (chain.blocks[4].as_ref().clone().into_block(), core, leads)
    };
    let wrong: [fn(&mut Block); 6] = [
        |b| b.header.version += 1,
        |b| b.body.certificates.parent.as_mut().expect("it has one").target.block = BlockHash([3; 32]),
        |b| b.body.certificates.parent = Some(certificate(VoteTarget::commit(Epoch(0), View(3), b.header.parent))),
        |b| b.body.certificates.skips = vec![certificate(VoteTarget::skip(Epoch(0), View(9)))],
        |b| b.body.certificates.skips = vec![certificate(VoteTarget::prepare(Epoch(0), View(3), b.header.parent))],
        |b| b.body.certificates.commit = Some(certificate(VoteTarget::skip(Epoch(0), View(3)))),
    ];
    for (i, change) in wrong.into_iter().enumerate() {
        let (mut block, mut core, leads) = chain();
        block.header.parent = if i == 1 { block.header.parent } else { BlockHash([8; 32]) };
        if let (0, Some(parent)) = (i, &mut block.body.certificates.parent) {
            parent.target.block = block.header.parent;
        }
        change(&mut block);
        let effects = proposal(&mut core, 1, &Arc::new(seal(block)), leads);
        assert_eq!((blamed(&effects), core.footprint().blocks), (vec![leads], 1), "case {i}: {effects:?}");
        assert!(own_votes(&effects, VoteKind::Skip) > 0, "case {i}: {effects:?}");
    }
    // In a later view it is remembered until that view begins.
    let (mut block, mut core, leads) = chain();
    block.header.version += 1;
    block.header.view = View(5);
    let effects = proposal(&mut core, 1, &Arc::new(seal(block)), leads);
    assert_eq!(own_votes(&effects, VoteKind::Skip), 0, "{effects:?}");
    let skip = certificate(VoteTarget::prepare(Epoch(0), View(4), BlockHash([8; 32])));
    let effects = message(&mut core, 2, Message::Certificate(Arc::new(skip)));
    assert_eq!((core.position().1, own_votes(&effects, VoteKind::Skip)), (View(5), 1), "{effects:?}");
}

/// A chain in which one member leads a hundred views, and its blocks may be large.
fn long_terms() -> (Chain, Core, u8) {
    let mut chain = Chain::with(|genesis| genesis.params.views_per_term = 100);
    chain.grow(4);
    let records = [prepared(&chain, 3)];
    let leads = leader(&mut restarted(&chain, 0, 3, 3, records.to_vec()));
    let core = restarted(&chain, (leads + 1) % 4, 3, 3, records.to_vec());
    (chain, core, leads)
}

#[test]
fn orphans_are_bounded_by_bytes_and_who_floods_pays_for_it() {
    let (chain, mut core, leads) = long_terms();
    let next = core.leaders(2)[1];
    assert_eq!(next.0, View(101));
    let other = next.1.0[0] - 1;
    assert_ne!(other, leads);
    let honest = Arc::new(seal(elsewhere(&chain, 101, 90, 77)));
    proposal(&mut core, 1, &honest, other);
    let params = chain.rules.params();
    let large = Bytes::from(vec![7; params.max_tx_bytes as usize]);
    let count = (params.max_block_bytes / params.max_tx_bytes) as usize;
    for view in 10..40_u64 {
        let mut block = elsewhere(&chain, view, view, view as u8);
        block.body.transactions = vec![large.clone(); count];
        proposal(&mut core, 2, &Arc::new(seal(block)), leads);
        assert!(core.footprint().orphan_bytes <= 128 << 20, "{:?}", core.footprint());
    }
    assert!(core.footprint().orphan_bytes > 100 << 20, "{:?}", core.footprint());
    // Small ones count too: there are never more than so many.
    for view in 40..100 {
        proposal(&mut core, 3, &Arc::new(seal(elsewhere(&chain, view, view, view as u8))), leads);
    }
    assert!(core.footprint().blocks <= 1 + 256);
    let answered =
        core.step(NOW.plus(9000), Input::Message { from: NodeId([3; 32]), message: Message::GetBlock(honest.hash()) });
    assert!(answered.iter().any(|e| matches!(e, Effect::Send(_, Message::Block(_)))), "the honest one is still there");
    assert!(!core.live_records().iter().any(|r| matches!(r, Record::Block(_))), "no vote rests on any of them");
}

#[test]
fn a_block_that_this_node_prepared_stays_in_its_log_though_its_parent_is_lost() {
    let mut chain = Chain::new();
    chain.grow(5);
    let block = Record::Block(Arc::clone(&chain.blocks[5]));
    let target = VoteTarget::prepare(Epoch(0), View(5), chain.blocks[5].hash());
    let vote = Record::Vote(Vote { target, signer: MemberIndex(0), signature: RIGHT });
    let core = restarted(&chain, 0, 3, 3, vec![prepared(&chain, 4), block.clone(), vote]);
    assert!(core.footprint().orphan_bytes > 0);
    assert!(core.live_records().contains(&block));
    let core = restarted(&chain, 0, 3, 3, vec![prepared(&chain, 4), block.clone()]);
    assert!(!core.live_records().contains(&block), "nothing rests on it without the vote");
}

#[test]
fn an_orphan_whose_parent_turns_out_to_be_no_parent_is_invalid_and_the_parent_is_not_kept() {
    let (chain, mut core, leads) = long_terms();
    let mut wrong = seal(elsewhere(&chain, 20, 9, 50));
    for (view, height, ask) in [(30, 11, true), (21, 10, false)] {
        // At the first, the height does not fit; the second one fits.
        let mut child = elsewhere(&chain, view, height, 0);
        child.header.parent = wrong.hash();
        let child = Arc::new(seal(child));
        let effects = proposal(&mut core, 1, &child, leads);
        assert_eq!(asked(&effects), [leads], "{effects:?}");
        let effects = say(&mut core, 2, leads, Message::Block(Arc::new(wrong.clone())));
        assert_eq!(blamed(&effects), if ask { vec![leads] } else { vec![] }, "{effects:?}");
        assert_eq!(core.footprint().blocks, if ask { 2 } else { 4 }, "the child, and its parent if it can be");
        wrong = seal(elsewhere(&chain, 20, 9, 51));
    }
}

/// Counts what is verified.
#[derive(Debug, Default)]
struct Counting(AtomicUsize);

impl Counting {
    fn take(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

impl VoteScheme for Counting {
    fn verify(&self, key: &BlsPublicKey, digest: &B256, signature: &BlsSignature) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed);
        Scheme.verify(key, digest, signature)
    }

    fn aggregate(&self, signatures: &[BlsSignature]) -> Option<BlsSignature> {
        Scheme.aggregate(signatures)
    }

    fn verify_aggregate(&self, keys: &[BlsPublicKey], digest: &B256, signature: &BlsSignature) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed);
        Scheme.verify_aggregate(keys, digest, signature)
    }
}

fn counting() -> (Chain, Core, u8, Arc<Counting>) {
    let (chain, _, leads) = before_the_fourth();
    let scheme = Arc::new(Counting::default());
    let counted: Arc<dyn VoteScheme> = Arc::<Counting>::clone(&scheme);
    let core = restarted_with(counted, &chain, (leads + 1) % 4, 3, 3, vec![prepared(&chain, 3)]);
    scheme.take();
    (chain, core, leads, scheme)
}

fn wrong(target: VoteTarget) -> Certificate {
    Certificate { signature: BlsSignature::ZERO, ..certificate(target) }
}

#[test]
fn a_proposal_costs_one_wrong_signature_at_most_and_out_of_turn_none() {
    let (chain, mut core, leads, scheme) = counting();
    let far = 1 + 5 * MAX_SKIPS_PER_BLOCK as u64;
    let mut block = elsewhere(&chain, far, 4, 9);
    block.body.certificates.skips =
        (0..MAX_SKIPS_PER_BLOCK as u64).map(|term| wrong(VoteTarget::skip(Epoch(0), View(1 + 5 * term)))).collect();
    let block = Arc::new(seal(block));
    let me = (leads + 1) % 4;
    let turns: Vec<(usize, usize)> = (0..4)
        .filter(|i| *i != me)
        .map(|i| {
            let effects = proposal(&mut core, 1, &block, i);
            (blamed(&effects).len(), scheme.take())
        })
        .collect();
    assert!(turns.iter().all(|(blamed, verified)| *blamed == 1 && *verified <= 1), "{turns:?}");
    assert!(turns.iter().filter(|(_, verified)| *verified == 0).count() >= 2, "two have no turn there: {turns:?}");
    // A right certificate before the wrong one is learned, and those behind it are not looked at.
    let mut block = elsewhere(&chain, 4, 4, 9);
    block.header.view = View(5);
    let parent = VoteTarget::prepare(Epoch(0), View(4), block.header.parent);
    block.body.certificates.parent = Some(certificate(parent));
    block.body.certificates.skips = vec![wrong(VoteTarget::skip(Epoch(0), View(4)))];
    block.body.certificates.commit = Some(wrong(VoteTarget::commit(Epoch(0), View(4), BlockHash([2; 32]))));
    proposal(&mut core, 2, &Arc::new(seal(block)), leads);
    assert_eq!((core.position().1, scheme.take()), (View(5), 2));
}

#[test]
fn peers_outside_of_the_committee_make_little_work() {
    let (_, mut core, leads, scheme) = counting();
    let outsider = |i: u64| {
        let mut id = [0xee; 32];
        id[..8].copy_from_slice(&i.to_le_bytes());
        NodeId(id)
    };
    let mut view = 100;
    let mut flood = |core: &mut Core, at: u64, from: NodeId| {
        view += 1;
        let message = Message::Certificate(Arc::new(wrong(VoteTarget::skip(Epoch(0), View(view)))));
        blamed(&core.step(NOW.plus(at), Input::Message { from, message })).len()
    };
    let blames: usize = (0..1000).map(|_| flood(&mut core, 1, outsider(0))).sum();
    assert_eq!((blames, scheme.take()), (4, 4), "one peer");
    for i in 1..1000 {
        flood(&mut core, 1, outsider(i));
    }
    assert_eq!(scheme.take(), 60, "all of them");
    // A member is heard all the same, and everybody again in the next window.
    let skip = Message::Certificate(Arc::new(certificate(VoteTarget::skip(Epoch(0), View(4)))));
    core.step(NOW.plus(2), Input::Message { from: outsider(2000), message: skip.clone() });
    assert_eq!(core.position().1, View(4));
    let mut member = core;
    say(&mut member, 2, leads, skip);
    assert_eq!(member.position().1, View(6));
    let later = Message::Certificate(Arc::new(certificate(VoteTarget::skip(Epoch(0), View(6)))));
    member.step(NOW.plus(60_000), Input::Message { from: outsider(2000), message: later });
    assert_eq!(member.position().1, View(11));
}

#[test]
fn blocks_are_served_once_in_a_while_and_only_so_many_bytes_of_them() {
    let mut chain = Chain::new();
    let large = Bytes::from(vec![7; 100 << 10]);
    while chain.tip().height.0 < 9 {
        let next = Next { view: chain.next_view(), commit: true, transaction: true, ready: 0 };
        let mut block = chain.make(next);
        block.body.transactions = vec![large.clone(); 20];
        block.header.ordered_gas = 20;
        block.header.body_root = block.body.root();
        chain.append(block);
    }
    let mut core = restarted(&chain, 0, 9, 9, Vec::new());
    let answer = |core: &mut Core, at: u64, from: u8, height: usize| {
        let effects = say(core, at, from, Message::GetBlock(chain.blocks[height].hash()));
        effects.iter().filter(|e| matches!(e, Effect::Send(_, Message::Block(_)))).count()
    };
    let same: usize = (0..500).map(|_| answer(&mut core, 1, 3, 9)).sum();
    assert_eq!(same, 1, "one answer to many questions");
    assert_eq!(answer(&mut core, 1, 2, 9), 1, "another peer has an answer of its own");
    let many: usize = (1..9).map(|height| answer(&mut core, 1, 3, height)).sum();
    assert_eq!(many, 4, "2 MB each, and 8 MiB are enough");
    let pause = chain.rules.params().leader_timeout_ms / 4;
    assert_eq!(answer(&mut core, 1 + pause, 3, 9), 1, "who asks again after the pause is answered again");
}

#[test]
fn who_signed_twice_is_proved_and_reported_once_in_a_view() {
    let (_, mut core, leads, scheme) = counting();
    let vote = |hash: u8, signature| {
        let target = VoteTarget::prepare(Epoch(0), View(5), BlockHash([hash; 32]));
        Message::Vote(Vote { target, signer: MemberIndex(u16::from(leads)), signature }, None)
    };
    let flood = |core: &mut Core, signature| {
        let all: Vec<Effect> = (1..200).flat_map(|i| say(core, 1, leads, vote(i, signature))).collect();
        (blamed(&all).len(), all.iter().filter(|e| matches!(e, Effect::Evidence(_))).count(), scheme.take())
    };
    assert_eq!(flood(&mut core, RIGHT), (1, 1, 2));
    // One whose signatures are wrong is blamed a few times, and proves nothing.
    let (_, mut core, _, scheme) = counting();
    say(&mut core, 1, leads, vote(250, RIGHT));
    let all: Vec<Effect> = (1..200).flat_map(|i| say(&mut core, 1, leads, vote(i, BlsSignature::ZERO))).collect();
    assert_eq!(blamed(&all).len(), 4);
    assert!(!all.iter().any(|e| matches!(e, Effect::Evidence(_))) && scheme.take() <= 8);
}
