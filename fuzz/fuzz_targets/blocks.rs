//! Blocks, headers, votes, certificates, committees.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cascade_checks::blocks::check(data));
