#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| apt_fuzz::read(bytes, "weights.npz"));
