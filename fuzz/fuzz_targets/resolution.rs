#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringhub::endpoints_fuzz::resolution(bytes));
