//! Values for property tests.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::proto::{ChannelName, Command, Frame, Message, MessageId, Response, TopicName, WireError};

/// The maximum of nsqd's range check for DPUB.
const MAX_DELAY: u64 = 3_600_000;

fn name() -> impl Strategy<Value = String> {
    prop_oneof![3 => "[.a-zA-Z0-9_-]{1,64}", 1 => "[.a-zA-Z0-9_-]{1,54}#ephemeral"]
}

fn topic() -> impl Strategy<Value = TopicName> {
    name().prop_map(|name| TopicName::new(&name).unwrap())
}

fn channel() -> impl Strategy<Value = ChannelName> {
    name().prop_map(|name| ChannelName::new(&name).unwrap())
}

fn id() -> impl Strategy<Value = MessageId> {
    "[0-9a-f]{16}".prop_map(|id| MessageId::from_slice(id.as_bytes()).unwrap())
}

/// A body of up to `max` bytes, at least one.
fn body(max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 1..=max).prop_map(Bytes::from)
}

/// Any command, with bodies of up to `max` bytes.
pub(super) fn command(max: usize) -> impl Strategy<Value = Command> {
    prop_oneof![
        body(max).prop_map(Command::Identify),
        body(max).prop_map(Command::Auth),
        (topic(), channel()).prop_map(|(topic, channel)| Command::Sub { topic, channel }),
        any::<u64>().prop_map(Command::Rdy),
        id().prop_map(Command::Fin),
        (id(), any::<u64>()).prop_map(|(id, delay)| Command::Req { id, delay }),
        (id(), any::<u64>()).prop_map(|(id, delay)| Command::Back { id, delay }),
        id().prop_map(Command::Touch),
        Just(Command::Cls),
        Just(Command::Nop),
        (topic(), body(max)).prop_map(|(topic, body)| Command::Pub { topic, body }),
        (topic(), 0..=MAX_DELAY, body(max)).prop_map(|(topic, delay, body)| Command::Dpub { topic, delay, body }),
        (topic(), any::<u64>(), body(max)).prop_map(|(topic, epoch, body)| Command::Fpub { topic, epoch, body }),
        (topic(), vec(body(max), 1..5))
            .prop_map(|(topic, bodies)| Command::Mpub { topic, bodies: bodies.into_iter().collect() }),
    ]
}

/// Any frame, with bodies of up to `max` bytes.
pub(super) fn frame(max: usize) -> impl Strategy<Value = Frame> {
    let message = (any::<i64>(), any::<u16>(), any::<[u8; 16]>(), vec(any::<u8>(), 0..=max));
    prop_oneof![
        Just(Frame::Response(Response::Ok)),
        Just(Frame::Response(Response::Heartbeat)),
        Just(Frame::Response(Response::CloseWait)),
        vec(any::<u8>(), 0..=max).prop_map(|data| Frame::Response(Response::Data([b"{", &data[..]].concat().into()))),
        vec(any::<u8>(), 0..=max).prop_map(|text| Frame::Error(WireError::parse(text.into()))),
        "E_[A-Z_]{1,20}( [ -~]{0,40})?".prop_map(|text| Frame::Error(WireError::parse(text.into()))),
        message.prop_map(|(timestamp, attempts, id, body)| {
            Frame::Message(Message { timestamp, attempts, id: MessageId(id), body: body.into() })
        }),
    ]
}
