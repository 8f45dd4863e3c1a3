//! A TCP connection to nsqd: connecting, IDENTIFY, buffered reads and writes.
//!
//! ```text
//!  connect ─▶ "  V2" ─▶ IDENTIFY ─▶ reply ─▶ TLS ─▶ deflate or snappy ─▶ AUTH ─▶ ready
//! ```
//!
//! The read buffer grows with the received bytes, never with an announced size.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use tokio_util::io::{poll_read_buf, poll_write_buf};

use super::security::Security;
use super::{Address, Error};
use crate::net;
use crate::net::transport::Transport;
use crate::proto::{
    self, AuthReply, Command, Frame, FrameError, Identify, IdentifyReply, MAGIC_V2, Response, WriteBuffer,
};

/// Unsent bytes above which nsqd cannot be reading: the answers to all messages in flight are far
/// fewer.
const MAX_UNREAD: usize = 4 << 20;

/// The least rate in bytes per second for a frame. A frame has as much time as nsqd may be silent,
/// plus a second for each `MIN_RATE` bytes. nsqd itself disconnects a client that is silent for as
/// long.
const MIN_RATE: usize = 16 * 1024;
/// The time for a frame on a connection without heartbeats.
const FRAME_TIME: Duration = Duration::from_secs(60);

/// Settings of connections to nsqd.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// use mqueue::client::ConnectConfig;
///
/// let config = ConnectConfig::default().with_connect_timeout(Duration::from_secs(2));
/// assert_eq!(config.connect_timeout, Duration::from_secs(2));
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectConfig {
    /// The IDENTIFY settings: names of the client, host and program, heartbeats, message timeout.
    pub identify: Identify,
    /// The time limit for connecting, and for each answer during setup. Default: 5 s.
    pub connect_timeout: Duration,
    /// The largest accepted frame in bytes; a peer that announces a larger one is disconnected.
    /// Default: 256 MiB.
    pub max_frame: u32,
    /// TLS, compression and AUTH.
    pub security: Security,
}

impl Default for ConnectConfig {
    fn default() -> Self {
        let identify = Identify {
            feature_negotiation: true,
            user_agent: Some(concat!("mqueue/", env!("CARGO_PKG_VERSION")).to_owned()),
            ..Identify::default()
        };
        Self { identify, connect_timeout: Duration::from_secs(5), max_frame: 256 << 20, security: Security::default() }
    }
}

impl ConnectConfig {
    /// Sets the IDENTIFY settings. Keep `feature_negotiation` on: without it nsqd's limits stay
    /// unknown.
    #[must_use]
    pub fn with_identify(mut self, identify: Identify) -> Self {
        self.identify = identify;
        self
    }

    /// Sets the time limit for connecting, and for each answer during setup.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the largest accepted frame in bytes.
    #[must_use]
    pub fn with_max_frame(mut self, bytes: u32) -> Self {
        self.max_frame = bytes;
        self
    }

    /// Sets TLS, compression and AUTH.
    #[must_use]
    pub fn with_security(mut self, security: Security) -> Self {
        self.security = security;
        self
    }

    /// The interval of nsqd's heartbeats; `None` if they are disabled.
    pub(crate) fn heartbeat(&self) -> Option<Duration> {
        match self.identify.heartbeat_interval {
            Some(..0) => None,
            Some(ms) => Some(Duration::from_millis(ms.unsigned_abs())),
            None => Some(Duration::from_secs(30)),
        }
    }
}

/// Connects, sends IDENTIFY and disconnects: a probe that changes nothing on nsqd.
///
/// # Errors
/// The address is unreachable, silent, not an nsqd, or refuses the connection.
pub async fn identify(address: &Address, config: &ConnectConfig) -> Result<IdentifyReply, Error> {
    Ok(Connection::open(address, config).await?.granted)
}

/// Connects, sends IDENTIFY and AUTH as the settings ask for, and disconnects; returns what AUTH
/// grants, `None` without a secret. Nothing changes on nsqd.
///
/// # Errors
/// Those of [`identify`]; nsqd refuses the secret.
pub async fn authenticate(address: &Address, config: &ConnectConfig) -> Result<Option<AuthReply>, Error> {
    Ok(Connection::open(address, config).await?.auth)
}

