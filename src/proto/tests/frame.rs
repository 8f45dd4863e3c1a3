//! Encoding and decoding of frames, and bytes that are not a frame.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::{arbitrary, assert_waits};
use crate::proto::check::{assert_same, decode_frame, encoded};
use crate::proto::{Frame, FrameError, Message, MessageId, Response, WireError};

/// Every kind of frame and its bytes.
fn literals() -> Vec<(Frame, &'static [u8])> {
    let message = |attempts, body: &'static [u8]| {
        let (timestamp, id) = (0x18e9_e141_90c8_a7f4, MessageId(*b"18a261c5af269000"));
        Frame::Message(Message { timestamp, attempts, id, body: Bytes::from_static(body) })
    };
    let error = |text: &'static [u8]| Frame::Error(WireError::parse(Bytes::from_static(text)));
    vec![
        (Frame::Response(Response::Ok), b"\0\0\0\x06\0\0\0\0OK"),
        (Frame::Response(Response::Heartbeat), b"\0\0\0\x0f\0\0\0\0_heartbeat_"),
        (Frame::Response(Response::CloseWait), b"\0\0\0\x0e\0\0\0\0CLOSE_WAIT"),
        (Frame::Response(Response::Data(Bytes::from_static(b"{}"))), b"\0\0\0\x06\0\0\0\0{}"),
        (Frame::Response(Response::Data(Bytes::new())), b"\0\0\0\x04\0\0\0\0"),
        (error(b"E_BAD_PROTOCOL"), b"\0\0\0\x12\0\0\0\x01E_BAD_PROTOCOL"),
        (error(b"E_INVALID invalid command x"), b"\0\0\0\x1f\0\0\0\x01E_INVALID invalid command x"),
        (message(1, b"x"), b"\0\0\0\x1f\0\0\0\x02\x18\xe9\xe1A\x90\xc8\xa7\xf4\0\x0118a261c5af269000x"),
        (message(0xffff, b""), b"\0\0\0\x1e\0\0\0\x02\x18\xe9\xe1A\x90\xc8\xa7\xf4\xff\xff18a261c5af269000"),
    ]
}

fn decode(bytes: &[u8], max: u32) -> Result<Option<Frame>, FrameError> {
    Frame::decode(&mut BytesMut::from(bytes), max)
}

#[test]
fn every_frame_has_the_bytes_of_the_protocol() {
    for (frame, bytes) in literals() {
        assert_eq!(encoded(|out| frame.encode(out)).escape_ascii().to_string(), bytes.escape_ascii().to_string());
        assert_same(&frame, &BytesMut::from(bytes), decode_frame);
        assert_waits(&frame, bytes, decode_frame);
    }
}

#[test]
fn bytes_that_are_not_a_frame_are_refused() {
    let size = |size| FrameError::Size { size, max: 100 };
    let cases: [(&[u8], FrameError); 9] = [
        (b"\0\0\0\0", size(0)),
        (b"\0\0\0\x03", size(3)),
        (b"\0\0\0\x65", size(101)),
        (b"\x7f\xff\xff\xff", size(0x7fff_ffff)),
        (b"\xff\xff\xff\xff", size(u32::MAX)),
        (b"\0\0\0\x04\0\0\0\x03", FrameError::Type(3)),
        (b"\0\0\0\x04\xff\xff\xff\xff", FrameError::Type(u32::MAX)),
        (b"\0\0\0\x1d\0\0\0\x02xxxxxxxxxxxxxxxxxxxxxxxxx", FrameError::ShortMessage(25)),
        (b"HTTP/1.1 400 Bad Request\r\n", FrameError::Http),
    ];
    for (bytes, expected) in cases {
        assert_eq!(decode(bytes, 100), Err(expected), "{}", bytes.escape_ascii());
    }
}

#[test]
fn oversized_frames_are_refused_before_their_bytes_arrive() {
    let mut buffer = BytesMut::from(&b"\xff\xff\xff\xff"[..]);
    let capacity = buffer.capacity();
    assert!(Frame::decode(&mut buffer, 1 << 20).is_err());
    assert_eq!(buffer.capacity(), capacity, "nothing is allocated for 4 GB");
    assert_eq!(decode(b"\0\0\0\x64\0\0\0\x02", 100), Ok(None));
}

proptest! {
    #[test]
    fn decoding_gives_back_what_was_encoded(frame in arbitrary::frame(20_000)) {
        assert_same(&frame, &encoded(|out| frame.encode(out)), decode_frame);
    }

    #[test]
    fn a_frame_split_anywhere_is_completed_later(frame in arbitrary::frame(200)) {
        assert_waits(&frame, &encoded(|out| frame.encode(out)), decode_frame);
    }

    #[test]
    fn frames_in_a_row_come_in_order(frames in proptest::collection::vec(arbitrary::frame(50), 1..20)) {
        let mut buffer = encoded(|out| frames.iter().for_each(|frame| frame.encode(out)));
        let decoded: Vec<_> = std::iter::from_fn(|| decode_frame(&mut buffer).unwrap()).collect();
        prop_assert_eq!(decoded, frames);
        prop_assert!(buffer.is_empty());
    }
}
