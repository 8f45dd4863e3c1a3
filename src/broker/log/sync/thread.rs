//! The thread that syncs and removes segments.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::super::segment::{Extent, file_path};
use super::super::segments::IdRange;
use super::super::strip::strip;
use super::super::unsynced;
use super::gathering::Gathering;
use super::{Removal, SyncFile, SyncMode, SyncQueue, SyncShared, SyncTarget};
use crate::io_error::describe;

/// A segment that could not be synced is written again with each new segment that is synced, this many
/// times; then the broker goes on without.
const MAX_ATTEMPTS: u32 = 3;

/// State of the thread.
pub(super) struct SyncThread {
    shared: Arc<SyncShared>,
    path: PathBuf,
    directory: File,
    sync: SyncFile,
    unsynced: Vec<UnsyncedSegment>,
}

/// A segment that could not be synced.
struct UnsyncedSegment {
    number: u32,
    /// How often it could not be written again.
    attempts: u32,
}

/// Work that the thread does at a time.
struct SyncRound {
    targets: Vec<SyncTarget>,
    is_directory_dirty: bool,
    removals: Vec<Removal>,
}

/// When the thread syncs next.
#[derive(Debug, Default)]
struct SyncPace {
    /// When the targets that wait for the interval are due.
    due: Option<Instant>,
    gathering: Gathering,
    /// The time of the last sync of a segment.
    last_sync: Duration,
}

/// The thread's next step.
enum NextStep {
    Round(SyncRound),
    /// Wait until it is woken, or for this time.
    Wait(Option<Duration>),
    /// The writer's handle was dropped, and all work is done.
    End,
}

impl SyncThread {
    pub(super) fn new(shared: Arc<SyncShared>, path: &Path, sync: SyncFile) -> io::Result<Self> {
        Ok(Self { shared, path: path.into(), directory: File::open(path)?, sync, unsynced: Vec::new() })
    }

    /// Works until the writer's handle is dropped and all work is done.
    pub(super) fn run(mut self) {
        let mut pace = SyncPace::default();
        while let Some(round) = self.next_round(&mut pace) {
            self.perform(round, &mut pace);
        }
    }

    /// Does the same as a task in a simulated world, where syncing takes virtual time.
    #[cfg(test)]
    pub(super) async fn run_simulated(mut self) {
        let (shared, mut pace) = (self.shared.clone(), SyncPace::default());
        loop {
            let step = self.next_step(&mut shared.work(), &mut pace);
            match step {
                NextStep::Round(round) => {
                    tokio::time::sleep(crate::simulated::sync_time()).await;
                    self.perform(round, &mut pace);
                }
                NextStep::Wait(None) => shared.simulated_wake.notified().await,
                NextStep::Wait(Some(time)) => {
                    let _ = tokio::time::timeout(time, shared.simulated_wake.notified()).await;
                }
                NextStep::End => return,
            }
        }
    }

    fn perform(&mut self, round: SyncRound, pace: &mut SyncPace) {
        if let (true, Some(newest)) = (round.is_directory_dirty, round.targets.last()) {
            self.sync_directory(newest);
        }
        for target in round.targets {
            let begun = Instant::now();
            self.sync(target);
            pace.last_sync = begun.elapsed();
        }
        self.remove(round.removals);
    }

    /// Waits until there is work and it is due; `None` after the writer's handle was dropped.
    fn next_round(&self, pace: &mut SyncPace) -> Option<SyncRound> {
        let mut work = self.shared.work();
        loop {
            let wake = &self.shared.wake;
            work = match self.next_step(&mut work, pace) {
                NextStep::Round(round) => return Some(round),
                NextStep::Wait(None) => wake.wait(work).unwrap_or_else(PoisonError::into_inner),
                NextStep::Wait(Some(time)) => wake.wait_timeout(work, time).unwrap_or_else(PoisonError::into_inner).0,
                NextStep::End => return None,
            };
        }
    }

