//! Twins (Bano et al. 2020): one key on two nodes that both follow the protocol, and every way to divide five nodes
//! into groups, view after view. With three rounds of two groups these are 16 to the power of 3 schedules.

use cascade_sim::{Fault, Scenario};

/// Ms of a round: about a view.
const ROUND: u64 = 300;
/// Rounds in which the nodes are divided anew.
const ROUNDS: u32 = 3;
/// When the first round begins.
const START: u64 = 700;

/// The divisions of five nodes into at most so many groups, the first node always in the first.
fn divisions(groups: u8) -> Vec<[u8; 5]> {
    let mut found = vec![[0; 5]];
    for place in 1..5 {
        found = found
            .into_iter()
            .flat_map(|division| {
                let next = (division[..place].iter().max().expect("it has a first") + 1).min(groups - 1);
                (0..=next).map(move |group| {
                    let mut division = division;
                    division[place] = group;
                    division
                })
            })
            .collect();
    }
    found
}

/// Runs every `stride`-th schedule with the key of `node` on two nodes; answers how often the two contradicted each
/// other.
fn run_schedules(node: usize, groups: u8, stride: usize) -> u64 {
    let divisions = divisions(groups);
    let count = divisions.len().pow(ROUNDS);
    let mut contradictions = 0;
    for schedule in (0..count).step_by(stride) {
        let scenario = Scenario::new(4)
            .params(|p| {
                p.block_time_ms = 100;
                p.leader_timeout_ms = 300;
                p.views_per_term = 2;
            })
            .twin(node)
            .transaction_every(60);
        let mut rest = schedule;
        let scenario = (0..u64::from(ROUNDS)).fold(scenario, |s, round| {
            let division = divisions[rest % divisions.len()];
            rest /= divisions.len();
            let start = START + round * ROUND;
            s.partition(start..start + ROUND - 1, &division)
        });
        let end = START + u64::from(ROUNDS) * ROUND;
        let outcome = scenario.faults_end(end).goes_on(0, 0).run();
        assert!(
            outcome.report.is_clean(),
            "twins of node {node}, {groups} groups, schedule {schedule}: {:?} {:?}",
            outcome.report.violations,
            outcome.report.stalls
        );
        contradictions += outcome.report.faults.of(Fault::Twins);
    }
    println!("node {node}: {} schedules, {contradictions} contradictions", count.div_ceil(stride));
    contradictions
}

#[test]
fn divisions_are_complete() {
    // Stirling numbers of the second kind: 1 + 15, and 25 more with three groups.
    assert_eq!(divisions(2).len(), 16);
    assert_eq!(divisions(3).len(), 41);
}

#[test]
fn a_key_on_two_nodes_breaks_nothing_however_they_are_divided() {
    let slow = std::env::var_os("CASCADE_SLOW").is_some();
    let contradictions: u64 = (0..4).map(|node| run_schedules(node, 2, if slow { 1 } else { 37 })).sum();
    assert!(contradictions > 50, "the two nodes of a key contradict each other: {contradictions}");
    if slow {
        (0..4).for_each(|node| {
            run_schedules(node, 3, 11);
        });
    }
}
