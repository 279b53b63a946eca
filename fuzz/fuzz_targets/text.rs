//! Parameters of requests, genesis, configuration, key files.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cascade_checks::text::check(data));
