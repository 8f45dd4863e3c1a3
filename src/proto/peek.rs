//! The answer to `/channel/peek` and `/topic/peek` of the embedded broker: a line of JSON for each
//! message, and one that ends the answer.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::excerpt;
use super::json_body::{self, BodyEncoding};

/// The state of a message in the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeekState {
    /// Held by the topic, because no channel has it yet.
    Held,
    /// In the queue of a channel.
    Waiting,
    /// Delivered, and not yet answered.
    InFlight,
    /// To be queued later.
    Deferred,
}

impl PeekState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Held, Self::Waiting, Self::InFlight, Self::Deferred];

    /// The word in requests and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Waiting => "waiting",
            Self::InFlight => "in_flight",
            Self::Deferred => "deferred",
        }
    }
}

impl fmt::Display for PeekState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The error of an unknown state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("use held, waiting, in_flight or deferred")]
pub struct InvalidPeekState;

impl FromStr for PeekState {
    type Err = InvalidPeekState;

    fn from_str(text: &str) -> Result<Self, InvalidPeekState> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or(InvalidPeekState)
    }
}

/// The client to which a message is in flight, as the client describes itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PeekedClient {
    /// The client's name for itself.
    pub client_id: String,
    /// The client's host name.
    pub hostname: String,
    /// The client's address.
    pub remote_address: String,
}

/// A message that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeekedMessage {
    /// The id.
    pub id: String,
    /// The state.
    pub state: PeekState,
    /// When it was published, in nanoseconds since 1970.
    pub timestamp: i64,
    /// The time since then, by the broker's clock.
    pub age: Duration,
    /// The number of deliveries.
    pub attempts: u16,
    /// The time until a deferred message is due, or until a message in flight times out.
    pub due_in: Option<Duration>,
    /// The client, if the message is in flight and its client is still connected.
    pub client: Option<PeekedClient>,
    /// The length of the body in bytes, also if `body` is only its beginning.
    pub size: u64,
    /// The body, or its beginning if a part was requested.
    pub body: Bytes,
    /// The reason why the body cannot be read.
    pub error: Option<String>,
}

/// A line of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeekLine {
    /// A message.
    Message(PeekedMessage),
    /// The end of the answer, with the position of further messages, if there are any.
    End(Option<String>),
}

/// A message as it is written.
#[derive(Debug, Serialize, Deserialize)]
struct PeekedFields<'a> {
    id: Cow<'a, str>,
    state: PeekState,
    timestamp: i64,
    age_ms: u64,
    attempts: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due_in_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client: Option<Cow<'a, PeekedClient>>,
    size: u64,
    body: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encoding: Option<BodyEncoding>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<Cow<'a, str>>,
}

/// The last line.
#[derive(Debug, Serialize, Deserialize)]
struct EndFields {
    next: Option<String>,
}

impl PeekedMessage {
    /// Appends the message as a line; its body takes at most twice its size.
    pub fn write_line(&self, out: &mut Vec<u8>) {
        let (body, encoding) = json_body::short_text(&self.body);
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        write_json(
            out,
            &PeekedFields {
                id: Cow::Borrowed(&self.id),
                state: self.state,
                timestamp: self.timestamp,
                age_ms: millis(self.age),
                attempts: self.attempts,
                due_in_ms: self.due_in.map(millis),
                client: self.client.as_ref().map(Cow::Borrowed),
                size: self.size,
                body,
                encoding,
                error: self.error.as_deref().map(Cow::Borrowed),
            },
        );
    }
}

impl PeekLine {
    /// Appends the end of an answer.
    pub fn write_end(next: Option<String>, out: &mut Vec<u8>) {
        write_json(out, &EndFields { next });
    }

