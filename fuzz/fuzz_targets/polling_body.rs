#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tillwire_socketio::fuzzing::polling_body(data));
