//! `mqueue worker`.

use std::path::PathBuf;
use std::time::Duration;

use crate::commands::common::values::duration;
use crate::commands::common::values::duration_in;
use crate::commands::common::values::whole;
use mqueue::handler::{HandlerSpec, HttpUrl};
use mqueue::proto::{ChannelName, TopicName};

/// The stream that jobs are taken from where none is named.
pub(crate) const STREAM: &str = "jobs";
/// The group of it.
pub(crate) const GROUP: &str = "workers";

/// Take jobs from a gateway over HTTP, and do them.
///
/// Without --handler it says what it got (n=1 p=1 counter=…), pauses, and is done: a worker to try things with. A job leaves the queue when its
/// work is done; what is under way when this ends is given back.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// The gateway
    #[arg(long, env = "MQUEUE_QUEUE", value_name = "URL", default_value = "http://127.0.0.1:5000")]
    pub queue: HttpUrl,

    /// The stream (NSQ's topic)
    #[arg(long, visible_alias = "topic", env = "STREAM", value_name = "NAME", default_value = STREAM)]
    pub stream: TopicName,

    /// The group (NSQ's channel)
    #[arg(long, visible_alias = "channel", env = "GROUP", value_name = "NAME", default_value = GROUP)]
    pub group: ChannelName,

    /// What this worker is called in the gateway's log
    #[arg(short, long = "name", value_name = "NAME", default_value = "1", value_parser = name)]
    pub n: String,

    /// Without a handler: how long each job takes
    #[arg(short, long = "pause", value_name = "DURATION", value_parser = duration, default_value = "0")]
    pub p: Duration,

    /// What is done with a job: print, exec:CMD, pipe:CMD, http://… or https://…, unix:PATH, file:PATH, sleep:20ms..50ms [default: it is said, as above]
    ///
    /// The same as a consumer's: exit 0 (2xx) is done, 65 (4xx) a dead letter, anything else again later. exec:CMD gets the body on stdin;
    /// pipe:CMD stays, gets a line of JSON a job, and answers with a line: ok, retry (or retry 30s) or drop.
    #[arg(long, env = "MQUEUE_HANDLER", value_name = "HANDLER")]
    pub handler: Option<HandlerSpec>,

    /// How long one run of the handler may take before it is given up and counts as failed
    #[arg(long, env = "MQUEUE_HANDLER_TIMEOUT", value_name = "DURATION", value_parser = duration, default_value = "10m")]
    pub handler_timeout: Duration,

    /// Jobs in hand at once; they are done side by side [default: 1, 100 for pipe, and 500 for print, file and unix]
    #[arg(long, env = "MQUEUE_IN_FLIGHT", value_name = "N", value_parser = whole::<u32>(1..=2500))]
    pub in_flight: Option<u32>,

    /// When the gateway hears nothing of this worker for so long, it takes its jobs back; it hears of it three times as often
    #[arg(long, env = "MQUEUE_DEADLINE", value_name = "DURATION", value_parser = deadline, default_value = "10s")]
    pub deadline: Duration,

    /// When jobs fail one after the other, the longest pause before the next one is asked for; 0: no pauses
    #[arg(long, env = "MQUEUE_MAX_BACKOFF", value_name = "DURATION", value_parser = duration, default_value = "60s")]
    pub max_backoff: Duration,

    /// Exit when this many jobs are done [default: no limit]
    #[arg(long, env = "MQUEUE_COUNT", value_name = "N", value_parser = whole::<u64>(1..))]
    pub count: Option<u64>,

    /// A file with the token that the gateway wants [default: none]
    #[arg(long, env = "MQUEUE_BEARER_TOKEN_FILE", value_name = "PATH")]
    pub bearer_token_file: Option<PathBuf>,

    /// After Ctrl-C or SIGTERM, how long jobs under way may take to finish; a second signal ends them at once
    #[arg(long, env = "MQUEUE_GRACE", value_name = "DURATION", value_parser = duration, default_value = "60s")]
    pub grace: Duration,
}

/// Reads a worker's name: in a log it shall not look like anything else.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._:@/-".contains(c);
    let is_good = !text.is_empty() && text.len() <= 64 && text.chars().all(is_plain);
    is_good.then(|| text.to_owned()).ok_or_else(|| "use letters, digits, . _ : @ / - (at most 64)".to_owned())
}

fn deadline(text: &str) -> Result<Duration, String> {
    duration_in(text, Duration::from_secs(1)..=Duration::from_secs(900))
}
