//! `mqueue producer`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;

use crate::commands::common::broker_args;
use crate::commands::common::client_args;
use crate::commands::common::metrics::listen_args::ListenArgs;
use crate::commands::common::values::duration;
use crate::commands::common::values::rate;
use crate::commands::common::values::whole;
use mqueue::proto::TopicName;

/// Publish lines of files or stdin, or generated events
///
/// Without input it publishes an event a second: JSON with a run id, the task, a sequence number
/// without gaps and the time, so that a loss or a duplicate can be counted. With FILEs (`-` is
/// stdin) it publishes their lines, in order, as they arrive. Without FILEs, a stdin that is a
/// pipe, a socket or a file is the input, unless --generate, --tasks, --payload-keys, --count,
/// --rate, --interval or --duration (or its variable) asks for generated events.
///
/// A message counts as published when nsqd has acknowledged it.
///
/// Exit code: 0 if all were acknowledged, 1 if one was not, 69 if there is no broker.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Stream to publish to (NSQ: topic)
    #[arg(long, visible_alias = "topic", env = "STREAM", value_name = "NAME")]
    pub stream: TopicName,

    /// Files whose lines to publish; - is stdin [default: stdin if it is a pipe, a socket or a
    /// file,
    /// otherwise generated events]
    #[arg(value_name = "FILE")]
    pub inputs: Vec<PathBuf>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub pace: PaceArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub events: EventArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub input: InputArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub tuning: ProducerTuning,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub metrics: ListenArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: client_args::Args,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: broker_args::Args,
}

/// Pace and amount of messages.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Pace and amount")]
pub(crate) struct PaceArgs {
    /// Time between two messages of a task; the next also waits for the acknowledgement of the
    /// last; 0: no pause [default: 1s for events, 0 for files and stdin]
    #[arg(long, env = "MQUEUE_INTERVAL", value_name = "DURATION", value_parser = duration, conflicts_with = "rate")]
    pub interval: Option<Duration>,

    /// Messages a second, over all tasks, on a fixed schedule (open loop): a slow nsqd shows as
    /// latency, measured from the time a message was due. Not with --interval [default: none]
    #[arg(long, env = "MQUEUE_RATE", value_name = "N", value_parser = rate)]
    pub rate: Option<f64>,

    /// Stop after this many messages, over all tasks [default: no limit]
    #[arg(long, env = "MQUEUE_COUNT", value_name = "N", value_parser = whole::<u64>(1..))]
    pub count: Option<u64>,

    /// Stop after this time [default: no limit]
    #[arg(long, env = "MQUEUE_DURATION", value_name = "DURATION", value_parser = duration)]
    pub duration: Option<Duration>,

    /// Deliver each message only after this time, at most nsqd's --max-req-timeout (1h) [default:
    /// immediately]
    #[arg(long, env = "MQUEUE_DEFER", value_name = "DURATION", value_parser = duration)]
    pub defer: Option<Duration>,
}

/// The events that are generated without input.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Generated events")]
pub(crate) struct EventArgs {
    /// Generate events even if stdin is a pipe, a socket or a file [default: false]
    #[arg(long, conflicts_with_all = ["inputs", "files"])]
    pub generate: bool,

    /// Tasks that generate events, each with its own sequence [default: 1]
    #[arg(long, visible_alias = "goroutines", env = "GOROUTINES", value_name = "N", value_parser = whole::<u32>(1..=10_000))]
    pub tasks: Option<u32>,

    /// Keys in each event's payload, about 1 KB each: 1000 (1 MB) fits nsqd's default limit, 10000
    /// (10 MB) needs a larger --max-msg-size, as `make up` sets [default: 0, no payload]
    #[arg(long, env = "PAYLOAD_KEYS", value_name = "N", value_parser = whole::<u32>(..=100_000))]
    pub payload_keys: Option<u32>,
}

/// The input, and its division into messages.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Files and stdin")]
pub(crate) struct InputArgs {
    /// The same as FILE; repeatable [default: none]
    #[arg(long = "file", env = "MQUEUE_FILE", value_name = "PATH")]
    pub files: Vec<PathBuf>,

