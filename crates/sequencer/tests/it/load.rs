//! A cluster that is offered more than it takes.

use serde_json::Value;

use crate::cli::cascade;

/// Bytes of a block and of a payload, so that a block holds 64 of them and 640 a second is the most that the chain takes,
/// on any machine.
const BLOCK_BYTES: usize = 32_768;
const PAYLOAD_BYTES: usize = 512;

#[test]
fn offered_more_opaque_payloads_than_it_orders_a_cluster_refuses_the_rest_and_what_it_takes_waits_for_few_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let schedule = dir.path().join("schedule.toml");
    std::fs::write(&schedule, format!("[params]\nmax_block_bytes = {BLOCK_BYTES}\nmax_tx_bytes = 4096\n")).unwrap();
    let size = PAYLOAD_BYTES.to_string();
    let load = ["--nodes", "4", "--kind", "opaque", "--size", &size, "--rate", "1600", "--warmup", "5", "--secs", "15"];
    let output = cascade().args(["bench", "load", "--json", "--schedule"]).arg(&schedule).args(load).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let figure = |name: &str| report[name].as_f64().unwrap_or_else(|| panic!("{name}: {report}"));
    let committed = figure("committed_tps");
    assert!(committed > 0.0 && figure("offered_tps") > 2.0 * committed, "{report}");
    assert!(figure("refused") > 0.0, "{report}");
    assert!(words.contains("txpool is full"), "{words}");
    // What was ordered between a payload's submission and its own block, in full blocks: it does not depend on how fast
    // this machine is. Without a door it is some two hundred at the end of the run.
    let p99 = report["latency_ms"]["p99"].as_f64().expect("something became final") / 1000.0;
    let blocks = p99 * committed / (BLOCK_BYTES / PAYLOAD_BYTES) as f64;
    assert!(blocks < 30.0, "{blocks} blocks: {report}");
}