/// Connects, and returns the certificates that nsqd shows if it is asked for TLS; `None` if it
/// offers no TLS. Nothing is verified, and no secret is sent. The handshake has the same time limit
/// as connecting.
///
/// # Errors
/// nsqd is unreachable, or shows no certificate.
#[cfg(feature = "tls")]
pub async fn inspect_certificates(
    address: &Address,
    config: &ConnectConfig,
) -> Result<Option<Vec<net::tls::CertificateInfo>>, Error> {
    let mut identify = config.identify.clone();
    identify.tls_v1 = true;
    let connection = Connection::introduce(address, config, &identify).await?;
    let (Transport::Plain(stream), true) = (connection.stream, connection.granted.tls_v1) else { return Ok(None) };
    let failed = |source| Error::Tls { address: address.clone(), source };
    let after = config.connect_timeout;
    let shown = timeout(after, net::tls::certificates_of(address.host(), stream)).await;
    shown.map_err(|_| Error::Silent { address: address.clone(), after })?.map(Some).map_err(failed)
}

/// A connection after IDENTIFY, with its buffers.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) address: Address,
    stream: Transport<net::NetStream>,
    pub(crate) incoming: ReadBuffer,
    pub(crate) out: WriteBuffer,
    pub(crate) granted: IdentifyReply,
    /// The reply to AUTH.
    auth: Option<AuthReply>,
    /// The shortest time so far between a command and its answer, or of the TCP handshake. The
    /// handshake involves only the kernels, while the SUB of a new channel waits for nsqd's disk.
    pub(crate) round_trip: Duration,
    answer_within: Duration,
    frame_time: Duration,
    /// Bytes of `out` taken by the stream since [`Step::Wrote`] was returned last.
    written: usize,
    /// The stream holds bytes back until it is flushed.
    unflushed: bool,
    write_failed: bool,
}

/// One step of [`Connection::exchange`].
#[derive(Debug)]
pub(crate) enum Step {
    /// The stream took this many bytes of `out`.
    Wrote(usize),
    /// A read ended, with this many bytes; 0 is the end.
    Read(io::Result<usize>),
}

impl Connection {
    /// Connects, sends IDENTIFY, and sets up what is asked for.
    pub(crate) async fn open(address: &Address, config: &ConnectConfig) -> Result<Self, Error> {
        let identify = config.security.asked(&config.identify);
        Self::introduce(address, config, &identify).await?.upgrade(&config.security).await
    }

    /// Connects and sends IDENTIFY.
    async fn introduce(address: &Address, config: &ConnectConfig, identify: &Identify) -> Result<Self, Error> {
        let begun = Instant::now();
        let unreachable = |source| Error::Unreachable { address: address.clone(), source };
        let connecting = net::connect(address.host(), address.port(), config.connect_timeout);
        let stream = connecting.await.map_err(unreachable)?;
        let round_trip = begun.elapsed();
        let mut connection = Self {
            address: address.clone(),
            stream: Transport::Plain(stream),
            incoming: ReadBuffer::new(config.max_frame),
            out: WriteBuffer::new(),
            granted: IdentifyReply::default(),
            auth: None,
            round_trip,
            answer_within: config.connect_timeout,
            frame_time: config.heartbeat().map_or(FRAME_TIME, |every| 2 * every),
            written: 0,
            unflushed: false,
            write_failed: false,
        };
        connection.out.put_slice(MAGIC_V2);
        let wishes = serde_json::to_vec(identify).expect("an Identify has only string keys");
        let reply = connection.ask(&Command::Identify(wishes.into())).await?;
        if let Response::Data(json) = reply {
            let odd = |e| connection.unexpected(format!("an IDENTIFY reply that cannot be read ({e})"));
            connection.granted = serde_json::from_slice(&json).map_err(odd)?;
            connection.granted.check(identify).map_err(|what| connection.violation(what))?;
        }
        Ok(connection)
    }

