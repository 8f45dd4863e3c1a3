//! The flags for work that fails: the same on every command that has handlers.

use std::time::Duration;

use super::values::duration;
use super::values::whole;
use mqueue::proto::TopicName;

/// What becomes of work that fails.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Work that fails")]
pub(crate) struct FailureArgs {
    /// How long one run of the handler, or the next hop's answer, may take before it is given up and counts as failed
    #[arg(long, env = "HANDLER_TIMEOUT", value_name = "DURATION", value_parser = duration, default_value = "10m")]
    pub handler_timeout: Duration,

    /// Tries after which a message goes to the dead letters, whether it failed or its consumer died; 0: no limit
    #[arg(long, env = "MAX_ATTEMPTS", value_name = "N", value_parser = whole::<u16>(..), default_value_t = 5)]
    pub max_attempts: u16,

    /// How long a failed message waits before it comes again, times its attempts (15 minutes at the most)
    #[arg(long, env = "RETRY_DELAY", value_name = "DURATION", value_parser = duration, default_value = "5s")]
    pub retry_delay: Duration,

    /// The stream for dead letters [default: the stream's name and ".dead"]
    #[arg(long, env = "DEAD_LETTER", value_name = "NAME")]
    pub dead_letter: Option<TopicName>,
}
