//! The messages of a recording that are wanted: read on a thread, block by block.

use std::collections::{HashSet, VecDeque};
use std::path::Path;

use tokio::sync::mpsc;

use crate::commands::common::body_pattern::BodyPattern;
use crate::commands::common::recording::{
    DamagedPart, RecordingError, SegmentFile, SegmentReader, TimeRange, segments,
};
use mqueue::proto::{Message, MessageId, TopicName};

/// Blocks that wait to be published.
const QUEUED_BLOCKS: usize = 4;
/// Messages among which one that was recorded twice is noticed.
const KNOWN_MESSAGES: usize = 200_000;

/// The selection by time and body.
#[derive(Debug, Clone)]
pub(super) struct ReplaySelection {
    pub(super) times: TimeRange,
    pub(super) grep: Option<BodyPattern>,
}

/// A part of a recording.
#[derive(Debug)]
pub(super) enum ReplayPart {
    /// The selected messages of a block, in the order of their publish times, the number of its other
    /// messages, and how many of these were selected before.
    Block {
        selected: Vec<Message>,
        others: u64,
        twice: u64,
    },
    Damaged(DamagedPart),
    Failed(RecordingError),
}

/// An opened recording.
#[derive(Debug)]
pub(super) struct OpenedRecording {
    pub(super) stream: TopicName,
    pub(super) segments: Vec<SegmentFile>,
}

