//! What a block costs its leader, and when everybody has it: sent whole to each, or in coded chunks.
//!
//! ```text
//!  0                  a quorum has it     prepared      all have it
//!  | proposal ...............|................|..............|............ the next one, when nothing is under way
//! ```
//!
//! Blocks of one size, nothing but links and uplinks takes time. The time that coding takes is the machine's, not the
//! simulator's: [`coding_times`] measures it.

use std::{
    collections::BTreeMap,
    fmt::Write,
    time::{Duration, Instant},
};

use cascade_consensus::{Message, NoBugs};
use cascade_da::dispersal::{Assembler, disperse};
use cascade_primitives::{BlockHash, VoteKind};

use crate::{
    config::{Carriage, Timing},
    scenario::{SEED, Scenario},
    scheme::Scheme,
};

/// Blocks that are measured, all of one leader.
const BLOCKS: u64 = 3;

/// One proposal.
#[derive(Debug)]
struct Proposed {
    leader: usize,
    at: u64,
    /// Bytes that each node had sent before.
    sent: Vec<u64>,
    /// When each other node had the whole block.
    has: BTreeMap<usize, u64>,
    /// When its leader had its prepare certificate, on which the next block can be made.
    prepared: Option<u64>,
}

/// Notes how proposals spread.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    order: Vec<BlockHash>,
    proposals: BTreeMap<BlockHash, Proposed>,
}

