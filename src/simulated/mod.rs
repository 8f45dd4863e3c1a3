//! A simulated world for tests: the real publisher, consumer, worker and broker with its log, on a
//! network, a disk and clocks that a seed controls. Time is virtual.
//!
//! ```text
//!  Publisher ─┐                                    ┌─ BrokerServer ─ DiskLog ─▶ Disk: what was synced
//!             ├─▶ Network: delays, cuts, resets ─▶ │                              survives a power cut
//!  Worker ────┘                                    └─ Clock: steps of the wall clock
//! ```
//!
//! A seed decides everything, so a failure repeats: `make simulated-world SEEDS=7..8`, with VERBOSE=1
//! for its events. docs/simulated-world.md has the promises.

#[cfg(feature = "broker")]
mod clients;
#[cfg(feature = "broker")]
mod disk;
mod network;
#[cfg(feature = "broker")]
mod random;
#[cfg(feature = "broker")]
mod record;
#[cfg(feature = "broker")]
mod seeds;
#[cfg(feature = "broker")]
mod thread;
mod wall_clock;
#[cfg(feature = "broker")]
mod world;

use std::cell::RefCell;
use std::io;

#[cfg(feature = "broker")]
pub(crate) use self::network::Incoming;
pub use self::network::NetStream;
pub(crate) use self::network::{Network, Socket};
#[cfg(feature = "broker")]
pub(crate) use self::thread::StallingThread;
#[cfg(feature = "broker")]
pub(crate) use self::wall_clock::WallClock;

/// The surroundings of the world that runs on a thread.
#[derive(Debug, Clone)]
struct Surroundings {
    network: Network,
    #[cfg(feature = "broker")]
    wall_clock: WallClock,
}

thread_local! {
    static CURRENT: RefCell<Option<Surroundings>> = const { RefCell::new(None) };
}

fn current() -> Option<Surroundings> {
    CURRENT.with_borrow(Clone::clone)
}

/// True if a world runs on this thread.
#[cfg(feature = "broker")]
pub(crate) fn is_running() -> bool {
    current().is_some()
}

/// Connects to a host of the world that runs on this thread; `None` without one.
pub(crate) async fn connect(host: &str, port: u16) -> Option<io::Result<NetStream>> {
    let network = current()?.network;
    Some(network.connect(host, port).await.map(NetStream::Simulated))
}

/// The wall clock of the world that runs on this thread, as the time since 1970; `None` without
/// one.
#[cfg(feature = "broker")]
pub(crate) fn since_1970() -> Option<std::time::Duration> {
    Some(current()?.wall_clock.since_1970())
}

/// The time that syncing takes in the world that runs on this thread.
#[cfg(feature = "broker")]
pub(crate) fn sync_time() -> std::time::Duration {
    std::time::Duration::from_micros(fastrand::u64(50..20_000))
}
