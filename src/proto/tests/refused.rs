//! Refused commands: nsqd's error texts, and no allocation for announced sizes.

use bytes::BytesMut;
use proptest::prelude::*;

use crate::proto::{Command, ErrorCode, Limits, ProtocolError};

/// Command lines and nsqd 1.3.0's answers.
const LINES: &[(&[u8], &str)] = &[
    (b"\n", "E_INVALID invalid command "),
    (b"\r\n", "E_INVALID invalid command "),
    (b" NOP\n", "E_INVALID invalid command "),
    (b"nop\n", "E_INVALID invalid command nop"),
    (b"FOO\"'\\\t\xc3\xbc bar\n", "E_INVALID invalid command FOO\"'\\\t\u{fc}"),
    (b"FIN\n", "E_INVALID FIN insufficient number of params"),
    (b"FIN \n", "E_INVALID invalid message ID"),
    (b"FIN  0123456789abcdef\n", "E_INVALID invalid message ID"),
    (b"FIN 0123456789abcdef\r\r\n", "E_INVALID invalid message ID"),
    (b"TOUCH\n", "E_INVALID TOUCH insufficient number of params"),
    (b"TOUCH x\n", "E_INVALID invalid message ID"),
    (b"REQ\n", "E_INVALID REQ insufficient number of params"),
    (b"REQ 0123456789abcdef\n", "E_INVALID REQ insufficient number of params"),
    (b"REQ abc x\n", "E_INVALID invalid message ID"),
    (b"REQ 0123456789abcdef -1\n", "E_INVALID REQ could not parse timeout -1"),
    (b"RDY abc\n", "E_INVALID RDY could not parse count abc"),
    (b"RDY -1\n", "E_INVALID RDY could not parse count -1"),
    (b"RDY 9\"\t\n", "E_INVALID RDY could not parse count 9\"\t"),
    (b"SUB\n", "E_INVALID SUB insufficient number of parameters"),
    (b"SUB t\n", "E_INVALID SUB insufficient number of parameters"),
    (b"SUB  c\n", "E_BAD_TOPIC SUB topic name \"\" is not valid"),
    (b"SUB a' c\n", "E_BAD_TOPIC SUB topic name \"a'\" is not valid"),
    (b"SUB t \n", "E_BAD_CHANNEL SUB channel name \"\" is not valid"),
    (b"SUB t \xc3\xbc'\n", "E_BAD_CHANNEL SUB channel name \"\u{fc}'\" is not valid"),
    (b"PUB\n", "E_INVALID PUB insufficient number of parameters"),
    (b"PUB \n", "E_BAD_TOPIC PUB topic name \"\" is not valid"),
    (b"PUB a\"b\n", "E_BAD_TOPIC PUB topic name \"a\\\"b\" is not valid"),
    (b"PUB \xff\n", "E_BAD_TOPIC PUB topic name \"\\xff\" is not valid"),
    (b"MPUB\n", "E_INVALID MPUB insufficient number of parameters"),
    (b"MPUB \n", "E_BAD_TOPIC E_BAD_TOPIC MPUB topic name \"\" is not valid"),
    (b"DPUB\n", "E_INVALID DPUB insufficient number of parameters"),
    (b"DPUB t\n", "E_INVALID DPUB insufficient number of parameters"),
    (b"DPUB ! x\n", "E_BAD_TOPIC DPUB topic name \"!\" is not valid"),
    (b"DPUB t x\n", "E_INVALID DPUB could not parse timeout x"),
    (b"DPUB t -1\n", "E_INVALID DPUB could not parse timeout -1"),
    (b"DPUB t 3600001\n", "E_INVALID DPUB timeout 3600001 out of range 0-3600000"),
    (b"AUTH x\n", "E_INVALID AUTH invalid number of parameters"),
    (b"AUTH \n", "E_INVALID AUTH invalid number of parameters"),
];

