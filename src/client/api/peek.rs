//! Messages of mqueue's broker, without their delivery.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;

use super::{CallLimits, HttpError, Nsqd};
use crate::proto::{ChannelName, PeekLine, PeekState, PeekedMessage, TopicName};

/// The limits of a call: a body of 10 MB takes a while, and is up to twice as long as text.
const PEEK_LIMITS: CallLimits = CallLimits { time: Duration::from_secs(60), answer: 64 << 20 };

/// The messages to look at.
///
/// # Examples
/// ```
/// use mqueue::client::PeekQuery;
/// use mqueue::proto::PeekState;
///
/// let query = PeekQuery::of_group("orders".parse()?, "billing".parse()?, PeekState::Waiting).with_limit(10);
/// assert_eq!((query.limit, query.after), (10, None));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeekQuery {
    /// The topic.
    pub topic: TopicName,
    /// The channel; `None` for messages that the topic itself holds.
    pub channel: Option<ChannelName>,
    /// The state of the messages.
    pub state: PeekState,
    /// The maximum of messages in an answer: 1 to 10,000. An answer has fewer messages if they are
    /// long.
    pub limit: usize,
    /// The maximum of bytes of each body; longer ones are cut.
    pub max_body: Option<usize>,
    /// The position of an earlier answer behind which to begin.
    pub after: Option<String>,
}

impl PeekQuery {
    /// The first messages of a channel in a state, at most 100.
    pub fn of_group(topic: TopicName, channel: ChannelName, state: PeekState) -> Self {
        Self { topic, channel: Some(channel), state, limit: 100, max_body: None, after: None }
    }

    /// The first messages that a topic holds because no channel has them, at most 100.
    pub fn of_stream(topic: TopicName) -> Self {
        Self { topic, channel: None, state: PeekState::Held, limit: 100, max_body: None, after: None }
    }

    /// Sets the maximum of messages in an answer.
    #[must_use]
    pub fn with_limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Sets the maximum of bytes of each body.
    #[must_use]
    pub fn with_max_body(mut self, bytes: usize) -> Self {
        self.max_body = Some(bytes);
        self
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeekPage {
    /// The messages; there may be none in an answer, though there are more.
    pub messages: Vec<PeekedMessage>,
    /// The position of further messages, for [`PeekQuery::after`]; `None` if there are no more.
    pub next: Option<String>,
}

impl Nsqd {
    /// Looks at messages without their delivery: no attempt is counted, and no order changes. Only
    /// mqueue's broker knows this request; nsqd answers with an error for which
    /// [`HttpError::is_unknown_request`] is true.
    ///
    /// # Errors
    /// Fails if the server does not answer, or not in this form; if the topic or channel does not
    /// exist; if the server wants AUTH, which HTTP does not have; and with the code `POSITION_GONE` if `after` is of another channel, or of a broker
    /// that was started again.
    pub async fn peek(&self, query: &PeekQuery) -> Result<PeekPage, HttpError> {
        let (limit, max_body) = (query.limit.to_string(), query.max_body.map(|bytes| bytes.to_string()));
        let mut parameters = vec![("topic", query.topic.as_str()), ("limit", &limit)];
        parameters.extend(max_body.as_deref().map(|bytes| ("max_body", bytes)));
        parameters.extend(query.after.as_deref().map(|after| ("after", after)));
        let path = match &query.channel {
            None => "/topic/peek",
            Some(channel) => {
                parameters.extend([("channel", channel.as_str()), ("state", query.state.as_str())]);
                "/channel/peek"
            }
        };
        let answer = self.0.send(Method::GET, path, &parameters, Bytes::new(), PEEK_LIMITS).await;
        let (answer, _) = answer.map_err(|error| match error {
            HttpError::Status { status: 403, code, address, .. } if code.starts_with("UNAUTHORIZED") => {
                HttpError::NeedsAuth { address }
            }
            error => error,
        })?;
        page(&answer, query.limit).map_err(|reason| self.0.unreadable(path, &reason))
    }
}

/// Reads an answer of at most `limit` messages.
fn page(answer: &[u8], limit: usize) -> Result<PeekPage, String> {
    let mut messages = Vec::new();
    for line in answer.split_inclusive(|byte| *byte == b'\n') {
        match PeekLine::read(line.trim_ascii_end())? {
            PeekLine::End(next) => return Ok(PeekPage { messages, next }),
            PeekLine::Message(_) if messages.len() == limit => {
                return Err(format!("it has more than {limit} messages"));
            }
            PeekLine::Message(message) => messages.push(message),
        }
    }
    Err("its last line is missing".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_with_its_position_and_has_no_more_than_was_asked_for() {
        let line = r#"{"id":"a","state":"waiting","timestamp":1,"age_ms":2,"attempts":0,"size":1,"body":"x"}"#;
        let read = |text: &str| page(text.as_bytes(), 2).map(|page| (page.messages.len(), page.next));
        assert_eq!(read("{\"next\":null}\n"), Ok((0, None)));
        assert_eq!(read(&format!("{line}\n{line}\n{{\"next\":\"p\"}}\n")), Ok((2, Some("p".to_owned()))));
        for wrong in
            [String::new(), format!("{line}\n"), format!("{line}\n{line}\n{line}\n{{\"next\":null}}\n"), "x".to_owned()]
        {
            assert!(read(&wrong).is_err(), "{wrong}");
        }
    }
}
