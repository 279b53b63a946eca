//! Each rule of a block, broken.

use cascade_consensus::InvalidBlock;
use cascade_primitives::{
    Block, BlockHash, Bytes, Decode, Encode, Epoch, HeaderKind, Height, NodeId, Ready, SystemItem, ThresholdKeys,
    TimestampMs, View, VoteTarget, block::FormError,
};
use proptest::prelude::*;

use crate::chain::{Chain, Next, RIGHT, certificate, result, seal};

const ORDINARY: Next = Next { view: View(0), commit: true, transaction: true, ready: 0 };

fn ordinary(chain: &Chain) -> Next {
    Next { view: chain.next_view(), ..ORDINARY }
}

/// Breaks a rule of the block after `height` ordinary ones, made for `skip` views later; answers the reason.
fn reason(height: u64, skip: u64, break_it: impl FnOnce(&mut Block)) -> InvalidBlock {
    let mut chain = Chain::new();
    chain.grow(height);
    let view = View(chain.next_view().0 + skip);
    let right = chain.make(Next { view, ..ORDINARY });
    assert!(chain.tip().child(&chain.rules, &seal(right.clone())).is_ok(), "unbroken it is valid");
    let mut broken = right;
    break_it(&mut broken);
    chain.tip().child(&chain.rules, &seal(broken)).expect_err("the broken block is refused")
}

#[test]
fn each_header_field_that_does_not_follow_from_the_parent_is_named() {
    type Break = fn(&mut Block);
    let cases: [(&str, Break); 11] = [
        ("chain id", |b| b.header.chain_id.0 += 1),
        ("genesis hash", |b| b.header.genesis_hash.0[0] ^= 1),
        ("fork", |b| b.header.fork.0 += 1),
        ("kind", |b| {
            b.header.kind = HeaderKind::Filler;
            b.body.transactions.clear();
        }),
        ("height", |b| b.header.height.0 += 1),
        ("parent", |b| b.header.parent.0[0] ^= 1),
        ("timestamp", |b| b.header.timestamp = TimestampMs(1000)),
        ("committee root", |b| b.header.committee_root.0[0] ^= 1),
        ("next committee root", |b| b.header.next_committee_root.0[0] ^= 1),
        ("history root", |b| b.header.history_root.0[0] ^= 1),
        ("epoch", |b| b.header.epoch.0 += 1),
    ];
    for (field, break_it) in cases {
        assert_eq!(reason(5, 0, break_it), InvalidBlock::Field(field));
    }
    assert_eq!(reason(5, 0, |b| b.header.view = View(5)), InvalidBlock::Field("view"));
}

#[test]
fn p15_a_time_equal_to_the_parents_is_refused() {
    let mut chain = Chain::new();
    chain.grow(4);
    let mut block = chain.make(ordinary(&chain));
    block.header.timestamp = chain.tip().timestamp;
    assert_eq!(chain.tip().child(&chain.rules, &seal(block)), Err(InvalidBlock::Field("timestamp")));
}

#[test]
fn the_parents_certificate_must_be_of_the_parent() {
    let wrong = InvalidBlock::ParentCertificate;
    assert_eq!(reason(5, 0, |b| b.body.certificates.parent = None), wrong);
    assert_eq!(reason(5, 0, |b| b.body.certificates.parent.as_mut().unwrap().target.view.0 -= 1), wrong);
    assert_eq!(reason(5, 0, |b| b.body.certificates.parent.as_mut().unwrap().target.block.0[0] ^= 1), wrong);
    let commit = |b: &mut Block| {
        let parent = b.body.certificates.parent.as_mut().unwrap();
        parent.target = VoteTarget::commit(parent.target.epoch, parent.target.view, parent.target.block);
    };
    assert_eq!(reason(5, 0, commit), wrong);
    // View 0 is vouched for by the epoch's start; a certificate would be superfluous.
    let extra = |b: &mut Block| {
        b.body.certificates.parent = Some(certificate(VoteTarget::prepare(Epoch(0), View(0), b.header.parent)));
    };
    assert_eq!(reason(0, 0, extra), wrong);
}

