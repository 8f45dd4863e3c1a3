//! Looking at messages: steps under the state's lock, in turns with reading and writing down what
//! they found, on a thread for work that blocks.
//!
//! ```text
//!  lock: state.peek() ─▶ runs ─▶ thread: read the log, write lines ─┬─▶ enough, or no more: answer
//!    ▲                                                              │
//!    └── position: after the last line; again if a body has moved ──┘
//! ```

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::Broker;
use super::log::DetachedReader;
use super::state::{Now, PeekError, PeekPosition, PeekSelection, PeekStep, PeekedRun, RunBodies};
use crate::io_error::describe;
use crate::proto::{PeekedMessage, excerpt};

/// Peeks at once, from the request until the answer is sent; each has about [`MAX_ANSWER`] bytes.
pub(super) const MAX_PEEKS: usize = 4;
/// The time that a peek waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an answer after which no further message is added.
const MAX_ANSWER: usize = 1 << 20;
/// Most steps for an answer, which may then have fewer messages than wanted.
const MAX_STEPS: usize = 100;
/// Most times in a row that bodies are looked for elsewhere.
const MAX_MOVES: u32 = 3;

/// A request to look at messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeekRequest {
    /// The messages.
    pub selection: PeekSelection,
    /// The position behind which to begin.
    pub after: Option<PeekPosition>,
    /// Maximum number of messages.
    pub limit: usize,
    /// Maximum bytes of each body; longer ones are cut.
    pub max_body: usize,
}

/// The answer: a line of JSON for each message.
#[derive(Debug)]
pub struct PeekAnswer {
    /// The lines.
    pub lines: Vec<u8>,
    /// The position of further messages; `None` if there are no more.
    pub next: Option<PeekPosition>,
    /// Counts the answer among those that are being sent.
    pub permit: OwnedSemaphorePermit,
}

/// The reason why a request to look at messages failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeekFailure {
    /// There is no such topic or channel, or the position is elsewhere.
    #[error("there is no such topic, channel or position")]
    Nothing(PeekError),
    /// Too many requests at once.
    #[error("too many requests at once: try again later")]
    Busy,
}

impl Broker {
    /// Looks at messages, and changes nothing. An answer has at most the wanted number of messages,
    /// and about a megabyte, unless its only message is longer. The lock is held for some hundred
    /// microseconds at a time.
    ///
    /// # Errors
    ///
    /// Fails if there is no such topic or channel, if the position is of another one, or if too many
    /// requests wait.
    pub async fn peek(&self, request: &PeekRequest) -> Result<PeekAnswer, PeekFailure> {
        let turn = tokio::time::timeout(TURN_TIMEOUT, self.peeks.clone().acquire_owned()).await;
        let permit = turn.ok().and_then(Result::ok).ok_or(PeekFailure::Busy)?;
        let mut lines = AnswerLines {
            out: Vec::new(),
            left: request.limit,
            after: request.after,
            max_body: request.max_body,
            reader: self.with_state(|state| state.detached_reader()),
            failed: None,
            moves: 0,
        };
        for _ in 0..MAX_STEPS {
            let now = self.now();
            let step = self.with_state(|state| state.peek(&request.selection, lines.after, lines.left, now));
            let PeekStep { runs, next } = step.map_err(PeekFailure::Nothing)?;
            let written = tokio::task::spawn_blocking(move || {
                let progress = lines.add(&runs, now);
                (lines, progress)
            });
            let progress;
            (lines, progress) = written.await.map_err(|_| PeekFailure::Busy)?;
            match progress {
                StepProgress::Again => {}
                StepProgress::Enough => break,
                StepProgress::AllAdded => {
                    lines.after = next;
                    if next.is_none() {
                        break;
                    }
                }
            }
        }
        Ok(PeekAnswer { lines: lines.out, next: lines.after, permit })
    }
}

/// The result of adding the runs of a step.
enum StepProgress {
    /// All were added.
    AllAdded,
    /// The answer is full.
    Enough,
    /// Bodies could not be read: they may have moved, so their place is asked for again.
    Again,
}

