//! What a rebuild from batches rests on: whose header carries the results of a block is settled by that block.

use cascade_primitives::{Committee, Epoch, Genesis, Header, ScheduledCommittee};
use proptest::prelude::*;

use crate::chain::{Chain, Next, sequencer};

/// A chain with another committee in each epoch.
fn chain(encrypted: bool, extensions: u64) -> Chain {
    let change = |genesis: &mut Genesis| {
        genesis.params.epoch_extensions_max = extensions;
        for epoch in 1..6 {
            let sequencers = (1 + epoch as u8 % 3..=5).map(sequencer).collect();
            genesis.committees.push(ScheduledCommittee { from_epoch: Epoch(epoch), sequencers });
        }
    };
    if encrypted { Chain::encrypted(change) } else { Chain::with(change) }
}

fn is_of(header: &Header, committee: &Committee) -> bool {
    committee.epoch() == header.epoch && committee.root() == header.committee_root
}

/// Results that are carried in another epoch than that of their block; none if a committee was not settled by then.
fn carried_over(chain: &Chain) -> Option<usize> {
    let mut count = 0;
    for header in chain.blocks[1..].iter().map(|block| &block.header) {
        for result in &header.results {
            let context = &chain.contexts[result.height.0 as usize];
            if !is_of(header, &context.committee) && !is_of(header, &context.next_committee) {
                return None;
            }
            count += usize::from(header.epoch > context.epoch);
        }
    }
    Some(count)
}

#[test]
fn results_are_carried_over_the_end_of_an_epoch_whose_next_committee_was_open_before() {
    for encrypted in [false, true] {
        let mut chain = chain(encrypted, 0);
        while chain.tip().epoch < Epoch(4) {
            // One too few say that they are ready: who did not is left out, and on an encrypted chain keys are made anew.
            let ready =
                if encrypted && chain.tip().extensions == 0 && chain.tip().height.0.is_multiple_of(2) { 5 } else { 3 };
            chain.push(Next { view: chain.next_view(), commit: true, transaction: true, ready });
        }
        assert!(carried_over(&chain).is_some_and(|count| count >= 4), "{:?}", carried_over(&chain));
        let first = chain.blocks.iter().find(|block| block.header.epoch == Epoch(2)).unwrap();
        let open = |height: u64| !is_of(&first.header, &chain.contexts[height as usize].next_committee);
        let start = chain.blocks.iter().find(|block| block.header.epoch == Epoch(1)).unwrap().header.height.0;
        assert!(open(start), "the committee of an epoch is not settled when the epoch before it begins");
        assert!(!open(first.header.height.0 - 1));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// However commits, extensions, readiness and keys come: the committee of the header that carries a block's results is
    /// one of the two that the chain up to that block has, with its keys.
    #[test]
    fn the_committee_that_certifies_the_results_of_a_block_is_known_from_the_blocks_up_to_it(
        encrypted: bool, extensions in 0_u64..3,
        steps in prop::collection::vec((any::<[bool; 3]>(), 0_u8..6), 20..120),
    ) {
        let mut chain = chain(encrypted, extensions);
        for ([commit, again, transaction], ready) in steps {
            chain.push(Next { view: chain.next_view(), commit: commit || again, transaction, ready });
        }
        prop_assert!(carried_over(&chain).is_some());
    }
}
