//! Pushes messages to a list in Redis, with one command for many of them.

use std::sync::{Mutex, PoisonError};

use crate::commands::common::next_hop::PassOn;
use crate::commands::common::redis::{RedisConnection, RedisError, RedisReply, RedisServer};
use mqueue::handler::Verdict;
use mqueue::proto::Message;

/// Bytes of a command, which its last message may exceed.
const COMMAND_BYTES: usize = 4 << 20;

/// A list, and the connection to its server.
#[derive(Debug)]
pub(super) struct RedisPusher {
    server: RedisServer,
    /// `LPUSH` or `RPUSH`.
    command: &'static str,
    /// The connection while it is not in use. One whose use was cancelled is never used again.
    idle: Mutex<Option<RedisConnection>>,
}

impl RedisPusher {
    /// Makes a pusher that begins with this connection.
    pub(super) fn new(server: RedisServer, command: &'static str, first: RedisConnection) -> Self {
        Self { server, command, idle: Mutex::new(Some(first)) }
    }

    /// Pushes bodies; returns the verdict of each.
    async fn push(&self, messages: &[Message]) -> Result<Vec<Verdict>, RedisError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut redis = match idle {
            Some(redis) => redis,
            None => self.server.connect().await?,
        };
        let mut chunks = Vec::new();
        let mut rest = messages;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|message| {
                let fits = bytes < COMMAND_BYTES;
                bytes += message.body.len();
                fits
            });
            let (chunk, others) = rest.split_at(fits.count());
            let mut command: Vec<&[u8]> = vec![self.command.as_bytes(), self.server.list.key.as_bytes()];
            command.extend(chunk.iter().map(|message| &message.body[..]));
            redis.add(&command);
            chunks.push(chunk.len());
            rest = others;
        }
        let mut verdicts = Vec::with_capacity(messages.len());
        for (chunk, reply) in chunks.into_iter().zip(redis.run().await?) {
            let verdict = match reply {
                RedisReply::Number(_) => Verdict::done(),
                RedisReply::Error(error) => unavailable(&redis.refused(error)),
                _ => return Err(redis.malformed()),
            };
            verdicts.resize(verdicts.len() + chunk, verdict);
        }
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(redis);
        Ok(verdicts)
    }
}

impl PassOn for RedisPusher {
    async fn try_pass(&self, messages: Vec<Message>) -> Vec<Verdict> {
        let verdict = match self.push(&messages).await {
            Ok(verdicts) => return verdicts,
            Err(error) => unavailable(&error),
        };
        vec![verdict; messages.len()]
    }
}

fn unavailable(error: &RedisError) -> Verdict {
    Verdict::Unavailable { after: None, why: error.to_string() }
}
