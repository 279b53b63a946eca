//! Measures how blocks spread, whole and in coded chunks, and prints the table.
//!
//!     cargo run -p cascade-sim --example dispersal -- [NODES...]

use cascade_sim::figures::spread::{Setting, coding_times, spread, spread_table};

const DELAY: u64 = 50;
const BODIES: [usize; 3] = [64 << 10, 1 << 20, 8 << 20];
const UPLINKS: [u64; 2] = [100_000_000, 1_000_000_000];

fn main() -> Result<(), std::num::ParseIntError> {
    let mut nodes = std::env::args().skip(1).map(|n| n.parse()).collect::<Result<Vec<usize>, _>>()?;
    if nodes.is_empty() {
        nodes = vec![4, 16, 64];
    }
    let mut lines = Vec::new();
    for &nodes in &nodes {
        for body in BODIES {
            for uplink in UPLINKS {
                let setting = Setting { nodes, body, uplink, delay: DELAY };
                let (whole, coded) = (spread(&setting, false), spread(&setting, true));
                lines.push((setting, whole, coded));
            }
        }
    }
    println!("{}", spread_table(&lines));
    println!("| nodes | block | coding it, on this machine | rebuilding it |\n|---|---|---|---|");
    for &nodes in &nodes {
        for body in BODIES {
            let (code, rebuild) = coding_times(nodes, body);
            let ms = |time: std::time::Duration| time.as_secs_f64() * 1000.0;
            println!("| {nodes} | {} KiB | {:.1} ms | {:.1} ms |", body >> 10, ms(code), ms(rebuild));
        }
    }
    Ok(())
}
