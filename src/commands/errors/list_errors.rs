//! The list of errors in Redis: entries that nodes gave up, as they are.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;

use super::list::MAX_SHOWN_CHARS;
use super::{action_of, print_status};
use crate::commands::common::confirm;
use crate::commands::common::dead_letters::LetterAction;
use crate::commands::common::exit::{Exit, Failure};
use crate::commands::common::redis::{RedisConnection, RedisError, RedisReply, RedisServer, texts};
use crate::commands::common::stdout;
use crate::commands::errors::args::Args;
use mqueue::shutdown::Shutdown;

/// Entries that are read, and acted on, together.
const CHUNK: i64 = 100;
/// Time for a chunk after Ctrl-C.
const GRACE: Duration = Duration::from_secs(10);

/// Pushes an entry of the list of errors to the list of messages. KEYS: the two lists; ARGV: the entry.
const REDRIVE: &str = "
if not redis.call('LPOS', KEYS[1], ARGV[1], 'RANK', -1) then return 0 end
redis.call('LPUSH', KEYS[2], ARGV[1])
return redis.call('LREM', KEYS[1], -1, ARGV[1])";

/// The run of the command.
struct ListErrors<'a> {
    args: &'a Args,
    redis: RedisConnection,
    /// The list of errors, and the list of messages.
    errors: String,
    queue: String,
    /// Entries that were seen and stay, counted from the oldest.
    kept: i64,
    done: u64,
}

/// Runs the command to its end.
pub(super) async fn run(args: &Args, server: RedisServer) -> anyhow::Result<Exit> {
    if args.to.is_some() || args.to_all_groups || args.dead_letter.is_some() {
        let line = "--to, --to-all-groups and --dead-letter are for NSQ: in Redis, --redis-queue and --redis-error-queue name the lists";
        return Err(Failure::new(Exit::Usage, line).into());
    }
    let redis = server.connect_first().await?;
    let errors = args.store.redis_error_queue.clone();
    let mut run = ListErrors { args, redis, errors, queue: server.list.key.clone(), kept: 0, done: 0 };
    let total = run.length().await.map_err(|error| Failure::new(Exit::Failure, error))?;
    if total == 0 {
        print_status(&format!("no entries in list {}", run.errors));
        return Ok(Exit::Success);
    }
    let Some(action) = action_of(args).filter(|_| !args.dry_run) else { return run.show(total).await };
    let filter = args.filter.as_ref().map_or(String::new(), |text| format!(" with {text:?} in them"));
    let what = format!("{} the entries of list {}{filter}, of {total} in all", action.verb(), run.errors);
    if !confirm::is_confirmed(&what, args.yes)? {
        return Ok(Exit::Failure);
    }
    let shutdown = Shutdown::on_signals(GRACE)?;
    let ended = run.act(action, total, &shutdown).await;
    let left = if ended.is_ok() && !shutdown.draining.is_cancelled() {
        run.length().await.map_or_else(|_| "the rest is still there".to_owned(), |left| format!("{left} left"))
    } else {
        "the rest is still there".to_owned()
    };
    print_status(&format!("{} {}, {left}", run.done, action.done()));
    ended?;
    match shutdown.draining.is_cancelled() {
        true => Ok(Exit::Interrupted),
        false => Ok(Exit::Success),
    }
}

