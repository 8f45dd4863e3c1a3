//! The data folder of an nsqd: its topics and channels, and the files of their queues. It is only
//! read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ImportError;
use super::report::Remark;
use crate::proto::{ChannelName, TopicName};

/// The file with nsqd's topics and channels.
pub(super) const METADATA: &str = "nsqd.dat";
/// Maximum bytes of that file: more than for a million channels.
const MAX_METADATA_BYTES: u64 = 256 << 20;
/// Maximum bytes of the file with a queue's positions, which has five numbers.
const MAX_POSITIONS_BYTES: u64 = 1024;
/// The part of a queue file's name between the queue's name and the file's number.
const INFIX: &str = ".diskqueue.";

/// A locked data folder of nsqd.
#[derive(Debug)]
pub(super) struct NsqdFolder {
    pub(super) path: PathBuf,
    pub(super) topics: BTreeMap<TopicName, NsqdTopic>,
    /// Held as long as the folder is used; nsqd holds it, too.
    _lock: File,
}

/// A topic.
#[derive(Debug, Default)]
pub(super) struct NsqdTopic {
    pub(super) paused: bool,
    pub(super) queue: Option<QueueFiles>,
    pub(super) channels: BTreeMap<ChannelName, NsqdChannel>,
}

/// A channel.
#[derive(Debug, Default)]
pub(super) struct NsqdChannel {
    pub(super) paused: bool,
    pub(super) queue: Option<QueueFiles>,
}

/// Files of a queue.
#[derive(Debug, Default)]
pub(super) struct QueueFiles {
    /// The queue's name in the names of its files.
    pub(super) name: String,
    pub(super) numbers: BTreeSet<u64>,
    /// True if there is a file with the positions.
    pub(super) has_positions: bool,
}

/// Positions of a queue, from its `.diskqueue.meta.dat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueuePositions {
    pub(super) depth: u64,
    pub(super) read_file: u64,
    pub(super) read_at: u64,
    pub(super) write_file: u64,
    pub(super) write_at: u64,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    topics: Option<Vec<TopicMetadata>>,
}

#[derive(Debug, Deserialize)]
struct TopicMetadata {
    name: String,
    #[serde(default)]
    paused: bool,
    channels: Option<Vec<ChannelMetadata>>,
}

#[derive(Debug, Deserialize)]
struct ChannelMetadata {
    name: String,
    #[serde(default)]
    paused: bool,
}

/// Kind of a file in nsqd's folder.
#[derive(Debug, PartialEq, Eq)]
enum FileKind<'a> {
    Metadata,
    Messages(&'a str, u64),
    Positions(&'a str),
    /// Messages that nsqd set aside.
    Bad,
}

impl FileKind<'_> {
    fn of(name: &str) -> Option<FileKind<'_>> {
        if name == METADATA {
            return Some(FileKind::Metadata);
        }
        let (queue, rest) = name.rsplit_once(INFIX)?;
        let number = |rest: &str| {
            // nsqd's are signed
            let number = rest.parse::<i64>().ok().and_then(|number| u64::try_from(number).ok())?;
            (format!("{number:06}") == rest).then_some(number)
        };
        match (rest.strip_suffix(".dat"), rest.strip_suffix(".dat.bad")) {
            (Some("meta"), _) => Some(FileKind::Positions(queue)),
            (Some(rest), _) => number(rest).map(|number| FileKind::Messages(queue, number)),
            (_, Some(rest)) => number(rest).map(|_| FileKind::Bad),
            (None, None) => None,
        }
    }
}

/// True if the folder has files of nsqd.
pub fn has_nsqd_files(path: &Path) -> bool {
    let Ok(entries) = fs::read_dir(path) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_str().and_then(FileKind::of).is_some())
}

