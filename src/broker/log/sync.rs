//! Syncing, in a thread of its own, so that writers never wait for a disk.
//!
//! ```text
//!  writer ──written(position)──▶ work ──▶ thread: fsync ──▶ progress ──▶ Synced::reached(position), in any number of tasks
//! ```
//!
//! After a failed fsync, the operating system may have dropped the dirty pages, and a second fsync
//! would succeed without them. So tasks that wait for that data get an error, and nothing more is
//! accepted until a new segment was synced and the old one was [written again](super::unsynced) to a
//! new file. The thread also removes spent segments, once the data that
//! replaces them is synced.

mod gathering;
mod thread;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::segment::{Extent, Segment};
use super::segments::IdRange;
use super::{LogOptions, SyncMode};
use crate::duration_histogram::{DurationCounts, DurationHistogram};

/// Upper bounds of the time of a sync.
static SYNC_BOUNDS: [Duration; 12] = [
    Duration::from_micros(250),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
];

/// Handle with which any number of tasks wait until a position is synced.
#[derive(Debug, Clone)]
pub struct Synced(Option<watch::Receiver<SyncProgress>>);

impl Synced {
    /// Waits until everything up to `position` is on the disk. With [`SyncMode::Never`] it returns
    /// at once. Fails if that could not be synced, or if the log was closed before. Cancel-safe.
    pub async fn reached(&mut self, position: u64) -> io::Result<()> {
        let Some(progress) = &mut self.0 else { return Ok(()) };
        let closed = |_| io::Error::other("the log was closed before this was synced");
        let now = progress.wait_for(|progress| progress.passed >= position).await.map_err(closed)?;
        match now.lost_at(position) {
            Some(lost) => Err(io::Error::other(lost.why.to_string())),
            None => Ok(()),
        }
    }
}

/// Outcome of syncing so far.
#[derive(Debug, Default)]
struct SyncProgress {
    /// The position up to which the outcome is known: synced or lost.
    passed: u64,
    lost: Vec<UnsyncedRange>,
}

/// Positions after `from`, up to `to`, that could not be synced.
#[derive(Debug, Clone)]
struct UnsyncedRange {
    from: u64,
    to: u64,
    /// The segment that they were written to.
    segment: u32,
    why: Arc<str>,
}

impl SyncProgress {
    fn lost_at(&self, position: u64) -> Option<&UnsyncedRange> {
        self.lost.iter().find(|lost| lost.from < position && position <= lost.to)
    }

    fn synced(&mut self, to: u64) {
        self.passed = to;
    }

    fn failed(&mut self, segment: u32, to: u64, why: Arc<str>) {
        match self.lost.last_mut().filter(|last| last.to == self.passed && last.segment == segment) {
            Some(last) => (last.to, last.why) = (to, why),
            None => self.lost.push(UnsyncedRange { from: self.passed, to, segment, why }),
        }
        self.passed = to;
    }
}

/// Removal or stripping of a segment, and what must be synced before it: the positions after
/// `from`, up to `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Removal {
    pub(super) segment: Extent,
    pub(super) from: u64,
    pub(super) to: u64,
    /// `None` to remove the segment. Else strip it: keep only changes of messages with these ids.
    pub(super) all_but: Option<Vec<IdRange>>,
}

/// A segment with data to sync.
#[derive(Debug)]
struct SyncTarget {
    segment: u32,
    file: Arc<File>,
    /// The position of the end of the data.
    to: u64,
}

/// Work for the thread, and its results.
#[derive(Debug, Default)]
struct SyncQueue {
    targets: Vec<SyncTarget>,
    /// The number of messages published since the targets were last taken, if it matters.
    published: u64,
    /// The number of writes since the targets were last taken.
    writes: u64,
    /// The number of writes at which the thread is woken while it gathers; 0 if it does not.
    wanted: u64,
    removals: VecDeque<Removal>,
    /// The number of removals in progress.
    removing: usize,
    /// The last segment that was removed; all older ones are removed, too.
    gone: u32,
    /// Results of stripping: segments with their new length, or the error.
    stripped: Vec<(u32, io::Result<u32>)>,
    /// True if the directory has to be synced before the next segment: one was created or could not
    /// be, or a sync of the directory failed.
    is_directory_dirty: bool,
    /// True if the directory could not be synced after a removal: no further ones until it was.
    is_removal_paused: bool,
    /// The last segment that could not be synced; neither it nor older ones are synced any more.
    failed: u32,
    /// The reason why nothing is accepted.
    failure: Option<Arc<str>>,
    is_closing: bool,
}

#[derive(Debug)]
struct SyncShared {
    mode: SyncMode,
    /// The interval between syncs with [`SyncMode::Interval`].
    interval: Duration,
    /// The number of published messages that do not wait for the interval.
    every: Option<u64>,
    work: Mutex<SyncQueue>,
    wake: Condvar,
    /// True if `work` has a failure; read without the lock.
    has_failure: AtomicBool,
    /// Notified when a failure begins.
    failure_notify: Arc<Notify>,
    progress: watch::Sender<SyncProgress>,
    /// Times of syncs of segments.
    times: DurationHistogram,
    /// `wake`, in a simulated world.
    #[cfg(test)]
    simulated_wake: Notify,
}

