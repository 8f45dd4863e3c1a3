//! Counts and times of a group's messages, for metrics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::WorkerStats;
use crate::duration_histogram::{DurationCounts, DurationHistogram};
use crate::proto::Message;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Upper bounds of the time of a handler, which is limited to minutes.
static HANDLER_BOUNDS: [Duration; 16] = [
    ms(1),
    ms(2),
    ms(5),
    ms(10),
    ms(25),
    ms(50),
    ms(100),
    ms(250),
    ms(500),
    ms(1000),
    ms(2500),
    ms(5000),
    ms(10_000),
    ms(30_000),
    ms(60_000),
    ms(600_000),
];

/// Upper bounds of the time from publishing to FIN, in which a message may have waited for a day.
static END_TO_END_BOUNDS: [Duration; 16] = [
    ms(1),
    ms(5),
    ms(10),
    ms(25),
    ms(50),
    ms(100),
    ms(250),
    ms(500),
    ms(1000),
    ms(5000),
    ms(10_000),
    ms(60_000),
    ms(300_000),
    ms(3_600_000),
    ms(21_600_000),
    ms(86_400_000),
];

/// Counts and times of a group's messages: what a [`Worker`](super::Worker) writes with
/// [`with_meter`](super::Worker::with_meter), and what a program that serves metrics reads. One
/// meter may serve several workers, one after the other or together.
///
/// # Examples
/// ```no_run
/// # async fn example(
/// #     consumer: mqueue::client::Consumer,
/// #     shutdown: mqueue::shutdown::Shutdown,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
///
/// use mqueue::handler::Verdict;
/// use mqueue::proto::Message;
/// use mqueue::worker::{WorkMeter, Worker, WorkerConfig};
///
/// let meter = Arc::new(WorkMeter::new());
/// let handler = |message: Message| async move { Verdict::done() };
/// let worker = Worker::new(consumer, Arc::new(handler), WorkerConfig::default())?.with_meter(meter.clone());
/// worker.run(&shutdown).await;
/// println!("{} done in {} s", meter.stats().done, meter.handler_times().seconds);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct WorkMeter {
    done: AtomicU64,
    retried: AtomicU64,
    dead: AtomicU64,
    released: AtomicU64,
    redelivered: AtomicU64,
    handler: DurationHistogram,
    end_to_end: DurationHistogram,
    running: Mutex<RunningHandlers>,
}

/// The running handlers.
#[derive(Debug, Default)]
struct RunningHandlers {
    /// The publish time of the oldest message of each run.
    oldest: BTreeMap<u64, i64>,
    next: u64,
}

impl Default for WorkMeter {
    fn default() -> Self {
        Self::new()
    }
}

impl WorkMeter {
    /// A meter that has counted nothing.
    pub fn new() -> Self {
        Self {
            done: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            dead: AtomicU64::new(0),
            released: AtomicU64::new(0),
            redelivered: AtomicU64::new(0),
            handler: DurationHistogram::new(&HANDLER_BOUNDS),
            end_to_end: DurationHistogram::new(&END_TO_END_BOUNDS),
            running: Mutex::default(),
        }
    }

    /// Counts messages that were received, with their attempts.
    pub fn received(&self, attempts: impl IntoIterator<Item = u16>) {
        let redelivered = attempts.into_iter().filter(|attempts| *attempts > 1).count();
        if redelivered > 0 {
            self.redelivered.fetch_add(redelivered as u64, Ordering::Relaxed);
        }
    }

    /// Begins a run of the handler, with these messages.
    pub fn begin(self: &Arc<Self>, messages: &[Message]) -> HandlerRun {
        let oldest = messages.iter().map(|message| message.timestamp).min().unwrap_or(i64::MAX);
        let mut running = self.running();
        let number = running.next;
        running.next += 1;
        running.oldest.insert(number, oldest);
        drop(running);
        HandlerRun { meter: self.clone(), number, begun: Instant::now() }
    }