impl NsqdFolder {
    /// Locks a folder and lists its contents; adds what is wrong with them to `remarks`.
    pub(super) fn open(path: &Path, remarks: &mut Vec<Remark>) -> Result<Self, ImportError> {
        let at = |source| ImportError::Io { path: path.into(), source };
        let lock = File::open(path).map_err(at)?;
        // shared, because a network file system locks a directory no other way; nsqd's is exclusive
        match lock.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ImportError::Running(path.into())),
            Err(TryLockError::Error(source)) => return Err(at(source)),
        }
        let mut folder = Self { path: path.into(), topics: BTreeMap::new(), _lock: lock };
        let mut queues: BTreeMap<String, QueueFiles> = BTreeMap::new();
        let (mut has_metadata, mut is_nsqds) = (false, false);
        for entry in fs::read_dir(path).map_err(at)? {
            let entry = entry.map_err(at)?;
            let name = entry.file_name();
            let Some(kind) = name.to_str().and_then(FileKind::of) else { continue };
            is_nsqds = true;
            if !fs::metadata(entry.path()).is_ok_and(|it| it.is_file()) {
                remarks.push(Remark::NoFile { file: name.to_string_lossy().into_owned() });
                continue;
            }
            match kind {
                FileKind::Metadata => has_metadata = true,
                FileKind::Messages(name, number) => {
                    queues.entry(name.to_owned()).or_default().numbers.insert(number);
                }
                FileKind::Positions(name) => queues.entry(name.to_owned()).or_default().has_positions = true,
                FileKind::Bad => remarks.push(Remark::SetAside { file: name.to_string_lossy().into_owned() }),
            }
        }
        if !is_nsqds {
            return Err(ImportError::NotNsqds(path.into()));
        }
        let is_known = folder.read_metadata(has_metadata, remarks)?;
        for (name, queue) in queues {
            folder.add_queue(QueueFiles { name, ..queue }, is_known, remarks);
        }
        Ok(folder)
    }

    /// Adds the topics and channels of nsqd.dat; false if it cannot be used.
    fn read_metadata(&mut self, is_there: bool, remarks: &mut Vec<Remark>) -> Result<bool, ImportError> {
        if !is_there {
            remarks.push(Remark::NoMetadata { error: "is missing".to_owned() });
            return Ok(false);
        }
        let path = self.path.join(METADATA);
        let bytes = read_start(&path, MAX_METADATA_BYTES).map_err(|source| ImportError::Io { path, source })?;
        let metadata = match serde_json::from_slice::<Metadata>(&bytes) {
            Ok(metadata) => metadata,
            Err(error) => {
                remarks.push(Remark::NoMetadata { error: format!("cannot be read ({error})") });
                return Ok(false);
            }
        };
        for topic in metadata.topics.into_iter().flatten() {
            let Ok(name) = TopicName::new(&topic.name) else {
                remarks.push(Remark::InvalidName { name: topic.name });
                continue;
            };
            if name.is_ephemeral() {
                continue;
            }
            let known = self.topics.entry(name).or_default();
            known.paused |= topic.paused;
            for channel in topic.channels.into_iter().flatten() {
                match ChannelName::new(&channel.name) {
                    Ok(name) if name.is_ephemeral() => {}
                    Ok(name) => known.channels.entry(name).or_default().paused |= channel.paused,
                    Err(_) => remarks.push(Remark::InvalidName { name: channel.name }),
                }
            }
        }
        Ok(true)
    }

    /// Adds a queue's files to their topic or channel.
    fn add_queue(&mut self, queue: QueueFiles, metadata_is_known: bool, remarks: &mut Vec<Remark>) {
        // nsqd on Windows writes a semicolon
        let (topic, channel) = match queue.name.split_once([':', ';']) {
            Some((topic, channel)) => (topic, Some(channel)),
            None => (&*queue.name, None),
        };
        let (Ok(topic), Ok(channel)) = (TopicName::new(topic), channel.map(ChannelName::new).transpose()) else {
            return remarks.push(Remark::InvalidName { name: queue.name });
        };
        let listed = self.topics.get(&topic);
        let is_listed =
            listed.is_some_and(|topic| channel.as_ref().is_none_or(|channel| topic.channels.contains_key(channel)));
        if metadata_is_known && !is_listed {
            remarks.push(Remark::NotListed { queue: queue.name.clone() });
        }
        let topic = self.topics.entry(topic).or_default();
        match channel {
            None => topic.queue = Some(queue),
            Some(channel) => topic.channels.entry(channel).or_default().queue = Some(queue),
        }
    }
}

