//! An nsqd that does what the test says, right or wrong, and nothing else.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use mqueue::proto::{Command, Frame, Limits, Message, MessageId, Outgoing, Response, WireError};

use super::{PATIENCE, wait_until};

/// Listens; the test accepts each connection and plays nsqd on it.
pub struct FakeNsqd(TcpListener);

impl FakeNsqd {
    /// On a port of the system's choice.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        Self(listener)
    }

    /// `host:port` for the TCP protocol.
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
        let (stream, _) = accepted.expect("waited for");
        stream.set_nonblocking(false).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a valid timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a valid timeout");
        Peer { stream, buffer: BytesMut::new() }
    }

    /// Waits for the next connection, and lets it subscribe.
    #[track_caller]
    pub fn subscribed(&self) -> Peer {
        let mut peer = self.accept();
        peer.identified();
        assert!(matches!(peer.command(), Command::Sub { .. }), "SUB follows IDENTIFY");
        peer.send(&ok());
        peer
    }
}

/// One connection to a client, seen from nsqd.
pub struct Peer {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Peer {
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

    /// The next command; `None` once the client has closed the connection.
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

    /// The next command.
    #[track_caller]
    pub fn command(&mut self) -> Command {
        self.next().expect("the client closed the connection")
    }

    /// Reads commands up to the first that is `wanted`; gives all of them.
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

    /// What the client has said so far, all of it: asks for a sign of life, and reads up to it.
    #[track_caller]
    pub fn said(&mut self) -> Vec<Command> {
        self.send(&Frame::Response(Response::Heartbeat));
        let mut commands = self.until(|command| *command == Command::Nop);
        commands.pop();
        commands
    }

    /// Everything up to the connection's end. CLS is answered.
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
        let mut out = Outgoing::new();
        frames.for_each(|frame| frame.encode(&mut out));
        let bytes = out.copy_to_bytes(out.remaining());
        self.send_raw(&bytes);
    }

    /// Sends a frame; false if the client has closed the connection.
    pub fn try_send(&mut self, frame: &Frame) -> bool {
        let mut out = Outgoing::new();
        frame.encode(&mut out);
        let bytes = out.copy_to_bytes(out.remaining());
        self.stream.write_all(&bytes).is_ok()
    }

    /// Sends bytes. A client that has closed the connection does not matter.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Reads once; false at the end.
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

/// The answer OK.
pub fn ok() -> Frame {
    Frame::Response(Response::Ok)
}

/// An error, in nsqd's words.
pub fn error(text: &'static str) -> Frame {
    Frame::Error(WireError::parse(Bytes::from_static(text.as_bytes())))
}

/// The message number `id` for the `attempts`-th time.
pub fn message(id: u64, attempts: u16, body: &'static [u8]) -> Frame {
    Frame::Message(Message { timestamp: 0, attempts, id: message_id(id), body: Bytes::from_static(body) })
}

/// The id of message number `id`.
pub fn message_id(id: u64) -> MessageId {
    MessageId::from_slice(format!("{id:016x}").as_bytes()).expect("16 digits")
}
