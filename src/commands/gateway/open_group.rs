//! Groups are opened by the first worker that comes, and once, however many come at the same time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, Shared};
use tokio::sync::Notify;

use super::Gateway;
use super::jobs::{GroupKey, Terms};
use super::outbox::Outbox;
use super::refusal::Refusal;
use super::stay::Stay;
use super::supply::{self, Supply};
use crate::commands::common::exit::Failure;
use crate::commands::common::retry_stream;
use crate::commands::common::worker_flags::dead_letters;
use mqueue::client::{Consumer, ConsumerConfig, PublisherConfig};
use mqueue::plural::count;
use mqueue::proto::TopicName;
use mqueue::worker::{DeadLetters, MaxTries};

/// How long a dead letter may take to be published.
const DEAD_LETTER_TIME: Duration = Duration::from_secs(10);

/// Groups that are being opened, and what comes of it.
pub(super) type Opening = Mutex<HashMap<GroupKey, Shared<BoxFuture<'static, Result<(), Refusal>>>>>;

impl Gateway {
    /// Takes a worker in, once its group is open.
    pub(super) async fn join(
        self: &Arc<Self>,
        key: &GroupKey,
        terms: Terms,
        outbox: &Arc<Outbox>,
    ) -> Result<Stay, Refusal> {
        loop {
            if self.shutdown.draining.is_cancelled() {
                return Err(Refusal::unavailable("this gateway is ending: come again"));
            }
            if let Some(stay) = self.exchange.join(key, terms, outbox) {
                return Ok(stay);
            }
            let opening = self.opening(key);
            opening.await?;
        }
    }

    /// The opening of a group; it goes on if this one does not wait for it.
    fn opening(self: &Arc<Self>, key: &GroupKey) -> Shared<BoxFuture<'static, Result<(), Refusal>>> {
        let mut opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        let start = || {
            let (gateway, key) = (self.clone(), key.clone());
            let task = self.exchange.tasks.spawn(async move {
                let opened = gateway.open(&key).await;
                gateway.opening.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
                opened
            });
            let ended =
                |ended: Result<_, _>| ended.unwrap_or_else(|_| Err(Refusal::unavailable("this gateway is ending")));
            task.map(ended).boxed().shared()
        };
        opening.entry(key.clone()).or_insert_with(start).clone()
    }

    async fn open(&self, key: &GroupKey) -> Result<(), Refusal> {
        let settings = &self.settings;
        if self.exchange.groups().len() >= settings.limits.max_groups as usize {
            let line = format!("{} open already (--max-groups)", count(settings.limits.max_groups, "group"));
            return Err(Refusal::unavailable(line));
        }
        let letters = dead_letters_of(&key.stream)?;
        let mut config = ConsumerConfig::new(key.stream.clone(), key.group.clone());
        config.nsqd = settings.broker.nsqd();
        config.lookupd = settings.broker.lookupd_http_address.clone();
        config.connect.identify.msg_timeout = i64::try_from(settings.workers.msg_timeout.as_millis()).ok();
        config.flow.max_in_flight = 0;
        // a worker that fails must not hold the others up
        config.flow.max_backoff = Duration::ZERO;
        let connected = Consumer::connect(config).await;
        let consumer = connected.map_err(|error| Refusal::unavailable(Failure::unavailable(&error).line))?;
        let publishing = PublisherConfig { timeout: DEAD_LETTER_TIME, ..PublisherConfig::default() };
        let supply = Arc::new(Supply {
            key: key.clone(),
            control: consumer.control(),
            unused: Notify::new(),
            dead_letters: DeadLetters::new(letters, publishing),
            max_tries: MaxTries(settings.workers.max_attempts),
        });
        if self.exchange.open(&supply) {
            let GroupKey { stream, group } = key.clone();
            tokio::spawn(retry_stream::follow(consumer.control(), settings.broker.clone(), stream, group));
            // closes it again if nobody comes
            supply.unused.notify_one();
            self.exchange.tasks.spawn(supply::run(supply, consumer, self.exchange.clone()));
        }
        Ok(())
    }
}

/// Where a stream's dead letters go. Fails if there can be no such stream: then there are no jobs of this one.
pub(super) fn dead_letters_of(stream: &TopicName) -> Result<TopicName, Refusal> {
    dead_letters(stream, None).map_err(|_| {
        let line = format!(
            "stream name {stream} is too long: its dead letters' is the same and \".dead\", at most 64 characters"
        );
        Refusal::unusable(line)
    })
}