impl QueueFiles {
    /// The name of a file with messages.
    pub(super) fn file_name(&self, number: u64) -> String {
        format!("{}{INFIX}{number:06}.dat", self.name)
    }

    /// The positions; `None` if they are missing or cannot be understood.
    pub(super) fn positions(&self, folder: &Path) -> io::Result<Option<QueuePositions>> {
        if !self.has_positions {
            return Ok(None);
        }
        let bytes = read_start(&folder.join(format!("{}{INFIX}meta.dat", self.name)), MAX_POSITIONS_BYTES)?;
        Ok(QueuePositions::parse(&bytes))
    }
}

impl QueuePositions {
    /// The number after that of the last file that must be there: files are created by the first
    /// message, and a queue without messages needs none.
    pub(super) fn end(&self) -> u64 {
        match (self.read_file, self.read_at) < (self.write_file, self.write_at) {
            true => self.write_file.saturating_add(u64::from(self.write_at > 0)),
            false => self.read_file,
        }
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.lines();
        let depth = lines.next()?.parse().ok()?;
        let mut pair = || {
            let (file, at) = lines.next()?.split_once(',')?;
            Some((file.parse().ok()?, at.parse().ok()?))
        };
        let ((read_file, read_at), (write_file, write_at)) = (pair()?, pair()?);
        Some(Self { depth, read_file, read_at, write_file, write_at })
    }
}

/// Reads at most `limit` bytes of a file.
fn read_start(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_nsqd_are_told_by_their_names() {
        for (name, expected) in [
            ("nsqd.dat", Some(FileKind::Metadata)),
            ("a.diskqueue.000000.dat", Some(FileKind::Messages("a", 0))),
            ("a.diskqueue.b:c.diskqueue.1000000.dat", Some(FileKind::Messages("a.diskqueue.b:c", 1_000_000))),
            ("a:b.diskqueue.meta.dat", Some(FileKind::Positions("a:b"))),
            ("a.diskqueue.000001.dat.bad", Some(FileKind::Bad)),
            ("a.diskqueue.meta.dat.123.tmp", None),
            ("nsqd.dat.77.tmp", None),
            ("a.diskqueue.99999999999999999999.dat", None),
            ("a.diskqueue.x.dat", None),
            ("a.diskqueue.1.dat", None),
            ("a.diskqueue.18446744073709551615.dat", None),
            ("0000000001.log", None),
        ] {
            assert_eq!(FileKind::of(name), expected, "{name}");
        }
    }

    #[test]
    fn files_up_to_the_last_message_must_be_there() {
        let end = |text: &str| QueuePositions::parse(text.as_bytes()).unwrap().end();
        assert_eq!(["0\n0,0\n0,0\n", "0\n4,9\n4,9\n", "3\n0,0\n2,0\n", "3\n0,0\n2,9\n"].map(end), [0, 4, 2, 3]);
    }

    #[test]
    fn positions_are_five_numbers() {
        let positions = QueuePositions { depth: 3, read_file: 0, read_at: 7, write_file: 1, write_at: 111 };
        assert_eq!(QueuePositions::parse(b"3\n0,7\n1,111\n"), Some(positions));
        for wrong in [&b""[..], b"3\n", b"3\n0,7\n", b"-3\n0,7\n1,1\n", b"3\n0 7\n1,1\n", b"\xff\n0,7\n1,1\n"] {
            assert_eq!(QueuePositions::parse(wrong), None, "{wrong:?}");
        }
    }
}
