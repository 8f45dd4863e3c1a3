//! `mqueue web`.

use std::time::Duration;

use crate::commands::common::http_guard_args::HttpGuardArgs;
use crate::commands::common::server_tls_args::ServerTlsArgs;
use crate::commands::common::values::duration_in;
use crate::commands::common::web::args::AccessArgs;
use crate::commands::common::{broker_args, socket_args};
use mqueue::proto::HostPort;

/// Serve a page that shows streams and groups live in a browser
///
/// The figures of `mqueue ls`, live, with charts of the last 24 hours. Read-only, unless
/// --allow-actions and a file of tokens allow pausing, emptying and deleting. Every action is
/// logged with the name of its token.
///
/// Exit code: 0; 1 if the address cannot be listened on; 2 for invalid flags or files.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Address to serve the page on (port 0: any free port; :PORT: all addresses)
    #[arg(long, env = "MQUEUE_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:4180")]
    pub listen: HostPort,

    /// Time between two looks at the nsqds, for all viewers together
    #[arg(long, env = "MQUEUE_POLL_INTERVAL", value_name = "DURATION", value_parser = interval, default_value = "1s")]
    pub poll_interval: Duration,

    /// Address of the HTTP of `mqueue wakeup --listen`, to show what it did [default: none]
    #[arg(long, env = "MQUEUE_WAKEUP_HTTP_ADDRESS", value_name = "HOST:PORT")]
    pub wakeup_http_address: Option<HostPort>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub access: AccessArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub server: ServerTlsArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub sockets: socket_args::Args,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub http_guard: HttpGuardArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: broker_args::Args,
}

fn interval(text: &str) -> Result<Duration, String> {
    duration_in(text, Duration::from_millis(100)..=Duration::from_secs(60))
}
