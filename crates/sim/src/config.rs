//! What a run is made with.

use std::collections::BTreeSet;

use cascade_primitives::ChainParams;

use crate::{economy::Trading, faults::Faults, scheme::Scheme};

/// Most sequencers that a run can have.
pub const MAX_NODES: usize = 128;

/// How long what takes that no fault slows down, in ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A message from any node to any other.
    pub link: u64,
    /// A sync of the vote log.
    pub sync: u64,
    /// The execution of a block.
    pub execution: u64,
    /// Putting a block's content together.
    pub build: u64,
    /// Judging a block's content, at most; at least 1, unless it is 0.
    pub validate: u64,
}

impl Timing {
    /// Links of 50 ms; everything else takes a little.
    pub const USUAL: Self = Self { link: 50, sync: 1, execution: 5, build: 1, validate: 4 };

    /// Only links take time.
    #[must_use]
    pub const fn links_alone(ms: u64) -> Self {
        Self { link: ms, sync: 0, execution: 0, build: 0, validate: 0 }
    }
}

/// How blocks travel, in runs that look at it. By default messages of any size leave at once, and leaders send whole
/// blocks.
#[derive(Clone, Debug, Default)]
pub struct Carriage {
    /// Bits in a second that a node can send, to all others together; none: any number.
    pub uplink: Option<u64>,
    /// Whether leaders send blocks in coded chunks.
    pub coded: bool,
    /// Bytes that each block gets beside transactions of users.
    pub filling: usize,
    /// Nodes that pass no chunk on.
    pub mute: BTreeSet<usize>,
}

/// What runs are made with. Together with a seed it decides a run to the last event.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// Sequencers of the first committee, 4 to [`MAX_NODES`].
    pub nodes: usize,
    /// What may fail.
    pub faults: Faults,
    /// Which signatures are used.
    pub scheme: Scheme,
    /// Ms of virtual time during which faults happen.
    pub fault_ms: u64,
    /// Ms of virtual time that a run lasts at least.
    pub least_ms: u64,
    /// Final blocks that a run makes at least, however long that takes.
    pub least_commits: u64,
    /// Whether the chain is encrypted: keys are made, and envelopes ordered and opened.
    pub encrypted: bool,
    /// Whether leaders send every proposal in chunks, and Byzantine nodes lie about them.
    pub chunks: bool,
    /// How an application's run is made ([`crate::run_seed_with_economy`]).
    pub trading: Option<Trading>,
}

impl SimConfig {
    /// A run of at least 60 virtual seconds and 60 final blocks with the mock signatures.
    #[must_use]
    pub const fn new(nodes: usize, faults: Faults) -> Self {
        Self {
            nodes,
            faults,
            scheme: Scheme::Mock,
            fault_ms: 45_000,
            least_ms: 60_000,
            least_commits: 60,
            encrypted: false,
            chunks: false,
            trading: None,
        }
    }

    /// [`SimConfig::encrypted`] or [`SimConfig::new`].
    #[must_use]
    pub const fn of(encrypted: bool, nodes: usize, faults: Faults) -> Self {
        if encrypted { Self::encrypted(nodes, faults) } else { Self::new(nodes, faults) }
    }

    /// A run of an encrypted chain, of at least 45 virtual seconds and 40 final blocks.
    #[must_use]
    pub const fn encrypted(nodes: usize, faults: Faults) -> Self {
        Self { fault_ms: 30_000, least_ms: 45_000, least_commits: 40, encrypted: true, ..Self::new(nodes, faults) }
    }
}

/// Ms after the end of all faults within which every honest node has made new blocks final, whatever Byzantine nodes
/// up to f seats do.
///
/// ```text
/// with T = leader timeout, I = idle interval, V = views of a term:
///   4T + T      resends reach everybody: the resend interval is at most 4T, and what is asked for then is answered
///   4T + T      once more, for what the answers showed to be missing
///   10 s        catch-up of a node that was away
///   (f+2) terms that end by a skip, each after at most I + 8T and a resend (4T), then
///   I + 8T      a term with an honest leader
///   V blocks    the rest of a term of V views in which somebody skipped and f seats say nothing: blocks are prepared,
///               nobody else skips, and no commit gets a quorum before the next term
/// ```
#[must_use]
pub fn recovery_bound_ms(params: &ChainParams, nodes: usize) -> u64 {
    let timeout = params.leader_timeout_ms;
    let idle = params.block_time_ms * params.empty_block_interval;
    let faulty = (nodes as u64 - 1) / 3;
    let term = params.views_per_term * params.block_time_ms;
    10 * timeout + 10_000 + (faulty + 2) * (idle + 12 * timeout) + idle + 8 * timeout + term
}

/// Ms within which a final block is opened at an honest node once the faults have stopped: whoever waits asks everybody
/// every half leader timeout; what is lost on the way is asked for again.
#[must_use]
pub const fn reveal_bound_ms(params: &ChainParams) -> u64 {
    2 * params.leader_timeout_ms
}
