//! Batches of entries that are set aside in Redis while they are worked on, each in a list of its
//! own, and taken over from programs that died.
//!
//! ```text
//!  LIST ──script: take n, keep───▶ {LIST}:mqueue:batch:ID.7 ──▶ the work ──▶ DEL
//!                                      │
//!   ID dies ──▶ {LIST}:mqueue:alive:ID expires ──▶ another one renames the batch, and works on it
//! ```
//!
//! A batch has a key that is never used again. A program that was thought dead and goes on deletes
//! only batches that it has worked on itself, and one that was taken over is gone: entries are worked
//! on twice at worst.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::connection::{RedisConnection, RedisError};
use super::list::RedisList;
use super::resp::{RedisReply, texts};

/// Bytes of a batch, which its last entries may exceed.
const BATCH_BYTES: usize = 4 << 20;
/// Time after which a program that does not renew its key counts as dead.
const ALIVE_FOR: Duration = Duration::from_secs(10);
/// Interval of renewing the key.
const ALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// Interval of looking for batches of dead programs.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Longest wait of Redis for an entry; Ctrl-C waits as long.
const BLOCK_SECONDS: &str = "0.5";

/// The first line of scripts that also run while Redis is full, for Redis 7 and later: taking entries
/// makes room.
const ALSO_WHEN_FULL: &str = "#!lua flags=allow-oom\n";
/// Moves entries to a batch, which is registered first. KEYS: the list, the batch, the set of batches;
/// ARGV: the batch's name, most entries, most bytes, the command that takes. Takes several at once,
/// as far as they are small: a step has at most twice as many as the one before, and 32. Returns their
/// number: a script's reply with the entries would take twice the time.
const TAKE: &str = "
if redis.call('LLEN', KEYS[1]) == 0 then return 0 end
redis.call('SADD', KEYS[3], ARGV[1])
local left, room, step, taken, largest = tonumber(ARGV[2]), tonumber(ARGV[3]), 1, 0, 1
while left > 0 and room > 0 do
  local some = redis.call(ARGV[4], KEYS[1], math.min(step, left))
  if not some or #some == 0 then break end
  redis.call('RPUSH', KEYS[2], unpack(some))
  for _, entry in ipairs(some) do
    room = room - #entry
    largest = math.max(largest, #entry)
  end
  left, taken = left - #some, taken + #some
  step = math.max(1, math.min(2 * step, 32, math.floor(room / largest)))
end
return taken";
/// Renews the key that shows that this program lives. KEYS: the key; ARGV: milliseconds.
const BEAT: &str = "return redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])";
/// Takes over a batch, unless another program was first. KEYS: the batch, its new key, the set of
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

/// The batches of one run of a program.
#[derive(Debug)]
pub(crate) struct ListBatches {
    list: RedisList,
    /// The end to take from: `RIGHT` if entries are pushed left.
    end: &'static str,
    /// The name of this run.
    id: String,
    next: u64,
    /// False for a Redis before 7, whose scripts have no flags.
    has_flags: bool,
    /// When to renew the key that shows that this program lives.
    alive_at: Instant,
}

impl ListBatches {
    pub(crate) fn new(list: RedisList, end: &'static str) -> Self {
        Self {
            list,
            end,
            id: format!("{:016x}", fastrand::u64(..)),
            next: 1,
            has_flags: true,
            alive_at: Instant::now(),
        }
    }

    /// Returns a name for a batch, which no batch ever had.
    pub(crate) fn new_name(&mut self) -> String {
        self.next += 1;
        format!("{}.{}", self.id, self.next - 1)
    }

    /// Returns the key of a batch.
    pub(crate) fn key(&self, name: &str) -> String {
        self.list.key_of(&format!("batch:{name}"))
    }

    /// Returns the key of the set that has the names of all batches.
    pub(crate) fn set(&self) -> String {
        self.list.key_of("batches")
    }

    fn alive(&self, id: &str) -> String {
        self.list.key_of(&format!("alive:{id}"))
    }

    /// Adds a script that also runs while Redis is full.
    pub(crate) fn add_script(&self, redis: &mut RedisConnection, script: &str, keys: &[&str], arguments: &[&[u8]]) {
        let script = format!("{}{}", if self.has_flags { ALSO_WHEN_FULL } else { "" }, script);
        redis.add_script(&script, keys, arguments);
    }

    /// Returns true if the error is that of a Redis whose scripts have no flags: the commands have to
    /// be sent again.
    pub(crate) fn is_without_flags(&mut self, error: &str) -> bool {
        let is_without = self.has_flags && error.contains("compiling");
        if is_without {
            (self.has_flags, self.alive_at) = (false, Instant::now());
        }
        is_without
    }

    /// Adds the renewal of the key that shows that this program lives, if it is time; returns the
    /// number of commands.
    pub(crate) fn add_alive_if_due(&mut self, redis: &mut RedisConnection) -> usize {
        let now = Instant::now();
        if now < self.alive_at {
            return 0;
        }
        self.alive_at = now + ALIVE_INTERVAL;
        let millis = ALIVE_FOR.as_millis().to_string();
        self.add_script(redis, BEAT, &[&self.alive(&self.id)], &[millis.as_bytes()]);
        1
    }

    /// Returns when to renew that key.
    pub(crate) fn alive_due(&self) -> Instant {
        self.alive_at
    }

    /// Adds the removal of that key.
    pub(crate) fn add_end(&self, redis: &mut RedisConnection) {
        redis.add(&[b"DEL", self.alive(&self.id).as_bytes()]);
    }

    /// Adds taking at most `most` entries to a batch: two commands. The reply to the first may be an
    /// error, and the one to the second is a list of the entries.
    pub(crate) fn add_take(&self, redis: &mut RedisConnection, name: &str, most: u64) {
        let (batch, set) = (self.key(name), self.set());
        let pop = if self.end == "RIGHT" { "RPOP" } else { "LPOP" };
        let arguments = [name, &most.to_string(), &BATCH_BYTES.to_string(), pop];
        self.add_script(redis, TAKE, &[&self.list.key, &batch, &set], &arguments.map(str::as_bytes));
        redis.add(&[b"LRANGE", batch.as_bytes(), b"0", b"-1"]);
    }

    /// Adds the deletion of a batch: two commands.
    pub(crate) fn add_delete(&self, redis: &mut RedisConnection, name: &str) {
        redis.add(&[b"DEL", self.key(name).as_bytes()]);
        redis.add(&[b"SREM", self.set().as_bytes(), name.as_bytes()]);
    }

    /// Waits in Redis for an entry, and takes none. Returns false if Redis cannot wait.
    pub(crate) async fn wait(&self, redis: &mut RedisConnection) -> Result<bool, RedisError> {
        // moves the next entry to where it is
        let (list, end) = (self.list.key.as_bytes(), self.end.as_bytes());
        let reply = redis.ask(&[b"BLMOVE", list, list, end, end, BLOCK_SECONDS.as_bytes()]).await?;
        Ok(!matches!(reply, RedisReply::Error(_)))
    }

    /// Reads the entries of a batch of this program.
    pub(crate) async fn read(&self, redis: &mut RedisConnection, name: &str) -> Result<Vec<Bytes>, RedisError> {
        let reply = redis.ask_for(&[b"LRANGE", self.key(name).as_bytes(), b"0", b"-1"]).await?;
        texts(reply).ok_or_else(|| redis.malformed())
    }

    /// Returns the names of batches whose programs are dead.
    pub(crate) async fn dead(&self, redis: &mut RedisConnection) -> Result<Vec<String>, RedisError> {
        let reply = redis.ask_for(&[b"SMEMBERS", self.set().as_bytes()]).await?;
        let names = texts(reply).ok_or_else(|| redis.malformed())?;
        let mut by_owner: HashMap<String, Vec<String>> = HashMap::new();
        for name in names.iter().filter_map(|name| str::from_utf8(name).ok()) {
            let owner = name.split('.').next().unwrap_or_default();
            if owner != self.id {
                by_owner.entry(owner.to_owned()).or_default().push(name.to_owned());
            }
        }
        let mut dead = Vec::new();
        for (owner, names) in by_owner {
            if redis.ask(&[b"EXISTS", self.alive(&owner).as_bytes()]).await? == RedisReply::Number(0) {
                dead.extend(names);
            }
        }
        Ok(dead)
    }

    /// Takes over a batch as `new`; returns false if another program was first.
    pub(crate) async fn take_over(
        &self,
        redis: &mut RedisConnection,
        name: &str,
        new: &str,
    ) -> Result<bool, RedisError> {
        let keys = [self.key(name), self.key(new), self.set()];
        self.add_script(redis, TAKE_OVER, &keys.each_ref().map(String::as_str), &[name.as_bytes(), new.as_bytes()]);
        match redis.run().await?.pop() {
            Some(RedisReply::Error(error)) => Err(redis.refused(error)),
            reply => Ok(reply == Some(RedisReply::Number(1))),
        }
    }
}
