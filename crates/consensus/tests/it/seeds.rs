//! The seed of an epoch is the beacon of the last content height of the epoch two before (decision 7).

use std::sync::Arc;

use cascade_consensus::{
    ChainContext, Core, Input, InvalidBlock, Start,
    election::{Leaders, epoch_seed},
};
use cascade_primitives::{
    B256, ChainParams, Decode, Encode, Epoch, Height, NodeId, ScheduledCommittee, SealedBlock, TransactionRule, View,
    block::FormError,
};
use proptest::prelude::*;

use crate::{
    chain::{Chain, Next, beacon, result, seal, sequencer},
    core::{NOW, restarted},
};

/// The seed that follows from the last content heights of epochs 0, 1, 2 ...
fn expected(chain: &Chain, epoch: u64, ends: &[u64]) -> B256 {
    let beacon = epoch.checked_sub(2).map(|e| beacon(Height(ends[e as usize])));
    epoch_seed(&chain.rules.signing.genesis_hash, Epoch(epoch), &beacon.unwrap_or_default())
}

/// Of every epoch that has ended, the last height that may carry content: `length` above the block that it stands on, if it
/// was not extended.
fn content_ends(chain: &Chain, length: u64) -> Vec<u64> {
    let lasts = chain.contexts.iter().filter(|c| c.can_hand_over()).map(|c| c.height.0);
    std::iter::once(length - 1).chain(lasts.map(|last| last + length)).collect()
}

fn assert_seeds(chain: &Chain, ends: &[u64]) {
    for context in &chain.contexts {
        let epoch = context.epoch.0;
        assert_eq!(
            context.seed(&chain.rules),
            expected(chain, epoch, ends),
            "epoch {epoch}, height {}",
            context.height
        );
        if context.can_hand_over() {
            let next = expected(chain, epoch + 1, ends);
            assert_eq!(context.next_seed(&chain.rules), next);
            assert_eq!(context.hand_over(&chain.rules).seed(&chain.rules), next);
        }
    }
}

#[test]
fn a_seed_is_the_beacon_of_the_last_content_height_two_epochs_before() {
    let mut chain = Chain::new();
    (0..5).for_each(|_| {
        chain.grow_to_end();
        chain.push(Next { view: View(1), commit: true, transaction: true, ready: 0 });
    });
    assert_eq!(chain.tip().epoch, Epoch(5));
    assert_seeds(&chain, &content_ends(&chain, 10));
    // No two epochs have the same seed, though none of the first two has a beacon to be made of.
    let seeds: std::collections::BTreeSet<B256> = chain.contexts.iter().map(|c| c.seed(&chain.rules)).collect();
    assert_eq!(seeds.len(), 6);
}

#[test]
fn an_extended_epoch_gives_the_beacon_of_its_last_extension() {
    let mut chain = Chain::new();
    // Nobody is ready at 9, nor at 13; then all are.
    while chain.tip().height < Height(13) {
        chain.push(Next { view: chain.next_view(), commit: true, transaction: true, ready: 0 });
    }
    (0..3).for_each(|_| {
        chain.grow_to_end();
        chain.push(Next { view: View(1), commit: true, transaction: true, ready: 0 });
    });
    let mut ends = content_ends(&chain, 10);
    assert_eq!(ends[0], 9);
    ends[0] = 17;
    assert_seeds(&chain, &ends);
}

#[test]
fn where_one_header_carries_many_results_the_seed_is_still_that_of_the_last_content_height() {
    let mut chain = Chain::new();
    chain.grow(8);
    // The statements of readiness are in; finality stays away for a while, and comes back above the end.
    while chain.tip().height < Height(15) {
        chain.push(Next { view: chain.next_view(), commit: false, transaction: false, ready: 0 });
    }
    assert!(!chain.tip().ended);
    chain.grow_to_end();
    let last = chain.blocks.last().unwrap();
    let heights: Vec<u64> = last.header.results.iter().map(|r| r.height.0).collect();
    assert!(heights.contains(&9) && heights.last() > Some(&9), "{heights:?}");
    chain.push(Next { view: View(1), commit: true, transaction: true, ready: 0 });
    (0..2).for_each(|_| {
        chain.grow_to_end();
        chain.push(Next { view: View(1), commit: true, transaction: true, ready: 0 });
    });
    assert_seeds(&chain, &content_ends(&chain, 10));
}

#[test]
fn dropped_candidates_change_no_seed() {
    let mut chain = Chain::with(|genesis| {
        genesis.params.epoch_extensions_max = 0;
        let sequencers = (1..=5).map(sequencer).collect();
        genesis.committees.push(ScheduledCommittee { from_epoch: Epoch(1), sequencers });
    });
    // Three of five are no quorum.
    chain.push(Next { view: chain.next_view(), commit: true, transaction: true, ready: 3 });
    while !chain.tip().can_hand_over() {
        chain.push(Next { view: chain.next_view(), commit: true, transaction: true, ready: 0 });
    }
    assert_eq!(chain.tip().next_committee.members().len(), 3);
    assert_eq!(chain.tip().beacons.own, beacon(Height(9)));
    assert_eq!(chain.tip().next_seed(&chain.rules), expected(&chain, 1, &[]));
}

/// The leaders that a node expects in the epoch that its head is in, or that begins above it.
fn leaders(chain: &Chain, core: &mut Core, height: u64, ends: &[u64]) {
    let context = &chain.contexts[height as usize];
    let (epoch, committee) = match context.can_hand_over() {
        true => (context.epoch.next(), &context.next_committee),
        false => (context.epoch, &context.committee),
    };
    let mut right = Leaders::new(expected(chain, epoch.0, ends), committee, 5);
    for (view, node) in core.leaders(20) {
        assert_eq!(node, committee.members()[right.of_view(view).index()].node, "epoch {epoch} view {view}");
    }
}

