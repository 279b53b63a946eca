//! Named schedules: one for each stall that the wording of the decisions is there to prevent, and for each bug that the
//! simulator found and that can be told in a few lines.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use cascade_consensus::Message;
use cascade_primitives::{ChainParams, Height, Network, Vote, VoteKind};
use cascade_sim::{Fault, Outcome, Scenario};

fn is_commit(message: &Message) -> bool {
    match message {
        Message::Vote(vote, _) => vote.target.kind == VoteKind::Commit,
        Message::Certificate(c) => c.target.kind == VoteKind::Commit,
        Message::EpochEnd(..) => true,
        _ => false,
    }
}

fn is_prepare(message: &Message) -> bool {
    match message {
        Message::Vote(vote, _) => vote.target.kind == VoteKind::Prepare,
        Message::Certificate(c) => c.target.kind == VoteKind::Prepare,
        _ => false,
    }
}

#[test]
fn decision_6_a_chain_that_lost_finality_goes_on_with_empty_blocks() {
    // No commit gets through for 8 s while prepares do.
    let scenario = Scenario::new(4).params(|p| p.views_per_term = 10);
    let outcome = scenario.lose(3000..11_000, |_, _, m| is_commit(m)).faults_end(11_000).run();
    outcome.assert_clean();
    let empty = |block: &cascade_primitives::SealedBlock| block.body.transactions.is_empty();
    let made_in_the_dark: Vec<_> = outcome.chain.iter().filter(|(at, _)| (11_000..12_000).contains(at)).collect();
    assert!(made_in_the_dark.len() > 5, "blocks went on: {}", made_in_the_dark.len());
    assert!(made_in_the_dark.iter().skip(4).take(3).all(|(_, b)| empty(b)), "without transactions beyond D");
    let later = outcome.chain.iter().filter(|(at, _)| *at > 13_000);
    assert!(later.clone().any(|(_, b)| !empty(b)), "and with them once finality was back");
}

#[test]
fn decision_2_a_prepare_and_a_skip_certificate_of_one_view_harm_nothing() {
    // Node 0 alone sees the prepares of some views and commits; the others skip those views.
    let (prepared, skipped) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (p, s) = (Arc::clone(&prepared), Arc::clone(&skipped));
    let outcome = Scenario::new(4)
        .lose(3000..8000, move |from, to, m| {
            match m {
                Message::Certificate(c) if c.target.kind == VoteKind::Prepare && from == 0 => {
                    p.store(true, Ordering::Relaxed)
                }
                Message::Certificate(c) if c.target.kind == VoteKind::Skip => s.store(true, Ordering::Relaxed),
                _ => {}
            }
            is_prepare(m) && to != 0
        })
        .faults_end(8000)
        .run();
    outcome.assert_clean();
    assert!(
        prepared.load(Ordering::Relaxed) && skipped.load(Ordering::Relaxed),
        "both kinds of certificates were made"
    );
}

#[test]
fn decision_2_a_leader_known_to_be_silent_is_passed_over_fast() {
    let outcome = Scenario::new(4).byzantine(2, &[Fault::Silence]).faults_end(40_000).run();
    outcome.assert_clean();
    // The first time takes the timeout; from then on an eighth of it, and block time.
    assert!(outcome.longest_pause(10_000..40_000) < 1500, "{}", outcome.longest_pause(10_000..40_000));
}

fn mainnets_terms(params: &mut ChainParams) {
    let ChainParams { views_per_term, leader_timeout_ms, .. } = ChainParams::of(Network::Mainnet);
    (params.views_per_term, params.leader_timeout_ms) = (views_per_term, leader_timeout_ms);
}

