//! The simulator: a whole cluster in one thread, in virtual time, from one seed.
//!
//! ```text
//!  seed --> plan: constants, committees, who is Byzantine, what fails when
//!              |
//!              v
//!  queue of events --> node: Core <--> app, disk --> adversary --> network --> queue
//!                        |                 (Byzantine nodes only)
//!                        +--> checker: every vote, every final block, every result
//! ```
//!
//! One seed is one run to the last event, whatever machine it runs on; its trace is a hash over all that was delivered
//! and done. A seed fails if a rule is broken (a *violation*) or if an honest node does not make new blocks final
//! within [`recovery_bound_ms`] after the faults stopped (a *stall*). Byzantine nodes, at most f seats in every
//! committee, go on to the end.
//!
//! Runs of an encrypted chain ([`SimConfig::encrypted`]) make keys and open envelopes besides. An application ([`economy`])
//! can take the place of the simulator's users and of its mock of execution, and play an attacker who runs the Byzantine nodes.
//!
//! Checked at every step: one block per height, prefix agreement, no vote of an honest node that contradicts another
//! one it ever sent, nor one that is not on its disk yet, certificates of distinct members with a quorum of seats,
//! parents and gaps covered, timestamps that increase (P15), equal results at equal heights (P11), and that no honest
//! node says of another that it misbehaved.

#[macro_use]
mod habits;

mod adversary;
mod app;
mod check;
mod chunks;
pub mod config;
mod disk;
pub mod economy;
pub mod faults;
pub mod figures;
mod network;
mod node;
mod plan;
pub mod report;
pub mod rng;
pub mod run;
pub mod scenario;
pub mod scheme;
mod sealed;
mod trace;
mod uplink;
mod watch;
mod world;

pub use config::{Carriage, MAX_NODES, SimConfig, Timing, recovery_bound_ms, reveal_bound_ms};
pub use faults::{Fault, FaultCounts, Faults};
pub use report::{ChunkCounts, Revealed, SeedReport, Summary};
pub use run::{SimArgs, run, run_range, run_seed, run_seed_verbose, run_seed_with, run_seed_with_economy};
pub use scenario::{Outcome, Scenario};
pub use scheme::Scheme;
