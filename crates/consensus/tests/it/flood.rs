//! One Byzantine member sends as much as it likes.

use std::sync::Arc;

use cascade_consensus::{Config, Core, Effect, Input, Message, Start};
use cascade_crypto::VoteSigner;
use cascade_primitives::{
    B256, BlockHash, BlsPublicKey, BlsSignature, Epoch, MemberIndex, NodeId, SealedBlock, TimestampMs, View, Vote,
    VoteTarget,
};

use crate::chain::{Chain, Next, RIGHT, Scheme, certificate};

#[derive(Debug)]
struct Signer(BlsPublicKey);

impl VoteSigner for Signer {
    fn public_key(&self) -> BlsPublicKey {
        self.0
    }

    fn sign(&self, _: &B256) -> BlsSignature {
        RIGHT
    }
}

fn core(chain: &Chain) -> Core {
    let config = Config {
        rules: Arc::clone(&chain.rules),
        scheme: Arc::new(Scheme),
        signer: Some(Arc::new(Signer(BlsPublicKey([1; 48])))),
        node: NodeId([1; 32]),
    };
    let start = Start {
        head: Arc::clone(&chain.blocks[0]),
        context: chain.contexts[0].as_ref().clone(),
        finality: None,
        recent: Vec::new(),
        results: Vec::new(),
        records: Vec::new(),
        sign_state: None,
    };
    Core::new(config, TimestampMs(2000), start)
}

#[test]
fn a_flood_of_votes_and_proposals_of_one_member_fills_no_memory() {
    let chain = Chain::new();
    let mut core = core(&chain);
    let (from, signer) = (NodeId([2; 32]), MemberIndex(1));
    let template = chain.make(Next { view: View(1), commit: false, transaction: true, ready: 0 });
    let mut accused = 0;
    for i in 0..20_000_u64 {
        let view = View(1 + i * 7 % 1000);
        let mut hash = [1; 32];
        hash[..8].copy_from_slice(&i.to_le_bytes());
        let target = match i % 3 {
            0 => VoteTarget::prepare(Epoch(i % 2), view, BlockHash(hash)),
            1 => VoteTarget::commit(Epoch(0), view, BlockHash(hash)),
            _ => VoteTarget::skip(Epoch(0), view),
        };
        let mut messages = vec![Message::Vote(Vote { target, signer, signature: RIGHT }, None)];
        if i % 10 == 0 {
            let mut block = template.clone();
            block.header.view = view;
            block.header.parent = BlockHash(hash);
            block.header.base_fee = i;
            let block = Arc::new(SealedBlock::new(block));
            let target = VoteTarget::prepare(Epoch(0), view, block.hash());
            messages.push(Message::Proposal(Arc::clone(&block), Vote { target, signer, signature: RIGHT }));
            messages.push(Message::Block(block));
            let mut forged = certificate(VoteTarget::prepare(Epoch(0), view, BlockHash(hash)));
            forged.signature = BlsSignature::ZERO;
            messages.push(Message::Certificate(Arc::new(forged)));
        }
        for message in messages {
            let effects = core.step(TimestampMs(2000 + i / 100), Input::Message { from, message });
            accused += effects.iter().filter(|e| matches!(e, Effect::Evidence(_))).count();
        }
    }
    let footprint = core.footprint();
    // Three terms of five views, three kinds of votes, one member that floods and this one.
    assert!(footprint.views <= 15, "{footprint:?}");
    assert!(footprint.votes <= 15 * 3 * 2, "{footprint:?}");
    assert!(footprint.blocks <= 1 + 15, "{footprint:?}");
    assert!(footprint.requested <= 16, "{footprint:?}");
    assert!((1..=15).contains(&accused), "it is accused once in each view at most, {accused} times in all");
}
