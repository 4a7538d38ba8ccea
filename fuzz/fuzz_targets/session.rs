#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| plugbus_fuzz::run("session", data));
