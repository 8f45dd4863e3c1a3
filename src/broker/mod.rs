//! The embedded broker: an nsqd in this program, which nsqd's own clients and tools cannot tell from nsqd 1.3.0.
//!
//! ```text
//!  tcp::Connection ─┐                    ┌─▶ log (disk)
//!  http             ├─▶ Broker ─▶ BrokerState ─┤
//!  the clock        ┘   (one lock)       └─▶ outboxes ─▶ connections that are woken
//! ```
//!
//! A connection reads, decodes all that came, and makes its changes under the lock at once; then it writes what its outbox has.
//! No lock is held while anything waits.

pub mod config;
mod descriptors;
pub mod http;
pub mod log;
mod lookupd;
pub mod memory;
pub mod server;
mod socket;
pub mod state;
pub mod tcp;

use std::collections::HashMap;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio::sync::{Notify, watch};

pub use self::config::BrokerConfig;
use self::log::{DiskLog, MemoryLog, Recovered, Synced};
use self::state::{BrokerPublishError, BrokerState, ChannelPublishError, Micros, Now, SessionId, SessionSettings};
use crate::proto::{Bodies, ChannelName, TopicName};

/// The version of nsqd that is followed, and that clients are told.
pub const VERSION: &str = "1.3.0";

/// nsqd's number of the log level info.
const LOG_LEVEL_INFO: i32 = 2;

/// The state behind its lock, and what its changes set off.
#[derive(Debug)]
pub struct Broker {
    config: BrokerConfig,
    clock: Clock,
    /// Tells what is on the disk, where that is waited for.
    synced: Option<Synced>,
    shared: Mutex<BrokerShared>,
    /// The first timer is another one.
    timer_changed: Notify,
    /// Something changed since the log was last found not to need compaction.
    log_changed: Notify,
    /// Messages may not be taken any more.
    failing: Arc<Notify>,
    /// Topics or channels came or went.
    catalog_changed: Notify,
    /// The nsqlookupds to register with.
    lookupds: watch::Sender<Vec<String>>,
    /// nsqd's number of what is to be logged, for who asks.
    log_level: AtomicI32,
}

#[derive(Debug)]
struct BrokerShared {
    state: BrokerState,
    connections: HashMap<SessionId, Arc<Notify>>,
    /// The version of the catalog that was spread.
    catalog: u64,
    /// When the clock will look.
    next_deadline: Option<Micros>,
    /// Why the log could not be written the last time; publishing says so as long as it lasts.
    failure: Option<String>,
    /// Whoever compacts the log waits for a change.
    is_compacted: bool,
    /// The longest that a step of compaction has had the lock.
    longest_step: Duration,
}

/// After a change, the log is looked at this much later: much changes meanwhile.
const COMPACTION_DELAY: Duration = Duration::from_millis(50);
/// What failed is tried again this much later, then less and less often: each time is told.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(8);
/// Between steps of compaction others get the lock.
const COMPACTION_PAUSE: Duration = Duration::from_millis(1);

impl Broker {
    /// A broker that keeps nothing, and that nobody can reach yet.
    pub fn in_memory(config: BrokerConfig) -> Self {
        let state = BrokerState::new(config.state.clone(), Box::new(MemoryLog));
        Self::with(config, Clock::start(), state, None)
    }

    /// A broker with what its log held. `synced` is given where messages are to be synced to the disk before they are acknowledged.
    pub fn on_disk(config: BrokerConfig, log: DiskLog, recovered: Recovered, synced: Option<Synced>) -> Self {
        let clock = Clock::start();
        let state = BrokerState::recover(config.state.clone(), Box::new(log), recovered, clock.now());
        Self::with(config, clock, state, synced)
    }

    fn with(config: BrokerConfig, clock: Clock, state: BrokerState, synced: Option<Synced>) -> Self {
        let (connections, is_compacted, longest_step) = (HashMap::new(), false, Duration::ZERO);
        let failing = state.failure_notify();
        let shared = BrokerShared {
            state,
            connections,
            catalog: 0,
            next_deadline: None,
            failure: None,
            is_compacted,
            longest_step,
        };
        Self {
            config,
            clock,
            synced,
            shared: Mutex::new(shared),
            timer_changed: Notify::new(),
            log_changed: Notify::new(),
            failing,
            catalog_changed: Notify::new(),
            lookupds: watch::Sender::default(),
            log_level: AtomicI32::new(LOG_LEVEL_INFO),
        }
    }

    /// The settings.
    pub fn config(&self) -> &BrokerConfig {
        &self.config
    }

