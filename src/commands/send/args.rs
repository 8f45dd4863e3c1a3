//! `mqueue send`.

use std::str::FromStr;
use std::time::Duration;

use crate::commands::common::values::duration;
use crate::commands::common::values::rate;
use crate::commands::common::values::whole;
use crate::commands::producer::args::SummaryFormat;
use mqueue::net::Endpoint;

/// Send a feed of numbered messages to a socket
///
/// Messages are {"id":1,"shortcode":"…","destination":"…","tag":"…"}; tag is the time at which the
/// message was due, in nanoseconds since 1970. Messages are due on a fixed schedule: a slow
/// receiver shows as lateness. A stream's receiver is asked every second how many messages it has
/// (`mqueue ingest` answers); the others are sent again.
///
/// Exit code: 0 if all were acknowledged, 1 if one was not.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Address to send to: unix:/PATH or tcp:HOST:PORT (streams), unixgram:/PATH or udp:HOST:PORT
    /// (datagrams, without acknowledgements)
    #[arg(long, env = "MQUEUE_TO", value_name = "ADDRESS")]
    pub to: Endpoint,

    /// Messages a second, or max: as fast as the receiver takes them
    #[arg(long, env = "MQUEUE_RATE", value_name = "N", default_value = "500")]
    pub rate: Rate,

    /// Number of messages
    #[arg(long, env = "MQUEUE_COUNT", value_name = "N", default_value_t = 5000, value_parser = whole::<u64>(1..=1_000_000_000_000))]
    pub count: u64,

    /// Id of the first message
    #[arg(long, env = "MQUEUE_FIRST", value_name = "ID", default_value_t = 1, value_parser = whole::<u64>(..=1 << 60))]
    pub first: u64,

    /// Format of the report at the end: text on stderr, json on stdout
    #[arg(long, env = "MQUEUE_REPORT", value_enum, default_value_t = SummaryFormat::Text)]
    pub report: SummaryFormat,

    /// The same as --report json
    #[arg(long)]
    pub json: bool,

    /// Time for the last answers after Ctrl-C or SIGTERM; a second signal gives them up at once
    #[arg(long, env = "MQUEUE_GRACE", value_name = "DURATION", value_parser = duration, default_value = "10s")]
    pub grace: Duration,
}

impl Args {
    /// Returns the format of the report, from either flag.
    pub(crate) fn report(&self) -> SummaryFormat {
        if self.json { SummaryFormat::Json } else { self.report }
    }
}

/// The rate of sending.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rate {
    /// Messages a second.
    Fixed(f64),
    /// As fast as the receiver takes them.
    Max,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "max" => Ok(Self::Max),
            _ => rate(text).map(Self::Fixed).map_err(|e| format!("{e}, or max")),
        }
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(rate) => rate.fmt(f),
            Self::Max => f.write_str("max"),
        }
    }
}
