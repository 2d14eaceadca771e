#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tillwire_socketio::fuzzing::forwarded_for(data));
