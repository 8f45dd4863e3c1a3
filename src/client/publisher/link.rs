//! The task that owns the connection to one nsqd: takes requests, writes them, matches the answers.
//!
//! nsqd answers in the order of the commands, so unanswered commands form a queue. When a
//! connection ends, its unanswered requests return to the shared queue.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::PublishError;
use super::queue::{self, PublishQueue, Request};
use super::unacknowledged::UnacknowledgedWindow;
use crate::backoff::Backoff;
use crate::client::connection::{Connection, Step};
use crate::client::{Address, Error};
use crate::proto::{ErrorCode, Frame, Response, WireError};

/// Keeps a connection to `address` until the publisher is closed.
pub(super) async fn run(shared: Arc<PublishQueue>, address: Address, mut first: Result<Connection, Error>) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5), fastrand::Rng::new());
    // true if the log has said that the connection is lost
    let mut logged;
    loop {
        logged = false;
        let error = match first {
            Ok(connection) => {
                let _open = shared.count_connection();
                let mut link =
                    PublishLink { shared: &shared, connection, unacknowledged: UnacknowledgedWindow::default() };
                let mut answered = false;
                let ended = link.serve(&mut answered).await;
                link.unacknowledged.return_requests(&shared);
                match ended {
                    Ok(()) => return,
                    Err(error) => {
                        if answered {
                            backoff.reset();
                        }
                        logged = !is_message_refusal(&error);
                        match logged {
                            true => tracing::warn!(nsqd = %address, "connection lost: {error}"),
                            false => tracing::debug!(nsqd = %address, "connection ended after a refusal: {error}"),
                        }
                        error
                    }
                }
            }
            Err(error) => {
                tracing::debug!(nsqd = %address, "no connection: {error}");
                error
            }
        };
        shared.record_error(error);
        let pause = backoff.next().unwrap_or_default();
        tokio::select! {
            () = shared.closing.cancelled() => return,
            () = sleep(pause) => {}
        }
        first = tokio::select! {
            () = shared.closing.cancelled() => return,
            opened = Connection::open(&address, &shared.config.connect) => opened,
        };
        if first.is_ok() && logged {
            tracing::info!(nsqd = %address, "connected again");
        }
    }
}

struct PublishLink<'a> {
    shared: &'a PublishQueue,
    connection: Connection,
    /// Unanswered commands.
    unacknowledged: UnacknowledgedWindow,
}

