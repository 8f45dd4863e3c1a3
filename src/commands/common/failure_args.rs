//! Failures of handlers: the same flags in every command with handlers.

use std::time::Duration;

use super::values::duration;
use super::values::whole;
use mqueue::proto::TopicName;

/// Retries and dead letters.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Failures")]
pub(crate) struct FailureArgs {
    /// Time for one run of the handler, or for the next hop's answer; longer counts as failed
    #[arg(long, env = "MQUEUE_HANDLER_TIMEOUT", value_name = "DURATION", value_parser = duration, default_value = "10m")]
    pub handler_timeout: Duration,

    /// Tries before a message becomes a dead letter, including those in which the consumer died; 0:
    /// no limit
    #[arg(long, env = "MQUEUE_MAX_ATTEMPTS", value_name = "N", value_parser = whole::<u16>(..), default_value_t = 5)]
    pub max_attempts: u16,

    /// Delay before a failed message is delivered again, multiplied by its attempts, at most 15
    /// minutes
    #[arg(long, env = "MQUEUE_RETRY_DELAY", value_name = "DURATION", value_parser = duration, default_value = "5s")]
    pub retry_delay: Duration,

    /// Stream for dead letters [default: STREAM.dead]
    #[arg(long, env = "MQUEUE_DEAD_LETTER", value_name = "NAME")]
    pub dead_letter: Option<TopicName>,
}
