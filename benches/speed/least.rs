//! A minimal broker with a thread for each connection: the remaining time is the client's and the
//! kernel's, which no broker can reduce.
//!
//! It answers each MPUB when it has read it, and keeps its bytes while the client is connected. A
//! consumer gets the same message again and again, as many as its RDY allows and one more for each
//! FIN.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

use bytes::{Buf, Bytes};
use mqueue::proto::{Frame, MAGIC_V2, Message, MessageId, Response, WriteBuffer};

/// The largest number of messages in one write.
const TOGETHER: usize = 1000;
const SIZE: usize = 200;

pub struct Least {
    address: String,
}

impl Least {
    /// Serves until the program ends.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                std::thread::spawn(move || serve(stream.unwrap()));
            }
        });
        Self { address }
    }

    pub fn tcp(&self) -> &str {
        &self.address
    }
}

fn encoded(frame: &Frame) -> Vec<u8> {
    let mut out = WriteBuffer::new();
    frame.encode(&mut out);
    out.copy_to_bytes(out.remaining()).to_vec()
}

/// Serves a client until it disconnects.
fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut incoming = BufReader::with_capacity(1 << 18, stream.try_clone()?);
    incoming.read_exact(&mut [0; MAGIC_V2.len()])?;
    let ok = encoded(&Frame::Response(Response::Ok));
    let message =
        Message { timestamp: 1, attempts: 1, id: MessageId(*b"0123456789abcdef"), body: Bytes::from(vec![b'x'; SIZE]) };
    let message = encoded(&Frame::Message(message));
    let messages = message.repeat(TOGETHER);
    let (mut line, mut kept) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        if incoming.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let mut due = 0;
        match line.split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default() {
            b"SUB" => stream.write_all(&ok)?,
            b"IDENTIFY" | b"MPUB" => {
                let mut length = [0; 4];
                incoming.read_exact(&mut length)?;
                let length = u64::from(u32::from_be_bytes(length));
                let mut body = Vec::with_capacity(length as usize);
                incoming.by_ref().take(length).read_to_end(&mut body)?;
                kept.push(body);
                stream.write_all(&ok)?;
            }
            b"RDY" => due = std::str::from_utf8(&line[4..]).unwrap().trim().parse().unwrap(),
            b"FIN" => {
                due = 1;
                // and all others that have arrived
                let more =
                    incoming.buffer().chunks_exact(line.len()).take_while(|next| next.starts_with(b"FIN ")).count();
                incoming.consume(more * line.len());
                due += more;
            }
            _ => {}
        }
        while due > 0 {
            let count = due.min(TOGETHER);
            stream.write_all(&messages[..count * message.len()])?;
            due -= count;
        }
    }
}