impl PublishLink<'_> {
    /// Publishes until the connection ends, or until the publisher is closed (`Ok`). Sets
    /// `answered` once nsqd acknowledged a command.
    async fn serve(&mut self, answered: &mut bool) -> Result<(), Error> {
        let shared = self.shared;
        let mut silence = SilenceTimer::new(shared);
        let mut check = std::pin::pin!(sleep_until(silence.deadline(false)));
        // frames that arrived with IDENTIFY's answer do not answer later commands
        self.read_frames(answered)?;
        loop {
            let was_busy = !self.unacknowledged.is_empty();
            if self.send_queued() && !was_busy {
                silence.restart();
            }
            let busy = !self.unacknowledged.is_empty();
            let frame_due = self.connection.frame_due();
            let due = frame_due.map_or(silence.deadline(busy), |due| due.min(silence.deadline(busy)));
            if check.deadline() > due {
                check.as_mut().reset(due);
            }
            tokio::select! {
                biased;
                step = self.connection.exchange(true) => match step {
                    Step::Wrote(bytes) => silence.extend(bytes),
                    Step::Read(read) => {
                        silence.last_read = Instant::now();
                        if self.read(read, answered)? {
                            silence.restart();
                        }
                    }
                },
                () = shared.ready.notified(), if self.unacknowledged.has_room() => {}
                () = shared.closing.cancelled(), if !busy => return Ok(()),
                () = &mut check => {
                    let now = Instant::now();
                    if frame_due.is_some_and(|due| due <= now) {
                        return Err(self.connection.slow_frame_error());
                    }
                    if silence.deadline(busy) <= now {
                        let address = self.connection.address.clone();
                        return Err(Error::Silent { address, after: silence.silent_for(busy) });
                    }
                    check.as_mut().reset(due);
                }
            }
        }
    }

    /// Writes commands for queued requests, up to the window's limit. True if there were any.
    fn send_queued(&mut self) -> bool {
        let mut any = false;
        while let Some(requests) = self.unacknowledged.take(self.shared) {
            queue::encode(requests, &mut self.connection.out);
            any = true;
        }
        any
    }

    /// Processes received bytes; true if a command was answered.
    fn read(&mut self, read: io::Result<usize>, answered: &mut bool) -> Result<bool, Error> {
        match read {
            Ok(0) => return Err(self.connection.closed(None)),
            Ok(_) => {}
            Err(e) => return Err(self.connection.closed(Some(e))),
        }
        self.read_frames(answered)
    }

    /// Processes complete frames; true if a command was answered.
    fn read_frames(&mut self, answered: &mut bool) -> Result<bool, Error> {
        let mut any = false;
        loop {
            let broken = |source| Error::Frame { address: self.connection.address.clone(), source };
            match self.connection.incoming.next_frame().map_err(broken)? {
                // an unexpected message may be large: its end is not awaited
                None if self.connection.incoming.message_is_coming() => {
                    return Err(self.connection.unexpected("a message".to_owned()));
                }
                None => return Ok(any),
                Some(Frame::Response(Response::Heartbeat)) => self.connection.answer_heartbeat(),
                Some(Frame::Response(Response::Ok)) if self.unacknowledged.is_empty() => {
                    return Err(self.connection.unexpected("OK without a command".to_owned()));
                }
                Some(Frame::Response(Response::Ok)) => {
                    any = true;
                    *answered = true;
                    self.unacknowledged.acknowledged(self.shared);
                }
                Some(Frame::Error(error)) => return Err(self.refused(error)),
                Some(Frame::Response(other)) => return Err(self.connection.unexpected(format!("{other:?}"))),
                Some(Frame::Message(_)) => return Err(self.connection.unexpected("a message".to_owned())),
            }
        }
    }

    /// Handles the refusal of the oldest command, after which the connection ends. A request that
    /// was alone in its command fails with the refusal; several requests are each retried alone.
    fn refused(&mut self, error: WireError) -> Error {
        let group = self.unacknowledged.pop();
        if !is_transient(error.code) {
            match <[Request; 1]>::try_from(group) {
                Ok([request]) => request.resolve(Err(PublishError::Refused(error.clone()))),
                Err(group) => {
                    self.shared.return_requests(group.into_iter().map(Request::require_own_command).collect())
                }
            }
        } else {
            self.shared.return_requests(group.into());
        }
        Error::Refused { address: self.connection.address.clone(), source: error }
    }
}

/// True if the refusal is the result of a publish call. nsqd closes the connection with every
/// refusal, which then needs no warning.
fn is_message_refusal(error: &Error) -> bool {
    matches!(error, Error::Refused { source, .. } if !is_transient(source.code))
}

/// True if the same message may be accepted later: nsqd is exiting, or its disk fails.
fn is_transient(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::PubFailed | ErrorCode::MpubFailed | ErrorCode::DpubFailed)
}

/// The least rate in bytes per second at which nsqd has to read, once its answer is late.
const MIN_RATE: u64 = 16 * 1024;

/// The deadlines after which a silent connection counts as lost. Heartbeats are no answer, and more
/// commands do not extend the time of the first.
struct SilenceTimer {
    /// The start of waiting for an answer: the last answer, or the first command after all others
    /// were answered.
    waiting_since: Instant,
    /// The time of the last read.
    last_read: Instant,
    answer_within: Duration,
    idle_within: Duration,
}

impl SilenceTimer {
    fn new(shared: &PublishQueue) -> Self {
        let now = Instant::now();
        Self {
            waiting_since: now,
            last_read: now,
            answer_within: shared.config.answer_within,
            // without heartbeats an idle connection may be silent forever
            idle_within: shared.config.connect.heartbeat().map_or(Duration::from_secs(1 << 30), |every| 2 * every),
        }
    }

    /// Restarts the wait: an answer arrived, or the first unanswered command is sent.
    fn restart(&mut self) {
        self.waiting_since = Instant::now();
    }

    /// Extends the wait by the time that `bytes`, which nsqd has read, may take.
    fn extend(&mut self, bytes: usize) {
        let earned = Duration::from_micros(bytes as u64 * 1_000_000 / MIN_RATE);
        self.waiting_since = (self.waiting_since + earned).min(Instant::now());
    }

    fn deadline(&self, busy: bool) -> Instant {
        if busy { self.waiting_since + self.answer_within } else { self.last_read + self.idle_within }
    }

    /// The time without the awaited answer or heartbeat.
    fn silent_for(&self, busy: bool) -> Duration {
        if busy { self.waiting_since.elapsed() } else { self.last_read.elapsed() }
    }
}
