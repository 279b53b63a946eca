//! Vote log, sign-state file, data directory.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cascade_checks::storage::check(data));