impl SyncShared {
    /// True if enough messages were published not to wait for the interval.
    fn is_due(&self, work: &SyncQueue) -> bool {
        self.every.is_some_and(|every| work.published >= every)
    }

    fn work(&self) -> MutexGuard<'_, SyncQueue> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the thread.
    fn wake(&self) {
        self.wake.notify_one();
        #[cfg(test)]
        self.simulated_wake.notify_one();
    }
}

/// A failed sync, because of which nothing is accepted.
#[derive(Debug)]
pub(super) struct SyncFailure {
    pub(super) why: Arc<str>,
    /// True if the current segment is affected: a new one must be begun.
    pub(super) needs_segment: bool,
}

/// Function that syncs a file; replaced in tests.
pub(crate) type SyncFile = Box<dyn Fn(&File) -> io::Result<()> + Send>;

/// The writer's handle of the thread. Dropping it ends the thread after the remaining work.
#[derive(Debug)]
pub(super) struct Syncer {
    shared: Arc<SyncShared>,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    /// Starts the thread. Everything in the directory must be synced by then.
    pub(super) fn start(directory: &Path, options: &LogOptions, sync: SyncFile) -> io::Result<Self> {
        let (mode, interval, every) = (options.sync, options.interval, options.sync_every);
        let (work, progress) = (Mutex::default(), watch::Sender::new(SyncProgress::default()));
        let (wake, has_failure) = (Condvar::new(), AtomicBool::new(false));
        let failure_notify = Arc::default();
        let times = DurationHistogram::new(&SYNC_BOUNDS);
        let shared = Arc::new(SyncShared {
            mode,
            interval,
            every,
            work,
            wake,
            has_failure,
            failure_notify,
            progress,
            times,
            #[cfg(test)]
            simulated_wake: Notify::new(),
        });
        let body = thread::SyncThread::new(shared.clone(), directory, sync)?;
        #[cfg(test)]
        if crate::simulated::is_running() {
            tokio::spawn(body.run_simulated());
            return Ok(Self { shared, thread: None });
        }
        let thread = std::thread::Builder::new().name("log-sync".into()).spawn(move || body.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// A handle to wait for a position.
    pub(super) fn synced(&self) -> Synced {
        Synced((self.shared.mode != SyncMode::Never).then(|| self.shared.progress.subscribe()))
    }

    /// The position up to which the outcome of syncing is known; `None` with [`SyncMode::Never`].
    pub(super) fn passed(&self) -> Option<u64> {
        (self.shared.mode != SyncMode::Never).then(|| self.shared.progress.borrow().passed)
    }

    /// The times of syncs; `None` with [`SyncMode::Never`].
    pub(super) fn times(&self) -> Option<DurationCounts> {
        (self.shared.mode != SyncMode::Never).then(|| self.shared.times.counts())
    }

    /// Reports a write to `segment`, which now ends at `position`.
    pub(super) fn written(&self, segment: &Segment, position: u64) {
        if self.shared.mode == SyncMode::Never {
            return;
        }
        let mut work = self.shared.work();
        let number = segment.extent().number;
        work.writes += 1;
        match work.targets.last_mut().filter(|target| target.segment == number) {
            Some(target) => {
                target.to = position;
                if work.writes == work.wanted {
                    self.shared.wake();
                }
            }
            None => {
                work.targets.push(SyncTarget { segment: number, file: segment.file(), to: position });
                self.shared.wake();
            }
        }
    }

    /// Reports the number of messages of a write.
    pub(super) fn published(&self, messages: u64) {
        if self.shared.every.is_none() || self.shared.mode != SyncMode::Interval {
            return;
        }
        let mut work = self.shared.work();
        work.published += messages;
        if self.shared.is_due(&work) {
            self.shared.wake();
        }
    }

    /// Reports that `segment` was created, and ends at `position`.
    pub(super) fn created(&self, segment: &Segment, position: u64) {
        self.directory_changed();
        self.written(segment, position);
    }

    /// Has the directory synced before what is written from now on.
    pub(super) fn directory_changed(&self) {
        self.shared.work().is_directory_dirty = true;
    }

    /// Schedules a removal or stripping.
    pub(super) fn remove(&self, removal: Removal) {
        self.shared.work().removals.push_back(removal);
        self.shared.wake();
    }

    /// True if no removal is pending.
    pub(super) fn has_removed(&self) -> bool {
        let work = self.shared.work();
        work.removals.is_empty() && work.removing == 0
    }

    /// Takes the results of stripping since the last call: segments with their new length, or the
    /// error.
    pub(super) fn take_stripped(&self) -> Vec<(u32, io::Result<u32>)> {
        std::mem::take(&mut self.shared.work().stripped)
    }

    /// True if a sync failed and nothing is accepted.
    pub(super) fn has_failure(&self) -> bool {
        self.shared.has_failure.load(Ordering::Relaxed)
    }

    /// Notifies when a sync fails.
    pub(super) fn failure_notify(&self) -> Arc<Notify> {
        self.shared.failure_notify.clone()
    }

    /// The failed sync because of which nothing may be written to `segment`, if there is one.
    pub(super) fn failure(&self, segment: u32) -> Option<SyncFailure> {
        let work = self.shared.work();
        let why = work.failure.clone()?;
        Some(SyncFailure { why, needs_segment: segment <= work.failed })
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.shared.work().is_closing = true;
        self.shared.wake();
        // a panic of the thread was printed already
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
