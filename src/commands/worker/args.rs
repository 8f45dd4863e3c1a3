//! `mqueue worker`.

use std::path::PathBuf;
use std::time::Duration;

use crate::commands::common::metrics::listen_args::ListenArgs;
use crate::commands::common::tls_client_args::TlsClientArgs;
use crate::commands::common::values::duration;
use crate::commands::common::values::duration_in;
use crate::commands::common::values::whole;
use mqueue::handler::{HandlerSpec, HttpUrl};
use mqueue::proto::{ChannelName, TopicName};

/// The default stream.
pub(crate) const STREAM: &str = "jobs";
/// The default group.
pub(crate) const GROUP: &str = "workers";

/// Take jobs from a gateway over HTTP, and handle them
///
/// Without --handler it prints each job (n=1 p=1 counter=…), pauses and marks it done: a worker for
/// first tries. A job leaves the queue when its work is done; jobs in progress at the end are
/// requeued.
///
/// Exit code: 0; 1 if the gateway refuses the worker, or standard output is lost; 2 for invalid
/// flags or files; 5 if no job was done and some failed; 130 after a second Ctrl-C.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// URL of the gateway
    #[arg(long, env = "MQUEUE_QUEUE", value_name = "URL", default_value = "http://127.0.0.1:5000")]
    pub queue: HttpUrl,

    /// Stream of the jobs (NSQ: topic)
    #[arg(long, visible_alias = "topic", env = "STREAM", value_name = "NAME", default_value = STREAM)]
    pub stream: TopicName,

    /// Group of the workers (NSQ: channel)
    #[arg(long, visible_alias = "channel", env = "GROUP", value_name = "NAME", default_value = GROUP)]
    pub group: ChannelName,

    /// Name of this worker in the gateway's log
    #[arg(short, long = "name", value_name = "NAME", default_value = "1", value_parser = name)]
    pub n: String,

    /// Duration of each job, without a handler
    #[arg(short, long = "pause", value_name = "DURATION", value_parser = duration, default_value = "0")]
    pub p: Duration,

    /// Handler of each job: print, exec:CMD, pipe:CMD, http://…, https://…, file:PATH, unix:PATH,
    /// sleep:20ms..50ms [default: print a line, as above]
    ///
    /// The handlers are those of `mqueue consumer`: exit code 0 or 2xx: done; 65 or 4xx: dead
    /// letter; any other: retry. exec:CMD has the body on stdin; pipe:CMD runs once, reads a line
    /// of JSON for each job and answers with a line: ok, retry, retry 30s or drop.
    #[arg(long, env = "MQUEUE_HANDLER", value_name = "HANDLER")]
    pub handler: Option<HandlerSpec>,

    /// Jobs held and handled at once [default: 1, 100 for pipe, 500 for print, file and unix]
    #[arg(long, env = "MQUEUE_IN_FLIGHT", value_name = "N", value_parser = whole::<u32>(1..=2500))]
    pub in_flight: Option<u32>,

    /// Exit after this many jobs are done [default: no limit]
    #[arg(long, env = "MQUEUE_COUNT", value_name = "N", value_parser = whole::<u64>(1..))]
    pub count: Option<u64>,

    /// File with the token to send to the gateway: the first one in it [default: none]
    #[arg(long, env = "MQUEUE_BEARER_TOKEN_FILE", value_name = "PATH")]
    pub bearer_token_file: Option<PathBuf>,

    #[command(flatten, next_help_heading = "TLS")]
    #[allow(missing_docs)]
    pub certificates: TlsClientArgs,

    /// Time for one run of the handler; longer counts as failed
    #[arg(long, help_heading = "Failures", env = "MQUEUE_HANDLER_TIMEOUT", value_name = "DURATION", value_parser = duration, default_value = "10m")]
    pub handler_timeout: Duration,

    /// Longest pause after failures in a row; 0: no pauses
    #[arg(long, help_heading = "Failures", env = "MQUEUE_MAX_BACKOFF", value_name = "DURATION", value_parser = duration, default_value = "60s")]
    pub max_backoff: Duration,

    /// Time without a sign of life after which the gateway requeues this worker's jobs; the worker
    /// sends one three times as often
    #[arg(long, help_heading = "Tuning", env = "MQUEUE_DEADLINE", value_name = "DURATION", value_parser = deadline, default_value = "10s")]
    pub deadline: Duration,

    /// Time for running jobs after Ctrl-C or SIGTERM; a second signal ends them at once
    #[arg(long, help_heading = "Tuning", env = "MQUEUE_GRACE", value_name = "DURATION", value_parser = duration, default_value = "60s")]
    pub grace: Duration,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub metrics: ListenArgs,
}

/// Parses a worker's name; its characters are limited, because the name is logged.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._:@/-".contains(c);
    let is_good = !text.is_empty() && text.len() <= 64 && text.chars().all(is_plain);
    is_good.then(|| text.to_owned()).ok_or_else(|| "use letters, digits, . _ : @ / - (at most 64)".to_owned())
}

fn deadline(text: &str) -> Result<Duration, String> {
    duration_in(text, Duration::from_secs(1)..=Duration::from_secs(900))
}