#[test]
fn every_view_between_must_be_covered_once() {
    let gap = |e: InvalidBlock| matches!(e, InvalidBlock::Gap { .. });
    // Block 5 stands in view 5, the end of a term; this one nine views later needs two skips.
    assert!(gap(reason(5, 9, |b| drop(b.body.certificates.skips.pop()))));
    assert!(gap(reason(5, 9, |b| drop(b.body.certificates.skips.remove(0)))));
    assert!(gap(reason(5, 9, |b| b.body.certificates.skips.clear())));
    assert!(gap(reason(5, 9, |b| b.body.certificates.skips.reverse())));
    assert!(gap(reason(5, 9, |b| b.body.certificates.skips[0].target.view.0 += 1)), "a skip covers nothing before it");
    assert!(gap(reason(5, 9, |b| b.body.certificates.skips[1].target.epoch.0 += 1)));
    let doubled = |b: &mut Block| {
        let again = b.body.certificates.skips[1].clone();
        b.body.certificates.skips.push(again);
    };
    assert!(gap(reason(5, 9, doubled)), "a superfluous one would let two encodings stand for one block");
    let prepare = |b: &mut Block| {
        b.body.certificates.skips[0].target = VoteTarget::prepare(Epoch(0), View(6), BlockHash([1; 32]));
    };
    assert!(gap(reason(5, 9, prepare)));
}

#[test]
fn the_commit_certificate_is_of_an_ancestor_and_never_older() {
    let wrong = InvalidBlock::CommitCertificate;
    assert_eq!(reason(5, 0, |b| b.body.certificates.commit.as_mut().unwrap().target.block.0[0] ^= 1), wrong);
    assert_eq!(reason(5, 0, |b| b.body.certificates.commit.as_mut().unwrap().target.view.0 -= 1), wrong);
    assert_eq!(reason(5, 0, |b| b.body.certificates.commit.as_mut().unwrap().target.epoch.0 += 1), wrong);
    let mut chain = Chain::new();
    chain.grow(5);
    let older = &chain.contexts[3];
    let mut block = chain.make(ordinary(&chain));
    block.body.certificates.commit = Some(certificate(VoteTarget::commit(older.epoch, older.view, older.hash)));
    assert_eq!(chain.tip().child(&chain.rules, &seal(block)), Err(wrong), "its parent carries a newer one");
}

#[test]
fn results_are_exactly_those_that_are_due() {
    let wrong = |e: InvalidBlock| matches!(e, InvalidBlock::Results { .. });
    assert!(wrong(reason(6, 0, |b| b.header.results.clear())));
    assert!(wrong(reason(6, 0, |b| {
        let next = b.header.results.last().unwrap().height.next();
        b.header.results.push(result(next));
    })));
    assert!(wrong(reason(6, 0, |b| b.header.results[0].height = Height(1))));
}

#[test]
fn without_finality_blocks_stay_empty_after_d() {
    let mut chain = Chain::new();
    chain.grow(5);
    for _ in 0..2 {
        chain.push(Next { commit: false, ..ordinary(&chain) });
    }
    // The newest commit certificate carried is of height 4; with D = 3 height 8 is the first that must be empty.
    let mut block = chain.make(Next { commit: false, ..ordinary(&chain) });
    assert!(block.body.transactions.is_empty());
    block.body.transactions.push(Bytes::from_static(b"x"));
    assert_eq!(chain.tip().child(&chain.rules, &seal(block)), Err(InvalidBlock::NotEmpty));
    let back = chain.make(ordinary(&chain));
    assert!(!back.body.transactions.is_empty(), "with a commit certificate it may carry transactions again");
}

#[test]
fn after_its_last_content_height_an_epoch_takes_nothing() {
    let mut chain = Chain::new();
    chain.grow(9);
    assert!(chain.tip().in_tail() && !chain.tip().ended);
    let mut block = chain.make(ordinary(&chain));
    block.body.transactions.push(Bytes::from_static(b"x"));
    assert_eq!(chain.tip().child(&chain.rules, &seal(block)), Err(InvalidBlock::NotEmpty));
    chain.grow(12);
    assert!(chain.tip().can_hand_over(), "the results of height 9 stand in block 12");
}

#[test]
fn a_new_epoch_begins_with_proof_that_the_old_one_ended() {
    let wrong = InvalidBlock::CommitCertificate;
    assert_eq!(reason(12, 0, |b| b.body.certificates.commit = None), wrong);
    assert_eq!(reason(12, 0, |b| b.body.certificates.commit.as_mut().unwrap().target.view.0 -= 1), wrong);
    assert_eq!(reason(12, 0, |b| b.body.certificates.commit.as_mut().unwrap().target.block.0[0] ^= 1), wrong);
}

