//! Operations on the broker's state, in any order: `mqueue::broker::state::check::operations` says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mqueue::broker::state::check::operations(input));
