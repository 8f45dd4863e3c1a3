//! Arbitrary bytes as frames, in chunks of any size; `mqueue::proto::check::frames` has the
//! invariants.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mqueue::proto::check::frames(input));
