//! What can go wrong where one epoch ends and the next begins.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use cascade_consensus::{Bug, Bugs, Message, NoBugs};
use cascade_crypto::bugs::SealedBugs;
use cascade_primitives::{VoteKind, VoteTarget};
use cascade_sim::{Outcome, Scenario};

/// A core that does not write what ended an epoch.
#[derive(Clone, Copy, Debug)]
struct Unwritten;

impl SealedBugs for Unwritten {}

impl Bugs for Unwritten {
    fn planted(&self, bug: Bug) -> bool {
        bug == Bug::EpochEndNotPersisted
    }
}

fn target(message: &Message) -> Option<VoteTarget> {
    match message {
        Message::Vote(vote, _) => Some(vote.target),
        Message::Certificate(certificate) => Some(certificate.target),
        _ => None,
    }
}

/// Seven nodes, five are a quorum. The epoch's last block is that of view 12. Node `first` alone sees that it is final; of
/// the other six, which prepare a filler above it, four commit the filler and two do not. Then all hear that the epoch
/// ended and vote in the next one. At `cut` all lose power, and every final block with it. What a node repeats on a
/// stall is its last Commit: three for the block and four for the filler, and nobody has five of either.
///
/// Answers also whether it came to that: four committed the filler, and all voted in the next epoch.
fn power_cut<B: Bugs>(first: usize, cut: u64, bugs: B) -> (Outcome, bool) {
    let (committed, voted_on) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (committers, voters) = (Arc::clone(&committed), Arc::clone(&voted_on));
    let blind = [(first + 1) % 7, (first + 2) % 7];
    let scenario = Scenario::new(7).lazy_disks().params(|p| {
        p.epoch_length = 10;
        p.views_per_term = 20;
    });
    let scenario = scenario.lose(0..cut, move |from, to, message| {
        if let Message::EpochEnd(..) = message {
            return committers.load(Ordering::Relaxed).count_ones() < 4;
        }
        let Some(target) = target(message) else { return false };
        let voted = matches!(message, Message::Vote(..));
        match (target.epoch.0, target.kind, target.view.0) {
            (0, VoteKind::Commit, 12) => to != first,
            (0, VoteKind::Commit, 13..) => {
                committers.fetch_or(u64::from(voted) << from, Ordering::Relaxed);
                true
            }
            (0, VoteKind::Prepare, 13..) => to == first || blind.contains(&to),
            (1, ..) => {
                voters.fetch_or(u64::from(voted) << from, Ordering::Relaxed);
                false
            }
            _ => false,
        }
    });
    let cut_off = (0..7).fold(scenario, |s, node| s.down(node, cut..cut + 300 + 100 * node as u64));
    let outcome = cut_off.faults_end(cut + 1200).run_with(bugs, None);
    let split = committed.load(Ordering::Relaxed).count_ones() == 4 && voted_on.load(Ordering::Relaxed) == 0x7f;
    (outcome, split)
}

fn cuts() -> impl Iterator<Item = (usize, u64)> {
    (0..7).flat_map(|first| (6500..9500).step_by(100).map(move |cut| (first, cut)))
}

#[test]
fn a_power_cut_of_all_nodes_just_after_an_epoch_ended_does_not_keep_it_open() {
    let mut splits = 0;
    for (first, cut) in cuts() {
        let (outcome, split) = power_cut(first, cut, NoBugs);
        splits += u64::from(split);
        assert!(
            outcome.report.is_clean(),
            "{first} at {cut}: {:?} {:?}",
            outcome.report.violations,
            outcome.report.stalls
        );
    }
    println!("commits were split, and the next epoch voted in, in {splits} of {} runs", cuts().count());
    assert!(splits > 50, "{splits}");
}

#[test]
fn without_the_end_of_the_epoch_in_the_log_the_same_power_cuts_stall() {
    let stalled = |&(first, cut): &(usize, u64)| !power_cut(first, cut, Unwritten).0.report.stalls.is_empty();
    let (runs, stalls) = (cuts().step_by(11).count(), cuts().step_by(11).filter(stalled).count());
    println!("{stalls} of {runs} power cuts stall");
    assert!(stalls > 5, "{stalls}");
}
