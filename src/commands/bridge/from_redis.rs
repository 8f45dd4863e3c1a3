//! From a list in Redis to a stream: batches are set aside in Redis, published, and then deleted
//! ([`ListBatches`]).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::pacer::Pacer;
use crate::commands::common::exit::{Exit, Failure};
use crate::commands::common::metrics::publish_meter::PublishMeter;
use crate::commands::common::notice::Notice;
use crate::commands::common::redis::{
    LOOK_INTERVAL, ListBatches, RedisConnection, RedisError, RedisReply, RedisServer, texts,
};
use mqueue::backoff::Backoff;
use mqueue::client::{PublishError, PublishManyError, Publisher};
use mqueue::plural::count;
use mqueue::proto::{ErrorCode, TopicName};

/// Batches that are published at once.
const MAX_PUBLISHING: usize = 4;
/// Wait for an entry where Redis cannot wait, or while batches are published.
const SHORT_WAIT: Duration = Duration::from_millis(20);
/// First and longest pause before Redis is tried again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Keeps an entry that nsqd refuses. KEYS: the list of them; ARGV: the entry.
const KEEP_REFUSED: &str = "return redis.call('RPUSH', KEYS[1], ARGV[1])";

/// Limits and the end of the work.
#[derive(Debug, Clone, Copy)]
pub(super) struct TakeLimits {
    /// Entries of a batch.
    pub(super) batch: u64,
    /// Entries a second.
    pub(super) rate: Option<f64>,
    /// Time without an entry after which the bridge ends.
    pub(super) idle: Option<Duration>,
    /// Entries after which it ends.
    pub(super) count: Option<u64>,
    /// `RIGHT` if entries are pushed left.
    pub(super) end: &'static str,
}

/// A batch that is being published.
#[derive(Debug)]
struct TakenBatch {
    name: String,
    /// Entries that are not published yet.
    entries: Vec<Bytes>,
    /// Entries that nsqd refuses, and why.
    refused: Vec<(Bytes, String)>,
}

type PublishedBatch = (TakenBatch, Duration, Result<(), PublishManyError>);

/// Counts at the end.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct TakeTotals {
    pub(super) published: u64,
    pub(super) refused: u64,
    pub(super) taken_over: u64,
}

/// The work from Redis to a stream.
pub(super) struct FromRedis {
    server: RedisServer,
    stream: TopicName,
    publisher: Publisher,
    meter: Option<Arc<PublishMeter>>,
    limits: TakeLimits,
    batches: ListBatches,
    publishing: JoinSet<PublishedBatch>,
    /// Batches whose entries are all published or kept elsewhere: to delete.
    done: Vec<String>,
    /// Batches with entries that nsqd refused: to keep, and then to delete.
    refused: VecDeque<TakenBatch>,
    /// Batches of this bridge whose entries it does not have.
    unread: Vec<String>,
    taken: u64,
    totals: TakeTotals,
    /// The same number as in the totals, for others to read meanwhile.
    published: Arc<AtomicU64>,
    pacer: Option<Pacer>,
    last_entry: Instant,
    redis_away: Notice,
    nsqd_away: Notice,
    fatal: Option<Failure>,
}

impl FromRedis {
    pub(super) fn new(
        server: RedisServer,
        stream: TopicName,
        publisher: Publisher,
        meter: Option<Arc<PublishMeter>>,
        limits: TakeLimits,
    ) -> Self {
        let pacer = limits.rate.map(|rate| Pacer::new(rate, Instant::now()));
        Self {
            batches: ListBatches::new(server.list.clone(), limits.end),
            server,
            stream,
            publisher,
            meter,
            limits,
            publishing: JoinSet::new(),
            done: Vec::new(),
            refused: VecDeque::new(),
            unread: Vec::new(),
            taken: 0,
            totals: TakeTotals::default(),
            published: Arc::default(),
            pacer,
            last_entry: Instant::now(),
            redis_away: Notice::default(),
            nsqd_away: Notice::default(),
            fatal: None,
        }
    }

