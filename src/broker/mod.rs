//! The embedded broker: nsqd's protocols in this program. nsqd's clients and tools cannot tell it
//! from nsqd 1.3.0.
//!
//! ```text
//!  tcp::ClientConnection ─┐                          ┌─▶ log (disk)
//!  http                   ├─▶ Broker ─▶ BrokerState ─┤
//!  timers                 ┘   (one lock)             └─▶ outboxes ─▶ connections that are woken
//! ```
//!
//! A connection reads, decodes all complete commands, and executes them under one lock; then it
//! writes its outbox. No lock is held while anything waits.

pub mod accept_gate;
pub mod auth;
pub mod config;
mod descriptors;
pub mod http;
pub mod import;
pub mod log;
mod log_level;
mod lookupd;
pub mod memory;
pub mod peek;
pub mod server;
mod socket;
pub mod state;
mod statsd;
pub mod tcp;
mod threads;

use std::collections::HashMap;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

pub use self::config::{BrokerConfig, TlsRequired};
use self::log::{DiskLog, MemoryLog, Recovered, Synced};
pub use self::log_level::LogLevel;
use self::state::{
    BrokerPublishError, BrokerState, ChannelPublishError, Micros, Now, SessionId, SessionSettings, StatsSelection,
};
pub use self::statsd::StatsdSettings;
use crate::io_error::describe;
use crate::proto::stats::TopicStats;
use crate::proto::{Bodies, ChannelName, List, TopicName};

/// The version of nsqd that the broker behaves like, and reports to clients.
pub const VERSION: &str = "1.3.0";

/// The state behind its lock, and the notifications that its changes cause.
#[derive(Debug)]
pub struct Broker {
    config: BrokerConfig,
    clock: Clock,
    /// Handle to wait for syncs, if publishing waits for them.
    synced: Option<Synced>,
    shared: Mutex<BrokerShared>,
    /// Notified when the next deadline has become an earlier one.
    timer_changed: Notify,
    /// Notified by the first change after the log was found not to need compaction.
    log_changed: Notify,
    /// Notified when publishing begins to fail.
    failing: Arc<Notify>,
    /// Notified when topics or channels were created or deleted.
    catalog_changed: Notify,
    /// Notified when a channel may need a consumer.
    unserved: Notify,
    /// The nsqlookupds to register with.
    lookupds: watch::Sender<Vec<String>>,
    /// The log level, which the HTTP API changes.
    log_level: watch::Sender<LogLevel>,
    refused_publishes: AtomicU64,
    /// Limit of peeks at once.
    peeks: Arc<Semaphore>,
}

#[derive(Debug)]
struct BrokerShared {
    state: BrokerState,
    connections: HashMap<SessionId, Arc<Notify>>,
    /// The catalog version last notified.
    catalog: u64,
    /// The deadline that the timer task waits for.
    next_deadline: Option<Micros>,
    /// The reason why publishing fails, as long as it does.
    failure: Option<String>,
    /// True if the compaction task waits for a change.
    is_compacted: bool,
    /// The longest time that a step of compaction held the lock.
    longest_step: Duration,
}

/// Delay between a change and the check whether to compact, so that a check serves many changes.
const COMPACTION_DELAY: Duration = Duration::from_millis(50);
/// Delays between attempts after a failure: the first, and the longest; they double.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(8);
/// Time after which a step of compaction does not begin anything more.
const COMPACTION_STEP: Duration = Duration::from_millis(1);
/// Pause between steps of compaction, in which others get the lock.
const COMPACTION_PAUSE: Duration = Duration::from_millis(1);

impl Broker {
    /// A broker without a log and without listeners.
    pub fn in_memory(config: BrokerConfig) -> Self {
        let state = BrokerState::new(config.state.clone(), Box::new(MemoryLog));
        Self::with(config, Clock::start(), state, None)
    }

    /// A broker with the contents of its log. With `synced`, publishing waits until messages are
    /// synced to the disk.
    pub fn on_disk(config: BrokerConfig, log: DiskLog, recovered: Recovered, synced: Option<Synced>) -> Self {
        let clock = Clock::start();
        let state = BrokerState::recover(config.state.clone(), Box::new(log), recovered, clock.now());
        Self::with(config, clock, state, synced)
    }

