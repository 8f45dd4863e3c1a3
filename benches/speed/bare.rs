//! The minimal client: a blocking socket and the codec.

use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::{Buf, BytesMut};
use mqueue::proto::{Command, Frame, MAGIC_V2, Response, WriteBuffer};

pub struct Bare {
    stream: TcpStream,
    incoming: BytesMut,
}

impl Bare {
    pub fn connect(address: &str) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(MAGIC_V2).unwrap();
        Self { stream, incoming: BytesMut::new() }
    }

    pub fn send(&mut self, commands: &[Command]) {
        let mut out = WriteBuffer::new();
        for command in commands {
            command.encode(&mut out);
        }
        self.stream.write_all(&out.copy_to_bytes(out.remaining())).unwrap();
    }

    pub fn frame(&mut self) -> Frame {
        loop {
            if let Some(frame) = Frame::decode(&mut self.incoming, 1 << 28).unwrap() {
                return frame;
            }
            let mut buffer = [0; 64 * 1024];
            let count = self.stream.read(&mut buffer).unwrap();
            assert!(count > 0, "nsqd closed the connection");
            self.incoming.extend_from_slice(&buffer[..count]);
        }
    }

    /// Frames in the buffer, without reading again.
    pub fn ready(&mut self) -> Option<Frame> {
        Frame::decode(&mut self.incoming, 1 << 28).unwrap()
    }

    pub fn ask(&mut self, command: &Command) {
        self.send(std::slice::from_ref(command));
        while self.frame() != Frame::Response(Response::Ok) {}
    }
}
