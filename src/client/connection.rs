//! One TCP connection to nsqd: set up, buffered, and split for the task that owns it.
//!
//! ```text
//!  connect ─▶ "  V2" ─▶ IDENTIFY ─▶ reply ─▶ (TLS, compression and AUTH will stand here) ─▶ ready
//! ```
//!
//! The buffers grow with what has arrived, never with what a peer announces.

use std::io;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Address, Error};
use crate::net;
use crate::proto::{self, Command, Frame, FrameError, Identify, IdentifyReply, MAGIC_V2, Response, WriteBuffer};

/// Bytes to be said beyond which nsqd cannot be reading: answers to all that may be in flight are far fewer.
const MAX_UNREAD: usize = 4 << 20;

/// A frame takes as long as nsqd may be silent, and a second more for so many bytes of it. nsqd itself gives up a client that it hears
/// nothing of for so long.
const MIN_RATE: usize = 16 * 1024;
/// How long a frame may take where there are no heartbeats.
const FRAME_TIME: Duration = Duration::from_secs(60);

/// How connections are made, and what is asked of nsqd on them.
#[derive(Debug, Clone)]
pub struct ConnectConfig {
    /// Client, host and program, and nsqd's settings for the connection.
    pub identify: Identify,
    /// How long connecting, and each answer while setting up, may take.
    pub connect_timeout: Duration,
    /// The largest frame that is taken, in bytes. A peer that announces a larger one is disconnected.
    pub max_frame: u32,
}

impl Default for ConnectConfig {
    fn default() -> Self {
        let identify = Identify {
            feature_negotiation: true,
            user_agent: Some(concat!("mqueue/", env!("CARGO_PKG_VERSION")).to_owned()),
            ..Identify::default()
        };
        Self { identify, connect_timeout: Duration::from_secs(5), max_frame: 256 << 20 }
    }
}

impl ConnectConfig {
    /// The time between nsqd's heartbeats; none are sent where it is `None`.
    pub(crate) fn heartbeat(&self) -> Option<Duration> {
        match self.identify.heartbeat_interval {
            Some(..0) => None,
            Some(ms) => Some(Duration::from_millis(ms.unsigned_abs())),
            None => Some(Duration::from_secs(30)),
        }
    }
}

/// Whether nsqd takes connections: connects, identifies, and leaves again. Changes nothing there.
pub async fn identify(address: &Address, config: &ConnectConfig) -> Result<IdentifyReply, Error> {
    Ok(Connection::open(address, config).await?.granted)
}

/// A connection that is identified, and all that belongs to it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) address: Address,
    pub(crate) stream: TcpStream,
    pub(crate) incoming: Incoming,
    pub(crate) out: WriteBuffer,
    pub(crate) granted: IdentifyReply,
    /// The shortest time between a command and its answer so far. The handshake counts, too: it is the kernels' own, where a new channel's
    /// SUB waits for nsqd's disk.
    pub(crate) round_trip: Duration,
    answer_within: Duration,
    frame_time: Duration,
}

impl Connection {
    /// Connects and identifies.
    pub(crate) async fn open(address: &Address, config: &ConnectConfig) -> Result<Self, Error> {
        let begun = Instant::now();
        let unreachable = |source| Error::Unreachable { address: address.clone(), source };
        let connecting = net::connect(address.host(), address.port(), config.connect_timeout);
        let stream = connecting.await.map_err(unreachable)?;
        let round_trip = begun.elapsed();
        let mut connection = Self {
            address: address.clone(),
            stream,
            incoming: Incoming::new(config.max_frame),
            out: WriteBuffer::new(),
            granted: IdentifyReply::default(),
            round_trip,
            answer_within: config.connect_timeout,
            frame_time: config.heartbeat().map_or(FRAME_TIME, |every| 2 * every),
        };
        connection.out.put_slice(MAGIC_V2);
        let wishes = serde_json::to_vec(&config.identify).expect("an Identify has only string keys");
        let reply = connection.ask(&Command::Identify(wishes.into())).await?;
        if let Response::Data(json) = reply {
            let odd = |e| connection.unexpected(format!("an IDENTIFY reply that cannot be read ({e})"));
            connection.granted = serde_json::from_slice(&json).map_err(odd)?;
            connection.granted.check(&config.identify).map_err(|what| connection.violation(what))?;
        }
        Ok(connection)
    }

    /// Sends a command and waits for its answer; heartbeats before it are answered. Only while nothing else is on its way.
    pub(crate) async fn ask(&mut self, command: &Command) -> Result<Response, Error> {
        command.encode(&mut self.out);
        let (asked, within) = (Instant::now(), self.answer_within);
        let answered = timeout(within, self.answer()).await;
        self.round_trip = self.round_trip.min(asked.elapsed());
        answered.map_err(|_| Error::Silent { address: self.address.clone(), after: within })?
    }

    async fn answer(&mut self) -> Result<Response, Error> {
        loop {
            self.flush().await?;
            match self.frame().await? {
                Frame::Response(Response::Heartbeat) => self.answer_heartbeat(),
                Frame::Response(response) => return Ok(response),
                Frame::Error(source) => return Err(Error::Refused { address: self.address.clone(), source }),
                Frame::Message(_) => return Err(self.unexpected("a message".to_owned())),
            }
        }
    }

    async fn frame(&mut self) -> Result<Frame, Error> {
        loop {
            let broken = |source| Error::Frame { address: self.address.clone(), source };
            if let Some(frame) = self.incoming.next_frame().map_err(broken)? {
                return Ok(frame);
            }
            // a message is not awaited to its end: it may be large, and comes only after RDY
            if self.incoming.message_is_coming() {
                return Err(self.unexpected("a message".to_owned()));
            }
            self.more().await?;
        }
    }

