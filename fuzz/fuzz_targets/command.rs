//! Commands as any bytes in any chunks: `mqueue::proto::check::commands` says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mqueue::proto::check::commands(input));