/// A timeout is as long as six blocks of mainnet, and short terms make it frequent. Who causes it votes, and proposes one
/// block in five, so that it never counts as silent.
#[test]
fn decision_2_a_leader_that_stalls_its_terms_is_given_less_time_in_the_next() {
    let blocks = |nodes, stalling: &[usize]| {
        let scenario = Scenario::new(nodes).params(mainnets_terms).faults_end(220_000);
        let outcome = stalling.iter().fold(scenario, |s, node| s.byzantine(*node, &[Fault::SilentLeader])).run();
        outcome.assert_clean();
        outcome.chain.iter().filter(|(at, _)| (20_000..220_000).contains(at)).count()
    };
    // With the whole timeout each time it is 201 of 400 with four nodes.
    for (nodes, stalling, least) in [(4, [2].as_slice(), 300), (7, &[2, 3], 270)] {
        let left = blocks(nodes, stalling);
        assert!(left > least && blocks(nodes, &[]) >= 399, "{nodes} nodes: {left}");
    }
}

/// Blocks that take half the timeout are not late, also after an outage in which everybody's terms were skipped, or one
/// leader's, who was not heard at all or whose votes came through.
#[test]
fn decision_2_an_outage_leaves_no_leader_with_less_time_than_it_takes() {
    type Lost = fn(usize, &Message) -> bool;
    let cases: [(_, _, Lost); 3] = [
        ("all", None, |_, m| is_prepare(m)),
        ("one", Some(1), |from, _| from == 1),
        ("one's proposals", Some(1), |from, m| from == 1 && matches!(m, Message::Proposal(..))),
    ];
    for (name, node, lost) in cases {
        let outcome = Scenario::new(4)
            .params(mainnets_terms)
            .slow_links(0..400_000, &slow(node, 700))
            .lose(100_000..140_000, move |from, _, m| lost(from, m))
            .faults_end(400_000)
            .run();
        outcome.assert_clean();
        assert_eq!(skipped(&outcome, 20_000..100_000), 0, "{name}");
        let after = skipped(&outcome, 141_000..400_000);
        assert!(after <= 1, "{name}: {after}");
    }
}

/// Where everybody's blocks take longer than the timeout, it grows: if they are skipped, and if they are prepared after all but
/// nobody commits any more.
#[test]
fn decision_2_a_timeout_that_is_too_short_for_all_grows() {
    for term in [1, 3, 10] {
        for delay in [1400, 1800, 2600] {
            let outcome = Scenario::new(4)
                .params(mainnets_terms)
                .params(move |p| p.views_per_term = term)
                .slow_links(20_000..220_000, &slow(None, delay))
                .faults_end(220_000)
                .run();
            outcome.assert_clean();
            let blocks = outcome.chain.iter().filter(|(at, _)| (40_000..220_000).contains(at)).count();
            assert!(blocks > 25, "terms of {term}, delay {delay} ms: {blocks}");
        }
    }
}

/// A leader whose blocks were lost, while its votes were not, and came in time for long enough thereafter, may be slow later.
#[test]
fn decision_2_whole_terms_give_a_leader_the_whole_timeout_back() {
    let outcome = Scenario::new(4)
        .params(mainnets_terms)
        .lose(20_000..40_000, |from, _, m| from == 1 && matches!(m, Message::Proposal(..)))
        .slow_links(100_000..200_000, &slow(Some(1), 700))
        .faults_end(200_000)
        .run();
    outcome.assert_clean();
    assert!(skipped(&outcome, 20_000..40_000) > 3);
    assert_eq!(skipped(&outcome, 100_000..200_000), 0);
}

/// A leader with little of the timeout left is in time where the one before keeps its block from it, and whatever the clocks
/// say.
#[test]
fn decision_2_the_time_of_a_leader_that_stalled_is_no_matter_of_others_blocks_or_clocks() {
    for (clock, other) in [(0, 0), (300, 0), (-300, 0), (300, -300)] {
        let outcome = Scenario::new(4)
            .params(mainnets_terms)
            .clock(1, clock)
            .clock(3, other)
            .lose(20_000..40_000, |from, _, m| from == 1 && matches!(m, Message::Proposal(..)))
            .lose(20_000..100_000, |from, to, m| {
                (from, to) == (2, 1) && matches!(m, Message::Proposal(..) | Message::Block(_))
            })
            .faults_end(100_000)
            .run();
        outcome.assert_clean();
        assert!(skipped(&outcome, 20_000..40_000) > 3);
        assert_eq!(skipped(&outcome, 41_000..100_000), 0, "clocks {clock} and {other} ms ahead");
    }
}

