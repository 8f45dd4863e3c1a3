//! `mqueue ingest`.

use std::time::Duration;

use crate::commands::common::broker_args;
use crate::commands::common::values::duration;
use crate::commands::common::values::whole;
use mqueue::net::Endpoint;
use mqueue::proto::TopicName;

/// Take a feed from sockets and publish it: a message a line from streams, a message a packet from datagrams.
///
/// A stream's sender is slowed down while nsqd is slow or away; when it ends its side, the answer `OK 500` says that so many lines
/// are published. On SIGTERM what was read is published before the exit. Sockets may be passed by systemd.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Where the feed comes in: unix:/PATH or tcp:HOST:PORT (streams), unixgram:/PATH or udp:HOST:PORT (datagrams); repeatable
    /// [default: the sockets that systemd passes]
    #[arg(long, env = "LISTEN", value_name = "ADDRESS", value_delimiter = ',')]
    pub listen: Vec<Endpoint>,

    /// The stream (NSQ's topic) to publish to
    #[arg(long, visible_alias = "stream", env = "TO", value_name = "NAME")]
    pub to: TopicName,

    /// The longest line or packet, in bytes: a longer one is refused, and counted
    #[arg(long, env = "MAX_LINE", value_name = "BYTES", default_value_t = 1 << 20, value_parser = whole::<u32>(1..=1 << 30))]
    pub max_line: u32,

    /// Bytes of packets that may wait to be published. Beyond it none is received: a Unix sender then waits, and of UDP the kernel
    /// drops what does not fit its buffer, which is counted and said
    #[arg(long, alias = "queue", env = "MAX_QUEUED", value_name = "BYTES", default_value_t = 64 << 20, value_parser = whole::<u32>(1 << 12..=1 << 30))]
    pub max_queued: u32,

    /// What is reported: text at the end to stderr, or json to stdout, a line each second and one at the end
    #[arg(long, env = "REPORT", value_enum, default_value_t = crate::commands::common::values::ReportFormat::Text)]
    pub report: crate::commands::common::values::ReportFormat,

    /// The same as --report json
    #[arg(long)]
    pub json: bool,

    /// After Ctrl-C or SIGTERM, how long publishing what was read may take; a second signal gives it up at once
    #[arg(long, env = "GRACE", value_name = "DURATION", value_parser = duration, default_value = "60s")]
    pub grace: Duration,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: broker_args::Args,
}

impl Args {
    /// How to report, whichever flag says it.
    pub(crate) fn report(&self) -> crate::commands::common::values::ReportFormat {
        if self.json { crate::commands::common::values::ReportFormat::Json } else { self.report }
    }
}
