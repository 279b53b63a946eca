//! Envelopes, deposits, keys, dealings, shares, reveals.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cascade_checks::sealed::check(data));
