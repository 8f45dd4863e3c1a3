//! The source of messages: generated, or read from input.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::SystemTime;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::event::EventGenerator;
use super::reader::ReadPiece;
use super::stats::ProducerStats;

/// Limit on the bytes of messages taken together, which the last one may exceed: one command to
/// nsqd.
const MAX_BYTES_TOGETHER: usize = 128 * 1024;

/// A source of messages, in order.
#[derive(Debug)]
pub(super) enum MessageSource {
    /// The events of one or several tasks, in turn.
    Events(VecDeque<EventGenerator>),
    /// Records of the input.
    Input(RecordInput),
}

/// The input, as it arrives from the reader thread.
#[derive(Debug)]
pub(super) struct RecordInput {
    pieces: mpsc::Receiver<ReadPiece>,
    /// Records not taken yet.
    rest: VecDeque<Bytes>,
    stats: Rc<ProducerStats>,
}

impl MessageSource {
    /// Takes at least one message and at most `most`; `None` at the end. Cancel-safe.
    pub(super) async fn take(&mut self, most: u64) -> Option<Vec<Bytes>> {
        match self {
            Self::Events(tasks) => {
                let mut bytes = 0;
                let mut bodies = Vec::new();
                while bodies.len() as u64 != most && bytes < MAX_BYTES_TOGETHER {
                    let body = next_event(tasks)?;
                    bytes += body.len();
                    bodies.push(body);
                }
                Some(bodies)
            }
            Self::Input(input) => input.take(most).await,
        }
    }

    /// Waits for a message or the end of the source, without taking anything; returns true for a
    /// message. Cancel-safe.
    pub(super) async fn has_more(&mut self) -> bool {
        match self {
            Self::Events(_) => true,
            Self::Input(input) => input.fill().await.is_some(),
        }
    }

    /// Splits the source into one for each task.
    pub(super) fn split(self) -> Vec<Self> {
        match self {
            Self::Events(tasks) => tasks.into_iter().map(|task| Self::Events([task].into())).collect(),
            Self::Input(_) => vec![self],
        }
    }

    /// Returns the name of the message taken last: `task 1 seq 7`.
    pub(super) fn name_of_last(&self) -> String {
        match self {
            Self::Events(tasks) => tasks.back().map(EventGenerator::name_of_last).unwrap_or_default(),
            Self::Input(_) => "a message".to_owned(),
        }
    }
}

fn next_event(tasks: &mut VecDeque<EventGenerator>) -> Option<Bytes> {
    let mut task = tasks.pop_front()?;
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let body = task.make(since_1970.as_nanos());
    tasks.push_back(task);
    Some(body)
}

impl RecordInput {
    /// Makes an input from the reader's pieces; counts skipped and unreadable input in `stats`.
    pub(super) fn new(pieces: mpsc::Receiver<ReadPiece>, stats: Rc<ProducerStats>) -> Self {
        Self { pieces, rest: VecDeque::new(), stats }
    }

    /// Waits until there are records; `None` at the end of all inputs.
    async fn fill(&mut self) -> Option<()> {
        while self.rest.is_empty() {
            match self.pieces.recv().await? {
                ReadPiece::Cut(cut, bytes) => {
                    self.stats.read(bytes, cut.empty, cut.too_long);
                    self.rest = cut.records.into();
                }
                ReadPiece::Failed(why) => self.stats.unreadable(&why),
            }
        }
        Some(())
    }

    async fn take(&mut self, most: u64) -> Option<Vec<Bytes>> {
        self.fill().await?;
        let mut bytes = 0;
        let fits = |record: &&Bytes| {
            let fits = bytes < MAX_BYTES_TOGETHER;
            bytes += record.len();
            fits
        };
        let count = self.rest.iter().take(usize::try_from(most).unwrap_or(usize::MAX)).take_while(fits).count();
        let rest = self.rest.split_off(count);
        Some(std::mem::replace(&mut self.rest, rest).into())
    }
}
