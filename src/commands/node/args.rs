//! `mqueue node`.

use std::time::Duration;

use clap::ValueEnum;

use crate::commands::common::broker_args;
use crate::commands::common::failure_args::FailureArgs;
use crate::commands::common::metrics::listen_args::ListenArgs;
use crate::commands::common::store_args::StoreArgs;
use crate::commands::common::values::duration;
use crate::commands::common::values::{duration_with_unit, millis, whole};
use crate::commands::consumer::args::ConsumerTuning;
use mqueue::client::{Address, Nsqd};
use mqueue::handler::HandlerSpec;
use mqueue::proto::{ChannelName, TopicName};

/// Run one node of a fleet in which exactly one generates events
///
/// Start any number of nodes. The node that holds the fleet's one token generates an event every
/// interval (`UUID TIMESTAMP EPOCH SEQUENCE`), the others handle events. When the generator dies,
/// another node takes over within twice the ping interval. With `--store redis` the token and the
/// events are in Redis, beside programs that use the same list by LPUSH and BRPOP.
///
/// Exit code: 0; 1 if the address cannot be listened on; 2 for invalid flags or settings; 130 after a
/// second Ctrl-C.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Stream of the events (NSQ: topic)
    #[arg(long, visible_alias = "topic", env = "STREAM", value_name = "NAME", default_value = "a")]
    pub stream: TopicName,

    /// Group that the consumers share (NSQ: channel)
    #[arg(long, visible_alias = "channel", env = "GROUP", value_name = "NAME", default_value = "1")]
    pub group: ChannelName,

    /// Role: a consumer handles events until it becomes the generator; a generator only waits for
    /// its turn to generate
    #[arg(long, env = "MODE", value_enum, default_value_t = Mode::Consumer)]
    pub mode: Mode,

    /// Time that the generator keeps its lease without renewing it: seconds, or 10s, 1m; at least
    /// 1s, the same on all nodes
    #[arg(long, env = "GENERATOR_PING_INTERVAL", value_name = "DURATION", value_parser = ping_interval, default_value = "10")]
    pub ping_interval: Duration,

    /// Time between events: 500ms, 2s (1ms to 1day) [default: 500ms] [env: GENERATOR_INTERVAL, in
    /// milliseconds]
    #[arg(long, value_name = "DURATION", value_parser = interval)]
    pub interval: Option<Duration>,

    /// --interval in milliseconds, for the environment variable, whose number has no unit
    #[arg(long, env = "GENERATOR_INTERVAL", value_parser = interval_of_variable, default_value = "500", hide = true)]
    pub generator_interval: Duration,

    /// Events handled at once
    #[arg(long, env = "CONSUMER_MAX_GOROUTINES", value_name = "N", default_value_t = 10_000, value_parser = whole::<u32>(1..=100_000))]
    pub concurrency: u32,

    /// Handler of each event, as in `mqueue consumer`; sleep only waits, for a random time
    #[arg(long, env = "MQUEUE_HANDLER", value_name = "HANDLER", default_value = "sleep:1ms..100ms")]
    pub handler: HandlerSpec,

    /// Share of events that are invalid, by chance, and become dead letters: 0 (none) to 1 (all)
    #[arg(long, env = "MQUEUE_INVALID", value_name = "SHARE", value_parser = share, default_value = "0.05")]
    pub invalid: f64,

    /// Port of /debug/vars on 127.0.0.1, for expvarmon; 0: any free port
    #[arg(long, env = "MPORT", value_name = "PORT", value_parser = whole::<u16>(..), default_value_t = 8080)]
    pub mport: u16,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub metrics: ListenArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub token: Token,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub store: StoreArgs,

    /// Connections to Redis at most; a node uses three
    #[arg(long, help_heading = "Redis", env = "REDIS_POOL_SIZE", value_name = "N", value_parser = whole::<u32>(1..), default_value_t = 100)]
    pub redis_pool_size: u32,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub failing: FailureArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub tuning: ConsumerTuning,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: broker_args::Args,
}

/// The location of the token.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Token")]
pub(crate) struct Token {
    /// Stream of the token; beats are in the same name with .beats. In Redis the key of the lease
    /// [default: STREAM.token; lock:gen in Redis]
    #[arg(long, env = "MQUEUE_TOKEN_STREAM", value_name = "NAME")]
    pub token_stream: Option<TopicName>,

    /// TCP address of the one nsqd that has the token and the events, the same for all nodes
    /// [default: the first nsqd]
    #[arg(long, env = "MQUEUE_TOKEN_NSQD_TCP_ADDRESS", value_name = "HOST:PORT")]
    pub token_nsqd_tcp_address: Option<Address>,

    /// HTTP address of that nsqd [default: the first]
    #[arg(long, env = "MQUEUE_TOKEN_NSQD_HTTP_ADDRESS", value_name = "HOST:PORT")]
    pub token_nsqd_http_address: Option<Nsqd>,
}

/// The role of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Handles events, and generates when no other node does
    Consumer,
    /// Generates when no other node does
    Generator,
}

fn ping_interval(text: &str) -> Result<Duration, String> {
    let lease = duration(text)?;
    match (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&lease) {
        true => Ok(lease),
        false => Err("use 1s to 1h".to_owned()),
    }
}

impl Args {
    /// Returns the time between events; the flag beats the variable.
    pub(crate) fn interval(&self) -> Duration {
        self.interval.unwrap_or(self.generator_interval)
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    duration_with_unit(text).and_then(check_interval)
}

fn interval_of_variable(text: &str) -> Result<Duration, String> {
    millis(text).and_then(check_interval)
}

fn check_interval(interval: Duration) -> Result<Duration, String> {
    match (Duration::from_millis(1)..=Duration::from_secs(86_400)).contains(&interval) {
        true => Ok(interval),
        false => Err("use 1ms to 1day".to_owned()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(|| "use 0 (none) to 1 (all)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ping_interval_numbers_are_seconds_and_generator_interval_numbers_milliseconds() {
        assert_eq!(ping_interval("10"), Ok(Duration::from_secs(10)));
        assert_eq!(interval_of_variable("500"), Ok(Duration::from_millis(500)));
        assert_eq!(interval_of_variable("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(interval("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(share("0.25"), Ok(0.25));
        for wrong in ["0", "0.5", "2h", "-1", "x"] {
            assert!(ping_interval(wrong).is_err(), "{wrong}");
        }
        for wrong in ["0", "-5", "2d", "", "x", "1e400"] {
            assert!(interval(wrong).is_err(), "{wrong}");
            assert!(interval_of_variable(wrong).is_err(), "{wrong}");
        }
        assert!(["-0.1", "1.1", "nan", ""].iter().all(|wrong| share(wrong).is_err()));
    }
}
