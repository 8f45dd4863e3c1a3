//! The thread that writes a recording: blocking work, which must not delay heartbeats.
//!
//! It gathers messages until a block is full, half of those in flight are here, or the first has
//! waited for the sync interval; writes and syncs the block; and then answers its messages.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::commands::common::notice::Notice;
use crate::commands::common::recording::{RecordingError, RecordingFolder, SegmentWriter, uncompressed_bytes};
use mqueue::handler::{Handler, Verdict};
use mqueue::proto::Message;

/// Uncompressed bytes of a block, which its last message may exceed.
const BLOCK_BYTES: usize = 1 << 20;
/// Longest time between two looks for old segments.
const KEEP_INTERVAL: Duration = Duration::from_secs(10);

/// Sizes and times of a recording.
#[derive(Debug, Clone, Copy)]
pub(super) struct RecordingLimits {
    pub(super) keep_age: Option<Duration>,
    pub(super) keep_bytes: Option<u64>,
    pub(super) segment_bytes: u64,
    pub(super) segment_age: Option<Duration>,
    pub(super) sync_interval: Duration,
    /// Messages that are written without waiting for more.
    pub(super) block_messages: usize,
}

/// A message, and where to send its verdict.
type QueuedMessage = (Message, oneshot::Sender<Verdict>);

/// An entry of the thread's queue.
enum RecordingJob {
    Message(QueuedMessage),
    /// Writes what has gathered, and from now on everything at once.
    Hurry,
    /// Finishes the segment, and ends.
    Finish(oneshot::Sender<std::io::Result<()>>),
}

/// The handler: hands messages to the thread.
#[derive(Debug)]
pub(super) struct RecordHandler {
    jobs: mpsc::Sender<RecordingJob>,
    recorded: Arc<AtomicU64>,
}

impl RecordHandler {
    /// The number of messages that are on disk.
    pub(super) fn recorded(&self) -> u64 {
        self.recorded.load(Ordering::Relaxed)
    }

    /// Finishes the last segment.
    ///
    /// # Errors
    /// Its index cannot be written. The next recorder writes it.
    pub(super) async fn finish(&self) -> std::io::Result<()> {
        let (answer, finished) = oneshot::channel();
        let _ = self.jobs.send(RecordingJob::Finish(answer));
        finished.await.unwrap_or_else(|_| Err(std::io::Error::other("the thread that writes has failed")))
    }
}

impl Handler for RecordHandler {
    async fn handle(&self, message: Message) -> Verdict {
        let (answer, verdict) = oneshot::channel();
        let _ = self.jobs.send(RecordingJob::Message((message, answer)));
        verdict.await.unwrap_or_else(|_| unavailable("the thread that writes has failed"))
    }
}

fn unavailable(why: impl ToString) -> Verdict {
    Verdict::Unavailable { after: None, why: why.to_string() }
}

/// The thread's state.
pub(super) struct RecordingThread {
    folder: RecordingFolder,
    limits: RecordingLimits,
    jobs: mpsc::Receiver<RecordingJob>,
    segment: Option<(SegmentWriter, Instant)>,
    gathered: Vec<QueuedMessage>,
    gathered_bytes: usize,
    /// The time at which the gathered messages are written.
    due: Option<Instant>,
    next_look: Instant,
    recorded: Arc<AtomicU64>,
    failing: Notice,
}

impl RecordingThread {
    /// Starts the thread. Once `draining` is cancelled, messages are written at once.
    pub(super) fn start(
        folder: RecordingFolder,
        limits: RecordingLimits,
        draining: &CancellationToken,
    ) -> std::io::Result<RecordHandler> {
        let (jobs, queue) = mpsc::channel();
        let recorded = Arc::new(AtomicU64::new(0));
        let thread = Self {
            folder,
            limits,
            jobs: queue,
            segment: None,
            gathered: Vec::new(),
            gathered_bytes: 0,
            due: None,
            next_look: Instant::now(),
            recorded: recorded.clone(),
            failing: Notice::default(),
        };
        std::thread::Builder::new().name("recording".to_owned()).spawn(move || thread.run())?;
        let (hurry, draining) = (jobs.clone(), draining.clone());
        tokio::spawn(async move {
            draining.cancelled().await;
            let _ = hurry.send(RecordingJob::Hurry);
        });
        Ok(RecordHandler { jobs, recorded })
    }

