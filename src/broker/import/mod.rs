//! Import of nsqd's data folder into a new log.
//!
//! ```text
//!  nsqd.dat ──────────────────────▶ topics, channels, pauses ─┐
//!  TOPIC.diskqueue.*  ────────────▶ messages of the topic ────┼─▶ log
//!  TOPIC:CHANNEL.diskqueue.* ─────▶ copies of the channel ────┘
//! ```
//!
//! The folder is locked as nsqd locks it, and only read. A topic's queues are read twice: once for
//! the copies of each message, and once for the bodies, which are written one at a time. So memory
//! is needed for ids only: 32 bytes for each copy of the largest topic, and some 16 for each
//! message.
//!
//! nsqd's ids are unique within their topic, and the log's are unique: a message whose id another
//! topic's message has gets a new one. The log cannot be opened until the import has ended.

mod copies;
mod folder;
mod queue;
mod queue_file;
mod report;

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use self::copies::CopyIndex;
pub use self::folder::has_nsqd_files;
use self::folder::{NsqdFolder, NsqdTopic};
use self::queue::QueueReader;
pub use self::report::{ImportReport, ImportedChannel, ImportedQueue, ImportedTopic};
use super::log::{
    Change, ChannelCopy, ChannelId, CopyRun, DiskLog, Log, LogOptions, MessageHolder, OpenError, PublishedBatch,
    Relocated, TopicId,
};
use super::state::wire_id::node_bits;
use crate::io_error::describe;
use crate::plural::count;
use crate::proto::{Bodies, TopicName};

/// Ids below are for messages that get a new one: nsqd's are far above, since they begin with the
/// time.
const NEW_IDS: u64 = 1 << 40;
/// Ids from this one on are not kept: nsqd's clock was before 2010, or bytes are damaged.
const MAX_IDS: u64 = 1 << 63;
/// Interval between lines about the progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// Error of an import. What was written until then is not taken for a log.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// nsqd has locked the folder.
    #[error("{} is in use: stop its nsqd first", .0.display())]
    Running(PathBuf),
    /// The folder has no files of nsqd.
    #[error("{} has no files of nsqd (nsqd.dat, *.diskqueue.*): name nsqd's data path", .0.display())]
    NotNsqds(PathBuf),
    /// The log would be in nsqd's folder.
    #[error("{} is in nsqd's folder, which is only read: name another data path", .0.display())]
    SameFolder(PathBuf),
    /// The log cannot be created.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// A file or folder cannot be used.
    #[error("cannot read {}: {}", path.display(), describe(source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The log cannot be written.
    #[error("cannot write to {}: {}: fix that, and run the import again", path.display(), describe(source))]
    Write {
        /// The log's folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Imports the data folder of an nsqd into a new log. When this returns, the log is synced.
///
/// Reads and writes files without yielding. Messages keep their ids for a broker with this
/// [`node_id`](super::state::StateLimits::node_id).
///
/// # Errors
///
/// Fails if the folder is in use or cannot be read, if the log has topics already, or if it cannot
/// be written. Damaged files are no error: the report names them.
pub async fn import(from: &Path, options: &LogOptions, node_id: u16) -> Result<ImportReport, ImportError> {
    let mut report = ImportReport::default();
    let folder = NsqdFolder::open(from, &mut report.remarks)?;
    if is_inside(&options.path, from).map_err(|source| ImportError::Io { path: from.into(), source })? {
        return Err(ImportError::SameFolder(options.path.clone()));
    }
    let log = DiskLog::begin_import(options)?;
    let written = |source| ImportError::Write { path: options.path.clone(), source };
    let (ids, logged) = (NewIds { node_bits: node_bits(node_id), ..NewIds::default() }, Instant::now());
    let mut import = Import { log, options, next_number: 1, ids, report, written: 0, logged };
    for (name, topic) in &folder.topics {
        import.topic(&folder.path, name, topic)?;
    }
    import.log.end_import().await.map_err(written)?;
    Ok(import.report)
}

/// True if `path`, which may not exist, is `folder` or below it.
fn is_inside(path: &Path, folder: &Path) -> io::Result<bool> {
    let path = std::path::absolute(path)?;
    let existing = path.ancestors().find_map(|ancestor| ancestor.canonicalize().ok());
    Ok(existing.is_some_and(|existing| folder.canonicalize().is_ok_and(|folder| existing.starts_with(folder))))
}

/// An import in progress.
struct Import<'a> {
    log: DiskLog,
    options: &'a LogOptions,
    /// The number that the next topic or channel gets.
    next_number: u32,
    ids: NewIds,
    report: ImportReport,
    /// Messages written so far, and when their number was last logged.
    written: u64,
    logged: Instant,
}