    /// Sets up what IDENTIFY's reply grants, in NSQ's order; each step is answered with OK over the
    /// new stream.
    ///
    /// # Errors
    /// Anything asked for and not granted: nothing falls back to plain text, and no secret goes
    /// over it.
    #[cfg_attr(not(any(feature = "tls", feature = "compression")), allow(unused_mut))]
    async fn upgrade(mut self, security: &Security) -> Result<Self, Error> {
        security.check(&self.address, &self.granted)?;
        #[cfg(feature = "tls")]
        if let (Some(tls), true) = (&security.tls, self.granted.tls_v1) {
            if !self.incoming.buffer.is_empty() {
                return Err(self.violation("it sends bytes before the TLS handshake".to_owned()));
            }
            let Transport::Plain(stream) = self.stream else { unreachable!("TLS comes first") };
            let address = self.address.clone();
            let failed = |source| Error::Tls { address: address.clone(), source };
            let shaken = timeout(self.answer_within, tls.connect(self.address.host(), stream)).await;
            let silent = |_| Error::Silent { address: address.clone(), after: self.answer_within };
            self.stream = Transport::Tls(Box::new(shaken.map_err(silent)?.map_err(failed)?.into()));
            self.upgraded().await?;
        }
        #[cfg(feature = "compression")]
        if let Some(compression) = security.granted_compression(&self.granted) {
            let already_read = std::mem::take(&mut self.incoming.buffer);
            let compressed = net::transport::Compressed::new(self.stream, compression, already_read);
            self.stream = Transport::Compressed(Box::new(compressed));
            self.upgraded().await?;
        }
        if let Some(secret) = &security.auth_secret {
            match self.ask(&Command::Auth(secret.bytes())).await? {
                Response::Data(json) => self.auth = Some(serde_json::from_slice(&json).unwrap_or_default()),
                other => return Err(self.unexpected(format!("{other:?}"))),
            }
        }
        Ok(self)
    }

    /// Waits for the OK that ends an upgrade.
    #[cfg(any(feature = "tls", feature = "compression"))]
    async fn upgraded(&mut self) -> Result<(), Error> {
        let within = self.answer_within;
        let answered = timeout(within, self.answer()).await;
        match answered.map_err(|_| Error::Silent { address: self.address.clone(), after: within })?? {
            Response::Ok => Ok(()),
            other => Err(self.unexpected(format!("{other:?}"))),
        }
    }

    /// Writes from `out`, or reads once if `reads`: whichever is possible first. After a failed
    /// write it only reads, since nsqd's last words may still be there. Cancel-safe.
    pub(crate) async fn exchange(&mut self, reads: bool) -> Step {
        poll_fn(|cx| {
            if self.has_unsent() && !self.write_failed {
                match self.poll_write(cx) {
                    Poll::Ready(Ok(())) => return Poll::Ready(Step::Wrote(std::mem::take(&mut self.written))),
                    Poll::Ready(Err(_)) => self.write_failed = true,
                    Poll::Pending => {}
                }
            }
            match reads {
                true => self.incoming.poll_fill(&mut self.stream, cx).map(Step::Read),
                false => Poll::Pending,
            }
        })
        .await
    }

    /// True until everything in `out` is with the kernel.
    pub(crate) fn has_unsent(&self) -> bool {
        self.out.has_remaining() || self.unflushed
    }

    /// Writes once, and flushes once all is written.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out.has_remaining() {
            self.written += ready!(poll_write_buf(Pin::new(&mut self.stream), cx, &mut self.out))?;
            self.unflushed = true;
        }
        if !self.out.has_remaining() {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes the rest, ends this side, and reads until nsqd has ended the other.
    pub(crate) async fn close(&mut self) -> io::Result<()> {
        self.stream.write_all_buf(&mut self.out).await?;
        self.stream.flush().await?;
        self.stream.shutdown().await?;
        while self.incoming.fill(&mut self.stream).await? > 0 {
            while let Ok(Some(_)) = self.incoming.next_frame() {}
        }
        Ok(())
    }

    /// Sends a command and waits for its answer; answers heartbeats meanwhile. Requires that no
    /// other command is unanswered.
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
            match self.read_frame().await? {
                Frame::Response(Response::Heartbeat) => self.answer_heartbeat(),
                Frame::Response(response) => return Ok(response),
                Frame::Error(source) => return Err(Error::Refused { address: self.address.clone(), source }),
                Frame::Message(_) => return Err(self.unexpected("a message".to_owned())),
            }
        }
    }

    async fn read_frame(&mut self) -> Result<Frame, Error> {
        loop {
            let broken = |source| Error::Frame { address: self.address.clone(), source };
            if let Some(frame) = self.incoming.next_frame().map_err(broken)? {
                return Ok(frame);
            }
            // an unexpected message may be large: its end is not awaited
            if self.incoming.message_is_coming() {
                return Err(self.unexpected("a message".to_owned()));
            }
            self.read_once().await?;
        }
    }

    /// The deadline of the partially received frame, if any.
    pub(crate) fn frame_due(&self) -> Option<Instant> {
        self.incoming.due(self.frame_time)
    }

    /// The error for a frame that missed its deadline.
    pub(crate) fn slow_frame_error(&self) -> Error {
        Error::Slow { address: self.address.clone(), after: self.incoming.time(self.frame_time) }
    }

    /// Writes all unsent bytes.
    pub(crate) async fn flush(&mut self) -> Result<(), Error> {
        let written = async {
            self.stream.write_all_buf(&mut self.out).await?;
            self.stream.flush().await
        };
        written.await.map_err(|e| self.closed(Some(e)))
    }

    /// Reads once.
    pub(crate) async fn read_once(&mut self) -> Result<(), Error> {
        match self.incoming.fill(&mut self.stream).await {
            Ok(0) => Err(self.closed(None)),
            Ok(_) => Ok(()),
            Err(e) => Err(self.closed(Some(e))),
        }
    }

    /// The error of a connection that ended, or whose TLS nsqd ended: it says so after the
    /// handshake where it dislikes a client's certificate.
    pub(crate) fn closed(&self, source: Option<io::Error>) -> Error {
        #[cfg(feature = "tls")]
        if let Some(source) = source.as_ref().and_then(net::tls::copy) {
            return Error::Tls { address: self.address.clone(), source };
        }
        Error::Closed { address: self.address.clone(), source }
    }

    /// Answers a heartbeat, see [`answer_heartbeat`].
    pub(crate) fn answer_heartbeat(&mut self) {
        answer_heartbeat(&mut self.out);
    }

    /// Fails if nsqd sends messages but reads no answers, which would accumulate without limit.
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

