//! Decoding of commands, as nsqd 1.3.0 reads them (`nsqd/protocol_v2.go`).

use std::borrow::Cow;

use bytes::{Buf, Bytes, BytesMut};

use super::super::quote::quote;
use super::super::{Bodies, ChannelName, ErrorCode, Limits, MessageId, ProtocolError, TopicName};
use super::Command;

impl Command {
    /// Takes the first command from `buffer`; `None`, with `buffer` unchanged, until the command is
    /// complete. Bodies share memory with `buffer`.
    ///
    /// # Errors
    /// nsqd's refusal, as soon as the bytes so far show it: an oversized body is refused by its
    /// announced size, before it is read.
    pub fn decode(buffer: &mut BytesMut, limits: &Limits) -> Result<Option<Self>, ProtocolError> {
        Self::decode_resumed(buffer, limits, &mut DecodeProgress::default())
    }

    /// Decodes as [`decode`](Self::decode) does, and resumes where the last call on the growing
    /// buffer stopped: `progress` keeps how far that call got. A command that arrives a few bytes
    /// at a time is scanned once, not once for each read.
    ///
    /// Between two calls, bytes may only be appended, unless a command was taken or `progress` is
    /// reset to its default.
    pub fn decode_resumed(
        buffer: &mut BytesMut,
        limits: &Limits,
        progress: &mut DecodeProgress,
    ) -> Result<Option<Self>, ProtocolError> {
        let Some(end) = memchr::memchr(b'\n', &buffer[..buffer.len().min(limits.max_line)]) else {
            return if buffer.len() >= limits.max_line { Err(ProtocolError::LineTooLong) } else { Ok(None) };
        };
        let line = buffer[..end].strip_suffix(b"\r").unwrap_or(&buffer[..end]);
        let head = CommandHead::parse(line, limits)?;
        let mut reader = BodyReader { bytes: &buffer[end + 1..], at: 0, missing: None };
        let Some(body) = head.body(&mut reader, limits, progress)? else { return Ok(None) };
        let length = end + 1 + reader.at;
        if let CommandHead::Whole(command) = head {
            // most commands are a FIN, which shares nothing with the buffer
            buffer.advance(length);
            return Ok(Some(command));
        }
        let command = buffer.split_to(length).freeze();
        Ok(Some(head.complete(body, &command.slice(end + 1..))))
    }

    /// The first word of the first command in `buffer`; `None` until its line is complete.
    pub fn verb(buffer: &[u8]) -> Option<&[u8]> {
        let line = &buffer[..memchr::memchr(b'\n', buffer)?];
        line.strip_suffix(b"\r").unwrap_or(line).split(|b| *b == b' ').next()
    }

    /// The topic of the first command in `buffer`, if it is an MPUB with a complete, valid line.
    #[cfg(feature = "broker")]
    pub(crate) fn mpub_topic(buffer: &[u8]) -> Option<TopicName> {
        let line = &buffer[..memchr::memchr(b'\n', buffer)?];
        let topic = line.strip_suffix(b"\r").unwrap_or(line).strip_prefix(b"MPUB ")?;
        std::str::from_utf8(topic).ok()?.parse().ok()
    }

    /// The announced length in bytes of the first, incomplete command; `None` until its size field
    /// is there.
    #[cfg(feature = "broker")]
    pub(crate) fn length(buffer: &[u8]) -> Option<usize> {
        let body = memchr::memchr(b'\n', buffer)? + 1;
        let size = u32::from_be_bytes(*buffer[body..].first_chunk()?);
        Some(body + 4 + size as usize)
    }

    /// nsqd's error for a connection that ends with these bytes, the beginning of a command; `None`
    /// if there is no error for them.
    pub fn cut_short(buffer: &[u8], limits: &Limits) -> Option<ProtocolError> {
        let end = memchr::memchr(b'\n', buffer)?;
        let line = buffer[..end].strip_suffix(b"\r").unwrap_or(&buffer[..end]);
        let mut reader = BodyReader { bytes: &buffer[end + 1..], at: 0, missing: None };
        CommandHead::parse(line, limits).ok()?.body(&mut reader, limits, &mut DecodeProgress::default()).ok()?;
        reader.missing
    }
}

/// The progress through an incomplete command. For MPUB: the messages that are complete.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DecodeProgress {
    messages: i32,
    /// The end of these messages, as an offset from the end of the command's line.
    end: usize,
}