    fn run(mut self) {
        loop {
            let wake = self.due.unwrap_or(self.next_look);
            match self.jobs.recv_timeout(wake.saturating_duration_since(Instant::now())) {
                Ok(RecordingJob::Message(message)) => self.gather(message),
                Ok(RecordingJob::Hurry) => {
                    self.limits.sync_interval = Duration::ZERO;
                    self.due = self.due.map(|_| Instant::now());
                }
                Ok(RecordingJob::Finish(answer)) => {
                    self.write();
                    let _ = answer.send(self.segment.take().map_or(Ok(()), |(segment, _)| segment.finish()));
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let now = Instant::now();
            let is_full = self.gathered.len() >= self.limits.block_messages || self.gathered_bytes >= BLOCK_BYTES;
            if is_full || self.due.is_some_and(|due| due <= now) {
                self.write();
            }
            if self.next_look <= now {
                self.next_look = now + KEEP_INTERVAL;
                self.rotate();
                self.remove_old();
            }
        }
    }

    fn gather(&mut self, message: QueuedMessage) {
        self.due.get_or_insert_with(|| Instant::now() + self.limits.sync_interval);
        self.gathered_bytes += uncompressed_bytes(&message.0);
        self.gathered.push(message);
    }

    /// Writes the gathered messages, and answers them.
    fn write(&mut self) {
        (self.gathered_bytes, self.due) = (0, None);
        if self.gathered.is_empty() {
            return;
        }
        let (messages, answers): (Vec<_>, Vec<_>) = std::mem::take(&mut self.gathered).into_iter().unzip();
        let verdict = match self.append(&messages) {
            Ok(()) => {
                self.recorded.fetch_add(messages.len() as u64, Ordering::Relaxed);
                if self.failing.ends() {
                    tracing::info!("messages are recorded again");
                }
                Verdict::done()
            }
            Err(error) => {
                if self.failing.begins() {
                    tracing::error!("cannot record messages, they stay in their group and are tried again: {error}");
                }
                unavailable(error)
            }
        };
        for answer in answers {
            // its handler may have been dropped: the message is recorded all the same
            let _ = answer.send(verdict.clone());
        }
        self.rotate();
    }

    fn append(&mut self, messages: &[Message]) -> Result<(), RecordingError> {
        if self.segment.is_none() {
            self.segment = Some((self.folder.begin(SystemTime::now())?, Instant::now()));
        }
        let Some((segment, _)) = &mut self.segment else { return Ok(()) };
        let path = segment.path().to_owned();
        segment.append(messages).map_err(|error| {
            // what a failed sync has left in the file is unknown: the next block goes to a new one
            if let Some((segment, _)) = self.segment.take()
                && let Err(error) = segment.give_up()
            {
                tracing::debug!("{} is not complete: {error}", path.display());
            }
            RecordingError::Io { path, error }
        })
    }

    /// Finishes the segment if it is large or old enough.
    fn rotate(&mut self) {
        let limits = self.limits;
        let is_due = |(segment, begun): &mut (SegmentWriter, Instant)| {
            segment.length() >= limits.segment_bytes || limits.segment_age.is_some_and(|age| begun.elapsed() >= age)
        };
        if let Some((segment, _)) = self.segment.take_if(is_due) {
            let path = segment.path().to_owned();
            if let Err(error) = segment.finish() {
                tracing::warn!("{} has no index, and is searched more slowly: {error}", path.display());
            }
            self.remove_old();
        }
    }

    /// Removes segments beyond the limits.
    fn remove_old(&self) {
        let current = self.segment.as_ref().map(|(segment, _)| segment.path());
        let removed = self.removed_by_size(current).and_then(|some| Ok(some + self.removed_by_age(current)?));
        match removed {
            Ok(0) => {}
            Ok(removed) => tracing::info!("{} removed (--keep)", mqueue::plural::count(removed, "old segment")),
            Err(error) => tracing::warn!("old segments cannot be removed: {error}"),
        }
    }

    fn removed_by_size(&self, current: Option<&Path>) -> Result<usize, RecordingError> {
        self.limits.keep_bytes.map_or(Ok(0), |most| self.folder.keep_bytes(most, current))
    }

    fn removed_by_age(&self, current: Option<&Path>) -> Result<usize, RecordingError> {
        let Some(age) = self.limits.keep_age else { return Ok(0) };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = i64::try_from(now.saturating_sub(age).as_nanos()).unwrap_or(i64::MAX);
        self.folder.keep_since(since, current)
    }
}
