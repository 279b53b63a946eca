//! Transactions, their signers, gossip.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cascade_checks::transaction::check(data));
