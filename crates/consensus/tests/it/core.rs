//! The core alone: what it makes of a restart, a range of final blocks, a proof that the epoch ended, a long stall.

use std::sync::Arc;

use cascade_consensus::{BuildRequest, BuiltBlock, Config, Core, Effect, Input, Message, Record, Start};
use cascade_crypto::{VoteScheme, VoteSigner};
use cascade_primitives::{
    B256, BlsPublicKey, BlsSignature, DaCommitment, Decode, Encode, Epoch, Header, Height, MemberIndex, NodeId,
    SealedBlock, TimestampMs, View, Vote, VoteKind, VoteTarget,
    block::{MAX_FILLER_HEADERS, MAX_SKIPS_PER_BLOCK},
};

use crate::chain::{Chain, Next, RIGHT, SQUARE, Scheme, certificate, result, seal};

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

pub const NOW: TimestampMs = TimestampMs(1_000_000);

/// The core of member `i` after a restart at a final block, with the results up to a height and this vote log.
pub fn restarted(chain: &Chain, i: u8, head: u64, executed: u64, records: Vec<Record>) -> Core {
    restarted_with(Arc::new(Scheme), chain, i, head, executed, records)
}

/// The same, with this to verify signatures.
pub fn restarted_with(
    scheme: Arc<dyn VoteScheme>,
    chain: &Chain,
    i: u8,
    head: u64,
    executed: u64,
    records: Vec<Record>,
) -> Core {
    let config = Config {
        rules: Arc::clone(&chain.rules),
        scheme,
        signer: Some(Arc::new(Signer(BlsPublicKey([i + 1; 48])))),
        node: NodeId([i + 1; 32]),
    };
    let context = chain.contexts[head as usize].as_ref().clone();
    let start = Start {
        head: Arc::clone(&chain.blocks[head as usize]),
        results: (context.last_result.0 + 1..=executed).map(|h| result(Height(h))).collect(),
        context,
        finality: (head > 0).then(|| chain.finality(Height(head))),
        recent: chain.blocks[..head as usize].to_vec(),
        records,
        sign_state: None,
    };
    Core::new(config, NOW, start)
}

pub fn prepared(chain: &Chain, height: u64) -> Record {
    let context = &chain.contexts[height as usize];
    Record::Certificate(Arc::new(certificate(VoteTarget::prepare(context.epoch, context.view, context.hash))))
}

pub fn message(core: &mut Core, at: u64, message: Message) -> Vec<Effect> {
    core.step(NOW.plus(at), Input::Message { from: NodeId([4; 32]), message })
}

pub fn proposal(core: &mut Core, at: u64, block: &Arc<SealedBlock>, leader: u8) -> Vec<Effect> {
    let target = VoteTarget::prepare(block.header.epoch, block.header.view, block.hash());
    let vote = Vote { target, signer: MemberIndex(u16::from(leader)), signature: RIGHT };
    let message = Message::Proposal(Arc::clone(block), vote);
    core.step(NOW.plus(at), Input::Message { from: NodeId([leader + 1; 32]), message })
}

pub fn final_heights(effects: &[Effect]) -> Vec<u64> {
    let height = |e: &Effect| if let Effect::Finalized(f) = e { Some(f.block.header.height.0) } else { None };
    effects.iter().filter_map(height).collect()
}

pub fn own_votes(effects: &[Effect], kind: VoteKind) -> usize {
    let vote = |e: &&Effect| match e {
        Effect::Broadcast(Message::Vote(vote, _) | Message::Proposal(_, vote)) => vote.target.kind == kind,
        _ => false,
    };
    effects.iter().filter(vote).count()
}

pub fn persisted(effects: &[Effect]) -> Vec<Record> {
    let records = |e: &Effect| if let Effect::Persist { records, .. } = e { records.clone() } else { Vec::new() };
    effects.iter().flat_map(records).collect()
}

/// Who leads the view that a core is in.
pub fn leader(core: &mut Core) -> u8 {
    core.health().leader.0[0] - 1
}

