//! Lines over a stream socket, counted when they are answered.
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

use super::script::Script;
use super::tally::Tally;
use crate::commands::common::exit::Exit;
use crate::commands::common::exit::Failure;
use mqueue::backoff::Backoff;
use mqueue::net::{Answer, Endpoint};
use mqueue::net::{connect, connect_unix};

/// How long one connection is written to, and how much.
const TIME: Duration = Duration::from_secs(1);
const LINES: u64 = 20_000;
/// Lines written at once.
const CHUNK: u64 = 500;
/// Connections whose answers are waited for at once.
const OPEN: usize = 8;
/// How long connecting may take.
pub(super) const CONNECT_TIME: Duration = Duration::from_secs(5);
/// How long an answer may take, and a write: nsqd may be away meanwhile.
const ANSWER: Duration = Duration::from_secs(300);

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// What was sent on a connection, and what was answered.
type Answered = (Range<u64>, io::Result<Answer>);

/// Sends all, until it is told to stop or all is acknowledged. Fails if nobody listens at the start.
pub(super) async fn send(
    to: &Endpoint,
    script: &Script,
    tally: &Tally,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1), fastrand::Rng::new());
    let open = FuturesUnordered::new();
    Sender { to, script, tally, stop, open, again: VecDeque::new(), made: 0, backoff, trouble: Trouble::Unknown }
        .run()
        .await
}

/// How the receiver is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// It has never been there.
    Unknown,
    None,
    /// Said.
    Some,
}

struct Sender<'a> {
    to: &'a Endpoint,
    script: &'a Script,
    tally: &'a Tally,
    stop: &'a CancellationToken,
    /// Connections whose answers are due.
    open: FuturesUnordered<BoxFuture<'a, Answered>>,
    /// What was not taken.
    again: VecDeque<Range<u64>>,
    made: u64,
    backoff: Backoff,
    trouble: Trouble,
}

impl Sender<'_> {
    async fn run(mut self) -> Result<(), Failure> {
        loop {
            while let Some(Some(answered)) = self.open.next().now_or_never() {
                self.settle(answered).await;
            }
            let over = self.made == self.script.count || self.stop.is_cancelled();
            if self.again.is_empty() && over || self.open.len() >= OPEN {
                match self.open.next().await {
                    Some(answered) => self.settle(answered).await,
                    None => return Ok(()),
                }
                continue;
            }
            if self.again.is_empty() {
                tokio::select! {
                    () = self.script.wait_for(self.made) => {}
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

    /// A connection; `None` if there is none and it is time to stop.
    async fn connect(&mut self) -> Result<Option<Box<dyn Stream>>, Failure> {
        loop {
            let connected: io::Result<Box<dyn Stream>> = match self.to {
                Endpoint::Unix(path) => connect_unix(path, CONNECT_TIME).await.map(|stream| Box::new(stream) as _),
                Endpoint::Tcp(address) => {
                    let connecting = connect(address.host_to_reach(), address.port(), CONNECT_TIME);
                    connecting.await.map(|stream| Box::new(stream) as _)
                }
                Endpoint::Unixgram(_) | Endpoint::Udp(_) => unreachable!("these are no streams"),
            };
            match connected {
                Ok(stream) => {
                    if self.trouble == Trouble::Unknown {
                        self.trouble = Trouble::None;
                    }
                    return Ok(Some(stream));
                }
                Err(error) if self.trouble == Trouble::Unknown => return Err(nobody_listens(self.to, &error)),
                Err(error) => self.wait(&format!("cannot connect: {error}")).await,
            }
            if self.stop.is_cancelled() {
                return Ok(None);
            }
        }
    }

    /// Writes what falls due for a while.
    async fn on_schedule(&mut self, stream: &mut Box<dyn Stream>) -> Range<u64> {
        let (from, end) = (self.made, Instant::now() + TIME);
        while self.made < self.script.count && self.made - from < LINES && !self.stop.is_cancelled() {
            let due = self.script.due().min(self.made + CHUNK);
            if due <= self.made {
                if self.script.due_at(self.made) > end {
                    break;
                }
                tokio::select! {
                    () = self.script.wait_for(self.made) => {}
                    () = self.stop.cancelled() => {}
                }
                continue;
            }
            let range = self.made..due;
            self.made = due;
            self.tally.sent(due - range.start);
            if !self.write(stream, range).await || Instant::now() > end {
                break;
            }
        }
        from..self.made
    }

    async fn repeat(&self, stream: &mut Box<dyn Stream>, range: Range<u64>) -> Range<u64> {
        self.tally.again(range.end - range.start);
        let mut start = range.start;
        while start < range.end {
            let end = range.end.min(start + CHUNK);
            if !self.write(stream, start..end).await {
                break;
            }
            start = end;
        }
        range
    }

    /// False if the receiver takes no more; the answer says how much it took.
    async fn write(&self, stream: &mut Box<dyn Stream>, range: Range<u64>) -> bool {
        let mut lines = Vec::with_capacity(128 * CHUNK as usize);
        for n in range.clone() {
            self.script.write(n, &mut lines);
            lines.push(b'\n');
        }
        let due: Vec<Instant> = range.map(|n| self.script.due_at(n)).collect();
        let written = timeout(ANSWER, stream.write_all(&lines)).await;
        let now = Instant::now();
        due.into_iter().for_each(|due| self.tally.late(now.saturating_duration_since(due)));
        matches!(written, Ok(Ok(())))
    }

    async fn settle(&mut self, (range, answer): Answered) {
        let sent = range.end - range.start;
        match answer {
            Ok(answer) => {
                let settled = answer.settled(sent);
                self.tally.answered(settled, answer.refused);
                if settled < sent {
                    self.again.push_back(range.start + settled..range.end);
                } else if self.trouble == Trouble::Some {
                    tracing::info!("{} takes messages again", self.to);
                    self.trouble = Trouble::None;
                    self.backoff.reset();
                }
            }
            Err(error) => {
                self.again.push_back(range);
                self.wait(&format!("no answer: {error}")).await;
            }
        }
    }

    /// Says once what is wrong, and waits a little.
    async fn wait(&mut self, why: &str) {
        if self.trouble != Trouble::Some {
            tracing::warn!("{} takes no messages, trying again: {why}", self.to);
            self.trouble = Trouble::Some;
        }
        tokio::select! {
            () = sleep(self.backoff.next().unwrap_or_default()) => {}
            () = self.stop.cancelled() => {}
        }
    }
}

/// Ends our side, and waits for the answer.
async fn answer(mut stream: Box<dyn Stream>, sent: Range<u64>) -> Answered {
    // one that was answered early has ended already
    let _ = stream.shutdown().await;
    let answer = timeout(ANSWER, Answer::read(stream)).await;
    (sent, answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
}

/// The first thing that a person gets wrong.
pub(super) fn nobody_listens(to: &Endpoint, error: &io::Error) -> Failure {
    Failure::new(Exit::Unavailable, format!("nobody listens on {to}: {error} (`mqueue ingest --listen {to}` would)"))
}
