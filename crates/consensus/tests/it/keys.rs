//! When the root of the next committee binds the keys of the next epoch, and which ones (decision 15).

use std::sync::Arc;

use cascade_consensus::{ChainContext, Effect, Input, InvalidBlock, Message};
use cascade_primitives::{
    B256, Block, Committee, Decode, Encode, Epoch, Height, NodeId, Ready, ScheduledCommittee, SystemItem,
    ThresholdKeys, View,
};
use proptest::prelude::*;

use crate::{
    chain::{Chain, Next, RIGHT, seal, sequencer},
    core::{NOW, restarted},
};

const PLAIN: Next = Next { view: View(0), commit: true, transaction: false, ready: 0 };

fn named(byte: u8) -> ThresholdKeys {
    ThresholdKeys(Some(B256::repeat_byte(byte)))
}

/// The next block, in which these members say that they are ready with these keys.
fn with_ready(chain: &Chain, statements: &[(u8, ThresholdKeys)]) -> Block {
    let mut block = chain.make(Next { view: chain.next_view(), ..PLAIN });
    let statement = |(node, keys): &(u8, ThresholdKeys)| {
        let epoch = chain.tip().epoch.next();
        SystemItem::Ready(Ready { epoch, node: NodeId([*node; 32]), keys: *keys, signature: RIGHT })
    };
    block.body.system = statements.iter().map(statement).collect();
    seal(block).into_block()
}

fn push(chain: &mut Chain, statements: &[(u8, ThresholdKeys)]) {
    chain.append(with_ready(chain, statements));
}

/// The keys that the header of the next block binds for the next epoch; checked against what else it could say.
fn bound(chain: &Chain) -> ThresholdKeys {
    let block = with_ready(chain, &[]);
    let next = &chain.tip().next_committee;
    assert_eq!(block.header.next_committee_root, next.root());
    let others = [ThresholdKeys::default(), named(1), named(2)].map(|keys| next.with_keys(keys).root());
    for root in others.into_iter().filter(|root| *root != next.root()) {
        let mut wrong = block.clone();
        wrong.header.next_committee_root = root;
        let refused = chain.tip().child(&chain.rules, &seal(wrong));
        assert_eq!(refused, Err(InvalidBlock::Field("next committee root")));
    }
    *next.threshold_keys()
}

#[test]
fn the_root_binds_the_keys_from_the_block_above_the_quorum() {
    let mut chain = Chain::encrypted(|_| {});
    assert_eq!(*chain.tip().committee.threshold_keys(), ThresholdKeys::default(), "epoch 0 has no keys");
    let bare = chain.tip().next_committee.clone();
    push(&mut chain, &[(1, named(1)), (2, named(1))]);
    assert_eq!(bound(&chain), ThresholdKeys::default());
    assert_eq!(chain.tip().next_committee, bare);
    push(&mut chain, &[(4, named(1))]);
    assert_eq!(
        chain.blocks.last().unwrap().header.next_committee_root,
        bare.root(),
        "what a block says binds above it"
    );
    assert_eq!(bound(&chain), named(1));
    assert_eq!(chain.tip().next_committee.members_root(), bare.members_root());
    let keyed = chain.tip().next_committee.clone();
    while !chain.tip().can_hand_over() {
        push(&mut chain, &[]);
    }
    let last = chain.blocks.last().unwrap().header.next_committee_root;
    assert_eq!(last, keyed.root(), "the last header of an epoch always names the keys of the next");
    chain.push(Next { view: View(1), ..PLAIN });
    assert_eq!(chain.tip().epoch, Epoch(1));
    assert_eq!(chain.blocks.last().unwrap().header.committee_root, keyed.root());
    assert_eq!(bound(&chain), ThresholdKeys::default(), "the keys of epoch 2 are not made yet");
}

