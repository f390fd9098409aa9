#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringhub::surface::v1::fuzz::command(bytes));