impl Import<'_> {
    fn topic(&mut self, folder: &Path, name: &TopicName, topic: &NsqdTopic) -> Result<(), ImportError> {
        let id = TopicId(self.number());
        self.log.note(&Change::TopicCreated(id, name.clone()));
        if topic.paused {
            self.log.note(&Change::TopicPaused(id, true));
        }
        let mut imported = ImportedTopic {
            name: name.clone(),
            paused: topic.paused,
            queue: ImportedQueue::default(),
            channels: vec![],
        };
        let mut numbers = Vec::new();
        for (name, channel) in &topic.channels {
            let number = ChannelId(self.number());
            self.log.note(&Change::ChannelCreated(id, number, name.clone()));
            if channel.paused {
                self.log.note(&Change::ChannelPaused(number, true));
            }
            numbers.push(number);
            let (name, paused) = (name.clone(), channel.paused);
            imported.channels.push(ImportedChannel { name, paused, queue: ImportedQueue::default() });
        }
        self.channels(folder, topic, id, &numbers, &mut imported)?;
        self.held(folder, topic, id, &mut imported)?;
        self.log.flush().map_err(|source| self.failed(source))?;
        self.report.topics.push(imported);
        Ok(())
    }

    /// Imports the messages of a topic's channels.
    fn channels(
        &mut self,
        folder: &Path,
        topic: &NsqdTopic,
        id: TopicId,
        numbers: &[ChannelId],
        imported: &mut ImportedTopic,
    ) -> Result<(), ImportError> {
        let mut remarks = std::mem::take(&mut self.report.remarks);
        let mut index = CopyIndex::default();
        let queues = || (0..).zip(topic.channels.values()).filter_map(|(n, it)| Some((n, it.queue.as_ref()?)));
        for (channel, files) in queues() {
            let mut queue = QueueReader::open(folder, files, &mut remarks)?;
            while let Some(head) = queue.next(&mut remarks)? {
                queue.skip_body(&head, &mut remarks);
                index.add(channel, head);
            }
        }
        index.sort();
        // the second reading finds the same again, and bodies that the disk cannot read
        let mut again = Vec::new();
        for (_, files) in queues() {
            let mut queue = QueueReader::open(folder, files, &mut again)?;
            while let Some(head) = queue.next(&mut again)? {
                let Some(copies) = index.unwritten(&head) else {
                    queue.skip_body(&head, &mut again);
                    continue;
                };
                let Some(body) = queue.body(&head, &mut again) else { continue };
                let run = |channel: u32, attempts| CopyRun {
                    copy: ChannelCopy { channel: numbers[channel as usize], attempts, due: None },
                    index: 0,
                    count: 1,
                };
                let runs: Vec<CopyRun> = copies.iter().map(|copy| run(copy.channel, copy.attempts())).collect();
                copies.iter().for_each(|copy| imported.channels[copy.channel as usize].queue.add(head.length));
                let message = Relocated {
                    from: None,
                    topic: id,
                    first: self.ids.id(head.id),
                    timestamp: head.timestamp,
                    due: None,
                    holder: MessageHolder::Channels,
                    copies: &runs,
                    bodies: &Bodies::one(body),
                };
                self.log.relocate(&message).map_err(|source| self.failed(source))?;
                index.set_written(&head);
                self.log_progress();
            }
        }
        let more = again.into_iter().filter(|remark| !remarks.contains(remark)).collect::<Vec<_>>();
        remarks.extend(more);
        self.report.remarks = remarks;
        Ok(())
    }

    /// Imports the messages that the topic itself holds.
    fn held(
        &mut self,
        folder: &Path,
        topic: &NsqdTopic,
        id: TopicId,
        imported: &mut ImportedTopic,
    ) -> Result<(), ImportError> {
        let Some(files) = &topic.queue else { return Ok(()) };
        let mut remarks = std::mem::take(&mut self.report.remarks);
        let mut queue = QueueReader::open(folder, files, &mut remarks)?;
        while let Some(head) = queue.next(&mut remarks)? {
            let Some(body) = queue.body(&head, &mut remarks) else { continue };
            imported.queue.add(head.length);
            let message = PublishedBatch {
                topic: id,
                first: self.ids.id(head.id),
                timestamp: head.timestamp,
                due: None,
                holder: MessageHolder::Topic,
                parts: &[Bodies::one(body)],
            };
            self.log.publish(&message).map_err(|source| self.failed(source))?;
            self.log_progress();
        }
        self.report.remarks = remarks;
        Ok(())
    }

    /// Counts a message that was written; now and then logs how many there are.
    fn log_progress(&mut self) {
        self.written += 1;
        if self.logged.elapsed() >= PROGRESS_INTERVAL {
            self.logged = Instant::now();
            tracing::info!("{} imported so far", count(self.written, "message"));
        }
    }

    fn failed(&self, source: io::Error) -> ImportError {
        ImportError::Write { path: self.options.path.clone(), source }
    }

    /// Takes the next number for a topic or a channel.
    fn number(&mut self) -> u32 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }
}

/// Ids of the log: nsqd's, unless another message has it.
#[derive(Debug, Default)]
struct NewIds {
    used: HashSet<u64>,
    /// The last id that is none of nsqd's.
    last_new: u64,
    /// The bits that the broker adds to an id of the log for its clients.
    node_bits: u64,
}

impl NewIds {
    fn id(&mut self, of_nsqd: u64) -> u64 {
        let id = of_nsqd ^ self.node_bits;
        if (NEW_IDS..MAX_IDS).contains(&id) && self.used.insert(id) {
            return id;
        }
        self.last_new += 1;
        self.last_new
    }
}

#[cfg(test)]
mod tests;
