//! `mqueue ingest`.

use std::time::Duration;

use crate::commands::common::broker_args;
use crate::commands::common::http_guard_args::HttpGuardArgs;
use crate::commands::common::values::duration;
use crate::commands::common::values::whole;
use mqueue::net::Endpoint;
use mqueue::proto::{HostPort, TopicName};

/// Publish a feed from sockets: a message a line or packet
///
/// A stream's sender is slowed down while nsqd is slow or unreachable. When the sender ends its
/// side, the answer `OK 500` says that 500 lines are published. On SIGTERM everything read is
/// published before the exit. Sockets may be passed by systemd.
///
/// Exit code: 0; 1 if an address cannot be listened on; 2 for invalid flags; 5 if nothing was
/// published and something failed; 130 after a second Ctrl-C.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Address to listen on: unix:/PATH or tcp:HOST:PORT (streams), unixgram:/PATH or udp:HOST:PORT
    /// (datagrams); repeatable [default: the sockets that systemd passes]
    #[arg(long, env = "MQUEUE_LISTEN", value_name = "ADDRESS", value_delimiter = ',')]
    pub listen: Vec<Endpoint>,

    /// Stream to publish to (NSQ: topic)
    #[arg(long, visible_alias = "stream", env = "MQUEUE_TO", value_name = "NAME")]
    pub to: TopicName,

    /// Longest line or packet, in bytes; longer ones are refused and counted
    #[arg(long, help_heading = "Limits", env = "MQUEUE_MAX_LINE", value_name = "BYTES", default_value_t = 1 << 20, value_parser = whole::<u32>(1..=1 << 30))]
    pub max_line: u32,

    /// Bytes of packets that may wait to be published; above it none are received: a Unix sender
    /// waits, and UDP packets that exceed the kernel's buffer are dropped and counted
    #[arg(long, help_heading = "Limits", alias = "queue", env = "MQUEUE_MAX_QUEUED", value_name = "BYTES", default_value_t = 64 << 20, value_parser = whole::<u32>(1 << 12..=1 << 30))]
    pub max_queued: u32,

    /// Format of the report: text at the end on stderr, or json on stdout, a line every second and
    /// one at the end
    #[arg(long, env = "MQUEUE_REPORT", value_enum, default_value_t = crate::commands::common::values::ReportFormat::Text)]
    pub report: crate::commands::common::values::ReportFormat,

    /// The same as --report json
    #[arg(long)]
    pub json: bool,

    /// Time to publish what was read after Ctrl-C or SIGTERM; a second signal gives it up at once
    #[arg(long, env = "MQUEUE_GRACE", value_name = "DURATION", value_parser = duration, default_value = "60s")]
    pub grace: Duration,

    /// Address to serve /healthz and /metrics on over HTTP (port 0: any free port, which the log
    /// names); --listen in the other commands [default: none, nothing is measured]
    #[arg(long, help_heading = "Metrics", env = "MQUEUE_METRICS_LISTEN", value_name = "HOST:PORT")]
    pub metrics_listen: Option<HostPort>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub http_guard: HttpGuardArgs,

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
