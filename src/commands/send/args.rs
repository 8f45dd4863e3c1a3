//! `mqueue send`.

use std::str::FromStr;
use std::time::Duration;

use crate::commands::common::values::duration;
use crate::commands::common::values::rate;
use crate::commands::common::values::whole;
use crate::commands::producer::args::SummaryFormat;
use mqueue::net::Endpoint;

/// Send a feed of numbered messages to a socket: lines to a stream, packets to datagrams.
///
/// Messages are {"id":1,"shortcode":"…","destination":"…","tag":"…"}, where tag is the time at which the message was due, in nanoseconds since
/// 1970. They are due on a fixed schedule: a slow receiver does not slow it down, but shows as lateness. A stream's receiver is asked once a
/// second what it has (`mqueue ingest` answers); what it has not is sent again. Exit status: 0 if all was acknowledged, 1 if not.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Where to: unix:/PATH or tcp:HOST:PORT (streams), unixgram:/PATH or udp:HOST:PORT (datagrams, which nobody acknowledges)
    #[arg(long, env = "TO", value_name = "ADDRESS")]
    pub to: Endpoint,

    /// Messages a second, or max: as fast as they are taken
    #[arg(long, env = "RATE", value_name = "N", default_value = "500")]
    pub rate: Rate,

    /// How many messages
    #[arg(long, env = "COUNT", value_name = "N", default_value_t = 5000, value_parser = whole::<u64>(1..=1_000_000_000_000))]
    pub count: u64,

    /// The first message's id
    #[arg(long, env = "FIRST", value_name = "ID", default_value_t = 1, value_parser = whole::<u64>(..=1 << 60))]
    pub first: u64,

    /// What the end is reported as: text to stderr, json to stdout
    #[arg(long, env = "REPORT", value_enum, default_value_t = SummaryFormat::Text)]
    pub report: SummaryFormat,

    /// The same as --report json
    #[arg(long)]
    pub json: bool,

    /// After Ctrl-C or SIGTERM, how long the last answers may take; a second signal gives them up at once
    #[arg(long, env = "GRACE", value_name = "DURATION", value_parser = duration, default_value = "10s")]
    pub grace: Duration,
}

impl Args {
    /// How to report, whichever flag says it.
    pub(crate) fn report(&self) -> SummaryFormat {
        if self.json { SummaryFormat::Json } else { self.report }
    }
}

/// How fast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rate {
    /// So many a second.
    Fixed(f64),
    /// As fast as they are taken.
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