impl Probe {
    pub(crate) fn sent(&mut self, now: u64, node: usize, message: &Message, sent: &[u64]) {
        match message {
            Message::Proposal(block, _) => {
                let hash = block.hash();
                self.proposals.entry(hash).or_insert_with(|| {
                    self.order.push(hash);
                    Proposed { leader: node, at: now, sent: sent.to_vec(), has: BTreeMap::new(), prepared: None }
                });
            }
            Message::Certificate(certificate) if certificate.target.kind == VoteKind::Prepare => {
                if let Some(proposed) = self.proposals.get_mut(&certificate.target.block)
                    && proposed.leader == node
                {
                    proposed.prepared.get_or_insert(now);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn arrived(&mut self, now: u64, node: usize, message: &Message) {
        if let Message::Proposal(block, _) | Message::Block(block) = message
            && let Some(proposed) = self.proposals.get_mut(&block.hash())
        {
            proposed.has.entry(node).or_insert(now);
        }
    }
}

/// What is measured.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Sequencers, with one seat each.
    pub nodes: usize,
    /// Bytes that fill each block.
    pub body: usize,
    /// Bits in a second that a node can send.
    pub uplink: u64,
    /// One-way delay of every link, in ms.
    pub delay: u64,
}

/// How a block spread; the slowest of those measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// Bytes that the leader sent until its next proposal, votes and certificates among them.
    pub leader_bytes: u64,
    /// The same of whoever else sent most.
    pub member_bytes: u64,
    /// Ms from the proposal until its leader had its prepare certificate, on which the next block can be made.
    pub prepared_ms: u64,
    /// Ms from the proposal until the last node had the whole block.
    pub everywhere_ms: u64,
}

/// Measures one setting, with whole blocks or with coded chunks.
///
/// # Panics
/// If a rule is broken or a node stalls, which without faults none does.
#[must_use]
pub fn spread(setting: &Setting, coded: bool) -> Spread {
    let &Setting { nodes, body, uplink, delay } = setting;
    // Twice what the slower way takes, so that blocks do not get in each other's way.
    let block_ms = nodes as u64 * body as u64 * 8000 / uplink;
    let pause = 2 * block_ms + 20 * delay;
    let scenario = Scenario::new(nodes)
        .params(|p| {
            p.block_time_ms = pause;
            p.empty_block_interval = 1;
            p.leader_timeout_ms = 4 * pause;
            p.views_per_term = 10;
            p.max_block_bytes = 12 << 20;
        })
        .timing(Timing::links_alone(delay))
        .carriage(Carriage { uplink: Some(uplink), coded, filling: body, ..Carriage::default() })
        .transaction_every(1 << 40)
        .faults_end(0)
        .goes_on((BLOCKS + 2) * pause, BLOCKS + 2);
    let mut world = scenario.world(Scheme::Mock, NoBugs, None);
    world.probe = Some(Probe::default());
    let report = world.run_through(SEED);
    assert!(report.is_clean(), "{setting:?} {:?} {:?}", report.violations, report.stalls);
    summary(&world.probe.take().expect("it was set above"), nodes)
}

/// The first proposal is left out, while everybody gets to know everybody.
fn summary(probe: &Probe, nodes: usize) -> Spread {
    let mut spread = Spread { leader_bytes: 0, member_bytes: 0, prepared_ms: 0, everywhere_ms: 0 };
    let proposals: Vec<&Proposed> = probe.order.iter().map(|hash| &probe.proposals[hash]).collect();
    for pair in proposals.windows(2).skip(1).take(BLOCKS as usize) {
        let (block, next) = (pair[0], pair[1]);
        assert_eq!(block.leader, next.leader, "a term is longer than what is measured");
        assert_eq!(block.has.len(), nodes - 1, "every other node has the block before the next is made");
        let sent = |node: usize| next.sent[node] - block.sent[node];
        let members = (0..nodes).filter(|&node| node != block.leader);
        let last = *block.has.values().max().expect("there are other nodes");
        let prepared = block.prepared.expect("it has a successor");
        assert!(last < next.at && prepared < next.at, "blocks do not overlap");
        spread.leader_bytes = spread.leader_bytes.max(sent(block.leader));
        spread.member_bytes = spread.member_bytes.max(members.map(sent).max().expect("there are other nodes"));
        spread.prepared_ms = spread.prepared_ms.max(prepared - block.at);
        spread.everywhere_ms = spread.everywhere_ms.max(last - block.at);
    }
    spread
}

/// How long coding a block for so many seats takes on this machine, and rebuilding it from coded chunks alone.
///
/// # Panics
/// Above 256 seats, and for blocks of an illegal size.
#[must_use]
pub fn coding_times(nodes: usize, body: usize) -> (Duration, Duration) {
    let block: Vec<u8> = (0..body).map(|i| (i * 31 + i / 251) as u8).collect();
    let start = Instant::now();
    let chunks = disperse(&block, nodes).expect("a legal block and committee");
    let code = start.elapsed();
    let mut assembler = Assembler::new(chunks[0].root, body, nodes).expect("a legal block and committee");
    // The last ones are none of the block's own parts.
    let start = Instant::now();
    for chunk in chunks.iter().rev() {
        if assembler.insert(chunk).expect("it is one of them") {
            break;
        }
    }
    let rebuilt = assembler.rebuild().expect("they are enough");
    let rebuild = start.elapsed();
    assert_eq!(rebuilt, block);
    (code, rebuild)
}

/// One line of the table: a setting, and what was measured with whole blocks and with chunks.
pub type Line = (Setting, Spread, Spread);

/// The lines as a table in Markdown.
#[must_use]
pub fn spread_table(lines: &[Line]) -> String {
    let mut text = String::from(
        "| nodes | block | uplink | leader sends | in chunks | members send | in chunks | prepared | in chunks | everywhere | in chunks |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let size = |bytes: u64| match bytes {
        0..1_048_576 => format!("{:.0} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    };
    let time = |ms: u64| if ms < 10_000 { format!("{ms} ms") } else { format!("{:.1} s", ms as f64 / 1000.0) };
    for (setting, whole, coded) in lines {
        let rate = match setting.uplink {
            rate if rate >= 1_000_000_000 => format!("{} Gbit/s", rate / 1_000_000_000),
            rate => format!("{} Mbit/s", rate / 1_000_000),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {rate} | {} | {} | {} | {} | {} | {} | {} | {} |",
            setting.nodes,
            size(setting.body as u64),
            size(whole.leader_bytes),
            size(coded.leader_bytes),
            size(whole.member_bytes),
            size(coded.member_bytes),
            time(whole.prepared_ms),
            time(coded.prepared_ms),
            time(whole.everywhere_ms),
            time(coded.everywhere_ms),
        );
    }
    text
}
