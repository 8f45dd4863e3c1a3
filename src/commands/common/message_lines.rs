//! Messages for people and scripts: a line of text, a line of JSON or the unchanged body. Used by
//! the commands that show messages and do not handle them.

use std::io::{self, IsTerminal};

use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use mqueue::proto::json_body::{self, BodyEncoding};
use mqueue::proto::{PeekedClient, escape_while};

/// Columns that are left to a body at least, however narrow the terminal is.
const MIN_BODY_COLUMNS: usize = 10;

/// The flags for the form of messages.
#[derive(Debug, Clone, Copy, clap::Args)]
#[group(skip)]
pub(crate) struct MessageFormatArgs {
    /// Print JSON, one message a line, with whole bodies [default: false]
    #[arg(long)]
    pub json: bool,

    /// Print each unchanged body and a newline, also to a terminal [default: false]
    #[arg(long, conflicts_with = "json")]
    pub raw: bool,
}

/// The form of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MessageFormat {
    /// One line, cut to this many columns, if standard output is a terminal.
    Text(Option<usize>),
    Json,
    Raw,
}

/// A message to print. Scripts rely on the names of the fields and their order, which begins as
/// that of `mqueue consumer --output json`.
#[derive(Debug, Default, Serialize)]
pub(crate) struct MessageLine<'a> {
    pub(crate) stream: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<&'a str>,
    pub(crate) id: &'a str,
    pub(crate) timestamp: i64,
    pub(crate) attempts: u16,
    /// The beginning of the text form.
    #[serde(skip)]
    pub(crate) text: String,
    #[serde(skip)]
    pub(crate) body: &'a [u8],
    #[serde(flatten)]
    pub(crate) peeked: Option<PeekedState<'a>>,
}

/// The part of a message that only a look into a queue tells.
#[derive(Debug, Serialize)]
pub(crate) struct PeekedState<'a> {
    pub(crate) nsqd: &'a str,
    pub(crate) state: &'a str,
    pub(crate) age_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) due_in_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client: Option<&'a PeekedClient>,
    pub(crate) size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<&'a str>,
}

/// A line of JSON: the body comes last.
#[derive(Serialize)]
struct JsonMessage<'a> {
    #[serde(flatten)]
    line: &'a MessageLine<'a>,
    body: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<BodyEncoding>,
}

impl MessageFormatArgs {
    /// Returns the form, with the width of the terminal if there is one.
    pub(crate) fn format(self) -> MessageFormat {
        let stdout = io::stdout();
        match self {
            Self { json: true, .. } => MessageFormat::Json,
            Self { raw: true, .. } => MessageFormat::Raw,
            Self { .. } if !stdout.is_terminal() => MessageFormat::Text(None),
            Self { .. } => {
                let size = terminal_size::terminal_size_of(&stdout);
                MessageFormat::Text(Some(size.map_or(80, |(width, _)| usize::from(width.0))))
            }
        }
    }
}

impl MessageFormat {
    /// Returns the number of bytes of a body that are needed; `None` for the whole body.
    pub(crate) fn needed_bytes(self) -> Option<usize> {
        match self {
            // a character has at most 4 bytes, and may have no width
            Self::Text(Some(columns)) => Some(16 * columns),
            Self::Text(None) | Self::Json | Self::Raw => None,
        }
    }

    /// Appends a message.
    pub(crate) fn add(self, message: &MessageLine<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Text(columns) => {
                let line = text_line(&message.text, message.body, columns);
                out.extend_from_slice(line.as_bytes());
            }
            Self::Json => {
                let (body, encoding) = json_body::text(message.body);
                let line = JsonMessage { line: message, body: &body, encoding };
                serde_json::to_writer(&mut *out, &line).expect("strings and numbers are JSON");
            }
            Self::Raw => out.extend_from_slice(message.body),
        }
        out.push(b'\n');
    }
}

/// Returns a text and the escaped body in one line, cut to a number of columns.
fn text_line(text: &str, body: &[u8], columns: Option<usize>) -> String {
    let mut line = format!("{text}  ");
    let used = line.width();
    // the last column is for the sign that something was cut off
    let mut left = columns.map(|columns| columns.saturating_sub(used + 1).max(MIN_BODY_COLUMNS));
    let is_whole = escape_while(body, &mut line, |piece| match &mut left {
        None => true,
        Some(left) => {
            let width = piece.width();
            let fits = width <= *left;
            *left = left.saturating_sub(width);
            fits
        }
    });
    if !is_whole {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_one_line_that_fits_the_terminal() {
        let line = |body: &[u8], columns| text_line("waiting", body, columns);
        assert_eq!(line(b"a\nb\x1b[2J", None), r"waiting  a\nb\x1b[2J");
        assert_eq!(line(b"0123456789abcdef", Some(20)), "waiting  0123456789…");
        assert_eq!(line("漢字漢字漢字".as_bytes(), Some(21)), "waiting  漢字漢字漢…");
        assert_eq!(line(b"0123456789", Some(5)), "waiting  0123456789", "a little is always shown");
        assert_eq!(line(&[b'x'; 1 << 20], None).len(), 9 + (1 << 20));
    }

    #[test]
    fn json_begins_as_that_of_the_consumer() {
        let mut out = Vec::new();
        let message = MessageLine {
            stream: "s",
            group: Some("g"),
            id: "1",
            timestamp: 2,
            attempts: 3,
            body: b"\xff",
            ..Default::default()
        };
        MessageFormat::Json.add(&message, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            r#"{"stream":"s","group":"g","id":"1","timestamp":2,"attempts":3,"body":"/w==","encoding":"base64"}"#
                .to_owned()
                + "\n"
        );
    }
}
