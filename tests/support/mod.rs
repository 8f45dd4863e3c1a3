//! Real programs under test: started on ports of the system's choice, ended with the test.

mod client;
pub mod doctor;
mod doors;
mod events;
pub mod fake_nsqd;
mod gateway;
mod mqueue;
mod nsq;
mod wire;

use std::time::{Duration, Instant};

pub use self::client::Client;
pub use self::doors::{Doors, Told};
pub use self::events::Sequences;
pub use self::gateway::{Gateway, Worker};
pub use self::mqueue::{Finished, Mqueue, consumer, is_optimised, mqueue, program};
pub use self::nsq::{Lookupd, Nsqd, get, peer, request};
pub use self::wire::Wire;

/// The longest that any single condition may take, on a slow and busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a condition; fails the test, saying what was waited for, if it does not come true.
#[track_caller]
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    wait_within(PATIENCE, what, condition);
}

/// Waits for a condition for so long.
#[track_caller]
pub fn wait_within(patience: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < patience, "waited {patience:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Begins a test on these NSQ programs: skips it, loudly, if one is missing.
macro_rules! needs {
    ($($program:literal),+) => {
        $(if $crate::support::peer($program).is_none() {
            let required = std::env::var("MQUEUE_REQUIRE_PEERS").is_ok_and(|v| v == "1");
            assert!(!required, "{} is missing, and MQUEUE_REQUIRE_PEERS=1 wants it: make peers", $program);
            eprintln!("skipped: {} is missing (make peers builds it)", $program);
            return;
        })+
    };
}
pub(crate) use needs;