/// A parsed command line; some commands have a body after it.
enum CommandHead {
    Whole(Command),
    Identify,
    Auth,
    Pub(TopicName),
    Dpub(TopicName, u64),
    Fpub(TopicName, u64),
    Mpub(TopicName),
}

/// A range of bytes, as offsets from the end of the command's line.
type Span = std::ops::Range<usize>;

/// The range of a command's body or bodies, as offsets from the end of its line.
enum BodySpan {
    None,
    One(Span),
    /// The bodies' range and number, each body behind its size field.
    Many(Span, u32),
}

impl CommandHead {
    fn parse(line: &[u8], limits: &Limits) -> Result<Self, ProtocolError> {
        let mut words = line.split(|b| *b == b' ');
        let verb = words.next().unwrap_or_default();
        let mut word = |missing: &str| words.next().ok_or_else(|| invalid(missing));
        Ok(match verb {
            b"FIN" => Self::Whole(Command::Fin(message_id(word("FIN insufficient number of params")?)?)),
            b"RDY" => {
                let count = word("").map_or(Ok(1), |count| {
                    decimal(count).ok_or_else(|| invalid(format!("RDY could not parse count {}", as_text(count))))
                })?;
                Self::Whole(Command::Rdy(count))
            }
            b"PUB" => Self::Pub(topic("PUB", word("PUB insufficient number of parameters")?)?),
            // nsqd says the code twice here
            b"MPUB" => Self::Mpub(topic("E_BAD_TOPIC MPUB", word("MPUB insufficient number of parameters")?)?),
            b"DPUB" => {
                let missing = "DPUB insufficient number of parameters";
                let (name, delay) = (word(missing)?, word(missing)?);
                Self::Dpub(topic("DPUB", name)?, delay_of_dpub(delay, limits)?)
            }
            b"FPUB" => {
                let missing = "FPUB insufficient number of parameters";
                let (name, epoch) = (word(missing)?, word(missing)?);
                Self::Fpub(topic("FPUB", name)?, epoch_of_fpub(epoch)?)
            }
            b"REQ" => {
                let missing = "REQ insufficient number of params";
                let (id, delay) = (message_id(word(missing)?), word(missing)?);
                Self::Whole(Command::Req { id: id?, delay: delay_of("REQ", delay)? })
            }
            b"BACK" => {
                let missing = "BACK insufficient number of params";
                let (id, delay) = (message_id(word(missing)?), word(missing)?);
                Self::Whole(Command::Back { id: id?, delay: delay_of("BACK", delay)? })
            }
            b"TOUCH" => Self::Whole(Command::Touch(message_id(word("TOUCH insufficient number of params")?)?)),
            b"SUB" => {
                let missing = "SUB insufficient number of parameters";
                let (name, channel) = (word(missing)?, word(missing)?);
                Self::Whole(Command::Sub { topic: topic("SUB", name)?, channel: channel_of_sub(channel)? })
            }
            b"IDENTIFY" => Self::Identify,
            b"AUTH" if words.next().is_some() => return Err(invalid("AUTH invalid number of parameters")),
            b"AUTH" => Self::Auth,
            b"CLS" => Self::Whole(Command::Cls),
            b"NOP" => Self::Whole(Command::Nop),
            other => return Err(invalid(format!("invalid command {}", as_text(other)))),
        })
    }

    /// Finds the body; `None` until it is complete.
    fn body(
        &self,
        reader: &mut BodyReader<'_>,
        limits: &Limits,
        progress: &mut DecodeProgress,
    ) -> Result<Option<BodySpan>, ProtocolError> {
        let (bad_body, bad_message) = (ErrorCode::BadBody, ErrorCode::BadMessage);
        let (max_body, max_msg) = (limits.max_body_size, limits.max_msg_size);
        let one = match self {
            Self::Whole(_) => return Ok(Some(BodySpan::None)),
            Self::Mpub(_) => {
                return Ok(reader.messages(limits, progress)?.map(|(at, count)| BodySpan::Many(at, count)));
            }
            Self::Identify => reader.sized(bad_body, max_body, "IDENTIFY", ("body", "body")),
            Self::Auth => reader.sized(bad_body, max_body, "AUTH", ("body", "body")),
            Self::Pub(_) => reader.sized(bad_message, max_msg, "PUB", ("message body", "message")),
            Self::Dpub(..) => reader.sized(bad_message, max_msg, "DPUB", ("message body", "message")),
            Self::Fpub(..) => reader.sized(bad_message, max_msg, "FPUB", ("message body", "message")),
        };
        Ok(one?.map(BodySpan::One))
    }