#[test]
fn fillers_are_empty_and_prove_the_end_of_their_epoch() {
    let mut chain = Chain::new();
    chain.grow(12);
    let last = chain.tip().clone();
    // The old committee goes on above its last block.
    let mut old = chain.clone();
    let filler = {
        let mut block = old.make(Next { view: View(1), ..ORDINARY });
        block.header.kind = HeaderKind::Filler;
        block.header.epoch = Epoch(0);
        block.header.view = last.view.next();
        block.header.committee_root = last.committee.root();
        block.header.next_committee_root = last.next_committee.root();
        block.header.results.clear();
        block.body.transactions.clear();
        block.header.ordered_gas = 0;
        block.body.certificates.parent = Some(certificate(VoteTarget::prepare(Epoch(0), last.view, last.hash)));
        block.body.certificates.commit = None;
        seal(block)
    };
    let above = last.child(&chain.rules, &filler).expect("a filler stands on the last block");
    assert!(above.ended && !above.can_hand_over());
    let mut full = filler.clone().into_block();
    full.body.transactions.push(Bytes::from_static(b"x"));
    assert!(matches!(last.child(&chain.rules, &seal(full)), Err(InvalidBlock::Form(FormError::NotEmpty(_)))));
    // The next epoch stands on the last block, and the filler's header leads to the certificate.
    let mut first = old.make(Next { view: View(1), ..ORDINARY });
    first.body.certificates.commit = Some(certificate(VoteTarget::commit(Epoch(0), filler.header.view, filler.hash())));
    first.body.certificates.fillers = vec![filler.header.clone()];
    assert!(last.child(&chain.rules, &seal(first.clone())).is_ok());
    first.body.certificates.fillers.clear();
    assert_eq!(last.child(&chain.rules, &seal(first)), Err(InvalidBlock::CommitCertificate));
    old.push(Next { view: View(1), ..ORDINARY });
    assert_eq!(old.tip().epoch, Epoch(1));
}

#[test]
fn readiness_counts_once_and_for_members_alone() {
    let statement = |node: u8, epoch: u64| {
        SystemItem::Ready(Ready {
            epoch: Epoch(epoch),
            node: NodeId([node; 32]),
            keys: ThresholdKeys::default(),
            signature: RIGHT,
        })
    };
    let wrong = InvalidBlock::SystemItem(0);
    let with = |items: Vec<SystemItem>| {
        let mut chain = Chain::new();
        let mut block = chain.make(ordinary(&chain));
        block.body.system = items;
        let block = seal(block);
        let child = chain.tip().child(&chain.rules, &block);
        if let Ok(child) = &child {
            chain.contexts.push(std::sync::Arc::new(child.clone()));
        }
        child.map(|c| c.ready.len())
    };
    assert_eq!(with(vec![statement(1, 1), statement(2, 1)]), Ok(2));
    assert_eq!(with(vec![statement(9, 1)]), Err(wrong.clone()), "no member");
    assert_eq!(with(vec![statement(1, 2)]), Err(wrong), "another epoch");
    assert_eq!(with(vec![statement(1, 1), statement(1, 1)]), Err(InvalidBlock::SystemItem(1)), "twice");
}

#[test]
fn an_epoch_whose_successors_are_not_ready_is_extended() {
    let mut chain = Chain::new();
    while chain.tip().height.0 < 9 {
        chain.push(ordinary(&chain));
    }
    assert_eq!((chain.tip().content_end, chain.tip().extensions), (Height(13), 1));
    assert!(!chain.tip().in_tail());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn random_chains_follow_the_rules_and_their_contexts_round_trip(
        steps in prop::collection::vec((0u64..12, any::<bool>(), any::<bool>(), 0u8..5), 1..60),
    ) {
        let mut chain = Chain::new();
        for (skip, commit, transaction, ready) in steps {
            // Most blocks follow at once; some after skipped views.
            let view = View(chain.next_view().0 + skip.saturating_sub(8));
            chain.push(Next { view, commit, transaction, ready });
            let (tip, block) = (chain.tip(), chain.blocks.last().unwrap());
            prop_assert_eq!(&cascade_consensus::ChainContext::from_slice(&tip.to_bytes()).unwrap(), tip.as_ref());
            prop_assert!(block.header.timestamp > chain.blocks[chain.blocks.len() - 2].header.timestamp);
            prop_assert!(tip.last_result <= tip.carried_commit() || block.header.height == Height(0));
            prop_assert!(tip.last_result.0 + 3 <= tip.height.0 || tip.last_result == Height(0));
        }
    }
}
