//! Publishes the messages of a recording when they are due.

use std::time::{Duration, Instant};

use bytes::Bytes;
use indicatif::ProgressBar;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::mark::marked;
use super::pace::ReplaySchedule;
use super::selection::ReplayPart;
use super::shown;
use crate::commands::common::exit::{Exit, Failure};
use crate::commands::common::precise_timer::PreciseTimer;
use crate::commands::common::recording::TimeRange;
use crate::commands::replay::args::{Args, ReplayMark, ReplaySpeed};
use mqueue::client::{PublishError, PublishManyError, Publisher};
use mqueue::plural::count;
use mqueue::proto::{Message, TopicName};

/// Batches that are unacknowledged at once.
const MAX_BATCHES: usize = 64;
/// Messages of a batch.
const BATCH_MESSAGES: usize = 1000;
/// Bytes of a batch, which its last message may exceed.
const BATCH_BYTES: usize = 1 << 20;
/// Time between two lines about the progress, where there is no bar.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Damaged parts and messages that are named one by one.
const MAX_NAMED: u64 = 20;

/// Counts of a replay.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct ReplayTotals {
    pub(super) published: u64,
    pub(super) bytes: u64,
    /// The publish times of the published messages.
    pub(super) times: Option<TimeRange>,
    /// Messages that were recorded twice, and published once.
    twice: u64,
    failed: u64,
    damaged: u64,
}

impl ReplayTotals {
    /// Takes a part of the recording; returns its selected messages, and names damage.
    pub(super) fn take(&mut self, part: ReplayPart) -> Vec<Message> {
        let line = match part {
            ReplayPart::Block { selected, twice, .. } => {
                self.twice += twice;
                return selected;
            }
            ReplayPart::Damaged(damaged) => damaged.to_string(),
            ReplayPart::Failed(error) => error.to_string(),
        };
        self.damaged += 1;
        if self.damaged <= MAX_NAMED {
            tracing::warn!("{line}; the rest is read");
        }
        Vec::new()
    }

    /// Counts a published message.
    pub(super) fn published(&mut self, message: &Message) {
        self.published += 1;
        self.bytes += message.body.len() as u64;
        let time = TimeRange::of(message.timestamp);
        self.times = Some(self.times.map_or(time, |times| times.with(time)));
    }

    /// Names a message that was not published.
    fn failed(&mut self, message: &Message, why: &str) {
        self.failed += 1;
        if self.failed <= MAX_NAMED {
            let (id, size) = (message.id, count(message.body.len(), "byte"));
            tracing::warn!("message {id} of {} ({size}) is not published: {why}", shown(message.timestamp));
        }
    }

    /// Returns true if something is missing in the stream.
    pub(super) fn is_incomplete(&self) -> bool {
        self.failed > 0 || self.damaged > 0
    }

    /// Logs the totals.
    pub(super) fn log(&self, target: &TopicName) {
        let mut text = format!("{} published to {target}", count(self.published, "message"));
        let others = [
            (self.twice, "recorded twice and published once"),
            (self.failed, "not published"),
            (self.damaged, "damaged parts"),
        ];
        others
            .iter()
            .filter(|(number, _)| *number > 0)
            .for_each(|(number, what)| text += &format!(", {number} {what}"));
        tracing::info!("{text}");
    }
}

/// A batch and its outcome.
type SentBatch = (Vec<Message>, Result<(), PublishManyError>);

/// A replay in progress.
pub(super) struct ReplayRun {
    publisher: Publisher,
    /// The stream that was recorded.
    stream: TopicName,
    pub(super) target: TopicName,
    mark: Option<ReplayMark>,
    speed: ReplaySpeed,
    left: u64,
    timer: PreciseTimer,
    schedule: Option<ReplaySchedule>,
    sending: JoinSet<SentBatch>,
    totals: ReplayTotals,
    bar: ProgressBar,
    next_log: Instant,
}

impl ReplayRun {
    /// Makes a run that has published nothing.
    ///
    /// # Errors
    /// The system refuses the timer's thread.
    pub(super) fn new(
        args: &Args,
        publisher: Publisher,
        stream: TopicName,
        target: TopicName,
        bar: ProgressBar,
    ) -> std::io::Result<Self> {
        Ok(Self {
            publisher,
            stream,
            target,
            mark: args.mark,
            speed: args.speed,
            left: args.count.unwrap_or(u64::MAX),
            timer: PreciseTimer::start()?,
            schedule: None,
            sending: JoinSet::new(),
            totals: ReplayTotals::default(),
            bar,
            next_log: Instant::now() + LOG_INTERVAL,
        })
    }