/// The lines of an answer in progress.
struct AnswerLines {
    out: Vec<u8>,
    /// Messages that may still be added.
    left: usize,
    /// The position behind the last message.
    after: Option<PeekPosition>,
    max_body: usize,
    reader: Option<DetachedReader>,
    /// The bodies that could not be read the last time, and the number of such times in a row.
    failed: Option<RunBodies>,
    moves: u32,
}

impl AnswerLines {
    /// Adds the messages of a step.
    fn add(&mut self, runs: &[PeekedRun], now: Now) -> StepProgress {
        for run in runs {
            let bodies = match run.bodies.read(run.skip, self.reader.as_mut()) {
                Ok(bodies) => bodies.map(Ok),
                Err(_) if self.may_have_moved(&run.bodies) => return StepProgress::Again,
                Err(error) => {
                    let reason = excerpt(describe(&error).as_bytes());
                    for index in run.skip..run.count {
                        self.add_message(run, index, Err(&reason), now);
                        if self.is_full() {
                            return StepProgress::Enough;
                        }
                    }
                    continue;
                }
            };
            self.moves = 0;
            for (index, body) in (run.skip..run.count).zip(bodies) {
                self.add_message(run, index, body, now);
                if self.is_full() {
                    return StepProgress::Enough;
                }
            }
        }
        StepProgress::AllAdded
    }

    /// True if bodies that cannot be read are worth another look at the state: they were relocated
    /// or finished meanwhile, unless they were there at the last look, too.
    fn may_have_moved(&mut self, bodies: &RunBodies) -> bool {
        let is_there_still = self.failed.as_ref() == Some(bodies);
        self.failed = Some(bodies.clone());
        self.moves += 1;
        !is_there_still && self.moves <= MAX_MOVES
    }

    fn is_full(&self) -> bool {
        self.left == 0 || self.out.len() >= MAX_ANSWER
    }

    /// Adds a message with its body, or with the reason why that cannot be read.
    fn add_message(&mut self, run: &PeekedRun, index: u32, body: Result<Bytes, &str>, now: Now) {
        let (body, error) = body.map_or_else(|reason| (Bytes::new(), Some(reason.to_owned())), |body| (body, None));
        let age = now.unix_nanos.saturating_sub(run.timestamp);
        let message = PeekedMessage {
            id: run.id(index).to_string(),
            state: run.state,
            timestamp: run.timestamp,
            age: Duration::from_nanos(u64::try_from(age).unwrap_or(0)),
            attempts: run.attempts,
            due_in: run.due_in_ms.map(Duration::from_millis),
            client: run.client.clone(),
            size: body.len() as u64,
            body: beginning(body, self.max_body),
            error,
        };
        message.write_line(&mut self.out);
        self.after = Some(run.position_after(index));
        self.left -= 1;
    }
}

