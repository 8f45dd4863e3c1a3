//! Arbitrary bytes as commands, in chunks of any size; `mqueue::proto::check::commands` has the
//! invariants.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mqueue::proto::check::commands(input));
