//! A client's connection: reads, decodes all complete commands, executes them in one step, and
//! writes the outbox.
//!
//! It reads nothing while the client does not read its responses, so a client that never reads is
//! throttled instead of buffered.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::auth::Authentication;
use super::identify::Negotiated;
use crate::broker::Broker;
use crate::broker::socket::ClientSocket;
use crate::broker::state::SessionId;
use crate::http::{BusyGuard, ConnectionSlot};
use crate::io_error::describe;
use crate::net::transport::Transport;
use crate::proto::{
    self, Command, DecodeProgress, ErrorCode, Frame, MAGIC_V2, ProtocolError, Response, WireError, WriteBuffer,
};

/// Time for a client to read the final error before its connection is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum slices of one vectored write.
const MAX_SLICES: usize = 64;

/// Reason why a connection ended.
#[derive(Debug)]
pub(super) enum ConnectionEnd {
    /// The client closed the connection, or the broker stops.
    Closed,
    /// The client was sent an error.
    Refused,
    /// Reading or writing failed.
    Broken(io::Error),
    /// The client sent nothing, or read nothing, for too long.
    Silent,
    /// The client had not sent anything when its place was needed.
    Evicted,
}

/// A client's connection.
#[derive(Debug)]
pub(super) struct ClientConnection {
    pub(super) broker: Arc<Broker>,
    pub(super) session: SessionId,
    /// Settings negotiated with the client.
    pub(super) agreed: Negotiated,
    /// The state of AUTH.
    pub(super) authentication: Authentication,
    wake: Arc<Notify>,
    /// The stream; `None` only while it is upgraded.
    pub(super) stream: Option<Transport<ClientSocket>>,
    pub(super) peer: String,
    pub(super) incoming: BytesMut,
    /// How far the first command of `incoming` was read, if not all of it is there.
    pub(super) progress: DecodeProgress,
    place: ConnectionSlot,
    /// There once the client has greeted: until then the connection makes way for others.
    stay: Option<BusyGuard>,
    greeted: bool,
    /// Output being written.
    sending: WriteBuffer,
    /// True if the stream holds bytes back until it is flushed.
    unflushed: bool,
    /// When the last command arrived (`heard`), and when the last bytes were written (`sent`).
    heard: Instant,
    sent: Instant,
    beat: Instant,
}

impl ClientConnection {
    pub(super) fn new(broker: Arc<Broker>, socket: ClientSocket, peer: String, place: ConnectionSlot) -> Self {
        let agreed = Negotiated::by_default(broker.config(), &peer);
        let (session, wake) = broker.connect(agreed.settings.clone(), peer.clone());
        let now = Instant::now();
        Self {
            broker,
            session,
            agreed,
            authentication: Authentication::default(),
            wake,
            stream: Some(Transport::Plain(socket)),
            peer,
            incoming: BytesMut::new(),
            progress: DecodeProgress::default(),
            place,
            stay: None,
            greeted: false,
            sending: WriteBuffer::new(),
            unflushed: false,
            heard: now,
            sent: now,
            beat: now,
        }
    }