    /// Makes changes, writes them down, and wakes whom they concern.
    pub fn change<R>(&self, change: impl FnOnce(&mut BrokerState, Now) -> R) -> R {
        let mut shared = self.lock();
        let result = change(&mut shared.state, self.clock.now());
        // if it could not be written, that is told, and tried again
        let _ = self.after_change(&mut shared);
        result
    }

    /// Makes changes as an administrator asks for them; they are as safe as the log makes them when this returns.
    ///
    /// # Errors
    ///
    /// They could not be written. They are in force, are written as soon as the log works again, and are lost if the broker ends before.
    pub async fn administer<R>(&self, change: impl FnOnce(&mut BrokerState, Now) -> R) -> io::Result<R> {
        let (result, position) = {
            let mut shared = self.lock();
            let result = change(&mut shared.state, self.clock.now());
            self.after_change(&mut shared)?;
            (result, shared.state.position())
        };
        self.synced(position).await?;
        Ok(result)
    }

    /// Compacts the log when that is worth it, a little at a time; never ends.
    pub async fn run_compaction(&self) {
        loop {
            let step = {
                let mut shared = self.lock();
                let begun = Instant::now();
                let step = shared.state.compact();
                shared.longest_step = shared.longest_step.max(begun.elapsed());
                shared.is_compacted = !matches!(step, Ok(true));
                step
            };
            match step {
                Ok(true) => tokio::time::sleep(COMPACTION_PAUSE).await,
                Ok(false) => {
                    self.log_changed.notified().await;
                    tokio::time::sleep(COMPACTION_DELAY).await;
                }
                Err(error) => {
                    tracing::error!("cannot write messages anew to free the log: {error}: tried again later");
                    self.log_changed.notified().await;
                    tokio::time::sleep(COMPACTION_DELAY).await;
                }
            }
        }
    }

    /// As long as messages cannot be taken, tries again what failed, though nobody publishes; never ends.
    pub async fn retry_writes(&self) {
        loop {
            self.failing.notified().await;
            let mut delay = RETRY_MIN;
            while {
                let mut shared = self.lock();
                let _ = self.after_change(&mut shared);
                shared.failure.is_some()
            } {
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(RETRY_MAX);
            }
        }
    }

    /// Takes messages, all or none; they are as safe as the log makes them when this returns.
    pub async fn publish(
        &self,
        topic: &TopicName,
        bodies: Bodies,
        delay: Option<u64>,
    ) -> Result<(), BrokerPublishError> {
        let position = self.change(|state, now| {
            state.publish(topic, bodies, delay, now)?;
            Ok::<_, BrokerPublishError>(state.position())
        })?;
        Ok(self.synced(position).await?)
    }

    /// Takes a message for one channel of a topic; it is as safe as the log makes it when this returns.
    pub async fn publish_to(
        &self,
        topic: &TopicName,
        channel: &ChannelName,
        body: Bytes,
    ) -> Result<(), ChannelPublishError> {
        let position = self.change(|state, now| {
            state.publish_to(topic, channel, body, now)?;
            Ok::<_, ChannelPublishError>(state.position())
        })?;
        self.synced(position).await.map_err(|error| ChannelPublishError::Publish(error.into()))
    }

    /// Waits until the log is on the disk up to here, if that is wanted. Cancel-safe.
    async fn synced(&self, position: u64) -> io::Result<()> {
        match self.synced.clone() {
            Some(mut synced) => synced.reached(position).await,
            None => Ok(()),
        }
    }

    /// Looks at the state.
    pub fn look<R>(&self, look: impl FnOnce(&BrokerState) -> R) -> R {
        look(&self.lock().state)
    }

    /// `OK`, or `NOK - ` and why messages are not taken.
    pub fn health(&self) -> String {
        let mut shared = self.lock();
        self.update_health(&mut shared);
        shared.failure.as_ref().map_or_else(|| "OK".to_owned(), |trouble| format!("NOK - {trouble}"))
    }

    /// The longest that a step of compaction has kept others from the state.
    pub fn longest_compaction_step(&self) -> Duration {
        self.lock().longest_step
    }

    /// The nsqlookupds that it registers with.
    pub fn lookupds(&self) -> Vec<String> {
        self.lookupds.borrow().clone()
    }

    /// Registers with these nsqlookupds (`HOST:PORT` of their TCP protocol), and with no others.
    pub fn register_with(&self, addresses: Vec<String>) {
        self.change(|state, _| state.ask_for_channels(!addresses.is_empty()));
        self.lookupds.send_replace(addresses);
    }

    fn log_level(&self) -> i32 {
        self.log_level.load(Ordering::Relaxed)
    }

    fn set_log_level(&self, level: i32) {
        self.log_level.store(level, Ordering::Relaxed);
    }

