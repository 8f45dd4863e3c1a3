//! One nsqd's connection, and the task that keeps it: takes requests, writes them, matches the answers.
//!
//! nsqd answers in the order of the commands, so what is on its way is a queue. Whatever ends a connection, what it left
//! unanswered goes back to the shared queue: nothing is lost between two lines here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep, sleep_until};

use super::PublishError;
use super::queue::{self, PublishQueue, Request};
use super::unacknowledged::UnacknowledgedWindow;
use crate::backoff::Backoff;
use crate::client::connection::Connection;
use crate::client::{Address, Error};
use crate::proto::{ErrorCode, Frame, Response, WireError};

/// Keeps a connection to `address` until the publisher is closed.
pub(super) async fn run(shared: Arc<PublishQueue>, address: Address, mut first: Result<Connection, Error>) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5), fastrand::Rng::new());
    // whether the log knows that there is no connection
    let mut logged;
    loop {
        logged = false;
        let error = match first {
            Ok(connection) => {
                let mut link =
                    PublishLink { shared: &shared, connection, unacknowledged: UnacknowledgedWindow::default() };
                let mut answered = false;
                let ended = link.serve(&mut answered).await;
                link.unacknowledged.give_back(&shared);
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
        shared.note(error);
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
    /// Commands without an answer.
    unacknowledged: UnacknowledgedWindow,
}

impl PublishLink<'_> {
    /// Publishes until the connection ends or the publisher is closed (`Ok`). Sets `answered` once nsqd took something.
    async fn serve(&mut self, answered: &mut bool) -> Result<(), Error> {
        let shared = self.shared;
        let mut silence = SilenceTimer::new(shared);
        let mut check = std::pin::pin!(sleep_until(silence.deadline(false)));
        let mut write_failed = false;
        // what came with the answer to IDENTIFY is no answer to what is published now
        self.read_frames(answered)?;
        loop {
            let was_busy = !self.unacknowledged.is_empty();
            if self.gather() && !was_busy {
                silence.restart();
            }
            let busy = !self.unacknowledged.is_empty();
            let frame_due = self.connection.frame_due().map(Instant::from_std);
            let due = frame_due.map_or(silence.deadline(busy), |due| due.min(silence.deadline(busy)));
            if check.deadline() > due {
                check.as_mut().reset(due);
            }
            let Connection { stream, incoming, out, .. } = &mut self.connection;
            let (mut reader, mut writer) = stream.split();
            tokio::select! {
                biased;
                wrote = writer.write_buf(out), if out.has_remaining() && !write_failed => match wrote {
                    Ok(bytes) => silence.extend(bytes),
                    // what nsqd said before it closed may still be there to read
                    Err(_) => write_failed = true,
                },
                read = incoming.fill(&mut reader) => {
                    silence.last_read = Instant::now();
                    if self.read(read, answered)? {
                        silence.restart();
                    }
                }
                () = shared.ready.notified(), if self.unacknowledged.has_room() => {}
                () = shared.closing.cancelled(), if !busy => return Ok(()),
                () = &mut check => {
                    let now = Instant::now();
                    if frame_due.is_some_and(|due| due <= now) {
                        return Err(self.connection.slow());
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

    /// Writes commands for what waits, as far as the window goes. True if there was anything.
    fn gather(&mut self) -> bool {
        let mut any = false;
        while let Some(requests) = self.unacknowledged.take(self.shared) {
            queue::encode(requests, &mut self.connection.out);
            any = true;
        }
        any
    }

    /// Takes in what was read; true if a command was answered.
    fn read(&mut self, read: io::Result<usize>, answered: &mut bool) -> Result<bool, Error> {
        let address = || self.connection.address.clone();
        match read {
            Ok(0) => return Err(Error::Closed { address: address(), source: None }),
            Ok(_) => {}
            Err(e) => return Err(Error::Closed { address: address(), source: Some(e) }),
        }
        self.read_frames(answered)
    }

    /// Takes in the frames that are there; true if a command was answered.
    fn read_frames(&mut self, answered: &mut bool) -> Result<bool, Error> {
        let mut any = false;
        loop {
            let broken = |source| Error::Frame { address: self.connection.address.clone(), source };
            match self.connection.incoming.next_frame().map_err(broken)? {
                // a message is not awaited to its end
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

    /// The oldest command was refused, and the connection ends. A request that is at fault, and alone in its command, is
    /// told; if there were several, each will be tried alone.
    fn refused(&mut self, error: WireError) -> Error {
        let group = self.unacknowledged.pop();
        if !is_transient(error.code) {
            match <[Request; 1]>::try_from(group) {
                Ok([request]) => request.resolve(Err(PublishError::Refused(error.clone()))),
                Err(group) => self.shared.put_back(group.into_iter().map(Request::alone).collect()),
            }
        } else {
            self.shared.put_back(group.into());
        }
        Error::Refused { address: self.connection.address.clone(), source: error }
    }
}

/// Returns true for a refusal that whoever publishes is told of as the message's fate. That nsqd ends the connection with it is
/// how NSQ works, and no news.
fn is_message_refusal(error: &Error) -> bool {
    matches!(error, Error::Refused { source, .. } if !is_transient(source.code))
}

/// True if the same message may be taken later: nsqd is exiting, or its disk fails.
fn is_transient(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::PubFailed | ErrorCode::MpubFailed | ErrorCode::DpubFailed)
}

/// Bytes a second that nsqd has to take at least, once its answer is late.
const MIN_RATE: u64 = 16 * 1024;

/// When a silent connection counts as lost: heartbeats are no answer, and more commands give no more time for the first one.
struct SilenceTimer {
    /// From when on an answer is waited for: the last one, or when there was something to be answered again.
    waiting_since: Instant,
    /// When something was read last.
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
            // without heartbeats an idle connection may be silent for ever
            idle_within: shared.config.connect.heartbeat().map_or(Duration::from_secs(1 << 30), |every| 2 * every),
        }
    }

    /// An answer came, or the first command without one goes out.
    fn restart(&mut self) {
        self.waiting_since = Instant::now();
    }

    /// nsqd took bytes of a command: what is large takes its time.
    fn extend(&mut self, bytes: usize) {
        let earned = Duration::from_micros(bytes as u64 * 1_000_000 / MIN_RATE);
        self.waiting_since = (self.waiting_since + earned).min(Instant::now());
    }

    fn deadline(&self, busy: bool) -> Instant {
        if busy { self.waiting_since + self.answer_within } else { self.last_read + self.idle_within }
    }

    /// How long nothing came that was waited for.
    fn silent_for(&self, busy: bool) -> Duration {
        if busy { self.waiting_since.elapsed() } else { self.last_read.elapsed() }
    }
}