/// All links, or those of one node, with such a delay.
fn slow(node: Option<usize>, ms: u64) -> Vec<(usize, usize, u64)> {
    let links = (0..16).map(|i| (i / 4, i % 4)).filter(|(from, to)| from != to);
    let of_node = links.filter(|(from, to)| node.is_none_or(|node| *from == node || *to == node));
    of_node.map(|(from, to)| (from, to, ms)).collect()
}

/// Views without a block of the chain.
fn skipped(outcome: &Outcome, during: std::ops::Range<u64>) -> u64 {
    let mut views = outcome.chain.iter().filter(|(at, _)| during.contains(at)).map(|(_, b)| b.header.view.0);
    let first = views.next().expect("there are blocks");
    let (blocks, last) = views.fold((0, first), |(blocks, _), view| (blocks + 1, view));
    last - first - blocks
}

#[test]
fn decision_2_an_invalid_proposal_rotates_the_leader_at_once() {
    let outcome = Scenario::new(4).byzantine(1, &[Fault::InvalidBlocks]).faults_end(40_000).run();
    outcome.assert_clean();
    assert!(outcome.report.faults.of(Fault::InvalidBlocks) > 3);
    assert!(outcome.longest_pause(2000..40_000) < 2500, "{}", outcome.longest_pause(2000..40_000));
}

#[test]
fn decision_4_a_power_cut_of_all_nodes_loses_nothing_that_votes_rest_on() {
    for at in (5000..5500).step_by(20) {
        let cut = (0..4).fold(Scenario::new(4), |s, node| s.down(node, at..at + 500 + 300 * node as u64));
        cut.faults_end(8000).run().assert_clean();
    }
}

#[test]
fn decision_4_a_node_without_its_log_signs_on_from_the_sign_state() {
    let outcome = Scenario::new(4).wiped(3, 6000..9000).down(0, 12_000..30_000).faults_end(30_000).run();
    outcome.assert_clean();
    // While node 0 is away, the wiped one is needed for every quorum.
    let during = outcome.chain.iter().filter(|(at, _)| (20_000..30_000).contains(at)).count();
    assert!(during > 5, "{during}");
}

#[test]
fn more_than_f_stopped_nodes_halt_the_chain_and_their_return_resumes_it() {
    let outcome = Scenario::new(4).down(0, 5000..15_000).down(1, 5000..15_000).faults_end(15_000).run();
    outcome.assert_clean();
    assert_eq!(outcome.chain.iter().filter(|(at, _)| (6000..15_000).contains(at)).count(), 0);
}

#[test]
fn decision_7_a_filler_makes_the_last_block_of_an_epoch_final() {
    // The last content height is 9, its results are due in block 12, made in view 12. No commit of that view gets
    // through, nor of the next two.
    let lost = |m: &Message| match m {
        Message::Vote(vote, _) => is_commit(m) && vote.target.epoch.0 == 0 && (12..15).contains(&vote.target.view.0),
        _ => false,
    };
    let outcome = Scenario::new(4)
        .params(|p| {
            p.epoch_length = 10;
            p.views_per_term = 20;
        })
        .committee(1, &[(0, 100), (1, 100), (2, 100), (4, 100)])
        .lose(0..20_000, move |_, _, m| lost(m))
        .faults_end(20_000)
        .run();
    outcome.assert_clean();
    let first = outcome.chain.iter().map(|(_, b)| b).find(|b| b.header.epoch.0 == 1).expect("the next epoch begins");
    assert_eq!(first.header.height, Height(13), "fillers are no part of the chain");
    assert_eq!(first.body.certificates.fillers.len(), 3, "but their headers prove its end");
}

#[test]
fn decision_7_members_join_leave_and_change_weight() {
    let outcome = Scenario::new(4)
        .params(|p| p.epoch_length = 10)
        .committee(1, &[(0, 100), (1, 100), (2, 100), (3, 100), (4, 100)])
        .committee(2, &[(1, 100), (2, 250), (3, 100), (4, 300), (5, 120)])
        .committee(3, &[(5, 100), (0, 100), (4, 100), (3, 100)])
        .faults_end(40_000)
        .run();
    outcome.assert_clean();
    assert!(outcome.chain.last().is_some_and(|(_, b)| b.header.epoch.0 >= 3));
}

