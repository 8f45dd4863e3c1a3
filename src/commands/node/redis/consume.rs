//! The consumer of a list: takes entries in small batches, handles each, and deletes a batch when
//! all of it is done.

use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use crate::commands::common::exit::{Exit, Failure};
use crate::commands::common::metrics::group_meter::GroupMeter;
use crate::commands::common::notice::Notice;
use crate::commands::common::redis::{
    LOOK_INTERVAL, ListBatches, RedisConnection, RedisError, RedisReply, RedisServer, texts,
};
use crate::commands::node::clock;
use crate::commands::node::consume::{EventHandler, wait_for_lead};
use crate::commands::node::expvar::NodeVars;
use crate::commands::node::repeated_warning::RepeatedWarning;
use mqueue::backoff::Backoff;
use mqueue::handler::{Handler, Verdict};
use mqueue::plural::count;
use mqueue::proto::{Message, MessageId};
use mqueue::shutdown::Shutdown;
use mqueue::worker::{MaxTries, WorkerStats};

/// Entries of a batch: those that are done are handled again if the node dies before the others are.
const BATCH: usize = 16;
/// Interval of looking for entries while others are handled.
const SHORT_WAIT: Duration = Duration::from_millis(20);
/// First and longest pause before Redis is tried again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Longest delay of a failed entry.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(15 * 60);

/// Moves an entry of a batch to the list of errors. KEYS: the batch, the list; ARGV: the entry.
const GIVE_UP: &str = "
if not redis.call('LPOS', KEYS[1], ARGV[1]) then return 0 end
redis.call('LPUSH', KEYS[2], ARGV[1])
redis.call('LREM', KEYS[1], 1, ARGV[1])
return 1";
/// Returns entries of a batch to the list, the oldest to be taken first. KEYS: the batch, the list, the
/// set of batches; ARGV: the batch's name, the entries.
const GIVE_BACK: &str = "
if redis.call('EXISTS', KEYS[1]) == 1 then
  for at = 2, #ARGV do redis.call('RPUSH', KEYS[2], ARGV[at]) end
  redis.call('DEL', KEYS[1])
end
redis.call('SREM', KEYS[3], ARGV[1])
return #ARGV - 1";

/// The settings of the consumer.
#[derive(Debug, Clone)]
pub(in crate::commands::node) struct ListConsumer {
    pub(in crate::commands::node) server: RedisServer,
    /// The list of entries that were given up.
    pub(in crate::commands::node) errors: String,
    pub(in crate::commands::node) concurrency: usize,
    pub(in crate::commands::node) max_tries: MaxTries,
    pub(in crate::commands::node) retry_delay: Duration,
    pub(in crate::commands::node) handler: Arc<EventHandler>,
    pub(in crate::commands::node) meter: Option<Arc<GroupMeter>>,
    pub(in crate::commands::node) vars: Arc<NodeVars>,
}

/// Handles entries whenever this node does not generate, until shutdown.
///
/// # Errors
/// Redis refuses the first commands.
pub(in crate::commands::node) async fn run(
    config: ListConsumer,
    mut leads: watch::Receiver<bool>,
    shutdown: Shutdown,
) -> Result<(), Failure> {
    while !shutdown.draining.is_cancelled() {
        tokio::select! {
            () = wait_for_lead(&mut leads, false) => {}
            () = shutdown.draining.cancelled() => break,
        }
        let mut work = ListWork::new(config.clone(), leads.clone(), shutdown.clone());
        tracing::info!(list = %config.server.list, "consuming");
        let ended = work.run().await;
        config.vars.has_consumer_connection.store(false, Ordering::Relaxed);
        let WorkerStats { done, dead, released, .. } = work.stats;
        tracing::info!("no longer consuming: {done} done, {}, {released} given back", count(dead, "dead letter"));
        ended?;
    }
    Ok(())
}

/// An entry of a batch, and its tries.
#[derive(Debug, Clone)]
struct EntryTry {
    batch: Arc<str>,
    at: usize,
    tries: u16,
}

