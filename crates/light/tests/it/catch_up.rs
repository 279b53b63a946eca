//! A day's catch-up in bytes and memory.

use std::process::Command;

use cascade_light::{Report, Start};
use cascade_primitives::Height;

use super::world::{Kind, TestChain, World};

/// Blocks of a day at 500 ms.
const DAY: u64 = 172_800;

fn peak_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("the kernel counts it");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number of KiB")
}

/// Runs alone in a process of its own: see below.
#[test]
#[ignore = "run by the test below"]
fn a_day_in_a_process_of_its_own() {
    // 24 epochs, with other members in each: the most expensive day.
    let mut chain = TestChain::new(64, 7_200, 500, true).keeping(200);
    let start = Start::Checkpoint(chain.checkpoint(0));
    let genesis = chain.tip().clone();
    for _ in 0..DAY {
        chain.grow(None);
    }
    chain.headers.insert(Height(0), genesis);
    assert_eq!(chain.handovers.len(), 24);
    let mut world = World::new(chain, start, &[Kind::Honest; 3]);
    world.run(5000);
    assert!(matches!(world.reports[0], Report::CaughtUp { height: Height(DAY), .. }), "{:?}", world.reports);
    println!("bytes={} peak_kib={}", world.client.stats().bytes_received, peak_memory_kib());
}

#[test]
fn a_checkpoint_a_day_old_is_caught_up_from_in_less_than_1_mb_and_50_mb_of_memory() {
    let output = Command::new(std::env::current_exe().expect("a test has a binary"))
        .args(["catch_up::a_day_in_a_process_of_its_own", "--exact", "--ignored", "--nocapture"])
        .output()
        .expect("the test's binary runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let number = |key: &str| -> u64 {
        let rest = text.split(key).nth(1).unwrap_or_else(|| panic!("{key} is printed: {text}"));
        rest.split_whitespace().next().and_then(|digits| digits.parse().ok()).expect("a number")
    };
    let (bytes, memory) = (number("bytes="), number("peak_kib=") * 1024);
    println!("{bytes} bytes received, {memory} bytes of memory with the chain that was generated");
    assert!(bytes < 1_000_000, "{bytes} bytes received");
    assert!(memory < 50_000_000, "{memory} bytes of memory, with the chain that was generated");
}
