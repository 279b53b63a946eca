//! What a peer may send that no honest one sends, and what it must not bring about.

use std::sync::Arc;

use cascade_consensus::{Core, Effect, Input, Message};
use cascade_primitives::{Bytes, NodeId, SealedBlock, VoteKind};

use crate::{
    chain::Chain,
    core::{NOW, leader, message, own_votes, prepared, proposal, restarted},
};

fn say(core: &mut Core, at: u64, from: u8, message: Message) -> Vec<Effect> {
    core.step(NOW.plus(at), Input::Message { from: NodeId([from + 1; 32]), message })
}

fn blamed(effects: &[Effect]) -> Vec<u8> {
    let blamed = |e: &Effect| if let Effect::Misbehaved(peer, _) = e { Some(peer.0[0] - 1) } else { None };
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
    let cascade_consensus::Record::Certificate(certificate) = prepared(&chain, 4) else { unreachable!() };
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