impl ListErrors<'_> {
    async fn length(&mut self) -> Result<i64, RedisError> {
        match self.redis.ask(&[b"LLEN", self.errors.as_bytes()]).await? {
            RedisReply::Number(length) => Ok(length),
            RedisReply::Error(error) => Err(self.redis.refused_key(&self.errors, error)),
            _ => Err(self.redis.malformed()),
        }
    }

    /// Reads the next entries, the oldest first; nodes push to the left.
    async fn read(&mut self, most: i64) -> Result<Vec<Bytes>, RedisError> {
        let (first, last) = ((-self.kept - most).to_string(), (-self.kept - 1).to_string());
        let reply = self.redis.ask_for(&[b"LRANGE", self.errors.as_bytes(), first.as_bytes(), last.as_bytes()]).await?;
        let mut entries = texts(reply).ok_or_else(|| self.redis.malformed())?;
        entries.reverse();
        Ok(entries)
    }

    fn is_wanted(&self, entry: &[u8]) -> bool {
        let filter = self.args.filter.as_ref();
        filter.is_none_or(|text| String::from_utf8_lossy(entry).contains(text.as_str()))
    }

    /// Lists the oldest entries, which stay.
    async fn show(&mut self, total: i64) -> anyhow::Result<Exit> {
        let mut shown = 0;
        while self.kept < total && shown < self.args.limit {
            let entries = self.read(CHUNK.min(total - self.kept)).await?;
            if entries.is_empty() {
                break;
            }
            self.kept += entries.len() as i64;
            let mut out = Vec::new();
            for entry in entries.iter().filter(|entry| self.is_wanted(entry)) {
                if shown < self.args.limit {
                    shown += 1;
                    self.show_one(entry, &mut out)?;
                }
            }
            stdout::ended(stdout::write(&out))?;
        }
        let would = action_of(self.args).map_or(String::new(), |action| format!("would {} ", action.verb()));
        print_status(&format!("{would}{shown} of {total} entries of list {}", self.errors));
        Ok(Exit::Success)
    }

    fn show_one(&self, entry: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let body = String::from_utf8_lossy(entry);
        if self.args.json {
            return writeln!(out, "{}", json!({ "body": body }));
        }
        let start: String = body.chars().take(MAX_SHOWN_CHARS).collect();
        writeln!(out, "{start:?}{}", if start.len() < body.len() { "…" } else { "" })
    }

    /// Acts on the entries that are there now; those that come back meanwhile are new ones.
    async fn act(&mut self, action: LetterAction, total: i64, shutdown: &Shutdown) -> anyhow::Result<()> {
        let (begun, mut seen) = (Instant::now(), 0);
        while seen < total && !shutdown.draining.is_cancelled() {
            let most = if self.args.rate.is_some() { 1 } else { CHUNK };
            let entries = self.read(most.min(total - seen)).await?;
            if entries.is_empty() {
                break;
            }
            seen += entries.len() as i64;
            let all = entries.len();
            let wanted: Vec<Bytes> = entries.into_iter().filter(|entry| self.is_wanted(entry)).collect();
            self.kept += (all - wanted.len()) as i64;
            if let (Some(rate), false) = (self.args.rate, wanted.is_empty()) {
                let due = begun + Duration::from_secs_f64(self.done as f64 / f64::from(rate));
                tokio::select! {
                    () = tokio::time::sleep_until(due.into()) => {}
                    () = shutdown.draining.cancelled() => break,
                }
            }
            if action == LetterAction::Get {
                let lines: Vec<u8> = wanted.iter().flat_map(|entry| [entry, &b"\n"[..]].concat()).collect();
                let written = stdout::write(&lines);
                if written.is_err() {
                    // also if the reader has closed its pipe: what it did not read stays
                    stdout::ended(written)?;
                    break;
                }
            }
            self.remove(action, &wanted).await?;
        }
        Ok(())
    }

    async fn remove(&mut self, action: LetterAction, entries: &[Bytes]) -> Result<(), RedisError> {
        for entry in entries {
            match action {
                LetterAction::Redrive => self.redis.add_script(REDRIVE, &[&self.errors, &self.queue], &[entry]),
                LetterAction::Get | LetterAction::Drop => {
                    self.redis.add(&[b"LREM", self.errors.as_bytes(), b"-1", entry]);
                }
            }
        }
        for reply in self.redis.run().await? {
            match reply {
                RedisReply::Error(error) => return Err(self.redis.refused_key(&self.errors, error)),
                reply => self.done += u64::try_from(reply.number().unwrap_or(0)).unwrap_or(0),
            }
        }
        Ok(())
    }
}
