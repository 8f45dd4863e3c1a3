//! The text form of a message: a line of JSON, or its body and a delimiter.

use std::borrow::Cow;

use serde::Serialize;

use crate::proto::{ChannelName, Message, TopicName, json_body};

use super::print::PrintOutput;

/// Formats messages of one stream and group as lines.
#[derive(Debug)]
pub(super) struct LineFormat {
    output: PrintOutput,
    stream: TopicName,
    group: ChannelName,
}

/// A line of JSON. Scripts rely on its fields and their order.
#[derive(Serialize)]
struct JsonLine<'a> {
    stream: &'a str,
    group: &'a str,
    id: Cow<'a, str>,
    timestamp: i64,
    attempts: u16,
    body: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<json_body::BodyEncoding>,
}

impl LineFormat {
    /// Creates the format for messages of this stream and group.
    pub(super) fn new(output: PrintOutput, stream: TopicName, group: ChannelName) -> Self {
        Self { output, stream, group }
    }

    /// Returns the output format.
    pub(super) fn output(&self) -> PrintOutput {
        self.output
    }

    /// Returns the byte that ends a message.
    pub(super) fn end(&self) -> u8 {
        match self.output {
            PrintOutput::Json | PrintOutput::Body => b'\n',
            PrintOutput::Null => 0,
        }
    }

    /// Appends a message's line, with its end, to `out`.
    pub(super) fn add(&self, message: &Message, out: &mut Vec<u8>) {
        match self.output {
            PrintOutput::Json => self.add_json(message, out),
            PrintOutput::Body | PrintOutput::Null => add_body(message, self.end(), out),
        }
    }

    /// serde_json writes about five million such lines of 200 bytes a second: hand-written code is
    /// not worth its risk.
    fn add_json(&self, message: &Message, out: &mut Vec<u8>) {
        let (body, encoding) = json_body::text(&message.body);
        let line = JsonLine {
            stream: self.stream.as_str(),
            group: self.group.as_str(),
            id: match std::str::from_utf8(&message.id.0) {
                Ok(id) => Cow::Borrowed(id),
                Err(_) => Cow::Owned(message.id.to_string()),
            },
            timestamp: message.timestamp,
            attempts: message.attempts,
            body,
            encoding,
        };
        serde_json::to_writer(&mut *out, &line).expect("strings and numbers are JSON, and memory takes every write");
        out.push(b'\n');
    }
}

/// Appends the unchanged body and its delimiter.
fn add_body(message: &Message, end: u8, out: &mut Vec<u8>) {
    out.reserve(message.body.len() + 1);
    out.extend_from_slice(&message.body);
    out.push(end);
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;
    use crate::handler::testing::{message, options};

    fn line(output: PrintOutput, message: &Message) -> Vec<u8> {
        let mut out = Vec::new();
        LineFormat::new(output, options().stream, options().group).add(message, &mut out);
        out
    }

    #[test]
    fn json_has_all_fields_of_a_message() {
        assert_eq!(
            String::from_utf8(line(PrintOutput::Json, &message("a \"b\"\n"))).unwrap(),
            r#"{"stream":"foo","group":"1","id":"0123456789abcdef","timestamp":1700000000123456789,"attempts":2,"body":"a \"b\"\n"}"#
                .to_owned()
                + "\n"
        );
    }

    #[test]
    fn binary_bodies_are_base64_with_encoding() {
        let line = line(PrintOutput::Json, &message(&b"\xff\x00"[..]));
        assert!(line.ends_with(b",\"body\":\"/wA=\",\"encoding\":\"base64\"}\n"), "{}", line.escape_ascii());
    }

    #[test]
    fn body_and_null_write_unchanged_bytes() {
        assert_eq!(line(PrintOutput::Body, &message(&b"\xff a"[..])), b"\xff a\n");
        assert_eq!(line(PrintOutput::Null, &message(&b"a\nb"[..])), b"a\nb\0");
    }

    proptest! {
        #[test]
        fn json_lines_round_trip_the_body(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let line = line(PrintOutput::Json, &message(body.clone()));
            prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
            let text = value["body"].as_str().unwrap();
            let back = match value.get("encoding") {
                Some(encoding) => {
                    prop_assert_eq!(encoding, "base64");
                    STANDARD.decode(text).unwrap()
                }
                None => text.as_bytes().to_vec(),
            };
            prop_assert_eq!(back, body);
        }
    }
}
