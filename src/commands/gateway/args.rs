//! `mqueue gateway`.

use std::path::PathBuf;
use std::time::Duration;

use crate::commands::common::broker_args;
use crate::commands::common::values::duration;
use crate::commands::common::values::duration_in;
use crate::commands::common::values::whole;
use mqueue::proto::HostPort;

/// A job queue over HTTP: workers anywhere take jobs from a stream with nothing but an HTTP client.
///
/// GET /streams/S/groups/G/jobs answers a stream of jobs, one line of JSON each; POST /jobs/TOKEN/done (retry, drop, touch) answers them. A worker
/// that goes away gives back what it had. /openapi.json describes all of it.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Where HTTP is served (port 0: any free one; :PORT: on every address)
    #[arg(long, env = "LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:5000")]
    pub listen: HostPort,

    /// Publish jobs, too: 1, 2, 3 …, as workers of stream jobs and group workers (mqueue worker's own) have room; without an nsqd, on a broker in this process [default: false]
    #[arg(long)]
    pub counter: bool,

    /// A file with the token that requests must bring (Authorization: Bearer …) [default: none, everyone is let in]
    #[arg(long, env = "BEARER_TOKEN_FILE", value_name = "PATH")]
    pub bearer_token_file: Option<PathBuf>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub workers: Workers,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub limits: Limits,

    /// After Ctrl-C or SIGTERM, how long workers may take to finish what they have; a second signal ends at once
    #[arg(long, env = "GRACE", value_name = "DURATION", value_parser = duration, default_value = "10s")]
    pub grace: Duration,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: broker_args::Args,
}

/// How workers are treated.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Workers")]
pub(crate) struct Workers {
    /// How often a quiet stream has an empty line; a worker whose network takes none for twice as long is gone
    #[arg(long, env = "HEARTBEAT", value_name = "DURATION", value_parser = heartbeat, default_value = "5s")]
    pub heartbeat: Duration,

    /// How long a worker with jobs may say nothing (no answer, no touch) before they are taken back; a worker may ask for another
    #[arg(long, env = "DEADLINE", value_name = "DURATION", value_parser = deadline, default_value = "60s")]
    pub deadline: Duration,

    /// How long nsqd waits for this gateway, which says for each job that it is alive: for so long jobs are away when it is killed
    #[arg(long, env = "MSG_TIMEOUT", value_name = "DURATION", value_parser = msg_timeout, default_value = "15s")]
    pub msg_timeout: Duration,

    /// Tries after which a job goes to the dead letters, whether its workers retried it or went away; 0: no limit
    #[arg(long, env = "MAX_ATTEMPTS", value_name = "N", value_parser = whole::<u16>(..), default_value_t = 10)]
    pub max_attempts: u16,

    /// How long a job waits that is retried without a delay of its own, times its attempts (15 minutes at the most)
    #[arg(long, env = "RETRY_DELAY", value_name = "DURATION", value_parser = duration, default_value = "5s")]
    pub retry_delay: Duration,
}

/// What is let in.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Limits")]
pub(crate) struct Limits {
    /// Connections at once, as far as the limit of open files goes; beyond it those without a request make way
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = whole::<u32>(1..=1_000_000))]
    pub max_connections: u32,

    /// Groups that are open at once, each with its connections to the nsqds
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = whole::<u32>(1..))]
    pub max_groups: u32,

    /// Jobs of a group that its workers hold together
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = whole::<u32>(1..))]
    pub max_in_flight: u32,

    /// The largest message, in bytes: not more than nsqd's own limit
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20, value_parser = whole::<u32>(1..=1 << 30))]
    pub max_msg_size: u32,

    /// The largest body of a request, in bytes
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
