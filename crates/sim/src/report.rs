//! What a run and a range of runs showed.

use std::collections::BTreeMap;

use cascade_primitives::B256;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::faults::FaultCounts;

/// What was opened in runs of encrypted chains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Revealed {
    /// Blocks with envelopes that were opened.
    pub blocks: u64,
    /// Envelopes of users that were opened to what they sealed.
    pub envelopes: u64,
    /// Keys that were made.
    pub keys: u64,
    /// Sets of q-1 seats that were shown to open nothing.
    pub too_few: u64,
    /// How often Byzantine nodes lied about keys, ciphertexts and shares, by kind.
    pub lies: BTreeMap<&'static str, u64>,
}

impl Revealed {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    fn merge(&mut self, other: &Self) {
        self.blocks += other.blocks;
        self.envelopes += other.envelopes;
        self.keys += other.keys;
        self.too_few += other.too_few;
        for (kind, times) in &other.lies {
            *self.lies.entry(kind).or_default() += times;
        }
    }
}

/// How proposals travelled in runs with chunks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ChunkCounts {
    /// Proposals that honest nodes put together.
    pub rebuilt: u64,
    /// Times that an honest node asked a leader for the whole.
    pub asked: u64,
    /// Times that a leader's lie was found in chunks.
    pub found: u64,
    /// How often Byzantine nodes lied about chunks, by kind.
    pub lies: BTreeMap<&'static str, u64>,
}

impl ChunkCounts {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    fn merge(&mut self, other: &Self) {
        self.rebuilt += other.rebuilt;
        self.asked += other.asked;
        self.found += other.found;
        for (kind, times) in &other.lies {
            *self.lies.entry(kind).or_default() += times;
        }
    }
}

/// What one seed showed.
#[derive(Clone, Debug)]
pub struct SeedReport {
    /// The seed.
    pub seed: u64,
    /// Rules that were broken, in words.
    pub violations: Vec<String>,
    /// Honest nodes that made nothing final within the bound after the faults stopped, in words.
    pub stalls: Vec<String>,
    /// Blocks that became final.
    pub commits: u64,
    /// Ms of virtual time.
    pub virtual_ms: u64,
    /// Ms from the end of the faults until every honest node had made new blocks final.
    pub recovery_ms: Option<u64>,
    /// How often each fault happened.
    pub faults: FaultCounts,
    /// What was opened, on an encrypted chain.
    pub revealed: Revealed,
    /// How proposals travelled, with chunks.
    pub chunks: ChunkCounts,
    /// Hash over everything that happened.
    pub trace: B256,
}

impl SeedReport {
    /// Whether everything held.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.stalls.is_empty()
    }
}

/// What a range of seeds showed.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Seeds that ran.
    pub seeds: u64,
    /// Seeds with a broken rule.
    pub violations: u64,
    /// Seeds with a node that did not recover.
    pub stalls: u64,
    /// Blocks that became final, over all seeds.
    pub commits: u64,
    /// Seconds of virtual time, over all seeds.
    pub virtual_seconds: u64,
    /// How often each fault happened.
    pub faults: FaultCounts,
    /// What was opened, on encrypted chains.
    #[serde(skip_serializing_if = "Revealed::is_nothing")]
    pub revealed: Revealed,
    /// How proposals travelled, with chunks.
    #[serde(skip_serializing_if = "ChunkCounts::is_nothing")]
    pub chunks: ChunkCounts,
    /// One hash over the traces of all seeds, in order.
    pub trace: B256,
    /// The seeds that were not clean.
    #[serde(skip)]
    pub failed: Vec<SeedReport>,
    /// The longest recovery in ms.
    #[serde(skip)]
    pub slowest_recovery_ms: u64,
    /// The fewest commits of a seed.
    #[serde(skip)]
    pub fewest_commits: u64,
}

impl Summary {
    /// Puts the reports of consecutive seeds together.
    #[must_use]
    pub fn of(reports: Vec<SeedReport>) -> Self {
        let mut hasher = Sha256::new();
        let (mut faults, mut revealed) = (FaultCounts::default(), Revealed::default());
        let mut chunks = ChunkCounts::default();
        for report in &reports {
            hasher.update(report.trace);
            faults.merge(&report.faults);
            revealed.merge(&report.revealed);
            chunks.merge(&report.chunks);
        }
        let count = |holds: fn(&SeedReport) -> bool| reports.iter().filter(|r| holds(r)).count() as u64;
        Self {
            seeds: reports.len() as u64,
            violations: count(|r| !r.violations.is_empty()),
            stalls: count(|r| !r.stalls.is_empty()),
            commits: reports.iter().map(|r| r.commits).sum(),
            virtual_seconds: reports.iter().map(|r| r.virtual_ms).sum::<u64>() / 1000,
            faults,
            revealed,
            chunks,
            trace: B256::from(<[u8; 32]>::from(hasher.finalize())),
            slowest_recovery_ms: reports.iter().filter_map(|r| r.recovery_ms).max().unwrap_or(0),
            fewest_commits: reports.iter().map(|r| r.commits).min().unwrap_or(0),
            failed: reports.into_iter().filter(|r| !r.is_clean()).collect(),
        }
    }

    /// Whether everything held in every seed.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.violations == 0 && self.stalls == 0
    }
}