    /// Lets what is due come back when it is; never ends.
    pub async fn run_timers(&self) {
        loop {
            let next_deadline = {
                let mut shared = self.lock();
                let now = self.clock.now();
                shared.next_deadline = shared.state.advance(now);
                let _ = self.after_change(&mut shared);
                shared.next_deadline
            };
            let until = async {
                match next_deadline {
                    Some(at) => tokio::time::sleep_until(self.clock.instant(at).into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = until => {}
                () = self.timer_changed.notified() => {}
            }
        }
    }

    fn connect(&self, settings: SessionSettings, remote_address: String) -> (SessionId, Arc<Notify>) {
        let wake = Arc::new(Notify::new());
        let mut shared = self.lock();
        let session = shared.state.connect(settings, remote_address, fastrand::u64(..), self.clock.now());
        shared.connections.insert(session, wake.clone());
        (session, wake)
    }

    fn disconnect(&self, session: SessionId) {
        let mut shared = self.lock();
        shared.connections.remove(&session);
        shared.state.disconnect(session);
        let _ = self.after_change(&mut shared);
    }

    fn lock(&self) -> LockedState<'_> {
        LockedState(self.shared.lock().unwrap_or_else(|_| end_after_panic()))
    }

    /// Says when messages begin to be refused, and when they are taken again.
    fn update_health(&self, shared: &mut BrokerShared) {
        let failure = shared.state.failure();
        if failure != shared.failure {
            match &failure {
                Some(error) => {
                    tracing::error!("{error}: publishing is refused until that is over");
                    self.failing.notify_one();
                }
                None => tracing::info!("publishing is taken again"),
            }
            shared.failure = failure;
        }
    }

    /// What follows from changes. Fails if they could not be written.
    fn after_change(&self, shared: &mut BrokerShared) -> io::Result<()> {
        let written = shared.state.flush();
        self.update_health(shared);
        let BrokerShared { state, connections, catalog, next_deadline, .. } = shared;
        for session in state.woken() {
            if let Some(wake) = connections.get(&session) {
                wake.notify_one();
            }
        }
        if *catalog != state.catalog_version() {
            *catalog = state.catalog_version();
            self.catalog_changed.notify_one();
        }
        if let Some(next) = state.next_timer()
            && next_deadline.is_none_or(|next_deadline| next < next_deadline)
        {
            *next_deadline = Some(next);
            self.timer_changed.notify_one();
        }
        if std::mem::take(&mut shared.is_compacted) {
            self.log_changed.notify_one();
        }
        written
    }
}

/// The state, to be changed. A panic meanwhile ends the process: nobody can use the state after that.
struct LockedState<'a>(MutexGuard<'a, BrokerShared>);

impl Deref for LockedState<'_> {
    type Target = BrokerShared;

    fn deref(&self) -> &BrokerShared {
        &self.0
    }
}

impl DerefMut for LockedState<'_> {
    fn deref_mut(&mut self) -> &mut BrokerShared {
        &mut self.0
    }
}

impl Drop for LockedState<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            end_after_panic()
        }
    }
}

/// Ends the process: whatever was half done cannot be gone on with, and what the log has is sound, so that a restart reads that.
fn end_after_panic() -> ! {
    tracing::error!("the broker's state is unusable after a panic: the process ends, and must be started again");
    std::process::exit(1)
}

/// The two clocks that [`Now`] is read from.
#[derive(Debug)]
struct Clock {
    start: Instant,
}

impl Clock {
    fn start() -> Self {
        Self { start: Instant::now() }
    }

    fn now(&self) -> Now {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Now {
            at: u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX),
            unix_nanos: i64::try_from(since_1970.as_nanos()).unwrap_or(i64::MAX),
        }
    }

    fn instant(&self, at: Micros) -> Instant {
        // a year at most: the next_deadline is set anew before that
        self.start + Duration::from_micros(at).min(self.start.elapsed() + Duration::from_secs(31_536_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a process of its own: see the test below.
    #[test]
    #[ignore = "it ends the process"]
    fn a_panic_in_a_connection() {
        let broker = Arc::new(Broker::in_memory(BrokerConfig::default()));
        let connection = broker.clone();
        let ended = std::thread::spawn(move || connection.change(|_, _| panic!("in the middle of a change"))).join();
        unreachable!("the process has ended, {:?}", ended.is_err());
    }

    #[test]
    fn a_panic_in_the_state_ends_the_process_at_once() {
        let program = std::env::current_exe().unwrap();
        let args = ["--exact", "broker::tests::a_panic_in_a_connection", "--ignored"];
        let ended = std::process::Command::new(program).args(args).output().unwrap();
        assert_eq!(ended.status.code(), Some(1), "{}", String::from_utf8_lossy(&ended.stderr));
    }
}