    /// The next step. Removals in between do not postpone targets that wait for the interval.
    fn next_step(&self, work: &mut SyncQueue, pace: &mut SyncPace) -> NextStep {
        let removals = self.removable(work);
        let wait = match (self.shared.mode, work.targets.is_empty()) {
            (SyncMode::Interval, false) if !self.shared.is_due(work) && work.failure.is_none() => {
                let due = *pace.due.get_or_insert_with(|| Instant::now() + self.shared.interval);
                due.saturating_duration_since(Instant::now())
            }
            (SyncMode::Always, _) => pace.gathering.wait(work.writes, pace.last_sync, Instant::now()),
            (SyncMode::Interval | SyncMode::Never, _) => Duration::ZERO,
        };
        let has_targets = !work.targets.is_empty() && (wait.is_zero() || work.is_closing);
        if has_targets || !removals.is_empty() {
            let targets = if has_targets { std::mem::take(&mut work.targets) } else { Vec::new() };
            if has_targets {
                pace.due = None;
                work.published = 0;
                pace.gathering.begin(std::mem::take(&mut work.writes));
                work.wanted = 0;
            }
            let is_directory_dirty = has_targets && std::mem::take(&mut work.is_directory_dirty);
            return NextStep::Round(SyncRound { targets, is_directory_dirty, removals });
        }
        match work.is_closing {
            true => NextStep::End,
            false => {
                work.wanted = pace.gathering.wanted;
                NextStep::Wait((!wait.is_zero()).then_some(wait))
            }
        }
    }

    /// Takes the removals that are ready, the oldest first. A removal whose replacement data was
    /// lost by a failed sync must wait until the segment of the lost data is not needed either:
    /// both are removed together.
    fn removable(&self, work: &mut SyncQueue) -> Vec<Removal> {
        if work.is_removal_paused {
            return Vec::new();
        }
        let progress = self.shared.progress.borrow();
        let never = self.shared.mode == SyncMode::Never;
        let passed = work.removals.iter().take_while(|removal| never || removal.to <= progress.passed).count();
        let last_gone = |count: usize| {
            let whole = work.removals.iter().take(count).filter(|removal| removal.all_but.is_none());
            whole.map(|removal| removal.segment.number).fold(work.gone, u32::max)
        };
        let are_ready = |count: usize| {
            let gone = last_gone(count);
            let needed = |removal: &Removal| {
                let mut lost = progress.lost.iter().filter(|lost| lost.from < removal.to && removal.from < lost.to);
                lost.any(|lost| lost.segment > gone)
            };
            never || progress.lost.is_empty() || !work.removals.iter().take(count).any(needed)
        };
        // few at a time, as the folder is synced after each, and what is published waits meanwhile
        let ready = if never { passed } else { (1..=passed).find(|count| are_ready(*count)).unwrap_or(0) };
        let gone = last_gone(ready);
        (work.removing, work.gone) = (ready, gone);
        work.removals.drain(..ready).collect()
    }

    /// Syncs the directory: without that, a new segment may be missing after a crash of the
    /// machine.
    fn sync_directory(&mut self, newest: &SyncTarget) {
        match (self.sync)(&self.directory) {
            Ok(()) => self.shared.work().is_removal_paused = false,
            Err(error) => {
                self.shared.work().is_directory_dirty = true;
                self.fail(newest.segment, &format!("could not sync {}: {}", self.path.display(), describe(&error)));
            }
        }
    }

    fn sync(&mut self, target: SyncTarget) {
        let failed_before = self.shared.work().failed;
        if target.segment <= failed_before {
            // also an older one, if the folder could not be synced
            self.add_unsynced(target.segment);
        } else {
            let begun = Instant::now();
            let path = file_path(&self.path, target.segment);
            match (self.sync)(&target.file) {
                Ok(()) => {
                    self.shared.times.record(begun.elapsed());
                    self.rewrite_unsynced(&target);
                }
                Err(error) => {
                    self.fail(target.segment, &format!("could not sync {}: {}", path.display(), describe(&error)));
                }
            }
        }
        let failure = {
            let mut work = self.shared.work();
            if target.segment > work.failed {
                work.failure = None;
                self.shared.has_failure.store(false, Ordering::Relaxed);
            }
            work.failure.clone()
        };
        self.shared.progress.send_modify(|progress| match failure {
            Some(why) => progress.failed(target.segment, target.to, why),
            None => progress.synced(target.to),
        });
    }

