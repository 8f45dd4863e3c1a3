//! A fake nsqd, whose every answer, right or wrong, is written by the test.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use mqueue::proto::{Command, Frame, Limits, Message, MessageId, Response, WireError, WriteBuffer};

use super::{PATIENCE, wait_until};

/// Listens; the test accepts each connection and plays nsqd on it.
pub struct FakeNsqd(TcpListener);

impl FakeNsqd {
    /// Listens on a port of the system's choice.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        Self(listener)
    }

    /// Returns `host:port` of the TCP protocol.
    pub fn tcp(&self) -> String {
        self.0.local_addr().expect("it listens").to_string()
    }

    /// Waits for the next connection.
    #[track_caller]
    pub fn accept(&self) -> Peer {
        let mut accepted = None;
        wait_until("a connection to the fake nsqd", || {
            accepted = self.0.accept().ok();
            accepted.is_some()
        });
        Self::peer(accepted.expect("waited for").0)
    }

    /// Waits for the next connection within this time, and lets it subscribe.
    #[track_caller]
    pub fn subscribed_within(&self, within: Duration) -> Option<Peer> {
        let start = Instant::now();
        while start.elapsed() < within {
            if let Ok((stream, _)) = self.0.accept() {
                return Some(Self::subscribes(Self::peer(stream)));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    fn peer(stream: TcpStream) -> Peer {
        stream.set_nonblocking(false).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a valid timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a valid timeout");
        Peer { stream, buffer: BytesMut::new() }
    }

    /// Waits for the next connection, and lets it subscribe.
    #[track_caller]
    pub fn subscribed(&self) -> Peer {
        Self::subscribes(self.accept())
    }

    #[track_caller]
    fn subscribes(mut peer: Peer) -> Peer {
        peer.identified();
        assert!(matches!(peer.command(), Command::Sub { .. }), "SUB follows IDENTIFY");
        peer.send(&ok());
        peer
    }
}

impl Peer {
    /// Reads the protocol's magic and IDENTIFY, and sends this answer.
    #[track_caller]
    pub fn grants(&mut self, reply: &str) {
        self.identify();
        self.send(&Frame::Response(Response::Data(reply.to_owned().into())));
    }
}

/// One connection to a client, seen from nsqd.
pub struct Peer {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Peer {
    /// Clones the connection for another thread to send on.
    pub fn another(&self) -> Peer {
        Peer { stream: self.stream.try_clone().expect("a socket"), buffer: BytesMut::new() }
    }

    /// Reads the protocol's magic and IDENTIFY, and answers as an nsqd without features.
    #[track_caller]
    pub fn identified(&mut self) {
        self.identify();
        self.send(&ok());
    }

    /// Reads the protocol's magic and IDENTIFY.
    #[track_caller]
    pub fn identify(&mut self) {
        self.magic();
        assert!(matches!(self.command(), Command::Identify(_)), "IDENTIFY comes first");
    }

    #[track_caller]
    fn magic(&mut self) {
        while self.buffer.len() < 4 {
            assert!(self.fill(), "the client closed the connection");
        }
        assert_eq!(&self.buffer.split_to(4)[..], b"  V2");
    }

    /// Waits for bytes that are no commands, and drops them.
    #[track_caller]
    pub fn wait_for_bytes(&mut self) {
        assert!(!self.buffer.is_empty() || self.fill(), "the client closed the connection");
        self.buffer.clear();
    }

    /// Reads the next command; `None` once the client has closed the connection.
    #[track_caller]
    pub fn next(&mut self) -> Option<Command> {
        loop {
            let limits = Limits { max_msg_size: 64 << 20, ..Limits::default() };
            if let Some(command) = Command::decode(&mut self.buffer, &limits).expect("the client speaks NSQ") {
                return Some(command);
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// Reads the next command.
    #[track_caller]
    pub fn command(&mut self) -> Command {
        self.next().expect("the client closed the connection")
    }

    /// Reads commands up to the first that is `wanted`; returns all of them.
    #[track_caller]
    pub fn until(&mut self, wanted: impl Fn(&Command) -> bool) -> Vec<Command> {
        let start = Instant::now();
        let mut commands = Vec::new();
        while !commands.last().is_some_and(&wanted) {
            assert!(start.elapsed() < PATIENCE, "in vain after {commands:?}");
            let Some(command) = self.next() else { panic!("closed after {commands:?}") };
            commands.push(command);
        }
        commands
    }

    /// Reads commands until the client takes messages.
    #[track_caller]
    pub fn until_ready(&mut self) {
        self.until(|command| matches!(command, Command::Rdy(1..)));
    }

    /// Reads all commands that the client has sent so far: sends a heartbeat, and reads up to the
    /// NOP.
    #[track_caller]
    pub fn said(&mut self) -> Vec<Command> {
        self.send(&Frame::Response(Response::Heartbeat));
        let mut commands = self.until(|command| *command == Command::Nop);
        commands.pop();
        commands
    }

    /// Reads all commands up to the end of the connection; answers CLS.
    #[track_caller]
    pub fn rest(mut self) -> Vec<Command> {
        let mut commands = Vec::new();
        while let Some(command) = self.next() {
            if command == Command::Cls {
                self.send(&Frame::Response(Response::CloseWait));
            }
            commands.push(command);
        }
        commands
    }

    /// Sends a frame. A client that has closed the connection does not matter.
    pub fn send(&mut self, frame: &Frame) {
        self.try_send(frame);
    }

    /// Sends frames in one write, so that they arrive together.
    pub fn send_all(&mut self, frames: impl Iterator<Item = Frame>) {
        self.send_raw(&encoded(frames));
    }

    /// Sends a frame; false if the client has closed the connection.
    pub fn try_send(&mut self, frame: &Frame) -> bool {
        self.stream.write_all(&encoded([frame.clone()])).is_ok()
    }

    /// Sends bytes. A client that has closed the connection does not matter.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Sends these bytes again and again for this long at most, and reads nothing. Ends before when
    /// the client closes the connection, or takes nothing for a while. Returns how often they were
    /// sent.
    pub fn flood(&mut self, bytes: &[u8], within: Duration) -> usize {
        self.stream.set_write_timeout(Some(Duration::from_millis(300))).expect("a valid timeout");
        let start = Instant::now();
        let mut times = 0;
        while start.elapsed() < within && self.stream.write_all(bytes).is_ok() {
            times += 1;
        }
        self.stream.set_write_timeout(Some(PATIENCE)).expect("a valid timeout");
        times
    }

    /// Sends bytes one by one, a millisecond apart, until the client closes the connection; returns
    /// false if it has not within this time.
    pub fn drip(&mut self, bytes: impl Iterator<Item = u8>, within: Duration) -> bool {
        let start = Instant::now();
        self.stream.set_nodelay(true).expect("a socket");
        for byte in bytes.take_while(|_| start.elapsed() < within) {
            if self.stream.write_all(&[byte]).is_err() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        false
    }

    /// Reads once; returns false at the end.
    fn fill(&mut self) -> bool {
        let mut bytes = [0; 16 * 1024];
        match self.stream.read(&mut bytes) {
            Ok(count) => {
                self.buffer.extend_from_slice(&bytes[..count]);
                count > 0
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => panic!("the client said nothing for {PATIENCE:?}"),
            Err(_) => false,
        }
    }
}

/// Makes the answer OK.
pub fn ok() -> Frame {
    Frame::Response(Response::Ok)
}

/// Makes an error frame with this text.
pub fn error(text: &'static str) -> Frame {
    Frame::Error(WireError::parse(Bytes::from_static(text.as_bytes())))
}

/// Encodes frames.
pub fn encoded(frames: impl IntoIterator<Item = Frame>) -> Vec<u8> {
    let mut out = WriteBuffer::new();
    frames.into_iter().for_each(|frame| frame.encode(&mut out));
    out.copy_to_bytes(out.remaining()).to_vec()
}

/// Makes message number `id` in its `attempts`-th attempt.
pub fn message(id: u64, attempts: u16, body: &'static [u8]) -> Frame {
    Frame::Message(Message { timestamp: 0, attempts, id: message_id(id), body: Bytes::from_static(body) })
}

/// Returns the message id of message number `id`.
pub fn message_id(id: u64) -> MessageId {
    MessageId::from_slice(format!("{id:016x}").as_bytes()).expect("16 digits")
}
