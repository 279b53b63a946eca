//! The stalls and forks that decisions 2, 3, 4, 6 and 7 are worded against. Each schedule is harmless to the core as it
//! is, and brings down one that lacks the sentence.
//!
//! Decision 9 speaks of decryption shares, which the cores do not have yet.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicBool, Ordering},
};

use cascade_consensus::{Bug, Message};
use cascade_primitives::{Height, VoteKind};
use cascade_sim::{Fault, Outcome, Scenario};

use crate::planted::Planted;

/// Runs the schedule on the core as it is, and on one with the bug, which must break a rule or stall.
fn stands_by_not(bug: Bug, schedule: impl Fn() -> Scenario) -> Outcome {
    let outcome = schedule().run();
    outcome.assert_clean();
    assert!(harms(bug, schedule()), "{bug:?} does no harm here");
    outcome
}

/// Runs variants of a schedule that is of consequence only if the right node leads at the right time, which follows from
/// the genesis hash: all of them on the core as it is, and on one with the bug, which must break a rule or stall in some.
fn stands_by_not_in_some<V: Copy>(bug: Bug, variants: impl IntoIterator<Item = V>, schedule: impl Fn(V) -> Scenario) {
    let (mut runs, mut harmed) = (0, 0);
    for variant in variants {
        schedule(variant).run().assert_clean();
        runs += 1;
        harmed += usize::from(harms(bug, schedule(variant)));
    }
    println!("{bug:?}: harm in {harmed} of {runs}");
    assert!(harmed > 0, "{bug:?} does no harm in any of {runs} variants");
}

fn harms(bug: Bug, scenario: Scenario) -> bool {
    match catch_unwind(AssertUnwindSafe(|| scenario.run_with(Planted(bug), None))) {
        Ok(broken) => {
            println!("{bug:?}: {:?} {:?}", broken.report.violations.first(), broken.report.stalls.first());
            !broken.report.is_clean()
        }
        Err(_) => {
            println!("{bug:?}: the core stops at a broken invariant");
            true
        }
    }
}

fn kind(message: &Message) -> Option<VoteKind> {
    match message {
        Message::Vote(vote, _) => Some(vote.target.kind),
        Message::Certificate(certificate) => Some(certificate.target.kind),
        _ => None,
    }
}

#[test]
fn decision_2_everything_is_said_again_on_a_stall() {
    // Whatever was said in these seconds is lost, the votes to skip among it.
    stands_by_not(Bug::NoResend, || Scenario::new(4).lose(3000..7000, |_, _, _| true).faults_end(7000));
}

#[test]
fn decision_2_a_skip_covers_the_rest_of_its_term() {
    // One node hears nothing for a while and skips. When it hears of later views of the same term, prepared without it,
    // it must not commit there.
    stands_by_not_in_some(Bug::SkipForgotten, 0..4, |deaf| {
        Scenario::new(4).params(|p| p.views_per_term = 50).lose(3000..5500, move |_, to, _| to == deaf).faults_end(5500)
    });
}

#[test]
fn decision_2_nobody_commits_in_a_view_that_it_skipped() {
    // Prepares of a view come to everybody only after all have given it up.
    stands_by_not(Bug::CommitAfterSkip, || {
        let late = |_: usize, _: usize, m: &Message| kind(m).is_some_and(|k| k != VoteKind::Commit);
        Scenario::new(4).params(|p| p.views_per_term = 20).lose(3000..5000, late).faults_end(5000)
    });
}

#[test]
fn decision_2_skips_of_more_than_f_seats_end_the_term() {
    // Two of four hear no proposal for a while and skip, and the other two, of which one leads, do not hear them skip.
    // Those two cannot commit in the term any more; nothing becomes final in it, and it has 200 views.
    let schedule = |pair: usize| {
        let deaf = move |node: usize| [[2, 3], [0, 1], [0, 2], [1, 3], [0, 3], [1, 2]][pair].contains(&node);
        let unheard = move |_: usize, to: usize, m: &Message| deaf(to) && matches!(m, Message::Proposal(..));
        let blind = move |_: usize, to: usize, m: &Message| !deaf(to) && kind(m) == Some(VoteKind::Skip);
        Scenario::new(4)
            .params(|p| p.views_per_term = 200)
            .lose(3000..4800, unheard)
            .lose(3000..4800, blind)
            .faults_end(4800)
            .goes_on(40_000, 0)
    };
    let mut paused = Vec::new();
    for pair in 0..6 {
        let outcome = schedule(pair).run();
        outcome.assert_clean();
        assert!(outcome.longest_pause(3000..40_000) < 6000, "{}", outcome.longest_pause(3000..40_000));
        paused.push(schedule(pair).run_with(Planted(Bug::SkipsNotJoined), None).longest_pause(3000..40_000));
    }
    assert!(paused.iter().any(|ms| *ms > 30_000), "{paused:?}");
}

