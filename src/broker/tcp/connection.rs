//! A connection: read, decode all, change the state once, write what the outbox has.
//!
//! It reads no more while the client does not take what it was answered, so that one which only writes is slowed, and costs no memory.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::identify::Agreed;
use crate::broker::Broker;
use crate::broker::socket::Socket;
use crate::broker::state::SessionId;
use crate::http::{BusyGuard, ConnectionSlot};
use crate::proto::{
    self, Command, ErrorCode, Frame, MAGIC_V2, Outgoing, ProtocolError, Response, Unfinished, WireError,
};

/// How long a client has to take the last words.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Pieces that one write takes.
const SLICES: usize = 64;

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// The client closed it, or the broker stops.
    Closed,
    /// The client was told why.
    Refused,
    /// It did not work.
    #[allow(dead_code, reason = "shown by Debug")]
    Broken(io::Error),
    /// The client was silent for too long, or took nothing for too long.
    Silent,
    /// The client had said nothing when there was no place left.
    Ousted,
}

/// A client's connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) broker: Arc<Broker>,
    pub(super) session: SessionId,
    /// What is agreed on with the client.
    pub(super) agreed: Agreed,
    wake: Arc<Notify>,
    socket: Socket,
    peer: String,
    pub(super) incoming: BytesMut,
    /// How far the first command of `incoming` was read, if not all of it is there.
    pub(super) unfinished: Unfinished,
    place: ConnectionSlot,
    /// There once the client has greeted: until then the connection makes way for others.
    stay: Option<BusyGuard>,
    greeted: bool,
    /// What is being written.
    sending: Outgoing,
    /// When the last command came, or the last bytes could be written.
    heard: Instant,
    sent: Instant,
    beat: Instant,
}

impl Connection {
    pub(super) fn new(broker: Arc<Broker>, socket: Socket, peer: String, place: ConnectionSlot) -> Self {
        let agreed = Agreed::by_default(broker.config(), &peer);
        let (session, wake) = broker.connect(agreed.settings.clone(), peer.clone());
        let now = Instant::now();
        Self {
            broker,
            session,
            agreed,
            wake,
            socket,
            peer,
            incoming: BytesMut::new(),
            unfinished: Unfinished::default(),
            place,
            stay: None,
            greeted: false,
            sending: Outgoing::new(),
            heard: now,
            sent: now,
            beat: now,
        }
    }

    /// Serves the client until the connection ends.
    pub(super) async fn serve(mut self, stop: CancellationToken) {
        let place = self.place.clone();
        let end = tokio::select! {
            end = self.turn() => end,
            () = stop.cancelled() => End::Closed,
            () = place.evicted() => End::Ousted,
        };
        drop(place);
        if matches!(end, End::Refused) {
            let _ = tokio::time::timeout(LAST_WORDS, self.say_last_words()).await;
        }
        tracing::debug!(peer = self.peer, "connection ended: {end:?}");
    }

    async fn turn(&mut self) -> End {
        let mut timer = Box::pin(sleep_until(self.alarm()));
        let wake = self.wake.clone();
        loop {
            if let Err(end) = self.send() {
                return end;
            }
            tokio::select! {
                turned = self.move_bytes() => match turned {
                    Ok(None) => {}
                    Ok(Some(0)) => return self.leave(),
                    Ok(Some(_)) => {
                        let interval = self.agreed.heartbeat;
                        if let Err(end) = self.take_in().await {
                            return end;
                        }
                        if self.agreed.heartbeat != interval {
                            self.beat = Instant::now();
                            timer.as_mut().reset(self.alarm());
                        }
                    }
                    Err(error) => return End::Broken(error),
                },
                () = wake.notified() => {}
                () = timer.as_mut() => {
                    if let Err(end) = self.check_time(&mut timer) {
                        return end;
                    }
                }
            }
        }
    }

    /// Reads once, and says how much; or, while there is something to write, waits until that can go on. Cancel-safe.
    async fn move_bytes(&mut self) -> io::Result<Option<usize>> {
        if self.sending.has_remaining() {
            return self.socket.writable().await.map(|()| None);
        }
        let length = Command::length(&self.incoming);
        self.socket.read(&mut proto::room(&mut self.incoming, length)).await.map(Some)
    }