#[test]
fn statements_with_different_keys_do_not_add_up() {
    let mut chain = Chain::encrypted(|_| {});
    push(&mut chain, &[(1, named(1)), (2, named(2)), (3, named(1))]);
    assert_eq!(bound(&chain), ThresholdKeys::default());
    assert!(chain.tip().content_end > chain.tip().height, "three are ready, and no three with the same keys");
    push(&mut chain, &[(4, named(1))]);
    assert_eq!(bound(&chain), named(1));
    assert_eq!(chain.tip().content_end, chain.tip().height, "epoch 0 is over");
}

#[test]
fn a_statement_after_the_quorum_changes_nothing() {
    let mut chain = Chain::encrypted(|_| {});
    chain.grow_to_end();
    chain.push(Next { view: View(1), ..PLAIN });
    push(&mut chain, &[(1, named(1)), (2, named(1)), (3, named(1))]);
    push(&mut chain, &[(4, named(2))]);
    assert_eq!(bound(&chain), named(1));
    assert_eq!(chain.tip().ready.len(), 4);
    let stored = ChainContext::from_slice(&chain.tip().to_bytes()).unwrap();
    assert_eq!(&stored, chain.tip().as_ref());
}

#[test]
fn who_is_ready_names_keys_where_there_are_keys_and_nowhere_else() {
    let refused = |chain: &Chain, keys| {
        let block = with_ready(chain, &[(1, keys)]);
        chain.tip().child(&chain.rules, &seal(block)).err()
    };
    let (encrypted, opaque) = (Chain::encrypted(|_| {}), Chain::new());
    assert_eq!(refused(&encrypted, ThresholdKeys::default()), Some(InvalidBlock::SystemItem(0)));
    assert_eq!(refused(&encrypted, named(1)), None);
    assert_eq!(refused(&opaque, named(1)), Some(InvalidBlock::SystemItem(0)));
    assert_eq!(refused(&opaque, ThresholdKeys::default()), None);
}

#[test]
fn a_committee_that_is_made_anew_has_no_keys_and_none_who_named_others_than_most() {
    let mut chain = Chain::encrypted(|genesis| {
        genesis.params.epoch_extensions_max = 0;
        let sequencers = (1..=5).map(sequencer).collect();
        genesis.committees.push(ScheduledCommittee { from_epoch: Epoch(1), sequencers });
    });
    push(&mut chain, &[(1, named(1)), (2, named(2)), (3, named(1)), (5, named(1))]);
    assert_eq!(chain.tip().next_committee.quorum().0, 4);
    while chain.tip().height < Height(9) {
        push(&mut chain, &[]);
    }
    let next = chain.tip().next_committee.clone();
    let nodes: Vec<u8> = next.members().iter().map(|member| member.node.0[0]).collect();
    assert_eq!(nodes, [1, 3, 5]);
    assert_eq!(bound(&chain), ThresholdKeys::default());
    push(&mut chain, &[(1, named(2)), (3, named(2)), (5, named(2))]);
    assert_eq!(bound(&chain), named(2), "keys made anew");
}

/// Two of four are ready when the last extension is over: fewer than may form a committee, and the members of today go on.
/// Its roots are others, so that everything that was made for the one before is of no use, and it is made anew as often as
/// it takes.
#[test]
fn a_committee_that_is_made_anew_with_the_same_members_is_another_one() {
    let mut chain = Chain::encrypted(|genesis| genesis.params.epoch_extensions_max = 0);
    let first = chain.tip().next_committee.clone();
    push(&mut chain, &[(1, named(1)), (2, named(1))]);
    let mut seen = vec![first.members_root()];
    let mut settled = 9;
    for attempt in 1..=3 {
        while chain.tip().height < Height(settled) {
            push(&mut chain, &[]);
        }
        let next = chain.tip().next_committee.clone();
        assert_eq!((next.attempt(), next.members()), (attempt, first.members()));
        assert!(!seen.contains(&next.members_root()), "attempt {attempt} is called like one before");
        assert_eq!(chain.tip().ready.len(), 0, "who was ready was so for the one before");
        assert_eq!(with_ready(&chain, &[]).header.next_committee_root, next.root(), "headers name it");
        let stored = ChainContext::from_slice(&chain.tip().to_bytes()).unwrap();
        assert_eq!(stored.next_committee, next, "and a data directory keeps which it is");
        seen.push(next.members_root());
        // As long as announcing and dealing may take, and longer each time.
        settled += 10 << (attempt - 1);
        assert_eq!(chain.tip().content_end, Height(settled), "there is time to make its keys");
    }
    // All are back. The epoch ends, and the next one begins with attempt 0 of its own successor.
    push(&mut chain, &[(1, named(2)), (2, named(2)), (3, named(2)), (4, named(2))]);
    while !chain.tip().can_hand_over() {
        push(&mut chain, &[]);
    }
    let next = &chain.tip().next_committee;
    assert_eq!((next.attempt(), *next.threshold_keys()), (3, named(2)));
    chain.push(Next { view: View(1), ..PLAIN });
    assert_eq!((chain.tip().committee.attempt(), chain.tip().next_committee.attempt()), (3, 0));
}