/// The first `most` bytes of a body, or a few less: a character of UTF-8 is not split.
fn beginning(body: Bytes, most: usize) -> Bytes {
    let is_split = |end: &usize| body.get(*end).is_some_and(|byte| byte & 0xc0 == 0x80);
    let ends = (most.saturating_sub(3)..=most).rev();
    let end = ends.into_iter().find(|end| !is_split(end)).unwrap_or(most);
    if body.len() <= most { body } else { body.slice(..end) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::log::{DiskLog, LogOptions, SyncMode};
    use crate::broker::state::{BrokerState, SessionSettings, StateLimits};
    use crate::proto::{ChannelName, MessageId, PeekLine, PeekState, TopicName};

    const NOW: Now = Now { at: 0, unix_nanos: 1_700_000_000_000_000_000 };

    fn lines(state: &BrokerState, limit: usize) -> AnswerLines {
        let (out, reader) = (Vec::new(), state.detached_reader());
        AnswerLines { out, left: limit, after: None, max_body: usize::MAX, reader, failed: None, moves: 0 }
    }

    fn bodies(lines: &AnswerLines) -> Vec<Result<Bytes, String>> {
        let messages = lines.out.split_inclusive(|byte| *byte == b'\n').map(|line| match PeekLine::read(line) {
            Ok(PeekLine::Message(message)) => message.error.map_or(Ok(message.body), Err),
            other => panic!("{other:?}"),
        });
        messages.collect()
    }

    /// The messages are finished, or relocated, between the look at the state and the read of the
    /// log.
    #[test]
    fn bodies_whose_segment_has_gone_are_looked_for_again() {
        let directory = tempfile::tempdir().unwrap();
        let options = LogOptions {
            sync: SyncMode::Never,
            segment_bytes: 500,
            reserve_bytes: 0,
            ..LogOptions::new(directory.path())
        };
        let (log, recovered, _) = DiskLog::open(&options).unwrap();
        let limits = StateLimits { max_memory: 0, ..StateLimits::default() };
        let mut state = BrokerState::recover(limits, Box::new(log), recovered, NOW);
        let (topic, channel) = (TopicName::new("a").unwrap(), ChannelName::new("x").unwrap());
        state.create_channel(&topic, &channel, NOW);
        for number in 0..20_u32 {
            let body = Bytes::from(format!("{number:0100}"));
            state.publish(&topic, crate::proto::Bodies::one(body), None, NOW).unwrap();
        }
        let selection =
            PeekSelection { topic: topic.clone(), channel: Some(channel.clone()), state: PeekState::Waiting };
        let old = state.peek(&selection, None, 100, NOW).unwrap();
        assert!(old.runs.iter().all(|run| run.bodies.are_logged()));
        let files = || std::fs::read_dir(directory.path()).unwrap().count();
        let before = files();
        // all but the last are delivered and finished
        let id = state.connect(SessionSettings::default(), String::new(), 0, NOW);
        state.subscribe(id, &topic, &channel, NOW).unwrap();
        state.ready(id, 19, NOW);
        let ids: Vec<MessageId> = old.runs.iter().map(|run| run.id(0)).take(19).collect();
        state.close(id);
        ids.iter().for_each(|message| state.finish(id, message, NOW).unwrap());
        state.flush().unwrap();
        let begun = std::time::Instant::now();
        while files() + 3 > before {
            state.flush().unwrap();
            assert!(begun.elapsed() < Duration::from_secs(60), "{} of {before} files", files());
            std::thread::yield_now();
        }

        let mut lines = lines(&state, 100);
        assert!(matches!(lines.add(&old.runs, NOW), StepProgress::Again));
        assert!(lines.out.is_empty() && lines.after.is_none());
        let new = state.peek(&selection, lines.after, 100, NOW).unwrap();
        assert!(matches!(lines.add(&new.runs, NOW), StepProgress::AllAdded));
        assert_eq!(bodies(&lines), [Ok(Bytes::from(format!("{:0100}", 19)))]);
        // what stays where it is and cannot be read is said
        let mut lines = self::lines(&state, 2);
        assert!(matches!(lines.add(&old.runs, NOW), StepProgress::Again));
        assert!(matches!(lines.add(&old.runs, NOW), StepProgress::Again), "the second is looked for, too");
        assert!(matches!(&bodies(&lines)[..], [Err(_)]));
        assert!(matches!(lines.add(&old.runs[1..], NOW), StepProgress::Enough));
        assert!(matches!(&bodies(&lines)[..], [Err(_), Err(_)]));
    }

    #[test]
    fn a_cut_body_ends_with_a_whole_character() {
        let cut = |body: &'static [u8], most| beginning(Bytes::from_static(body), most);
        let text = "aü€😀".as_bytes();
        for (most, end) in [(0, 0), (1, 1), (2, 1), (3, 3), (5, 3), (6, 6), (9, 6), (10, 10), (99, 10)] {
            assert_eq!(cut(text, most), text[..end], "{most}");
        }
        assert_eq!(cut(&[0x80; 9], 5), [0x80; 5][..], "not UTF-8");
    }
}
