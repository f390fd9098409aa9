#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringhub::proto::fuzz::client_address(bytes));
