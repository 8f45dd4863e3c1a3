//! From a list in Redis to a stream: batches are moved aside in Redis, published, and then deleted.
//!
//! ```text
//!  LIST ──script: LMOVE × n──▶ {LIST}:mqueue:batch:ID.7 ──▶ PUB … OK ──▶ DEL
//!                                      │
//!   the bridge dies ──▶ {LIST}:mqueue:alive:ID expires ──▶ another bridge renames the batch, and publishes it
//! ```
//!
//! A batch has a key that is never used again. A bridge that was thought dead and goes on deletes
//! only batches that it has published itself, and one that was taken over is gone: messages are
//! published twice at worst.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::pacer::Pacer;
use super::redis_connection::{RedisConnection, RedisError, RedisServer};
use super::resp::RedisReply;
use crate::commands::common::exit::{Exit, Failure};
use crate::commands::common::metrics::publish_meter::PublishMeter;
use crate::commands::common::notice::Notice;
use mqueue::backoff::Backoff;
use mqueue::client::{PublishError, PublishManyError, Publisher};
use mqueue::plural::count;
use mqueue::proto::{ErrorCode, TopicName};

/// Batches that are published at once.
const MAX_PUBLISHING: usize = 4;
/// Bytes of a batch, which its last entry may exceed.
const BATCH_BYTES: usize = 4 << 20;
/// Time after which a bridge that does not renew its key counts as dead.
const ALIVE_FOR: Duration = Duration::from_secs(10);
/// Interval of renewing the key.
const BEAT_INTERVAL: Duration = Duration::from_secs(2);
/// Interval of looking for batches of dead bridges.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Longest wait of Redis for an entry; Ctrl-C waits as long.
const BLOCK_SECONDS: &str = "0.5";
/// Wait for an entry where Redis cannot wait, or while batches are published.
const SHORT_WAIT: Duration = Duration::from_millis(20);
/// First and longest pause before Redis is tried again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The first line of scripts that also run while Redis is full, for Redis 7 and later: a bridge makes
/// room.
const ALSO_WHEN_FULL: &str = "#!lua flags=allow-oom\n";
/// Moves entries to a batch, which is registered first. KEYS: the list, the batch, the set of batches;
/// ARGV: the batch's name, most entries, most bytes, the end to take from.
const TAKE: &str = "
if redis.call('LLEN', KEYS[1]) == 0 then return {} end
redis.call('SADD', KEYS[3], ARGV[1])
local taken, bytes = {}, 0
while #taken < tonumber(ARGV[2]) and bytes < tonumber(ARGV[3]) do
  local entry = redis.call('LMOVE', KEYS[1], KEYS[2], ARGV[4], 'RIGHT')
  if not entry then break end
  taken[#taken + 1] = entry
  bytes = bytes + #entry
end
return taken";
/// Renews the key that shows that this bridge lives. KEYS: the key; ARGV: milliseconds.
const BEAT: &str = "return redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])";
/// Takes over a batch, unless another bridge was first. KEYS: the batch, its new key, the set of
/// batches; ARGV: its name, its new name.
const TAKE_OVER: &str = "
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('SREM', KEYS[3], ARGV[1])
  return 0
end
redis.call('SADD', KEYS[3], ARGV[2])
redis.call('RENAME', KEYS[1], KEYS[2])
redis.call('SREM', KEYS[3], ARGV[1])
return 1";
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
    /// The name of this run of a bridge.
    id: String,
    next: u64,
    publishing: JoinSet<PublishedBatch>,
    /// Batches whose entries are all published or kept elsewhere: to delete.
    done: Vec<String>,
    /// Batches with entries that nsqd refused: to keep, and then to delete.
    refused: VecDeque<TakenBatch>,
    /// Batches of this bridge whose entries it does not have.
    unread: Vec<String>,
    /// False for a Redis before 7, whose scripts have no flags.
    has_flags: bool,
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
            server,
            stream,
            publisher,
            meter,
            limits,
            id: format!("{:016x}", fastrand::u64(..)),
            next: 1,
            publishing: JoinSet::new(),
            done: Vec::new(),
            refused: VecDeque::new(),
            unread: Vec::new(),
            has_flags: true,
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
        let (mut beat_at, mut look_at) = (Instant::now(), Instant::now());
        loop {
            self.collect_published();
            if self.fatal.is_some() {
                return Ok(());
            }
            self.keep_refused(redis).await?;
            let now = Instant::now();
            let is_stopping = stop.is_cancelled() || self.is_at_end();
            if is_stopping && self.publishing.is_empty() && self.done.is_empty() {
                redis.ask(&[b"DEL", self.key("alive", &self.id).as_bytes()]).await?;
                return Ok(());
            }
            let is_beat = beat_at <= now;
            if is_beat {
                beat_at = now + BEAT_INTERVAL;
            }
            let most = if is_stopping { 0 } else { self.room(now) };
            let taken = self.exchange(redis, is_beat, most).await?;
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
            if taken == 0 {
                self.wait(redis, most > 0, beat_at).await?;
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
    async fn exchange(&mut self, redis: &mut RedisConnection, is_beat: bool, most: u64) -> Result<usize, RedisError> {
        let batches = self.set_of_batches();
        for name in &self.done {
            redis.add(&[b"DEL", self.key("batch", name).as_bytes()]);
            redis.add(&[b"SREM", batches.as_bytes(), name.as_bytes()]);
        }
        if is_beat {
            let millis = ALIVE_FOR.as_millis().to_string();
            self.add_script(redis, BEAT, &[&self.key("alive", &self.id)], &[millis.as_bytes()]);
        }
        let name = format!("{}.{}", self.id, self.next);
        if most > 0 {
            self.next += 1;
            let (list, batch) = (self.server.list.key.clone(), self.key("batch", &name));
            let arguments = [name.clone(), most.to_string(), BATCH_BYTES.to_string(), self.limits.end.to_owned()];
            let arguments = arguments.each_ref().map(String::as_bytes);
            self.add_script(redis, TAKE, &[&list, &batch, &batches], &arguments);
            // until the reply has come, the entries may have been moved
            self.unread.push(name.clone());
        }
        let mut replies = redis.run().await?;
        let taken = if most > 0 { replies.pop() } else { None };
        for reply in replies.into_iter().chain(taken.iter().filter(|it| matches!(it, RedisReply::Error(_))).cloned()) {
            if let RedisReply::Error(error) = reply {
                if self.has_flags && error.contains("compiling") {
                    self.has_flags = false;
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
            self.settle(published.expect("a batch does not panic"));
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
                self.add_script(redis, KEEP_REFUSED, &[&kept], &[entry]);
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
            let reply = redis.ask(&[b"LRANGE", self.key("batch", &name).as_bytes(), b"0", b"-1"]).await?;
            if let RedisReply::Error(error) = reply {
                return Err(redis.refused(error));
            }
            let entries = texts(reply).ok_or_else(|| redis.malformed())?;
            self.unread.pop();
            if self.publish_entries(name.clone(), entries) == 0 {
                self.done.push(name);
            }
        }
        Ok(())
    }

    /// Takes over batches of dead bridges, while there is room. Returns true if there are more.
    async fn take_over(&mut self, redis: &mut RedisConnection) -> Result<bool, RedisError> {
        let batches = self.set_of_batches();
        let names = match redis.ask(&[b"SMEMBERS", batches.as_bytes()]).await? {
            RedisReply::Error(error) => return Err(redis.refused(error)),
            reply => texts(reply).ok_or_else(|| redis.malformed())?,
        };
        let mut by_owner: HashMap<String, Vec<String>> = HashMap::new();
        for name in names.iter().filter_map(|name| str::from_utf8(name).ok()) {
            let owner = name.split('.').next().unwrap_or_default();
            if owner != self.id {
                by_owner.entry(owner.to_owned()).or_default().push(name.to_owned());
            }
        }
        for (owner, names) in by_owner {
            if redis.ask(&[b"EXISTS", self.key("alive", &owner).as_bytes()]).await? != RedisReply::Number(0) {
                continue;
            }
            for name in names {
                if self.publishing.len() >= MAX_PUBLISHING {
                    return Ok(true);
                }
                let new = format!("{}.{}", self.id, self.next);
                self.next += 1;
                let keys = [self.key("batch", &name), self.key("batch", &new), batches.clone()];
                self.add_script(
                    redis,
                    TAKE_OVER,
                    &keys.each_ref().map(String::as_str),
                    &[name.as_bytes(), new.as_bytes()],
                );
                self.unread.push(new);
                match redis.run().await?.pop() {
                    Some(RedisReply::Number(1)) => {
                        let before = self.taken;
                        self.read_unread(redis).await?;
                        self.totals.taken_over += self.taken - before;
                        tracing::info!("{} of a dead bridge taken over", entries(self.taken - before));
                    }
                    Some(RedisReply::Error(error)) => return Err(redis.refused(error)),
                    _ => drop(self.unread.pop()),
                }
            }
        }
        Ok(false)
    }

    /// Waits until there may be something to do.
    async fn wait(&mut self, redis: &mut RedisConnection, may_take: bool, beat_at: Instant) -> Result<(), RedisError> {
        if !self.done.is_empty() || !self.refused.is_empty() {
            return Ok(());
        }
        if self.publishing.is_empty() && may_take {
            // moves the next entry to where it is: waits for one, and takes none
            let (list, end) = (self.server.list.key.clone(), self.limits.end.as_bytes());
            let command: [&[u8]; 6] = [b"BLMOVE", list.as_bytes(), list.as_bytes(), end, end, BLOCK_SECONDS.as_bytes()];
            if !matches!(redis.ask(&command).await?, RedisReply::Error(_)) {
                return Ok(());
            }
        }
        let until = if may_take || self.pacer.is_some() { Instant::now() + SHORT_WAIT } else { beat_at };
        tokio::select! {
            Some(published) = self.publishing.join_next() => self.settle(published.expect("a batch does not panic")),
            () = tokio::time::sleep_until(until.into()) => {}
        }
        Ok(())
    }

    fn add_script(&self, redis: &mut RedisConnection, script: &str, keys: &[&str], arguments: &[&[u8]]) {
        let script = format!("{}{}", if self.has_flags { ALSO_WHEN_FULL } else { "" }, script);
        let number = keys.len().to_string();
        let mut command: Vec<&[u8]> = vec![b"EVAL", script.as_bytes(), number.as_bytes()];
        command.extend(keys.iter().map(|key| key.as_bytes()));
        command.extend(arguments);
        redis.add(&command);
    }

    fn key(&self, kind: &str, name: &str) -> String {
        self.server.list.key_of(&format!("{kind}:{name}"))
    }

    /// The key of the set that has the names of all batches.
    fn set_of_batches(&self) -> String {
        self.server.list.key_of("batches")
    }
}

/// Formats a number of entries.
pub(super) fn entries(number: u64) -> String {
    if number == 1 { "1 entry".to_owned() } else { format!("{number} entries") }
}

/// True if nsqd refuses this entry, and would take others.
fn is_about_entry(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::BadMessage | ErrorCode::BadBody)
}

/// Returns the strings of a list; `None` if it is none.
fn texts(reply: RedisReply) -> Option<Vec<Bytes>> {
    let RedisReply::List(list) = reply else { return None };
    let text = |reply| match reply {
        RedisReply::Text(text) => Some(text),
        _ => None,
    };
    list.into_iter().map(text).collect()
}
