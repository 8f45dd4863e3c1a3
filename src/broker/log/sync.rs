//! When what is written is also on the disk: a thread of its own, so that whoever writes never waits for a disk.
//!
//! ```text
//!  writer ──written(position)──▶ work ──▶ thread: fsync ──▶ progress ──▶ Synced::reached(position), in any number of tasks
//! ```
//!
//! After an fsync that failed, the system may have dropped what it could not write, and a second fsync would say that all is well. So
//! nothing in that file after the last good fsync is called synced any more: who waits for it is told; nothing more is accepted until
//! a new segment could be synced. Spent segments are removed here, too, once that which replaced them is synced.

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

use super::SyncMode;
use super::segment::{Extent, Segment};
use super::segments::IdRange;

/// Tells when a position is synced; for any number of tasks.
#[derive(Debug, Clone)]
pub struct Synced(Option<watch::Receiver<SyncProgress>>);

impl Synced {
    /// Ends when all up to `position` is on the disk: with [`SyncMode::Interval`] that takes as long as it says, and with
    /// [`SyncMode::Never`] this ends at once. Fails if it could not be synced, or if the log
    /// was closed before. Cancel-safe.
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

/// What became of the positions so far.
#[derive(Debug, Default)]
struct SyncProgress {
    /// Up to here it is known: synced, or lost.
    passed: u64,
    lost: Vec<UnsyncedRange>,
}

/// Positions after `from`, up to `to`, that could not be synced.
#[derive(Debug, Clone)]
struct UnsyncedRange {
    from: u64,
    to: u64,
    /// Where they were written.
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

/// What can go of a segment, and what must be synced before it goes: the positions after `from`, up to `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Removal {
    pub(super) segment: Extent,
    pub(super) from: u64,
    pub(super) to: u64,
    /// `None`: all. Else all but what is noted of messages with these ids.
    pub(super) all_but: Option<Vec<IdRange>>,
}

/// A segment that was written to.
#[derive(Debug)]
struct SyncTarget {
    segment: u32,
    file: Arc<File>,
    /// The position that its end has.
    to: u64,
}

/// What there is to do.
#[derive(Debug, Default)]
struct SyncQueue {
    targets: Vec<SyncTarget>,
    removals: VecDeque<Removal>,
    /// Removals that the thread is at.
    removing: usize,
    /// The last segment that went as a whole: those before it are gone, too.
    gone: u32,
    /// Segments that were stripped, with their new length; or why they were not.
    stripped: Vec<(u32, io::Result<u32>)>,
    /// A segment was created since the directory was last synced.
    is_directory_dirty: bool,
    /// The last segment that could not be synced; no more is expected of it, nor of those before.
    failed: u32,
    /// Why nothing is accepted.
    failure: Option<Arc<str>>,
    is_closing: bool,
}

#[derive(Debug)]
struct SyncShared {
    mode: SyncMode,
    /// How old what is not synced may become with [`SyncMode::Interval`].
    interval: Duration,
    work: Mutex<SyncQueue>,
    wake: Condvar,
    /// There is trouble in `work`: for who only looks.
    has_failure: AtomicBool,
    /// Told when trouble begins.
    failure_notify: Arc<Notify>,
    progress: watch::Sender<SyncProgress>,
}

impl SyncShared {
    fn work(&self) -> MutexGuard<'_, SyncQueue> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What cannot be written now.
#[derive(Debug)]
pub(super) struct SyncFailure {
    pub(super) why: Arc<str>,
    /// The segment in use is of no use any more: begin another.
    pub(super) needs_segment: bool,
}

/// How a file is synced; another way in tests.
pub(super) type SyncFile = Box<dyn Fn(&File) -> io::Result<()> + Send>;

/// The writer's end. The thread ends with it, after what is left to do.
#[derive(Debug)]
pub(super) struct Syncer {
    shared: Arc<SyncShared>,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    /// Starts the thread. All that is in the directory so far is synced.
    pub(super) fn start(directory: &Path, mode: SyncMode, interval: Duration, sync: SyncFile) -> io::Result<Self> {
        let (work, progress) = (Mutex::default(), watch::Sender::new(SyncProgress::default()));
        let (wake, has_failure) = (Condvar::new(), AtomicBool::new(false));
        let failure_notify = Arc::default();
        let shared = Arc::new(SyncShared { mode, interval, work, wake, has_failure, failure_notify, progress });
        let body = thread::SyncThread::new(shared.clone(), directory, sync)?;
        let thread = std::thread::Builder::new().name("log-sync".into()).spawn(move || body.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// For who waits.
    pub(super) fn synced(&self) -> Synced {
        Synced((self.shared.mode != SyncMode::Never).then(|| self.shared.progress.subscribe()))
    }

    /// Something was written to `segment`, which now ends at `position`.
    pub(super) fn written(&self, segment: &Segment, position: u64) {
        if self.shared.mode == SyncMode::Never {
            return;
        }
        let mut work = self.shared.work();
        let number = segment.extent().number;
        match work.targets.last_mut().filter(|target| target.segment == number) {
            Some(target) => target.to = position,
            None => {
                work.targets.push(SyncTarget { segment: number, file: segment.file(), to: position });
                self.shared.wake.notify_one();
            }
        }
    }

    /// `segment` was created, and ends at `position`.
    pub(super) fn created(&self, segment: &Segment, position: u64) {
        self.shared.work().is_directory_dirty = true;
        self.written(segment, position);
    }

    /// A segment is spent.
    pub(super) fn remove(&self, removal: Removal) {
        self.shared.work().removals.push_back(removal);
        self.shared.wake.notify_one();
    }

    /// True if nothing is left to be removed.
    pub(super) fn has_removed(&self) -> bool {
        let work = self.shared.work();
        work.removals.is_empty() && work.removing == 0
    }

    /// The segments that were stripped since the last call, with their new length; or why they were not.
    pub(super) fn take_stripped(&self) -> Vec<(u32, io::Result<u32>)> {
        std::mem::take(&mut self.shared.work().stripped)
    }

    /// True if something stands in the way of writing.
    pub(super) fn has_failure(&self) -> bool {
        self.shared.has_failure.load(Ordering::Relaxed)
    }

    /// Told when something begins to stand in the way of writing.
    pub(super) fn failure_notify(&self) -> Arc<Notify> {
        self.shared.failure_notify.clone()
    }

    /// What stands in the way of writing to `segment`, if anything does.
    pub(super) fn failure(&self, segment: u32) -> Option<SyncFailure> {
        let work = self.shared.work();
        let why = work.failure.clone()?;
        Some(SyncFailure { why, needs_segment: segment <= work.failed })
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.shared.work().is_closing = true;
        self.shared.wake.notify_one();
        // A panic of the thread has been printed; there is nobody to tell here.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
