//! Messages that say that they are a replay, pure.

use bytes::Bytes;
use serde::Serialize;
use serde::de::IgnoredAny;

use crate::commands::replay::args::ReplayMark;
use mqueue::proto::{Message, TopicName};

/// The message that is replayed. Consumers rely on the names of the fields.
#[derive(Serialize)]
struct ReplayedFrom<'a> {
    stream: &'a str,
    id: &'a str,
    timestamp: i64,
    attempts: u16,
}

/// Returns the body to publish; `None` if it cannot have the mark.
pub(super) fn marked(message: &Message, stream: &TopicName, mark: Option<ReplayMark>) -> Option<Bytes> {
    let Some(mark) = mark else { return Some(message.body.clone()) };
    let id = mqueue::proto::excerpt(&message.id.0);
    let (timestamp, attempts) = (message.timestamp, message.attempts);
    let from = ReplayedFrom { stream: stream.as_str(), id: &id, timestamp, attempts };
    let mut body = br#"{"replay":"#.to_vec();
    serde_json::to_writer(&mut body, &from).expect("strings and numbers are JSON");
    match mark {
        ReplayMark::Line => {
            body.extend_from_slice(b"}\n");
            body.extend_from_slice(&message.body);
        }
        ReplayMark::Field => {
            serde_json::from_slice::<IgnoredAny>(&message.body).ok()?;
            let fields = message.body.trim_ascii().strip_prefix(b"{")?;
            if fields.trim_ascii_start() != b"}" {
                body.push(b',');
            }
            body.extend_from_slice(fields);
        }
    }
    Some(body.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mqueue::proto::MessageId;

    fn of(body: &[u8], mark: Option<ReplayMark>) -> Option<String> {
        let id = MessageId(*b"0123456789abcdef");
        let message = Message { timestamp: 5, attempts: 2, id, body: Bytes::copy_from_slice(body) };
        marked(&message, &"foo".parse().unwrap(), mark).map(|body| String::from_utf8_lossy(&body).into_owned())
    }

    #[test]
    fn a_mark_is_a_line_or_a_field_and_the_rest_is_unchanged() {
        let mark = r#"{"replay":{"stream":"foo","id":"0123456789abcdef","timestamp":5,"attempts":2}"#;
        assert_eq!(of(b"any\0", None).unwrap(), "any\0");
        assert_eq!(of(b"any\0", Some(ReplayMark::Line)).unwrap(), format!("{mark}}}\nany\0"));
        let field = |body| of(body, Some(ReplayMark::Field));
        assert_eq!(field(b" {\"a\": 1e400, \"b\":{}} \n").unwrap(), format!("{mark},\"a\": 1e400, \"b\":{{}}}}"));
        assert_eq!(field(b"{ }").unwrap(), format!("{mark} }}"));
        for none in [&b""[..], b"any", b"[1]", b"{", b"{} {}", b"\"{}\""] {
            assert_eq!(field(none), None, "{none:?}");
        }
    }
}
