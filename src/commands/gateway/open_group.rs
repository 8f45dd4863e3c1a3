//! Opening a group: its first worker opens it, and workers that come meanwhile wait for the result.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, Shared};
use tokio::sync::Notify;

use super::Gateway;
use super::group_consumer::{self, GroupConsumer};
use super::group_lookup;
use super::jobs::{GroupKey, WorkerLimits};
use super::outbox::Outbox;
use super::worker_guard::WorkerGuard;
use crate::commands::common::exit::Failure;
use crate::commands::common::json_response::RequestError;
use crate::commands::common::retry_stream;
use crate::commands::common::worker_flags::dead_letters;
use mqueue::client::{Consumer, ConsumerConfig, PublisherConfig};
use mqueue::plural::count;
use mqueue::proto::TopicName;
use mqueue::worker::{DeadLetters, MaxTries};

/// Timeout of publishing a dead letter.
const DEAD_LETTER_TIMEOUT: Duration = Duration::from_secs(10);

/// The groups being opened, and the shared results.
pub(super) type PendingGroups = Mutex<HashMap<GroupKey, Shared<BoxFuture<'static, Result<(), RequestError>>>>>;

impl Gateway {
    /// Adds a worker, and opens its group before if necessary. A group that does not exist is
    /// created if `create` says so, and with `--counter` if it is the numbers' own.
    pub(super) async fn join(
        self: &Arc<Self>,
        key: &GroupKey,
        limits: WorkerLimits,
        outbox: &Arc<Outbox>,
        create: bool,
    ) -> Result<WorkerGuard, RequestError> {
        let mut may_open = create || self.exchange.counts(key);
        loop {
            if self.shutdown.draining.is_cancelled() {
                return Err(RequestError::unavailable("this gateway is ending: try again"));
            }
            if let Some(guard) = self.exchange.join(key, limits, outbox) {
                return Ok(guard);
            }
            if !may_open {
                group_lookup::look_for(&self.settings.broker, key).await?;
                may_open = true;
            }
            self.group_opening(key).await?;
        }
    }

    /// Returns the pending opening of a group, or starts it. It continues if the caller stops
    /// waiting.
    pub(super) fn group_opening(
        self: &Arc<Self>,
        key: &GroupKey,
    ) -> Shared<BoxFuture<'static, Result<(), RequestError>>> {
        let mut opening = self.pending_groups.lock().unwrap_or_else(PoisonError::into_inner);
        let start = || {
            let (gateway, key) = (self.clone(), key.clone());
            let task = self.exchange.tasks.spawn(async move {
                let opened = gateway.open(&key).await;
                gateway.pending_groups.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
                opened
            });
            let ended = |ended: Result<_, _>| {
                ended.unwrap_or_else(|_| Err(RequestError::unavailable("this gateway is ending")))
            };
            task.map(ended).boxed().shared()
        };
        opening.entry(key.clone()).or_insert_with(start).clone()
    }

    async fn open(&self, key: &GroupKey) -> Result<(), RequestError> {
        let settings = &self.settings;
        if self.exchange.groups().len() >= settings.limits.max_groups as usize {
            let line = format!("the limit of {} is reached (--max-groups)", count(settings.limits.max_groups, "group"));
            return Err(RequestError::unavailable(line));
        }
        let letters = dead_letters_of(&key.stream)?;
        let mut config = ConsumerConfig::new(key.stream.clone(), key.group.clone());
        config.nsqd = settings.broker.nsqd();
        config.lookupd = settings.broker.lookupd_http_address.clone();
        config.connect = settings.broker.connect();
        config.connect.identify.msg_timeout = i64::try_from(settings.workers.msg_timeout.as_millis()).ok();
        config.flow.max_in_flight = 0;
        // a failing worker must not slow down the others
        config.flow.max_backoff = Duration::ZERO;
        let connected = Consumer::connect(config).await;
        let consumer = connected.map_err(|error| RequestError::unavailable(Failure::unavailable(&error).line))?;
        let publishing =
            PublisherConfig::default().with_connect(settings.broker.connect()).with_timeout(DEAD_LETTER_TIMEOUT);
        let group_consumer = Arc::new(GroupConsumer {
            key: key.clone(),
            control: consumer.control(),
            unused: Notify::new(),
            dead_letters: DeadLetters::new(letters, publishing),
            work: self.exchange.meter(key),
            max_tries: MaxTries(settings.workers.max_attempts),
        });
        if self.exchange.open(&group_consumer) {
            let GroupKey { stream, group } = key.clone();
            tokio::spawn(retry_stream::follow(consumer.control(), settings.broker.clone(), stream, group));
            // closes the group again if no worker joins
            group_consumer.unused.notify_one();
            self.exchange.tasks.spawn(group_consumer::run(group_consumer, consumer, self.exchange.clone()));
        }
        Ok(())
    }
}

/// Returns the stream of dead letters. Fails if its name is too long: then the stream cannot have
/// jobs.
pub(super) fn dead_letters_of(stream: &TopicName) -> Result<TopicName, RequestError> {
    dead_letters(stream, None).map_err(|_| {
        let line =
            format!("stream name {stream} is too long: with \".dead\", for its dead letters, at most 64 characters");
        RequestError::unprocessable(line)
    })
}