/// Answers a heartbeat with NOP, unless nsqd has left so many bytes unread that any of them can
/// serve as the answer.
pub(crate) fn answer_heartbeat(out: &mut WriteBuffer) {
    if out.remaining() < MAX_UNREAD {
        Command::Nop.encode(out);
    }
}

/// Received bytes and the frames in them.
#[derive(Debug)]
pub(crate) struct ReadBuffer {
    buffer: BytesMut,
    max_frame: u32,
    /// The time at which the incomplete frame began to arrive.
    begun: Option<Instant>,
    /// True if a frame was taken since `begun`: the remaining bytes belong to another frame.
    took: bool,
}

impl ReadBuffer {
    fn new(max_frame: u32) -> Self {
        Self { buffer: BytesMut::new(), max_frame, begun: None, took: false }
    }

    /// The next complete frame.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let frame = Frame::decode(&mut self.buffer, self.max_frame)?;
        if frame.is_some() {
            self.took = true;
        } else if std::mem::take(&mut self.took) || self.begun.is_none() {
            self.restart_frame_deadline();
        }
        Ok(frame)
    }

    /// Restarts the time of the incomplete frame, for instance after a pause in reading.
    pub(crate) fn restart_frame_deadline(&mut self) {
        self.begun = (!self.buffer.is_empty()).then(Instant::now);
    }

    /// The time limit for the incomplete frame.
    fn time(&self, patience: Duration) -> Duration {
        let length = Frame::length(&self.buffer).unwrap_or(0);
        patience + Duration::from_secs((length / MIN_RATE) as u64)
    }

    /// The deadline of the incomplete frame, if any.
    fn due(&self, patience: Duration) -> Option<Instant> {
        self.begun.filter(|_| !self.took).map(|begun| begun + self.time(patience))
    }

    /// True if the next frame is a message, complete or not.
    pub(crate) fn message_is_coming(&self) -> bool {
        Frame::is_message(&self.buffer)
    }

    /// Reads once; returns 0 at the end of the stream. Cancel-safe: bytes that were read are kept.
    pub(crate) async fn fill(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        poll_fn(|cx| self.poll_fill(from, cx)).await
    }

    fn poll_fill(&mut self, from: &mut (impl AsyncRead + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let length = Frame::length(&self.buffer);
        poll_read_buf(Pin::new(from), cx, &mut proto::read_room(&mut self.buffer, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Reads `bytes` and takes the complete frames; returns the time left for the rest.
    async fn left(incoming: &mut ReadBuffer, mut bytes: &[u8]) -> Option<Duration> {
        while !bytes.is_empty() {
            incoming.fill(&mut bytes).await.unwrap();
        }
        while incoming.next_frame().unwrap().is_some() {}
        incoming.due(PATIENCE).map(|due| due.saturating_duration_since(Instant::now()))
    }

    #[tokio::test]
    async fn each_frame_has_a_deadline_from_its_first_byte() {
        let mut incoming = ReadBuffer::new(u32::MAX);
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