/// The core that leads, asked for a block.
fn build(chain: &Chain, head: u64, records: &[Record]) -> (Core, BuildRequest) {
    let mut any = restarted(chain, 0, head, head, records.to_vec());
    let mut core = restarted(chain, leader(&mut any), head, head, records.to_vec());
    let mut effects = core.step(NOW, Input::Work(true));
    let at = core.wake_at();
    effects.extend(core.step(at, Input::Tick));
    let request = effects.into_iter().find_map(|e| if let Effect::Build(request) = e { Some(*request) } else { None });
    (core, request.expect("the leader wants to build"))
}

#[test]
fn after_a_restart_a_leader_carries_the_commit_certificate_of_its_head() {
    let mut chain = Chain::new();
    for _ in 0..5 {
        chain.push(Next { view: chain.next_view(), commit: false, transaction: false, ready: 0 });
    }
    assert_eq!(chain.tip().carried_commit(), Height(0), "no block carries a newer one");
    let (_, request) = build(&chain, 5, &[prepared(&chain, 5)]);
    assert_eq!(request.height, Height(6));
    assert!(request.may_carry_content && request.state_height == Height(3), "{request:?}");
}

/// The simulator found it: the record beside the key had not reached the disk when the node died, the log was damaged after
/// the next start, and the key contradicted a vote that only the log had known.
#[test]
fn what_the_log_alone_knows_of_the_keys_votes_is_persisted_before_anything_is_said() {
    let target = VoteTarget::skip(Epoch(0), View(1));
    let vote = Vote { target, signer: MemberIndex(0), signature: RIGHT };
    let effects = restarted(&Chain::new(), 0, 0, 0, vec![Record::Vote(vote)]).step(NOW, Input::Tick);
    let said = |e: &Effect| matches!(e, Effect::Broadcast(_) | Effect::Send(..));
    let Some(Effect::Persist { sign_state, .. }) =
        effects.iter().find(|e| said(e) || matches!(e, Effect::Persist { .. }))
    else {
        panic!("{effects:?}")
    };
    assert_eq!(sign_state.skipped(Epoch(0), View(1).term(5)), Some(View(1)));
    assert!(effects.iter().any(said));
}

#[test]
fn votes_of_some_views_ahead_are_kept_where_terms_are_short() {
    let chain = Chain::with(|genesis| genesis.params.views_per_term = 1);
    let mut core = restarted(&chain, 0, 0, 0, Vec::new());
    let mut behind = |view| {
        let target = VoteTarget::skip(Epoch(0), View(view));
        let vote = Vote { target, signer: MemberIndex(3), signature: RIGHT };
        message(&mut core, 0, Message::Vote(vote, None)).iter().any(|e| matches!(e, Effect::Behind(_)))
    };
    assert_eq!([2, 9, 10].map(&mut behind), [false, false, true], "eight above the first");
}

#[test]
fn after_a_range_of_final_blocks_its_certificate_is_carried() {
    let mut chain = Chain::new();
    for _ in 0..5 {
        chain.push(Next { view: chain.next_view(), commit: false, transaction: false, ready: 0 });
    }
    for member in 0..4 {
        let mut core = restarted(&chain, member, 0, 0, Vec::new());
        let blocks = chain.blocks[1..=5].to_vec();
        let range = Input::FinalRange { from: NodeId([4; 32]), blocks, finality: chain.finality(Height(5)) };
        assert_eq!(final_heights(&core.step(NOW, range)), [1, 2, 3, 4, 5]);
        if leader(&mut core) != member {
            continue;
        }
        (1..=5).for_each(|h| drop(core.step(NOW, Input::Executed(result(Height(h))))));
        let Record::Certificate(parent) = prepared(&chain, 5) else { unreachable!() };
        let mut effects = message(&mut core, 0, Message::Certificate(parent));
        effects.extend(core.step(NOW, Input::Work(true)));
        effects.extend(core.step(NOW.plus(900), Input::Tick));
        let built =
            effects.iter().find_map(|e| if let Effect::Build(r) = e { Some(r.may_carry_content) } else { None });
        assert_eq!(built, Some(true));
        return;
    }
    panic!("one of them leads");
}

