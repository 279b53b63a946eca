//! Messages and records of consensus, sign-state, catch-up.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cascade_checks::blocks::check_consensus(data));
