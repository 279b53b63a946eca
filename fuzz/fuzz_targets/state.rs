//! State proofs, accounts, receipts, records of the state tree.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cascade_checks::state::check(data));