#[test]
fn final_blocks_that_break_this_nodes_rules_stop_it_and_blame_nobody() {
    let chain = Chain::new();
    let mut theirs = chain.clone();
    theirs.grow(3);
    let mut stricter = Chain::with(|genesis| genesis.params.results_lag = 4);
    stricter.blocks = chain.blocks.clone();
    stricter.contexts = chain.contexts.clone();
    let range = |blocks: Vec<Arc<SealedBlock>>| Input::FinalRange {
        from: NodeId([4; 32]),
        blocks,
        finality: theirs.finality(Height(3)),
    };
    let effects = restarted(&stricter, 0, 0, 0, Vec::new()).step(NOW, range(theirs.blocks[1..=3].to_vec()));
    assert!(effects.iter().any(|e| matches!(e, Effect::Fatal(_))), "{effects:?}");
    assert!(!effects.iter().any(|e| matches!(e, Effect::Misbehaved(..) | Effect::Finalized(_))), "{effects:?}");

    // What is the peer's word alone is the peer's fault.
    let mut other_body = theirs.blocks[2].as_ref().clone().into_block();
    other_body.body.transactions.clear();
    let mut other_header = theirs.blocks[2].as_ref().clone().into_block();
    other_header.header.timestamp = other_header.header.timestamp.next();
    for lie in [other_body, other_header] {
        let mut blocks = theirs.blocks[1..=3].to_vec();
        blocks[1] = Arc::new(SealedBlock::new(lie));
        let effects = restarted(&chain, 0, 0, 0, Vec::new()).step(NOW, range(blocks));
        assert!(effects.iter().any(|e| matches!(e, Effect::Misbehaved(..))), "{effects:?}");
        assert!(!effects.iter().any(|e| matches!(e, Effect::Fatal(_) | Effect::Finalized(_))), "{effects:?}");
    }
}

#[test]
fn content_is_judged_once_the_state_it_rests_on_is_computed() {
    let mut chain = Chain::new();
    chain.grow(6);
    // Blocks that carry no newer commit certificate, and from the third on no results either.
    while chain.tip().height.0 < 9 {
        chain.push(Next { view: chain.next_view(), commit: false, transaction: false, ready: 0 });
    }
    assert!(chain.blocks[9].header.results.is_empty() && chain.contexts[9].last_result == Height(5));
    let block = Arc::clone(&chain.blocks[9]);
    let mut core = restarted(&chain, 0, 8, 0, vec![prepared(&chain, 8)]);
    let leads = leader(&mut core);
    let mut core = restarted(&chain, (leads + 1) % 4, 8, 0, vec![prepared(&chain, 8)]);
    let asked = |effects: &[Effect]| effects.iter().any(|e| matches!(e, Effect::Validate(..)));
    assert!(!asked(&proposal(&mut core, 1, &block, leads)), "the application could not answer yet");
    for height in 1..=4 {
        assert!(!asked(&core.step(NOW.plus(2), Input::Executed(result(Height(height))))), "height {height}");
    }
    assert!(asked(&core.step(NOW.plus(3), Input::Executed(result(Height(5))))), "in the same view");
}

/// A chain up to its epoch's last block, that block's height, and three fillers above it.
fn ended() -> (Chain, u64, Vec<Header>) {
    let mut chain = Chain::new();
    chain.grow_to_end();
    let last = chain.tip().height.0;
    for _ in 0..3 {
        let filler = chain.make_filler();
        chain.append(filler);
    }
    let fillers = chain.blocks[last as usize + 1..].iter().map(|b| b.header.clone()).collect();
    (chain, last, fillers)
}

fn commit_of(header: &Header) -> Arc<cascade_primitives::Certificate> {
    Arc::new(certificate(VoteTarget::commit(header.epoch, header.view, header.hash())))
}

