//! What a run is made with.

use cascade_primitives::ChainParams;

use crate::{faults::Faults, scheme::Scheme};

/// What runs are made with. Together with a seed it decides a run to the last event.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// Sequencers of the first committee, 4 to 64.
    pub nodes: usize,
    /// What may fail.
    pub faults: Faults,
    /// Which signatures are used.
    pub scheme: Scheme,
    /// Ms of virtual time during which faults happen.
    pub fault_ms: u64,
    /// Ms of virtual time that a run lasts at least.
    pub least_ms: u64,
}

impl SimConfig {
    /// A run of at least 60 virtual seconds with the mock signatures.
    #[must_use]
    pub const fn new(nodes: usize, faults: Faults) -> Self {
        Self { nodes, faults, scheme: Scheme::Mock, fault_ms: 45_000, least_ms: 60_000 }
    }
}

/// Ms after the end of all faults within which every honest node has made new blocks final, whatever Byzantine nodes
/// up to f seats do.
///
/// ```text
/// with T = leader timeout, I = idle interval:
///   4T + T      resends reach everybody: the resend interval is at most 4T, and what is asked for then is answered
///   4T + T      once more, for what the answers showed to be missing
///   10 s        catch-up of a node that was away
///   (f+2) terms that end by a skip, each after at most I + 8T and a resend (4T), then
///   I + 8T      a term with an honest leader
/// ```
#[must_use]
pub fn recovery_bound_ms(params: &ChainParams, nodes: usize) -> u64 {
    let timeout = params.leader_timeout_ms;
    let idle = params.block_time_ms * params.empty_block_interval;
    let faulty = (nodes as u64 - 1) / 3;
    10 * timeout + 10_000 + (faulty + 2) * (idle + 12 * timeout) + idle + 8 * timeout
}
