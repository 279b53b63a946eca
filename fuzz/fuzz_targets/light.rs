//! Samples, proofs, answers to light clients, batches.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cascade_checks::light::check(data));