    /// Reads a line. Text of the broker's, except the body, becomes one line without control
    /// characters.
    ///
    /// # Errors
    ///
    /// Fails with the reason if it is not a line of an answer.
    pub fn read(line: &[u8]) -> Result<Self, String> {
        // a message's line does not have this field: its text would be escaped
        if line.starts_with(b"{\"next\":") {
            let EndFields { next } = serde_json::from_slice(line).map_err(|error| error.to_string())?;
            return Ok(Self::End(next));
        }
        let fields: PeekedFields<'_> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        let plain = |text: &str| excerpt(text.as_bytes());
        Ok(Self::Message(PeekedMessage {
            id: plain(&fields.id),
            state: fields.state,
            timestamp: fields.timestamp,
            age: Duration::from_millis(fields.age_ms),
            attempts: fields.attempts,
            due_in: fields.due_in_ms.map(Duration::from_millis),
            client: fields.client.map(|client| PeekedClient {
                client_id: plain(&client.client_id),
                hostname: plain(&client.hostname),
                remote_address: plain(&client.remote_address),
            }),
            size: fields.size,
            body: json_body::decode(fields.body, fields.encoding).map_err(|error| error.to_string())?,
            error: fields.error.as_deref().map(plain),
        }))
    }
}

fn write_json(out: &mut Vec<u8>, line: &impl Serialize) {
    serde_json::to_writer(&mut *out, line).expect("strings and numbers are JSON, and memory takes every write");
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(body: impl Into<Bytes>) -> PeekedMessage {
        let body = body.into();
        PeekedMessage {
            id: "0123456789abcdef".to_owned(),
            state: PeekState::InFlight,
            timestamp: 1_700_000_000_123_456_789,
            age: Duration::from_millis(1500),
            attempts: 2,
            due_in: Some(Duration::from_secs(60)),
            client: Some(PeekedClient { hostname: "host".to_owned(), ..PeekedClient::default() }),
            size: body.len() as u64,
            body,
            error: None,
        }
    }

    fn line(message: &PeekedMessage) -> Vec<u8> {
        let mut out = Vec::new();
        message.write_line(&mut out);
        out
    }

    #[test]
    fn a_line_has_all_fields() {
        assert_eq!(
            String::from_utf8(line(&message("a \"b\"\n"))).unwrap(),
            r#"{"id":"0123456789abcdef","state":"in_flight","timestamp":1700000000123456789,"age_ms":1500,"attempts":2,"due_in_ms":60000,"client":{"client_id":"","hostname":"host","remote_address":""},"size":6,"body":"a \"b\"\n"}"#
                .to_owned()
                + "\n"
        );
        let mut end = Vec::new();
        PeekLine::write_end(None, &mut end);
        assert_eq!(end, b"{\"next\":null}\n");
        assert_eq!(PeekLine::read(&end), Ok(PeekLine::End(None)));
    }

    #[test]
    fn a_brokers_text_is_escaped_and_its_body_is_not() {
        let mut evil = message("\x1b[2J");
        evil.id = "\x1b[2J".to_owned();
        evil.error = Some("a\nb\u{202e}".to_owned());
        evil.client = Some(PeekedClient { client_id: "\r".to_owned(), ..PeekedClient::default() });
        let Ok(PeekLine::Message(read)) = PeekLine::read(&line(&evil)) else { panic!("a message") };
        assert_eq!((read.id.as_str(), read.error.as_deref()), (r"\x1b[2J", Some(r"a\nb\u202e")));
        assert_eq!((read.client.unwrap().client_id.as_str(), &read.body[..]), (r"\r", &b"\x1b[2J"[..]));
    }

    #[test]
    fn other_text_is_no_line() {
        for wrong in ["", "{}", "[]", "null", r#"{"next":1}"#, r#"{"message":"NOT_FOUND"}"#, "<html>"] {
            assert!(PeekLine::read(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_body_comes_back_in_one_line_of_limited_length(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let message = message(body.clone());
            let line = line(&message);
            prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            prop_assert!(line.len() <= 320 + 2 * body.len());
            prop_assert_eq!(PeekLine::read(&line), Ok(PeekLine::Message(message)));
        }
    }
}