    fn with(config: BrokerConfig, clock: Clock, mut state: BrokerState, synced: Option<Synced>) -> Self {
        state.measure_latency(config.latency.clone());
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
        let log_level = watch::Sender::new(config.log_level);
        Self {
            config,
            clock,
            synced,
            shared: Mutex::new(shared),
            timer_changed: Notify::new(),
            log_changed: Notify::new(),
            failing,
            catalog_changed: Notify::new(),
            unserved: Notify::new(),
            lookupds: watch::Sender::default(),
            log_level,
            refused_publishes: AtomicU64::new(0),
            peeks: Arc::new(Semaphore::new(peek::MAX_PEEKS)),
        }
    }

    /// The settings.
    pub fn config(&self) -> &BrokerConfig {
        &self.config
    }

    /// Changes the state, writes the changes to the log, and wakes the affected connections.
    pub fn change<R>(&self, change: impl FnOnce(&mut BrokerState, Now) -> R) -> R {
        let mut shared = self.lock();
        let result = change(&mut shared.state, self.clock.now());
        // a failure is logged and retried
        let _ = self.after_change(&mut shared);
        result
    }

    /// Makes an administrative change; waits until it is written, and synced if publishing waits
    /// for syncs.
    ///
    /// # Errors
    ///
    /// Fails if the change could not be written. It is in force all the same, and is written as
    /// soon as the log works again; it is lost if the broker ends before.
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

    /// Compacts the log in small steps, whenever enough of it is dead; never returns.
    pub async fn run_compaction(&self) {
        loop {
            let (step, next) = {
                let mut shared = self.lock();
                let begun = Instant::now();
                let step = shared.state.compact(begun + COMPACTION_STEP);
                shared.longest_step = shared.longest_step.max(begun.elapsed());
                shared.is_compacted = !matches!(step, Ok(true));
                (step, shared.state.next_compaction())
            };
            match step {
                Ok(true) => tokio::time::sleep(COMPACTION_PAUSE).await,
                Ok(false) => self.await_compaction(next).await,
                Err(error) => {
                    tracing::error!(error = %describe(&error), "compaction of the log failed; retrying later");
                    self.await_compaction(next).await;
                }
            }
        }
    }

    /// Waits for a change, or until segments that could not be compacted are tried again.
    async fn await_compaction(&self, next: Option<Instant>) {
        let changed = self.log_changed.notified();
        match next {
            Some(next) => drop(tokio::time::timeout_at(next, changed).await),
            None => changed.await,
        }
        tokio::time::sleep(COMPACTION_DELAY).await;
    }

    /// Retries failed writes as long as publishing fails, even if nothing is published; never
    /// returns.
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

    /// Publishes all messages or none; waits until they are written, and synced if configured.
    pub async fn publish(
        &self,
        topic: &TopicName,
        bodies: Bodies,
        delay: Option<u64>,
    ) -> Result<(), BrokerPublishError> {
        let publishing = async {
            let position = self.change(|state, now| {
                state.publish(topic, bodies, delay, now)?;
                Ok::<_, BrokerPublishError>(state.position())
            })?;
            Ok(self.synced(position).await?)
        };
        publishing.await.inspect_err(|_| self.count_refused_publish())
    }

    /// Publishes a message to one channel of a topic; waits until it is written, and synced if
    /// configured.
    pub async fn publish_to(
        &self,
        topic: &TopicName,
        channel: &ChannelName,
        body: Bytes,
    ) -> Result<(), ChannelPublishError> {
        let publishing = async {
            let position = self.change(|state, now| {
                state.publish_to(topic, channel, body, now)?;
                Ok::<_, ChannelPublishError>(state.position())
            })?;
            self.synced(position).await.map_err(|error| ChannelPublishError::Publish(error.into()))
        };
        publishing.await.inspect_err(|error| {
            if matches!(error, ChannelPublishError::Publish(_)) {
                self.count_refused_publish();
            }
        })
    }