    /// Returns the number of published entries, which is read while the work goes on.
    pub(super) fn published(&self) -> Arc<AtomicU64> {
        self.published.clone()
    }

    /// Returns the counts.
    pub(super) fn totals(&self) -> TakeTotals {
        self.totals
    }

    /// Works until `stop`, or until there is another reason to end.
    ///
    /// # Errors
    /// Redis refuses the first commands, or nsqd refuses the stream.
    pub(super) async fn run(&mut self, first: RedisConnection, stop: &CancellationToken) -> Result<Exit, Failure> {
        let mut connection = Some(first);
        let mut pauses = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE, fastrand::Rng::new());
        let mut has_worked = false;
        loop {
            let worked = match connection.take() {
                Some(mut redis) => self.work(&mut redis, stop, &mut has_worked).await,
                None => match self.server.connect().await {
                    Ok(redis) => {
                        connection = Some(redis);
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            let error = match (worked, self.fatal.take()) {
                (_, Some(failure)) => return Err(failure),
                (Ok(()), None) => return Ok(Exit::Success),
                (Err(error), None) => error,
            };
            if !has_worked && matches!(error, RedisError::Refused { .. }) {
                return Err(Failure::new(Exit::Failure, error));
            }
            if self.redis_away.begins() {
                tracing::warn!("{error}; entries stay in Redis, and it is tried again");
                pauses.reset();
            }
            let is_done = self.publishing.is_empty() && self.done.is_empty() && self.refused.is_empty();
            tokio::select! {
                () = tokio::time::sleep(pauses.next().unwrap_or(LONGEST_PAUSE)) => {}
                () = stop.cancelled(), if is_done => return Ok(Exit::Success),
            }
        }
    }

    /// Works on one connection.
    async fn work(
        &mut self,
        redis: &mut RedisConnection,
        stop: &CancellationToken,
        has_worked: &mut bool,
    ) -> Result<(), RedisError> {
        let mut look_at = Instant::now();
        loop {
            self.collect_published();
            if self.fatal.is_some() {
                return Ok(());
            }
            self.keep_refused(redis).await?;
            let now = Instant::now();
            let is_stopping = stop.is_cancelled() || self.is_at_end();
            if is_stopping && self.publishing.is_empty() && self.done.is_empty() {
                self.batches.add_end(redis);
                return redis.run().await.map(drop);
            }
            let most = if is_stopping { 0 } else { self.room(now) };
            let taken = self.exchange(redis, most).await?;
            *has_worked = true;
            if self.redis_away.ends() {
                tracing::info!("Redis answers again");
            }
            if !is_stopping {
                self.read_unread(redis).await?;
                if look_at <= now && self.publishing.len() < MAX_PUBLISHING {
                    look_at = now + LOOK_INTERVAL;
                    if self.take_over(redis).await? {
                        look_at = now;
                    }
                }
            }
            let is_over = is_stopping && self.publishing.is_empty();
            if taken == 0 && !is_over {
                self.wait(redis, most > 0).await?;
            }
        }
    }

    fn is_at_end(&self) -> bool {
        let is_counted = self.limits.count.is_some_and(|most| self.taken >= most);
        let is_idle = self.limits.idle.is_some_and(|idle| self.last_entry.elapsed() >= idle);
        is_counted || (is_idle && self.publishing.is_empty() && self.unread.is_empty())
    }

    /// The number of entries that may be taken now.
    fn room(&mut self, now: Instant) -> u64 {
        if self.publishing.len() + self.unread.len() >= MAX_PUBLISHING {
            return 0;
        }
        let left = self.limits.count.map_or(u64::MAX, |most| most.saturating_sub(self.taken));
        let due = self.pacer.as_mut().map_or(u64::MAX, |pacer| pacer.room(now));
        self.limits.batch.min(left).min(due)
    }

    /// Deletes what is published, shows that this bridge lives, and takes at most `most` entries, in
    /// one pipeline. Returns the number of entries.
    async fn exchange(&mut self, redis: &mut RedisConnection, most: u64) -> Result<usize, RedisError> {
        self.done.iter().for_each(|name| self.batches.add_delete(redis, name));
        self.batches.add_alive_if_due(redis);
        let name = self.batches.new_name();
        if most > 0 {
            self.batches.add_take(redis, &name, most);
            // until the reply has come, the entries may have been moved
            self.unread.push(name.clone());
        }
        let mut replies = redis.run().await?;
        let taken = if most > 0 { replies.pop() } else { None };
        for reply in replies.into_iter().chain(taken.iter().filter(|it| matches!(it, RedisReply::Error(_))).cloned()) {
            if let RedisReply::Error(error) = reply {
                if self.batches.is_without_flags(&error) {
                    self.unread.retain(|unread| *unread != name);
                    return Ok(0);
                }
                return Err(redis.refused(error));
            }
        }
        self.done.clear();
        let Some(taken) = taken else { return Ok(0) };
        self.unread.retain(|unread| *unread != name);
        let entries = texts(taken).ok_or_else(|| redis.malformed())?;
        Ok(self.publish_entries(name, entries))
    }

    /// Publishes the entries of a batch; returns their number.
    fn publish_entries(&mut self, name: String, entries: Vec<Bytes>) -> usize {
        let taken = entries.len();
        if taken > 0 {
            self.taken += taken as u64;
            if let Some(pacer) = &mut self.pacer {
                pacer.pass(taken as u64, Instant::now());
            }
            self.last_entry = Instant::now();
            self.meter.iter().for_each(|meter| meter.sent(taken as u64));
            self.publish(TakenBatch { name, entries, refused: Vec::new() });
        }
        taken
    }

    fn publish(&mut self, batch: TakenBatch) {
        let (publisher, stream) = (self.publisher.clone(), self.stream.clone());
        self.publishing.spawn(async move {
            let started = Instant::now();
            let published = publisher.publish_many(&stream, batch.entries.clone()).await;
            (batch, started.elapsed(), published)
        });
    }

    /// Takes the batches that nsqd has answered.
    fn collect_published(&mut self) {
        while let Some(published) = self.publishing.try_join_next() {
            self.settle_joined(published);
        }
    }

    fn settle_joined(&mut self, published: Result<PublishedBatch, JoinError>) {
        match published {
            Ok(published) => self.settle(published),
            Err(error) => drop(self.fatal.get_or_insert(bug(&error))),
        }
    }

    fn settle(&mut self, (mut batch, took, result): PublishedBatch) {
        let failed = result.err().map(|PublishManyError(failed)| failed).unwrap_or_default();
        let published = (batch.entries.len() - failed.len()) as u64;
        self.totals.published += published;
        self.published.store(self.totals.published, Ordering::Relaxed);
        self.meter.iter().for_each(|meter| meter.published(published, took));
        let mut again = Vec::new();
        for (at, error) in failed {
            let entry = batch.entries[at].clone();
            match &error {
                PublishError::Empty | PublishError::TooLarge(_) => batch.refused.push((entry, error.to_string())),
                PublishError::Refused(refused) if is_about_entry(refused.code) => {
                    batch.refused.push((entry, error.to_string()));
                }
                PublishError::Refused(_) => {
                    let line = format!("nsqd refuses stream {}: {error}; the entries stay in Redis", self.stream);
                    self.fatal.get_or_insert(Failure::new(Exit::Failure, line));
                }
                _ => {
                    if self.nsqd_away.begins() {
                        tracing::warn!("{error}; entries stay in Redis, and are published again");
                    }
                    again.push(entry);
                }
            }
        }
        if again.is_empty() && self.nsqd_away.ends() {
            tracing::info!("nsqd answers again");
        }
        batch.entries = again;
        if !batch.entries.is_empty() {
            self.publish(batch);
        } else if batch.refused.is_empty() {
            self.done.push(batch.name);
        } else {
            self.refused.push_back(batch);
        }
    }

    /// Moves entries that nsqd refused to a list of their own, and names them.
    async fn keep_refused(&mut self, redis: &mut RedisConnection) -> Result<(), RedisError> {
        let kept = self.server.list.key_of("refused");
        while let Some(batch) = self.refused.front() {
            for (entry, _) in &batch.refused {
                self.batches.add_script(redis, KEEP_REFUSED, &[&kept], &[entry]);
            }
            for reply in redis.run().await? {
                if let RedisReply::Error(error) = reply {
                    return Err(redis.refused(error));
                }
            }
            let Some(batch) = self.refused.pop_front() else { break };
            for (entry, why) in &batch.refused {
                let size = count(entry.len(), "byte");
                let start = mqueue::proto::excerpt(&entry[..entry.len().min(40)]);
                tracing::warn!("nsqd refuses an entry of {size} ({start}…): {why}; it is kept in list {kept}");
            }
            self.totals.refused += batch.refused.len() as u64;
            self.meter.iter().for_each(|meter| meter.failed(batch.refused.len() as u64));
            self.done.push(batch.name);
        }
        Ok(())
    }

    /// Reads batches of this bridge whose entries it does not have: their reply was lost, or they
    /// were taken over.
    async fn read_unread(&mut self, redis: &mut RedisConnection) -> Result<(), RedisError> {
        while let Some(name) = self.unread.last().cloned() {
            let entries = self.batches.read(redis, &name).await?;
            self.unread.pop();
            if self.publish_entries(name.clone(), entries) == 0 {
                self.done.push(name);
            }
        }
        Ok(())
    }

    /// Takes over batches of dead bridges, while there is room. Returns true if there are more.
    async fn take_over(&mut self, redis: &mut RedisConnection) -> Result<bool, RedisError> {
        for name in self.batches.dead(redis).await? {
            if self.publishing.len() >= MAX_PUBLISHING {
                return Ok(true);
            }
            let new = self.batches.new_name();
            self.unread.push(new.clone());
            if self.batches.take_over(redis, &name, &new).await? {
                let before = self.taken;
                self.read_unread(redis).await?;
                self.totals.taken_over += self.taken - before;
                tracing::info!("{} of a dead bridge taken over", entries(self.taken - before));
            } else {
                self.unread.pop();
            }
        }
        Ok(false)
    }

    /// Waits until there may be something to do.
    async fn wait(&mut self, redis: &mut RedisConnection, may_take: bool) -> Result<(), RedisError> {
        if !self.done.is_empty() || !self.refused.is_empty() {
            return Ok(());
        }
        if self.publishing.is_empty() && may_take && self.batches.wait(redis).await? {
            return Ok(());
        }
        let until =
            if may_take || self.pacer.is_some() { Instant::now() + SHORT_WAIT } else { self.batches.alive_due() };
        tokio::select! {
            Some(published) = self.publishing.join_next() => self.settle_joined(published),
            () = tokio::time::sleep_until(until.into()) => {}
        }
        Ok(())
    }
}

/// Formats a number of entries.
pub(super) fn entries(number: u64) -> String {
    if number == 1 { "1 entry".to_owned() } else { format!("{number} entries") }
}

/// Returns the failure of a task that panicked. Its batch stays in Redis, and is taken over.
fn bug(error: &JoinError) -> Failure {
    let line = format!("bug in publishing a batch, please report it: {error}; its entries stay in Redis");
    // the error escapes the message of the panic
    Failure::new(Exit::Failure, line)
}

/// True if nsqd refuses this entry, and would take others.
fn is_about_entry(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::BadMessage | ErrorCode::BadBody)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_a_batch_is_a_failure_in_one_line() {
        let mut tasks = JoinSet::from_iter([async { assert!(tokio::task::id().to_string().is_empty(), "two\nlines") }]);
        let failure = bug(&tasks.join_next().await.expect("a task").expect_err("it panics"));
        assert!(
            failure.line.starts_with("bug in publishing a batch") && !failure.line.contains('\n'),
            "{}",
            failure.line
        );
        assert!(failure.line.contains("panicked with message"), "{}", failure.line);
    }
}
