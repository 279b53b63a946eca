//! What every decoder of Cascade must do with bytes that somebody hostile chose.
//!
//! ```text
//!  fuzz/fuzz_targets/NAME.rs --+
//!                              +--> cascade_checks::NAME(bytes)    panics if the decoder breaks a rule
//!  tests/it over fuzz/corpus --+
//! ```
//!
//! One function for each fuzz target. Its first byte chooses a decoder, so that related decoders share a target and a
//! corpus. The rules:
//!
//! 1. **No panic**, whatever the bytes.
//! 2. **Canonical**: what decodes encodes to the same bytes, decodes to the same value from a shared buffer, and no proper
//!    prefix of it decodes.
//! 3. **Own values survive**: a value made from the bytes ([`Source`]) encodes and decodes to itself.
//! 4. **Bounded memory**: the fuzzer runs with a small limit for single allocations and for the whole process.
//! 5. Where a decoder stands for more (a proof, a log after a crash, a key file), the rule that it stands for.
//!
//! No database is linked. Parsers of `cascade-sequencer`, which cannot be linked without one, are compiled from that
//! crate's own files.

// Unit tests of the included files belong to their own crates; without this `--all-targets` would build them here.
#![cfg(not(test))]

pub mod blocks;
mod canonical;
pub mod light;
pub mod network;
mod rpc;
pub mod sealed;
mod source;
pub mod state;
pub mod storage;
mod testnet;
pub mod text;
pub mod transaction;

// The modules below use each other as `crate::...`, so they stand where they stand in cascade-sequencer.
#[allow(dead_code, unused_imports)]
#[path = "../../sequencer/src/config/mod.rs"]
mod config;
#[allow(dead_code)]
#[path = "../../sequencer/src/exit.rs"]
mod exit;
#[allow(dead_code)]
#[path = "../../sequencer/src/logging.rs"]
mod logging;
#[allow(dead_code)]
#[path = "../../sequencer/src/wallet.rs"]
mod wallet;

pub use canonical::canonical;
pub use source::Source;

/// The name of a target and its function, which panics if a rule is broken.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("blocks", blocks::check),
    ("consensus", blocks::check_consensus),
    ("light", light::check),
    ("network", network::check),
    ("sealed", sealed::check),
    ("state", state::check),
    ("storage", storage::check),
    ("text", text::check),
    ("transaction", transaction::check),
];
