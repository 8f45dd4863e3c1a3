//! Real programs under test, started on ports of the system's choice and ended with the test.

mod auth_server;
mod certificates;
pub mod chromium;
mod client;
mod disks;
pub mod doctor;
mod doors;
mod eavesdropper;
mod events;
mod fake_cluster;
pub mod fake_nsqd;
mod gateway;
mod liar;
mod mode;
mod mqueue;
mod nsq;
mod redis;
pub mod secured;
mod tmux;
mod web;
mod wire;

use std::time::{Duration, Instant};

pub use self::auth_server::AuthServer;
pub use self::certificates::Certificates;
pub use self::chromium::Chromium;
pub use self::client::Client;
pub use self::disks::{BadDisk, SmallDisk};
pub use self::doors::{Doors, Told};
pub use self::eavesdropper::Eavesdropper;
pub use self::events::{EventsOutcome, Sequences};
pub use self::fake_cluster::FakeCluster;
pub use self::gateway::{Gateway, Worker};
pub use self::liar::{Liar, Rest};
pub use self::mode::{Mode, SECRET, SecuredServer, Tls};
pub use self::mqueue::{Finished, Mqueue, consumer, is_optimised, mqueue, processor_time, program};
pub use self::nsq::{CONFIG_OPTIONS, Lookupd, Nsqd, get, peer, request};
pub use self::redis::{Redis, RedisClient, RedisValue};
pub use self::tmux::{Tmux, has_tmux};
pub use self::web::{Web, WebEvents};
pub use self::wire::Wire;

/// The longest that any single condition may take, on a slow and busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a condition; fails the test with the condition's name if it does not come true.
#[track_caller]
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    wait_within(PATIENCE, what, condition);
}

/// Waits for a condition for at most `patience`.
#[track_caller]
pub fn wait_within(patience: Duration, what: &str, condition: impl FnMut() -> bool) {
    wait_or_tell(patience, || format!("waited {patience:?} in vain for: {what}"), condition);
}

/// The same with a failure that tells what there was instead.
#[track_caller]
pub fn wait_or_tell(patience: Duration, failure: impl Fn() -> String, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < patience, "{}", failure());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a test on these brokers at once, for tests that mostly wait.
pub fn at_once_on<const N: usize>(brokers: [Nsqd; N], test: impl Fn(&Nsqd) + Sync) {
    std::thread::scope(|scope| {
        for broker in &brokers {
            scope.spawn(|| test(broker));
        }
    });
}

/// Reports that a test is skipped, and why; fails with MQUEUE_REQUIRE_PEERS=1.
#[track_caller]
#[allow(clippy::print_stderr, reason = "a test that does not run says so")]
pub fn skip(why: &str) {
    assert_ne!(std::env::var("MQUEUE_REQUIRE_PEERS").as_deref(), Ok("1"), "MQUEUE_REQUIRE_PEERS=1, but {why}");
    eprintln!("skipped: {why}");
}

/// Begins a test on these NSQ programs: skips it, loudly, if one is missing.
macro_rules! needs {
    ($($program:literal),+) => {
        $(if $crate::support::peer($program).is_none() {
            $crate::support::skip(concat!($program, " is missing (make peers builds it)"));
            return;
        })+
    };
}
pub(crate) use needs;
