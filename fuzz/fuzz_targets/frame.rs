//! Frames as any bytes in any chunks: `mqueue::proto::check::frames` says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mqueue::proto::check::frames(input));
