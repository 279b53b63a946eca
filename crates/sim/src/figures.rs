//! What the protocol costs where nothing but the links takes time: the interval between blocks, the time to finality,
//! and messages, bytes and verifications for each node and block.
//!
//! ```text
//!  0      d           2d            3d
//!  | proposal         | prepared: the next proposal
//!         | prepares  | commits     | final
//! ```
//!
//! All links have the same one-way delay d, the shortest block interval is 0 and blocks are empty. Bytes are those of
//! the encoded consensus messages, with signatures as long as BLS ones; what a transport adds is not in them.

pub mod spread;

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use cascade_consensus::{Message, NoBugs};
use cascade_crypto::VoteScheme;
use cascade_primitives::{B256, BlsPublicKey, BlsSignature, Encode};

use crate::{
    config::Timing,
    plan::GENESIS_TIME,
    scenario::{SEED, Scenario},
    scheme::Scheme,
};

/// Blocks at the start that are left out, while everybody gets to know everybody.
const WARM_UP: u64 = 3;

pub(crate) use spread::Probe;

/// What a cluster of one size cost.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// Sequencers, with one seat each.
    pub nodes: usize,
    /// One-way delay of every link in ms.
    pub delay: u64,
    /// Shortest and longest time between two blocks, in delays.
    pub interval: (f64, f64),
    /// Shortest and longest time from a proposal until the block is final at the last node, in delays.
    pub finality: (f64, f64),
    /// Consensus messages that a node sends for a block.
    pub messages: f64,
    /// Their bytes.
    pub bytes: f64,
    /// Signatures that a node checks for a block, aggregates and single ones.
    pub verifications: f64,
    /// Public keys that go into these checks.
    pub keys: f64,
}

/// Counts what is sent and verified while it is open.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    open: Arc<AtomicBool>,
    messages: u64,
    bytes: u64,
}

impl Traffic {
    pub(crate) fn sent(&mut self, message: &Message) {
        if self.open.load(Ordering::Relaxed) {
            self.messages += 1;
            self.bytes += message.to_bytes().len() as u64;
        }
    }

    /// The chain has grown to this height.
    pub(crate) fn grown(&mut self, height: u64) {
        self.open.store(height >= WARM_UP, Ordering::Relaxed);
    }
}

/// Counts checks.
#[derive(Debug)]
struct Counting {
    scheme: Arc<dyn VoteScheme>,
    open: Arc<AtomicBool>,
    checks: AtomicU64,
    keys: AtomicU64,
}

impl Counting {
    fn count(&self, keys: usize) {
        if self.open.load(Ordering::Relaxed) {
            self.checks.fetch_add(1, Ordering::Relaxed);
            self.keys.fetch_add(keys as u64, Ordering::Relaxed);
        }
    }
}

impl VoteScheme for Counting {
    fn verify(&self, key: &BlsPublicKey, digest: &B256, signature: &BlsSignature) -> bool {
        self.count(1);
        self.scheme.verify(key, digest, signature)
    }

    fn aggregate(&self, signatures: &[BlsSignature]) -> Option<BlsSignature> {
        self.scheme.aggregate(signatures)
    }

    fn verify_aggregate(&self, keys: &[BlsPublicKey], digest: &B256, signature: &BlsSignature) -> bool {
        self.count(keys.len());
        self.scheme.verify_aggregate(keys, digest, signature)
    }
}