    /// When the frame that has begun to come has to be there, if one has.
    pub(crate) fn frame_due(&self) -> Option<Instant> {
        self.incoming.due(self.frame_time)
    }

    /// The frame was not there in time.
    pub(crate) fn slow(&self) -> Error {
        Error::Slow { address: self.address.clone(), after: self.incoming.time(self.frame_time) }
    }

    /// Writes what is to be said.
    pub(crate) async fn flush(&mut self) -> Result<(), Error> {
        self.stream.write_all_buf(&mut self.out).await.map_err(|e| self.closed(Some(e)))
    }

    /// Reads once.
    pub(crate) async fn more(&mut self) -> Result<(), Error> {
        match self.incoming.fill(&mut self.stream).await {
            Ok(0) => Err(self.closed(None)),
            Ok(_) => Ok(()),
            Err(e) => Err(self.closed(Some(e))),
        }
    }

    fn closed(&self, source: Option<io::Error>) -> Error {
        Error::Closed { address: self.address.clone(), source }
    }

    /// Answers a heartbeat, unless so much is to be said already that nsqd cannot be reading it: any command will do.
    pub(crate) fn answer_heartbeat(&mut self) {
        answer_heartbeat(&mut self.out);
    }

    /// Fails if nsqd sends messages and reads no answers: they would gather for good.
    pub(crate) fn check_unread(&self) -> Result<(), Error> {
        match self.out.remaining() {
            ..MAX_UNREAD => Ok(()),
            unread => Err(self.violation(format!("it sends messages, and leaves {unread} bytes of answers unread"))),
        }
    }

    pub(crate) fn unexpected(&self, what: String) -> Error {
        Error::Unexpected { address: self.address.clone(), what: proto::excerpt(what.as_bytes()) }
    }

    pub(crate) fn violation(&self, what: String) -> Error {
        Error::Violation { address: self.address.clone(), what }
    }
}

/// Answers a heartbeat, unless nsqd leaves so much unread already that one answer more would only take memory.
pub(crate) fn answer_heartbeat(out: &mut WriteBuffer) {
    if out.remaining() < MAX_UNREAD {
        Command::Nop.encode(out);
    }
}

/// Bytes that came in, and the frames in them.
#[derive(Debug)]
pub(crate) struct Incoming {
    buffer: BytesMut,
    max_frame: u32,
    /// When the frame began to come of which a part is there.
    begun: Option<Instant>,
    /// A frame was taken since then: whatever is there belongs to another one.
    took: bool,
}

impl Incoming {
    fn new(max_frame: u32) -> Self {
        Self { buffer: BytesMut::new(), max_frame, begun: None, took: false }
    }

    /// The next frame that has wholly arrived.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let frame = Frame::decode(&mut self.buffer, self.max_frame)?;
        if frame.is_some() {
            self.took = true;
        } else if std::mem::take(&mut self.took) || self.begun.is_none() {
            self.wait_anew();
        }
        Ok(frame)
    }

    /// The time of the frame that has begun to come begins here: it was not read meanwhile.
    pub(crate) fn wait_anew(&mut self) {
        self.begun = (!self.buffer.is_empty()).then(Instant::now);
    }

    /// How long the frame may take that has begun to come.
    fn time(&self, patience: Duration) -> Duration {
        let length = Frame::length(&self.buffer).unwrap_or(0);
        patience + Duration::from_secs((length / MIN_RATE) as u64)
    }

    /// When the frame has to be there that has begun to come, if one has.
    fn due(&self, patience: Duration) -> Option<Instant> {
        self.begun.filter(|_| !self.took).map(|begun| begun + self.time(patience))
    }

    /// True if what comes next is a message, of which the first bytes are enough.
    pub(crate) fn message_is_coming(&self) -> bool {
        Frame::is_message(&self.buffer)
    }

    /// Reads once; 0 is the end. Cancel-safe: what was read is kept.
    pub(crate) async fn fill(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        let length = Frame::length(&self.buffer);
        from.read_buf(&mut proto::read_room(&mut self.buffer, length)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Reads what is there once, and takes the frames in it; says for how long the rest is waited for.
    async fn left(incoming: &mut Incoming, mut bytes: &[u8]) -> Option<Duration> {
        while !bytes.is_empty() {
            incoming.fill(&mut bytes).await.unwrap();
        }
        while incoming.next_frame().unwrap().is_some() {}
        incoming.due(PATIENCE).map(|due| due.saturating_duration_since(Instant::now()))
    }

    #[tokio::test]
    async fn a_frame_has_a_time_from_its_first_byte_on_whatever_comes_of_it() {
        let mut incoming = Incoming::new(u32::MAX);
        let frame = b"\0\0\0\x06\0\0\0\0OK";
        assert_eq!(left(&mut incoming, b"").await, None);
        assert_eq!(left(&mut incoming, frame).await, None);
        assert!(left(&mut incoming, &frame[..5]).await.unwrap() <= PATIENCE);
        let begun = incoming.begun;
        left(&mut incoming, &frame[5..7]).await;
        assert_eq!(incoming.begun, begun, "a byte more gives it no more time");
        left(&mut incoming, &[&frame[7..], &frame[..1]].concat()).await;
        assert!(incoming.begun > begun, "the next one has a time of its own");
        assert_eq!(left(&mut incoming, &frame[1..]).await, None);
        // 1 GiB at 16 KiB a second
        let large = left(&mut incoming, &[&(1_u32 << 30).to_be_bytes()[..], &2_u32.to_be_bytes()].concat()).await;
        assert!(large.unwrap() > Duration::from_secs(65_000), "{large:?}");
    }
}
