//! Lines over stream sockets, counted when the receiver acknowledges them.
//!
//! ```text
//!  connection 1: lines of one second, end ─▶ … OK 500
//!  connection 2:                       lines of the next second, end ─▶ … OK 312   the other 188 go again
//! ```

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::plan::SendPlan;
use super::stats::SendStats;
use crate::commands::common::exit::Exit;
use crate::commands::common::exit::Failure;
use mqueue::backoff::Backoff;
use mqueue::io_error::describe;
use mqueue::net::{Endpoint, LineAck};
use mqueue::net::{connect, connect_unix};

/// Limits of one connection: writing time, and lines.
const MAX_CONNECTION_TIME: Duration = Duration::from_secs(1);
const MAX_CONNECTION_LINES: u64 = 20_000;
/// Lines per write.
const LINES_PER_WRITE: u64 = 500;
/// Limit on the connections that wait for their answer.
const MAX_UNANSWERED: usize = 8;
/// Connect timeout.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of an answer and of a write; long, because nsqd may be away meanwhile.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);

trait StreamSocket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> StreamSocket for S {}

/// The messages sent on a connection, and the receiver's answer.
type BatchReply = (Range<u64>, io::Result<LineAck>);

/// Sends all messages, until `stop` is cancelled or all are acknowledged. Fails if no receiver
/// listens at the start.
pub(super) async fn send(
    to: &Endpoint,
    plan: &SendPlan,
    stats: &SendStats,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1), fastrand::Rng::new());
    let open = FuturesUnordered::new();
    StreamSender {
        to,
        plan,
        stats,
        stop,
        open,
        again: VecDeque::new(),
        made: 0,
        backoff,
        receiver: ReceiverState::Unknown,
    }
    .run()
    .await
}

/// Health of the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReceiverState {
    /// No connection has succeeded yet.
    Unknown,
    Reachable,
    /// Connecting or sending fails, and this was logged.
    Failing,
}

struct StreamSender<'a> {
    to: &'a Endpoint,
    plan: &'a SendPlan,
    stats: &'a SendStats,
    stop: &'a CancellationToken,
    /// Connections that wait for their answer.
    open: FuturesUnordered<BoxFuture<'a, BatchReply>>,
    /// Messages that the receiver did not take.
    again: VecDeque<Range<u64>>,
    made: u64,
    backoff: Backoff,
    receiver: ReceiverState,
}