/// A batch in Redis that this node works on.
#[derive(Debug)]
struct HeldBatch {
    /// The entries; `None` for those that are done.
    entries: Vec<Option<Bytes>>,
    left: usize,
}

/// The work of one term as a consumer.
struct ListWork {
    config: ListConsumer,
    leads: watch::Receiver<bool>,
    shutdown: Shutdown,
    batches: ListBatches,
    held: HashMap<Arc<str>, HeldBatch>,
    running: JoinSet<(EntryTry, Verdict)>,
    /// Entries that are tried again, by time.
    delayed: BTreeMap<(Instant, u64), EntryTry>,
    /// Entries that are given up, with the reason and the time to say so to Redis.
    given_up: Vec<(EntryTry, String, Instant)>,
    /// Batches to delete.
    done: Vec<Arc<str>>,
    /// Batches of this node whose entries it does not have.
    unread: Vec<String>,
    next_number: u64,
    stats: WorkerStats,
    away: Notice,
    refusals: RepeatedWarning,
    bug: Option<Failure>,
}

impl ListWork {
    fn new(config: ListConsumer, leads: watch::Receiver<bool>, shutdown: Shutdown) -> Self {
        Self {
            batches: ListBatches::new(config.server.list.clone(), "RIGHT"),
            config,
            leads,
            shutdown,
            held: HashMap::new(),
            running: JoinSet::new(),
            delayed: BTreeMap::new(),
            given_up: Vec::new(),
            done: Vec::new(),
            unread: Vec::new(),
            next_number: 0,
            stats: WorkerStats::default(),
            away: Notice::default(),
            refusals: RepeatedWarning::default(),
            bug: None,
        }
    }

    fn is_stopping(&self) -> bool {
        self.shutdown.draining.is_cancelled() || *self.leads.borrow()
    }