    fn count_refused_publish(&self) {
        self.refused_publishes.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of publish commands that were refused, because the log or the memory is full or
    /// fails. PUBs that were executed together count once.
    pub fn refused_publishes(&self) -> u64 {
        self.refused_publishes.load(Ordering::Relaxed)
    }

    /// Waits until the log is synced up to a position, if configured. Cancel-safe.
    async fn synced(&self, position: u64) -> io::Result<()> {
        match self.synced.clone() {
            Some(mut synced) => synced.reached(position).await,
            None => Ok(()),
        }
    }

    /// The time on the clocks of the state.
    fn now(&self) -> Now {
        self.clock.now()
    }

    /// Reads the state.
    pub fn with_state<R>(&self, read: impl FnOnce(&BrokerState) -> R) -> R {
        read(&self.lock().state)
    }

    /// Makes the next start quick, before a broker that nobody uses ends: it need not read the log.
    /// Takes as long as reading the log. A failure changes nothing but the time of that start.
    pub fn checkpoint(&self) -> io::Result<()> {
        self.lock().state.checkpoint()
    }

    /// Waits until a channel may need a consumer: it has more messages than its consumers are enough
    /// for, or one came or went. Cancel-safe.
    pub async fn unserved(&self) {
        self.unserved.notified().await;
    }

    /// The statistics of all topics and channels, without their connections.
    pub fn topic_stats(&self) -> List<TopicStats> {
        self.with_state(|state| state.topic_stats(&StatsSelection::default(), self.clock.now()))
    }

    /// `OK`, or `NOK - ` and the reason why publishing fails.
    pub fn health(&self) -> String {
        self.failure().map_or_else(|| "OK".to_owned(), |failure| format!("NOK - {failure}"))
    }

    /// The reason why publishing fails now, if it does.
    pub fn failure(&self) -> Option<String> {
        let mut shared = self.lock();
        self.update_health(&mut shared);
        shared.failure.clone()
    }

    /// The longest time that a step of compaction held the lock.
    pub fn longest_compaction_step(&self) -> Duration {
        self.lock().longest_step
    }

    /// Addresses of the nsqlookupds that the broker registers with.
    pub fn lookupds(&self) -> Vec<String> {
        self.lookupds.borrow().clone()
    }

    /// Sets the nsqlookupds to register with (`HOST:PORT` of their TCP protocol).
    pub fn register_with(&self, addresses: Vec<String>) {
        self.change(|state, _| state.await_known_channels(!addresses.is_empty()));
        self.lookupds.send_replace(addresses);
    }

    /// The log level, for the program to follow: the HTTP API changes it (`PUT /config/log_level`).
    pub fn log_level(&self) -> watch::Receiver<LogLevel> {
        self.log_level.subscribe()
    }

    fn set_log_level(&self, level: LogLevel) {
        self.log_level.send_replace(level);
    }

    /// Requeues expired in-flight and deferred messages at their deadlines; never returns.
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
                    Some(at) => tokio::time::sleep_until(self.clock.instant(at)).await,
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

    /// Logs when publishing begins to fail, and when it works again.
    fn update_health(&self, shared: &mut BrokerShared) {
        let failure = shared.state.failure();
        if failure != shared.failure {
            match &failure {
                Some(error) => {
                    tracing::error!(%error, "publishing is refused until this failure is over");
                    self.failing.notify_one();
                }
                None => tracing::info!("publishing works again"),
            }
            shared.failure = failure;
        }
    }

    /// Writes changes to the log and sends the notifications that they cause. Fails if they could
    /// not be written.
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
        if state.take_unserved() {
            self.unserved.notify_one();
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

/// The locked state. A panic while it is locked ends the process, because the state may be
/// inconsistent.
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

/// Ends the process after a panic: a half-made change cannot be continued, but the log is
/// consistent, so a restart recovers.
fn end_after_panic() -> ! {
    tracing::error!("the broker's state is unusable after a panic; the process ends: restart it");
    std::process::exit(1)
}

/// The clocks for [`Now`]: monotonic and wall-clock.
#[derive(Debug)]
struct Clock {
    start: Instant,
}

impl Clock {
    fn start() -> Self {
        Self { start: Instant::now() }
    }

    fn now(&self) -> Now {
        let since_1970 = since_1970();
        Now {
            at: u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX),
            unix_nanos: i64::try_from(since_1970.as_nanos()).unwrap_or(i64::MAX),
        }
    }

    fn instant(&self, at: Micros) -> Instant {
        // at most a year: the deadline is set again before that
        self.start + Duration::from_micros(at).min(self.start.elapsed() + Duration::from_secs(31_536_000))
    }
}

/// The wall-clock time.
fn since_1970() -> Duration {
    #[cfg(test)]
    if let Some(simulated) = crate::simulated::since_1970() {
        return simulated;
    }
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs in a process of its own, started by the test below.
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
