//! Consumer, worker and handler settings from the flags that several commands share.

use std::time::Duration;

use super::exit::{Exit, Failure};
use super::handler_environment;
use crate::commands::common::broker_args::Args;
use crate::commands::common::failure_args::FailureArgs;
use crate::commands::consumer::args::ConsumerTuning;
use mqueue::client::{Address, ConnectConfig, ConsumerConfig};
use mqueue::handler::{FileOptions, HandlerOptions, PrintOutput};
use mqueue::proto::{ChannelName, TopicName};
use mqueue::shutdown::Shutdown;
use mqueue::worker::{DeadLetter, WorkerConfig};

/// Makes the consumer's settings for this group, except max-in-flight.
pub(crate) fn consumer_config(
    stream: &TopicName,
    group: &ChannelName,
    broker: &Args,
    tuning: &ConsumerTuning,
) -> ConsumerConfig {
    let mut config = ConsumerConfig::new(stream.clone(), group.clone());
    config.nsqd = broker.nsqd();
    config.lookupd = broker.lookupd_http_address.clone();
    config.lookupd_poll_interval = tuning.lookupd_poll_interval;
    config.flow.max_backoff = tuning.max_backoff;
    let millis = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
    config.connect = broker.connect();
    config.connect.identify.msg_timeout = tuning.msg_timeout.map(millis);
    config
}

/// Makes the options of a handler of this group, which prints JSON, writes plain files and leaves a
/// command's output alone.
pub(crate) fn handler_options(
    stream: &TopicName,
    group: &ChannelName,
    timeout: Duration,
    nsqd: Vec<Address>,
    connect: ConnectConfig,
    shutdown: &Shutdown,
) -> HandlerOptions {
    HandlerOptions {
        stream: stream.clone(),
        group: group.clone(),
        output: PrintOutput::Json,
        file: FileOptions::default(),
        timeout,
        stop: shutdown.draining.clone(),
        capture_output: false,
        nsqd,
        connect,
        withheld: handler_environment::withheld(),
    }
}

/// Makes the worker's settings for this stream, except concurrency and end. Fails if the dead
/// letters need another stream, which must not be this one.
pub(crate) fn worker_config(
    stream: &TopicName,
    failing: &FailureArgs,
    connect: ConnectConfig,
) -> Result<WorkerConfig, Failure> {
    let dead_letters = dead_letters(stream, failing.dead_letter.as_ref())?;
    if dead_letters == *stream {
        let line = format!("stream {stream} would be fed its own dead letters: name another one with --dead-letter");
        return Err(Failure::new(Exit::Usage, line));
    }
    let mut config = WorkerConfig::default()
        .with_max_attempts(failing.max_attempts)
        .with_retry_delay(failing.retry_delay)
        .with_dead_letters(dead_letters);
    config.publisher.connect = connect;
    Ok(config)
}

/// Returns the stream of dead letters: the one named, or the default.
pub(crate) fn dead_letters(stream: &TopicName, named: Option<&TopicName>) -> Result<TopicName, Failure> {
    let too_long = |e| Failure::new(Exit::Usage, format!("{e}: name a stream for the dead letters with --dead-letter"));
    named.map_or_else(|| DeadLetter::stream_of(stream).map_err(too_long), |named| Ok(named.clone()))
}