#[test]
fn decision_2_a_skip_certificate_of_an_earlier_view_ends_the_term_too() {
    // Node 0 alone sees a view prepared and goes on to the next one; the others skip it. From then on node 3 is away,
    // and node 0 is needed for every quorum: it must follow the others into the next term.
    let schedule = || {
        let skipped = AtomicBool::new(false);
        let lost = move |from: usize, to: usize, m: &Message| {
            if matches!(m, Message::Certificate(c) if c.target.kind == VoteKind::Skip) {
                skipped.store(true, Ordering::Relaxed);
            }
            if skipped.load(Ordering::Relaxed) {
                return from == 3 || to == 3;
            }
            let ahead = matches!(m, Message::Proposal(block, _) if from == 0 && block.header.view.0 > 6);
            to != 0 && (kind(m) == Some(VoteKind::Prepare) || ahead)
        };
        Scenario::new(4).params(|p| p.views_per_term = 1000).lose(3000..30_000, lost).faults_end(30_000)
    };
    let outcome = schedule().run();
    outcome.assert_clean();
    assert!(outcome.longest_pause(3000..30_000) < 10_000, "{}", outcome.longest_pause(3000..30_000));
    let broken = schedule().run_with(Planted(Bug::OldSkipIgnored), None);
    assert!(broken.longest_pause(3000..30_000) > 20_000, "{}", broken.longest_pause(3000..30_000));
}

#[test]
fn decision_2_a_certificate_is_forwarded_by_all_who_enter_on_it() {
    // Votes to prepare reach node 0 alone. What it makes of them brings everybody into the next view, as fast as ever.
    let votes = |_: usize, to: usize, m: &Message| match m {
        Message::Vote(vote, _) => to != 0 && vote.target.kind == VoteKind::Prepare,
        _ => false,
    };
    let outcome = Scenario::new(4).lose(3000..20_000, votes).faults_end(20_000).run();
    outcome.assert_clean();
    assert!(outcome.longest_pause(3000..20_000) < 1000, "{}", outcome.longest_pause(3000..20_000));
}

#[test]
fn decision_3_what_a_node_cannot_know_yet_is_not_invalid() {
    stands_by_not(Bug::UnknownInvalid, || Scenario::new(4).slow_execution(3, 3000..10_000, 2000).faults_end(10_000));
}

#[test]
fn decision_3_a_header_with_another_body_proves_nothing_against_the_block() {
    // Members get the true header of a block with another body, from its leader and from one whom they ask for it. The
    // block may be prepared all the same, and they must be able to follow.
    let schedule = |byzantine: usize| Scenario::new(4).byzantine(byzantine, &[Fault::OtherBody]).faults_end(15_000);
    stands_by_not_in_some(Bug::BodyRootUnchecked, 0..4, schedule);
    for byzantine in 0..4 {
        let lies = schedule(byzantine).run().report.faults.of(Fault::OtherBody);
        assert!(lies > 0, "node {byzantine} leads and lies");
    }
}

#[test]
fn decision_4_no_vote_leaves_before_it_is_on_disk() {
    stands_by_not(Bug::VoteNotPersisted, || Scenario::new(4).down(1, 3000..3500).faults_end(3500));
}

#[test]
fn decision_4_certificates_survive_with_the_votes_that_rest_on_them() {
    // A Byzantine node gives its votes to some alone, and prepares reach node 0 alone: so certificates exist that nobody
    // could make again. Then all lose power.
    let schedule = |at: u64| {
        let prepares = |_: usize, to: usize, m: &Message| to != 0 && kind(m) == Some(VoteKind::Prepare);
        let scenario = Scenario::new(4).lazy_disks().byzantine(3, &[Fault::Selective]).lose(3000..at, prepares);
        (0..4).fold(scenario, |s, node| s.down(node, at..at + 300)).faults_end(at + 300)
    };
    stands_by_not_in_some(Bug::CertificatesNotPersisted, (3500..12_000).step_by(850), schedule);
}

#[test]
fn decision_4_a_key_whose_data_is_gone_still_knows_what_it_signed() {
    stands_by_not_in_some(Bug::SignStateForgotten, 0..12, |k: u64| {
        // It wakes up while the others are cut off from each other, among votes that it cannot remember.
        let old = |from: usize, to: usize, m: &Message| kind(m).is_some_and(|k| k != VoteKind::Prepare) && from != to;
        let (one, other, at) = (k as usize % 4, (k as usize + 1) % 4, 5000 + k / 4 * 120);
        Scenario::new(4).lose(4000..7000, old).wiped(one, at..at + 300).wiped(other, at..at + 300).faults_end(7000)
    });
}