/// Commands with invalid sizes and nsqd 1.3.0's answers.
const BODIES: &[(&[u8], &str)] = &[
    (b"IDENTIFY x\n\0\0\0\0", "E_BAD_BODY IDENTIFY invalid body size 0"),
    (b"IDENTIFY\n\xff\xff\xff\xfe", "E_BAD_BODY IDENTIFY invalid body size -2"),
    (b"IDENTIFY\n\0\x50\0\x01", "E_BAD_BODY IDENTIFY body too big 5242881 > 5242880"),
    (b"AUTH\n\0\0\0\0", "E_BAD_BODY AUTH invalid body size 0"),
    (b"AUTH\n\0\x50\0\x01", "E_BAD_BODY AUTH body too big 5242881 > 5242880"),
    (b"PUB t\n\0\0\0\0", "E_BAD_MESSAGE PUB invalid message body size 0"),
    (b"PUB t\n\xff\xff\xff\xff", "E_BAD_MESSAGE PUB invalid message body size -1"),
    (b"PUB t\n\0\x10\0\x01", "E_BAD_MESSAGE PUB message too big 1048577 > 1048576"),
    (b"PUB t\n\x7f\xff\xff\xff", "E_BAD_MESSAGE PUB message too big 2147483647 > 1048576"),
    (b"DPUB t 1 x\n\xff\xff\xff\xfb", "E_BAD_MESSAGE DPUB invalid message body size -5"),
    (b"DPUB t 3600000\n\0\x1e\x84\x80", "E_BAD_MESSAGE DPUB message too big 2000000 > 1048576"),
    (b"MPUB t\n\0\0\0\0", "E_BAD_BODY MPUB invalid body size 0"),
    (b"MPUB t\n\xff\xff\xff\xff", "E_BAD_BODY MPUB invalid body size -1"),
    (b"MPUB t\n\0\x50\0\x01", "E_BAD_BODY MPUB body too big 5242881 > 5242880"),
    (b"MPUB t\n\0\0\0\x01\0\0\0\0", "E_BAD_BODY MPUB invalid message count 0"),
    (b"MPUB t\n\0\0\0\x01\xff\xff\xff\xfd", "E_BAD_BODY MPUB invalid message count -3"),
    (b"MPUB t\n\0\0\0\x01\x7f\xff\xff\xff", "E_BAD_BODY MPUB invalid message count 2147483647"),
    (b"MPUB t\n\0\0\0\x01\0\x10\0\0", "E_BAD_BODY MPUB invalid message count 1048576"),
    (b"MPUB t\n\0\0\0\x01\0\x0f\xff\xff\0\0\0\0", "E_BAD_MESSAGE MPUB invalid message(0) body size 0"),
    (b"MPUB t\n\0\0\0\x01\0\0\0\x02\0\0\0\x01a\xff\xff\xff\xf9", "E_BAD_MESSAGE MPUB invalid message(1) body size -7"),
    (b"MPUB t\n\0\0\0\x01\0\0\0\x01\0\x10\0\x01", "E_BAD_MESSAGE MPUB message too big 1048577 > 1048576"),
];

#[test]
fn refusals_have_nsqds_error_texts() {
    for (bytes, expected) in LINES.iter().chain(BODIES) {
        let mut buffer = BytesMut::from(*bytes);
        let error = Command::decode(&mut buffer, &Limits::default()).unwrap_err();
        assert_eq!(error.to_string(), *expected, "to {}", bytes.escape_ascii());
    }
}

#[test]
fn commands_are_refused_at_the_earliest_byte() {
    for (bytes, expected) in LINES.iter().chain(BODIES) {
        let mut buffer = BytesMut::from(&bytes[..bytes.len() - 1]);
        assert_eq!(Command::decode(&mut buffer, &Limits::default()), Ok(None), "one byte short of {expected}");
    }
}

/// nsqd wraps such delays around, and delivers the first message at once.
#[test]
fn a_delay_beyond_64_bits_is_out_of_range() {
    for delay in ["18446744073709551616", "99999999999999999999"] {
        let mut buffer = BytesMut::from(format!("DPUB t {delay}\n").as_bytes());
        let error = Command::decode(&mut buffer, &Limits::default()).unwrap_err();
        let text = "DPUB timeout 18446744073709551615 out of range 0-3600000".to_owned();
        assert_eq!(error, ProtocolError::Answer { code: ErrorCode::Invalid, text });
    }
}

#[test]
fn announced_sizes_allocate_nothing() {
    let pieces: [&[u8]; 3] = [b"PUB t\n\0\x10\0\0", b"MPUB t\n\0\0\0\x01\0\x0f\xff\xff", b"IDENTIFY\n\0\x50\0\0"];
    for bytes in pieces {
        let mut buffer = BytesMut::from(bytes);
        let capacity = buffer.capacity();
        assert_eq!(Command::decode(&mut buffer, &Limits::default()), Ok(None));
        assert_eq!(buffer.capacity(), capacity, "{}", bytes.escape_ascii());
    }
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
        crate::proto::check::commands(&bytes);
        crate::proto::check::frames(&bytes);
    }
}