#[test]
fn the_first_vote_of_an_epoch_is_logged_with_what_ended_the_last_one() {
    let (chain, last, fillers) = ended();
    let mut core = restarted(&chain, 0, last - 1, last - 1, vec![prepared(&chain, last - 1)]);
    let block = Arc::clone(&chain.blocks[last as usize]);
    let leads = leader(&mut core);
    proposal(&mut core, 1, &block, leads);
    let end = Message::EpochEnd(commit_of(&fillers[1]), fillers[..2].to_vec());
    let mut effects = message(&mut core, 2, end);
    assert_eq!(final_heights(&effects), [last]);
    assert_eq!(core.position(), (Epoch(1), View(1)));
    let wanted = Record::EpochEnd(commit_of(&fillers[1]), fillers[..2].to_vec());
    assert!(core.live_records().contains(&wanted), "a checkpoint now keeps it");
    effects.clear();
    while own_votes(&effects, VoteKind::Skip) == 0 {
        let at = core.wake_at();
        effects.extend(core.step(at, Input::Tick));
    }
    let records = persisted(&effects);
    let written = |records: &[Record]| records.iter().filter(|r| **r == wanted).count();
    assert_eq!(written(&records), 1, "{records:?}");
    // A restart that finds it in the log does not write it again.
    let mut core = restarted(&chain, 0, last, last, records);
    let mut effects = Vec::new();
    while own_votes(&effects, VoteKind::Skip) == 0 && core.position().1 < View(40) {
        let at = core.wake_at();
        effects.extend(core.step(at, Input::Tick));
        let skip = certificate(VoteTarget::skip(Epoch(1), core.position().1));
        effects.extend(message(&mut core, at.0 - NOW.0, Message::Certificate(Arc::new(skip))));
    }
    assert_eq!(written(&persisted(&effects)), 0);
}

#[test]
fn an_epoch_is_closed_from_the_log_alone() {
    let (chain, last, fillers) = ended();
    let blocks = chain.blocks[last as usize - 3..=last as usize].iter().map(|b| Record::Block(Arc::clone(b)));
    for (certificate, fillers) in
        [(chain.finality(Height(last)).certificate, Vec::new()), (commit_of(&fillers[1]), fillers[..2].to_vec())]
    {
        let mut records: Vec<Record> = blocks.clone().collect();
        records.push(Record::EpochEnd(certificate, fillers));
        let records = records.iter().map(|r| Record::from_slice(&r.to_bytes()).unwrap()).collect();
        let mut core = restarted(&chain, 0, last - 4, last - 4, records);
        assert_eq!(core.position(), (Epoch(1), View(1)));
        assert_eq!(final_heights(&core.step(NOW, Input::Tick)), [last - 3, last - 2, last - 1, last]);
    }
}

#[test]
fn a_proof_without_its_lowest_fillers_does_not_take_the_place_of_a_whole_one() {
    let (chain, last, fillers) = ended();
    let whole = Message::EpochEnd(commit_of(&fillers[1]), fillers[..2].to_vec());
    let part = Message::EpochEnd(commit_of(&fillers[2]), fillers[1..].to_vec());
    for order in [[&whole, &part], [&part, &whole]] {
        let mut core = restarted(&chain, 0, last - 1, last - 1, vec![prepared(&chain, last - 1)]);
        order.into_iter().for_each(|m| drop(message(&mut core, 1, m.clone())));
        let kept = core.live_records().into_iter().find(|r| matches!(r, Record::EpochEnd(..)));
        assert_eq!(kept, Some(Record::EpochEnd(commit_of(&fillers[1]), fillers[..2].to_vec())), "until it can be used");
        let leads = leader(&mut core);
        let effects = proposal(&mut core, 2, &chain.blocks[last as usize], leads);
        assert_eq!(final_heights(&effects), [last]);
        assert_eq!(core.position().0, Epoch(1));
    }
}

#[test]
fn a_proof_of_an_epochs_end_that_proves_only_an_earlier_block_is_learned_all_the_same() {
    let (chain, last, _) = ended();
    let mut core = restarted(&chain, 0, last - 2, last - 2, vec![prepared(&chain, last - 2)]);
    let end = Message::EpochEnd(chain.finality(Height(last - 1)).certificate, Vec::new());
    assert!(final_heights(&message(&mut core, 1, end)).is_empty(), "the block is not there yet");
    let leads = leader(&mut core);
    let effects = proposal(&mut core, 2, &chain.blocks[last as usize - 1], leads);
    assert_eq!(final_heights(&effects), [last - 1]);
}