    /// Publishes all parts, and waits until nsqd has acknowledged them.
    ///
    /// # Errors
    /// No nsqd acknowledges messages any more.
    pub(super) async fn publish(
        &mut self,
        mut parts: mpsc::Receiver<ReplayPart>,
        stop: &CancellationToken,
    ) -> Result<Exit, Failure> {
        let mut exit = Exit::Success;
        while self.left > 0 {
            let part = tokio::select! {
                biased;
                () = stop.cancelled() => {
                    exit = Exit::Interrupted;
                    break;
                }
                part = parts.recv() => part,
            };
            let Some(part) = part else { break };
            if let ReplayPart::Block { others, .. } = &part {
                self.bar.inc(*others);
            }
            let mut messages = self.totals.take(part);
            messages.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= messages.len() as u64;
            if self.publish_block(messages, stop).await?.is_none() {
                exit = Exit::Interrupted;
                break;
            }
        }
        while let Some(sent) = self.sending.join_next().await {
            self.settle_joined(sent)?;
        }
        Ok(exit)
    }

    /// Ends the progress; returns the totals.
    pub(super) fn end(&self) -> ReplayTotals {
        self.bar.finish_and_clear();
        self.totals
    }

    /// Publishes messages when they are due; `None` if it was stopped.
    async fn publish_block(&mut self, messages: Vec<Message>, stop: &CancellationToken) -> Result<Option<()>, Failure> {
        let mut messages = messages.into_iter().peekable();
        while let Some(next) = messages.peek() {
            let (first, speed) = (next.timestamp, self.speed);
            let schedule = *self.schedule.get_or_insert_with(|| ReplaySchedule::new(Instant::now(), first, speed));
            let due = schedule.due(first);
            if self.wait(due, stop).await?.is_none() {
                return Ok(None);
            }
            let now = Instant::now();
            let (mut batch, mut bytes) = (Vec::new(), 0);
            while batch.len() < BATCH_MESSAGES && bytes < BATCH_BYTES {
                let Some(message) = messages.next_if(|message| schedule.due(message.timestamp) <= now) else { break };
                bytes += message.body.len();
                batch.push(message);
            }
            self.send(batch);
        }
        Ok(Some(()))
    }

    /// Waits until `due`, and until there is room for a batch; `None` if it was stopped.
    async fn wait(&mut self, due: Instant, stop: &CancellationToken) -> Result<Option<()>, Failure> {
        loop {
            let is_full = self.sending.len() >= MAX_BATCHES;
            if !is_full && due <= Instant::now() {
                return Ok(if stop.is_cancelled() { None } else { Some(()) });
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(None),
                Some(sent) = self.sending.join_next() => self.settle_joined(sent)?,
                () = self.timer.at(due), if !is_full => {}
                () = tokio::time::sleep_until(self.next_log.into()) => self.log(),
            }
        }
    }

    fn send(&mut self, mut batch: Vec<Message>) {
        let mut bodies: Vec<Bytes> = Vec::with_capacity(batch.len());
        batch.retain(|message| match marked(message, &self.stream, self.mark) {
            Some(body) => {
                bodies.push(body);
                true
            }
            None => {
                self.totals.failed(message, "it is no JSON object: use --mark line");
                false
            }
        });
        let (publisher, target) = (self.publisher.clone(), self.target.clone());
        self.sending.spawn(async move { (batch, publisher.publish_many(&target, bodies).await) });
    }

    fn settle_joined(&mut self, sent: Result<SentBatch, JoinError>) -> Result<(), Failure> {
        let bug = |error| {
            let line = format!("bug in publishing a batch, please report it: {error}; continue with --from");
            Failure::new(Exit::Failure, line)
        };
        self.settle(sent.map_err(bug)?)
    }

    /// Counts the messages of an answered batch.
    fn settle(&mut self, (batch, result): SentBatch) -> Result<(), Failure> {
        let failed = result.err().map(|PublishManyError(failed)| failed).unwrap_or_default();
        let mut failed = failed.into_iter().peekable();
        let mut unreachable = None;
        for (index, message) in batch.iter().enumerate() {
            match failed.next_if(|(at, _)| *at == index) {
                None => self.totals.published(message),
                Some((_, error)) => {
                    self.totals.failed(message, &error.to_string());
                    if matches!(error, PublishError::TimedOut { .. }) {
                        unreachable.get_or_insert((message.timestamp, error));
                    }
                }
            }
        }
        self.bar.inc(batch.len() as u64);
        if let Some(last) = self.totals.times {
            self.bar.set_message(shown(last.last));
        }
        match unreachable {
            None => Ok(()),
            Some((time, error)) => {
                self.bar.finish_and_clear();
                self.totals.log(&self.target);
                let line = format!("{error}: continue with --from {} once nsqd answers", shown(time));
                Err(Failure::new(Exit::Unavailable, line))
            }
        }
    }

    fn log(&mut self) {
        self.next_log = Instant::now() + LOG_INTERVAL;
        if self.bar.is_hidden() {
            let at = self.totals.times.map(|times| format!(", at {}", shown(times.last))).unwrap_or_default();
            tracing::info!("{} published{at}", count(self.totals.published, "message"));
        }
    }
}
