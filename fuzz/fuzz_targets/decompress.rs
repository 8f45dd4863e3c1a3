//! Arbitrary bytes as a stream of deflate or snappy; `mqueue::net::transport::check` has the
//! invariants.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mqueue::net::transport::check::decompression(input));
