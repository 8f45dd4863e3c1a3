//! `mqueue producer`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;

use crate::commands::common::broker_args;
use crate::commands::common::client_args;
use crate::commands::common::values::duration;
use crate::commands::common::values::rate;
use crate::commands::common::values::whole;
use mqueue::proto::TopicName;

/// Publish messages: generated events, or what comes from files and stdin.
///
/// Without input it makes an event a second: JSON with a run id, the task, a sequence number without holes and the time, so that a loss or
/// a duplicate can be counted. With FILEs (`-` is stdin) it publishes their lines, in their order and as they come. Without FILEs, a stdin
/// that is a pipe, a socket or a file is the input, unless one of --generate, --tasks, --payload-keys, --count, --rate, --interval and --duration, or
/// its variable, asks for generated events. A message counts as published when nsqd has acknowledged it; the exit code is 1 if one was not.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// The stream (NSQ's topic)
    #[arg(long, visible_alias = "topic", env = "STREAM", value_name = "NAME")]
    pub stream: TopicName,

    /// Publish these files' lines; - is stdin [default: stdin if it is a pipe, a socket or a file, else events are generated]
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
    pub client: client_args::Args,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: broker_args::Args,
}

/// How many messages, and when.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Pace and amount")]
pub(crate) struct PaceArgs {
    /// The time from one message of a task to its next, which never goes out before nsqd has acknowledged the last; 0: as fast as it goes
    /// [default: 1s for events, 0 for files and stdin]
    #[arg(long, env = "INTERVAL", value_name = "DURATION", value_parser = duration, conflicts_with = "rate")]
    pub interval: Option<Duration>,

    /// Messages a second, over all tasks, on a fixed schedule: a slow nsqd does not slow it down, but shows as latency, which is
    /// measured from when a message was due. Not with --interval [default: none]
    #[arg(long, env = "RATE", value_name = "N", value_parser = rate)]
    pub rate: Option<f64>,

    /// Stop after this many messages, over all tasks [default: no limit]
    #[arg(long, env = "COUNT", value_name = "N", value_parser = whole::<u64>(1..))]
    pub count: Option<u64>,

    /// Stop after this time [default: no limit]
    #[arg(long, env = "DURATION", value_name = "DURATION", value_parser = duration)]
    pub duration: Option<Duration>,

    /// Have nsqd deliver each message only after this time (at most its --max-req-timeout, 1h by default) [default: at once]
    #[arg(long, env = "DEFER", value_name = "DURATION", value_parser = duration)]
    pub defer: Option<Duration>,
}

/// What is generated where there is no input.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Generated events")]
pub(crate) struct EventArgs {
    /// Generate events although stdin is a pipe, a socket or a file
    #[arg(long, conflicts_with_all = ["inputs", "files"])]
    pub generate: bool,

    /// Tasks that generate events independently, each with its own sequence [default: 1]
    #[arg(long, visible_alias = "goroutines", env = "GOROUTINES", value_name = "N", value_parser = whole::<u32>(1..=10_000))]
    pub tasks: Option<u32>,

    /// Keys in each event's payload, about 1 KB each: 1000 make 1 MB, which nsqd takes by default; 10000 make 10 MB, for which
    /// nsqd needs a larger --max-msg-size (make up's has it) [default: 0, no payload]
    #[arg(long, env = "PAYLOAD_KEYS", value_name = "N", value_parser = whole::<u32>(..=100_000))]
    pub payload_keys: Option<u32>,
}

/// What is read, and how it becomes messages.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Files and stdin")]
pub(crate) struct InputArgs {
    /// The same as FILE; repeatable [default: none]
    #[arg(long = "file", env = "FILE", value_name = "PATH")]
    pub files: Vec<PathBuf>,

    /// What ends a message: one or several bytes, with \n \r \t \0 \\ and \xNN. What follows the last is a message, too; empty ones
    /// are skipped and counted, for nsqd refuses them
    #[arg(long, env = "DELIMITER", value_name = "BYTES", default_value = r"\n", conflicts_with_all = ["null", "whole_file"])]
    pub delimiter: Delimiter,

    /// Messages end with a NUL byte, as `find -print0` writes them [default: false]
    #[arg(long, short = '0', env = "NULL", conflicts_with = "whole_file")]
    pub null: bool,

    /// Each file is one message [default: false]
    #[arg(long, env = "WHOLE_FILE")]
    pub whole_file: bool,

    /// The longest message that is read, in bytes; a longer one is passed over and counts as failed
    #[arg(long, env = "MAX_RECORD", value_name = "BYTES", default_value_t = 64 << 20, value_parser = whole::<u32>(1..=1 << 30))]
    pub max_record: u32,
}

/// How the producer behaves.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Tuning")]
pub(crate) struct ProducerTuning {
    /// What the end is reported as: text to stderr, json to stdout
    #[arg(long, env = "REPORT", value_enum, default_value_t = SummaryFormat::Text)]
    pub report: SummaryFormat,

    /// The same as --report json
    #[arg(long)]
    pub json: bool,

    /// How long a message may take to be acknowledged, lost connections and all, before it counts as failed
    #[arg(long, env = "PUBLISH_TIMEOUT", value_name = "DURATION", value_parser = timeout, default_value = "30s")]
    pub publish_timeout: Duration,

    /// After Ctrl-C or SIGTERM, how long messages on their way may take; a second signal gives them up at once
    #[arg(long, env = "GRACE", value_name = "DURATION", value_parser = duration, default_value = "60s")]
    pub grace: Duration,
}

impl ProducerTuning {
    /// How to report, whichever flag says it.
    pub(crate) fn report(&self) -> SummaryFormat {
        if self.json { SummaryFormat::Json } else { self.report }
    }
}

/// How the end is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SummaryFormat {
    /// Three lines on stderr.
    Text,
    /// One JSON object on stdout.
    Json,
    /// Not at all.
    None,
}

/// What ends a record; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delimiter(Bytes);

impl Delimiter {
    /// The NUL byte.
    pub(crate) const NULL: Self = Self(Bytes::from_static(b"\0"));

    /// Its bytes.
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