#[test]
fn an_encryption_key_for_another_attempt_has_no_place_in_a_block() {
    let chain = Chain::encrypted(|_| {});
    let next = &chain.tip().next_committee;
    let accepts = |committee: &Committee| {
        // Points, proof and signature are not looked at here.
        let named = [Epoch(1).to_bytes(), committee.members_root().to_bytes(), vec![1; 32], vec![0; 48 + 48 + 32 + 96]];
        chain.tip().accepts_key_item(&SystemItem::RecipientKey(named.concat().into()))
    };
    assert!(accepts(next));
    assert!(!accepts(&next.as_ref().clone().with_attempt(1)));
}

#[test]
fn a_node_names_the_keys_that_it_was_told_of_for_the_committee_that_is_scheduled() {
    let chain = Chain::encrypted(|_| {});
    let says = |members_root, epoch| {
        let mut core = restarted(&chain, 0, 0, 0, Vec::new());
        let input = Input::KeysReady { epoch: Epoch(epoch), members_root, keys: named(7) };
        let effects = core.step(NOW, input);
        let ready = |e: &Effect| if let Effect::Broadcast(Message::Ready(ready)) = e { Some(*ready) } else { None };
        effects.iter().find_map(ready)
    };
    let next = &chain.tip().next_committee;
    let said = says(next.members_root(), 1).expect("it is ready");
    assert_eq!((said.keys, said.node), (named(7), NodeId([1; 32])));
    assert_eq!(says(B256::repeat_byte(1), 1), None, "keys of another committee");
    assert_eq!(says(next.members_root(), 2), None, "keys of another epoch");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    /// Whoever names what in whatever order: the keys that the root binds are those that q = 3 seats named, and stay.
    #[test]
    fn the_keys_are_those_that_a_quorum_names(
        order in Just(vec![1_u8, 2, 3, 4]).prop_shuffle(), keys in prop::collection::vec(1_u8..3, 4),
        blocks in prop::collection::vec(any::<bool>(), 4),
    ) {
        let mut chain = Chain::encrypted(|genesis| genesis.params.epoch_extensions_max = 10);
        let mut waiting = Vec::new();
        let mut counted = [0_u32; 3];
        let mut agreed = ThresholdKeys::default();
        for ((node, key), at_once) in order.iter().zip(&keys).zip(blocks) {
            waiting.push((*node, named(*key)));
            if at_once && chain.tip().content_end > chain.tip().height {
                for (_, keys) in &waiting {
                    counted[usize::from(keys.0.unwrap().0[0])] += 1;
                }
                push(&mut chain, &std::mem::take(&mut waiting));
                if let Some(most) = (1..3).find(|key| counted[*key] >= 3) {
                    agreed = named(most as u8);
                }
                prop_assert_eq!(bound(&chain), agreed);
                prop_assert_eq!(Arc::clone(chain.tip()).content_end == chain.tip().height, agreed.0.is_some());
            }
        }
    }
}
