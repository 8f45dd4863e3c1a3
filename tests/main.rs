//! The tests on real programs: the mqueue binary, and the library, against real nsqd and nsqlookupd.
//!
//! A program that is not there is said (`skipped: …`), and with MQUEUE_REQUIRE_PEERS=1 it is a failure. Ports are the system's
//! choice, folders are temporary, and nothing sleeps: every wait is for a condition, with a deadline.

#![allow(unreachable_pub)]

mod bad_input;
mod groups;
mod idle;
mod layers;
mod lookup;
mod lossless;
mod lost;
mod retry;
mod signals;
mod support;
mod touch;
