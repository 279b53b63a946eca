//! Encrypted chains: fixed ranges, more with CASCADE_SLOW=1, and the planted bugs of keys, ciphertexts and shares.

use cascade_consensus::{Bug, Bugs, NoBugs};
use cascade_crypto::bugs::{SealedBug, SealedBugs};
use cascade_primitives::TransactionRule;
use cascade_sim::{Faults, Scenario, SimConfig, run_seed};

use crate::hunt::{clean, is_caught, slow};

#[test]
fn four_nodes_open_every_final_block_under_all_faults() {
    let summary = clean(&SimConfig::encrypted(4, Faults::ALL), 0..if slow() { 1000 } else { 16 });
    let revealed = &summary.revealed;
    // Every seed has several changes of keys, and opens something.
    assert!(revealed.keys >= 2 * summary.seeds && revealed.envelopes >= 5 * summary.seeds, "{revealed:?}");
    assert!(revealed.too_few > 0 && revealed.lies.len() >= 8, "{revealed:?}");
}

#[test]
fn seven_nodes_open_every_final_block_under_all_faults() {
    clean(&SimConfig::encrypted(7, Faults::ALL), 0..if slow() { 100 } else { 2 });
}

#[test]
fn an_encrypted_seed_is_one_trace_however_it_is_run() {
    let config = SimConfig::encrypted(4, Faults::ALL);
    let (first, again) = (run_seed(&config, 3), run_seed(&config, 3));
    assert_eq!((first.trace, &first.revealed), (again.trace, &again.revealed));
    assert_ne!(first.trace, run_seed(&config, 4).trace);
}

#[test]
fn seed_359_a_leader_leaves_out_readiness_for_a_committee_that_was_made_anew() {
    // A member loses its shares, the next committee is made anew within the epoch, and a leader still had the statements
    // of readiness for the one before: its blocks were invalid.
    clean(&SimConfig::encrypted(4, Faults::ALL), 359..360);
}

/// In epoch 1 node 2 is away while encryption keys are announced, and node 3 announces one and then loses its disk: the keys
/// of epoch 2 are made, and two of four hold no shares of them. These are more than f, and those that are ready are fewer than
/// form a committee. The next committee is made anew, with the same members, and the epoch ends with keys that enough hold.
#[test]
fn two_members_without_shares_of_the_next_epoch_end_it_when_they_are_back() {
    let outcome = Scenario::new(4)
        .params(|p| {
            p.transactions = TransactionRule::Encrypted;
            (p.epoch_length, p.key_window, p.old_keys_kept) = (40, 8, 8);
            (p.epoch_extension, p.epoch_extensions_max) = (6, 1);
            p.empty_block_interval = 1;
        })
        // While two are without shares of epoch 1 nothing could be opened.
        .idle(1..60_000)
        .down(2, 4500..31_000)
        .wiped(3, 14_000..15_000)
        .faults_end(60_000)
        .run();
    outcome.assert_clean();
    let of_epoch =
        |epoch: u64| outcome.chain.iter().map(|(_, block)| &block.header).filter(move |h| h.epoch.0 == epoch);
    let mut named: Vec<_> = of_epoch(1).map(|header| header.next_committee_root).collect();
    named.dedup();
    assert!(named.len() >= 3, "made anew, and then with keys: {named:?}");
    let first = of_epoch(2).next().expect("the epoch ends");
    assert_eq!(Some(&first.committee_root), named.last());
}

/// A node with one bug.
#[derive(Clone, Copy, Debug)]
struct Planted(SealedBug);

impl SealedBugs for Planted {
    fn sealed(&self, bug: SealedBug) -> bool {
        self.0 == bug
    }
}

impl Bugs for Planted {
    fn planted(&self, _: Bug) -> bool {
        false
    }
}

/// Seeds within which every bug is caught, and those that run at a time.
const SEEDS: u64 = 100;
const AT_A_TIME: u64 = 2;

fn caught(bug: SealedBug) -> bool {
    let config = SimConfig::encrypted(4, Faults::ALL);
    is_caught(&config, (SEEDS, AT_A_TIME), &Planted(bug), (&bug, bug.words()))
}

/// With CASCADE_BUG=NAME it is this bug alone.
#[test]
fn every_planted_bug_of_keys_and_shares_is_caught() {
    let one = std::env::var("CASCADE_BUG").ok();
    let chosen = SealedBug::ALL.iter().filter(|bug| one.as_ref().is_none_or(|one| *one == format!("{bug:?}")));
    let missed: Vec<_> = chosen.filter(|bug| !caught(**bug)).collect();
    assert!(missed.is_empty(), "not caught in {SEEDS} seeds: {missed:?}");
}

/// Of consensus, but of nothing without keys. With CASCADE_SLOW=1 all seeds are counted.
#[test]
fn keys_that_one_member_names_alone_are_caught() {
    let (config, bug) = (SimConfig::encrypted(4, Faults::ALL), Bug::KeysOfTheFirst);
    let planted = super::planted::Planted(bug);
    assert!(is_caught(&config, (SEEDS, AT_A_TIME), &planted, (&bug, bug.words())), "not caught in {SEEDS} seeds");
}

#[test]
fn bugs_of_keys_and_shares_are_planted_and_a_node_has_none() {
    assert_eq!(SealedBug::ALL.len(), 9);
    assert!(SealedBug::ALL.iter().all(|&bug| !NoBugs.sealed(bug) && Planted(bug).sealed(bug)));
}
