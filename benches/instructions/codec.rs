//! The wire protocol: commands and messages, encoded and decoded.

use std::hint::black_box;

use bytes::{Buf, Bytes, BytesMut};
use mqueue::proto::{Command, Frame, Limits, Message, MessageId, TopicName, WriteBuffer};

use crate::Work;

pub const COMMANDS: u64 = 3000;
pub const MESSAGES: u64 = 3000;

/// A message body of 200 bytes.
pub fn body() -> Bytes {
    Bytes::from(vec![b'x'; 200])
}

fn written(out: &mut WriteBuffer) -> BytesMut {
    BytesMut::from(&out.copy_to_bytes(out.remaining())[..])
}

/// Commands: PUB, MPUB of ten and FIN, in turns.
pub fn commands() -> Work {
    let topic = TopicName::new("bench").unwrap();
    let each = [
        Command::Pub { topic: topic.clone(), body: body() },
        Command::Mpub { topic, bodies: std::iter::repeat_n(body(), 10).collect() },
        Command::Fin(MessageId(*b"0123456789abcdef")),
    ];
    Box::new(move || {
        let mut out = WriteBuffer::new();
        for command in each.iter().cycle().take(COMMANDS as usize) {
            black_box(command).encode(&mut out);
        }
        let mut bytes = written(&mut out);
        let mut decoded = 0;
        while let Some(command) = Command::decode(&mut bytes, &Limits::default()).unwrap() {
            black_box(command);
            decoded += 1;
        }
        assert_eq!(decoded, COMMANDS);
    })
}

/// Messages as nsqd sends them.
pub fn messages() -> Work {
    let id = MessageId(*b"0123456789abcdef");
    let frame = Frame::Message(Message { timestamp: 1_700_000_000_000_000_000, attempts: 1, id, body: body() });
    Box::new(move || {
        let mut out = WriteBuffer::new();
        for _ in 0..MESSAGES {
            black_box(&frame).encode(&mut out);
        }
        let mut bytes = written(&mut out);
        let mut decoded = 0;
        while let Some(frame) = Frame::decode(&mut bytes, 1 << 20).unwrap() {
            black_box(frame);
            decoded += 1;
        }
        assert_eq!(decoded, MESSAGES);
    })
}
