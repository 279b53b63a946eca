//! Shares are for final blocks: nothing that a peer says makes a node give one before. The core is told which blocks are
//! final, and looks at no certificate itself. That a node tells it so with a commit certificate alone is shown by
//! `every_share_that_leaves_a_node_comes_with_a_commit_certificate` in the sequencer's tests, on real processes, and checked
//! of every share that leaves a simulated node (`cascade sim --encrypted`).

use std::sync::Arc;

use cascade_crypto::{curve::G1Affine, threshold::BlockShares};
use cascade_mempool::reveal::{Effect, FinalBlock, RevealMessage, Reveals};
use cascade_primitives::{Epoch, Fork, Height, Reveal, TimestampMs};
use rand::{SeedableRng as _, rngs::StdRng};

use crate::{
    keys::{context, node},
    reveals::{certificate, chain, hash_of, holder},
};

/// The node that is asked.
const ASKED: usize = 0;
/// The peer that asks, a sequencer itself.
const PEER: usize = 2;

/// Heights of the shares and values in what a node does.
fn given(effects: &[Effect]) -> Vec<Height> {
    let said = effects.iter().filter_map(|effect| match effect {
        Effect::Broadcast(message) | Effect::Send(_, message) => Some(message),
        _ => None,
    });
    said.filter_map(|message| match message {
        RevealMessage::Shares(shares, _) => Some(shares.height),
        RevealMessage::Reveal(reveal) => Some(reveal.height),
        RevealMessage::Request(_) => None,
    })
    .collect()
}

/// All that a peer could say to get shares of a block: it asks, it gives its own with a certificate of its own making, it
/// claims to know what opens it.
fn coaxed(core: &mut Reveals, height: u64, rng: &mut StdRng) -> Vec<Effect> {
    let bases = chain().blocks.get(height as usize - 1).cloned().flatten().unwrap_or_default();
    let place = (Fork(0), Height(height), hash_of(height));
    let shares = BlockShares::create(place, &chain().secrets[PEER], &G1Affine::generator(), &bases);
    let values = bases.iter().map(|_| G1Affine::generator().to_compressed()).collect();
    let messages = [
        RevealMessage::Request(Height(height)),
        RevealMessage::Shares(Arc::new(shares), certificate(height)),
        RevealMessage::Reveal(Arc::new(Reveal { height: Height(height), beacon: [3; 48], values })),
        RevealMessage::Request(Height(height)),
    ];
    messages.into_iter().flat_map(|message| core.on_message(node(PEER), message, rng)).collect()
}

#[test]
fn no_share_is_given_before_a_block_is_final_however_it_is_asked_for() {
    let mut rng = StdRng::seed_from_u64(3);
    let mut core = Reveals::new(context(), node(ASKED), 500, Height(1));
    assert_eq!(core.on_keys(holder(ASKED), &mut rng), []);
    let heights = 1..=chain().blocks.len() as u64 + 8;
    for height in heights.clone() {
        assert_eq!(coaxed(&mut core, height, &mut rng), [], "height {height}: nothing is final");
    }
    assert_eq!(core.tick(TimestampMs(1_000_000)), []);

    let block = FinalBlock {
        height: Height(1),
        epoch: Epoch(1),
        committee_root: holder(ASKED).committee_root(),
        hash: hash_of(1),
        certificate: certificate(1),
        bases: chain().blocks[0].clone(),
        reveals: Vec::new(),
    };
    let effects = core.on_final(TimestampMs(1_000_001), block, &mut rng);
    assert_eq!(given(&effects), [Height(1)], "of this block and of no other");
    for height in heights.skip(1) {
        assert_eq!(given(&coaxed(&mut core, height, &mut rng)), [], "height {height}: only 1 is final");
    }
    let answer = core.on_message(node(PEER), RevealMessage::Request(Height(1)), &mut rng);
    let [Effect::Send(to, RevealMessage::Shares(shares, with))] = answer.as_slice() else { panic!("{answer:?}") };
    assert_eq!((*to, shares.height, with), (node(PEER), Height(1), &certificate(1)), "and with its certificate");
}