#[test]
fn fillers_end_where_their_headers_would_not_fit_any_more() {
    let (mut chain, last, _) = ended();
    while chain.tip().height.0 < last + MAX_FILLER_HEADERS as u64 {
        let filler = chain.make_filler();
        chain.append(filler);
    }
    let one_more = seal(chain.make_filler());
    let refused = chain.tip().child(&chain.rules, &one_more).expect_err("there is a limit");
    assert!(matches!(refused, cascade_consensus::InvalidBlock::Fillers), "{refused}");
}

#[test]
fn the_first_block_of_an_epoch_carries_content_or_many_filler_headers_not_both() {
    let (mut chain, last, _) = ended();
    while chain.tip().height.0 < last + 1025 {
        let filler = chain.make_filler();
        chain.append(filler);
    }
    let fillers: Vec<Header> = chain.blocks[last as usize + 1..].iter().map(|b| b.header.clone()).collect();
    for (count, content) in [(3, true), (1025, false)] {
        let end = Message::EpochEnd(commit_of(&fillers[count - 1]), fillers[..count].to_vec());
        let mut built = Vec::new();
        for member in 0..4 {
            let mut core = restarted(&chain, member, last - 1, last - 1, vec![prepared(&chain, last - 1)]);
            let leads = leader(&mut core);
            proposal(&mut core, 1, &chain.blocks[last as usize], leads);
            let effects = message(&mut core, 2, end.clone());
            assert_eq!(core.position(), (Epoch(1), View(1)));
            let request =
                |e: Effect| if let Effect::Build(r) = e { Some((r.may_carry_content, r.frame)) } else { None };
            built.extend(effects.into_iter().find_map(request));
        }
        let [(may_carry_content, frame)] = &built[..] else { panic!("{} of them lead", built.len()) };
        assert_eq!((*may_carry_content, frame.certificates.fillers.len()), (content, count));
    }
}

/// A chain whose next epoch has seven scheduled, some of whom are ready: the last content height 9 becomes 13, then 17.
fn with_absent(next: std::ops::RangeInclusive<u8>, ready: u8) -> Chain {
    let mut chain = Chain::with(|genesis| {
        genesis.params.epoch_extensions_max = 2;
        let sequencers = next.map(crate::chain::sequencer).collect();
        genesis.committees.push(cascade_primitives::ScheduledCommittee { from_epoch: Epoch(1), sequencers });
    });
    while !chain.tip().can_hand_over() {
        chain.push(Next { view: chain.next_view(), commit: true, transaction: true, ready });
    }
    chain
}

fn members(committee: &cascade_primitives::Committee) -> Vec<u8> {
    committee.members().iter().map(|m| m.node.0[0]).collect()
}

/// The core of member `i` right after the epoch's last block became final.
fn after_handover(chain: &Chain, i: u8) -> Core {
    let last = chain.tip().height.0;
    let mut core = restarted(chain, i, last - 1, last - 1, vec![prepared(chain, last - 1)]);
    let leads = leader(&mut core);
    proposal(&mut core, 1, &chain.blocks[last as usize], leads);
    message(&mut core, 2, Message::EpochEnd(chain.finality(Height(last)).certificate, Vec::new()));
    assert_eq!(core.position(), (Epoch(1), View(1)));
    core
}

