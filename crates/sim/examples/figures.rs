//! Measures the protocol in clusters of several sizes, prints the table, and draws it.
//!
//!     cargo run -p cascade-sim --example figures -- [FILE.svg [NODES...]]

use cascade_sim::figures::{measure, plot, table};

const DELAY: u64 = 100;
const BLOCKS: u64 = 30;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next();
    let mut nodes = arguments.map(|n| n.parse()).collect::<Result<Vec<usize>, _>>()?;
    if nodes.is_empty() {
        nodes = vec![4, 16, 64, 100];
    }
    let figures: Vec<_> = nodes.iter().map(|&nodes| measure(nodes, DELAY, BLOCKS)).collect();
    print!("{}", table(&figures));
    if let Some(file) = file {
        std::fs::write(file, plot(&figures))?;
    }
    Ok(())
}