impl StreamSender<'_> {
    async fn run(mut self) -> Result<(), Failure> {
        loop {
            while let Some(Some(answered)) = self.open.next().now_or_never() {
                self.settle(answered).await;
            }
            let over = self.made == self.plan.count || self.stop.is_cancelled();
            if self.again.is_empty() && over || self.open.len() >= MAX_UNANSWERED {
                match self.open.next().await {
                    Some(answered) => self.settle(answered).await,
                    None => return Ok(()),
                }
                continue;
            }
            if self.again.is_empty() {
                tokio::select! {
                    () = self.plan.wait_for(self.made) => {}
                    () = self.stop.cancelled() => continue,
                }
            }
            let Some(mut stream) = self.connect().await? else {
                self.again.clear();
                continue;
            };
            let sent = match self.again.pop_front() {
                Some(range) => self.repeat(&mut stream, range).await,
                None => self.on_schedule(&mut stream).await,
            };
            self.open.push(answer(stream, sent).boxed());
        }
    }

    /// Connects, with retries; `None` if stopped before it succeeds.
    async fn connect(&mut self) -> Result<Option<Box<dyn StreamSocket>>, Failure> {
        loop {
            let connected: io::Result<Box<dyn StreamSocket>> = match self.to {
                Endpoint::Unix(path) => connect_unix(path, CONNECT_TIMEOUT).await.map(|stream| Box::new(stream) as _),
                Endpoint::Tcp(address) => {
                    let connecting = connect(address.host_to_reach(), address.port(), CONNECT_TIMEOUT);
                    connecting.await.map(|stream| Box::new(stream) as _)
                }
                Endpoint::Unixgram(_) | Endpoint::Udp(_) => unreachable!("these are no streams"),
            };
            match connected {
                Ok(stream) => {
                    if self.receiver == ReceiverState::Unknown {
                        self.receiver = ReceiverState::Reachable;
                    }
                    return Ok(Some(stream));
                }
                Err(error) if self.receiver == ReceiverState::Unknown => return Err(not_listening(self.to, &error)),
                Err(error) => self.wait(&format!("cannot connect: {}", describe(&error))).await,
            }
            if self.stop.is_cancelled() {
                return Ok(None);
            }
        }
    }

    /// Writes the messages that are due, for up to `MAX_CONNECTION_TIME`.
    async fn on_schedule(&mut self, stream: &mut Box<dyn StreamSocket>) -> Range<u64> {
        let (from, end) = (self.made, Instant::now() + MAX_CONNECTION_TIME);
        while self.made < self.plan.count && self.made - from < MAX_CONNECTION_LINES && !self.stop.is_cancelled() {
            let due = self.plan.due().min(self.made + LINES_PER_WRITE);
            if due <= self.made {
                if self.plan.due_at(self.made) > end {
                    break;
                }
                tokio::select! {
                    () = self.plan.wait_for(self.made) => {}
                    () = self.stop.cancelled() => {}
                }
                continue;
            }
            let range = self.made..due;
            self.made = due;
            self.stats.sent(due - range.start);
            if !self.write(stream, range).await || Instant::now() > end {
                break;
            }
        }
        from..self.made
    }

    async fn repeat(&self, stream: &mut Box<dyn StreamSocket>, range: Range<u64>) -> Range<u64> {
        self.stats.again(range.end - range.start);
        let mut start = range.start;
        while start < range.end {
            let end = range.end.min(start + LINES_PER_WRITE);
            if !self.write(stream, start..end).await {
                break;
            }
            start = end;
        }
        range
    }

    /// Writes lines; returns false if the receiver takes no more. The answer then says how many it
    /// took.
    async fn write(&self, stream: &mut Box<dyn StreamSocket>, range: Range<u64>) -> bool {
        let mut lines = Vec::with_capacity(128 * LINES_PER_WRITE as usize);
        for n in range.clone() {
            self.plan.write(n, &mut lines);
            lines.push(b'\n');
        }
        let due: Vec<Instant> = range.map(|n| self.plan.due_at(n)).collect();
        let written = timeout(ANSWER_TIMEOUT, stream.write_all(&lines)).await;
        let now = Instant::now();
        due.into_iter().for_each(|due| self.stats.late(now.saturating_duration_since(due)));
        matches!(written, Ok(Ok(())))
    }

    async fn settle(&mut self, (range, answer): BatchReply) {
        let sent = range.end - range.start;
        match answer {
            Ok(answer) => {
                let settled = answer.settled(sent);
                self.stats.answered(settled, answer.refused);
                if settled < sent {
                    self.again.push_back(range.start + settled..range.end);
                } else if self.receiver == ReceiverState::Failing {
                    tracing::info!("{} takes messages again", self.to);
                    self.receiver = ReceiverState::Reachable;
                    self.backoff.reset();
                }
            }
            Err(error) => {
                self.again.push_back(range);
                self.wait(&format!("no answer: {}", describe(&error))).await;
            }
        }
    }

    /// Logs the first error of an outage, and pauses.
    async fn wait(&mut self, why: &str) {
        if self.receiver != ReceiverState::Failing {
            tracing::warn!("{} takes no messages, trying again: {why}", self.to);
            self.receiver = ReceiverState::Failing;
        }
        tokio::select! {
            () = sleep(self.backoff.next().unwrap_or_default()) => {}
            () = self.stop.cancelled() => {}
        }
    }
}

/// Closes the sending side, and waits for the answer.
async fn answer(mut stream: Box<dyn StreamSocket>, sent: Range<u64>) -> BatchReply {
    // fails if the receiver has answered early and closed
    let _ = stream.shutdown().await;
    let answer = timeout(ANSWER_TIMEOUT, LineAck::read(stream)).await;
    (sent, answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
}

/// Makes the failure for the most common mistake: no receiver at this address.
pub(super) fn not_listening(to: &Endpoint, error: &io::Error) -> Failure {
    Failure::new(
        Exit::Unavailable,
        format!("nobody listens on {to}: {} (`mqueue ingest --listen {to}` would)", describe(error)),
    )
}
