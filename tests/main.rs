//! The tests on real programs: the mqueue binary, and the library, against real nsqd and nsqlookupd.
//!
//! A program that is not there is said (`skipped: …`), and with MQUEUE_REQUIRE_PEERS=1 it is a failure. Ports are the system's
//! choice, folders are temporary, and nothing sleeps: every wait is for a condition, with a deadline.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::print_stderr)]

#[allow(dead_code, unused_imports, reason = "shared with the benchmark: each uses a part of it")]
mod bad_input;
mod file;
mod groups;
mod http_handler;
mod idle;
mod layers;
mod lookup;
mod lossless;
mod lost;
mod print;
mod retry;
mod signals;
mod sleeping;
mod support;
mod touch;
