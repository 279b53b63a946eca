//! Blocks in coded chunks against whole ones, and what becomes of a block whose chunks do not come.

use cascade_consensus::Bug;
use cascade_sim::{
    Carriage, Faults, Scenario, Scheme, SimConfig,
    figures::spread::{Setting, spread, spread_table},
};

use crate::{
    hunt::{clean, is_caught, slow},
    planted::Planted,
};

const MBIT: u64 = 1_000_000;

/// Leader bytes, ms until all have the block, and ms until it is prepared; whole and in chunks.
fn both(nodes: usize, body: usize, uplink: u64) -> [(f64, f64, f64); 2] {
    let setting = Setting { nodes, body, uplink, delay: 50 };
    [false, true].map(|coded| {
        let found = spread(&setting, coded);
        println!("{nodes} nodes, {body} bytes, coded {coded}: {found:?}");
        (found.leader_bytes as f64, found.everywhere_ms as f64, found.prepared_ms as f64)
    })
}

#[test]
fn whole_blocks_take_what_the_uplink_says() {
    // A node sends 12.5 MB in a second: 1 MiB takes 84 ms, to three others 252 ms.
    let [whole, coded] = both(4, 1 << 20, 100 * MBIT);
    // The last one hears of the certificate first and asks for what is on its way.
    assert!((3.0..4.05).contains(&(whole.0 / f64::from(1 << 20))), "{whole:?}");
    assert!((300.0..310.0).contains(&whole.1), "three blocks and a delay: {whole:?}");
    // Of four the second votes last for a quorum: two blocks, and a delay each for the block and the votes.
    assert!((265.0..275.0).contains(&whole.2), "{whole:?}");
    // Half a block to each.
    assert!((1.5..1.55).contains(&(coded.0 / f64::from(1 << 20))), "{coded:?}");
}

#[test]
fn coded_chunks_win_with_the_committee_and_lose_a_delay_where_blocks_are_small() {
    let mut saved = Vec::new();
    for (nodes, at_most) in [(4, 0.55), (16, 0.2), (64, 0.08)] {
        let [whole, coded] = both(nodes, 1 << 20, 100 * MBIT);
        let floor = (nodes as f64 - 1.0) * f64::from(1 << 20);
        assert!(whole.0 >= floor && coded.0 <= at_most * floor, "{nodes} nodes: {whole:?} {coded:?}");
        saved.push(whole.1 - coded.1);
        if nodes >= 16 {
            assert!(coded.1 < 0.5 * whole.1 && coded.2 < 0.5 * whole.2, "{nodes} nodes: {whole:?} {coded:?}");
        }
    }
    assert!(saved.is_sorted(), "{saved:?}");
    // A small block over a fast link is there after a delay; chunks take two.
    let [whole, coded] = both(4, 64 << 10, 1000 * MBIT);
    assert!((50.0..60.0).contains(&whole.1) && (100.0..110.0).contains(&coded.1), "{whole:?} {coded:?}");
    assert!(coded.2 > whole.2 + 40.0, "{whole:?} {coded:?}");
}

/// A cluster whose nodes `mute` pass no chunk on.
fn with_mute(nodes: usize, mute: &[usize]) -> cascade_sim::Outcome {
    let mute = mute.iter().copied().collect();
    let carriage = Carriage { uplink: Some(100 * MBIT), coded: true, filling: 100_000, mute };
    let outcome = Scenario::new(nodes).carriage(carriage).faults_end(0).goes_on(20_000, 10).run();
    outcome.assert_clean();
    outcome
}

#[test]
fn f_members_that_pass_nothing_on_hold_nobody_up() {
    let usual = with_mute(7, &[]);
    let mute = with_mute(7, &[2, 5]);
    let usual = usual.longest_pause(2000..20_000);
    let pause = mute.longest_pause(2000..20_000);
    assert!(pause <= usual + 100, "{usual} ms usually, {pause} ms with two that are mute");
}

#[test]
fn the_whole_block_is_the_fallback() {
    // Where nobody passes a chunk on, nobody but the leader has the block without asking.
    let outcome = with_mute(7, &[0, 1, 2, 3, 4, 5, 6]);
    assert!(outcome.report.commits >= 10, "{}", outcome.report.commits);
    // Half a leader timeout until they ask; usually there is a block every 500 ms.
    let (pause, usual) = (outcome.longest_pause(2000..20_000), with_mute(7, &[]).longest_pause(2000..20_000));
    assert!(pause > usual + 150, "it costs a wait: {pause} ms, usually {usual} ms");
}

#[test]
fn the_table_has_a_line_for_each_setting() {
    let setting = Setting { nodes: 4, body: 64 << 10, uplink: 100 * MBIT, delay: 50 };
    let (whole, coded) = (spread(&setting, false), spread(&setting, true));
    let table = spread_table(&[(setting, whole, coded)]);
    assert!(table.lines().nth(2).is_some_and(|line| line.starts_with("| 4 | 64 KiB | 100 Mbit/s |")), "{table}");
    assert!(table.lines().all(|line| line.matches('|').count() == 12), "{table}");
}

fn with_chunks(nodes: usize) -> SimConfig {
    SimConfig { chunks: true, ..SimConfig::new(nodes, Faults::ALL) }
}

#[test]
fn four_nodes_hold_with_chunks_under_all_faults() {
    let summary = clean(&with_chunks(4), 0..if slow() { 2000 } else { 150 });
    let chunks = &summary.chunks;
    assert!(chunks.rebuilt > 10 * summary.seeds && chunks.asked > 0 && chunks.found > 0, "{chunks:?}");
    // One for each habit of a liar.
    assert_eq!(chunks.lies.len(), 12, "{chunks:?}");
}

#[test]
fn seven_nodes_hold_with_chunks_under_all_faults() {
    clean(&with_chunks(7), 0..if slow() { 1000 } else { 60 });
}

#[test]
fn sixteen_nodes_hold_with_chunks_under_all_faults() {
    clean(&with_chunks(16), 0..if slow() { 200 } else { 8 });
}

#[test]
fn real_signatures_hold_with_chunks() {
    let config = SimConfig { scheme: Scheme::Bls, fault_ms: 20_000, least_ms: 30_000, ..with_chunks(4) };
    clean(&config, 0..if slow() { 50 } else { 3 });
}

#[test]
fn without_faults_every_proposal_comes_out_of_chunks_and_nobody_asks() {
    let config = SimConfig { chunks: true, ..SimConfig::new(7, Faults::NONE) };
    let summary = clean(&config, 0..5);
    assert!(summary.chunks.rebuilt >= 6 * summary.commits - 6 * summary.seeds, "{:?}", summary.chunks);
    assert_eq!((summary.chunks.asked, summary.chunks.found), (0, 0));
}

#[test]
fn planted_bugs_of_chunks_are_caught() {
    for bug in [Bug::ChunkUnchecked, Bug::ManifestUnchecked, Bug::ChunksPinned] {
        assert!(is_caught(&with_chunks(4), (400, 20), &Planted(bug), (&bug, bug.words())), "{bug:?}");
    }
}