    /// Bytes that end a message, with \n \r \t \0 \\ and \xNN; the rest after the last one is a
    /// message, too; empty messages are skipped and counted, because nsqd refuses them
    #[arg(long, env = "MQUEUE_DELIMITER", value_name = "BYTES", default_value = r"\n", conflicts_with_all = ["null", "whole_file"])]
    pub delimiter: Delimiter,

    /// End messages at NUL bytes, as `find -print0` writes them [default: false]
    #[arg(long, short = '0', env = "MQUEUE_NULL", conflicts_with = "whole_file")]
    pub null: bool,

    /// Publish each file as one message [default: false]
    #[arg(long, env = "MQUEUE_WHOLE_FILE")]
    pub whole_file: bool,

    /// Longest message to read, in bytes; a longer one is skipped and counts as failed
    #[arg(long, env = "MQUEUE_MAX_RECORD", value_name = "BYTES", default_value_t = 64 << 20, value_parser = whole::<u32>(1..=1 << 30))]
    pub max_record: u32,
}

/// Report, timeouts and exit.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Tuning")]
pub(crate) struct ProducerTuning {
    /// Format of the report at the end: text on stderr, json on stdout
    #[arg(long, env = "MQUEUE_REPORT", value_enum, default_value_t = SummaryFormat::Text)]
    pub report: SummaryFormat,

    /// The same as --report json
    #[arg(long)]
    pub json: bool,

    /// Time for a message to be acknowledged, lost connections included; longer counts as failed
    #[arg(long, env = "MQUEUE_PUBLISH_TIMEOUT", value_name = "DURATION", value_parser = timeout, default_value = "30s")]
    pub publish_timeout: Duration,

    /// Time for unacknowledged messages after Ctrl-C or SIGTERM; a second signal gives them up at
    /// once
    #[arg(long, env = "MQUEUE_GRACE", value_name = "DURATION", value_parser = duration, default_value = "60s")]
    pub grace: Duration,
}

impl ProducerTuning {
    /// Returns the format of the report, from either flag.
    pub(crate) fn report(&self) -> SummaryFormat {
        if self.json { SummaryFormat::Json } else { self.report }
    }
}

/// The format of the report at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SummaryFormat {
    /// Three lines on stderr
    Text,
    /// One JSON object on stdout
    Json,
    /// No report
    None,
}

/// The bytes that end a record; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delimiter(Bytes);

impl Delimiter {
    /// The NUL byte.
    pub(crate) const NULL: Self = Self(Bytes::from_static(b"\0"));

    /// Returns the bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for Delimiter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = unescape(text.as_bytes()).filter(|bytes| !bytes.is_empty());
        bytes
            .map(|bytes| Self(bytes.into()))
            .ok_or_else(|| r"use one or more bytes, with \n \r \t \0 \\ \xNN".to_owned())
    }
}

fn unescape(mut text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    while let Some((&first, rest)) = text.split_first() {
        text = rest;
        if first != b'\\' {
            bytes.push(first);
            continue;
        }
        let (&escape, rest) = text.split_first()?;
        text = rest;
        bytes.push(match escape {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'0' => b'\0',
            b'\\' => b'\\',
            b'x' => {
                let (digits, rest) = text.split_at_checked(2)?;
                text = rest;
                let hex = |digit: u8| char::from(digit).to_digit(16);
                u8::try_from(hex(digits[0])? * 16 + hex(digits[1])?).ok()?
            }
            _ => return None,
        });
    }
    Some(bytes)
}

fn timeout(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|time| if time.is_zero() { Err("must be more than 0".to_owned()) } else { Ok(time) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delimiter_is_bytes_with_escapes() {
        for (text, bytes) in [
            (r"\n", &b"\n"[..]),
            ("||", b"||"),
            (r"\r\n", b"\r\n"),
            (r"\0", b"\0"),
            (r"\x1e\\", b"\x1e\\"),
            ("ü", "ü".as_bytes()),
        ] {
            assert_eq!(text.parse::<Delimiter>().unwrap().as_bytes(), bytes, "{text}");
        }
    }

    #[test]
    fn a_delimiter_of_nothing_or_with_an_unknown_escape_is_refused() {
        for text in ["", r"\", r"\q", r"\x1", r"\xgg"] {
            assert!(text.parse::<Delimiter>().is_err(), "{text}");
        }
    }
}