    /// Serves the client until the connection ends.
    pub(super) async fn serve(mut self, stop: CancellationToken) {
        let place = self.place.clone();
        let end = tokio::select! {
            end = self.run() => end,
            () = stop.cancelled() => ConnectionEnd::Closed,
            () = place.evicted() => ConnectionEnd::Evicted,
        };
        drop(place);
        if matches!(end, ConnectionEnd::Refused) {
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.flush_output()).await;
        }
        if let ConnectionEnd::Broken(error) = &end
            && error.kind() == io::ErrorKind::InvalidData
            && self.stream.is_some()
        {
            // damage within TLS or compression; a failed handshake has been logged
            tracing::warn!(peer = self.peer, reason = %describe(error), "connection closed: its bytes cannot be read");
        }
        tracing::debug!(peer = self.peer, reason = ?end, "connection ended");
    }

    async fn run(&mut self) -> ConnectionEnd {
        let mut timer = Box::pin(sleep_until(self.next_deadline()));
        let wake = self.wake.clone();
        loop {
            if let Err(end) = self.send().await {
                return end;
            }
            tokio::select! {
                turned = self.read_or_wait_writable() => match turned {
                    Ok(None) => {}
                    Ok(Some(0)) => return self.end_of_input(),
                    Ok(Some(_)) => {
                        let interval = self.agreed.heartbeat;
                        if let Err(end) = self.execute_commands().await {
                            return end;
                        }
                        if self.agreed.heartbeat != interval {
                            self.beat = Instant::now();
                            timer.as_mut().reset(self.next_deadline());
                        }
                    }
                    Err(error) => return ConnectionEnd::Broken(error),
                },
                () = wake.notified() => {}
                () = timer.as_mut() => {
                    if let Err(end) = self.check_timeouts(&mut timer) {
                        return end;
                    }
                }
            }
        }
    }

    /// Reads once, and returns the number of bytes. While output is pending, waits instead until it
    /// can be written. Cancel-safe.
    async fn read_or_wait_writable(&mut self) -> io::Result<Option<usize>> {
        if self.has_unsent() {
            return poll_fn(|cx| self.poll_write(cx)).await.map(|()| None);
        }
        let length = Command::length(&self.incoming);
        let stream = self.stream.as_mut().expect("it is not being upgraded");
        stream.read_buf(&mut proto::read_room(&mut self.incoming, length)).await.map(Some)
    }

    /// True until all taken output is with the kernel.
    fn has_unsent(&self) -> bool {
        self.sending.has_remaining() || self.unflushed
    }

    /// Writes once; flushes the stream once nothing is left to write.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut stream = Pin::new(self.stream.as_mut().expect("it is not being upgraded"));
        if self.sending.has_remaining() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let filled = self.sending.chunks_vectored(&mut slices);
            let written = ready!(stream.as_mut().poll_write_vectored(cx, &slices[..filled]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sending.advance(written);
            self.sent = Instant::now();
            self.unflushed = true;
        }
        if !self.sending.has_remaining() {
            ready!(stream.poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Executes all complete commands.
    async fn execute_commands(&mut self) -> Result<(), ConnectionEnd> {
        if !self.greeted && !self.read_magic()? {
            return Ok(());
        }
        loop {
            let (commands, wrong) = self.decode();
            if !commands.is_empty() {
                self.heard = Instant::now();
                let more_follows = commands.last().is_some_and(changes_connection);
                self.execute(commands).await?;
                if more_follows {
                    continue;
                }
            }
            match wrong {
                // as in nsqd, before its command is looked at
                Some(ProtocolError::LineTooLong) => return Err(ConnectionEnd::Closed),
                _ if !self.incoming.is_empty() && self.check_unfinished()? => {}
                None => return Ok(()),
                Some(error) => return Err(self.refuse(&error)),
            }
        }
    }

    /// Reads the protocol's magic; false until all of it has arrived.
    fn read_magic(&mut self) -> Result<bool, ConnectionEnd> {
        if self.incoming.len() < MAGIC_V2.len() {
            return Ok(false);
        }
        let magic = self.incoming.split_to(MAGIC_V2.len());
        self.greeted = &magic[..] == MAGIC_V2;
        self.stay = self.place.busy();
        match self.greeted {
            true if self.stay.is_none() => Err(ConnectionEnd::Evicted),
            true => Ok(true),
            // nsqd sends only the code, without a text
            false => Err(self.refuse_with(ErrorCode::BadProtocol.as_str().to_owned())),
        }
    }

    /// Decodes all complete commands, up to one that changes the connection; returns them with the
    /// error of the next one, if it has one.
    fn decode(&mut self) -> (Vec<Command>, Option<ProtocolError>) {
        let mut commands = Vec::new();
        loop {
            let limits = &self.broker.config().limits;
            match Command::decode_resumed(&mut self.incoming, limits, &mut self.progress) {
                Ok(Some(command)) => {
                    let ends = changes_connection(&command);
                    commands.push(command);
                    if ends {
                        return (commands, None);
                    }
                }
                Ok(None) => return (commands, None),
                Err(error) => return (commands, Some(error)),
            }
        }
    }

    /// Ends the connection after the client has closed its sending side. Answers an incomplete
    /// command with an error: the client may still read.
    fn end_of_input(&mut self) -> ConnectionEnd {
        let missing = Command::cut_short(&self.incoming, &self.broker.config().limits);
        match missing.filter(|_| self.greeted) {
            Some(missing) => self.refuse(&missing),
            None => ConnectionEnd::Closed,
        }
    }

    /// Sends an error, and ends the connection.
    pub(super) fn refuse(&mut self, error: &ProtocolError) -> ConnectionEnd {
        self.refuse_with(error.to_string())
    }

    fn refuse_with(&mut self, text: String) -> ConnectionEnd {
        let error = Frame::Error(WireError::parse(text.into()));
        self.broker.change(|state, _| state.reply(self.session, |out| error.encode(out)));
        ConnectionEnd::Refused
    }

    /// Writes pending output until the socket would block. Waits for nothing.
    async fn send(&mut self) -> Result<(), ConnectionEnd> {
        loop {
            if !self.has_unsent() {
                let goes_on = self.broker.change(|state, now| state.take_output(self.session, &mut self.sending, now));
                match self.sending.has_remaining() {
                    true => self.sent = Instant::now(),
                    false if goes_on => return Ok(()),
                    false => return Err(ConnectionEnd::Closed),
                }
            }
            match poll_fn(|cx| Poll::Ready(self.poll_write(cx))).await {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Err(ConnectionEnd::Broken(error)),
                Poll::Pending => return Ok(()),
            }
        }
    }

    /// Writes all pending output.
    pub(super) async fn flush_output(&mut self) -> Result<(), ConnectionEnd> {
        loop {
            self.send().await?;
            if !self.has_unsent() {
                return Ok(());
            }
            poll_fn(|cx| self.poll_write(cx)).await.map_err(ConnectionEnd::Broken)?;
        }
    }

    /// The time of the next heartbeat or timeout.
    fn next_deadline(&self) -> Instant {
        match self.agreed.heartbeat {
            Some(interval) => (self.beat + interval).min(self.heard + 2 * interval).min(self.sent + interval),
            None => Instant::now() + Duration::from_secs(3600),
        }
    }

    /// Sends a heartbeat if it is due. Ends the connection if the client sent nothing for two
    /// intervals, or read nothing for one.
    fn check_timeouts(&mut self, timer: &mut Pin<Box<Sleep>>) -> Result<(), ConnectionEnd> {
        let now = Instant::now();
        if let Some(interval) = self.agreed.heartbeat {
            let is_stuck = self.has_unsent() && now >= self.sent + interval;
            if is_stuck || now >= self.heard + 2 * interval {
                return Err(ConnectionEnd::Silent);
            }
            if !self.has_unsent() {
                self.sent = now;
            }
            if now >= self.beat + interval {
                self.beat = now;
                let beat = Frame::Response(Response::Heartbeat);
                self.broker.change(|state, _| state.reply(self.session, |out| beat.encode(out)));
            }
        }
        timer.as_mut().reset(self.next_deadline());
        Ok(())
    }
}

/// True for commands after which the following bytes may mean something else, or which wait for
/// another server.
fn changes_connection(command: &Command) -> bool {
    matches!(command, Command::Identify(_) | Command::Auth(_))
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        self.broker.disconnect(self.session);
    }
}
