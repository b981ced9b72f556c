#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| idtoken_operator_fuzz::token(data));
