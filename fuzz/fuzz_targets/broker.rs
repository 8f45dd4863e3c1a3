//! Operations on the broker's state, in any order; `mqueue::broker::state::check::operations` has
//! the invariants.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mqueue::broker::state::check::operations(input));