#[test]
fn a_power_cut_that_takes_final_blocks_back_over_an_epochs_start_is_survived() {
    // The log still holds the newer epoch's certificates; without them nobody could vote or skip there again.
    for at in (8000..9000).step_by(100) {
        let scenario = Scenario::new(4).params(|p| p.epoch_length = 8).lazy_disks();
        let cut = (0..4).fold(scenario, |s, node| s.down(node, at..at + 500));
        cut.faults_end(at + 500).run().assert_clean();
    }
}

#[test]
fn a_node_that_learns_of_an_epochs_end_before_it_could_judge_the_last_block_votes_on() {
    // With D = 1 the last block is that of view 10. Node 3 gets it, but has not executed what it reports, and hears of
    // no vote for it; the epoch's end reaches it as a proof. With node 0 away in the next epoch its votes are needed.
    let last = |m: &Message| match m {
        Message::Vote(Vote { target, .. }, _) => target.epoch.0 == 0 && target.view.0 >= 10,
        Message::Certificate(c) => c.target.epoch.0 == 0 && c.target.view.0 >= 10,
        _ => false,
    };
    let outcome = Scenario::new(4)
        .params(|p| {
            p.epoch_length = 10;
            p.epoch_extension = 5000;
            p.results_lag = 1;
        })
        .slow_execution(3, 3000..9000, 3000)
        .lose(0..9000, move |_, to, m| to == 3 && last(m))
        .down(0, 5300..25_000)
        .faults_end(25_000)
        .run();
    outcome.assert_clean();
    let during = outcome.chain.iter().filter(|(at, _)| (15_000..25_000).contains(at)).count();
    assert!(during > 5, "{during}");
}

#[test]
fn a_clock_that_is_ahead_holds_up_nobody_else() {
    let outcome = Scenario::new(4).params(|p| p.future_drift_ms = 30_000).clock(1, 20_000).faults_end(40_000).run();
    outcome.assert_clean();
    assert!(outcome.longest_pause(2000..40_000) < 2000, "{}", outcome.longest_pause(2000..40_000));
}

#[test]
fn a_clock_beyond_the_drift_costs_its_node_the_lead_and_nothing_else() {
    let outcome = Scenario::new(4).params(|p| p.future_drift_ms = 2000).clock(1, 20_000).faults_end(40_000).run();
    outcome.assert_clean();
    assert!(outcome.chain.len() > 40, "{}", outcome.chain.len());
}

#[test]
fn a_node_that_was_away_for_long_catches_up_over_several_epochs() {
    let outcome = Scenario::new(4)
        .params(|p| p.epoch_length = 15)
        .down(2, 3000..60_000)
        .partition(30_000..32_000, &[0, 1, 1, 1])
        .faults_end(60_000)
        .run();
    outcome.assert_clean();
    assert!(outcome.report.recovery_ms.is_some_and(|ms| ms < 6000), "{:?}", outcome.report.recovery_ms);
}

#[test]
fn a_node_that_was_away_while_finality_was_lost_fetches_what_is_not_final() {
    // Node 3 is away, and no commit of the others counts: they prepare more blocks than a node fetches one by one, and
    // none becomes final. Then node 0 dies, and nothing goes on before node 3 can judge a proposal.
    let lost = |m: &Message| matches!(m, Message::Vote(v, _) if v.target.kind == VoteKind::Commit && (4..61).contains(&v.target.view.0));
    let outcome = Scenario::new(4)
        .params(|p| p.views_per_term = 10)
        .lose(0..60_000, move |_, _, m| lost(m))
        .partition(2000..22_000, &[0, 0, 0, 1])
        .down(0, 22_000..60_000)
        .faults_end(60_000)
        .run();
    outcome.assert_clean();
    let during = outcome.chain.iter().filter(|(at, _)| (40_000..60_000).contains(at)).count();
    assert!(during > 5, "{during}");
}
