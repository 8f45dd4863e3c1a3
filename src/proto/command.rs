//! Commands from a client to nsqd.
//!
//! ```text
//!  FIN 0123456789abcdef\n                                       a line only
//!  PUB topic\n   │ size (4) │ body                              a line and a body
//!  MPUB topic\n  │ size (4) │ count (4) │ size (4) │ body │ …
//! ```
//!
//! Decoding follows nsqd 1.3.0 (`nsqd/protocol_v2.go`) in what it accepts, what it refuses and the
//! error texts: two blanks make an empty parameter, one CR before the LF is dropped, further
//! parameters are ignored, and MPUB's outer size is checked for its range but its content decides
//! where it ends.

mod decode;

pub use self::decode::DecodeProgress;

use bytes::Bytes;

use super::{Bodies, ChannelName, MessageId, TopicName, WriteBuffer};

/// A command with its parameters and body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The client's name and the settings it asks for: JSON, see [`super::Identify`].
    Identify(Bytes),
    /// A secret for nsqd's authentication server.
    Auth(Bytes),
    /// Subscribes to a channel. Creates the topic and the channel if they do not exist.
    Sub {
        /// The topic.
        topic: TopicName,
        /// Its channel.
        channel: ChannelName,
    },
    /// The number of messages that may be in flight to this connection, until the next RDY.
    Rdy(u64),
    /// Finishes a message: it leaves the channel.
    Fin(MessageId),
    /// Requeues a message.
    Req {
        /// The message.
        id: MessageId,
        /// The delay in milliseconds.
        delay: u64,
    },
    /// Requeues a message that was not tried: this delivery does not count as an attempt. nsqd does
    /// not know this command; mqueue's broker grants it in IDENTIFY.
    Back {
        /// The message.
        id: MessageId,
        /// The delay in milliseconds.
        delay: u64,
    },
    /// Resets the timeout of a message in flight.
    Touch(MessageId),
    /// Closes the subscription: nsqd sends no more messages, and accepts answers to those in
    /// flight.
    Cls,
    /// No operation; answers a heartbeat.
    Nop,
    /// Publishes one message.
    Pub {
        /// The topic.
        topic: TopicName,
        /// The message body.
        body: Bytes,
    },
    /// Publishes one deferred message.
    Dpub {
        /// The topic.
        topic: TopicName,
        /// The delay in milliseconds.
        delay: u64,
        /// The message body.
        body: Bytes,
    },
    /// Publishes one message unless the topic's epoch is later. nsqd does not know this command;
    /// mqueue's broker grants it in IDENTIFY.
    Fpub {
        /// The topic.
        topic: TopicName,
        /// The publisher's epoch, which becomes the topic's.
        epoch: u64,
        /// The message body.
        body: Bytes,
    },
    /// Publishes several messages, all or none.
    Mpub {
        /// The topic.
        topic: TopicName,
        /// The message bodies.
        bodies: Bodies,
    },
}

impl Command {
    /// The command's first word.
    pub fn name(&self) -> &'static [u8] {
        match self {
            Self::Identify(_) => b"IDENTIFY",
            Self::Auth(_) => b"AUTH",
            Self::Sub { .. } => b"SUB",
            Self::Rdy(_) => b"RDY",
            Self::Fin(_) => b"FIN",
            Self::Req { .. } => b"REQ",
            Self::Back { .. } => b"BACK",
            Self::Touch(_) => b"TOUCH",
            Self::Cls => b"CLS",
            Self::Nop => b"NOP",
            Self::Pub { .. } => b"PUB",
            Self::Dpub { .. } => b"DPUB",
            Self::Fpub { .. } => b"FPUB",
            Self::Mpub { .. } => b"MPUB",
        }
    }

    /// Writes the command as a client sends it.
    pub fn encode(&self, out: &mut WriteBuffer) {
        match self {
            Self::Identify(json) => with_body(out, b"IDENTIFY\n", json),
            Self::Auth(secret) => with_body(out, b"AUTH\n", secret),
            Self::Sub { topic, channel } => {
                out.put_slice(b"SUB ");
                out.put_slice(topic.as_str().as_bytes());
                out.put_slice(b" ");
                out.put_slice(channel.as_str().as_bytes());
                out.put_slice(b"\n");
            }
            Self::Rdy(count) => {
                out.put_slice(b"RDY ");
                out.put_decimal(*count);
                out.put_slice(b"\n");
            }
            Self::Fin(id) => with_id(out, b"FIN ", id),
            Self::Touch(id) => with_id(out, b"TOUCH ", id),
            Self::Req { id, delay } => with_id_and_delay(out, b"REQ ", id, *delay),
            Self::Back { id, delay } => with_id_and_delay(out, b"BACK ", id, *delay),
            Self::Cls => out.put_slice(b"CLS\n"),
            Self::Nop => out.put_slice(b"NOP\n"),
            Self::Pub { topic, body } => {
                out.put_slice(b"PUB ");
                out.put_slice(topic.as_str().as_bytes());
                with_body(out, b"\n", body);
            }
            Self::Dpub { topic, delay, body } => {
                out.put_slice(b"DPUB ");
                out.put_slice(topic.as_str().as_bytes());
                out.put_slice(b" ");
                out.put_decimal(*delay);
                with_body(out, b"\n", body);
            }
            Self::Fpub { topic, epoch, body } => {
                out.put_slice(b"FPUB ");
                out.put_slice(topic.as_str().as_bytes());
                out.put_slice(b" ");
                out.put_decimal(*epoch);
                with_body(out, b"\n", body);
            }
            Self::Mpub { topic, bodies } => {
                let all: Vec<Bytes> = bodies.iter().collect();
                Self::encode_mpub(topic, all.iter(), out);
            }
        }
    }

    /// Writes an MPUB of `bodies` without copying them into a [`Bodies`] first.
    pub fn encode_mpub<'a>(topic: &TopicName, bodies: impl Iterator<Item = &'a Bytes> + Clone, out: &mut WriteBuffer) {
        let (count, length) = bodies.clone().fold((0, 4), |(count, sum), body| (count + 1, sum + 4 + body.len()));
        out.put_slice(b"MPUB ");
        out.put_slice(topic.as_str().as_bytes());
        out.put_slice(b"\n");
        out.put_length(length);
        out.put_length(count);
        for body in bodies {
            with_body(out, b"", body);
        }
    }
}

fn with_body(out: &mut WriteBuffer, line: &[u8], body: &Bytes) {
    out.put_slice(line);
    out.put_length(body.len());
    out.put_bytes(body);
}

fn with_id_and_delay(out: &mut WriteBuffer, verb: &[u8], id: &MessageId, delay: u64) {
    out.put_slice(verb);
    out.put_slice(&id.0);
    out.put_slice(b" ");
    out.put_decimal(delay);
    out.put_slice(b"\n");
}

fn with_id(out: &mut WriteBuffer, verb: &[u8], id: &MessageId) {
    out.put_slice(verb);
    out.put_slice(&id.0);
    out.put_slice(b"\n");
}