    /// Joins the line with its body. [`CommandHead::body`] returned the kind of body that the line
    /// asks for.
    fn complete(self, body: BodySpan, bytes: &Bytes) -> Command {
        match (self, body) {
            (Self::Identify, BodySpan::One(at)) => Command::Identify(bytes.slice(at)),
            (Self::Auth, BodySpan::One(at)) => Command::Auth(bytes.slice(at)),
            (Self::Pub(topic), BodySpan::One(at)) => Command::Pub { topic, body: bytes.slice(at) },
            (Self::Dpub(topic, delay), BodySpan::One(at)) => Command::Dpub { topic, delay, body: bytes.slice(at) },
            (Self::Fpub(topic, epoch), BodySpan::One(at)) => Command::Fpub { topic, epoch, body: bytes.slice(at) },
            (Self::Mpub(topic), BodySpan::Many(at, count)) => {
                let bodies = Bodies::from_sized(bytes.slice(at), count).expect("the reader went over the sizes");
                Command::Mpub { topic, bodies }
            }
            (
                Self::Whole(_)
                | Self::Identify
                | Self::Auth
                | Self::Pub(_)
                | Self::Dpub(..)
                | Self::Fpub(..)
                | Self::Mpub(_),
                _,
            ) => {
                unreachable!("CommandHead::body gives the body that the line asks for")
            }
        }
    }
}

/// A reader of the bytes after a command's line. Each step returns `None` if the bytes end too
/// early.
struct BodyReader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// nsqd's error for bytes that end too early.
    missing: Option<ProtocolError>,
}

impl BodyReader<'_> {
    /// A 32-bit signed big-endian number, as nsqd reads sizes.
    fn number(&mut self) -> Option<i32> {
        let bytes = self.bytes.get(self.at..self.at + 4)?;
        self.at += 4;
        Some(i32::from_be_bytes(bytes.try_into().ok()?))
    }

    fn take(&mut self, length: usize) -> Option<Span> {
        let range = self.at..self.at.checked_add(length)?;
        self.bytes.get(range.clone())?;
        self.at = range.end;
        Some(range)
    }

    /// Records nsqd's error if `found` is `None`.
    fn or_record_missing<T>(&mut self, found: Option<T>, code: ErrorCode, what: impl FnOnce() -> String) -> Option<T> {
        if found.is_none() {
            self.missing = Some(ProtocolError::new(code, what()));
        }
        found
    }

    /// Reads a size within 1..=`limit` and takes as many bytes. The nouns are nsqd's: for a
    /// malformed size, and for one that is too large.
    fn sized(
        &mut self,
        code: ErrorCode,
        limit: u32,
        verb: &str,
        nouns: (&str, &str),
    ) -> Result<Option<Span>, ProtocolError> {
        let Some(size) = self.size(code, limit, verb, nouns)? else { return Ok(None) };
        let taken = self.take(size as usize);
        Ok(self.or_record_missing(taken, code, || format!("{verb} failed to read {}", nouns.0)))
    }

    /// Reads a size within 1..=`limit`.
    fn size(
        &mut self,
        code: ErrorCode,
        limit: u32,
        verb: &str,
        (noun, short): (&str, &str),
    ) -> Result<Option<u32>, ProtocolError> {
        let size = self.number();
        let Some(size) = self.or_record_missing(size, code, || format!("{verb} failed to read {noun} size")) else {
            return Ok(None);
        };
        match u32::try_from(size) {
            Err(_) | Ok(0) => Err(ProtocolError::new(code, format!("{verb} invalid {noun} size {size}"))),
            Ok(size) if size > limit => {
                Err(ProtocolError::new(code, format!("{verb} {short} too big {size} > {limit}")))
            }
            Ok(size) => Ok(Some(size)),
        }
    }

    /// Reads MPUB's bodies, with nsqd's checks in nsqd's order (`readMPUB`).
    fn messages(
        &mut self,
        limits: &Limits,
        progress: &mut DecodeProgress,
    ) -> Result<Option<(Span, u32)>, ProtocolError> {
        let max_body = limits.max_body_size;
        if self.size(ErrorCode::BadBody, max_body, "MPUB", ("body", "body"))?.is_none() {
            return Ok(None);
        }
        let count = self.number();
        let Some(count) =
            self.or_record_missing(count, ErrorCode::BadBody, || "MPUB failed to read message count".into())
        else {
            return Ok(None);
        };
        if count <= 0 || count.unsigned_abs() > max_body.saturating_sub(4) / 5 {
            return Err(ProtocolError::new(ErrorCode::BadBody, format!("MPUB invalid message count {count}")));
        }
        let (begin, before) = (self.at, std::mem::take(progress));
        self.at = begin.max(before.end);
        for index in before.messages..count {
            let end = self.at;
            if self.message(index, limits.max_msg_size)?.is_none() {
                *progress = DecodeProgress { messages: index, end };
                return Ok(None);
            }
        }
        Ok(Some((begin..self.at, count.unsigned_abs())))
    }

    /// Reads MPUB's body number `index`.
    fn message(&mut self, index: i32, limit: u32) -> Result<Option<Span>, ProtocolError> {
        let code = ErrorCode::BadMessage;
        let refuse = |text| Err(ProtocolError::new(code, text));
        let size = self.number();
        let missing = || format!("MPUB failed to read message({index}) body size");
        let Some(size) = self.or_record_missing(size, code, missing) else { return Ok(None) };
        match u32::try_from(size) {
            Err(_) | Ok(0) => refuse(format!("MPUB invalid message({index}) body size {size}")),
            Ok(size) if size > limit => refuse(format!("MPUB message too big {size} > {limit}")),
            Ok(size) => {
                let taken = self.take(size as usize);
                Ok(self.or_record_missing(taken, code, || "MPUB failed to read message body".into()))
            }
        }
    }
}