    /// Does what all whole commands say.
    async fn take_in(&mut self) -> Result<(), End> {
        if !self.greeted && !self.greet()? {
            return Ok(());
        }
        loop {
            let (commands, wrong) = self.decode();
            if !commands.is_empty() {
                self.heard = Instant::now();
                self.execute(commands).await?;
            }
            match wrong {
                _ if !self.incoming.is_empty() && self.begin()? => {}
                None => return Ok(()),
                Some(ProtocolError::LineTooLong) => return Err(End::Closed),
                Some(error) => return Err(self.refuse(&error)),
            }
        }
    }

    /// The protocol's version comes first; false until it is there.
    fn greet(&mut self) -> Result<bool, End> {
        if self.incoming.len() < MAGIC_V2.len() {
            return Ok(false);
        }
        let magic = self.incoming.split_to(MAGIC_V2.len());
        self.greeted = &magic[..] == MAGIC_V2;
        self.stay = self.place.busy();
        match self.greeted {
            true if self.stay.is_none() => Err(End::Ousted),
            true => Ok(true),
            // without a text, and so without the blank
            false => Err(self.refuse_with(ErrorCode::BadProtocol.as_str().to_owned())),
        }
    }

    /// All commands that are here, and what is wrong with the next.
    fn decode(&mut self) -> (Vec<Command>, Option<ProtocolError>) {
        let mut commands = Vec::new();
        loop {
            let limits = &self.broker.config().limits;
            match Command::decode_on(&mut self.incoming, limits, &mut self.unfinished) {
                Ok(Some(command)) => commands.push(command),
                Ok(None) => return (commands, None),
                Err(error) => return (commands, Some(error)),
            }
        }
    }

    /// The client has ended its side: it is told what is missing, should it still listen.
    fn leave(&mut self) -> End {
        let missing = Command::cut_short(&self.incoming, &self.broker.config().limits);
        match missing.filter(|_| self.greeted) {
            Some(missing) => self.refuse(&missing),
            None => End::Closed,
        }
    }

    /// Answers with an error that ends the connection.
    pub(super) fn refuse(&mut self, error: &ProtocolError) -> End {
        self.refuse_with(error.to_string())
    }

    fn refuse_with(&mut self, text: String) -> End {
        let error = Frame::Error(WireError::parse(text.into()));
        self.broker.change(|state, _| state.reply(self.session, |out| error.encode(out)));
        End::Refused
    }

    /// Writes what there is to write, as far as the client takes it.
    fn send(&mut self) -> Result<(), End> {
        loop {
            if !self.sending.has_remaining() {
                let goes_on = self.broker.change(|state, now| state.take_output(self.session, &mut self.sending, now));
                match self.sending.has_remaining() {
                    true => self.sent = Instant::now(),
                    false if goes_on => return Ok(()),
                    false => return Err(End::Closed),
                }
            }
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = self.sending.chunks_vectored(&mut slices);
            match self.socket.try_write(&slices[..filled]) {
                Ok(written) => {
                    self.sending.advance(written);
                    self.sent = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(End::Broken(error)),
            }
        }
    }

    async fn say_last_words(&mut self) -> Result<(), End> {
        loop {
            self.send()?;
            if !self.sending.has_remaining() {
                return Ok(());
            }
            self.socket.writable().await.map_err(End::Broken)?;
        }
    }

    /// When there is something to look at, whatever else happens.
    fn alarm(&self) -> Instant {
        match self.agreed.heartbeat {
            Some(interval) => (self.beat + interval).min(self.heard + 2 * interval).min(self.sent + interval),
            None => Instant::now() + Duration::from_secs(3600),
        }
    }

    /// Sends a heartbeat if it is time; ends what is silent for two of them, or takes nothing for one.
    fn check_time(&mut self, timer: &mut Pin<Box<Sleep>>) -> Result<(), End> {
        let now = Instant::now();
        if let Some(interval) = self.agreed.heartbeat {
            let is_stuck = self.sending.has_remaining() && now >= self.sent + interval;
            if is_stuck || now >= self.heard + 2 * interval {
                return Err(End::Silent);
            }
            if !self.sending.has_remaining() {
                self.sent = now;
            }
            if now >= self.beat + interval {
                self.beat = now;
                let beat = Frame::Response(Response::Heartbeat);
                self.broker.change(|state, _| state.reply(self.session, |out| beat.encode(out)));
            }
        }
        timer.as_mut().reset(self.alarm());
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.broker.disconnect(self.session);
    }
}