/// Measures a cluster over so many blocks.
///
/// # Panics
/// If a rule is broken or a node stalls, which without faults none does.
#[must_use]
pub fn measure(nodes: usize, delay: u64, blocks: u64) -> Figure {
    let scenario = Scenario::new(nodes)
        .params(|p| {
            p.block_time_ms = 0;
            p.leader_timeout_ms = 20 * delay;
            p.views_per_term = 10;
        })
        .timing(Timing::links_alone(delay))
        .transaction_every(1 << 40)
        .faults_end(0)
        .goes_on(0, blocks + WARM_UP);
    let mut world = scenario.world(Scheme::Mock, NoBugs, None);
    let open = Arc::new(AtomicBool::new(false));
    let counting = Arc::new(Counting {
        scheme: world.scheme(),
        open: Arc::clone(&open),
        checks: AtomicU64::new(0),
        keys: AtomicU64::new(0),
    });
    world.set_scheme(Arc::clone(&counting) as Arc<dyn VoteScheme>);
    world.traffic = Some(Traffic { open, ..Traffic::default() });
    let report = world.run_through(SEED);
    assert!(report.is_clean(), "{:?} {:?}", report.violations, report.stalls);

    // The last blocks are not final everywhere yet.
    let chain: Vec<_> = world.checker().times().take(blocks as usize).skip(WARM_UP as usize).collect();
    let proposed = |time: u64| time - GENESIS_TIME.0;
    let range = |values: &mut dyn Iterator<Item = u64>| {
        let (least, most) = values.fold((u64::MAX, 0), |(least, most), v| (least.min(v), most.max(v)));
        (least as f64 / delay as f64, most as f64 / delay as f64)
    };
    let traffic = world.traffic.take().expect("it was set above");
    let per = (nodes as u64 * (report.commits + 1 - WARM_UP)) as f64;
    Figure {
        nodes,
        delay,
        interval: range(&mut chain.windows(2).map(|w| w[1].0.0 - w[0].0.0)),
        finality: range(&mut chain.iter().map(|(time, everywhere)| everywhere - proposed(time.0))),
        messages: traffic.messages as f64 / per,
        bytes: traffic.bytes as f64 / per,
        verifications: counting.checks.load(Ordering::Relaxed) as f64 / per,
        keys: counting.keys.load(Ordering::Relaxed) as f64 / per,
    }
}

/// The figures as a table in Markdown.
#[must_use]
pub fn table(figures: &[Figure]) -> String {
    let mut text = String::from(
        "| nodes | interval / d | finality / d | messages | KiB | signature checks | keys in them |\n\
         |---|---|---|---|---|---|---|\n",
    );
    let span = |(least, most): (f64, f64)| {
        if most - least < 0.005 { format!("{most:.2}") } else { format!("{least:.2}-{most:.2}") }
    };
    for f in figures {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:.1} | {:.1} | {:.2} | {:.1} |",
            f.nodes,
            span(f.interval),
            span(f.finality),
            f.messages,
            f.bytes / 1024.0,
            f.verifications,
            f.keys
        );
    }
    text
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 44.0;

/// Messages, KiB and signature checks for each node and block over the number of nodes, both axes logarithmic, as SVG.
#[must_use]
pub fn plot(figures: &[Figure]) -> String {
    let lines: [(&str, &str, Vec<f64>); 3] = [
        ("messages sent", "#1f77b4", figures.iter().map(|f| f.messages).collect()),
        ("KiB sent", "#d62728", figures.iter().map(|f| f.bytes / 1024.0).collect()),
        ("signature checks", "#2ca02c", figures.iter().map(|f| f.verifications).collect()),
    ];
    let values = || lines.iter().flat_map(|(_, _, values)| values.iter().copied());
    let low = values().fold(f64::MAX, f64::min).log10().floor();
    let high = values().fold(f64::MIN, f64::max).log10().ceil();
    let nodes = |i: usize| (figures[i].nodes as f64).log10();
    let (first, last) = (nodes(0), nodes(figures.len() - 1));
    let x = |n: f64| LEFT + (n - first) / (last - first) * (WIDTH - LEFT - RIGHT);
    let y = |v: f64| HEIGHT - BOTTOM - (v - low) / (high - low) * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">For each node and block, by number of nodes</text>\n"
    );
    for decade in low as i32..=high as i32 {
        let at = y(f64::from(decade));
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0,
            10f64.powi(decade)
        );
    }
    for (i, figure) in figures.iter().enumerate() {
        let at = x(nodes(i));
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"#eee\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 18.0,
            figure.nodes
        );
    }
    for (name, colour, values) in &lines {
        let points: Vec<(f64, f64)> = values.iter().enumerate().map(|(i, v)| (x(nodes(i)), y(v.log10()))).collect();
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        for (x, y) in &points {
            let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
        }
        if let Some((x, y)) = points.last() {
            let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>", x + 10.0, y + 4.0);
        }
    }
    svg.push_str("</svg>\n");
    svg
}