fn invalid(text: impl Into<String>) -> ProtocolError {
    ProtocolError::new(ErrorCode::Invalid, text)
}

fn message_id(word: &[u8]) -> Result<MessageId, ProtocolError> {
    MessageId::from_slice(word).ok_or_else(|| invalid("invalid message ID"))
}

/// Parses digits only, as nsqd's `ByteToBase10`; no digits at all read as 0. Beyond 64 bits nsqd
/// wraps around (a DPUB deferred for 2^64 ms is delivered at once); here the number saturates, and
/// the range check refuses it.
fn decimal(word: &[u8]) -> Option<u64> {
    word.iter().try_fold(0_u64, |sum, b| {
        let digit = b.is_ascii_digit().then(|| u64::from(b - b'0'))?;
        Some(sum.saturating_mul(10).saturating_add(digit))
    })
}

/// A peer's word for an error text. nsqd sends the bytes back unchanged; here invalid UTF-8 becomes
/// U+FFFD.
fn as_text(word: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(word)
}

fn delay_of(verb: &str, word: &[u8]) -> Result<u64, ProtocolError> {
    decimal(word).ok_or_else(|| invalid(format!("{verb} could not parse timeout {}", as_text(word))))
}

fn delay_of_dpub(word: &[u8], limits: &Limits) -> Result<u64, ProtocolError> {
    match decimal(word) {
        None => Err(invalid(format!("DPUB could not parse timeout {}", as_text(word)))),
        Some(delay) if delay > limits.max_req_timeout => {
            Err(invalid(format!("DPUB timeout {delay} out of range 0-{}", limits.max_req_timeout)))
        }
        Some(delay) => Ok(delay),
    }
}

/// Parses an epoch, strictly: an epoch fences off all other publishers.
fn epoch_of_fpub(word: &[u8]) -> Result<u64, ProtocolError> {
    let digits = str::from_utf8(word).ok().filter(|word| word.bytes().all(|b| b.is_ascii_digit()));
    let epoch = digits.and_then(|digits| digits.parse().ok());
    epoch.ok_or_else(|| invalid(format!("FPUB could not parse epoch {}", as_text(word))))
}

fn topic(verb: &str, word: &[u8]) -> Result<TopicName, ProtocolError> {
    let name = std::str::from_utf8(word).ok().and_then(|name| TopicName::new(name).ok());
    name.ok_or_else(|| {
        let text = format!("{verb} topic name {} is not valid", quote(word));
        ProtocolError::new(ErrorCode::BadTopic, text)
    })
}

fn channel_of_sub(word: &[u8]) -> Result<ChannelName, ProtocolError> {
    let name = std::str::from_utf8(word).ok().and_then(|name| ChannelName::new(name).ok());
    name.ok_or_else(|| {
        let text = format!("SUB channel name {} is not valid", quote(word));
        ProtocolError::new(ErrorCode::BadChannel, text)
    })
}