    /// Writes the segments before the target again that could not be synced. If that fails, the target
    /// has failed, too, so that nothing is acknowledged as if what was noted before were on the disk.
    fn rewrite_unsynced(&mut self, target: &SyncTarget) {
        let (older, newer): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.unsynced).into_iter().partition(|it| it.number < target.segment);
        self.unsynced = newer;
        let mut failure = None;
        for UnsyncedSegment { number, attempts } in older {
            let rewritten = unsynced::rewrite(&self.path, number, &self.sync);
            let path = file_path(&self.path, number);
            let path = path.display();
            match rewritten.and_then(|()| (self.sync)(&self.directory)) {
                Ok(()) => {
                    tracing::info!(%path, "written again, after its sync had failed");
                    unsynced::unmark(&self.path, number);
                    self.shared.progress.send_modify(|progress| progress.lost.retain(|lost| lost.segment != number));
                }
                Err(error) if attempts + 1 < MAX_ATTEMPTS => {
                    self.unsynced.push(UnsyncedSegment { number, attempts: attempts + 1 });
                    failure = Some(format!("could not write {path} again: {}", describe(&error)));
                }
                Err(error) => tracing::error!(
                    %path, error = %describe(&error),
                    "cannot write a segment again whose sync failed: a crash of the machine may undo its last changes; \
                     the next start tries again"
                ),
            }
        }
        if let Some(why) = failure {
            self.fail(target.segment, &why);
        }
    }

    fn fail(&mut self, segment: u32, why: &str) {
        tracing::error!(error = %why, "sync failed; publishing is refused until a new segment is synced");
        let mut work = self.shared.work();
        work.failed = segment;
        work.failure = Some(why.into());
        self.shared.has_failure.store(true, Ordering::Relaxed);
        drop(work);
        self.shared.failure_notify.notify_one();
        self.add_unsynced(segment);
    }

    fn add_unsynced(&mut self, number: u32) {
        if self.unsynced.iter().all(|known| known.number != number) {
            unsynced::mark(&self.path, number);
            self.unsynced.push(UnsyncedSegment { number, attempts: 0 });
        }
    }

    /// Removes segments in their order. If the directory cannot be synced after one, the rest waits
    /// until it can, which the next write tries.
    fn remove(&mut self, removals: Vec<Removal>) {
        let mut removals = removals.into_iter();
        while let Some(Removal { segment, all_but, .. }) = removals.next() {
            let path = file_path(&self.path, segment.number);
            if let Some(keep) = all_but {
                self.strip(segment, &keep);
            } else {
                if let Err(error) = fs::remove_file(&path) {
                    let path = path.display();
                    tracing::warn!(%path, error = %describe(&error), "cannot remove a segment without live messages");
                }
                unsynced::unmark(&self.path, segment.number);
                self.unsynced.retain(|unsynced| unsynced.number != segment.number);
            }
            if self.shared.mode == SyncMode::Never {
                continue;
            }
            // Before the next removal: if the machine crashed, and a segment came back without the newer one
            // that has its finished messages, these would be delivered again.
            if let Err(error) = (self.sync)(&self.directory) {
                let path = self.path.display();
                tracing::warn!(%path, error = %describe(&error), "cannot sync the folder after a removal; the next one waits");
                let mut work = self.shared.work();
                (work.is_directory_dirty, work.is_removal_paused) = (true, true);
                for removal in removals.rev() {
                    work.removals.push_front(removal);
                }
                break;
            }
        }
        self.shared.work().removing = 0;
    }

    fn strip(&self, segment: Extent, keep: &[IdRange]) {
        let sync = |file: &File| if self.shared.mode == SyncMode::Never { Ok(()) } else { (self.sync)(file) };
        let stripped = strip(&self.path, segment.number, segment.end, keep, sync);
        if let Err(error) = &stripped {
            let path = file_path(&self.path, segment.number);
            let path = path.display();
            tracing::warn!(%path, error = %describe(error), "cannot remove finished messages from a segment; it keeps its size");
        }
        self.shared.work().stripped.push((segment.number, stripped));
    }
}