    /// Works until this node generates or shuts down.
    async fn run(&mut self) -> Result<(), Failure> {
        let mut pauses = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE, fastrand::Rng::new());
        let mut has_worked = false;
        loop {
            let worked = match self.config.server.connect().await {
                Ok(mut redis) => self.work(&mut redis, &mut has_worked).await,
                Err(error) => Err(error),
            };
            self.config.vars.has_consumer_connection.store(false, Ordering::Relaxed);
            if let Some(bug) = self.bug.take() {
                return Err(bug);
            }
            let Err(error) = worked else { return Ok(()) };
            if !has_worked && matches!(error, RedisError::Refused { .. }) {
                return Err(Failure::new(Exit::Failure, error));
            }
            if self.away.begins() {
                tracing::warn!("{error}; entries stay in Redis, and it is tried again");
                pauses.reset();
            }
            // whoever lives takes over the batches
            if self.is_stopping() && self.running.is_empty() {
                return Ok(());
            }
            let until = Instant::now() + pauses.next().unwrap_or(LONGEST_PAUSE);
            while Instant::now() < until && !(self.is_stopping() && self.running.is_empty()) {
                self.wait_for_handlers(until).await;
            }
        }
    }

    /// Works on one connection.
    async fn work(&mut self, redis: &mut RedisConnection, has_worked: &mut bool) -> Result<(), RedisError> {
        self.check_errors_list(redis).await?;
        let mut look_at = Instant::now();
        loop {
            self.collect();
            self.retry_delayed();
            let (now, is_stopping) = (Instant::now(), self.is_stopping());
            if self.shutdown.now.is_cancelled() {
                self.running.abort_all();
            }
            if self.bug.is_some() || is_stopping && self.running.is_empty() {
                return self.end(redis).await;
            }
            let room = if is_stopping { 0 } else { self.room() };
            let taken = self.exchange(redis, room).await?;
            *has_worked = true;
            self.config.vars.has_consumer_connection.store(true, Ordering::Relaxed);
            if self.away.ends() {
                tracing::info!("Redis answers again");
            }
            if !is_stopping {
                self.read_unread(redis).await?;
                if look_at <= now {
                    look_at = now + LOOK_INTERVAL;
                    self.take_over(redis).await?;
                }
            }
            if taken > 0 {
                continue;
            }
            let is_idle = self.held.is_empty() && self.done.is_empty() && room > 0;
            if !(is_idle && self.batches.wait(redis).await?) {
                self.wait_for_handlers(Instant::now() + SHORT_WAIT).await;
            }
        }
    }

    /// Refuses a list of errors that is none, before an entry is given up.
    async fn check_errors_list(&self, redis: &mut RedisConnection) -> Result<(), RedisError> {
        let errors = &self.config.errors;
        match redis.ask_for(&[b"TYPE", errors.as_bytes()]).await? {
            RedisReply::Status(kind) if kind == "list" || kind == "none" => Ok(()),
            RedisReply::Status(kind) => Err(redis.refused_key(errors, format!("WRONGTYPE it is a {kind}"))),
            _ => Err(redis.malformed()),
        }
    }

    /// The number of entries that may be taken now.
    fn room(&self) -> usize {
        let held: usize = self.held.values().map(|batch| batch.left).sum();
        self.config.concurrency.saturating_sub(held + self.unread.len() * BATCH).min(BATCH)
    }

    /// Deletes batches that are done, gives up entries, shows that this node lives, and takes at most
    /// `most` entries, in one pipeline. Returns the number of entries.
    async fn exchange(&mut self, redis: &mut RedisConnection, most: usize) -> Result<usize, RedisError> {
        self.done.iter().for_each(|name| self.batches.add_delete(redis, name));
        let before = 2 * self.done.len() + self.batches.add_alive_if_due(redis);
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) = self.given_up.drain(..).partition(|(_, _, at)| *at <= now);
        self.given_up = later;
        for (entry, ..) in &due {
            let body = self.body(entry).unwrap_or_default();
            let keys = [self.batches.key(&entry.batch), self.config.errors.clone()];
            self.batches.add_script(redis, GIVE_UP, &keys.each_ref().map(String::as_str), &[&body]);
        }
        let name = self.batches.new_name();
        if most > 0 {
            self.batches.add_take(redis, &name, most as u64);
            // until the reply has come, the entries may have been moved
            self.unread.push(name.clone());
        }
        let replies = match redis.run().await {
            Ok(replies) => replies,
            Err(error) => {
                self.given_up.extend(due);
                return Err(error);
            }
        };
        let is_old =
            replies.iter().any(|reply| matches!(reply, RedisReply::Error(e) if self.batches.is_without_flags(e)));
        let mut replies = replies.into_iter();
        let refused = |reply| if let RedisReply::Error(error) = reply { Some(error) } else { None };
        let failed = replies.by_ref().take(before).filter_map(refused).last().filter(|_| !is_old);
        for (entry, why, _) in due {
            match replies.next() {
                Some(RedisReply::Error(error)) => {
                    if let (false, Some(count)) = (is_old, self.refusals.record(clock::now())) {
                        let error = redis.refused_key(&self.config.errors, error);
                        tracing::warn!(count, "an entry cannot be given up, and waits: {error}");
                    }
                    self.given_up.push((entry, why, Instant::now() + self.config.retry_delay));
                }
                _ => self.gave_up(&entry, &why),
            }
        }
        if is_old {
            self.unread.retain(|unread| *unread != name);
            return Ok(0);
        }
        if let Some(error) = failed {
            return Err(redis.refused(error));
        }
        self.done.clear();
        let (moved, taken) = (replies.next(), replies.next());
        if let Some(error) = moved.and_then(refused) {
            return Err(redis.refused(error));
        }
        match taken {
            None => Ok(0),
            Some(RedisReply::Error(error)) => Err(redis.refused(error)),
            Some(reply) => {
                let entries = texts(reply).ok_or_else(|| redis.malformed())?;
                self.unread.retain(|unread| *unread != name);
                Ok(self.handle(&name, entries, 1))
            }
        }
    }

    /// Starts to handle the entries of a batch; returns their number.
    fn handle(&mut self, name: &str, entries: Vec<Bytes>, tries: u16) -> usize {
        let (count, batch): (usize, Arc<str>) = (entries.len(), name.into());
        if count > 0 {
            let entries = entries.into_iter().map(Some).collect();
            self.held.insert(batch.clone(), HeldBatch { entries, left: count });
            (0..count).for_each(|at| self.start(EntryTry { batch: batch.clone(), at, tries }));
        }
        count
    }

    fn body(&self, entry: &EntryTry) -> Option<Bytes> {
        self.held.get(&entry.batch)?.entries.get(entry.at)?.clone()
    }

    fn start(&mut self, entry: EntryTry) {
        let Some(body) = self.body(&entry) else { return };
        self.next_number += 1;
        let mut id = [0; 16];
        id.copy_from_slice(format!("{:016x}", self.next_number).as_bytes());
        let message = Message { timestamp: unix_nanos(), attempts: entry.tries, id: MessageId(id), body };
        let (handler, meter) = (self.config.handler.clone(), self.config.meter.clone());
        self.config.vars.in_flight.fetch_add(1, Ordering::Relaxed);
        self.running.spawn(async move {
            let run = meter.map(|meter| {
                meter.work.received([message.attempts]);
                meter.work.begin(std::slice::from_ref(&message))
            });
            let handled = AssertUnwindSafe(handler.handle(message)).catch_unwind().await;
            run.iter().for_each(|run| run.ended());
            (entry, handled.unwrap_or_else(|_| Verdict::retry("the handler panicked")))
        });
    }

    fn collect(&mut self) {
        while let Some(handled) = self.running.try_join_next() {
            self.settle(handled);
        }
    }

    fn settle(&mut self, handled: Result<(EntryTry, Verdict), JoinError>) {
        self.config.vars.in_flight.fetch_sub(1, Ordering::Relaxed);
        let (entry, verdict) = match handled {
            Ok(handled) => handled,
            Err(error) if error.is_cancelled() => return,
            Err(error) => {
                let line = format!("bug in handling an entry, please report it: {error}; it stays in Redis");
                self.bug.get_or_insert(Failure::new(Exit::Failure, line));
                return;
            }
        };
        let tries = entry.tries;
        let by_default = self.config.retry_delay.saturating_mul(tries.into()).min(MAX_RETRY_DELAY);
        let list = &self.config.server.list;
        match verdict {
            Verdict::Done(_) => {
                self.count(WorkerStats { done: 1, ..WorkerStats::default() });
                self.finish(&entry);
            }
            Verdict::Release => self.delay(Duration::ZERO, entry),
            Verdict::Unavailable { after, why } => {
                let delay = after.unwrap_or(by_default);
                tracing::warn!(%list, tries, "entry not tried, again in {}: {why}", humantime::format_duration(delay));
                self.delay(delay, entry);
            }
            Verdict::Retry { after, why } | Verdict::Unanswered { after, why }
                if !self.config.max_tries.is_last(tries) =>
            {
                let delay = after.unwrap_or(by_default);
                tracing::warn!(%list, tries, "entry failed, again in {}: {why}", humantime::format_duration(delay));
                self.count(WorkerStats { retried: 1, ..WorkerStats::default() });
                self.delay(delay, EntryTry { tries: tries.saturating_add(1), ..entry });
            }
            Verdict::Retry { why, .. } | Verdict::Unanswered { why, .. } | Verdict::Drop { why } => {
                self.given_up.push((entry, why, Instant::now()));
            }
        }
    }

    fn delay(&mut self, delay: Duration, entry: EntryTry) {
        self.next_number += 1;
        self.delayed.insert((Instant::now() + delay, self.next_number), entry);
    }

    fn retry_delayed(&mut self) {
        while let Some(first) = self.delayed.first_entry().filter(|first| first.key().0 <= Instant::now()) {
            let entry = first.remove();
            self.start(entry);
        }
    }

    fn gave_up(&mut self, entry: &EntryTry, why: &str) {
        let (list, errors, tries) = (&self.config.server.list, &self.config.errors, entry.tries);
        tracing::warn!(%list, tries, "given up, now in list {errors}: {why}");
        self.count(WorkerStats { dead: 1, ..WorkerStats::default() });
        self.finish(entry);
    }

    /// Notes that an entry has left the batch.
    fn finish(&mut self, entry: &EntryTry) {
        let Some(batch) = self.held.get_mut(&entry.batch) else { return };
        batch.left -= usize::from(batch.entries[entry.at].take().is_some());
        if batch.left == 0 {
            self.held.remove(&entry.batch);
            self.done.push(entry.batch.clone());
        }
    }

    fn count(&mut self, stats: WorkerStats) {
        self.stats.done += stats.done;
        self.stats.retried += stats.retried;
        self.stats.dead += stats.dead;
        self.stats.released += stats.released;
        self.config.meter.iter().for_each(|meter| meter.work.count(stats));
    }

    /// Reads batches of this node whose entries it does not have: their reply was lost, or they were
    /// taken over.
    async fn read_unread(&mut self, redis: &mut RedisConnection) -> Result<(), RedisError> {
        while let Some(name) = self.unread.last().cloned() {
            let entries = self.batches.read(redis, &name).await?;
            self.unread.pop();
            if self.handle(&name, entries, 1) == 0 {
                self.done.push(name.into());
            }
        }
        Ok(())
    }

    /// Takes over the batches of dead nodes, while there is room.
    async fn take_over(&mut self, redis: &mut RedisConnection) -> Result<(), RedisError> {
        for name in self.batches.dead(redis).await? {
            if self.room() == 0 {
                break;
            }
            let new = self.batches.new_name();
            self.unread.push(new.clone());
            if self.batches.take_over(redis, &name, &new).await? {
                self.read_unread(redis).await?;
                let entries = self.held.get(new.as_str()).map_or(0, |batch| batch.left as u64);
                tracing::info!("{entries} entries of a dead node taken over");
            } else {
                self.unread.pop();
            }
        }
        Ok(())
    }

    /// Waits until a handler has ended, or until `until`; less if this node starts to generate or to
    /// stop.
    async fn wait_for_handlers(&mut self, until: Instant) {
        let until = self.delayed.keys().next().map_or(until, |(at, _)| until.min(*at));
        let was_stopping = self.is_stopping();
        tokio::select! {
            Some(handled) = self.running.join_next() => self.settle(handled),
            () = sleep_until(until) => {}
            () = wait_for_lead(&mut self.leads, true), if !was_stopping => {}
            () = self.shutdown.draining.cancelled(), if !was_stopping => {}
            () = self.shutdown.now.cancelled() => {
                self.running.abort_all();
                while let Some(handled) = self.running.join_next().await {
                    self.settle(handled);
                }
            }
        }
    }

    /// Returns everything to the list that is not done.
    async fn end(&mut self, redis: &mut RedisConnection) -> Result<(), RedisError> {
        // also what was given up and not said yet, in the order of a batch
        self.exchange(redis, 0).await?;
        self.read_unread_names(redis).await?;
        let list = self.config.server.list.key.clone();
        for (name, batch) in std::mem::take(&mut self.held) {
            let entries: Vec<Bytes> = batch.entries.into_iter().flatten().rev().collect();
            let keys = [self.batches.key(&name), list.clone(), self.batches.set()];
            let mut arguments: Vec<&[u8]> = vec![name.as_bytes()];
            arguments.extend(entries.iter().map(|entry| &entry[..]));
            self.batches.add_script(redis, GIVE_BACK, &keys.each_ref().map(String::as_str), &arguments);
            self.count(WorkerStats { released: entries.len() as u64, ..WorkerStats::default() });
        }
        self.batches.add_end(redis);
        let refused = |reply| if let RedisReply::Error(error) = reply { Some(error) } else { None };
        match redis.run().await?.into_iter().find_map(refused) {
            Some(error) => Err(redis.refused(error)),
            None => Ok(()),
        }
    }

    /// Reads batches whose reply was lost, to return their entries.
    async fn read_unread_names(&mut self, redis: &mut RedisConnection) -> Result<(), RedisError> {
        while let Some(name) = self.unread.pop() {
            let entries: Vec<_> = self.batches.read(redis, &name).await?.into_iter().map(Some).collect();
            let left = entries.len();
            self.held.insert(name.into(), HeldBatch { entries, left });
        }
        Ok(())
    }
}

fn unix_nanos() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}