impl OpenedRecording {
    /// Lists the segments of the folder, and reads the name of the stream.
    ///
    /// # Errors
    /// The folder has no segments that can be read.
    pub(super) fn open(folder: &Path) -> Result<Self, RecordingError> {
        let segments = segments(folder)?;
        let mut first_error = None;
        for segment in &segments {
            match SegmentReader::open(&segment.path) {
                Ok(reader) => return Ok(Self { stream: reader.stream().clone(), segments }),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(first_error.unwrap_or_else(|| RecordingError::Empty(folder.to_owned())))
    }

    /// Counts the messages of blocks that may have selected ones: those that are read.
    pub(super) fn expected(&self, selection: &ReplaySelection) -> u64 {
        let opened = self.segments.iter().filter_map(|segment| SegmentReader::open(&segment.path).ok());
        let wanted = opened.filter(|reader| is_wanted(reader, selection));
        let blocks = wanted.filter_map(|reader| reader.blocks().ok()).flat_map(|found| found.blocks);
        blocks.filter(|block| block.times.meets(selection.times)).map(|block| u64::from(block.count)).sum()
    }

    /// Starts a thread that reads the selected messages. It ends when the receiver is dropped.
    pub(super) fn read(self, selection: ReplaySelection) -> std::io::Result<mpsc::Receiver<ReplayPart>> {
        let (sender, receiver) = mpsc::channel(QUEUED_BLOCKS);
        std::thread::Builder::new().name("recording".to_owned()).spawn(move || {
            let mut known = KnownMessages::default();
            for segment in self.segments {
                if read_segment(&segment.path, &selection, &mut known, &sender).is_none() {
                    return;
                }
            }
        })?;
        Ok(receiver)
    }
}

fn is_wanted(reader: &SegmentReader, selection: &ReplaySelection) -> bool {
    reader.summary().is_none_or(|(times, _)| times.meets(selection.times))
}

/// Reads a segment; `None` if nobody waits for it.
fn read_segment(
    path: &Path,
    selection: &ReplaySelection,
    known: &mut KnownMessages,
    sender: &mpsc::Sender<ReplayPart>,
) -> Option<()> {
    let send = |part| sender.blocking_send(part).ok();
    let found = SegmentReader::open(path).and_then(|reader| match is_wanted(&reader, selection) {
        true => reader.blocks().map(|found| Some((reader, found))),
        false => Ok(None),
    });
    let (reader, found) = match found {
        Ok(Some(found)) => found,
        Ok(None) => return Some(()),
        Err(error) => return send(ReplayPart::Failed(error)),
    };
    for damaged in found.damaged {
        send(ReplayPart::Damaged(damaged))?;
    }
    for block in found.blocks.iter().filter(|block| block.times.meets(selection.times)) {
        let messages = match reader.messages(block) {
            Ok(messages) => messages,
            Err(damaged) => {
                send(ReplayPart::Damaged(damaged))?;
                continue;
            }
        };
        let read = messages.len() as u64;
        let mut selected = selection.of(messages);
        let before = selected.len();
        selected.retain(|message| known.is_new(message));
        let twice = (before - selected.len()) as u64;
        let others = read - selected.len() as u64;
        send(ReplayPart::Block { selected, others, twice })?;
    }
    Some(())
}

impl ReplaySelection {
    /// Returns the wanted messages, in the order of their publish times.
    fn of(&self, mut messages: Vec<Message>) -> Vec<Message> {
        messages.retain(|message| {
            self.times.has(message.timestamp) && self.grep.as_ref().is_none_or(|grep| grep.matches(&message.body))
        });
        messages.sort_by_key(|message| message.timestamp);
        messages
    }
}

/// Messages that were read: a killed recorder has nsqd deliver some of its messages again.
#[derive(Debug, Default)]
struct KnownMessages {
    known: HashSet<(MessageId, i64)>,
    oldest: VecDeque<(MessageId, i64)>,
}

impl KnownMessages {
    /// Notes a message; returns false if it is known.
    fn is_new(&mut self, message: &Message) -> bool {
        let key = (message.id, message.timestamp);
        if !self.known.insert(key) {
            return false;
        }
        self.oldest.push_back(key);
        if self.oldest.len() > KNOWN_MESSAGES
            && let Some(oldest) = self.oldest.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, SystemTime};

    use super::*;
    use crate::commands::common::recording::RecordingFolder;

    fn message(n: u64) -> Message {
        let mut id = MessageId(*b"0000000000000000");
        id.0[..8].copy_from_slice(&n.to_be_bytes());
        let body = format!("{{\"number\":{n},\"text\":\"{:0>160}\"}}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Message { timestamp: n as i64 * 360_000, attempts: 1, id, body: body.into() }
    }

    fn write(folder: &Path, messages: u64, of_block: u64, of_segment: u64) {
        let (mut folder, _) = RecordingFolder::open(folder, &"foo".parse().unwrap()).unwrap();
        for segment in 0..messages.div_ceil(of_segment) {
            let mut writer = folder.begin(SystemTime::now()).unwrap();
            let end = messages.min((segment + 1) * of_segment);
            for start in (segment * of_segment..end).step_by(of_block as usize) {
                writer.append(&(start..end.min(start + of_block)).map(message).collect::<Vec<_>>()).unwrap();
            }
            writer.finish().unwrap();
        }
    }

    fn read(folder: &Path, first: u64, last: u64) -> (Vec<Message>, u64) {
        let times = TimeRange { first: message(first).timestamp, last: message(last).timestamp };
        let mut parts = OpenedRecording::open(folder).unwrap().read(ReplaySelection { times, grep: None }).unwrap();
        let (mut messages, mut all_others) = (Vec::new(), 0);
        while let Some(part) = parts.blocking_recv() {
            let ReplayPart::Block { selected, others, .. } = part else { panic!("{part:?}") };
            messages.extend(selected);
            all_others += others;
        }
        (messages, all_others)
    }

    #[test]
    fn only_blocks_with_a_selected_time_are_read() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 1000, 10, 250);
        let (messages, others) = read(folder.path(), 244, 256);
        assert_eq!(messages, (244..=256).map(message).collect::<Vec<_>>());
        assert_eq!(others, 7, "of the two blocks, on both sides of the border of segments");
        assert_eq!(read(folder.path(), 0, 999).0.len(), 1000);
        assert_eq!(read(folder.path(), 1000, 2000), (Vec::new(), 0));
    }

    /// A recording of an hour, 10 million messages of 200 bytes.
    #[test]
    #[ignore = "writes 10 million messages: run it by hand, with --nocapture for the times"]
    #[allow(clippy::print_stderr, reason = "the times are what it is run for")]
    fn ten_million_messages_are_searched_by_time_within_a_second() {
        let folder = tempfile::tempdir().unwrap();
        let count = 10_000_000;
        write(folder.path(), count, 1000, 1_500_000);
        for n in [0, count / 2, count - 1] {
            let start = Instant::now();
            let (messages, _) = read(folder.path(), n, n);
            let took = start.elapsed();
            eprintln!("message {n} of {count} found after {took:?}");
            assert!(messages == [message(n)] && took.as_secs_f64() < 1.0, "{took:?}");
        }
    }
}
