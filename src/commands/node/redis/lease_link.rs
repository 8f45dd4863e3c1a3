//! A connection for the lease and the events: commands in, replies out. It lives until it is lost.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::scripts::{ACQUIRE, PUSH_EVENT, RELEASE, RENEW};
use super::store::LeaseKeys;
use crate::commands::common::redis::{RedisConnection, RedisError, RedisReply, RedisServer};

/// First and longest pause before Redis is tried again.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(50);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Time for the commands that were sent last.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The most commands of a pipeline.
const MAX_PIPELINE: usize = 100;

/// A command about the lease. An owner's name is used for one try to take the lease.
#[derive(Debug, Clone)]
pub(super) enum LeaseCommand {
    Acquire { owner: String, known_epoch: u64 },
    Renew { owner: String, number: u64, beat: Bytes },
    Release { owner: String, beat: Bytes },
    PushEvent { owner: String, event: String },
}

/// The result of a command, or a change of the connection.
#[derive(Debug)]
pub(super) enum LeaseReport {
    Connected,
    /// The connection is lost, or never was; this is the last report.
    Lost(RedisError),
    /// The lease was taken at `now`, in milliseconds since 1970.
    Acquired {
        owner: String,
        epoch: u64,
        now: u64,
    },
    /// Another owner has the lease for this long; `None` if it has no end.
    Taken {
        rest: Option<Duration>,
    },
    Renewed {
        owner: String,
        number: u64,
    },
    /// The lease is another owner's.
    NotOwner {
        owner: String,
    },
    EventPushed,
    /// The event was refused: the lease is another owner's, and this is its epoch.
    EventRefused {
        owner: String,
        epoch: u64,
    },
    /// Redis refused the command.
    Failed {
        command: LeaseCommand,
        error: RedisError,
    },
}

/// The two ends of the task that has the connection.
#[derive(Debug)]
pub(super) struct LeaseLink {
    commands: Option<UnboundedSender<LeaseCommand>>,
    reports: UnboundedReceiver<LeaseReport>,
    task: JoinHandle<()>,
}

impl LeaseLink {
    /// Uses an open connection, or opens one after a pause.
    pub(super) fn new(server: RedisServer, keys: LeaseKeys, open: Option<RedisConnection>, pause: Duration) -> Self {
        let (commands, incoming) = unbounded_channel();
        let (outgoing, reports) = unbounded_channel();
        let task = tokio::spawn(async move {
            let lost = match serve(server, keys, open, pause, incoming, &outgoing).await {
                Ok(()) => return,
                Err(error) => error,
            };
            let _ = outgoing.send(LeaseReport::Lost(lost));
        });
        Self { commands: Some(commands), reports, task }
    }

    pub(super) fn send(&self, command: LeaseCommand) {
        // a link that has ended has said so
        self.commands.iter().for_each(|commands| drop(commands.send(command.clone())));
    }

    /// Waits for the next report. Cancel-safe.
    pub(super) async fn next(&mut self) -> LeaseReport {
        match self.reports.recv().await {
            Some(report) => report,
            None => std::future::pending().await,
        }
    }

    /// Ends the connection after all commands have been sent.
    pub(super) async fn close(mut self) {
        self.commands = None;
        let _ = timeout(CLOSE_TIMEOUT, &mut self.task).await;
    }
}

impl Drop for LeaseLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    server: RedisServer,
    keys: LeaseKeys,
    open: Option<RedisConnection>,
    pause: Duration,
    mut commands: UnboundedReceiver<LeaseCommand>,
    reports: &UnboundedSender<LeaseReport>,
) -> Result<(), RedisError> {
    let mut redis = match open {
        Some(redis) => redis,
        None => {
            sleep(pause).await;
            server.connect().await?
        }
    };
    let _ = reports.send(LeaseReport::Connected);
    let mut batch = Vec::new();
    while commands.recv_many(&mut batch, MAX_PIPELINE).await > 0 {
        for command in &batch {
            add(&mut redis, &keys, command);
        }
        let replies = redis.run().await?;
        for (command, reply) in batch.drain(..).zip(replies) {
            let _ = reports.send(report(&redis, command, reply)?);
        }
    }
    Ok(())
}

fn add(redis: &mut RedisConnection, keys: &LeaseKeys, command: &LeaseCommand) {
    let millis = keys.lease.as_millis().to_string();
    let channel = keys.channel.as_bytes();
    match command {
        LeaseCommand::Acquire { owner, known_epoch } => {
            let arguments = [owner.as_bytes(), millis.as_bytes(), &known_epoch.to_string().into_bytes()];
            redis.add_script(ACQUIRE, &[&keys.lock, &keys.epoch], &arguments);
        }
        LeaseCommand::Renew { owner, beat, .. } => {
            redis.add_script(RENEW, &[&keys.lock], &[owner.as_bytes(), millis.as_bytes(), channel, beat]);
        }
        LeaseCommand::Release { owner, beat } => {
            redis.add_script(RELEASE, &[&keys.lock], &[owner.as_bytes(), channel, beat]);
        }
        LeaseCommand::PushEvent { owner, event } => {
            let names = [keys.lock.as_str(), &keys.queue, &keys.epoch];
            redis.add_script(PUSH_EVENT, &names, &[owner.as_bytes(), event.as_bytes()]);
        }
    }
}

/// Reads the reply to a command.
fn report(redis: &RedisConnection, command: LeaseCommand, reply: RedisReply) -> Result<LeaseReport, RedisError> {
    if let RedisReply::Error(error) = reply {
        return Ok(LeaseReport::Failed { command, error: redis.refused(error) });
    }
    let numbers = match reply {
        RedisReply::Number(number) => vec![number],
        RedisReply::List(list) => list.into_iter().filter_map(|item| item.number()).collect(),
        _ => Vec::new(),
    };
    let positive = |number: i64| u64::try_from(number).unwrap_or(0);
    Ok(match (command, numbers.as_slice()) {
        (LeaseCommand::Acquire { .. }, [0, rest]) => {
            LeaseReport::Taken { rest: u64::try_from(*rest).ok().map(Duration::from_millis) }
        }
        (LeaseCommand::Acquire { owner, .. }, [epoch, now]) => {
            LeaseReport::Acquired { owner, epoch: positive(*epoch), now: positive(*now) }
        }
        (LeaseCommand::Renew { owner, .. }, [0]) => LeaseReport::NotOwner { owner },
        (LeaseCommand::Renew { owner, number, .. }, [_]) => LeaseReport::Renewed { owner, number },
        (LeaseCommand::Release { owner, .. }, [_]) => LeaseReport::NotOwner { owner },
        (LeaseCommand::PushEvent { owner, .. }, [0, epoch]) => {
            LeaseReport::EventRefused { owner, epoch: positive(*epoch) }
        }
        (LeaseCommand::PushEvent { .. }, [_, _]) => LeaseReport::EventPushed,
        _ => return Err(redis.malformed()),
    })
}