    /// Counts what became of messages.
    pub fn count(&self, stats: WorkerStats) {
        let WorkerStats { done, retried, dead, released } = stats;
        for (counter, count) in
            [(&self.done, done), (&self.retried, retried), (&self.dead, dead), (&self.released, released)]
        {
            if count > 0 {
                counter.fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    /// Records the time of a handler's run that this meter did not [begin](Self::begin).
    pub fn handler_took(&self, took: Duration) {
        self.handler.record(took);
    }

    /// Records messages that are finished now, with their publish times in nanoseconds since 1970.
    pub fn finished(&self, timestamps: impl IntoIterator<Item = i64>) {
        let mut timestamps = timestamps.into_iter().peekable();
        if timestamps.peek().is_some() {
            let now = unix_nanos();
            timestamps.for_each(|published| self.end_to_end.record(since(published, now)));
        }
    }

    /// The counts of messages so far.
    pub fn stats(&self) -> WorkerStats {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WorkerStats {
            done: of(&self.done),
            retried: of(&self.retried),
            dead: of(&self.dead),
            released: of(&self.released),
        }
    }

    /// The number of received messages that had been delivered before.
    pub fn redelivered(&self) -> u64 {
        self.redelivered.load(Ordering::Relaxed)
    }

    /// The times of the handler's runs. A handler that takes batches has one run for a batch.
    pub fn handler_times(&self) -> DurationCounts {
        self.handler.counts()
    }

    /// The times from publishing a message to its FIN, of messages that were handled.
    pub fn end_to_end_times(&self) -> DurationCounts {
        self.end_to_end.counts()
    }

    /// The time since the oldest message was published that a handler has now; `None` if no handler
    /// runs.
    pub fn oldest(&self) -> Option<Duration> {
        self.running().oldest.values().min().copied().map(time_since)
    }

    fn running(&self) -> MutexGuard<'_, RunningHandlers> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A run of the handler. Its messages are in hand until it is dropped.
#[derive(Debug)]
pub struct HandlerRun {
    meter: Arc<WorkMeter>,
    number: u64,
    begun: Instant,
}

impl HandlerRun {
    /// Records the time of the run: the handler has ended. A run that is aborted has no time.
    pub fn ended(&self) {
        self.meter.handler.record(self.begun.elapsed());
    }
}

impl Drop for HandlerRun {
    fn drop(&mut self) {
        self.meter.running().oldest.remove(&self.number);
    }
}

fn unix_nanos() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

/// The time since a message with this timestamp was published; zero if the broker's clock is ahead.
pub fn time_since(timestamp: i64) -> Duration {
    since(timestamp, unix_nanos())
}

/// The time from `published` to `now`; zero if the broker's clock is ahead.
fn since(published: i64, now: i64) -> Duration {
    Duration::from_nanos(u64::try_from(now.saturating_sub(published)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::proto::MessageId;

    fn published(ago: Duration) -> Message {
        let timestamp = unix_nanos() - i64::try_from(ago.as_nanos()).unwrap();
        Message { timestamp, attempts: 1, id: MessageId(*b"0123456789abcdef"), body: Bytes::new() }
    }

    #[test]
    fn the_oldest_message_of_all_runs_counts_until_its_run_is_dropped() {
        let (meter, minute) = (Arc::new(WorkMeter::new()), Duration::from_secs(60));
        assert_eq!(meter.oldest(), None);
        let young = meter.begin(&[published(minute), published(3 * minute)]);
        let old = meter.begin(&[published(60 * minute)]);
        let (hour, three) = (60 * minute, 3 * minute);
        assert!(meter.oldest().unwrap() >= hour && meter.oldest().unwrap() < hour + minute, "{:?}", meter.oldest());
        old.ended();
        drop(old);
        assert!(meter.oldest().unwrap() >= three && meter.oldest().unwrap() < three + minute, "{:?}", meter.oldest());
        drop(young);
        assert_eq!((meter.oldest(), meter.handler_times().count()), (None, 1), "an aborted run has no time");
    }

    #[test]
    fn times_from_publishing_are_never_negative() {
        let meter = WorkMeter::new();
        meter.finished([i64::MAX, i64::MIN, 0, unix_nanos()]);
        let counts = meter.end_to_end_times();
        assert_eq!(counts.count(), 4);
        assert_eq!(counts.buckets[0].1, 2, "now, and a clock that is ahead: {counts:?}");
    }

    #[test]
    fn redeliveries_and_outcomes_are_counted() {
        let meter = WorkMeter::new();
        meter.received([1, 2, 1, 65535]);
        let stats = WorkerStats { done: 1, retried: 2, dead: 3, released: 4 };
        meter.count(stats);
        meter.count(WorkerStats::default());
        assert_eq!((meter.redelivered(), meter.stats()), (2, stats));
    }
}