#[test]
fn after_the_last_extension_candidates_that_are_not_ready_are_dropped() {
    // Four of seven are ready, five are a quorum.
    let chain = with_absent(1..=7, 4);
    let heights = |h: u64| (chain.contexts[h as usize].content_end.0, chain.contexts[h as usize].extensions);
    assert_eq!([heights(8), heights(9), heights(13), heights(17)], [(9, 0), (13, 1), (17, 2), (17, 2)]);
    assert_eq!(chain.tip().height, Height(20), "results of the last content height are due three blocks later");
    assert_eq!(members(&chain.contexts[16].next_committee), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(members(&chain.contexts[17].next_committee), [1, 2, 3, 4]);
    let mut core = after_handover(&chain, 0);
    assert_eq!((members(core.committee()), core.health().quorum), (vec![1, 2, 3, 4], 3));
    assert!(core.health().votes, "who was ready votes on");
    assert!(core.health().seats_heard > 1, "who was heard of in the last epoch is not away in the next one");

    // The first block of the next epoch follows, and every member that is left can prepare it.
    let mut next = chain.clone();
    next.push(Next { view: View(1), commit: true, transaction: true, ready: 0 });
    let leads = leader(&mut core);
    assert!(leads < 4);
    let mut voter = after_handover(&chain, (leads + 1) % 4);
    let block = Arc::clone(next.blocks.last().unwrap());
    (chain.tip().last_result.0 + 1..=20).for_each(|h| drop(voter.step(NOW, Input::Executed(result(Height(h))))));
    let mut effects = proposal(&mut voter, 3, &block, leads);
    let verdict = cascade_consensus::Verdict::Valid;
    effects.extend(voter.step(NOW.plus(4), Input::Validated { hash: block.hash(), verdict, da: Default::default() }));
    assert_eq!(own_votes(&effects, VoteKind::Prepare), 1, "{effects:?}");
}

#[test]
fn where_too_few_are_ready_after_the_last_extension_the_committee_stays() {
    // One of five is ready; three are the fewest sequencers that a committee may have.
    let chain = with_absent(4..=8, 4);
    assert_eq!(chain.tip().height, Height(20));
    assert_eq!(members(&chain.contexts[16].next_committee), [4, 5, 6, 7, 8]);
    assert_eq!(members(&chain.contexts[17].next_committee), [1, 2, 3, 4]);
    assert_eq!(members(after_handover(&chain, 0).committee()), [1, 2, 3, 4]);
}

#[test]
fn a_block_is_prepared_only_if_its_body_makes_the_square_that_it_commits_to() {
    let mut chain = Chain::with(|genesis| genesis.params.data_squares = true);
    chain.grow(4);
    let records = [prepared(&chain, 3)];
    let leads = leader(&mut restarted(&chain, 0, 3, 3, records.to_vec()));
    let block = Arc::clone(&chain.blocks[4]);
    assert_eq!(block.header.da, SQUARE);
    let wrong = DaCommitment { root: B256::ZERO, ..SQUARE };
    for (da, prepares) in [(SQUARE, 1), (wrong, 0), (DaCommitment::default(), 0)] {
        let mut voter = restarted(&chain, (leads + 1) % 4, 3, 3, records.to_vec());
        let mut effects = proposal(&mut voter, 1, &block, leads);
        assert_eq!(own_votes(&effects, VoteKind::Prepare), 0, "not before it was encoded");
        let verdict = cascade_consensus::Verdict::Valid;
        effects.extend(voter.step(NOW.plus(2), Input::Validated { hash: block.hash(), verdict, da }));
        assert_eq!(own_votes(&effects, VoteKind::Prepare), prepares, "{effects:?}");
        assert_eq!(own_votes(&effects, VoteKind::Skip), 1 - prepares, "{effects:?}");
        assert_eq!(effects.iter().any(|e| matches!(e, Effect::Misbehaved(..))), prepares == 0);
    }
    // A block without any commitment is refused by its form.
    let mut without = block.as_ref().clone().into_block();
    without.header.da = DaCommitment::default();
    assert!(chain.contexts[3].child(&chain.rules, &Arc::new(SealedBlock::new(without))).is_err());
}

#[test]
fn a_leader_commits_to_the_square_of_the_body_that_it_was_asked_to_fill() {
    let mut chain = Chain::with(|genesis| genesis.params.data_squares = true);
    chain.grow(5);
    let (mut core, request) = build(&chain, 5, &[prepared(&chain, 5)]);
    assert!(request.frame.certificates.parent.is_some() && request.frame.transactions.is_empty());
    let transactions = vec![cascade_primitives::Bytes::from_static(b"one")];
    let content = BuiltBlock { transactions, base_fee: 1, ordered_gas: 1, da: SQUARE, ..BuiltBlock::default() };
    let whole = content.body(&request.frame, true);
    let effects =
        core.step(request.timestamp, Input::Built { view: request.view, parent: request.parent.hash, content });
    let proposed =
        effects.iter().find_map(|e| if let Effect::Broadcast(Message::Proposal(b, _)) = e { Some(b) } else { None });
    let block = proposed.expect("it proposes");
    assert_eq!((&block.body, block.header.da), (&whole, SQUARE));
}

/// Skip certificates of so many terms of five views from the first on.
fn skips(terms: u64) -> Vec<Record> {
    let skip = |term: u64| Record::Certificate(Arc::new(certificate(VoteTarget::skip(Epoch(0), View(1 + 5 * term)))));
    (0..terms).map(skip).collect()
}

#[test]
fn a_chain_goes_on_after_more_skipped_terms_than_a_block_holds_certificates() {
    let chain = Chain::new();
    let terms = MAX_SKIPS_PER_BLOCK as u64 + 400;
    let (mut core, request) = build(&chain, 0, &skips(terms));
    assert_eq!(request.view, View(1 + 5 * terms));
    let proposer = leader(&mut core);
    let input = Input::Built {
        view: request.view,
        parent: request.parent.hash,
        content: BuiltBlock { base_fee: 1, ..BuiltBlock::default() },
    };
    let effects = core.step(request.timestamp, input);
    let proposed =
        effects.iter().find_map(|e| if let Effect::Broadcast(Message::Proposal(b, _)) = e { Some(b) } else { None });
    let block = Arc::clone(proposed.expect("it proposes"));
    assert_eq!(block.body.certificates.skips.len(), MAX_SKIPS_PER_BLOCK);
    let logged = persisted(&effects).iter().filter(|r| matches!(r, Record::Certificate(_))).count();
    assert!(logged >= 400, "what the vote rests on and the block does not carry is in the log: {logged}");

    // One that has all certificates votes; one that lacks some waits for them, and blames nobody.
    let other = (proposer + 1) % 4;
    let known = skips(terms);
    let lacking: Vec<Record> = known.iter().take(1000).chain(&known[1100..]).cloned().collect();
    for (records, votes) in [(known.clone(), 1), (lacking, 0)] {
        let mut voter = restarted(&chain, other, 0, 0, records);
        assert_eq!(voter.position().1, block.header.view);
        let mut effects = proposal(&mut voter, 1, &block, proposer);
        effects.extend(voter.step(
            NOW.plus(2),
            Input::Validated { hash: block.hash(), verdict: cascade_consensus::Verdict::Valid, da: Default::default() },
        ));
        assert_eq!((own_votes(&effects, VoteKind::Prepare), own_votes(&effects, VoteKind::Skip)), (votes, 0));
        assert!(!effects.iter().any(|e| matches!(e, Effect::Misbehaved(..))), "{effects:?}");
        if votes == 0 {
            let mut effects = Vec::new();
            for record in &known[1000..1100] {
                let Record::Certificate(skip) = record else { unreachable!() };
                effects.extend(message(&mut voter, 3, Message::Certificate(Arc::clone(skip))));
            }
            effects.extend(voter.step(
                NOW.plus(4),
                Input::Validated {
                    hash: block.hash(),
                    verdict: cascade_consensus::Verdict::Valid,
                    da: Default::default(),
                },
            ));
            assert_eq!(own_votes(&effects, VoteKind::Prepare), 1, "once the last is there");
        }
    }
}

#[test]
fn on_a_long_stall_every_skip_certificate_is_resent_in_turn() {
    let chain = Chain::new();
    let mut core = restarted(&chain, 0, 0, 0, skips(1500));
    let mut resent = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let at = core.wake_at();
        for effect in core.step(at, Input::Tick) {
            if let Effect::Broadcast(Message::Certificate(c)) = effect {
                resent.insert(c.target.view);
            }
        }
    }
    assert_eq!(resent.len(), 1500);
}
