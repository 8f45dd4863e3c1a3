//! `mqueue stage`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::commands::common::broker_args;
use crate::commands::common::failure_args::FailureArgs;
use crate::commands::common::metrics::listen_args::ListenArgs;
use crate::commands::common::values::duration;
use crate::commands::common::values::whole;
use crate::commands::consumer::args::ConsumerTuning;
use mqueue::handler::{HandlerSpec, Schema};
use mqueue::proto::{ChannelName, TopicName};

/// Run one hop of a pipeline: consume, work, pass the result on
///
/// A message leaves this hop's stream only when the next hop has its result: nsqd's OK, the OK of a
/// Unix socket's answer, or a 2xx. While the next hop is unreachable the stage waits, and uses up
/// no tries. Stages may be stopped, replaced and started at any time.
///
/// Exit code: 0; 2 for invalid flags or settings; 5 if no message was done and some failed; 69 if no
/// nsqd could be reached for the whole --timeout; 130 after a second Ctrl-C.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Stream to consume (NSQ: topic)
    #[arg(long, visible_alias = "stream", env = "STREAM", value_name = "NAME")]
    pub from: TopicName,

    /// Group to consume as (NSQ: channel); stages of one group share the work
    #[arg(long, visible_alias = "channel", env = "GROUP", value_name = "NAME")]
    pub group: ChannelName,

    /// Next hop: a stream's name, unix:/PATH (lines, to `mqueue ingest` or any program that answers
    /// OK) or http://…
    #[arg(long, env = "MQUEUE_TO", value_name = "NEXT")]
    pub to: Hop,

    /// Work on each message: exec:CMD and http://… pass their output on, pipe:CMD the text after
    /// ok, others the body unchanged; sleep:25ms only waits [default: none]
    #[arg(long, env = "MQUEUE_HANDLER", value_name = "HANDLER")]
    pub handler: Option<HandlerSpec>,

    /// Schema of messages; others become dead letters: `message` ({id, shortcode, destination,
    /// tag}), or fields with types, as in id:int,tag:string [default: any]
    #[arg(long, env = "MQUEUE_EXPECT", value_name = "SCHEMA")]
    pub expect: Option<Schema>,

    /// Handlers that run at once [default: the number of CPUs, 100 for sleep and pipe]
    #[arg(long, env = "MQUEUE_CONCURRENCY", value_name = "N", value_parser = whole::<u32>(1..=100_000))]
    pub concurrency: Option<u32>,

    /// Exit after this long without a message, received or in flight: seconds, or 30s, 5m [default:
    /// never]
    #[arg(long, env = "TIMEOUT", value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<Duration>,

    /// Format of the report: text at the end on stderr, or json on stdout, a line every second and
    /// one at the end
    #[arg(long, env = "MQUEUE_REPORT", value_enum, default_value_t = crate::commands::common::values::ReportFormat::Text)]
    pub report: crate::commands::common::values::ReportFormat,

    /// The same as --report json
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub failing: FailureArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub tuning: ConsumerTuning,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub metrics: ListenArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: broker_args::Args,
}

impl Args {
    /// Returns the format of the report, from either flag.
    pub(crate) fn report(&self) -> crate::commands::common::values::ReportFormat {
        if self.json { crate::commands::common::values::ReportFormat::Json } else { self.report }
    }
}

/// The next hop of results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hop(HandlerSpec);

impl Hop {
    /// Returns the handler that delivers to the hop: `forward:`, `unix:` or `http:`.
    pub(crate) fn spec(&self) -> &HandlerSpec {
        &self.0
    }
}

impl FromStr for Hop {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let remedy = || format!("invalid next hop {text:?}: use a stream's name, unix:/PATH or http://HOST/PATH");
        if !text.contains(':') {
            return TopicName::new(text).map(|stream| Self(HandlerSpec::Forward(stream))).map_err(|e| e.to_string());
        }
        match text.parse::<HandlerSpec>() {
            Ok(spec @ (HandlerSpec::Forward(_) | HandlerSpec::Unix(_) | HandlerSpec::Http(_))) => Ok(Self(spec)),
            Ok(_) => Err(remedy()),
            Err(error) if ["unix:", "http:", "https:"].iter().any(|known| text.starts_with(known)) => {
                Err(error.to_string())
            }
            Err(_) => Err(remedy()),
        }
    }
}

impl fmt::Display for Hop {
    /// Formats the hop without the secrets of a URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            HandlerSpec::Forward(stream) => stream.fmt(f),
            HandlerSpec::Http(url) => f.write_str(&url.shown()),
            other => other.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_is_a_stream_a_socket_or_a_url() {
        for (text, shown) in [
            ("two", "two"),
            ("forward:two", "two"),
            ("unix:/run/two", "unix:/run/two"),
            ("http://user:secret@host/hook?key=secret", "http://host/hook"),
        ] {
            assert_eq!(text.parse::<Hop>().unwrap().to_string(), shown);
        }
        for wrong in ["", "a b", "ftp://host/", "unix:", "http:", "exec:true", "tcp:host:1"] {
            assert!(wrong.parse::<Hop>().is_err_and(|error| !error.contains('\n')), "{wrong:?}");
        }
    }
}
