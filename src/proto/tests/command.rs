//! Encoding and decoding of commands.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::{arbitrary, assert_waits};
use crate::proto::check::{assert_same, decode_leniently, encoded};
use crate::proto::{ChannelName, Command, Limits, MessageId, ProtocolError, TopicName};

const ID: MessageId = MessageId(*b"0123456789abcdef");

fn topic() -> TopicName {
    TopicName::new("t").unwrap()
}

/// Every command and its bytes.
fn literals() -> Vec<(Command, &'static [u8])> {
    let body = Bytes::from_static(b"hi");
    let channel = ChannelName::new("c#ephemeral").unwrap();
    let bodies = [body.clone(), Bytes::from_static(b"\0")].into_iter().collect();
    vec![
        (Command::Identify(Bytes::from_static(b"{}")), b"IDENTIFY\n\0\0\0\x02{}"),
        (Command::Auth(Bytes::from_static(b"secret")), b"AUTH\n\0\0\0\x06secret"),
        (Command::Sub { topic: topic(), channel }, b"SUB t c#ephemeral\n"),
        (Command::Rdy(0), b"RDY 0\n"),
        (Command::Rdy(2500), b"RDY 2500\n"),
        (Command::Fin(ID), b"FIN 0123456789abcdef\n"),
        (Command::Req { id: ID, delay: 90_000 }, b"REQ 0123456789abcdef 90000\n"),
        (Command::Back { id: ID, delay: 7 }, b"BACK 0123456789abcdef 7\n"),
        (Command::Touch(ID), b"TOUCH 0123456789abcdef\n"),
        (Command::Cls, b"CLS\n"),
        (Command::Nop, b"NOP\n"),
        (Command::Pub { topic: topic(), body: body.clone() }, b"PUB t\n\0\0\0\x02hi"),
        (Command::Dpub { topic: topic(), delay: 1500, body }, b"DPUB t 1500\n\0\0\0\x02hi"),
        (Command::Mpub { topic: topic(), bodies }, b"MPUB t\n\0\0\0\x0f\0\0\0\x02\0\0\0\x02hi\0\0\0\x01\0"),
    ]
}

fn decode(bytes: &[u8]) -> Result<Option<Command>, ProtocolError> {
    Command::decode(&mut BytesMut::from(bytes), &Limits::default())
}

#[test]
fn every_command_has_the_bytes_of_the_protocol() {
    for (command, bytes) in literals() {
        assert_eq!(encoded(|out| command.encode(out)).escape_ascii().to_string(), bytes.escape_ascii().to_string());
        assert_same(&command, &BytesMut::from(bytes), decode_leniently);
        assert_waits(&command, bytes, decode_leniently);
    }
}

#[test]
fn commands_that_nsqd_reads_leniently_are_accepted() {
    let (fin, nop) = (Command::Fin(ID), Command::Nop);
    let req = Command::Req { id: ID, delay: 0 };
    let hi = |delay| Command::Dpub { topic: topic(), delay, body: Bytes::from_static(b"a") };
    let one = Command::Pub { topic: topic(), body: Bytes::from_static(b"a") };
    let many = Command::Mpub { topic: topic(), bodies: crate::proto::Bodies::one(Bytes::from_static(b"ab")) };
    let cases: [(&[u8], Command); 15] = [
        (b"RDY\n", Command::Rdy(1)),
        (b"RDY \n", Command::Rdy(0)),
        (b"RDY  5\n", Command::Rdy(0)),
        (b"RDY 007 8 x\r\n", Command::Rdy(7)),
        (b"RDY 99999999999999999999\n", Command::Rdy(u64::MAX)),
        (b"FIN 0123456789abcdef\r\n", fin.clone()),
        (b"FIN 0123456789abcdef x y\n", fin),
        (b"REQ 0123456789abcdef \n", req),
        (b"NOP x\n", nop.clone()),
        (b"NOP\r\n", nop),
        (b"PUB t x\r\n\0\0\0\x01a", one),
        (b"DPUB t \n\0\0\0\x01a", hi(0)),
        (b"DPUB t 3600000 1\n\0\0\0\x01a", hi(3_600_000)),
        (b"MPUB t\n\0\0\0\x01\0\0\0\x01\0\0\0\x02ab", many.clone()),
        (b"MPUB t\n\0\x50\0\0\0\0\0\x01\0\0\0\x02ab", many),
    ];
    for (bytes, expected) in cases {
        assert_eq!(decode(bytes), Ok(Some(expected)), "{}", bytes.escape_ascii());
    }
}

#[test]
fn lines_longer_than_16_kib_are_refused() {
    let nop = |length: usize| [b"NOP ", vec![b'x'; length - 5].as_slice(), b"\n"].concat();
    assert_eq!(decode(&nop(16_384)), Ok(Some(Command::Nop)));
    assert_eq!(decode(&nop(16_385)), Err(ProtocolError::LineTooLong));
    assert_eq!(decode(&[b'x'; 16_383]), Ok(None));
    assert_eq!(decode(&[b'x'; 16_384]), Err(ProtocolError::LineTooLong));
}

#[test]
fn messages_at_the_size_limit_are_accepted() {
    let body = Bytes::from(vec![7; 1 << 20]);
    let bodies = vec![body.clone(); 4].into_iter().collect();
    for command in [Command::Pub { topic: topic(), body }, Command::Mpub { topic: topic(), bodies }] {
        let mut buffer = encoded(|out| command.encode(out));
        assert!(Command::decode(&mut buffer, &Limits::default()) == Ok(Some(command)));
    }
}

#[test]
fn large_bodies_share_the_read_buffer() {
    let body = Bytes::from(vec![7; 1 << 20]);
    let mut buffer = encoded(|out| Command::Pub { topic: topic(), body: body.clone() }.encode(out));
    let read = buffer.as_ptr_range();
    let Ok(Some(Command::Pub { body: decoded, .. })) = Command::decode(&mut buffer, &Limits::default()) else {
        panic!()
    };
    assert!(decoded == body && read.contains(&decoded.as_ptr()), "the body is not copied");
}

proptest! {
    #[test]
    fn decoding_gives_back_what_was_encoded(command in arbitrary::command(20_000)) {
        assert_same(&command, &encoded(|out| command.encode(out)), decode_leniently);
    }

    #[test]
    fn a_command_split_anywhere_is_completed_later(command in arbitrary::command(50)) {
        assert_waits(&command, &encoded(|out| command.encode(out)), decode_leniently);
    }

    #[test]
    fn commands_in_a_row_come_in_order(commands in proptest::collection::vec(arbitrary::command(50), 1..20)) {
        let mut buffer = encoded(|out| commands.iter().for_each(|command| command.encode(out)));
        let decoded: Vec<_> = std::iter::from_fn(|| decode_leniently(&mut buffer).unwrap()).collect();
        prop_assert_eq!(decoded, commands);
        prop_assert!(buffer.is_empty());
    }
}