#[test]
fn a_node_that_catches_up_and_one_that_starts_again_expect_the_same_leaders() {
    let mut chain = Chain::new();
    (0..4).for_each(|_| {
        chain.grow_to_end();
        chain.push(Next { view: View(1), commit: true, transaction: true, ready: 0 });
    });
    let ends = content_ends(&chain, 10);
    let mut following = restarted(&chain, 0, 0, 0, Vec::new());
    let top = chain.tip().height.0;
    let mut from = 1;
    for height in 1..=top {
        // A range never goes beyond the end of an epoch.
        if height < top && !chain.contexts[height as usize].can_hand_over() {
            continue;
        }
        let blocks = chain.blocks[from as usize..=height as usize].to_vec();
        let finality = chain.finality(Height(height));
        following.step(NOW, Input::FinalRange { from: NodeId([4; 32]), blocks, finality });
        from = height + 1;
        assert_eq!(following.head().height, Height(height));
        leaders(&chain, &mut following, height, &ends);
        leaders(&chain, &mut restarted(&chain, 1, height, height, Vec::new()), height, &ends);
    }
    // What is on the disk is bytes.
    let stored = ChainContext::from_slice(&chain.tip().to_bytes()).unwrap();
    let start = Start {
        head: Arc::clone(chain.blocks.last().unwrap()),
        context: stored,
        finality: Some(chain.finality(Height(top))),
        recent: Vec::new(),
        results: Vec::new(),
        records: Vec::new(),
        sign_state: None,
    };
    let config = cascade_consensus::Config {
        rules: Arc::clone(&chain.rules),
        scheme: Arc::new(crate::chain::Scheme),
        signer: None,
        node: NodeId([9; 32]),
    };
    leaders(&chain, &mut Core::new(config, NOW, start), top, &ends);
}

#[test]
fn a_plain_chain_has_no_beacon_and_seeds_of_its_genesis_hash() {
    let mut chain = Chain::with(|genesis| {
        genesis.params =
            ChainParams { transactions: TransactionRule::Plain, data_squares: false, ..genesis.params.clone() };
    });
    let mut block = chain.make(Next { view: View(1), commit: false, transaction: false, ready: 0 });
    block.header.results = vec![result(Height(1))];
    let refused = chain.tip().child(&chain.rules, &seal(block));
    assert_eq!(refused, Err(InvalidBlock::Form(FormError::NotEmpty("beacon"))));
    let plain = |block: cascade_primitives::Block| {
        let mut block = block;
        block.header.results.iter_mut().for_each(|r| r.beacon = B256::ZERO);
        Arc::new(SealedBlock::new(block))
    };
    while chain.tip().epoch < Epoch(4) {
        let next = Next { view: chain.next_view(), commit: true, transaction: false, ready: 4 };
        let block = plain(chain.make(next));
        let context = chain.tip().child(&chain.rules, &block).unwrap();
        let of_genesis = epoch_seed(&chain.rules.signing.genesis_hash, context.epoch, &B256::ZERO);
        assert_eq!(context.seed(&chain.rules), of_genesis);
        chain.contexts.push(Arc::new(context));
        chain.blocks.push(block);
    }
}

#[test]
fn blocks_without_a_beacon_leave_the_seed_to_those_below() {
    let mut chain = Chain::new();
    // Of the first epoch only 7 has one, of the second none; 8 and 9, and all of 10 to 22, are empty.
    while chain.tip().epoch < Epoch(3) {
        let mut block = chain.make(Next { view: chain.next_view(), commit: true, transaction: true, ready: 4 });
        for result in block.header.results.iter_mut().filter(|r| r.height > Height(7) && r.height <= Height(22)) {
            result.beacon = B256::ZERO;
        }
        chain.append(block);
    }
    let seed = |epoch, beacon: &B256| epoch_seed(&chain.rules.signing.genesis_hash, Epoch(epoch), beacon);
    let of = |epoch| chain.contexts.iter().find(|c| c.epoch == Epoch(epoch)).unwrap().seed(&chain.rules);
    assert_eq!(of(2), seed(2, &beacon(Height(7))));
    assert_eq!(of(3), seed(3, &B256::ZERO), "nothing was opened in it: as if there were no beacons");
}

proptest! {
    /// Whatever the beacons, of all heights only the last content heights decide.
    #[test]
    fn no_other_beacon_enters_a_seed(noise: [u8; 32], genesis: [u8; 32], epoch in 0_u64..1000) {
        let (noise, genesis) = (B256::from(noise), B256::from(genesis));
        prop_assert_ne!(
            epoch_seed(&genesis, Epoch(epoch), &noise),
            epoch_seed(&genesis, Epoch(epoch + 1), &noise),
            "one beacon gives each epoch another seed"
        );
        let mut chain = Chain::new();
        while chain.tip().epoch < Epoch(3) {
            let mut block = chain.make(Next { view: chain.next_view(), commit: true, transaction: true, ready: 4 });
            let ends = [9_u64, 22];
            for result in block.header.results.iter_mut().filter(|r| !ends.contains(&r.height.0)) {
                result.beacon = noise;
            }
            chain.append(block);
        }
        let ends = content_ends(&chain, 10);
        prop_assert_eq!(chain.tip().seed(&chain.rules), expected(&chain, 3, &ends));
    }
}
