//! Frames, hellos, announcements, certificates of peers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cascade_checks::network::check(data));
