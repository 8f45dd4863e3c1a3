//! `mqueue gateway`.

use std::path::PathBuf;
use std::time::Duration;

use crate::commands::common::broker_args;
use crate::commands::common::http_guard_args::HttpGuardArgs;
use crate::commands::common::server_tls_args::ServerTlsArgs;
use crate::commands::common::values::duration;
use crate::commands::common::values::duration_in;
use crate::commands::common::values::whole;
use mqueue::proto::HostPort;

/// Serve a job queue over HTTP; any HTTP client can be a worker
///
/// GET /streams/S/groups/G/jobs answers with a stream of jobs, one line of JSON each. POST
/// /jobs/TOKEN/done (retry, drop, touch) answers a job. The jobs of a worker that disconnects are
/// requeued. /openapi.json describes the API.
///
/// Exit code: 0; 1 if the address cannot be listened on; 2 for invalid flags or files;
/// 130 after a second Ctrl-C.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Address to serve HTTP on (port 0: any free port; :PORT: all addresses)
    #[arg(long, env = "MQUEUE_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:5000")]
    pub listen: HostPort,

    /// Publish jobs, too: 1, 2, 3 …, to stream jobs for group workers (the defaults of mqueue
    /// worker), as the workers have room; on a broker in this process unless an nsqd is named
    /// [default: false]
    #[arg(long)]
    pub counter: bool,

    /// File with the tokens that requests must send (Authorization: Bearer …), one a line, each
    /// with its scopes; read again on SIGHUP [default: none, every request is served]
    ///
    /// A line is TOKEN [publish] [take] [streams=NAME,NAME] [groups=NAME,NAME]. A token alone has
    /// all scopes.
    #[arg(long, env = "MQUEUE_BEARER_TOKEN_FILE", value_name = "PATH")]
    pub bearer_token_file: Option<PathBuf>,

    /// Listen on an address that other machines can reach without tokens, too [default: refused]
    #[arg(long)]
    pub insecure: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub server: ServerTlsArgs,

    /// Time for workers to answer their jobs after Ctrl-C or SIGTERM; a second signal ends at once
    #[arg(long, env = "MQUEUE_GRACE", value_name = "DURATION", value_parser = duration, default_value = "10s")]
    pub grace: Duration,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub workers: WorkerArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub limits: GatewayLimits,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub http_guard: HttpGuardArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: broker_args::Args,
}

/// Settings for workers.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Workers")]
pub(crate) struct WorkerArgs {
    /// Time between empty lines on a quiet stream; a worker that accepts none for twice as long is
    /// disconnected
    #[arg(long, env = "MQUEUE_HEARTBEAT", value_name = "DURATION", value_parser = heartbeat, default_value = "5s")]
    pub heartbeat: Duration,

    /// Time without an answer or a touch after which a worker's jobs are requeued; a worker may set
    /// its own
    #[arg(long, env = "MQUEUE_DEADLINE", value_name = "DURATION", value_parser = deadline, default_value = "60s")]
    pub deadline: Duration,

    /// Message timeout to ask nsqd for; jobs are touched while workers have them, so a gateway that
    /// was killed holds them for at most this long
    #[arg(long, env = "MQUEUE_MSG_TIMEOUT", value_name = "DURATION", value_parser = msg_timeout, default_value = "15s")]
    pub msg_timeout: Duration,

    /// Tries before a job becomes a dead letter, whether its workers retried it or disconnected;
    /// 0: no limit
    #[arg(long, env = "MQUEUE_MAX_ATTEMPTS", value_name = "N", value_parser = whole::<u16>(..), default_value_t = 10)]
    pub max_attempts: u16,

    /// Delay of a retried job without a delay of its own, multiplied by its attempts, at most 15
    /// minutes
    #[arg(long, env = "MQUEUE_RETRY_DELAY", value_name = "DURATION", value_parser = duration, default_value = "5s")]
    pub retry_delay: Duration,
}

/// Limits on connections, groups and bodies.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Limits")]
pub(crate) struct GatewayLimits {
    /// Connections at once, within the limit of open files; above it those without a request are
    /// closed
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = whole::<u32>(1..=1_000_000))]
    pub max_connections: u32,

    /// Groups open at once, each with its own connections to the nsqds
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = whole::<u32>(1..))]
    pub max_groups: u32,

    /// Jobs of one group that its workers hold at once
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = whole::<u32>(1..))]
    pub max_in_flight: u32,

    /// Largest message, in bytes; at most nsqd's own limit
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20, value_parser = whole::<u32>(1..=1 << 30))]
    pub max_msg_size: u32,

    /// Largest body of a request, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 5 << 20, value_parser = whole::<u32>(1..=1 << 30))]
    pub max_body_size: u32,
}

fn heartbeat(text: &str) -> Result<Duration, String> {
    duration_in(text, Duration::from_millis(100)..=Duration::from_secs(300))
}

fn deadline(text: &str) -> Result<Duration, String> {
    duration_in(text, Duration::from_secs(1)..=Duration::from_secs(900))
}

fn msg_timeout(text: &str) -> Result<Duration, String> {
    duration_in(text, Duration::from_secs(1)..=Duration::from_secs(900))
}