#[test]
fn decision_6_blocks_go_on_empty_while_finality_is_away() {
    // No commit gets through for 8 s. With a fixed lag the chain would stop after D = 3 more blocks.
    let schedule = || {
        Scenario::new(4)
            .params(|p| p.views_per_term = 10)
            .lose(3000..11_000, |_, _, m| kind(m) == Some(VoteKind::Commit))
            .faults_end(11_000)
    };
    // Blocks that were waiting for finality when it came back.
    let waiting = |outcome: &Outcome| outcome.chain.iter().filter(|(at, _)| (11_000..11_600).contains(at)).count();
    let outcome = schedule().run();
    outcome.assert_clean();
    assert!(waiting(&outcome) >= 8, "{}", waiting(&outcome));
    let broken = schedule().run_with(Planted(Bug::LagStops), None);
    assert!(waiting(&broken) <= 5, "{}", waiting(&broken));
}

#[test]
fn decision_6_results_are_checked_by_those_who_have_them_and_waited_for_by_the_others() {
    let schedule = || {
        let scenario = Scenario::new(4).byzantine(1, &[Fault::InvalidBlocks]);
        scenario.slow_execution(3, 3000..30_000, 900).faults_end(40_000)
    };
    stands_by_not(Bug::ResultsUnchecked, schedule);
}

#[test]
fn decision_7_fillers_close_an_epoch_whose_last_block_cannot_be_committed() {
    // The last block is that of view 12. Two nodes commit it; the other two do not see it prepared, skip, and cannot
    // commit in that term any more. Only a commit certificate of a filler in a later term can make it final.
    let schedule = || {
        let lost = |_: usize, to: usize, m: &Message| {
            let target = match m {
                Message::Proposal(block, vote) if block.header.view.0 > 12 => vote.target,
                Message::Vote(vote, _) => vote.target,
                Message::Certificate(certificate) => certificate.target,
                _ => return false,
            };
            to >= 2 && target.epoch.0 == 0 && target.view.0 >= 12 && target.kind == VoteKind::Prepare
        };
        Scenario::new(4)
            .params(|p| {
                p.epoch_length = 10;
                p.views_per_term = 20;
            })
            .lose(0..9000, lost)
            .faults_end(9000)
    };
    stands_by_not(Bug::NoFillers, schedule);
}

#[test]
fn decision_7_an_epoch_begins_with_a_commit_certificate_of_the_last_one() {
    stands_by_not(Bug::HandoverUncertified, || Scenario::new(4).params(|p| p.epoch_length = 10));
}

#[test]
fn decision_7_an_epoch_is_extended_and_then_goes_on_without_those_who_never_start() {
    // Six members, of whom two never start: four are ready, five would be a quorum.
    let schedule = || {
        let six: Vec<(usize, u64)> = (0..6).map(|node| (node, 100)).collect();
        Scenario::new(4)
            .params(|p| {
                p.epoch_length = 10;
                p.epoch_extension = 5;
                p.epoch_extensions_max = 2;
            })
            .committee(1, &six)
            .absent(4)
            .absent(5)
            .faults_end(30_000)
    };
    let outcome = stands_by_not(Bug::ReadinessUnasked, schedule);
    let first = outcome.chain.iter().map(|(_, b)| &b.header).find(|h| h.epoch.0 == 1).expect("the next epoch begins");
    // The last content height 9 became 19, and its results are due three blocks above.
    assert_eq!(first.height, Height(23));
    assert_ne!(first.committee_root, outcome.chain[1].1.header.next_committee_root, "not all of the six");
}

#[test]
fn decision_7_a_late_statement_of_readiness_is_no_lie_after_candidates_were_dropped() {
    // Node 3 is heard but hears nothing, so it goes on saying that it is ready to take over together with the two that
    // never start, long after the others took note and dropped those two.
    let members = [4, 5, 0, 1, 2, 3].map(|node| (node, 100));
    let outcome = Scenario::new(4)
        .params(|p| {
            p.epoch_length = 20;
            p.epoch_extension = 5;
            p.epoch_extensions_max = 1;
            p.results_lag = 15;
        })
        .committee(1, &members)
        .absent(4)
        .absent(5)
        .one_way(100..25_000, &[(0, 3), (1, 3), (2, 3)])
        .faults_end(25_000)
        .run();
    outcome.assert_clean();
    assert!(outcome.chain.last().is_some_and(|(_, b)| b.header.epoch.0 >= 1));
}
