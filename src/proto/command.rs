//! Commands: what a client says to nsqd.
//!
//! ```text
//!  FIN 0123456789abcdef\n                                       a line only
//!  PUB topic\n   │ size (4) │ body                              a line and a body
//!  MPUB topic\n  │ size (4) │ count (4) │ size (4) │ body │ …
//! ```
//!
//! Decoding follows nsqd 1.3.0 (`nsqd/protocol_v2.go`) in what it takes, in what it refuses and in the words it refuses
//! with: two blanks make an empty parameter, one CR before the LF is dropped, further parameters are ignored, and MPUB's outer
//! size is checked for its range but its content decides where it ends.

mod decode;

use bytes::Bytes;

use super::{Bodies, ChannelName, MessageId, Outgoing, TopicName};

/// A command with its parameters and body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Who the client is and what it wishes: JSON, see [`super::Identify`].
    Identify(Bytes),
    /// A secret for nsqd's authentication server.
    Auth(Bytes),
    /// Start to receive a channel's messages. Creates the topic and the channel.
    Sub {
        /// The topic.
        topic: TopicName,
        /// Its channel.
        channel: ChannelName,
    },
    /// How many messages may be in flight to this connection. It holds until the next RDY.
    Rdy(u64),
    /// The message is done.
    Fin(MessageId),
    /// The message is wanted again.
    Req {
        /// Which.
        id: MessageId,
        /// When, in milliseconds from now.
        delay: u64,
    },
    /// The message was not tried and is wanted again: this delivery does not count as an attempt. nsqd does not know this command,
    /// mqueue's broker grants it in IDENTIFY.
    Back {
        /// Which.
        id: MessageId,
        /// When, in milliseconds from now.
        delay: u64,
    },
    /// The message needs more time: another message timeout from now.
    Touch(MessageId),
    /// No more messages: what is in flight may still be answered.
    Cls,
    /// Nothing; a sign of life.
    Nop,
    /// Publish one message.
    Pub {
        /// Where to.
        topic: TopicName,
        /// The message.
        body: Bytes,
    },
    /// Publish one message that is delivered later.
    Dpub {
        /// Where to.
        topic: TopicName,
        /// When, in milliseconds from now.
        delay: u64,
        /// The message.
        body: Bytes,
    },
    /// Publish one message, if the topic's epoch is not a later one: nsqd does not know this, mqueue's broker grants it in IDENTIFY.
    Fpub {
        /// Where to.
        topic: TopicName,
        /// The publisher's epoch. It is the topic's from now on.
        epoch: u64,
        /// The message.
        body: Bytes,
    },
    /// Publish several messages, all or none.
    Mpub {
        /// Where to.
        topic: TopicName,
        /// The messages.
        bodies: Bodies,
    },
}

impl Command {
    /// Its first word.
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
    pub fn encode(&self, out: &mut Outgoing) {
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

    /// Writes an MPUB of `bodies`, wherever they are kept.
    pub fn encode_mpub<'a>(topic: &TopicName, bodies: impl Iterator<Item = &'a Bytes> + Clone, out: &mut Outgoing) {
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

fn with_body(out: &mut Outgoing, line: &[u8], body: &Bytes) {
    out.put_slice(line);
    out.put_length(body.len());
    out.put_bytes(body);
}

fn with_id_and_delay(out: &mut Outgoing, verb: &[u8], id: &MessageId, delay: u64) {
    out.put_slice(verb);
    out.put_slice(&id.0);
    out.put_slice(b" ");
    out.put_decimal(delay);
    out.put_slice(b"\n");
}

fn with_id(out: &mut Outgoing, verb: &[u8], id: &MessageId) {
    out.put_slice(verb);
    out.put_slice(&id.0);
    out.put_slice(b"\n");
}
